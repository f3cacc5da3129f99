//! How many frames that lead to nothing a client may send, and how many streams it may have come to nothing.
//!
//! # Algorithm
//! Two allowances (token buckets), each spent by what is abuse where there is much of it, and given back by time and by work that was
//! done: so a ratio is bounded, and not only a rate.
//!
//! - *Frames*: `SETTINGS`, `PING`, `PRIORITY`, `WINDOW_UPDATE`, `GOAWAY`, `CONTINUATION`, frames of unknown kinds, and `DATA` with nothing in it that does
//!   not end its stream. [`FRAMES`] at once, [`FRAMES_A_SECOND`] back, [`FOR_WORK`] for each request and each `DATA` of [`SMALL`] bytes or more, and one for each
//!   that has less, of either side: whoever takes a long response sends many `WINDOW_UPDATE`s, and gRPC a `PING` with them.
//! - *Resets*: streams the client resets (CVE-2023-44487), and those it makes us reset by what breaks the protocol, or by more of them than
//!   there may be (CVE-2025-8671). [`RESETS`] at once, [`RESETS_A_SECOND`] back, and one for each response that we end: however fast
//!   somebody asks and takes it back, it is no more often than somebody else is answered.
//!
//! # Units and limits
//! Frames, streams, and seconds since the connection began. The state is four words.

use std::time::Duration;

use super::scan::{Frame, flag, kind};

/// Frames that lead to nothing, at once.
pub(super) const FRAMES: u32 = 1000;
/// As many of them are given back in a second.
pub(super) const FRAMES_A_SECOND: u32 = 20;
/// And so many for each request, and for each `DATA` that is worth its frame.
pub(super) const FOR_WORK: u32 = 10;
/// Bytes of `DATA` from which it is.
pub(super) const SMALL: u32 = 256;
/// Streams that come to nothing, at once: twice as many as there may be at a time.
pub(super) const RESETS: u32 = 2 * crate::streams::STREAMS;
/// As many of them are given back in a second.
pub(super) const RESETS_A_SECOND: u32 = 8;

/// Error codes (RFC 9113 §7) with which we reset a stream for what its client did: `PROTOCOL_ERROR`, `FLOW_CONTROL_ERROR`,
/// `STREAM_CLOSED`, `FRAME_SIZE_ERROR`, `REFUSED_STREAM`. With any other it is the endpoint's doing, or our own.
const OF_THE_CLIENT: [u32; 5] = [1, 3, 5, 6, 7];

/// Which allowance is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    Frames,
    Resets,
}

/// What a client may still do.
#[derive(Debug)]
pub(super) struct Floods {
    frames: Allowance,
    resets: Allowance,
}

impl Floods {
    pub(super) const fn new() -> Self {
        Self {
            frames: Allowance {
                left: FRAMES,
                most: FRAMES,
                a_second: FRAMES_A_SECOND,
                until: Duration::ZERO,
            },
            resets: Allowance {
                left: RESETS,
                most: RESETS,
                a_second: RESETS_A_SECOND,
                until: Duration::ZERO,
            },
        }
    }

    /// A frame of the client.
    pub(super) fn received(&mut self, frame: &Frame, now: Duration) -> Result<(), Flood> {
        match frame.kind {
            kind::HEADERS => self.frames.give(FOR_WORK),
            kind::DATA if frame.length > 0 => self.frames.give(worth(frame)),
            kind::DATA if frame.flags & flag::END_STREAM > 0 => {}
            kind::RST_STREAM => return self.resets.spend(now).ok_or(Flood::Resets),
            _ => return self.frames.spend(now).ok_or(Flood::Frames),
        }
        Ok(())
    }

    /// A frame of ours.
    pub(super) fn sent(&mut self, frame: &Frame, now: Duration) -> Result<(), Flood> {
        if matches!(frame.kind, kind::DATA | kind::HEADERS) && frame.flags & flag::END_STREAM > 0 {
            self.resets.give(1);
        }
        match frame.kind {
            kind::DATA if frame.length > 0 => self.frames.give(worth(frame)),
            kind::RST_STREAM if frame.code.is_some_and(|code| OF_THE_CLIENT.contains(&code)) => {
                return self.resets.spend(now).ok_or(Flood::Resets);
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a frame with a part of a body gives back.
const fn worth(frame: &Frame) -> u32 {
    if frame.length < SMALL { 1 } else { FOR_WORK }
}

/// Something of which there is so much, and which comes back.
#[derive(Debug)]
struct Allowance {
    left: u32,
    most: u32,
    a_second: u32,
    /// Until when what time gives back was given.
    until: Duration,
}

impl Allowance {
    fn give(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.most);
    }

    /// One of it, if there is one.
    fn spend(&mut self, now: Duration) -> Option<()> {
        let each = Duration::from_secs(1) / self.a_second;
        let back = now.saturating_sub(self.until).as_nanos() / each.as_nanos();
        if back >= u128::from(self.most - self.left) {
            (self.left, self.until) = (self.most, now);
        } else {
            let back = u32::try_from(back).unwrap_or(u32::MAX); // Less than `most`.
            self.left += back;
            self.until += each * back;
        }
        self.left = self.left.checked_sub(1)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn frame(kind: u8, length: u32, flags: u8) -> Frame {
        Frame { length, kind, flags, stream: 1, code: None }
    }

    const PING: Frame = frame(6, 8, 0);
    const RESET: Frame = frame(kind::RST_STREAM, 4, 0);

    #[test]
    fn frames_that_lead_to_nothing_are_bounded_and_come_back_with_time_and_work() {
        let (mut floods, now) = (Floods::new(), Duration::from_secs(5));
        for _ in 0..FRAMES {
            assert_eq!(floods.received(&PING, now), Ok(()));
        }
        assert_eq!(floods.received(&PING, now), Err(Flood::Frames));
        for _ in 0..FRAMES_A_SECOND {
            assert_eq!(floods.received(&PING, now + Duration::from_secs(1)), Ok(()));
        }
        assert_eq!(floods.received(&PING, now + Duration::from_secs(1)), Err(Flood::Frames));
        assert_eq!(floods.received(&frame(kind::HEADERS, 20, 5), now), Ok(()));
        for _ in 0..FOR_WORK {
            assert_eq!(floods.received(&frame(kind::DATA, 0, 0), now), Ok(()));
        }
        assert_eq!(floods.received(&frame(kind::DATA, 0, 0), now), Err(Flood::Frames));
        assert_eq!(
            floods.received(&frame(kind::DATA, 0, flag::END_STREAM), now),
            Ok(()),
            "the end of a body"
        );
    }

    /// A download of any length may be acknowledged frame by frame, twice each.
    #[test]
    fn whoever_takes_a_response_may_say_so() {
        let (mut floods, now) = (Floods::new(), Duration::ZERO);
        for _ in 0..100_000 {
            floods.sent(&frame(kind::DATA, 16_384, 0), now).unwrap();
            for _ in 0..3 {
                assert_eq!(floods.received(&frame(8, 4, 0), now), Ok(()));
            }
        }
    }

    #[test]
    fn resets_are_bounded_whoever_sends_them_and_come_back_with_answers() {
        let (mut floods, now) = (Floods::new(), Duration::ZERO);
        for _ in 0..RESETS / 2 {
            assert_eq!(floods.received(&RESET, now), Ok(()));
            assert_eq!(floods.sent(&Frame { code: Some(5), ..RESET }, now), Ok(()));
            assert_eq!(floods.sent(&Frame { code: Some(2), ..RESET }, now), Ok(()), "an endpoint's doing");
        }
        assert_eq!(floods.received(&RESET, now), Err(Flood::Resets));
        assert_eq!(floods.sent(&frame(kind::DATA, 0, flag::END_STREAM), now), Ok(()));
        assert_eq!(floods.received(&RESET, now), Ok(()));
        assert_eq!(floods.received(&RESET, now), Err(Flood::Resets));
        // Half of all requests may be taken back for ever.
        for _ in 0..10_000 {
            floods.sent(&frame(kind::HEADERS, 9, flag::END_STREAM), now).unwrap();
            assert_eq!(floods.received(&RESET, now), Ok(()));
        }
    }
}
