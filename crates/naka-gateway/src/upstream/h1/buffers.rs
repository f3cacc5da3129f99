//! Room that heads are written into and responses are read into, shared by the connections of a thread.
//!
//! Few of them read at the same time. What was used last is still in the processor's cache, so that is taken first; and a connection
//! that waits has none. A buffer is free again once all that was cut from it is dropped.
//!
//! # Limits
//! [`KEPT`] of each are kept by a thread, those used last; what is over is freed.

use std::cell::RefCell;

use bytes::BytesMut;

use super::{BUFFER, request::GATHERED};

/// So many buffers of [`BUFFER`] bytes and so many rooms of up to [`GATHERED`] are kept by each thread.
const KEPT: usize = 16;

thread_local! {
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
