//! Configurations as they are written: a tree, and its text.

use std::fmt::{Display, Write as _};

use serde_json::Value as Json;

use crate::config::{Node, Value};

/// A value that is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Out {
    /// A number, a truth, a word of the grammar: as it is.
    Plain(String),
    /// Text: in quotes, which the layout takes away where they are not needed.
    Text(String),
    List(Vec<Out>),
    Map(Vec<(String, Out)>),
}

/// Keys and values, in order.
pub(super) type Keys = Vec<(String, Out)>;

impl Out {
    pub(super) fn plain(it: impl Display) -> Self {
        Self::Plain(it.to_string())
    }

    pub(super) fn text(it: impl Into<String>) -> Self {
        Self::Text(it.into())
    }

    pub(super) fn texts<T: Into<String>>(all: impl IntoIterator<Item = T>) -> Self {
        Self::List(all.into_iter().map(Self::text).collect())
    }

    pub(super) fn map<K: Into<String>>(all: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Map(all.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    /// As somebody else has written it.
    pub(super) fn copied(node: &Node<'_>) -> Self {
        match &node.value {
            Value::Scalar(it) if it.plain && it.text.parse::<f64>().is_ok() => Self::plain(&it.text),
            Value::Scalar(it) if it.plain && matches!(&*it.text, "true" | "false") => Self::plain(&it.text),
            Value::Scalar(it) => Self::text(it.text.clone()),
            Value::Seq(items) => Self::List(items.iter().map(Self::copied).collect()),
            Value::Map(entries) => Self::map(entries.iter().map(|(key, it)| (&*key.text, Self::copied(it)))),
        }
    }

    fn write(&self, text: &mut String) {
        match self {
            Self::Plain(it) => text.push_str(it),
            Self::Text(it) => text.push_str(&in_quotes(it)),
            Self::List(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    text.push_str(if index == 0 { "" } else { ", " });
                    item.write(text);
                }
                text.push(']');
            }
            Self::Map(entries) => {
                text.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    text.push_str(if index == 0 { "" } else { ", " });
                    text.push_str(&in_quotes(key));
                    text.push_str(": ");
                    value.write(text);
                }
                text.push('}');
            }
        }
    }
}

/// JSON's quotes are YAML's, too.
fn in_quotes(text: &str) -> String {
    Json::from(text).to_string()
}

/// A block of named things, each with a remark of where it comes from.
pub(super) struct Block {
    pub(super) name: &'static str,
    pub(super) entries: Vec<Entry>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// In a line before it; may be empty.
    pub(super) remark: String,
    pub(super) keys: Keys,
}

/// The text of a configuration. `naka fmt` lays it out.
pub(super) fn written(head: &[String], top: &[(String, Out)], blocks: &[Block]) -> String {
    let mut text = String::new();
    for line in head {
        let _ = writeln!(text, "# {line}");
    }
    for (key, value) in top {
        let _ = write!(text, "{key}: ");
        value.write(&mut text);
        text.push('\n');
    }
    for Block { name, entries } in blocks.iter().filter(|block| !block.entries.is_empty()) {
        let _ = writeln!(text, "\n{name}:");
        for Entry { name, remark, keys } in entries {
            if !remark.is_empty() {
                let remark: String = remark.chars().filter(|c| !c.is_control()).collect(); // One line of it.
                let _ = writeln!(text, "  # {remark}");
            }
            let _ = writeln!(text, "  {}:", in_quotes(name));
            for (key, value) in keys {
                let _ = write!(text, "    {key}: ");
                value.write(&mut text);
                text.push('\n');
            }
        }
    }
    text
}
