//! An order with its buyer, its items and its parcel in one answer; also when nobody knows where the parcel is.
//!
//! `cargo run --example aggregate_axum` serves on port 3000; `-- --self-test` asks itself and ends.

use std::error::Error;

use axum::{Json, Router, body::Body, extract::Request, http::StatusCode, routing::get};
use http_body_util::BodyExt as _;
use naka::{
    compose::{Call, Compose, ComposeConfig, Otherwise, PARTIAL, Template, TemplateError},
    problem::ProblemLayer,
    reject::Head,
    timeout::TimeoutLayer,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::Duration};
use tower::ServiceExt as _;

/// Services that have a part each. Where they are processes, an HTTP client stands here.
fn shop() -> Router {
    let items = json!([{"product_id": 3}, {"product_id": 5}]);
    let order = Json(json!({"id": 7, "user_id": "asha", "items": items, "total": 541.86}));
    Router::new()
        .route("/orders/7", get(order))
        .route("/users/asha", get(Json(json!({"name": "Asha"}))))
        .route("/products", get(Json(json!([{"id": 3, "name": "Dosa"}, {"id": 5, "name": "Chai"}]))))
        .route("/track/7", get(StatusCode::SERVICE_UNAVAILABLE))
}

fn details() -> Result<Compose<Router>, Box<dyn Error>> {
    let call = |name, path| Ok::<_, TemplateError>(Call::get(name, "shop", Template::parse(path)?));
    let plan = ComposeConfig::new([
        call("order", "/orders/{id}")?,
        call("buyer", "/users/{order.body.user_id}")?,
        call("items", "/products?ids={order.body.items.*.product_id}")?, // One call for all of them.
        call("tracking", "/track/{id}")?
            .timeout(Duration::from_millis(300))
            .otherwise(Otherwise::Default("null".into())),
    ]);
    // The one value that is no call's: the last segment of the path.
    let id = |head: &Head<'_>, _: &str| head.uri.path().rsplit('/').next().map(|id| id.as_bytes().to_vec());
    Ok(Compose::new(plan.check()?, id, |_| shop()))
}

fn app() -> Result<Router, Box<dyn Error>> {
    let app = Router::new().route_service("/details/{id}", details()?);
    Ok(app.layer(TimeoutLayer::new(Duration::from_secs(2))).layer(ProblemLayer::new()))
}

async fn ask(app: &Router, path: &str) -> Result<(StatusCode, String, Value), Box<dyn Error>> {
    let response = app.clone().oneshot(Request::get(path).body(Body::empty())?).await?;
    let partial = response.headers().get(PARTIAL).map_or("", |names| names.to_str().unwrap_or_default());
    let (status, partial) = (response.status(), partial.to_owned());
    Ok((status, partial, serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = app()?;
    if !std::env::args().any(|arg| arg == "--self-test") {
        println!("curl -i http://127.0.0.1:3000/details/7");
        return Ok(axum::serve(TcpListener::bind("127.0.0.1:3000").await?, app).await?);
    }
    let (status, partial, said) = ask(&app, "/details/7").await?;
    println!("{status}, without {partial}: {said}");
    assert_eq!((status, &*partial, &said["tracking"]), (StatusCode::OK, "tracking", &Value::Null));
    assert_eq!((&said["buyer"]["name"], &said["items"][1]["name"]), (&json!("Asha"), &json!("Chai")));
    let (status, _, said) = ask(&app, "/details/8").await?;
    assert_eq!(
        (status, &said["call"]),
        (StatusCode::NOT_FOUND, &json!("order")),
        "what is needed keeps its status"
    );
    Ok(())
}
