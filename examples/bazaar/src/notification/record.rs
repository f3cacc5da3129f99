//! What was sent to whom.
//!
//! # Rule
//! A notification is sent once: what its channel sends and that it was sent are one transaction, for a channel here is a table, `sent`. A real one
//! would have to be asked with the notification's id, and know it again.
//!
//! # Bounds
//! All of it is forgotten after 30 days ([`FORGOTTEN`]); an id of before would be sent again.

use std::{collections::BTreeMap, time::Duration};

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction};
use serde::Serialize;

use super::{
    channel::{Channel, Way},
    template::Template,
};
use crate::{
    kernel::{
        column::{Json, Word},
        store::{Migrations, Store, StoreError},
    },
    rules::{language::Language, moment::Moment},
};

/// How long what was sent is remembered.
pub const FORGOTTEN: Duration = Duration::from_hours(30 * 24);

/// The tables.
pub const MIGRATIONS: Migrations = &["
    CREATE TABLE notifications (
        number INTEGER PRIMARY KEY,
        notification_id TEXT NOT NULL UNIQUE,
        user_id TEXT NOT NULL,
        template TEXT NOT NULL,
        language TEXT NOT NULL,
        params TEXT NOT NULL,  -- JSON
        channel TEXT NOT NULL,
        recipient TEXT NOT NULL,  -- masked
        text TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX notifications_of ON notifications (user_id, number);
    CREATE INDEX notifications_by_age ON notifications (at);
    CREATE TABLE sent (  -- what the channels have sent
        number INTEGER PRIMARY KEY,
        notification_id TEXT NOT NULL,
        channel TEXT NOT NULL,
        text TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX sent_by_age ON sent (at);
"];

/// What is to be said to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its id.
    pub notification_id: String,
    /// To whom.
    pub user_id: String,
    /// What it is about.
    pub template: Template,
    /// In which language.
    pub language: Language,
    /// What stands in it.
    pub params: BTreeMap<String, String>,
}

/// What was said to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notification {
    /// Its id.
    pub notification_id: String,
    /// To whom.
    pub user_id: String,
    /// What it is about.
    pub template: Template,
    /// In which language.
    pub language: Language,
    /// What stands in it.
    #[serde(skip)]
    pub params: BTreeMap<String, String>,
    /// By which channel.
    pub channel: Channel,
    /// To which address, masked.
    pub recipient: String,
    /// All of it.
    pub text: String,
    /// When.
    pub at: Moment,
}

impl Notification {
    /// Whether it says this message.
    pub fn says(&self, message: &Message) -> bool {
        let Message { notification_id, user_id, template, language, params } = message;
        self.notification_id == *notification_id
            && self.user_id == *user_id
            && self.template == *template
            && self.language == *language
            && self.params == *params
    }
}

/// What was sent.
#[derive(Clone, Debug)]
pub struct Record {
    store: Store,
}

impl Record {
    /// That in the store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The notification of that id, if it was sent.
    pub async fn notification(&self, notification_id: &str) -> Result<Option<Notification>, StoreError> {
        let notification_id = notification_id.to_owned();
        self.store.read(move |connection| by_id(connection, &notification_id)).await
    }

    /// Sends a message that way, if nothing of its id was sent before; tells what was sent.
    pub async fn send(
        &self,
        message: Message,
        text: String,
        way: Way,
        now: Moment,
    ) -> Result<Notification, StoreError> {
        let send = move |transaction: &Transaction<'_>| {
            if let Some(known) = by_id(transaction, &message.notification_id)? {
                return Ok(known);
            }
            let Message { notification_id, user_id, template, language, params } = message;
            let Way { channel, recipient } = way;
            transaction.execute(
                "INSERT INTO sent (notification_id, channel, text, at) VALUES (?1, ?2, ?3, ?4)",
                (&notification_id, channel.as_str(), &text, now.unix()),
            )?;
            transaction.execute(
                "INSERT INTO notifications (notification_id, user_id, template, language, params, channel,
                    recipient, text, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                (
                    &notification_id,
                    &user_id,
                    template.as_str(),
                    language.as_str(),
                    Json(&params),
                    channel.as_str(),
                    &recipient,
                    &text,
                    now.unix(),
                ),
            )?;
            let at = now;
            Ok(Notification {
                notification_id,
                user_id,
                template,
                language,
                params,
                channel,
                recipient,
                text,
                at,
            })
        };
        self.store.write(send).await
    }

    /// What was sent to somebody, the last first; at most `limit`.
    pub async fn of(&self, user_id: String, limit: u32) -> Result<Vec<Notification>, StoreError> {
        let read = move |connection: &Connection| {
            let last = "SELECT * FROM notifications WHERE user_id = ?1 ORDER BY number DESC LIMIT ?2";
            let mut statement = connection.prepare(last)?;
            statement.query_map((user_id, limit), notification)?.collect()
        };
        self.store.read(read).await
    }

    /// Forgets what is older than [`FORGOTTEN`].
    pub async fn sweep(&self, now: Moment) -> Result<(), StoreError> {
        let before = now.before(FORGOTTEN).unix();
        let sweep = move |transaction: &Transaction<'_>| {
            for old in ["DELETE FROM notifications WHERE at < ?1", "DELETE FROM sent WHERE at < ?1"] {
                transaction.execute(old, [before])?;
            }
            Ok(())
        };
        self.store.write(sweep).await
    }
}

fn by_id(connection: &Connection, notification_id: &str) -> rusqlite::Result<Option<Notification>> {
    let sql = "SELECT * FROM notifications WHERE notification_id = ?1";
    connection.query_row(sql, [notification_id], notification).optional()
}

fn notification(row: &Row<'_>) -> rusqlite::Result<Notification> {
    Ok(Notification {
        notification_id: row.get("notification_id")?,
        user_id: row.get("user_id")?,
        template: row.get::<_, Word<Template>>("template")?.0,
        language: row.get::<_, Word<Language>>("language")?.0,
        params: row.get::<_, Json<BTreeMap<String, String>>>("params")?.0,
        channel: row.get::<_, Word<Channel>>("channel")?.0,
        recipient: row.get("recipient")?,
        text: row.get("text")?,
        at: Moment::from_unix(row.get("at")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_sent_is_forgotten_after_a_month() {
        let noon = Moment::from_unix(1_768_458_600);
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(Store::open(&folder.path().join("n.db"), MIGRATIONS).unwrap());
        let message = Message {
            notification_id: "1".into(),
            user_id: "asha".into(),
            template: Template::OrderShipped,
            language: Language::Hi,
            params: BTreeMap::new(),
        };
        let way = Way { channel: Channel::Push, recipient: "asha".into() };
        let sent = record.send(message.clone(), "text".into(), way, noon).await.unwrap();
        assert!(sent.says(&message) && !sent.says(&Message { language: Language::En, ..message }));
        record.sweep(noon.after(FORGOTTEN)).await.unwrap();
        assert_eq!(record.notification("1").await.unwrap(), Some(sent));
        record.sweep(noon.after(FORGOTTEN + Duration::from_secs(1))).await.unwrap();
        assert_eq!(record.notification("1").await.unwrap(), None);
        let left = record.store.read(|connection| {
            connection.query_row("SELECT count(*) FROM sent", (), |row| row.get::<_, u32>(0))
        });
        assert_eq!(left.await.unwrap(), 0);
    }
}
