//! Which keys may verify what (RFC 7517, RFC 8725 §3.1): decided by the key, never by a token.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, crypto::aws_lc::DEFAULT_PROVIDER};
use serde_json::{Map, Value};

use super::{Algorithm, jws::Jws};
use crate::reject::Reason;

/// The largest set that is read, in bytes.
pub const MAX_BYTES: usize = 256 << 10;
/// The most keys of a set that are used.
pub const MAX_KEYS: usize = 100;
/// A shared secret has to be as long as the hash (RFC 7518 §3.2), in bytes.
pub const MIN_SECRET: usize = 32;
/// Bits of an RSA modulus: below it is weak (RFC 7518 §3.3), above it is a way to keep us busy.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Keys that verify tokens.
#[derive(Clone, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: Vec<Skipped>,
}

#[derive(Clone)]
struct Key {
    kid: Option<Arc<str>>,
    algorithms: Vec<Algorithm>,
    material: DecodingKey,
}

/// A key of a set that is not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its id.
    pub kid: Option<Arc<str>>,
    /// Why, in a sentence.
    pub why: &'static str,
}

/// Why a text is no key set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeysError {
    /// It has more than [`MAX_BYTES`].
    TooLarge,
    /// It is no JSON object with a list `keys`.
    NotASet,
    /// None of its keys can be used; for each, why.
    Unusable(Vec<Skipped>),
    /// A shared secret has less than [`MIN_SECRET`] bytes.
    SecretTooShort,
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "a key set has at most {MAX_BYTES} bytes"),
            Self::NotASet => f.write_str("not a JSON object with a list `keys`"),
            Self::SecretTooShort => write!(f, "a shared secret has at least {MIN_SECRET} bytes"),
            Self::Unusable(skipped) => {
                f.write_str("none of the keys can be used")?;
                skipped.iter().take(5).try_for_each(|one| {
                    write!(f, "; `{}`: {}", one.kid.as_deref().unwrap_or_default(), one.why)
                })
            }
        }
    }
}

impl std::error::Error for KeysError {}

impl KeySet {
    /// Reads a published set (JWKS). Keys that are weak, of another kind or for another use are left
    /// out, and so are shared secrets: whoever publishes a secret has none.
    ///
    /// # Errors
    /// If it is no such set, or nothing of it can be used.
    pub fn from_jwks(json: &[u8]) -> Result<Self, KeysError> {
        if json.len() > MAX_BYTES {
            return Err(KeysError::TooLarge);
        }
        let set: Value = serde_json::from_slice(json).map_err(|_| KeysError::NotASet)?;
        let Value::Array(all) = &set["keys"] else { return Err(KeysError::NotASet) };
        let mut it = Self::default();
        for (place, one) in all.iter().enumerate() {
            let one = one.as_object();
            let kid = one.and_then(|one| one.get("kid")?.as_str()).map(Arc::from);
            let key = match one {
                _ if place >= MAX_KEYS => Err("there are too many keys before it"),
                None => Err("it is no object"),
                Some(one) => read(one),
            };
            let key = key.and_then(|(algorithms, key)| {
                let is_known = |old: &Key| old.kid == kid && old.may_verify_one_of(&algorithms);
                if kid.is_some() && it.keys.iter().any(is_known) {
                    return Err("another key before it has this `kid`");
                }
                Ok(Key { kid: kid.clone(), algorithms, material: key })
            });
            match key {
                Ok(key) => it.keys.push(key),
                Err(why) => it.skipped.push(Skipped { kid, why }),
            }
        }
        it.skipped.truncate(MAX_KEYS);
        if it.keys.is_empty() { Err(KeysError::Unusable(it.skipped)) } else { Ok(it) }
    }

    /// One shared secret, for HS256.
    ///
    /// # Errors
    /// If it is shorter than the hash is long.
    pub fn from_secret(kid: Option<&str>, secret: &[u8]) -> Result<Self, KeysError> {
        if secret.len() < MIN_SECRET {
            return Err(KeysError::SecretTooShort);
        }
        let key = DecodingKey::from_secret(secret);
        let key = Key { kid: kid.map(Arc::from), algorithms: vec![Algorithm::Hs256], material: key };
        Ok(Self { keys: vec![key], skipped: Vec::new() })
    }

    /// The keys that are not used, and why.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// How many keys can be used.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What its keys may verify, each algorithm once.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        Algorithm::ALL.into_iter().filter(|one| self.keys.iter().any(|key| key.algorithms.contains(one)))
    }

    /// Verifies the signature of a token.
    pub(super) fn verify(&self, jws: &Jws<'_>, allowed: Option<&[Algorithm]>) -> Result<(), Reason> {
        let algorithm = jws.algorithm;
        if allowed.is_some_and(|allowed| !allowed.contains(&algorithm)) {
            return Err(Reason::AlgorithmRefused);
        }
        let key = self.key_of(jws)?;
        let signature = URL_SAFE_NO_PAD.decode(jws.signature).map_err(|_| Reason::SignatureInvalid)?;
        // Not by the provider of the process: another crate may have chosen that, or none.
        let verifier = (DEFAULT_PROVIDER.verifier_factory)(&algorithm.verified(), &key.material);
        let is_valid = verifier.is_ok_and(|it| it.verify(jws.signed.as_bytes(), &signature).is_ok());
        if is_valid { Ok(()) } else { Err(Reason::SignatureInvalid) }
    }

    fn key_of(&self, jws: &Jws<'_>) -> Result<&Key, Reason> {
        let fits = |key: &&Key| key.algorithms.contains(&jws.algorithm);
        if let Some(kid) = &jws.kid {
            let mut named = self.keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).peekable();
            named.peek().ok_or(Reason::UnknownKid)?;
            return named.find(fits).ok_or(Reason::AlgorithmRefused);
        }
        let mut fitting = self.keys.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(Reason::KidMissing),
            (None, _) => Err(Reason::AlgorithmRefused),
        }
    }
}

impl Key {
    fn may_verify_one_of(&self, algorithms: &[Algorithm]) -> bool {
        self.algorithms.iter().any(|algorithm| algorithms.contains(algorithm))
    }
}

/// Keys are not shown.
impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.iter().map(|key| (&key.kid, &key.algorithms)).collect::<Vec<_>>();
        f.debug_struct("KeySet").field("keys", &keys).field("skipped", &self.skipped).finish()
    }
}

type Usable = (Vec<Algorithm>, DecodingKey);

fn read(one: &Map<String, Value>) -> Result<Usable, &'static str> {
    for (name, wanted) in [("use", "sig"), ("key_ops", "verify")] {
        let is_for_us = match one.get(name) {
            None => true,
            Some(Value::String(text)) => text == wanted,
            Some(Value::Array(all)) => all.iter().any(|it| it == wanted),
            Some(_) => false,
        };
        if !is_for_us {
            return Err("it is not for verifying signatures (`use`, `key_ops`)");
        }
    }
    if one.contains_key("d") {
        return Err("its private part is published with it");
    }
    let text = |name: &str| one.get(name).and_then(Value::as_str);
    let (possible, key) = match text("kty") {
        Some("RSA") => rsa(text("n"), text("e"))?,
        Some("EC") => ec(text("crv"), text("x"), text("y"))?,
        Some("OKP") => okp(text("crv"), text("x"))?,
        Some("oct") => return Err("it is a shared secret, and those are not published"),
        _ => return Err("its `kty` is not known"),
    };
    let algorithms = match one.get("alg") {
        None => possible,
        Some(said) => {
            let said = said.as_str().and_then(Algorithm::from_word);
            let said = said.filter(|said| possible.contains(said));
            vec![said.ok_or("its `alg` is not one that is verified here")?]
        }
    };
    Ok((algorithms, key))
}

fn rsa(n: Option<&str>, e: Option<&str>) -> Result<Usable, &'static str> {
    let (n, e) = (decode(n)?, decode(e)?);
    let significant = n.iter().skip_while(|byte| **byte == 0).collect::<Vec<_>>();
    let top_bits = significant.first().map_or(0, |top| 8 - top.leading_zeros() as usize);
    let bits = significant.len().saturating_sub(1) * 8 + top_bits;
    if !RSA_BITS.contains(&bits) {
        return Err("its modulus has less than 2048 or more than 8192 bits");
    }
    let exponent = e.iter().skip_while(|byte| **byte == 0).collect::<Vec<_>>();
    let is_odd = exponent.last().is_some_and(|last| *last & 1 == 1);
    if exponent.len() > 4 || !is_odd || exponent == [&1] {
        return Err("its exponent is even, 1, or longer than 32 bits");
    }
    Ok((vec![Algorithm::Rs256, Algorithm::Ps256], DecodingKey::from_rsa_raw_components(&n, &e)))
}

fn ec(crv: Option<&str>, x: Option<&str>, y: Option<&str>) -> Result<Usable, &'static str> {
    let (algorithm, length) = match crv {
        Some("P-256") => (Algorithm::Es256, 32),
        Some("P-384") => (Algorithm::Es384, 48),
        _ => return Err("its curve is neither P-256 nor P-384"),
    };
    if decode(x)?.len() != length || decode(y)?.len() != length {
        return Err("its coordinates have not the length of its curve");
    }
    let key = DecodingKey::from_ec_components(x.unwrap_or_default(), y.unwrap_or_default());
    Ok((vec![algorithm], key.map_err(|_| "its coordinates cannot be read")?))
}

fn okp(crv: Option<&str>, x: Option<&str>) -> Result<Usable, &'static str> {
    if crv != Some("Ed25519") {
        return Err("its curve is not Ed25519");
    }
    if decode(x)?.len() != 32 {
        return Err("it has not 32 bytes");
    }
    let key = DecodingKey::from_ed_components(x.unwrap_or_default());
    Ok((vec![Algorithm::EdDsa], key.map_err(|_| "it cannot be read")?))
}

fn decode(part: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let part = part.ok_or("a part of it is missing")?;
    URL_SAFE_NO_PAD.decode(part).map_err(|_| "a part of it is not base64url")
}
