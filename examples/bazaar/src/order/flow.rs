//! From an order to a parcel, in five steps, each of which is done once or undone.
//!
//! | step | who is asked | undone by |
//! |---|---|---|
//! | `validate_order` | user: may they order at all | nothing |
//! | `reserve_inventory` | inventory: a hold of 15 minutes | releasing it |
//! | `process_payment` | payment; or the customer, who pays in time | refunding it, and refusing what comes later |
//! | `ship_order` | inventory: the goods leave the stock | putting them back |
//! | `send_confirmation` (not critical) | notification | a second message |
//!
//! What each means for the order is written with the record of the saga: there is no moment at which one has happened and the
//! other has not.

use std::time::Duration;

use axum::http::{Method as Verb, StatusCode};
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    life::{Order, OrderEvent, PAYMENT_ATTEMPTS, Placed},
    record,
};
use crate::{
    kernel::{
        clock::Clock,
        console::complain,
        log::{self, Cause},
        peer::{Answer, Peer},
        saga::{self, Acted, Failure, Flow, Saga, Step, What},
        store::Store,
        trace,
    },
    rules::{
        moment::Moment,
        order::State,
        payment::{Method, check_user},
    },
};

/// How long goods are held for an order that is not paid.
pub const HOLD: Duration = Duration::from_mins(15);

/// How long a payment may take to be settled, each time it is asked for.
pub const PAYMENT: Duration = Duration::from_secs(35);

/// How long others may take for each attempt.
const OTHERS: Duration = Duration::from_secs(5);

/// The longest that a service is waited for that is away: as long as goods are held, with a pause of 10 seconds at most.
const PATIENT: u32 = 100;

/// With what an order is begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Whose.
    pub user_id: String,
    /// How it is paid, if that was said with the order.
    pub payment: Option<Pay>,
    /// What its parcel is called.
    pub tracking_id: String,
}

/// How an order is paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pay {
    /// How.
    pub method: Method,
    /// From where.
    #[serde(default)]
    pub account: String,
}

/// The flow.
#[derive(Debug)]
pub struct OrderFlow {
    pub(super) clock: Clock,
    pub(super) store: Store,
    pub(super) user: Peer,
    pub(super) inventory: Peer,
    pub(super) payment: Peer,
    pub(super) notification: Peer,
}

impl Flow for OrderFlow {
    const NAME: &'static str = "order";

    const STEPS: &'static [Step] = &[
        Step::critical("validate_order").within(OTHERS).tried(8),
        Step::critical("reserve_inventory").within(OTHERS).tried(8),
        Step::critical("process_payment").within(PAYMENT).tried(PATIENT).shared(), // The customer pays, too.
        Step::critical("ship_order").within(OTHERS).tried(PATIENT),
        Step::optional("send_confirmation").within(OTHERS).tried(3),
    ];

    const DEADLINE: Duration = Duration::from_mins(30);

    async fn act(&self, saga: &Saga, step: &'static str) -> Result<Acted, Failure> {
        let order = self.order(saga).await?;
        let placed = order.placed().map_err(|never| Failure::refused(never.reason, never.detail))?;
        match step {
            "validate_order" => self.validate(saga).await,
            "reserve_inventory" => self.reserve(saga, placed).await,
            "process_payment" => self.pay(saga, &order, placed).await,
            "ship_order" => self.ship(saga).await,
            _ => self.notify(saga, step, "order_confirmed", placed).await,
        }
    }

    /// The account: a payment is given back by the order's id.
    fn shed(input: &mut Value) {
        if let Some(account) = input.pointer_mut("/payment/account") {
            *account = json!("");
        }
    }

    async fn undo(&self, saga: &Saga, step: &'static str) -> Result<(), Failure> {
        match step {
            // One command for both: it is right however far the goods have come, and is remembered as one.
            "reserve_inventory" | "ship_order" => self.restock(saga).await,
            "process_payment" => self.refund(saga).await,
            "send_confirmation" => {
                let order = self.order(saga).await?;
                let Some(placed) = &order.placed else { return Ok(()) };
                let is_back = order.state == Some(State::Returned);
                let template = if is_back { "order_returned" } else { "order_cancelled" };
                self.notify(saga, "undo_confirmation", template, placed).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    fn on_record(
        &self,
        transaction: &Transaction<'_>,
        saga: &Saga,
        what: &What,
        now: Moment,
    ) -> rusqlite::Result<()> {
        let order = log::load::<Order>(transaction, &record::stream(&saga.saga_id))?.state;
        let events = means(saga, what, &order);
        if events.is_empty() {
            return Ok(());
        }
        let correlation_id = saga.trace.as_deref().and_then(trace::trace_id).map(str::to_owned);
        let cause = Cause {
            actor: Some("order saga".to_owned()),
            command: Some(what.word().to_owned()),
            correlation_id,
            causation_id: Some(saga.saga_id.clone()),
        };
        // An order that was called off meanwhile takes no part any more: its saga is about to be undone.
        if let Err(never) = record::change(transaction, &saga.saga_id, events, &cause, now)?
            && order.reason.is_none()
        {
            complain(format_args!("the order {}: {}", saga.saga_id, never.detail));
        }
        Ok(())
    }
}

/// What a record means for the order.
fn means(saga: &Saga, what: &What, order: &Order) -> Vec<OrderEvent> {
    let is_open = order.state == Some(State::Placed);
    match what {
        What::Done("validate_order", _) => vec![OrderEvent::OrderValidated {}],
        What::Done("reserve_inventory", held) => serde_json::from_value(held["expires_at"].clone())
            .map(|expires_at| vec![OrderEvent::InventoryReserved { expires_at }])
            .unwrap_or_default(),
        What::Began("process_payment") => {
            let input = serde_json::from_value::<Input>(saga.input.clone()).ok();
            let payment = input.and_then(|input| input.payment);
            payment.map(|it| vec![OrderEvent::PaymentInitiated { method: it.method }]).unwrap_or_default()
        }
        What::Done("process_payment", paid) => {
            let completed = serde_json::from_value::<Paid>(paid.clone()).ok();
            let completed = completed.filter(|it| it.method != Method::Cod).map(OrderEvent::from);
            completed.into_iter().chain([OrderEvent::OrderConfirmed {}]).collect()
        }
        What::Done("ship_order", parcel) => {
            let tracking_id = parcel["tracking_id"].as_str().unwrap_or_default().to_owned();
            vec![OrderEvent::OrderProcessing { tracking_id }]
        }
        What::Compensating(cause) => {
            let mut events = Vec::new();
            if is_open && cause.reason == "out_of_stock" {
                events.push(OrderEvent::InventoryUnavailable { detail: cause.detail.clone() });
            }
            if is_open && cause.step == "process_payment" && order.captured.is_none() {
                events.push(OrderEvent::PaymentFailed { payment_id: None, reason: cause.reason.clone() });
            }
            if order.state.is_some_and(|state| state.to(State::Cancelled).is_ok()) {
                events.push(OrderEvent::OrderCancelled { reason: cause.reason.clone() });
            }
            events
        }
        What::Compensated => {
            let owed = order.captured.as_ref().filter(|_| order.refunded.paise() == 0);
            owed.map(|it| vec![OrderEvent::OrderRefunded { amount: it.amount }]).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// A payment, as the payment service tells it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Paid {
    payment_id: String,
    amount: crate::rules::money::Money,
    pub(super) method: Method,
    transaction_id: Option<String>,
}

impl From<Paid> for OrderEvent {
    fn from(paid: Paid) -> Self {
        let Paid { payment_id, amount, method, transaction_id } = paid;
        Self::PaymentCompleted { payment_id, amount, method, transaction_id }
    }
}

/// What the user service says, as far as it matters here.
#[derive(Debug, Deserialize)]
struct User {
    blocked: bool,
}

impl OrderFlow {
    async fn order(&self, saga: &Saga) -> Result<Order, Failure> {
        let stream = record::stream(&saga.saga_id);
        Ok(self.store.read(move |connection| log::load::<Order>(connection, &stream)).await?.state)
    }

    async fn validate(&self, saga: &Saga) -> Result<Acted, Failure> {
        let Input { user_id, .. } = input(saga)?;
        let answer = self.user.ask(Verb::GET, &format!("/internal/users/{user_id}"), NOTHING).await?;
        match answer.status {
            StatusCode::OK => {
                let user = self.user.read::<User>(&answer)?;
                let checked = check_user(&user_id, user.blocked);
                checked.map_err(|it| Failure::refused(it.reason(), it.to_string()))?;
                Ok(Acted::done())
            }
            StatusCode::NOT_FOUND => Err(Failure::refused("unknown_user", "there is no such user")),
            _ => Err(self.user.unexpected(&answer).into()),
        }
    }

    async fn reserve(&self, saga: &Saga, placed: &Placed) -> Result<Acted, Failure> {
        let items =
            placed.lines.iter().map(|line| json!({"product_id": line.product_id, "quantity": line.quantity}));
        let wanted = json!({
            "reservation_id": saga.saga_id, "items": items.collect::<Vec<_>>(), "hold_seconds": HOLD.as_secs(),
        });
        let answer = self.command("reserve", &saga.key("reserve"), &wanted).await?;
        match answer.status {
            StatusCode::OK => Ok(Acted::Done(self.inventory.read(&answer)?)),
            StatusCode::CONFLICT => {
                Err(Failure::refused(answer.reason(), "not all of it is in stock; nothing is held"))
            }
            it if it.is_client_error() => {
                Err(Failure::refused(answer.reason(), "the inventory has refused it"))
            }
            _ => Err(self.inventory.unexpected(&answer).into()),
        }
    }

    async fn pay(&self, saga: &Saga, order: &Order, placed: &Placed) -> Result<Acted, Failure> {
        if let Some(captured) = &order.captured {
            return Ok(Acted::Done(json!(captured)));
        }
        if order.failed_payments >= PAYMENT_ATTEMPTS {
            let detail = format!("{PAYMENT_ATTEMPTS} payments have failed");
            return Err(Failure::refused("payments_failed", detail));
        }
        if order.held_until.is_some_and(|until| until <= self.clock.now()) {
            return Err(Failure::refused("payment_expired", "it was not paid while the goods were held"));
        }
        let Input { user_id, payment, .. } = input(saga)?;
        let cash = Pay { method: Method::Cod, account: String::new() };
        let payment = payment.or_else(|| Some(cash).filter(|_| placed.payment_method == Method::Cod));
        let Some(Pay { method, account }) = payment else { return Ok(Acted::Waiting) };
        let wish = json!({"order_id": saga.saga_id, "method": method, "account": account});
        let key = saga.key("payment");
        let headers = [("x-user-id", user_id.as_str()), ("idempotency-key", key.as_str())];
        let answer = self.payment.ask_as(Verb::POST, "/api/payments", &headers, Some(&wish)).await?;
        self.paid(&answer)
    }

    /// What has become of a payment.
    fn paid(&self, answer: &Answer) -> Result<Acted, Failure> {
        let reason = answer.reason();
        match answer.status {
            StatusCode::CREATED => Ok(Acted::Done(self.payment.read(answer)?)),
            StatusCode::ACCEPTED => Err(Failure::Trouble("the payment is not settled yet".to_owned())),
            StatusCode::PAYMENT_REQUIRED => {
                let why = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
                let why = why["why"].as_str().unwrap_or("payment_refused").to_owned();
                Err(Failure::refused("payment_refused", why))
            }
            // The customer pays by themselves, at the same time.
            StatusCode::CONFLICT if ["already_paid", "payment_under_way"].contains(&reason) => {
                Err(Failure::Trouble("another payment of this order is under way".to_owned()))
            }
            StatusCode::SERVICE_UNAVAILABLE if reason == "payment_unavailable" => {
                Err(Failure::refused(reason, "the bank could not be asked"))
            }
            it if it.is_client_error() && it != StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::refused(reason, "the payment service has refused it"))
            }
            _ => Err(self.payment.unexpected(answer).into()),
        }
    }

    /// The goods leave the stock. After that nothing of the hold is left that could run out.
    async fn ship(&self, saga: &Saga) -> Result<Acted, Failure> {
        self.release(saga, "order_completed").await?;
        let Input { tracking_id, .. } = input(saga)?;
        Ok(Acted::Done(json!({"tracking_id": tracking_id})))
    }

    /// What the reservation is then.
    async fn release(&self, saga: &Saga, reason: &str) -> Result<Value, Failure> {
        let wanted = json!({"reservation_id": saga.saga_id, "reason": reason});
        let answer = self.command("release", &saga.key(reason), &wanted).await?;
        match answer.status {
            StatusCode::OK => Ok(self.inventory.read(&answer)?),
            StatusCode::CONFLICT => Err(Failure::refused(answer.reason(), "the goods are not held any more")),
            _ => Err(self.inventory.unexpected(&answer).into()),
        }
    }

    /// Puts back what has left the stock; nothing, if nothing has.
    async fn restock(&self, saga: &Saga) -> Result<(), Failure> {
        let wanted = json!({"reservation_id": saga.saga_id, "reason": "order_returned"});
        let answer = self.command("release", &saga.key("order_returned"), &wanted).await?;
        if answer.status.is_success() { Ok(()) } else { Err(self.inventory.unexpected(&answer).into()) }
    }

    async fn command(&self, name: &str, key: &str, wanted: &Value) -> Result<Answer, Failure> {
        let path = format!("/inventory/commands/{name}");
        let headers = [("idempotency-key", key)];
        Ok(self.inventory.ask_as(Verb::POST, &path, &headers, Some(wanted)).await?)
    }

    async fn refund(&self, saga: &Saga) -> Result<(), Failure> {
        let path = format!("/internal/payments/{}/refund", saga.saga_id);
        let reason = saga.cause.as_ref().map_or("called off", |cause| cause.reason.as_str());
        let answer = self.payment.ask(Verb::POST, &path, Some(&json!({"reason": reason}))).await?;
        match answer.status {
            StatusCode::OK => Ok(()),
            StatusCode::ACCEPTED => Err(Failure::Trouble("the payment is not undone yet".to_owned())),
            _ => Err(self.payment.unexpected(&answer).into()),
        }
    }

    async fn notify(
        &self,
        saga: &Saga,
        key: &str,
        template: &str,
        placed: &Placed,
    ) -> Result<Acted, Failure> {
        let message = json!({
            "notification_id": saga.key(key),
            "user_id": placed.user_id,
            "template": template,
            "language": placed.language,
            "params": {"order_id": saga.saga_id, "amount": placed.total},
        });
        let answer = self.notification.ask(Verb::POST, "/notifications", Some(&message)).await?;
        match answer.status {
            StatusCode::OK => Ok(Acted::done()),
            it if it.is_client_error() => {
                Err(Failure::refused(answer.reason(), "the notification service has refused it"))
            }
            _ => Err(self.notification.unexpected(&answer).into()),
        }
    }
}

const NOTHING: Option<&()> = None;

fn input(saga: &Saga) -> Result<Input, Failure> {
    serde_json::from_value(saga.input.clone())
        .map_err(|error| Failure::refused("unreadable_saga", error.to_string()))
}

/// Whether the saga has said all that its customer waits for.
pub(super) fn is_settled(saga: &Saga) -> bool {
    saga.state.is_end()
        || saga.is_waiting
        || saga.state == saga::State::Running && saga.results.contains_key("ship_order")
}
