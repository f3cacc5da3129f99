//! Somebody who asks: JSON over HTTP, with a token, and with patience where it is asked for.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use axum::{
    body::Bytes,
    http::{
        HeaderMap, Method, Request, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
    },
};
use http_body_util::Full;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::kernel::peer::Peer;

/// How long an answer may take; an order waits for its payment for up to 40 seconds.
const PATIENCE: Duration = Duration::from_secs(50);

/// How often somebody waits who has asked too often.
const LIMITED: u32 = 3;

/// The longest of these waits.
const LIMITED_WAIT: Duration = Duration::from_mins(1);

/// How long something may take that comes about by itself.
const EVENTUALLY: Duration = Duration::from_secs(20);

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(150);

/// Somebody who asks. A clone shares its connections.
#[derive(Clone, Debug)]
pub struct Client {
    peer: Peer,
    at: SocketAddr,
    token: Option<String>,
}

/// What was answered to what.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was asked: `GET /api/orders`.
    pub asked: String,
    /// The status.
    pub status: StatusCode,
    /// The fields of the head.
    pub headers: HeaderMap,
    /// The body; null if it is no JSON.
    pub body: Value,
}

impl Client {
    /// Who asks whoever listens there.
    pub fn of(name: &'static str, at: SocketAddr) -> Self {
        Self { peer: Peer::new(name, at).patient(PATIENCE), at, token: None }
    }

    /// The same, with that token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(format!("Bearer {token}")), ..self.clone() }
    }

    /// The same, who waits no longer than that for an answer.
    #[must_use]
    pub fn patient(&self, patience: Duration) -> Self {
        Self { peer: self.peer.clone().patient(patience), ..self.clone() }
    }

    /// Asks once.
    ///
    /// # Errors
    /// If there is no whole answer.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let asked = format!("{method} {path}");
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.at))
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::from(Bytes::from(bytes))).map_err(|it| format!("{asked}: {it}"))?;
        let answer = self.peer.exchange(request).await.map_err(|it| format!("{asked}: {it}"))?;
        let (head, body) = answer.into_parts();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok(Answer { asked, status: head.status, headers: head.headers, body })
    }

    /// Reads what is no JSON.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn page(&self, path: &str) -> Result<String, String> {
        let request = Request::get(format!("http://{}{path}", self.at)).body(Full::default());
        let request = request.map_err(|error| format!("GET {path}: {error}"))?;
        let answer = self.peer.exchange(request).await.map_err(|error| format!("GET {path}: {error}"))?;
        Ok(String::from_utf8_lossy(answer.body()).into_owned())
    }

    /// Reads.
    ///
    /// # Errors
    /// If there is no answer, or it is not 200.
    pub async fn get(&self, path: &str) -> Result<Value, String> {
        self.patiently(Method::GET, path, &[], None).await?.expect(200)
    }

    /// Writes, with a key that makes it safe to send again.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post(&self, path: &str, key: &str, body: &Value) -> Result<Answer, String> {
        let headers = [("idempotency-key", key)];
        let headers = if key.is_empty() { &headers[..0] } else { &headers[..] };
        self.patiently(Method::POST, path, headers, Some(body)).await
    }

    /// Asks again, after the time that was said, if it was too often.
    async fn patiently(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        for _ in 0..LIMITED {
            let answer = self.ask(method.clone(), path, headers, body).await?;
            if answer.status != StatusCode::TOO_MANY_REQUESTS {
                return Ok(answer);
            }
            let seconds = answer.headers.get(RETRY_AFTER).and_then(|it| it.to_str().ok()?.parse().ok());
            sleep(Duration::from_secs(seconds.unwrap_or(1)).min(LIMITED_WAIT)).await;
        }
        self.ask(method, path, headers, body).await
    }

    /// Reads until what is read is as it should be.
    ///
    /// # Errors
    /// If it is not so in time, with what was read last.
    pub async fn until(
        &self,
        path: &str,
        what: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value, String> {
        let end = Instant::now() + EVENTUALLY;
        loop {
            let read = self.get(path).await;
            if let Ok(body) = &read
                && is_so(body)
            {
                return read;
            }
            if Instant::now() > end {
                let seconds = EVENTUALLY.as_secs();
                let last = read.map_or_else(|error| error, |body| body.to_string());
                return Err(format!("{path}: {what}: not within {seconds} s; last: {last}"));
            }
            sleep(PAUSE).await;
        }
    }
}

impl Answer {
    /// The body, if the status is that.
    ///
    /// # Errors
    /// If it is another.
    pub fn expect(self, status: u16) -> Result<Value, String> {
        if self.status.as_u16() == status {
            return Ok(self.body);
        }
        let Self { asked, status: is, body, .. } = self;
        let (reason, detail) = (body["reason"].as_str().unwrap_or(""), body["detail"].as_str().unwrap_or(""));
        Err(format!("{asked} should have been {status}, and was {}: {reason} {detail}", is.as_u16()))
    }
}

/// A member of an answer that is text.
///
/// # Errors
/// If it is not there.
pub fn text<'a>(answer: &'a Value, name: &str) -> Result<&'a str, String> {
    answer[name].as_str().ok_or_else(|| format!("there is no {name} in {answer}"))
}

/// Text, as it stands in a query (RFC 3986, section 2.1).
pub fn percent(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(byte.into());
        } else {
            _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
