//! The booking service killed at each step of a booking, and started again.

use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use crate::{
    middleman::{Middleman, Then, When},
    process::kill,
    world::{NOON, World, booking},
};

/// Between any two of them there is at most one thing written down, before the one that comes next.
const STEPS: [(&str, When, &str); 8] = [
    ("pricing", When::Before, "GET /quotes/"),
    ("pricing", When::After, "GET /quotes/"),
    ("driver", When::Before, "PUT /assignments/"),
    ("driver", When::After, "PUT /assignments/"),
    ("driver", When::Before, "POST /assignments/"),
    ("driver", When::After, "POST /assignments/"),
    ("tracking", When::Before, "PUT /rides/"),
    ("tracking", When::After, "PUT /rides/"),
];

/// Steps from this one on come after the driver service has confirmed.
const CONFIRMED: usize = 5;

/// Steps from this one on come after the ride was written down as assigned.
const ASSIGNED: usize = 6;

fn middleman<'a>(world: &'a World, to: &str) -> &'a Middleman {
    match to {
        "pricing" => &world.to_pricing,
        "driver" => &world.to_driver,
        _ => &world.to_tracking,
    }
}

/// A booking during which the service is killed at that step; the quote that it was about.
fn crash(world: &mut World, step: (&str, When, &'static str)) -> String {
    let quote_id = world.quote("suv").said("quote_id");
    crash_at(world, step, &quote_id);
    quote_id
}

fn crash_at(world: &mut World, (to, when, line): (&str, When, &'static str), quote_id: &str) {
    let pid = world.booking.process.child.id();
    let died = Arc::new(Mutex::new(false));
    let dies = Arc::clone(&died);
    middleman(world, to).once(when, line, move || {
        *dies.lock().unwrap() = true;
        kill(pid, Signal::KILL);
        Then::Drop
    });
    let answer = booking("asha", "key", quote_id).attempt(world.booking.at);
    assert!(answer.is_err(), "who is dead confirms nothing: {answer:?}");
    assert!(*died.lock().unwrap(), "{to} {when:?} {line}");
    world.booking.process.end();
}

#[test]
fn r2_15_killed_at_each_step_the_same_key_gives_the_same_ride() {
    for step in STEPS {
        let mut world = World::new();
        let quote_id = crash(&mut world, step);
        world.restart_booking(NOON);
        let booked = booking("asha", "key", &quote_id).send(world.booking.at).expect(201);
        assert_eq!(booked.said("state"), "assigned", "{step:?}");
        assert_eq!(booking("asha", "key", &quote_id).send(world.booking.at).expect(201).text, booked.text);
        assert_eq!(world.count("booking", "SELECT count(*) FROM rides"), 1, "{step:?}");
        assert_eq!(world.count("booking", "SELECT count(*) FROM ledger"), 1, "charged once: {step:?}");
        let bound = "SELECT count(*) FROM assignments WHERE state = 'confirmed'";
        assert_eq!(world.count("driver", bound), 1, "{step:?}");

        // What was confirmed outlives another crash.
        world.restart_booking(NOON);
        let ride_id = booked.said("ride_id");
        assert_eq!(world.ride("asha", &ride_id).expect(200).said("state"), "assigned");
        world.await_track("asha", &ride_id);
        world.cancel("asha", &ride_id).expect(200);
        world.await_free("005");
    }
}

#[test]
fn r2_15_killed_at_each_step_and_never_asked_again_no_driver_is_left_busy() {
    for (number, step) in STEPS.into_iter().enumerate() {
        let mut world = World::new();
        let quote_id = crash(&mut world, step);
        let two_minutes_later = "2026-01-15T12:02:00+05:30";
        world.restart_booking(two_minutes_later);
        let is_assigned = number >= ASSIGNED;
        if is_assigned {
            assert!(!world.is_free("005"), "the ride is on record: {step:?}");
            let booked = booking("asha", "key", &quote_id).send(world.booking.at).expect(201);
            world.cancel("asha", &booked.said("ride_id")).expect(200);
        }
        world.await_free("005");
        let charged = "SELECT count(*) FROM ledger WHERE entry = 'charge'";
        assert_eq!(world.count("booking", charged), u32::from(is_assigned), "{step:?}");
        if (2..ASSIGNED).contains(&number) {
            // Whoever asks at last is told what has become of the ride, and is not driven.
            let late = booking("asha", "key", &quote_id).send(world.booking.at).problem(409, "no_driver");
            assert_eq!(world.ride("asha", &late.said("ride_id")).expect(200).said("state"), "no_driver");
            assert!(world.is_free("005"));
        }
    }
}

/// A hold that nobody confirms runs out, and so does a bond that nobody renews, though the booking
/// service never comes back.
#[test]
fn r2_15_booking_dead_for_good_leaves_no_driver_busy() {
    for (number, step) in STEPS.into_iter().enumerate().skip(2) {
        let mut world = World::new();
        crash(&mut world, step);
        let is_confirmed = number >= CONFIRMED;
        let (before, after) = if is_confirmed { ("12:09:30", "12:10:30") } else { ("12:00:20", "12:00:40") };
        world.restart_driver(&format!("2026-01-15T{before}+05:30"));
        assert_eq!(world.is_free("005"), number == 2, "only before the first is nobody held: {step:?}");
        world.restart_driver(&format!("2026-01-15T{after}+05:30"));
        assert!(world.is_free("005"), "{step:?}");
    }
}

/// Booking was away for longer than bonds last; the driver is still driving asha, and nobody else.
#[test]
fn r2_15_booking_renews_what_is_under_way_before_it_binds_anybody() {
    let mut world = World::new();
    let ride_id = world.book("asha", "1", "suv").expect(201).said("ride_id");
    world.booking.kill();
    let later = "2026-01-15T12:30:00+05:30";
    world.restart_driver(later);
    world.restart_pricing(later);
    assert!(world.is_free("005"));
    world.restart_booking(later);
    assert!(!world.is_free("005"));
    world.book("bela", "1", "suv").problem(409, "no_driver");
    assert_eq!(world.ride("asha", &ride_id).expect(200).said("state"), "assigned");
}

/// Nobody could renew, because the driver service was away for longer than bonds last.
#[test]
fn r2_15_a_driver_service_that_was_away_gives_no_driver_away_twice() {
    let later = "2026-01-15T12:11:00+05:30";
    for booking_begins_first in [false, true] {
        let mut world = World::new();
        let asha = world.book("asha", "1", "suv").expect(201);
        world.restart_pricing(later);
        world.driver.kill();
        if booking_begins_first {
            world.restart_booking(later);
        }
        world.restart_driver(later);
        world.book("bela", "1", "suv").problem(409, "no_driver");
        assert!(!world.is_free("005"));
        assert_eq!(world.ride("asha", &asha.said("ride_id")).expect(200).said("state"), "assigned");
        world.cancel("asha", &asha.said("ride_id")).expect(200);
        world.await_free("005");
        world.book("bela", "2", "suv").expect(201);
    }
}

#[test]
fn r2_15_a_clock_that_was_set_back_leaves_nobody_waiting() {
    let mut world = World::new();
    let quote_id = crash(&mut world, STEPS[4]); // Held, and not confirmed.
    let months_before = "2025-10-15T12:00:00+05:30";
    world.restart_driver(months_before);
    world.restart_pricing(months_before);
    world.restart_booking(months_before);
    world.await_free("005");
    booking("asha", "key", &quote_id).send(world.booking.at).problem(409, "no_driver");
    booking("asha", "another", &quote_id).send(world.booking.at).problem(409, "quote_expired");
    world.book("bela", "1", "suv").expect(201);
}

#[test]
fn r2_15_a_hold_that_was_lost_in_the_meantime_finds_another_driver_or_none() {
    let mut world = World::new();
    let quote_id = crash(&mut world, STEPS[4]); // Held, and not confirmed.
    world.restart_driver("2026-01-15T12:00:31+05:30");
    world.restart_booking("2026-01-15T12:00:31+05:30");
    let bela = world.book("bela", "1", "suv").expect(201);
    let late = booking("asha", "key", &quote_id).send(world.booking.at).problem(409, "no_driver");
    assert_eq!(world.ride("bela", &bela.said("ride_id")).expect(200).said("state"), "assigned");
    assert_ne!(late.said("ride_id"), bela.said("ride_id"));
    world.cancel("bela", &bela.said("ride_id")).expect(200);
    world.await_free("005");
}

#[test]
fn r2_15_a_hold_that_was_lost_in_the_meantime_finds_another_driver() {
    let mut world = World::new();
    // Two drivers of minis stand in Bandra, once 001 has driven somebody there.
    let there = world.book("meera", "1", "mini").expect(201).said("ride_id");
    for state in ["arriving", "on_trip", "completed"] {
        world.progress("001", &there, state).expect(200);
    }
    world.await_free("001");
    let mut trip = crate::world::trip("suv"); // From Bandra.
    trip["ride_type"] = "mini".into();
    let quotes = [(), ()].map(|()| {
        let quote = crate::http::post("/api/rides/estimate", &trip).send(world.pricing.at);
        quote.expect(200).said("quote_id")
    });
    crash_at(&mut world, STEPS[4], &quotes[0]);
    let later = "2026-01-15T12:00:31+05:30";
    world.restart_driver(later);
    world.restart_booking(later);
    let bela = booking("bela", "key", &quotes[1]).send(world.booking.at).expect(201);
    let asha = booking("asha", "key", &quotes[0]).send(world.booking.at).expect(201);
    let drivers = [&bela, &asha].map(|it| it.body["driver"]["driver_id"].to_string());
    assert_ne!(drivers[0], drivers[1]);
    assert_eq!(world.count("booking", "SELECT count(*) FROM ledger WHERE entry = 'charge'"), 3);
}

#[test]
fn r2_15_a_cancellation_whose_news_were_lost_frees_the_driver_after_a_restart() {
    let mut world = World::new();
    let ride_id = world.book("asha", "1", "suv").expect(201).said("ride_id");
    let pid = world.booking.process.child.id();
    world.to_driver.once(When::Before, "POST /assignments/", move || {
        kill(pid, Signal::KILL);
        Then::Drop
    });
    let path = format!("/api/rides/{ride_id}/cancel");
    let lost = crate::http::post(&path, &serde_json::Value::Null).by("asha").attempt(world.booking.at);
    assert!(lost.is_err());
    assert!(!world.is_free("005"));
    world.restart_booking(NOON);
    world.await_free("005");
    world.cancel("asha", &ride_id).expect(200);
    assert_eq!(world.count("booking", "SELECT count(*) FROM ledger WHERE entry = 'refund'"), 1);
}

#[test]
fn sigterm_ends_booking_once_it_has_answered() {
    let mut world = World::new();
    let quote_id = world.quote("suv").said("quote_id");
    let (there, go) = world.to_driver.hold(When::Before, "PUT /assignments/");
    let ask = booking("asha", "key", &quote_id);
    let at = world.booking.at;
    std::thread::scope(|scope| {
        let booked = scope.spawn(move || ask.send(at));
        there.recv().unwrap();
        world.booking.process.signal(Signal::TERM);
        world.booking.process.line_with("stops on SIGTERM");
        drop(go);
        assert_eq!(booked.join().unwrap().expect(201).said("state"), "assigned");
    });
    assert_eq!(world.booking.process.end().code(), Some(0));
}
