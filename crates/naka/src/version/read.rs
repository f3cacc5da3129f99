//! What a request says about versions, and the same request for another one.

use std::ops::Range;

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{ACCEPT, HOST},
    uri::{self, Authority, PathAndQuery},
};

use super::{
    accept::{Accepted, Sought},
    config::{Checked, OnConflict, Strategy},
    name::{Text, begins_with_digit, begins_with_v, decoded, is_meant},
};
use crate::reject::Head;

/// The longest URI that is put into a link.
const MAX_LINK: usize = 4096;

/// What one place says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said<'h> {
    Nothing,
    Version(usize),
    /// One that does not exist, as it is written.
    Unknown(&'h [u8]),
    /// Two of them.
    Both,
}

impl Said<'_> {
    /// What both say together.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, said) | (said, Self::Nothing) => said,
            (Self::Unknown(_), Self::Unknown(_)) => self,
            _ if self == other => self,
            _ => Self::Both,
        }
    }
}

/// Which version a request means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meant<'h> {
    /// One, and by which strategy it says so; `None`: it is the default.
    Version(usize, Option<usize>),
    /// One that does not exist.
    Unknown(&'h [u8]),
    /// None of those that would do exists.
    NotAcceptable,
    /// Several.
    Conflict,
    /// None, and there is no default.
    None,
}

/// The pure decision about places; times of life come after it.
pub(super) fn meant<'h>(checked: &Checked, unix_s: u64, head: &Head<'h>) -> Meant<'h> {
    let is_first_enough = checked.config.on_conflict == OnConflict::Precedence;
    let mut accepted = None;
    let (mut said, mut by) = (Said::Nothing, None);
    for (place, strategy) in checked.config.strategies.iter().enumerate() {
        let here = if let Strategy::Accept { vendor, parameter } = strategy {
            let sought = Sought { vendor: vendor.as_deref(), parameter };
            let mut lines = Accepted::default();
            for line in head.headers.get_all(ACCEPT) {
                lines.read(line.as_bytes(), sought, |text| checked.find(text, unix_s));
            }
            let says = says(&lines);
            accepted = Some((place, lines));
            if !is_first_enough {
                continue; // It is a list of wishes: weighed when it is known what the others say.
            }
            says
        } else {
            read(strategy, checked, unix_s, head)
        };
        by = by.or((here != Said::Nothing).then_some(place));
        said = said.and(here);
        if is_first_enough && said != Said::Nothing {
            break;
        }
    }
    let (accept_at, accepted) = accepted.unzip();
    let accepted = accepted.unwrap_or_default();
    let wish = says(&accepted);
    match said {
        Said::Unknown(_) if is_first_enough && by == accept_at => Meant::NotAcceptable,
        Said::Version(index) if is_first_enough => Meant::Version(index, by),
        Said::Unknown(text) if is_first_enough => Meant::Unknown(text),
        Said::Version(index) if would_do(&accepted, wish, index) => {
            // Whoever says it first has said it.
            let is_wish = wish == Said::Version(index) && accept_at < by;
            Meant::Version(index, if is_wish { accept_at } else { by })
        }
        Said::Unknown(text) if !matches!(wish, Said::Version(_) | Said::Both) => Meant::Unknown(text),
        Said::Both | Said::Version(_) | Said::Unknown(_) => Meant::Conflict,
        Said::Nothing => match (wish, checked.default) {
            (Said::Version(index), _) => Meant::Version(index, accept_at),
            (Said::Unknown(_), _) => Meant::NotAcceptable,
            (Said::Both, _) => Meant::Conflict,
            (Said::Nothing, Some(default)) if accepted.refuses(default) => Meant::NotAcceptable,
            (Said::Nothing, Some(default)) => Meant::Version(default, None),
            (Said::Nothing, None) => Meant::None,
        },
    }
}

/// The best wish. One that does not exist is no word where something without a version would do, too.
fn says<'h>(accepted: &Accepted<'h>) -> Said<'h> {
    match (accepted.best(), accepted.unknown) {
        _ if accepted.is_torn => Said::Both,
        (Some(index), _) => Said::Version(index),
        (None, Some(unknown)) if !accepted.is_open => Said::Unknown(unknown),
        (None, _) => Said::Nothing,
    }
}

/// Whether the version that another place says is one of those wished for.
fn would_do(accepted: &Accepted<'_>, wish: Said<'_>, index: usize) -> bool {
    match wish {
        Said::Nothing => !accepted.refuses(index),
        Said::Version(_) => accepted.all & 1 << index != 0,
        Said::Unknown(_) | Said::Both => false,
    }
}

fn read<'h>(strategy: &Strategy, checked: &Checked, unix_s: u64, head: &Head<'h>) -> Said<'h> {
    let find = |text: &Text| checked.find(text, unix_s).map(|known| known.index);
    match strategy {
        Strategy::Path { segment, .. } => {
            let path = head.uri.path();
            segment_at(path, *segment).map_or(Said::Nothing, |place| label(&path[place], find))
        }
        Strategy::Subdomain => host(head).and_then(subdomain).map_or(Said::Nothing, |text| label(text, find)),
        Strategy::Header(name) => header(head.headers, name, find),
        Strategy::Query(name) => {
            let values = parameters(head.uri.query().unwrap_or_default(), name);
            values.map(|value| whole(value.as_bytes(), decoded(value), find)).fold(Said::Nothing, Said::and)
        }
        Strategy::Accept { .. } => Said::Nothing, // Read where its wishes are weighed.
    }
}

/// What stands in a place for versions: it means one, whatever it is.
fn whole(written: &[u8], bytes: impl Iterator<Item = u8>, find: impl Fn(&Text) -> Option<usize>) -> Said<'_> {
    Text::of(bytes).and_then(|text| find(&text)).map_or(Said::Unknown(written), Said::Version)
}

/// What stands in a place for other things as well: it means a version if it looks like one.
fn label(written: &str, find: impl Fn(&Text) -> Option<usize>) -> Said<'_> {
    let text = Text::of(decoded(written));
    match text.as_ref().and_then(find) {
        Some(index) => Said::Version(index),
        None if is_meant(text.as_ref().map_or(written, Text::as_str).as_bytes()) => {
            Said::Unknown(written.as_bytes())
        }
        None => Said::Nothing,
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &HeaderName, find: impl Fn(&Text) -> Option<usize>) -> Said<'h> {
    let lines = headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    let values = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let said = values.map(|value| {
        let inside = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        whole(value, inside.unwrap_or(value).iter().copied(), &find)
    });
    said.fold(Said::Nothing, Said::and)
}

/// The values of a parameter of the query.
fn parameters<'h>(query: &'h str, name: &str) -> impl Iterator<Item = &'h str> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        decoded(key).eq(name.bytes()).then_some(value)
    })
}

/// Where a segment of a path is, without its slash.
fn segment_at(path: &str, segment: usize) -> Option<Range<usize>> {
    let mut start = path.starts_with('/').then_some(1)?;
    for _ in 0..segment {
        start += path[start..].find('/')? + 1;
    }
    let end = path[start..].find('/').map_or(path.len(), |len| start + len);
    Some(start..end)
}

/// The host, with its port: of the target, else of `Host`.
fn host<'h>(head: &Head<'h>) -> Option<&'h str> {
    let named = || head.headers.get(HOST).and_then(|host| host.to_str().ok());
    head.uri.authority().map(Authority::as_str).or_else(named)
}

/// The first label of a name that has others; an address has none.
fn subdomain(host: &str) -> Option<&str> {
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let is_name =
        host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':'));
    let is_address = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let (label, rest) = name.split_once('.')?;
    (is_name && !is_address && !rest.is_empty()).then_some(label)
}

/// The URI without the segment that says a version, if it is to be taken away.
pub(super) fn stripped(checked: &Checked, unix_s: u64, head: &Head<'_>) -> Option<Uri> {
    let segment = checked.config.strategies.iter().find_map(|strategy| match strategy {
        Strategy::Path { segment, strip: true } => Some(*segment),
        _ => None,
    })?;
    let path = head.uri.path();
    let place = segment_at(path, segment)?;
    let find = |text: &Text| checked.find(text, unix_s).map(|known| known.index);
    if !matches!(label(&path[place.clone()], find), Said::Version(_)) {
        return None;
    }
    let (before, after) = (&path[..place.start - 1], &path[place.end..]);
    let query = head.uri.path_and_query().map_or("", |all| &all.as_str()[path.len()..]); // With its `?`.
    let root = if before.is_empty() && after.is_empty() { "/" } else { "" };
    let mut target = String::with_capacity(root.len() + before.len() + after.len() + query.len());
    for piece in [root, before, after, query] {
        target.push_str(piece);
    }
    let mut parts = uri::Parts::default(); // A clone of the whole would be another allocation.
    parts.scheme = head.uri.scheme().cloned();
    parts.authority = head.uri.authority().cloned();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

/// A link to what is asked for, in the version that succeeds: wherever the URI says a version, it says
/// that one. `None` if it says none, or this one already: then it is no other resource, as the relation wants
/// (RFC 5829, 3.3); and if it is too long for a header.
pub(super) fn successor_link(
    checked: &Checked,
    unix_s: u64,
    head: &Head<'_>,
    successor: usize,
) -> Option<HeaderValue> {
    let target = head.uri.path_and_query()?.as_str();
    if target.len() > MAX_LINK || target.starts_with("//") || !target.starts_with('/') {
        return None; // Two slashes would be a link to another host.
    }
    let is_of_uri = |strategy: &&Strategy| !matches!(strategy, Strategy::Header(_) | Strategy::Accept { .. });
    let mut said = checked.config.strategies.iter().filter(is_of_uri);
    let is_another = |said| said != Said::Nothing && said != Said::Version(successor);
    if !said.any(|strategy| is_another(read(strategy, checked, unix_s, head))) {
        return None;
    }
    let mut len = 0;
    let rewriting = Rewriting { checked, unix_s, head, successor };
    rewriting.pieces(&mut |piece| len += piece.len());
    let mut link = String::with_capacity(len);
    rewriting.pieces(&mut |piece| link.push_str(piece));
    HeaderValue::try_from(link).ok()
}

struct Rewriting<'a> {
    checked: &'a Checked,
    unix_s: u64,
    head: &'a Head<'a>,
    successor: usize,
}

impl Rewriting<'_> {
    fn pieces(&self, emit: &mut impl FnMut(&str)) {
        emit("<");
        for strategy in &self.checked.config.strategies {
            if let Strategy::Subdomain = strategy {
                self.host(emit);
            }
        }
        let path = self.head.uri.path();
        let segment = self.checked.config.strategies.iter().find_map(|strategy| match strategy {
            Strategy::Path { segment, .. } => segment_at(path, *segment),
            _ => None,
        });
        match segment.filter(|place| self.says(&path[place.clone()])) {
            Some(place) => {
                escaped(&path[..place.start], emit);
                self.spelled(&path[place.clone()], emit);
                escaped(&path[place.end..], emit);
            }
            None => escaped(path, emit),
        }
        if let Some(query) = self.head.uri.query() {
            self.query(query, emit);
        }
        emit(">; rel=\"successor-version\"");
    }

    /// With a version in its name, the host is another one.
    fn host(&self, emit: &mut impl FnMut(&str)) {
        let Some(host) = host(self.head) else { return };
        let Some(label) = subdomain(host).filter(|label| self.says(label)) else { return };
        emit("//");
        self.spelled(label, emit);
        escaped(&host[label.len()..], emit);
    }

    fn query(&self, query: &str, emit: &mut impl FnMut(&str)) {
        for (number, pair) in query.split('&').enumerate() {
            emit(if number == 0 { "?" } else { "&" });
            let key = pair.split_once('=').map_or(pair, |(key, _)| key);
            let is_version =
                self.checked.config.strategies.iter().any(
                    |strategy| matches!(strategy, Strategy::Query(name) if decoded(key).eq(name.bytes())),
                );
            if is_version {
                escaped(key, emit);
                emit("=");
                emit(&self.checked.config.versions[self.successor].name);
            } else {
                escaped(pair, emit);
            }
        }
    }

    fn says(&self, text: &str) -> bool {
        let find = |text: &Text| self.checked.find(text, self.unix_s).map(|known| known.index);
        label(text, find) != Said::Nothing
    }

    /// The successor, written as the request writes its version: `v2` after `v1`, `2` after `1`.
    fn spelled(&self, like: &str, emit: &mut impl FnMut(&str)) {
        let canonical = &*self.checked.told[self.successor].canonical;
        let like = like.as_bytes();
        if begins_with_digit(canonical.as_bytes()) && begins_with_v(like) {
            emit("v");
            emit(canonical);
        } else if begins_with_digit(canonical.as_bytes()) && begins_with_digit(like) {
            emit(canonical);
        } else {
            emit(&self.checked.config.versions[self.successor].name);
        }
    }
}

/// A part of a URI as it can stand between `<` and `>`.
fn escaped(text: &str, emit: &mut impl FnMut(&str)) {
    let mut rest = text;
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | '"' | '\\');
    while let Some((place, odd)) = rest.char_indices().find(|(_, c)| !is_plain(*c)) {
        emit(&rest[..place]);
        for byte in odd.encode_utf8(&mut [0; 4]).bytes() {
            const HEX: [&str; 16] =
                ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "A", "B", "C", "D", "E", "F"];
            emit("%");
            emit(HEX[usize::from(byte >> 4)]);
            emit(HEX[usize::from(byte & 15)]);
        }
        rest = &rest[place + odd.len_utf8()..];
    }
    emit(rest);
}
