//! Hashes that are the same in every process, so that several gateways do the same with a key.

/// The hash of bytes that stays what it is over processes and versions.
pub fn stable(bytes: &[u8]) -> u64 {
    siphash(0, 0, bytes)
}

/// SipHash-2-4 (Aumasson and Bernstein, "`SipHash`: a fast short-input PRF", 2012): without the key nobody can
/// say what was hashed. Ours, because std's has its key zero or random, and promises no algorithm.
pub fn siphash(key_0: u64, key_1: u64, bytes: &[u8]) -> u64 {
    let mut state = [
        key_0 ^ 0x736f_6d65_7073_6575,
        key_1 ^ 0x646f_7261_6e64_6f6d,
        key_0 ^ 0x6c79_6765_6e65_7261,
        key_1 ^ 0x7465_6462_7974_6573,
    ];
    let mut absorb = |word: u64| {
        state[3] ^= word;
        (0..2).for_each(|_| round(&mut state));
        state[0] ^= word;
    };
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        absorb(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = bytes.len().to_le_bytes()[0];
    absorb(u64::from_le_bytes(last));
    state[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut state));
    state.into_iter().fold(0, std::ops::BitXor::bitxor)
}

const fn round(state: &mut [u64; 4]) {
    let [mut a, mut b, mut c, mut d] = *state;
    a = a.wrapping_add(b);
    c = c.wrapping_add(d);
    b = b.rotate_left(13) ^ a;
    d = d.rotate_left(16) ^ c;
    a = a.rotate_left(32);
    c = c.wrapping_add(b);
    a = a.wrapping_add(d);
    b = b.rotate_left(17) ^ c;
    d = d.rotate_left(21) ^ a;
    c = c.rotate_left(32);
    *state = [a, b, c, d];
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appendix A of the paper.
    #[test]
    fn siphash_is_that_of_the_paper() {
        let bytes = (0..15).collect::<Vec<u8>>();
        let hash = siphash(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908, &bytes);
        assert_eq!(hash, 0xa129_ca61_49be_45e5);
    }
}
