//! The payment service: an order is paid once, or not at all.
//!
//! # Interface
//! For the customer, whom the gateway names in `x-user-id`:
//! - `POST /api/payments` with `{"order_id": …, "method": "upi", "account": "asha@bank"}` and an `Idempotency-Key`: 201 and the
//!   payment once the money is taken; 402 `payment_refused`, and why; 409 `already_paid`, `payment_under_way`, `not_payable`,
//!   `order_closed`; 404 `unknown_order`; 202 if it is not settled within [`PATIENCE`]; 503 `payment_unavailable` if the bank could
//!   not be asked: all is undone then, and a new key is a new attempt. The same key is the same payment; with anything else in it it
//!   is 422 `idempotency_key_reused`.
//! - `GET /api/payments/{payment_id}`, and `…/timeline`: the payment, and all its steps.
//!
//! The amount is the order's, which the order service says, never what a client sends.
//!
//! For other services:
//! - `POST /internal/payments/{order_id}/refund` with `{"reason": …}`: 200 once nothing is taken for the order any more, and nothing
//!   can be; 202 while it is undone.
//! - `GET /internal/sagas`: those that need somebody; `POST /internal/sagas/{id}/retry` has one undone once more.
//! - `GET /internal/lag`: how far the order service is behind.
//!
//! # Rooms
//! [`flow`] is the ten steps, [`record`] keeps; here is only HTTP.
//!
//! # Errors
//! Those of [`ask`], and those above. 503 `service_unavailable` if the order service does not answer.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State as With,
    http::{HeaderMap, Method as Verb, StatusCode, header::LOCATION},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use clap::Args;
use rusqlite::{Connection, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    kernel::{
        ask::{self, Body, Caller, Part},
        clock::Clock,
        console::complain,
        id,
        outbox::{self, Destination, Lag, Outbox},
        peer::{At, Peer},
        problem::Problem,
        saga::{self, Cause, Line, Sagas},
        service::App,
        store::Store,
        text,
    },
    payment::{
        flow::{Input, PaymentFlow},
        record::{Asked, Payment, State, Wanted},
    },
    rules::{
        moment::Moment,
        money::Money,
        payment::{Method, check_account, check_method},
    },
};

pub mod flow;
pub mod record;

/// How long a request waits for its payment to be settled.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a refund is waited for.
const REFUND: Duration = Duration::from_secs(5);

/// Whom the service asks.
#[derive(Args, Clone, Debug)]
pub struct PaymentArgs {
    /// Where the order service listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8104")]
    pub order: At,
    /// Where the user service listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8101")]
    pub user: At,
    /// Where the bank listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8108")]
    pub bank: At,
    /// Where the notification service listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8106")]
    pub notification: At,
}

/// Whom the service asks, wherever they are.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Whose orders are paid.
    pub order: Peer,
    /// Who pays.
    pub user: Peer,
    /// Where the money is.
    pub bank: Peer,
    /// Who tells people.
    pub notification: Peer,
}

impl From<&PaymentArgs> for Peers {
    fn from(args: &PaymentArgs) -> Self {
        Self {
            order: Peer::new("order", args.order.clone()),
            user: Peer::new("user", args.user.clone()),
            bank: Peer::new("bank", args.bank.clone()).patient(BANK),
            notification: Peer::new("notification", args.notification.clone()),
        }
    }
}

/// Longer than a step waits for the bank: it is the step that gives up.
pub const BANK: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
struct Service {
    clock: Clock,
    store: Store,
    order: Peer,
    flow: Arc<PaymentFlow>,
    sagas: Sagas<PaymentFlow>,
}

/// The service.
pub fn app(clock: Clock, store: Store, peers: Peers) -> App {
    let Peers { order, user, bank, notification } = peers;
    let destination = Destination { name: "order", peer: order.clone(), path: "/events" };
    let outbox = Outbox::new(clock, store.clone(), vec![destination]);
    let flow = PaymentFlow { clock, store: store.clone(), user, bank, notification, outbox: OnceLock::new() };
    let flow = Arc::new(flow);
    _ = flow.outbox.set(outbox.clone());
    let sagas = Sagas::new(clock, store.clone(), Arc::clone(&flow));
    let mut work = JoinSet::new();
    outbox.spawn(&mut work);
    sagas.spawn(&mut work);
    let routes = Router::new()
        .route("/api/payments", post(pay))
        .route("/api/payments/{payment_id}", get(read))
        .route("/api/payments/{payment_id}/timeline", get(timeline))
        .route("/internal/payments/{order_id}/refund", post(refund))
        .route("/internal/lag", get(lag))
        .merge(saga::desk::routes(sagas.clone()));
    let service = Service { clock, store: store.clone(), order, flow, sagas };
    App { routes: ask::with_defaults(routes, Some(store)).with_state(service), work }
}

/// A payment, as its customer sees it.
#[derive(Debug, Serialize)]
struct Shown {
    payment_id: String,
    order_id: String,
    amount: Money,
    currency: &'static str,
    method: Method,
    account: String,
    state: State,
    transaction_id: Option<String>,
    reason: Option<String>,
    at: Moment,
    changed_at: Moment,
}

impl From<Payment> for Shown {
    fn from(it: Payment) -> Self {
        let Payment { payment_id, order_id, amount, method, account, state, .. } = it;
        let account = if account.is_empty() { account } else { format!("…{account}") };
        let (transaction_id, reason) = (it.transaction_id, it.reason);
        let (at, changed_at) = (it.at, it.changed_at);
        let currency = "INR";
        Self {
            payment_id,
            order_id,
            amount,
            currency,
            method,
            account,
            state,
            transaction_id,
            reason,
            at,
            changed_at,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    order_id: String,
    method: Method,
    #[serde(default)]
    account: String,
}

/// What the order service says.
#[derive(Debug, Deserialize)]
struct Order {
    user_id: String,
    amount: Money,
    payment_method: Method,
    cod: bool,
    payable: bool,
    state: String,
}

async fn pay(
    With(service): With<Service>,
    Caller(user_id): Caller,
    headers: HeaderMap,
    Body(wish): Body<Wish>,
) -> Result<Response, Problem> {
    let key = text::idempotency_key(&headers)?;
    let names = (user_id.clone(), key.clone());
    let known = move |connection: &Connection| record::by_key(connection, &names.0, &names.1);
    let payment = match service.store.read(known).await? {
        Some(payment) => payment,
        None => service.begin(user_id, key, &wish).await?,
    };
    let id = payment.payment_id.clone();
    let saga = service.store.read(move |connection| saga::by_id(connection, &id)).await?;
    // Once it is over, only the end of the account's number is known.
    let is_account = saga.is_none_or(|it| it.state.is_end() || it.input["account"] == json!(wish.account));
    let is_the_same = payment.order_id == wish.order_id
        && payment.method == wish.method
        && payment.account == record::last_four(&wish.account)
        && is_account;
    if !is_the_same {
        return Err(text::key_reused("the key names another payment already"));
    }
    service.answer(payment).await
}

impl Service {
    /// A payment that is wanted for the first time.
    async fn begin(&self, user_id: String, key: String, wish: &Wish) -> Result<Payment, Problem> {
        let order = self.order(&user_id, &wish.order_id).await?;
        let refused = |reason, detail| ask::unprocessable(reason, detail);
        check_account(wish.method, &wish.account).map_err(|it| refused(it.reason(), it.to_string()))?;
        check_method(wish.method, order.amount, order.cod)
            .map_err(|it| refused(it.reason(), it.to_string()))?;
        let is_cash = |method| method == Method::Cod;
        // Cash is the courier's affair: only the order service says that it will come.
        let is_told = key == format!("{}:payment", wish.order_id);
        if is_cash(wish.method) != is_cash(order.payment_method) || is_cash(wish.method) && !is_told {
            let detail = "cash on delivery is chosen when the order is placed, or not at all";
            return Err(refused("method_changed", detail.to_owned()));
        }
        let payment_id = format!("PAY_{}", id::random()?);
        let (order_id, method, account) = (wish.order_id.clone(), wish.method, wish.account.clone());
        let amount = order.amount;
        let wanted = Wanted {
            payment_id: payment_id.clone(),
            order_id: order_id.clone(),
            user_id: user_id.clone(),
            idempotency_key: key,
            method,
            account: account.clone(),
            amount,
        };
        let input = json!(Input { order_id, user_id, method, account, amount });
        let (flow, now, payable) = (Arc::clone(&self.flow), self.clock.now(), order.payable);
        let trace = crate::kernel::trace::carried();
        let want = move |transaction: &Transaction<'_>| {
            if !payable && record::of_order(transaction, &wanted.order_id)?.is_none() {
                return Ok(None); // An order that was just paid is not payable, and its payment says so better.
            }
            let asked = record::want(transaction, &wanted, now)?;
            if asked == Asked::New {
                let id = &wanted.payment_id;
                saga::start(transaction, flow.as_ref(), id, &input, trace.as_deref(), now)?;
            }
            let payment = record::by_id(transaction, &wanted.payment_id)?;
            Ok(Some((asked, payment)))
        };
        match self.store.write(want).await? {
            Some((Asked::New, Some(payment))) => {
                self.sagas.go();
                Ok(payment)
            }
            Some((Asked::Known(payment), _)) => Ok(*payment),
            Some((Asked::Taken(payment), _)) => Err(taken(&payment)),
            Some((Asked::Closed, _)) => {
                let detail = "the order was called off, and takes no payment any more";
                Err(conflict("order_closed", detail.to_owned()))
            }
            Some((Asked::New, None)) | None => {
                let detail = format!("an order that is {} is not paid now", order.state);
                Err(conflict("not_payable", detail))
            }
        }
    }

    async fn order(&self, user_id: &str, order_id: &str) -> Result<Order, Problem> {
        let unknown = || Problem::new(StatusCode::NOT_FOUND, "unknown_order", "you have no such order");
        let order_id = text::id("order_id", order_id.to_owned()).map_err(|_| unknown())?;
        if !text::is_path_part(&order_id) {
            return Err(unknown());
        }
        let nothing = None::<&()>;
        let answer = self.order.ask(Verb::GET, &format!("/internal/orders/{order_id}"), nothing).await?;
        match answer.status {
            StatusCode::OK => {
                let order = self.order.read::<Order>(&answer)?;
                if order.user_id == user_id { Ok(order) } else { Err(unknown()) }
            }
            StatusCode::NOT_FOUND => Err(unknown()),
            _ => Err(self.order.unexpected(&answer).into()),
        }
    }

    /// What has become of a payment, once that is known.
    async fn answer(&self, payment: Payment) -> Result<Response, Problem> {
        let id = payment.payment_id.clone();
        let payment = self.settled(payment).await?;
        let location = [(LOCATION, format!("/api/payments/{id}"))];
        match payment.state {
            State::Completed | State::Refunding | State::Refunded => {
                Ok((StatusCode::CREATED, location, Json(Shown::from(payment))).into_response())
            }
            State::Failed => Err(failed(&payment)),
            State::Pending | State::Failing | State::Stuck => {
                Ok((StatusCode::ACCEPTED, location, Json(Shown::from(payment))).into_response())
            }
        }
    }

    async fn settled(&self, payment: Payment) -> Result<Payment, Problem> {
        if payment.state.is_settled() {
            return Ok(payment);
        }
        // The money is taken before the saga is over: receipts keep nobody waiting.
        let is_known = |saga: &saga::Saga| {
            saga.state.is_end() || saga.results.contains_key("update_wallet") && saga.cause.is_none()
        };
        self.sagas.until(&payment.payment_id, PATIENCE, is_known).await?;
        let id = payment.payment_id.clone();
        let again = self.store.read(move |connection| record::by_id(connection, &id)).await?;
        Ok(again.unwrap_or(payment))
    }
}

fn conflict(reason: &'static str, detail: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, reason, detail)
}

/// Why an order that has a payment gets no other.
fn taken(payment: &Payment) -> Problem {
    let (reason, detail) = match payment.state {
        State::Pending | State::Failing => {
            ("payment_under_way", "another payment of this order is under way".to_owned())
        }
        State::Completed => ("already_paid", "this order is paid".to_owned()),
        _ => ("order_closed", "the payment of this order was given back".to_owned()),
    };
    conflict(reason, detail).with("payment_id", json!(payment.payment_id))
}

/// A payment that failed, and of which nothing is left.
fn failed(payment: &Payment) -> Problem {
    let reason = payment.reason.as_deref().unwrap_or("unavailable");
    if ["unavailable", "deadline"].contains(&reason) {
        let detail = "the bank could not be asked; nothing was taken, and a new key is a new attempt";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "payment_unavailable", detail);
        return problem.with("payment_id", json!(payment.payment_id)).retry_after(5);
    }
    let why = payment.detail.as_deref().unwrap_or("the payment was refused");
    let what =
        if payment.transaction_id.is_some() { "what was taken is given back" } else { "nothing was taken" };
    let detail = format!("{why}; {what}");
    Problem::new(StatusCode::PAYMENT_REQUIRED, "payment_refused", detail)
        .with("why", json!(reason))
        .with("payment_id", json!(payment.payment_id))
}

async fn owned(service: &Service, user_id: &str, payment_id: String) -> Result<Payment, Problem> {
    let payment = service.store.read(move |connection| record::by_id(connection, &payment_id)).await?;
    payment
        .filter(|it| it.user_id == user_id)
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "unknown_payment", "you have no such payment"))
}

async fn read(
    With(service): With<Service>,
    Caller(user_id): Caller,
    Part(payment_id): Part,
) -> Result<Json<Shown>, Problem> {
    Ok(Json(owned(&service, &user_id, payment_id).await?.into()))
}

/// A payment and its steps.
#[derive(Debug, Serialize)]
struct Timeline {
    #[serde(flatten)]
    payment: Shown,
    saga: Option<saga::State>,
    steps: Vec<Line>,
}

async fn timeline(
    With(service): With<Service>,
    Caller(user_id): Caller,
    Part(payment_id): Part,
) -> Result<Json<Timeline>, Problem> {
    let payment = owned(&service, &user_id, payment_id.clone()).await?;
    let read = move |connection: &Connection| {
        let saga = saga::by_id(connection, &payment_id)?.map(|saga| saga.state);
        Ok((saga, saga::timeline(connection, &payment_id)?))
    };
    let (saga, steps) = service.store.read(read).await?;
    let steps = steps.into_iter().map(Line::for_others).collect();
    Ok(Json(Timeline { payment: payment.into(), saga, steps }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refund {
    reason: String,
}

async fn refund(
    With(service): With<Service>,
    Part(order_id): Part,
    Body(Refund { reason }): Body<Refund>,
) -> Result<Response, Problem> {
    let (order_id, reason) = (text::id("order_id", order_id)?, text::line("reason", &reason, 200)?);
    let (order, now) = (order_id.clone(), service.clock.now());
    let cause = Cause {
        step: String::new(),
        reason: flow::CALLED_OFF.to_owned(),
        detail: format!("the order was called off: {reason}"),
    };
    let close = move |transaction: &Transaction<'_>| {
        record::close(transaction, &order, &reason, now)?;
        let Some(payment) = record::of_order(transaction, &order)? else { return Ok(None) };
        saga::revoke(transaction, &payment.payment_id, &cause)?;
        let is_known = saga::by_id(transaction, &payment.payment_id)?.is_some();
        Ok(Some((payment, is_known)))
    };
    let payment = service.store.write(close).await?;
    if let Some((payment, false)) = &payment {
        complain(format_args!("the payment {} is too old to be undone by itself", payment.payment_id));
        return Err(conflict("too_late", "this payment is too old to be undone here".to_owned()));
    }
    let Some((payment, _)) = payment else {
        return Ok(Json(json!({"order_id": order_id, "refunded": Money::default()})).into_response());
    };
    let id = payment.payment_id.clone();
    service.sagas.go();
    service.sagas.wake(&id);
    let is_over =
        |saga: &saga::Saga| matches!(saga.state, saga::State::Compensated | saga::State::CompensationFailed);
    service.sagas.until(&id, REFUND, is_over).await?;
    let read = move |connection: &Connection| record::by_id(connection, &id);
    let state = service.store.read(read).await?.map_or(State::Stuck, |it| it.state);
    let refunded = match state {
        State::Refunded => payment.amount,
        State::Failed => Money::default(),
        _ => {
            let under_way = json!({"order_id": order_id, "state": state, "payment_id": payment.payment_id});
            return Ok((StatusCode::ACCEPTED, Json(under_way)).into_response());
        }
    };
    Ok(Json(json!({"order_id": order_id, "payment_id": payment.payment_id, "refunded": refunded}))
        .into_response())
}

async fn lag(With(service): With<Service>) -> Result<Json<Lag>, Problem> {
    let now = service.clock.now();
    Ok(Json(service.store.read(move |connection| outbox::lag(connection, now)).await?))
}
