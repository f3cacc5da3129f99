//! Which trace a request belongs to, and what was done for it.
//!
//! A trace is a tree of spans: what a service does for a request, and within it what it asks others to do. Whoever asks
//! says in headers which span it asks from, and so the tree comes together in a collector. Four ways of saying it are read
//! and written here ([`Format`]); [`extract`] takes the first that is right, [`inject`] writes any set of them.
//!
//! | Format | Headers | By |
//! | --- | --- | --- |
//! | [`W3c`](Format::W3c) | `traceparent`, `tracestate` | [Trace Context, level 2](https://www.w3.org/TR/trace-context-2/) |
//! | [`B3`](Format::B3) | `b3` | [Zipkin](https://github.com/openzipkin/b3-propagation) |
//! | [`B3Multi`](Format::B3Multi) | `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled`, `x-b3-flags` | the same, older |
//! | [`Jaeger`](Format::Jaeger) | `uber-trace-id` | [Jaeger](https://www.jaegertracing.io/docs/1.76/sdk-migration/#propagation-format) |
//!
//! [`TraceLayer`] makes a span of each request: it ends when the response's body ends, and is handed to whoever
//! [collects](Collect) those, such as the exporter of `otlp` (feature `otlp`). Which traces are recorded a [`Sampler`] says, or
//! whoever has begun them. What is done for a request is written into its [`Journal`]: each time that it is sent to an
//! endpoint becomes a span of its own, under whose number the endpoint is asked, and each decision an event.
//!
//! ```
//! # use http::{Request, Response, HeaderMap};
//! # use http_body_util::{BodyExt, Empty};
//! # use tower::{Layer, ServiceExt};
//! # use bytes::Bytes;
//! use naka::{clock::Now, trace::{self, Format, Journal, ServerSpan, TraceConfig, TraceLayer}};
//! use std::sync::mpsc;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let (sender, spans) = mpsc::channel();
//! let collector = move |span: ServerSpan| { let _ = sender.send(span); };
//! let service = TraceLayer::new(TraceConfig::default(), collector).layer(tower::service_fn(
//!     |request: Request<()>| async move {
//!         let journal = Journal::of(request.extensions()).expect("the layer puts it there");
//!         let attempt = journal.attempt(&"pricing".into(), &"127.0.0.1:8203".into(), Now::read());
//!         let mut headers = HeaderMap::new(); // Of the request to that endpoint.
//!         trace::inject(&attempt.context().expect("it is traced"), &mut headers, &[Format::W3c]);
//!         assert!(headers["traceparent"].to_str().unwrap().starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
//!         Ok::<_, ()>(Response::new(Empty::<Bytes>::new()))
//!     },
//! ));
//! let request = Request::get("/rides")
//!     .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
//!     .body(()).unwrap();
//! let response = service.oneshot(request).await.unwrap();
//! response.into_body().collect().await.unwrap();
//! let span = spans.recv().unwrap();
//! assert_eq!((span.name().as_str(), span.parent.unwrap().to_string().as_str()), ("GET", "b7ad6b7169203331"));
//! assert_eq!(&*span.written.attempts[0].upstream, "pricing");
//! # }
//! ```
//!
//! # Strictness and limits
//! What is not to the letter is as if it were not there, and never an error: a request is not refused for its trace. Two
//! lines of what there can be only one of are not to the letter. Of `tracestate` at most [32 members](w3c::MEMBERS) and
//! [512 bytes](w3c::STATE) go on, of [`baggage`] what its RFC asks for at least. Nothing is kept but what goes on.
//!
//! # Trust
//! An identity in a trace is no secret and no proof: whoever may write it may attach its requests to anybody's trace, and have
//! all of them recorded. At the edge begin anew ([`Context::root`]), or believe only who is known.

pub mod b3;
pub mod baggage;
mod hex;
pub mod jaeger;
mod journal;
mod layer;
#[cfg(feature = "otlp")]
pub mod otlp;
mod sample;
mod span;
pub mod w3c;

pub(crate) use journal::note;
pub use journal::{ATTEMPTS, Attempt, EVENTS, Event, Journal, Left, UnderWay, Written};
pub use layer::{Recording, TraceConfig, TraceLayer, Traced, TracedFuture};
pub use sample::Sampler;
pub use span::{Collect, ServerSpan};

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::random::{self, Numbers};

/// Of a whole trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub NonZeroU128);

impl TraceId {
    /// As it is written.
    pub fn digits(self) -> [u8; 32] {
        hex::digits(self.0.get())
    }

    /// That of a request, in its [`Journal`].
    pub fn of(extensions: &http::Extensions) -> Option<Self> {
        Some(Journal::of(extensions)?.context()?.trace)
    }
}

/// Of one span in its trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub NonZeroU64);

impl SpanId {
    /// As it is written.
    pub fn digits(self) -> [u8; 16] {
        hex::digits(self.0.get().into())
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// 16 hexadecimal digits.
impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a trace is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `traceparent` and `tracestate`.
    W3c,
    /// `b3`.
    B3,
    /// `x-b3-…`.
    B3Multi,
    /// `uber-trace-id`.
    Jaeger,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::W3c, Self::B3, Self::B3Multi, Self::Jaeger];

    /// The headers that it is said in.
    pub const fn headers(self) -> &'static [HeaderName] {
        match self {
            Self::W3c => &w3c::HEADERS,
            Self::B3 => &b3::HEADERS,
            Self::B3Multi => &b3::MULTI_HEADERS,
            Self::Jaeger => &jaeger::HEADERS,
        }
    }
}

/// A span that others may ask from, or be asked from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Its trace.
    pub trace: TraceId,
    /// The span itself.
    pub span: SpanId,
    /// Whether it is recorded.
    pub is_sampled: bool,
    /// Whether at least the last seven bytes of the trace's number were drawn at random (level 2, section 3.2.2.3.2).
    pub is_random: bool,
    /// What others on the way want to find again, as it goes on.
    pub state: Option<HeaderValue>,
}

impl Context {
    /// The first span of a new trace.
    pub fn root(ids: &Ids, is_sampled: bool) -> Self {
        Self { trace: ids.trace(), span: ids.span(), is_sampled, is_random: true, state: None }
    }

    /// A span that this one asks from, or that is done within it.
    #[must_use]
    pub fn child(&self, ids: &Ids) -> Self {
        Self { span: ids.span(), ..self.clone() }
    }
}

/// What a request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extracted {
    /// Which span it was asked from. Whether that is recorded may be left open (`None`, in B3): [`Context::is_sampled`] is
    /// `false` then.
    Span(Context, Option<bool>),
    /// Only whether it shall be recorded (B3 has that).
    Decision(bool),
}

/// What the headers say in the first of these formats that is right; `None` if none is.
pub fn extract(headers: &HeaderMap, formats: &[Format]) -> Option<Extracted> {
    formats.iter().find_map(|format| match format {
        Format::W3c => w3c::extract(headers),
        Format::B3 => b3::extract(headers),
        Format::B3Multi => b3::extract_multi(headers),
        Format::Jaeger => jaeger::extract(headers),
    })
}

/// What the headers say in the first of these formats that is right; afterwards they say nothing in any format.
pub fn take(headers: &mut HeaderMap, formats: &[Format]) -> Option<Extracted> {
    // Most say nothing, and this is asked of all.
    if !headers.keys().any(is_of_trace) {
        return None;
    }
    let said = extract(headers, formats);
    // To look for each of those that there could be costs more than to look at each of those that there are.
    let known = |name: &HeaderName| {
        Format::ALL.iter().flat_map(|format| format.headers()).find(|known| *known == name)
    };
    while let Some(name) = headers.keys().filter(|name| is_of_trace(name)).find_map(known) {
        headers.remove(name);
    }
    said
}

/// Whether some upstreams (WSGI, CGI, PHP) would take this for a header that says a trace, though it is none: it has `_` for `-`.
pub fn is_taken_for_one(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.as_bytes().contains(&b'_')
        && Format::ALL
            .iter()
            .flat_map(|format| format.headers())
            .any(|known| known.as_str().len() == name.len() && known.as_str() == name.replace('_', "-"))
}

fn is_of_trace(name: &HeaderName) -> bool {
    match name.as_str().as_bytes() {
        [b't', b'r', b'a', b'c', b'e', ..] | b"b3" | b"uber-trace-id" => true,
        name => name.starts_with(b"x-b3-"),
    }
}

/// Says in these formats, and in no other, which span asks: what the headers said before in any format is taken away, so that
/// whoever reads them in another one does not attach what follows elsewhere.
pub fn inject(context: &Context, headers: &mut HeaderMap, formats: &[Format]) {
    for name in Format::ALL.iter().flat_map(|format| format.headers()) {
        headers.remove(name);
    }
    add(context, headers, formats);
}

/// The same, of headers that say nothing in any format.
pub fn add(context: &Context, headers: &mut HeaderMap, formats: &[Format]) {
    for format in formats {
        match format {
            Format::W3c => w3c::inject(context, headers),
            Format::B3 => b3::inject(context, headers),
            Format::B3Multi => b3::inject_multi(context, headers),
            Format::Jaeger => jaeger::inject(context, headers),
        }
    }
}

/// New numbers. By chance, and no secrets; those of a [`Seeded`](random::Seeded) thread can be foreseen.
#[derive(Debug)]
pub struct Ids(Numbers);

impl Ids {
    /// From a [seed](random::seed) that nobody has foreseen.
    pub fn new() -> Self {
        Self(Numbers::new(random::seed()))
    }

    /// Of a trace.
    pub fn trace(&self) -> TraceId {
        let number = u128::from(self.0.draw()) << 64 | u128::from(self.0.draw());
        TraceId(NonZeroU128::new(number).unwrap_or(NonZeroU128::MIN))
    }

    /// Of a span.
    pub fn span(&self) -> SpanId {
        SpanId(NonZeroU64::new(self.0.draw()).unwrap_or(NonZeroU64::MIN))
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self::new()
    }
}

/// The value of a header of which there can be one; `None` if there are none, or several.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes().trim_ascii())
}

/// What is visible ASCII only.
fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("digits and what stands between them")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn context() -> Context {
        Context {
            trace: TraceId(NonZeroU128::new(0x80f1_98ee_5634_3ba8_64fe_8b2a_57d3_eff7).unwrap()),
            span: SpanId(NonZeroU64::new(0xe457_b5a2_e4d8_6bd1).unwrap()),
            is_sampled: true,
            is_random: false,
            state: None,
        }
    }

    #[test]
    fn what_any_format_says_is_taken_away_and_nothing_else() {
        for name in Format::ALL.iter().flat_map(|format| format.headers()) {
            let mut headers =
                headers(&[(name.as_str(), "?"), (name.as_str(), "!"), ("trace-me", "1"), ("x-own", "2")]);
            take(&mut headers, &Format::ALL);
            let left = headers.keys().map(HeaderName::as_str).collect::<Vec<_>>();
            assert!(
                left.len() == 2 && left.contains(&"trace-me") && left.contains(&"x-own"),
                "{name}: {left:?}"
            );
        }
    }

    #[test]
    fn r8_1_what_is_written_in_any_format_is_read_again() {
        for format in Format::ALL {
            for is_sampled in [false, true] {
                let context = Context { is_sampled, ..context() };
                let mut headers = HeaderMap::new();
                inject(&context, &mut headers, &[format]);
                assert!(headers.keys().all(|name| format.headers().contains(name)), "{headers:?}");
                assert_eq!(
                    extract(&headers, &Format::ALL),
                    Some(Extracted::Span(context, Some(is_sampled))),
                    "{headers:?}"
                );
            }
        }
    }

    #[test]
    fn r8_1_the_first_that_is_right_counts_and_what_was_said_in_others_goes() {
        let mut said = headers(&[
            ("traceparent", "00-12345678901234567890123456789012-1234567890123456-1"),
            ("tracestate", "foo=1"),
            ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"),
            ("X-B3-TraceId", "463ac35c9f6413ad48485a3953bb6124"),
            ("x-b3-spanid", "0020000000000001"),
            ("x-b3-parentspanid", "0020000000000002"),
            ("uber-trace-id", "1:2:0:1"),
            ("accept", "*/*"),
        ]);
        let Some(Extracted::Span(parent, Some(true))) = extract(&said, &Format::ALL) else {
            panic!("it is there")
        };
        assert_eq!(parent, context(), "the state belongs to what was not right");
        let child = parent.child(&Ids::new());
        assert!(child.span != parent.span && child.trace == parent.trace);
        inject(&child, &mut said, &[Format::W3c, Format::Jaeger]);
        let mut names = said.keys().map(HeaderName::as_str).collect::<Vec<_>>();
        names.sort_unstable();
        assert_eq!(names, ["accept", "traceparent", "uber-trace-id"]);
    }

    #[test]
    fn r8_1_numbers_are_new_each_time_and_can_be_foreseen_where_that_is_asked_for() {
        let drawn = || {
            let _seeded = random::Seeded::by(7);
            let ids = Ids::new();
            [Context::root(&ids, true), Context::root(&ids, false)]
        };
        let [one, other] = drawn();
        assert!(one.trace != other.trace && one.span != other.span && one.is_random);
        assert_eq!(drawn(), [one, other]);
    }
}
