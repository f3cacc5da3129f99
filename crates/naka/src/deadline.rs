//! How much time is left, as requests say it to one another.
//!
//! A caller that gives up after a second has no use for what is done in the second after that. So it says how long it
//! waits, and whoever is in between says what is left of it. A span and no moment, because clocks differ.
//!
//! Two ways of saying it are read and written here:
//! - `grpc-timeout` of gRPC ([PROTOCOL-HTTP2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)): at most
//!   eight digits and a unit, as in `250m`, for 250 ms;
//! - whole milliseconds, in a header of any name. There is no standard one; Envoy writes
//!   `x-envoy-expected-rq-timeout-ms`.
//!
//! Within a process it is a [`Deadline`](crate::context::Deadline), which [`timeout`](crate::timeout), bulkheads,
//! retries, hedges and fallbacks hold to.
//!
//! # Limits
//! What is written is never more than is left, and never nothing: at least one unit. What cannot be read is an error,
//! and not the end of time.

use std::{fmt, time::Duration};

use http::{HeaderName, HeaderValue};

/// How long a gRPC call is waited for.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The longest that milliseconds are read as: 2⁵³, the whole numbers of JSON.
const MAX_MS: u64 = 1 << 53;

/// It is not a number of what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it does not say how long is waited")
    }
}

impl std::error::Error for Malformed {}

/// The units, and how many nanoseconds each has, the finest first.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60 * 1_000_000_000),
    (b'H', 3600 * 1_000_000_000),
];

/// The most that eight digits say.
const MOST: u128 = 99_999_999;

/// Reads a `grpc-timeout`.
///
/// # Errors
/// If it is not one to eight digits and a unit.
pub fn from_grpc(value: &HeaderValue) -> Result<Duration, Malformed> {
    let (unit, digits) = value.as_bytes().split_last().ok_or(Malformed)?;
    let (_, ns) = UNITS.iter().find(|(known, _)| known == unit).ok_or(Malformed)?;
    let count = number(digits, 8)?;
    let ns = u128::from(count) * u128::from(*ns);
    let seconds = u64::try_from(ns / 1_000_000_000).map_err(|_| Malformed)?;
    let rest = u32::try_from(ns % 1_000_000_000).map_err(|_| Malformed)?;
    Ok(Duration::new(seconds, rest))
}

/// Writes a `grpc-timeout`, in the finest unit that fits.
pub fn to_grpc(left: Duration) -> HeaderValue {
    let ns = left.as_nanos();
    let fits = UNITS.iter().find(|(_, unit)| ns / u128::from(*unit) <= MOST);
    let (unit, count) = fits.map_or((b'H', MOST), |(name, unit)| (*name, ns / u128::from(*unit)));
    let text = format!("{}{}", count.max(1), char::from(unit));
    HeaderValue::try_from(text).expect("digits and a letter")
}

/// Reads whole milliseconds.
///
/// # Errors
/// If it is no whole number, or an absurd one.
pub fn from_ms(value: &HeaderValue) -> Result<Duration, Malformed> {
    let ms = number(value.as_bytes(), 16)?;
    if ms > MAX_MS { Err(Malformed) } else { Ok(Duration::from_millis(ms)) }
}

/// Writes whole milliseconds.
pub fn to_ms(left: Duration) -> HeaderValue {
    let ms = u64::try_from(left.as_millis()).unwrap_or(MAX_MS);
    HeaderValue::from(ms.clamp(1, MAX_MS))
}

/// At most so many digits, and nothing else: no sign, no blank.
fn number(digits: &[u8], most: usize) -> Result<u64, Malformed> {
    if digits.is_empty() || digits.len() > most || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Malformed)?;
    text.parse().map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    #[test]
    fn a_grpc_timeout_is_digits_and_a_unit() {
        let read = |text: &str| from_grpc(&value(text));
        assert_eq!(read("250m"), Ok(Duration::from_millis(250)));
        assert_eq!(read("99999999H"), Ok(Duration::from_hours(99_999_999)));
        assert_eq!(
            ["1n", "7u", "0S", "2M", "00000003S"].map(|text| read(text).unwrap().as_nanos()),
            [1, 7000, 0, 120_000_000_000, 3_000_000_000]
        );
        for wrong in
            ["", "m", "1", "1s", "1h", "+1S", "-1S", "1.5S", " 1S", "1S ", "1 S", "123456789S", "1Sm", "۳S"]
        {
            assert_eq!(read(wrong), Err(Malformed), "{wrong:?}");
        }
        assert_eq!(to_grpc(Duration::from_millis(1500)), "1500000u");
        assert_eq!(to_grpc(Duration::ZERO), "1n");
        assert_eq!(to_grpc(Duration::MAX), "99999999H");
    }

    #[test]
    fn milliseconds_are_digits() {
        let read = |text: &str| from_ms(&value(text));
        assert_eq!((read("250"), read("0")), (Ok(Duration::from_millis(250)), Ok(Duration::ZERO)));
        for wrong in ["", "250ms", "2.5", "-1", "1e3", " 1", "9007199254740993", "99999999999999999999"] {
            assert_eq!(read(wrong), Err(Malformed), "{wrong:?}");
        }
        assert_eq!(to_ms(Duration::from_micros(1999)), "1");
        assert_eq!(to_ms(Duration::ZERO), "1");
        assert_eq!(to_ms(Duration::MAX), "9007199254740992");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_never_more_than_is_left(ns in 1_u64..) {
            let left = Duration::from_nanos(ns);
            let told = from_grpc(&to_grpc(left)).unwrap();
            prop_assert!(told <= left && told.as_nanos() >= left.as_nanos() - left.as_nanos() / 1_000_000);
            prop_assert!(from_ms(&to_ms(left)).unwrap() <= left.max(Duration::from_millis(1)));
        }
    }
}
