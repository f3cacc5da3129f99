//! Splits: shares that somebody gets, pins that lead somewhere, guards that can hold somebody.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    Tables,
    policies::{Level, Policies},
    unique,
};
use crate::config::{
    checked::{Auth, IdentityPart, KeyPart, Name, Pinned, Split, SplitGuard, SplitPin},
    decode::{At, Cx},
    diagnostic::Code,
    node::Span,
    raw::{RawPin, RawSplit, RawSplitGuard, Share},
    suggest::{nearest, one_of},
    units::Whole,
    values::Id,
};

/// The most upstreams of one split.
const MAX_ARMS: usize = 32;
/// The most pins of one split.
const MAX_PINS: usize = 64;

const NONE: Share = Whole(0);

/// Where a split stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) tables: &'a Tables<'a>,
    pub(super) route: &'a At<Id>,
    /// What stands over the route.
    pub(super) level: &'a Level,
    pub(super) captures: Option<&'a [Arc<str>]>,
    pub(super) auth: Auth,
}

impl Place<'_> {
    /// Its split.
    pub(super) fn split(&self, at: &At<RawSplit>, cx: &mut Cx) -> Option<Split> {
        let raw = &at.value;
        let to = self.arms(at, cx);
        let by = self.key(raw, cx);
        let pins = self.pins(raw, cx);
        let guard = raw.guard.as_ref().map(|guard| self.guard(guard, raw, cx));
        without_anybody(raw, &pins, cx);
        Some(Split { to: to?, by, pins: pins.into_iter().collect::<Option<_>>()?, guard: guard.flatten() })
    }

    fn arms(&self, at: &At<RawSplit>, cx: &mut Cx) -> Option<Vec<(Name, u32)>> {
        let to = at.value.to.as_ref()?;
        let arms = &to.value.0;
        if arms.len() < 2 && to.value.1 {
            let what =
                if arms.is_empty() { "a split without upstreams" } else { "a split with one upstream" };
            cx.error(Code::Value, to.span, what).help(
                "write two or more, `to: {app: 95, app-v2: 5}`; or `upstream: app` in place of the split",
            );
        }
        if arms.len() > MAX_ARMS {
            cx.error(Code::Value, to.span, format!("a split with {} upstreams", arms.len()))
                .help(format!("write at most {MAX_ARMS}"));
        }
        let shares = arms.iter().map(|(_, share)| share.as_ref().map(|share| share.0));
        if arms.len() >= 2 && shares.clone().all(|share| share == Some(0)) {
            cx.error(Code::Value, to.span, "nobody has a share: no request could go anywhere")
                .help("write a number above 0 for at least one of them: `app: 100`");
        }
        let names = arms.iter().map(|(name, _)| self.tables.upstreams.resolve(name, cx)).collect::<Vec<_>>();
        let shares = shares.map(|share| u32::try_from(share?).ok());
        let arms = names.into_iter().zip(shares).map(|(name, share)| Some((name?, share?)));
        let mut arms = arms.collect::<Option<Vec<_>>>()?;
        arms.sort(); // In which order they are written means nothing.
        Some(arms)
    }

    /// By what a request keeps its upstream; all of it has to be there.
    fn key(&self, raw: &RawSplit, cx: &mut Cx) -> Vec<KeyPart> {
        let Some(by) = &raw.by else { return Vec::new() };
        let named = |at: &At<KeyPart>| At { value: format!("{:?}", at.value), span: at.span, key: at.key };
        unique(&by.value.0.iter().map(named).collect::<Vec<_>>(), "part", cx);
        if by.value.0.is_empty() {
            cx.error(Code::Value, by.span, "a key without parts")
                .help("write `by: client_ip` or another part; or take `by` away, and they take turns");
        }
        for at in &by.value.0 {
            match &at.value {
                KeyPart::Route => {
                    cx.error(Code::Conflict, at.span, "`route` is the same for all requests of a split")
                        .help("write what is the same for all requests of one user: `by: jwt.sub`, `by: client_ip`");
                }
                KeyPart::Capture(capture) => {
                    let Some(known) = self.captures.filter(|all| !all.contains(capture)) else { continue };
                    let has = if known.is_empty() {
                        "its match has no capture".into()
                    } else {
                        format!("its match has {}", one_of(known.iter().map(|it| &**it)))
                    };
                    let message = format!("the route `{}` has no capture `{{{capture}}}`", self.route.value);
                    cx.error(Code::UnknownName, at.span, message)
                        .label(has)
                        .help(format!("add `/{{{capture}}}` to its path, or take another part"));
                }
                KeyPart::Identity(part) if !Policies::knows(self.level, part) => {
                    self.nobody_is_known(at.span, cx);
                }
                KeyPart::Identity(part) if self.may_lack(part) => self.may_be_nobody(at.span, cx),
                _ => {}
            }
        }
        by.value.0.iter().map(|at| at.value.clone()).collect()
    }

    /// Whether those who bring no credentials pass and lack this.
    pub(super) fn may_lack(&self, part: &IdentityPart) -> bool {
        let is_shown = self.level.has_certificates() && *part == IdentityPart::Subject;
        self.auth == Auth::Optional && !is_shown && !self.level.is_incomplete()
    }

    /// Reports a key that only those have who say who they are.
    fn may_be_nobody(&self, span: Span, cx: &mut Cx) {
        let message = format!(
            "whoever brings no credentials passes on the route `{}`, and has no key for its split: they would change sides with each request",
            self.route.value
        );
        cx.error(Code::Conflict, span, message)
            .help("split by what everybody has: `by: client_ip`; or take `auth: optional` away")
            .combined();
    }

    /// Reports a key that nobody can have.
    fn nobody_is_known(&self, span: Span, cx: &mut Cx) {
        let route = &self.route.value;
        let message =
            format!("nothing on the route `{route}` finds out who asks, so that its split has no key");
        let help = if self.auth == Auth::None {
            "take `auth: none` away, or split by what everybody has: `by: client_ip`"
        } else {
            "add a policy that finds out, such as `jwt` or `api_key`, to the route, its group or its listener, or `client_ca` to the listener's `tls`; or split by what everybody has: `by: client_ip`"
        };
        cx.error(Code::Conflict, span, message).help(help).combined();
    }

    /// Reports a name that is none of the split's.
    fn known(&self, name: &At<Id>, what: &str, raw: &RawSplit, cx: &mut Cx) -> Option<Name> {
        let to = raw.to.as_ref()?;
        let names = || to.value.0.iter().map(|(name, _)| &*name.value.0);
        if names().any(|known| *known == *name.value.0) {
            return Some(Arc::clone(&name.value.0));
        }
        if to.value.1 {
            let place = cx.place(to.span);
            let message = format!("{what} `{}` is none of this split's", name.value);
            let it = cx.error(Code::UnknownName, name.span, message).related(place, "the split's");
            match nearest(&name.value.0, names()) {
                _ if self.tables.upstreams.entries.contains_key(&name.value.0) => it
                    .help(format!("add `{}:` to `to`, with the share 0 if only pins lead there", name.value)),
                Some(meant) => it.label(format!("did you mean `{meant}`?")).help(format!("write `{meant}`")),
                None => it.help(format!("write {}", one_of(names()))),
            };
        }
        None
    }

    fn pins(&self, raw: &RawSplit, cx: &mut Cx) -> Vec<Option<SplitPin>> {
        let Some(all) = &raw.pin else { return Vec::new() };
        if all.value.len() > MAX_PINS {
            cx.error(Code::Value, all.span, format!("{} pins", all.value.len()))
                .help(format!("write at most {MAX_PINS}"));
        }
        let mut seen = HashMap::new();
        let mut one = |at: &At<RawPin>| {
            let who = pinned(at, cx);
            let to = at.value.to.as_ref().and_then(|to| self.known(to, "the pin's", raw, cx));
            if let Some(first) = who.as_ref().and_then(|who| seen.insert(format!("{who:?}"), at.span)) {
                let place = cx.place(first);
                cx.error(
                    Code::Duplicate,
                    at.span,
                    "whom this pin is about, an earlier one has sent off already",
                )
                .related(place, "the earlier one")
                .help("take one of them away: the first that applies counts");
            }
            Some(SplitPin { who: who?, to: to? })
        };
        all.value.iter().map(&mut one).collect()
    }

    fn guard(&self, at: &At<RawSplitGuard>, raw: &RawSplit, cx: &mut Cx) -> Option<SplitGuard> {
        let RawSplitGuard { error_rate, window, baseline, .. } = &at.value;
        let range = Duration::from_millis(100)..=Duration::from_hours(1);
        if let Some(window) = window.as_ref().filter(|window| !range.contains(&window.value)) {
            cx.error(Code::Value, window.span, "a window of this length").help("write `100ms` to `1h`");
        }
        let shares = raw.to.iter().flat_map(|to| &to.value.0);
        let has_share = |name: &Id| {
            let mut shares = shares.clone();
            shares.any(|(known, share)| known.value == *name && share.is_none_or(|share| share.0 > 0))
        };
        if let Some(at) = baseline
            && self.known(at, "the baseline", raw, cx).is_some()
            && !has_share(&at.value)
        {
            cx.error(Code::Conflict, at.span, format!("the baseline `{}` has no share", at.value)).help(
                "write a number above 0 for it in `to`, or another baseline: the others are measured by it",
            );
        }
        let with_share = shares.clone().filter(|(name, _)| has_share(&name.value)).count();
        if with_share == 1 && shares.clone().count() > 1 {
            cx.error(
                Code::Unused,
                at.key,
                "only one of the split's has a share, and it is the baseline: nobody is guarded",
            )
            .warning()
            .help("give another one a share, or take `guard` away: who is only pinned is not measured");
        }
        Some(SplitGuard {
            error_rate_bp: error_rate.as_ref()?.value.0,
            min_requests: u32::try_from(at.value.min_requests().0).unwrap_or(u32::MAX),
            window: at.value.window(),
            baseline: baseline.as_ref().map(|at| Arc::clone(&at.value.0)),
        })
    }
}

/// One header or one cookie.
fn pinned(at: &At<RawPin>, cx: &mut Cx) -> Option<Pinned> {
    let RawPin { header, cookie, .. } = &at.value;
    let headers = header.iter().flat_map(|it| &it.value.0);
    let cookies = cookie.iter().flat_map(|it| &it.value.0);
    let headers = headers.map(|(name, value)| Some(Pinned::Header(name.value.clone(), value.clone()?)));
    let cookies = cookies
        .map(|(name, value)| Some(Pinned::Cookie(Arc::clone(&name.value.0), Arc::clone(&value.as_ref()?.0))));
    let mut all = headers.chain(cookies).collect::<Vec<_>>();
    let is_read = header.as_ref().is_none_or(|it| it.value.1) && cookie.as_ref().is_none_or(|it| it.value.1);
    // A key that could not be read, or that nobody knows, was meant for something.
    let is_unread = at.value.said.iter().any(|said| match &*said.meant {
        "header" => header.is_none(),
        "cookie" => cookie.is_none(),
        other => other != "to",
    });
    if all.len() == 1 {
        return all.remove(0);
    }
    if is_read && !is_unread {
        let what = if all.is_empty() { "a pin for nobody" } else { "a pin for several things at once" };
        cx.error(Code::Value, at.span, what)
            .help("write one header or one cookie, `header: {x-canary: \"1\"}`, and another pin for another");
    }
    None
}

/// Warns of an upstream to which no share and no pin leads.
fn without_anybody(raw: &RawSplit, pins: &[Option<SplitPin>], cx: &mut Cx) {
    let Some(pins) = pins.iter().map(Option::as_ref).collect::<Option<Vec<_>>>() else { return };
    if raw.said("pin").is_some() && raw.pin.is_none() {
        return; // It could not be read, and may lead there.
    }
    let arms = raw.to.iter().flat_map(|to| &to.value.0);
    if arms.clone().all(|(_, share)| *share == Some(NONE)) {
        return; // That is reported.
    }
    let leads_nowhere = |name: &Id| pins.iter().all(|pin| pin.to != name.0);
    let without = arms.filter(|(name, share)| *share == Some(NONE) && leads_nowhere(&name.value));
    for (name, _) in without {
        cx.error(
            Code::Unused,
            name.span,
            format!("nobody goes to `{}`: it has no share, and no pin", name.value),
        )
        .warning()
        .help(format!(
            "add a pin, `pin: [{{header: {{x-canary: \"1\"}}, to: {}}}]`, or give it a share",
            name.value
        ));
    }
}
