//! Workers: one single-threaded runtime per core, each with its own listening sockets.
//!
//! A worker accepts from its own `SO_REUSEPORT` socket and keeps the connection unless it holds more
//! than the least loaded worker (and one eighth): then it hands the raw socket over, before it is
//! registered with any runtime. Hashing alone puts two long connections on one worker half of the
//! time.
//!
//! Sockets may also come from elsewhere: of the process before, or of a service manager. Each is given to some worker,
//! and none is opened besides: connections would wait at one that nobody accepts from. Of fewer sockets than
//! workers, the others are handed theirs. So it is with a Unix socket, which has one queue: one worker accepts from it.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::{
    address::{Address, Source},
    callers::Entered,
    config::checked::Workers as Layout,
    connection, room,
    seldom::Seldom,
    shared::{Ending, Place, Shared},
    socket::{Client, Listening, accept_now},
    unix_socket::{self, Identity, SocketFile},
};

/// Sockets on their way from one worker to another.
const HANDOVER: usize = 1024;
/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);
/// Connections the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 1024;
/// Threads of a worker that wait for this machine's resolver.
const BLOCKING: usize = 16;
/// How long accepting pauses when the process has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many workers a layout means on this machine; affinity and quota count.
pub fn count(layout: Layout) -> usize {
    match layout {
        Layout::PerCore => std::thread::available_parallelism().map_or(1, usize::from),
        Layout::Count(count) => count.max(1),
        Layout::Shared => 1,
    }
}

/// The workers of a process.
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
    commands: Vec<mpsc::UnboundedSender<Command>>,
    threads: Vec<JoinHandle<()>>,
    /// What is accepted from.
    doors: Mutex<BTreeMap<Address, Door>>,
}

/// What is accepted from at one address.
#[derive(Debug)]
struct Door {
    /// That of a Unix socket, if it is ours to remove; before its socket is closed.
    file: Option<SocketFile>,
    /// Copies, for the process that takes over.
    copies: Vec<Socket>,
}

/// Said by the control side, a few times in a process's life.
#[derive(Debug)]
enum Command {
    Listen(Address, Socket),
    Unlisten(Address, Waiting, Done),
}

/// What becomes of connections that the kernel has completed and nobody has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// They would be reset: they are accepted.
    Ours,
    /// Another process accepts from the same socket.
    Theirs,
}

/// Held by whoever still has something to do; all clones gone means that it is done.
type Done = mpsc::Sender<Infallible>;

impl Workers {
    /// Starts them; they listen nowhere yet.
    ///
    /// # Errors
    /// If a thread or runtime cannot be had.
    pub fn start(shared: &Arc<Shared>, layout: Layout) -> io::Result<Self> {
        let count = shared.workers();
        let (handovers, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(HANDOVER)).unzip();
        let handovers: Arc<[mpsc::Sender<Accepted>]> = handovers.into();
        let (mut commands, mut threads) = (Vec::new(), Vec::new());
        for (number, inbox) in inboxes.into_iter().enumerate() {
            let (command, orders) = mpsc::unbounded_channel();
            let worker = Worker { number, shared: Arc::clone(shared), handovers: Arc::clone(&handovers) };
            let mut runtime = if layout == Layout::Shared {
                tokio::runtime::Builder::new_multi_thread()
            } else {
                tokio::runtime::Builder::new_current_thread()
            };
            let runtime = runtime.enable_all().max_blocking_threads(BLOCKING).build()?;
            let thread = std::thread::Builder::new().name(format!("naka-{number}"));
            threads.push(thread.spawn(move || {
                runtime.block_on(worker.run(orders, inbox));
                runtime.shutdown_background(); // A name that is being looked up is not waited for.
            })?);
            commands.push(command);
        }
        Ok(Self { shared: Arc::clone(shared), commands, threads, doors: Mutex::default() })
    }

    /// Binds an address once for each worker, or a path once, with this mode of its file. Nobody can connect yet.
    ///
    /// # Errors
    /// If the address cannot be bound, or somebody else listens on it: `SO_REUSEPORT` alone would let
    /// another process of this user have some of the connections. `ours` are the addresses this process
    /// listens on: beside one of the same port (`127.0.0.1:80`, and now `:80`) that cannot be found out. If
    /// there is something at the path that is not the socket of a process that is gone.
    pub fn bind(&self, name: &Address, mode: u32, ours: &[Address]) -> io::Result<Bound> {
        let address = match name {
            Address::Tcp(address) => *address,
            Address::Unix(path) => {
                let (socket, file) = unix_socket::bind(Path::new(&**path), mode)?;
                socket.set_nonblocking(true)?;
                let (sockets, file) = (vec![socket], Some(file));
                return Ok(Bound { name: name.clone(), bound: name.clone(), sockets, file });
            }
        };
        let mut ours = ours.iter().filter_map(Address::tcp);
        if address.port() == 0 || ours.all(|our| our.port() != address.port()) {
            drop(socket(address, Sharing::Alone)?);
        }
        let bind = |address| socket(address, Sharing::AmongWorkers);
        let first = bind(address)?;
        let bound = first.local_addr()?.as_socket().unwrap_or(address); // Port 0 is settled by the first.
        let others = (1..self.commands.len()).map(|_| bind(bound));
        let sockets = std::iter::once(Ok(first)).chain(others).collect::<io::Result<_>>()?;
        Ok(Bound { name: name.clone(), bound: bound.into(), sockets, file: None })
    }

    /// Accepts from now on.
    pub fn accept(&self, open: Open) {
        let Open { bound: Bound { name, bound, sockets, file }, copies, given } = open;
        info!(address = %bound, "listening");
        let file = file.or_else(|| given.and_then(Given::taken));
        self.shared.pulse.listens(&name, sockets.len());
        let mut doors = self.doors();
        // Of Unix sockets each is accepted from by the next worker.
        let first = if name.path().is_some() { doors.len() % self.commands.len().max(1) } else { 0 };
        doors.insert(name.clone(), Door { file, copies });
        drop(doors);
        for (command, socket) in self.commands.iter().cycle().skip(first).zip(sockets) {
            // A worker that is gone has said why.
            let _ = command.send(Command::Listen(name.clone(), socket));
        }
    }

    /// Who may connect to this Unix socket from now on; not where its file belongs to another process, which says so itself.
    pub fn set_mode(&self, address: &Address, mode: u32) {
        let doors = self.doors();
        let Some(file) = doors.get(address).and_then(|door| door.file.as_ref()) else { return };
        if let Err(error) = file.set_mode(mode) {
            warn!(%address, %error, "the mode of the socket is as it was");
        }
    }

    /// Copies of all sockets that are accepted from, each with the address in the configuration: whoever holds one can
    /// accept from it, too.
    ///
    /// # Errors
    /// If the process may have no more files open.
    pub fn copies(&self) -> io::Result<Vec<(Address, OwnedFd)>> {
        let doors = self.doors();
        let all = doors.iter().flat_map(|(name, door)| door.copies.iter().map(move |it| (name.clone(), it)));
        all.map(|(name, socket)| Ok((name, socket.try_clone()?.into()))).collect()
    }

    /// The files of our Unix sockets.
    pub fn files(&self) -> Vec<Identity> {
        let doors = self.doors();
        doors.values().filter_map(|door| door.file.as_ref()?.identity()).collect()
    }

    /// Leaves the files of these to the process that has taken their sockets. At once: so that they stay, however this one
    /// ends.
    pub fn leave_files(&self, taken: &[Address]) {
        let mut doors = self.doors();
        for file in taken.iter().filter_map(|address| doors.get_mut(address)?.file.take()) {
            file.leave();
        }
    }

    /// Accepts no more, and returns when all sockets of the address are closed. Connections go on:
    /// those that are open, and those the kernel has completed already.
    pub async fn unlisten(&self, address: &Address) {
        self.stop_accepting(address, Waiting::Ours).await;
    }

    /// Accepts no more, as another process accepts from the same sockets: connections that wait there are left to it.
    pub async fn leave(&self, address: &Address) {
        self.stop_accepting(address, Waiting::Theirs).await;
    }

    async fn stop_accepting(&self, address: &Address, waiting: Waiting) {
        self.shared.pulse.left(address);
        if let Some(Door { file, copies }) = self.doors().remove(address) {
            match (waiting, file) {
                (Waiting::Theirs, Some(file)) => file.leave(),
                // Before anything else: so nobody comes any more who would not be accepted.
                (_, file) => drop(file),
            }
            drop(copies);
        }
        let (done, mut is_done) = mpsc::channel(1);
        for command in &self.commands {
            let _ = command.send(Command::Unlisten(address.clone(), waiting, done.clone()));
        }
        drop(done);
        is_done.recv().await;
    }

    /// A panic cannot leave it half written: every change is of one entry.
    fn doors(&self) -> MutexGuard<'_, BTreeMap<Address, Door>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the workers share.
    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends every connection after the request it is at.
    pub fn drain(&self) {
        self.shared.drain(Ending::Now);
    }

    /// Ends tunnels as well.
    pub fn end_tunnels(&self) {
        self.shared.drain(Ending::Tunnels);
    }

    /// Ends every connection with its next response, for which nobody has to hurry; the last one hears of it after `over`.
    pub fn say_farewell(&self, over: Duration) {
        self.shared.say_farewell(over);
    }

    /// Ends the workers and what is still running, and waits for their threads.
    pub fn stop(self) {
        drop(self.commands);
        for thread in self.threads {
            if thread.join().is_err() {
                error!("a worker had panicked");
            }
        }
    }
}

/// The sockets of one address, at which nobody can connect.
#[derive(Debug)]
pub struct Bound {
    /// The address in the configuration: the identity of the listener.
    pub name: Address,
    /// The address that was bound; it differs where the port was 0.
    pub bound: Address,
    /// That of a Unix socket that was made here; removed with this.
    file: Option<SocketFile>,
    sockets: Vec<Socket>,
}

/// What becomes of the file of a Unix socket from elsewhere, once it is accepted from.
#[derive(Debug)]
struct Given {
    path: Arc<str>,
    mode: u32,
    files: Vec<Identity>,
}

impl Given {
    /// It is ours from now on, if it was the other process's.
    fn taken(self) -> Option<SocketFile> {
        let file = SocketFile::given(Path::new(&*self.path), &self.files)?;
        if let Err(error) = file.set_mode(self.mode) {
            warn!(path = %self.path, %error, "the mode of the socket is as it was");
        }
        Some(file)
    }
}

/// The sockets of one address, at which the kernel completes connections that wait for us.
#[derive(Debug)]
pub struct Open {
    bound: Bound,
    copies: Vec<Socket>,
    given: Option<Given>,
}

impl Open {
    /// The address in the configuration: the identity of the listener.
    pub const fn name(&self) -> &Address {
        &self.bound.name
    }

    /// The address that was bound.
    pub const fn address(&self) -> &Address {
        &self.bound.bound
    }

    /// Sockets from elsewhere, which listen already, for the listener `name`. The file of a Unix socket gets this mode
    /// and is removed at the end, if it is one of `files`: those of the process that hands over. Else it belongs to
    /// whoever made it.
    ///
    /// # Errors
    /// If there is none, or one does not listen, or at another address.
    pub fn inherited(
        name: Address,
        mode: u32,
        sockets: Vec<OwnedFd>,
        files: &[Identity],
    ) -> io::Result<Self> {
        let sockets = sockets.into_iter().map(Socket::from).collect::<Vec<_>>();
        let wrong = |what: &str| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("a socket from elsewhere {what}"))
        };
        let mut bound = None;
        for socket in &sockets {
            if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
                return Err(wrong("does not listen"));
            }
            let at = Address::of(&socket.local_addr()?).ok_or_else(|| wrong("has no address"))?;
            if !is_for(&name, &at) || bound.as_ref().is_some_and(|it| *it != at) {
                return Err(wrong(&format!("listens at {at}")));
            }
            match at {
                Address::Tcp(_) => prepare(socket)?,
                Address::Unix(_) => socket.set_nonblocking(true)?,
            }
            bound = Some(at);
        }
        let bound = bound.ok_or_else(|| wrong("is not there"))?;
        let given = name.path().map(|path| Given { path: Arc::clone(path), mode, files: files.to_vec() });
        let open = Bound { name, bound, sockets, file: None }.with_copies()?;
        Ok(Self { given, ..open })
    }
}

/// Whether a socket that is there may be that of the listener; port 0 is any.
fn is_for(name: &Address, at: &Address) -> bool {
    match (name, at) {
        (Address::Tcp(name), Address::Tcp(at)) => {
            name.ip() == at.ip() && (name.port() == 0 || name.port() == at.port())
        }
        _ => name == at,
    }
}

impl Bound {
    /// Lets clients connect.
    ///
    /// # Errors
    /// If another process was faster.
    pub fn open(self) -> io::Result<Open> {
        self.sockets.iter().try_for_each(|socket| socket.listen(BACKLOG))?;
        if self.file.as_ref().is_some_and(|file| !file.is_there()) {
            let why = "another socket was put in its place before it listened";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
        }
        self.with_copies()
    }

    fn with_copies(self) -> io::Result<Open> {
        let copies = self.sockets.iter().map(Socket::try_clone).collect::<io::Result<_>>()?;
        Ok(Open { bound: self, copies, given: None })
    }
}

/// Who else may have an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    Alone,
    AmongWorkers,
}

fn socket(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?; // Of connections that were closed; not of a socket that listens.
    socket.set_reuse_port(sharing == Sharing::AmongWorkers)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    prepare(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // What is accepted has these from the start, without a call for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)
}

#[derive(Clone)]
struct Worker {
    number: usize,
    shared: Arc<Shared>,
    handovers: Arc<[mpsc::Sender<Accepted>]>,
}

impl Worker {
    async fn run(self, mut orders: mpsc::UnboundedReceiver<Command>, mut inbox: mpsc::Receiver<Accepted>) {
        let mut listening = Vec::<(Address, oneshot::Sender<(Waiting, Done)>)>::new();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Command::Listen(name, socket)) => match Listening::new(&name, socket) {
                        Ok(socket) => {
                            let (stop, is_stopped) = oneshot::channel();
                            tokio::spawn(self.clone().accept(name.clone(), socket, is_stopped));
                            listening.push((name, stop));
                        }
                        Err(error) => {
                            error!(%error, %name, "a socket cannot be listened on");
                            self.shared.pulse.failed(&name);
                        }
                    },
                    Some(Command::Unlisten(name, waiting, done)) => {
                        for (_, stop) in listening.extract_if(.., |(other, _)| *other == name) {
                            let _ = stop.send((waiting, done.clone())); // It may have ended.
                        }
                    }
                    None => return, // The runtime drops what is left.
                },
                Some(accepted) = inbox.recv() => self.adopt(accepted),
                _ = sweep.tick() => {
                    self.shared.pulse.beat(self.number);
                    self.sweep();
                }
            }
        }
    }

    async fn accept(self, name: Address, socket: Listening, mut stop: oneshot::Receiver<(Waiting, Done)>) {
        let trouble = Seldom::new();
        let stopped = loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                stopped = &mut stop => break stopped,
            };
            let (stream, source) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    if trouble.is_due() {
                        error!(%error, "connections cannot be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(entered) = self.shared.enter(source) else { continue }; // It is closed.
            // After accepting: at the bound one connection waits here and the others in the kernel's
            // queue, and no worker keeps a place from another for nobody.
            let mut place = pin!(Arc::clone(&self.shared.connections).acquire_owned());
            let permit = loop {
                self.shared.make_room();
                tokio::select! {
                    biased; // Whoever has been accepted is served, if there is a place.
                    permit = &mut place => break Ok(permit),
                    stopped = &mut stop => break Err(stopped),
                    () = tokio::time::sleep(room::LONG) => {}
                }
            };
            let permit = match permit {
                Ok(permit) => permit,
                Err(stopped) => {
                    self.wait_for_a_place(name.clone(), stream, source, entered);
                    break stopped;
                }
            };
            let Ok(permit) = permit else { return };
            let target = self.shared.least_loaded(self.number);
            let place = Place::taken(&self.shared, target, permit, entered);
            if target == self.number {
                self.take(name.clone(), stream, source, place);
            } else {
                self.hand_over(target, name.clone(), stream, source, place);
            }
        };
        if !matches!(stopped, Ok((Waiting::Theirs, _))) {
            self.take_the_rest(&name, socket);
        }
    }

    /// Whoever has been accepted is nobody else's any more.
    fn wait_for_a_place(&self, name: Address, stream: Client, source: Source, entered: Option<Entered>) {
        let worker = self.clone();
        tokio::spawn(async move {
            let permit = Arc::clone(&worker.shared.connections).acquire_owned().await;
            let Ok(permit) = permit else { return };
            let place = Place::taken(&worker.shared, worker.number, permit, entered);
            worker.take(name, stream, source, place);
        });
    }

    /// What the kernel has completed for us would be reset when the socket is closed.
    fn take_the_rest(&self, name: &Address, socket: Listening) {
        let Ok(socket) = socket.into_raw() else { return };
        while let Ok((stream, source)) = accept_now(&socket) {
            let Ok(permit) = Arc::clone(&self.shared.connections).try_acquire_owned() else { return };
            let Ok(entered) = self.shared.enter(source) else { continue };
            let place = Place::taken(&self.shared, self.number, permit, entered);
            self.adopt(Accepted { name: name.clone(), stream, source, place });
        }
    }

    fn hand_over(&self, target: usize, name: Address, stream: Client, source: Source, place: Place) {
        let Ok(stream) = stream.into_raw() else { return };
        if let Err(refused) = self.handovers[target].try_send(Accepted { name, stream, source, place }) {
            let mut accepted = refused.into_inner();
            accepted.place.move_to(self.number);
            self.adopt(accepted);
        }
    }

    fn adopt(&self, Accepted { name, stream, source, place }: Accepted) {
        match Client::new(source, stream) {
            Ok(stream) => self.take(name, stream, source, place),
            Err(error) => warn!(%error, "an accepted connection cannot be served"),
        }
    }

    fn take(&self, name: Address, stream: Client, source: Source, place: Place) {
        let (shared, number) = (Arc::clone(&self.shared), self.number);
        let draining = self.shared.draining(number);
        tokio::spawn(async move {
            connection::serve_socket(&shared, number, name, stream, source, draining).await;
            drop(place);
        });
    }

    fn sweep(&self) {
        let generation = self.shared.in_force.get();
        let state = &generation.state;
        for (name, pools) in state.pools[self.number].iter() {
            let (Some(upstream), Some(balancer)) =
                (generation.config.upstreams.get(name), state.balancers.get(name))
            else {
                continue;
            };
            let endpoints = balancer.endpoints();
            let listed = endpoints.iter().map(|endpoint| &**endpoint.address()).collect::<HashSet<_>>();
            pools.sweep(&upstream.keep_alive, |address| listed.contains(address));
        }
    }
}

/// A socket on its way to the worker that will serve it.
#[derive(Debug)]
struct Accepted {
    name: Address,
    stream: Socket,
    source: Source,
    place: Place,
}
