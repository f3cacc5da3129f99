//! Stores of accounts that several gateways share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use naka::key::KeySecret;

use super::auth;
use crate::config::{
    checked::{Name, Policy, PolicyKind, Store},
    decode::{At, Cx},
    diagnostic::Code,
    node::Span,
    raw::{RawFile, RawStore},
    suggest::{nearest, one_of},
    values::Id,
};

/// The least bytes of a secret.
const SECRET: usize = 16;
/// How long a request may wait.
const TIMEOUTS: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(5)];
/// The most stores.
const MAX_STORES: usize = 8;

/// Those under `gateway.stores`.
#[derive(Debug, Default)]
pub(super) struct Stores {
    pub(super) checked: BTreeMap<Name, Arc<Store>>,
    /// Where each stands, also those with which something is wrong.
    places: BTreeMap<Name, Span>,
    /// Something could not be read: that a name is missing proves nothing.
    is_incomplete: bool,
}

pub(super) fn stores(entry: Option<&RawFile>, cx: &mut Cx) -> Stores {
    let mut stores = Stores { is_incomplete: entry.is_none(), ..Stores::default() };
    let Some(entry) = entry else { return stores };
    let Some(gateway) = &entry.gateway else {
        stores.is_incomplete = entry.said("gateway").is_some();
        return stores;
    };
    let Some(named) = &gateway.value.stores else {
        stores.is_incomplete = gateway.value.said("stores").is_some();
        return stores;
    };
    stores.is_incomplete = !named.value.1;
    if cfg!(not(feature = "redis")) {
        cx.error(Code::NotBuilt, named.key, "this gateway was built without the feature `redis`")
            .help("build it with the feature, or take `shared` away: then each gateway counts for itself");
    }
    if let Some((name, _)) = named.value.0.get(MAX_STORES) {
        cx.error(Code::Value, name.span, format!("more than {MAX_STORES} stores"))
            .help("one store has the accounts of all limits");
    }
    for (name, raw) in &named.value.0 {
        if let Some(first) = stores.places.insert(Arc::clone(&name.value.0), name.span) {
            let first = cx.place(first);
            cx.error(Code::Duplicate, name.span, format!("the store `{}` twice", name.value))
                .related(first, "the first")
                .help("take one of them away");
        }
        if let Some(store) = raw.as_ref().and_then(|raw| store(raw, cx)) {
            stores.checked.insert(Arc::clone(&name.value.0), Arc::new(store));
        }
    }
    stores
}

fn store(raw: &RawStore, cx: &mut Cx) -> Option<Store> {
    let at = raw.redis.as_ref()?;
    if let Some(password) =
        raw.password.as_ref().filter(|_| !auth::is_loopback(&format!("redis://{}", at.value.authority())))
    {
        let place = cx.place(at.span);
        cx.error(Code::Exposed, password.key, "the password is sent without encryption")
            .warning()
            .related(place, "there")
            .help("keep Redis in a network of its own, or reach it through a tunnel on this machine");
    }
    if let Some(username) = raw.username.as_ref().filter(|_| raw.said("password").is_none()) {
        cx.error(Code::Missing, username.key, "a user without a password")
            .help("add `password: {env: REDIS_PASSWORD}`");
    }
    if let Some(timeout) = raw.timeout.as_ref().filter(|at| !(TIMEOUTS[0]..=TIMEOUTS[1]).contains(&at.value))
    {
        cx.error(
            Code::Value,
            timeout.span,
            "a request waits for a store for 1 ms at least, and for 5 s at most",
        )
        .help("write `timeout: 50ms`");
    }
    let password = match &raw.password {
        Some(password) => Some(auth::secret(password, cx)?),
        None => None,
    };
    Some(Store {
        host: Arc::clone(&at.value.host),
        port: at.value.port,
        database: at.value.database,
        username: raw.username.as_ref().map(|at| Arc::clone(&at.value)),
        password,
        secret: secret(raw, cx)?,
        timeout: raw.timeout(),
    })
}

/// Of whatever length it is.
fn secret(raw: &RawStore, cx: &mut Cx) -> Option<KeySecret> {
    let at = raw.secret.as_ref()?;
    let secret = auth::secret(at, cx)?;
    if secret.bytes().len() < SECRET {
        cx.error(Code::Value, at.span, format!("a secret of less than {SECRET} bytes can be guessed"))
            .help("make one: `openssl rand -hex 32`");
        return None;
    }
    let digest = digest(&SHA256, secret.bytes());
    Some(KeySecret::new(*digest.as_ref().first_chunk()?))
}

impl Stores {
    /// The one of this name.
    pub(super) fn find(&self, name: &At<Id>, cx: &mut Cx) -> Option<Arc<Store>> {
        if let Some(store) = self.checked.get(&name.value.0) {
            return Some(Arc::clone(store));
        }
        if !self.is_incomplete && !self.places.contains_key(&name.value.0) {
            let names = || self.places.keys().map(|name| &**name);
            let help = match nearest(&name.value.0, names()) {
                Some(meant) => format!("write `{meant}`"),
                None if self.places.is_empty() => "add `gateway: {stores: {limits: {redis: \"redis://127.0.0.1:6379/0\", secret: {env: NAKA_LIMITS_SECRET}}}}`".to_owned(),
                None => format!("the stores are {}", one_of(names())),
            };
            cx.error(Code::UnknownName, name.span, format!("there is no store `{}`", name.value)).help(help);
        }
        None
    }

    /// Says which of them nobody asks.
    pub(super) fn unused(&self, policies: &BTreeMap<Name, Policy>, cx: &mut Cx) {
        let is_asked = |name: &Name| {
            policies.values().any(|policy| match &policy.kind {
                PolicyKind::RateLimit(limit) => limit.shared.as_ref().is_some_and(|it| it.name == *name),
                _ => false,
            })
        };
        for (name, span) in self.places.iter().filter(|(name, _)| !is_asked(name)) {
            cx.error(Code::Unused, *span, format!("nobody asks the store `{name}`"))
                .warning()
                .help("write `shared: {store: …, share: 34%}` into a rate limit, or take the store away");
        }
    }
}
