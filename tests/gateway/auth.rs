//! Who asks, and who may: through the whole gateway.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use naka_gateway::{ask::Asked, explain::Verdict};
use naka_testkit::{
    token::{Issuer, hs256, unsigned},
    upstream::{Upstream, answer, ok},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::{Duration, advance},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs},
};

use crate::{
    inside::{Inside, get},
    process::Process,
};

mod optional;

const SECRET: &str = "a secret of forty bytes, or a few of more";
const YEAR_2100: u64 = 4_102_444_800;

/// Claims of somebody, with whatever else.
fn claims(sub: &str, more: &str) -> String {
    format!(r#"{{"sub":"{sub}","aud":"rides","iss":"ola","exp":{YEAR_2100}{more}}}"#)
}

fn token(sub: &str, more: &str) -> String {
    hs256(SECRET.as_bytes(), &claims(sub, more))
}

fn bearing(target: &str, token: &str) -> Request<Full<Bytes>> {
    with(target, "authorization", &format!("Bearer {token}"))
}

fn with(target: &str, name: &'static str, value: &str) -> Request<Full<Bytes>> {
    let mut request = get(target);
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

fn said(response: &Response<Bytes>) -> (u16, &str) {
    let reason = response.headers().get("naka-reason").map_or("", |reason| reason.to_str().unwrap());
    (response.status().as_u16(), reason)
}

const RIDES: &str = "
gateway: {identity_headers: {x-user-id: identity, x-user-tier: jwt.tier}}
listeners: {public: {listen: ':1'}}
policies:
  ola: {jwt: {secret: {file: secret}, issuer: ola, audiences: [rides]}}
  partners: {api_key: {file: partners.yaml}}
  per-rider: {rate_limit: {rate: 3/m, key: [jwt.sub]}}
  per-ip: {rate_limit: {rate: 20/m, key: [client_ip]}}
upstreams: {app: {endpoints: ['app:1']}}
groups:
  rides:
    use: [ola, per-ip]
    routes:
      estimate: {match: {path: /estimate}, auth: none, upstream: app}
      book: {match: {path: /book}, use: [per-rider], upstream: app}
      cancel: {match: {path: /cancel}, authorize: {any: [{scope: rides.cancel}, {role: support}]}, upstream: app}
      both: {match: {path: /both}, use: [partners], upstream: app}
routes:
  orders: {match: {path: /orders}, use: [partners], authorize: {claim: {city: [mumbai, pune]}}, upstream: app}
";

/// `secret-key-of-zomato`, and `old-key`.
const PARTNERS: &str = "
keys:
  - {sha256: 39960a547f8bdddc842794dfba8eea08079dfe15d8dc3a730a1151f93857569b, subject: zomato, claims: {city: pune}}
  - {sha256: 762c08fc17a1cc5f00d248f8b50f2f2f4d17ff2934ac31e64deacb3f5bb3f2ec, subject: old, expires: 2020-01-01}
";

fn rides() -> (Inside, Upstream) {
    let gateway = Inside::with_files(RIDES, &[("secret", SECRET), ("partners.yaml", PARTNERS)]);
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    (gateway, upstream)
}

#[tokio::test(start_paused = true)]
async fn r2_11_tokens_are_asked_for_and_verified_each_refusal_with_its_word() {
    let (gateway, upstream) = rides();
    let table = [
        (get("/cancel"), (401, "credentials_missing")),
        (bearing("/cancel", "nonsense"), (401, "credentials_malformed")),
        (bearing("/cancel", &unsigned(&claims("asha", ""))), (401, "credentials_malformed")),
        (bearing("/cancel", &format!("{}AAAA", unsigned(&claims("asha", "")))), (401, "algorithm_refused")),
        (bearing("/cancel", &hs256(&[7; 40], &claims("asha", ""))), (401, "signature_invalid")),
        (
            bearing(
                "/cancel",
                &hs256(SECRET.as_bytes(), r#"{"sub":"asha","aud":"rides","iss":"ola","exp":1}"#),
            ),
            (401, "token_expired"),
        ),
        (
            bearing("/cancel", &hs256(SECRET.as_bytes(), r#"{"sub":"asha","aud":"rides","iss":"ola"}"#)),
            (401, "claim_missing"),
        ),
        (
            bearing("/cancel", &hs256(SECRET.as_bytes(), &claims("asha", "").replace("rides", "food"))),
            (401, "audience_refused"),
        ),
        (
            bearing("/cancel", &hs256(SECRET.as_bytes(), &claims("asha", "").replace("ola", "uber"))),
            (401, "issuer_refused"),
        ),
        (bearing("/cancel", &Issuer::new("k").token(&claims("asha", ""))), (401, "unknown_kid")),
        (bearing("/cancel", &token("asha", "")), (403, "forbidden")),
        (bearing("/cancel", &token("asha", r#","scope":"rides.read rides.cancel""#)), (200, "")),
        (bearing("/cancel", &token("asha", r#","roles":["support"]"#)), (200, "")),
    ];
    let mut passed = 0;
    for (request, expected) in table {
        let target = request.uri().clone();
        let answer = gateway.send(request).await;
        assert_eq!(said(&answer), expected, "{target}");
        assert_eq!(answer.headers().contains_key("www-authenticate"), answer.status() == 401);
        passed += u64::from(answer.status() == 200);
    }
    assert_eq!(upstream.requests(), passed, "nothing else reached the upstream");
    let refused = "naka_rejections_total{route=\"cancel\",policy=\"ola\",reason=\"token_expired\"}";
    assert_eq!(gateway.metric(refused), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn r2_11_api_keys_are_known_by_their_hashes_and_rules_ask_about_them() {
    let (gateway, upstream) = rides();
    let key = |key: &str| with("/orders", "x-api-key", key);
    assert_eq!(said(&gateway.send(get("/orders")).await), (401, "credentials_missing"));
    assert_eq!(said(&gateway.send(key("guess")).await), (401, "credentials_unknown"));
    assert_eq!(said(&gateway.send(key("old-key")).await), (401, "credentials_expired"));
    assert_eq!(said(&gateway.send(key("secret-key-of-zomato")).await), (200, ""));
    let seen = upstream.last();
    assert_eq!(
        (seen.header("x-user-id"), seen.header("x-api-key")),
        (Some("zomato"), None),
        "the key stays here"
    );

    gateway.write("partners.yaml", &PARTNERS.replace("pune", "delhi"));
    gateway.reload(RIDES).unwrap();
    assert_eq!(said(&gateway.send(key("secret-key-of-zomato")).await), (403, "forbidden"), "another city");
    gateway.write("partners.yaml", &PARTNERS.replace("39960a54", "what is this"));
    let refused = gateway.reload(RIDES).unwrap_err();
    assert!(refused.contains("partners.yaml:3:14") && !refused.contains("what is this547f"), "{refused}");
    gateway.write("partners.yaml", "keys: []");
    gateway.reload(RIDES).unwrap();
    assert_eq!(
        said(&gateway.send(key("secret-key-of-zomato")).await),
        (401, "credentials_unknown"),
        "taken away"
    );
}

/// Also where nobody is asked who it is, and however the name is spelled.
#[tokio::test(start_paused = true)]
async fn r2_12_what_clients_say_about_who_they_are_never_reaches_an_upstream() {
    let (gateway, upstream) = rides();
    let spoof = |mut request: Request<Full<Bytes>>| {
        for name in ["x-user-id", "X-User-Tier", "x_user_id", "x-user_tier"] {
            request.headers_mut().append(name.parse::<http::HeaderName>().unwrap(), "admin".parse().unwrap());
        }
        request
    };
    let told = |seen: &naka_testkit::upstream::Seen| {
        let about =
            |(name, _): &&(String, String)| name.to_ascii_lowercase().replace('_', "-").starts_with("x-user");
        let mut all = seen
            .headers
            .iter()
            .filter(about)
            .map(|(name, value)| format!("{name}: {value}"))
            .collect::<Vec<_>>();
        all.sort();
        all
    };
    assert_eq!(gateway.send(spoof(get("/estimate"))).await.status(), 200);
    assert_eq!(told(&upstream.last()), Vec::<String>::new(), "public");
    let known = bearing("/estimate", &token("asha", ""));
    assert_eq!(gateway.send(spoof(known)).await.status(), 200);
    assert_eq!(told(&upstream.last()), Vec::<String>::new(), "nobody has looked at the token");
    let known = bearing("/book", &token("asha", r#","tier":"plus""#));
    assert_eq!(gateway.send(spoof(known)).await.status(), 200);
    assert_eq!(told(&upstream.last()), ["x-user-id: asha", "x-user-tier: plus"]);
    let without_tier = bearing("/book", &token("asha", r#","tier":["plus","premium"]"#));
    assert_eq!(gateway.send(spoof(without_tier)).await.status(), 200);
    assert_eq!(told(&upstream.last()), ["x-user-id: asha"], "of several nobody knows which one counts");
}

/// HTTP takes the spaces around a value away, so ` asha` would arrive as `asha`.
#[tokio::test(start_paused = true)]
async fn r2_12_who_would_be_read_as_somebody_else_is_not_told() {
    let (gateway, upstream) = rides();
    for somebody_else in [" asha", "asha ", "\\tasha", "asha\\t", " ", ""] {
        let known = bearing("/book", &token(somebody_else, ""));
        assert_eq!(gateway.send(known).await.status(), 200);
        assert_eq!(upstream.last().header("x-user-id"), None, "{somebody_else:?}");
    }
    let known = bearing("/book", &token("asha bose", ""));
    assert_eq!(gateway.send(known).await.status(), 200);
    assert_eq!(upstream.last().header("x-user-id"), Some("asha bose"));
}

#[tokio::test(start_paused = true)]
async fn r2_10_the_limit_by_address_stands_before_and_that_by_subject_behind_authentication() {
    let (gateway, upstream) = rides();
    for turn in 0..3 {
        assert_eq!(said(&gateway.send(bearing("/book", &token("asha", ""))).await), (200, ""), "{turn}");
    }
    let mut fourth = bearing("/book", &token("asha", r#","tier":"premium""#));
    fourth.headers_mut().insert("x-forwarded-for", "203.0.113.9".parse().unwrap());
    assert_eq!(
        said(&gateway.send(fourth).await),
        (429, "rate_limited"),
        "nothing that is only said changes the key"
    );
    assert_eq!(said(&gateway.send(bearing("/book", &token("ravi", ""))).await), (200, ""), "somebody else");
    // A flood of bad tokens is ended by the address, and never spends what belongs to whom it names.
    let mut counts = [0; 2];
    for number in 0..100 {
        let mut bad = bearing("/book", &hs256(&[7; 40], &claims("meera", "")));
        bad.headers_mut().insert("x-forwarded-for", format!("203.0.113.{number}").parse().unwrap());
        match said(&gateway.send(bad).await) {
            (401, "signature_invalid") => counts[0] += 1,
            (429, "rate_limited") => counts[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(counts, [15, 85], "twenty a minute, of which five were spent");
    advance(Duration::from_mins(1)).await;
    for _ in 0..3 {
        assert_eq!(said(&gateway.send(bearing("/book", &token("meera", ""))).await), (200, ""));
    }
    assert_eq!(upstream.requests(), 7);
}

#[tokio::test(start_paused = true)]
async fn two_ways_to_know_who_asks_both_have_to_hold() {
    let (gateway, upstream) = rides();
    let mut request = bearing("/both", &token("asha", ""));
    assert_eq!(said(&gateway.send(request.clone()).await), (401, "credentials_missing"), "no key");
    request.headers_mut().insert("x-api-key", "secret-key-of-zomato".parse().unwrap());
    assert_eq!(said(&gateway.send(request.clone()).await), (200, ""));
    assert_eq!(upstream.last().header("x-user-id"), Some("asha"), "the first who is known");
    request.headers_mut().remove("authorization");
    assert_eq!(said(&gateway.send(request).await), (401, "credentials_missing"), "no token");
}

#[tokio::test(start_paused = true)]
async fn explain_and_tests_can_be_told_who_asks() {
    let (gateway, _upstream) = rides();
    let asked = |request: &str, jwt: Option<&str>, api_key: Option<&str>| {
        gateway.explain_asked(&Asked {
            request: format!("GET http://api.example{request}"),
            jwt: jwt.map(str::to_owned),
            api_key: api_key.map(str::to_owned),
            ..Asked::default()
        })
    };
    let may = asked("/cancel", Some(r#"{"sub":"asha","scope":"rides.cancel"}"#), None);
    assert_eq!(may.verdict, Verdict::Sent, "{may}");
    let told = may.forwarded.unwrap().headers;
    assert!(told.iter().any(|field| field.name == "x-user-id" && field.value == "asha"), "{told:?}");
    let text = asked("/cancel", Some("asha"), None).to_string();
    assert!(text.contains("it is asha, as was said") && text.contains("403 forbidden"), "{text}");
    assert!(asked("/cancel", None, None).to_string().contains("401 credentials_missing"));
    assert_eq!(asked("/orders", None, Some("zomato")).verdict, Verdict::Sent);
    assert!(asked("/orders", None, Some("nobody")).to_string().contains("credentials_unknown"));
    assert!(asked("/orders", None, Some("old")).to_string().contains("credentials_expired"));
    for _ in 0..10 {
        asked("/book", Some("asha"), None);
    }
    assert!(
        asked("/book", Some("asha"), None).to_string().contains("3 of 3 left"),
        "asking consumes nothing"
    );

    let tests = "
tests:
  - {request: 'GET http://h/cancel', with: {jwt: {sub: asha, scope: rides.cancel}}, expect: {route: cancel, upstream: app}}
  - {request: 'GET http://h/cancel', with: {jwt: {sub: asha}}, expect: {status: 403}}
  - {request: 'GET http://h/cancel', expect: {status: 401}}
  - {request: 'GET http://h/orders', with: {api_key: zomato}, expect: {upstream: app}}
";
    gateway.reload(&format!("{RIDES}{tests}")).unwrap();
    let wrong = tests.replace("expect: {status: 403}", "expect: {upstream: app}");
    let refused = gateway.reload(&format!("{RIDES}{wrong}")).unwrap_err();
    assert!(refused.contains("403 forbidden"), "{refused}");
}

const ASSUMED: &str = "
listeners: {public: {listen: ':1'}}
policies:
  partners: {api_key: {file: partners.yaml}}
  legacy: {forward_auth: {url: 'http://auth:9000/check', copy_headers: [x-user, x-tier], subject: x-user}}
upstreams: {app: {endpoints: ['app:1']}}
routes:
  orders: {match: {path: /orders}, use: [partners], upstream: app}
  old: {match: {path: /old}, use: [legacy], authorize: {claim: {x-tier: gold}}, upstream: app}
tests:
  - {request: 'GET http://h/old', with: {identity: asha, forward_auth: {x-tier: gold}}, expect: {upstream: app}}
  - {request: 'GET http://h/old', with: {forward_auth: {x-user: asha, x-tier: iron}}, expect: {status: 403}}
  - {request: 'GET http://h/old', with: {identity: asha}, expect: {status: 403}}
";

/// What is explained is what would be sent: without a key, and with what the other service says.
#[tokio::test(start_paused = true)]
async fn explain_goes_on_with_assumed_credentials_as_the_data_path_does() {
    let gateway = Inside::with_files(ASSUMED, &[("partners.yaml", PARTNERS)]);
    let asked = |request: &str, asked: Asked| {
        let headers = ["x-api-key: whatever", "x-user: mallory"].map(str::to_owned);
        let explained =
            gateway.explain_asked(&Asked { request: request.into(), headers: headers.into(), ..asked });
        assert_eq!(explained.verdict, Verdict::Sent, "{explained}");
        let headers = explained.forwarded.unwrap().headers.into_iter();
        headers.map(|field| (field.name, field.value)).collect::<Vec<_>>()
    };
    let has = |headers: &[(String, String)], name: &str, value: &str| {
        headers.contains(&(name.to_owned(), value.to_owned()))
    };
    let orders = asked("GET http://h/orders", Asked { api_key: Some("zomato".into()), ..Asked::default() });
    assert!(orders.iter().all(|(name, _)| name != "x-api-key"), "{orders:?}");
    let forward_auth = ["x-user: asha", "x-tier: gold"].map(str::to_owned).into();
    let old = asked("GET http://h/old", Asked { forward_auth, ..Asked::default() });
    assert!(has(&old, "x-user", "asha") && has(&old, "x-tier", "gold"), "{old:?}");
    assert!(!has(&old, "x-user", "mallory"), "{old:?}");
}

/// One could wait long for a token that is let in.
#[test]
fn algorithms_that_no_key_of_a_file_is_for_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("keys.json"), Issuer::new("one").jwks()).unwrap();
    let check = |algorithms: &str| {
        let yaml = format!(
            "
listeners: {{public: {{listen: ':1'}}}}
policies:
  ola: {{jwt: {{jwks_file: keys.json, audiences: [rides], algorithms: {algorithms}}}}}
routes: {{book: {{match: {{path: /book}}, use: [ola], respond: {{body: booked}}}}}}
"
        );
        let file = folder.path().join("gateway.yaml");
        std::fs::write(&file, yaml).unwrap();
        let naka = std::process::Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
        let output = { naka }.arg("check").arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    assert_eq!(check("[RS256, ES256]").0, Some(0), "one of them fits");
    let (code, said) = check("[RS256, EdDSA]");
    assert_eq!(code, Some(1), "{said}");
    for words in ["gateway.yaml:4:3", "the policy `ola`", "verify `ES256`", "only `RS256`, `EdDSA`"] {
        assert!(said.contains(words), "{words} is missing in\n{said}");
    }
}

const FETCHED: &str = "
listeners: {public: {listen: ':1'}}
policies:
  ola: {jwt: {jwks_url: 'http://localhost:9000/jwks?v=1', audiences: [rides], fetch: {min_interval: 10s, fresh: 10m}}}
routes:
  public: {match: {path: /public}, respond: {body: fine}}
  book: {match: {path: /book}, use: [ola], respond: {body: booked}}
";

/// Whoever publishes keys: those that are in the mutex, as long as it is up.
fn publisher(gateway: &Inside) -> (Upstream, Arc<Mutex<String>>, Arc<AtomicBool>) {
    let (keys, is_up) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicBool::new(true)));
    let (published, up) = (Arc::clone(&keys), Arc::clone(&is_up));
    let upstream = Upstream::inside(&gateway.network, "localhost:9000", move |_| {
        if up.load(SeqCst) { ok(&published.lock().unwrap()) } else { answer(500, "", "") }
    });
    (upstream, keys, is_up)
}

async fn later(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn r2_11_keys_are_fetched_kept_over_reloads_and_outages_and_changed() {
    let (one, two) = (Issuer::new("one"), Issuer::new("two"));
    let gateway = Inside::new(FETCHED);
    let book = |issuer: &Issuer| bearing("/book", &issuer.token(&claims("asha", "")));
    // Nobody publishes yet: what needs no key works, the rest waits for nothing.
    later(1).await;
    assert_eq!(said(&gateway.send(get("/public")).await), (200, ""));
    assert_eq!(said(&gateway.send(book(&one)).await), (503, "keys_unavailable"));
    let said_so = gateway.explain(
        "http://api.example/book",
        &[format!("authorization: Bearer {}", one.token(&claims("a", "")))],
    );
    assert!(matches!(&said_so.verdict, Verdict::Refused(_) | Verdict::Depends(_)), "{said_so}");

    let (publisher, keys, is_up) = publisher(&gateway);
    *keys.lock().unwrap() = one.jwks();
    later(30).await;
    assert_eq!(said(&gateway.send(book(&one)).await), (200, ""));
    assert_eq!(publisher.last().line, "GET /jwks?v=1 HTTP/1.1");
    let fetched = publisher.requests();

    // A hundred reloads, other rules among them: nobody fetches again.
    for turn in 0..100 {
        gateway.reload(&FETCHED.replace("[rides]", &format!("[rides, other-{turn}]"))).unwrap();
    }
    assert_eq!(said(&gateway.send(book(&one)).await), (200, ""));
    assert_eq!(publisher.requests(), fetched);

    // An outage: the last good keys count, and an unknown key is asked for once in an interval.
    is_up.store(false, SeqCst);
    *keys.lock().unwrap() = two.jwks();
    for _ in 0..360 {
        later(10).await;
        assert_eq!(said(&gateway.send(book(&one)).await), (200, ""));
    }
    let before = publisher.requests();
    later(60).await;
    for _ in 0..100 {
        assert_eq!(said(&gateway.send(book(&two)).await), (401, "unknown_kid"));
    }
    assert!(publisher.requests() - before <= 7, "{} fetches in a minute", publisher.requests() - before);
    is_up.store(true, SeqCst);
    later(11).await;
    assert_eq!(said(&gateway.send(book(&two)).await), (200, ""), "the first fetch after recovery");
    assert_eq!(said(&gateway.send(book(&one)).await), (401, "unknown_kid"), "it was taken away");
}

/// How keys are fetched is no part of which they are.
#[tokio::test(start_paused = true)]
async fn the_last_good_keys_count_when_fetching_is_changed_during_an_outage() {
    let (one, two) = (Issuer::new("one"), Issuer::new("two"));
    let gateway = Inside::new(FETCHED);
    let book = |issuer: &Issuer| bearing("/book", &issuer.token(&claims("asha", "")));
    let (publisher, keys, is_up) = publisher(&gateway);
    *keys.lock().unwrap() = one.jwks();
    later(30).await;
    assert_eq!(said(&gateway.send(book(&one)).await), (200, ""));

    is_up.store(false, SeqCst);
    *keys.lock().unwrap() = two.jwks();
    for changed in ["min_interval: 10s, timeout: 1s", "min_interval: 20s", "min_interval: 20s, max_stale: 2h"]
    {
        gateway.reload(&FETCHED.replace("min_interval: 10s", changed)).unwrap();
        assert_eq!(said(&gateway.send(book(&one)).await), (200, ""), "{changed}");
        later(60).await;
        assert_eq!(said(&gateway.send(book(&one)).await), (200, ""), "{changed}, and a minute later");
    }
    let before = publisher.requests();
    for turn in 0..100 {
        let changed = format!("min_interval: 20s, max_stale: {}m", 100 + turn);
        gateway.reload(&FETCHED.replace("min_interval: 10s", &changed)).unwrap();
        later(1).await;
    }
    let fetched = publisher.requests() - before;
    assert!(fetched <= 6, "{fetched} fetches in a hundred seconds");
    is_up.store(true, SeqCst);
    later(21).await;
    assert_eq!(said(&gateway.send(book(&two)).await), (200, ""), "the changed fetching goes on");
    assert_eq!(said(&gateway.send(book(&one)).await), (401, "unknown_kid"));
    later(100 * 60).await;
    is_up.store(false, SeqCst);
    gateway.reload(&FETCHED.replace("jwks?v=1", "jwks?v=2")).unwrap();
    later(1).await;
    assert_eq!(said(&gateway.send(book(&two)).await), (503, "keys_unavailable"), "another source");
}

const ASKED: &str = "
gateway: {identity_headers: {x-user-id: identity}}
listeners: {public: {listen: ':1'}}
policies:
  staff: {basic_auth: {file: htpasswd, realm: office}}
  legacy: {forward_auth: {url: 'http://auth:9000/check', copy_headers: [x-user, x-tier], subject: x-user, timeout: 200ms}}
upstreams: {app: {endpoints: ['app:1']}}
routes:
  office: {match: {path: /office}, use: [staff], upstream: app}
  old: {match: {path: /old}, use: [legacy], authorize: {claim: {x-tier: plus}}, upstream: app}
  public: {match: {path: /public}, upstream: app}
";

/// Of the password `open sesame`.
const HTPASSWD: &str = "# staff\nasha:$argon2id$v=19$m=4096,t=2,p=1$c2FsdHNhbHRzYWx0$SvL9pc27qyFeWF/hpm04a+T49mrW8eo1MaIDg0wGN6o\n";

#[tokio::test(start_paused = true)]
async fn r2_11_passwords_are_checked_off_the_path_and_remembered_over_reloads() {
    let gateway = Inside::with_files(ASKED, &[("htpasswd", HTPASSWD)]);
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    let basic = |encoded: &str| with("/office", "authorization", &format!("Basic {encoded}"));
    let right = || basic("YXNoYTpvcGVuIHNlc2FtZQ==");
    let refused = gateway.send(get("/office")).await;
    assert_eq!(said(&refused), (401, "credentials_missing"));
    assert_eq!(refused.headers()["www-authenticate"], "Basic realm=\"office\", charset=\"UTF-8\"");
    assert_eq!(said(&gateway.send(basic("YXNoYTp3cm9uZw==")).await), (401, "credentials_invalid"));
    assert_eq!(said(&gateway.send(right()).await), (200, ""));
    let seen = upstream.last();
    assert_eq!((seen.header("x-user-id"), seen.header("authorization")), (Some("asha"), None));
    let explained = || {
        gateway
            .explain("http://h/office", &["authorization: Basic YXNoYTpvcGVuIHNlc2FtZQ==".into()])
            .to_string()
    };
    assert!(explained().contains("right a while ago"), "{}", explained());
    gateway.reload(&format!("{ASKED}  more: {{match: {{path: /more}}, upstream: app}}\n")).unwrap();
    assert!(explained().contains("right a while ago"), "{}", explained());
    gateway.write("htpasswd", &HTPASSWD.replace("asha", "ravi"));
    gateway.reload(ASKED).unwrap();
    assert_eq!(said(&gateway.send(right()).await), (401, "credentials_invalid"), "taken away");
    gateway.write("htpasswd", "asha:$2y$10$abcdefghijklmnopqrstuu");
    let refused = gateway.reload(ASKED).unwrap_err();
    assert!(refused.contains("`staff`: line 1 of its file") && !refused.contains("abcdef"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn r2_12_whoever_decides_is_asked_and_only_what_it_says_reaches_the_upstream() {
    let gateway = Inside::with_files(ASKED, &[("htpasswd", HTPASSWD)]);
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    let spoofed = |target: &str, cookie: &str| {
        let mut request = with(target, "cookie", cookie);
        for (name, value) in [("x-user", "admin"), ("x_tier", "plus"), ("x-forwarded-for", "6.6.6.6")] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request
    };
    assert_eq!(
        said(&gateway.send(spoofed("/old", "asha")).await),
        (503, "auth_unavailable"),
        "nobody listens there"
    );
    let authority = Upstream::inside(&gateway.network, "auth:9000", |seen| match seen.header("cookie") {
        Some("asha") => answer(200, "x-user: asha\r\nx-tier: plus\r\n", ""),
        Some("ravi") => answer(200, "x-user: ravi\r\n", ""),
        Some("slow") => vec![naka_testkit::upstream::Step::Hang],
        _ => answer(302, "location: /login\r\n", "log in first"),
    });
    assert_eq!(said(&gateway.send(spoofed("/old", "asha")).await), (200, ""));
    let asked = authority.last();
    assert_eq!(asked.line, "GET /check HTTP/1.1");
    let told =
        ["host", "x-forwarded-for", "x-forwarded-method", "x-forwarded-uri", "x-forwarded-host", "x-user"];
    assert_eq!(
        told.map(|name| asked.header(name)),
        [Some("auth:9000"), Some("192.0.2.1"), Some("GET"), Some("/old"), Some("api.example"), None]
    );
    let seen = upstream.last();
    let told = ["x-user", "x-tier", "x_tier", "x-user-id"].map(|name| seen.header(name));
    assert_eq!(told, [Some("asha"), Some("plus"), None, Some("asha")]);
    assert_eq!(said(&gateway.send(spoofed("/old", "ravi")).await), (403, "forbidden"), "without that tier");
    let refused = gateway.send(spoofed("/old", "nobody")).await;
    assert_eq!(
        (said(&refused), &refused.headers()["location"]),
        ((302, "auth_refused"), &"/login".parse().unwrap())
    );
    assert_eq!(refused.body(), "log in first");
    assert_eq!(said(&gateway.send(spoofed("/old", "slow")).await), (503, "auth_unavailable"));
    assert_eq!(gateway.send(spoofed("/public", "asha")).await.status(), 200);
    let seen = upstream.last();
    assert_eq!(
        ["x-user", "x-tier", "x_tier"].map(|name| seen.header(name)),
        [None; 3],
        "on public routes, too"
    );
    assert_eq!(authority.connections(), 1, "connections are kept");
    let explained = gateway.explain("http://h/old", &[]);
    assert!(matches!(explained.verdict, Verdict::Depends(_)), "{explained}");
}

/// Over sockets: readiness waits for the first keys, a file of keys is watched, and no secret is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_waited_for_watched_and_never_shown() {
    let issuer = Arc::new(Issuer::new("k"));
    let is_up = Arc::new(AtomicBool::new(false));
    let (up, published) = (Arc::clone(&is_up), Arc::clone(&issuer));
    let publisher =
        Upstream::start(move |_| if up.load(SeqCst) { ok(&published.jwks()) } else { answer(503, "", "") })
            .await;
    let yaml = format!(
        "
gateway: {{admin: {{listen: ADMIN}}, workers: 2}}
listeners: {{public: {{listen: PUBLIC}}}}
policies:
  fetched: {{jwt: {{jwks_url: 'http://{}/keys?token=hunter2', audiences: [rides], fetch: {{min_interval: 1s}}}}}}
  file: {{jwt: {{jwks_file: keys.json, audiences: [rides]}}}}
  written: {{jwt: {{secret: '{SECRET}', audiences: [rides]}}}}
routes:
  a: {{match: {{path: /a}}, use: [fetched], respond: {{body: fetched}}}}
  b: {{match: {{path: /b}}, use: [file], respond: {{body: file}}}}
  c: {{match: {{path: /c}}, use: [written], respond: {{body: written}}}}
",
        publisher.address()
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("keys.json"), Issuer::new("other").jwks()).unwrap();
    let process = Process::spawn_in(folder, &yaml);
    process.until("the process is up, and waits for keys", async || matches!(process.get("/readyz").await, Some((503, text)) if text.contains("the answer is 503"))).await;
    process.says("keys cannot be fetched").await;
    let log = process.log();
    let line = log.lines().find(|line| line.contains("keys cannot be fetched")).unwrap();
    let url = format!("url=http://{}/keys ", publisher.address());
    for words in ["WARN", "policy=fetched", &url, "the answer is 503", "there are none"] {
        assert!(line.contains(words), "{words} is missing in {line}");
    }
    assert!(
        log.contains("waits for the keys of these policies before it is ready: fetched generation=1"),
        "{log}"
    );
    assert!(!log.contains("naka is ready"), "{log}");
    is_up.store(true, SeqCst);
    process.until("it is ready", async || matches!(process.get("/readyz").await, Some((200, _)))).await;
    process.says("naka is ready").await;
    process.says("keys are fetched again").await;
    let line = |path: &str, token: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        )
    };
    let signed = issuer.token(&claims("asha", ""));
    let status = async |path: &str, token: &str| {
        let answer = crate::process::raw(process.public, line(path, token).as_bytes()).await;
        String::from_utf8(answer).unwrap().split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    assert_eq!(status("/a", &signed).await, 200);
    assert_eq!(status("/b", &signed).await, 401);
    assert_eq!(status("/c", &token("asha", "")).await, 200);
    process.save("keys.json", &issuer.jwks());
    process.until("the file's new key counts", async || status("/b", &signed).await == 200).await;
    process.save("keys.json", "no keys at all");
    process.says("the policy `file`").await;
    assert_eq!(status("/b", &signed).await, 200, "what is wrong takes no effect");
    assert!(process.log().contains("a secret is written out"));
    for text in
        [process.log(), process.get("/config").await.unwrap().1, process.get("/policies").await.unwrap().1]
    {
        assert!(
            !text.contains(SECRET) && !text.contains("hunter2") && !text.contains("forty bytes"),
            "{text}"
        );
    }
}

/// Whoever certifies others.
fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Publishes keys over TLS, under a name that was certified: its port, and how often it was asked.
async fn publish(
    authority: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    keys: String,
) -> (u16, Arc<AtomicUsize>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    let length = keys.len();
    let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{keys}");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue }; // It was not believed.
            let mut head = [0; 4096];
            if stream.read(&mut head).await.is_ok_and(|got| got > 0) {
                count.fetch_add(1, SeqCst);
                let _ = stream.write_all(answer.as_bytes()).await; // It may be gone.
                let _ = stream.shutdown().await;
            }
        }
    });
    (port, asked)
}

/// Over sockets: a process believes a certificate only if it trusts who has made it and if it names the host.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_over_tls_only_from_whom_the_machine_trusts() {
    let issuer = Issuer::new("k");
    let (ours, other) = (authority("ours"), authority("other"));
    let (port, asked) = publish(&ours, "localhost", issuer.jwks()).await;
    let (elsewhere, never_asked) = publish(&ours, "elsewhere.example", issuer.jwks()).await;
    let spawn = |port: u16, trusted: Option<&CertifiedIssuer<'static, KeyPair>>| {
        let yaml = format!(
            "
gateway: {{admin: {{listen: ADMIN}}, workers: 1}}
listeners: {{public: {{listen: PUBLIC}}}}
policies:
  ola: {{jwt: {{jwks_url: 'https://localhost:{port}/keys', audiences: [rides], fetch: {{min_interval: 1s}}}}}}
routes:
  book: {{match: {{path: /book}}, use: [ola], respond: {{body: booked}}}}
"
        );
        let folder = tempfile::tempdir().unwrap();
        if let Some(trusted) = trusted {
            std::fs::write(folder.path().join("trusted.pem"), trusted.pem()).unwrap();
        }
        Process::spawn_trusting(trusted.map(|_| "trusted.pem"), folder, &yaml)
    };
    let refusing = [
        (spawn(port, Some(&other)), "invalid peer certificate: UnknownIssuer"),
        (spawn(port, None), "certificate"), // Or the machine trusts nobody, and it says that.
        (spawn(elsewhere, Some(&ours)), "certificate not valid for name"),
    ];
    for (process, why) in &refusing {
        let is_told = async || {
            let ready = process.get("/readyz").await;
            ready.is_some_and(|(status, text)| status == 503 && text.contains(why))
        };
        process.until(why, is_told).await;
    }
    assert_eq!((asked.load(SeqCst), never_asked.load(SeqCst)), (0, 0), "who is not believed is not asked");

    let process = spawn(port, Some(&ours));
    process.until("it is ready", async || matches!(process.get("/readyz").await, Some((200, _)))).await;
    let request = |token: &str| {
        format!("GET /book HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n")
    };
    for (signer, expected) in [(&issuer, "HTTP/1.1 200"), (&Issuer::new("k"), "HTTP/1.1 401")] {
        let request = request(&signer.token(&claims("asha", "")));
        let answer = crate::process::raw(process.public, request.as_bytes()).await;
        assert!(answer.starts_with(expected.as_bytes()), "{}", String::from_utf8_lossy(&answer));
    }
}
