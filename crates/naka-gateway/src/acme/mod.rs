//! Certificates that are ordered from an authority and renewed (RFC 8555), by whoever proves that the hosts are its own by
//! answering there (TLS-ALPN-01, RFC 8737).
//!
//! # What happens
//! 1. The same hosts at the same authority are one [`Automatic`]: it begins when a generation that names it is put in force,
//!    goes on through reloads, and ends when no generation has it any more.
//! 2. What is **kept** in the folder is shown at once, if it is a certificate for all of the hosts with its own key; otherwise it
//!    is set aside, and the log says why. A start and a reload wait for that, for three seconds at most.
//! 3. A certificate is **due** when two thirds of its time are over, and a little by chance; one that is not there is due at once, or five seconds after
//!    a start, when connections are accepted.
//!    What is shown meanwhile stays, also beyond its end: a client that looks away from that is better off than with nothing.
//! 4. Whoever holds the lock of the folder orders, all others look whether there is something new. So two processes, as while
//!    one takes over from the other, do not order twice.
//! 5. What **fails** is tried again after five minutes, then after twice as long each time up to six hours, and a quarter longer
//!    by chance; later if the authority says so (`Retry-After`), up to a day. A restart, or a change of what is written, tries at
//!    once.
//!
//! # Limits
//! An answer of the authority has 256 KiB at most and comes within 30 seconds; an order takes ten minutes at most. Files
//! of more than 1 MiB are not read. Each of this is tried again as any failure is.
//!
//! # Errors and panics
//! Nothing that goes wrong here keeps a listener from serving, or a reload from taking effect. All of it is in the log, the
//! metrics and at `/certificates`. No key is ever in any of them.

#[cfg(feature = "acme")]
mod authority;
#[cfg(any(feature = "acme", test))] // Numbers alone: tested in every build.
mod due;
#[cfg(feature = "acme")]
mod follow;
#[cfg(feature = "acme")]
mod kept;
#[cfg(feature = "acme")]
mod order;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use naka::clock::WallClock;
use tokio::{sync::watch, time::timeout};

use crate::{config::checked::Acme, observe::Metrics, state::Background, tls::Ordered, upstream::Connector};

/// What is kept of the text of a trouble, in bytes.
#[cfg(any(feature = "acme", test))]
const TEXT: usize = 1 << 10;

/// How long it is waited at the start, and by a reload, until what is kept has been looked at.
const LOOKED: Duration = Duration::from_secs(3);

/// Whether certificates are ordered, and by which time of day.
#[derive(Clone, Copy, Debug)]
pub enum Orders {
    /// They are.
    Placed(WallClock),
    /// Nothing is ordered, and no folder is looked at: for whoever only plays the gateway.
    Never,
}

impl Default for Orders {
    fn default() -> Self {
        Self::Placed(WallClock::system())
    }
}

/// A certificate that is ordered, under one configuration: where it is shown, and whoever sees to it.
#[derive(Clone)]
pub struct Automatic {
    shared: Arc<Shared>,
    number: u64,
    /// Whoever orders, as its configuration says.
    pub(crate) ordering: Arc<Background>,
}

/// What is needed besides the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    pub(crate) connector: Connector,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) orders: Orders,
}

/// What all configurations of one certificate share, one after the other.
struct Shared {
    ordered: Arc<Ordered>,
    /// Who is in charge: of two configurations the one that was put in force last.
    owner: AtomicU64,
    looked: watch::Sender<bool>,
    status: Mutex<Status>,
}

/// How a certificate is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Until when the one that is shown is valid, in seconds since 1970.
    pub valid_until_s: Option<u64>,
    /// What is done about it.
    pub doing: Doing,
    /// When that is done again, in seconds since 1970.
    pub again_s: Option<u64>,
    /// Orders that have failed since one has not.
    pub failures: u32,
    /// Why the last one has.
    pub last_error: Option<String>,
}

/// What is done about a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    /// It was not begun.
    #[default]
    Nothing,
    /// It is valid, and waits until it is due.
    Waiting,
    /// It is being ordered.
    Ordering,
    /// Another process has the lock of the folder, and may be at it.
    Elsewhere,
    /// The last order has failed.
    Failing,
}

impl Doing {
    /// The word at `/certificates`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Waiting => "waiting",
            Self::Ordering => "ordering",
            Self::Elsewhere => "elsewhere",
            Self::Failing => "failing",
        }
    }
}

impl Automatic {
    /// One that is new; nothing happens before it is started. Until its own certificate is there it shows that of another one,
    /// where that covers its hosts.
    pub(crate) fn new(acme: &Arc<Acme>, before: Option<&Self>, means: &Means) -> Self {
        let before = before.and_then(|it| it.shared.ordered.get());
        let shared = Arc::new(Shared {
            ordered: Ordered::new(&acme.domains, before),
            owner: AtomicU64::new(0),
            looked: watch::Sender::new(false),
            status: Mutex::default(),
        });
        Self::over(shared, acme, means)
    }

    /// The same certificate, ordered in another way. Nothing changes before it is started.
    pub(crate) fn changed(&self, acme: &Arc<Acme>, means: &Means) -> Self {
        Self::over(Arc::clone(&self.shared), acme, means)
    }

    fn over(shared: Arc<Shared>, acme: &Arc<Acme>, means: &Means) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Relaxed);
        let ordering = Background::new(work(Arc::clone(&shared), number, Arc::clone(acme), means));
        Self { shared, number, ordering }
    }

    /// This configuration counts from now on: whoever worked by another one stops after what it is at.
    pub(crate) fn put_in_force(&self) {
        self.shared.owner.store(self.number, Relaxed);
    }

    /// Where it is shown.
    pub(crate) fn ordered(&self) -> &Arc<Ordered> {
        &self.shared.ordered
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.shared.status().clone()
    }

    /// Waits until it is known what is kept in the folder, for three seconds at most.
    pub(crate) async fn looked(&self) {
        if self.shared.owner.load(Relaxed) == 0 {
            return;
        }
        let mut looked = self.shared.looked.subscribe();
        let _ = timeout(LOOKED, looked.wait_for(|looked| *looked)).await; // A disk may not answer.
    }
}

impl Shared {
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Automatic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Automatic").field("ordered", &self.shared.ordered).finish_non_exhaustive()
    }
}

#[cfg(feature = "acme")]
fn work(
    shared: Arc<Shared>,
    number: u64,
    acme: Arc<Acme>,
    means: &Means,
) -> impl Future<Output = ()> + Send + use<> {
    follow::follow(shared, number, acme, means.clone())
}

/// Nobody: this was built without, and says so where a file wants it.
#[cfg(not(feature = "acme"))]
fn work(shared: Arc<Shared>, _: u64, _: Arc<Acme>, means: &Means) -> impl Future<Output = ()> + Send + use<> {
    let _ = (means.orders, &means.connector, &means.metrics);
    async move {
        shared.looked.send_replace(true);
    }
}

/// In one short line: an authority may say anything.
#[cfg(any(feature = "acme", test))]
fn cut(text: &str) -> String {
    let text = text.replace(char::is_control, " ");
    text[..text.floor_char_boundary(TEXT)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_says_becomes_one_short_line() {
        let said = cut(&format!("no\r\n\u{1b}[2J{}", "ü".repeat(TEXT)));
        assert!(said.starts_with("no   [2J") && said.len() <= TEXT && !said.contains(char::is_control));
    }
}
