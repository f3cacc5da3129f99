//! Names, hosts, addresses, headers: the small values of the file.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, uri::PathAndQuery};
use ipnet::IpNet;
use serde_json::{Value as Json, json};

use crate::address::{Address, SOCKET_PATH, UNIX};

use super::{
    checked::{HostPattern, IdentityPart, KeyPart},
    decode::{Scalar, Text, Wrong},
    path::capture,
    suggest::{nearest, one_of, quoted},
};

/// The name of a route, a policy and so on: it shows up in metrics and URLs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub(crate) Arc<str>);

impl Scalar for Id {
    const WHAT: &'static str = "a name";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let text = text.text;
        if !text.is_empty() && text.len() <= 100 && text.chars().all(fits) {
            return Ok(Self(text.into()));
        }
        let better: String = text.chars().map(|c| if fits(c) { c } else { '-' }).take(100).collect();
        let better = if better.is_empty() { "a-name" } else { &better };
        Err(Wrong::new(format!("{} is not a name", quoted(text)))
            .help(format!("letters, digits, `-` `_` `.`, at most 100: `{better}`")))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Any text.
impl Scalar for Arc<str> {
    const WHAT: &'static str = "text";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        Ok(text.text.into())
    }
}

/// Where to listen: `:8080` is every IPv4 address of the machine.
impl Scalar for SocketAddr {
    const WHAT: &'static str = "an address such as `0.0.0.0:8080` or `:8080`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let text = text.text;
        let wrong = || Wrong::new(format!("{} is not an address to listen on", quoted(text)));
        if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
            let port = port.parse().map_err(|_| wrong().help("write a port from 0 to 65535: `:8080`"))?;
            return Ok(Self::new(Ipv4Addr::UNSPECIFIED.into(), port));
        }
        text.parse().map_err(|_| match text.parse::<u16>() {
            Ok(port) => wrong().help(format!("write `\":{port}\"`")),
            Err(_) if text.parse::<IpAddr>().is_ok() => {
                wrong().help(format!("add a port: `{}:8080`", bracketed(text)))
            }
            Err(_) if text.starts_with("localhost:") => {
                wrong().help(format!("write `127.0.0.1{}`", &text[9..]))
            }
            Err(_) => {
                wrong().help("write an IP address and a port: `127.0.0.1:8080`, `[::1]:8080` or `:8080`")
            }
        })
    }
}

/// Where a listener listens: an address, or a Unix socket.
impl Scalar for Address {
    const WHAT: &'static str =
        "an address such as `0.0.0.0:8080` or `:8080`, or a Unix socket such as `unix:/run/naka/web.sock`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let Some(path) = text.text.strip_prefix(UNIX) else { return SocketAddr::parse(text).map(Self::Tcp) };
        let wrong = || Wrong::new(format!("{} is not a socket to listen at", quoted(text.text)));
        let path = match path.strip_prefix("//") {
            Some(path) if path.starts_with('/') => path, // As a URL.
            _ => path,
        };
        let is_plain = |path: &str| path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
        match socket_path(path) {
            Ok(path) if is_plain(path) => Ok(Self::Unix(path.into())),
            Ok(_) => {
                Err(wrong().help("write its path without `//`, `.` and `..`: `unix:/run/naka/web.sock`"))
            }
            Err(why) => Err(wrong().help(why)),
        }
    }
}

/// Who may open a file: three digits to base 8, behind a `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileMode(pub(crate) u32);

impl Scalar for FileMode {
    const WHAT: &'static str = "a file mode such as `\"0660\"`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let text = text.text;
        let wrong = || Wrong::new(format!("{} is not the mode of a socket", quoted(text)));
        let digits = text.strip_prefix('0').filter(|digits| digits.len() == 3);
        let mode = digits.filter(|digits| digits.bytes().all(|digit| matches!(digit, b'0'..=b'7')));
        let Some(mode) = mode.and_then(|digits| u32::from_str_radix(digits, 8).ok()) else {
            return Err(wrong().help(
                "write `0` and three digits from 0 to 7, for its user, its group and all others: `\"0660\"`",
            ));
        };
        if mode & 0o111 != 0 {
            return Err(wrong().help(
                "a socket is not executed: write `6` for those who may connect, and `0` for all others",
            ));
        }
        if mode & 0o200 == 0 {
            return Err(wrong().help("its user may always connect: let the first of the three digits be `6`"));
        }
        Ok(Self(mode))
    }

    fn schema() -> Json {
        json!({"type": ["string", "integer"], "examples": ["0660"]})
    }
}

/// Who is believed about others: a network, or whoever comes by a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TrustedProxy {
    Network(IpNet),
    Unix,
}

impl Scalar for TrustedProxy {
    const WHAT: &'static str = "a network such as `10.0.0.0/8`, or `unix`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        match text.text {
            "unix" => Ok(Self::Unix),
            "unix:" => Err(Wrong::new("`unix:` is not a network")
                .help("write `unix`: it is whoever comes by a Unix socket")),
            _ => IpNet::parse(text).map(Self::Network),
        }
    }
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.into() }
}

/// `host:port` of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostPort(pub(crate) Arc<str>);

impl Scalar for HostPort {
    const WHAT: &'static str = "an endpoint such as `127.0.0.1:3000`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let text = text.text;
        let wrong = || Wrong::new(format!("{} is not an endpoint", quoted(text)));
        if let Some(path) = text.strip_prefix("unix:") {
            return match socket_path(path.trim_start_matches("//")) {
                Ok(path) => Ok(Self(format!("unix:{path}").into())),
                Err(why) => Err(wrong().help(why)),
            };
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let address = rest.split('/').next().unwrap_or(rest);
            let port = if scheme == "https" { 443 } else { 80 };
            let address = if address.contains(':') { address.into() } else { format!("{address}:{port}") };
            return Err(Wrong::new(format!("{} is a URL, an endpoint is an address", quoted(text))).help(
                if scheme == "https" {
                    format!("write `{address}`, and `tls: {{}}` beside `endpoints`; paths go into a route's `rewrite:`")
                } else {
                    format!("write `{address}`; paths go into a route's `rewrite:`")
                },
            ));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(wrong().help("port 0 cannot be connected to"))
            } else {
                Ok(Self(text.into()))
            };
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(wrong().help(format!("add the port: `{text}:80`")));
        };
        match port.parse::<u16>() {
            Ok(1..) if is_host(host) => Ok(Self(text.to_ascii_lowercase().into())),
            Ok(1..) => Err(wrong()
                .help("write a name or an IP address before the port: `app.internal:3000`, `[::1]:3000`")),
            _ => Err(wrong().help(format!("write a port from 1 to 65535: `{host}:3000`"))),
        }
    }
}

fn socket_path(path: &str) -> Result<&str, String> {
    if !path.starts_with('/') {
        return Err("write the whole path of its socket: `unix:/run/app.sock`".into());
    }
    if path.len() > SOCKET_PATH || path.contains('\0') {
        return Err(format!("the path of a socket has at most {SOCKET_PATH} bytes"));
    }
    Ok(path)
}

/// A name in a certificate: a host, an IP address, or a URI.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TlsName(pub(crate) Arc<str>);

impl TlsName {
    /// Whether it is a URI.
    pub(crate) fn is_uri(&self) -> bool {
        self.0.contains("://")
    }
}

impl Scalar for TlsName {
    const WHAT: &'static str = "a name in a certificate such as `app.internal`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let text = text.text;
        let wrong = || Wrong::new(format!("{} is no name that a certificate has", quoted(text)));
        if let Some((scheme, rest)) = text.split_once("://") {
            let is_fine =
                !scheme.is_empty() && !rest.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
            return if is_fine {
                Ok(Self(text.into()))
            } else {
                Err(wrong().help("write a URI: `spiffe://naka/app`"))
            };
        }
        if text.parse::<IpAddr>().is_ok() {
            return Ok(Self(text.into()));
        }
        match text.rsplit_once(':') {
            Some((host, _)) => Err(wrong().help(format!("take the port away: `{host}`"))),
            None if is_dns_name(text) => Ok(Self(text.trim_end_matches('.').to_ascii_lowercase().into())),
            None => Err(wrong().help("write the name of a host, without `*`: `app.internal`")),
        }
    }
}

/// The name of a gRPC service, as its health is asked for: `package.Service`, by convention.
#[derive(Clone, Debug)]
pub(crate) struct GrpcService(pub(crate) Arc<str>);

/// The longest name of a service.
const MAX_SERVICE: usize = 200;

impl Scalar for GrpcService {
    const WHAT: &'static str = "the name of a gRPC service such as `shop.Cart`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let is_plain = text.text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_plain && (1..=MAX_SERVICE).contains(&text.text.len()) {
            return Ok(Self(text.text.into()));
        }
        Err(Wrong::new(format!("{} is no name of a service", quoted(text.text))).help(format!(
            "write 1 to {MAX_SERVICE} letters, digits and signs: `shop.Cart`; or take it away, to ask about all of the endpoint"
        )))
    }

    fn schema() -> Json {
        json!({"type": "string", "examples": ["shop.Cart"]})
    }
}

/// A name that is resolved, and the port of what is found. With a dot at its end it is whole: nothing is appended.
#[derive(Clone, Debug)]
pub(crate) struct DnsHost(pub(crate) Arc<str>, pub(crate) u16);

impl Scalar for DnsHost {
    const WHAT: &'static str = "a name and a port such as `app.internal:3000`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let text = text.text;
        let wrong = || Wrong::new(format!("{} is no name with a port", quoted(text)));
        if text.parse::<SocketAddr>().is_ok() {
            return Err(Wrong::new(format!("{} is an address already", quoted(text)))
                .help(format!("write it as a list: `endpoints: [\"{text}\"]`")));
        }
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split('/').next().unwrap_or(rest);
            let port = if host.contains(':') { "" } else { ":80" };
            return Err(wrong().help(format!("write `{host}{port}`")));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(wrong().help(format!("add the port: `{text}:80`; where DNS has it, write `srv:`")));
        };
        match port.parse::<u16>() {
            Ok(port @ 1..) if is_dns_name(host) => Ok(Self(host.to_ascii_lowercase().into(), port)),
            Ok(1..) => Err(wrong().help("write a name before the port: `app.internal:3000`")),
            _ => Err(wrong().help(format!("write a port from 1 to 65535: `{host}:3000`"))),
        }
    }
}

/// The name of a service (RFC 2782). With a dot at its end it is whole.
#[derive(Clone, Debug)]
pub(crate) struct DnsService(pub(crate) Arc<str>);

impl Scalar for DnsService {
    const WHAT: &'static str = "a service name such as `_http._tcp.app.internal`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let text = text.text;
        let wrong = Wrong::new(format!("{} is not the name of a service", quoted(text)));
        if text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            return Err(wrong.help("take the port away: SRV records say it"));
        }
        if is_dns_name(text) && text.contains('.') {
            return Ok(Self(text.to_ascii_lowercase().into()));
        }
        Err(wrong.help("write `_service._protocol.name`: `_http._tcp.app.internal`"))
    }
}

/// Where a name server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NameServer(pub(crate) SocketAddr);

impl Scalar for NameServer {
    const WHAT: &'static str = "the address of a name server such as `127.0.0.1:53`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let text = text.text;
        let wrong = || Wrong::new(format!("{} is not the address of a name server", quoted(text)));
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self(SocketAddr::new(ip, 53)));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 && !address.ip().is_unspecified() => Ok(Self(address)),
            _ => Err(wrong().help("write an IP address, with a port if it is not 53: `127.0.0.1:5353`")),
        }
    }
}

/// Like `is_host`, with a dot at its end or without.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    is_host(name) && name.parse::<IpAddr>().is_err()
}

/// A name as DNS has it.
/// Whether this is a name of a host, by its letters.
pub(crate) fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// Like `is_host`, or an address, where a request may name either.
fn is_host_or_ip(host: &str) -> bool {
    is_host(host)
        || host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .is_some_and(|ip| ip.parse::<IpAddr>().is_ok())
}

impl Scalar for HostPattern {
    const WHAT: &'static str = "a host such as `api.example` or `*.example`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let lower = text.text.trim_end_matches('.').to_ascii_lowercase();
        let wrong = || Wrong::new(format!("{} is not a host", quoted(text.text)));
        if let Some(parent) = lower.strip_prefix("*.").filter(|parent| is_host(parent)) {
            return Ok(Self::Wildcard(format!(".{parent}").into()));
        }
        if is_host_or_ip(&lower) {
            return Ok(Self::Exact(lower.into()));
        }
        if let Some((_, rest)) = lower.split_once("://") {
            let host = rest.split('/').next().unwrap_or(rest);
            return Err(wrong().help(format!("write the host alone: `{host}`")));
        }
        if let Some((host, port)) = lower.rsplit_once(':') {
            if port.parse::<u16>().is_ok() && !host.contains(':') {
                return Err(Wrong::new(format!("a port in the host {}", quoted(text.text)))
                    .help(format!("write `{host}`: a listener has the port")));
            }
            if lower.parse::<IpAddr>().is_ok() {
                return Err(wrong().help(format!("write `[{lower}]`")));
            }
        }
        Err(match lower.as_str() {
            "*" | "_" | "" => wrong().help("take it away: without `host:` every host matches"),
            lower if lower.contains('*') => {
                let rest = lower.rsplit('*').next().unwrap_or_default().trim_start_matches(|c| c != '.');
                let rest = if is_host(rest.trim_start_matches('.')) { rest } else { ".example.com" };
                wrong().help(format!("`*` is the whole leftmost label: write `*{rest}`"))
            }
            lower if !lower.is_ascii() => wrong().help("write it as DNS has it: `xn--…`"),
            _ => wrong().help("write a name such as `api.example`"),
        })
    }
}

/// A network; a plain address is a network of one.
impl Scalar for IpNet {
    const WHAT: &'static str = "a network such as `10.0.0.0/8`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let text = text.text;
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::from(address));
        }
        let wrong = Wrong::new(format!("{} is not a network", quoted(text)));
        let net: Self =
            text.parse().map_err(|_| wrong.help("write `10.0.0.0/8`, `fd00::/8` or one address"))?;
        if net.trunc() == net {
            return Ok(net);
        }
        Err(Wrong::new(format!("{} has bits behind its mask", quoted(text))).help(format!(
            "write `{}`, or `{}` for one address",
            net.trunc(),
            net.addr()
        )))
    }
}

impl Scalar for IpAddr {
    const WHAT: &'static str = "an IP address such as `203.0.113.7`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        text.text.parse().map_err(|_| {
            Wrong::new(format!("{} is not an IP address", quoted(text.text)))
                .help("write `203.0.113.7` or `2001:db8::7`")
        })
    }
}

impl Scalar for HeaderName {
    const WHAT: &'static str = "a header name such as `x-request-id`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        Self::from_bytes(text.text.as_bytes()).map_err(|_| {
            Wrong::new(format!("{} is not a header name", quoted(text.text)))
                .help("letters, digits and `-`: `x-request-id`")
        })
    }
}

impl Scalar for HeaderValue {
    const WHAT: &'static str = "the value of a header";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let fits = text.text.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
        Self::from_str(text.text).ok().filter(|_| fits).ok_or_else(|| {
            Wrong::new(format!("{} cannot be the value of a header", quoted(text.text)))
                .help("visible ASCII and spaces only")
        })
    }
}

/// The methods people use; others are spelled in capitals too.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];

impl Scalar for Method {
    const WHAT: &'static str = "a method such as `GET`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let wrong = || Wrong::new(format!("{} is not a method", quoted(text.text)));
        if text.text.contains(|c: char| c.is_ascii_lowercase()) {
            let upper = text.text.to_ascii_uppercase();
            return Err(wrong().help(format!("methods are in capitals: `{upper}`")));
        }
        if METHODS.contains(&text.text) || nearest(text.text, METHODS).is_none() {
            return Self::from_bytes(text.text.as_bytes())
                .map_err(|_| wrong().help("write `GET`, `POST` and so on"));
        }
        let meant = nearest(text.text, METHODS).unwrap_or("GET");
        Err(wrong().help(format!("did you mean `{meant}`?")))
    }

    fn schema() -> Json {
        json!({"type": "string", "examples": METHODS})
    }
}

impl Scalar for StatusCode {
    const WHAT: &'static str = "a status such as `200`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let status = text.text.parse().ok().filter(|number| (200..=599).contains(number));
        status.and_then(|number| Self::from_u16(number).ok()).ok_or_else(|| {
            Wrong::new(format!("{} is not a final status", quoted(text.text)))
                .help("write a number from 200 to 599")
        })
    }

    fn schema() -> Json {
        json!({"type": "integer", "minimum": 200, "maximum": 599})
    }
}

/// Some statuses: `204`, `200-299`, `2xx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statuses(pub(crate) u16, pub(crate) u16);

impl Scalar for Statuses {
    const WHAT: &'static str = "statuses such as `200`, `200-299` or `2xx`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let text = text.text;
        let number =
            |text: &str| text.parse().ok().filter(|number| text.len() == 3 && (200..=599).contains(number));
        let found = match (text.strip_suffix("xx"), text.split_once('-')) {
            (Some(hundred), _) => number(&format!("{hundred}00")).map(|first| Self(first, first + 99)),
            (_, Some((first, last))) => number(first).zip(number(last)).map(|(a, b)| Self(a, b)),
            _ => number(text).map(|one| Self(one, one)),
        };
        match found {
            Some(Self(first, last)) if first > last => {
                Err(Wrong::new(format!("{} ends before it begins", quoted(text)))
                    .help(format!("write `{last}-{first}`")))
            }
            Some(found) => Ok(found),
            None => Err(Wrong::new(format!("{} is no final status, and no range of them", quoted(text)))
                .help("write `200`, `200-299` or `2xx`, from 200 to 599")),
        }
    }

    fn schema() -> Json {
        json!({"anyOf": [
            {"type": "integer", "minimum": 200, "maximum": 599},
            {"type": "string", "pattern": "^([2-5][0-9]{2}(-[2-5][0-9]{2})?|[2-5]xx)$"},
        ]})
    }
}

/// Statuses of errors: `503`, `500-504`, `5xx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ErrorStatuses(pub(crate) u16, pub(crate) u16);

impl Scalar for ErrorStatuses {
    const WHAT: &'static str = "statuses of errors such as `503`, `500-504` or `5xx`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let Statuses(first, last) = Statuses::parse(text)?;
        if first < 400 {
            return Err(Wrong::new(format!("{} is not an error", quoted(text.text)))
                .help("write `503`, `500-504` or `5xx`, from 400 to 599"));
        }
        Ok(Self(first, last))
    }

    fn schema() -> Json {
        json!({"anyOf": [
            {"type": "integer", "minimum": 400, "maximum": 599},
            {"type": "string", "pattern": "^([45][0-9]{2}(-[45][0-9]{2})?|[45]xx)$"},
        ]})
    }
}

/// What a request of our own asks for: a path, and perhaps a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginForm(pub(crate) PathAndQuery);

impl Scalar for OriginForm {
    const WHAT: &'static str = "a path such as `/healthz`";

    fn may_hold_secret(text: &str) -> bool {
        text.contains('?')
    }

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let text = text.text;
        let wrong = || Wrong::new(format!("{} is not a path", quoted(text)));
        if text.contains("://") {
            return Err(wrong().help("write the path alone, such as `/healthz`"));
        }
        if !text.starts_with('/') {
            return Err(wrong().help("it begins with `/`: `/healthz`"));
        }
        if text.contains('#') {
            return Err(wrong().help("write what stands before `#`: the rest is never sent"));
        }
        // Longer than any server takes.
        match text.parse() {
            Ok(path) if text.len() <= 2048 => Ok(Self(path)),
            _ => Err(wrong().help("write visible ASCII, at most 2048 of it, and other bytes as `%20`")),
        }
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^/", "examples": ["/healthz", "/ready?deep=1"]})
    }
}

/// The status of a redirect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedirectStatus(pub(crate) StatusCode);

impl Scalar for RedirectStatus {
    const WHAT: &'static str = "`301`, `302`, `303`, `307` or `308`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let known = ["301", "302", "303", "307", "308"];
        let status = text.text.parse().ok().filter(|_| known.contains(&text.text)).map(Self);
        status.ok_or_else(|| {
            Wrong::new(format!("{} is not the status of a redirect", quoted(text.text)))
                .help(format!("write {}", one_of(known)))
        })
    }

    fn schema() -> Json {
        json!({"enum": [301, 302, 303, 307, 308]})
    }
}

/// The host of a redirect or a rewrite, with its port if there is one.
#[derive(Clone, Debug)]
pub(crate) struct Authority(pub(crate) Arc<str>);

impl Scalar for Authority {
    const WHAT: &'static str = "a host such as `www.example`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let lower = text.text.to_ascii_lowercase();
        let (host, port) = match lower.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (lower.as_str(), None),
        };
        if is_host_or_ip(host) && port.is_none_or(|port| port.parse::<u16>().is_ok()) {
            return Ok(Self(lower.into()));
        }
        let wrong = Wrong::new(format!("{} is not a host", quoted(text.text)));
        Err(if lower.contains("://") {
            wrong.help("write the host alone; `scheme:` and `path:` have keys of their own")
        } else {
            wrong.help("write a name such as `www.example`, with a port if there is one")
        })
    }
}

/// The name of a cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CookieName(pub(crate) Arc<str>);

impl Scalar for CookieName {
    const WHAT: &'static str = "the name of a cookie";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        // A token (RFC 6265, 4.1.1), as the name of a header is, but cases differ.
        let is_token = HeaderName::try_from(text.text).is_ok();
        is_token.then(|| Self(text.text.into())).ok_or_else(|| {
            Wrong::new(format!("{} is not the name of a cookie", quoted(text.text)))
                .help("letters, digits and `-`, `_` or `.`: `release`")
        })
    }
}

/// One part of the key of a rate limit.
impl Scalar for KeyPart {
    const WHAT: &'static str = "a part of a key such as `client_ip` or `header:x-api-key`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        const WORDS: [&str; 6] = ["client_ip", "route", "host", "method", "identity", "api_key"];
        if let Some(part) = identity_part(text.text) {
            return Ok(Self::Identity(part));
        }
        let text = text.text;
        match text {
            "client_ip" => return Ok(Self::ClientIp),
            "route" => return Ok(Self::Route),
            "host" => return Ok(Self::Host),
            "method" => return Ok(Self::Method),
            _ => {}
        }
        if let Some(name) = text.strip_prefix("header:") {
            return HeaderName::parse(Text { text: name.trim(), plain: true }).map(Self::Header);
        }
        if let Some(name) = text.strip_prefix("query:").map(str::trim).filter(|name| !name.is_empty()) {
            return Ok(Self::Query(name.into()));
        }
        if let Some(name) = text.strip_prefix("cookie:") {
            let CookieName(name) = CookieName::parse(Text { text: name.trim(), plain: true })?;
            return Ok(Self::Cookie(name));
        }
        if let Some(name) = capture(text) {
            return Ok(Self::Capture(name.into()));
        }
        let wrong = Wrong::new(format!("{} is no part of a key", quoted(text)));
        Err(match nearest(text, WORDS) {
            _ if text.starts_with(['{', '}']) => {
                wrong.help("a capture is one name in braces: `\"{ride_id}\"`")
            }
            _ if matches!(text, "ip" | "remote_ip" | "remote_addr" | "source_ip") => {
                wrong.help("write `client_ip`")
            }
            Some(meant) => wrong.help(format!("did you mean `{meant}`?")),
            None => wrong.help(format!(
                "write {}, `jwt.CLAIM`, `header:NAME`, `query:NAME`, `cookie:NAME` or `\"{{capture}}\"`",
                one_of(WORDS)
            )),
        })
    }
}

/// `identity`, `api_key` or `jwt.CLAIM`.
fn identity_part(text: &str) -> Option<IdentityPart> {
    match text {
        "identity" => Some(IdentityPart::Subject),
        "api_key" => Some(IdentityPart::ApiKey),
        _ => {
            let claim = text.strip_prefix("jwt.").filter(|claim| !claim.is_empty())?;
            Some(IdentityPart::Jwt(claim.into()))
        }
    }
}

/// What is known of whoever asks.
impl Scalar for IdentityPart {
    const WHAT: &'static str = "`identity`, `api_key` or a claim such as `jwt.tier`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        identity_part(text.text).ok_or_else(|| {
            Wrong::new(format!("{} is nothing that is known of whoever asks", quoted(text.text)))
                .help("write `identity`, `api_key` or `jwt.CLAIM`")
        })
    }
}

/// A URL that is fetched.
#[derive(Clone, Debug)]
pub(crate) struct Url(pub(crate) Arc<str>);

impl Scalar for Url {
    const WHAT: &'static str = "a URL such as `https://id.example/jwks`";
    /// People write passwords into URLs.
    const IS_SECRET: bool = true;

    /// Keys stand in queries.
    fn may_hold_secret(text: &str) -> bool {
        text.contains('?')
    }

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let wrong = || Wrong::new("this is not a URL that can be fetched");
        let uri: Uri = text.text.parse().map_err(|_| wrong().help("write `https://id.example/jwks`"))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http" | "https"), Some(authority)) if !authority.as_str().contains('@') => {
                Ok(Self(text.text.into()))
            }
            (Some("http" | "https"), Some(_)) => Err(wrong().help("take the user out of it")),
            (None, _) => Err(wrong().help("write `https://` before it")),
            _ => Err(wrong().help("write `https://…` or `http://…`")),
        }
    }
}

/// Where Redis answers: `redis://HOST:PORT/DATABASE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedisUrl {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) database: u16,
}

impl RedisUrl {
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() }
    }
}

impl Scalar for RedisUrl {
    const WHAT: &'static str = "a URL such as `redis://127.0.0.1:6379/0`";
    /// People write passwords into URLs.
    const IS_SECRET: bool = true;

    fn may_hold_secret(text: &str) -> bool {
        text.contains('@') || text.contains('?')
    }

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let wrong = || Wrong::new("this is not where Redis answers");
        let uri: Uri = text.text.parse().map_err(|_| wrong().help("write `redis://127.0.0.1:6379/0`"))?;
        match uri.scheme_str() {
            Some("redis") => {}
            Some("rediss") => {
                return Err(
                    wrong().help("TLS to Redis is not built: write `redis://`, in a network of its own")
                );
            }
            _ => return Err(wrong().help("write `redis://` before it")),
        }
        let authority = uri.authority().ok_or_else(|| wrong().help("write `redis://127.0.0.1:6379/0`"))?;
        if authority.as_str().contains('@') {
            return Err(wrong()
                .help("take the user out of it, and write `password: {env: REDIS_PASSWORD}` beside it"));
        }
        if uri.query().is_some() {
            return Err(wrong().help("take away what stands behind `?`"));
        }
        let database = match uri.path() {
            "" | "/" => Some(0),
            path => path.strip_prefix('/').and_then(|number| number.parse().ok()),
        };
        let database = database
            .ok_or_else(|| wrong().help("write the number of a database: `redis://127.0.0.1:6379/0`"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').into();
        Ok(Self { host, port: authority.port_u16().unwrap_or(6379), database })
    }
}

/// A URL that alerts are posted to. Of many services the path is what lets one in: it is shown nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HookUrl(pub(crate) Arc<str>);

impl Scalar for HookUrl {
    const WHAT: &'static str = "a URL such as `https://hooks.example/naka`";
    const IS_SECRET: bool = true;

    fn may_hold_secret(_text: &str) -> bool {
        true
    }

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let wrong = || Wrong::new("this is not a URL that can be posted to");
        let uri: Uri = text.text.parse().map_err(|_| wrong().help("write `https://hooks.example/naka`"))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http" | "https"), Some(authority)) if !authority.as_str().contains('@') => {
                Ok(Self(text.text.into()))
            }
            (Some("http" | "https"), Some(_)) => {
                Err(wrong().help("take the user out of it, and write `token: {env: ALERTS_TOKEN}` beside it"))
            }
            (None, _) => Err(wrong().help("write `https://` before it")),
            _ => Err(wrong().help("write `https://…` or `http://…`")),
        }
    }
}

/// SHA-256, in hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hash(pub(crate) [u8; 32]);

impl Scalar for Hash {
    const WHAT: &'static str = "64 hexadecimal digits";
    const IS_SECRET: bool = true;

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        // What stands here by mistake may be the key itself: it is not shown.
        let wrong = |what: String| {
            Wrong::new(what).help("write what `printf %s KEY | sha256sum` says, and never the key itself")
        };
        let digits = text.text.as_bytes();
        if digits.len() != 64 {
            return Err(wrong(format!("{} characters are no SHA-256", text.text.chars().count())));
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let pair =
                std::str::from_utf8(pair).ok().filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()));
            let value = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
            *byte = value.ok_or_else(|| wrong("that are not hexadecimal digits".into()))?;
        }
        Ok(Self(hash))
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"})
    }
}

/// `POST https://host/path`.
#[derive(Clone, Debug)]
pub(crate) struct RequestLine {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
}

impl Scalar for RequestLine {
    const WHAT: &'static str = "a request such as `GET https://api.example/rides`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let wrong = || {
            Wrong::new(format!("{} is not a request", quoted(text.text)))
                .help("write `GET https://api.example/rides`")
        };
        let (method, target) = text.text.trim().split_once(' ').ok_or_else(wrong)?;
        let method = Method::parse(Text { text: method, plain: true })?;
        let uri: Uri = target.trim().parse().map_err(|_| wrong())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(wrong());
        }
        Ok(Self { method, uri })
    }
}
