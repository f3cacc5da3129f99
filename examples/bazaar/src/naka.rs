//! The gateway, run as `bazaar naka …`, so that one binary is the whole worked example.
//!
//! **The one place where the gateway is wired in.** [`naka_cli`] is to become
//! `naka_gateway::cli::main(args)`, and [`addresses`] is to read the configuration. Nothing else in this
//! crate knows the gateway.
//!
//! # Stopping
//! `bazaar up` starts `bazaar naka --stop-with-stdin run -c FILE`. The flag is bazaar's, and
//! [`service::stop_with_stdin`](crate::service::stop_with_stdin) is started before [`naka_cli`] is
//! called: it sends this very process `SIGTERM` when standard input closes. So the gateway needs no
//! flag of its own; it drains on `SIGTERM` as it always does.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
};

/// The command line of the gateway; the first of `args` is the program's name.
///
/// Must be called outside of any runtime: the gateway builds its own.
#[expect(clippy::needless_pass_by_value, reason = "the gateway's own command line takes them so")]
pub fn naka_cli(args: Vec<OsString>) -> ExitCode {
    let shown = args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ");
    crate::service::complain(format_args!("`{shown}`: the gateway is not built into bazaar yet"));
    ExitCode::from(2)
}

/// Where the gateway will listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Its public listener.
    pub public: SocketAddr,
    /// Its admin listener, which answers `GET /readyz`.
    pub admin: SocketAddr,
}

/// Where the gateway will listen with this configuration: for now, what `gateway.yaml` ships.
pub fn addresses(_config: &Path) -> Addresses {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Addresses { public: at(8080), admin: at(9901) }
}
