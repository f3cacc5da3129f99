//! Who is it, and may they? Tokens and a rule before an axum app.
//!
//! `cargo run --example jwt_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! The secret here is for show. Whoever takes tokens from an identity provider publishes nothing of the
//! kind: `Keys::fetched` keeps the provider's public keys fresh, and survives its outages.

use std::{error::Error, future::IntoFuture as _, net::SocketAddr, sync::Arc};

use axum::{Extension, Router, routing::get};
use naka::{
    authorize::{AuthorizeLayer, Rule},
    identity::Identity,
    jwt::{JwtConfig, JwtLayer, KeySet, Keys},
    problem::ProblemLayer,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const SECRET: &[u8] = b"only for this example: thirty-two bytes and more";
/// Of asha, who may book, until 2100; and of ravi, who may not.
const ASHA: &str = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJiYXphYXIiLCJhdWQiOiJyaWRlcyIsInN1YiI6ImFzaGEiLCJleHAiOjQxMDI0NDQ4MDAsInNjb3BlIjoicmlkZXMuYm9vayJ9.kWN8bLBg_J-ge-BBklbEggdyzVIyBWS7uhTmExEoHsY";
const RAVI: &str = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJiYXphYXIiLCJhdWQiOiJyaWRlcyIsInN1YiI6InJhdmkiLCJleHAiOjQxMDI0NDQ4MDB9.H8WV5KpGscw7jOZs2FXuKGqkWL8LmoIP9SmbNkSNIi0";

fn app() -> Result<Router, Box<dyn Error>> {
    let keys = Keys::fixed(KeySet::from_secret(None, SECRET)?);
    let jwt = JwtLayer::new(JwtConfig::new().issuer("bazaar").audience("rides"), keys);
    let may_book = AuthorizeLayer::new(Rule::scope("rides.book"));

    let whoami = |Extension(who): Extension<Arc<Identity>>| async move {
        format!("namaste, {}\n", who.subject.as_deref().unwrap_or("whoever you are"))
    };
    let app = Router::new()
        .route("/book", get(|| async { "a ride is on its way\n" }).layer(may_book))
        .route("/whoami", get(whoami))
        .layer(jwt) // Outside of what asks who it is.
        .route("/healthz", get(|| async { "ok\n" })); // Below: for everybody.
    Ok(app.layer(ProblemLayer::new()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let is_self_test = std::env::args().any(|arg| arg == "--self-test");
    let listener = TcpListener::bind(if is_self_test { "127.0.0.1:0" } else { "127.0.0.1:3000" }).await?;
    let address = listener.local_addr()?;
    let server = axum::serve(listener, app()?);
    if is_self_test {
        tokio::spawn(server.into_future());
        return self_test(address).await;
    }
    println!("curl -i http://{address}/whoami -H 'authorization: Bearer {ASHA}'");
    Ok(server.await?)
}

async fn self_test(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let table = [
        ("/healthz", "", "200"),
        ("/whoami", "", "401"),
        ("/whoami", ASHA, "200"),
        ("/book", ASHA, "200"),
        ("/book", RAVI, "403"),
        ("/book", &RAVI.replace(".ey", ".fy"), "401"), // Touched.
    ];
    for (path, token, status) in table {
        let (mut stream, mut answer) = (TcpStream::connect(address).await?, String::new());
        let credentials =
            if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n{credentials}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_string(&mut answer).await?;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
    println!("who is known is greeted, who may books, and nobody else");
    Ok(())
}
