//! The life of an order: which state follows which.
//!
//! # Rule
//!
//! ```text
//! placed ─ confirmed ─ processing ─ shipped ─ out_for_delivery ─ delivered
//!    │         │           │           └──────────────┴──────────────┴─ returned ─ refunded
//!    └─────────┴───────────┴─ cancelled ─ refunded
//! ```
//!
//! 1. An order is **placed** when its goods are held; it is **confirmed** once it is paid, too, or is to be paid on
//!    delivery.
//! 2. The warehouse packs (**processing**), hands over (**shipped**), the courier sets out (**`out_for_delivery`**) and
//!    arrives (**delivered**).
//! 3. It may be **cancelled** until it is shipped. After that it may be **returned**, also when the courier brings it
//!    back undelivered.
//! 4. What was cancelled or returned is **refunded** if money was taken, and only then: see [`State::owes`].
//! 5. What has been done already may be said again, and changes nothing.
//!
//! # State
//! None: what is and what is wanted in, what will be out.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::money::Money;
pub use super::ride::Step;

/// Where an order is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its goods are held, and it is to be paid.
    Placed,
    /// It is paid, or is to be paid on delivery.
    Confirmed,
    /// The warehouse packs.
    Processing,
    /// The courier has it.
    Shipped,
    /// The courier is on the way to the customer.
    OutForDelivery,
    /// The customer has it.
    Delivered,
    /// It was called off.
    Cancelled,
    /// It came back.
    Returned,
    /// What was paid for it was given back.
    Refunded,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Placed,
        Self::Confirmed,
        Self::Processing,
        Self::Shipped,
        Self::OutForDelivery,
        Self::Delivered,
        Self::Cancelled,
        Self::Returned,
        Self::Refunded,
    ];

    /// As in requests and answers: `out_for_delivery`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Confirmed => "confirmed",
            Self::Processing => "processing",
            Self::Shipped => "shipped",
            Self::OutForDelivery => "out_for_delivery",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
            Self::Returned => "returned",
            Self::Refunded => "refunded",
        }
    }

    /// Whether the order may go from here to `next`, by the [module's rule](self). To where it is already
    /// it may, too: that is [`Step::Nothing`].
    pub fn to(self, next: Self) -> Result<Step, WrongState> {
        use State::{
            Cancelled, Confirmed, Delivered, OutForDelivery, Placed, Processing, Refunded, Returned, Shipped,
        };
        match (self, next) {
            _ if self == next => Ok(Step::Nothing),
            (Placed, Confirmed | Cancelled)
            | (Confirmed, Processing | Cancelled)
            | (Processing, Shipped | Cancelled)
            | (Shipped, OutForDelivery | Returned)
            | (OutForDelivery, Delivered | Returned)
            | (Delivered, Returned)
            | (Cancelled | Returned, Refunded) => Ok(Step::Change),
            _ => Err(WrongState { is: self, wanted: next }),
        }
    }

    /// What has to be given back of what was `captured`: all of it once the order was cancelled or returned, else
    /// nothing.
    pub fn owes(self, captured: Money) -> Money {
        match self {
            Self::Cancelled | Self::Returned => captured,
            _ => Money::default(),
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

/// A step that the rule does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongState {
    /// Where the order is.
    pub is: State,
    /// Where it should have gone.
    pub wanted: State,
}

impl fmt::Display for WrongState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { is, wanted } = self;
        write!(f, "an order that is {is} cannot become {wanted}")
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
        write!(f, "{:?} is not a state of an order; there are {known}", self.text)
    }
}

impl Error for UnknownState {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_states_is_judged_by_the_rule() {
        use State::{
            Cancelled, Confirmed, Delivered, OutForDelivery, Placed, Processing, Refunded, Returned, Shipped,
        };
        let steps = [
            (Placed, Confirmed),
            (Placed, Cancelled),
            (Confirmed, Processing),
            (Confirmed, Cancelled),
            (Processing, Shipped),
            (Processing, Cancelled),
            (Shipped, OutForDelivery),
            (Shipped, Returned),
            (OutForDelivery, Delivered),
            (OutForDelivery, Returned),
            (Delivered, Returned),
            (Cancelled, Refunded),
            (Returned, Refunded),
        ];
        for from in State::ALL {
            for to in State::ALL {
                let expected = match () {
                    () if from == to => Ok(Step::Nothing),
                    () if steps.contains(&(from, to)) => Ok(Step::Change),
                    () => Err(WrongState { is: from, wanted: to }),
                };
                assert_eq!(from.to(to), expected, "{from} → {to}");
            }
        }
    }

    #[test]
    fn what_was_taken_is_owed_once_the_order_is_off_or_back() {
        let paid = Money::from_paise(6_599_900);
        for state in State::ALL {
            let owes = matches!(state, State::Cancelled | State::Returned);
            assert_eq!(state.owes(paid), if owes { paid } else { Money::default() }, "{state}");
            assert_eq!(state.owes(Money::default()), Money::default(), "nothing was taken: {state}");
        }
    }

    #[test]
    fn states_have_names() {
        for state in State::ALL {
            assert_eq!(state.to_string().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        let unknown = "PLACED".parse::<State>().unwrap_err().to_string();
        assert!(unknown.starts_with("\"PLACED\" is not a state of an order; there are placed, confirmed, "));
    }
}
