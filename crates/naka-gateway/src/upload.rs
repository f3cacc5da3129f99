//! How far the body of a request has got on its way to an upstream: told by who reads it, looked at by who waits for the answer.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    task::Poll,
};

use http_body::Frame;
use tokio::sync::Notify;

/// How far the body of a request has got on its way to the upstream.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    /// How often some of it went on.
    moves: AtomicU64,
    waits_for_client: AtomicBool,
    /// A piece was taken and is not sent yet.
    is_held: AtomicBool,
    /// Nothing more comes.
    is_over: AtomicBool,
    /// Nothing more comes, and nothing is missing.
    is_whole: AtomicBool,
    over: Notify,
}

impl Upload {
    pub(crate) fn moves(&self) -> u64 {
        self.moves.load(Relaxed)
    }

    /// Some of it went on.
    pub(crate) fn moved(&self) {
        self.moves.fetch_add(1, Relaxed);
    }

    /// Whether the last thing asked for was more from the client.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.waits_for_client.load(Relaxed)
    }

    /// Whether a piece that was taken is not sent yet.
    pub(crate) fn holds(&self, is_held: bool) {
        self.is_held.store(is_held, Release);
        if !is_held {
            self.over.notify_one();
        }
    }

    /// Whether nothing more is to be sent.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Acquire) && !self.is_held.load(Acquire)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole.load(Acquire)
    }

    /// Ready when nothing more is to be sent.
    pub(crate) async fn over(&self) {
        while !self.is_over() {
            self.over.notified().await; // What was notified before counts.
        }
    }

    pub(crate) fn record<T, E>(&self, frame: &Poll<Option<Result<Frame<T>, E>>>, is_at_end: bool) {
        self.waits_for_client.store(frame.is_pending(), Relaxed);
        if frame.is_pending() {
            return;
        }
        self.moved();
        if is_at_end || is_end(frame) {
            self.is_whole.store(true, Release);
            self.finish();
        }
    }

    /// Nothing more comes; says whether it was all.
    pub(crate) fn finish(&self) -> bool {
        self.is_over.store(true, Release);
        self.over.notify_one();
        self.is_whole()
    }
}

/// Whether nothing comes after it: the end itself, or trailers.
pub(crate) fn is_end<T, E>(frame: &Poll<Option<Result<Frame<T>, E>>>) -> bool {
    match frame {
        Poll::Pending | Poll::Ready(Some(Err(_))) => false,
        Poll::Ready(None) => true,
        Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
    }
}
