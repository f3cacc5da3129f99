//! `naka fmt`: what comes out of it means the same, has the same comments, and stays as it is.

use std::{fs, path::Path};

use naka_gateway::config::{Unformatted, format_str, parse_str};

fn formatted(name: &str, text: &str) -> String {
    let once = format_str(name, text).unwrap_or_else(|why| panic!("{name}: {why}")).text;
    let twice = format_str(name, &once).unwrap_or_else(|why| panic!("{name}, again: {why}\n{once}")).text;
    assert_eq!(once, twice, "{name}");
    once
}

/// Folders of this crate, or of the repository.
fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, found);
        } else if path.extension().is_some_and(|it| it == "yaml" || it == "yml") {
            found.push(path);
        }
    }
}

fn repository() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Files that are no configuration, so that tests can say so.
const WRONG: [&str; 4] = ["raw.yaml", "raw-syntax.yaml", "wrong.yaml", "endpoints.yaml"];

#[test]
fn every_file_of_the_repository_is_laid_out() {
    let mut found = Vec::new();
    files(&repository(), &mut found);
    assert!(found.len() >= 15, "{found:?}");
    let mut others = Vec::new();
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.to_string_lossy();
        if path.parent().unwrap().ends_with("order_hours") {
            continue; // It has a kind of its own; the tests of those lay it out.
        }
        if path.parent().unwrap().ends_with("observability") {
            continue; // Those are of Prometheus.
        }
        if path.parent().unwrap().ends_with("mesh/cluster") {
            continue; // Those are of a cluster.
        }
        if path.parent().unwrap().ends_with("secrets") && WRONG.iter().any(|wrong| path.ends_with(wrong)) {
            assert!(matches!(format_str(&name, &text), Err(Unformatted::Wrong(_))), "{name}");
        } else if formatted(&name, &text) != text {
            others.push(name.into_owned());
        }
    }
    assert!(others.is_empty(), "`naka fmt` these: {others:?}");
}

/// What the manual page says, in one file: order, comments, quotes, width, anchors, text of several lines.
#[test]
fn the_layout_is_this_one() {
    let before = include_str!("layout/before.yaml.txt");
    assert_eq!(formatted("before.yaml", before), include_str!("layout/after.yaml.txt"));
}

/// What is written, and what becomes of it.
const RULES: [(&str, &str); 23] = [
    // Names keep their order; keys do not.
    (
        "routes: {b: {auth: none, match: {path: /b}}, a: {}}",
        "routes: {b: {match: {path: /b}, auth: none}, a: {}}",
    ),
    // What is merged comes first, and an alias not before what it stands for.
    (
        "upstreams: {a: &a {endpoints: [x]}, b: {timeouts: {}, <<: *a}}",
        "upstreams: {a: &a {endpoints: [x]}, b: {<<: *a, timeouts: {}}}",
    ),
    (
        "routes: {r: &r {upstream: x}}\ngroups: {g: {routes: {r: *r}}}",
        "routes: {r: &r {upstream: x}}\ngroups: {g: {routes: {r: *r}}}",
    ),
    // A name for two values fixes what has it.
    (
        "upstreams: {a: &a {balance: {}, endpoints: [x]}, b: &a {endpoints: []}}",
        "upstreams: {a: &a {endpoints: [x], balance: {}}, b: &a {endpoints: []}}",
    ),
    ("routes: &x {}\nlisteners: &x {}\ntests: [*x]", "routes: &x {}\nlisteners: &x {}\ntests: [*x]"),
    // A set of policies is in the order of the layers, if all of them are known.
    (
        "policies: {r: {retry: {}}, c: {cors: {}}}\nroutes: {a: {use: [r, c]}, b: {use: [r, c, other]}}",
        "policies: {r: {retry: {}}, c: {cors: {}}}\nroutes: {a: {use: [c, r]}, b: {use: [r, c, other]}}",
    ),
    (
        "policies: {who: {rate_limit: {key: [jwt.sub]}}, t: {rate_limit: {tiers: {}}}, ip: {rate_limit: {}}, j: {jwt: {}}}\nroutes: {a: {use: [t, who, j, ip]}}",
        "policies: {who: {rate_limit: {key: [jwt.sub]}}, t: {rate_limit: {tiers: {}}}, ip: {rate_limit: {}}, j: {jwt: {}}}\nroutes: {a: {use: [ip, j, t, who]}}",
    ),
    // Comments.
    ("#a\n\n#b\nroutes: {}   #c\n#d\nversion: 1", "#a\n\n#d\nversion: 1\n#b\nroutes: {}   #c"),
    ("routes: [ # a\n]", "# a\nroutes: []"),
    ("routes: # a\n  {} # b", "# a\nroutes: {} # b"),
    (
        "listeners:\n\n\n  a:\n    # in a\n    use: [x]\n    # end of a\n  # before b\n  b: {}\n# before routes\nroutes: {}",
        "listeners:\n  a:\n    # in a\n    use: [x]\n    # end of a\n  # before b\n  b: {}\n# before routes\nroutes: {}",
    ),
    ("# only this\n\n\n# and that", "# only this\n\n# and that"),
    ("%YAML 1.2\n# head\n--- # of all\nroutes: {}", "%YAML 1.2\n# head\n---\n# of all\nroutes: {}"),
    // Bug: the colon of a name with nothing under it was taken for what comes next, and the comment stood one level further out.
    ("listeners: {web: # a\n# b\n}", "listeners:\n  web:           # a\n  # b"),
    (
        "listeners:\n  web:\n  # end of listeners\nroutes: {}",
        "listeners:\n  web:\n  # end of listeners\nroutes: {}",
    ),
    // Where all are apart, they stay so.
    ("routes: {}\n\nlisteners: {}\n\n\nversion: 1", "version: 1\n\nlisteners: {}\n\nroutes: {}"),
    // Text of several lines.
    (
        "routes:\n     a:\n         respond: {body: \"a\n\n      b\"}",
        "routes:\n  a:\n    respond:\n      body: \"a\n\n        b\"",
    ),
    (
        "routes:\n    a:\n        respond:\n            body: |2+ # kept\n               a\n\n            status: 200",
        "routes:\n  a:\n    respond:\n      status: 200\n      body: |2+       # kept\n         a",
    ),
    (
        "include:\n- |+\n   a\n\n- - b\n  -  c\n- {d: 1}",
        "include:\n  - |+\n    a\n\n  - - b\n    - c\n  - {d: 1}",
    ),
    // Keys.
    ("? routes\n: {\"a\": {}, ? 'b:c' : {}}", "routes: {a: {}, \"b:c\": {}}"),
    ("include: [: ]", "include: [{~}]"),
    ("routes: {: {auth: none, match: {}}}", "routes: {~: {match: {}, auth: none}}"),
    ("policies: {a\n b: {}}", "policies: {a b: {}}"),
];

#[test]
fn each_rule_by_itself() {
    let mut wrong = Vec::new();
    for (before, after) in RULES {
        let said = formatted("any.yaml", before);
        if said.trim_end() != after {
            wrong.push(format!("{before}\n  is\n{said}\n  and not\n{after}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// With the files of mistakes: they are laid out or refused, and never changed.
#[test]
fn every_block_and_every_mistake_means_what_it_meant() {
    let mut texts = Vec::new();
    for page in ["README.md", "docs/configuration.md", "docs/operations.md"] {
        let page = fs::read_to_string(repository().join(page)).unwrap();
        texts
            .extend(page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()));
    }
    let pages = texts.len();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/mistakes")).unwrap() {
        let whole = fs::read_to_string(entry.unwrap().path()).unwrap();
        texts.push(whole.split("\n-----\n").next().unwrap().to_owned());
    }
    let (mut laid_out, mut refused) = (0, 0);
    for (number, text) in texts.iter().enumerate() {
        match format_str("any.yaml", text) {
            Ok(_) => {
                let after = formatted("any.yaml", text);
                let said = |text: &str| match parse_str("tests/config/any.yaml", text) {
                    Ok((_, found)) | Err(found) => {
                        let mut said: Vec<_> = found.iter().map(|it| it.message.clone()).collect();
                        said.sort();
                        said
                    }
                };
                assert_eq!(said(text).len(), said(&after).len(), "{text}\n{after}");
                laid_out += 1;
            }
            Err(Unformatted::Wrong(_)) if number >= pages => refused += 1,
            Err(why) => panic!("{why}\n{text}"),
        }
    }
    assert!(laid_out >= pages + 30 && refused >= 5, "{laid_out} {refused}");
}
