//! Who it is, and whether it may: another service decides, and is asked once in a while.
//!
//! `cargo run --example forward_auth_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! Whoever decides is a service of its own; here it is a function, in an application a client of it. What
//! it does not answer lets nobody in, and what a client writes into `x-user` itself is gone.

use std::{
    convert::Infallible,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    body::{Body, Bytes, to_bytes},
    http::{HeaderName, Request, Response, header::AUTHORIZATION},
    routing::get,
};
use naka::{
    forward_auth::{ForwardAuthConfig, ForwardAuthLayer, Remember},
    identity::Identity,
    problem::ProblemLayer,
};
use tokio::net::TcpListener;
use tower::{ServiceExt as _, service_fn};

fn app(asked: Arc<AtomicU32>) -> Router {
    let decides = service_fn(move |question: Request<()>| {
        asked.fetch_add(1, Relaxed);
        let is_asha = question.headers().get(AUTHORIZATION).is_some_and(|value| value == "Bearer asha");
        let answer = Response::builder().status(if is_asha { 200 } else { 401 });
        let answer = if is_asha { answer.header("x-user", "asha") } else { answer };
        let answer = answer.body(Bytes::from_static(b"whoever decides says so\n"));
        async { Ok::<_, Infallible>(answer.expect("a status and a header make a response")) }
    });
    let user = HeaderName::from_static("x-user");
    let mut config = ForwardAuthConfig::new();
    config.subject = Some(user.clone());
    config.copy = vec![user];
    config.remember = Some(Remember { by: vec![AUTHORIZATION], ttl: Duration::from_secs(10) });
    let whoami = |Extension(who): Extension<Arc<Identity>>| async move {
        format!("namaste, {}\n", who.subject.as_deref().unwrap_or("whoever you are"))
    };
    let auth = ForwardAuthLayer::new(config, decides);
    Router::new().route("/whoami", get(whoami)).layer(auth).layer(ProblemLayer::new())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let asked = Arc::new(AtomicU32::new(0));
    let app = app(Arc::clone(&asked));
    if !std::env::args().any(|arg| arg == "--self-test") {
        let listener = TcpListener::bind("127.0.0.1:3000").await?;
        println!("curl -i http://127.0.0.1:3000/whoami -H 'authorization: Bearer asha'");
        return Ok(axum::serve(listener, app).await?);
    }
    for (token, status, said) in [
        ("Bearer asha", 200, "namaste, asha"),
        ("Bearer asha", 200, "namaste, asha"), // Remembered.
        ("Bearer ravi", 401, "whoever decides says so"),
    ] {
        let request = Request::get("/whoami").header(AUTHORIZATION, token).header("x-user", "the king");
        let (head, body) = app.clone().oneshot(request.body(Body::empty())?).await?.into_parts();
        let body = String::from_utf8(to_bytes(body, 1024).await?.to_vec())?;
        assert!(head.status == status && body.contains(said), "{token}: {} {body}", head.status);
    }
    assert_eq!(asked.load(Relaxed), 2);
    println!("three requests, two questions, one let in");
    Ok(())
}
