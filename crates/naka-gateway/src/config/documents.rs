//! Files that a configuration names besides its own: keys, lists of keys, secrets.
//!
//! They are part of the configuration: each is read once for one reading of it, its bytes go into the hash,
//! and a change of it is a change of the configuration. What is wrong with one is said at the place that
//! names it.
//!
//! Lists of endpoints are none of them: they are looked at here, and followed by whoever has need of them, so that a
//! change of one is no change of the configuration.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The largest document, in bytes.
const MAX_BYTES: u64 = 1 << 20;

type Read = Result<Arc<[u8]>, String>;

/// What has been read so far.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    read: RefCell<BTreeMap<PathBuf, Read>>,
    lists: RefCell<BTreeSet<PathBuf>>,
    /// Lists of endpoints that were not wrong when they were looked at before.
    accepted: BTreeSet<PathBuf>,
}

impl Documents {
    /// Nothing yet; these lists of endpoints were right before.
    pub(crate) fn after(accepted: BTreeSet<PathBuf>) -> Self {
        Self { accepted, ..Self::default() }
    }

    /// Where a file is that another one names.
    pub(crate) fn path(from: &Path, name: &str) -> PathBuf {
        match from.parent() {
            Some(dir) if dir != Path::new("") && dir != Path::new(".") => dir.join(name),
            _ => PathBuf::from(name),
        }
    }

    pub(crate) fn read(&self, path: &Path) -> Read {
        let mut known = self.read.borrow_mut();
        known.entry(path.to_owned()).or_insert_with(|| read(path)).clone()
    }

    /// Whether a list of endpoints was right before, or not there, so that it is held if it is not any more.
    pub(crate) fn was_accepted(&self, path: &Path) -> bool {
        self.accepted.contains(path)
    }

    /// A list of endpoints is right, or held, or not there.
    pub(crate) fn accept(&self, path: &Path) {
        self.lists.borrow_mut().insert(path.to_owned());
    }

    /// The lists of endpoints that are not wrong, or held.
    pub(crate) fn lists(&self) -> BTreeSet<PathBuf> {
        self.lists.borrow().clone()
    }

    /// All of them, those that could not be read as nothing.
    pub(crate) fn each(&self, mut look: impl FnMut(&Path, &[u8])) {
        for (path, read) in &*self.read.borrow() {
            look(path, read.as_deref().unwrap_or_default());
        }
    }
}

/// Reads a document as it is now.
pub(crate) fn read(path: &Path) -> Read {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let file = fs::File::open(path).map_err(cannot)?;
    if file.metadata().map_err(cannot)?.is_dir() {
        return Err("is a folder".into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("larger than {} MiB", MAX_BYTES >> 20));
    }
    Ok(bytes.into())
}
