//! The record of the inventory: the log of what has happened to each product's stock, which reservations there are, and which
//! commands were done.
//!
//! # Rule
//! A command is one transaction: the events, on however many products; the reservation; and what the command was answered, so that
//! it is done once. It is decided in there, too, on what the log says then, and the versions that were read are those that
//! are expected when it is appended to. So no two commands decide on the same stock, whichever process they are in, and no command
//! loses a race and has to be tried again. There is no state but the file's, so one that fails leaves nothing behind.
//!
//! - **Reservations** are an index of the log: under which name units are promised, until when, and how it ended. A
//!   reservation that is released before it was made leaves a row, too, so that it is refused when it comes late.
//! - **Refusals** are answers. A command that was refused is refused again under its id, whatever has become of the stock.
//! - **Running out.** [`Record::expire`] ends the holds that have run out, each in a transaction of its own.
//!
//! # Bounds
//! Events are records, and are kept. Commands' answers and reservations that have ended are forgotten after [`FORGOTTEN`];
//! reservations that have not ended end within an hour. Products are as many as have been added.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, types::Type};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    command::{
        AddProduct, Command, ProductId, Release, ReleaseReason, ReservationId, Reserve, Transfer,
        UpdateQuantity, Warehouse,
    },
    stock::{End, Line, Refusal, Reservation, State, Stock, StockEvent, latest, line},
};
use crate::{
    kernel::{
        log::{self, Cause, Event as _, KeyReused, Loaded, Recorded},
        store::{Migrations, Store, StoreError},
    },
    rules::moment::Moment,
};

/// The tables.
pub const MIGRATIONS: Migrations = &[
    log::TABLES,
    "
    CREATE TABLE reservations (
        reservation_id TEXT PRIMARY KEY,
        state TEXT NOT NULL CHECK (state IN ('held', 'released', 'completed', 'expired', 'returned')),
        items TEXT,  -- JSON; NULL if it ended before it was made
        lines TEXT NOT NULL,  -- JSON
        expires_at INTEGER NOT NULL,
        changed_at INTEGER NOT NULL,
        CHECK (items IS NOT NULL OR state <> 'held')
    ) STRICT;
    CREATE INDEX reservations_held ON reservations (expires_at) WHERE state = 'held';
    CREATE INDEX reservations_ended ON reservations (changed_at) WHERE state <> 'held';
    CREATE TABLE origin (name TEXT NOT NULL) STRICT;  -- of this file, so that another is not taken for it
    INSERT INTO origin VALUES (lower(hex(randomblob(16))));
",
];

/// For how long it is known what commands were answered and how reservations ended.
pub const FORGOTTEN: Duration = Duration::from_hours(30 * 24);

/// How many holds that have run out are looked at, and how many rows are forgotten, at a time.
pub const SWEPT: u32 = 100;

/// How many bytes of events are given at a time, about: fewer than [`peer`](crate::kernel::peer) reads of an answer.
const FED: usize = 56 * 1024;

/// What there is when the record begins: product, warehouse, units.
const SEEDS: [(&str, &str, u32); 9] = [
    ("prod_001", "MUM_WH_001", 100),
    ("prod_002", "MUM_WH_001", 200),
    ("prod_003", "MUM_WH_001", 500),
    ("prod_004", "MUM_WH_001", 120),
    ("prod_002", "DEL_WH_001", 150),
    ("prod_003", "DEL_WH_001", 300),
    ("prod_002", "BLR_WH_001", 150),
    ("prod_003", "BLR_WH_001", 300),
    ("prod_004", "BLR_WH_001", 80),
];

/// Keeps the stock.
#[derive(Clone, Debug)]
pub struct Record {
    store: Store,
}

/// What a command is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done, and this has become of it.
    Done(Value),
    /// It was not.
    Refused(Refusal),
}

/// Events as others are told of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The name of the file: positions of one say nothing of another.
    pub origin: String,
    /// Those after the position that was said, in order.
    pub events: Vec<Fed>,
    /// The position of the last event that there is.
    pub head: i64,
}

/// An event as others are told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fed {
    /// Its place among all events.
    pub position: i64,
    /// Whose it is: `product:prod_001`.
    pub stream: String,
    /// Its place in the stream, from 1.
    pub version: u64,
    /// What it is.
    pub kind: String,
    /// What it says.
    pub data: Value,
    /// When it happened.
    pub at: Moment,
}

impl TryFrom<Recorded<StockEvent>> for Fed {
    type Error = serde_json::Error;

    fn try_from(it: Recorded<StockEvent>) -> serde_json::Result<Self> {
        let Recorded { position, stream, version, at, event, .. } = it;
        Ok(Self { position, stream, version, kind: event.kind().to_owned(), data: event.write()?, at })
    }
}

impl Record {
    /// In that store, which has [`MIGRATIONS`].
    pub const fn new(store: Store) -> Self {
        Self { store }
    }

    /// Takes in what there is at first, if nothing has ever happened.
    pub async fn seed(&self, now: Moment) -> Result<(), StoreError> {
        let seed = move |transaction: &Transaction<'_>| {
            if log::head(transaction)? > 0 {
                return Ok(());
            }
            for (product_id, warehouse, quantity) in SEEDS {
                let command = json!({"add_product": {
                    "product_id": product_id, "warehouse": warehouse, "quantity": quantity,
                }});
                let command = serde_json::from_value(command).map_err(unwritten)?;
                handle(transaction, &command, &Cause::of("inventory", "seed"), now)?;
            }
            Ok(())
        };
        self.store.write(seed).await
    }

    /// Does a command, once; `actor` is whoever wants it.
    pub async fn execute(
        &self,
        command_id: String,
        actor: &str,
        command: Command,
        now: Moment,
    ) -> Result<Result<Answer, KeyReused>, StoreError> {
        let cause = Cause::of(actor, command.name()).after(&command_id);
        let execute = move |transaction: &Transaction<'_>| {
            let request = serde_json::to_string(&command).map_err(unwritten)?;
            if let Some(known) = log::answered(transaction, &command_id, &request)? {
                return Ok(known);
            }
            let answer = handle(transaction, &command, &cause, now)?;
            log::answer(transaction, &command_id, &request, &answer, now)?;
            Ok(Ok(answer))
        };
        self.store.write(execute).await
    }

    /// Ends holds that have run out, at most [`SWEPT`]; tells how many there were.
    pub async fn expire(&self, now: Moment) -> Result<u32, StoreError> {
        let sql = "SELECT reservation_id FROM reservations
            WHERE state = 'held' AND (expires_at <= ?1 OR expires_at > ?2) LIMIT ?3";
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare(sql)?;
            let ids = statement
                .query_map((now.unix(), latest(now).unix(), SWEPT), |row| row.get::<_, String>(0))?;
            ids.collect::<rusqlite::Result<Vec<_>>>()
        };
        let (mut count, mut trouble) = (0, None);
        for id in self.store.read(read).await? {
            let expire = move |transaction: &Transaction<'_>| {
                let Some(it) = reservation(transaction, &id)? else { return Ok(()) };
                match it.end(ReleaseReason::Expired, now) {
                    Ok(End::Now(reason)) => {
                        let cause = Cause::of("inventory", "expire");
                        end(transaction, &it, reason, &cause, now)
                    }
                    Ok(End::Known | End::Back) | Err(_) => Ok(()), // Somebody was faster.
                }
            };
            // Each by itself: one that cannot be read stops no other.
            trouble = self.store.write(expire).await.err().or(trouble);
            count += 1;
        }
        trouble.map_or(Ok(count), Err)
    }

    /// Forgets what is old enough, some of it; tells how much that was.
    pub async fn forget(&self, now: Moment) -> Result<usize, StoreError> {
        let before = now.before(FORGOTTEN);
        let forget = move |transaction: &Transaction<'_>| {
            let ended = "DELETE FROM reservations WHERE rowid IN
                (SELECT rowid FROM reservations WHERE state <> 'held' AND changed_at < ?1 LIMIT ?2)";
            let ended = transaction.execute(ended, (before.unix(), SWEPT))?;
            Ok(ended + log::forget_commands(transaction, before)?)
        };
        self.store.write(forget).await
    }

    /// The events after a position, in order: at most `limit`, and no more than fit into an answer.
    pub async fn feed(&self, after: i64, limit: u32) -> Result<Page, StoreError> {
        let read = move |connection: &Connection| {
            let snapshot = connection.unchecked_transaction()?; // So that the head is not older than the events.
            let recorded = log::feed::<StockEvent>(&snapshot, after, limit)?;
            let origin = snapshot.query_row("SELECT name FROM origin", (), |row| row.get(0))?;
            let (mut events, mut bytes) = (Vec::new(), 0);
            for event in recorded {
                let event = Fed::try_from(event).map_err(unwritten)?;
                bytes += serde_json::to_string(&event).map_err(unwritten)?.len();
                if bytes > FED && !events.is_empty() {
                    break;
                }
                events.push(event);
            }
            Ok(Page { origin, events, head: log::head(&snapshot)? })
        };
        self.store.read(read).await
    }
}

/// The stream of a product's events.
pub fn stream(product_id: &ProductId) -> String {
    format!("product:{product_id}")
}

fn handle(
    transaction: &Transaction<'_>,
    command: &Command,
    cause: &Cause,
    now: Moment,
) -> rusqlite::Result<Answer> {
    match command {
        Command::AddProduct(AddProduct { product_id, warehouse, quantity }) => {
            let stock = load(transaction, product_id)?;
            let events = stock.state.add(product_id, warehouse, quantity.get());
            change(transaction, product_id, &[warehouse], stock.version, events, cause, now)
        }
        Command::UpdateQuantity(UpdateQuantity { product_id, warehouse, delta, reason }) => {
            let stock = load(transaction, product_id)?;
            let events = stock.state.update(product_id, warehouse, *delta, *reason);
            change(transaction, product_id, &[warehouse], stock.version, events, cause, now)
        }
        Command::Transfer(Transfer { product_id, from, to, quantity }) => {
            let stock = load(transaction, product_id)?;
            let events = stock.state.transfer(product_id, from, to, quantity.get());
            change(transaction, product_id, &[from, to], stock.version, events, cause, now)
        }
        Command::Reserve(wanted) => reserve(transaction, wanted, cause, now),
        Command::Release(Release { reservation_id, reason }) => {
            release(transaction, reservation_id, *reason, cause, now)
        }
    }
}

/// What has become of one product, in these warehouses.
fn change(
    transaction: &Transaction<'_>,
    product_id: &ProductId,
    warehouses: &[&Warehouse],
    expected: u64,
    events: Result<Vec<StockEvent>, Refusal>,
    cause: &Cause,
    now: Moment,
) -> rusqlite::Result<Answer> {
    let events = match events {
        Ok(events) => events,
        Err(refusal) => return Ok(Answer::Refused(refusal)),
    };
    let position = append(transaction, product_id, expected, &events, cause, now)?;
    let Loaded { state, version } = load(transaction, product_id)?;
    let shelves = warehouses.iter().map(|&warehouse| {
        let shelf = state.shelves.get(warehouse).copied().unwrap_or_default();
        json!({
            "warehouse": warehouse,
            "on_hand": shelf.on_hand,
            "reserved": shelf.reserved,
            "available": shelf.available(),
        })
    });
    let shelves = shelves.collect::<Value>();
    let body =
        json!({"product_id": product_id, "warehouses": shelves, "version": version, "position": position});
    Ok(Answer::Done(body))
}

fn reserve(
    transaction: &Transaction<'_>,
    wanted: &Reserve,
    cause: &Cause,
    now: Moment,
) -> rusqlite::Result<Answer> {
    let Reserve { reservation_id, items, hold_seconds } = wanted;
    if let Some(known) = reservation(transaction, reservation_id.as_str())? {
        return match known.again(items, now) {
            Ok(()) => promised(&known, log::head(transaction)?),
            Err(refusal) => Ok(Answer::Refused(refusal)),
        };
    }
    let expires_at = now.after(Duration::from_secs(hold_seconds.get().into()));
    let (mut versions, mut lines) = (Vec::new(), Vec::new());
    for item in items {
        let stock = load(transaction, &item.product_id)?;
        match line(&stock.state, item) {
            Ok(line) => lines.push(line),
            Err(refusal) => return Ok(Answer::Refused(refusal)), // Nothing is written yet.
        }
        versions.push(stock.version);
    }
    let mut position = 0;
    for (Line { product_id, allocations }, version) in lines.iter().zip(versions) {
        let (reservation_id, allocations) = (reservation_id.clone(), allocations.clone());
        let event = StockEvent::InventoryReserved { reservation_id, expires_at, allocations };
        position = append(transaction, product_id, version, &[event], cause, now)?;
    }
    let (reservation_id, items) = (reservation_id.clone(), Some(items.clone()));
    let reservation = Reservation { reservation_id, state: State::Held, items, lines, expires_at };
    put(transaction, &reservation, now)?;
    promised(&reservation, position)
}

fn promised(reservation: &Reservation, position: i64) -> rusqlite::Result<Answer> {
    let Reservation { reservation_id, lines, expires_at, .. } = reservation;
    let allocations = lines.iter().flat_map(|Line { product_id, allocations }| {
        allocations.iter().map(
            move |it| json!({"product_id": product_id, "warehouse": it.warehouse, "quantity": it.quantity}),
        )
    });
    let allocations = allocations.collect::<Value>();
    let expires_at = serde_json::to_value(expires_at).map_err(unwritten)?;
    Ok(Answer::Done(json!({
        "reservation_id": reservation_id,
        "state": State::Held,
        "expires_at": expires_at,
        "allocations": allocations,
        "position": position,
    })))
}

fn release(
    transaction: &Transaction<'_>,
    reservation_id: &ReservationId,
    reason: ReleaseReason,
    cause: &Cause,
    now: Moment,
) -> rusqlite::Result<Answer> {
    let done = |state: State, position: i64| {
        Answer::Done(json!({"reservation_id": reservation_id, "state": state, "position": position}))
    };
    let Some(known) = reservation(transaction, reservation_id.as_str())? else {
        if reason == ReleaseReason::OrderCompleted {
            let reservation_id = reservation_id.clone();
            return Ok(Answer::Refused(Refusal::UnknownReservation { reservation_id }));
        }
        let (reservation_id, state) = (reservation_id.clone(), reason.into());
        let mark = Reservation { reservation_id, state, items: None, lines: Vec::new(), expires_at: now };
        put(transaction, &mark, now)?;
        return Ok(done(state, log::head(transaction)?));
    };
    match known.end(reason, now) {
        Ok(End::Known) => Ok(done(known.state, log::head(transaction)?)),
        Ok(End::Back) => {
            put_back(transaction, &known, cause, now)?;
            Ok(done(State::Returned, log::head(transaction)?))
        }
        Ok(End::Now(reason)) => {
            end(transaction, &known, reason, cause, now)?;
            Ok(done(reason.into(), log::head(transaction)?))
        }
        Err(refusal) => Ok(Answer::Refused(refusal)),
    }
}

/// Ends a reservation that is held.
fn end(
    transaction: &Transaction<'_>,
    reservation: &Reservation,
    reason: ReleaseReason,
    cause: &Cause,
    now: Moment,
) -> rusqlite::Result<()> {
    for Line { product_id, allocations } in &reservation.lines {
        let stock = load(transaction, product_id)?;
        let events = stock.state.release(&reservation.reservation_id, reason, allocations);
        append(transaction, product_id, stock.version, &events, cause, now)?;
    }
    settle(transaction, reservation, State::from(reason), now)
}

/// What had left comes back.
fn put_back(
    transaction: &Transaction<'_>,
    reservation: &Reservation,
    cause: &Cause,
    now: Moment,
) -> rusqlite::Result<()> {
    for Line { product_id, allocations } in &reservation.lines {
        let stock = load(transaction, product_id)?;
        append(transaction, product_id, stock.version, &Stock::put_back(allocations), cause, now)?;
    }
    settle(transaction, reservation, State::Returned, now)
}

fn settle(
    transaction: &Transaction<'_>,
    reservation: &Reservation,
    state: State,
    now: Moment,
) -> rusqlite::Result<()> {
    let update = "UPDATE reservations SET state = ?2, changed_at = ?3 WHERE reservation_id = ?1";
    transaction.execute(update, (reservation.reservation_id.as_str(), state.as_str(), now.unix())).map(drop)
}

fn load(connection: &Connection, product_id: &ProductId) -> rusqlite::Result<Loaded<Stock>> {
    log::load(connection, &stream(product_id))
}

/// Tells the position of the last.
fn append(
    transaction: &Transaction<'_>,
    product_id: &ProductId,
    expected: u64,
    events: &[StockEvent],
    cause: &Cause,
    now: Moment,
) -> rusqlite::Result<i64> {
    let stream = stream(product_id);
    // It was read in this transaction, and nobody else writes meanwhile; if it were otherwise, nothing of this would be done.
    let position = log::append(transaction, &stream, expected, events, cause, now)?
        .map_err(|conflict| rusqlite::Error::ToSqlConversionFailure(conflict.to_string().into()))?;
    log::keep(transaction, &stream, &log::load::<Stock>(transaction, &stream)?)?;
    Ok(position)
}

fn put(transaction: &Transaction<'_>, reservation: &Reservation, now: Moment) -> rusqlite::Result<()> {
    let Reservation { reservation_id, state, items, lines, expires_at } = reservation;
    let items = items.as_ref().map(serde_json::to_string).transpose().map_err(unwritten)?;
    let lines = serde_json::to_string(lines).map_err(unwritten)?;
    let insert = "INSERT INTO reservations VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let row = (reservation_id.as_str(), state.as_str(), items, lines, expires_at.unix(), now.unix());
    transaction.execute(insert, row).map(drop)
}

fn reservation(connection: &Connection, reservation_id: &str) -> rusqlite::Result<Option<Reservation>> {
    let sql =
        "SELECT reservation_id, state, items, lines, expires_at FROM reservations WHERE reservation_id = ?1";
    connection.query_row(sql, [reservation_id], read_reservation).optional()
}

fn read_reservation(row: &Row<'_>) -> rusqlite::Result<Reservation> {
    Ok(Reservation {
        reservation_id: from(Value::String(row.get(0)?))?,
        state: from(Value::String(row.get(1)?))?,
        items: row.get::<_, Option<String>>(2)?.map(|it| parsed(&it)).transpose()?,
        lines: parsed(&row.get::<_, String>(3)?)?,
        expires_at: Moment::from_unix(row.get(4)?),
    })
}

fn parsed<T: DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(unread)
}

fn from<T: DeserializeOwned>(value: Value) -> rusqlite::Result<T> {
    serde_json::from_value(value).map_err(unread)
}

fn unread(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
}

fn unwritten(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        inventory::{
            rehearsal::{NEVER, Step, all, at, command, life, lives, now, play, store},
            stock::{Allocation, Shelf},
        },
        kernel::store::Crash,
    };

    fn record() -> (Record, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (Record::new(store(folder.path(), Crash::after(NEVER))), folder)
    }

    fn products(connection: &Connection) -> rusqlite::Result<Vec<ProductId>> {
        let mut statement = connection.prepare("SELECT DISTINCT stream FROM events ORDER BY stream")?;
        let streams = statement.query_map((), |row| row.get::<_, String>(0))?;
        streams.map(|it| from(Value::String(it?["product:".len()..].to_owned()))).collect()
    }

    /// Every warehouse's numbers, by product.
    fn shelves(record: &Record) -> BTreeMap<(ProductId, Warehouse), Shelf> {
        let read = |connection: &Connection| {
            let mut shelves = BTreeMap::new();
            for product_id in products(connection)? {
                let stock = load(connection, &product_id)?;
                let more = stock.state.shelves.into_iter();
                shelves.extend(more.map(|(warehouse, shelf)| ((product_id.clone(), warehouse), shelf)));
            }
            Ok(shelves)
        };
        now(record.store.read(read)).unwrap()
    }

    fn held(record: &Record) -> Vec<Reservation> {
        let sql =
            "SELECT reservation_id, state, items, lines, expires_at FROM reservations WHERE state = 'held'";
        let read = move |connection: &Connection| {
            connection.prepare(sql)?.query_map((), read_reservation)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        now(record.store.read(read)).unwrap()
    }

    /// What holds at any time: nothing is promised that is not there, and what is promised is promised to somebody who is known.
    #[track_caller]
    fn check(record: &Record) {
        for Reservation { items, lines, .. } in held(record) {
            let wanted = items.iter().flatten().map(|it| (it.product_id.clone(), it.quantity.get()));
            let promised = lines.iter().map(|Line { product_id, allocations }| {
                (product_id.clone(), allocations.iter().map(|it| it.quantity).sum::<u32>())
            });
            assert_eq!(wanted.collect::<Vec<_>>(), promised.collect::<Vec<_>>(), "all of it or nothing");
        }
        let mut promised = BTreeMap::<_, u32>::new();
        for Line { product_id, allocations } in held(record).into_iter().flat_map(|it| it.lines) {
            for Allocation { warehouse, quantity } in allocations {
                *promised.entry((product_id.clone(), warehouse)).or_default() += quantity;
            }
        }
        for (place, shelf) in shelves(record) {
            assert!(shelf.reserved <= shelf.on_hand, "{place:?} {shelf:?}");
            assert_eq!(shelf.on_hand, shelf.available() + shelf.reserved, "{place:?}");
            assert_eq!(shelf.reserved, promised.remove(&place).unwrap_or_default(), "{place:?}");
        }
        assert_eq!(promised, BTreeMap::new(), "these are promised and not reserved");
    }

    /// What came less what left, by product, as the answers say.
    fn balance(record: &Record, steps: &[Step]) -> BTreeMap<ProductId, i64> {
        let (mut balance, mut seconds) = (BTreeMap::new(), 0);
        for (number, Step { seconds: more, command }) in steps.iter().enumerate() {
            seconds += more;
            now(record.expire(at(seconds))).unwrap();
            let before = held(record);
            let id = number.to_string();
            let answer = now(record.execute(id, "test", command.clone(), at(seconds))).unwrap().unwrap();
            check(record);
            let Answer::Done(_) = answer else { continue };
            let mut moved = |product_id: &ProductId, units: i64| {
                *balance.entry(product_id.clone()).or_default() += units;
            };
            match command {
                Command::AddProduct(it) => moved(&it.product_id, it.quantity.get().into()),
                Command::UpdateQuantity(it) => moved(&it.product_id, it.delta.into()),
                Command::Release(it) if it.reason == ReleaseReason::OrderCompleted => {
                    let ended = before.into_iter().filter(|held| held.reservation_id == it.reservation_id);
                    for item in
                        ended.filter_map(|it| it.items).flat_map(|it| it.iter().cloned().collect::<Vec<_>>())
                    {
                        moved(&item.product_id, -i64::from(item.quantity.get()));
                    }
                }
                Command::Release(_) | Command::Reserve(_) | Command::Transfer(_) => {}
            }
        }
        balance
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is asked, in whatever order: the numbers are right in each warehouse, nothing comes from nowhere, and nothing
        /// but the events says what they are.
        #[test]
        fn r6_2_whatever_happens_every_unit_is_available_or_reserved_once(steps in lives()) {
            let (record, _folder) = record();
            let balance = balance(&record, &steps);
            let live = shelves(&record);
            let mut there = BTreeMap::new();
            for ((product_id, _), shelf) in &live {
                *there.entry(product_id.clone()).or_default() += i64::from(shelf.on_hand);
            }
            prop_assert_eq!(&balance, &there);

            let from_zero = |connection: &Connection| {
                for product_id in products(connection)? {
                    let stream = stream(&product_id);
                    let zero = log::load_from_zero::<Stock>(connection, &stream)?;
                    assert_eq!(zero, load(connection, &product_id)?, "{product_id}");
                }
                Ok(())
            };
            now(record.store.read(from_zero)).unwrap();
            let forget = |transaction: &Transaction<'_>| transaction.execute("DELETE FROM snapshots", ());
            now(record.store.write(forget)).unwrap();
            prop_assert_eq!(live, shelves(&record));

            // All of it again, under the same ids: the same answers, and nothing happens.
            let before = all(&record);
            now(play(&record, &steps)).unwrap();
            let ended = all(&record).len() - before.len();
            prop_assert_eq!(ended, 0);
        }
    }

    #[test]
    fn snapshots_are_taken_and_change_nothing() {
        let (record, _folder) = record();
        let add = json!({"product_id": "a", "warehouse": "MUM_WH_001", "quantity": 100});
        let more = json!({"product_id": "a", "warehouse": "MUM_WH_001", "delta": 1, "reason": "restocking"});
        let more = Step { seconds: 1, command: command("update_quantity", more) };
        let steps =
            [vec![Step { seconds: 0, command: command("add_product", add) }], vec![more; 24]].concat();
        now(play(&record, &steps)).unwrap();
        let sql = "SELECT version FROM snapshots";
        let version = |connection: &Connection| connection.query_row(sql, (), |row| row.get::<_, i64>(0));
        assert_eq!(now(record.store.read(version)).unwrap(), 20);
        assert_eq!(shelves(&record).into_values().map(|it| it.on_hand).collect::<Vec<_>>(), [124]);
    }

    /// Killed before and after each commit, and then told the same again: what comes of it is what would have come of it.
    #[test]
    fn r6_5_killed_at_any_commit_nothing_is_half_done_and_the_same_again_ends_the_same() {
        let (record, _folder) = record();
        now(play(&record, &life())).unwrap();
        let (events, numbers) = (all(&record), shelves(&record));
        assert!(events.iter().any(|it| it.data["reason"] == "expired"), "one has run out");
        let mut crashes = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let crash = Crash::after(crashes);
            let first = now(play(&Record::new(store(folder.path(), crash.clone())), &life()));
            let next = Record::new(store(folder.path(), Crash::after(NEVER)));
            check(&next);
            if first.is_ok() {
                assert!(!crash.has_come());
                break;
            }
            now(play(&next, &life())).unwrap();
            assert_eq!((all(&next), shelves(&next)), (events.clone(), numbers.clone()), "crash {crashes}");
            crashes += 1;
        }
        assert!(crashes >= 2 * i64::try_from(life().len()).unwrap(), "only {crashes} crashes");
    }

    #[test]
    fn r6_4_a_hold_runs_out_at_its_end_and_not_before() {
        let (record, _folder) = record();
        let [add, reserve] = [
            ("add_product", json!({"product_id": "a", "warehouse": "MUM_WH_001", "quantity": 5})),
            ("reserve", json!({"reservation_id": "r", "items": [{"product_id": "a", "quantity": 5}]})),
        ]
        .map(|(name, body)| Step { seconds: 0, command: command(name, body) });
        now(play(&record, &[add, reserve])).unwrap();
        assert_eq!(now(record.expire(at(899))).unwrap(), 0);
        let complete = |id: &str, seconds| {
            let body = json!({"reservation_id": "r", "reason": "order_completed"});
            now(record.execute(id.to_owned(), "test", command("release", body), at(seconds)))
                .unwrap()
                .unwrap()
        };
        // Nobody has looked yet, and it is too late all the same.
        let Answer::Refused(Refusal::ReservationOver { state, .. }) = complete("late", 900) else { panic!() };
        assert_eq!(state, State::Expired);
        assert_eq!(now(record.expire(at(900))).unwrap(), 1);
        assert_eq!(now(record.expire(at(900))).unwrap(), 0);
        assert_eq!(shelves(&record).into_values().map(Shelf::available).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn a_hold_that_cannot_be_read_keeps_no_other_from_running_out() {
        let (record, _folder) = record();
        let add = json!({"product_id": "a", "warehouse": "MUM_WH_001", "quantity": 5});
        let reserve = |id| json!({"reservation_id": id, "items": [{"product_id": "a", "quantity": 1}]});
        let steps = [("add_product", add), ("reserve", reserve("r1")), ("reserve", reserve("r2"))];
        let steps = steps.map(|(name, body)| Step { seconds: 0, command: command(name, body) });
        now(play(&record, &steps)).unwrap();
        let spoil = "UPDATE reservations SET lines = 'nothing' WHERE reservation_id = 'r1'";
        now(record.store.write(move |transaction| transaction.execute(spoil, ()))).unwrap();
        assert!(now(record.expire(at(900))).is_err(), "somebody has to hear of it");
        assert_eq!(shelves(&record).into_values().map(|it| it.reserved).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn what_is_thirty_days_old_is_forgotten_and_not_before() {
        let (record, _folder) = record();
        now(play(&record, &life())).unwrap();
        now(record.expire(at(3600))).unwrap();
        let count = |table: &'static str| {
            let sql = format!("SELECT count(*) FROM {table}");
            let read =
                move |connection: &Connection| connection.query_row(&sql, (), |row| row.get::<_, u32>(0));
            now(record.store.read(read)).unwrap()
        };
        let week = FORGOTTEN.as_secs();
        now(record.forget(at(week))).unwrap();
        assert_eq!((count("commands"), count("reservations")), (16, 5));
        let events = count("events");
        now(record.forget(at(week + 3601))).unwrap();
        assert_eq!((count("commands"), count("reservations")), (0, 0));
        assert_eq!(count("events"), events, "events are kept");
    }

    /// As much as fits into an answer that is read, whatever was asked for.
    #[test]
    fn a_page_is_no_longer_than_a_peer_reads() {
        let (record, _folder) = record();
        let item = |it| json!({"product_id": format!("{it:0>64}"), "quantity": 16});
        let items = (0..20).map(item).collect::<Value>();
        let body = |id: i32| json!({"reservation_id": format!("{id:0>128}"), "items": items});
        let add = (0..20).flat_map(|it| {
            (0..16).map(move |at| {
                let (id, at) = (format!("{it:0>64}"), format!("MUM_WH_{at:03}"));
                ("add_product", json!({"product_id": id, "warehouse": at, "quantity": 4}))
            })
        });
        let reserve = (0..4).map(|id| ("reserve", body(id)));
        let steps = add.chain(reserve).map(|(name, body)| Step { seconds: 0, command: command(name, body) });
        now(play(&record, &steps.collect::<Vec<_>>())).unwrap();
        let (mut after, mut pages, mut count) = (0, 0, 0);
        loop {
            let page = now(record.feed(after, 500)).unwrap();
            let Some(last) = page.events.last() else { break };
            after = last.position;
            count += page.events.len();
            pages += 1;
            let bytes = serde_json::to_vec(&page).unwrap().len();
            assert!(bytes <= crate::kernel::peer::ANSWER_LIMIT, "{bytes}");
        }
        assert_eq!(count, 20 * 16 + 4 * 20);
        assert!(pages > 1, "they would have fitted");
    }
}
