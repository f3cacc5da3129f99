//! Request ids: 128 random bits.

use std::{
    cell::{Cell, RefCell},
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

use bytes::BytesMut;
use http::HeaderValue;

/// So many ids have their room together.
const ROOM_FOR: usize = 32;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// 32 hexadecimal digits.
///
/// Unique, and of no use to anybody who would guess others: each worker counts through its own
/// `SipHash` with random keys. It is no secret and must not be used as one.
pub fn random_id() -> HeaderValue {
    thread_local! {
        static STATE: (RandomState, RandomState, Cell<u64>) = (RandomState::new(), RandomState::new(), Cell::new(0));
        static ROOM: RefCell<BytesMut> = RefCell::new(BytesMut::new());
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
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    // Shared from the start: the request and its response both carry it, and a copy of bytes that are
    // not yet shared allocates. Some share their room, too; it is there as long as one of them is.
    let id = ROOM.with_borrow_mut(|room| {
        room.reserve(if room.capacity() < digits.len() { ROOM_FOR * digits.len() } else { 0 });
        room.extend_from_slice(&digits);
        room.split().freeze()
    });
    HeaderValue::from_maybe_shared(id).expect("hexadecimal digits are visible ASCII")
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
