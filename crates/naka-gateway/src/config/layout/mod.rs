//! One layout for all configurations, comments kept: `naka fmt`.
//!
//! 1. The text is read as always. What is no YAML, or has keys that nobody knows, is refused; a wrong value is not.
//! 2. It is read once more for its looks (`written`): comments belong to what they stand before, or behind in the same line.
//! 3. The keys of records are put in the order of their declaration, and sets of policies in that of the layers (`order`).
//!    Names keep the order in which they were written.
//! 4. It is printed (`print`): two spaces a level, one way to quote (`quotes`), block or flow as it was, but for what does not fit
//!    into a line or has comments inside.
//! 5. What was printed is read again. If it has other values or other comments, the text is left alone: that is a mistake of ours.
//!
//! # Limits
//! Those of reading. Anchors, aliases, `<<` and text of several lines stay as they were written.

mod order;
mod print;
mod quotes;
mod written;

use std::{fmt, rc::Rc, sync::Arc};

use granit_parser::ScalarStyle;

use self::{order::Places, written::Written};
use crate::custom::Kinds;

use super::{
    decode::{Cx, Decode, Form},
    diagnostic::{Code, Diagnostics, Source},
    node::{self, Node, Value},
    raw::{RawApiKeys, RawFile, RawList, RawScenario},
};

/// A text, and as it is laid out.
#[derive(Debug)]
pub struct Formatted {
    /// In the one layout.
    pub text: String,
    /// As it was, with stars for secrets: for a comparison that somebody sees.
    pub shown_before: String,
    /// In the one layout, with stars for secrets.
    pub shown: String,
}

/// Why a text was left as it is.
#[derive(Debug)]
pub enum Unformatted {
    /// It is wrong.
    Wrong(Diagnostics),
    /// It would have become another one, here: a mistake of ours.
    Bug(String),
}

impl Unformatted {
    /// For people.
    pub fn render(&self, color: bool) -> String {
        match self {
            Self::Wrong(found) => found.render(color),
            Self::Bug(what) => format!(
                "error: this is left as it is, because another layout would have changed it: {what}\n  \
                 help: this is a bug in `naka fmt`; please report it with the lines around that place\n"
            ),
        }
    }
}

impl fmt::Display for Unformatted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// Lays out a configuration, one of the files it includes, a list of endpoints, a list of keys or a scenario.
pub fn format_str(name: &str, text: &str) -> Result<Formatted, Unformatted> {
    format_with(name, text, &Kinds::default())
}

/// As [`format_str`], with policies of these kinds, too.
pub fn format_with(name: &str, text: &str, kinds: &Kinds) -> Result<Formatted, Unformatted> {
    let before = Reading::of(name, text, kinds);
    before.may_be_laid_out()?;
    let mut written = Written::read(text).map_err(Unformatted::Bug)?;
    let comments = written.comments.clone();
    order::arrange(&mut written.root, &before.form, &before.places);
    let printed = print::print(&written);
    let after = Reading::of(name, &printed, kinds);
    let is_same = match (&before.root, &after.root) {
        (Some(one), Some(other)) => same(one, other, Some(&before.form), &before.cx),
        _ => Err("it is not read any more".into()),
    };
    is_same.map_err(Unformatted::Bug)?;
    let kept = Written::read(&printed).map_err(Unformatted::Bug)?.comments;
    if let Some(line) = difference(comments, kept) {
        return Err(Unformatted::Bug(format!("the comment at {name}:{line}")));
    }
    Ok(Formatted { shown_before: before.shown(), shown: after.shown(), text: printed })
}

/// A text as it stands within brackets: as it is, if it is a number or something like it.
pub(crate) fn in_flow(text: &str) -> String {
    quotes::notation(text, text, ScalarStyle::Plain)
}

/// The line of a comment that is not in both.
fn difference(mut one: Vec<(String, usize)>, mut other: Vec<(String, usize)>) -> Option<usize> {
    one.sort();
    other.sort();
    let apart = one.iter().zip(&other).find(|((one, _), (other, _))| one != other).map(|(one, _)| one);
    apart.or_else(|| one.get(other.len()).or(other.get(one.len()))).map(|(_, line)| *line)
}

/// A text as it is always read.
struct Reading {
    root: Option<Node<'static>>,
    source: Arc<Source>,
    cx: Cx,
    form: Form,
    places: Places,
}

impl Reading {
    fn of(name: &str, text: &str, kinds: &Kinds) -> Self {
        let source = Arc::new(Source::new(name, text));
        let mut cx = Cx::new(vec![Arc::clone(&source)], Rc::default(), kinds.clone());
        let root = node::parse(&source, 0, &mut cx).map(Node::into_owned);
        let (form, places) = match &root {
            Some(Node { value: Value::Seq(_), .. }) => {
                (decoded::<RawList>(root.as_ref(), &mut cx).0, Places::default())
            }
            Some(Node { value: Value::Map(entries), .. })
                if entries.len() == 1 && entries[0].0.text == "keys" =>
            {
                (decoded::<RawApiKeys>(root.as_ref(), &mut cx).0, Places::default())
            }
            Some(Node { value: Value::Map(entries), .. })
                if entries.iter().any(|(key, _)| ["duration", "load"].contains(&&*key.text)) =>
            {
                (decoded::<RawScenario>(root.as_ref(), &mut cx).0, Places::default())
            }
            _ => {
                let (form, raw) = decoded::<RawFile>(root.as_ref(), &mut cx);
                (form, raw.map(|raw| Places::of(&raw)).unwrap_or_default())
            }
        };
        Self { root, source, cx, form, places }
    }

    /// Refuses what is no YAML, or has keys that nobody knows.
    fn may_be_laid_out(&self) -> Result<(), Unformatted> {
        let refused =
            |code| matches!(code, Code::Syntax | Code::TooLarge | Code::UnknownKey | Code::Duplicate);
        let found = self.cx.found().iter().filter(|it| refused(it.code)).cloned().collect::<Vec<_>>();
        if found.is_empty() { Ok(()) } else { Err(Unformatted::Wrong(Diagnostics::new(found))) }
    }

    fn shown(&self) -> String {
        self.source.shown(0..self.source.text().len()).into_owned()
    }
}

fn decoded<T: Decode>(root: Option<&Node<'_>>, cx: &mut Cx) -> (Form, Option<T>) {
    (T::form(), root.and_then(|root| T::decode(root, cx)))
}

/// Whether both say the same, in whatever order a record has its keys, and a set its names. Otherwise, where they do not.
fn same(one: &Node<'_>, other: &Node<'_>, form: Option<&Form>, cx: &Cx) -> Result<(), String> {
    let here = || Err(format!("what stands at {}", cx.place(one.span)));
    match (&one.value, &other.value) {
        (Value::Scalar(before), Value::Scalar(after)) => {
            let is_text = !quotes::may_be_no_text(&before.text);
            let is_same = before.text == after.text && (is_text || before.plain == after.plain);
            if is_same { Ok(()) } else { here() }
        }
        (Value::Seq(before), Value::Seq(after)) if before.len() == after.len() => {
            let each = form.and_then(Form::each);
            before.iter().zip(after).try_for_each(|(one, other)| same(one, other, each, cx))
        }
        (Value::Map(before), Value::Map(after)) if before.len() == after.len() => {
            let is_record = form.is_some_and(|form| form.record().is_some());
            before.iter().zip(after).try_for_each(|((key, value), in_place)| {
                let moved = || after.iter().find(|(other, _)| other.text == key.text);
                let found = if is_record { moved() } else { Some(in_place) };
                let Some((_, found)) = found.filter(|(other, _)| other.text == key.text) else {
                    return Err(format!("the key at {}", cx.place(key.span)));
                };
                if order::is_set(form, &key.text) {
                    return same_set(value, found).then_some(()).map_or_else(here, Ok);
                }
                same(value, found, form.and_then(|form| form.under(&key.text)).as_ref(), cx)
            })
        }
        _ => here(),
    }
}

fn same_set(one: &Node<'_>, other: &Node<'_>) -> bool {
    let names = |node: &Node<'_>| {
        let mut names = match &node.value {
            Value::Seq(items) => items.iter().map(Node::shape).collect(),
            _ => vec![node.shape()],
        };
        names.sort();
        names
    };
    names(one) == names(other)
}
