//! A window that slides, as a ring of ten words. No clock, no lock, no runtime; who counts what in it is the
//! business of whoever has one.
//!
//! Each word is a bucket: 28 bits that say which bucket it is, and 36 bits of counts. A word that says it is
//! another bucket is empty, so nothing has to be cleared, neither when time goes by nor when another era begins.

/// Buckets of a window.
pub(crate) const BUCKETS: usize = 10;

const PLACE: u64 = (1 << 20) - 1;
const ERA: u64 = (1 << 8) - 1;
const COUNTS: u64 = (1 << 36) - 1;

/// Which bucket a word is: the number of the bucket, and what it belongs to.
pub(crate) const fn tag(era: u64, bucket: u64) -> u64 {
    ((era & ERA) << 20 | bucket & PLACE) << 36
}

/// Where in the ring a bucket is.
pub(crate) fn place(bucket: u64) -> usize {
    usize::try_from(bucket % 10).unwrap_or_default()
}

/// The counts of a word that is the bucket with this tag; of any other, none.
pub(crate) const fn counts(word: u64, tag: u64) -> u64 {
    if word & !COUNTS == tag { word & COUNTS } else { 0 }
}

/// A word of one era as the same of another; a word of none of these is empty.
pub(crate) const fn of_era(word: u64, from: u64, to: u64) -> u64 {
    if word >> 56 == from & ERA { word & (u64::MAX >> 8) | (to & ERA) << 56 } else { 0 }
}

/// The counts of each bucket in the window that ends with this one; and of later ones, where others were
/// faster: whoever writes last has to see all of it.
pub(crate) fn live(words: impl Iterator<Item = u64>, era: u64, bucket: u64) -> impl Iterator<Item = u64> {
    words.filter_map(move |word| {
        let age = bucket.wrapping_sub(word >> 36) & PLACE;
        let is_near = !(10..=PLACE - 9).contains(&age); // Up to nine before, or after.
        (word >> 56 == era & ERA && is_near).then_some(word & COUNTS)
    })
}
