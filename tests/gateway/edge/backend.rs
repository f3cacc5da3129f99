//! A backend that keeps the exact bytes of what it is sent, and answers with exact bytes.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The request line and the fields, to the empty line.
    pub(super) head: String,
    /// Its body, as it was framed.
    pub(super) framed: Vec<u8>,
    /// Its body, without chunks.
    pub(super) body: Vec<u8>,
}

impl Seen {
    pub(super) fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub(super) fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    /// All values of a field.
    pub(super) fn field(&self, name: &str) -> Vec<&str> {
        fields(&self.head).filter(|(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

/// The fields of a head.
pub(super) fn fields(head: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = head.split("\r\n").skip(1);
    lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim()))
}

/// What it has seen, and what it says to which target.
#[derive(Clone, Debug, Default)]
pub(super) struct Backend {
    seen: Arc<Mutex<Vec<Seen>>>,
    answers: Arc<Mutex<HashMap<String, Vec<u8>>>>,
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

impl Backend {
    /// Listens, and goes on as long as the test.
    pub(super) async fn start() -> (Self, SocketAddr) {
        let backend = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = backend.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        (backend, address)
    }

    /// Says these bytes to whoever asks for this target, and closes if they do not say how long they are.
    pub(super) fn answer(&self, target: &str, bytes: Vec<u8>) {
        self.answers.lock().unwrap().insert(target.to_owned(), bytes);
    }

    pub(super) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        while let Some(seen) = read(&mut stream, &mut bytes).await {
            let target = seen.target().to_owned();
            self.seen.lock().unwrap().push(seen);
            let answer = self.answers.lock().unwrap().get(&target).cloned();
            let is_last = answer.is_some();
            if stream.write_all(answer.as_deref().unwrap_or(OK)).await.is_err() || is_last {
                return; // What is said exactly may say anything of its length.
            }
        }
        if !bytes.is_empty() {
            // Half a message is told, too.
            let head = String::from_utf8_lossy(&bytes).into_owned();
            self.seen.lock().unwrap().push(Seen { head, framed: Vec::new(), body: Vec::new() });
        }
    }
}

/// The next message; `None` if there is none that is whole.
async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(at) = find(bytes, b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, bytes).await?;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let value = |name: &str| {
        fields(&head).find(|(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let (framed, body) = if value("transfer-encoding").is_some() {
        loop {
            if let Some((length, body)) = dechunked(&bytes[end..]) {
                break (bytes[end..end + length].to_vec(), body);
            }
            more(stream, bytes).await?;
        }
    } else {
        let length = value("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while bytes.len() < end + length {
            more(stream, bytes).await?;
        }
        (bytes[end..end + length].to_vec(), bytes[end..end + length].to_vec())
    };
    bytes.drain(..end + framed.len());
    Some(Seen { head, framed, body })
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    matches!(stream.read_buf(bytes).await, Ok(1..)).then_some(())
}

pub(super) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// How long a body in chunks is, with its trailers, and what is in it; `None` if it is not whole.
pub(super) fn dechunked(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (mut at, mut body) = (0, Vec::new());
    loop {
        let line = find(bytes.get(at..)?, b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
    }
    loop {
        let line = find(bytes.get(at..)?, b"\r\n")?;
        at += line + 2;
        if line == 0 {
            return Some((at, body));
        }
    }
}
