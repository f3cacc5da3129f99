//! The records of versions.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{RawRateLimit, RawRewrite, RawSplit};
use crate::config::{
    checked::VersionPlace,
    decode::{At, Named, OneOrMany, Or, Scalar, Text, Wrong},
    record::{record, words},
    suggest::{nearest, one_of, quoted},
    units::Time,
    values::Id,
};

record! {
    /// Versions of an API: which one a request asks for decides where it goes.
    RawVersions ("versions such as `{default: v1, of: {v1: {upstream: old}, v2: {upstream: new}}}`") {
        /// Where a request says which one it means, in this order.
        by: OneOrMany<VersionPlace> = optional;
        /// The one that is meant if nothing is said; without it such a request is refused.
        default: Id = optional, "v1";
        /// What happens to a request that says two different ones.
        on_conflict: RawOnConflict = "reject";
        /// Take the segment with the version away before the request goes on.
        strip: bool = "false";
        /// The versions.
        of: Named<Id, RawVersion> = required, "{v1: {upstream: products}, v2: {upstream: products-v2}}";
    }
    instead: versions => "write `of:`",
        latest => "a default is one that is named: `default: v2`",
        strategy => "write `by: [path, header, accept]`";
}

words! {
    /// What happens to a request that says two different versions.
    RawOnConflict ("what happens to a request that says two versions") { Reject = "reject", First = "first" }
}

record! {
    /// One version.
    RawVersion ("a version such as `{upstream: products}`") {
        /// Where it is served.
        upstream: Id = optional, "products";
        /// Or several upstreams, each for a share of its requests.
        split: RawSplit = optional;
        /// How else it may be asked for. Ways to write a number need none: `2`, `v2` and `2.0` are one.
        aliases: OneOrMany<Arc<str>> = optional, "[2026-09]";
        /// From when until when, and what then.
        lifecycle: RawLifecycle = optional;
        /// Changes of the request target, in place of the route's.
        rewrite: RawRewrite = optional;
        /// A rate limit besides the route's: a name, or the limit itself.
        rate_limit: Or<Id, RawRateLimit> = optional;
    }
    not_built: subset;
}

record! {
    /// The life of a version: each a time, in this order.
    RawLifecycle ("a life such as `{deprecated: 2026-09-01, sunset: 2027-03-01, successor: v2}`") {
        /// From when on it is there; before, it does not exist.
        since: Time = optional;
        /// From when on only faults are mended.
        maintenance: Time = optional;
        /// From when on it should not be used any more; told before, too.
        deprecated: Time = optional;
        /// From when on it is not served any more; told before, too.
        sunset: Time = optional;
        /// From when on nothing of it is left.
        removed: Time = optional;
        /// The one to use instead.
        successor: Id = optional, "v2";
        /// What people should read about its end: a URL.
        docs: Arc<str> = optional, "\"https://dev.example/v1\"";
        /// When it is off for a while, so that whoever still uses it notices.
        brownouts: Vec<At<RawBrownout>> = optional;
    }
    instead: deprecation => "write `deprecated:`",
        sunset_at => "write `sunset:`",
        link => "write `docs:`",
        replaced_by => "write `successor:`";
}

record! {
    /// A while in which a version is off.
    RawBrownout ("a while such as `{from: 2027-02-01T10:00:00Z, until: 2027-02-01T11:00:00Z}`") {
        /// Its beginning.
        from: Time = required;
        /// Its end.
        until: Time = required;
    }
}

impl Scalar for VersionPlace {
    const WHAT: &'static str = "a place such as `path`, `header:x-api-version` or `accept`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        const WORDS: [&str; 5] = ["path", "header", "accept", "query", "subdomain"];
        let text = text.text;
        let (word, rest) = match text.split_once(':') {
            Some((word, rest)) => (word, Some(rest.trim())),
            None => (text, None),
        };
        match (word, rest) {
            ("path", None) => return Ok(Self::Path(None)),
            ("path", Some(number)) => {
                if let Ok(number) = number.parse() {
                    return Ok(Self::Path(Some(number)));
                }
            }
            ("header", None) => return Ok(Self::Header("x-api-version".parse().expect("it is a name"))),
            ("header", Some(name)) => {
                return Scalar::parse(Text { text: name, plain: true }).map(Self::Header);
            }
            ("accept", rest) => return Ok(Self::Accept(rest.map(Arc::from))),
            ("query", rest) => return Ok(Self::Query(rest.unwrap_or("version").into())),
            ("subdomain", None) => return Ok(Self::Subdomain),
            _ => {}
        }
        let wrong = Wrong::new(format!("{} is no place where a version is said", quoted(text)));
        Err(match nearest(word, WORDS) {
            Some(meant) if meant != word => wrong.help(format!("did you mean `{meant}`?")),
            _ => wrong.help(format!(
                "write {}, or `path:1`, `header:NAME`, `accept:VENDOR`, `query:NAME`",
                one_of(WORDS)
            )),
        })
    }

    fn schema() -> Json {
        json!({"type": "string", "examples": ["path", "header:x-api-version", "accept", "query:version", "subdomain"]})
    }
}
