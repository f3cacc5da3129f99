//! What a ride costs, asked of the process.

use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http::{get, post, read},
    process::eventually,
    world::{BANDRA, FORT, NOON, Service},
};

fn start(now: &str) -> (Service, TempDir) {
    let data = tempfile::tempdir().unwrap();
    (Service::start("pricing", data.path(), None, now, &[]), data)
}

fn fort_to_bandra(ride_type: &str) -> Value {
    let point = |(lat, lng): (f64, f64)| json!({"lat": lat, "lng": lng});
    json!({"pickup": point(FORT), "drop": point(BANDRA), "ride_type": ride_type})
}

#[test]
fn r2_13_pricing_quotes_the_golden_fares() {
    let golden = [
        ("mini", "541.86", "812.80"),
        ("prime", "791.80", "1187.69"),
        ("suv", "1049.23", "1573.84"),
        ("auto", "508.04", "762.06"),
        ("bike", "394.19", "591.29"),
        ("outstation", "964.66", "1446.99"),
    ];
    for (now, surge, expires_at) in [
        (NOON, "1.0", "2026-01-15T12:05:"),
        ("2026-01-15T08:00+05:30", "1.5", "2026-01-15T08:05:"),
        ("2026-01-15T10:58+05:30", "1.5", "2026-01-15T11:03:"),
        ("2026-01-15T11:00+05:30", "1.0", "2026-01-15T11:05:"),
    ] {
        let (pricing, _data) = start(now);
        for (ride_type, off_peak, in_surge) in golden {
            let quote =
                post("/api/rides/estimate", &fort_to_bandra(ride_type)).send(pricing.at).expect(200).body;
            let fare = if surge == "1.0" { off_peak } else { in_surge };
            assert_eq!((&quote["fare"], &quote["surge"]), (&json!(fare), &json!(surge)), "{quote}");
            assert_eq!((&quote["distance_km"], &quote["minutes"]), (&json!(17.724), &json!(106)));
            assert_eq!(quote["zone"], json!({"pickup": "south_mumbai", "drop": "central_mumbai"}));
            assert_eq!((&quote["ride_type"], &quote["currency"]), (&json!(ride_type), &json!("INR")));
            assert!(quote["expires_at"].as_str().unwrap().starts_with(expires_at), "{quote}");
        }
    }
}

#[test]
fn pricing_quotes_all_types_when_none_is_named_each_with_an_id_of_its_own() {
    let (pricing, _data) = start(NOON);
    let mut request = fort_to_bandra("mini");
    request.as_object_mut().unwrap().remove("ride_type");
    let ask = post("/api/rides/estimate", &request);
    let (first, second) = (ask.send(pricing.at).expect(200).body, ask.send(pricing.at).expect(200).body);
    let estimates = |body: &Value| body["estimates"].as_array().unwrap().clone();
    let fares =
        estimates(&first).iter().map(|it| (it["ride_type"].clone(), it["fare"].clone())).collect::<Vec<_>>();
    let golden = [
        ("mini", "541.86"),
        ("prime", "791.80"),
        ("suv", "1049.23"),
        ("auto", "508.04"),
        ("bike", "394.19"),
        ("outstation", "964.66"),
    ];
    assert_eq!(fares, golden.map(|(ride_type, fare)| (json!(ride_type), json!(fare))));
    let both = estimates(&first).into_iter().chain(estimates(&second));
    let ids = both.map(|it| it["quote_id"].to_string()).collect::<std::collections::HashSet<_>>();
    assert_eq!(ids.len(), 12);
}

#[test]
fn pricing_says_what_is_wrong() {
    let (pricing, _data) = start(NOON);
    let at = pricing.at;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut request = fort_to_bandra("mini");
        change(&mut request);
        post("/api/rides/estimate", &request).send(at)
    };
    let text = |body: &str| post("/api/rides/estimate", &Value::Null).text(body).send(at);

    let rickshaw = with(&|it| it["ride_type"] = json!("rickshaw")).problem(422, "unknown_ride_type");
    assert_eq!(rickshaw.body["ride_types"], json!(["mini", "prime", "suv", "auto", "bike", "outstation"]));
    let pune = with(&|it| it["drop"] = json!({"lat": 18.5204, "lng": 73.8567})).problem(422, "out_of_area");
    assert_eq!(pune.body["at"], "drop");
    let delhi =
        with(&|it| it["pickup"] = json!({"lat": 28.6139, "lng": 77.2090})).problem(422, "out_of_area");
    assert_eq!(delhi.body["at"], "pickup");
    with(&|it| it["pickup"]["lat"] = json!(91)).problem(422, "invalid_coordinates");
    with(&|it| it["pickup"]["lat"] = json!("18.9")).problem(422, "unexpected_json");
    with(&|it| it["ride_typ"] = json!("mini")).problem(422, "unexpected_json");
    with(&|it| it["pickup"] = Value::Null).problem(422, "unexpected_json");
    text("").problem(400, "malformed_json");
    text("{\"pickup\": ").problem(400, "malformed_json");
    text(&format!("[{}]", " ".repeat(16 * 1024))).problem(413, "body_too_large");
}

#[test]
fn pricing_says_what_it_serves() {
    let (pricing, _data) = start(NOON);
    let at = pricing.at;
    get("/healthz").send(at).expect(200);
    get("/readyz").send(at).expect(200);
    let wrong_method = get("/api/rides/estimate").send(at).problem(405, "method_not_allowed");
    assert!(wrong_method.head.contains("allow: post"), "{}", wrong_method.head);
    get("/api/rides/estimateXYZ").send(at).problem(404, "not_found");
}

#[test]
fn sigterm_ends_pricing_once_it_has_answered() {
    let (mut pricing, _data) = start(NOON);
    let ask = post("/api/rides/estimate", &fort_to_bandra("mini"));
    let (mut under_way, rest) = ask.begin(pricing.at, 10);
    let idle = TcpStream::connect(pricing.at).unwrap();
    ask.send(pricing.at); // Accepted later, so those before are accepted too.

    pricing.process.signal(Signal::TERM);
    pricing.process.line_with("stops on SIGTERM");
    eventually("it listens no longer", || TcpStream::connect(pricing.at).is_err().then_some(()));
    std::io::Write::write_all(&mut under_way, rest.as_bytes()).unwrap();
    let quote = read(under_way).unwrap().expect(200);
    assert_eq!(quote.body["fare"], "541.86");
    assert_eq!(pricing.process.end().code(), Some(0));
    drop(idle);
}

#[test]
fn pricing_stops_with_its_standard_input() {
    let (mut pricing, _data) = start(NOON);
    drop(pricing.process.child.stdin.take());
    assert_eq!(pricing.process.end().code(), Some(0));
}

#[test]
fn a_file_of_a_newer_program_is_named_and_left_alone() {
    let (mut pricing, data) = start(NOON);
    pricing.kill();
    let file = rusqlite::Connection::open(data.path().join("pricing.db")).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    drop(file);
    let data = data.path().to_str().unwrap();
    let args = ["pricing", "--listen", "127.0.0.1:0", "--data", data];
    let mut newer = crate::process::Process::start(&args);
    assert_eq!(newer.end().code(), Some(1));
    let errors = newer.errors();
    assert!(errors.contains("pricing.db was made by a newer program"), "{errors}");
}
