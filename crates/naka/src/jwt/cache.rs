//! Tokens that have been verified, so that a signature is checked once and not with each request.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};

use super::claims::Validity;
use crate::identity::Identity;

/// Independent locks.
const SHARDS: usize = 16;
/// Tokens that one shard remembers.
const CAP: usize = 1024;

/// SHA-256 of a token: nobody can make another token of the same, and the token itself is not kept.
pub(super) type Fingerprint = [u8; 32];

/// Verified tokens; bounded. At the bound what has expired goes, and if nothing has, the shard begins
/// anew: a signature is then checked once more, and nothing else happens.
#[derive(Debug, Default)]
pub(super) struct Cache([Mutex<Shard>; SHARDS]);

type Shard = HashMap<Fingerprint, (Arc<Identity>, Validity)>;

impl Cache {
    pub(super) fn fingerprint(token: &str) -> Fingerprint {
        let mut print = [0; 32];
        print.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        print
    }

    pub(super) fn get(&self, print: &Fingerprint) -> Option<(Arc<Identity>, Validity)> {
        self.shard(print).get(print).cloned()
    }

    pub(super) fn put(&self, print: Fingerprint, known: (Arc<Identity>, Validity), unix_s: u64) {
        let mut shard = self.shard(&print);
        if shard.len() >= CAP {
            shard.retain(|_, (_, validity)| validity.expires_s > unix_s);
        }
        if shard.len() >= CAP {
            shard.clear();
        }
        shard.insert(print, known);
    }

    fn shard(&self, print: &Fingerprint) -> MutexGuard<'_, Shard> {
        self.0[usize::from(print[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
