//! A stand-in for an agent of Consul, by its documentation: the health of a service with blocking queries, and what
//! instances need to come and go.
//!
//! | Question | Answer |
//! | --- | --- |
//! | `GET /v1/health/service/NAME` with `passing`, `tag`, `index` and `wait` | The instances, at once or when something has changed; after `wait` and a sixteenth of it as they are |
//! | `PUT /v1/agent/service/register` | The instance is there, as well as its check says it is at first (critical where it says nothing) |
//! | `PUT /v1/agent/service/deregister/ID` | It is gone; 404 for one that never was |
//!
//! # What clients have to live with
//! Each [`Manner`] is a case: an index that goes back, stands still, races, is 0 or is not there; questions that hang, or
//! are answered before their time; no leader, too many questions, a token that is not known or hides a part; answers that
//! are old, empty by error, garbage, too large, redirected or cut off; agents that do not filter. Besides,
//! [`wipe`](Consul::wipe) has it come back with nothing, and dropped, nobody is there.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout_at};

use crate::{
    network::Network,
    registry::{Answer, Answers, Asked, Server},
};

/// How questions about health are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// As it should be.
    #[default]
    Well,
    /// Each index is one less than that of the answer before.
    IndexBack,
    /// The index is 0.
    IndexZero,
    /// There is no index.
    NoIndex,
    /// At once, with the same index, whatever is waited for.
    Impatient,
    /// At once, with a higher index each time.
    Restless,
    /// Never.
    Hangs,
    /// With this status and text: 500 `No cluster leader`, 403 `ACL not found`, 429.
    Refuses(u16, &'static str),
    /// With a status of 302, to the same question elsewhere.
    Redirects(String),
    /// With this body, at once.
    Says(&'static str),
    /// With so many bytes, at once.
    TooLarge(usize),
    /// The connection is closed without an answer.
    CutOff,
    /// Empty, with an index as it should be.
    Empty,
    /// Empty, as the token may read nothing.
    Hidden,
    /// By a server that knows no leader.
    Leaderless,
    /// By a server that has not heard of its leader for so long.
    Behind(Duration),
    /// Without filters: instances that are critical, too.
    Unfiltered,
}

/// An instance of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    id: String,
    service: String,
    node: String,
    address: String,
    port: u16,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
    weights: (u64, u64),
    status: String,
    modified: u64,
}

impl Instance {
    /// A healthy one at `address:port`; its id is that behind its service.
    ///
    /// # Panics
    /// If that is no address and port.
    pub fn new(service: &str, at: &str) -> Self {
        let (address, port) = at.rsplit_once(':').expect("an address and a port");
        Self {
            id: format!("{service}-{at}"),
            service: service.to_owned(),
            node: "10.255.0.1".to_owned(),
            address: address.to_owned(),
            port: port.parse().expect("a port"),
            tags: Vec::new(),
            meta: BTreeMap::new(),
            weights: (1, 1),
            status: "passing".to_owned(),
            modified: 0,
        }
    }

    /// With another id.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }

    /// Without an address of its own, on a node with this one.
    #[must_use]
    pub fn on_node(mut self, address: &str) -> Self {
        self.address.clear();
        address.clone_into(&mut self.node);
        self
    }

    /// With a tag.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.tags.push(tag.to_owned());
        self
    }

    /// With metadata.
    #[must_use]
    pub fn meta(mut self, name: &str, value: &str) -> Self {
        self.meta.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With weights: one when all checks pass, one when some warn.
    #[must_use]
    pub const fn weights(mut self, passing: u64, warning: u64) -> Self {
        self.weights = (passing, warning);
        self
    }

    /// With a check of this status: `passing`, `warning` or `critical`.
    #[must_use]
    pub fn status(mut self, status: &str) -> Self {
        status.clone_into(&mut self.status);
        self
    }

    fn shown(&self) -> Value {
        json!({
            "Node": {"Node": "node-1", "Address": self.node, "Datacenter": "dc1"},
            "Service": {
                "ID": self.id, "Service": self.service, "Address": self.address, "Port": self.port,
                // Go writes nothing so.
                "Tags": if self.tags.is_empty() { Value::Null } else { json!(self.tags) },
                "Meta": if self.meta.is_empty() { Value::Null } else { json!(self.meta) },
                "Weights": {"Passing": self.weights.0, "Warning": self.weights.1},
                "ModifyIndex": self.modified,
            },
            "Checks": [
                {"CheckID": "serfHealth", "Status": "passing"},
                {"CheckID": format!("service:{}", self.id), "Status": self.status},
            ],
        })
    }
}

/// The agent; nobody answers any more when it is dropped.
pub struct Consul {
    server: Server,
    state: Arc<State>,
}

impl Consul {
    /// Listens at an address of the loopback; with port 0, at a free one.
    ///
    /// # Panics
    /// If the address is taken.
    pub async fn start(address: &str) -> Self {
        let state = Arc::new(State::new());
        Self { server: Server::at(address, Arc::clone(&state)).await, state }
    }

    /// Listens at a name inside the process.
    pub fn inside(network: &Network, name: &str) -> Self {
        let state = Arc::new(State::new());
        Self { server: Server::inside(network, name, Arc::clone(&state)), state }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.server.address
    }

    /// These are the instances of a service from now on.
    pub fn has(&self, service: &str, instances: impl IntoIterator<Item = Instance>) {
        let mut catalog = self.state.catalog();
        catalog.instances.retain(|_, it| it.service != service);
        instances.into_iter().for_each(|it| catalog.put(it));
        catalog.touch(service);
        drop(catalog);
        self.state.changed();
    }

    /// Healthy instances at these addresses are those of a service from now on.
    pub fn has_at(&self, service: &str, at: &[&str]) {
        self.has(service, at.iter().map(|at| Instance::new(service, at)));
    }

    /// From now on it answers so.
    pub fn behaves(&self, manner: Manner) {
        self.state.catalog().manner = manner;
        self.state.changed();
    }

    /// It ends, with all questions that wait, and comes back at once: with nothing, and counting from the beginning.
    pub fn wipe(&self) {
        let mut catalog = self.state.catalog();
        *catalog = Catalog::new(catalog.life + 1);
        drop(catalog);
        self.state.changed();
    }

    /// The ids of a service's instances.
    pub fn ids(&self, service: &str) -> Vec<String> {
        let catalog = self.state.catalog();
        catalog.instances.values().filter(|it| it.service == service).map(|it| it.id.clone()).collect()
    }

    /// All that was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Consul {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consul").field("address", &self.server.address).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    catalog: Mutex<Catalog>,
    changes: watch::Sender<()>,
    asked: Mutex<Vec<Asked>>,
}

#[derive(Debug)]
struct Catalog {
    /// How often it was wiped.
    life: u64,
    index: u64,
    /// Of each service, when it changed.
    indices: BTreeMap<String, u64>,
    instances: BTreeMap<String, Instance>,
    manner: Manner,
    answers: u64,
}

impl Catalog {
    /// Nobody is there. What a cluster writes down for itself has indices, too.
    const fn new(life: u64) -> Self {
        Self {
            life,
            index: 10,
            indices: BTreeMap::new(),
            instances: BTreeMap::new(),
            manner: Manner::Well,
            answers: 0,
        }
    }

    fn put(&mut self, instance: Instance) {
        let instance = Instance { modified: self.index + 1, ..instance };
        self.instances.insert(instance.id.clone(), instance);
    }

    fn touch(&mut self, service: &str) {
        self.index += 1;
        self.indices.insert(service.to_owned(), self.index);
    }

    fn index_of(&self, service: &str) -> u64 {
        self.indices.get(service).copied().unwrap_or(self.index)
    }
}

impl State {
    fn new() -> Self {
        Self {
            catalog: Mutex::new(Catalog::new(0)),
            changes: watch::Sender::new(()),
            asked: Mutex::default(),
        }
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_replace(());
    }

    async fn health(&self, service: &str, asked: &Asked) -> Option<Answer> {
        let index = asked.parameter("index").and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
        let wait = asked.parameter("wait").map_or(Duration::from_mins(5), milliseconds);
        let (mut changes, life) = (self.changes.subscribe(), self.catalog().life);
        let until = tokio::time::Instant::now() + wait + wait / 16;
        loop {
            let waits = self.catalog().waits(service, index);
            let changed = changes.changed();
            match waits {
                Waits::No => break,
                Waits::ForEver => _ = changed.await,
                Waits::ForChange => {
                    if timeout_at(until, changed).await.is_err() {
                        break;
                    }
                }
            }
            if self.catalog().life != life {
                return None;
            }
        }
        self.catalog().answer(service, asked)
    }

    fn register(&self, asked: &Asked) -> Answer {
        let Ok(said) = serde_json::from_str::<Value>(&asked.body) else {
            return Answer::new(400, "Request decode failed");
        };
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        let service = text("Name");
        if service.is_empty() {
            return Answer::new(400, "Missing service name");
        }
        let of = |name: &str| serde_json::from_value(said[name].clone()).ok();
        let weights = &said["Weights"];
        let mut catalog = self.catalog();
        catalog.put(Instance {
            id: if text("ID").is_empty() { service.clone() } else { text("ID") },
            service: service.clone(),
            node: "127.0.0.1".to_owned(),
            address: text("Address"),
            port: said["Port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0),
            tags: serde_json::from_value(said["Tags"].clone()).unwrap_or_default(),
            meta: of("Meta").unwrap_or_default(),
            weights: (weights["Passing"].as_u64().unwrap_or(1), weights["Warning"].as_u64().unwrap_or(1)),
            status: match (&said["Check"], said["Check"]["Status"].as_str()) {
                (Value::Null, _) => "passing".to_owned(),
                (_, status) => status.unwrap_or("critical").to_owned(),
            },
            modified: 0,
        });
        catalog.touch(&service);
        drop(catalog);
        self.changed();
        Answer::new(200, "")
    }

    fn deregister(&self, id: &str) -> Answer {
        let mut catalog = self.catalog();
        let Some(gone) = catalog.instances.remove(id) else {
            return Answer::new(404, format!("Unknown service ID {id:?}"));
        };
        catalog.touch(&gone.service);
        drop(catalog);
        self.changed();
        Answer::new(200, "")
    }
}

/// What a question waits for.
enum Waits {
    No,
    ForChange,
    ForEver,
}

impl Catalog {
    fn waits(&self, service: &str, index: u64) -> Waits {
        match self.manner {
            Manner::Hangs => Waits::ForEver,
            Manner::Well | Manner::Leaderless | Manner::Behind(_) | Manner::Empty | Manner::Unfiltered
                if index != 0 && self.index_of(service) <= index =>
            {
                Waits::ForChange
            }
            _ => Waits::No,
        }
    }

    fn answer(&mut self, service: &str, asked: &Asked) -> Option<Answer> {
        self.answers += 1;
        let tags = asked.query.split('&').filter_map(|it| it.strip_prefix("tag=")).collect::<Vec<_>>();
        let is_passing = asked.parameter("passing").is_some() && self.manner != Manner::Unfiltered;
        let wanted = self.instances.values().filter(|it| {
            it.service == service
                && (!is_passing || it.status == "passing")
                && tags.iter().all(|tag| it.tags.iter().any(|it| it == tag))
        });
        let all = json!(wanted.map(Instance::shown).collect::<Vec<_>>()).to_string();
        let index = self.index_of(service);
        let indexed = |index: u64, body: String| {
            Answer::new(200, body)
                .header("X-Consul-Index", index)
                .header("X-Consul-KnownLeader", true)
                .header("X-Consul-LastContact", 0)
        };
        Some(match self.manner.clone() {
            Manner::Well | Manner::Impatient | Manner::Unfiltered | Manner::Hangs => indexed(index, all),
            Manner::IndexBack => indexed(1_000_000 - self.answers, all),
            Manner::IndexZero => indexed(0, all),
            Manner::NoIndex => Answer::new(200, all),
            Manner::Restless => indexed(1_000_000 + self.answers, all),
            Manner::Refuses(status, text) => Answer::new(status, text),
            Manner::Redirects(to) => Answer::new(302, "").header("Location", to),
            Manner::Says(body) => indexed(index, body.to_owned()),
            Manner::TooLarge(bytes) => indexed(index, format!("[{}]", " ".repeat(bytes))),
            Manner::CutOff => return None,
            Manner::Empty => indexed(index, "[]".to_owned()),
            Manner::Hidden => {
                indexed(index, "[]".to_owned()).header("X-Consul-Results-Filtered-By-ACLs", true)
            }
            Manner::Leaderless => {
                let plain = Answer::new(200, all).header("X-Consul-Index", index);
                plain.header("X-Consul-KnownLeader", false).header("X-Consul-LastContact", 0)
            }
            Manner::Behind(time) => {
                let plain = Answer::new(200, all).header("X-Consul-Index", index);
                plain.header("X-Consul-KnownLeader", true).header("X-Consul-LastContact", time.as_millis())
            }
        })
    }
}

impl Answers for State {
    async fn answer(self: Arc<Self>, asked: Asked) -> Option<Answer> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
        let path = asked.path.clone();
        match (&*asked.method, path.strip_prefix("/v1/").unwrap_or_default()) {
            ("PUT", "agent/service/register") => Some(self.register(&asked)),
            ("PUT", path) if path.starts_with("agent/service/deregister/") => {
                Some(self.deregister(path.rsplit('/').next().unwrap_or_default()))
            }
            ("GET", path) if path.starts_with("health/service/") => {
                self.health(path.rsplit('/').next().unwrap_or_default(), &asked).await
            }
            _ => Some(Answer::new(404, "no such question here")),
        }
    }
}

fn milliseconds(text: &str) -> Duration {
    let ms = text.strip_suffix("ms").and_then(|ms| ms.parse().ok());
    let s = text.strip_suffix('s').and_then(|s| s.parse().ok());
    ms.map(Duration::from_millis).or(s.map(Duration::from_secs)).unwrap_or(Duration::from_mins(5))
}
