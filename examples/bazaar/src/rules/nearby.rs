//! Which drivers are near, and which of them is the best.
//!
//! # Rule
//! The nearest first; of those that are equally near, the better rated; then by id, so that the same
//! question has the same answer. A driver is shown within [`SHOWN_KM`] and sent within [`SENT_KM`],
//! both included, and drives at 20 km/h, so a kilometre takes 3 minutes.
//!
//! # State
//! None: drivers in, drivers out.

use std::cmp::Reverse;

use super::geo::Point;

/// How far from a point drivers are shown, in kilometres.
pub const SHOWN_KM: f64 = 10.0;

/// How far from a pickup a driver is sent from, in kilometres.
pub const SENT_KM: f64 = 5.0;

/// How many drivers are shown.
pub const SHOWN: usize = 10;

/// How many minutes a driver takes for a kilometre to the pickup.
pub const MINUTES_PER_KM: f64 = 3.0;

/// Somebody at a place, with a rating.
pub trait Located {
    /// Where.
    fn point(&self) -> Point;
    /// How well rated, in tenths: 49 is 4.9.
    fn rating(&self) -> u8;
    /// Who.
    fn id(&self) -> &str;
}

/// Those within `km` of a point with their distances, the best first, at most `count`.
pub fn nearest<T: Located>(of: Vec<T>, to: Point, km: f64, count: usize) -> Vec<(T, f64)> {
    let near = of.into_iter().map(|it| (to.km_to(it.point()), it)).filter(|(away, _)| *away <= km);
    let mut near = near.map(|(away, it)| (it, away)).collect::<Vec<_>>();
    near.sort_by(|(a, a_km), (b, b_km)| {
        let rest = |it: &T| Reverse(it.rating());
        a_km.total_cmp(b_km).then_with(|| rest(a).cmp(&rest(b))).then_with(|| a.id().cmp(b.id()))
    });
    near.truncate(count);
    near
}

/// How many minutes a driver takes for so many kilometres: the fraction cut off, at least one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "cutting off is the rule, and the cast saturates"
)]
pub fn eta_minutes(km: f64) -> u32 {
    ((km * MINUTES_PER_KM) as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug)]
    struct Car(&'static str, f64, f64, u8);

    impl Located for Car {
        fn point(&self) -> Point {
            Point::new(self.1, self.2).unwrap()
        }
        fn rating(&self) -> u8 {
            self.3
        }
        fn id(&self) -> &str {
            self.0
        }
    }

    fn ids(near: &[(Car, f64)]) -> Vec<&'static str> {
        near.iter().map(|(car, _)| car.0).collect()
    }

    #[test]
    fn the_nearest_then_the_better_rated_then_by_id() {
        let here = Point::new(19.0, 72.9).unwrap();
        let cars = vec![
            Car("far", 19.02, 72.9, 49),
            Car("b", 19.01, 72.9, 40),
            Car("best", 19.01, 72.9, 41),
            Car("a", 19.01, 72.9, 40),
            Car("beyond", 19.1, 72.9, 50),
        ];
        assert_eq!(ids(&nearest(cars.clone(), here, 5.0, 10)), ["best", "a", "b", "far"]);
        assert_eq!(ids(&nearest(cars, here, 5.0, 2)), ["best", "a"]);
    }

    #[test]
    fn the_radius_itself_is_near() {
        let here = Point::new(19.0, 72.9).unwrap();
        let car = Car("edge", 19.04, 72.9, 40);
        let km = here.km_to(car.point());
        assert_eq!(nearest(vec![car.clone()], here, km, 1).len(), 1);
        assert_eq!(nearest(vec![car], here, km - 1e-9, 1).len(), 0);
    }

    #[test]
    fn minutes_are_cut_off_and_never_none() {
        let golden = [(0.0, 1), (0.3, 1), (0.66, 1), (0.67, 2), (4.35, 13), (5.0, 15)];
        assert_eq!(golden.map(|(km, _)| eta_minutes(km)), golden.map(|(_, minutes)| minutes));
    }
}
