//! Whoever makes signed tokens: keys that were made just now, and tokens with any claims.

use std::fmt;

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// A token (RFC 7515) signed with a shared secret, HS256; `claims` are a JSON object.
pub fn hs256(secret: &[u8], claims: &str) -> String {
    let message = format!("{}.{}", encoded(br#"{"alg":"HS256","typ":"JWT"}"#), encoded(claims.as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", encoded(signature.as_ref()))
}

/// A token without a signature.
pub fn unsigned(claims: &str) -> String {
    format!("{}.{}.", encoded(br#"{"alg":"none"}"#), encoded(claims.as_bytes()))
}

/// Whoever signs with a key of its own, ES256.
pub struct Issuer {
    kid: String,
    key: EcdsaKeyPair,
}

impl Issuer {
    /// With a new key.
    ///
    /// # Panics
    /// If no key can be made.
    pub fn new(kid: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key can be made");
        Self { kid: kid.to_owned(), key }
    }

    /// The set with its key alone (RFC 7517).
    pub fn jwks(&self) -> String {
        format!(r#"{{"keys":[{}]}}"#, self.jwk())
    }

    /// Its public key.
    pub fn jwk(&self) -> String {
        let point = self.key.public_key().as_ref();
        let (x, y) = (encoded(&point[1..33]), encoded(&point[33..65])); // Uncompressed: 4, x, y.
        format!(
            r#"{{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":"{}","x":"{x}","y":"{y}"}}"#,
            self.kid
        )
    }

    /// A token; `claims` are a JSON object.
    ///
    /// # Panics
    /// If it cannot be signed.
    pub fn token(&self, claims: &str) -> String {
        let header = format!(r#"{{"alg":"ES256","typ":"JWT","kid":"{}"}}"#, self.kid);
        let message = format!("{}.{}", encoded(header.as_bytes()), encoded(claims.as_bytes()));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).expect("it can be signed");
        format!("{message}.{}", encoded(signature.as_ref()))
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("kid", &self.kid).finish_non_exhaustive()
    }
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
