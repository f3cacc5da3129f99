//! A world in virtual time: servers that take time and fail, callers who come at random, and an account of it all.
//!
//! Everything by chance follows from one seed, and there is one thread: a run that went wrong goes wrong again.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use naka::{
    balance::Endpoint,
    reject::{Reason, Rejection},
    retry::Replay,
};
use naka_gateway::simulate::chance::Chance;
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tower::{Service, ServiceExt, util::BoxCloneService};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The longest that something by chance takes, in mean times.
const LONGEST: f64 = 20.0;

/// What a server does just now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Well,
    /// So many times as long for each request.
    Slow(f64),
    /// Such a share of requests ends in 500, at once.
    Fails(f64),
    /// Nobody listens.
    Refuses,
    /// It takes requests and does nothing.
    Hangs,
}

/// One server: so many workers, each busy with one request for a while, and a queue in front of them. It does not
/// notice who has given up: work that was begun, or waits, is done.
pub(crate) struct Server {
    workers: Arc<Semaphore>,
    takes: Duration,
    mode: Mutex<Mode>,
    chance: Chance,
    pub(crate) came: AtomicU64,
}

impl Server {
    pub(crate) fn new(workers: usize, takes: Duration, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            workers: Arc::new(Semaphore::new(workers)),
            takes,
            mode: Mutex::new(Mode::Well),
            chance: Chance::new(seed),
            came: AtomicU64::new(0),
        })
    }

    pub(crate) fn is(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    pub(crate) fn came(&self) -> u64 {
        self.came.load(SeqCst)
    }

    /// One request, as whoever speaks HTTP would tell it: within `patience`.
    async fn ask(self: &Arc<Self>, patience: Duration) -> Response<Full<Bytes>> {
        let mode = *self.mode.lock().unwrap();
        if mode == Mode::Refuses {
            return Rejection::new(Reason::ConnectFailed).into_response();
        }
        self.came.fetch_add(1, SeqCst);
        let (takes, share) = (self.chance.around(self.takes, LONGEST), self.chance.share());
        let (tell, told) = oneshot::channel();
        let workers = Arc::clone(&self.workers);
        tokio::spawn(async move {
            let status = match mode {
                Mode::Fails(rate) if share <= rate => 500,
                Mode::Hangs => pending().await,
                Mode::Slow(times) => work(&workers, takes.mul_f64(times)).await,
                _ => work(&workers, takes).await,
            };
            let _ = tell.send(status);
        });
        match timeout(patience, told).await {
            Ok(Ok(status)) => Response::builder().status(status).body(Full::from("done")).unwrap(),
            Ok(Err(_)) => Rejection::new(Reason::UpstreamReset).into_response(),
            Err(_) => Rejection::new(Reason::ResponseTimeout).into_response(),
        }
    }
}

async fn work(workers: &Semaphore, takes: Duration) -> u16 {
    let _worker = workers.acquire().await.unwrap();
    sleep(takes).await;
    200
}

/// Servers, by address.
#[derive(Clone, Default)]
pub(crate) struct Fleet(Arc<HashMap<String, Arc<Server>>>);

impl Fleet {
    /// `node_0`, `node_1`, …, all alike.
    pub(crate) fn alike(count: u64, workers: usize, takes: Duration, seed: u64) -> Self {
        let node = |number| (format!("node_{number}"), Server::new(workers, takes, seed ^ (number << 32)));
        Self(Arc::new((0..count).map(node).collect()))
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        (0..self.0.len()).map(|number| format!("node_{number}")).collect()
    }

    pub(crate) fn node(&self, number: usize) -> &Arc<Server> {
        &self.0[&format!("node_{number}")]
    }

    pub(crate) fn came(&self) -> u64 {
        self.0.values().map(|server| server.came()).sum()
    }

    /// Sends each request where a balancer above says.
    pub(crate) fn client(
        &self,
        patience: Duration,
    ) -> impl Service<
        Request<Replay<Empty<Bytes>>>,
        Response = Response<Full<Bytes>>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static {
        let fleet = self.clone();
        tower::service_fn(move |request: Request<Replay<Empty<Bytes>>>| {
            let address = Endpoint::of(request.extensions()).unwrap().address().to_string();
            let server = Arc::clone(&fleet.0[&address]);
            async move { Ok(server.ask(patience).await) }
        })
    }
}

/// A whole stack: a request in, a status out once its body has ended.
pub(crate) type Stack = BoxCloneService<Request<Empty<Bytes>>, StatusCode, Infallible>;

pub(crate) fn stack<S, B>(service: S) -> Stack
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    B: http_body::Body<Data: Send, Error: std::fmt::Debug> + Send + 'static,
{
    BoxCloneService::new(service.and_then(|response: Response<B>| async move {
        let (head, body) = response.into_parts();
        let _ = body.collect().await;
        Ok(head.status)
    }))
}

/// What became of the requests that came in one second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Second {
    pub(crate) asked: u64,
    pub(crate) good: u64,
    /// In milliseconds, of those that were good.
    pub(crate) took: Vec<u64>,
    /// Requests that came to any server in this second.
    pub(crate) came: u64,
}

/// One run, second by second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) name: &'static str,
    pub(crate) seconds: Vec<Second>,
}

impl Run {
    pub(crate) fn asked(&self) -> u64 {
        self.seconds.iter().map(|second| second.asked).sum()
    }

    pub(crate) fn failed(&self) -> u64 {
        self.seconds.iter().map(|second| second.asked - second.good).sum()
    }

    /// Of those from one second to before another: how many percent were good.
    pub(crate) fn good_percent(&self, from: usize, to: usize) -> f64 {
        let (asked, good) =
            self.seconds[from..to].iter().fold((0, 0), |(a, g), it| (a + it.asked, g + it.good));
        percent(good, asked)
    }

    /// Requests that came to servers for each hundred that were asked for.
    pub(crate) fn load_percent(&self, from: usize, to: usize) -> f64 {
        let (asked, came) =
            self.seconds[from..to].iter().fold((0, 0), |(a, c), it| (a + it.asked, c + it.came));
        percent(came, asked)
    }

    /// In milliseconds, of those that were good, from one second to before another.
    pub(crate) fn took_ms(&self, quantile: f64, from: usize, to: usize) -> u64 {
        let mut all =
            self.seconds[from..to].iter().flat_map(|second| &second.took).copied().collect::<Vec<_>>();
        all.sort_unstable();
        if all.is_empty() {
            return 0;
        }
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let place = ((all.len() - 1) as f64 * quantile).round() as usize;
        all[place]
    }
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// Callers who come at random, so many a second on average, and know nothing of one another; `at` is told each second
/// before its callers come.
pub(crate) async fn run(
    name: &'static str,
    (stack, fleet): (Stack, &Fleet),
    (seconds, per_second): (usize, f64),
    seed: u64,
    mut at: impl FnMut(usize),
) -> Run {
    let (began, chance) = (Instant::now(), Chance::new(seed));
    let account = Arc::new(Mutex::new(vec![Second::default(); seconds]));
    let (mut tasks, mut came) = (JoinSet::new(), fleet.came());
    let mut next = began;
    for second in 0..seconds {
        at(second);
        let ends = began + SECOND * u32::try_from(second + 1).unwrap();
        loop {
            next += chance.around(SECOND.div_f64(per_second), LONGEST);
            if next >= ends {
                break;
            }
            sleep_until(next).await;
            account.lock().unwrap()[second].asked += 1;
            let (stack, account) = (stack.clone(), Arc::clone(&account));
            tasks.spawn(async move {
                let began = Instant::now();
                let status = stack.oneshot(Request::new(Empty::new())).await.unwrap();
                if status == 200 {
                    let second = &mut account.lock().unwrap()[second];
                    second.good += 1;
                    second.took.push(u64::try_from(began.elapsed().as_millis()).unwrap());
                }
            });
        }
        sleep_until(ends).await;
        let now = fleet.came();
        account.lock().unwrap()[second].came = now - came;
        came = now;
    }
    while tasks.join_next().await.is_some() {}
    let seconds = std::mem::take(&mut *account.lock().unwrap());
    Run { name, seconds }
}
