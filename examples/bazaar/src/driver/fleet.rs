//! Who drives, where, and for which ride.
//!
//! # Rule
//! 1. A driver is bound to one ride at most; an index of the table says so, whatever the code does.
//! 2. To **hold** one is to bind the best that is free (see [`nearby`]) until [`HELD`] is over. Asked again for the same
//!    ride, it is the same driver, and the time begins anew.
//! 3. To **confirm** binds the driver for [`BOUND`], and to **renew** begins that anew: booking renews all
//!    that is under way every minute. A hold that has run out can be confirmed as long as nobody else has taken
//!    the driver.
//! 4. A bond that has run out may be one that nobody could renew, because this service was away. So no driver is
//!    held while there is one: booking has to **renew first**, and what it does not name then is over.
//! 5. To **release** frees the driver of that ride, and no other. A released ride binds nobody again,
//!    whatever arrives late.
//! 6. What ends later than it can was promised by a clock that showed another time, and has run out (see
//!    [`SLACK`]).
//!
//! So whoever holds a driver and dies has lost them for [`HELD`] at most, and for [`BOUND`] after a confirmation;
//! and a driver who is free because somebody was away for longer is not given away twice.
//!
//! # State
//! The table. Released rides are remembered for [`REMEMBERED`].

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, named_params};

use crate::{
    kernel::{
        clock::SLACK,
        store::{Migrations, Store, StoreError},
    },
    rules::{
        fare::RideType,
        geo::{Place, Point},
        moment::Moment,
        nearby::{self, Located, SENT_KM, SHOWN, SHOWN_KM},
    },
};

/// How long a driver is held for a ride that nobody confirms.
pub const HELD: Duration = Duration::from_secs(30);

/// How long a driver is bound to a ride after it was confirmed, or renewed.
pub const BOUND: Duration = Duration::from_mins(10);

/// How long a ride that was released is remembered.
pub const REMEMBERED: Duration = Duration::from_hours(24);

/// The tables, and the ten drivers of the demo.
pub const MIGRATIONS: Migrations = &["
    CREATE TABLE drivers (
        driver_id TEXT PRIMARY KEY,
        lat REAL NOT NULL,
        lng REAL NOT NULL,
        ride_type TEXT NOT NULL,
        rating INTEGER NOT NULL,  -- in tenths
        vehicle TEXT NOT NULL
    ) STRICT;
    CREATE INDEX drivers_by_place ON drivers (lat, lng);
    CREATE TABLE assignments (
        ride_id TEXT PRIMARY KEY,
        driver_id TEXT REFERENCES drivers,  -- null: released before anybody was bound
        state TEXT NOT NULL CHECK (state IN ('held', 'confirmed', 'released')),
        until INTEGER NOT NULL  -- held, confirmed: when it runs out; released: when it is forgotten
    ) STRICT;
    CREATE UNIQUE INDEX one_ride_a_driver ON assignments (driver_id) WHERE state <> 'released';
    CREATE INDEX assignments_by_end ON assignments (state, until);
    INSERT INTO drivers VALUES
        ('001', 18.9220, 72.8342, 'mini', 48, 'MH010412'),
        ('002', 18.9340, 72.8250, 'prime', 46, 'MH012783'),
        ('003', 18.9180, 72.8400, 'auto', 43, 'MH013391'),
        ('004', 19.0760, 72.8777, 'mini', 45, 'MH014108'),
        ('005', 19.0650, 72.8680, 'suv', 49, 'MH015520'),
        ('006', 19.0540, 72.8320, 'bike', 41, 'MH016647'),
        ('007', 19.2183, 72.8479, 'mini', 39, 'MH017015'),
        ('008', 19.2080, 72.8380, 'prime', 47, 'MH018834'),
        ('009', 19.2183, 72.9781, 'auto', 38, 'MH019276'),
        ('010', 19.1950, 72.9600, 'mini', 44, 'MH010953');
"];

/// Somebody with a car.
#[derive(Clone, Debug, PartialEq)]
pub struct Driver {
    /// Who.
    pub id: String,
    /// Where.
    pub point: Point,
    /// With what.
    pub ride_type: RideType,
    /// How well rated, in tenths.
    pub rating: u8,
    /// The number plate.
    pub vehicle: String,
}

impl Located for Driver {
    fn point(&self) -> Point {
        self.point
    }

    fn rating(&self) -> u8 {
        self.rating
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// What became of a wish for a driver.
#[derive(Clone, Debug, PartialEq)]
pub enum Hold {
    /// This one is bound.
    Bound(Driver),
    /// Nobody suitable is near and free.
    Nobody,
    /// A bond has run out that may have to be renewed.
    RenewFirst,
    /// The ride was released before.
    Over,
}

/// The drivers.
#[derive(Clone, Debug)]
pub struct Fleet {
    store: Store,
}

impl Fleet {
    /// Those in a store with [`MIGRATIONS`].
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Free drivers around a place with their distances, the best first.
    pub async fn shown(
        &self,
        at: Place,
        ride_type: Option<RideType>,
        now: Moment,
    ) -> Result<Vec<(Driver, f64)>, StoreError> {
        let free = self.store.read(move |connection| free(connection, at.point(), SHOWN_KM, ride_type, now));
        Ok(nearby::nearest(free.await?, at.point(), SHOWN_KM, SHOWN))
    }

    /// Binds a driver to a ride, by the [module's rule](self).
    pub async fn hold(
        &self,
        ride_id: String,
        ride_type: RideType,
        pickup: Place,
        now: Moment,
    ) -> Result<Hold, StoreError> {
        self.store.write(move |transaction| hold(transaction, &ride_id, ride_type, pickup.point(), now)).await
    }

    /// Makes a hold last. `false`: the hold is lost.
    pub async fn confirm(&self, ride_id: String, driver_id: String, now: Moment) -> Result<bool, StoreError> {
        let confirm = "UPDATE assignments SET state = 'confirmed', until = ?3
            WHERE ride_id = ?1 AND driver_id = ?2 AND state <> 'released'";
        let until = now.after(BOUND).unix();
        let confirmed =
            self.store.write(move |transaction| transaction.execute(confirm, (ride_id, driver_id, until)));
        Ok(confirmed.await? == 1)
    }

    /// Makes the bonds of these rides last longer. With the last of them, every bond that has run out is
    /// over. Tells which rides have no bond any more, and none can be made, because the driver has another.
    pub async fn renew(
        &self,
        rides: Vec<(String, String)>,
        is_last: bool,
        now: Moment,
    ) -> Result<Vec<String>, StoreError> {
        self.store.write(move |transaction| renew(transaction, rides, is_last, now)).await
    }

    /// Frees the driver of a ride, who is at `at` now, if that is said.
    pub async fn release(&self, ride_id: String, at: Option<Place>, now: Moment) -> Result<(), StoreError> {
        let at = at.map(Place::point);
        self.store.write(move |transaction| release(transaction, &ride_id, at, now)).await
    }
}

/// Free drivers in the square around a point; some of its corners are farther away than `km`.
fn free(
    connection: &Connection,
    around: Point,
    km: f64,
    ride_type: Option<RideType>,
    now: Moment,
) -> rusqlite::Result<Vec<Driver>> {
    let (south_west, north_east) = around.square(km);
    let free = "SELECT driver_id, lat, lng, ride_type, rating, vehicle FROM drivers
        WHERE lat BETWEEN :south AND :north AND lng BETWEEN :west AND :east
        AND (:ride_type IS NULL OR ride_type = :ride_type)
        AND NOT EXISTS (
            SELECT 1 FROM assignments AS a WHERE a.driver_id = drivers.driver_id
            AND a.state <> 'released' AND a.until > :now
            AND a.until <= CASE a.state WHEN 'held' THEN :latest_hold ELSE :latest_bond END)";
    let mut statement = connection.prepare(free)?;
    let drivers = statement.query_map(
        named_params! {
            ":south": south_west.lat(), ":west": south_west.lng(),
            ":north": north_east.lat(), ":east": north_east.lng(),
            ":ride_type": ride_type.map(RideType::as_str),
            ":now": now.unix(),
            ":latest_hold": latest(now, HELD).unix(), ":latest_bond": latest(now, BOUND).unix(),
        },
        driver,
    )?;
    drivers.collect()
}

/// Nothing that was promised for so long by this clock ends later.
fn latest(now: Moment, promised: Duration) -> Moment {
    now.after(promised + SLACK)
}

/// Those of the state that have run out.
const RUN_OUT: &str = "state = ?1 AND (until <= ?2 OR until > ?3)";

fn hold(
    transaction: &Transaction<'_>,
    ride_id: &str,
    ride_type: RideType,
    pickup: Point,
    now: Moment,
) -> rusqlite::Result<Hold> {
    let over = format!("DELETE FROM assignments WHERE {RUN_OUT}");
    transaction.execute(&over, ("held", now.unix(), latest(now, HELD).unix()))?;
    let in_doubt = format!("SELECT 1 FROM assignments WHERE {RUN_OUT} LIMIT 1");
    let in_doubt =
        transaction.query_row(&in_doubt, ("confirmed", now.unix(), latest(now, BOUND).unix()), |_| Ok(()));
    if in_doubt.optional()?.is_some() {
        return Ok(Hold::RenewFirst);
    }
    let known = "SELECT driver_id FROM assignments WHERE ride_id = ?1 AND state = 'released'";
    if transaction.query_row(known, [ride_id], |_| Ok(())).optional()?.is_some() {
        return Ok(Hold::Over);
    }
    let until = now.after(HELD).unix();
    let renew = "UPDATE assignments SET until = ?2 WHERE ride_id = ?1 AND state = 'held'";
    transaction.execute(renew, (ride_id, until))?;
    let bound = "SELECT d.driver_id, lat, lng, ride_type, rating, vehicle
        FROM assignments JOIN drivers AS d USING (driver_id) WHERE ride_id = ?1";
    if let Some(bound) = transaction.query_row(bound, [ride_id], driver).optional()? {
        return Ok(Hold::Bound(bound));
    }
    let free = free(transaction, pickup, SENT_KM, Some(ride_type), now)?;
    let Some((best, _)) = nearby::nearest(free, pickup, SENT_KM, 1).pop() else { return Ok(Hold::Nobody) };
    let bind = "INSERT INTO assignments VALUES (?1, ?2, 'held', ?3)";
    transaction.execute(bind, (ride_id, &best.id, until))?;
    Ok(Hold::Bound(best))
}

fn renew(
    transaction: &Transaction<'_>,
    rides: Vec<(String, String)>,
    is_last: bool,
    now: Moment,
) -> rusqlite::Result<Vec<String>> {
    let until = now.after(BOUND).unix();
    let renew = "UPDATE assignments SET until = ?3
        WHERE ride_id = ?1 AND driver_id = ?2 AND state = 'confirmed'";
    let bind = "INSERT OR IGNORE INTO assignments VALUES (?1, ?2, 'confirmed', ?3)";
    let mut lost = Vec::new();
    for (ride_id, driver_id) in rides {
        let ride = (&ride_id, &driver_id, until);
        if transaction.execute(renew, ride)? + transaction.execute(bind, ride)? == 0 {
            lost.push(ride_id);
        }
    }
    if is_last {
        let over = format!("DELETE FROM assignments WHERE {RUN_OUT}");
        transaction.execute(&over, ("confirmed", now.unix(), latest(now, BOUND).unix()))?;
    }
    Ok(lost)
}

fn release(
    transaction: &Transaction<'_>,
    ride_id: &str,
    at: Option<Point>,
    now: Moment,
) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM assignments WHERE state = 'released' AND until <= ?1", [now.unix()])?;
    if let Some(at) = at {
        let moved = "UPDATE drivers SET lat = ?2, lng = ?3 WHERE driver_id =
            (SELECT driver_id FROM assignments WHERE ride_id = ?1 AND state <> 'released')";
        transaction.execute(moved, (ride_id, at.lat(), at.lng()))?;
    }
    let released = "INSERT INTO assignments VALUES (?1, NULL, 'released', ?2)
        ON CONFLICT (ride_id) DO UPDATE SET state = 'released', until = ?2 WHERE state <> 'released'";
    transaction.execute(released, (ride_id, now.after(REMEMBERED).unix()))?;
    Ok(())
}

fn driver(row: &Row<'_>) -> rusqlite::Result<Driver> {
    let foreign = |column, error: Box<dyn std::error::Error + Send + Sync>| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error)
    };
    Ok(Driver {
        id: row.get(0)?,
        point: Point::new(row.get(1)?, row.get(2)?).map_err(|error| foreign(1, error.into()))?,
        ride_type: row
            .get::<_, String>(3)?
            .parse()
            .map_err(|error: crate::rules::fare::UnknownRideType| foreign(3, error.into()))?,
        rating: row.get(4)?,
        vehicle: row.get(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(lat: f64, lng: f64) -> Place {
        Place::at(Point::new(lat, lng).unwrap()).unwrap()
    }

    fn at(time: &str) -> Moment {
        format!("2026-01-15T{time}+05:30").parse().unwrap()
    }

    fn dadar() -> Place {
        place(19.0178, 72.8478)
    }

    fn bandra() -> Place {
        place(19.0760, 72.8777)
    }

    fn fleet() -> (Fleet, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (Fleet::new(Store::open(&folder.path().join("driver.db"), MIGRATIONS).unwrap()), folder)
    }

    async fn shown(fleet: &Fleet, ride_type: Option<RideType>, time: &str) -> Vec<(String, f64)> {
        let shown = fleet.shown(dadar(), ride_type, at(time)).await.unwrap();
        shown.into_iter().map(|(driver, km)| (driver.id, (km * 100.0).round() / 100.0)).collect()
    }

    async fn hold(fleet: &Fleet, ride_id: &str, time: &str) -> Option<String> {
        match fleet.hold(ride_id.into(), RideType::Suv, bandra(), at(time)).await.unwrap() {
            Hold::Bound(driver) => Some(driver.id),
            Hold::Nobody | Hold::Over | Hold::RenewFirst => None,
        }
    }

    async fn confirm(fleet: &Fleet, ride_id: &str, driver_id: &str) -> bool {
        fleet.confirm(ride_id.into(), driver_id.into(), at("12:00:00")).await.unwrap()
    }

    #[tokio::test]
    async fn r2_13_golden_drivers_near_dadar() {
        let (fleet, _folder) = fleet();
        let golden = [("006", 4.35), ("005", 5.66), ("004", 7.19), ("002", 9.62)];
        let golden = golden.map(|(id, km)| (id.to_owned(), km));
        assert_eq!(shown(&fleet, None, "12:00").await, golden);
        assert_eq!(shown(&fleet, Some(RideType::Mini), "12:00").await, golden[2..3]);
        assert_eq!(shown(&fleet, Some(RideType::Outstation), "12:00").await, []);
    }

    #[tokio::test]
    async fn r2_13_a_driver_is_sent_within_five_kilometres_only() {
        let (fleet, _folder) = fleet();
        for ride_type in RideType::ALL {
            let hold = fleet.hold(ride_type.to_string(), ride_type, dadar(), at("12:00")).await.unwrap();
            match ride_type {
                RideType::Bike => assert!(matches!(hold, Hold::Bound(driver) if driver.id == "006")),
                _ => assert_eq!(hold, Hold::Nobody, "{ride_type}"),
            }
        }
    }

    #[tokio::test]
    async fn one_driver_has_one_ride() {
        let (fleet, _folder) = fleet();
        assert_eq!(hold(&fleet, "a", "12:00:00").await.as_deref(), Some("005"));
        assert_eq!(hold(&fleet, "b", "12:00:00").await, None);
        assert_eq!(hold(&fleet, "a", "12:00:00").await.as_deref(), Some("005"), "asked again, the same");
        assert!(confirm(&fleet, "a", "005").await);
        assert_eq!(hold(&fleet, "a", "12:09:59").await.as_deref(), Some("005"));
        assert_eq!(hold(&fleet, "b", "12:09:59").await, None);
        assert!(!shown(&fleet, None, "12:09:59").await.iter().any(|(id, _)| id == "005"));
    }

    async fn renew(fleet: &Fleet, rides: &[(&str, &str)], time: &str) -> Vec<String> {
        let rides = rides.iter().map(|&(ride, driver)| (ride.into(), driver.into())).collect();
        fleet.renew(rides, true, at(time)).await.unwrap()
    }

    async fn wants_renewal(fleet: &Fleet, time: &str) -> bool {
        let hold = fleet.hold("z".into(), RideType::Suv, bandra(), at(time)).await.unwrap();
        hold == Hold::RenewFirst
    }

    #[tokio::test]
    async fn r2_15_a_bond_that_nobody_renews_ends() {
        let (fleet, _folder) = fleet();
        assert!(hold(&fleet, "a", "12:00:00").await.is_some());
        assert!(confirm(&fleet, "a", "005").await);
        assert_eq!(renew(&fleet, &[("a", "005")], "12:09:00").await, [""; 0]);
        assert_eq!(hold(&fleet, "b", "12:18:59").await, None);
        assert!(shown(&fleet, None, "12:19:00").await.iter().any(|(id, _)| id == "005"));
        // It may be one that could not be renewed: who wants to know asks for that.
        assert!(wants_renewal(&fleet, "12:19:00").await);
        assert_eq!(renew(&fleet, &[], "12:19:00").await, [""; 0]);
        assert_eq!(hold(&fleet, "b", "12:19:00").await.as_deref(), Some("005"));
        assert_eq!(renew(&fleet, &[("a", "005")], "12:19:01").await, ["a"], "another has the driver");
    }

    #[tokio::test]
    async fn r2_15_a_bond_that_could_not_be_renewed_in_time_is_not_given_away() {
        let (fleet, _folder) = fleet();
        assert!(hold(&fleet, "a", "12:00:00").await.is_some());
        assert!(confirm(&fleet, "a", "005").await);
        assert!(wants_renewal(&fleet, "12:30:00").await);
        assert_eq!(renew(&fleet, &[("a", "005")], "12:30:00").await, [""; 0]);
        assert!(!wants_renewal(&fleet, "12:30:00").await);
        assert_eq!(hold(&fleet, "b", "12:30:00").await, None);
        // Also one that was lost here altogether.
        fleet.store.write(|transaction| transaction.execute("DELETE FROM assignments", ())).await.unwrap();
        assert_eq!(renew(&fleet, &[("a", "005")], "12:30:00").await, [""; 0]);
        assert_eq!(hold(&fleet, "b", "12:30:00").await, None);
    }

    #[tokio::test]
    async fn what_is_released_is_not_renewed() {
        let (fleet, _folder) = fleet();
        assert!(hold(&fleet, "a", "12:00:00").await.is_some());
        assert!(confirm(&fleet, "a", "005").await);
        fleet.release("a".into(), None, at("12:00:00")).await.unwrap();
        assert_eq!(renew(&fleet, &[("a", "005")], "12:00:00").await, ["a"]);
        assert!(hold(&fleet, "b", "12:00:00").await.is_some());
    }

    /// A hold of November must not outlast a clock that shows January again.
    #[tokio::test]
    async fn a_clock_that_was_set_back_holds_nobody_for_long() {
        let (fleet, _folder) = fleet();
        assert!(hold(&fleet, "a", "18:00:00").await.is_some());
        assert!(shown(&fleet, None, "12:00").await.iter().any(|(id, _)| id == "005"));
        assert!(hold(&fleet, "b", "12:00:00").await.is_some());
        assert_eq!(
            hold(&fleet, "c", "11:59:30").await,
            None,
            "a clock that is corrected is none that was set"
        );
    }

    #[tokio::test]
    async fn a_hold_runs_out() {
        let (fleet, _folder) = fleet();
        assert!(hold(&fleet, "a", "12:00:00").await.is_some());
        assert_eq!(hold(&fleet, "b", "12:00:29").await, None);
        assert!(shown(&fleet, None, "12:00:30").await.iter().any(|(id, _)| id == "005"));
        assert!(hold(&fleet, "b", "12:00:30").await.is_some());
        assert!(!confirm(&fleet, "a", "005").await, "another has it");
        assert!(confirm(&fleet, "b", "005").await);
    }

    #[tokio::test]
    async fn a_hold_that_ran_out_is_confirmed_if_nobody_took_the_driver() {
        let (fleet, _folder) = fleet();
        assert!(hold(&fleet, "a", "11:59:00").await.is_some());
        assert!(confirm(&fleet, "a", "005").await);
        assert_eq!(hold(&fleet, "b", "12:09:00").await, None);
        assert!(!confirm(&fleet, "a", "004").await, "it is another driver's");
    }

    #[tokio::test]
    async fn a_release_frees_the_driver_of_that_ride_and_no_other() {
        let (fleet, _folder) = fleet();
        assert!(hold(&fleet, "a", "12:00:00").await.is_some());
        fleet.release("b".into(), None, at("12:00")).await.unwrap();
        assert_eq!(hold(&fleet, "c", "12:00:00").await, None);
        fleet.release("a".into(), None, at("12:00")).await.unwrap();
        assert!(hold(&fleet, "c", "12:00:00").await.is_some());
        fleet.release("a".into(), None, at("12:00")).await.unwrap(); // A second time, with c's driver.
        assert_eq!(hold(&fleet, "d", "12:00:00").await, None);
    }

    #[tokio::test]
    async fn a_released_ride_binds_nobody_whatever_arrives_late() {
        let (fleet, _folder) = fleet();
        fleet.release("a".into(), None, at("12:00")).await.unwrap();
        let late = fleet.hold("a".into(), RideType::Suv, bandra(), at("12:00")).await.unwrap();
        assert_eq!(late, Hold::Over);
        assert!(!confirm(&fleet, "a", "005").await);
        assert!(hold(&fleet, "b", "12:00:00").await.is_some());
    }

    #[tokio::test]
    async fn a_driver_is_free_where_the_ride_ended() {
        let (fleet, _folder) = fleet();
        assert!(hold(&fleet, "a", "12:00:00").await.is_some());
        fleet.release("a".into(), Some(dadar()), at("12:30")).await.unwrap();
        fleet.release("a".into(), Some(bandra()), at("12:31")).await.unwrap();
        assert_eq!(shown(&fleet, Some(RideType::Suv), "12:31").await, [("005".to_owned(), 0.0)]);
    }

    #[tokio::test]
    async fn what_is_released_is_forgotten_after_a_day() {
        let (fleet, _folder) = fleet();
        for n in 0..10 {
            fleet.release(n.to_string(), None, at("12:00")).await.unwrap();
        }
        let next_day = at("12:00").after(REMEMBERED);
        fleet.release("last".into(), None, next_day).await.unwrap();
        let count = "SELECT count(*) FROM assignments";
        let left = fleet.store.read(|connection| connection.query_row(count, (), |row| row.get::<_, u32>(0)));
        assert_eq!(left.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn r2_14_of_a_hundred_at_once_one_has_the_driver() {
        let (fleet, _folder) = fleet();
        let holds = (0..100).map(|n| {
            let fleet = fleet.clone();
            tokio::spawn(async move { hold(&fleet, &n.to_string(), "12:00:00").await })
        });
        let mut bound = 0;
        for hold in holds.collect::<Vec<_>>() {
            bound += u32::from(hold.await.unwrap().is_some());
        }
        assert_eq!(bound, 1);
    }
}
