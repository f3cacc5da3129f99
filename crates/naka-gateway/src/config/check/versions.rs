//! Versions of an API: names that exist, and lives that go forward.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{limits::rate_limit, policies::Policies, routes::rewrite_of, split::Place, unique};
use crate::config::{
    checked::{Kind, Lifecycle, Name, PathPattern, Segment, Version, VersionPlace, VersionTarget, Versions},
    decode::{At, Cx},
    diagnostic::Code,
    node::Span,
    raw::{RawLifecycle, RawOnConflict, RawVersion, RawVersions},
    suggest::{nearest, one_of},
    units::Time,
    values::Id,
};

/// The versions of a route.
pub(super) fn versions(
    here: Place<'_>,
    path: Option<&PathPattern>,
    raw: &RawVersions,
    policies: &mut Policies,
    cx: &mut Cx,
) -> Option<Versions> {
    let places = places(raw, path, cx);
    let of = raw.of.as_ref()?;
    if of.value.0.is_empty() {
        cx.error(Code::Value, of.span, "no versions at all")
            .help("write at least one: `of: {v1: {upstream: app}}`");
    }
    let names = of.value.0.iter().map(|(name, _)| Arc::clone(&name.value.0)).collect::<Vec<_>>();
    let known = |at: &At<Id>, what: &str, cx: &mut Cx| {
        if names.contains(&at.value.0) {
            return;
        }
        let it = cx.error(Code::UnknownName, at.span, format!("{what} `{}` is no version here", at.value));
        match nearest(&at.value.0, names.iter().map(|name| &**name)) {
            Some(meant) => it.label(format!("did you mean `{meant}`?")).help(format!("write `{meant}`")),
            None => it.help(format!("the versions are {}", one_of(names.iter().map(|name| &**name)))),
        };
    };
    if let Some(default) = &raw.default {
        known(default, "the default", cx);
    }
    let mut it = BTreeMap::new();
    for (name, value) in &of.value.0 {
        let Some(version) = value else { continue };
        if let Some(successor) = version.lifecycle.as_ref().and_then(|it| it.value.successor.as_ref()) {
            known(successor, "the successor", cx);
        }
        let version = version_of(here, name, version, policies, cx);
        it.extend(version.map(|version| (Arc::clone(&name.value.0), version)));
    }
    if let Some(strip) = raw.strip.as_ref().filter(|strip| strip.value) {
        stripped(strip, &places, here.captures, cx);
    }
    (it.len() == names.len()).then(|| Versions {
        places,
        default: raw.default.as_ref().map(|at| Arc::clone(&at.value.0)),
        refuses_conflicts: raw.on_conflict() == RawOnConflict::Reject,
        strip: raw.strip(),
        of: it.into_values().collect(),
    })
}

/// Where a request says it; in the path it is where the match has `{version}`, else behind the prefix.
fn places(raw: &RawVersions, path: Option<&PathPattern>, cx: &mut Cx) -> Vec<VersionPlace> {
    let default = [
        VersionPlace::Path(None),
        VersionPlace::Header("x-api-version".parse().expect("it is a name")),
        VersionPlace::Accept(None),
    ];
    let said = raw.by.as_ref().map(|by| {
        let named =
            |at: &At<VersionPlace>| At { value: format!("{:?}", at.value), span: at.span, key: at.key };
        unique(&by.value.0.iter().map(named).collect::<Vec<_>>(), "place", cx);
        by.value.0.iter().map(|at| at.value.clone()).collect::<Vec<_>>()
    });
    let segments = match path {
        Some(PathPattern::Whole(segments) | PathPattern::Prefix(segments)) => &segments[..],
        _ => &[],
    };
    let captured = segments.iter().position(|it| matches!(it, Segment::Param(name) if &**name == "version"));
    for at in raw.by.iter().flat_map(|by| &by.value.0) {
        let VersionPlace::Path(Some(number)) = at.value else { continue };
        let Some(Segment::Literal(always)) = segments.get(number) else { continue };
        cx.error(Code::Conflict, at.span, format!("this segment is always `{always}`"))
            .help("write `path` for the one behind the prefix, or `{version}` into the path");
    }
    let settled = |place| match place {
        VersionPlace::Path(None) => VersionPlace::Path(Some(captured.unwrap_or(segments.len()))),
        other => other,
    };
    said.unwrap_or_else(|| default.to_vec()).into_iter().map(settled).collect()
}

/// A segment that is taken away moves all that captures stand for.
fn stripped(strip: &At<bool>, places: &[VersionPlace], captures: Option<&[Arc<str>]>, cx: &mut Cx) {
    if !places.iter().any(|place| matches!(place, VersionPlace::Path(_))) {
        cx.error(Code::Conflict, strip.key, "`strip` without `path` takes nothing away")
            .help("add `path` to `by:`, or take `strip` away");
    }
    if captures.is_some_and(|captures| !captures.is_empty()) {
        cx.error(Code::Conflict, strip.key, "`strip` beside captures")
            .help("write `rewrite: {path: …}` with the captures for each version, and no `strip`");
    }
}

fn version_of(
    here: Place<'_>,
    name: &At<Id>,
    raw: &RawVersion,
    policies: &mut Policies,
    cx: &mut Cx,
) -> Option<Version> {
    let Place { tables, route, captures, .. } = here;
    let upstream = raw.upstream.as_ref().and_then(|name| tables.upstreams.resolve(name, cx));
    let split = raw.split.as_ref().and_then(|at| here.split(at, cx));
    if let (Some(first), Some(second)) = (raw.said("upstream"), raw.said("split")) {
        let place = cx.place(first);
        cx.error(Code::Conflict, second, "`split` beside `upstream`")
            .related(place, "the first")
            .help("a version is served in one way: keep one of the two");
    }
    if raw.said("upstream").or(raw.said("split")).is_none() {
        cx.error(Code::Missing, name.span, format!("the version `{}` goes nowhere", name.value))
            .label("needs `upstream` or `split`")
            .help("add `upstream: name`");
    }
    let owner =
        At { value: Id(format!("{}/{}", route.value, name.value).into()), span: name.span, key: name.key };
    let limit = |raw: &_, _: Span, cx: &mut Cx| rate_limit(raw, &tables.stores, cx);
    let rate_limit =
        policies.inlined(tables, &owner, (Kind::RateLimit, raw.rate_limit.as_deref()), limit, cx);
    let rewrite = raw.rewrite.as_ref().map(|at| rewrite_of(&at.value, captures, cx));
    let lifecycle = raw.lifecycle.as_ref().map(|at| lifecycle(name, &at.value, cx)).unwrap_or_default();
    Some(Version {
        name: Arc::clone(&name.value.0),
        aliases: raw
            .aliases
            .iter()
            .flat_map(|list| list.value.0.iter().map(|at| Arc::clone(&at.value)))
            .collect(),
        lifecycle,
        to: upstream.map(VersionTarget::Upstream).or(split.map(VersionTarget::Split))?,
        rewrite,
        rate_limit: rate_limit.map(|(name, _): (Name, Span)| name),
    })
}

fn lifecycle(name: &At<Id>, raw: &RawLifecycle, cx: &mut Cx) -> Lifecycle {
    let life = [
        ("since", &raw.since),
        ("maintenance", &raw.maintenance),
        ("deprecated", &raw.deprecated),
        ("sunset", &raw.sunset),
        ("removed", &raw.removed),
    ];
    let said = life.into_iter().filter_map(|(word, at)| Some((word, at.as_ref()?))).collect::<Vec<_>>();
    for pair in said.windows(2) {
        let [(first, one), (then, other)] = pair else { continue };
        if other.value < one.value {
            let place = cx.place(one.span);
            cx.error(Code::Conflict, other.span, format!("`{}`: `{then}` is before `{first}`", name.value))
                .related(place, format!("`{first}`"))
                .help(format!("write a `{then}` that is not before it"));
        }
    }
    if let (Some(sunset), None, None) = (&raw.sunset, raw.said("successor"), raw.said("docs")) {
        cx.error(
            Code::Missing,
            sunset.key,
            format!("`{}` ends, and nobody is told what to do then", name.value),
        )
        .warning()
        .help("write `successor: v2`, `docs: https://…` or both");
    }
    let brownouts = raw.brownouts.iter().flat_map(|list| &list.value);
    let brownouts = brownouts.filter_map(|at| {
        let (from, until) = (at.value.from.as_ref()?, at.value.until.as_ref()?);
        if until.value <= from.value {
            let place = cx.place(from.span);
            cx.error(Code::Conflict, until.span, "a brown-out ends before it begins")
                .related(place, "it begins")
                .help("write an `until` after its `from`");
        }
        Some(Range { start: from.value.0, end: until.value.0 })
    });
    let brownouts = brownouts.collect();
    let at = |time: &Option<Box<At<Time>>>| time.as_ref().map(|at| at.value.0);
    Lifecycle {
        since_s: at(&raw.since),
        maintenance_s: at(&raw.maintenance),
        deprecated_s: at(&raw.deprecated),
        sunset_s: at(&raw.sunset),
        removed_s: at(&raw.removed),
        successor: raw.successor.as_ref().map(|at| Arc::clone(&at.value.0)),
        docs: raw.docs.as_ref().map(|at| Arc::clone(&at.value)),
        brownouts,
    }
}
