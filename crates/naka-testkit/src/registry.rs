//! What stand-ins for registries have in common: HTTP as they speak it, one request for each connection.

use std::{fmt, io, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use crate::network::Network;

/// The longest head and body that are read, in bytes.
const MOST: usize = 1 << 20;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `GET`, for example.
    pub method: String,
    /// The path, as it came.
    pub path: String,
    /// The query, as it came.
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Asked {
    /// The first value of a parameter of the query, as it came.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut all = self.query.split('&').map(|one| one.split_once('=').unwrap_or((one, "")));
        all.find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Lines of the head, without their CRLF.
    pub headers: Vec<String>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// With this status and body.
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// With one more line of the head.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.headers.push(format!("{name}: {value}"));
        self
    }
}

/// Whoever answers; `None` breaks the connection off.
pub(crate) trait Answers: Send + Sync + 'static {
    /// Answers; it may wait for as long as it likes.
    fn answer(self: Arc<Self>, asked: Asked) -> impl Future<Output = Option<Answer>> + Send;
}

/// A server; it stops when dropped, and what it is asked then is never answered.
pub(crate) struct Server {
    pub(crate) address: String,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on a socket.
    pub(crate) async fn at(address: &str, answers: Arc<impl Answers>) -> Self {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                if let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(stream, Arc::clone(&answers)));
                }
            }
        });
        Self { address, task }
    }

    /// Listens at a name inside the process.
    pub(crate) fn inside(network: &Network, name: &str, answers: Arc<impl Answers>) -> Self {
        let mut listener = network.listen(name);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Some(stream) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(serve(stream, Arc::clone(&answers)));
            }
        });
        Self { address: name.to_owned(), task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answers: Arc<impl Answers>) {
    let Ok(Some(asked)) = read(&mut stream).await else { return };
    // Who goes away is not waited for any longer.
    let mut rest = [0];
    let answered = tokio::select! {
        biased;
        answered = answers.answer(asked) => answered,
        _ = stream.read(&mut rest) => None,
    };
    let Some(Answer { status, headers, body }) = answered else { return };
    let more = headers.iter().map(|line| format!("{line}\r\n")).collect::<Vec<_>>().concat();
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} Scripted\r\nconnection: close\r\ncontent-length: {length}\r\n{more}\r\n");
    let _ = stream.write_all((head + &body).as_bytes()).await; // Who asked may be gone.
    let _ = stream.shutdown().await;
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Asked>> {
    let mut buffer = Vec::new();
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if buffer.len() > MOST || stream.read_buf(&mut buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut lines = head.trim_end().split("\r\n");
    let mut line = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (line.next().unwrap_or_default(), line.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    let mut asked = Asked {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers.collect(),
        body: String::new(),
    };
    let length = asked.header("content-length").and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
    while buffer.len() < end + length {
        if length > MOST || stream.read_buf(&mut buffer).await? == 0 {
            return Ok(None);
        }
    }
    asked.body = String::from_utf8_lossy(&buffer[end..end + length]).into_owned();
    Ok(Some(asked))
}
