//! The records of compositions.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method};
use naka::compose::{Template, TemplateError};
use serde_json::{Value as Json, json};

use super::{RawCircuitBreaker, RawRetry};
use crate::config::{
    decode::{At, Cx, Decode, Form, Named, OneOrMany, Or, Plain, Scalar, Text, Wrong},
    diagnostic::Code,
    node::{Node, Span, Value},
    path::encoded,
    record::record,
    suggest::quoted,
    units::{Size, Whole},
    values::Id,
};

record! {
    /// Several calls, each to an upstream, whose answers become one.
    RawCompose ("a composition such as `{calls: {order: {upstream: orders, path: /orders/1}}}`") {
        /// The calls, 1 to 16, each with a name by which others refer to its answer.
        calls: Named<CallName, RawCall> = required, "{order: {upstream: orders, path: \"/orders/{id}\"}}";
        /// The answer, a JSON object: `"{order.body}"` is a piece of an answer as it stands, other text is text with values in it. If nothing is said, the body of each call under its name.
        body: RawShape = optional, "{order: \"{order.body}\", buyer: \"{buyer.body.name}\"}";
        /// Headers of the client that are sent along, besides those that say who asks, of which trace it is and how it came.
        headers: OneOrMany<HeaderName> = optional, "[accept-language]";
        /// Calls under way at a time, of one request.
        max_in_flight: Whole<1, 16> = "8";
        /// Bytes of the body of one call's answer.
        max_part: Size = "1MiB";
        /// Bytes of the answer.
        max_body: Size = "4MiB";
    }
    instead: backends => "write `calls: {order: {upstream: orders, path: \"/orders/{id}\"}}`",
        parts => "write `calls: {order: {upstream: orders, path: \"/orders/{id}\"}}`",
        steps => "write `calls: {order: {upstream: orders, path: \"/orders/{id}\"}}`",
        response => "write `body:`",
        output => "write `body:`",
        timeout => "the whole answer has the route's `timeouts: {total: 2s}`, each call its own",
        timeouts => "write `timeouts:` beside `compose`, and into each call";
}

record! {
    /// One call of a composition.
    RawCall ("a call such as `{upstream: orders, path: /orders/1}`") {
        /// Where it goes.
        upstream: Id = required, "orders";
        /// What is asked for, with a query if there is one. Values: captures of the match, `{query.city}`, `{jwt.sub}`, `{identity}`, `{api_key}`, `{host}`, `{client_ip}`, `{order.body.user_id}`, `{order.status}`; `*` gathers what all elements of a list have, with commas between.
        path: CallTarget = required;
        /// By what method: a safe one.
        method: Method = "GET", "HEAD";
        /// Calls that have to be over before, besides those whose answers it names.
        needs: OneOrMany<CallName> = optional, "[order]";
        /// Without it there is no answer.
        required: bool = "true", "false";
        /// What stands in place of its body if it fails; then it is not required.
        default: RawJson = optional, "null";
        /// The most values that one `*` may gather.
        max_values: Whole<1, 1000> = "100";
        /// How long it may take.
        timeouts: RawCallTimeouts = optional;
        /// A circuit breaker of this call: a name, or the breaker itself. What the upstream has of each endpoint holds besides.
        circuit_breaker: Or<Id, RawCircuitBreaker> = optional;
        /// Retries: a name, or what is retried.
        retry: Or<Id, RawRetry> = optional;
    }
    not_built: headers cache;
    instead: url => "write `upstream:` and `path:`",
        uri => "write `path:`",
        target => "write `path:`",
        depends_on => "write `needs: [order]`, or name its answer in the path: `/users/{order.body.user_id}`",
        optional => "write `required: false`",
        fallback => "write `default:` with what stands in place of its body",
        timeout => "write `timeouts: {total: 300ms}`",
        bulkhead => "write it into the upstream: it holds for each call that goes there",
        body => "calls send no body: they are made by `GET`, or another safe method";
}

record! {
    /// How long a call may take.
    RawCallTimeouts ("timeouts such as `{total: 300ms}`") {
        /// From its beginning to the last byte of its answer, all tries.
        total: Duration = "10s";
    }
    instead: per_try => "`per_try` is a timeout of the upstream",
        connect => "`connect` is a timeout of the upstream",
        response_headers => "`response_headers` is a timeout of the upstream",
        idle => "`idle` is a timeout of the upstream, or of the route";
}

/// The name of a call: one word of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CallName(pub(crate) Arc<str>);

impl CallName {
    /// What stands for other things between braces.
    pub(crate) const TAKEN: [&'static str; 6] = ["query", "jwt", "identity", "api_key", "host", "client_ip"];
}

impl Scalar for CallName {
    const WHAT: &'static str = "the name of a call such as `order`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let text = text.text;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if Self::TAKEN.contains(&text) {
            return Err(Wrong::new(format!("{} stands for something else between braces", quoted(text)))
                .help("choose another name for the call"));
        }
        if !text.is_empty() && text.len() <= 64 && text.chars().all(fits) {
            return Ok(Self(text.into()));
        }
        let better = text.chars().map(|c| if fits(c) { c } else { '-' }).take(64).collect::<String>();
        let better = if better.is_empty() { "order" } else { &better };
        Err(Wrong::new(format!("{} is not the name of a call", quoted(text)))
            .help(format!("letters, digits, `-` and `_`, at most 64: `{better}`")))
    }
}

/// What a call asks for.
#[derive(Clone, Debug)]
pub(crate) struct CallTarget(pub(crate) Template);

impl Scalar for CallTarget {
    const WHAT: &'static str = "a path such as `/users/{order.body.user_id}`";

    fn may_hold_secret(text: &str) -> bool {
        text.contains('?')
    }

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let read = Template::parse(text.text).and_then(|it| it.check_target().map(|()| it));
        read.map(Self).map_err(|error| wrong_template(&error, text.text))
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^/", "examples": ["/users/{order.body.user_id}"]})
    }
}

fn wrong_template(error: &TemplateError, text: &str) -> Wrong {
    let wrong = Wrong::new(error.to_string());
    match error {
        TemplateError::NoValue(value) => wrong.piece(format!("{{{value}}}")).help(
            "write words with dots between them: `{id}`, `{query.city}`, `{jwt.sub}`, `{order.body.user_id}`",
        ),
        TemplateError::Unclosed => wrong.piece("{").help("close it: `{name}`"),
        TemplateError::Unopened => wrong.piece("}").help("open it: `{name}`"),
        TemplateError::NoSlash if text.contains("://") => {
            wrong.help("write the path alone, beginning with `/`: `upstream:` says where")
        }
        TemplateError::NoSlash => wrong.help(format!("write `/{}`", text.trim_start())),
        TemplateError::CannotStand('#') => {
            wrong.piece("#").help("take it out: a fragment never reaches a server")
        }
        TemplateError::CannotStand(c) => {
            let encoded = encoded(c.to_string().as_bytes());
            wrong.piece(c.to_string()).help(format!("write `{encoded}`"))
        }
        TemplateError::NotNormal => {
            wrong.help("write one `/` between segments, no `.` and `..`, and `/` and `.` as they are")
        }
        _ => wrong.help("make it shorter, or write two calls"),
    }
}

/// Any value, as JSON.
#[derive(Clone, Debug)]
pub(crate) struct RawJson(pub(crate) Arc<str>);

impl Decode for RawJson {
    const TAKES_NULL: bool = true;

    fn what() -> String {
        "a value such as `null`, `[]` or `{state: unknown}`".into()
    }

    fn decode(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        if is_nothing(node, cx) || node.unquoted_capture().is_some() {
            cx.wrong_shape(node, &Self::what());
            return None;
        }
        Some(Self(node.to_json().to_string().into()))
    }

    fn schema() -> Json {
        json!({})
    }

    fn form() -> Form {
        Form::Text(any("a value", || vec!["null"]))
    }
}

/// Nothing at all, where `null` would be something.
fn is_nothing(node: &Node<'_>, cx: &Cx) -> bool {
    node.is_null() && cx.text(node.span).trim().is_empty()
}

fn any(what: &'static str, examples: fn() -> Vec<&'static str>) -> Plain {
    Plain { what, words: &[], unit: "", examples, schema: || json!({}) }
}

/// What an answer, or a part of it, looks like.
#[derive(Clone, Debug)]
pub(crate) enum RawShape {
    Object(Vec<(At<Arc<str>>, RawShape)>),
    List(Vec<RawShape>),
    Text(At<Template>),
    Json(Arc<str>),
}

impl RawShape {
    /// All texts with values in them.
    pub(crate) fn templates(&self) -> Vec<&At<Template>> {
        match self {
            Self::Object(members) => members.iter().flat_map(|(_, shape)| shape.templates()).collect(),
            Self::List(items) => items.iter().flat_map(Self::templates).collect(),
            Self::Text(template) => vec![template],
            Self::Json(_) => Vec::new(),
        }
    }

    fn read(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        match &node.value {
            Value::Map(entries) if node.unquoted_capture().is_none() => {
                let mut members = Vec::with_capacity(entries.len());
                let mut complete = true;
                for (key, value) in entries {
                    let member = cx.within(&key.text, key.span, |cx| Self::read(value, cx));
                    complete &= member.is_some();
                    let name = At { value: key.text.as_ref().into(), span: key.span, key: key.span };
                    members.extend(member.map(|member| (name, member)));
                }
                complete.then_some(Self::Object(members))
            }
            Value::Map(_) => {
                cx.wrong_shape(node, &Self::what());
                None
            }
            Value::Seq(items) => {
                let items = items.iter().map(|item| Self::read(item, cx)).collect::<Vec<_>>();
                items.into_iter().collect::<Option<_>>().map(Self::List)
            }
            Value::Scalar(_) if is_nothing(node, cx) => {
                cx.wrong_shape(node, "a value such as `\"{order.body}\"`");
                None
            }
            Value::Scalar(word) if word.text.contains(['{', '}']) => {
                Self::template(&word.text, node.span, cx)
                    .map(|value| Self::Text(At { value, span: node.span, key: node.span }))
            }
            Value::Scalar(_) => Some(Self::Json(node.to_json().to_string().into())),
        }
    }

    fn template(text: &str, span: Span, cx: &mut Cx) -> Option<Template> {
        match Template::parse(text) {
            Ok(template) => Some(template),
            Err(error) => {
                let Wrong { message, help, piece, .. } = wrong_template(&error, text);
                let here = cx.here();
                let span = piece.map_or(span, |piece| cx.narrow(span, &piece));
                cx.error(Code::Value, span, format!("`{here}`: {message}")).help = help;
                None
            }
        }
    }
}

impl Decode for RawShape {
    fn what() -> String {
        "a map such as `{order: \"{order.body}\"}`".into()
    }

    fn decode(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        if matches!(node.value, Value::Map(_)) {
            return Self::read(node, cx);
        }
        cx.wrong_shape(node, &Self::what());
        None
    }

    fn schema() -> Json {
        json!({"type": "object"})
    }

    fn form() -> Form {
        let value =
            Form::Text(any("a piece of an answer such as `\"{order.body}\"`", || vec!["{order.body}"]));
        Form::Named(any("a name", || vec!["order"]), Box::new(value))
    }
}
