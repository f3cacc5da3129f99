//! What a request costs in the whole gateway, in counts that are the same each time.
//!
//! | | |
//! | --- | --- |
//! | `cargo test --bench gateway` | What CI bounds: allocations and bytes of a request, heap of a connection that waits, system calls of a request (skipped without strace) |
//! | `cargo bench --bench gateway` | The same, of what is shipped |
//! | `cargo bench --bench gateway -- --instructions` | Instructions of a request, by callgrind (skipped without valgrind), also with many routes and many endpoints |
//! | `-- --instructions --requests 2000 --naka target/release/naka` | With so many requests; of another binary |
//!
//! The configurations are those of `benches/compare`: without any policy, and with all of a public API. One client asks one request after the
//! other, which is the dearest way to ask: with many at a time one wait for events serves several.
//!
//! **Allocations and heap** are those of the whole process; client and upstream stand in it and allocate nothing, nor does C code count (some of
//! the crypto does). Futures are larger and copied more often in a debug build; bounds hold for both. `tests/allocations.rs` bounds requests with
//! single policies.
//!
//! **System calls and instructions** are of a process of its own; of N requests and of several times as many, so that what starting takes
//! is not among them.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "benches may")]

use std::{
    alloc::System,
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use counters::{Counter, is_here};
use naka_gateway::{
    config::checked::Workers as Layout,
    custom::Kinds,
    generation::InForce,
    observe::Metrics,
    prepare::{Before, Outside, RunTests, prepare},
    shared::Shared,
    state::State,
    worker::Workers,
};
use naka_testkit::token::hs256;
use process::{Gateway, answer, ask, served};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};

mod counters;
mod process;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PLAIN: &str = include_str!("compare/plain.yaml");
const FULL: &str = include_str!("compare/full.yaml");

/// What is asked of a gateway.
struct Case {
    name: &'static str,
    yaml: &'static str,
    routes: usize,
    endpoints: usize,
    /// What a request may cost.
    at_most: Costs,
}

struct Costs {
    allocations: f64,
    bytes: f64,
    system_calls: f64,
    /// Those among them that read or write.
    transfers: f64,
}

const CASES: [Case; 2] = [
    Case {
        name: "plain",
        yaml: PLAIN,
        routes: 0,
        endpoints: 2,
        at_most: Costs { allocations: 11.0, bytes: 5_300.0, system_calls: 6.5, transfers: 4.2 },
    },
    Case {
        name: "full",
        yaml: FULL,
        routes: 100,
        endpoints: 2,
        at_most: Costs { allocations: 17.0, bytes: 7_900.0, system_calls: 6.5, transfers: 4.2 },
    },
];

/// Heap of a connection that has said nothing, and of one that is kept after a request, in bytes.
const SILENT: f64 = 2_048.0;
const KEPT: f64 = 26_624.0;

/// With many times as many, a request may take so many more instructions.
const GROWTH: f64 = 1.05;
const ROUTES: [usize; 2] = [10, 10_000];
const ENDPOINTS: [usize; 2] = [2, 1_000];

const REQUESTS: u32 = 1000;
const CONNECTIONS: usize = 400;
/// A socket on each side of each connection, and then some.
const DESCRIPTORS: u64 = 8192;

const SECRET: &str = "a secret of forty bytes, or a few of more";
const CLAIMS: &str = r#"{"iss":"https://issuer.example","aud":"gateway","sub":"asha","exp":4102444800}"#;

fn main() -> ExitCode {
    let args = std::env::args().collect::<Vec<_>>();
    let value = |word: &str| args.iter().skip_while(|arg| *arg != word).nth(1);
    let mut limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limits.current = Some(limits.maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS)));
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limits).unwrap();
    let naka = value("--naka").map_or(env!("CARGO_BIN_EXE_naka-under-test"), String::as_str);
    let holds = if args.iter().any(|arg| arg == "--instructions") {
        let requests = value("--requests").and_then(|text| text.parse().ok()).unwrap_or(2000);
        instructions(Path::new(naka), requests)
    } else {
        let in_process = CASES.iter().map(allocations).collect::<Vec<_>>();
        let heap = heap_of_connections();
        in_process.into_iter().all(|holds| holds) && heap && system_calls(Path::new(naka))
    };
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says what was counted, and whether that is within its bound.
fn bounded(name: &str, what: &str, counted: f64, at_most: f64) -> bool {
    // Whoever counts nothing is below every bound.
    let holds = counted > 0.0 && counted <= at_most;
    let verdict = if holds { "" } else { "   which is not within its bound" };
    println!("{name:<12} {what:<32} {counted:>10.2}, at most {at_most:>8.2}{verdict}");
    holds
}

impl Case {
    /// Writes its files, for a gateway that listens there.
    fn write(&self, folder: &Path, listen: SocketAddr, endpoints: &[SocketAddr]) -> PathBuf {
        let listed = endpoints.iter().map(|it| format!("\"{it}\"")).collect::<Vec<_>>().join(", ");
        let fill = |text: String, word: &str, value: &str| {
            assert!(text.contains(word), "{word} is not in {text}");
            text.replace(word, value)
        };
        let yaml = fill(self.yaml.to_owned(), "127.0.0.1:@PORT@", &listen.to_string());
        let yaml = fill(yaml, "\"127.0.0.1:@UPSTREAM_1@\", \"127.0.0.1:@UPSTREAM_2@\"", &listed);
        // They look at all routes every few seconds, beside the requests.
        let yaml = fill(yaml, "  admin: none\n", "  admin: none\n  alerts: {builtin: false}\n");
        let entry = folder.join("gateway.yaml");
        fs::write(&entry, yaml).unwrap();
        fs::write(folder.join("secret"), SECRET).unwrap();
        let route = |i| {
            format!(
                "  r{i}: {{match: {{prefix: /svc{i:05}}}, use: [signed-in, per-subject], upstream: app}}\n"
            )
        };
        let routes = (0..self.routes).map(route).collect::<String>();
        fs::write(folder.join("routes.yaml"), format!("routes:\n{routes}")).unwrap();
        entry
    }

    /// For a route in the middle of all.
    fn request(&self) -> Vec<u8> {
        let token = hs256(SECRET.as_bytes(), CLAIMS);
        format!(
            "GET /svc{:05}/items/17?full=1 HTTP/1.1\r\nhost: api.example\r\nuser-agent: curl/8.9\r\naccept: application/json\r\n\
            accept-encoding: gzip, br\r\naccept-language: en-IN\r\ncookie: session=0123456789\r\nreferer: http://api.example/\r\n\
            authorization: Bearer {token}\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
            self.routes / 2
        )
        .into_bytes()
    }

    fn endpoints(&self) -> Vec<SocketAddr> {
        (0..self.endpoints).map(|_| served(answer)).collect()
    }
}

/// Of the gateway in this process.
fn allocations(case: &Case) -> bool {
    let inside = Inside::start(case);
    let mut client = inside.client();
    let request = case.request();
    let mut asked = |times| (0..times).for_each(|_| ask(&mut client, &request));
    asked(200); // Connections are kept, tables have their size.
    let region = Region::new(ALLOCATOR);
    asked(REQUESTS);
    let change = region.change();
    let each = |count: usize| f64::from(u32::try_from(count).unwrap()) / f64::from(REQUESTS);
    inside.workers.stop();
    // The process does other things, too, such as looking at its files: one in a hundred requests at most.
    let made = each(change.allocations + change.reallocations);
    let count = bounded(case.name, "allocations a request", made, case.at_most.allocations + 0.01);
    bounded(case.name, "bytes allocated a request", each(change.bytes_allocated), case.at_most.bytes) && count
}

fn heap_of_connections() -> bool {
    let case = &CASES[0];
    let inside = Inside::start(case);
    let request = case.request();
    (0..200).for_each(|_| ask(&mut inside.client(), &request));
    inside.wait_for(0);
    let before = settled();
    let mut clients = (0..CONNECTIONS).map(|_| inside.client()).collect::<Vec<_>>();
    let of_clients = clients.capacity() * size_of::<TcpStream>();
    inside.wait_for(CONNECTIONS);
    let each = |now: usize| {
        let more = now.saturating_sub(before + of_clients);
        f64::from(u32::try_from(more).unwrap()) / f64::from(u32::try_from(CONNECTIONS).unwrap())
    };
    let silent = bounded("connection", "heap bytes, silent", each(settled()), SILENT);
    for client in &mut clients {
        ask(client, &request);
    }
    let kept = bounded("connection", "heap bytes, kept after a request", each(settled()), KEPT);
    assert_eq!(inside.shared.open_connections(), CONNECTIONS);
    inside.workers.stop();
    silent && kept
}

/// Bytes that are in use, when that is the same for a while.
fn settled() -> usize {
    let in_use = || {
        let Stats { bytes_allocated, bytes_deallocated, .. } = ALLOCATOR.stats();
        bytes_allocated - bytes_deallocated
    };
    let (mut last, mut same) = (in_use(), 0);
    for _ in 0..600 {
        thread::sleep(Duration::from_millis(50));
        let now = in_use();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same == 4 {
            return now;
        }
    }
    panic!("the heap goes on changing");
}

/// The gateway in this process, with one worker.
struct Inside {
    workers: Workers,
    shared: Arc<Shared>,
    at: SocketAddr,
}

impl Inside {
    fn start(case: &Case) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let entry = case.write(folder.path(), SocketAddr::from(([127, 0, 0, 1], 0)), &case.endpoints());
        let metrics = Arc::new(Metrics::new());
        let before = Before {
            entry: &entry,
            sources: None,
            state: &|_| State::new(1),
            number: 1,
            tests: RunTests::Never,
            kinds: &Kinds::default(),
        };
        let first =
            prepare(&before, &metrics, &Outside::default()).unwrap_or_else(|refusal| panic!("{refusal}"));
        let name = first.generation.config.listeners["public"].listen.clone();
        let shared = Shared::new(InForce::new(first.generation), metrics, 1);
        let workers = Workers::start(&shared, Layout::Count(1)).unwrap();
        let open = workers.bind(&name, 0o600, &[]).unwrap().open().unwrap();
        let at = open.address().tcp().unwrap();
        workers.accept(open);
        Self { workers, shared, at }
    }

    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.at).unwrap();
        client.set_nodelay(true).unwrap();
        client
    }

    /// Until so many connections are open.
    fn wait_for(&self, connections: usize) {
        let end = Instant::now() + Duration::from_mins(1);
        while self.shared.open_connections() != connections {
            assert!(Instant::now() < end, "{} are open", self.shared.open_connections());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Of a gateway of its own.
fn system_calls(naka: &Path) -> bool {
    if !is_here("strace") {
        return true;
    }
    if !Command::new("strace")
        .args(["-f", "-c", "-o", "/dev/null", "true"])
        .status()
        .is_ok_and(|it| it.success())
    {
        println!("skipped: strace may not trace here");
        return true;
    }
    let mut holds = true;
    for case in &CASES {
        let [once, more] = counted(
            naka,
            case,
            [REQUESTS / 2, REQUESTS * 3 / 2],
            |counts| Counter::Strace(counts),
            |counts| {
                let all = counters::system_calls(counts);
                let transfers =
                    all.iter().filter(|(name, _)| is_transfer(name)).map(|(_, count)| count).sum::<u64>();
                [all.iter().map(|(_, count)| count).sum::<u64>(), transfers]
            },
        );
        let each = |at: usize| {
            let more = u32::try_from(more[at].saturating_sub(once[at])).unwrap();
            f64::from(more) / f64::from(REQUESTS)
        };
        holds &= bounded(case.name, "system calls a request", each(0), case.at_most.system_calls);
        holds &= bounded(case.name, "of them reads and writes", each(1), case.at_most.transfers);
    }
    holds
}

fn is_transfer(call: &str) -> bool {
    ["read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg", "splice"].contains(&call)
}

/// What is read of the counts of two runs, with so many requests each.
fn counted<T>(
    naka: &Path,
    case: &Case,
    requests: [u32; 2],
    counter: impl Fn(&Path) -> Counter<'_>,
    read: impl Fn(&Path) -> T,
) -> [T; 2] {
    let endpoints = case.endpoints();
    requests.map(|requests| {
        let folder = tempfile::tempdir().unwrap();
        let counts = folder.path().join("counts");
        let gateway =
            Gateway::start(naka, Some(&counter(&counts)), |folder, at| case.write(folder, at, &endpoints));
        gateway.ask(&case.request(), requests);
        gateway.end();
        read(&counts)
    })
}

fn instructions(naka: &Path, requests: u32) -> bool {
    if !is_here("valgrind") {
        return true;
    }
    if cfg!(debug_assertions) {
        println!("not optimised, unless `--naka` is: say `cargo bench`");
    }
    println!("instructions of a request, from {requests} requests and {} more", requests * 2);
    let each = |case: &Case| {
        let counts = counted(
            naka,
            case,
            [requests, requests * 3],
            |counts| Counter::Callgrind(counts),
            counters::instructions,
        );
        (counts[1] - counts[0]) / f64::from(requests * 2)
    };
    for case in &CASES {
        println!("{:<24} {:>10.0}", case.name, each(case));
    }
    let with = |routes, endpoints, yaml| {
        let at_most = Costs { allocations: 0.0, bytes: 0.0, system_calls: 0.0, transfers: 0.0 };
        each(&Case { name: "", yaml, routes, endpoints, at_most })
    };
    let grows = |what: &str, [few, many]: [usize; 2], of: &dyn Fn(usize) -> f64| {
        let (of_few, of_many) = (of(few), of(many));
        println!("{:<24} {of_few:>10.0}", format!("{few} {what}"));
        println!("{:<24} {of_many:>10.0}", format!("{many} {what}"));
        bounded(what, "ratio of the two", of_many / of_few, GROWTH)
    };
    let routes = grows("routes", ROUTES, &|routes| with(routes, 2, FULL));
    grows("endpoints", ENDPOINTS, &|endpoints| with(0, endpoints, PLAIN)) && routes
}
