//! What is read and checked again, and what is not: after any changes it is as if all of it had been read anew.

use std::{fmt::Write as _, fs, path::Path};

use naka_gateway::config::{Fresh, Loaded, load};
use proptest::{collection::vec, prelude::*};
use tempfile::tempdir;

fn entry(dir: &Path, text: &str) -> std::path::PathBuf {
    let entry = dir.join("gateway.yaml");
    fs::write(&entry, text).unwrap();
    entry
}

const ENTRY: &str = "include: ['routes.d/*.yaml']
listeners: {web: {listen: ':8080'}}
upstreams: {app: {endpoints: ['127.0.0.1:3000']}}
policies: {per-ip: {rate_limit: {rate: 10/s, key: [client_ip]}}}
";

fn file(number: usize, routes: usize, total: &str) -> String {
    (0..routes).fold("routes:\n".to_owned(), |mut text, route| {
        let _ = writeln!(
            text,
            "  r{number}-{route}: {{match: {{path: /{number}/{route}}}, use: [per-ip], timeouts: {{total: {total}}}, upstream: app}}"
        );
        text
    })
}

/// Ten thousand routes in files of two hundred: of one that changes, only that one is looked at.
#[test]
fn of_ten_thousand_routes_only_the_file_that_changed_is_read_and_checked() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("routes.d")).unwrap();
    let path = |number: usize| dir.path().join(format!("routes.d/r{number:02}.yaml"));
    (0..50).for_each(|number| fs::write(path(number), file(number, 200, "5s")).unwrap());
    let entry = entry(dir.path(), ENTRY);
    let first = load(&entry, None).unwrap();
    assert_eq!((first.fresh, first.config.routes.len()), (Fresh { files: 51, routes: 10_000 }, 10_000));
    let same = load(&entry, Some(&first.sources)).unwrap();
    assert_eq!(same.fresh, Fresh { files: 0, routes: 0 });
    fs::write(path(7), file(7, 200, "6s")).unwrap();
    let changed = load(&entry, Some(&same.sources)).unwrap();
    assert_eq!(changed.fresh, Fresh { files: 1, routes: 200 });
    let route = |loaded: &Loaded, name: &str| loaded.config.routes[name].total_timeout.unwrap().as_secs();
    assert_eq!((route(&changed, "r7-3"), route(&changed, "r8-3")), (6, 5));
    fs::remove_file(path(0)).unwrap();
    let fewer = load(&entry, Some(&changed.sources)).unwrap();
    assert_eq!((fewer.fresh, fewer.config.routes.len()), (Fresh { files: 0, routes: 0 }, 9800));
    fs::write(path(0), file(0, 200, "7s")).unwrap();
    let more = load(&entry, Some(&fewer.sources)).unwrap();
    assert_eq!(more.fresh, Fresh { files: 1, routes: 200 });
    fs::write(&entry, ENTRY.replace("10/s", "20/s")).unwrap();
    let policy = load(&entry, Some(&more.sources)).unwrap();
    assert_eq!(policy.fresh, Fresh { files: 1, routes: 10_000 }, "they all refer to it");
    assert_eq!(format!("{:?}", policy.config), format!("{:?}", load(&entry, None).unwrap().config));
}

/// What a file of the property says. Some of it is wrong, by itself or beside the others.
const FILES: [&str; 16] = [
    "",
    "routes:\n  aN: {match: {path: /a/N}, use: [per-ip], upstream: app}\n",
    "# moved\n\nroutes:\n  aN: {match: {path: /a/N}, use: [per-ip], upstream: app}\n",
    "routes:\n  aN: {match: {path: /a/N}, rate_limit: {rate: 5/s, key: [client_ip]}, upstream: app}\n",
    "routes:\n  aN: {match: {path: '/b/N/{id}'}, bulkhead: {max: 3}, timeouts: {total: 3s}, upstream: other}\n",
    "groups:\n  gN:\n    use: [per-ip]\n    rate_limit: {rate: 9/s}\n    routes:\n      aN: {match: {path: /g/N}, upstream: app}\n",
    "groups:\n  gN:\n    bulkhead: {max: 4}\n    routes:\n      aN: {match: {path: /g/N}, upstream: app}\n",
    "upstreams: {uN: {endpoints: ['127.0.0.1:40N']}}\nroutes:\n  aN: {match: {path: /u/N}, upstream: uN}\n",
    "routes:\n  aN: {match: {path: /v/N}, versions: {by: [path], default: v1, of: {v1: {upstream: app}, v2: {upstream: other}}}}\n  lN: {match: {path: /l/N}, list_versions: [aN]}\n",
    "routes:\n  aN: {match: {path: /f/N}, fault: {abort: {percent: 1%, status: 503}, in_production: true, until: 2020-01-01}, upstream: app}\n",
    "routes:\n  aN: {match: {path: /t/N}, retry: {max: 3}, timeouts: {total: 1s}, upstream: app}\n",
    "routes:\n  aN: {match: {path: /same}, upstream: app}\n",
    "routes:\n  a0: {match: {path: /twice}, upstream: app}\n",
    "routes:\n  aN: {match: {path: /x/N}, upstream: gone}\n",
    "routes:\n  aN: {match: {path: /x/N}, upstreem: app}\n",
    "routes: [\n",
];

const POLICIES: [&str; 4] = [
    "policies: {per-ip: {rate_limit: {rate: 10/s, key: [client_ip]}}}\n",
    "# moved\npolicies: {per-ip: {rate_limit: {rate: 10/s, key: [client_ip]}}}\n",
    "policies: {per-ip: {rate_limit: {rate: 20/s, key: [client_ip]}}, more: {bulkhead: {max: 2}}}\n",
    "policies: {per-ip: {bulkhead: {max: 2}}}\n",
];

const OTHERS: [&str; 3] = [
    "upstreams: {app: {endpoints: ['127.0.0.1:3000']}, other: {endpoints: ['127.0.0.1:3001']}}\n",
    "upstreams: {app: {endpoints: ['127.0.0.1:3000'], bulkhead: {max: 9}}, other: {endpoints: ['127.0.0.1:3001'], timeouts: {response_headers: 500ms}}}\n",
    "upstreams: {app: {endpoints: ['127.0.0.1:3000']}}\n",
];

#[derive(Clone, Copy, Debug)]
enum Change {
    File(usize, usize),
    Policies(usize),
    Upstreams(usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        6 => (0..4_usize, 0..FILES.len()).prop_map(|(file, says)| Change::File(file, says)),
        1 => (0..POLICIES.len()).prop_map(Change::Policies),
        1 => (0..OTHERS.len()).prop_map(Change::Upstreams),
    ];
    vec(change, 1..12)
}

/// All that a reading says.
fn said(loaded: &Result<Loaded, naka_gateway::config::Diagnostics>) -> String {
    match loaded {
        Ok(loaded) => format!("{:#?}\n{}", loaded.config, loaded.warnings.render(false)),
        Err(wrong) => wrong.render(false),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    /// Whatever changes, and in whatever order, the next reading says what one says that knows nothing.
    #[test]
    fn what_is_not_read_again_is_as_if_it_had_been(changes in changes()) {
        let dir = tempdir().unwrap();
        fs::create_dir(dir.path().join("routes.d")).unwrap();
        let (mut policies, mut upstreams, mut known) = (0, 0, None);
        for change in changes {
            match change {
                Change::File(file, says) => {
                    let path = dir.path().join(format!("routes.d/{file}.yaml"));
                    if FILES[says].is_empty() {
                        let _ = fs::remove_file(path);
                    } else {
                        fs::write(path, FILES[says].replace('N', &file.to_string())).unwrap();
                    }
                }
                Change::Policies(says) => policies = says,
                Change::Upstreams(says) => upstreams = says,
            }
            let text = format!(
                "include: ['routes.d/*.yaml']\ngateway: {{reload: {{strict: true}}}}\nlisteners: {{web: {{listen: ':8080'}}}}\n{}{}",
                POLICIES[policies], OTHERS[upstreams]
            );
            let entry = entry(dir.path(), &text);
            let (anew, again) = (load(&entry, None), load(&entry, known.as_ref()));
            prop_assert_eq!(said(&anew), said(&again));
            if let Ok(again) = again {
                known = Some(again.sources);
            }
        }
    }
}
