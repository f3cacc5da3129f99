//! The compact form of a signed token (RFC 7515), read strictly: nothing is believed that the
//! signature does not cover, and nothing in the header says how it is to be checked.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::Algorithm;
use crate::reject::Reason;

/// A token in its parts; nothing of it is verified yet.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    pub(super) typ: Option<String>,
    /// What the signature covers.
    pub(super) signed: &'a str,
    /// The payload, still encoded.
    payload: &'a str,
    /// The signature, still encoded.
    pub(super) signature: &'a str,
}

/// What the header may say. `jku`, `jwk`, `x5u` and `x5c` are not read: a token cannot bring its own key.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    #[serde(default)]
    crit: IsThere,
}

/// A member whose value does not matter, `null` included.
#[derive(Default)]
struct IsThere(bool);

impl<'de> Deserialize<'de> for IsThere {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

impl<'a> Jws<'a> {
    /// Takes a token apart.
    pub(super) fn parse(token: &'a str) -> Result<Self, Reason> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Reason::CredentialsMalformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Reason::CredentialsMalformed)?;
        if payload.contains('.') || header.is_empty() || signature.is_empty() {
            return Err(Reason::CredentialsMalformed);
        }
        let header = decode(header)?;
        // serde would read a list as a struct, too.
        if header.trim_ascii_start().first() != Some(&b'{') {
            return Err(Reason::CredentialsMalformed);
        }
        let header: Header = serde_json::from_slice(&header).map_err(|_| Reason::CredentialsMalformed)?;
        if header.crit.0 {
            return Err(Reason::CriticalUnknown); // RFC 7515 §4.1.11: we understand none.
        }
        let algorithm = Algorithm::from_word(&header.alg).ok_or(Reason::AlgorithmRefused)?;
        Ok(Self { algorithm, kid: header.kid, typ: header.typ, signed, payload, signature })
    }

    /// The payload. Whoever asks for it has verified the signature.
    pub(super) fn payload(&self) -> Result<Vec<u8>, Reason> {
        decode(self.payload)
    }
}

/// base64url without padding, and without bits that count for nothing.
fn decode(part: &str) -> Result<Vec<u8>, Reason> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::CredentialsMalformed)
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
