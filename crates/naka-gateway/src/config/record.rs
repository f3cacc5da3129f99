//! Records and words: one declaration yields the struct, the reading of it with all mistakes at
//! once, and its part of the JSON Schema.

use std::borrow::Cow;

use serde_json::{Map as Object, Value as Json, json};

use super::{
    decode::{Cx, Form, Scalar, Text, Wrong, said_in},
    diagnostic::Code,
    layout::in_flow,
    node::{Node, Span, Value, json_of},
    outline::{Tracer, flow},
    suggest::{nearest, one_of, quoted},
};

/// A key as it was written, and the known key it is or was probably meant to be.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) meant: Cow<'static, str>,
    /// It is what was written.
    pub(crate) exact: bool,
    pub(crate) span: Span,
}

/// What the macro knows of a field.
pub(crate) struct Field {
    pub(crate) key: &'static str,
    pub(crate) docs: &'static [&'static str],
    pub(crate) mode: Mode,
    /// In place of what the type shows, as YAML.
    pub(crate) example: Option<&'static str>,
    pub(crate) schema: fn() -> Json,
    pub(crate) what: fn() -> String,
    pub(crate) form: fn() -> Form,
    /// Whether `null` is a value of it.
    pub(crate) takes_null: bool,
    pub(crate) outline: fn(&Node<'_>, &mut Tracer<'_>),
}

/// What happens when a field is not there.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    Required,
    Optional,
    Default(&'static str),
}

/// What the macro knows of a record.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) docs: &'static [&'static str],
    pub(crate) fields: &'static [Field],
    pub(crate) not_built: &'static [&'static str],
    /// Keys of other gateways, or of other places, and what to write here.
    pub(crate) instead: &'static [(&'static str, &'static str)],
    /// Which other keys there are, where they are not known here.
    pub(crate) also: Option<fn(&str, &Cx) -> bool>,
    #[cfg(test)]
    pub(crate) decode: fn(&Node<'_>, &mut Cx),
}

/// A key that is known.
#[derive(Clone, Copy)]
pub(crate) enum Known<'k> {
    /// Of the field in this place.
    Field(usize),
    /// Of none, and known elsewhere.
    Also(&'k str),
}

impl Field {
    /// What may be written here, as YAML: what was said, else something of its kind that is not the default, else that.
    pub(crate) fn examples(&self) -> Vec<String> {
        if let Some(example) = self.example {
            return vec![example.into()];
        }
        let form = (self.form)();
        let default = self.default().map(in_flow);
        let mut of_its_kind = form.examples();
        of_its_kind.retain(|example| Some(example) != default.as_ref());
        of_its_kind.truncate(MAX_EXAMPLES);
        match default {
            Some(default) if of_its_kind.is_empty() || !form.unit().is_empty() => vec![default],
            _ => of_its_kind,
        }
    }

    /// What holds if it is not there.
    pub(crate) fn default(&self) -> Option<&'static str> {
        match self.mode {
            Mode::Default(text) => Some(text),
            Mode::Required | Mode::Optional => None,
        }
    }
}

/// More than these nobody reads.
const MAX_EXAMPLES: usize = 3;

impl Shape {
    /// Reads the keys of a map, hands the known ones to `field`, and answers with all of them.
    pub(crate) fn read(
        &self,
        node: &Node<'_>,
        cx: &mut Cx,
        field: &mut dyn FnMut(Known<'_>, &Node<'_>, Span, &mut Cx),
    ) -> Option<Vec<Said>> {
        let Value::Map(entries) = &node.value else {
            cx.wrong_shape(node, self.what);
            return None;
        };
        let mut said = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let text = &*key.text;
            if self.also.is_some_and(|knows| knows(text, cx)) {
                field(Known::Also(text), value, key.span, cx);
                said.push(Said { exact: true, meant: text.to_owned().into(), span: key.span });
                continue;
            }
            if let Some(place) = self.fields.iter().position(|field| field.key == text) {
                let known = &self.fields[place];
                if value.is_null() && !known.takes_null {
                    cx.within(known.key, key.span, |cx| cx.wrong_shape(value, &(known.what)()));
                } else {
                    field(Known::Field(place), value, key.span, cx);
                }
                said.push(Said { exact: true, meant: known.key.into(), span: key.span });
                continue;
            }
            let not_built = self.not_built.iter().find(|key| **key == text);
            if not_built.is_some() {
                let place = cx.in_here();
                cx.error(Code::NotBuilt, key.span, format!("`{text}` is not built yet ({place})"))
                    .label("not built yet")
                    .help(format!(
                        "the grammar has `{text}`, this version does not act on it: take it out for now"
                    ));
            }
            let meant = not_built.map_or_else(|| self.unknown(text, key.span, cx), |key| (*key).into());
            said.push(Said { exact: meant == text, meant, span: key.span });
        }
        self.missing(node, &said, cx);
        Some(said)
    }

    /// Reports a key that nobody knows, and answers with what was probably meant.
    fn unknown(&self, text: &str, span: Span, cx: &mut Cx) -> Cow<'static, str> {
        let keys = || self.fields.iter().map(|field| field.key);
        let meant = nearest(text, keys().chain(self.not_built.iter().copied()));
        let instead = self.instead.iter().find(|(word, _)| *word == text).map(|(_, help)| *help);
        let place = cx.in_here();
        let is_shown = instead.is_some() || meant.is_some() || !cx.hides(span);
        let key = if is_shown { format!("key {}", quoted(text)) } else { "key".into() };
        let it = cx.error(Code::UnknownKey, span, format!("unknown {key} {place}"));
        match (instead, meant) {
            (Some(help), _) => it.help(help),
            (None, Some(meant)) if self.not_built.contains(&meant) => it
                .label(format!("did you mean `{meant}`?"))
                .help(format!("`{meant}` is in the grammar, and not built yet")),
            (None, Some(meant)) => {
                it.label(format!("did you mean `{meant}`?")).help(format!("write `{meant}`"))
            }
            (None, None) => it.help(format!("the keys here are {}", one_of(keys()))),
        };
        meant.filter(|_| instead.is_none()).map_or_else(|| text.to_owned().into(), Cow::Borrowed)
    }

    fn missing(&self, node: &Node<'_>, said: &[Said], cx: &mut Cx) {
        for field in self.fields.iter().filter(|field| matches!(field.mode, Mode::Required)) {
            if said.iter().any(|said| said.meant == field.key) {
                continue;
            }
            let (key, what) = (field.key, (field.what)());
            let place = cx.in_here();
            let span = cx.key_span(node.span);
            cx.error(Code::Missing, span, format!("`{key}` is missing {place}"))
                .label(format!("needs `{key}`"))
                .help(format!("add `{key}:` with {what}"));
        }
    }

    /// What its name shows, or else its first keys.
    pub(crate) fn examples(&self) -> Vec<String> {
        let shown = said_in(self.what);
        if !shown.is_empty() {
            return shown.into_iter().map(str::to_owned).collect();
        }
        let is_required = |field: &&Field| matches!(field.mode, Mode::Required);
        let mut fields: Vec<_> = self.fields.iter().filter(is_required).collect();
        if fields.is_empty() {
            fields.extend(self.fields.first());
        }
        let key = |field: &Field| Some(format!("{}: {}", field.key, field.examples().first()?));
        let keys: Vec<_> = fields.into_iter().filter_map(key).collect();
        vec![format!("{{{}}}", keys.join(", "))]
    }

    pub(crate) fn outline(&self, node: &Node<'_>, tracer: &mut Tracer<'_>) {
        let Value::Map(entries) = &node.value else { return tracer.say(node, flow(node)) };
        let is_known = |key: &str| self.fields.iter().any(|field| field.key == key);
        for (key, value) in entries.iter().filter(|(key, _)| self.also.is_some() && !is_known(&key.text)) {
            tracer.within(&key.text, |tracer| tracer.say(value, flow(value)));
        }
        for field in self.fields {
            match (entries.iter().find(|(key, _)| key.text == field.key), field.mode) {
                (Some((_, value)), _) => tracer.within(field.key, |tracer| (field.outline)(value, tracer)),
                (None, Mode::Default(text)) => tracer.default(field.key, text),
                (None, Mode::Required | Mode::Optional) => {}
            }
        }
    }

    pub(crate) fn schema(&self) -> Json {
        let mut properties = Object::new();
        let mut required = Vec::new();
        for field in self.fields {
            let mut schema = (field.schema)();
            schema["description"] = Json::String(prose(field.docs));
            schema["examples"] = field.examples().iter().map(|example| json_of(example)).collect();
            match field.mode {
                Mode::Required => required.push(field.key),
                Mode::Default(text) => {
                    schema["default"] =
                        serde_json::from_str(text).unwrap_or_else(|_| Json::String(text.into()));
                }
                Mode::Optional => {}
            }
            properties.insert(field.key.into(), schema);
        }
        json!({
            "type": "object",
            "description": prose(self.docs),
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    }
}

pub(crate) fn prose(docs: &[&str]) -> String {
    docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// The default of a field, out of the text that the schema shows.
pub(crate) fn default_of<T: Scalar>(text: &str) -> T {
    match T::parse(Text { text, plain: true }) {
        Ok(value) => value,
        Err(wrong) => unreachable!("a default is read by a test: {text}: {}", wrong.message),
    }
}

/// The YAML key of a field: `r#match` is `match`.
pub(crate) const fn bare(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// Declares a record of the file: a map with known keys.
///
/// A field is `name: Type = required`, `= optional`, or `= "the default as text"`; the last has
/// an accessor of its name that fills the default in. `also: name: Type;` keeps what stands under a key that is not known here, and
/// that `Type` knows.
/// An example may follow a mode, as YAML, where the type has none that fits.
macro_rules! record {
    (
        $(#[doc = $docs:literal])*
        $name:ident ($what:literal) {
            $( $(#[doc = $field_docs:literal])* $field:ident : $type:ty = $mode:tt $(, $example:literal)? ; )*
        }
        $( not_built: $($not_built:ident)+ ; )?
        $( instead: $($word:ident => $help:literal),+ $(,)? ; )?
        $( also: $also:ident : $also_type:ty ; )?
    ) => {
        $(#[doc = $docs])*
        #[derive(Clone, Debug, Default)]
        pub(crate) struct $name {
            $( $(#[doc = $field_docs])* pub(crate) $field: Option<Box<$crate::config::decode::At<$type>>>, )*
            $( /// What stands under a key that is not known here.
            pub(crate) $also: Option<$crate::config::decode::At<$also_type>>, )?
            /// All keys that were written.
            pub(crate) said: Vec<$crate::config::record::Said>,
        }

        #[allow(dead_code, reason = "some defaults serve the schema only")]
        impl $name {
            pub(crate) const SHAPE: $crate::config::record::Shape = $crate::config::record::Shape {
                name: stringify!($name),
                what: $what,
                docs: &[$($docs),*],
                fields: &[$( $crate::config::record::Field {
                    key: $crate::config::record::bare(stringify!($field)),
                    docs: &[$($field_docs),*],
                    mode: record!(@mode $mode),
                    example: record!(@example $($example)?),
                    schema: <$type as $crate::config::decode::Decode>::schema,
                    what: <$type as $crate::config::decode::Decode>::what,
                    form: <$type as $crate::config::decode::Decode>::form,
                    takes_null: <$type as $crate::config::decode::Decode>::TAKES_NULL,
                    outline: <$type as $crate::config::decode::Decode>::outline,
                } ),*],
                not_built: &[$( $( $crate::config::record::bare(stringify!($not_built)) ),+ )?],
                instead: &[$( $( ($crate::config::record::bare(stringify!($word)), $help) ),+ )?],
                also: record!(@also $($also_type)?),
                #[cfg(test)]
                decode: |node, cx| {
                    let _ = <Self as $crate::config::decode::Decode>::decode(node, cx);
                },
            };
            /// What reads each field, in the same order.
            const READ: &[fn(
                &mut Self,
                &$crate::config::node::Node<'_>,
                $crate::config::node::Span,
                &mut $crate::config::decode::Cx,
            )] = &[$( |it, value, span, cx| {
                let key = $crate::config::record::bare(stringify!($field));
                it.$field = $crate::config::decode::At::decode_field(value, (key, span), cx).map(Box::new);
            } ),*];
            $( record!(@accessor $field, $type, $mode); )*

            /// Whether the key was written, well or badly.
            pub(crate) fn said(&self, key: &str) -> Option<$crate::config::node::Span> {
                self.said.iter().find(|said| said.meant == key).map(|said| said.span)
            }
        }

        impl $crate::config::decode::Decode for $name {
            fn what() -> String {
                $what.into()
            }

            fn decode(node: &$crate::config::node::Node<'_>, cx: &mut $crate::config::decode::Cx) -> Option<Self> {
                let mut it = Self::default();
                it.said = Self::SHAPE.read(node, cx, &mut |key, value, span, cx| match key {
                    $crate::config::record::Known::Field(place) => Self::READ[place](&mut it, value, span, cx),
                    $crate::config::record::Known::Also(key) => {
                        let _ = key; // Few records have such.
                        $( it.$also = <$also_type>::decode(key, value, cx)
                            .map(|it| $crate::config::decode::At { value: it, span: value.span, key: span }); )?
                    }
                })?;
                Some(it)
            }

            fn schema() -> serde_json::Value {
                Self::SHAPE.schema()
            }

            fn form() -> $crate::config::decode::Form {
                $crate::config::decode::Form::Record(&Self::SHAPE)
            }

            fn outline(
                node: &$crate::config::node::Node<'_>,
                tracer: &mut $crate::config::outline::Tracer<'_>,
            ) {
                Self::SHAPE.outline(node, tracer);
            }
        }
    };
    (@also) => { None };
    (@also $also_type:ty) => { Some(<$also_type>::knows) };
    (@mode required) => { $crate::config::record::Mode::Required };
    (@mode optional) => { $crate::config::record::Mode::Optional };
    (@mode $text:literal) => { $crate::config::record::Mode::Default($text) };
    (@example) => { None };
    (@example $example:literal) => { Some($example) };
    (@accessor $field:ident, $type:ty, required) => {};
    (@accessor $field:ident, $type:ty, optional) => {};
    (@accessor $field:ident, $type:ty, $text:literal) => {
        pub(crate) fn $field(&self) -> $type {
            self.$field.as_ref().map_or_else(|| $crate::config::record::default_of($text), |it| it.value.clone())
        }
    };
}
pub(crate) use record;

/// Declares a choice of words.
macro_rules! words {
    (
        $(#[doc = $docs:literal])*
        $name:ident ($what:literal) { $( $variant:ident = $word:literal ),+ $(,)? }
        $( not_built: $($not_built:literal)+ ; )?
        $( help: { $($other:literal => $help:literal),+ $(,)? } )?
    ) => {
        $(#[doc = $docs])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum $name { $( $variant ),+ }

        impl $crate::config::decode::Scalar for $name {
            const WHAT: &'static str = $what;
            const WORDS: &'static [&'static str] = &[$($word),+];

            fn parse(text: $crate::config::decode::Text<'_>) -> Result<Self, $crate::config::decode::Wrong> {
                match text.text {
                    $( $word => Ok(Self::$variant), )+
                    other => Err($crate::config::record::wrong_word(
                        other, &[$($word),+], &[$( $($not_built),+ )?], &[$( $(($other, $help)),+ )?],
                    )),
                }
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({"enum": [$($word),+]})
            }
        }
    };
}
pub(crate) use words;

/// Why a word is none of the words.
pub(crate) fn wrong_word(word: &str, words: &[&str], not_built: &[&str], help: &[(&str, &str)]) -> Wrong {
    if not_built.contains(&word) {
        return Wrong::not_built(word).help(format!("this version has {}", one_of(words.iter().copied())));
    }
    let wrong = Wrong::new(format!("{} is not {}", quoted(word), one_of(words.iter().copied())));
    if let Some((_, help)) = help.iter().find(|(known, _)| *known == word) {
        return wrong.help(*help);
    }
    match nearest(word, words.iter().chain(not_built).copied()) {
        Some(meant) => wrong.help(format!("did you mean `{meant}`?")),
        None => wrong.help(format!("write {}", one_of(words.iter().copied()))),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, rc::Rc, sync::Arc};

    use super::*;
    use crate::config::{
        decode::Decode as _,
        diagnostic::Source,
        node::parse,
        raw::{RawApiKeys, RawFile, RawScenario},
    };
    use crate::custom::Kinds;

    /// All records of a form, each once.
    fn records(form: &Form, found: &mut Vec<&'static Shape>, names: &mut BTreeSet<&'static str>) {
        match form {
            Form::Text(_) => {}
            Form::Named(_, each) | Form::List(each) => records(each, found, names),
            Form::Either(one, other) => {
                records(one, found, names);
                records(other, found, names);
            }
            Form::Record(shape) => {
                if names.insert(shape.name) {
                    found.push(shape);
                    for field in shape.fields {
                        records(&(field.form)(), found, names);
                    }
                }
            }
        }
    }

    /// What the schema and the page of all keys show is read by who reads files.
    #[test]
    fn every_example_is_right() {
        let (mut found, mut names, mut wrong, mut read) = (Vec::new(), BTreeSet::new(), Vec::new(), 0);
        records(&RawFile::form(), &mut found, &mut names);
        records(&RawApiKeys::form(), &mut found, &mut names);
        records(&RawScenario::form(), &mut found, &mut names);
        assert!(found.len() > 60, "{}", found.len());
        for shape in found {
            for field in shape.fields {
                for example in field.examples() {
                    let text = format!("{{{}: {example}}}", field.key);
                    let source = Arc::new(Source::new("example", text.as_str()));
                    let mut cx = Cx::new(vec![Arc::clone(&source)], Rc::default(), Kinds::default());
                    if let Some(node) = parse(&source, 0, &mut cx) {
                        (shape.decode)(&node, &mut cx);
                    }
                    read += 1;
                    // What else a record needs is not there.
                    let is_wrong = |it: &&crate::config::Diagnostic| {
                        it.code != Code::Missing || !it.message.ends_with("at the top of the file")
                    };
                    wrong.extend(
                        cx.found()
                            .iter()
                            .filter(is_wrong)
                            .map(|it| format!("{}: {text}: {}", shape.name, it.message)),
                    );
                }
            }
        }
        assert!(read > 426, "{read}");
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
