//! Orders and payments: what they come to, by day and in the worst hour.

use std::thread;

use rustix::process::Signal;
use serde_json::json;

use crate::{
    http::{get, post},
    process::eventually,
    shopping::Shop,
    world::NOON,
};

/// Tea, tax-inclusive; delivery is free from 500.00.
const TEA: i64 = 48_500;

#[test]
fn r4_9_an_order_that_is_paid_at_once_goes_through_every_step_and_tells_all_of_them() {
    let shop = Shop::new();
    let placed = Shop::place("asha", "1", &Shop::paid_wish(2, "asha@bank")).send(shop.order.at).expect(201);
    assert_eq!((placed.said("state"), placed.said("total")), ("processing".into(), "970.00".into()));
    let order_id = placed.said("order_id");
    shop.await_quiet();
    assert_eq!((shop.taken(), shop.gone()), (2 * TEA, 2));

    let timeline =
        get(&format!("/api/orders/{order_id}/timeline")).by("asha").send(shop.order.at).expect(200);
    assert_eq!(timeline.said("saga"), "completed");
    let steps = timeline.body["steps"].as_array().unwrap();
    let done = steps.iter().filter(|it| it["what"] == "done").map(|it| it["step"].as_str().unwrap());
    let expected =
        ["validate_order", "reserve_inventory", "process_payment", "ship_order", "send_confirmation"];
    assert_eq!(done.collect::<Vec<_>>(), expected);

    let payment_id = placed.body["payment"]["payment_id"].as_str().unwrap();
    let path = format!("/api/payments/{payment_id}/timeline");
    let paid = get(&path).by("asha").send(shop.payment.at).expect(200);
    assert_eq!((paid.said("state"), paid.said("saga")), ("completed".into(), "completed".into()));
    let done = paid.body["steps"].as_array().unwrap().iter().filter(|it| it["what"] == "done").count();
    assert_eq!(done, 10, "{}", paid.text);
    assert_eq!(paid.said("account"), "…bank", "no more of it than a receipt shows");
    get(&path).by("ravi").send(shop.payment.at).problem(404, "unknown_payment");
    get(&format!("/api/orders/{order_id}")).by("ravi").send(shop.order.at).problem(404, "unknown_order");

    // The merchant has 97 % of it, and the shop 3 %.
    let posted = |account| format!("SELECT -sum(paise) FROM postings WHERE account = '{account}'");
    let shares = ["merchant", "commission"].map(|account| shop.count("payment", &posted(account)));
    assert_eq!(shares, [94_090, 2_910]);
}

#[test]
fn r5_6_an_order_is_told_as_it_was_and_in_two_languages() {
    let shop = Shop::new();
    let placed = Shop::place("asha", "1", &Shop::wish(1, "upi")).send(shop.order.at).expect(201);
    assert_eq!(
        (placed.said("state"), placed.said("total")),
        ("placed".into(), "525.00".into()),
        "and delivery"
    );
    let order_id = placed.said("order_id");
    Shop::pay("asha", "p1", &order_id, "asha@bank").send(shop.payment.at).expect(201);
    shop.await_state("asha", &order_id, "processing");
    for state in ["shipped", "out_for_delivery", "delivered"] {
        assert_eq!(shop.progress(&order_id, state).expect(200).said("state"), state);
    }
    let path = format!("/api/orders/{order_id}");
    let then = |query: &str| get(&format!("{path}?{query}")).by("asha").send(shop.order.at).expect(200);
    let states = [1, 4, 5, 6, 7, 8, 9].map(|version| then(&format!("version={version}")).said("state"));
    let expected =
        ["placed", "placed", "confirmed", "processing", "shipped", "out_for_delivery", "delivered"];
    assert_eq!(states, expected);
    assert_eq!(then("at=2026-01-15T23:59:59%2B05:30").said("state"), "delivered");
    get(&format!("{path}?at=2026-01-15T11:59:59%2B05:30"))
        .by("asha")
        .send(shop.order.at)
        .problem(404, "unknown_order");
    get(&format!("{path}?at=noon")).by("asha").send(shop.order.at).problem(422, "unexpected_query");

    let history = |lang: &str| {
        let history = get(&format!("{path}/history?lang={lang}")).by("asha").send(shop.order.at).expect(200);
        history.body["events"].as_array().unwrap().clone()
    };
    let (english, hindi) = (history("en"), history("hi"));
    assert_eq!(english[0]["description"], "Order placed for ₹525.00");
    assert_eq!(hindi[0]["description"], "₹525.00 का ऑर्डर दिया गया");
    let versions = english.iter().map(|it| it["version"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(versions, (1..=9).collect::<Vec<_>>());

    let invoice = get(&format!("{path}/invoice")).by("asha").send(shop.order.at).expect(200);
    let paise = |value: &serde_json::Value| value.as_str().unwrap().replace('.', "").parse::<i64>().unwrap();
    let lines = invoice.body["invoice"]["lines"].as_array().unwrap();
    for line in lines {
        let parts = ["taxable", "cgst", "sgst", "igst"].map(|part| paise(&line[part]));
        assert_eq!(parts.iter().sum::<i64>(), paise(&line["amount"]), "{line}");
    }
    assert_eq!(lines.iter().map(|line| paise(&line["amount"])).sum::<i64>(), 52_500);
}

#[test]
fn r5_7_the_same_order_again_is_the_same_and_another_under_its_key_is_refused() {
    let shop = Shop::new();
    let first = Shop::place("asha", "1", &Shop::wish(1, "upi")).send(shop.order.at).expect(201);
    let again = Shop::place("asha", "1", &Shop::wish(1, "upi")).send(shop.order.at).expect(201);
    assert_eq!(first.text, again.text);
    Shop::place("asha", "1", &Shop::wish(2, "upi"))
        .send(shop.order.at)
        .problem(422, "idempotency_key_reused");
    Shop::place("ravi", "1", &Shop::wish(2, "upi")).send(shop.order.at).expect(201);
    assert_eq!(shop.count("order", "SELECT count(*) FROM orders"), 2);
}

#[test]
fn r5_1_whoever_has_seen_an_older_version_changes_nothing() {
    let shop = Shop::new();
    let placed = Shop::place("asha", "1", &Shop::wish(1, "upi")).send(shop.order.at).expect(201);
    let order_id = placed.said("order_id");
    let path = format!("/api/orders/{order_id}/cancel");
    let cancel = |tag: &str| {
        post(&path, &json!({"reason": "too dear"})).by("asha").header("if-match", tag).send(shop.order.at)
    };
    cancel("\"1\"").problem(409, "conflict");
    cancel("three").problem(400, "unexpected_if_match");
    let tag = format!("\"{}\"", placed.body["version"]);
    assert_eq!(cancel(&tag).expect(200).said("state"), "cancelled");
}

#[test]
fn r15_1_cancelled_and_returned_orders_give_back_the_money_and_the_goods() {
    let shop = Shop::new();
    for (key, how) in [("1", "cancel"), ("2", "return")] {
        let placed =
            Shop::place("asha", key, &Shop::paid_wish(3, "asha@bank")).send(shop.order.at).expect(201);
        let order_id = placed.said("order_id");
        if how == "return" {
            shop.call_off("asha", &order_id, how).problem(409, "wrong_state");
            for state in ["shipped", "out_for_delivery", "delivered"] {
                shop.progress(&order_id, state).expect(200);
            }
            shop.call_off("asha", &order_id, "cancel").problem(409, "wrong_state");
        }
        assert_eq!((shop.taken(), shop.gone()), (3 * TEA, 3));
        let over = shop.call_off("asha", &order_id, how).expect(200);
        assert_eq!((over.said("state"), over.said("refunded")), ("refunded".into(), "1455.00".into()));
        shop.await_quiet();
        assert_eq!((shop.taken(), shop.gone()), (0, 0));
    }
    assert_eq!(shop.count("payment", "SELECT sum(paise) FROM postings WHERE account = 'merchant'"), 0);
}

#[test]
fn r15_1_cash_is_paid_on_delivery_and_given_back_on_return() {
    let shop = Shop::new();
    let placed = Shop::place("asha", "1", &Shop::wish(2, "cod")).send(shop.order.at).expect(201);
    assert_eq!((placed.said("state"), placed.body["payment"].is_null()), ("processing".into(), true));
    let order_id = placed.said("order_id");
    Shop::pay("asha", "p", &order_id, "asha@bank").send(shop.payment.at).problem(422, "method_changed");
    for state in ["shipped", "out_for_delivery", "delivered"] {
        shop.progress(&order_id, state).expect(200);
    }
    let delivered = shop.order("asha", &order_id).expect(200);
    assert_eq!(delivered.body["payment"]["amount"], "970.00");
    assert_eq!(shop.call_off("asha", &order_id, "return").expect(200).said("refunded"), "970.00");
    shop.await_quiet();
    assert_eq!((shop.taken(), shop.gone()), (0, 0), "the bank has never heard of it");
}

#[test]
fn r4_5_the_same_payment_fifty_times_at_once_is_one_charge() {
    let shop = Shop::new();
    let placed = Shop::place("asha", "1", &Shop::wish(2, "upi")).send(shop.order.at).expect(201);
    let order_id = placed.said("order_id");
    let at = shop.payment.at;
    let answers = thread::scope(|scope| {
        let asks = (0..50).map(|number| {
            // Half of them with the same key, the others with one of their own.
            let key = if number % 2 == 0 { "same".to_owned() } else { number.to_string() };
            let order_id = order_id.clone();
            scope.spawn(move || Shop::pay("asha", &key, &order_id, "asha@bank").send(at))
        });
        asks.collect::<Vec<_>>().into_iter().map(|ask| ask.join().unwrap()).collect::<Vec<_>>()
    });
    shop.await_quiet();
    assert_eq!(shop.count("bank", "SELECT count(*) FROM movements"), 1);
    assert_eq!(shop.taken(), 2 * TEA);
    let paid = answers.iter().filter(|it| it.status == 201).map(|it| it.said("payment_id"));
    let paid = paid.collect::<std::collections::BTreeSet<_>>();
    assert_eq!(paid.len(), 1, "those who were told that it is paid were told of one payment");
    assert!(answers.iter().all(|it| [201, 409].contains(&it.status)), "{answers:?}");
    Shop::pay("asha", "later", &order_id, "asha@bank").send(at).problem(409, "already_paid");
}

#[test]
fn r15_5_a_refused_payment_takes_nothing_and_the_third_ends_the_order() {
    let shop = Shop::new();
    let placed = Shop::place("asha", "1", &Shop::wish(2, "upi")).send(shop.order.at).expect(201);
    let order_id = placed.said("order_id");
    for number in 0..3 {
        let refused = Shop::pay("asha", &format!("p{number}"), &order_id, "poor@bank").send(shop.payment.at);
        assert_eq!(refused.problem(402, "payment_refused").said("why"), "insufficient_funds");
    }
    shop.await_state("asha", &order_id, "cancelled");
    Shop::pay("asha", "p4", &order_id, "asha@bank").send(shop.payment.at).problem(409, "not_payable");
    shop.await_quiet();
    assert_eq!((shop.taken(), shop.gone()), (0, 0));
}

#[test]
fn r4_3_refused_at_each_step_an_order_leaves_nothing_behind() {
    let shop = Shop::new();
    let place = |key: &str, user: &str, wish| Shop::place(user, key, &wish).send(shop.order.at);
    place("1", "BLOCKED_mallory", Shop::paid_wish(1, "asha@bank")).problem(403, "user_blocked");
    let mut much = Shop::paid_wish(1, "asha@bank");
    much["items"] = json!([{"product_id": "prod_001", "quantity": 1}]);
    for number in 0..100 {
        // There are a hundred of them; whoever comes late gets none. Nobody pays: they only wait.
        much["payment_method"] = "wallet".into();
        much.as_object_mut().unwrap().remove("payment");
        place(&format!("w{number}"), "asha", much.clone()).expect(201);
    }
    place("2", "asha", much).problem(409, "out_of_stock");
    for (key, account) in [("3", "poor@bank"), ("4", "declined@bank")] {
        place(key, "asha", Shop::paid_wish(1, account)).problem(402, "payment_refused");
    }
    place("5", "asha", Shop::paid_wish(1, "broken@bank")).problem(503, "payment_unavailable");
    assert_eq!(shop.taken(), 0);
    assert_eq!(shop.count("inventory", "SELECT count(*) FROM reservations WHERE state = 'held'"), 100);
}

#[test]
fn r4_3_a_charge_that_is_not_answered_is_looked_for_and_made_once() {
    let shop = Shop::new();
    for (key, account) in [("1", "lost@bank"), ("2", "late@bank")] {
        let placed = Shop::place("asha", key, &Shop::wish(2, "upi")).send(shop.order.at).expect(201);
        let order_id = placed.said("order_id");
        let ask = Shop::pay("asha", &format!("p{key}"), &order_id, account);
        eventually("it is paid", || ask.attempt(shop.payment.at).ok().filter(|answer| answer.status == 201));
        shop.await_state("asha", &order_id, "processing");
    }
    assert_eq!(shop.count("bank", "SELECT count(*) FROM movements"), 2);
}

#[test]
fn r12_3_while_payment_is_down_orders_wait_and_go_on_when_it_is_back() {
    let mut shop = Shop::new();
    shop.payment.kill();
    let at = shop.order.at;
    let asha = thread::spawn(move || Shop::place("asha", "1", &Shop::paid_wish(2, "asha@bank")).attempt(at));
    let ravi = Shop::place("ravi", "1", &Shop::wish(1, "upi")).send(shop.order.at).expect(201);
    assert_eq!(ravi.said("state"), "placed", "who does not pay yet does not notice");
    let ids = "SELECT count(*) FROM saga_log WHERE step = 'process_payment' AND what = 'tried'";
    eventually("it was tried in vain", || (shop.count("order", ids) > 1).then_some(()));
    shop.restart("payment", NOON, &[]);
    let placed = asha.join().unwrap().unwrap().expect(201);
    assert_eq!(placed.said("state"), "processing");
    Shop::pay("ravi", "p", &ravi.said("order_id"), "ravi@bank").send(shop.payment.at).expect(201);
    shop.await_state("ravi", &ravi.said("order_id"), "processing");
    assert_eq!(shop.taken(), 2 * TEA + 52_500);
}

#[test]
fn r15_5_an_order_that_nobody_pays_ends_and_its_goods_are_there_for_others() {
    let mut shop = Shop::new();
    let placed = Shop::place("asha", "1", &Shop::wish(2, "upi")).send(shop.order.at).expect(201);
    let order_id = placed.said("order_id");
    assert_eq!(shop.gone(), 1, "it is held");
    let later = "2026-01-15T12:15:01+05:30";
    shop.restart("inventory", later, &[]);
    shop.restart("payment", later, &[]);
    shop.restart("order", later, &[]);
    let ended = shop.await_state("asha", &order_id, "cancelled");
    assert_eq!(ended.said("reason"), "payment_expired");
    shop.await_quiet();
    assert_eq!((shop.taken(), shop.gone()), (0, 0));
    Shop::pay("asha", "late", &order_id, "asha@bank").send(shop.payment.at).problem(409, "not_payable");
}

#[test]
fn sigterm_ends_order_and_payment_once_they_have_answered() {
    let mut shop = Shop::new();
    Shop::place("asha", "1", &Shop::paid_wish(1, "asha@bank")).send(shop.order.at).expect(201);
    for service in [&mut shop.order, &mut shop.payment] {
        service.process.signal(Signal::TERM);
        service.process.line_with("stops on SIGTERM");
        assert_eq!(service.process.end().code(), Some(0));
    }
}
