//! Durations, rates, sizes, percents, numbers and truth, as text.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{
    checked::{Enforce, Rate, Workers},
    decode::{Scalar, Text, Wrong},
    suggest::{nearest, quoted},
};

/// Ten years; more is a slip of the finger.
const LONGEST: Duration = Duration::from_hours(24 * 3650);

/// The number in front, and the unit behind.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> Scalar for Whole<MIN, MAX> {
    const WHAT: &'static str = "a whole number";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let shown = quoted(text.text);
        let range =
            if MIN == MAX { format!("write `{MIN}`") } else { format!("write a number from {MIN} to {MAX}") };
        match text.text.parse::<u64>() {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            Ok(_) => Err(Wrong::new(format!("{shown} is out of range")).help(range)),
            Err(_) => Err(Wrong::new(format!("{shown} is not a whole number")).help(range)),
        }
    }

    fn schema() -> Json {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A route's priority.
impl Scalar for i32 {
    const WHAT: &'static str = "a whole number, possibly negative";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let wrong = |_| {
            Wrong::new(format!("{} is not a whole number of 32 bits", quoted(text.text))).help("write `10`")
        };
        text.text.parse().map_err(wrong)
    }

    fn schema() -> Json {
        json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX})
    }
}

impl Scalar for bool {
    const WHAT: &'static str = "`true` or `false`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        match (text.text, text.plain) {
            ("true", true) => Ok(true),
            ("false", true) => Ok(false),
            (word @ ("true" | "false"), false) => Err(Wrong::new(format!("\"{word}\" in quotes is text"))
                .help(format!("write `{word}` without quotes"))),
            (word, _) => {
                let wrong = Wrong::new(format!("{} is not `true` or `false`", quoted(word)));
                let lower = word.to_ascii_lowercase();
                Err(match lower.as_str() {
                    "on" | "yes" | "y" | "true" | "1" => wrong.help("write `true`"),
                    "off" | "no" | "n" | "false" | "0" => wrong.help("write `false`"),
                    _ => wrong.help("write `true` or `false`"),
                })
            }
        }
    }

    fn schema() -> Json {
        json!({"type": "boolean"})
    }
}

/// In what time is counted.
pub(crate) const TIME: &str = "`ms` `s` `m` `h` `d`";
/// In what sizes are counted.
const BYTES: &str = "bytes, `KiB` `MiB` `GiB`";
const DURATION: &str = r"^[0-9]+(ms|s|m|h|d)$";

/// More than nothing.
impl Scalar for Duration {
    const WHAT: &'static str = "a duration such as `5s`";
    const UNIT: &'static str = TIME;

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let it = duration(text.text)?;
        if it.is_zero() {
            return Err(
                Wrong::new(format!("{} is no time at all", quoted(text.text))).help("write at least `1ms`")
            );
        }
        Ok(it)
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": DURATION, "examples": ["5s", "200ms", "2m"]})
    }

    fn canonical(&self) -> Option<String> {
        Some(show_duration(*self))
    }
}

/// A duration that may be `0s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OrZero(pub(crate) Duration);

impl Scalar for OrZero {
    const WHAT: &'static str = "a duration such as `200ms`, or `0s`";
    const UNIT: &'static str = TIME;

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        duration(text.text).map(Self)
    }

    fn schema() -> Json {
        <Duration as Scalar>::schema()
    }

    fn canonical(&self) -> Option<String> {
        Some(show_duration(self.0))
    }
}

/// No less than one duration and no more than another; one alone is both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Between(pub(crate) Duration, pub(crate) Duration);

impl Scalar for Between {
    const WHAT: &'static str = "a range such as `1s..5m`";
    const UNIT: &'static str = TIME;

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let (least, most) = text.text.split_once("..").unwrap_or((text.text, text.text));
        let one = |piece: &str| Duration::parse(Text { text: piece.trim(), plain: text.plain });
        let (least, most) = (one(least)?, one(most)?);
        if least > most {
            return Err(Wrong::new(format!("{} ends before it begins", quoted(text.text))).help(format!(
                "write `{}..{}`",
                show_duration(most),
                show_duration(least)
            )));
        }
        Ok(Self(least, most))
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": r"^[0-9]+(ms|s|m|h|d)(\.\.[0-9]+(ms|s|m|h|d))?$", "examples": ["1s..5m"]})
    }

    fn canonical(&self) -> Option<String> {
        Some(format!("{}..{}", show_duration(self.0), show_duration(self.1)))
    }
}

/// A duration, or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OrNever(pub(crate) Option<Duration>);

impl Scalar for OrNever {
    const WHAT: &'static str = "a duration such as `30s`, or `never`";
    const UNIT: &'static str = TIME;

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        if text.text == "never" {
            return Ok(Self(None));
        }
        Duration::parse(text).map(|it| Self(Some(it))).map_err(|wrong| match text.text {
            "0" | "0s" | "0ms" | "none" | "off" | "infinite" => wrong.help("write `never` for no limit"),
            word if nearest(word, ["never"]).is_some() => wrong.help("did you mean `never`?"),
            _ => wrong,
        })
    }

    fn schema() -> Json {
        json!({"anyOf": [<Duration as Scalar>::schema(), {"const": "never"}]})
    }

    fn canonical(&self) -> Option<String> {
        self.0.map(show_duration)
    }
}

/// A size, or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeOrNever(pub(crate) Option<usize>);

impl Scalar for SizeOrNever {
    const WHAT: &'static str = "a size such as `10MiB`, or `never`";
    const UNIT: &'static str = BYTES;

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        if text.text == "never" {
            return Ok(Self(None));
        }
        Size::parse(text).map(|Size(bytes)| Self(Some(bytes))).map_err(|wrong| match text.text {
            "0" | "none" | "off" | "unlimited" => wrong.help("write `never` for no limit"),
            _ => wrong,
        })
    }

    fn schema() -> Json {
        json!({"anyOf": [Size::schema(), {"const": "never"}]})
    }

    fn canonical(&self) -> Option<String> {
        self.0.map(show_size)
    }
}

/// A factor such as `2x` or `0.2x`, in percent.
pub(crate) fn factor(text: &str) -> Option<u32> {
    let number = text.strip_suffix('x')?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_plain(whole) || !is_plain(part) || part.len() > 2 {
        return None;
    }
    let part = format!("{part:0<2}").parse::<u32>().ok()?;
    let percent = whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part)?;
    (1..=100_000).contains(&percent).then_some(percent)
}

/// A multiple of a fair share, from `1x` on, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaxLoad(pub(crate) u32);

impl Scalar for MaxLoad {
    const WHAT: &'static str = "a multiple of the fair share such as `1.25x`";
    const UNIT: &'static str = "`x`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        factor(text.text).filter(|percent| (100..=10_000).contains(percent)).map(Self).ok_or_else(|| {
            Wrong::new(format!("{} is not a multiple of the fair share", quoted(text.text)))
                .help("write `1.25x`: from `1x` to `100x`")
        })
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": r"^[0-9]+(\.[0-9]{1,2})?x$", "examples": ["1.25x"]})
    }
}

/// A share of all, in percent: 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Percent(pub(crate) u8);

impl Scalar for Percent {
    const WHAT: &'static str = "a share such as `70%`";
    const UNIT: &'static str = "`%`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let number = text.text.strip_suffix('%').and_then(|number| number.parse().ok());
        number.filter(|number| (1..=100).contains(number)).map(Self).ok_or_else(|| {
            let wrong = Wrong::new(format!("{} is not a share", quoted(text.text)));
            match meant_percent(text.text) {
                Some(percent) => wrong.help(format!("write `{percent}%`")),
                None => wrong.help("write `1%` to `100%`"),
            }
        })
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^[0-9]+%$", "examples": ["70%"]})
    }
}

/// A share of all, of a million: `0%` to `100%`, with up to four digits behind the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fraction(pub(crate) u32);

impl Scalar for Fraction {
    const WHAT: &'static str = "a share such as `5%` or `0.1%`";
    const UNIT: &'static str = "`%`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        text.text.strip_suffix('%').and_then(per_million).map(Self).ok_or_else(|| {
            let wrong = Wrong::new(format!("{} is not a share", quoted(text.text)));
            match meant_percent(text.text) {
                Some(percent) => wrong.help(format!("write `{percent}%`")),
                None => wrong.help("write `0%` to `100%`; the smallest step is `0.0001%`"),
            }
        })
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^[0-9]{1,3}(\\.[0-9]{1,4})?%$", "examples": ["5%", "0.1%"]})
    }
}

fn per_million(percent: &str) -> Option<u32> {
    let (whole, part) = percent.split_once('.').unwrap_or((percent, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 4 {
        return None;
    }
    let share =
        whole.parse::<u32>().ok()?.checked_mul(10_000)? + format!("{part:0<4}").parse::<u32>().ok()?;
    (share <= 1_000_000).then_some(share)
}

/// What somebody means who writes `20` or `0.2` for a share.
fn meant_percent(text: &str) -> Option<u8> {
    let whole = text.parse::<u8>().ok();
    let part = || {
        let digits =
            text.strip_prefix("0.").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        format!("{digits:0<2}").parse::<u8>().ok()
    };
    whole.or_else(part).filter(|percent| (1..=100).contains(percent))
}

/// A moment, in seconds since 1970: a day in UTC, or RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) u64);

impl Scalar for Time {
    const WHAT: &'static str = "a time such as `2027-03-01` or `2027-03-01T12:00:00Z`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let wrong = || Wrong::new(format!("{} is not a time", quoted(text.text)));
        unix_s(text.text).map(Self).ok_or_else(|| {
            wrong().help("write a day in UTC, `2027-03-01`, or RFC 3339: `2027-03-01T12:00:00Z`")
        })
    }

    fn schema() -> Json {
        json!({"type": "string", "examples": ["2027-03-01", "2027-03-01T12:00:00Z", "2027-03-01T12:00:00+05:30"]})
    }
}

/// `YYYY-MM-DD`, with or without `Thh:mm:ss` and then `Z` or an offset; 1970 to 9999, no leap seconds.
fn unix_s(text: &str) -> Option<u64> {
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = days.get(..usize::try_from(month).ok()?.checked_sub(1)?)?;
    if year < 1970 || !(1..=*days.get(before.len())?).contains(&day) {
        return None;
    }
    let past = year - 1;
    let leap_days = past / 4 - past / 100 + past / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    let at_s = ((year - 1970) * 365 + leap_days + before.iter().sum::<u64>() + day - 1) * 86_400;
    let Some(time) = time else { return Some(at_s) };
    let (clock, offset) = time.split_at_checked(8)?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let at_s = at_s + hour * 3600 + minute * 60 + second;
    if offset == "Z" {
        return Some(at_s);
    }
    let (sign, offset) = offset.split_at_checked(1)?;
    let [hour, minute] = numbers(offset, ':', [2, 2])?;
    let offset_s = hour * 3600 + minute * 60;
    match sign {
        _ if hour > 23 || minute > 59 => None,
        "+" => at_s.checked_sub(offset_s),
        "-" => Some(at_s + offset_s),
        _ => None,
    }
}

/// A moment as RFC 3339 has it, in UTC.
pub fn show_time(unix_s: u64) -> String {
    // Days since 0000-03-01, so that the leap day is the last of its year (H. Hinnant, `civil_from_days`).
    let days = unix_s / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carried) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (year, second) = (era * 400 + year + carried, unix_s % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// So many numbers of so many digits each.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut all = [0; N];
    let mut parts = text.split(between);
    for (place, digits) in all.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *place = part.parse().ok()?;
    }
    parts.next().is_none().then_some(all)
}

pub(crate) fn duration(text: &str) -> Result<Duration, Wrong> {
    let shown = quoted(text);
    let Some((number, unit)) = split(text) else {
        let wrong = Wrong::new(format!("{shown} is not a duration"));
        return Err(match text {
            "never" => wrong.help("there is no `never` here: write a duration such as `5s`"),
            _ => wrong.help("write a number and a unit, `ms` `s` `m` `h` `d`: `5s`"),
        });
    };
    let millis = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let Some(millis) = millis else {
        return Err(wrong_duration(text, number, unit));
    };
    let it = number.checked_mul(millis).map(Duration::from_millis).filter(|it| *it <= LONGEST);
    it.ok_or_else(|| {
        Wrong::new(format!("{shown} is longer than ten years"))
            .help("write less, or `never` where it is allowed")
    })
}

fn wrong_duration(text: &str, number: u64, unit: &str) -> Wrong {
    let shown = quoted(text);
    let meant = match unit.trim().to_lowercase().as_str() {
        "" => {
            return Wrong::new(format!("{shown} has no unit"))
                .help(format!("write `{number}s` for seconds, `{number}ms` for milliseconds"));
        }
        "sec" | "secs" | "second" | "seconds" | "s" => Some("s"),
        "min" | "mins" | "minute" | "minutes" | "m" => Some("m"),
        "msec" | "millis" | "milliseconds" | "millisecond" | "ms" => Some("ms"),
        "hr" | "hour" | "hours" | "h" => Some("h"),
        "day" | "days" | "d" => Some("d"),
        _ => None,
    };
    let wrong = Wrong::new(format!("{shown} is not a duration"));
    match meant {
        Some(unit) => wrong.help(format!("write `{number}{unit}`")),
        None if unit.starts_with('.') => wrong.help("whole numbers only: `1500ms`, not `1.5s`"),
        None => wrong.help("one number and one unit, `ms` `s` `m` `h` `d`: `90s`, not `1m30s`"),
    }
}

/// `90000ms` is `90s`.
pub fn show_duration(it: Duration) -> String {
    let millis = it.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let fits = units.iter().find(|(_, size)| millis >= *size && millis.is_multiple_of(*size));
    fits.map_or_else(|| format!("{millis}ms"), |(unit, size)| format!("{}{unit}", millis / size))
}

impl Scalar for Rate {
    const WHAT: &'static str = "a rate such as `100/s` or `20/m`";
    const UNIT: &'static str = "`/s` `/m` `/h` `/d`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let shown = quoted(text.text);
        let (count, unit) = split(text.text).ok_or_else(|| {
            Wrong::new(format!("{shown} is not a rate"))
                .help("write a number, `/` and `s` `m` `h` or `d`: `100/s`")
        })?;
        let unit = unit.trim();
        let per = |word: &str| match word {
            "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            "d" => Some(86400),
            _ => None,
        };
        let Some(per) = unit.strip_prefix('/').and_then(per) else {
            let wrong = Wrong::new(format!("{shown} is not a rate"));
            let meant = unit
                .rsplit('/')
                .next()
                .and_then(|word| word.trim().chars().next())
                .filter(|c| "smhd".contains(*c));
            return Err(match meant {
                _ if unit.is_empty() => {
                    wrong.help(format!("write `{count}/s` for so many in a second, or `/m` `/h` `/d`"))
                }
                _ if unit.contains("rps") => wrong.help(format!("write `{count}/s`")),
                Some(meant) => wrong.help(format!("write `{count}/{meant}`")),
                None => wrong.help("write a number, `/` and `s` `m` `h` or `d`: `100/s`"),
            });
        };
        let count = u32::try_from(count).ok().filter(|count| *count > 0);
        let count = count.ok_or_else(|| {
            Wrong::new(format!("{shown} is out of range")).help("write a number from 1 to 4294967295")
        })?;
        Ok(Self { count, per: Duration::from_secs(per) })
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^[0-9]+/[smhd]$", "examples": ["100/s", "20/m"]})
    }

    fn canonical(&self) -> Option<String> {
        Some(show_rate(*self))
    }
}

/// `100/s`.
pub fn show_rate(it: Rate) -> String {
    let unit = match it.per.as_secs() {
        86400 => "d",
        3600 => "h",
        60 => "m",
        _ => "s",
    };
    format!("{}/{unit}", it.count)
}

/// So many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) usize);

impl Scalar for Size {
    const WHAT: &'static str = "a size such as `32KiB`";
    const UNIT: &'static str = BYTES;

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let shown = quoted(text.text);
        let wrong = || Wrong::new(format!("{shown} is not a size"));
        let (number, unit) = split(text.text)
            .ok_or_else(|| wrong().help("write bytes, or a number with `KiB` `MiB` `GiB`: `32KiB`"))?;
        let shift = match unit {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => {
                let meant =
                    unit.trim().chars().next().map(|c| c.to_ascii_uppercase()).filter(|c| "KMG".contains(*c));
                return Err(match meant {
                    Some(meant) => wrong().help(format!("write `{number}{meant}iB`")),
                    None => wrong().help("write bytes, or a number with `KiB` `MiB` `GiB`: `32KiB`"),
                });
            }
        };
        let bytes = number
            .checked_mul(1 << shift)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .filter(|bytes| *bytes > 0);
        bytes.map(Self).ok_or_else(|| {
            Wrong::new(format!("{shown} is out of range"))
                .help("write at least `1`, and what memory can hold")
        })
    }

    fn schema() -> Json {
        json!({"anyOf": [
            {"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)?$", "examples": ["32KiB"]},
            {"type": "integer", "minimum": 1},
        ]})
    }

    fn canonical(&self) -> Option<String> {
        Some(show_size(self.0))
    }
}

/// `32KiB`.
pub fn show_size(bytes: usize) -> String {
    let fits = [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift));
    fits.map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

impl Scalar for Enforce {
    const WHAT: &'static str = "`always`, `observe`, `never` or a percent such as `25%`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let wrong = || Wrong::new(format!("{} is not how far a policy takes effect", quoted(text.text)));
        match text.text {
            "always" | "100%" => Ok(Self::Always),
            "observe" => Ok(Self::Observe),
            "never" | "0%" => Ok(Self::Never),
            "true" | "True" | "on" | "On" | "yes" => Err(wrong().help("write `always`")),
            "false" | "False" | "off" | "Off" | "no" => Err(wrong().help("write `never`")),
            other => match other.strip_suffix('%').and_then(|number| number.parse().ok()) {
                Some(percent @ 1..=99) => Ok(Self::Percent(percent)),
                _ => match other.parse::<u8>() {
                    Ok(number @ 1..=99) => Err(wrong().help(format!("write `{number}%`"))),
                    _ => Err(wrong().help("write `always`, `observe`, `never` or `1%` to `99%`")),
                },
            },
        }
    }

    fn schema() -> Json {
        json!({"anyOf": [{"enum": ["always", "observe", "never"]}, {"type": "string", "pattern": "^[0-9]{1,2}%$"}]})
    }
}

impl Scalar for Workers {
    const WHAT: &'static str = "`per-core`, `shared` or a number";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        match text.text {
            "per-core" => Ok(Self::PerCore),
            "shared" => Ok(Self::Shared),
            other => match other.parse() {
                Ok(count @ 1..=1024) => Ok(Self::Count(count)),
                _ => Err(Wrong::new(format!("{} is no way to spread over cores", quoted(other)))
                    .help("write `per-core`, `shared` or a number from 1 to 1024")),
            },
        }
    }

    fn schema() -> Json {
        json!({"anyOf": [{"enum": ["per-core", "shared"]}, {"type": "integer", "minimum": 1, "maximum": 1024}]})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read<T: Scalar>(text: &str) -> Result<T, Wrong> {
        T::parse(Text { text, plain: true })
    }

    #[test]
    fn says_what_to_write() {
        let help = |text: &str| read::<Duration>(text).unwrap_err().help.unwrap();
        assert_eq!(help("30"), "write `30s` for seconds, `30ms` for milliseconds");
        assert_eq!(help("5 minutes"), "write `5m`");
        assert_eq!(help("1.5s"), "whole numbers only: `1500ms`, not `1.5s`");
        let help = |text: &str| read::<Rate>(text).unwrap_err().help.unwrap();
        assert_eq!(help("10r/s"), "write `10/s`");
        assert_eq!(help("100/min"), "write `100/m`");
        assert_eq!(help("7"), "write `7/s` for so many in a second, or `/m` `/h` `/d`");
        let help = |text: &str| read::<Size>(text).unwrap_err().help.unwrap();
        assert_eq!(help("10m"), "write `10MiB`");
        assert_eq!(help("8KB"), "write `8KiB`");
        let help = |text: &str| read::<bool>(text).unwrap_err().help.unwrap();
        assert_eq!((help("on").as_str(), help("No").as_str()), ("write `true`", "write `false`"));
    }

    proptest! {
        #[test]
        fn durations_round_trip(millis in 1_u64..1_000_000_000) {
            let it = Duration::from_millis(millis);
            prop_assert_eq!(read::<Duration>(&show_duration(it)).unwrap(), it);
        }

        #[test]
        fn rates_round_trip(count in 1_u32.., unit in 0_usize..4) {
            let it = Rate { count, per: Duration::from_secs([1, 60, 3600, 86400][unit]) };
            prop_assert_eq!(read::<Rate>(&show_rate(it)).unwrap(), it);
        }

        #[test]
        fn sizes_round_trip(bytes in 1_usize..1 << 40) {
            prop_assert_eq!(read::<Size>(&show_size(bytes)).unwrap(), Size(bytes));
        }

        #[test]
        fn text_never_panics(text in ".*") {
            let _ = (read::<Duration>(&text), read::<Rate>(&text), read::<Size>(&text), read::<Enforce>(&text));
            let _ = (read::<bool>(&text), read::<Workers>(&text), read::<OrNever>(&text), read::<i32>(&text));
        }
    }
}

#[cfg(test)]
mod time_tests {
    use super::{show_time, unix_s};

    #[test]
    fn what_is_shown_is_read_as_the_same() {
        for day in 0..100_000 {
            let at_s = day * 86_400 + day % 86_400;
            assert_eq!(unix_s(&show_time(at_s)), Some(at_s));
        }
        assert_eq!(show_time(1_803_902_400), "2027-03-01T12:00:00Z");
    }

    #[test]
    fn times_are_seconds_since_1970() {
        for (text, expected) in [
            ("1970-01-01", Some(0)),
            ("2000-02-29", Some(951_782_400)),
            ("2026-09-01", Some(1_788_220_800)),
            ("2027-03-01T12:00:00Z", Some(1_803_902_400)),
            ("2027-03-01T17:30:00+05:30", Some(1_803_902_400)),
            ("2027-03-01T07:00:00-05:00", Some(1_803_902_400)),
            ("9999-12-31T23:59:59Z", Some(253_402_300_799)),
            ("2026-02-29", None),
            ("1900-02-29", None),
            ("2026-13-01", None),
            ("2026-00-01", None),
            ("2026-1-1", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-01-01T00:00:00", None),
            ("2026-01-01T00:00Z", None),
            ("1970-01-01T00:00:00+00:01", None),
            ("tomorrow", None),
            ("२०२६-01-01", None),
        ] {
            assert_eq!(unix_s(text), expected, "{text}");
        }
    }
}
