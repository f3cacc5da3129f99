//! The life of a ride: which state follows which, and who may bring it there.
//!
//! # Rule
//!
//! ```text
//! requested ─ assigned ─ arriving ─ on_trip ─ completed
//!     │ └─ no_driver         │
//!     └──────┴───────────────┴─ cancelled
//! ```
//!
//! 1. Who has a quote requests a ride; it is **assigned** when a driver is bound to it, or ends in
//!    **`no_driver`** when there is none, or the rider has stopped asking.
//! 2. The driver sets out (**arriving**), takes the rider in (**`on_trip`**), lets them out (**completed**).
//! 3. The rider may cancel until they sit in the car. An end is an end.
//! 4. What has been done already may be said again, and changes nothing.
//!
//! # State
//! None: what is and what is wanted in, what will be out.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::money::Money;

/// Where a ride is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A driver is looked for.
    Requested,
    /// A driver is bound to it.
    Assigned,
    /// The driver is on the way to the rider.
    Arriving,
    /// The rider sits in the car.
    OnTrip,
    /// It is over, as it should be.
    Completed,
    /// The rider has called it off.
    Cancelled,
    /// No driver was found.
    NoDriver,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Requested,
        Self::Assigned,
        Self::Arriving,
        Self::OnTrip,
        Self::Completed,
        Self::Cancelled,
        Self::NoDriver,
    ];

    /// As in requests and answers: `on_trip`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Assigned => "assigned",
            Self::Arriving => "arriving",
            Self::OnTrip => "on_trip",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::NoDriver => "no_driver",
        }
    }

    /// Whether nothing follows.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::NoDriver)
    }

    /// Whether the ride may go from here to `next`, by the [module's rule](self). To where it is already
    /// it may, too: that is [`Step::Nothing`].
    pub fn to(self, next: Self) -> Result<Step, WrongState> {
        use State::{Arriving, Assigned, Cancelled, Completed, NoDriver, OnTrip, Requested};
        match (self, next) {
            _ if self == next => Ok(Step::Nothing),
            (Requested, Assigned | NoDriver | Cancelled)
            | (Assigned, Arriving | Cancelled)
            | (Arriving, OnTrip | Cancelled)
            | (OnTrip, Completed) => Ok(Step::Change),
            _ => Err(WrongState { is: self, wanted: next }),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| UnknownState { text: text.to_owned() })
    }
}

/// What a ride does when it is told where to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It goes there.
    Change,
    /// It is there.
    Nothing,
}

/// A step that the rule does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongState {
    /// Where the ride is.
    pub is: State,
    /// Where it should have gone.
    pub wanted: State,
}

impl fmt::Display for WrongState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is, wanted } = self;
        write!(f, "a ride that is {is} cannot become {wanted}")
    }
}

impl Error for WrongState {}

/// A state that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownState {
    text: String,
}

impl fmt::Display for UnknownState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = State::ALL.map(State::as_str).join(", ");
        write!(f, "{:?} is not a state of a ride; there are {known}", self.text)
    }
}

impl Error for UnknownState {}

/// What calling a ride off costs: `fee`, if a driver was bound to it, and never more than the fare.
pub fn cancellation_fee(from: State, fare: Money, fee: Money) -> Money {
    match from {
        State::Assigned | State::Arriving => fee.min(fare),
        _ => Money::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_states_is_judged_by_the_rule() {
        use State::{Arriving, Assigned, Cancelled, Completed, NoDriver, OnTrip, Requested};
        let steps = [
            (Requested, Assigned),
            (Requested, NoDriver),
            (Requested, Cancelled),
            (Assigned, Arriving),
            (Assigned, Cancelled),
            (Arriving, OnTrip),
            (Arriving, Cancelled),
            (OnTrip, Completed),
        ];
        for from in State::ALL {
            for to in State::ALL {
                let expected = match () {
                    () if from == to => Ok(Step::Nothing),
                    () if steps.contains(&(from, to)) => Ok(Step::Change),
                    () => Err(WrongState { is: from, wanted: to }),
                };
                assert_eq!(from.to(to), expected, "{from} → {to}");
                assert!(!from.is_end() || from == to || expected.is_err(), "an end is an end: {from}");
            }
        }
    }

    #[test]
    fn a_fee_is_asked_once_a_driver_is_bound_and_is_never_more_than_the_fare() {
        let (fare, fee) = (Money::from_paise(10_000), Money::from_paise(2_500));
        assert_eq!(cancellation_fee(State::Requested, fare, fee), Money::default());
        assert_eq!(cancellation_fee(State::Assigned, fare, fee), fee);
        assert_eq!(cancellation_fee(State::Arriving, fare, fee), fee);
        assert_eq!(
            cancellation_fee(State::Assigned, Money::from_paise(2_000), fee),
            Money::from_paise(2_000)
        );
        assert_eq!(cancellation_fee(State::Assigned, fare, Money::default()), Money::default());
    }

    #[test]
    fn states_have_names() {
        for state in State::ALL {
            assert_eq!(state.to_string().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        let unknown = "ON_TRIP".parse::<State>().unwrap_err().to_string();
        assert!(unknown.starts_with("\"ON_TRIP\" is not a state of a ride; there are requested, assigned, "));
    }
}
