//! Asks one endpoint whether it is well.
//!
//! # Decision
//! 1. A connection of its own is made, and closed after the answer. For `type: tcp` that is all.
//! 2. `GET path` is sent, in what the upstream speaks, with `Host` (the endpoint's address if nothing is said),
//!    `user-agent: naka/VERSION` and, over HTTP/1.1, `connection: close`.
//! 3. The status has to be one of [`statuses`](HealthProbe::Http::statuses). Redirects are not followed.
//! 4. The body has to come to its end, or up to [`MAX_BODY`] bytes. Is there something that
//!    [has to be in it](HealthProbe::Http::body_contains), it has to be in that part.
//! 5. For `type: grpc` it is asked over HTTP/2 instead, as [`grpc.health.v1`] says: the answer has to be `SERVING`, and
//!    the `grpc-status` 0. Any other word (`NOT_SERVING`, `UNKNOWN`, `SERVICE_UNKNOWN`) and any other status (`NOT_FOUND`
//!    of a service that it does not know, `UNIMPLEMENTED` of one that cannot be asked) is a failure, and is told.
//!
//! [`grpc.health.v1`]: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
//!
//! Whoever asks bounds the time: the name, the connection and the answer together.
//!
//! # Limits
//! 16 KiB of a head, 100 fields of it, and 64 KiB of a body; over HTTP/2 128 KiB of a head; 4 KiB of an answer in
//! gRPC. At most one question to the resolver at a time for each name.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT},
    uri::PathAndQuery,
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use naka::{BoxError, balance::Endpoint};
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::{
    config::checked::{self, HealthCheck, HealthProbe, Protocol},
    control::{WHO, over},
    tls::ClientTls,
    upstream::{Connector, Place, begin_h2, host_of},
};

mod grpc;

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
    tls: Option<ClientTls>,
    connector: Connector,
}

/// Addresses whose places are remembered; then all are made anew.
const MAX_PLACES: usize = 4096;

impl Probe {
    /// Asks these endpoints like this.
    pub fn new(check: &HealthCheck, endpoints: &[checked::Endpoint], connector: Connector) -> Self {
        let (how, tls) = (check.probe.clone(), check.tls.clone());
        let place = |it: &checked::Endpoint| {
            (Arc::clone(&it.address), Arc::new(Place::new(&it.address, tls.clone())))
        };
        let places = Mutex::new(endpoints.iter().map(place).collect());
        Self(Arc::new(Inner { how, places, tls, connector }))
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
        let place = || Arc::new(Place::new(address, self.tls.clone()));
        Arc::clone(places.entry(Arc::clone(address)).or_insert_with(place))
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    async fn ask(&self, address: &Arc<str>) -> Result<(), BoxError> {
        let stream = self.connector.reach(&self.place(address)).await;
        let stream = stream.map_err(|error| format!("no connection: {error}"))?;
        match &self.how {
            HealthProbe::Tcp => Ok(()),
            HealthProbe::Http { protocol, path, host, statuses, body_contains } => {
                let wanted = Wanted { statuses, body_contains: body_contains.as_deref() };
                match protocol {
                    Protocol::H1 => get(stream, request(path, host.as_ref(), address)?, wanted).await,
                    Protocol::H2 => {
                        let head = head(Method::GET, self.scheme(), path.as_str(), host.as_ref(), address)?;
                        exchange(stream, head, None, async |response| {
                            wanted.status(response.status())?;
                            let (body, is_whole) = read_h2(response.body_mut(), MAX_BODY).await?;
                            wanted.body(&body, is_whole)
                        })
                        .await
                    }
                }
            }
            HealthProbe::Grpc { service, host } => {
                let mut head = head(Method::POST, self.scheme(), grpc::PATH, host.as_ref(), address)?;
                head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                head.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
                exchange(stream, head, Some(grpc::question(service)), grpc_says).await
            }
        }
    }
}

fn request(
    path: &PathAndQuery,
    host: Option<&HeaderValue>,
    address: &str,
) -> Result<Request<Empty<Bytes>>, BoxError> {
    let host = host.map_or_else(|| HeaderValue::from_str(host_of(address)), |host| Ok(host.clone()))?;
    let request = Request::get(path.as_str())
        .header(HOST, host)
        .header(USER_AGENT, WHO)
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close");
    Ok(request.body(Empty::new())?)
}

/// The head of a question over HTTP/2.
fn head(
    method: Method,
    scheme: &'static str,
    path: &str,
    host: Option<&HeaderValue>,
    address: &str,
) -> Result<Request<()>, BoxError> {
    let authority = host.map_or(host_of(address).as_bytes(), HeaderValue::as_bytes);
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build()?;
    let head = Request::builder().method(method).uri(uri).header(USER_AGENT, WHO).header(ACCEPT, "*/*");
    Ok(head.body(())?)
}

/// What means well.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    statuses: &'a [(u16, u16)],
    body_contains: Option<&'a str>,
}

impl Wanted<'_> {
    fn status(&self, status: StatusCode) -> Result<(), BoxError> {
        if means_well(self.statuses, status) {
            return Ok(());
        }
        Err(format!("the answer is {}", status.as_u16()).into())
    }

    fn body(&self, body: &[u8], is_whole: bool) -> Result<(), BoxError> {
        match self.body_contains {
            Some(text) if !contains(body, text.as_bytes()) => {
                let of = if is_whole { "the answer" } else { "the first 64 KiB of the answer" };
                Err(format!("`body_contains` is not in {of}").into())
            }
            _ => Ok(()),
        }
    }
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
    wanted: Wanted<'_>,
) -> Result<(), BoxError> {
    let mut http = http1::Builder::new();
    let (mut sender, connection) = http.max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| said("no answer", &error))?;
        wanted.status(response.status())?;
        let (body, is_whole) = read(response.into_body()).await?;
        wanted.body(&body, is_whole)
    };
    over(connection, exchange).await
}

/// One exchange over HTTP/2, and what is made of its answer.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    head: Request<()>,
    body: Option<Bytes>,
    judge: impl AsyncFnOnce(&mut Response<RecvStream>) -> Result<(), BoxError>,
) -> Result<(), BoxError> {
    let (sender, connection) = begin_h2(stream, 1).await?;
    let exchange = async {
        let no_answer = |error: h2::Error| format!("no answer: {error}");
        let mut sender = sender.ready().await.map_err(no_answer)?;
        let (response, mut upload) = sender.send_request(head, body.is_none()).map_err(no_answer)?;
        if let Some(body) = body {
            upload.send_data(body, true).map_err(no_answer)?;
        }
        let mut response = response.await.map_err(no_answer)?;
        judge(&mut response).await
    };
    over(connection, exchange).await
}

/// The body, up to so many bytes, and whether it is all of it.
async fn read_h2(body: &mut RecvStream, most: usize) -> Result<(Vec<u8>, bool), BoxError> {
    let mut read = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| format!("the answer broke off: {error}"))?;
        body.flow_control().release_capacity(data.len())?;
        let room = most - read.len();
        read.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() >= room && !data.is_empty() {
            return Ok((read, false));
        }
    }
    Ok((read, true))
}

/// What an endpoint says of itself, and why that is no pass.
async fn grpc_says(response: &mut Response<RecvStream>) -> Result<(), BoxError> {
    if response.status() != StatusCode::OK {
        return Err(format!("the answer is {}", response.status().as_u16()).into());
    }
    grpc::is_grpc(response.headers())?;
    grpc::status(response.headers(), "")?; // In the head, if there is no message.
    let (message, is_whole) = read_h2(response.body_mut(), grpc::MAX_ANSWER).await?;
    if !is_whole {
        return Err("the answer is longer than 4 KiB".into());
    }
    let trailers = response.body_mut().trailers().await;
    let trailers = trailers.map_err(|error| format!("the answer broke off: {error}"))?;
    let is_said = response.headers().contains_key(grpc::STATUS);
    match trailers {
        Some(trailers) => grpc::status(&trailers, if is_said { "" } else { grpc::MISSING })?,
        None if is_said => {}
        None => return Err(grpc::MISSING.into()),
    }
    grpc::answer(&message)
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
