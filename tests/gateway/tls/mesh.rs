//! Two gateways as sidecars: what a service asks leaves through the one and arrives through the other, and each knows who the other is.
//!
//! In CI with four thousand requests; `NAKA_REQUESTS=100000 cargo test --release -p naka-suite --test gateway -- mesh` for more.

use std::{
    cell::Cell,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

use super::{Authority, Dialing, Pair};
use crate::{
    process::{Process, raw},
    reload_load::{clients, echo, half},
};

/// What stands before `payment`.
const INBOUND: &str = "
gateway: {admin: {listen: ADMIN}, workers: 2, identity_headers: {x-peer: identity}}
listeners:
  inbound:
    listen: PUBLIC
    tls: {certificates: [{cert: own.pem, key: own.key}], client_ca: ca.pem, check_host: false}
upstreams: {a: {endpoints: ['A']}, b: {endpoints: ['B']}}
groups:
  all:
    authorize: {identity: 'spiffe://mesh/sa/order'}
    headers: {request: {set: {x-through: '1'}}, response: {set: {x-through: '1'}}}
    routes:
      a: {match: {prefix: /a}, upstream: a}
      b: {match: {prefix: /b}, upstream: b}
";

/// What stands behind `order`.
const OUTBOUND: &str = "
gateway: {admin: {listen: ADMIN}, workers: 2}
listeners: {outbound: {listen: PUBLIC}}
upstreams:
  payment:
    endpoints: ['PAYMENT']
    tls: {sni: payment, ca: ca.pem, cert: own.pem, key: own.key, verify_san: ['spiffe://mesh/sa/payment']}
routes: {all: {match: {prefix: /}, upstream: payment}}
";

/// Puts a certificate and its key where a sidecar looks for its own.
fn put(folder: &Path, pair: &Pair) {
    std::fs::write(folder.join("own.pem"), &pair.cert).unwrap();
    std::fs::write(folder.join("own.key"), &pair.key).unwrap();
}

fn trust(folder: &Path, authorities: &[&Authority]) {
    let bundle = authorities.iter().map(|it| it.pem()).collect::<String>();
    std::fs::write(folder.join("ca.pem"), bundle).unwrap();
}

fn certify(authority: &Authority, who: &str) -> Pair {
    authority.certify(&[who, &format!("spiffe://mesh/sa/{who}")])
}

/// A sidecar of that name.
async fn sidecar(authority: &Authority, who: &str, yaml: &str) -> Process {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), &certify(authority, who));
    trust(folder.path(), &[authority]);
    Process::start_in(folder, yaml).await
}

async fn payment(authority: &Authority) -> Process {
    let (a, b) = (echo("a").await, echo("b").await);
    let yaml = INBOUND.replace("'A'", &format!("'{a}'")).replace("'B'", &format!("'{b}'"));
    sidecar(authority, "payment", &yaml).await
}

fn to(at: SocketAddr) -> String {
    OUTBOUND.replace("PAYMENT", &at.to_string())
}

/// What is answered to who connects so; nothing if the handshake, or what follows it, fails.
async fn ask(dialing: &Dialing, at: SocketAddr) -> Option<String> {
    let stream = TcpStream::connect(at).await.unwrap();
    let mut stream = dialing.over(stream, "payment").await.ok()?;
    let request = b"GET /a/x HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r7_7_who_is_not_of_the_mesh_is_refused_and_each_is_told_apart() {
    let (ours, strangers) = (Authority::new("ours"), Authority::new("strangers"));
    let payment = payment(&ours).await;
    let order = sidecar(&ours, "order", &to(payment.public)).await;
    assert_eq!(order.public("GET /a/x").await, (200, "a 1".to_owned()));
    let counted = async |outcome: &str| {
        let name = format!("naka_tls_handshakes_total{{listener=\"inbound\",outcome=\"{outcome}\"}}");
        payment.metric(&name).await
    };
    // Who is refused may hear of it before it is counted.
    let once = async |outcome: &str| {
        payment.until(outcome, async || counted(outcome).await == Some(1.0)).await;
    };

    let plain = raw(payment.public, b"GET /a/x HTTP/1.1\r\nhost: payment\r\n\r\n").await;
    assert!(plain.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&plain));
    once("plain_text").await;

    let dialing = Dialing::new(&ours);
    assert_eq!(ask(&dialing, payment.public).await, None);
    once("client_certificate_missing").await;

    let stranger = certify(&strangers, "order");
    assert_eq!(ask(&dialing.clone().showing(&stranger), payment.public).await, None);
    once("client_certificate_refused").await;
    payment.says("a client has not shown a certificate that counts").await;

    let other = certify(&ours, "product");
    let refused = ask(&dialing.showing(&other), payment.public).await.unwrap();
    assert!(
        refused.starts_with("HTTP/1.1 403 ") && refused.contains("\"reason\":\"forbidden\""),
        "{refused}"
    );
    assert_eq!(counted("failed").await, Some(0.0));

    // And who stands at the other end has to be who is asked for.
    let nobody = INBOUND.replace("'A'", "'127.0.0.1:1'").replace("'B'", "'127.0.0.1:1'");
    let impostor = sidecar(&ours, "product", &nobody).await;
    let misled = sidecar(&ours, "order", &to(impostor.public)).await;
    let (status, answer) = misled.public("GET /a/x").await;
    assert!(status == 502 && answer.contains("upstream_certificate"), "{status} {answer}");
}

/// Whose certificates both sidecars have, whom they believe, and what comes next.
struct Rotation {
    folders: [PathBuf; 2],
    authorities: [Authority; 2],
    stage: usize,
}

impl Rotation {
    /// The next change: new certificates; a second authority besides; certificates of that; and it alone.
    fn go_on(&mut self) {
        let [now, next] = &self.authorities;
        let certify_all = |authority: &Authority| {
            for (folder, who) in self.folders.iter().zip(["payment", "order"]) {
                put(folder, &certify(authority, who));
            }
        };
        match self.stage % 4 {
            0 => certify_all(now),
            1 => self.folders.iter().for_each(|folder| trust(folder, &[now, next])),
            2 => certify_all(next),
            _ => {
                self.folders.iter().for_each(|folder| trust(folder, &[next]));
                let last = Authority::new(&format!("number {}", self.stage));
                let next = std::mem::replace(&mut self.authorities[1], last);
                self.authorities[0] = next;
            }
        }
        self.stage += 1;
    }
}

async fn generation(process: &Process) -> u64 {
    process.json("/readyz").await["generation"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r7_7_certificates_and_authorities_change_at_half_saturation_and_no_request_is_lost() {
    let requests = std::env::var("NAKA_REQUESTS").map_or(4_000, |it| it.parse::<u64>().unwrap());
    let (now, next) = (Authority::new("first"), Authority::new("second"));
    let payment = payment(&now).await;
    let order = sidecar(&now, "order", &to(payment.public)).await;
    let (at, stages) = (order.public, Cell::new(0));
    let apart = half(at, requests / 10).await;

    let changes = async {
        let folders = [&payment, &order].map(|it| it.path("own.pem").parent().unwrap().to_owned());
        let mut rotation = Rotation { folders, authorities: [now, next], stage: 0 };
        loop {
            let before = [generation(&payment).await, generation(&order).await];
            rotation.go_on();
            payment.until("it is in force", async || generation(&payment).await > before[0]).await;
            order.until("it is in force", async || generation(&order).await > before[1]).await;
            stages.set(rotation.stage);
            sleep(Duration::from_millis(100)).await;
        }
    };
    let load = async {
        let mut failed = clients(at, requests, Some(apart)).await;
        while failed.is_empty() && stages.get() < 9 {
            failed = clients(at, requests, Some(apart)).await;
        }
        failed
    };
    let failed = tokio::select! {
        failed = load => failed,
        () = changes => unreachable!("they go on"),
    };
    assert_eq!(failed, Vec::<String>::new(), "{}\n{}", payment.log(), order.log());
    eprintln!("{requests} requests, one in {apart:?} for each client; {} changes", stages.get());
}
