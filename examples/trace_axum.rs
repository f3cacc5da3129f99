//! Traces in an axum router: a span of each request by its route, and one within it for each time that somebody else is asked.
//!
//! `cargo run --example trace_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! Here spans are printed. An `Exporter` of `naka::trace::otlp` (feature `otlp`) is a collector, too, and sends them on in batches.

use std::{
    error::Error,
    sync::{Arc, mpsc},
};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request},
    routing::get,
};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use naka::{
    clock::Now,
    guard::End,
    trace::{self, Collect, Format, Journal, ServerSpan, TraceConfig, TraceLayer},
};
use tower::ServiceExt as _;

/// Asks the pricing service what a ride costs: each time under a number of its own.
async fn fare(request: Request) -> String {
    let Some(journal) = Journal::of(request.extensions()) else { return "nobody traces it".into() };
    let attempt = journal.attempt(&"pricing".into(), &"127.0.0.1:8201".into(), Now::read());
    let mut headers = HeaderMap::new(); // Of the request to that service, which answers at once here.
    if let Some(context) = attempt.context() {
        trace::inject(&context, &mut headers, &[Format::W3c]);
    }
    attempt.answered(http::StatusCode::OK, Now::read());
    attempt.end(End::Complete);
    format!("{}\n", headers["traceparent"].to_str().unwrap_or_default())
}

fn app(collector: impl Collect) -> Router {
    // Said of strangers, a trace counts for nothing: this would believe only whoever is inside.
    let traced = TraceLayer::new(TraceConfig::default(), collector)
        .trusting(|head| head.headers.contains_key("x-inside"))
        .named_by(|extensions| Some(extensions.get::<MatchedPath>()?.as_str().into()));
    Router::new().route("/rides/{id}/fare", get(fare)).layer(traced)
}

fn told(span: &ServerSpan) -> String {
    let asked = span.written.attempts.iter().map(|it| format!("; asked {} in {:?}", it.upstream, it.took));
    format!(
        "{} {}: {:?} in {:?}{}",
        span.context.trace,
        span.name(),
        span.status,
        span.took,
        asked.collect::<String>()
    )
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if !std::env::args().any(|arg| arg == "--self-test") {
        println!("curl http://127.0.0.1:3000/rides/17/fare");
        let app = app(|span: ServerSpan| println!("{}", told(&span)));
        return Ok(axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?);
    }
    let (sender, spans) = mpsc::channel();
    let app = app(move |span: ServerSpan| drop(sender.send(Arc::new(span))));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for is_inside in [true, false] {
        let mut request = Request::get("/rides/17/fare").header("traceparent", parent);
        if is_inside {
            request = request.header("x-inside", "1");
        }
        let answer = app.clone().oneshot(request.body(Body::empty())?).await?;
        let said = answer.into_body().collect().await?.to_bytes();
        let span = spans.recv()?;
        println!("{}", told(&span));
        assert_eq!(span.name(), "GET /rides/{id}/fare");
        assert_eq!(span.parent.is_some(), is_inside, "who is not inside begins no trace of ours");
        let asked = span.written.attempts[0].span.ok_or("it is traced")?;
        assert!(String::from_utf8_lossy(&said).contains(&format!("{}-{asked}", span.context.trace)));
    }
    Ok(())
}
