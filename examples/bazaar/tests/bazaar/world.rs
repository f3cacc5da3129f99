//! The services of the rides, with files of their own, and what riders do with them.

use std::{net::SocketAddr, path::Path};

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http::{Answer, Ask, get, post},
    middleman::Middleman,
    process::{Process, eventually, free_address},
};

pub(crate) const NOON: &str = "2026-01-15T12:00:00+05:30";

/// A service that runs.
pub(crate) struct Service {
    pub(crate) process: Process,
    pub(crate) at: SocketAddr,
}

impl Service {
    /// Starts it, at that address or a free one.
    pub(crate) fn start(name: &str, data: &Path, at: Option<SocketAddr>, now: &str, more: &[&str]) -> Self {
        let (data, at) = (data.to_str().unwrap(), at.unwrap_or_else(free_address).to_string());
        let mut args = vec![name, "--listen", &at, "--now", now, "--data", data, "--stop-with-stdin"];
        args.extend(more);
        let mut process = Process::start(&args);
        let line = process.line_with("listens on");
        let at = line.split(['/', ',']).nth(2).and_then(|it| it.parse().ok());
        Self { at: at.unwrap_or_else(|| panic!("no address in {line:?}")), process }
    }

    pub(crate) fn is_dead(&mut self) -> bool {
        self.process.child.try_wait().unwrap().is_some()
    }

    /// As a crash would.
    pub(crate) fn kill(&mut self) {
        _ = self.process.child.kill(); // It may be dead already.
        self.process.end();
    }
}

/// Pricing, drivers, tracking and booking; booking asks the others through middlemen.
pub(crate) struct World {
    pub(crate) data: TempDir,
    pub(crate) pricing: Service,
    pub(crate) driver: Service,
    pub(crate) tracking: Service,
    pub(crate) booking: Service,
    pub(crate) to_pricing: Middleman,
    pub(crate) to_driver: Middleman,
    pub(crate) to_tracking: Middleman,
    more: Vec<String>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// Booking is told more.
    pub(crate) fn with(more: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let start = |name| Service::start(name, data.path(), None, NOON, &[]);
        let [pricing, driver, tracking] = ["pricing", "driver", "tracking"].map(start);
        let [to_pricing, to_driver, to_tracking] =
            [&pricing, &driver, &tracking].map(|service| Middleman::before(service.at));
        let peers = [("pricing", &to_pricing), ("driver", &to_driver), ("tracking", &to_tracking)];
        let peers = peers.into_iter().flat_map(|(name, it)| [format!("--{name}"), it.at.to_string()]);
        let more = peers.chain(more.iter().map(|&it| it.to_owned())).collect::<Vec<_>>();
        let booking = start_booking(data.path(), None, NOON, &more);
        Self { data, pricing, driver, tracking, booking, to_pricing, to_driver, to_tracking, more }
    }

    /// Kills it, if it still lives, and starts it where it was, at that time.
    pub(crate) fn restart_booking(&mut self, now: &str) {
        self.booking.kill();
        self.booking = start_booking(self.data.path(), Some(self.booking.at), now, &self.more);
    }

    pub(crate) fn restart_pricing(&mut self, now: &str) {
        self.pricing.kill();
        self.pricing = Service::start("pricing", self.data.path(), Some(self.pricing.at), now, &[]);
    }

    pub(crate) fn restart_driver(&mut self, now: &str) {
        self.driver.kill();
        self.driver = Service::start("driver", self.data.path(), Some(self.driver.at), now, &[]);
    }

    /// A quote for a [`trip`].
    pub(crate) fn quote(&self, ride_type: &str) -> Answer {
        post("/api/rides/estimate", &trip(ride_type)).send(self.pricing.at).expect(200)
    }

    /// A new quote, booked.
    pub(crate) fn book(&self, rider: &str, key: &str, ride_type: &str) -> Answer {
        booking(rider, key, &self.quote(ride_type).said("quote_id")).send(self.booking.at)
    }

    /// Another booking process on the same file.
    pub(crate) fn second_booking(&self) -> Service {
        start_booking(self.data.path(), None, NOON, &self.more)
    }

    /// Waits until a driver is shown to be free.
    #[track_caller]
    pub(crate) fn await_free(&self, driver_id: &str) {
        eventually("the driver is free", || self.is_free(driver_id).then_some(()));
    }

    /// What tracking shows, once it has heard of the ride.
    #[track_caller]
    pub(crate) fn await_track(&self, rider: &str, ride_id: &str) -> Answer {
        eventually("tracking hears of it", || {
            Some(self.track(rider, ride_id)).filter(|track| track.status == 200)
        })
    }

    pub(crate) fn ride(&self, rider: &str, ride_id: &str) -> Answer {
        get(&format!("/api/rides/{ride_id}")).by(rider).send(self.booking.at)
    }

    pub(crate) fn track(&self, rider: &str, ride_id: &str) -> Answer {
        get(&format!("/api/rides/{ride_id}/track")).by(rider).send(self.tracking.at)
    }

    pub(crate) fn cancel(&self, rider: &str, ride_id: &str) -> Answer {
        post(&format!("/api/rides/{ride_id}/cancel"), &Value::Null).by(rider).send(self.booking.at)
    }

    pub(crate) fn progress(&self, driver: &str, ride_id: &str, state: &str) -> Answer {
        let path = format!("/api/rides/{ride_id}/progress");
        post(&path, &json!({"state": state})).by(driver).send(self.booking.at)
    }

    /// Whether a driver near Bandra or Fort is shown to be free.
    pub(crate) fn is_free(&self, driver_id: &str) -> bool {
        [BANDRA, FORT].iter().any(|(lat, lng)| {
            let near =
                get(&format!("/api/drivers/nearby?lat={lat}&lng={lng}")).send(self.driver.at).expect(200);
            near.body["drivers"].as_array().unwrap().iter().any(|it| it["driver_id"] == driver_id)
        })
    }

    /// What a service has written down.
    pub(crate) fn count(&self, service: &str, sql: &str) -> u32 {
        let file = self.data.path().join(format!("{service}.db"));
        let file = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        file.query_row(sql, (), |row| row.get(0)).unwrap()
    }
}

fn start_booking(data: &Path, at: Option<SocketAddr>, now: &str, more: &[String]) -> Service {
    let more = more.iter().map(String::as_str).collect::<Vec<_>>();
    Service::start("booking", data, at, now, &more)
}

pub(crate) const FORT: (f64, f64) = (18.9220, 72.8342);
pub(crate) const BANDRA: (f64, f64) = (19.0760, 72.8777);

pub(crate) const DADAR: (f64, f64) = (19.0178, 72.8478);

/// From where a driver of that type is near; from Fort, if there is none anywhere.
pub(crate) fn trip(ride_type: &str) -> Value {
    let point = |(lat, lng): (f64, f64)| json!({"lat": lat, "lng": lng});
    let (from, to) = match ride_type {
        "suv" => (BANDRA, FORT),
        "bike" => (DADAR, FORT),
        _ => (FORT, BANDRA),
    };
    json!({"pickup": point(from), "drop": point(to), "ride_type": ride_type})
}

pub(crate) fn booking(rider: &str, key: &str, quote_id: &str) -> Ask {
    post("/api/rides/book", &json!({"quote_id": quote_id})).by(rider).header("idempotency-key", key)
}
