//! The Unix socket of the admin port: whoever may open it may change things, so only the user of the process can.

use std::{
    fs,
    io::{Error, ErrorKind, Result},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// A socket, and the file that it is.
#[derive(Debug)]
pub struct Socket {
    /// Where connections come from.
    pub listener: UnixListener,
    /// Held for as long as it is served.
    pub file: SocketFile,
}

/// The file of a socket; dropped, it is removed.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Socket {
    /// Binds a path. The file of a process that is gone is replaced; that of one that listens is not.
    ///
    /// # Errors
    /// If somebody listens there, or it is no socket, or the folder does not let us.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if let Ok(known) = fs::symlink_metadata(path) {
            use std::os::unix::fs::FileTypeExt as _;
            if !known.file_type().is_socket() {
                return Err(Error::new(ErrorKind::AlreadyExists, format!("{} is no socket", path.display())));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(Error::new(
                    ErrorKind::AddrInUse,
                    format!("somebody listens at {}", path.display()),
                ));
            }
        }
        // In a folder that nobody else may enter, until nobody else may open it.
        let name = path.file_name().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "it names no file"))?;
        let folder = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        let made = folder.join("s");
        let _ = fs::remove_dir_all(&folder); // Of a process with our number.
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let bound = UnixListener::bind(&made).and_then(|listener| {
            fs::set_permissions(&made, fs::Permissions::from_mode(0o600))?;
            fs::rename(&made, path)?;
            Ok(listener)
        });
        let _ = fs::remove_dir_all(&folder); // Nothing is in it any more, or nothing of use.
        let listener = bound?;
        Ok(Self { listener, file: SocketFile(path.to_owned()) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // Somebody may have been faster.
    }
}
