//! Fault injection: answers some requests with an error, or late, to see what becomes of whoever asks.
//!
//! # Decision
//! 1. Not [`enabled`](FaultConfig::enabled), which is the default, or after [`until`](FaultConfig::until): the
//!    layer is not there.
//! 2. The request lacks the header of the [`Gate`], or has another value: it passes, and is not counted. So
//!    only those are hit who ask for it. The header goes on, and may open the gate of another layer.
//! 3. Of those that pass the gate, a share is delayed and a share is answered with a status and
//!    [`Reason::FaultInjected`]. Of each hundred the number is exact, and evenly spread. Nobody has
//!    both unless the shares are more than a hundred together: then the excess is late *and* refused.
//! 4. A delay is spent before the request goes on. At most [`max_delayed`](FaultConfig::max_delayed)
//!    wait at once; whoever comes on top of that is not delayed: this shall not be the outage it plays.
//!
//! A fault says nothing about whoever is behind ([`Reason::blames_upstream`]): stand inside of a breaker, and
//! it does not trip.
//!
//! # Units and limits
//! Shares in percent, whole. `until`: seconds since 1970. `max_delayed`: default 1,000. Only a delay allocates.
//!
//! # State
//! A count of requests and one of those that wait; [`reconfigured`](FaultLayer::reconfigured) keeps both.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics. A delay needs tokio's timer.
//!
//! # Example
//! ```
//! # use http::{Request, Response, StatusCode};
//! # use tower::{Layer, ServiceExt};
//! use naka::fault::{FaultConfig, FaultLayer, Gate};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let upstream = tower::service_fn(|_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(())) });
//! let gate = Gate::header("x-chaos".parse()?).value("monday".parse()?);
//! let config = FaultConfig::new(gate).abort(50, StatusCode::SERVICE_UNAVAILABLE)?.enabled(true);
//! let service = FaultLayer::new(config).layer(upstream);
//!
//! let mut statuses = Vec::new();
//! for _ in 0..4 {
//!     let request = Request::builder().header("x-chaos", "monday").body(())?;
//!     statuses.push(service.clone().oneshot(request).await?.status().as_u16());
//! }
//! statuses.sort_unstable();
//! assert_eq!(statuses, [200, 200, 200, 503]);
//! assert_eq!(service.oneshot(Request::new(())).await?.status(), 200);
//! # Ok(()) }
//! ```

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, request::Parts};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use crate::{
    clock::{Now, WallClock},
    explain::{Explain, Finding},
    layered::layered,
    observe::Observer,
    reject::{Reason, Rejection},
    trace::note,
};

/// Who asks for faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    header: HeaderName,
    value: Option<HeaderValue>,
}

impl Gate {
    /// Whoever sends this header.
    pub const fn header(header: HeaderName) -> Self {
        Self { header, value: None }
    }

    /// Only with this value.
    #[must_use]
    pub fn value(mut self, value: HeaderValue) -> Self {
        self.value = Some(value);
        self
    }

    fn is_open(&self, headers: &HeaderMap) -> bool {
        match &self.value {
            None => headers.contains_key(&self.header),
            Some(value) => headers.get_all(&self.header).iter().any(|line| line == value),
        }
    }
}

/// What a [`FaultLayer`] does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FaultConfig {
    /// Who asks for faults.
    pub gate: Gate,
    /// Whether there are any; default no.
    pub enabled: bool,
    /// Until when, in seconds since 1970; default for ever.
    pub until: Option<u64>,
    /// Requests that are delayed at once; default 1,000.
    pub max_delayed: usize,
    /// What the time is.
    pub clock: WallClock,
    delay: Option<(u8, Duration)>,
    abort: Option<(u8, StatusCode)>,
}

impl FaultConfig {
    /// No faults yet.
    pub const fn new(gate: Gate) -> Self {
        let clock = WallClock::system();
        Self { gate, enabled: false, until: None, max_delayed: 1000, clock, delay: None, abort: None }
    }

    /// So many percent are late by so much.
    pub fn delay(mut self, percent: u8, time: Duration) -> Result<Self, FaultError> {
        self.delay = Some((checked(percent)?, time));
        Ok(self)
    }

    /// So many percent get this answer, which has to be an error.
    pub fn abort(mut self, percent: u8, status: StatusCode) -> Result<Self, FaultError> {
        if !(status.is_client_error() || status.is_server_error()) {
            return Err(FaultError::Status(status));
        }
        self.abort = Some((checked(percent)?, status));
        Ok(self)
    }

    /// Whether there are any faults.
    #[must_use]
    pub const fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Until when, in seconds since 1970.
    #[must_use]
    pub const fn until(mut self, unix_s: u64) -> Self {
        self.until = Some(unix_s);
        self
    }

    /// Whether there are any, now.
    fn is_on(&self, now: Now) -> bool {
        self.enabled && self.until.is_none_or(|until| self.clock.unix_s(now) < until)
    }
}

const fn checked(percent: u8) -> Result<u8, FaultError> {
    if percent > 100 { Err(FaultError::Percent(percent)) } else { Ok(percent) }
}

/// What is no fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultError {
    /// A share of more than all.
    Percent(u8),
    /// A status that is no error.
    Status(StatusCode),
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent} % is more than all"),
            Self::Status(status) => write!(f, "{} is no error", status.as_u16()),
        }
    }
}

impl std::error::Error for FaultError {}

/// What one request gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fault {
    delay: Option<Duration>,
    abort: Option<StatusCode>,
}

/// The pure decision: what the request with this number, counted from 0, gets.
///
/// 37 and 100 have no common factor, so each hundred numbers have each place once. Delays are taken from one end
/// of the places and refusals from the other.
fn evaluate(config: &FaultConfig, number: u64) -> Fault {
    let place = (number % 100 + 1) * 37 % 100;
    let delay = config.delay.filter(|(percent, _)| place < u64::from(*percent));
    let abort = config.abort.filter(|(percent, _)| place >= 100 - u64::from(*percent));
    Fault { delay: delay.map(|(_, time)| time), abort: abort.map(|(_, status)| status) }
}

/// Applies [`Faults`]; see the [module docs](self) for an example.
#[must_use]
pub struct FaultLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

struct Shared<O> {
    config: FaultConfig,
    account: Arc<Account>,
    name: Option<Arc<str>>,
    observer: O,
}

/// What outlives a configuration.
#[derive(Debug, Default)]
struct Account {
    number: AtomicU64,
    delayed: AtomicUsize,
}

impl FaultLayer {
    /// These faults.
    pub fn new(config: FaultConfig) -> Self {
        Self::observed(config, ())
    }
}

impl<O: Observer> FaultLayer<O> {
    /// As [`new`](FaultLayer::new), and tells `observer` what it does to those who pass the gate.
    pub fn observed(config: FaultConfig, observer: O) -> Self {
        Self { shared: Some(Arc::new(Shared { config, account: Arc::default(), name: None, observer })) }
    }

    /// A layer that is not there.
    pub const fn off() -> Self {
        Self { shared: None }
    }

    /// Whether it is a layer that is not there.
    pub const fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    /// Names the policy: in its rejections, and in what it explains.
    pub fn named(self, name: &Arc<str>) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared { name: Some(Arc::clone(name)), ..old.clone() })
    }

    /// Other faults; those who wait go on waiting as long as they were told.
    pub fn reconfigured(&self, config: &FaultConfig) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared { config: config.clone(), ..old.clone() })
    }

    /// Requests that are being delayed.
    pub fn delayed(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| shared.account.delayed.load(Acquire))
    }

    fn map(&self, change: impl Fn(&Shared<O>) -> Shared<O>) -> Self {
        Self { shared: self.shared.as_deref().map(|shared| Arc::new(change(shared))) }
    }
}

impl<O: Clone> Clone for Shared<O> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            account: Arc::clone(&self.account),
            name: self.name.clone(),
            observer: self.observer.clone(),
        }
    }
}

impl<O> fmt::Debug for FaultLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.shared.as_ref().map(|shared| (&shared.name, &shared.config, &shared.account));
        f.debug_tuple("FaultLayer").field(&known).finish()
    }
}

layered! {
    /// Plays faults; see the [module docs](self).
    FaultLayer { shared } => Faults
}

impl<O: Observer> Shared<O> {
    fn rejection(&self, status: StatusCode) -> Rejection {
        Rejection::new(Reason::FaultInjected(status)).by(self.name.clone())
    }

    fn refuse(&self, status: StatusCode) -> Rejection {
        let rejection = self.rejection(status);
        self.observer.rejected(&rejection);
        rejection
    }

    fn has_room(&self, delayed: usize) -> bool {
        delayed < self.config.max_delayed
    }

    /// A place among those who wait, if there is one.
    fn wait(self: &Arc<Self>) -> Option<Delayed<O>> {
        let next = |delayed| self.has_room(delayed).then_some(delayed + 1);
        self.account.delayed.fetch_update(AcqRel, Acquire, next).ok()?;
        self.observer.delayed();
        Some(Delayed { shared: Arc::clone(self), is_over: false })
    }
}

/// One who waits; given up when dropped before that is over.
struct Delayed<O: Observer> {
    shared: Arc<Shared<O>>,
    is_over: bool,
}

impl<O: Observer> Drop for Delayed<O> {
    fn drop(&mut self) {
        self.shared.account.delayed.fetch_sub(1, AcqRel);
        if !self.is_over {
            self.shared.observer.cancelled();
        }
    }
}

impl<O: Observer> Explain for FaultLayer<O> {
    fn kind(&self) -> &'static str {
        "fault"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.config.is_on(now)) else {
            return Finding::Off;
        };
        if !shared.config.gate.is_open(&head.headers) {
            return Finding::Passes;
        }
        let (number, delayed) = (shared.account.number.load(Relaxed), shared.account.delayed.load(Acquire));
        match evaluate(&shared.config, number) {
            Fault { abort: Some(status), .. } => Finding::Reject(shared.rejection(status)),
            Fault { delay: Some(time), .. } if shared.has_room(delayed) => {
                Finding::Admit(format!("{time:?} late"))
            }
            Fault { delay: Some(_), .. } => Finding::Admit("on time: too many are late already".into()),
            Fault { .. } => Finding::Admit("as it is".into()),
        }
    }
}

impl<S, O, B, R> Service<Request<B>> for Faults<S, O>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    O: Observer,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = FaultFuture<S, S::Future, B, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_meant = |shared: &&Arc<Shared<O>>| {
            let Shared { config, .. } = &***shared;
            config.enabled
                && config.gate.is_open(request.headers())
                && config.is_on(Now::of(request.extensions()))
        };
        let Some(shared) = self.layer.shared.as_ref().filter(is_meant) else {
            return FaultFuture { state: State::Forward { future: self.inner.call(request) } };
        };
        // Relaxed: the number orders nothing.
        let Fault { delay, abort } = evaluate(&shared.config, shared.account.number.fetch_add(1, Relaxed));
        let delay = delay.and_then(|time| Some((Box::pin(sleep(time)), shared.wait()?)));
        let state = match (delay, abort) {
            (Some((sleep, delayed)), abort) => {
                note(request.extensions(), "delayed", shared.name.as_ref(), None);
                // The one that is ready waits with the request; its clone has to become ready first.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                State::Wait { sleep, delayed, abort, inner, request: Some(request) }
            }
            (None, Some(status)) => State::Reject { rejection: Some(shared.refuse(status)) },
            (None, None) => {
                shared.observer.admitted();
                State::Forward { future: self.inner.call(request) }
            }
        };
        FaultFuture { state }
    }
}

pin_project! {
    /// The future of [`Faults`].
    pub struct FaultFuture<S, F, B, O = ()>
    where
        O: Observer,
    {
        #[pin]
        state: State<S, F, B, O>,
    }
}

pin_project! {
    #[project = Projection]
    enum State<S, F, B, O>
    where
        O: Observer,
    {
        /// It is late.
        Wait {
            sleep: Pin<Box<Sleep>>,
            delayed: Delayed<O>,
            abort: Option<StatusCode>,
            inner: S,
            request: Option<Request<B>>,
        },
        /// It goes on.
        Forward { #[pin] future: F },
        /// It gets an error.
        Reject { rejection: Option<Rejection> },
    }
}

impl<S, B, R, O> Future for FaultFuture<S, S::Future, B, O>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
    O: Observer,
{
    type Output = Result<Response<R>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                Projection::Wait { sleep, delayed, abort, inner, request } => {
                    ready!(sleep.as_mut().poll(cx));
                    delayed.is_over = true;
                    if let Some(status) = *abort {
                        State::Reject { rejection: Some(delayed.shared.refuse(status)) }
                    } else {
                        delayed.shared.observer.admitted();
                        let request = request.take().expect("a request waits once");
                        State::Forward { future: inner.call(request) }
                    }
                }
                Projection::Forward { future } => return future.poll(cx),
                Projection::Reject { rejection } => {
                    let rejection = rejection.take().expect("a future is not polled after it is ready");
                    return Poll::Ready(Ok(rejection.into_response()));
                }
            };
            state.set(next);
        }
    }
}

impl<S, F, B, O: Observer> fmt::Debug for FaultFuture<S, F, B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(delay: u8, abort: u8, from: u64) -> [usize; 3] {
        let config = FaultConfig::new(Gate::header(http::header::FROM)).delay(delay, Duration::MAX).unwrap();
        let config = config.abort(abort, StatusCode::BAD_GATEWAY).unwrap();
        let faults = (from..from + 100).map(|number| evaluate(&config, number)).collect::<Vec<_>>();
        let count = |is: fn(&&Fault) -> bool| faults.iter().filter(is).count();
        [
            count(|fault| fault.delay.is_some()),
            count(|fault| fault.abort.is_some()),
            count(|fault| fault.delay.is_some() && fault.abort.is_some()),
        ]
    }

    #[test]
    fn shares_are_exact_in_any_hundred_and_do_not_meet_before_they_have_to() {
        for delay in 0..=100_u8 {
            for abort in [0, 1, 5, 50, 99, 100] {
                let both = usize::from((delay + abort).saturating_sub(100));
                for from in [0, 37, u64::MAX / 2] {
                    let expected = [usize::from(delay), usize::from(abort), both];
                    assert_eq!(shares(delay, abort, from), expected);
                }
            }
        }
    }

    #[test]
    fn a_share_is_spread() {
        let config = FaultConfig::new(Gate::header(http::header::FROM)).delay(10, Duration::ZERO).unwrap();
        let late = (0..1000).filter(|number| evaluate(&config, *number).delay.is_some()).collect::<Vec<_>>();
        assert!(late.windows(2).all(|two| (5..=20).contains(&(two[1] - two[0]))), "{late:?}");
    }
}
