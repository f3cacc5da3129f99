//! Endpoints in a file of their own.

use std::{path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use naka::balance::Target;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::{Discover, Look};
use crate::{
    assemble::target,
    config::{endpoints_of, read_document},
};

/// How often the file is looked at, by its content: a watch sees nothing on some mounts, and times may be equal.
pub const POLL: Duration = Duration::from_millis(500);

/// A file that changes is read again after this, until it stands still: a half of it may be right by itself.
const STILL: Duration = Duration::from_millis(50);

/// How often at most.
const READINGS: usize = 20;

/// Endpoints that a file lists.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    /// What was read last, and what it says.
    read: Option<(Read, Said)>,
    /// A reading that is under way: a disk that does not answer has one of them waiting, and no more.
    reading: Option<JoinHandle<Read>>,
}

/// How long one reading may take before it counts as a failure.
const PATIENCE: Duration = Duration::from_secs(10);

type Read = Result<Arc<[u8]>, String>;
type Said = Result<Vec<Target>, String>;

impl File {
    /// Nothing has been read.
    pub const fn new(path: PathBuf) -> Self {
        Self { path, read: None, reading: None }
    }

    async fn read(&mut self) -> Read {
        let path = &self.path;
        let reading = self.reading.get_or_insert_with(|| {
            let path = path.clone();
            spawn_blocking(move || read_document(&path))
        });
        let Ok(read) = timeout(PATIENCE, reading).await else {
            return Err(format!("it could not be read within {PATIENCE:?}"));
        };
        self.reading = None;
        read.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn say(&mut self) -> Said {
        let mut read = self.read().await;
        if let Some((before, said)) = &self.read
            && *before == read
        {
            return said.clone();
        }
        for _ in 0..READINGS {
            tokio::time::sleep(STILL).await;
            let again = self.read().await;
            if again == read {
                break;
            }
            read = again;
        }
        let said = match &read {
            Err(why) => Err(format!("{}: {why}", self.path.display())),
            Ok(bytes) => match endpoints_of(bytes, &self.path) {
                Ok(endpoints) => Ok(endpoints.iter().map(target).collect()),
                Err(wrong) => Err(format!("the file is wrong\n{}", wrong.render(false))),
            },
        };
        self.read = Some((read, said.clone()));
        said
    }
}

impl Discover for File {
    fn look(&mut self, _: bool) -> Pin<Box<dyn Future<Output = Look> + Send + '_>> {
        Box::pin(async move {
            let said = self.say().await;
            let trouble = said.as_ref().err().cloned();
            Look { found: said.ok(), trouble, again: POLL }
        })
    }
}
