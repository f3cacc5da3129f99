//! TLS 1.3 and 1.2 (RFC 8446, RFC 5246), by rustls: what is shown to clients and to endpoints, and what is asked of them.
//!
//! A configuration is read into [`ServerTls`] and [`ClientTls`], which cannot be wrong: a key is that of its certificate, and
//! authorities can be such. Listeners make an [`Acceptor`] of it. Nobody else here knows rustls.
//!
//! # What holds
//! - Clients resume sessions by tickets (RFC 8446 §4.6.1) whose keys change every six hours; nothing is kept for a session.
//!   Tickets outlive a change of certificates. They do not outlive one of what clients have to show: who had to show
//!   nothing yesterday cannot come back with that.
//! - 0-RTT is off: what comes that early may be sent again by anybody who has seen it.
//! - A certificate that is [`Ordered`] takes its place, and is renewed, between two handshakes. A handshake that speaks
//!   `acme-tls/1` and nothing else is its authority's, which looks whose a host is (RFC 8737): it is shown what that one wants
//!   to see, and its connection ends with the handshake.
//! - Certificates of clients and endpoints are not looked up in lists of what is revoked.

mod certificate;
mod client;
mod names;
mod ordered;
mod server;

use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use certificate::{Authorities, Certificate, Unfit};
pub use client::{Alpn, ClientTls, Expected, Trust, Wanted};
pub use names::Names;
pub use ordered::{Challenged, Ordered};
pub use server::{Accepted, Acceptor, Clients, Hosts, Oldest, Secured, ServerTls, Tickets};
pub use tokio_rustls::rustls::pki_types::ServerName;

/// The one crypto.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider()))
}
