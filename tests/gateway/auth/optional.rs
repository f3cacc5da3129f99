//! Routes that know who asks if they say so: `auth: optional`.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use naka_gateway::{ask::Asked, explain::Verdict};
use naka_testkit::{
    token::hs256,
    upstream::{Step, Upstream},
};

use super::{PARTNERS, SECRET, bearing, claims, said, token, with};
use crate::{
    inside::{Inside, get},
    process::Process,
};

const SHOP: &str = "
gateway: {identity_headers: {x-user-id: identity, x-user-tier: jwt.tier}}
listeners: {public: {listen: ':1'}}
policies:
  ola: {jwt: {secret: {file: secret}, issuer: ola, audiences: [rides]}}
  partners: {api_key: {file: partners.yaml}}
  staff: {basic_auth: {file: htpasswd}}
  searching: {rate_limit: {rate: 10/m, key: [client_ip], tiers: {by: jwt.tier, anonymous: 0.2x, premium: 5x}, fields: draft}}
  per-rider: {rate_limit: {rate: 3/m, key: [jwt.sub]}}
  pages: {cors: {origins: ['https://app.example'], methods: [GET, PUT], headers: [authorization]}}
upstreams: {app: {endpoints: ['app:1']}}
groups:
  shop:
    use: [ola]
    routes:
      search: {match: {path: /search}, auth: optional, use: [searching], upstream: app}
      looks: {match: {path: /looks}, auth: optional, use: [per-rider], upstream: app}
      either: {match: {path: /either}, auth: optional, use: [partners], upstream: app}
      notes: {match: {path: /notes}, auth: optional, use: [pages], authorize: {any: [{method: GET}, {role: editor}]}, upstream: app}
      shared-notes: {match: {path: /shared-notes}, auth: optional, use: [partners], authorize: {any: [{method: GET}, {role: editor}]}, upstream: app}
      home: {match: {path: /home}, auth: optional, cache: {default_ttl: 1m}, upstream: app}
      pay: {match: {path: /pay}, auth: optional, idempotency: {required: true}, upstream: app}
      demanded: {match: {path: /demanded}, upstream: app}
routes:
  desk: {match: {path: /desk}, auth: optional, use: [staff], upstream: app}
";

/// `asha:open sesame`.
const HTPASSWD: &str =
    "asha:$argon2id$v=19$m=4096,t=2,p=1$c2FsdHNhbHRzYWx0$SvL9pc27qyFeWF/hpm04a+T49mrW8eo1MaIDg0wGN6o\n";

/// The answer tells whose request the upstream takes it for.
fn shop() -> (Inside, Upstream) {
    let files = [("secret", SECRET), ("partners.yaml", PARTNERS), ("htpasswd", HTPASSWD)];
    let gateway = Inside::with_files(SHOP, &files);
    let upstream = Upstream::inside(&gateway.network, "app:1", |seen| {
        let who = seen.header("x-user-id").unwrap_or("nobody");
        let head = "HTTP/1.1 200 OK\r\ncache-control: public, max-age=60\r\ncontent-length";
        vec![Step::ReadBody, Step::send(format!("{head}: {}\r\n\r\n{who}", who.len()))]
    });
    (gateway, upstream)
}

fn by(method: Method, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    *request.method_mut() = method;
    request
}

/// Status and reason, and what is asked for.
fn asked_for(response: &Response<Bytes>) -> (u16, String, Vec<String>) {
    let (status, reason) = said(response);
    let all = response.headers().get_all("www-authenticate").iter();
    (status, reason.to_owned(), all.map(|one| one.to_str().unwrap().to_owned()).collect())
}

#[tokio::test(start_paused = true)]
async fn whoever_brings_nothing_is_nobody_and_whoever_brings_anything_is_verified() {
    let (gateway, upstream) = shop();
    let mut spoofed = with("/search", "x-user-id", "admin");
    spoofed.headers_mut().insert("x_user_tier", "premium".parse().unwrap());
    let answer = gateway.send(spoofed).await;
    assert_eq!((said(&answer), &**answer.body()), ((200, ""), &b"nobody"[..]));
    let seen = upstream.last();
    assert_eq!((seen.header("x-user-id"), seen.header("x_user_tier")), (None, None));
    let answer = gateway.send(bearing("/search", &token("asha", r#","tier":"premium""#))).await;
    assert_eq!((said(&answer), &**answer.body()), ((200, ""), &b"asha"[..]));
    assert_eq!(upstream.last().header("x-user-tier"), Some("premium"));

    let passed = upstream.requests();
    let expired = hs256(SECRET.as_bytes(), r#"{"sub":"asha","aud":"rides","iss":"ola","exp":1}"#);
    let mut twice = bearing("/search", &token("asha", ""));
    twice.headers_mut().append("authorization", "Bearer x".parse().unwrap());
    let wrong = [
        (bearing("/search", &expired), "token_expired"),
        (bearing("/search", &hs256(&[7; 40], &claims("asha", ""))), "signature_invalid"),
        (bearing("/search", "nonsense"), "credentials_malformed"),
        (with("/search", "authorization", ""), "credentials_malformed"),
        (with("/search", "authorization", "Basic YXNoYTpvcGVuIHNlc2FtZQ=="), "credentials_missing"),
        (twice, "credentials_malformed"),
    ];
    for (request, reason) in wrong {
        let answer = gateway.send(request).await;
        assert_eq!(said(&answer), (401, reason));
        assert!(answer.headers().contains_key("www-authenticate"), "{reason}");
    }
    assert_eq!(upstream.requests(), passed, "none of them reached the upstream");
    assert_eq!(said(&gateway.send(get("/demanded")).await), (401, "credentials_missing"));
    let admitted = "naka_policy_decisions_total{policy=\"ola\",outcome=\"admitted\"}";
    assert_eq!(gateway.metric(admitted), Some(1.0), "who passes as nobody was not verified");
    let rejected = "naka_policy_decisions_total{policy=\"ola\",outcome=\"rejected\"}";
    assert_eq!(gateway.metric(rejected), Some(7.0));
}

#[tokio::test(start_paused = true)]
async fn either_of_two_may_say_who_it_is_and_neither_may_be_wrong() {
    let (gateway, upstream) = shop();
    let token = |key: Option<&str>| {
        let mut request = bearing("/either", &token("asha", ""));
        let key = key.map(|key| (http::HeaderName::from_static("x-api-key"), key.parse().unwrap()));
        request.headers_mut().extend(key);
        request
    };
    let key = |key: &str| with("/either", "x-api-key", key);
    let good = "secret-key-of-zomato";
    for (request, who) in [
        (get("/either"), "nobody"),
        (token(None), "asha"),
        (key(good), "zomato"),
        (token(Some(good)), "asha"),
    ] {
        let answer = gateway.send(request).await;
        assert_eq!((said(&answer), &**answer.body()), ((200, ""), who.as_bytes()));
        assert_eq!(upstream.last().header("x-api-key"), None, "a key that is good stays here");
    }
    let mut bad_token = key(good);
    bad_token.headers_mut().insert("authorization", "Bearer nonsense".parse().unwrap());
    for (request, reason) in [
        (token(Some("guess")), "credentials_unknown"),
        (token(Some("old-key")), "credentials_expired"),
        (token(Some("")), "credentials_malformed"),
        (bad_token, "credentials_malformed"),
    ] {
        assert_eq!(said(&gateway.send(request).await), (401, reason));
    }
    assert_eq!(upstream.requests(), 4);
}

#[tokio::test]
async fn a_password_may_be_missing_and_never_wrong() {
    let (gateway, _upstream) = shop();
    let desk = |credentials: &str| with("/desk", "authorization", credentials);
    assert_eq!(&**gateway.send(get("/desk")).await.body(), b"nobody");
    assert_eq!(&**gateway.send(desk("Basic YXNoYTpvcGVuIHNlc2FtZQ==")).await.body(), b"asha");
    assert_eq!(said(&gateway.send(desk("Basic YXNoYTp3cm9uZw==")).await), (401, "credentials_invalid"));
    assert_eq!(said(&gateway.send(desk("Bearer x")).await), (401, "credentials_missing"));
}

#[tokio::test(start_paused = true)]
async fn tiers_are_of_those_who_are_known_and_anonymous_of_all_others() {
    let policy = async |request: Request<Full<Bytes>>| {
        let (gateway, _upstream) = shop();
        let answer = gateway.send(request).await;
        assert_eq!(answer.status(), 200);
        answer.headers()["ratelimit-policy"].to_str().unwrap().to_owned()
    };
    let search = |more: &str| bearing("/search", &token("asha", more));
    assert_eq!(policy(get("/search")).await, "\"searching\";q=2;w=60");
    assert_eq!(policy(search(r#","tier":"regular""#)).await, "\"searching\";q=10;w=60");
    assert_eq!(policy(search(r#","tier":"premium""#)).await, "\"searching\";q=50;w=60");
    let mut said_only = get("/search");
    said_only.headers_mut().insert("x-user-tier", "premium".parse().unwrap());
    assert_eq!(policy(said_only).await, "\"searching\";q=2;w=60", "nothing that is only sent counts");
    // All who are nobody share one account of a limit by subject, and nobody who is known is of them.
    let (gateway, _upstream) = shop();
    for _ in 0..3 {
        assert_eq!(said(&gateway.send(get("/looks")).await), (200, ""));
    }
    assert_eq!(said(&gateway.send(get("/looks")).await), (429, "rate_limited"));
    assert_eq!(said(&gateway.send(bearing("/looks", &token("asha", ""))).await), (200, ""));
}

#[tokio::test(start_paused = true)]
async fn rules_hold_and_whom_credentials_would_help_is_asked_for_them() {
    let (gateway, upstream) = shop();
    assert_eq!(said(&gateway.send(get("/notes")).await), (200, ""));
    let put = |target: &str| by(Method::PUT, get(target));
    let missing = |challenges: &[&str]| {
        let all = challenges.iter().map(ToString::to_string).collect();
        (401, "credentials_missing".to_owned(), all)
    };
    assert_eq!(asked_for(&gateway.send(put("/notes")).await), missing(&["Bearer"]));
    assert_eq!(asked_for(&gateway.send(put("/shared-notes")).await), missing(&["Bearer", "ApiKey"]));
    let known = by(Method::PUT, bearing("/notes", &token("asha", "")));
    assert_eq!(asked_for(&gateway.send(known).await), (403, "forbidden".into(), vec![]));
    let editor = by(Method::PUT, bearing("/notes", &token("asha", r#","roles":["editor"]"#)));
    assert_eq!(said(&gateway.send(editor).await), (200, ""));
    assert_eq!(upstream.requests(), 2);
    // A page asks before it sends a token, and without one.
    let mut preflight = by(Method::OPTIONS, with("/notes", "origin", "https://app.example"));
    preflight.headers_mut().insert("access-control-request-method", "PUT".parse().unwrap());
    preflight.headers_mut().insert("access-control-request-headers", "authorization".parse().unwrap());
    let answer = gateway.send(preflight).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["access-control-allow-origin"]),
        (204, &"https://app.example".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_and_somebody_share_nothing_that_is_kept() {
    let (gateway, upstream) = shop();
    let home = |who: Option<&str>| who.map_or_else(|| get("/home"), |who| bearing("/home", &token(who, "")));
    for who in [None, Some("asha"), None, Some("asha")] {
        let answer = gateway.send(home(who)).await;
        assert_eq!(&**answer.body(), who.unwrap_or("nobody").as_bytes());
    }
    assert_eq!(upstream.requests(), 2, "each was asked for once, and kept");
    let pay = |who: Option<&str>| {
        let mut request =
            by(Method::POST, who.map_or_else(|| get("/pay"), |who| bearing("/pay", &token(who, ""))));
        request.headers_mut().insert("idempotency-key", "one".parse().unwrap());
        request
    };
    for (who, is_replayed) in [(None, false), (Some("asha"), false), (None, true), (Some("asha"), true)] {
        let answer = gateway.send(pay(who)).await;
        assert_eq!(&**answer.body(), who.unwrap_or("nobody").as_bytes());
        assert_eq!(answer.headers().contains_key("idempotency-replayed"), is_replayed, "{who:?}");
    }
    assert_eq!(upstream.requests(), 4);
}

#[tokio::test(start_paused = true)]
async fn explain_and_tests_say_of_nobody_what_becomes_of_them() {
    let (gateway, _upstream) = shop();
    let asked = |request: &str, headers: &[&str]| {
        gateway.explain_asked(&Asked {
            request: format!("{request} http://api.example{}", "/notes"),
            headers: headers.iter().map(ToString::to_string).collect(),
            ..Asked::default()
        })
    };
    let nobody = asked("GET", &[]);
    assert_eq!(nobody.verdict, Verdict::Sent, "{nobody}");
    assert!(nobody.to_string().contains("nobody: no token was sent"), "{nobody}");
    let writes = asked("PUT", &[]).to_string();
    assert!(writes.contains("401 credentials_missing") && writes.contains("by notes/authorize"), "{writes}");
    assert!(asked("GET", &["authorization: Bearer x"]).to_string().contains("401 credentials_malformed"));
    let tests = "
tests:
  - {request: 'GET http://h/search', with: {}, expect: {route: search, upstream: app}}
  - {request: 'GET http://h/search', with: {jwt: {sub: asha}}, expect: {route: search, upstream: app}}
  - {request: 'GET http://h/search', with: {headers: {authorization: 'Bearer x'}}, expect: {status: 401}}
  - {request: 'PUT http://h/notes', expect: {status: 401}}
";
    gateway.reload(&format!("{SHOP}{tests}")).unwrap();
    let refused =
        gateway.reload(&format!("{}{tests}", SHOP.replacen("auth: optional, ", "", 1))).unwrap_err();
    assert!(refused.contains("401 credentials_missing"), "{refused}");
}

/// Through reloads it is one policy: what is demanded becomes optional and is demanded again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_asks_less_of_who_comes_says_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("partners.yaml"), PARTNERS).unwrap();
    let text = |of_shop: &str, body: &str| {
        format!(
            "gateway: {{admin: {{listen: ADMIN}}, workers: 1, reload: {{debounce: 10ms}}}}
listeners: {{web: {{listen: PUBLIC}}}}
policies: {{partners: {{api_key: {{file: partners.yaml}}}}}}
groups:
  all:
    use: [partners]
    routes:
      shop: {{match: {{path: /shop}}, {of_shop}respond: {{body: {body}}}}}
      version: {{match: {{path: /version}}, auth: none, respond: {{body: {body}}}}}
      desk: {{match: {{path: /desk}}, respond: {{body: desk}}}}
"
        )
    };
    let process = Process::start_in(folder, &text("", "one")).await;
    assert_eq!(process.public("GET /shop").await.0, 401);
    let log = || process.log();
    let optional = "whoever brings no credentials passes from now on, on `shop`";
    process.save("gateway.yaml", &text("auth: optional, ", "two"));
    process.answers("/version", "two").await;
    assert_eq!(process.public("GET /shop").await, (200, "two".to_owned()));
    assert!(log().contains(optional), "{}", log());
    let routes = process.json("/routes").await;
    let auth = |name: &str| (routes[name]["auth"].clone(), routes[name]["public"].clone());
    assert_eq!(auth("shop"), ("optional".into(), false.into()));
    assert_eq!(auth("version"), ("none".into(), true.into()));
    assert_eq!(auth("desk"), ("required".into(), false.into()));
    let stats = process.json("/stats").await;
    let shown = stats["routes"]["shown"].as_array().unwrap();
    assert!(shown.iter().any(|it| it["route"] == "shop" && it["auth"] == "optional"), "{stats}");

    process.save("gateway.yaml", &text("", "three"));
    process.answers("/version", "three").await;
    assert_eq!(process.public("GET /shop").await.0, 401);
    assert_eq!(log().matches(optional).count(), 1, "asking more is no warning: {}", log());
    process.save("gateway.yaml", &text("auth: none, ", "four"));
    process.answers("/version", "four").await;
    assert!(log().contains("nobody is asked any more who it is, on `shop`"), "{}", log());
    assert_eq!(log().matches("on `desk`").count(), 0, "{}", log());
}

/// As a shell sees it: what was demanded, and is optional in the next file.
#[test]
fn diff_and_replay_say_what_becomes_of_nobody() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("partners.yaml"), PARTNERS).unwrap();
    let text = |auth: &str| {
        format!(
            "
gateway: {{admin: none}}
listeners: {{public: {{listen: ':8080', use: [partners]}}}}
policies: {{partners: {{api_key: {{file: partners.yaml}}}}}}
routes: {{shop: {{match: {{path: /shop}}, {auth}respond: {{body: shop}}}}}}
"
        )
    };
    let log = r#"{"host": "h", "path": "/shop"}
{"host": "h", "path": "/shop", "api_key": "zomato"}
{"host": "h", "path": "/shop", "headers": {"x-api-key": "guess"}}
"#;
    for (name, text) in
        [("gateway.yaml", text("")), ("next.yaml", text("auth: optional, ")), ("log.jsonl", log.to_owned())]
    {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let naka = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
        let output = command.current_dir(folder.path()).args(args).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let said = naka(&["diff", "gateway.yaml", "next.yaml"]);
    assert!(said.contains("shop.auth: not said → optional  next.yaml:5:"), "{said}");
    let said = naka(&["replay", "--log", "log.jsonl", "--against", "next.yaml", "--format", "json"]);
    let json = serde_json::from_str::<serde_json::Value>(&said).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!((&json["requests"], &json["different"]), (&3.into(), &1.into()), "{said}");
    assert!(said.contains("401 credentials_missing by partners"), "{said}");
}
