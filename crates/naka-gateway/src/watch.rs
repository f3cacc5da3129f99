//! Notices that files have changed.
//!
//! Folders are watched and not files: a watch on a file dies at the first atomic rename, and a
//! `ConfigMap` swaps a link beside it. Names are not filtered for the same reason; what has really
//! changed is decided by content. Everything is polled as well.

use std::{
    path::{Path, PathBuf},
    time::Duration,
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
    folders: Vec<PathBuf>,
    events: mpsc::Receiver<()>,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Self {
        let (sender, events) = mpsc::channel(1); // One is enough: it only says "look".
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = sender.try_send(()); // Full: it is known already.
            }
        });
        let watcher =
            watcher.inspect_err(|error| warn!(%error, "files cannot be watched; they are polled")).ok();
        Self { watcher, folders: Vec::new(), events }
    }

    /// Watches these folders, and no others.
    pub fn follow<'a>(&mut self, folders: impl Iterator<Item = &'a Path>) {
        let folders = folders.map(Path::to_owned).collect::<Vec<_>>();
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.folders.iter().filter(|folder| !folders.contains(folder)) {
            let _ = watcher.unwatch(gone); // It may have been deleted.
        }
        for new in folders.iter().filter(|folder| !self.folders.contains(folder)) {
            if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                warn!(folder = %new.display(), %error, "the folder cannot be watched; it is polled");
            }
        }
        self.folders = folders;
    }

    /// Waits for a change, and then until nothing has changed for `debounce`, but no longer than
    /// `max_wait` in all.
    pub async fn changed(&mut self, debounce: Duration, max_wait: Duration) {
        if self.events.recv().await.is_none() {
            std::future::pending::<()>().await; // Nothing can be watched.
        }
        let end = Instant::now() + max_wait;
        loop {
            let quiet = end.min(Instant::now() + debounce);
            if timeout_at(quiet, self.events.recv()).await.is_err() {
                return;
            }
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}
