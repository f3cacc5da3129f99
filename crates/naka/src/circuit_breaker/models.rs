//! What callers may do to one breaker, in all orders of their steps.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64 as Plain, Ordering::SeqCst},
    },
    time::Duration,
};

use loom::thread;
use tokio::time::Instant;

use super::{
    Breaker, CircuitBreakerConfig, Transition, Window,
    breaker::Pass,
    cell::{Admitted, Cell, Turn},
    config::Rule,
    phase::{self, Phase},
    window::{Answer, Cause, Counts},
};
use crate::{classify::Outcome, clock::Now, observe::Observer, sync::modelled::model};

const BAD: Answer = Answer { is_failure: true, is_slow: false };
const GOOD: Answer = Answer { is_failure: false, is_slow: false };
const AT_MS: u64 = 10;

fn rule(config: CircuitBreakerConfig) -> Rule {
    config.rule(0)
}

/// One that has been open for long enough.
fn open() -> Arc<Cell> {
    let cell = Cell::new();
    cell.by_hand(|state| phase::opened(state, 0, 0));
    Arc::new(cell)
}

fn settle(cell: &Cell, rule: &Rule, admitted: Admitted, answer: Answer) -> Option<Turn> {
    cell.settle(rule, admitted, answer, || AT_MS * 1_000_000, || 0)
}

/// Runs this in two other threads and in this one, and says what each of them says.
fn in_three<R: Send + 'static>(run: impl Fn(u64) -> R + Clone + Send + 'static) -> [R; 3] {
    let others = [1, 2].map(|number| {
        let run = run.clone();
        thread::spawn(move || run(number))
    });
    let mine = run(0);
    let [one, two] = others.map(|thread| thread.join().unwrap());
    [mine, one, two]
}

#[test]
fn r3_11_never_more_probes_than_there_may_be_and_each_place_comes_back() {
    for probes in [1, 2] {
        model(3, move || {
            let rule = rule(CircuitBreakerConfig::new().probes(u8::try_from(probes).unwrap(), 15));
            let (cell, at_work) = (open(), Arc::new(Plain::new(0)));
            let (all, seen) = (Arc::clone(&cell), Arc::clone(&at_work));
            let turns = in_three(move |caller| {
                let (said, turn) = all.enter(&rule, AT_MS);
                if let Ok(admitted) = said {
                    assert!(admitted.is_probe && seen.fetch_add(1, SeqCst) < probes, "too many at once");
                    seen.fetch_sub(1, SeqCst);
                    if caller == 0 {
                        assert_eq!(settle(&all, &rule, admitted, GOOD), None, "one of fifteen");
                    } else {
                        all.give_back(&rule, admitted);
                    }
                }
                turn
            });
            assert_eq!(turns.iter().flatten().count(), 1, "told once: {turns:?}");
            let state = cell.state();
            assert_eq!((state.phase, state.probes), (Phase::HalfOpen, 0), "a place is lost");
        });
    }
}

#[test]
fn r3_11_of_probes_that_end_at_once_one_closes_or_opens_and_says_so() {
    for answers in [[GOOD, GOOD, GOOD], [GOOD, BAD, GOOD], [BAD, BAD, BAD]] {
        model(3, move || {
            let rule = rule(CircuitBreakerConfig::new().probes(3, 1));
            let cell = open();
            let probes = [(); 3].map(|()| cell.enter(&rule, AT_MS).0.unwrap());
            let all = Arc::clone(&cell);
            let turns = in_three(move |caller| {
                let caller = usize::try_from(caller).unwrap();
                settle(&all, &rule, probes[caller], answers[caller])
            });
            let told = turns.into_iter().flatten().collect::<Vec<_>>();
            assert!(matches!(&told[..], [turn] if turn.to == cell.state().phase), "{told:?}");
        });
    }
}

#[test]
fn r3_11_probes_that_hang_are_replaced_once_and_free_nobody_elses_place() {
    model(3, || {
        let rule = rule(CircuitBreakerConfig::new().probes(1, 15));
        let (cell, later_ms) = (open(), AT_MS + rule.phases.probe_ms);
        let hung = cell.enter(&rule, AT_MS).0.unwrap();
        let all = Arc::clone(&cell);
        let entered = in_three(move |caller| {
            if caller == 0 {
                all.give_back(&rule, hung);
                return false;
            }
            all.enter(&rule, later_ms).0.is_ok()
        });
        assert_eq!(entered.iter().filter(|entered| **entered).count(), 1);
        assert_eq!(cell.state().probes, 1);
    });
}

#[test]
fn r3_5_a_result_of_an_earlier_epoch_changes_nothing() {
    for is_late in [GOOD, BAD] {
        model(3, move || {
            let config = CircuitBreakerConfig::new().consecutive(9).failure_rate(100);
            let rule = rule(config.window(Window::Time(Duration::from_secs(10)), 9));
            let cell = Arc::new(Cell::new());
            let late = cell.enter(&rule, AT_MS).0.unwrap();
            let other = Arc::clone(&cell);
            let thread = thread::spawn(move || assert_eq!(settle(&other, &rule, late, is_late), None));
            cell.by_hand(phase::reset);
            let admitted = cell.enter(&rule, AT_MS).0.unwrap();
            assert_eq!(settle(&cell, &rule, admitted, BAD), None);
            thread.join().unwrap();
            let one = Counts { total: 1, failed: 1, slow: 0 };
            assert_eq!(cell.counts(&rule, AT_MS * 1_000_000), (one, 1), "not what is of this epoch alone");
        });
    }
}

#[test]
fn r3_11_failures_in_a_row_are_counted_and_open_once() {
    model(2, || {
        let rule = rule(CircuitBreakerConfig::new().consecutive(3));
        let cell = Arc::new(Cell::new());
        let admitted = cell.enter(&rule, AT_MS).0.unwrap();
        let all = Arc::clone(&cell);
        let turns = in_three(move |_| settle(&all, &rule, admitted, BAD));
        let told = turns.into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(told.iter().map(|turn| turn.cause).collect::<Vec<_>>(), [Cause::Consecutive(3)]);
        assert_eq!(cell.state().phase, Phase::Open);
    });
}

/// Each into a bucket of its own, so that no two meet at one word: whoever looks last has to see what all wrote.
#[test]
fn r3_1_the_last_result_sees_all_and_opens() {
    for callers in [2, 3] {
        model(3, move || {
            let config = CircuitBreakerConfig::new().consecutive(0).failure_rate(100);
            let rule = rule(config.window(Window::Time(Duration::from_secs(10)), callers));
            let cell = Arc::new(Cell::new());
            let admitted = cell.enter(&rule, AT_MS).0.unwrap();
            let other = Arc::clone(&cell);
            let run = move |caller: u64| {
                let now_ns = || (caller + 1) * 1_000_000_000;
                other.settle(&rule, admitted, BAD, now_ns, || 0)
            };
            let turns = if callers == 3 {
                in_three(run).to_vec()
            } else {
                let mine = run.clone();
                let thread = thread::spawn(move || run(1));
                vec![mine(0), thread.join().unwrap()]
            };
            assert_eq!(turns.iter().flatten().count(), 1, "{turns:?}");
            assert_eq!(cell.state().phase, Phase::Open, "nobody saw all");
        });
    }
}

#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Vec<Transition>>>);

impl Observer for Told {
    fn transition(&self, transition: &Transition) {
        self.0.lock().unwrap().push(*transition);
    }
}

/// The handle, with guards that are dropped: a probe whose caller has gone, beside one that fails.
#[test]
fn r3_4_a_probe_that_is_dropped_says_nothing_and_the_next_one_is_let_in() {
    model(3, || {
        let start = Now::read();
        let later = Now::from(start.instant() + Duration::from_hours(1));
        let told = Told::default();
        let breaker = Breaker::observed(CircuitBreakerConfig::new().probes(1, 1), told.clone());
        breaker.cell.by_hand(|state| phase::opened(state, 0, 0));
        let enter = move |breaker: &Breaker<Told>| breaker.enter(later).ok();
        let threads = [None, Some(Outcome::Success)].map(|outcome| {
            let breaker = breaker.clone();
            thread::spawn(move || {
                let pass = enter(&breaker);
                let is_in = pass.is_some();
                match outcome {
                    Some(outcome) => pass.map_or((), |pass: Pass<Told>| pass.settle(outcome)),
                    None => drop(pass),
                }
                is_in
            })
        });
        let [dropped, settled] = threads.map(|thread| thread.join().unwrap());
        assert!(dropped || settled, "one of two is let in");
        let state = breaker.cell.state();
        assert_eq!((state.phase == Phase::Closed, state.probes), (settled, 0));
        let changes = told.0.lock().unwrap().iter().map(|turn| turn.to).collect::<Vec<_>>();
        let expected: &[_] = if settled { &[Phase::HalfOpen, Phase::Closed] } else { &[Phase::HalfOpen] };
        assert_eq!(changes, expected);
        assert!(breaker.enter(later).is_ok());
    });
}

/// What is done by hand while callers come and go is neither undone nor told for something else.
#[test]
fn r3_7_what_is_forced_stays_whatever_callers_do_meanwhile() {
    model(3, || {
        let rule = rule(CircuitBreakerConfig::new().probes(1, 1));
        let cell = open();
        let all = Arc::clone(&cell);
        let turns = in_three(move |caller| match caller {
            0 => all.enter(&rule, AT_MS).1,
            _ => all.by_hand(|state| phase::forced(state, Phase::ForcedClosed)),
        });
        let forced = turns.iter().flatten().filter(|turn| turn.to == Phase::ForcedClosed).count();
        assert_eq!((cell.state().phase, forced), (Phase::ForcedClosed, 1), "{turns:?}");
        assert_eq!(u64::try_from(turns.iter().flatten().count()).unwrap() + 1, cell.state().epoch);
    });
}

#[test]
fn of_configurations_that_see_their_first_requests_at_once_the_newest_is_in_force() {
    model(3, || {
        let now = Now::from(Instant::now());
        let breakers = [1, 2, 3].map(|probes| CircuitBreakerConfig::new().probes(probes, 1));
        let first = Breaker::new(breakers[0]);
        let [second, third] = [breakers[1], breakers[2]].map(|config| first.reconfigured(&config));
        let threads = [second, third].map(|breaker| thread::spawn(move || drop(breaker.enter(now))));
        let seen = first.shared.in_force(|rule| rule.phases.probes);
        assert!((1..=3).contains(&seen));
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(first.shared.in_force(|rule| rule.phases.probes), 3);
    });
}
