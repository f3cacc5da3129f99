//! Files: the entry, what it includes, and what is held back.
//!
//! 1. The entry file wrong by itself: an error, whatever the others say.
//! 2. An included file wrong by itself: its last accepted text stands in for it, if there is one
//!    and `gateway.reload.strict` is not set; otherwise an error.
//! 3. The files wrong together: an error.
//!
//! # Limits
//! A file has at most [`MAX_BYTES`], a configuration at most [`MAX_FILES`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use naka::clock::{Now, WallClock};

use super::{
    check::{self, File, Known, Unclear, check},
    checked::{Config, scenario::Scenario},
    decode::{Cx, Decode as _},
    diagnostic::{Code, Diagnostic, Diagnostics, Severity, Source},
    documents::Documents,
    node::{self, Span},
    outline::Outline,
    raw::{RawFile, RawPolicy, RawRuleKeys, RawScenario},
};
use crate::custom::Kinds;

const MAX_BYTES: u64 = 16 << 20;
const MAX_FILES: usize = 1000;

/// A configuration, and the texts it was made of.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The texts that are in effect; the next `load` may hold them.
    pub sources: Sources,
    /// What takes effect, and is probably not what was meant.
    pub warnings: Diagnostics,
    /// Included files whose last accepted version is in effect.
    pub held: Vec<Held>,
    /// What of it was not known from before.
    pub fresh: Fresh,
}

/// How much a reading had to do: what is as it was is neither read nor checked again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    /// Files whose text was read into values.
    pub files: usize,
    /// Routes that were checked.
    pub routes: usize,
}

/// An included file that is wrong by itself, so that its last accepted version is in effect.
#[derive(Clone, Debug)]
pub struct Held {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub diagnostics: Diagnostics,
}

/// The last accepted text of each file, what was read out of it, and what to watch; cheap to clone.
#[derive(Clone, Debug)]
pub struct Sources(Arc<Texts>);

#[derive(Debug)]
struct Texts {
    files: BTreeMap<PathBuf, Arc<str>>,
    documents: BTreeSet<PathBuf>,
    /// Lists of endpoints that were not wrong, or held.
    lists: BTreeSet<PathBuf>,
    dirs: BTreeSet<PathBuf>,
    /// Files that need not be read again as long as they say what they say.
    read: BTreeMap<PathBuf, FileRead>,
    /// Routes that need not be checked again.
    known: Known,
    /// Kinds of policies beside those that are built in.
    kinds: Kinds,
}

/// A file of which nothing was reported when it was read.
#[derive(Clone, Debug)]
struct FileRead {
    /// Its number in `Cx`, which all places in `raw` have.
    number: usize,
    source: Arc<Source>,
    raw: Arc<RawFile>,
}

impl Sources {
    /// All files, the entry among them.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.files.keys().map(PathBuf::as_path)
    }

    /// All directories in which a file may change, appear or go.
    pub fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.0.dirs.iter().map(PathBuf::as_path)
    }

    /// All that it takes to notice a change.
    pub fn watched(&self) -> Watched {
        let files = self.0.files.keys().chain(&self.0.documents).cloned().collect();
        Watched { files, dirs: self.0.dirs.clone(), texts: 0 }
    }

    /// The texts alone: what was made of them is read again, should they come back.
    #[must_use]
    pub fn texts_only(&self) -> Self {
        let Texts { files, documents, lists, dirs, kinds, .. } = &*self.0;
        Self(Arc::new(Texts {
            files: files.clone(),
            documents: documents.clone(),
            lists: lists.clone(),
            dirs: dirs.clone(),
            read: BTreeMap::new(),
            known: Known::default(),
            kinds: kinds.clone(),
        }))
    }

    /// Whether the files themselves say the same, whatever becomes of those that they name.
    pub fn has_texts_of(&self, other: &Self) -> bool {
        self.0.files == other.0.files
    }

    /// The kinds of policies it was read with, beside those that are built in.
    pub fn kinds(&self) -> &Kinds {
        &self.0.kinds
    }

    /// The text of a file that is in effect.
    pub fn text(&self, file: &Path) -> Option<&str> {
        self.0.files.get(file).map(|text| &**text)
    }
}

impl Sources {
    /// What the texts say, key by key.
    pub fn outline(&self) -> Outline {
        let text = |(path, text): (&PathBuf, &Arc<str>)| Text::new(path.clone(), Ok(Arc::clone(text)));
        let files = Files {
            texts: self.0.files.iter().map(text).collect(),
            wrong_includes: Vec::new(),
            dirs: BTreeSet::new(),
            documents: Rc::default(),
            kinds: self.0.kinds.clone(),
        };
        // Reading it finds out what is secret.
        let (mut cx, mut outline) = (Attempt::of(&files, &BTreeMap::new()).cx, Outline::default());
        for number in 0..files.texts.len() {
            let source = cx.source(number);
            if let Some(node) = node::parse(&source, number, &mut cx) {
                outline.add::<RawFile>(&node, &cx);
            }
        }
        outline
    }
}

/// Where a change would be noticed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Files that are read.
    pub files: BTreeSet<PathBuf>,
    /// Folders in which a file may change, appear or go.
    pub dirs: BTreeSet<PathBuf>,
    /// A hash of what the files said, also if that was wrong; documents are not in it.
    pub texts: u64,
}

impl Watched {
    /// The folders.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.dirs.iter().map(PathBuf::as_path)
    }

    /// With what another one has.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.files.extend(other.files.iter().cloned());
        self.dirs.extend(other.dirs.iter().cloned());
        self
    }
}

/// Reads the entry file and what it includes, as one configuration.
pub fn load(entry: &Path, previous: Option<&Sources>) -> Result<Loaded, Diagnostics> {
    look(entry, previous, &Kinds::default(), |_, _| Vec::new()).1
}

/// As [`load`], and tells where it looked, also if what it found is wrong: there it can be mended.
/// `unclear` adds what can be said of the routes if something else is wrong.
pub(crate) fn look(
    entry: &Path,
    previous: Option<&Sources>,
    kinds: &Kinds,
    unclear: Unclear,
) -> (Watched, Result<Loaded, Diagnostics>) {
    let dir = folder(entry);
    let mut files = Files {
        texts: vec![read_from(entry)],
        wrong_includes: Vec::new(),
        dirs: BTreeSet::from([dir.to_owned()]),
        documents: Rc::new(Documents::after(previous.map(|it| it.0.lists.clone()).unwrap_or_default())),
        kinds: kinds.clone(),
    };
    let mut read = previous.map(|it| it.0.read.clone()).unwrap_or_default();
    let mut alone = Attempt::of(&files, &read);
    read.append(&mut alone.read);
    let include = alone.files[0].raw.as_ref().and_then(|raw| raw.include.as_ref());
    let mut paths = BTreeSet::new();
    for pattern in include.iter().flat_map(|it| it.value.0.iter()) {
        match expand(dir, &pattern.value, &mut files.dirs) {
            Ok(found) => paths.extend(found),
            Err((message, help)) => {
                let it = alone.cx.error(Code::File, pattern.span, message).help(help);
                files.wrong_includes.push(it.clone());
            }
        }
        if let (Some(path), false) = (paths.iter().nth(MAX_FILES), files.wrong_includes.len() > MAX_FILES) {
            let message = format!("more than {MAX_FILES} files, `{}` among them", path.display());
            files.wrong_includes.push(alone.cx.error(Code::TooLarge, pattern.span, message).clone());
            break;
        }
    }
    paths.remove(entry.strip_prefix(".").unwrap_or(entry));
    paths.remove(entry);
    files.texts.extend(paths.iter().take(MAX_FILES).map(|path| read_from(path)));
    let names = files.texts.iter().map(|text| text.path.clone());
    let mut watched = Watched { files: names.collect(), dirs: files.dirs.clone(), texts: files.texts_hash() };
    let documents = Rc::clone(&files.documents);
    let checked = files.check(dir, previous, &read, unclear);
    documents.each(|path, _| {
        watched.files.insert(path.to_owned());
        watched.dirs.insert(folder(path).to_owned());
    });
    (watched, checked)
}

/// What was read before, once more; documents are as they are now.
pub(crate) fn again(entry: &Path, sources: &Sources, unclear: Unclear) -> Result<Loaded, Diagnostics> {
    let text = |(path, text): (&PathBuf, &Arc<str>)| Text::new(path.clone(), Ok(Arc::clone(text)));
    let (first, others) = sources.0.files.iter().partition::<Vec<_>, _>(|(path, _)| *path == entry);
    let files = Files {
        texts: first.into_iter().chain(others).map(text).collect(),
        wrong_includes: Vec::new(),
        dirs: sources.0.dirs.clone(),
        documents: Rc::new(Documents::after(sources.0.lists.clone())),
        kinds: sources.0.kinds.clone(),
    };
    files.check(folder(entry), None, &BTreeMap::new(), unclear)
}

/// Reads one text as a whole configuration; `include` is not followed.
pub fn parse_str(name: &str, text: &str) -> Result<(Config, Diagnostics), Diagnostics> {
    let texts = vec![Text::new(name.into(), Ok(text.into()))];
    let (wrong_includes, dirs) = (Vec::new(), BTreeSet::new());
    let files = Files { texts, wrong_includes, dirs, documents: Rc::default(), kinds: Kinds::default() };
    let mut at = Attempt::of(&files, &BTreeMap::new());
    let config = check(&at.files, |_, _| Vec::new(), now_s(), &Known::default(), &mut at.cx);
    let config = config.map(|(config, _)| Config { hash: files.hash(Path::new("")), ..config });
    let found = at.cx.finish();
    config.map(|config| (config, found.clone())).ok_or(found)
}

/// Reads a scenario for `naka simulate`.
pub fn read_scenario(path: &Path) -> Result<Scenario, Diagnostics> {
    let it = read_from(path);
    let source = Arc::new(Source::new(path, it.said.clone().unwrap_or_default()));
    let mut cx = Cx::new(vec![Arc::clone(&source)], Rc::default(), Kinds::default());
    if let Err(why) = &it.said {
        let start = Span::new(0, 0..0);
        cx.error(Code::File, start, format!("{}: {why}", path.display()))
            .help("give the path of a scenario that is there");
        return Err(cx.finish());
    }
    let raw = node::parse(&source, 0, &mut cx).and_then(|node| RawScenario::decode(&node, &mut cx));
    let scenario = raw.and_then(|raw| check::scenario::scenario(&raw, &mut cx));
    scenario.ok_or_else(|| cx.finish())
}

/// The JSON Schema (2020-12) of a scenario.
pub fn scenario_schema() -> serde_json::Value {
    let mut it = RawScenario::schema();
    it["$schema"] = SCHEMA.into();
    it["title"] = "naka scenario".into();
    it
}

const SCHEMA: &str = "https://json-schema.org/draft/2020-12/schema";

/// Whether this kind of policy needs nobody to add it.
pub(crate) fn is_built_in(kind: &str) -> bool {
    RawPolicy::SHAPE.fields.iter().any(|field| field.key == kind)
        || RawPolicy::SHAPE.not_built.contains(&kind)
}

/// As [`schema`], with these kinds of policies.
pub fn schema_with(kinds: &Kinds) -> serde_json::Value {
    let mut it = schema();
    let policy = &mut it["properties"]["policies"]["additionalProperties"]["properties"];
    for kind in kinds.iter() {
        policy[kind.name] = kind.schema();
    }
    it
}

/// The JSON Schema (2020-12) of a whole file.
pub fn schema() -> serde_json::Value {
    let mut it = RawFile::schema();
    it["$schema"] = SCHEMA.into();
    it["title"] = "naka".into();
    it["$defs"] = serde_json::json!({"rule": RawRuleKeys::schema()});
    it
}

/// A file as it was found: its text, or why it has none.
#[derive(Clone)]
struct Text {
    path: PathBuf,
    said: Result<Arc<str>, String>,
    /// Of what it says, or of why it says nothing: that is asked for more than once.
    hash: u64,
}

impl Text {
    fn new(path: PathBuf, said: Result<Arc<str>, String>) -> Self {
        let mut hash = Hash::default();
        hash.add(said.as_deref().unwrap_or_else(|why| why).as_bytes());
        Self { path, said, hash: hash.0 }
    }
}

/// What is on the disk, or was.
struct Files {
    texts: Vec<Text>,
    wrong_includes: Vec<Diagnostic>,
    dirs: BTreeSet<PathBuf>,
    documents: Rc<Documents>,
    kinds: Kinds,
}

/// All files, read as far as each goes by itself.
struct Attempt {
    cx: Cx,
    files: Vec<File>,
    read: BTreeMap<PathBuf, FileRead>,
}

impl Attempt {
    /// Reads what was not read before.
    fn of(on_disk: &Files, before: &BTreeMap<PathBuf, FileRead>) -> Self {
        let numbers = numbers(&on_disk.texts, before);
        let source = |it: &Text| Arc::new(Source::new(it.path.clone(), it.said.clone().unwrap_or_default()));
        let known = |it: &Text, number: usize| {
            let known = before.get(&it.path).filter(|known| known.number == number)?;
            it.said.as_ref().is_ok_and(|text| **text == *known.source.text()).then_some(known)
        };
        let nothing = Arc::new(Source::new("", ""));
        let mut sources = vec![nothing; numbers.iter().max().map_or(0, |last| last + 1)];
        for (it, number) in on_disk.texts.iter().zip(&numbers) {
            sources[*number] = known(it, *number).map_or_else(|| source(it), |it| Arc::clone(&it.source));
        }
        let mut cx = Cx::new(sources, Rc::clone(&on_disk.documents), on_disk.kinds.clone());
        cx.adopt(&on_disk.wrong_includes);
        let (mut files, mut read) = (Vec::with_capacity(on_disk.texts.len()), BTreeMap::new());
        for (it, number) in on_disk.texts.iter().zip(numbers) {
            if let Some(known) = known(it, number) {
                files.push(File { number, raw: Some(Arc::clone(&known.raw)) });
                read.insert(it.path.clone(), known.clone());
                continue;
            }
            let found = cx.count();
            let raw = read_file(it, number, &mut cx).map(Arc::new);
            if let Some(raw) = raw.as_ref().filter(|_| cx.count() == found) {
                let one = FileRead { number, source: cx.source(number), raw: Arc::clone(raw) };
                read.insert(it.path.clone(), one);
            }
            files.push(File { number, raw });
        }
        Self { cx, files, read }
    }

    fn is_strict(&self) -> bool {
        let gateway = self.files[0].raw.as_ref().and_then(|raw| raw.gateway.as_ref());
        gateway.and_then(|it| it.value.reload.as_ref()).is_some_and(|it| it.value.strict())
    }
}

/// Each file keeps its number as long as it is there, so that what was read of it stays true. The entry has 0.
fn numbers(texts: &[Text], before: &BTreeMap<PathBuf, FileRead>) -> Vec<usize> {
    let kept = texts.iter().skip(1).map(|it| before.get(&it.path).map(|known| known.number));
    let kept = kept.map(|number| number.filter(|number| *number > 0)).collect::<Vec<_>>();
    let taken = kept.iter().flatten().copied().collect::<BTreeSet<_>>();
    let mut free = (1..).filter(|number| !taken.contains(number));
    let others = kept.into_iter().map(|number| number.or_else(|| free.next()).unwrap_or_default());
    std::iter::once(0).chain(others).take(texts.len()).collect()
}

fn read_file(it: &Text, number: usize, cx: &mut Cx) -> Option<RawFile> {
    match &it.said {
        Ok(_) => {
            let source = cx.source(number);
            node::parse(&source, number, cx).and_then(|node| RawFile::decode(&node, cx))
        }
        Err(why) => {
            let start = Span::new(number, 0..0);
            let help = if number == 0 {
                "give the path of a file that is there: `-c FILE`; the README shows the smallest one"
            } else {
                "an `include:` names it: correct that, or make the file"
            };
            cx.error(Code::File, start, format!("{}: {why}", it.path.display())).help(help);
            None
        }
    }
}

impl Files {
    /// As long as files are wrong by themselves that can be held, holds them and checks again.
    fn check(
        mut self,
        dir: &Path,
        previous: Option<&Sources>,
        read: &BTreeMap<PathBuf, FileRead>,
        unclear: Unclear,
    ) -> Result<Loaded, Diagnostics> {
        let mut held: Vec<Held> = Vec::new();
        let known = previous.map(|it| it.0.known.clone()).unwrap_or_default();
        loop {
            let mut at = Attempt::of(&self, read);
            let previous = previous.filter(|_| !at.is_strict());
            let config = check(&at.files, unclear, now_s(), &known, &mut at.cx);
            let found = at.cx.finish();
            if let Some((config, known)) = config {
                let config = Config { hash: self.hash(dir), ..config };
                self.documents.each(|path, _| _ = self.dirs.insert(folder(path).to_owned()));
                let mut documents = BTreeSet::new();
                self.documents.each(|path, _| _ = documents.insert(path.to_owned()));
                let files = self.texts.into_iter().map(|it| (it.path, it.said.unwrap_or_default())).collect();
                let lists = self.documents.lists();
                let read_before = |(path, it): &(&PathBuf, &FileRead)| {
                    let before = previous.and_then(|previous| previous.0.read.get(*path));
                    before.is_some_and(|before| Arc::ptr_eq(&before.raw, &it.raw))
                };
                let fresh = Fresh {
                    files: at.files.len() - at.read.iter().filter(read_before).count(),
                    routes: known.fresh(),
                };
                let (dirs, kinds) = (self.dirs, self.kinds);
                let texts = Texts { files, documents, lists, dirs, read: at.read, known, kinds };
                let sources = Sources(Arc::new(texts));
                return Ok(Loaded { config, sources, warnings: found, held, fresh });
            }
            let more = hold_back(&mut self.texts, &found, &held, previous);
            if more.is_empty() {
                let before = held.into_iter().flat_map(|it| it.diagnostics);
                return Err(Diagnostics::new(before.chain(found).collect()));
            }
            held.extend(more);
        }
    }

    fn texts_hash(&self) -> u64 {
        let mut hash = Hash::default();
        for it in &self.texts {
            hash.add_file(&it.path, it.hash);
        }
        hash.0
    }

    fn hash(&self, dir: &Path) -> u64 {
        let mut hash = Hash::default();
        for it in &self.texts {
            hash.add_file(it.path.strip_prefix(dir).unwrap_or(&it.path), it.hash);
        }
        self.documents.each(|path, bytes| {
            let mut content = Hash::default();
            content.add(bytes);
            hash.add_file(path.strip_prefix(dir).unwrap_or(path), content.0);
        });
        hash.0
    }
}

/// The time of day, in seconds since 1970: what has ended by then has no effect.
fn now_s() -> u64 {
    WallClock::system().unix_s(Now::read())
}

/// Puts the last accepted text in the place of each included file that is wrong by itself.
fn hold_back(
    texts: &mut [Text],
    found: &Diagnostics,
    held: &[Held],
    previous: Option<&Sources>,
) -> Vec<Held> {
    let mut it = Vec::new();
    for text in texts.iter_mut().skip(1) {
        let wrong =
            |it: &&Diagnostic| it.severity == Severity::Error && it.alone && it.place.file() == text.path;
        let diagnostics: Vec<_> = found.iter().filter(wrong).cloned().collect();
        let accepted = previous.and_then(|previous| previous.0.files.get(&text.path));
        let (false, Some(accepted)) = (diagnostics.is_empty(), accepted) else { continue };
        if held.iter().any(|it| it.file == text.path) {
            continue;
        }
        *text = Text::new(text.path.clone(), Ok(Arc::clone(accepted)));
        it.push(Held { file: text.path.clone(), diagnostics: Diagnostics::new(diagnostics) });
    }
    it
}

fn read_from(path: &Path) -> Text {
    Text::new(path.to_owned(), read_text(path))
}

fn read_text(path: &Path) -> Result<Arc<str>, String> {
    let file = fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    text_of(file)
}

/// A file's text, if it may be that of a configuration.
pub(crate) fn text_of(file: impl Read) -> Result<Arc<str>, String> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("larger than {} MiB", MAX_BYTES >> 20));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()))?;
    Ok(text.into())
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

/// The files that a pattern names, and the directory to watch for them.
fn expand(
    dir: &Path,
    pattern: &str,
    dirs: &mut BTreeSet<PathBuf>,
) -> Result<Vec<PathBuf>, (String, &'static str)> {
    let whole = if dir == Path::new(".") { PathBuf::from(pattern) } else { dir.join(pattern) };
    let parent = folder(&whole);
    let Some(name) = whole.file_name().and_then(|name| name.to_str()) else {
        return Err((format!("`{pattern}` names no file"), "write `routes.d/*.yaml`"));
    };
    if parent.to_string_lossy().contains('*') || name.contains("**") {
        return Err((
            format!("`{pattern}`: a `*` in a directory"),
            "`*` stands in the last part only: `routes.d/*.yaml`",
        ));
    }
    dirs.insert(parent.to_owned());
    if !name.contains('*') {
        return Ok(vec![whole]);
    }
    let entries = fs::read_dir(parent).map_err(|error| {
        (
            format!("`{}` cannot be read: {error}", parent.display()),
            "write a directory that exists, seen from this file",
        )
    })?;
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let file = entry.file_name();
        let fits = file.to_str().is_some_and(|file| matches(name, file));
        let path = if folder(&whole) == Path::new(".") { PathBuf::from(&file) } else { parent.join(&file) };
        if fits && path.is_file() {
            found.push(path);
        }
    }
    if found.len() > MAX_FILES {
        return Err((
            format!("`{pattern}` names {} files", found.len()),
            "at most 1000 files make a configuration",
        ));
    }
    found.sort();
    Ok(found)
}

/// Whether `name` is `pattern`, where `*` stands for any text; hidden files are named in full.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut pieces: Vec<_> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

/// FNV-1a, 64 bits, over names and contents with their lengths; by words and not by bytes, so that the upper half of each
/// product has to be folded into the lower, which would know nothing of it.
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    fn add_file(&mut self, path: &Path, content: u64) {
        self.add(path.to_string_lossy().as_bytes());
        self.add_word(content);
    }

    fn add(&mut self, bytes: &[u8]) {
        self.add_word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add_word(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.add_word(u64::from(*byte));
        }
    }

    const fn add_word(&mut self, word: u64) {
        let product = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
        self.0 = product ^ (product >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn globs() {
        for (pattern, name, fits) in [
            ("*.yaml", "a.yaml", true),
            ("*.yaml", ".a.yaml", false),
            ("*.yaml", "a.yaml~", false),
            ("a*b*c", "abbc", true),
            ("a*b", "ab", true),
            ("ab*ba", "aba", false),
            ("*", "x", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
