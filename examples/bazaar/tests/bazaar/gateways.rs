//! The worked example as it stands at the top of the repository, but for its ports: through one gateway, and through two.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::Command,
};

use bazaar::demo::keys::{Claims, Keys};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http::{Answer, Ask, get, post},
    process::Process,
    world::{NOON, Service, trip},
};

const EXAMPLE: &str = include_str!("../../../../gateway.yaml");

/// Whoever `gateway.yaml` knows, and the port that it has there.
const PORTS: [(&str, &str); 7] = [
    ("public", "127.0.0.1:8080"),
    ("admin", "127.0.0.1:9901"),
    ("user", "127.0.0.1:8101"),
    ("pricing", "127.0.0.1:8201"),
    ("driver", "127.0.0.1:8202"),
    ("booking", "127.0.0.1:8203"),
    ("tracking", "127.0.0.1:8204"),
];

/// Where everybody is.
type Addresses = BTreeMap<&'static str, SocketAddr>;

fn addresses() -> Addresses {
    let sockets = PORTS.map(|_| TcpListener::bind("127.0.0.1:0").unwrap()); // All at once, so that they differ.
    PORTS.iter().zip(&sockets).map(|((name, _), socket)| (*name, socket.local_addr().unwrap())).collect()
}

fn yaml(at: &Addresses) -> String {
    PORTS.iter().fold(EXAMPLE.to_owned(), |yaml, (name, port)| {
        assert!(yaml.contains(port), "{port}");
        yaml.replace(port, &at[name].to_string())
    })
}

/// `bazaar up`, with the worked example.
struct Bazaar {
    process: Process,
    data: TempDir,
    at: Addresses,
}

impl Bazaar {
    fn open(now: &str) -> Self {
        let (data, at) = (tempfile::tempdir().unwrap(), addresses());
        let config = data.path().join("gateway.yaml");
        std::fs::write(&config, yaml(&at)).unwrap();
        let services =
            PORTS[2..].iter().flat_map(|(name, _)| ["--at".to_owned(), format!("{name}={}", at[name])]);
        let services = services.collect::<Vec<_>>();
        let mut args = vec!["up", "--now", now, "--data", data.path().to_str().unwrap()];
        args.extend(["--config", config.to_str().unwrap()]);
        args.extend(services.iter().map(String::as_str));
        let mut process = Process::start(&args);
        process.line_with("Ctrl-C stops");
        Self { process, data, at }
    }

    fn send(&self, ask: &Ask) -> Answer {
        ask.send(self.at["public"])
    }

    fn quote(&self, ride_type: &str) -> Answer {
        self.send(&post("/api/rides/estimate", &trip(ride_type))).expect(200)
    }
}

fn token(data: &Path, sub: &str) -> String {
    let claims = Claims::of(sub, std::time::Duration::from_mins(5));
    format!("Bearer {}", Keys::of(data).unwrap().token(&claims).unwrap())
}

fn book(token: &str, key: &str, quote_id: &str) -> Ask {
    let ask = post("/api/rides/book", &json!({"quote_id": quote_id}));
    ask.header("authorization", token).header("idempotency-key", key)
}

#[test]
fn r2_13_all_of_it_end_to_end_through_the_gateway() {
    for (now, fare) in [(NOON, "541.86"), ("2026-01-15T08:00+05:30", "812.80")] {
        let mut bazaar = Bazaar::open(now);
        bazaar.send(&get("/health")).expect(200);
        let quote = bazaar.quote("mini");
        assert_eq!(quote.said("fare"), fare);
        assert!(quote.head.contains("x-request-id: "), "it came through the gateway: {}", quote.head);
        let near =
            bazaar.send(&get("/api/drivers/nearby?lat=19.0178&lng=72.8478&ride_type=bike")).expect(200);
        assert_eq!(near.body["drivers"][0]["driver_id"], "006");

        let (asha, bela) = (token(bazaar.data.path(), "asha"), token(bazaar.data.path(), "bela"));
        let ask = book(&asha, "key", &quote.said("quote_id"));
        let booked = bazaar.send(&ask).expect(201);
        assert_eq!((booked.said("fare").as_str(), booked.said("state").as_str()), (fare, "assigned"));
        let again = bazaar.send(&ask).expect(201);
        assert_eq!(
            (again.text, again.head.contains("idempotency-replayed: true")),
            (booked.text.clone(), true)
        );

        let ride = format!("/api/rides/{}", booked.said("ride_id"));
        let [read, track] = [ride.clone(), format!("{ride}/track")].map(|path| get(&path));
        assert_eq!(bazaar.send(&read.clone().header("authorization", &asha)).expect(200).text, booked.text);
        let seen = bazaar.send(&track.clone().header("authorization", &asha)).expect(200);
        assert_eq!(seen.body["vehicle"], booked.body["driver"]["vehicle"]);

        // A stranger, somebody without a token, and somebody who says who they are without one.
        for path in [&read, &track] {
            bazaar.send(&path.clone().header("authorization", &bela)).problem(404, "unknown_ride");
            bazaar.send(path).problem(401, "credentials_missing");
            bazaar.send(&path.clone().by("asha")).problem(401, "credentials_missing");
            bazaar.send(&path.clone().header("authorization", &bela).by("asha")).problem(404, "unknown_ride");
        }
        let cancel = post(&format!("{ride}/cancel"), &Value::Null);
        bazaar.send(&cancel.clone().header("authorization", &bela)).problem(404, "unknown_ride");
        let first = bazaar.send(&cancel.clone().header("authorization", &asha)).expect(200);
        let second = bazaar.send(&cancel.clone().header("authorization", &asha)).expect(200);
        assert_eq!((first.said("refund").as_str(), second.text == first.text), (fare, true));

        // What is only between the services is not to be had.
        bazaar.send(&get("/assignments/x")).problem(404, "route_not_found");
        bazaar.send(&get("/quotes/x")).problem(404, "route_not_found");
        let wrong =
            bazaar.send(&post("/api/drivers/nearby", &Value::Null)).problem(405, "method_not_allowed");
        assert!(wrong.head.contains("allow: get"), "{}", wrong.head);
        bazaar.process.signal(Signal::INT);
        assert_eq!(bazaar.process.end().code(), Some(0));
    }
}

#[test]
fn the_gateway_asks_who_it_is_and_for_a_key() {
    let bazaar = Bazaar::open(NOON);
    let asha = token(bazaar.data.path(), "asha");
    let quote_id = bazaar.quote("mini").said("quote_id");
    let body = json!({"quote_id": quote_id});
    let keyless = post("/api/rides/book", &body).header("authorization", &asha);
    bazaar.send(&keyless).problem(400, "idempotency_key_missing");
    let strange = tempfile::tempdir().unwrap();
    bazaar.send(&book(&token(strange.path(), "asha"), "1", &quote_id)).expect(401);
    let progress = post("/api/rides/x/progress", &json!({"state": "arriving"}));
    bazaar.send(&progress.header("authorization", &asha)).problem(403, "forbidden");
    // Each books as often as they may, and no more; what was refused booked nothing.
    let answers =
        (0..25).map(|n| bazaar.send(&book(&asha, &format!("{n}"), "unknown")).status).collect::<Vec<_>>();
    assert_eq!(
        answers.iter().filter(|status| **status == 429).count(),
        25 - (20 - 1),
        "one went without a key: {answers:?}"
    );
    bazaar.send(&book(&token(bazaar.data.path(), "bela"), "1", &quote_id)).expect(201);
}

#[test]
fn a_ride_from_the_terminal() {
    let bazaar = Bazaar::open(NOON);
    let (gateway, data) = (bazaar.at["public"].to_string(), bazaar.data.path().to_str().unwrap());
    for _ in 0..2 {
        let mut ride = Process::start(&["ride", "--gateway", &gateway, "--data", data]);
        let said = ride.rest();
        assert_eq!(ride.end().code(), Some(0), "{said} {}", ride.errors());
        for step in
            ["POST /api/rides/estimate", "POST /api/rides/book", "GET /api/rides/", "/cancel", "541.86"]
        {
            assert!(said.contains(step), "{step}: {said}");
        }
    }
    // Nobody drives an outstation car.
    let mut ride =
        Process::start(&["ride", "--gateway", &gateway, "--data", data, "--ride-type", "outstation"]);
    assert_eq!(ride.end().code(), Some(1));
    let errors = ride.errors();
    assert!(
        errors.contains("/api/rides/book should have been 201 Created, and was 409 Conflict"),
        "{errors}"
    );
}

#[test]
fn a_token_from_the_terminal() {
    let bazaar = Bazaar::open(NOON);
    let data = bazaar.data.path().to_str().unwrap();
    let token = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bazaar"));
        let output = command.args(["token", "--data", data]).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        format!("Bearer {}", String::from_utf8(output.stdout).unwrap().trim_end())
    };
    let progress = post("/api/rides/x/progress", &json!({"state": "arriving"}));
    let driver = token(&["--sub", "001", "--role", "driver"]);
    bazaar.send(&progress.header("authorization", &driver)).problem(404, "unknown_ride");
    // Premium riders may book five times as often.
    let (plain, premium) = (token(&["--sub", "asha"]), token(&["--sub", "bela", "--tier", "premium"]));
    let passed = |token: &str| {
        let all = (0..30).map(|n| bazaar.send(&book(token, &format!("{n}"), "unknown")).status);
        all.filter(|status| *status == 422).count()
    };
    assert_eq!((passed(&plain), passed(&premium)), (20, 30));
    let key = bazaar.data.path().join("signing-key.pk8");
    assert_eq!(std::fs::metadata(key).unwrap().mode() & 0o777, 0o600);
}

/// One driver, a hundred riders, two gateways in front of one booking service.
#[test]
fn r2_14_of_a_hundred_simultaneous_bookings_through_two_gateways_one_has_the_driver() {
    let (data, mut at) = (tempfile::tempdir().unwrap(), addresses());
    let start =
        |name: &str, at: SocketAddr, more: &[&str]| Service::start(name, data.path(), Some(at), NOON, more);
    let _services = ["user", "pricing", "driver", "tracking"].map(|name| start(name, at[name], &[]));
    let peers =
        ["pricing", "driver", "tracking"].map(|name| [format!("--{name}"), at[name].to_string()]).concat();
    let _booking = start("booking", at["booking"], &peers.iter().map(String::as_str).collect::<Vec<_>>());
    let gateways = [(), ()].map(|()| {
        let own = addresses();
        at.insert("public", own["public"]);
        at.insert("admin", own["admin"]);
        let config = data.path().join(format!("gateway-{}.yaml", at["public"].port()));
        // Whoever is slower than three seconds today is still to be told that there is no driver.
        std::fs::write(&config, yaml(&at).replace("max_wait: 3s", "max_wait: 9s")).unwrap();
        let process = Process::start(&["naka", "--stop-with-stdin", "run", "-c", config.to_str().unwrap()]);
        let admin = at["admin"];
        crate::process::eventually("the gateway is ready", || {
            get("/readyz").attempt(admin).ok().filter(|it| it.status == 200).map(drop)
        });
        (process, at["public"])
    });

    let asks = (0..100).map(|n| {
        let gateway = gateways[n % 2].1;
        let quote = post("/api/rides/estimate", &trip("suv")).send(gateway).expect(200);
        (gateway, book(&token(data.path(), &format!("rider-{n}")), "key", &quote.said("quote_id")))
    });
    let asks = asks.collect::<Vec<_>>();
    let barrier = std::sync::Barrier::new(asks.len());
    let answers = std::thread::scope(|scope| {
        let barrier = &barrier;
        let all = asks.iter().map(|(gateway, ask)| {
            scope.spawn(move || {
                barrier.wait();
                ask.send(*gateway)
            })
        });
        let all = all.collect::<Vec<_>>();
        all.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
    });
    let assigned = answers.iter().filter(|it| it.status == 201 && it.body["state"] == "assigned").count();
    let without = answers.iter().filter(|it| it.status == 409 && it.body["reason"] == "no_driver").count();
    let others = answers.iter().filter(|it| ![201, 409].contains(&it.status)).map(|it| &it.text);
    assert_eq!((assigned, without), (1, 99), "{:?}", others.collect::<Vec<_>>());
}
