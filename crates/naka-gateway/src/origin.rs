//! Where a process that starts has its sockets and its state from: of the process it takes over from, else of a service
//! manager, and of a file.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    os::fd::OwnedFd,
    path::Path,
};

use naka::{clock::Now, key::KeySecret};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::{
    config::checked::Config,
    handover::{Before, Sockets, Taken, Trouble, Upgrade},
    prepare::Refusal,
    reload::counts,
    saved::{Report, Saved},
    service_manager,
    state::State,
    state_file,
    unix_socket::Identity,
    worker::{Bound, Open, Workers},
};

/// What a process begins with.
#[derive(Debug)]
pub struct Origin {
    /// The process before, which may still go on instead.
    upgrade: Option<Upgrade>,
    sockets: Sockets,
    saved: Option<Saved>,
}

/// The listener of the admin port, and a copy for the next process.
#[derive(Debug)]
pub struct AdminPort {
    /// Its address.
    pub address: SocketAddr,
    /// It.
    pub listener: TcpListener,
    /// Of the same socket.
    pub copy: OwnedFd,
}

/// Why there is none.
#[derive(Debug)]
pub enum Failure {
    /// The process before does not hand over.
    Upgrade(Trouble),
    /// Sockets that came with the process are of no use.
    Sockets(String),
}

impl Origin {
    /// Of the process that listens at this path. Nothing is taken yet.
    ///
    /// # Errors
    /// If it does not want to hand over.
    pub async fn before(path: &Path) -> Result<Self, Failure> {
        let upgrade = Upgrade::ask(path).await.map_err(Failure::Upgrade)?;
        Ok(Self { upgrade: Some(upgrade), sockets: Sockets::default(), saved: None })
    }

    /// Of nobody but whoever has started us, and of the file that the configuration names.
    ///
    /// # Errors
    /// If a socket is for none of the listeners.
    pub fn new(given: Vec<OwnedFd>, config: &Config) -> Result<Self, Failure> {
        let sockets = service_manager::assigned(given, config).map_err(Failure::Sockets)?;
        let saved = config.gateway.state.as_ref().and_then(|state| {
            state_file::read(Path::new(&*state.file)).unwrap_or_else(|why| {
                warn!(file = %state.file, "the saved state is not used, and everything begins anew: {why}");
                None
            })
        });
        Ok(Self { upgrade: None, sockets, saved })
    }

    /// What was counted by keys elsewhere is found by the same keys here. To be called before anything is assembled.
    pub fn adopt_secret(&self) {
        let of_before = self.upgrade.as_ref().map(|upgrade| upgrade.secret);
        let secret = of_before.or_else(|| self.saved.as_ref().and_then(Saved::secret));
        if let Some(Err(error)) = secret.map(KeySecret::adopt) {
            warn!("what was counted by keys cannot be found again: {error}");
        }
    }

    /// Takes what the process before has. From now on it waits for us, and not for long.
    ///
    /// # Errors
    /// If it does not give it.
    pub fn take(&mut self) -> Result<(), Failure> {
        let Some(upgrade) = &mut self.upgrade else { return Ok(()) };
        let (sockets, known) = upgrade.take().map_err(Failure::Upgrade)?;
        self.sockets = sockets;
        self.saved = known.map_err(|why| warn!("what the process before knows is not used: {why}")).ok();
        Ok(())
    }

    /// Files of sockets that ours may take the place of.
    pub fn files(&self) -> &[Identity] {
        &self.sockets.files
    }

    /// The admin port, if there shall be one: the one there is, if it has the same address.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub async fn admin_port(&mut self, config: &Config) -> Result<Option<AdminPort>, Refusal> {
        let Some(address) = config.gateway.admin.as_ref().map(|admin| admin.listen) else { return Ok(None) };
        let listener = match self.sockets.admin.take_if(|(at, _)| *at == address) {
            Some((_, socket)) => {
                let listener = StdListener::from(socket);
                listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener))
            }
            None => TcpListener::bind(address).await,
        };
        let copied = listener.and_then(|listener| {
            let listener = listener.into_std()?;
            Ok((listener.try_clone()?, TcpListener::from_std(listener)?))
        });
        let (copy, listener) = copied.map_err(|error| Refusal::Bind(address.into(), error))?;
        Ok(Some(AdminPort { address, listener, copy: copy.into() }))
    }

    /// The sockets of all listeners: those there are, else new ones, at which nobody can connect yet.
    ///
    /// # Errors
    /// If one cannot be bound.
    pub fn bind(&mut self, config: &Config, workers: &Workers) -> Result<Bindings, Refusal> {
        let mut inherited = std::mem::take(&mut self.sockets.listeners);
        let ours = inherited.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let mut all = Bindings::default();
        for listener in config.listeners.values() {
            let (name, mode) = (&listener.listen, listener.mode);
            let cannot = |error| Refusal::Bind(name.clone(), error);
            let sockets = inherited.extract_if(.., |(of, _)| of == name).map(|(_, socket)| socket);
            let sockets = sockets.collect::<Vec<_>>();
            if sockets.is_empty() {
                all.new.push(workers.bind(name, mode, &ours).map_err(cannot)?);
            } else {
                all.open.push(Open::inherited(name.clone(), mode, sockets, self.files()).map_err(cannot)?);
            }
        }
        Ok(all)
    }

    /// Puts what was known into layers that have decided nothing yet.
    pub fn restore(&mut self, state: &State) {
        let Some(saved) = self.saved.take() else { return };
        let Report { age, changes, troubles, left_out } = saved.restore(state, Now::read());
        for trouble in troubles {
            warn!("{trouble}");
        }
        if left_out > 0 {
            warn!(left_out, "there was no room for the state of some keys, which begin anew");
        }
        info!(?age, "the state of before is used; {}", counts(&changes));
    }

    /// Everything is there. Afterwards this is the process that serves; if the one before is there, it waits to be told
    /// so.
    ///
    /// # Errors
    /// If it goes on instead.
    pub fn ready(self, taken: Taken) -> Result<Option<Upgrade>, Failure> {
        let Some(mut upgrade) = self.upgrade else { return Ok(None) };
        match upgrade.ready(taken).map_err(Failure::Upgrade)? {
            Before::Waits => Ok(Some(upgrade)),
            Before::IsGone => {
                warn!(from = upgrade.pid, "the process before has ended, and this one goes on without it");
                Ok(None)
            }
        }
    }
}

/// The sockets of all listeners.
#[derive(Debug, Default)]
pub struct Bindings {
    open: Vec<Open>,
    new: Vec<Bound>,
}

impl Bindings {
    /// Lets clients connect, as late as can be: they wait until they are accepted. All or none, as all are bound.
    ///
    /// # Errors
    /// If another process was faster.
    pub fn open(self) -> Result<Vec<Open>, Refusal> {
        let mut all = self.open;
        for bound in self.new {
            let name = bound.name.clone();
            all.push(bound.open().map_err(|error| Refusal::Bind(name, error))?);
        }
        Ok(all)
    }
}
