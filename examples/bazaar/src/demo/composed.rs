//! What composed answers must show: through a small gateway, whose parts are answered in this process, and on a whole platform, where an
//! order has its buyer and its products, with those killed who have a part in it.
//!
//! That parts are asked at the same time is not read off a clock: each of them waits until all of them have been asked.
//!
//! # Bounds
//! Each check takes at most [`CHECK`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::Request,
    http::{Method as Verb, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    client::{Client, text},
    demos::{PATIENCE, Small, serve},
    platform::{Platform, until},
    report::{Report, hold},
};

/// How long a check may take.
pub const CHECK: Duration = Duration::from_secs(20);

/// How long a part waits for the others.
const TOGETHER: Duration = Duration::from_secs(8);

/// The routes of the small gateway that compose, and their upstream.
const ROUTES: &str = r#"
  together:
    match: {path: /together, methods: [GET]}
    compose:
      calls:
        one: {upstream: parts, path: /gate/1}
        two: {upstream: parts, path: /gate/2}
        three: {upstream: parts, path: /gate/3}
      body: {one: "{one.body}", two: "{two.body}", three: "{three.body}"}
  same:
    match: {path: /same, methods: [GET]}
    compose:
      calls: {one: {upstream: parts, path: /count}, two: {upstream: parts, path: /count}}
      body: {one: "{one.body}", two: "{two.body}"}
  two-at-a-time:
    match: {path: /two-at-a-time, methods: [GET]}
    compose:
      max_in_flight: 2
      calls:
        a: {upstream: parts, path: /busy/a}
        b: {upstream: parts, path: /busy/b}
        c: {upstream: parts, path: /busy/c}
        d: {upstream: parts, path: /busy/d}
      body: {a: "{a.body}", b: "{b.body}", c: "{c.body}", d: "{d.body}"}
  large:
    match: {path: /large, methods: [GET]}
    compose:
      max_part: 1KiB
      calls: {one: {upstream: parts, path: /large}}
      body: {one: "{one.body}"}
  apart:
    match: {path: /apart, methods: [GET]}
    compose:
      headers: [accept-language]
      calls:
        broken:
          upstream: parts
          path: /broken
          required: false
          circuit_breaker: {consecutive: 2, failure_rate: never, open: 60s}
        headers: {upstream: parts, path: /headers}
      body: {broken: "{broken.body}", headers: "{headers.body}"}
"#;

/// Whoever answers the parts.
#[derive(Clone, Debug)]
struct Parts {
    /// How many wait for each other.
    waiting: watch::Sender<u32>,
    /// How often it was asked for what is counted, and for what is broken.
    counted: Arc<AtomicU32>,
    broken: Arc<AtomicU32>,
    /// How many are at work, and how many were at once.
    busy: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
}

impl Parts {
    fn new() -> Self {
        let [counted, broken, busy, most] = [(); 4].map(|()| Arc::default());
        Self { waiting: watch::channel(0).0, counted, broken, busy, most }
    }

    async fn answer(self, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        match path.split('/').nth(1).unwrap_or_default() {
            "gate" => {
                let mut waiting = self.waiting.subscribe();
                self.waiting.send_modify(|it| *it += 1);
                let are_there = timeout(TOGETHER, waiting.wait_for(|it| *it >= 3)).await.is_ok();
                if !are_there {
                    return StatusCode::GATEWAY_TIMEOUT.into_response();
                }
            }
            "count" => _ = self.counted.fetch_add(1, Relaxed),
            "busy" => {
                let busy = self.busy.fetch_add(1, Relaxed) + 1;
                self.most.fetch_max(busy, Relaxed);
                sleep(Duration::from_millis(100)).await;
                self.busy.fetch_sub(1, Relaxed);
            }
            "large" => return Json("x".repeat(2048)).into_response(),
            "broken" => {
                self.broken.fetch_add(1, Relaxed);
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
            _ => {}
        }
        let headers = request.headers().keys().map(|it| it.as_str().to_owned()).collect::<Vec<_>>();
        Json(json!({"path": path, "headers": headers})).into_response()
    }
}

/// Checks what can be seen through a small gateway.
pub(super) async fn small(small: &mut Small, report: &mut Report) {
    report.note(
        "R13.6",
        "a composed answer to a method that changes something is refused with the file, and to GET is not",
        within(only_reading(small)).await,
    );
    let together = "three parts are asked at once: each of them waits for the others";
    let parts = Parts::new();
    if let Err(error) = within(compose(small, &parts)).await {
        return report.note("R13.2", together, Err(error));
    }
    report.note("R13.2", together, within(at_once(small)).await);
    report.note(
        "R13.4",
        "what two parts ask for is asked once, no more are under way than may be, and none is too large",
        within(bounded(small, &parts)).await,
    );
    report.note(
        "R13.5",
        "a part has a breaker of its own, and of the client's headers only those that are listed",
        within(apart(small, &parts)).await,
    );
}

/// Has the routes take effect.
async fn compose(small: &mut Small, parts: &Parts) -> Result<String, String> {
    let parts = parts.clone();
    let answer = move |request: Request| parts.clone().answer(request);
    let at = serve(&mut small.upstreams, Router::new().fallback(answer)).await?;
    let upstream = format!("  parts: {{endpoints: [\"{at}\"]}}\nroutes:\n");
    write(small, &(small.text.replacen("routes:\n", &upstream, 1) + ROUTES.trim_start_matches('\n')))?;
    let is_there = async || status(small, "/same").await == Ok(200);
    hold(until(PATIENCE / 2, is_there).await, || "the routes have not taken effect".to_owned())?;
    Ok(String::new())
}

fn write(small: &Small, text: &str) -> Result<(), String> {
    std::fs::write(&small.config, text).map_err(|error| error.to_string())
}

async fn status(small: &Small, path: &str) -> Result<u16, String> {
    small.client.ask(Verb::GET, path, &[], None).await.map(|it| it.status.as_u16())
}

/// A file whose composed answer is one to POST, and then the same to GET.
async fn only_reading(small: &Small) -> Result<String, String> {
    let route = |method: &str| {
        let call = "{calls: {one: {upstream: steady, path: /}}, body: {one: \"{one.body}\"}}";
        format!("{}  one:\n    match: {{path: /one, methods: [{method}]}}\n    compose: {call}\n", small.text)
    };
    write(small, &route("POST"))?;
    let why = "a composition answers GET and HEAD, and not POST";
    let is_refused = async || small.admin.get("/readyz").await.is_ok_and(|it| it.to_string().contains(why));
    hold(until(PATIENCE / 2, is_refused).await, || "the file with POST was not refused".to_owned())?;
    let before = status(small, "/one").await?;
    hold(before == 404, || format!("a route of a file that was refused is {before}"))?;
    write(small, &route("GET"))?;
    // Its part is no JSON, so that there is an answer, and it is not that there is no such route.
    let is_there = until(PATIENCE / 2, async || status(small, "/one").await.is_ok_and(|it| it != 404)).await;
    hold(is_there, || "the file with GET has not taken effect".to_owned())?;
    Ok(format!("to POST, {why}; to GET there is an answer"))
}

async fn at_once(small: &Small) -> Result<String, String> {
    let body = small.client.get("/together").await?;
    let paths = ["one", "two", "three"].map(|it| body[it]["path"].as_str().unwrap_or_default().to_owned());
    hold(paths == ["/gate/1", "/gate/2", "/gate/3"], || format!("a part is missing: {body}"))?;
    Ok("three were under way at the same time".to_owned())
}

async fn bounded(small: &Small, parts: &Parts) -> Result<String, String> {
    let before = parts.counted.load(Relaxed);
    let body = small.client.get("/same").await?;
    hold(body["one"] == body["two"] && body["one"]["path"] == "/count", || format!("they differ: {body}"))?;
    let asked = parts.counted.load(Relaxed) - before;
    hold(asked == 1, || format!("for two parts it was asked {asked} times"))?;
    small.client.get("/two-at-a-time").await?;
    let most = parts.most.load(Relaxed);
    hold(most == 2, || format!("of two that may be under way {most} were"))?;
    let large = small.client.ask(Verb::GET, "/large", &[], None).await?;
    hold(large.status == 502, || format!("a part that is too large is {}: {}", large.status, large.body))?;
    Ok(format!("asked once for two; {most} of four under way; 2 KiB of one are {}", large.status.as_u16()))
}

async fn apart(small: &Small, parts: &Parts) -> Result<String, String> {
    let headers = [("accept-language", "hi"), ("cookie", "secret=1"), ("x-other", "1")];
    for number in 0..5 {
        let answer = small.client.ask(Verb::GET, "/apart", &headers, None).await?.expect(200)?;
        let went = answer["headers"]["headers"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let went = went.collect::<Vec<_>>();
        let is_listed =
            went.contains(&"accept-language") && !went.contains(&"cookie") && !went.contains(&"x-other");
        hold(is_listed, || format!("these headers went along: {went:?}"))?;
        hold(answer["errors"][0]["call"] == "broken", || format!("{number}: nothing has failed: {answer}"))?;
    }
    let asked = parts.broken.load(Relaxed);
    hold(asked == 2, || format!("what fails was asked {asked} times of 5, and should have been twice"))?;
    Ok(format!("the part that fails was asked {asked} times of 5, and the other one 5 times"))
}

/// Checks what can be seen on a whole platform.
pub async fn whole(platform: &mut Platform, client: &Client, report: &mut Report) {
    let order = client.post("/api/orders", "demo-composed", &wish()).await;
    let order_id =
        order.and_then(|it| it.expect(201)).and_then(|it| text(&it, "order_id").map(str::to_owned));
    let whole = "an order, its buyer and its products are one answer, and so is a home page";
    let order_id = match order_id {
        Ok(order_id) => order_id,
        Err(error) => return report.note("R13.1", whole, Err(error)),
    };
    let details = format!("/api/orders/{order_id}/details");
    report.note("R13.1", whole, within(composed(client, &details, &order_id)).await);
    report.note(
        "R13.3",
        "what is optional is left out and said to be; what is not is the answer",
        within(without(platform, client, &details)).await,
    );
}

async fn within(check: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    timeout(CHECK, check).await.unwrap_or_else(|_| Err(format!("it takes longer than {} s", CHECK.as_secs())))
}

fn wish() -> Value {
    json!({
        "items": [{"product_id": "prod_002", "quantity": 1}, {"product_id": "prod_003", "quantity": 1}],
        "payment_method": "upi",
        "address": {"line": "12, Station Road", "city": "mumbai", "pincode": "400050"},
    })
}

async fn composed(client: &Client, details: &str, order_id: &str) -> Result<String, String> {
    let headers = [("accept-language", "en")];
    let whole = client.ask(Verb::GET, details, &headers, None).await?.expect(200)?;
    let products = whole["products"].as_array().map_or(0, Vec::len);
    let is_whole =
        whole["order"]["order_id"] == order_id && whole["buyer"]["user_id"] == "asha" && products == 2;
    hold(is_whole && whole["errors"].is_null(), || format!("something is missing: {whole}"))?;
    let home = client.get("/api/home?city=mumbai").await?;
    let ordered = home["orders"].as_array().into_iter().flatten().any(|it| it["order_id"] == order_id);
    let shown = home["products"].as_array().map_or(0, Vec::len);
    hold(ordered && shown > 0, || format!("a home page without the order, or without products: {home}"))?;
    Ok(format!("an order, its buyer and {products} products; {shown} products at home"))
}

async fn without(platform: &mut Platform, client: &Client, details: &str) -> Result<String, String> {
    platform.kill("user").await?;
    let partial = client.ask(Verb::GET, details, &[], None).await;
    platform.start("user")?;
    platform.until_ready("user").await?;
    let partial = partial?;
    let said =
        partial.headers.get("naka-partial").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    let partial = partial.expect(200)?;
    let is_said = said == "buyer" && partial["errors"][0]["call"] == "buyer";
    let has_rest =
        partial["buyer"].is_null() && partial["products"].as_array().is_some_and(|it| it.len() == 2);
    hold(is_said && has_rest, || {
        format!("`naka-partial` is {said:?}, and without its buyer it is {partial}")
    })?;

    platform.kill("order").await?;
    let none = client.ask(Verb::GET, details, &[], None).await;
    let home = client.ask(Verb::GET, "/api/home?city=mumbai", &[], None).await;
    platform.start("order")?;
    platform.until_ready("order").await?;
    let (none, home) = (none?, home?.expect(200)?);
    hold(none.status == 502 && none.body["order"].is_null(), || {
        format!("without its order it is {}: {}", none.status, none.body)
    })?;
    let is_said = home["errors"][0]["call"] == "orders" && home["products"].is_array();
    hold(is_said, || format!("a home page without orders is {home}"))?;
    Ok(format!("200 without its buyer, {} without its order", none.status.as_u16()))
}
