//! What one proxied request costs in allocations, both layers on: the whole gateway in this process,
//! a client and an upstream beside it that allocate nothing themselves.
//!
//! All names of headers here are among those that `http` knows. It copies every other, in either
//! direction, which is one more allocation for each.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests may")]

use std::{
    alloc::System,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

use naka_gateway::{
    config::checked::Workers as Layout,
    generation::InForce,
    observe::Metrics,
    prepare::{Before, RunTests, prepare},
    shared::Shared,
    state::State,
    upstream::Connector,
    worker::Workers,
};
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

#[test]
fn a_proxied_request_allocates_at_most_fourteen_times() {
    let upstream = upstream();
    let (workers, gateway) = gateway(upstream);
    for (name, request) in [("GET", GET), ("POST", POST)] {
        let mut client = TcpStream::connect(gateway).unwrap();
        client.set_nodelay(true).unwrap();
        ask(&mut client, request, 200); // Connections are kept, tables have their size.
        let region = Region::new(ALLOCATOR);
        ask(&mut client, request, REQUESTS);
        let made = region.change();
        let all = made.allocations + made.reallocations;
        println!("{name}: {}.{:02} allocations a request", all / REQUESTS, all % REQUESTS / 10);
        assert!(all <= AT_MOST * REQUESTS, "{name}: {all} allocations for {REQUESTS} requests");
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

fn gateway(upstream: SocketAddr) -> (Workers, SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let entry = folder.path().join("gateway.yaml");
    let yaml = format!(
        "
listeners: {{public: {{listen: '127.0.0.1:0'}}}}
policies:
  each: {{rate_limit: {{rate: [1000000/s, 100000000/h], key: [client_ip]}}}}
  room: {{bulkhead: {{max: 100}}}}
upstreams: {{app: {{endpoints: ['{upstream}']}}}}
routes: {{all: {{match: {{prefix: /api}}, use: [each, room], upstream: app}}}}
"
    );
    std::fs::write(&entry, yaml).unwrap();
    let metrics = Arc::new(Metrics::new());
    let before =
        Before { entry: &entry, sources: None, state: &|_| State::new(1), number: 1, tests: RunTests::Never };
    let first = prepare(&before, &metrics, &Connector::Tcp).unwrap_or_else(|refusal| panic!("{refusal}"));
    let name = first.generation.config.listeners["public"].listen;
    let shared = Shared::new(InForce::new(first.generation), metrics, 1);
    let workers = Workers::start(&shared, Layout::Count(1)).unwrap();
    let open = workers.bind(name, &[]).unwrap().open().unwrap();
    let at = open.address();
    workers.accept(open);
    (workers, at)
}
