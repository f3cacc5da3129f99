//! What callers may do to the places of one bulkhead, in all orders of their steps. That somebody waits for ever is
//! found by loom: nobody can go on then.

use std::{pin::pin, sync::Arc, time::Duration};

use http::Request;
use loom::thread;

use super::{
    BulkheadConfig, BulkheadLayer, Counts, Permit,
    arrival::{Arrival, Shared, Waits},
};
use crate::{
    key::Key,
    reject::{Head, Rejection},
    sync::modelled::{block_on, model, poll_once},
};

type Handle = Arc<Shared<()>>;

fn handle(layer: &BulkheadLayer) -> Handle {
    Arc::clone(layer.shared.as_ref().unwrap())
}

fn bulkhead(max: u32, queue: u32) -> BulkheadLayer {
    BulkheadLayer::new(BulkheadConfig::new(max).queue(queue, Duration::from_mins(1)))
}

fn arrive(shared: &Handle) -> Arrival<()> {
    let request = Request::new(());
    shared.arrive(&Head::from(&request), None)
}

fn at_once(shared: &Handle) -> Option<Permit> {
    match arrive(shared) {
        Arrival::Work(permit) => Some(permit),
        Arrival::Wait(_) | Arrival::Reject(_) => None,
    }
}

/// A place, however long it takes.
fn in_time(shared: &Handle) -> Result<Permit, Rejection> {
    match arrive(shared) {
        Arrival::Work(permit) => Ok(permit),
        Arrival::Reject(rejection) => Err(rejection),
        Arrival::Wait(Waits::Here(place)) => block_on(Arc::clone(shared).wait(place, None)),
        Arrival::Wait(Waits::InSlot(place, turn)) => {
            block_on(Arc::clone(shared).wait_in_slot(place, turn, None))
        }
    }
}

/// One that looks once for a place, waits for a moment, and goes away.
fn in_haste(shared: &Handle) {
    match arrive(shared) {
        Arrival::Work(permit) => drop(permit),
        Arrival::Reject(_) => {}
        Arrival::Wait(Waits::Here(place)) => {
            let mut waiting = pin!(Arc::clone(shared).wait(place, None));
            drop(poll_once(waiting.as_mut()));
            thread::yield_now();
        }
        Arrival::Wait(Waits::InSlot(place, turn)) => {
            let mut waiting = pin!(Arc::clone(shared).wait_in_slot(place, turn, None));
            drop(poll_once(waiting.as_mut()));
            thread::yield_now();
        }
    }
}

fn assert_empty(layer: &BulkheadLayer) {
    assert_eq!((layer.counts(), layer.partitions()), (Counts::default(), 0), "somebody is left");
}

#[test]
fn r2_7_never_more_at_work_than_places() {
    for max in [1, 2] {
        model(2, move || {
            let layer = bulkhead(max, 0);
            let threads = [(); 3].map(|()| {
                let shared = handle(&layer);
                thread::spawn(move || {
                    let permit = at_once(&shared);
                    assert!(shared.counts().working <= max);
                    permit
                })
            });
            let permits = threads.map(|thread| thread.join().unwrap());
            let given = permits.iter().flatten().count();
            assert_eq!(u32::try_from(given), Ok(max), "of three as many as there are places");
            drop(permits);
            assert_empty(&layer);
        });
    }
}

#[test]
fn r2_7_a_place_that_is_given_back_wakes_one_who_waits() {
    model(2, || {
        let layer = bulkhead(1, 2);
        let permit = at_once(&handle(&layer)).unwrap();
        let threads = [(); 2].map(|()| {
            let shared = handle(&layer);
            thread::spawn(move || {
                let permit = in_time(&shared).unwrap();
                assert_eq!(shared.counts().working, 1);
                drop(permit);
            })
        });
        drop(permit);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_empty(&layer);
    });
}

/// Neither of the two that go to work gives its place back before the other one has one.
#[test]
fn r2_7_two_places_that_are_given_back_at_once_wake_two() {
    model(3, || {
        let layer = bulkhead(2, 2);
        let permits = [(); 2].map(|()| at_once(&handle(&layer)).unwrap());
        let threads = [(); 2].map(|()| {
            let shared = handle(&layer);
            thread::spawn(move || in_time(&shared).unwrap())
        });
        drop(permits);
        drop(threads.map(|thread| thread.join().unwrap()));
        assert_empty(&layer);
    });
}

#[test]
fn r2_7_a_place_is_not_lost_with_one_who_waits_no_longer() {
    model(3, || {
        let layer = bulkhead(1, 2);
        let permit = at_once(&handle(&layer)).unwrap();
        let (hasty, patient) = (handle(&layer), handle(&layer));
        let hasty = thread::spawn(move || in_haste(&hasty));
        let patient = thread::spawn(move || drop(in_time(&patient).unwrap()));
        drop(permit);
        hasty.join().unwrap();
        patient.join().unwrap();
        assert_empty(&layer);
    });
}

/// Two at work under a maximum of one, and one who waits. While one of the two leaves, the maximum is raised: each writes
/// its own word and looks at the other's, and one of them has to see that there is room.
#[test]
fn r2_7_a_maximum_that_is_raised_while_a_place_is_given_back_wakes_who_waits() {
    model(3, || {
        let wide = bulkhead(2, 1);
        let (stays, leaves) = (at_once(&handle(&wide)).unwrap(), at_once(&handle(&wide)).unwrap());
        let waits = wide.reconfigured(&BulkheadConfig::new(1).queue(1, Duration::from_mins(1)));
        let raised = handle(&waits.reconfigured(&BulkheadConfig::new(2).queue(1, Duration::from_mins(1))));
        let shared = handle(&waits);
        let Arrival::Wait(Waits::Here(place)) = arrive(&shared) else { panic!("there is no place") };
        let waiting = thread::spawn(move || drop(block_on(shared.wait(place, None)).unwrap()));
        let leaving = thread::spawn(move || drop(leaves));
        raised.account.follow(raised.rule(), &raised.config);
        leaving.join().unwrap();
        waiting.join().unwrap();
        drop(stays);
        assert_empty(&wide);
    });
}

#[test]
fn of_configurations_that_come_at_once_the_newest_is_in_force() {
    model(3, || {
        let first = bulkhead(1, 0);
        let layers = [2, 3].map(|max| first.reconfigured(&BulkheadConfig::new(max)));
        let threads = layers.map(|layer| {
            thread::spawn(move || {
                let shared = handle(&layer);
                shared.account.follow(shared.rule(), &shared.config);
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(handle(&first).in_force().max, 3);
    });
}

fn by_key(max: u32, queue: u32) -> BulkheadLayer {
    let config = BulkheadConfig::new(max).queue(queue, Duration::from_mins(1));
    BulkheadLayer::partitioned(config, |_| Some(Key::of("one")))
}

#[test]
fn r14_2_a_turn_that_comes_to_one_who_goes_goes_on_to_the_next() {
    model(3, || {
        let layer = by_key(1, 2);
        let permit = at_once(&handle(&layer)).unwrap();
        let (hasty, patient) = (handle(&layer), handle(&layer));
        let hasty = thread::spawn(move || in_haste(&hasty));
        let patient = thread::spawn(move || {
            let permit = in_time(&patient).unwrap();
            assert_eq!(patient.counts().working, 1);
            drop(permit);
        });
        drop(permit);
        hasty.join().unwrap();
        patient.join().unwrap();
        assert_empty(&layer);
    });
}
