//! What callers may do to one budget, in all orders of their steps.

use loom::thread;

use super::*;
use crate::sync::modelled::model;

#[test]
fn however_many_ask_at_once_no_more_are_given_than_there_are_and_no_fewer() {
    model(3, || {
        let now = Now::read();
        // One in any case, and one for two requests.
        let config = BudgetConfig::new().min_per_second(1).percent(50).window(Duration::from_secs(1));
        let budget = Budget::new(config, now);
        budget.deposit(now);
        let ask = |budget: Budget| {
            move || {
                budget.deposit(now);
                u64::from(budget.withdraw(now))
            }
        };
        let threads = [(); 2].map(|()| thread::spawn(ask(budget.clone())));
        let mine = u64::from(budget.withdraw(now));
        let given = threads.map(|thread| thread.join().unwrap()).iter().sum::<u64>() + mine;
        assert_eq!(budget.balance(now), Balance { spent: given, allowed: 2 }, "lost, or given twice");
        assert!((1..=2).contains(&given), "{given} of 2");
        assert_eq!(u64::from(budget.withdraw(now)), 2 - given, "what is left can be had");
        assert!(!budget.withdraw(now));
    });
}

#[test]
fn a_step_that_is_over_is_replaced_once() {
    model(3, || {
        let start = Now::read();
        let config = BudgetConfig::new().min_per_second(0).percent(100).window(Duration::from_secs(1));
        let budget = Budget::new(config, start);
        let later = Now::from(start.instant() + Duration::from_secs(1));
        budget.deposit(start); // In the place of the step that is written now.
        let threads = [(); 2].map(|()| {
            let budget = budget.clone();
            thread::spawn(move || budget.deposit(later))
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(budget.balance(later).allowed, 2);
    });
}
