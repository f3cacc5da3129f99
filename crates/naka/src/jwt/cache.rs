//! Tokens that have been verified, so that a signature is checked once and not with each request.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::claims::Validity;
use crate::{
    identity::Identity,
    remember::{Fingerprint, Remembered},
};

/// Verified tokens, by SHA-256; bounded.
#[derive(Debug, Default)]
pub(super) struct Cache(Remembered<(Arc<Identity>, Validity)>);

impl Cache {
    pub(super) fn fingerprint(token: &str) -> Fingerprint {
        let mut print = [0; 32];
        print.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        print
    }

    pub(super) fn get(&self, print: &Fingerprint) -> Option<(Arc<Identity>, Validity)> {
        self.0.get(print)
    }

    pub(super) fn put(&self, print: Fingerprint, known: (Arc<Identity>, Validity), unix_s: u64) {
        let weight = known.0.weight();
        self.0.put(print, known, weight, |(_, validity)| validity.expires_s <= unix_s);
    }
}
