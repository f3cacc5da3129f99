//! The life of an order, as events, and what they make of it.
//!
//! # Events
//! Fifteen, as the original had them, and one more: `order_processing`, since its state had none.
//!
//! | event | what it changes |
//! |---|---|
//! | `order_placed` | there is an order, with its goods and what it costs |
//! | `order_validated` | nothing but that it may go on |
//! | `inventory_reserved` | the goods are held, until then |
//! | `inventory_unavailable` | the goods are not there; `order_cancelled` follows |
//! | `payment_initiated` | which payment is tried |
//! | `payment_completed` | what was captured |
//! | `payment_failed` | one attempt more has failed; the third ends the order |
//! | `order_confirmed` | **confirmed** |
//! | `order_processing` | **processing**: a parcel, and when it arrives |
//! | `order_shipped` | **shipped** |
//! | `order_in_transit` | where the parcel was last; still shipped |
//! | `order_out_for_delivery` | **`out_for_delivery`** |
//! | `order_delivered` | **delivered** |
//! | `order_cancelled` | **cancelled**, and why |
//! | `order_returned` | **returned**, and why |
//! | `order_refunded` | **refunded**: what was captured was given back |
//!
//! Which state follows which is the rule of [`rules::order`](crate::rules::order); [`Order::may`] holds every event to it.
//!
//! # Personal data
//! None in events but who ordered: who lives where, and what they write when they call it off, is in tables of their own, which can
//! be emptied. Events know the city and the state, which tax needs.
//!
//! # Forms
//! `order_placed` was first written without `delivery`, which was then always standard (form 1); form 2 says it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    kernel::log::{Aggregate, Event, Recorded},
    rules::{
        address::{City, Territory},
        category::Category,
        language::Language,
        moment::Moment,
        money::Money,
        order::{State, Step},
        payment::Method,
        shipping::Speed,
    },
};

/// Why an order ended that its customer wanted to end.
pub const BY_CUSTOMER: &str = "by_customer";

/// After so many failed payments an order is over.
pub const PAYMENT_ATTEMPTS: u32 = 3;

/// What is ordered of a product, at the price of that moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Which.
    pub product_id: String,
    /// Its name, in the customer's language.
    pub name: String,
    /// Its tax code.
    pub hsn: String,
    /// Its category.
    pub category: Category,
    /// What a piece costs, tax-inclusive.
    pub price: Money,
    /// How many.
    pub quantity: u32,
}

/// Something that has happened to an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "data", rename_all = "snake_case")]
pub enum OrderEvent {
    /// There is an order.
    OrderPlaced {
        /// Whose.
        user_id: String,
        /// What.
        lines: Vec<Line>,
        /// What delivery costs.
        shipping: Money,
        /// All of it.
        total: Money,
        /// Whether all of it may be paid on delivery.
        cod: bool,
        /// How it is to be paid.
        payment_method: Method,
        /// Where it goes.
        city: City,
        /// In which state that is.
        territory: Territory,
        /// In which language the customer is told of it.
        language: Language,
        /// How fast.
        delivery: Speed,
        /// When the goods arrive, at the latest, if it is paid at once.
        promised_by: Moment,
    },
    /// It may go on.
    OrderValidated {},
    /// Its goods are held.
    InventoryReserved {
        /// Until then.
        expires_at: Moment,
    },
    /// Its goods are not there.
    InventoryUnavailable {
        /// Why.
        detail: String,
    },
    /// A payment is tried.
    PaymentInitiated {
        /// How.
        method: Method,
    },
    /// The money is taken.
    PaymentCompleted {
        /// Which payment.
        payment_id: String,
        /// How much.
        amount: Money,
        /// How.
        method: Method,
        /// What the bank calls it.
        transaction_id: Option<String>,
    },
    /// A payment has failed.
    PaymentFailed {
        /// Which payment, if it had an id.
        payment_id: Option<String>,
        /// Why.
        reason: String,
    },
    /// It is paid, or is to be paid on delivery.
    OrderConfirmed {},
    /// It is packed.
    OrderProcessing {
        /// The parcel.
        tracking_id: String,
    },
    /// The courier has it.
    OrderShipped {},
    /// The courier has it somewhere.
    OrderInTransit {
        /// Where.
        at: String,
    },
    /// The courier is on the way.
    OrderOutForDelivery {},
    /// The customer has it.
    OrderDelivered {},
    /// It was called off.
    OrderCancelled {
        /// Why: a word for programs.
        reason: String,
    },
    /// It came back.
    OrderReturned {
        /// Why: a word for programs.
        reason: String,
    },
    /// What was paid was given back.
    OrderRefunded {
        /// How much.
        amount: Money,
    },
}

impl Event for OrderEvent {
    fn kind(&self) -> &'static str {
        match self {
            Self::OrderPlaced { .. } => "order_placed",
            Self::OrderValidated {} => "order_validated",
            Self::InventoryReserved { .. } => "inventory_reserved",
            Self::InventoryUnavailable { .. } => "inventory_unavailable",
            Self::PaymentInitiated { .. } => "payment_initiated",
            Self::PaymentCompleted { .. } => "payment_completed",
            Self::PaymentFailed { .. } => "payment_failed",
            Self::OrderConfirmed {} => "order_confirmed",
            Self::OrderProcessing { .. } => "order_processing",
            Self::OrderShipped {} => "order_shipped",
            Self::OrderInTransit { .. } => "order_in_transit",
            Self::OrderOutForDelivery {} => "order_out_for_delivery",
            Self::OrderDelivered {} => "order_delivered",
            Self::OrderCancelled { .. } => "order_cancelled",
            Self::OrderReturned { .. } => "order_returned",
            Self::OrderRefunded { .. } => "order_refunded",
        }
    }

    fn schema(&self) -> u32 {
        if matches!(self, Self::OrderPlaced { .. }) { 2 } else { 1 }
    }

    fn write(&self) -> serde_json::Result<Value> {
        Ok(serde_json::to_value(self)?["data"].take())
    }

    fn read(kind: &str, schema: u32, data: Value) -> Result<Self, String> {
        let mut data = data;
        match (kind, schema) {
            ("order_placed", 1) => data["delivery"] = serde_json::json!(Speed::Standard),
            ("order_placed", 2) | (_, 1) => {}
            _ => return Err("this form is of a newer program".to_owned()),
        }
        let event = serde_json::json!({"kind": kind, "data": data});
        serde_json::from_value(event).map_err(|error| error.to_string())
    }
}

impl OrderEvent {
    /// In words.
    pub fn describe(&self, language: Language) -> String {
        let is_hindi = language == Language::Hi;
        let say = |en: String, hi: String| if is_hindi { hi } else { en };
        match self {
            Self::OrderPlaced { total, .. } => {
                say(format!("Order placed for ₹{total}"), format!("₹{total} का ऑर्डर दिया गया"))
            }
            Self::OrderValidated {} => say("Order checked".into(), "ऑर्डर की जाँच हुई".into()),
            Self::InventoryReserved { expires_at } => say(
                format!("Goods held until {expires_at}"),
                format!("सामान {expires_at} तक आपके लिए रखा गया"),
            ),
            Self::InventoryUnavailable { .. } => {
                say("Goods are out of stock".into(), "सामान उपलब्ध नहीं है".into())
            }
            Self::PaymentInitiated { method } => {
                say(format!("Payment by {method} begun"), format!("{method} से भुगतान शुरू"))
            }
            Self::PaymentCompleted { amount, .. } => {
                say(format!("Payment of ₹{amount} received"), format!("₹{amount} का भुगतान मिला"))
            }
            Self::PaymentFailed { reason, .. } => {
                say(format!("Payment failed ({reason})"), format!("भुगतान असफल ({reason})"))
            }
            Self::OrderConfirmed {} => say("Order confirmed".into(), "ऑर्डर की पुष्टि हुई".into()),
            Self::OrderProcessing { tracking_id } => say(
                format!("Being packed, parcel {tracking_id}"),
                format!("पैकिंग हो रही है, पार्सल {tracking_id}"),
            ),
            Self::OrderShipped {} => say("Handed to the courier".into(), "कूरियर को सौंपा गया".into()),
            Self::OrderInTransit { at } => say(format!("On its way: {at}"), format!("रास्ते में: {at}")),
            Self::OrderOutForDelivery {} => say("Out for delivery".into(), "डिलीवरी के लिए निकला".into()),
            Self::OrderDelivered {} => say("Delivered".into(), "पहुँचा दिया गया".into()),
            Self::OrderCancelled { reason } if reason == BY_CUSTOMER => {
                say("Cancelled as you wished".into(), "आपके कहने पर रद्द किया गया".into())
            }
            Self::OrderReturned { reason } if reason == BY_CUSTOMER => {
                say("Sent back by you".into(), "आपने वापस भेजा".into())
            }
            Self::OrderCancelled { reason } => {
                say(format!("Cancelled ({reason})"), format!("रद्द किया गया ({reason})"))
            }
            Self::OrderReturned { reason } => {
                say(format!("Returned ({reason})"), format!("वापस किया गया ({reason})"))
            }
            Self::OrderRefunded { amount } => {
                say(format!("₹{amount} refunded"), format!("₹{amount} लौटाए गए"))
            }
        }
    }

    /// To which state it leads, if to another.
    fn leads_to(&self) -> Option<State> {
        Some(match self {
            Self::OrderConfirmed {} => State::Confirmed,
            Self::OrderProcessing { .. } => State::Processing,
            Self::OrderShipped {} => State::Shipped,
            Self::OrderOutForDelivery {} => State::OutForDelivery,
            Self::OrderDelivered {} => State::Delivered,
            Self::OrderCancelled { .. } => State::Cancelled,
            Self::OrderReturned { .. } => State::Returned,
            Self::OrderRefunded { .. } => State::Refunded,
            _ => return None,
        })
    }
}

/// An order, as its events make it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What it was placed with; nothing, if there is none.
    pub placed: Option<Placed>,
    /// How far it has come; nothing, if there is none.
    pub state: Option<State>,
    /// Whether it was checked.
    pub is_validated: bool,
    /// Until when its goods are held.
    pub held_until: Option<Moment>,
    /// What was captured, and by which payment.
    pub captured: Option<Captured>,
    /// How many payments have failed.
    pub failed_payments: u32,
    /// Its parcel.
    pub tracking_id: Option<String>,
    /// Where the parcel was last.
    pub last_seen: Option<String>,
    /// Why it was called off or came back.
    pub reason: Option<String>,
    /// How it ended, if it did: cancelled or returned, whatever was given back since.
    pub ended: Option<State>,
    /// What was given back.
    pub refunded: Money,
    /// When it changed last.
    pub changed_at: Option<Moment>,
}

/// What an order was placed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Whose.
    pub user_id: String,
    /// What.
    pub lines: Vec<Line>,
    /// What delivery costs.
    pub shipping: Money,
    /// All of it.
    pub total: Money,
    /// Whether all of it may be paid on delivery.
    pub cod: bool,
    /// How it is to be paid.
    pub payment_method: Method,
    /// Where it goes.
    pub city: City,
    /// In which state that is.
    pub territory: Territory,
    /// In which language the customer is told of it.
    pub language: Language,
    /// How fast.
    pub delivery: Speed,
    /// When the goods arrive, at the latest.
    pub promised_by: Moment,
    /// When it was placed.
    pub at: Moment,
}

/// What was captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// By which payment.
    pub payment_id: String,
    /// How much.
    pub amount: Money,
    /// How.
    pub method: Method,
}

impl Aggregate for Order {
    type Event = OrderEvent;

    const FORM: u32 = 2;

    fn apply(&mut self, recorded: &Recorded<OrderEvent>) {
        self.changed_at = Some(recorded.at);
        if let Some(state) = recorded.event.leads_to() {
            self.state = Some(state);
            self.ended =
                self.ended.or(Some(state).filter(|it| matches!(it, State::Cancelled | State::Returned)));
        }
        match recorded.event.clone() {
            OrderEvent::OrderPlaced {
                user_id,
                lines,
                shipping,
                total,
                cod,
                payment_method,
                city,
                territory,
                language,
                delivery,
                promised_by,
            } => {
                let at = recorded.at;
                self.state = Some(State::Placed);
                self.placed = Some(Placed {
                    user_id,
                    lines,
                    shipping,
                    total,
                    cod,
                    payment_method,
                    city,
                    territory,
                    language,
                    delivery,
                    promised_by,
                    at,
                });
            }
            OrderEvent::OrderValidated {} => self.is_validated = true,
            OrderEvent::InventoryReserved { expires_at } => self.held_until = Some(expires_at),
            OrderEvent::PaymentCompleted { payment_id, amount, method, .. } => {
                self.captured = Some(Captured { payment_id, amount, method });
            }
            OrderEvent::PaymentFailed { .. } => self.failed_payments += 1,
            OrderEvent::OrderProcessing { tracking_id } => self.tracking_id = Some(tracking_id),
            OrderEvent::OrderInTransit { at } => self.last_seen = Some(at),
            OrderEvent::OrderCancelled { reason } | OrderEvent::OrderReturned { reason } => {
                self.reason = Some(reason);
                self.held_until = None;
            }
            OrderEvent::OrderRefunded { amount } => self.refunded = amount,
            OrderEvent::InventoryUnavailable { detail } => self.reason = Some(detail),
            OrderEvent::PaymentInitiated { .. }
            | OrderEvent::OrderConfirmed {}
            | OrderEvent::OrderShipped {}
            | OrderEvent::OrderOutForDelivery {}
            | OrderEvent::OrderDelivered {} => {}
        }
    }
}

/// Why an event may not happen now: a word for programs, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Never {
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub detail: String,
}

impl Order {
    /// What it was placed with.
    ///
    /// # Errors
    /// If there is no order.
    pub fn placed(&self) -> Result<&Placed, Never> {
        self.placed.as_ref().ok_or_else(|| never("unknown_order", "there is no such order"))
    }

    fn is_cod(&self) -> bool {
        self.placed.as_ref().is_some_and(|it| it.payment_method == Method::Cod)
    }

    /// Whether it may be paid now.
    pub fn is_payable(&self) -> bool {
        self.state == Some(State::Placed)
            && self.held_until.is_some()
            && self.captured.is_none()
            && self.failed_payments < PAYMENT_ATTEMPTS
    }

    /// Whether an order may end so: [`may`](Self::may), and what is still on its way only the courier brings back.
    ///
    /// # Errors
    /// If it may not, and why.
    pub fn may_end(&self, event: &OrderEvent, is_customer: bool) -> Result<Step, Never> {
        if self.state == Some(State::Refunded) && event.leads_to() == self.ended {
            return Ok(Step::Nothing); // Said again by who has not heard the answer.
        }
        let step = self.may(event)?;
        let is_back = step == Step::Change && matches!(event, OrderEvent::OrderReturned { .. });
        match (is_back, is_customer, self.state == Some(State::Delivered)) {
            (true, true, false) => Err(never("not_delivered", "only what has arrived can be sent back")),
            (true, false, true) => {
                Err(never("wrong_state", "what was delivered is its customer's to send back"))
            }
            _ => Ok(step),
        }
    }

    /// Whether this may happen now. [`Step::Nothing`] if it has happened already, and nothing is to be written.
    ///
    /// # Errors
    /// If it may not, and why.
    pub fn may(&self, event: &OrderEvent) -> Result<Step, Never> {
        let state = match (event, self.state) {
            (OrderEvent::OrderPlaced { .. }, None) => return Ok(Step::Change),
            (OrderEvent::OrderPlaced { .. }, Some(_)) => {
                return Err(never("already_placed", "an order is placed once"));
            }
            (_, None) => return Err(never("unknown_order", "there is no such order")),
            (_, Some(state)) => state,
        };
        if let Some(next) = event.leads_to() {
            let step = state.to(next).map_err(|wrong| never("wrong_state", wrong.to_string()))?;
            if step == Step::Nothing {
                return Ok(step);
            }
        }
        let is_open = state == State::Placed;
        let only_if = |is_so, reason, detail: &str| {
            if is_so { Ok(Step::Change) } else { Err(never(reason, detail)) }
        };
        match event {
            OrderEvent::OrderValidated {} if self.is_validated => Ok(Step::Nothing),
            OrderEvent::InventoryReserved { .. } if self.held_until.is_some() => Ok(Step::Nothing),
            OrderEvent::PaymentCompleted { payment_id, .. }
                if self.captured.as_ref().is_some_and(|it| it.payment_id == *payment_id) =>
            {
                Ok(Step::Nothing)
            }
            OrderEvent::PaymentCompleted { amount, .. } => {
                let is_cash = state == State::Delivered && self.captured.is_none() && self.is_cod();
                let is_all = self.placed.as_ref().is_some_and(|it| it.total == *amount);
                // A payment that was made is a fact, however many have failed before, and also if it is called off meanwhile.
                let is_open = is_open && self.held_until.is_some() && self.captured.is_none();
                let is_late = state == State::Cancelled && self.captured.is_none() && !self.is_cod();
                let is_right = is_all && (is_cash || is_open || is_late);
                only_if(is_right, "not_payable", "this order takes no such payment now")
            }
            OrderEvent::OrderConfirmed {} => {
                let is_ready = self.held_until.is_some() && (self.captured.is_some() || self.is_cod());
                only_if(is_ready, "not_paid", "an order is confirmed once its goods are held and it is paid")
            }
            OrderEvent::OrderRefunded { amount } => {
                let is_owed = self.captured.as_ref().is_some_and(|it| it.amount == *amount);
                only_if(is_owed, "nothing_owed", "only what was captured is given back")
            }
            OrderEvent::OrderInTransit { .. } => {
                only_if(state == State::Shipped, "wrong_state", "only what was shipped is on its way")
            }
            OrderEvent::OrderValidated {}
            | OrderEvent::InventoryReserved { .. }
            | OrderEvent::InventoryUnavailable { .. }
            | OrderEvent::PaymentInitiated { .. }
            | OrderEvent::PaymentFailed { .. } => {
                only_if(is_open, "wrong_state", "this happens only to an order that is placed")
            }
            _ => Ok(Step::Change),
        }
    }
}

fn never(reason: &'static str, detail: impl Into<String>) -> Never {
    Never { reason, detail: detail.into() }
}

#[cfg(test)]
mod tests;
