//! What would become of requests that were recorded, under another configuration: each is explained under both, by the functions
//! that decide on the data path, and what differs is said.
//!
//! A record is a line of JSON, as `POST /explain` takes it (`{"request": "GET http://host/path", "headers": ["name: value"],
//! "client_ip": …}`), or as access logs have it: `method`, `scheme` (`http`), `host`, `path` (or `target` or `uri`), `headers` (a
//! list, or an object), `client_ip` (or `client` or `remote_addr`), and who it was: `jwt`, `api_key`, `identity`. What else stands
//! there is not read. Of the gateway's own log it is `decision.identity`: of tokens that tells the subject, and no other claims.
//!
//! Each request is asked by itself: which limit it meets, and how much that allows, but not how much others have left of it.
//!
//! # Limits
//! Lines of 64 KiB; a thousand differences that are told apart.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    io::{self, BufRead, Read as _},
};

use naka::{clock::Now, explain::Finding};
use serde_json::{Value, json};

use crate::{
    ask::Asked,
    explain::{Explanation, Verdict, explain},
    generation::Generation,
};

/// The longest record.
const LINE: u64 = 64 << 10;
/// Differences that are told apart; what is over that is one more.
const GROUPS: usize = 1000;
/// What is wrong with records, as often as it is shown.
const SHOWN: usize = 5;

/// What came of all records.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Requests that were asked.
    pub requests: u64,
    /// Of these, what would become of them differs.
    pub different: u64,
    /// Records that are no requests.
    pub unread: u64,
    /// Why, of the first of them, with the line.
    pub why: Vec<(u64, String)>,
    /// What differs, and how often.
    pub groups: BTreeMap<Difference, Group>,
}

/// One way in which two configurations treat a request differently.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// What of it: `routed`, `answered`, `limited` or `rewritten`.
    pub what: &'static str,
    /// As it is.
    pub old: String,
    /// As it would be.
    pub new: String,
}

/// How often something differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// So often.
    pub count: u64,
    /// The line of the first.
    pub line: u64,
    /// The request of the first.
    pub request: String,
}

/// Asks both generations about each record.
///
/// # Errors
/// If the records cannot be read on.
pub fn replay(mut log: impl BufRead, old: &Generation, new: &Generation) -> io::Result<Replayed> {
    let mut replayed = Replayed::default();
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        if log.by_ref().take(LINE + 1).read_until(b'\n', &mut line)? == 0 {
            return Ok(replayed);
        }
        number += 1;
        if line.len() as u64 > LINE && !line.ends_with(b"\n") {
            skip_line(&mut log)?;
            replayed.unreadable(number, format!("longer than {} KiB", LINE >> 10));
            continue;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let record = serde_json::from_slice(&line).map_err(|error| format!("no JSON: {error}"));
        match record.and_then(|record: Value| asked_of(&record)) {
            // Why not may show what nobody should read in a terminal.
            Ok(asked) if replayed.ask(number, &asked, old, new).is_err() => {
                replayed.unreadable(number, "its URL, a header, an address or claims cannot be read".into());
            }
            Ok(_) => {}
            Err(why) => replayed.unreadable(number, why),
        }
    }
}

fn skip_line(log: &mut impl BufRead) -> io::Result<()> {
    loop {
        let piece = log.fill_buf()?;
        let end = piece.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(piece.len(), |end| end + 1);
        log.consume(length);
        if length == 0 || end.is_some() {
            return Ok(());
        }
    }
}

/// The request of a record.
fn asked_of(record: &Value) -> Result<Asked, String> {
    if !record.is_object() {
        return Err("no object".into());
    }
    if record["request"].is_string() {
        return Asked::from_json(record)
            .map_err(|_| "`headers` is a list of texts, and all else texts".to_owned());
    }
    let text = |keys: &[&str]| keys.iter().find_map(|key| record[*key].as_str());
    let method = text(&["method"]).unwrap_or("GET");
    let host = text(&["host", "authority"]).ok_or("it has no `host`")?;
    let path = text(&["path", "target", "uri"]).ok_or("it has no `path`")?;
    let scheme = text(&["scheme"]).unwrap_or("http");
    let headers = match &record["headers"] {
        Value::Object(all) => {
            let texts = all.iter().flat_map(|(name, value)| {
                let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                values.iter().filter_map(move |value| Some(format!("{name}: {}", value.as_str()?)))
            });
            texts.collect::<Vec<_>>()
        }
        Value::Array(all) => {
            let texts = all.iter().map(|text| text.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().ok_or("a header is a text `Name: value`")?
        }
        _ => Vec::new(),
    };
    let is_other = |text: &String| !text.to_ascii_lowercase().starts_with("host:");
    let headers = headers.into_iter().filter(is_other).collect::<Vec<_>>();
    let mut asked = json!({
        "request": format!("{method} {scheme}://{host}{path}"),
        "headers": headers,
        "client_ip": text(&["client_ip", "client", "remote_addr"]),
        "listener": record["listener"], "jwt": record["jwt"], "api_key": record["api_key"],
        "identity": record["identity"],
    });
    if let Some((key, who)) = identified(&record["decision"]["identity"])
        && asked[key].is_null()
    {
        asked[key] = who;
    }
    Asked::from_json(&asked)
}

/// Who it was, as our own log tells it: of a token only its subject.
fn identified(identity: &Value) -> Option<(&'static str, Value)> {
    let (scheme, subject) = (identity["scheme"].as_str()?, &identity["subject"]);
    match scheme {
        "jwt" => Some(("jwt", json!({"sub": subject}).to_string().into())),
        "api_key" => Some(("api_key", subject.clone())),
        "basic" | "forward_auth" => Some(("identity", subject.clone())),
        _ => None,
    }
}

impl Replayed {
    fn unreadable(&mut self, line: u64, why: String) {
        self.unread += 1;
        if self.why.len() < SHOWN {
            self.why.push((line, why));
        }
    }

    fn ask(&mut self, line: u64, asked: &Asked, old: &Generation, new: &Generation) -> Result<(), String> {
        let now = Now::read();
        // A listener may be gone: then it arrives at whichever takes it.
        let known = |generation: &Generation| {
            let listener = asked.listener.clone();
            let listener = listener.filter(|name| generation.config.listeners.contains_key(name.as_str()));
            Asked { listener, ..asked.clone() }.check(&generation.config)
        };
        let (before, after) = (explain(old, &known(old)?, now), explain(new, &known(new)?, now));
        self.requests += 1;
        let differences = differences(&before, &after);
        self.different += u64::from(!differences.is_empty());
        for difference in differences {
            let is_full = self.groups.len() >= GROUPS && !self.groups.contains_key(&difference);
            let difference = if is_full { others(difference.what) } else { difference };
            let first = || Group { count: 0, line, request: without_query(&before.asked) };
            self.groups.entry(difference).or_insert_with(first).count += 1;
        }
        Ok(())
    }
}

/// A query may have in it what nobody should read in a terminal.
fn without_query(line: &str) -> String {
    line.split_once('?').map_or_else(|| line.to_owned(), |(path, _)| format!("{path}?…"))
}

fn others(what: &'static str) -> Difference {
    Difference { what, old: "…".into(), new: "otherwise".into() }
}

fn differences(old: &Explanation, new: &Explanation) -> Vec<Difference> {
    let differ = |what, look: fn(&Explanation) -> String| {
        let (old, new) = (look(old), look(new));
        (old != new).then_some(Difference { what, old, new })
    };
    // Who refuses it looks no further: where it would have gone, and what it would have met, is no difference then.
    let is_sent = old.forwarded.is_some() && new.forwarded.is_some();
    let is_moved = differ("routed", if is_sent { sent_to } else { taken_by });
    let is_rewritten = || differ("rewritten", rewritten).filter(|_| is_sent);
    let is_rewritten = if is_moved.is_none() { is_rewritten() } else { None }; // There it is as it is done there.
    let is_limited = differ("limited", limited).filter(|_| is_sent);
    [is_moved, differ("answered", answered), is_limited, is_rewritten].into_iter().flatten().collect()
}

fn taken_by(explanation: &Explanation) -> String {
    explanation.route.as_deref().unwrap_or("no route").to_owned()
}

fn sent_to(explanation: &Explanation) -> String {
    let upstream = explanation.forwarded.as_ref().map_or("", |forwarded| &*forwarded.upstream);
    format!("{} to {upstream}", taken_by(explanation))
}

fn answered(explanation: &Explanation) -> String {
    match &explanation.verdict {
        Verdict::Refused(rejection) => {
            // Who refuses it is the last that was asked.
            let by = explanation.layers.last().filter(|said| matches!(said.finding, Finding::Reject(_)));
            let name = by.and_then(|said| said.name.as_deref()).map(|name| format!(" by {name}"));
            format!("{} {}{}", rejection.reason.status().as_u16(), rejection.reason, name.unwrap_or_default())
        }
        Verdict::Answered(status) => match &explanation.location {
            Some(location) => format!("{} to {location}", status.as_u16()),
            None => format!("{} by the gateway", status.as_u16()),
        },
        Verdict::Sent => "sent".into(),
        Verdict::Depends(what) => format!("depends on {what}"),
    }
}

/// What bounds it: which policies, and what they say.
fn limited(explanation: &Explanation) -> String {
    const KINDS: [&str; 4] = ["rate_limit", "total_timeout", "body_limit", "bulkhead"];
    let said = explanation.layers.iter().filter(|said| KINDS.contains(&said.kind));
    let said =
        said.filter(|said| !matches!(said.finding, Finding::Off | Finding::Passes | Finding::Reject(_)));
    let said = said.map(|said| {
        let name = said.name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        let finding = match &said.finding {
            Finding::Admit(text) => text.clone(),
            Finding::WouldAsk(what) => what.to_string(),
            other => format!("{other:?}"),
        };
        format!("{}{name}: {finding}", said.kind)
    });
    let all = said.collect::<Vec<_>>().join("; ");
    if all.is_empty() { "by nothing".into() } else { all }
}

fn rewritten(explanation: &Explanation) -> String {
    let Some(forwarded) = &explanation.forwarded else { return "not sent".into() };
    // Each request has a number of its own.
    let headers = forwarded.headers.iter().filter(|field| field.name != "x-request-id");
    let headers = headers.map(|field| format!("; {}: {}", field.name, field.shown())).collect::<Vec<_>>();
    format!("{}{}", without_query(&forwarded.request_line), headers.concat())
}

impl Replayed {
    /// For programs.
    pub fn to_json(&self) -> Value {
        let groups = self.sorted().into_iter().map(|(difference, group)| {
            json!({
                "what": difference.what, "old": difference.old, "new": difference.new,
                "count": group.count, "line": group.line, "request": group.request,
            })
        });
        let why = self.why.iter().map(|(line, why)| json!({"line": line, "why": why}));
        json!({
            "requests": self.requests, "different": self.different, "unread": self.unread,
            "why_unread": why.collect::<Vec<_>>(), "differences": groups.collect::<Vec<_>>(),
        })
    }

    /// By what differs, what is frequent first.
    fn sorted(&self) -> Vec<(&Difference, &Group)> {
        let mut all = self.groups.iter().collect::<Vec<_>>();
        all.sort_by_key(|(difference, group)| (difference.what, std::cmp::Reverse(group.count)));
        all
    }
}

/// For people.
impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, different, unread, .. } = self;
        writeln!(f, "{requests} requests, {different} of them would be treated differently")?;
        let mut what = "";
        for (difference, group) in self.sorted() {
            if what != difference.what {
                what = difference.what;
                writeln!(f, "\n{what} differently")?;
            }
            writeln!(f, "  {:>7}  {}", group.count, changed(&difference.old, &difference.new))?;
            writeln!(f, "           first in line {}: {}", group.line, group.request)?;
        }
        if *unread > 0 {
            writeln!(f, "\n{unread} lines are no requests")?;
        }
        for (line, why) in &self.why {
            writeln!(f, "  line {line}: {why}")?;
        }
        Ok(())
    }
}

/// Two texts, without what both of a list have.
fn changed(old: &str, new: &str) -> String {
    let (was, is) = (old.split("; ").collect::<Vec<_>>(), new.split("; ").collect::<Vec<_>>());
    if was.len().max(is.len()) == 1 {
        return format!("{old} → {new}");
    }
    let only = |of: &[&str], other: &[&str]| {
        let own = of.iter().filter(|part| !other.contains(part)).copied().collect::<Vec<_>>();
        if own.is_empty() { "nothing".to_owned() } else { own.join("; ") }
    };
    let mut text = String::new();
    let _ = write!(text, "{} → {}", only(&was, &is), only(&is, &was)); // Writing to a text does not fail.
    text
}
