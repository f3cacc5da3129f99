//! Requests: targets, hosts, forwarding headers, deadlines, credentials, versions. Each is decided, and twice alike.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use naka::clock::Now;
use naka_gateway::{
    acme::Orders,
    ask::Asked,
    assemble::{Surroundings, assemble},
    config::parse_str,
    discover::Reach,
    explain::explain,
    generation::Generation,
    observe::Metrics,
    state::State,
    upstream::Connector,
};
use tokio::time::Instant;

const CONFIG: &str = r#"
gateway: {trusted_proxies: [0.0.0.0/0], deadline_header: x-timeout-ms, identity_headers: {x-user-id: identity}}
listeners: {public: {listen: ":1"}}
policies:
  ola: {jwt: {secret: {file: targets/secret}, audiences: [rides]}}
  keys: {api_key: {file: targets/partners.yaml}}
  per-ip: {rate_limit: {rate: 5/s, burst: 5, key: [client_ip, "header:x-a", "query:q", "cookie:c"]}}
upstreams: {app: {endpoints: ["127.0.0.1:3000"], balance: {policy: ring_hash, key: ["header:x-a"]}}}
routes:
  ride: {match: {path: "/rides/{id}/{rest...}", host: ["*.example"]}, use: [per-ip], rewrite: {path: "/r/{id}"}, upstream: app}
  exact: {match: {path: /a, methods: [GET, POST], headers: {x-b: {present: true}}, query: {q: "1"}}, respond: {}}
  token: {match: {prefix: /t}, use: [ola], upstream: app}
  key: {match: {prefix: /k}, use: [keys], cors: {origins: ["https://app.example"]}, upstream: app}
  all: {match: {prefix: /}, redirect: {scheme: https}}
"#;

fn generation() -> &'static Generation {
    static GENERATION: OnceLock<Generation> = OnceLock::new();
    GENERATION.get_or_init(|| {
        let (config, _) = parse_str("gateway.yaml", CONFIG).unwrap_or_else(|wrong| panic!("{}", wrong.render(false)));
        let metrics = Arc::new(Metrics::new());
        let around = Surroundings {
            metrics: &metrics,
            connector: Connector::Tcp,
            reach: Reach::default(),
            now: Instant::now(),
            orders: Orders::Never,
        };
        assemble(&Arc::new(config), 1, &State::new(1), &around).expect("its routes can be told apart")
    })
}

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let asked = Asked {
        request: lines.next().unwrap_or_default().to_owned(),
        headers: lines.map(str::to_owned).collect(),
        ..Asked::default()
    };
    let generation = generation();
    let Ok(request) = asked.check(&generation.config) else { return };
    let now = Now::read();
    let one = explain(generation, &request, now);
    let other = explain(generation, &request, now);
    assert_eq!((&one.verdict, &one.route), (&other.verdict, &other.route));
    if let Some(forwarded) = &one.forwarded {
        assert!(!forwarded.upstream.is_empty());
    }
});
