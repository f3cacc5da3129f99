//! The file of what outlives the process: read at the start, written in intervals and at the end.
//!
//! It is replaced in one step: whoever reads it, and whatever ends the machine, finds the one before or the one after.
//! Nobody but the user of the process may read it.
//!
//! Only a regular file is read or replaced. What a process that was killed has left beside it is removed at the start.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use naka::clock::Now;
use rustix::{
    fs::OFlags,
    io::Errno,
    process::{Pid, test_kill_process},
};
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

/// How many names beside the file are looked at.
const LOOKED_AT: usize = 10_000;

/// How often it is looked whether there shall be a file, while there shall be none.
const LOOK: Duration = Duration::from_secs(1);

/// What a file says; nothing, where there is none.
///
/// # Errors
/// Why it cannot be used.
pub fn read(path: &Path) -> Result<Option<Saved>, String> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut bytes = Vec::new();
    let most = u64::try_from(saved::MAX).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Saved::decode(&bytes).map(Some).map_err(|error| error.to_string())
}

/// Opens a regular file: a pipe would wait for whoever writes to it, and what a device does is its own affair.
fn open(path: &Path) -> io::Result<File> {
    regular(&fs::metadata(path)?)?;
    let at_once = OFlags::NONBLOCK.bits().cast_signed(); // It may be another one by now.
    let file = OpenOptions::new().read(true).custom_flags(at_once).open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

fn regular(known: &Metadata) -> io::Result<()> {
    if known.is_file() {
        return Ok(());
    }
    let why = "it is no regular file: have `gateway.state.file` name one, or a path where nothing is";
    Err(io::Error::new(ErrorKind::InvalidInput, why))
}

/// Replaces a file.
///
/// # Errors
/// If the folder or the disk does not let us, or it is no regular file. What was there is as it was.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Ok(known) = fs::metadata(path) {
        regular(&known)?;
    }
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "it names no file"))?;
    let beside = path.with_file_name(format!("{}{}", before_number(name), std::process::id()));
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
    let _ = File::open(folder_of(path)).and_then(|folder| folder.sync_all());
    Ok(())
}

/// What the file that is written beside it is called, but for the number of the process.
fn before_number(name: &OsStr) -> String {
    format!(".{}.", name.to_string_lossy())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes what processes of this user left beside the file when they were killed: half a state is as secret as a whole one.
///
/// The number of a process that lives elsewhere, with the same folder, may be unknown here. If its file goes while it
/// writes, it says so, and writes again.
fn clean(path: &Path) {
    let Some(before) = path.file_name().map(before_number) else { return };
    let Ok(entries) = fs::read_dir(folder_of(path)) else { return };
    for entry in entries.take(LOOKED_AT).flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(&*before));
        let is_gone = number.is_some_and(is_of_nobody);
        // Of what a link names it knows nothing.
        let is_ours = entry
            .metadata()
            .is_ok_and(|known| known.is_file() && known.uid() == rustix::process::geteuid().as_raw());
        if is_gone && is_ours && fs::remove_file(entry.path()).is_ok() {
            info!(file = %entry.path().display(), "what a process left when it was killed is removed");
        }
    }
}

/// Whether this is the number of a process, and there is none.
fn is_of_nobody(number: &str) -> bool {
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    let pid = number.parse().ok().filter(|_| is_number).and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
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
        let file =
            self.in_force.with(|it| it.config.gateway.state.as_ref().map(|state| Arc::clone(&state.file)));
        if let Some(file) = file {
            let _ = tokio::task::spawn_blocking(move || clean(Path::new(&*file))).await; // Nothing depends on it.
        }
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
