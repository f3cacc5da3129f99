//! gRPC of somebody else: the library of Python, on both sides, where it is installed.

use std::{path::Path, process::Stdio};

use tokio::process::Command;

use crate::process::{Process, free_address};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_the_grpc_of_python_makes_all_four_kinds_of_calls_through_it() {
    let python = |args: &[&str]| {
        let mut command = Command::new("python3");
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        command
    };
    let asked = python(&["-c", "import grpc"]).output().await;
    if !asked.is_ok_and(|asked| asked.status.success()) {
        println!("skipped: there is no `python3` with `grpc` here");
        return;
    }
    let upstream = free_address().to_string();
    let process = Process::start(&format!(
        "gateway: {{admin: {{listen: ADMIN}}, workers: 1}}
listeners: {{public: {{listen: PUBLIC, protocols: [h1, h2c]}}}}
upstreams: {{app: {{endpoints: ['{upstream}'], protocol: h2}}}}
routes:
  all: {{match: {{prefix: /echo.Echo}}, upstream: app}}
  few: {{match: {{prefix: /few.Few}}, rate_limit: {{rate: 1/h, key: [client_ip]}}, upstream: app}}
"
    ))
    .await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/grpc/echo.py");
    let run =
        python(&[script.to_str().unwrap(), &upstream, &process.public.to_string()]).output().await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && out.contains("fine"), "{out}\n{err}\n{}", process.log());
}
