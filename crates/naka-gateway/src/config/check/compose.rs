//! Compositions: calls that somebody uses and that can be made, values that somebody has.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{HeaderName, Method, header::COOKIE};
use naka::compose::{
    Call, ComposeConfig, ComposeError, ERRORS, MAX_CALLS, NEVER_SENT, Otherwise, Plan, Shape, Template,
};

use super::{
    guards,
    policies::{Level, Policies},
    routes::no_effect_of,
    split::Place,
    unique,
};
use crate::config::{
    checked::{
        Auth, Compose, ComposeCall, IdentityPart, KeyPart, Kind, Name, PathPattern, PolicyKind, Segment,
        Upstream,
    },
    decode::{At, Cx},
    diagnostic::Code,
    node::Span,
    raw::{CallName, RawCall, RawCompose, RawRoute, RawShape},
    suggest::{nearest, one_of},
    units::show_duration,
    values::Id,
};

/// The composition of a route.
pub(super) fn compose(
    here: Place<'_>,
    path: Option<&PathPattern>,
    at: &At<RawCompose>,
    policies: &mut Policies,
    cx: &mut Cx,
) -> Option<Compose> {
    let raw = &at.value;
    let calls = raw.calls.as_ref()?;
    let is_whole = calls.value.1 && calls.value.0.iter().all(|(_, call)| call.is_some());
    if calls.value.0.is_empty() && calls.value.1 {
        cx.error(Code::Value, calls.span, "a composition without calls")
            .help("write at least one: `calls: {order: {upstream: orders, path: \"/orders/{id}\"}}`");
        return None;
    }
    if calls.value.0.len() > MAX_CALLS {
        cx.error(Code::Value, calls.span, format!("a composition of {} calls", calls.value.0.len())).help(
            format!(
                "write at most {MAX_CALLS}: gather what is of one kind with `*` into one call, `?ids={{order.body.items.*.id}}`"
            ),
        );
    }
    let names = calls.value.0.iter().map(|(name, _)| &*name.value.0).collect::<Vec<_>>();
    let values = Values { here, path, names: &names, is_whole };
    if let Some(headers) = &raw.headers {
        unique(&headers.value.0, "header", cx);
        for name in headers.value.0.iter().filter(|name| NEVER_SENT.contains(&name.value)) {
            cx.error(Code::Value, name.span, format!("`{}` is not sent along with a call", name.value)).help(
                "take it out: calls have no body, and are asked for a whole answer, in JSON and without a coding",
            );
        }
    }
    let mut given = Vec::new();
    let (mut made, mut to) = (Vec::new(), Vec::new());
    for (name, call) in &calls.value.0 {
        let Some(call) = call else { continue };
        if let Some(path) = &call.path {
            let is_required = call.required() && call.default.is_none();
            given.extend(values.of_target(path.span, &path.value.0, is_required, cx));
        }
        values.needs(name, call, cx);
        let of = call_of(name, call, cx);
        let goes = goes(here, name, call, policies, cx);
        if let (Some(of), Some(goes)) = (of, goes) {
            made.push(of);
            to.push(goes);
        }
    }
    let body = raw.body.as_ref();
    for template in body.iter().flat_map(|body| body.value.templates()) {
        given.extend(values.of(template.span, &template.value, false, cx));
    }
    errors_is_ours(raw, cx);
    if !is_whole || made.len() != calls.value.0.len() || raw.said("body").is_some() && body.is_none() {
        return None;
    }
    for (call, to) in made.iter_mut().zip(&to) {
        // What is retried, or left alone, in another way is not the same call.
        let ways = [Some(&to.upstream), to.retry.as_ref(), to.circuit_breaker.as_ref()];
        call.service = ways.into_iter().flatten().map(|name| &**name).collect::<Vec<_>>().join(" ").into();
    }
    let mut config = ComposeConfig::new(made)
        .max_in_flight(usize::try_from(raw.max_in_flight().0).unwrap_or(usize::MAX))
        .max_part(raw.max_part().0)
        .max_body(raw.max_body().0);
    config.body = body.map(|body| shape_of(&body.value));
    let plan = match config.check() {
        Ok(plan) => plan,
        Err(error) => {
            wrong_plan(&error, at, &names, cx);
            return None;
        }
    };
    needs_what_may_fail(&plan, calls.value.0.iter().map(|(name, _)| name), cx);
    let part = |name: &Arc<str>| given.iter().find(|(known, _)| known == name).cloned();
    let given = plan.given().iter().map(part).collect::<Option<Vec<_>>>()?;
    let headers = raw.headers.iter().flat_map(|it| it.value.0.iter().map(|at| at.value.clone()));
    Some(Compose { plan, calls: to, given, headers: headers.collect() })
}

/// What a call is.
fn call_of(name: &At<CallName>, raw: &RawCall, cx: &mut Cx) -> Option<Call> {
    if let Some(method) =
        raw.method.as_ref().filter(|at| !matches!(at.value, Method::GET | Method::HEAD | Method::OPTIONS))
    {
        let message = format!(
            "the call `{}` is made by {}, which may change something, and a composition undoes nothing",
            name.value.0, method.value
        );
        cx.error(Code::Value, method.span, message).help(
            "write `GET` or `HEAD`; what changes several services is a process of its own: let one service do it in steps that it can undo (a saga), and route to that",
        );
    }
    let fails = raw.required.as_ref().filter(|at| at.value);
    if let (Some(required), Some(default)) = (fails, &raw.default) {
        let place = cx.place(required.key);
        cx.error(Code::Conflict, default.key, "a default of what is required")
            .related(place, "required here")
            .help("take `default` away, or `required: true`: what has a default is not required");
    }
    let is_required = raw.required();
    let otherwise = match &raw.default {
        Some(default) => Otherwise::Default(Arc::clone(&default.value.0)),
        None if is_required => Otherwise::Fail,
        None => Otherwise::LeaveOut,
    };
    let needs = raw.needs.iter().flat_map(|needs| &needs.value.0).map(|need| Arc::clone(&need.value.0));
    let total = raw.timeouts.as_ref().map_or_else(|| Duration::from_secs(10), |at| at.value.total());
    let target = raw.path.as_ref()?.value.0.clone();
    Some(
        Call::get(&name.value.0, "", target)
            .method(raw.method())
            .needs(needs)
            .otherwise(otherwise)
            .timeout(total)
            .max_values(usize::try_from(raw.max_values().0).unwrap_or(usize::MAX)),
    )
}

/// Where a call goes.
fn goes(
    here: Place<'_>,
    name: &At<CallName>,
    raw: &RawCall,
    policies: &mut Policies,
    cx: &mut Cx,
) -> Option<ComposeCall> {
    let Place { tables, route, .. } = here;
    let upstream = raw.upstream.as_ref().and_then(|upstream| tables.upstreams.resolve(upstream, cx));
    let owner =
        At { value: Id(format!("{}/{}", route.value, name.value.0).into()), span: name.span, key: name.key };
    let retry = policies.inlined(
        tables,
        &owner,
        (Kind::Retry, raw.retry.as_deref()),
        |raw, _, cx| Some(guards::retry(raw, cx)),
        cx,
    );
    let breaker = policies.inlined(
        tables,
        &owner,
        (Kind::CircuitBreaker, raw.circuit_breaker.as_deref()),
        |raw, _, cx| Some(guards::route_breaker(raw, cx)),
        cx,
    );
    let is_unread = |key: &str, read: bool| raw.said(key).is_some() && !read;
    if is_unread("retry", retry.is_some()) || is_unread("circuit_breaker", breaker.is_some()) {
        return None;
    }
    let (retry, circuit_breaker) = (retry.map(|(name, _)| name), breaker.map(|(name, _)| name));
    Some(ComposeCall { upstream: upstream?, retry, circuit_breaker })
}

fn shape_of(raw: &RawShape) -> Shape {
    match raw {
        RawShape::Object(members) => Shape::Object(
            members.iter().map(|(name, raw)| (Arc::clone(&name.value), shape_of(raw))).collect(),
        ),
        RawShape::List(items) => Shape::List(items.iter().map(shape_of).collect()),
        RawShape::Text(template) => Shape::Text(template.value.clone()),
        RawShape::Json(text) => Shape::Json(Arc::clone(text)),
    }
}

/// Reports an answer that says `errors` itself.
fn errors_is_ours(raw: &RawCompose, cx: &mut Cx) {
    let Some(body) = &raw.body else { return };
    let RawShape::Object(members) = &body.value else { return };
    if let Some((name, _)) = members.iter().find(|(name, _)| &*name.value == ERRORS) {
        cx.error(Code::Conflict, name.span, format!("`{ERRORS}` lists the calls that failed"))
            .help("give this member of the answer another name");
    }
    if raw.calls.as_ref().is_some_and(|calls| calls.value.0.is_empty()) {
        cx.error(Code::Value, body.span, "an answer of no calls").help("write `respond:` for a fixed answer");
    }
}

/// What is only seen of all calls together.
fn wrong_plan(error: &ComposeError, at: &At<RawCompose>, names: &[&str], cx: &mut Cx) {
    let raw = &at.value;
    let of = |wanted: &str| {
        let calls = raw.calls.iter().flat_map(|calls| &calls.value.0);
        calls.filter(|(name, _)| *name.value.0 == *wanted).map(|(name, _)| name.span).next()
    };
    match error {
        ComposeError::Cycle(calls) => {
            let span = calls.first().and_then(|call| of(call)).unwrap_or(at.span);
            let way = calls.iter().map(|call| format!("`{call}`")).collect::<Vec<_>>().join(" needs ");
            cx.error(Code::Conflict, span, format!("calls that wait for one another are never made: {way}"))
                .help("let one of them ask with something else: a capture, or the answer of a call that needs none of these");
        }
        ComposeError::Unused(call) => {
            let span = of(call).unwrap_or(at.span);
            cx.error(Code::Unused, span, format!("nobody uses the answer to `{call}`")).help(format!(
                "add it to the answer, `body: {{{call}: \"{{{call}.body}}\"}}`, name it in another call, or take it away"
            ));
        }
        // These are reported where they are said.
        ComposeError::Calls(_)
        | ComposeError::NotSafe(..)
        | ComposeError::ErrorsIsOurs
        | ComposeError::Header(_)
        | ComposeError::Twice(_)
        | ComposeError::UnknownCall(_)
        | ComposeError::NotOfACall(_) => {}
        error => {
            cx.error(Code::Value, at.span, error.to_string())
                .help(format!("the calls are {}", one_of(names.iter().copied())));
        }
    }
}

/// Warns of what is required and needs what is not: if that fails, all does.
fn needs_what_may_fail<'a>(plan: &Plan, names: impl Iterator<Item = &'a At<CallName>>, cx: &mut Cx) {
    for ((place, call), name) in plan.calls().iter().enumerate().zip(names) {
        let may_fail = |need: &&Call| need.otherwise == Otherwise::LeaveOut;
        let Some(need) = plan.needs(place).find(may_fail).filter(|_| call.is_required()) else { continue };
        let message = format!(
            "`{}` is required, and needs `{}`, which is not: if that fails, there is no answer",
            call.name, need.name
        );
        cx.error(Code::Conflict, name.span, message).warning().help(format!(
            "write `required: false` here, too, or a `default:` for `{}` that this one can ask with",
            need.name
        ));
    }
}

/// Where values of templates come from.
struct Values<'a> {
    here: Place<'a>,
    path: Option<&'a PathPattern>,
    names: &'a [&'a str],
    /// All calls could be read, so that a missing name proves something.
    is_whole: bool,
}

impl Values<'_> {
    /// Those of a call's target: what they stand for, if they are of no call.
    fn of_target(
        &self,
        span: Span,
        template: &Template,
        is_required: bool,
        cx: &mut Cx,
    ) -> Vec<(Arc<str>, KeyPart)> {
        for value in template.values_of_path() {
            let is_rest = |segment: &Segment| matches!(segment, Segment::Rest(name) if **name == *value);
            let segments = match self.path {
                Some(PathPattern::Whole(segments)) => &segments[..],
                _ => &[],
            };
            if segments.iter().any(is_rest) {
                let span = cx.narrow(span, &format!("{{{value}}}"));
                cx.error(Code::Conflict, span, format!("`{{{value}}}` is several segments, and a value is one"))
                    .help(format!(
                        "write `{{{value}}}` into the match without dots, or the value into a query: `?path={{{value}}}`"
                    ));
            }
        }
        self.of(span, template, is_required, cx)
    }

    /// What values stand for that are of no call. Without those that are required there is no answer; of others, what is made
    /// of them is left out.
    fn of(
        &self,
        span: Span,
        template: &Template,
        is_required: bool,
        cx: &mut Cx,
    ) -> Vec<(Arc<str>, KeyPart)> {
        let mut given = Vec::new();
        for value in template.values() {
            let words = value.split('.').collect::<Vec<_>>();
            if self.names.contains(&words[0]) {
                of_call(span, value, &words, cx);
                continue;
            }
            match self.given(value, &words) {
                Some(part) => {
                    if let KeyPart::Identity(part) = &part {
                        if !Policies::knows(self.here.level, part) {
                            self.nobody_is_known(span, value, cx);
                        } else if is_required && self.here.may_lack(part) {
                            self.may_be_nobody(span, value, cx);
                        }
                    }
                    given.push((value.into(), part));
                }
                None => self.unknown(span, value, &words, cx),
            }
        }
        given
    }

    fn given(&self, value: &str, words: &[&str]) -> Option<KeyPart> {
        let captures = self.here.captures.unwrap_or_default();
        match words {
            [name] if captures.iter().any(|known| **known == **name) => {
                Some(KeyPart::Capture((*name).into()))
            }
            ["identity"] => Some(KeyPart::Identity(IdentityPart::Subject)),
            ["api_key"] => Some(KeyPart::Identity(IdentityPart::ApiKey)),
            ["host"] => Some(KeyPart::Host),
            ["client_ip"] => Some(KeyPart::ClientIp),
            ["query", _, ..] => value.strip_prefix("query.").map(|name| KeyPart::Query(name.into())),
            ["jwt", _, ..] => {
                value.strip_prefix("jwt.").map(|claim| KeyPart::Identity(IdentityPart::Jwt(claim.into())))
            }
            _ => None,
        }
    }

    /// Reports a value that nobody has.
    fn unknown(&self, span: Span, value: &str, words: &[&str], cx: &mut Cx) {
        let Some(captures) = self.here.captures.filter(|_| self.is_whole) else { return };
        let span = cx.narrow(span, &format!("{{{value}}}"));
        let known =
            captures.iter().map(|name| &**name).chain(CallName::TAKEN).chain(self.names.iter().copied());
        let meant = nearest(words[0], known);
        let it = cx.error(Code::UnknownName, span, format!("nothing here is called `{{{value}}}`"));
        let rest = value.strip_prefix(words[0]).unwrap_or_default();
        match meant {
            _ if value.starts_with("query:") || value.starts_with("header:") => {
                it.help("write `{query.NAME}` for a query parameter; headers go along by `headers:`")
            }
            Some(meant) => {
                it.label(format!("did you mean `{{{meant}{rest}}}`?")).help(format!("write `{{{meant}{rest}}}`"))
            }
            None => it.help(format!(
                "the calls are {}, the captures {}; else there are `{{query.NAME}}`, `{{jwt.CLAIM}}`, `{{identity}}`, `{{api_key}}`, `{{host}}` and `{{client_ip}}`",
                one_of(self.names.iter().copied()),
                one_of(captures.iter().map(|name| &**name))
            )),
        };
    }

    fn may_be_nobody(&self, span: Span, value: &str, cx: &mut Cx) {
        let span = cx.narrow(span, &format!("{{{value}}}"));
        let message = format!(
            "whoever brings no credentials passes on the route `{}`, and has no `{{{value}}}`: there would be no answer",
            self.here.route.value
        );
        cx.error(Code::Conflict, span, message)
            .help("write it into the path of a call with `required: false` or a `default:`, ask with what everybody has, or take `auth: optional` away")
            .combined();
    }

    fn nobody_is_known(&self, span: Span, value: &str, cx: &mut Cx) {
        let span = cx.narrow(span, &format!("{{{value}}}"));
        let route = &self.here.route.value;
        let message =
            format!("nothing on the route `{route}` finds out who asks, so that there is no `{{{value}}}`");
        let help = if self.here.auth == Auth::None {
            "take `auth: none` away, or ask with what everybody has: a capture, or `{query.NAME}`"
        } else {
            "add a policy that finds out, such as `jwt` or `api_key`, to the route, its group or its listener; or ask with what everybody has"
        };
        cx.error(Code::Conflict, span, message).help(help).combined();
    }

    /// Reports needs that are no calls.
    fn needs(&self, name: &At<CallName>, raw: &RawCall, cx: &mut Cx) {
        let Some(needs) = &raw.needs else { return };
        unique(&needs.value.0, "call", cx);
        for need in &needs.value.0 {
            if self.names.contains(&&*need.value.0) || !self.is_whole {
                continue;
            }
            let message = format!("`{}` needs `{}`, which is no call here", name.value.0, need.value.0);
            let it = cx.error(Code::UnknownName, need.span, message);
            match nearest(&need.value.0, self.names.iter().copied()) {
                Some(meant) => it.label(format!("did you mean `{meant}`?")).help(format!("write `{meant}`")),
                None => it.help(format!("the calls are {}", one_of(self.names.iter().copied()))),
            };
        }
    }
}

/// Reports what no call has.
fn of_call(span: Span, value: &str, words: &[&str], cx: &mut Cx) {
    if matches!(words[1..], ["status"] | ["body", ..]) {
        return;
    }
    let call = words[0];
    let span = cx.narrow(span, &format!("{{{value}}}"));
    let meant = if words.len() == 1 { "body".to_owned() } else { format!("body.{}", words[1..].join(".")) };
    cx.error(Code::UnknownName, span, format!("`{{{value}}}`: of a call there are `body` and `status`"))
        .help(format!("write `{{{call}.{meant}}}`, or `{{{call}.status}}`"));
}

/// Reports methods that a composition does not serve.
pub(super) fn only_reads(at: &At<RawCompose>, raw: &RawRoute, cx: &mut Cx) {
    let methods = raw.r#match.iter().flat_map(|it| &it.value.methods).flat_map(|methods| &methods.value.0);
    let wrong = methods.filter(|at| !matches!(at.value, Method::GET | Method::HEAD)).collect::<Vec<_>>();
    for method in wrong {
        let place = cx.place(at.key);
        let message =
            format!("a composition answers GET and HEAD, and not {}: it undoes nothing", method.value);
        cx.error(Code::Conflict, method.span, message).related(place, "composed here").help(
            "write `methods: [GET]`; what changes something goes to one service, with a route of its own, and that service does it in steps that it can undo (a saga)",
        );
    }
}

/// Reports what makes no sense of a request that becomes several, and says what to write.
pub(super) fn no_sense(at: &At<RawCompose>, raw: &RawRoute, own: &Level, cx: &mut Cx) {
    let helps = [
        (
            Kind::Retry,
            "retry",
            ": write it into the calls that may be sent again, `calls: {order: {…, retry: {max: 1}}}`",
        ),
        (Kind::Hedge, "hedge", ": a call has `timeouts: {total: …}` and a `default:` for what is slow"),
        (Kind::Mirror, "mirror", ": mirror the routes of the services that are called, or nothing"),
    ];
    for (key, help) in
        [("rewrite", ": each call says its own `path`"), ("strip_prefix", ": each call says its own `path`")]
    {
        no_effect_of(raw.said(key), key, help, at.key, cx);
    }
    for (kind, key, help) in helps {
        let named = own.all(kind).first().map(|(_, span)| *span);
        no_effect_of(raw.said(key).or(named), key, help, at.key, cx);
    }
}

/// Warns of upstreams that choose an endpoint by what calls do not have, and of calls that nobody waits for.
pub(super) fn calls_in_vain(
    at: &At<RawCompose>,
    compose: &Compose,
    upstreams: &BTreeMap<Name, Upstream>,
    total: Option<Duration>,
    policies: &Policies,
    cx: &mut Cx,
) {
    let calls = at.value.calls.iter().flat_map(|calls| &calls.value.0).map(|(name, _)| name);
    for ((call, to), name) in compose.plan.calls().iter().zip(&compose.calls).zip(calls) {
        let Some(upstream) = upstreams.get(&to.upstream) else { continue };
        if let Some(missing) = chosen_by(upstream, policies).find(|it| !is_sent(it, &compose.headers)) {
            let message = format!(
                "`{}` goes to `{}`, which looks at {} of each request, and the call has none",
                call.name, to.upstream, missing
            );
            cx.error(Code::Unused, name.span, message).warning().combined().help(match &missing {
                Missing::Header(header) => format!("add `headers: [{header}]` to the composition"),
                Missing::Cookie => {
                    "add `headers: [cookie]` to the composition; what the upstream would set goes to nobody"
                        .into()
                }
            });
        }
        if let Some(total) = total.filter(|total| !call.is_required() && call.timeout >= *total) {
            let waits =
                upstream.timeouts.per_try.unwrap_or(Duration::MAX).min(upstream.timeouts.response_headers);
            if waits >= total {
                let message = format!(
                    "`{}` is not required, and may hang until the route gives up after {}: then there is no answer at all",
                    call.name,
                    show_duration(total)
                );
                cx.error(Code::Unused, name.span, message)
                    .warning()
                    .combined()
                    .help("write `timeouts: {total: …}` into the call, shorter than the route's");
            }
        }
    }
}

/// What an upstream looks at that calls may not have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Missing {
    Header(HeaderName),
    Cookie,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(name) => write!(f, "the header `{name}`"),
            Self::Cookie => f.write_str("a cookie"),
        }
    }
}

fn is_sent(missing: &Missing, headers: &[HeaderName]) -> bool {
    match missing {
        Missing::Header(name) => headers.contains(name) || crate::compose::is_sent_always(name),
        Missing::Cookie => headers.contains(&COOKIE),
    }
}

/// Headers and cookies by which an upstream chooses an endpoint, or counts.
fn chosen_by<'a>(upstream: &'a Upstream, policies: &'a Policies) -> impl Iterator<Item = Missing> + 'a {
    let balance = &upstream.balance;
    let regions = balance.regions.iter().filter_map(|regions| regions.by.as_ref());
    let subset = balance.subset.iter().map(|subset| &subset.by);
    let bulkhead = upstream.bulkhead.iter().filter_map(|name| match &policies.checked.get(name)?.kind {
        PolicyKind::Bulkhead(bulkhead) => Some(&bulkhead.key),
        _ => None,
    });
    let parts = balance.key.iter().chain(regions).chain(subset).chain(bulkhead.flatten());
    let missing = parts.filter_map(|part| match part {
        KeyPart::Header(name) => Some(Missing::Header(name.clone())),
        KeyPart::Cookie(_) => Some(Missing::Cookie),
        _ => None,
    });
    missing.chain(balance.sticky.iter().map(|_| Missing::Cookie))
}
