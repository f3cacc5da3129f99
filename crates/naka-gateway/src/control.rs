//! The gateway's own errands over HTTP: the keys that tokens are verified with, and whoever decides about
//! credentials.
//!
//! Each errand has one bounded answer. Redirects are not followed: keys come from where the configuration
//! says, and from nowhere else. Keys are fetched over a connection of their own; questions about
//! credentials, which come with requests, over connections that are kept.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{ACCEPT, CACHE_CONTROL, HOST, USER_AGENT},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use naka::{
    BoxError,
    balance::{BalanceLayer, Endpoint},
    clock::Now,
    jwt::{Fetched, Keys, MAX_BYTES},
    reject::Rejection,
};
use tower_service::Service;
use tracing::{info, warn};

use crate::{
    config::checked::{Connections, KeepAlive, Name, Protocol, UpstreamTimeouts},
    deadline::Deadlines,
    seldom::Seldom,
    tls::ClientTls,
    upstream::{Body, Client, Connector, Pools},
};

/// What the gateway calls itself where it asks on its own account.
pub(crate) const WHO: &str = concat!("naka/", env!("CARGO_PKG_VERSION"));

/// Fetches a JWK set (RFC 7517) from one place.
#[derive(Clone)]
pub struct FetchKeys {
    url: Arc<str>,
    connector: Connector,
}

impl FetchKeys {
    /// From this URL.
    pub const fn new(url: Arc<str>, connector: Connector) -> Self {
        Self { url, connector }
    }
}

impl fmt::Debug for FetchKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FetchKeys").field(&self.url).finish()
    }
}

impl Service<()> for FetchKeys {
    type Response = Fetched;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Fetched, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let Self { url, connector } = self.clone();
        Box::pin(async move { fetch(&url.parse()?, &connector).await })
    }
}

/// Says in the log what becomes of the fetching of keys.
#[derive(Debug)]
pub struct TellKeys {
    policy: Name,
    url: String,
    keys: Keys,
}

impl TellKeys {
    /// Of the keys of this policy, which come from this URL.
    pub fn new(policy: &Name, url: &str, keys: &Keys) -> Self {
        let policy = Arc::clone(policy);
        // Whatever stands behind the path may be a secret.
        let url = url.split(['?', '#']).next().unwrap_or_default().to_owned();
        Self { policy, url, keys: keys.clone() }
    }

    /// Says so when they cannot be fetched, seldom, and when they can be again.
    pub async fn run(self) {
        let Self { policy, url, keys } = self;
        let (trouble, mut is_told, mut attempts) = (Seldom::new(), false, 0);
        loop {
            attempts = keys.attempted(attempts).await;
            match keys.last_error() {
                Some(cause) if trouble.is_due() => {
                    is_told = true;
                    let so = if keys.is_ready(Now::read()) {
                        "the last good ones count until `max_stale` is over"
                    } else {
                        "there are none, and requests that need them get 503"
                    };
                    warn!(%policy, %url, ?cause, "keys cannot be fetched; {so}; it is tried again");
                }
                None if is_told => {
                    is_told = false;
                    info!(%policy, %url, "keys are fetched again");
                }
                Some(_) | None => {}
            }
        }
    }
}

async fn fetch(url: &Uri, connector: &Connector) -> Result<Fetched, BoxError> {
    let tls = if url.scheme_str() == Some("https") { Some(ClientTls::usual()?) } else { None };
    let accept = HeaderValue::from_static("application/jwk-set+json, application/json");
    let response = get(url, [(ACCEPT, accept)], (tls, connector), MAX_BYTES).await?;
    if response.status() != StatusCode::OK {
        return Err(format!("the answer is {}, not 200", response.status()).into());
    }
    let max_age = max_age(response.headers());
    Ok(Fetched { body: response.into_body(), max_age })
}

/// Fetches what is at a URL, whatever its status, over a connection of its own, with these headers besides. Whoever
/// calls bounds the time.
///
/// # Errors
/// If nobody answers, or with a body of more than `max_bytes`.
pub(crate) async fn get(
    url: &Uri,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    (tls, connector): (Option<ClientTls>, &Connector),
    max_bytes: usize,
) -> Result<Response<Bytes>, BoxError> {
    let host = url.host().ok_or("the URL has no host")?;
    let port = url.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let stream = connector.dial(&format!("{host}:{port}").into(), tls).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let host = url.authority().ok_or("the URL has no host")?.as_str();
    let mut request =
        Request::get(target).header(HOST, host).header(USER_AGENT, WHO).body(Empty::<Bytes>::new())?;
    request.headers_mut().extend(headers);
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, max_bytes).collect().await?.to_bytes();
        Ok::<_, BoxError>(Response::from_parts(head, body))
    };
    over(connection, exchange).await
}

/// An exchange over a connection of its own, which is driven here and ends here: nothing is left behind by who
/// gives up.
pub(crate) async fn over<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        result = &mut exchange => return result,
        _ = &mut connection => {}
    }
    exchange.await // What came before the connection ended is still to be read.
}

/// The largest answer of whoever decides about credentials, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Asks whoever decides about credentials, over kept connections that all workers share.
#[derive(Clone, Debug)]
pub struct AskAuthority {
    client: Arc<Client>,
    endpoint: Endpoint,
}

impl AskAuthority {
    /// At this address.
    pub fn new(policy: &Name, address: &Arc<str>, tls: Option<ClientTls>, connector: Connector) -> Self {
        let pools = Arc::new(Pools::new(Protocol::H1, tls, &Arc::default()));
        let keep_alive = KeepAlive { max_idle: 64, timeout: Duration::from_secs(50), max_lifetime: None };
        let long = Duration::from_hours(1); // The layer has a timeout of its own over the whole question.
        let timeouts = UpstreamTimeouts {
            connect: long,
            response_headers: long,
            per_try: None,
            idle: None,
            tunnel_idle: None,
        };
        // The layer has a bound of its own on questions.
        let connections = Connections { max: usize::MAX, pending: 0, streams: 1 };
        let client = Client {
            name: Arc::clone(policy),
            pools,
            timeouts,
            keep_alive,
            connections,
            all_connections: usize::MAX,
            connector,
            deadlines: Deadlines::default(),
            propagators: [].into(),
            metrics: Arc::default(),
        };
        let endpoint = BalanceLayer::new([&**address]).endpoints()[0].clone();
        Self { client: Arc::new(client), endpoint }
    }
}

impl Service<Request<()>> for AskAuthority {
    type Response = Response<Bytes>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, question: Request<()>) -> Self::Future {
        let Self { client, endpoint } = self.clone();
        Box::pin(async move {
            let mut question = question.map(|()| Body::Empty);
            question.extensions_mut().insert(endpoint);
            let (head, body) = client.exchange(&mut question.into()).await.into_parts();
            if let Some(rejection) = head.extensions.get::<Rejection>() {
                return Err(rejection.reason.word().into());
            }
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        })
    }
}

/// `max-age` of a `Cache-Control` that lets anybody keep the answer (RFC 9111 §5.2.2).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|line| line.to_str().ok());
    let mut directives = lines.flat_map(|line| line.split(',')).map(str::trim);
    directives.find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        let seconds = value.trim_matches('"').parse().ok()?;
        name.eq_ignore_ascii_case("max-age").then_some(Duration::from_secs(seconds))
    })
}
