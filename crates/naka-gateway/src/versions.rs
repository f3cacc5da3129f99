//! What is told about versions: to clients, and to whoever runs the gateway.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONTENT_TYPE};
use naka::{
    clock::Now,
    version::{Consumer, VersionLayer, VersionStatus, VersionUsage},
};
use serde_json::{Map, Value, json};

use crate::{
    config::{checked::Name, show_time},
    observe::PolicyMetrics,
    upstream::Body,
};

type Layer = VersionLayer<Arc<PolicyMetrics>>;

/// The versions of some routes as they are now, for clients.
pub fn list(layers: &[(Name, Layer)], now: Now) -> Response<Body> {
    let all = layers.iter().map(|(route, layer)| (route.to_string(), table(layer, now)));
    let text = format!("{:#}\n", Value::Object(all.collect()));
    let mut response = Response::new(Body::from(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The versions of one route, and which one is meant if none is said.
pub fn table(layer: &Layer, now: Now) -> Value {
    let table = layer.versions(now);
    let versions = table.versions.iter().map(|is| (is.version.name.to_string(), status(is)));
    json!({"default": table.default.as_deref(), "versions": Value::Object(versions.collect())})
}

fn status(is: &VersionStatus) -> Value {
    let version = &is.version;
    let mut it = Map::new();
    it.insert("state".into(), is.state.word().into());
    if !version.aliases.is_empty() {
        it.insert("aliases".into(), version.aliases.iter().map(|alias| &**alias).collect::<Vec<_>>().into());
    }
    let life = [
        ("since", version.since_s),
        ("maintenance", version.maintenance_s),
        ("deprecated", version.deprecated_s),
        ("sunset", version.sunset_s),
        ("removed", version.removed_s),
        ("off_until", is.brownout_until_s),
    ];
    for (word, unix_s) in life {
        it.extend(unix_s.map(|unix_s| (word.into(), show_time(unix_s).into())));
    }
    for (word, text) in [("successor", &version.successor), ("docs", &version.docs)] {
        it.extend(text.as_deref().map(|text| (word.into(), text.into())));
    }
    Value::Object(it)
}

/// The use of the versions of one route, for whoever thinks of retiring one.
pub fn usage(layer: &Layer, now: Now) -> Value {
    let report = layer.usage(now);
    let versions = report.versions.iter().map(|is| (is.name.to_string(), used(is)));
    json!({
        "since": report.since_s.map(show_time),
        "requests_7d": report.last_7_days,
        "versions": Value::Object(versions.collect()),
    })
}

/// Who is shown of each version, at most.
const SHOWN: usize = 50;

fn used(is: &VersionUsage) -> Value {
    let consumers = is.consumers.iter().take(SHOWN).map(|one| {
        let who = match &one.consumer {
            Consumer::Subject(subject) => subject.to_string(),
            Consumer::Client(network) => network.to_string(),
            _ => "anonymous".into(),
        };
        json!({"consumer": who, "requests": one.requests, "last": show_time(one.last_s)})
    });
    let percent = format!("{}.{:02} %", is.share_bp / 100, is.share_bp % 100);
    json!({
        "requests_7d": is.last_7_days,
        "share_7d": percent,
        "since": is.since_s.map(show_time),
        "safe_to_retire": is.is_safe_to_retire,
        "consumers": consumers.collect::<Vec<_>>(),
        "consumers_in_all": is.consumers.len(),
        "others": is.others,
    })
}
