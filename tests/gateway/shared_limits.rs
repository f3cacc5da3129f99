//! Limits that several gateways share, with a real Redis: killed, stopped, emptied, and with its link cut.

use std::{
    collections::HashMap,
    fmt::Write as _,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use naka::rate_limit::shared::{Account, Ask, Shape, take};
use proptest::{prelude::*, test_runner::TestRunner};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    networks,
    process::{PATIENCE, Process, free_address},
};

/// A server, killed when dropped.
struct Redis {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Redis {
    /// Waits until it answers; `None` where there is none.
    async fn start() -> Option<Self> {
        Self::start_with(free_address(), &[]).await
    }

    async fn start_with(address: SocketAddr, more: &[&str]) -> Option<Self> {
        Self::run(Command::new("redis-server"), address, more).await
    }

    async fn run(mut command: Command, address: SocketAddr, more: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        command.args(["--bind", &host, "--port", &port, "--save", ""]);
        command.args(["--appendonly", "no", "--dir"]).arg(folder.path()).args(more);
        let Ok(child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            println!("skipped: `redis-server` is not installed");
            return None;
        };
        let redis = Self { child, address, _folder: folder };
        let waited = timeout(PATIENCE, async {
            while TcpStream::connect(address).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        });
        waited.await.expect("redis-server listens");
        Some(redis)
    }

    /// It is gone at once, with all it knew.
    fn kill(mut self) -> SocketAddr {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.address
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    async fn connect(&self) -> Client {
        Client(BufReader::new(TcpStream::connect(self.address).await.unwrap()))
    }

    async fn said(&self, command: &[&str]) -> Reply {
        self.connect().await.asks(command).await
    }

    /// As if it had been there for a day: what it does not know, there never was.
    async fn grow_old(&self, gateway: &Process) {
        assert_ne!(as_user(gateway, "who comes first").await, 500);
        let mark = match self.said(&["GET", "naka:epoch"]).await {
            Reply::Text(Some(mark)) => mark,
            other => panic!("{other:?}"),
        };
        let (began, rest) = mark.split_once(' ').unwrap();
        let began = began.parse::<u64>().unwrap() - 86_400_000_000;
        assert_eq!(
            self.said(&["SET", "naka:epoch", &format!("{began} {rest}")]).await,
            Reply::Text(Some("OK".into()))
        );
        assert_eq!(self.said(&["DEL", "x"]).await, Reply::Number(0));
        let Reply::List(keys) = self.said(&["KEYS", "naka:limit:*"]).await else { panic!() };
        for key in keys {
            let Reply::Text(Some(key)) = key else { panic!() };
            self.said(&["DEL", &key]).await;
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Reply {
    Text(Option<String>),
    Number(i64),
    List(Vec<Self>),
    Wrong(String),
}

/// A connection to it, without any library: RESP2.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn asks(&mut self, command: &[&str]) -> Reply {
        let mut text = format!("*{}\r\n", command.len());
        for word in command {
            _ = write!(text, "${}\r\n{word}\r\n", word.len());
        }
        self.0.write_all(text.as_bytes()).await.unwrap();
        timeout(PATIENCE, self.reply()).await.expect("redis-server answers")
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    async fn reply(&mut self) -> Reply {
        let line = self.line().await;
        let (kind, rest) = line.split_at(1);
        match kind {
            "+" => Reply::Text(Some(rest.to_owned())),
            "-" => Reply::Wrong(rest.to_owned()),
            ":" => Reply::Number(rest.parse().unwrap()),
            "$" => match usize::try_from(rest.parse::<i64>().unwrap()) {
                Ok(len) => {
                    let mut text = vec![0; len + 2];
                    self.0.read_exact(&mut text).await.unwrap();
                    text.truncate(len);
                    Reply::Text(Some(String::from_utf8(text).unwrap()))
                }
                Err(_) => Reply::Text(None),
            },
            "*" => {
                let mut list = Vec::new();
                for _ in 0..rest.parse::<i64>().unwrap() {
                    list.push(Box::pin(self.reply()).await);
                }
                Reply::List(list)
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A link that can be cut: nothing passes then, and nobody is told.
struct Link {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
}

impl Link {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, (is_cut, seen)) = (listener.local_addr().unwrap(), watch::channel(false));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut seen = seen.clone();
                tokio::spawn(async move {
                    loop {
                        _ = seen.wait_for(|is_cut| !is_cut).await;
                        let Ok(mut server) = TcpStream::connect(server).await else { return };
                        let mut watch = seen.clone();
                        tokio::select! {
                            _ = copy_bidirectional(&mut client, &mut server) => return,
                            cut = watch.wait_for(|is_cut| *is_cut) => if cut.is_err() { return },
                        }
                        // Whoever is connected hears nothing more, also when the link is there again.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, is_cut }
    }

    fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    fn heal(&self) {
        self.is_cut.send_replace(false);
    }
}

fn yaml(redis: SocketAddr, rate: &str, shared: &str) -> String {
    format!(
        "
gateway:
  workers: 1
  admin: {{listen: ADMIN}}
  reload: {{debounce: 10ms}}
  stores: {{limits: {{redis: 'redis://{redis}', secret: a secret of all gateways, timeout: 250ms}}}}
listeners: {{public: {{listen: PUBLIC, timeouts: {{idle: 5m}}}}}}
policies:
  per-user: {{rate_limit: {{rate: {rate}, key: [header:x-user], shared: {{store: limits, {shared}}}}}}}
  login: {{rate_limit: {{rate: {rate}, key: [header:x-user], shared: {{store: limits, share: 30%, on_failure: closed}}}}}}
  search: {{rate_limit: {{rate: {rate}, key: [header:x-user], shared: {{store: limits, share: 30%, on_failure: open}}}}}}
routes:
  all: {{match: {{prefix: /}}, use: [per-user], respond: {{body: in}}}}
  login: {{match: {{path: /login}}, use: [login], respond: {{body: in}}}}
  search: {{match: {{path: /search}}, use: [search], respond: {{body: in}}}}
"
    )
}

async fn three(redis: SocketAddr, rate: &str, shared: &str) -> [Process; 3] {
    let yaml = yaml(redis, rate, shared);
    let start = || async {
        let process = Process::start(&yaml).await;
        up(&process).await;
        process
    };
    let (one, two, three) = tokio::join!(start(), start(), start());
    [one, two, three]
}

async fn is_up(process: &Process) -> bool {
    process.metric("naka_store_up{store=\"limits\"}").await == Some(1.0)
}

async fn up(process: &Process) {
    process.until("the store is reached", async || is_up(process).await).await;
}

/// How many requests were decided without the store: on a machine that is busy, an answer may come too late.
async fn without_store(gateways: &[Process]) -> f64 {
    let mut sum = 0.0;
    for gateway in gateways {
        let counted = "naka_policy_decisions_total{policy=\"per-user\",outcome=\"without_store\"}";
        sum += gateway.metric(counted).await.unwrap();
    }
    sum
}

/// The limit is nine, and of each gateway its share, which is two, if it has had to do without the store: more often than
/// for the one request that came when it was new.
async fn within_bound(gateways: &[Process], admitted: &HashMap<String, u32>) {
    let bound = if without_store(gateways).await > 1.0 { 9 + 3 * 2 } else { 9 };
    let most = admitted.iter().max_by_key(|it| it.1);
    assert!(most.unwrap().1 <= &bound, "{most:?} of {bound}");
}

/// One client on a connection that is kept.
struct Caller(BufReader<TcpStream>);

impl Caller {
    async fn of(process: &Process) -> Self {
        Self(BufReader::new(TcpStream::connect(process.public).await.unwrap()))
    }

    /// The status, and the body.
    async fn asks(&mut self, path: &str, user: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: api.example\r\nx-user: {user}\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
        timeout(PATIENCE, self.answer()).await.expect("the gateway answers")
    }

    async fn answer(&mut self) -> (u16, String) {
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).await.unwrap(), 0, "the gateway hangs up");
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().unwrap();
            } else if let Some(rest) = line.strip_prefix("content-length: ") {
                length = rest.parse().unwrap();
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        (status, String::from_utf8(body).unwrap())
    }
}

async fn as_user(process: &Process, user: &str) -> u16 {
    Caller::of(process).await.asks("/", user).await.0
}

/// So often for each of so many keys, by each of all at once, in an order of its own. What was admitted of each key.
async fn round(gateways: &[Process], keys: usize, times: usize, sum: &mut HashMap<String, u32>) {
    let all = gateways.iter().enumerate().map(|(number, gateway)| async move {
        let (mut caller, mut admitted) = (Caller::of(gateway).await, HashMap::new());
        for turn in 0..keys * times {
            let user = format!("user-{}", (turn * (number * 2 + 1) + turn / keys) % keys);
            match caller.asks("/", &user).await {
                (200, _) => *admitted.entry(user).or_insert(0) += 1,
                (429, _) => {}
                other => panic!("{other:?}"),
            }
        }
        admitted
    });
    let all = all.collect::<Vec<_>>();
    let mut all = all.into_iter();
    let (one, two, three) = (all.next().unwrap(), all.next().unwrap(), all.next().unwrap());
    let (one, two, three) = tokio::join!(one, two, three);
    for (user, admitted) in one.into_iter().chain(two).chain(three) {
        *sum.entry(user).or_insert(0) += admitted;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_9_three_gateways_and_one_redis_admit_of_each_of_a_thousand_keys_what_one_would() {
    let Some(redis) = Redis::start().await else { return };
    let gateways = three(redis.address, "9/h", "share: 30%, lease: 2").await;
    redis.grow_old(&gateways[0]).await;
    let mut admitted = HashMap::new();
    round(&gateways, 1_000, 4, &mut admitted).await;
    within_bound(&gateways, &admitted).await;
    // What is missing is leased: it was given back when a gateway asked the next time.
    let all = admitted.values().sum::<u32>();
    assert!(all >= 1_000 * (9 - 3 * 2), "{all}");
    assert_eq!(admitted.len(), 1_000);

    // Killed and started again, empty, while they ask: nobody is refilled.
    let killed = async {
        sleep(Duration::from_millis(300)).await;
        let address = redis.kill();
        sleep(Duration::from_millis(700)).await;
        Redis::start_with(address, &[]).await.unwrap()
    };
    let ((), redis) = tokio::join!(round(&gateways, 1_000, 8, &mut admitted), killed);
    let without = without_store(&gateways).await;
    assert!(without > 10.0, "{without:?}");
    for gateway in &gateways {
        up(gateway).await;
    }
    round(&gateways, 1_000, 4, &mut admitted).await;
    assert!(redis.said(&["DBSIZE"]).await != Reply::Number(0), "it is asked again");
    within_bound(&gateways, &admitted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_9_a_link_that_is_cut_leaves_each_gateway_its_share_and_each_route_its_way() {
    let Some(redis) = Redis::start().await else { return };
    let link = Link::to(redis.address).await;
    let gateways = three(link.address, "9/h", "share: 30%, lease: 2").await;
    redis.grow_old(&gateways[0]).await;
    let mut admitted = HashMap::new();
    round(&gateways, 50, 4, &mut admitted).await;
    link.cut();
    round(&gateways, 50, 4, &mut admitted).await;
    within_bound(&gateways, &admitted).await;

    // Somebody of whom nobody knows anything: each gateway has its share of two.
    for gateway in &gateways {
        gateway.until("it is gone", async || !is_up(gateway).await).await;
        let ready = gateway.json("/readyz?format=json").await;
        let why = ready["without_store"]["limits"].as_str().expect("it says why");
        assert!(!why.is_empty(), "{ready}");
        let mut caller = Caller::of(gateway).await;
        let mut passed = 0;
        for _ in 0..6 {
            passed += u32::from(caller.asks("/", "somebody new").await.0 == 200);
        }
        assert_eq!(passed, 2);
        let (status, body) = caller.asks("/login", "somebody new").await;
        assert_eq!(status, 503, "{body}");
        assert!(body.contains("limit_unavailable"), "{body}");
        for _ in 0..20 {
            assert_eq!(caller.asks("/search", "somebody new").await.0, 200);
        }
    }

    link.heal();
    for gateway in &gateways {
        up(gateway).await;
    }
    // What was admitted meanwhile is told: of nine, six are gone, and of `search` all.
    let mut passed = 0;
    for gateway in &gateways {
        let mut caller = Caller::of(gateway).await;
        for _ in 0..4 {
            passed += u32::from(caller.asks("/", "somebody new").await.0 == 200);
        }
        assert_eq!(caller.asks("/login", "somebody new").await.0, 200, "it is asked again");
        let mut searched = caller.asks("/search", "somebody new").await.0;
        for _ in 0..20 {
            searched = searched.max(caller.asks("/search", "somebody new").await.0);
        }
        assert_eq!(searched, 429, "twenty were owed");
    }
    assert!(passed <= 9 - 2, "{passed}: the first that asked has told of its two");
}

#[test]
fn r2_9_a_network_that_is_cut_and_healed_leaves_each_gateway_its_share() {
    networks::run("shared_limits::in_two_networks", &["redis-server", "--version"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "r2_9_a_network_that_is_cut_and_healed_leaves_each_gateway_its_share runs it in namespaces"]
async fn in_two_networks() {
    if !networks::are_here() {
        return;
    }
    let redis = Redis::run(
        networks::far("redis-server"),
        "10.99.0.2:6379".parse().unwrap(),
        &["--protected-mode", "no"],
    )
    .await
    .unwrap();
    let gateways = three(redis.address, "9/h", "share: 30%, lease: 2").await;
    redis.grow_old(&gateways[0]).await;
    let mut admitted = HashMap::new();
    round(&gateways, 100, 4, &mut admitted).await;
    within_bound(&gateways, &admitted).await;
    networks::link("down");
    for gateway in &gateways {
        let mut caller = Caller::of(gateway).await;
        for turn in 0..6 {
            assert_eq!(caller.asks("/", "somebody new").await.0, if turn < 2 { 200 } else { 429 });
        }
        gateway.until("it is gone", async || !is_up(gateway).await).await;
    }
    round(&gateways, 100, 4, &mut admitted).await;
    networks::link("up");
    for gateway in &gateways {
        up(gateway).await;
    }
    round(&gateways, 100, 4, &mut admitted).await;
    within_bound(&gateways, &admitted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_holds_up_one_request_at_a_time() {
    let Some(redis) = Redis::start().await else { return };
    let gateway = Process::start(&yaml(redis.address, "1000/h", "share: 50%, lease: 0")).await;
    up(&gateway).await;
    redis.grow_old(&gateway).await;
    let mut caller = Caller::of(&gateway).await;
    assert_eq!(caller.asks("/", "asha").await.0, 200);
    redis.signal(Signal::STOP);
    for _ in 0..300 {
        assert_eq!(caller.asks("/", "asha").await.0, 200);
    }
    let given_up = gateway.metric("naka_store_questions_total{store=\"limits\",result=\"timeout\"}").await;
    let failed = gateway.metric("naka_store_questions_total{store=\"limits\",result=\"failed\"}").await;
    // Each pause is twice as long as the one before.
    assert!((1.0..=10.0).contains(&(given_up.unwrap() + failed.unwrap())), "{given_up:?} {failed:?}");
    gateway.until("it is gone", async || !is_up(&gateway).await).await;
    let ready = gateway.json("/readyz?format=json").await;
    assert_eq!(ready["without_store"]["limits"], "it does not answer in time");
    redis.signal(Signal::CONT);
    gateway
        .until("it is asked again", async || {
            assert_eq!(as_user(&gateway, "ravi").await, 200);
            is_up(&gateway).await
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_goes_and_comes_is_noticed_though_nobody_asks_it() {
    let Some(redis) = Redis::start().await else { return };
    let gateway = Process::start(&yaml(redis.address, "9/h", "share: 30%")).await;
    up(&gateway).await;
    let address = redis.kill();
    gateway.until("it is gone", async || !is_up(&gateway).await).await;
    let _redis = Redis::start_with(address, &[]).await.unwrap();
    up(&gateway).await;
    gateway.says("the store is reached again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_refills_nobody_of_a_shared_limit() {
    let Some(redis) = Redis::start().await else { return };
    let gateway = Process::start(&yaml(redis.address, "9/h", "share: 30%, lease: 2")).await;
    up(&gateway).await;
    redis.grow_old(&gateway).await;
    let mut caller = Caller::of(&gateway).await;
    let mut passed = 0;
    for (rate, shared) in [
        ("9/h", "share: 30%, lease: 2"),
        ("9/h", "share: 90%, lease: 9"),
        ("8/h", "share: 30%, lease: 2"),
        ("[9/h, 9/m]", "share: 30%, lease: 2"),
        ("9/m", "share: 30%, lease: 2"),
        ("9/h", "share: 30%, lease: 2"),
    ] {
        gateway.write("gateway.yaml", &yaml(redis.address, rate, shared));
        let changed = format!("{rate}@{shared}");
        gateway
            .until(&changed, async || {
                let config = gateway.json("/config").await;
                let text = config["keys"].to_string();
                let wanted = rate.trim_matches(['[', ']']).split(", ").all(|rate| text.contains(rate));
                wanted && text.contains(shared.split([' ', ',']).nth(1).unwrap())
            })
            .await;
        for _ in 0..12 {
            passed += u32::from(caller.asks("/", "asha").await.0 == 200);
        }
    }
    let without = without_store(std::slice::from_ref(&gateway)).await;
    // The share has been nine tenths.
    assert!(
        passed == 9 || without > 1.0 && passed <= 9 + 8,
        "{passed} in six generations, {without} without the store"
    );
}

/// What the documents say that a user needs.
const ALLOWED: [&str; 6] = ["+info", "+get", "+set", "+time", "+evalsha", "+script|load"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_cannot_be_relied_on_is_not_asked_and_it_is_said_why() {
    let Some(good) = Redis::start().await else { return };
    let port = good.address.port().to_string();
    let start = |more: &'static [&'static str]| Redis::start_with(free_address(), more);
    let (locked, forgetful) =
        (start(&["--requirepass", "x"]), start(&["--maxmemory", "9mb", "--maxmemory-policy", "allkeys-lru"]));
    let (locked, forgetful) = (locked.await.unwrap(), forgetful.await.unwrap());
    let replica = Redis::start_with(free_address(), &["--replicaof", "127.0.0.1", &port]).await.unwrap();
    let cluster = start(&["--cluster-enabled", "yes"]).await.unwrap();
    for (server, words) in [
        (&locked, "it wants a password"),
        (&forgetful, "maxmemory-policy allkeys-lru"),
        (&replica, "it is a replica"),
        (&cluster, "it is a cluster"),
    ] {
        let gateway = Process::start(&yaml(server.address, "9/h", "share: 30%")).await;
        gateway
            .until(words, async || {
                let ready = gateway.json("/readyz?format=json").await;
                ready["without_store"]["limits"].as_str().is_some_and(|why| why.contains(words))
            })
            .await;
        assert_eq!(as_user(&gateway, "asha").await, 200, "its share");
        gateway.says("limits do without their store").await;
    }
    // A user that may do as much as the documents say, and no more; one who may not do all of it; no memory.
    let users = |user: &[&'static str]| [&["--user", "naka", "on", ">x", "~naka:*"][..], user].concat();
    let users = [users(&ALLOWED), users(&ALLOWED[..3]), users(&ALLOWED[..4])];
    for (may, user) in users.iter().enumerate().map(|(place, user)| (place == 0, user)) {
        let server = Redis::start_with(free_address(), user).await.unwrap();
        let text = yaml(server.address, "9/h", "share: 30%")
            .replace("timeout: 250ms", "username: naka, password: x");
        let gateway = Process::start(&text).await;
        if may {
            up(&gateway).await;
            gateway.says("the store is reached; ").await;
            continue;
        }
        gateway.says("limits do without their store").await;
        assert_eq!(as_user(&gateway, "asha").await, 200, "its share");
        assert!(!is_up(&gateway).await, "{}", gateway.log());
    }
    let full = start(&["--maxmemory", "900kb"]).await.unwrap();
    let gateway = Process::start(&yaml(full.address, "9/h", "share: 30%")).await;
    gateway.says("limits do without their store").await;
    for turn in 0..30 {
        as_user(&gateway, &turn.to_string()).await;
        assert!(!is_up(&gateway).await, "{}", gateway.log());
    }
    let people = gateway.get("/readyz?verbose").await.unwrap().1;
    assert!(
        people.contains("[!] store limits: limits do without it: ") && people.contains("OOM"),
        "{people}"
    );
    // The password that is right, and one secret for all.
    let text = yaml(locked.address, "9/h", "share: 30%");
    let first = Process::start(&text.replace("timeout: 250ms", "password: x")).await;
    up(&first).await;
    assert_eq!(as_user(&first, "asha").await, 200);
    let other =
        text.replace("timeout: 250ms", "password: x").replace("of all gateways", "of nobody else here");
    let second = Process::start(&other).await;
    second.says("another gateway hashes its keys with another secret").await;
    second.until("it is not asked", async || !is_up(&second).await).await;
    assert!(is_up(&first).await);
    assert!(!second.log().contains("of nobody else"), "no secret is told");
}

const SCRIPT: &str = include_str!("../../crates/naka-gateway/src/stores/take.lua");

#[derive(Clone, Debug)]
struct Step {
    windows: Vec<(u64, u32, u32, u32)>,
    wanted: u32,
    less: u32,
    owed: u32,
    back: u32,
    pause_ms: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // A few periods, so that they come again, with other counts.
    let window = (
        prop::sample::select(vec![3_000_000_u64, 40_000_000, 40_000_001, 1_000_000_000, 3_600_000_000_000]),
        1..40_u32,
        1..40_u32,
        prop::sample::select(vec![100_u32, 50, 250]),
    );
    let windows = prop::collection::vec(window, 1..=4).prop_map(|mut all| {
        all.sort_unstable();
        all.dedup_by_key(|it| it.0);
        let percent = all[0].3; // One tier asks.
        all.into_iter().map(|(per, count, burst, _)| (per, count, burst, percent)).collect::<Vec<_>>()
    });
    let few = || prop_oneof![4 => Just(0_u32), 1 => 1..9_u32];
    let step = (windows, 1..12_u32, 0..12_u32, few(), few(), 0..4_u64);
    let step = step.prop_map(|(windows, wanted, less, owed, back, pause_ms)| Step {
        windows,
        wanted,
        less,
        owed,
        back,
        pause_ms,
    });
    prop::collection::vec(step, 1..40)
}

/// The script says what the function says that the library tests, bit for bit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_does_with_a_question_is_what_the_library_says() {
    let Some(redis) = Redis::start().await else { return };
    let Reply::Text(Some(hash)) = redis.said(&["SCRIPT", "LOAD", SCRIPT]).await else { panic!() };
    let seen = AtomicU32::new(0);
    let runtime = tokio::runtime::Handle::current();
    let mut client = redis.connect().await;
    tokio::task::block_in_place(|| {
        let mut runner = TestRunner::new(ProptestConfig {
            failure_persistence: None,
            max_shrink_iters: 40,
            ..ProptestConfig::with_cases(60)
        });
        let client = tokio::sync::Mutex::new(&mut client);
        let number = AtomicU32::new(0);
        runner
            .run(&steps(), |steps| {
                let key = format!("naka:limit:api:{}", number.fetch_add(1, SeqCst));
                // Half of them know everything from the beginning.
                let epoch = format!("naka:epoch:{key}");
                runtime.block_on(async {
                    let mut client = client.lock().await;
                    if number.load(SeqCst).is_multiple_of(2) {
                        client.asks(&["SET", &epoch, "1000 run check"]).await;
                    }
                    let mut account = Account::default();
                    for step in &steps {
                        sleep(Duration::from_millis(step.pause_ms)).await;
                        compare(&mut client, (&hash, &key, &epoch), step, &mut account, &seen).await;
                    }
                });
                Ok(())
            })
            .unwrap();
    });
    assert!(seen.load(SeqCst) > 100, "some were granted: {seen:?}");
}

async fn compare(
    client: &mut Client,
    (hash, key, epoch): (&str, &str, &str),
    step: &Step,
    account: &mut Account,
    seen: &AtomicU32,
) {
    let shapes = step.windows.iter().map(|(per, count, burst, percent)| {
        let mut shape = Shape::new(*per, *count, *burst);
        shape.percent = *percent;
        shape.most = (burst * percent / 100).max(1);
        shape
    });
    let shapes: Arc<[Shape]> = shapes.collect();
    let mut ask = Ask::new("api".into(), 1, Arc::clone(&shapes), step.wanted);
    ask.least = step.wanted.saturating_sub(step.less).max(1);
    (ask.owed, ask.back) = (step.owed, step.back);
    let mut words = vec!["EVALSHA", hash, "2", key, epoch, "run", "check"]
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    words.extend([ask.wanted, ask.least, ask.owed, ask.back].map(|number| number.to_string()));
    for shape in &*shapes {
        words.push(shape.per_ns.to_string());
        words.extend([shape.count, shape.burst, shape.percent, shape.most].map(|number| number.to_string()));
    }
    let words = words.iter().map(String::as_str).collect::<Vec<_>>();
    let Reply::List(said) = client.asks(&words).await else { panic!("no list") };
    let said =
        said.into_iter().map(|it| if let Reply::Number(number) = it { number } else { panic!("{it:?}") });
    let said = said.collect::<Vec<_>>();
    let [now, epoch] = [said[3], said[4]].map(i64::cast_unsigned);
    let (expected, next) = take(account, &ask, epoch, now);
    *account = next;
    seen.fetch_add(expected.granted, SeqCst);
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap();
    let mut all =
        vec![i64::from(expected.granted), expected.wait.map_or(-1, micros), expected.is_young.into()];
    all.extend([said[3], said[4]]);
    all.extend(
        expected.windows.iter().flat_map(|(left, reset)| [i64::try_from(*left).unwrap(), micros(*reset)]),
    );
    assert_eq!(said, all, "{ask:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_without_history_leave_redis_by_themselves() {
    let Some(redis) = Redis::start().await else { return };
    let gateway = Process::start(&yaml(redis.address, "100/s", "share: 30%, lease: 2")).await;
    up(&gateway).await;
    redis.grow_old(&gateway).await;
    let mut caller = Caller::of(&gateway).await;
    for user in 0..200 {
        assert_eq!(caller.asks("/", &user.to_string()).await.0, 200);
    }
    let keys = async || match redis.said(&["DBSIZE"]).await {
        Reply::Number(keys) => keys,
        other => panic!("{other:?}"),
    };
    gateway.until("only the epoch is left", async || keys().await == 1).await;
}
