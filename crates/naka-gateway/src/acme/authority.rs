//! How an authority is asked: each time over a connection of its own, as the gateway's other errands go.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri,
    header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT},
};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use naka::{
    BoxError,
    clock::{Now, WallClock},
};
use tokio::time::timeout;

use crate::{
    control::{WHO, over},
    tls::ClientTls,
    upstream::Connector,
};

/// How long one answer may take, from looking for the authority to the last byte.
const ANSWER: Duration = Duration::from_secs(30);
/// The largest answer, in bytes: a chain of certificates has some ten thousand.
const MAX_ANSWER: usize = 256 << 10;

/// One authority, for one order. Clones know the same of it.
#[derive(Clone)]
pub(super) struct Authority {
    connector: Connector,
    tls: ClientTls,
    clock: WallClock,
    /// The pause that its last answer has asked for.
    asked: Arc<Mutex<Option<Duration>>>,
}

impl Authority {
    pub(super) fn new(connector: Connector, tls: ClientTls, clock: WallClock) -> Self {
        Self { connector, tls, clock, asked: Arc::default() }
    }

    /// The pause that its last answer has asked for (RFC 9110 §10.2.3).
    pub(super) fn asked(&self) -> Option<Duration> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange(&self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Bytes>, BoxError> {
        let (mut head, body) = request.into_parts();
        let authority = head.uri.authority().ok_or("a URL of the authority has no host")?.clone();
        if head.uri.scheme_str() != Some("https") {
            return Err("a URL of the authority is not `https` (RFC 8555 §6.1)".into());
        }
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(443));
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        head.uri = target.parse::<Uri>()?;
        head.headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
        head.headers.insert(USER_AGENT, HeaderValue::from_static(WHO));
        let stream = self.connector.dial(&address.into(), Some(self.tls.clone())).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let is_head = head.method == Method::HEAD;
        let exchange = async {
            let (head, body) = sender.send_request(Request::from_parts(head, body)).await?.into_parts();
            *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = self.pause(&head.headers);
            let is_problem = head.headers.get(CONTENT_TYPE).is_some_and(is_json);
            if head.status.as_u16() >= 400 && (is_head || !is_problem) {
                return Err(format!("the answer is {}", head.status).into());
            }
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::from_parts(head, body))
        };
        over(connection, exchange).await
    }

    /// In seconds, or until a date.
    fn pause(&self, headers: &HeaderMap) -> Option<Duration> {
        let said = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = said.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(said).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(date.saturating_sub(self.clock.unix(Now::read())?))
    }
}

fn is_json(content_type: &HeaderValue) -> bool {
    let essence = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/problem+json")
        || essence.eq_ignore_ascii_case("application/json")
}

impl HttpClient for Authority {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let url = format!("{} {}", request.method(), request.uri());
            let answer = timeout(ANSWER, this.exchange(request)).await;
            let answer = answer.unwrap_or_else(|_| Err("there was no answer in 30 seconds".into()));
            let (parts, body) = answer
                .map_err(|error| Error::Other(format!("{url}: {}", super::order::chain(&*error)).into()))?
                .into_parts();
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}
