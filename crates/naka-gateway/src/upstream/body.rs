//! The one body type of the gateway, in both directions.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use naka::{
    BoxError,
    body_limit::Limited,
    buffered::Buffered,
    fallback::AnyBody as TakenOver,
    guard::{End, Guarded},
    mirror::MirrorBody,
    retry::Replay,
    trace::UnderWay,
};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{InUse, h1, h2, slow::Paced};
use crate::{
    patience::Progress,
    upload::{Upload, is_end},
};

pin_project! {
    /// A request or response body. Each layer moves it, so it is kept small: what streams is in a box.
    #[project = Projection]
    #[derive(Debug, Default)]
    pub enum Body {
        /// Nothing.
        #[default]
        Empty,
        #[doc(hidden)]
        Full { bytes: Option<Bytes> },
        #[doc(hidden)]
        Client { body: Box<ClientBody> },
        #[doc(hidden)]
        Upstream { incoming: Pin<Box<Guarded<Idle<Arriving>, InUse>>> },
        #[doc(hidden)]
        Bounded { body: Pin<Box<Limited<Body>>>, upload: Option<Arc<Upload>> },
        #[doc(hidden)]
        Replayed { body: Box<ReplayedBody> },
        #[doc(hidden)]
        Boxed { body: AnyBody },
    }
}

/// A request's body as the layers hand it on.
pub type LayeredBody = Buffered<Limited<Body>>;

/// What stands around it only where it has to.
impl From<LayeredBody> for Body {
    fn from(body: LayeredBody) -> Self {
        match body.into_inner() {
            Ok(body) => body.into(),
            Err(whole) => Self::boxed(whole),
        }
    }
}

impl From<Limited<Self>> for Body {
    fn from(mut body: Limited<Self>) -> Self {
        if body.is_bounded() && !body.is_end_stream() {
            let upload = body.get_mut().watch_upload();
            return Self::Bounded { body: Box::pin(body), upload };
        }
        body.into_inner()
    }
}

/// A body as retries hand it on: itself, where there is nothing to send again.
impl<B> From<Replay<B>> for Body
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Into<Self> + Send + 'static,
{
    fn from(body: Replay<B>) -> Self {
        match body.into_inner() {
            Ok(body) => body.into(),
            Err(taped) => {
                Self::Replayed { body: Box::new(ReplayedBody { body: Box::pin(taped), upload: None }) }
            }
        }
    }
}

/// The body of a request that another upstream has failed.
impl From<TakenOver> for Body {
    fn from(body: TakenOver) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        Self::Replayed { body: Box::new(ReplayedBody { body: Box::pin(body), upload: None }) }
    }
}

/// A body as mirrors hand it on: itself, where nobody copies it.
impl<B> From<MirrorBody<B>> for Body
where
    B: HttpBody<Data = Bytes, Error = BoxError> + Into<Self> + Send + 'static,
{
    fn from(body: MirrorBody<B>) -> Self {
        match body.into_inner() {
            Ok(body) => body.into(),
            Err(kept) => {
                Self::Replayed { body: Box::new(ReplayedBody { body: Box::pin(kept), upload: None }) }
            }
        }
    }
}

/// The body of a request that may be sent again or is copied, and who wants to know how far it is.
pub struct ReplayedBody {
    body: Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>,
    upload: Option<Arc<Upload>>,
}

impl ReplayedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = self.body.as_mut().poll_frame(cx);
        if let Some(upload) = &self.upload {
            upload.record(&frame, self.body.is_end_stream());
        }
        frame
    }
}

impl Drop for ReplayedBody {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.finish(); // This attempt asks for no more.
        }
    }
}

impl fmt::Debug for ReplayedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplayedBody")
    }
}

pin_project! {
    /// The body of an upstream's response, by what is spoken there.
    #[project = ArrivingProjection]
    #[derive(Debug)]
    pub enum Arriving {
        #[doc(hidden)]
        H1 { body: h1::Download },
        #[doc(hidden)]
        H2 { body: h2::Download },
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            ArrivingProjection::H1 { body } => Pin::new(body).poll_frame(cx).map_err(Into::into),
            ArrivingProjection::H2 { body } => body.poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::H1 { body } => body.is_end_stream(),
            Self::H2 { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::H1 { body } => body.size_hint(),
            Self::H2 { body } => body.size_hint(),
        }
    }
}

/// The body of a response that came through layers behind a choice.
pub struct AnyBody(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>);

impl fmt::Debug for AnyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyBody")
    }
}

impl Body {
    /// The body of a client's request.
    pub fn client(incoming: Incoming, progress: &Arc<Progress>) -> (Self, Answered) {
        if incoming.is_end_stream() {
            return (Self::Empty, Answered::default());
        }
        let (progress, answered) = (Arc::clone(progress), Answered::no(progress));
        progress.receive(true);
        let body = Self::Client {
            body: Box::new(ClientBody {
                incoming: Some(incoming),
                has_ended: false,
                upload: None,
                pace: Paced::new(&progress),
                answered: answered.clone(),
                progress,
            }),
        };
        (body, answered)
    }

    /// The body of an upstream's response; over HTTP/2 its stream is in use until the end.
    pub(super) fn upstream(
        incoming: Arriving,
        lease: Option<Box<h2::Lease>>,
        idle: Option<Duration>,
    ) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        let in_use = InUse { lease, attempt: None };
        Self::Upstream { incoming: Box::pin(Guarded::new(Idle::new(incoming, idle), Some(in_use))) }
    }

    /// The attempt lasts as long as this body; if there is nothing to wait for, it is over.
    pub(super) fn keep(&mut self, attempt: UnderWay) {
        let in_use = match self {
            Self::Upstream { incoming } => incoming.guard_mut(),
            _ => None,
        };
        match in_use {
            Some(in_use) => in_use.attempt = Some(attempt),
            None => attempt.end(End::Complete),
        }
    }

    /// A body of whatever type.
    pub fn boxed(body: impl HttpBody<Data = Bytes, Error = BoxError> + Send + 'static) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::Boxed { body: AnyBody(Box::pin(body)) } }
    }

    /// Reports the progress of a client's body from now on; `None` if there is nothing to send.
    pub(super) fn watch_upload(&mut self) -> Option<Arc<Upload>> {
        match self {
            Self::Client { body } => Some(Arc::clone(body.upload.insert(body.progress.upload()))),
            Self::Bounded { upload, .. } => upload.clone(),
            Self::Replayed { body } => Some(Arc::clone(body.upload.insert(Arc::default()))),
            _ => None,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full { bytes: Some(bytes) } }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            Projection::Empty => Poll::Ready(None),
            Projection::Full { bytes } => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Projection::Client { body } => body.poll_frame(cx),
            Projection::Upstream { incoming } => incoming.as_mut().poll_frame(cx),
            Projection::Bounded { body, .. } => body.as_mut().poll_frame(cx),
            Projection::Replayed { body } => body.poll_frame(cx),
            Projection::Boxed { body } => body.0.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full { bytes } => bytes.is_none(),
            Self::Client { body } => body.is_end_stream(),
            Self::Upstream { incoming } => incoming.is_end_stream(),
            Self::Bounded { body, .. } => body.is_end_stream(),
            Self::Replayed { body } => body.body.is_end_stream(),
            Self::Boxed { body } => body.0.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full { bytes } => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Client { body } => body.incoming.as_ref().map(HttpBody::size_hint).unwrap_or_default(),
            Self::Upstream { incoming } => incoming.size_hint(),
            Self::Bounded { body, .. } => body.size_hint(),
            Self::Replayed { body } => body.body.size_hint(),
            Self::Boxed { body } => body.0.size_hint(),
        }
    }
}

/// Tells the body of a request that there is an answer.
#[derive(Clone, Debug, Default)]
pub struct Answered(Whose);

#[derive(Clone, Debug, Default)]
enum Whose {
    /// There is no body.
    #[default]
    Nobodys,
    /// Of the one request that a connection is at, without an allocation for it.
    Connection(Arc<Progress>),
    /// Of one of many.
    Stream(Arc<AtomicBool>),
}

impl Answered {
    /// There is none yet.
    fn no(progress: &Arc<Progress>) -> Self {
        Self(if progress.is_multiplexed() {
            Whose::Stream(Arc::default())
        } else {
            Whose::Connection(Arc::clone(progress))
        })
    }

    /// There is one: from now on nobody minds how slowly the body comes, as the endpoint has chosen to talk while it listens.
    pub fn say(&self) {
        match &self.0 {
            Whose::Nobodys => {}
            Whose::Connection(progress) => progress.say_answered(),
            Whose::Stream(is_answered) => is_answered.store(true, Relaxed),
        }
    }

    /// Whether there is one.
    pub(super) fn is_said(&self) -> bool {
        match &self.0 {
            Whose::Nobodys => false,
            Whose::Connection(progress) => progress.is_answered(),
            Whose::Stream(is_answered) => is_answered.load(Relaxed),
        }
    }
}

/// The body of a client's request, and who wants to know about it.
#[derive(Debug)]
pub struct ClientBody {
    /// There until it is dropped.
    incoming: Option<Incoming>,
    /// Its end was seen: of a body in chunks hyper does not say so afterwards.
    has_ended: bool,
    upload: Option<Arc<Upload>>,
    pace: Paced,
    answered: Answered,
    progress: Arc<Progress>,
}

impl ClientBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = Pin::new(incoming).poll_frame(cx).map_err(BoxError::from);
        if let Err(slow) = self.pace.look(&self.progress, &frame, || self.answered.is_said(), cx) {
            return Poll::Ready(Some(Err(slow.into())));
        }
        self.has_ended |= is_end(&frame);
        if self.is_end_stream() {
            self.progress.receive(false);
        }
        if let Some(upload) = &self.upload {
            upload.record(&frame, self.is_end_stream());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        // Nobody will ask for more: who sends does not wait for the end after trailers, for one.
        let is_whole = self.upload.as_ref().is_some_and(|upload| upload.finish());
        if is_whole || self.is_end_stream() {
            self.progress.receive(false);
        } else {
            self.progress.leave_unread(self.incoming.take());
        }
    }
}

/// A body that fails when nothing comes for too long.
#[derive(Debug)]
pub struct Idle<B> {
    body: B,
    limit: Option<Duration>,
    /// Since when more of it is waited for.
    since: Option<Instant>,
    /// Made when it is first needed, and then set anew.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<B> Idle<B> {
    const fn new(body: B, limit: Option<Duration>) -> Self {
        Self { body, limit, since: None, alarm: None }
    }
}

impl<B: HttpBody<Error: Into<BoxError>> + Unpin> HttpBody for Idle<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.since = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(limit) = this.limit else { return Poll::Pending };
        let since = this.since.get_or_insert_with(Instant::now);
        let Some(due) = since.checked_add(limit) else { return Poll::Pending };
        let alarm = this.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if alarm.deadline() != due {
            alarm.as_mut().reset(due);
        }
        ready!(alarm.as_mut().poll(cx));
        Poll::Ready(Some(Err(Box::new(Stalled { limit }))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Nothing of a body came for too long.
#[derive(Clone, Copy, Debug)]
pub struct Stalled {
    limit: Duration,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing of the response body came for {:?} (timeouts.idle)", self.limit)
    }
}

impl std::error::Error for Stalled {}
