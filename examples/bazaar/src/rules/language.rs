//! In which language somebody wants to read.
//!
//! # Rule
//! `Accept-Language` (RFC 9110, section 12.5.4) against what there is, by the primary subtag (RFC 4647,
//! section 3.3.1): `hi-IN` is Hindi. The language with the highest weight wins, of equals the one that was named first; `*` stands for
//! those that were not named; a weight of 0 excludes. A member that cannot be read is passed over, as
//! preferences are. If nothing fits, the default is taken: nobody is refused for a language.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How many members of `Accept-Language` are read.
const MEMBERS: usize = 32;

/// A language that the shop speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// Hindi, the default.
    #[default]
    Hi,
    /// English.
    En,
}

impl Language {
    /// All of them, the default first.
    pub const ALL: [Self; 2] = [Self::Hi, Self::En];

    /// As in requests and answers: `hi`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hi => "hi",
            Self::En => "en",
        }
    }

    /// What the value of `Accept-Language` asks for, by the [module's rule](self).
    pub fn accepted(header: &str) -> Self {
        let members = || header.split(',').take(MEMBERS).filter_map(member);
        let named = |language: Self| members().find(|(range, _)| *range == Range::Language(language));
        let any = members().find(|(range, _)| *range == Range::Any);
        let place = |language| members().position(|(range, _)| range == Range::Language(language));
        let weighed = Self::ALL.into_iter().filter_map(|language| {
            let (_, weight) = named(language).or(any)?;
            Some((language, weight, place(language).unwrap_or(usize::MAX)))
        });
        let wanted = weighed.filter(|(_, weight, _)| *weight > 0);
        // Of equals `min_by_key` takes the first, which is the default.
        wanted
            .min_by_key(|(_, weight, place)| (u16::MAX - weight, *place))
            .map_or_else(Self::default, |(it, _, _)| it)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Range {
    Language(Language),
    Any,
    Other,
}

/// `hi-IN;q=0.8`: which it is, and its weight in thousandths.
fn member(text: &str) -> Option<(Range, u16)> {
    let (range, parameter) = match text.split_once(';') {
        Some((range, parameter)) => (range, Some(parameter)),
        None => (text, None),
    };
    let primary = range.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
    let range = match primary.as_str() {
        "*" => Range::Any,
        primary => primary.parse().map_or(Range::Other, Range::Language),
    };
    let weight = parameter.map_or(Some(1_000), |it| weight(it.trim()));
    Some((range, weight?))
}

/// `q=0.8` in thousandths: at most three decimals, and no more than 1.
fn weight(text: &str) -> Option<u16> {
    let value = text.strip_prefix("q=").or_else(|| text.strip_prefix("Q="))?;
    let (whole, decimals) = value.split_once('.').unwrap_or((value, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let decimals = format!("{decimals:0<3}").parse::<u16>().ok()?;
    match (whole, decimals) {
        ("0", decimals) => Some(decimals),
        ("1", 0) => Some(1_000),
        _ => None,
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Language {
    type Err = UnknownLanguage;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| UnknownLanguage { text: text.to_owned() })
    }
}

/// A language that the shop does not speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLanguage {
    text: String,
}

impl fmt::Display for UnknownLanguage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Language::ALL.map(Language::as_str).join(", ");
        write!(f, "{:?} is not a language of this shop; there are {known}", self.text)
    }
}

impl Error for UnknownLanguage {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_weight_wins_and_what_nobody_speaks_is_passed_over() {
        use Language::{En, Hi};
        let golden = [
            ("en", En),
            ("hi", Hi),
            ("EN-in", En),
            ("en-IN,en;q=0.9,hi;q=0.8", En),
            ("en;q=0.5, hi;q=0.8", Hi),
            ("hi;q=0.5, en;q=0.8", En),
            ("hi;q=0.8, en;q=0.801", En),
            ("mr, ta;q=0.9, en;q=0.1", En),
            ("en, hi", En),
            ("hi, en", Hi),
            ("en;q=1.0, hi;q=1", En),
            ("*", Hi),
            ("hi;q=0, *", En),
            ("*;q=0.5, en;q=0.4", Hi),
            ("*;q=0.4, en;q=0.5", En),
            ("hi;q=0", Hi), // Nothing else was asked for, and nobody is refused.
            ("", Hi),
            ("mr", Hi),
            ("english", Hi),
            ("en;q=2, hi;q=0.1", Hi),
            ("en;q=0.1234, hi;q=0.1", Hi),
            ("en;level=1", Hi),
            (";;,,q=", Hi),
            ("en ; q=0.9", En),
        ];
        for (header, expected) in golden {
            assert_eq!(Language::accepted(header), expected, "{header:?}");
        }
    }

    #[test]
    fn a_long_header_is_read_only_so_far() {
        let header = format!("{}en", "mr,".repeat(MEMBERS));
        assert_eq!(Language::accepted(&header), Language::Hi);
        assert_eq!(Language::accepted(&header[3..]), Language::En);
    }

    #[test]
    fn languages_have_names() {
        for language in Language::ALL {
            assert_eq!(language.to_string().parse(), Ok(language));
            assert_eq!(serde_json::to_value(language).unwrap(), language.as_str());
        }
        let unknown = "mr".parse::<Language>().unwrap_err().to_string();
        assert_eq!(unknown, "\"mr\" is not a language of this shop; there are hi, en");
    }
}
