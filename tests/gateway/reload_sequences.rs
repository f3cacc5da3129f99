//! Reloads that do not touch a policy are invisible to it: two gateways meet the same requests in the same time, one of them is
//! reloaded in between, and nobody can tell which.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use naka_gateway::{
    carry::What,
    custom::{Gateway, Kinds, Slot},
};
use naka_testkit::upstream::{Step as Do, Upstream, answer};
use proptest::{collection::vec, prelude::*};

use crate::{
    custom::{Ration, RationLayer},
    inside::{Client, Inside},
};

/// What has state, each on a route of its own. What is left to chance (a choice of two, the wait
/// before a retry) is asked nothing, as it could not be compared: of it the report says that it is kept.
const POLICIES: &str = "
  by-name: {rate_limit: {rate: [3/s, 7/m], key: ['header:x-user'], fields: draft}}
  sliding: {rate_limit: {rate: 4/m, algorithm: sliding_window, key: ['header:x-user']}}
  room: {bulkhead: {max: 2}}
  people: {jwt: {secret: a secret of forty bytes or a few of more, audiences: [rides]}}
  of-people: {rate_limit: {rate: 2/m, key: [jwt.sub], on_missing: reject}}
  meals: {ration: {most: 5}}
";

const UPSTREAMS: &str = "
  app: {endpoints: ['one:80', 'two:80'], balance: {policy: round_robin}}
  weighted: {endpoints: [{address: 'one:80', weight: 3}, {address: 'two:80', weight: 1}], balance: {policy: weighted_round_robin}}
  weak: {endpoints: ['one:80', 'two:80'], balance: {policy: round_robin}, circuit_breaker: {consecutive: 2, open: 5s..60s}}
  next: {endpoints: ['two:80']}
";

const ROUTES: &str = "
  by-name: {match: {prefix: /by-name}, use: [by-name], upstream: app}
  sliding: {match: {prefix: /sliding}, use: [sliding], upstream: app}
  room: {match: {prefix: /room}, use: [room], upstream: next}
  once: {match: {prefix: /once}, idempotency: {required: true, failures: keep, ttl: 1m}, upstream: app}
  kept: {match: {prefix: /kept}, cache: {default_ttl: 10s}, upstream: app}
  breaker: {match: {prefix: /breaker}, circuit_breaker: {consecutive: 2, open: 4s..60s, key: ['header:x-user']}, upstream: next}
  weak: {match: {prefix: /weak}, upstream: weak}
  weighted: {match: {prefix: /weighted}, upstream: weighted}
  split: {match: {prefix: /split}, split: {to: {app: 3, next: 1}}}
  versions: {match: {prefix: /versions}, versions: {by: ['header:x-version'], default: v1, of: {v1: {upstream: app, rate_limit: {rate: 3/m}}, v2: {upstream: next}}}}
  again: {match: {prefix: /again}, retry: {max: 1, when: [502-504], backoff: 1ms..1ms}, upstream: next}
  people: {match: {prefix: /people}, use: [people, of-people], upstream: app}
  meals: {match: {prefix: /meals}, use: [meals], upstream: next}
";

const PATHS: [&str; 12] = [
    "/by-name",
    "/sliding",
    "/room",
    "/once",
    "/kept",
    "/breaker",
    "/weak",
    "/weighted",
    "/split",
    "/versions",
    "/people",
    "/meals",
];

/// The same, with more around it, in another order, or elsewhere.
fn files(variant: usize) -> String {
    let listeners = "listeners: {web: {listen: ':8080'}}\n";
    let policies = format!("policies:{POLICIES}");
    let upstreams = format!("upstreams:{UPSTREAMS}");
    let routes = format!("routes:{ROUTES}");
    let more = "  extra: {match: {path: /extra}, rate_limit: {rate: 1/s}, bulkhead: {max: 1}, respond: {body: extra}}\n";
    match variant {
        0 => [listeners, &policies, &upstreams, &routes].concat(),
        1 => [&*routes, &upstreams, "# moved\n\n", &policies, listeners].concat(),
        2 => [listeners, &policies, &upstreams, &routes, more].concat(),
        3 => [listeners, &policies, "  extra: {rate_limit: {rate: 5/s}}\n", &upstreams, &routes].concat(),
        4 => [
            "gateway: {limits: {uri: 4KiB}, drain: {grace: 1s}}\n",
            listeners,
            &policies,
            &upstreams,
            "  extra: {endpoints: ['two:80'], circuit_breaker: {consecutive: 9}}\n",
            &routes,
            "  extra: {match: {path: /extra}, upstream: extra}\n",
        ]
        .concat(),
        5 => {
            [listeners, &policies, &upstreams, &routes, "  extra: {match: {path: /extra}, upstream: gone}\n"]
                .concat()
        }
        _ => [
            listeners,
            &policies,
            &upstreams,
            &routes,
            "groups: {extra: {timeouts: {total: 1s}, routes: {g: {match: {path: /g}, respond: {}}}}}\n",
        ]
        .concat(),
    }
}

const VARIANTS: usize = 7;
/// Names what does not exist.
const WRONG: usize = 5;

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask { path: usize, user: u8, fails: bool, is_held: bool },
    LetGo,
    Pass(u64),
    Reload(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ask = (0..PATHS.len(), 0..2_u8, prop::bool::weighted(0.3), prop::bool::weighted(0.2))
        .prop_map(|(path, user, fails, is_held)| Step::Ask { path, user, fails, is_held });
    let step = prop_oneof![
        8 => ask,
        1 => Just(Step::LetGo),
        2 => prop_oneof![0..900_u64, 900..20_000_u64].prop_map(Step::Pass),
        4 => (0..VARIANTS).prop_map(Step::Reload),
    ];
    vec(step, 1..60)
}

fn kinds() -> Kinds {
    Gateway::builder()
        .policy("ration", Slot::BeforeAuth, |ration: Ration, context| RationLayer::of(&ration, context))
        .kinds()
}

/// A gateway, what is behind it, and the responses that nobody has read to their ends.
struct World {
    gateway: Inside,
    _behind: [Upstream; 2],
    held: Vec<(Client, Response<hyper::body::Incoming>)>,
}

impl World {
    fn new() -> Self {
        let gateway = Inside::with_kinds(&files(0), kinds());
        let count = Arc::new(AtomicU64::new(0));
        let behind = ["one:80", "two:80"].map(|name| {
            let count = Arc::clone(&count);
            Upstream::inside(&gateway.network, name, move |seen| {
                let number = count.fetch_add(1, SeqCst);
                if seen.header("x-hold").is_some() {
                    let half = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf";
                    return vec![Do::ReadBody, Do::send(half), Do::Hang];
                }
                answer(
                    if seen.header("x-fail").is_some() { 503 } else { 200 },
                    "",
                    &format!("{name} {number}"),
                )
            })
        });
        Self { gateway, _behind: behind, held: Vec::new() }
    }

    async fn ask(&mut self, number: usize, step: Step) -> String {
        let Step::Ask { path, user, fails, is_held } = step else { return String::new() };
        let path = PATHS[path];
        let is_once = path == "/once";
        let mut request = Request::builder().method(if is_once { "POST" } else { "GET" }).uri(path);
        request = request.header(header::HOST, "api.example").header("x-user", user.to_string());
        if is_once {
            request = request.header("idempotency-key", format!("key-of-{user}-{}", number % 3));
        }
        if path == "/people" {
            let claims = format!(r#"{{"sub":"user-{user}","aud":"rides","exp":4102444800}}"#);
            let secret = b"a secret of forty bytes or a few of more";
            let token = naka_testkit::token::hs256(secret, &claims);
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if path == "/versions" && user == 1 {
            request = request.header("x-version", "v2");
        }
        if fails {
            request = request.header("x-fail", "1");
        }
        // Where a response that is half there is remembered, or waited for, it would not end.
        let is_held = is_held && !["/once", "/kept"].contains(&path);
        if is_held {
            request = request.header("x-hold", "1");
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let mut client = self.gateway.client().await;
        if is_held {
            let head = client.head(request).await;
            let said = said(head.status(), head.headers());
            self.held.push((client, head));
            return said;
        }
        let response = client.send(request).await;
        format!(
            "{} {}",
            said(response.status(), response.headers()),
            String::from_utf8_lossy(response.body())
        )
    }
}

/// All of the head, but what is another each time.
fn said(status: http::StatusCode, headers: &http::HeaderMap) -> String {
    let fields = headers.iter().filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()));
    let fields = fields.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
    format!("{status} {}", fields.collect::<Vec<_>>().join(", "))
}

async fn settle() {
    tokio::time::sleep(Duration::from_nanos(1)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (mut left, mut reloaded) = (World::new(), World::new());
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Ask { .. } => {
                let expected = left.ask(number, step).await;
                let is = reloaded.ask(number, step).await;
                prop_assert_eq!(expected, is, "step {}: {:?}", number, step);
            }
            Step::LetGo => {
                for world in [&mut left, &mut reloaded] {
                    if !world.held.is_empty() {
                        world.held.remove(0);
                    }
                }
            }
            Step::Pass(ms) => tokio::time::advance(Duration::from_millis(ms)).await,
            Step::Reload(WRONG) => {
                prop_assert!(reloaded.gateway.reload(&files(WRONG)).is_err());
            }
            Step::Reload(variant) => {
                reloaded.gateway.reload(&files(variant)).map_err(TestCaseError::fail)?;
                let generation = reloaded.gateway.generation();
                let touched = generation.report.iter().filter(|change| {
                    let is_more = change.identity.starts_with("extra") || &*change.identity == "g";
                    change.what != What::Kept && !is_more
                });
                let touched = touched.map(ToString::to_string).collect::<Vec<_>>();
                prop_assert_eq!(touched, Vec::<String>::new());
            }
        }
        settle().await;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn reloads_that_do_not_touch_a_policy_are_invisible_to_it(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(steps))?;
    }
}

/// Each of the routes, so that the property is about something: it has state that a fresh gateway would not have.
#[tokio::test(start_paused = true)]
async fn each_of_the_policies_has_state_that_shows() {
    let mut world = World::new();
    let mut first = Vec::new();
    for round in 0..6 {
        for (path, name) in PATHS.iter().enumerate() {
            let fails = ["/breaker", "/weak"].contains(name);
            let is_held = *name == "/room";
            let answer = world.ask(0, Step::Ask { path, user: 0, fails, is_held }).await;
            let answer = answer.split(" naka").next().unwrap().to_owned();
            settle().await;
            if round == 0 {
                first.push(answer);
            } else if round == 5 && !["/kept", "/once"].contains(name) {
                assert_ne!(first[path], answer, "{name}");
            } else if round == 5 && ["/kept", "/once"].contains(name) {
                let body = |answer: &str| answer.rsplit(' ').next().unwrap().to_owned();
                assert_eq!(body(&first[path]), body(&answer), "{name}: it is answered again");
            }
        }
    }
}
