//! What is asked of the inventory: five commands. Their bounds are in their types, so that what is out of bounds cannot be read.
//!
//! # Bounds
//! | what | how much |
//! |---|---|
//! | a quantity, a delta | 1 to [`QUANTITY`] units |
//! | the items of a reservation | 1 to [`ITEMS`], each of another product |
//! | a hold | 1 to [`HOLD`] seconds, [`HOLD_DEFAULT`] if nothing is said |
//! | the name of a product | 1 to 64 letters, digits, `_` and `-` |
//! | the name of a reservation | 1 to 128 letters, digits, `_`, `-`, `.` and `:` |
//! | the name of a warehouse | three capitals for its region, `_WH_`, three digits: `MUM_WH_001` |

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// The most units that one command moves.
pub const QUANTITY: u32 = 100_000;

/// The most items of a reservation.
pub const ITEMS: usize = 20;

/// The longest hold, in seconds.
pub const HOLD: u32 = 3600;

/// How long a hold is if nothing is said, in seconds.
pub const HOLD_DEFAULT: u32 = 900;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A warehouse takes a product in for the first time.
    AddProduct(AddProduct),
    /// Units come or go.
    UpdateQuantity(UpdateQuantity),
    /// Units are promised.
    Reserve(Reserve),
    /// A promise ends.
    Release(Release),
    /// Units go from one warehouse to another.
    Transfer(Transfer),
}

impl Command {
    /// Its name, as in its path.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AddProduct(_) => "add_product",
            Self::UpdateQuantity(_) => "update_quantity",
            Self::Reserve(_) => "reserve",
            Self::Release(_) => "release",
            Self::Transfer(_) => "transfer",
        }
    }
}

/// `{"product_id": "prod_001", "warehouse": "MUM_WH_001", "quantity": 100}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddProduct {
    /// Of what.
    pub product_id: ProductId,
    /// Where.
    pub warehouse: Warehouse,
    /// With how much it begins.
    pub quantity: Quantity,
}

/// `{"product_id": "prod_001", "warehouse": "MUM_WH_001", "delta": -25, "reason": "sold"}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Update", into = "Update")]
pub struct UpdateQuantity {
    /// Of what.
    pub product_id: ProductId,
    /// Where.
    pub warehouse: Warehouse,
    /// How many come (above zero) or go (below).
    pub delta: i32,
    /// Why.
    pub reason: UpdateReason,
}

/// [`UpdateQuantity`] before it is known that the sign of its delta goes with its reason.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    product_id: ProductId,
    warehouse: Warehouse,
    delta: i32,
    reason: UpdateReason,
}

impl TryFrom<Update> for UpdateQuantity {
    type Error = String;

    fn try_from(it: Update) -> Result<Self, String> {
        let Update { product_id, warehouse, delta, reason } = it;
        if !(1..=QUANTITY).contains(&delta.unsigned_abs()) {
            return Err(format!(
                "a delta goes from 1 to {QUANTITY} or from -{QUANTITY} to -1, and is {delta}"
            ));
        }
        match (reason.adds(), delta > 0) {
            (true, false) => Err(format!("`{reason}` adds, so its delta is above 0, and it is {delta}")),
            (false, true) => {
                Err(format!("`{reason}` takes away, so its delta is below 0, and it is {delta}"))
            }
            _ => Ok(Self { product_id, warehouse, delta, reason }),
        }
    }
}

impl From<UpdateQuantity> for Update {
    fn from(it: UpdateQuantity) -> Self {
        let UpdateQuantity { product_id, warehouse, delta, reason } = it;
        Self { product_id, warehouse, delta, reason }
    }
}

/// Why units come or go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateReason {
    /// They were bought.
    Restocking,
    /// They were sold, without a reservation.
    Sold,
    /// They are good for nothing any more.
    Damaged,
    /// A customer has sent them back.
    Returned,
}

impl UpdateReason {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restocking => "restocking",
            Self::Sold => "sold",
            Self::Damaged => "damaged",
            Self::Returned => "returned",
        }
    }

    const fn adds(self) -> bool {
        matches!(self, Self::Restocking | Self::Returned)
    }
}

impl fmt::Display for UpdateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `{"reservation_id": "ORD_1", "items": [{"product_id": "prod_001", "quantity": 2}], "hold_seconds": 900}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    /// The name that whoever asks gives it.
    pub reservation_id: ReservationId,
    /// What: all of it or nothing.
    pub items: Items,
    /// For how long.
    #[serde(default)]
    pub hold_seconds: HoldSeconds,
}

/// So many of a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Of what.
    pub product_id: ProductId,
    /// How many.
    pub quantity: Quantity,
}

/// Some items, each of another product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Item>")]
pub struct Items(Vec<Item>);

impl Items {
    /// In the order in which they were asked for.
    pub fn iter(&self) -> std::slice::Iter<'_, Item> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Items {
    type Item = &'a Item;
    type IntoIter = std::slice::Iter<'a, Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl TryFrom<Vec<Item>> for Items {
    type Error = String;

    fn try_from(items: Vec<Item>) -> Result<Self, String> {
        if !(1..=ITEMS).contains(&items.len()) {
            return Err(format!("a reservation has 1 to {ITEMS} items, and this one has {}", items.len()));
        }
        let mut products = BTreeSet::new();
        match items.iter().find(|item| !products.insert(&item.product_id)) {
            Some(item) => Err(format!("{} is there twice: say it once, with the sum", item.product_id)),
            None => Ok(Self(items)),
        }
    }
}

/// `{"reservation_id": "ORD_1", "reason": "order_cancelled"}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Which.
    pub reservation_id: ReservationId,
    /// Why.
    pub reason: ReleaseReason,
}

/// Why a promise ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseReason {
    /// Nobody wants it any more: the units are there for others again.
    OrderCancelled,
    /// It was kept: the units leave the warehouse.
    OrderCompleted,
    /// It has run out: the units are there for others again.
    Expired,
    /// What was kept has come back, or never left: the units are there for others again.
    OrderReturned,
}

impl ReleaseReason {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OrderCancelled => "order_cancelled",
            Self::OrderCompleted => "order_completed",
            Self::Expired => "expired",
            Self::OrderReturned => "order_returned",
        }
    }
}

/// `{"product_id": "prod_001", "from": "MUM_WH_001", "to": "DEL_WH_001", "quantity": 10}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Move", into = "Move")]
pub struct Transfer {
    /// Of what.
    pub product_id: ProductId,
    /// From where.
    pub from: Warehouse,
    /// To where, which may not have had any.
    pub to: Warehouse,
    /// How many.
    pub quantity: Quantity,
}

/// [`Transfer`] before it is known that it goes anywhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    product_id: ProductId,
    from: Warehouse,
    to: Warehouse,
    quantity: Quantity,
}

impl TryFrom<Move> for Transfer {
    type Error = String;

    fn try_from(it: Move) -> Result<Self, String> {
        let Move { product_id, from, to, quantity } = it;
        if from == to {
            return Err(format!("a transfer goes to another warehouse, and this one from {from} to {to}"));
        }
        Ok(Self { product_id, from, to, quantity })
    }
}

impl From<Transfer> for Move {
    fn from(it: Transfer) -> Self {
        let Transfer { product_id, from, to, quantity } = it;
        Self { product_id, from, to, quantity }
    }
}

/// How many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub struct Quantity(u32);

impl Quantity {
    /// One.
    pub const ONE: Self = Self(1);

    /// As a number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Quantity {
    type Error = String;

    fn try_from(units: u32) -> Result<Self, String> {
        if (1..=QUANTITY).contains(&units) {
            return Ok(Self(units));
        }
        Err(format!("a quantity goes from 1 to {QUANTITY}, and is {units}"))
    }
}

/// For how long something is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub struct HoldSeconds(u32);

impl HoldSeconds {
    /// As a number of seconds.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for HoldSeconds {
    fn default() -> Self {
        Self(HOLD_DEFAULT)
    }
}

impl TryFrom<u32> for HoldSeconds {
    type Error = String;

    fn try_from(seconds: u32) -> Result<Self, String> {
        if (1..=HOLD).contains(&seconds) {
            return Ok(Self(seconds));
        }
        Err(format!("a hold is 1 to {HOLD} seconds long, and this one {seconds}"))
    }
}

/// A name: what it is of, what may be in it.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $is_one:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, &'static str> {
                let is_one: fn(&str) -> bool = $is_one;
                if is_one(&text) { Ok(Self(text)) } else { Err($rule) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A product.
    ProductId,
    |text| is_word(text, 64, b"_-"),
    "a product is named by 1 to 64 letters, digits, `_` and `-`"
}

name! {
    /// A reservation, named by whoever makes it.
    ReservationId,
    |text| is_word(text, 128, b"_-.:"),
    "a reservation is named by 1 to 128 letters, digits, `_`, `-`, `.` and `:`"
}

name! {
    /// A warehouse. Its name begins with its region's.
    Warehouse,
    |text| {
        let parts = text.split('_').collect::<Vec<_>>();
        let [region, "WH", number] = parts[..] else { return false };
        is_region(region) && number.len() == 3 && number.bytes().all(|it| it.is_ascii_digit())
    },
    "a warehouse is named like MUM_WH_001: three capitals, `_WH_`, three digits"
}

name! {
    /// Where a warehouse is.
    Region,
    |text| is_region(text),
    "a region is named by three capitals, like MUM"
}

impl Warehouse {
    /// Where it is: `MUM`.
    pub fn region(&self) -> &str {
        &self.0[..3]
    }
}

fn is_word(text: &str, longest: usize, signs: &[u8]) -> bool {
    (1..=longest).contains(&text.len())
        && text.bytes().all(|it| it.is_ascii_alphanumeric() || signs.contains(&it))
}

fn is_region(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|it| it.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn wrong<T: serde::de::DeserializeOwned>(body: Value) -> String {
        let read = serde_json::from_value::<T>(body);
        read.err().expect("it is out of bounds").to_string()
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_and_said() {
        let reserve = |items: Value, hold: Value| {
            wrong::<Reserve>(json!({"reservation_id": "a", "items": items, "hold_seconds": hold}))
        };
        let item = |quantity: Value| json!([{"product_id": "a", "quantity": quantity}]);
        let many = (0..=ITEMS).map(|it| json!({"product_id": it.to_string(), "quantity": 1}));
        let twice = json!([{"product_id": "a", "quantity": 1}, {"product_id": "a", "quantity": 1}]);
        let update = |delta: i64, reason: &str| {
            let body =
                json!({"product_id": "a", "warehouse": "MUM_WH_001", "delta": delta, "reason": reason});
            wrong::<UpdateQuantity>(body)
        };
        let golden = [
            (reserve(item(json!(0)), json!(1)), "a quantity goes from 1 to 100000, and is 0"),
            (reserve(item(json!(100_001)), json!(1)), "and is 100001"),
            (reserve(item(json!(-1)), json!(1)), "invalid value: integer `-1`"),
            (reserve(item(json!(1.5)), json!(1)), "invalid type: floating point"),
            (reserve(item(json!(1)), json!(0)), "a hold is 1 to 3600 seconds long, and this one 0"),
            (reserve(item(json!(1)), json!(3601)), "and this one 3601"),
            (reserve(json!([]), json!(1)), "a reservation has 1 to 20 items, and this one has 0"),
            (reserve(many.collect(), json!(1)), "and this one has 21"),
            (reserve(twice, json!(1)), "a is there twice"),
            (update(0, "sold"), "and is 0"),
            (update(100_001, "restocking"), "and is 100001"),
            (update(i64::from(i32::MIN), "sold"), "and is -2147483648"),
            (update(1, "sold"), "`sold` takes away"),
            (update(-1, "returned"), "`returned` adds"),
            (update(1, "stolen"), "unknown variant `stolen`"),
        ];
        for (said, why) in golden {
            assert!(said.contains(why), "{said:?} does not say {why:?}");
        }
    }

    #[test]
    fn names_are_of_their_kind() {
        for good in ["MUM_WH_001", "DEL_WH_999"] {
            assert_eq!(Warehouse::try_from(good.to_owned()).unwrap().region(), &good[..3]);
        }
        for bad in
            ["", "MUM", "mum_WH_001", "MUM_WH_01", "MUM_WH_0001", "MUMB_WH_001", "MUM_WH_001_", "MÜ_WH_001"]
        {
            assert!(Warehouse::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert!(ProductId::try_from("prod_001".to_owned()).is_ok());
        for bad in [String::new(), "a b".into(), "a/b".into(), "ä".into(), "a".repeat(65)] {
            assert!(ProductId::try_from(bad.clone()).is_err(), "{bad}");
        }
        assert!(ReservationId::try_from("ORD_20260115_000001:1".to_owned()).is_ok());
        assert!(ReservationId::try_from("a".repeat(129)).is_err());
    }

    #[test]
    fn a_transfer_goes_somewhere() {
        let body = json!({"product_id": "a", "from": "MUM_WH_001", "to": "MUM_WH_001", "quantity": 1});
        assert!(wrong::<Transfer>(body).contains("to another warehouse"));
    }

    #[test]
    fn a_command_is_read_as_it_was_written() {
        let body = json!({"reserve": {"reservation_id": "a", "items": [{"product_id": "a", "quantity": 1}]}});
        let command = serde_json::from_value::<Command>(body).unwrap();
        let Command::Reserve(reserve) = &command else { panic!("it is another: {command:?}") };
        assert_eq!(reserve.hold_seconds.get(), HOLD_DEFAULT);
        let written = serde_json::to_string(&command).unwrap();
        assert_eq!(serde_json::from_str::<Command>(&written).unwrap(), command);
    }
}
