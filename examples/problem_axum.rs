//! How refusals look: problem details (RFC 9457), or an application's own words.
//!
//! `cargo run --example problem_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! A layer that refuses says why in a typed extension and leaves the body empty. One layer, outermost,
//! renders them all; a handler can refuse in the same way.

use std::error::Error;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderValue, Request, StatusCode},
    response::Response,
    routing::get,
};
use naka::{
    problem::ProblemLayer,
    reject::{Reason, Rejection},
};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

/// A handler that refuses with a reason of its own.
async fn closed() -> Response {
    let reason = Reason::Custom(StatusCode::CONFLICT, "shop_closed");
    Rejection::new(reason).detail("The shop opens at nine.").into_response()
}

fn app() -> Router {
    let in_plain_text = ProblemLayer::rendered_by(|rejection| {
        let text = format!("No: {}\n", rejection.detail.as_deref().unwrap_or(rejection.reason.sentence()));
        (HeaderValue::from_static("text/plain; charset=utf-8"), text.into())
    });
    let plain = Router::new().route("/plain", get(closed)).layer(in_plain_text);
    let shop = Router::new().route("/shop", get(closed)).route("/", get(|| async { "namaste\n" }));
    shop.layer(ProblemLayer::new()).merge(plain)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if !std::env::args().any(|arg| arg == "--self-test") {
        let listener = TcpListener::bind("127.0.0.1:3000").await?;
        println!("curl -i http://127.0.0.1:3000/shop; curl -i http://127.0.0.1:3000/plain");
        return Ok(axum::serve(listener, app()).await?);
    }
    let problem = r#"{"type":"about:blank","title":"Conflict","status":409,"reason":"shop_closed","detail":"The shop opens at nine."}"#;
    let table = [
        ("/", 200, "text/plain; charset=utf-8", "namaste\n"),
        ("/shop", 409, "application/problem+json", problem),
        ("/plain", 409, "text/plain; charset=utf-8", "No: The shop opens at nine.\n"),
    ];
    for (path, status, content_type, said) in table {
        let response = app().oneshot(Request::get(path).body(Body::empty())?).await?;
        let (head, body) = response.into_parts();
        assert_eq!((head.status.as_u16(), head.headers["content-type"].to_str()?), (status, content_type));
        assert_eq!(head.headers.contains_key("naka-reason"), status == 409);
        assert_eq!(to_bytes(body, 1024).await?, said);
    }
    println!("one reason, two renderings, and what is no refusal is left alone");
    Ok(())
}
