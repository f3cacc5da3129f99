//! The bank: keys, marks, and accounts that make trouble.

use std::{path::Path, thread};

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::{
    http::{Answer, Ask, delete, get, put, read},
    process::eventually,
    world::{NOON, Service},
};

struct Bank {
    service: Service,
    data: tempfile::TempDir,
}

impl Bank {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        Self { service: Service::start("bank", data.path(), None, NOON, &[]), data }
    }

    fn send(&self, ask: &Ask) -> Answer {
        ask.send(self.service.at)
    }

    fn count(&self, sql: &str) -> i64 {
        count(self.data.path(), sql)
    }

    fn attempts(&self) -> i64 {
        self.count("SELECT coalesce(sum(count), 0) FROM attempts")
    }

    /// Asks, waits until that is so, and goes without an answer.
    fn leave(&self, ask: &Ask, once: impl Fn() -> bool) {
        let (stream, rest) = ask.begin(self.service.at, 0);
        assert_eq!(rest, "");
        eventually("it has come to that", || once().then_some(()));
        drop(stream);
    }
}

fn count(data: &Path, sql: &str) -> i64 {
    let file = Connection::open_with_flags(data.join("bank.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    file.query_row(sql, (), |row| row.get(0)).unwrap()
}

const NET: &str =
    "SELECT coalesce(sum(CASE entry WHEN 'charge' THEN paise ELSE -paise END), 0) FROM movements";

fn body(account: &str, amount: &str) -> Value {
    json!({"account": account, "method": "upi", "amount": amount})
}

fn hold(key: &str, account: &str, amount: &str) -> Ask {
    put(&format!("/holds/{key}"), &body(account, amount))
}

fn charge(key: &str, account: &str, amount: &str) -> Ask {
    put(&format!("/charges/{key}"), &body(account, amount))
}

fn refund(key: &str) -> Ask {
    put(&format!("/charges/{key}/refund"), &Value::Null)
}

fn look(key: &str) -> Ask {
    get(&format!("/charges/{key}"))
}

#[test]
fn a_key_is_one_charge_and_a_refund_of_it_is_one_refund() {
    let bank = Bank::start();
    let first = bank.send(&charge("1", "asha@upi", "541.86")).expect(200);
    assert_eq!((first.said("state"), first.said("amount")), ("charged".into(), "541.86".into()));
    assert_eq!(bank.send(&charge("1", "asha@upi", "541.86")).expect(200).text, first.text);
    assert_eq!(bank.send(&look("1")).expect(200).text, first.text);
    for other in [charge("1", "asha@upi", "541.87"), charge("1", "ravi@upi", "541.86")] {
        bank.send(&other).problem(422, "idempotency_key_reused");
    }
    assert_eq!(bank.count(NET), 54_186);

    let refunded = bank.send(&refund("1")).expect(200);
    assert_eq!((refunded.said("state"), refunded.said("amount")), ("refunded".into(), "541.86".into()));
    assert_eq!(bank.send(&refund("1")).expect(200).text, refunded.text);
    bank.send(&charge("1", "asha@upi", "541.86")).problem(409, "over");
    assert_eq!((bank.count(NET), bank.count("SELECT count(*) FROM movements")), (0, 2));
}

#[test]
fn fifty_same_charges_at_once_move_the_money_once() {
    let bank = Bank::start();
    let at = bank.service.at;
    let answers = thread::scope(|scope| {
        let ask = |_| scope.spawn(move || charge("1", "asha@upi", "1500.00").send(at).expect(200).text);
        let asked = (0..50).map(ask).collect::<Vec<_>>();
        asked.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(answers.iter().all(|it| *it == answers[0]), "{answers:?}");
    assert_eq!(bank.count("SELECT count(*) FROM movements"), 1);
}

#[test]
fn what_is_refunded_before_it_was_charged_is_never_charged() {
    let bank = Bank::start();
    assert_eq!(bank.send(&look("1")).expect(200).body["over"], false);
    let marked = bank.send(&refund("1")).expect(200);
    assert_eq!((marked.said("state"), &marked.body["over"]), ("none".into(), &json!(true)));
    assert_eq!(bank.send(&look("1")).expect(200).text, marked.text);
    for account in ["asha@upi", "ravi@upi"] {
        bank.send(&charge("1", account, "541.86")).problem(409, "over");
    }
    assert_eq!(bank.send(&refund("1")).expect(200).text, marked.text);
    assert_eq!(bank.count("SELECT count(*) FROM movements"), 0);
}

#[test]
fn a_hold_is_released_once_and_what_was_released_is_never_held() {
    let bank = Bank::start();
    let held = bank.send(&hold("1", "asha@upi", "541.86")).expect(200);
    assert_eq!(
        (held.said("state"), held.said("expires_at")),
        ("held".into(), "2026-01-15T12:15:00+05:30".into())
    );
    assert_eq!(bank.send(&hold("1", "asha@upi", "541.86")).expect(200).text, held.text);
    bank.send(&hold("1", "asha@upi", "541.87")).problem(422, "idempotency_key_reused");
    let mut used = body("asha@upi", "541.86");
    used["hold"] = json!("1");
    let charge_of_hold = |key: &str| put(&format!("/charges/{key}"), &used);

    assert_eq!(bank.send(&delete("/holds/1")).expect(200).said("state"), "released");
    bank.send(&delete("/holds/1")).expect(200);
    bank.send(&hold("1", "asha@upi", "541.86")).problem(409, "over");
    bank.send(&charge_of_hold("1")).problem(409, "hold_over");

    bank.send(&delete("/holds/2")).expect(200);
    bank.send(&hold("2", "asha@upi", "541.86")).problem(409, "over");

    bank.send(&hold("3", "asha@upi", "541.86")).expect(200);
    used["hold"] = json!("3");
    used["amount"] = json!("541.87");
    bank.send(&put("/charges/3", &used)).problem(422, "hold_mismatch");
    used["amount"] = json!("541.86");
    bank.send(&put("/charges/3", &used)).expect(200);
    bank.send(&put("/charges/3", &used)).expect(200);
    bank.send(&put("/charges/4", &used)).problem(409, "hold_over");
    assert_eq!(bank.send(&delete("/holds/3")).expect(200).said("state"), "captured");
    used["hold"] = json!("unknown");
    bank.send(&put("/charges/5", &used)).problem(409, "hold_over");
    assert_eq!(bank.count(NET), 54_186);
}

#[test]
fn accounts_that_make_trouble_make_it() {
    let bank = Bank::start();
    bank.send(&hold("1", "poor@upi", "541.86")).problem(402, "insufficient_funds");
    bank.send(&charge("1", "poor@upi", "541.86")).problem(402, "insufficient_funds");
    bank.send(&hold("1", "declined@upi", "541.86")).expect(200);
    bank.send(&charge("1", "declined@upi", "541.86")).problem(402, "declined");
    bank.send(&charge("1", "broken@upi", "541.86")).problem(500, "broken");
    assert_eq!(bank.count("SELECT count(*) FROM charges"), 0);

    let charges = || bank.count("SELECT count(*) FROM charges");
    bank.leave(&charge("lost", "lost@upi", "541.86"), || charges() == 1);
    assert_eq!(bank.send(&look("lost")).expect(200).said("state"), "charged");

    let late = charge("late", "late@upi", "541.86");
    bank.leave(&late, || bank.attempts() == 1);
    bank.leave(&late, || bank.attempts() == 2);
    assert_eq!(bank.send(&look("late")).expect(200).said("state"), "none");
    bank.send(&late).expect(200);
    bank.send(&late).expect(200);
    assert_eq!(charges(), 2);
}

/// A slow charge goes on when nobody waits for it any more, and is refused if it was refunded before.
#[test]
fn a_slow_charge_comes_after_all_unless_it_was_refunded_first() {
    let bank = Bank::start();
    let (one, two) = (charge("1", "slow@upi", "541.86"), charge("2", "slow@upi", "541.86"));
    let (left, _) = one.begin(bank.service.at, 0);
    let (second, _) = two.begin(bank.service.at, 0);
    assert_eq!(bank.send(&look("1")).expect(200).said("state"), "none", "it thinks");
    bank.send(&refund("2")).expect(200);
    drop(left);
    eventually("it comes after all", || {
        (bank.send(&look("1")).expect(200).said("state") == "charged").then_some(())
    });
    read(second).unwrap().problem(409, "over");
    assert_eq!(bank.count(NET), 54_186);
}

#[test]
fn what_was_said_before_a_crash_holds_after_it() {
    let mut bank = Bank::start();
    let first = bank.send(&charge("1", "asha@upi", "541.86")).expect(200);
    bank.send(&refund("2")).expect(200);
    let charges = || bank.count("SELECT count(*) FROM charges");
    bank.leave(&charge("3", "lost@upi", "541.86"), || charges() == 3);
    bank.service.kill();
    bank.service = Service::start("bank", bank.data.path(), Some(bank.service.at), NOON, &[]);
    assert_eq!(bank.send(&charge("1", "asha@upi", "541.86")).expect(200).text, first.text);
    bank.send(&charge("2", "asha@upi", "541.86")).problem(409, "over");
    assert_eq!(bank.send(&look("3")).expect(200).said("state"), "charged");
    assert_eq!(bank.count(NET), 2 * 54_186);
}

#[test]
fn the_bank_says_what_is_wrong() {
    let bank = Bank::start();
    bank.send(&charge("1", "asha", "541.86")).problem(422, "invalid_upi_id");
    bank.send(&charge("1", "asha@upi", "0.00")).problem(422, "invalid_amount");
    bank.send(&charge("1", "asha@upi", "5")).problem(422, "unexpected_json");
    bank.send(&charge(&"k".repeat(257), "asha@upi", "5.00")).problem(422, "invalid_id");
    let mut cash = body("asha@upi", "541.86");
    cash["method"] = json!("cod");
    bank.send(&put("/charges/1", &cash)).problem(422, "not_for_banks");
    let mut long = body("asha@upi", "541.86");
    long["minutes"] = json!(1441);
    bank.send(&put("/holds/1", &long)).problem(422, "invalid_minutes");
    bank.send(&get("/holds/1")).problem(405, "method_not_allowed");
    bank.send(&get("/readyz")).expect(200);
}
