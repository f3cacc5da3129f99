//! Endpoints that are instances of a service in Consul.
//!
//! One question is asked at a time, `GET /v1/health/service/NAME`, which waits at the agent for a change (a blocking
//! query). What Consul's documentation asks of clients, and what else may come:
//!
//! | What comes | What is done |
//! | --- | --- |
//! | An index | The next question waits for what comes after it, for `wait`; Consul adds up to a sixteenth, and the answer may take [`QUESTION`] more |
//! | An index that has gone back, as after a restart or a restore | The answer counts, and the next question waits for nothing |
//! | The index 0, which is none that can be waited for | As if it was 1 |
//! | No index | The set counts, and is asked for again after [`APART`] |
//! | The same index at once, again and again | Pauses between questions that double, up to [`APART`] |
//! | Indices that move with every answer | At most one question a second |
//! | Anything but 200, what is no list of instances, too much, or nothing | A failure: asked again after half a second to half a minute, from the beginning |
//! | An answer of a server that knows no leader, or has not heard of it for [`BEHIND`] | It counts, as partly held: it confirms no loss, and an empty one counts for nothing |
//! | An answer from which the token hides a part | The same |
//!
//! Instances are looked at again here: with a critical check (maintenance is one) or without a tag that is asked for, none
//! is taken, also from agents that do not filter.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderName, StatusCode};
use naka::random::seed;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Discover, Look,
    registry::{Instance, Instances, QUESTION, part, question, refused},
    rules::{APART, Rules, backoff, pause},
};
use crate::{
    config::checked::{ConsulAgent, ConsulService},
    upstream::Connector,
};

/// A server that has not heard of its leader for so long is not believed that something is gone.
pub const BEHIND: Duration = Duration::from_secs(30);

/// The secret.
const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// The instances of a service.
pub struct Consul {
    service: ConsulService,
    agent: Arc<ConsulAgent>,
    connector: Connector,
    rules: Rules,
    place: Place,
    /// In a row.
    failures: u32,
    /// The last answer is not to be relied on: it is not waited on for long.
    is_doubtful: bool,
}

impl Consul {
    /// Nothing has been asked. The floor of the rules is the least time between two questions.
    pub fn new(service: ConsulService, agent: Arc<ConsulAgent>, connector: Connector, rules: Rules) -> Self {
        Self { service, agent, connector, rules, place: Place::default(), failures: 0, is_doubtful: false }
    }

    async fn ask(&mut self, anew: bool) -> Look {
        let began = Instant::now();
        let wait = if anew || self.is_doubtful { self.agent.wait.min(APART) } else { self.agent.wait };
        match self.said(wait).await {
            Ok((answer, place)) => {
                self.failures = 0;
                let pauses = self.place.follow(place, began.elapsed() < wait / 2);
                self.is_doubtful = answer.trouble.is_some();
                let again = match pauses {
                    Pauses::No => self.rules.floor,
                    Pauses::Early(times) => {
                        self.rules.floor.saturating_mul(2_u32.saturating_pow(times)).min(APART)
                    }
                    Pauses::Blind => APART,
                };
                let again = Rules { floor: again, ..self.rules };
                let again = pause(&again, Duration::ZERO, seed()).saturating_sub(began.elapsed());
                Look { again, ..answer }
            }
            Err(why) => {
                self.failures = self.failures.saturating_add(1);
                self.place = Place::default(); // Whoever comes back may count anew.
                let again = backoff(&self.rules, self.failures, seed());
                Look { found: None, trouble: Some(format!("{}: {why}", self.agent.address)), again }
            }
        }
    }

    async fn said(&self, wait: Duration) -> Result<(Look, Option<u64>), String> {
        let mut url = self.url();
        let mut patience = QUESTION;
        if let Some(index) = self.place.index {
            let _ = write!(url, "&index={index}&wait={}ms", wait.as_millis()); // Never fails.
            patience += wait + wait / 16;
        }
        let secret = self.agent.token.clone().map(|token| (TOKEN, token));
        let reached = (self.agent.tls.clone(), &self.connector);
        let (head, body) = question(&url, secret, reached, patience).await?.into_parts();
        if head.status != StatusCode::OK {
            return Err(refused(head.status, &body));
        }
        let entries = serde_json::from_slice::<Option<Vec<Entry>>>(&body);
        let entries = entries.map_err(|error| format!("its answer is no list of instances: {error}"))?;
        let (found, amiss) = self.endpoints(&entries.unwrap_or_default()).endpoints();
        let trouble = doubt(&head.headers).or(amiss);
        if found.is_empty()
            && let Some(trouble) = trouble
        {
            return Err(format!("it says that there is none, and {trouble}"));
        }
        let look = Look { found: Some(found), trouble, again: Duration::ZERO };
        Ok((look, number(&head.headers, "x-consul-index")))
    }

    fn url(&self) -> String {
        let ConsulService { name, tags, datacenter, passing } = &self.service;
        let mut url = format!("{}/v1/health/service/{}?", self.agent.address, part(name));
        let datacenter = datacenter.as_ref().or(self.agent.datacenter.as_ref());
        let mut more = Vec::new();
        more.extend(passing.then(|| "passing=1".to_owned()));
        more.extend(self.agent.is_stale.then(|| "stale=1".to_owned()));
        more.extend(datacenter.map(|name| format!("dc={}", part(name))));
        more.extend(tags.iter().map(|tag| format!("tag={}", part(tag))));
        url.push_str(&more.join("&"));
        url
    }

    fn endpoints(&self, entries: &[Entry]) -> Instances {
        let mut all = Instances::default();
        let (no_tags, none) = (Vec::new(), BTreeMap::new());
        for Entry { node, service, checks } in entries {
            let checks = checks.as_deref().unwrap_or_default();
            let has = |status: &str| checks.iter().any(|check| check.status == status);
            let tags = service.tags.as_ref().unwrap_or(&no_tags);
            let has_tags = self.service.tags.iter().all(|tag| tags.iter().any(|it| **it == **tag));
            let warns = has("warning");
            // Maintenance is a critical check.
            if !has_tags || has("critical") || warns && self.service.passing {
                continue;
            }
            let of_node = node.as_ref().map_or("", |node| &*node.address);
            let weights = service.weights.as_ref();
            all.add(&Instance {
                id: &service.id,
                host: if service.address.is_empty() { of_node } else { &service.address },
                port: service.port,
                weight: weights.map_or(1, |all| if warns { all.warning } else { all.passing }),
                tags,
                metadata: service.meta.as_ref().unwrap_or(&none),
                version: service.modify_index,
            });
        }
        all
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, place, failures, .. } = self;
        f.debug_struct("Consul")
            .field("service", service)
            .field("place", place)
            .field("failures", failures)
            .finish_non_exhaustive()
    }
}

impl Discover for Consul {
    fn look(&mut self, anew: bool) -> Pin<Box<dyn Future<Output = Look> + Send + '_>> {
        Box::pin(self.ask(anew))
    }
}

/// Why an answer may not be all there is.
fn doubt(headers: &HeaderMap) -> Option<String> {
    let says = |name: &str, value: &str| headers.get(name).is_some_and(|it| it == value);
    if says("x-consul-knownleader", "false") {
        return Some("the server that answers knows no leader".to_owned());
    }
    if let Some(ms) =
        number(headers, "x-consul-lastcontact").filter(|ms| u128::from(*ms) > BEHIND.as_millis())
    {
        return Some(format!("the server that answers has not heard of its leader for {} s", ms / 1000));
    }
    says("x-consul-results-filtered-by-acls", "true")
        .then(|| "the token hides a part of the answer".to_owned())
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// What has been heard of: what the next question waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// At least 1, as a question with 0 waits for nothing.
    index: Option<u64>,
    /// Answers in a row that came too soon and brought nothing.
    early: u32,
}

/// How long to wait before the next question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pauses {
    /// No longer than between any two.
    No,
    /// So many answers came too soon.
    Early(u32),
    /// There is nothing to wait for at the agent.
    Blind,
}

impl Place {
    /// Goes on after an answer with this index, which came soon or not.
    fn follow(&mut self, said: Option<u64>, is_soon: bool) -> Pauses {
        let Some(said) = said else {
            *self = Self::default();
            return Pauses::Blind;
        };
        let said = said.max(1);
        match self.index {
            Some(asked) if said < asked => {
                // Again and again, it is no restart: not faster than what comes too soon.
                *self = Self { index: None, early: self.early.saturating_add(1) };
                Pauses::Early(self.early - 1)
            }
            Some(asked) if said == asked && is_soon => {
                self.early = self.early.saturating_add(1);
                Pauses::Early(self.early)
            }
            before => {
                // A beginning says nothing of how the agent waits.
                let early = if before.is_none() { self.early } else { 0 };
                *self = Self { index: Some(said), early };
                Pauses::No
            }
        }
    }
}

/// An element of the answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Option<Node>,
    service: Service,
    checks: Option<Vec<Check>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: u64,
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
    weights: Option<Weights>,
    #[serde(default)]
    modify_index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u64,
    warning: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(default)]
    status: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_goes_back_begins_anew_and_0_is_1() {
        let mut place = Place::default();
        assert_eq!((place.follow(Some(7), true), place.index), (Pauses::No, Some(7)));
        assert_eq!((place.follow(Some(9), true), place.index), (Pauses::No, Some(9)));
        assert_eq!((place.follow(Some(3), true), place.index), (Pauses::Early(0), None));
        assert_eq!((place.follow(Some(3), true), place.index), (Pauses::No, Some(3)));
        assert_eq!(
            (place.follow(Some(0), true), place.index),
            (Pauses::Early(1), None),
            "0 is 1, and 1 is back"
        );
        assert_eq!((place.follow(Some(0), true), place.index), (Pauses::No, Some(1)));
        assert_eq!((place.follow(None, true), place), (Pauses::Blind, Place::default()));
    }

    #[test]
    fn answers_that_come_at_once_and_say_nothing_new_slow_the_questions_down() {
        let mut place = Place::default();
        place.follow(Some(7), true);
        assert_eq!(place.follow(Some(7), true), Pauses::Early(1));
        assert_eq!(place.follow(Some(7), true), Pauses::Early(2));
        assert_eq!(place.follow(Some(7), false), Pauses::No, "it has waited");
        assert_eq!(place.follow(Some(7), true), Pauses::Early(1));
        assert_eq!(place.follow(Some(8), true), Pauses::No, "something is new");
        // One that goes up and down.
        let pauses = [3, 3, 2, 3, 3, 2, 2, 1].map(|index| place.follow(Some(index), true));
        assert_eq!((pauses[0], pauses[7]), (Pauses::Early(0), Pauses::Early(4)), "{pauses:?}");
    }
}
