//! Quotes that are their own record: what was quoted, sealed so that nobody can change it.
//!
//! # Algorithm
//! A quote's id is `base64url(fields ‖ tag)`: the fields of [`Sealed`] in a fixed layout of 62 bytes, and the first 128 bits of their HMAC-SHA-256 (RFC 2104, truncated as its section 5 allows).
//! Whoever holds the secret can read the id back, and knows that they made it. Tags are compared in constant time.
//!
//! # Why so
//! Anybody may ask for a price as often as the gateway lets them. A quote that is kept costs a write to
//! the disk and a row until it expires, for each question; one that is sealed costs neither, so there is
//! nothing to fill up, and it is honoured after a restart all the same.
//!
//! # State
//! None: the time is an argument.

use aws_lc_rs::{constant_time, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::rules::{
    fare::{RideType, Trip},
    geo::{Place, Point},
    moment::Moment,
    money::Money,
};

/// The length of a secret, in bytes.
pub const SECRET: usize = 32;

/// The length of the fields, in bytes: version, ride type, four coordinates, fare, minutes, expiry, nonce.
const FIELDS: usize = 1 + 1 + 4 * 8 + 8 + 4 + 8 + 8;

const TAG: usize = 16;

const VERSION: u8 = 1;

/// What was promised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sealed {
    /// The kind of vehicle.
    pub ride_type: RideType,
    /// From where to where.
    pub trip: Trip,
    /// What it will cost.
    pub fare: Money,
    /// How long it takes.
    pub minutes: u32,
    /// The first moment at which the promise does not hold any more.
    pub expires_at: Moment,
    /// Makes equal promises differ.
    pub nonce: [u8; 8],
}

/// Seals and opens.
pub struct Seal {
    key: hmac::Key,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

impl Seal {
    /// With that secret.
    pub fn new(secret: &[u8; SECRET]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// The id of a quote.
    pub fn seal(&self, sealed: &Sealed) -> String {
        let mut id = encode(sealed);
        let tag = hmac::sign(&self.key, &id);
        id.extend_from_slice(&tag.as_ref()[..TAG]);
        URL_SAFE_NO_PAD.encode(id)
    }

    /// The promise behind an id; `None` if we never made it.
    pub fn open(&self, id: &str) -> Option<Sealed> {
        let bytes = URL_SAFE_NO_PAD.decode(id).ok()?;
        let (fields, tag) = bytes.split_at_checked(FIELDS)?;
        let expected = hmac::sign(&self.key, fields);
        constant_time::verify_slices_are_equal(&expected.as_ref()[..TAG], tag).ok()?;
        decode(fields)
    }
}

fn encode(sealed: &Sealed) -> Vec<u8> {
    let Sealed { ride_type, trip, fare, minutes, expires_at, nonce } = sealed;
    let number = RideType::ALL.iter().position(|it| it == ride_type).and_then(|it| u8::try_from(it).ok());
    let mut bytes = Vec::with_capacity(FIELDS + TAG);
    bytes.extend([VERSION, number.expect("there are six ride types")]);
    for point in [trip.pickup.point(), trip.drop.point()] {
        bytes.extend(point.lat().to_be_bytes());
        bytes.extend(point.lng().to_be_bytes());
    }
    bytes.extend(fare.paise().to_be_bytes());
    bytes.extend(minutes.to_be_bytes());
    bytes.extend(expires_at.unix().to_be_bytes());
    bytes.extend(nonce);
    bytes
}

/// The tag has been verified, so only a quote of another version, or of zones that have changed since, is none.
fn decode(fields: &[u8]) -> Option<Sealed> {
    let mut rest = Rest(fields);
    if rest.take::<1>()? != [VERSION] {
        return None;
    }
    let [number] = rest.take()?;
    let ride_type = *RideType::ALL.get(usize::from(number))?;
    let trip = Trip { pickup: rest.place()?, drop: rest.place()? };
    let fare = Money::from_paise(i64::from_be_bytes(rest.take()?));
    let minutes = u32::from_be_bytes(rest.take()?);
    let expires_at = Moment::from_unix(i64::from_be_bytes(rest.take()?));
    Some(Sealed { ride_type, trip, fare, minutes, expires_at, nonce: rest.take()? })
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn place(&mut self) -> Option<Place> {
        let (lat, lng) = (f64::from_be_bytes(self.take()?), f64::from_be_bytes(self.take()?));
        Place::at(Point::new(lat, lng).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise() -> Sealed {
        let place = |lat, lng| Place::at(Point::new(lat, lng).unwrap()).unwrap();
        Sealed {
            ride_type: RideType::Suv,
            trip: Trip { pickup: place(18.9220, 72.8342), drop: place(19.0760, 72.8777) },
            fare: Money::from_paise(104_923),
            minutes: 106,
            expires_at: "2026-01-15T12:05+05:30".parse().unwrap(),
            nonce: *b"a nonce!",
        }
    }

    #[test]
    fn what_is_sealed_is_opened() {
        let seal = Seal::new(&[7; SECRET]);
        for ride_type in RideType::ALL {
            for paise in [0, 1, 54_186, i64::MAX] {
                let sealed = Sealed { ride_type, fare: Money::from_paise(paise), ..promise() };
                assert_eq!(seal.open(&seal.seal(&sealed)), Some(sealed));
            }
        }
    }

    #[test]
    fn nobody_changes_one_bit_of_it() {
        let seal = Seal::new(&[7; SECRET]);
        let id = seal.seal(&promise());
        let bytes = URL_SAFE_NO_PAD.decode(&id).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.open(&URL_SAFE_NO_PAD.encode(changed)), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(seal.open(&URL_SAFE_NO_PAD.encode(&bytes[..length])), None, "{length} bytes");
        }
        assert_eq!(seal.open(&format!("{id}AA")), None);
        assert_eq!(seal.open(&format!("{id}=")), None);
        assert_eq!(Seal::new(&[8; SECRET]).open(&id), None);
    }
}
