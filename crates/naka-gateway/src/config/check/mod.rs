//! Records to checked values: names resolved, groups unfolded, defaults filled in.
//!
//! Everything is looked at even after a mistake; what could not be read is skipped quietly,
//! because its own mistake is reported already. A mistake that depends on other files is marked
//! as `combined`, all others condemn their file alone.

mod acme;
mod auth;
mod compose;
mod gateway;
mod guards;
mod headers;
mod health;
mod known;
mod limits;
mod pages;
mod policies;
mod reach;
mod registries;
mod routes;
pub(super) mod scenario;
mod split;
mod stores;
mod telemetry;
mod tests;
mod tls;
pub(super) mod upstreams;
mod versions;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    hash::Hash,
    sync::Arc,
};

use super::{
    checked::{Config, Listener, Name, Origin, Route},
    decode::{At, Cx, Named},
    diagnostic::{Code, Diagnostic},
    node::Span,
    raw::{RawEnvironment, RawFile, RawServerLimits},
    suggest::{nearest, one_of, quoted},
    values::Id,
};
use guards::Stage;
pub(crate) use known::Known;
use known::{Against, Remembering};
use policies::Policies;

/// A file that was read, or not: `None` where `cx` knows why.
pub(crate) struct File {
    /// Its number in `cx`.
    pub(crate) number: usize,
    pub(crate) raw: Option<Arc<RawFile>>,
}

/// Says which routes of a configuration that is wrong elsewhere leave open which of them takes a request.
pub(crate) type Unclear = fn(&BTreeMap<Name, Listener>, &BTreeMap<Name, Arc<Route>>) -> Vec<Diagnostic>;

/// Checks all files as one configuration; the first is the entry. `now_s` is the time of day, in seconds since
/// 1970, and `known` what was checked before; answers with what is known now, too. `None`: `cx` knows why.
pub(crate) fn check(
    files: &[File],
    unclear: Unclear,
    now_s: u64,
    known: &Known,
    cx: &mut Cx,
) -> Option<(Config, Known)> {
    let entry = files.first()?;
    included_keys(&files[1..], cx);
    let tables = Tables::gather(files, cx);
    if tables.listeners.complete && tables.listeners.entries.is_empty() {
        let start = Span::new(entry.number, 0..0);
        cx.error(Code::Missing, start, "there is no listener")
            .combined()
            .help("write `listeners: {web: {listen: \":8080\"}}`");
    }
    let environment =
        entry.raw.as_ref().and_then(|raw| raw.gateway.as_ref()).map(|it| it.value.environment());
    let stage = Stage { environment: environment.unwrap_or(RawEnvironment::Production), now_s };
    let mut policies = Policies::named(&tables, stage, cx);
    let trusted = entry.raw.as_ref().and_then(|raw| raw.gateway.as_ref());
    let trusted = trusted.map(|it| gateway::trusted(&it.value)).unwrap_or_default();
    let listeners = gateway::listeners(&tables, &mut policies, &trusted, now_s, cx);
    let mut gateway = gateway::gateway(entry.raw.as_deref(), &listeners.checked, &tables.stores, cx);
    let mut used = BTreeSet::new();
    let upstreams = upstreams::upstreams(&tables, &listeners.checked, &mut policies, &gateway, now_s, cx);
    let body =
        entry.raw.as_ref().and_then(|raw| raw.gateway.as_ref()).and_then(|it| it.value.limits.as_ref());
    let body = body.map_or_else(|| RawServerLimits::default().body(), |it| it.value.body()).0;
    let against = Against::new((&gateway, body), &listeners, &upstreams, &policies, tables.are_complete());
    let mut remembering = Remembering::new(known, against);
    let routes = routes::routes(
        &tables,
        (&listeners, &upstreams, body),
        &mut policies,
        &mut used,
        &mut remembering,
        cx,
    );
    let gateway_raw = entry.raw.as_ref().and_then(|raw| raw.gateway.as_ref()).map(|it| &it.value);
    gateway.alerts = health::alerts(gateway_raw, &tables, &policies.checked, cx);
    telemetry::keys_told(gateway_raw, &policies.checked, cx);
    let told = gateway_raw.and_then(|raw| raw.identity_headers.as_ref()).into_iter();
    let told = told.flat_map(|it| it.value.0.iter().map(|(name, _)| name));
    reach::pinned_in_vain(told.clone(), &routes, cx);
    let copied = tables
        .policies
        .read()
        .filter_map(|(_, _, raw)| raw.forward_auth.as_ref()?.value.copy_headers.as_ref());
    let copied = copied.flat_map(|list| &list.value.0);
    reach::taken_away(&told.chain(copied).collect::<Vec<_>>(), &policies, &routes, cx);
    reach::keys_without_captures(&tables, &routes, cx);
    let tests = tests::tests(files, &tables, cx);
    if !cx.is_clean() {
        // Whoever makes tables of the routes says so of those that are clean.
        cx.adopt(&unclear(&listeners.checked, &routes));
        return None;
    }
    unused(&tables, &policies, &used, cx);
    tables.stores.unused(&policies.checked, cx);
    let (listeners, policies) = (listeners.checked, policies.checked);
    let config = Config { gateway, listeners, policies, upstreams, routes, tests, hash: 0 };
    Some((config, remembering.finish()))
}

/// What only the entry file may say.
fn included_keys(included: &[File], cx: &mut Cx) {
    for raw in included.iter().filter_map(|file| file.raw.as_ref()) {
        for key in ["gateway", "include"] {
            if let Some(span) = raw.said(key) {
                cx.error(Code::Conflict, span, format!("`{key}` in an included file"))
                    .help(format!("move `{key}:` to the file that is given to `naka run`"));
            }
        }
    }
}

/// All things of one sort, by name.
pub(crate) struct Table<'a, T> {
    sort: &'static str,
    key: &'static str,
    entries: BTreeMap<Name, (&'a At<Id>, Option<&'a Arc<T>>)>,
    /// `false`: a part of the configuration could not be read, so that a missing name proves nothing.
    complete: bool,
}

impl<'a, T> Table<'a, T> {
    fn gather<'f: 'a>(
        (sort, key): (&'static str, &'static str),
        files: &'f [File],
        field: impl Fn(&'f RawFile) -> Option<&'f At<Named<Id, Arc<T>>>>,
        cx: &mut Cx,
    ) -> Self
    where
        T: 'f,
    {
        let mut it = Self { sort, key, entries: BTreeMap::new(), complete: true };
        for file in files {
            let Some(raw) = &file.raw else {
                it.complete = false;
                continue;
            };
            let Some(named) = field(raw) else {
                it.complete &= raw.said(key).is_none();
                continue;
            };
            it.add(&named.value, cx);
        }
        it
    }

    fn add(&mut self, named: &'a Named<Id, Arc<T>>, cx: &mut Cx) {
        self.complete &= named.1;
        for (name, value) in &named.0 {
            let (first, _) = match self.entries.entry(Arc::clone(&name.value.0)) {
                Entry::Occupied(first) => *first.get(),
                Entry::Vacant(free) => {
                    free.insert((name, value.as_ref()));
                    continue;
                }
            };
            let files = first.span.file() != name.span.file();
            let in_order = files || first.span.start() < name.span.start();
            let (first, second) = if in_order { (first.span, name.span) } else { (name.span, first.span) };
            let place = cx.place(first);
            let it = cx.error(
                Code::Duplicate,
                second,
                format!("a second {} with the name `{}`", self.sort, name.value),
            );
            it.label("again here").related(place, "first here").help(format!(
                "names of {}s are unique over all files and groups: choose another",
                self.sort
            ));
            if files {
                it.combined();
            }
        }
    }

    /// The name, if something has it; reports it if nothing does.
    fn resolve(&self, name: &At<Id>, cx: &mut Cx) -> Option<Name> {
        if let Some((known, _)) = self.entries.get_key_value(&name.value.0) {
            return Some(Arc::clone(known));
        }
        if self.complete {
            let names = || self.entries.keys().map(|name| &**name);
            let message = format!("there is no {} {}", self.sort, quoted(&name.value.0));
            let it = cx.error(Code::UnknownName, name.span, message).combined();
            match nearest(&name.value.0, names()) {
                Some(meant) => it.label(format!("did you mean `{meant}`?")).help(format!("write `{meant}`")),
                None if self.entries.is_empty() => {
                    it.help(format!("there are no {}: add `{}:`", self.key, self.key))
                }
                None => it.help(format!("the {} are {}", self.key, one_of(names().take(20)))),
            };
        }
        None
    }

    /// Those that could be read.
    fn read(&self) -> impl Iterator<Item = (&Name, &'a At<Id>, &'a Arc<T>)> {
        self.entries.iter().filter_map(|(name, (at, value))| Some((name, *at, (*value)?)))
    }
}

/// All named things of all files.
pub(crate) struct Tables<'a> {
    listeners: Table<'a, super::raw::RawListener>,
    policies: Table<'a, super::raw::RawPolicy>,
    upstreams: Table<'a, super::raw::RawUpstream>,
    groups: Table<'a, super::raw::RawGroup>,
    routes: Table<'a, super::raw::RawRoute>,
    /// The group of a route that has one.
    group_of: BTreeMap<Name, Name>,
    stores: stores::Stores,
}

impl<'a> Tables<'a> {
    /// Whether all that routes refer to could be read.
    fn are_complete(&self) -> bool {
        self.listeners.complete && self.policies.complete && self.upstreams.complete && self.groups.complete
    }

    fn gather(files: &'a [File], cx: &mut Cx) -> Self {
        let mut it = Self {
            listeners: Table::gather(("listener", "listeners"), files, |raw| raw.listeners.as_deref(), cx),
            policies: Table::gather(("policy", "policies"), files, |raw| raw.policies.as_deref(), cx),
            upstreams: Table::gather(("upstream", "upstreams"), files, |raw| raw.upstreams.as_deref(), cx),
            groups: Table::gather(("group", "groups"), files, |raw| raw.groups.as_deref(), cx),
            routes: Table::gather(("route", "routes"), files, |raw| raw.routes.as_deref(), cx),
            group_of: BTreeMap::new(),
            stores: stores::stores(files.first().and_then(|file| file.raw.as_deref()), cx),
        };
        it.routes.complete &= it.groups.complete;
        for (group, _, raw) in it.groups.read() {
            let Some(routes) = &raw.routes else {
                it.routes.complete = false;
                continue;
            };
            for (name, _) in &routes.value.0 {
                it.group_of.entry(Arc::clone(&name.value.0)).or_insert_with(|| Arc::clone(group));
            }
            it.routes.add(&routes.value, cx);
        }
        it.routes.complete &= it.groups.entries.values().all(|(_, raw)| raw.is_some());
        it
    }
}

/// Lists that are looked through: to hash what they have costs more. Nearly all are.
const FEW: usize = 16;

/// Reports what is in a list twice.
fn unique<T: Eq + Hash>(list: &[At<T>], what: &str, cx: &mut Cx) {
    let (mut seen, is_short) = (HashMap::new(), list.len() <= FEW);
    for (index, item) in list.iter().enumerate() {
        let first = if is_short {
            list[..index].iter().rfind(|it| it.value == item.value).map(|it| it.span)
        } else {
            seen.insert(&item.value, item.span)
        };
        if let Some(first) = first {
            let first = cx.place(first);
            cx.error(Code::Duplicate, item.span, format!("the same {what} twice"))
                .label("again here")
                .related(first, "first here")
                .help("take one of them away");
        }
    }
}

fn origin(span: Span, cx: &Cx) -> Origin {
    Origin(cx.place(span))
}

/// Warns of what nobody uses.
fn unused(tables: &Tables<'_>, policies: &Policies, used: &BTreeSet<Name>, cx: &mut Cx) {
    for (name, at, _) in tables.policies.read().filter(|(name, ..)| !policies.used.contains(*name)) {
        cx.error(Code::Unused, at.span, format!("nobody uses the policy `{name}`"))
            .warning()
            .help(format!("add `use: [{name}]` to a route, a group or a listener, or take it away"));
    }
    for (name, at, _) in tables.upstreams.read().filter(|(name, ..)| !used.contains(*name)) {
        cx.error(Code::Unused, at.span, format!("no route goes to the upstream `{name}`"))
            .warning()
            .help(format!("add a route with `upstream: {name}`, or take it away"));
    }
}
