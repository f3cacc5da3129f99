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
    is: Option<Identity>,
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

/// Which file it is, whatever it is called: its device and number.
pub type Identity = (u64, u64);

impl Socket {
    /// Binds a path. The file of a process that is gone is replaced; that of one that listens is not.
    ///
    /// # Errors
    /// If somebody listens there, or it is no socket, or the folder does not let us.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self> {
        Hidden::bind(path, &[])?.show()
    }
}

impl Hidden {
    /// Binds a socket that will have this path. Files that were `given` are replaced, whoever listens there.
    ///
    /// # Errors
    /// If somebody listens there who is not to be replaced, or it is no socket, or the folder does not let us.
    pub fn bind(path: impl AsRef<Path>, given: &[Identity]) -> Result<Self> {
        let path = path.as_ref();
        if let Ok(known) = fs::symlink_metadata(path) {
            if !known.file_type().is_socket() {
                return Err(Error::new(ErrorKind::AlreadyExists, format!("{} is no socket", path.display())));
            }
            if !given.contains(&(known.dev(), known.ino())) && UnixStream::connect(path).is_ok() {
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

/// Which file is there.
fn identity(path: &Path) -> Option<Identity> {
    fs::symlink_metadata(path).map(|known| (known.dev(), known.ino())).ok()
}

impl SocketFile {
    /// Which file it is, if it could be found out.
    pub const fn identity(&self) -> Option<Identity> {
        self.is
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    /// By which file it is, and not by the number of a process: that may mean nothing here.
    #[tokio::test]
    async fn only_what_was_given_is_replaced_while_somebody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["it", "other"].map(|name| folder.path().join(name));
        let [ours, theirs] = [&path, &other].map(|path| Socket::bind(path).unwrap());
        assert!(ours.file.is_there() && theirs.file.is_there());
        let given = [ours.file.identity().unwrap()];
        for (path, given) in [(&path, &[][..]), (&other, &given[..])] {
            assert_eq!(Hidden::bind(path, given).unwrap_err().kind(), ErrorKind::AddrInUse);
        }
        let next = Hidden::bind(&path, &given).unwrap().show().unwrap();
        assert!(next.file.is_there() && !ours.file.is_there());
        drop(ours);
        assert!(next.file.is_there(), "it removes its own only");
    }
}
