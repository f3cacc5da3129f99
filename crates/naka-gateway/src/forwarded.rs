//! `Forwarded` (RFC 7239): what proxies say of the way a request came, each in an element of one field.
//!
//! # Grammar
//! That of section 4, to the letter: pairs of a token and a token or a quoted text, divided by `;`, elements divided by `,`.
//! Nothing is guessed: a parameter that is there twice in an element, an element that says nothing, `for` and `by` that are no node
//! (an IPv4 address, an IPv6 address in brackets, `unknown`, or `_` and a name; each perhaps with a port), a `proto` that is no scheme
//! and an empty `host` are refused, and with them the request: whoever is trusted to write the field writes it rightly, or
//! passes on what a stranger wrote.
//!
//! # Units and limits
//! As long as a request head may be (`gateway.limits.header_bytes`); [`PAIRS`] in an element.

use std::{
    borrow::Cow,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use http::{HeaderMap, header::FORWARDED};

use crate::headers::is_of_token;

/// The most pairs of an element; the RFC knows four.
pub const PAIRS: usize = 16;

/// What one proxy says: of whom it took the request, and how it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element<'t> {
    /// Whose request it was, from where this proxy stands.
    pub client: Option<Node<'t>>,
    /// The scheme, as it is written.
    pub proto: Option<Cow<'t, str>>,
    /// The host that was asked for, as it is written.
    pub host: Option<Cow<'t, str>>,
}

/// Somebody on the way (RFC 7239 §6), without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node<'t> {
    /// An address.
    Address(IpAddr),
    /// `unknown`, or a name that only its proxy can read.
    Hidden(Cow<'t, str>),
}

impl Element<'_> {
    /// The client's address, if it is one.
    pub const fn address(&self) -> Option<IpAddr> {
        match self.client {
            Some(Node::Address(address)) => Some(address),
            _ => None,
        }
    }
}

/// A line that is not as the RFC has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// All elements of all lines, the one that was written last at the end.
///
/// # Errors
/// If any line is not of the grammar.
pub fn elements(headers: &HeaderMap) -> Result<Vec<Element<'_>>, Malformed> {
    let mut all = Vec::new();
    for line in headers.get_all(FORWARDED) {
        all.extend(read(line.to_str().map_err(|_| Malformed)?)?);
    }
    Ok(all)
}

/// The elements of one line.
///
/// # Errors
/// If it is not of the grammar.
pub fn read(line: &str) -> Result<Vec<Element<'_>>, Malformed> {
    let mut rest = Rest(line);
    let mut all = Vec::new();
    loop {
        rest.blanks();
        all.push(rest.element().ok_or(Malformed)?);
        rest.blanks();
        if rest.0.is_empty() {
            return Ok(all);
        }
        rest.eat(',').ok_or(Malformed)?;
    }
}

/// The element of a proxy that took a request of this address, or of who has none. Of itself it says nothing: `by` would tell upstreams
/// what they know, and others what they need not know.
pub fn written(client: Option<IpAddr>, host: Option<&str>, proto: &str) -> String {
    let mut element = match client {
        Some(IpAddr::V4(v4)) => format!("for={v4}"),
        Some(IpAddr::V6(v6)) => format!("for=\"[{v6}]\""),
        None => "for=unknown".to_owned(),
    };
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        element.push_str(";host=");
        if host.bytes().all(is_of_token) {
            element.push_str(host);
        } else {
            element.push('"');
            for c in host.chars() {
                if matches!(c, '"' | '\\') {
                    element.push('\\');
                }
                element.push(c);
            }
            element.push('"');
        }
    }
    let _ = write!(element, ";proto={proto}"); // A String takes every write.
    element
}

/// What of a line has not been read.
struct Rest<'t>(&'t str);

impl<'t> Rest<'t> {
    /// Pairs, some of which may be left out, and at least one.
    fn element(&mut self) -> Option<Element<'t>> {
        let (mut element, mut has_by, mut others) = (Element::default(), false, Vec::new());
        let mut pairs = 0;
        loop {
            if !self.0.starts_with([';', ',', ' ', '\t']) && !self.0.is_empty() {
                pairs += 1;
                let name = self.token()?;
                self.eat('=')?;
                let value = self.value()?;
                match name.to_ascii_lowercase().as_str() {
                    "for" if element.client.is_none() => element.client = Some(node(value)?),
                    "by" if !has_by => has_by = node(value).map(|_| true)?,
                    "proto" if element.proto.is_none() => element.proto = Some(scheme(value)?),
                    "host" if element.host.is_none() && !value.is_empty() => element.host = Some(value),
                    "for" | "by" | "proto" | "host" => return None,
                    _ if others.len() == PAIRS => return None,
                    other if others.iter().any(|known| known == other) => return None,
                    other => others.push(other.to_owned()),
                }
            }
            if self.eat(';').is_none() {
                return (1..=PAIRS).contains(&pairs).then_some(element);
            }
        }
    }

    fn eat(&mut self, c: char) -> Option<()> {
        self.0 = self.0.strip_prefix(c)?;
        Some(())
    }

    fn blanks(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn token(&mut self) -> Option<&'t str> {
        let end = self.0.bytes().position(|b| !is_of_token(b)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    fn value(&mut self) -> Option<Cow<'t, str>> {
        let Some(quoted) = self.0.strip_prefix('"') else { return self.token().map(Cow::Borrowed) };
        let mut text = String::new();
        let mut chars = quoted.char_indices();
        loop {
            let (at, c) = chars.next()?;
            let c = match c {
                '"' => {
                    self.0 = &quoted[at + 1..];
                    let is_plain = text.len() == at;
                    return Some(if is_plain { Cow::Borrowed(&quoted[..at]) } else { Cow::Owned(text) });
                }
                '\\' => chars.next()?.1,
                c => c,
            };
            text.push(Some(c).filter(|c| matches!(c, '\t' | ' '..='~'))?);
        }
    }
}

/// RFC 7239 §6.
fn node(text: Cow<'_, str>) -> Option<Node<'_>> {
    let bracketed = |inner: &str| {
        let (address, port) = inner.split_once(']')?;
        let address = IpAddr::V6(address.parse::<Ipv6Addr>().ok()?).to_canonical();
        (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(Node::Address(address))
    };
    if let Some(inner) = text.strip_prefix('[') {
        return bracketed(inner);
    }
    let (name, is_fine) = match text.split_once(':') {
        Some((name, port)) => (name, is_port(port)),
        None => (&*text, true),
    };
    if let Ok(address) = name.parse::<Ipv4Addr>() {
        return is_fine.then_some(Node::Address(address.into()));
    }
    let is_known = name.eq_ignore_ascii_case("unknown") || is_obfuscated(name);
    (is_fine && is_known).then_some(Node::Hidden(text))
}

fn is_port(port: &str) -> bool {
    is_obfuscated(port) || (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit())
}

/// RFC 7239 §6.3.
fn is_obfuscated(name: &str) -> bool {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    name.strip_prefix('_').is_some_and(|name| !name.is_empty() && name.bytes().all(is_fine))
}

/// RFC 3986 §3.1.
fn scheme(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    let is_scheme = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(is_fine);
    is_scheme.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Node<'_> {
        Node::Address(text.parse().unwrap())
    }

    #[test]
    fn r2_3_the_examples_of_the_rfc_are_read() {
        for (line, clients) in [
            ("for=\"_gazonk\"", vec![Some(Node::Hidden("_gazonk".into()))]),
            ("For=\"[2001:db8:cafe::17]:4711\"", vec![Some(address("2001:db8:cafe::17"))]),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", vec![Some(address("192.0.2.60"))]),
            (
                "for=192.0.2.43, for=198.51.100.17",
                vec![Some(address("192.0.2.43")), Some(address("198.51.100.17"))],
            ),
            (
                "for=_hidden, for=_SEVKISEK",
                vec![Some(Node::Hidden("_hidden".into())), Some(Node::Hidden("_SEVKISEK".into()))],
            ),
            ("for=unknown;by=\"_a:_b\";host=h", vec![Some(Node::Hidden("unknown".into()))]),
            ("proto=https", vec![None]),
            ("for=\"192.0.2.1\\:80\";;x=\"a,b;c\"", vec![Some(address("192.0.2.1"))]),
        ] {
            let read = read(line).unwrap_or_else(|Malformed| panic!("{line}"));
            assert_eq!(read.into_iter().map(|it| it.client).collect::<Vec<_>>(), clients, "{line}");
        }
    }

    #[test]
    fn r2_3_what_the_rfc_does_not_have_is_refused() {
        for line in [
            "",
            ",",
            "for=1.1.1.1,",
            ", for=1.1.1.1",
            ";",
            "for",
            "for=",
            "for=1.1.1.1:80",
            "for=[::1]",
            "for=::1",
            "for=\"::1\"",
            "for=\"[::1\"",
            "for=\"[::1]x\"",
            "for=\"[::1]:\"",
            "for=\"1.1.1.1:123456\"",
            "for=1.1.1",
            "for=01.1.1.1",
            "for=name",
            "for=_",
            "for=\"_a b\"",
            "for=1.1.1.1;for=2.2.2.2",
            "for=1.1.1.1;FOR=1.1.1.1",
            "x=1;x=2",
            "for =1.1.1.1",
            "for= 1.1.1.1",
            "for=1.1.1.1; proto=http",
            "for=\"1.1.1.1",
            "for=\"1.1.1.1\\",
            "for=1.1.1.1 for=2.2.2.2",
            "proto=1a",
            "proto=\"ht tp\"",
            "host=\"\"",
            "by=name",
            "x=\"\u{7f}\"",
            "x=\"\u{e4}\"",
        ] {
            assert_eq!(read(line), Err(Malformed), "{line}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for (client, host) in
            [("192.0.2.7", Some("api.example:8080")), ("2001:db8::1", Some("[::1]:80")), ("::1", None)]
        {
            let client = client.parse().unwrap();
            let element = written(Some(client), host, "https");
            let read = read(&element).unwrap();
            assert_eq!((read.len(), read[0].address()), (1, Some(client)), "{element}");
            assert_eq!(
                (read[0].host.as_deref(), read[0].proto.as_deref()),
                (host, Some("https")),
                "{element}"
            );
        }
        let element = written(None, Some("h"), "http");
        assert_eq!(element, "for=unknown;host=h;proto=http");
        assert_eq!(read(&element).unwrap()[0].client, Some(Node::Hidden("unknown".into())));
    }
}
