//! Money: whole paise, and factors in tenths.
//!
//! # Rounding
//! Amounts are whole paise from the start. A calculation that leaves them, because it multiplies by
//! kilometres, comes back through [`Money::rounded`], half up, once, at its end.

use std::fmt;

use serde::{Serialize, Serializer};

/// An amount of Indian rupees, in whole paise; prints as `541.86`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money {
    paise: i64,
}

impl Money {
    /// That many paise.
    pub const fn from_paise(paise: i64) -> Self {
        Self { paise }
    }

    /// The nearest whole paise; a half goes up. Beyond what fits, the nearest that does.
    #[expect(clippy::cast_possible_truncation, reason = "the value is whole, and the cast saturates")]
    pub fn rounded(paise: f64) -> Self {
        Self { paise: (paise + 0.5).floor() as i64 }
    }

    /// In paise.
    pub const fn paise(self) -> i64 {
        self.paise
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.paise < 0 { "-" } else { "" };
        let paise = self.paise.unsigned_abs();
        write!(f, "{sign}{}.{:02}", paise / 100, paise % 100)
    }
}

/// A string: a JSON number would be read back as a binary fraction.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A factor in whole tenths, so that 1.2 is exactly that; prints as `1.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Factor {
    tenths: u16,
}

impl Factor {
    /// Changes nothing.
    pub const ONE: Self = Self::from_tenths(10);

    /// That many tenths: 15 is 1.5.
    pub const fn from_tenths(tenths: u16) -> Self {
        Self { tenths }
    }

    /// In tenths.
    pub fn tenths(self) -> f64 {
        f64::from(self.tenths)
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.tenths / 10, self.tenths % 10)
    }
}

/// A string, as [`Money`] is.
impl Serialize for Factor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_prints_two_decimals() {
        let shown = [0, 5, 99, 100, 54_186, -5, -54_186, i64::MIN].map(|paise| Money { paise }.to_string());
        let expected =
            ["0.00", "0.05", "0.99", "1.00", "541.86", "-0.05", "-541.86", "-92233720368547758.08"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_half_goes_up() {
        let rounded = [0.0, 0.4999, 0.5, 1.5, 2.5, 54_185.5, -0.5, -1.5].map(|it| Money::rounded(it).paise());
        assert_eq!(rounded, [0, 0, 1, 2, 3, 54_186, 0, -1]);
    }

    #[test]
    fn factors_print_one_decimal() {
        assert_eq!(
            [9, 10, 15, 25].map(|it| Factor::from_tenths(it).to_string()),
            ["0.9", "1.0", "1.5", "2.5"]
        );
    }
}
