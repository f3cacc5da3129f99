//! Which versions an `Accept` header takes (RFC 9110, 12.5.1): of vendor types and of a parameter.

use super::name::{Text, is_meant};

/// What is looked for.
#[derive(Clone, Copy)]
pub(super) struct Sought<'a> {
    /// In `application/vnd.acme.v2+json`: `acme`; `None`: whoever it is.
    pub(super) vendor: Option<&'a str>,
    /// In `application/json;version=2`: `version`.
    pub(super) parameter: &'a str,
}

/// What is known of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Its place, below 64.
    pub(super) index: usize,
    /// Whether it is still served.
    pub(super) is_served: bool,
}

/// What all lines together say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted<'t> {
    /// The best that is served; if none is, the best that was.
    best: Option<(Weight, Known)>,
    /// All that would do, one bit each.
    pub(super) all: u64,
    /// Those of weight 0, one bit each.
    refused: u64,
    /// The first that does not exist.
    pub(super) unknown: Option<&'t [u8]>,
    /// Whether something without a version would do.
    pub(super) is_open: bool,
    /// Whether one media range says two versions.
    pub(super) is_torn: bool,
}

/// Thousandths.
type Weight = u16;
const FULL: Weight = 1000;

impl<'t> Accepted<'t> {
    pub(super) fn best(&self) -> Option<usize> {
        self.best.map(|(_, known)| known.index)
    }

    /// Whether this version is refused: by itself, and by no other media type accepted.
    pub(super) fn refuses(&self, index: usize) -> bool {
        self.refused & !self.all & 1 << index != 0
    }

    /// Reads one more line.
    pub(super) fn read(&mut self, line: &'t [u8], sought: Sought<'_>, find: impl Fn(&Text) -> Option<Known>) {
        for range in split(line, b',').map(<[u8]>::trim_ascii).filter(|range| !range.is_empty()) {
            self.range(range, sought, &find);
        }
    }

    fn range(&mut self, range: &'t [u8], sought: Sought<'_>, find: &impl Fn(&Text) -> Option<Known>) {
        let mut parts = split(range, b';').map(<[u8]>::trim_ascii);
        let mut said = Said::default();
        if let Some(name) = parts.next().and_then(|media| vendor_version(media, sought.vendor, find)) {
            said.add(name, Text::of(name.iter().copied()).and_then(|name| find(&name)));
        }
        let mut weight = FULL;
        for part in parts {
            let place = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
            let name = part[..place].trim_ascii();
            let value = part.get(place + 1..).unwrap_or_default().trim_ascii();
            if name.eq_ignore_ascii_case(b"q") {
                weight = weigh(value).unwrap_or(FULL); // What cannot be read takes nothing back.
            } else if name.eq_ignore_ascii_case(sought.parameter.as_bytes()) {
                let text =
                    if value.starts_with(b"\"") { unquoted(value) } else { Text::of(value.iter().copied()) };
                said.add(value, text.and_then(|text| find(&text)));
            }
        }
        self.add(&said, weight);
    }

    fn add(&mut self, said: &Said<'t>, weight: Weight) {
        match (said.known, said.unknown) {
            (Some(known), _) if weight == 0 => self.refused |= 1 << known.index,
            _ if weight == 0 => {}
            _ if said.is_torn => self.is_torn = true,
            (Some(known), _) => {
                self.all |= 1 << known.index;
                let is_better =
                    |(best, of): (Weight, Known)| (known.is_served, weight) > (of.is_served, best);
                if self.best.is_none_or(is_better) {
                    self.best = Some((weight, known));
                }
            }
            (None, Some(unknown)) => self.unknown = self.unknown.or(Some(unknown)),
            (None, None) => self.is_open = true,
        }
    }
}

/// What one media range says: in its name, in a parameter, or in both.
#[derive(Default)]
struct Said<'t> {
    known: Option<Known>,
    unknown: Option<&'t [u8]>,
    is_torn: bool,
}

impl<'t> Said<'t> {
    fn add(&mut self, text: &'t [u8], known: Option<Known>) {
        let is_first = self.known.is_none() && self.unknown.is_none();
        self.is_torn |= !is_first && self.known != known;
        match known {
            Some(_) => self.known = known,
            None => self.unknown = Some(text),
        }
    }
}

/// The version in `application/vnd.acme.v2.1+json`: the first part that is meant as one, or that is the
/// name of one, and the numbers after it.
fn vendor_version<'t>(
    media: &'t [u8],
    vendor: Option<&str>,
    find: &impl Fn(&Text) -> Option<Known>,
) -> Option<&'t [u8]> {
    let subtype = &media[media.iter().position(|byte| *byte == b'/')? + 1..];
    let end = subtype.iter().rposition(|byte| *byte == b'+').unwrap_or(subtype.len());
    let mut rest = strip_start(&subtype[..end], b"vnd.")?;
    let mut is_vendor = vendor.is_none(); // The first part is then whoever it is.
    if let Some(vendor) = vendor {
        rest = strip_start(rest, vendor.as_bytes())?;
        rest = rest.strip_prefix(b".")?;
    }
    loop {
        let end = rest.iter().position(|byte| *byte == b'.').unwrap_or(rest.len());
        let is_name = || Text::of(rest[..end].iter().copied()).is_some_and(|name| find(&name).is_some());
        if is_meant(&rest[..end]) || (!is_vendor && is_name()) {
            return Some(&rest[..end + numbers(&rest[end..])]);
        }
        is_vendor = false;
        rest = rest.get(end + 1..)?;
    }
}

/// How much of the text is `.1.2`, each part a number.
fn numbers(text: &[u8]) -> usize {
    let mut len = 0;
    while let Some(rest) = text[len..].strip_prefix(b".") {
        let end = rest.iter().position(|byte| *byte == b'.').unwrap_or(rest.len());
        if end == 0 || !rest[..end].iter().all(u8::is_ascii_digit) {
            break;
        }
        len += 1 + end;
    }
    len
}

fn strip_start<'t>(text: &'t [u8], start: &[u8]) -> Option<&'t [u8]> {
    let (first, rest) = text.split_at_checked(start.len())?;
    first.eq_ignore_ascii_case(start).then_some(rest)
}

/// The parts between separators that stand in no quoted string.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut is_quoted, mut is_escaped) = (false, false);
        for (place, &byte) in text.iter().enumerate() {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' if is_quoted => is_escaped = true,
                b'"' => is_quoted = !is_quoted,
                _ if byte == separator && !is_quoted => {
                    rest = Some(&text[place + 1..]);
                    return Some(&text[..place]);
                }
                _ => {}
            }
        }
        rest = None;
        Some(text)
    })
}

/// What is in a quoted string.
fn unquoted(value: &[u8]) -> Option<Text> {
    let inside = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut is_escape = false;
    Text::of(inside.iter().copied().filter(move |byte| {
        is_escape = *byte == b'\\' && !is_escape;
        !is_escape
    }))
}

/// `0`, `1`, and up to three decimals between.
fn weigh(value: &[u8]) -> Option<Weight> {
    let (whole, decimals) = match value {
        [whole @ (b'0' | b'1')] => (*whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', decimals @ ..] if decimals.len() <= 3 => (*whole, decimals),
        _ => return None,
    };
    let mut weight = Weight::from(whole - b'0');
    for place in 0..3 {
        let digit = decimals.get(place).copied().unwrap_or(b'0');
        weight =
            weight * 10 + char::from(digit).to_digit(10).and_then(|digit| Weight::try_from(digit).ok())?;
    }
    (weight <= FULL).then_some(weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// There are 1, 2, 3 and `latest`, which is 3; 1 is no longer served.
    fn find(text: &Text) -> Option<Known> {
        let index = match text.canonical() {
            "1" => 1,
            "2" => 2,
            "3" | "latest" => 3,
            _ => return None,
        };
        Some(Known { index, is_served: index > 1 })
    }

    fn read<'t>(lines: &[&'t str]) -> Accepted<'t> {
        let mut accepted = Accepted::default();
        for line in lines {
            accepted.read(line.as_bytes(), Sought { vendor: None, parameter: "version" }, find);
        }
        accepted
    }

    #[test]
    fn r11_1_versions_stand_in_vendor_types_and_in_parameters() {
        for (line, best) in [
            ("application/vnd.acme.v2+json", 2),
            ("application/vnd.acme.products.v2+json", 2),
            ("application/vnd.acme.v2.0+json", 2),
            ("application/vnd.acme.V3.raw+json", 3),
            ("application/vnd.acme.latest+json", 3),
            ("APPLICATION/VND.ACME.V2+JSON", 2),
            ("application/json;version=2", 2),
            ("application/json; Version = \"2.0\"", 2),
            ("application/json;profile=\"a,b;version=3\";version=v2", 2),
            ("application/json;version=\"\\2\"", 2),
            ("*/*;version=3", 3),
            ("application/json;version=2;q=0.2, application/vnd.acme.v3+json;q=0.1", 2),
            ("application/vnd.acme.v9+json, application/vnd.acme.v2+json;q=0.5", 2),
            ("application/vnd.acme.v1+json, application/vnd.acme.v2+json;q=0.5", 2),
            ("application/vnd.acme.v1+json", 1),
            ("application/vnd.acme.v2+json, application/vnd.acme.v3+json", 2),
            ("application/json;version=2;q=0, application/json;version=3;q=0.001", 3),
        ] {
            assert_eq!(read(&[line]).best(), Some(best), "{line}");
        }
        assert_eq!(read(&["text/html;version=2;q=0.3", "text/plain;version=3;q=0.31"]).best(), Some(3));
    }

    #[test]
    fn what_has_no_version_says_nothing() {
        let silent =
            ["*/*", "application/json", "application/vnd.acme+json", "text/html;v=b3;q=0.7", "a/b;q=1, c/d"];
        for line in silent {
            let accepted = read(&[line]);
            assert_eq!((accepted.best(), accepted.unknown, accepted.is_open), (None, None, true), "{line}");
        }
        assert_eq!(read(&["", " , ,"]), Accepted::default());
    }

    #[test]
    fn what_does_not_exist_is_told() {
        for (line, unknown) in [
            ("application/vnd.acme.v9+json", "v9"),
            ("application/vnd.acme.v2beta+json", "v2beta"),
            ("application/json;version=\"9\"", "\"9\""),
            ("application/json;version=\"2, text/html", "\"2, text/html"),
            ("application/json;version=", ""),
            ("application/json;version", ""),
        ] {
            let accepted = read(&[line]);
            assert_eq!(accepted.unknown, Some(unknown.as_bytes()), "{line}");
            assert_eq!((accepted.best(), accepted.is_open), (None, false), "{line}");
        }
    }

    #[test]
    fn a_weight_of_nothing_excludes() {
        let accepted = read(&["application/json, application/json;version=2;q=0.000"]);
        assert!(accepted.refuses(2) && !accepted.refuses(3) && accepted.best().is_none());
        let accepted = read(&["application/json;version=2;q=0, application/vnd.acme.v2+json"]);
        assert!(!accepted.refuses(2), "by another media type it would do");
        assert!(!read(&["application/json;q=0"]).is_open);
    }

    #[test]
    fn one_range_may_not_say_two_versions() {
        assert!(read(&["application/vnd.acme.v2+json;version=3"]).is_torn);
        assert!(read(&["application/vnd.acme.v2+json;version=9"]).is_torn);
        assert!(!read(&["application/vnd.acme.v2+json;version=2.0"]).is_torn);
    }

    #[test]
    fn a_vendor_can_be_insisted_on() {
        let mut accepted = Accepted::default();
        let sought = Sought { vendor: Some("acme"), parameter: "version" };
        accepted.read(b"application/vnd.other.v2+json, application/vnd.Acme.v3+json;q=0.1", sought, find);
        assert_eq!((accepted.best(), accepted.is_open), (Some(3), true));
    }

    #[test]
    fn weights_are_thousandths_or_count_as_one() {
        for (text, weight) in [("1", 1000), ("0", 0), ("0.5", 500), ("1.000", 1000), ("0.001", 1), ("0.", 0)]
        {
            assert_eq!(weigh(text.as_bytes()), Some(weight), "{text}");
        }
        for text in ["", "2", "1.1", "-1", "0.0001", "0.a", ".5", "1e3"] {
            assert_eq!(weigh(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_the_best_is_one_that_is_accepted(lines in prop::collection::vec("[a-z0-9./;,=+\"\\\\ *]{0,60}|application/(vnd\\.a\\.v[0-4]\\+json|json;version=\"?[0-4]\"?);q=[01](\\.[0-9])?", 0..4)) {
            let lines = lines.iter().map(String::as_str).collect::<Vec<_>>();
            let accepted = read(&lines);
            let best = accepted.best().map_or(0, |best| 1_u64 << best);
            prop_assert_eq!(best & accepted.all, best);
            prop_assert_eq!(best == 0, accepted.all == 0);
            prop_assert!((0..64).all(|index| !(accepted.refuses(index) && accepted.all & 1 << index != 0)));
        }
    }
}
