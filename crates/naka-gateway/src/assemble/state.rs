//! The state of a generation, from the state of the one before.

use std::{collections::BTreeMap, sync::Arc};

use naka::{
    balance::BalanceLayer,
    basic_auth::BasicAuthLayer,
    forward_auth::ForwardAuthLayer,
    jwt::{JwtLayer, KeySet, Keys, KeysError},
    version::VersionLayer,
};

use super::{
    Surroundings, Wrong,
    convert::{
        basic_auth_config, bulkhead_layer, bulkhead_reconfigured, fetch_config, forward_auth_config,
        jwt_config, rate_limit_layer, rate_limit_reconfigured, versioning,
    },
    upstream_of,
};
use crate::{
    carry::{Carried, Change, Steps},
    config::checked::{
        Config, Destination, Fetch, Jwt, JwtKeys, Name, Policy, PolicyKind, Scope, Upstream, Versions,
    },
    control::{AskAuthority, FetchKeys},
    observe::PolicyMetrics,
    state::{Authorities, Fetching, Passwords, State, Tokens},
    upstream::Pool,
};

/// Goes from the state of the generation before to that of this one.
///
/// # Errors
/// What is wrong with keys.
pub(super) fn carry(
    config: &Config,
    before: &State,
    around: &Surroundings<'_>,
    report: &mut Vec<Change>,
) -> Result<State, Vec<Wrong>> {
    let (mut rate_limits, mut bulkheads) = (BTreeMap::new(), BTreeMap::new());
    for (identity, name) in uses(config) {
        let policy = &config.policies[&name];
        match &policy.kind {
            PolicyKind::RateLimit(limit) => {
                rate_limits.insert(identity, (limit.clone(), policy.enforce));
            }
            PolicyKind::Bulkhead(bulkhead) => {
                bulkheads.insert(identity, (bulkhead.clone(), policy.enforce));
            }
            _ => {}
        }
    }
    let rate_limits = before.rate_limits.next(
        rate_limits,
        around.now,
        report,
        &Steps {
            make: &|identity, (limit, enforce)| {
                rate_limit_layer(limit, *enforce, around.metrics.policy(identity)).named(identity)
            },
            change: &|layer, (limit, enforce)| rate_limit_reconfigured(layer, limit, *enforce),
            // What was counted by another key is found by nobody, and only fills the table.
            is_same: &|(old, _), (new, _)| old.key == new.key,
        },
    );
    let bulkheads = before.bulkheads.next(
        bulkheads,
        around.now,
        report,
        &Steps {
            make: &|identity, (bulkhead, enforce)| {
                bulkhead_layer(bulkhead, *enforce, around.metrics.policy(identity)).named(identity)
            },
            change: &|layer, (bulkhead, enforce)| bulkhead_reconfigured(layer, bulkhead, *enforce),
            // What a request is counted by is made with the layer.
            is_same: &|(old, _), (new, _)| old.is_partitioned_as(new),
        },
    );
    let tokens = tokens(config, before, around, report)?;
    let passwords = passwords(config, before, around, report)?;
    let authorities = authorities(config, before, around, report);
    let versions = versions(config, before, around, report)?;
    let addresses = |upstream: &Upstream| {
        upstream.endpoints.iter().map(|endpoint| Arc::clone(&endpoint.address)).collect::<Vec<_>>()
    };
    let upstreams =
        || config.upstreams.iter().map(|(name, upstream)| (Arc::clone(name), addresses(upstream)));
    let balancers = before.balancers.next(
        upstreams().collect(),
        around.now,
        report,
        &Steps {
            make: &|_, addresses| BalanceLayer::new(addresses.iter().map(|address| &**address)),
            change: &|layer, addresses| layer.reconfigured(addresses.iter().map(|address| &**address)),
            is_same: &|_, _| true,
        },
    );
    let pools = before.pools.iter().enumerate().map(|(worker, pools)| {
        let wanted = upstreams().flat_map(|(upstream, addresses)| {
            addresses.into_iter().map(move |address| (pool_identity(&upstream, &address), ()))
        });
        let mut of_this_worker = Vec::new();
        let pools = pools.next(
            wanted.collect(),
            around.now,
            &mut of_this_worker,
            &Steps {
                make: &|identity, ()| Arc::new(Pool::new(&pool_address(identity))),
                change: &|pool, ()| Arc::clone(pool),
                is_same: &|(), ()| true,
            },
        );
        if worker == 0 {
            report.append(&mut of_this_worker); // All workers have the same.
        }
        pools
    });
    let pools = pools.collect();
    Ok(State { rate_limits, bulkheads, tokens, passwords, authorities, versions, balancers, pools })
}

/// Whoever verifies tokens: keys, and what they have verified, belong to the policy.
fn tokens(
    config: &Config,
    before: &State,
    around: &Surroundings<'_>,
    report: &mut Vec<Change>,
) -> Result<Carried<Jwt, Tokens>, Vec<Wrong>> {
    let (mut wanted, mut wrong, mut sets) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for (name, policy) in &config.policies {
        let PolicyKind::Jwt(jwt) = &policy.kind else { continue };
        match Source::of(&jwt.keys) {
            Ok(source) => _ = sets.insert(Arc::clone(name), source),
            Err(error) => wrong.push(Wrong::Policy { name: Arc::clone(name), error: error.to_string() }),
        }
        wanted.insert(Arc::clone(name), jwt.clone());
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(before.tokens.next(
        wanted,
        around.now,
        report,
        &Steps {
            make: &|name, jwt| {
                let (keys, fetching) = match &sets[name] {
                    Source::Set(set) => (Keys::fixed(set.clone()), None),
                    Source::Url(url, fetch) => {
                        let service = FetchKeys::new(Arc::clone(url), around.connector.clone());
                        let (keys, driver) = Keys::fetched(service, fetch_config(fetch));
                        (keys, Some(Fetching::new(driver)))
                    }
                };
                let metrics = around.metrics.policy(name);
                Tokens { layer: JwtLayer::observed(jwt_config(jwt), keys, metrics).named(name), fetching }
            },
            change: &|tokens, jwt| Tokens {
                layer: tokens.layer.reconfigured(&jwt_config(jwt)),
                fetching: tokens.fetching.clone(),
            },
            is_same: &|old, new| old.keys == new.keys,
        },
    ))
}

/// Whoever checks passwords.
fn passwords(
    config: &Config,
    before: &State,
    around: &Surroundings<'_>,
    report: &mut Vec<Change>,
) -> Result<Passwords, Vec<Wrong>> {
    let (mut wanted, mut wrong, mut configs) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for (name, policy) in &config.policies {
        let PolicyKind::BasicAuth(basic_auth) = &policy.kind else { continue };
        match basic_auth_config(basic_auth) {
            Ok(config) => _ = configs.insert(Arc::clone(name), config),
            Err(error) => wrong.push(Wrong::Policy { name: Arc::clone(name), error }),
        }
        wanted.insert(Arc::clone(name), (Arc::clone(name), basic_auth.clone()));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(before.passwords.next(
        wanted,
        around.now,
        report,
        &Steps {
            make: &|name, _| {
                BasicAuthLayer::observed(configs[name].clone(), around.metrics.policy(name)).named(name)
            },
            change: &|layer, (name, _)| layer.reconfigured(&configs[name]),
            // The bound on checks is made with the layer.
            is_same: &|(_, old), (_, new)| old.max_checks == new.max_checks,
        },
    ))
}

/// Whoever asks other services.
fn authorities(
    config: &Config,
    before: &State,
    around: &Surroundings<'_>,
    report: &mut Vec<Change>,
) -> Authorities {
    let wanted = config.policies.iter().filter_map(|(name, policy)| match &policy.kind {
        PolicyKind::ForwardAuth(forward_auth) => Some((Arc::clone(name), forward_auth.clone())),
        _ => None,
    });
    before.authorities.next(
        wanted.collect(),
        around.now,
        report,
        &Steps {
            make: &|name, policy| {
                let authority = AskAuthority::new(name, &policy.address, around.connector.clone());
                let metrics = around.metrics.policy(name);
                ForwardAuthLayer::observed(forward_auth_config(policy), authority, metrics).named(name)
            },
            change: &|layer, policy| layer.reconfigured(&forward_auth_config(policy)),
            is_same: &|old, new| old.address == new.address,
        },
    )
}

/// Whoever finds versions.
fn versions(
    config: &Config,
    before: &State,
    around: &Surroundings<'_>,
    report: &mut Vec<Change>,
) -> Result<Carried<Versions, VersionLayer<Arc<PolicyMetrics>>>, Vec<Wrong>> {
    let (mut wanted, mut wrong, mut checked) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for (route, is) in &config.routes {
        let Destination::Versions(versions) = &is.destination else { continue };
        match versioning(versions) {
            Ok(versioning) => _ = checked.insert(Arc::clone(route), versioning),
            Err(error) => wrong.push(Wrong::Route { name: Arc::clone(route), error: error.to_string() }),
        }
        wanted.insert(Arc::clone(route), (**versions).clone());
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(before.versions.next(
        wanted,
        around.now,
        report,
        &Steps {
            make: &|route, _| {
                let metrics = around.metrics.policy(route);
                VersionLayer::observed(checked[route].clone(), metrics).named(route)
            },
            change: &|layer, versions| match versioning(versions) {
                Ok(versioning) => layer.reconfigured(&versioning),
                Err(_) => layer.clone(), // It was checked above.
            },
            is_same: &|_, _| true,
        },
    ))
}

/// Where keys come from, once they have been read.
enum Source {
    Set(KeySet),
    Url(Arc<str>, Fetch),
}

impl Source {
    fn of(keys: &JwtKeys) -> Result<Self, KeysError> {
        match keys {
            JwtKeys::Set(json) => KeySet::from_jwks(json.bytes()).map(Self::Set),
            JwtKeys::Secret(secret) => KeySet::from_secret(None, secret.bytes()).map(Self::Set),
            JwtKeys::Url(url, fetch) => Ok(Self::Url(Arc::clone(url), *fetch)),
        }
    }
}

/// Every account that policies need: its identity, and its policy.
fn uses(config: &Config) -> Vec<(Arc<str>, Name)> {
    let mut all = Vec::new();
    let mut add = |place: Place<'_>, policy: &Name| {
        all.push((place.identity(policy, &config.policies[policy]), Arc::clone(policy)));
    };
    for (route, is) in &config.routes {
        let place = Place { route: Some(route), upstream: upstream_of(is) };
        is.policies.iter().for_each(|policy| add(place, policy));
        let Destination::Versions(versions) = &is.destination else { continue };
        for version in &versions.of {
            let place = Place { route: Some(route), upstream: Some(&version.upstream) };
            version.rate_limit.iter().for_each(|policy| add(place, policy));
        }
    }
    for (upstream, is) in &config.upstreams {
        let place = Place { route: None, upstream: Some(upstream) };
        is.bulkhead.iter().for_each(|policy| add(place, policy));
    }
    all
}

/// Where a policy is used.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) route: Option<&'a Name>,
    pub(super) upstream: Option<&'a Name>,
}

impl Place<'_> {
    /// The identity of the account a policy has here.
    pub(super) fn identity(self, name: &Name, policy: &Policy) -> Arc<str> {
        match (policy.scope, self.route, self.upstream) {
            (Scope::Route, Some(route), _) => format!("{name}@route:{route}").into(),
            (Scope::Upstream, _, Some(upstream)) => format!("{name}@upstream:{upstream}").into(),
            _ => Arc::clone(name),
        }
    }
}

pub(super) fn pool_identity(upstream: &Name, address: &Arc<str>) -> Arc<str> {
    format!("{upstream} {address}").into()
}

/// Names have no spaces, and neither have addresses.
fn pool_address(identity: &str) -> Arc<str> {
    identity.rsplit(' ').next().unwrap_or_default().into()
}
