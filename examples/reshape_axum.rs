//! A client of version 1 gets the shape it knows from a shop that speaks version 3 only.
//!
//! `cargo run --example reshape_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! The version layer stands around the router, since it takes `/v1` from the path; the layer that changes
//! bodies reads below it which version was asked for.

use std::{error::Error, future::IntoFuture as _, net::SocketAddr};

use axum::{Json, Router, ServiceExt, extract::Request, routing::get};
use bytes::Bytes;
use naka::{
    BoxError,
    context::ApiVersion,
    problem::ProblemLayer,
    reject::Head,
    reshape::{ReshapeConfig, ReshapeLayer},
    version::{Strategy, Version, VersionConfig, VersionLayer},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tower::Layer as _;

/// From `{"data": {…}, "meta": {…}}` to what version 1 was: flat, under other names, without ratings.
fn to_first(body: &Bytes) -> Result<Bytes, BoxError> {
    let Value::Object(mut product) = serde_json::from_slice::<Value>(body)?["data"].take() else {
        return Err("there is no product".into());
    };
    for (new, old) in [("product_id", "id"), ("product_name", "name"), ("price_inr", "price")] {
        let value = product.remove(new).ok_or("a part of the product is missing")?;
        product.insert(old.to_owned(), value);
    }
    product.remove("ratings");
    Ok(serde_json::to_vec(&product)?.into())
}

fn shop() -> Router {
    let product = json!({ "product_id": 7, "product_name": "chai", "price_inr": 40, "ratings": [5, 4] });
    let answer = json!({ "data": product, "meta": { "cache_ttl": 300 } });
    let is_first = |head: &Head<'_>| ApiVersion::of(head.extensions).is_some_and(|version| &**version == "1");
    let reshape = ReshapeLayer::new(ReshapeConfig::new(), is_first, to_first);
    Router::new().route("/products/7", get(async || Json(answer))).layer(reshape)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let is_self_test = std::env::args().any(|arg| arg == "--self-test");
    let listener = TcpListener::bind(if is_self_test { "127.0.0.1:0" } else { "127.0.0.1:3000" }).await?;
    let address = listener.local_addr()?;
    let config = VersionConfig::new([Version::new("1").successor("3"), Version::new("3")]);
    let config = config.strategies([Strategy::stripped_path(), Strategy::header()]).default_version("1");
    let app = ProblemLayer::new().layer(VersionLayer::new(config.check()?).layer(shop()));
    let server = axum::serve(listener, ServiceExt::<Request>::into_make_service(app));
    if is_self_test {
        tokio::spawn(server.into_future());
        let (old, new) = (ask(address, "/v1/products/7").await?, ask(address, "/v3/products/7").await?);
        assert!(old.ends_with("\r\n\r\n{\"id\":7,\"name\":\"chai\",\"price\":40}"), "{old}");
        assert!(old.contains("content-length: 33\r\n") && old.contains("x-api-version: 1\r\n"), "{old}");
        assert!(new.contains("\"data\":{") && new.contains("\"ratings\":[5,4]"), "{new}");
        println!("{}", old.lines().last().unwrap_or_default());
        return Ok(());
    }
    println!("curl -i http://{address}/v1/products/7; curl -i http://{address}/v3/products/7");
    Ok(server.await?)
}

async fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let (mut stream, mut response) = (TcpStream::connect(address).await?, String::new());
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.read_to_string(&mut response).await?;
    Ok(response)
}
