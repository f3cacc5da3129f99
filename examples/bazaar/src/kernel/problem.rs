//! Answers that say what is wrong: problem details (RFC 9457), for programs and for people.

use std::{borrow::Cow, fmt};

use axum::{
    Json,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{console::complain, store::StoreError};

/// What is wrong with a request, as `application/problem+json`.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    reason: &'static str,
    detail: Cow<'static, str>,
    more: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A status, a word for programs, and a sentence for people.
    pub fn new(status: StatusCode, reason: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason, detail: detail.into(), more: Map::new(), headers: Vec::new() }
    }

    /// Adds a member of its own.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }

    /// Says after how many seconds it may be asked again (RFC 9110, section 10.2.3).
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.headers.push((RETRY_AFTER, seconds.into()));
        self
    }

    /// Says how to say who one is (RFC 9110, section 11.6.1).
    #[must_use]
    pub fn www_authenticate(mut self, challenge: &'static str) -> Self {
        self.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static(challenge)));
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

/// 503: what is wrong inside is for our log, and not for clients.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if !matches!(error, StoreError::Crashed) {
            complain(&error);
        }
        let detail =
            "the records of this service cannot be read or written now; the same request may be sent again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_failed", detail).retry_after(1)
    }
}

/// In the order in which people read.
#[derive(Serialize)]
struct Body {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    reason: &'static str,
    detail: Cow<'static, str>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, reason, detail, more, headers } = self;
        let title = status.canonical_reason().unwrap_or("Error");
        let body = Body { r#type: "about:blank", title, status: status.as_u16(), reason, detail, more };
        let content_type = HeaderValue::from_static("application/problem+json");
        let mut response = (status, Json(body)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response.headers_mut().extend(headers);
        response
    }
}
