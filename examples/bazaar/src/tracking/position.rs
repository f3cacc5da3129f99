//! Where a car is.
//!
//! # Rule
//! There are no cars here, so nobody reports where one is: it is where it would be if it drove straight,
//! and as fast as was said. Bound to a ride, it stands where it was; on the way to the rider it takes the
//! minutes that were announced; with the rider in it, those of the quote. It is never farther than where it goes.
//!
//! # State
//! None: the time is an argument.

use crate::{
    kernel::ask::Coordinates,
    rules::{moment::Moment, ride::State},
};

/// What a car does for a ride.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// How far the ride has come.
    pub state: State,
    /// Since when.
    pub since: Moment,
    /// Where the car was when it was bound to the ride.
    pub from: Coordinates,
    /// Where the rider waits.
    pub pickup: Coordinates,
    /// Where the rider wants to go.
    pub drop: Coordinates,
    /// How long the car takes to the rider.
    pub to_pickup_minutes: u32,
    /// How long it takes with the rider.
    pub to_drop_minutes: u32,
}

/// Where a car is, and when it is where it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whereabouts {
    /// Where it is.
    pub position: Coordinates,
    /// What it goes to; nothing, once it is there for good.
    pub to: Option<End>,
    /// How long it takes to there, rounded up.
    pub eta_minutes: u32,
}

/// An end of a ride.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Where the rider gets in.
    Pickup,
    /// Where the rider gets out.
    Drop,
}

/// Where the car of a ride is; nowhere that would concern the rider, if there is no ride any more.
pub fn whereabouts(way: &Way, now: Moment) -> Option<Whereabouts> {
    let Way { state, since, from, pickup, drop, to_pickup_minutes, to_drop_minutes } = *way;
    let driven = now.unix().saturating_sub(since.unix()).max(0);
    let (start, end, to, minutes, driven) = match state {
        State::Assigned => (from, pickup, End::Pickup, to_pickup_minutes, 0),
        State::Arriving => (from, pickup, End::Pickup, to_pickup_minutes, driven),
        State::OnTrip => (pickup, drop, End::Drop, to_drop_minutes, driven),
        State::Completed => return Some(Whereabouts { position: drop, to: None, eta_minutes: 0 }),
        State::Requested | State::Cancelled | State::NoDriver => return None,
    };
    let whole = i64::from(minutes) * 60;
    let driven = driven.min(whole);
    let left = u32::try_from((whole - driven + 59) / 60).unwrap_or(minutes);
    Some(Whereabouts { position: between(start, end, driven, whole), to: Some(to), eta_minutes: left })
}

/// On a straight line over the map: over a city, that is a great circle but for some metres.
#[expect(clippy::cast_precision_loss, reason = "seconds of a ride are far below 2^53")]
fn between(start: Coordinates, end: Coordinates, part: i64, whole: i64) -> Coordinates {
    let share = if whole == 0 { 1.0 } else { part as f64 / whole as f64 };
    let mix = |from: f64, to: f64| from + (to - from) * share;
    let (lat, lng) = (mix(start.lat, end.lat), mix(start.lng, end.lng));
    let rounded = |degrees: f64| (degrees * 1e5).round() / 1e5; // A metre.
    Coordinates { lat: rounded(lat), lng: rounded(lng) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Coordinates = Coordinates { lat: 19.0, lng: 72.8 };
    const PICKUP: Coordinates = Coordinates { lat: 19.1, lng: 72.9 };
    const DROP: Coordinates = Coordinates { lat: 19.2, lng: 72.7 };

    fn at(time: &str) -> Moment {
        format!("2026-01-15T{time}+05:30").parse().unwrap()
    }

    fn seen(state: State, time: &str) -> Option<((f64, f64), Option<End>, u32)> {
        let (since, to_pickup_minutes, to_drop_minutes) = (at("12:00:00"), 10, 40);
        let way =
            Way { state, since, from: FROM, pickup: PICKUP, drop: DROP, to_pickup_minutes, to_drop_minutes };
        let Whereabouts { position: Coordinates { lat, lng }, to, eta_minutes } =
            whereabouts(&way, at(time))?;
        Some(((lat, lng), to, eta_minutes))
    }

    #[test]
    fn a_car_drives_as_was_said() {
        use State::{Arriving, Assigned, Completed, OnTrip};
        let (to_pickup, to_drop) = (Some(End::Pickup), Some(End::Drop));
        let golden = [
            (Assigned, "12:00:00", (19.0, 72.8), to_pickup, 10),
            (Assigned, "12:30:00", (19.0, 72.8), to_pickup, 10),
            (Arriving, "12:00:00", (19.0, 72.8), to_pickup, 10),
            (Arriving, "12:00:01", (19.00017, 72.80017), to_pickup, 10),
            (Arriving, "12:05:00", (19.05, 72.85), to_pickup, 5),
            (Arriving, "12:09:59", (19.09983, 72.89983), to_pickup, 1),
            (Arriving, "12:10:00", (19.1, 72.9), to_pickup, 0),
            (Arriving, "13:00:00", (19.1, 72.9), to_pickup, 0),
            (OnTrip, "12:10:00", (19.125, 72.85), to_drop, 30),
            (OnTrip, "12:40:00", (19.2, 72.7), to_drop, 0),
            (Completed, "12:00:00", (19.2, 72.7), None, 0),
        ];
        for (state, time, position, to, eta) in golden {
            assert_eq!(seen(state, time), Some((position, to, eta)), "{state} at {time}");
        }
    }

    #[test]
    fn a_clock_that_went_back_drives_nobody_back() {
        assert_eq!(seen(State::Arriving, "11:00:00"), Some(((19.0, 72.8), Some(End::Pickup), 10)));
    }

    #[test]
    fn without_a_ride_there_is_nothing_to_see() {
        for state in [State::Requested, State::Cancelled, State::NoDriver] {
            assert_eq!(seen(state, "12:00:00"), None);
        }
    }
}
