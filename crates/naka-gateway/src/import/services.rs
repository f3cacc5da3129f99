//! Services that requests are sent to, and the upstreams they become.
//!
//! Where the endpoints of a service are, its resources do not say: a cluster knows. Here it is said by
//!
//! 1. the file of `--endpoints`, by `service/subset` or by `service`, with labels;
//! 2. else, of a service without a subset, its name in DNS;
//! 3. else, of a subset, a file that is not there yet: so its requests are 503 until somebody writes it, and never go to the
//!    wrong ones. DNS knows no labels.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    out::{Entry, Keys, Out},
    report::Findings,
};
use crate::config::{Cx, Decode as _, Node, RawEndpoints, Span, Value, show_duration};

/// The longest wait for the head of an answer, if nothing is said.
const USUAL_HEADERS: Duration = Duration::from_secs(10);
/// The longest time of a whole request, if nothing is said.
const USUAL_TOTAL: Duration = Duration::from_secs(30);
/// As good as no bound.
const VERY_LONG: Duration = Duration::from_hours(24);

/// Who a request is sent to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) subset: Option<String>,
}

/// Whose endpoints they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    /// A service of the cluster.
    Cluster { name: String, namespace: String },
    /// Any other name.
    Other(String),
}

impl Host {
    /// As it is said in `namespace`: a name without a dot is a service there.
    pub(super) fn read(text: &str, namespace: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let parts = text.split('.').collect::<Vec<_>>();
        match parts.as_slice() {
            [name] => Self::Cluster { name: (*name).into(), namespace: namespace.into() },
            [name, namespace, "svc", ..] => {
                Self::Cluster { name: (*name).into(), namespace: (*namespace).into() }
            }
            _ => Self::Other(text),
        }
    }

    /// Its name in DNS.
    pub(super) fn dns(&self) -> String {
        match self {
            Self::Cluster { name, namespace } => format!("{name}.{namespace}.svc.cluster.local"),
            Self::Other(host) => host.clone(),
        }
    }

    fn short(&self) -> &str {
        match self {
            Self::Cluster { name, .. } => name,
            Self::Other(host) => host,
        }
    }

    /// Under which names a file of endpoints may have it.
    fn names(&self) -> Vec<String> {
        match self {
            Self::Cluster { name, namespace } => {
                vec![self.dns(), format!("{name}.{namespace}"), name.clone()]
            }
            Self::Other(host) => vec![host.clone()],
        }
    }
}

/// The longest time of a whole request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Total {
    /// Nothing is said of it.
    Usual,
    /// There is no bound.
    Never,
    Within(Duration),
}

impl Total {
    /// As it is said: nothing at all is no bound.
    pub(super) fn of(said: Option<Duration>) -> Self {
        match said {
            None => Self::Usual,
            Some(Duration::ZERO) => Self::Never,
            Some(time) => Self::Within(time),
        }
    }

    /// `None` is no bound.
    pub(super) const fn bound(self) -> Option<Duration> {
        match self {
            Self::Usual => Some(USUAL_TOTAL),
            Self::Never => None,
            Self::Within(time) => Some(time),
        }
    }

    /// What a route says of it.
    pub(super) fn written(self) -> Option<(String, Out)> {
        let total = match self {
            Self::Usual => return None,
            Self::Never => "never".into(),
            Self::Within(time) => show_duration(time),
        };
        Some(("timeouts".into(), Out::map([("total", Out::plain(total))])))
    }
}

/// What is known of the routes that lead to an upstream.
#[derive(Clone, Debug, Default)]
struct Used {
    /// Their whole times; `None` is no bound.
    totals: Vec<Option<Duration>>,
    /// What one try may take, where that is said.
    per_try: Vec<Option<Duration>>,
    at: Option<Span>,
}

/// What says where endpoints are: the file of `--endpoints`.
pub(super) struct Endpoints<'a, 't> {
    of: BTreeMap<String, &'a Node<'t>>,
    used: RefCell<BTreeSet<String>>,
}

impl<'a, 't> Endpoints<'a, 't> {
    pub(super) fn none() -> Self {
        Self { of: BTreeMap::new(), used: RefCell::default() }
    }

    /// Each of its values has to be what may stand under `endpoints:`.
    pub(super) fn read(root: &'a Node<'t>, cx: &mut Cx) -> Self {
        let mut of = BTreeMap::new();
        match &root.value {
            Value::Map(entries) => {
                for (key, value) in entries {
                    cx.within(&key.text, key.span, |cx| RawEndpoints::decode(value, cx));
                    of.insert(key.text.to_ascii_lowercase(), value);
                }
            }
            _ => {
                cx.wrong_shape(
                    root,
                    "a map from services to their endpoints: `cart/v1: [\"10.0.0.7:8080\"]`",
                );
            }
        }
        Self { of, used: RefCell::default() }
    }

    /// Those of this subset, or of the service as a whole.
    fn find(&self, service: &Service) -> Option<(&'a Node<'t>, bool)> {
        let names = service.host.names();
        let of_subset = service.subset.iter().flat_map(|subset| {
            names.iter().map(move |name| (format!("{name}/{subset}").to_ascii_lowercase(), true))
        });
        let mut all = of_subset.chain(names.iter().map(|name| (name.clone(), false)));
        all.find_map(|(name, is_subset)| {
            let node = self.of.get(&name)?;
            self.used.borrow_mut().insert(name);
            Some((*node, is_subset))
        })
    }

    /// Names that nothing leads to.
    pub(super) fn unused(&self) -> Vec<(String, Span)> {
        let used = self.used.borrow();
        let unused = self.of.iter().filter(|(name, _)| !used.contains(*name));
        unused.map(|(name, node)| (name.clone(), node.span)).collect()
    }
}

/// What a resource says of a service.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// Labels of the subset; `None` if nothing defines it.
    pub(super) labels: Option<Vec<(String, String)>>,
    /// Where it is, if the resources say so.
    pub(super) endpoints: Option<Out>,
    /// All the rest, by key.
    pub(super) keys: BTreeMap<&'static str, Keys>,
    pub(super) is_h2: bool,
}

/// All services that something leads to.
#[derive(Default)]
pub(super) struct Services {
    names: BTreeMap<Service, String>,
    used: BTreeMap<Service, Used>,
    taken: BTreeSet<String>,
}

impl Services {
    /// The name of its upstream. A route that lasts no longer than `total`, each try no longer than `per_try`, leads there.
    pub(super) fn upstream(
        &mut self,
        service: &Service,
        at: Span,
        (total, per_try): (Option<Duration>, Option<Duration>),
    ) -> String {
        let used = self.used.entry(service.clone()).or_default();
        used.totals.push(total);
        used.per_try.push(per_try);
        used.at.get_or_insert(at);
        self.name(service)
    }

    /// The name of its upstream, without a route that lasts.
    pub(super) fn name(&mut self, service: &Service) -> String {
        if let Some(name) = self.names.get(service) {
            return name.clone();
        }
        let subset = service.subset.as_deref().map(|it| format!("-{it}")).unwrap_or_default();
        let (short, long, port) = (service.host.short(), service.host.dns(), service.port);
        let candidates = [
            format!("{short}{subset}"),
            format!("{short}{subset}-{port}"),
            format!("{long}{subset}"),
            format!("{long}{subset}-{port}"),
        ];
        let free = candidates.into_iter().map(|it| name_of(&it)).find(|it| !self.taken.contains(it));
        let name = free.unwrap_or_else(|| format!("upstream-{}", self.taken.len() + 1));
        self.taken.insert(name.clone());
        self.names.insert(service.clone(), name.clone());
        name
    }

    /// Whose upstream has this name.
    pub(super) fn of(&self, name: &str) -> Option<Service> {
        self.names.iter().find(|(_, it)| *it == name).map(|(service, _)| service.clone())
    }

    /// All that something leads to.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.names.keys().map(|service| &service.host)
    }

    /// All of them, as they are written.
    pub(super) fn written(
        &self,
        endpoints: &Endpoints<'_, '_>,
        findings: &mut Findings,
        mut settings: impl FnMut(&Service, &mut Findings) -> Settings,
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (service, name) in &self.names {
            let used = self.used.get(service).cloned().unwrap_or_default();
            findings.of(&format!("upstream `{name}`"));
            let Settings { labels, endpoints: known, mut keys, is_h2 } = settings(service, findings);
            let (found, only) = place(service, name, labels, known.as_ref(), endpoints, used.at, findings);
            let mut written: Keys = vec![("endpoints".into(), found)];
            if is_h2 {
                written.push(("protocol".into(), Out::plain("h2")));
            }
            if let Some(only) = only {
                keys.entry("balance").or_default().push(("only".into(), only));
            }
            let timeouts = timeouts(&used, name, findings);
            if !timeouts.is_empty() {
                keys.entry("timeouts").or_default().extend(timeouts);
            }
            written.extend(keys.into_iter().map(|(key, inner)| (key.to_owned(), Out::Map(inner))));
            entries.push(Entry { name: name.clone(), remark: String::new(), keys: written });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }
}

/// Where its endpoints are, and which labels they need.
fn place(
    service: &Service,
    name: &str,
    labels: Option<Vec<(String, String)>>,
    known: Option<&Out>,
    endpoints: &Endpoints<'_, '_>,
    at: Option<Span>,
    findings: &mut Findings,
) -> (Out, Option<Out>) {
    let file = || Out::map([("file", Out::text(format!("endpoints/{name}.yaml")))]);
    match (endpoints.find(service), &service.subset) {
        (Some((node, true)), _) | (Some((node, false)), None) => return (Out::copied(node), None),
        (Some((node, false)), Some(_)) => {
            let labels = labels.unwrap_or_default();
            if labels.is_empty() {
                return (file(), None);
            }
            if let Some(wrong) = lacks(node, &labels) {
                findings.error(
                    wrong,
                    format!("no endpoint of `{}` has the labels of the subset `{name}`", service.host.dns()),
                    format!("add them: `labels: {{{}}}`", shown(&labels)),
                );
                return (file(), None);
            }
            let only = Out::map(labels.into_iter().map(|(key, value)| (key, Out::text(value))));
            return (Out::copied(node), Some(only));
        }
        (None, _) => {}
    }
    if let (Some(known), None) = (known, &service.subset) {
        return (known.clone(), None);
    }
    let Some(subset) = &service.subset else {
        return (Out::map([("dns", Out::text(format!("{}:{}", service.host.dns(), service.port)))]), None);
    };
    if let Some(at) = at {
        let said =
            labels.filter(|it| !it.is_empty()).map(|it| format!(" ({})", shown(&it))).unwrap_or_default();
        findings.needs(
            at,
            format!(
                "which endpoints of `{}` are its subset `{subset}`{said}, DNS does not know; until that is said, the upstream `{name}` answers 503",
                service.host.dns()
            ),
            format!(
                "write their addresses into `endpoints/{name}.yaml` beside the configuration, `- 10.0.0.7:{}`; or import again with `--endpoints FILE` and `{}/{subset}: [\"10.0.0.7:{}\"]` in it",
                service.port, service.host.short(), service.port
            ),
        );
    }
    (file(), None)
}

fn shown(labels: &[(String, String)]) -> String {
    labels.iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join(", ")
}

/// Where a list stands none of whose endpoints has these labels.
fn lacks(node: &Node<'_>, labels: &[(String, String)]) -> Option<Span> {
    let Value::Seq(items) = &node.value else { return None };
    let map = |node: &Node<'_>, key: &str| match &node.value {
        Value::Map(entries) => {
            entries.iter().find(|(it, _)| it.text == key).map(|(_, it)| it.clone().into_owned())
        }
        _ => None,
    };
    let has = |item: &Node<'_>| {
        let said = map(item, "labels");
        labels.iter().all(|(key, value)| {
            let it = said.as_ref().and_then(|said| map(said, key));
            it.is_some_and(|it| matches!(&it.value, Value::Scalar(it) if it.text == *value))
        })
    };
    (!items.iter().any(has)).then_some(node.span)
}

/// The waits of an upstream, as long as those of the routes that lead there.
fn timeouts(used: &Used, name: &str, findings: &mut Findings) -> Keys {
    let mut keys = Keys::new();
    let said: BTreeSet<_> = used.per_try.iter().flatten().copied().collect();
    let per_try = match (said.last(), used.per_try.iter().all(Option::is_some)) {
        (Some(longest), true) => Some(*longest),
        _ => None,
    };
    if let Some(at) = used.at.filter(|_| said.len() > 1 || !said.is_empty() && per_try.is_none()) {
        findings.changed(
            at,
            match per_try {
                Some(longest) => format!(
                    "routes to `{name}` give their tries different times; here that is a matter of the upstream, and the longest counts: {}",
                    show_duration(longest)
                ),
                None => format!(
                    "some routes to `{name}` bound their tries, and others do not; here that is a matter of the upstream, and so none is bound"
                ),
            },
            format!("write `timeouts: {{per_try: …}}` into the upstream `{name}`, or a second upstream of the same endpoints"),
        );
    }
    let longest = used.totals.iter().map(|it| it.unwrap_or(VERY_LONG)).max().unwrap_or(USUAL_HEADERS);
    let headers = per_try.map_or(longest, |per_try| longest.min(per_try));
    if headers != USUAL_HEADERS {
        keys.push(("response_headers".into(), Out::plain(show_duration(headers))));
    }
    if let Some(per_try) = per_try {
        keys.push(("per_try".into(), Out::plain(show_duration(per_try))));
    }
    keys
}

/// A name as the grammar has it, as near as can be.
pub(super) fn name_of(text: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name = text.chars().map(fits).take(100).collect::<String>();
    if name.is_empty() { "unnamed".into() } else { name }
}
