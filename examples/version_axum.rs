//! Three versions of one shop: in the path or a header, with their ends told, and who still uses them.
//!
//! `cargo run --example version_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! axum routes before a router's layers, and `/v2` is taken away here: so the layer stands around the router.

use std::{error::Error, future::IntoFuture as _, net::SocketAddr};

use axum::{Extension, Json, Router, ServiceExt, extract::Request, routing::get};
use naka::{
    clock::Now,
    context::ApiVersion,
    problem::ProblemLayer,
    version::{Strategy, Version, VersionConfig, VersionLayer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tower::Layer as _;

fn versions() -> Result<VersionLayer, Box<dyn Error>> {
    let ends = Version::new("1").deprecated(1_767_225_600).sunset(4_102_444_800); // From 2026, until 2100.
    let first = ends.successor("3").docs("https://shop.example/v1-ends");
    let config = VersionConfig::new([first, Version::new("2"), Version::new("3").alias("stable")]);
    let config = config.strategies([Strategy::stripped_path(), Strategy::header(), Strategy::accept()]);
    Ok(VersionLayer::new(config.default_version("1").check()?))
}

fn router(versions: VersionLayer) -> Router {
    let product =
        async |Extension(ApiVersion(version)): Extension<ApiVersion>| format!("chai, as v{version}\n");
    let table = async move || {
        let (table, usage) = (versions.versions(Now::read()), versions.usage(Now::read()));
        let shown = table.versions.iter().zip(usage.versions).map(|(one, used)| {
            let (name, safe) = (&*one.version.name, used.is_safe_to_retire);
            serde_json::json!({ "name": name, "state": one.state.word(), "requests": used.last_7_days, "retire": safe })
        });
        Json(shown.collect::<Vec<_>>())
    };
    Router::new().route("/products/{id}", get(product)).route("/versions", get(table))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let is_self_test = std::env::args().any(|arg| arg == "--self-test");
    let listener = TcpListener::bind(if is_self_test { "127.0.0.1:0" } else { "127.0.0.1:3000" }).await?;
    let address = listener.local_addr()?;
    let versions = versions()?;
    let app = ProblemLayer::new().layer(versions.layer(router(versions.clone())));
    let server = axum::serve(listener, ServiceExt::<Request>::into_make_service(app));
    if is_self_test {
        tokio::spawn(server.into_future());
        return self_test(address).await;
    }
    println!("curl -i http://{address}/v1/products/7; curl http://{address}/versions");
    Ok(server.await?)
}

async fn self_test(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let old = ask(address, "/v1/products/7", "").await?;
    assert!(old.ends_with("chai, as v1\n") && old.contains("deprecation: @1767225600"), "{old}");
    assert!(old.contains("link: </v3/products/7>; rel=\"successor-version\""), "{old}");
    assert!(ask(address, "/products/7", "x-api-version: stable\r\n").await?.ends_with("chai, as v3\n"));
    assert!(ask(address, "/v9/products/7", "").await?.contains("supported: 1, 2, 3."));
    let conflict = ask(address, "/v2/products/7", "accept: application/vnd.shop.v3+json\r\n").await?;
    assert!(conflict.starts_with("HTTP/1.1 400 ") && conflict.contains("version_conflict"), "{conflict}");
    let table = ask(address, "/versions", "").await?;
    println!("{}", table.lines().last().unwrap_or_default());
    Ok(())
}

async fn ask(address: SocketAddr, path: &str, header: &str) -> std::io::Result<String> {
    let (mut stream, mut response) = (TcpStream::connect(address).await?, String::new());
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{header}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.read_to_string(&mut response).await?;
    Ok(response)
}
