//! What the system's allocator keeps of what is freed.
//!
//! glibc gives memory back as soon as little is free at the end of a heap: 128 KiB, or twice the largest piece that it had of the system by itself and
//! that was freed. Uploads come in pieces of up to 512 KiB, so the kernel would clear the pages of many anew: an eighth of what an upload costs.
//! That bound can be moved up once (mallopt(3): `M_MMAP_THRESHOLD`, and `M_TRIM_THRESHOLD`, which is twice that), unless somebody has set it.
//!
//! # Limits
//! The end of each heap, of which a worker has one, keeps up to twice [`KEPT`] that nobody uses; as ever, more is kept below what is still in use.

use std::hint::black_box;

/// In bytes.
const KEPT: usize = 4 << 20;

/// From here on. It takes no memory, as what is reserved is not touched; other allocators take it for what it is.
pub(crate) fn keep_what_is_freed() {
    drop(black_box(Vec::<u8>::with_capacity(KEPT)));
}
