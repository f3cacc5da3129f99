//! The scenario of a service mesh (`examples/mesh`): what is imported of it, what is said of its mistakes, and how it runs
//! once they are mended.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use naka_gateway::import::{Api, Imported, Level, Options, import};
use naka_testkit::{
    token::Issuer,
    upstream::{Upstream, ok},
};
use tokio::net::TcpStream;

use super::found;
use crate::{
    process::{Process, free_address},
    tls::{Authority, Dialing, Pair},
};

fn example(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mesh").join(file)).unwrap()
}

fn original() -> Imported {
    let options = Options {
        identity: Some("cluster.local/ns/mumbai-ecommerce/sa/api-gateway".into()),
        faults_until: Some("2099-01-01".into()),
        endpoints: Some(("endpoints.yaml".into(), example("cluster/endpoints.yaml").into())),
        ..Options::default()
    };
    let files = [("original.yaml".to_owned(), Arc::from(example("cluster/original.yaml")))];
    import(Api::Istio, &files, &options).unwrap()
}

/// Run with `NAKA_BLESS=1`, this writes it anew.
#[test]
fn what_is_made_of_the_original_is_this() {
    let text = original().text;
    if std::env::var_os("NAKA_BLESS").is_some() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mesh/imported.yaml");
        fs::write(file, &text).unwrap();
    }
    assert!(example("imported.yaml") == text, "it is another one: {text}");
}

/// The line in which this stands for the first time.
fn line_of(words: &str) -> usize {
    let text = example("cluster/original.yaml");
    text.lines().position(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}")) + 1
}

/// Each mistake of the original has its line.
#[test]
fn r7_1_each_mistake_of_the_original_is_told_with_its_line() {
    let imported = original();
    let told = |level, line: usize, words: &str| {
        let all = found(&imported, level);
        assert!(
            all.iter().any(|(at, message)| *at == line && message.contains(words)),
            "{line} {words}\n{}",
            imported.report
        );
    };
    // Outlier fields in the pool, and a field that does not exist.
    for field in [
        "consecutiveGatewayErrors: 5\n",
        "interval: 30s\n",
        "baseEjectionTime: 30s\n",
        "maxEjectionPercent: 50\n",
    ] {
        let text = example("cluster/original.yaml");
        let at = text.find(&format!("        {field}")).unwrap();
        told(Level::Error, text[..at].matches('\n').count() + 1, "is no field that is known there");
    }
    told(Level::Error, line_of("circuitBreaker:"), "`spec.trafficPolicy.circuitBreaker` is no field");
    // Subsets that nothing defines.
    for subset in ["stable", "production", "staging"] {
        told(
            Level::Error,
            line_of(&format!("subset: {subset}}}")),
            &format!("no DestinationRule defines the subset `{subset}`"),
        );
    }
    // A rule without a path, before rules with one.
    let premium = found(&imported, Level::Note)
        .into_iter()
        .filter(|(_, message)| message.contains("says no path"))
        .collect::<Vec<_>>();
    assert_eq!(premium.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [line_of("user-type:") - 1]);
    told(Level::Note, line_of("LEAST_CONN"), "is the old name of `LEAST_REQUEST`");
    told(Level::LeftOut, line_of("maxRequestsPerConnection"), "a new connection every few requests");
    told(Level::Note, line_of("name: flipkart-jwt"), "whoever brings none is let in");
    told(Level::Changed, line_of("mirror: {host"), "whoever gets the copy of a payment makes it once more");
    for kind in ["mumbai-metrics", "mumbai-headers", "order-rules"] {
        let line = line_of(&format!("name: {kind}"));
        assert!(
            found(&imported, Level::LeftOut).iter().any(|(at, _)| *at == line),
            "{kind}\n{}",
            imported.report
        );
    }
}

/// A gateway as a process, with certificates, and whoever it leads to.
struct Mesh {
    process: Process,
    plain: SocketAddr,
    secure: SocketAddr,
    callers: SocketAddr,
    public: Authority,
    inside: Authority,
    issuer: Issuer,
    services: [Upstream; 4],
}

const NAMES: [&str; 4] = ["product-v1", "product-v2", "order", "payment"];

impl Mesh {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (public, inside, issuer) = (Authority::new("public"), Authority::new("mesh"), Issuer::new("1"));
        fs::create_dir(folder.path().join("tls")).unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        for (base, pair) in [
            ("mumbai-tls", public.certify(&["flipkart.mumbai.local"])),
            ("mesh", inside.certify(&["flipkart.mumbai.local", "payment-service"])),
        ] {
            write(&format!("tls/{base}.crt"), &pair.cert);
            write(&format!("tls/{base}.key"), &pair.key);
        }
        write("tls/mesh-ca.crt", &inside.pem());
        write("keys.json", &issuer.jwks());
        let mut services = Vec::new();
        let [plain, secure, callers] = [(); 3].map(|()| free_address());
        let mut yaml = example("gateway.yaml")
            .replace("\":80\"", &format!("\"{plain}\""))
            .replace("\":443\"", &format!("\"{secure}\""))
            .replace("\":15443\"", &format!("\"{callers}\""))
            .replace("\"127.0.0.1:9901\"", "ADMIN")
            .replace(
                "jwks_url: \"https://auth.flipkart.mumbai.local/.well-known/jwks.json\"",
                "jwks_file: keys.json",
            );
        for name in NAMES {
            let service = Upstream::start(move |_| ok(name)).await;
            yaml = yaml.replace(&format!("{name}.internal:8080"), service.address());
            services.push(service);
        }
        let process = Process::start_in(folder, &yaml).await;
        let services = services.try_into().unwrap_or_else(|_| unreachable!());
        Self { process, plain, secure, callers, public, inside, issuer, services }
    }

    /// The status, and who has answered.
    async fn ask(
        &self,
        at: SocketAddr,
        dialing: Option<Dialing>,
        line: &str,
        headers: &[(&str, &str)],
    ) -> (u16, String) {
        let (method, path) = line.split_once(' ').unwrap();
        let stream = TcpStream::connect(at).await.unwrap();
        let request = Request::builder().method(method).uri(path).header("host", "flipkart.mumbai.local");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Empty::<&[u8]>::new()).unwrap();
        let answer = if let Some(dialing) = dialing {
            let stream = dialing.over(stream, "flipkart.mumbai.local").await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// From outside.
    async fn public(&self, line: &str, headers: &[(&str, &str)]) -> (u16, String) {
        self.ask(self.secure, Some(Dialing::new(&self.public)), line, headers).await
    }

    /// From inside, as this account.
    async fn inside(&self, account: &str, line: &str) -> (u16, String) {
        let shown: Pair =
            self.inside.certify(&[&format!("spiffe://cluster.local/ns/mumbai-ecommerce/sa/{account}")]);
        self.ask(self.callers, Some(Dialing::new(&self.inside).showing(&shown)), line, &[]).await
    }

    fn asked(&self, name: &str) -> u64 {
        self.services[NAMES.iter().position(|it| *it == name).unwrap()].requests()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r7_3_the_mesh_s_own_scenario_runs_without_its_mistakes() {
    let mesh = Mesh::new().await;
    let token = |tier: &str| {
        let claims = format!(
            "{{\"iss\": \"https://auth.flipkart.mumbai.local\", \"aud\": \"flipkart-api\", \"sub\": \"asha\", \"tier\": \"{tier}\", \"exp\": 4000000000}}"
        );
        format!("Bearer {}", mesh.issuer.token(&claims))
    };
    let is_from = |answer: (u16, String), name: &str| assert_eq!(answer, (200, name.to_owned()));

    // Premium is for products, of whoever is premium by a token, and not by a header.
    let premium = token("premium");
    let with_token = [("user-type", "premium"), ("authorization", &premium)];
    for _ in 0..5 {
        is_from(mesh.public("GET /api/products/7", &with_token).await, "product-v2");
    }
    let before = mesh.asked("product-v2");
    assert_eq!(mesh.public("GET /api/products/7", &[("user-type", "premium")]).await.0, 401);
    let plain = token("regular");
    assert_eq!(
        mesh.public("GET /api/products/7", &[("user-type", "premium"), ("authorization", &plain)]).await.0,
        403
    );
    assert_eq!(mesh.asked("product-v2"), before, "who only says so does not reach v2");
    is_from(mesh.public("POST /api/orders", &[("user-type", "premium")]).await, "order");
    is_from(mesh.public("POST /api/payments/process", &[("user-type", "premium")]).await, "payment");

    // Four fifths and one fifth.
    let before = (mesh.asked("product-v1"), mesh.asked("product-v2"));
    for _ in 0..50 {
        assert_eq!(mesh.public("GET /api/products", &[]).await.0, 200);
    }
    assert_eq!((mesh.asked("product-v1") - before.0, mesh.asked("product-v2") - before.1), (40, 10));

    // Chaos is for who asks for it.
    for _ in 0..40 {
        is_from(mesh.public("GET /api/orders/7", &[("chaos-test", "disabled")]).await, "order");
    }
    let before = mesh.asked("order");
    let (mut hit, mut asked) = (0, 0);
    while hit == 0 {
        asked += 1;
        assert!(asked < 1000, "one in twenty is hit");
        let (status, _) = mesh.public("GET /api/orders/7", &[("chaos-test", "enabled")]).await;
        hit += u64::from(status == 503);
    }
    assert_eq!(mesh.asked("order") - before, asked - hit, "who is hit is not served");

    // Payments: the order service, and from outside one path and one method.
    is_from(mesh.inside("order-service", "GET /api/payments/7").await, "payment");
    let before = mesh.asked("payment");
    assert_eq!(mesh.inside("product-service", "GET /api/payments/7").await.0, 403);
    assert_eq!(mesh.inside("order-service", "DELETE /api/payments/7").await.0, 403);
    assert_eq!(mesh.public("GET /api/payments/7", &[]).await.0, 404);
    assert_eq!(mesh.public("GET /api/payments/process", &[]).await.0, 405);
    assert_eq!(mesh.asked("payment"), before, "nobody else reaches payments");
    let stranger = TcpStream::connect(mesh.callers).await.unwrap();
    let nobody = Dialing::new(&mesh.inside).over(stranger, "flipkart.mumbai.local").await;
    let is_let_in = match nobody {
        Err(_) => false,
        // With TLS 1.3 the refusal comes behind the handshake.
        Ok(mut stream) => {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let _ = stream
                .write_all(b"GET /api/payments/7 HTTP/1.1\r\nhost: flipkart.mumbai.local\r\n\r\n")
                .await;
            stream.read(&mut [0; 16]).await.is_ok_and(|got| got > 0)
        }
    };
    assert!(!is_let_in, "who shows no certificate is turned away");

    // Port 80 sends everybody on.
    assert_eq!(mesh.ask(mesh.plain, None, "GET /api/products", &[]).await.0, 301);
    drop(mesh.process);
}
