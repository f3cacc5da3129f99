//! Notices that files have changed.
//!
//! Folders are watched and not files: a watch on a file dies at the first atomic rename, and a
//! `ConfigMap` swaps a link beside it. Names are not filtered for the same reason; what has really
//! changed is decided by content. Everything is polled as well.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
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
    looks: mpsc::Sender<()>,
    events: mpsc::Receiver<()>,
    /// Begun by the first change, over when nothing has changed for a while.
    burst: Option<Burst>,
}

/// Which folder it is that has a name: a watch follows the folder and not its name.
type Identity = (u64, u64, Option<SystemTime>);

#[derive(Clone, Copy, Debug)]
struct Burst {
    quiet: Instant,
    end: Instant,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Self {
        let (looks, events) = mpsc::channel(1); // One is enough: it only says "look".
        let sender = looks.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error is that of an overflow: something may have been missed.
            if event.map_or(true, |event| !event.kind.is_access()) {
                let _ = sender.try_send(()); // Full: it is known already.
            }
        });
        let watcher =
            watcher.inspect_err(|error| warn!(%error, "files cannot be watched; they are polled")).ok();
        Self { watcher, folders: BTreeMap::new(), looks, events, burst: None }
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

    /// Makes [`changed`](Self::changed) believe that something has changed now.
    pub fn look(&self) {
        let _ = self.looks.try_send(()); // Full: it is known already.
    }

    /// Waits for a change, and then until nothing has changed for `debounce`, but no longer than
    /// `max_wait` in all. Nothing is lost if this is dropped and called again.
    pub async fn changed(&mut self, debounce: Duration, max_wait: Duration) {
        loop {
            let is_over = match self.burst {
                None => self.events.recv().await.is_none(),
                Some(Burst { quiet, end }) => timeout_at(quiet.min(end), self.events.recv()).await.is_err(),
            };
            if is_over {
                self.burst = None;
                return;
            }
            let now = Instant::now();
            let end = self.burst.map_or(now + max_wait, |burst| burst.end);
            self.burst = Some(Burst { quiet: now + debounce, end });
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
