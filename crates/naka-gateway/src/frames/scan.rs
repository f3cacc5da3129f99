//! Follows the frames of one direction of a connection by their headers (RFC 9113 §4.1). Knows no clock and no runtime.

/// Bytes of a frame's header.
const HEADER: usize = 9;

/// Kinds of frames (RFC 9113 §6).
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const GOAWAY: u8 = 7;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(super) mod flag {
    pub(in super::super) const END_STREAM: u8 = 1;
    pub(in super::super) const ACK: u8 = 1;
    pub(in super::super) const END_HEADERS: u8 = 4;
}

/// What is said of a frame before its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// Bytes of its payload.
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// Of `RST_STREAM` and `GOAWAY`: the error code.
    pub(super) code: Option<u32>,
}

/// Where a direction is. Payloads are passed over; only where an error code stands a few bytes are kept.
#[derive(Debug)]
pub(super) struct Scan {
    /// Bytes that come before the first frame.
    before: usize,
    header: [u8; HEADER],
    has: usize,
    frame: Frame,
    /// Bytes of the payload that have not come.
    left: usize,
    /// The first of those that have.
    payload: [u8; 8],
    /// A block of fields has begun, and its last frame has not.
    is_in_block: bool,
}

impl Scan {
    /// A direction whose first frame comes behind so many bytes.
    pub(super) const fn behind(before: usize) -> Self {
        let frame = Frame { length: 0, kind: 0, flags: 0, stream: 0, code: None };
        Self { before, header: [0; HEADER], has: 0, frame, left: 0, payload: [0; 8], is_in_block: false }
    }

    /// Takes what comes next, and tells each frame as soon as its header is there, or its error code.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut tell: impl FnMut(&Frame)) {
        let before = self.before.min(bytes.len());
        self.before -= before;
        bytes = &bytes[before..];
        while !bytes.is_empty() {
            if self.left == 0 {
                let count = bytes.len().min(HEADER - self.has);
                self.header[self.has..self.has + count].copy_from_slice(&bytes[..count]);
                self.has += count;
                bytes = &bytes[count..];
                if self.has == HEADER {
                    self.begin(&mut tell);
                }
            } else {
                let count = bytes.len().min(self.left);
                self.pass(&bytes[..count], &mut tell);
                bytes = &bytes[count..];
            }
        }
    }

    /// A header is there.
    fn begin(&mut self, tell: &mut impl FnMut(&Frame)) {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]);
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        self.frame = Frame { length, kind, flags, stream, code: None };
        (self.has, self.left) = (0, usize::try_from(length).unwrap_or(usize::MAX));
        if matches!(kind, kind::HEADERS | kind::CONTINUATION) {
            self.is_in_block = flags & flag::END_HEADERS == 0;
        }
        if self.code_at().is_none_or(|at| self.left < at + 4) {
            tell(&self.frame);
        }
    }

    /// Some of a payload.
    fn pass(&mut self, bytes: &[u8], tell: &mut impl FnMut(&Frame)) {
        let length = usize::try_from(self.frame.length).unwrap_or(usize::MAX);
        let at = length - self.left;
        self.left -= bytes.len();
        let Some(code_at) = self.code_at().filter(|code| length >= code + 4 && at < code + 4) else { return };
        let count = bytes.len().min(code_at + 4 - at);
        self.payload[at..at + count].copy_from_slice(&bytes[..count]);
        if at + count == code_at + 4 {
            let [.., a, b, c, d] = self.payload;
            let early =
                u32::from_be_bytes([self.payload[0], self.payload[1], self.payload[2], self.payload[3]]);
            let late = u32::from_be_bytes([a, b, c, d]);
            self.frame.code = Some(if code_at == 0 { early } else { late });
            tell(&self.frame);
        }
    }

    /// Where in the payload an error code stands.
    const fn code_at(&self) -> Option<usize> {
        match self.frame.kind {
            kind::RST_STREAM => Some(0),
            kind::GOAWAY => Some(4),
            _ => None,
        }
    }

    /// Bytes until the next place that may be one between two frames; 0 if this is one.
    pub(super) const fn until_between(&self) -> usize {
        if self.left > 0 {
            self.left
        } else if self.has > 0 {
            HEADER - self.has
        } else {
            0
        }
    }

    /// Whether a block of fields has begun, and its last frame has not.
    pub(super) const fn is_in_block(&self) -> bool {
        self.is_in_block
    }

    /// Whether something has begun that has to come as a whole: a frame, but for the payload of `DATA`, or a block of
    /// fields.
    pub(super) const fn is_in_head(&self) -> bool {
        self.is_in_block || self.has > 0 || self.left > 0 && self.frame.kind != kind::DATA
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    proptest! {
        /// However what is sent is cut, the same frames are told, and the place between two of them is known.
        #[test]
        fn pieces_of_any_size_tell_the_same_frames(
            frames in prop::collection::vec((0..11_u8, any::<u8>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..40)), 1..20),
            cut in 1..60_usize,
        ) {
            let preface = b"a preface".to_vec();
            let bytes = frames.iter().flat_map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload));
            let bytes = preface.iter().copied().chain(bytes).collect::<Vec<_>>();
            let (mut scan, mut told) = (Scan::behind(preface.len()), Vec::new());
            for piece in bytes.chunks(cut) {
                scan.feed(piece, |frame| told.push(*frame));
            }
            prop_assert_eq!(scan.until_between(), 0);
            let want = frames.iter().map(|(kind, flags, stream, payload)| {
                let at = match *kind { kind::RST_STREAM => Some(0), kind::GOAWAY => Some(4), _ => None };
                let code = at.and_then(|at| payload.get(at..at + 4)).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
                let length = u32::try_from(payload.len()).unwrap();
                Frame { length, kind: *kind, flags: *flags, stream: stream & 0x7fff_ffff, code }
            });
            prop_assert_eq!(told, want.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_head_is_under_way_until_its_block_ends_and_a_body_is_none() {
        let mut scan = Scan::behind(0);
        let mut feed = |bytes: &[u8]| {
            scan.feed(bytes, |_| {});
            scan.is_in_head()
        };
        assert!(!feed(b""));
        assert!(feed(&[0, 0]), "half of a frame's header");
        assert!(feed(&[4, kind::HEADERS, 0, 0, 0, 0, 1]));
        assert!(feed(b"four"), "the block goes on");
        assert!(feed(&frame(kind::CONTINUATION, 0, 1, b"x")));
        assert!(!feed(&frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"x")));
        assert!(!feed(&frame(kind::DATA, 0, 1, b"four")[..11]), "half of a body's frame");
    }
}
