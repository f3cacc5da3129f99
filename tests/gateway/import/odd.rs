//! Resources that are odd: whatever they say, what is written is right, or nothing is.

use std::{fs, path::Path, sync::Arc};

use naka_gateway::import::{Api, Failure, Options, import};

/// What may stand where something else should.
const VALUES: [&str; 17] = [
    "''",
    "[]",
    "{a: b}",
    "-1",
    "99999999999",
    "'a b'",
    "'*'",
    "'{x}'",
    "0",
    "null",
    "'%x'",
    "true",
    "[a, {b: c}]",
    "'a.b.c:d/e'",
    "/a//b",
    "1.5h",
    "\"a\\nb: c\"",
];

/// Each line is left away, and each of its values is two others: always others, with each.
fn odd(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    let (mut all, mut turn) = (Vec::new(), 0);
    for (number, line) in lines.iter().enumerate() {
        let with = |line: Option<&str>| {
            let replaced =
                lines.iter().enumerate().filter_map(|(at, it)| if at == number { line } else { Some(it) });
            replaced.collect::<Vec<_>>().join("\n")
        };
        all.push(with(None));
        for (at, _) in line.match_indices(": ") {
            let rest = &line[at + 2..];
            let end = rest.find([',', '{', '}', '[', ']']).unwrap_or(rest.len());
            for value in [VALUES[turn % VALUES.len()], VALUES[(turn + 7) % VALUES.len()]] {
                all.push(with(Some(&format!("{}{value}{}", &line[..at + 2], &rest[end..]))));
            }
            turn += 1;
        }
    }
    all
}

fn is_never_wrong(api: Api, text: &str, options: &Options) {
    let (mut written, mut refused) = (0, 0);
    for text in odd(text) {
        match import(api, &[("odd.yaml".into(), Arc::from(&*text))], options) {
            Ok(_) => written += 1,
            Err(Failure::Files(_) | Failure::Nothing(_)) => refused += 1,
            Err(why) => panic!("{why:?}\n{text}"),
        }
    }
    assert!(written > 200 && refused > 0, "{written} {refused}");
}

#[test]
fn whatever_stands_in_resources_of_istio_what_is_written_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mesh/cluster");
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
    let options = Options {
        identity: Some("cluster.local/ns/mumbai-ecommerce/sa/api-gateway".into()),
        faults_until: Some("2099-01-01".into()),
        endpoints: Some(("endpoints.yaml".into(), read("endpoints.yaml").into())),
        ..Options::default()
    };
    is_never_wrong(Api::Istio, &read("original.yaml"), &options);
}

#[test]
fn whatever_stands_in_resources_of_the_gateway_api_what_is_written_is_right() {
    is_never_wrong(Api::GatewayApi, include_str!("gateway-api.yaml.txt"), &Options::default());
}
