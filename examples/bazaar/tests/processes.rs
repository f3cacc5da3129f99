//! The services as processes: started, asked over TCP, and stopped by signals.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process of ours, killed if a test forgets it.
struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
}

impl Process {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bazaar"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary was built");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let stderr = child.stderr.take().expect("it is piped");
        Self { child, stdout, stderr }
    }

    /// Reads lines until one has `what` in it.
    fn line_with(&mut self, what: &str) -> String {
        let mut line = String::new();
        while self.stdout.read_line(&mut line).expect("output is text") > 0 {
            if line.contains(what) {
                return line;
            }
            line.clear();
        }
        panic!("no line with {what:?}; errors: {}", self.errors());
    }

    fn errors(&mut self) -> String {
        let mut errors = String::new();
        self.stderr.read_to_string(&mut errors).expect("errors are text");
        errors
    }

    fn signal(&self, signal: Signal) {
        kill(self.child.id(), signal);
    }

    fn end(&mut self) -> ExitStatus {
        eventually("it ends", || self.child.try_wait().expect("it is ours"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A running pricing service.
struct Pricing {
    process: Process,
    at: SocketAddr,
}

impl Pricing {
    fn start(now: &str) -> Self {
        let mut process =
            Process::start(&["pricing", "--listen", "127.0.0.1:0", "--now", now, "--stop-with-stdin"]);
        let line = process.line_with("listens on");
        let at = line.split(['/', ',']).nth(2).and_then(|it| it.parse().ok());
        Self { at: at.unwrap_or_else(|| panic!("no address in {line:?}")), process }
    }
}

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("no process is 0");
    kill_process(pid, signal).expect("it runs");
}

fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let pause = Duration::from_millis(20);
    for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
        if let Some(it) = attempt() {
            return it;
        }
        thread::sleep(pause);
    }
    panic!("{what}: not within {PATIENCE:?}");
}

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero is taken");
    stream
}

fn head(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /api/rides/estimate HTTP/1.1\r\nhost: pricing\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// The status, the head and the body of an answer.
fn answer(mut stream: TcpStream) -> (u16, String, Value) {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers, and closes");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head ends");
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a status is a number");
    (status, head.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn ask(at: SocketAddr, body: &str) -> (u16, String, Value) {
    let mut stream = connect(at);
    stream.write_all((head(body) + body).as_bytes()).expect("it reads");
    answer(stream)
}

fn fort_to_bandra(ride_type: &str) -> Value {
    let (pickup, drop) = (json!({"lat": 18.9220, "lng": 72.8342}), json!({"lat": 19.0760, "lng": 72.8777}));
    json!({"pickup": pickup, "drop": drop, "ride_type": ride_type})
}

#[track_caller]
fn assert_problem((status, head, body): (u16, String, Value), expected: u16, reason: &str) {
    assert_eq!(
        (status, &body["status"], &body["reason"]),
        (expected, &json!(expected), &json!(reason)),
        "{body}"
    );
    assert!(head.contains("application/problem+json"), "{head}");
    assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{body}");
}

#[test]
fn pricing_quotes_the_golden_fares() {
    for (now, fare, surge, expires_at) in [
        ("2026-01-15T12:00+05:30", "541.86", "1.0", "2026-01-15T12:05:"),
        ("2026-01-15T08:00+05:30", "812.80", "1.5", "2026-01-15T08:05:"),
    ] {
        let pricing = Pricing::start(now);
        let (status, _, quote) = ask(pricing.at, &fort_to_bandra("mini").to_string());
        assert_eq!((status, &quote["fare"], &quote["surge"]), (200, &json!(fare), &json!(surge)), "{quote}");
        assert_eq!((&quote["distance_km"], &quote["minutes"]), (&json!(17.724), &json!(106)));
        assert_eq!(quote["zone"], json!({"pickup": "south_mumbai", "drop": "central_mumbai"}));
        assert_eq!((&quote["ride_type"], &quote["currency"]), (&json!("mini"), &json!("INR")));
        assert!(quote["expires_at"].as_str().unwrap().starts_with(expires_at), "{quote}");
        let id = quote["quote_id"].as_str().unwrap();
        assert!(id.len() == 32 && u128::from_str_radix(id, 16).is_ok(), "{id}");
        let (_, _, another) = ask(pricing.at, &fort_to_bandra("mini").to_string());
        assert_ne!(quote["quote_id"], another["quote_id"]);
    }
}

#[test]
fn pricing_quotes_all_types_when_none_is_named() {
    let pricing = Pricing::start("2026-01-15T12:00+05:30");
    let mut request = fort_to_bandra("mini");
    request.as_object_mut().unwrap().remove("ride_type");
    let (status, _, body) = ask(pricing.at, &request.to_string());
    let fares = body["estimates"].as_array().unwrap().iter().map(|it| (&it["ride_type"], &it["fare"]));
    let golden = [
        ("mini", "541.86"),
        ("prime", "791.80"),
        ("suv", "1049.23"),
        ("auto", "508.04"),
        ("bike", "394.19"),
        ("outstation", "964.66"),
    ];
    assert_eq!(status, 200);
    assert!(
        fares.eq(golden.map(|(ride_type, fare)| (json!(ride_type), json!(fare))).iter().map(|(a, b)| (a, b)))
    );
}

#[test]
fn pricing_says_what_is_wrong() {
    let pricing = Pricing::start("2026-01-15T12:00+05:30");
    let at = pricing.at;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut request = fort_to_bandra("mini");
        change(&mut request);
        ask(at, &request.to_string())
    };

    let rickshaw = with(&|it| it["ride_type"] = json!("rickshaw"));
    assert_eq!(rickshaw.2["ride_types"], json!(["mini", "prime", "suv", "auto", "bike", "outstation"]));
    assert_problem(rickshaw, 422, "unknown_ride_type");
    let pune = with(&|it| it["drop"] = json!({"lat": 18.5204, "lng": 73.8567}));
    assert_eq!(pune.2["at"], "drop");
    assert_problem(pune, 422, "out_of_area");
    assert_problem(with(&|it| it["pickup"]["lat"] = json!(91)), 422, "invalid_coordinates");
    assert_problem(with(&|it| it["pickup"]["lat"] = json!("18.9")), 422, "unexpected_json");
    assert_problem(with(&|it| it["ride_typ"] = json!("mini")), 422, "unexpected_json");
    assert_problem(with(&|it| it["pickup"] = Value::Null), 422, "unexpected_json");
    assert_problem(ask(at, ""), 400, "malformed_json");
    assert_problem(ask(at, "{\"pickup\": "), 400, "malformed_json");
    assert_problem(ask(at, &format!("[{}]", " ".repeat(16 * 1024))), 413, "body_too_large");
}

#[test]
fn pricing_says_what_it_serves() {
    let pricing = Pricing::start("2026-01-15T12:00+05:30");
    let get = |path: &str| {
        let mut stream = connect(pricing.at);
        let request = format!("GET {path} HTTP/1.1\r\nhost: pricing\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        answer(stream)
    };
    assert_eq!((get("/healthz").0, get("/readyz").0), (200, 200));
    let wrong_method = get("/api/rides/estimate");
    assert!(wrong_method.1.to_ascii_lowercase().contains("allow: post"), "{}", wrong_method.1);
    assert_problem(wrong_method, 405, "method_not_allowed");
    assert_problem(get("/api/rides/estimateXYZ"), 404, "not_found");
}

#[test]
fn sigterm_ends_pricing_once_it_has_answered() {
    let mut pricing = Pricing::start("2026-01-15T12:00+05:30");
    let (request, at) = (fort_to_bandra("mini").to_string(), pricing.at);
    let (first, rest) = request.split_at(10);
    let mut under_way = connect(at);
    under_way.write_all((head(&request) + first).as_bytes()).unwrap();
    let idle = connect(at);
    ask(at, &request); // Accepted later, so those before are accepted too.

    pricing.process.signal(Signal::TERM);
    pricing.process.line_with("stops on SIGTERM");
    eventually("it listens no longer", || TcpStream::connect(at).is_err().then_some(()));
    under_way.write_all(rest.as_bytes()).unwrap();
    let (status, _, quote) = answer(under_way);
    assert_eq!((status, &quote["fare"]), (200, &json!("541.86")));
    assert_eq!(pricing.process.end().code(), Some(0));
    drop(idle);
}

#[test]
fn pricing_stops_with_its_standard_input() {
    let mut pricing = Pricing::start("2026-01-15T12:00+05:30");
    drop(pricing.process.child.stdin.take());
    assert_eq!(pricing.process.end().code(), Some(0));
}

/// `bazaar up` without the gateway, and the process that it started.
struct Up {
    process: Process,
    at: SocketAddr,
    pricing: u32,
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound")
}

impl Up {
    fn start() -> Self {
        let at = free_address();
        let now = "2026-01-15T12:00+05:30";
        let args = ["up", "--no-gateway", "--pricing-listen", &at.to_string(), "--now", now];
        let mut process = Process::start(&args);
        let line = process.line_with("(process ");
        let pid =
            line.split("(process ").nth(1).and_then(|it| it.trim_end().trim_end_matches(')').parse().ok());
        Self { process, at, pricing: pid.unwrap_or_else(|| panic!("no process in {line:?}")) }
    }

    fn assert_nobody_listens(&self) {
        eventually("pricing is gone", || TcpStream::connect(self.at).is_err().then_some(()));
    }
}

#[test]
fn up_starts_pricing_and_stops_it() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut up = Up::start();
        up.process.line_with("Ctrl-C stops");
        assert_eq!(ask(up.at, &fort_to_bandra("mini").to_string()).2["fare"], "541.86");
        up.process.signal(signal);
        up.process.line_with("[pricing] pricing stops on SIGTERM");
        assert_eq!(up.process.end().code(), Some(0));
        up.assert_nobody_listens();
    }
}

#[test]
fn up_ends_when_a_child_dies() {
    let mut up = Up::start();
    kill(up.pricing, Signal::KILL);
    assert_eq!(up.process.end().code(), Some(1));
    let errors = up.process.errors();
    assert!(errors.contains("bazaar up: pricing ended: signal: 9"), "{errors}");
}

#[test]
fn no_child_survives_up() {
    let mut up = Up::start();
    up.process.signal(Signal::KILL);
    up.process.end();
    up.assert_nobody_listens();
}

#[test]
fn up_names_who_needs_a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let mut up = Process::start(&["up", "--no-gateway", "--pricing-listen", &at.to_string()]);
    assert_eq!(up.end().code(), Some(1));
    let (errors, expected) = (up.errors(), format!("port {}, which pricing needs, is taken", at.port()));
    assert!(errors.contains(&expected), "{errors}");
}

#[test]
fn up_says_where_it_looked_for_its_configuration() {
    let mut up = Process::start(&["up", "--config", "no-such.yaml"]);
    assert_eq!(up.end().code(), Some(1));
    let errors = up.errors();
    assert!(errors.contains("there is no no-such.yaml, neither here nor in "), "{errors}");
}

/// The worked example as it stands at the top of the repository, but for its ports.
#[test]
fn the_tour_goes_through_the_gateway() {
    let example = include_str!("../../../gateway.yaml");
    for (now, fare) in [("2026-01-15T12:00+05:30", "541.86"), ("2026-01-15T08:00+05:30", "812.80")] {
        let ports = ["127.0.0.1:8080", "127.0.0.1:9901", "127.0.0.1:8201"];
        let sockets = ports.map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [public, _, pricing] = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        let mut yaml = example.to_owned();
        for (port, socket) in ports.iter().zip(&sockets) {
            assert!(yaml.contains(port), "{port}");
            yaml = yaml.replace(port, &socket.local_addr().unwrap().to_string());
        }
        drop(sockets);
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tour-{fare}.yaml"));
        std::fs::write(&file, yaml).unwrap();
        let config = file.to_str().unwrap();
        let args = ["up", "--config", config, "--pricing-listen", &pricing.to_string(), "--now", now];
        let mut up = Process::start(&args);
        up.line_with("Ctrl-C stops");
        let (status, head, quote) = ask(public, &fort_to_bandra("mini").to_string());
        assert_eq!((status, &quote["fare"]), (200, &json!(fare)), "{quote}");
        assert!(head.to_ascii_lowercase().contains("x-request-id: "), "it came through the gateway: {head}");
        let mut stream = connect(public);
        let wrong = b"GET /api/rides/estimate HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(wrong).expect("it reads");
        let (status, _, problem) = answer(stream);
        assert_eq!((status, &problem["reason"]), (405, &json!("method_not_allowed")), "{problem}");
        up.signal(Signal::INT);
        assert_eq!(up.end().code(), Some(0));
    }
}
