//! Money: whole paise, and factors in tenths.
//!
//! # Rounding
//! Amounts are whole paise from the start. A calculation that leaves them, because it multiplies by
//! kilometres, comes back through [`Money::rounded`], half up, once, at its end.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

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

    /// Both together; none if that is more than an amount can be.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.paise.checked_add(other.paise).map(Self::from_paise)
    }

    /// That many times as much; none if that is more than an amount can be.
    pub fn checked_mul(self, times: u32) -> Option<Self> {
        self.paise.checked_mul(times.into()).map(Self::from_paise)
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

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// As it prints, and nothing else: two decimals, no sign, no separators.
impl FromStr for Money {
    type Err = NotMoney;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty();
        let parts =
            text.split_once('.').filter(|(whole, rest)| digits(whole) && digits(rest) && rest.len() == 2);
        let paise = parts.and_then(|(whole, rest)| {
            whole.parse::<i64>().ok()?.checked_mul(100)?.checked_add(rest.parse().ok()?)
        });
        paise.map(Self::from_paise).ok_or_else(|| NotMoney { text: text.to_owned() })
    }
}

/// Text that is no amount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotMoney {
    text: String,
}

impl fmt::Display for NotMoney {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an amount of rupees; write it like 541.86", self.text)
    }
}

impl Error for NotMoney {}

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
    fn money_is_read_as_it_prints() {
        for paise in [0, 5, 99, 100, 54_186, i64::MAX] {
            let money = Money { paise };
            assert_eq!(money.to_string().parse(), Ok(money));
        }
        for text in
            ["", "5", "5.", ".50", "5.5", "5.555", "-5.00", "+5.00", "5,00", "1e2.00", "92233720368547758.08"]
        {
            assert!(text.parse::<Money>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sums_and_products_beyond_what_fits_are_none() {
        let (one, most) = (Money { paise: 1 }, Money { paise: i64::MAX });
        assert_eq!(one.checked_add(Money { paise: 2 }), Some(Money { paise: 3 }));
        assert_eq!(Money { paise: 250 }.checked_mul(4), Some(Money { paise: 1_000 }));
        assert_eq!((most.checked_add(one), most.checked_mul(2)), (None, None));
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
