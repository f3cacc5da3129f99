//! The file of what outlives the process: read at the start, written in intervals and at the end.
//!
//! It is replaced in one step: whoever reads it, and whatever ends the machine, finds the one before or the one after.
//! Nobody but the user of the process may read it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use naka::clock::Now;
use tokio::{
    task::AbortHandle,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    generation::InForce,
    saved::{self, Saved},
};

/// How long the end of the process waits for a disk.
const LAST: Duration = Duration::from_secs(5);

/// How often it is looked whether there shall be a file, while there shall be none.
const LOOK: Duration = Duration::from_secs(1);

/// What a file says; nothing, where there is none.
///
/// # Errors
/// Why it cannot be used.
pub fn read(path: &Path) -> Result<Option<Saved>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if !file.metadata().is_ok_and(|known| known.is_file()) {
        return Err("it is no file".to_owned());
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(saved::MAX).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Saved::decode(&bytes).map(Some).map_err(|error| error.to_string())
}

/// Replaces a file.
///
/// # Errors
/// If the folder or the disk does not let us. The file before is as it was.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "it names no file"))?;
    let beside = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let _ = fs::remove_file(&beside); // Of a process with our number.
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, path)
        });
    if written.is_err() {
        let _ = fs::remove_file(&beside); // It may not even be there.
        return written;
    }
    // The name, too; some file systems know no such thing.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let _ = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Whoever writes it, for as long as the process is the one that serves.
#[derive(Debug)]
pub struct Keeper {
    writer: Writer,
    keeping: AbortHandle,
}

impl Keeper {
    /// Writes in intervals until it is stopped. Which file and how often is what the configuration in force says.
    pub fn start(in_force: Arc<InForce>) -> Self {
        let writer = Writer { in_force, one: Arc::default() };
        let keeping = tokio::spawn(writer.clone().keep()).abort_handle();
        Self { writer, keeping }
    }

    /// Writes no more, but for what is being written.
    pub fn stop(&self) {
        self.keeping.abort();
    }

    /// Writes once more, at the end.
    pub async fn write_last(&self) {
        match timeout(LAST, self.writer.write()).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(file))) => info!(file = %file.display(), "the state is saved"),
            Ok(Err(why)) => warn!("{why}"),
            Err(_) => warn!("the state is not saved: the disk does not answer"),
        }
    }
}

#[derive(Clone, Debug)]
struct Writer {
    in_force: Arc<InForce>,
    /// One writes at a time.
    one: Arc<Mutex<()>>,
}

impl Writer {
    async fn keep(self) {
        let mut told = None;
        loop {
            let interval =
                self.in_force.with(|it| it.config.gateway.state.as_ref().map(|state| state.interval));
            sleep(interval.unwrap_or(LOOK)).await;
            if interval.is_none() {
                continue;
            }
            let failed = self.write().await.err();
            if let Some(why) = failed.as_ref().filter(|_| failed != told) {
                warn!("{why}; it is tried again, and the same is not said again");
            }
            told = failed;
        }
    }

    /// Writes the file, if there shall be one, and says which.
    async fn write(&self) -> Result<Option<PathBuf>, String> {
        let generation = self.in_force.get();
        let Some(state) = generation.config.gateway.state.clone() else { return Ok(None) };
        let (path, one) = (PathBuf::from(&*state.file), Arc::clone(&self.one));
        let written = tokio::task::spawn_blocking(move || {
            let _one = one.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = Saved::of(&generation.state, Now::read()).encode();
            let written = bytes.map_err(|error| error.to_string());
            let written = written.and_then(|bytes| write(&path, &bytes).map_err(|error| error.to_string()));
            written.map_err(|error| format!("the state cannot be saved in {}: {error}", path.display()))?;
            Ok(Some(path))
        });
        written.await.unwrap_or_else(|_| Err("the state is not saved: saving it panicked".to_owned()))
    }
}
