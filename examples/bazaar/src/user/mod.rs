//! The user service: who users are, who may say so, and whose tokens are to be believed.
//!
//! # Interface
//! For everybody:
//! - `POST /api/auth/login` with `{"user_id": …, "password": …}`: 200 `{token, token_type: "Bearer", expires_in, user}`, or 401
//!   `invalid_credentials`, whoever is not known or wrong. A token is good for [`TOKEN_VALID`], and says `sub`, `tier` and the
//!   scopes [`SCOPE`].
//! - `POST /api/auth/register` with `{"user_id": …, "password": …, "name": …, "city": …, "language"?, "phone"?, "email"?}`: 201 and
//!   the user. All of it again, it is the same answer; else 409 `user_id_taken`.
//! - `GET /.well-known/jwks.json` answers the public keys (RFC 7517) of tokens, which the gateway fetches:
//!   those that are there when it asks.
//!
//! For the user, whom the gateway names in `x-user-id`:
//! - `GET /api/users/me`, or `/api/users/{user_id}` of oneself; `PUT /api/users/me` with `{name, language, city, phone?, email?}`.
//! - `DELETE /api/users/me`: 204, and all that was personal is gone from the file, see [`record`].
//!
//! For other services: `GET /internal/users/{user_id}`.
//!
//! # Rooms
//! [`keys`] signs tokens, [`passwords`] checks passwords, [`record`] keeps; here is only HTTP.
//!
//! # Errors
//! Those of [`ask`], those of [`passwords`], and those above; 404 `unknown_user` for who there is not or is somebody else; 422 for a name,
//! city, language, telephone, e-mail or password that is none; 503 `full` with [`record::USERS`] users.

use std::{path::Path, time::Duration};

use axum::{
    Json, Router,
    extract::State as With,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    kernel::{
        ask::{self, Body, Caller, Part},
        console::complain,
        problem::Problem,
        store::Store,
        text,
    },
    rules::{
        address::{City, UnknownCity},
        language::Language,
        payment::Kyc,
        shipping::Tier,
    },
    user::{
        keys::{Claims, Keys},
        passwords::Passwords,
        record::{Erased, Known, MIGRATIONS, Profile, Record, Registered, User},
    },
};

pub mod keys;
pub mod passwords;
pub mod record;

/// How long a token is good for.
pub const TOKEN_VALID: Duration = Duration::from_hours(1);

/// What a token of a user may be used for.
pub const SCOPE: &str = "orders payment:process";

/// How many characters a password has at least and at most.
pub const PASSWORD: std::ops::RangeInclusive<usize> = 8..=128;

/// How many characters a name has at most.
pub const NAME: usize = 100;

#[derive(Clone, Debug)]
struct Users {
    record: Record,
    passwords: Passwords,
    data: std::path::PathBuf,
}

/// The service, with the keys and users in that folder, which are made if there are none.
///
/// # Errors
/// If there are none, and none can be made.
pub async fn app(data: &Path) -> Result<Router, String> {
    Keys::of(data)?;
    let file = data.join("user.db");
    let store = Store::open(&file, MIGRATIONS).map_err(|error| error.to_string())?;
    let record = Record::new(store.clone(), &file).await.map_err(|error| error.to_string())?;
    Ok(router(record, Passwords::new(), store, data))
}

fn router(record: Record, passwords: Passwords, store: Store, data: &Path) -> Router {
    let users = Users { record, passwords, data: data.to_owned() };
    let routes = Router::new()
        .route("/.well-known/jwks.json", get(jwks))
        .route("/api/auth/login", post(login))
        .route("/api/auth/register", post(register))
        .route("/api/users/me", get(me).put(change).delete(erase))
        .route("/api/users/{user_id}", get(own))
        .route("/internal/users/{user_id}", get(known));
    ask::with_defaults(routes, Some(store)).with_state(users)
}

async fn jwks(With(users): With<Users>) -> Result<Response, Problem> {
    let keys = users.keys()?;
    Ok(([(CONTENT_TYPE, "application/jwk-set+json")], keys.jwks()).into_response())
}

/// A user, as they see themselves.
#[derive(Debug, Serialize)]
struct Shown {
    user_id: String,
    name: String,
    language: Language,
    city: City,
    phone: Option<String>,
    email: Option<String>,
    tier: Tier,
    kyc: Kyc,
}

impl From<User> for Shown {
    fn from(user: User) -> Self {
        let User { user_id, profile, tier, kyc, .. } = user;
        let Profile { name, language, city, phone, email } = profile;
        Self { user_id, name, language, city, phone, email, tier, kyc }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    user_id: String,
    password: String,
}

#[derive(Serialize)]
struct LoggedIn {
    token: String,
    token_type: &'static str,
    expires_in: u64,
    user: Shown,
}

async fn login(With(users): With<Users>, Body(credentials): Body<Credentials>) -> Result<Response, Problem> {
    let Credentials { user_id, password } = credentials;
    let user = users.record.user(&user_id).await?;
    let hash = user.as_ref().map(|user| user.hash.clone());
    let is_right = users.passwords.is_right(password, hash).await?;
    let Some(user) = user.filter(|_| is_right) else {
        let detail = "there is no user with this id and this password";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "invalid_credentials", detail));
    };
    let claims = Claims::of(&user.user_id, TOKEN_VALID).with(SCOPE, user.tier.as_str());
    let token = users.keys()?.token(&claims).map_err(|error| no_keys(&error))?;
    let logged_in =
        LoggedIn { token, token_type: "Bearer", expires_in: TOKEN_VALID.as_secs(), user: user.into() };
    Ok(private(logged_in))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    user_id: String,
    password: String,
    name: String,
    city: String,
    #[serde(default)]
    language: Language,
    phone: Option<String>,
    email: Option<String>,
}

async fn register(
    With(users): With<Users>,
    Body(registration): Body<Registration>,
) -> Result<Response, Problem> {
    let Registration { user_id, password, name, city, language, phone, email } = registration;
    let user_id = self::user_id(user_id)?;
    let profile = profile(&name, language, &city, phone, email)?;
    if !PASSWORD.contains(&password.chars().count()) {
        let (min, max) = (PASSWORD.start(), PASSWORD.end());
        let detail = format!("a password has {min} to {max} characters");
        return Err(ask::unprocessable("invalid_password", detail));
    }
    // Whoever is there is checked and whoever is not is hashed: it takes as long.
    let again = Again { password: password.clone(), profile: profile.clone() };
    let user = if let Some(known) = users.record.user(&user_id).await? {
        users.confirm(known, again).await?
    } else {
        let hash = users.passwords.hash(password).await?;
        match users.record.register(user_id.clone(), profile, hash).await? {
            Registered::New(user) => user,
            Registered::Taken => {
                let known = users.record.user(&user_id).await?.ok_or_else(taken)?;
                users.confirm(known, again).await?
            }
            Registered::Full => {
                let detail = "the shop takes no more users now";
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "full", detail));
            }
        }
    };
    Ok((StatusCode::CREATED, private(Shown::from(user))).into_response())
}

/// What a registration that is sent again says again.
struct Again {
    password: String,
    profile: Profile,
}

async fn me(With(users): With<Users>, Caller(user_id): Caller) -> Result<Response, Problem> {
    let user = users.record.user(&user_id).await?.ok_or_else(unknown)?;
    Ok(private(Shown::from(user)))
}

async fn own(
    With(users): With<Users>,
    Caller(caller): Caller,
    Part(user_id): Part,
) -> Result<Response, Problem> {
    if caller != user_id {
        return Err(unknown());
    }
    me(With(users), Caller(caller)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    name: String,
    language: Language,
    city: String,
    phone: Option<String>,
    email: Option<String>,
}

async fn change(
    With(users): With<Users>,
    Caller(user_id): Caller,
    Body(change): Body<Change>,
) -> Result<Response, Problem> {
    let Change { name, language, city, phone, email } = change;
    let profile = profile(&name, language, &city, phone, email)?;
    let user = users.record.change(&user_id, profile).await?.ok_or_else(unknown)?;
    Ok(private(Shown::from(user)))
}

async fn erase(With(users): With<Users>, Caller(user_id): Caller) -> Result<StatusCode, Problem> {
    match users.record.erase(&user_id).await? {
        Erased::Now | Erased::Before => Ok(StatusCode::NO_CONTENT),
        Erased::Nobody => Err(unknown()),
    }
}

async fn known(With(users): With<Users>, Part(user_id): Part) -> Result<Json<Known>, Problem> {
    let user = users.record.user(&user_id).await?.ok_or_else(unknown)?;
    Ok(Json(user.into()))
}

impl Users {
    /// The user, if all that was said is theirs.
    async fn confirm(&self, known: User, again: Again) -> Result<User, Problem> {
        let Again { password, profile } = again;
        let is_right = self.passwords.is_right(password, Some(known.hash.clone())).await?;
        Some(known).filter(|known| is_right && known.profile == profile).ok_or_else(taken)
    }

    fn keys(&self) -> Result<Keys, Problem> {
        Keys::known(&self.data).map_err(|error| no_keys(&error))
    }
}

/// What is personal is nobody's to keep.
fn private(body: impl Serialize) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// A letter, then letters, digits, `.`, `-` and `_`: 3 to 64. Drivers have numbers, so that no user is one.
fn user_id(text: String) -> Result<String, Problem> {
    let is_exact = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    if begins && (3..=64).contains(&text.len()) && text.bytes().all(is_exact) && text != "me" {
        return Ok(text);
    }
    let detail =
        "a user's id is a letter, and 2 to 63 letters, digits, dots, hyphens and underscores after it";
    Err(ask::unprocessable("invalid_user_id", detail.into()))
}

fn profile(
    name: &str,
    language: Language,
    city: &str,
    phone: Option<String>,
    email: Option<String>,
) -> Result<Profile, Problem> {
    let name = text::line("name", name, NAME)?;
    let city = city.parse().map_err(|error: UnknownCity| {
        ask::unprocessable("city_not_served", error.to_string()).with("cities", json!(City::ALL))
    })?;
    if !phone.as_deref().is_none_or(is_phone) {
        let detail = "a telephone is written +91 and ten digits, without spaces";
        return Err(ask::unprocessable("invalid_phone", detail.into()));
    }
    if !email.as_deref().is_none_or(is_email) {
        let detail = "an e-mail is name@host, at most 254 visible ASCII characters";
        return Err(ask::unprocessable("invalid_email", detail.into()));
    }
    Ok(Profile { name, language, city, phone, email })
}

fn is_phone(text: &str) -> bool {
    let digits = text.strip_prefix("+91").unwrap_or_default();
    digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_email(text: &str) -> bool {
    let parts = text.split_once('@').filter(|(name, host)| !name.is_empty() && host.contains('.'));
    let is_exact = text.len() <= 254 && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_exact && parts.is_some_and(|(_, host)| !host.contains('@'))
}

fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "unknown_user", "you know no user of this id")
}

fn taken() -> Problem {
    Problem::new(StatusCode::CONFLICT, "user_id_taken", "this id is taken; choose another one")
}

fn no_keys(error: &str) -> Problem {
    complain(error);
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_keys", "the keys cannot be read now")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn users() -> (Users, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("user.db");
        Keys::of(folder.path()).unwrap();
        let store = Store::open(&file, MIGRATIONS).unwrap();
        let record = Record::new(store, &file).await.unwrap();
        (Users { record, passwords: Passwords::new(), data: folder.path().to_owned() }, folder)
    }

    async fn attempt(users: &Users, user_id: &str, password: &str) -> Result<Response, Problem> {
        let (user_id, password) = (user_id.to_owned(), password.to_owned());
        login(With(users.clone()), Body(Credentials { user_id, password })).await
    }

    #[tokio::test]
    async fn r15_2_an_unknown_user_is_as_much_work_as_a_wrong_password() {
        let (users, _folder) = users().await;
        let wrong = attempt(&users, "asha", "bazaar-ravi").await.unwrap_err().to_string();
        assert_eq!(users.passwords.checks(), 1);
        let unknown = attempt(&users, "nobody", "bazaar-ravi").await.unwrap_err().to_string();
        assert_eq!(users.passwords.checks(), 2);
        assert_eq!(wrong, unknown);
        assert!(wrong.starts_with("invalid_credentials"), "{wrong}");
    }

    #[tokio::test]
    async fn the_published_passwords_are_those_of_the_first_users() {
        let (users, _folder) = users().await;
        for (user_id, password) in [
            ("asha", "bazaar-asha"),
            ("ravi", "bazaar-ravi"),
            ("divya", "bazaar-divya"),
            ("BLOCKED_mallory", "bazaar-mallory"),
        ] {
            assert!(attempt(&users, user_id, password).await.is_ok(), "{user_id}");
        }
    }

    #[test]
    fn ids_telephones_and_emails_are_checked() {
        for good in ["asha", "a-1", "A.b_c", &"a".repeat(64)] {
            assert!(user_id(good.into()).is_ok(), "{good}");
        }
        for bad in ["", "me", "ab", "001", "_me", "a b", "आशा", "a/b", &"a".repeat(65)] {
            assert!(user_id(bad.into()).is_err(), "{bad}");
        }
        assert!(is_phone("+919820012345"));
        for bad in ["", "9820012345", "+91982001234", "+91 9820012345", "+9198200123456", "+91९८२००१२३४५"]
        {
            assert!(!is_phone(bad), "{bad}");
        }
        assert!(is_email("a@b.in"));
        for bad in ["", "a", "@b.in", "a@b", "a@b@c.in", "a b@c.in", &format!("{}@b.in", "a".repeat(250))] {
            assert!(!is_email(bad), "{bad}");
        }
    }
}
