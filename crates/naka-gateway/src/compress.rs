//! Smaller responses (RFC 9110 §8.4), by tower-http, for clients that say they understand it.
//!
//! What has a coding already, what is smaller than was said, images, gRPC and event streams stay as they are. A
//! strong `ETag` becomes weak: the bytes are others. A page that mixes secrets with what strangers can choose
//! should not be compressed: its length tells (BREACH). To `HEAD` is said what would be said to `GET`, as far as
//! the upstream says how long that is.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, ETAG},
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use naka::{BoxError, reject::Rejection};
use tower_http::compression::{
    CompressionLayer,
    predicate::{And, DefaultPredicate, Predicate as _, SizeAbove},
};
use tower_layer::Layer as _;
use tower_service::Service as _;

use crate::{config::checked, stack::Leaf, upstream::Body};

/// How the responses of a route are made smaller.
#[derive(Clone)]
pub struct Compress(CompressionLayer<And<DefaultPredicate, SizeAbove>>);

impl fmt::Debug for Compress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compress")
    }
}

impl Compress {
    /// In these ways.
    pub fn new(how: checked::Compress) -> Self {
        let layer = CompressionLayer::new().br(how.br).gzip(how.gzip);
        Self(layer.compress_when(DefaultPredicate::new().and(SizeAbove::new(how.min_size))))
    }

    /// What `answer` makes of a request, smaller. If it `is_sent` on, nobody here has the body that a `HEAD` is
    /// about.
    pub async fn around<Fut>(
        &self,
        request: Request<Body>,
        is_sent: bool,
        answer: impl Fn(Request<Body>) -> Fut,
    ) -> Response<Body>
    where
        Fut: Future<Output = Response<Body>>,
    {
        let is_promised = is_sent && request.method() == Method::HEAD;
        let answer = |request| {
            let answered = answer(request);
            async move { if is_promised { promised(answered.await) } else { answered.await } }
        };
        let Ok::<_, Infallible>(response) = self.0.layer(Leaf(answer)).call(request).await;
        let mut response =
            if is_promised { response.map(|_| Body::Empty) } else { response.map(Body::boxed) };
        if response.headers().contains_key(CONTENT_ENCODING)
            && let Some(weak) = response.headers().get(ETAG).and_then(weakened)
        {
            response.headers_mut().insert(ETAG, weak);
        }
        response
    }
}

/// With a body that is as long as that of a `GET` would be. It is asked for its length, and for nothing else.
fn promised(response: Response<Body>) -> Response<Body> {
    let has_none = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&response.status());
    if has_none || response.extensions().get::<Rejection>().is_some() {
        return response; // What the gateway refuses has its body later, and that says how long it is.
    }
    let len = response.headers().get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
    response.map(|_| Body::boxed(Promised(len)))
}

/// A body that is somewhere else; its length, if that is known.
struct Promised(Option<u64>);

impl HttpBody for Promised {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// `W/"x"` of `"x"`; nothing of what is weak.
fn weakened(etag: &HeaderValue) -> Option<HeaderValue> {
    let etag = etag.to_str().ok().filter(|etag| etag.starts_with('"'))?;
    HeaderValue::try_from(format!("W/{etag}")).ok()
}
