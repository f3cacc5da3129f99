//! The restaurant service: kitchens that cook, and may be slow, broken, silent or closed.
//!
//! # Interface
//! For everybody:
//! - `GET /api/restaurants`: `{restaurants}`, the best first; `GET /api/restaurants/{restaurant_id}`: one.
//!
//! For the guest, whom the gateway names in `x-user-id`:
//! - `POST /api/restaurants/{restaurant_id}/orders` with `{"items": [{"dish": …, "quantity": 2}]}` and an `Idempotency-Key`: 201 `{order_id,
//!   restaurant_id, ready_in_minutes}`. The same key is the same order, which is cooked once; with another restaurant or other items it is 422
//!   `idempotency_key_reused`. 409 `closed`, or `kitchen_busy` with [`record::LOAD`] orders under way: these are decisions, and no failures.
//!
//! For demos and tests:
//! - `PUT /internal/restaurants/{restaurant_id}/mode` with `{"mode": "open"}`: how it is from now on, also after a restart.
//! - `GET /internal/restaurants/{restaurant_id}`: `{restaurant_id, mode, load, cooked}`.
//!
//! # Modes
//! A restaurant that is `slow` takes an order at once, and says so [`SLOW`] later; `hanging` does nothing for [`HANG`], and nothing at all if
//! the caller goes before; `failing` is 500 and cooks nothing; `closed` takes no new orders. Looking at a restaurant
//! is as slow, silent or broken as ordering from it.
//!
//! # Errors
//! Those of [`ask`], and those above; 404 `unknown_restaurant`; 422 `invalid_items`.
//!
//! # Bounds
//! [`ITEMS`] items of [`QUANTITY`] pieces.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State as With,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::{
    kernel::{
        ask::{self, Body, Caller, Part},
        clock::Clock,
        console::complain,
        id,
        problem::Problem,
        store::Store,
        text,
    },
    restaurant::record::{Cooked, Item, Mode, Order, Record, Request, Restaurant},
    rules::{kitchen::Area, money::Factor},
};

pub mod record;

/// How long a slow restaurant takes to answer.
pub const SLOW: Duration = Duration::from_secs(3);

/// How long a restaurant that hangs takes to answer.
pub const HANG: Duration = Duration::from_mins(1);

/// How many items an order has at most.
pub const ITEMS: usize = 50;

/// How many pieces of an item an order has at most.
pub const QUANTITY: u32 = 20;

/// How many characters a dish has at most.
const DISH: usize = 100;

/// How often what is old is looked for.
const SWEEP: Duration = Duration::from_hours(1);

#[derive(Clone, Debug)]
struct Restaurants {
    clock: Clock,
    record: Record,
}

/// The service; what it does besides answering runs from now on, and ends with the runtime.
pub fn app(clock: Clock, store: Store) -> Router {
    let record = Record::new(store.clone());
    tokio::spawn(sweep(clock, record.clone()));
    let routes = Router::new()
        .route("/api/restaurants", get(list))
        .route("/api/restaurants/{restaurant_id}", get(one))
        .route("/api/restaurants/{restaurant_id}/orders", post(order))
        .route("/internal/restaurants/{restaurant_id}", get(inside))
        .route("/internal/restaurants/{restaurant_id}/mode", put(set_mode));
    ask::with_defaults(routes, Some(store)).with_state(Restaurants { clock, record })
}

async fn sweep(clock: Clock, record: Record) {
    loop {
        if let Err(error) = record.sweep(clock.now()).await {
            complain(error);
        }
        sleep(SWEEP).await;
    }
}

/// A restaurant, as guests see it.
#[derive(Debug, Serialize)]
struct Shown {
    restaurant_id: String,
    name: String,
    area: Area,
    cuisine: String,
    rating: Factor,
    preparation_minutes: u32,
    accepting: bool,
}

impl From<Restaurant> for Shown {
    fn from(restaurant: Restaurant) -> Self {
        let Restaurant { restaurant_id, name, area, cuisine, preparation_minutes, mode, .. } = restaurant;
        let rating = Factor::from_tenths(restaurant.rating_tenths);
        let accepting = mode != Mode::Closed;
        Self { restaurant_id, name, area, cuisine, rating, preparation_minutes, accepting }
    }
}

#[derive(Debug, Serialize)]
struct List {
    restaurants: Vec<Shown>,
}

async fn list(With(restaurants): With<Restaurants>) -> Result<Json<List>, Problem> {
    let all = restaurants.record.restaurants(restaurants.clock.now()).await?;
    Ok(Json(List { restaurants: all.into_iter().map(Shown::from).collect() }))
}

async fn one(
    With(restaurants): With<Restaurants>,
    Part(restaurant_id): Part,
) -> Result<Json<Shown>, Problem> {
    let restaurant = restaurants.find(&restaurant_id).await?;
    before(restaurant.mode).await?;
    after(restaurant.mode).await;
    Ok(Json(restaurant.into()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    items: Vec<Item>,
}

#[derive(Debug, Serialize)]
struct Ordered {
    order_id: String,
    restaurant_id: String,
    ready_in_minutes: u32,
}

async fn order(
    With(restaurants): With<Restaurants>,
    Caller(guest): Caller,
    Part(restaurant_id): Part,
    headers: HeaderMap,
    Body(Wish { items }): Body<Wish>,
) -> Result<Response, Problem> {
    let idempotency_key = text::idempotency_key(&headers)?;
    check(&items)?;
    let mode = restaurants.find(&restaurant_id).await?.mode;
    before(mode).await?;
    let request = Request {
        order_id: id::random()?,
        restaurant_id: restaurant_id.clone(),
        guest,
        idempotency_key,
        items: items.clone(),
    };
    let cooked = restaurants.record.cook(request, restaurants.clock.now()).await?;
    let order = match cooked.ok_or_else(unknown)? {
        Cooked::Order(order) => order,
        Cooked::Closed => {
            let detail = "the restaurant takes no orders now; choose another one";
            return Err(Problem::new(StatusCode::CONFLICT, "closed", detail));
        }
        Cooked::Busy => {
            let detail = "the kitchen has too much to do; choose another restaurant";
            return Err(Problem::new(StatusCode::CONFLICT, "kitchen_busy", detail));
        }
    };
    if order.restaurant_id != restaurant_id || order.items != items {
        return Err(text::key_reused("the key names another order already, which is being cooked"));
    }
    after(mode).await;
    let Order { order_id, restaurant_id, ready_in_minutes, .. } = order;
    Ok((StatusCode::CREATED, Json(Ordered { order_id, restaurant_id, ready_in_minutes })).into_response())
}

/// What becomes of a request before anything is done.
async fn before(mode: Mode) -> Result<(), Problem> {
    match mode {
        Mode::Failing => {
            let detail = "the system of this restaurant is broken";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "kitchen_failed", detail))
        }
        Mode::Hanging => {
            sleep(HANG).await;
            Ok(())
        }
        Mode::Open | Mode::Slow | Mode::Closed => Ok(()),
    }
}

/// How long it takes to say what was done.
async fn after(mode: Mode) {
    if mode == Mode::Slow {
        sleep(SLOW).await;
    }
}

fn check(items: &[Item]) -> Result<(), Problem> {
    let is_dish = |text: &str| text::line("dish", text, DISH).is_ok_and(|it| it == text);
    let is_item = |item: &Item| (1..=QUANTITY).contains(&item.quantity) && is_dish(&item.dish);
    if (1..=ITEMS).contains(&items.len()) && items.iter().all(is_item) {
        return Ok(());
    }
    let detail = format!(
        "an order has 1 to {ITEMS} items; each is a dish, in a line of at most {DISH} characters, and 1 to {QUANTITY} of it"
    );
    Err(ask::unprocessable("invalid_items", detail))
}

#[derive(Debug, Serialize)]
struct Inside {
    restaurant_id: String,
    mode: Mode,
    load: u32,
    cooked: u32,
}

async fn inside(
    With(restaurants): With<Restaurants>,
    Part(restaurant_id): Part,
) -> Result<Json<Inside>, Problem> {
    let restaurant = restaurants.find(&restaurant_id).await?;
    restaurants.inside(restaurant).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    mode: Mode,
}

async fn set_mode(
    With(restaurants): With<Restaurants>,
    Part(restaurant_id): Part,
    Body(Set { mode }): Body<Set>,
) -> Result<Json<Inside>, Problem> {
    let now = restaurants.clock.now();
    let restaurant = restaurants.record.set_mode(&restaurant_id, mode, now).await?.ok_or_else(unknown)?;
    restaurants.inside(restaurant).await
}

impl Restaurants {
    async fn find(&self, restaurant_id: &str) -> Result<Restaurant, Problem> {
        self.record.restaurant(restaurant_id, self.clock.now()).await?.ok_or_else(unknown)
    }

    async fn inside(&self, restaurant: Restaurant) -> Result<Json<Inside>, Problem> {
        let cooked = self.record.cooked(&restaurant.restaurant_id).await?;
        let Restaurant { restaurant_id, mode, load, .. } = restaurant;
        Ok(Json(Inside { restaurant_id, mode, load, cooked }))
    }
}

fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "unknown_restaurant", "there is no restaurant of this id")
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_leaves_a_kitchen_that_hangs_gets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("restaurant.db"), record::MIGRATIONS).unwrap();
        let restaurants = Restaurants { clock: Clock::real(), record: Record::new(store) };
        let now = restaurants.clock.now();
        restaurants.record.set_mode("tanjore", Mode::Hanging, now).await.unwrap().unwrap();
        let ask = || {
            let items = vec![Item { dish: "Idli".into(), quantity: 1 }];
            let headers = HeaderMap::from_iter([("idempotency-key".parse().unwrap(), "1".parse().unwrap())]);
            let (guest, restaurant) = (Caller("asha".into()), Part("tanjore".into()));
            order(With(restaurants.clone()), guest, restaurant, headers, Body(Wish { items }))
        };
        timeout(HANG / 2, ask()).await.unwrap_err();
        sleep(HANG).await;
        assert_eq!(restaurants.record.cooked("tanjore").await.unwrap(), 0);
        ask().await.unwrap();
        assert_eq!(restaurants.record.cooked("tanjore").await.unwrap(), 1);
    }
}
