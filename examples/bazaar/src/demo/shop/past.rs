//! What has become of an order, as its events tell it: looked at once it is over.

use std::time::Duration;

use axum::http::{Method as Verb, StatusCode};
use serde_json::{Value, json};

use super::{Shopper, reason};
use crate::{
    demo::{
        client::{Client, percent, text},
        report::{Report, hold},
    },
    rules::moment::Moment,
};

/// What is checked, and of which row it is.
const CONFLICT: (&str, &str) = ("R5.1", "whoever has seen an older version of an order changes nothing");
const STATES: (&str, &str) =
    ("R5.2", "an order comes to no state that does not follow from the one it is in");
const FEED: (&str, &str) = ("R5.5", "the feed has each event once, without a gap, from any position on");
const THEN: (&str, &str) = ("R5.6", "an order is shown as it was, at a version and at a time");
const AGAIN: (&str, &str) = ("R5.7", "the same order again is the same, and nothing more has happened");
const PRIVATE: (&str, &str) = ("R5.8", "no event says where somebody lives");

/// How many events are read at once, and at most: of a trip there are fewer.
const PAGE: (usize, usize) = (50, 10_000);

/// An order that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trip<'a> {
    /// `/api/orders/ORD_…`
    pub(super) path: &'a str,
    pub(super) order_id: &'a str,
    /// What it was ordered with.
    pub(super) key: &'a str,
    pub(super) wish: &'a Value,
    /// Where the feed ended before it was placed.
    pub(super) since: i64,
}

impl Shopper<'_> {
    /// Where the feed ends now.
    pub(super) async fn head(&self) -> Result<i64, String> {
        let page = self.warehouse.get("/internal/feed?limit=1").await?;
        page["head"].as_i64().ok_or_else(|| format!("a feed without an end: {page}"))
    }

    /// While it is on its way: `end` is how it will be called off.
    pub(super) async fn on_its_way(&self, trip: Trip<'_>, end: &str, report: &mut Report) {
        report.note(CONFLICT.0, CONFLICT.1, self.conflict(trip, end).await);
    }

    /// Once it is over, and the money is back.
    pub(super) async fn past(&self, trip: Trip<'_>, over: &Value, report: &mut Report) {
        report.note(STATES.0, STATES.1, self.states(trip, over).await);
        report.note(THEN.0, THEN.1, self.then(trip, over).await);
        report.note(AGAIN.0, AGAIN.1, self.again(trip, over).await);
        let events = self.feed(trip.since).await;
        report.note(FEED.0, FEED.1, self.is_gapless(trip, over, events.clone()).await);
        report.note(PRIVATE.0, PRIVATE.1, events.and_then(|events| private(trip, &events)));
    }

    async fn conflict(&self, trip: Trip<'_>, end: &str) -> Result<String, String> {
        let before = self.client.get(trip.path).await?;
        let path = format!("{}/{end}", trip.path);
        let late = self.client.ask(Verb::POST, &path, &[("if-match", "\"1\"")], Some(&reason())).await?;
        hold(late.status == StatusCode::CONFLICT && late.body["reason"] == "conflict", || {
            format!("`If-Match: \"1\"` of version {} is {}: {}", before["version"], late.status, late.body)
        })?;
        let after = self.client.get(trip.path).await?;
        hold(after["version"] == before["version"], || "it has changed all the same".to_owned())?;
        Ok(String::new())
    }

    async fn states(&self, trip: Trip<'_>, over: &Value) -> Result<String, String> {
        for state in ["shipped", "out_for_delivery", "delivered"] {
            let path = format!("/internal/orders/{}/progress", trip.order_id);
            let never = self.warehouse.post(&path, "", &json!({"state": state})).await?;
            hold(never.status == StatusCode::CONFLICT && never.body["reason"] == "wrong_state", || {
                format!("what was given back is {state}: {}: {}", never.status, never.body)
            })?;
        }
        let after = self.client.get(trip.path).await?;
        hold(after["version"] == over["version"], || "it has changed all the same".to_owned())?;
        Ok(String::new())
    }

    async fn then(&self, trip: Trip<'_>, over: &Value) -> Result<String, String> {
        let last = over["version"].as_u64().unwrap_or_default();
        let placed = text(over, "placed_at")?;
        let before = placed.parse::<Moment>().map_err(|error| format!("placed_at: {error}"))?;
        let before = before.before(Duration::from_secs(1));
        let (at, early) = (percent(text(over, "changed_at")?), percent(&before.to_string()));
        for (query, version, state) in [
            ("version=1".to_owned(), 1, "placed"),
            (format!("version={last}"), last, "refunded"),
            (format!("at={at}"), last, "refunded"),
        ] {
            let then = self.client.get(&format!("{}?{query}", trip.path)).await?;
            hold(then["state"] == state && then["version"] == version, || {
                format!("?{query} is {} in version {}", then["state"], then["version"])
            })?;
        }
        let none = self.client.ask(Verb::GET, &format!("{}?at={early}", trip.path), &[], None).await?;
        hold(none.status == StatusCode::NOT_FOUND, || {
            format!("before it was placed it is {}: {}", none.status, none.body)
        })?;
        Ok(String::new())
    }

    async fn again(&self, trip: Trip<'_>, over: &Value) -> Result<String, String> {
        // The gateway remembers the answer itself; so the service is asked, too.
        let headers = [("idempotency-key", trip.key), ("x-user-id", self.user.id)];
        let again = [
            self.client.post("/api/orders", trip.key, trip.wish).await?,
            self.warehouse.ask(Verb::POST, "/api/orders", &headers, Some(trip.wish)).await?,
        ];
        for again in again {
            let again = again.expect(201)?;
            hold(again["order_id"] == trip.order_id, || format!("it is another: {again}"))?;
        }
        let after = self.client.get(trip.path).await?;
        hold(after["version"] == over["version"], || "it has changed by that".to_owned())?;
        let history = self.client.get(&format!("{}/history", trip.path)).await?;
        let first = &history["events"][0];
        hold(first["causation_id"] == trip.key, || format!("it does not follow from its key: {first}"))?;
        Ok(String::new())
    }

    /// All events after a position.
    async fn feed(&self, after: i64) -> Result<Vec<Value>, String> {
        feed(self.warehouse, after).await
    }

    async fn is_gapless(
        &self,
        trip: Trip<'_>,
        over: &Value,
        events: Result<Vec<Value>, String>,
    ) -> Result<String, String> {
        let events = events?;
        let positions = events.iter().filter_map(|it| it["position"].as_i64()).collect::<Vec<_>>();
        let is_in_order = positions.len() == events.len() && positions.is_sorted_by(|one, next| one < next);
        hold(is_in_order, || format!("positions are not in order: {positions:?}"))?;
        let its = events.iter().filter(|it| is_of(trip, it)).filter_map(|it| it["version"].as_u64());
        let last = over["version"].as_u64().unwrap_or_default();
        let its = its.collect::<Vec<_>>();
        hold(its.iter().copied().eq(1..=last), || format!("of {last} versions these are told: {its:?}"))?;
        let middle = positions.len() / 2;
        let Some(after) = positions.get(middle) else { return Err("there is no event".to_owned()) };
        let rest = self.feed(*after).await?;
        // Others may have ordered meanwhile.
        hold(rest.starts_with(&events[middle + 1..]), || format!("after {after} there is something else"))?;
        Ok(String::new())
    }
}

async fn feed(order: &Client, after: i64) -> Result<Vec<Value>, String> {
    let (mut all, mut after) = (Vec::new(), after);
    while all.len() < PAGE.1 {
        let page = order.get(&format!("/internal/feed?after={after}&limit={}", PAGE.0)).await?;
        let events = page["events"].as_array().cloned().unwrap_or_default();
        let Some(last) = events.last().and_then(|it| it["position"].as_i64()) else { break };
        after = last;
        all.extend(events);
    }
    Ok(all)
}

fn is_of(trip: Trip<'_>, event: &Value) -> bool {
    event["stream"].as_str().is_some_and(|it| it.ends_with(trip.order_id))
}

/// The order knows its address, and its events do not.
fn private(trip: Trip<'_>, events: &[Value]) -> Result<String, String> {
    let address = &trip.wish["address"];
    let its = events.iter().filter(|it| is_of(trip, it)).collect::<Vec<_>>();
    hold(!its.is_empty(), || "there is no event of it".to_owned())?;
    for of in ["line", "pincode"] {
        let secret = text(address, of)?;
        let told = its.iter().find(|it| it.to_string().contains(secret));
        hold(told.is_none(), || format!("its {of} is told: {told:?}"))?;
    }
    Ok(String::new())
}
