//! Where frames of WebSocket end (RFC 6455 §5.2), as far as it takes to say something between two of them.

/// Follows the frames from a server to a client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frames {
    at: At,
}

#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    Between,
    /// After the first byte.
    Length,
    /// So many bytes of the length are to come, and what they say so far.
    Extended { left: u8, length: u64, is_masked: bool },
    /// So many bytes of the frame are to come.
    Rest(u64),
    /// A frame that closes has passed: there is nothing more to say.
    Closed,
}

/// The opcode of a frame that closes.
const CLOSE: u8 = 8;

impl Frames {
    /// A frame that closes with 1001: "going away".
    pub(super) const GOING_AWAY: &'static [u8] = &[0x80 | CLOSE, 2, 0x03, 0xe9];

    /// Whether nothing of a frame is on its way, and more may come.
    pub(super) const fn is_between(&self) -> bool {
        matches!(self.at, At::Between)
    }

    /// These bytes are the next.
    pub(super) fn passed(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            self.at = match self.at {
                At::Closed => return,
                At::Between if first & 0x0f == CLOSE => At::Closed,
                At::Between => At::Length,
                At::Length => {
                    let is_masked = first & 0x80 != 0;
                    match first & 0x7f {
                        126 => At::Extended { left: 2, length: 0, is_masked },
                        127 => At::Extended { left: 8, length: 0, is_masked },
                        length => rest_of(u64::from(length), is_masked),
                    }
                }
                At::Extended { left, length, is_masked } => {
                    let length = length << 8 | u64::from(first);
                    match left - 1 {
                        0 => rest_of(length, is_masked),
                        left => At::Extended { left, length, is_masked },
                    }
                }
                At::Rest(left) => {
                    let took = left.min(bytes.len() as u64);
                    bytes = &bytes[usize::try_from(took).unwrap_or(bytes.len())..];
                    self.at = if left == took { At::Between } else { At::Rest(left - took) };
                    continue;
                }
            };
            bytes = rest;
        }
    }
}

const fn rest_of(length: u64, is_masked: bool) -> At {
    match length.saturating_add(if is_masked { 4 } else { 0 }) {
        0 => At::Between,
        left => At::Rest(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_frame_is_found_however_it_is_cut() {
        let frame = |length: usize, head: &[u8]| [head, &vec![0x88; length]].concat();
        for (bytes, is_between) in [
            (vec![], true),
            (frame(0, &[0x81, 0]), true),
            (frame(5, &[0x81, 5]), true),
            (frame(4, &[0x81, 5]), false),
            (frame(5, &[0x81, 0x85, 1, 2, 3, 4]), true),
            (frame(300, &[0x82, 126, 1, 44]), true),
            (frame(299, &[0x82, 126, 1, 44]), false),
            (frame(70_000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]), true),
            (vec![0x82, 127, 0, 0], false),
            (vec![0x81], false),
            ([frame(2, &[1, 2]), frame(0, &[0x80, 0])].concat(), true),
            (frame(2, &[0x88, 2]), false),
        ] {
            for cut in [1, 3, 1000, 1 << 20] {
                let mut frames = Frames::default();
                bytes.chunks(cut).for_each(|piece| frames.passed(piece));
                let head = &bytes[..bytes.len().min(10)];
                assert_eq!(frames.is_between(), is_between, "{head:?} of {} by {cut}", bytes.len());
            }
        }
    }
}
