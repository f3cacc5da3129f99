//! What comes before the first request: whose a connection is, and how it is secured.

use std::{future::Future, io, sync::Arc, time::Duration};

use http::StatusCode;
use naka::reject::{Reason, Rejection};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::{rustls, server::TlsStream};
use tracing::{debug, info};

use super::{Bounds, From, Stream, say_what_is_wrong};
use crate::{
    begun::Begun,
    callers::Entered,
    entry::Peer,
    observe::Handshake,
    patience::{Patient, Progress},
    proxy_protocol,
    room::Room,
    shared::Ending,
    strict::Wrong,
    tls::{Accepted, Acceptor},
};

/// A connection that is ready for requests.
pub(super) enum SetUp<S> {
    Plain(Begun<S>),
    /// Whether HTTP/2 is spoken.
    Tls(Box<TlsStream<Begun<S>>>, bool),
}

/// Of a peer that nobody trusts.
static UNTRUSTED: Rejection =
    Rejection::new(Reason::Custom(StatusCode::FORBIDDEN, "proxy_protocol_untrusted"));
/// Of a peer that is trusted, and says nothing of the kind.
static NO_HEADER: Rejection =
    Rejection::new(Reason::Custom(StatusCode::BAD_REQUEST, "proxy_protocol_malformed"));

/// What a set-up that is under way has left when everything ends: a client that is at it may be about to ask.
const MOMENT: Duration = Duration::from_secs(1);

/// What comes before the first request; nothing if the connection is closed before that, because another one needs its place or
/// everything ends.
pub(super) async fn unless_closed<T>(
    room: &Room,
    mut draining: watch::Receiver<Ending>,
    first: impl Future<Output = Option<T>>,
) -> Option<T> {
    let over = async {
        let _ = draining.wait_for(|ending| *ending >= Ending::Now).await; // Who would say so is gone.
        sleep(MOMENT).await;
    };
    tokio::select! {
        biased;
        first = first => first,
        () = room.wanted() => None,
        () = over => None,
    }
}

/// Sets a connection up, within [`Bounds::handshake`]; with its place among those of the client that a balancer names. `None`: it has
/// been told what is wrong, if that can be told.
pub(super) async fn set_up<S: Stream>(
    from: &mut From<'_>,
    bounds: &Bounds,
    stream: S,
) -> Option<(SetUp<S>, Option<Entered>)> {
    let (until, mut stream) = (Instant::now() + bounds.handshake, Begun::new(stream));
    let mut entered = None; // Without a balancer it was counted when it was accepted.
    if bounds.is_proxied {
        entered = learn_client(from, bounds, &mut stream, until).await?;
    }
    let set_up = match &bounds.tls {
        None => SetUp::Plain(stream),
        Some(acceptor) => secure(from, bounds, acceptor, stream, until).await?,
    };
    Some((set_up, entered))
}

/// Whose the connection is, as whoever is trusted to say so says.
async fn learn_client<S: Stream>(
    from: &mut From<'_>,
    bounds: &Bounds,
    stream: &mut Begun<S>,
    until: Instant,
) -> Option<Option<Entered>> {
    let balancer = from.peer.source;
    let is_trusted = from.shared.in_force.with(|generation| generation.entry.trusts(balancer));
    if !is_trusted {
        debug!(peer = %balancer, "a connection with the PROXY protocol from who is not in `trusted_proxies`");
        from.shared.metrics.rejected("", &UNTRUSTED);
        return None;
    }
    let read = timeout_at(until, proxy_protocol::read(stream)).await;
    match read.unwrap_or(Err("the header of the PROXY protocol took too long")) {
        Ok(Some(client)) => {
            from.peer = Arc::new(Peer::new(client.into(), bounds.scheme()));
            from.shared.enter(client.into()).ok() // Counted where it is refused.
        }
        Ok(None) => Some(None),
        Err(why) => {
            debug!(peer = %balancer, why, "a connection without a header of the PROXY protocol");
            from.shared.metrics.rejected("", &NO_HEADER);
            None
        }
    }
}

async fn secure<S: Stream>(
    from: &mut From<'_>,
    bounds: &Bounds,
    acceptor: &Acceptor,
    mut stream: Begun<S>,
    until: Instant,
) -> Option<SetUp<S>> {
    let count = |how| from.shared.metrics.handshake(&bounds.listener, how);
    if !matches!(timeout_at(until, stream.fill(1, |_| false)).await, Ok(Ok(true))) {
        return None; // It has said nothing.
    }
    // A record of TLS begins with its type, which is no letter (RFC 8446 §5.1).
    if stream.first()[0].is_ascii_uppercase() {
        count(Handshake::PlainText);
        let why = "this port speaks TLS: ask by `https://`";
        let progress = Progress::new(bounds.patience);
        progress.read_no_more();
        say_what_is_wrong(from, &Wrong { reason: Reason::BadRequest, why }, Patient::new(stream, &progress))
            .await;
        return None;
    }
    match timeout_at(until, acceptor.accept(stream)).await {
        Ok(Ok(Accepted::Secured(secured))) => {
            let secured = *secured;
            count(if secured.is_resumed { Handshake::Resumed } else { Handshake::Done });
            let (identity, hosts) = (secured.identity, secured.hosts);
            from.peer = Arc::new(Peer { identity, hosts, ..(*from.peer).clone() });
            Some(SetUp::Tls(Box::new(secured.stream), secured.is_h2))
        }
        Ok(Ok(Accepted::Challenge)) => {
            debug!(peer = %from.peer.source, "an authority has looked whose a host is");
            count(Handshake::Challenge);
            None
        }
        Ok(Ok(Accepted::NoCertificate)) => {
            debug!(peer = %from.peer.source, "a handshake for a host whose certificate is ordered, and not there yet");
            count(Handshake::NoCertificate);
            None
        }
        Ok(Err(error)) => {
            let how = failed(&error);
            count(how);
            // Anybody can let a handshake fail as often as they like.
            if how != Handshake::Failed && acceptor.complaints().is_due() {
                let listener = &*bounds.listener;
                info!(peer = %from.peer.source, listener, %error, "a client has not shown a certificate that counts");
            } else {
                debug!(peer = %from.peer.source, %error, "a handshake of TLS failed");
            }
            None
        }
        Err(_) => {
            debug!(peer = %from.peer.source, "a handshake of TLS took too long");
            count(Handshake::TimedOut);
            None
        }
    }
}

/// Why a handshake failed, as far as that is the client's certificate.
fn failed(error: &io::Error) -> Handshake {
    match error.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::NoCertificatesPresented) => Handshake::Unnamed,
        Some(rustls::Error::InvalidCertificate(_)) => Handshake::Disbelieved,
        None if error.kind() == io::ErrorKind::InvalidData => Handshake::Disbelieved, // Its names cannot be read, or it is over.
        _ => Handshake::Failed,
    }
}
