//! What must hold, whoever crashed when.
//!
//! - Every saga is `completed` or `compensated`; none needs somebody, and nothing is left to be sent or was put aside.
//! - For each order, charges less refunds at the bank are the order's amount, or nothing: the amount exactly if it is paid and goes
//!   on, nothing if it is not paid, was called off, came back, or is to be paid on delivery.
//! - The order says of it what the bank does: what was paid, and what was given back.
//! - The ledger's postings of each payment add up to nothing, and what the merchant and the commission have is what the bank took.
//! - In each warehouse no more is reserved than is on hand, and at the end nothing is; and what has left is what was sent.
//! - Who was told that the goods are theirs has them; who was told that it is called off has nothing, and owes nothing.

use std::collections::BTreeMap;

use rusqlite::{Connection, OpenFlags};

use super::{
    Told,
    script::Accepted,
    stage::{Role, Stage},
};
use crate::{
    inventory::stock::Stock,
    kernel::log,
    order::{life::Order, record::stream},
    rules::{order::State, payment::Method},
};

/// What does not hold, and of which row that is; of none, if it could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The row.
    pub row: &'static str,
    /// What it is.
    pub why: String,
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self { row: "", why }
    }
}

/// What is audited, by row.
pub const ROWS: [(&str, &str); 5] = [
    ("R4.2", "every saga comes to its end, and none needs somebody"),
    ("R4.4", "charges less refunds are nothing or the amount, and order and ledger say what the bank does"),
    ("R5.3", "an order from its snapshot is the order from its first event"),
    (
        "R6.2",
        "no more is reserved than is on hand, nothing is in the end, and what has left is what was sent",
    ),
    ("R12.2", "every message was sent, and none put aside"),
];

fn of(row: &'static str) -> impl Fn(String) -> Wrong {
    move |why| Wrong { row, why }
}

/// A book, to be read.
fn open(stage: &Stage, role: Role) -> Result<Connection, String> {
    Connection::open_with_flags(stage.file(role), OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|it| it.to_string())
}

fn count(book: &Connection, sql: &str) -> Result<i64, String> {
    book.query_row(sql, (), |row| row.get(0)).map_err(|error| format!("{sql}: {error}"))
}

/// Whether nothing goes on any more.
///
/// # Errors
/// If a book cannot be read.
pub fn is_quiet(stage: &Stage) -> Result<bool, String> {
    let under_way =
        "SELECT count(*) FROM sagas WHERE state IN ('running', 'compensating') OR revoked IS NOT NULL";
    let unsent = "SELECT count(*) FROM outbox";
    for (role, sql) in [(Role::Order, under_way), (Role::Payment, under_way), (Role::Payment, unsent)] {
        if count(&open(stage, role)?, sql)? > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads the books, and says what does not hold.
///
/// # Errors
/// What does not hold.
pub fn audit(stage: &Stage, accepted: &[Accepted]) -> Result<Told, Wrong> {
    let [order, payment, inventory, bank] =
        [Role::Order, Role::Payment, Role::Inventory, Role::Bank].map(|role| open(stage, role));
    let (order, payment, inventory, bank) = (order?, payment?, inventory?, bank?);
    for (book, name) in [(&order, "order"), (&payment, "payment")] {
        let open = "SELECT count(*) FROM sagas WHERE state NOT IN ('completed', 'compensated')";
        let what = || format!("sagas of {name} are not over, or need somebody");
        expect(count(book, open)?, 0, what).map_err(of("R4.2"))?;
    }
    for (table, what) in [("dead_letters", "messages were put aside"), ("outbox", "messages were not sent")] {
        let left = count(&payment, &format!("SELECT count(*) FROM {table}"))?;
        expect(left, 0, || what.into()).map_err(of("R12.2"))?;
    }
    let orders = orders(&order).map_err(of("R5.3"))?;
    let mut told = Told { rehearsals: 1, crashes: stage.crashes, ..Told::default() };
    told.orders = orders.len() as u64;
    for (order_id, order) in &orders {
        money(order_id, order, &payment, &bank).map_err(of("R4.4"))?;
        match order.state {
            Some(State::Cancelled | State::Returned | State::Refunded) => told.undone += 1,
            _ => told.sent += 1,
        }
    }
    told.charges = count(&bank, "SELECT count(*) FROM movements WHERE entry = 'charge'")?.unsigned_abs();
    told.refunds = count(&bank, "SELECT count(*) FROM movements WHERE entry = 'refund'")?.unsigned_abs();
    told.snapshots = count(&order, "SELECT count(*) FROM snapshots")?.unsigned_abs();
    ledger(&payment, &bank).map_err(of("R4.4"))?;
    stock(&inventory, &orders).map_err(of("R6.2"))?;
    for Accepted { order_id, is_confirmed, is_undone } in accepted {
        let order =
            orders.get(order_id).ok_or_else(|| format!("{order_id} was accepted, and is not there"))?;
        let is_over = matches!(order.state, Some(State::Cancelled | State::Returned | State::Refunded));
        if *is_confirmed && is_over {
            let why = format!("{order_id} was confirmed to its customer, and is {:?}", order.state);
            return Err(of("R4.4")(why));
        }
        if *is_undone && !is_over {
            let why = format!("{order_id} was called off for its customer, and is {:?}", order.state);
            return Err(of("R4.4")(why));
        }
    }
    Ok(told)
}

fn expect<T: Copy + PartialEq + std::fmt::Debug>(
    is: T,
    should: T,
    what: impl FnOnce() -> String,
) -> Result<(), String> {
    if is == should { Ok(()) } else { Err(format!("{}: {is:?} instead of {should:?}", what())) }
}

fn orders(book: &Connection) -> Result<BTreeMap<String, Order>, String> {
    let mut statement = book.prepare("SELECT order_id FROM orders").map_err(|it| it.to_string())?;
    let ids = statement.query_map((), |row| row.get::<_, String>(0)).map_err(|it| it.to_string())?;
    let ids = ids.collect::<rusqlite::Result<Vec<_>>>().map_err(|it| it.to_string())?;
    let mut orders = BTreeMap::new();
    for id in ids {
        let live = log::load::<Order>(book, &stream(&id)).map_err(|it| it.to_string())?;
        let zero = log::load_from_zero::<Order>(book, &stream(&id)).map_err(|it| it.to_string())?;
        expect(&live, &zero, || format!("{id}, from its snapshot and from its first event"))?;
        orders.insert(id, live.state);
    }
    Ok(orders)
}

/// What the bank has of an order, and whether that is what it should be.
fn money(order_id: &str, order: &Order, payment: &Connection, bank: &Connection) -> Result<(), String> {
    let failed = |error: rusqlite::Error| error.to_string();
    let mut statement = payment
        .prepare("SELECT payment_id, state, amount FROM payments WHERE order_id = ?1")
        .map_err(failed)?;
    let payments = statement
        .query_map([order_id], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
        })
        .map_err(failed)?;
    let payments = payments.collect::<rusqlite::Result<Vec<_>>>().map_err(failed)?;
    let net = "SELECT coalesce(sum(CASE entry WHEN 'charge' THEN paise ELSE -paise END), 0) FROM movements
        WHERE charge = ?1";
    let mut taken = 0;
    for (id, state, amount) in &payments {
        let at_bank =
            bank.query_row(net, [format!("{id}:charge")], |row| row.get::<_, i64>(0)).map_err(failed)?;
        let is_cash = order.placed.as_ref().is_some_and(|it| it.payment_method == Method::Cod);
        let should = if state == "completed" && !is_cash { *amount } else { 0 };
        expect(at_bank, should, || {
            format!("{order_id}: the payment {id} is {state}, and the bank has of it")
        })?;
        taken += at_bank;
    }
    let placed = order.placed.as_ref().ok_or_else(|| format!("{order_id} was never placed"))?;
    let is_paid =
        matches!(order.state, Some(state) if is_on_its_way(state)) && placed.payment_method != Method::Cod;
    let should = if is_paid { placed.total.paise() } else { 0 };
    expect(taken, should, || format!("{order_id} is {:?}, and the bank has of it", order.state))?;
    if placed.payment_method == Method::Cod {
        return Ok(()); // The courier tells the order service itself.
    }
    // What its customer is shown of it.
    let ever = payments.iter().filter(|(_, state, _)| ["completed", "refunded"].contains(&&**state)).count();
    expect(usize::from(order.captured.is_some()), ever, || format!("{order_id}: payments that it knows of"))?;
    let back = payments.iter().filter(|(_, state, _)| state == "refunded").map(|(.., amount)| amount);
    expect(order.refunded.paise(), back.sum(), || format!("{order_id} says that was given back"))
}

const fn is_on_its_way(state: State) -> bool {
    matches!(
        state,
        State::Confirmed | State::Processing | State::Shipped | State::OutForDelivery | State::Delivered
    )
}

fn ledger(payment: &Connection, bank: &Connection) -> Result<(), String> {
    let uneven = "SELECT count(*) FROM
        (SELECT payment_id FROM postings GROUP BY payment_id, entry HAVING sum(paise) <> 0)";
    expect(count(payment, uneven)?, 0, || "payments whose postings do not add up to nothing".into())?;
    let clearing = "SELECT coalesce(sum(paise), 0) FROM postings WHERE account = 'clearing'
        AND payment_id IN (SELECT payment_id FROM payments WHERE method <> 'cod')";
    let at_bank =
        "SELECT coalesce(sum(CASE entry WHEN 'charge' THEN paise ELSE -paise END), 0) FROM movements";
    expect(count(payment, clearing)?, count(bank, at_bank)?, || "the ledger and the bank".into())?;
    let days = "SELECT coalesce(sum(paise), 0) FROM merchant_days";
    let completed = "SELECT coalesce(sum(amount), 0) FROM payments WHERE state = 'completed'";
    expect(count(payment, days)?, count(payment, completed)?, || "what merchants have received".into())
}

fn stock(inventory: &Connection, orders: &BTreeMap<String, Order>) -> Result<(), String> {
    let streams = "SELECT DISTINCT stream FROM events";
    let mut statement = inventory.prepare(streams).map_err(|it| it.to_string())?;
    let streams = statement.query_map((), |row| row.get::<_, String>(0)).map_err(|it| it.to_string())?;
    for stream in streams {
        let stream = stream.map_err(|it| it.to_string())?;
        let product = stream.trim_start_matches("product:");
        let read = |it: rusqlite::Error| it.to_string();
        let stock = log::load_from_zero::<Stock>(inventory, &stream).map_err(read)?.state;
        let [mut on_hand, mut reserved] = [0_u32; 2];
        for (warehouse, shelf) in &stock.shelves {
            let is_there = shelf.reserved <= shelf.on_hand;
            expect(is_there, true, || format!("{product} in {warehouse}: all that is reserved is on hand"))?;
            on_hand += shelf.on_hand;
            reserved += shelf.reserved;
        }
        let at_first = "SELECT coalesce(sum(json_extract(data, '$.quantity')), 0) FROM events
            WHERE kind = 'product_added' AND stream = ?1";
        let at_first = inventory.query_row(at_first, [&stream], |row| row.get::<_, u32>(0)).map_err(read)?;
        let sent = orders.values().filter(|order| order.state.is_some_and(is_on_its_way)).flat_map(|order| {
            order.placed.iter().flat_map(|placed| &placed.lines).filter(|line| line.product_id == product)
        });
        let sent = sent.map(|line| line.quantity).sum::<u32>();
        expect(reserved, 0, || format!("{product} is still reserved"))?;
        expect(on_hand + sent, at_first, || format!("{product}: on hand, and sent"))?;
    }
    Ok(())
}
