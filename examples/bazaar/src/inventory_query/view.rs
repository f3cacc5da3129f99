//! What the log of the inventory says, as it is asked for: tables that are made of its events, and of nothing else.
//!
//! # Rule
//! A page of events and the position that it ends at are written in one transaction, so that a crash leaves neither without the
//! other. Each product's events are taken in the order of their versions, each once: one that was seen is passed over, and if
//! one is missing, nothing is taken, and somebody has to hear of it. So whatever is told again, or in pieces, the tables
//! are the same; and they can be deleted at any time, and made anew from the first event on. Of a log that was begun anew, which has
//! another name, they are made anew by themselves.
//!
//! All six events are taken. `low_stock_alert` changes no numbers, and is kept as an alert.
//!
//! # Bounds
//! A row for each product and warehouse. Reservations that have ended are forgotten after [`ENDED`], movements and alerts after
//! [`MOVED`]. Answers have at most [`LIMIT`] rows.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, Transaction, params_from_iter, types::Type};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    inventory::{
        command::{ReleaseReason, Warehouse},
        record::{Fed, Page},
        stock::{Allocation, State, StockEvent},
    },
    kernel::{
        log::Event as _,
        store::{Migrations, Store, StoreError},
    },
    rules::moment::Moment,
};

/// For how long reservations are known that have ended.
pub const ENDED: Duration = Duration::from_hours(7 * 24);

/// For how long movements and alerts are known.
pub const MOVED: Duration = Duration::from_hours(400 * 24);

/// The most rows of an answer.
pub const LIMIT: u32 = 100;

/// At how many units on hand, in all warehouses, a product is to be ordered again.
pub const REORDER: u32 = 100;

/// The tables.
pub const MIGRATIONS: Migrations = &["
    CREATE TABLE progress (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        origin TEXT NOT NULL,
        position INTEGER NOT NULL
    ) STRICT;
    INSERT INTO progress VALUES (1, '', 0);
    CREATE TABLE products (
        product_id TEXT PRIMARY KEY,
        version INTEGER NOT NULL,  -- of the last event that was taken
        restocked_at INTEGER
    ) STRICT;
    CREATE TABLE shelves (
        product_id TEXT NOT NULL,
        warehouse TEXT NOT NULL,
        on_hand INTEGER NOT NULL CHECK (on_hand >= 0),
        reserved INTEGER NOT NULL CHECK (reserved BETWEEN 0 AND on_hand),
        PRIMARY KEY (product_id, warehouse)
    ) STRICT;
    CREATE TABLE reservations (
        reservation_id TEXT NOT NULL,
        product_id TEXT NOT NULL,
        state TEXT NOT NULL,
        allocations TEXT NOT NULL,  -- JSON
        expires_at INTEGER NOT NULL,
        changed_at INTEGER NOT NULL,
        PRIMARY KEY (reservation_id, product_id)
    ) STRICT;
    CREATE INDEX reservations_by_product ON reservations (product_id, changed_at);
    CREATE INDEX reservations_ended ON reservations (changed_at) WHERE state <> 'held';
    CREATE TABLE movements (
        position INTEGER NOT NULL,
        product_id TEXT NOT NULL,
        warehouse TEXT NOT NULL,
        kind TEXT NOT NULL,
        reason TEXT,
        on_hand INTEGER NOT NULL,  -- by how much it has changed
        reserved INTEGER NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (position, warehouse)
    ) STRICT;
    CREATE INDEX movements_by_product ON movements (product_id, at, position);
    CREATE INDEX movements_by_age ON movements (at);
    CREATE TABLE alerts (
        position INTEGER PRIMARY KEY,
        product_id TEXT NOT NULL,
        warehouse TEXT NOT NULL,
        urgency TEXT NOT NULL,
        on_hand INTEGER NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX alerts_by_product ON alerts (product_id, position);
    CREATE INDEX alerts_by_age ON alerts (at);
"];

/// Keeps the tables.
#[derive(Clone, Debug)]
pub struct View {
    store: Store,
}

/// How far the log was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The name of its file; empty if nothing was ever read.
    pub origin: String,
    /// The position of the last event that was taken.
    pub position: i64,
}

/// What there is of a product in a warehouse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shelf {
    /// Where.
    pub warehouse: String,
    /// All units.
    pub on_hand: u32,
    /// Those that are promised.
    pub reserved: u32,
    /// Those that can be promised.
    pub available: u32,
}

/// What there is of a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Level {
    /// Of what.
    pub product_id: String,
    /// All units, in the warehouses that were asked for.
    pub on_hand: u32,
    /// Those that are promised.
    pub reserved: u32,
    /// Those that can be promised.
    pub available: u32,
    /// Whether there are so few that it is to be ordered again: [`REORDER`].
    pub reorder: bool,
    /// When units were last taken in.
    pub restocked_at: Option<Moment>,
    /// The same by warehouse, in the order of their names.
    pub warehouses: Vec<Shelf>,
}

impl Level {
    /// Nothing yet.
    pub const fn of(product_id: String, restocked_at: Option<Moment>) -> Self {
        let warehouses = Vec::new();
        Self { product_id, on_hand: 0, reserved: 0, available: 0, reorder: true, restocked_at, warehouses }
    }

    /// And this.
    pub fn put(&mut self, shelf: Shelf) {
        self.on_hand += shelf.on_hand;
        self.reserved += shelf.reserved;
        self.available += shelf.available;
        self.reorder = self.on_hand <= REORDER;
        self.warehouses.push(shelf);
    }
}

/// A reservation's part in a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reserved {
    /// Which.
    pub reservation_id: String,
    /// Of what.
    pub product_id: String,
    /// How far it has come.
    pub state: State,
    /// Whether it has run out, also if nobody has written that down.
    pub expired: bool,
    /// Until when it is, or was, held.
    pub expires_at: Moment,
    /// When that became so.
    pub changed_at: Moment,
    /// Which units.
    pub allocations: Vec<Allocation>,
}

/// What has changed in a warehouse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Movement {
    /// Of which event.
    pub position: i64,
    /// Of what.
    pub product_id: String,
    /// Where.
    pub warehouse: String,
    /// By what kind of event.
    pub kind: String,
    /// Why.
    pub reason: Option<String>,
    /// By how much what is on hand has changed.
    pub on_hand: i64,
    /// By how much what is promised has changed.
    pub reserved: i64,
    /// When.
    pub at: Moment,
}

/// Stock that has become low.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// Of which event.
    pub position: i64,
    /// Where.
    pub warehouse: String,
    /// How low: `medium`, `high`.
    pub urgency: String,
    /// How many units were on hand.
    pub on_hand: u32,
    /// When.
    pub at: Moment,
}

/// What was answered, and what was read until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<T> {
    /// The position of the last event that the answer knows of.
    pub position: i64,
    /// The answer.
    pub rows: T,
}

/// Which levels are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// Of these products; of all, if there are none.
    pub ids: Vec<String>,
    /// In this warehouse only.
    pub warehouse: Option<String>,
    /// In the warehouses of this region only.
    pub region: Option<String>,
    /// Only those of which fewer than that many are available.
    pub below: Option<u32>,
    /// At most so many.
    pub limit: u32,
}

/// Which movements are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Of what.
    pub product_id: String,
    /// Not before.
    pub from: Moment,
    /// Not after.
    pub to: Moment,
    /// At most so many, the newest.
    pub limit: u32,
}

impl View {
    /// In that store, which has [`MIGRATIONS`].
    pub const fn new(store: Store) -> Self {
        Self { store }
    }

    /// How far the log was read.
    pub async fn progress(&self) -> Result<Progress, StoreError> {
        self.store.read(progress).await
    }

    /// Forgets everything, so that it is read again from the first event on.
    pub async fn clear(&self) -> Result<(), StoreError> {
        self.store.write(|transaction| clear(transaction, "")).await
    }

    /// Takes what is new of a page; tells how far the log was read then.
    pub async fn take(&self, page: Page) -> Result<Progress, StoreError> {
        let take = move |transaction: &Transaction<'_>| {
            let mut known = progress(transaction)?;
            if known.origin != page.origin {
                clear(transaction, &page.origin)?;
                if !known.origin.is_empty() {
                    return progress(transaction); // This page begins where the other log was left.
                }
                known = progress(transaction)?;
            }
            for event in &page.events {
                apply(transaction, event)?;
                known.position = known.position.max(event.position);
            }
            transaction.execute("UPDATE progress SET position = ?1", [known.position])?;
            Ok(known)
        };
        self.store.write(take).await
    }

    /// Forgets what is old enough, some of it; tells how much that was.
    pub async fn forget(&self, now: Moment) -> Result<usize, StoreError> {
        let (ended, moved) = (now.before(ENDED).unix(), now.before(MOVED).unix());
        let forget = move |transaction: &Transaction<'_>| {
            let old = [
                ("reservations", "state <> 'held' AND changed_at < ?1", ended),
                ("movements", "at < ?1", moved),
                ("alerts", "at < ?1", moved),
            ];
            let mut count = 0;
            for (table, is_old, before) in old {
                let sql = format!(
                    "DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE {is_old} LIMIT 1000)"
                );
                count += transaction.execute(&sql, [before])?;
            }
            Ok(count)
        };
        self.store.write(forget).await
    }

    /// What there is of products, the one with the most on hand first.
    pub async fn levels(&self, which: Which) -> Result<Seen<Vec<Level>>, StoreError> {
        self.seen(move |connection| levels(connection, &which)).await
    }

    /// The parts of a reservation, or the reservations of a product, the newest first.
    pub async fn reservations(
        &self,
        id: Option<String>,
        product_id: Option<String>,
        now: Moment,
        limit: u32,
    ) -> Result<Seen<Vec<Reserved>>, StoreError> {
        let sql =
            "SELECT reservation_id, product_id, state, expires_at, changed_at, allocations FROM reservations
            WHERE (?1 IS NULL OR reservation_id = ?1) AND (?2 IS NULL OR product_id = ?2)
            ORDER BY changed_at DESC, reservation_id, product_id LIMIT ?3";
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare(sql)?;
            let row = |row: &Row<'_>| {
                let expires_at = Moment::from_unix(row.get(3)?);
                let state = parsed(Value::String(row.get(2)?))?;
                Ok(Reserved {
                    reservation_id: row.get(0)?,
                    product_id: row.get(1)?,
                    state,
                    expired: state == State::Expired || state == State::Held && expires_at <= now,
                    expires_at,
                    changed_at: Moment::from_unix(row.get(4)?),
                    allocations: serde_json::from_str(row.get_ref(5)?.as_str()?).map_err(unread)?,
                })
            };
            statement.query_map((id, product_id, limit.min(LIMIT)), row)?.collect()
        };
        self.seen(read).await
    }

    /// What has changed, the newest first.
    pub async fn movements(&self, span: Span) -> Result<Seen<Vec<Movement>>, StoreError> {
        let sql = "SELECT position, product_id, warehouse, kind, reason, on_hand, reserved, at FROM movements
            WHERE product_id = ?1 AND at BETWEEN ?2 AND ?3
            ORDER BY at DESC, position DESC, warehouse LIMIT ?4";
        let read = move |connection: &Connection| {
            let Span { product_id, from, to, limit } = span;
            let mut statement = connection.prepare(sql)?;
            let row = |row: &Row<'_>| {
                Ok(Movement {
                    position: row.get(0)?,
                    product_id: row.get(1)?,
                    warehouse: row.get(2)?,
                    kind: row.get(3)?,
                    reason: row.get(4)?,
                    on_hand: row.get(5)?,
                    reserved: row.get(6)?,
                    at: Moment::from_unix(row.get(7)?),
                })
            };
            statement.query_map((product_id, from.unix(), to.unix(), limit.min(LIMIT)), row)?.collect()
        };
        self.seen(read).await
    }

    /// When a product became low, the newest first.
    pub async fn alerts(&self, product_id: String, limit: u32) -> Result<Seen<Vec<Alert>>, StoreError> {
        let sql = "SELECT position, warehouse, urgency, on_hand, at FROM alerts
            WHERE product_id = ?1 ORDER BY position DESC LIMIT ?2";
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare(sql)?;
            let row = |row: &Row<'_>| {
                Ok(Alert {
                    position: row.get(0)?,
                    warehouse: row.get(1)?,
                    urgency: row.get(2)?,
                    on_hand: row.get(3)?,
                    at: Moment::from_unix(row.get(4)?),
                })
            };
            statement.query_map((product_id, limit.min(LIMIT)), row)?.collect()
        };
        self.seen(read).await
    }

    /// Reads all of an answer as of one position.
    async fn seen<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Seen<T>, StoreError> {
        let seen = move |connection: &Connection| {
            let snapshot = connection.unchecked_transaction()?;
            Ok(Seen { position: progress(&snapshot)?.position, rows: read(&snapshot)? })
        };
        self.store.read(seen).await
    }
}

fn progress(connection: &Connection) -> rusqlite::Result<Progress> {
    let row = |row: &Row<'_>| Ok(Progress { origin: row.get(0)?, position: row.get(1)? });
    connection.query_row("SELECT origin, position FROM progress", (), row)
}

fn clear(transaction: &Transaction<'_>, origin: &str) -> rusqlite::Result<()> {
    for table in ["products", "shelves", "reservations", "movements", "alerts"] {
        transaction.execute(&format!("DELETE FROM {table}"), ())?;
    }
    transaction.execute("UPDATE progress SET origin = ?1, position = 0", [origin]).map(drop)
}

/// Takes an event, if it is the next of its product.
fn apply(transaction: &Transaction<'_>, fed: &Fed) -> rusqlite::Result<()> {
    let Fed { position, stream, version, kind, data, at } = fed;
    let wrong = |why: String| {
        let why = format!("the event {position} ({kind}) of {stream}: {why}");
        rusqlite::Error::ToSqlConversionFailure(why.into())
    };
    let product_id = stream.strip_prefix("product:").ok_or_else(|| wrong("whose is it?".to_owned()))?;
    let sql = "SELECT version FROM products WHERE product_id = ?1";
    let known = transaction.query_row(sql, [product_id], |row| row.get::<_, i64>(0)).optional()?.unwrap_or(0);
    let version = i64::try_from(*version).map_err(|it| wrong(it.to_string()))?;
    if version <= known {
        return Ok(());
    }
    if version != known + 1 {
        return Err(wrong(format!(
            "it is number {version}, and the last one was number {known}: one is missing"
        )));
    }
    let event = StockEvent::read(kind, 1, data.clone()).map_err(wrong)?;
    let insert = "INSERT INTO products (product_id, version) VALUES (?1, ?2)
        ON CONFLICT (product_id) DO UPDATE SET version = excluded.version";
    transaction.execute(insert, (product_id, version))?;
    Projected { transaction, fed, product_id }.event(&event)?;
    if takes_in(&event) {
        let restocked = "UPDATE products SET restocked_at = ?2 WHERE product_id = ?1";
        transaction.execute(restocked, (product_id, at.unix()))?;
    }
    Ok(())
}

/// Whether units were taken in that were not there before.
fn takes_in(event: &StockEvent) -> bool {
    match event {
        StockEvent::ProductAdded { .. } => true,
        StockEvent::QuantityUpdated { delta, .. } => *delta > 0,
        _ => false,
    }
}

/// An event on its way into the tables.
struct Projected<'a> {
    transaction: &'a Transaction<'a>,
    fed: &'a Fed,
    product_id: &'a str,
}

impl Projected<'_> {
    fn event(&self, event: &StockEvent) -> rusqlite::Result<()> {
        match event {
            StockEvent::ProductAdded { warehouse, quantity } => {
                self.moved(warehouse, (*quantity).into(), 0, None)
            }
            StockEvent::QuantityUpdated { warehouse, delta, reason } => {
                self.moved(warehouse, (*delta).into(), 0, Some(reason.as_str()))
            }
            StockEvent::InventoryReserved { reservation_id, expires_at, allocations } => {
                // A name may come again once the old one is forgotten.
                let insert = "INSERT OR REPLACE INTO reservations VALUES (?1, ?2, 'held', ?3, ?4, ?5)";
                let text = serde_json::to_string(allocations)
                    .map_err(|it| rusqlite::Error::ToSqlConversionFailure(Box::new(it)))?;
                let (id, at) = (reservation_id.as_str(), self.fed.at.unix());
                self.transaction.execute(insert, (id, self.product_id, text, expires_at.unix(), at))?;
                for Allocation { warehouse, quantity } in allocations {
                    self.moved(warehouse, 0, (*quantity).into(), None)?;
                }
                Ok(())
            }
            StockEvent::ReservationReleased { reservation_id, reason, allocations } => {
                let update = "UPDATE reservations SET state = ?3, changed_at = ?4
                    WHERE reservation_id = ?1 AND product_id = ?2";
                let state = State::from(*reason).as_str();
                let (id, at) = (reservation_id.as_str(), self.fed.at.unix());
                self.transaction.execute(update, (id, self.product_id, state, at))?;
                for Allocation { warehouse, quantity } in allocations {
                    let gone = i64::from(*quantity);
                    let left = if *reason == ReleaseReason::OrderCompleted { gone } else { 0 };
                    self.moved(warehouse, -left, -gone, Some(reason.as_str()))?;
                }
                Ok(())
            }
            StockEvent::InventoryTransferred { from, to, quantity } => {
                let quantity = i64::from(*quantity);
                self.moved(from, -quantity, 0, None)?;
                self.moved(to, quantity, 0, None)
            }
            StockEvent::LowStockAlert { warehouse, urgency, on_hand } => {
                let insert = "INSERT INTO alerts VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
                let (Fed { position, at, .. }, urgency) = (self.fed, urgency.as_str());
                let row = (position, self.product_id, warehouse.as_str(), urgency, on_hand, at.unix());
                self.transaction.execute(insert, row).map(drop)
            }
        }
    }

    /// The numbers of a warehouse have changed by so much.
    fn moved(
        &self,
        at: &Warehouse,
        on_hand: i64,
        reserved: i64,
        reason: Option<&str>,
    ) -> rusqlite::Result<()> {
        let (shelf, there) = ((self.product_id, at.as_str()), at.as_str());
        let begin = "INSERT OR IGNORE INTO shelves VALUES (?1, ?2, 0, 0)";
        self.transaction.execute(begin, shelf)?;
        let change = "UPDATE shelves SET on_hand = on_hand + ?3, reserved = reserved + ?4
            WHERE product_id = ?1 AND warehouse = ?2";
        self.transaction.execute(change, (self.product_id, there, on_hand, reserved))?;
        let Fed { position, kind, at, .. } = self.fed;
        let insert = "INSERT INTO movements VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let row = (position, self.product_id, there, kind, reason, on_hand, reserved, at.unix());
        self.transaction.execute(insert, row).map(drop)
    }
}

fn levels(connection: &Connection, which: &Which) -> rusqlite::Result<Vec<Level>> {
    let Which { ids, warehouse, region, below, limit } = which;
    let limit = (*limit).min(LIMIT);
    let places = vec!["?"; ids.len()].join(", ");
    let of = if ids.is_empty() { String::new() } else { format!("AND product_id IN ({places})") };
    // What is asked for, by product; and the warehouses of those that are left.
    let asked = "(? IS NULL OR warehouse = ?) AND (? IS NULL OR substr(warehouse, 1, 3) = ?)";
    let sql = format!(
        "WITH asked AS (SELECT * FROM shelves WHERE {asked} {of}),
        found AS (
            SELECT product_id, sum(on_hand) AS total FROM asked GROUP BY product_id
            HAVING ? IS NULL OR sum(on_hand - reserved) < ? ORDER BY total DESC, product_id LIMIT ?
        )
        SELECT product_id, warehouse, on_hand, reserved, restocked_at
        FROM found JOIN asked USING (product_id) JOIN products USING (product_id)
        ORDER BY total DESC, product_id, warehouse"
    );
    let mut values: Vec<&dyn ToSql> = vec![warehouse, warehouse, region, region];
    values.extend(ids.iter().map(|it| it as &dyn ToSql));
    values.extend([below as &dyn ToSql, below, &limit]);
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut levels = Vec::<Level>::new();
    while let Some(row) = rows.next()? {
        let (product_id, on_hand, reserved) =
            (row.get::<_, String>(0)?, row.get::<_, u32>(2)?, row.get::<_, u32>(3)?);
        if levels.last().is_none_or(|last| last.product_id != product_id) {
            let restocked_at = row.get::<_, Option<i64>>(4)?.map(Moment::from_unix);
            levels.push(Level::of(product_id, restocked_at));
        }
        let available = on_hand.saturating_sub(reserved);
        let shelf = Shelf { warehouse: row.get(1)?, on_hand, reserved, available };
        levels.last_mut().expect("it was pushed").put(shelf);
    }
    Ok(levels)
}

fn parsed<T: DeserializeOwned>(value: Value) -> rusqlite::Result<T> {
    serde_json::from_value(value).map_err(unread)
}

fn unread(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tempfile::TempDir;

    use super::*;
    use crate::{
        inventory::{
            record::Record,
            rehearsal::{NEVER, all, at, life, lives, now, play, store},
            stock::Stock,
        },
        kernel::store::Crash,
    };

    /// An inventory, and what can be seen of it.
    struct Both {
        record: Record,
        view: View,
        folder: TempDir,
    }

    impl Both {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let record = Record::new(store(folder.path(), Crash::after(NEVER)));
            let view = view(&folder, Crash::after(NEVER));
            Self { record, view, folder }
        }

        fn page(&self, after: i64, limit: u32) -> Page {
            now(self.record.feed(after, limit)).unwrap()
        }

        /// Takes all that is new.
        fn catch_up(&self, limit: u32) -> Result<(), StoreError> {
            loop {
                let position = now(self.view.progress())?.position;
                let page = self.page(position, limit);
                let is_over = page.events.is_empty();
                now(self.view.take(page))?;
                if is_over {
                    return Ok(());
                }
            }
        }
    }

    fn view(folder: &TempDir, crash: Crash) -> View {
        let file = folder.path().join("inventory-query.db");
        View::new(Store::open_here(&file, MIGRATIONS, crash).unwrap())
    }

    /// All that is in the tables.
    fn dump(view: &View) -> Vec<String> {
        let dump = |connection: &Connection| {
            let mut rows = Vec::new();
            for table in ["progress", "products", "shelves", "reservations", "movements", "alerts"] {
                let mut statement = connection.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2, 3"))?;
                let columns = statement.column_count();
                let mut found = statement.query(())?;
                while let Some(row) = found.next()? {
                    let values = (0..columns).map(|it| row.get_ref(it).map(|it| format!("{it:?}")));
                    rows.push(format!("{table} {}", values.collect::<rusqlite::Result<Vec<_>>>()?.join(" ")));
                }
            }
            Ok(rows)
        };
        now(view.store.read(dump)).unwrap()
    }

    fn every() -> Which {
        Which { limit: LIMIT, ..Which::default() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// In pages of any length, some of them more than once and late, and then from the first event on again.
        #[test]
        fn r6_6_however_often_it_is_told_it_shows_what_the_log_says(
            steps in lives(),
            limits in vec(1..9_u32, 1..9),
            again in vec((0..40_i64, 1..40_u32), 0..9),
        ) {
            let both = Both::new();
            now(play(&both.record, &steps)).unwrap();
            let mut again = again.into_iter();
            for limit in limits.iter().cycle() {
                let position = now(both.view.progress()).unwrap().position;
                let page = both.page(position, *limit);
                let is_over = page.events.is_empty();
                now(both.view.take(page)).unwrap();
                if let Some((after, limit)) = again.next() {
                    now(both.view.take(both.page(after.min(position), limit))).unwrap();
                }
                if is_over {
                    break;
                }
            }
            let seen = dump(&both.view);

            let mut stocks = std::collections::BTreeMap::<String, Stock>::new();
            for event in all(&both.record) {
                let read = StockEvent::read(&event.kind, 1, event.data).unwrap();
                stocks.entry(event.stream["product:".len()..].to_owned()).or_default().becomes(&read);
            }
            let mut levels = now(both.view.levels(every())).unwrap().rows;
            levels.sort_by(|one, other| one.product_id.cmp(&other.product_id));
            let shown = levels.iter().flat_map(|level| level.warehouses.iter().map(|it| {
                assert_eq!(it.available, it.on_hand - it.reserved);
                (level.product_id.clone(), it.warehouse.clone(), it.on_hand, it.reserved)
            }));
            let there = stocks.iter().flat_map(|(id, stock)| stock.shelves.iter().map(|(at, shelf)| {
                (id.clone(), at.to_string(), shelf.on_hand, shelf.reserved)
            }));
            prop_assert_eq!(shown.collect::<Vec<_>>(), there.collect::<Vec<_>>());

            now(both.view.clear()).unwrap();
            prop_assert_eq!(dump(&both.view).len(), 1);
            both.catch_up(7).unwrap();
            prop_assert_eq!(seen, dump(&both.view));
        }
    }

    #[test]
    fn r6_6_killed_at_any_commit_it_goes_on_where_it_was() {
        let both = Both::new();
        now(play(&both.record, &life())).unwrap();
        both.catch_up(3).unwrap();
        let seen = dump(&both.view);
        let mut crashes = 0;
        loop {
            let (crash, folder) = (Crash::after(crashes), tempfile::tempdir().unwrap());
            let Both { record, .. } = &both;
            let another = |crash| Both {
                record: record.clone(),
                view: view(&folder, crash),
                folder: tempfile::tempdir().unwrap(),
            };
            let first = another(crash.clone()).catch_up(3);
            if first.is_ok() {
                assert!(!crash.has_come());
                break;
            }
            let next = another(Crash::after(NEVER));
            next.catch_up(3).unwrap();
            assert_eq!(dump(&next.view), seen, "crash {crashes}");
            crashes += 1;
        }
        assert!(crashes > 10, "only {crashes} crashes");
        drop(both.folder);
    }

    #[test]
    fn r6_6_a_log_that_was_begun_anew_is_not_taken_for_the_old_one() {
        let (old, new) = (Both::new(), Both::new());
        now(play(&old.record, &life())).unwrap();
        now(play(&new.record, &life()[..2])).unwrap();
        old.catch_up(100).unwrap();
        new.catch_up(100).unwrap();
        let position = now(old.view.progress()).unwrap().position;
        // Its events from there on are none, and those before that were never seen.
        let after = now(old.view.take(new.page(position, 100))).unwrap();
        assert_eq!(after.position, 0);
        now(old.view.take(new.page(0, 100))).unwrap();
        assert_eq!(dump(&old.view), dump(&new.view));
    }

    #[test]
    fn an_event_that_is_missing_or_unknown_stops_all() {
        let both = Both::new();
        now(play(&both.record, &life())).unwrap();
        let whole = both.page(0, 100);
        let mut gap = whole.clone();
        gap.events.remove(1);
        let failed = now(both.view.take(gap)).unwrap_err().to_string();
        assert!(failed.contains("one is missing"), "{failed}");
        let mut unknown = whole.clone();
        "stolen".clone_into(&mut unknown.events[3].kind);
        let failed = now(both.view.take(unknown)).unwrap_err().to_string();
        assert!(failed.contains("unknown variant `stolen`"), "{failed}");
        assert_eq!(now(both.view.progress()).unwrap().position, 0, "nothing of it was taken");
        now(both.view.take(whole)).unwrap();
    }

    #[test]
    fn levels_are_found_by_product_warehouse_region_and_how_few_there_are() {
        let both = Both::new();
        now(play(&both.record, &life())).unwrap();
        both.catch_up(100).unwrap();
        let levels = |which: Which| {
            let rows = now(both.view.levels(which)).unwrap().rows;
            let shown =
                rows.iter().map(|it| (it.product_id.clone(), it.on_hand, it.available, it.warehouses.len()));
            shown.collect::<Vec<_>>()
        };
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert_eq!(levels(every()), [(b.clone(), 40, 4, 2), (a.clone(), 35, 34, 2)]);
        assert_eq!(levels(Which { limit: 1, ..every() }), [(b.clone(), 40, 4, 2)]);
        assert_eq!(levels(Which { ids: vec![a.clone()], ..every() }), [(a.clone(), 35, 34, 2)]);
        assert_eq!(levels(Which { below: Some(34), ..every() }), [(b.clone(), 40, 4, 2)]);
        assert_eq!(levels(Which { below: Some(4), ..every() }), []);
        let mumbai = levels(Which { region: Some("MUM".to_owned()), ..every() });
        assert_eq!(mumbai, levels(Which { warehouse: Some("MUM_WH_001".to_owned()), ..every() }));
        assert_eq!(mumbai.iter().map(|it| it.3).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn what_is_old_is_forgotten_and_what_there_is_is_not() {
        let both = Both::new();
        now(play(&both.record, &life())).unwrap();
        both.catch_up(100).unwrap();
        let levels = now(both.view.levels(every())).unwrap();
        assert_eq!(now(both.view.forget(at(ENDED.as_secs()))).unwrap(), 0);
        let count =
            || now(both.view.reservations(None, Some("a".to_owned()), at(0), LIMIT)).unwrap().rows.len();
        assert_eq!(count(), 4);
        now(both.view.forget(at(ENDED.as_secs() + 1000))).unwrap();
        assert_eq!(count(), 1, "one is held");
        now(both.view.forget(at(MOVED.as_secs() + 1000))).unwrap();
        let span = Span { product_id: "a".to_owned(), from: at(0), to: at(1000), limit: LIMIT };
        assert_eq!(now(both.view.movements(span)).unwrap().rows, []);
        assert_eq!(now(both.view.levels(every())).unwrap(), levels);
    }
}
