//! The floor of `benches/compare.py`: what it costs to pass bytes on and to look at none of them.
//!
//! `bench-floor 127.0.0.1:8080 127.0.0.1:3001 127.0.0.1:3002`: one thread, one level-triggered epoll (epoll(7)), for each connection
//! of a client one to the upstreams in turn. For each piece a wait, a read of at most 64 KiB and a write; no parser can be
//! cheaper without giving up one of them. It is for measuring and nothing else: when either side ends, both do, and what could
//! not be written yet is lost. It ends with what is wrong at the first error that is not of one connection.

use std::{
    env, io,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    process::ExitCode,
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, EventData, EventFlags},
    fd::OwnedFd,
};

/// Bytes that are read at once, and so the most that waits to be written to one side.
const PIECE: usize = 64 * 1024;
/// Events that one wait takes.
const EVENTS: usize = 512;
const CONNECT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let addresses = env::args().skip(1).map(|arg| arg.parse()).collect::<Result<Vec<SocketAddr>, _>>();
    match addresses.as_deref() {
        Ok([listen, upstreams @ ..]) if !upstreams.is_empty() => match serve(*listen, upstreams) {
            Ok(never) => match never {},
            Err(error) => {
                eprintln!("bench-floor: {listen}: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: bench-floor LISTEN UPSTREAM [UPSTREAM …], each an address and a port");
            ExitCode::from(2)
        }
    }
}

fn serve(listen: SocketAddr, upstreams: &[SocketAddr]) -> io::Result<std::convert::Infallible> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let mut relay = Relay { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, sides: Vec::new() };
    let door = listener.as_raw_fd().cast_unsigned().into();
    epoll::add(&relay.epoll, &listener, EventData::new_u64(door), EventFlags::IN)?;
    let (mut piece, mut events) = (vec![0; PIECE], Vec::with_capacity(EVENTS));
    let mut turns = upstreams.iter().cycle();
    loop {
        match epoll::wait(&relay.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let (at, flags) = (event.data.u64(), event.flags);
            if at != door {
                relay.move_on(usize::try_from(at).expect("it is a descriptor"), flags, &mut piece)?;
                continue;
            }
            match listener.accept() {
                Ok((client, _)) => relay.join(client, *turns.next().expect("there is one"))?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

struct Relay {
    epoll: OwnedFd,
    /// By their descriptors.
    sides: Vec<Option<Side>>,
}

struct Side {
    stream: TcpStream,
    /// Descriptor of the other.
    other: usize,
    /// What waits to be written to this one; while there is anything the other is not read.
    waiting: Vec<u8>,
}

impl Relay {
    fn join(&mut self, client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
        let Ok(upstream) = TcpStream::connect_timeout(&upstream, CONNECT) else { return Ok(()) };
        let ends = [descriptor(&client), descriptor(&upstream)];
        for (stream, at, other) in [(client, ends[0], ends[1]), (upstream, ends[1], ends[0])] {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            epoll::add(&self.epoll, &stream, EventData::new_u64(at as u64), EventFlags::IN)?;
            if self.sides.len() <= at {
                self.sides.resize_with(at + 1, || None);
            }
            self.sides[at] = Some(Side { stream, other, waiting: Vec::new() });
        }
        Ok(())
    }

    fn move_on(&mut self, at: usize, flags: EventFlags, piece: &mut [u8]) -> io::Result<()> {
        // Whoever was closed by an event of the same wait is gone.
        let Some(side) = self.sides.get(at).and_then(Option::as_ref) else { return Ok(()) };
        let other = side.other;
        let lives = if flags.contains(EventFlags::OUT) {
            self.flush(at)?
        } else if flags.contains(EventFlags::IN) {
            self.pass(at, piece)?
        } else {
            false // An error, or the end of both directions.
        };
        if !lives {
            self.sides[at] = None; // epoll forgets what is closed.
            self.sides[other] = None;
        }
        Ok(())
    }

    /// One piece from this side to the other; false at its end.
    fn pass(&mut self, at: usize, piece: &mut [u8]) -> io::Result<bool> {
        let side = self.side(at);
        let other = side.other;
        let got = match side.stream.read(piece) {
            Ok(0) => return Ok(false),
            Ok(got) => got,
            Err(error) => return Ok(error.kind() == ErrorKind::WouldBlock),
        };
        let to = self.side(other);
        let sent = match to.stream.write(&piece[..got]) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => return Ok(false),
        };
        if sent < got {
            to.waiting.extend_from_slice(&piece[sent..got]);
            self.watch(at)?;
            self.watch(other)?;
        }
        Ok(true)
    }

    /// Writes what waits for this side; false if it takes nothing any more.
    fn flush(&mut self, at: usize) -> io::Result<bool> {
        let side = self.side(at);
        let other = side.other;
        match side.stream.write(&side.waiting) {
            Ok(sent) => drop(side.waiting.drain(..sent)),
            Err(error) => return Ok(error.kind() == ErrorKind::WouldBlock),
        }
        if side.waiting.is_empty() {
            self.watch(at)?;
            self.watch(other)?;
        }
        Ok(true)
    }

    /// Reads a side unless the other is behind, and writes to it if it is.
    fn watch(&mut self, at: usize) -> io::Result<()> {
        let other = self.side(at).other;
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.side(other).waiting.is_empty());
        flags.set(EventFlags::OUT, !self.side(at).waiting.is_empty());
        let stream = &self.sides[at].as_ref().expect("both live, or neither").stream;
        Ok(epoll::modify(&self.epoll, stream, EventData::new_u64(at as u64), flags)?)
    }

    fn side(&mut self, at: usize) -> &mut Side {
        self.sides[at].as_mut().expect("both live, or neither")
    }
}

fn descriptor(stream: &TcpStream) -> usize {
    usize::try_from(stream.as_raw_fd()).expect("descriptors are not negative")
}
