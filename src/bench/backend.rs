//! What stands behind all gateways of `benches/compare.py`: a server that does as little as it can.
//!
//! `bench-backend 127.0.0.1:3001 127.0.0.1:3002`: one thread, one level-triggered epoll (epoll(7)), kept connections of HTTP/1.1
//! at each address. A body that is announced is read and forgotten, and then the answer comes: 64 KiB under `/large`, else 128 bytes.
//! Heads are at most 16 KiB and 64 fields; what it does not understand, bodies in chunks among it, it answers with 400 and closes. It
//! is for measuring and nothing else.

use std::{
    env, io,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    process::ExitCode,
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, EventData, EventFlags},
    fd::OwnedFd,
};

const SMALL: usize = 128;
const LARGE: usize = 64 * 1024;
/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;
/// Bytes of a head.
const HEAD: usize = 16 * 1024;
const FIELDS: usize = 64;
/// Events that one wait takes.
const EVENTS: usize = 512;

fn main() -> ExitCode {
    let addresses = env::args().skip(1).map(|arg| arg.parse()).collect::<Result<Vec<SocketAddr>, _>>();
    match addresses {
        Ok(addresses) if !addresses.is_empty() => match serve(&addresses) {
            Ok(never) => match never {},
            Err(error) => {
                eprintln!("bench-backend: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: bench-backend LISTEN [LISTEN …], each an address and a port");
            ExitCode::from(2)
        }
    }
}

fn serve(addresses: &[SocketAddr]) -> io::Result<std::convert::Infallible> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut doors = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let at = listener.as_raw_fd().cast_unsigned().into();
        epoll::add(&epoll, &listener, EventData::new_u64(at), EventFlags::IN)?;
        doors.push((at, listener));
    }
    let answers = Answers::new();
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let (mut piece, mut events) = (vec![0; PIECE], Vec::with_capacity(EVENTS));
    loop {
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let at = event.data.u64();
            if let Some((_, listener)) = doors.iter().find(|(door, _)| *door == at) {
                match listener.accept() {
                    Ok((stream, _)) => take(&epoll, stream, &mut connections)?,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            let at = usize::try_from(at).expect("it is a descriptor");
            let Some(connection) = connections.get_mut(at).and_then(Option::as_mut) else { continue };
            if connection.move_on(&epoll, &answers, &mut piece).is_err() {
                connections[at] = None; // epoll forgets what is closed.
            }
        }
    }
}

fn take(epoll: &OwnedFd, stream: TcpStream, connections: &mut Vec<Option<Connection>>) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let at = usize::try_from(stream.as_raw_fd()).expect("descriptors are not negative");
    epoll::add(epoll, &stream, EventData::new_u64(at as u64), EventFlags::IN)?;
    if connections.len() <= at {
        connections.resize_with(at + 1, || None);
    }
    connections[at] = Some(Connection { stream, head: Vec::new(), body: 0, is_large: false, owed: 0 });
    Ok(())
}

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let [small, large] = [SMALL, LARGE].map(|length| {
            let mut answer =
                format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n")
                    .into_bytes();
            answer.resize(answer.len() + length, b'x');
            answer
        });
        Self { small, large }
    }
}

struct Connection {
    stream: TcpStream,
    /// What was read and is no whole head yet.
    head: Vec<u8>,
    /// Bytes of the body of the request that are still to come.
    body: u64,
    /// Which answer the request gets.
    is_large: bool,
    /// Bytes at the end of the answer that could not be written yet.
    owed: usize,
}

impl Connection {
    /// Reads and answers, or writes on. An error ends the connection.
    fn move_on(&mut self, epoll: &OwnedFd, answers: &Answers, piece: &mut [u8]) -> io::Result<()> {
        if self.owed > 0 {
            self.write(answers)?;
            if self.owed > 0 {
                return Ok(());
            }
            self.watch(epoll, EventFlags::IN)?;
            return self.read_heads(epoll, answers); // What came with the request before.
        }
        let got = match self.stream.read(piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut rest = &piece[..got];
        if self.body > 0 {
            rest = self.forget_body(rest);
            if self.body > 0 {
                return Ok(());
            }
            self.answer(epoll, answers)?;
        }
        self.head.extend_from_slice(rest);
        self.read_heads(epoll, answers)
    }

    /// Of what came, what is behind the body.
    fn forget_body<'a>(&mut self, came: &'a [u8]) -> &'a [u8] {
        let of_body = usize::try_from(self.body).unwrap_or(usize::MAX).min(came.len());
        self.body -= of_body as u64;
        &came[of_body..]
    }

    /// Answers each request that is there whole, as long as its answers are taken.
    fn read_heads(&mut self, epoll: &OwnedFd, answers: &Answers) -> io::Result<()> {
        while !self.head.is_empty() && self.owed == 0 {
            let Some(length) = self.understand()? else { return Ok(()) };
            let head = std::mem::take(&mut self.head);
            let rest = self.forget_body(&head[length..]);
            self.head.extend_from_slice(rest);
            if self.body > 0 {
                return Ok(());
            }
            self.answer(epoll, answers)?;
        }
        Ok(())
    }

    /// The length of the head, if it is there whole.
    fn understand(&mut self) -> io::Result<Option<usize>> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let length = match request.parse(&self.head) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.head.len() <= HEAD => return Ok(None),
            _ => return self.refuse(),
        };
        self.is_large = request.path == Some("/large");
        self.body = 0;
        for field in request.headers {
            if field.name.eq_ignore_ascii_case("transfer-encoding") {
                return self.refuse();
            }
            if field.name.eq_ignore_ascii_case("content-length") {
                let length = std::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok());
                let Some(length) = length else { return self.refuse() };
                self.body = length;
            }
        }
        Ok(Some(length))
    }

    fn refuse(&mut self) -> io::Result<Option<usize>> {
        let _ =
            self.stream.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        Err(ErrorKind::InvalidData.into())
    }

    fn answer(&mut self, epoll: &OwnedFd, answers: &Answers) -> io::Result<()> {
        self.owed = if self.is_large { &answers.large } else { &answers.small }.len();
        self.write(answers)?;
        if self.owed > 0 { self.watch(epoll, EventFlags::OUT) } else { Ok(()) }
    }

    fn write(&mut self, answers: &Answers) -> io::Result<()> {
        let answer = if self.is_large { &answers.large } else { &answers.small };
        match self.stream.write(&answer[answer.len() - self.owed..]) {
            Ok(sent) => self.owed -= sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn watch(&self, epoll: &OwnedFd, flags: EventFlags) -> io::Result<()> {
        let at = self.stream.as_raw_fd().cast_unsigned().into();
        Ok(epoll::modify(epoll, &self.stream, EventData::new_u64(at), flags)?)
    }
}
