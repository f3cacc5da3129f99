//! Whoever asks: clients that come by chance, know nothing of one another, and lose patience.
//!
//! Each address keeps one connection for its next request, as browsers and pools do; who comes while that is busy makes another.

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, Response, Uri, Version,
    header::HOST,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use naka::problem::REASON;
use tokio::{
    io::duplex,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Door,
    account::{Account, End},
    chance::Chance,
};
use crate::{
    address::{Address, Source},
    config::checked::scenario::Load,
    connection,
    shared::Shared,
};

/// Bytes on their way in one direction.
const PIPE: usize = 64 << 10;
/// The longest pause between two requests, in mean ones.
const LONGEST: f64 = 20.0;

/// Tells servers when the request came, in microseconds of the scenario: so that each attempt at it is counted with it.
pub(super) const CAME: HeaderName = HeaderName::from_static("naka-simulated");

type Body = Full<Bytes>;

/// Those of one load.
pub(super) struct Clients {
    number: usize,
    load: Load,
    door: Door,
    shared: Arc<Shared>,
    chance: Chance,
    body: Bytes,
    /// Connections that wait for a request, by the client.
    idle: Mutex<HashMap<u32, Sender>>,
}

impl Clients {
    pub(super) fn new(shared: &Arc<Shared>, door: Door, load: &Load, number: usize, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            number,
            load: load.clone(),
            door,
            shared: Arc::clone(shared),
            chance: Chance::of(seed, (1, u32::try_from(number).unwrap_or(u32::MAX))),
            body: vec![b'.'; load.body].into(),
            idle: Mutex::default(),
        })
    }

    /// They come, one after another, and each is heard of until it has its answer or gives up.
    pub(super) async fn come(self: Arc<Self>, began: Instant, account: Arc<Account>) {
        let (mut next, end) = (began + self.load.during.from, began + self.load.during.to);
        let mut asking = JoinSet::new();
        loop {
            next += self.chance.around(self.load.every, LONGEST);
            if next >= end {
                break;
            }
            let client = self.chance.below(self.load.clients);
            sleep_until(next).await;
            let (clients, account) = (Arc::clone(&self), Arc::clone(&account));
            asking.spawn(async move {
                let asked = timeout(clients.load.patience, clients.ask(client, account.at(next), &account));
                let end = asked.await.unwrap_or(End::GaveUp);
                account.ended(clients.number, next, end);
            });
            while asking.try_join_next().is_some() {}
        }
        while asking.join_next().await.is_some() {}
    }

    async fn ask(&self, client: u32, at: Duration, account: &Account) -> End {
        let idle = self.idle().remove(&client);
        let Some((sender, response)) = self.sent(idle, client, at).await else { return End::BrokeOff };
        let (head, mut body) = response.into_parts();
        loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return End::BrokeOff,
                None => break,
            }
        }
        self.idle().insert(client, sender);
        let reason = head.headers.get(REASON).and_then(|reason| reason.to_str().ok());
        End::Answered(head.status, reason.map(|reason| account.reason(reason)))
    }

    /// Over the connection that waits, or another one if that has been closed meanwhile.
    async fn sent(
        &self,
        idle: Option<Sender>,
        client: u32,
        at: Duration,
    ) -> Option<(Sender, Response<Incoming>)> {
        let mut request = self.request(at);
        if let Some(mut sender) = idle
            && sender.is_ready().await
        {
            match sender.send(request).await {
                Ok(response) => return Some((sender, response)),
                Err(mut error) => request = error.take_message()?,
            }
        }
        let mut sender = self.connected(client).await?;
        let response = sender.send(request).await.ok()?;
        Some((sender, response))
    }

    async fn connected(&self, client: u32) -> Option<Sender> {
        let (ours, theirs) = duplex(PIPE);
        let (shared, name) = (Arc::clone(&self.shared), self.door.name.clone());
        let source = self.source(client);
        tokio::spawn(async move {
            // As whoever accepts does: at the bound, who connects waits.
            let place = Arc::clone(&shared.connections).acquire_owned().await;
            let draining = shared.draining(0);
            connection::serve(&shared, 0, name, theirs, source, draining).await;
            drop(place);
        });
        let io = TokioIo::new(ours);
        if self.door.protocols.h1 {
            let (sender, connection) = http1::handshake(io).await.ok()?;
            tokio::spawn(connection);
            Some(Sender::H1(sender))
        } else {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.ok()?;
            tokio::spawn(connection);
            Some(Sender::H2(sender))
        }
    }

    /// At a Unix socket clients have no address.
    fn source(&self, client: u32) -> Source {
        match self.door.name {
            Address::Tcp(_) => Source::Ip(address(client)),
            Address::Unix(_) => Source::Unix,
        }
    }

    fn request(&self, at: Duration) -> Request<Body> {
        let Load { method, host, target, headers, .. } = &self.load;
        let mut request = Request::new(Full::from(self.body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = self.uri(host, target);
        if self.door.protocols.h1 {
            let host = HeaderValue::from_str(host).expect("it was part of a URL");
            request.headers_mut().insert(HOST, host);
        } else {
            *request.version_mut() = Version::HTTP_2;
        }
        let at = HeaderValue::from(u64::try_from(at.as_micros()).unwrap_or(u64::MAX));
        request.headers_mut().insert(CAME, at);
        request.headers_mut().extend(headers.iter().map(|(name, value)| (Some(name.clone()), value.clone())));
        request
    }

    fn uri(&self, host: &str, target: &PathAndQuery) -> Uri {
        if self.door.protocols.h1 {
            return target.clone().into();
        }
        let authority = host.parse::<Authority>().expect("it was part of a URL");
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(target.clone());
        uri.build().expect("it was a URL")
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<u32, Sender>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In 198.18.0.0/15, which is for measuring (RFC 2544).
fn address(client: u32) -> IpAddr {
    let [_, _, high, low] = client.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(198, 18, high, low))
}

/// One end of a connection.
enum Sender {
    H1(http1::SendRequest<Body>),
    H2(http2::SendRequest<Body>),
}

impl Sender {
    async fn is_ready(&mut self) -> bool {
        match self {
            Self::H1(sender) => sender.ready().await.is_ok(),
            Self::H2(sender) => sender.ready().await.is_ok(),
        }
    }

    fn send(
        &mut self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>> + Send + use<> {
        let sending: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = match self {
            Self::H1(sender) => Box::pin(sender.try_send_request(request)),
            Self::H2(sender) => Box::pin(sender.try_send_request(request)),
        };
        sending
    }
}
