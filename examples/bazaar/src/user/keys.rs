//! Who asks: a key pair of this machine's own, and the tokens that it signs.
//!
//! # Tokens
//! JSON web tokens (RFC 7519), signed with Ed25519 (`EdDSA`, RFC 8037): `iss` [`ISSUER`], `aud` [`AUDIENCE`], `sub`, `iat`, `exp`,
//! and `scope`, `tier` and `roles` if they are said. They tell the wall clock's time, as the gateway does.
//!
//! # State
//! The private key is in the data folder, readable by its owner only; `bazaar up` and `bazaar user` make it where there is
//! none. Who takes it away and starts them again makes all tokens of before worthless.

use std::{
    fmt, fs, io, io::Write as _, os::unix::fs::MetadataExt as _, path::Path, process::ExitCode,
    time::Duration,
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::kernel::{
    ask::NAME_LIMIT,
    clock::Clock,
    console::{complain, say},
    service::DataArgs,
};

/// Who makes the tokens.
pub const ISSUER: &str = "https://bazaar.example";

/// For whom they are made.
pub const AUDIENCE: &str = "bazaar";

const FILE: &str = "signing-key.pk8";

/// The key pair.
pub struct Keys {
    pkcs8: Vec<u8>,
    public: Vec<u8>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("kid", &self.kid()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Those in the data folder, which are made if there are none.
    ///
    /// # Errors
    /// If they cannot be read or made, with what to do.
    pub fn of(data: &Path) -> Result<Self, String> {
        let file = data.join(FILE);
        if !file.exists() {
            Self::make(&file)?;
        }
        Self::known(data)
    }

    /// Those in the data folder.
    ///
    /// # Errors
    /// If there are none, or others can read them, with what to do.
    pub fn known(data: &Path) -> Result<Self, String> {
        let file = data.join(FILE);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("there is no signing key in {}: `bazaar up` makes one", data.display())
            }
            _ => format!("{} cannot be read: {error}", file.display()),
        };
        let mode = fs::metadata(&file).map_err(failed)?.mode();
        if mode & 0o077 != 0 {
            let file = file.display();
            return Err(format!("others can read the signing key: chmod 600 {file}, or take it away"));
        }
        Self::new(fs::read(&file).map_err(failed)?, &file)
    }

    /// All of it or nothing, and over no other: of several who make one at the same time, the first has made it.
    fn make(file: &Path) -> Result<(), String> {
        let pair = Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1());
        let pkcs8 = pair.map_err(|_| "no key pair can be made: the system gives no random numbers")?;
        let written = NamedTempFile::new_in(file.parent().unwrap_or(Path::new("."))).and_then(|mut fresh| {
            fresh.write_all(pkcs8.as_ref())?;
            fresh.as_file().sync_all()?;
            fresh.persist_noclobber(file).map_err(|error| error.error)
        });
        match written {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(format!("{} cannot be written: {error}", file.display()))
            }
            _ => Ok(()),
        }
    }

    fn new(pkcs8: Vec<u8>, file: &Path) -> Result<Self, String> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|error| {
            let file = file.display();
            format!("{file} is no Ed25519 key ({error}): take it away, and a new one is made")
        })?;
        Ok(Self { public: pair.public_key().as_ref().to_vec(), pkcs8 })
    }

    /// Names the key: its thumbprint (RFC 7638).
    pub fn kid(&self) -> String {
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x());
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, canonical.as_bytes());
        URL_SAFE_NO_PAD.encode(digest)
    }

    fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.public)
    }

    /// The set of public keys (RFC 7517).
    pub fn jwks(&self) -> String {
        let key = json!({
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.kid(), "x": self.x(),
        });
        json!({ "keys": [key] }).to_string()
    }

    /// A signed token.
    pub fn token(&self, claims: &Claims) -> Result<String, String> {
        let header = Header { kid: Some(self.kid()), ..Header::new(Algorithm::EdDSA) };
        let key = EncodingKey::from_ed_der(&self.pkcs8);
        encode(&header, claims, &key).map_err(|error| format!("no token can be signed: {error}"))
    }
}

/// What a token says.
#[derive(Clone, Debug, Serialize)]
pub struct Claims {
    iss: &'static str,
    aud: &'static str,
    sub: String,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<String>,
}

/// For whom `bazaar token` makes one.
#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    /// Whose token: a rider's name, or a driver's number.
    #[arg(long, value_name = "NAME", value_parser = name)]
    sub: String,
    /// Scopes, with spaces between them.
    #[arg(long, value_name = "SCOPES")]
    scope: Option<String>,
    /// The tier.
    #[arg(long, value_name = "TIER", value_parser = ["regular", "plus", "premium"])]
    tier: Option<String>,
    /// A role, such as driver; may be said more than once.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// How many minutes it is good for.
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=60 * 24 * 30))]
    minutes: u32,
    #[command(flatten)]
    data: DataArgs,
}

impl Claims {
    /// Of somebody, from now on.
    pub fn of(sub: &str, good_for: Duration) -> Self {
        let now = Clock::real().now();
        let (iat, exp) = (now.unix(), now.after(good_for).unix());
        Self {
            iss: ISSUER,
            aud: AUDIENCE,
            sub: sub.to_owned(),
            iat,
            exp,
            scope: None,
            tier: None,
            roles: Vec::new(),
        }
    }
}

impl Claims {
    /// With these scopes, spaces between them, and that tier.
    #[must_use]
    pub fn with(self, scope: &str, tier: &str) -> Self {
        Self { scope: Some(scope.to_owned()), tier: Some(tier.to_owned()), ..self }
    }

    /// With that role, and no other.
    #[must_use]
    pub fn in_role(self, role: &str) -> Self {
        Self { roles: vec![role.to_owned()], ..self }
    }
}

/// A name that a header can say exactly.
pub fn name(text: &str) -> Result<String, String> {
    let is_exact = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') && text.trim() == text;
    if is_exact && (1..=NAME_LIMIT).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(format!("write 1 to {NAME_LIMIT} visible ASCII characters, without spaces around them"))
}

/// Prints a token.
pub fn run(args: &TokenArgs) -> ExitCode {
    let TokenArgs { sub, scope, tier, roles, minutes, data } = args.clone();
    let claims = Claims { scope, tier, roles, ..Claims::of(&sub, Duration::from_mins(minutes.into())) };
    match Keys::known(&data.place()).and_then(|keys| keys.token(&claims)) {
        Ok(token) => {
            say(token);
            ExitCode::SUCCESS
        }
        Err(message) => {
            complain(format_args!("bazaar token: {message}"));
            ExitCode::FAILURE
        }
    }
}
