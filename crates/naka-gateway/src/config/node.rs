//! Text to a tree that knows where each piece stood.
//!
//! # Limits
//! One document of at most [`MAX_NODES`] nodes, [`MAX_DEPTH`] deep. An alias counts as all that
//! it stands for, so that a few lines cannot unfold into millions.

use std::{borrow::Cow, collections::HashMap, ops::Range, rc::Rc, sync::Arc};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span as YamlSpan};
use serde_json::Value as Json;

use super::{
    decode::Cx,
    diagnostic::{Code, Source},
    suggest::quoted,
};
use crate::custom::Kinds;

pub(crate) const MAX_NODES: usize = 1_000_000;
pub(crate) const MAX_DEPTH: usize = 64;

/// Bytes of one of the files. Small, as every value and every key has one: no file is larger than `load` takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    file: u32,
    start: u32,
    end: u32,
}

impl Span {
    pub(crate) fn new(file: usize, bytes: Range<usize>) -> Self {
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self { file: small(file), start: small(bytes.start), end: small(bytes.end) }
    }

    /// The number of the file.
    pub(crate) const fn file(self) -> usize {
        self.file as usize
    }

    pub(crate) const fn start(self) -> usize {
        self.start as usize
    }

    pub(crate) const fn bytes(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// One value of the file; its text is the file's, where it stands there as it is.
#[derive(Clone, Debug)]
pub(crate) struct Node<'t> {
    pub(crate) value: Value<'t>,
    pub(crate) span: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum Value<'t> {
    Scalar(Scalar<'t>),
    Seq(Vec<Node<'t>>),
    Map(Vec<(Key<'t>, Node<'t>)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Scalar<'t> {
    pub(crate) text: Cow<'t, str>,
    /// Without quotes: YAML would look for numbers, booleans and nulls in it.
    pub(crate) plain: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Key<'t> {
    pub(crate) text: Cow<'t, str>,
    pub(crate) span: Span,
}

impl Node<'_> {
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(it) if it.plain && is_null(&it.text))
    }

    /// What it is, in a message.
    pub(crate) fn shape(&self) -> String {
        match &self.value {
            Value::Scalar(_) if self.is_null() => "nothing".into(),
            Value::Scalar(it) => quoted(&it.text),
            Value::Seq(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
        }
    }

    /// `{name}` without quotes, which YAML reads as a map with one empty value.
    pub(crate) fn unquoted_capture(&self) -> Option<&str> {
        match &self.value {
            Value::Map(entries) => match entries.as_slice() {
                [(key, value)] if value.is_null() => Some(&key.text),
                _ => None,
            },
            _ => None,
        }
    }

    /// As JSON has it.
    pub(crate) fn to_json(&self) -> Json {
        match &self.value {
            Value::Map(entries) => Json::Object(
                entries.iter().map(|(key, value)| (key.text.to_string(), value.to_json())).collect(),
            ),
            Value::Seq(items) => items.iter().map(Self::to_json).collect(),
            Value::Scalar(_) if self.is_null() => Json::Null,
            Value::Scalar(Scalar { text, plain: true }) => match text.parse::<bool>() {
                Ok(is) => Json::Bool(is),
                Err(_) => number(text).unwrap_or_else(|| (**text).into()),
            },
            Value::Scalar(Scalar { text, plain: false }) => (**text).into(),
        }
    }

    /// The same with texts of its own.
    pub(crate) fn into_owned(self) -> Node<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let value = match self.value {
            Value::Scalar(Scalar { text, plain }) => Value::Scalar(Scalar { text: owned(text), plain }),
            Value::Seq(items) => Value::Seq(items.into_iter().map(Node::into_owned).collect()),
            Value::Map(entries) => {
                let entries = entries
                    .into_iter()
                    .map(|(key, value)| (Key { text: owned(key.text), span: key.span }, value.into_owned()));
                Value::Map(entries.collect())
            }
        };
        Node { value, span: self.span }
    }

    fn size(&self) -> usize {
        match &self.value {
            Value::Scalar(_) => 1,
            Value::Seq(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|(_, value)| 1 + value.size()).sum::<usize>(),
        }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Reads `source`, which is number `file` of `cx`. `None`: it could not be read, and `cx` knows why.
pub(crate) fn parse<'t>(source: &'t Source, file: usize, cx: &mut Cx) -> Option<Node<'t>> {
    Builder::new(source, file, cx).document()
}

/// All documents of the source, as [`parse`] reads one; those without anything are left out.
pub(crate) fn parse_all<'t>(source: &'t Source, file: usize, cx: &mut Cx) -> Option<Vec<Node<'t>>> {
    Builder::new(source, file, cx).documents()
}

/// A piece of YAML as JSON; nothing, if it is none.
pub(crate) fn json_of(text: &str) -> Json {
    let source = Arc::new(Source::new("", text));
    let mut cx = Cx::new(vec![Arc::clone(&source)], Rc::default(), Kinds::default());
    parse(&source, 0, &mut cx).filter(|_| cx.is_clean()).map_or(Json::Null, |node| node.to_json())
}

/// A plain scalar that is a number to YAML 1.2 (its core schema), but for those that JSON has not.
fn number(text: &str) -> Option<Json> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '-') || text.contains(['i', 'n', 'N']) {
        return None; // What Rust takes for infinite, or for no number, is text.
    }
    let whole = text.parse::<i64>().map(Json::from).or_else(|_| text.parse::<u64>().map(Json::from));
    whole.ok().or_else(|| text.parse::<f64>().ok().filter(|it| it.is_finite()).map(Json::from))
}

/// Stops the reading: the reason is reported already.
struct Stop;

/// Which keys a map has. Most have few, and those are looked through.
#[derive(Default)]
struct Seen<'t>(HashMap<Cow<'t, str>, Span>);

const FEW: usize = 16;

impl<'t> Seen<'t> {
    fn find(&self, key: &str, entries: &[(Key<'t>, Node<'t>)]) -> Option<Span> {
        if entries.len() <= FEW {
            return entries.iter().find(|(it, _)| it.text == key).map(|(it, _)| it.span);
        }
        self.0.get(key).copied()
    }

    /// There is one more at the end.
    fn learn(&mut self, entries: &[(Key<'t>, Node<'t>)]) {
        let unknown = match entries.len() {
            ..=FEW => &[],
            _ if self.0.is_empty() => entries,
            len => &entries[len - 1..],
        };
        self.0.extend(unknown.iter().map(|(key, _)| (key.text.clone(), key.span)));
    }
}

struct Builder<'t, 'c> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    text: &'t str,
    file: usize,
    cx: &'c mut Cx,
    anchors: HashMap<usize, (Node<'t>, usize)>,
    nodes: usize,
    /// Of the lists that have no end yet, the innermost last: so each takes as much as it needs when it ends.
    items: Vec<Node<'t>>,
    /// Of the maps that have no end yet.
    entries: Vec<(Key<'t>, Node<'t>)>,
}

impl<'t, 'c> Builder<'t, 'c> {
    fn new(source: &'t Source, file: usize, cx: &'c mut Cx) -> Self {
        let text = source.text();
        let mut options = granit_parser::Options::default();
        options.set_emit_comments(false);
        Self {
            parser: Parser::new_from_str_with_options(text, options),
            text,
            file,
            cx,
            anchors: HashMap::new(),
            nodes: 0,
            items: Vec::new(),
            entries: Vec::new(),
        }
    }

    fn documents(&mut self) -> Option<Vec<Node<'t>>> {
        let mut roots = Vec::new();
        loop {
            let (event, span) = self.next().ok()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(..) => self.anchors.clear(),
                Event::StreamStart | Event::DocumentEnd => {}
                event => roots.push(self.node(event, span, 0).ok()?),
            }
        }
        roots.retain(|root: &Node<'t>| !root.is_null());
        Some(roots)
    }

    fn document(&mut self) -> Option<Node<'t>> {
        let mut root = None;
        loop {
            let (event, span) = self.next().ok()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(..) if root.is_some() => {
                    self.cx
                        .error(Code::Syntax, span, "a second document in one file")
                        .help("one file is one document: put the rest into a file that `include:` names");
                    return None;
                }
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                event => root = Some(self.node(event, span, 0).ok()?),
            }
        }
        let nothing = || Node { value: Value::Map(Vec::new()), span: Span::new(self.file, 0..0) };
        Some(root.filter(|root| !root.is_null()).unwrap_or_else(nothing))
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Stop> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                let bytes = byte_range(span, self.text.len());
                if let Some(tag) = span.tag_span().and_then(|tag| tag.byte_range()) {
                    let at = Span::new(self.file, tag.clone());
                    let tag = quoted(self.text.get(tag).unwrap_or("!"));
                    self.cx
                        .error(Code::Syntax, at, format!("the tag {tag} means nothing here"))
                        .help("take it away: a value is what its key says");
                }
                Ok((event, Span::new(self.file, bytes)))
            }
            Some(Err(error)) => {
                self.syntax_error(&error);
                Err(Stop)
            }
            None => Ok((Event::StreamEnd, Span::new(self.file, 0..0))),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node<'t>, Stop> {
        self.count(1, span)?;
        if depth > MAX_DEPTH {
            self.cx.error(Code::TooLarge, span, format!("more than {MAX_DEPTH} levels of nesting"));
            return Err(Stop);
        }
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                (Node { value: Value::Scalar(Scalar { text, plain }), span }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.sequence(span, depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping(span, depth)?, anchor),
            Event::Alias(anchor) => return self.alias(anchor, span, depth),
            _ => {
                self.cx.error(Code::Syntax, span, "a value was expected here");
                return Err(Stop);
            }
        };
        if anchor != 0 {
            let height = height(&node);
            self.anchors.insert(anchor, (node.clone(), height));
            self.count(node.size(), span)?; // The copy is kept too.
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, span: Span, depth: usize) -> Result<Node<'t>, Stop> {
        let Some((node, height)) = self.anchors.get(&anchor) else {
            self.cx.error(Code::Syntax, span, "this alias stands inside what it is an alias of");
            return Err(Stop);
        };
        if depth + height > MAX_DEPTH {
            self.cx.error(Code::TooLarge, span, format!("more than {MAX_DEPTH} levels of nesting"));
            return Err(Stop);
        }
        let size = node.size();
        let node = node.clone();
        self.count(size, span)?;
        Ok(node)
    }

    fn sequence(&mut self, span: Span, depth: usize) -> Result<Node<'t>, Stop> {
        let first = self.items.len();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                let items = self.items.drain(first..).collect::<Vec<_>>();
                let last = items.last().map_or(span, |item| item.span);
                return Ok(Node { value: Value::Seq(items), span: whole(span, last, at) });
            }
            let item = self.node(event, at, depth + 1)?;
            self.items.push(item);
        }
    }

    fn mapping(&mut self, span: Span, depth: usize) -> Result<Node<'t>, Stop> {
        let first = self.entries.len();
        let mut seen = Seen::default();
        let mut merged: Vec<(Key<'t>, Node<'t>)> = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                let last = self.entries[first..].last().map_or(span, |(_, node)| node.span);
                // Keys that were said win over merged ones, earlier merged ones over later.
                for (key, value) in merged {
                    if seen.find(&key.text, &self.entries[first..]).is_none() {
                        self.entries.push((key, value));
                        seen.learn(&self.entries[first..]);
                    }
                }
                let entries = self.entries.drain(first..).collect();
                return Ok(Node { value: Value::Map(entries), span: whole(span, last, at) });
            }
            let key = self.node(event, at, depth + 1)?;
            let (event, at) = self.next()?;
            let value = self.node(event, at, depth + 1)?;
            let Value::Scalar(Scalar { text, plain }) = key.value else {
                self.key_is_no_text(key.span, &value);
                continue;
            };
            if plain && text == "<<" {
                merged.extend(self.merged(value));
                continue;
            }
            if let Some(earlier) = seen.find(&text, &self.entries[first..]) {
                let earlier = self.cx.place(earlier);
                self.cx
                    .error(Code::Duplicate, key.span, format!("the key {} is there twice", quoted(&text)))
                    .label("again here")
                    .related(earlier, "first here")
                    .help("keep one of the two");
                continue;
            }
            self.entries.push((Key { text, span: key.span }, value));
            seen.learn(&self.entries[first..]);
        }
    }

    fn key_is_no_text(&mut self, span: Span, value: &Node<'t>) {
        let it = self.cx.error(Code::Syntax, span, "a key has to be text");
        it.help(if value.is_null() {
            "text with braces needs quotes: \"{name}\""
        } else {
            "write `key: value`"
        });
    }

    /// What `<<: *anchor` or `<<: [*a, *b]` brings in.
    fn merged(&mut self, value: Node<'t>) -> Vec<(Key<'t>, Node<'t>)> {
        match value.value {
            Value::Map(entries) => entries,
            Value::Seq(items) => items.into_iter().flat_map(|item| self.merged(item)).collect(),
            Value::Scalar(_) => {
                self.cx
                    .error(Code::Syntax, value.span, "`<<` merges a map, and this is none")
                    .help("write `<<: *name` where `&name` marks a map");
                Vec::new()
            }
        }
    }

    fn count(&mut self, more: usize, span: Span) -> Result<(), Stop> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        self.cx
            .error(Code::TooLarge, span, format!("more than {MAX_NODES} values in one file"))
            .label("counted up to here")
            .help("an alias counts as all that it stands for; split the file with `include:`");
        Err(Stop)
    }

    fn syntax_error(&mut self, error: &ScanError) {
        let at = error.marker().byte_offset().unwrap_or(self.text.len()).min(self.text.len());
        let line_start =
            self.text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
        let line_end =
            self.text.get(at..).and_then(|rest| rest.find('\n')).map_or(self.text.len(), |end| at + end);
        let line = self.text.get(line_start..line_end).unwrap_or("");
        if let Some((start, word)) = unquoted_braces(line) {
            let start = line_start + start;
            let span = Span::new(self.file, start..start + word.len());
            self.cx
                .error(
                    Code::Syntax,
                    span,
                    format!("{} needs quotes: YAML reads `{{` as the start of a map", quoted(word)),
                )
                .label("not quoted")
                .help(format!("quote it: \"{word}\""));
            return;
        }
        if let Some(word) =
            self.text.get(at..line_end).filter(|rest| rest.starts_with(['*', '@', '`', '%', '&', '!']))
        {
            let word = word.split([' ', ',', ']', '}']).next().unwrap_or(word);
            let span = Span::new(self.file, at..at + word.len());
            let sign = quoted(&word[..1]);
            self.cx
                .error(
                    Code::Syntax,
                    span,
                    format!("{} needs quotes: {sign} means something else to YAML", quoted(word)),
                )
                .label("not quoted")
                .help(match word.strip_prefix('*').filter(|name| !name.contains(['.', '/'])) {
                    Some(name) => format!(
                        "quote it: \"{word}\"; as an alias it needs a value marked `&{name}` before it"
                    ),
                    None => format!("quote it: \"{word}\""),
                });
            return;
        }
        let tab = line.find(|c: char| !c.is_whitespace()).is_some_and(|indent| line[..indent].contains('\t'));
        let end = self.text.get(at..).and_then(|rest| rest.chars().next()).map_or(at, |c| at + c.len_utf8());
        let message = format!("this is not YAML: {}", error.info());
        let span = Span::new(self.file, at..end);
        let it = self.cx.error(Code::Syntax, span, message);
        if tab {
            it.help("indent with spaces, not tabs");
        } else {
            it.help("look at the line above too: indentation, a missing `:` or an open bracket or quote");
        }
    }
}

/// A word such as `/rides/{id}` inside a flow map or list, where the brace starts a map.
fn unquoted_braces(line: &str) -> Option<(usize, &str)> {
    let mut from = 0;
    while let Some(open) = line[from..].find('{').map(|at| from + at) {
        from = open + 1;
        let name = line[open + 1..].split('}').next()?;
        let is_name = !name.is_empty()
            && name.trim_end_matches("...").chars().all(|c| c.is_alphanumeric() || "_.".contains(c));
        let start = line[..open].rfind([' ', ',', '[', '{', '"', '\'']).map_or(0, |at| at + 1);
        let opened = start.checked_sub(1).and_then(|before| line.as_bytes().get(before));
        if is_name && start < open && !matches!(opened, Some(b'"' | b'\'')) {
            // A brace inside the word closes the word's own brace; any other ends the word.
            let mut depth = 0_usize;
            let rest = line[start..].char_indices().find(|(_, c)| match c {
                '{' => {
                    depth += 1;
                    false
                }
                '}' if depth > 0 => {
                    depth -= 1;
                    false
                }
                c => matches!(c, ' ' | ',' | '}' | ']'),
            });
            return Some((start, &line[start..rest.map_or(line.len(), |(end, _)| start + end)]));
        }
    }
    None
}

fn height(node: &Node<'_>) -> usize {
    match &node.value {
        Value::Scalar(_) => 0,
        Value::Seq(items) => 1 + items.iter().map(height).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|(_, value)| height(value)).max().unwrap_or(0),
    }
}

/// From the start of a collection to its end: its bracket, or else its last value.
fn whole(start: Span, last: Span, end: Span) -> Span {
    let end = if end.end > end.start { end.end } else { last.end };
    Span { end: end.max(start.end), ..start }
}

fn byte_range(span: YamlSpan, len: usize) -> Range<usize> {
    span.byte_range().map_or(0..0, |range| range.start.min(len)..range.end.min(len).max(range.start.min(len)))
}
