//! Room that heads are written into and responses are read into, shared by the connections of a thread.
//!
//! Few of them read at the same time. What was used last is still in the processor's cache, so that is taken first; and a connection
//! that waits has none. A buffer is free again once all that was cut from it is dropped; so what may be kept for long is copied.
//!
//! # Limits
//! [`KEPT`] of each are kept by a thread, those used last; what is over is freed. A head that is kept keeps [`HEADS`] bytes.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};

use super::{BUFFER, request::GATHERED};

/// So many buffers of [`BUFFER`] bytes and so many rooms of up to [`GATHERED`] are kept by each thread.
const KEPT: usize = 16;

/// Bytes that heads have together.
const HEADS: usize = 8 << 10;

thread_local! {
    static TOGETHER: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static ROOMS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer of [`BUFFER`] bytes.
pub(super) fn take() -> BytesMut {
    let free = BUFFERS.with_borrow_mut(|kept| {
        let free = kept.iter_mut().rposition(|buffer| buffer.try_reclaim(BUFFER));
        free.map(|at| kept.remove(at))
    });
    free.unwrap_or_else(|| BytesMut::with_capacity(BUFFER))
}

/// Keeps a buffer, parts of which may still be in use.
pub(super) fn put(mut buffer: BytesMut) {
    if buffer.capacity() > 0 {
        buffer.clear();
        BUFFERS.with_borrow_mut(|kept| keep(kept, buffer));
    }
}

/// A copy of a head, or of something as small, which may be kept for long. It is shared from the start, as parts of it will be.
pub(super) fn copied(head: &[u8]) -> Bytes {
    if head.len() > HEADS / 4 {
        return Bytes::copy_from_slice(head);
    }
    TOGETHER.with_borrow_mut(|together| {
        if together.capacity() < head.len() {
            together.reserve(HEADS);
        }
        together.extend_from_slice(head);
        together.split().freeze()
    })
}

/// Room for a head.
pub(super) fn room() -> Vec<u8> {
    ROOMS.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps room for another head, unless it has become large.
pub(super) fn put_room(mut room: Vec<u8>) {
    if (1..=GATHERED).contains(&room.capacity()) {
        room.clear();
        ROOMS.with_borrow_mut(|kept| keep(kept, room));
    }
}

fn keep<T>(kept: &mut Vec<T>, one: T) {
    if kept.len() == KEPT {
        kept.remove(0);
    }
    kept.push(one);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_taken_again_the_latest_first_and_all_of_it() {
        let (mut first, second) = (take(), take());
        first.extend_from_slice(&[b'f'; 1000]);
        let (held, place) = (first.split_to(600).freeze(), second.as_ptr());
        put(second);
        put(first);
        let again = take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0), "the latest is still in use");
        let place = held.as_ptr();
        drop(held);
        let again = take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert!(again.capacity() >= BUFFER);
    }

    /// Bug: one field of a response that was kept, by a cache say, kept all of a buffer.
    #[test]
    fn heads_that_are_kept_keep_little_and_those_that_are_not_nothing() {
        let head = [b'h'; 200];
        let kept = (0..100).map(|_| copied(&head)).collect::<Vec<_>>();
        assert!(kept.iter().all(|copy| copy == &head[..]));
        let place = |copy: &Bytes| copy.as_ptr() as usize;
        let is_near = |two: &[Bytes]| place(&two[0]).abs_diff(place(&two[1])) == head.len();
        assert!(kept.windows(2).filter(|two| is_near(two)).count() >= 95, "they are together");
        drop(kept);
        let places = (0..1000).map(|_| place(&copied(&head))).collect::<std::collections::HashSet<_>>();
        assert!(places.len() <= HEADS / head.len(), "{} places", places.len());
        assert_eq!(copied(&[b'h'; HEADS]).len(), HEADS);
    }

    #[test]
    fn no_more_are_kept_than_is_said() {
        let all = std::iter::repeat_with(take).take(2 * KEPT).collect::<Vec<_>>();
        all.into_iter().for_each(put);
        (0..2 * KEPT).for_each(|_| put_room(Vec::with_capacity(100)));
        put_room(Vec::with_capacity(GATHERED + 1));
        assert_eq!(BUFFERS.with_borrow(Vec::len), KEPT);
        assert_eq!(ROOMS.with_borrow(Vec::len), KEPT);
        assert!(ROOMS.with_borrow(|kept| kept.iter().all(|room| room.capacity() <= GATHERED)));
    }
}
