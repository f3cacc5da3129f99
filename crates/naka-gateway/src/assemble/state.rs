//! The state of a generation, from the state of the one before.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use http::{HeaderName, Request, Response};
use naka::{
    basic_auth::BasicAuthLayer,
    cache::CacheLayer,
    circuit_breaker::EndpointBreakers,
    clock::Now,
    context::ApiVersion,
    deadline::GRPC_TIMEOUT,
    fault::FaultLayer,
    forward_auth::ForwardAuthLayer,
    health::Health,
    hedge::Latencies,
    idempotency::{IdempotencyLayer, Scope as KeyScope, by_caller},
    jwt::{Algorithm, JwtLayer, KeyDriver, KeySet, Keys, KeysError},
    mirror::MirrorLayer,
    reject::{Head, Reason, Rejection},
    retry::Budget,
    split::SplitLayer,
    version::VersionLayer,
};
use tower_service::Service;

use super::{
    Surroundings, Wrong,
    convert::{
        balance_config, basic_auth_config, budget_config, bulkhead_layer, bulkhead_reconfigured,
        cache_config, circuit_breaker_config, circuit_breaker_layer, cors_rules, fault_config, fetch_config,
        forward_auth_config, hash_of, health_config, idempotency_config, jwt_config, mirror_config,
        rate_limit_layer, rate_limit_reconfigured, region_of, split_keyed, splitting, target, text_of,
        versioning,
    },
    upstream_of,
};
use crate::{
    acme::{Automatic, Means},
    carry::{Carried, Change, Steps},
    config::checked::{
        self, AccessLog, Acme, BasicAuth, Bulkhead, Cache, CircuitBreaker, Config, Destination, Enforce,
        Fault, Fetch, ForwardAuth, HealthCheck, Idempotency, Jwt, JwtKeys, Kind, Mirror, Name, Otlp, Policy,
        PolicyKind, RateLimit, RetryBudget, Scope, Split, Store, Upstream, Versions,
    },
    control::{AskAuthority, FetchKeys, TellKeys},
    custom::{Custom, Made},
    discover::Discovery,
    observe::{Balancer, EndpointMetrics, PolicyMetrics},
    probe::Probe,
    stack::Leaf,
    state::{
        Answering, Authorities, Background, Balancers, Balancing, Breakers, BreakersOfEndpoints, Breaking,
        Bulkheads, Caches, Checks, Customs, Discoveries, Endpoints, HealthChecks, Kept, Passwords,
        RateLimits, Speaking, Splits, State, Stores, Tokens, breakers_name, fallback_name, latencies_name,
        versions_name,
    },
    stores::Stored,
    telemetry::{export::Exporting, log::Log},
    tls::{Clients, Tickets},
    transform::Matched,
    upstream::{Body, Pools, UpstreamPlaces},
};

/// Goes from the state of the generation before to that of this one.
///
/// # Errors
/// What is wrong with keys, passwords, versions and splits.
pub(super) fn carry(
    config: &Config,
    before: &State,
    around: &Surroundings<'_>,
    report: &mut Vec<Change>,
) -> Result<State, Vec<Wrong>> {
    none_of(wrong_cors(config))?;
    let mut step = Step { config, before, around, report, uses: uses(config) };
    let places = step.places();
    let endpoint_breakers = step.endpoint_breakers();
    let stores = step.stores();
    let balancers = step.balancers(&endpoint_breakers);
    Ok(State {
        rate_limits: step.rate_limits(&stores),
        stores,
        bulkheads: step.bulkheads(),
        tokens: step.tokens()?,
        passwords: step.passwords()?,
        authorities: step.authorities(),
        idempotency: step.idempotency(),
        breakers: step.breakers(),
        faults: step.faults(),
        caches: step.caches(),
        mirrors: step.mirrors(),
        customs: step.customs(),
        versions: step.versions()?,
        splits: step.splits()?,
        checks: step.checks(&balancers),
        discoveries: step.discoveries(),
        balancers,
        endpoint_breakers,
        latencies: step.latencies(),
        retry_budgets: step.retry_budgets(),
        pools: step.pools(&places),
        tickets: step.tickets(),
        certificates: step.certificates(),
        exporters: step.exporters(),
        logs: step.logs(),
        places,
        all_places: Arc::clone(&before.all_places),
        held: before.held.with_max(config.gateway.limits.buffered),
    })
}

/// From one generation to the next.
struct Step<'a> {
    config: &'a Config,
    before: &'a State,
    around: &'a Surroundings<'a>,
    report: &'a mut Vec<Change>,
    /// Every account that policies need: its identity, and its policy.
    uses: BTreeMap<Arc<str>, Name>,
}

impl Step<'_> {
    /// The accounts that policies of one sort need.
    fn accounts<C>(&self, of: impl Fn(&Policy) -> Option<C>) -> BTreeMap<Arc<str>, C> {
        let all = self.uses.iter();
        all.filter_map(|(identity, name)| Some((Arc::clone(identity), of(&self.config.policies[name])?)))
            .collect()
    }

    /// Goes on with one kind of state.
    fn next<C: Clone + PartialEq, H: Clone>(
        &mut self,
        before: &Carried<C, H>,
        wanted: BTreeMap<Arc<str>, C>,
        steps: &Steps<'_, C, H>,
    ) -> Carried<C, H> {
        before.next(wanted, self.around.now, self.report, steps)
    }

    /// Whoever is asked for what several gateways share: the same as long as it is the same place.
    fn stores(&mut self) -> Stores {
        let (metrics, in_memory) = (self.around.metrics, self.around.reach.in_memory);
        let steps = Steps {
            make: &|name, store: &Arc<Store>| Stored::new(name, store, in_memory, metrics.store(name)),
            change: &|stored: &Stored, _| stored.clone(),
            is_same: &|old, new| old == new,
        };
        let wanted = self.config.gateway.stores.clone();
        self.next(&self.before.stores, wanted, &steps)
    }

    fn rate_limits(&mut self, stores: &Stores) -> RateLimits {
        let (metrics, wanted) = (
            self.around.metrics,
            self.accounts(|policy| match &policy.kind {
                PolicyKind::RateLimit(limit) => Some((limit.clone(), policy.enforce)),
                _ => None,
            }),
        );
        let steps = Steps {
            make: &|identity, (limit, enforce): &(RateLimit, Enforce)| {
                rate_limit_layer(limit, *enforce, stores, metrics.policy(identity)).named(identity)
            },
            change: &|layer, (limit, enforce)| rate_limit_reconfigured(layer, limit, *enforce, stores),
            // What was counted by another key is found by nobody, and only fills the table.
            is_same: &|(old, _), (new, _)| old.key == new.key && old.secret() == new.secret(),
        };
        self.next(&self.before.rate_limits, wanted, &steps)
    }

    fn bulkheads(&mut self) -> Bulkheads {
        let (metrics, wanted) = (
            self.around.metrics,
            self.accounts(|policy| match &policy.kind {
                PolicyKind::Bulkhead(bulkhead) => Some((bulkhead.clone(), policy.enforce)),
                _ => None,
            }),
        );
        let steps = Steps {
            make: &|identity, (bulkhead, enforce): &(Bulkhead, Enforce)| {
                bulkhead_layer(bulkhead, *enforce, metrics.bulkhead(identity)).named(identity)
            },
            change: &|layer, (bulkhead, enforce)| bulkhead_reconfigured(layer, bulkhead, *enforce),
            // What a request is counted by is made with the layer.
            is_same: &|(old, _), (new, _)| old.is_partitioned_as(new),
        };
        self.next(&self.before.bulkheads, wanted, &steps)
    }

    /// Whoever does nothing twice.
    fn idempotency(&mut self) -> Carried<Idempotency, Kept> {
        let (metrics, wanted) = (
            self.around.metrics,
            self.accounts(|policy| match &policy.kind {
                PolicyKind::Idempotency(policy) => Some(policy.clone()),
                _ => None,
            }),
        );
        let steps = Steps {
            make: &|identity, policy: &Idempotency| {
                let (config, metrics) = (idempotency_config(policy), metrics.policy(identity));
                let layer = IdempotencyLayer::observed(config, by_destination, metrics);
                Kept { layer: layer.named(identity), ttl: policy.ttl }
            },
            change: &|kept, policy| Kept {
                layer: kept.layer.reconfigured(&idempotency_config(policy)),
                ttl: kept.ttl.max(policy.ttl),
            },
            is_same: &|_, _| true,
        };
        self.next(&self.before.idempotency, wanted, &steps)
    }

    fn breakers(&mut self) -> Breakers {
        let (metrics, wanted) = (
            self.around.metrics,
            self.accounts(|policy| match &policy.kind {
                PolicyKind::CircuitBreaker(breaker) => Some((breaker.clone(), policy.enforce)),
                _ => None,
            }),
        );
        let steps = Steps {
            make: &|identity, (breaker, enforce): &(CircuitBreaker, Enforce)| {
                circuit_breaker_layer(breaker, *enforce, metrics.breaker(identity)).named(identity)
            },
            change: &|layer, (breaker, enforce)| {
                layer.reconfigured(&circuit_breaker_config(breaker, *enforce))
            },
            // What a request is counted by is made with the layer.
            is_same: &|(old, _), (new, _)| old.key == new.key,
        };
        self.next(&self.before.breakers, wanted, &steps)
    }

    fn faults(&mut self) -> Carried<Fault, FaultLayer<Arc<PolicyMetrics>>> {
        let (metrics, wanted) = (
            self.around.metrics,
            self.accounts(|policy| match &policy.kind {
                PolicyKind::Fault(fault) => Some(fault.clone()),
                _ => None,
            }),
        );
        let steps = Steps {
            make: &|identity, fault: &Fault| {
                FaultLayer::observed(fault_config(fault), metrics.policy(identity)).named(identity)
            },
            change: &|layer, fault| layer.reconfigured(&fault_config(fault)),
            is_same: &|_, _| true,
        };
        self.next(&self.before.faults, wanted, &steps)
    }

    /// Policies of one's own.
    fn customs(&mut self) -> Customs {
        let wanted = self.accounts(|policy| match &policy.kind {
            PolicyKind::Custom(custom) => Some(custom.clone()),
            _ => None,
        });
        let steps = Steps {
            make: &|name, custom: &Custom| custom.make(name, None),
            change: &|made: &Made, custom| custom.make(&made.name, Some(made)),
            is_same: &|old, new| old.kind == new.kind,
        };
        self.next(&self.before.customs, wanted, &steps)
    }

    /// What was answered, of each route for itself.
    fn caches(&mut self) -> Caches {
        let (config, metrics) = (self.config, self.around.metrics);
        let of_identity = config.gateway.identity_headers.iter().map(|(name, _)| name.clone());
        let of_time = config.gateway.deadline_header.iter().cloned().chain([GRPC_TIMEOUT]);
        let written = of_identity.chain(of_time).collect::<Vec<_>>();
        let wanted = config.routes.iter().filter_map(|(name, route)| {
            let policy = route.policies.one(Kind::Cache)?;
            let PolicyKind::Cache(cache) = config.policies[policy].kind else { return None };
            let here = Place { route: Some(name), upstream: upstream_of(route) };
            let answering = Answering {
                path: format!("{:?}", route.matches.path),
                destination: route.destination.clone(),
                rewrite: route.rewrite.clone(),
                headers: route.headers.clone(),
                written: written.clone(),
            };
            Some((here.identity(policy, &config.policies[policy]), (cache, answering)))
        });
        let wanted = wanted.collect();
        let steps = Steps {
            make: &|identity, (cache, answering): &(Cache, Answering)| {
                let layer = CacheLayer::observed(cache_config(cache), metrics.policy(identity));
                layer.written_behind(written_behind(answering)).named(identity)
            },
            change: &|layer, (cache, _)| layer.reconfigured(cache_config(cache)),
            is_same: &|(_, old), (_, new)| old == new,
        };
        self.next(&self.before.caches, wanted, &steps)
    }

    /// Copies under way; where they go, each worker knows of each route.
    fn mirrors(&mut self) -> Carried<Mirror, MirrorLayer<Arc<PolicyMetrics>>> {
        let (metrics, wanted) = (
            self.around.metrics,
            self.accounts(|policy| match &policy.kind {
                PolicyKind::Mirror(mirror) => Some(mirror.clone()),
                _ => None,
            }),
        );
        let steps = Steps {
            make: &|identity, mirror: &Mirror| {
                MirrorLayer::observed(mirror_config(mirror), nowhere(), metrics.policy(identity))
                    .named(identity)
            },
            change: &|layer, mirror| layer.reconfigured(mirror_config(mirror)),
            is_same: &|_, _| true,
        };
        self.next(&self.before.mirrors, wanted, &steps)
    }

    /// Whoever verifies tokens: keys, and what they have verified, belong to the policy.
    fn tokens(&mut self) -> Result<Carried<Jwt, Tokens>, Vec<Wrong>> {
        let (mut wanted, mut sources) = (BTreeMap::new(), BTreeMap::new());
        let mut wrong = Vec::new();
        for (name, policy) in &self.config.policies {
            let PolicyKind::Jwt(jwt) = &policy.kind else { continue };
            match Source::of(&jwt.keys).map_err(|error| error.to_string()).and_then(|it| it.used_by(jwt)) {
                Ok(source) => _ = sources.insert(Arc::clone(name), source),
                Err(error) => wrong.push(Wrong::Policy { name: Arc::clone(name), error }),
            }
            wanted.insert(Arc::clone(name), jwt.clone());
        }
        none_of(wrong)?;
        let around = self.around;
        let steps = Steps {
            make: &|name, jwt: &Jwt| {
                let (keys, fetching) = sources[name].keys(name, around);
                let metrics = around.metrics.policy(name);
                let layer = JwtLayer::observed(jwt_config(jwt), keys, metrics).named(name);
                Tokens { policy: Arc::clone(name), layer, fetching, source: jwt.keys.clone() }
            },
            change: &|tokens, jwt| {
                let tokens = refetched(tokens, &jwt.keys, around);
                Tokens { layer: tokens.layer.reconfigured(&jwt_config(jwt)), ..tokens }
            },
            // How keys are fetched is no part of which they are.
            is_same: &|old, new| is_same_source(&old.keys, &new.keys),
        };
        Ok(self.next(&self.before.tokens, wanted, &steps))
    }

    /// Whoever checks passwords.
    fn passwords(&mut self) -> Result<Passwords, Vec<Wrong>> {
        let (mut wanted, mut configs) = (BTreeMap::new(), BTreeMap::new());
        let mut wrong = Vec::new();
        for (name, policy) in &self.config.policies {
            let PolicyKind::BasicAuth(basic_auth) = &policy.kind else { continue };
            match basic_auth_config(basic_auth) {
                Ok(config) => _ = configs.insert(Arc::clone(name), config),
                Err(error) => wrong.push(Wrong::Policy { name: Arc::clone(name), error }),
            }
            wanted.insert(Arc::clone(name), (Arc::clone(name), basic_auth.clone()));
        }
        none_of(wrong)?;
        let metrics = self.around.metrics;
        let steps = Steps {
            make: &|name, _: &(Name, BasicAuth)| {
                BasicAuthLayer::observed(configs[name].clone(), metrics.policy(name)).named(name)
            },
            change: &|layer, (name, _)| layer.reconfigured(&configs[name]),
            // The bound on checks is made with the layer.
            is_same: &|(_, old), (_, new)| old.max_checks == new.max_checks,
        };
        Ok(self.next(&self.before.passwords, wanted, &steps))
    }

    /// Whoever asks other services.
    fn authorities(&mut self) -> Authorities {
        let wanted = self.config.policies.iter().filter_map(|(name, policy)| match &policy.kind {
            PolicyKind::ForwardAuth(forward_auth) => Some((Arc::clone(name), forward_auth.clone())),
            _ => None,
        });
        let (wanted, around) = (wanted.collect(), self.around);
        let steps = Steps {
            make: &|name, policy: &ForwardAuth| {
                let authority =
                    AskAuthority::new(name, &policy.address, policy.tls.clone(), around.connector.clone());
                let metrics = around.metrics.policy(name);
                ForwardAuthLayer::observed(forward_auth_config(policy), authority, metrics).named(name)
            },
            change: &|layer, policy| layer.reconfigured(&forward_auth_config(policy)),
            is_same: &|old, new| old.address == new.address,
        };
        self.next(&self.before.authorities, wanted, &steps)
    }

    /// Whoever finds versions.
    fn versions(&mut self) -> Result<Carried<Versions, VersionLayer<Arc<PolicyMetrics>>>, Vec<Wrong>> {
        let (mut wanted, mut checked) = (BTreeMap::new(), BTreeMap::new());
        let mut wrong = Vec::new();
        for (route, is) in &self.config.routes {
            let Destination::Versions(versions) = &is.destination else { continue };
            match versioning(versions) {
                Ok(versioning) => _ = checked.insert(Arc::clone(route), versioning),
                Err(error) => wrong.push(Wrong::Route { name: Arc::clone(route), error: error.to_string() }),
            }
            wanted.insert(Arc::clone(route), (**versions).clone());
        }
        none_of(wrong)?;
        let metrics = self.around.metrics;
        let steps = Steps {
            make: &|route, _: &Versions| {
                let name = versions_name(route);
                VersionLayer::observed(checked[route].clone(), metrics.policy(&name)).named(&name)
            },
            change: &|layer, versions| match versioning(versions) {
                Ok(versioning) => layer.reconfigured(&versioning),
                Err(_) => layer.clone(), // It was checked above.
            },
            is_same: &|_, _| true,
        };
        Ok(self.next(&self.before.versions, wanted, &steps))
    }

    /// Whoever looks for endpoints.
    fn discoveries(&mut self) -> Discoveries {
        let wanted = self
            .config
            .upstreams
            .iter()
            .filter_map(|(name, upstream)| Some((Arc::clone(name), upstream.discovery.clone()?)));
        let (wanted, around) = (wanted.collect(), self.around);
        let steps = Steps {
            make: &|name, config: &checked::Discovery| {
                Discovery::new(name, config, &around.reach, around.metrics.discovery(name))
            },
            change: &|discovery: &Arc<Discovery>, config| discovery.changed(config, &around.reach),
            is_same: &|_, _| true,
        };
        self.next(&self.before.discoveries, wanted, &steps)
    }

    /// Whoever splits.
    fn splits(&mut self) -> Result<Splits, Vec<Wrong>> {
        let (mut wanted, mut checked) = (BTreeMap::new(), BTreeMap::new());
        let mut wrong = Vec::new();
        for (route, is) in &self.config.routes {
            for (name, split) in is.splits(route) {
                match splitting(split) {
                    Ok(splitting) => _ = checked.insert(Arc::clone(&name), splitting),
                    Err(error) => {
                        wrong.push(Wrong::Route { name: Arc::clone(route), error: error.to_string() });
                    }
                }
                wanted.insert(name, split.clone());
            }
        }
        none_of(wrong)?;
        let metrics = self.around.metrics;
        let steps = Steps {
            make: &|name, split: &Split| {
                let layer = SplitLayer::observed(checked[name].clone(), metrics.split(name)).named(name);
                split_keyed(layer, split)
            },
            change: &|layer, split| match splitting(split) {
                Ok(splitting) => split_keyed(layer.reconfigured(&splitting), split),
                Err(_) => layer.clone(), // It was checked above.
            },
            is_same: &|_, _| true,
        };
        Ok(self.next(&self.before.splits, wanted, &steps))
    }

    /// The breaker of an upstream's endpoints, if it has one.
    fn breaking(&self, upstream: &Upstream) -> Option<Breaking> {
        let policy = &self.config.policies[upstream.circuit_breaker.as_ref()?];
        match &policy.kind {
            PolicyKind::CircuitBreaker(breaker) => Some((breaker.clone(), policy.enforce)),
            _ => None,
        }
    }

    /// What the balancer of an upstream is made of.
    fn balancing(&self, name: &Name, upstream: &Upstream) -> Balancing {
        Balancing {
            upstream: Arc::clone(name),
            balance: upstream.balance.clone(),
            endpoints: endpoints_of(upstream),
            breaking: self.breaking(upstream),
        }
    }

    fn endpoint_breakers(&mut self) -> BreakersOfEndpoints {
        let wanted = self.config.upstreams.iter();
        let wanted = wanted.filter_map(|(name, is)| Some((Arc::clone(name), self.breaking(is)?))).collect();
        let metrics = self.around.metrics;
        let steps = Steps {
            make: &|upstream, (breaker, enforce): &Breaking| {
                let (upstream, all) = (Arc::clone(upstream), metrics.breaker(&breakers_name(upstream)));
                let observe = move |endpoint: &Arc<str>| EndpointMetrics::new(&upstream, endpoint, &all);
                EndpointBreakers::observed(circuit_breaker_config(breaker, *enforce), observe)
            },
            change: &|breakers, (breaker, enforce)| {
                breakers.reconfigured(&circuit_breaker_config(breaker, *enforce))
            },
            is_same: &|_, _| true,
        };
        self.next(&self.before.endpoint_breakers, wanted, &steps)
    }

    fn balancers(&mut self, breakers: &BreakersOfEndpoints) -> Balancers {
        let metrics = self.around.metrics;
        let dressed = |layer: Balancer, is: &Balancing| {
            let key = &is.balance.key;
            let layer = if key.is_empty() { layer } else { layer.hash_by(hash_of(key)) };
            let layer = match &is.balance.regions {
                Some(regions) => layer.region_by(region_of(regions)),
                None => layer,
            };
            let layer = match &is.balance.subset {
                Some(subset) => layer.subset_by(&subset.label, text_of(&subset.by)),
                None => layer.unsubset(),
            };
            match breakers.get(&is.upstream).cloned() {
                Some(breakers) => layer.gated(move |address| breakers.gate(address)),
                None => layer.ungated(),
            }
        };
        let config = |is: &Balancing| balance_config(&is.balance, is.breaking.as_ref());
        let steps = Steps {
            make: &|_, is: &Balancing| {
                let layer = match &is.endpoints {
                    Endpoints::Listed(listed) => {
                        let metrics = metrics.balancer(&is.upstream);
                        Balancer::observed(config(is), listed.iter().map(target), metrics)
                    }
                    Endpoints::Found(stand_in) => {
                        Balancer::observed(config(is), [stand_in.clone()], metrics.balancer(&is.upstream))
                    }
                };
                dressed(layer, is)
            },
            change: &|layer, is| {
                let layer = match &is.endpoints {
                    Endpoints::Listed(listed) => layer.reconfigured(config(is), listed.iter().map(target)),
                    // Those there are; whoever looks for them says when there are others.
                    Endpoints::Found(_) => {
                        let there = layer.endpoints();
                        layer.reconfigured(config(is), there.iter().map(|endpoint| endpoint.target().clone()))
                    }
                };
                dressed(layer, is)
            },
            is_same: &|_, _| true,
        };
        let wanted = self.config.upstreams.iter();
        let wanted = wanted.map(|(name, is)| (Arc::clone(name), self.balancing(name, is))).collect();
        self.next(&self.before.balancers, wanted, &steps)
    }

    fn retry_budgets(&mut self) -> Carried<RetryBudget, Budget> {
        let now = Now::read();
        let steps = Steps {
            make: &|_, is: &RetryBudget| Budget::new(budget_config(*is), now),
            change: &|budget: &Budget, is| budget.reconfigured(budget_config(*is), now),
            is_same: &|_, _| true,
        };
        let of_upstreams = self.config.upstreams.iter().map(|(name, is)| (Arc::clone(name), is.retry_budget));
        // Where it is not known before who fails, a fallback has a budget of its own.
        let of_routes = self.config.routes.iter().filter(|(_, route)| {
            let fallback = self.config.fallback(route);
            let has_several = !route.destination.is_local() && upstream_of(route).is_none();
            has_several && fallback.is_some_and(|(_, it)| it.upstream().is_some())
        });
        let of_routes = of_routes.map(|(name, _)| (fallback_name(name), RetryBudget::default()));
        let wanted = of_upstreams.chain(of_routes).collect();
        self.next(&self.before.retry_budgets, wanted, &steps)
    }

    /// Those of each route with a hedge, at each upstream that its requests may go to.
    fn latencies(&mut self) -> Carried<(), Latencies> {
        let now = Now::read();
        let steps = Steps {
            make: &|_, (): &()| Latencies::new(now),
            change: &|latencies: &Latencies, ()| latencies.clone(),
            is_same: &|(), ()| true,
        };
        let hedged = self.config.routes.iter().filter(|(_, route)| self.config.hedge(route).is_some());
        let wanted = hedged.flat_map(|(name, route)| {
            let upstreams = route.destination.upstreams();
            upstreams.map(move |upstream| (latencies_name(name, upstream), ()))
        });
        let wanted = wanted.collect();
        self.next(&self.before.latencies, wanted, &steps)
    }

    /// Whoever checks the endpoints of these balancers.
    fn checks(&mut self, balancers: &Balancers) -> HealthChecks {
        type Wanted = (HealthCheck, Balancing);
        let around = self.around;
        let off = Balancer::off();
        let balancer = |upstream: &Name| balancers.get(upstream).unwrap_or(&off);
        let probe = |check: &HealthCheck, endpoints: &Endpoints| {
            Probe::new(check, endpoints.listed(), around.connector.clone())
        };
        let steps = Steps {
            make: &|upstream, (check, is): &Wanted| {
                let (probe, metrics) = (probe(check, &is.endpoints), around.metrics.checks(upstream));
                let (health, driver) =
                    Health::observed(health_config(check), balancer(upstream), probe, metrics);
                Checks { upstream: Arc::clone(upstream), health, checking: Background::new(driver.run()) }
            },
            change: &|checks, (check, is)| {
                let (balancer, probe) = (balancer(&checks.upstream), probe(check, &is.endpoints));
                let health = checks.health.reconfigured(health_config(check), balancer, probe);
                Checks { health, ..checks.clone() }
            },
            is_same: &|_, _| true,
        };
        let wanted = self.config.upstreams.iter().filter_map(|(name, upstream)| {
            let check = upstream.health_check.clone()?;
            Some((Arc::clone(name), (check, self.balancing(name, upstream))))
        });
        let wanted = wanted.collect();
        self.next(&self.before.checks, wanted, &steps)
    }

    /// The connections of all workers. They go with the pools, so nothing is reported of them.
    fn places(&mut self) -> Carried<(), Arc<UpstreamPlaces>> {
        let all = &self.before.all_places;
        let steps = Steps {
            make: &|_, (): &()| Arc::new(UpstreamPlaces::new(all)),
            change: &|places: &Arc<UpstreamPlaces>, ()| Arc::clone(places),
            is_same: &|(), ()| true,
        };
        let wanted = self.config.upstreams.keys().map(|upstream| (Arc::clone(upstream), ())).collect();
        self.before.places.next(wanted, self.around.now, &mut Vec::new(), &steps)
    }

    /// For each worker; all have the same. Pools themselves are made when they are needed.
    fn pools(&mut self, places: &Carried<(), Arc<UpstreamPlaces>>) -> Vec<Carried<Speaking, Arc<Pools>>> {
        let steps = Steps {
            make: &|upstream, speaking: &Speaking| {
                Arc::new(match places.get(upstream) {
                    Some(places) => Pools::new(speaking.protocol, speaking.tls.clone(), places),
                    None => Pools::default(), // There are places for each upstream.
                })
            },
            change: &|pools: &Arc<Pools>, _| Arc::clone(pools),
            // Over connections of one protocol the other cannot be spoken, and who was believed yesterday may be nobody today.
            is_same: &|old, new| old == new,
        };
        let pools = self.before.pools.iter().enumerate().map(|(worker, pools)| {
            let wanted = self.config.upstreams.iter().map(|(name, is)| {
                (Arc::clone(name), Speaking { protocol: is.protocol, tls: is.tls.clone() })
            });
            let mut others = Vec::new();
            let report = if worker == 0 { &mut *self.report } else { &mut others };
            pools.next(wanted.collect(), self.around.now, report, &steps)
        });
        pools.collect()
    }

    /// What clients resume sessions with: nobody gets in with what counted when clients had to show something else.
    fn tickets(&mut self) -> Carried<Option<Clients>, Tickets> {
        let steps = Steps {
            make: &|_, _: &Option<Clients>| Tickets::new(),
            change: &|tickets: &Tickets, _| tickets.clone(),
            is_same: &|old, new| old == new,
        };
        let secured = self.config.listeners.iter();
        let wanted =
            secured.filter_map(|(name, is)| Some((Arc::clone(name), is.tls.as_ref()?.clients.clone())));
        let wanted = wanted.collect();
        self.next(&self.before.tickets, wanted, &steps)
    }

    /// What is ordered. A certificate for other hosts than before is another one, and the one before is shown until it is there,
    /// to the hosts that both are for.
    fn certificates(&mut self) -> Carried<Arc<Acme>, Automatic> {
        let (connector, metrics) = (self.around.connector.clone(), Arc::clone(self.around.metrics));
        let means = Means { connector, metrics, orders: self.around.orders };
        let before = &self.before.certificates;
        let steps = Steps {
            make: &|_, acme: &Arc<Acme>| {
                let mut all = before.entries();
                let before = all.find(|(_, old, _)| overlap(old, acme)).map(|(_, _, it)| it);
                Automatic::new(acme, before, &means)
            },
            change: &|it: &Automatic, acme| it.changed(acme, &means),
            is_same: &|_, _| true,
        };
        let all = self.config.listeners.values().filter_map(|is| is.tls.as_ref()?.acme.as_ref());
        let wanted = all.map(|acme| (Arc::clone(&acme.id), Arc::clone(acme))).collect();
        self.next(before, wanted, &steps)
    }

    /// The way to the collector. Another one is another way; what waits for the one before is still sent there.
    fn exporters(&mut self) -> Carried<Otlp, Exporting> {
        let connector = self.around.connector.clone();
        let steps = Steps {
            make: &|_, otlp: &Otlp| Exporting::new(otlp, &connector),
            change: &|it: &Exporting, _| it.clone(),
            is_same: &|old, new| old == new,
        };
        let otlp = self.config.gateway.telemetry.tracing.as_ref().and_then(|tracing| tracing.otlp.clone());
        let wanted = otlp.map(|otlp| (Name::from("otlp"), otlp)).into_iter().collect();
        self.next(&self.before.exporters, wanted, &steps)
    }

    /// Whoever writes the access log: the same as long as it is the same file.
    fn logs(&mut self) -> Carried<AccessLog, Log> {
        let steps = Steps {
            make: &|_, log: &AccessLog| Log::new(log.file.as_ref(), log.queue),
            change: &|it: &Log, _| it.clone(),
            is_same: &|old, new| old.file == new.file,
        };
        let log = self.config.gateway.telemetry.access_log.clone();
        let wanted = log.map(|log| (Name::from("access_log"), log)).into_iter().collect();
        self.next(&self.before.logs, wanted, &steps)
    }
}

/// Whether two certificates have a host in common.
fn overlap(one: &Acme, other: &Acme) -> bool {
    one.domains.iter().any(|domain| other.domains.contains(domain))
}

/// The headers that are written on the way to an upstream.
fn written_behind(answering: &Answering) -> impl Iterator<Item = HeaderName> {
    let edit = &answering.headers.request;
    let edited = edit.set.iter().chain(&edit.add).map(|(name, _)| name).chain(&edit.remove);
    edited.chain(&answering.written).cloned()
}

/// Where requests go that no worker has sent yet.
pub(super) fn nowhere<B>()
-> impl Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static
where
    B: Send + 'static,
{
    Leaf(|_: Request<B>| std::future::ready(Rejection::new(Reason::NoEndpoint).into_response()))
}

/// Callers apart, and what they call: several routes and versions may have one path and one policy.
fn by_destination(head: &Head<'_>) -> Option<KeyScope> {
    let route = head.extensions.get::<Matched>().map(|matched| &*matched.route);
    let version = ApiVersion::of(head.extensions).map(|version| &**version);
    let parts = [route.unwrap_or_default(), version.unwrap_or_default()];
    Some(by_caller(head)?.within(parts.map(str::as_bytes)))
}

/// What is wrong with rules about origins, which have no state.
fn wrong_cors(config: &Config) -> Vec<Wrong> {
    let wrong = config.policies.iter().filter_map(|(name, policy)| {
        let PolicyKind::Cors(cors) = &policy.kind else { return None };
        let error = cors_rules(cors).err()?;
        Some(Wrong::Policy { name: Arc::clone(name), error: error.to_string() })
    });
    wrong.collect()
}

/// # Errors
/// If there is anything wrong.
fn none_of(wrong: Vec<Wrong>) -> Result<(), Vec<Wrong>> {
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// What the balancer of an upstream begins with.
fn endpoints_of(upstream: &Upstream) -> Endpoints {
    let Some(discovery) = &upstream.discovery else { return Endpoints::Listed(upstream.endpoints.clone()) };
    // It is what requests look for, whatever that is.
    let labels = upstream.balance.only.iter();
    let stand_in = labels.fold(Discovery::stand_in(discovery), |it, (name, value)| it.label(name, value));
    Endpoints::Found(stand_in)
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

    /// # Errors
    /// If the policy allows nothing that these keys can verify. Keys that are fetched may be others tomorrow.
    fn used_by(self, jwt: &Jwt) -> Result<Self, String> {
        let (Self::Set(set), Some(allowed)) = (&self, jwt_config(jwt).algorithms) else { return Ok(self) };
        if set.algorithms().any(|algorithm| allowed.contains(&algorithm)) {
            return Ok(self);
        }
        let words = |all: &mut dyn Iterator<Item = Algorithm>| {
            all.map(|one| format!("`{}`", one.word())).collect::<Vec<_>>().join(", ")
        };
        let (allowed, can) = (words(&mut allowed.into_iter()), words(&mut set.algorithms()));
        Err(format!(
            "its keys verify {can}, and `algorithms` allows only {allowed}: no token would be let in"
        ))
    }

    /// Keys of a policy that is new, and whoever fetches them.
    fn keys(&self, policy: &Name, around: &Surroundings<'_>) -> (Keys, Option<Arc<Background>>) {
        match self {
            Self::Set(set) => (Keys::fixed(set.clone()), None),
            Self::Url(url, fetch) => {
                let service = FetchKeys::new(Arc::clone(url), around.connector.clone());
                let (keys, driver) = Keys::fetched(service, fetch_config(fetch));
                let tell = TellKeys::new(policy, url, &keys);
                (keys, Some(fetching(driver, tell)))
            }
        }
    }
}

fn is_same_source(old: &JwtKeys, new: &JwtKeys) -> bool {
    match (old, new) {
        (JwtKeys::Url(old, _), JwtKeys::Url(new, _)) => old == new,
        _ => old == new,
    }
}

/// Goes on with the keys there are, whatever has changed in how they are fetched.
fn refetched(tokens: &Tokens, source: &JwtKeys, around: &Surroundings<'_>) -> Tokens {
    let (JwtKeys::Url(url, fetch), Some(keys)) = (source, tokens.layer.keys()) else { return tokens.clone() };
    if tokens.source == *source {
        return tokens.clone();
    }
    let service = FetchKeys::new(Arc::clone(url), around.connector.clone());
    let (keys, driver) = keys.refetched(service, fetch_config(fetch));
    let tell = TellKeys::new(&tokens.policy, url, &keys);
    Tokens {
        policy: Arc::clone(&tokens.policy),
        layer: tokens.layer.rekeyed(&keys),
        fetching: Some(fetching(driver, tell)),
        source: source.clone(),
    }
}

/// Fetches keys, and says what becomes of it.
fn fetching(driver: KeyDriver<FetchKeys>, tell: TellKeys) -> Arc<Background> {
    Background::new(async { _ = tokio::join!(tell.run(), driver.run()) })
}

fn uses(config: &Config) -> BTreeMap<Arc<str>, Name> {
    let mut all = BTreeMap::new();
    let mut add = |place: Place<'_>, policy: &Name| {
        all.insert(place.identity(policy, &config.policies[policy]), Arc::clone(policy));
    };
    for (route, is) in &config.routes {
        let place = Place { route: Some(route), upstream: upstream_of(is) };
        is.policies.iter().for_each(|policy| add(place, policy));
        for call in is.destination.compose().into_iter().flat_map(|compose| &compose.calls) {
            let place = Place { route: Some(route), upstream: Some(&call.upstream) };
            call.circuit_breaker.iter().for_each(|policy| add(place, policy));
        }
        let Destination::Versions(versions) = &is.destination else { continue };
        for version in &versions.of {
            let place = Place { route: Some(route), upstream: version.to.upstream() };
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
