//! What the layers make of the leaf's body, for each of the stacks.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use naka::{
    BoxError, balance::InFlight, bulkhead::Permit, cache::CacheBody, circuit_breaker::Pass,
    fallback::FallbackBody, guard::Guarded, idempotency::IdempotencyBody, split::OfArm, timeout::TimeoutBody,
};
use pin_project_lite::pin_project;

use crate::{
    custom::CustomBody,
    observe::{ArmMetrics, PolicyMetrics},
    upstream::Body,
};

/// What the guards behind a choice make of the leaf's body.
pub type ArmBody =
    Guarded<Guarded<Guarded<Guarded<Body, InFlight>, Permit>, OfArm<ArmMetrics>>, Pass<Arc<PolicyMetrics>>>;

/// Of the stack of all layers.
pub(super) type AllBody =
    TimeoutBody<CustomBody<CustomBody<IdempotencyBody<FallbackBody<CacheBody<Guarded<ArmBody, Permit>>>>>>>;

/// Of the stack of the usual ones.
pub(super) type UsualBody =
    TimeoutBody<Guarded<Guarded<Guarded<Guarded<Body, InFlight>, Permit>, Pass<Arc<PolicyMetrics>>>, Permit>>;

/// Of the stack of those that every route has.
pub(super) type PlainBody = TimeoutBody<Guarded<Body, InFlight>>;

pin_project! {
    /// The body of a route's response. What more layers have made is in a box: it is moved a few times on its way to the client.
    #[project = Projection]
    #[derive(Debug)]
    pub enum RouteBody {
        #[doc(hidden)]
        Plain { #[pin] body: PlainBody },
        #[doc(hidden)]
        Usual { body: Pin<Box<UsualBody>> },
        #[doc(hidden)]
        All { body: Pin<Box<AllBody>> },
    }
}

impl From<PlainBody> for RouteBody {
    fn from(body: PlainBody) -> Self {
        Self::Plain { body }
    }
}

impl From<UsualBody> for RouteBody {
    fn from(body: UsualBody) -> Self {
        Self::Usual { body: Box::pin(body) }
    }
}

impl From<AllBody> for RouteBody {
    fn from(body: AllBody) -> Self {
        Self::All { body: Box::pin(body) }
    }
}

impl From<Bytes> for RouteBody {
    fn from(bytes: Bytes) -> Self {
        PlainBody::from(bytes).into()
    }
}

impl Default for RouteBody {
    fn default() -> Self {
        PlainBody::default().into()
    }
}

impl HttpBody for RouteBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            Projection::Plain { body } => body.poll_frame(cx),
            Projection::Usual { body } => body.as_mut().poll_frame(cx),
            Projection::All { body } => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain { body } => body.is_end_stream(),
            Self::Usual { body } => body.is_end_stream(),
            Self::All { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain { body } => body.size_hint(),
            Self::Usual { body } => body.size_hint(),
            Self::All { body } => body.size_hint(),
        }
    }
}
