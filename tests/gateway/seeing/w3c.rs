//! The cases of the test harness of `w3c/trace-context` (`test/test.py`), by their names there. What its service is told to
//! ask is here what the gateway asks its upstream. None of it is ever refused: a request is not refused for its trace.
//!
//! The gateway adds no member of its own to `tracestate`, so where the harness looks for some, all of it is compared.

use std::{collections::BTreeSet, fmt::Write as _};

use naka_testkit::upstream::{Seen, Upstream, ok};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::inside::Inside;

const CONFIG: &str = "
gateway: {telemetry: {tracing: {trust_parent: always}}}
listeners: {web: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1']}}
routes: {all: {match: {prefix: /}, upstream: app}}
";

const TRACE: &str = "12345678901234567890123456789012";
const PARENT: &str = "1234567890123456";
/// The two of them, recorded.
const RECORDED: &str = "00-12345678901234567890123456789012-1234567890123456-01";
/// The two of them, not recorded.
const UNRECORDED: &str = "00-12345678901234567890123456789012-1234567890123456-00";

/// Names and values: of header lines, or of members.
type Pairs<'a> = [(&'a str, &'a str)];

/// What the upstream was told.
#[derive(Debug)]
struct Came {
    trace: String,
    parent: String,
    flags: u8,
    /// Keys and values of all lines, in order, also those that are there twice.
    tracestate: Vec<(String, String)>,
}

impl Came {
    /// To the letter, or not at all.
    fn read(seen: &Seen) -> Self {
        let [line] = values(seen, "traceparent")[..] else { panic!("not one traceparent: {seen:?}") };
        let fields = line.split('-').collect::<Vec<_>>();
        let [version, trace, parent, flags] = fields[..] else { panic!("not four fields: {line}") };
        assert_eq!(version, "00", "{line}");
        assert!(is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2), "{line}");
        assert!([trace, parent].iter().all(|id| id.bytes().any(|digit| digit != b'0')), "all zeros: {line}");
        let flags = u8::from_str_radix(flags, 16).unwrap();
        let members = values(seen, "tracestate").into_iter().flat_map(|line| line.split(','));
        let members = members.map(|member| member.trim_matches([' ', '\t'])).filter(|it| !it.is_empty());
        let tracestate = members.map(member).collect();
        Self { trace: trace.to_owned(), parent: parent.to_owned(), flags, tracestate }
    }

    fn members(&self) -> Vec<(&str, &str)> {
        self.tracestate.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }
}

fn values<'s>(seen: &'s Seen, name: &str) -> Vec<&'s str> {
    seen.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
}

fn is_hex(field: &str, length: usize) -> bool {
    field.len() == length && field.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

fn member(member: &str) -> (String, String) {
    let Some((key, value)) = member.split_once('=') else { panic!("not a member: {member:?}") };
    let is_first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    assert!(key.bytes().next().is_some_and(is_first) && key.len() <= 256, "not a key: {member:?}");
    assert!(key.bytes().all(|byte| is_first(byte) || b"_-*/@".contains(&byte)), "not a key: {member:?}");
    assert!((1..=256).contains(&value.len()), "not a value: {member:?}");
    let is_fine = |byte: u8| matches!(byte, b' '..=b'~') && !b",=".contains(&byte);
    assert!(value.bytes().all(is_fine) && !value.ends_with(' '), "not a value: {member:?}");
    (key.to_owned(), value.to_owned())
}

/// A gateway that believes everybody, and whom it asks.
struct Case {
    gateway: Inside,
    app: Upstream,
}

impl Case {
    fn new() -> Self {
        let gateway = Inside::new(CONFIG);
        let app = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
        Self { gateway, app }
    }

    /// A request with these lines, to the byte: it is answered, and the upstream was asked once.
    async fn ask(&self, lines: &Pairs<'_>) -> Came {
        let before = self.app.requests();
        let mut request = "GET / HTTP/1.1\r\nhost: api.example\r\n".to_owned();
        for (name, value) in lines {
            write!(request, "{name}: {value}\r\n").unwrap();
        }
        request.push_str("connection: close\r\n\r\n");
        let mut stream = self.gateway.connect();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{lines:?}: {answer}");
        assert_eq!(self.app.requests(), before + 1, "{lines:?}");
        Came::read(&self.app.last())
    }

    /// The request is of [`TRACE`], and asks from a span of its own.
    async fn goes_on(&self, lines: &Pairs<'_>) -> Came {
        let came = self.ask(lines).await;
        assert_eq!(came.trace, TRACE, "{lines:?}");
        assert_ne!(came.parent, PARENT, "{lines:?}");
        came
    }

    /// A trace begins; its number is not read out of any piece of these lines.
    async fn begins_anew(&self, lines: &Pairs<'_>) {
        let came = self.ask(lines).await;
        for (_, value) in lines {
            assert!(!value.contains(&came.trace) && !value.contains(&came.parent), "{lines:?}: {came:?}");
        }
    }

    /// Behind a right `traceparent` so much goes on of these lines of `tracestate`.
    async fn passes(&self, lines: &[&str], expected: &Pairs<'_>) {
        assert_eq!(self.state(lines).await.members(), expected, "{lines:?}");
    }

    /// Behind a right `traceparent`, with these lines of `tracestate`.
    async fn state(&self, lines: &[&str]) -> Came {
        let lines = lines.iter().map(|line| ("tracestate", *line));
        let lines = [("traceparent", UNRECORDED)].into_iter().chain(lines).collect::<Vec<_>>();
        self.goes_on(&lines).await
    }
}

/// Of each of these, alone, a trace begins.
async fn all_begin_anew(traceparents: &[&str]) {
    let case = Case::new();
    for &traceparent in traceparents {
        case.begins_anew(&[("traceparent", traceparent)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn test_both_traceparent_and_tracestate_missing() {
    let came = Case::new().ask(&[]).await;
    assert!(came.tracestate.is_empty(), "{came:?}");
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_included_tracestate_missing() {
    let came = Case::new().goes_on(&[("traceparent", RECORDED)]).await;
    assert!(came.tracestate.is_empty(), "{came:?}");
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_duplicated() {
    let other = "00-12345678901234567890123456789011-1234567890123456-01";
    Case::new().begins_anew(&[("traceparent", other), ("traceparent", RECORDED)]).await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_header_name() {
    let case = Case::new();
    for name in ["trace-parent", "trace.parent"] {
        case.begins_anew(&[(name, RECORDED)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_header_name_valid_casing() {
    let case = Case::new();
    for name in ["TraceParent", "TrAcEpArEnT", "TRACEPARENT"] {
        case.goes_on(&[(name, RECORDED)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_version_0x00() {
    all_begin_anew(&[
        "00-12345678901234567890123456789012-1234567890123456-01.",
        "00-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like",
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_version_0xcc() {
    let case = Case::new();
    for traceparent in [
        "cc-12345678901234567890123456789012-1234567890123456-01",
        "cc-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like",
    ] {
        case.goes_on(&[("traceparent", traceparent)]).await;
    }
    let no_field = "cc-12345678901234567890123456789012-1234567890123456-01.what-the-future-will-be-like";
    case.begins_anew(&[("traceparent", no_field)]).await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_version_0xff() {
    all_begin_anew(&["ff-12345678901234567890123456789012-1234567890123456-01"]).await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_version_illegal_characters() {
    all_begin_anew(&[
        ".0-12345678901234567890123456789012-1234567890123456-01",
        "0.-12345678901234567890123456789012-1234567890123456-01",
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_version_too_long() {
    all_begin_anew(&[
        "000-12345678901234567890123456789012-1234567890123456-01",
        "0000-12345678901234567890123456789012-1234567890123456-01",
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_version_too_short() {
    all_begin_anew(&["0-12345678901234567890123456789012-1234567890123456-01"]).await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_trace_id_all_zero() {
    all_begin_anew(&["00-00000000000000000000000000000000-1234567890123456-01"]).await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_trace_id_illegal_characters() {
    all_begin_anew(&[
        "00-.2345678901234567890123456789012-1234567890123456-01",
        "00-1234567890123456789012345678901.-1234567890123456-01",
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_trace_id_too_long() {
    all_begin_anew(&["00-123456789012345678901234567890123-1234567890123456-01"]).await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_trace_id_too_short() {
    all_begin_anew(&["00-1234567890123456789012345678901-1234567890123456-01"]).await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_parent_id_all_zero() {
    all_begin_anew(&["00-12345678901234567890123456789012-0000000000000000-01"]).await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_parent_id_illegal_characters() {
    all_begin_anew(&[
        "00-12345678901234567890123456789012-.234567890123456-01",
        "00-12345678901234567890123456789012-123456789012345.-01",
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_parent_id_too_long() {
    all_begin_anew(&["00-12345678901234567890123456789012-12345678901234567-01"]).await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_parent_id_too_short() {
    all_begin_anew(&["00-12345678901234567890123456789012-123456789012345-01"]).await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_trace_flags_illegal_characters() {
    all_begin_anew(&[
        "00-12345678901234567890123456789012-1234567890123456-.0",
        "00-12345678901234567890123456789012-1234567890123456-0.",
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_trace_flags_too_long() {
    all_begin_anew(&["00-12345678901234567890123456789012-1234567890123456-001"]).await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_trace_flags_too_short() {
    all_begin_anew(&["00-12345678901234567890123456789012-1234567890123456-1"]).await;
}

#[tokio::test(start_paused = true)]
async fn test_traceparent_ows_handling() {
    let case = Case::new();
    for (before, behind) in [(" ", ""), ("\t", ""), ("", " "), ("", "\t"), ("\t ", " \t")] {
        case.goes_on(&[("traceparent", &format!("{before}{RECORDED}{behind}"))]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn test_tracestate_included_traceparent_missing() {
    let case = Case::new();
    let one = case.ask(&[("tracestate", "foo=1")]).await.tracestate.len();
    let two = case.ask(&[("tracestate", "foo=1,bar=2")]).await.tracestate.len();
    assert_eq!((one, two), (0, 0), "nothing of it goes on");
}

#[tokio::test(start_paused = true)]
async fn test_tracestate_included_traceparent_included() {
    Case::new().passes(&["foo=1,bar=2"], &[("foo", "1"), ("bar", "2")]).await;
}

#[tokio::test(start_paused = true)]
async fn test_tracestate_header_name() {
    let case = Case::new();
    for name in ["trace-state", "trace.state"] {
        let came = case.goes_on(&[("traceparent", UNRECORDED), (name, "foo=1")]).await;
        assert!(came.tracestate.is_empty(), "{name}: {came:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn test_tracestate_header_name_valid_casing() {
    let case = Case::new();
    for name in ["TraceState", "TrAcEsTaTe", "TRACESTATE"] {
        let came = case.goes_on(&[("traceparent", UNRECORDED), (name, "foo=1")]).await;
        assert_eq!(came.members(), [("foo", "1")], "{name}");
    }
}

/// The harness leaves open whether an empty line goes on or none: ours is none.
#[tokio::test(start_paused = true)]
async fn test_tracestate_empty_header() {
    let case = Case::new();
    case.passes(&[""], &[]).await;
    let lines = values(&case.app.last(), "tracestate").join("|");
    assert!(lines.is_empty(), "no line or an empty one: {lines}");
    case.passes(&["foo=1", ""], &[("foo", "1")]).await;
    case.passes(&["", "foo=1"], &[("foo", "1")]).await;
}

#[tokio::test(start_paused = true)]
async fn test_tracestate_multiple_headers_different_keys() {
    let expected = [("foo", "1"), ("bar", "2"), ("rojo", "1"), ("congo", "2"), ("baz", "3")];
    Case::new().passes(&["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], &expected).await;
}

/// Both may go on, or one of them: ours is the first.
#[tokio::test(start_paused = true)]
async fn test_tracestate_duplicated_keys() {
    let case = Case::new();
    let (one, two) = (("foo", "1"), ("foo", "2"));
    for lines in [&["foo=1,foo=1"][..], &["foo=1", "foo=1"]] {
        let came = case.state(lines).await;
        assert!([vec![one, one], vec![one]].contains(&came.members()), "{lines:?}: {came:?}");
    }
    for lines in [&["foo=1,foo=2"][..], &["foo=1", "foo=2"]] {
        let came = case.state(lines).await;
        assert!([vec![one, two], vec![one], vec![two]].contains(&came.members()), "{lines:?}: {came:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn test_tracestate_all_allowed_characters() {
    let case = Case::new();
    let key = ('a'..='z').chain('0'..='9').chain("_-*/".chars()).collect::<String>();
    let of_vendor = format!("{key}@a-z0-9_-*/");
    let value = (' '..='~').filter(|character| !",=".contains(*character)).collect::<String>();
    for key in [key, of_vendor] {
        case.passes(&[&format!("{key}={value}")], &[(&key, &value)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn test_tracestate_ows_handling() {
    let case = Case::new();
    for line in ["foo=1 \t , \t bar=2, \t baz=3", "foo=1\t \t,\t \tbar=2,\t \tbaz=3"] {
        case.passes(&[line], &[("foo", "1"), ("bar", "2"), ("baz", "3")]).await;
    }
    for line in [" foo=1", "\tfoo=1", "foo=1 ", "foo=1\t", "\t foo=1 \t"] {
        case.passes(&[line], &[("foo", "1")]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn test_tracestate_key_illegal_characters() {
    let case = Case::new();
    for line in ["foo =1", "FOO=1", "foo.bar=1"] {
        case.passes(&[line], &[]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn test_tracestate_key_illegal_vendor_format() {
    let case = Case::new();
    for key in ["foo@", "foo@@bar", "foo@bar@baz"] {
        case.passes(&[&format!("{key}=1,bar=2")], &[(key, "1"), ("bar", "2")]).await;
    }
    case.passes(&["@foo=1,bar=2"], &[]).await;
}

#[tokio::test(start_paused = true)]
async fn test_tracestate_member_count_limit() {
    let case = Case::new();
    let numbers = (1..=33).map(|number| format!("{number:02}")).collect::<Vec<_>>();
    let members = numbers.iter().map(|number| format!("bar{number}={number}")).collect::<Vec<_>>();
    for count in [32, 33] {
        let lines = members[..count].chunks(10).map(|line| line.join(",")).collect::<Vec<_>>();
        let lines = lines.iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(lines.len(), 4);
        let came = case.state(&lines).await;
        let came = came.tracestate.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
        let expected = if count == 32 { &members[..32] } else { &[] };
        assert_eq!(came, expected, "{count} members");
    }
}

#[tokio::test(start_paused = true)]
async fn test_tracestate_key_length_limit() {
    let case = Case::new();
    for key in [
        "z".repeat(256),
        format!("{}@{}", "t".repeat(241), "v".repeat(14)),
        format!("{}@v", "t".repeat(242)),
        format!("t@{}", "v".repeat(15)),
    ] {
        case.passes(&["foo=1", &format!("{key}=1")], &[("foo", "1"), (&key, "1")]).await;
    }
    case.passes(&["foo=1", &format!("{}=1", "z".repeat(257))], &[]).await;
}

#[tokio::test(start_paused = true)]
async fn test_tracestate_value_illegal_characters() {
    let case = Case::new();
    for line in ["foo=bar=baz", "foo=,bar=3"] {
        case.passes(&[line], &[]).await;
    }
}

/// The harness has its service ask three times for one request; whoever asks a gateway three times sends three requests.
/// Traces and parents that came.
async fn thrice(lines: &Pairs<'_>) -> (BTreeSet<String>, BTreeSet<String>) {
    let case = Case::new();
    let (mut traces, mut parents) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..3 {
        let came = case.ask(lines).await;
        traces.insert(came.trace);
        parents.insert(came.parent);
    }
    (traces, parents)
}

#[tokio::test(start_paused = true)]
async fn test_multiple_requests_with_valid_traceparent() {
    let (traces, parents) = thrice(&[("traceparent", RECORDED)]).await;
    assert_eq!(traces, BTreeSet::from([TRACE.to_owned()]));
    assert_eq!(parents.len(), 3, "{parents:?}");
    assert!(!parents.contains(PARENT), "{parents:?}");
}

/// One trace or three: ours are three, as nothing says that the requests belong together.
#[tokio::test(start_paused = true)]
async fn test_multiple_requests_without_traceparent() {
    let (traces, parents) = thrice(&[]).await;
    assert_eq!((traces.len(), parents.len()), (3, 3), "{traces:?} {parents:?}");
}

/// The same: ours are three new ones.
#[tokio::test(start_paused = true)]
async fn test_multiple_requests_with_illegal_traceparent() {
    let illegal = "00-00000000000000000000000000000000-1234567890123456-01";
    let (traces, parents) = thrice(&[("traceparent", illegal)]).await;
    assert_eq!((traces.len(), parents.len()), (3, 3), "{traces:?} {parents:?}");
    assert!(!parents.contains(PARENT), "{parents:?}");
}

#[tokio::test(start_paused = true)]
async fn test_propagates_random_flag() {
    let random = "00-12345678901234567890123456789012-1234567890123456-02";
    let came = Case::new().goes_on(&[("traceparent", random)]).await;
    assert_eq!(came.flags & 2, 2, "{came:?}");
}

/// 37 of `TraceContextTest`, three of `AdvancedTest`, one of `TraceContext2Test`.
#[test]
fn every_case_of_the_harness_is_here() {
    let cases = include_str!("w3c.rs").matches("#[tokio::test(start_paused = true)]\nasync fn test_").count();
    assert_eq!(cases, 37 + 3 + 1);
}
