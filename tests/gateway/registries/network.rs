//! A link to a registry and to who is in it, which is cut and healed.

use std::{
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use naka_testkit::{
    consul::Consul,
    upstream::{Upstream, ok},
};
use tokio::net::TcpListener;

use crate::{networks, process::Process};

/// Where the far side is told who is registered.
const TOLD: &str = "NAKA_FAR";

/// The registry and its instances, in the far network.
struct Far(Child);

impl Far {
    fn start(told: &Path) -> Self {
        let me = std::env::current_exe().unwrap();
        let mut command = networks::far(me.to_str().unwrap());
        command.args(["--exact", "registries::network::far_side", "--ignored"]).env(TOLD, told);
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        _ = self.0.kill(); // It may have ended.
        _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "the test with two networks starts it in the far one"]
async fn far_side() {
    let Some(told) = std::env::var_os(TOLD).map(PathBuf::from) else { return };
    let consul = Consul::start("10.99.0.2:8500").await;
    let at = async |port: u16, name: &'static str| {
        Upstream::on(TcpListener::bind(("10.99.0.2", port)).await.unwrap(), move |_| ok(name))
    };
    let _instances = (at(8001, "one").await, at(8002, "two").await);
    let mut known = String::new();
    // Whoever has started it ends it; if that one is gone, it ends by itself.
    for _ in 0..10_000 {
        let Ok(now) = std::fs::read_to_string(&told) else { return };
        if now != known {
            consul.has_at("far", &[now.as_str()]);
            known = now;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn r1_3_a_link_to_a_registry_that_is_cut_and_healed_delays_changes_and_nothing_else() {
    networks::run("registries::network::in_two_networks", &["true"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the test with two networks runs it in them"]
async fn in_two_networks() {
    if !networks::are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("instances");
    let registered = |address: &str| {
        let next = folder.path().join("next");
        std::fs::write(&next, address).unwrap();
        std::fs::rename(&next, &told).unwrap();
    };
    registered("10.99.0.2:8001");
    let _far = Far::start(&told);
    let here = Upstream::start(|_| ok("here")).await;
    let process = Process::start(&format!(
        "
gateway:
  workers: 1
  admin: {{listen: ADMIN}}
  registries: {{consul: {{address: 'http://10.99.0.2:8500', wait: 5s}}}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams:
  far: {{endpoints: {{consul: far}}}}
  here: {{endpoints: ['{}']}}
routes:
  far: {{match: {{path: /far}}, timeouts: {{total: 2s}}, upstream: far}}
  here: {{match: {{path: /here}}, upstream: here}}
",
        here.address()
    ))
    .await;
    let level = async |level: &str| {
        process.metric(&format!("naka_discovery_level{{upstream=\"far\",level=\"{level}\"}}")).await
    };
    process.answers("/far", "one").await;

    networks::link("down");
    registered("10.99.0.2:8002"); // Nobody hears of it.
    let (status, _) = process.public("GET /far").await;
    assert!((500..=504).contains(&status), "each request ends: {status}");
    process
        .until("the registry is missed", async || {
            assert_eq!(process.public("GET /here").await, (200, "here".to_owned()));
            level("stale").await == Some(1.0)
        })
        .await;
    assert_eq!(level("endpoints").await, Some(1.0), "what was found stays");
    assert!((500..=504).contains(&process.public("GET /far").await.0));

    networks::link("up");
    process.answers("/far", "two").await;
    process.until("the registry is heard", async || level("stale").await == Some(0.0)).await;
    assert_eq!(process.public("GET /here").await, (200, "here".to_owned()));
}
