//! Sticky sessions: a cookie says which endpoint served a client before.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header::COOKIE};

use super::policy::hash::siphash;

/// A cookie that brings a client back to its endpoint.
///
/// Its value is the endpoint's address under a keyed hash (`SipHash`-2-4), 16 hexadecimal digits: it tells
/// nobody an address, and whoever makes one up chooses among endpoints it could have been given anyway. It is
/// the same in every process with the same secret. It is `HttpOnly`, `SameSite=Lax` and of `Path=/`, and ends
/// with the session.
#[derive(Clone)]
pub struct Sticky {
    name: Arc<str>,
    key: (u64, u64),
    is_secure: bool,
}

impl Sticky {
    /// A cookie of this name, under this secret; more than 16 bytes of it are folded into as many.
    ///
    /// # Errors
    /// The name is no name of a cookie (a token of RFC 9110).
    pub fn new(name: &str, secret: &[u8]) -> Result<Self, StickyNameError> {
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| StickyNameError)?;
        let key = (siphash(1, 0, secret), siphash(2, 0, secret));
        Ok(Self { name: name.into(), key, is_secure: false })
    }

    /// Marks it `Secure`: over TLS only. Do so wherever clients come over TLS.
    #[must_use]
    pub const fn secure(mut self, is_secure: bool) -> Self {
        self.is_secure = is_secure;
        self
    }

    /// What stands for an endpoint.
    pub(super) fn token(&self, address: &str) -> u64 {
        siphash(self.key.0, self.key.1, address.as_bytes())
    }

    /// What the request brings; of several cookies of the name, the first that could be one of ours.
    pub(super) fn read(&self, headers: &HeaderMap) -> Option<u64> {
        let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(|(name, _)| **name == *self.name).find_map(|(_, value)| parse(value))
    }

    /// What the response sets.
    pub(super) fn cookie(&self, token: u64) -> Option<HeaderValue> {
        let secure = if self.is_secure { "; Secure" } else { "" };
        let text = format!("{}={token:016x}; Path=/; HttpOnly; SameSite=Lax{secure}", self.name);
        HeaderValue::try_from(text).ok()
    }
}

fn parse(value: &str) -> Option<u64> {
    let is_ours = value.len() == 16 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_ours.then(|| u64::from_str_radix(value, 16).ok())?
}

impl fmt::Debug for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sticky").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A text that cannot be the name of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StickyNameError;

impl fmt::Display for StickyNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a cookie has letters, digits and `-`, `_` or `.` only")
    }
}

impl std::error::Error for StickyNameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others_and_says_nothing_of_the_address() {
        let sticky = Sticky::new("naka", b"a secret").unwrap();
        let token = sticky.token("10.0.0.1:80");
        let set = sticky.cookie(token).unwrap();
        let set = set.to_str().unwrap();
        assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax") && !set.contains("10.0"), "{set}");
        let pair = set.split(';').next().unwrap();
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=b; naka=; naka=+00000000000000a"));
        headers.append(COOKIE, HeaderValue::try_from(format!("x=y;{pair} ")).unwrap());
        assert_eq!(sticky.read(&headers), Some(token));
        assert_ne!(Sticky::new("naka", b"another").unwrap().token("10.0.0.1:80"), token);
        assert!(Sticky::new("a b", b"").is_err() && Sticky::new("a;b", b"").is_err());
        assert!(sticky.secure(true).cookie(token).unwrap().to_str().unwrap().ends_with("; Secure"));
    }
}
