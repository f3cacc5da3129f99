//! What registries say of the instances of services, as endpoints.
//!
//! # What becomes of it
//! | Of an instance | Of the endpoint |
//! | --- | --- |
//! | address and port | its address; without one that can be connected to, the instance is left out |
//! | metadata `weight`, 1 to 65535 | its weight, before what the registry itself says |
//! | metadata `capacity`, 1 to 1000000 | requests that may be under way there |
//! | other metadata, `zone`, `region` and `version` among them | labels of the same names |
//! | a tag | the label `tag.NAME`, with the value `true` |
//!
//! A number that is none is a label like any other. What is no name of a label is left out.
//!
//! # Limits
//! [`LABELS`] labels of an endpoint, the first by name; values of [`VALUE`] bytes, longer ones are left out.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Response, StatusCode, Uri, header::ACCEPT};
use naka::{BoxError, balance::Target};
use tokio::time::timeout;

use crate::{
    config::{encoded, is_host},
    control::get,
    tls::ClientTls,
    upstream::Connector,
};

/// The most labels of an endpoint.
pub const LABELS: usize = 64;

/// The longest value of a label, in bytes.
pub const VALUE: usize = 512;

/// The longest name of a label, in bytes, as for those that are written down.
const NAME: usize = 100;

/// The largest answer of a registry that is read, in bytes.
pub const MAX_ANSWER: usize = 16 << 20;

/// How long a question may take besides what the registry waits for a change.
pub(super) const QUESTION: Duration = Duration::from_secs(10);

/// What is shown of an answer that says what is wrong, in bytes.
const EXCERPT: usize = 200;

/// The instances of one service, as they are read.
#[derive(Debug, Default)]
pub(super) struct Instances {
    /// By address, each with how new it is: of two at one address the newer one counts.
    by_address: BTreeMap<Arc<str>, (u64, Target)>,
    /// How many cannot be connected to, and one of them.
    unusable: (usize, Option<String>),
}

/// An instance as a registry says it.
#[derive(Debug)]
pub(super) struct Instance<'a> {
    pub(super) id: &'a str,
    pub(super) host: &'a str,
    pub(super) port: u64,
    /// What the registry itself says.
    pub(super) weight: u64,
    pub(super) tags: &'a [String],
    pub(super) metadata: &'a BTreeMap<String, String>,
    /// The larger, the newer.
    pub(super) version: u64,
}

impl Instances {
    pub(super) fn add(&mut self, instance: &Instance<'_>) {
        let Some(address) = address(instance.host, instance.port) else {
            self.unusable.0 += 1;
            self.unusable.1.get_or_insert_with(|| shown(instance.id));
            return;
        };
        let new = (instance.version, target(&address, instance));
        match self.by_address.entry(address) {
            Entry::Vacant(place) => _ = place.insert(new),
            Entry::Occupied(mut place) if place.get().0 < new.0 => _ = place.insert(new),
            Entry::Occupied(_) => {}
        }
    }

    /// The endpoints by address, and what is amiss with some.
    pub(super) fn endpoints(self) -> (Vec<Target>, Option<String>) {
        let (count, one) = self.unusable;
        let amiss = one.map(|one| {
            format!("{count} of its instances have no address and port to connect to, such as {one:?}")
        });
        (self.by_address.into_values().map(|(_, target)| target).collect(), amiss)
    }
}

/// What can be connected to: an IP address or a name of a host, and never a socket of this machine's file system.
fn address(host: &str, port: u64) -> Option<Arc<str>> {
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return (!ip.is_unspecified()).then(|| SocketAddr::new(ip, port).to_string().into());
    }
    is_host(host).then(|| format!("{}:{port}", host.to_ascii_lowercase()).into())
}

fn target(address: &Arc<str>, instance: &Instance<'_>) -> Target {
    let number = |name: &str, most: u64| {
        let number = instance.metadata.get(name)?.trim().parse::<u64>().ok()?;
        (1..=most).contains(&number).then(|| u32::try_from(number).unwrap_or(u32::MAX))
    };
    let (weight, capacity) = (number("weight", 65_535), number("capacity", 1_000_000));
    let is_taken =
        |name: &str| name == "weight" && weight.is_some() || name == "capacity" && capacity.is_some();
    let said = instance.metadata.iter().filter(|(name, _)| !is_taken(name));
    let said = said.map(|(name, value)| (name.clone(), value.clone()));
    let tags = instance.tags.iter().map(|tag| (format!("tag.{tag}"), "true".to_owned()));
    let labels = tags.chain(said).filter(|(name, value)| is_label(name) && value.len() <= VALUE);
    let own = u32::try_from(instance.weight).unwrap_or(u32::MAX);
    let mut target = Target::new(Arc::clone(address)).weight(weight.unwrap_or(own));
    for (name, value) in labels.collect::<BTreeMap<_, _>>().iter().take(LABELS) {
        target = target.label(name, value);
    }
    match capacity {
        Some(capacity) => target.capacity(capacity),
        None => target,
    }
}

fn is_label(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=NAME).contains(&name.len()) && name.bytes().all(fits)
}

/// A question to a registry: `Ok` is an answer of any status.
pub(super) async fn question(
    url: &str,
    secret: Option<(HeaderName, HeaderValue)>,
    (tls, connector): (Option<ClientTls>, &Connector),
    patience: Duration,
) -> Result<Response<bytes::Bytes>, String> {
    let url = url.parse::<Uri>().map_err(|error| error.to_string())?;
    let accept = (ACCEPT, HeaderValue::from_static("application/json"));
    let asking = get(&url, [accept].into_iter().chain(secret), (tls, connector), MAX_ANSWER);
    let said = timeout(patience, asking).await.map_err(|_| format!("no answer within {patience:?}"))?;
    said.map_err(|error| causes(&error))
}

/// Why an answer is of no use.
pub(super) fn refused(status: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]);
    let text = shown(text.trim());
    if text.is_empty() { format!("it answers {status}") } else { format!("it answers {status}: {text}") }
}

/// Text of somebody else's, in one line.
fn shown(text: &str) -> String {
    text.chars().take(EXCERPT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An error with what has caused it.
fn causes(error: &BoxError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}"); // Never fails.
        next = cause.source();
    }
    text
}

/// As a part of a path or of a query.
pub(super) fn part(text: &str) -> String {
    text.bytes().fold(String::new(), |mut url, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            url.push(char::from(byte));
        } else {
            url.push_str(&encoded(&[byte]));
        }
        url
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(host: &str, port: u64, metadata: &[(&str, &str)], tags: &[&str]) -> Option<Target> {
        let metadata = metadata.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let tags = tags.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut all = Instances::default();
        let instance =
            Instance { id: "one", host, port, weight: 1, tags: &tags, metadata: &metadata, version: 1 };
        all.add(&instance);
        all.endpoints().0.pop()
    }

    #[test]
    fn an_address_is_what_can_be_connected_to_and_nothing_else() {
        for (host, port, expected) in [
            ("10.0.0.1", 80, Some("10.0.0.1:80")),
            ("fd00::1", 80, Some("[fd00::1]:80")),
            ("[fd00::1]", 80, Some("[fd00::1]:80")),
            ("App-1.internal", 8080, Some("app-1.internal:8080")),
            ("", 80, None),
            ("0.0.0.0", 80, None),
            ("10.0.0.1", 0, None),
            ("10.0.0.1", 65_536, None),
            ("unix:/run/other.sock", 80, None),
            ("10.0.0.1:81", 80, None),
            ("user@app", 80, None),
        ] {
            let read = read(host, port, &[], &[]);
            assert_eq!(read.as_ref().map(|it| &*it.address), expected, "{host} {port}");
        }
    }

    #[test]
    fn r1_4_metadata_is_weight_capacity_and_labels_within_bounds() {
        let long = "x".repeat(VALUE + 1);
        let metadata = [
            ("weight", "7"),
            ("capacity", "50"),
            ("zone", "mumbai-1"),
            ("no label", "x"),
            ("long", &long),
            ("", "x"),
        ];
        let it = read("10.0.0.1", 80, &metadata, &["primary", "a b"]).unwrap();
        assert_eq!((it.weight, it.capacity), (7, Some(50)));
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(it.labels, [label("tag.primary", "true"), label("zone", "mumbai-1")]);
        // What is no number is a label, and the registry's own weight counts.
        let it = read("10.0.0.1", 80, &[("weight", "heavy"), ("capacity", "0")], &[]).unwrap();
        assert_eq!((it.weight, it.capacity), (1, None));
        assert_eq!(it.labels, [label("capacity", "0"), label("weight", "heavy")]);
        let many = (0..100).map(|number| format!("l{number:03}")).collect::<Vec<_>>();
        let many = many.iter().map(|name| (&**name, "x")).collect::<Vec<_>>();
        assert_eq!(read("10.0.0.1", 80, &many, &[]).unwrap().labels.len(), LABELS);
    }

    #[test]
    fn of_two_at_one_address_the_newer_one_counts_whatever_their_order() {
        let metadata = |version: &str| BTreeMap::from([("version".to_owned(), version.to_owned())]);
        let (old, new) = (metadata("old"), metadata("new"));
        let instance = |version, metadata| Instance {
            id: "one",
            host: "10.0.0.1",
            port: 80,
            weight: 1,
            tags: &[],
            metadata,
            version,
        };
        for order in [[(1, &old), (2, &new)], [(2, &new), (1, &old)]] {
            let mut all = Instances::default();
            for (version, metadata) in order {
                all.add(&instance(version, metadata));
            }
            let (endpoints, amiss) = all.endpoints();
            assert_eq!((endpoints.len(), endpoints[0].label_value("version")), (1, Some("new")));
            assert_eq!(amiss, None);
        }
    }

    #[test]
    fn what_others_say_is_shown_in_one_short_line() {
        let said = refused(StatusCode::FORBIDDEN, b"ACL not found\n\x1b[31m");
        assert_eq!(said, "it answers 403 Forbidden: ACL not found  [31m");
        assert_eq!(refused(StatusCode::FORBIDDEN, b""), "it answers 403 Forbidden");
        assert!(refused(StatusCode::FORBIDDEN, &[b'x'; 4096]).len() < 300);
        assert_eq!(part("a b/ä"), "a%20b%2F%C3%A4");
    }
}
