//! Follows the framing of a body in chunks (RFC 9112 §7.1), however it is cut: of a request and of a response alike.
//!
//! # Decision
//! A chunk's size is 1 to 16 hexadecimal digits, at once followed by CRLF or by extensions, which are passed over, without control characters; its
//! data are followed by CRLF; behind the chunk of no size come lines up to an empty one. LF without CR ends no line.
//!
//! # Limits and errors
//! Bytes: all extensions of a body have at most [`MAX_EXTENSIONS`], all of its trailers what the caller says. Never panics; after an error it
//! has nothing more to say. It keeps nothing of what it is shown.

use super::scan::{Wrong, bad};

/// Bytes of the extensions of all chunks of one body. Nobody is known to use any.
const MAX_EXTENSIONS: usize = 4 << 10;

pub(super) const BARE_LF: Wrong = bad("a line ends in LF without CR (RFC 9112, section 2.2)");
pub(super) const LINE_END: Wrong = bad("a CR without LF (RFC 9112, section 2.2)");
pub(super) const CHUNK_SIZE: Wrong =
    bad("a chunk's size is not hexadecimal digits alone, 16 at most (RFC 9112, section 7.1)");
pub(super) const CHUNK_END: Wrong = bad("a chunk is not followed by CRLF (RFC 9112, section 7.1)");
pub(super) const EXTENSION: Wrong =
    bad("a chunk's extensions are too long, or have a control character (RFC 9112, section 7.1.1)");
pub(super) const TRAILERS: Wrong =
    bad("the trailers of a body are longer than a head may be (RFC 9112, section 7.1.2)");

/// Where the reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Within the size of a chunk, of so many digits.
    Size {
        digits: u32,
        size: u64,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    Trailers,
    Over,
}

/// What some bytes of a body in chunks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// What stands around the data.
    Framing,
    Data,
    /// Lines of trailers; the empty one that ends them among them.
    Trailers,
}

/// The framing of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunked {
    at: At,
    /// Bytes of extensions, or of trailers.
    extra: usize,
    lines: Lines,
}

impl Chunked {
    /// Nothing has come.
    pub(crate) const fn new() -> Self {
        Self { at: At::Size { digits: 0, size: 0 }, extra: 0, lines: Lines::new() }
    }

    /// Whether all of it has come.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.at, At::Over)
    }

    /// Whether the data of a chunk have just ended.
    pub(crate) const fn is_behind_data(&self) -> bool {
        matches!(self.at, At::DataCr)
    }

    /// Whether the next byte is one of its data.
    #[cfg(any(test, fuzzing))]
    pub(super) const fn is_at_data(&self) -> bool {
        matches!(self.at, At::Data(_))
    }

    /// So many of these bytes are the next part, and that is what they are. None are taken once it [is over](Self::is_over), and of
    /// none at all.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn feed(&mut self, bytes: &[u8], max_trailers: usize) -> Result<(usize, Part), Wrong> {
        let Some(&first) = bytes.first() else { return Ok((0, Part::Framing)) };
        let took = match self.at {
            At::Size { digits, size } => self.size(first, digits, size)?,
            At::Extension { size } => self.extension(bytes, size)?,
            At::SizeLf { size } => self.size_end(first, size)?,
            At::Data(left) => return Ok((self.data(left, bytes), Part::Data)),
            At::DataCr => self.expect(first, b'\r', At::DataLf)?,
            At::DataLf => self.expect(first, b'\n', At::Size { digits: 0, size: 0 })?,
            At::Trailers => return Ok((self.trailers(bytes, max_trailers)?, Part::Trailers)),
            At::Over => 0,
        };
        Ok((took, Part::Framing))
    }

    fn size(&mut self, byte: u8, digits: u32, size: u64) -> Result<usize, Wrong> {
        let digit = char::from(byte).to_digit(16).filter(|_| digits < 16);
        self.at = match (byte, digit) {
            (_, Some(digit)) => At::Size { digits: digits + 1, size: size << 4 | u64::from(digit) },
            (b'\r', _) if digits > 0 => At::SizeLf { size },
            (b';', _) if digits > 0 => At::Extension { size },
            (b'\n', _) if digits > 0 => return Err(BARE_LF),
            _ => return Err(CHUNK_SIZE),
        };
        Ok(1)
    }

    fn extension(&mut self, bytes: &[u8], size: u64) -> Result<usize, Wrong> {
        let may_be = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
        let length = bytes.iter().position(|byte| !may_be(byte)).unwrap_or(bytes.len());
        self.extra += length;
        if self.extra > MAX_EXTENSIONS {
            return Err(EXTENSION);
        }
        match bytes.get(length) {
            None => Ok(length),
            Some(b'\r') => {
                self.at = At::SizeLf { size };
                Ok(length + 1)
            }
            Some(b'\n') => Err(BARE_LF),
            Some(_) => Err(EXTENSION),
        }
    }

    fn size_end(&mut self, byte: u8, size: u64) -> Result<usize, Wrong> {
        if byte != b'\n' {
            return Err(LINE_END);
        }
        if size == 0 {
            (self.at, self.lines, self.extra) = (At::Trailers, Lines::new(), 0);
        } else {
            self.at = At::Data(size);
        }
        Ok(1)
    }

    fn data(&mut self, left: u64, bytes: &[u8]) -> usize {
        let took = left.min(bytes.len() as u64);
        self.at = if took == left { At::DataCr } else { At::Data(left - took) };
        usize::try_from(took).unwrap_or(usize::MAX) // It is no more than there is.
    }

    fn expect(&mut self, byte: u8, expected: u8, next: At) -> Result<usize, Wrong> {
        if byte != expected {
            return Err(CHUNK_END);
        }
        self.at = next;
        Ok(1)
    }

    fn trailers(&mut self, bytes: &[u8], max: usize) -> Result<usize, Wrong> {
        let end = self.lines.end(bytes)?;
        let length = end.unwrap_or(bytes.len());
        self.extra += length;
        if self.extra > max {
            return Err(TRAILERS);
        }
        if end.is_some() {
            self.at = At::Over;
        }
        Ok(length)
    }
}

/// Lines up to an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lines {
    /// Bytes of the line under way; and whether the last of them is CR.
    line: usize,
    is_cr: bool,
}

impl Lines {
    pub(super) const fn new() -> Self {
        Self { line: 0, is_cr: false }
    }

    /// So many bytes are the lines up to an empty one, which it has as well; none, if that has not come.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Wrong> {
        let mut from = 0;
        while let Some(at) = memchr::memchr(b'\n', &bytes[from..]) {
            let is_cr = if at == 0 { self.is_cr } else { bytes[from + at - 1] == b'\r' };
            if !is_cr {
                return Err(BARE_LF);
            }
            let is_empty = self.line + at == 1;
            *self = Self::new();
            from += at + 1;
            if is_empty {
                return Ok(Some(from));
            }
        }
        if let Some(last) = bytes[from..].last() {
            self.line += bytes.len() - from;
            self.is_cr = *last == b'\r';
        }
        Ok(None)
    }
}
