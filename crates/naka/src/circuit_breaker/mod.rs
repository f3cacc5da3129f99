//! Circuit breaker: leaves alone what fails or is slow, and finds out when it is well again.
//!
//! # Algorithm
//! The state machine is Michael Nygard's ("Release It!", 2007): *closed*, requests pass and their results are
//! counted; *open*, none pass; *half open*, a few pass to see how it goes. Rates over a sliding window, slow
//! calls among them, and a bound on half-open calls are resilience4j's; ejection times that grow are those of
//! Envoy's outlier detection; a recovery in steps is Traefik's. Ours differs in that
//!
//! - each of three trips opens **alone**, slow calls without any error as well, and every result is judged, not
//!   failures only;
//! - probes are **reserved**: with 500 callers at the moment it may be tried again, as many as
//!   [`probes`](CircuitBreakerConfig::probes) pass, whoever they are; one that is dropped gives its place back,
//!   and ones that hang lose theirs, so it is never half open for good;
//! - it is entered in `call`, so being ready takes no place and a state that changes breaks no promise;
//! - a request is over when its response **body** is: what breaks off half-way is a failure.
//!
//! # Decision
//! 1. It is *closed*, or forced closed: pass. Nothing is written.
//! 2. It is *open* and its time is over: it becomes *half open*, and this one passes as the first probe.
//! 3. It is *half open* and fewer probes are at work than may be: pass as one more. Or there is no place, and
//!    the last was taken [`probe_timeout`](CircuitBreakerConfig::probe_timeout) ago: whoever has one hangs and has
//!    lost it, and this one passes.
//! 4. It *recovers*, for [`ramp`](CircuitBreakerConfig::ramp) after it was open: a share passes that grows from
//!    5 % to all, by count and not by chance, as in [`Enforce::Percent`].
//! 5. Else `503` with [`Reason::CircuitOpen`](crate::reject::Reason::CircuitOpen), and what is behind is not
//!    touched. `Retry-After` is the time until it may be tried again (half open: until probes lose their places,
//!    at most [`open`](CircuitBreakerConfig::open); recovering: until all pass). Forced open it says none.
//!
//! And when it is known how a request went ([`classify`](crate::classify) says how):
//!
//! 1. Neutral, or it was let in during an earlier epoch: nothing, but that a probe gives its place back.
//! 2. A probe that failed, or was slow where slow calls count: *open* again, up to twice as long each time, at
//!    most [`open_max`](CircuitBreakerConfig::open_max). The time is drawn evenly from between `open` and that, so
//!    that not all come back at once.
//! 3. A probe that went well, and enough of them have: *closed* with an empty window, or first *recovering*.
//! 4. Any other: it is counted, and opens if there are [`consecutive`](CircuitBreakerConfig::consecutive)
//!    failures in a row; or at least [`min_requests`](CircuitBreakerConfig::min_requests) in the window, of which
//!    [`failure_rate`](CircuitBreakerConfig::failure_rate) have failed, or the rate of
//!    [`slow_call`](CircuitBreakerConfig::slow_call) were slow.
//!
//! A failure is known with the head, where that says so; a success when the body has ended. For services whose
//! responses go on for minutes, or are left by clients and not finished, such as events, [`Until::Head`] takes
//! a good head for a success; with [`Until::End`] they would say nothing, or too late. **Slow** is measured to the head, unless told otherwise:
//! how long a body takes is for a good part the client's doing. Timeouts belong *inside* of a breaker: what is
//! given up from outside is neutral, so behind a breaker alone what hangs opens nothing.
//!
//! # By key
//! [`keyed`](CircuitBreakerLayer::keyed): each key has a breaker, such as each restaurant behind one service.
//! Requests without a key share one. At the bound a new key takes the place of an idle breaker (closed, with an
//! empty window; or open, and its time was over for as long as it can be open at most), else of the closed one
//! that is longest unused; 32 are looked at. None of those: the new key passes and has none. An open one is
//! never forgotten for a new key.
//!
//! # By endpoint
//! A [`Breaker`] is a [`Gate`](crate::gate::Gate) that a balancer asks *before* it chooses, so that an open one costs
//! no request: [`EndpointBreakers`] has one for each address. It is what Envoy calls outlier detection, and with
//! [`max_ejected`](crate::balance::BalanceConfig::max_ejected) no more endpoints are taken out than the rest can
//! bear.
//!
//! # Units and limits
//! Rates in percent; times to the millisecond, at most a year. Probes at once and successes: 1 to 15. A window is
//! a ring of ten buckets, so it has its newest nine tenths exactly, and the tenth before those in part; of more
//! than 4,095 results in one bucket it has the shares, and `min_requests` is at most 2,000. A breaker has about 150
//! bytes, and nothing is allocated for a request (by key: for a new one).
//!
//! # State
//! All services made from one layer, and their clones, share one breaker (or one for each key), and so do layers
//! made by [`reconfigured`](CircuitBreakerLayer::reconfigured): the first request under a new configuration puts it
//! in force for all. The phase is kept, the window too unless it has another shape, and an open time that was
//! drawn stays. Without keys no lock is taken. What is exact and what is not while several write at once: phases,
//! probes and failures in a row are exact; a rate can be off by as many results as there are callers writing at
//! that moment, and is right with the last of them.
//!
//! [`force_open`](Breaker::force_open), [`force_close`](Breaker::force_close), [`release`](Breaker::release) and
//! [`reset`](Breaker::reset) are on the handle, [`breaker`](CircuitBreakerLayer::breaker).
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged, and is a failure. Never panics, unless a function of the caller's
//! does. Needs no timer.
//!
//! # Example
//! ```
//! # use http::{Request, Response, StatusCode};
//! # use http_body_util::Empty;
//! # use tower::{Layer, ServiceExt};
//! use naka::circuit_breaker::{CircuitBreakerConfig, CircuitBreakerLayer, Phase};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let broken = tower::service_fn(|_: Request<()>| async {
//! #     let mut response = Response::new(Empty::<bytes::Bytes>::new());
//! #     *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
//! #     Ok::<_, ()>(response) });
//! let layer = CircuitBreakerLayer::new(CircuitBreakerConfig::new().consecutive(2));
//! let service = layer.layer(broken);
//!
//! for _ in 0..2 {
//!     assert_eq!(service.clone().oneshot(Request::new(())).await.unwrap().status(), 500);
//! }
//! let refused = service.oneshot(Request::new(())).await.unwrap(); // Nobody was asked.
//! assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"60".parse().unwrap()));
//! layer.breaker().unwrap().reset();
//! # }
//! ```
//!
//! One for each restaurant, and a breaker without a layer:
//! ```
//! # use std::time::Duration;
//! use naka::{
//!     circuit_breaker::{Breaker, CircuitBreakerConfig, CircuitBreakerLayer, Preset, SlowCall, Window},
//!     classify::Outcome, clock::Now, gate::Availability, key::Key, reject::Head,
//! };
//!
//! let by_restaurant = |head: &Head<'_>| head.uri.path().strip_prefix("/restaurants/").map(Key::of);
//! let layer = CircuitBreakerLayer::keyed(Preset::FOOD_DELIVERY.config, by_restaurant);
//! # drop(layer);
//!
//! let config = CircuitBreakerConfig::new()
//!     .window(Window::Time(Duration::from_secs(10)), 20)
//!     .slow_call(SlowCall::new(Duration::from_secs(8), 80));
//! let breaker = Breaker::new(config);
//! if breaker.availability(Now::read()) == Availability::Ready {
//!     let pass = breaker.enter(Now::read())?;
//!     pass.settle(Outcome::Success);
//! }
//! # Ok::<_, naka::reject::Rejection>(())
//! ```

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

mod breaker;
mod cell;
mod config;
mod endpoints;
#[cfg(all(test, naka_loom))]
mod models;
mod phase;
mod preset;
mod saved;
mod table;
mod window;

use breaker::Shared;
pub use breaker::{Breaker, Pass, Snapshot, Transition};
pub use config::{CircuitBreakerConfig, SlowCall, Until, Window};
pub use endpoints::EndpointBreakers;
use phase::Entry;
pub use phase::{MAX_PROBES, Phase};
pub use preset::Preset;
pub use saved::{Saved, SavedCell};
pub use window::{Cause, Counts, MAX_MIN_REQUESTS};

#[cfg(doc)]
use crate::enforce::Enforce;
use crate::{
    clock::Now,
    explain::{Explain, Finding},
    guard::Guarded,
    key::Key,
    layered::layered,
    observe::Observer,
    reject::{Head, Rejection},
    saved::Unfit,
};

/// Applies [`CircuitBreaker`]; see the [module docs](self) for an example.
#[must_use]
pub struct CircuitBreakerLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

impl CircuitBreakerLayer {
    /// One breaker for all requests.
    pub fn new(config: CircuitBreakerConfig) -> Self {
        Self::observed(config, ())
    }

    /// A breaker for each key.
    pub fn keyed(
        config: CircuitBreakerConfig,
        key: impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        Self::new(config).keyed_by(key)
    }
}

impl<O: Observer> CircuitBreakerLayer<O> {
    /// As [`new`](CircuitBreakerLayer::new), and tells `observer` what it does.
    pub fn observed(config: CircuitBreakerConfig, observer: O) -> Self {
        Self::of(Shared::new(config, observer))
    }

    /// A new breaker for each key, in place of what there was.
    pub fn keyed_by(self, key: impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static) -> Self
    where
        O: Clone,
    {
        let key: Arc<breaker::KeyFn> = Arc::new(key);
        self.map(|old| old.keyed(Arc::clone(&key)))
    }

    /// A layer that is not there, and has no state.
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
        self.map(|old| old.named(name))
    }

    /// The same breakers under another configuration, which takes effect with its first request. Phases stay,
    /// and so do windows, unless their shape is another.
    pub fn reconfigured(&self, config: &CircuitBreakerConfig) -> Self
    where
        O: Clone,
    {
        self.map(|old| old.reconfigured(config))
    }

    /// The breaker; where each key has one, that of requests without a key. `None` if the layer is off.
    pub fn breaker(&self) -> Option<Breaker<O>> {
        let shared = Arc::clone(self.shared.as_ref()?);
        Some(Breaker { cell: Arc::clone(&shared.account.cell), shared, key: None })
    }

    /// The breaker of a key, which is made if it has none and there is room.
    pub fn breaker_of(&self, key: Key) -> Option<Breaker<O>> {
        let shared = Arc::clone(self.shared.as_ref()?);
        let (table, now_ns) = (shared.account.table.as_ref()?, shared.now_ns(Now::read()));
        let cell = shared.in_force(|rule| table.get(key, rule, now_ns))?;
        Some(Breaker { cell, shared, key: Some(key) })
    }

    /// Keys that have a breaker, and those of them whose breaker is not closed.
    pub fn keys(&self) -> (usize, usize) {
        let table = self.shared.as_ref().and_then(|shared| shared.account.table.as_ref());
        table.map_or((0, 0), table::Table::len)
    }

    /// What another process needs to go on with its breakers; `None` if the layer is off.
    pub fn save(&self, now: Now) -> Option<Saved> {
        Some(self.save_most(usize::MAX, now)?.0)
    }

    /// As [`save`](Self::save), but at most so many keys, [those that have the most to say](Saved::shorten), and how
    /// many are left out. It never has many more in hand.
    pub fn save_most(&self, keys: usize, now: Now) -> Option<(Saved, usize)> {
        self.shared.as_ref().map(|shared| shared.save(keys, now))
    }

    /// Goes on with what was [saved](Self::save) `age` ago, as if it had been [reconfigured](Self::reconfigured) from
    /// there to here.
    ///
    /// # Errors
    /// If it is off, or is of keys that it has not, or has seen a request.
    pub fn restore(&self, saved: &Saved, age: Duration, now: Now) -> Result<(), Unfit> {
        self.shared.as_ref().ok_or(Unfit::NotNew)?.restore(saved, age, now)
    }

    /// Whether each key has a breaker of its own.
    pub fn is_keyed(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.account.table.is_some())
    }

    fn of(shared: Shared<O>) -> Self {
        Self { shared: Some(Arc::new(shared)) }
    }

    fn map(&self, change: impl Fn(&Shared<O>) -> Shared<O>) -> Self {
        self.shared.as_deref().map_or_else(Self::off, |shared| Self::of(change(shared)))
    }
}

impl<O> fmt::Debug for CircuitBreakerLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.shared.as_ref().map(|shared| (&shared.name, shared.config));
        f.debug_tuple("CircuitBreakerLayer").field(&known).finish()
    }
}

layered! {
    /// Leaves alone what fails or is slow; see the [module docs](self).
    CircuitBreakerLayer { shared } => CircuitBreaker
}

impl<O: Observer> Explain for CircuitBreakerLayer<O> {
    fn kind(&self) -> &'static str {
        "circuit_breaker"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.is_on()) else {
            return Finding::Off;
        };
        let (entry, snapshot) = shared.look(&Head::from(&*head), now);
        match entry {
            Entry::Pass => Finding::Admit(snapshot.to_string()),
            Entry::Probe => Finding::Admit(format!("{snapshot}; this would be a probe")),
            Entry::Refuse(wait_ms) if shared.account.rejections.peek(shared.config.enforce) => {
                Finding::Reject(shared.rejection(wait_ms))
            }
            Entry::Refuse(wait_ms) => Finding::Observe(shared.rejection(wait_ms)),
        }
    }
}

impl<S, O, B, R> Service<Request<B>> for CircuitBreaker<S, O>
where
    S: Service<Request<B>, Response = Response<R>>,
    O: Observer,
    R: Body + Default,
{
    type Response = Response<Guarded<R, Pass<O>>>;
    type Error = S::Error;
    type Future = CircuitBreakerFuture<S::Future, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(shared) = self.layer.shared.as_ref().filter(|shared| shared.is_on()) else {
            return CircuitBreakerFuture::Work { future: self.inner.call(request), pass: None };
        };
        let now = shared.now(request.extensions());
        match shared.arrive(&Head::from(&request), now) {
            Ok(pass) => CircuitBreakerFuture::Work { future: self.inner.call(request), pass: Some(pass) },
            Err(rejection) => CircuitBreakerFuture::Reject { rejection: Some(rejection) },
        }
    }
}

pin_project! {
    /// The future of [`CircuitBreaker`].
    #[project = Projection]
    pub enum CircuitBreakerFuture<F, O>
    where
        O: Observer,
    {
        /// Let in.
        #[doc(hidden)]
        Work { #[pin] future: F, pass: Option<Pass<O>> },
        /// Refused.
        #[doc(hidden)]
        Reject { rejection: Option<Rejection> },
    }
}

impl<F, O, R, E> Future for CircuitBreakerFuture<F, O>
where
    F: Future<Output = Result<Response<R>, E>>,
    O: Observer,
    R: Body + Default,
{
    type Output = Result<Response<Guarded<R, Pass<O>>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projection::Work { future, pass } => {
                let result = ready!(future.poll(cx));
                let mut pass = pass.take();
                if let Some(pass) = &mut pass {
                    pass.answered(&result);
                }
                let pass = pass.filter(|pass| !pass.is_settled()); // The body has nothing more to say.
                Poll::Ready(result.map(|response| response.map(|body| Guarded::new(body, pass))))
            }
            Projection::Reject { rejection } => {
                let rejection = rejection.take().expect("a future is not polled after it is ready");
                Poll::Ready(Ok(rejection.into_response()))
            }
        }
    }
}

impl<F, O: Observer> fmt::Debug for CircuitBreakerFuture<F, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerFuture").finish_non_exhaustive()
    }
}
