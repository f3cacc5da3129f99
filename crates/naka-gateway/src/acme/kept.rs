//! What is kept in the folder: the key of the account, the certificate with its key, and the lock.
//!
//! | File | What |
//! | --- | --- |
//! | `account-….key` | The key of the account at one authority, in PKCS #8 |
//! | `….pem` | A certificate, those that lead to its authority, and its key |
//! | `….pem.unfit` | The last such file that was set aside |
//! | `….lock` | Empty; locked by whoever orders (`flock`) |
//!
//! The folder is made with the mode 0700, and all files with 0600. Each is written beside its place, and takes it at once and
//! whole, so a process that dies in between leaves the one that was there. All of this blocks.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::KeyPair;

use crate::{
    config::checked::Acme,
    tls::{Certificate, Unfit},
};

/// A longer file is none of ours, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// What is kept for one certificate.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    folder: PathBuf,
    pem: PathBuf,
    lock: PathBuf,
    account: PathBuf,
    domains: Vec<Arc<str>>,
}

/// Held by whoever orders.
#[derive(Debug)]
pub(super) struct Locked {
    _file: File,
}

impl Kept {
    /// Of this one.
    pub(super) fn of(acme: &Acme) -> Self {
        let hash = digest(&SHA256, acme.directory.as_bytes());
        let hash = hash.as_ref()[..8].iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        Self {
            folder: acme.folder.clone(),
            pem: acme.folder.join(format!("{}.pem", acme.id)),
            lock: acme.folder.join(format!("{}.lock", acme.id)),
            account: acme.folder.join(format!("account-{hash:016x}.key")),
            domains: acme.domains.clone(),
        }
    }

    /// The certificate, if there is one. Whoever has the lock sets aside what is not one for all of the hosts: nobody else
    /// writes then.
    ///
    /// # Errors
    /// If it is unfit, or cannot be read.
    pub(super) fn certificate(&self, sets_aside: bool) -> Result<Option<Arc<Certificate>>, String> {
        let bytes = match read(&self.pem) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(said(&self.pem, &error)),
        };
        self.fit(&bytes).map(Some).map_err(|why| {
            if !sets_aside {
                return format!("{}: {why}", self.pem.display());
            }
            let mut aside = self.pem.clone().into_os_string();
            aside.push(".unfit");
            let moved = fs::rename(&self.pem, &aside);
            let aside = match moved {
                Ok(()) => format!("it was set aside as {}", Path::new(&aside).display()),
                Err(error) => format!("and it cannot be set aside: {error}"),
            };
            format!("{}: {why}; {aside}", self.pem.display())
        })
    }

    /// The certificate that such a file has.
    ///
    /// # Errors
    /// If it is not one for all of the hosts, with its own key.
    pub(super) fn fit(&self, pem: &[u8]) -> Result<Arc<Certificate>, String> {
        let certificate = Certificate::read(&self.file(), pem, pem).map_err(|unfit| match unfit {
            Unfit::Certificate(why) | Unfit::Key(why) => why,
            Unfit::Pair => "its key is that of another certificate".to_owned(),
        })?;
        match self.domains.iter().find(|domain| !certificate.names().cover(domain)) {
            Some(domain) => Err(format!("its certificate is not for `{domain}`")),
            None => Ok(Arc::new(certificate)),
        }
    }

    /// Where the certificate is, as metrics say it.
    pub(super) fn file(&self) -> Arc<str> {
        self.pem.display().to_string().into()
    }

    /// Keeps a certificate with its key, both in PEM.
    ///
    /// # Errors
    /// If that cannot be done; what was there is there.
    pub(super) fn keep(&self, pem: &[u8]) -> Result<(), String> {
        self.prepared()?;
        let kept = written(&self.folder, pem).and_then(|file| Ok(file.persist(&self.pem)?));
        let kept = kept.and_then(|_| File::open(&self.folder)?.sync_all());
        kept.map_err(|error| said(&self.pem, &error))
    }

    /// The key of the account, which is made if there is none: it is kept before anybody sees it, so that no account is lost.
    ///
    /// # Errors
    /// If there is none and none can be kept, or it is not one.
    pub(super) fn account(&self) -> Result<KeyPair, String> {
        self.prepared()?;
        let read = match read(&self.account) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(|error| error.to_string())?;
                let kept = written(&self.folder, key.serialize_pem().as_bytes())
                    .and_then(|file| Ok(file.persist_noclobber(&self.account)?));
                match kept {
                    // Another certificate at the same authority was first.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(said(&self.account, &error)),
                    Ok(_) => {}
                }
                read(&self.account)
            }
            read => read,
        };
        let pem = read.map_err(|error| said(&self.account, &error))?;
        let unfit = |_| format!("{}: it is no private key in PEM", self.account.display());
        KeyPair::from_pem(std::str::from_utf8(&pem).unwrap_or_default()).map_err(unfit)
    }

    /// The right to order, for as long as it is held; nothing if somebody has it.
    ///
    /// # Errors
    /// If it cannot be known.
    pub(super) fn lock(&self) -> Result<Option<Locked>, String> {
        self.prepared()?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(&self.lock).map_err(|error| said(&self.lock, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Locked { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(said(&self.lock, &error)),
        }
    }

    fn prepared(&self) -> Result<(), String> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|error| said(&self.folder, &error))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let (file, mut bytes) = (File::open(path)?, Vec::new());
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_BYTES) {
        return Err(io::Error::other("it has more than 1 MiB"));
    }
    Ok(bytes)
}

/// Beside its place, with the mode 0600, and on the disk.
fn written(folder: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn said(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
