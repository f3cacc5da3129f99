//! Mirroring: a copy of some requests goes to another service, and nobody waits for it.
//!
//! # Decision
//! 1. Copied is what has a [method](Methods) that may be copied: a safe one (RFC 9110, section 9.2.1), unless all are
//!    said to be. A copy that is not safe is done twice: whoever gets it has to know that.
//! 2. What is a copy already ([`MIRROR`]) is not copied again, so that mirrors cannot go round in a circle.
//! 3. Of these requests a share is [sampled](MirrorConfig::sample), by count and evenly spread.
//! 4. At most [`max`](MirrorConfig::max) copies are under way; what is over that is not copied. Nothing waits.
//! 5. The body is what the primary was sent: it is written down while it streams, and the copy goes when its end has
//!    been handed on. A body that is longer than [`max_body`](MirrorConfig::max_body), or that the primary did not
//!    read to its end, makes no copy. Trailers are left out.
//! 6. The copy says that it is one, in [`MIRROR`]. Its headers are otherwise those of the request, credentials
//!    included, as a service that asks who it is would refuse it without; [`without`](MirrorConfig::without) takes
//!    some away.
//! 7. The answer is read, up to a bound, and thrown away. After [`timeout`](MirrorConfig::timeout) the copy is given
//!    up, whatever it waits for.
//!
//! The primary's answer, its errors and its time do not depend on any of this. A copy is not retried, and the
//! deadline of the request is not its own.
//!
//! # Where it stands
//! Inside of everything that refuses, so that only what is let pass is copied, and outside of retries, so that
//! a request is copied once however often it is sent. What is behind the mirror is the mirror's own affair: it shares
//! no permit, breaker or budget with the primary unless it is made to.
//!
//! Envoy's `request_mirror_policies` mark a copy by its `Host` (`-shadow`), which a service that looks at it
//! refuses; here a header does.
//!
//! # Units and limits
//! At most [`max`](MirrorConfig::max) × [`max_body`](MirrorConfig::max_body) bytes are kept: a place is taken before
//! the body begins. A request that is copied costs a copy of its head, of its body, and a task; one that is not, nothing.
//!
//! # State
//! The number of requests that may be copied, and the copies under way: all services of the layer and its clones
//! share them, and so does what [`reconfigured`](MirrorLayer::reconfigured) and [`to`](MirrorLayer::to) make. Copies
//! are tasks on the runtime that the request runs on. They end with the last of these handles.
//!
//! # Errors and panics
//! `S::Error` passes unchanged. Errors of the mirror, and its panics, end its copy. Outside of a tokio runtime
//! nothing is copied.
//!
//! # Example
//! ```
//! # use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::Empty;
//! # use tower::{Layer, ServiceExt};
//! use naka::mirror::{MIRROR, MirrorBody, MirrorConfig, MirrorLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # static COPIES: AtomicU32 = AtomicU32::new(0);
//! let primary = tower::service_fn(|_: Request<MirrorBody<Empty<Bytes>>>| async {
//!     Ok::<_, ()>(Response::new(Empty::<Bytes>::new()))
//! });
//! let next_version = tower::service_fn(|copy: Request<Bytes>| async move {
//!     assert_eq!(copy.headers()[MIRROR], "true");
//!     COPIES.fetch_add(1, SeqCst);
//!     Ok::<_, ()>(Response::new(Empty::<Bytes>::new()))
//! });
//! let service = MirrorLayer::new(MirrorConfig::new().sample(50), next_version).layer(primary);
//! for _ in 0..10 {
//!     service.clone().oneshot(Request::get("/rides/7").body(Empty::new()).unwrap()).await.unwrap();
//! }
//! tokio::task::yield_now().await;
//! assert_eq!(COPIES.load(SeqCst), 5);
//! # }
//! ```

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, EXPECT, TE, TRAILER, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::Body;
use tokio::{runtime::Handle, task::JoinSet, time::timeout};
use tower_service::Service;

use crate::{
    attempt::Tried,
    balance::Endpoint,
    clock::Now,
    context::{Context as Facts, Deadline, Upgrade},
    enforce::is_of_share,
    explain::{Explain, Finding},
    held::Part,
    layered::layered,
    observe::Observer,
    reject::{Head, Rejection},
    trace::Journal,
};

mod body;

use body::Kept;
pub use body::MirrorBody;

/// Says that a request is a copy. A mark, and no proof: take it away at the edge if anybody behind relies on it.
pub const MIRROR: HeaderName = HeaderName::from_static("naka-mirror");

/// What is copied, and within which bounds; see the [module docs](self).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MirrorConfig {
    /// So many of a hundred requests; default 100.
    pub sample: u8,
    /// Of which methods; default [`Methods::Safe`].
    pub methods: Methods,
    /// Copies under way at once; default 64.
    pub max: usize,
    /// How long one may take, from when it is sent; default 5 s.
    pub timeout: Duration,
    /// The longest body that is copied, in bytes; default 64 KiB.
    pub max_body: usize,
    /// So much of the answer is read so that its connection can be used again, in bytes; default 64 KiB.
    pub max_response: usize,
    /// Headers that copies do not have; default none.
    pub without: Vec<HeaderName>,
}

/// Of which methods requests are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Methods {
    /// GET, HEAD, OPTIONS, TRACE.
    Safe,
    /// Of all: what the copy does is done twice.
    All,
}

impl MirrorConfig {
    /// All safe requests.
    pub const fn new() -> Self {
        Self {
            sample: 100,
            methods: Methods::Safe,
            max: 64,
            timeout: Duration::from_secs(5),
            max_body: 64 << 10,
            max_response: 64 << 10,
            without: Vec::new(),
        }
    }

    /// So many of a hundred requests.
    #[must_use]
    pub const fn sample(mut self, percent: u8) -> Self {
        self.sample = percent;
        self
    }

    /// Of which methods.
    #[must_use]
    pub const fn methods(mut self, methods: Methods) -> Self {
        self.methods = methods;
        self
    }

    /// Copies under way at once.
    #[must_use]
    pub const fn max(mut self, max: usize) -> Self {
        self.max = max;
        self
    }

    /// How long one may take.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The longest body that is copied.
    #[must_use]
    pub const fn max_body(mut self, max_body: usize) -> Self {
        self.max_body = max_body;
        self
    }

    /// So much of an answer is read.
    #[must_use]
    pub const fn max_response(mut self, max_response: usize) -> Self {
        self.max_response = max_response;
        self
    }

    /// Headers that copies do not have.
    #[must_use]
    pub fn without(mut self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.without = headers.into_iter().collect();
        self
    }
}

impl Default for MirrorConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// What became of a copy that was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Copied {
    /// It was answered.
    Answered(StatusCode),
    /// It was not, or not to the end.
    Failed,
    /// It took too long.
    TimedOut,
    /// It was not made: too many are under way.
    Full,
    /// It was not sent: the body is longer than is kept.
    TooLong,
    /// It was not sent: as many bytes are held as there may be ([`Held`](crate::held::Held)).
    NoRoom,
    /// It was not sent: the primary did not read all of the body.
    Unread,
    /// It was given up, with the last handle of its layer or with the runtime.
    Ended,
}

/// Applies [`Mirror`]; see the [module docs](self) for an example.
#[must_use]
pub struct MirrorLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

struct Shared<O> {
    config: MirrorConfig,
    account: Arc<Account>,
    send: Arc<Sending>,
    name: Option<Arc<str>>,
    observer: Arc<O>,
}

/// Sends a copy, and reads so many bytes of the answer.
type Sending = dyn Fn(Request<Bytes>, usize) -> Pin<Box<dyn Future<Output = Copied> + Send>> + Send + Sync;

/// What all handles share. Nothing that a task holds keeps it.
#[derive(Default)]
struct Account {
    /// Requests that could be copied.
    number: AtomicU64,
    under_way: Arc<AtomicUsize>,
    tasks: Mutex<JoinSet<()>>,
}

impl MirrorLayer {
    /// Copies go to `mirror`.
    pub fn new<M, R>(config: MirrorConfig, mirror: M) -> Self
    where
        M: Service<Request<Bytes>, Response = Response<R>, Future: Send> + Clone + Send + Sync + 'static,
        R: Body + Send + 'static,
    {
        Self::observed(config, mirror, ())
    }
}

impl<O> MirrorLayer<O> {
    /// The same, with somebody who hears of it.
    pub fn observed<M, R>(config: MirrorConfig, mirror: M, observer: O) -> Self
    where
        M: Service<Request<Bytes>, Response = Response<R>, Future: Send> + Clone + Send + Sync + 'static,
        R: Body + Send + 'static,
    {
        let (account, send, observer) = (Arc::default(), sending(mirror), Arc::new(observer));
        Self { shared: Some(Arc::new(Shared { config, account, send, name: None, observer })) }
    }

    /// A layer that is not there.
    pub const fn off() -> Self {
        Self { shared: None }
    }

    /// The same copies under another configuration.
    pub fn reconfigured(&self, config: MirrorConfig) -> Self {
        self.with(|shared| Shared { config, ..shared })
    }

    /// The same account, and another one who gets the copies.
    pub fn to<M, R>(&self, mirror: M) -> Self
    where
        M: Service<Request<Bytes>, Response = Response<R>, Future: Send> + Clone + Send + Sync + 'static,
        R: Body + Send + 'static,
    {
        self.with(|shared| Shared { send: sending(mirror), ..shared })
    }

    /// The same account, where copies have not these headers either.
    pub fn without(&self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.with(|mut shared| {
            shared.config.without.extend(headers);
            shared
        })
    }

    /// Names the policy, in what it explains.
    pub fn named(self, name: &Arc<str>) -> Self {
        self.with(|shared| Shared { name: Some(Arc::clone(name)), ..shared })
    }

    /// Copies under way, those whose bodies are still coming included.
    pub fn under_way(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| shared.account.under_way.load(Acquire))
    }

    /// Whether it is not there.
    pub const fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    fn with(&self, change: impl FnOnce(Shared<O>) -> Shared<O>) -> Self {
        let known = self.shared.as_deref().map(|shared| Shared {
            config: shared.config.clone(),
            account: Arc::clone(&shared.account),
            send: Arc::clone(&shared.send),
            name: shared.name.clone(),
            observer: Arc::clone(&shared.observer),
        });
        Self { shared: known.map(change).map(Arc::new) }
    }
}

fn sending<M, R>(mirror: M) -> Arc<Sending>
where
    M: Service<Request<Bytes>, Response = Response<R>, Future: Send> + Clone + Send + Sync + 'static,
    R: Body + Send + 'static,
{
    Arc::new(move |copy, max_response| {
        let mut mirror = mirror.clone();
        Box::pin(async move {
            if poll_fn(|cx| mirror.poll_ready(cx)).await.is_err() {
                return Copied::Failed;
            }
            let answering = mirror.call(copy);
            let Ok(response) = answering.await else { return Copied::Failed };
            let (status, is_ours) = (response.status(), response.extensions().get::<Rejection>().is_some());
            let is_read = read_away(response.into_body(), max_response).await;
            if is_read && !is_ours { Copied::Answered(status) } else { Copied::Failed }
        })
    })
}

/// Reads so many bytes; says whether nothing broke off before that.
async fn read_away<R: Body>(body: R, max_bytes: usize) -> bool {
    let (mut body, mut left) = (pin!(body), max_bytes);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(frame) = frame else { return false };
        let bytes = frame.data_ref().map_or(0, Buf::remaining);
        let Some(rest) = left.checked_sub(bytes) else { return true };
        left = rest;
    }
    true
}

impl<O> fmt::Debug for MirrorLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorLayer").field("config", &self.shared.as_ref().map(|it| &it.config)).finish()
    }
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It is none of those that are copied.
    Never(&'static str),
    /// It is counted, and another one is copied.
    NotThis,
    /// It would be copied, were there not so many already.
    Full,
    /// It is copied.
    Copy,
}

/// `number` is how many there were before it of those that may be copied.
fn evaluate(config: &MirrorConfig, head: &Head<'_>, number: u64, under_way: usize) -> Decision {
    match () {
        () if head.headers.contains_key(MIRROR) => Decision::Never("it is a copy itself"),
        () if Upgrade::is_asked(head.extensions) => Decision::Never("it asks for another protocol"),
        () if !config.may_copy(head.method) => Decision::Never("its method is not safe"),
        () if !is_of_share(number, config.sample) => Decision::NotThis,
        () if under_way >= config.max => Decision::Full,
        () => Decision::Copy,
    }
}

impl MirrorConfig {
    fn may_copy(&self, method: &Method) -> bool {
        self.methods == Methods::All || method.is_safe()
    }
}

impl<O: Observer> Explain for MirrorLayer<O> {
    fn kind(&self) -> &'static str {
        "mirror"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, _: Now, head: &mut Parts) -> Finding {
        let Some(Shared { config, account, .. }) = self.shared.as_deref() else { return Finding::Off };
        let (number, under_way) = (account.number.load(Relaxed), account.under_way.load(Acquire));
        Finding::Admit(match evaluate(config, &Head::from(&*head), number, under_way) {
            Decision::Never(why) => format!("not copied: {why}"),
            Decision::NotThis => {
                format!("not copied: {} of 100 are, and this is none of them", config.sample)
            }
            Decision::Full => format!("not copied: {under_way} copies are under way"),
            Decision::Copy if config.max_body == 0 => "a copy is sent if it has no body".to_owned(),
            Decision::Copy => format!("a copy is sent, of a body of up to {} bytes", config.max_body),
        })
    }
}

layered! {
    /// Sends copies to another service; see the [module docs](self).
    MirrorLayer { shared } => Mirror
}

impl<S, O, B, R> Service<Request<B>> for Mirror<S, O>
where
    S: Service<Request<MirrorBody<B>>, Response = Response<R>>,
    O: Observer,
    B: Body<Data = Bytes>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let copy = self.layer.shared.as_ref().and_then(|shared| shared.begin(&request));
        let request = match copy {
            None => request.map(MirrorBody::plain),
            Some(copy) if request.body().is_end_stream() => {
                copy.send();
                request.map(MirrorBody::plain)
            }
            Some(copy) => request.map(|body| MirrorBody::kept(body, Box::new(copy))),
        };
        self.inner.call(request)
    }
}

impl<O: Observer> Shared<O> {
    /// A copy of this request, if there is to be one.
    fn begin<B: Body>(self: &Arc<Self>, request: &Request<B>) -> Option<Copy<O>> {
        let (head, account) = (Head::from(request), &self.account);
        // Those that are never copied are not counted, and those that are not counted cannot be copied.
        if let Decision::Never(_) = evaluate(&self.config, &head, 0, 0) {
            return None;
        }
        let number = account.number.fetch_add(1, Relaxed); // Relaxed: the number orders nothing.
        let decision = evaluate(&self.config, &head, number, account.under_way.load(Acquire));
        if decision == Decision::NotThis {
            return None;
        }
        let next = |under_way: usize| (under_way < self.config.max).then_some(under_way + 1);
        if account.under_way.fetch_update(AcqRel, Acquire, next).is_err() {
            self.observer.copied(Copied::Full);
            return None;
        }
        let (under_way, observer) = (Arc::clone(&account.under_way), Arc::clone(&self.observer));
        let mut place = Place { under_way, observer, became: Copied::Unread };
        if request.body().size_hint().lower() > u64::try_from(self.config.max_body).unwrap_or(u64::MAX) {
            place.became = Copied::TooLong; // It says so: nothing of it has to be kept.
            return None;
        }
        let mut parts = Request::new(()).into_parts().0;
        parts.method.clone_from(request.method());
        parts.uri.clone_from(request.uri());
        parts.version = request.version();
        parts.headers.clone_from(request.headers());
        parts.extensions.clone_from(request.extensions());
        let held = Part::of(request.extensions());
        Some(Copy { shared: Arc::clone(self), head: parts, body: BytesMut::new(), held, place })
    }
}

/// A copy whose body is still coming.
struct Copy<O: Observer> {
    shared: Arc<Shared<O>>,
    head: Parts,
    body: BytesMut,
    held: Part,
    place: Place<O>,
}

impl<O: Observer> Copy<O> {
    /// Lets it go.
    fn send(self) {
        let Self { shared, head, body, held, mut place } = self;
        place.became = Copied::Ended; // Unless something else becomes of it.
        let Ok(runtime) = Handle::try_current() else { return };
        let request = shared.config.copied(head, body.freeze());
        let (send, config) = (Arc::clone(&shared.send), &shared.config);
        let (limit, max_response) = (config.timeout, config.max_response);
        // The task holds nothing that keeps the account: the account keeps the task.
        let mut tasks = shared.account.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {} // Those that are over: no more than were under way.
        tasks.spawn_on(
            async move {
                place.end(timeout(limit, send(request, max_response)).await.unwrap_or(Copied::TimedOut));
                drop(held);
            },
            &runtime,
        );
    }
}

impl<O: Observer> Kept for Copy<O> {
    fn keep(&mut self, data: &Bytes) -> bool {
        let length = self.body.len() + data.len();
        if length > self.shared.config.max_body {
            self.place.became = Copied::TooLong;
            return false;
        }
        if !self.held.grow(length) {
            self.place.became = Copied::NoRoom;
            return false;
        }
        self.body.extend_from_slice(data);
        true
    }

    fn is_whole(self: Box<Self>) {
        self.send();
    }
}

/// One of so many under way; dropped it tells what became of it.
struct Place<O: Observer> {
    under_way: Arc<AtomicUsize>,
    observer: Arc<O>,
    became: Copied,
}

impl<O: Observer> Place<O> {
    fn end(mut self, became: Copied) {
        self.became = became;
    }
}

impl<O: Observer> Drop for Place<O> {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, AcqRel);
        self.observer.copied(self.became);
    }
}

impl MirrorConfig {
    /// The request as the mirror gets it.
    fn copied(&self, mut head: Parts, body: Bytes) -> Request<Bytes> {
        // How the primary's body is framed says nothing of a whole one.
        let had_length = head.headers.contains_key(CONTENT_LENGTH);
        for name in [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER, TE, EXPECT].iter().chain(&self.without) {
            head.headers.remove(name);
        }
        if had_length || !body.is_empty() {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        head.headers.insert(MIRROR, HeaderValue::from_static("true"));
        let extensions = &mut head.extensions;
        if let Some(facts) = extensions.get_mut::<Facts>() {
            (facts.now, facts.endpoint, facts.tried, facts.deadline) = (Now::read(), None, None, None);
        }
        if let Some(journal) = Journal::of(extensions).map(|journal| journal.of_copy()) {
            journal.put(extensions);
        }
        extensions.remove::<Endpoint>();
        extensions.remove::<Tried>();
        extensions.remove::<Deadline>();
        Request::from_parts(head, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(config: &MirrorConfig, request: &Request<()>, number: u64, under_way: usize) -> Decision {
        evaluate(config, &Head::from(request), number, under_way)
    }

    #[test]
    fn what_is_copied() {
        let (all, get) = (MirrorConfig::new(), Request::get("/").body(()).unwrap());
        assert_eq!(said(&all, &get, 0, 0), Decision::Copy);
        assert_eq!(said(&all, &get, 0, 64), Decision::Full);
        assert_eq!(said(&all, &get, 0, 63), Decision::Copy);
        let post = Request::post("/").body(()).unwrap();
        assert_eq!(said(&all, &post, 0, 0), Decision::Never("its method is not safe"));
        assert_eq!(said(&all.clone().methods(Methods::All), &post, 0, 0), Decision::Copy);
        let again = Request::get("/").header(MIRROR, "true").body(()).unwrap();
        assert_eq!(said(&all, &again, 0, 0), Decision::Never("it is a copy itself"));
        let few = all.sample(3);
        let copied = (0..1000).filter(|number| said(&few, &get, *number, 0) == Decision::Copy).count();
        assert_eq!(copied, 30);
    }
}
