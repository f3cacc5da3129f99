//! What a gateway at the edge must not let pass, and what it must: cases over raw sockets, each with the sentence it rests on, before a
//! backend that keeps the exact bytes.
//!
//! The same cases are put to nginx, `HAProxy` and Envoy, where they are installed: `NAKA_EDGE=peers cargo test --test gateway -- edge
//! --nocapture` prints the table of `docs/edge.md`.

#![allow(clippy::too_many_lines, reason = "tables are as long as they are")]

mod backend;
mod fields;
mod framing;
mod h2;
mod hops;
mod peers;
mod responses;
mod targets;
mod unix;
mod upgrades;

use std::{fmt, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::process::Process;
use backend::{Backend, Seen, dechunked, find};

/// What a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Area {
    Framing,
    Fields,
    Targets,
    Hops,
    Responses,
    Upgrades,
    Frames,
    Packing,
    Messages,
    Translation,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Framing => "framing of requests",
            Self::Fields => "request lines and fields",
            Self::Targets => "targets and hosts",
            Self::Hops => "hop-by-hop and proxy rules",
            Self::Responses => "responses",
            Self::Upgrades => "upgrades",
            Self::Frames => "HTTP/2: frames and streams",
            Self::Packing => "HTTP/2: packed fields",
            Self::Messages => "HTTP/2: requests",
            Self::Translation => "HTTP/2: one request that would be two",
        })
    }
}

/// One thing that is tried.
struct Case {
    area: Area,
    name: String,
    /// The sentence it rests on; one that begins with `naka` is our own.
    rests_on: &'static str,
    /// What is sent: `/C` becomes the case's own target, and `/SMUGGLED` one that nobody may see.
    sends: Vec<u8>,
    /// What the backend says, if it is not 200.
    answer: Option<Vec<u8>>,
    want: Want,
}

/// What may become of it.
enum Want {
    /// One of these statuses, or 0 for a connection that is closed; and the backend sees nothing.
    Refused(&'static [u16]),
    /// The backend sees it, once, and what is checked holds.
    Forwarded(Vec<Check>),
    /// The one or the other.
    Either(&'static [u16], Vec<Check>),
}

/// Something that has to hold.
enum Check {
    /// In which `/C` is the case's own.
    Target(&'static str),
    Body(&'static [u8]),
    /// Nothing comes behind the body.
    NoTrailer,
    Has(&'static str, &'static str),
    Lacks(&'static str),
    Once(&'static str),
    Method(&'static str),
    /// Of the client's answer.
    Status(&'static [u16]),
    AnswerHas(&'static str, &'static str),
    AnswerHasOnce(&'static str),
    AnswerLacks(&'static str),
    AnswerBody(&'static [u8]),
    /// It ends before it is whole, or is no success: nobody can take it for one.
    NeverWhole,
    /// The answer does not say twice how long it is.
    NeverBoth,
    /// The client sees this many answers, besides those that are on the way to one.
    Answers(usize),
}

/// What a client gets.
#[derive(Debug, Default)]
struct Answer {
    bytes: Vec<u8>,
    is_closed: bool,
}

impl Answer {
    /// Heads of final answers; whatever looks like one in a body is a body's affair, and no case has it.
    fn statuses(&self) -> Vec<u16> {
        let text = String::from_utf8_lossy(&self.bytes);
        let heads = text.split("HTTP/1.").skip(1).filter_map(|rest| rest.get(2..5)?.parse().ok());
        heads.filter(|status: &u16| *status >= 200 || *status == 101).collect()
    }

    /// The last final one, without those before it.
    fn last(&self) -> Option<(String, &[u8])> {
        let mut rest = &self.bytes[..];
        loop {
            let end = find(rest, b"\r\n\r\n")? + 4;
            let head = String::from_utf8_lossy(&rest[..end]).into_owned();
            if head.get(9..10) != Some("1") || head.get(9..12) == Some("101") {
                return Some((head, &rest[end..]));
            }
            rest = &rest[end..];
        }
    }

    fn field(&self, name: &str) -> Vec<String> {
        let head = self.last().map(|(head, _)| head).unwrap_or_default();
        let all = backend::fields(&head).filter(|(is, _)| is.eq_ignore_ascii_case(name));
        all.map(|(_, value)| value.to_owned()).collect()
    }

    /// Its body; `None` if it is not whole.
    fn body(&self) -> Option<Vec<u8>> {
        let (head, rest) = self.last()?;
        let field = |name: &str| {
            backend::fields(&head)
                .find(|(is, _)| is.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_owned())
        };
        if field("transfer-encoding").is_some() {
            return dechunked(rest).map(|(_, body)| body);
        }
        match field("content-length") {
            Some(length) => rest.get(..length.parse().ok()?).map(<[u8]>::to_vec),
            None => self.is_closed.then(|| rest.to_vec()),
        }
    }
}

/// Whether it holds; else why not.
fn holds(check: &Check, seen: &Seen, answer: &Answer) -> Result<(), String> {
    let expect = |is: bool, what: String| if is { Ok(()) } else { Err(what) };
    match check {
        Check::Target(target) => {
            expect(seen.target() == *target, format!("the target is {:?}", seen.target()))
        }
        Check::Method(method) => {
            expect(seen.method() == *method, format!("the method is {:?}", seen.method()))
        }
        Check::Body(body) => {
            expect(seen.body == *body, format!("the body is {:?}", String::from_utf8_lossy(&seen.body)))
        }
        Check::NoTrailer => {
            let is_none = !seen.framed.ends_with(b"\r\n") || seen.framed.ends_with(b"\r\n0\r\n\r\n");
            expect(is_none, format!("the body is {:?}", String::from_utf8_lossy(&seen.framed)))
        }
        Check::Has(name, value) => {
            let has = seen.field(name);
            expect(has.contains(value), format!("`{name}` is {has:?}"))
        }
        Check::Lacks(name) => {
            expect(seen.field(name).is_empty(), format!("`{name}` is {:?}", seen.field(name)))
        }
        Check::Once(name) => {
            expect(seen.field(name).len() == 1, format!("`{name}` is {:?}", seen.field(name)))
        }
        Check::Status(statuses) => {
            let are = answer.statuses();
            expect(
                are.last().is_some_and(|status| statuses.contains(status)),
                format!("the answer is {are:?}"),
            )
        }
        Check::AnswerHas(name, value) => {
            let has = answer.field(name);
            expect(has.iter().any(|has| has == value), format!("the answer's `{name}` is {has:?}"))
        }
        Check::AnswerHasOnce(name) => {
            let has = answer.field(name);
            expect(has.len() == 1, format!("the answer's `{name}` is {has:?}"))
        }
        Check::AnswerLacks(name) => expect(
            answer.field(name).is_empty(),
            format!("the answer's `{name}` is {:?}", answer.field(name)),
        ),
        Check::AnswerBody(body) => {
            let is = answer.body().map(|body| String::from_utf8_lossy(&body).into_owned());
            expect(is.as_deref().map(str::as_bytes) == Some(body), format!("the answer's body is {is:?}"))
        }
        Check::NeverWhole => {
            let is_success = answer.statuses().last().is_some_and(|status| *status < 400);
            expect(!is_success || answer.body().is_none(), "what is broken looks whole".to_owned())
        }
        Check::NeverBoth => {
            let both = [answer.field("content-length"), answer.field("transfer-encoding")];
            expect(both.iter().any(Vec::is_empty), format!("it is framed by {both:?}"))
        }
        Check::Answers(count) => {
            let are = answer.statuses();
            expect(are.len() == *count, format!("the answers are {are:?}"))
        }
    }
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Right,
    Wrong(String),
    /// The backend saw a message that nobody sent as one, or that was to be refused.
    Smuggled(String),
}

/// What stands before the backend.
struct Target {
    address: SocketAddr,
    /// How long a silence is one.
    patience: Duration,
}

impl Target {
    async fn tried(&self, number: usize, case: &Case, backend: &Backend) -> Outcome {
        let own = format!("/c{number}");
        let sends = replaced(&case.sends, b"/SMUGGLED", format!("/smuggled{number}").as_bytes());
        let sends = replaced(&sends, b"/C", own.as_bytes());
        if let Some(answer) = &case.answer {
            backend.answer(&own, answer.clone());
        }
        backend.take();
        let answer = self.asked(&sends).await;
        let mut seen = backend.take();
        // What was broken off in an earlier case may be heard of only now.
        seen.retain(|seen| case_of(seen.target()).is_none_or(|other| other == number));
        for seen in &mut seen {
            seen.head = seen.head.replace(&own, "/C");
        }
        if let Some(smuggled) = seen.iter().find(|seen| seen.head.contains("/smuggled")) {
            return Outcome::Smuggled(format!("{:?}", smuggled.head));
        }
        let is_refused = |statuses: &[u16]| {
            let status = answer.statuses().last().copied().unwrap_or(0);
            if !seen.is_empty() {
                return Err(format!(
                    "the backend sees {:?}",
                    seen.iter().map(|it| &it.head).collect::<Vec<_>>()
                ));
            }
            let is_right = statuses.contains(&status) && (status != 0 || answer.is_closed);
            if is_right { Ok(()) } else { Err(format!("the answer is {status}")) }
        };
        let is_forwarded = |checks: &[Check]| match &*seen {
            [seen] => checks.iter().try_for_each(|check| holds(check, seen, &answer)),
            [] => Err(format!("it never comes to the backend: {:?}", answer.statuses())),
            [_, _, ..] => {
                Err(format!("the backend sees {:?}", seen.iter().map(|it| &it.head).collect::<Vec<_>>()))
            }
        };
        let result = match &case.want {
            Want::Refused(statuses) => is_refused(statuses),
            Want::Forwarded(checks) => is_forwarded(checks),
            Want::Either(statuses, checks) => is_refused(statuses).or_else(|_| is_forwarded(checks)),
        };
        result.map_or_else(Outcome::Wrong, |()| Outcome::Right)
    }

    async fn asked(&self, bytes: &[u8]) -> Answer {
        let mut answer = Answer::default();
        let Ok(mut stream) = TcpStream::connect(self.address).await else { return answer };
        let _ = stream.write_all(bytes).await; // Whoever refuses may have closed.
        while let Ok(read) = timeout(self.patience, stream.read_buf(&mut answer.bytes)).await {
            if matches!(read, Ok(0) | Err(_)) {
                answer.is_closed = true;
                break;
            }
        }
        answer
    }
}

/// The number of the case whose own target this is.
fn case_of(target: &str) -> Option<usize> {
    let rest = &target[target.find("/c")? + 2..];
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

fn replaced(bytes: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some(at) = find(rest, what) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(with);
        rest = &rest[at + what.len()..];
    }
    out.extend_from_slice(rest);
    out
}

fn cases() -> Vec<Case> {
    [
        framing::cases(),
        fields::cases(),
        targets::cases(),
        hops::cases(),
        responses::cases(),
        upgrades::cases(),
    ]
    .concat_all()
}

trait ConcatAll {
    fn concat_all(self) -> Vec<Case>;
}

impl<const N: usize> ConcatAll for [Vec<Case>; N] {
    fn concat_all(self) -> Vec<Case> {
        self.into_iter().flatten().collect()
    }
}

const CONFIG: &str = "
gateway: {admin: {listen: ADMIN}, workers: 1, limits: {header_bytes: 16KiB, header_count: 64, uri: 4KiB}}
listeners: {public: {listen: PUBLIC}}
upstreams: {app: {endpoints: ['UPSTREAM'], timeouts: {response_headers: 5s, idle: 5s}}}
routes: {all: {match: {prefix: /}, upstream: app}}
";

/// Every case, at naka.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_nothing_that_can_be_read_in_two_ways_passes_the_edge() {
    let (backend, address) = Backend::start().await;
    let process = Process::start(&CONFIG.replace("UPSTREAM", &address.to_string())).await;
    let target = Target { address: process.public, patience: Duration::from_secs(20) };
    let (cases, mut wrong) = (cases(), Vec::new());
    for (number, case) in cases.iter().enumerate() {
        let outcome = target.tried(number, case, &backend).await;
        if outcome != Outcome::Right {
            wrong.push(format!("{}: {} ({}): {outcome:?}", case.area, case.name, case.rests_on));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 400, "{}", cases.len());
    assert_eq!(process.public("GET /").await.0, 200, "and it still serves");
    let late = backend.take().into_iter().filter(|seen| seen.head.contains("/smuggled"));
    assert_eq!(late.map(|seen| seen.head).collect::<Vec<_>>(), Vec::<String>::new());
    assert!(!process.log().contains("panicked"), "{}", process.log());
}
