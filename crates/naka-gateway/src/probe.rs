//! Asks one endpoint whether it is well.
//!
//! # Decision
//! 1. A connection of its own is made, and closed after the answer. For `type: tcp` that is all.
//! 2. `GET path` is sent, with `Host` (the endpoint's address if nothing is said), `user-agent: naka/VERSION`
//!    and `connection: close`.
//! 3. The status has to be one of [`statuses`](HealthProbe::Http::statuses). Redirects are not followed.
//! 4. The body has to come to its end, or up to [`MAX_BODY`] bytes. Is there something that
//!    [has to be in it](HealthProbe::Http::body_contains), it has to be in that part.
//!
//! Whoever asks bounds the time: the name, the connection and the answer together.
//!
//! # Limits
//! 16 KiB of a head, 100 fields of it, and 64 KiB of a body; at most one question to the resolver at a time for each
//! name.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, StatusCode,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
    uri::PathAndQuery,
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use naka::{BoxError, balance::Endpoint};
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::{
    config::checked::{self, HealthProbe},
    control::{WHO, over},
    upstream::{Connector, Place},
};

/// Bytes that are read ahead of an answer, so the longest head.
const MAX_HEAD: usize = 16 << 10;

/// Bytes of an answer's body that are looked at.
pub const MAX_BODY: usize = 64 << 10;

/// Asks the endpoints of one upstream.
#[derive(Clone)]
pub struct Probe(Arc<Inner>);

struct Inner {
    how: HealthProbe,
    /// Of each address that was asked about: of those that are gone, too, until there are many.
    places: Mutex<HashMap<Arc<str>, Arc<Place>>>,
    connector: Connector,
}

/// Addresses whose places are remembered; then all are made anew.
const MAX_PLACES: usize = 4096;

impl Probe {
    /// Asks these endpoints like this.
    pub fn new(how: HealthProbe, endpoints: &[checked::Endpoint], connector: Connector) -> Self {
        let place = |it: &checked::Endpoint| (Arc::clone(&it.address), Arc::new(Place::new(&it.address)));
        let places = Mutex::new(endpoints.iter().map(place).collect());
        Self(Arc::new(Inner { how, places, connector }))
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Probe").field(&self.0.how).finish()
    }
}

impl Service<Endpoint> for Probe {
    type Response = ();
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, endpoint: Endpoint) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.ask(endpoint.address()).await })
    }
}

impl Inner {
    fn place(&self, address: &Arc<str>) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= MAX_PLACES && !places.contains_key(address) {
            places.clear();
        }
        Arc::clone(places.entry(Arc::clone(address)).or_insert_with(|| Arc::new(Place::new(address))))
    }

    async fn ask(&self, address: &Arc<str>) -> Result<(), BoxError> {
        let stream = self.connector.reach(&self.place(address)).await;
        let stream = stream.map_err(|error| format!("no connection: {error}"))?;
        let HealthProbe::Http { path, host, statuses, body_contains } = &self.how else { return Ok(()) };
        let request = request(path, host.as_ref(), address)?;
        get(stream, request, statuses, body_contains.as_deref()).await
    }
}

fn request(
    path: &PathAndQuery,
    host: Option<&HeaderValue>,
    address: &str,
) -> Result<Request<Empty<Bytes>>, BoxError> {
    let host = host.map_or_else(|| HeaderValue::from_str(address), |host| Ok(host.clone()))?;
    let request = Request::get(path.as_str())
        .header(HOST, host)
        .header(USER_AGENT, WHO)
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close");
    Ok(request.body(Empty::new())?)
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
    statuses: &[(u16, u16)],
    body_contains: Option<&str>,
) -> Result<(), BoxError> {
    let mut http = http1::Builder::new();
    let (mut sender, connection) = http.max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| said("no answer", &error))?;
        let status = response.status();
        if !means_well(statuses, status) {
            return Err(format!("the answer is {}", status.as_u16()).into());
        }
        let (body, is_whole) = read(response.into_body()).await?;
        match body_contains {
            Some(text) if !contains(&body, text.as_bytes()) => {
                let of = if is_whole { "the answer" } else { "the first 64 KiB of the answer" };
                Err(format!("`body_contains` is not in {of}").into())
            }
            _ => Ok(()),
        }
    };
    over(connection, exchange).await
}

fn means_well(statuses: &[(u16, u16)], status: StatusCode) -> bool {
    statuses.iter().any(|(first, last)| (*first..=*last).contains(&status.as_u16()))
}

/// The body, and whether it is all of it.
async fn read(mut body: Incoming) -> Result<(Vec<u8>, bool), BoxError> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| said("the answer broke off", &error))?;
        let Ok(data) = frame.into_data() else { continue };
        let room = MAX_BODY - read.len();
        read.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() >= room {
            return Ok((read, false));
        }
    }
    Ok((read, true))
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    body.windows(text.len()).any(|window| window == text)
}

/// What hyper says, with what that came from.
fn said(what: &str, error: &hyper::Error) -> BoxError {
    match std::error::Error::source(error) {
        Some(cause) => format!("{what}: {error}: {cause}").into(),
        None => format!("{what}: {error}").into(),
    }
}
