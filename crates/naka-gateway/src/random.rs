//! Request ids: 128 random bits.

use std::{
    cell::Cell,
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

use bytes::Bytes;
use http::HeaderValue;

/// 32 hexadecimal digits.
///
/// Unique, and of no use to anybody who would guess others: each worker counts through its own
/// `SipHash` with random keys. It is no secret and must not be used as one.
pub fn random_id() -> HeaderValue {
    thread_local! {
        static STATE: (RandomState, RandomState, Cell<u64>) = (RandomState::new(), RandomState::new(), Cell::new(0));
    }
    let (high, low) = STATE.with(|(high, low, count)| {
        count.set(count.get().wrapping_add(1));
        let hash = |keys: &RandomState| {
            let mut hasher = keys.build_hasher();
            hasher.write_u64(count.get());
            hasher.finish()
        };
        (hash(high), hash(low))
    });
    let mut digits = [0; 32];
    for (place, digit) in digits.iter_mut().enumerate() {
        let word = if place < 16 { high } else { low };
        let nibble = (word >> (60 - 4 * (place % 16))) & 15;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    // Shared from the start: the request and its response both carry it, and a copy of bytes that are
    // not yet shared allocates.
    HeaderValue::from_maybe_shared(Bytes::from_owner(digits)).expect("hexadecimal digits are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_differ_also_between_threads() {
        let ids = || (0..1000).map(|_| random_id()).collect::<Vec<_>>();
        let mut all = std::thread::spawn(ids).join().unwrap();
        all.extend(ids());
        assert!(all.iter().all(|id| id.len() == 32));
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2000);
    }
}
