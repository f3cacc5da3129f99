//! A network inside the process: names instead of addresses, pipes instead of sockets.
//!
//! Virtual time runs away while anything waits for a real socket, so tests on a paused clock talk
//! over these. A pipe holds [`PIPE`] bytes in each direction; who writes more waits for the reader,
//! as with a socket.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
};

/// Bytes on their way in one direction.
pub const PIPE: usize = 64 << 10;
/// Connections that wait to be accepted.
const BACKLOG: usize = 4096;

/// Who listens, by name. Clones are the same network.
#[derive(Clone, Debug, Default)]
pub struct Network(Arc<Mutex<HashMap<String, mpsc::Sender<DuplexStream>>>>);

impl Network {
    /// Nobody listens yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens at a name, in place of whoever did before.
    pub fn listen(&self, name: &str) -> Listener {
        let (sender, incoming) = mpsc::channel(BACKLOG);
        self.names().insert(name.to_owned(), sender);
        Listener { incoming }
    }

    /// Connects to a name.
    ///
    /// # Errors
    /// `ConnectionRefused` if nobody listens there, or too many wait to be accepted.
    pub fn connect(&self, name: &str) -> io::Result<DuplexStream> {
        let listener = self.names().get(name).cloned().ok_or(io::ErrorKind::ConnectionRefused)?;
        let (ours, theirs) = duplex(PIPE);
        listener.try_send(theirs).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(ours)
    }

    fn names(&self) -> std::sync::MutexGuard<'_, HashMap<String, mpsc::Sender<DuplexStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts what connects to one name; dropped, nobody can connect any more.
#[derive(Debug)]
pub struct Listener {
    incoming: mpsc::Receiver<DuplexStream>,
}

impl Listener {
    /// The next connection; `None` once somebody else listens at this name.
    pub async fn accept(&mut self) -> Option<DuplexStream> {
        self.incoming.recv().await
    }
}
