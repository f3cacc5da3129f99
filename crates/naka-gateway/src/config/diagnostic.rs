//! What is wrong, where, and what to write instead.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    ops::{Deref, Range},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, renderer::DecorStyle};
use serde_json::{Value, json};

/// More bytes are not shown in one piece.
const FAR: usize = 16 << 10;

/// The text of one file, and where its lines begin.
pub(crate) struct Source {
    path: Arc<PathBuf>,
    text: Arc<str>,
    lines: Vec<usize>,
    /// Pieces of it that are secrets, and so are not shown.
    hidden: Mutex<Vec<Range<usize>>>,
}

impl Source {
    pub(crate) fn new(path: impl Into<PathBuf>, text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { path: Arc::new(path.into()), text, lines, hidden: Mutex::default() }
    }

    /// The name it was read under.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its whole text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Shows nothing of this piece of it from now on.
    pub(crate) fn hide(&self, range: Range<usize>) {
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        if !hidden.contains(&range) {
            hidden.push(range); // It is said again with each reading, and this may outlive many.
        }
    }

    /// Whether all of this is hidden.
    pub(crate) fn hides(&self, range: &Range<usize>) -> bool {
        let hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        hidden.iter().any(|it| it.start <= range.start && range.end <= it.end)
    }

    /// A piece of it, with stars for what is hidden.
    pub(crate) fn shown(&self, range: Range<usize>) -> Cow<'_, str> {
        let hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let is_hidden = |at: usize| hidden.iter().any(|range| range.contains(&at));
        let text = &self.text[range.clone()];
        if !range.clone().any(is_hidden) {
            return text.into();
        }
        // A star for each byte, so that what stands behind keeps its place.
        let starred = text.char_indices().map(|(at, c)| {
            let is_hidden = is_hidden(range.start + at) && c != '\n';
            if is_hidden { "*".repeat(c.len_utf8()) } else { c.to_string() }
        });
        starred.collect::<Vec<_>>().concat().into()
    }

    /// The index of the line that holds `offset`.
    pub(crate) fn line_index(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    /// The bytes of a line, without its end.
    fn line_range(&self, index: usize) -> Range<usize> {
        let start = self.lines[index];
        let end = self.lines.get(index + 1).map_or(self.text.len(), |next| next - 1);
        start..end
    }

    /// The nearest place at or below `offset` where a character begins.
    fn floor(&self, offset: usize) -> usize {
        let mut at = offset.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A piece of a line of a file.
#[derive(Clone)]
pub struct Place {
    source: Arc<Source>,
    start: usize,
    end: usize,
}

impl Place {
    /// Cut to its first line: nobody wants half a file underlined.
    pub(crate) fn new(source: Arc<Source>, range: Range<usize>) -> Self {
        let start = source.floor(range.start);
        let line = source.line_range(source.line_index(start));
        let cut = source.floor(range.end.clamp(start, line.end.max(start)));
        let end = start + source.text[start..cut].trim_end().len();
        Self { source, start, end }
    }

    /// The file.
    pub fn file(&self) -> &Path {
        self.source.path()
    }

    /// Its line, counted from 1.
    pub fn line(&self) -> usize {
        self.source.line_index(self.start) + 1
    }

    /// The characters before it in its line, and one more.
    pub fn column(&self) -> usize {
        self.column_of(self.start)
    }

    /// The column after its last character.
    pub fn end_column(&self) -> usize {
        self.column_of(self.end)
    }

    fn column_of(&self, offset: usize) -> usize {
        let line = self.source.line_range(self.source.line_index(self.start));
        self.source.text[line.start..offset].chars().count() + 1
    }

    /// Whether both can be shown in one piece of one file.
    fn is_near(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.source, &other.source) && self.start.abs_diff(other.start) < FAR
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file().display(), self.line(), self.column())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing of this takes effect.
    Error,
    /// It takes effect, and is probably not what was meant.
    Warning,
}

/// What sort of mistake it is; scripts may rely on the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A file could not be read, or `include` could not be followed.
    File,
    /// It is not YAML that we read.
    Syntax,
    /// It is larger than we read.
    TooLarge,
    /// A key that we do not know.
    UnknownKey,
    /// A key or a name that is there twice.
    Duplicate,
    /// A part of the grammar that is planned and not there yet.
    NotBuilt,
    /// A list where text was expected, and the like.
    Shape,
    /// A value that is not of its kind, or out of its range.
    Value,
    /// Something that has to be there is not.
    Missing,
    /// A name that nothing has.
    UnknownName,
    /// Two things that exclude one another.
    Conflict,
    /// Two routes that can take the same request, or one that no table can hold.
    Routes,
    /// A test of the file's own that does not hold.
    Test,
    /// A way that leads back to where it began.
    Loop,
    /// Something that nobody uses, or that has no effect.
    Unused,
    /// Something that lets in whoever can reach it.
    Exposed,
}

impl Code {
    /// Its name, as shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Syntax => "syntax",
            Self::TooLarge => "too-large",
            Self::UnknownKey => "unknown-key",
            Self::Duplicate => "duplicate",
            Self::NotBuilt => "not-built",
            Self::Shape => "shape",
            Self::Value => "value",
            Self::Missing => "missing",
            Self::UnknownName => "unknown-name",
            Self::Conflict => "conflict",
            Self::Routes => "routes",
            Self::Test => "test",
            Self::Loop => "loop",
            Self::Unused => "unused",
            Self::Exposed => "exposed",
        }
    }
}

/// One mistake.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What sort of mistake it is.
    pub code: Code,
    /// One line that says what is wrong, with the path of keys to it.
    pub message: String,
    /// The offending text.
    pub place: Place,
    /// What stands under the offending text; may be empty.
    pub label: String,
    /// What to write.
    pub help: Option<String>,
    /// Other places that have to do with it, and what they have to do with it.
    pub related: Vec<(Place, String)>,
    /// The file is wrong whatever stands in the others.
    pub(crate) alone: bool,
}

impl Diagnostic {
    pub(crate) fn error(code: Code, place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            place,
            label: String::new(),
            help: None,
            related: Vec::new(),
            alone: true,
        }
    }

    pub(crate) fn warning(&mut self) -> &mut Self {
        self.severity = Severity::Warning;
        self
    }

    pub(crate) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = label.into();
        self
    }

    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn related(&mut self, place: Place, label: impl Into<String>) -> &mut Self {
        self.related.push((place, label.into()));
        self
    }

    /// It depends on what stands in other files too.
    pub(crate) fn combined(&mut self) -> &mut Self {
        self.alone = false;
        self
    }

    /// As JSON: what the fields say, places as file, line and column.
    pub fn to_json(&self) -> Value {
        let related: Vec<_> = self.related.iter().map(|(place, label)| place_json(place, label)).collect();
        let mut it = place_json(&self.place, &self.label);
        it["severity"] = json!(if self.severity == Severity::Error { "error" } else { "warning" });
        it["code"] = json!(self.code.as_str());
        it["message"] = json!(self.message);
        it["help"] = json!(self.help);
        it["related"] = json!(related);
        it
    }

    fn render(&self, renderer: &Renderer) -> String {
        let level = if self.severity == Severity::Error { Level::ERROR } else { Level::WARNING };
        let mut group = Group::with_title(level.primary_title(self.message.as_str()).id(self.code.as_str()));
        let (near, far): (Vec<_>, Vec<_>) =
            self.related.iter().partition(|(place, _)| self.place.is_near(place));
        group = shown(group, &self.place, self.label.as_str(), &near);
        for (place, label) in far {
            group = shown(group, place, label, &[]);
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

/// Adds the lines of a place, with the places near it.
fn shown<'a>(group: Group<'a>, place: &'a Place, label: &'a str, near: &[&'a (Place, String)]) -> Group<'a> {
    if place.source.line_range(place.source.line_index(place.start)).len() > FAR {
        let origin = Origin::path(place.source.path.to_string_lossy());
        return group.element(origin.line(place.line()).char_column(place.column()));
    }
    let places: Vec<_> = std::iter::once(place).chain(near.iter().map(|(other, _)| other)).collect();
    let first = places.iter().copied().min_by_key(|place| place.start).unwrap_or(place);
    let snippet = lines_of(&places).annotation(annotation(place, first, label, true));
    group.element(
        near.iter().fold(snippet, |snippet, (other, label)| {
            snippet.annotation(annotation(other, first, label, false))
        }),
    )
}

fn place_json(place: &Place, label: &str) -> Value {
    json!({
        "file": place.file().display().to_string(),
        "line": place.line(),
        "column": place.column(),
        "end_column": place.end_column(),
        "label": label,
    })
}

/// The lines from the first to the last of these places, which are in one file.
fn lines_of<'a>(places: &[&'a Place]) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let source = &places[0].source;
    let lines = places.iter().map(|place| source.line_index(place.start));
    let (first, last) = lines.fold((usize::MAX, 0), |(low, high), line| (low.min(line), high.max(line)));
    let text = source.shown(source.line_range(first).start..source.line_range(last).end);
    Snippet::source(text).line_start(first + 1).path(source.path.to_string_lossy())
}

fn annotation<'a>(
    place: &Place,
    first: &Place,
    label: &'a str,
    primary: bool,
) -> annotate_snippets::Annotation<'a> {
    let base = first.source.line_range(first.source.line_index(first.start)).start;
    let kind = if primary { AnnotationKind::Primary } else { AnnotationKind::Context };
    let annotation = kind.span(place.start - base..place.end - base);
    if label.is_empty() { annotation } else { annotation.label(label) }
}

/// Mistakes, in the order of files and lines.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|it| it.severity == Severity::Error)
    }

    /// For people: each with its lines, the offending text underlined, and what to write.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(if color { DecorStyle::Unicode } else { DecorStyle::Ascii });
        let mut text = String::new();
        for it in &self.0 {
            let _ = writeln!(text, "{}\n", it.render(&renderer));
        }
        text
    }

    /// For programs: a list of objects.
    pub fn to_json(&self) -> Value {
        Value::Array(self.0.iter().map(Diagnostic::to_json).collect())
    }

    pub(crate) fn new(mut found: Vec<Diagnostic>) -> Self {
        let key = |it: &Diagnostic| (it.place.file().to_owned(), it.place.start, it.message.clone());
        found.sort_by_cached_key(key);
        found.dedup_by_key(|it| key(it));
        Self(found)
    }
}

impl Deref for Diagnostics {
    type Target = [Diagnostic];
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}
