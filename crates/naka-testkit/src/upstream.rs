//! An HTTP/1.1 server that does as it is told: delays, resets, truncation, bad framing; and counts.
//!
//! A script says for each request what happens, as a list of [`Step`]s. It works on bytes and not
//! on messages, so it can send what no library would.
//!
//! # Limits
//! A request head has at most 256 KiB. The last [`KEPT`] requests are kept.

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinHandle,
};

use crate::network::{Listener, Network};

/// How many requests are kept to be looked at.
pub const KEPT: usize = 4096;
const HEAD: usize = 256 << 10;
const PIECE: usize = 64 << 10;

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The body of the request is read to its end.
    ReadBody,
    /// That long nothing happens.
    Wait(Duration),
    /// These bytes are sent.
    Send(Vec<u8>),
    /// So many bytes are sent.
    Fill(u64),
    /// Nothing happens any more; what comes is not read.
    Hang,
    /// The connection is closed.
    Close,
    /// The connection is reset, where the transport can.
    Reset,
}

impl Step {
    /// These bytes are sent.
    pub fn send(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Send(bytes.into())
    }
}

/// The usual answer: the request is read, then 200 with a body comes.
pub fn ok(body: &str) -> Vec<Step> {
    answer(200, "", body)
}

/// The request is read, then that status comes, with these header lines (each with its CRLF).
pub fn answer(status: u16, headers: &str, body: &str) -> Vec<Step> {
    let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    vec![Step::ReadBody, Step::send(head + body)]
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `POST /path HTTP/1.1`.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// On which connection, counted from 1.
    pub connection: u64,
}

impl Seen {
    /// The value of a header that is there once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| &**value);
        let value = values.next();
        if values.next().is_some() { None } else { value }
    }

    /// The target of the request.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

type Script = dyn Fn(&Seen) -> Vec<Step> + Send + Sync;

/// A server that does as it is told; it stops when dropped.
pub struct Upstream {
    address: String,
    state: Arc<State>,
    server: JoinHandle<()>,
}

struct State {
    script: Box<Script>,
    connections: AtomicU64,
    requests: AtomicU64,
    working: AtomicU64,
    peak: AtomicU64,
    body_bytes: AtomicU64,
    seen: Mutex<VecDeque<Seen>>,
    trailers: Mutex<Vec<String>>,
}

impl Upstream {
    /// Listens on a free port of the loopback.
    ///
    /// # Panics
    /// If there is none.
    pub async fn start(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
        Self::on(listener, script)
    }

    /// Listens on this socket.
    ///
    /// # Panics
    /// If it has no address.
    pub fn on(listener: TcpListener, script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let state = State::new(script);
        let server = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true); // It may be gone already.
                    tokio::spawn(Arc::clone(&state).connection(stream));
                }
            }
        });
        Self { address, state, server }
    }

    /// Listens at a path.
    ///
    /// # Panics
    /// If it has none.
    pub fn at_socket(
        listener: UnixListener,
        script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("a bound socket has an address");
        let address = address.as_pathname().expect("it has a path").display().to_string();
        let state = State::new(script);
        let server = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(Arc::clone(&state).connection(stream));
                }
            }
        });
        Self { address, state, server }
    }

    /// Listens at a name inside the process.
    pub fn inside(
        network: &Network,
        name: &str,
        script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let state = State::new(script);
        let mut listener: Listener = network.listen(name);
        let server = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Some(stream) = listener.accept().await {
                    tokio::spawn(Arc::clone(&state).connection(stream));
                }
            }
        });
        Self { address: name.to_owned(), state, server }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it listens, if on a socket.
    ///
    /// # Panics
    /// If it listens inside the process.
    pub fn socket(&self) -> SocketAddr {
        self.address.parse().expect("listens on a socket")
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(SeqCst)
    }

    /// Requests whose heads came whole.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(SeqCst)
    }

    /// Requests that are being answered: until the last piece of the answer is sent.
    pub fn working(&self) -> u64 {
        self.state.working.load(SeqCst)
    }

    /// The most requests that were answered at once.
    pub fn peak(&self) -> u64 {
        self.state.peak.load(SeqCst)
    }

    /// Bytes of request bodies that came, without their framing.
    pub fn body_bytes(&self) -> u64 {
        self.state.body_bytes.load(SeqCst)
    }

    /// The last requests, the latest last.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.kept().iter().cloned().collect()
    }

    /// The last request.
    ///
    /// # Panics
    /// If there was none.
    pub fn last(&self) -> Seen {
        self.state.kept().back().cloned().expect("a request has come")
    }

    /// The trailers of the last body in chunks, `name: value` each.
    pub fn trailers(&self) -> Vec<String> {
        self.state.trailers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A connection that can be cut.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    fn reset(self);
}

impl Stream for TcpStream {
    fn reset(self) {
        let _ = self.set_zero_linger(); // A FIN instead of an RST is all that is lost.
    }
}

impl Stream for UnixStream {
    fn reset(self) {}
}

impl Stream for tokio::io::DuplexStream {
    fn reset(self) {}
}

/// Counted while a request is being answered, also when the server is cut off.
struct AtWork<'a>(&'a State);

impl<'a> AtWork<'a> {
    fn begin(state: &'a State) -> Self {
        state.peak.fetch_max(state.working.fetch_add(1, SeqCst) + 1, SeqCst);
        Self(state)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, SeqCst);
    }
}

/// What follows on the connection after an answer.
enum Next {
    Request,
    End,
    Reset,
}

impl State {
    fn new(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            working: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            seen: Mutex::default(),
            trailers: Mutex::default(),
        })
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, VecDeque<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection<S: Stream>(self: Arc<Self>, mut stream: S) {
        let connection = self.connections.fetch_add(1, SeqCst) + 1;
        let mut buffer = Vec::new();
        loop {
            match self.exchange(&mut stream, &mut buffer, connection).await {
                Ok(Next::Request) => {}
                Ok(Next::Reset) => return stream.reset(),
                Ok(Next::End) | Err(_) => return,
            }
        }
    }

    /// One request. `buffer` holds what was read beyond the one before.
    async fn exchange<S: Stream>(
        &self,
        stream: &mut S,
        buffer: &mut Vec<u8>,
        connection: u64,
    ) -> io::Result<Next> {
        let Some((seen, framing)) = read_head(stream, buffer, connection).await? else {
            return Ok(Next::End);
        };
        self.requests.fetch_add(1, SeqCst);
        let mut at_work = Some(AtWork::begin(self));
        let steps = (self.script)(&seen);
        self.keep(seen);
        let mut body = Some(framing);
        let last = steps.len().saturating_sub(1);
        for (place, step) in steps.into_iter().enumerate() {
            if place == last && matches!(step, Step::Send(_)) {
                at_work = None; // Before the other side can know that it is over.
            }
            match step {
                Step::ReadBody => {
                    if let Some(framing) = body.take() {
                        self.read_body(stream, buffer, framing).await?;
                    }
                }
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Send(bytes) => stream.write_all(&bytes).await?,
                Step::Fill(count) => fill(stream, count).await?,
                Step::Hang => {
                    std::future::pending::<()>().await;
                }
                Step::Close => {
                    stream.shutdown().await?;
                    return Ok(Next::End);
                }
                Step::Reset => return Ok(Next::Reset),
            }
        }
        if let Some(framing) = body {
            self.read_body(stream, buffer, framing).await?;
        }
        drop(at_work);
        Ok(Next::Request)
    }

    fn keep(&self, seen: Seen) {
        let mut kept = self.kept();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(seen);
    }

    async fn read_body<S: Stream>(
        &self,
        stream: &mut S,
        buffer: &mut Vec<u8>,
        framing: Framing,
    ) -> io::Result<()> {
        match framing {
            Framing::Length(length) => self.take(stream, buffer, length).await,
            Framing::Chunked => loop {
                let line = read_line(stream, buffer).await?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
                if size == 0 {
                    return self.read_trailers(stream, buffer).await;
                }
                self.take(stream, buffer, size).await?;
                read_line(stream, buffer).await?;
            },
        }
    }

    async fn read_trailers<S: Stream>(&self, stream: &mut S, buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut trailers = Vec::new();
        loop {
            let line = read_line(stream, buffer).await?;
            if line.is_empty() {
                *self.trailers.lock().unwrap_or_else(PoisonError::into_inner) = trailers;
                return Ok(());
            }
            trailers.push(line);
        }
    }

    async fn take<S: Stream>(&self, stream: &mut S, buffer: &mut Vec<u8>, length: u64) -> io::Result<()> {
        let mut left = length;
        let held = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        buffer.drain(..held);
        left -= held as u64;
        self.body_bytes.fetch_add(held as u64, SeqCst);
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let want = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = stream.read(&mut piece[..want]).await?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= got as u64;
            self.body_bytes.fetch_add(got as u64, SeqCst);
        }
        Ok(())
    }
}

enum Framing {
    Length(u64),
    Chunked,
}

async fn read_head<S: Stream>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    connection: u64,
) -> io::Result<Option<(Seen, Framing)>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if buffer.len() > HEAD || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head: Vec<u8> = buffer.drain(..end).collect();
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers: Vec<_> =
        headers.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned())).collect();
    let seen = Seen { line, headers, connection };
    let framing = if seen.headers.iter().any(|(name, _)| name == "transfer-encoding") {
        Framing::Chunked
    } else {
        Framing::Length(seen.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0))
    };
    Ok(Some((seen, framing)))
}

async fn read_line<S: Stream>(stream: &mut S, buffer: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") {
            let line: Vec<u8> = buffer.drain(..end + 2).take(end).collect();
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        if buffer.len() > HEAD || stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn fill<S: Stream>(stream: &mut S, count: u64) -> io::Result<()> {
    let piece = vec![b'x'; PIECE];
    let mut left = count;
    while left > 0 {
        let want = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&piece[..want]).await?;
        left -= want as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test kit is a tool that others rely on: what it reads and counts is what was sent.
    #[tokio::test]
    async fn requests_are_read_whole_whatever_their_framing() {
        let network = Network::new();
        let upstream = Upstream::inside(&network, "a", |seen| ok(seen.target()));
        let mut stream = network.connect("a").unwrap();
        let requests = "POST /one HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc\
                        POST /two HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nab\r\n3\r\ncde\r\n0\r\nt: 1\r\n\r\n\
                        GET /three HTTP/1.1\r\nx: 1\r\nX: 2\r\n\r\n";
        stream.write_all(requests.as_bytes()).await.unwrap();
        let mut answers = String::new();
        while !answers.ends_with("/three") {
            let mut piece = [0; 1024];
            let got = stream.read(&mut piece).await.unwrap();
            assert_ne!(got, 0, "closed after {answers}");
            answers.push_str(std::str::from_utf8(&piece[..got]).unwrap());
        }
        assert_eq!(answers.matches("200 Scripted").count(), 3);
        assert_eq!((upstream.requests(), upstream.connections(), upstream.body_bytes()), (3, 1, 8));
        assert_eq!(upstream.last().header("x"), None, "twice is not once");
        assert_eq!(upstream.working(), 0);
    }

    #[tokio::test]
    async fn nobody_at_a_name_refuses() {
        let network = Network::new();
        assert_eq!(network.connect("a").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        drop(network.listen("a"));
        assert_eq!(network.connect("a").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
