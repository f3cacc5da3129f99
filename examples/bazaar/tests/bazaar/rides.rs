//! What becomes of a ride: who sees it, who moves it, how it ends.

use serde_json::json;

use crate::{
    http::{get, post},
    middleman::When,
    process::eventually,
    world::{NOON, Service, World, booking},
};

#[test]
fn a_stranger_never_sees_and_never_cancels_a_ride() {
    let world = World::new();
    let ride_id = world.book("asha", "1", "mini").expect(201).said("ride_id");
    world.await_track("asha", &ride_id);
    for stranger in ["bela", "Asha", "001", " "] {
        let answers = [
            world.ride(stranger, &ride_id),
            world.track(stranger, &ride_id),
            world.cancel(stranger, &ride_id),
        ];
        for answer in answers {
            let status = if stranger == " " { 401 } else { 404 };
            assert_eq!(answer.status, status, "{stranger}: {}", answer.text);
            assert!(!answer.text.contains(&ride_id) && !answer.text.contains("MH01"), "{}", answer.text);
        }
    }
    let path = format!("/api/rides/{ride_id}");
    get(&path).send(world.booking.at).problem(401, "not_identified");
    get(&format!("{path}/track")).send(world.tracking.at).problem(401, "not_identified");
    assert_eq!(world.ride("asha", &ride_id).expect(200).said("state"), "assigned");
    assert_eq!(world.await_track("asha", &ride_id).said("state"), "assigned");
    world.ride("asha", "no-such-ride").problem(404, "unknown_ride");
}

#[test]
fn r2_15_cancelled_twice_it_is_the_same_answer_and_one_refund() {
    let world = World::new();
    let ride_id = world.book("asha", "1", "suv").expect(201).said("ride_id");
    assert!(!world.is_free("005"));
    let first = world.cancel("asha", &ride_id).expect(200);
    assert_eq!((first.said("fee").as_str(), first.said("refund")), ("0.00", first.said("fare")));
    world.await_free("005");
    for _ in 0..3 {
        assert_eq!(world.cancel("asha", &ride_id).expect(200).text, first.text);
    }
    assert_eq!(world.count("booking", "SELECT count(*) FROM ledger WHERE entry = 'refund'"), 1);
    assert_eq!(world.ride("asha", &ride_id).expect(200).said("state"), "cancelled");
    eventually("tracking hears of it", || {
        let track = world.track("asha", &ride_id).body;
        (track["state"] == "cancelled" && track["position"] == json!(null)).then_some(())
    });
}

#[test]
fn r2_15_cancelled_at_once_from_everywhere_it_is_one_refund() {
    let world = World::new();
    let ride_id = world.book("asha", "1", "suv").expect(201).said("ride_id");
    let ask = post(&format!("/api/rides/{ride_id}/cancel"), &json!(null)).by("asha");
    let answers = std::thread::scope(|scope| {
        let all = (0..20).map(|_| scope.spawn(|| ask.send(world.booking.at).expect(200).text));
        let all = all.collect::<Vec<_>>();
        all.into_iter().map(|it| it.join().unwrap()).collect::<std::collections::HashSet<_>>()
    });
    assert_eq!(answers.len(), 1);
    assert_eq!(world.count("booking", "SELECT count(*) FROM ledger WHERE entry = 'refund'"), 1);
}

#[test]
fn r2_15_a_fee_is_kept_once_a_driver_is_bound() {
    let world = World::with(&["--cancellation-fee", "25.00"]);
    let ride_id = world.book("asha", "1", "mini").expect(201).said("ride_id");
    let cancelled = world.cancel("asha", &ride_id).expect(200);
    let said = ["fare", "fee", "refund"].map(|name| cancelled.said(name));
    assert_eq!(said, ["541.86", "25.00", "516.86"]);
    assert_eq!(world.cancel("asha", &ride_id).expect(200).text, cancelled.text);
}

#[test]
fn a_ride_goes_its_way_and_its_driver_is_free_where_it_ends() {
    let mut world = World::new();
    let ride_id = world.book("asha", "1", "suv").expect(201).said("ride_id");
    let at = |world: &World, state: &str| {
        eventually(state, || Some(world.track("asha", &ride_id).body).filter(|it| it["state"] == state))
    };
    assert_eq!(
        (&at(&world, "assigned")["position"], &at(&world, "assigned")["to"]),
        (&json!({"lat": 19.065, "lng": 72.868}), &json!("pickup"))
    );

    world.progress("004", &ride_id, "arriving").problem(404, "unknown_ride");
    world.progress("asha", &ride_id, "arriving").problem(404, "unknown_ride");
    world.progress("005", &ride_id, "cancelled").problem(422, "not_yours_to_say");
    world.progress("005", &ride_id, "driving").problem(422, "unexpected_json");
    world.progress("005", &ride_id, "on_trip").problem(409, "wrong_state");
    world.progress("005", &ride_id, "arriving").expect(200);
    let again = world.progress("005", &ride_id, "arriving").expect(200);
    assert_eq!(again.said("state"), "arriving");
    world.progress("005", &ride_id, "on_trip").expect(200);
    assert_eq!(at(&world, "on_trip")["to"], json!("drop"));
    let refused = world.cancel("asha", &ride_id).problem(409, "wrong_state");
    assert_eq!(refused.said("state"), "on_trip");
    assert!(!world.is_free("005"));

    // A restart in the middle of a ride changes nothing.
    world.restart_booking(NOON);
    world.restart_driver(NOON);
    assert!(!world.is_free("005"));
    world.progress("005", &ride_id, "completed").expect(200);
    assert_eq!(at(&world, "completed")["position"], json!({"lat": 18.922, "lng": 72.8342}));
    world.await_free("005");
    let near = get("/api/drivers/nearby?lat=18.9220&lng=72.8342&ride_type=suv").send(world.driver.at);
    assert_eq!(near.body["drivers"][0]["distance_km"], json!(0.0), "{}", near.text);
    assert_eq!(world.count("booking", "SELECT count(*) FROM ledger WHERE entry = 'refund'"), 0);
}

/// The original freed a driver who was on another trip by then, and paid back a ride that was over.
#[test]
fn r2_15_a_finished_ride_is_not_cancelled_and_its_driver_keeps_the_next_one() {
    let world = World::new();
    let first = world.book("asha", "1", "mini").expect(201).said("ride_id"); // Driver 001, to Bandra.
    for state in ["arriving", "on_trip", "completed"] {
        world.progress("001", &first, state).expect(200);
    }
    world.await_free("001");
    let bela = {
        let mut trip = crate::world::trip("suv"); // From Bandra.
        trip["ride_type"] = json!("mini");
        let quote = post("/api/rides/estimate", &trip).send(world.pricing.at).expect(200);
        booking("bela", "1", &quote.said("quote_id")).send(world.booking.at).expect(201)
    };
    let driver = bela.body["driver"]["driver_id"].as_str().unwrap();
    assert!(["001", "004"].contains(&driver), "both stand in Bandra now");
    world.cancel("asha", &first).problem(409, "wrong_state");
    assert!(!world.is_free(driver));
    assert_eq!(world.count("booking", "SELECT count(*) FROM ledger WHERE entry = 'refund'"), 0);
}

#[test]
fn bookings_do_not_wait_for_tracking_and_it_hears_of_them_later() {
    let mut world = World::new();
    world.tracking.kill();
    let ride_id = world.book("asha", "1", "mini").expect(201).said("ride_id");
    world.progress("001", &ride_id, "arriving").expect(200);
    let (data, at) = (world.data.path(), world.tracking.at);
    world.tracking = Service::start("tracking", data, Some(at), NOON, &[]);
    eventually("tracking hears of it", || {
        let track = get(&format!("/api/rides/{ride_id}/track")).by("asha").send(world.tracking.at);
        (track.status == 200).then(|| assert_eq!(track.said("state"), "arriving"))
    });
    eventually("nothing is left to say", || {
        (world.count("booking", "SELECT count(*) FROM outbox") == 0).then_some(())
    });
}

#[test]
fn bookings_do_not_wait_for_a_tracking_that_hangs() {
    let world = World::new();
    let (_, go) = world.to_tracking.hold(When::Before, "PUT /rides/");
    let ride_id = world.book("asha", "1", "mini").expect(201).said("ride_id");
    world.cancel("asha", &ride_id).expect(200);
    drop(go);
    eventually("tracking hears of it", || {
        let track = world.track("asha", &ride_id);
        (track.status == 200 && track.said("state") == "cancelled").then_some(())
    });
}

/// What is cancelled while its driver is being looked for binds nobody, whatever arrives late.
#[test]
fn cancelled_while_a_driver_is_looked_for_nobody_is_bound() {
    for when in [When::Before, When::After] {
        for line in ["PUT /assignments/", "POST /assignments/"] {
            let world = World::new();
            let quote_id = world.quote("suv").said("quote_id");
            let (there, go) = world.to_driver.hold(when, line);
            let ask = booking("asha", "1", &quote_id);
            std::thread::scope(|scope| {
                let booked = scope.spawn(|| ask.send(world.booking.at));
                there.recv().unwrap();
                let path = world.to_driver.lines().last().unwrap().clone();
                let ride_id = path.split('/').nth(2).unwrap().split(' ').next().unwrap().to_owned();
                let cancelled = world.cancel("asha", &ride_id).expect(200);
                assert_eq!(cancelled.said("refund"), "0.00", "nothing was charged yet");
                drop(go);
                assert_eq!(booked.join().unwrap().expect(201).said("state"), "cancelled");
                assert_eq!(world.count("booking", "SELECT count(*) FROM ledger"), 0);
                eventually("the driver is free", || world.is_free("005").then_some(()));
            });
        }
    }
}

/// What the design claims: two processes may share the file, because every step is one transaction.
#[test]
fn two_booking_processes_on_one_file_give_one_driver_to_one_ride() {
    let world = World::new();
    let second = world.second_booking();
    let both = [world.booking.at, second.at];
    let quotes = (0..40).map(|_| world.quote("suv").said("quote_id")).collect::<Vec<_>>();
    let answers = std::thread::scope(|scope| {
        let all = quotes.iter().enumerate().map(|(n, quote_id)| {
            let ask = booking(&format!("rider-{n}"), "key", quote_id);
            scope.spawn(move || ask.send(both[n % 2]))
        });
        let all = all.collect::<Vec<_>>();
        all.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(answers.iter().filter(|it| it.status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|it| it.status == 409 && it.said("reason") == "no_driver").count(), 39);

    // One key, sent to both at once: one ride, charged once.
    let quote_id = world.quote("mini").said("quote_id");
    let ask = booking("asha", "key", &quote_id);
    let rides = std::thread::scope(|scope| {
        let all = (0..20).map(|n| {
            scope.spawn({
                let ask = &ask;
                move || ask.send(both[n % 2]).expect(201).said("ride_id")
            })
        });
        let all = all.collect::<Vec<_>>();
        all.into_iter().map(|it| it.join().unwrap()).collect::<std::collections::HashSet<_>>()
    });
    assert_eq!(rides.len(), 1);
    assert_eq!(world.count("booking", "SELECT count(*) FROM ledger WHERE entry = 'charge'"), 2);
}
