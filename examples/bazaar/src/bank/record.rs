//! The bank's record: holds, charges, and each movement of money.
//!
//! # Rule
//! Every change is one transaction. A key names one hold or charge for ever; what was released or refunded before it came leaves a
//! **mark**, so that it is refused when it comes after all. A **movement** is written with the charge or
//! refund that it is, at most one of each for a charge, and is never changed or taken away: the tables refuse that.
//!
//! # Bounds
//! Holds are forgotten a week ([`FORGOTTEN`]) after they have run out, marks after they were made.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};

use crate::{
    kernel::{
        column::Word,
        store::{Migrations, Store, StoreError},
    },
    rules::{moment::Moment, money::Money, payment::Method},
};

/// How long a hold that is over, and a mark, are remembered.
pub const FORGOTTEN: Duration = Duration::from_hours(7 * 24);

/// How many attempts of a late charge do nothing.
pub const LATE: u32 = 2;

/// The tables.
pub const MIGRATIONS: Migrations = &["
    CREATE TABLE holds (
        key TEXT PRIMARY KEY,
        account TEXT,  -- none: a mark
        method TEXT,
        paise INTEGER CHECK (paise > 0),
        state TEXT NOT NULL CHECK (state IN ('held', 'released', 'captured')),
        expires_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX holds_by_end ON holds (expires_at);
    CREATE TABLE charges (
        key TEXT PRIMARY KEY,
        hold TEXT,
        account TEXT,  -- none: a mark
        method TEXT,
        paise INTEGER CHECK (paise > 0),
        state TEXT NOT NULL CHECK (state IN ('charged', 'refunded', 'marked')),
        transaction_id TEXT UNIQUE,
        bank_reference TEXT,
        at INTEGER NOT NULL,
        CHECK ((state = 'marked') = (account IS NULL))
    ) STRICT;
    CREATE INDEX marks ON charges (at) WHERE state = 'marked';
    CREATE TABLE movements (
        number INTEGER PRIMARY KEY,
        charge TEXT NOT NULL REFERENCES charges,
        entry TEXT NOT NULL CHECK (entry IN ('charge', 'refund')),
        paise INTEGER NOT NULL CHECK (paise > 0),
        at INTEGER NOT NULL,
        UNIQUE (charge, entry)
    ) STRICT;
    CREATE TRIGGER movements_stay BEFORE UPDATE ON movements
        BEGIN SELECT RAISE(ABORT, 'movements are never changed'); END;
    CREATE TRIGGER movements_are_kept BEFORE DELETE ON movements
        BEGIN SELECT RAISE(ABORT, 'movements are never taken away'); END;
    CREATE TABLE attempts (
        charge TEXT PRIMARY KEY,
        count INTEGER NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX attempts_by_age ON attempts (at);
"];

/// Where a hold is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldState {
    /// It holds, until it runs out.
    Held,
    /// It was released.
    Released,
    /// A charge has used it.
    Captured,
}

impl HoldState {
    /// As in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Released => "released",
            Self::Captured => "captured",
        }
    }

    fn read(text: &str) -> Self {
        match text {
            "held" => Self::Held,
            "captured" => Self::Captured,
            _ => Self::Released,
        }
    }
}

/// A hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its key.
    pub key: String,
    /// Where it is in its life.
    pub state: HoldState,
    /// How much; none for a mark.
    pub amount: Option<Money>,
    /// Until when; none for a mark.
    pub expires_at: Option<Moment>,
}

/// A hold to be.
#[derive(Clone, Debug)]
pub struct HoldRequest {
    /// Its key.
    pub key: String,
    /// Of whose money.
    pub account: String,
    /// How it is paid.
    pub method: Method,
    /// How much.
    pub amount: Money,
    /// Until when.
    pub expires_at: Moment,
}

/// What the wish for a hold came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// The hold that it made, or that the same key made before.
    Hold(Hold),
    /// It is over.
    Over,
    /// The key names another hold.
    Other,
}

/// Where a charge is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeState {
    /// There is none of this key.
    None,
    /// The money was taken.
    Charged,
    /// And given back.
    Refunded,
    /// It was never taken, and never will be.
    Marked,
}

impl ChargeState {
    /// As in answers.
    pub const fn shown(self) -> &'static str {
        match self {
            Self::None | Self::Marked => "none",
            Self::Charged => "charged",
            Self::Refunded => "refunded",
        }
    }

    /// Whether it cannot be charged any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Refunded | Self::Marked)
    }

    fn read(text: &str) -> Self {
        match text {
            "charged" => Self::Charged,
            "refunded" => Self::Refunded,
            _ => Self::Marked,
        }
    }
}

/// A charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Its key.
    pub key: String,
    /// Where it is in its life.
    pub state: ChargeState,
    /// How much, if anything was taken.
    pub amount: Option<Money>,
    /// The bank's name for it, if anything was taken.
    pub transaction_id: Option<String>,
    /// The number on the statement, if anything was taken.
    pub bank_reference: Option<String>,
}

impl Charge {
    fn nothing(key: String, state: ChargeState) -> Self {
        Self { key, state, amount: None, transaction_id: None, bank_reference: None }
    }
}

/// A charge to be.
#[derive(Clone, Debug)]
pub struct ChargeRequest {
    /// Its key.
    pub key: String,
    /// The hold that it uses.
    pub hold: Option<String>,
    /// Whose money.
    pub account: String,
    /// How it is paid.
    pub method: Method,
    /// How much.
    pub amount: Money,
    /// The bank's name for it, if it is a new one.
    pub transaction_id: String,
    /// The number on the statement, if it is a new one.
    pub bank_reference: String,
}

/// What the wish for a charge came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Charged {
    /// The charge that it made, or that the same key made before.
    Charge(Charge),
    /// It was refunded.
    Over,
    /// The key names another charge.
    Other,
    /// There is no such hold any more.
    HoldOver,
    /// The hold is for something else.
    HoldMismatch,
}

/// The holds, charges and movements.
#[derive(Clone, Debug)]
pub struct Record {
    store: Store,
}

impl Record {
    /// Those in the store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Holds an amount.
    pub async fn hold(&self, request: HoldRequest, now: Moment) -> Result<Held, StoreError> {
        self.store.write(move |transaction| hold(transaction, request, now)).await
    }

    /// Lets a hold go, or leaves a mark.
    pub async fn release(&self, key: String, now: Moment) -> Result<Hold, StoreError> {
        let release = move |transaction: &Transaction<'_>| {
            let mark = "INSERT INTO holds (key, state, expires_at) VALUES (?1, 'released', ?2)
                ON CONFLICT (key) DO UPDATE SET state = 'released' WHERE state = 'held'";
            transaction.execute(mark, (&key, now.unix()))?;
            Ok(hold_row(transaction, &key)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?.hold)
        };
        self.store.write(release).await
    }

    /// Takes an amount.
    pub async fn charge(&self, request: ChargeRequest, now: Moment) -> Result<Charged, StoreError> {
        self.store.write(move |transaction| charge(transaction, request, now)).await
    }

    /// The charge of that key.
    pub async fn look(&self, key: String) -> Result<Charge, StoreError> {
        let look = move |connection: &Connection| {
            let known = charge_row(connection, &key)?;
            Ok(known.map_or_else(|| Charge::nothing(key, ChargeState::None), |it| it.charge))
        };
        self.store.read(look).await
    }

    /// Gives back what was taken, or leaves a mark.
    pub async fn refund(&self, key: String, now: Moment) -> Result<Charge, StoreError> {
        self.store.write(move |transaction| refund(transaction, key, now)).await
    }

    /// Whether an attempt of a late charge is one of those that do nothing; counts it.
    pub async fn is_too_early(&self, key: String, now: Moment) -> Result<bool, StoreError> {
        let attempt = move |transaction: &Transaction<'_>| {
            let count = "INSERT INTO attempts VALUES (?1, 1, ?2)
                ON CONFLICT (charge) DO UPDATE SET count = count + 1 RETURNING count";
            let count = transaction.query_row(count, (&key, now.unix()), |row| row.get::<_, u32>(0))?;
            Ok(count <= LATE)
        };
        self.store.write(attempt).await
    }

    /// Forgets what is older than [`FORGOTTEN`], and is no record of money.
    pub async fn sweep(&self, now: Moment) -> Result<(), StoreError> {
        let before = now.before(FORGOTTEN).unix();
        let sweep = move |transaction: &Transaction<'_>| {
            for old in [
                "DELETE FROM holds WHERE expires_at < ?1",
                "DELETE FROM charges WHERE state = 'marked' AND at < ?1",
                "DELETE FROM attempts WHERE at < ?1",
            ] {
                transaction.execute(old, [before])?;
            }
            Ok(())
        };
        self.store.write(sweep).await
    }
}

struct HoldRow {
    hold: Hold,
    /// None for a mark.
    of: Option<(String, Method)>,
}

impl HoldRow {
    fn is_of(&self, account: &str, method: Method, amount: Money) -> bool {
        let of = self.of.as_ref().is_some_and(|(it, how)| it == account && *how == method);
        of && self.hold.amount == Some(amount)
    }

    fn holds(&self, now: Moment) -> bool {
        self.hold.state == HoldState::Held && self.hold.expires_at.is_some_and(|until| now < until)
    }
}

fn hold_row(connection: &Connection, key: &str) -> rusqlite::Result<Option<HoldRow>> {
    let row = |row: &Row<'_>| {
        let of = row.get::<_, Option<String>>("account")?.zip(row.get::<_, Option<Word<Method>>>("method")?);
        let expires_at = Moment::from_unix(row.get("expires_at")?);
        let hold = Hold {
            key: row.get("key")?,
            state: HoldState::read(&row.get::<_, String>("state")?),
            amount: row.get::<_, Option<i64>>("paise")?.map(Money::from_paise),
            expires_at: of.is_some().then_some(expires_at),
        };
        Ok(HoldRow { hold, of: of.map(|(account, Word(method))| (account, method)) })
    };
    connection.query_row("SELECT * FROM holds WHERE key = ?1", [key], row).optional()
}

fn hold(transaction: &Transaction<'_>, request: HoldRequest, now: Moment) -> rusqlite::Result<Held> {
    let HoldRequest { key, account, method, amount, expires_at } = request;
    if let Some(known) = hold_row(transaction, &key)? {
        return Ok(match known.of {
            Some(_) if !known.is_of(&account, method, amount) => Held::Other,
            _ if known.holds(now) => Held::Hold(known.hold),
            _ => Held::Over,
        });
    }
    transaction.execute(
        "INSERT INTO holds VALUES (?1, ?2, ?3, ?4, 'held', ?5)",
        (&key, &account, method.as_str(), amount.paise(), expires_at.unix()),
    )?;
    let (amount, expires_at) = (Some(amount), Some(expires_at));
    Ok(Held::Hold(Hold { key, state: HoldState::Held, amount, expires_at }))
}

struct ChargeRow {
    charge: Charge,
    hold: Option<String>,
    /// None for a mark.
    of: Option<(String, Method)>,
}

fn charge_row(connection: &Connection, key: &str) -> rusqlite::Result<Option<ChargeRow>> {
    let row = |row: &Row<'_>| {
        let of = row.get::<_, Option<String>>("account")?.zip(row.get::<_, Option<Word<Method>>>("method")?);
        let charge = Charge {
            key: row.get("key")?,
            state: ChargeState::read(&row.get::<_, String>("state")?),
            amount: row.get::<_, Option<i64>>("paise")?.map(Money::from_paise),
            transaction_id: row.get("transaction_id")?,
            bank_reference: row.get("bank_reference")?,
        };
        let of = of.map(|(account, Word(method))| (account, method));
        Ok(ChargeRow { charge, hold: row.get("hold")?, of })
    };
    connection.query_row("SELECT * FROM charges WHERE key = ?1", [key], row).optional()
}

fn charge(transaction: &Transaction<'_>, request: ChargeRequest, now: Moment) -> rusqlite::Result<Charged> {
    let ChargeRequest { key, hold, account, method, amount, transaction_id, bank_reference } = request;
    if let Some(known) = charge_row(transaction, &key)? {
        let is_same =
            known.of == Some((account, method)) && known.charge.amount == Some(amount) && known.hold == hold;
        return Ok(match known.charge.state {
            ChargeState::Marked => Charged::Over,
            _ if !is_same => Charged::Other,
            ChargeState::Refunded => Charged::Over,
            _ => Charged::Charge(known.charge),
        });
    }
    if let Some(hold) = &hold {
        let Some(held) = hold_row(transaction, hold)? else { return Ok(Charged::HoldOver) };
        if held.of.is_some() && !held.is_of(&account, method, amount) {
            return Ok(Charged::HoldMismatch);
        }
        if !held.holds(now) {
            return Ok(Charged::HoldOver);
        }
        transaction.execute("UPDATE holds SET state = 'captured' WHERE key = ?1", [hold])?;
    }
    transaction.execute(
        "INSERT INTO charges VALUES (?1, ?2, ?3, ?4, ?5, 'charged', ?6, ?7, ?8)",
        (
            &key,
            &hold,
            &account,
            method.as_str(),
            amount.paise(),
            &transaction_id,
            &bank_reference,
            now.unix(),
        ),
    )?;
    moved(transaction, &key, "charge", amount, now)?;
    Ok(Charged::Charge(Charge {
        key,
        state: ChargeState::Charged,
        amount: Some(amount),
        transaction_id: Some(transaction_id),
        bank_reference: Some(bank_reference),
    }))
}

fn refund(transaction: &Transaction<'_>, key: String, now: Moment) -> rusqlite::Result<Charge> {
    let Some(ChargeRow { charge, .. }) = charge_row(transaction, &key)? else {
        let mark = "INSERT INTO charges (key, state, at) VALUES (?1, 'marked', ?2)";
        transaction.execute(mark, (&key, now.unix()))?;
        return Ok(Charge::nothing(key, ChargeState::Marked));
    };
    let (ChargeState::Charged, Some(amount)) = (charge.state, charge.amount) else { return Ok(charge) };
    transaction.execute("UPDATE charges SET state = 'refunded' WHERE key = ?1", [&key])?;
    moved(transaction, &key, "refund", amount, now)?;
    Ok(Charge { state: ChargeState::Refunded, ..charge })
}

fn moved(
    transaction: &Transaction<'_>,
    charge: &str,
    entry: &str,
    amount: Money,
    now: Moment,
) -> rusqlite::Result<()> {
    let insert = "INSERT INTO movements (charge, entry, paise, at) VALUES (?1, ?2, ?3, ?4)";
    transaction.execute(insert, (charge, entry, amount.paise(), now.unix())).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Moment = Moment::from_unix(1_768_458_600);

    fn record() -> (Record, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(Store::open(&folder.path().join("bank.db"), MIGRATIONS).unwrap());
        (record, folder)
    }

    fn request(key: &str, hold: Option<&str>) -> ChargeRequest {
        ChargeRequest {
            key: key.into(),
            hold: hold.map(str::to_owned),
            account: "asha@upi".into(),
            method: Method::Upi,
            amount: Money::from_paise(150_000),
            transaction_id: format!("txn_{key}"),
            bank_reference: "1".into(),
        }
    }

    fn hold_request(key: &str) -> HoldRequest {
        HoldRequest {
            key: key.into(),
            account: "asha@upi".into(),
            method: Method::Upi,
            amount: Money::from_paise(150_000),
            expires_at: NOON.after(Duration::from_mins(15)),
        }
    }

    #[tokio::test]
    async fn a_hold_that_has_run_out_pays_nothing() {
        let (record, _folder) = record();
        let last = NOON.after(Duration::from_secs(15 * 60 - 1));
        let end = NOON.after(Duration::from_mins(15));
        for key in ["a", "b"] {
            assert!(matches!(record.hold(hold_request(key), NOON).await.unwrap(), Held::Hold(_)));
        }
        assert!(matches!(record.hold(hold_request("a"), last).await.unwrap(), Held::Hold(_)));
        assert_eq!(record.hold(hold_request("a"), end).await.unwrap(), Held::Over);
        assert_eq!(record.charge(request("1", Some("a")), end).await.unwrap(), Charged::HoldOver);
        assert!(matches!(record.charge(request("2", Some("b")), last).await.unwrap(), Charged::Charge(_)));
        assert_eq!(record.charge(request("3", Some("b")), last).await.unwrap(), Charged::HoldOver);
        assert!(matches!(record.charge(request("2", Some("b")), end).await.unwrap(), Charged::Charge(_)));
    }

    #[tokio::test]
    async fn movements_are_never_changed_or_taken_away() {
        let (record, _folder) = record();
        record.charge(request("1", None), NOON).await.unwrap();
        for change in ["UPDATE movements SET paise = 1", "DELETE FROM movements"] {
            let changed = record.store.write(move |transaction| transaction.execute(change, ())).await;
            assert!(matches!(changed, Err(StoreError::Failed(_))), "{change}");
        }
    }

    #[tokio::test]
    async fn what_is_old_is_forgotten_and_money_is_not() {
        let (record, _folder) = record();
        record.hold(hold_request("a"), NOON).await.unwrap();
        record.charge(request("1", None), NOON).await.unwrap();
        record.refund("2".into(), NOON).await.unwrap();
        record.is_too_early("3".into(), NOON).await.unwrap();
        let count = || {
            record.store.read(|connection| {
                let count = "SELECT (SELECT count(*) FROM holds), (SELECT count(*) FROM charges),
                    (SELECT count(*) FROM attempts), (SELECT count(*) FROM movements)";
                let row = |row: &Row<'_>| Ok([row.get::<_, u32>(0)?, row.get(1)?, row.get(2)?, row.get(3)?]);
                connection.query_row(count, (), row)
            })
        };
        record.sweep(NOON.after(FORGOTTEN)).await.unwrap();
        assert_eq!(count().await.unwrap(), [1, 2, 1, 1]);
        record.sweep(NOON.after(FORGOTTEN + Duration::from_hours(1))).await.unwrap();
        assert_eq!(count().await.unwrap(), [0, 1, 0, 1]);
    }
}
