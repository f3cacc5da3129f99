//! When: a second in time, and how it is written.
//!
//! Why not a crate: all clock rules are India's, which has had one offset and no summer time since
//! 1945, so the rest of a date crate would be dead weight; and their RFC 3339 readers want the
//! seconds, which nobody wants to type (`--now 2026-01-15T12:00+05:30`).
//!
//! # Grammar
//! `YYYY-MM-DDThh:mm[:ss](Z|±hh:mm)`, RFC 3339 but for the optional seconds; no fractions, no leap
//! seconds, no offset left out. Years 1970 to 2999.

use std::{error::Error, fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

const INDIA_SECONDS: i64 = (5 * 60 + 30) * 60;
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// A second in time; prints by the clocks of India: `2026-01-15T12:00:00+05:30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    unix: i64,
}

/// A date and a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// The year.
    pub year: i64,
    /// The month, from 1.
    pub month: i64,
    /// The day of the month, from 1.
    pub day: i64,
    /// The hour, 0 to 23.
    pub hour: i64,
    /// The minute.
    pub minute: i64,
    /// The second.
    pub second: i64,
}

impl Moment {
    /// So many seconds after the beginning of 1970 in UTC.
    pub const fn from_unix(seconds: i64) -> Self {
        Self { unix: seconds }
    }

    /// So many seconds after the beginning of 1970 in UTC.
    pub const fn unix(self) -> i64 {
        self.unix
    }

    /// That much later; fractions of a second are cut off.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Self { unix: self.unix.saturating_add(seconds) }
    }

    /// That much earlier; fractions of a second are cut off.
    #[must_use]
    pub fn before(self, time: Duration) -> Self {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Self { unix: self.unix.saturating_sub(seconds) }
    }

    /// What calendars and clocks in India show.
    pub fn in_india(self) -> Civil {
        let local = self.unix.saturating_add(INDIA_SECONDS);
        let (days, seconds) = (local.div_euclid(DAY_SECONDS), local.rem_euclid(DAY_SECONDS));
        let (year, month, day) = date_of(days);
        Civil { year, month, day, hour: seconds / 3600, minute: seconds / 60 % 60, second: seconds % 60 }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second } = self.in_india();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+05:30")
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl FromStr for Moment {
    type Err = NotAMoment;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text).map_err(|why| NotAMoment { text: text.to_owned(), why })
    }
}

/// Text that names no moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAMoment {
    text: String,
    why: String,
}

impl fmt::Display for NotAMoment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a time: {}; write it like 2026-01-15T12:00+05:30", self.text, self.why)
    }
}

impl Error for NotAMoment {}

fn read(text: &str) -> Result<Moment, String> {
    let mut rest = Rest(text);
    let year = rest.number("the year", 4, 1970..=2999)?;
    rest.sign("-", "after the year")?;
    let month = rest.number("the month", 2, 1..=12)?;
    rest.sign("-", "after the month")?;
    let day = rest.number("the day", 2, 1..=days_in(year, month))?;
    rest.sign("T", "between date and time")?;
    let hour = rest.number("the hour", 2, 0..=23)?;
    rest.sign(":", "after the hour")?;
    let minute = rest.number("the minute", 2, 0..=59)?;
    let second = if rest.take(":") { rest.number("the second", 2, 0..=59)? } else { 0 };
    if rest.0.starts_with('.') {
        return Err("fractions of a second are not read".into());
    }
    let offset = rest.offset()?;
    if !rest.0.is_empty() {
        return Err(format!("nothing may follow the offset, and {:?} does", rest.0));
    }
    let local = days_until(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second;
    Ok(Moment { unix: local - offset })
}

/// What is left to read.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn take(&mut self, sign: &str) -> bool {
        let rest = self.0.strip_prefix(sign);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn sign(&mut self, sign: &str, place: &str) -> Result<(), String> {
        if self.take(sign) { Ok(()) } else { Err(format!("`{sign}` is missing {place}")) }
    }

    fn number(&mut self, what: &str, digits: usize, range: RangeInclusive<i64>) -> Result<i64, String> {
        let head = self.0.get(..digits).filter(|head| head.bytes().all(|byte| byte.is_ascii_digit()));
        let number = head.and_then(|head| head.parse().ok());
        let number = number.ok_or_else(|| format!("{what} needs {digits} digits"))?;
        if !range.contains(&number) {
            return Err(format!("{what} goes from {} to {}, and is {number}", range.start(), range.end()));
        }
        self.0 = &self.0[digits..];
        Ok(number)
    }

    /// In seconds to the east.
    fn offset(&mut self) -> Result<i64, String> {
        if self.take("Z") {
            return Ok(0);
        }
        let sign = match () {
            () if self.take("+") => 1,
            () if self.take("-") => -1,
            () => return Err("the offset is missing: `+05:30` is India, `Z` is UTC".into()),
        };
        let hours = self.number("the offset's hour", 2, 0..=23)?;
        self.sign(":", "in the offset")?;
        Ok(sign * (hours * 60 + self.number("the offset's minute", 2, 0..=59)?) * 60)
    }
}

const fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

// The two ways between a date and days since 1970 go through a year that begins in March, so that the
// leap day is its last; 400 such years are an era of 146,097 days (Howard Hinnant, "chrono-Compatible
// Low-Level Date Algorithms").

const ERA_DAYS: i64 = 146_097;
const DAYS_TO_1970: i64 = 719_468;

/// Days from the beginning of 1970 to that date.
const fn days_until(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * ERA_DAYS + day_of_era - DAYS_TO_1970
}

/// Year, month and day, that many days after the beginning of 1970.
const fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_1970;
    let (era, day_of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + (month <= 2) as i64;
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn unix(text: &str) -> i64 {
        text.parse::<Moment>().unwrap().unix
    }

    #[test]
    fn reads_the_grammar() {
        assert_eq!(unix("1970-01-01T00:00Z"), 0);
        assert_eq!(unix("1970-01-01T05:30+05:30"), 0);
        assert_eq!(unix("2026-01-15T12:00+05:30"), 1_768_458_600);
        assert_eq!(unix("2026-01-15T12:00:07+05:30"), 1_768_458_607);
        assert_eq!(unix("2026-01-15T06:30:07Z"), 1_768_458_607);
        assert_eq!(unix("2026-01-14T22:30:07-08:00"), 1_768_458_607);
        assert_eq!(unix("2024-02-29T00:00Z"), 1_709_164_800);
    }

    #[test]
    fn says_what_is_wrong() {
        let golden = [
            ("", "the year needs 4 digits"),
            ("tomorrow", "the year needs 4 digits"),
            ("12:00", "the year needs 4 digits"),
            ("१९७०-01-15T12:00Z", "the year needs 4 digits"),
            ("1969-12-31T12:00Z", "the year goes from 1970 to 2999, and is 1969"),
            ("2026/01/15", "`-` is missing after the year"),
            ("2026-13-15T12:00Z", "the month goes from 1 to 12, and is 13"),
            ("2026-02-29T12:00Z", "the day goes from 1 to 28, and is 29"),
            ("2026-04-31T12:00Z", "the day goes from 1 to 30, and is 31"),
            ("2026-01-15", "`T` is missing between date and time"),
            ("2026-01-15 12:00Z", "`T` is missing between date and time"),
            ("2026-01-15T24:00Z", "the hour goes from 0 to 23, and is 24"),
            ("2026-01-15T12", "`:` is missing after the hour"),
            ("2026-01-15T12:60Z", "the minute goes from 0 to 59, and is 60"),
            ("2026-01-15T12:00:60Z", "the second goes from 0 to 59, and is 60"),
            ("2026-01-15T12:00:00.5Z", "fractions of a second are not read"),
            ("2026-01-15T12:00", "the offset is missing: `+05:30` is India, `Z` is UTC"),
            ("2026-01-15T12:00+0530", "`:` is missing in the offset"),
            ("2026-01-15T12:00+5:30", "the offset's hour needs 2 digits"),
            ("2026-01-15T12:00Z now", "nothing may follow the offset, and \" now\" does"),
        ];
        for (text, why) in golden {
            assert_eq!(text.parse::<Moment>().unwrap_err().why, why, "{text}");
        }
        let shown = "noon".parse::<Moment>().unwrap_err().to_string();
        let expected =
            "\"noon\" is not a time: the year needs 4 digits; write it like 2026-01-15T12:00+05:30";
        assert_eq!(shown, expected);
    }

    #[test]
    fn prints_by_the_clocks_of_india() {
        assert_eq!(Moment::from_unix(0).to_string(), "1970-01-01T05:30:00+05:30");
        let new_year = "2025-12-31T18:30:00Z".parse::<Moment>().unwrap();
        assert_eq!(new_year.to_string(), "2026-01-01T00:00:00+05:30");
        assert_eq!(Moment::from_unix(-1).to_string(), "1970-01-01T05:29:59+05:30");
    }

    #[test]
    fn every_day_is_read_as_it_is_printed() {
        let (first, last) = (unix("1970-01-02T00:00Z"), unix("2999-12-30T00:00Z"));
        let mut before = Moment::from_unix(first - DAY_SECONDS).in_india();
        for seconds in (first..=last).step_by(24 * 60 * 60) {
            let moment = Moment::from_unix(seconds);
            assert_eq!(moment.to_string().parse(), Ok(moment));
            let now = moment.in_india();
            let next_day = now.day == before.day + 1 && now.month == before.month && now.year == before.year;
            let ended = before.day == days_in(before.year, before.month) && now.day == 1;
            let next_month = ended && now.month == before.month + 1 && now.year == before.year;
            let next_year = ended && (now.month, before.month) == (1, 12) && now.year == before.year + 1;
            assert!(next_day || next_month || next_year, "{before:?} {now:?}");
            before = now;
        }
    }

    #[test]
    fn later_saturates() {
        assert_eq!(Moment::from_unix(5).after(Duration::from_millis(2999)), Moment::from_unix(7));
        assert_eq!(Moment::from_unix(5).after(Duration::MAX), Moment::from_unix(i64::MAX));
    }
}
