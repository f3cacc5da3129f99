//! What a ride costs.
//!
//! # Rule
//! - kilometres: the great circle from pickup to drop, not rounded;
//! - minutes: kilometres at [`SPEED_KM_PER_HOUR`], times the travel-time factor of the pickup's zone,
//!   the fraction cut off;
//! - fare: (base + kilometres × rate + minutes × per-minute) × the fare factor of the pickup's zone ×
//!   surge, rounded half up to paise once, at the end.
//!
//! # State
//! None: the same trip at the same time costs the same.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{
    geo::Place,
    moment::Moment,
    money::{Factor, Money},
};

/// How fast a ride goes where the travel-time factor is 1.
pub const SPEED_KM_PER_HOUR: f64 = 25.0;

/// What is asked in [surge](surge_at).
pub const SURGE: Factor = Factor::from_tenths(15);

/// A kind of vehicle, with a tariff of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RideType {
    /// A small car.
    Mini,
    /// A sedan.
    Prime,
    /// A large car.
    Suv,
    /// An auto-rickshaw.
    Auto,
    /// A motorcycle.
    Bike,
    /// A car for long ways; its minutes cost nothing.
    Outstation,
}

struct Tariff {
    base: Money,
    per_km: Money,
    per_minute: Money,
}

impl RideType {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Mini, Self::Prime, Self::Suv, Self::Auto, Self::Bike, Self::Outstation];

    /// As in requests and answers: `mini`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mini => "mini",
            Self::Prime => "prime",
            Self::Suv => "suv",
            Self::Auto => "auto",
            Self::Bike => "bike",
            Self::Outstation => "outstation",
        }
    }

    const fn tariff(self) -> Tariff {
        // In paise.
        let (base, per_km, per_minute) = match self {
            Self::Mini => (2_500, 1_000, 150),
            Self::Prime => (5_000, 1_500, 200),
            Self::Suv => (8_000, 2_000, 250),
            Self::Auto => (2_000, 1_200, 100),
            Self::Bike => (1_500, 800, 100),
            Self::Outstation => (20_000, 2_500, 0),
        };
        Tariff {
            base: Money::from_paise(base),
            per_km: Money::from_paise(per_km),
            per_minute: Money::from_paise(per_minute),
        }
    }
}

impl fmt::Display for RideType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for RideType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RideType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl FromStr for RideType {
    type Err = UnknownRideType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| UnknownRideType { text: text.to_owned() })
    }
}

/// A ride type that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownRideType {
    text: String,
}

impl fmt::Display for UnknownRideType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = RideType::ALL.map(RideType::as_str).join(", ");
        write!(f, "{:?} is not a ride type; there are {known}", self.text)
    }
}

impl Error for UnknownRideType {}

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trip {
    /// Where it starts; its zone decides the factors.
    pub pickup: Place,
    /// Where it ends.
    pub drop: Place,
}

/// What a trip costs, and how that came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Quote {
    /// The kind of vehicle.
    pub ride_type: RideType,
    /// What it costs.
    pub fare: Money,
    /// The way, not rounded.
    pub distance_km: f64,
    /// How long it takes.
    pub minutes: u32,
    /// The surge that the fare contains.
    pub surge: Factor,
    /// The parts of the fare.
    pub breakdown: Breakdown,
}

/// The parts of a fare, each rounded for reading: the fare is not made of these, but rounded once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Breakdown {
    /// For getting in.
    pub base: Money,
    /// For the kilometres.
    pub distance: Money,
    /// For the minutes.
    pub time: Money,
    /// What all three are multiplied by, because of the pickup's zone.
    pub zone_factor: Factor,
}

/// What the trip costs at that time, by the [module's rule](self).
pub fn quote(trip: Trip, ride_type: RideType, at: Moment) -> Quote {
    let Tariff { base, per_km, per_minute } = ride_type.tariff();
    let Trip { pickup, drop } = trip;
    let distance_km = pickup.point().km_to(drop.point());
    let minutes = minutes(distance_km, pickup.zone().travel_time());
    let (zone, surge) = (pickup.zone().fare(), surge_at(at));

    let distance = distance_km * in_paise(per_km);
    let time = f64::from(minutes) * in_paise(per_minute);
    let fare = (in_paise(base) + distance + time) * (zone.tenths() * surge.tenths()) / 100.0;

    let breakdown =
        Breakdown { base, distance: Money::rounded(distance), time: Money::rounded(time), zone_factor: zone };
    Quote { ride_type, fare: Money::rounded(fare), distance_km, minutes, surge, breakdown }
}

/// [`SURGE`] from 8 to 11 and from 18 to 21 o'clock in India, the last moment not included.
pub fn surge_at(at: Moment) -> Factor {
    match at.in_india().hour {
        8..11 | 18..21 => SURGE,
        _ => Factor::ONE,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "cutting off is the rule, and the cast saturates"
)]
fn minutes(km: f64, travel_time: Factor) -> u32 {
    (km / SPEED_KM_PER_HOUR * 60.0 * travel_time.tenths() / 10.0) as u32
}

#[expect(clippy::cast_precision_loss, reason = "tariffs are far below 2^53 paise")]
fn in_paise(money: Money) -> f64 {
    money.paise() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::geo::Point;

    fn at(time: &str) -> Moment {
        format!("2026-01-15T{time}+05:30").parse().unwrap()
    }

    fn trip(pickup: (f64, f64), drop: (f64, f64)) -> Trip {
        let place = |(lat, lng)| Place::at(Point::new(lat, lng).unwrap()).unwrap();
        Trip { pickup: place(pickup), drop: place(drop) }
    }

    const FORT: (f64, f64) = (18.9220, 72.8342);
    const BANDRA: (f64, f64) = (19.0760, 72.8777);
    const VASHI: (f64, f64) = (19.0330, 73.0297);

    #[test]
    fn golden_fares_from_fort_to_bandra() {
        let golden = [
            (RideType::Mini, "541.86", "812.80"),
            (RideType::Prime, "791.80", "1187.69"),
            (RideType::Suv, "1049.23", "1573.84"),
            (RideType::Auto, "508.04", "762.06"),
            (RideType::Bike, "394.19", "591.29"),
            (RideType::Outstation, "964.66", "1446.99"),
        ];
        for (ride_type, off_peak, surge) in golden {
            let fare = |time| quote(trip(FORT, BANDRA), ride_type, at(time)).fare.to_string();
            assert_eq!((fare("12:00").as_str(), fare("08:00").as_str()), (off_peak, surge), "{ride_type}");
        }
    }

    #[test]
    fn a_quote_says_how_it_came_about() {
        let quote = quote(trip(FORT, BANDRA), RideType::Mini, at("12:00"));
        assert_eq!((quote.minutes, quote.surge), (106, Factor::ONE));
        assert!((quote.distance_km - 17.724).abs() < 0.0005);
        let Breakdown { base, distance, time, zone_factor } = quote.breakdown;
        let shown = [base, distance, time].map(|it| it.to_string());
        assert_eq!(shown, ["25.00", "177.24", "159.00"]);
        assert_eq!(zone_factor.to_string(), "1.5");
    }

    #[test]
    fn the_zone_of_the_pickup_decides() {
        // The same way back, from a zone with other factors: 16.676 km, 60 and 80 minutes.
        let there = quote(trip(VASHI, BANDRA), RideType::Mini, at("12:00"));
        let back = quote(trip(BANDRA, VASHI), RideType::Mini, at("12:00"));
        assert_eq!((there.minutes, there.breakdown.zone_factor.to_string().as_str()), (60, "0.9"));
        assert_eq!((back.minutes, back.breakdown.zone_factor.to_string().as_str()), (80, "1.2"));
    }

    #[test]
    fn no_way_costs_the_base() {
        let quote = quote(trip(BANDRA, BANDRA), RideType::Mini, at("12:00"));
        assert_eq!((quote.minutes, quote.fare.to_string().as_str()), (0, "30.00")); // 25 × 1.2
    }

    #[test]
    fn edges_of_surge() {
        let golden = [
            ("00:00:00", false),
            ("07:59:59", false),
            ("08:00:00", true),
            ("10:59:59", true),
            ("11:00:00", false),
            ("17:59:59", false),
            ("18:00:00", true),
            ("20:59:59", true),
            ("21:00:00", false),
        ];
        for (time, surges) in golden {
            assert_eq!(surge_at(at(time)), if surges { SURGE } else { Factor::ONE }, "{time}");
        }
    }

    #[test]
    fn surge_is_told_by_the_clocks_of_india() {
        let utc = |text: &str| surge_at(text.parse().unwrap());
        assert_eq!(utc("2026-01-15T02:29:59Z"), Factor::ONE); // 07:59:59 in India
        assert_eq!(utc("2026-01-15T02:30:00Z"), SURGE);
        assert_eq!(utc("2026-01-15T08:30:00Z"), Factor::ONE); // 14:00
    }

    #[test]
    fn ride_types_have_names() {
        for ride_type in RideType::ALL {
            assert_eq!(ride_type.to_string().parse(), Ok(ride_type));
        }
        let unknown = "Mini".parse::<RideType>().unwrap_err().to_string();
        assert_eq!(
            unknown,
            "\"Mini\" is not a ride type; there are mini, prime, suv, auto, bike, outstation"
        );
    }
}
