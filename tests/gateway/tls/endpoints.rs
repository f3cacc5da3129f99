//! With endpoints.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use naka_testkit::upstream::{Upstream, ok};
use tokio::{
    net::{TcpListener, UnixListener},
    time::{Duration, advance},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{HandshakeKind, ServerConfig},
};

use super::{Authority, Pair, serving};
use crate::{
    inside::{Inside, get},
    process::Process,
};

/// An endpoint that tells in its answers what it has seen: what was spoken, for which name, who was shown, and which of its
/// connections it is.
struct Endpoint {
    connections: Arc<AtomicUsize>,
}

impl Endpoint {
    fn at(gateway: &Inside, name: &str, config: ServerConfig) -> Self {
        let (acceptor, connections) = (TlsAcceptor::from(Arc::new(config)), Arc::new(AtomicUsize::new(0)));
        let mut listener = gateway.network.listen(name);
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Some(stream) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue }; // It was not believed.
                let number = count.fetch_add(1, SeqCst) + 1;
                tokio::spawn(async move {
                    let session = stream.get_ref().1;
                    let is_h2 = session.alpn_protocol() == Some(b"h2");
                    let shown = session.peer_certificates().is_some();
                    let name = session.server_name().unwrap_or("nobody").to_owned();
                    let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
                    let service = service_fn(move |request: Request<Incoming>| {
                        let version = if request.version() == Version::HTTP_2 { "h2" } else { "h1" };
                        let scheme = request.uri().scheme_str().unwrap_or("-").to_owned();
                        let text = format!(
                            "{version} {scheme} for {name}, shown {shown}, resumed {is_resumed}, connection {number}"
                        );
                        async move { Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from(text)))) }
                    });
                    let io = TokioIo::new(stream);
                    if is_h2 {
                        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
                    } else {
                        let _ = http1::Builder::new().serve_connection(io, service).await;
                    }
                });
            }
        });
        Self { connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

fn config(upstream: &str) -> String {
    format!(
        "
listeners: {{public: {{listen: ':1'}}}}
upstreams: {{app: {{endpoints: ['app.internal:443'], timeouts: {{connect: 2s}}, {upstream}}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
"
    )
}

fn gateway(upstream: &str, ours: &Authority, shown: &Pair) -> Inside {
    let files = [("ca.pem", &*ours.pem()), ("gw.pem", &*shown.cert), ("gw.key", &*shown.key)];
    Inside::with_files(&config(upstream), &files)
}

async fn said(gateway: &Inside) -> (u16, String) {
    let response = gateway.send(get("/")).await;
    let body = String::from_utf8(response.body().to_vec()).unwrap();
    let reason = response.headers().get("naka-reason").map(|reason| reason.to_str().unwrap().to_owned());
    (response.status().as_u16(), reason.unwrap_or(body))
}

#[tokio::test(start_paused = true)]
async fn r7_7_endpoints_have_to_be_who_they_should_be() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let spiffe = "spiffe://naka/ns/rides/sa/booking";
    let right = ours.certify(&["app.internal", spiffe]);
    let cases = [
        ("tls: {ca: ca.pem}", &right, true),
        ("tls: {ca: ca.pem}", &ours.certify(&["elsewhere.internal"]), false),
        ("tls: {ca: ca.pem}", &other.certify(&["app.internal"]), false),
        ("tls: {ca: ca.pem}", &ours.certify_until(&["app.internal"], 2001), false),
        ("tls: {ca: ca.pem, sni: elsewhere.internal}", &ours.certify(&["elsewhere.internal"]), true),
        ("tls: {ca: ca.pem, sni: elsewhere.internal}", &right, false),
        ("tls: {ca: ca.pem, verify_san: elsewhere.internal}", &ours.certify(&["elsewhere.internal"]), true),
        ("tls: {ca: ca.pem, verify_san: elsewhere.internal}", &right, false),
        (
            "tls: {ca: ca.pem, verify_san: ['spiffe://naka/other', 'spiffe://naka/ns/rides/sa/booking']}",
            &right,
            true,
        ),
        ("tls: {ca: ca.pem, verify_san: 'spiffe://naka/ns/rides/sa'}", &right, false),
        (
            "tls: {ca: ca.pem, verify_san: 'spiffe://naka/ns/rides/sa/booking'}",
            &other.certify(&[spiffe]),
            false,
        ),
        (
            "tls: {ca: ca.pem, verify_san: 'spiffe://naka/ns/rides/sa/booking'}",
            &ours.certify_until(&[spiffe], 2001),
            false,
        ),
        ("tls: {}", &right, false),
        ("tls: {verify: false}", &other.certify_until(&["elsewhere.internal"], 2001), true),
    ];
    for (tls, pair, is_believed) in cases {
        let gateway = gateway(tls, &ours, &right);
        let _endpoint = Endpoint::at(&gateway, "app.internal:443", serving(pair, &[b"http/1.1"], None));
        let (status, said) = said(&gateway).await;
        if is_believed {
            assert_eq!(status, 200, "{tls}: {said}");
            let name = if tls.contains("sni") { "elsewhere.internal" } else { "app.internal" };
            assert_eq!(said, format!("h1 - for {name}, shown false, resumed false, connection 1"), "{tls}");
        } else {
            assert_eq!((status, &*said), (502, "upstream_certificate"), "{tls}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r2_3_http_2_is_spoken_over_tls_where_the_endpoint_offers_it() {
    let ours = Authority::new("ours");
    let pair = ours.certify(&["app.internal"]);
    let gateway = gateway("protocol: h2, tls: {ca: ca.pem}", &ours, &pair);
    let endpoint = Endpoint::at(&gateway, "app.internal:443", serving(&pair, &[b"h2", b"http/1.1"], None));
    for _ in 0..3 {
        let said = said(&gateway).await;
        assert_eq!(said, (200, "h2 https for app.internal, shown false, resumed false, connection 1".into()));
    }
    assert_eq!(endpoint.connections(), 1);

    let h1_only = self::gateway("protocol: h2, tls: {ca: ca.pem}", &ours, &pair);
    let _endpoint = Endpoint::at(&h1_only, "app.internal:443", serving(&pair, &[], None));
    assert_eq!(said(&h1_only).await, (502, "tls_failed".into()), "nobody guesses what it speaks");
}

#[tokio::test(start_paused = true)]
async fn r7_7_endpoints_are_shown_who_the_gateway_is() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let pair = ours.certify(&["app.internal"]);
    for (tls, shown, expected) in [
        ("tls: {ca: ca.pem, cert: gw.pem, key: gw.key}", &ours.certify(&["gateway.internal"]), 200),
        ("tls: {ca: ca.pem, cert: gw.pem, key: gw.key}", &other.certify(&["gateway.internal"]), 502),
        ("tls: {ca: ca.pem}", &pair, 502),
    ] {
        let gateway = gateway(tls, &ours, shown);
        let _endpoint = Endpoint::at(&gateway, "app.internal:443", serving(&pair, &[], Some(&ours)));
        let (status, said) = said(&gateway).await;
        assert_eq!(status, expected, "{tls}: {said}");
        assert!(if status == 200 { said.contains("shown true") } else { said == "tls_failed" }, "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_by_a_reload_and_not_when_somebody_else_is_believed() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let pair = ours.certify(&["app.internal"]);
    let gateway = gateway("tls: {ca: ca.pem}", &ours, &pair);
    let _endpoint = Endpoint::at(&gateway, "app.internal:443", serving(&pair, &[], None));
    let connection = async || said(&gateway).await.1.rsplit(' ').next().unwrap().to_owned();
    assert_eq!(connection().await, "1");
    gateway.reload(&(config("tls: {ca: ca.pem}") + "# again\n")).unwrap();
    assert_eq!(connection().await, "1");
    gateway.write("ca.pem", &(ours.pem() + &other.pem()));
    gateway.reload(&config("tls: {ca: ca.pem}")).unwrap();
    assert_eq!(connection().await, "2", "over connections of its own");
    gateway.write("ca.pem", &other.pem());
    gateway.reload(&config("tls: {ca: ca.pem}")).unwrap();
    assert_eq!(
        said(&gateway).await,
        (502, "upstream_certificate".into()),
        "who was believed yesterday is not"
    );
}

#[tokio::test(start_paused = true)]
async fn sessions_with_endpoints_are_resumed() {
    let ours = Authority::new("ours");
    let pair = ours.certify(&["app.internal"]);
    let gateway = gateway("keep_alive: {timeout: 1s}, tls: {ca: ca.pem}", &ours, &pair);
    let _endpoint = Endpoint::at(&gateway, "app.internal:443", serving(&pair, &[], None));
    assert!(said(&gateway).await.1.contains("resumed false, connection 1"));
    advance(Duration::from_secs(2)).await;
    assert!(said(&gateway).await.1.contains("resumed true, connection 2"));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_hangs_is_a_connection_that_takes_too_long() {
    let ours = Authority::new("ours");
    let pair = ours.certify(&["app.internal"]);
    let gateway = gateway("tls: {ca: ca.pem}", &ours, &pair);
    let mut listener = gateway.network.listen("app.internal:443");
    let mut held = Vec::new();
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            held.push(stream);
        }
    });
    let began = tokio::time::Instant::now();
    assert_eq!(said(&gateway).await, (504, "connect_timeout".into()));
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn health_checks_ask_over_tls_too() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let check =
        "health_check: {path: /healthz, interval: 1s, timeout: 500ms, unhealthy_after: 1}, tls: {ca: ca.pem}";
    for (by, protocol, alpn, expected) in
        [(&ours, "h1", &b"http/1.1"[..], 200), (&ours, "h2", b"h2", 200), (&other, "h1", b"http/1.1", 503)]
    {
        let pair = by.certify(&["app.internal"]);
        let gateway = gateway(&format!("protocol: {protocol}, {check}"), &ours, &pair);
        let endpoint = Endpoint::at(&gateway, "app.internal:443", serving(&pair, &[alpn], None));
        for _ in 0..5 {
            advance(Duration::from_secs(1)).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(said(&gateway).await.0, expected, "{protocol}");
        assert_eq!(endpoint.connections() > 3, expected == 200, "each check has a connection of its own");
    }
}

/// Over a socket of this machine: an endpoint at a path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_may_be_at_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let yaml = format!(
        "
gateway: {{admin: {{listen: ADMIN}}, workers: 1}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{app: {{endpoints: ['unix:{}'], health_check: {{path: /healthz, interval: 100ms, timeout: 50ms}}}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
",
        path.display()
    );
    let app = Upstream::at_socket(UnixListener::bind(&path).unwrap(), |_| ok("by a path"));
    let process = Process::start_in(folder, &yaml).await;
    process.answers("/", "by a path").await;
    process.until("it was asked how it is", async || app.requests() > 3).await;
    let hosts =
        app.seen().iter().filter_map(|seen| seen.header("host").map(str::to_owned)).collect::<Vec<_>>();
    assert!(hosts.iter().any(|host| host == "localhost"), "checks name a host: {hosts:?}");
    assert!(hosts.iter().any(|host| host == "api.example"), "{hosts:?}");
}

/// Over sockets: whoever decides about credentials is asked over TLS, and has to be who the URL says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_11_whoever_decides_about_credentials_is_asked_over_tls() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let acceptor = TlsAcceptor::from(Arc::new(serving(&ours.certify(&["localhost"]), &[], None)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue }; // It was not believed.
            let service = service_fn(async |request: Request<Incoming>| {
                let is_known = request.headers().get("authorization").is_some_and(|it| it == "Bearer asha");
                let response = Response::builder().status(if is_known { 200 } else { 403 });
                Ok::<_, Infallible>(response.body(Full::new(bytes::Bytes::new())).unwrap())
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let yaml = format!(
        "
gateway: {{admin: {{listen: ADMIN}}, workers: 1}}
listeners: {{public: {{listen: PUBLIC}}}}
policies: {{door: {{forward_auth: {{url: 'https://localhost:{port}/decide'}}}}}}
routes: {{all: {{match: {{prefix: /}}, use: [door], respond: {{body: in}}}}}}
"
    );
    let ask = async |trusted: &Authority| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("trusted.pem"), trusted.pem()).unwrap();
        let process = Process::spawn_trusting(Some("trusted.pem"), folder, &yaml);
        process
            .until("it is ready", async || process.get("/readyz").await.is_some_and(|it| it.0 == 200))
            .await;
        let known = process.public("GET / HTTP/1.1\r\nauthorization: Bearer asha\r\nx:").await.0;
        [known, process.public("GET /").await.0]
    };
    assert_eq!(ask(&ours).await, [200, 403]);
    assert_eq!(ask(&other).await, [503, 503], "it is not who it should be, and nobody gets in");
}
