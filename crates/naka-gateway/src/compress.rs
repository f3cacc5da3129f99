//! Smaller responses (RFC 9110 §8.4), by tower-http, for clients that say they understand it.
//!
//! What has a coding already, what is smaller than was said, images, gRPC and event streams stay as they are. A
//! strong `ETag` becomes weak: the bytes are others. A page that mixes secrets with what strangers can choose
//! should not be compressed: its length tells (BREACH).

use std::{convert::Infallible, fmt};

use http::{
    HeaderValue, Request, Response,
    header::{CONTENT_ENCODING, ETAG},
};
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

    /// What `answer` makes of a request, smaller.
    pub async fn around<Fut>(
        &self,
        request: Request<Body>,
        answer: impl Fn(Request<Body>) -> Fut,
    ) -> Response<Body>
    where
        Fut: Future<Output = Response<Body>>,
    {
        let Ok::<_, Infallible>(response) = self.0.layer(Leaf(answer)).call(request).await;
        let mut response = response.map(Body::boxed);
        if response.headers().contains_key(CONTENT_ENCODING)
            && let Some(weak) = response.headers().get(ETAG).and_then(weakened)
        {
            response.headers_mut().insert(ETAG, weak);
        }
        response
    }
}

/// `W/"x"` of `"x"`; nothing of what is weak.
fn weakened(etag: &HeaderValue) -> Option<HeaderValue> {
    let etag = etag.to_str().ok().filter(|etag| etag.starts_with('"'))?;
    HeaderValue::try_from(format!("W/{etag}")).ok()
}
