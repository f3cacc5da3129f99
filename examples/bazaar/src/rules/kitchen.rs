//! How long a kitchen takes.
//!
//! # Rule
//! Its preparation time, a tenth more for each order that it has (this one counts), times the factor of its area, the fraction cut off.
//!
//! # State
//! None.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A part of Mumbai, with a factor for how hard it is to get about there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// 1.0.
    Fort,
    /// 1.1.
    Dadar,
    /// 1.1.
    Colaba,
    /// 1.2.
    Bandra,
    /// 1.2.
    Worli,
    /// 1.3.
    Andheri,
    /// 1.4.
    Powai,
    /// 1.4.
    Malad,
    /// 1.5.
    Borivali,
    /// 1.6.
    Thane,
}

impl Area {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Fort,
        Self::Dadar,
        Self::Colaba,
        Self::Bandra,
        Self::Worli,
        Self::Andheri,
        Self::Powai,
        Self::Malad,
        Self::Borivali,
        Self::Thane,
    ];

    /// As in requests and answers: `dadar`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fort => "fort",
            Self::Dadar => "dadar",
            Self::Colaba => "colaba",
            Self::Bandra => "bandra",
            Self::Worli => "worli",
            Self::Andheri => "andheri",
            Self::Powai => "powai",
            Self::Malad => "malad",
            Self::Borivali => "borivali",
            Self::Thane => "thane",
        }
    }

    const fn tenths(self) -> u64 {
        match self {
            Self::Fort => 10,
            Self::Dadar | Self::Colaba => 11,
            Self::Bandra | Self::Worli => 12,
            Self::Andheri => 13,
            Self::Powai | Self::Malad => 14,
            Self::Borivali => 15,
            Self::Thane => 16,
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Area {
    type Err = UnknownArea;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| UnknownArea { text: text.to_owned() })
    }
}

/// An area that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownArea {
    text: String,
}

impl fmt::Display for UnknownArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Area::ALL.map(Area::as_str).join(", ");
        write!(f, "{:?} is not an area; there are {known}", self.text)
    }
}

impl Error for UnknownArea {}

/// A kitchen, and how much it has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kitchen {
    /// How long a dish takes when nothing else is to do.
    pub preparation_minutes: u32,
    /// How many orders it has, this one included.
    pub load: u32,
    /// Where it is.
    pub area: Area,
}

/// In how many minutes an order is ready, by the [module's rule](self).
pub fn ready_in_minutes(kitchen: Kitchen) -> u32 {
    let Kitchen { preparation_minutes, load, area } = kitchen;
    let tenths = u64::from(preparation_minutes).saturating_mul(10 + u64::from(load));
    u32::try_from(tenths.saturating_mul(area.tenths()) / 100).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_minutes() {
        let golden = [
            (25, 1, Area::Dadar, 30), // Tanjore's first order: 25 × 1.1 × 1.1 = 30.25.
            (25, 2, Area::Dadar, 33),
            (30, 1, Area::Bandra, 39),
            (35, 0, Area::Fort, 35),
            (20, 10, Area::Andheri, 52),
            (u32::MAX, u32::MAX, Area::Thane, u32::MAX),
        ];
        for (preparation_minutes, load, area, minutes) in golden {
            let kitchen = Kitchen { preparation_minutes, load, area };
            assert_eq!(ready_in_minutes(kitchen), minutes, "{kitchen:?}");
        }
    }

    #[test]
    fn areas_have_names() {
        for area in Area::ALL {
            assert_eq!(area.to_string().parse(), Ok(area));
            assert_eq!(serde_json::to_value(area).unwrap(), area.as_str());
        }
        assert!("pune".parse::<Area>().unwrap_err().to_string().starts_with("\"pune\" is not an area; "));
    }
}
