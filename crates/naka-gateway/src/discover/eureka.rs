//! Endpoints that are instances of an application in Eureka.
//!
//! The whole registry is fetched once, `GET /apps`, and then what has changed, `GET /apps/delta`, every `refresh`; once
//! for all upstreams that want it, however many there are. What may come:
//!
//! | What comes | What is done |
//! | --- | --- |
//! | Changes after which the hash is not the one that is said; without a hash; that are none | The whole registry is fetched, at once |
//! | No changes to be had (403, 404 or another status) | The same, each time |
//! | A server that fails, or says that it is not ready | The next one is asked, for the whole registry, as each server has its own changes; all of them failed: after half a second to half a minute |
//! | A registry without the application, or without any | Nobody is believed to be gone: the set is held, as with each source |
//!
//! A server caches what it says for half a minute, so asking sooner would be told the same: what is doubted is confirmed
//! by what comes every `refresh`. A server in self-preservation goes on naming instances that may be dead: that is for
//! health checks.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use http::{StatusCode, header::AUTHORIZATION};
use naka::random::seed;
use tokio::{sync::watch, task::AbortHandle, time::sleep};

use super::{
    Discover, Look, REGISTRY,
    applications::{Known, Said},
    registry::{Instance, Instances, QUESTION, question, refused},
    rules::{BACKOFF, Rules, backoff, pause},
};
use crate::{
    config::checked::{EurekaApp, EurekaServers},
    upstream::Connector,
};

/// The instances of an application.
pub struct Eureka {
    app: EurekaApp,
    registry: Arc<Registry>,
    /// The answers, once somebody wants to know.
    answers: Option<watch::Receiver<Answer>>,
}

impl Eureka {
    /// In this registry.
    pub const fn new(app: EurekaApp, registry: Arc<Registry>) -> Self {
        Self { app, registry, answers: None }
    }

    /// The next answer; the one that is there, if none was told yet.
    async fn next(&mut self) -> Look {
        let answers = self.answers.get_or_insert_with(|| self.registry.answers());
        if answers.changed().await.is_err() {
            self.answers = None; // Another one may be asking by then.
            return lost();
        }
        let (found, trouble) = match &*answers.borrow_and_update() {
            Ok(known) => endpoints(&self.app, known),
            Err(why) => return Look { found: None, trouble: Some(why.to_string()), again: Duration::ZERO },
        };
        let found = if found.is_empty() && trouble.is_some() { None } else { Some(found) };
        Look { found, trouble, again: Duration::ZERO }
    }
}

/// Whoever asks is gone: that is a mistake of ours, and no reason to spin.
fn lost() -> Look {
    Look { found: None, trouble: Some("asking panicked".to_owned()), again: BACKOFF }
}

fn endpoints(app: &EurekaApp, known: &Known) -> (Vec<naka::balance::Target>, Option<String>) {
    let mut all = Instances::default();
    for it in known.of(&app.name).filter(|it| it.is_up()) {
        let port = if app.is_secure { it.secure_port } else { it.port };
        all.add(&Instance {
            id: &it.id,
            host: if app.by_host_name || it.ip.is_empty() { &it.host_name } else { &it.ip },
            port: port.unwrap_or(0),
            weight: 1,
            tags: &[],
            metadata: &it.metadata,
            version: it.updated,
        });
    }
    all.endpoints()
}

impl fmt::Debug for Eureka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eureka").field("app", &self.app).finish_non_exhaustive()
    }
}

impl Discover for Eureka {
    fn look(&mut self, _: bool) -> Pin<Box<dyn Future<Output = Look> + Send + '_>> {
        Box::pin(self.next())
    }
}

/// All registries that are asked, each once. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct EurekaRegistries(Arc<Mutex<Vec<Weak<Registry>>>>);

impl EurekaRegistries {
    /// The one at these servers, which is asked as long as somebody has it and wants to know.
    pub fn at(&self, servers: &Arc<EurekaServers>, connector: &Connector) -> Arc<Registry> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|it| it.strong_count() > 0);
        if let Some(known) = all.iter().filter_map(Weak::upgrade).find(|it| it.servers == *servers) {
            return known;
        }
        let (servers, connector) = (Arc::clone(servers), connector.clone());
        let registry = Arc::new(Registry { servers, connector, asking: Mutex::default() });
        all.push(Arc::downgrade(&registry));
        registry
    }
}

/// A registry, asked for all who want to know.
pub struct Registry {
    servers: Arc<EurekaServers>,
    connector: Connector,
    asking: Mutex<Option<(watch::Receiver<Answer>, AbortHandle)>>,
}

impl Registry {
    /// What is known from now on. Begins to ask, if nobody does: that needs a runtime.
    fn answers(&self) -> watch::Receiver<Answer> {
        let mut asking = self.asking();
        if let Some((answers, task)) = &*asking
            && !task.is_finished()
        {
            return answers.clone();
        }
        let (sender, answers) = watch::channel(Err("nobody has asked yet".into()));
        let client = Client {
            servers: Arc::clone(&self.servers),
            connector: self.connector.clone(),
            turn: 0,
            known: None,
        };
        let task = tokio::spawn(client.follow(sender)).abort_handle();
        *asking = Some((answers.clone(), task));
        answers
    }

    fn asking(&self) -> MutexGuard<'_, Option<(watch::Receiver<Answer>, AbortHandle)>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some((_, task)) = &*self.asking() {
            task.abort();
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// What came of asking.
type Answer = Result<Arc<Known>, Arc<str>>;

/// Whoever asks the servers.
struct Client {
    servers: Arc<EurekaServers>,
    connector: Connector,
    /// The server that is asked first: the one that answered last.
    turn: usize,
    /// What that one has said, if it was all heard.
    known: Option<Arc<Known>>,
}

impl Client {
    async fn follow(mut self, answers: watch::Sender<Answer>) {
        let refresh = self.servers.refresh;
        let good = Rules { floor: refresh, ceiling: refresh, max_shrink: 0, confirm: 1, takes_empty: false };
        let bad = Rules { floor: REGISTRY, ..good };
        let mut failures = 0_u32;
        loop {
            let said = self.ask().await;
            let pause = if said.is_ok() {
                failures = 0;
                pause(&good, refresh, seed())
            } else {
                failures = failures.saturating_add(1);
                backoff(&bad, failures, seed())
            };
            drop(answers.send_replace(said.map_err(Into::into)));
            sleep(pause).await;
        }
    }

    /// Asks one server after the other until one has said what there is.
    async fn ask(&mut self) -> Result<Arc<Known>, String> {
        if let Some(known) = self.known.take()
            && let Some(known) = self.changes(known).await
        {
            self.known = Some(Arc::clone(&known));
            return Ok(known);
        }
        let mut wrong = Vec::new();
        for _ in 0..self.servers.urls.len() {
            match self.fetch("/apps").await {
                Ok(said) => {
                    let known = Arc::new(Known::whole(said));
                    self.known = Some(Arc::clone(&known));
                    return Ok(known);
                }
                Err(why) => wrong.push(format!("{}: {why}", self.url())),
            }
            self.turn = (self.turn + 1) % self.servers.urls.len();
        }
        Err(wrong.join("; "))
    }

    /// What is known after the changes since; nothing if that cannot be known without all.
    async fn changes(&self, known: Arc<Known>) -> Option<Arc<Known>> {
        let said = self.fetch("/apps/delta").await.ok()?;
        let hash = said.hash.clone()?;
        let mut next = Known::clone(&known);
        next.change(said).ok()?;
        if next.hash() != hash {
            return None;
        }
        Some(if next == *known { known } else { Arc::new(next) })
    }

    async fn fetch(&self, path: &str) -> Result<Said, String> {
        let secret = self.servers.authorization.clone().map(|it| (AUTHORIZATION, it));
        let url = format!("{}{path}", self.url());
        let reached = (self.servers.tls.clone(), &self.connector);
        let tls = if url.starts_with("https://") { reached } else { (None, reached.1) };
        let (head, body) = question(&url, secret, tls, QUESTION).await?.into_parts();
        if head.status != StatusCode::OK {
            return Err(refused(head.status, &body));
        }
        Said::read(&body)
    }

    fn url(&self) -> &str {
        &self.servers.urls[self.turn]
    }
}
