//! The same over HTTP/2: raw frames, right and wrong, and whatever would be two requests once it is HTTP/1.1.

mod fields;
mod floods;
mod frames;
mod messages;
mod translation;
pub(super) mod wire;

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Area, Backend, Check, Outcome, Target, holds, replaced};
use crate::process::Process;
use wire::{HEADERS, PREFACE, Reader};

pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const FLOW_CONTROL_ERROR: u32 = 3;
pub(super) const STREAM_CLOSED: u32 = 5;
pub(super) const FRAME_SIZE_ERROR: u32 = 6;
pub(super) const COMPRESSION_ERROR: u32 = 9;

/// One thing that is tried.
pub(super) struct Case {
    pub(super) area: Area,
    pub(super) name: String,
    /// The sentence it rests on; one that begins with `naka` is our own.
    pub(super) rests_on: &'static str,
    /// What is sent: `/C00000` becomes the case's own target, and `/SMUGGLED00000` one that nobody may see, each as long as it was.
    sends: Vec<u8>,
    want: Want,
    /// Codes besides, where an endpoint may say less than the sentence.
    or: &'static [u32],
    /// The backend may see it: what is wrong comes behind a request that is right, or in its body.
    may_be_seen: bool,
}

/// What may become of it.
enum Want {
    /// The connection ends, with one of these codes if it says one.
    GoAway(&'static [u32]),
    /// The stream is reset with one of these codes, or answered with one of these statuses; or the connection ends so, as
    /// it may for the error of a stream (RFC 9113, section 5.4.1).
    Reset(&'static [u32], &'static [u16]),
    /// The backend sees it, once, and what is checked holds.
    Forwarded(Vec<Check>),
    /// It is forwarded and answered, and what is checked holds; or its stream is reset.
    Any(&'static [u32], Vec<Check>),
}

/// It is forwarded and answered.
#[allow(non_snake_case, reason = "stands where variants do")]
fn GET_200() -> Want {
    Want::Forwarded(vec![Check::Status(&[200])])
}

impl Case {
    fn new(area: Area, name: &str, rests_on: &'static str, sends: Vec<u8>, want: Want) -> Self {
        Self { area, name: name.to_owned(), rests_on, sends, want, or: &[], may_be_seen: false }
    }

    fn or(self, or: &'static [u32]) -> Self {
        Self { or: if self.or.is_empty() { or } else { self.or }, ..self }
    }

    fn may_be_seen(self) -> Self {
        Self { may_be_seen: true, ..self }
    }

    /// The last stream that it opens.
    fn stream(&self) -> u32 {
        let mut sent = Reader::default();
        sent.read(self.sends.strip_prefix(PREFACE).unwrap_or_default());
        let last = sent.frames.iter().rev().find(|(kind, ..)| *kind == HEADERS);
        last.map_or(1, |(_, _, stream, _)| stream & 0x7fff_ffff)
    }

    /// Whether more has to come.
    fn waits(&self, read: &Reader, stream: u32) -> bool {
        matches!(self.want, Want::GoAway(_)) || !read.has_ended(stream)
    }
}

pub(super) fn cases() -> Vec<Case> {
    [frames::cases(), fields::cases(), messages::cases(), translation::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// What becomes of a case.
pub(super) async fn tried(target: &Target, number: usize, case: &Case, backend: &Backend) -> Outcome {
    let own = format!("/c{number:05}");
    let sends = replaced(&case.sends, b"/SMUGGLED00000", format!("/smuggled{number:05}").as_bytes());
    let sends = replaced(&sends, b"/C00000", own.as_bytes());
    backend.take();
    let (stream, mut read) = (case.stream(), Reader::default());
    let is_closed = asked(target, &sends, &mut read, |read| case.waits(read, stream)).await;
    let answer = read.answer(stream, is_closed);
    let mut seen = backend.take();
    seen.retain(|seen| super::case_of(seen.target()).is_none_or(|other| other == number));
    for seen in &mut seen {
        seen.head = seen.head.replace(&own, "/C");
    }
    if let Some(smuggled) = seen.iter().find(|seen| seen.head.contains("/smuggled")) {
        return Outcome::Smuggled(format!("{:?}", smuggled.head));
    }
    let heads = || seen.iter().map(|it| &it.head).collect::<Vec<_>>();
    let unseen = || {
        if seen.is_empty() || case.may_be_seen {
            Ok(())
        } else {
            Err(format!("the backend sees {:?}", heads()))
        }
    };
    let allows = |codes: &[u32], code: u32| codes.contains(&code) || case.or.contains(&code);
    let has_gone = |codes: &[u32]| match read.goaway() {
        _ if !is_closed => Err(format!("the connection goes on: {:?}", answer.statuses())),
        Some(code) if !allows(codes, code) => Err(format!("the connection ends with {code}")),
        Some(_) | None => unseen(),
    };
    let is_reset = |codes: &[u32], statuses: &[u16]| match (read.reset(stream), answer.statuses().last()) {
        (_, Some(status)) if statuses.contains(status) => unseen(),
        (Some(code), _) if allows(codes, code) => unseen(),
        (Some(code), status) => Err(format!("the stream is reset with {code}, after {status:?}")),
        _ => has_gone(codes),
    };
    let is_forwarded = |checks: &[Check]| match &*seen {
        [seen] => checks.iter().try_for_each(|check| holds(check, seen, &answer)),
        [] => Err(format!(
            "it never comes to the backend: {:?}, {:?}, {:?}",
            answer.statuses(),
            read.reset(stream),
            read.goaway()
        )),
        [_, _, ..] => Err(format!("the backend sees {:?}", heads())),
    };
    let result = match &case.want {
        Want::GoAway(codes) => has_gone(codes),
        Want::Reset(codes, statuses) => is_reset(codes, statuses),
        Want::Forwarded(checks) => is_forwarded(checks),
        Want::Any(codes, checks) => is_reset(codes, &[400, 405, 501])
            .or_else(|_| is_forwarded(&[Check::Status(&[200])]).and_then(|()| is_forwarded(checks))),
    };
    result.map_or_else(Outcome::Wrong, |()| Outcome::Right)
}

/// Sends all of it, and reads while more has to come. Says whether the connection has ended.
async fn asked(target: &Target, bytes: &[u8], read: &mut Reader, waits: impl Fn(&Reader) -> bool) -> bool {
    let Ok(mut stream) = TcpStream::connect(target.address).await else { return true };
    let _ = stream.write_all(bytes).await; // Whoever refuses may have closed.
    let mut piece = vec![0; 16 << 10];
    while waits(read) {
        match timeout(target.patience, stream.read(&mut piece)).await {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(count)) => read.read(&piece[..count]),
            Err(_) => return false,
        }
    }
    false
}

pub(super) const CONFIG: &str = "
gateway: {admin: {listen: ADMIN}, workers: 1, limits: {header_bytes: 16KiB, header_count: 64, uri: 4KiB}}
listeners: {public: {listen: PUBLIC, protocols: h2c}}
upstreams: {app: {endpoints: ['UPSTREAM'], timeouts: {response_headers: 5s, idle: 5s}}}
routes: {all: {match: {prefix: /}, upstream: app}}
";

/// Every case, at naka.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_nothing_passes_from_http_2_that_is_something_else_in_http_1() {
    let (backend, address) = Backend::start().await;
    let process = Process::start(&CONFIG.replace("UPSTREAM", &address.to_string())).await;
    let target = Target { address: process.public, patience: Duration::from_secs(20) };
    let (cases, mut wrong) = (cases(), Vec::new());
    for (number, case) in cases.iter().enumerate() {
        let outcome = tried(&target, number, case, &backend).await;
        if outcome != Outcome::Right {
            wrong.push(format!("{}: {} ({}): {outcome:?}", case.area, case.name, case.rests_on));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 300, "{}", cases.len());
    let late = backend.take().into_iter().filter(|seen| seen.head.contains("/smuggled"));
    assert_eq!(late.map(|seen| seen.head).collect::<Vec<_>>(), Vec::<String>::new());
    assert!(!process.log().contains("panicked"), "{}", process.log());
}
