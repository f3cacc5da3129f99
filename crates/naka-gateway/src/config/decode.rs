//! From the tree to values: what can be read, where the reading is, and lists, maps and choices.
//!
//! # Limits
//! At most [`MAX_FOUND`] mistakes are kept; the rest is only counted.

use std::{fmt::Write as _, path::PathBuf, rc::Rc, sync::Arc};

use serde_json::{Value as Json, json};

use super::{
    diagnostic::{Code, Diagnostic, Diagnostics, Place, Severity, Source},
    documents::Documents,
    layout::in_flow,
    node::{Node, Span, Value},
    outline::{Tracer, flow},
    record::Shape,
    suggest::quoted,
};
use crate::custom::Kinds;

const MAX_FOUND: usize = 1000;

/// Where the reading is, and what it found.
pub(crate) struct Cx {
    sources: Vec<Arc<Source>>,
    trail: Trail,
    found: Vec<Diagnostic>,
    spare: Option<Diagnostic>,
    documents: Rc<Documents>,
    kinds: Kinds,
}

impl Cx {
    pub(crate) fn new(sources: Vec<Arc<Source>>, documents: Rc<Documents>, kinds: Kinds) -> Self {
        Self { sources, trail: Trail::default(), found: Vec::new(), spare: None, documents, kinds }
    }

    /// Kinds of policies beside those that are built in.
    pub(crate) const fn kinds(&self) -> &Kinds {
        &self.kinds
    }

    /// What stands in a file that the file at `span` names, as seen from there.
    pub(crate) fn document(&mut self, span: Span, name: &str) -> Option<Arc<[u8]>> {
        let path = self.path(span, name);
        match self.documents.read(&path) {
            Ok(bytes) => Some(bytes),
            Err(why) => {
                self.error(Code::File, span, format!("{}: {why}", path.display()))
                    .help("write the path of a file that is there, seen from this file");
                None
            }
        }
    }

    /// Where a file is that the file at `span` names.
    pub(crate) fn path(&self, span: Span, name: &str) -> PathBuf {
        Documents::path(self.source(span.file()).path(), name)
    }

    /// The files that are named.
    pub(crate) fn documents(&self) -> &Documents {
        &self.documents
    }

    /// What stands there.
    pub(crate) fn text(&self, span: Span) -> &str {
        self.sources[span.file()].text().get(span.bytes()).unwrap_or_default()
    }

    /// Reads on in a document.
    pub(crate) fn add_source(&mut self, span: Span, name: &str, text: &str) -> usize {
        let path = self.path(span, name);
        self.sources.push(Arc::new(Source::new(path, text)));
        self.sources.len() - 1
    }

    /// Nothing of this is shown from now on, whatever is wrong.
    pub(crate) fn hide(&self, span: Span) {
        self.sources[span.file()].hide(span.bytes());
    }

    /// Whether a message must not say what stands there.
    pub(crate) fn hides(&self, span: Span) -> bool {
        self.sources[span.file()].hides(&span.bytes())
    }

    pub(crate) fn source(&self, file: usize) -> Arc<Source> {
        Arc::clone(&self.sources[file])
    }

    pub(crate) fn place(&self, span: Span) -> Place {
        Place::new(self.source(span.file()), span.bytes())
    }

    /// Reports a mistake; the answer takes a label, a help and related places.
    pub(crate) fn error(&mut self, code: Code, span: Span, message: impl Into<String>) -> &mut Diagnostic {
        let it = Diagnostic::error(code, self.place(span), message);
        if self.found.len() < MAX_FOUND {
            self.found.push(it);
            return self.found.last_mut().expect("it was pushed just now");
        }
        self.spare.insert(it)
    }

    /// How much was found so far, warnings included.
    pub(crate) fn count(&self) -> usize {
        self.found.len() + usize::from(self.spare.is_some())
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.spare.is_none() && self.found.iter().all(|it| it.severity != Severity::Error)
    }

    /// The piece of the text, if it stands there as it is.
    pub(crate) fn narrow(&self, span: Span, piece: &str) -> Span {
        let found = self.text(span).find(piece).filter(|_| !piece.is_empty()).map(|at| span.start() + at);
        found.map_or(span, |start| Span::new(span.file(), start..start + piece.len()))
    }

    /// What was found so far.
    pub(crate) fn found(&self) -> &[Diagnostic] {
        &self.found
    }

    /// Takes over what was found earlier.
    pub(crate) fn adopt(&mut self, earlier: &[Diagnostic]) {
        self.found.extend_from_slice(earlier);
    }

    pub(crate) fn finish(self) -> Diagnostics {
        Diagnostics::new(self.found)
    }

    /// Reads what stands under a key.
    pub(crate) fn within<T>(&mut self, key: &str, span: Span, inside: impl FnOnce(&mut Self) -> T) -> T {
        self.trail.push(span, |text| text.push_str(key));
        let result = inside(self);
        self.trail.pop();
        result
    }

    /// Reads an item of a list.
    fn within_item<T>(&mut self, index: usize, span: Span, inside: impl FnOnce(&mut Self) -> T) -> T {
        self.trail.push(span, |text| _ = write!(text, "{index}"));
        let result = inside(self);
        self.trail.pop();
        result
    }

    /// The keys that lead here: `routes.all.match`.
    pub(crate) fn here(&self) -> String {
        self.trail.text.clone()
    }

    /// `here` in a sentence.
    pub(crate) fn in_here(&self) -> String {
        if self.trail.keys.is_empty() {
            "at the top of the file".into()
        } else {
            format!("in `{}`", self.here())
        }
    }

    /// The key that was read last.
    pub(crate) fn key_span(&self, otherwise: Span) -> Span {
        self.trail.keys.last().map_or(otherwise, |(_, span)| *span)
    }

    /// Something that is not of its shape, with the message for unquoted braces.
    pub(crate) fn wrong_shape(&mut self, node: &Node<'_>, what: &str) {
        let here = self.here();
        if node.is_null() {
            let key = self.key_span(node.span);
            self.error(Code::Missing, key, format!("`{here}` has no value"))
                .label(format!("expected {what}"))
                .help("write a value, or take the key away: nothing is defaulted silently");
        } else if let Some(name) = node.unquoted_capture().filter(|_| !self.hides(node.span)) {
            let help = format!("quote it: \"{{{name}}}\"");
            self.error(
                Code::Shape,
                node.span,
                format!("`{here}`: `{{{name}}}` without quotes is a map to YAML"),
            )
            .label("not quoted")
            .help(help);
        } else {
            let is_text = matches!(node.value, Value::Scalar(_));
            let shape = if is_text && self.hides(node.span) { "text".into() } else { node.shape() };
            self.error(Code::Shape, node.span, format!("`{here}`: expected {what}, found {shape}"))
                .label(format!("this is {shape}"))
                .help(format!("write {what}"));
        }
    }
}

/// The keys that lead to where the reading is, as one text: each key of a file comes by here, and few are ever shown.
#[derive(Default)]
struct Trail {
    text: String,
    /// How long the text was before each key, and where that stands.
    keys: Vec<(usize, Span)>,
}

impl Trail {
    fn push(&mut self, span: Span, key: impl FnOnce(&mut String)) {
        self.keys.push((self.text.len(), span));
        if self.keys.len() > 1 {
            self.text.push('.');
        }
        key(&mut self.text);
    }

    fn pop(&mut self) {
        if let Some((len, _)) = self.keys.pop() {
            self.text.truncate(len);
        }
    }
}

/// A value that can be read from the tree.
pub(crate) trait Decode: Sized {
    /// Whether `null` is a value, and not the lack of one.
    const TAKES_NULL: bool = false;
    /// What it is, in a message: `a duration such as "5s"`.
    fn what() -> String;
    /// `None`: `cx` knows why.
    fn decode(node: &Node<'_>, cx: &mut Cx) -> Option<Self>;
    /// Its JSON Schema.
    fn schema() -> Json;
    /// What it is made of.
    fn form() -> Form;
    /// What it says, in one line: the same for all that means the same.
    fn text(node: &Node<'_>) -> String {
        flow(node)
    }
    /// What it says, key by key.
    fn outline(node: &Node<'_>, tracer: &mut Tracer<'_>) {
        tracer.say(node, Self::text(node));
    }
}

/// What values are made of, for whoever does not read them.
#[derive(Clone)]
pub(crate) enum Form {
    /// One piece of text.
    Text(Plain),
    /// A map with known keys.
    Record(&'static Shape),
    /// A map from names to such.
    Named(Plain, Box<Form>),
    /// A list of such.
    List(Box<Form>),
    /// One or the other; at most one of both is a map, and one a list.
    Either(Box<Form>, Box<Form>),
}

/// What is known of a piece of text.
#[derive(Clone, Copy)]
pub(crate) struct Plain {
    pub(crate) what: &'static str,
    pub(crate) words: &'static [&'static str],
    pub(crate) unit: &'static str,
    pub(crate) examples: fn() -> Vec<&'static str>,
    pub(crate) schema: fn() -> Json,
}

impl Plain {
    pub(crate) fn of<T: Scalar>() -> Self {
        Self {
            what: T::WHAT,
            words: T::WORDS,
            unit: T::UNIT,
            examples: T::examples,
            schema: <T as Scalar>::schema,
        }
    }
}

impl Form {
    /// The record, if a map there is one.
    pub(crate) fn record(&self) -> Option<&'static Shape> {
        match self {
            Self::Record(shape) => Some(shape),
            Self::Either(one, other) => one.record().or_else(|| other.record()),
            Self::Text(_) | Self::Named(..) | Self::List(_) => None,
        }
    }

    /// What stands under this key of a map.
    pub(crate) fn under(&self, key: &str) -> Option<Self> {
        match self {
            Self::Record(shape) => {
                shape.fields.iter().find(|field| field.key == key).map(|field| (field.form)())
            }
            Self::Named(_, each) => Some((**each).clone()),
            Self::Either(one, other) => one.under(key).or_else(|| other.under(key)),
            Self::Text(_) | Self::List(_) => None,
        }
    }

    /// What a list has.
    pub(crate) fn each(&self) -> Option<&Self> {
        match self {
            Self::List(each) => Some(each),
            Self::Either(one, other) => one.each().or_else(|| other.each()),
            Self::Text(_) | Self::Record(_) | Self::Named(..) => None,
        }
    }

    /// In what it is counted; nothing, if it is not.
    pub(crate) fn unit(&self) -> &'static str {
        match self {
            Self::Text(plain) => plain.unit,
            Self::List(each) => each.unit(),
            Self::Either(one, other) if one.unit().is_empty() => other.unit(),
            Self::Either(one, _) => one.unit(),
            Self::Record(_) | Self::Named(..) => "",
        }
    }

    /// Such values, as YAML in one line.
    pub(crate) fn examples(&self) -> Vec<String> {
        match self {
            Self::Text(plain) => (plain.examples)().into_iter().map(in_flow).collect(),
            Self::Record(shape) => shape.examples(),
            Self::Named(name, each) => {
                let name = (name.examples)().first().copied().unwrap_or("name");
                each.examples().iter().take(1).map(|each| format!("{{{}: {each}}}", in_flow(name))).collect()
            }
            Self::List(each) => each.examples().iter().take(1).map(|each| format!("[{each}]")).collect(),
            // What can be named shows itself better than a name.
            Self::Either(one, other) if matches!(**one, Self::Text(_)) && other.record().is_some() => {
                other.examples()
            }
            Self::Either(one, other) => one.examples().into_iter().chain(other.examples()).collect(),
        }
    }
}

/// What stands in backticks in a sentence, up to a bracket.
pub(crate) fn said_in(what: &'static str) -> Vec<&'static str> {
    let pieces: Vec<_> = what.split('`').collect();
    let before_bracket = pieces.chunks(2).take_while(|pair| !pair[0].contains('('));
    before_bracket.filter_map(|pair| pair.get(1).copied()).collect()
}

/// Text as it stands in the file.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) text: &'a str,
    /// Without quotes.
    pub(crate) plain: bool,
}

/// Why text is not a value.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    /// The piece of the text that is wrong, if it is not all of it.
    pub(crate) piece: Option<String>,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: Code::Value, message: message.into(), help: None, piece: None }
    }

    pub(crate) fn not_built(what: &str) -> Self {
        let wrong = Self::new(format!("{} is not built yet", quoted(what)));
        Self { code: Code::NotBuilt, ..wrong }
            .help("the grammar has it, this version does not act on it: take it out for now")
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(crate) fn piece(self, piece: impl Into<String>) -> Self {
        Self { piece: Some(piece.into()), ..self }
    }
}

/// A value that is one piece of text.
pub(crate) trait Scalar: Sized {
    /// What it is, in a message: `a duration such as "5s"`.
    const WHAT: &'static str;
    /// Whether what stands there by mistake may be what nobody shall see.
    const IS_SECRET: bool = false;
    /// Whether what is right may have a part that nobody shall see.
    fn may_hold_secret(_text: &str) -> bool {
        false
    }
    /// All of them, if they are words.
    const WORDS: &'static [&'static str] = &[];
    /// In what it is counted.
    const UNIT: &'static str = "";
    /// Some of them.
    fn examples() -> Vec<&'static str> {
        if Self::WORDS.is_empty() { said_in(Self::WHAT) } else { Self::WORDS.to_vec() }
    }
    fn parse(text: Text<'_>) -> Result<Self, Wrong>;
    fn schema() -> Json {
        json!({"type": "string", "description": Self::WHAT})
    }
    /// The one text for all that mean the same, if there are several.
    fn canonical(&self) -> Option<String> {
        None
    }
}

impl<T: Scalar> Decode for T {
    fn what() -> String {
        T::WHAT.into()
    }

    fn decode(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        let Value::Scalar(scalar) = &node.value else {
            cx.wrong_shape(node, T::WHAT);
            return None;
        };
        if node.is_null() {
            cx.wrong_shape(node, T::WHAT);
            return None;
        }
        match T::parse(Text { text: &scalar.text, plain: scalar.plain }) {
            Ok(value) => Some(value),
            Err(wrong) => {
                let here = cx.here();
                if T::IS_SECRET {
                    cx.hide(node.span);
                }
                let span = wrong.piece.as_deref().map_or(node.span, |piece| cx.narrow(node.span, piece));
                let message = if cx.hides(node.span) && !T::IS_SECRET {
                    format!("`{here}`: this is not {}", T::WHAT)
                } else {
                    format!("`{here}`: {}", wrong.message)
                };
                let it = cx.error(wrong.code, span, message);
                it.label(match wrong.code {
                    Code::NotBuilt => "not built yet".into(),
                    _ => format!("expected {}", T::WHAT),
                });
                it.help = wrong.help;
                None
            }
        }
    }

    fn schema() -> Json {
        <T as Scalar>::schema()
    }

    fn form() -> Form {
        Form::Text(Plain::of::<T>())
    }

    fn text(node: &Node<'_>) -> String {
        let Value::Scalar(scalar) = &node.value else { return flow(node) };
        let value = T::parse(Text { text: &scalar.text, plain: scalar.plain }).ok();
        value.and_then(|value| value.canonical()).unwrap_or_else(|| scalar.text.to_string())
    }

    fn outline(node: &Node<'_>, tracer: &mut Tracer<'_>) {
        match &node.value {
            Value::Scalar(scalar) if T::may_hold_secret(&scalar.text) => {
                tracer.withhold(node, Self::text(node));
            }
            _ => tracer.say(node, Self::text(node)),
        }
    }
}

/// A value, and where it and its key stood.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
    pub(crate) key: Span,
}

impl<T> At<T> {
    pub(crate) fn decode_field(node: &Node<'_>, key: (&str, Span), cx: &mut Cx) -> Option<Self>
    where
        T: Decode,
    {
        let value = cx.within(key.0, key.1, |cx| T::decode(node, cx))?;
        Some(Self { value, span: node.span, key: key.1 })
    }
}

/// A map from names to values; an entry that could not be read keeps its name.
#[derive(Clone, Debug)]
pub(crate) struct Named<K, V>(
    pub(crate) Vec<(At<K>, Option<V>)>,
    /* all names are names */ pub(crate) bool,
);

impl<K, V> Default for Named<K, V> {
    fn default() -> Self {
        Self(Vec::new(), true)
    }
}

impl<K: Scalar, V: Decode> Decode for Named<K, V> {
    fn what() -> String {
        format!("a map from {} to {}", K::WHAT, V::what())
    }

    fn decode(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            cx.wrong_shape(node, &Self::what());
            return None;
        };
        let mut it = Self(Vec::with_capacity(entries.len()), true);
        for (key, value) in entries {
            let name = K::parse(Text { text: &key.text, plain: false });
            let decoded = cx.within(&key.text, key.span, |cx| {
                if value.is_null() && !V::TAKES_NULL {
                    cx.wrong_shape(value, &V::what());
                    return None;
                }
                V::decode(value, cx)
            });
            match name {
                Ok(name) => it.0.push((At { value: name, span: key.span, key: key.span }, decoded)),
                Err(wrong) => {
                    it.1 = false;
                    let here = cx.here();
                    let error = cx.error(wrong.code, key.span, format!("`{here}`: {}", wrong.message));
                    error.help = wrong.help;
                }
            }
        }
        Some(it)
    }

    fn schema() -> Json {
        json!({"type": "object", "additionalProperties": V::schema()})
    }

    fn form() -> Form {
        Form::Named(Plain::of::<K>(), Box::new(V::form()))
    }

    fn outline(node: &Node<'_>, tracer: &mut Tracer<'_>) {
        let Value::Map(entries) = &node.value else { return tracer.say(node, flow(node)) };
        for (key, value) in entries {
            tracer.within(&key.text, |tracer| V::outline(value, tracer));
        }
    }
}

/// What is large, and may be used again as it is.
impl<T: Decode> Decode for Arc<T> {
    fn what() -> String {
        T::what()
    }

    fn decode(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        T::decode(node, cx).map(Self::new)
    }

    fn form() -> Form {
        T::form()
    }

    fn schema() -> Json {
        T::schema()
    }

    fn text(node: &Node<'_>) -> String {
        T::text(node)
    }

    fn outline(node: &Node<'_>, tracer: &mut Tracer<'_>) {
        T::outline(node, tracer);
    }
}

/// A list.
impl<T: Decode> Decode for Vec<At<T>> {
    fn what() -> String {
        format!("a list, each {}", T::what())
    }

    fn decode(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        let Value::Seq(items) = &node.value else {
            cx.wrong_shape(node, &Self::what());
            return None;
        };
        let mut it = Self::with_capacity(items.len());
        let mut complete = true;
        for (index, item) in items.iter().enumerate() {
            match cx.within_item(index, item.span, |cx| T::decode(item, cx)) {
                Some(value) => it.push(At { value, span: item.span, key: item.span }),
                None => complete = false,
            }
        }
        complete.then_some(it)
    }

    fn schema() -> Json {
        json!({"type": "array", "items": T::schema()})
    }

    fn form() -> Form {
        Form::List(Box::new(T::form()))
    }

    fn outline(node: &Node<'_>, tracer: &mut Tracer<'_>) {
        match &node.value {
            Value::Seq(items) => tracer.list::<T>(items, node),
            _ => tracer.say(node, flow(node)),
        }
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<At<T>>);

impl<T: Decode> Decode for OneOrMany<T> {
    fn what() -> String {
        format!("{}, or a list of such", T::what())
    }

    fn decode(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        if matches!(node.value, Value::Seq(_)) {
            return Vec::decode(node, cx).map(Self);
        }
        T::decode(node, cx).map(|value| Self(vec![At { value, span: node.span, key: node.span }]))
    }

    fn schema() -> Json {
        json!({"anyOf": [T::schema(), {"type": "array", "items": T::schema()}]})
    }

    fn form() -> Form {
        Form::Either(Box::new(T::form()), Box::new(Form::List(Box::new(T::form()))))
    }

    fn outline(node: &Node<'_>, tracer: &mut Tracer<'_>) {
        match &node.value {
            Value::Seq(items) => tracer.list::<T>(items, node),
            _ => tracer.list::<T>(std::slice::from_ref(node), node),
        }
    }
}

/// A piece of text, or a record.
#[derive(Clone, Debug)]
pub(crate) enum Or<S, T> {
    Text(S),
    /// Apart: records are large, and most are not there.
    Record(Box<T>),
}

impl<S: Scalar, T: Decode> Decode for Or<S, T> {
    fn what() -> String {
        format!("{} or {}", S::WHAT, T::what())
    }

    fn decode(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        match &node.value {
            Value::Scalar(_) => S::decode(node, cx).map(Self::Text),
            Value::Map(_) if node.unquoted_capture().is_none() => {
                T::decode(node, cx).map(Box::new).map(Self::Record)
            }
            _ => {
                cx.wrong_shape(node, &Self::what());
                None
            }
        }
    }

    fn schema() -> Json {
        json!({"anyOf": [<S as Scalar>::schema(), T::schema()]})
    }

    fn form() -> Form {
        Form::Either(Box::new(S::form()), Box::new(T::form()))
    }

    fn outline(node: &Node<'_>, tracer: &mut Tracer<'_>) {
        match &node.value {
            Value::Map(_) => T::outline(node, tracer),
            _ => <S as Decode>::outline(node, tracer),
        }
    }
}
