//! A scenario, as `naka simulate` acts on it. Names of it are known to nobody yet: only the configuration knows what there is.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode, uri::PathAndQuery};

use super::Name;
use crate::config::Place;

/// What happens, and what has to come of it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The configuration at the beginning.
    pub gateway: PathBuf,
    /// How long it goes on.
    pub duration: Duration,
    /// What chance follows from.
    pub seed: u64,
    /// Who asks.
    pub loads: Vec<Load>,
    /// How upstreams behave.
    pub servers: Vec<(Named, Servers)>,
    /// Other configurations, in the order in which they take effect.
    pub changes: Vec<Change>,
    /// What has to hold.
    pub expectations: Vec<Expectation>,
}

/// A name, and where it stands.
#[derive(Clone, Debug)]
pub struct Named {
    /// It.
    pub name: Name,
    /// There.
    pub place: Place,
}

/// Requests of one sort.
#[derive(Clone, Debug)]
pub struct Load {
    /// Its name, and where that stands.
    pub named: Named,
    /// The method.
    pub method: Method,
    /// The host, with its port if it was written.
    pub host: Arc<str>,
    /// Path and query.
    pub target: PathAndQuery,
    /// Its headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The size of its body.
    pub body: usize,
    /// The listener, if it was named.
    pub listener: Option<Named>,
    /// The mean time from one request to the next.
    pub every: Duration,
    /// From so many addresses.
    pub clients: u32,
    /// After so long they give up.
    pub patience: Duration,
    /// When they come.
    pub during: During,
}

/// From one time to before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct During {
    /// From here.
    pub from: Duration,
    /// Before that.
    pub to: Duration,
}

impl During {
    /// Whether this is within it.
    pub fn contains(&self, at: Duration) -> bool {
        (self.from..self.to).contains(&at)
    }
}

/// How each endpoint of an upstream behaves.
#[derive(Clone, Debug)]
pub struct Servers {
    /// How long a request takes, on average.
    pub takes: Duration,
    /// So many at once; `None`: all.
    pub workers: Option<usize>,
    /// So many wait.
    pub queue: usize,
    /// What they answer with.
    pub status: StatusCode,
    /// And how much.
    pub body: usize,
    /// When they behave otherwise.
    pub troubles: Vec<Trouble>,
}

/// When servers behave otherwise.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// When.
    pub during: During,
    /// Which of them; all, if none is named.
    pub endpoints: Vec<Named>,
    /// How.
    pub how: Behaviour,
}

/// How a server differs from one that is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// Each request takes so many percent as long.
    pub slow: u32,
    /// So many percent of the requests fail at once.
    pub fail: u8,
    /// Nobody listens.
    pub refuses: bool,
    /// Nothing becomes of requests.
    pub hangs: bool,
}

impl Behaviour {
    /// All is well.
    pub const WELL: Self = Self { slow: 100, fail: 0, refuses: false, hangs: false };

    /// In both of these ways.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let slow = u64::from(self.slow) * u64::from(other.slow) / 100;
        Self {
            slow: u32::try_from(slow).unwrap_or(u32::MAX),
            fail: self.fail.max(other.fail),
            refuses: self.refuses || other.refuses,
            hangs: self.hangs || other.hangs,
        }
    }
}

/// Another configuration takes effect.
#[derive(Clone, Debug)]
pub struct Change {
    /// When.
    pub at: Duration,
    /// Which.
    pub gateway: PathBuf,
}

/// What has to hold for the requests that come in a time.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// Of this load; of all together.
    pub load: Option<Name>,
    /// In this time.
    pub during: During,
    /// At least so many percent are good.
    pub min_good: Option<u8>,
    /// At most so many percent are good.
    pub max_good: Option<u8>,
    /// 99 of 100 good ones take no longer.
    pub max_p99: Option<Duration>,
    /// Requests at servers for a hundred that come.
    pub max_amplification: Option<u32>,
    /// Where it stands.
    pub place: Place,
}
