//! Registries over TLS, as a process asks them: whom it believes, and how it is seen that it does not.

use std::sync::Arc;

use naka_testkit::{
    consul::{Consul, Manner as OfConsul},
    eureka::{Eureka, Manner as OfEureka},
    upstream::{Upstream, ok},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    process::Process,
    tls::{Authority, Pair, serving},
};

/// Takes TLS off before a registry.
async fn in_front_of(registry: String, pair: &Pair) -> String {
    let acceptor = TlsAcceptor::from(Arc::new(serving(pair, &[b"http/1.1"], None)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, registry) = (acceptor.clone(), registry.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return }; // It was not believed.
                let mut plain = TcpStream::connect(registry).await.unwrap();
                _ = copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    format!("https://localhost:{port}")
}

fn yaml(registries: &str, endpoints: &str) -> String {
    format!(
        "
gateway:
  workers: 1
  admin: {{listen: ADMIN}}
  reload: {{debounce: 10ms}}
  health: {{interval: 1s}}
  alerts: {{builtin: false, rules: {{old: {{when: stale, for: 0s, keep_firing_for: 0s}}}}}}
  registries: {{{registries}}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{app: {{endpoints: {endpoints}}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
"
    )
}

async fn fires(process: &Process, fires: bool) {
    process
        .until("the alert", async || {
            let alerts = process.json("/alerts").await.to_string();
            (alerts.contains("\"old\"") && alerts.contains("firing")) == fires
        })
        .await;
}

/// Believed by the authority that is named, and by no other one; seen in gauge, counter, alert and `/readyz`.
async fn over_tls(process: &Process, of: impl Fn(&str) -> String) {
    process.answers("/", "here").await;
    let level = async |level: &str| {
        process.metric(&format!("naka_discovery_level{{upstream=\"app\",level=\"{level}\"}}")).await.unwrap()
    };
    let looks = async |result: &str| {
        process
            .metric(&format!("naka_discovery_looks_total{{upstream=\"app\",result=\"{result}\"}}"))
            .await
            .unwrap()
    };
    assert!(level("endpoints").await > 0.0 && level("stale").await < 1.0);
    assert!(looks("taken").await >= 1.0);
    fires(process, false).await;

    let failed = looks("failed").await;
    process.write("gateway.yaml", &of("theirs.pem"));
    process.until("it is not believed", async || level("stale").await > 0.0).await;
    assert!(looks("failed").await > failed);
    let ready = process.json("/readyz?format=json").await;
    let why = ready["stale"]["app"].as_str().expect("it says why").to_owned();
    assert!(why.contains("certificate") || why.contains("UnknownIssuer"), "{why}");
    fires(process, true).await;
    process.answers("/", "here").await; // What was found stays.

    process.write("gateway.yaml", &of("ours.pem"));
    process.until("it is believed again", async || level("stale").await < 1.0).await;
    fires(process, false).await;
}

fn folder(ours: &Authority, theirs: &Authority) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ours.pem"), ours.pem()).unwrap();
    std::fs::write(folder.path().join("theirs.pem"), theirs.pem()).unwrap();
    std::fs::write(folder.path().join("token"), "what-nobody-sees").unwrap();
    folder
}

#[tokio::test]
async fn r1_3_consul_over_tls_is_believed_by_its_authority_alone_and_that_is_seen() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let app = Upstream::start(|_| ok("here")).await;
    let consul = Consul::start("127.0.0.1:0").await;
    consul.has_at("booking", &[app.address()]);
    let address = in_front_of(consul.address().to_owned(), &ours.certify(&["localhost"])).await;
    let of = |ca: &str| {
        yaml(
            &format!("consul: {{address: '{address}', ca: {ca}, token: {{file: token}}}}"),
            "{consul: booking}",
        )
    };
    let process = Process::start_in(folder(&ours, &theirs), &of("ours.pem")).await;
    over_tls(&process, of).await;
    assert!(consul.asked().iter().all(|it| it.header("x-consul-token") == Some("what-nobody-sees")));

    // A token that counts no more.
    consul.behaves(OfConsul::Refuses(403, "ACL not found"));
    consul.has_at("booking", &[]); // Whoever waits hears of it.
    process
        .until("it is refused", async || {
            let ready = process.json("/readyz?format=json").await;
            ready["stale"]["app"].as_str().is_some_and(|why| why.contains("ACL not found"))
        })
        .await;
    process.answers("/", "here").await;
    assert!(!process.log().contains("what-nobody-sees"));
}

#[tokio::test]
async fn r1_3_eureka_over_tls_is_believed_by_its_authority_alone_and_that_is_seen() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let app = Upstream::start(|_| ok("here")).await;
    let eureka = Eureka::start("127.0.0.1:0").await;
    eureka.has_at("BOOKING", &[app.address()]);
    let address = in_front_of(eureka.address().to_owned(), &ours.certify(&["localhost"])).await;
    let of = |ca: &str| {
        let secret = "user: gateway, password: {file: token}, refresh: 1s";
        yaml(&format!("eureka: {{servers: ['{address}/eureka'], ca: {ca}, {secret}}}"), "{eureka: BOOKING}")
    };
    let process = Process::start_in(folder(&ours, &theirs), &of("ours.pem")).await;
    over_tls(&process, of).await;
    assert!(
        eureka.asked().iter().all(|it| it.header("authorization").is_some_and(|it| it.starts_with("Basic ")))
    );
    eureka.behaves(OfEureka::Refuses(401, "no"));
    process
        .until("it is refused", async || {
            let ready = process.json("/readyz?format=json").await;
            ready["stale"]["app"].as_str().is_some_and(|why| why.contains("401"))
        })
        .await;
    process.answers("/", "here").await;
}
