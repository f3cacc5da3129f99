//! Workers: one single-threaded runtime per core, each with its own listening sockets.
//!
//! A worker accepts from its own `SO_REUSEPORT` socket and keeps the connection unless it holds more
//! than the least loaded worker (and one eighth): then it hands the raw socket over, before it is
//! registered with any runtime. Hashing alone puts two long connections on one worker half of the
//! time.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
};
use tracing::{error, info, warn};

use crate::{config::checked::Workers as Layout, connection, generation::InForce, observe::Metrics};

/// Sockets on their way from one worker to another.
const HANDOVER: usize = 1024;
/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);
/// Connections the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 1024;
/// How long accepting pauses when the process has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The generation in force.
    pub in_force: Arc<InForce>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The bound of client connections.
    pub connections: Arc<Semaphore>,
    /// How many connections each worker holds.
    loads: Vec<AtomicUsize>,
    /// Becomes true when connections shall end after the request they are at.
    draining: watch::Sender<bool>,
}

impl Shared {
    /// For that many workers.
    pub fn new(in_force: Arc<InForce>, metrics: Arc<Metrics>, workers: usize) -> Arc<Self> {
        let connections = in_force.with(|generation| generation.limits.connections);
        Arc::new(Self {
            in_force,
            metrics,
            connections: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            draining: watch::Sender::new(false),
        })
    }

    /// Client connections that are open.
    pub fn open_connections(&self) -> usize {
        self.loads.iter().map(|load| load.load(Relaxed)).sum()
    }

    fn least_loaded(&self, me: usize) -> usize {
        let load = |worker: usize| self.loads[worker].load(Relaxed);
        let least = (0..self.loads.len()).min_by_key(|worker| load(*worker)).unwrap_or(me);
        if load(me) > load(least) + load(least) / 8 { least } else { me }
    }
}

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
}

/// Said by the control side, a few times in a process's life.
#[derive(Debug)]
enum Command {
    Listen(SocketAddr, StdListener),
    Unlisten(SocketAddr),
}

/// A socket that another worker accepted.
type Accepted = (SocketAddr, StdStream, SocketAddr);

impl Workers {
    /// Starts them; they listen nowhere yet.
    ///
    /// # Errors
    /// If a thread or runtime cannot be had.
    pub fn start(shared: &Arc<Shared>, layout: Layout) -> io::Result<Self> {
        let count = shared.loads.len();
        let (handovers, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(HANDOVER)).unzip();
        let handovers: Arc<[mpsc::Sender<Accepted>]> = handovers.into();
        let (mut commands, mut threads) = (Vec::new(), Vec::new());
        for (number, inbox) in inboxes.into_iter().enumerate() {
            let (command, orders) = mpsc::unbounded_channel();
            let worker = Worker { number, shared: Arc::clone(shared), handovers: Arc::clone(&handovers) };
            let runtime = if layout == Layout::Shared {
                tokio::runtime::Builder::new_multi_thread().enable_all().build()?
            } else {
                tokio::runtime::Builder::new_current_thread().enable_all().build()?
            };
            let thread = std::thread::Builder::new().name(format!("naka-{number}"));
            threads.push(thread.spawn(move || runtime.block_on(worker.run(orders, inbox)))?);
            commands.push(command);
        }
        Ok(Self { shared: Arc::clone(shared), commands, threads })
    }

    /// Binds an address once for each worker. Nothing is accepted yet.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn bind(&self, address: SocketAddr) -> io::Result<Bound> {
        let first = bind(address)?;
        let bound = first.local_addr()?; // Port 0 is settled by the first.
        let others = (1..self.commands.len()).map(|_| bind(bound));
        let sockets = std::iter::once(Ok(first)).chain(others).collect::<io::Result<_>>()?;
        Ok(Bound { name: address, bound, sockets })
    }

    /// Accepts from now on.
    pub fn listen(&self, bound: Bound) {
        info!(address = %bound.bound, "listening");
        for (command, socket) in self.commands.iter().zip(bound.sockets) {
            let _ = command.send(Command::Listen(bound.name, socket)); // A worker that is gone has said why.
        }
    }

    /// Accepts no more; connections that are open go on.
    pub fn unlisten(&self, address: SocketAddr) {
        for command in &self.commands {
            let _ = command.send(Command::Unlisten(address));
        }
    }

    /// What the workers share.
    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends every connection after the request it is at.
    pub fn drain(&self) {
        self.shared.draining.send_replace(true);
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

/// The sockets of one address.
#[derive(Debug)]
pub struct Bound {
    /// The address in the configuration: the identity of the listener.
    pub name: SocketAddr,
    /// The address that was bound; it differs where the port was 0.
    pub bound: SocketAddr,
    sockets: Vec<StdListener>,
}

fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[derive(Clone)]
struct Worker {
    number: usize,
    shared: Arc<Shared>,
    handovers: Arc<[mpsc::Sender<Accepted>]>,
}

impl Worker {
    async fn run(self, mut orders: mpsc::UnboundedReceiver<Command>, mut inbox: mpsc::Receiver<Accepted>) {
        let mut listening = Vec::<(SocketAddr, tokio::task::JoinHandle<()>)>::new();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Command::Listen(name, socket)) => match TcpListener::from_std(socket) {
                        Ok(socket) => listening.push((name, tokio::spawn(self.clone().accept(name, socket)))),
                        Err(error) => error!(%error, %name, "a socket cannot be listened on"),
                    },
                    Some(Command::Unlisten(name)) => listening.retain(|(other, task)| {
                        let is_kept = *other != name;
                        if !is_kept { task.abort(); }
                        is_kept
                    }),
                    None => return, // The runtime drops what is left.
                },
                Some((name, stream, peer)) = inbox.recv() => self.adopt(name, stream, peer),
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    async fn accept(self, name: SocketAddr, socket: TcpListener) {
        let mut trouble = Trouble::new();
        loop {
            // Before accepting: at the bound, clients wait in the kernel's queue.
            let Ok(permit) = Arc::clone(&self.shared.connections).acquire_owned().await else { return };
            let (stream, peer) = match socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    trouble.say(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            permit.forget(); // Given back when the connection ends.
            let target = self.shared.least_loaded(self.number);
            self.shared.loads[target].fetch_add(1, Relaxed);
            self.shared.metrics.connections.inc();
            let place = Place { shared: Arc::clone(&self.shared), worker: target };
            if target == self.number {
                self.take(name, stream, peer, place);
            } else {
                self.hand_over(target, name, stream, peer, place);
            }
        }
    }

    fn hand_over(&self, target: usize, name: SocketAddr, stream: TcpStream, peer: SocketAddr, place: Place) {
        let Ok(stream) = stream.into_std() else { return };
        match self.handovers[target].try_send((name, stream, peer)) {
            Ok(()) => std::mem::forget(place), // Adopted there.
            Err(refused) => {
                drop(place);
                let (name, stream, peer) = refused.into_inner();
                self.shared.loads[self.number].fetch_add(1, Relaxed);
                self.shared.metrics.connections.inc();
                self.adopt(name, stream, peer);
            }
        }
    }

    fn adopt(&self, name: SocketAddr, stream: StdStream, peer: SocketAddr) {
        let place = Place { shared: Arc::clone(&self.shared), worker: self.number };
        match TcpStream::from_std(stream) {
            Ok(stream) => self.take(name, stream, peer, place),
            Err(error) => warn!(%error, "an accepted connection cannot be served"),
        }
    }

    fn take(&self, name: SocketAddr, stream: TcpStream, peer: SocketAddr, place: Place) {
        let (shared, number) = (Arc::clone(&self.shared), self.number);
        let draining = self.shared.draining.subscribe();
        tokio::spawn(async move {
            connection::serve_socket(&shared, number, name, stream, peer.ip(), draining).await;
            drop(place);
        });
    }

    fn sweep(&self) {
        let generation = self.shared.in_force.get();
        let pools = &generation.state.pools[self.number];
        let keep = generation.config.upstreams.iter();
        let keep = keep
            .map(|(name, upstream)| (&**name, &upstream.keep_alive))
            .collect::<std::collections::HashMap<_, _>>();
        for (identity, pool) in pools.iter() {
            let upstream = identity.split(' ').next().unwrap_or_default();
            if let Some(keep) = keep.get(upstream) {
                pool.sweep(keep);
            }
        }
    }
}

/// One connection's place in the account of its worker.
struct Place {
    shared: Arc<Shared>,
    worker: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.loads[self.worker].fetch_sub(1, Relaxed);
        self.shared.metrics.connections.dec();
        self.shared.connections.add_permits(1);
    }
}

/// Says what is wrong with accepting, but not for every connection.
struct Trouble {
    next: tokio::time::Instant,
}

impl Trouble {
    fn new() -> Self {
        Self { next: tokio::time::Instant::now() }
    }

    fn say(&mut self, error: &io::Error) {
        let now = tokio::time::Instant::now();
        if now >= self.next {
            self.next = now + Duration::from_secs(5);
            error!(%error, "connections cannot be accepted");
        }
    }
}
