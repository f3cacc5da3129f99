//! Sidecars: beside each service a gateway of its own, by the file of that name in `mesh/`.
//!
//! # How
//! What others ask of a service comes in at the **inbound** door of its sidecar, over TLS on which both sides show who they are
//! ([`crate::mesh`]). What the service asks of others it asks at the **outbound** door, and names them as the host; only those
//! that its file lists are found there. The gateway goes to the inbound doors, too, as `gateway`.
//!
//! # What keeps others out
//! The door. On one machine all share the loopback, where the service itself listens for its sidecar; in a pod of its own, or in a
//! network namespace, nobody else would.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::up::{self, SERVICES, Service};
use crate::mesh;

/// Whom the gateway shows itself as.
const GATEWAY: &str = "gateway";

/// Where the files of `mesh/` look for certificates.
const CERTIFICATES: &str = "../../../.bazaar/mesh/";

/// Where a sidecar listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doors {
    /// For others.
    pub inbound: SocketAddr,
    /// For its service.
    pub outbound: SocketAddr,
    /// For whoever looks after it.
    pub admin: SocketAddr,
}

impl Doors {
    /// As the files of `mesh/` say, for a service at that port.
    pub fn of(port: u16) -> Self {
        let [inbound, outbound, admin] =
            [10_000, 11_000, 12_000].map(|more| SocketAddr::from((Ipv4Addr::LOCALHOST, port + more)));
        Self { inbound, outbound, admin }
    }
}

/// Where a service listens, and its sidecar.
pub type Places = BTreeMap<&'static str, (SocketAddr, Doors)>;

/// Where they listen by the files themselves.
pub fn as_written() -> Places {
    let at = |it: &Service| (SocketAddr::from((Ipv4Addr::LOCALHOST, it.port)), Doors::of(it.port));
    SERVICES.iter().map(|it| (it.name, at(it))).collect()
}

/// Whom each service asks.
pub fn asks() -> impl Iterator<Item = (&'static str, &'static [&'static str])> {
    SERVICES.iter().map(|it| (it.name, it.asks))
}

/// Writes what the sidecars of these services and the gateway need into a folder: certificates, and a configuration `NAME.yaml` for each.
///
/// # Errors
/// What cannot be read or written.
pub fn lay_out(folder: &Path, places: &Places, gateway: &str) -> Result<(), String> {
    mesh::certify(folder, places.keys().copied().chain([GATEWAY]))?;
    for name in places.keys() {
        let text = read(&Path::new("examples/bazaar/mesh").join(format!("{name}.yaml")))?;
        write(&file(folder, name), &moved(&text.replace(CERTIFICATES, ""), places))?;
    }
    write(&file(folder, GATEWAY), &moved(&through_doors(gateway), places))
}

/// The configuration of a sidecar, or of the gateway.
pub fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.yaml"))
}

/// Where whom it asks is asked, behind its sidecar: `payment@127.0.0.1:19104`.
pub fn asked_at(peer: &str, doors: Doors) -> String {
    format!("{peer}@{}", doors.outbound)
}

fn read(file: &Path) -> Result<String, String> {
    let file = up::find(file)?;
    std::fs::read_to_string(&file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("{} cannot be written: {error}", file.display()))
}

/// The configuration of the gateway, with the inbound doors for endpoints.
fn through_doors(text: &str) -> String {
    let mut all = String::with_capacity(2 * text.len());
    for line in text.lines() {
        let endpoint =
            |it: &&Service| line.trim_start().starts_with(&format!("endpoints: [\"127.0.0.1:{}\"]", it.port));
        let Some(Service { name, port, .. }) = SERVICES.iter().find(endpoint) else {
            _ = writeln!(all, "{line}");
            continue;
        };
        let door = line.replace(&format!("127.0.0.1:{port}"), &Doors::of(*port).inbound.to_string());
        let (indent, identity) = (line.len() - line.trim_start().len(), mesh::identity(name));
        _ = writeln!(
            all,
            "{door}\n{:indent$}tls: {{sni: {name}, ca: ca.pem, verify_san: [\"{identity}\"], cert: {GATEWAY}.pem, key: {GATEWAY}.key}}",
            ""
        );
    }
    all
}

/// A configuration, with the addresses that there are in place of those that it says. In one pass: what is put in may be what another
/// one looks like.
fn moved(text: &str, places: &Places) -> String {
    const HOST: &str = "127.0.0.1:";
    let mut by_port = BTreeMap::new();
    for service in &SERVICES {
        if let Some((at, doors)) = places.get(service.name) {
            let usual = Doors::of(service.port);
            by_port.insert(service.port, *at);
            by_port.insert(usual.inbound.port(), doors.inbound);
            by_port.insert(usual.outbound.port(), doors.outbound);
            by_port.insert(usual.admin.port(), doors.admin);
        }
    }
    let mut parts = text.split(HOST);
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let (port, rest) = part.split_at(digits);
        match port.parse().ok().and_then(|port: u16| by_port.get(&port)) {
            Some(at) => _ = write!(all, "{at}{rest}"),
            None => _ = write!(all, "{HOST}{part}"),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_moved_in_one_pass() {
        let mut places = as_written();
        let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let elsewhere = Doors { inbound: at(8104), outbound: at(18_105), admin: at(19_105) };
        places.insert("payment", (at(8104), elsewhere));
        let text =
            "a 127.0.0.1:8105, b 127.0.0.1:18105 c 127.0.0.1:19105\n127.0.0.1:20105 127.0.0.1:1 127.0.0.1:";
        assert_eq!(
            moved(text, &places),
            "a 127.0.0.1:8104, b 127.0.0.1:8104 c 127.0.0.1:18105\n127.0.0.1:19105 127.0.0.1:1 127.0.0.1:"
        );
    }
}
