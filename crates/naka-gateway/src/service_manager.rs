//! What systemd, and whoever does as it does, says to a process and wants to hear of it: sockets that it listens on
//! already (`LISTEN_FDS`), and that the process is up or ends (`NOTIFY_SOCKET`).

use std::{
    collections::BTreeMap,
    env, io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr as UnixAddr, UnixDatagram},
        },
    },
};

use listenfd::ListenFd;
use socket2::Socket;
use tracing::warn;

use crate::{address::Address, config::checked::Config, handover::Sockets};

/// The most sockets.
const SOCKETS: usize = 4096;

/// The sockets that came with the process, if they are meant for it. To be asked once, before any thread is started: the
/// variables that say so are taken away.
///
/// # Errors
/// If one is something else.
pub fn sockets() -> Result<Vec<OwnedFd>, String> {
    // Without it, whoever started us may have forgotten what they were given themselves.
    if env::var_os("LISTEN_PID").is_none() {
        return Ok(Vec::new());
    }
    let said = env::var("LISTEN_FDS").unwrap_or_default();
    if said.parse::<usize>().is_ok_and(|count| count > SOCKETS) {
        return Err(format!("`LISTEN_FDS` says {said}, and at most {SOCKETS} sockets are taken"));
    }
    let mut all = ListenFd::from_env();
    let taken = (0..all.len()).map(|place| taken(&mut all, place));
    let taken = taken.filter_map(Result::transpose).collect::<io::Result<_>>();
    taken.map_err(|error| format!("of the sockets that came with the process (`LISTEN_FDS`), {error}"))
}

/// The socket at this place, of TCP or at a path.
fn taken(all: &mut ListenFd, place: usize) -> io::Result<Option<OwnedFd>> {
    // What is not of TCP stays where it is.
    match all.take_unix_listener(place) {
        Ok(socket) => Ok(socket.map(OwnedFd::from)),
        Err(_) => Ok(all.take_tcp_listener(place)?.map(OwnedFd::from)),
    }
}

/// Which of the listeners each of these sockets is for, or that it is for the admin port.
///
/// # Errors
/// If one is for none of them.
pub fn assigned(all: Vec<OwnedFd>, config: &Config) -> Result<Sockets, String> {
    let listeners = config.listeners.iter().map(|(name, listener)| (&listener.listen, name));
    let listeners = listeners.collect::<BTreeMap<_, _>>();
    let admin = config.gateway.admin.as_ref().map(|admin| admin.listen);
    let mut sockets = Sockets::default();
    for socket in all {
        let socket = Socket::from(socket);
        let at = socket.local_addr().map(|at| Address::of(&at));
        let at = at.map_err(|error| format!("a socket that came with the process: {error}"))?;
        let at =
            at.ok_or("a socket that came with the process (`LISTEN_FDS`) has neither an address nor a path")?;
        if listeners.contains_key(&at) {
            sockets.listeners.push((at, socket.into()));
        } else if let Some(address) = at.tcp().filter(|at| admin == Some(*at) && sockets.admin.is_none()) {
            sockets.admin = Some((address, socket.into()));
        } else {
            let ours = listeners.into_keys().cloned().chain(admin.map(Address::from));
            return Err(unassigned(&at, ours));
        }
    }
    Ok(sockets)
}

fn unassigned(at: &Address, ours: impl Iterator<Item = Address>) -> String {
    let ours = ours.map(|address| address.to_string()).collect::<Vec<_>>().join(", ");
    format!(
        "a socket that came with the process (`LISTEN_FDS`) listens at {at}, and the configuration listens at {ours}: make `ListenStream=` and `listen:` the same (a path without its `unix:`)"
    )
}

/// The process serves. It says its number, as it may have taken over from the one that was known.
pub fn say_ready() {
    say(&format!("READY=1\nMAINPID={}\n", std::process::id()));
}

/// The process is on its way out, and no other has taken over.
pub fn say_stopping() {
    say("STOPPING=1\n");
}

/// One datagram to whoever wants to hear of it (`sd_notify(3)`). Its socket may have a name that is no path.
fn say(what: &str) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::from_abstract_name(name),
        None => UnixAddr::from_pathname(&name),
    };
    let said = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?; // Who does not listen is not waited for.
        socket.send_to_addr(what.as_bytes(), &address)
    });
    if let Err(error) = said {
        warn!(%error, "the service manager (`NOTIFY_SOCKET`) cannot be told");
    }
}
