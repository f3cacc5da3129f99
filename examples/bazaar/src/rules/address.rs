//! Where goods are delivered: the cities that are served, their states and pincodes.
//!
//! # Rule
//! An address has a line, a city that is served, and a pincode of that city: six digits, the first not 0 (India
//! Post). The city decides the state; who says the state, too, must say the same one.
//!
//! # Pincodes
//! The first three digits are a sorting district. A city has one or more of them, whole: all of Mumbai's is 400, also
//! 400101 to 400104.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest line, in characters.
pub const LINE_LIMIT: usize = 200;

/// A state or union territory of India, as far as goods are delivered or sent from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Territory {
    /// Delhi.
    Delhi,
    /// Karnataka.
    Karnataka,
    /// Maharashtra.
    Maharashtra,
    /// Rajasthan.
    Rajasthan,
    /// Tamil Nadu.
    #[serde(rename = "Tamil Nadu")]
    TamilNadu,
    /// Telangana.
    Telangana,
    /// West Bengal.
    #[serde(rename = "West Bengal")]
    WestBengal,
}

impl Territory {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Delhi,
        Self::Karnataka,
        Self::Maharashtra,
        Self::Rajasthan,
        Self::TamilNadu,
        Self::Telangana,
        Self::WestBengal,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delhi => "Delhi",
            Self::Karnataka => "Karnataka",
            Self::Maharashtra => "Maharashtra",
            Self::Rajasthan => "Rajasthan",
            Self::TamilNadu => "Tamil Nadu",
            Self::Telangana => "Telangana",
            Self::WestBengal => "West Bengal",
        }
    }
}

impl fmt::Display for Territory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A city that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum City {
    /// Mumbai; same-day.
    Mumbai,
    /// Delhi; same-day.
    Delhi,
    /// Bangalore; same-day.
    Bangalore,
    /// Pune.
    Pune,
    /// Hyderabad.
    Hyderabad,
    /// Chennai.
    Chennai,
    /// Kolkata.
    Kolkata,
    /// Jaipur.
    Jaipur,
    /// Nashik.
    Nashik,
}

impl City {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Mumbai,
        Self::Delhi,
        Self::Bangalore,
        Self::Pune,
        Self::Hyderabad,
        Self::Chennai,
        Self::Kolkata,
        Self::Jaipur,
        Self::Nashik,
    ];

    /// As in requests and answers: `mumbai`. Requests may write it in any case: `Mumbai`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mumbai => "mumbai",
            Self::Delhi => "delhi",
            Self::Bangalore => "bangalore",
            Self::Pune => "pune",
            Self::Hyderabad => "hyderabad",
            Self::Chennai => "chennai",
            Self::Kolkata => "kolkata",
            Self::Jaipur => "jaipur",
            Self::Nashik => "nashik",
        }
    }

    /// The state it is in.
    pub const fn territory(self) -> Territory {
        match self {
            Self::Mumbai | Self::Pune | Self::Nashik => Territory::Maharashtra,
            Self::Delhi => Territory::Delhi,
            Self::Bangalore => Territory::Karnataka,
            Self::Hyderabad => Territory::Telangana,
            Self::Chennai => Territory::TamilNadu,
            Self::Kolkata => Territory::WestBengal,
            Self::Jaipur => Territory::Rajasthan,
        }
    }

    /// Whether goods may arrive on the day they are ordered.
    pub const fn is_same_day(self) -> bool {
        matches!(self, Self::Mumbai | Self::Delhi | Self::Bangalore)
    }

    /// The sorting districts of its pincodes.
    const fn districts(self) -> &'static [&'static str] {
        match self {
            Self::Mumbai => &["400"],
            Self::Delhi => &["110"],
            Self::Bangalore => &["560"],
            Self::Pune => &["411", "412"],
            Self::Hyderabad => &["500"],
            Self::Chennai => &["600"],
            Self::Kolkata => &["700"],
            Self::Jaipur => &["302", "303"],
            Self::Nashik => &["422"],
        }
    }

    /// The city that a pincode is of, if it is served.
    pub fn of_pincode(pincode: &str) -> Option<Self> {
        if !is_pincode(pincode) {
            return None;
        }
        Self::ALL.into_iter().find(|city| city.districts().iter().any(|it| pincode.starts_with(it)))
    }
}

impl fmt::Display for City {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for City {
    type Err = UnknownCity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str().eq_ignore_ascii_case(text));
        known.ok_or_else(|| UnknownCity { text: text.to_owned() })
    }
}

/// A city that is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCity {
    text: String,
}

impl fmt::Display for UnknownCity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = City::ALL.map(City::as_str).join(", ");
        write!(f, "{:?} is not served; served are {known}", self.text)
    }
}

impl Error for UnknownCity {}

/// Six digits, the first not 0.
fn is_pincode(text: &str) -> bool {
    text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0')
}

/// An address as somebody writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// House and street.
    pub line: String,
    /// The city.
    pub city: String,
    /// The pincode.
    pub pincode: String,
    /// The state, which need not be said.
    pub state: Option<String>,
}

/// An address that can be delivered to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// House and street.
    pub line: String,
    /// The city.
    pub city: City,
    /// The pincode.
    pub pincode: String,
    /// The state.
    pub state: Territory,
}

impl Written {
    /// The address, by the [module's rule](self).
    pub fn check(&self) -> Result<Address, AddressError> {
        let line = self.line.trim();
        if line.is_empty() || line.chars().count() > LINE_LIMIT || line.chars().any(char::is_control) {
            return Err(AddressError::Line);
        }
        let city = self.city.trim().parse::<City>().map_err(AddressError::City)?;
        if !is_pincode(&self.pincode) {
            return Err(AddressError::Pincode);
        }
        if City::of_pincode(&self.pincode) != Some(city) {
            return Err(AddressError::Elsewhere { city });
        }
        let state = city.territory();
        if self.state.as_ref().is_some_and(|it| !it.trim().eq_ignore_ascii_case(state.as_str())) {
            return Err(AddressError::State { city });
        }
        Ok(Address { line: line.to_owned(), city, pincode: self.pincode.clone(), state })
    }
}

/// Why an address is none. It repeats nothing of the address but a city.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// The line is missing, too long, or no line.
    Line,
    /// The city is not served.
    City(UnknownCity),
    /// The pincode is none.
    Pincode,
    /// The pincode is of another place.
    Elsewhere {
        /// The city that was said.
        city: City,
    },
    /// The state is another one.
    State {
        /// The city that was said.
        city: City,
    },
}

impl AddressError {
    /// A word for programs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Line => "invalid_address_line",
            Self::City(_) => "city_not_served",
            Self::Pincode => "invalid_pincode",
            Self::Elsewhere { .. } => "pincode_elsewhere",
            Self::State { .. } => "state_elsewhere",
        }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line => write!(f, "the line of an address has 1 to {LINE_LIMIT} characters: house, street"),
            Self::City(unknown) => unknown.fmt(f),
            Self::Pincode => f.write_str("a pincode has six digits, and the first is not 0"),
            Self::Elsewhere { city } => {
                let districts = city.districts().join("… or ");
                write!(f, "the pincode is not one of {city}, where they begin with {districts}…")
            }
            Self::State { city } => {
                let state = city.territory();
                write!(f, "{city} is in {state}; leave the state out, or say that one")
            }
        }
    }
}

impl Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(line: &str, city: &str, pincode: &str, state: Option<&str>) -> Written {
        let [line, city, pincode] = [line, city, pincode].map(str::to_owned);
        Written { line, city, pincode, state: state.map(str::to_owned) }
    }

    #[test]
    fn r15_4_an_address_has_a_line_a_city_and_its_pincode() {
        let address = written(" 12, Marine Drive ", "Mumbai", "400020", Some("maharashtra")).check().unwrap();
        let Address { line, city, pincode, state } = address;
        assert_eq!((line.as_str(), city, pincode.as_str()), ("12, Marine Drive", City::Mumbai, "400020"));
        assert_eq!(state, Territory::Maharashtra);

        let why = |line: &str, city, pincode, state| {
            written(line, city, pincode, state).check().unwrap_err().reason()
        };
        assert_eq!(why("", "mumbai", "400020", None), "invalid_address_line");
        assert_eq!(why("  ", "mumbai", "400020", None), "invalid_address_line");
        assert_eq!(why("a\nb", "mumbai", "400020", None), "invalid_address_line");
        assert_eq!(why(&"x".repeat(201), "mumbai", "400020", None), "invalid_address_line");
        assert!(written(&"ग".repeat(200), "mumbai", "400020", None).check().is_ok());
        assert_eq!(why("1", "surat", "395001", None), "city_not_served");
        for pincode in ["", "40002", "4000201", "40002x", "000020", "४०००२०"] {
            assert_eq!(why("1", "mumbai", pincode, None), "invalid_pincode", "{pincode:?}");
        }
        assert_eq!(why("1", "mumbai", "411001", None), "pincode_elsewhere");
        assert_eq!(why("1", "mumbai", "400020", Some("Goa")), "state_elsewhere");
    }

    #[test]
    fn r15_4_all_of_mumbai_is_mumbai() {
        for pincode in ["400001", "400099", "400101", "400104"] {
            assert!(written("1", "mumbai", pincode, None).check().is_ok(), "{pincode}");
        }
    }

    #[test]
    fn every_city_has_a_state_and_pincodes_of_its_own() {
        for city in City::ALL {
            assert_eq!(city.to_string().parse(), Ok(city));
            assert_eq!(serde_json::to_value(city).unwrap(), city.as_str());
            for district in city.districts() {
                let pincode = format!("{district}001");
                assert_eq!(City::of_pincode(&pincode), Some(city), "{pincode}");
                let address = written("1", city.as_str(), &pincode, None).check().unwrap();
                assert_eq!(address.state, city.territory());
            }
        }
        for state in Territory::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert_eq!(City::of_pincode("403001"), None, "Goa is not served");
    }

    #[test]
    fn what_is_said_of_an_address_does_not_repeat_it() {
        let said = written("12, Marine Drive", "mumbai", "411001", None).check().unwrap_err().to_string();
        assert_eq!(said, "the pincode is not one of mumbai, where they begin with 400…");
    }
}
