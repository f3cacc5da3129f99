//! The record of orders: their events, what they make, and who lives where.
//!
//! # Rule
//! Every change is a transaction: the events by [`life`](super::life)'s rule, the row by which orders are listed, and whatever the
//! saga records with it.
//!
//! # Personal data
//! The address of an order, and what its customer wrote of its end, are in rows of their own, and in no event: they go away once the
//! order is over and can come back no more ([`forget_personal`]), and the events stay what they are.
//!
//! # Bounds
//! Orders and events are records, and are kept.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};

use super::life::{Never, Order, OrderEvent};
use crate::{
    kernel::{
        column::{Json, Word},
        log::{self, Aggregate as _, Cause, Loaded, Recorded},
        outbox, saga,
        store::Migrations,
    },
    rules::{
        address::Address,
        moment::Moment,
        money::Money,
        order::{State, Step},
    },
};

/// How long after it was placed an order can come back.
pub const RETURN_WINDOW: Duration = Duration::from_hours(24 * 20);

/// How long an address and a remark are kept after the order's last change.
pub const PERSONAL_KEPT: Duration = Duration::from_hours(24 * 30);

/// The tables.
pub const MIGRATIONS: Migrations = &[
    log::TABLES,
    saga::TABLES,
    outbox::TABLES,
    "
    CREATE TABLE orders (
        order_id TEXT PRIMARY KEY,
        user_id TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        request TEXT NOT NULL,  -- a digest of what was asked for
        state TEXT NOT NULL,
        version INTEGER NOT NULL,
        total INTEGER NOT NULL,  -- in paise
        placed_at INTEGER NOT NULL,
        changed_at INTEGER NOT NULL,
        UNIQUE (user_id, idempotency_key)
    ) STRICT;
    CREATE INDEX orders_of_a_user ON orders (user_id, placed_at, order_id);
    CREATE INDEX orders_by_age ON orders (changed_at);
    CREATE TABLE addresses (
        order_id TEXT PRIMARY KEY REFERENCES orders,
        address TEXT NOT NULL  -- JSON
    ) STRICT;
    ",
    "
    CREATE TABLE remarks (
        order_id TEXT PRIMARY KEY REFERENCES orders,
        remark TEXT NOT NULL
    ) STRICT;
    ",
];

/// An order in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub order_id: String,
    /// Whose.
    pub user_id: String,
    /// A digest of what was asked for.
    pub request: String,
    /// How far it has come.
    pub state: State,
    /// How many events there are.
    pub version: u64,
    /// What it costs.
    pub total: Money,
    /// When it was placed.
    pub placed_at: Moment,
}

/// An order to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its id.
    pub order_id: String,
    /// Whose.
    pub user_id: String,
    /// What names it.
    pub idempotency_key: String,
    /// A digest of what was asked for.
    pub request: String,
    /// Where it goes.
    pub address: Address,
    /// What it is.
    pub placed: OrderEvent,
    /// What it costs.
    pub total: Money,
}

/// Writes down a new order; if its key names one, that.
///
/// # Errors
/// Those of the store.
pub fn place(
    transaction: &Transaction<'_>,
    wanted: &Wanted,
    cause: &Cause,
    now: Moment,
) -> rusqlite::Result<Option<Entry>> {
    let Wanted { order_id, user_id, idempotency_key, request, address, placed, total } = wanted;
    if let Some(known) = by_key(transaction, user_id, idempotency_key)? {
        return Ok(Some(known));
    }
    let insert = "INSERT INTO orders VALUES (?1, ?2, ?3, ?4, 'placed', 0, ?5, ?6, ?6)";
    let row = (order_id, user_id, idempotency_key, request, total.paise(), now.unix());
    transaction.execute(insert, row)?;
    transaction.execute("INSERT INTO addresses VALUES (?1, ?2)", (order_id, Json(address)))?;
    let placed = change(transaction, order_id, vec![placed.clone()], cause, now)?;
    placed.map_err(|never| rusqlite::Error::ToSqlConversionFailure(never.detail.into()))?;
    Ok(None)
}

/// Lets events happen, all or none; those that have happened already are left out. Tells what the order is then.
///
/// # Errors
/// Those of the store; inside, which may not happen now, and why.
pub fn change(
    transaction: &Transaction<'_>,
    order_id: &str,
    events: Vec<OrderEvent>,
    cause: &Cause,
    now: Moment,
) -> rusqlite::Result<Result<Loaded<Order>, Never>> {
    let stream = stream(order_id);
    let before = log::load::<Order>(transaction, &stream)?;
    let (mut after, mut fresh) = (before.clone(), Vec::new());
    for event in events {
        match after.state.may(&event) {
            Err(never) => return Ok(Err(never)),
            Ok(Step::Nothing) => {}
            Ok(Step::Change) => {
                after.version += 1;
                let recorded = Recorded {
                    position: 0,
                    stream: stream.clone(),
                    version: after.version,
                    event_id: String::new(),
                    at: now,
                    cause: Cause::default(),
                    event: event.clone(),
                };
                after.state.apply(&recorded);
                fresh.push(event);
            }
        }
    }
    if fresh.is_empty() {
        return Ok(Ok(before));
    }
    let appended = log::append(transaction, &stream, before.version, &fresh, cause, now)?;
    appended.map_err(|conflict| rusqlite::Error::ToSqlConversionFailure(conflict.to_string().into()))?;
    log::keep(transaction, &stream, &after)?;
    let update = "UPDATE orders SET state = ?2, version = ?3, changed_at = ?4 WHERE order_id = ?1";
    let state = after.state.state.unwrap_or(State::Placed);
    let version = i64::try_from(after.version).unwrap_or(i64::MAX);
    transaction.execute(update, (order_id, state.as_str(), version, now.unix()))?;
    Ok(Ok(after))
}

/// The stream of an order.
pub fn stream(order_id: &str) -> String {
    format!("order:{order_id}")
}

/// An order by its user's key.
///
/// # Errors
/// Those of the store.
pub fn by_key(connection: &Connection, user_id: &str, key: &str) -> rusqlite::Result<Option<Entry>> {
    let sql = format!("{SELECT} WHERE user_id = ?1 AND idempotency_key = ?2");
    connection.query_row(&sql, (user_id, key), entry).optional()
}

/// The orders of a user, the newest first: `limit` of them, older than the one that is named, if one is.
///
/// # Errors
/// Those of the store.
pub fn of_user(
    connection: &Connection,
    user_id: &str,
    before: Option<&str>,
    limit: u32,
) -> rusqlite::Result<Vec<Entry>> {
    let sql = format!(
        "{SELECT} WHERE user_id = ?1 AND (?2 IS NULL OR (placed_at, order_id) <
            (SELECT placed_at, order_id FROM orders WHERE order_id = ?2 AND user_id = ?1))
        ORDER BY placed_at DESC, order_id DESC LIMIT ?3"
    );
    connection.prepare(&sql)?.query_map((user_id, before, limit), entry)?.collect()
}

/// What is personal of an order, as far as it is not forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Personal {
    /// Where it goes.
    pub address: Option<Address>,
    /// What its customer wrote when they called it off or sent it back.
    pub remark: Option<String>,
}

/// What is personal of an order.
///
/// # Errors
/// Those of the store.
pub fn personal(connection: &Connection, order_id: &str) -> rusqlite::Result<Personal> {
    let address = "SELECT address FROM addresses WHERE order_id = ?1";
    let address = connection.query_row(address, [order_id], |row| row.get::<_, Json<Address>>(0));
    let remark = "SELECT remark FROM remarks WHERE order_id = ?1";
    let remark = connection.query_row(remark, [order_id], |row| row.get(0));
    Ok(Personal { address: address.optional()?.map(|Json(address)| address), remark: remark.optional()? })
}

/// Writes down what a customer says of the end of their order; what they said first is kept.
///
/// # Errors
/// Those of the store.
pub fn remark(transaction: &Transaction<'_>, order_id: &str, remark: Option<&str>) -> rusqlite::Result<()> {
    let insert = "INSERT OR IGNORE INTO remarks SELECT ?1, ?2 WHERE ?2 IS NOT NULL";
    transaction.execute(insert, (order_id, remark)).map(drop)
}

/// Forgets what is personal of orders that have not changed since, at most a thousand at a time.
///
/// # Errors
/// Those of the store.
pub fn forget_personal(transaction: &Transaction<'_>, before: Moment) -> rusqlite::Result<usize> {
    let forget = |table: &str| {
        let sql = format!(
            "DELETE FROM {table} WHERE order_id IN (
            SELECT order_id FROM {table} JOIN orders USING (order_id) WHERE changed_at < ?1 LIMIT 1000)"
        );
        transaction.execute(&sql, [before.unix()])
    };
    Ok(forget("addresses")? + forget("remarks")?)
}

const SELECT: &str = "SELECT order_id, user_id, request, state, version, total, placed_at FROM orders";

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        order_id: row.get(0)?,
        user_id: row.get(1)?,
        request: row.get(2)?,
        state: row.get::<_, Word<State>>(3)?.0,
        version: row.get::<_, i64>(4)?.unsigned_abs(),
        total: Money::from_paise(row.get(5)?),
        placed_at: Moment::from_unix(row.get(6)?),
    })
}
