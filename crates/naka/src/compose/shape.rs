//! The answer that is made of those to calls: an object whose values are pieces of theirs.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    json,
    plan::{ComposeError, Resolver, Source, Sources, source},
    template::{Template, TemplateError, joined, lossy},
};

/// How deep objects and lists of an answer's shape may be in each other.
pub const MAX_SHAPE: usize = 16;

/// What an answer, or a part of it, looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An object; what is not there is left out.
    Object(Vec<(Arc<str>, Shape)>),
    /// A list; what is not there is `null`.
    List(Vec<Shape>),
    /// One value, as it stands: `{order.body}`. Or text with values in it, which is a JSON string.
    Text(Template),
    /// This JSON.
    Json(Arc<str>),
}

impl Shape {
    /// An object.
    pub fn object<N: AsRef<str>>(members: impl IntoIterator<Item = (N, Self)>) -> Self {
        Self::Object(members.into_iter().map(|(name, shape)| (name.as_ref().into(), shape)).collect())
    }

    /// A value, or text with values in it.
    ///
    /// # Errors
    /// If it is no template.
    pub fn text(text: &str) -> Result<Self, TemplateError> {
        Template::parse(text).map(Self::Text)
    }

    pub(super) fn resolved(&self, resolver: &mut Resolver<'_>, depth: usize) -> Result<Shaped, ComposeError> {
        if depth == MAX_SHAPE {
            return Err(ComposeError::TooDeep);
        }
        Ok(match self {
            Self::Object(members) => {
                let member = |(name, shape): &(Arc<str>, Self)| {
                    Ok((Arc::clone(name), shape.resolved(resolver, depth + 1)?))
                };
                Shaped::Object(members.iter().map(member).collect::<Result<_, _>>()?)
            }
            Self::List(items) => {
                let item = |shape: &Self| shape.resolved(resolver, depth + 1);
                Shaped::List(items.iter().map(item).collect::<Result<_, _>>()?)
            }
            Self::Text(template) => match template.only() {
                Some(value) => Shaped::Value(resolver.value(value)?),
                None => Shaped::Text(template.clone(), resolver.template(template)?),
            },
            Self::Json(text) => Shaped::Json(Arc::clone(text)),
        })
    }
}

/// The same, with what its values stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shaped {
    Object(Vec<(Arc<str>, Shaped)>),
    List(Vec<Shaped>),
    Value(Source),
    Text(Template, Sources),
    Json(Arc<str>),
}

/// Where the values of an answer come from.
pub(super) trait Values {
    /// Writes one as JSON; says whether it is there.
    fn json(&self, source: &Source, into: &mut Vec<u8>) -> bool;
    /// The text, or the texts, that one stands for, if it is there.
    fn texts(&self, source: &Source) -> Option<Vec<Vec<u8>>>;
}

/// The answer would be larger than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Shaped {
    /// The body of each call, under its name.
    pub(super) fn bodies(calls: impl Iterator<Item = Arc<str>>) -> Self {
        let member = |(place, name)| (name, Self::Value(Source::Body(place, Vec::new())));
        Self::Object(calls.enumerate().map(member).collect())
    }

    pub(super) const fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// Whether the object has such a member.
    pub(super) fn has(&self, name: &str) -> bool {
        matches!(self, Self::Object(members) if members.iter().any(|(known, _)| **known == *name))
    }

    /// The calls whose answers it uses.
    pub(super) fn calls(&self) -> BTreeSet<usize> {
        match self {
            Self::Object(members) => members.iter().flat_map(|(_, shape)| shape.calls()).collect(),
            Self::List(items) => items.iter().flat_map(Self::calls).collect(),
            Self::Value(source) => source.call().into_iter().collect(),
            Self::Text(_, sources) => sources.iter().filter_map(|(_, source)| source.call()).collect(),
            Self::Json(_) => BTreeSet::new(),
        }
    }

    /// Writes it; says whether there is anything.
    pub(super) fn write(
        &self,
        values: &dyn Values,
        max: usize,
        into: &mut Vec<u8>,
    ) -> Result<bool, TooLarge> {
        let is_there = match self {
            Self::Object(members) => {
                into.push(b'{');
                for (name, shape) in members {
                    let before = into.len();
                    if into.last() != Some(&b'{') {
                        into.push(b',');
                    }
                    json::quote(name, into);
                    into.push(b':');
                    if !shape.write(values, max, into)? {
                        into.truncate(before);
                    }
                }
                into.push(b'}');
                true
            }
            Self::List(items) => {
                into.push(b'[');
                for (place, shape) in items.iter().enumerate() {
                    if place > 0 {
                        into.push(b',');
                    }
                    let before = into.len();
                    if !shape.write(values, max, into)? {
                        into.truncate(before);
                        into.extend_from_slice(b"null");
                    }
                }
                into.push(b']');
                true
            }
            Self::Value(source) => values.json(source, into),
            Self::Text(template, sources) => {
                let value = |name: &Arc<str>| source(sources, name).and_then(|it| values.texts(it)).ok_or(());
                match joined(template, value) {
                    Ok(text) => {
                        json::quote(&lossy(&text), into);
                        true
                    }
                    Err(()) => false,
                }
            }
            Self::Json(text) => {
                into.extend_from_slice(text.as_bytes());
                true
            }
        };
        if into.len() > max { Err(TooLarge) } else { Ok(is_there) }
    }
}
