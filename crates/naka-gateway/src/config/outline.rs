//! What a configuration says, key by key, with what it says by not saying it.
//!
//! Two texts that mean the same have the same outline: files, the order of keys and of entries with names, quotes, comments, and
//! the way in which a duration is written are not in it. A default is in it where the record that has it was written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::{Value as Json, json};

use super::{
    decode::{Cx, Decode},
    diagnostic::Place,
    node::{Node, Value},
};
use crate::headers::is_secret;

/// All that is said, by path.
#[derive(Clone, Debug, Default)]
pub struct Outline(BTreeMap<Vec<String>, Said>);

/// One value.
#[derive(Clone)]
pub struct Said {
    text: String,
    is_secret: bool,
    /// It is not there, only that it is said: whoever told does not tell secrets.
    is_withheld: bool,
    /// Where it was written; nowhere if it is the default.
    pub place: Option<Spot>,
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The file, as it was read.
    pub file: String,
    /// Its line, counted from 1.
    pub line: usize,
    /// The characters before it in its line, and one more.
    pub column: usize,
}

impl From<Place> for Spot {
    fn from(place: Place) -> Self {
        Self { file: place.file().display().to_string(), line: place.line(), column: place.column() }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl Said {
    /// As it may be shown.
    pub fn shown(&self) -> &str {
        if self.is_secret { "…" } else { &self.text }
    }

    /// Whether it was not written.
    pub const fn is_default(&self) -> bool {
        self.place.is_none()
    }

    /// Whether both say the same, as far as it is known.
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_withheld || other.is_withheld || self.text == other.text
    }

    /// Whether it is a secret that whoever told has not told.
    pub const fn is_withheld(&self) -> bool {
        self.is_withheld
    }

    /// Whether this is what it says.
    pub fn is(&self, text: &str) -> bool {
        self.text == text
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Outline {
    /// Every path, and what is said there.
    pub fn iter(&self) -> impl Iterator<Item = (&[String], &Said)> {
        self.0.iter().map(|(path, said)| (path.as_slice(), said))
    }

    /// What is said at a path.
    pub fn get(&self, path: &[String]) -> Option<&Said> {
        self.0.get(path)
    }

    /// At most so many keys as they may be shown, secrets withheld.
    pub fn to_json(&self, most: usize) -> Json {
        let one = |(path, said): (&[String], &Said)| {
            let mut it = json!({"path": path});
            if said.is_secret {
                it["secret"] = json!(true);
            } else {
                it["value"] = json!(said.text);
            }
            match &said.place {
                Some(Spot { file, line, column }) => {
                    (it["file"], it["line"], it["column"]) = (json!(file), json!(line), json!(column));
                }
                None => it["default"] = json!(true),
            }
            it
        };
        self.iter().take(most).map(one).collect()
    }

    /// What [`to_json`](Self::to_json) said. `None`: it is something else.
    pub fn from_json(keys: &Json) -> Option<Self> {
        let one = |it: &Json| {
            let path = it["path"].as_array()?.iter().map(|key| Some(key.as_str()?.to_owned()));
            let path = path.collect::<Option<Vec<_>>>().filter(|path| !path.is_empty())?;
            let is_secret = it["secret"] == true;
            let text = if is_secret { String::new() } else { it["value"].as_str()?.to_owned() };
            let number = |key: &str| it[key].as_u64().and_then(|number| usize::try_from(number).ok());
            let place = match &it["file"] {
                Json::String(file) => {
                    Some(Spot { file: file.clone(), line: number("line")?, column: number("column")? })
                }
                _ if it["default"] == true => None,
                _ => return None,
            };
            Some((path, Said { text, is_secret, is_withheld: is_secret, place }))
        };
        keys.as_array()?.iter().map(one).collect::<Option<_>>().map(Self)
    }

    /// How many keys say something.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add<T: Decode>(&mut self, node: &Node<'_>, cx: &Cx) {
        T::outline(node, &mut Tracer { outline: self, path: Vec::new(), cx });
    }
}

/// Where the tracing is.
pub(crate) struct Tracer<'a> {
    outline: &'a mut Outline,
    path: Vec<String>,
    cx: &'a Cx,
}

impl Tracer<'_> {
    pub(crate) fn within(&mut self, key: &str, inside: impl FnOnce(&mut Self)) {
        self.path.push(key.to_owned());
        inside(self);
        self.path.pop();
    }

    /// This is said here.
    pub(crate) fn say(&mut self, node: &Node<'_>, text: String) {
        let is_secret = self.cx.hides(node.span) || self.is_credential();
        self.insert(node, text, is_secret);
    }

    /// This is said here, and nobody shall see it.
    pub(crate) fn withhold(&mut self, node: &Node<'_>, text: String) {
        self.insert(node, text, true);
    }

    fn insert(&mut self, node: &Node<'_>, text: String, is_secret: bool) {
        let place = Some(self.cx.place(node.span).into());
        self.outline.0.insert(self.path.clone(), Said { text, is_secret, is_withheld: false, place });
    }

    /// Whether it is what a header says that lets somebody in, as far as names tell.
    fn is_credential(&self) -> bool {
        let mut path = self.path.iter().rev();
        let is_named = path.next().is_some_and(|name| is_secret(name));
        is_named && path.any(|key| ["headers", "header", "cookie", "query"].contains(&key.as_str()))
    }

    /// Nothing is said here, and so this.
    pub(crate) fn default(&mut self, key: &str, text: &str) {
        let path = self.path.iter().cloned().chain([key.to_owned()]).collect();
        self.outline
            .0
            .insert(path, Said { text: text.to_owned(), is_secret: false, is_withheld: false, place: None });
    }

    /// Of a list each has its name, or where it stands; if all are plain text, they are one value.
    pub(crate) fn list<T: Decode>(&mut self, items: &[Node<'_>], node: &Node<'_>) {
        let is_text = |item: &Node<'_>| matches!(item.value, Value::Scalar(_));
        if items.iter().all(is_text) {
            let mut texts = items.iter().map(T::text).collect::<Vec<_>>();
            if self.path.last().is_some_and(|key| key == "use") {
                texts.sort(); // A set.
            }
            return match texts.as_slice() {
                [one] => self.say(node, one.clone()),
                all => {
                    let all = all.iter().map(|text| quoted(text)).collect::<Vec<_>>();
                    self.say(node, format!("[{}]", all.join(", ")));
                }
            };
        }
        let mut names = BTreeSet::new();
        for (place, item) in items.iter().enumerate() {
            let name = name_of(item).unwrap_or_else(|| place.to_string());
            let name = if names.insert(name.clone()) { name } else { format!("{name} #{place}") };
            self.within(&name, |tracer| T::outline(item, tracer));
        }
    }
}

/// What tells an item of a list from others.
fn name_of(item: &Node<'_>) -> Option<String> {
    match &item.value {
        Value::Scalar(scalar) => Some(scalar.text.to_string()),
        Value::Map(entries) => {
            let named = |(key, value): &(super::node::Key<'_>, Node<'_>)| match &value.value {
                Value::Scalar(scalar) if ["address", "request", "name"].contains(&&*key.text) => {
                    Some(scalar.text.to_string())
                }
                _ => None,
            };
            entries.iter().find_map(named)
        }
        Value::Seq(_) => None,
    }
}

/// A text among others, so that nobody takes a piece of it for another one.
fn quoted(text: &str) -> String {
    if text.is_empty() || text.contains([',', '[', ']', '{', '}', ':', '"']) {
        format!("{text:?}")
    } else {
        text.into()
    }
}

fn within(node: &Node<'_>) -> String {
    match &node.value {
        Value::Scalar(scalar) => quoted(&scalar.text),
        _ => flow(node),
    }
}

/// In one line, as YAML has it.
pub(crate) fn flow(node: &Node<'_>) -> String {
    match &node.value {
        Value::Scalar(scalar) => scalar.text.to_string(),
        Value::Seq(items) => format!("[{}]", items.iter().map(within).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let pairs = entries.iter().map(|(key, value)| format!("{}: {}", key.text, within(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}
