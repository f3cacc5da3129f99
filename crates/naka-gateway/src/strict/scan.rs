//! Follows the framing of the messages of one connection, byte by byte, and says where one is not what it has to be.
//!
//! # Decision
//! 1. A line ends in CRLF. LF alone is refused in heads, chunks and trailers (RFC 9112 §2.2 lets a recipient take it for a line's end; those who do and
//!    those who do not are two readers).
//! 2. Before a request line one empty line is passed over (§2.2), and nothing else.
//! 3. A head is one that `httparse` reads in its strictest way: no whitespace before a colon (§5.1), no folded lines (§5.2), no control
//!    characters, one space between the parts of a request line, HTTP/1.0 or 1.1.
//! 4. `Content-Length` is there once, and is digits (§6.3; a list of equal lengths, which §6.3 lets pass, is refused, too). Two lines of it are
//!    refused even if they are equal.
//! 5. `Transfer-Encoding` is there once, and is `chunked` (§6.1): any other coding would be passed on as if it were none. It does not stand
//!    beside `Content-Length`, and not in HTTP/1.0 (§6.1, §6.3).
//! 6. A request that asks for another protocol, in a way that is followed, ends what is read until it is known what becomes of it (RFC 9110 §7.8).
//! 7. A body in chunks is what [`Chunked`] takes for one.
//!
//! # Units and limits
//! Sizes are bytes. A head has at most [`Limits`], and all trailers of a body as much. What is kept is the
//! beginning of a head whose end has not come, and nothing between two messages.
//!
//! # Errors and panics
//! Never panics. After an error it has nothing more to say.

use std::mem::MaybeUninit;

use http::Uri;
use naka::reject::Reason;

use super::chunked::{BARE_LF, Chunked, LINE_END, Lines};
use crate::upgrade;

/// Fields that need no allocation.
const USUAL_FIELDS: usize = 64;

/// How large heads may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a head.
    pub head_bytes: usize,
    /// Fields of a head.
    pub fields: usize,
}

/// What is wrong with what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// As a reason to refuse it.
    pub reason: Reason,
    /// In a sentence.
    pub why: &'static str,
}

pub(super) const fn bad(why: &'static str) -> Wrong {
    Wrong { reason: Reason::BadRequest, why }
}

const TWO_FRAMINGS: Wrong = bad("Content-Length beside Transfer-Encoding (RFC 9112, section 6.3)");
const LENGTH: Wrong = bad("Content-Length is not one number (RFC 9112, section 6.3)");
const LENGTHS: Wrong = bad("Content-Length stands there more than once (RFC 9112, section 6.3)");
const CODING: Wrong = bad("Transfer-Encoding is not `chunked` alone (RFC 9112, section 6.1)");
const CODED_1_0: Wrong = bad("Transfer-Encoding in HTTP/1.0 (RFC 9112, section 6.1)");
const REQUEST_LINE: Wrong = bad("the request line is none (RFC 9112, section 3)");
const VERSION: Wrong = bad("the version is neither HTTP/1.0 nor HTTP/1.1 (RFC 9112, section 2.3)");
const TARGET: Wrong = bad("the request target is none (RFC 9112, section 3.2)");
const FIELD_NAME: Wrong =
    bad("a line is no field, is folded, or has whitespace before its colon (RFC 9112, section 5)");
const FIELD_VALUE: Wrong = bad("a field has a character that it must not have (RFC 9110, section 5.5)");
const EMPTY_LINES: Wrong = bad("more than one empty line before a request (RFC 9112, section 2.2)");
const TOO_LARGE: Wrong =
    Wrong { reason: Reason::HeadTooLarge, why: "the head is longer than `gateway.limits.header_bytes`" };
const TOO_MANY: Wrong = Wrong {
    reason: Reason::HeadTooLarge,
    why: "the head has more fields than `gateway.limits.header_count`",
};

/// Where the reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before a message; after one empty line, or not.
    Start {
        is_after_empty: bool,
    },
    /// Within an empty line.
    EmptyCr,
    Head,
    /// So many bytes of a body are to come.
    Body(u64),
    Chunks(Chunked),
    /// Behind a head that asks for another protocol: whose bytes these are is not known yet.
    Held,
}

/// The framing of one connection.
#[derive(Debug)]
pub struct Scan {
    at: At,
    limits: Limits,
    /// The beginning of a head, as far as it came with earlier bytes.
    held: Vec<u8>,
    released: Vec<u8>,
    lines: Lines,
    /// Heads that have been passed on.
    heads: u64,
    #[cfg(any(test, fuzzing))]
    was_data: bool,
}

/// Bytes of which the first so many are right, and what is wrong with the next.
type Refused = (usize, Wrong);

impl Scan {
    /// Nothing has come.
    pub const fn new(limits: Limits) -> Self {
        let at = At::Start { is_after_empty: false };
        Self {
            at,
            limits,
            held: Vec::new(),
            released: Vec::new(),
            lines: Lines::new(),
            heads: 0,
            #[cfg(any(test, fuzzing))]
            was_data: false,
        }
    }

    /// Whether the reading is between two messages, or in the head of one.
    pub const fn is_outside_body(&self) -> bool {
        matches!(self.at, At::Start { .. } | At::EmptyCr | At::Head | At::Held)
    }

    /// Behind how many heads it waits to hear what becomes of the last: until then it takes nothing.
    pub const fn held_behind(&self) -> Option<u64> {
        if matches!(self.at, At::Held) { Some(self.heads) } else { None }
    }

    /// The request that it waits for has come to nothing: the next message follows.
    pub const fn go_on(&mut self) {
        if matches!(self.at, At::Held) {
            self.at = At::Start { is_after_empty: false };
        }
    }

    /// Whether the reading is between two messages.
    #[cfg(any(test, fuzzing))]
    pub const fn is_between(&self) -> bool {
        matches!(self.at, At::Start { .. } | At::EmptyCr | At::Held)
    }

    /// Whether the last byte was one of a body. It is if it was fed alone.
    #[cfg(any(test, fuzzing))]
    pub const fn has_taken_data(&self) -> bool {
        self.was_data
    }

    /// Takes the next bytes of the connection, and answers with how many of them may be passed on by now, behind those that are
    /// [`released`](Self::released): a head is held until all of it is there, and nothing is taken behind one that asks for another protocol.
    ///
    /// # Errors
    /// What is wrong, and how many bytes may be passed on all the same: none of a head that is wrong.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        let (mut from, mut head) = (0, 0);
        while from < bytes.len() {
            let rest = &bytes[from..];
            if self.at == At::Held {
                return Ok(from);
            }
            if let At::Start { .. } = self.at {
                head = from;
            }
            #[cfg(any(test, fuzzing))]
            {
                self.was_data = match self.at {
                    At::Chunks(chunks) => chunks.is_at_data(),
                    at => matches!(at, At::Body(_)),
                };
            }
            let took = match self.at {
                At::Start { is_after_empty } => self.start(rest[0], is_after_empty),
                At::EmptyCr if rest[0] == b'\n' => {
                    self.at = At::Start { is_after_empty: true };
                    Ok(1)
                }
                At::EmptyCr => Err(LINE_END),
                At::Head => self.head(&bytes[head..], from - head),
                At::Body(left) => Ok(self.skip(left, rest)),
                At::Chunks(chunks) => self.chunks(chunks, rest),
                At::Held => Ok(0), // Not here.
            };
            match took {
                Ok(took) => from += took,
                Err(wrong) if self.is_outside_body() => return Err((head, wrong)),
                Err(wrong) => return Err((from, wrong)),
            }
        }
        if self.at != At::Head {
            return Ok(bytes.len());
        }
        self.held.extend_from_slice(&bytes[head..]);
        if self.held.len() > self.limits.head_bytes {
            return Err((head, TOO_LARGE));
        }
        // Who does not speak HTTP may never come to an end.
        self.framing_of(&self.held).map_or_else(|wrong| Err((head, wrong)), |_| Ok(head))
    }

    /// The beginning of a head whose end has come now: it goes before what was fed last.
    pub fn released(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.released)
    }

    fn start(&mut self, first: u8, is_after_empty: bool) -> Result<usize, Wrong> {
        match first {
            b'\r' if is_after_empty => Err(EMPTY_LINES),
            b'\n' => Err(BARE_LF),
            b'\r' => {
                self.at = At::EmptyCr;
                Ok(1)
            }
            _ => {
                (self.at, self.lines) = (At::Head, Lines::new());
                Ok(0)
            }
        }
    }

    /// Looks for the end of a head of which `bytes` is all that came now; the first `seen` of them were looked at before.
    fn head(&mut self, bytes: &[u8], seen: usize) -> Result<usize, Wrong> {
        let Some(length) = self.lines.end(&bytes[seen..])? else { return Ok(bytes.len() - seen) };
        let end = seen + length;
        let held = std::mem::take(&mut self.held);
        let body = if held.is_empty() {
            self.framing_of(&bytes[..end])
        } else {
            self.framing_of(&[&held, &bytes[..end]].concat())
        };
        self.at = body?.ok_or(REQUEST_LINE)?; // There is an empty line, and so an end.
        self.heads += 1;
        if !held.is_empty() {
            self.released = held; // Of what came now at most one head began earlier.
        }
        Ok(length)
    }

    /// Reads a head, for how its body is framed; nothing, if it is right as far as it goes.
    fn framing_of(&self, head: &[u8]) -> Result<Option<At>, Wrong> {
        if head.len() > self.limits.head_bytes {
            return Err(TOO_LARGE);
        }
        // Each field has a line, of which the last may have no end.
        let lines = memchr::memchr_iter(b'\n', head).count() + 1;
        let most = lines.min(self.limits.fields);
        if most <= USUAL_FIELDS {
            let mut fields = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
            return framing(head, &mut fields[..most]);
        }
        framing(head, &mut vec![MaybeUninit::uninit(); most])
    }

    fn skip(&mut self, left: u64, rest: &[u8]) -> usize {
        let took = left.min(rest.len() as u64);
        self.at = if took == left { At::Start { is_after_empty: false } } else { At::Body(left - took) };
        usize::try_from(took).unwrap_or(usize::MAX) // It is no more than there is.
    }

    fn chunks(&mut self, mut chunks: Chunked, rest: &[u8]) -> Result<usize, Wrong> {
        let (took, _) = chunks.feed(rest, self.limits.head_bytes)?;
        self.at = if chunks.is_over() { At::Start { is_after_empty: false } } else { At::Chunks(chunks) };
        Ok(took)
    }
}

/// Reads a head, for how what follows is framed; nothing, if there is more to come.
fn framing<'h>(
    head: &'h [u8],
    fields: &mut [MaybeUninit<httparse::Header<'h>>],
) -> Result<Option<At>, Wrong> {
    use httparse::{Error, Status};
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, fields) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Ok(Status::Partial) => return Ok(None),
        Ok(Status::Complete(_)) | Err(Error::Token) => return Err(REQUEST_LINE),
        Err(Error::Version) => return Err(VERSION),
        Err(Error::HeaderName) => return Err(FIELD_NAME),
        Err(Error::HeaderValue) => return Err(FIELD_VALUE),
        Err(Error::TooManyHeaders) => return Err(TOO_MANY),
        Err(Error::NewLine | Error::Status) => return Err(LINE_END),
    }
    if !is_target(request.path.unwrap_or_default()) {
        return Err(TARGET);
    }
    let (mut length, mut is_chunked, mut upgrades) = (None, false, false);
    for field in &*request.headers {
        if field.name.eq_ignore_ascii_case("content-length") {
            if length.is_some() {
                return Err(LENGTHS);
            }
            length = Some(number(field.value).ok_or(LENGTH)?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if is_chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(CODING);
            }
            is_chunked = true;
        }
        upgrades |= field.name.eq_ignore_ascii_case("upgrade");
    }
    let is_held = || upgrades && request.version == Some(1) && asks_for_another(&request);
    match (length, is_chunked) {
        (Some(_), true) => Err(TWO_FRAMINGS),
        (_, true) if request.version == Some(0) => Err(CODED_1_0),
        (_, true) => Ok(Some(At::Chunks(Chunked::new()))),
        (None | Some(0), false) if is_held() => Ok(Some(At::Held)),
        (None | Some(0), false) => Ok(Some(At::Start { is_after_empty: false })),
        (Some(length), false) => Ok(Some(At::Body(length))),
    }
}

/// Whether a request of HTTP/1.1 without a body asks for another protocol, in a way that is followed.
fn asks_for_another(request: &httparse::Request<'_, '_>) -> bool {
    let lines = |name: &'static str| {
        let fields = request.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        fields.map(|field| field.value)
    };
    upgrade::forwarded(request.method.unwrap_or_default(), lines("connection"), lines("upgrade")).is_some()
}

/// Whether it has one of the four forms (§3.2), and hyper takes it for one, too.
fn is_target(target: &str) -> bool {
    // What nearly all of them are made of.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%?=&+,:;@!$'()*".contains(&byte);
    if target.starts_with('/') && target.bytes().all(is_plain) {
        return true;
    }
    let is_absolute = || {
        let scheme = target.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_none_or(|it| it.eq_ignore_ascii_case("http") || it.eq_ignore_ascii_case("https"))
    };
    target.parse::<Uri>().is_ok() && (target.starts_with('/') || is_absolute())
}

/// Digits, and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{
        super::chunked::{CHUNK_END, CHUNK_SIZE, EXTENSION, TRAILERS},
        *,
    };

    const LIMITS: Limits = Limits { head_bytes: 1000, fields: 10 };

    /// What becomes of these bytes, in pieces of so many.
    fn scanned(bytes: &[u8], piece: usize) -> Result<Scan, Wrong> {
        let mut scan = Scan::new(LIMITS);
        for piece in bytes.chunks(piece) {
            scan.feed(piece).map_err(|(passed, wrong)| {
                assert!(passed < piece.len());
                wrong
            })?;
        }
        Ok(scan)
    }

    fn is_between(bytes: &str) -> bool {
        (1..=bytes.len()).all(|piece| {
            let scan =
                scanned(bytes.as_bytes(), piece).unwrap_or_else(|wrong| panic!("{bytes:?}: {wrong:?}"));
            matches!(scan.at, At::Start { .. }) && scan.held.is_empty()
        })
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        for bytes in [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: b\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n\n\n\0\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=\"b\"\r\n12345\r\n0A\r\n1234567890\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\nz: \r\n\r\nGET / HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.0\r\ncontent-length: 0\r\n\r\n",
        ] {
            assert!(is_between(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused_however_it_is_cut() {
        let chunked = |rest: &str| format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{rest}");
        let with = |lines: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n");
        let many = "x: 1\r\n".repeat(11);
        for (bytes, expected) in [
            ("GET / HTTP/1.1\nhost: a\r\n\r\n".to_owned(), BARE_LF),
            ("GET / HTTP/1.1\r\nhost: a\n\r\n".to_owned(), BARE_LF),
            ("GET / HTTP/1.1\r\nhost: a\r\n\n".to_owned(), BARE_LF),
            ("\nGET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), BARE_LF),
            ("\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), EMPTY_LINES),
            ("\rGET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), LINE_END),
            ("GET  / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), REQUEST_LINE),
            ("GET / HTTP/1.2\r\nhost: a\r\n\r\n".to_owned(), VERSION),
            ("GET / HTTP/2.0\r\nhost: a\r\n\r\n".to_owned(), VERSION),
            ("GET foo HTTP/1.1\r\nhost: a:b:c\r\n\r\n".replace("foo", "http://a:b:c/"), TARGET),
            (with("x : 1"), FIELD_NAME),
            (with("x: 1\r\n y"), FIELD_NAME),
            (with("x: \u{1}"), FIELD_VALUE),
            (with("content-length: 1\r\ncontent-length: 1"), LENGTHS),
            (with("content-length: 1, 1"), LENGTH),
            (with("content-length: +1"), LENGTH),
            (with("content-length: 0x1"), LENGTH),
            (with("content-length: 18446744073709551616"), LENGTH),
            (with("content-length:"), LENGTH),
            (with("content-length: 1\r\ntransfer-encoding: chunked"), TWO_FRAMINGS),
            (with("transfer-encoding: chunked\r\ncontent-length: 1"), TWO_FRAMINGS),
            (with("transfer-encoding: gzip, chunked"), CODING),
            (with("transfer-encoding: chunked\r\ntransfer-encoding: chunked"), CODING),
            (with("transfer-encoding: chunked\r\ntransfer-encoding: identity"), CODING),
            (with("transfer-encoding: xchunked"), CODING),
            ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), CODED_1_0),
            (with(&many), TOO_MANY),
            (with(&format!("x: {}", "y".repeat(2000))), TOO_LARGE),
            (chunked("5 \r\n"), CHUNK_SIZE),
            (chunked("0x5\r\n"), CHUNK_SIZE),
            (chunked("\r\n"), CHUNK_SIZE),
            (chunked("12345678123456781\r\n"), CHUNK_SIZE),
            (chunked("1\na\r\n"), BARE_LF),
            (chunked("1\rX"), LINE_END),
            (chunked("1;a\nb\r\n"), BARE_LF),
            (chunked("1;a\0b\r\n"), EXTENSION),
            (chunked(&format!("1;{}\r\n", "a".repeat(5000))), EXTENSION),
            (chunked("1\r\nab"), CHUNK_END),
            (chunked("1\r\na\n"), CHUNK_END),
            (chunked("0\r\nx: y\n\r\n"), BARE_LF),
            (chunked(&format!("0\r\nx: {}\r\n\r\n", "y".repeat(2000))), TRAILERS),
        ] {
            for piece in 1..=bytes.len() {
                let wrong = scanned(bytes.as_bytes(), piece).err();
                assert_eq!(wrong, Some(expected), "{bytes:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn nothing_of_a_head_that_is_wrong_is_passed_on_and_all_before_it_is() {
        let right = "POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nab";
        let both = format!("{right}GET / HTTP/1.1\nhost: a\r\n\r\n");
        assert_eq!(Scan::new(LIMITS).feed(both.as_bytes()), Err((right.len(), BARE_LF)));
        let body = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
        let both = format!("{body}q");
        assert_eq!(Scan::new(LIMITS).feed(both.as_bytes()), Err((body.len(), CHUNK_SIZE)));
    }

    #[test]
    fn what_is_kept_of_a_head_is_bounded_and_given_back() {
        let mut scan = Scan::new(LIMITS);
        scan.feed(b"GET / HTTP/1.1\r\nx: ").unwrap();
        let fed = (0..1000).take_while(|_| scan.feed(b"yyyyyyyyyyyyyyyy").is_ok()).count();
        assert!((55..65).contains(&fed), "{fed}");
        assert!(scan.held.capacity() <= 4 * LIMITS.head_bytes);
    }
}
