//! One limit for several processes: a [`Store`] outside of them has the account of each key.
//!
//! # Decision
//! 1. A node that holds a lease on a key spends it, and asks nobody.
//! 2. One that knows that the store has refused a key refuses until the wait is over, for 10 seconds at most. A client
//!    beyond its limit makes the store no work.
//! 3. Else it asks: for what the requests that wait need, and for a key that is busy for up to
//!    [`lease`](Sharing::lease) more, which may be spent for a second. What is left of it then is given back with the next
//!    question within another second, and else lost. There is one question for each key at a time; who comes
//!    meanwhile waits for the same answer.
//! 4. A store that does not answer within its [`timeout`](SharedStore::new) is left alone for 250 milliseconds, twice as
//!    long each time and 5 seconds at most, and then asked by one request. Meanwhile [`OnFailure`] decides. What is
//!    admitted so is told with the next question of its key.
//!
//! # Bounds
//! In any stretch of time `t` all nodes together admit of one key at most
//! - `burst + count * t / per`, which the store grants,
//! - `nodes * lease`, which had been granted before, as had what requests need that wait for an answer just then,
//! - and if the store was away in it, or had lost what it knew, `share * (burst + count * t / per)` for each node
//!   with [`OnFailure::Share`].
//!
//! After the store has lost what it knew, a key counts as spent at that time and comes back at the limit's rate: nobody is
//! refilled. What a node would be refused for that alone, its share decides. A store that is new has lost everything, too:
//! for the first refill of a limit the shares decide.
//!
//! Each tier of a key has a lease of its own. A caller that goes while it asks loses what it asked for, with what it asked
//! for others that wait: too few are admitted then, and never too many. At
//! [`max_keys`](super::RateLimitConfig::max_keys) the lease or the debt of the key that came first is given up. If it
//! and the next one are being asked about, the new one is decided as if the store was away.
//!
//! The store counts by GCRA, whatever the [`Algorithm`](super::Algorithm) of the share.
//!
//! # Example
//! Three nodes, and a store that all of them ask:
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use naka::{key::KeyBuilder, key::KeySecret, rate_limit::{RateLimitConfig, RateLimitLayer, Window}};
//! use naka::rate_limit::shared::{InMemory, SharedStore, Sharing};
//!
//! let store = SharedStore::new(Arc::new(InMemory::new()), Duration::from_millis(50));
//! // The same on every node: else each has other keys.
//! let secret = KeySecret::new(*b"as on all others");
//! let by_api_key = move |head: &naka::reject::Head<'_>| {
//!     let key = head.headers.get("x-api-key")?;
//!     Some(KeyBuilder::with(secret).part(key).finish())
//! };
//! let layer = RateLimitLayer::new(RateLimitConfig::new(Window::per_minute(100)), by_api_key)
//!     .named(&"api".into())
//!     .shared(&Sharing::new(store, 34));
//! # drop(layer);
//! ```

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

mod leases;
mod store;
mod twin;

pub(super) use leases::{Hold, Leases, Look, Need, Taken};
pub use store::SharedStore;
pub use twin::{Account, InMemory, take};

use super::gcra::{Quota, Window};

/// What a store is asked, on its way.
pub type Asked = Pin<Box<dyn Future<Output = Result<Answer, Unanswered>> + Send>>;

/// Has the accounts of all keys.
///
/// What it does with a question is what [`take`] does.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Takes what is asked for out of all windows, or out of none. The future may be dropped at any time.
    fn ask(&self, ask: Ask) -> Asked;
}

/// What is asked of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ask {
    /// Of which limit.
    pub limit: Arc<str>,
    /// The number of the key.
    pub key: u64,
    /// What it is counted by: 1 to [`MAX_WINDOWS`](super::MAX_WINDOWS).
    pub windows: Arc<[Shape]>,
    /// The most that is wanted.
    pub wanted: u32,
    /// If there is less, nothing is taken; at least 1.
    pub least: u32,
    /// What was admitted without the store; it is charged in any case.
    pub owed: u32,
    /// What was granted earlier and is not used.
    pub back: u32,
}

impl Ask {
    /// For so much, or nothing.
    pub const fn new(limit: Arc<str>, key: u64, windows: Arc<[Shape]>, wanted: u32) -> Self {
        Self { limit, key, windows, wanted, least: wanted, owed: 0, back: 0 }
    }
}

/// A window, as a store counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shape {
    /// In nanoseconds. An account has one word for each period.
    pub per_ns: u64,
    /// So many requests in that time.
    pub count: u32,
    /// And so many at once.
    pub burst: u32,
    /// What whoever asks has of the rate, in percent.
    pub percent: u32,
    /// What whoever asks has at once.
    pub most: u32,
}

impl Shape {
    /// `count` in `per_ns`, and `burst` at once.
    pub const fn new(per_ns: u64, count: u32, burst: u32) -> Self {
        Self { per_ns, count, burst, percent: 100, most: burst }
    }

    /// The windows of a quota that has so many percent of another one.
    pub(super) fn all(whole: &Quota, scaled: &Quota, percent: u32) -> Arc<[Self]> {
        let all = whole.windows().iter().zip(scaled.windows());
        let shape = |(whole, scaled): (&Window, &Window)| {
            let (_, count, per_ns, burst) = whole.said();
            let (.., most) = scaled.said();
            Self { per_ns: per_ns.max(1), count, burst, percent, most }
        };
        all.map(shape).collect()
    }
}

/// What a store says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// So many; 0 is a refusal.
    pub granted: u32,
    /// After so long there would be as many as asked for at least; `None` if there never are.
    pub wait: Option<Duration>,
    /// It may have lost what it knew, so recently that this decides.
    pub is_young: bool,
    /// For each window: how many are left, and when all of them are.
    pub windows: Vec<(u64, Duration)>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unanswered {
    /// It could not be reached, did not answer in time, or what it said made no sense.
    Failed,
    /// Too many questions are under way. It is not left alone for that.
    Busy,
}

/// Who decides when a store does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// This node's own account, of its share.
    #[default]
    Share,
    /// Everybody passes. What the store refuses because it has lost what it knew, the share decides.
    Open,
    /// Nobody does: `503`, [`Reason::LimitUnavailable`](crate::reject::Reason::LimitUnavailable). What the store
    /// refuses because it has lost what it knew is refused.
    Closed,
}

/// How a limit is shared.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sharing {
    /// With whom: whoever asks the same store for a limit of the same name.
    pub store: SharedStore,
    /// This node's part of the quota, in percent of rate and burst; 0 counts as 1.
    pub share: u32,
    /// The most that is held of a key; default 5.
    pub lease: u32,
    /// Who decides when the store does not; default [`OnFailure::Share`].
    pub on_failure: OnFailure,
}

impl Sharing {
    /// This node has so many percent of the quota while the store is away: a third for one of three.
    pub const fn new(store: SharedStore, share: u32) -> Self {
        Self { store, share, lease: 5, on_failure: OnFailure::Share }
    }

    /// Holds at most so many of a key. With 0 every request asks.
    #[must_use]
    pub const fn lease(mut self, lease: u32) -> Self {
        self.lease = lease;
        self
    }

    /// Who decides when the store does not.
    #[must_use]
    pub const fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }
}
