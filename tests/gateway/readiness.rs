//! How the gateway itself is: alive, ready, well.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use naka_gateway::{
    admin::{self, Admin, Way},
    config::checked::Workers as Layout,
    monitor,
    worker::Workers,
};
use naka_testkit::upstream::{Upstream, answer, ok};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use crate::{
    inside::Inside,
    process::{Process, TOKEN, raw},
};

/// The status and the body of an answer of the admin port.
async fn asked(admin: &Arc<Admin>, way: Way, path: &str, headers: &str) -> (u16, String) {
    let (mut ours, theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(admin::serve_connection(Arc::clone(admin), way, theirs));
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n");
    ours.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn page(admin: &Arc<Admin>, path: &str) -> (u16, Value) {
    let (status, body) = asked(admin, Way::Socket, path, "").await;
    (status, serde_json::from_str(&body).unwrap())
}

/// `/healthz` of a process.
pub(crate) async fn detail(process: &Process) -> Value {
    let token = format!("authorization: Bearer {TOKEN}\r\nconnection: close");
    let request = format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{token}\r\n\r\n");
    let answer = String::from_utf8(raw(process.admin, request.as_bytes()).await).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

const CRITICAL: &str = "
gateway: {admin: none, health: {interval: 1s}}
listeners: {public: {listen: ':1'}}
upstreams:
  db:
    endpoints: ['a:1', 'b:1']
    critical: true
    health_check: {path: /healthz, interval: 1s, timeout: 500ms, unhealthy_after: 1, healthy_after: 1}
  cache:
    endpoints: ['nowhere:1']
    health_check: {type: tcp, interval: 1s, timeout: 500ms, unhealthy_after: 1}
routes:
  all: {match: {prefix: /}, upstream: db}
  cached: {match: {path: /cached}, upstream: cache}
";

fn well(gateway: &Inside, name: &'static str) -> (Arc<AtomicBool>, Upstream) {
    let is_well = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&is_well);
    let script = move |_: &_| if says.load(SeqCst) { ok("fine") } else { answer(503, "", "sick") };
    (is_well, Upstream::inside(&gateway.network, name, script))
}

#[tokio::test(start_paused = true)]
async fn r10_1_without_an_endpoint_of_a_critical_upstream_it_is_not_ready_and_says_so() {
    let gateway = Inside::new(CRITICAL);
    let ((a, _one), (b, _other)) = (well(&gateway, "a:1"), well(&gateway, "b:1"));
    let admin = gateway.admin();
    tokio::spawn(monitor::watch(Arc::clone(&admin), gateway.connector()));
    let later = || sleep(Duration::from_secs(5));
    later().await;
    // What is not critical may be down: else nobody would be served by anybody.
    let (status, ready) = page(&admin, "/readyz").await;
    assert_eq!((status, &ready["ready"]), (200, &true.into()), "{ready}");
    for name in ["configuration", "listeners", "not_draining", "keys", "critical_upstreams"] {
        assert_eq!(ready["conditions"][name], json!({"holds": true, "why": []}), "{name}");
    }
    a.store(false, SeqCst);
    later().await;
    assert_eq!(page(&admin, "/readyz").await.0, 200);
    let checks = page(&admin, "/healthz").await.1;
    assert_eq!(checks["checks"]["upstream db"]["level"], "degraded", "{checks}");
    assert_eq!(checks["checks"]["upstream cache"]["level"], "unhealthy");

    b.store(false, SeqCst);
    later().await;
    let (status, ready) = page(&admin, "/readyz").await;
    assert_eq!((status, &ready["ready"]), (503, &false.into()));
    let why = "db: 0 of 2 endpoints can be used (a:1 unhealthy, b:1 unhealthy)";
    assert_eq!(ready["conditions"]["critical_upstreams"], json!({"holds": false, "why": [why]}));
    assert_eq!(ready["conditions"]["listeners"]["holds"], true);
    for (path, headers) in [("/readyz?verbose", ""), ("/readyz", "accept: text/plain\r\n")] {
        let (status, text) = asked(&admin, Way::Socket, path, headers).await;
        assert_eq!(status, 503);
        assert!(text.starts_with("ok  configuration\nok  listeners\n"), "{text}");
        assert!(text.contains(&format!("no  critical_upstreams   {why}\n")), "{text}");
        assert!(text.ends_with("\nnot ready\n"), "{text}");
    }
    assert_eq!(asked(&admin, Way::Socket, "/livez", "").await, (200, "ok\n".to_owned()));
    let (status, health) = page(&admin, "/healthz").await;
    assert_eq!((status, &health["level"]), (503, &"critical".into()));
    let db = &health["checks"]["upstream db"];
    assert_eq!(
        (&db["level"], &db["why"].as_str().unwrap()[..8], &db["required"]),
        (&"critical".into(), "0 of 2 e", &true.into())
    );

    b.store(true, SeqCst);
    later().await;
    assert_eq!(page(&admin, "/readyz").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn r10_1_a_listener_that_nobody_accepts_from_is_named() {
    let gateway = Inside::new(CRITICAL);
    let _endpoints = [well(&gateway, "a:1"), well(&gateway, "b:1")];
    let admin = gateway.admin();
    let listen = gateway.generation().config.listeners["public"].listen.clone();
    admin.monitor.pulse.failed(&listen);
    let (status, ready) = page(&admin, "/readyz").await;
    assert_eq!(status, 503);
    let why = format!("public: nobody accepts at {listen}");
    assert_eq!(ready["conditions"]["listeners"], json!({"holds": false, "why": [why]}));
}

#[tokio::test(start_paused = true)]
async fn r10_1_a_worker_that_hangs_is_not_alive() {
    let gateway = Inside::new(CRITICAL);
    let admin = gateway.admin();
    tokio::spawn(monitor::watch(Arc::clone(&admin), gateway.connector()));
    let alive = || asked(&admin, Way::Address, "/livez", "");
    sleep(Duration::from_mins(10)).await;
    assert_eq!(alive().await.0, 200); // It has not begun.
    for _ in 0..60 {
        admin.monitor.pulse.beat(0);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(alive().await.0, 200);
    }
    sleep(Duration::from_mins(1)).await;
    let (status, why) = alive().await;
    assert!(status == 503 && why.starts_with("worker 0 has stood still for "), "{why}");
    admin.monitor.pulse.beat(0);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(alive().await.0, 200);
}

#[tokio::test]
async fn r10_1_each_worker_beats_and_says_where_it_listens() {
    let gateway = Inside::new(CRITICAL);
    let shared = gateway.shared();
    let workers = Workers::start(shared, Layout::Count(1)).unwrap();
    let beats = async {
        while shared.pulse.beats().contains(&0) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(crate::process::PATIENCE, beats).await.expect("it beats");
    let name = "127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into();
    let open = workers.bind(&name, 0, &[]).unwrap().open().unwrap();
    assert!(!shared.pulse.is_listening(&name));
    workers.accept(open);
    assert!(shared.pulse.is_listening(&name));
    workers.unlisten(&name).await;
    assert!(!shared.pulse.is_listening(&name));
    tokio::task::spawn_blocking(|| workers.stop()).await.unwrap();
}

#[tokio::test]
async fn r10_1_who_is_on_the_way_out_is_alive_and_not_ready() {
    let process = Process::start(
        "
gateway: {admin: {listen: ADMIN}, workers: 1, drain: {grace: 1h, deadline: 2h}}
listeners: {public: {listen: PUBLIC}}
routes: {all: {match: {prefix: /}, respond: {}}}
",
    )
    .await;
    process.signal(Signal::TERM);
    process.until("it drains", async || process.get("/readyz").await.unwrap().0 == 503).await;
    let ready = process.json("/readyz").await;
    let why = json!({"holds": false, "why": ["the process is on its way out: grace"]});
    assert_eq!((&ready["conditions"]["not_draining"], &ready["draining"]), (&why, &true.into()));
    assert_eq!(process.get("/livez").await.unwrap(), (200, "ok\n".to_owned()));
}

#[tokio::test]
async fn r10_1_the_detail_is_for_who_shows_the_token() {
    let process = Process::start(
        "
gateway: {admin: {listen: ADMIN}, workers: 1}
listeners: {public: {listen: PUBLIC}}
routes: {all: {match: {prefix: /}, respond: {}}}
",
    )
    .await;
    assert_eq!(process.get("/healthz").await.unwrap().0, 401);
    process.until("it has been looked", async || !detail(&process).await["looked_ago_s"].is_null()).await;
    let health = detail(&process).await;
    for check in ["cpu", "memory", "descriptors"] {
        let is = &health["checks"][check];
        assert!(is["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{check}: {is}");
        assert!(is["value"].is_string() || is["why"].is_string(), "{check}: {is}");
    }
}

/// Writes the kernel's files of a machine of which so much memory is used, in percent, and processors have worked so long.
pub(crate) fn machine(root: &Path, memory: u32, busy: u32, all: u32) {
    let write = |name: &str, text: String| {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("proc/meminfo", format!("MemTotal: 100 kB\nMemAvailable: {} kB\n", 100 - memory));
    write("proc/stat", format!("cpu  {busy} 0 0 {} 0 0 0 0\n", all - busy));
    write("proc/self/fd/0", String::new());
}

#[tokio::test(start_paused = true)]
async fn r10_6_resources_are_looked_at_every_few_seconds_and_do_not_flap() {
    let gateway = Inside::new(
        "
gateway: {admin: none, health: {interval: 5s, disk: {paths: [/no/such/folder]}}}
listeners: {public: {listen: ':1'}}
routes: {all: {match: {prefix: /}, respond: {}}}
",
    );
    let root = tempfile::tempdir().unwrap();
    machine(root.path(), 10, 100, 1000);
    let admin = gateway.admin_at(root.path());
    let (status, health) = page(&admin, "/healthz").await;
    assert_eq!((status, &health["level"]), (503, &"critical".into()), "nobody has looked");
    tokio::spawn(monitor::watch(Arc::clone(&admin), gateway.connector()));
    sleep(Duration::from_secs(1)).await;
    let level = async |check: &str| {
        let health = page(&admin, "/healthz").await.1;
        (health["checks"][check]["level"].clone(), health["checks"][check]["value"].clone())
    };
    assert_eq!(level("memory").await, (json!("healthy"), json!("10.0 %")));
    // Unknown, and not well: there was one reading, and there is no such file system.
    assert_eq!(level("cpu").await, (json!("unknown"), Value::Null));
    assert_eq!(level("disk /no/such/folder").await.0, json!("unknown"));
    let health = page(&admin, "/healthz").await.1;
    assert_eq!(health["level"], "degraded", "{health}");
    let why = health["checks"]["disk /no/such/folder"]["why"].as_str().unwrap();
    assert!(why.contains("No such file"), "{why}");

    machine(root.path(), 71, 1000, 2000);
    assert_eq!(level("memory").await.0, json!("healthy"), "looking reads nothing");
    let mut levels = Vec::new();
    for step in 1..20 {
        sleep(Duration::from_secs(5)).await;
        levels.push(level("memory").await.0);
        machine(root.path(), if step % 2 == 0 { 71 } else { 69 }, 1000 + 900 * step, 2000 + 1000 * step);
    }
    assert!(levels.iter().all(|level| level == "degraded"), "{levels:?}");
    assert_eq!(level("cpu").await, (json!("unhealthy"), json!("90.0 %")));
    machine(root.path(), 64, 100_000, 200_000);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(level("memory").await.0, json!("healthy"));

    std::fs::write(root.path().join("proc/meminfo"), "garbage").unwrap();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(level("memory").await, (json!("unknown"), Value::Null));
}

/// In real time: virtual time stands still while a file is being read.
#[tokio::test]
async fn r10_6_a_reading_that_hangs_is_unknown_and_nothing_else_waits_for_it() {
    let gateway = Inside::new(
        "
gateway: {admin: none, health: {interval: 1s}}
listeners: {public: {listen: ':1'}}
routes: {all: {match: {prefix: /}, respond: {}}}
",
    );
    let root = gateway.folder();
    machine(root, 10, 100, 1000);
    let meminfo = root.join("proc/meminfo");
    std::fs::remove_file(&meminfo).unwrap();
    // Whoever opens it waits for somebody who writes.
    assert!(std::process::Command::new("mkfifo").arg(&meminfo).status().unwrap().success());
    let admin = gateway.admin_at(root);
    tokio::spawn(monitor::watch(Arc::clone(&admin), gateway.connector()));
    let why = async |words: &str| {
        let memory = async || page(&admin, "/healthz").await.1["checks"]["memory"].to_string();
        let said = async {
            while !memory().await.contains(words) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(crate::process::PATIENCE, said).await.expect(words);
    };
    why("reading it takes longer than two seconds").await;
    assert_eq!(page(&admin, "/readyz").await.0, 200);
    // It ends at last, and the next one finds a file.
    let text = "MemTotal: 100 kB\nMemAvailable: 40 kB\n";
    let beside = root.join("beside");
    std::fs::write(&beside, text).unwrap();
    let mut hanging = std::fs::OpenOptions::new().read(true).write(true).open(&meminfo).unwrap();
    std::fs::rename(&beside, &meminfo).unwrap();
    std::io::Write::write_all(&mut hanging, text.as_bytes()).unwrap();
    drop(hanging);
    why("60.0 %").await;
}
