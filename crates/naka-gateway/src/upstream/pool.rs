//! Kept connections to one endpoint.

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use naka::guard::{End, Guard};
use tokio::time::Instant;
use tracing::debug;

use super::{body::Body, connect::Connector};
use crate::config::checked::KeepAlive;

/// The connections of one worker to one endpoint that wait for a request, the latest used first.
///
/// Bounded by [`KeepAlive::max_idle`]; how many are *in use* is bounded by the requests under way.
pub struct Pool {
    address: Arc<str>,
    /// Parsed once; `None` for a name, which the resolver is asked for at each connection.
    socket: Option<SocketAddr>,
    idle: Mutex<VecDeque<Kept>>,
}

struct Kept {
    sender: SendRequest<Body>,
    since: Instant,
}

impl Pool {
    /// No connections yet.
    pub fn new(address: &Arc<str>) -> Self {
        Self { address: Arc::clone(address), socket: address.parse().ok(), idle: Mutex::default() }
    }

    /// Connections that wait for a request.
    pub fn idle(&self) -> usize {
        self.lock().len()
    }

    /// Closes what has waited for too long, and forgets what was closed by the other side.
    pub fn sweep(&self, keep: &KeepAlive) {
        let now = Instant::now();
        self.lock().retain(|kept| !kept.sender.is_closed() && kept.since + keep.timeout > now);
    }

    /// A connection that waits for a request, if there is one.
    pub(super) fn take(self: &Arc<Self>, keep: KeepAlive) -> Option<Lease> {
        let now = Instant::now();
        let mut idle = self.lock();
        while let Some(kept) = idle.pop_back() {
            if kept.since + keep.timeout <= now {
                idle.clear(); // All others have waited longer.
                return None;
            }
            if kept.sender.is_ready() {
                return Some(Lease { sender: kept.sender, pool: Arc::clone(self), keep });
            }
        }
        None
    }

    /// A new connection. Its driver runs as a task of this worker until the connection ends.
    pub(super) async fn connect(
        self: &Arc<Self>,
        connector: &Connector,
        keep: KeepAlive,
    ) -> io::Result<Lease> {
        let stream = connector.connect(&self.address, self.socket).await?;
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        let address = Arc::clone(&self.address);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%address, %error, "a connection to an endpoint ended in an error");
            }
        });
        Ok(Lease { sender, pool: Arc::clone(self), keep })
    }

    fn put(&self, sender: SendRequest<Body>, keep: &KeepAlive) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.lock();
        idle.push_back(Kept { sender, since: Instant::now() });
        while idle.len() > keep.max_idle {
            idle.pop_front();
        }
    }

    /// A panic cannot leave the queue half written.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("address", &self.address)
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}

/// A connection in use. It goes back when the response body is complete; dropped before that, it is
/// closed, because nobody can know where the next response would begin.
#[derive(Debug)]
pub struct Lease {
    pub(super) sender: SendRequest<Body>,
    pool: Arc<Pool>,
    keep: KeepAlive,
}

impl Lease {
    pub(super) fn give_back(self) {
        self.pool.put(self.sender, &self.keep);
    }
}

impl Guard for Lease {
    fn end(self, end: End) {
        if end == End::Complete {
            self.give_back();
        }
    }
}
