//! What a composition consists of: calls, what each needs, and the answer that is made of theirs. Checked once.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use http::{
    HeaderName, Method,
    header::{
        ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT,
        IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, PROXY_AUTHORIZATION,
        RANGE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
    request::Parts,
};

use super::{
    json::{self, Step},
    run,
    shape::{Shape, Shaped},
    template::{Template, TemplateError},
};

/// Calls of one composition.
pub const MAX_CALLS: usize = 16;
/// The name under which an answer lists what failed.
pub const ERRORS: &str = "errors";

/// Headers that are never sent along: of bodies, of one connection, and those that would have an answer that is no whole one.
pub const NEVER_SENT: [HeaderName; 19] = [
    ACCEPT,
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EXPECT,
    HeaderName::from_static("keep-alive"),
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    PROXY_AUTHORIZATION,
    RANGE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// One call of a composition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// Its name, by which others refer to it: letters, digits, `_` and `-`.
    pub name: Arc<str>,
    /// Which service it goes to. Calls with the same service, method, target and timeout are one.
    pub service: Arc<str>,
    /// By what method; default `GET`. Only safe ones (RFC 9110, section 9.2.1): a composition undoes nothing.
    pub method: Method,
    /// Path and query.
    pub target: Template,
    /// Calls that have to be over before, besides those that its target names.
    pub needs: Vec<Arc<str>>,
    /// What becomes of the answer if it fails; default [`Otherwise::Fail`].
    pub otherwise: Otherwise,
    /// From its beginning to the last byte of its body; default 10 s.
    pub timeout: Duration,
    /// How many values one `*` in its target may gather; default 100.
    pub max_values: usize,
}

/// What becomes of the answer if a call fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Otherwise {
    /// All of it fails.
    #[default]
    Fail,
    /// What is made of it is left out.
    LeaveOut,
    /// This JSON stands in its place.
    Default(Arc<str>),
}

impl Call {
    /// One that is needed.
    pub fn get(name: &str, service: &str, target: Template) -> Self {
        Self {
            name: name.into(),
            service: service.into(),
            method: Method::GET,
            target,
            needs: Vec::new(),
            otherwise: Otherwise::Fail,
            timeout: Duration::from_secs(10),
            max_values: 100,
        }
    }

    /// By this method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// After these as well.
    #[must_use]
    pub fn needs(mut self, needs: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.needs = needs.into_iter().map(|name| name.as_ref().into()).collect();
        self
    }

    /// What becomes of the answer if it fails.
    #[must_use]
    pub fn otherwise(mut self, otherwise: Otherwise) -> Self {
        self.otherwise = otherwise;
        self
    }

    /// How long it may take.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many values one `*` may gather.
    #[must_use]
    pub const fn max_values(mut self, max_values: usize) -> Self {
        self.max_values = max_values;
        self
    }

    /// Whether the answer fails if it does.
    pub fn is_required(&self) -> bool {
        self.otherwise == Otherwise::Fail
    }
}

/// A composition, before it is [checked](Self::check).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComposeConfig {
    /// Its calls, 1 to [`MAX_CALLS`].
    pub calls: Vec<Call>,
    /// The answer; if nothing is said, the body of each call under its name.
    pub body: Option<Shape>,
    /// Headers that are sent along with each call, none of [`NEVER_SENT`]; default none.
    pub headers: Vec<HeaderName>,
    /// Those of them by which parts differ: the answer names them in `Vary`; default none.
    pub vary: Vec<HeaderName>,
    /// Calls under way at a time; default 8.
    pub max_in_flight: usize,
    /// Bytes of the body of one part; default 1 MiB.
    pub max_part: usize,
    /// Bytes of the answer; default 4 MiB.
    pub max_body: usize,
}

impl ComposeConfig {
    /// These calls, and an answer that has the body of each under its name.
    pub fn new(calls: impl IntoIterator<Item = Call>) -> Self {
        Self {
            calls: calls.into_iter().collect(),
            body: None,
            headers: Vec::new(),
            vary: Vec::new(),
            max_in_flight: 8,
            max_part: 1 << 20,
            max_body: 4 << 20,
        }
    }

    /// The answer.
    #[must_use]
    pub fn body(mut self, body: Shape) -> Self {
        self.body = Some(body);
        self
    }

    /// Headers that are sent along.
    #[must_use]
    pub fn headers(mut self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.headers = headers.into_iter().collect();
        self
    }

    /// Those of them by which parts differ.
    #[must_use]
    pub fn vary(mut self, vary: impl IntoIterator<Item = HeaderName>) -> Self {
        self.vary = vary.into_iter().collect();
        self
    }

    /// Calls under way at a time.
    #[must_use]
    pub const fn max_in_flight(mut self, max_in_flight: usize) -> Self {
        self.max_in_flight = max_in_flight;
        self
    }

    /// Bytes of one part.
    #[must_use]
    pub const fn max_part(mut self, max_part: usize) -> Self {
        self.max_part = max_part;
        self
    }

    /// Bytes of the answer.
    #[must_use]
    pub const fn max_body(mut self, max_body: usize) -> Self {
        self.max_body = max_body;
        self
    }

    /// Resolves what values stand for, and finds out in which order calls can be made.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(self) -> Result<Plan, ComposeError> {
        let calls = &self.calls;
        if calls.is_empty() || calls.len() > MAX_CALLS {
            return Err(ComposeError::Calls(calls.len()));
        }
        if self.max_in_flight == 0 {
            return Err(ComposeError::NothingInFlight);
        }
        if let Some(name) = self.headers.iter().find(|name| NEVER_SENT.contains(name)) {
            return Err(ComposeError::Header(name.clone()));
        }
        let mut names = BTreeMap::new();
        for (place, call) in calls.iter().enumerate() {
            check_call(call)?;
            if names.insert(Arc::clone(&call.name), place).is_some() {
                return Err(ComposeError::Twice(Arc::clone(&call.name)));
            }
        }
        let mut resolver = Resolver { names: &names, given: Vec::new() };
        let mut needs = Vec::new();
        let mut sources = Vec::new();
        for (place, call) in calls.iter().enumerate() {
            let of_target = resolver.template(&call.target)?;
            let mut all = of_target.iter().filter_map(|(_, source)| source.call()).collect::<Vec<_>>();
            for need in &call.needs {
                let known = names.get(need).copied();
                all.push(known.ok_or_else(|| ComposeError::UnknownCall(Arc::clone(need)))?);
            }
            all.sort_unstable();
            all.dedup();
            if all.contains(&place) {
                return Err(ComposeError::Cycle(vec![Arc::clone(&call.name), Arc::clone(&call.name)]));
            }
            needs.push(all);
            sources.push(of_target);
        }
        let waves = waves(&needs).map_err(|cycle| {
            ComposeError::Cycle(cycle.into_iter().map(|call| Arc::clone(&calls[call].name)).collect())
        })?;
        let body = match &self.body {
            Some(body) => body.resolved(&mut resolver, 0)?,
            None => Shaped::bodies(calls.iter().map(|call| Arc::clone(&call.name))),
        };
        if !body.is_object() {
            return Err(ComposeError::NoObject);
        }
        if body.has(ERRORS) {
            return Err(ComposeError::ErrorsIsOurs);
        }
        let mut used = body.calls();
        used.extend(needs.iter().flatten());
        if let Some(place) = (0..calls.len()).find(|place| !used.contains(place)) {
            return Err(ComposeError::Unused(Arc::clone(&calls[place].name)));
        }
        let given = resolver.given;
        Ok(Plan { config: Arc::new(self), needs, sources, waves, body, given })
    }
}

fn check_call(call: &Call) -> Result<(), ComposeError> {
    let of = || Arc::clone(&call.name);
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if call.name.is_empty() || !call.name.chars().all(fits) {
        return Err(ComposeError::Name(of()));
    }
    if !call.method.is_safe() || call.method == Method::TRACE {
        return Err(ComposeError::NotSafe(of(), call.method.clone()));
    }
    call.target.check_target().map_err(|error| ComposeError::Template(of(), error))?;
    match &call.otherwise {
        Otherwise::Default(text) if json::read(text.as_bytes()) != Some(&**text) => {
            Err(ComposeError::Default(of()))
        }
        _ => Ok(()),
    }
}

/// A composition that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    config: Arc<ComposeConfig>,
    needs: Vec<Vec<usize>>,
    /// What the values of each call's target stand for, by their words.
    sources: Vec<Sources>,
    waves: Vec<usize>,
    body: Shaped,
    given: Vec<Arc<str>>,
}

impl Plan {
    /// What it was made of.
    pub fn config(&self) -> &ComposeConfig {
        &self.config
    }

    /// Its calls.
    pub fn calls(&self) -> &[Call] {
        &self.config.calls
    }

    /// The same, where each call is sent these headers of the client, but for [`NEVER_SENT`], and parts differ by those.
    #[must_use]
    pub fn sending(
        mut self,
        headers: impl IntoIterator<Item = HeaderName>,
        vary: impl IntoIterator<Item = HeaderName>,
    ) -> Self {
        let headers = headers.into_iter().filter(|name| !NEVER_SENT.contains(name));
        self.config = Arc::new(self.config.as_ref().clone().headers(headers).vary(vary));
        self
    }

    /// The calls that a call needs, of which each has a smaller [wave](Self::wave).
    pub fn needs(&self, call: usize) -> impl Iterator<Item = &Call> {
        self.needs[call].iter().map(|need| &self.config.calls[*need])
    }

    /// How many calls have to be made before it, one after the other: those of one wave can be made at once.
    pub fn wave(&self, call: usize) -> usize {
        self.waves[call]
    }

    /// Values that are neither of a call's body nor its status: whoever uses the plan says what they stand for.
    pub fn given(&self) -> &[Arc<str>] {
        &self.given
    }

    /// The target of a call, as far as it is known before any call is made; what is not stays in braces.
    ///
    /// # Errors
    /// If a value does not fit: its words.
    pub fn known_target(
        &self,
        call: usize,
        given: impl Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<String, Arc<str>> {
        let sources = &self.sources[call];
        let value = |name: &str| match source(sources, name) {
            Some(Source::Given(_)) => given(name),
            _ => None,
        };
        self.config.calls[call].target.known_target(value).map_err(|unfit| match unfit {
            super::template::Unfit::Value(name) => name,
            super::template::Unfit::TooLong => "the whole target, which is too long".into(),
        })
    }

    /// The head of what a call's service is sent for a request with this head. For whoever explains.
    pub fn request_of(&self, call: usize, target: &str, parts: &Parts) -> Parts {
        run::request::<()>(self, &self.config.calls[call], target, parts).into_parts().0
    }

    pub(super) fn all_needs(&self) -> &[Vec<usize>] {
        &self.needs
    }

    pub(super) fn source_of(&self, call: usize, name: &str) -> Option<&Source> {
        source(&self.sources[call], name)
    }

    pub(super) const fn body(&self) -> &Shaped {
        &self.body
    }
}

/// What values stand for, by their words.
pub(super) type Sources = Vec<(Arc<str>, Source)>;

pub(super) fn source<'s>(sources: &'s Sources, name: &str) -> Option<&'s Source> {
    sources.iter().find(|(known, _)| **known == *name).map(|(_, source)| source)
}

/// What a value stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// What whoever uses the plan says, by its number.
    Given(usize),
    /// The status that a call was answered with.
    Status(usize),
    /// A piece of a call's body.
    Body(usize, Vec<Step>),
}

impl Source {
    pub(super) const fn call(&self) -> Option<usize> {
        match self {
            Self::Given(_) => None,
            Self::Status(call) | Self::Body(call, _) => Some(*call),
        }
    }
}

/// Finds out what values stand for.
pub(super) struct Resolver<'n> {
    names: &'n BTreeMap<Arc<str>, usize>,
    given: Vec<Arc<str>>,
}

impl Resolver<'_> {
    pub(super) fn template(&mut self, template: &Template) -> Result<Sources, ComposeError> {
        template.values().map(|value| Ok((value.into(), self.value(value)?))).collect()
    }

    pub(super) fn value(&mut self, value: &str) -> Result<Source, ComposeError> {
        let mut words = value.split('.');
        let call = words.next().and_then(|name| self.names.get(name)).copied();
        let Some(call) = call else {
            let known = self.given.iter().position(|given| **given == *value);
            return Ok(Source::Given(known.unwrap_or_else(|| {
                self.given.push(value.into());
                self.given.len() - 1
            })));
        };
        let step = |word: &str| if word == "*" { Step::Each } else { Step::Member(word.into()) };
        match (words.next(), words.next()) {
            (Some("status"), None) => Ok(Source::Status(call)),
            (Some("body"), first) => {
                Ok(Source::Body(call, first.into_iter().chain(words).map(step).collect()))
            }
            _ => Err(ComposeError::NotOfACall(value.into())),
        }
    }
}

/// The wave of each call; or calls that need one another, the first at the end again.
fn waves(needs: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    fn visit(
        call: usize,
        needs: &[Vec<usize>],
        waves: &mut [Option<usize>],
        path: &mut Vec<usize>,
    ) -> Result<usize, Vec<usize>> {
        if let Some(wave) = waves[call] {
            return Ok(wave);
        }
        if let Some(begin) = path.iter().position(|earlier| *earlier == call) {
            return Err(path[begin..].iter().copied().chain([call]).collect());
        }
        path.push(call); // At most as deep as there are calls.
        let mut wave = 0;
        for need in &needs[call] {
            wave = wave.max(visit(*need, needs, waves, path)? + 1);
        }
        path.pop();
        waves[call] = Some(wave);
        Ok(wave)
    }
    let (mut waves, mut path) = (vec![None; needs.len()], Vec::new());
    (0..needs.len()).map(|call| visit(call, needs, &mut waves, &mut path)).collect()
}

/// What is wrong with a composition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ComposeError {
    /// So many calls: 1 to [`MAX_CALLS`].
    Calls(usize),
    /// No call may be under way.
    NothingInFlight,
    /// A name has other characters than letters, digits, `_` and `-`.
    Name(Arc<str>),
    /// Two calls have one name.
    Twice(Arc<str>),
    /// This call's method changes something.
    NotSafe(Arc<str>, Method),
    /// The target of this call is none.
    Template(Arc<str>, TemplateError),
    /// The default of this call is no JSON, or deeper than [`MAX_DEPTH`](super::MAX_DEPTH), or has spaces around it.
    Default(Arc<str>),
    /// A call needs one that is not there.
    UnknownCall(Arc<str>),
    /// A call has `body` and `status`, and nothing else.
    NotOfACall(Arc<str>),
    /// Calls need one another, the first at the end again.
    Cycle(Vec<Arc<str>>),
    /// Nobody uses what this call is answered.
    Unused(Arc<str>),
    /// This header is one of [`NEVER_SENT`].
    Header(HeaderName),
    /// The answer is no object.
    NoObject,
    /// The answer has [`ERRORS`], which lists what failed.
    ErrorsIsOurs,
    /// The answer is deeper than [`MAX_SHAPE`](super::MAX_SHAPE).
    TooDeep,
}

impl fmt::Display for ComposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calls(0) => f.write_str("a composition without calls"),
            Self::Calls(many) => write!(f, "{many} calls: at most {MAX_CALLS}"),
            Self::NothingInFlight => f.write_str("no call may be under way"),
            Self::Name(name) => write!(f, "`{name}` is no name of a call"),
            Self::Twice(name) => write!(f, "two calls are called `{name}`"),
            Self::NotSafe(call, method) => write!(f, "`{call}` is asked by {method}, which is not safe"),
            Self::Template(call, error) => write!(f, "the target of `{call}`: {error}"),
            Self::Default(call) => write!(f, "the default of `{call}` is no JSON"),
            Self::UnknownCall(name) => write!(f, "there is no call `{name}`"),
            Self::NotOfACall(value) => write!(f, "`{{{value}}}`: a call has `body` and `status`"),
            Self::Cycle(calls) => {
                write!(f, "calls need one another: {}", calls.join(" needs "))
            }
            Self::Unused(call) => write!(f, "nobody uses the answer to `{call}`"),
            Self::Header(name) => write!(f, "`{name}` is never sent along"),
            Self::NoObject => f.write_str("the answer is no object"),
            Self::ErrorsIsOurs => write!(f, "`{ERRORS}` lists what failed"),
            Self::TooDeep => f.write_str("the answer is too deep"),
        }
    }
}

impl std::error::Error for ComposeError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, target: &str) -> Call {
        Call::get(name, "app", Template::parse(target).unwrap())
    }

    fn wrong(calls: impl IntoIterator<Item = Call>) -> String {
        ComposeConfig::new(calls).check().unwrap_err().to_string()
    }

    #[test]
    fn r13_1_what_a_call_needs_is_seen_from_its_target() {
        let plan = ComposeConfig::new([
            call("buyer", "/users/{order.body.user_id}"),
            call("order", "/orders/{id}"),
            call("items", "/products?ids={order.body.items.*.id}&for={buyer.body.tier}&as={jwt.sub}"),
            call("ship", "/track/{id}").needs(["buyer"]),
        ])
        .check()
        .unwrap();
        let needs = |call: usize| plan.needs(call).map(|call| &*call.name).collect::<Vec<_>>();
        assert_eq!(
            (0..4).map(needs).collect::<Vec<_>>(),
            [vec!["order"], vec![], vec!["buyer", "order"], vec!["buyer"]]
        );
        assert_eq!((0..4).map(|call| plan.wave(call)).collect::<Vec<_>>(), [1, 0, 2, 2]);
        assert_eq!(plan.given().iter().map(|it| &**it).collect::<Vec<_>>(), ["id", "jwt.sub"]);
        let given = |name: &str| (name == "id").then(|| b"7 8".to_vec());
        assert_eq!(plan.known_target(3, given).unwrap(), "/track/7%208");
        assert_eq!(
            plan.known_target(2, given).unwrap(),
            "/products?ids={order.body.items.*.id}&for={buyer.body.tier}&as={jwt.sub}"
        );
        assert_eq!(plan.known_target(3, |_| Some(b"..".to_vec())).unwrap_err(), "id".into());
    }

    #[test]
    fn r13_1_calls_that_need_one_another_are_refused() {
        assert_eq!(
            wrong([call("a", "/{b.body.x}"), call("b", "/{c.status}"), call("c", "/c").needs(["a"])]),
            "calls need one another: a needs b needs c needs a"
        );
        assert_eq!(wrong([call("a", "/{a.body.x}")]), "calls need one another: a needs a");
    }

    #[test]
    fn r13_6_only_safe_methods_are_composed() {
        assert_eq!(wrong([call("a", "/a").method(Method::POST)]), "`a` is asked by POST, which is not safe");
        assert!(ComposeConfig::new([call("a", "/a").method(Method::HEAD)]).check().is_ok());
    }

    #[test]
    fn r13_4_calls_are_bounded_and_each_is_used() {
        let many = |many: usize| (0..many).map(|at| call(&format!("c{at}"), "/a"));
        assert!(ComposeConfig::new(many(MAX_CALLS)).check().is_ok());
        assert_eq!(wrong(many(MAX_CALLS + 1)), "17 calls: at most 16");
        assert_eq!(wrong([]), "a composition without calls");
        assert_eq!(wrong([call("a", "/a"), call("a", "/b")]), "two calls are called `a`");
        assert_eq!(wrong([call("a.b", "/a")]), "`a.b` is no name of a call");
        assert_eq!(wrong([call("a", "/a").needs(["b"])]), "there is no call `b`");
        assert_eq!(
            wrong([call("a", "/a"), call("b", "/{a.headers}")]),
            "`{a.headers}`: a call has `body` and `status`"
        );
        assert_eq!(
            wrong([call("a", "/a").otherwise(Otherwise::Default("{".into()))]),
            "the default of `a` is no JSON"
        );
        let framed = ComposeConfig::new([call("a", "/a")]).headers([CONTENT_LENGTH]);
        assert_eq!(framed.check().unwrap_err(), ComposeError::Header(CONTENT_LENGTH));
        let of = |name: &str, value: &str| Shape::object([(name, Shape::text(value).unwrap())]);
        let unused = ComposeConfig::new([call("a", "/a"), call("b", "/b")]).body(of("x", "{a.body}"));
        assert_eq!(unused.check().unwrap_err().to_string(), "nobody uses the answer to `b`");
        let errors = ComposeConfig::new([call("a", "/a")]).body(of("errors", "{a.body}"));
        assert_eq!(errors.check().unwrap_err(), ComposeError::ErrorsIsOurs);
    }
}
