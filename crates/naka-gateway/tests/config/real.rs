//! Ten configurations of other gateways, written in this grammar, and what becomes of each.
//!
//! The table is exact: building something, or a change of the grammar, has to show up here.

use std::{collections::BTreeSet, fs, path::PathBuf};

use naka_gateway::config::{Code, parse_str};

/// What the original says and this grammar has no words for, and the words one would try.
type Unsayable = (&'static str, &'static str);

/// File, keys and values that are not built yet, what cannot be said.
const TABLE: [(&str, &[&str], &[Unsayable]); 10] = [
    ("envoy-local-rate-limit", &[], &[]),
    (
        "envoy-weighted-clusters",
        &[],
        &[(
            "a host wildcard on the right",
            "routes: {a: {match: {host: 'www.foo.*', prefix: /}, respond: {}}}",
        )],
    ),
    ("haproxy-acls", &["endpoint_limit"], &[]),
    (
        "haproxy-stick-table",
        &[],
        &[("a window of 10 seconds", "policies: {p: {rate_limit: {rate: 20/10s}}}")],
    ),
    ("kong-rate-limiting", &[], &[]),
    ("kong-upstream-targets", &[], &[]),
    (
        "nginx-limit-req",
        &[],
        &[(
            "delaying what is above the rate",
            "policies: {p: {rate_limit: {rate: 10/s, burst: 20, delay: true}}}",
        )],
    ),
    (
        "nginx-reverse-proxy",
        &[],
        &[(
            "a variable as the value of a header",
            "routes: {a: {headers: {request: {set: {x-real-ip: {client_ip: true}}}}}}",
        )],
    ),
    ("traefik-file-provider", &[], &[]),
    ("traefik-middlewares", &[], &[]),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/config/real")
}

/// The first word in backticks that is no path of keys to it.
fn name_of(message: &str) -> &str {
    let words: Vec<_> = message.split('`').collect();
    if message.starts_with('`') && words[2].starts_with(": ") { words[3] } else { words[1] }
}

#[test]
fn each_is_what_the_table_says() {
    for (file, not_built, cannot_be_said) in TABLE {
        let path = folder().join(file).with_extension("yaml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# Translates "), "{file} says what it translates");
        let names: BTreeSet<_> = match parse_str(&path.to_string_lossy(), &text) {
            Ok((_, warnings)) => {
                assert!(warnings.is_empty(), "{warnings}");
                BTreeSet::new()
            }
            Err(found) => {
                assert!(found.iter().all(|it| it.code == Code::NotBuilt), "{found}");
                found.iter().map(|it| name_of(&it.message).to_owned()).collect()
            }
        };
        assert_eq!(names, not_built.iter().map(ToString::to_string).collect(), "{file}");
        assert_eq!(text.contains("Cannot be said"), !cannot_be_said.is_empty(), "{file}");
        for (what, words) in cannot_be_said {
            let found = parse_str(file, words).expect_err(what);
            let refused = [Code::Value, Code::Shape, Code::UnknownKey];
            assert!(found.iter().any(|it| refused.contains(&it.code)), "{what} can be said now? {found}");
        }
    }
}

#[test]
fn the_table_is_complete() {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<_> = files
        .filter(|path| path.is_file())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, TABLE.iter().map(|(file, ..)| (*file).to_owned()).collect());
}
