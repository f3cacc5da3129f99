//! The inventory service, the side that is written to: what there is of each product, in which warehouse, and for whom it is kept.
//!
//! # Interface
//! Commands, each with an `Idempotency-Key`, which is its id: the same key and body are the same command, done once, and have the
//! same answer for thirty days; with another body it is 422 `idempotency_key_reused`. Bounds: [`command`]. All answer the
//! `position` that they have written, which the other side can be told to have seen.
//! - `POST /inventory/commands/add_product` with `{"product_id": …, "warehouse": …, "quantity": …}`: a warehouse takes a product in
//!   for the first time. 409 `already_added`, `no_room`.
//! - `POST /inventory/commands/update_quantity` with `{"product_id": …, "warehouse": …, "delta": …, "reason": …}`, where the reason is
//!   `restocking`, `returned` (above zero), `sold` or `damaged` (below): 404 `unknown_product`, `unknown_warehouse`; 409
//!   `out_of_stock` if too few are not promised, `no_room`. These three answer what there is then:
//!   `{"product_id": …, "warehouses": [{"warehouse": …, "on_hand": …, "reserved": …, "available": …}], "version": …, "position": …}`.
//! - `POST /inventory/commands/transfer` with `{"product_id": …, "from": …, "to": …, "quantity": …}`: refused as above.
//! - `POST /inventory/commands/reserve` with `{"reservation_id": …, "items": [{"product_id": …, "quantity": …}], "hold_seconds": …}`:
//!   all of it, from as many warehouses as it takes, or nothing: 409 `out_of_stock` (for which product, `wanted` and `available`).
//!   The hold is 900 s long if nothing is said. `{"reservation_id": …, "state": "held", "expires_at": …, "allocations":
//!   [{"product_id": …, "warehouse": …, "quantity": …}], "position": …}`. The same reservation again has the same answer, whatever
//!   its key; other items under its name are 422 `reservation_reused`; one that has ended is 409 `reservation_over`.
//! - `POST /inventory/commands/release` with `{"reservation_id": …, "reason": …}`, which is `order_cancelled`, `expired`,
//!   `order_completed` or `order_returned`: `{"reservation_id": …, "state": …, "position": …}`. Again, it is the same. After `order_completed` the units
//!   have left; of a reservation that has run out or was released this is 409 `reservation_over`, of one that nobody knows 404
//!   `unknown_reservation`. A release of one that nobody knows is remembered for thirty days, and a late `reserve` refused.
//!   Once completed, it cannot be released, 409 `reservation_over`, but `order_returned` brings its units back, once; of one that is
//!   held it is as good as `order_cancelled`.
//!
//! For other services:
//! - `GET /internal/feed?after=…&limit=…`: what has happened after that position, in order ([`record::Page`]); at most 500 events,
//!   100 if nothing is said, and no more than fit into an answer.
//!
//! # Rooms
//! [`command`] is what can be asked, [`stock`] the rules, [`record`] keeps; here is only HTTP. Whoever has questions asks
//! [`inventory_query`](crate::inventory_query).
//!
//! # Errors
//! Those of [`ask`], and those above. 400 `idempotency_key_missing`; 503 `store_failed` if nothing can be written: the same command
//! may be sent again.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State as With,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    inventory::{
        command::{AddProduct, Command, Release, Reserve, Transfer, UpdateQuantity},
        record::{Answer, Page, Record, SWEPT},
        stock::Refusal,
    },
    kernel::{
        ask::{self, Asked, Body, NAME_LIMIT},
        clock::Clock,
        console::complain,
        log::{self, KeyReused},
        problem::Problem,
        service::App,
        store::Store,
    },
};

pub mod command;
pub mod record;
#[cfg(test)]
pub(crate) mod rehearsal;
pub mod stock;

/// How often holds are looked for that have run out.
const SWEEP: Duration = Duration::from_millis(500);

/// How often is forgotten what is old.
const FORGET: Duration = Duration::from_mins(1);

/// How many events are given if nothing is said.
const LIMIT: u32 = 100;

#[derive(Clone, Debug)]
struct Inventory {
    clock: Clock,
    record: Record,
}

/// The service; it also ends holds that have run out, whether or not anybody asks.
pub async fn app(clock: Clock, store: Store) -> Result<App, Problem> {
    let record = Record::new(store.clone());
    record.seed(clock.now()).await?;
    let mut work = JoinSet::new();
    work.spawn(expire(clock, record.clone()));
    work.spawn(forget(clock, record.clone()));
    let routes = Router::new()
        .route("/inventory/commands/add_product", post(add_product))
        .route("/inventory/commands/update_quantity", post(update_quantity))
        .route("/inventory/commands/reserve", post(reserve))
        .route("/inventory/commands/release", post(release))
        .route("/inventory/commands/transfer", post(transfer))
        .route("/internal/feed", get(feed));
    let routes = ask::with_defaults(routes, Some(store)).with_state(Inventory { clock, record });
    Ok(App { routes, work })
}

async fn expire(clock: Clock, record: Record) {
    loop {
        match record.expire(clock.now()).await {
            Ok(SWEPT) => {} // There may be more.
            Ok(_) => sleep(SWEEP).await,
            Err(error) => {
                complain(error);
                sleep(SWEEP).await;
            }
        }
    }
}

async fn forget(clock: Clock, record: Record) {
    loop {
        match record.forget(clock.now()).await {
            Ok(0) => sleep(FORGET).await,
            Ok(_) => sleep(SWEEP).await, // There may be more, and others want to write.
            Err(error) => {
                complain(error);
                sleep(FORGET).await;
            }
        }
    }
}

async fn add_product(
    With(inventory): With<Inventory>,
    headers: HeaderMap,
    Body(command): Body<AddProduct>,
) -> Result<Response, Problem> {
    inventory.execute(&headers, Command::AddProduct(command)).await
}

async fn update_quantity(
    With(inventory): With<Inventory>,
    headers: HeaderMap,
    Body(command): Body<UpdateQuantity>,
) -> Result<Response, Problem> {
    inventory.execute(&headers, Command::UpdateQuantity(command)).await
}

async fn reserve(
    With(inventory): With<Inventory>,
    headers: HeaderMap,
    Body(command): Body<Reserve>,
) -> Result<Response, Problem> {
    inventory.execute(&headers, Command::Reserve(command)).await
}

async fn release(
    With(inventory): With<Inventory>,
    headers: HeaderMap,
    Body(command): Body<Release>,
) -> Result<Response, Problem> {
    inventory.execute(&headers, Command::Release(command)).await
}

async fn transfer(
    With(inventory): With<Inventory>,
    headers: HeaderMap,
    Body(command): Body<Transfer>,
) -> Result<Response, Problem> {
    inventory.execute(&headers, Command::Transfer(command)).await
}

impl Inventory {
    async fn execute(&self, headers: &HeaderMap, command: Command) -> Result<Response, Problem> {
        let key = ask::word(headers, "idempotency-key").ok_or_else(key_missing)?.to_owned();
        let actor = ask::word(headers, "x-user-id").unwrap_or("service");
        let answer = self.record.execute(key, actor, command, self.clock.now()).await?;
        match answer {
            Ok(Answer::Done(body)) => Ok(Json(body).into_response()),
            Ok(Answer::Refused(refusal)) => Err(refusal.into()),
            Err(KeyReused) => {
                let detail = "the key names another command already: a command that is sent again has to be \
                    the same, and another one needs another key";
                Err(ask::unprocessable("idempotency_key_reused", detail.to_owned()))
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    after: u64,
    #[serde(default = "limit")]
    limit: u32,
}

const fn limit() -> u32 {
    LIMIT
}

async fn feed(
    With(inventory): With<Inventory>,
    Asked(Wanted { after, limit }): Asked<Wanted>,
) -> Result<Json<Page>, Problem> {
    if !(1..=log::PAGE).contains(&limit) {
        let detail = format!("`limit` goes from 1 to {}, and is {limit}", log::PAGE);
        return Err(ask::unprocessable("limit_out_of_bounds", detail));
    }
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    Ok(Json(inventory.record.feed(after, limit).await?))
}

fn key_missing() -> Problem {
    let detail = format!(
        "a command needs one `Idempotency-Key` of at most {NAME_LIMIT} characters, so that it can be sent \
        again"
    );
    Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_missing", detail)
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let conflict = |reason, detail: String| Self::new(StatusCode::CONFLICT, reason, detail);
        let unknown = |reason, detail: String| Self::new(StatusCode::NOT_FOUND, reason, detail);
        let text = |it: &dyn ToString| Value::String(it.to_string());
        match refusal {
            Refusal::OutOfStock { product_id, wanted, available } => {
                let detail = format!("{wanted} of {product_id} were wanted, and {available} are available");
                conflict("out_of_stock", detail)
                    .with("product_id", text(&product_id))
                    .with("wanted", wanted.into())
                    .with("available", available.into())
            }
            Refusal::ReservationOver { reservation_id, state } => {
                let detail = format!("the reservation {reservation_id} has ended: it is {}", state.as_str());
                conflict("reservation_over", detail)
                    .with("reservation_id", text(&reservation_id))
                    .with("state", json!(state))
            }
            Refusal::ReservationReused { reservation_id } => {
                let detail = format!("there is a reservation {reservation_id} already, of other items");
                let problem = ask::unprocessable("reservation_reused", detail);
                problem.with("reservation_id", text(&reservation_id))
            }
            Refusal::UnknownReservation { reservation_id } => {
                let detail =
                    format!("there is no reservation {reservation_id}, or it ended more than 30 days ago");
                unknown("unknown_reservation", detail).with("reservation_id", text(&reservation_id))
            }
            Refusal::UnknownProduct { product_id } => {
                let detail = format!("no warehouse has ever had {product_id}: `add_product` takes it in");
                unknown("unknown_product", detail).with("product_id", text(&product_id))
            }
            Refusal::UnknownWarehouse { product_id, warehouse } => {
                let detail = format!("{warehouse} has never had {product_id}: `add_product` takes it in");
                unknown("unknown_warehouse", detail)
                    .with("product_id", text(&product_id))
                    .with("warehouse", text(&warehouse))
            }
            Refusal::AlreadyAdded { product_id, warehouse } => {
                let detail = format!("{warehouse} has {product_id} already: `update_quantity` adds to it");
                conflict("already_added", detail)
                    .with("product_id", text(&product_id))
                    .with("warehouse", text(&warehouse))
            }
            Refusal::NoRoom { product_id, warehouse } => {
                let detail = format!(
                    "there is no room for so many of {product_id} in {warehouse}: a warehouse has at most {} \
                    of a product, and a product is in at most {} warehouses",
                    stock::CAPACITY,
                    stock::WAREHOUSES
                );
                conflict("no_room", detail)
                    .with("product_id", text(&product_id))
                    .with("warehouse", text(&warehouse))
            }
        }
    }
}
