//! The access log: a line of JSON for each request, as `naka replay` reads it.
//!
//! A line is made where the request ends and written by a thread of its own. What finds no room, because the file takes
//! nothing or too slowly, is counted and dropped: nobody waits. A file that is moved away is made anew within a second.
//!
//! # Bounds
//! `queue` bytes that wait; 64 KiB are written at once.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use http::{HeaderValue, Version, header::HeaderName};
use naka::{
    guard::End,
    random::Numbers,
    trace::{Attempt, Context, Event, Left, ServerSpan},
};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use tokio::time::Instant;
use tracing::warn;

use super::Ending;
use crate::{config::checked::AccessLog, config::show_time, seldom::Seldom};

/// Lines that may wait, whatever their size.
const LINES: usize = 16 << 10;
/// Bytes that are written at once, if there are as many.
const PIECE: usize = 64 << 10;
/// How often it is looked whether the file is still the one that has its name.
const LOOK: Duration = Duration::from_secs(1);

/// What a request counts as whose caller went away before there was an answer.
pub const CLIENT_GONE: u16 = 499;

/// Whether a request with this answer is told.
pub fn takes(config: &AccessLog, status: u16, chance: &Numbers) -> bool {
    let mut shares = config.sample.iter().rev();
    match shares.find(|(first, last, _)| (*first..=*last).contains(&status)) {
        None => true,
        // A million of as many as there are numbers.
        Some((.., share)) => (u128::from(chance.draw()) * 1_000_000) >> 64 < u128::from(*share),
    }
}

/// What a line tells.
#[derive(Debug)]
pub struct Line<'a> {
    pub(super) config: &'a AccessLog,
    pub(super) span: &'a ServerSpan,
    pub(super) trace: Option<&'a Context>,
    pub(super) headers: &'a [Option<HeaderValue>],
    pub(super) bytes: u64,
    pub(super) ending: &'a Ending<'a>,
}

#[derive(Serialize)]
struct Told<'a> {
    time: String,
    request_id: Option<&'a str>,
    trace_id: Option<String>,
    span_id: Option<String>,
    sampled: Option<bool>,
    client_ip: Option<std::net::IpAddr>,
    method: &'a str,
    scheme: Option<&'a str>,
    host: Option<&'a str>,
    path: &'a str,
    version: &'static str,
    headers: Headers<'a>,
    status: u16,
    bytes: u64,
    duration_ms: f64,
    decision: Decision<'a>,
}

/// What was decided about it.
#[derive(Serialize)]
struct Decision<'a> {
    terminated_by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    route: Option<&'a str>,
    template: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Who<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<Limit<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<Try<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<Did<'a>>,
}

#[derive(Serialize)]
struct Who<'a> {
    scheme: &'static str,
    subject: Option<&'a str>,
}

#[derive(Serialize)]
struct Limit<'a> {
    policy: Option<&'a str>,
    remaining: u64,
}

#[derive(Serialize)]
struct Try<'a> {
    upstream: &'a str,
    endpoint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// Until the head of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    answered_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<f64>,
}

#[derive(Serialize)]
struct Did<'a> {
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    at_ms: f64,
}

struct Headers<'a>(&'a [HeaderName], &'a [Option<HeaderValue>]);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = self.0.iter().zip(self.1).filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in all {
            map.serialize_entry(name.as_str(), &String::from_utf8_lossy(value.as_bytes()))?;
        }
        map.end()
    }
}

impl Line<'_> {
    /// With the end of the line.
    pub fn to_json(&self) -> Vec<u8> {
        let Self { config, span, trace, headers, bytes, ending } = self;
        let text = |value: &'_ Option<HeaderValue>| {
            value.as_ref().and_then(|it| it.to_str().ok().map(str::to_owned))
        };
        let host = text(&span.host);
        let target = &span.target;
        let path =
            if config.query { target.path_and_query().map_or("/", |it| it.as_str()) } else { target.path() };
        let told = Told {
            time: time(span.began),
            request_id: ending.request_id.and_then(|id| id.to_str().ok()),
            trace_id: trace.map(|it| it.trace.to_string()),
            span_id: trace.map(|it| it.span.to_string()),
            sampled: trace.map(|it| it.is_sampled),
            client_ip: span.client,
            method: span.method.as_str(),
            scheme: span.scheme,
            host: host.as_deref(),
            path,
            version: version(span.version),
            headers: Headers(&config.headers, headers),
            status: span.status.map_or(CLIENT_GONE, |status| status.as_u16()),
            bytes: *bytes,
            duration_ms: ms(span.took),
            decision: self.decision(),
        };
        let mut line = Vec::with_capacity(512);
        // Nothing in it fails to be written.
        if serde_json::to_writer(&mut line, &told).is_err() {
            line.clear();
        }
        line.push(b'\n');
        line
    }

    fn decision(&self) -> Decision<'_> {
        let Self { span, ending, .. } = self;
        let written = &span.written;
        let rejection = span.rejection.as_ref();
        let attempts = written.attempts.iter().map(tried).collect::<Vec<_>>();
        Decision {
            terminated_by: terminated_by(span),
            reason: rejection.map(|it| it.reason.word()),
            policy: rejection.and_then(|it| it.policy.as_deref()),
            route: ending.plan.map(|plan| &*plan.name),
            template: span.route.as_deref(),
            identity: written
                .identity
                .as_ref()
                .map(|it| Who { scheme: it.scheme.word(), subject: it.subject.as_deref() }),
            version: written.version.as_deref(),
            arm: written.arm.as_deref(),
            limit: written
                .limit
                .as_ref()
                .map(|Left { policy, remaining }| Limit { policy: policy.as_deref(), remaining: *remaining }),
            endpoint: written.attempts.iter().rfind(|it| it.status.is_some()).map(|it| &*it.endpoint),
            attempts,
            events: written.events.iter().map(|event| self.did(event)).collect(),
        }
    }

    fn did<'e>(&self, event: &'e Event) -> Did<'e> {
        let Event { at, what, policy, why } = event;
        let at = at.instant().saturating_duration_since(self.span.now.instant());
        Did { what, policy: policy.as_deref(), why: *why, at_ms: ms(at) }
    }
}

fn tried(attempt: &Attempt) -> Try<'_> {
    Try {
        upstream: &attempt.upstream,
        endpoint: &attempt.endpoint,
        status: attempt.status.map(|status| status.as_u16()),
        reason: attempt.reason.map(naka::reject::Reason::word),
        answered_ms: attempt.answered.map(ms),
        duration_ms: attempt.took.map(ms),
    }
}

/// By whom a request was ended. One of:
///
/// - `client`: its caller went away, before the answer or while it was on its way;
/// - `policy`: one that has a name refused it;
/// - `gateway`: it was answered or refused here for another reason;
/// - `upstream`: it was answered there, or failed there.
fn terminated_by(span: &ServerSpan) -> &'static str {
    let last = span.written.attempts.last();
    match (&span.rejection, span.end) {
        (_, End::Dropped) => "client",
        (Some(rejection), _) if rejection.policy.is_some() => "policy",
        (Some(rejection), _) if last.is_some_and(|last| last.reason == Some(rejection.reason)) => "upstream",
        (None, _) if last.is_some_and(|last| last.status.is_some()) => "upstream",
        _ => "gateway",
    }
}

fn time(since_1970: Duration) -> String {
    let mut time = show_time(since_1970.as_secs());
    time.pop(); // The `Z`.
    format!("{time}.{:03}Z", since_1970.subsec_millis())
}

/// To the microsecond.
fn ms(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// Where lines go. All clones write into the same.
#[derive(Clone, Debug)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sender: SyncSender<Vec<u8>>,
    counts: Arc<AllCounts>,
    max: usize,
    /// Until it is started.
    waiting: Mutex<Option<(Receiver<Vec<u8>>, Option<Arc<str>>)>>,
}

#[derive(Debug, Default)]
struct AllCounts {
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicUsize,
}

/// What became of lines so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// They are written.
    pub written: u64,
    /// There was no room for them.
    pub dropped: u64,
    /// They could not be written.
    pub failed: u64,
}

impl Log {
    /// Into a file, or the standard output; so many bytes may wait. Nothing is opened before it is [started](Self::start).
    pub fn new(file: Option<&Arc<str>>, max: usize) -> Self {
        let (sender, receiver) = sync_channel(LINES);
        let waiting = Mutex::new(Some((receiver, file.cloned())));
        Self(Arc::new(Shared { sender, counts: Arc::default(), max, waiting }))
    }

    /// Begins to write, once.
    pub fn start(&self) {
        let waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((receiver, file)) = waiting else { return };
        let counts = Arc::clone(&self.0.counts);
        let thread = std::thread::Builder::new().name("naka-log".into());
        if let Err(error) = thread.spawn(move || write(&receiver, &mut Target::new(file), &counts)) {
            warn!(%error, "there is no thread for the access log: nothing is written");
        }
    }

    /// Takes a line, or counts that there was no room for it.
    pub fn write(&self, line: &Line<'_>) {
        let Shared { sender, counts, max, .. } = &*self.0;
        if counts.bytes.load(Relaxed) >= *max {
            counts.dropped.fetch_add(1, Relaxed);
            return;
        }
        let line = line.to_json();
        let bytes = line.len();
        counts.bytes.fetch_add(bytes, Relaxed);
        if sender.try_send(line).is_err() {
            counts.bytes.fetch_sub(bytes, Relaxed);
            counts.dropped.fetch_add(1, Relaxed);
        }
    }

    /// What became of lines so far.
    pub fn counts(&self) -> Counts {
        let AllCounts { written, dropped, failed, .. } = &*self.0.counts;
        Counts {
            written: written.load(Relaxed),
            dropped: dropped.load(Relaxed),
            failed: failed.load(Relaxed),
        }
    }

    /// Waits until nothing waits any more, until then at most.
    pub async fn flushed(&self, until: Instant) {
        super::wait_while(until, || self.bytes() > 0).await;
    }

    /// Bytes that wait to be written.
    pub fn bytes(&self) -> usize {
        self.0.counts.bytes.load(Relaxed)
    }
}

/// Writes until nobody has lines any more.
fn write(receiver: &Receiver<Vec<u8>>, target: &mut Target, counts: &AllCounts) {
    let (mut piece, trouble) = (Vec::with_capacity(PIECE), Seldom::new());
    while let Ok(first) = receiver.recv() {
        piece.clear();
        piece.extend_from_slice(&first);
        let mut lines = 1;
        while piece.len() < PIECE
            && let Ok(next) = receiver.try_recv()
        {
            piece.extend_from_slice(&next);
            lines += 1;
        }
        match target.write(&piece) {
            Ok(()) => counts.written.fetch_add(lines, Relaxed),
            Err(error) => {
                if trouble.is_due() {
                    let file = target.file.as_deref().unwrap_or("the standard output");
                    warn!(%error, file, lines, "lines of the access log are lost");
                }
                counts.failed.fetch_add(lines, Relaxed)
            }
        };
        counts.bytes.fetch_sub(piece.len(), Relaxed);
    }
}

/// What is written into.
struct Target {
    /// The standard output, if there is none.
    file: Option<Arc<str>>,
    open: Option<File>,
    looked: Instant,
}

impl Target {
    fn new(file: Option<Arc<str>>) -> Self {
        Self { file, open: None, looked: Instant::now() }
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let Some(path) = &self.file else {
            let mut stdout = io::stdout().lock();
            return stdout.write_all(piece).and_then(|()| stdout.flush());
        };
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            if !self.open.as_ref().is_some_and(|open| is_at(open, path)) {
                self.open = None;
            }
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(OpenOptions::new().create(true).append(true).open(&**path)?),
        };
        open.write_all(piece)
    }
}

/// Whether the file is still what has this name.
fn is_at(open: &File, path: &str) -> bool {
    let identity = |is: std::fs::Metadata| (is.dev(), is.ino());
    let (open, named) = (open.metadata().map(identity), std::fs::metadata(path).map(identity));
    open.is_ok_and(|open| named.is_ok_and(|named| open == named))
}
