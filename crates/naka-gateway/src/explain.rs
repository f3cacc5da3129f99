//! What would become of a request, and why; without doing any of it.
//!
//! Nothing here decides. Entry, matching, layers and transformation are asked through the same
//! functions the data path commits, so what is said here is what happens there.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, Request, StatusCode, header::HOST, request::Parts};
use naka::{
    balance::Endpoint,
    clock::Now,
    compose::{Call, Otherwise},
    context::{ApiVersion, Context, Deadline},
    explain::{Explain, Finding},
    identity::{Identity, Scheme},
    reject::{Dependency, Head, Reason, Rejection},
    split::SplitArm,
    trace::Extracted,
};
use serde_json::{Value, json};

use crate::{
    address::{Address, Source},
    assemble::given,
    config::{
        checked::{Compose, Destination, Listener, Name, Protocol, ServerLimits, TestRequest, Upstream},
        show_duration,
    },
    entry::{self, Peer},
    generation::{ArmPlan, ArmTarget, Generation, Plan, Served},
    route::Outcome,
    serve, transform,
};

/// What would become of a request.
#[derive(Debug)]
pub struct Explanation {
    /// The request, as it was asked for.
    pub asked: String,
    /// The generation that was asked.
    pub generation: u64,
    /// The listener it arrives at.
    pub listener: Name,
    /// Every route of the listener, and what became of it.
    pub candidates: Vec<Candidate>,
    /// The route that takes it.
    pub route: Option<Name>,
    /// Which trace it would be of, if there are traces.
    pub trace: Option<String>,
    /// What each layer says, outermost first. After a refusal nobody else is asked.
    pub layers: Vec<Said>,
    /// What the destination would see.
    pub forwarded: Option<Forwarded>,
    /// The calls that the answer is composed of, in the order in which they can be made.
    pub calls: Vec<Planned>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// What can only be known by waiting for it. It comes before the verdict, also before a refusal by a
    /// later layer; should it go wrong, that is what the client hears of.
    pub pending: Vec<String>,
    /// What comes of it.
    pub verdict: Verdict,
}

/// One route, and what became of it.
#[derive(Debug)]
pub struct Candidate {
    /// Its name.
    pub route: Name,
    /// Where it was said.
    pub origin: String,
    /// Whether it takes the request.
    pub is_chosen: bool,
    /// Why, or why not.
    pub why: String,
}

/// What one layer says.
#[derive(Debug)]
pub struct Said {
    /// The kind of layer.
    pub kind: &'static str,
    /// The name of its policy.
    pub name: Option<String>,
    /// What it says.
    pub finding: Finding,
    /// What led to a refusal, where its reason alone does not say it.
    pub because: Option<String>,
}

/// The request as an upstream would see it.
#[derive(Debug)]
pub struct Forwarded {
    /// The upstream.
    pub upstream: Name,
    /// The endpoint that would be chosen.
    pub endpoint: Option<Arc<str>>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Method and target.
    pub request_line: String,
    /// Its headers.
    pub headers: Vec<Field>,
    /// The timers that would run.
    pub timers: Vec<(&'static str, Option<Duration>)>,
}

/// One call of a composition.
#[derive(Debug)]
pub struct Planned {
    /// Its name.
    pub call: Name,
    /// How many calls come before it, one after the other: those of one wave are made at once.
    pub wave: usize,
    /// The upstream.
    pub upstream: Name,
    /// The endpoint that would be chosen, if it could be made now.
    pub endpoint: Option<Arc<str>>,
    /// Method and target, as far as it is known: values of other calls' answers stand in braces.
    pub request_line: String,
    /// What becomes of the answer without it.
    pub otherwise: Otherwise,
    /// The calls that come before it.
    pub needs: Vec<Name>,
    /// From its beginning to the last byte of its answer.
    pub timeout: Duration,
    /// Why it would not be made.
    pub refused: Option<Rejection>,
}

/// One header of a request, as an upstream would see it.
#[derive(Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Whether the value is what nobody wants to read in a terminal or a ticket.
    pub is_secret: bool,
}

impl Field {
    /// The value, unless it is a secret.
    pub fn shown(&self) -> &str {
        if self.is_secret { "…" } else { &self.value }
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.shown())
    }
}

/// What comes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The gateway refuses it.
    Refused(Rejection),
    /// The gateway answers it.
    Answered(StatusCode),
    /// It goes to an upstream.
    Sent,
    /// That depends on what is not known here, and everything behind it does.
    Depends(String),
}

/// Explains one request to one generation.
pub fn explain(generation: &Generation, asked: &TestRequest, now: Now) -> Explanation {
    let asked_text = format!("{} {}://{}{}", asked.method, asked.scheme, asked.host, asked.target);
    let (listener, served) = listener(generation, asked);
    let mut explanation = Explanation {
        asked: asked_text,
        generation: generation.number,
        listener,
        candidates: Vec::new(),
        route: None,
        trace: None,
        layers: Vec::new(),
        forwarded: None,
        calls: Vec::new(),
        location: None,
        pending: Vec::new(),
        verdict: Verdict::Sent,
    };
    explanation.verdict = match explanation.decide(generation, served, asked, now) {
        Ok(verdict) => verdict,
        Err(rejection) => Verdict::Refused(rejection),
    };
    explanation
}

impl Explanation {
    fn decide(
        &mut self,
        generation: &Generation,
        served: &Served,
        asked: &TestRequest,
        now: Now,
    ) -> Result<Verdict, Rejection> {
        let mut parts = parts(asked);
        head_fits(&parts, &generation.limits)?;
        let peer = peer(generation, &self.listener, asked);
        served.entry.admit(&mut parts, &peer, now)?;
        self.candidates = candidates(generation, served, &parts);
        let (plan, _) = serve::find(served, &mut parts, &mut ()).map_err(|no_route| no_route.0)?;
        self.route = Some(Arc::clone(&plan.name));
        self.trace = traced(generation, served, plan, &peer, &mut parts);
        let refused = match self.go_through(generation, plan, asked, &mut parts, now) {
            Ok(verdict) => return Ok(verdict),
            Err(rejection) => rejection,
        };
        match self.fall_back(generation, plan, &refused, asked, &mut parts, now) {
            Some(result) => result,
            None => Err(refused),
        }
    }

    /// Asks all layers of a route, and where it goes.
    fn go_through(
        &mut self,
        generation: &Generation,
        plan: &Plan,
        asked: &TestRequest,
        parts: &mut Parts,
        now: Now,
    ) -> Result<Verdict, Rejection> {
        let layers = listed(|visit| plan.layers.each(visit));
        if let Some(verdict) = self.ask_layers(&layers, plan, asked, parts, now)? {
            return Ok(verdict);
        }
        let route = &generation.config.routes[&plan.name];
        match &route.destination {
            Destination::Respond(respond) => Ok(Verdict::Answered(respond.status)),
            Destination::Redirect(redirect) => {
                let location = transform::location(redirect, parts, entry::scheme(&parts.headers))?;
                self.location = Some(String::from_utf8_lossy(location.as_bytes()).into_owned());
                Ok(Verdict::Answered(redirect.status))
            }
            Destination::ListVersions(_) => Ok(Verdict::Answered(StatusCode::OK)),
            Destination::Versions(_) => {
                let arm = ApiVersion::of(&parts.extensions).and_then(|version| plan.arms.get(version));
                self.along(arm, generation, plan, asked, parts, now)
            }
            Destination::Split(_) => {
                let arm = SplitArm::of(&parts.extensions).and_then(|arm| plan.arms.get(arm));
                self.along(arm, generation, plan, asked, parts, now)
            }
            Destination::Compose(compose) => {
                self.calls = planned(generation, plan, compose, parts, now);
                let mut refused = self.calls.iter().filter(|call| call.otherwise == Otherwise::Fail);
                match refused.find_map(|call| call.refused.clone()) {
                    Some(rejection) => Err(rejection),
                    None => Ok(Verdict::Sent),
                }
            }
            Destination::Upstream(upstream) => {
                plan.transform.request(parts)?;
                self.forwarded = Some(forwarded(generation, &plan.name, upstream, parts, now));
                Ok(Verdict::Sent)
            }
        }
    }

    /// What comes in place of a refusal by a layer behind the fallback; `None` if nothing does.
    fn fall_back(
        &mut self,
        generation: &Generation,
        plan: &Plan,
        refused: &Rejection,
        asked: &TestRequest,
        parts: &mut Parts,
        now: Now,
    ) -> Option<Result<Verdict, Rejection>> {
        // An older answer stands in before anybody else is asked.
        let cache = &plan.layers.cache;
        if self.layers.iter().any(|said| said.kind == cache.kind())
            && let Some(finding) = cache.explain_refusal(refused, now, parts)
        {
            let (kind, name) = (cache.kind(), cache.name().map(str::to_owned));
            self.layers.push(Said { kind, name, finding: finding.clone(), because: None });
            if let Finding::Answer(status, _) = finding {
                return Some(Ok(Verdict::Answered(status)));
            }
        }
        let fallback = &plan.layers.fallback;
        if !self.layers.iter().any(|said| said.kind == fallback.kind()) {
            return None; // It stands behind whoever refused, and hears nothing of it.
        }
        let finding = fallback.explain_refusal(refused, parts)?;
        let (kind, name) = (fallback.kind(), fallback.name().map(str::to_owned));
        self.layers.push(Said { kind, name, finding: finding.clone(), because: None });
        if let Finding::Answer(status, _) = finding {
            return Some(Ok(Verdict::Answered(status)));
        }
        let alternate = plan.alternate.as_ref()?;
        Some(self.along(Some(alternate), generation, plan, asked, parts, now))
    }

    /// Behind the choice of an arm.
    fn along(
        &mut self,
        arm: Option<&Arc<ArmPlan>>,
        generation: &Generation,
        plan: &Plan,
        asked: &TestRequest,
        parts: &mut Parts,
        now: Now,
    ) -> Result<Verdict, Rejection> {
        let arm = arm.ok_or(Rejection::new(Reason::NoEndpoint))?;
        let layers = listed(|visit| arm.layers.each(visit));
        if let Some(verdict) = self.ask_layers(&layers, plan, asked, parts, now)? {
            return Ok(verdict);
        }
        match &arm.to {
            ArmTarget::Upstream(upstream) => {
                arm.transform.request(parts)?;
                self.forwarded = Some(forwarded(generation, &plan.name, upstream, parts, now));
                Ok(Verdict::Sent)
            }
            ArmTarget::Split(arms) => {
                let arm = SplitArm::of(&parts.extensions).and_then(|arm| arms.get(arm));
                self.along(arm, generation, plan, asked, parts, now)
            }
        }
    }

    /// Asks one layer after the other; each sees what the ones before it learned. There is a verdict if one of
    /// them answers, or would have to ask what all the rest depends on.
    fn ask_layers(
        &mut self,
        layers: &[&dyn Explain],
        plan: &Plan,
        asked: &TestRequest,
        parts: &mut Parts,
        now: Now,
    ) -> Result<Option<Verdict>, Rejection> {
        for layer in layers {
            let assumed = assumed(plan, layer.kind(), asked, now, parts);
            let finding = assumed.unwrap_or_else(|| layer.explain(now, parts));
            let (kind, name) = (layer.kind(), layer.name().map(str::to_owned));
            let pending = match &finding {
                Finding::WouldAsk(what) => {
                    let name = name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
                    format!("{kind}{name} {what}")
                }
                _ => String::new(),
            };
            let refuses = matches!(finding, Finding::Reject(_));
            let because = refuses.then(|| layer.because(now, parts)).flatten();
            self.layers.push(Said { kind, name, finding: finding.clone(), because });
            match finding {
                Finding::Reject(rejection) => return Err(rejection),
                Finding::Answer(status, _) => return Ok(Some(Verdict::Answered(status))),
                // Whoever is sent on waits for that.
                Finding::WouldAsk(Dependency::Response { .. }) => {}
                Finding::WouldAsk(what) => {
                    self.pending.push(pending.clone());
                    if decides_the_rest(&what) {
                        return Ok(Some(Verdict::Depends(pending)));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let said = |said: &Said| {
            let (verdict, text) = words(&said.finding);
            json!({"kind": said.kind, "name": said.name, "verdict": verdict, "says": text, "because": said.because})
        };
        let forwarded = self.forwarded.as_ref().map(|forwarded| {
            json!({
                "upstream": &*forwarded.upstream,
                "endpoint": forwarded.endpoint.as_deref(),
                "protocol": forwarded.protocol.word(),
                "request": forwarded.request_line,
                "headers": forwarded.headers.iter().map(|it| (&*it.name, it.shown())).collect::<Vec<_>>(),
            })
        });
        let verdict = match &self.verdict {
            Verdict::Refused(rejection) => json!({
                "refused": rejection.reason.word(), "status": rejection.reason.status().as_u16(),
                "policy": rejection.policy.as_deref(),
            }),
            Verdict::Answered(status) => json!({"answered": status.as_u16()}),
            Verdict::Sent => json!({"sent": true}),
            Verdict::Depends(what) => json!({"depends_on": what}),
        };
        json!({
            "request": self.asked,
            "generation": self.generation,
            "listener": &*self.listener,
            "route": self.route.as_deref(),
            "candidates": self.candidates.iter().map(|c| json!({
                "route": &*c.route, "origin": c.origin, "chosen": c.is_chosen, "why": c.why,
            })).collect::<Vec<_>>(),
            "trace": self.trace,
            "layers": self.layers.iter().map(said).collect::<Vec<_>>(),
            "forwarded": forwarded,
            "calls": self.calls.iter().map(Planned::to_json).collect::<Vec<_>>(),
            "location": self.location,
            "depends_on": self.pending,
            "verdict": verdict,
        })
    }
}

impl Planned {
    fn to_json(&self) -> Value {
        let Self { call, wave, upstream, endpoint, request_line, otherwise, needs, timeout, refused } = self;
        json!({
            "call": &**call, "wave": wave, "upstream": &**upstream, "endpoint": endpoint.as_deref(),
            "request": request_line, "required": *otherwise == Otherwise::Fail,
            "default": match otherwise { Otherwise::Default(text) => Some(&**text), _ => None },
            "needs": needs.iter().map(|need| &**need).collect::<Vec<_>>(),
            "timeout": show_duration(*timeout), "refused": refused.as_ref().map(|it| it.reason.word()),
        })
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, wave, upstream, endpoint, request_line, otherwise, needs, timeout, refused } = self;
        let endpoint = endpoint.as_deref().map(|endpoint| format!(", {endpoint}")).unwrap_or_default();
        write!(f, "{}. {call:<16} {request_line}  to {upstream}{endpoint}", wave + 1)?;
        if !needs.is_empty() {
            write!(f, "; needs {}", needs.iter().map(|need| &**need).collect::<Vec<_>>().join(", "))?;
        }
        match otherwise {
            Otherwise::Fail => write!(f, "; required")?,
            Otherwise::LeaveOut => write!(f, "; left out if it fails")?,
            Otherwise::Default(text) => write!(f, "; {text} if it fails")?,
        }
        write!(f, "; total {}", show_duration(*timeout))?;
        match refused {
            Some(rejection) => write!(f, "; would fail: {}", rejection.reason),
            None => Ok(()),
        }
    }
}

/// The calls of a composition, asked as they would be made. What they need of one another nobody knows before.
fn planned(generation: &Generation, plan: &Plan, compose: &Compose, parts: &Parts, now: Now) -> Vec<Planned> {
    let given = given(&compose.given);
    let headers = crate::compose::sent(&generation.config, &generation.config.routes[&plan.name], compose);
    let made = compose.plan.clone().sending(headers, compose.headers.clone());
    let one = |(place, call): (usize, &Call)| {
        let value = |name: &str| given(&Head::from(parts), name);
        let is_missing =
            |name: &str| made.given().iter().any(|known| **known == *name) && value(name).is_none();
        let missing = call.target.values().find(|name| is_missing(name));
        let (target, mut refused) = match (made.known_target(place, value), missing) {
            (Ok(target), None) => (target, None),
            (Ok(target), Some(_)) => (target, Some(Reason::ValueMissing(StatusCode::BAD_REQUEST).into())),
            (Err(_), _) => {
                let reason = Reason::ValueRefused(StatusCode::BAD_REQUEST);
                (call.target.to_string(), Some(Rejection::new(reason)))
            }
        };
        let mut endpoint = None;
        if let Some(arm) = plan.arms.get(&call.name).filter(|_| refused.is_none()) {
            let mut own = made.request_of(place, &target, parts);
            let layers = listed(|visit| arm.layers.each(visit));
            refused = layers.iter().find_map(|layer| match layer.explain(now, &mut own) {
                Finding::Reject(rejection) => Some(rejection),
                _ => None,
            });
            endpoint = Endpoint::of(&own.extensions).map(|endpoint| Arc::clone(endpoint.address()));
        }
        Planned {
            call: Arc::clone(&call.name),
            wave: made.wave(place),
            upstream: Arc::clone(&compose.calls[place].upstream),
            endpoint,
            request_line: format!("{} {target}", call.method),
            otherwise: call.otherwise.clone(),
            needs: made.needs(place).map(|need| Arc::clone(&need.name)).collect(),
            timeout: call.timeout,
            refused: refused.map(|rejection| rejection.of_call(&call.name)),
        }
    };
    let mut all = made.calls().iter().enumerate().map(one).collect::<Vec<_>>();
    all.sort_by_key(|call| call.wave);
    all
}

/// Who it is, all that follows wants to know; and nothing follows on what was done before.
const fn decides_the_rest(what: &Dependency) -> bool {
    matches!(
        what,
        Dependency::Keys { .. }
            | Dependency::Password
            | Dependency::Authority
            | Dependency::Repetition { .. }
    )
}

/// All that explain themselves, outermost first.
fn listed<'l>(each: impl FnOnce(&mut dyn FnMut(&'l dyn Explain))) -> Vec<&'l dyn Explain> {
    let mut all = Vec::new();
    each(&mut |layer| all.push(layer));
    all
}

/// What a layer that authenticates would say to credentials that are only thought of. The request goes on as it
/// would with them.
fn assumed(plan: &Plan, kind: &str, asked: &TestRequest, now: Now, parts: &mut Parts) -> Option<Finding> {
    let (layers, Parts { headers, extensions, .. }) = (&plan.layers, parts);
    let unknown = Rejection::new(Reason::CredentialsUnknown);
    let found = match kind {
        "jwt" if !layers.jwt.is_off() => {
            let found = layers.jwt.assumed(asked.jwt.as_ref()?.as_bytes());
            found.inspect(|identity| Arc::clone(identity).put(extensions))
        }
        "api_key" if !layers.api_key.is_off() => {
            layers.api_key.assume(asked.api_key.as_ref()?, now, headers, extensions)
        }
        "basic_auth" if !layers.basic_auth.is_off() => {
            layers.basic_auth.assume(asked.identity.as_ref()?, headers, extensions).ok_or(unknown)
        }
        "forward_auth" if asked.identity.is_some() || !asked.forward_auth.is_empty() => {
            let answer = asked.forward_auth.iter().cloned().collect();
            Ok(layers.forward_auth.assume((&answer, asked.identity.as_ref()), headers, extensions)?)
        }
        _ => return None,
    };
    Some(match found {
        Ok(identity) => {
            let who = identity.subject.as_deref().unwrap_or("somebody without a name");
            Finding::Admit(format!("it is {who}, as was said"))
        }
        Err(rejection) => Finding::Reject(rejection),
    })
}

/// Who asks on a listener. Over TLS a client names the host that it asks for, and shows a certificate of whom it is said to be, where
/// such are looked at.
fn peer(generation: &Generation, listener: &Name, asked: &TestRequest) -> Peer {
    let Listener { listen, tls, .. } = &generation.config.listeners[listener];
    let source = asked.source.unwrap_or(match listen {
        Address::Tcp(_) => Source::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Address::Unix(_) => Source::Unix,
    });
    let acceptor = generation.tls.get(listen);
    let Some(acceptor) = acceptor else { return Peer::new(source, "http") };
    let shows = asked.identity.as_ref().filter(|_| tls.as_ref().is_some_and(|tls| tls.clients.is_some()));
    let identity = shows.map(|who| Arc::new(Identity::new(Scheme::Mtls, Some(Arc::clone(who)))));
    let hosts = acceptor.hosts(Some(entry::without_port(&asked.host)));
    Peer { identity, hosts, ..Peer::new(source, "https") }
}

/// The listener that was named; or that of the URL's port; or the first one that takes the request, else
/// one that takes its path.
fn listener<'a>(generation: &'a Generation, asked: &TestRequest) -> (Name, &'a Served) {
    let worker = &generation.workers[0];
    let all = || generation.config.listeners.iter().map(|(name, is)| (name, &worker[&is.listen]));
    let named = all().find(|(name, _)| asked.listener.as_ref() == Some(name));
    let port = asked.host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let port = port.unwrap_or(if &*asked.scheme == "https" { 443 } else { 80 });
    let is_elsewhere = |name: &Name| {
        generation.config.listeners[name].listen.tcp().is_none_or(|address| address.port() != port)
    };
    let rank = |name: &Name, served: &Served| {
        let mut parts = parts(asked);
        let peer = peer(generation, name, asked);
        if served.entry.admit(&mut parts, &peer, Now::read()).is_err() {
            return 2;
        }
        match serve::find(served, &mut parts, &mut ()) {
            Ok(_) => 0,
            Err(no_route) if no_route.0.reason == Reason::MethodNotAllowed => 1,
            Err(_) => 2,
        }
    };
    let (name, served) = named
        .or_else(|| all().min_by_key(|(name, served)| (is_elsewhere(name), rank(name, served))))
        .expect("a checked configuration has a listener");
    (Arc::clone(name), served)
}

/// What the connection refuses before anything of ours sees it, counted as it counts.
fn head_fits(parts: &Parts, limits: &ServerLimits) -> Result<(), Rejection> {
    let line = format!("{} {} HTTP/1.1\r\n", parts.method, parts.uri).len();
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    let bytes = line + fields.sum::<usize>() + "\r\n".len();
    if parts.headers.len() > limits.header_count || bytes > limits.header_bytes {
        return Err(Rejection::new(Reason::HeadTooLarge));
    }
    Ok(())
}

fn parts(asked: &TestRequest) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = asked.method.clone();
    parts.uri = asked.target.clone().into();
    parts.headers.extend(asked.headers.iter().cloned());
    if let Ok(host) = asked.host.parse() {
        parts.headers.insert(HOST, host);
    }
    parts
}

fn candidates(generation: &Generation, served: &Served, parts: &Parts) -> Vec<Candidate> {
    let asked = serve::preflight(&parts.method, &parts.headers);
    let of = |method| served.table.explain(&serve::query(parts, method));
    let is_answered = |outcomes: &Vec<(usize, Outcome<'_>)>| {
        let won = outcomes.iter().find(|(_, outcome)| matches!(outcome, Outcome::Won));
        won.is_some_and(|(index, _)| !served.route(*index).0.layers.cors.is_off())
    };
    let outcomes =
        asked.as_ref().map(of).filter(is_answered).unwrap_or_else(|| of(&parts.method)).into_iter();
    outcomes
        .map(|(index, outcome)| {
            let name = served.name(index);
            Candidate {
                route: Arc::clone(name),
                origin: generation.config.routes[name].origin.to_string(),
                is_chosen: matches!(outcome, Outcome::Won),
                why: outcome.to_string(),
            }
        })
        .collect()
}

/// Which trace a request would be of, in words: each has numbers of its own. What it says of one is taken out of its headers, as on the
/// data path.
fn traced(
    generation: &Generation,
    served: &Served,
    plan: &Plan,
    peer: &Peer,
    parts: &mut Parts,
) -> Option<String> {
    let tracing = served.telemetry.as_ref()?.tracing.as_ref()?;
    let is_trusted = served.entry.trusts(peer.source);
    let shares = generation.config.gateway.telemetry.tracing.as_ref()?;
    let of_others = |trace| if tracing.config.sampler.takes(trace) { "recorded" } else { "not recorded" };
    let recorded = |is_recorded| if is_recorded { "recorded" } else { "not recorded" };
    Some(match tracing.read(&mut parts.headers, plan.trust_parent, is_trusted) {
        Some(Extracted::Span(parent, Some(is_recorded))) => {
            format!("{} goes on, {}, as whoever began it says", parent.trace, recorded(is_recorded))
        }
        Some(Extracted::Span(parent, None)) => {
            format!("{} goes on, {}", parent.trace, of_others(parent.trace))
        }
        Some(Extracted::Decision(is_recorded)) => {
            format!("begins here, {}, as whoever asks says", recorded(is_recorded))
        }
        None => format!("begins here; {}% of such are recorded", f64::from(shares.sample) / 10_000.0),
    })
}

fn forwarded(
    generation: &Generation,
    route: &Name,
    upstream: &Name,
    parts: &mut Parts,
    now: Now,
) -> Forwarded {
    let route = &generation.config.routes[route];
    let Upstream { protocol, timeouts, .. } = &generation.config.upstreams[upstream];
    let Parts { headers, extensions, .. } = parts;
    let until = timeouts.per_try.and_then(|limit| now.instant().checked_add(limit));
    let deadline = Deadline::of(extensions).into_iter().chain(until).min();
    let told = extensions.get::<Context>().and_then(|context| context.told);
    // What nobody waits for has been refused further out.
    _ = generation.entry.deadlines.tell(headers, deadline, told, || now);
    let edit = &route.headers.request;
    let is_configured = |name: &HeaderName| edit.set.iter().chain(&edit.add).any(|(known, _)| known == name);
    let headers = parts.headers.iter().map(|(name, value)| Field {
        name: name.to_string(),
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
        is_secret: crate::headers::is_secret(name.as_str()) || is_configured(name),
    });
    Forwarded {
        upstream: Arc::clone(upstream),
        endpoint: Endpoint::of(&parts.extensions).map(|endpoint| Arc::clone(endpoint.address())),
        protocol: *protocol,
        request_line: format!("{} {}", parts.method, parts.uri),
        headers: headers.collect(),
        timers: [
            ("total", route.total_timeout),
            ("connect", Some(timeouts.connect)),
            ("response_headers", Some(timeouts.response_headers)),
            ("idle", route.idle_timeout.unwrap_or(timeouts.idle)),
        ]
        .into_iter()
        .chain(timeouts.per_try.map(|limit| ("per_try", Some(limit))))
        .collect(),
    }
}

/// A finding as a word for machines and a sentence for people.
fn words(finding: &Finding) -> (&'static str, String) {
    let refusal = |rejection: &Rejection| {
        let wait = rejection.retry_after.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
        let wait = wait.map(|seconds| format!(", retry after {seconds}s")).unwrap_or_default();
        format!("{} {}{wait}", rejection.reason.status().as_u16(), rejection.reason)
    };
    match finding {
        Finding::Off => ("off", "off".into()),
        Finding::Passes => ("passes", "has no say".into()),
        Finding::Answer(status, what) => ("answers", format!("answers: {status}, {what}")),
        Finding::Admit(what) => ("admits", format!("admits: {what}")),
        Finding::Observe(rejection) => {
            ("observes", format!("would refuse ({}), only observes", refusal(rejection)))
        }
        Finding::Reject(rejection) => ("refuses", format!("refuses: {}", refusal(rejection))),
        Finding::WouldAsk(what) => ("depends", what.to_string()),
        _ => ("unknown", format!("{finding:?}")),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.asked)?;
        writeln!(f, "  listener {}, generation {}", self.listener, self.generation)?;
        if !self.candidates.is_empty() {
            writeln!(f, "routes")?;
        }
        for Candidate { route, origin, is_chosen, why } in &self.candidates {
            let mark = if *is_chosen { '>' } else { ' ' };
            writeln!(f, "  {mark} {route:<20} {why}  ({origin})")?;
        }
        if let Some(trace) = &self.trace {
            writeln!(f, "trace: {trace}")?;
        }
        if !self.layers.is_empty() {
            writeln!(f, "layers, outermost first")?;
        }
        let is_off = |said: &&Said| matches!(said.finding, Finding::Off);
        for Said { kind, name, finding, because } in self.layers.iter().filter(|said| !is_off(said)) {
            let name = name.as_deref().unwrap_or_default();
            let because = because.as_deref().map(|why| format!("; {why}")).unwrap_or_default();
            writeln!(f, "    {:<36} {}{because}", format!("{kind} {name}"), words(finding).1)?;
        }
        // A kind may stand in several places: once is enough, and not if it is at work in another of them.
        let is_at_work = |kind| self.layers.iter().any(|said| said.kind == kind && !is_off(&said));
        let mut off: Vec<_> = Vec::new();
        for Said { kind, .. } in self.layers.iter().filter(is_off) {
            if !off.contains(kind) && !is_at_work(*kind) {
                off.push(*kind);
            }
        }
        if !off.is_empty() {
            writeln!(f, "    off: {}", off.join(", "))?;
        }
        if let Some(Forwarded { upstream, endpoint, protocol, request_line, headers, timers }) =
            &self.forwarded
        {
            let endpoint = endpoint.as_deref().unwrap_or("no endpoint");
            let over = if *protocol == Protocol::H2 { ", over HTTP/2" } else { "" };
            writeln!(f, "sent to upstream {upstream}, {endpoint}{over}")?;
            writeln!(f, "    {request_line}")?;
            for field in headers {
                writeln!(f, "    {field:?}")?;
            }
            let timers = timers.iter().map(|(name, limit)| match limit {
                Some(limit) => format!("{name} {}", show_duration(*limit)),
                None => format!("{name} never"),
            });
            writeln!(f, "timers: {}", timers.collect::<Vec<_>>().join(", "))?;
        }
        if !self.calls.is_empty() {
            writeln!(f, "calls, those of one number at once")?;
        }
        for call in &self.calls {
            writeln!(f, "    {call}")?;
        }
        for pending in &self.pending {
            writeln!(f, "first: {pending}")?;
        }
        match &self.verdict {
            Verdict::Refused(rejection) => {
                let by =
                    rejection.policy.as_deref().map(|policy| format!(" by {policy}")).unwrap_or_default();
                let status = rejection.reason.status();
                write!(
                    f,
                    "verdict: refused{by}: {} {} ({})",
                    status.as_u16(),
                    rejection.reason,
                    rejection.reason.sentence()
                )
            }
            Verdict::Answered(status) => {
                write!(f, "verdict: answered by the gateway: {status}")?;
                self.location.iter().try_for_each(|location| write!(f, ", to {location}"))
            }
            Verdict::Sent => write!(f, "verdict: sent"),
            Verdict::Depends(what) => write!(f, "verdict: depends on the answer: {what}"),
        }
    }
}

/// The path an upstream would see, for tests that expect one.
pub fn forwarded_path(explanation: &Explanation) -> Option<&str> {
    let line = &explanation.forwarded.as_ref()?.request_line;
    let target = line.split(' ').nth(1)?;
    target.split('?').next()
}
