//! `bazaar up`, and a ride through all that it starts.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    http::{get, post},
    process::{Process, eventually, free_address, kill},
    world::{NOON, trip},
};

/// The services, in the order in which they stop.
const SERVICES: [&str; 15] = [
    "booking",
    "order",
    "payment",
    "notification",
    "inventory-query",
    "tracking",
    "driver",
    "pricing",
    "bank",
    "restaurant",
    "inventory",
    "product-v3",
    "product-v2",
    "product",
    "user",
];

const RIDES: [&str; 5] = ["booking", "tracking", "driver", "pricing", "user"];

/// Where everybody is to listen.
type Addresses = BTreeMap<&'static str, SocketAddr>;

fn addresses() -> Addresses {
    SERVICES.map(|name| (name, free_address())).into()
}

/// `bazaar up`, and where its processes listen.
struct Up {
    process: Process,
    data: TempDir,
    at: Addresses,
}

impl Up {
    /// The rides, without the gateway.
    fn rides() -> Self {
        Self::start(&["--no-gateway", "--only", "rides"])
    }

    fn start(more: &[&str]) -> Self {
        let (data, at) = (tempfile::tempdir().unwrap(), addresses());
        let process = up(data.path(), &at, more);
        Self { process, data, at }
    }

    fn assert_nobody_listens(&self) {
        for (name, at) in &self.at {
            eventually(name, || TcpStream::connect(at).is_err().then_some(()));
        }
    }
}

fn up(data: &Path, at: &Addresses, more: &[&str]) -> Process {
    let at = at.iter().map(|(name, at)| format!("{name}={at}")).collect::<Vec<_>>();
    let mut args = vec!["up", "--data", data.to_str().unwrap(), "--now", NOON];
    args.extend(at.iter().flat_map(|at| ["--at", at]));
    args.extend(more);
    Process::start(&args)
}

#[test]
fn up_starts_the_services_and_stops_them_who_asks_before_who_is_asked() {
    let all = &["--no-gateway"][..];
    let parts =
        [(Signal::TERM, all, &SERVICES[..]), (Signal::INT, &[all, &["--only", "rides"]].concat(), &RIDES)];
    for (signal, more, services) in parts {
        let mut up = Up::start(more);
        up.process.line_with("Ctrl-C stops");
        for name in SERVICES {
            let is_there = get("/readyz").attempt(up.at[name]).is_ok_and(|answer| answer.status == 200);
            assert_eq!(is_there, services.contains(&name), "{name}");
        }
        let quote = post("/api/rides/estimate", &trip("mini")).send(up.at["pricing"]).expect(200);
        assert_eq!(quote.said("fare"), "541.86");
        up.process.signal(signal);
        let stopped = up.process.rest();
        let said = stopped.lines().filter_map(|line| line.split_once(" stops on SIGTERM"));
        let order = said.map(|(before, _)| before.rsplit(' ').next().unwrap()).collect::<Vec<_>>();
        assert_eq!(order, services);
        assert_eq!(up.process.end().code(), Some(0));
        up.assert_nobody_listens();
    }
}

#[test]
fn up_ends_when_a_child_dies() {
    let mut up = Up::rides();
    let line = up.process.line_with("pricing  ");
    let pid = line.split("(process ").nth(1).and_then(|it| it.trim_end().trim_end_matches(')').parse().ok());
    kill(pid.unwrap_or_else(|| panic!("no process in {line:?}")), Signal::KILL);
    assert_eq!(up.process.end().code(), Some(1));
    let errors = up.process.errors();
    assert!(errors.contains("bazaar up: pricing ended: signal: 9"), "{errors}");
    up.assert_nobody_listens();
}

#[test]
fn no_child_survives_up() {
    let mut up = Up::rides();
    up.process.line_with("Ctrl-C stops");
    up.process.signal(Signal::KILL);
    up.process.end();
    up.assert_nobody_listens();
}

#[test]
fn up_names_who_needs_a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let mut up = Up::start(&["--no-gateway", "--only", "rides", "--at", &format!("tracking={at}")]);
    assert_eq!(up.process.end().code(), Some(1));
    let (errors, expected) =
        (up.process.errors(), format!("port {}, which tracking needs, is taken", at.port()));
    assert!(errors.contains(&expected), "{errors}");
}

#[test]
fn up_says_where_it_looked_for_its_configuration() {
    let mut up = Process::start(&["up", "--config", "no-such.yaml"]);
    assert_eq!(up.end().code(), Some(1));
    let errors = up.errors();
    assert!(errors.contains("there is no no-such.yaml, neither here nor in "), "{errors}");
}

#[test]
fn up_begins_anew_only_if_it_is_told_to() {
    let mut up = Up::rides();
    let at = up.at["driver"];
    let busy = "SELECT count(*) FROM assignments";
    let count = |data: &Path| {
        let file = rusqlite::Connection::open(data.join("driver.db")).unwrap();
        file.query_row(busy, (), |row| row.get::<_, u32>(0)).unwrap()
    };
    let release = post("/assignments/some-ride/release", &json!({}));
    up.process.line_with("Ctrl-C stops");
    let of_the_shop = up.data.path().join("payment.db");
    std::fs::write(&of_the_shop, "").unwrap();
    for (more, expected) in [(&[][..], 1), (&["--fresh"][..], 0)] {
        release.send(at).expect(204);
        let key = std::fs::read(up.data.path().join("signing-key.pk8")).unwrap();
        up.process.signal(Signal::TERM);
        assert_eq!(up.process.end().code(), Some(0));
        let more = [&["--no-gateway", "--only", "rides"], more].concat();
        up.process = self::up(up.data.path(), &up.at, &more);
        up.process.line_with("Ctrl-C stops");
        assert_eq!(count(up.data.path()), expected);
        assert_eq!(of_the_shop.exists(), expected == 1, "all of them, whatever is started");
        assert_eq!(
            std::fs::read(up.data.path().join("signing-key.pk8")).unwrap(),
            key,
            "tokens go on being good"
        );
    }
}

/// A client that has sent half a request is cut off by its service in time, and nobody is killed for it.
#[test]
fn up_waits_for_each_service_for_as_long_as_it_drains() {
    let mut up = Up::rides();
    up.process.line_with("Ctrl-C stops");
    let half = post("/api/rides/book", &json!({"quote_id": "x"})).by("asha").header("idempotency-key", "1");
    let (_half, _) = half.begin(up.at["booking"], 5);
    post("/api/rides/estimate", &trip("mini")).send(up.at["pricing"]).expect(200);
    up.process.signal(Signal::TERM);
    let said = up.process.rest();
    assert!(said.contains("booking cuts off what is not finished") && !said.contains("is killed"), "{said}");
    assert_eq!(up.process.end().code(), Some(0));
}

#[test]
fn up_takes_no_databases_away_that_are_in_use() {
    let mut up = Up::rides();
    up.process.line_with("Ctrl-C stops");
    let mut second = self::up(up.data.path(), &addresses(), &["--no-gateway", "--fresh"]);
    assert_eq!(second.end().code(), Some(1));
    let errors = second.errors();
    assert!(errors.contains("is in use: stop whatever runs on it"), "{errors}");
    post("/api/rides/estimate", &trip("mini")).send(up.at["pricing"]).expect(200);
}

#[test]
fn up_refuses_addresses_that_cannot_be() {
    let start = |at: &[&str]| {
        let mut up = Process::start(&[&["up", "--no-gateway"], at].concat());
        assert_ne!(up.end().code(), Some(0));
        up.errors()
    };
    for (at, expected) in [
        (&["--at", "pricing=127.0.0.1:0"][..], "is no address with a port"),
        (&["--at", "prices=127.0.0.1:8301"], "there is no service \"prices\"; there are user, product, "),
        (&["--at", "pricing"], "write it like pricing=127.0.0.1:8301"),
    ] {
        let errors = start(at);
        assert!(errors.contains(expected), "{at:?}: {errors}");
    }
    let (data, one) = (tempfile::tempdir().unwrap(), free_address());
    let mut up = up(data.path(), &SERVICES.map(|name| (name, one)).into(), &["--no-gateway"]);
    assert_eq!(up.end().code(), Some(1));
    let errors = up.errors();
    assert!(errors.contains("user and product cannot both listen on"), "{errors}");
}
