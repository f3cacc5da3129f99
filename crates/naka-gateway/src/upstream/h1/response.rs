//! What comes of a response: its head, and how its body is framed (RFC 9112 §4 to §7).
//!
//! # Decision
//! 1. A head is one that `httparse` reads, of HTTP/1.0 or 1.1, with [`FIELDS`] fields at the most.
//! 2. There is no body behind 204, 304, and what answers HEAD (§6.3, 1.).
//! 3. `Transfer-Encoding` is `chunked`, once, and not in HTTP/1.0 (§6.1): another coding would be passed on as if it were none. `Content-Length` counts for
//!    nothing beside it (§6.3, 3.), and is not passed on.
//! 4. `Content-Length` is one number, however often it stands there (§6.3, 5.). Without either the body lasts as long as the connection.
//! 5. The connection is kept as §9.3 says; never if it is upgraded.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};
use httparse::{Header, ParserConfig, Status};

use super::buffers;
use crate::strict::Chunked;

/// The most fields of a head, and of trailers.
const FIELDS: usize = 100;

/// So many fields more are there room for from the beginning: a response gets some on its way, and hyper reads the next request of the
/// same client into the room of this map, which gets some, too.
const ADDED: usize = 8;

/// What comes behind a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Nothing, or nothing more.
    Over,
    /// So many bytes.
    Length(u64),
    Chunks(Chunked),
    /// All until the connection ends.
    UntilClose,
}

/// The head of a response.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    /// What stands behind the status, unless it is what usually does.
    pub(super) reason: Option<Bytes>,
    pub(super) framing: Framing,
    /// Whether another request may follow.
    pub(super) is_kept: bool,
}

/// What is wrong with a response.
pub(super) type Wrong = &'static str;

/// Looks for the end of a head in what has come.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// So many bytes were looked through.
    seen: usize,
    /// So often it was asked whether they can become a head, and of so many bytes at last.
    checks: u32,
    checked: usize,
}

/// So often every piece is looked at by itself; then only if as much again has come. A head may come byte by byte.
const CHECKS: u32 = 16;

impl Search {
    /// Takes the next head, once it is there.
    pub(super) fn take(&mut self, bytes: &mut BytesMut, asked: &Method) -> Result<Option<Head>, Wrong> {
        if self.seen == 0 {
            skip_empty_lines(bytes);
        }
        if bytes.is_empty() || &bytes[..] == b"\r" {
            return Ok(None);
        }
        // It nearly always comes whole: so it is read before anybody looks for its end.
        let is_whole = self.seen > 0 && end_of_head(bytes, self.seen).is_some();
        if is_whole || self.checks < CHECKS || bytes.len() >= 2 * self.checked {
            // Who speaks something else may never come to an end: that is noticed here, too.
            if let Some((head, length)) = read(bytes, asked)? {
                *self = Self::default();
                bytes.advance(length);
                return Ok(Some(head));
            }
            if is_whole {
                return Err("the head of a response has no end");
            }
            (self.checks, self.checked) = (self.checks + 1, bytes.len());
        }
        self.seen = bytes.len();
        Ok(None)
    }
}

/// As old servers send behind a body, one more than they say.
fn skip_empty_lines(bytes: &mut BytesMut) {
    loop {
        let count = match bytes.get(..2) {
            Some(b"\r\n") => 2,
            _ if bytes.first() == Some(&b'\n') => 1,
            _ => return,
        };
        bytes.advance(count);
    }
}

/// Where the first empty line ends, of what was looked through up to `seen`.
fn end_of_head(bytes: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(2); // An end may have begun there.
    memchr::memchr_iter(b'\n', &bytes[from..]).find_map(|at| match &bytes[from + at + 1..] {
        [b'\n', ..] => Some(from + at + 2),
        [b'\r', b'\n', ..] => Some(from + at + 3),
        _ => None,
    })
}

/// The head that this begins with, and its length; none if it has no end yet.
fn read(bytes: &[u8], asked: &Method) -> Result<Option<(Head, usize)>, Wrong> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut read = httparse::Response::new(&mut []);
    let length =
        match ParserConfig::default().parse_response_with_uninit_headers(&mut read, bytes, &mut fields) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => return Ok(None),
            Err(error) => return Err(why(error)),
        };
    let copy = Copied::of(&bytes[..length]);
    let status = read.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("a status is none")?;
    let reason = read.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.map(|reason| copy.part(reason.as_bytes()));
    let is_1_0 = read.version == Some(0);
    let mut headers = HeaderMap::with_capacity(read.headers.len() + ADDED);
    let (mut lengths, mut is_chunked, mut asks) = (Lengths::default(), false, Asks::default());
    for field in &*read.headers {
        let (name, value) = copy.field(field)?;
        if name == CONTENT_LENGTH {
            lengths.add(field.value);
        } else if name == TRANSFER_ENCODING {
            if is_chunked || is_1_0 || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err("Transfer-Encoding is not `chunked` alone, or is in HTTP/1.0");
            }
            is_chunked = true;
        } else if name == CONNECTION {
            asks.look(field.value);
        }
        headers.append(name, value);
    }
    if is_chunked {
        headers.remove(CONTENT_LENGTH);
    }
    let is_bodiless = status.is_informational()
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
        || *asked == Method::HEAD;
    let framing = match lengths {
        _ if is_bodiless => Framing::Over,
        _ if is_chunked => Framing::Chunks(Chunked::new()),
        Lengths::Wrong => return Err("Content-Length is not one number"),
        Lengths::One(0) => Framing::Over,
        Lengths::One(length) => Framing::Length(length),
        Lengths::None => Framing::UntilClose,
    };
    let may_be_kept = framing != Framing::UntilClose && status != StatusCode::SWITCHING_PROTOCOLS;
    let is_kept = may_be_kept && !asks.to_close && (!is_1_0 || asks.to_keep);
    let version = if is_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
    Ok(Some((Head { status, version, headers, reason, framing, is_kept }, length)))
}

/// The trailers of a body: lines, and an empty one at the end.
pub(super) fn trailers(lines: &[u8]) -> Result<HeaderMap, Wrong> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    match httparse::parse_headers(lines, &mut fields) {
        Ok(Status::Complete((length, fields))) if length == lines.len() => {
            let copy = Copied::of(lines);
            fields.iter().map(|field| copy.field(field)).collect()
        }
        Ok(_) => Err("the trailers of a response have no end"),
        Err(error) => Err(why(error)),
    }
}

/// A copy of what was read: some of it may be kept for long, and the buffer that it came in is large.
struct Copied {
    bytes: Bytes,
    /// Where it was copied from.
    from: usize,
}

impl Copied {
    fn of(bytes: &[u8]) -> Self {
        Self { bytes: buffers::copied(bytes), from: bytes.as_ptr().addr() }
    }

    /// The same part of the copy, without another one.
    fn part(&self, part: &[u8]) -> Bytes {
        if part.is_empty() {
            return Bytes::new();
        }
        let from = part.as_ptr().addr() - self.from;
        self.bytes.slice(from..from + part.len())
    }

    fn field(&self, field: &Header<'_>) -> Result<(HeaderName, HeaderValue), Wrong> {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(self.part(field.value));
        name.ok().zip(value.ok()).ok_or("a field has a character that it must not have")
    }
}

const fn why(error: httparse::Error) -> Wrong {
    match error {
        httparse::Error::Version => "the version is neither HTTP/1.0 nor HTTP/1.1",
        httparse::Error::Status => "the status is none",
        httparse::Error::HeaderName => "a line is no field",
        httparse::Error::HeaderValue => "a field has a character that it must not have",
        httparse::Error::NewLine => "a line does not end as it has to",
        httparse::Error::Token => "the status line is none",
        httparse::Error::TooManyHeaders => "there are too many fields",
    }
}

/// What `Content-Length` says, in all its lines and lists.
#[derive(Clone, Copy, Default)]
enum Lengths {
    #[default]
    None,
    One(u64),
    /// What is no number, or several.
    Wrong,
}

impl Lengths {
    fn add(&mut self, line: &[u8]) {
        for length in line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(length).ok().filter(|_| is_number);
            *self = match (*self, length.and_then(|length| length.parse().ok())) {
                (Self::None, Some(length)) => Self::One(length),
                (Self::One(one), Some(length)) if one == length => Self::One(one),
                _ => Self::Wrong,
            };
        }
    }
}

/// What `Connection` says about the connection.
#[derive(Default)]
struct Asks {
    to_close: bool,
    to_keep: bool,
}

impl Asks {
    fn look(&mut self, line: &[u8]) {
        for option in line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.to_close |= option.eq_ignore_ascii_case(b"close");
            self.to_keep |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
}
