//! The body of a response, which has its connection until it ends.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{Failed, pool::Lease};

/// The body of a response. With its last byte the connection is free for the next request; dropped before that, it is closed.
#[derive(Debug)]
pub struct Download {
    lease: Option<Lease>,
}

impl Download {
    pub(super) const fn new(lease: Lease) -> Self {
        Self { lease: Some(lease) }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Failed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        let frame = ready!(lease.connection().poll_frame(cx));
        let is_over = lease.connection().is_over();
        if matches!(frame, Some(Err(_))) {
            self.lease = None;
        } else if let Some(lease) = self.lease.take_if(|_| is_over) {
            lease.give_back();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.lease.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.lease.as_ref().map_or_else(|| SizeHint::with_exact(0), Lease::size_hint)
    }
}
