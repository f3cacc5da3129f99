//! Two networks with a link between them, in namespaces of their own: nothing of the machine's network is touched.

use std::process::{Command, Stdio};

/// Makes them, and goes on in the first; its end of the link is `near`, the other network is `far`.
const MADE: &str = "mount -t tmpfs none /run && ip link set lo up && ip netns add far \
    && ip link add near type veth peer name there netns far && ip addr add 10.99.0.1/30 dev near && ip link set near up \
    && ip -n far addr add 10.99.0.2/30 dev there && ip -n far link set there up && exec \"$@\"";

/// Whoever is run in them knows it by this.
const HERE: &str = "NAKA_NAMESPACES";

fn within(command: &[&str]) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", MADE, "sh"]);
    unshare.args(command).env(HERE, "1").stdin(Stdio::null());
    unshare
}

/// Runs a test that is ignored elsewhere, by its whole name; visibly not, where they cannot be made or `needed` fails.
pub(crate) fn run(test: &str, needed: &[&str]) {
    if !within(needed).output().is_ok_and(|output| output.status.success()) {
        println!(
            "skipped: namespaces cannot be made here, or `unshare`, `ip` or {needed:?} is not installed"
        );
        return;
    }
    let me = std::env::current_exe().unwrap();
    let output =
        within(&[me.to_str().unwrap(), "--exact", test, "--ignored", "--nocapture"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    // Nor is a test that has another name by now one that has passed.
    assert!(output.status.success() && said.contains("1 passed"), "{test}\n{said}\n{wrong}");
}

/// Whether this is run in them.
pub(crate) fn are_here() -> bool {
    std::env::var_os(HERE).is_some()
}

/// A command in the far network.
pub(crate) fn far(program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "far", program]);
    command
}

/// Cuts the link (`down`) or heals it (`up`).
pub(crate) fn link(state: &str) {
    assert!(Command::new("ip").args(["link", "set", "near", state]).status().unwrap().success());
}
