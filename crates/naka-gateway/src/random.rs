//! Request ids: 128 random bits.

use std::{
    cell::{Cell, RefCell},
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
};

use bytes::BytesMut;
use http::HeaderValue;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

/// So many ids have their room together.
const ROOM_FOR: usize = 32;

/// 32 hexadecimal digits.
///
/// Unique, and of no use to anybody who would guess others: each worker counts through its own
/// `SipHash` (of 128 bits) with random keys. It is no secret and must not be used as one.
pub fn random_id() -> HeaderValue {
    thread_local! {
        static STATE: (SipHasher13, Cell<u64>) = (keyed(), Cell::new(0));
        static ROOM: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    }
    let hash = STATE.with(|(keyed, count)| {
        count.set(count.get().wrapping_add(1));
        let mut hasher = *keyed;
        hasher.write_u64(count.get());
        hasher.finish128().as_u128()
    });
    let digits = hexadecimal(hash.to_be_bytes());
    // Shared from the start: the request and its response both carry it, and a copy of bytes that are
    // not yet shared allocates. Some share their room, too; it is there as long as one of them is.
    let id = ROOM.with_borrow_mut(|room| {
        room.reserve(if room.capacity() < digits.len() { ROOM_FOR * digits.len() } else { 0 });
        room.extend_from_slice(&digits);
        room.split().freeze()
    });
    HeaderValue::from_maybe_shared(id).expect("hexadecimal digits are visible ASCII")
}

fn keyed() -> SipHasher13 {
    let key = || RandomState::new().hash_one(0);
    SipHasher13::new_with_keys(key(), key())
}

/// Without a table: the compiler makes vectors of it.
fn hexadecimal(bytes: [u8; 16]) -> [u8; 32] {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[byte >> 4, byte & 15]);
    }
    digits.map(|digit| digit + if digit < 10 { b'0' } else { b'a' - 10 })
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

    #[test]
    fn ids_are_hexadecimal() {
        let bytes = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210_u128.to_be_bytes();
        assert_eq!(&hexadecimal(bytes), b"0123456789abcdeffedcba9876543210");
    }
}
