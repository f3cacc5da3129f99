//! The record of payments: who pays for which order, how far it has come, and where the money went.
//!
//! # Rule
//! Every change is a transaction with the saga's own record, so that they cannot disagree.
//!
//! - **One payment an order.** While a payment is pending, completed or refunded, its order has no other; one that failed makes way.
//! - **Ledger.** Double entry: the postings of a payment add up to nothing. Taking it debits the shop's clearing account with all of
//!   it and credits the merchant and the commission ([`split`]); reversing it does the opposite of exactly that.
//! - **Days.** What a merchant may receive on a day is claimed before it is charged, and given back if it is undone.
//! - **Closed orders.** An order that was called off takes no payment any more, also if its payment is on its way.
//!
//! # Bounds
//! Payments and postings are records, and are kept. Closed orders are kept with them. What is known of an account is in the
//! saga, and in that of its order, for thirty days; here are only its last four characters.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::{
    kernel::{
        column::Word,
        outbox,
        saga::{self, Cause},
        store::Migrations,
    },
    rules::{
        moment::Moment,
        money::Money,
        payment::{Method, Split, split},
    },
};

/// Who is paid.
pub const MERCHANT: &str = "bazaar";

/// The tables.
pub const MIGRATIONS: Migrations = &[
    saga::TABLES,
    outbox::TABLES,
    "
    CREATE TABLE payments (
        payment_id TEXT PRIMARY KEY,
        order_id TEXT NOT NULL,
        user_id TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        method TEXT NOT NULL,
        account TEXT NOT NULL,  -- its last four characters
        amount INTEGER NOT NULL CHECK (amount > 0),  -- in paise
        state TEXT NOT NULL CHECK (state IN ('pending', 'completed', 'failing', 'refunding', 'failed', 'refunded', 'stuck')),
        transaction_id TEXT,
        reason TEXT,  -- why it failed
        detail TEXT,
        at INTEGER NOT NULL,
        changed_at INTEGER NOT NULL,
        UNIQUE (user_id, idempotency_key)
    ) STRICT;
    CREATE UNIQUE INDEX one_payment_an_order ON payments (order_id) WHERE state <> 'failed';
    CREATE INDEX payments_of_an_order ON payments (order_id, at);
    CREATE TABLE postings (
        payment_id TEXT NOT NULL REFERENCES payments,
        entry TEXT NOT NULL CHECK (entry IN ('capture', 'reversal')),
        account TEXT NOT NULL CHECK (account IN ('clearing', 'merchant', 'commission')),
        paise INTEGER NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (payment_id, entry, account)
    ) STRICT;
    CREATE TABLE merchant_days (
        payment_id TEXT PRIMARY KEY REFERENCES payments,
        day INTEGER NOT NULL,  -- of India, since 1970
        paise INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX merchant_days_in_order ON merchant_days (day);
    CREATE TABLE closed_orders (
        order_id TEXT PRIMARY KEY,
        reason TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE analytics (
        day INTEGER NOT NULL,
        method TEXT NOT NULL,
        what TEXT NOT NULL CHECK (what IN ('completed', 'reversed')),
        count INTEGER NOT NULL,
        PRIMARY KEY (day, method, what)
    ) STRICT;
    ",
];

/// How far a payment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is worked on.
    Pending,
    /// The money is taken.
    Completed,
    /// It is undone, because it failed.
    Failing,
    /// It is undone, because its order was called off.
    Refunding,
    /// It failed, and all is undone.
    Failed,
    /// It was given back.
    Refunded,
    /// Something could not be undone, and needs somebody.
    Stuck,
}

impl State {
    const ALL: [Self; 7] = [
        Self::Pending,
        Self::Completed,
        Self::Failing,
        Self::Refunding,
        Self::Failed,
        Self::Refunded,
        Self::Stuck,
    ];

    /// As in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Failing => "failing",
            Self::Refunding => "refunding",
            Self::Failed => "failed",
            Self::Refunded => "refunded",
            Self::Stuck => "stuck",
        }
    }

    /// Whether it is known what becomes of the money.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Refunded | Self::Stuck)
    }
}

impl std::str::FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|it| it.as_str() == text).ok_or(UnknownState)
    }
}

/// A state that there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownState;

impl std::fmt::Display for UnknownState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this is not a state of a payment")
    }
}

impl std::error::Error for UnknownState {}

/// A payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// Its id.
    pub payment_id: String,
    /// For which order.
    pub order_id: String,
    /// Who pays.
    pub user_id: String,
    /// How.
    pub method: Method,
    /// From where: the last four characters.
    pub account: String,
    /// How much.
    pub amount: Money,
    /// How far it has come.
    pub state: State,
    /// The bank's id.
    pub transaction_id: Option<String>,
    /// Why it failed: a word for programs.
    pub reason: Option<String>,
    /// A sentence for people.
    pub detail: Option<String>,
    /// When it was asked for.
    pub at: Moment,
    /// When it changed last.
    pub changed_at: Moment,
}

/// A payment to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its id.
    pub payment_id: String,
    /// For which order.
    pub order_id: String,
    /// Who pays.
    pub user_id: String,
    /// What names it.
    pub idempotency_key: String,
    /// How.
    pub method: Method,
    /// From where.
    pub account: String,
    /// How much.
    pub amount: Money,
}

/// What asking for a payment came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is new.
    New,
    /// The key names this one.
    Known(Box<Payment>),
    /// The order has this one.
    Taken(Box<Payment>),
    /// The order takes none any more.
    Closed,
}

/// Writes down that a payment is wanted, unless there is one.
///
/// # Errors
/// Those of the store.
pub fn want(transaction: &Transaction<'_>, wanted: &Wanted, now: Moment) -> rusqlite::Result<Asked> {
    if let Some(known) = by_key(transaction, &wanted.user_id, &wanted.idempotency_key)? {
        return Ok(Asked::Known(Box::new(known)));
    }
    if is_closed(transaction, &wanted.order_id)? {
        return Ok(Asked::Closed);
    }
    if let Some(taken) = of_order(transaction, &wanted.order_id)? {
        return Ok(Asked::Taken(Box::new(taken)));
    }
    let insert =
        "INSERT INTO payments (payment_id, order_id, user_id, idempotency_key, method, account, amount,
        state, at, changed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'pending', ?8, ?8)";
    let Wanted { payment_id, order_id, user_id, idempotency_key, method, account, amount } = wanted;
    let row = rusqlite::params![
        payment_id,
        order_id,
        user_id,
        idempotency_key,
        method.as_str(),
        last_four(account),
        amount.paise(),
        now.unix(),
    ];
    transaction.execute(insert, row)?;
    Ok(Asked::New)
}

/// The last four characters, as on a receipt.
pub fn last_four(account: &str) -> String {
    let skipped = account.chars().count().saturating_sub(4);
    account.chars().skip(skipped).collect()
}

/// A payment by its id.
///
/// # Errors
/// Those of the store.
pub fn by_id(connection: &Connection, payment_id: &str) -> rusqlite::Result<Option<Payment>> {
    connection.query_row(&format!("{SELECT} WHERE payment_id = ?1"), [payment_id], payment).optional()
}

/// A payment by its user's key.
///
/// # Errors
/// Those of the store.
pub fn by_key(connection: &Connection, user_id: &str, key: &str) -> rusqlite::Result<Option<Payment>> {
    let sql = format!("{SELECT} WHERE user_id = ?1 AND idempotency_key = ?2");
    connection.query_row(&sql, (user_id, key), payment).optional()
}

/// The payment of an order that has not failed, if there is one.
///
/// # Errors
/// Those of the store.
pub fn of_order(connection: &Connection, order_id: &str) -> rusqlite::Result<Option<Payment>> {
    let sql = format!("{SELECT} WHERE order_id = ?1 AND state <> 'failed'");
    connection.query_row(&sql, [order_id], payment).optional()
}

/// From now on the order takes no payment.
///
/// # Errors
/// Those of the store.
pub fn close(
    transaction: &Transaction<'_>,
    order_id: &str,
    reason: &str,
    now: Moment,
) -> rusqlite::Result<()> {
    let insert = "INSERT OR IGNORE INTO closed_orders VALUES (?1, ?2, ?3)";
    transaction.execute(insert, (order_id, reason, now.unix())).map(drop)
}

fn is_closed(connection: &Connection, order_id: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM closed_orders WHERE order_id = ?1)";
    connection.query_row(sql, [order_id], |row| row.get(0))
}

/// A payment goes on; if it is one that is to be explained, with the reason.
///
/// # Errors
/// Those of the store.
pub fn step(
    transaction: &Transaction<'_>,
    payment_id: &str,
    state: State,
    cause: Option<&Cause>,
    now: Moment,
) -> rusqlite::Result<()> {
    let update = "UPDATE payments SET state = ?2, changed_at = ?3, reason = coalesce(?4, reason),
        detail = coalesce(?5, detail) WHERE payment_id = ?1";
    let (reason, detail) = cause.map(|it| (it.reason.as_str(), it.detail.as_str())).unzip();
    transaction.execute(update, (payment_id, state.as_str(), now.unix(), reason, detail)).map(drop)
}

/// What the bank calls it.
///
/// # Errors
/// Those of the store.
pub fn charged(transaction: &Transaction<'_>, payment_id: &str, id: Option<&str>) -> rusqlite::Result<()> {
    let update = "UPDATE payments SET transaction_id = ?2 WHERE payment_id = ?1";
    transaction.execute(update, (payment_id, id)).map(drop)
}

/// Which way postings go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The merchant is paid.
    Capture,
    /// The opposite.
    Reversal,
}

/// Whether the merchant was ever paid by it.
///
/// # Errors
/// Those of the store.
pub fn was_captured(connection: &Connection, payment_id: &str) -> rusqlite::Result<bool> {
    let captured = "SELECT EXISTS (SELECT 1 FROM postings WHERE payment_id = ?1 AND entry = 'capture')";
    connection.query_row(captured, [payment_id], |row| row.get(0))
}

/// Posts a payment to the ledger, or reverses that; a second time it is the same.
///
/// # Errors
/// Those of the store.
pub fn post(
    transaction: &Transaction<'_>,
    payment_id: &str,
    entry: Entry,
    amount: Money,
    now: Moment,
) -> rusqlite::Result<()> {
    let (word, sign) = match entry {
        Entry::Capture => ("capture", 1),
        Entry::Reversal if !was_captured(transaction, payment_id)? => return Ok(()),
        Entry::Reversal => ("reversal", -1),
    };
    let Split { merchant, commission } = split(amount);
    let insert = "INSERT OR IGNORE INTO postings VALUES (?1, ?2, ?3, ?4, ?5)";
    let postings =
        [("clearing", amount.paise()), ("merchant", -merchant.paise()), ("commission", -commission.paise())];
    for (account, paise) in postings {
        transaction.execute(insert, (payment_id, word, account, sign * paise, now.unix()))?;
    }
    Ok(())
}

/// Claims the merchant's day for a payment, if there is room for it below the limit that `fits` knows.
///
/// # Errors
/// Those of the store.
pub fn claim_day<E>(
    transaction: &Transaction<'_>,
    payment_id: &str,
    amount: Money,
    now: Moment,
    fits: impl FnOnce(Money) -> Result<(), E>,
) -> rusqlite::Result<Result<(), E>> {
    let claimed = "SELECT coalesce(sum(paise), 0) FROM merchant_days WHERE day = ?1 AND payment_id <> ?2";
    let day = day(now);
    let today = transaction.query_row(claimed, (day, payment_id), |row| row.get(0))?;
    if let Err(refused) = fits(Money::from_paise(today)) {
        return Ok(Err(refused));
    }
    let insert = "INSERT OR IGNORE INTO merchant_days VALUES (?1, ?2, ?3)";
    transaction.execute(insert, (payment_id, day, amount.paise()))?;
    Ok(Ok(()))
}

/// Gives the merchant's day back.
///
/// # Errors
/// Those of the store.
pub fn free_day(transaction: &Transaction<'_>, payment_id: &str) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM merchant_days WHERE payment_id = ?1", [payment_id]).map(drop)
}

/// Counts a payment among those of its day.
///
/// # Errors
/// Those of the store.
pub fn count(transaction: &Transaction<'_>, method: Method, what: &str, now: Moment) -> rusqlite::Result<()> {
    let count = "INSERT INTO analytics VALUES (?1, ?2, ?3, 1)
        ON CONFLICT (day, method, what) DO UPDATE SET count = count + 1";
    transaction.execute(count, (day(now), method.as_str(), what)).map(drop)
}

/// The day in India, since 1970.
fn day(now: Moment) -> i64 {
    const INDIA: i64 = (5 * 60 + 30) * 60;
    (now.unix() + INDIA).div_euclid(24 * 60 * 60)
}

const SELECT: &str =
    "SELECT payment_id, order_id, user_id, method, account, amount, state, transaction_id, reason,
    detail, at, changed_at FROM payments";

fn payment(row: &Row<'_>) -> rusqlite::Result<Payment> {
    Ok(Payment {
        payment_id: row.get(0)?,
        order_id: row.get(1)?,
        user_id: row.get(2)?,
        method: row.get::<_, Word<Method>>(3)?.0,
        account: row.get(4)?,
        amount: Money::from_paise(row.get(5)?),
        state: row.get::<_, Word<State>>(6)?.0,
        transaction_id: row.get(7)?,
        reason: row.get(8)?,
        detail: row.get(9)?,
        at: Moment::from_unix(row.get(10)?),
        changed_at: Moment::from_unix(row.get(11)?),
    })
}
