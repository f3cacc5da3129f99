//! Whose key it is, and the hash of all that is compared.

use std::iter;

use aws_lc_rs::digest::{self, SHA256};
use http::{HeaderValue, header::HOST};

use super::table::Digest;
use crate::{
    context::ClientAddr,
    identity::{Claim, Identity},
    key::{Key, client_network},
    reject::Head,
};

/// Within what a key means one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope(pub(super) Digest);

impl Scope {
    /// That of these parts, in their order.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Hash::new();
        parts.into_iter().for_each(|part| hash.part(part));
        Self(hash.finish())
    }

    /// The same within these parts only, in their order.
    #[must_use]
    pub fn within<'a>(self, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Hash::new();
        hash.part(&self.0);
        parts.into_iter().for_each(|part| hash.part(part));
        Self(hash.finish())
    }
}

/// A [`Key`] means something to its own process only, and so does this.
impl From<Key> for Scope {
    fn from(key: Key) -> Self {
        Self::of([&key.bits().to_le_bytes()[..]])
    }
}

/// The default [`Scope`]: host, method and path, and who asks. None if somebody is known of whom neither a
/// subject nor a claim is.
pub fn by_caller(head: &Head<'_>) -> Option<Scope> {
    let host = head.headers.get(HOST).map(HeaderValue::as_bytes);
    let host = host.or(head.uri.authority().map(|authority| authority.as_str().as_bytes()));
    let mut hash = Hash::new();
    for part in [host.unwrap_or_default(), head.method.as_str().as_bytes(), head.uri.path().as_bytes()] {
        hash.part(part);
    }
    if let Some(first) = Identity::of(head.extensions) {
        let all = || iter::successors(Some(&**first), |who| who.beside.as_deref());
        if !all().any(is_told_apart) {
            return None;
        }
        all().for_each(|who| hash.identity(who));
    } else if let Some(client) = ClientAddr::of(head.extensions) {
        hash.part(client_network(client).to_string().as_bytes());
    }
    Some(Scope(hash.finish()))
}

/// Whether anything is known that others do not have as well.
fn is_told_apart(who: &Identity) -> bool {
    who.subject.is_some() || !who.claims.is_empty()
}

/// SHA-256 over parts that cannot run into one another.
pub(super) struct Hash(digest::Context);

impl Hash {
    pub(super) fn new() -> Self {
        Self(digest::Context::new(&SHA256))
    }

    pub(super) fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// A subject is one of its issuer; without it all claims count.
    fn identity(&mut self, who: &Identity) {
        self.part(format!("{:?}", who.scheme).as_bytes());
        if let Some(subject) = &who.subject {
            let issuer = who.claims.get("iss").and_then(Claim::as_text);
            self.part(b"subject");
            self.part(issuer.unwrap_or_default().as_bytes());
            self.part(subject.as_bytes());
            return;
        }
        self.part(b"claims");
        self.part(&(who.claims.len() as u64).to_le_bytes());
        for (name, claim) in &who.claims {
            self.part(name.as_bytes());
            self.claim(claim);
        }
    }

    /// Its kind and its value: a number is not its text.
    fn claim(&mut self, claim: &Claim) {
        match claim {
            Claim::Text(text) => {
                self.part(b"text");
                self.part(text.as_bytes());
            }
            Claim::Integer(number) => {
                self.part(b"integer");
                self.part(&number.to_le_bytes());
            }
            Claim::Number(number) => {
                self.part(b"number");
                self.part(&number.to_bits().to_le_bytes());
            }
            Claim::Flag(flag) => {
                self.part(b"flag");
                self.part(&[u8::from(*flag)]);
            }
            Claim::List(all) => {
                self.part(b"list");
                self.part(&(all.len() as u64).to_le_bytes());
                for one in all {
                    self.claim(one);
                }
            }
        }
    }

    pub(super) fn finish(self) -> Digest {
        let mut digest = Digest::default();
        digest.copy_from_slice(self.0.finish().as_ref());
        digest
    }
}
