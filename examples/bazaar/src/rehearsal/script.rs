//! What customers do: they order, pay, ask again when nobody answers, call it off, send it back; and sometimes all of it at once.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Chance, LONGEST,
    audit::is_quiet,
    stage::{Role, Stage},
};
use crate::kernel::peer::{Answer, Peer};

/// How many customers there are at a time, at most.
const CUSTOMERS: u64 = 4;

/// How often a customer asks again who gets no answer.
const ATTEMPTS: u32 = 40;

/// How a parcel arrives.
const DELIVERY: [&str; 3] = ["shipped", "out_for_delivery", "delivered"];

/// Within how many half commits the first crash comes, at most; those of a rehearsal in which all goes well are fewer.
const FIRST: u64 = 240;

/// What was promised to a customer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The order.
    pub order_id: String,
    /// They were told that the goods are theirs: paid, or to be paid on delivery.
    pub is_confirmed: bool,
    /// They were told that it is called off or taken back.
    pub is_undone: bool,
}

/// Plays a rehearsal until everything is quiet; tells what was promised.
///
/// # Errors
/// If it does not become quiet.
pub async fn play(stage: &mut Stage, chance: &mut Chance) -> Result<Vec<Accepted>, String> {
    let mut customers = JoinSet::new();
    for number in 0..=chance.below(CUSTOMERS) {
        let customer = Customer {
            number,
            order: stage.peer(Role::Order),
            payment: stage.peer(Role::Payment),
            chance: chance.branch(),
        };
        customers.spawn(customer.shop());
    }
    stage.crash_after(chance.below(FIRST));
    let mut accepted = Vec::new();
    let mut dead: Vec<(Role, Instant)> = Vec::new();
    let end = Instant::now() + LONGEST;
    while Instant::now() < end {
        while let Some(role) = stage.bury() {
            let away = Duration::from_millis(
                chance.below(*chance.clone().of_these(&[100, 3_000, 90_000, 1_200_000])),
            );
            dead.push((role, Instant::now() + away));
            if chance.percent(60) {
                stage.crash_after(chance.below(FIRST / 2));
            }
        }
        let now = Instant::now();
        while let Some(number) = dead.iter().position(|(_, until)| *until <= now) {
            let (role, _) = dead.swap_remove(number);
            stage.raise(role).await?;
        }
        while let Some(done) = customers.try_join_next() {
            accepted.extend(done.map_err(|error| error.to_string())?);
        }
        let is_nobody_there = customers.is_empty() && dead.is_empty();
        if is_nobody_there && is_quiet(stage)? {
            return Ok(accepted);
        }
        // Whoever waits for a payment that never comes does so for a quarter of an hour.
        sleep(Duration::from_millis(if is_nobody_there { 20_000 } else { 200 })).await;
    }
    Err(format!("it does not become quiet within {} h", LONGEST.as_secs() / 3600))
}

/// Whoever orders.
struct Customer {
    number: u64,
    order: Peer,
    payment: Peer,
    chance: Chance,
}

impl Customer {
    async fn shop(mut self) -> Vec<Accepted> {
        let mut accepted = Vec::new();
        for number in 0..=self.chance.below(2) {
            sleep(Duration::from_millis(self.chance.below(3_000))).await;
            accepted.extend(self.one(number).await);
        }
        accepted
    }

    /// One order, from the basket to wherever it goes.
    async fn one(&mut self, number: u64) -> Option<Accepted> {
        let method = *self.chance.of_these(&["upi", "wallet", "credit_card", "net_banking", "cod"]);
        let account = self.account(method);
        let product = *self.chance.of_these(&["prod_001", "prod_003", "prod_003"]);
        let quantity = if product == "prod_001" { 1 } else { 1 + self.chance.below(60) };
        let mut wish = json!({
            "items": [{"product_id": product, "quantity": quantity}],
            "address": {"line": "12 Hill Road", "city": "mumbai", "pincode": "400050"},
            "payment_method": method,
        });
        let is_paid_at_once = self.chance.percent(50);
        if is_paid_at_once && method != "cod" {
            wish["payment"] = json!({"method": method, "account": account});
        }
        let key = format!("order-{}-{number}", self.number);
        let placed = self.insist(&self.order.clone(), "/api/orders", &key, &wish).await?;
        if placed.status != StatusCode::CREATED {
            return None; // It was refused, and nobody was promised anything.
        }
        let order = serde_json::from_slice::<Value>(&placed.body).ok()?;
        let order_id = order["order_id"].as_str()?.to_owned();
        let mut is_confirmed = order["state"] != "placed";
        if self.chance.percent(15) {
            let is_undone = self.call_off(&order_id, "cancel").await;
            return Some(Accepted { order_id, is_confirmed: false, is_undone });
        }
        // Some come when the goods are just not held any more.
        let late = if self.chance.percent(15) { 840_000 + self.chance.below(120_000) } else { 0 };
        sleep(Duration::from_millis(late)).await;
        if !is_confirmed && self.chance.percent(15) {
            // They pay, and somebody else of the family calls it off.
            let mut other = self.another();
            let (_, is_undone) = tokio::join!(
                self.pay(&order_id, number, method, &account),
                other.call_off(&order_id, "cancel")
            );
            return Some(Accepted { order_id, is_confirmed: false, is_undone });
        }
        if !is_confirmed && self.chance.percent(85) && self.pay(&order_id, number, method, &account).await {
            is_confirmed = self.is_on_its_way(&order_id).await;
        }
        let how = match self.chance.below(10) {
            0 | 1 => "cancel",
            2..5 if is_confirmed && self.moves(&order_id, &DELIVERY).await => "return",
            5 if is_confirmed && self.moves(&order_id, &DELIVERY[..1]).await => {
                let is_undone = self.moves(&order_id, &["returned"]).await;
                return Some(Accepted { order_id, is_confirmed: false, is_undone });
            }
            _ => return Some(Accepted { order_id, is_confirmed, is_undone: false }),
        };
        // If nobody answers that, nobody knows.
        let is_undone = self.call_off(&order_id, how).await;
        Some(Accepted { order_id, is_confirmed: false, is_undone })
    }

    /// Accounts of all manners.
    fn account(&mut self, method: &str) -> String {
        let manner = *self
            .chance
            .of_these(&["asha", "asha", "asha", "poor", "declined", "slow", "lost", "late", "broken"]);
        if method == "upi" { format!("{manner}@bank") } else { format!("{manner}-0042") }
    }

    /// Pays, sometimes twice at once; whether the money was taken.
    async fn pay(&mut self, order_id: &str, number: u64, method: &str, account: &str) -> bool {
        let wish = json!({"order_id": order_id, "method": method, "account": account});
        let key = format!("pay-{}-{number}", self.number);
        let payment = self.payment.clone();
        if !self.chance.percent(30) {
            return is_paid(self.insist(&payment, "/api/payments", &key, &wish).await.as_ref());
        }
        let second = if self.chance.percent(50) { key.clone() } else { format!("{key}-again") };
        let mut other = self.another();
        let (one, two) = tokio::join!(
            self.insist(&payment, "/api/payments", &key, &wish),
            other.insist(&payment, "/api/payments", &second, &wish)
        );
        is_paid(one.as_ref()) || is_paid(two.as_ref())
    }

    /// The same customer, at another window.
    fn another(&mut self) -> Self {
        let (order, payment) = (self.order.clone(), self.payment.clone());
        Self { number: self.number, order, payment, chance: self.chance.branch() }
    }

    /// Whether the order is told to be on its way, once it is known what becomes of it: money that was taken may come too late.
    async fn is_on_its_way(&mut self, order_id: &str) -> bool {
        let user = format!("user{}", self.number);
        let path = format!("/api/orders/{order_id}");
        for _ in 0..ATTEMPTS {
            let answer = self.order.ask_as(Method::GET, &path, &[("x-user-id", &user)], None::<&()>).await;
            let order = answer.ok().and_then(|it| serde_json::from_slice::<Value>(&it.body).ok());
            match order.as_ref().and_then(|it| it["state"].as_str()) {
                Some("processing") => return true,
                Some("placed" | "confirmed") | None => {
                    sleep(Duration::from_millis(200 + self.chance.below(4_000))).await;
                }
                Some(_) => return false,
            }
        }
        false
    }

    /// The warehouse and the courier say that it has come so far; whether they could.
    async fn moves(&mut self, order_id: &str, states: &[&str]) -> bool {
        let path = format!("/internal/orders/{order_id}/progress");
        for state in states {
            let order = self.order.clone();
            let moved = self.insist(&order, &path, "", &json!({"state": state})).await;
            if moved.is_none_or(|it| it.status != StatusCode::OK) {
                return false;
            }
        }
        true
    }

    async fn call_off(&mut self, order_id: &str, how: &str) -> bool {
        let path = format!("/api/orders/{order_id}/{how}");
        let order = self.order.clone();
        let answer = self.insist(&order, &path, "", &json!({"reason": "changed my mind"})).await;
        answer.is_some_and(|it| it.status == StatusCode::OK)
    }

    /// Asks until somebody has decided.
    async fn insist(&mut self, peer: &Peer, path: &str, key: &str, wish: &Value) -> Option<Answer> {
        let user = format!("user{}", self.number);
        let mut headers = vec![("x-user-id", user.as_str())];
        headers.extend(Some(("idempotency-key", key)).filter(|_| !key.is_empty()));
        for _ in 0..ATTEMPTS {
            match peer.ask_as(Method::POST, path, &headers, Some(wish)).await {
                Ok(answer) if !answer.status.is_server_error() && answer.status != StatusCode::ACCEPTED => {
                    return Some(answer);
                }
                _ => sleep(Duration::from_millis(200 + self.chance.below(4_000))).await,
            }
        }
        None
    }
}

fn is_paid(answer: Option<&Answer>) -> bool {
    answer.is_some_and(|it| it.status == StatusCode::CREATED)
}
