use std::sync::{Mutex, PoisonError};

use axum::{Json, Router, extract::State as With, http::StatusCode, routing::post};
use serde_json::json;

use super::*;
use crate::kernel::{
    peer::{Mishap, Place},
    store::{Crash, Migrations},
};

const MIGRATIONS: Migrations = &[TABLES, "CREATE TABLE effects (what TEXT NOT NULL) STRICT"];

const NEVER: i64 = i64::MAX / 2;

fn noon() -> Moment {
    Moment::from_unix(1_768_458_600)
}

/// Two services on files of their own, which may crash.
struct World {
    folder: tempfile::TempDir,
    crash: Crash,
    place: Place,
    sender: Option<(Crash, Store, JoinSet<()>)>,
    receiver: Option<Crash>,
}

async fn take_one(With(store): With<Store>, Json(message): Json<Message>) -> StatusCode {
    if message.body == "poison" {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    let taken = store.write(move |transaction| {
        if take(transaction, &message)? {
            transaction.execute("INSERT INTO effects VALUES (?1)", [message.body.to_string()])?;
        }
        Ok(())
    });
    if taken.await.is_ok() { StatusCode::NO_CONTENT } else { StatusCode::SERVICE_UNAVAILABLE }
}

impl World {
    fn new(crash: i64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let crash = Crash::after(crash);
        Self { folder, crash, place: Place::default(), sender: None, receiver: None }
    }

    fn start(&mut self) {
        let clock = Clock::fixed_start(noon());
        if self.receiver.as_ref().is_none_or(Crash::has_come) {
            let crash = self.crash.another();
            let file = self.folder.path().join("receiver.db");
            let store = Store::open_here(&file, MIGRATIONS, crash.clone()).unwrap();
            self.place.put(Some(Router::new().route("/events", post(take_one)).with_state(store)));
            self.receiver = Some(crash);
        }
        if self.sender.as_ref().is_none_or(|it| it.0.has_come()) {
            let crash = self.crash.another();
            let file = self.folder.path().join("sender.db");
            let store = Store::open_here(&file, MIGRATIONS, crash.clone()).unwrap();
            let peer = Peer::here("receiver", self.place.clone());
            let to = Destination { name: "receiver", peer, path: "/events" };
            let mut work = JoinSet::new();
            Outbox::new(clock, store.clone(), vec![to]).spawn(&mut work);
            self.sender = Some((crash, store, work));
        }
    }

    /// Says something; what was said already is not said again.
    async fn say(&mut self, what: &Value) {
        loop {
            self.start();
            let store = self.sender.as_ref().unwrap().1.clone();
            let said = what.clone();
            let put_once = move |transaction: &Transaction<'_>| {
                let known = "SELECT EXISTS (SELECT 1 FROM effects WHERE what = ?1)";
                if !transaction.query_row(known, [said.to_string()], |row| row.get::<_, bool>(0))? {
                    transaction.execute("INSERT INTO effects VALUES (?1)", [said.to_string()])?;
                    put(transaction, "receiver", &said, None, noon())?;
                }
                Ok(())
            };
            if store.write(put_once).await.is_ok() {
                return;
            }
        }
    }

    async fn drained(&mut self) -> Lag {
        loop {
            self.start();
            let store = self.sender.as_ref().unwrap().1.clone();
            match store.read(|connection| lag(connection, noon())).await {
                Ok(lag) if lag.pending == 0 => return lag,
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn effects(&self) -> Vec<String> {
        let file = Connection::open(self.folder.path().join("receiver.db")).unwrap();
        let mut statement = file.prepare("SELECT what FROM effects ORDER BY rowid").unwrap();
        statement.query_map((), |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    }
}

/// Two messages, a crash after so many half commits; how many were left.
async fn two_messages(crash: i64) -> i64 {
    let mut world = World::new(crash);
    world.say(&json!("one")).await;
    world.say(&json!("two")).await;
    world.drained().await;
    assert_eq!(world.effects(), ["\"one\"", "\"two\""], "crash after {crash}");
    world.crash.left()
}

#[tokio::test(start_paused = true)]
async fn r12_2_killed_at_every_commit_each_message_arrives_and_has_effects_once() {
    let all = NEVER - two_messages(NEVER).await;
    assert!(all > 10, "{all}");
    for crash in 0..all {
        two_messages(crash).await;
    }
}

#[tokio::test(start_paused = true)]
async fn r12_2_an_answer_that_is_lost_has_it_sent_again_and_taken_once() {
    let mut world = World::new(NEVER);
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    world.place.mishaps(move || {
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        [Mishap::LostAfter, Mishap::LostBefore, Mishap::None][*count % 3]
    });
    for what in ["one", "two", "three"] {
        world.say(&json!(what)).await;
    }
    world.drained().await;
    assert_eq!(world.effects(), ["\"one\"", "\"two\"", "\"three\""]);
    assert!(*asked.lock().unwrap() > 6);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_put_aside_and_the_others_go_on() {
    let mut world = World::new(NEVER);
    for what in ["one", "poison", "two"] {
        world.say(&json!(what)).await;
    }
    let lag = world.drained().await;
    assert_eq!(lag.dead_letters, 1);
    assert_eq!(world.effects(), ["\"one\"", "\"two\""]);
    let file = Connection::open(world.folder.path().join("sender.db")).unwrap();
    let why = file.query_row("SELECT why FROM dead_letters", (), |row| row.get::<_, String>(0)).unwrap();
    assert!(why.contains("422"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_begun_anew_is_heard_again() {
    let mut world = World::new(NEVER);
    world.say(&json!("one")).await;
    world.drained().await;
    world.sender = None;
    for file in ["sender.db", "sender.db-wal", "sender.db-shm"] {
        _ = std::fs::remove_file(world.folder.path().join(file));
    }
    world.say(&json!("again")).await;
    world.drained().await;
    assert_eq!(world.effects(), ["\"one\"", "\"again\""]);
}
