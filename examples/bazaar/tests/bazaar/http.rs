//! Asking over TCP.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::process::PATIENCE;

/// A request to be.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    method: &'static str,
    path: String,
    headers: String,
    body: String,
}

pub(crate) fn get(path: &str) -> Ask {
    Ask { method: "GET", path: path.to_owned(), headers: String::new(), body: String::new() }
}

pub(crate) fn post(path: &str, body: &Value) -> Ask {
    Ask { method: "POST", body: body.to_string(), ..get(path) }
}

pub(crate) fn put(path: &str, body: &Value) -> Ask {
    Ask { method: "PUT", ..post(path, body) }
}

pub(crate) fn delete(path: &str) -> Ask {
    Ask { method: "DELETE", ..get(path) }
}

impl Ask {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.extend([name, ": ", value, "\r\n"]);
        self
    }

    /// As the gateway says who asks.
    pub(crate) fn by(self, caller: &str) -> Self {
        self.header("x-user-id", caller)
    }

    pub(crate) fn text(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    fn head(&self) -> String {
        let Self { method, path, headers, body } = self;
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        )
    }

    /// Sends all but the last bytes of the body.
    pub(crate) fn begin(&self, at: SocketAddr, but: usize) -> (TcpStream, String) {
        let (first, rest) = self.body.split_at(self.body.len() - but);
        let mut stream = connect(at);
        stream.write_all((self.head() + first).as_bytes()).expect("it reads");
        (stream, rest.to_owned())
    }

    #[track_caller]
    pub(crate) fn send(&self, at: SocketAddr) -> Answer {
        self.attempt(at).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    /// From that address of this machine.
    #[track_caller]
    pub(crate) fn send_from(&self, from: Ipv4Addr, at: SocketAddr) -> Answer {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&at.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.write_all((self.head() + &self.body).as_bytes()).unwrap();
        read(stream).unwrap()
    }

    /// An error if there is no whole answer.
    pub(crate) fn attempt(&self, at: SocketAddr) -> io::Result<Answer> {
        let mut stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all((self.head() + &self.body).as_bytes())?;
        read(stream)
    }
}

/// What was answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) text: String,
    pub(crate) body: Value,
}

pub(crate) fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero is taken");
    stream
}

pub(crate) fn read(mut stream: TcpStream) -> io::Result<Answer> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let nothing = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(nothing)?;
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).ok_or_else(nothing)?;
    let (head, text) = (head.to_ascii_lowercase(), body.to_owned());
    Ok(Answer { status, body: serde_json::from_str(body).unwrap_or(Value::Null), head, text })
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// A problem, as every service says it.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, reason: &str) -> Self {
        let Self { body, head, .. } = &self;
        assert_eq!(
            (self.status, &body["status"], &body["reason"]),
            (status, &json!(status), &json!(reason)),
            "{body}"
        );
        assert!(head.contains("application/problem+json"), "{head}");
        assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{body}");
        self
    }

    pub(crate) fn said(&self, name: &str) -> String {
        self.body[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.text)).to_owned()
    }
}
