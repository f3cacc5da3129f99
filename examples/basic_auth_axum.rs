//! Names and passwords before an admin page. Only Argon2id hashes are kept.
//!
//! `cargo run --example basic_auth_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! A check is slow by design, so a limit by address stands outside of it; without one, guesses would keep all
//! checks busy. Passwords travel in the clear: in an application this stands behind TLS.

use std::{error::Error, sync::Arc};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    http::Request,
    routing::get,
};
use naka::{
    basic_auth::{BasicAuthConfig, BasicAuthLayer, User, Users},
    identity::Identity,
    key::Key,
    problem::ProblemLayer,
    rate_limit::{RateLimitConfig, RateLimitLayer, Window},
};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt as _};

/// `argon2 saltsaltsalt -id -t 2 -m 12 -e` of the password `open sesame`.
const HASH: &str =
    "$argon2id$v=19$m=4096,t=2,p=1$c2FsdHNhbHRzYWx0$SvL9pc27qyFeWF/hpm04a+T49mrW8eo1MaIDg0wGN6o";
/// `asha:open sesame`, and `asha:open barley`, as a browser sends them.
const RIGHT: &str = "Basic YXNoYTpvcGVuIHNlc2FtZQ==";
const WRONG: &str = "Basic YXNoYTpvcGVuIGJhcmxleQ==";

fn app() -> Result<Router, Box<dyn Error>> {
    let asha = User::new("asha", HASH)?.knowing(|asha| asha.roles.push("admin".into()));
    let layers = ServiceBuilder::new()
        .layer(ProblemLayer::new())
        // One account for all here; by address in an application.
        .layer(RateLimitLayer::new(RateLimitConfig::new(Window::per_minute(4)), |_| Some(Key::of("all"))))
        .layer(BasicAuthLayer::new(BasicAuthConfig::new(Users::new([asha]))));
    let admin = |Extension(who): Extension<Arc<Identity>>| async move {
        format!("{} is {}\n", who.subject.as_deref().unwrap_or_default(), who.roles.join(", "))
    };
    Ok(Router::new().route("/admin", get(admin)).layer(layers))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if !std::env::args().any(|arg| arg == "--self-test") {
        let listener = TcpListener::bind("127.0.0.1:3000").await?;
        println!("curl -i -u 'asha:open sesame' http://127.0.0.1:3000/admin");
        return Ok(axum::serve(listener, app()?).await?);
    }
    let app = app()?;
    let table = [
        (RIGHT, 200, "asha is admin"),
        (WRONG, 401, "credentials_invalid"),
        ("Bearer of news", 401, "credentials"),
        (RIGHT, 200, "asha is admin"),
        (RIGHT, 429, "rate_limited"),
    ];
    for (credentials, status, said) in table {
        let request = Request::get("/admin").header("authorization", credentials).body(Body::empty())?;
        let (head, body) = app.clone().oneshot(request).await?.into_parts();
        assert_eq!(head.headers.contains_key("www-authenticate"), status == 401);
        let body = String::from_utf8(to_bytes(body, 1024).await?.to_vec())?;
        assert!(head.status == status && body.contains(said), "{} {body}", head.status);
    }
    println!("asha is let in, guesses are not, and there are only so many of them");
    Ok(())
}
