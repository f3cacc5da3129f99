//! Renders rejections as problem details (RFC 9457). Put it outermost.
//!
//! # Decision
//! A response that carries a [`Rejection`] in its extensions gets the header `naka-reason`, and a
//! body of type `application/problem+json`:
//!
//! ```json
//! {"type":"about:blank","title":"Too Many Requests","status":429,"reason":"rate_limited",
//!  "detail":"The allowance is spent; try again after `Retry-After`.","policy":"per-ip","retry_after_ms":5999}
//! ```
//!
//! If the request is of a trace ([`trace`](crate::trace)), its number stands there, too, as `trace_id`.
//!
//! To a request of gRPC (`application/grpc`) that is not an answer: it gets the status 200, and `grpc-status` and `grpc-message` among the
//! headers of a response without a body ("Trailers-Only"). The reason's word is in `naka-reason` there, too.
//!
//! One whose body is somebody else's answer ([`Rejection::is_rendered`]) only gets the header. Every other
//! response passes as it is. An application that has its own way of saying no gives it
//! to [`ProblemLayer::rendered_by`].
//!
//! # Units and limits
//! One allocation for each rendered response; its size is that of the policy's name plus a few
//! hundred bytes.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics.
//!
//! # Example
//! ```
//! # use http::{Request, Response};
//! # use http_body_util::{BodyExt, Full};
//! # use tower::{Layer, ServiceExt};
//! use naka::{problem::ProblemLayer, reject::{Reason, Rejection}};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let refuses = tower::service_fn(|_: Request<()>| async {
//!     Ok::<Response<Full<bytes::Bytes>>, ()>(Rejection::new(Reason::NoEndpoint).into_response())
//! });
//! let response = ProblemLayer::new().layer(refuses).oneshot(Request::new(())).await.unwrap();
//! assert_eq!(response.headers()["naka-reason"], "no_endpoint");
//! let body = response.into_body().collect().await.unwrap().to_bytes();
//! assert!(body.starts_with(br#"{"type":"about:blank","title":"Service Unavailable","status":503,"#));
//! # }
//! ```

use std::{
    fmt::{self, Write as _},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    request::Parts,
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    classify::is_grpc,
    clock::Now,
    explain::{Explain, Finding},
    reject::Rejection,
    trace::TraceId,
};

mod grpc;

/// The header with the reason's word.
pub const REASON: HeaderName = HeaderName::from_static("naka-reason");

type Render = dyn Fn(&Rejection) -> (HeaderValue, Bytes) + Send + Sync;

/// Applies [`Problem`]; see the [module docs](self) for an example.
#[derive(Clone, Default)]
#[must_use]
pub struct ProblemLayer {
    render: Option<Arc<Render>>,
}

impl ProblemLayer {
    /// Renders problem details.
    pub fn new() -> Self {
        Self::default()
    }

    /// Renders what `render` makes of a rejection: a content type and a body.
    pub fn rendered_by(render: impl Fn(&Rejection) -> (HeaderValue, Bytes) + Send + Sync + 'static) -> Self {
        Self { render: Some(Arc::new(render)) }
    }
}

impl fmt::Debug for ProblemLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProblemLayer").field("is_custom", &self.render.is_some()).finish()
    }
}

impl<S> Layer<S> for ProblemLayer {
    type Service = Problem<S>;

    fn layer(&self, inner: S) -> Problem<S> {
        Problem { inner, layer: self.clone() }
    }
}

impl Explain for ProblemLayer {
    fn kind(&self) -> &'static str {
        "problem"
    }

    fn explain(&self, _: Now, _: &mut Parts) -> Finding {
        Finding::Passes
    }
}

/// Renders rejections; see the [module docs](self).
#[derive(Clone, Debug)]
pub struct Problem<S> {
    inner: S,
    layer: ProblemLayer,
}

impl<S, B, R> Service<Request<B>> for Problem<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: From<Bytes>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ProblemFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_grpc = is_grpc(request.headers());
        let trace = TraceId::of(request.extensions());
        ProblemFuture { trace, future: self.inner.call(request), layer: self.layer.clone(), is_grpc }
    }
}

pin_project! {
    /// The future of [`Problem`].
    #[derive(Debug)]
    pub struct ProblemFuture<F> {
        #[pin]
        future: F,
        layer: ProblemLayer,
        is_grpc: bool,
        trace: Option<TraceId>,
    }
}

impl<F, R, E> Future for ProblemFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: From<Bytes>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?;
        if let Some(rejection) = response.extensions().get::<Rejection>() {
            let rejection = rejection.clone();
            if *this.is_grpc {
                grpc::fill(&mut response, &rejection);
                name(&mut response, &rejection);
                return Poll::Ready(Ok(response));
            }
            if rejection.is_rendered {
                name(&mut response, &rejection);
                return Poll::Ready(Ok(response));
            }
            let rendered = match &this.layer.render {
                Some(render) => render(&rejection),
                None => (HeaderValue::from_static(PROBLEM_JSON), render_traced(&rejection, *this.trace)),
            };
            fill(&mut response, &rejection, rendered);
        }
        Poll::Ready(Ok(response))
    }
}

/// The whole response to a rejection, for code that refuses outside any layer.
pub fn respond<R: Default + From<Bytes>>(rejection: &Rejection) -> Response<R> {
    respond_traced(rejection, None)
}

/// The same, to a request of this trace.
pub fn respond_traced<R: Default + From<Bytes>>(
    rejection: &Rejection,
    trace: Option<TraceId>,
) -> Response<R> {
    let mut response = rejection.clone().into_response();
    let rendered = (HeaderValue::from_static(PROBLEM_JSON), render_traced(rejection, trace));
    fill(&mut response, rejection, rendered);
    response
}

/// The same to a request of gRPC.
pub fn respond_grpc<R: Default + From<Bytes>>(rejection: &Rejection) -> Response<R> {
    let mut response = rejection.clone().into_response();
    grpc::fill(&mut response, rejection);
    name(&mut response, rejection);
    response
}

fn fill<R: From<Bytes>>(
    response: &mut Response<R>,
    rejection: &Rejection,
    (content_type, body): (HeaderValue, Bytes),
) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    name(response, rejection);
    *response.body_mut() = R::from(body);
}

fn name<R>(response: &mut Response<R>, rejection: &Rejection) {
    if let Ok(word) = HeaderValue::from_str(rejection.reason.word()) {
        response.headers_mut().insert(REASON, word);
    }
}

const PROBLEM_JSON: &str = "application/problem+json";

/// The problem details of a rejection.
pub fn render(rejection: &Rejection) -> Bytes {
    render_traced(rejection, None)
}

/// The same, with the trace by which whoever runs the service finds what was done.
pub fn render_traced(rejection: &Rejection, trace: Option<TraceId>) -> Bytes {
    let Rejection { reason, retry_after, policy, call, detail, .. } = rejection;
    let status = reason.status();
    let mut json = format!(
        r#"{{"type":"about:blank","title":"{}","status":{},"reason":"{}","detail":"{}""#,
        status.canonical_reason().unwrap_or("Refused"),
        status.as_u16(),
        Escaped(reason.word()),
        Escaped(detail.as_deref().unwrap_or(reason.sentence())),
    );
    if let Some(policy) = policy {
        let _ = write!(json, r#","policy":"{}""#, Escaped(policy)); // A String takes every write.
    }
    if let Some(call) = call {
        let _ = write!(json, r#","call":"{}""#, Escaped(call));
    }
    if let Some(wait) = retry_after {
        let _ = write!(json, r#","retry_after_ms":{}"#, wait.as_millis());
    }
    if let Some(trace) = trace {
        let _ = write!(json, r#","trace_id":"{trace}""#);
    }
    json.push('}');
    Bytes::from(json)
}

/// Text as the inside of a JSON string.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '"' | '\\' => write!(f, "\\{c}"),
            c if c < ' ' => write!(f, "\\u{:04x}", u32::from(c)),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reject::Reason;

    #[test]
    fn a_name_with_quotes_stays_inside_its_string() {
        let rejection = Rejection::new(Reason::RateLimited).by(Some("a\"b\\c\n".into()));
        let json = render(&rejection);
        assert!(std::str::from_utf8(&json).unwrap().ends_with(r#""policy":"a\"b\\c\u000a"}"#));
    }
}
