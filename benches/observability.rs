//! What it costs that each request is told about: `cargo bench --bench observability`.
//!
//! One gateway process for each row, the client, the upstream and the collector in this one; so what is measured of a gateway is its
//! own. CPU time is that of `/proc`, in rounds in which all rows are asked in turn: what counts is the ratio within a round.
//!
//! | Argument | What it does |
//! | --- | --- |
//! | `--instructions` | Counts instructions, under valgrind if it is there: of so many requests, and of twice as many |
//! | `--rounds 8` `--requests 40000` | As many |
//!
//! Metrics are always on: they are in every row, also in the one that says `off`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "benches may")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::ExitCode,
};

use counters::{Counter, is_here};
use process::{Gateway, answer, served};

mod counters;
mod process;

const OFF: &str = "off";

/// What is told in each row.
const ROWS: [(&str, &str); 6] = [
    (OFF, ""),
    ("traces, 5%", "tracing: {otlp: 'http://COLLECTOR', sample: 5%}"),
    ("traces, all", "tracing: {otlp: 'http://COLLECTOR'}"),
    ("log, 10% of 2xx", "access_log: {file: access.jsonl, headers: [user-agent], sample: {2xx: 10%}}"),
    ("log, all", "access_log: {file: access.jsonl, headers: [user-agent]}"),
    (
        "traces 5%, log, all",
        "tracing: {otlp: 'http://COLLECTOR', sample: 5%}, access_log: {file: access.jsonl, headers: [user-agent]}",
    ),
];

const YAML: &str = "
gateway: {admin: none, workers: 1, telemetry: {TOLD}}
listeners: {public: {listen: 'PUBLIC'}}
policies:
  each: {rate_limit: {rate: [1000000/s, 100000000/h], key: [client_ip]}}
  room: {bulkhead: {max: 100}}
upstreams: {app: {endpoints: ['UPSTREAM']}}
routes: {all: {match: {prefix: /api}, use: [each, room], upstream: app}}
";

const GET: &[u8] = b"GET /api/orders/17?full=1 HTTP/1.1\r\nhost: api.example\r\nuser-agent: curl/8.9\r\n\
    accept: application/json\r\naccept-encoding: gzip, br\r\naccept-language: en-IN\r\n\
    cookie: session=0123456789\r\nreferer: http://api.example/\r\n\r\n";

fn main() -> ExitCode {
    let args = std::env::args().collect::<Vec<_>>();
    let value = |word: &str| args.iter().skip_while(|arg| *arg != word).nth(1)?.parse::<u32>().ok();
    if !args.iter().any(|arg| arg == "--bench") {
        return ExitCode::SUCCESS; // A test run.
    }
    let (upstream, collector) = (served(answer), served(collect));
    if args.iter().any(|arg| arg == "--instructions") {
        return instructions(upstream, collector, value("--requests").unwrap_or(1000));
    }
    let (rounds, requests) = (value("--rounds").unwrap_or(8), value("--requests").unwrap_or(40_000));
    let gateways = ROWS.map(|row| start(row, upstream, collector, None));
    println!(
        "{rounds} rounds of {requests} requests each, in turn; CPU time of a request in µs, and its ratio to `{OFF}`"
    );
    let mut took = ROWS.map(|_| Vec::new());
    for round in 0..=rounds {
        for (gateway, took) in gateways.iter().zip(&mut took) {
            let before = gateway.cpu();
            gateway.ask(GET, requests);
            if round > 0 {
                took.push(gateway.cpu().saturating_sub(before).as_secs_f64() * 1e6 / f64::from(requests));
            }
        }
    }
    println!("{:<22} {:>8} {:>8}   ratio of each round", "", "µs", "ratio");
    for ((name, _), row) in ROWS.iter().zip(&took) {
        let ratios = row.iter().zip(&took[0]).map(|(it, off)| it / off).collect::<Vec<_>>();
        let each = ratios.iter().map(|ratio| format!("{ratio:.3}")).collect::<Vec<_>>().join(" ");
        println!("{name:<22} {:>8.2} {:>8.3}   {each}", median(row), median(&ratios));
    }
    ExitCode::SUCCESS
}

fn median(of: &[f64]) -> f64 {
    let mut all = of.to_vec();
    all.sort_unstable_by(f64::total_cmp);
    f64::midpoint(all[(all.len() - 1) / 2], all[all.len() / 2])
}

fn instructions(upstream: SocketAddr, collector: SocketAddr, requests: u32) -> ExitCode {
    if !is_here("valgrind") {
        return ExitCode::SUCCESS;
    }
    println!(
        "instructions of a request, from {requests} requests and {} more; and their ratio to `{OFF}`",
        requests * 4
    );
    let mut off = None;
    for row in ROWS {
        let mut counted = [requests, requests * 5].map(|requests| {
            let folder = tempfile::tempdir().unwrap();
            let counts = folder.path().join("counts");
            let gateway = start(row, upstream, collector, Some(&Counter::Callgrind(&counts)));
            gateway.ask(GET, requests);
            gateway.end();
            counters::instructions(&counts)
        });
        counted[1] -= counted[0];
        let each = counted[1] / f64::from(requests * 4);
        println!("{:<22} {each:>10.0} {:>8.3}", row.0, each / *off.get_or_insert(each));
    }
    ExitCode::SUCCESS
}

fn start(
    (_, told): (&str, &str),
    upstream: SocketAddr,
    collector: SocketAddr,
    counter: Option<&Counter<'_>>,
) -> Gateway {
    Gateway::start(Path::new(env!("CARGO_BIN_EXE_naka-under-test")), counter, |folder, at| {
        let yaml = YAML.replace("TOLD", told).replace("COLLECTOR", &collector.to_string());
        let yaml = yaml.replace("PUBLIC", &at.to_string()).replace("UPSTREAM", &upstream.to_string());
        // Not beside the configuration, whose folder is watched.
        let logs = folder.join("log");
        fs::create_dir(&logs).unwrap();
        let yaml = yaml.replace("access.jsonl", logs.join("access.jsonl").to_str().unwrap());
        let config = folder.join("gateway.yaml");
        fs::write(&config, yaml).unwrap();
        config
    })
}

/// Reads what it is sent, and says that it has.
fn collect(stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0_u64;
        loop {
            let mut line = String::new();
            if !stream.read_line(&mut line).is_ok_and(|got| got > 0) {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        if std::io::copy(&mut stream.by_ref().take(length), &mut std::io::sink()).is_err() {
            return;
        }
        if stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}
