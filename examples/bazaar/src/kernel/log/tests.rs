use std::{fs, path::Path};

use rusqlite::Connection;
use serde_json::json;

use super::*;
use crate::kernel::store::{Migrations, Store};

const MIGRATIONS: Migrations = &[TABLES];

/// An account that counts.
#[derive(Clone, Debug, PartialEq)]
enum Moved {
    By(i64),
    Closed,
}

impl Event for Moved {
    fn kind(&self) -> &'static str {
        match self {
            Self::By(_) => "moved",
            Self::Closed => "closed",
        }
    }

    fn schema(&self) -> u32 {
        if matches!(self, Self::By(_)) { 2 } else { 1 }
    }

    fn write(&self) -> serde_json::Result<Value> {
        Ok(match self {
            Self::By(paise) => json!({"paise": paise}),
            Self::Closed => json!({}),
        })
    }

    fn read(kind: &str, schema: u32, data: Value) -> Result<Self, String> {
        match (kind, schema) {
            ("moved", 1) => Ok(Self::By(data["rupees"].as_i64().ok_or("no rupees")? * 100)),
            ("moved", 2) => Ok(Self::By(data["paise"].as_i64().ok_or("no paise")?)),
            ("closed", 1) => Ok(Self::Closed),
            _ => Err("not known here".to_owned()),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Account {
    paise: i64,
    moves: u64,
    is_closed: bool,
    last: Vec<i64>,
}

impl Aggregate for Account {
    type Event = Moved;

    const FORM: u32 = 1;

    fn apply(&mut self, event: &Recorded<Moved>) {
        self.moves += 1;
        match event.event {
            Moved::By(paise) => {
                self.paise += paise;
                self.last.push(paise);
            }
            Moved::Closed => self.is_closed = true,
        }
    }
}

const NOON: i64 = 1_768_458_600;

fn noon() -> Moment {
    Moment::from_unix(NOON)
}

fn log() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(TABLES).unwrap();
    connection
}

fn add(connection: &mut Connection, stream: &str, expected: u64, events: &[Moved]) -> Result<i64, Conflict> {
    let transaction = connection.transaction().unwrap();
    let appended = append(&transaction, stream, expected, events, &Cause::default(), noon()).unwrap();
    transaction.commit().unwrap();
    appended
}

#[test]
fn r5_1_of_two_who_have_seen_the_same_one_wins_and_the_other_hears_of_it() {
    let mut log = log();
    add(&mut log, "a", 0, &[Moved::By(1), Moved::By(2)]).unwrap();
    add(&mut log, "a", 2, &[Moved::By(3)]).unwrap();
    assert_eq!(add(&mut log, "a", 2, &[Moved::By(4)]), Err(Conflict { expected: 2, is: 3 }));
    add(&mut log, "b", 0, &[Moved::Closed]).unwrap();
    add(&mut log, "a", 3, &[Moved::By(4)]).unwrap();
    let versions = history::<Moved>(&log, "a", 0).unwrap().iter().map(|it| it.version).collect::<Vec<_>>();
    assert_eq!(versions, [1, 2, 3, 4]);
    assert_eq!(load::<Account>(&log, "a").unwrap().state.paise, 10);
    assert_eq!(version(&log, "nobody").unwrap(), 0);
}

#[test]
fn r5_1_a_batch_is_there_whole_or_not_at_all() {
    let mut log = log();
    let transaction = log.transaction().unwrap();
    append(&transaction, "a", 0, &[Moved::By(1), Moved::By(2)], &Cause::default(), noon()).unwrap().unwrap();
    drop(transaction);
    assert_eq!(version(&log, "a").unwrap(), 0);
}

#[test]
fn r5_1_what_has_happened_is_never_changed() {
    let mut log = log();
    add(&mut log, "a", 0, &[Moved::By(1)]).unwrap();
    for change in ["UPDATE events SET data = '{}'", "DELETE FROM events"] {
        let refused = log.execute(change, ()).unwrap_err().to_string();
        assert!(refused.contains("events are never"), "{refused}");
    }
}

/// Numbers that look random, the same each time.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32
}

#[test]
fn r5_3_from_the_first_event_or_from_a_snapshot_it_is_the_same_for_ten_thousand_histories() {
    let (mut log, mut seed) = (log(), 7);
    let transaction = log.transaction().unwrap();
    for number in 0..10_000 {
        let stream = format!("account:{number}");
        let mut live = Loaded { state: Account::default(), version: 0 };
        for _ in 0..random(&mut seed) % 6 {
            let events = (0..=random(&mut seed) % 7).map(|_| match random(&mut seed) % 20 {
                0 => Moved::Closed,
                by => Moved::By(by.cast_signed() - 10),
            });
            let events = events.collect::<Vec<_>>();
            append(&transaction, &stream, live.version, &events, &Cause::default(), noon()).unwrap().unwrap();
            live = load::<Account>(&transaction, &stream).unwrap(); // From the last snapshot on.
            keep(&transaction, &stream, &live).unwrap();
        }
        assert_eq!(load_from_zero::<Account>(&transaction, &stream).unwrap(), live, "{stream}");
    }
    let count = |sql| transaction.query_row(sql, (), |row| row.get::<_, u32>(0)).unwrap();
    assert!(count("SELECT count(*) FROM snapshots") > 4_000, "snapshots were kept, and used");
    assert!(count("SELECT count(*) FROM snapshots WHERE version >= 20") > 500, "and replaced");
    let with = load::<Account>(&transaction, "account:9999").unwrap();
    transaction.execute("DELETE FROM snapshots", ()).unwrap();
    assert_eq!(load::<Account>(&transaction, "account:9999").unwrap(), with);
}

#[test]
fn r5_3_a_snapshot_of_another_form_or_that_cannot_be_read_is_passed_over() {
    let mut log = log();
    add(&mut log, "a", 0, &[Moved::By(5)]).unwrap();
    for (form, state) in [(1, "{"), (2, r#"{"paise":9,"moves":9,"is_closed":false,"last":[]}"#)] {
        log.execute("INSERT OR REPLACE INTO snapshots VALUES ('a', 1, ?1, ?2)", (form, state)).unwrap();
        assert_eq!(load::<Account>(&log, "a").unwrap().state.paise, 5);
    }
}

#[test]
fn r5_4_what_cannot_be_read_is_an_error_and_no_empty_history() {
    let mut log = log();
    add(&mut log, "a", 0, &[Moved::By(1)]).unwrap();
    let insert = "INSERT INTO events (stream, version, event_id, kind, schema, data, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)";
    log.execute(insert, ("a", 2, "e2", "exploded", 1, "{}")).unwrap();
    log.execute(insert, ("b", 1, "e3", "moved", 9, "{}")).unwrap();
    log.execute(insert, ("c", 1, "e4", "moved", 2, "{")).unwrap();
    log.execute(insert, ("d", 2, "e5", "moved", 2, r#"{"paise": 1}"#)).unwrap();
    for (stream, why) in [("a", "exploded"), ("b", "moved 9"), ("c", "EOF"), ("d", "a gap")] {
        let error = load::<Account>(&log, stream).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(feed::<Moved>(&log, 0, 10).is_err());
}

#[test]
fn r5_5_the_feed_goes_on_from_any_position_and_has_everything_once() {
    let mut log = log();
    for number in 0..30 {
        let stream = ["a", "b", "c"][number % 3];
        let at = version(&log, stream).unwrap();
        add(&mut log, stream, at, &[Moved::By(1), Moved::By(2)]).unwrap();
    }
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = feed::<Moved>(&log, after, 7).unwrap();
        let Some(last) = page.last() else { break };
        after = last.position;
        seen.extend(page.into_iter().map(|it| (it.position, it.stream, it.version)));
    }
    assert_eq!(after, head(&log).unwrap());
    assert_eq!(seen.len(), 60);
    assert!(seen.is_sorted_by_key(|(position, ..)| *position));
    for stream in ["a", "b", "c"] {
        let versions = seen.iter().filter(|it| it.1 == stream).map(|it| it.2).collect::<Vec<_>>();
        assert_eq!(versions, (1..=20).collect::<Vec<_>>(), "in the order of the stream");
    }
}

#[test]
fn r5_6_state_as_it_was_at_a_version_and_at_a_time() {
    let mut log = log();
    for (number, by) in [10, 20, 30].into_iter().enumerate() {
        let transaction = log.transaction().unwrap();
        let at = Moment::from_unix(NOON + 60 * i64::try_from(number).unwrap());
        append(&transaction, "a", number as u64, &[Moved::By(by)], &Cause::default(), at).unwrap().unwrap();
        transaction.commit().unwrap();
    }
    let paise = |until| load_until::<Account>(&log, "a", until).unwrap().state.paise;
    assert_eq!([0, 1, 2, 3, 9].map(|version| paise(Until::Version(version))), [0, 10, 30, 60, 60]);
    assert_eq!(
        [-1, 0, 59, 60, 600].map(|s| paise(Until::Time(Moment::from_unix(NOON + s)))),
        [0, 10, 10, 30, 60]
    );
}

#[test]
fn r5_7_a_command_is_answered_again_and_its_id_names_no_other() {
    let mut log = log();
    let transaction = log.transaction().unwrap();
    assert_eq!(answered::<i64>(&transaction, "c1", "add 5").unwrap(), None);
    answer(&transaction, "c1", "add 5", &7, noon()).unwrap();
    assert_eq!(answered(&transaction, "c1", "add 5").unwrap(), Some(Ok(7)));
    assert_eq!(answered::<i64>(&transaction, "c1", "add 6").unwrap(), Some(Err(KeyReused)));
    assert!(answer(&transaction, "c1", "add 5", &7, noon()).is_err());
    assert_eq!(forget_commands(&transaction, noon()).unwrap(), 0);
    assert_eq!(forget_commands(&transaction, Moment::from_unix(NOON + 1)).unwrap(), 1);
    transaction.commit().unwrap();
}

#[test]
fn r5_7_events_of_a_batch_follow_from_one_another() {
    let mut log = log();
    let cause = Cause {
        actor: Some("asha".into()),
        command: Some("pay".into()),
        correlation_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        causation_id: Some("key".into()),
    };
    let transaction = log.transaction().unwrap();
    append(&transaction, "a", 0, &[Moved::By(1), Moved::By(2), Moved::Closed], &cause, noon())
        .unwrap()
        .unwrap();
    transaction.commit().unwrap();
    let events = history::<Moved>(&log, "a", 0).unwrap();
    assert_eq!(events[0].cause, cause);
    assert_eq!(events[1].cause.causation_id.as_ref(), Some(&events[0].event_id));
    assert_eq!(events[2].cause.causation_id.as_ref(), Some(&events[1].event_id));
    assert!(events.iter().all(|it| it.cause.correlation_id == cause.correlation_id));
}

#[test]
fn r5_8_events_of_earlier_forms_are_read() {
    let log = log();
    let insert = "INSERT INTO events (stream, version, event_id, kind, schema, data, at) VALUES ('a', ?1, ?2, 'moved', ?3, ?4, 0)";
    log.execute(insert, (1, "e1", 1, r#"{"rupees": 3}"#)).unwrap();
    log.execute(insert, (2, "e2", 2, r#"{"paise": 5}"#)).unwrap();
    assert_eq!(load::<Account>(&log, "a").unwrap().state.paise, 305);
}

/// A crash may leave any part of what was written last to the write-ahead log. Whatever that is, what was committed in it is there,
/// and nothing of anything else.
#[tokio::test]
async fn r5_4_a_write_ahead_log_cut_at_any_place_leaves_whole_commits_and_no_gap() {
    const HEADER: u64 = 32;
    const FRAME: u64 = 24 + 4096;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.db");
    let store = Store::open(&file, MIGRATIONS).unwrap();
    let wal = folder.path().join("t.db-wal");
    let mut commits = vec![(fs::metadata(&wal).unwrap().len(), 0)];
    for number in 0..12_u64 {
        let events = vec![Moved::By(1); usize::try_from(number % 3 + 1).unwrap()];
        let before = commits.last().unwrap().1;
        let added = store
            .write(move |transaction| append(transaction, "a", before, &events, &Cause::default(), noon()))
            .await;
        added.unwrap().unwrap();
        commits.push((fs::metadata(&wal).unwrap().len(), before + number % 3 + 1));
    }
    let whole = commits.last().unwrap().0;
    assert_eq!((whole - HEADER) % FRAME, 0, "frames of a page each");
    let frames = (whole - HEADER) / FRAME;
    let first = (commits[0].0 - HEADER) / FRAME;
    for frame in first..=frames {
        // Before a frame, in the middle of its head, and of its page.
        for cut in [0, 11, 24, 2000, 4119].map(|more| (HEADER + frame * FRAME + more).min(whole)) {
            let expected = commits.iter().rev().find(|(end, _)| *end <= cut).unwrap().1;
            let left = copied(&file, &wal, cut);
            let opened = Store::open(&left.path().join("t.db"), MIGRATIONS).unwrap();
            let loaded = opened.read(|connection| load::<Account>(connection, "a")).await.unwrap();
            assert_eq!((loaded.version, loaded.state.moves), (expected, expected), "cut at {cut}");
            let next = opened.write(move |transaction| {
                append(transaction, "a", expected, &[Moved::Closed], &Cause::default(), noon())
            });
            next.await.unwrap().unwrap();
        }
    }
    // What was not written as it should be is no commit either.
    let left = copied(&file, &wal, whole);
    let (there, last) = (left.path().join("t.db-wal"), commits[commits.len() - 2]);
    let mut bytes = fs::read(&there).unwrap();
    let at = usize::try_from(last.0 + 24 + 100).unwrap();
    bytes[at] ^= 1;
    fs::write(&there, bytes).unwrap();
    let opened = Store::open(&left.path().join("t.db"), MIGRATIONS).unwrap();
    assert_eq!(opened.read(|connection| version(connection, "a")).await.unwrap(), last.1);
}

/// The file and its write-ahead log, of which only the beginning is left.
fn copied(file: &Path, wal: &Path, cut: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(file, folder.path().join("t.db")).unwrap();
    let bytes = fs::read(wal).unwrap();
    let kept = usize::try_from(cut).unwrap().min(bytes.len());
    fs::write(folder.path().join("t.db-wal"), &bytes[..kept]).unwrap();
    folder
}
