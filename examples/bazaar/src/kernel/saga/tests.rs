use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use rusqlite::Transaction;
use serde_json::json;
use tokio::{task::JoinSet, time::sleep};

use super::{sagas::LOOK, *};
use crate::kernel::{
    clock::Clock,
    store::{Crash, Migrations, Store},
};

const MIGRATIONS: Migrations = &[TABLES, "CREATE TABLE told (what TEXT NOT NULL) STRICT"];

const NEVER: i64 = i64::MAX / 2;

fn noon() -> Moment {
    Moment::from_unix(1_768_458_600)
}

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It is done.
    Works,
    /// It is decided against.
    Refuses,
    /// It does not arrive.
    Fails,
    /// It is done, and the answer is lost.
    IsLost,
    /// It is done, and never answered.
    Hangs,
    /// There is no news yet.
    Waits,
}

/// Whoever is asked to do things: knows each by its key, and refuses what was undone before it came.
#[derive(Clone, Default)]
struct Outside(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    /// In order: what arrived and had effects.
    done: Vec<String>,
    tombs: Vec<String>,
    acts: HashMap<&'static str, VecDeque<Then>>,
    undos: HashMap<&'static str, VecDeque<Then>>,
    calls: Vec<String>,
}

impl Outside {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    fn plan(&self, step: &'static str, then: &[Then]) {
        self.world().acts.insert(step, then.iter().copied().collect());
    }

    fn plan_undo(&self, step: &'static str, then: &[Then]) {
        self.world().undos.insert(step, then.iter().copied().collect());
    }

    fn calls(&self) -> Vec<String> {
        self.world().calls.clone()
    }

    /// Each thing that was done and not undone.
    fn standing(&self) -> Vec<String> {
        let world = self.world();
        let undone = |what: &String| world.done.contains(&format!("-{what}"));
        world.done.iter().filter(|it| !it.starts_with('-') && !undone(it)).cloned().collect()
    }

    /// Nothing was ever done or undone twice.
    fn is_sound(&self) -> bool {
        let world = self.world();
        world.done.iter().enumerate().all(|(number, what)| !world.done[..number].contains(what))
    }
}

struct Made(Outside);

impl Flow for Made {
    const NAME: &'static str = "made";

    const STEPS: &'static [Step] = &[
        Step::critical("a").tried(3),
        Step::critical("b").tried(3),
        Step::critical("c").tried(3),
        Step::optional("d").tried(2),
        Step::critical("e").tried(3),
        Step::optional("f").tried(2),
    ];

    const DEADLINE: Duration = Duration::from_mins(5);

    async fn act(&self, saga: &Saga, step: &'static str) -> Result<Acted, Failure> {
        let then = {
            let mut world = self.0.world();
            world.calls.push(step.to_owned());
            let then = world.acts.get_mut(step).and_then(VecDeque::pop_front).unwrap_or(Then::Works);
            let key = saga.key(step);
            if world.tombs.contains(&key) {
                return Err(Failure::refused("over", "it was undone before it came"));
            }
            if matches!(then, Then::Works | Then::IsLost | Then::Hangs) && !world.done.contains(&key) {
                world.done.push(key);
            }
            then
        };
        answer(then)
            .await
            .map(|()| if then == Then::Waits { Acted::Waiting } else { Acted::Done(json!(step)) })
    }

    async fn undo(&self, saga: &Saga, step: &'static str) -> Result<(), Failure> {
        let then = {
            let mut world = self.0.world();
            world.calls.push(format!("-{step}"));
            let then = world.undos.get_mut(step).and_then(VecDeque::pop_front).unwrap_or(Then::Works);
            let key = saga.key(step);
            if matches!(then, Then::Works | Then::IsLost | Then::Hangs) {
                let undone = format!("-{key}");
                if world.done.contains(&key) && !world.done.contains(&undone) {
                    world.done.push(undone);
                }
                world.tombs.push(key);
            }
            then
        };
        answer(then).await
    }

    fn on_record(
        &self,
        transaction: &Transaction<'_>,
        saga: &Saga,
        what: &What,
        _: Moment,
    ) -> rusqlite::Result<()> {
        let (word, step, _) = what.words();
        let told = format!("{} {word} {}", saga.saga_id, step.unwrap_or_default());
        transaction.execute("INSERT INTO told VALUES (?1)", [told.trim_end()]).map(drop)
    }
}

async fn answer(then: Then) -> Result<(), Failure> {
    match then {
        Then::Works | Then::Waits => Ok(()),
        Then::Refuses => Err(Failure::refused("no", "it is decided against")),
        Then::Fails | Then::IsLost => Err(Failure::Trouble("no answer".to_owned())),
        Then::Hangs => std::future::pending().await,
    }
}

/// The orchestrator, in one life after the other.
struct Life {
    folder: tempfile::TempDir,
    outside: Outside,
    clock: Clock,
    crash: Crash,
    now: Option<(Crash, Store, Sagas<Made>, JoinSet<()>)>,
}

impl Life {
    fn new(crash: i64) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            outside: Outside::default(),
            clock: Clock::fixed_start(noon()),
            crash: Crash::after(crash),
            now: None,
        }
    }

    fn begin(&mut self) -> (Store, Sagas<Made>) {
        if self.now.as_ref().is_none_or(|it| it.0.has_come()) {
            self.now = None;
            let crash = self.crash.another();
            let store =
                Store::open_here(&self.folder.path().join("t.db"), MIGRATIONS, crash.clone()).unwrap();
            let sagas = Sagas::new(self.clock, store.clone(), Arc::new(Made(self.outside.clone())));
            let mut work = JoinSet::new();
            sagas.spawn(&mut work);
            self.now = Some((crash, store, sagas, work));
        }
        let (_, store, sagas, _) = self.now.as_ref().unwrap();
        (store.clone(), sagas.clone())
    }

    /// Begins a saga, and begins it again until that is written.
    async fn start(&mut self, id: &'static str) {
        loop {
            let (store, sagas) = self.begin();
            let flow = Made(self.outside.clone());
            let now = self.clock.now();
            let started =
                move |transaction: &Transaction<'_>| start(transaction, &flow, id, &json!({}), None, now);
            if store.write(started).await.is_ok() {
                return sagas.go();
            }
        }
    }

    /// The end of a saga, through as many lives as it takes.
    async fn end(&mut self, id: &str) -> Saga {
        for _ in 0..10_000 {
            let (store, sagas) = self.begin();
            sagas.go();
            let looked = id.to_owned();
            match store.read(move |connection| by_id(connection, &looked)).await {
                Ok(Some(saga)) if saga.state.is_end() && saga.revoked.is_none() => return saga,
                _ => sleep(Duration::from_secs(1)).await,
            }
        }
        panic!("the saga {id} comes to no end");
    }

    async fn log(&mut self, id: &'static str) -> Vec<String> {
        let (store, _) = self.begin();
        let lines = store.read(move |connection| timeline(connection, id)).await.unwrap();
        lines
            .into_iter()
            .map(|it| format!("{} {}", it.what, it.step.unwrap_or_default()).trim().to_owned())
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn r4_1_all_steps_are_done_in_order_and_the_log_says_so() {
    let mut life = Life::new(NEVER);
    life.start("s").await;
    let saga = life.end("s").await;
    assert_eq!(saga.state, State::Completed);
    assert_eq!(life.outside.calls(), ["a", "b", "c", "d", "e", "f"]);
    let mut expected = vec!["started".to_owned()];
    expected.extend("abcdef".chars().flat_map(|step| [format!("began {step}"), format!("done {step}")]));
    expected.push("completed".to_owned());
    assert_eq!(life.log("s").await, expected);
    // What each record means was written with it.
    let (store, _) = life.begin();
    let told = store
        .read(|connection| connection.query_row("SELECT count(*) FROM told", (), |row| row.get::<_, u32>(0)));
    assert_eq!(told.await.unwrap() as usize, expected.len());
}

#[tokio::test(start_paused = true)]
async fn r4_3_refused_at_each_step_those_before_it_are_undone_once_in_reverse() {
    for (number, step) in Made::STEPS.iter().enumerate() {
        let mut life = Life::new(NEVER);
        life.outside.plan(step.name, &[Then::Refuses]);
        life.start("s").await;
        let saga = life.end("s").await;
        if !step.is_critical {
            assert_eq!(saga.state, State::Completed, "{}", step.name);
            assert_eq!(life.outside.standing().len(), Made::STEPS.len() - 1);
            continue;
        }
        assert_eq!(saga.state, State::Compensated, "{}", step.name);
        assert_eq!(saga.cause.unwrap().reason, "no");
        let before = Made::STEPS[..number].iter().map(|it| it.name);
        let undone = before.rev().map(|it| format!("-{it}")).collect::<Vec<_>>();
        let calls = life.outside.calls();
        assert_eq!(calls[number + 1..], undone, "refused is not asked again, and has nothing to undo");
        assert!(life.outside.standing().is_empty() && life.outside.is_sound());
    }
}

#[tokio::test(start_paused = true)]
async fn r4_3_a_step_of_which_nobody_knows_whether_it_was_done_is_tried_again_and_then_undone_too() {
    for then in [Then::Fails, Then::IsLost, Then::Hangs] {
        for (number, step) in Made::STEPS.iter().enumerate().filter(|(_, step)| step.is_critical) {
            let mut life = Life::new(NEVER);
            life.outside.plan(step.name, &[then; 3]);
            life.start("s").await;
            let saga = life.end("s").await;
            assert_eq!(saga.state, State::Compensated);
            assert_eq!(saga.cause.unwrap().reason, "unavailable");
            let calls = life.outside.calls();
            assert_eq!(calls.iter().filter(|it| *it == step.name).count(), 3);
            let undone = Made::STEPS[..=number].iter().rev().map(|it| format!("-{}", it.name));
            assert_eq!(calls[number + 3..], undone.collect::<Vec<_>>(), "{then:?}");
            assert!(life.outside.standing().is_empty() && life.outside.is_sound());

            let mut life = Life::new(NEVER);
            life.outside.plan(step.name, &[then; 2]);
            life.start("s").await;
            assert_eq!(life.end("s").await.state, State::Completed, "the third time it works");
            assert!(life.outside.is_sound());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r4_4_killed_at_every_record_it_goes_on_and_everything_is_done_once_or_undone_once() {
    type Plan<'a> = &'a [(&'static str, &'a [Then])];
    let plans: [(Plan<'_>, State); 4] = [
        (&[], State::Completed),
        (&[("b", &[Then::IsLost, Then::Fails]), ("d", &[Then::IsLost; 2])], State::Completed),
        (&[("e", &[Then::Refuses])], State::Compensated),
        (&[("c", &[Then::IsLost; 9])], State::Compensated),
    ];
    for (plan, end) in plans {
        let mut all = 0;
        let mut crash = NEVER;
        loop {
            let mut life = Life::new(crash);
            for (step, then) in plan {
                life.outside.plan(step, then);
            }
            life.start("s").await;
            let saga = life.end("s").await;
            // Asked again with nothing planned any more, what was planned to fail may succeed in the next life.
            let may_succeed = end == State::Compensated && saga.state == State::Completed;
            assert!(saga.state == end || may_succeed, "{plan:?} {crash}: {saga:?}");
            assert!(life.outside.is_sound(), "{plan:?} {crash}: {:?}", life.outside.world().done);
            match saga.state {
                State::Completed => assert!(life.outside.standing().len() >= 4),
                _ => assert!(life.outside.standing().is_empty(), "{plan:?} {crash}"),
            }
            if crash == NEVER {
                all = NEVER - life.crash.left();
                assert!(all > 20, "{all}");
                crash = 0;
            } else if crash == all {
                break;
            } else {
                crash += 1;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r4_5_begun_twice_it_is_one_saga() {
    let mut life = Life::new(NEVER);
    life.start("s").await;
    life.start("s").await;
    life.end("s").await;
    life.start("s").await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(life.outside.calls().len(), Made::STEPS.len());
}

#[tokio::test(start_paused = true)]
async fn r4_6_undoing_is_repeated_until_it_is_done() {
    let mut life = Life::new(NEVER);
    life.outside.plan("e", &[Then::Refuses]);
    life.outside.plan_undo("b", &[Then::Fails; 15]);
    life.start("s").await;
    assert_eq!(life.end("s").await.state, State::Compensated);
    assert_eq!(life.outside.calls().iter().filter(|it| *it == "-b").count(), 16);
    assert!(life.outside.standing().is_empty());
}

#[tokio::test(start_paused = true)]
async fn r4_6_what_cannot_be_undone_needs_somebody_and_the_others_are_undone() {
    let mut life = Life::new(NEVER);
    life.outside.plan("e", &[Then::Refuses]);
    life.outside.plan_undo("c", &[Then::Refuses]);
    life.outside.plan_undo("b", &[Then::Fails; UNDOINGS as usize]);
    life.start("s").await;
    let saga = life.end("s").await;
    assert_eq!(saga.state, State::CompensationFailed);
    assert_eq!(saga.unfit, ["c", "b"]);
    assert_eq!(life.outside.standing(), ["s:b", "s:c"]);
    let (store, sagas) = life.begin();
    assert_eq!(store.read(parked).await.unwrap().len(), 1, "somebody can see it");

    assert!(sagas.retry("s").await.unwrap());
    assert_eq!(life.end("s").await.state, State::Compensated);
    assert!(life.outside.standing().is_empty() && life.outside.is_sound());
    assert!(!sagas.retry("s").await.unwrap(), "it needs nobody any more");
}

#[tokio::test(start_paused = true)]
async fn r4_6_steps_that_are_not_critical_never_have_anything_undone() {
    let mut life = Life::new(NEVER);
    life.outside.plan("d", &[Then::Hangs; 2]);
    life.outside.plan("f", &[Then::Refuses]);
    life.start("s").await;
    assert_eq!(life.end("s").await.state, State::Completed);
    assert!(life.outside.calls().iter().all(|it| !it.starts_with('-')));

    // Nor does a message that cannot be taken back need anybody.
    let mut life = Life::new(NEVER);
    life.outside.plan("e", &[Then::Refuses]);
    life.outside.plan_undo("d", &[Then::Fails; 99]);
    life.start("s").await;
    assert_eq!(life.end("s").await.state, State::Compensated);
}

#[tokio::test(start_paused = true)]
async fn r4_7_after_the_deadline_no_step_is_begun_and_the_one_under_way_is_waited_for() {
    let mut life = Life::new(NEVER);
    life.outside.plan("b", &[Then::Waits; 99]);
    life.start("s").await;
    let saga = life.end("s").await;
    assert_eq!((saga.state, saga.cause.unwrap().reason.as_str()), (State::Compensated, "deadline"));
    assert_eq!(saga.changed_at, noon().after(Made::DEADLINE));
    assert!(!life.outside.calls().contains(&"c".to_owned()));
    let log = life.log("s").await;
    let at = |what: &str| log.iter().position(|it| it == what).unwrap();
    assert!(at("compensating") < at("undone b") && at("undone b") < at("undone a"), "{log:?}");

    // An attempt that began in time is waited for: it ends by its own timeout, and then it is undone.
    let mut life = Life::new(NEVER);
    life.outside.plan("b", &[Then::Waits; 29]); // It looks every ten seconds: until ten before the deadline.
    life.start("s").await;
    sleep(Duration::from_secs(285)).await;
    life.outside.plan("b", &[Then::Hangs; 9]);
    let saga = life.end("s").await;
    assert_eq!(saga.state, State::Compensated);
    assert!(saga.changed_at > noon().after(Made::DEADLINE), "{}", saga.changed_at);
    assert!(life.outside.standing().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_critical_is_left_out_once_it_is_late() {
    let mut life = Life::new(NEVER);
    life.outside.plan("f", &[Then::Waits; 99]);
    life.start("s").await;
    let saga = life.end("s").await;
    assert_eq!(saga.state, State::Completed);
    assert!(life.log("s").await.contains(&"skipped f".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_waits_goes_on_when_it_is_woken_and_keeps_nobody_else_waiting() {
    let mut life = Life::new(NEVER);
    life.outside.plan("b", &[Then::Waits]);
    life.start("s").await;
    let (_, sagas) = life.begin();
    let saga = sagas.settled("s", Duration::from_secs(5)).await.unwrap().unwrap();
    assert!(saga.is_waiting && saga.state == State::Running);
    sagas.wake("s");
    let saga = sagas.until("s", Duration::from_secs(5), |saga| saga.state.is_end()).await.unwrap().unwrap();
    assert_eq!((saga.state, saga.changed_at), (State::Completed, noon()));
}

#[tokio::test(start_paused = true)]
async fn a_saga_is_revoked_also_when_it_is_completed() {
    let cause =
        Cause { step: String::new(), reason: "called_off".into(), detail: "its customer wants it so".into() };
    for is_waiting in [false, true] {
        let mut life = Life::new(NEVER);
        if is_waiting {
            life.outside.plan("c", &[Then::Waits; 99]);
        }
        life.start("s").await;
        let (store, sagas) = life.begin();
        sagas.settled("s", Duration::from_secs(5)).await.unwrap();
        let why = cause.clone();
        assert!(store.write(move |transaction| revoke(transaction, "s", &why)).await.unwrap());
        sagas.wake("s");
        let saga = life.end("s").await;
        assert_eq!((saga.state, saga.cause), (State::Compensated, Some(cause.clone())));
        assert!(life.outside.standing().is_empty() && life.outside.is_sound());
        let why = cause.clone();
        assert!(!store.write(move |transaction| revoke(transaction, "s", &why)).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn killed_at_every_record_a_revoked_saga_is_undone_once() {
    let mut crash = 0;
    loop {
        let mut life = Life::new(NEVER);
        life.start("s").await;
        life.end("s").await;
        let (store, _) = life.begin();
        let cause = Cause { step: String::new(), reason: "called_off".into(), detail: String::new() };
        store.write(move |transaction| revoke(transaction, "s", &cause)).await.unwrap();
        life.crash.set(crash);
        assert_eq!(life.end("s").await.state, State::Compensated, "{crash}");
        assert!(life.outside.standing().is_empty() && life.outside.is_sound(), "{crash}");
        if life.crash.left() >= 0 {
            break;
        }
        crash += 1;
    }
    assert!(crash > 12, "{crash}");
}

/// Each waits for its next attempt in vain, and keeps no place for that.
#[tokio::test(start_paused = true)]
async fn as_many_sagas_in_trouble_as_there_are_places_keep_no_other_waiting() {
    let mut life = Life::new(NEVER);
    life.outside.plan("a", &[Then::Fails; 2 * AT_ONCE]);
    for number in 0..AT_ONCE {
        life.start(format!("s{number}").leak()).await;
    }
    let (_, sagas) = life.begin();
    sagas.until("s0", Duration::from_secs(5), |saga| saga.attempts > 0).await.unwrap();
    life.outside.plan("a", &[]);
    life.start("late").await;
    let saga = sagas.until("late", Duration::from_millis(100), |saga| saga.state.is_end()).await.unwrap();
    assert_eq!(saga.unwrap().state, State::Completed);
}

/// What others may do, too, is undone although it was refused here, or was never begun.
#[tokio::test(start_paused = true)]
async fn a_shared_step_is_undone_however_far_it_had_come() {
    struct Shared(Made);

    impl Flow for Shared {
        const NAME: &'static str = "shared";
        const STEPS: &'static [Step] = &[Step::critical("a"), Step::critical("b").shared()];
        const DEADLINE: Duration = Duration::from_mins(5);

        fn act(
            &self,
            saga: &Saga,
            step: &'static str,
        ) -> impl Future<Output = Result<Acted, Failure>> + Send {
            self.0.act(saga, step)
        }

        fn undo(&self, saga: &Saga, step: &'static str) -> impl Future<Output = Result<(), Failure>> + Send {
            self.0.undo(saga, step)
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_here(&folder.path().join("t.db"), MIGRATIONS, Crash::after(NEVER)).unwrap();
    let outside = Outside::default();
    outside.plan("b", &[Then::Refuses]);
    let flow = Arc::new(Shared(Made(outside.clone())));
    let sagas = Sagas::new(Clock::fixed_start(noon()), store.clone(), Arc::clone(&flow));
    let mut work = JoinSet::new();
    sagas.spawn(&mut work);
    let started =
        move |transaction: &Transaction<'_>| start(transaction, flow.as_ref(), "s", &json!({}), None, noon());
    store.write(started).await.unwrap();
    sagas.go();
    let saga = sagas.until("s", Duration::from_mins(1), |saga| saga.state.is_end()).await.unwrap().unwrap();
    assert_eq!(saga.state, State::Compensated);
    assert_eq!(outside.calls(), ["a", "b", "-b", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn many_sagas_go_on_at_a_time_and_none_is_forgotten() {
    const IDS: [&str; 8] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"];
    let mut life = Life::new(NEVER);
    for id in IDS {
        life.start(id).await;
    }
    for id in IDS {
        assert_eq!(life.end(id).await.state, State::Completed);
    }
    sleep(LOOK * 2).await;
    let (_, sagas) = life.begin();
    assert!(sagas.shared.heard().is_empty(), "nobody is kept in mind who is over");
    let later = Sagas::new(
        Clock::fixed_start(noon().after(KEPT + Duration::from_mins(1))),
        life.begin().0,
        Arc::new(Made(life.outside.clone())),
    );
    let mut work = JoinSet::new();
    later.spawn(&mut work);
    sleep(LOOK * 2).await;
    let (store, _) = life.begin();
    let left = store.read(|connection| {
        connection.query_row("SELECT count(*) FROM sagas", (), |row| row.get::<_, u32>(0))
    });
    assert_eq!(left.await.unwrap(), 0, "what is over long ago is forgotten");
}
