//! Who it is, by name and password.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::{convert::Infallible, future::Future, pin::pin, task::Poll, time::Duration};

use argon2::{Algorithm, Argon2, Params, Version, password_hash::PasswordHasher as _};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Request, Response};
use naka::{
    basic_auth::{BasicAuthConfig, BasicAuthLayer, User, UserError, Users},
    clock::Now,
    explain::{Explain, Finding},
    identity::{Challenges, Identity, Scheme},
    reject::{Dependency, Reason, Rejection},
};
use tower::{Layer, Service, ServiceExt, service_fn};

/// As cheap as Argon2id can be: what is tested is not how costly it is.
fn hash(password: &str) -> String {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    argon2.hash_password_with_salt(password.as_bytes(), b"salt of 16 bytes").unwrap().to_string()
}

fn config() -> BasicAuthConfig {
    let asha =
        User::new("asha", &hash("open sesame")).unwrap().knowing(|asha| asha.roles.push("staff".into()));
    BasicAuthConfig::new(Users::new([asha, User::new("ravi", &hash("pass:with colons")).unwrap()]))
}

fn request(credentials: &str) -> Request<()> {
    let value = format!("Basic {}", STANDARD.encode(credentials));
    Request::builder().header("authorization", value).body(()).unwrap()
}

/// Answers who it is, and whether the header came along.
async fn ask(layer: &BasicAuthLayer, request: Request<()>) -> Result<String, Reason> {
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let who = Identity::of(request.extensions()).map(|who| (who.scheme, who.subject.clone()));
        let said = match who {
            Some((Scheme::Basic, Some(name))) => name.to_string(),
            other => format!("{other:?}"),
        };
        let sent_on = request.headers().contains_key("authorization");
        Ok::<_, Infallible>(Response::new(if sent_on { format!("{said}, and its password") } else { said }))
    }));
    let response = service.oneshot(request).await.unwrap();
    match response.extensions().get::<Rejection>() {
        Some(rejection) => {
            assert_eq!(response.status(), rejection.reason.status());
            let challenge = response.headers().get("www-authenticate").map(|value| value.to_str().unwrap());
            let expected = (response.status() == 401).then_some("Basic realm=\"naka\", charset=\"UTF-8\"");
            assert_eq!(challenge, expected);
            Err(rejection.reason)
        }
        None => Ok(response.into_body()),
    }
}

#[tokio::test]
async fn r2_11_names_and_passwords_are_checked_and_taken_away() {
    let layer = BasicAuthLayer::new(config());
    assert_eq!(ask(&layer, request("asha:open sesame")).await, Ok("asha".into()));
    assert_eq!(ask(&layer, request("ravi:pass:with colons")).await, Ok("ravi".into()));
    for wrong in ["asha:open", "asha:", "ravi:open sesame", "nobody:open sesame", ":open sesame", ":"] {
        assert_eq!(ask(&layer, request(wrong)).await, Err(Reason::CredentialsInvalid), "{wrong}");
    }
    let with = |value: &str| Request::builder().header("authorization", value).body(()).unwrap();
    let mut twice = request("asha:open sesame");
    twice.headers_mut().append("authorization", "Basic x".parse().unwrap());
    let table = [
        (Request::new(()), Reason::CredentialsMissing),
        (with("Bearer abc"), Reason::CredentialsMissing),
        (with("Basic"), Reason::CredentialsMalformed),
        (with("Basic !!"), Reason::CredentialsMalformed),
        (with("Basic YXNoYQ=="), Reason::CredentialsMalformed), // No colon.
        (request("asha:open\nsesame"), Reason::CredentialsMalformed),
        (request(&format!("asha:{}", "x".repeat(508))), Reason::CredentialsMalformed),
        (twice, Reason::CredentialsMalformed),
    ];
    for (request, reason) in table {
        assert_eq!(ask(&layer, request).await, Err(reason));
    }
    let mut forwarding = config();
    forwarding.forward = true;
    let layer = layer.reconfigured(&forwarding);
    assert_eq!(ask(&layer, request("asha:open sesame")).await, Ok("asha, and its password".into()));
    assert_eq!(
        ask(&layer, request("asha:open sesame")).await,
        Ok("asha, and its password".into()),
        "remembered"
    );
}

#[tokio::test]
async fn r2_11_an_optional_password_may_be_missing_and_never_wrong() {
    let demanded = BasicAuthLayer::new(config());
    let optional = demanded.clone().optional();
    let (mut head, ()) = Request::new(()).into_parts();
    assert_eq!(
        optional.explain(Now::read(), &mut head),
        Finding::Admit("nobody: no password was sent".into())
    );
    let challenges = Challenges::of(&head.extensions).unwrap();
    assert_eq!(challenges.headers()["www-authenticate"], "Basic realm=\"naka\", charset=\"UTF-8\"");
    assert_eq!(ask(&optional, Request::new(())).await, Ok("None".into()));
    assert_eq!(
        ask(&demanded, Request::new(())).await,
        Err(Reason::CredentialsMissing),
        "the other is as it was"
    );
    assert_eq!(ask(&optional, request("asha:wrong")).await, Err(Reason::CredentialsInvalid));
    let with = |value: &str| Request::builder().header("authorization", value).body(()).unwrap();
    assert_eq!(ask(&optional, with("Bearer abc")).await, Err(Reason::CredentialsMissing), "not understood");
    assert_eq!(ask(&optional, with("")).await, Err(Reason::CredentialsMalformed));
    assert_eq!(ask(&optional, request("asha:open sesame")).await, Ok("asha".into()));
    // What was right for one is remembered for the other; and another realm is what is asked for then.
    let known = request("asha:open sesame").into_parts().0;
    let said = demanded.explain(Now::read(), &mut known.clone());
    assert!(matches!(&said, Finding::Admit(said) if said.contains("right a while ago")), "{said:?}");
    let mut staff = config();
    staff.realm = "staff".into();
    let (mut head, ()) = Request::new(()).into_parts();
    optional.reconfigured(&staff).explain(Now::read(), &mut head);
    let challenges = Challenges::of(&head.extensions).unwrap();
    assert_eq!(challenges.headers()["www-authenticate"], "Basic realm=\"staff\", charset=\"UTF-8\"");
}

#[tokio::test]
async fn a_hash_of_another_kind_or_too_costly_is_refused() {
    let good = hash("x");
    let table = [
        ("asha", "$2y$10$abcdefghijklmnopqrstuuKzZFO2O3eRM5bQ9fQCI8d9Yt9TrBHZe", UserError::Hash),
        ("asha", "open sesame", UserError::Hash),
        ("asha", "", UserError::Hash),
        ("asha", &good.replace("argon2id", "argon2i"), UserError::Kind),
        ("asha", &good.replace("argon2id", "scrypt"), UserError::Kind),
        ("asha", &good.replace("m=8", "m=300000"), UserError::TooCostly),
        ("asha", &good.replace("t=1", "t=17"), UserError::TooCostly),
        ("", &good, UserError::Name),
        ("as:ha", &good, UserError::Name),
    ];
    for (name, hash, error) in table {
        assert_eq!(User::new(name, hash).map(drop), Err(error), "{name} {hash}");
    }
    assert!(!format!("{:?}", config()).contains("argon2id"), "no hash is shown");
}

/// Polls a future once; what it asked for goes on by itself.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn checks_are_bounded_and_beyond_the_bound_it_is_busy_at_once() {
    let mut config = config();
    (config.max_checks, config.max_waiting) = (1, 2);
    let layer = BasicAuthLayer::new(config);
    let mut service =
        layer.layer(service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) }));
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(Box::pin(service.ready().await.unwrap().call(request("asha:open sesame"))));
    }
    assert_eq!(layer.waiting(), 3);
    let busy = service.ready().await.unwrap().call(request("asha:open sesame")).await.unwrap();
    assert_eq!((busy.status().as_u16(), busy.headers().contains_key("www-authenticate")), (503, false));
    let reason = busy.extensions().get::<Rejection>().unwrap().reason;
    assert_eq!(reason, Reason::AuthBusy);
    drop(waiting.pop()); // One gives up, before it was ever polled: its place is free.
    assert_eq!(layer.waiting(), 2);
    assert!(poll_once(&mut waiting[0]).await.is_none(), "it is being checked");
    assert!(poll_once(&mut waiting[1]).await.is_none(), "it waits");
    drop(waiting.remove(0)); // Given up while it is being checked: the check goes on, and the next one comes.
    assert_eq!(waiting.remove(0).await.unwrap().status(), 200);
    assert_eq!(layer.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_right_is_remembered_for_a_while_and_not_over_another_list() {
    let layer = BasicAuthLayer::new(config());
    let said = |layer: &BasicAuthLayer| {
        let (mut head, ()) = request("asha:open sesame").into_parts();
        let finding = layer.explain(Now::read(), &mut head);
        (finding, Identity::of(&head.extensions).is_some(), head.headers.contains_key("authorization"))
    };
    let unknown = (Finding::WouldAsk(Dependency::Password), false, true);
    assert_eq!(said(&layer), unknown);
    ask(&layer, request("asha:wrong")).await.unwrap_err();
    assert_eq!(said(&layer), unknown, "what was wrong is not remembered");
    ask(&layer, request("asha:open sesame")).await.unwrap();
    assert!(matches!(said(&layer), (Finding::Admit(_), true, false)));
    tokio::time::advance(Duration::from_secs(299)).await;
    assert!(matches!(said(&layer), (Finding::Admit(_), true, false)));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(said(&layer), unknown);
    ask(&layer, request("asha:open sesame")).await.unwrap();
    let other =
        layer.reconfigured(&BasicAuthConfig::new(Users::new([User::new("asha", &hash("changed")).unwrap()])));
    assert_eq!(said(&other), unknown, "another list");
    assert_eq!(ask(&other, request("asha:open sesame")).await, Err(Reason::CredentialsInvalid));
    let nobody = layer.reconfigured(&BasicAuthConfig::new(Users::new([])));
    assert_eq!(ask(&nobody, request("asha:open sesame")).await, Err(Reason::CredentialsInvalid));
    let mut forgetful = config();
    forgetful.remember = Duration::ZERO;
    let forgetful = BasicAuthLayer::new(forgetful);
    ask(&forgetful, request("asha:open sesame")).await.unwrap();
    assert_eq!(said(&forgetful), unknown);
}
