//! How orders end that came to be, and what is remembered of it.

use serde_json::json;

use crate::{http::post, shopping::Shop, world::NOON};

/// A month and a day later.
const LATER: &str = "2026-02-16T12:00:00+05:30";

/// All that the order and payment services have written down, but for what is personal.
fn written(shop: &Shop, word: &str) -> Vec<String> {
    let places = [
        ("order", "events", "data"),
        ("order", "snapshots", "state"),
        ("order", "sagas", "input || results || coalesce(cause, '')"),
        ("order", "saga_log", "coalesce(detail, '')"),
        ("payment", "payments", "account || coalesce(detail, '')"),
        ("payment", "sagas", "input || results || coalesce(cause, '')"),
        ("payment", "saga_log", "coalesce(detail, '')"),
        ("payment", "closed_orders", "reason"),
    ];
    let finds = places.into_iter().filter(|(service, table, column)| {
        let sql = format!("SELECT count(*) FROM {table} WHERE instr({column}, '{word}') > 0");
        shop.count(service, &sql) > 0
    });
    finds.map(|(service, table, _)| format!("{service}.{table}")).collect()
}

#[test]
fn what_is_on_its_way_is_brought_back_by_the_courier_alone() {
    let shop = Shop::new();
    let order = |key: &str| {
        let placed = Shop::place("asha", key, &Shop::paid_wish(2, "asha@bank")).send(shop.order.at);
        placed.expect(201).said("order_id")
    };
    for (key, states) in [("1", &["shipped"][..]), ("2", &["shipped", "out_for_delivery"])] {
        let order_id = order(key);
        shop.progress(&order_id, "returned").problem(409, "wrong_state");
        for state in states {
            shop.progress(&order_id, state).expect(200);
        }
        shop.call_off("asha", &order_id, "return").problem(409, "not_delivered");
        let back = shop.progress(&order_id, "returned").expect(200);
        assert_eq!((back.said("state"), back.said("reason")), ("refunded".into(), "undelivered".into()));
        assert_eq!(shop.progress(&order_id, "returned").expect(200).said("refunded"), back.said("refunded"));
        shop.await_quiet();
        assert_eq!((shop.taken(), shop.gone()), (0, 0));
    }
    let order_id = order("3");
    for state in ["shipped", "out_for_delivery", "delivered"] {
        shop.progress(&order_id, state).expect(200);
    }
    shop.progress(&order_id, "returned").problem(409, "wrong_state");
    assert_eq!(shop.call_off("asha", &order_id, "return").expect(200).said("state"), "refunded");
    let again = shop.call_off("asha", &order_id, "return").expect(200);
    assert_eq!((again.said("state"), again.said("refunded")), ("refunded".into(), "970.00".into()));
    shop.call_off("asha", &order_id, "cancel").problem(409, "wrong_state");
    shop.await_quiet();
    assert_eq!((shop.taken(), shop.gone()), (0, 0));
}

#[test]
fn r5_8_what_customers_write_and_pay_from_is_in_no_event_and_is_forgotten() {
    let mut shop = Shop::new();
    let account = "asha-of-hill-road@bank";
    let placed = Shop::place("asha", "1", &Shop::paid_wish(2, account)).send(shop.order.at).expect(201);
    let order_id = placed.said("order_id");
    // So far that its return is the twentieth event, with which a snapshot is kept.
    shop.progress(&order_id, "shipped").expect(200);
    for hub in 1..=9 {
        let path = format!("/internal/orders/{order_id}/progress");
        post(&path, &json!({"at": format!("hub {hub}")})).send(shop.order.at).expect(200);
    }
    shop.progress(&order_id, "out_for_delivery").expect(200);
    shop.progress(&order_id, "delivered").expect(200);
    let remark = json!({"reason": "my knee hurts"});
    let back = post(&format!("/api/orders/{order_id}/return"), &remark).by("asha");
    let over = back.send(shop.order.at).expect(200);
    assert_eq!((over.said("reason"), over.said("remark")), ("by_customer".into(), "my knee hurts".into()));
    shop.await_quiet();
    assert_eq!(written(&shop, "knee"), [""; 0]);
    assert_eq!(written(&shop, "hill-road"), [""; 0]);
    assert_eq!(
        written(&shop, "by_customer"),
        ["order.events", "order.snapshots", "order.sagas", "order.saga_log"]
    );
    assert_eq!(shop.order("asha", &order_id).body["address"]["line"], "12 Hill Road");

    shop.restart("order", LATER, &[]);
    let forgotten = crate::process::eventually("it is forgotten", || {
        Some(shop.order("asha", &order_id)).filter(|it| it.body["address"].is_null())
    });
    assert!(forgotten.body["remark"].is_null(), "{}", forgotten.text);
    assert_eq!(
        (forgotten.said("state"), forgotten.said("reason")),
        ("refunded".into(), "by_customer".into())
    );
    assert!(LATER > NOON);
}

#[test]
fn a_parcel_is_called_the_same_however_often_it_is_asked_for() {
    let shop = Shop::new();
    let placed = Shop::place("asha", "1", &Shop::paid_wish(1, "asha@bank")).send(shop.order.at).expect(201);
    let called = "SELECT count(*) FROM sagas WHERE json_extract(input, '$.tracking_id')
        = json_extract(results, '$.ship_order.tracking_id')";
    shop.await_quiet();
    assert_eq!(shop.count("order", called), 1);
    assert!(placed.said("tracking_id").starts_with("TRK"));
}
