//! The same cases at others, where they are installed: how they do is a table, and none of it fails.
//!
//! `NAKA_EDGE=peers cargo test -p naka-suite --test gateway -- edge::peers --nocapture`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{net::TcpStream, time::sleep};

use super::{Area, Backend, CONFIG, Outcome, Target, cases, h2};
use crate::process::{Process, free_address};

/// A process of somebody else; killed when dropped.
struct Peer {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It may have ended.
        let _ = self.child.wait();
    }
}

const NGINX: &str = "
daemon off; master_process off; worker_processes 1; pid PATH/nginx.pid; error_log PATH/error.log;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path PATH/b; proxy_temp_path PATH/p; fastcgi_temp_path PATH/f; uwsgi_temp_path PATH/u; scgi_temp_path PATH/s;
  client_header_buffer_size 16k; large_client_header_buffers 4 16k; client_header_timeout 5s; client_body_timeout 5s; lingering_timeout 1s;
  upstream app { server BACKEND; keepalive 8; }
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  server { listen LISTEN; location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; proxy_set_header Host $http_host; proxy_request_buffering off; proxy_read_timeout 5s; } }
}
";

const HAPROXY: &str = "
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
  timeout http-request 5s
frontend web
  bind LISTEN
  default_backend app
backend app
  server one BACKEND
";

const ENVOY: &str = "
static_resources:
  listeners:
  - address: {socket_address: {address: IP, port_value: PORT}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          request_headers_timeout: 5s
          stream_idle_timeout: 5s
          http_protocol_options: {accept_http_10: true}
          normalize_path: true
          merge_slashes: true
          path_with_escaped_slashes_action: REJECT_REQUEST
          use_remote_address: true
          delayed_close_timeout: 0.1s
          upgrade_configs: [{upgrade_type: websocket}]
          route_config: {virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: app}}]}]}
          http_filters: [{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters:
  - name: app
    connect_timeout: 5s
    load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: IP, port_value: BACKEND_PORT}}}}]}]}
";

/// How each is told to speak HTTP/2 without TLS: what is written in place of what.
const SPEAKS_H2: [(&str, &str, &str); 3] = [
    ("nginx", "listen LISTEN;", "listen LISTEN http2;"),
    ("haproxy", "bind LISTEN", "bind LISTEN proto h2"),
    ("envoy", "stat_prefix: web", "stat_prefix: web\n          codec_type: HTTP2"),
];

/// Starts one; `None` if it is not installed.
async fn start(name: &str, backend: SocketAddr, is_h2: bool) -> Option<Peer> {
    let (folder, address) = (tempfile::tempdir().unwrap(), free_address());
    let path = folder.path().to_str()?;
    let (text, file) = match name {
        "nginx" => (NGINX, "nginx.conf"),
        "haproxy" => (HAPROXY, "haproxy.cfg"),
        _ => (ENVOY, "envoy.yaml"),
    };
    let (_, h1, h2) = SPEAKS_H2.into_iter().find(|(of, ..)| *of == name)?;
    let text = if is_h2 { text.replace(h1, h2) } else { text.to_owned() };
    let text = text.replace("PATH", path).replace("LISTEN", &address.to_string());
    let text =
        text.replace("BACKEND_PORT", &backend.port().to_string()).replace("BACKEND", &backend.to_string());
    let text = text.replace("IP", &address.ip().to_string()).replace("PORT", &address.port().to_string());
    let config = folder.path().join(file);
    fs::write(&config, text).unwrap();
    let config = config.to_str()?;
    let args = match name {
        "nginx" => vec!["-c", config, "-p", path],
        "haproxy" => vec!["-db", "-f", config],
        _ => vec!["-c", config, "--concurrency", "1", "--log-level", "off", "--use-dynamic-base-id"],
    };
    let child = Command::new(name).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    let peer = Peer { child, address, _folder: folder };
    for _ in 0..300 {
        if TcpStream::connect(address).await.is_ok() {
            return Some(peer);
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("{name} does not come up");
}

/// How many are right, and how many smuggled something, in each area.
type Score = BTreeMap<Area, (usize, usize, usize)>;

fn count(score: &mut Score, who: &str, area: Area, name: &str, outcome: &Outcome) {
    let (right, smuggled, all) = score.entry(area).or_default();
    *all += 1;
    match outcome {
        Outcome::Right => *right += 1,
        Outcome::Smuggled(_) => *smuggled += 1,
        Outcome::Wrong(_) => {}
    }
    if *outcome != Outcome::Right && std::env::var_os("NAKA_EDGE_ALL").is_some() {
        println!("{who}: {area}: {name}: {outcome:?}");
    }
}

/// How one does, which speaks HTTP/1.1 at one address and HTTP/2 at the other.
async fn score(addresses: [SocketAddr; 2], patience: Duration, backend: &Backend, who: &str) -> Score {
    let ([h1, h2], mut score) = (addresses.map(|address| Target { address, patience }), Score::new());
    for (number, case) in cases().iter().enumerate().filter(|(_, case)| !case.rests_on.starts_with("naka")) {
        count(&mut score, who, case.area, &case.name, &h1.tried(number, case, backend).await);
    }
    for (number, case) in h2::cases().iter().enumerate() {
        count(&mut score, who, case.area, &case.name, &h2::tried(&h2, number, case, backend).await);
    }
    score
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_others_do_is_a_table() {
    if std::env::var_os("NAKA_EDGE").is_none() {
        println!(
            "skipped: NAKA_EDGE=peers puts the cases to nginx, HAProxy and Envoy, where they are installed"
        );
        return;
    }
    let (backend, address) = Backend::start().await;
    let naka = async |config: &str| Process::start(&config.replace("UPSTREAM", &address.to_string())).await;
    let (h1, h2) = (naka(CONFIG).await, naka(h2::CONFIG).await);
    let mut scores =
        vec![("naka", score([h1.public, h2.public], Duration::from_secs(10), &backend, "naka").await)];
    for name in ["nginx", "haproxy", "envoy"] {
        match (start(name, address, false).await, start(name, address, true).await) {
            (Some(h1), Some(h2)) => {
                let addresses = [h1.address, h2.address];
                scores.push((name, score(addresses, Duration::from_millis(400), &backend, name).await));
            }
            _ => println!("skipped: there is no `{name}` here"),
        }
    }
    let mut page = format!(
        "| Area | Cases | {} |\n",
        scores.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" | ")
    );
    writeln!(page, "| --- | --- | {} |", vec!["---"; scores.len()].join(" | ")).unwrap();
    let (mut areas, naka) = (Vec::new(), scores[0].1.clone());
    for (area, (_, _, all)) in &naka {
        let cell = |(_, score): &(&str, Score)| {
            let (right, smuggled, _) = score[area];
            if smuggled > 0 { format!("{right}, {smuggled} smuggled") } else { right.to_string() }
        };
        let cells = scores.iter().map(cell).collect::<Vec<_>>().join(" | ");
        writeln!(page, "| {area} | {all} | {cells} |").unwrap();
        areas.push(*area);
    }
    println!("{page}");
    for (name, score) in &scores {
        for area in &areas {
            assert!(naka[area].0 >= score[area].0, "{area}: naka is below {name}");
        }
    }
    if std::env::var_os("NAKA_BLESS").is_some() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/edge.md");
        let before = fs::read_to_string(&file).unwrap();
        let (head, _) = before.split_once("| Area").unwrap();
        fs::write(file, format!("{head}{page}")).unwrap();
    }
}
