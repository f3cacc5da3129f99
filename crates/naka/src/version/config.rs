//! Which versions there are and when, and where a request says which one it means.

use std::{
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderName, HeaderValue, header::ACCEPT};

use super::{
    ECHO,
    accept::Known,
    name::{MAX_NAME, Text, shown},
};
use crate::clock::WallClock;

/// The most versions of one configuration.
pub const MAX_VERSIONS: usize = 64;
/// The most aliases of one version.
pub const MAX_ALIASES: usize = 16;
/// The most brown-outs of one version.
pub const MAX_BROWNOUTS: usize = 64;
/// The most places where a version is looked for.
pub const MAX_STRATEGIES: usize = 8;
/// The longest link to documentation, in bytes.
const MAX_DOCS: usize = 1024;
/// The last second of the year 9999, which is the last that a date in a header can say.
const MAX_UNIX_S: u64 = 253_402_300_799;

/// One version, and its life. All instants are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Version {
    /// How it is called, and echoed: at most 32 letters, digits, `.`, `-` and `_`.
    pub name: Arc<str>,
    /// How else it may be asked for, such as `stable`. Ways to write a number need none.
    pub aliases: Vec<Arc<str>>,
    /// From when on it is there; before, it does not exist. Default: it is.
    pub since_s: Option<u64>,
    /// From when on only faults are mended. It changes nothing but what is told.
    pub maintenance_s: Option<u64>,
    /// From when on it should not be used any more; told also before.
    pub deprecated_s: Option<u64>,
    /// From when on it is not served any more; told also before.
    pub sunset_s: Option<u64>,
    /// From when on nothing of it is left. Not served either.
    pub removed_s: Option<u64>,
    /// Which one to use instead.
    pub successor: Option<Arc<str>>,
    /// What people should read about its end: a URI.
    pub docs: Option<Arc<str>>,
    /// When it is off for a while, so that whoever still uses it notices: from, and until before.
    pub brownouts: Vec<Range<u64>>,
}

impl Version {
    /// One that is there and stays.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            aliases: Vec::new(),
            since_s: None,
            maintenance_s: None,
            deprecated_s: None,
            sunset_s: None,
            removed_s: None,
            successor: None,
            docs: None,
            brownouts: Vec::new(),
        }
    }

    /// One more name to ask for it.
    #[must_use]
    pub fn alias(mut self, alias: &str) -> Self {
        self.aliases.push(alias.into());
        self
    }

    /// It is there from then on.
    #[must_use]
    pub const fn since(mut self, unix_s: u64) -> Self {
        self.since_s = Some(unix_s);
        self
    }

    /// Only faults are mended from then on.
    #[must_use]
    pub const fn maintenance(mut self, unix_s: u64) -> Self {
        self.maintenance_s = Some(unix_s);
        self
    }

    /// It should not be used from then on.
    #[must_use]
    pub const fn deprecated(mut self, unix_s: u64) -> Self {
        self.deprecated_s = Some(unix_s);
        self
    }

    /// It is not served from then on.
    #[must_use]
    pub const fn sunset(mut self, unix_s: u64) -> Self {
        self.sunset_s = Some(unix_s);
        self
    }

    /// Nothing of it is left from then on.
    #[must_use]
    pub const fn removed(mut self, unix_s: u64) -> Self {
        self.removed_s = Some(unix_s);
        self
    }

    /// Which one to use instead.
    #[must_use]
    pub fn successor(mut self, name: &str) -> Self {
        self.successor = Some(name.into());
        self
    }

    /// What people should read about its end.
    #[must_use]
    pub fn docs(mut self, uri: &str) -> Self {
        self.docs = Some(uri.into());
        self
    }

    /// It is off for this while.
    #[must_use]
    pub fn brownout(mut self, while_s: Range<u64>) -> Self {
        self.brownouts.push(while_s);
        self
    }

    /// Where in its life it is.
    pub fn state(&self, unix_s: u64) -> State {
        let has_come = |instant: Option<u64>| instant.is_some_and(|instant| unix_s >= instant);
        if has_come(self.removed_s) {
            State::Removed
        } else if has_come(self.sunset_s) {
            State::Sunset
        } else if self.since_s.is_some_and(|since| unix_s < since) {
            State::Planned
        } else if has_come(self.deprecated_s) {
            State::Deprecated
        } else if has_come(self.maintenance_s) {
            State::Maintenance
        } else {
            State::Active
        }
    }

    /// When the brown-out ends that there is now; of several the last.
    pub(super) fn off_until(&self, unix_s: u64) -> Option<u64> {
        self.brownouts.iter().filter(|off| off.contains(&unix_s)).map(|off| off.end).max()
    }

    /// Its instants, in the order in which they have to be.
    fn life(&self) -> [(&'static str, Option<u64>); 5] {
        [
            ("since", self.since_s),
            ("maintenance", self.maintenance_s),
            ("deprecated", self.deprecated_s),
            ("sunset", self.sunset_s),
            ("removed", self.removed_s),
        ]
    }
}

/// Where in its life a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Its time has not come: it does not exist.
    Planned,
    /// It is there.
    Active,
    /// Only faults are mended.
    Maintenance,
    /// It should not be used any more.
    Deprecated,
    /// It is not served any more.
    Sunset,
    /// Nothing of it is left.
    Removed,
}

impl State {
    /// The word for machines.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Active => "active",
            Self::Maintenance => "maintenance",
            Self::Deprecated => "deprecated",
            Self::Sunset => "sunset",
            Self::Removed => "removed",
        }
    }

    /// Whether requests are served.
    pub const fn is_served(self) -> bool {
        matches!(self, Self::Active | Self::Maintenance | Self::Deprecated)
    }
}

/// Where a request may say which version it means.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// In the path: `/v2/products`.
    Path {
        /// In which segment, counted from 0.
        segment: usize,
        /// Whether that segment is taken away before the request goes on.
        strip: bool,
    },
    /// In a header, such as `X-API-Version: 2`.
    Header(HeaderName),
    /// In `Accept`, as a vendor type or a parameter.
    Accept {
        /// The `acme` of `application/vnd.acme.v2+json`; without, any vendor will do.
        vendor: Option<Arc<str>>,
        /// The `version` of `application/json;version=2`.
        parameter: Arc<str>,
    },
    /// In a parameter of the query: `?version=2`.
    Query(Arc<str>),
    /// In the first label of the host: `v2.api.example`.
    Subdomain,
}

impl Strategy {
    /// The first segment of the path, which stays.
    pub const fn path() -> Self {
        Self::Path { segment: 0, strip: false }
    }

    /// The first segment of the path, which is taken away.
    pub const fn stripped_path() -> Self {
        Self::Path { segment: 0, strip: true }
    }

    /// `X-API-Version`.
    pub const fn header() -> Self {
        Self::Header(ECHO)
    }

    /// Types of any vendor, and the parameter `version`.
    pub fn accept() -> Self {
        Self::Accept { vendor: None, parameter: "version".into() }
    }

    /// The parameter `version`.
    pub fn query() -> Self {
        Self::Query("version".into())
    }

    /// The word for its kind.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Path { .. } => "path",
            Self::Header(_) => "header",
            Self::Accept { .. } => "accept",
            Self::Query(_) => "query",
            Self::Subdomain => "subdomain",
        }
    }

    /// Whether both would look in the same place.
    fn clashes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path { .. }, Self::Path { .. })
            | (Self::Accept { .. }, Self::Accept { .. })
            | (Self::Subdomain, Self::Subdomain) => true,
            (Self::Header(a), Self::Header(b)) => a == b,
            (Self::Query(a), Self::Query(b)) => a == b,
            _ => false,
        }
    }

    fn is_possible(&self) -> bool {
        // What `Accept` reads as a token, and a query without escapes.
        let is_word = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        };
        match self {
            Self::Path { .. } | Self::Subdomain => true,
            Self::Header(name) => *name != ACCEPT,
            Self::Query(name) => is_word(name),
            Self::Accept { vendor, parameter } => {
                vendor.as_deref().is_none_or(is_word)
                    && is_word(parameter)
                    && !parameter.eq_ignore_ascii_case("q")
            }
        }
    }

    /// The header that decides, where it is one.
    pub(super) fn header_name(&self) -> Option<HeaderName> {
        match self {
            Self::Header(name) => Some(name.clone()),
            Self::Accept { .. } => Some(ACCEPT),
            Self::Path { .. } | Self::Query(_) | Self::Subdomain => None, // The URI is of a cache's key anyway.
        }
    }
}

/// What happens to a request that says two different versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnConflict {
    /// It is refused.
    #[default]
    Refuse,
    /// The first place that says one counts, in the order of the strategies; within one place it is
    /// refused all the same.
    Precedence,
}

/// What a [`VersionLayer`](super::VersionLayer) does, as it is written; [`check`](Self::check) makes it
/// one that cannot be wrong.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VersionConfig {
    /// All versions.
    pub versions: Vec<Version>,
    /// Where a version is looked for, in order; default path, header, `Accept`.
    pub strategies: Vec<Strategy>,
    /// What happens if two places differ; default [`OnConflict::Refuse`].
    pub on_conflict: OnConflict,
    /// Which one is meant if none is said; without it such a request is refused.
    pub default: Option<Arc<str>>,
    /// What the time is.
    pub clock: WallClock,
}

impl VersionConfig {
    /// These versions, and the defaults.
    pub fn new(versions: impl IntoIterator<Item = Version>) -> Self {
        Self {
            versions: versions.into_iter().collect(),
            strategies: vec![Strategy::path(), Strategy::header(), Strategy::accept()],
            on_conflict: OnConflict::default(),
            default: None,
            clock: WallClock::system(),
        }
    }

    /// Looks in these places, in this order.
    #[must_use]
    pub fn strategies(mut self, strategies: impl IntoIterator<Item = Strategy>) -> Self {
        self.strategies = strategies.into_iter().collect();
        self
    }

    /// What happens if two places differ.
    #[must_use]
    pub const fn on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }

    /// Which one is meant if none is said.
    #[must_use]
    pub fn default_version(mut self, name: &str) -> Self {
        self.default = Some(name.into());
        self
    }

    /// What the time is.
    #[must_use]
    pub const fn clock(mut self, clock: WallClock) -> Self {
        self.clock = clock;
        self
    }

    /// The same, checked.
    pub fn check(self) -> Result<Versioning, VersionError> {
        Checked::new(self).map(|checked| Versioning(Arc::new(checked)))
    }
}

/// Where the time comes from is no matter of configuration.
impl PartialEq for VersionConfig {
    fn eq(&self, other: &Self) -> bool {
        self.versions == other.versions
            && self.strategies == other.strategies
            && self.on_conflict == other.on_conflict
            && self.default == other.default
    }
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VersionError {
    /// There are no versions.
    NoVersions,
    /// There are too many of something.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// This can be no name.
    Name(Arc<str>),
    /// Two versions would answer to this name, or one has it twice.
    Duplicate(Arc<str>),
    /// The default does not exist.
    UnknownDefault(Arc<str>),
    /// The successor does not exist.
    UnknownSuccessor {
        /// Whose.
        version: Arc<str>,
        /// What it says.
        successor: Arc<str>,
    },
    /// The version is, in the end, its own successor.
    SuccessorCycle(Arc<str>),
    /// Something comes before what has to come before it.
    Order {
        /// Of which version.
        version: Arc<str>,
        /// What has to come first.
        first: &'static str,
        /// What has to come then.
        then: &'static str,
    },
    /// No date in a header can say this instant.
    Instant {
        /// Of which version.
        version: Arc<str>,
        /// Which instant.
        unix_s: u64,
    },
    /// A brown-out of this version ends before it begins.
    Brownout(Arc<str>),
    /// The documentation of this version is no URI.
    Docs(Arc<str>),
    /// A place is named twice, or nothing can be found there.
    Strategy(&'static str),
}

impl fmt::Display for VersionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVersions => f.write_str("there are no versions"),
            Self::TooMany { what, max } => write!(f, "more than {max} {what}"),
            Self::Name(name) => write!(
                f,
                "\"{}\" can be no name of a version: 1 to {MAX_NAME} letters, digits, `.`, `-` and `_`, a letter or digit first",
                shown(name.as_bytes())
            ),
            Self::Duplicate(name) => write!(f, "the name `{name}` is taken"),
            Self::UnknownDefault(name) => write!(f, "the default `{name}` does not exist"),
            Self::UnknownSuccessor { version, successor } => {
                write!(f, "the successor `{successor}` of `{version}` does not exist")
            }
            Self::SuccessorCycle(name) => write!(f, "`{name}` is, in the end, its own successor"),
            Self::Order { version, first, then } => write!(f, "`{version}`: `{then}` is before `{first}`"),
            Self::Instant { version, unix_s } => write!(f, "`{version}`: {unix_s} is after the year 9999"),
            Self::Brownout(name) => write!(f, "a brown-out of `{name}` ends before it begins"),
            Self::Docs(name) => write!(f, "the documentation of `{name}` is no URI"),
            Self::Strategy(word) => write!(f, "the strategy `{word}` is there twice, or can find nothing"),
        }
    }
}

impl std::error::Error for VersionError {}

/// A [`VersionConfig`] that cannot be wrong. Clones are one.
#[derive(Clone, Debug)]
pub struct Versioning(pub(super) Arc<Checked>);

impl Versioning {
    /// As it was written.
    pub fn config(&self) -> &VersionConfig {
        &self.0.config
    }
}

#[derive(Debug)]
pub(super) struct Checked {
    pub(super) config: VersionConfig,
    pub(super) default: Option<usize>,
    /// By version: what else there is to know.
    pub(super) told: Vec<Told>,
    /// What decides besides the URI.
    pub(super) vary: Vec<(HeaderName, HeaderValue)>,
    /// All of it in one value.
    pub(super) vary_all: Option<HeaderValue>,
    /// All names in their one form, sorted.
    names: Vec<(Box<str>, usize)>,
}

/// What responses tell of one version.
#[derive(Debug)]
pub(super) struct Told {
    /// The one form of its name.
    pub(super) canonical: Box<str>,
    pub(super) successor: Option<usize>,
    pub(super) echo: HeaderValue,
    pub(super) deprecation: Option<HeaderValue>,
    pub(super) sunset: Option<HeaderValue>,
    /// To its documentation.
    pub(super) link: Option<HeaderValue>,
}

impl Checked {
    fn new(config: VersionConfig) -> Result<Self, VersionError> {
        if config.versions.is_empty() {
            return Err(VersionError::NoVersions);
        }
        at_most(config.versions.len(), MAX_VERSIONS, "versions")?;
        at_most(config.strategies.len(), MAX_STRATEGIES, "strategies")?;
        for (place, strategy) in config.strategies.iter().enumerate() {
            let clashes = config.strategies[..place].iter().any(|other| strategy.clashes(other));
            if clashes || !strategy.is_possible() {
                return Err(VersionError::Strategy(strategy.word()));
            }
        }
        let names = names(&config.versions)?;
        let find = |name: &Arc<str>| find(&names, &Text::of(name.bytes())?);
        let default = match &config.default {
            Some(name) => Some(find(name).ok_or_else(|| VersionError::UnknownDefault(Arc::clone(name)))?),
            None => None,
        };
        let told =
            config.versions.iter().map(|version| told(version, find)).collect::<Result<Vec<_>, _>>()?;
        for (index, version) in config.versions.iter().enumerate() {
            let next = |at: &usize| told[*at].successor;
            if std::iter::successors(Some(index), next).nth(config.versions.len()).is_some() {
                return Err(VersionError::SuccessorCycle(Arc::clone(&version.name)));
            }
        }
        let vary = config.strategies.iter().filter_map(Strategy::header_name).map(|name| {
            let value = HeaderValue::from_name(name.clone());
            (name, value)
        });
        let vary = vary.collect::<Vec<_>>();
        let all = vary.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let vary_all = if vary.is_empty() { None } else { HeaderValue::try_from(all).ok() };
        Ok(Self { config, default, told, vary, vary_all, names })
    }

    /// The version of this name, if it exists by now.
    pub(super) fn find(&self, text: &Text, unix_s: u64) -> Option<Known> {
        let index = find(&self.names, text)?;
        let state = self.config.versions[index].state(unix_s);
        (state != State::Planned).then(|| Known { index, is_served: state.is_served() })
    }

    /// What can be asked for now, in words.
    pub(super) fn supported(&self, unix_s: u64) -> String {
        let served = self.config.versions.iter().filter(|version| version.state(unix_s).is_served());
        let names = served.map(|version| &*version.name).collect::<Vec<_>>();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }
}

/// All names, sorted. Another way to write its own name is no second name.
fn names(versions: &[Version]) -> Result<Vec<(Box<str>, usize)>, VersionError> {
    let mut names = Vec::<(Box<str>, usize)>::new();
    for (index, version) in versions.iter().enumerate() {
        at_most(version.aliases.len(), MAX_ALIASES, "aliases of one version")?;
        let all = [&version.name].into_iter().chain(&version.aliases).collect::<Vec<_>>();
        for (place, name) in all.iter().copied().enumerate() {
            let text = Text::of(name.bytes()).ok_or_else(|| VersionError::Name(Arc::clone(name)))?;
            let taken = names.iter().find(|(taken, _)| **taken == *text.canonical());
            let is_spelling = taken.is_some_and(|(_, of)| *of == index) && !all[..place].contains(&name);
            match taken {
                None => names.push((text.canonical().into(), index)),
                Some(_) if is_spelling => {}
                Some(_) => return Err(VersionError::Duplicate(Arc::clone(name))),
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn find(names: &[(Box<str>, usize)], text: &Text) -> Option<usize> {
    let place = names.binary_search_by(|(name, _)| (**name).cmp(text.canonical())).ok()?;
    Some(names[place].1)
}

fn told(version: &Version, find: impl Fn(&Arc<str>) -> Option<usize>) -> Result<Told, VersionError> {
    let name = || Arc::clone(&version.name);
    let life = version.life();
    let mut last = None;
    for (then, instant_s) in life {
        let Some(instant_s) = instant_s else { continue };
        if instant_s > MAX_UNIX_S {
            return Err(VersionError::Instant { version: name(), unix_s: instant_s });
        }
        match last {
            Some((first, first_s)) if instant_s < first_s => {
                return Err(VersionError::Order { version: name(), first, then });
            }
            _ => last = Some((then, instant_s)),
        }
    }
    at_most(version.brownouts.len(), MAX_BROWNOUTS, "brown-outs of one version")?;
    if version.brownouts.iter().any(Range::is_empty) {
        return Err(VersionError::Brownout(name()));
    }
    let successor = match &version.successor {
        Some(successor) => Some(find(successor).ok_or_else(|| VersionError::UnknownSuccessor {
            version: name(),
            successor: Arc::clone(successor),
        })?),
        None => None,
    };
    let canonical =
        Text::of(version.name.bytes()).ok_or_else(|| VersionError::Name(name()))?.canonical().into();
    let echo = HeaderValue::from_str(&version.name).map_err(|_| VersionError::Name(name()))?;
    let deprecation = version.deprecated_s.map(|unix_s| value(format!("@{unix_s}")));
    let sunset = version
        .sunset_s
        .map(|unix_s| value(httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s))));
    Ok(Told { canonical, successor, echo, deprecation, sunset, link: docs_link(version)? })
}

/// The relations of RFC 9745 (`deprecation`) and RFC 8594 (`sunset`).
fn docs_link(version: &Version) -> Result<Option<HeaderValue>, VersionError> {
    let Some(docs) = &version.docs else { return Ok(None) };
    let is_uri = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"' | b'\\');
    if docs.is_empty() || docs.len() > MAX_DOCS || !docs.bytes().all(is_uri) {
        return Err(VersionError::Docs(Arc::clone(&version.name)));
    }
    let relations = [("deprecation", version.deprecated_s), ("sunset", version.sunset_s)];
    let links = relations.iter().filter(|(_, instant)| instant.is_some());
    let links =
        links.map(|(relation, _)| format!("<{docs}>; rel=\"{relation}\"")).collect::<Vec<_>>().join(", ");
    Ok(if links.is_empty() { None } else { Some(value(links)) })
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("dates and checked links are visible ASCII")
}

fn at_most(len: usize, max: usize, what: &'static str) -> Result<(), VersionError> {
    if len > max { Err(VersionError::TooMany { what, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: VersionConfig) -> VersionError {
        config.check().expect_err("it is wrong")
    }

    fn one(version: Version) -> VersionConfig {
        VersionConfig::new([version, Version::new("9")])
    }

    #[test]
    fn r11_4_a_life_in_the_wrong_order_is_refused() {
        let wrong = [
            (Version::new("1").deprecated(20).sunset(19), "deprecated", "sunset"),
            (Version::new("1").since(20).sunset(19), "since", "sunset"),
            (Version::new("1").sunset(20).removed(19), "sunset", "removed"),
            (Version::new("1").maintenance(20).deprecated(19), "maintenance", "deprecated"),
        ];
        for (version, first, then) in wrong {
            assert_eq!(refused(one(version)), VersionError::Order { version: "1".into(), first, then });
        }
        assert!(one(Version::new("1").since(1).deprecated(20).sunset(20).removed(20)).check().is_ok());
    }

    #[test]
    fn what_does_not_exist_cannot_be_pointed_to() {
        let successor = one(Version::new("1").successor("2"));
        let expected = VersionError::UnknownSuccessor { version: "1".into(), successor: "2".into() };
        assert_eq!(refused(successor), expected);
        let default = VersionConfig::new([Version::new("1")]).default_version("latest");
        assert_eq!(refused(default), VersionError::UnknownDefault("latest".into()));
        let own = VersionConfig::new([Version::new("1").successor("v1")]);
        assert_eq!(refused(own), VersionError::SuccessorCycle("1".into()));
        let circle = [Version::new("0"), Version::new("1").successor("2"), Version::new("2").successor("1")];
        assert_eq!(refused(VersionConfig::new(circle)), VersionError::SuccessorCycle("1".into()));
        let line = [Version::new("1").successor("2"), Version::new("2").successor("3"), Version::new("3")];
        assert!(VersionConfig::new(line).check().is_ok());
    }

    #[test]
    fn a_name_has_one_version() {
        let twice = |a: Version, b: Version| refused(VersionConfig::new([a, b]));
        assert_eq!(twice(Version::new("2"), Version::new("V2.0")), VersionError::Duplicate("V2.0".into()));
        let stable = |name: &str| Version::new(name).alias("stable");
        assert_eq!(twice(stable("1"), stable("2")), VersionError::Duplicate("stable".into()));
        assert_eq!(
            twice(Version::new("1"), Version::new("2").alias("v1")),
            VersionError::Duplicate("v1".into())
        );
        let twice = VersionConfig::new([stable("1").alias("stable")]);
        assert_eq!(refused(twice), VersionError::Duplicate("stable".into()));
        let spelled = Version::new("2").alias("v2").alias("2.0");
        assert!(VersionConfig::new([spelled]).check().is_ok());
    }

    #[test]
    fn bad_values_are_named() {
        assert_eq!(refused(VersionConfig::new([])), VersionError::NoVersions);
        assert_eq!(refused(VersionConfig::new([Version::new("a b")])), VersionError::Name("a b".into()));
        let long = "1".repeat(MAX_NAME + 1);
        assert_eq!(
            refused(VersionConfig::new([Version::new(&long)])),
            VersionError::Name(long.as_str().into())
        );
        let late = Version::new("1").sunset(MAX_UNIX_S + 1);
        assert_eq!(refused(one(late)), VersionError::Instant { version: "1".into(), unix_s: MAX_UNIX_S + 1 });
        assert!(one(Version::new("1").sunset(MAX_UNIX_S)).check().is_ok());
        assert_eq!(refused(one(Version::new("1").brownout(5..5))), VersionError::Brownout("1".into()));
        for docs in ["", "a b", "https://x/\">", "https://x/\r\ny"] {
            assert_eq!(refused(one(Version::new("1").docs(docs))), VersionError::Docs("1".into()));
        }
        let many = (0..=MAX_VERSIONS).map(|number| Version::new(&number.to_string()));
        assert_eq!(
            refused(VersionConfig::new(many)),
            VersionError::TooMany { what: "versions", max: MAX_VERSIONS }
        );
        let strategies = |all: &[Strategy]| one(Version::new("1")).strategies(all.to_vec());
        let segment = Strategy::Path { segment: 3, strip: true };
        assert_eq!(refused(strategies(&[Strategy::path(), segment])), VersionError::Strategy("path"));
        assert_eq!(refused(strategies(&[Strategy::Header(ACCEPT)])), VersionError::Strategy("header"));
        assert_eq!(refused(strategies(&[Strategy::Query("".into())])), VersionError::Strategy("query"));
        let two = [Strategy::header(), Strategy::Header(HeaderName::from_static("api-version"))];
        assert!(strategies(&two).check().is_ok());
        assert!(strategies(&[]).check().is_ok());
    }

    #[test]
    fn a_life_goes_through_its_states() {
        let version = Version::new("1").since(10).maintenance(20).deprecated(30).sunset(40).removed(50);
        let states = [5, 10, 20, 30, 40, 50].map(|unix_s| version.state(unix_s).word());
        assert_eq!(states, ["planned", "active", "maintenance", "deprecated", "sunset", "removed"]);
        assert_eq!(Version::new("1").state(0), State::Active);
    }
}
