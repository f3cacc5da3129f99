//! The record of users: who they are, how well they are known, and the hash of a password.
//!
//! # Rule
//! A user's id is the key of their registration. Who is erased is gone from the file: the row is overwritten with zeros
//! (`PRAGMA secure_delete`), and the write-ahead log, in which older pages stand, is cut off (`wal_checkpoint(TRUNCATE)`), at once and at
//! each start. What stays is a digest of the id, so that nobody else gets the same one, and with it that
//! user's orders. SQLite's own words: <https://www.sqlite.org/pragma.html#pragma_secure_delete>.
//!
//! # Bounds
//! [`USERS`], those who are erased included.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, Transaction};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::{
    kernel::{
        column::Word,
        console::complain,
        store::{Migrations, Store, StoreError},
    },
    rules::{address::City, language::Language, payment::Kyc, shipping::Tier},
};

/// How many users there can be.
pub const USERS: u32 = 100_000;

/// How long cutting off the log waits for who reads or writes.
const BUSY: Duration = Duration::from_secs(5);

/// The tables, and who is known from the first day on. The passwords of these are published: `bazaar-asha`, `bazaar-ravi`,
/// `bazaar-divya`, `bazaar-mallory`.
pub const MIGRATIONS: Migrations = &[
    "
    CREATE TABLE users (
        user_id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        language TEXT NOT NULL,
        city TEXT NOT NULL,
        phone TEXT,
        email TEXT,
        tier TEXT NOT NULL,
        kyc TEXT NOT NULL,
        risk INTEGER NOT NULL CHECK (risk BETWEEN 0 AND 100),
        blocked INTEGER NOT NULL CHECK (blocked IN (0, 1)),
        password TEXT NOT NULL  -- a hash
    ) STRICT;
    CREATE TABLE erased (user_id BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;  -- a digest
    ",
    "
    INSERT INTO users VALUES
    ('asha', 'Asha', 'hi', 'mumbai', '+919820012345', 'asha@example.com', 'premium', 'full', 10, 0,
        '$argon2id$v=19$m=19456,t=2,p=1$YmF6YWFyLm9mLmFzaGEuMQ$aVWK/XGpKfDJq1RWux2TXMEI9tLVQYrWf7YWtU59hiA'),
    ('ravi', 'Ravi', 'hi', 'delhi', '+919810054321', 'ravi@example.com', 'plus', 'full', 20, 0,
        '$argon2id$v=19$m=19456,t=2,p=1$YmF6YWFyLm9mLnJhdmkuMg$/IOyW3kFn5/qvYdAjYZV1VOVGh4huUH20eJDrDL2O/I'),
    ('divya', 'Divya', 'en', 'bangalore', '+919880067890', 'divya@example.com', 'regular', 'basic', 30, 0,
        '$argon2id$v=19$m=19456,t=2,p=1$YmF6YWFyLm9mLmRpdnlhMw$HNxN4Aa3yReRurpJDHSNCDwBTA6Riv7FYij8ysm3EbI'),
    ('BLOCKED_mallory', 'Mallory', 'en', 'mumbai', '+919870000000', 'mallory@example.com', 'regular', 'minimal', 90, 1,
        '$argon2id$v=19$m=19456,t=2,p=1$YmF6YWFyLm9mLm1hbGxvNA$OOBXSPhL/dnJO/qAx9C7BFgJhgRm8yBW9kXrscBLujo');
    ",
];

/// What users say about themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// What they are called.
    pub name: String,
    /// What they read.
    pub language: Language,
    /// Where they live.
    pub city: City,
    /// Their telephone.
    pub phone: Option<String>,
    /// Their e-mail.
    pub email: Option<String>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Their id.
    pub user_id: String,
    /// What they say about themselves.
    pub profile: Profile,
    /// What they are to the shop.
    pub tier: Tier,
    /// How well the shop knows them.
    pub kyc: Kyc,
    /// How suspicious they are, from 0 to 100.
    pub risk: u32,
    /// Whether they may not pay.
    pub is_blocked: bool,
    /// The hash of their password.
    pub hash: String,
}

/// A user, as other services see them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Their id.
    pub user_id: String,
    /// What they are called.
    pub name: String,
    /// What they read.
    pub language: Language,
    /// Where they live.
    pub city: City,
    /// What they are to the shop.
    pub tier: Tier,
    /// How well the shop knows them.
    pub kyc: Kyc,
    /// How suspicious they are, from 0 to 100.
    pub risk: u32,
    /// Whether they may not pay.
    pub blocked: bool,
    /// Their telephone.
    pub phone: Option<String>,
    /// Their e-mail.
    pub email: Option<String>,
}

impl From<User> for Known {
    fn from(user: User) -> Self {
        let User { user_id, profile, tier, kyc, risk, is_blocked: blocked, .. } = user;
        let Profile { name, language, city, phone, email } = profile;
        Self { user_id, name, language, city, tier, kyc, risk, blocked, phone, email }
    }
}

/// What a registration came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// A new user.
    New(User),
    /// The id is taken.
    Taken,
    /// There are as many as there can be.
    Full,
}

/// What erasing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erased {
    /// Now.
    Now,
    /// Before.
    Before,
    /// There was nobody.
    Nobody,
}

/// The users.
#[derive(Clone, Debug)]
pub struct Record {
    store: Store,
    file: PathBuf,
}

impl Record {
    /// Those in the store, which is that file. Finishes what a crash may have left of somebody erased.
    pub async fn new(store: Store, file: &Path) -> Result<Self, StoreError> {
        let record = Self { store, file: file.to_owned() };
        record.store.write(|transaction| transaction.pragma_update(None, "secure_delete", true)).await?;
        record.cut_log().await;
        Ok(record)
    }

    /// The user of that id.
    pub async fn user(&self, user_id: &str) -> Result<Option<User>, StoreError> {
        let user_id = user_id.to_owned();
        self.store.read(move |connection| by_id(connection, &user_id)).await
    }

    /// Makes a user.
    pub async fn register(
        &self,
        user_id: String,
        profile: Profile,
        hash: String,
    ) -> Result<Registered, StoreError> {
        let register = move |transaction: &Transaction<'_>| {
            if by_id(transaction, &user_id)?.is_some() || is_erased(transaction, &user_id)? {
                return Ok(Registered::Taken);
            }
            let count = "SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM erased)";
            if transaction.query_row(count, (), |row| row.get::<_, u32>(0))? >= USERS {
                return Ok(Registered::Full);
            }
            let (tier, kyc, risk, is_blocked) = (Tier::default(), Kyc::default(), NEWCOMER, false);
            let user = User { user_id, profile, tier, kyc, risk, is_blocked, hash };
            insert(transaction, &user)?;
            Ok(Registered::New(user))
        };
        self.store.write(register).await
    }

    /// Changes what a user says about themselves; none if there is no such user.
    pub async fn change(&self, user_id: &str, profile: Profile) -> Result<Option<User>, StoreError> {
        let user_id = user_id.to_owned();
        let change = move |transaction: &Transaction<'_>| {
            let Profile { name, language, city, phone, email } = profile;
            transaction.execute(
                "UPDATE users SET name = ?2, language = ?3, city = ?4, phone = ?5, email = ?6 WHERE user_id = ?1",
                (&user_id, name, language.as_str(), city.as_str(), phone, email),
            )?;
            by_id(transaction, &user_id)
        };
        self.store.write(change).await
    }

    /// Erases a user.
    pub async fn erase(&self, user_id: &str) -> Result<Erased, StoreError> {
        let user_id = user_id.to_owned();
        let erase = move |transaction: &Transaction<'_>| {
            if transaction.execute("DELETE FROM users WHERE user_id = ?1", [&user_id])? == 0 {
                let was = is_erased(transaction, &user_id)?;
                return Ok(if was { Erased::Before } else { Erased::Nobody });
            }
            transaction.execute("INSERT INTO erased VALUES (?1)", [digest_of(&user_id)])?;
            Ok(Erased::Now)
        };
        let erased = self.store.write(erase).await?;
        if erased == Erased::Now {
            self.cut_log().await;
        }
        Ok(erased)
    }

    /// Writes the log into the file and cuts it off, with all that it still says of before. If that
    /// cannot be done now, somebody hears of it, and it is done at the next erasure or start.
    async fn cut_log(&self) {
        let file = self.file.clone();
        let cut = spawn_blocking(move || {
            let connection = Connection::open(&file)?;
            connection.busy_timeout(BUSY)?;
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get::<_, bool>(0))
        });
        match cut.await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => complain("the log of the users' file is in use and is cut off later"),
            Ok(Err(error)) => complain(format_args!("the log of the users' file cannot be cut off: {error}")),
            Err(error) => complain(format_args!("the log of the users' file was not cut off: {error}")),
        }
    }
}

/// The risk of somebody whom nobody knows yet.
const NEWCOMER: u32 = 40;

fn by_id(connection: &Connection, user_id: &str) -> rusqlite::Result<Option<User>> {
    connection.query_row("SELECT * FROM users WHERE user_id = ?1", [user_id], user).optional()
}

fn is_erased(connection: &Connection, user_id: &str) -> rusqlite::Result<bool> {
    let erased = "SELECT 1 FROM erased WHERE user_id = ?1";
    Ok(connection.query_row(erased, [digest_of(user_id)], |_| Ok(())).optional()?.is_some())
}

fn insert(transaction: &Transaction<'_>, user: &User) -> rusqlite::Result<()> {
    let User { user_id, profile, tier, kyc, risk, is_blocked, hash } = user;
    let Profile { name, language, city, phone, email } = profile;
    let row: [&dyn ToSql; 11] = [
        user_id,
        name,
        &language.as_str(),
        &city.as_str(),
        phone,
        email,
        &tier.as_str(),
        &kyc.as_str(),
        risk,
        is_blocked,
        hash,
    ];
    let insert = "INSERT INTO users VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    transaction.execute(insert, row).map(drop)
}

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        user_id: row.get("user_id")?,
        profile: Profile {
            name: row.get("name")?,
            language: row.get::<_, Word<Language>>("language")?.0,
            city: row.get::<_, Word<City>>("city")?.0,
            phone: row.get("phone")?,
            email: row.get("email")?,
        },
        tier: row.get::<_, Word<Tier>>("tier")?.0,
        kyc: row.get::<_, Word<Kyc>>("kyc")?.0,
        risk: row.get("risk")?,
        is_blocked: row.get("blocked")?,
        hash: row.get("password")?,
    })
}

fn digest_of(user_id: &str) -> Vec<u8> {
    digest(&SHA256, user_id.as_bytes()).as_ref().to_vec()
}
