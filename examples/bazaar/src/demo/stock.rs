//! What the stock must show, on a whole platform: through the gateway, as the warehouse asks, with both of its sides killed in turn.
//!
//! Commands and queries are processes of their own; what was written is waited for by the position that a command answers
//! (`min_position`).
//!
//! # Bounds
//! Each check takes at most [`CHECK`]. The goods are new ones, of which nobody else orders any.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use axum::http::{Method as Verb, StatusCode};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    client::{Answer, Client, text},
    platform::Platform,
    report::{Report, hold},
};

/// How long a check may take.
pub const CHECK: Duration = Duration::from_secs(20);

/// How many buyers want the last one.
const BUYERS: u32 = 200;

const MUMBAI: &str = "MUM_WH_001";
const DELHI: &str = "DEL_WH_001";

/// Checks it row by row.
pub async fn show(platform: &mut Platform, report: &mut Report) {
    let stock = match platform.warehouse_token() {
        Ok(token) => Stock {
            gateway: Client::of("gateway", platform.gateway).with_token(&token).patient(CHECK),
            queries: Client::of("inventory-query", platform.at("inventory-query")),
            commands: AtomicU32::new(0),
        },
        Err(error) => return report.note("R6.1", EVERYTHING, Err(error)),
    };
    report.note("R6.1", EVERYTHING, within(stock.everything()).await);
    report.note(
        "R6.2",
        "one unit and 200 buyers at once: sold once, and on hand is what is available and what is reserved",
        within(stock.last_one()).await,
    );
    report.note(
        "R6.3",
        "100, less 25, and 200 more, 5 of them reserved: 270 of 275",
        within(stock.sums()).await,
    );
    report.note(
        "R6.4",
        "a hold runs out by itself, and is not completed any more; a release is done once",
        within(stock.holds()).await,
    );
    report.note(
        "R6.5",
        "a reservation takes from two warehouses, or nothing; a transfer changes no total",
        within(stock.warehouses()).await,
    );
    report.note(
        "R6.6",
        "who has written sees it, or is told that it is not there yet; how far it is behind is told",
        within(stock.own_writes()).await,
    );
    report.note("R6.7", "low stock is told once for each way down", within(stock.alerts()).await);
    report.note("R6.8", "either side works while the other is dead", within(stock.sides(platform)).await);
}

/// The check of R6.1.
const EVERYTHING: &str = "five commands, six kinds of events and five queries, through the gateway";

async fn within(check: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    timeout(CHECK, check).await.unwrap_or_else(|_| Err(format!("it takes longer than {} s", CHECK.as_secs())))
}

fn reservation(name: &str, product: &str, quantity: u32, seconds: u32) -> Value {
    let items = json!([{"product_id": product, "quantity": quantity}]);
    json!({"reservation_id": name, "items": items, "hold_seconds": seconds})
}

/// Whoever writes, and whoever reads.
struct Stock {
    gateway: Client,
    queries: Client,
    /// How many there were: each has a key of its own.
    commands: AtomicU32,
}

impl Stock {
    async fn command(&self, name: &str, body: &Value) -> Result<Answer, String> {
        let key = format!("demo-{}", self.commands.fetch_add(1, Relaxed));
        self.gateway.post(&format!("/inventory/commands/{name}"), &key, body).await
    }

    async fn add(&self, product: &str, warehouse: &str, quantity: u32) -> Result<Value, String> {
        let body = json!({"product_id": product, "warehouse": warehouse, "quantity": quantity});
        self.command("add_product", &body).await?.expect(200)
    }

    async fn update(&self, product: &str, delta: i32, reason: &str) -> Result<Value, String> {
        let body = json!({"product_id": product, "warehouse": MUMBAI, "delta": delta, "reason": reason});
        self.command("update_quantity", &body).await?.expect(200)
    }

    async fn reserve(
        &self,
        name: &str,
        product: &str,
        quantity: u32,
        seconds: u32,
    ) -> Result<Answer, String> {
        self.command("reserve", &reservation(name, product, quantity, seconds)).await
    }

    async fn release(&self, name: &str, reason: &str) -> Result<Answer, String> {
        self.command("release", &json!({"reservation_id": name, "reason": reason})).await
    }

    /// What is shown once it is as of what a command has answered.
    async fn after(&self, written: &Value, path: &str) -> Result<Value, String> {
        let sign = if path.contains('?') { '&' } else { '?' };
        self.gateway.get(&format!("/inventory/{path}{sign}min_position={}", written["position"])).await
    }

    /// On hand, available and reserved.
    async fn numbers(&self, written: &Value, product: &str) -> Result<[u64; 3], String> {
        let shown = self.after(written, &format!("availability?product_id={product}")).await?;
        Ok(["on_hand", "available", "reserved"].map(|it| shown[it].as_u64().unwrap_or(u64::MAX)))
    }

    async fn everything(&self) -> Result<String, String> {
        const P: &str = "demo_all";
        self.add(P, MUMBAI, 60).await?;
        self.update(P, -5, "damaged").await?;
        self.reserve("demo_all", P, 5, 900).await?.expect(200)?;
        self.release("demo_all", "order_completed").await?.expect(200)?;
        let moved = json!({"product_id": P, "from": MUMBAI, "to": DELHI, "quantity": 10});
        let moved = self.command("transfer", &moved).await?.expect(200)?;
        let mut rows = Vec::new();
        for query in ["availability", "reservations", "movements", "alerts"] {
            let shown = self.after(&moved, &format!("{query}?product_id={P}")).await?;
            rows.push(shown[query].as_array().map_or(1, Vec::len));
        }
        let levels = self.after(&moved, &format!("levels?ids={P}")).await?;
        rows.push(levels["levels"].as_array().map_or(0, Vec::len));
        hold(rows.iter().all(|it| *it > 0), || format!("a query shows nothing: {rows:?}"))?;
        let movements = self.after(&moved, &format!("movements?product_id={P}&limit=100")).await?;
        let kinds =
            movements["movements"].as_array().into_iter().flatten().filter_map(|it| it["kind"].as_str());
        let mut kinds = kinds.collect::<Vec<_>>();
        kinds.sort_unstable();
        kinds.dedup();
        // The sixth, an alert, moves nothing, and is asked for by itself.
        hold(kinds.len() == 5, || format!("these have happened: {kinds:?}"))?;
        let outside = self.queries.post("/inventory/commands/transfer", "k", &json!({})).await?;
        hold(outside.status == StatusCode::NOT_FOUND, || {
            format!("who is read from takes commands: {}", outside.status)
        })?;
        Ok(format!("{}, and an alert", kinds.join(", ")))
    }

    async fn last_one(&self) -> Result<String, String> {
        const P: &str = "demo_last";
        self.add(P, MUMBAI, 1).await?;
        let mut buying = JoinSet::new();
        for number in 0..BUYERS {
            let gateway = self.gateway.clone();
            let name = format!("demo_buyer_{number}");
            let wish = reservation(&name, P, 1, 900);
            buying.spawn(async move {
                for _ in 0..20 {
                    // Two hundred are more than there are places; whoever finds none comes again.
                    match gateway.post("/inventory/commands/reserve", &name, &wish).await {
                        Ok(answer) if !answer.status.is_server_error() => return Ok(answer),
                        _ => sleep(Duration::from_millis(200)).await,
                    }
                }
                Err(format!("{name} was never answered"))
            });
        }
        let answers = buying.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let sold = answers.iter().filter(|it| it.status == StatusCode::OK).collect::<Vec<_>>();
        let refused = answers.iter().filter(|it| it.body["reason"] == "out_of_stock").count();
        let said = format!("{} sold, {refused} refused", sold.len());
        hold(sold.len() == 1 && sold.len() + refused == BUYERS as usize, || said.clone())?;
        let numbers = self.numbers(&sold[0].body, P).await?;
        hold(numbers == [1, 0, 1], || format!("{said}; on hand, available, reserved: {numbers:?}"))?;
        Ok(said)
    }

    async fn sums(&self) -> Result<String, String> {
        const P: &str = "demo_sums";
        self.add(P, MUMBAI, 100).await?;
        self.update(P, -25, "sold").await?;
        self.update(P, 200, "restocking").await?;
        let held = self.reserve("demo_sums", P, 5, 900).await?.expect(200)?;
        let [on_hand, available, reserved] = self.numbers(&held, P).await?;
        let said = format!("{available} available and {reserved} reserved of {on_hand}");
        if [on_hand, available, reserved] == [275, 270, 5] { Ok(said) } else { Err(said) }
    }

    async fn holds(&self) -> Result<String, String> {
        const P: &str = "demo_holds";
        self.add(P, MUMBAI, 10).await?;
        self.reserve("demo_short", P, 4, 1).await?.expect(200)?;
        let kept = self.reserve("demo_left", P, 3, 900).await?.expect(200)?;
        for _ in 0..2 {
            let left = self.release("demo_left", "order_cancelled").await?.expect(200)?;
            hold(left["state"] == "released", || format!("what was left is {}", left["state"]))?;
        }
        self.after(&kept, &format!("availability?product_id={P}")).await?;
        let path = format!("/inventory/availability?product_id={P}");
        let back = self.gateway.until(&path, "all is available", |it| it["available"] == 10).await?;
        let late = self.release("demo_short", "order_completed").await?;
        hold(late.status == StatusCode::CONFLICT && late.body["state"] == "expired", || {
            format!("completing a hold that has run out is {}: {}", late.status, late.body)
        })?;
        Ok(format!("{} of {} are available again", back["available"], back["on_hand"]))
    }

    async fn warehouses(&self) -> Result<String, String> {
        const P: &str = "demo_split";
        self.add(P, MUMBAI, 5).await?;
        self.add(P, DELHI, 5).await?;
        let more = self.reserve("demo_more", P, 11, 900).await?;
        hold(more.body["reason"] == "out_of_stock", || format!("eleven of ten are {}", more.status))?;
        let split = self.reserve("demo_split", P, 8, 900).await?.expect(200)?;
        let parts = split["allocations"].as_array().map_or(0, Vec::len);
        let numbers = self.numbers(&split, P).await?;
        hold((parts, numbers) == (2, [10, 2, 8]), || {
            format!("from {parts} warehouses; on hand, available, reserved: {numbers:?}")
        })?;
        self.release("demo_split", "order_cancelled").await?.expect(200)?;
        let wish = json!({"product_id": P, "from": MUMBAI, "to": DELHI, "quantity": 3});
        let moved = self.command("transfer", &wish).await?.expect(200)?;
        let numbers = self.numbers(&moved, P).await?;
        hold(numbers == [10, 10, 0], || format!("after a transfer: {numbers:?}"))?;
        Ok(format!("8 from {parts} warehouses, and 10 in all before a transfer and after it"))
    }

    async fn own_writes(&self) -> Result<String, String> {
        const P: &str = "demo_own";
        let mut written = self.add(P, MUMBAI, 1).await?;
        for more in 1..=20 {
            written = self.update(P, more, "restocking").await?;
            let [on_hand, ..] = self.numbers(&written, P).await?;
            let should = u64::from((1..=more.unsigned_abs()).sum::<u32>()) + 1;
            hold(on_hand == should, || format!("{on_hand} are seen of {should}"))?;
        }
        let ahead = written["position"].as_u64().unwrap_or_default() + 1_000_000;
        let path = format!("/inventory/availability?product_id={P}&min_position={ahead}");
        let early = self.gateway.ask(Verb::GET, &path, &[], None).await?;
        hold(early.status == StatusCode::CONFLICT && early.body["reason"] == "not_yet", || {
            format!("what is not written yet is {}: {}", early.status, early.body)
        })?;
        let is_level = |lag: &Value| lag["seconds"].is_u64() && lag["position"] == lag["head"];
        let lag = self.queries.until("/internal/lag", "it has heard of everything", is_level).await?;
        Ok(format!("20 of 20 were seen; at {} of {}", lag["position"], lag["head"]))
    }

    async fn alerts(&self) -> Result<String, String> {
        const P: &str = "demo_alerts";
        self.add(P, MUMBAI, 60).await?;
        let mut written = Value::Null;
        // Below 50, on and on, below 10, up again, and below 50 once more.
        for delta in [-9, -1, -1, -38, -1, -5, 50, -10] {
            written = self.update(P, delta, if delta > 0 { "restocking" } else { "sold" }).await?;
        }
        let shown = self.after(&written, &format!("alerts?product_id={P}")).await?;
        let alerts = shown["alerts"].as_array().into_iter().flatten().rev();
        let told =
            alerts.map(|it| text(it, "urgency").map(|urgency| format!("{urgency} at {}", it["on_hand"])));
        let told = told.collect::<Result<Vec<_>, _>>()?;
        let said = format!("eight sales and deliveries, and told of: {}", told.join(", "));
        if told == ["medium at 50", "high at 10", "medium at 45"] { Ok(said) } else { Err(said) }
    }

    async fn sides(&self, platform: &mut Platform) -> Result<String, String> {
        const P: &str = "demo_sides";
        self.add(P, MUMBAI, 10).await?;
        platform.kill("inventory-query").await?;
        let held = self.reserve("demo_sides", P, 4, 900).await?.expect(200);
        platform.start("inventory-query")?;
        platform.until_ready("inventory-query").await?;
        let held = held?;
        // The gateway may leave it alone for a moment: nobody was there.
        let path = format!("/inventory/availability?product_id={P}");
        self.gateway.until(&path, "what came meanwhile", |it| it["available"] == 6).await?;
        platform.kill("inventory").await?;
        let seen = self.numbers(&held, P).await;
        platform.start("inventory")?;
        platform.until_ready("inventory").await?;
        let seen = seen?;
        hold(seen == [10, 6, 4], || format!("while nobody could write: {seen:?}"))?;
        self.release("demo_sides", "order_cancelled").await?.expect(200)?;
        self.gateway.until(&path, "what is let go", |it| it["available"] == 10).await?;
        Ok("4 held while nobody could read, and 6 seen while nobody could write".to_owned())
    }
}
