//! Tokens: what is let pass, what is refused and with which word, and how keys stay fresh.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Request, Response, request::Parts};
use jsonwebtoken::{Algorithm as Signs, EncodingKey, crypto::sign};
use naka::{
    clock::{Now, WallClock},
    explain::{Explain, Finding},
    identity::{Challenges, Identity},
    jwt::{Clock, FetchConfig, Fetched, JwtConfig, JwtLayer, KeySet, Keys, KeysError},
    reject::Rejection,
};
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceExt, service_fn};

const START_S: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

/// Somebody who signs.
struct Signer {
    kid: &'static str,
    alg: Signs,
    key: EncodingKey,
    jwk: Value,
}

impl Signer {
    fn ec(kid: &'static str, curve: &'static EcdsaSigningAlgorithm, crv: &str, alg: Signs) -> Self {
        let pair = EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new()).unwrap();
        let public = EcdsaKeyPair::from_pkcs8(curve, pair.as_ref()).unwrap();
        let public = public.public_key().as_ref()[1..].to_vec();
        let (x, y) = public.split_at(public.len() / 2);
        let jwk = json!({"kty": "EC", "crv": crv, "kid": kid, "x": encode(x), "y": encode(y)});
        Self { kid, alg, key: EncodingKey::from_ec_der(pair.as_ref()), jwk }
    }

    fn es256(kid: &'static str) -> Self {
        Self::ec(kid, &ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", Signs::ES256)
    }

    fn es384(kid: &'static str) -> Self {
        Self::ec(kid, &ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", Signs::ES384)
    }

    fn ed(kid: &'static str) -> Self {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let public = Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap();
        let x = encode(public.public_key().as_ref());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x, "use": "sig", "alg": "EdDSA"});
        Self { kid, alg: Signs::EdDSA, key: EncodingKey::from_ed_der(pair.as_ref()), jwk }
    }

    fn hmac(kid: &'static str, secret: &[u8]) -> Self {
        let jwk = json!({"kty": "oct", "kid": kid, "k": encode(secret)});
        Self { kid, alg: Signs::HS256, key: EncodingKey::from_secret(secret), jwk }
    }

    fn header(&self) -> Value {
        json!({"alg": format!("{:?}", self.alg), "kid": self.kid})
    }

    fn token(&self, claims: &Value) -> String {
        self.raw(&self.header().to_string(), &claims.to_string())
    }

    /// Signs whatever it is.
    fn raw(&self, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()));
        let signature = sign(message.as_bytes(), &self.key, self.alg).unwrap();
        format!("{message}.{signature}")
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn set(signers: &[&Signer]) -> Value {
    json!({"keys": signers.iter().map(|signer| signer.jwk.clone()).collect::<Vec<_>>()})
}

fn fixed(signers: &[&Signer]) -> Keys {
    Keys::fixed(KeySet::from_jwks(set(signers).to_string().as_bytes()).unwrap())
}

fn config() -> JwtConfig {
    let mut config = JwtConfig::new().issuer("https://id.ola.example").audience("rides");
    config.clock = Clock(WallClock::starting_at(START_S));
    config
}

fn claims() -> Value {
    json!({
        "iss": "https://id.ola.example", "aud": ["shop", "rides"], "sub": "asha", "exp": START_S + 600,
        "nbf": START_S - 10, "scope": "rides.read rides.book", "roles": ["rider"], "tier": "gold",
        "realm_access": {"roles": ["a", "b"]}, "age": 34,
    })
}

/// The claims with these put in the place of others; `null` takes one away.
fn but(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => _ = claims.as_object_mut().unwrap().remove(name),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

fn request(authorization: &[&str]) -> Request<()> {
    let request = Request::builder();
    authorization
        .iter()
        .fold(request, |request, line| request.header("authorization", *line))
        .body(())
        .unwrap()
}

fn bearer(token: &str) -> Request<()> {
    request(&[&format!("Bearer {token}")])
}

/// Who is behind: the subject is the answer, or what somebody who is not known could say.
async fn whoami(request: Request<()>) -> Result<Response<String>, Infallible> {
    let challenges = Challenges::of(request.extensions());
    let Some(who) = Identity::of(request.extensions()) else {
        let challenge =
            challenges.expect("who is not known is told how to be").headers()["www-authenticate"].clone();
        return Ok(Response::new(format!("nobody: {}", challenge.to_str().unwrap())));
    };
    assert_eq!(challenges, None, "who is known needs none");
    Ok(Response::new(who.subject.as_deref().unwrap_or_default().to_owned()))
}

/// The word of the refusal, or whose request it was. What `explain` says is what is done.
async fn ask(layer: &JwtLayer, request: Request<()>) -> Result<String, &'static str> {
    let (mut parts, ()) = request.into_parts();
    let said = explain(layer, &parts);
    parts.extensions.clear();
    let response = layer.layer(service_fn(whoami)).oneshot(Request::from_parts(parts, ())).await.unwrap();
    let refusal = response.extensions().get::<Rejection>().cloned();
    match (&said, &refusal) {
        (Finding::Admit(_), None) | (Finding::WouldAsk(_), _) => {}
        (Finding::Reject(said), Some(refusal)) => assert_eq!(said, refusal),
        other => panic!("explain and call disagree: {other:?}"),
    }
    let Some(refusal) = refusal else { return Ok(response.into_body()) };
    assert_eq!(response.status(), refusal.reason.status());
    assert_eq!(response.status() == 401, response.headers().contains_key("www-authenticate"));
    Err(refusal.reason.word())
}

fn explain(layer: &JwtLayer, parts: &Parts) -> Finding {
    layer.explain(Now::read(), &mut parts.clone())
}

#[tokio::test(start_paused = true)]
async fn r2_11_each_algorithm_is_verified_by_a_key_of_its_kind() {
    let (p256, p384, ed) = (Signer::es256("p256"), Signer::es384("p384"), Signer::ed("ed"));
    let layer = JwtLayer::new(config(), fixed(&[&p256, &p384, &ed]));
    for signer in [&p256, &p384, &ed] {
        assert_eq!(ask(&layer, bearer(&signer.token(&claims()))).await, Ok("asha".into()), "{}", signer.kid);
    }
    let hmac = Signer::hmac("shared", SECRET);
    let keys = Keys::fixed(KeySet::from_secret(Some("shared"), SECRET).unwrap());
    let layer = JwtLayer::new(config(), keys);
    assert_eq!(ask(&layer, bearer(&hmac.token(&claims()))).await, Ok("asha".into()));
    assert_eq!(ask(&layer, bearer(&p256.token(&claims()))).await, Err("unknown_kid"));
}

#[tokio::test(start_paused = true)]
async fn r2_11_what_the_token_says_becomes_the_identity() {
    let signer = Signer::es256("k");
    let mut config = config();
    config.role_claim = "realm_access.roles".into();
    let layer = JwtLayer::new(config, fixed(&[&signer]));
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let who = Identity::of(request.extensions()).unwrap();
        assert_eq!(who.scopes.iter().map(|it| &**it).collect::<Vec<_>>(), ["rides.read", "rides.book"]);
        assert_eq!(who.roles.iter().map(|it| &**it).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(who.claims["tier"].as_text(), Some("gold"));
        assert!(!format!("{who:?}").contains("gold"), "claims may be personal");
        Ok::<_, Infallible>(Response::new(String::new()))
    }));
    assert_eq!(service.oneshot(bearer(&signer.token(&claims()))).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn r2_11_attacks_on_the_header_are_refused_each_with_its_word() {
    let (signer, stranger) = (Signer::es256("k"), Signer::es256("k"));
    let layer = JwtLayer::new(config(), fixed(&[&signer, &Signer::ed("other")]));
    let good = claims().to_string();
    let header = |changes: Value| {
        let mut header = signer.header();
        for (name, value) in changes.as_object().unwrap() {
            header[name] = value.clone();
        }
        header.to_string()
    };
    let unsigned = |alg: &str, signature: &str| {
        format!("{}.{}.{signature}", encode(header(json!({"alg": alg})).as_bytes()), encode(good.as_bytes()))
    };
    // The public key as the secret of an HMAC: the oldest confusion of all.
    let public = URL_SAFE_NO_PAD.decode(signer.jwk["x"].as_str().unwrap()).unwrap();
    let confused = Signer::hmac("k", &public);
    let table = [
        ("none", unsigned("none", ""), "credentials_malformed"),
        ("none, with something for a signature", unsigned("none", "AAAA"), "algorithm_refused"),
        ("None", unsigned("None", "AAAA"), "algorithm_refused"),
        ("HMAC by the public key", confused.token(&claims()), "algorithm_refused"),
        (
            "another algorithm of the family",
            signer.raw(&header(json!({"alg": "ES384"})), &good),
            "algorithm_refused",
        ),
        (
            "one that is not verified here",
            signer.raw(&header(json!({"alg": "ES512"})), &good),
            "algorithm_refused",
        ),
        ("another spelling", signer.raw(&header(json!({"alg": "es256"})), &good), "algorithm_refused"),
        ("another key of the same name", stranger.token(&claims()), "signature_invalid"),
        ("a key of another kind", signer.raw(&header(json!({"kid": "other"})), &good), "algorithm_refused"),
        ("an unknown key", signer.raw(&header(json!({"kid": "no"})), &good), "unknown_kid"),
        ("a kid that is a path", signer.raw(&header(json!({"kid": "../../dev/null"})), &good), "unknown_kid"),
        (
            "a key of its own",
            stranger.raw(&header(json!({"kid": "no", "jwk": stranger.jwk})), &good),
            "unknown_kid",
        ),
        (
            "a key of its own, known name",
            stranger.raw(&header(json!({"jwk": stranger.jwk})), &good),
            "signature_invalid",
        ),
        (
            "a place to get it",
            stranger.raw(&header(json!({"jku": "https://evil.example/jwks"})), &good),
            "signature_invalid",
        ),
        ("crit", signer.raw(&header(json!({"crit": ["exp"], "exp": 1})), &good), "critical_unknown"),
        ("crit, empty", signer.raw(&header(json!({"crit": []})), &good), "critical_unknown"),
        ("crit, null", signer.raw(&header(json!({"crit": null})), &good), "critical_unknown"),
        ("b64", signer.raw(&header(json!({"b64": false, "crit": ["b64"]})), &good), "critical_unknown"),
        (
            "alg twice",
            signer.raw(r#"{"alg":"none","alg":"ES256","kid":"k"}"#, &good),
            "credentials_malformed",
        ),
        ("a list", signer.raw(r#"["ES256","k",null]"#, &good), "credentials_malformed"),
        ("no alg", signer.raw(r#"{"kid":"k"}"#, &good), "credentials_malformed"),
        ("kid is a number", signer.raw(r#"{"alg":"ES256","kid":7}"#, &good), "credentials_malformed"),
        ("two parts", "e30.e30".into(), "credentials_malformed"),
        ("four parts", signer.token(&claims()) + ".e30", "credentials_malformed"),
        ("padding", signer.token(&claims()) + "=", "signature_invalid"),
        ("a space", signer.token(&claims()).replace('.', " ."), "credentials_malformed"),
        ("nothing", String::new(), "credentials_malformed"),
    ];
    for (what, token, word) in table {
        assert_eq!(ask(&layer, bearer(&token)).await, Err(word), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_11_attacks_on_the_claims_are_refused_each_with_its_word() {
    let signer = Signer::es256("k");
    let layer = JwtLayer::new(config(), fixed(&[&signer]));
    let (exp, nbf) = (|at: u64| json!({"exp": at}), |at: u64| json!({"nbf": at}));
    let table = [
        (json!({"iss": null}), Err("claim_missing")),
        (json!({"iss": "https://id.ola.example.evil"}), Err("issuer_refused")),
        (json!({"iss": ["https://id.ola.example"]}), Err("credentials_malformed")),
        (json!({"aud": null}), Err("claim_missing")),
        (json!({"aud": "shop"}), Err("audience_refused")),
        (json!({"aud": []}), Err("audience_refused")),
        (json!({"aud": ["rides", 7]}), Err("credentials_malformed")),
        (json!({"aud": "rides"}), Ok("asha".to_owned())),
        (json!({"sub": 7}), Err("credentials_malformed")),
        (json!({"sub": null}), Ok(String::new())),
        (json!({"exp": null}), Err("claim_missing")),
        (json!({"exp": "2100"}), Err("credentials_malformed")),
        (json!({"exp": -1}), Err("credentials_malformed")),
        (json!({"exp": 1e300}), Err("credentials_malformed")),
        (json!({"exp": 1_800_000_000.5}), Ok("asha".to_owned())),
        (exp(START_S - 60), Err("token_expired")),
        (exp(START_S - 59), Ok("asha".to_owned())),
        (nbf(START_S + 61), Err("token_not_yet_valid")),
        (nbf(START_S + 60), Ok("asha".to_owned())),
        (json!({"nbf": "soon"}), Err("credentials_malformed")),
        (json!({"iat": true}), Err("credentials_malformed")),
    ];
    for (changes, expected) in table {
        assert_eq!(ask(&layer, bearer(&signer.token(&but(&changes)))).await, expected, "{changes}");
    }
    let twice = claims().to_string().replace(r#""sub":"asha""#, r#""sub":"asha","sub":"root""#);
    let payloads = [(twice.as_str(), "twice"), ("[]", "a list"), ("no JSON", "text"), ("", "nothing")];
    for (payload, what) in payloads {
        let token = signer.raw(&signer.header().to_string(), payload);
        assert_eq!(ask(&layer, bearer(&token)).await, Err("credentials_malformed"), "{what}");
    }
    // Whoever names audiences means somebody, and without a name of our own that is not us.
    let mut anybody = config();
    anybody.audiences.clear();
    let layer = layer.reconfigured(&anybody);
    assert_eq!(ask(&layer, bearer(&signer.token(&claims()))).await, Err("audience_refused"));
    assert_eq!(ask(&layer, bearer(&signer.token(&but(&json!({"aud": null}))))).await, Ok("asha".into()));
}

#[tokio::test(start_paused = true)]
async fn r2_11_a_request_has_one_token_of_bounded_size() {
    let signer = Signer::es256("k");
    let layer = JwtLayer::new(config(), fixed(&[&signer]));
    let token = signer.token(&claims());
    let large = signer.token(&but(&json!({"pad": "x".repeat(7000)})));
    assert!(large.len() > 8192);
    let (good, lower) = (format!("Bearer {token}"), format!("bearer {token}"));
    let table: [(&[&str], Result<&str, &str>); 7] = [
        (&[], Err("credentials_missing")),
        (&["Basic YTpi"], Err("credentials_missing")),
        (&["Bearer"], Err("credentials_malformed")),
        (&[&token], Err("credentials_malformed")),
        (&[&good, &good], Err("credentials_malformed")),
        (&[&good], Ok("asha")),
        (&[&lower], Ok("asha")),
    ];
    for (lines, expected) in table {
        assert_eq!(ask(&layer, request(lines)).await, expected.map(str::to_owned), "{lines:?}");
    }
    assert_eq!(ask(&layer, bearer(&large)).await, Err("token_too_large"));
}

#[tokio::test(start_paused = true)]
async fn r2_11_a_type_that_is_asked_for_has_to_be_there() {
    let signer = Signer::es256("k");
    let mut config = config();
    config.token_type = Some("at+jwt".into());
    let layer = JwtLayer::new(config, fixed(&[&signer]));
    for (typ, expected) in [
        (json!("at+jwt"), Ok("asha".to_owned())),
        (json!("application/AT+JWT"), Ok("asha".to_owned())),
        (json!("JWT"), Err("type_refused")),
        (Value::Null, Err("type_refused")),
    ] {
        let mut header = signer.header();
        header["typ"] = typ;
        let token = signer.raw(&header.to_string(), &claims().to_string());
        assert_eq!(ask(&layer, bearer(&token)).await, expected, "{header}");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_11_keys_that_are_weak_or_for_something_else_are_not_used() {
    let (good, other) = (Signer::es256("good"), Signer::es256("good"));
    let with = |signer: &Signer, name: &str, value: Value| {
        let mut jwk = signer.jwk.clone();
        jwk["kid"] = "bad".into();
        jwk[name] = value;
        jwk
    };
    let rsa =
        |bytes: usize, e: &str| json!({"kty": "RSA", "kid": "bad", "n": encode(&vec![0xff; bytes]), "e": e});
    let bad = [
        with(&good, "use", json!("enc")),
        with(&good, "key_ops", json!(["encrypt"])),
        with(&good, "alg", json!("ECDH-ES")),
        with(&good, "alg", json!("ES384")),
        with(&good, "crv", json!("secp256k1")),
        with(&good, "x", json!("AAAA")),
        with(&Signer::hmac("bad", SECRET), "use", json!("sig")),
        rsa(128, "AQAB"),
        rsa(255, "AQAB"),
        rsa(1025, "AQAB"),
        rsa(256, "AQ"),
        rsa(256, "Ag"),
        json!({"kty": "OKP", "crv": "X25519", "kid": "bad", "x": encode(&[1; 32])}),
        json!({"kty": "AKP", "kid": "bad"}),
        json!("no object"),
        other.jwk.clone(),
    ];
    for jwk in bad {
        let keys = json!({"keys": [good.jwk, jwk]}).to_string();
        let keys = KeySet::from_jwks(keys.as_bytes()).unwrap();
        assert_eq!((keys.len(), keys.skipped().len()), (1, 1), "{jwk}");
        let alone = KeySet::from_jwks(json!({"keys": [jwk]}).to_string().as_bytes());
        assert_eq!(alone.is_err(), jwk["kid"] != "good", "{jwk}");
    }
    // A token that is signed by the published secret, or by the key for encryption.
    let secret = Signer::hmac("secret", SECRET);
    let mut enc = Signer::es256("enc");
    enc.jwk["use"] = "enc".into();
    let layer = JwtLayer::new(config(), fixed(&[&good, &secret, &enc]));
    for signer in [&secret, &enc] {
        assert_eq!(ask(&layer, bearer(&signer.token(&claims()))).await, Err("unknown_kid"));
    }
    assert!(matches!(KeySet::from_jwks(b"[]"), Err(KeysError::NotASet)));
    assert!(matches!(KeySet::from_jwks(&vec![b' '; 300 << 10]), Err(KeysError::TooLarge)));
    assert!(matches!(KeySet::from_secret(None, b"short"), Err(KeysError::SecretTooShort)));
}

/// Publishes what the test says, and counts who asks.
#[derive(Clone, Default)]
struct Publisher {
    asked: Arc<AtomicU64>,
    answers: Arc<Mutex<Option<Value>>>,
    times: Arc<Mutex<VecDeque<tokio::time::Instant>>>,
}

impl Publisher {
    fn publish(&self, set: Option<Value>) {
        *self.answers.lock().unwrap() = set;
    }
}

impl Service<()> for Publisher {
    type Response = Fetched;
    type Error = naka::BoxError;
    type Future = Ready<Result<Fetched, naka::BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        self.asked.fetch_add(1, SeqCst);
        self.times.lock().unwrap().push_back(tokio::time::Instant::now());
        let answer = self.answers.lock().unwrap().clone();
        ready(match answer {
            Some(set) => Ok(Fetched { body: set.to_string().into(), max_age: None }),
            None => Err("it is down".into()),
        })
    }
}

fn fetched(publisher: &Publisher) -> (JwtLayer, Keys) {
    let (keys, driver) = Keys::fetched(publisher.clone(), FetchConfig::default());
    tokio::spawn(driver.run());
    (JwtLayer::new(config(), keys.clone()), keys)
}

fn forever() -> Value {
    but(&json!({"exp": START_S + 1_000_000}))
}

#[tokio::test(start_paused = true)]
async fn r2_11_an_hour_without_the_publisher_refuses_no_known_key() {
    let (old, new) = (Signer::es256("old"), Signer::es256("new"));
    let publisher = Publisher::default();
    publisher.publish(Some(set(&[&old])));
    let (layer, keys) = fetched(&publisher);
    assert_eq!(ask(&layer, bearer(&old.token(&forever()))).await, Ok("asha".into()));
    publisher.publish(None);
    for minute in 0..60 {
        tokio::time::sleep(Duration::from_mins(1)).await;
        let fresh = but(&json!({"exp": START_S + 1_000_000, "jti": minute}));
        assert_eq!(ask(&layer, bearer(&old.token(&fresh))).await, Ok("asha".into()), "minute {minute}");
        assert_eq!(ask(&layer, bearer(&new.token(&fresh))).await, Err("unknown_kid"), "minute {minute}");
    }
    assert!(keys.is_ready(Now::read()) && keys.last_error().is_some_and(|why| why.contains("down")));
    publisher.publish(Some(set(&[&old, &new])));
    let asked = publisher.asked.load(SeqCst);
    while publisher.asked.load(SeqCst) == asked {
        let _ = ask(&layer, bearer(&new.token(&forever()))).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(ask(&layer, bearer(&new.token(&forever()))).await, Ok("asha".into()), "at the first fetch");
    assert_eq!(keys.last_error(), None);
}

#[tokio::test(start_paused = true)]
async fn r2_11_ten_thousand_unknown_keys_are_one_fetch_an_interval() {
    let (known, stranger) = (Signer::es256("known"), Signer::es256("x"));
    let publisher = Publisher::default();
    publisher.publish(Some(set(&[&known])));
    let (layer, _) = fetched(&publisher);
    assert_eq!(ask(&layer, bearer(&known.token(&forever()))).await, Ok("asha".into()));
    let began = tokio::time::Instant::now();
    let mut tasks = Vec::new();
    for number in 0..10_000_u64 {
        let mut header = stranger.header();
        header["kid"] = format!("unknown-{number}").into();
        let token = stranger.raw(&header.to_string(), "{}");
        let layer = layer.clone();
        tasks.push(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(number * 10)).await;
            ask(&layer, bearer(&token)).await
        }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), Err("unknown_kid"));
    }
    let times = publisher.times.lock().unwrap().iter().copied().collect::<Vec<_>>();
    assert!(times.windows(2).all(|two| two[1] - two[0] >= Duration::from_secs(10)), "{times:?}");
    let intervals = began.elapsed().as_secs() / 10 + 2;
    assert!(
        (5..=intervals).contains(&(times.len() as u64)),
        "{} fetches in {intervals} intervals",
        times.len()
    );
}

/// Many who wait for the first keys share one fetch, and none waits for ever.
#[tokio::test(start_paused = true)]
async fn r2_11_without_any_keys_it_is_503_and_once_they_come_all_pass() {
    let signer = Signer::es256("k");
    let publisher = Publisher::default();
    let (keys, driver) = Keys::fetched(publisher.clone(), FetchConfig::default());
    let layer = JwtLayer::new(config(), keys.clone());
    assert_eq!(ask(&layer, bearer(&signer.token(&claims()))).await, Err("keys_unavailable"), "nobody drives");
    assert!(!keys.is_ready(Now::read()));
    publisher.publish(Some(set(&[&signer])));
    let waiting = (0..100).map(|_| {
        let (layer, token) = (layer.clone(), signer.token(&claims()));
        tokio::spawn(async move { ask(&layer, bearer(&token)).await })
    });
    let waiting = waiting.collect::<Vec<_>>();
    tokio::task::yield_now().await;
    tokio::spawn(driver.run());
    for one in waiting {
        assert_eq!(one.await.unwrap(), Ok("asha".into()));
    }
    assert_eq!(publisher.asked.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn r2_11_a_withdrawn_key_and_an_expired_token_count_no_more_though_remembered() {
    let (first, second) = (Signer::es256("first"), Signer::es256("second"));
    let publisher = Publisher::default();
    publisher.publish(Some(set(&[&first, &second])));
    let (layer, _) = fetched(&publisher);
    let (lasting, short) = (first.token(&forever()), second.token(&claims()));
    for token in [&lasting, &short, &lasting, &short] {
        assert_eq!(ask(&layer, bearer(token)).await, Ok("asha".into()));
    }
    publisher.publish(Some(set(&[&second])));
    tokio::time::sleep(Duration::from_mins(9)).await;
    assert_eq!(ask(&layer, bearer(&lasting)).await, Err("unknown_kid"), "its key was withdrawn");
    assert_eq!(ask(&layer, bearer(&short)).await, Ok("asha".into()));
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(ask(&layer, bearer(&short)).await, Err("token_expired"));
    // Other rules: what was let pass under the old ones is looked at again.
    let mut other = config();
    other.audiences = vec!["admin".into()];
    let good = second.token(&forever());
    assert_eq!(ask(&layer, bearer(&good)).await, Ok("asha".into()));
    assert_eq!(ask(&layer.reconfigured(&other), bearer(&good)).await, Err("audience_refused"));
}

#[tokio::test(start_paused = true)]
async fn r2_11_after_a_day_without_a_good_answer_old_keys_count_no_more() {
    let signer = Signer::es256("k");
    let publisher = Publisher::default();
    publisher.publish(Some(set(&[&signer])));
    let (layer, keys) = fetched(&publisher);
    assert_eq!(ask(&layer, bearer(&signer.token(&forever()))).await, Ok("asha".into()));
    publisher.publish(None);
    tokio::time::sleep(Duration::from_hours(23)).await;
    assert_eq!(ask(&layer, bearer(&signer.token(&forever()))).await, Ok("asha".into()));
    tokio::time::sleep(Duration::from_hours(2)).await;
    assert_eq!(ask(&layer, bearer(&signer.token(&forever()))).await, Err("keys_unavailable"));
    assert!(!keys.is_ready(Now::read()));
}

/// Two layers over the same keys have rules of their own, and what one has let pass is nothing to the other.
#[tokio::test(start_paused = true)]
async fn r2_11_what_one_layer_remembers_is_not_believed_by_another_of_other_rules() {
    let signer = Signer::es256("k");
    let keys = fixed(&[&signer]);
    let mut admin = config();
    admin.audiences = vec!["admin".into()];
    let rides = JwtLayer::new(config(), keys.clone());
    let token = signer.token(&claims());
    assert_eq!(ask(&rides, bearer(&token)).await, Ok("asha".into()));
    assert_eq!(ask(&JwtLayer::new(admin.clone(), keys), bearer(&token)).await, Err("audience_refused"));
    // Two that were made of one.
    let (mut other, base) = (config(), JwtLayer::new(admin.clone(), fixed(&[&signer])));
    other.audiences = vec!["shop".into()];
    admin.audiences = vec!["nobody".into()];
    let (first, second) = (base.reconfigured(&other), base.reconfigured(&admin));
    assert_eq!(ask(&first, bearer(&token)).await, Ok("asha".into()));
    assert_eq!(ask(&second, bearer(&token)).await, Err("audience_refused"));
}

/// Whoever brings nothing at all is nobody; whoever brings anything is looked at as ever, and what is remembered is shared.
#[tokio::test(start_paused = true)]
async fn r2_11_an_optional_token_may_be_missing_and_never_wrong() {
    let signer = Signer::es256("k");
    let demanded = JwtLayer::new(config(), fixed(&[&signer])).named(&"ola".into());
    let optional = demanded.clone().optional();
    let nobody = || Ok("nobody: Bearer".to_owned());
    assert_eq!(ask(&optional, request(&[])).await, nobody());
    assert_eq!(ask(&demanded, request(&[])).await, Err("credentials_missing"), "the other is as it was");
    let good = signer.token(&claims());
    assert_eq!(ask(&optional, bearer(&good)).await, Ok("asha".into()));
    let wrong = [
        (request(&["Basic YXNoYTpvcGVuIHNlc2FtZQ=="]), "credentials_missing"),
        (request(&["ApiKey 7"]), "credentials_missing"),
        (request(&[""]), "credentials_malformed"),
        (request(&["Bearer"]), "credentials_malformed"),
        (request(&["Bearer "]), "credentials_malformed"),
        (request(&["Bearer nonsense"]), "credentials_malformed"),
        (request(&[&format!("Bearer {good}"), "Bearer x"]), "credentials_malformed"),
        (bearer(&signer.token(&but(&json!({"exp": START_S - 3600})))), "token_expired"),
        (bearer(&Signer::es256("k").token(&claims())), "signature_invalid"),
    ];
    for (request, word) in wrong {
        assert_eq!(ask(&optional, request.clone()).await, Err(word), "{:?}", request.headers());
        assert_eq!(ask(&demanded, request).await, Err(word), "as where it is asked for");
    }
    // It stays optional under other rules, with other keys and by another name.
    let mut other = config();
    other.audiences = vec!["nobody".into()];
    let narrowed = optional.reconfigured(&other).named(&"uber".into());
    assert_eq!(ask(&narrowed, request(&[])).await, nobody());
    assert_eq!(ask(&narrowed, bearer(&good)).await, Err("audience_refused"));
    let rekeyed = optional.rekeyed(&fixed(&[&Signer::es256("other")]));
    assert_eq!(ask(&rekeyed, bearer(&good)).await, Err("unknown_kid"));
    assert_eq!(ask(&rekeyed, request(&[])).await, nobody());
    assert!(JwtLayer::<()>::off().optional().is_off());
}

/// Nobody needs no keys: whoever brings nothing passes while the publisher is down.
#[tokio::test(start_paused = true)]
async fn r2_11_nobody_waits_for_keys_and_both_layers_have_the_same() {
    let signer = Signer::es256("k");
    let publisher = Publisher::default();
    let (demanded, _keys) = fetched(&publisher);
    let optional = demanded.clone().optional();
    let token = || bearer(&signer.token(&forever()));
    assert_eq!(ask(&optional, token()).await, Err("keys_unavailable"));
    assert_eq!(ask(&optional, request(&[])).await, Ok("nobody: Bearer".into()));
    publisher.publish(Some(set(&[&signer])));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(ask(&optional, token()).await, Ok("asha".into()));
    let asked = publisher.asked.load(SeqCst);
    assert_eq!(ask(&demanded, token()).await, Ok("asha".into()));
    assert_eq!(publisher.asked.load(SeqCst), asked, "what one has fetched the other has");
}

/// Answers after a second, whoever asks.
#[derive(Clone)]
struct Slow(Publisher);

impl Service<()> for Slow {
    type Response = Fetched;
    type Error = naka::BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Fetched, naka::BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let mut inner = self.0.clone();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            inner.call(()).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn r2_11_whoever_comes_during_a_fetch_waits_for_it() {
    let (old, new) = (Signer::es256("old"), Signer::es256("new"));
    let publisher = Publisher::default();
    publisher.publish(Some(set(&[&old])));
    let (keys, driver) = Keys::fetched(Slow(publisher.clone()), FetchConfig::default());
    let driver = tokio::spawn(driver.run());
    let layer = JwtLayer::new(config(), keys.clone());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(ask(&layer, bearer(&old.token(&claims()))).await, Ok("asha".into()), "at the first fetch");
    tokio::time::sleep(Duration::from_secs(20)).await;
    publisher.publish(Some(set(&[&old, &new])));
    let waiting = (0..50).map(|number| {
        let (layer, token) = (layer.clone(), new.token(&claims()));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(number * 15)).await;
            ask(&layer, bearer(&token)).await
        })
    });
    for one in waiting.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), Ok("asha".into()), "at the second");
    }
    assert_eq!(publisher.asked.load(SeqCst), 2);
    // Without a driver nobody waits.
    driver.abort();
    tokio::time::sleep(Duration::from_mins(1)).await;
    let began = tokio::time::Instant::now();
    assert_eq!(ask(&layer, bearer(&Signer::es256("x").token(&claims()))).await, Err("unknown_kid"));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn r2_11_no_age_is_too_long_for_the_driver() {
    #[derive(Clone)]
    struct Forever(Arc<str>, Arc<AtomicU64>);
    impl Service<()> for Forever {
        type Response = Fetched;
        type Error = naka::BoxError;
        type Future = Ready<Result<Fetched, naka::BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, (): ()) -> Self::Future {
            self.1.fetch_add(1, SeqCst);
            ready(Ok(Fetched { body: self.0.as_bytes().to_vec().into(), max_age: Some(Duration::MAX) }))
        }
    }
    let signer = Signer::es256("k");
    let asked = Arc::new(AtomicU64::new(0));
    let publisher = Forever(set(&[&signer]).to_string().into(), Arc::clone(&asked));
    let (keys, driver) = Keys::fetched(publisher, FetchConfig::default());
    tokio::spawn(driver.run());
    tokio::time::sleep(Duration::from_hours(100)).await;
    assert!(asked.load(SeqCst) >= 5 && keys.is_ready(Now::read()), "{}", asked.load(SeqCst));
}

#[tokio::test(start_paused = true)]
async fn r2_11_without_keys_what_is_no_token_is_refused_at_once() {
    let (keys, _driver) = Keys::fetched(Publisher::default(), FetchConfig::default());
    let layer = JwtLayer::new(config(), keys);
    assert_eq!(ask(&layer, request(&[])).await, Err("credentials_missing"));
    assert_eq!(ask(&layer, bearer("no.token")).await, Err("credentials_malformed"));
}

#[tokio::test(start_paused = true)]
async fn r2_11_a_token_that_says_too_much_is_refused_and_not_cut() {
    let signer = Signer::es256("k");
    let mut config = config();
    config.max_token = 1 << 20;
    let layer = JwtLayer::new(config, fixed(&[&signer]));
    let many = (0..300).map(|n| (format!("k{n}"), json!(1))).collect::<serde_json::Map<_, _>>();
    assert_eq!(ask(&layer, bearer(&signer.token(&but(&json!({"a": many}))))).await, Err("token_too_large"));
    let large = json!({"a": vec![0; 10_000]});
    assert_eq!(ask(&layer, bearer(&signer.token(&but(&large)))).await, Err("token_too_large"));
    assert_eq!(
        ask(&layer, bearer(&signer.token(&but(&json!({"roles": {"a": 1}}))))).await,
        Ok("asha".into())
    );
    let roles = json!({"roles": ["rider", 7]});
    assert_eq!(ask(&layer, bearer(&signer.token(&but(&roles)))).await, Err("credentials_malformed"));
}
