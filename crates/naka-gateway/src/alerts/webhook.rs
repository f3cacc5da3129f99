//! Who is told: a webhook that takes what Prometheus' Alertmanager posts to its receivers
//! (`webhook_config`, version "4"), so that those that exist understand it.
//!
//! Changes wait in a queue of [`WAITING`]; what is over that pushes the oldest out. All that wait, up to [`AT_ONCE`], go in
//! one post, in their order. A post that fails is tried again: after one second, then after twice as long each time up to a
//! minute, of which a random half counts. After [`ATTEMPTS`] it is given up, and at once if the answer says that it will never
//! do (a status of 4xx besides 408 and 429). Redirects are not followed.

use std::{
    collections::{BTreeMap, VecDeque, hash_map::RandomState},
    hash::{BuildHasher as _, Hasher as _},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{
    HeaderValue, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use naka::BoxError;
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{Change, Key};
use crate::{
    config::{checked::Webhook, show_time},
    control::{WHO, over},
    generation::InForce,
    observe::{Metrics, Told},
    seldom::Seldom,
    upstream::Connector,
};

/// Changes that wait.
const WAITING: usize = 1000;
/// Changes in one post.
const AT_ONCE: usize = 100;
/// Attempts at one post.
const ATTEMPTS: u32 = 10;
/// The longest pause between two of them.
const PAUSE: Duration = Duration::from_mins(1);

/// What is on its way to the webhook.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<VecDeque<Change>>,
    wake: Notify,
    trouble: Seldom,
    last_error: Mutex<Option<String>>,
}

impl Outbox {
    /// One more look has found these.
    pub(super) fn put(&self, changes: Vec<Change>, metrics: &Metrics) {
        if changes.is_empty() {
            return;
        }
        let mut waiting = self.waiting();
        waiting.extend(changes);
        let over = waiting.len().saturating_sub(WAITING);
        waiting.drain(..over);
        metrics.told(Told::Dropped, over);
        drop(waiting);
        self.wake.notify_one();
    }

    /// Posts what comes, for ever.
    pub(super) async fn run(&self, in_force: &InForce, metrics: &Metrics, connector: &Connector) {
        loop {
            let batch = self.next().await;
            let told = self.post(&batch, in_force, connector).await;
            if let Some(told) = told {
                metrics.told(told, batch.len());
            }
        }
    }

    async fn next(&self) -> Vec<Change> {
        loop {
            {
                let mut waiting = self.waiting();
                let count = waiting.len().min(AT_ONCE);
                if count > 0 {
                    return waiting.drain(..count).collect();
                }
            }
            self.wake.notified().await;
        }
    }

    /// Until it is taken, or given up; nothing if nobody is to be told any more. What the configuration says by then counts.
    async fn post(&self, batch: &[Change], in_force: &InForce, connector: &Connector) -> Option<Told> {
        let message = Bytes::from(message(batch).to_string());
        for attempt in 1..=ATTEMPTS {
            let webhook = in_force.with(|generation| generation.config.gateway.alerts.webhook.clone())?;
            let posted = timeout(webhook.timeout, post(&webhook, message.clone(), connector)).await;
            let failed = match posted {
                Ok(Ok(())) => {
                    if self.last_error().take().is_some() {
                        info!("alerts are taken by the webhook again");
                    }
                    return Some(Told::Delivered);
                }
                Ok(Err(failed)) => failed,
                Err(_) => Failed { why: format!("no answer within {:?}", webhook.timeout), is_final: false },
            };
            let is_last = failed.is_final || attempt == ATTEMPTS;
            *self.last_error() = Some(failed.why.clone());
            // What stands behind the host is often the secret.
            let uri = webhook.url.parse::<Uri>().ok();
            let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
            if is_last {
                warn!(host, cause = failed.why, alerts = batch.len(), "alerts are not told: it is given up");
                return Some(Told::Failed);
            }
            if self.trouble.is_due() {
                warn!(
                    host,
                    cause = failed.why,
                    attempt,
                    "the webhook does not take alerts; it is tried again"
                );
            }
            sleep(pause(attempt, RandomState::new().build_hasher().finish())).await;
        }
        None
    }

    /// For people.
    pub(super) fn to_json(&self) -> Value {
        json!({"waiting": self.waiting().len(), "last_error": *self.last_error()})
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Change>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After so many attempts: half of it for certain, and of the other half as much as `random` says.
fn pause(attempt: u32, random: u64) -> Duration {
    let longest = Duration::from_secs(1).saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(PAUSE);
    let half_ms = u64::try_from((longest / 2).as_millis()).unwrap_or(u64::MAX);
    longest / 2 + Duration::from_millis(random % (half_ms + 1))
}

#[derive(Debug)]
struct Failed {
    why: String,
    /// It would be the same again.
    is_final: bool,
}

impl<E: Into<BoxError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { why: error.into().to_string(), is_final: false }
    }
}

/// One attempt, over a connection of its own.
async fn post(webhook: &Webhook, message: Bytes, connector: &Connector) -> Result<(), Failed> {
    let url: Uri = webhook.url.parse()?;
    let authority = url.authority().ok_or("the URL has no host")?;
    let port = authority.port_u16().unwrap_or(if webhook.tls.is_some() { 443 } else { 80 });
    let stream = connector.dial(&format!("{}:{port}", authority.host()).into(), webhook.tls.clone()).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let mut request = Request::post(target)
        .header(HOST, authority.as_str())
        .header(USER_AGENT, WHO)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(Full::new(message))?;
    if let Some(authorization) = &webhook.authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
    }
    let status = over(connection, sender.send_request(request)).await?.status();
    if status.is_success() {
        return Ok(());
    }
    let may_change = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    Err(Failed { why: format!("the answer is {status}"), is_final: status.is_client_error() && !may_change })
}

/// What is posted: fields, labels and times as Alertmanager has them.
pub fn message(changes: &[Change]) -> Value {
    let alerts = changes.iter().map(|change| {
        let Change { key, why, started_s, ended_s } = change;
        json!({
            "status": status(ended_s.is_none()),
            "labels": labels(key),
            "annotations": {
                "summary": format!("{}: {}", key.rule, key.subject),
                "description": &**why,
            },
            "startsAt": show_time(*started_s),
            "endsAt": ended_s.map_or_else(|| NEVER.to_owned(), show_time),
            "generatorURL": "",
            "fingerprint": fingerprint(key),
        })
    });
    let mut common = changes.first().map(|change| labels(&change.key)).unwrap_or_default();
    for change in changes {
        let labels = labels(&change.key);
        common.retain(|name, value| labels.get(name) == Some(value));
    }
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{instance=\"{}\"}}", *INSTANCE),
        "truncatedAlerts": 0,
        "status": status(changes.iter().any(|change| change.ended_s.is_none())),
        "receiver": "naka",
        "groupLabels": {"instance": *INSTANCE},
        "commonLabels": common,
        "commonAnnotations": {},
        "externalURL": "",
        "alerts": alerts.collect::<Vec<_>>(),
    })
}

/// How Go writes that there is no time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The name of this machine, as it calls itself: in a cluster that of the pod.
static INSTANCE: LazyLock<String> =
    LazyLock::new(|| rustix::system::uname().nodename().to_string_lossy().into_owned());

const fn status(fires: bool) -> &'static str {
    if fires { "firing" } else { "resolved" }
}

fn labels(key: &Key) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("alertname", key.rule.to_string()),
        ("severity", key.severity.word().to_owned()),
        ("subject", key.subject.to_string()),
        ("instance", INSTANCE.clone()),
    ])
}

/// 16 hexadecimal digits that all of an alert's labels are in: the same after a restart.
pub fn fingerprint(key: &Key) -> String {
    let said = labels(key).into_iter().map(|(name, value)| format!("{name}\u{0}{value}\u{0}"));
    let hash = digest(&SHA256, said.collect::<String>().as_bytes());
    let hash = hash.as_ref()[..8].iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r10_7_pauses_double_up_to_a_minute_and_differ_by_chance() {
        let seconds = |attempt| (pause(attempt, 0).as_secs_f64(), pause(attempt, u64::MAX).as_secs_f64());
        let (least, most) = seconds(1);
        assert!(least >= 0.5 && most <= 1.0 && least <= most, "{least} {most}");
        assert!(pause(7, 12_345) >= Duration::from_secs(30) && pause(20, u64::MAX) <= PAUSE);
        assert_ne!(pause(5, 1), pause(5, 2));
    }
}
