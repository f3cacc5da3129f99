//! Another service, asked over HTTP.
//!
//! # Bounds
//! Each question takes at most [`PATIENCE`] (or what was said instead), its answer at most [`ANSWER_LIMIT`] bytes. A connection
//! that is idle is kept for a few seconds; one that turns out to be closed is replaced, if nothing
//! was sent on it yet. Nothing else is tried twice here: who asks knows whether it may.
//!
//! In a rehearsal a service is asked [in this process](Place), without a network that could be waited for.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{
        HeaderValue, Method, Request, Response, StatusCode,
        header::{CONTENT_TYPE, HOST},
    },
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use naka::{clock::Now, guard::End, reject::Reason};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::timeout;
use tower_service::Service as _;

use super::{console::complain, problem::Problem, trace};

/// How long a question may take, from the connection to the last byte of the answer.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The longest answer that is read, in bytes.
pub const ANSWER_LIMIT: usize = 64 * 1024;

/// How long an idle connection is kept: shorter than a service keeps it.
const IDLE: Duration = Duration::from_secs(10);

/// Where a service is asked: an address, such as `127.0.0.1:8105`; or `payment@127.0.0.1:19105`, if somebody stands there who knows by
/// that name, said as the host, whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    host: Option<HeaderValue>,
    address: SocketAddr,
}

impl From<SocketAddr> for At {
    fn from(address: SocketAddr) -> Self {
        Self { host: None, address }
    }
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, address) = match text.split_once('@') {
            Some((host, address)) => (Some(host), address),
            None => (None, text),
        };
        let host = host.map(|host| {
            let is_name =
                |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-');
            let host = Some(host).filter(|it| is_name(it)).and_then(|it| HeaderValue::from_str(it).ok());
            host.ok_or_else(|| format!("{text:?} begins with no name of letters, digits and `-`"))
        });
        let address =
            address.parse().map_err(|_| format!("{address:?} is no address such as 127.0.0.1:8105"))?;
        Ok(Self { host: host.transpose()?, address })
    }
}

/// Another service. A clone shares its connections.
#[derive(Clone)]
pub struct Peer {
    name: &'static str,
    at: At,
    patience: Duration,
    way: Way,
}

#[derive(Clone)]
enum Way {
    Network(Client<HttpConnector, Full<Bytes>>),
    Here(Place),
}

/// Where a service stands in this process. A clone is the same place.
#[derive(Clone, Default)]
pub struct Place(Arc<Mutex<Standing>>);

#[derive(Default)]
struct Standing {
    service: Option<Router>,
    /// Asked for each question: what becomes of it on its way.
    mishap: Option<Box<dyn FnMut() -> Mishap + Send>>,
}

/// What may become of a question in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// Nothing: it arrives, and so does its answer.
    None,
    /// It is lost on its way.
    LostBefore,
    /// It arrives, and its answer is lost.
    LostAfter,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

impl Place {
    fn standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This service stands here now, or nobody.
    pub fn put(&self, service: Option<Router>) {
        self.standing().service = service;
    }

    /// What becomes of each question from now on.
    pub fn mishaps(&self, mishap: impl FnMut() -> Mishap + Send + 'static) {
        self.standing().mishap = Some(Box::new(mishap));
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Response<Body>, String> {
        let (service, mishap) = {
            let mut standing = self.standing();
            let mishap = standing.mishap.as_mut().map_or(Mishap::None, |mishap| mishap());
            (standing.service.clone(), mishap)
        };
        let mut service = service.ok_or("nobody is there")?;
        if mishap == Mishap::LostBefore {
            return Err("the question was lost".to_owned());
        }
        let Ok(answer) = service.call(request.map(Body::new)).await;
        if mishap == Mishap::LostAfter {
            return Err("the answer was lost".to_owned());
        }
        Ok(answer)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("name", &self.name).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Peer {
    /// The service of that name, which listens there.
    pub fn new(name: &'static str, at: impl Into<At>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self { name, at: at.into(), patience: PATIENCE, way: Way::Network(client) }
    }

    /// The service of that name, which stands in this process.
    pub fn here(name: &'static str, place: Place) -> Self {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into();
        Self { name, at, patience: PATIENCE, way: Way::Here(place) }
    }

    /// Waits longer, or shorter, than [`PATIENCE`].
    #[must_use]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Asks, and reads the answer, whatever its status is.
    ///
    /// # Errors
    /// If there is no whole answer in time.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Answer, Unavailable> {
        self.ask_as(method, path, &[], body).await
    }

    /// Asks, and says more of who asks and for what, in headers.
    ///
    /// # Errors
    /// Those of [`ask`](Self::ask).
    pub async fn ask_as(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Answer, Unavailable> {
        let unavailable = |why: String| Unavailable { name: self.name, why };
        let bytes = body.map(serde_json::to_vec).transpose().map_err(|it| unavailable(it.to_string()))?;
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.at.address))
            .header(CONTENT_TYPE, "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request
            .body(Full::from(bytes.unwrap_or_default()))
            .map_err(|error| unavailable(error.to_string()))?;
        let (head, body) = self.exchange(request).await?.into_parts();
        Ok(Answer { status: head.status, body })
    }

    /// Sends a request as it is, and reads the answer, whatever its status is.
    ///
    /// # Errors
    /// If there is no whole answer in time.
    pub async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Unavailable> {
        let mut request = request;
        if let Some(host) = &self.at.host {
            request.headers_mut().insert(HOST, host.clone());
        }
        let attempt = trace::ask(self.name, self.at.address, &mut request);
        let exchange = async {
            let (head, body) = match &self.way {
                Way::Network(client) => {
                    client.request(request).await.map_err(|it| with_cause(&it))?.map(Body::new)
                }
                Way::Here(place) => place.ask(request).await?,
            }
            .into_parts();
            let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|it| it.to_string())?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        let unavailable = |why: String| Unavailable { name: self.name, why };
        let (answer, reason) = if let Ok(answer) = timeout(self.patience, exchange).await {
            (answer.map_err(unavailable), Reason::UpstreamReset)
        } else {
            let why = format!("no answer within {} s", self.patience.as_secs());
            (Err(unavailable(why)), Reason::ResponseTimeout)
        };
        match (&answer, attempt) {
            (Ok(answer), Some(attempt)) => {
                attempt.answered(answer.status(), Now::read());
                attempt.end(End::Complete);
            }
            (Err(_), Some(attempt)) => attempt.failed(reason, Now::read()),
            (_, None) => {}
        }
        answer
    }

    /// What an answer means that nobody expects: a mistake of ours or of theirs.
    pub fn unexpected(&self, answer: &Answer) -> Unavailable {
        Unavailable { name: self.name, why: format!("an unexpected {}", answer.status) }
    }

    /// Reads an answer as `T`.
    pub fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, Unavailable> {
        serde_json::from_slice(&answer.body)
            .map_err(|error| Unavailable { name: self.name, why: format!("an unexpected answer: {error}") })
    }
}

/// `client error (Connect)` alone says nothing.
fn with_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// All of the body.
    pub body: Bytes,
}

impl Answer {
    /// The `reason` of a problem; empty if it is none.
    pub fn reason(&self) -> &str {
        #[derive(Deserialize)]
        struct Reason<'a> {
            reason: &'a str,
        }
        serde_json::from_slice::<Reason<'_>>(&self.body).map_or("", |it| it.reason)
    }
}

/// A service that gives no answer, or none that we understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    name: &'static str,
    why: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be asked: {}", self.name, self.why)
    }
}

/// 503: what is wrong inside is for our log, and not for clients.
impl From<Unavailable> for Problem {
    fn from(it: Unavailable) -> Self {
        complain(&it);
        let detail =
            format!("the {} service does not answer now; the same request may be sent again", it.name);
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", detail)
            .with("service", it.name.into())
            .retry_after(1)
    }
}
