//! Changes of headers: a group's and a route's, merged by header.

use std::collections::BTreeSet;

use http::HeaderName;

use super::unique;
use crate::config::{
    checked::{HeaderEdit, HeaderEdits},
    decode::{At, Cx, Named},
    diagnostic::Code,
    raw::{RawHeaderEdit, RawHeaders},
};

/// A route's change of a header replaces all that its group does to the same header.
pub(super) fn merged(
    group: Option<&At<RawHeaders>>,
    route: Option<&At<RawHeaders>>,
    cx: &mut Cx,
) -> HeaderEdits {
    fn side(it: Option<&At<RawHeaders>>, request: bool) -> Option<&RawHeaderEdit> {
        let raw = &it?.value;
        Some(&if request { raw.request.as_ref() } else { raw.response.as_ref() }?.value)
    }
    if group.or(route).is_none() {
        return HeaderEdits::default();
    }
    let mut one = |request| {
        let outer = side(group, request).map(|raw| edit(raw, cx)).unwrap_or_default();
        let inner = side(route, request).map(|raw| edit(raw, cx)).unwrap_or_default();
        merge(outer, inner)
    };
    let says = |it: Option<&At<RawHeaders>>| Some(it?.value.security.as_ref()?.value);
    let security = says(route).or_else(|| says(group)).unwrap_or_default();
    HeaderEdits { request: one(true), response: one(false), security }
}

fn merge(mut outer: HeaderEdit, mut inner: HeaderEdit) -> HeaderEdit {
    let names = inner.remove.iter().chain(inner.set.iter().chain(&inner.add).map(|(name, _)| name));
    let names: BTreeSet<String> = names.map(ToString::to_string).collect();
    let keep = |name: &HeaderName| !names.contains(name.as_str());
    outer.remove.retain(keep);
    outer.set.retain(|(name, _)| keep(name));
    outer.add.retain(|(name, _)| keep(name));
    outer.remove.append(&mut inner.remove);
    outer.set.append(&mut inner.set);
    outer.add.append(&mut inner.add);
    outer
}

fn edit(raw: &RawHeaderEdit, cx: &mut Cx) -> HeaderEdit {
    let pairs = |named: &Option<Box<At<Named<HeaderName, http::HeaderValue>>>>, cx: &mut Cx| {
        let mut it = Vec::new();
        for (name, value) in named.iter().flat_map(|named| &named.value.0) {
            allowed(name, cx);
            it.extend(value.clone().map(|value| (name.value.clone(), value)));
        }
        it
    };
    let set = pairs(&raw.set, cx);
    let add = pairs(&raw.add, cx);
    let remove: &[_] = raw.remove.as_ref().map_or(&[], |it| &it.value.0);
    unique(remove, "header", cx);
    for name in remove {
        allowed(name, cx);
    }
    HeaderEdit { remove: remove.iter().map(|name| name.value.clone()).collect(), set, add }
}

/// Reports headers that are the gateway's own business.
fn allowed(at: &At<HeaderName>, cx: &mut Cx) {
    let name = at.value.as_str();
    let (reason, help) = match name {
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding"
        | "upgrade" => ("it belongs to one connection, and the gateway has two", "take it away"),
        "host" => ("it is part of the request target", "write `rewrite: {host: …}`"),
        "content-length" => ("it is counted from the body", "take it away"),
        "x-request-id" => ("the gateway writes it", "take it away"),
        forwarded if forwarded.starts_with("x-forwarded-") => {
            ("the gateway writes it, from what `gateway.trusted_proxies` may say", "take it away")
        }
        _ => return,
    };
    cx.error(Code::Conflict, at.span, format!("`{name}` cannot be changed here: {reason}")).help(help);
}
