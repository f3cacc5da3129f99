//! Services that register themselves, and gateways that find them there: processes over the loopback.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use naka_testkit::{consul::Consul, eureka::Eureka};
use rustix::process::Signal;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use crate::{
    http::{Ask, get, post},
    process::{Process, eventually, free_address},
    world::{BANDRA, FORT},
};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A pricing service that is registered.
fn pricing(at: SocketAddr, data: &Path, registry: &str, more: &[&str]) -> Process {
    let (at, data) = (at.to_string(), data.display().to_string());
    let mut args = vec!["pricing", "--listen", &at, "--data", &data, "--register", registry];
    args.extend(["--meta", "version=v1", "--meta", "capacity=500"]);
    args.extend(more);
    let mut process = Process::start(&args);
    process.line_with("pricing listens on");
    process
}

/// A gateway in front of it.
struct Gateway {
    public: SocketAddr,
    admin: SocketAddr,
    process: Process,
}

impl Gateway {
    fn yaml(public: SocketAddr, admin: SocketAddr, socket: &Path, consul: &str) -> String {
        format!(
            "
gateway:
  workers: 1
  admin: {{listen: '{admin}'}}
  upgrade: {{socket: '{}'}}
  drain: {{grace: 100ms, deadline: 20s}}
  registries: {{consul: {{address: 'http://{consul}'}}}}
listeners: {{public: {{listen: '{public}'}}}}
upstreams: {{pricing: {{endpoints: {{consul: pricing}}}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: pricing}}}}
",
            socket.display()
        )
    }

    /// Starts it; or another one, which takes over from the one that is there.
    fn run(folder: &Path, more: &[&str]) -> Process {
        let file = folder.join("gateway.yaml").display().to_string();
        let mut args = vec!["naka", "run", "-c", &file];
        args.extend(more);
        Process::start(&args)
    }

    fn start(folder: &Path, consul: &str) -> Self {
        let (public, admin) = (free_address(), free_address());
        let yaml = Self::yaml(public, admin, &folder.join("upgrade.sock"), consul);
        std::fs::write(folder.join("gateway.yaml"), yaml).unwrap();
        let gateway = Self { public, admin, process: Self::run(folder, &[]) };
        gateway.finds(2);
        gateway
    }

    /// Waits until it has found so many.
    #[track_caller]
    fn finds(&self, count: usize) {
        eventually(&format!("{count} are found"), || {
            let said = get("/discovery").attempt(self.admin).ok()?;
            (said.body["pricing"]["endpoints"] == json!(count)).then_some(())
        });
    }
}

fn estimate() -> Ask {
    let point = |(lat, lng): (f64, f64)| json!({"lat": lat, "lng": lng});
    let wanted = json!({"pickup": point(FORT), "drop": point(BANDRA), "ride_type": "mini"});
    post("/api/rides/estimate", &wanted)
}

/// Requests are POSTs, so nobody sends one twice; and nothing tries again.
#[test]
fn r1_9_each_backend_and_a_gateway_are_restarted_in_turn_and_no_request_fails() {
    let (runtime, data) = (runtime(), tempfile::tempdir().unwrap());
    let consul = runtime.block_on(Consul::start("127.0.0.1:0"));
    let registry = format!("consul=http://{}", consul.address());
    let backends = [free_address(), free_address()];
    let mut processes = backends.map(|at| pricing(at, data.path(), &registry, &[]));
    let both = || eventually("both are registered", || (consul.ids("pricing").len() == 2).then_some(()));
    both();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut gateways = [0, 1].map(|one: usize| Gateway::start(folders[one].path(), consul.address()));
    let publics = [gateways[0].public, gateways[1].public];
    let (is_over, answered, failed) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for number in 0..4 {
            let (is_over, answered, failed) = (&is_over, &answered, &failed);
            scope.spawn(move || {
                while !is_over.load(SeqCst) {
                    match estimate().attempt(publics[number % 2]) {
                        Ok(answer) if answer.status == 200 => _ = answered.fetch_add(1, SeqCst),
                        Ok(answer) => {
                            failed.lock().unwrap().push(format!("{} {}", answer.status, answer.text));
                        }
                        Err(error) => failed.lock().unwrap().push(error.to_string()),
                    }
                    thread::sleep(Duration::from_millis(10));
                }
            });
        }
        let over = Over(&is_over); // Also if something here fails.
        let more = || {
            let before = answered.load(SeqCst);
            eventually("there is load", || (answered.load(SeqCst) >= before + 100).then_some(()));
        };
        more();
        for (one, at) in backends.into_iter().enumerate() {
            processes[one].signal(Signal::TERM);
            processes[one].line_with("is out of the registry");
            assert_eq!(consul.ids("pricing").len(), 1);
            assert!(processes[one].end().success());
            more();
            processes[one] = pricing(at, data.path(), &registry, &[]);
            both();
            for gateway in &gateways {
                gateway.finds(2);
            }
            more();
        }
        let from = format!("--upgrade-from=unix:{}", folders[1].path().join("upgrade.sock").display());
        let mut before =
            std::mem::replace(&mut gateways[1].process, Gateway::run(folders[1].path(), &[&from]));
        assert!(before.end().success());
        gateways[1].finds(2);
        more();
        drop(over);
    });
    assert_eq!(failed.into_inner().unwrap(), Vec::<String>::new(), "of {}", answered.into_inner());
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn r1_9_a_service_serves_without_a_registry_and_is_there_when_that_comes_up() {
    let (runtime, data, registry) = (runtime(), tempfile::tempdir().unwrap(), free_address());
    let at = free_address();
    let said = format!("eureka=http://{registry}/eureka");
    let mut process = pricing(at, data.path(), &said, &["--leave-for", "0"]);
    estimate().send(at).expect(200);
    let eureka = runtime.block_on(Eureka::start(&registry.to_string()));
    process.line_with("is in the registry");
    assert_eq!(eureka.ids("PRICING").len(), 1);
    estimate().send(at).expect(200);
    process.signal(Signal::TERM);
    process.line_with("is out of the registry");
    assert!(process.end().success());
    assert_eq!(eureka.ids("PRICING"), Vec::<String>::new());
}

#[test]
fn r1_9_who_listens_everywhere_is_not_registered() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display().to_string();
    let registry = "consul=http://127.0.0.1:1";
    let mut process =
        Process::start(&["pricing", "--listen", "0.0.0.0:0", "--data", &data, "--register", registry]);
    assert!(!process.end().success());
    assert!(process.errors().contains("listen at the address that others know"));
    let mut process = Process::start(&["pricing", "--listen", "127.0.0.1:0", "--register", "zookeeper"]);
    assert!(!process.end().success());
    assert!(process.errors().contains("consul=http://127.0.0.1:8500"));
}
