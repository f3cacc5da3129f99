//! HTTP/2 as bytes (RFC 9113, section 4): what is sent is written frame by frame, right or wrong, and of what comes only as much is read as a
//! case asks about.

use super::super::Answer;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITISED: u8 = 0x20;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// With what a client begins: the preface, and settings that say nothing.
pub(super) fn begin() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()
}

/// A setting (RFC 9113, section 6.5.1).
pub(super) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A field that is in no table (RFC 7541, section 6.2.2), without Huffman's code.
pub(super) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &string(name), &string(value)].concat()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&number(0, 7, bytes.len())[..], bytes].concat()
}

/// A number behind the first bits of its byte (RFC 7541, section 5.1).
pub(super) fn number(first: u8, bits: u32, mut value: usize) -> Vec<u8> {
    let most = (1_usize << bits) - 1;
    if value < most {
        return vec![first | u8::try_from(value).unwrap()];
    }
    let mut bytes = vec![first | u8::try_from(most).unwrap()];
    value -= most;
    while value >= 128 {
        bytes.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

/// A block of fields.
pub(super) fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name.as_ref(), value.as_ref())).collect()
}

/// What stands in a block of a `GET`.
pub(super) fn get() -> Vec<(Vec<u8>, Vec<u8>)> {
    of(&[(":method", "GET"), (":scheme", "http"), (":path", "/C00000"), (":authority", "a.example")])
}

/// And of a `POST`.
pub(super) fn post() -> Vec<(Vec<u8>, Vec<u8>)> {
    with(get(), ":method", "POST")
}

pub(super) fn of(fields: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// With another value of a field that is there.
pub(super) fn with(
    mut fields: Vec<(Vec<u8>, Vec<u8>)>,
    name: &str,
    value: impl AsRef<[u8]>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let field = fields.iter_mut().find(|(is, _)| is == name.as_bytes()).unwrap();
    field.1 = value.as_ref().to_vec();
    fields
}

/// With one more field.
pub(super) fn and(
    mut fields: Vec<(Vec<u8>, Vec<u8>)>,
    name: impl AsRef<[u8]>,
    value: impl AsRef<[u8]>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
    fields
}

/// Without a field.
pub(super) fn without(mut fields: Vec<(Vec<u8>, Vec<u8>)>, name: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.retain(|(is, _)| is != name.as_bytes());
    fields
}

/// The head of a request.
pub(super) fn headers(stream: u32, flags: u8, fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(fields))
}

/// What has been read of a connection.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: Vec<u8>,
    /// Each frame: kind, flags, stream, payload.
    pub(super) frames: Vec<(u8, u8, u32, Vec<u8>)>,
}

impl Reader {
    pub(super) fn read(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        while let [a, b, c, kind, flags, stream @ ..] = &self.bytes[..] {
            let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
            if stream.len() < 4 + length {
                break;
            }
            let id = u32::from_be_bytes([stream[0], stream[1], stream[2], stream[3]]);
            self.frames.push((*kind, *flags, id, stream[4..4 + length].to_vec()));
            self.bytes.drain(..9 + length);
        }
    }

    /// Whether the last frame is all there.
    pub(super) fn is_whole(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether this stream has ended, in one way or another.
    pub(super) fn has_ended(&self, stream: u32) -> bool {
        self.frames.iter().any(|(kind, flags, id, _)| {
            *id == stream
                && (*kind == RST_STREAM || matches!(*kind, DATA | HEADERS) && flags & END_STREAM > 0)
        })
    }

    /// The code with which this stream was reset.
    pub(super) fn reset(&self, stream: u32) -> Option<u32> {
        let reset = self.frames.iter().find(|(kind, _, id, _)| *kind == RST_STREAM && *id == stream)?;
        code(&reset.3, 0)
    }

    /// The code that the connection ended with, if it was said.
    pub(super) fn goaway(&self) -> Option<u32> {
        let last = self.frames.iter().rev().find(|(kind, ..)| *kind == GOAWAY)?;
        code(&last.3, 4)
    }

    /// How many frames are of this kind, acknowledgements among them or not.
    pub(super) fn count(&self, kind: u8) -> usize {
        self.frames.iter().filter(|(is, ..)| *is == kind).count()
    }

    /// The statuses of the heads of this stream.
    pub(super) fn statuses(&self, stream: u32) -> Vec<u16> {
        let (mut last, mut of_stream) = (None, Vec::new());
        for (_, flags, id, payload) in self.frames.iter().filter(|(kind, ..)| *kind == HEADERS) {
            let padding = usize::from(flags & PADDED > 0) + 5 * usize::from(flags & PRIORITISED > 0);
            let status = status(payload.get(padding..).unwrap_or_default(), &mut last);
            of_stream.extend(status.filter(|_| *id == stream));
        }
        of_stream
    }

    /// What became of a stream, as HTTP/1.1 would say it.
    pub(super) fn answer(&self, stream: u32, is_closed: bool) -> Answer {
        let mut bytes = Vec::new();
        for status in self.statuses(stream) {
            bytes.extend(format!("HTTP/1.1 {status} \r\n\r\n").into_bytes());
        }
        for (kind, _, id, payload) in &self.frames {
            if *kind == DATA && *id == stream {
                bytes.extend_from_slice(payload);
            }
        }
        Answer { bytes, is_closed: is_closed || self.reset(stream).is_some() }
    }
}

fn code(payload: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(payload.get(at..at + 4)?.try_into().ok()?))
}

/// The status that a block begins with; trailers have none. What was said in full before may be named by its place in the table.
fn status(block: &[u8], last: &mut Option<u16>) -> Option<u16> {
    let mut rest = block;
    while let [update @ 0x20..=0x3f, after @ ..] = rest {
        rest = after;
        if *update == 0x3f {
            let end = rest.iter().position(|byte| *byte < 128)?;
            rest = &rest[end + 1..];
        }
    }
    match rest {
        [indexed @ 0x88..=0x8e, ..] => {
            Some([200, 204, 206, 304, 400, 404, 500][usize::from(*indexed) - 0x88])
        }
        [0x80..=0xff, ..] => *last,
        [0x48..=0x4e | 0x08..=0x0e | 0x18..=0x1e, length, value @ ..] => {
            let value = value.get(..usize::from(length & 127))?;
            let text =
                if length & 128 > 0 { digits(value) } else { String::from_utf8(value.to_vec()).ok()? };
            *last = text.parse().ok();
            *last
        }
        _ => None,
    }
}

/// Digits in Huffman's code (RFC 7541, appendix B): 0, 1 and 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> String {
    let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect::<Vec<_>>();
    let (mut rest, mut text) = (&bits[..], String::new());
    let value = |bits: &[u8]| bits.iter().fold(0, |all, bit| all << 1 | bit);
    loop {
        if rest.len() >= 5 && value(&rest[..5]) <= 2 {
            text.push(char::from(b'0' + value(&rest[..5])));
            rest = &rest[5..];
        } else if rest.len() >= 6 && (0b01_1001..=0b01_1111).contains(&value(&rest[..6])) {
            text.push(char::from(b'3' + value(&rest[..6]) - 0b01_1001));
            rest = &rest[6..];
        } else {
            return text;
        }
    }
}
