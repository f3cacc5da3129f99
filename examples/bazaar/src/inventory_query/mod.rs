//! The inventory service, the side that is read from: what there is of each product, made of the events of the side that is written to.
//!
//! # Interface
//! Every answer says as of which `position` of the log it is, and by how many seconds (`lag_s`) that may be behind at most. Whoever
//! has written something and wants to see it says `min_position=`, which the command was answered: the query then waits for it, for
//! 2 s, and is 409 `not_yet` if it has not come by then. Lists have at most `limit` rows, 1 to 100, and 20 if nothing is said.
//! - `GET /inventory/availability?product_id=…&quantity=…[&warehouse=…|&region=…]`: whether so many (1, if nothing is said) can be
//!   promised, in that warehouse, in the warehouses of that region, or in all: `{"product_id": …, "quantity": …, "can_fulfill": …,
//!   "on_hand": …, "reserved": …, "available": …, "warehouses": [{"warehouse": …, "on_hand": …, "reserved": …, "available": …}]}`.
//!   404 `unknown_product`.
//! - `GET /inventory/levels[?ids=a,b][&warehouse=…][&region=…][&below=…][&limit=…]`: `{"levels": [{"product_id": …, "on_hand": …,
//!   "reserved": …, "available": …, "reorder": …, "restocked_at": …, "warehouses": […]}]}`, the most on hand first; `below` leaves only
//!   those of which fewer are available. `reorder`: there are 100 or fewer.
//! - `GET /inventory/reservations?id=…|product_id=…[&limit=…]`: `{"reservations": [{"reservation_id": …, "product_id": …, "state": …,
//!   "expired": …, "expires_at": …, "changed_at": …, "allocations": […]}]}`, a row for each product of a reservation, the newest first.
//! - `GET /inventory/movements?product_id=…[&from=…][&to=…][&limit=…]`: `{"movements": [{"position": …, "product_id": …, "warehouse": …,
//!   "kind": …, "reason": …, "on_hand": …, "reserved": …, "at": …}]}`, by how much the numbers have changed, the newest first. Times
//!   are like `2026-01-15T06:30Z` (a `+` in a query is written `%2B`), and both belong to the span.
//! - `GET /inventory/alerts?product_id=…[&limit=…]`: `{"alerts": [{"position": …, "warehouse": …, "urgency": …, "on_hand": …, "at": …}]}`,
//!   when it has become low, the newest first.
//!
//! For other services and whoever watches:
//! - `GET /internal/lag`: `{"seconds": …, "position": …, "head": …}`: how old what is shown may be (`null`: nothing was ever read whole),
//!   up to where the log was read, and where it ended when it was last heard of.
//!
//! # Rooms
//! [`view`] keeps and reads; here are HTTP and the one who asks for events.
//!
//! # The feed
//! The side that is written to is asked for events every [`LOOK`], and at once if there are more. If it does not answer, it is asked
//! again after [`FIRST_PAUSE`], twice as long each time, at most [`LONGEST_PAUSE`]; queries are answered all the while, from what was
//! heard. Nobody else tells this side anything, so it can be away for as long as it likes.
//!
//! # Errors
//! Those of [`ask`], and those above.

use std::{fmt::Display, time::Duration};

use axum::{
    Json, Router,
    extract::State as With,
    http::{Method, StatusCode},
    routing::get,
};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    inventory::{
        command::{ProductId, Quantity, Region, ReservationId, Warehouse},
        record::Page,
    },
    inventory_query::view::{
        Alert, LIMIT, Level, Movement, Progress, Reserved, Seen, Shelf, Span, View, Which,
    },
    kernel::{
        ask::{self, Asked},
        clock::Clock,
        console::complain,
        log,
        peer::{At, Peer, Unavailable},
        problem::Problem,
        service::App,
        store::{Store, StoreError},
    },
    rules::moment::Moment,
};

pub mod view;

/// How often new events are asked for.
pub const LOOK: Duration = Duration::from_millis(100);

/// How long the other side is left alone that did not answer.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How long it is left alone after many attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a query waits for what it wants to see.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How often is forgotten what is old.
const FORGET: Duration = Duration::from_mins(1);

/// How many rows are given if nothing is said.
const ROWS: u32 = 20;

/// Whom the service asks.
#[derive(Args, Clone, Debug)]
pub struct InventoryQueryArgs {
    /// Where the inventory that is written to listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8103")]
    pub inventory: At,
    /// Forget everything, and read all events again from the first one on.
    #[arg(long)]
    pub rebuild: bool,
}

impl InventoryQueryArgs {
    /// Who is asked for events.
    pub fn peer(&self) -> Peer {
        Peer::new("inventory", self.inventory.clone())
    }
}

#[derive(Clone, Debug)]
struct Inventory {
    clock: Clock,
    view: View,
    heard: watch::Receiver<Heard>,
}

/// How far the log was read, and what is known of its end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heard {
    read: Progress,
    /// The position of its last event.
    head: i64,
    /// When nothing else was to be read, as of the question.
    whole_at: Option<Moment>,
}

impl Heard {
    /// How old what was read may be, in seconds.
    fn lag_s(&self, now: Moment) -> Option<i64> {
        self.whole_at.map(|it| now.unix().saturating_sub(it.unix()).max(0))
    }
}

/// The service; it also reads the log of `inventory`, whether or not anybody asks.
pub async fn app(clock: Clock, store: Store, inventory: Peer, rebuild: bool) -> Result<App, Problem> {
    let view = View::new(store.clone());
    if rebuild {
        view.clear().await?;
    }
    let read = view.progress().await?;
    let (tell, heard) = watch::channel(Heard { head: read.position, read, whole_at: None });
    let mut work = JoinSet::new();
    work.spawn(Reader { clock, view: view.clone(), inventory, tell }.run());
    work.spawn(forget(clock, view.clone()));
    let routes = Router::new()
        .route("/inventory/availability", get(availability))
        .route("/inventory/levels", get(levels))
        .route("/inventory/reservations", get(reservations))
        .route("/inventory/movements", get(movements))
        .route("/inventory/alerts", get(alerts))
        .route("/internal/lag", get(lag));
    let routes = ask::with_defaults(routes, Some(store)).with_state(Inventory { clock, view, heard });
    Ok(App { routes, work })
}

/// Reads the log.
struct Reader {
    clock: Clock,
    view: View,
    inventory: Peer,
    tell: watch::Sender<Heard>,
}

/// Why nothing was read.
enum Unread {
    Unavailable(Unavailable),
    Store(StoreError),
}

impl Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unavailable(it) => it.fmt(f),
            Self::Store(it) => it.fmt(f),
        }
    }
}

impl From<Unavailable> for Unread {
    fn from(it: Unavailable) -> Self {
        Self::Unavailable(it)
    }
}

impl From<StoreError> for Unread {
    fn from(it: StoreError) -> Self {
        Self::Store(it)
    }
}

impl Reader {
    async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.read().await {
                Ok(is_whole) => {
                    pause = FIRST_PAUSE;
                    if is_whole {
                        sleep(LOOK).await;
                    }
                }
                Err(why) => {
                    if pause == FIRST_PAUSE {
                        complain(why); // Once for each outage.
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Reads what is new, some of it; tells whether that was all.
    async fn read(&self) -> Result<bool, Unread> {
        let before = self.tell.borrow().read.clone();
        let asked_at = self.clock.now();
        let path = format!("/internal/feed?after={}&limit={}", before.position, log::PAGE);
        let answer = self.inventory.ask(Method::GET, &path, None::<&()>).await?;
        if answer.status != StatusCode::OK {
            return Err(self.inventory.unexpected(&answer).into());
        }
        let page = self.inventory.read::<Page>(&answer)?;
        let head = page.head;
        let read = if page.origin == before.origin && head < before.position {
            complain("the log of the inventory ends before where it was read to: all of it is read again");
            self.view.clear().await?;
            self.view.progress().await?
        } else if page.origin == before.origin && page.events.is_empty() {
            before
        } else {
            self.view.take(page).await?
        };
        let is_whole = read.position >= head;
        self.tell.send_modify(|heard| {
            let whole_at = if is_whole { Some(asked_at) } else { heard.whole_at };
            *heard = Heard { read, head, whole_at };
        });
        Ok(is_whole)
    }
}

async fn forget(clock: Clock, view: View) {
    loop {
        match view.forget(clock.now()).await {
            Ok(0) => sleep(FORGET).await,
            Ok(_) => sleep(LOOK).await, // There may be more, and events are to be read, too.
            Err(error) => {
                complain(error);
                sleep(FORGET).await;
            }
        }
    }
}

/// Rows, and as of when they are.
#[derive(Debug, Serialize)]
struct Answer<T> {
    #[serde(flatten)]
    rows: T,
    position: i64,
    lag_s: Option<i64>,
}

impl Inventory {
    /// Waits until the log was read up to there.
    async fn see(&self, min_position: Option<u64>) -> Result<(), Problem> {
        let wanted = i64::try_from(min_position.unwrap_or(0)).unwrap_or(i64::MAX);
        let mut heard = self.heard.clone();
        let seen = timeout(PATIENCE, heard.wait_for(|it| it.read.position >= wanted)).await;
        if seen.is_ok_and(|it| it.is_ok()) {
            return Ok(());
        }
        let Heard { read, .. } = self.heard.borrow().clone();
        let detail = format!(
            "the log was read up to {} and not to {wanted} yet: ask again, or without `min_position`",
            read.position
        );
        let problem = Problem::new(StatusCode::CONFLICT, "not_yet", detail);
        Err(problem.with("position", read.position.into()).retry_after(1))
    }

    fn answer<T, R>(&self, seen: Seen<T>, rows: impl FnOnce(T) -> R) -> Json<Answer<R>> {
        let lag_s = self.heard.borrow().lag_s(self.clock.now());
        Json(Answer { rows: rows(seen.rows), position: seen.position, lag_s })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AvailabilityQuery {
    product_id: ProductId,
    #[serde(default = "one")]
    quantity: Quantity,
    warehouse: Option<Warehouse>,
    region: Option<Region>,
    min_position: Option<u64>,
}

const fn one() -> Quantity {
    Quantity::ONE
}

#[derive(Debug, Serialize)]
struct Availability {
    product_id: String,
    quantity: u32,
    can_fulfill: bool,
    on_hand: u32,
    reserved: u32,
    available: u32,
    warehouses: Vec<Shelf>,
}

async fn availability(
    With(inventory): With<Inventory>,
    Asked(query): Asked<AvailabilityQuery>,
) -> Result<Json<Answer<Availability>>, Problem> {
    let AvailabilityQuery { product_id, quantity, warehouse, region, min_position } = query;
    inventory.see(min_position).await?;
    let ids = vec![product_id.as_str().to_owned()];
    let Seen { position, rows } = inventory.view.levels(Which { ids, limit: 1, ..Which::default() }).await?;
    let Some(known) = rows.into_iter().next() else {
        let detail = format!("nothing has been heard of {product_id}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_product", detail));
    };
    let mut level = Level::of(known.product_id, known.restocked_at);
    let is_asked_for = |it: &Shelf| {
        warehouse.as_ref().is_none_or(|only| it.warehouse == only.as_str())
            && region.as_ref().is_none_or(|only| it.warehouse.starts_with(only.as_str()))
    };
    known.warehouses.into_iter().filter(is_asked_for).for_each(|shelf| level.put(shelf));
    Ok(inventory.answer(Seen { position, rows: level }, |level| {
        let Level { product_id, on_hand, reserved, available, warehouses, .. } = level;
        let (quantity, can_fulfill) = (quantity.get(), available >= quantity.get());
        Availability { product_id, quantity, can_fulfill, on_hand, reserved, available, warehouses }
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LevelsQuery {
    ids: Option<Ids>,
    warehouse: Option<Warehouse>,
    region: Option<Region>,
    below: Option<u32>,
    #[serde(default)]
    limit: Limit,
    min_position: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Levels {
    levels: Vec<Level>,
}

async fn levels(
    With(inventory): With<Inventory>,
    Asked(query): Asked<LevelsQuery>,
) -> Result<Json<Answer<Levels>>, Problem> {
    let LevelsQuery { ids, warehouse, region, below, limit, min_position } = query;
    inventory.see(min_position).await?;
    let which = Which {
        ids: ids.map_or_else(Vec::new, |Ids(ids)| ids),
        warehouse: warehouse.map(|it| it.to_string()),
        region: region.map(|it| it.to_string()),
        below,
        limit: limit.0,
    };
    Ok(inventory.answer(inventory.view.levels(which).await?, |levels| Levels { levels }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReservationsQuery {
    id: Option<ReservationId>,
    product_id: Option<ProductId>,
    #[serde(default)]
    limit: Limit,
    min_position: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Reservations {
    reservations: Vec<Reserved>,
}

async fn reservations(
    With(inventory): With<Inventory>,
    Asked(query): Asked<ReservationsQuery>,
) -> Result<Json<Answer<Reservations>>, Problem> {
    let ReservationsQuery { id, product_id, limit, min_position } = query;
    if id.is_none() && product_id.is_none() {
        let detail = "say which: `id` of a reservation, `product_id`, or both".to_owned();
        return Err(ask::unprocessable("unexpected_query", detail));
    }
    inventory.see(min_position).await?;
    let (id, product_id) = (id.map(|it| it.to_string()), product_id.map(|it| it.to_string()));
    let seen = inventory.view.reservations(id, product_id, inventory.clock.now(), limit.0).await?;
    Ok(inventory.answer(seen, |reservations| Reservations { reservations }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MovementsQuery {
    product_id: ProductId,
    from: Option<Moment>,
    to: Option<Moment>,
    #[serde(default)]
    limit: Limit,
    min_position: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Movements {
    movements: Vec<Movement>,
}

async fn movements(
    With(inventory): With<Inventory>,
    Asked(query): Asked<MovementsQuery>,
) -> Result<Json<Answer<Movements>>, Problem> {
    let MovementsQuery { product_id, from, to, limit, min_position } = query;
    inventory.see(min_position).await?;
    let span = Span {
        product_id: product_id.to_string(),
        from: from.unwrap_or(Moment::from_unix(i64::MIN)),
        to: to.unwrap_or(Moment::from_unix(i64::MAX)),
        limit: limit.0,
    };
    Ok(inventory.answer(inventory.view.movements(span).await?, |movements| Movements { movements }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AlertsQuery {
    product_id: ProductId,
    #[serde(default)]
    limit: Limit,
    min_position: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Alerts {
    alerts: Vec<Alert>,
}

async fn alerts(
    With(inventory): With<Inventory>,
    Asked(query): Asked<AlertsQuery>,
) -> Result<Json<Answer<Alerts>>, Problem> {
    let AlertsQuery { product_id, limit, min_position } = query;
    inventory.see(min_position).await?;
    let seen = inventory.view.alerts(product_id.to_string(), limit.0).await?;
    Ok(inventory.answer(seen, |alerts| Alerts { alerts }))
}

async fn lag(With(inventory): With<Inventory>) -> Json<Value> {
    let heard = inventory.heard.borrow().clone();
    let seconds = heard.lag_s(inventory.clock.now());
    Json(serde_json::json!({"seconds": seconds, "position": heard.read.position, "head": heard.head}))
}

/// Up to a hundred products: `a,b`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Ids(Vec<String>);

impl TryFrom<String> for Ids {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let ids = text.split(',').map(|it| ProductId::try_from(it.to_owned()).map(|it| it.to_string()));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        if ids.len() > LIMIT as usize {
            return Err(format!("at most {LIMIT} ids are taken, and these are {}", ids.len()));
        }
        Ok(Self(ids))
    }
}

/// How many rows.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u32")]
struct Limit(u32);

impl Default for Limit {
    fn default() -> Self {
        Self(ROWS)
    }
}

impl TryFrom<u32> for Limit {
    type Error = String;

    fn try_from(rows: u32) -> Result<Self, String> {
        if (1..=LIMIT).contains(&rows) {
            return Ok(Self(rows));
        }
        Err(format!("a limit goes from 1 to {LIMIT}, and is {rows}"))
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Bytes, http::Request};
    use http_body_util::Full;
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        inventory::{
            self,
            rehearsal::{NEVER, NOON, store},
        },
        kernel::{peer::Place, store::Crash},
    };

    /// Both sides, in this thread, under a clock that only moves when everybody waits for it.
    struct Shop {
        folder: TempDir,
        clock: Clock,
        commands: Place,
        queries: Place,
        _work: Vec<JoinSet<()>>,
    }

    impl Shop {
        async fn new() -> Self {
            let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::fixed_start(NOON));
            let (commands, queries) = (Place::default(), Place::default());
            let written = inventory::app(clock, store(folder.path(), Crash::after(NEVER))).await.unwrap();
            commands.put(Some(written.routes));
            let file = folder.path().join("inventory-query.db");
            let read = Store::open_here(&file, view::MIGRATIONS, Crash::after(NEVER)).unwrap();
            let read = app(clock, read, Peer::here("inventory", commands.clone()), false).await.unwrap();
            queries.put(Some(read.routes));
            Self { folder, clock, commands, queries, _work: vec![written.work, read.work] }
        }

        async fn command(&self, key: &str, name: &str, body: Value) -> (u16, Value) {
            let request = Request::post(format!("http://inventory/inventory/commands/{name}"))
                .header("idempotency-key", key)
                .body(Full::from(Bytes::from(body.to_string())));
            let answer =
                Peer::here("inventory", self.commands.clone()).exchange(request.unwrap()).await.unwrap();
            (answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap())
        }

        async fn query(&self, path: &str) -> (u16, Value) {
            let peer = Peer::here("inventory-query", self.queries.clone()).patient(PATIENCE * 2);
            let answer = peer.ask(Method::GET, path, None::<&()>).await.unwrap();
            (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap())
        }

        async fn available(&self) -> (Value, Value) {
            let (status, body) = self.query("/inventory/availability?product_id=prod_001").await;
            assert_eq!(status, 200, "{body}");
            (body["available"].clone(), body["reserved"].clone())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn r6_4_a_hold_runs_out_after_fifteen_minutes_without_anybody_asking() {
        let shop = Shop::new().await;
        let items = json!([{"product_id": "prod_001", "quantity": 30}]);
        let (status, held) =
            shop.command("1", "reserve", json!({"reservation_id": "r", "items": items})).await;
        assert_eq!((status, &held["expires_at"]), (200, &json!("2026-01-15T12:15:00+05:30")));
        sleep(Duration::from_secs(899)).await;
        assert_eq!(shop.available().await, (json!(70), json!(30)));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(shop.available().await, (json!(100), json!(0)));
        let complete = json!({"reservation_id": "r", "reason": "order_completed"});
        let (status, late) = shop.command("2", "release", complete).await;
        assert_eq!(
            (status, &late["reason"], &late["state"]),
            (409, &json!("reservation_over"), &json!("expired"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn r6_6_whoever_has_written_waits_until_it_is_seen_or_is_told_that_it_is_not() {
        let shop = Shop::new().await;
        let items = json!([{"product_id": "prod_001", "quantity": 1}]);
        let (_, held) = shop.command("1", "reserve", json!({"reservation_id": "r", "items": items})).await;
        let position = held["position"].as_i64().unwrap();
        let path = format!("/inventory/reservations?id=r&min_position={position}");
        let (status, seen) = shop.query(&path).await;
        assert_eq!((status, &seen["reservations"][0]["state"]), (200, &json!("held")), "{seen}");
        assert!(seen["position"].as_i64().unwrap() >= position);

        let before = shop.clock.now();
        let path = format!("/inventory/reservations?id=r&min_position={}", position + 1);
        let (status, problem) = shop.query(&path).await;
        assert_eq!((status, &problem["reason"]), (409, &json!("not_yet")), "{problem}");
        assert_eq!(problem["position"], position);
        assert!(shop.clock.now() >= before.after(PATIENCE));
        assert!(shop.folder.path().exists());
    }

    #[tokio::test(start_paused = true)]
    async fn r6_6_what_is_shown_says_how_old_it_may_be() {
        let shop = Shop::new().await;
        sleep(LOOK * 2).await;
        let (_, fresh) = shop.query("/internal/lag").await;
        let head = fresh["head"].clone();
        assert_eq!(fresh, json!({"seconds": 0, "position": head, "head": head}));
        let standing =
            inventory::app(shop.clock, store(shop.folder.path(), Crash::after(NEVER))).await.unwrap();
        shop.commands.put(None);
        sleep(Duration::from_mins(1)).await;
        let (_, old) = shop.query("/internal/lag").await;
        assert!((59..=61).contains(&old["seconds"].as_i64().unwrap()), "{old}");
        let (status, level) = shop.query("/inventory/levels?ids=prod_001").await;
        assert_eq!((status, &level["lag_s"]), (200, &old["seconds"]));
        shop.commands.put(Some(standing.routes));
        sleep(LONGEST_PAUSE * 2).await;
        assert_eq!(shop.query("/internal/lag").await.1["seconds"], 0);
    }

    #[tokio::test(start_paused = true)]
    async fn r6_6_a_part_of_what_there_is_does_not_count_as_all_of_it() {
        let shop = Shop::new().await;
        for number in 0..400 {
            let body = json!({"product_id": "prod_001", "warehouse": "MUM_WH_001", "delta": 1, "reason": "returned"});
            shop.command(&number.to_string(), "update_quantity", body).await;
        }
        let file = shop.folder.path().join("another.db");
        let view = View::new(Store::open_here(&file, view::MIGRATIONS, Crash::after(NEVER)).unwrap());
        let read = view.progress().await.unwrap();
        let (tell, heard) = watch::channel(Heard { head: read.position, read, whole_at: None });
        let inventory = Peer::here("inventory", shop.commands.clone());
        let reader = Reader { clock: shop.clock, view, inventory, tell };
        assert!(matches!(reader.read().await, Ok(false)), "there is more than a page");
        let Heard { read, head, whole_at } = heard.borrow().clone();
        assert!(0 < read.position && read.position < head, "{read:?} of {head}");
        assert_eq!(whole_at, None);
        while matches!(reader.read().await, Ok(false)) {}
        let Heard { read, head, whole_at } = heard.borrow().clone();
        assert_eq!((read.position, whole_at), (head, Some(shop.clock.now())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_out_of_bounds_is_refused() {
        let shop = Shop::new().await;
        for path in [
            "availability",
            "availability?product_id=a%20b",
            "availability?product_id=a&quantity=0",
            "availability?product_id=a&region=mumbai",
            "availability?product_id=a&colour=red",
            "levels?limit=101",
            "levels?ids=",
            "levels?min_position=-1",
            "reservations",
            "movements?product_id=a&from=yesterday",
        ] {
            let (status, problem) = shop.query(&format!("/inventory/{path}")).await;
            assert_eq!((status, &problem["reason"]), (422, &json!("unexpected_query")), "{path}");
        }
        let (status, problem) = shop.query("/inventory/availability?product_id=a").await;
        assert_eq!((status, &problem["reason"]), (404, &json!("unknown_product")));
    }
}
