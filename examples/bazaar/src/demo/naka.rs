//! The gateway, run as `bazaar naka …`, so that one binary is the whole worked example. Nothing else in
//! this crate knows the gateway.
//!
//! # Stopping
//! `bazaar up` starts `bazaar naka --stop-with-stdin run -c FILE`. The flag is bazaar's, and
//! [`service::stop_with_stdin`](crate::kernel::service::stop_with_stdin) is started before [`naka_cli`] is
//! called: it sends this very process `SIGTERM` when standard input closes. So the gateway needs no
//! flag of its own; it drains on `SIGTERM` as it always does.

use std::{ffi::OsString, net::SocketAddr, path::Path, process::ExitCode};

use naka_gateway::{cli, config};

/// The command line of the gateway; the first of `args` is the program's name.
///
/// Must be called outside of any runtime: the gateway builds its own.
pub fn naka_cli(args: Vec<OsString>) -> ExitCode {
    cli::main(args)
}

/// Where the gateway will listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Its first listener.
    pub public: SocketAddr,
    /// Its admin listener, which answers `GET /readyz`.
    pub admin: SocketAddr,
}

/// Where the gateway will listen with this configuration.
///
/// # Errors
/// If it is wrong, all that is wrong with it; if it has no admin listener, what to write.
pub fn addresses(file: &Path) -> Result<Addresses, String> {
    let loaded = config::load(file, None);
    let config =
        loaded.map_err(|wrong| format!("the configuration is wrong\n{}", wrong.render(false)))?.config;
    let listener = config.listeners.values().next().expect("a checked configuration has a listener");
    let public = listener.listen.tcp().ok_or_else(|| {
        format!("the first listener is at {}, and the demo asks over TCP: write `:8080`", listener.listen)
    })?;
    let admin = config.gateway.admin.map(|admin| admin.listen).ok_or_else(|| {
        let file = file.display();
        format!(
            "{file} has no admin listener, and only that tells when the gateway is ready: write \
                 `gateway: {{admin: {{listen: 127.0.0.1:9901}}}}`"
        )
    })?;
    Ok(Addresses { public, admin })
}
