//! API keys: what is let pass, what is refused and with which word, and what is sent on.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use http::{Request, Response};
use naka::{
    api_key::{ApiKey, ApiKeyConfig, ApiKeyLayer, ApiKeys, MAX_KEY},
    clock::{Now, WallClock},
    explain::{Explain, Finding},
    identity::{Challenges, Identity},
    observe::Observer,
    reject::Rejection,
};
use tower::{Layer, ServiceExt, service_fn};

const START_S: u64 = 1_800_000_000;

fn config() -> ApiKeyConfig {
    let keys = [
        ApiKey::hashed(ApiKey::hash("key-of-zomato"), "zomato")
            .knowing(|who| who.scopes.push("orders".into())),
        ApiKey::hashed(ApiKey::hash("key-of-swiggy"), "swiggy").until(START_S + 60),
    ];
    let mut config = ApiKeyConfig::new(ApiKeys::new(keys));
    config.clock = WallClock::starting_at(START_S);
    config
}

/// Whose it is, whether the key is still there, and the scopes; what `explain` says is what is done.
async fn ask<O: Observer>(layer: &ApiKeyLayer<O>, keys: &[&str]) -> Result<String, &'static str> {
    let request = keys.iter().fold(Request::builder(), |request, key| request.header("x-api-key", *key));
    let request = request.body(()).unwrap();
    let (parts, ()) = request.into_parts();
    let mut seen = parts.clone();
    let said = layer.explain(Now::read(), &mut seen);
    let behind = service_fn(|request: Request<()>| async move {
        let Some(who) = Identity::of(request.extensions()) else {
            let challenges = Challenges::of(request.extensions()).unwrap();
            assert_eq!(challenges.headers()["www-authenticate"], "ApiKey");
            return Ok(Response::new("nobody".to_owned()));
        };
        let sent_on = request.headers().contains_key("x-api-key");
        let who = format!("{} {sent_on} {}", who.subject.as_deref().unwrap(), who.scopes.join(","));
        Ok::<_, Infallible>(Response::new(who))
    });
    let response = layer.layer(behind).oneshot(Request::from_parts(parts, ())).await.unwrap();
    match response.extensions().get::<Rejection>() {
        None => {
            assert!(matches!(said, Finding::Admit(_)), "{said:?}");
            Ok(response.into_body())
        }
        Some(rejection) => {
            assert_eq!(said, Finding::Reject(rejection.clone()));
            assert_eq!(
                (response.status().as_u16(), &response.headers()["www-authenticate"]),
                (401, &"ApiKey".parse().unwrap())
            );
            Err(rejection.reason.word())
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r2_11_keys_are_known_by_their_hashes_and_have_an_end() {
    let layer = ApiKeyLayer::new(config());
    assert_eq!(ask(&layer, &["key-of-zomato"]).await, Ok("zomato false orders".into()));
    assert_eq!(ask(&layer, &["key-of-swiggy"]).await, Ok("swiggy false ".into()));
    let long = "k".repeat(MAX_KEY + 1);
    let table: [(&[&str], &str); 6] = [
        (&[], "credentials_missing"),
        (&[""], "credentials_malformed"),
        (&["key-of-zomato", "key-of-zomato"], "credentials_malformed"),
        (&[&long], "credentials_malformed"),
        (&["Key-of-zomato"], "credentials_unknown"),
        (&["key-of-zomat"], "credentials_unknown"),
    ];
    for (keys, word) in table {
        assert_eq!(ask(&layer, keys).await, Err(word), "{keys:?}");
    }
    tokio::time::advance(std::time::Duration::from_mins(1)).await;
    assert_eq!(ask(&layer, &["key-of-swiggy"]).await, Err("credentials_expired"));
    assert_eq!(ask(&layer, &["key-of-zomato"]).await, Ok("zomato false orders".into()));
}

#[tokio::test(start_paused = true)]
async fn r2_11_a_key_that_is_taken_away_counts_no_more() {
    let layer = ApiKeyLayer::new(config());
    let mut other = config();
    other.keys = ApiKeys::new([ApiKey::hashed(ApiKey::hash("key-of-swiggy"), "swiggy")]);
    other.forward = true;
    let changed = layer.reconfigured(&other);
    assert_eq!(ask(&changed, &["key-of-zomato"]).await, Err("credentials_unknown"));
    assert_eq!(ask(&changed, &["key-of-swiggy"]).await, Ok("swiggy true ".into()));
    assert_eq!(ask(&layer, &["key-of-zomato"]).await, Ok("zomato false orders".into()), "as it was");
    let shown = format!("{:?} {:?}", layer, config().keys);
    let hash = format!("{:?}", ApiKey::hash("key-of-zomato"));
    assert!(!shown.contains("key-of") && !shown.contains(&hash) && shown.contains("zomato"), "{shown}");
}

/// Counts whom a layer lets pass and whom not.
#[derive(Default)]
struct Counts {
    admitted: AtomicUsize,
    rejected: AtomicUsize,
}

impl Observer for Counts {
    fn admitted(&self) {
        self.admitted.fetch_add(1, SeqCst);
    }

    fn rejected(&self, _: &Rejection) {
        self.rejected.fetch_add(1, SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn r2_11_an_optional_key_may_be_missing_and_never_wrong() {
    let counts = Arc::new(Counts::default());
    let demanded = ApiKeyLayer::observed(config(), Arc::clone(&counts));
    let optional = demanded.clone().optional();
    assert_eq!(ask(&optional, &[]).await, Ok("nobody".into()));
    assert_eq!(ask(&optional.reconfigured(&config()), &[]).await, Ok("nobody".into()), "as it was");
    let seen = |counts: &Counts| (counts.admitted.load(SeqCst), counts.rejected.load(SeqCst));
    assert_eq!(seen(&counts), (0, 0), "who passes as nobody was not verified");
    assert_eq!(ask(&optional, &["key-of-zomato"]).await, Ok("zomato false orders".into()));
    assert_eq!(ask(&demanded, &[]).await, Err("credentials_missing"), "the other is as it was");
    let wrong: [(&[&str], &str); 3] = [
        (&[""], "credentials_malformed"),
        (&["key-of-zomato", "key-of-zomato"], "credentials_malformed"),
        (&["guess"], "credentials_unknown"),
    ];
    for (keys, word) in wrong {
        assert_eq!(ask(&optional, keys).await, Err(word), "{keys:?}");
    }
    tokio::time::advance(std::time::Duration::from_mins(1)).await;
    assert_eq!(ask(&optional, &["key-of-swiggy"]).await, Err("credentials_expired"));
    assert_eq!(seen(&counts), (1, 5));
}
