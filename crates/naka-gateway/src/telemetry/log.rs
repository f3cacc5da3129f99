//! The access log: a line of JSON for each request, as `naka replay` reads it.
//!
//! A line is made where the request ends and written by a thread of its own. What finds no room, because the file takes
//! nothing or too slowly, is counted and dropped: nobody waits. A file that is moved away is made anew within a second.
//!
//! # Bounds
//! `queue` bytes that wait; 64 KiB are written at once.

use std::{
    cell::RefCell,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use http::{HeaderValue, Version};
use naka::{
    guard::End,
    random::Numbers,
    reject::Reason,
    trace::{Attempt, Context, Event, Left, ServerSpan},
};
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

/// Of a file that is made: there are addresses and names in it.
const MODE: u32 = 0o640;

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

/// A line that is being written: `serde_json` escapes what it is told, name by name and byte by byte, which is four times as dear for what
/// mostly needs no escaping.
struct Json(Vec<u8>);

impl Json {
    /// What stands there as it is: names of ours, and what stands between them.
    fn raw(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// A text in quotes.
    fn text(&mut self, text: &str) -> &mut Self {
        if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
            let _ = serde_json::to_writer(&mut self.0, text); // A Vec takes every write.
            return self;
        }
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
        self
    }

    /// A text, or `null`.
    fn text_or_null(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.raw("null"),
        }
    }

    /// A field that is not there without its text.
    fn text_if(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.raw(name).text(text),
            None => self,
        }
    }

    fn number(&mut self, mut number: u64) -> &mut Self {
        let (mut digits, mut at) = ([0; 20], 20);
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[at..]);
        self
    }

    /// In milliseconds, to the microsecond.
    fn ms(&mut self, took: Duration) -> &mut Self {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.number(us / 1000);
        let part = us % 1000;
        self.0.extend_from_slice(&[b'.', digit(part / 100), digit(part / 10), digit(part)]);
        self
    }

    /// Of digits that need no escaping.
    fn digits(&mut self, digits: &[u8]) -> &mut Self {
        self.0.push(b'"');
        self.0.extend_from_slice(digits);
        self.0.push(b'"');
        self
    }

    /// Seconds since 1970, as RFC 3339 has them. Those of one second are the same but for the last digits.
    fn time(&mut self, since_1970: Duration) -> &mut Self {
        thread_local! {
            static LATEST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
        }
        self.0.push(b'"');
        LATEST.with_borrow_mut(|(second, text)| {
            if *second != since_1970.as_secs() {
                *second = since_1970.as_secs();
                *text = show_time(*second);
                text.pop(); // The `Z`.
            }
            self.0.extend_from_slice(text.as_bytes());
        });
        let ms = u64::from(since_1970.subsec_millis());
        self.0.extend_from_slice(&[b'.', digit(ms / 100), digit(ms / 10), digit(ms), b'Z', b'"']);
        self
    }
}

const fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

impl Line<'_> {
    /// With the end of the line.
    pub fn to_json(&self) -> Vec<u8> {
        let Self { config, span, trace, bytes, ending, .. } = self;
        let mut json = Json(Vec::with_capacity(1024));
        json.raw(r#"{"time":"#).time(span.began);
        json.raw(r#","request_id":"#).text_or_null(ending.request_id.and_then(|id| id.to_str().ok()));
        if let Some(trace) = trace {
            json.raw(r#","trace_id":"#).digits(&trace.trace.digits());
            json.raw(r#","span_id":"#).digits(&trace.span.digits());
            json.raw(r#","sampled":"#).raw(if trace.is_sampled { "true" } else { "false" });
        }
        json.raw(r#","client_ip":"#);
        match span.client {
            Some(client) => {
                let _ = write!(json.0, "\"{client}\""); // A Vec takes every write.
            }
            None => _ = json.raw("null"),
        }
        json.raw(r#","method":"#).text(span.method.as_str());
        json.raw(r#","scheme":"#).text_or_null(span.scheme);
        json.raw(r#","host":"#).text_or_null(span.host.as_ref().and_then(|host| host.to_str().ok()));
        let target = &span.target;
        let path =
            if config.query { target.path_and_query().map_or("/", |it| it.as_str()) } else { target.path() };
        json.raw(r#","path":"#).text(path);
        json.raw(r#","version":"#).text(version(span.version));
        self.headers(&mut json);
        json.raw(r#","status":"#).number(span.status.map_or(CLIENT_GONE, |status| status.as_u16()).into());
        json.raw(r#","bytes":"#).number(*bytes);
        json.raw(r#","duration_ms":"#).ms(span.took);
        self.decision(&mut json);
        json.raw("}\n");
        json.0
    }

    fn headers(&self, json: &mut Json) {
        json.raw(r#","headers":{"#);
        let mut between = "";
        for (name, value) in self.config.headers.iter().zip(self.headers) {
            if let Some(value) = value {
                json.raw(between)
                    .text(name.as_str())
                    .raw(":")
                    .text(&String::from_utf8_lossy(value.as_bytes()));
                between = ",";
            }
        }
        json.raw("}");
    }

    fn decision(&self, json: &mut Json) {
        let Self { span, ending, .. } = self;
        let (written, rejection) = (&span.written, span.rejection.as_ref());
        json.raw(r#","decision":{"terminated_by":"#).text(terminated_by(span));
        json.text_if(r#","reason":"#, rejection.map(|it| it.reason.word()));
        json.text_if(r#","policy":"#, rejection.and_then(|it| it.policy.as_deref()));
        json.raw(r#","route":"#).text_or_null(ending.plan.map(|plan| &*plan.name));
        json.raw(r#","template":"#).text_or_null(span.route.as_deref());
        if let Some(identity) = &written.identity {
            json.raw(r#","identity":{"scheme":"#).text(identity.scheme.word());
            json.raw(r#","subject":"#).text_or_null(identity.subject.as_deref()).raw("}");
        }
        json.text_if(r#","version":"#, written.version.as_deref());
        json.text_if(r#","arm":"#, written.arm.as_deref());
        if let Some(Left { policy, remaining }) = &written.limit {
            json.raw(r#","limit":{"policy":"#).text_or_null(policy.as_deref());
            json.raw(r#","remaining":"#).number(*remaining).raw("}");
        }
        let endpoint = written.attempts.iter().rfind(|it| it.status.is_some()).map(|it| &*it.endpoint);
        json.text_if(r#","endpoint":"#, endpoint);
        list(json, r#","attempts":["#, &written.attempts, tried);
        list(json, r#","events":["#, &written.events, |json, event| self.did(json, event));
        json.raw("}");
    }

    fn did(&self, json: &mut Json, event: &Event) {
        let Event { at, what, policy, why } = event;
        json.raw(r#"{"what":"#).text(what);
        json.text_if(r#","policy":"#, policy.as_deref()).text_if(r#","why":"#, *why);
        let at = at.instant().saturating_duration_since(self.span.now.instant());
        json.raw(r#","at_ms":"#).ms(at).raw("}");
    }
}

/// A list that is not there if nothing is in it.
fn list<T>(json: &mut Json, name: &str, of: &[T], one: impl Fn(&mut Json, &T)) {
    for (place, it) in of.iter().enumerate() {
        json.raw(if place == 0 { name } else { "," });
        one(json, it);
    }
    if !of.is_empty() {
        json.raw("]");
    }
}

fn tried(json: &mut Json, attempt: &Attempt) {
    json.raw(r#"{"upstream":"#).text(&attempt.upstream).raw(r#","endpoint":"#).text(&attempt.endpoint);
    if let Some(status) = attempt.status {
        json.raw(r#","status":"#).number(status.as_u16().into());
    }
    json.text_if(r#","reason":"#, attempt.reason.map(Reason::word));
    for (name, took) in [(r#","answered_ms":"#, attempt.answered), (r#","duration_ms":"#, attempt.took)] {
        if let Some(took) = took {
            json.raw(name).ms(took);
        }
    }
    json.raw("}");
}

/// By whom a request was ended. One of:
///
/// - `client`: its caller went away, before the answer or while it was on its way; or its connection was cut off, as at the end of a drain;
/// - `policy`: one that has a name refused it;
/// - `gateway`: it was answered or refused here for another reason;
/// - `upstream`: it was answered there, or failed there.
fn terminated_by(span: &ServerSpan) -> &'static str {
    let attempts = &span.written.attempts;
    let stands_in = span.written.events.iter().any(|event| matches!(event.what, "fell_back" | "replayed"));
    match (&span.rejection, span.end) {
        (_, End::Dropped) => "client",
        (Some(rejection), _) if rejection.policy.is_some() => "policy",
        (Some(rejection), _) if attempts.iter().any(|it| it.reason == Some(rejection.reason)) => "upstream",
        (Some(rejection), _) if is_of_part(rejection.reason) => "upstream",
        (None, _) if !stands_in && attempts.iter().any(|it| it.status.is_some()) => "upstream",
        _ => "gateway",
    }
}

/// A call of a composition was answered, and not well.
const fn is_of_part(reason: Reason) -> bool {
    matches!(reason, Reason::PartFailed(_) | Reason::PartTimeout | Reason::PartNotJson | Reason::PartTooLarge)
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
    max: AtomicUsize,
    /// Until it is started.
    waiting: Mutex<Option<Start>>,
}

/// Where lines come from, and the file that they go to.
type Start = (Receiver<Vec<u8>>, Option<Arc<str>>);

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
        Self(Arc::new(Shared { sender, counts: Arc::default(), max: AtomicUsize::new(max), waiting }))
    }

    /// Begins to write, once; from now on so many bytes may wait.
    pub fn start(&self, max: usize) {
        self.0.max.store(max, Relaxed);
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
        if counts.bytes.load(Relaxed) >= max.load(Relaxed) {
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
    /// The last piece may be there in part.
    is_torn: bool,
}

impl Target {
    fn new(file: Option<Arc<str>>) -> Self {
        Self { file, open: None, looked: Instant::now(), is_torn: false }
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
            none => none.insert(OpenOptions::new().create(true).append(true).mode(MODE).open(&**path)?),
        };
        if std::mem::take(&mut self.is_torn) {
            open.write_all(b"\n")?; // What was begun is no line, and the next one shall be one.
        }
        open.write_all(piece).inspect_err(|_| self.is_torn = true)
    }
}

/// Whether the file is still what has this name.
fn is_at(open: &File, path: &str) -> bool {
    let identity = |is: std::fs::Metadata| (is.dev(), is.ino());
    let (open, named) = (open.metadata().map(identity), std::fs::metadata(path).map(identity));
    open.is_ok_and(|open| named.is_ok_and(|named| open == named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_json_whatever_stands_in_it() {
        for text in ["", "plain", "ना\u{915}ा", "with \"quotes\" and \\ and \n\u{1}\u{7f}"] {
            let mut json = Json(Vec::new());
            json.text(text);
            assert_eq!(serde_json::from_slice::<String>(&json.0).unwrap(), text);
        }
        for number in [0, 7, 10, 1234, u64::MAX] {
            let mut json = Json(Vec::new());
            json.number(number);
            assert_eq!(serde_json::from_slice::<u64>(&json.0).unwrap(), number);
        }
        for (us, expected) in [(0, "0.000"), (7, "0.007"), (12_034, "12.034"), (3_600_000_500, "3600000.500")]
        {
            let mut json = Json(Vec::new());
            json.ms(Duration::from_micros(us));
            assert_eq!(String::from_utf8(json.0).unwrap(), expected);
        }
        for (at, expected) in
            [(1_803_902_400_007, "2027-03-01T12:00:00.007Z"), (1_803_902_401_120, "2027-03-01T12:00:01.120Z")]
        {
            let mut json = Json(Vec::new());
            json.time(Duration::from_millis(at));
            assert_eq!(String::from_utf8(json.0).unwrap(), format!("\"{expected}\""));
        }
    }
}
