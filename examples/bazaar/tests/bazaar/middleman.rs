//! Somebody between two services, who passes everything on, and can let one die, or wait, at any step.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
};

/// When something happens to a request whose first line has something in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// It was sent, and has not arrived.
    Before,
    /// It was answered, and the answer has not arrived.
    After,
}

type Happening = Box<dyn FnOnce() -> Then + Send>;

/// What becomes of the request then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It, or its answer, arrives.
    GoOn,
    /// It does not.
    Drop,
    /// This is answered instead.
    Answer(&'static str),
}

struct Trap {
    when: When,
    line: &'static str,
    happens: Happening,
}

/// A listener before a service.
#[derive(Clone)]
pub(crate) struct Middleman {
    pub(crate) at: SocketAddr,
    traps: Arc<Mutex<Vec<Trap>>>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Middleman {
    pub(crate) fn before(service: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let at = listener.local_addr().expect("it is bound");
        let middleman = Self { at, traps: Arc::default(), lines: Arc::default() };
        let each = middleman.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, each) = (client.expect("somebody connects"), each.clone());
                thread::spawn(move || _ = each.pass_on(client, service));
            }
        });
        middleman
    }

    /// Lets something happen once.
    pub(crate) fn once(
        &self,
        when: When,
        line: &'static str,
        happens: impl FnOnce() -> Then + Send + 'static,
    ) {
        self.traps.lock().unwrap().push(Trap { when, line, happens: Box::new(happens) });
    }

    /// Holds the request back; tells when it is there, and goes on when it is told to (or the teller is gone).
    pub(crate) fn hold(&self, when: When, line: &'static str) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (is_there, there) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        self.once(when, line, move || {
            _ = is_there.send(());
            _ = may_go.recv();
            Then::GoOn
        });
        (there, go)
    }

    /// The first lines of all requests so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn happens(&self, when: When, line: &str) -> Then {
        let trap = {
            let mut traps = self.traps.lock().unwrap();
            let found = traps.iter().position(|it| it.when == when && line.contains(it.line));
            found.map(|at| traps.remove(at))
        };
        trap.map_or(Then::GoOn, |trap| (trap.happens)())
    }

    /// One request, and one answer; then the connection ends.
    fn pass_on(&self, client: TcpStream, service: SocketAddr) -> io::Result<()> {
        let mut client = BufReader::new(client);
        let mut line = String::new();
        if client.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (mut head, mut length) = (line.clone() + "connection: close\r\n", 0);
        loop {
            let mut field = String::new();
            client.read_line(&mut field)?;
            if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
            }
            head += &field;
            if field == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body)?;
        self.lines.lock().unwrap().push(line.trim_end().to_owned());

        match self.happens(When::Before, &line) {
            Then::GoOn => {}
            Then::Drop => return Ok(()),
            Then::Answer(answer) => return client.get_mut().write_all(answer.as_bytes()),
        }
        let mut upstream = TcpStream::connect(service)?;
        upstream.write_all(head.as_bytes())?;
        upstream.write_all(&body)?;
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer)?;
        match self.happens(When::After, &line) {
            Then::GoOn => client.get_mut().write_all(&answer),
            Then::Drop => Ok(()),
            Then::Answer(answer) => client.get_mut().write_all(answer.as_bytes()),
        }
    }
}
