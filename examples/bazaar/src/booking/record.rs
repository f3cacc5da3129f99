//! The record of rides: who rides, for how much, and how far it has come.
//!
//! # Rule
//! Every change is one transaction: a ride's new state by [`ride`](crate::rules::ride)'s rule, what it
//! means for the ledger, and who has to hear of it. So there is no moment at which a crash could leave one of
//! them without the others.
//!
//! - **Ledger.** A ride that is assigned is charged with its fare; one that is called off after that is
//!   refunded, less the fee. Each at most once: the entry's key says so.
//! - **Outbox.** Who has to hear that a ride has changed. An entry names a ride and no message: what is
//!   sent is the ride as it is then, so entries do not pile up, and their order does not matter.
//! - **Keys.** A rider's idempotency key names one ride, as long as the ride is kept; a quote is good for one
//!   ride, unless that found no driver.
//!
//! # Bounds
//! Rides are records, and are kept. Requests that found no driver are forgotten after [`FORGOTTEN`], and their keys
//! with them.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, Transaction};

use crate::{
    driver::{Bound, Driven},
    kernel::{
        ask::Coordinates,
        clock::SLACK,
        column::{Json, Word},
        store::{Migrations, Store, StoreError},
    },
    pricing::Promised,
    rules::{
        fare::RideType,
        moment::Moment,
        money::Money,
        ride::{State, Step, WrongState, cancellation_fee},
    },
};

/// How long a rider is taken to be asking after they asked; a request that nobody asks about any more
/// finds no driver.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// How long a request that found no driver is remembered.
pub const FORGOTTEN: Duration = Duration::from_hours(7 * 24);

/// How many requests that nobody asks about are given up at a time.
const SWEPT: u32 = 100;

/// The tables.
pub const MIGRATIONS: Migrations = &["
    CREATE TABLE rides (
        ride_id TEXT PRIMARY KEY,
        rider TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        quote_id TEXT NOT NULL,
        ride_type TEXT NOT NULL,
        pickup_lat REAL NOT NULL,
        pickup_lng REAL NOT NULL,
        drop_lat REAL NOT NULL,
        drop_lng REAL NOT NULL,
        fare INTEGER NOT NULL,  -- in paise
        minutes INTEGER NOT NULL,
        state TEXT NOT NULL,
        version INTEGER NOT NULL,  -- how often it has changed
        driver_id TEXT,
        driver TEXT,  -- JSON
        requested_at INTEGER NOT NULL,
        asked_at INTEGER NOT NULL,  -- when the rider last asked for it
        changed_at INTEGER NOT NULL,
        UNIQUE (rider, idempotency_key),
        CHECK (driver_id IS NOT NULL OR state IN ('requested', 'cancelled', 'no_driver'))
    ) STRICT;
    CREATE UNIQUE INDEX one_ride_a_quote ON rides (quote_id) WHERE state <> 'no_driver';
    CREATE INDEX rides_without_driver ON rides (asked_at) WHERE state = 'requested';
    CREATE INDEX rides_under_way ON rides (ride_id) WHERE state IN ('assigned', 'arriving', 'on_trip');
    CREATE INDEX rides_without_end ON rides (changed_at) WHERE state = 'no_driver';
    CREATE TABLE ledger (
        ride_id TEXT NOT NULL REFERENCES rides,
        entry TEXT NOT NULL CHECK (entry IN ('charge', 'refund')),
        paise INTEGER NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (ride_id, entry)
    ) STRICT;
    CREATE TABLE outbox (
        destination TEXT NOT NULL CHECK (destination IN ('driver', 'tracking')),
        ride_id TEXT NOT NULL REFERENCES rides,
        version INTEGER NOT NULL,
        PRIMARY KEY (destination, ride_id)
    ) STRICT;
"];

/// A ride.
#[derive(Clone, Debug, PartialEq)]
pub struct Ride {
    /// Its id.
    pub ride_id: String,
    /// Whose it is.
    pub rider: String,
    /// What was promised.
    pub quote_id: String,
    /// The kind of vehicle.
    pub ride_type: RideType,
    /// Where it starts.
    pub pickup: Coordinates,
    /// Where it ends.
    pub drop: Coordinates,
    /// What it costs.
    pub fare: Money,
    /// How long it takes.
    pub minutes: u32,
    /// How far it has come.
    pub state: State,
    /// How often it has changed.
    pub version: u32,
    /// Who drives; while it is requested, who is held for it.
    pub driver: Option<Bound>,
    /// When it was asked for.
    pub requested_at: Moment,
    /// When its rider last asked for it.
    pub asked_at: Moment,
    /// When its state has changed last.
    pub changed_at: Moment,
    /// What was charged.
    pub charged: Money,
    /// What was given back.
    pub refunded: Money,
}

/// A ride to be.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its id.
    pub ride_id: String,
    /// Who asks.
    pub rider: String,
    /// The key that names it.
    pub idempotency_key: String,
    /// The quote.
    pub quote_id: String,
    /// What that promised.
    pub promised: Promised,
}

/// What a request came to.
#[derive(Clone, Debug)]
pub enum Requested {
    /// The ride that it made, or that the same key made before.
    Ride(Box<Ride>),
    /// Another ride has this quote.
    QuoteUsed,
}

/// Who has to hear of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The driver service: the driver is free again.
    Driver,
    /// The tracking service: there is something to see.
    Tracking,
}

impl Destination {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Driver, Self::Tracking];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Tracking => "tracking",
        }
    }
}

/// The rides.
#[derive(Clone, Debug)]
pub struct Record {
    store: Store,
}

impl Record {
    /// Those in a store with [`MIGRATIONS`].
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// A ride by its id.
    pub async fn ride(&self, ride_id: &str) -> Result<Option<Ride>, StoreError> {
        let ride_id = ride_id.to_owned();
        self.store.read(move |connection| by_id(connection, &ride_id)).await
    }

    /// A ride by its rider's key.
    pub async fn by_key(&self, rider: &str, key: &str) -> Result<Option<Ride>, StoreError> {
        let names = (rider.to_owned(), key.to_owned());
        self.store.read(move |connection| by_key(connection, &names.0, &names.1)).await
    }

    /// Writes down that a ride is wanted.
    pub async fn request(&self, request: Request, now: Moment) -> Result<Requested, StoreError> {
        self.store.write(move |transaction| insert(transaction, &request, now)).await
    }

    /// Writes down that a rider asks again for a ride that has no driver yet.
    pub async fn asked_again(&self, ride_id: &str, now: Moment) -> Result<(), StoreError> {
        let names = (ride_id.to_owned(), now.unix());
        let asked = "UPDATE rides SET asked_at = ?2 WHERE ride_id = ?1 AND state = 'requested'";
        self.store.write(move |transaction| transaction.execute(asked, names).map(drop)).await
    }

    /// Writes down who is held for a ride, if it is still without a driver.
    pub async fn held(&self, ride_id: &str, driver: Bound) -> Result<(), StoreError> {
        let ride_id = ride_id.to_owned();
        let held = "UPDATE rides SET driver_id = ?2, driver = ?3
            WHERE ride_id = ?1 AND state = 'requested' AND driver_id IS NULL";
        let write = move |transaction: &Transaction<'_>| {
            transaction.execute(held, (ride_id, &driver.driver_id, Json(&driver))).map(drop)
        };
        self.store.write(write).await
    }

    /// Writes down that the one who was held is lost.
    pub async fn lost(&self, ride_id: &str, driver_id: &str) -> Result<(), StoreError> {
        let names = (ride_id.to_owned(), driver_id.to_owned());
        let lost = "UPDATE rides SET driver_id = NULL, driver = NULL
            WHERE ride_id = ?1 AND driver_id = ?2 AND state = 'requested'";
        self.store.write(move |transaction| transaction.execute(lost, names).map(drop)).await
    }

    /// Writes down that a driver is bound to a ride, with all that this means; tells what the ride is then,
    /// which is something else if somebody was faster.
    pub async fn assigned(
        &self,
        ride_id: &str,
        driver: Bound,
        now: Moment,
    ) -> Result<Option<Ride>, StoreError> {
        let ride_id = ride_id.to_owned();
        let bind = "UPDATE rides SET driver_id = ?2, driver = ?3 WHERE ride_id = ?1";
        let write = move |transaction: &Transaction<'_>| {
            let Some(ride) = by_id(transaction, &ride_id)? else { return Ok(None) };
            if ride.state == State::Requested {
                // Whoever was confirmed, whatever another attempt has written in the meantime.
                transaction.execute(bind, (&ride_id, &driver.driver_id, Json(&driver)))?;
                change(transaction, &ride, State::Assigned, Money::default(), now)?;
            }
            by_id(transaction, &ride_id)
        };
        self.store.write(write).await
    }

    /// Brings a ride to `next`, with all that this means; tells what it is then. `fee` is what calling it off costs.
    pub async fn step(
        &self,
        ride_id: &str,
        next: State,
        fee: Money,
        now: Moment,
    ) -> Result<Option<Result<Ride, WrongState>>, StoreError> {
        let ride_id = ride_id.to_owned();
        let step = move |transaction: &Transaction<'_>| {
            let Some(ride) = by_id(transaction, &ride_id)? else { return Ok(None) };
            match ride.state.to(next) {
                Err(wrong) => Ok(Some(Err(wrong))),
                Ok(Step::Nothing) => Ok(Some(Ok(ride))),
                Ok(Step::Change) => {
                    change(transaction, &ride, next, fee, now)?;
                    Ok(by_id(transaction, &ride_id)?.map(Ok))
                }
            }
        };
        self.store.write(step).await
    }

    /// Gives up requests that nobody has asked about for [`PATIENCE`], and forgets old ones; tells how many
    /// were given up, at most a hundred.
    pub async fn sweep(&self, now: Moment) -> Result<usize, StoreError> {
        let old = "SELECT ride_id FROM rides WHERE state = 'requested' AND (asked_at <= ?1 OR asked_at > ?2)
            LIMIT ?3";
        let limits = (now.before(PATIENCE).unix(), now.after(SLACK).unix(), SWEPT);
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare(old)?;
            statement.query_map(limits, |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        };
        let ids = self.store.read(read).await?;
        let (count, mut trouble) = (ids.len(), None);
        for ride_id in ids {
            let give_up = move |transaction: &Transaction<'_>| match by_id(transaction, &ride_id)? {
                Some(ride) if is_given_up(&ride, now) => {
                    change(transaction, &ride, State::NoDriver, Money::default(), now)
                }
                _ => Ok(()),
            };
            // Each by itself: one that cannot be read stops no other.
            trouble = self.store.write(give_up).await.err().or(trouble);
        }
        let forget = "DELETE FROM rides WHERE state = 'no_driver' AND changed_at <= ?1
            AND ride_id NOT IN (SELECT ride_id FROM outbox)";
        let before = now.before(FORGOTTEN).unix();
        self.store.write(move |transaction| transaction.execute(forget, [before]).map(drop)).await?;
        trouble.map_or(Ok(count), Err)
    }

    /// The rides that have a driver, in the order of their ids, after that one; at most `count`.
    pub async fn under_way(&self, after: String, count: usize) -> Result<Vec<Driven>, StoreError> {
        let under_way =
            "SELECT ride_id, driver_id FROM rides WHERE state IN ('assigned', 'arriving', 'on_trip')
            AND ride_id > ?1 ORDER BY ride_id LIMIT ?2";
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare(under_way)?;
            let driven = |row: &Row<'_>| Ok(Driven { ride_id: row.get(0)?, driver_id: row.get(1)? });
            statement.query_map((after, count), driven)?.collect()
        };
        self.store.read(read).await
    }

    /// The ride that a destination has waited for the longest to hear of. One that cannot be read waits
    /// behind all others.
    pub async fn next_news(&self, of: Destination) -> Result<Option<Ride>, StoreError> {
        let next = "SELECT ride_id FROM outbox WHERE destination = ?1 ORDER BY rowid LIMIT 1";
        let read = move |connection: &Connection| {
            connection.query_row(next, [of.as_str()], |row| row.get::<_, String>(0)).optional()
        };
        let Some(ride_id) = self.store.read(read).await? else { return Ok(None) };
        let ride = self.ride(&ride_id).await;
        if ride.is_err() {
            self.put_back(of, &ride_id).await?;
        }
        ride
    }

    /// Whether a destination has yet to hear of a ride.
    pub async fn has_news(&self, of: Destination, ride_id: &str) -> Result<bool, StoreError> {
        let names = (of.as_str(), ride_id.to_owned());
        let known = "SELECT 1 FROM outbox WHERE destination = ?1 AND ride_id = ?2";
        let read = move |connection: &Connection| {
            Ok(connection.query_row(known, names, |_| Ok(())).optional()?.is_some())
        };
        self.store.read(read).await
    }

    /// What a destination does not take waits behind all others.
    pub async fn put_back(&self, of: Destination, ride_id: &str) -> Result<(), StoreError> {
        let names = (of.as_str(), ride_id.to_owned());
        let back = "UPDATE outbox SET rowid = (SELECT max(rowid) + 1 FROM outbox)
            WHERE destination = ?1 AND ride_id = ?2";
        self.store.write(move |transaction| transaction.execute(back, names).map(drop)).await
    }

    /// A destination has heard of a ride as it was at that version.
    pub async fn told(&self, of: Destination, ride_id: &str, version: u32) -> Result<(), StoreError> {
        let names = (of.as_str(), ride_id.to_owned(), version);
        let told = "DELETE FROM outbox WHERE destination = ?1 AND ride_id = ?2 AND version <= ?3";
        self.store.write(move |transaction| transaction.execute(told, names).map(drop)).await
    }
}

/// Whether nobody asks about a request any more, or it was made by a clock that showed another time.
pub fn is_given_up(ride: &Ride, now: Moment) -> bool {
    let is_old = ride.asked_at <= now.before(PATIENCE) || ride.asked_at > now.after(SLACK);
    ride.state == State::Requested && is_old
}

fn insert(transaction: &Transaction<'_>, request: &Request, now: Moment) -> rusqlite::Result<Requested> {
    let Request { ride_id, rider, idempotency_key, quote_id, promised } = request;
    if let Some(ride) = by_key(transaction, rider, idempotency_key)? {
        return Ok(Requested::Ride(Box::new(ride)));
    }
    let used = "SELECT 1 FROM rides WHERE quote_id = ?1 AND state <> 'no_driver'";
    if transaction.query_row(used, [quote_id], |_| Ok(())).optional()?.is_some() {
        return Ok(Requested::QuoteUsed);
    }
    let Promised { ride_type, pickup, drop, fare, minutes } = promised;
    let row: [&dyn ToSql; 16] = [
        ride_id,
        rider,
        idempotency_key,
        quote_id,
        &ride_type.as_str(),
        &pickup.lat,
        &pickup.lng,
        &drop.lat,
        &drop.lng,
        &fare.paise(),
        minutes,
        &State::Requested.as_str(),
        &1,
        &now.unix(),
        &now.unix(),
        &now.unix(),
    ];
    transaction.execute(
        "INSERT INTO rides (ride_id, rider, idempotency_key, quote_id, ride_type, pickup_lat, pickup_lng,
            drop_lat, drop_lng, fare, minutes, state, version, requested_at, asked_at, changed_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        row,
    )?;
    let ride = by_id(transaction, ride_id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    Ok(Requested::Ride(Box::new(ride)))
}

/// The ride's new state, its ledger and its outbox.
fn change(
    transaction: &Transaction<'_>,
    ride: &Ride,
    next: State,
    fee: Money,
    now: Moment,
) -> rusqlite::Result<()> {
    let version = ride.version + 1;
    let update = "UPDATE rides SET state = ?2, version = ?3, changed_at = ?4 WHERE ride_id = ?1";
    transaction.execute(update, (&ride.ride_id, next.as_str(), version, now.unix()))?;
    let was_bound = ride.state != State::Requested || next == State::Assigned;
    if !was_bound {
        let nobody = "UPDATE rides SET driver_id = NULL, driver = NULL WHERE ride_id = ?1";
        transaction.execute(nobody, [&ride.ride_id])?;
    }

    let entry = match next {
        State::Assigned => Some(("charge", ride.fare.paise())),
        State::Cancelled if ride.charged > Money::default() => {
            let fee = cancellation_fee(ride.state, ride.charged, fee);
            Some(("refund", ride.charged.paise() - fee.paise()))
        }
        _ => None,
    };
    if let Some((entry, paise)) = entry {
        let insert = "INSERT INTO ledger VALUES (?1, ?2, ?3, ?4)";
        transaction.execute(insert, (&ride.ride_id, entry, paise, now.unix()))?;
    }

    // An attempt to hold a driver may have succeeded and its answer been lost, so that a ride without a
    // driver, too, has to be released.
    let hear = [(Destination::Driver, next.is_end()), (Destination::Tracking, was_bound)];
    for (destination, _) in hear.into_iter().filter(|(_, hears)| *hears) {
        let put = "INSERT OR REPLACE INTO outbox VALUES (?1, ?2, ?3)";
        transaction.execute(put, (destination.as_str(), &ride.ride_id, version))?;
    }
    Ok(())
}

const SELECT: &str = "SELECT ride_id, rider, quote_id, ride_type, pickup_lat, pickup_lng, drop_lat, drop_lng,
    fare, minutes, state, version, driver, requested_at, asked_at, changed_at,
    (SELECT paise FROM ledger AS l WHERE l.ride_id = rides.ride_id AND entry = 'charge') AS charged,
    (SELECT paise FROM ledger AS l WHERE l.ride_id = rides.ride_id AND entry = 'refund') AS refunded
    FROM rides";

fn by_id(connection: &Connection, ride_id: &str) -> rusqlite::Result<Option<Ride>> {
    connection.query_row(&format!("{SELECT} WHERE ride_id = ?1"), [ride_id], ride).optional()
}

fn by_key(connection: &Connection, rider: &str, key: &str) -> rusqlite::Result<Option<Ride>> {
    let sql = format!("{SELECT} WHERE rider = ?1 AND idempotency_key = ?2");
    connection.query_row(&sql, (rider, key), ride).optional()
}

fn ride(row: &Row<'_>) -> rusqlite::Result<Ride> {
    let money = |name| row.get::<_, Option<i64>>(name).map(|it| Money::from_paise(it.unwrap_or_default()));
    let moment = |name| row.get(name).map(Moment::from_unix);
    let point =
        |lat, lng| -> rusqlite::Result<_> { Ok(Coordinates { lat: row.get(lat)?, lng: row.get(lng)? }) };
    Ok(Ride {
        ride_id: row.get("ride_id")?,
        rider: row.get("rider")?,
        quote_id: row.get("quote_id")?,
        ride_type: row.get::<_, Word<RideType>>("ride_type")?.0,
        pickup: point("pickup_lat", "pickup_lng")?,
        drop: point("drop_lat", "drop_lng")?,
        fare: money("fare")?,
        minutes: row.get("minutes")?,
        state: row.get::<_, Word<State>>("state")?.0,
        version: row.get("version")?,
        driver: row.get::<_, Option<Json<Bound>>>("driver")?.map(|Json(driver)| driver),
        requested_at: moment("requested_at")?,
        asked_at: moment("asked_at")?,
        changed_at: moment("changed_at")?,
        charged: money("charged")?,
        refunded: money("refunded")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_768_458_600;

    async fn record() -> (Record, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(Store::open(&folder.path().join("booking.db"), MIGRATIONS).unwrap());
        for name in ["a", "b"] {
            let at = Coordinates { lat: 19.0, lng: 72.9 };
            let promised = Promised {
                ride_type: RideType::Mini,
                pickup: at,
                drop: at,
                fare: Money::from_paise(100),
                minutes: 1,
            };
            let [ride_id, rider, idempotency_key, quote_id] = [(); 4].map(|()| name.to_owned());
            let request = Request { ride_id, rider, idempotency_key, quote_id, promised };
            record.request(request, Moment::from_unix(NOON)).await.unwrap();
        }
        (record, folder)
    }

    async fn spoil(record: &Record, ride_id: &'static str) {
        let spoil = "UPDATE rides SET ride_type = 'rickshaw' WHERE ride_id = ?1";
        record.store.write(move |transaction| transaction.execute(spoil, [ride_id])).await.unwrap();
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_read_stops_no_other_from_being_given_up() {
        let (record, _folder) = record().await;
        spoil(&record, "a").await;
        let later = Moment::from_unix(NOON).after(PATIENCE);
        assert!(record.sweep(later).await.is_err(), "somebody has to hear of it");
        assert_eq!(record.ride("b").await.unwrap().unwrap().state, State::NoDriver);
    }

    #[tokio::test]
    async fn news_that_cannot_be_read_hold_up_no_others() {
        let (record, _folder) = record().await;
        for ride_id in ["a", "b"] {
            let now = Moment::from_unix(NOON);
            record.step(ride_id, State::Cancelled, Money::default(), now).await.unwrap().unwrap().unwrap();
        }
        spoil(&record, "a").await;
        assert!(record.next_news(Destination::Driver).await.is_err());
        assert_eq!(record.next_news(Destination::Driver).await.unwrap().unwrap().ride_id, "b");
    }

    #[tokio::test]
    async fn what_found_no_driver_is_forgotten_once_everybody_has_heard_of_it() {
        let (record, _folder) = record().await;
        let given_up = Moment::from_unix(NOON).after(PATIENCE);
        record.sweep(given_up).await.unwrap();
        record.told(Destination::Driver, "a", 2).await.unwrap();
        let later = given_up.after(FORGOTTEN);
        record.sweep(later.before(Duration::from_secs(1))).await.unwrap();
        assert!(record.ride("a").await.unwrap().is_some());
        record.sweep(later).await.unwrap();
        assert!(record.ride("a").await.unwrap().is_none());
        assert!(record.ride("b").await.unwrap().is_some(), "the driver service has not heard of it");
    }
}
