//! Notices that files have changed.
//!
//! Folders are watched and not files: a watch on a file dies at the first atomic rename, and a
//! `ConfigMap` swaps a link beside it. Names are not filtered for the same reason; what has really
//! changed is decided by content. Everything is polled as well.
//!
//! # When to look
//! 1. **Settled**: nothing has changed for `debounce`, or it has for `max_wait`. What is found counts, also if it is wrong.
//! 2. **Early**, once before that: a file was renamed to where it is, and nothing else has been written there; and nothing has
//!    happened for [`SETTLE`]. What is found is probably whole, and may take effect if it is right; if it is not, nothing is to be
//!    said of it yet. What is written in its place waits, also when it has been closed: whoever writes may open it again, and the first half of
//!    a route can be a route by itself, without the policy that its last line would have named.
//!
//! What is looked at early and was not [`taken`](Watch::taken), and all that changes after that, is looked at once more when
//! it has settled. Between two early looks there are always `debounce` without a change, or `max_wait`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tracing::warn;

/// Tells when something in the watched folders changes.
#[derive(Debug)]
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// What is watched; `None` where it cannot be, so that it is tried again.
    folders: BTreeMap<PathBuf, Option<Identity>>,
    ear: Ear,
    events: mpsc::Receiver<()>,
    /// Begun by the first change, over when nothing has changed for a while.
    burst: Option<Burst>,
}

/// Which folder it is that has a name: a watch follows the folder and not its name.
type Identity = (u64, u64, Option<SystemTime>);

/// What there is to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A change that seems to be whole, and may be the first of several.
    Early,
    /// All of a burst of changes.
    Settled,
}

/// So long nothing happens before an early look: whoever saves several files, or one in several steps, does the next by then.
pub const SETTLE: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug)]
struct Burst {
    quiet: Instant,
    end: Instant,
    /// When it may be looked at early.
    early: Option<Instant>,
    was_early: bool,
    /// All of it is in force.
    is_taken: bool,
}

impl Burst {
    /// There is one more change.
    fn and(before: Option<Self>, now: Instant, debounce: Duration, max_wait: Duration) -> Self {
        let (end, was_early) = before.map_or((now + max_wait, false), |burst| (burst.end, burst.was_early));
        let early = (!was_early).then(|| now + SETTLE);
        Self { quiet: now + debounce, end, early, was_early, is_taken: false }
    }

    /// What comes next if nothing changes, and when.
    fn next(&self) -> (Instant, Seen) {
        let settled = self.quiet.min(self.end);
        self.early.filter(|early| *early < settled).map_or((settled, Seen::Settled), |it| (it, Seen::Early))
    }
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Self {
        let (looks, events) = mpsc::channel(1); // One is enough: it only says "look".
        let ear = Ear { looks, writing: Arc::default() };
        let hearing = ear.clone();
        let watcher =
            notify::recommended_watcher(move |event: notify::Result<Event>| hearing.hear(event.ok()));
        let watcher =
            watcher.inspect_err(|error| warn!(%error, "files cannot be watched; they are polled")).ok();
        Self { watcher, folders: BTreeMap::new(), ear, events, burst: None }
    }

    /// Watches these folders, and no others. A folder that another one has replaced, or that could
    /// not be watched before, is watched anew; whoever read it before this has to look again, which
    /// this asks for.
    pub fn follow<'a>(&mut self, folders: impl IntoIterator<Item = &'a Path>) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted = folders.into_iter().map(|folder| (folder.to_owned(), identity(folder)));
        let mut wanted = wanted.collect::<BTreeMap<_, _>>();
        let is_kept =
            |folder: &PathBuf, is: &Option<Identity>| is.is_some() && wanted.get(folder) == Some(is);
        let gone = self.folders.iter().filter(|(folder, is)| is.is_some() && !is_kept(folder, is));
        for (folder, _) in gone {
            let _ = watcher.unwatch(folder); // It may have been deleted.
        }
        let mut is_new = false;
        for (folder, is) in &mut wanted {
            let was = self.folders.get(folder);
            if is.is_some() && was == Some(is) {
                continue;
            }
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => is_new = true,
                Err(error) => {
                    *is = None;
                    if was != Some(&None) {
                        warn!(folder = %folder.display(), %error, "the folder cannot be watched; it is polled");
                    }
                }
            }
        }
        self.folders = wanted;
        if is_new {
            self.look();
        }
    }

    /// Makes [`changed`](Self::changed) believe that something has changed now, of which nobody knows whether it is whole.
    pub fn look(&self) {
        self.ear.hear(None);
    }

    /// Waits for a change that is to be looked at, early or not; see the [module docs](self). Nothing is lost if this is
    /// dropped and called again.
    pub async fn changed(&mut self, debounce: Duration, max_wait: Duration) -> Seen {
        loop {
            let (heard, next) = match self.burst.map(|burst| burst.next()) {
                None => (self.events.recv().await, Seen::Settled),
                Some((at, next)) => (timeout_at(at, self.events.recv()).await.unwrap_or_default(), next),
            };
            match (heard, next, &mut self.burst) {
                (Some(()), _, before) => {
                    *before = Some(Burst::and(*before, Instant::now(), debounce, max_wait));
                }
                (None, Seen::Early, Some(burst)) => {
                    burst.early = None;
                    burst.was_early = self.ear.writing().is_over();
                    if burst.was_early {
                        return Seen::Early;
                    }
                }
                (None, _, burst) => {
                    self.ear.writing().begin(self.events.is_empty());
                    if burst.take().is_none_or(|burst| !burst.is_taken) {
                        return Seen::Settled;
                    }
                }
            }
        }
    }

    /// What was looked at early is in force: it need not be looked at once more.
    pub fn taken(&mut self) {
        if let Some(burst) = &mut self.burst {
            burst.is_taken = true;
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

fn identity(folder: &Path) -> Option<Identity> {
    let is = fs::metadata(folder).ok()?;
    Some((is.dev(), is.ino(), is.created().ok()))
}

/// Hears what happens in folders, on whatever thread it is told.
#[derive(Clone, Debug)]
struct Ear {
    looks: mpsc::Sender<()>,
    writing: Arc<Mutex<Writing>>,
}

impl Ear {
    /// `None`: something has happened, and nobody knows what.
    fn hear(&self, event: Option<Event>) {
        let mut writing = self.writing();
        if writing.hear(event) {
            let _ = self.looks.try_send(()); // Full: it is known already.
        }
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is writing, as far as events say.
#[derive(Debug, Default)]
struct Writing {
    /// Files that were changed where they are: closed or not, there may be more to come.
    open: BTreeSet<PathBuf>,
    /// Those of them that were closed.
    closed: BTreeSet<PathBuf>,
    /// A file was renamed to where it is.
    has_ended: bool,
    /// Something else has happened, or too much.
    is_unclear: bool,
}

/// More files at once are not followed.
const MAX_OPEN: usize = 64;

impl Writing {
    /// Answers whether there may be something to look at.
    ///
    /// A link that is made is never closed, and so is waited for; as links are swapped by renaming one, that is unclear.
    fn hear(&mut self, event: Option<Event>) -> bool {
        let Some(event) = event.filter(|event| !event.need_rescan()) else {
            self.is_unclear = true;
            return true;
        };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.closed.extend(event.paths.into_iter().filter(|path| self.open.contains(path)));
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => self.ended(&event.paths),
            EventKind::Access(_) => return false, // Looking at a file is none of its changes.
            // Whoever writes to it may go on under its new name, unless it was closed.
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                let is_open = |path| self.open.contains(path) && !self.closed.contains(path);
                self.is_unclear |= event.paths.iter().any(is_open);
                self.forget(&event.paths);
            }
            EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => {
                self.is_unclear |= self.open.len() >= MAX_OPEN;
                self.open.extend(event.paths.into_iter().filter(|_| !self.is_unclear));
            }
            EventKind::Remove(_) => self.forget(&event.paths),
            // Of both names at once it was told before of each.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both) | ModifyKind::Metadata(_)) => {}
            _ => self.is_unclear = true,
        }
        true
    }

    fn ended(&mut self, paths: &[PathBuf]) {
        self.has_ended = true;
        self.forget(paths);
    }

    fn forget(&mut self, paths: &[PathBuf]) {
        self.open.retain(|path| !paths.contains(path));
        self.closed.retain(|path| !paths.contains(path));
    }

    /// Whether whatever has changed seems to be whole.
    fn is_over(&self) -> bool {
        self.has_ended && !self.is_unclear && self.open.is_empty()
    }

    /// Begins anew with the next burst. What has begun already is not told from what is over.
    fn begin(&mut self, is_quiet: bool) {
        *self = Self { is_unclear: !is_quiet, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, MetadataKind, RemoveKind};

    use super::*;

    const DEBOUNCE: Duration = Duration::from_millis(200);
    const MAX_WAIT: Duration = Duration::from_secs(1);

    const MADE: EventKind = EventKind::Create(CreateKind::File);
    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const OPENED: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));
    const GONE: EventKind = EventKind::Remove(RemoveKind::File);
    const TOUCHED: EventKind = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
    const FROM: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::From));
    const TO: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));

    fn hear(watch: &Watch, all: &[(EventKind, &str)]) {
        for (kind, path) in all {
            watch.ear.hear(Some(Event::new(*kind).add_path(path.into())));
        }
    }

    /// What is seen next, and in how many milliseconds; nothing, if nothing is.
    async fn next(watch: &mut Watch) -> Option<(Seen, u128)> {
        let began = Instant::now();
        let seen = tokio::time::timeout(Duration::from_hours(1), watch.changed(DEBOUNCE, MAX_WAIT)).await;
        Some((seen.ok()?, began.elapsed().as_millis()))
    }

    async fn wait(watch: &mut Watch, ms: u64) {
        let seen = tokio::time::timeout(Duration::from_millis(ms), watch.changed(DEBOUNCE, MAX_WAIT)).await;
        assert!(seen.is_err(), "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_renamed_to_its_place_is_looked_at_early_and_once_more() {
        let ways: [&[_]; 2] = [
            &[(TO, "a")],
            &[(MADE, ".a"), (WRITTEN, ".a"), (CLOSED, ".a"), (TOUCHED, ".a"), (FROM, ".a"), (TO, "a")],
        ];
        for way in ways {
            let mut watch = Watch::new();
            hear(&watch, way);
            assert_eq!(next(&mut watch).await, Some((Seen::Early, 5)), "{way:?}");
            assert_eq!(next(&mut watch).await, Some((Seen::Settled, 195)), "{way:?}");
            assert_eq!(next(&mut watch).await, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_is_not_looked_at_again_unless_something_happens() {
        let mut watch = Watch::new();
        hear(&watch, &[(TO, "a")]);
        assert_eq!(next(&mut watch).await, Some((Seen::Early, 5)));
        watch.taken();
        assert_eq!(next(&mut watch).await, None);
        hear(&watch, &[(TO, "a")]);
        assert_eq!(next(&mut watch).await, Some((Seen::Early, 5)), "there was quiet in between");
        watch.taken();
        wait(&mut watch, 100).await;
        hear(&watch, &[(TO, "a")]);
        assert_eq!(next(&mut watch).await, Some((Seen::Settled, 200)), "there was none");
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_half_done_waits() {
        let ways: [&[_]; 9] = [
            &[(WRITTEN, "a")],
            // Whoever has closed it may open it again.
            &[(WRITTEN, "a"), (WRITTEN, "a"), (CLOSED, "a")],
            // As some editors do, with a copy of what was there.
            &[
                (FROM, "a"),
                (TO, "a~"),
                (MADE, "a"),
                (WRITTEN, "a"),
                (CLOSED, "a"),
                (TOUCHED, "a"),
                (GONE, "a~"),
            ],
            &[(OPENED, "a"), (MADE, "4913"), (CLOSED, "4913"), (GONE, "4913"), (WRITTEN, "a"), (CLOSED, "a")],
            &[(TOUCHED, "a"), (GONE, "b")],
            &[(WRITTEN, "b"), (WRITTEN, "a"), (CLOSED, "a")],
            &[(MADE, "b"), (TO, "a")],
            // A link that takes the place of another.
            &[(MADE, "..data_tmp"), (FROM, "..data_tmp"), (TO, "..data")],
            &[(EventKind::Any, "b"), (TO, "a")],
        ];
        for way in ways {
            let mut watch = Watch::new();
            hear(&watch, way);
            assert_eq!(next(&mut watch).await, Some((Seen::Settled, 200)), "{way:?}");
            hear(&watch, &[(TO, "a")]);
            assert_eq!(next(&mut watch).await, Some((Seen::Early, 5)), "{way:?} is over");
        }
        let mut watch = Watch::new();
        hear(&watch, &[(TO, "a")]);
        watch.look();
        assert_eq!(next(&mut watch).await, Some((Seen::Settled, 200)), "nobody knows what it was");
    }

    #[tokio::test(start_paused = true)]
    async fn an_early_look_waits_for_who_is_writing_and_for_a_moment() {
        let mut watch = Watch::new();
        hear(&watch, &[(WRITTEN, ".b"), (TO, "a")]);
        wait(&mut watch, 100).await;
        hear(&watch, &[(CLOSED, ".b"), (FROM, ".b"), (TO, "b")]);
        wait(&mut watch, 4).await;
        hear(&watch, &[(TO, "c")]);
        assert_eq!(next(&mut watch).await, Some((Seen::Early, 5)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_looked_at_early_once() {
        let mut watch = Watch::new();
        hear(&watch, &[(TO, "a")]);
        assert_eq!(next(&mut watch).await, Some((Seen::Early, 5)));
        for _ in 0..9 {
            wait(&mut watch, 100).await;
            hear(&watch, &[(TO, "a")]);
        }
        assert_eq!(next(&mut watch).await, Some((Seen::Settled, 95)), "after a second, whatever happens");
    }
}
