//! What a token says (RFC 7519), and whether that is enough.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::Value;

use super::JwtConfig;
use crate::{
    identity::{Claim, Identity, Scheme},
    reject::Reason,
};

/// How deep objects are taken apart into names with dots.
const DEPTH: usize = 4;
/// The most claims that are kept.
const MAX_CLAIMS: usize = 256;
/// What is kept of one token at most, in bytes: it is remembered.
const MAX_KEPT: usize = 64 << 10;

/// A verified payload. A name that is there twice at the top is an error (RFC 7519 §4): two readers would
/// believe two things. Further down the last one counts, as RFC 7519 allows.
pub(super) struct Claims(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique;
        impl<'de> Visitor<'de> for Unique {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    match claims.entry(name) {
                        Entry::Occupied(_) => return Err(A::Error::custom("a claim is there twice")),
                        Entry::Vacant(place) => _ = place.insert(value),
                    }
                    if claims.len() > MAX_CLAIMS {
                        return Err(A::Error::custom("too many claims"));
                    }
                }
                Ok(Claims(claims))
            }
        }
        deserializer.deserialize_map(Unique)
    }
}

/// From when to when a token is valid, in seconds since 1970, leeway not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before_s: u64,
    /// The first second in which it is no longer valid.
    pub(super) expires_s: u64,
}

impl Validity {
    /// Whether it is valid now.
    pub(super) fn check(self, unix_s: u64, leeway_s: u64) -> Result<(), Reason> {
        if unix_s >= self.expires_s.saturating_add(leeway_s) {
            return Err(Reason::TokenExpired);
        }
        if unix_s.saturating_add(leeway_s) < self.not_before_s {
            return Err(Reason::TokenNotYetValid);
        }
        Ok(())
    }
}

impl Claims {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Reason> {
        serde_json::from_slice(payload).map_err(|_| Reason::CredentialsMalformed)
    }

    /// Who it is, and for how long, if the token says all that it has to.
    pub(super) fn check(self, config: &JwtConfig) -> Result<(Identity, Validity), Reason> {
        let validity = Validity {
            not_before_s: self.date("nbf")?.unwrap_or(0),
            expires_s: match (self.date("exp")?, config.require_exp) {
                (Some(at), _) => at,
                (None, true) => return Err(Reason::ClaimMissing),
                (None, false) => u64::MAX,
            },
        };
        if config.require_nbf && !self.0.contains_key("nbf") {
            return Err(Reason::ClaimMissing);
        }
        self.date("iat")?;
        if !config.issuers.is_empty() {
            let issuer = self.text("iss")?.ok_or(Reason::ClaimMissing)?;
            if !config.issuers.iter().any(|known| **known == *issuer) {
                return Err(Reason::IssuerRefused);
            }
        }
        self.audience(config)?;
        Ok((self.identity(config)?, validity))
    }

    /// RFC 7519 §4.1.3: whoever is not among those a token names must refuse it.
    fn audience(&self, config: &JwtConfig) -> Result<(), Reason> {
        let is_ours = |name: &Value| config.audiences.iter().any(|ours| name.as_str() == Some(&**ours));
        let is_for_us = match self.0.get("aud") {
            None if config.audiences.is_empty() => return Ok(()),
            None => return Err(Reason::ClaimMissing),
            Some(Value::Array(all)) if all.iter().all(Value::is_string) => all.iter().any(is_ours),
            Some(one @ Value::String(_)) => is_ours(one),
            Some(_) => return Err(Reason::CredentialsMalformed),
        };
        if is_for_us { Ok(()) } else { Err(Reason::AudienceRefused) }
    }

    /// Who it is.
    pub(super) fn identity(self, config: &JwtConfig) -> Result<Identity, Reason> {
        let mut identity = Identity::new(Scheme::Jwt, self.text("sub")?.map(Arc::from));
        for (name, value) in self.0 {
            keep(&mut identity.claims, name, value, DEPTH)?;
        }
        if identity.weight() > MAX_KEPT {
            return Err(Reason::TokenTooLarge);
        }
        let words = |name: &str| {
            let claim = identity.claims.get(name);
            let is_text = claim.is_none_or(|claim| match claim {
                Claim::List(all) => all.iter().all(|one| one.as_text().is_some()),
                one => one.as_text().is_some(),
            });
            let texts = claim.into_iter().flat_map(Claim::texts);
            let words = texts.flat_map(str::split_ascii_whitespace).map(Arc::from).collect::<Vec<Arc<str>>>();
            if is_text { Ok(words) } else { Err(Reason::CredentialsMalformed) }
        };
        let (scopes, roles) = (words(&config.scope_claim)?, words(&config.role_claim)?);
        (identity.scopes, identity.roles) = (scopes, roles);
        Ok(identity)
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Reason> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Reason::CredentialsMalformed),
        }
    }

    /// A `NumericDate`. A part of a second counts for nothing.
    fn date(&self, name: &str) -> Result<Option<u64>, Reason> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
                (Some(at), _) => Ok(Some(at)),
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "it is in the range"
                )]
                (None, Some(at)) if (0.0..=1e15).contains(&at) => Ok(Some(at as u64)),
                _ => Err(Reason::CredentialsMalformed),
            },
            Some(_) => Err(Reason::CredentialsMalformed),
        }
    }
}

/// Keeps a claim; what is nested too deeply is left out. A name that is there in full wins over one
/// that is made of parts. Nothing is left out because there is too much: a rule with `not` would then let
/// in whom it should keep out.
fn keep(
    claims: &mut BTreeMap<Arc<str>, Claim>,
    name: String,
    value: Value,
    depth: usize,
) -> Result<(), Reason> {
    if claims.len() >= MAX_CLAIMS {
        return Err(Reason::TokenTooLarge);
    }
    match value {
        Value::Object(inner) if depth > 0 => {
            for (inner_name, value) in inner {
                let name = format!("{name}.{inner_name}");
                if !claims.contains_key(name.as_str()) {
                    keep(claims, name, value, depth - 1)?;
                }
            }
        }
        value => {
            if let Some(claim) = claim(value) {
                claims.insert(name.into(), claim);
            }
        }
    }
    Ok(())
}

fn claim(value: Value) -> Option<Claim> {
    Some(match value {
        Value::String(text) => Claim::Text(text.into()),
        Value::Bool(flag) => Claim::Flag(flag),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Claim::Integer(integer),
            None => Claim::Number(number.as_f64()?),
        },
        Value::Array(all) => Claim::List(all.into_iter().filter_map(claim).collect()),
        Value::Null | Value::Object(_) => return None,
    })
}
