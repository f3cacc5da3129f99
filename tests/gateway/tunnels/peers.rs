//! WebSocket of somebody else: that of Node, which is the one of browsers, before a server of a few lines.

use std::{path::Path, process::Stdio};

use tokio::process::Command;

use crate::process::{Process, free_address};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_the_websocket_of_a_browser_speaks_through_it() {
    let node = |args: &[&str]| {
        let mut command = Command::new("node");
        // Before Node 22 it has to be asked for.
        command.arg("--experimental-websocket").args(args).stdin(Stdio::null()).kill_on_drop(true);
        command
    };
    let asked = node(&["-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]).output().await;
    if !asked.is_ok_and(|asked| asked.status.success()) {
        println!("skipped: there is no `node` with `WebSocket` here");
        return;
    }
    let upstream = free_address().to_string();
    let process = Process::start(&format!(
        "gateway: {{admin: {{listen: ADMIN}}, workers: 1}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{app: {{endpoints: ['{upstream}']}}}}
routes: {{all: {{match: {{prefix: /}}, compress: {{}}, upstream: app}}}}
"
    ))
    .await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/tunnels/chat.mjs");
    let run =
        node(&[script.to_str().unwrap(), &upstream, &process.public.to_string()]).output().await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && out.contains("fine"), "{out}\n{err}\n{}", process.log());
}
