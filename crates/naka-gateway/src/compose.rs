//! What the calls of a composition are sent of the client's request.
//!
//! An upstream that is called hears what it needs to answer for whoever asks, and nothing that was meant for another: credentials in
//! `Authorization`, who asks (`gateway.identity_headers`, and what a `forward_auth` of the route copies), of which trace and with
//! which id, and how the request came. Cookies, conditions, ranges and all else stay, unless the composition lists them.

use http::{
    HeaderName,
    header::{AUTHORIZATION, FORWARDED, HOST},
};
use naka::trace::Format;

use crate::{
    config::checked::{Compose, Config, Kind, PolicyKind, Route},
    entry::REQUEST_ID,
};

const ALWAYS: [HeaderName; 11] = [
    AUTHORIZATION,
    HOST,
    REQUEST_ID,
    FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("baggage"),
];

/// Whether calls are sent this header, whatever the composition lists.
pub fn is_sent_always(name: &HeaderName) -> bool {
    ALWAYS.contains(name) || Format::ALL.iter().any(|format| format.headers().contains(name))
}

/// All headers that the calls of a route are sent, if the request has them.
pub fn sent(config: &Config, route: &Route, compose: &Compose) -> Vec<HeaderName> {
    let of_traces = Format::ALL.iter().flat_map(|format| format.headers()).cloned();
    let told = config.gateway.identity_headers.iter().map(|(name, _)| name.clone());
    let copied =
        route.policies.one(Kind::ForwardAuth).and_then(|policy| match &config.policies[policy].kind {
            PolicyKind::ForwardAuth(asking) => Some(asking.copy.iter().cloned()),
            _ => None,
        });
    let mut all = Vec::new();
    let listed = compose.headers.iter().cloned();
    for name in
        ALWAYS.into_iter().chain(of_traces).chain(told).chain(copied.into_iter().flatten()).chain(listed)
    {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}
