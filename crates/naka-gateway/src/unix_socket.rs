//! Unix sockets with a path: of listeners, of the admin port, and where another process takes over.
//!
//! Whoever may open one of the last two may change things, so only the user of the process can. Who may open that of a
//! listener, its configuration says.
//!
//! What is at a path already is replaced only if it is a socket at which nobody listens: the file of a process that is
//! gone. What is no socket, and what somebody listens at, is left alone, and so is what we may not ask.

use std::{
    fs,
    io::{Error, ErrorKind, Result},
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Type};
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

/// Which file it is, whatever it is called: its device and number. As long as the socket is open that is bound to it, no
/// other file has that number, also if it was removed.
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
        is_free(path, given)?;
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

/// Binds a path for a listener. The file is there at once, and may be opened as `mode` says; but nobody can connect before
/// the socket listens, so there is no moment in which more may.
///
/// # Errors
/// As those of [`Socket::bind`].
pub(crate) fn bind(path: &Path, mode: u32) -> Result<(socket2::Socket, SocketFile)> {
    if is_free(path, &[])? == Free::ButForItsFile {
        fs::remove_file(path)?;
    }
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.to_owned(), is: identity(path) };
    file.set_mode(mode)?;
    Ok((socket, file))
}

/// What is at a path that can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Free {
    /// Nothing.
    Wholly,
    /// The file of a socket at which nobody listens, or one that was given.
    ButForItsFile,
}

fn is_free(path: &Path, given: &[Identity]) -> Result<Free> {
    let known = match fs::symlink_metadata(path) {
        Ok(known) => known,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Free::Wholly),
        Err(error) => return Err(error),
    };
    if !known.file_type().is_socket() {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("{} is no socket", path.display())));
    }
    if !given.contains(&(known.dev(), known.ino())) && may_be_listened_at(path) {
        return Err(Error::new(ErrorKind::AddrInUse, format!("somebody listens at {}", path.display())));
    }
    Ok(Free::ButForItsFile)
}

/// Whether it cannot be ruled out. Whoever has a long queue is not waited for.
fn may_be_listened_at(path: &Path) -> bool {
    let connected = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    });
    !connected.is_err_and(|error| matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound))
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
    /// That of a socket which another process has handed over, if what is at the path is one of those that were its.
    pub(crate) fn given(path: &Path, given: &[Identity]) -> Option<Self> {
        let is = identity(path).filter(|is| given.contains(is))?;
        Some(Self { path: path.to_owned(), is: Some(is) })
    }

    /// It is another process's from now on, which will remove it.
    pub(crate) fn leave(mut self) {
        self.is = None;
    }

    /// Who may connect: `0o660` is the user of the file and its group.
    ///
    /// # Errors
    /// If it is not there any more, or the system does not let us.
    pub(crate) fn set_mode(&self, mode: u32) -> Result<()> {
        if !self.is_there() {
            return Err(Error::new(ErrorKind::NotFound, format!("{} is gone", self.path.display())));
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
    }

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

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn who_has_died_is_replaced_and_who_lives_or_is_no_socket_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.sock");
        let refused = |path: &Path| bind(path, 0o600).unwrap_err().kind();
        let (living, file) = bind(&path, 0o660).unwrap();
        assert_eq!(mode(&path), 0o660);
        living.listen(1).unwrap();
        assert_eq!(refused(&path), ErrorKind::AddrInUse);
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(refused(&path), ErrorKind::AddrInUse, "its queue is full, and it is not waited for");
        drop(client);
        living.shutdown(std::net::Shutdown::Both).unwrap();
        let (_again, next) = bind(&path, 0o600).unwrap();
        assert!(!file.is_there() && next.is_there(), "nobody listened there any more");
        drop((file, living));
        assert!(next.is_there(), "and removes nothing any more");
        next.set_mode(0o666).unwrap();
        assert_eq!(mode(&path), 0o666);
        next.leave();
        assert!(path.exists(), "it is another's");

        let other = folder.path().join("other");
        fs::write(&other, "what somebody needs").unwrap();
        assert_eq!(refused(&other), ErrorKind::AlreadyExists);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(refused(&link), ErrorKind::AlreadyExists, "a link is no socket");
        assert_eq!(fs::read(&other).unwrap(), b"what somebody needs");
        assert_eq!(refused(&folder.path().join("none/web.sock")), ErrorKind::NotFound);
    }

    #[test]
    fn a_path_may_be_as_long_as_the_system_lets_it() {
        let folder = tempfile::tempdir().unwrap();
        let room = crate::address::SOCKET_PATH - folder.path().as_os_str().len() - 1;
        let path = folder.path().join("a".repeat(room));
        let (_socket, file) = bind(&path, 0o600).unwrap();
        assert!(file.is_there());
        assert!(bind(&folder.path().join("a".repeat(room + 1)), 0o600).is_err());
    }

    #[test]
    fn what_was_handed_over_is_ours_only_if_it_is_what_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.sock");
        let (_socket, file) = bind(&path, 0o600).unwrap();
        let is = file.identity().unwrap();
        assert!(SocketFile::given(&path, &[]).is_none());
        let ours = SocketFile::given(&path, &[is]).unwrap();
        file.leave();
        drop(ours);
        assert!(!path.exists());
        assert!(SocketFile::given(&path, &[is]).is_none());
    }
}
