//! What one route changes on the way: the target, the host, headers. The data path and `explain`
//! both come through here.

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, HOST, LOCATION, REFERRER_POLICY,
        STRICT_TRANSPORT_SECURITY, TRAILER, UPGRADE, VIA, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
    request::Parts,
};
use naka::{
    context::Context,
    reject::{Reason, Rejection},
};

use crate::{
    config::checked::{Forwarding, HeaderEdit, HeaderEdits, IdentityPart, Name, Redirect, Rewrite, Template},
    entry::{self, replace_path},
    headers::{Seen, announce_only, has_known_framing, settle_length, strip_hop_by_hop},
    identity,
    route::{Captures, normalize, render},
    tunnel::Switched,
    upstream::Body,
};

/// What matching learned; in the extensions of a request where something needs it.
#[derive(Clone, Debug)]
pub struct Matched {
    /// The route.
    pub route: Name,
    /// The captures of its path.
    pub captures: Captures,
}

/// What one route changes.
#[derive(Clone, Debug)]
pub struct Transform {
    /// Of the target and the host.
    pub rewrite: Rewrite,
    /// Of the headers.
    pub headers: HeaderEdits,
    /// Headers that say who asks.
    pub identity: Vec<(HeaderName, IdentityPart)>,
    /// Headers that say how a request came.
    pub forwarding: Forwarding,
}

impl Transform {
    /// Makes of a request what the endpoint shall see.
    pub fn request(&self, parts: &mut Parts) -> Result<(), Rejection> {
        if let Some(path) = self.path(parts)? {
            let target = parts.uri.path_and_query().and_then(|target| replace_path(target, &path));
            parts.uri = Uri::from(target.ok_or(Rejection::new(Reason::BadPath))?);
        }
        if let Some(host) = &self.rewrite.host {
            parts.headers.insert(HOST, host.clone());
        }
        identity::tell(&mut parts.headers, &parts.extensions, &self.identity);
        entry::hide(&mut parts.headers, self.forwarding);
        edit(&mut parts.headers, &self.headers.request);
        if parts.headers.contains_key(TRAILER) {
            self.drop_trailer(&mut parts.headers);
        }
        let came_in = parts.extensions.get::<Context>().map_or(parts.version, |context| context.came_in);
        parts.headers.append(VIA, via(came_in));
        Ok(())
    }

    /// Makes of the endpoint's response what the client shall see.
    pub fn response(&self, response: &mut Response<Body>, is_https: bool) {
        // An upgrade that nobody goes on with, or a body we cannot read.
        let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let is_followed = is_upgrade && response.extensions().get::<Switched>().is_some();
        let seen = Seen::of(response.headers());
        let is_chunked = seen.has(Seen::TRANSFER_ENCODING);
        if is_upgrade && !is_followed || is_chunked && !has_known_framing(response.headers()) {
            *response = Rejection::new(Reason::UpstreamProtocol).into_response();
            return;
        }
        let said_in = std::mem::replace(response.version_mut(), Version::HTTP_11);
        if is_chunked {
            // Beside chunks a length counts for nothing (RFC 9112 §6.3), so the client must not see it.
            response.headers_mut().remove(CONTENT_LENGTH);
        } else if seen.has(Seen::CONTENT_LENGTH) && !settle_length(response.headers_mut()) {
            *response = Rejection::new(Reason::UpstreamProtocol).into_response();
            return;
        }
        let upgrade = if is_followed { response.headers_mut().remove(UPGRADE) } else { None };
        strip_hop_by_hop(response.headers_mut(), seen);
        if let Some(protocol) = upgrade {
            response.headers_mut().remove(CONTENT_LENGTH); // RFC 9110 §8.6: not in a 1xx.
            response.headers_mut().insert(UPGRADE, protocol);
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        } else if self.headers.security {
            make_careful(response.headers_mut(), is_https);
        }
        edit(response.headers_mut(), &self.headers.response);
        if response.extensions().get::<Rejection>().is_none() {
            response.headers_mut().append(VIA, via(said_in)); // What we say ourselves has come through nobody.
        }
    }

    /// What the route says of a header, nobody says in a trailer: only what is announced is passed on.
    fn drop_trailer(&self, headers: &mut HeaderMap) {
        let HeaderEdit { remove, set, add } = &self.headers.request;
        announce_only(headers, |name| {
            let mut edited = remove.iter().chain(set.iter().chain(add).map(|(name, _)| name));
            !edited.any(|edited| edited == name)
        });
    }

    /// The path the endpoint sees, where it is another one.
    fn path(&self, parts: &Parts) -> Result<Option<String>, Rejection> {
        let path = parts.uri.path();
        if let Some(template) = &self.rewrite.path {
            return rendered(template, parts).map(Some);
        }
        let stripped = self.rewrite.strip_prefix.then(|| captures(parts).below_prefix(path)).flatten();
        Ok(stripped.map(str::to_owned))
    }
}

/// Who a message came through, and in which version it was heard. RFC 9110 §7.6.3 asks for it, and it makes loops visible.
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 naka",
        Version::HTTP_2 => "2 naka",
        _ => "1.1 naka",
    })
}

/// Makes browsers careful, where the upstream has not said how careful they shall be. `X-XSS-Protection` is not
/// among it: it did more harm than good, and browsers have dropped it.
fn make_careful(headers: &mut HeaderMap, is_https: bool) {
    const CAREFUL: [(HeaderName, &str); 4] = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "strict-origin-when-cross-origin"),
        (CONTENT_SECURITY_POLICY, "default-src 'self'; frame-ancestors 'none'"),
    ];
    for (name, value) in CAREFUL {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if is_https {
        let year = HeaderValue::from_static("max-age=31536000; includeSubDomains");
        headers.entry(STRICT_TRANSPORT_SECURITY).or_insert(year);
    }
}

/// A path that a template makes is held to what a client's is held to: where a capture holds nothing,
/// there could be `//`, which is the beginning of a host to whoever follows a redirect.
fn rendered(template: &Template, parts: &Parts) -> Result<String, Rejection> {
    let path = render(template, parts.uri.path(), captures(parts));
    let normal = normalize(&path).map_err(|_| Rejection::new(Reason::BadPath))?;
    Ok(normal.into_owned())
}

/// The target of a redirect; what the route does not say stays as it was.
///
/// # Errors
/// If there is none: 400.
pub fn location(redirect: &Redirect, parts: &Parts, scheme: &str) -> Result<HeaderValue, Rejection> {
    let scheme = redirect.scheme.as_deref().unwrap_or(scheme);
    let is_same_place = redirect.scheme.is_none() && redirect.host.is_none() && redirect.port.is_none();
    let host = redirect.host.as_deref().unwrap_or_else(|| entry::host(&parts.headers));
    let is_usual = |port: u16| (scheme, port) == ("http", 80) || (scheme, port) == ("https", 443);
    let port =
        redirect.port.filter(|port| !is_usual(*port)).map(|port| format!(":{port}")).unwrap_or_default();
    let path = redirect.path.as_ref().map(|template| rendered(template, parts)).transpose()?;
    let path = path.as_deref().unwrap_or(parts.uri.path());
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let url = if is_same_place {
        format!("{path}{query}")
    } else {
        format!("{scheme}://{host}{port}{path}{query}")
    };
    HeaderValue::try_from(url).map_err(|_| Rejection::new(Reason::BadRequest))
}

/// A redirect.
pub fn redirected(redirect: &Redirect, parts: &Parts, scheme: &str) -> Response<Body> {
    let location = match location(redirect, parts, scheme) {
        Ok(location) => location,
        Err(rejection) => return rejection.into_response(),
    };
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = redirect.status;
    response.headers_mut().insert(LOCATION, location);
    response
}

/// The captures of the matched path.
pub fn captures(parts: &Parts) -> &Captures {
    parts.extensions.get::<Matched>().map_or(Captures::NONE, |matched| &matched.captures)
}

fn edit(headers: &mut HeaderMap, edit: &HeaderEdit) {
    for name in &edit.remove {
        headers.remove(name);
    }
    for (name, value) in &edit.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &edit.add {
        headers.append(name, value.clone());
    }
}
