//! Who may: rules over identity, method and address.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use http::{Method, Request, Response};
use naka::{
    authorize::{AuthorizeLayer, Network, Rule, evaluate},
    clock::Now,
    context::Context,
    enforce::Enforce,
    explain::{Explain, Finding},
    identity::{Challenges, Claim, Identity, Scheme},
    reject::{Head, Rejection},
};
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};

fn asha() -> Arc<Identity> {
    let mut asha = Identity::new(Scheme::Jwt, Some("asha".into()));
    asha.scopes.extend(["rides.read".into(), "rides.book".into()]);
    asha.roles.push("rider".into());
    asha.claims.insert("suspended".into(), Claim::Flag(true));
    asha.claims.insert("tier".into(), Claim::Text("gold".into()));
    asha.claims.insert("cities".into(), Claim::List(vec![Claim::Text("mumbai".into()), Claim::Integer(7)]));
    Arc::new(asha)
}

fn request(identity: Option<Arc<Identity>>, client: Option<&str>) -> Request<()> {
    let mut context = Context::new(Now::read());
    context.client = client.map(|client| client.parse::<IpAddr>().unwrap());
    context.identity = identity;
    Request::builder().extension(context).body(()).unwrap()
}

fn network(text: &str) -> Rule {
    Rule::Client(text.parse().unwrap())
}

#[tokio::test]
async fn r2_11_each_rule_asks_what_it_says() {
    let known = request(Some(asha()), Some("10.1.2.3"));
    let table = [
        (Rule::Authenticated, true),
        (Rule::scope("rides.read"), true),
        (Rule::scope("rides"), false),
        (Rule::role("rider"), true),
        (Rule::role("support"), false),
        (Rule::Subject("asha".into()), true),
        (Rule::Subject("ravi".into()), false),
        (Rule::Claim("tier".into(), "gold".into()), true),
        (Rule::Claim("tier".into(), "plus".into()), false),
        (Rule::Claim("cities".into(), "mumbai".into()), true),
        (Rule::Claim("none".into(), "x".into()), false),
        (Rule::Claim("cities".into(), "7".into()), true),
        (Rule::Claim("suspended".into(), "true".into()), true),
        (!Rule::Claim("suspended".into(), "true".into()), false),
        (Rule::Method(Method::GET), true),
        (Rule::Method(Method::POST), false),
        (network("10.0.0.0/8"), true),
        (network("10.1.2.3"), true),
        (network("10.9.0.0/16"), false),
        (Rule::all([network("10.0.0.0/8"), !network("10.9.0.0/16")]), true),
        (Rule::all([]), true),
        (Rule::any([]), false),
    ];
    for (rule, expected) in table {
        assert_eq!(evaluate(&rule, &Head::from(&known)), Some(expected), "{rule:?}");
    }
    let dressed = request(None, Some("::ffff:10.1.2.3"));
    assert_eq!(evaluate(&network("10.0.0.0/8"), &Head::from(&dressed)), Some(true));
    assert!("10.0.0.0/33".parse::<Network>().is_err() && "home".parse::<Network>().is_err());
    assert!("::ffff:10.0.0.0/104".parse::<Network>().is_err(), "it would be no address at all");
}

/// What is not known lets nobody in, and is not turned around by a `not`.
#[tokio::test]
async fn r2_11_what_cannot_be_known_keeps_out() {
    let nobody = request(None, None);
    for rule in [
        Rule::scope("rides.read"),
        !Rule::scope("rides.read"),
        !Rule::role("banned"),
        network("10.0.0.0/8"),
        !network("10.0.0.0/8"),
        Rule::any([Rule::role("a"), Rule::all([!Rule::Authenticated, Rule::Method(Method::POST)])]),
        Rule::all([Rule::Method(Method::GET), !Rule::role("banned")]),
    ] {
        let layer = AuthorizeLayer::new(rule.clone());
        let answer = layer.layer(service_fn(fine)).oneshot(request(None, None)).await.unwrap();
        assert_eq!(answer.status(), 403, "{rule:?}");
        assert_eq!(answer.extensions().get::<Rejection>().unwrap().reason.word(), "forbidden");
    }
    let anonymous = Rule::any([!Rule::Authenticated, !Rule::role("banned")]);
    assert_eq!(evaluate(&anonymous, &Head::from(&nobody)), Some(true));
}

async fn fine(_: Request<()>) -> Result<Response<()>, Infallible> {
    Ok(Response::new(()))
}

#[tokio::test]
async fn a_rule_that_only_observes_lets_in_and_says_so() {
    let layer = AuthorizeLayer::new(Rule::role("support"));
    for (enforce, status) in [(Enforce::Always, 403), (Enforce::Observe, 200), (Enforce::Never, 200)] {
        let layer = layer.clone().enforce(enforce);
        let (mut parts, ()) = request(Some(asha()), None).into_parts();
        let said = layer.explain(Now::read(), &mut parts);
        let answer = layer.layer(service_fn(fine)).oneshot(Request::from_parts(parts, ())).await.unwrap();
        assert_eq!(answer.status(), status);
        let expected = match enforce {
            Enforce::Always => matches!(said, Finding::Reject(_)),
            Enforce::Observe => matches!(said, Finding::Observe(_)),
            _ => said == Finding::Off,
        };
        assert!(expected, "{enforce:?}: {said:?}");
    }
    let other = layer.reconfigured(&Rule::role("rider"));
    let answer = other.layer(service_fn(fine)).oneshot(request(Some(asha()), None)).await.unwrap();
    assert_eq!(answer.status(), 200);
}

fn rules() -> impl Strategy<Value = Rule> {
    let leaf = prop_oneof![
        Just(Rule::Authenticated),
        Just(Rule::scope("rides.read")),
        Just(Rule::role("support")),
        Just(Rule::Method(Method::GET)),
        Just(network("10.0.0.0/8")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Rule::All),
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Rule::Any),
            inner.prop_map(|rule| !rule),
        ]
    })
}

proptest! {
    /// The laws of De Morgan hold with what is not known, too; and knowing more never changes an answer.
    #[test]
    fn rules_keep_the_laws_of_logic(all in proptest::collection::vec(rules(), 0..4), who in 0..2, from in 0..2) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _inside = runtime.enter();
        let request_of = |who: bool, from: bool| request(who.then(asha), from.then_some("10.1.2.3"));
        let request = request_of(who == 1, from == 1);
        let head = Head::from(&request);
        let not_all = evaluate(&!Rule::All(all.clone()), &head);
        let any_not = evaluate(&Rule::Any(all.iter().cloned().map(|rule| !rule).collect()), &head);
        prop_assert_eq!(not_all, any_not);
        let knows_more = request_of(who == 1, true);
        for rule in &all {
            if let Some(answer) = evaluate(rule, &head) {
                prop_assert_eq!(evaluate(rule, &Head::from(&knows_more)), Some(answer), "{:?}", rule);
            }
        }
    }
}

/// Behind layers that let pass whoever brings nothing: whom credentials would help is asked for them.
#[tokio::test]
async fn who_passed_as_nobody_is_asked_for_credentials_where_they_could_help() {
    let near = || network("10.0.0.0/8");
    let table = [
        (Rule::Authenticated, 401),
        (Rule::scope("rides.read"), 401),
        (!Rule::role("banned"), 401),
        (Rule::any([Rule::Method(Method::POST), Rule::role("support")]), 401),
        (Rule::all([Rule::Authenticated, near()]), 401),
        (Rule::all([Rule::Authenticated, !near()]), 403),
        (!near(), 403),
        (Rule::Method(Method::POST), 403),
        (!Rule::Authenticated, 200),
        (Rule::any([Rule::Method(Method::GET), Rule::role("support")]), 200),
    ];
    for (rule, expected) in table {
        let layer = AuthorizeLayer::new(rule.clone()).named(&"may".into());
        let mut request = request(None, Some("10.1.2.3"));
        Challenges::new(["Bearer", "ApiKey"].map(|one| one.parse().unwrap())).put(request.extensions_mut());
        let (parts, ()) = request.into_parts();
        let said = layer.explain(Now::read(), &mut parts.clone());
        let behind = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) });
        let response = layer.layer(behind).oneshot(Request::from_parts(parts, ())).await.unwrap();
        assert_eq!(response.status(), expected, "{rule:?}");
        let asked = response.headers().get_all("www-authenticate").iter().collect::<Vec<_>>();
        assert_eq!(asked, if expected == 401 { vec!["Bearer", "ApiKey"] } else { vec![] }, "{rule:?}");
        match response.extensions().get::<Rejection>() {
            Some(rejection) => assert_eq!(said, Finding::Reject(rejection.clone())),
            None => assert!(matches!(said, Finding::Admit(_)), "{said:?}"),
        }
    }
    // Who is known is told that they may not, also where it cannot be said, and so is whoever nobody has asked.
    let mut known = request(Some(asha()), None);
    Challenges::new(["Bearer".parse().unwrap()]).put(known.extensions_mut());
    for request in [known, request(None, None)] {
        let layer = AuthorizeLayer::new(Rule::all([Rule::Authenticated, near()]));
        let (mut parts, ()) = request.into_parts();
        let said = layer.explain(Now::read(), &mut parts);
        assert!(matches!(&said, Finding::Reject(why) if why.reason.word() == "forbidden"), "{said:?}");
    }
}
