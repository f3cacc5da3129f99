//! What the bytes of a client come to, frame by frame. Knows no clock and no runtime.

use std::time::Duration;

use super::{
    NO_SETTINGS, Why,
    floods::Floods,
    scan::{Scan, flag, kind},
};

/// The direction from the client.
#[derive(Debug)]
pub(super) struct Received {
    scan: Scan,
    has_settings: bool,
    last_stream: u32,
}

impl Received {
    /// Nothing has come, and a preface of so many bytes comes first.
    pub(super) const fn behind(preface: usize) -> Self {
        Self { scan: Scan::behind(preface), has_settings: false, last_stream: 0 }
    }

    /// Takes what comes next, so long after the connection began. Says whether a frame is among it, and the first thing that is wrong.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        floods: &mut Floods,
        since: Duration,
    ) -> (bool, Result<(), Why>) {
        let (mut wrong, mut has_begun) = (None, false);
        let Self { scan, has_settings, last_stream } = self;
        scan.feed(bytes, |frame| {
            let is_settings = frame.kind == kind::SETTINGS && frame.flags & flag::ACK == 0;
            if !is_settings && !*has_settings {
                wrong = wrong.or(Some(NO_SETTINGS));
            }
            *has_settings = true;
            has_begun = true;
            if frame.kind == kind::HEADERS {
                *last_stream = frame.stream.max(*last_stream);
            }
            if let Err(flood) = floods.received(frame, since) {
                wrong = wrong.or(Some(flood.into()));
            }
        });
        (has_begun, wrong.map_or(Ok(()), Err))
    }

    /// The greatest stream the client has opened.
    pub(super) const fn last_stream(&self) -> u32 {
        self.last_stream
    }

    /// Whether the client owes the rest of something that has to come as a whole.
    pub(super) const fn is_owed(&self) -> bool {
        self.scan.is_in_head() || !self.has_settings
    }

    /// Whether a block of fields has begun, and its last frame has not.
    pub(super) const fn is_in_block(&self) -> bool {
        self.scan.is_in_block()
    }
}

/// What is passed on of the bytes of a client before any time has gone by.
#[cfg(fuzzing)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// So many of them.
    pub bytes: usize,
    /// The streams of all heads that begin in these.
    pub heads: Vec<u32>,
    /// With which code the connection ends, and why.
    pub wrong: Option<(u32, &'static str)>,
}

/// What is passed on of these bytes, which come behind a preface in pieces of this size.
#[cfg(fuzzing)]
pub fn passed(bytes: &[u8], size: usize) -> Passed {
    let (mut received, mut floods) = (Received::behind(0), Floods::new());
    let mut passed = Passed { bytes: 0, heads: Vec::new(), wrong: None };
    for piece in bytes.chunks(size) {
        if let (_, Err(why)) = received.feed(piece, &mut floods, Duration::ZERO) {
            passed.wrong = Some((why.code, why.says));
            break;
        }
        passed.bytes += piece.len();
    }
    let mut scan = Scan::behind(0);
    scan.feed(&bytes[..passed.bytes], |frame| {
        if frame.kind == kind::HEADERS {
            passed.heads.push(frame.stream);
        }
    });
    passed
}
