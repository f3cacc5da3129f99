//! Redis, or Valkey, by its own client: one connection, which all workers use, and who keeps it.
//!
//! | What is met | What is done |
//! | --- | --- |
//! | No connection, or a wrong password | Tried again after 100 ms to 5 s; meanwhile whoever asks is told at once |
//! | An answer that does not come | After the store's `timeout` whoever asked goes on; the server has [`CONNECT`] for a question that means nothing, else the connection is made anew. That is asked each second besides: a store that answers it in time is asked by requests again |
//! | A server that was started anew, or another one | Its run is a new one: see the script |
//! | A replica, a cluster, a server that drops keys when memory is short | Not asked: what it says could not be relied on |
//! | A script that cannot run: too little memory, a user that may not | No connection counts before it has run once |
//! | A script that is not known | It is loaded |
//! | Another secret | Not asked, and said: keys would be other ones |

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use naka::{
    random::seed,
    rate_limit::shared::{Answer, Ask, Asked, SharedStore, Store as Accounts, Unanswered},
};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisConnectionInfo,
    RedisError, Script, aio::MultiplexedConnection,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{CONNECT, Trouble};
use crate::{
    config::checked::{Name, Store},
    seldom::Seldom,
};

/// Questions that are under way at once.
const MAX_ASKED: usize = 1024;
/// Between two looks at a connection.
const LOOK: Duration = Duration::from_secs(1);
/// A connection that is lost sooner was none.
const LIVED: Duration = Duration::from_secs(10);
/// Between two attempts to connect.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));

/// A server.
pub(super) struct Redis {
    name: Name,
    address: String,
    client: Result<Client, RedisError>,
    /// What tells secrets apart.
    check: String,
    link: ArcSwapOption<Link>,
    asked: Arc<AtomicUsize>,
    /// How long a question to it may take.
    timeout: Duration,
    trouble: Trouble,
}

/// Whoever keeps the connection should look at it.
#[derive(Default)]
struct Doubt {
    told: Notify,
    /// It has answered, and cannot do what it should.
    is_wrong: AtomicBool,
}

/// A connection, and whose run is at its other end.
struct Link {
    connection: MultiplexedConnection,
    run: String,
    doubt: Doubt,
}

impl Redis {
    /// Nothing is connected.
    pub(super) fn new(name: &Name, store: &Store, trouble: Trouble) -> Self {
        let mut settings = RedisConnectionInfo::default().set_db(store.database.into());
        if let Some(password) = &store.password {
            settings = settings.set_password(String::from_utf8_lossy(password.bytes()));
        }
        if let Some(username) = &store.username {
            settings = settings.set_username(username);
        }
        let address = ConnectionAddr::Tcp(store.host.to_string(), store.port);
        let info = address.into_connection_info().map(|info| info.set_redis_settings(settings));
        Self {
            name: Arc::clone(name),
            address: format!("{}:{}", store.host, store.port),
            client: info.and_then(Client::open),
            check: format!("{:016x}", store.secret.check()),
            link: ArcSwapOption::empty(),
            asked: Arc::default(),
            timeout: store.timeout.max(CONNECT),
            trouble,
        }
    }

    async fn connect(&self) -> Result<(Link, Duration), String> {
        let client = self.client.as_ref().map_err(said)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(self.timeout))
            .set_pipeline_buffer_size(MAX_ASKED);
        let connected = timeout(CONNECT * 2, client.get_multiplexed_async_connection_with_config(&config));
        let mut connection =
            connected.await.map_err(|_| "no connection in time".to_owned())?.map_err(|it| said(&it))?;
        let info = redis::cmd("INFO").query_async::<String>(&mut connection).await.map_err(|it| said(&it))?;
        let is = |key: &str| {
            info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
        };
        if is("cluster_enabled") == Some("1") {
            return Err("it is a cluster, and a limit wants one server".to_owned());
        }
        if is("role").is_some_and(|role| role != "master") {
            return Err("it is a replica: the primary has to be asked".to_owned());
        }
        if let (Some(bytes), Some(policy)) = (is("maxmemory"), is("maxmemory_policy"))
            && bytes != "0"
            && policy != "noeviction"
        {
            return Err(format!(
                "it drops keys when memory is short (`maxmemory-policy {policy}`): say `noeviction`"
            ));
        }
        let mark = redis::cmd("GET").arg(EPOCH).query_async::<Option<String>>(&mut connection).await;
        let mark = mark.map_err(|it| said(&it))?.unwrap_or_default();
        if mark.split(' ').nth(2).is_some_and(|check| check != self.check) {
            return Err(SECRET.to_owned());
        }
        let run = is("run_id").ok_or("it does not say its `run_id`")?.to_owned();
        let link = Link { connection, run, doubt: Doubt::default() };
        // Whoever can be connected to may still not do what it should.
        let known_for = timeout(CONNECT, self.tried(&link)).await.map_err(|_| SILENT.to_owned())??;
        Ok((link, known_for))
    }

    /// Asks a question that means nothing, and writes as others do. For how long everything is known there.
    async fn tried(&self, link: &Link) -> Result<Duration, String> {
        let mut question = TAKE.prepare_invoke();
        question.key("naka:tried").key(EPOCH).arg(&link.run).arg(&self.check).arg([1, 1, 1, 0].as_slice());
        question.arg(1_000_000_u64).arg([1_u32, 1, 100, 1].as_slice());
        let mut connection = link.connection.clone();
        let numbers =
            question.invoke_async::<Vec<i64>>(&mut connection).await.map_err(|error| said(&error))?;
        // Behind an address there may be another server by now, to a proxy that keeps our side.
        let info = redis::cmd("INFO").arg("server").query_async::<String>(&mut connection).await;
        if !info.map_err(|error| said(&error))?.contains(&link.run) {
            return Err("another server answers".to_owned());
        }
        let [_, _, _, now, epoch, ..] = numbers[..] else {
            return Err("its answer makes no sense".to_owned());
        };
        Ok(Duration::from_micros(u64::try_from(now.saturating_sub(epoch)).unwrap_or(0)))
    }

    /// Looks at the connection when somebody doubts it, and now and then, as perhaps no request comes that would find out
    /// that it is lost, or there again. `false`: it is lost.
    async fn is_fine(&self, link: &Link, store: &SharedStore) -> bool {
        let is_doubted = timeout(LOOK, link.doubt.told.notified()).await.is_ok();
        if link.doubt.is_wrong.load(Relaxed) {
            return false;
        }
        if is_doubted {
            sleep(AGAIN[0]).await; // Whoever goes while it asks doubts, too: there may be many.
        }
        let began = Instant::now();
        let why = match timeout(CONNECT, self.tried(link)).await {
            Ok(Ok(_)) => None,
            Ok(Err(why)) => Some(why),
            Err(_) => Some(SILENT.to_owned()),
        };
        if why.is_none() && !is_doubted && !store.is_up() && began.elapsed() <= store.timeout() {
            store.answers_again();
        }
        let is_alive = why.is_none();
        if let Some(why) = why {
            self.trouble.failed(why);
        }
        is_alive
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Keeps a connection, for as long as it is not aborted.
pub(super) async fn keep(redis: Arc<Redis>, store: SharedStore) {
    let Redis { name, address, trouble, .. } = &*redis;
    let (often, mut failures, mut is_told) = (Seldom::new(), 0_u32, false);
    loop {
        match redis.connect().await {
            Ok((link, known_for)) => {
                let link = Arc::new(link);
                redis.link.store(Some(Arc::clone(&link)));
                trouble.set(None);
                store.answers_again();
                let again = if std::mem::take(&mut is_told) { " again" } else { "" };
                info!(store = %name, %address, ?known_for, "the store is reached{again}; limits that refill in more than `known_for` are kept by shares until then");
                let began = Instant::now();
                while redis.is_fine(&link, &store).await {}
                failures = if began.elapsed() < LIVED { failures.saturating_add(1) } else { 0 };
                redis.link.store(None);
                let why = trouble.last().unwrap_or_else(|| "the connection is lost".to_owned());
                trouble.set(Some(why));
            }
            Err(why) => {
                trouble.set(Some(why));
                failures = failures.saturating_add(1);
            }
        }
        if often.is_due()
            && let Some(why) = trouble.get()
        {
            is_told = true;
            warn!(store = %name, %address, %why, "limits do without their store; it is tried again");
        }
        sleep(pause(failures)).await;
    }
}

/// Doubles; half of it is by chance, so that many gateways do not come at once.
fn pause(failures: u32) -> Duration {
    let whole = AGAIN[0].saturating_mul(1 << failures.min(6)).min(AGAIN[1]);
    let percent = u32::try_from(seed() % 50).unwrap_or(0);
    whole / 2 + whole / 100 * percent
}

impl Accounts for Redis {
    fn ask(&self, ask: Ask) -> Asked {
        let Some(link) = self.link.load_full() else { return Box::pin(async { Err(Unanswered::Failed) }) };
        let Some(place) = Place::of(&self.asked) else { return Box::pin(async { Err(Unanswered::Busy) }) };
        let mut question = TAKE.prepare_invoke();
        question
            .key(format!("naka:limit:{}:{:016x}", ask.limit, ask.key))
            .key(EPOCH)
            .arg(&link.run)
            .arg(&self.check)
            .arg([ask.wanted, ask.least, ask.owed, ask.back].as_slice());
        for shape in &*ask.windows {
            question.arg(shape.per_ns).arg([shape.count, shape.burst, shape.percent, shape.most].as_slice());
        }
        let doubting = Doubting { link: Arc::clone(&link), is_over: false };
        let (trouble, mut connection) = (self.trouble.clone(), link.connection.clone());
        Box::pin(async move {
            let _place = place;
            let numbers = question.invoke_async::<Vec<i64>>(&mut connection).await;
            let answer = match numbers {
                Ok(numbers) => read(&numbers),
                Err(error) => {
                    trouble.failed(said(&error));
                    doubting.link.doubt.is_wrong.store(true, Relaxed);
                    None
                }
            };
            // Without an answer the connection is looked at, also if this is dropped.
            if answer.is_some() {
                doubting.allay();
            }
            answer.ok_or(Unanswered::Failed)
        })
    }
}

const SILENT: &str = "it does not answer in time";
/// Since when everything is known, whose run that is, and by which secret.
const EPOCH: &str = "naka:epoch";
const SECRET: &str = "another gateway hashes its keys with another secret: give all the same `secret`, or delete the key `naka:epoch` there, if this is the new one";

/// What the script says.
fn read(numbers: &[i64]) -> Option<Answer> {
    let [granted, wait, is_young, _, _, windows @ ..] = numbers else { return None };
    let micros = |number: i64| u64::try_from(number).ok().map(Duration::from_micros);
    let of = |pair: &[i64]| Some((u64::try_from(pair[0]).ok()?, micros(pair[1])?));
    Some(Answer {
        granted: u32::try_from(*granted).ok()?,
        wait: if *wait < 0 { None } else { micros(*wait) },
        is_young: *is_young != 0,
        windows: windows.chunks_exact(2).map(of).collect::<Option<_>>()?,
    })
}

/// One of the questions that may be under way.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn of(all: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(all));
        (all.fetch_add(1, Relaxed) < MAX_ASKED).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Tells whoever keeps the connection that somebody had no answer.
struct Doubting {
    link: Arc<Link>,
    is_over: bool,
}

impl Doubting {
    /// There is an answer.
    fn allay(mut self) {
        self.is_over = true;
    }
}

impl Drop for Doubting {
    fn drop(&mut self) {
        if !self.is_over {
            self.link.doubt.told.notify_one();
        }
    }
}

fn said(error: &RedisError) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS")) => {
            "it does not take the password".to_owned()
        }
        (_, Some("NOAUTH")) => "it wants a password".to_owned(),
        (_, Some("SECRET")) => SECRET.to_owned(),
        // What an unknown command was asked with is nobody's business.
        _ => error.to_string().split(", with args").next().unwrap_or_default().to_owned(),
    }
}
