//! Where: coordinates, distances, and the zones of Mumbai.
//!
//! # Rule
//! Distances are great circles (haversine) on a sphere of [`EARTH_RADIUS_KM`]. The zone of a point is
//! the one with the nearest centre, and the point must lie within that zone's radius: another zone
//! that would reach it does not take over.

use std::{error::Error, fmt};

use serde::{Serialize, Serializer};

use crate::rules::money::Factor;

/// The mean radius of the earth, in kilometres.
pub const EARTH_RADIUS_KM: f64 = 6371.0088;

/// A point on the globe, in degrees; always a real one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    lat: f64,
    lng: f64,
}

impl Point {
    /// Takes a latitude of -90 to 90 and a longitude of -180 to 180, in that order.
    pub fn new(lat: f64, lng: f64) -> Result<Self, NotOnEarth> {
        if !(-90.0..=90.0).contains(&lat) {
            return Err(NotOnEarth { what: "latitude", value: lat, bound: 90 });
        }
        if !(-180.0..=180.0).contains(&lng) {
            return Err(NotOnEarth { what: "longitude", value: lng, bound: 180 });
        }
        Ok(Self { lat, lng })
    }

    /// In degrees to the north.
    pub const fn lat(self) -> f64 {
        self.lat
    }

    /// In degrees to the east.
    pub const fn lng(self) -> f64 {
        self.lng
    }

    /// The way to `other`, in kilometres.
    pub fn km_to(self, other: Self) -> f64 {
        let half_sine_squared = |from: f64, to: f64| ((to - from).to_radians() / 2.0).sin().powi(2);
        let cosines = self.lat.to_radians().cos() * other.lat.to_radians().cos();
        let chord = half_sine_squared(self.lat, other.lat) + cosines * half_sine_squared(self.lng, other.lng);
        // Rounding may carry opposite points a little above 1, where the arcsine is not a number.
        2.0 * EARTH_RADIUS_KM * chord.sqrt().min(1.0).asin()
    }

    /// The south-west and the north-east corner of a square that contains every point within `km`, for
    /// an index to look in; not around the poles, and not across the meridian where days begin.
    #[must_use]
    pub fn square(self, km: f64) -> (Self, Self) {
        let up = (km / EARTH_RADIUS_KM).to_degrees();
        let north = (self.lat.abs() + up).min(90.0); // Where a degree of longitude is the shortest.
        let right = up / north.to_radians().cos().max(f64::MIN_POSITIVE);
        let corner = |sign: f64| Self {
            lat: (self.lat + sign * up).clamp(-90.0, 90.0),
            lng: (self.lng + sign * right).clamp(-180.0, 180.0),
        };
        (corner(-1.0), corner(1.0))
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.lat, self.lng)
    }
}

/// A latitude or longitude that does not exist.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotOnEarth {
    what: &'static str,
    value: f64,
    bound: u8,
}

impl fmt::Display for NotOnEarth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, value, bound } = self;
        write!(f, "a {what} of {value} does not exist: it lies between -{bound} and {bound}")
    }
}

impl Error for NotOnEarth {}

/// A part of Mumbai with its own traffic and prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Zone {
    /// Fort, Colaba, Marine Lines.
    SouthMumbai,
    /// Bandra, Dadar, Andheri.
    CentralMumbai,
    /// Goregaon, Borivali.
    WesternSuburbs,
    /// Mulund, Thane.
    EasternSuburbs,
    /// Vashi, Panvel.
    NaviMumbai,
}

struct Facts {
    name: &'static str,
    centre: Point,
    radius_km: f64,
    travel_time: Factor,
    fare: Factor,
}

impl Zone {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::SouthMumbai,
        Self::CentralMumbai,
        Self::WesternSuburbs,
        Self::EasternSuburbs,
        Self::NaviMumbai,
    ];

    const fn facts(self) -> Facts {
        let (name, lat, lng, radius_km, travel_time, fare) = match self {
            Self::SouthMumbai => ("south_mumbai", 18.9220, 72.8342, 8.0, 25, 15),
            Self::CentralMumbai => ("central_mumbai", 19.0760, 72.8777, 12.0, 20, 12),
            Self::WesternSuburbs => ("western_suburbs", 19.2183, 72.8479, 15.0, 18, 10),
            Self::EasternSuburbs => ("eastern_suburbs", 19.2183, 72.9781, 15.0, 17, 10),
            Self::NaviMumbai => ("navi_mumbai", 19.0330, 73.0297, 20.0, 15, 9),
        };
        let (travel_time, fare) = (Factor::from_tenths(travel_time), Factor::from_tenths(fare));
        Facts { name, centre: Point { lat, lng }, radius_km, travel_time, fare }
    }

    /// As in requests and answers: `south_mumbai`.
    pub const fn as_str(self) -> &'static str {
        self.facts().name
    }

    /// Its centre.
    pub const fn centre(self) -> Point {
        self.facts().centre
    }

    /// How far from its centre it serves.
    pub const fn radius_km(self) -> f64 {
        self.facts().radius_km
    }

    /// How much longer a ride from here takes than at free flow.
    pub const fn travel_time(self) -> Factor {
        self.facts().travel_time
    }

    /// How much more a ride from here costs.
    pub const fn fare(self) -> Factor {
        self.facts().fare
    }

    /// The zone of a point, by the [module's rule](self).
    pub fn of(point: Point) -> Result<Self, OutOfArea> {
        let distances = Self::ALL.map(|zone| (zone, zone.centre().km_to(point)));
        let [first, others @ ..] = distances;
        let (zone, km) = others.into_iter().fold(first, |best, it| if it.1 < best.1 { it } else { best });
        if km <= zone.radius_km() { Ok(zone) } else { Err(OutOfArea { point, nearest: zone, km }) }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A point that no zone serves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutOfArea {
    /// The point.
    pub point: Point,
    /// The zone whose centre is nearest.
    pub nearest: Zone,
    /// The way to that centre, in kilometres.
    pub km: f64,
}

impl fmt::Display for OutOfArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { point, nearest, km } = self;
        let radius_km = nearest.radius_km();
        write!(
            f,
            "{point} is out of area: {km:.1} km from {nearest}, which serves {radius_km} km around its centre"
        )
    }
}

impl Error for OutOfArea {}

/// A point that is served, and the zone that serves it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    point: Point,
    zone: Zone,
}

impl Place {
    /// The place at a point, if a zone serves it.
    pub fn at(point: Point) -> Result<Self, OutOfArea> {
        Ok(Self { point, zone: Zone::of(point)? })
    }

    /// Where it is.
    pub const fn point(self) -> Point {
        self.point
    }

    /// The zone that serves it.
    pub const fn zone(self) -> Zone {
        self.zone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(lat: f64, lng: f64) -> Point {
        Point::new(lat, lng).unwrap()
    }

    #[track_caller]
    fn assert_km(from: Point, to: Point, golden: f64, digits: f64) {
        let km = from.km_to(to);
        assert!((km - golden).abs() < digits, "{km} km, not {golden}");
        assert!((km - to.km_to(from)).abs() < 1e-9, "the way back is as long");
    }

    #[test]
    fn distances_between_the_centres() {
        use Zone::{
            CentralMumbai as C, EasternSuburbs as E, NaviMumbai as N, SouthMumbai as S, WesternSuburbs as W,
        };
        let golden = [
            (S, C, 17.724),
            (C, W, 16.130),
            (C, E, 19.016),
            (C, N, 16.676),
            (W, E, 13.671),
            (E, N, 21.306),
            (S, N, 23.978),
            (W, N, 28.095),
            (S, W, 32.979),
            (S, E, 36.252),
        ];
        for (from, to, km) in golden {
            assert_km(from.centre(), to.centre(), km, 0.0005);
        }
    }

    #[test]
    fn distances_from_dadar_to_the_drivers() {
        let golden = [
            (19.0540, 72.8320, 4.35),
            (19.0650, 72.8680, 5.66),
            (19.0760, 72.8777, 7.19),
            (18.9340, 72.8250, 9.62),
            (18.9220, 72.8342, 10.75),
        ];
        for (lat, lng, km) in golden {
            assert_km(point(19.0178, 72.8478), point(lat, lng), km, 0.005);
        }
    }

    #[test]
    fn distances_at_the_ends_of_the_range() {
        let half_the_earth = std::f64::consts::PI * EARTH_RADIUS_KM;
        assert_km(point(90.0, 0.0), point(-90.0, 0.0), half_the_earth, 1e-6);
        assert_km(point(0.0, -180.0), point(0.0, 180.0), 0.0, 1e-6);
        assert_km(point(19.0, 72.0), point(19.0, 72.0), 0.0, 1e-12);
    }

    #[test]
    fn a_square_contains_the_circle_and_little_more() {
        let here = point(19.0178, 72.8478);
        let (south_west, north_east) = here.square(10.0);
        for bearing in 0..360 {
            let (north, east) =
                (f64::from(bearing).to_radians().cos(), f64::from(bearing).to_radians().sin());
            let up = (9.999 / EARTH_RADIUS_KM).to_degrees();
            let rim = point(here.lat + north * up, here.lng + east * up / here.lat.to_radians().cos());
            assert!((here.km_to(rim) - 9.999).abs() < 0.05, "{rim} is on the rim");
            assert!(south_west.lat < rim.lat && rim.lat < north_east.lat, "{rim}");
            assert!(south_west.lng < rim.lng && rim.lng < north_east.lng, "{rim}");
        }
        assert!(here.km_to(north_east) < 14.5); // 10 √2 is 14.1
    }

    #[test]
    fn zones_of_known_places() {
        let golden = [
            ("Fort", 18.9220, 72.8342, Zone::SouthMumbai),
            ("Bandra", 19.0760, 72.8777, Zone::CentralMumbai),
            ("Andheri", 19.1136, 72.8697, Zone::CentralMumbai),
            ("Dadar", 19.0178, 72.8478, Zone::CentralMumbai),
            ("Goregaon", 19.1663, 72.8526, Zone::WesternSuburbs),
            ("Mulund", 19.1726, 72.9425, Zone::EasternSuburbs),
            ("Vashi", 19.0771, 72.9986, Zone::NaviMumbai),
            ("Panvel", 18.9894, 73.1175, Zone::NaviMumbai),
        ];
        for (name, lat, lng, zone) in golden {
            assert_eq!(Zone::of(point(lat, lng)), Ok(zone), "{name}");
        }
    }

    #[test]
    fn pune_and_delhi_are_out_of_area() {
        let pune = Zone::of(point(18.5204, 73.8567)).unwrap_err();
        assert_eq!((pune.nearest, pune.km.round()), (Zone::NaviMumbai, 104.0));
        let delhi = Zone::of(point(28.6139, 77.2090)).unwrap_err();
        assert!(delhi.km > 1000.0);
        let shown = "(18.5204, 73.8567) is out of area: 104.1 km from navi_mumbai, which serves 20 km around its centre";
        assert_eq!(pune.to_string(), shown);
    }

    #[test]
    fn the_nearest_centre_decides_even_where_another_zone_would_reach() {
        // 8.9 km from the south, whose radius is 8; the central zone's 12 would not be asked.
        let mahalaxmi = point(18.9950, 72.8200);
        assert_eq!(Zone::of(mahalaxmi).map_err(|it| it.nearest), Err(Zone::SouthMumbai));
    }

    #[test]
    fn the_radius_itself_is_served() {
        let centre = Zone::SouthMumbai.centre();
        let south = |km: f64| point(centre.lat - (km / EARTH_RADIUS_KM).to_degrees(), centre.lng);
        assert_eq!(Zone::of(south(7.999)), Ok(Zone::SouthMumbai));
        assert!(Zone::of(south(8.001)).is_err());
    }

    #[test]
    fn coordinates_are_checked() {
        for (lat, lng) in
            [(90.1, 0.0), (-90.1, 0.0), (0.0, 180.1), (0.0, -180.1), (f64::NAN, 0.0), (0.0, f64::NAN)]
        {
            assert!(Point::new(lat, lng).is_err(), "{lat}, {lng}");
        }
        let swapped = Point::new(172.8342, 18.9220).unwrap_err();
        assert_eq!(swapped.to_string(), "a latitude of 172.8342 does not exist: it lies between -90 and 90");
    }
}
