//! What is done with a request, in the words that both APIs share: headers, CORS, shares, durations.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method};

use super::{
    fields::Said,
    out::{Keys, Out},
    report::Findings,
};
use crate::config::{Scalar, Span, Text, checked::Template, quoted, show_duration};

/// The text, if the grammar takes it there. Else it is told, and left out.
pub(super) fn valid<T: Scalar>(said: &Said, findings: &mut Findings) -> Option<String> {
    match T::parse(Text { text: &said.text, plain: false }) {
        Ok(_) => Some(said.text.clone()),
        Err(wrong) => {
            findings.left_out(said.at, wrong.message, wrong.help.unwrap_or_default());
            None
        }
    }
}

/// A path that another one becomes. Braces would be captures to whoever reads what is written here.
pub(super) fn path(said: &Said, findings: &mut Findings) -> Option<String> {
    if said.text.contains(['{', '}']) {
        findings.left_out(
            said.at,
            format!("{} has braces, which are captures here: the path stays as it is", quoted(&said.text)),
            "write `%7B` and `%7D`",
        );
        return None;
    }
    valid::<Template>(said, findings)
}

/// Who answers GET answers HEAD (RFC 9110, section 9.3.2), where a match of a cluster names GET alone.
pub(super) fn tell_of_head(methods: &BTreeSet<Arc<str>>, at: Span, findings: &mut Findings) {
    if methods.contains("GET") && !methods.contains("HEAD") {
        findings.changed(
            at,
            "a match for GET is one for HEAD, too; it was for GET alone",
            "write `authorize: {not: {method: HEAD}}` on the route if it shall not be: that is 403",
        );
    }
}

/// Whether the grammar takes it for a method.
pub(super) fn is_method(text: &str) -> bool {
    Method::parse(Text { text, plain: false }).is_ok()
}

/// Changes of one message.
#[derive(Clone, Debug, Default)]
pub(super) struct Edit {
    pub(super) set: Vec<(String, Said)>,
    pub(super) add: Vec<(String, Said)>,
    pub(super) remove: Vec<Said>,
}

/// Changes of headers, without those that are the gateway's own business. A new `Host` is handed back.
pub(super) fn headers(request: Edit, response: Edit, findings: &mut Findings) -> (Keys, Option<String>) {
    let mut host = None;
    let mut sides = Keys::new();
    for (side, edit) in [("request", request), ("response", response)] {
        let mut keys = Keys::new();
        for (key, pairs) in [("set", edit.set), ("add", edit.add)] {
            let mut kept: Vec<(String, Out)> = Vec::new();
            for (name, value) in pairs {
                if side == "request" && matches!(name.to_ascii_lowercase().as_str(), "host" | ":authority") {
                    host = Some(value.text);
                } else if let Some(name) = may_be_changed(&name, value.at, findings)
                    && let Some(value) = may_be_sent(&value, findings)
                {
                    kept.retain(|(known, _)| *known != name); // The last counts.
                    kept.push((name, value));
                }
            }
            if !kept.is_empty() {
                keys.push((key.into(), Out::Map(kept)));
            }
        }
        let remove = edit.remove.iter().filter_map(|it| may_be_changed(&it.text, it.at, findings));
        let mut remove = remove.collect::<Vec<_>>();
        remove.sort();
        remove.dedup();
        if !remove.is_empty() {
            keys.push(("remove".into(), Out::texts(remove)));
        }
        if !keys.is_empty() {
            sides.push((side.into(), Out::Map(keys)));
        }
    }
    let keys = if sides.is_empty() { Keys::new() } else { vec![("headers".into(), Out::Map(sides))] };
    (keys, host)
}

fn may_be_changed(name: &str, at: Span, findings: &mut Findings) -> Option<String> {
    let Ok(name) = name.parse::<HeaderName>() else {
        findings.error(at, format!("{} is no name of a header", quoted(name)), "");
        return None;
    };
    let name = name.as_str().to_owned();
    let is_own = name.starts_with("x-forwarded-")
        || [
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "host",
            "content-length",
            "x-request-id",
        ]
        .contains(&name.as_str());
    if is_own {
        findings.left_out(
            at,
            format!("the header `{name}` is the gateway's own business"),
            "it is written by the gateway, or belongs to one connection",
        );
        return None;
    }
    Some(name)
}

fn may_be_sent(value: &Said, findings: &mut Findings) -> Option<Out> {
    if value.text.contains('%') {
        findings.left_out(
            value.at,
            format!("{} has a format of Envoy in it (`%…%`)", quoted(&value.text)),
            "a header has one value here; what says how a request came stands in `X-Forwarded-*`",
        );
        return None;
    }
    if HeaderValue::from_str(&value.text).is_err() {
        findings.error(value.at, format!("{} is no value of a header", quoted(&value.text)), "");
        return None;
    }
    Some(Out::text(&value.text))
}

/// What pages of other origins may.
#[derive(Clone, Debug, Default)]
pub(super) struct Cors {
    pub(super) origins: Vec<Said>,
    pub(super) methods: Vec<Said>,
    pub(super) headers: Vec<Said>,
    pub(super) expose: Vec<Said>,
    pub(super) max_age: Option<Duration>,
    pub(super) has_credentials: bool,
}

impl Cors {
    pub(super) fn written(self, at: Span, findings: &mut Findings) -> Keys {
        let mut keys = Keys::new();
        let mut origins = Vec::new();
        for origin in &self.origins {
            let is_origin = origin.text.split_once("://").is_some_and(|(scheme, host)| {
                matches!(scheme, "http" | "https")
                    && !host.is_empty()
                    && !host.contains(['/', '?', '#', '@', ' '])
            });
            if is_origin || origin.text == "*" {
                origins.push(origin.text.clone());
            } else {
                findings.left_out(
                    origin.at,
                    format!("{} is no origin", quoted(&origin.text)),
                    "write scheme and host: `https://app.example`",
                );
            }
        }
        if origins.is_empty() {
            findings.left_out(at, "no page of another origin is named, so none is let in", "");
            return keys;
        }
        let is_open = origins.iter().any(|it| it == "*");
        keys.push(("origins".into(), Out::texts(origins)));
        let star = |said: &[Said]| said.iter().any(|it| it.text == "*");
        let methods: Vec<_> = if star(&self.methods) {
            findings.note(at, "every method is allowed: here they are named", "");
            ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].map(Out::text).into()
        } else {
            self.methods.iter().filter(|it| is_method(&it.text)).map(|it| Out::text(&it.text)).collect()
        };
        if !methods.is_empty() {
            keys.push(("methods".into(), Out::List(methods)));
        }
        if !self.headers.is_empty() {
            let named = self
                .headers
                .into_iter()
                .map(|it| it.text)
                .filter(|it| it == "*" || it.parse::<HeaderName>().is_ok());
            keys.push(("headers".into(), Out::texts(named)));
        }
        if star(&self.expose) {
            findings.left_out(at, "`*` for the headers that pages may read", "name them under `expose:`");
        } else if !self.expose.is_empty() {
            let named =
                self.expose.into_iter().map(|it| it.text).filter(|it| it.parse::<HeaderName>().is_ok());
            keys.push(("expose".into(), Out::texts(named)));
        }
        if self.has_credentials && is_open {
            findings.left_out(
                at,
                "credentials for every page: any of them could act as the user it is shown to",
                "name the origins, and write `credentials: true`",
            );
        } else if self.has_credentials {
            keys.push(("credentials".into(), Out::plain(true)));
        }
        keys.extend(
            self.max_age
                .filter(|it| !it.is_zero())
                .map(|it| ("max_age".to_owned(), Out::plain(show_duration(it)))),
        );
        vec![("cors".into(), Out::Map(keys))]
    }
}

/// Copies for another upstream, of what is safe alone; none, if they would go where the requests go.
pub(super) fn mirror(
    upstream: &str,
    percent: u8,
    route: &Keys,
    at: Span,
    findings: &mut Findings,
) -> Option<(String, Out)> {
    let is_there = |(key, to): &(String, Out)| key == "upstream" && *to == Out::text(upstream);
    if route.iter().any(is_there) {
        findings.left_out(at, "its copies go where its requests go", "name another destination");
        return None;
    }
    findings.changed(
        at,
        "copies are made of GET, HEAD, OPTIONS and TRACE alone: whoever gets the copy of a payment makes it once more",
        "write `methods: all` if whoever gets the copies may do all of it again",
    );
    let mut keys = vec![("upstream".to_owned(), Out::text(upstream))];
    if percent < 100 {
        keys.push(("sample".into(), Out::plain(format!("{percent}%"))));
    }
    keys.push(("methods".into(), Out::plain("safe")));
    Some(("mirror".into(), Out::Map(keys)))
}

/// A share in percent as it is written here: whole ones. `None`: nothing of it is left.
pub(super) fn percent(said: &Said, findings: &mut Findings) -> Option<u8> {
    let Some(percent) = said.text.parse::<f64>().ok().filter(|it| (0.0..=100.0).contains(it)) else {
        findings.error(
            said.at,
            format!("{} is no percentage", quoted(&said.text)),
            "write a number from 0 to 100",
        );
        return None;
    };
    if percent == 0.0 {
        return None;
    }
    let whole = percent.round().max(1.0);
    if (whole - percent).abs() > f64::EPSILON {
        findings.changed(said.at, format!("{percent} % is {whole} % here: shares are whole percents"), "");
    }
    // Between 1 and 100.
    Some((1..=100).find(|it| f64::from(*it) >= whole).unwrap_or(100))
}

/// Shares of a split, or the one upstream there is. The same upstream twice has both shares.
pub(super) fn destination(arms: &[(String, u64)]) -> Option<(String, Out)> {
    let mut shares: Vec<(String, u64)> = Vec::new();
    for (name, share) in arms {
        match shares.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known += share,
            None => shares.push((name.clone(), *share)),
        }
    }
    if let [(only, _)] = shares.as_slice() {
        return Some(("upstream".into(), Out::text(only)));
    }
    let sum: u64 = shares.iter().map(|(_, share)| share).sum();
    if sum == 0 || shares.len() > 32 {
        return None;
    }
    let to = Out::map(shares.into_iter().map(|(name, share)| (name, Out::plain(share.min(1_000_000)))));
    Some(("split".into(), Out::map([("to", to)])))
}
