//! A gateway as a process, under what counts if its work is to be counted, and what stands before and behind it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::counters::Counter;

/// The end of every answer of [`answer`].
const END: &[u8] = b"{\"fine\":true}";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
    content-length: 13\r\n\r\n{\"fine\":true}";

/// A gateway that runs.
pub(crate) struct Gateway {
    process: Child,
    at: SocketAddr,
    is_watched: bool,
    _folder: TempDir,
}

impl Gateway {
    /// `write` puts the configuration into an empty folder, of a gateway that listens at an address, and says which file it is.
    pub(crate) fn start(
        naka: &Path,
        counter: Option<&Counter<'_>>,
        write: impl FnOnce(&Path, SocketAddr) -> PathBuf,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = write(folder.path(), at);
        let mut command = counter.map_or_else(|| Command::new(naka), |counter| counter.command(naka));
        command.args(["run", "-c"]).arg(config).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let (mut line, mut said) = (String::new(), String::new());
        while !line.contains("naka is ready") {
            said += &line;
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the gateway has ended: {said}");
        }
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        // Valgrind becomes the gateway; strace stands beside it.
        let is_watched = matches!(counter, Some(Counter::Strace(_)));
        Self { process, at, is_watched, _folder: folder }
    }

    /// So many requests one after the other, of a new connection.
    pub(crate) fn ask(&self, request: &[u8], times: u32) {
        let mut client = TcpStream::connect(self.at).unwrap();
        client.set_nodelay(true).unwrap();
        for _ in 0..times {
            ask(&mut client, request);
        }
    }

    /// Of all its threads so far.
    #[allow(dead_code, reason = "not each bench measures time")]
    pub(crate) fn cpu(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let of = |thread: fs::DirEntry| {
            let stat = fs::read_to_string(thread.path().join("schedstat")).unwrap();
            stat.split(' ').next().unwrap().parse::<u64>().unwrap()
        };
        Duration::from_nanos(threads.map(|thread| of(thread.unwrap())).sum())
    }

    /// As an operator would, so that what has counted writes it down.
    pub(crate) fn end(mut self) {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
        assert!(self.process.wait().unwrap().success());
    }

    fn pid(&self) -> rustix::process::Pid {
        let id = self.process.id();
        let id = if self.is_watched {
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
            children.split_whitespace().next().expect("it runs").parse().unwrap()
        } else {
            id
        };
        rustix::process::Pid::from_raw(id.cast_signed()).expect("it is not 0")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended.
        if self.is_watched && matches!(self.process.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process(self.pid(), rustix::process::Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One request, and its answer, into a buffer on the stack.
pub(crate) fn ask(client: &mut TcpStream, request: &[u8]) {
    let (mut piece, mut filled) = ([0; 4096], 0);
    client.write_all(request).unwrap();
    while !piece[..filled].ends_with(END) {
        let got = client.read(&mut piece[filled..]).unwrap();
        assert_ne!(got, 0, "closed after {}", String::from_utf8_lossy(&piece[..filled]));
        filled += got;
    }
    assert!(piece.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&piece[..filled]));
}

/// Serves each connection so, on a thread of its own. There may be thousands of them, so stacks are small.
pub(crate) fn served(serve: fn(TcpStream)) -> SocketAddr {
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name(name.to_owned()).stack_size(128 * 1024).spawn(work).unwrap();
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn(
        "accepts",
        Box::new(move || {
            for stream in listener.incoming() {
                spawn("serves", Box::new(move || serve(stream.unwrap())));
            }
        }),
    );
    address
}

/// Answers each request that has no body with the same, and allocates nothing.
pub(crate) fn answer(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let (mut piece, mut filled) = ([0; 4096], 0);
    loop {
        if piece[..filled].ends_with(b"\r\n\r\n") {
            stream.write_all(ANSWER).unwrap();
            filled = 0;
        }
        match stream.read(&mut piece[filled..]) {
            Ok(got @ 1..) => filled += got,
            _ => return,
        }
    }
}
