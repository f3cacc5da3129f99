//! What every request goes through before a route is looked for.
//!
//! 1. The target: not too long, origin or absolute form, a path that means one thing only
//!    ([`normalize`]). What is matched is what is forwarded.
//! 2. The host: exactly one, without user info. An absolute target overrides `Host` (RFC 9112
//!    §3.2.2); in HTTP/2 the two may not differ (RFC 9113 §8.3.1). Over TLS it is one that the certificate is for.
//! 3. Fields of the connection are taken away, but for an `Upgrade` that is followed (`upgrade`).
//! 4. `X-Forwarded-*` and `Forwarded`: believed and extended when the peer is a trusted proxy, else
//!    dropped and written anew. The client is the rightmost address that no trusted proxy has. Which of the two
//!    counts, `gateway.forwarded` says; where both do and name two clients, nothing is guessed.
//! 5. Headers by which upstreams hear who asks are taken away, whoever wrote them.
//! 6. How long the client waits: read, and taken away.
//! 7. `X-Request-Id`: kept from a trusted proxy if it is well formed, else made.
//!
//! The data path and `explain` both come through here.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version,
    header::{COOKIE, EXPECT, FORWARDED, HOST, UPGRADE},
    request::Parts,
    uri::PathAndQuery,
};
use naka::{
    clock::Now,
    context::Context,
    held::Held,
    identity::Identity,
    reject::{Reason, Rejection},
};

use crate::{
    address::Source,
    config::checked::{Forwarding, TrustedProxies},
    deadline::Deadlines,
    forwarded, frames,
    headers::{
        Seen, announce_only, compared, has_known_framing, may_be_trailer, settle_length, strip_hop_by_hop,
    },
    identity,
    random::random_id,
    refusals::Refusals,
    route::normalize,
    tls::Hosts,
    upgrade,
};

/// The name of the request id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// For a host that the certificate of the connection is not for (RFC 9110 §7.4). A trusted proxy may have asked for another.
const MISDIRECTED: Reason = Reason::Custom(StatusCode::MISDIRECTED_REQUEST, "misdirected");
const MISDIRECTED_WHY: &str =
    "The certificate of this connection is not for that host (RFC 9110, section 7.4): ask over one that is.";

/// A `Forwarded` that is none.
fn not_forwarded() -> Rejection {
    Rejection::new(Reason::Custom(StatusCode::BAD_REQUEST, "forwarded_malformed")).detail(
        "`Forwarded` is not as RFC 7239, section 4, has it: a proxy that writes it has to drop what it cannot read.",
    )
}

/// `X-Forwarded-For` and `Forwarded` name two clients.
fn two_clients() -> Rejection {
    Rejection::new(Reason::Custom(StatusCode::BAD_REQUEST, "forwarded_mismatch")).detail(
        "`Forwarded` and `X-Forwarded-For` name two clients: one of them was passed on as it came, and not written by a proxy.",
    )
}

/// The longest request id that is taken over.
const REQUEST_ID_MAX: usize = 128;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it comes from.
    pub source: Source,
    /// Its address, written once, if it has one.
    pub written: Option<HeaderValue>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Who it is by the certificate of its connection, if that was verified. Whoever ends TLS puts it here.
    pub identity: Option<Arc<Identity>>,
    /// The hosts that it may ask for, if its connection is only good for some.
    pub hosts: Option<Hosts>,
}

impl Peer {
    /// A peer, and how it speaks to us.
    pub fn new(source: Source, scheme: &'static str) -> Self {
        let address = source.ip().map(|address| address.to_canonical());
        let written = address
            .map(|address| HeaderValue::from_str(&address.to_string()).expect("an address is plain ASCII"));
        Self {
            source: address.map_or(Source::Unix, Source::Ip),
            written,
            scheme,
            identity: None,
            hosts: None,
        }
    }
}

/// What a configuration says about entering.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: TrustedProxies,
    /// The longest request target, in bytes.
    pub uri: usize,
    /// Header fields of a request.
    pub header_count: usize,
    /// Headers that say who asks: what a client writes there is taken away.
    pub of_identity: Arc<[String]>,
    /// Headers that say how long is waited.
    pub deadlines: Deadlines,
    /// In which fields is said how a request came.
    pub forwarding: Forwarding,
    /// How refusals are shown.
    pub refusals: Arc<Refusals>,
    /// Where what is held of bodies counts.
    pub held: Arc<Held>,
}

impl Entry {
    /// Makes a request fit to be routed, or says why it is not. On success the head has exactly
    /// one host, a normalised path, and a [`Context`]; and this is its id.
    pub fn admit(&self, parts: &mut Parts, peer: &Peer, now: Now) -> Result<HeaderValue, Rejection> {
        self.admit_seen(parts, Seen::of(&parts.headers), peer, now)
    }

    /// The same, where somebody has looked at the fields already.
    pub(crate) fn admit_seen(
        &self,
        parts: &mut Parts,
        seen: Seen,
        peer: &Peer,
        now: Now,
    ) -> Result<HeaderValue, Rejection> {
        if parts.headers.len() > self.header_count {
            return Err(Reason::HeadTooLarge.into()); // HTTP/1.1 is held to it while it is read.
        }
        frames::check(parts)?;
        let connected = upgrade::connect(parts);
        self.check_target(parts)?;
        settle_host(parts)?;
        let is_trusted = self.trusts(peer.source);
        if let Some(hosts) = peer.hosts.as_ref().filter(|_| !is_trusted)
            && !hosts.cover(host(&parts.headers))
        {
            return Err(Rejection::new(MISDIRECTED).detail(MISDIRECTED_WHY));
        }
        join_cookies(parts);
        let is_unknown = seen.has(Seen::TRANSFER_ENCODING) && !has_known_framing(&parts.headers);
        if is_unknown || seen.has(Seen::CONTENT_LENGTH) && !settle_length(&mut parts.headers) {
            return Err(Reason::BadRequest.into());
        }
        let asked = match parts.version {
            Version::HTTP_11 if seen.has(Seen::UPGRADE) => upgrade::asked(&parts.method, &parts.headers),
            Version::HTTP_11 => None,
            _ => connected,
        };
        let headers = &mut parts.headers;
        strip_hop_by_hop(headers, seen);
        let is_upgrade = asked.is_some();
        headers.extend(asked.map(|asked| (UPGRADE, asked)));
        if seen.has(Seen::EXPECT) {
            headers.remove(EXPECT); // Answered by the server when the body is first asked for.
        }
        let came = if is_trusted { self.came(headers, peer)? } else { Came::from(peer) };
        drop_forwarding(headers, is_trusted, self.forwarding);
        if !self.of_identity.is_empty() {
            identity::strip(headers, &self.of_identity);
        }
        if seen.has(Seen::TRAILER) {
            self.drop_trailer(headers);
        }
        let told = self.deadlines.take(headers, seen)?;
        write_forwarding(headers, peer, self.forwarding, came.scheme, is_trusted);
        let request_id = settle_request_id(headers, is_trusted);
        let mut context = Context::new(now);
        context.came_in = std::mem::replace(&mut parts.version, Version::HTTP_11);
        context.client = came.client;
        context.told = told.and_then(|told| now.instant().checked_add(told));
        context.deadline = context.told;
        context.is_upgrade = is_upgrade;
        context.identity.clone_from(&peer.identity);
        context.held = Some(Arc::clone(&self.held));
        parts.extensions.insert(context);
        Ok(request_id)
    }

    /// What nobody may say in a header, nobody says in a trailer: only what is announced is passed on.
    fn drop_trailer(&self, headers: &mut HeaderMap) {
        announce_only(headers, |name| {
            let as_compared = compared(name);
            may_be_trailer(name)
                && !self.of_identity.iter().any(|ours| *ours == as_compared)
                && !is_forwarding(&as_compared)
                && REQUEST_ID != *as_compared
        });
    }

    fn check_target(&self, parts: &mut Parts) -> Result<(), Rejection> {
        let Some(target) = parts.uri.path_and_query() else { return Err(Reason::BadRequest.into()) };
        if target.as_str().len() > self.uri {
            return Err(Reason::UriTooLong.into());
        }
        if parts.method == Method::CONNECT || target.path() == "*" {
            return Err(Reason::BadRequest.into());
        }
        let path = normalize(target.path()).map_err(|_| Rejection::new(Reason::BadPath))?;
        if let Cow::Owned(path) = path {
            let target = replace_path(target, &path).ok_or(Rejection::new(Reason::BadPath))?;
            parts.uri = with_target(&parts.uri, target).ok_or(Rejection::new(Reason::BadPath))?;
        }
        Ok(())
    }

    /// How a request came, as trusted proxies say. If two fields say it, they say the same: else somebody has written
    /// one of them who is not trusted, and nobody knows which.
    fn came(&self, headers: &HeaderMap, peer: &Peer) -> Result<Came, Rejection> {
        let by_lines = || {
            let lines = headers.get_all(&FORWARDED_FOR).into_iter().map(|line| line.to_str().unwrap_or("?"));
            let hops = lines.rev().flat_map(|line| line.rsplit(','));
            let hops = hops.map(|hop| (hop_address(hop.trim()), peer.scheme));
            self.followed(hops, peer)
        };
        if self.forwarding == Forwarding::XForwarded || !headers.contains_key(FORWARDED) {
            let is_told = self.forwarding != Forwarding::Rfc7239;
            return Ok(if is_told { by_lines() } else { Came::from(peer) });
        }
        let elements = forwarded::elements(headers).map_err(|_| not_forwarded())?;
        let hops = elements.iter().rev().map(|it| (it.address(), known_scheme(it.proto.as_deref(), peer)));
        let came = self.followed(hops, peer);
        let is_other = self.forwarding == Forwarding::Both
            && headers.contains_key(&FORWARDED_FOR)
            && by_lines().client != came.client;
        if is_other { Err(two_clients()) } else { Ok(came) }
    }

    /// As far as those are trusted who say it, from the last one back. Whoever wrote what is no address cannot be believed
    /// about what stands before it.
    fn followed(&self, hops: impl Iterator<Item = (Option<IpAddr>, &'static str)>, peer: &Peer) -> Came {
        let mut came = Came::from(peer);
        for (address, scheme) in hops {
            came.scheme = scheme;
            let Some(address) = address else { break };
            came.client = Some(address);
            if !self.trusts(address.into()) {
                break;
            }
        }
        came
    }

    /// Whether what this peer says of others is believed.
    pub fn trusts(&self, source: Source) -> bool {
        self.trusted_proxies.have(source)
    }
}

/// Whose a request is, and how the first of us was asked.
#[derive(Clone, Copy, Debug)]
struct Came {
    /// Its address, if anybody knows it.
    client: Option<IpAddr>,
    scheme: &'static str,
}

impl From<&Peer> for Came {
    fn from(peer: &Peer) -> Self {
        Self { client: peer.source.ip(), scheme: peer.scheme }
    }
}

/// The scheme that an element names; what is neither is taken for what is not protected.
fn known_scheme(proto: Option<&str>, peer: &Peer) -> &'static str {
    match proto {
        None => peer.scheme,
        Some(proto) if proto.eq_ignore_ascii_case("https") => "https",
        Some(_) => "http",
    }
}

/// The same target with another path.
pub fn replace_path(target: &PathAndQuery, path: &str) -> Option<PathAndQuery> {
    match target.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok(),
        None => PathAndQuery::try_from(path).ok(),
    }
}

/// The same URI with another target.
pub fn with_target(uri: &Uri, target: PathAndQuery) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).ok()
}

/// How the client spoke to the first of us.
pub fn scheme(headers: &HeaderMap) -> &str {
    headers.get(FORWARDED_PROTO).and_then(|scheme| scheme.to_str().ok()).unwrap_or("http")
}

/// The host of an admitted request, as far as routes are concerned: in lower case, without its port.
pub fn host(headers: &HeaderMap) -> &str {
    without_port(headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default())
}

/// Where a host ends and its port begins, with the colon; not inside of an address in brackets.
fn colon(host: &[u8]) -> Option<usize> {
    memchr::memrchr(b':', host).filter(|&colon| !host[colon..].contains(&b']'))
}

/// The name or address of a host.
pub fn without_port(host: &str) -> &str {
    match memchr::memrchr(b':', host.as_bytes()) {
        Some(colon) if host.as_bytes()[colon + 1..].iter().all(u8::is_ascii_digit) => &host[..colon],
        _ => host,
    }
}

/// Exactly one host: from an absolute target if there is one, else from `Host`. Where both are there they say the same: RFC 9112
/// §3.2.2 has the target count, and whoever stands in front may have looked at the other.
fn settle_host(parts: &mut Parts) -> Result<(), Rejection> {
    const BAD: Rejection = Rejection::new(Reason::BadRequest);
    if parts.headers.get_all(HOST).into_iter().count() > 1 {
        return Err(BAD);
    }
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| BAD)?;
        let is_same = |said: &HeaderValue| said.as_bytes().eq_ignore_ascii_case(host.as_bytes());
        let may_lack = parts.version != Version::HTTP_11; // RFC 9112 §3.2: 400 if there is none.
        if !parts.headers.get(HOST).map_or(may_lack, is_same) {
            return Err(BAD);
        }
        let target = parts.uri.path_and_query().cloned().ok_or(BAD)?;
        parts.uri = Uri::from(target);
        parts.headers.insert(HOST, host);
    }
    match parts.headers.get(HOST) {
        None if parts.version >= Version::HTTP_11 => Err(BAD),
        None => Ok(()),
        Some(host) => {
            let host = host.to_str().map_err(|_| BAD)?;
            if !is_host(host.as_bytes()) {
                return Err(BAD);
            }
            if let Some(host) = normal_host(host) {
                parts.headers.insert(HOST, HeaderValue::try_from(host).map_err(|_| BAD)?);
            }
            Ok(())
        }
    }
}

/// HTTP/2 may send a cookie in pieces, which HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(parts: &mut Parts) {
    if parts.version != Version::HTTP_2 || parts.headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces = parts.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        parts.headers.insert(COOKIE, whole);
    }
}

/// The host in lower case and without the root's trailing dot, if it is not like that already: it is
/// one host however it is written, to our routes and to the upstream.
fn normal_host(host: &str) -> Option<String> {
    let (name, port) = host.split_at(colon(host.as_bytes()).unwrap_or(host.len()));
    let undotted = name.strip_suffix('.').unwrap_or(name);
    let is_normal = undotted.len() == name.len() && !host.bytes().any(|b| b.is_ascii_uppercase());
    if is_normal { None } else { Some(undotted.to_ascii_lowercase() + port) }
}

/// A name or address, and perhaps a port (RFC 3986 §3.2.2), without user info.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match colon(host) {
        Some(colon) => (&host[..colon], &host[colon + 1..]),
        None => (host, &[][..]),
    };
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    let is_address = |b: &u8| b.is_ascii_hexdigit() || b":.".contains(b);
    let is_fine = if let [b'[', inner @ .., b']'] = name {
        !inner.is_empty() && inner.iter().all(is_address)
    } else {
        let mut labels = name.strip_suffix(b".").unwrap_or(name).split(|&b| b == b'.');
        name.iter().all(is_name) && labels.all(|label| !label.is_empty())
    };
    is_fine && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let address = hop.parse::<IpAddr>().ok();
    let address = address.or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip()));
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    address.or_else(bracketed).map(|address: IpAddr| address.to_canonical())
}

/// Takes away what a client says of its way here; and from everybody, fields that are not believed, and names that some
/// upstreams cannot tell from those that say it.
fn drop_forwarding(headers: &mut HeaderMap, is_trusted: bool, forwarding: Forwarding) {
    let is_believed = |name: &str| {
        let is_read = match forwarding {
            Forwarding::XForwarded => FORWARDED != name,
            Forwarding::Rfc7239 => FORWARDED == name,
            Forwarding::Both => true,
        };
        is_trusted && is_read
    };
    let is_dropped = |name: &&HeaderName| match compared(name) {
        Cow::Borrowed(name) => is_forwarding(name) && !is_believed(name),
        Cow::Owned(name) => is_forwarding(&name) || REQUEST_ID == name.as_str(),
    };
    while let Some(name) = headers.keys().find(is_dropped).cloned() {
        headers.remove(name);
    }
}

fn is_forwarding(name: &str) -> bool {
    name.starts_with("x-forwarded-") || FORWARDED == name || REAL_IP == name
}

/// `X-Forwarded-*` are written whatever is said: who is asked about credentials hears them, and what is kept depends on
/// them. [`hide`] takes them away before an upstream sees them.
///
/// Who comes by a Unix socket has no address to be written: `X-Forwarded-For` is what a trusted one has said, or not there, and
/// `Forwarded` is that, or an element of who is `unknown` (RFC 7239 §6.2). Behind what a trusted one has said that would hide it:
/// whoever reads from the end would believe nobody before it.
///
/// Of who is not trusted all such fields are gone by now, and nothing is looked for.
fn write_forwarding(
    headers: &mut HeaderMap,
    peer: &Peer,
    forwarding: Forwarding,
    scheme: &'static str,
    is_trusted: bool,
) {
    if let Some(written) = &peer.written {
        let joined = || joined_with(headers, &FORWARDED_FOR, written.to_str().unwrap_or_default());
        let joined = is_trusted.then(joined).flatten();
        headers.insert(FORWARDED_FOR, joined.unwrap_or_else(|| written.clone()));
    }
    let is_written = match peer.source {
        Source::Ip(_) => true,
        Source::Unix => !headers.contains_key(FORWARDED),
    };
    if is_written && forwarding != Forwarding::XForwarded {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let hop = forwarded::written(peer.source.ip(), host, peer.scheme);
        let joined = joined_with(headers, &FORWARDED, &hop).or_else(|| HeaderValue::try_from(hop).ok());
        if let Some(joined) = joined {
            headers.insert(FORWARDED, joined);
        }
    }
    if !is_trusted || !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if (!is_trusted || !headers.contains_key(FORWARDED_HOST))
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// Takes away what upstreams do not hear.
pub fn hide(headers: &mut HeaderMap, forwarding: Forwarding) {
    if forwarding == Forwarding::Rfc7239 {
        for name in [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST] {
            headers.remove(name);
        }
    }
}

/// All lines of a list-valued field, and one more element; `None` if the field is not there.
fn joined_with(headers: &HeaderMap, name: &HeaderName, last: &str) -> Option<HeaderValue> {
    let mut lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok()).peekable();
    lines.peek()?;
    let mut joined = lines.fold(String::new(), |all, line| all + line + ", ");
    joined.push_str(last);
    HeaderValue::try_from(joined).ok()
}

fn settle_request_id(headers: &mut HeaderMap, is_trusted: bool) -> HeaderValue {
    let is_fine = |id: &HeaderValue| {
        let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b);
        (1..=REQUEST_ID_MAX).contains(&id.len()) && id.as_bytes().iter().all(is_plain)
    };
    if is_trusted
        && headers.get_all(&REQUEST_ID).into_iter().count() == 1
        && let Some(id) = headers.get(&REQUEST_ID).filter(|id| is_fine(id))
    {
        return id.clone();
    }
    let id = random_id();
    headers.insert(REQUEST_ID, id.clone());
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn entry() -> Entry {
        Entry {
            trusted_proxies: TrustedProxies { networks: vec!["10.0.0.0/8".parse().unwrap()], unix: false },
            uri: 100,
            header_count: 100,
            of_identity: Arc::default(),
            deadlines: Deadlines::default(),
            forwarding: Forwarding::default(),
            refusals: Arc::default(),
            held: Arc::new(Held::new(0)),
        }
    }

    fn admit(peer: &str, target: &str, headers: &[(&str, &str)]) -> Result<Parts, Reason> {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let peer = Peer::new(peer.parse::<IpAddr>().unwrap().into(), "http");
        let admitted = entry().admit(&mut parts, &peer, Now::read());
        admitted.map(|_| parts).map_err(|rejection| rejection.reason)
    }

    /// The seam for client certificates: what TLS has verified is who asks, whatever a client writes.
    #[tokio::test]
    async fn who_the_connection_is_of_goes_into_the_context() {
        let (mut parts, ()) = Request::get("/").header("host", "h").body(()).unwrap().into_parts();
        let console: Arc<str> = "spiffe://naka/ns/ops/sa/console".into();
        let identity = Arc::new(Identity::new(naka::identity::Scheme::Mtls, Some(Arc::clone(&console))));
        let peer = Peer { identity: Some(identity), ..Peer::new(client_7(), "https") };
        entry().admit(&mut parts, &peer, Now::read()).unwrap();
        let who = Identity::of(&parts.extensions).unwrap();
        assert_eq!(who.subject, Some(console));
        let peer = Peer::new(client_7(), "https");
        entry().admit(&mut parts, &peer, Now::read()).unwrap();
        assert!(Identity::of(&parts.extensions).is_none(), "nobody is taken over from another request");
    }

    fn client_7() -> Source {
        Source::Ip(IpAddr::from([192, 0, 2, 7]))
    }

    fn client(parts: &Parts) -> String {
        parts.extensions.get::<Context>().unwrap().client.unwrap().to_string()
    }

    #[tokio::test]
    async fn r2_3_forwarding_headers_of_strangers_are_dropped() {
        let parts = admit(
            "192.0.2.7",
            "/",
            &[
                ("host", "h"),
                ("x-forwarded-for", "1.1.1.1"),
                ("forwarded", "for=1.1.1.1"),
                ("x-forwarded-prefix", "/admin"),
                ("x-forwarded-proto", "https"),
                ("x-real-ip", "1.1.1.1"),
                ("x-request-id", "chosen"),
            ],
        )
        .unwrap();
        assert_eq!(client(&parts), "192.0.2.7");
        assert_eq!(parts.headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(parts.headers["x-forwarded-proto"], "http");
        assert_eq!(parts.headers["x-forwarded-host"], "h");
        assert_ne!(parts.headers["x-request-id"], "chosen");
        for gone in ["forwarded", "x-forwarded-prefix", "x-real-ip"] {
            assert!(!parts.headers.contains_key(gone), "{gone}");
        }
    }

    /// WSGI, CGI and PHP read `X_Forwarded_For` and `X-Forwarded-For` as one.
    #[tokio::test]
    async fn r2_3_forwarding_headers_with_underscores_are_dropped_whoever_sends_them() {
        for peer in ["192.0.2.7", "10.1.1.1"] {
            let names = ["x_forwarded_for", "x-forwarded_proto", "x_real_ip", "x_request_id", "x_request-id"];
            let mut headers = vec![("host", "h"), ("x_own", "stays")];
            headers.extend(names.map(|name| (name, "6.6.6.6")));
            let parts = admit(peer, "/", &headers).unwrap();
            for gone in names {
                assert!(!parts.headers.contains_key(gone), "{gone} from {peer}");
            }
            assert_eq!(parts.headers["x-forwarded-for"], peer);
            assert!(parts.headers.contains_key("x_own"));
        }
    }

    /// An upstream that merges trailers into headers would believe them.
    #[tokio::test]
    async fn trailers_that_say_who_asks_or_whence_are_not_announced() {
        let entry = Entry { of_identity: ["x-user-id".to_owned()].into(), ..entry() };
        for (announced, kept) in [
            ("x-checksum", &["x-checksum"][..]),
            ("x-checksum, Expires", &["x-checksum", "expires"]),
            ("X-User-Id", &[]),
            ("x-checksum, x_user_id", &["x-checksum"]),
            ("x-forwarded-for", &[]),
            ("x_request_id", &[]),
            ("connection, content-length,cookie", &[]),
            ("not a name", &[]),
        ] {
            let request = Request::post("/").header("host", "h").header("trailer", announced);
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            let peer = Peer::new(client_7(), "http");
            entry.admit(&mut parts, &peer, Now::read()).unwrap();
            assert_eq!(parts.headers.get_all("trailer").iter().collect::<Vec<_>>(), kept, "{announced}");
        }
    }

    #[tokio::test]
    async fn r2_3_the_client_is_the_rightmost_address_that_is_not_trusted() {
        let headers = |chain| [("host", "h"), ("x-forwarded-for", chain), ("x-request-id", "kept-1")];
        for (chain, expected) in [
            ("6.6.6.6, 192.0.2.1, 10.1.1.1", "192.0.2.1"),
            ("10.2.2.2, 10.1.1.1", "10.2.2.2"),
            ("6.6.6.6, nonsense, 10.1.1.1", "10.1.1.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
        ] {
            let parts = admit("10.9.9.9", "/", &headers(chain)).unwrap();
            assert_eq!(client(&parts), expected, "{chain}");
            assert_eq!(parts.headers["x-forwarded-for"], format!("{chain}, 10.9.9.9").as_str());
            assert_eq!(parts.headers["x-request-id"], "kept-1");
        }
    }

    #[tokio::test]
    async fn connection_cannot_take_forwarding_headers_away() {
        let headers = [("host", "h"), ("connection", "x-forwarded-for, x-request-id")];
        let parts = admit("192.0.2.7", "/", &headers).unwrap();
        assert_eq!(parts.headers["x-forwarded-for"], "192.0.2.7");
        assert!(parts.headers.contains_key("x-request-id"));
    }

    #[tokio::test]
    async fn one_host_and_only_one() {
        let reason = |headers: &[(&str, &str)]| admit("192.0.2.7", "/", headers).map(drop).unwrap_err();
        assert_eq!(reason(&[]), Reason::BadRequest);
        for host in
            ["a b", "user@h", "h:port", "h:123456", "", "[::1", "h/x", "h?x", ".", ".h", "h..", "a..b", ":80"]
        {
            assert_eq!(reason(&[("host", host)]), Reason::BadRequest, "{host}");
        }
        assert_eq!(reason(&[("host", "a"), ("host", "a")]), Reason::BadRequest);
        for wrong in [&[("host", "wrong")][..], &[("host", "right.example")], &[]] {
            let admitted = admit("192.0.2.7", "http://Right.example:80/x?y", wrong);
            assert_eq!(admitted.map(drop).unwrap_err(), Reason::BadRequest, "{wrong:?}");
        }
        let right = [("host", "right.example:80")];
        let parts = admit("192.0.2.7", "http://Right.example:80/x?y", &right).unwrap();
        assert_eq!(
            (parts.headers["host"].to_str().unwrap(), parts.uri.to_string()),
            ("right.example:80", "/x?y".into())
        );
        assert_eq!(host(&parts.headers), "right.example");
    }

    #[tokio::test]
    async fn a_trailing_dot_evades_no_route() {
        for (sent, settled) in
            [("Admin.Example.", "admin.example"), ("admin.example.:80", "admin.example:80")]
        {
            let parts = admit("192.0.2.7", "/", &[("host", sent)]).unwrap();
            assert_eq!(parts.headers["host"], settled);
            assert_eq!(host(&parts.headers), "admin.example");
        }
    }

    #[tokio::test]
    async fn a_target_that_means_two_things_is_refused_and_a_long_one_too() {
        let reason = |target: &str| admit("192.0.2.7", target, &[("host", "h")]).map(drop).unwrap_err();
        assert_eq!(reason("/a/%2e%2e/b"), Reason::BadPath);
        assert_eq!(reason(&format!("/{}", "a".repeat(100))), Reason::UriTooLong);
        let parts = admit("192.0.2.7", "/%61dmin?q=%61", &[("host", "h")]).unwrap();
        assert_eq!(parts.uri, "/admin?q=%61", "what is matched is what is forwarded");
    }
}
