//! Booking: the promise of a quote, keys, and what is refused.

use serde_json::{Value, json};

use crate::{
    http::{get, post},
    middleman::{Then, When},
    world::{NOON, World, booking, trip},
};

/// The promise is kept whatever becomes of the surge, for every type, and until it ends.
#[test]
fn r2_13_the_booked_fare_is_the_quoted_one_also_when_a_surge_begins_or_ends_in_between() {
    let mut world = World::new();
    for (quoted_at, booked_at, then) in [
        ("2026-01-15T12:00:00+05:30", "2026-01-15T12:00:00+05:30", "1.0"),
        ("2026-01-15T07:58:00+05:30", "2026-01-15T08:01:00+05:30", "1.5"),
        ("2026-01-15T10:58:00+05:30", "2026-01-15T11:01:00+05:30", "1.0"),
    ] {
        for ride_type in ["mini", "prime", "suv", "auto", "bike", "outstation"] {
            world.restart_pricing(quoted_at);
            let quote = world.quote(ride_type);
            world.restart_pricing(booked_at);
            let now = world.quote(ride_type);
            assert_eq!(now.said("surge"), then);
            assert_eq!(
                now.said("fare") == quote.said("fare"),
                quoted_at == booked_at,
                "the surge has changed"
            );

            let key = format!("{ride_type} {quoted_at}");
            let booked = booking("asha", &key, &quote.said("quote_id")).send(world.booking.at);
            let ride_id = booked.said("ride_id");
            let ride = world.ride("asha", &ride_id).expect(200);
            assert_eq!(ride.said("fare"), quote.said("fare"), "{ride_type}");
            if ride_type == "outstation" {
                booked.problem(409, "no_driver"); // There is none in the whole city.
                continue;
            }
            assert_eq!(booked.expect(201).said("fare"), quote.said("fare"), "{ride_type}");
            assert_eq!(world.cancel("asha", &ride_id).expect(200).said("refund"), quote.said("fare"));
        }
    }
}

#[test]
fn r2_13_a_quote_holds_for_five_minutes_and_no_longer() {
    let mut world = World::new();
    let [early, late] = ["prime", "mini"].map(|ride_type| world.quote(ride_type).said("quote_id"));
    world.restart_pricing("2026-01-15T12:04:30+05:30");
    booking("asha", "1", &early).send(world.booking.at).expect(201);
    world.restart_pricing("2026-01-15T12:05:30+05:30");
    booking("asha", "2", &late).send(world.booking.at).problem(409, "quote_expired");
    // What was booked in time is answered for ever.
    booking("asha", "1", &early).send(world.booking.at).expect(201);
}

#[test]
fn a_quote_is_good_for_one_ride() {
    let world = World::new();
    let quote_id = world.quote("mini").said("quote_id");
    let first = booking("asha", "1", &quote_id).send(world.booking.at).expect(201);
    booking("asha", "2", &quote_id).send(world.booking.at).problem(409, "quote_used");
    booking("bela", "1", &quote_id).send(world.booking.at).problem(409, "quote_used");
    world.cancel("asha", &first.said("ride_id")).expect(200);
    booking("asha", "3", &quote_id).send(world.booking.at).problem(409, "quote_used");
}

#[test]
fn a_quote_that_found_no_driver_may_be_tried_again() {
    let world = World::new();
    let taken = world.book("asha", "1", "suv").expect(201);
    let quote_id = world.quote("suv").said("quote_id");
    let lost = booking("bela", "1", &quote_id).send(world.booking.at).problem(409, "no_driver");
    assert_eq!(world.ride("bela", &lost.said("ride_id")).expect(200).said("state"), "no_driver");
    world.cancel("asha", &taken.said("ride_id")).expect(200);
    // The same key is the same ride, and that has ended; a new one is a new attempt.
    let again = booking("bela", "1", &quote_id).send(world.booking.at).problem(409, "no_driver");
    assert_eq!(again.said("ride_id"), lost.said("ride_id"));
    let found = booking("bela", "2", &quote_id).send(world.booking.at).expect(201);
    assert_ne!(found.said("ride_id"), lost.said("ride_id"));
}

#[test]
fn the_same_key_is_the_same_ride_and_belongs_to_its_rider() {
    let world = World::new();
    let quote_id = world.quote("mini").said("quote_id");
    let first = booking("asha", "key", &quote_id).send(world.booking.at).expect(201);
    assert!(
        first.head.contains(&format!("location: /api/rides/{}", first.said("ride_id"))),
        "{}",
        first.head
    );
    for _ in 0..3 {
        assert_eq!(booking("asha", "key", &quote_id).send(world.booking.at).expect(201).text, first.text);
    }
    let other = world.quote("prime").said("quote_id");
    booking("asha", "key", &other).send(world.booking.at).problem(422, "idempotency_key_reused");
    assert_ne!(
        booking("bela", "key", &other).send(world.booking.at).expect(201).said("ride_id"),
        first.said("ride_id")
    );
    assert_eq!(world.count("booking", "SELECT count(*) FROM rides"), 2);
    assert_eq!(world.count("booking", "SELECT count(*) FROM ledger WHERE entry = 'charge'"), 2);
}

/// A minute after the first attempt, who has asked all the time is still looked after.
#[test]
fn who_keeps_asking_is_not_given_up() {
    let mut world = World::new();
    let quote_id = world.quote("mini").said("quote_id");
    world.driver.kill();
    let ask = booking("asha", "key", &quote_id);
    for now in ["12:00:00", "12:00:40", "12:01:20", "12:02:00"] {
        world.restart_booking(&format!("2026-01-15T{now}+05:30"));
        ask.send(world.booking.at).problem(503, "service_unavailable");
    }
    world.restart_driver("2026-01-15T12:02:00+05:30");
    ask.send(world.booking.at).expect(201);
}

/// What is no answer of the driver service is no "there is nobody".
#[test]
fn a_conflict_that_nobody_knows_ends_no_ride() {
    let world = World::new();
    let strange = "HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    let quote_id = world.quote("mini").said("quote_id");
    world.to_driver.once(When::Before, "PUT /assignments/", move || Then::Answer(strange));
    let ask = booking("asha", "key", &quote_id);
    ask.send(world.booking.at).problem(503, "service_unavailable");
    ask.send(world.booking.at).expect(201);
}

#[test]
fn booking_says_what_is_wrong() {
    let world = World::new();
    let at = world.booking.at;
    let quote_id = world.quote("mini").said("quote_id");
    let wish =
        |body: &Value| post("/api/rides/book", body).by("asha").header("idempotency-key", "1").send(at);

    let nobody = post("/api/rides/book", &json!({"quote_id": quote_id})).header("idempotency-key", "1");
    nobody.send(at).problem(401, "not_identified");
    nobody.clone().by("asha").by("bela").send(at).problem(401, "not_identified");
    let keyless = post("/api/rides/book", &json!({"quote_id": quote_id})).by("asha");
    keyless.send(at).problem(400, "idempotency_key_missing");
    keyless
        .clone()
        .header("idempotency-key", &"k".repeat(257))
        .send(at)
        .problem(400, "idempotency_key_missing");
    wish(&json!({})).problem(422, "unexpected_json");
    wish(&json!({"quote_id": quote_id, "fare": "1.00"})).problem(422, "unexpected_json");
    for made_up in ["", "x", "../healthz", "a/b", "a%2Fb", "a b", &"x".repeat(10_000)] {
        wish(&json!({"quote_id": made_up})).problem(422, "unknown_quote");
    }
    let forged = format!("{}A{}", &quote_id[..40], &quote_id[41..]);
    wish(&json!({"quote_id": forged})).problem(422, "unknown_quote");
    assert_eq!(world.count("booking", "SELECT count(*) FROM rides"), 0);
    get("/readyz").send(at).expect(200);
    get("/api/rides/%ff").by("asha").send(at).problem(400, "unexpected_path");
    get("/api/rides/book/now").send(at).problem(404, "not_found");
}

#[test]
fn r2_15_places_outside_the_service_area_are_refused() {
    let world = World::new();
    for (lat, lng) in [(18.5204, 73.8567), (28.6139, 77.2090), (18.9950, 72.8200)] {
        let mut far = trip("mini");
        far["drop"] = json!({"lat": lat, "lng": lng});
        post("/api/rides/estimate", &far).send(world.pricing.at).problem(422, "out_of_area");
        let near = format!("/api/drivers/nearby?lat={lat}&lng={lng}");
        get(&near).send(world.driver.at).problem(422, "out_of_area");
    }
    let at = world.driver.at;
    get("/api/drivers/nearby?lat=91&lng=72.8").send(at).problem(422, "invalid_coordinates");
    get("/api/drivers/nearby?lat=19.0").send(at).problem(422, "unexpected_query");
    get("/api/drivers/nearby?lat=here&lng=72.8").send(at).problem(422, "unexpected_query");
    get("/api/drivers/nearby?lat=19.0&lng=72.8&near=1").send(at).problem(422, "unexpected_query");
    let rickshaw = get("/api/drivers/nearby?lat=19.0178&lng=72.8478&ride_type=rickshaw").send(at);
    rickshaw.problem(422, "unknown_ride_type");
}

#[test]
fn r2_13_nearby_drivers_are_the_golden_ones() {
    let world = World::new();
    let near = |more: &str| {
        let near = get(&format!("/api/drivers/nearby?lat=19.0178&lng=72.8478{more}"))
            .send(world.driver.at)
            .expect(200);
        let drivers = near.body["drivers"].as_array().unwrap().clone();
        drivers
            .iter()
            .map(|it| json!([it["driver_id"], it["distance_km"], it["eta_minutes"]]))
            .collect::<Vec<_>>()
    };
    let golden = [
        json!(["006", 4.35, 13]),
        json!(["005", 5.66, 16]),
        json!(["004", 7.19, 21]),
        json!(["002", 9.62, 28]),
    ];
    assert_eq!(near(""), golden);
    assert_eq!(near("&ride_type=mini"), golden[2..3]);
    assert_eq!(near("&ride_type=outstation"), <[Value; 0]>::default());
    let all = get("/api/drivers/nearby?lat=19.0178&lng=72.8478").send(world.driver.at);
    assert!(!all.text.contains("MH01"), "number plates are for riders: {}", all.text);
}

#[test]
fn what_another_service_does_not_answer_is_a_503_and_may_be_sent_again() {
    let mut world = World::new();
    let [mini, prime] = ["mini", "prime"].map(|ride_type| world.quote(ride_type).said("quote_id"));
    world.pricing.kill();
    let down = booking("asha", "1", &mini).send(world.booking.at).problem(503, "service_unavailable");
    assert_eq!((down.said("service").as_str(), down.head.contains("retry-after: 1")), ("pricing", true));
    assert_eq!(world.count("booking", "SELECT count(*) FROM rides"), 0);
    world.restart_pricing(NOON);

    world.driver.kill();
    let down = booking("asha", "2", &prime).send(world.booking.at).problem(503, "service_unavailable");
    assert_eq!(down.said("service"), "driver");
    world.restart_driver(NOON);
    let booked = booking("asha", "2", &prime).send(world.booking.at).expect(201);
    assert_eq!(booked.said("ride_id"), down.said("ride_id"), "the same key is the same ride");
    booking("asha", "1", &mini).send(world.booking.at).expect(201);
}
