//! The restaurants, how each is today, and what their kitchens cook.
//!
//! # Rule
//! A guest's key names one order, of one restaurant: that is cooked once, and said again it is the same one. An order is under way until it is
//! ready, and so long its kitchen has it to do.
//!
//! # Bounds
//! A kitchen has at most [`LOAD`] orders under way. Orders are forgotten after 30 days ([`FORGOTTEN`]).

use std::{error::Error, fmt, str::FromStr, time::Duration};

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::{
    kernel::{
        column::{Json, Word},
        store::{Migrations, Store, StoreError},
    },
    rules::{
        kitchen::{Area, Kitchen, ready_in_minutes},
        moment::Moment,
    },
};

/// How many orders a kitchen has under way at most.
pub const LOAD: u32 = 1_000;

/// How long an order is remembered.
pub const FORGOTTEN: Duration = Duration::from_hours(30 * 24);

/// The tables, and who cooks from the first day on.
pub const MIGRATIONS: Migrations = &[
    "
    CREATE TABLE restaurants (
        restaurant_id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        area TEXT NOT NULL,
        cuisine TEXT NOT NULL,
        rating INTEGER NOT NULL CHECK (rating BETWEEN 0 AND 50),  -- in tenths of a star
        preparation_minutes INTEGER NOT NULL,
        mode TEXT NOT NULL DEFAULT 'open'
    ) STRICT;
    CREATE TABLE orders (
        order_id TEXT PRIMARY KEY,
        restaurant_id TEXT NOT NULL REFERENCES restaurants,
        guest TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        items TEXT NOT NULL,  -- JSON
        ready_in_minutes INTEGER NOT NULL,
        at INTEGER NOT NULL,
        ready_at INTEGER NOT NULL,
        UNIQUE (guest, idempotency_key)
    ) STRICT;
    CREATE INDEX orders_under_way ON orders (restaurant_id, ready_at);
    CREATE INDEX orders_by_age ON orders (at);
    ",
    "
    INSERT INTO restaurants (restaurant_id, name, area, cuisine, rating, preparation_minutes) VALUES
    ('tanjore', 'Tanjore', 'dadar', 'South Indian', 45, 25),
    ('cafe_mocha', 'Cafe Mocha', 'bandra', 'Continental', 42, 30),
    ('mainland_china', 'Mainland China', 'fort', 'Chinese', 44, 35),
    ('social', 'Social', 'andheri', 'Multi', 41, 20),
    ('theobroma', 'Theobroma', 'colaba', 'Bakery', 46, 15),
    ('britannia', 'Britannia', 'fort', 'Parsi', 43, 40),
    ('leopold', 'Leopold', 'colaba', 'Continental', 39, 25),
    ('swathi', 'Swathi', 'dadar', 'Street', 44, 10);
    ",
];

/// How a restaurant is today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It cooks.
    Open,
    /// It cooks, and takes its time to say so.
    Slow,
    /// Its system is broken.
    Failing,
    /// Its system does not answer.
    Hanging,
    /// It takes no new orders.
    Closed,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Open, Self::Slow, Self::Failing, Self::Hanging, Self::Closed];

    /// As in requests and answers: `open`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Slow => "slow",
            Self::Failing => "failing",
            Self::Hanging => "hanging",
            Self::Closed => "closed",
        }
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| UnknownMode { text: text.to_owned() })
    }
}

/// A mode that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownMode {
    text: String,
}

impl fmt::Display for UnknownMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Mode::ALL.map(Mode::as_str).join(", ");
        write!(f, "{:?} is not a mode; there are {known}", self.text)
    }
}

impl Error for UnknownMode {}

/// A restaurant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restaurant {
    /// Its id.
    pub restaurant_id: String,
    /// What it is called.
    pub name: String,
    /// Where it is.
    pub area: Area,
    /// What it cooks.
    pub cuisine: String,
    /// In tenths of a star.
    pub rating_tenths: u16,
    /// How long a dish takes when nothing else is to do.
    pub preparation_minutes: u32,
    /// How it is today.
    pub mode: Mode,
    /// How many orders are under way.
    pub load: u32,
}

/// So many of a dish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// What.
    pub dish: String,
    /// How many.
    pub quantity: u32,
}

/// An order to be.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its id, if it is a new one.
    pub order_id: String,
    /// Who cooks.
    pub restaurant_id: String,
    /// Who eats.
    pub guest: String,
    /// The key that names it.
    pub idempotency_key: String,
    /// What.
    pub items: Vec<Item>,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub order_id: String,
    /// Who cooks.
    pub restaurant_id: String,
    /// What.
    pub items: Vec<Item>,
    /// How long it takes.
    pub ready_in_minutes: u32,
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cooked {
    /// The order that it made, or that the same key made before.
    Order(Order),
    /// The restaurant takes no new orders.
    Closed,
    /// It has too much to do.
    Busy,
}

/// The restaurants and orders.
#[derive(Clone, Debug)]
pub struct Record {
    store: Store,
}

impl Record {
    /// Those in the store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The restaurant of that id.
    pub async fn restaurant(
        &self,
        restaurant_id: &str,
        now: Moment,
    ) -> Result<Option<Restaurant>, StoreError> {
        let restaurant_id = restaurant_id.to_owned();
        self.store.read(move |connection| by_id(connection, &restaurant_id, now)).await
    }

    /// All of them, the best first.
    pub async fn restaurants(&self, now: Moment) -> Result<Vec<Restaurant>, StoreError> {
        let read = move |connection: &Connection| {
            let mut statement =
                connection.prepare(&format!("{SELECT} ORDER BY rating DESC, restaurant_id"))?;
            statement.query_map([now.unix()], restaurant)?.collect()
        };
        self.store.read(read).await
    }

    /// Has a restaurant be so from now on; none if there is none.
    pub async fn set_mode(
        &self,
        restaurant_id: &str,
        mode: Mode,
        now: Moment,
    ) -> Result<Option<Restaurant>, StoreError> {
        let restaurant_id = restaurant_id.to_owned();
        let set = move |transaction: &Transaction<'_>| {
            let update = "UPDATE restaurants SET mode = ?2 WHERE restaurant_id = ?1";
            transaction.execute(update, (&restaurant_id, mode.as_str()))?;
            by_id(transaction, &restaurant_id, now)
        };
        self.store.write(set).await
    }

    /// How many orders a kitchen has cooked, or cooks.
    pub async fn cooked(&self, restaurant_id: &str) -> Result<u32, StoreError> {
        let restaurant_id = restaurant_id.to_owned();
        let count = "SELECT count(*) FROM orders WHERE restaurant_id = ?1";
        self.store
            .read(move |connection| connection.query_row(count, [restaurant_id], |row| row.get(0)))
            .await
    }

    /// Has an order cooked; none if there is no such restaurant.
    pub async fn cook(&self, request: Request, now: Moment) -> Result<Option<Cooked>, StoreError> {
        self.store.write(move |transaction| cook(transaction, request, now)).await
    }

    /// Forgets orders that are older than [`FORGOTTEN`].
    pub async fn sweep(&self, now: Moment) -> Result<(), StoreError> {
        let before = now.before(FORGOTTEN).unix();
        let forget = "DELETE FROM orders WHERE at < ?1";
        self.store.write(move |transaction| transaction.execute(forget, [before]).map(drop)).await
    }
}

fn cook(transaction: &Transaction<'_>, request: Request, now: Moment) -> rusqlite::Result<Option<Cooked>> {
    let Request { order_id, restaurant_id, guest, idempotency_key, items } = request;
    let known = "SELECT order_id, restaurant_id, items, ready_in_minutes FROM orders
        WHERE guest = ?1 AND idempotency_key = ?2";
    let order = |row: &Row<'_>| {
        Ok(Order {
            order_id: row.get(0)?,
            restaurant_id: row.get(1)?,
            items: row.get::<_, Json<Vec<Item>>>(2)?.0,
            ready_in_minutes: row.get(3)?,
        })
    };
    if let Some(order) = transaction.query_row(known, (&guest, &idempotency_key), order).optional()? {
        return Ok(Some(Cooked::Order(order)));
    }
    let Some(restaurant) = by_id(transaction, &restaurant_id, now)? else { return Ok(None) };
    if restaurant.mode == Mode::Closed {
        return Ok(Some(Cooked::Closed));
    }
    if restaurant.load >= LOAD {
        return Ok(Some(Cooked::Busy));
    }
    let Restaurant { preparation_minutes, area, load, .. } = restaurant;
    let ready_in_minutes = ready_in_minutes(Kitchen { preparation_minutes, load: load + 1, area });
    let ready_at = now.after(Duration::from_mins(ready_in_minutes.into()));
    transaction.execute(
        "INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        (
            &order_id,
            &restaurant_id,
            &guest,
            &idempotency_key,
            Json(&items),
            ready_in_minutes,
            now.unix(),
            ready_at.unix(),
        ),
    )?;
    Ok(Some(Cooked::Order(Order { order_id, restaurant_id, items, ready_in_minutes })))
}

const SELECT: &str = "SELECT r.*, (SELECT count(*) FROM orders AS o
    WHERE o.restaurant_id = r.restaurant_id AND o.ready_at > ?1) AS load FROM restaurants AS r";

fn by_id(connection: &Connection, restaurant_id: &str, now: Moment) -> rusqlite::Result<Option<Restaurant>> {
    let sql = format!("{SELECT} WHERE restaurant_id = ?2");
    connection.query_row(&sql, (now.unix(), restaurant_id), restaurant).optional()
}

fn restaurant(row: &Row<'_>) -> rusqlite::Result<Restaurant> {
    Ok(Restaurant {
        restaurant_id: row.get("restaurant_id")?,
        name: row.get("name")?,
        area: row.get::<_, Word<Area>>("area")?.0,
        cuisine: row.get("cuisine")?,
        rating_tenths: row.get("rating")?,
        preparation_minutes: row.get("preparation_minutes")?,
        mode: row.get::<_, Word<Mode>>("mode")?.0,
        load: row.get("load")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Moment = Moment::from_unix(1_768_458_600);

    fn record() -> (Record, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(Store::open(&folder.path().join("restaurant.db"), MIGRATIONS).unwrap());
        (record, folder)
    }

    async fn minutes(record: &Record, key: &str, now: Moment) -> u32 {
        let request = Request {
            order_id: key.into(),
            restaurant_id: "tanjore".into(),
            guest: "asha".into(),
            idempotency_key: key.into(),
            items: vec![Item { dish: "Masala Dosa".into(), quantity: 2 }],
        };
        match record.cook(request, now).await.unwrap() {
            Some(Cooked::Order(order)) => order.ready_in_minutes,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_is_ready_is_no_load_any_more() {
        let (record, _folder) = record();
        assert_eq!([minutes(&record, "1", NOON).await, minutes(&record, "2", NOON).await], [30, 33]);
        assert_eq!(minutes(&record, "1", NOON).await, 30, "it is the same order");
        let later = NOON.after(Duration::from_mins(30));
        assert_eq!(record.restaurant("tanjore", later).await.unwrap().unwrap().load, 1);
        assert_eq!(minutes(&record, "3", NOON.after(Duration::from_mins(33))).await, 30);
        assert_eq!(record.cooked("tanjore").await.unwrap(), 3);
        record.sweep(NOON.after(FORGOTTEN + Duration::from_mins(1))).await.unwrap();
        assert_eq!(record.cooked("tanjore").await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_kitchen_has_no_more_than_it_can_have() {
        let (record, _folder) = record();
        let fill = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
            INSERT INTO orders SELECT n, 'tanjore', 'ravi', n, '[]', 1, ?2, ?2 + 60 FROM n";
        let filled = record.store.write(|transaction| transaction.execute(fill, (LOAD, NOON.unix())));
        filled.await.unwrap();
        let request = Request {
            order_id: "1".into(),
            restaurant_id: "tanjore".into(),
            guest: "asha".into(),
            idempotency_key: "1".into(),
            items: Vec::new(),
        };
        assert_eq!(record.cook(request, NOON).await.unwrap(), Some(Cooked::Busy));
    }

    #[test]
    fn modes_have_names() {
        for mode in Mode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.as_str());
        }
        assert!("on_fire".parse::<Mode>().is_err());
    }
}
