//! What one proxied request costs in allocations, rate limit and bulkhead on, and whoever asks known: the
//! whole gateway in this process, a client and an upstream beside it that allocate nothing themselves.
//!
//! All names of headers here are among those that `http` knows. It copies every other, in either
//! direction, which is one more allocation for each.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests may")]

use std::{
    alloc::System,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
};

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
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What a request may cost.
const AT_MOST: usize = 14;
const REQUESTS: usize = 1000;

const GET: &[u8] = b"GET /api/orders/17?full=1 HTTP/1.1\r\nhost: api.example\r\nuser-agent: curl/8.9\r\n\
    accept: application/json\r\naccept-encoding: gzip, br\r\naccept-language: en-IN\r\n\
    authorization: Bearer abc.def.ghi\r\ncookie: session=0123456789\r\n\
    referer: http://api.example/\r\n\r\n";

const POST: &[u8] = b"POST /api/orders HTTP/1.1\r\nhost: api.example\r\nuser-agent: curl/8.9\r\n\
    accept: application/json\r\naccept-encoding: gzip, br\r\nauthorization: Bearer abc.def.ghi\r\n\
    cookie: session=0123456789\r\ncontent-type: application/json\r\ncontent-length: 120\r\n\r\n\
    {\"item\":\"chai\",\"count\":2,\"price_inr\":40,\"note\":\"less sugar pls\",\
    \"table\":7,\"name\":\"Asha\",\"paid\":false,\"to\":\"Bandra West\"}";

/// Bytes of the body of `POST`.
const BODY: usize = 120;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
    content-length: 13\r\n\r\n{\"fine\":true}";

/// Both layers, and no more.
const LIMITED: &str = "
listeners: {public: {listen: '127.0.0.1:0'}}
policies:
  each: {rate_limit: {rate: [1000000/s, 100000000/h], key: [client_ip]}}
  room: {bulkhead: {max: 100}}
upstreams: {app: {endpoints: ['UPSTREAM']}}
routes: {all: {match: {prefix: /api}, use: [each, room], upstream: app}}
";

/// Whoever asks has to be known, and has to be somebody who may.
const KNOWN: &str = "
listeners: {public: {listen: '127.0.0.1:0'}}
policies:
  each: {rate_limit: {rate: [1000000/s, 100000000/h], key: [client_ip]}}
  room: {bulkhead: {max: 100}}
  people: {jwt: {secret: {file: secret}, issuer: ola, audiences: [rides]}}
  partners: {api_key: {file: partners.yaml}}
upstreams: {app: {endpoints: ['UPSTREAM']}}
routes:
  people: {match: {path: /people}, use: [each, room, people], authorize: {scope: rides.read}, upstream: app}
  partners: {match: {path: /partners}, use: [each, room, partners], authorize: {claim: {city: pune}}, upstream: app}
  both:
    match: {path: /both}
    use: [each, room, people, partners]
    authorize: {scope: rides.read}
    upstream: app
";

const SECRET: &str = "a secret of forty bytes, or a few of more";
/// `secret-key-of-zomato`.
const PARTNERS: &str = "keys: [{subject: zomato, claims: {city: pune}, \
    sha256: 39960a547f8bdddc842794dfba8eea08079dfe15d8dc3a730a1151f93857569b}]";
const CLAIMS: &str =
    r#"{"sub":"asha","aud":"rides","iss":"ola","exp":4102444800,"scope":"rides.read","roles":["rider"]}"#;

#[test]
fn a_proxied_request_allocates_at_most_fourteen_times() {
    let requests = [("GET", GET, AT_MOST), ("POST", POST, AT_MOST)];
    hold(LIMITED, &requests);
}

/// The token has been verified before. Each name that `http` does not know, such as `x-api-key`, is one more;
/// two who are known in one request are put together, which is dear.
#[test]
fn who_is_known_already_costs_a_proxied_request_few_allocations_more() {
    let token = hs256(SECRET.as_bytes(), CLAIMS);
    let token = format!("authorization: Bearer {token}\r\n");
    let key = "x-api-key: secret-key-of-zomato\r\n";
    let get =
        |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n").into_bytes();
    let (people, partners) = (get("/people", &token), get("/partners", key));
    let both = get("/both", &(token + key));
    hold(KNOWN, &[("token", &people, 14), ("key", &partners, 15), ("both", &both, 22)]);
}

/// Traces of which five in a hundred are recorded, and a log of all requests. Each is: the record of the request, its journal, the list of
/// its attempts, the list of what a span says besides; `traceparent`; the line.
const TOLD: &str = "
gateway: {telemetry: {tracing: {sample: 5%}, access_log: {file: /dev/null}}}
listeners: {public: {listen: '127.0.0.1:0'}}
policies:
  each: {rate_limit: {rate: [1000000/s, 100000000/h], key: [client_ip]}}
  room: {bulkhead: {max: 100}}
upstreams: {app: {endpoints: ['UPSTREAM']}}
routes: {all: {match: {prefix: /api}, use: [each, room], upstream: app}}
";

#[test]
fn what_is_told_about_a_request_costs_it_few_allocations_more() {
    hold(TOLD, &[("told", GET, AT_MOST + 6)]);
}

/// Each request costs at most so many.
/// All of the process is counted.
static ALONE: Mutex<()> = Mutex::new(());

fn hold(yaml: &str, requests: &[(&str, &[u8], usize)]) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (workers, gateway) = gateway(&yaml.replace("UPSTREAM", &upstream().to_string()));
    for (name, request, at_most) in requests {
        let mut client = TcpStream::connect(gateway).unwrap();
        client.set_nodelay(true).unwrap();
        ask(&mut client, request, 200); // Connections are kept, tables have their size.
        let region = Region::new(ALLOCATOR);
        ask(&mut client, request, REQUESTS);
        let made = region.change();
        let all = made.allocations + made.reallocations;
        println!("{name}: {}.{:02} allocations a request", all / REQUESTS, all % REQUESTS / 10);
        // The process does other things, too, such as looking at its files: one in a hundred requests at most.
        let most = at_most * REQUESTS + REQUESTS / 100;
        assert!(all <= most, "{name}: {all} allocations for {REQUESTS} requests");
        // Whoever measures nothing is below every bound.
        assert!(all >= REQUESTS, "{name}: {all} allocations for {REQUESTS} requests");
    }
    workers.stop();
}

/// So many requests one after the other, into a buffer of its own.
fn ask(client: &mut TcpStream, request: &[u8], times: usize) {
    let mut piece = [0; 4096];
    for _ in 0..times {
        client.write_all(request).unwrap();
        let mut filled = 0;
        while !piece[..filled].ends_with(b"{\"fine\":true}") {
            let got = client.read(&mut piece[filled..]).unwrap();
            assert_ne!(got, 0, "closed after {}", String::from_utf8_lossy(&piece[..filled]));
            filled += got;
        }
        assert!(piece.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&piece[..filled]));
    }
}

/// Answers every request the same on each of its connections.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || serve(&mut stream));
        }
    });
    address
}

fn serve(stream: &mut TcpStream) {
    let mut piece = [0; 4096];
    let mut filled = 0;
    loop {
        let whole = piece[..filled].windows(4).position(|four| four == b"\r\n\r\n").is_some_and(|end| {
            let is_post = piece.starts_with(b"POST");
            filled == end + 4 + if is_post { BODY } else { 0 }
        });
        if whole {
            stream.write_all(ANSWER).unwrap();
            filled = 0;
            continue;
        }
        match stream.read(&mut piece[filled..]) {
            Ok(got @ 1..) => filled += got,
            _ => return,
        }
    }
}

fn gateway(yaml: &str) -> (Workers, SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let entry = folder.path().join("gateway.yaml");
    std::fs::write(&entry, yaml).unwrap();
    std::fs::write(folder.path().join("secret"), SECRET).unwrap();
    std::fs::write(folder.path().join("partners.yaml"), PARTNERS).unwrap();
    let metrics = Arc::new(Metrics::new());
    let before = Before {
        entry: &entry,
        sources: None,
        state: &|_| State::new(1),
        number: 1,
        tests: RunTests::Never,
        kinds: &Kinds::default(),
    };
    let first = prepare(&before, &metrics, &Outside::default()).unwrap_or_else(|refusal| panic!("{refusal}"));
    let name = first.generation.config.listeners["public"].listen.clone();
    let shared = Shared::new(InForce::new(first.generation), metrics, 1);
    let workers = Workers::start(&shared, Layout::Count(1)).unwrap();
    let open = workers.bind(&name, 0o600, &[]).unwrap().open().unwrap();
    let at = open.address().tcp().unwrap();
    workers.accept(open);
    (workers, at)
}

/// Every kind of state; `more` has what comes and goes.
fn stateful(rate: u32, more: &str) -> String {
    format!(
        "
gateway: {{admin: none}}
listeners: {{public: {{listen: '127.0.0.1:0'}}}}
policies:
  each: {{rate_limit: {{rate: {rate}/m, key: [client_ip]}}}}
  room: {{bulkhead: {{max: {rate}}}}}
  shadow: {{mirror: {{upstream: next, methods: safe}}}}
upstreams:
  app:
    endpoints: ['127.0.0.1:1', '127.0.0.1:2']
    balance: {{policy: weighted_round_robin}}
    health_check: {{path: /healthz}}
    circuit_breaker: {{consecutive: 5}}
    retry_budget: {{ratio: 20%}}
    bulkhead: {{max: 10}}
  next: {{endpoints: ['127.0.0.1:3']}}
routes:
  all: {{match: {{prefix: /api}}, use: [each, room, shadow], retry: {{max: 1}}, hedge: {{after: 100ms}}, cache: {{}}, upstream: app}}
  orders: {{match: {{path: /orders, methods: [POST]}}, idempotency: {{required: true}}, circuit_breaker: {{consecutive: {rate}}}, fallback: {{respond: {{body: later}}}}, upstream: app}}
  canary: {{match: {{prefix: /canary}}, split: {{to: {{app: 95, next: 5}}, by: client_ip}}}}
{more}"
    )
}

/// Routes, policies and upstreams that come and go, rates that change, and in between what is wrong: after ten thousand of them the
/// process holds what it held after a thousand.
#[test]
fn ten_thousand_reloads_leave_memory_as_it_was() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let entry = folder.path().join("gateway.yaml");
    let texts = [
        stateful(10, ""),
        stateful(
            20,
            "  gone: {match: {prefix: /gone}, rate_limit: {rate: 5/m, key: [client_ip]}, bulkhead: {max: 3}, respond: {body: gone}}\n",
        ),
        stateful(10, "  gone: {match: {prefix: /gone}, upstream: nowhere}\n"),
        stateful(
            30,
            "  other: {match: {prefix: /other}, circuit_breaker: {consecutive: 3}, upstream: next}\n",
        ),
    ];
    let (metrics, mut state, mut accepted) = (Arc::new(Metrics::new()), State::new(1), 0_u64);
    let mut sources = None;
    let region = Region::new(ALLOCATOR);
    let mut held = Vec::new();
    for number in 1..=10_000_u64 {
        std::fs::write(&entry, &texts[usize::try_from(number % 4).unwrap()]).unwrap();
        let before = state.clone();
        let prepared = prepare(
            &Before {
                entry: &entry,
                sources: sources.as_ref(),
                state: &|_| before.clone(),
                number,
                tests: RunTests::Never,
                kinds: &Kinds::default(),
            },
            &metrics,
            &Outside::default(),
        );
        match prepared {
            Ok(prepared) => {
                let served = prepared.generation.workers.iter().flat_map(|worker| worker.values());
                served.for_each(|served| (0..served.table.len()).for_each(|route| _ = served.route(route)));
                (state, accepted) = (prepared.generation.state, accepted + 1);
                sources = Some(prepared.sources);
            }
            Err(refusal) => assert_eq!(number % 4, 2, "{refusal}"),
        }
        if number % 1000 == 0 {
            let change = region.change();
            held.push(change.bytes_allocated - change.bytes_deallocated);
        }
    }
    assert_eq!(accepted, 7500);
    let (first, last) = (held[0], held[9]);
    assert!(last * 100 <= first * 105, "{held:?}");
}
