//! What delivery costs, and how soon it is.
//!
//! # Rule
//! - **Charge.** 40.00; 1.5 times that for express; 1.2 times that if anything is electronic or fragile; nothing from
//!   500.00 on, which is what the goods cost together, before delivery.
//! - **Promise.** Three rungs: standard (3 to 5 days), express (1 to 2), same day (0 to 1, by the evening of
//!   the next day for what is ordered late). Who asked for express, or is of the tier plus or premium, is one rung higher; who lives in a [same-day
//!   city](City::is_same_day) is, too.
//!
//! # State
//! None.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{address::City, money::Money};

/// From that on delivery is free: 500.00.
pub const FREE_FROM: Money = Money::from_paise(50_000);

/// What delivery costs before factors: 40.00.
pub const BASE: Money = Money::from_paise(4_000);

/// What a customer is to the shop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Everybody.
    #[default]
    Regular,
    /// A better one.
    Plus,
    /// The best.
    Premium,
}

impl Tier {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Regular, Self::Plus, Self::Premium];

    /// As in tokens and answers: `plus`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Plus => "plus",
            Self::Premium => "premium",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| UnknownTier { text: text.to_owned() })
    }
}

/// A tier that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownTier {
    text: String,
}

impl fmt::Display for UnknownTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Tier::ALL.map(Tier::as_str).join(", ");
        write!(f, "{:?} is not a tier; there are {known}", self.text)
    }
}

impl Error for UnknownTier {}

/// What is sent, as far as it matters for what that costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// What the goods cost together.
    pub subtotal: Money,
    /// Whether anything of it is electronic or fragile.
    pub is_delicate: bool,
    /// Whether it was asked to be fast.
    pub is_express: bool,
}

/// What delivery costs, tax-inclusive.
pub fn charge(parcel: Parcel) -> Money {
    let Parcel { subtotal, is_delicate, is_express } = parcel;
    if subtotal >= FREE_FROM {
        return Money::default();
    }
    let express = if is_express { 15 } else { 10 };
    let delicate = if is_delicate { 12 } else { 10 };
    Money::from_paise(BASE.paise() * express * delicate / 100) // Whole: 40.00 is a multiple of 1.00.
}

/// How fast a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speed {
    /// 3 to 5 days.
    Standard,
    /// 1 to 2 days.
    Express,
    /// 0 to 1 day.
    SameDay,
}

/// When goods arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// How fast.
    pub speed: Speed,
    /// After how many days, at the earliest.
    pub days_min: u8,
    /// After how many days, at the latest.
    pub days_max: u8,
}

/// When goods arrive there.
pub fn promise(city: City, tier: Tier, is_express: bool) -> Promise {
    let is_preferred = is_express || tier >= Tier::Plus;
    let (speed, days_min, days_max) = match u8::from(is_preferred) + u8::from(city.is_same_day()) {
        0 => (Speed::Standard, 3, 5),
        1 => (Speed::Express, 1, 2),
        _ => (Speed::SameDay, 0, 1),
    };
    Promise { speed, days_min, days_max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_charges() {
        let golden = [
            ("499.00", false, false, "40.00"),
            ("499.00", true, false, "60.00"),
            ("499.00", true, true, "72.00"),
            ("499.00", false, true, "48.00"),
            ("499.99", false, false, "40.00"),
            ("500.00", false, false, "0.00"),
            ("500.00", true, true, "0.00"),
        ];
        for (subtotal, is_express, is_delicate, expected) in golden {
            let parcel = Parcel { subtotal: subtotal.parse().unwrap(), is_delicate, is_express };
            assert_eq!(charge(parcel).to_string(), expected, "{parcel:?}");
        }
    }

    #[test]
    fn r15_4_tier_city_and_wish_decide_the_promise() {
        use Speed::{Express, SameDay, Standard};
        let golden = [
            (City::Jaipur, Tier::Regular, false, Standard),
            (City::Jaipur, Tier::Regular, true, Express),
            (City::Jaipur, Tier::Plus, false, Express),
            (City::Jaipur, Tier::Premium, true, Express),
            (City::Mumbai, Tier::Regular, false, Express),
            (City::Mumbai, Tier::Regular, true, SameDay),
            (City::Delhi, Tier::Plus, false, SameDay),
            (City::Bangalore, Tier::Premium, false, SameDay),
        ];
        for (city, tier, is_express, speed) in golden {
            let promise = promise(city, tier, is_express);
            assert_eq!(promise.speed, speed, "{city} {tier} {is_express}");
            assert!(promise.days_min < promise.days_max);
        }
    }

    #[test]
    fn tiers_have_names() {
        for tier in Tier::ALL {
            assert_eq!(tier.to_string().parse(), Ok(tier));
            assert_eq!(serde_json::to_value(tier).unwrap(), tier.as_str());
        }
        assert_eq!(
            "gold".parse::<Tier>().unwrap_err().to_string(),
            "\"gold\" is not a tier; there are regular, plus, premium"
        );
    }
}
