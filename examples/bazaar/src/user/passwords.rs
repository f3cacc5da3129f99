//! Passwords: kept as hashes that are costly on purpose.
//!
//! # Algorithm
//! Argon2id (RFC 9106) of 19 MiB and 2 passes, in one lane: what OWASP's Password Storage Cheat Sheet recommends; the salt is 16 random
//! bytes. Hashes are PHC strings, so their cost may be changed for those to come.
//!
//! # Rule
//! 1. Hashing takes milliseconds and megabytes **by design**, so it runs on tokio's blocking threads, at most [`AT_ONCE`] at a
//!    time. Who comes while [`WAITING`] wait, or has waited for [`PATIENCE`], gets 503 `busy`. A caller that goes leaves the
//!    queue; a hash that has begun keeps its place to its end.
//! 2. Whoever is not known is checked all the same, against a hash of the same cost that nothing fits, so that the time of an answer does not tell
//!    who is known.
//!
//! # State
//! Which places are taken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use axum::http::StatusCode;
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::kernel::{console::complain, id, problem::Problem};

/// How many hashes are made at a time: 38 MiB.
pub const AT_ONCE: usize = 2;

/// How many wait.
pub const WAITING: usize = 16;

/// How long one waits.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Nobody's: its password was never written down.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$YmF6YWFyLm9mLm5vYm9keQ$Yi7zRV0/WWC0mvJF4FS9gwz1fYNjDb1sw7vgOCv9MuE";

/// Makes and checks hashes. A clone has the same places.
#[derive(Clone, Debug)]
pub struct Passwords {
    queue: Arc<Semaphore>,
    places: Arc<Semaphore>,
    checks: Arc<AtomicU64>,
}

impl Passwords {
    /// With all places free.
    pub fn new() -> Self {
        Self {
            queue: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            checks: Arc::default(),
        }
    }

    /// The hash of a password, with a new salt.
    ///
    /// # Errors
    /// 503 `busy`.
    pub async fn hash(&self, password: String) -> Result<String, Problem> {
        let salt = id::bytes::<16>()?;
        let hash = self.in_turn(move || {
            Argon2::default().hash_password_with_salt(password.as_bytes(), &salt).map(|it| it.to_string())
        });
        hash.await?.map_err(|error| broken(&error))
    }

    /// Whether that is the password of that hash; of no hash nothing is, and that takes as long.
    ///
    /// # Errors
    /// 503 `busy`.
    pub async fn is_right(&self, password: String, hash: Option<String>) -> Result<bool, Problem> {
        let checks = Arc::clone(&self.checks);
        let is_right = self.in_turn(move || {
            let known = PasswordHash::new(hash.as_deref().unwrap_or(NOBODY))?;
            checks.fetch_add(1, Relaxed);
            let fits = Argon2::default().verify_password(password.as_bytes(), &known).is_ok();
            Ok::<_, argon2::password_hash::phc::Error>(fits && hash.is_some())
        });
        is_right.await?.map_err(|error| broken(&error))
    }

    /// How many passwords were checked.
    pub fn checks(&self) -> u64 {
        self.checks.load(Relaxed)
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let busy = || {
            let detail = "too many passwords are being checked now; the same request may be sent again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry_after(1)
        };
        let _in_queue = self.queue.try_acquire().map_err(|_| busy())?;
        let place = timeout(PATIENCE, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(busy()) };
        let working = spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        working.await.map_err(|error| broken(&error))
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

/// What is wrong inside is for our log, and not for clients.
fn broken(error: &dyn std::fmt::Display) -> Problem {
    complain(format_args!("a password could not be hashed or checked: {error}"));
    let detail = "passwords cannot be checked now; the same request may be sent again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "passwords_failed", detail).retry_after(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_is_of_one_password_and_never_twice_the_same() {
        let passwords = Passwords::new();
        let [one, two] =
            [passwords.hash("open sesame".into()).await, passwords.hash("open sesame".into()).await]
                .map(Result::unwrap);
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two);
        for (password, fits) in [("open sesame", true), ("open sesam", false), ("", false)] {
            assert_eq!(
                passwords.is_right(password.into(), Some(one.clone())).await.unwrap(),
                fits,
                "{password}"
            );
        }
    }

    #[tokio::test]
    async fn of_no_hash_nothing_is_right_and_that_is_as_costly() {
        let passwords = Passwords::new();
        let hash = passwords.hash("open sesame".into()).await.unwrap();
        let cost = |hash: &str| hash.rsplitn(3, '$').last().map(str::to_owned);
        assert_eq!(cost(NOBODY), cost(&hash));
        assert!(!passwords.is_right("open sesame".into(), None).await.unwrap());
        assert_eq!(passwords.checks(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_long_enough_and_who_finds_no_place_to_wait_is_told_so() {
        let passwords = Passwords::new();
        let taken = Arc::clone(&passwords.places).acquire_many_owned(2).await.unwrap();
        let waited = passwords.hash("open sesame".into()).await.unwrap_err();
        assert!(waited.to_string().starts_with("busy: "), "{waited}");
        drop(taken);
        let queue = Arc::clone(&passwords.queue).acquire_many_owned(18).await.unwrap();
        let turned_away = passwords.hash("open sesame".into()).await.unwrap_err();
        assert!(turned_away.to_string().starts_with("busy: "), "{turned_away}");
        drop(queue);
        passwords.hash("open sesame".into()).await.unwrap();
    }
}
