//! Named and inlined policies, and what stands at each level.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Tables,
    auth::{self, AUTHENTICATING},
    guards::{self, Stage},
    limits::{bulkhead, rate_limit},
    origin, unique,
};
use crate::config::{
    checked::{self, ByKind, KeyPart, Kind, Name, Policy, PolicyKind, Route, Scope, TemplatePart, Uses},
    decode::{At, Cx, OneOrMany, Or},
    diagnostic::Code,
    node::Span,
    raw::{
        RawBulkhead, RawCache, RawCircuitBreaker, RawCompress, RawCors, RawFallback, RawFault, RawHedge,
        RawIdempotency, RawMirror, RawPolicy, RawRateLimit, RawRetry, RawRule,
    },
    suggest::one_of,
    values::Id,
};

/// All policies, and which of them somebody uses.
pub(super) struct Policies {
    pub(super) checked: BTreeMap<Name, Policy>,
    pub(super) used: BTreeSet<Name>,
    places: BTreeMap<Name, Span>,
    keys: BTreeMap<Name, Span>,
    stage: Stage,
    journal: Journal,
}

/// What was written down since the last look.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) inserted: Vec<Name>,
    pub(super) used: Vec<Name>,
}

/// The policies of one route, group or listener, by sort, and where they were named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Level {
    of: ByKind<(Name, Span)>,
    /// One that may find out who asks could not be read, or is not there: that nobody does proves nothing.
    is_incomplete: bool,
    /// Clients show certificates, which say who they are.
    has_certificates: bool,
}

impl Level {
    /// All of one sort.
    pub(super) fn all(&self, kind: Kind) -> &[(Name, Span)] {
        self.of.all(kind)
    }

    /// Whether somebody who is not known here may find out who asks.
    pub(super) const fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Whether clients show there who they are, before any policy asks.
    pub(super) const fn has_certificates(&self) -> bool {
        self.has_certificates
    }

    /// The same, at listeners where clients show certificates.
    pub(super) fn with_certificates(self, has_certificates: bool) -> Self {
        Self { has_certificates, ..self }
    }

    /// Which they are, wherever they were named.
    pub(super) fn names(&self) -> Vec<(Kind, &Name)> {
        let all = self.of.iter().flat_map(|(kind, all)| all.iter().map(move |(name, _)| (kind, name)));
        let mut names = all.collect::<Vec<_>>();
        names.sort();
        names
    }

    /// What counts of several levels, the closest first.
    pub(super) fn merged(levels: &[&Self]) -> Self {
        let is_incomplete = levels.iter().any(|level| level.is_incomplete);
        let mut it = Self { is_incomplete, ..Self::default() };
        for (kind, all) in levels.iter().flat_map(|level| level.of.iter()) {
            let known = it.of.of(kind);
            if known.is_empty() || kind.adds_up() {
                known.extend_from_slice(all);
                known.sort_by(|(a, _), (b, _)| a.cmp(b)); // The closest of a name stays first.
                known.dedup_by(|(a, _), (b, _)| a == b);
            }
        }
        it
    }

    /// Without those that find out who asks.
    pub(super) fn without_authentication(&self) -> Self {
        let mut it = Self::default();
        for (kind, all) in self.of.iter().filter(|(kind, _)| !kind.authenticates()) {
            it.of.of(kind).extend_from_slice(all);
        }
        it
    }

    /// One more.
    pub(super) fn add(&mut self, kind: Kind, name: Name, span: Span) {
        let known = self.of.of(kind);
        if !known.iter().any(|(known, _)| *known == name) {
            known.push((name, span));
        }
    }

    pub(super) fn uses(self) -> Uses {
        Uses(self.of.map(|(name, _)| name))
    }
}

/// The keys by which a level names policies.
pub(super) struct LevelKeys<'a> {
    pub(super) uses: Option<&'a At<OneOrMany<Id>>>,
    pub(super) rate_limit: Option<&'a At<Or<Id, RawRateLimit>>>,
    pub(super) bulkhead: Option<&'a At<Or<Id, RawBulkhead>>>,
    pub(super) authorize: Option<&'a At<Or<Id, RawRule>>>,
    pub(super) idempotency: Option<&'a At<Or<Id, RawIdempotency>>>,
    pub(super) circuit_breaker: Option<&'a At<Or<Id, RawCircuitBreaker>>>,
    pub(super) fault: Option<&'a At<Or<Id, RawFault>>>,
    pub(super) retry: Option<&'a At<Or<Id, RawRetry>>>,
    pub(super) hedge: Option<&'a At<Or<Id, RawHedge>>>,
    pub(super) cache: Option<&'a At<Or<Id, RawCache>>>,
    pub(super) fallback: Option<&'a At<Or<Id, RawFallback>>>,
    pub(super) mirror: Option<&'a At<Or<Id, RawMirror>>>,
    pub(super) cors: Option<&'a At<Or<Id, RawCors>>>,
    pub(super) compress: Option<&'a At<Or<Id, RawCompress>>>,
}

/// The keys of a record that has them all.
macro_rules! level_keys {
    ($raw:expr) => {
        $crate::config::check::policies::LevelKeys {
            uses: $raw.r#use.as_deref(),
            rate_limit: $raw.rate_limit.as_deref(),
            bulkhead: $raw.bulkhead.as_deref(),
            authorize: $raw.authorize.as_deref(),
            idempotency: $raw.idempotency.as_deref(),
            circuit_breaker: $raw.circuit_breaker.as_deref(),
            fault: $raw.fault.as_deref(),
            retry: $raw.retry.as_deref(),
            hedge: $raw.hedge.as_deref(),
            cache: $raw.cache.as_deref(),
            fallback: $raw.fallback.as_deref(),
            mirror: $raw.mirror.as_deref(),
            cors: $raw.cors.as_deref(),
            compress: $raw.compress.as_deref(),
        }
    };
}
pub(super) use level_keys;

/// A policy that is not named yet.
pub(super) struct Unnamed {
    pub(super) kind: PolicyKind,
    pub(super) enforce: checked::Enforce,
    pub(super) scope: Scope,
    pub(super) key: Option<Span>,
}

impl Unnamed {
    /// One that has no account.
    pub(super) const fn stateless(kind: PolicyKind) -> Self {
        Self { kind, enforce: checked::Enforce::Always, scope: Scope::Policy, key: None }
    }
}

impl Policies {
    /// Those under `policies:`.
    pub(super) fn named(tables: &Tables<'_>, stage: Stage, cx: &mut Cx) -> Self {
        let (checked, used, places, keys, journal) = Default::default();
        let mut it = Self { checked, used, places, keys, stage, journal };
        for (name, at, raw) in tables.policies.read() {
            if one_kind(name, at, raw, cx)
                && let Some(unnamed) = unnamed(raw, tables, stage, cx)
            {
                it.insert(Arc::clone(name), at.span, unnamed, cx);
            }
        }
        it
    }

    fn insert(&mut self, name: Name, span: Span, unnamed: Unnamed, cx: &mut Cx) {
        let Unnamed { kind, enforce, scope, key } = unnamed;
        self.add(name, span, key, Policy { kind, enforce, scope, origin: origin(span, cx) }, cx);
    }

    pub(super) fn add(&mut self, name: Name, span: Span, key: Option<Span>, policy: Policy, cx: &mut Cx) {
        if let Some(first) = self.places.get(&name) {
            let first = cx.place(*first);
            cx.error(Code::Duplicate, span, format!("two policies would be called `{name}`"))
                .label("the second")
                .related(first, "the first")
                .help("give one of them a name under `policies:`, and refer to it here")
                .combined();
            return;
        }
        self.places.insert(Arc::clone(&name), span);
        self.keys.extend(key.map(|key| (Arc::clone(&name), key)));
        self.journal.inserted.push(Arc::clone(&name));
        self.checked.insert(name, policy);
    }

    /// One of them, where it was said, and where its key.
    pub(super) fn get(&self, name: &Name) -> Option<(Span, Option<Span>, &Policy)> {
        Some((*self.places.get(name)?, self.keys.get(name).copied(), self.checked.get(name)?))
    }

    /// What was added and used since this was called last.
    pub(super) fn journal(&mut self) -> Journal {
        std::mem::take(&mut self.journal)
    }

    fn uses(&mut self, name: &Name) {
        self.used.insert(Arc::clone(name));
        self.journal.used.push(Arc::clone(name));
    }

    /// What stands at the level of `owner`.
    pub(super) fn level(
        &mut self,
        tables: &Tables<'_>,
        owner: &At<Id>,
        keys: &LevelKeys<'_>,
        cx: &mut Cx,
    ) -> Level {
        let mut level = Level::default();
        if let Some(uses) = keys.uses {
            unique(&uses.value.0, "policy", cx);
            for at in &uses.value.0 {
                match self.resolve(tables, at, cx) {
                    Some(name) => self.place(name, at.span, &mut level, cx),
                    None => level.is_incomplete |= may_authenticate(tables, at),
                }
            }
        }
        let stage = self.stage;
        let own = [
            self.inlined(
                tables,
                owner,
                (Kind::RateLimit, keys.rate_limit),
                |raw, _, cx| rate_limit(raw, &tables.stores, cx),
                cx,
            ),
            self.inlined(tables, owner, (Kind::Bulkhead, keys.bulkhead), |raw, _, cx| bulkhead(raw, cx), cx),
            self.inlined(tables, owner, (Kind::Authorize, keys.authorize), auth::authorize, cx),
            self.inlined(
                tables,
                owner,
                (Kind::Idempotency, keys.idempotency),
                |raw, _, cx| Some(guards::idempotency(raw, cx)),
                cx,
            ),
            self.inlined(
                tables,
                owner,
                (Kind::Fault, keys.fault),
                |raw, span, cx| guards::fault(raw, span, stage, cx),
                cx,
            ),
        ];
        let cors =
            self.inlined(tables, owner, (Kind::Cors, keys.cors), |raw, _, cx| guards::cors(raw, cx), cx);
        let compress = self.inlined(
            tables,
            owner,
            (Kind::Compress, keys.compress),
            |raw, _, cx| Some(guards::compress(raw, cx)),
            cx,
        );
        let circuit_breaker = self.inlined(
            tables,
            owner,
            (Kind::CircuitBreaker, keys.circuit_breaker),
            |raw, _, cx| Some(guards::route_breaker(raw, cx)),
            cx,
        );
        let retry = self.inlined(
            tables,
            owner,
            (Kind::Retry, keys.retry),
            |raw, _, cx| Some(guards::retry(raw, cx)),
            cx,
        );
        let hedge =
            self.inlined(tables, owner, (Kind::Hedge, keys.hedge), |raw, _, cx| guards::hedge(raw, cx), cx);
        let cache = self.inlined(
            tables,
            owner,
            (Kind::Cache, keys.cache),
            |raw, _, cx| Some(guards::cache(raw, cx)),
            cx,
        );
        let mirror = self.inlined(
            tables,
            owner,
            (Kind::Mirror, keys.mirror),
            |raw, _, cx| guards::mirror(raw, tables, cx),
            cx,
        );
        let fallback = self.inlined(
            tables,
            owner,
            (Kind::Fallback, keys.fallback),
            |raw, span, cx| guards::fallback(raw, span, tables, cx),
            cx,
        );
        let more = [cors, compress, circuit_breaker, retry, hedge, cache, mirror, fallback];
        for (name, span) in own.into_iter().chain(more).flatten() {
            self.place(name, span, &mut level, cx);
        }
        level
    }

    /// A policy that is said where it is used, or named there.
    pub(super) fn inlined<R>(
        &mut self,
        tables: &Tables<'_>,
        owner: &At<Id>,
        (kind, key): (Kind, Option<&At<Or<Id, R>>>),
        unnamed: impl FnOnce(&R, Span, &mut Cx) -> Option<Unnamed>,
        cx: &mut Cx,
    ) -> Option<(Name, Span)> {
        let at = key?;
        let name = match &at.value {
            Or::Text(id) => self.resolve_kind(tables, id, at.span, kind, cx)?,
            Or::Record(raw) => {
                let name: Name = format!("{}/{}", owner.value, kind.word()).into();
                self.insert(Arc::clone(&name), at.key, unnamed(raw, at.span, cx)?, cx);
                self.uses(&name);
                name
            }
        };
        Some((name, at.span))
    }

    /// A named policy that could be read.
    fn resolve(&mut self, tables: &Tables<'_>, at: &At<Id>, cx: &mut Cx) -> Option<Name> {
        let name = tables.policies.resolve(at, cx)?;
        self.uses(&name);
        self.checked.contains_key(&name).then_some(name)
    }

    fn resolve_kind(
        &mut self,
        tables: &Tables<'_>,
        id: &Id,
        span: Span,
        kind: Kind,
        cx: &mut Cx,
    ) -> Option<Name> {
        let name = self.resolve(tables, &At { value: id.clone(), span, key: span }, cx)?;
        let is = self.kind_of(&name);
        if is == kind {
            return Some(name);
        }
        let place = cx.place(self.places[&name]);
        let (is, kind) = (is.word(), kind.word());
        let has_key = [
            "rate_limit",
            "bulkhead",
            "authorize",
            "idempotency",
            "circuit_breaker",
            "retry",
            "hedge",
            "cache",
            "fallback",
            "mirror",
            "fault",
            "cors",
            "compress",
        ]
        .contains(&is);
        let help = if has_key {
            format!("write `{is}: {name}` or `use: [{name}]`")
        } else {
            format!("write `use: [{name}]`")
        };
        cx.error(Code::Conflict, span, format!("the policy `{name}` is a `{is}`, not a `{kind}`"))
            .related(place, "said here")
            .help(help)
            .combined();
        None
    }

    fn kind_of(&self, name: &str) -> Kind {
        self.checked[name].kind.kind()
    }

    /// Puts a policy into a level: some sorts add up, of the others there is one.
    fn place(&mut self, name: Name, span: Span, level: &mut Level, cx: &mut Cx) {
        let Some(policy) = self.checked.get(&name) else { return }; // Two of one name: reported.
        let kind = policy.kind.kind();
        let known = level.of.of(kind);
        if known.iter().any(|(known, _)| *known == name) {
            return;
        }
        if let Some((first, place)) = known.first().filter(|_| !kind.adds_up()) {
            let place = cx.place(*place);
            let word = kind.word();
            cx.error(
                Code::Conflict,
                span,
                format!("two `{word}` policies at one place: `{first}` and `{name}`"),
            )
            .label("the second")
            .related(place, "the first")
            .help("keep one; a route's wins over its group's, and that over its listener's")
            .combined();
            return;
        }
        known.push((name, span));
    }

    /// The upstreams to which requests of a route go besides, by its policies.
    pub(super) fn beside<'a>(&'a self, route: &'a Route) -> impl Iterator<Item = &'a Name> {
        let policies = [Kind::Mirror, Kind::Fallback].into_iter().flat_map(|kind| route.policies.all(kind));
        policies.filter_map(|name| match &self.checked.get(name)?.kind {
            PolicyKind::Mirror(mirror) => Some(&mirror.upstream),
            PolicyKind::Fallback(fallback) => fallback.upstream(),
            _ => None,
        })
    }

    /// Reports captures that the keys of these rate limits need and the route does not have.
    pub(super) fn captures(&self, route: &str, level: &Level, captures: &[Arc<str>], cx: &mut Cx) {
        for (name, span) in level.all(Kind::Fallback) {
            let Some(PolicyKind::Fallback(fallback)) = self.checked.get(name).map(|it| &it.kind) else {
                continue;
            };
            let template = fallback.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
            for part in template.iter().flat_map(|template| &template.0) {
                let TemplatePart::Capture(capture) = part else { continue };
                if !captures.contains(capture) {
                    let message = format!(
                        "the route `{route}` has no capture `{{{capture}}}`, which `{name}` writes into its path"
                    );
                    cx.error(Code::UnknownName, *span, message).combined().help(format!(
                        "add `/{{{capture}}}` to the path of `{route}`, or use a fallback with another `rewrite` there"
                    ));
                }
            }
        }
        let counted = [Kind::RateLimit, Kind::Bulkhead, Kind::CircuitBreaker].map(|kind| level.all(kind));
        for (name, span) in counted.into_iter().flatten() {
            let parts = match self.checked.get(name).map(|policy| &policy.kind) {
                Some(PolicyKind::RateLimit(limit)) => &limit.key,
                Some(PolicyKind::Bulkhead(bulkhead)) => &bulkhead.key,
                Some(PolicyKind::CircuitBreaker(breaker)) => &breaker.key,
                _ => continue,
            };
            for part in parts {
                let KeyPart::Capture(capture) = part else { continue };
                if captures.contains(capture) {
                    continue;
                }
                let key = self.keys.get(name).map(|key| cx.place(*key));
                let has = if captures.is_empty() {
                    "its match has no capture".into()
                } else {
                    format!("its match has {}", one_of(captures.iter().map(|it| &**it)))
                };
                let it = cx.error(
                    Code::UnknownName,
                    *span,
                    format!(
                        "the route `{route}` has no capture `{{{capture}}}`, which the key of `{name}` needs"
                    ),
                );
                it.combined().label(has).help(format!(
                    "add `/{{{capture}}}` to the path of `{route}`, or use a policy with another key there"
                ));
                if let Some(key) = key {
                    it.related(key, "the key");
                }
            }
        }
    }
}

/// Whether a policy that could not be read, or that is not there, may be one that finds out who asks.
fn may_authenticate(tables: &Tables<'_>, name: &At<Id>) -> bool {
    let raw = tables.policies.entries.get(&name.value.0).and_then(|(_, raw)| *raw);
    raw.is_none_or(|raw| AUTHENTICATING.iter().any(|kind| raw.said(kind.word()).is_some()))
}

/// Whether a named policy says one kind; reports it if not.
fn one_kind(name: &str, at: &At<Id>, raw: &RawPolicy, cx: &mut Cx) -> bool {
    match raw.said.as_slice() {
        [_] => true,
        [] => {
            cx.error(Code::Missing, at.span, format!("the policy `{name}` has no kind"))
                .help("write `{rate_limit: {rate: 20/m}}` or `{bulkhead: {max: 50}}`");
            false
        }
        [first, second, ..] => {
            let place = cx.place(first.span);
            cx.error(Code::Conflict, second.span, format!("the policy `{name}` has more than one kind"))
                .label("the second")
                .related(place, "the first")
                .help("a name is the identity of one state: write two policies");
            false
        }
    }
}

/// What a policy with a name says.
fn unnamed(raw: &RawPolicy, tables: &Tables<'_>, stage: Stage, cx: &mut Cx) -> Option<Unnamed> {
    let rate_limit = raw.rate_limit.as_ref().and_then(|raw| rate_limit(&raw.value, &tables.stores, cx));
    let bulkhead = raw.bulkhead.as_ref().and_then(|raw| bulkhead(&raw.value, cx));
    let jwt = raw.jwt.as_ref().and_then(|raw| auth::jwt(raw, cx));
    let api_key = raw.api_key.as_ref().and_then(|raw| auth::api_key(&raw.value, cx));
    let basic_auth = raw.basic_auth.as_ref().and_then(|raw| auth::basic_auth(&raw.value, cx));
    let forward_auth = raw.forward_auth.as_ref().and_then(|raw| auth::forward_auth(&raw.value, cx));
    let idempotency = raw.idempotency.as_ref().map(|raw| guards::idempotency(&raw.value, cx));
    let circuit_breaker = raw.circuit_breaker.as_ref().map(|raw| guards::circuit_breaker(&raw.value, cx));
    let retry = raw.retry.as_ref().map(|raw| guards::retry(&raw.value, cx));
    let hedge = raw.hedge.as_ref().and_then(|raw| guards::hedge(&raw.value, cx));
    let cache = raw.cache.as_ref().map(|raw| guards::cache(&raw.value, cx));
    let fallback = raw.fallback.as_ref().and_then(|raw| guards::fallback(&raw.value, raw.span, tables, cx));
    let mirror = raw.mirror.as_ref().and_then(|raw| guards::mirror(&raw.value, tables, cx));
    let compress = raw.compress.as_ref().map(|raw| guards::compress(&raw.value, cx));
    let cors = raw.cors.as_ref().and_then(|raw| guards::cors(&raw.value, cx));
    let fault = raw.fault.as_ref().and_then(|raw| guards::fault(&raw.value, raw.span, stage, cx));
    let authorize = raw.authorize.as_ref().and_then(|raw| auth::authorize(&raw.value, raw.span, cx));
    let custom = raw.custom.as_ref().map(|at| Unnamed::stateless(PolicyKind::Custom(at.value.0.clone())));
    rate_limit
        .or(bulkhead)
        .or(jwt)
        .or(api_key)
        .or(basic_auth)
        .or(forward_auth)
        .or(authorize)
        .or(idempotency)
        .or(fault)
        .or(cors)
        .or(compress)
        .or(circuit_breaker)
        .or(retry)
        .or(hedge)
        .or(cache)
        .or(mirror)
        .or(fallback)
        .or(custom)
}
