//! With clients.

use std::{net::SocketAddr, sync::Arc};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use naka::clock::{Now, WallClock};
use naka_testkit::upstream::{Upstream, ok};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    time::{Duration, advance},
};
use tokio_rustls::{
    client::TlsStream,
    rustls::{ClientConfig, HandshakeKind},
};

use super::{Authority, Dialing, Pair, connect};
use crate::{inside::Inside, process::Process};

type Stream = TlsStream<DuplexStream>;

const CONFIG: &str = "
gateway: {identity_headers: {x-user-id: identity}}
listeners:
  public:
    listen: ':1'
    tls: {certificates: [{cert: api.pem, key: api.key}, {cert: shop.pem, key: shop.key}]MORE}
    timeouts: {handshake: 5s, request_headers: 7s, idle: 20s}
upstreams: {app: {endpoints: ['app:1']}}
routes:
  all: {match: {prefix: /}, upstream: app}
  shop: {match: {prefix: /, host: [a.shop.example]}, respond: {body: shop}}
";

/// A gateway with a certificate for `api.example`, and one for `*.shop.example` and `b.example`.
struct Secured {
    gateway: Inside,
    app: Upstream,
    authority: Authority,
}

impl Secured {
    fn new(more: &str, files: &[(&str, &str)]) -> Self {
        let authority = Authority::new("ours");
        let (api, shop) =
            (authority.certify(&["api.example"]), authority.certify(&["*.shop.example", "b.example"]));
        let ours = [
            ("api.pem", &*api.cert),
            ("api.key", &*api.key),
            ("shop.pem", &*shop.cert),
            ("shop.key", &*shop.key),
        ];
        let gateway = Inside::with_files(&CONFIG.replace("MORE", more), &[&ours[..], files].concat());
        let app = Upstream::inside(&gateway.network, "app:1", |_| ok("app"));
        Self { gateway, app, authority }
    }

    fn dialing(&self) -> Dialing {
        Dialing::new(&self.authority)
    }

    async fn dial(&self, dialing: &Dialing, name: &str) -> std::io::Result<Stream> {
        dialing.over(self.gateway.connect(), name).await
    }

    fn write(&self, name: &str, pair: &Pair) {
        self.gateway.write(&format!("{name}.pem"), &pair.cert);
        self.gateway.write(&format!("{name}.key"), &pair.key);
    }
}

/// One request over a connection of its own: the status, the reason, and the body.
async fn ask(stream: Stream, host: &str, more: &str) -> (u16, String, String) {
    ask_for(stream, "/", host, more).await
}

async fn ask_for(mut stream: Stream, target: &str, host: &str, more: &str) -> (u16, String, String) {
    let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let reason = head.lines().find_map(|line| line.strip_prefix("naka-reason: ")).unwrap_or_default();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), reason.to_owned(), body.to_owned())
}

fn names_shown(stream: &Stream) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Whether the client let them agree to resume; what the tickets are good for is read first.
async fn is_resumed(secured: &Secured, config: &Arc<ClientConfig>) -> bool {
    let stream = connect(Arc::clone(config), secured.gateway.connect(), "api.example").await.unwrap();
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    assert_eq!(ask(stream, "api.example", "").await.0, 200);
    kind == HandshakeKind::Resumed
}

#[tokio::test(start_paused = true)]
async fn r2_3_both_protocols_are_spoken_over_both_versions_of_tls() {
    let secured = Secured::new("", &[]);
    for is_old in [false, true] {
        let h1 = Dialing { is_old, ..secured.dialing() };
        let none = h1.clone().speaking(&[]);
        for dialing in [&h1, &none] {
            let stream = secured.dial(dialing, "api.example").await.unwrap();
            assert_eq!(ask(stream, "api.example", "").await, (200, String::new(), "app".into()));
        }
        assert_eq!(secured.app.last().header("x-forwarded-proto"), Some("https"));
        let h2 = h1.speaking(&[b"h2", b"http/1.1"]);
        let stream = secured.dial(&h2, "api.example").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let response = over_h2(stream, Request::get("https://api.example/")).await;
        assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"app"[..]));
    }
    let unknown = secured.dialing().speaking(&[b"h3"]);
    assert!(
        secured.dial(&unknown, "api.example").await.is_err(),
        "there is nothing in common (RFC 7301 §3.2)"
    );
}

async fn over_h2(stream: Stream, request: http::request::Builder) -> Response<Vec<u8>> {
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes().to_vec())
}

#[tokio::test(start_paused = true)]
async fn only_the_versions_and_protocols_that_are_said_are_spoken() {
    let secured = Secured::new(", min_version: 1.3", &[]);
    let old = Dialing { is_old: true, ..secured.dialing() };
    assert!(secured.dial(&old, "api.example").await.is_err());
    let _stream = secured.dial(&secured.dialing(), "api.example").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await; // Which it has said before it counts.
    assert_eq!(
        secured.gateway.metric("naka_tls_handshakes_total{listener=\"public\",outcome=\"failed\"}"),
        Some(1.0)
    );
    assert_eq!(
        secured.gateway.metric("naka_tls_handshakes_total{listener=\"public\",outcome=\"done\"}"),
        Some(1.0)
    );
}

/// Where only HTTP/2 is spoken, nothing else is for who says nothing of what it speaks (RFC 9113 §3.2).
#[tokio::test(start_paused = true)]
async fn r2_3_who_does_not_say_that_it_speaks_http_2_is_not_taken_for_it_or_for_anything_else() {
    let yaml = CONFIG.replace("MORE", "").replace("    tls:", "    protocols: [h2]\n    tls:");
    let secured = Secured::new("", &[]);
    secured.gateway.reload(&yaml).unwrap();
    let silent = secured.dialing().speaking(&[]);
    let mut stream = secured.dial(&silent, "api.example").await.unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: api.example\r\n\r\n").await; // It may be closed.
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await; // The same.
    assert!(heard.is_empty(), "{}", String::from_utf8_lossy(&heard));
    assert!(secured.dial(&secured.dialing(), "api.example").await.is_err(), "there is nothing in common");
    let h2 = secured.dialing().speaking(&[b"h2"]);
    let stream = secured.dial(&h2, "api.example").await.unwrap();
    assert_eq!(over_h2(stream, Request::get("https://api.example/")).await.status(), 200);
    assert_eq!(secured.app.requests(), 1);
}

/// An address that listens more widely than before is the same listener to who has connected before that.
#[tokio::test(start_paused = true)]
async fn who_connects_while_a_listener_is_widened_meets_it_as_it_is_now() {
    let secured = Secured::new("", &[]);
    let yaml = |listen: &str| {
        format!(
            "
listeners:
  another: {{listen: ':2'}}
  public: {{listen: '{listen}', tls: {{certificates: [{{cert: api.pem, key: api.key}}]}}}}
upstreams: {{app: {{endpoints: ['app:1']}}}}
routes: {{all: {{match: {{prefix: /}}, listener: [another, public], upstream: app}}}}
"
        )
    };
    secured.gateway.reload(&yaml("127.0.0.1:1")).unwrap();
    let stream = secured.gateway.connect_at(SocketAddr::from(([127, 0, 0, 1], 1)).into());
    secured.gateway.reload(&yaml(":1")).unwrap();
    let stream = secured.dialing().over(stream, "api.example").await.unwrap();
    assert_eq!(ask(stream, "api.example", "").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn the_certificate_is_that_of_the_name_that_is_asked_for() {
    let secured = Secured::new("", &[]);
    let first = secured.dial(&secured.dialing(), "api.example").await.unwrap();
    let other = secured.dial(&secured.dialing(), "a.shop.example").await.unwrap();
    assert_ne!(names_shown(&first), names_shown(&other));
    let upper = secured.dial(&secured.dialing(), "B.Example").await.unwrap();
    assert_eq!(names_shown(&upper), names_shown(&other));
    let refused = secured.dial(&secured.dialing(), "elsewhere.example").await.unwrap_err();
    assert!(refused.to_string().contains("not valid for name"), "it sees what is there: {refused}");
    assert_eq!(ask(other, "a.shop.example", "").await.2, "shop");
}

/// RFC 9110 §7.4: a request for an `https` resource over a connection that is not secured by a certificate for its host.
#[tokio::test(start_paused = true)]
async fn r2_3_a_request_for_a_host_of_another_certificate_is_misdirected() {
    let secured = Secured::new("", &[]);
    let dial = async |name: &str| secured.dial(&secured.dialing(), name).await.unwrap();
    assert_eq!(ask(dial("api.example").await, "API.example:443", "").await.0, 200);
    assert_eq!(ask(dial("a.shop.example").await, "b.example", "").await.0, 200, "of the same certificate");
    for (name, host) in
        [("api.example", "a.shop.example"), ("b.example", "api.example"), ("b.example", "c.b.example")]
    {
        let (status, reason, _) = ask(dial(name).await, host, "").await;
        assert_eq!((status, &*reason), (421, "misdirected"), "{host} over {name}");
    }
    assert_eq!(
        secured.gateway.metric("naka_rejections_total{route=\"\",policy=\"\",reason=\"misdirected\"}"),
        Some(3.0)
    );
    // Explaining asks as a client does that has named the host.
    assert_eq!(secured.gateway.explain("https://a.shop.example/", &[]).route.as_deref(), Some("shop"));
    let explained = secured.gateway.explain("https://elsewhere.example/", &[]).to_string();
    assert!(explained.contains("misdirected"), "{explained}");

    let unchecked = Secured::new(", check_host: false", &[]);
    let stream = unchecked.dial(&unchecked.dialing(), "api.example").await.unwrap();
    assert_eq!(ask(stream, "a.shop.example", "").await.2, "shop");
}

#[tokio::test(start_paused = true)]
async fn a_trusted_proxy_may_have_asked_for_another_host() {
    let yaml = CONFIG.replace("gateway: {", "gateway: {trusted_proxies: 192.0.2.0/24, ").replace("MORE", "");
    let secured = Secured::new("", &[]);
    let dial = async || secured.dial(&secured.dialing(), "api.example").await.unwrap();
    assert_eq!(ask(dial().await, "a.shop.example", "").await.0, 421);
    secured.gateway.reload(&yaml).unwrap();
    assert_eq!(ask(dial().await, "a.shop.example", "").await.2, "shop");
}

#[tokio::test(start_paused = true)]
async fn r7_7_clients_are_who_the_certificate_says_that_they_show() {
    let (staff, strangers) = (Authority::new("staff"), Authority::new("strangers"));
    let console = staff.certify(&["spiffe://naka/ns/ops/sa/console", "console.internal"]);
    let stranger = strangers.certify(&["spiffe://naka/ns/ops/sa/console"]);
    let old = staff.certify_until(&["spiffe://naka/ns/ops/sa/console"], 2001);
    let clients = staff.pem();
    let required = Secured::new(", client_ca: clients.pem", &[("clients.pem", &clients)]);
    let spoofed = "x-user-id: root\r\n";
    for is_old in [false, true] {
        let dialing = Dialing { is_old, ..required.dialing() };
        let stream = required.dial(&dialing.clone().showing(&console), "api.example").await.unwrap();
        assert_eq!(ask(stream, "api.example", spoofed).await.0, 200);
        assert_eq!(required.app.last().header("x-user-id"), Some("spiffe://naka/ns/ops/sa/console"));
        for refused in [dialing.clone(), dialing.clone().showing(&stranger), dialing.showing(&old)] {
            // In TLS 1.3 a client hears of it only when it reads.
            if let Ok(mut stream) = required.dial(&refused, "api.example").await {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: api.example\r\n\r\n").await; // It may be closed.
                let mut heard = Vec::new();
                assert!(stream.read_to_end(&mut heard).await.is_err(), "{}", String::from_utf8_lossy(&heard));
            }
        }
    }
    assert_eq!(required.app.requests(), 2);
    // Nobody, and then a stranger and who is over, in two versions of TLS.
    for (outcome, times) in
        [("done", 2.0), ("client_certificate_missing", 2.0), ("client_certificate_refused", 4.0)]
    {
        let counted = format!("naka_tls_handshakes_total{{listener=\"public\",outcome=\"{outcome}\"}}");
        assert_eq!(required.gateway.metric(&counted), Some(times), "{outcome}");
    }

    let optional =
        Secured::new(", client_ca: clients.pem, client_auth: optional", &[("clients.pem", &clients)]);
    let stream = optional.dial(&optional.dialing(), "api.example").await.unwrap();
    assert_eq!(ask(stream, "api.example", spoofed).await.0, 200);
    assert_eq!(
        optional.app.last().header("x-user-id"),
        None,
        "nobody is believed to be somebody by saying so"
    );
}

#[tokio::test(start_paused = true)]
async fn r7_7_a_renewed_certificate_is_shown_to_new_connections_and_the_others_go_on() {
    let secured = Secured::new("", &[]);
    let before = secured.dial(&secured.dialing(), "api.example").await.unwrap();
    let shown_before = names_shown(&before);
    let renewed = secured.authority.certify_until(&["api.example"], 2090);
    let yaml = CONFIG.replace("MORE", "");
    secured.gateway.write("api.pem", &renewed.cert);
    let refused = secured.gateway.reload(&yaml).unwrap_err();
    assert!(refused.contains("api.key: is the key of another certificate"), "{refused}");
    let still = secured.dial(&secured.dialing(), "api.example").await.unwrap();
    assert_eq!(names_shown(&still), shown_before, "half of a pair changes nothing");
    secured.write("api", &renewed);
    secured.gateway.reload(&yaml).unwrap();
    let after = secured.dial(&secured.dialing(), "api.example").await.unwrap();
    assert_ne!(names_shown(&after), shown_before);
    for stream in [before, still, after] {
        assert_eq!(ask(stream, "api.example", "").await.0, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_are_resumed_after_certificates_are_renewed_and_not_after_clients_have_to_show_something_else()
 {
    let (staff, others) = (Authority::new("staff"), Authority::new("others"));
    let (pem, other) = (staff.pem(), others.pem());
    let secured = Secured::new(", client_ca: clients.pem", &[("clients.pem", &pem)]);
    let yaml = CONFIG.replace("MORE", ", client_ca: clients.pem");
    let dialing = secured.dialing().showing(&staff.certify(&["console.internal"])).config();
    assert!(!is_resumed(&secured, &dialing).await);
    assert!(is_resumed(&secured, &dialing).await);
    assert_eq!(secured.app.last().header("x-user-id"), Some("console.internal"), "it is who it was");
    assert_eq!(
        secured.gateway.metric("naka_tls_handshakes_total{listener=\"public\",outcome=\"resumed\"}"),
        Some(1.0)
    );
    secured.write("api", &secured.authority.certify_until(&["api.example"], 2090));
    secured.gateway.reload(&yaml).unwrap();
    assert!(is_resumed(&secured, &dialing).await);
    secured.gateway.write("clients.pem", &(pem + &other));
    secured.gateway.reload(&yaml).unwrap();
    assert!(!is_resumed(&secured, &dialing).await, "the tickets of before count for nothing");
    assert!(is_resumed(&secured, &dialing).await);
}

/// Bug: `check` said that nothing finds out who asks where clients show certificates.
#[tokio::test(start_paused = true)]
async fn r7_7_policies_know_who_a_client_is_by_its_certificate() {
    let staff = Authority::new("staff");
    let secured = Secured::new("", &[("clients.pem", &staff.pem())]);
    let routes = "
  staff: {match: {path: /staff}, authorize: {identity: console.internal}, upstream: app}
  few: {match: {path: /few}, rate_limit: {rate: 1/m, key: [identity]}, upstream: app}
  half: {match: {path: /half}, split: {to: {app: 80, other: 20}, by: identity}}
";
    let yaml = CONFIG.replace("MORE", ", client_ca: clients.pem, client_auth: optional")
        + routes.trim_start_matches('\n');
    let yaml = yaml.replace("upstreams: {", "upstreams: {other: {endpoints: ['app:1']}, ");
    secured.gateway.reload(&yaml).unwrap();
    let [console, other] = ["console.internal", "other.internal"].map(|name| staff.certify(&[name]));
    let nobody = secured.dialing();
    let known = [&console, &other].map(|pair| secured.dialing().showing(pair));
    for (who, target, expected) in [
        (&known[0], "/staff", (200, "")),
        (&known[1], "/staff", (403, "forbidden")),
        (&nobody, "/staff", (403, "forbidden")),
        (&known[0], "/few", (200, "")),
        (&known[0], "/few", (429, "rate_limited")),
        (&known[1], "/few", (200, "")),
        (&known[0], "/half", (200, "")),
    ] {
        let stream = secured.dial(who, "api.example").await.unwrap();
        let (status, reason, _) = ask_for(stream, target, "api.example", "").await;
        assert_eq!((status, &*reason), expected, "{target}");
    }
}

/// Bug: a session was resumed with a certificate that was over, and got tickets for the next one, for ever.
#[tokio::test(start_paused = true)]
async fn r7_7_nobody_is_somebody_by_a_certificate_that_is_over() {
    let staff = Authority::new("staff");
    let secured = Secured::new(", client_ca: clients.pem", &[("clients.pem", &staff.pem())]);
    let since_1970 = || WallClock::system().unix(Now::read()).unwrap();
    let end = since_1970() + Duration::from_secs(5);
    let pair = staff.certify_with(&["console.internal"], |params| {
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + end;
    });
    let dialing = secured.dialing().showing(&pair).config();
    assert!(!is_resumed(&secured, &dialing).await);
    assert!(is_resumed(&secured, &dialing).await);
    assert_eq!(secured.app.requests(), 2);
    // By the clock of the system, which nobody can pause.
    std::thread::sleep(end.saturating_sub(since_1970()) + Duration::from_secs(1));
    if let Ok(mut stream) = connect(Arc::clone(&dialing), secured.gateway.connect(), "api.example").await {
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: api.example\r\n\r\n").await; // It may be closed.
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await; // However that ends, it is without an answer.
        assert_eq!(String::from_utf8_lossy(&heard), "");
    }
    assert_eq!(secured.app.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_is_slow_in_a_handshake_is_let_go() {
    let secured = Secured::new("", &[]);
    let mut slow = secured.gateway.connect();
    slow.write_all(&[22, 3, 1, 0, 200]).await.unwrap();
    for _ in 0..4 {
        advance(Duration::from_secs(1)).await;
        slow.write_all(&[1]).await.unwrap(); // A drip does not put it off.
    }
    let mut heard = Vec::new();
    let began = tokio::time::Instant::now();
    slow.read_to_end(&mut heard).await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(2), "after 5 s in all");
    assert_eq!(
        secured.gateway.metric("naka_tls_handshakes_total{listener=\"public\",outcome=\"timed_out\"}"),
        Some(1.0)
    );
    // And who has done it, and asks nothing.
    let mut silent = secured.dial(&secured.dialing(), "api.example").await.unwrap();
    let began = tokio::time::Instant::now();
    let _ = silent.read_to_end(&mut heard).await; // Without a goodbye of TLS.
    assert!(began.elapsed() >= Duration::from_secs(6), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn r7_7_who_speaks_http_to_a_port_of_tls_is_told() {
    let secured = Secured::new("", &[]);
    let mut stream = secured.gateway.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: api.example\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("https://") && answer.contains("application/problem+json"), "{answer}");
    let counted = "naka_tls_handshakes_total{listener=\"public\",outcome=\"plain_text\"}";
    assert_eq!((secured.app.requests(), secured.gateway.metric(counted)), (0, Some(1.0)));
}

/// Over sockets: whoever renews certificates puts files in their place, and that is all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r7_7_files_that_are_replaced_are_taken_at_once_and_their_end_is_told() {
    let authority = Authority::new("ours");
    let folder = tempfile::tempdir().unwrap();
    let put = |path: &std::path::Path, pair: &Pair| {
        std::fs::write(path.join("api.pem"), &pair.cert).unwrap();
        std::fs::write(path.join("api.key"), &pair.key).unwrap();
    };
    put(folder.path(), &authority.certify_until(&["api.example"], 2090));
    let path = folder.path().to_owned();
    let process = Process::start_in(
        folder,
        "
gateway: {admin: {listen: ADMIN}, workers: 1}
listeners: {public: {listen: PUBLIC, tls: {certificates: [{cert: api.pem, key: api.key}]}}}
routes: {all: {match: {prefix: /}, respond: {body: here}}}
",
    )
    .await;
    let ends = "naka_tls_certificate_not_after_seconds{listener=\"public\",file=\"api.pem\"}";
    assert_eq!(process.metric(ends).await, Some(3_786_912_000.0));
    let done = "naka_tls_handshakes_total{listener=\"public\",outcome=\"done\"}";
    assert_eq!(process.metric(done).await, Some(0.0));
    put(&path, &authority.certify_until(&["api.example"], 2100));
    process
        .until("the new one is told of", async || process.metric(ends).await == Some(4_102_444_800.0))
        .await;
    let stream = tokio::net::TcpStream::connect(process.public).await.unwrap();
    let mut stream = Dialing::new(&authority).over(stream, "api.example").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("here"), "{answer}");
    assert_eq!(process.metric(done).await, Some(1.0));
}

/// It is the same there, and the certificate is asked for by the name that the client says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_tls_is_spoken_at_a_unix_socket() {
    let authority = Authority::new("ours");
    let folder = tempfile::tempdir().unwrap();
    let pair = authority.certify(&["api.example"]);
    std::fs::write(folder.path().join("api.pem"), &pair.cert).unwrap();
    std::fs::write(folder.path().join("api.key"), &pair.key).unwrap();
    let path = folder.path().join("web.sock");
    let yaml = "
gateway: {admin: {listen: ADMIN}, workers: 2}
listeners: {public: {listen: 'unix:SOCKET', tls: {certificates: [{cert: api.pem, key: api.key}]}}}
routes: {all: {match: {prefix: /}, respond: {body: here}}}
";
    let process = Process::start_in(folder, &yaml.replace("SOCKET", path.to_str().unwrap())).await;
    for _ in 0..4 {
        let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        let mut stream = Dialing::new(&authority).over(stream, "api.example").await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("here"), "{answer}");
    }
    let done = "naka_tls_handshakes_total{listener=\"public\",outcome=\"done\"}";
    assert_eq!(process.metric(done).await, Some(4.0));
}

/// A body that is longer than a record, both ways, and two requests on one connection.
#[tokio::test(start_paused = true)]
async fn r2_3_bodies_go_through_whole() {
    let secured = Secured::new("", &[]);
    let stream = secured.dial(&secured.dialing(), "api.example").await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for length in [100_000, 7] {
        let body = Full::new(bytes::Bytes::from(vec![b'x'; length]));
        sender.ready().await.unwrap();
        let request = Request::post("/").header("host", "api.example").body(body).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    }
    assert_eq!(secured.app.body_bytes(), 100_007);
}
