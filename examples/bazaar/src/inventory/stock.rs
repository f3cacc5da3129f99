//! The stock of a product: what its events make of it, and what may become of it. Numbers in, events out; no clock, no file.
//!
//! # Rules
//! 1. **Each warehouse** has units on hand; some of them are reserved, and the others are available: on hand = available + reserved.
//!    None of the three is ever below zero, because whatever takes units away takes available ones, or those of its own reservation.
//! 2. **A reservation** takes the units of a product from the first warehouse, in the order of their names, that has enough; if none
//!    has, from those that have the most, and then the next. If all of them together have too few, it takes none.
//! 3. **It ends once**, and all of it: as released or expired, and its units are available again; or as completed, and they have left.
//!    It has run out at `expires_at`, whether or not anybody has looked since: after that it cannot be completed.
//! 4. **Low stock.** When the units on hand in a warehouse go down past [`MEDIUM`] or [`HIGH`] (to it, or below), there is an alert,
//!    an event of its own; of one that passes both, the more urgent. There is no other until they have been above again. A
//!    reservation is no reason for one: it may run out.
//!
//! # Bounds
//! A product is in at most [`WAREHOUSES`] warehouses, with at most [`CAPACITY`] units in each.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::command::{HOLD, Item, Items, ProductId, ReleaseReason, ReservationId, UpdateReason, Warehouse};
use crate::{
    kernel::{
        clock::SLACK,
        log::{Aggregate, Event, Recorded},
    },
    rules::moment::Moment,
};

/// Units on hand at which stock is low.
pub const MEDIUM: u32 = 50;

/// Units on hand at which it is very low.
pub const HIGH: u32 = 10;

/// In how many warehouses a product can be.
pub const WAREHOUSES: usize = 16;

/// How many units of a product a warehouse can have.
pub const CAPACITY: u32 = 1_000_000;

/// What can happen to the stock of a product. Which product it is, its stream says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "data", rename_all = "snake_case")]
pub enum StockEvent {
    /// A warehouse has taken it in for the first time.
    ProductAdded {
        /// Where.
        warehouse: Warehouse,
        /// With how many units.
        quantity: u32,
    },
    /// Units have come or gone.
    QuantityUpdated {
        /// Where.
        warehouse: Warehouse,
        /// How many have come, or, below zero, gone.
        delta: i32,
        /// Why.
        reason: UpdateReason,
    },
    /// Units were promised.
    InventoryReserved {
        /// For what.
        reservation_id: ReservationId,
        /// Until when.
        expires_at: Moment,
        /// Which.
        allocations: Vec<Allocation>,
    },
    /// A promise has ended.
    ReservationReleased {
        /// Which.
        reservation_id: ReservationId,
        /// Why. `order_completed` means that the units have left the warehouse.
        reason: ReleaseReason,
        /// Of which units.
        allocations: Vec<Allocation>,
    },
    /// Units have gone from one warehouse to another.
    InventoryTransferred {
        /// From where.
        from: Warehouse,
        /// To where.
        to: Warehouse,
        /// How many.
        quantity: u32,
    },
    /// Stock has become low. Changes nothing.
    LowStockAlert {
        /// Where.
        warehouse: Warehouse,
        /// How low.
        urgency: Urgency,
        /// How many units were on hand then.
        on_hand: u32,
    },
}

/// How low stock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// At [`MEDIUM`] or below.
    Medium,
    /// At [`HIGH`] or below.
    High,
}

impl Urgency {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// Units of a warehouse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// Where.
    pub warehouse: Warehouse,
    /// How many.
    pub quantity: u32,
}

impl Event for StockEvent {
    fn kind(&self) -> &'static str {
        match self {
            Self::ProductAdded { .. } => "product_added",
            Self::QuantityUpdated { .. } => "quantity_updated",
            Self::InventoryReserved { .. } => "inventory_reserved",
            Self::ReservationReleased { .. } => "reservation_released",
            Self::InventoryTransferred { .. } => "inventory_transferred",
            Self::LowStockAlert { .. } => "low_stock_alert",
        }
    }

    fn write(&self) -> serde_json::Result<Value> {
        serde_json::to_value(self).map(|mut both| both["data"].take())
    }

    fn read(kind: &str, schema: u32, data: Value) -> Result<Self, String> {
        if schema != 1 {
            return Err(format!("this program reads the form 1, and it is of the form {schema}"));
        }
        serde_json::from_value(json!({"kind": kind, "data": data})).map_err(|it| it.to_string())
    }
}

/// The stock of a product.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stock {
    /// By warehouse.
    pub shelves: BTreeMap<Warehouse, Shelf>,
}

/// What a warehouse has of a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelf {
    /// All units.
    pub on_hand: u32,
    /// Those that are promised.
    pub reserved: u32,
}

impl Shelf {
    /// Those that can be promised.
    pub const fn available(self) -> u32 {
        self.on_hand.saturating_sub(self.reserved)
    }
}

impl Aggregate for Stock {
    type Event = StockEvent;

    const FORM: u32 = 1;

    fn apply(&mut self, event: &Recorded<StockEvent>) {
        self.becomes(&event.event);
    }
}

/// Why something is not done. None of these is anybody's mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Refusal {
    /// There are too few units that are not promised.
    OutOfStock {
        /// Of what.
        product_id: ProductId,
        /// How many were wanted.
        wanted: u32,
        /// How many there are.
        available: u32,
    },
    /// The reservation has ended, in another way than is asked for.
    ReservationOver {
        /// Which.
        reservation_id: ReservationId,
        /// How.
        state: State,
    },
    /// The reservation is there already, with other items.
    ReservationReused {
        /// Which.
        reservation_id: ReservationId,
    },
    /// There is no such reservation, or it has ended long ago.
    UnknownReservation {
        /// Which.
        reservation_id: ReservationId,
    },
    /// No warehouse has ever had it.
    UnknownProduct {
        /// What.
        product_id: ProductId,
    },
    /// This warehouse has never had it.
    UnknownWarehouse {
        /// What.
        product_id: ProductId,
        /// Which.
        warehouse: Warehouse,
    },
    /// The warehouse has taken it in already.
    AlreadyAdded {
        /// What.
        product_id: ProductId,
        /// Which.
        warehouse: Warehouse,
    },
    /// The warehouse has no room for so many, or the product is in too many warehouses.
    NoRoom {
        /// What.
        product_id: ProductId,
        /// Which.
        warehouse: Warehouse,
    },
}

impl Stock {
    /// A warehouse takes it in for the first time.
    pub fn add(
        &self,
        product_id: &ProductId,
        warehouse: &Warehouse,
        quantity: u32,
    ) -> Result<Vec<StockEvent>, Refusal> {
        let (product_id, warehouse) = (product_id.clone(), warehouse.clone());
        if self.shelves.contains_key(&warehouse) {
            return Err(Refusal::AlreadyAdded { product_id, warehouse });
        }
        if self.shelves.len() >= WAREHOUSES {
            return Err(Refusal::NoRoom { product_id, warehouse });
        }
        Ok(vec![StockEvent::ProductAdded { warehouse, quantity }])
    }

    /// Units come or go.
    pub fn update(
        &self,
        product_id: &ProductId,
        warehouse: &Warehouse,
        delta: i32,
        reason: UpdateReason,
    ) -> Result<Vec<StockEvent>, Refusal> {
        let shelf = self.shelf(product_id, warehouse)?;
        let units = delta.unsigned_abs();
        if delta > 0 {
            room(shelf, units, product_id, warehouse)?;
        } else {
            enough(shelf.available(), units, product_id)?;
        }
        Ok(self.with_alert(StockEvent::QuantityUpdated { warehouse: warehouse.clone(), delta, reason }))
    }

    /// Units go from one warehouse to another.
    pub fn transfer(
        &self,
        product_id: &ProductId,
        from: &Warehouse,
        to: &Warehouse,
        quantity: u32,
    ) -> Result<Vec<StockEvent>, Refusal> {
        enough(self.shelf(product_id, from)?.available(), quantity, product_id)?;
        let there = self.shelves.get(to).copied();
        if there.is_none() && self.shelves.len() >= WAREHOUSES {
            return Err(Refusal::NoRoom { product_id: product_id.clone(), warehouse: to.clone() });
        }
        room(there.unwrap_or_default(), quantity, product_id, to)?;
        let (from, to) = (from.clone(), to.clone());
        Ok(self.with_alert(StockEvent::InventoryTransferred { from, to, quantity }))
    }

    /// Which units a reservation gets.
    pub fn allocate(&self, product_id: &ProductId, quantity: u32) -> Result<Vec<Allocation>, Refusal> {
        let allocation =
            |warehouse: &Warehouse, quantity| Allocation { warehouse: warehouse.clone(), quantity };
        if let Some((warehouse, _)) = self.shelves.iter().find(|(_, shelf)| shelf.available() >= quantity) {
            return Ok(vec![allocation(warehouse, quantity)]);
        }
        enough(self.shelves.values().map(|it| it.available()).sum(), quantity, product_id)?;
        let mut shelves = self.shelves.iter().filter(|(_, shelf)| shelf.available() > 0).collect::<Vec<_>>();
        shelves.sort_by_key(|(_, shelf)| Reverse(shelf.available())); // Equal ones stay in the order of their names.
        let (mut left, mut allocations) = (quantity, Vec::new());
        for (warehouse, shelf) in shelves {
            let taken = shelf.available().min(left);
            if taken > 0 {
                allocations.push(allocation(warehouse, taken));
                left -= taken;
            }
        }
        Ok(allocations)
    }

    /// Units that had left come back to where they were.
    pub fn put_back(allocations: &[Allocation]) -> Vec<StockEvent> {
        let returned = allocations.iter().map(|Allocation { warehouse, quantity }| {
            let delta = i32::try_from(*quantity).unwrap_or(i32::MAX);
            StockEvent::QuantityUpdated {
                warehouse: warehouse.clone(),
                delta,
                reason: UpdateReason::Returned,
            }
        });
        returned.collect()
    }

    /// A reservation of these units ends.
    pub fn release(
        &self,
        reservation_id: &ReservationId,
        reason: ReleaseReason,
        allocations: &[Allocation],
    ) -> Vec<StockEvent> {
        let (reservation_id, allocations) = (reservation_id.clone(), allocations.to_vec());
        self.with_alert(StockEvent::ReservationReleased { reservation_id, reason, allocations })
    }

    /// What becomes of it. What was written has happened, so nothing fails here.
    pub fn becomes(&mut self, event: &StockEvent) {
        match event {
            StockEvent::ProductAdded { warehouse, quantity } => self.at(warehouse).on_hand += quantity,
            StockEvent::QuantityUpdated { warehouse, delta, .. } => {
                let shelf = self.at(warehouse);
                shelf.on_hand = shelf.on_hand.saturating_add_signed(*delta);
            }
            StockEvent::InventoryReserved { allocations, .. } => {
                for Allocation { warehouse, quantity } in allocations {
                    self.at(warehouse).reserved += quantity;
                }
            }
            StockEvent::ReservationReleased { reason, allocations, .. } => {
                for Allocation { warehouse, quantity } in allocations {
                    let shelf = self.at(warehouse);
                    shelf.reserved = shelf.reserved.saturating_sub(*quantity);
                    if *reason == ReleaseReason::OrderCompleted {
                        shelf.on_hand = shelf.on_hand.saturating_sub(*quantity);
                    }
                }
            }
            StockEvent::InventoryTransferred { from, to, quantity } => {
                let shelf = self.at(from);
                shelf.on_hand = shelf.on_hand.saturating_sub(*quantity);
                self.at(to).on_hand += quantity;
            }
            StockEvent::LowStockAlert { .. } => {}
        }
    }

    fn at(&mut self, warehouse: &Warehouse) -> &mut Shelf {
        self.shelves.entry(warehouse.clone()).or_default()
    }

    fn shelf(&self, product_id: &ProductId, warehouse: &Warehouse) -> Result<Shelf, Refusal> {
        let product_id = product_id.clone();
        if self.shelves.is_empty() {
            return Err(Refusal::UnknownProduct { product_id });
        }
        let unknown = || Refusal::UnknownWarehouse { product_id, warehouse: warehouse.clone() };
        self.shelves.get(warehouse).copied().ok_or_else(unknown)
    }

    /// The event, and the alerts that follow from it.
    fn with_alert(&self, event: StockEvent) -> Vec<StockEvent> {
        let mut after = self.clone();
        after.becomes(&event);
        let alerts = after.shelves.into_iter().filter_map(|(warehouse, shelf)| {
            let before = self.shelves.get(&warehouse).map_or(0, |it| it.on_hand);
            let urgency = low(before, shelf.on_hand)?;
            Some(StockEvent::LowStockAlert { warehouse, urgency, on_hand: shelf.on_hand })
        });
        let alerts = alerts.collect::<Vec<_>>();
        [vec![event], alerts].concat()
    }
}

/// Whether stock has become low.
fn low(before: u32, after: u32) -> Option<Urgency> {
    let passes = |level: u32| before > level && after <= level;
    match () {
        () if passes(HIGH) => Some(Urgency::High),
        () if passes(MEDIUM) => Some(Urgency::Medium),
        () => None,
    }
}

fn enough(available: u32, wanted: u32, product_id: &ProductId) -> Result<(), Refusal> {
    if available >= wanted {
        return Ok(());
    }
    Err(Refusal::OutOfStock { product_id: product_id.clone(), wanted, available })
}

fn room(shelf: Shelf, more: u32, product_id: &ProductId, warehouse: &Warehouse) -> Result<(), Refusal> {
    if CAPACITY.saturating_sub(shelf.on_hand) >= more {
        return Ok(());
    }
    Err(Refusal::NoRoom { product_id: product_id.clone(), warehouse: warehouse.clone() })
}

/// How far a reservation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its units are promised.
    Held,
    /// Nobody wants it any more; also if it was never made.
    Released,
    /// Its units have left.
    Completed,
    /// It has run out.
    Expired,
    /// Its units had left, and are back.
    Returned,
}

impl State {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Released => "released",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Returned => "returned",
        }
    }
}

impl From<ReleaseReason> for State {
    fn from(reason: ReleaseReason) -> Self {
        match reason {
            ReleaseReason::OrderCancelled | ReleaseReason::OrderReturned => Self::Released,
            ReleaseReason::OrderCompleted => Self::Completed,
            ReleaseReason::Expired => Self::Expired,
        }
    }
}

/// A reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The name that was given to it.
    pub reservation_id: ReservationId,
    /// How far it has come.
    pub state: State,
    /// What was asked for; nothing if it ended before it was made.
    pub items: Option<Items>,
    /// The units, by product.
    pub lines: Vec<Line>,
    /// Until when it is held.
    pub expires_at: Moment,
}

/// The units of a product that a reservation has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Of what.
    pub product_id: ProductId,
    /// Which.
    pub allocations: Vec<Allocation>,
}

/// What an end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has ended so already.
    Known,
    /// It ends now, so.
    Now(ReleaseReason),
    /// It has ended, and its units come back now.
    Back,
}

impl Reservation {
    /// Whether it is asked for again, and not another one of the same name.
    pub fn again(&self, items: &Items, now: Moment) -> Result<(), Refusal> {
        let reservation_id = self.reservation_id.clone();
        if self.items.as_ref().is_some_and(|it| it != items) {
            return Err(Refusal::ReservationReused { reservation_id });
        }
        match self.state(now) {
            State::Held => Ok(()),
            state => Err(Refusal::ReservationOver { reservation_id, state }),
        }
    }

    /// What it means that it is to end.
    pub fn end(&self, reason: ReleaseReason, now: Moment) -> Result<End, Refusal> {
        let completes = reason == ReleaseReason::OrderCompleted;
        match self.state(now) {
            State::Held if reason == ReleaseReason::OrderReturned => {
                Ok(End::Now(ReleaseReason::OrderCancelled))
            }
            State::Held => Ok(End::Now(reason)),
            State::Completed if reason == ReleaseReason::OrderReturned => Ok(End::Back),
            State::Expired if self.state == State::Held && !completes => Ok(End::Now(ReleaseReason::Expired)),
            State::Expired | State::Released | State::Returned if !completes => Ok(End::Known),
            State::Completed if completes => Ok(End::Known),
            state => Err(Refusal::ReservationOver { reservation_id: self.reservation_id.clone(), state }),
        }
    }

    /// Its state; one that has run out is expired, whether or not anybody has written that down.
    fn state(&self, now: Moment) -> State {
        let is_over = self.state == State::Held && has_run_out(self.expires_at, now);
        if is_over { State::Expired } else { self.state }
    }
}

/// Whether a hold has run out; one that ends later than any can was made by a clock that showed another time.
pub fn has_run_out(expires_at: Moment, now: Moment) -> bool {
    expires_at <= now || expires_at > latest(now)
}

/// When a hold that is made now can end, at the latest.
pub fn latest(now: Moment) -> Moment {
    now.after(Duration::from_secs(HOLD.into())).after(SLACK)
}

/// The units that a reservation gets of an item.
pub fn line(stock: &Stock, Item { product_id, quantity }: &Item) -> Result<Line, Refusal> {
    let allocations = stock.allocate(product_id, quantity.get())?;
    Ok(Line { product_id: product_id.clone(), allocations })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Moment = Moment::from_unix(1_768_458_600);

    fn warehouse(region: &str) -> Warehouse {
        format!("{region}_WH_001").try_into().unwrap()
    }

    fn product() -> ProductId {
        "prod_001".to_owned().try_into().unwrap()
    }

    fn stock(shelves: &[(&str, u32, u32)]) -> Stock {
        let shelves = shelves
            .iter()
            .map(|&(region, on_hand, reserved)| (warehouse(region), Shelf { on_hand, reserved }));
        Stock { shelves: shelves.collect() }
    }

    fn taken(stock: &Stock, quantity: u32) -> Vec<(String, u32)> {
        let allocations = stock.allocate(&product(), quantity).unwrap();
        allocations.into_iter().map(|it| (it.warehouse.region().to_owned(), it.quantity)).collect()
    }

    #[test]
    fn r6_5_the_first_warehouse_with_enough_is_taken_or_as_few_as_can_be() {
        let stock = stock(&[("AAA", 5, 0), ("BBB", 20, 10), ("CCC", 20, 0), ("DDD", 1, 1)]);
        assert_eq!(taken(&stock, 5), [("AAA".into(), 5)]);
        assert_eq!(taken(&stock, 10), [("BBB".into(), 10)]);
        assert_eq!(taken(&stock, 11), [("CCC".into(), 11)]);
        assert_eq!(taken(&stock, 25), [("CCC".into(), 20), ("BBB".into(), 5)]);
        assert_eq!(taken(&stock, 35), [("CCC".into(), 20), ("BBB".into(), 10), ("AAA".into(), 5)]);
        let refused = stock.allocate(&product(), 36);
        assert_eq!(refused, Err(Refusal::OutOfStock { product_id: product(), wanted: 36, available: 35 }));
    }

    #[test]
    fn what_is_promised_is_not_sold_nor_moved() {
        let stock = stock(&[("MUM", 10, 4)]);
        let (mumbai, delhi) = (warehouse("MUM"), warehouse("DEL"));
        assert!(stock.update(&product(), &mumbai, -6, UpdateReason::Sold).is_ok());
        assert!(stock.transfer(&product(), &mumbai, &delhi, 6).is_ok());
        let refused = Err(Refusal::OutOfStock { product_id: product(), wanted: 7, available: 6 });
        assert_eq!(stock.update(&product(), &mumbai, -7, UpdateReason::Damaged), refused);
        assert_eq!(stock.transfer(&product(), &mumbai, &delhi, 7), refused);
    }

    #[test]
    fn r6_7_each_way_down_past_a_level_is_told_once() {
        let golden = [
            (100, 51, None),
            (51, 50, Some(Urgency::Medium)),
            (50, 49, None),
            (49, 11, None),
            (11, 10, Some(Urgency::High)),
            (10, 0, None),
            (60, 5, Some(Urgency::High)),
            (0, 50, None),
            (10, 60, None),
            (50, 50, None),
        ];
        for (before, after, urgency) in golden {
            assert_eq!(low(before, after), urgency, "{before} to {after}");
        }
    }

    #[test]
    fn r6_7_an_alert_is_an_event_of_its_own() {
        let stock = stock(&[("MUM", 60, 30), ("DEL", 5, 0)]);
        let alert = |region, urgency, on_hand| StockEvent::LowStockAlert {
            warehouse: warehouse(region),
            urgency,
            on_hand,
        };
        let sold = stock.update(&product(), &warehouse("MUM"), -10, UpdateReason::Sold).unwrap();
        assert_eq!(sold[1..], [alert("MUM", Urgency::Medium, 50)]);
        let moved = stock.transfer(&product(), &warehouse("MUM"), &warehouse("DEL"), 20).unwrap();
        assert_eq!(moved[1..], [alert("MUM", Urgency::Medium, 40)]);
        let id = ReservationId::try_from("a".to_owned()).unwrap();
        let allocations = [Allocation { warehouse: warehouse("MUM"), quantity: 30 }];
        let left = stock.release(&id, ReleaseReason::OrderCompleted, &allocations);
        assert_eq!(left[1..], [alert("MUM", Urgency::Medium, 30)]);
        assert_eq!(stock.release(&id, ReleaseReason::OrderCancelled, &allocations).len(), 1);
    }

    #[test]
    fn there_is_an_end_to_room() {
        let full = stock(&[("MUM", CAPACITY, 0), ("DEL", 1, 0)]);
        let no_room = Err(Refusal::NoRoom { product_id: product(), warehouse: warehouse("MUM") });
        assert_eq!(full.update(&product(), &warehouse("MUM"), 1, UpdateReason::Restocking), no_room);
        assert_eq!(full.transfer(&product(), &warehouse("DEL"), &warehouse("MUM"), 1), no_room);
        let mut wide = Stock::default();
        for number in 0..WAREHOUSES {
            let warehouse = Warehouse::try_from(format!("MUM_WH_{number:03}")).unwrap();
            for event in wide.add(&product(), &warehouse, 1).unwrap() {
                wide.becomes(&event);
            }
        }
        let no_room = Err(Refusal::NoRoom { product_id: product(), warehouse: warehouse("DEL") });
        assert_eq!(wide.add(&product(), &warehouse("DEL"), 1), no_room);
        let from = Warehouse::try_from("MUM_WH_000".to_owned()).unwrap();
        assert_eq!(wide.transfer(&product(), &from, &warehouse("DEL"), 1), no_room);
    }

    #[test]
    fn r6_4_a_reservation_ends_once() {
        use ReleaseReason::{Expired, OrderCancelled, OrderCompleted, OrderReturned};
        let (before, after) = (NOON, NOON.after(Duration::from_mins(1)));
        let reservation = |state| Reservation {
            reservation_id: "a".to_owned().try_into().unwrap(),
            state,
            items: None,
            lines: Vec::new(),
            expires_at: after,
        };
        let over = |state| {
            Err(Refusal::ReservationOver { reservation_id: reservation(state).reservation_id, state })
        };
        let (cancel, complete, expire, back) = (OrderCancelled, OrderCompleted, Expired, OrderReturned);
        let golden = [
            (State::Held, before, cancel, Ok(End::Now(OrderCancelled))),
            (State::Held, before, complete, Ok(End::Now(OrderCompleted))),
            (State::Held, before, expire, Ok(End::Now(Expired))),
            (State::Held, after, cancel, Ok(End::Now(Expired))),
            (State::Held, after, complete, over(State::Expired)),
            (State::Held, after, expire, Ok(End::Now(Expired))),
            (State::Released, before, cancel, Ok(End::Known)),
            (State::Released, before, complete, over(State::Released)),
            (State::Released, before, expire, Ok(End::Known)),
            (State::Completed, before, cancel, over(State::Completed)),
            (State::Completed, after, complete, Ok(End::Known)),
            (State::Completed, before, expire, over(State::Completed)),
            (State::Expired, after, cancel, Ok(End::Known)),
            (State::Expired, after, complete, over(State::Expired)),
            (State::Expired, after, expire, Ok(End::Known)),
            (State::Held, before, back, Ok(End::Now(OrderCancelled))),
            (State::Held, after, back, Ok(End::Now(Expired))),
            (State::Released, before, back, Ok(End::Known)),
            (State::Expired, before, back, Ok(End::Known)),
            (State::Completed, after, back, Ok(End::Back)),
            (State::Returned, after, back, Ok(End::Known)),
            (State::Returned, after, cancel, Ok(End::Known)),
            (State::Returned, after, complete, over(State::Returned)),
        ];
        for (state, now, reason, end) in golden {
            assert_eq!(reservation(state).end(reason, now), end, "{state:?} {now} {reason:?}");
        }
    }

    #[test]
    fn a_hold_of_a_clock_that_showed_another_time_has_run_out() {
        assert!(!has_run_out(latest(NOON), NOON));
        assert!(has_run_out(latest(NOON).after(Duration::from_secs(1)), NOON));
        assert!(has_run_out(NOON, NOON));
    }

    /// Whatever was ever written is read; names in the log do not change.
    #[test]
    fn r6_1_all_six_events_are_read_as_they_are_written() {
        let allocations = json!([{"warehouse": "MUM_WH_001", "quantity": 2}]);
        let at = "2026-01-15T12:15:00+05:30";
        let golden = [
            ("product_added", json!({"warehouse": "MUM_WH_001", "quantity": 100})),
            ("quantity_updated", json!({"warehouse": "MUM_WH_001", "delta": -25, "reason": "sold"})),
            (
                "inventory_reserved",
                json!({"reservation_id": "a", "expires_at": at, "allocations": allocations}),
            ),
            (
                "reservation_released",
                json!({"reservation_id": "a", "reason": "order_completed", "allocations": allocations}),
            ),
            ("inventory_transferred", json!({"from": "MUM_WH_001", "to": "DEL_WH_001", "quantity": 1})),
            ("low_stock_alert", json!({"warehouse": "MUM_WH_001", "urgency": "high", "on_hand": 9})),
        ];
        for (kind, data) in golden {
            let event = StockEvent::read(kind, 1, data.clone()).unwrap();
            assert_eq!((event.kind(), event.write().unwrap()), (kind, data));
        }
        assert!(StockEvent::read("stolen", 1, json!({})).is_err());
        assert!(StockEvent::read("product_added", 2, json!({})).unwrap_err().contains("form 2"));
    }
}
