//! Unix sockets with a path: of the admin port, and where another process takes over. Whoever may open one may change
//! things, so only the user of the process can.

use std::{
    fs,
    io::{Error, ErrorKind, Result},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use rustix::net::sockopt::socket_peercred;
use tokio::net::UnixListener;

/// A socket, and the file that it is.
#[derive(Debug)]
pub struct Socket {
    /// Where connections come from.
    pub listener: UnixListener,
    /// Held for as long as it is served.
    pub file: SocketFile,
}

/// The file of a socket; dropped, it is removed, unless another process has put its own there since.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Which file that was.
    is: Option<(u64, u64)>,
}

/// A socket on which somebody could connect, if they knew where: not at its path yet.
#[derive(Debug)]
pub struct Hidden {
    listener: UnixListener,
    path: PathBuf,
    folder: Folder,
}

/// A folder that nobody else may enter; dropped, it is removed with what is in it.
#[derive(Debug)]
struct Folder(PathBuf);

/// Whether the socket of somebody who listens is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupied {
    /// Nobody knows that we come.
    Refuse,
    /// The process with this number has handed it over; anybody else has not.
    By(Option<i32>),
}

impl Socket {
    /// Binds a path. The file of a process that is gone is replaced; that of one that listens is not.
    ///
    /// # Errors
    /// If somebody listens there, or it is no socket, or the folder does not let us.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self> {
        Hidden::bind(path, Occupied::Refuse)?.show()
    }
}

impl Hidden {
    /// Binds a socket that will have this path.
    ///
    /// # Errors
    /// If somebody listens there who is not to be replaced, or it is no socket, or the folder does not let us.
    pub fn bind(path: impl AsRef<Path>, occupied: Occupied) -> Result<Self> {
        let path = path.as_ref();
        if let Ok(known) = fs::symlink_metadata(path) {
            if !known.file_type().is_socket() {
                return Err(Error::new(ErrorKind::AlreadyExists, format!("{} is no socket", path.display())));
            }
            if UnixStream::connect(path).is_ok_and(|there| !occupied.is_by(&there)) {
                return Err(Error::new(
                    ErrorKind::AddrInUse,
                    format!("somebody listens at {}", path.display()),
                ));
            }
        }
        // There until nobody else may open it.
        let folder = Folder::beside(path)?;
        let listener = UnixListener::bind(folder.made())?;
        fs::set_permissions(folder.made(), fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned(), folder })
    }

    /// Puts it at its path, in one step: there is no moment in which nothing is there that was there.
    ///
    /// # Errors
    /// If the folder does not let us.
    pub fn show(self) -> Result<Socket> {
        let Self { listener, path, folder } = self;
        let is = identity(&folder.made());
        fs::rename(folder.made(), &path)?;
        Ok(Socket { listener, file: SocketFile { path, is } })
    }
}

impl Occupied {
    /// Whether the other end of this connection is who has handed over.
    fn is_by(self, there: &UnixStream) -> bool {
        let Self::By(Some(pid)) = self else { return false };
        socket_peercred(there).is_ok_and(|other| other.pid.as_raw_nonzero().get() == pid)
    }
}

impl Folder {
    fn beside(path: &Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "it names no file"))?;
        let folder = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        let _ = fs::remove_dir_all(&folder); // Of a process with our number.
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }

    /// The socket in it.
    fn made(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // Nothing is in it any more, or nothing of use.
    }
}

/// Which file is there: its device and number.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).map(|known| (known.dev(), known.ino())).ok()
}

impl SocketFile {
    /// Whether what is at the path is still this one.
    pub fn is_there(&self) -> bool {
        let now = identity(&self.path);
        now.is_some() && now == self.is
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path); // Somebody may have been faster.
        }
    }
}
