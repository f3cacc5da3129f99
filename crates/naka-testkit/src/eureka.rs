//! A stand-in for a server of Eureka, by its documentation: the whole registry, what has changed in the last three
//! minutes, and what instances need to come, stay and go. All paths may have something before them.
//!
//! | Question | Answer |
//! | --- | --- |
//! | `GET /apps` | All instances, with the hash of their statuses |
//! | `GET /apps/delta` | The changes, with the hash of what is there after them |
//! | `POST /apps/APP` | The instance is there: 204 |
//! | `PUT /apps/APP/ID` | It lives: 200; 404 for one that is not known |
//! | `DELETE /apps/APP/ID` | It is gone: 200; 404 for one that is not known |
//!
//! # What clients have to live with
//! Each [`Manner`] is a case: changes that are not to be had, that lack something, come without or with a wrong hash or are
//! none; lists of one that are none; servers that hang, refuse, redirect, or say garbage, too much or nothing. Besides,
//! [`wipe`](Eureka::wipe) has it forget all, and dropped, nobody is there.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    network::Network,
    registry::{Answer, Answers, Asked, Server},
};

/// How long a change is told.
const TOLD: Duration = Duration::from_mins(3);

/// How questions about the registry are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// As it should be.
    #[default]
    Well,
    /// Changes are not to be had: 403.
    NoDelta,
    /// The hash beside the changes is not that of what is there.
    WrongHash,
    /// There is none beside the changes.
    NoHash,
    /// Changes lack all there is to tell.
    LosesChanges,
    /// A change is called what no change is called.
    UnknownAction,
    /// A list of one is that one, and an empty one is not there.
    ListsOfOne,
    /// Never.
    Hangs,
    /// With this status and text: 403 and 503 as long as it is not ready.
    Refuses(u16, &'static str),
    /// With a status of 302.
    Redirects(String),
    /// With this body.
    Says(&'static str),
    /// With so many bytes.
    TooLarge(usize),
    /// The connection is closed without an answer.
    CutOff,
    /// With no instance at all.
    Empty,
}

/// An instance of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance(Value);

impl Instance {
    /// One that is up at `ip:port`.
    ///
    /// # Panics
    /// If that is no address and port.
    pub fn new(app: &str, at: &str) -> Self {
        let (ip, port) = at.rsplit_once(':').expect("an address and a port");
        let port = port.parse::<u16>().expect("a port");
        Self(json!({
            "instanceId": format!("{ip}:{app}:{port}"), "app": app.to_uppercase(), "hostName": format!("host-{ip}"),
            "ipAddr": ip, "status": "UP", "overriddenstatus": "UNKNOWN",
            "port": {"$": port, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"},
            "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
            "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 90},
            "metadata": {"@class": "java.util.Collections$EmptyMap"},
            "lastUpdatedTimestamp": "1764000000000",
        }))
    }

    /// With this in place of what is there.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.0[name] = value;
        self
    }

    /// With metadata.
    #[must_use]
    pub fn meta(mut self, name: &str, value: &str) -> Self {
        self.0["metadata"][name] = value.into();
        self
    }

    fn text(&self, name: &str) -> String {
        self.0[name].as_str().unwrap_or_default().to_owned()
    }
}

/// The server; nobody answers any more when it is dropped.
pub struct Eureka {
    server: Server,
    state: Arc<State>,
}

impl Eureka {
    /// Listens at an address of the loopback; with port 0, at a free one.
    ///
    /// # Panics
    /// If the address is taken.
    pub async fn start(address: &str) -> Self {
        let state = Arc::new(State::default());
        Self { server: Server::at(address, Arc::clone(&state)).await, state }
    }

    /// Listens at a name inside the process.
    pub fn inside(network: &Network, name: &str) -> Self {
        let state = Arc::new(State::default());
        Self { server: Server::inside(network, name, Arc::clone(&state)), state }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.server.address
    }

    /// These are the instances of an application from now on.
    pub fn has(&self, app: &str, instances: impl IntoIterator<Item = Instance>) {
        self.state.known().has(app, instances.into_iter().collect());
    }

    /// Instances at these addresses, all of them up, are those of an application from now on.
    pub fn has_at(&self, app: &str, at: &[&str]) {
        self.has(app, at.iter().map(|at| Instance::new(app, at)));
    }

    /// From now on it answers so.
    pub fn behaves(&self, manner: Manner) {
        self.state.known().manner = manner;
    }

    /// It has come back with nothing.
    pub fn wipe(&self) {
        *self.state.known() = Known::default();
    }

    /// The ids of an application's instances.
    pub fn ids(&self, app: &str) -> Vec<String> {
        let known = self.state.known();
        known.instances.keys().filter(|(known, _)| known == app).map(|(_, id)| id.clone()).collect()
    }

    /// All that was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Eureka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eureka").field("address", &self.server.address).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    known: Mutex<Known>,
    asked: Mutex<Vec<Asked>>,
}

#[derive(Debug, Default)]
struct Known {
    /// By application and id.
    instances: BTreeMap<(String, String), Instance>,
    changes: Vec<(Instant, &'static str, Instance)>,
    manner: Manner,
}

impl Known {
    fn has(&mut self, app: &str, instances: Vec<Instance>) {
        let app = app.to_uppercase();
        let gone = self
            .instances
            .keys()
            .filter(|(known, id)| *known == app && !instances.iter().any(|it| it.text("instanceId") == *id));
        for key in gone.cloned().collect::<Vec<_>>() {
            self.remove(&key);
        }
        for instance in instances {
            self.put(instance);
        }
    }

    fn put(&mut self, instance: Instance) {
        let key = (instance.text("app").to_uppercase(), instance.text("instanceId"));
        let before = self.instances.insert(key, instance.clone());
        if before.as_ref() != Some(&instance) {
            self.change(if before.is_some() { "MODIFIED" } else { "ADDED" }, instance);
        }
    }

    fn remove(&mut self, key: &(String, String)) -> bool {
        let Some(gone) = self.instances.remove(key) else { return false };
        self.change("DELETED", gone);
        true
    }

    fn change(&mut self, action: &'static str, instance: Instance) {
        self.changes.retain(|(at, ..)| at.elapsed() < TOLD);
        self.changes.push((Instant::now(), action, instance));
    }

    fn hash(&self) -> String {
        let mut counts = BTreeMap::<String, usize>::new();
        self.instances.values().for_each(|it| *counts.entry(it.text("status")).or_default() += 1);
        let parts = counts.iter().map(|(status, count)| format!("{status}_{count}_"));
        parts.collect::<Vec<_>>().concat()
    }

    fn all(&self) -> Value {
        let all = self.instances.iter().map(|((app, _), it)| (app.clone(), it.0.clone()));
        self.registry(&all.collect::<Vec<_>>(), Some(self.hash()))
    }

    fn delta(&self) -> Value {
        let is_told = |(at, ..): &&(Instant, &str, Instance)| {
            at.elapsed() < TOLD && self.manner != Manner::LosesChanges
        };
        let told = self.changes.iter().filter(is_told).map(|(_, action, it)| {
            let action = if self.manner == Manner::UnknownAction { "MOVED" } else { action };
            (it.text("app"), it.clone().with("actionType", action.into()).0)
        });
        let hash = match self.manner {
            Manner::WrongHash => Some("UP_99_".to_owned()),
            Manner::NoHash => None,
            _ => Some(self.hash()),
        };
        self.registry(&told.collect::<Vec<_>>(), hash)
    }

    fn registry(&self, all: &[(String, Value)], hash: Option<String>) -> Value {
        let is_of_one = self.manner == Manner::ListsOfOne;
        let list = |mut all: Vec<Value>| match all.len() {
            0 if is_of_one => Value::Null,
            1 if is_of_one => all.remove(0),
            _ => Value::Array(all),
        };
        // One after the other, as the order of changes is that in which they are told.
        let applications = all.chunk_by(|one, other| one.0 == other.0).map(|of_one| {
            let instances = of_one.iter().map(|(_, it)| it.clone()).collect();
            json!({"name": of_one[0].0, "instance": list(instances)})
        });
        let mut said = json!({"versions__delta": "1", "application": list(applications.collect())});
        if let Some(hash) = hash {
            said["apps__hashcode"] = hash.into();
        }
        json!({"applications": said})
    }

    fn answer(&self, is_delta: bool) -> Option<Answer> {
        let said = if is_delta { self.delta() } else { self.all() };
        Some(match self.manner.clone() {
            Manner::NoDelta if is_delta => Answer::new(403, ""),
            Manner::Refuses(status, text) => Answer::new(status, text),
            Manner::Redirects(to) => Answer::new(302, "").header("Location", to),
            Manner::Says(body) => Answer::new(200, body),
            Manner::TooLarge(bytes) => Answer::new(200, " ".repeat(bytes)),
            Manner::CutOff => return None,
            Manner::Empty => Answer::new(200, Self::default().all().to_string()),
            _ => Answer::new(200, said.to_string()),
        })
    }
}

impl State {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers for State {
    async fn answer(self: Arc<Self>, asked: Asked) -> Option<Answer> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
        let Some((_, path)) = asked.path.split_once("/apps") else { return Some(Answer::new(404, "")) };
        let parts = path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>();
        if self.known().manner == Manner::Hangs {
            pending::<()>().await;
        }
        let mut known = self.known();
        match (&*asked.method, &*parts) {
            ("GET", [] | ["delta"]) => known.answer(!parts.is_empty()),
            ("POST", [app]) => {
                let Ok(mut said) = serde_json::from_str::<Value>(&asked.body) else {
                    return Some(Answer::new(400, "Cannot parse request body"));
                };
                let instance = Instance(said["instance"].take());
                if instance.text("app").to_uppercase() != app.to_uppercase()
                    || instance.text("hostName").is_empty()
                {
                    return Some(Answer::new(400, "Mismatched appName or missing hostname"));
                }
                known.put(instance);
                Some(Answer::new(204, ""))
            }
            ("PUT" | "DELETE", [app, id]) => {
                let key = (app.to_uppercase(), id.replace("%3A", ":"));
                let is_known = if asked.method == "PUT" {
                    known.instances.contains_key(&key)
                } else {
                    known.remove(&key)
                };
                Some(Answer::new(if is_known { 200 } else { 404 }, ""))
            }
            _ => Some(Answer::new(404, "")),
        }
    }
}
