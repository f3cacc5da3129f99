//! The order service: from a basket to a parcel, and back if need be.
//!
//! # Interface
//! For the customer, whom the gateway names in `x-user-id`:
//! - `POST /api/orders` with `{"items": [{"product_id": …, "quantity": 1}], "address": {"line": …, "city": …, "pincode": …},
//!   "payment_method": "upi"}` and an `Idempotency-Key`: 201 and the order, `placed` if it waits for its payment (15 minutes), or
//!   paid and on its way if `"payment": {"method": "upi", "account": "asha@bank"}` was said, too, or it is `cod`. 409 `out_of_stock`; 402
//!   `payment_refused`; 503 `payment_unavailable`; 403 `user_blocked`; 422 for what the rules do not allow; 202 if it is not settled
//!   within [`PATIENCE`]. The same key is the same order; with anything else in it it is 422 `idempotency_key_reused`.
//! - `GET /api/orders?before=ORDER_ID&limit=20`: one's orders, the newest first.
//! - `GET /api/orders/{order_id}`: an order as it is, or as it was: `?version=3`, `?at=2026-01-15T12:00:00%2B05:30`.
//! - `GET /api/orders/{order_id}/history?lang=hi`: what has happened, in words; `…/invoice`: with its taxes; `…/timeline`: the steps.
//! - `POST /api/orders/{order_id}/cancel`, `…/return`, with `{"reason": …}`: what it is then, and what was given back; 409
//!   `wrong_state` if it is too late, or `not_delivered` if there is nothing yet to send back. `If-Match: "3"` lets it happen only to
//!   that version: else 409 `conflict`.
//!
//! Prices are those of the catalogue; what a client says of them is refused.
//!
//! For other services and the warehouse:
//! - `GET /internal/orders/{order_id}`: who owes what for it. `POST /internal/orders/{order_id}/progress` with `{"state": "shipped"}`,
//!   `out_for_delivery`, `delivered`, or `{"at": "Pune hub"}` between them; `returned` if the courier brings it back undelivered.
//! - `POST /events`: what payment tells. `GET /internal/feed?after=0`: all events, in order, for whoever projects them.
//! - `GET /internal/sagas`: those that need somebody; `POST /internal/sagas/{id}/retry`.
//!
//! # Rooms
//! [`life`] is what may happen to an order, [`flow`] its five steps, [`basket`] what it costs, [`record`] keeps; here is only HTTP.
//!
//! # Errors
//! Those of [`ask`], and those above. 503 `service_unavailable` if the catalogue or the user service does not answer.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State as With,
    http::{
        HeaderMap, StatusCode,
        header::{ETAG, IF_MATCH, LOCATION},
    },
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use clap::Args;
use rusqlite::{Connection, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    kernel::{
        ask::{self, Asked, Body, Caller, Part},
        clock::Clock,
        console::complain,
        id,
        log::{self, Cause, Loaded, Until},
        outbox::{self, Message},
        peer::{At, Peer},
        problem::Problem,
        saga::{self, Sagas},
        service::App,
        store::Store,
        text, trace,
    },
    order::{
        basket::{Basket, Customer, Products},
        flow::{Input, OrderFlow, Paid, Pay},
        life::{BY_CUSTOMER, Captured, Line, Never, Order, OrderEvent, Placed},
        record::{Entry, Personal, RETURN_WINDOW, Wanted},
    },
    rules::{
        address::{Address, Written},
        language::Language,
        moment::Moment,
        money::Money,
        order::{State, Step},
        payment::{Method, check_account, check_method},
        tax::Invoice,
    },
};

pub mod basket;
pub mod flow;
pub mod life;
pub mod record;

/// How long a request waits for its order to be settled.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// How long a cancellation waits for all to be undone.
const UNDOING: Duration = Duration::from_secs(8);

/// How often is looked for what is personal and old.
const SWEEP: Duration = Duration::from_mins(10);

/// Whom the service asks.
#[derive(Args, Clone, Debug)]
pub struct OrderArgs {
    /// Where the user service listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8101")]
    pub user: At,
    /// Where the product service listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8102")]
    pub product: At,
    /// Where the inventory takes commands.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8103")]
    pub inventory: At,
    /// Where the payment service listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8105")]
    pub payment: At,
    /// Where the notification service listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8106")]
    pub notification: At,
}

/// Whom the service asks, wherever they are.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Who orders.
    pub user: Peer,
    /// What there is.
    pub product: Peer,
    /// How much of it.
    pub inventory: Peer,
    /// Who takes the money.
    pub payment: Peer,
    /// Who tells people.
    pub notification: Peer,
}

impl From<&OrderArgs> for Peers {
    fn from(args: &OrderArgs) -> Self {
        Self {
            user: Peer::new("user", args.user.clone()),
            product: Peer::new("product", args.product.clone()),
            inventory: Peer::new("inventory", args.inventory.clone()),
            payment: Peer::new("payment", args.payment.clone()).patient(flow::PAYMENT),
            notification: Peer::new("notification", args.notification.clone()),
        }
    }
}

#[derive(Clone, Debug)]
struct Service {
    clock: Clock,
    store: Store,
    user: Peer,
    product: Peer,
    flow: Arc<OrderFlow>,
    sagas: Sagas<OrderFlow>,
}

/// The service.
pub fn app(clock: Clock, store: Store, peers: Peers) -> App {
    let Peers { user, product, inventory, payment, notification } = peers;
    let flow =
        OrderFlow { clock, store: store.clone(), user: user.clone(), inventory, payment, notification };
    let flow = Arc::new(flow);
    let sagas = Sagas::new(clock, store.clone(), Arc::clone(&flow));
    let mut work = JoinSet::new();
    sagas.spawn(&mut work);
    work.spawn(sweep(clock, store.clone()));
    let routes = Router::new()
        .route("/api/orders", post(place).get(list))
        .route("/api/orders/{order_id}", get(read))
        .route("/api/orders/{order_id}/history", get(history))
        .route("/api/orders/{order_id}/invoice", get(invoice))
        .route("/api/orders/{order_id}/timeline", get(timeline))
        .route("/api/orders/{order_id}/cancel", post(cancel))
        .route("/api/orders/{order_id}/return", post(send_back))
        .route("/internal/orders/{order_id}", get(owed))
        .route("/internal/orders/{order_id}/progress", post(progress))
        .route("/internal/feed", get(feed))
        .merge(saga::desk::routes(sagas.clone()))
        .route("/events", post(hear));
    let service = Service { clock, store: store.clone(), user, product, flow, sagas };
    App { routes: ask::with_defaults(routes, Some(store)).with_state(service), work }
}

async fn sweep(clock: Clock, store: Store) {
    loop {
        let before = clock.now().before(record::PERSONAL_KEPT);
        let forget = move |transaction: &Transaction<'_>| record::forget_personal(transaction, before);
        if let Err(error) = store.write(forget).await {
            complain(error);
        }
        sleep(SWEEP).await;
    }
}

/// An order, as its customer sees it.
#[derive(Debug, Serialize)]
struct Shown {
    order_id: String,
    user_id: String,
    state: State,
    version: u64,
    items: Vec<Line>,
    shipping: Money,
    total: Money,
    currency: &'static str,
    payment_method: Method,
    payment: Option<Captured>,
    refunded: Money,
    pay_by: Option<Moment>,
    city: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Address>,
    promised_by: Moment,
    tracking_id: Option<String>,
    last_seen: Option<String>,
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remark: Option<String>,
    placed_at: Moment,
    changed_at: Moment,
}

fn shown(order_id: String, loaded: Loaded<Order>, personal: Personal) -> Result<Shown, Problem> {
    let Personal { address, remark } = personal;
    let Loaded { state: order, version } = loaded;
    let is_payable = order.is_payable();
    let (Some(placed), Some(state)) = (order.placed, order.state) else { return Err(unknown()) };
    Ok(Shown {
        order_id,
        state,
        version,
        pay_by: order.held_until.filter(|_| is_payable),
        user_id: placed.user_id,
        items: placed.lines,
        shipping: placed.shipping,
        total: placed.total,
        currency: "INR",
        payment_method: placed.payment_method,
        payment: order.captured,
        refunded: order.refunded,
        city: placed.city.to_string(),
        address,
        promised_by: placed.promised_by,
        tracking_id: order.tracking_id,
        last_seen: order.last_seen,
        reason: order.reason,
        remark,
        placed_at: placed.at,
        changed_at: order.changed_at.unwrap_or(placed.at),
    })
}

fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "unknown_order", "you have no such order")
}

fn conflict(reason: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::CONFLICT, reason, detail.into())
}

impl From<Never> for Problem {
    fn from(Never { reason, detail }: Never) -> Self {
        if reason == "unknown_order" { unknown() } else { conflict(reason, detail) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    items: Vec<basket::Item>,
    address: Written,
    payment_method: Method,
    #[serde(default)]
    express: bool,
    #[serde(default)]
    payment: Option<Pay>,
}

async fn place(
    With(service): With<Service>,
    Caller(user_id): Caller,
    headers: HeaderMap,
    Body(wish): Body<Wish>,
) -> Result<Response, Problem> {
    let key = text::idempotency_key(&headers)?;
    let request = basket::digest(&json!(wish));
    let names = (user_id.clone(), key.clone());
    let known = move |connection: &Connection| record::by_key(connection, &names.0, &names.1);
    let (order_id, was) = match service.store.read(known).await? {
        Some(Entry { order_id, request, .. }) => (order_id, request),
        None => service.begin(user_id, key, wish, request.clone()).await?,
    };
    if was != request {
        return Err(text::key_reused(format!(
            "the key names the order {order_id} already, which is another"
        )));
    }
    service.placed(order_id).await
}

impl Service {
    /// An order that is wanted for the first time; its id, and the digest of what was asked for.
    async fn begin(
        &self,
        user_id: String,
        key: String,
        wish: Wish,
        request: String,
    ) -> Result<(String, String), Problem> {
        let address = wish.address.check().map_err(|it| ask::unprocessable(it.reason(), it.to_string()))?;
        let (customer, products) =
            tokio::try_join!(Customer::ask(&self.user, &user_id), Products::ask(&self.product, &wish.items))?;
        let now = self.clock.now();
        let Basket { lines, shipping, total, cod, promise } =
            products.basket(&wish.items, &address, &customer, wish.express, now)?;
        let refused = |it: crate::rules::payment::Refusal| ask::unprocessable(it.reason(), it.to_string());
        check_method(wish.payment_method, total, cod).map_err(refused)?;
        if let Some(payment) = &wish.payment {
            if payment.method != wish.payment_method {
                let detail = "`payment.method` is another than `payment_method`";
                return Err(ask::unprocessable("method_mismatch", detail.to_owned()));
            }
            check_account(payment.method, &payment.account).map_err(refused)?;
        }
        let placed = OrderEvent::OrderPlaced {
            user_id: user_id.clone(),
            lines,
            shipping,
            total,
            cod,
            payment_method: wish.payment_method,
            city: address.city,
            territory: address.state,
            language: customer.language,
            delivery: promise.speed,
            promised_by: now.after(Duration::from_hours(24 * u64::from(promise.days_max))),
        };
        let order_id = basket::order_id(now)?;
        let tracking_id = format!("TRK{}", id::random()?[..12].to_uppercase());
        let input = json!(Input { user_id: user_id.clone(), payment: wish.payment, tracking_id });
        let cause = Cause::of(&user_id, "place").after(&key);
        let wanted = Wanted {
            order_id: order_id.clone(),
            user_id,
            idempotency_key: key,
            request,
            address,
            placed,
            total,
        };
        let (flow, carried) = (Arc::clone(&self.flow), trace::carried());
        let place = move |transaction: &Transaction<'_>| {
            let known = record::place(transaction, &wanted, &cause, now)?;
            if known.is_none() {
                let trace = carried.as_deref();
                saga::start(transaction, flow.as_ref(), &wanted.order_id, &input, trace, now)?;
            }
            Ok((known, wanted))
        };
        let (known, wanted) = self.store.write(place).await?;
        self.sagas.go();
        Ok(known.map_or((order_id, wanted.request), |it| (it.order_id, it.request)))
    }

    /// What has become of an order, once its customer can go on.
    async fn placed(&self, order_id: String) -> Result<Response, Problem> {
        let saga = self.sagas.until(&order_id, PATIENCE, flow::is_settled).await?;
        let is_settled = saga.as_ref().is_none_or(flow::is_settled);
        let cause = saga.and_then(|saga| saga.cause);
        let (loaded, personal) = self.load(&order_id).await?;
        let is_over = matches!(loaded.state.state, Some(State::Cancelled | State::Refunded));
        // Whoever asks again after calling it off is shown what it is.
        if let Some(cause) = cause.filter(|cause| is_over && !cause.step.is_empty()) {
            return Err(refused(&order_id, &cause));
        }
        let status = if is_settled { StatusCode::CREATED } else { StatusCode::ACCEPTED };
        let location = [(LOCATION, format!("/api/orders/{order_id}"))];
        Ok((status, location, Json(shown(order_id, loaded, personal)?)).into_response())
    }

    async fn load(&self, order_id: &str) -> Result<(Loaded<Order>, Personal), Problem> {
        let order_id = order_id.to_owned();
        let load = move |connection: &Connection| {
            let loaded = log::load::<Order>(connection, &record::stream(&order_id))?;
            Ok((loaded, record::personal(connection, &order_id)?))
        };
        Ok(self.store.read(load).await?)
    }

    /// Somebody's order; nobody else's.
    async fn owned(&self, user_id: &str, order_id: &str) -> Result<(Loaded<Order>, Personal), Problem> {
        let (loaded, personal) = self.load(order_id).await?;
        let is_theirs = loaded.state.placed.as_ref().is_some_and(|it| it.user_id == user_id);
        if is_theirs { Ok((loaded, personal)) } else { Err(unknown()) }
    }

    /// Ends an order, if it may end so, and waits until all of it is undone.
    async fn call_off(&self, order_id: String, ending: Ending) -> Result<Json<Shown>, Problem> {
        let Ending { command, whose, expected, remark } = ending;
        if let Some(user_id) = &whose {
            self.owned(user_id, &order_id).await?;
        }
        let is_customer = whose.is_some();
        let (event, detail) = match (command, is_customer) {
            ("cancel", _) => (OrderEvent::OrderCancelled { reason: BY_CUSTOMER.to_owned() }, BY_CUSTOMER),
            (_, true) => (OrderEvent::OrderReturned { reason: BY_CUSTOMER.to_owned() }, BY_CUSTOMER),
            (_, false) => (OrderEvent::OrderReturned { reason: command.to_owned() }, "by_courier"),
        };
        let actor = whose.as_deref().unwrap_or("warehouse");
        let (now, cause, id) = (self.clock.now(), Cause::of(actor, command), order_id.clone());
        let why = saga::Cause { step: String::new(), reason: command.to_owned(), detail: detail.to_owned() };
        let end = move |transaction: &Transaction<'_>| {
            let Loaded { state: order, version } = log::load::<Order>(transaction, &record::stream(&id))?;
            if let Some(expected) = expected.filter(|it| *it != version) {
                return Ok(Err(conflict("conflict", log::Conflict { expected, is: version }.to_string())));
            }
            match order.may_end(&event, is_customer) {
                Ok(Step::Change) => {}
                Ok(Step::Nothing) => return Ok(Ok(())),
                Err(never) => return Ok(Err(never.into())),
            }
            if saga::by_id(transaction, &id)?.is_none() {
                let detail = "this order is too old to be called off here; ask the shop's staff";
                return Ok(Err(conflict("too_late", detail)));
            }
            let changed = record::change(transaction, &id, vec![event], &cause, now)?;
            if changed.is_ok() {
                record::remark(transaction, &id, remark.as_deref())?;
                saga::revoke(transaction, &id, &why)?;
            }
            Ok(changed.map(drop).map_err(Problem::from))
        };
        self.store.write(end).await??;
        self.sagas.go();
        self.sagas.wake(&order_id);
        let is_undone = |saga: &saga::Saga| {
            matches!(saga.state, saga::State::Compensated | saga::State::CompensationFailed)
        };
        self.sagas.until(&order_id, UNDOING, is_undone).await?;
        let (loaded, personal) = self.load(&order_id).await?;
        Ok(Json(shown(order_id, loaded, personal)?))
    }
}

/// How an order ends that came to be.
struct Ending {
    /// `cancel`, `return`, or `undelivered`.
    command: &'static str,
    /// Whose order it must be; nobody's in particular, if the courier brings it back.
    whose: Option<String>,
    /// Which version it must be.
    expected: Option<u64>,
    /// What the customer says of it.
    remark: Option<String>,
}

/// Why an order did not come to be.
fn refused(order_id: &str, cause: &saga::Cause) -> Problem {
    let (status, reason) = match cause.reason.as_str() {
        "out_of_stock" => (StatusCode::CONFLICT, "out_of_stock"),
        "payment_refused" => (StatusCode::PAYMENT_REQUIRED, "payment_refused"),
        "user_blocked" | "unknown_user" => (StatusCode::FORBIDDEN, "user_blocked"),
        "payment_unavailable" => (StatusCode::SERVICE_UNAVAILABLE, "payment_unavailable"),
        "unavailable" | "deadline" => (StatusCode::SERVICE_UNAVAILABLE, "order_unavailable"),
        _ => (StatusCode::CONFLICT, "order_cancelled"),
    };
    let is_inner = cause.reason == "unavailable";
    let why = if is_inner { "a service that is needed for it does not answer" } else { &cause.detail };
    let detail = format!("{why}; the order is cancelled, and what was taken is given back");
    Problem::new(status, reason, detail).with("order_id", json!(order_id)).with("why", json!(cause.reason))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    before: Option<String>,
    #[serde(default = "twenty")]
    limit: u32,
}

const fn twenty() -> u32 {
    20
}

/// An order in a list.
#[derive(Debug, Serialize)]
struct Listed {
    order_id: String,
    state: State,
    version: u64,
    total: Money,
    placed_at: Moment,
}

async fn list(
    With(service): With<Service>,
    Caller(user_id): Caller,
    Asked(Page { before, limit }): Asked<Page>,
) -> Result<Json<Value>, Problem> {
    let limit = limit.clamp(1, 100);
    let page = move |connection: &Connection| record::of_user(connection, &user_id, before.as_deref(), limit);
    let entries = service.store.read(page).await?;
    let next = entries.last().filter(|_| entries.len() == limit as usize).map(|it| it.order_id.clone());
    let orders = entries.into_iter().map(|Entry { order_id, state, version, total, placed_at, .. }| Listed {
        order_id,
        state,
        version,
        total,
        placed_at,
    });
    Ok(Json(json!({"orders": orders.collect::<Vec<_>>(), "next": next})))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    version: Option<u64>,
    at: Option<Moment>,
}

async fn read(
    With(service): With<Service>,
    Caller(user_id): Caller,
    Part(order_id): Part,
    Asked(when): Asked<When>,
) -> Result<Response, Problem> {
    let (mut loaded, personal) = service.owned(&user_id, &order_id).await?;
    let until = match when {
        When { version: Some(_), at: Some(_) } => {
            let detail = "say `version` or `at`, not both";
            return Err(ask::unprocessable("unexpected_query", detail.to_owned()));
        }
        When { version: Some(version), .. } => Some(Until::Version(version)),
        When { at: Some(at), .. } => Some(Until::Time(at)),
        When { version: None, at: None } => None,
    };
    if let Some(until) = until {
        let stream = record::stream(&order_id);
        let then = move |connection: &Connection| log::load_until::<Order>(connection, &stream, until);
        loaded = service.store.read(then).await?;
    }
    let tag = [(ETAG, format!("\"{}\"", loaded.version))];
    Ok((tag, Json(shown(order_id, loaded, personal)?)).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryWish {
    lang: Option<Language>,
    #[serde(default)]
    after: u64,
}

/// Something that has happened.
#[derive(Debug, Serialize)]
struct Happened {
    version: u64,
    event: &'static str,
    description: String,
    at: Moment,
    event_id: String,
    #[serde(flatten)]
    cause: Cause,
}

async fn history(
    With(service): With<Service>,
    Caller(user_id): Caller,
    Part(order_id): Part,
    Asked(HistoryWish { lang, after }): Asked<HistoryWish>,
) -> Result<Json<Value>, Problem> {
    let (loaded, _) = service.owned(&user_id, &order_id).await?;
    let language = lang.or(loaded.state.placed.map(|it| it.language)).unwrap_or(Language::Hi);
    let stream = record::stream(&order_id);
    let read = move |connection: &Connection| log::history::<OrderEvent>(connection, &stream, after);
    let events = service.store.read(read).await?.into_iter().map(|it| Happened {
        version: it.version,
        event: log::Event::kind(&it.event),
        description: it.event.describe(language),
        at: it.at,
        event_id: it.event_id,
        cause: it.cause,
    });
    Ok(Json(json!({"order_id": order_id, "language": language, "events": events.collect::<Vec<_>>()})))
}

async fn invoice(
    With(service): With<Service>,
    Caller(user_id): Caller,
    Part(order_id): Part,
) -> Result<Json<Value>, Problem> {
    let (loaded, Personal { address, .. }) = service.owned(&user_id, &order_id).await?;
    let placed = loaded.state.placed.ok_or_else(unknown)?;
    let invoice: Invoice = basket::invoice(&placed)?;
    let Placed { at, territory, .. } = placed;
    Ok(Json(json!({
        "order_id": order_id, "date": at, "place_of_supply": territory, "ship_to": address, "currency": "INR",
        "invoice": invoice,
    })))
}

async fn timeline(
    With(service): With<Service>,
    Caller(user_id): Caller,
    Part(order_id): Part,
) -> Result<Json<Value>, Problem> {
    service.owned(&user_id, &order_id).await?;
    let id = order_id.clone();
    let read = move |connection: &Connection| {
        let saga = saga::by_id(connection, &id)?.map(|saga| saga.state);
        Ok((saga, saga::timeline(connection, &id)?))
    };
    let (saga, steps) = service.store.read(read).await?;
    let steps = steps.into_iter().map(saga::Line::for_others).collect::<Vec<_>>();
    Ok(Json(json!({"order_id": order_id, "saga": saga, "steps": steps})))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    reason: String,
}

async fn cancel(
    With(service): With<Service>,
    Caller(user_id): Caller,
    Part(order_id): Part,
    headers: HeaderMap,
    Body(Reason { reason }): Body<Reason>,
) -> Result<Json<Shown>, Problem> {
    let (expected, remark) = (expected(&headers)?, text::line("reason", &reason, 200)?);
    let ending = Ending { command: "cancel", whose: Some(user_id), expected, remark: Some(remark) };
    service.call_off(order_id, ending).await
}

async fn send_back(
    With(service): With<Service>,
    Caller(user_id): Caller,
    Part(order_id): Part,
    headers: HeaderMap,
    Body(Reason { reason }): Body<Reason>,
) -> Result<Json<Shown>, Problem> {
    let (expected, remark) = (expected(&headers)?, text::line("reason", &reason, 200)?);
    let (loaded, _) = service.owned(&user_id, &order_id).await?;
    let placed_at = loaded.state.placed.as_ref().map(|it| it.at);
    let is_new = loaded.state.state != Some(State::Returned) && loaded.state.state != Some(State::Refunded);
    if is_new && placed_at.is_some_and(|at| at.after(RETURN_WINDOW) < service.clock.now()) {
        let days = RETURN_WINDOW.as_secs() / (24 * 60 * 60);
        let detail = format!("an order can come back for {days} days after it was placed");
        return Err(conflict("return_window_over", detail));
    }
    let ending = Ending { command: "return", whose: Some(user_id), expected, remark: Some(remark) };
    service.call_off(order_id, ending).await
}

/// The version that a caller has seen, as `ETag` said it (RFC 9110, section 13.1.1).
fn expected(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    if !headers.contains_key(IF_MATCH) {
        return Ok(None);
    }
    let tag = ask::word(headers, IF_MATCH.as_str());
    let version = tag.and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
    version.map(Some).ok_or_else(|| {
        let detail = "`If-Match` is the `ETag` of the order, such as \"3\"";
        Problem::new(StatusCode::BAD_REQUEST, "unexpected_if_match", detail)
    })
}

async fn owed(With(service): With<Service>, Part(order_id): Part) -> Result<Json<Value>, Problem> {
    let (loaded, _) = service.load(&order_id).await?;
    let is_payable = loaded.state.is_payable();
    let placed = loaded.state.placed.ok_or_else(unknown)?;
    Ok(Json(json!({
        "order_id": order_id, "user_id": placed.user_id, "amount": placed.total, "cod": placed.cod,
        "payment_method": placed.payment_method, "state": loaded.state.state, "payable": is_payable,
    })))
}

/// Where a parcel is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    state: Option<State>,
    at: Option<String>,
}

async fn progress(
    With(service): With<Service>,
    Part(order_id): Part,
    Body(Progress { state, at }): Body<Progress>,
) -> Result<Json<Shown>, Problem> {
    if (state, &at) == (Some(State::Returned), &None) {
        let ending = Ending { command: "undelivered", whose: None, expected: None, remark: None };
        return service.call_off(order_id, ending).await;
    }
    let (loaded, personal) = service.load(&order_id).await?;
    let placed = loaded.state.placed()?;
    let event = match (state, at) {
        (Some(State::Shipped), None) => OrderEvent::OrderShipped {},
        (Some(State::OutForDelivery), None) => OrderEvent::OrderOutForDelivery {},
        (Some(State::Delivered), None) => OrderEvent::OrderDelivered {},
        (None, Some(at)) => OrderEvent::OrderInTransit { at: text::line("at", &at, 100)? },
        _ => {
            let detail =
                "say `state`: shipped, out_for_delivery, delivered or returned; or `at`: where the parcel is";
            return Err(ask::unprocessable("unexpected_json", detail.to_owned()));
        }
    };
    // The courier takes the cash.
    let is_paid_now = matches!(event, OrderEvent::OrderDelivered {}) && placed.payment_method == Method::Cod;
    let cash = OrderEvent::PaymentCompleted {
        payment_id: format!("CASH_{order_id}"),
        amount: placed.total,
        method: Method::Cod,
        transaction_id: None,
    };
    let events = [event].into_iter().chain(Some(cash).filter(|_| is_paid_now)).collect();
    let (now, cause, id) = (service.clock.now(), Cause::of("warehouse", "progress"), order_id.clone());
    let change = move |transaction: &Transaction<'_>| record::change(transaction, &id, events, &cause, now);
    let loaded = service.store.write(change).await??;
    Ok(Json(shown(order_id, loaded, personal)?))
}

/// What payment tells.
#[derive(Debug, Deserialize)]
struct Told {
    kind: String,
    order_id: String,
    payment_id: String,
    amount: Option<Money>,
    reason: Option<String>,
}

async fn hear(With(service): With<Service>, Body(message): Body<Message>) -> Result<StatusCode, Problem> {
    let told = serde_json::from_value::<Told>(message.body.clone())
        .map_err(|error| ask::unprocessable("unexpected_json", error.to_string()))?;
    let event = match told.kind.as_str() {
        "payment_completed" => {
            let paid = serde_json::from_value::<Paid>(message.body.clone())
                .map_err(|error| ask::unprocessable("unexpected_json", error.to_string()))?;
            (paid.method != Method::Cod).then(|| OrderEvent::from(paid))
        }
        "payment_failed" => {
            let (payment_id, reason) = (Some(told.payment_id.clone()), told.reason.unwrap_or_default());
            Some(OrderEvent::PaymentFailed { payment_id, reason })
        }
        // Mostly known already to who wanted it so; not if it was still being paid when it was called off.
        "payment_refunded" => told.amount.map(|amount| OrderEvent::OrderRefunded { amount }),
        _ => None,
    };
    let is_payment = matches!(event, Some(OrderEvent::PaymentCompleted { .. }));
    let (now, order_id) = (service.clock.now(), told.order_id.clone());
    let cause = Cause::of("payment", &told.kind).after(&told.payment_id);
    let take = move |transaction: &Transaction<'_>| {
        if outbox::take(transaction, &message)?
            && let Some(event) = event
            && let Err(never) = record::change(transaction, &order_id, vec![event], &cause, now)?
            && is_payment
        {
            complain(format_args!("a payment of the order {order_id} is not taken: {}", never.detail));
        }
        Ok(())
    };
    service.store.write(take).await?;
    service.sagas.wake(&told.order_id);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedWish {
    #[serde(default)]
    after: i64,
    #[serde(default = "hundred")]
    limit: u32,
}

const fn hundred() -> u32 {
    100
}

async fn feed(
    With(service): With<Service>,
    Asked(FeedWish { after, limit }): Asked<FeedWish>,
) -> Result<Json<Value>, Problem> {
    let read = move |connection: &Connection| {
        Ok((log::feed::<OrderEvent>(connection, after, limit)?, log::head(connection)?))
    };
    let (events, head) = service.store.read(read).await?;
    let events = events.into_iter().map(|it| {
        let data = log::Event::write(&it.event).unwrap_or_default();
        json!({
            "position": it.position, "stream": it.stream, "version": it.version, "kind": log::Event::kind(&it.event),
            "data": data, "at": it.at, "event_id": it.event_id, "cause": it.cause,
        })
    });
    Ok(Json(json!({"events": events.collect::<Vec<_>>(), "head": head})))
}
