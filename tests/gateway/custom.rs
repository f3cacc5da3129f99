//! Policies of one's own: read, checked, explained, asked, and kept over reloads.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode, request::Parts};
use naka::{
    clock::Now,
    explain::{Explain, Finding},
    reject::{Reason, Rejection},
};
use naka_gateway::{
    config::{format_str, format_with, schema_with},
    custom::{self, Gateway, Kinds, Next, PolicyConfig, Slot},
    generation::Generation,
    upstream::Body,
};
use serde::Deserialize;
use tower::{Layer, Service};

use crate::{
    inside::{Inside, get},
    process::TOKEN,
};

#[path = "../../examples/order_hours/hours.rs"]
mod hours;

use hours::{OrderHours, OrderHoursLayer};

/// So many requests in all, and then none: the simplest state there is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ration {
    most: u64,
}

impl PolicyConfig for Ration {
    fn check(&self) -> Result<(), String> {
        if self.most == 0 { Err("it lets nobody in".to_owned()) } else { Ok(()) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct RationLayer {
    most: u64,
    eaten: Arc<AtomicU64>,
}

impl RationLayer {
    /// Over what was eaten before.
    pub(crate) fn of(ration: &Ration, context: &custom::Context<'_>) -> Self {
        let eaten = context.before::<Self>().map(|it| Arc::clone(&it.eaten)).unwrap_or_default();
        Self { most: ration.most, eaten }
    }

    fn spent() -> Rejection {
        Rejection::new(Reason::Custom(StatusCode::TOO_MANY_REQUESTS, "ration_eaten"))
    }
}

impl Explain for RationLayer {
    fn kind(&self) -> &'static str {
        "ration"
    }

    fn explain(&self, _: Now, _: &mut Parts) -> Finding {
        let eaten = self.eaten.load(SeqCst);
        if eaten < self.most {
            Finding::Admit(format!("{eaten} of {} eaten", self.most))
        } else {
            Finding::Reject(Self::spent())
        }
    }
}

#[derive(Clone)]
pub(crate) struct Rationed(RationLayer, Next);

impl Layer<Next> for RationLayer {
    type Service = Rationed;

    fn layer(&self, next: Next) -> Rationed {
        Rationed(self.clone(), next)
    }
}

impl Service<Request<Body>> for Rationed {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Next as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.1.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.0.eaten.fetch_add(1, SeqCst) < self.0.most {
            return self.1.call(request);
        }
        Box::pin(std::future::ready(Ok(RationLayer::spent().into_response())))
    }
}

fn kinds() -> Kinds {
    Gateway::builder()
        .policy("order_hours", Slot::AfterAuth, |hours: OrderHours, _| OrderHoursLayer::new(hours))
        .policy("ration", Slot::BeforeAuth, |ration: Ration, context| RationLayer::of(&ration, context))
        .kinds()
}

fn rationed(most: u64, more: &str) -> String {
    format!(
        "listeners: {{web: {{listen: ':8080'}}}}
policies: {{meals: {{ration: {{most: {most}}}}}}}
routes:
  meal: {{match: {{path: /meal}}, use: [meals], respond: {{body: dal}}}}
{more}"
    )
}

#[tokio::test(start_paused = true)]
async fn r7_8_a_rule_of_the_business_is_a_policy_in_the_file() {
    let gateway = Inside::with_kinds(include_str!("../../examples/order_hours/gateway.yaml"), kinds());
    let order = |rupees: &str| {
        let mut request = get("/snacks");
        *request.method_mut() = http::Method::POST;
        request.headers_mut().insert("x-order-rupees", rupees.parse().unwrap());
        request
    };
    assert_eq!(gateway.send(order("500")).await.status(), 201);
    let refused = gateway.send(order("501")).await;
    assert_eq!(refused.status(), 422);
    let problem = String::from_utf8_lossy(refused.body()).into_owned();
    assert!(problem.contains("order_too_large"), "it is rendered as any refusal is: {problem}");
    let explained =
        gateway.explain("POST http://localhost/snacks", &["x-order-rupees: 501".to_owned()]).to_string();
    assert!(explained.contains("order_hours"), "{explained}");
    assert!(explained.contains("order_too_large"), "{explained}");
}

/// Where nothing of it has changed it is the same one; where it has, it goes on from what there was; and it comes back.
#[tokio::test(start_paused = true)]
async fn the_state_of_a_policy_of_ones_own_is_kept_over_reloads() {
    let gateway = Inside::with_kinds(&rationed(3, ""), kinds());
    let status = async || gateway.send(get("/meal")).await.status().as_u16();
    assert_eq!((status().await, status().await), (200, 200));
    gateway.reload(&rationed(3, "  other: {match: {path: /other}, respond: {}}\n")).unwrap();
    assert_eq!((status().await, status().await), (200, 429), "two were eaten before");
    gateway.reload(&rationed(6, "")).unwrap();
    assert_eq!((status().await, status().await), (200, 200), "four were asked for");
    let without =
        rationed(6, "").replace("policies: {meals: {ration: {most: 6}}}\n", "").replace("use: [meals], ", "");
    gateway.reload(&without).unwrap();
    assert_eq!(status().await, 200);
    gateway.reload(&rationed(6, "")).unwrap();
    assert_eq!(status().await, 429, "coming back refills nobody");
}

/// What is cleared is gone: nothing that makes routes holds it.
#[tokio::test(start_paused = true)]
async fn what_nobody_has_named_for_an_hour_is_gone() {
    let made = Arc::new(Mutex::new(Vec::new()));
    let kinds = Gateway::builder().policy("ration", Slot::BeforeAuth, {
        let made = Arc::clone(&made);
        move |ration: Ration, context| {
            let layer = RationLayer::of(&ration, context);
            made.lock().unwrap().push(Arc::downgrade(&layer.eaten));
            layer
        }
    });
    let gateway = Inside::with_kinds(&rationed(3, ""), kinds.kinds());
    assert_eq!(gateway.send(get("/meal")).await.status(), 200);
    let without =
        rationed(3, "").replace("policies: {meals: {ration: {most: 3}}}\n", "").replace("use: [meals], ", "");
    gateway.reload(&without).unwrap();
    assert_eq!(gateway.send(get("/meal")).await.status(), 200);
    let is_there = || made.lock().unwrap().iter().any(|it| it.strong_count() > 0);
    assert!(is_there(), "it may come back");
    tokio::time::advance(Duration::from_hours(1)).await;
    let current = gateway.generation();
    let state =
        current.state.without_expired(tokio::time::Instant::now()).expect("there is something to clear");
    drop(gateway.shared().in_force.swap(Generation { state, ..(*current).clone() }));
    drop(current);
    assert!(!is_there(), "and then not any more");
}

/// What `explain` says is what happens next, as of any layer.
#[tokio::test(start_paused = true)]
async fn explain_says_of_it_what_the_next_request_meets() {
    let gateway = Inside::with_kinds(&rationed(2, ""), kinds());
    for (said, status) in [("0 of 2 eaten", 200), ("1 of 2 eaten", 200), ("ration_eaten", 429)] {
        let explained = gateway.explain("GET http://localhost/meal", &[]).to_string();
        assert!(explained.contains("ration meals"), "{explained}");
        assert!(explained.contains(said), "{said}: {explained}");
        assert_eq!(gateway.send(get("/meal")).await.status().as_u16(), status);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_its_settings_is_said_at_its_place() {
    let gateway = Inside::with_kinds(&rationed(2, ""), kinds());
    let cases = [
        ("{most: 0}", "it lets nobody in", "{most: 0}"),
        ("{most: many}", "`policies.meals.ration.most`", "many"),
        ("{most: 1, least: 2}", "unknown field `least`", "least"),
        ("{}", "missing field `most`", "{}"),
    ];
    for (says, message, underlined) in cases {
        let refused = gateway.reload(&rationed(2, "").replace("{most: 2}", says)).unwrap_err();
        assert!(refused.contains(message), "{refused}");
        let line = refused.lines().find(|line| line.starts_with("2 |")).expect("the line is shown");
        let carets = refused.lines().skip_while(|it| *it != line).nth(1).unwrap();
        let (start, len) = (carets.find('^').unwrap(), carets.matches('^').count());
        assert!(line[start..start + len].contains(underlined), "{refused}");
    }
    let unknown = gateway.reload(&rationed(2, "").replace("ration:", "rations:")).unwrap_err();
    assert!(unknown.contains("unknown key `rations`"), "{unknown}");
    assert!(!unknown.contains(TOKEN));
}

#[test]
fn the_schema_has_the_kinds_of_ones_own() {
    let schema = schema_with(&kinds());
    let policy = &schema["properties"]["policies"]["additionalProperties"]["properties"];
    assert_eq!(policy["order_hours"]["required"][2], "max_rupees");
    assert_eq!(policy["ration"]["type"], "object");
    assert!(policy["rate_limit"]["properties"]["rate"].is_object());
}

#[test]
fn a_file_with_kinds_of_ones_own_can_be_laid_out() {
    let text = include_str!("../../examples/order_hours/gateway.yaml");
    assert_eq!(format_with("gateway.yaml", text, &kinds()).unwrap().text, text);
    assert!(format_str("gateway.yaml", text).is_err(), "others do not know it");
}

#[test]
fn a_kind_that_there_is_already_cannot_be_added() {
    for name in ["rate_limit", "sticky", "Ration", "a-b", ""] {
        let name: &'static str = name;
        let added = std::panic::catch_unwind(|| {
            Gateway::builder().policy(name, Slot::AfterAuth, |ration: Ration, _| RationLayer {
                most: ration.most,
                eaten: Arc::default(),
            })
        });
        assert!(added.is_err(), "{name}");
    }
}
