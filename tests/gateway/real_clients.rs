//! Clients of others, where they are installed: `curl` and `h2load`, in clear and over TLS, in both versions of HTTP.

use std::{net::SocketAddr, path::PathBuf, process::Stdio};

use naka_testkit::upstream::{Upstream, ok};
use rcgen::{CertificateParams, KeyPair};
use tokio::process::Command;

use crate::process::{Process, free_address};

/// Bytes that are uploaded.
const UPLOAD: usize = 300_000;

/// A gateway in clear at its public port, and over TLS at another one.
struct Both {
    process: Process,
    secured: SocketAddr,
    app: Upstream,
}

impl Both {
    async fn start() -> Self {
        let (folder, secured) = (tempfile::tempdir().unwrap(), free_address());
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["api.example".to_owned(), "127.0.0.1".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        std::fs::write(folder.path().join("api.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.path().join("api.key"), key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join("upload"), vec![b'x'; UPLOAD]).unwrap();
        let app = Upstream::start(|_| ok("fine")).await;
        let yaml = format!(
            "
gateway: {{admin: {{listen: ADMIN}}, workers: 2}}
listeners:
  clear: {{listen: PUBLIC, protocols: [h1, h2c]}}
  secured: {{listen: '{secured}', tls: {{certificates: [{{cert: api.pem, key: api.key}}]}}}}
upstreams: {{app: {{endpoints: ['{}']}}}}
routes: {{all: {{match: {{prefix: /}}, listener: [clear, secured], upstream: app}}}}
",
            app.address()
        );
        Self { process: Process::start_in(folder, &yaml).await, secured, app }
    }

    fn file(&self, name: &str) -> String {
        let path: PathBuf = self.process.path(name);
        path.display().to_string()
    }
}

/// Whether a program ended well, and what it said; nothing if there is none.
async fn run(program: &str, args: &[&str]) -> Option<(bool, String)> {
    let output =
        Command::new(program).args(args).stdin(Stdio::null()).kill_on_drop(true).output().await.ok()?;
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_curl_is_answered_whatever_it_speaks() {
    let Some((_, version)) = run("curl", &["--version"]).await else {
        println!("skipped: there is no `curl` here");
        return;
    };
    let has_h2 = version.contains("HTTP2");
    if !has_h2 {
        println!("skipped in part: this `curl` does not speak HTTP/2");
    }
    let both = Both::start().await;
    let (clear, secured) = (both.process.public.port(), both.secured.port());
    let resolve = [clear, secured].map(|port| format!("api.example:{port}:127.0.0.1"));
    let (ca, upload) = (both.file("api.pem"), format!("@{}", both.file("upload")));
    let mut uploaded = 0;
    for (port, scheme, speaks, expected) in [
        (clear, "http", "--http1.1", "1.1"),
        (clear, "http", "--http2-prior-knowledge", "2"),
        (secured, "https", "--http1.1", "1.1"),
        (secured, "https", "--http2", "2"),
    ] {
        if expected == "2" && !has_h2 {
            continue;
        }
        let url = format!("{scheme}://api.example:{port}/");
        let usual =
            ["-sS", "--max-time", "50", "--cacert", &ca, "--resolve", &resolve[0], "--resolve", &resolve[1]];
        let told = ["-w", " %{http_version} %{http_code}", speaks, &url];
        for more in [
            &[][..],
            &["--data-binary", &upload],
            &["--data-binary", &upload, "-H", "expect: 100-continue"],
            &["-T", &upload[1..], "-H", "transfer-encoding: chunked"],
        ] {
            let (is_fine, said) = run("curl", &[&usual[..], more, &told].concat()).await.unwrap();
            assert!(is_fine, "{more:?} to {url}: {said}\n{}", both.process.log());
            assert!(said.contains(&format!("fine {expected} 200")), "{more:?} to {url}: {said}");
            uploaded += if more.is_empty() { 0 } else { UPLOAD };
        }
        let (is_fine, said) = run("curl", &[&usual[..], &["-I"], &told].concat()).await.unwrap();
        assert!(is_fine && said.contains(&format!("{expected} 200")), "HEAD to {url}: {said}");
    }
    assert_eq!(both.app.body_bytes(), uploaded as u64, "nothing is lost and nothing twice");
    // Who is not believed is not asked.
    let url = format!("https://api.example:{secured}/");
    let (is_fine, said) = run("curl", &["-sS", "--resolve", &resolve[1], &url]).await.unwrap();
    assert!(!is_fine && said.contains("certificate"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_none_of_the_requests_of_h2load_fails() {
    if run("h2load", &["--version"]).await.is_none() {
        println!("skipped: there is no `h2load` here");
        return;
    }
    let both = Both::start().await;
    let (clear, secured) = (both.process.public.port(), both.secured.port());
    for (url, more) in [
        (format!("http://127.0.0.1:{clear}/"), &["-m", "10"][..]),
        (format!("http://127.0.0.1:{clear}/"), &["--h1"]),
        (format!("https://127.0.0.1:{secured}/"), &["-m", "10"]),
        (format!("https://127.0.0.1:{secured}/"), &["--h1"]),
    ] {
        let usual = ["-n", "2000", "-c", "8"];
        let (is_fine, said) = run("h2load", &[&usual[..], more, &[&url]].concat()).await.unwrap();
        let all = "2000 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(is_fine && said.contains(all), "{more:?} to {url}: {said}\n{}", both.process.log());
        assert!(said.contains("status codes: 2000 2xx"), "{more:?} to {url}: {said}");
    }
}
