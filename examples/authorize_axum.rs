//! Rules about who may, tried out on paper before they refuse anybody.
//!
//! `cargo run --example authorize_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! Who it is comes from a layer outside (`jwt_axum`, `api_key_axum`); here a header stands for it, which no
//! application should believe. What cannot be known lets nobody in: `!Rule::role("banned")` is no guess.

use std::{error::Error, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::Method,
    routing::{delete, get},
};
use naka::{
    authorize::{AuthorizeLayer, Rule},
    enforce::Enforce,
    identity::{Identity, Scheme},
    problem::ProblemLayer,
};
use tokio::net::TcpListener;
use tower::{ServiceExt as _, util::MapRequestLayer};

fn app() -> Router {
    let readers = Rule::all([Rule::Method(Method::GET), Rule::Authenticated]);
    let staff = Rule::all([Rule::role("support"), !Rule::role("banned")]);
    let rides = AuthorizeLayer::new(Rule::any([readers, staff]));
    // It says what it would refuse, to its observer and in `explain`, and refuses nothing yet.
    let on_paper = AuthorizeLayer::new(Rule::scope("shop")).enforce(Enforce::Observe);

    let who = MapRequestLayer::new(|mut request: Request| {
        if let Some(role) = request.headers().get("x-role").and_then(|role| role.to_str().ok()) {
            let mut identity = Identity::new(Scheme::Mtls, Some("somebody".into()));
            identity.roles.extend(role.split(',').map(Arc::from));
            Arc::new(identity).put(request.extensions_mut());
        }
        request
    });
    Router::new()
        .route("/rides", get(|| async { "one ride\n" }).merge(delete(|| async { "none\n" })).layer(rides))
        .route("/shop", get(|| async { "chai\n" }).layer(on_paper))
        .layer(who)
        .layer(ProblemLayer::new())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if !std::env::args().any(|arg| arg == "--self-test") {
        let listener = TcpListener::bind("127.0.0.1:3000").await?;
        println!("curl -i -X DELETE http://127.0.0.1:3000/rides -H 'x-role: support'");
        return Ok(axum::serve(listener, app()).await?);
    }
    let app = app();
    let table = [
        (Method::GET, "/rides", None, 403),
        (Method::GET, "/rides", Some("driver"), 200),
        (Method::DELETE, "/rides", Some("driver"), 403),
        (Method::DELETE, "/rides", Some("support"), 200),
        (Method::DELETE, "/rides", Some("support,banned"), 403),
        (Method::DELETE, "/rides", None, 403),
        (Method::GET, "/shop", None, 200),
    ];
    for (method, path, role, status) in table {
        let mut request = Request::builder().method(&method).uri(path).body(Body::empty())?;
        if let Some(role) = role {
            request.headers_mut().insert("x-role", role.parse()?);
        }
        let response = app.clone().oneshot(request).await?;
        assert_eq!(response.status(), status, "{method} {path} as {role:?}");
    }
    println!("who is known reads, support deletes, and nobody is let in by a guess");
    Ok(())
}
