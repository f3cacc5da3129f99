//! Who is who in the mesh: an authority of our own, and a certificate for each sidecar, by which the others know it.
//!
//! # What is made
//! In a folder that is its owner's alone: `ca.pem`, whom all believe, and `ca.key`; for each name `NAME.pem` and `NAME.key`. A certificate
//! is an X.509-SVID (SPIFFE): its one URI is `spiffe://bazaar.example/sa/NAME`. It is for its name as a host, too, which is what is asked
//! for by SNI. Made again, the certificates are new ones of the same authority, under new keys: sidecars that run take them when both
//! files are there, and drop no request.
//!
//! # Bounds
//! A certificate is good for [`DAY`], the authority for ten years.

use std::{
    fs::{DirBuilder, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use naka::clock::{Now, WallClock};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// The domain that all names are of.
pub const DOMAIN: &str = "bazaar.example";

/// How long a certificate is good.
pub const DAY: Duration = Duration::from_hours(24);

/// How long the authority is.
const DECADE: Duration = Duration::from_hours(24 * 3652);

/// From how long ago: clocks differ.
const SKEW: Duration = Duration::from_hours(1);

/// By which name the others know a sidecar.
pub fn identity(name: &str) -> String {
    format!("spiffe://{DOMAIN}/sa/{name}")
}

/// Makes new certificates for all of these names, by the authority of the folder; with the folder and the authority, if they are not
/// there.
///
/// # Errors
/// If a file cannot be read or written, or no key be made.
pub fn certify<'a>(folder: &Path, names: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| format!("the folder {} cannot be made: {error}", folder.display()))?;
    let issuer = Issuer::new(authority(), key_of_authority(folder)?);
    for name in names {
        let key = KeyPair::generate().map_err(|error| format!("no key can be made: {error}"))?;
        let certificate = somebody(name)?.signed_by(&key, &issuer).map_err(|error| error.to_string())?;
        put(&folder.join(format!("{name}.key")), &key.serialize_pem())?;
        put(&folder.join(format!("{name}.pem")), &certificate.pem())?;
    }
    Ok(())
}

/// The key of the authority; a new one, with its certificate, if there is none.
fn key_of_authority(folder: &Path) -> Result<KeyPair, String> {
    let file = folder.join("ca.key");
    match std::fs::read_to_string(&file) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(|error| format!("{}: {error}", file.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(|error| format!("no key can be made: {error}"))?;
            let certificate = authority().self_signed(&key).map_err(|error| error.to_string())?;
            put(&folder.join("ca.pem"), &certificate.pem())?;
            put(&file, &key.serialize_pem())?;
            Ok(key)
        }
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
}

fn authority() -> CertificateParams {
    let mut params = valid(DECADE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "the bazaar");
    params
}

fn somebody(name: &str) -> Result<CertificateParams, String> {
    let unfit = |error: rcgen::Error| format!("{name:?} cannot be certified: {error}");
    let mut params = valid(DAY);
    let uri = identity(name).as_str().try_into().map_err(unfit)?;
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(unfit)?), SanType::URI(uri)];
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// From now on, for so long.
fn valid(long: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = WallClock::system().unix(Now::read()).unwrap_or_default();
    let since_1970 = |at: Duration| date_time_ymd(1970, 1, 1) + at;
    (params.not_before, params.not_after) = (since_1970(now.saturating_sub(SKEW)), since_1970(now + long));
    params
}

/// Puts a file in its place in one step, for its owner alone.
fn put(file: &Path, text: &str) -> Result<(), String> {
    let beside = file.with_extension("new");
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside);
    let written = written.and_then(|mut to| {
        to.set_permissions(Permissions::from_mode(0o600))?;
        to.write_all(text.as_bytes())
    });
    written
        .and_then(|()| std::fs::rename(&beside, file))
        .map_err(|error| format!("{} cannot be written: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_new_ones_and_their_authority_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("mesh");
        let read = |name: &str| std::fs::read_to_string(place.join(name)).unwrap();
        certify(&place, ["order", "product-v2"]).unwrap();
        let before = ["ca.pem", "ca.key", "order.pem", "order.key", "product-v2.pem"].map(read);
        certify(&place, ["order"]).unwrap();
        let after = ["ca.pem", "ca.key", "order.pem", "order.key", "product-v2.pem"].map(read);
        let is_same = before.iter().zip(&after).map(|(before, after)| before == after).collect::<Vec<_>>();
        assert_eq!(is_same, [true, true, false, false, true]);
        for file in std::fs::read_dir(&place).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        }
        assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(place.join("ca.key"), "nonsense").unwrap();
        assert!(certify(&place, ["order"]).unwrap_err().contains("ca.key"));
    }
}
