//! What requests and operators may do to one endpoint's account, in all orders of their steps.

use std::{sync::Arc, time::Duration};

use loom::thread;

use super::{
    Absence, Endpoint, SlowStart, Target,
    block::Blocks,
    endpoint::{Account, InFlight},
    policy::slow_start::WHOLE,
};
use crate::{
    clock::{Now, Since},
    sync::modelled::model,
};

fn endpoint(capacity: Option<u32>, start: Now) -> Endpoint {
    let account = Account::new(
        &Arc::new(Since::new(start.instant())),
        &Arc::default(),
        &Arc::<Blocks>::default(),
        None,
    );
    let target = Target { capacity, ..Target::new("10.0.0.1:80") };
    Endpoint::new(target, Arc::new(account), None)
}

fn enter(endpoint: &Endpoint, now: Now) -> Option<InFlight> {
    endpoint.enter(now, None, || false)
}

const SLOW_START: SlowStart = SlowStart { duration: Duration::from_mins(1), floor: 10 };

fn assert_new_if_back(endpoint: &Endpoint, start: Now, now: Now) {
    let (account, status) = (endpoint.account(), endpoint.account().status());
    if Account::is_present(status) {
        assert!(Account::is_joining(status));
        assert!(account.share(now.since_ns(start.instant()), SLOW_START) < WHOLE);
    }
}

#[test]
fn never_more_are_under_way_than_its_capacity_and_each_place_comes_back() {
    model(3, || {
        let now = Now::read();
        let endpoint = endpoint(Some(1), now);
        let threads = [(); 2].map(|()| {
            let endpoint = endpoint.clone();
            thread::spawn(move || {
                let under_way = enter(&endpoint, now);
                assert!(under_way.is_none() || endpoint.in_flight() == 1);
                under_way.is_some()
            })
        });
        let mine = enter(&endpoint, now);
        let is_in = mine.is_some();
        drop(mine);
        let are_in = threads.map(|thread| thread.join().unwrap());
        assert!(is_in || are_in[0] || are_in[1], "one of three finds room");
        assert_eq!(endpoint.in_flight(), 0);
        assert!(enter(&endpoint, now).is_some());
    });
}

/// Both are halves of one word. What is not taken out on purpose may be entered by who has chosen it already.
#[test]
fn who_takes_it_out_changes_no_count_and_who_comes_changes_no_status() {
    model(3, || {
        let now = Now::read();
        let endpoint = endpoint(None, now);
        let (one, other) = (endpoint.clone(), endpoint.clone());
        let requests = thread::spawn(move || enter(&one, now));
        let operator = thread::spawn(move || {
            other.withdraw(Absence::Outlier);
            other.withdraw(Absence::Unhealthy);
            other.restore(Absence::Outlier, now);
        });
        drop(enter(&endpoint, now));
        operator.join().unwrap();
        let under_way = requests.join().unwrap();
        assert_eq!(endpoint.in_flight(), 1);
        assert_eq!(endpoint.absences().collect::<Vec<_>>(), [Absence::Unhealthy]);
        drop(under_way);
        assert_eq!(endpoint.in_flight(), 0);
    });
}

/// Whoever sees that it is back sees when, or it would have all of its share at once.
#[test]
fn r9_6_an_endpoint_that_is_back_is_seen_to_be_new() {
    model(3, || {
        let start = Now::read();
        let now = Now::from(start.instant() + Duration::from_hours(1));
        let endpoint = endpoint(None, start);
        endpoint.withdraw(Absence::Unhealthy);
        // Who looks is the other thread: loom takes two looks of two threads for no race, and misses what is behind them.
        let other = endpoint.clone();
        let thread = thread::spawn(move || {
            assert_new_if_back(&other, start, now);
        });
        endpoint.restore(Absence::Unhealthy, now);
        thread.join().unwrap();
    });
}

/// Each saw the other's reason, neither took itself for the last one, and the endpoint was back with all of its share.
#[test]
fn r9_6_an_endpoint_is_new_whoever_of_two_takes_the_last_reason_away() {
    model(3, || {
        let start = Now::read();
        let now = Now::from(start.instant() + Duration::from_hours(1));
        let endpoint = endpoint(None, start);
        let reasons = [Absence::Unhealthy, Absence::Maintenance];
        for absence in reasons {
            endpoint.withdraw(absence);
        }
        let threads = reasons.map(|absence| {
            let endpoint = endpoint.clone();
            thread::spawn(move || endpoint.restore(absence, now))
        });
        assert_new_if_back(&endpoint, start, now);
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(Account::is_present(endpoint.account().status()));
        assert_new_if_back(&endpoint, start, now);
    });
}

/// Whoever says that it has all of its share has looked at when it joined before.
#[test]
fn r9_6_an_endpoint_that_goes_and_is_back_is_new_though_it_had_all_of_its_share_just_before() {
    model(3, || {
        let start = Now::read();
        let now = Now::from(start.instant() + Duration::from_hours(1));
        let endpoint = endpoint(None, start);
        endpoint.withdraw(Absence::Unhealthy);
        endpoint.restore(Absence::Unhealthy, start);
        let other = endpoint.clone();
        let requests = thread::spawn(move || {
            other.account().settle(now.since_ns(start.instant()), Some(SLOW_START));
        });
        endpoint.withdraw(Absence::Unhealthy);
        endpoint.restore(Absence::Unhealthy, now);
        requests.join().unwrap();
        assert_new_if_back(&endpoint, start, now);
    });
}

/// Who has been told that nothing is under way may take it down.
#[test]
fn r9_7_nobody_enters_what_was_said_to_be_drained() {
    for capacity in [None, Some(1)] {
        model(3, move || {
            let now = Now::read();
            let endpoint = endpoint(capacity, now);
            let other = endpoint.clone();
            let requests = thread::spawn(move || enter(&other, now));
            endpoint.withdraw(Absence::Draining);
            let is_drained = endpoint.is_drained();
            let under_way = requests.join().unwrap();
            assert!(!is_drained || under_way.is_none());
            drop(under_way);
            assert!(endpoint.is_drained());
        });
    }
}
