//! What the system's allocator keeps of what is freed.
//!
//! glibc gives memory back as soon as 128 KiB are free at the end of a heap, and has the system make what is larger than that each time. Uploads come in
//! pieces of up to 512 KiB, so the kernel would clear the pages of each anew: an eighth of what an upload costs. Both bounds
//! grow with what is freed (mallopt(3): `M_MMAP_THRESHOLD`, and `M_TRIM_THRESHOLD`, which is twice that), unless somebody has set them.
//!
//! # Limits
//! A worker keeps up to twice [`KEPT`] that it does not use.

use std::hint::black_box;

/// In bytes.
const KEPT: usize = 4 << 20;

/// From here on. It takes no memory, as what is reserved is not touched; other allocators take it for what it is.
pub(crate) fn keep_what_is_freed() {
    drop(black_box(Vec::<u8>::with_capacity(KEPT)));
}
