//! For tests: an inventory in the thread of whoever asks, and what happens to it.

use std::{path::Path, time::Duration};

use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::{
    command::Command,
    record::{Fed, MIGRATIONS, Record},
};
use crate::{
    kernel::store::{Crash, Store, StoreError},
    rules::moment::Moment,
};

pub(crate) const NOON: Moment = Moment::from_unix(1_768_458_600);

/// A commit that no test comes to.
pub(crate) const NEVER: i64 = i64::MAX / 2;

/// So many seconds after noon.
pub(crate) fn at(seconds: u64) -> Moment {
    NOON.after(Duration::from_secs(seconds))
}

/// Without the runtime's clock, which nothing here waits for.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn store(folder: &Path, crash: Crash) -> Store {
    Store::open_here(&folder.join("inventory.db"), MIGRATIONS, crash).unwrap()
}

pub(crate) fn command(name: &str, body: Value) -> Command {
    serde_json::from_value(Value::from_iter([(name.to_owned(), body)])).unwrap()
}

/// Everything there is in the log, but for positions.
pub(crate) fn all(record: &Record) -> Vec<Fed> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let page = now(record.feed(after, 100)).unwrap();
        let Some(last) = page.events.last() else { return all };
        after = last.position;
        all.extend(page.events.into_iter().map(|it| Fed { position: 0, ..it }));
    }
}

/// Something that happens, so many seconds after what happened before.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) seconds: u64,
    pub(crate) command: Command,
}

/// Does it all, each under an id of its own, and ends what runs out; the same again is the same.
pub(crate) async fn play(record: &Record, steps: &[Step]) -> Result<(), StoreError> {
    let mut seconds = 0;
    for (number, step) in steps.iter().enumerate() {
        seconds += step.seconds;
        record.expire(at(seconds)).await?;
        let answer = record.execute(number.to_string(), "test", step.command.clone(), at(seconds)).await?;
        assert!(answer.is_ok(), "an id is used once");
    }
    Ok(())
}

/// A life with everything in it: reserved from several warehouses and of two products, released, completed, run out.
pub(crate) fn life() -> Vec<Step> {
    let add = |product_id, warehouse, quantity| {
        let body = json!({"product_id": product_id, "warehouse": warehouse, "quantity": quantity});
        (0, "add_product", body)
    };
    let reserve = |seconds, id, first, second| {
        let items = json!([{"product_id": "a", "quantity": first}, {"product_id": "b", "quantity": second}]);
        (seconds, "reserve", json!({"reservation_id": id, "items": items, "hold_seconds": 60}))
    };
    let release = |id, reason| (1, "release", json!({"reservation_id": id, "reason": reason}));
    let steps = [
        add("a", "MUM_WH_001", 40),
        add("a", "DEL_WH_001", 30),
        add("b", "MUM_WH_001", 60),
        reserve(1, "split", 60, 20),
        reserve(1, "refused", 1, 50),
        release("split", "order_completed"),
        reserve(1, "cancelled", 5, 5),
        release("cancelled", "order_cancelled"),
        release("cancelled", "order_cancelled"),
        reserve(1, "forgotten", 10, 10),
        release("unknown", "order_cancelled"),
        reserve(1, "unknown", 1, 1),
        (
            90,
            "update_quantity",
            json!({"product_id": "a", "warehouse": "DEL_WH_001", "delta": 25, "reason": "returned"}),
        ),
        release("forgotten", "order_completed"),
        (1, "transfer", json!({"product_id": "b", "from": "MUM_WH_001", "to": "DEL_WH_001", "quantity": 35})),
        reserve(1, "held", 1, 36),
    ];
    steps.map(|(seconds, name, body)| Step { seconds, command: command(name, body) }).into()
}

/// Lives at random, with few products, warehouses and reservations, so that they meet.
pub(crate) fn lives() -> impl Strategy<Value = Vec<Step>> {
    let product = || (0..3_u8).prop_map(|it| format!("prod_{it}"));
    let warehouse = || (0..3_u8).prop_map(|it| format!("MUM_WH_00{it}"));
    let reservation = || (0..8_u8).prop_map(|it| format!("ORD_{it}"));
    let item = (product(), 1..90_u32);
    let add = (product(), warehouse(), 1..120_u32)
        .prop_map(|(id, at, n)| ("add_product", json!({"product_id": id, "warehouse": at, "quantity": n})));
    let update = (product(), warehouse(), -60..60_i32, any::<bool>()).prop_map(|(id, at, delta, first)| {
        let (delta, reason) = match (delta, first) {
            (0.., true) => (delta + 1, "restocking"),
            (0.., false) => (delta + 1, "returned"),
            (_, true) => (delta, "sold"),
            (_, false) => (delta, "damaged"),
        };
        ("update_quantity", json!({"product_id": id, "warehouse": at, "delta": delta, "reason": reason}))
    });
    let transfer = (product(), warehouse(), 1..3_u8, 1..60_u32).prop_map(|(id, from, further, n)| {
        let number = (from.as_bytes()[from.len() - 1] - b'0' + further) % 3;
        let to = format!("MUM_WH_00{number}");
        ("transfer", json!({"product_id": id, "from": from, "to": to, "quantity": n}))
    });
    let reserve = (reservation(), vec(item, 1..4), 1..120_u32).prop_map(|(id, mut items, hold)| {
        items.sort();
        items.dedup_by(|one, other| one.0 == other.0);
        let items = items.iter().map(|(id, n)| json!({"product_id": id, "quantity": n})).collect::<Value>();
        ("reserve", json!({"reservation_id": id, "items": items, "hold_seconds": hold}))
    });
    let reason = prop_oneof![Just("order_cancelled"), Just("order_completed"), Just("expired")];
    let release = (reservation(), reason)
        .prop_map(|(id, reason)| ("release", json!({"reservation_id": id, "reason": reason})));
    let command = prop_oneof![2 => add, 2 => update, 2 => transfer, 4 => reserve, 3 => release];
    let step = (0..40_u64, command)
        .prop_map(|(seconds, (name, body))| Step { seconds, command: self::command(name, body) });
    vec(step, 1..60)
}
