//! Numbers in hexadecimal digits, as headers have them: small letters only.

use std::num::{NonZeroU64, NonZeroU128};

use super::{SpanId, TraceId};

/// Of the lowest `N` digits of a number, all of them: faster than the formatting of the standard library, and this is done for each
/// request that goes on.
pub(super) fn digits<const N: usize>(mut number: u128) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(number & 15) as usize];
        number >>= 4;
    }
    digits
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// One to 32 digits.
pub(super) fn number(digits: &[u8]) -> Option<u128> {
    if digits.is_empty() || digits.len() > 32 {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// Not all zeros.
pub(super) fn trace(digits: &[u8]) -> Option<TraceId> {
    NonZeroU128::new(number(digits)?).map(TraceId)
}

/// At most 16 digits, and not all zeros.
pub(super) fn span(digits: &[u8]) -> Option<SpanId> {
    NonZeroU64::new(u64::try_from(number(digits)?).ok()?).map(SpanId)
}
