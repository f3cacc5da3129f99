//! Out of Eureka; each `Manner` of the stand-in is a case.

use std::{collections::BTreeMap, time::Duration};

use naka_testkit::{
    eureka::{Eureka, Instance as Registered, Manner},
    upstream::Upstream,
};

use super::{ONE, SECOND, THREE, TWO, after, each, found, servers, status, who, with};
use crate::inside::{Inside, get};

const SERVER: &str = "10.9.9.8:8761";
const SPARE: &str = "10.9.9.7:8761";

fn eureka(endpoints: &str) -> String {
    let servers = format!("eureka: {{servers: ['http://{SERVER}/eureka', 'http://{SPARE}/eureka/']}}");
    with(&servers, endpoints, "")
}

/// A gateway that has found one and two in Eureka, of whose servers the second is not there.
async fn at_eureka(yaml: &str) -> (Inside, Eureka, Vec<Upstream>) {
    let gateway = Inside::new(yaml);
    let server = Eureka::inside(&gateway.network, SERVER);
    server.has_at("PRICING", &[ONE, TWO]);
    let servers = servers(&gateway.network, &[ONE, TWO, THREE]);
    found(&gateway).await;
    assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2));
    (gateway, server, servers)
}

/// How often something was asked for.
fn count(server: &Eureka, path: &str) -> usize {
    server.asked().iter().filter(|it| it.path == path).count()
}

/// Longer than what is between two questions.
const REFRESHED: Duration = Duration::from_secs(34);

#[tokio::test(start_paused = true)]
async fn r1_1_eureka_is_another_source_by_configuration_alone() {
    let list = eureka("['10.0.0.3:80']");
    let gateway = Inside::new(&list);
    let server = Eureka::inside(&gateway.network, SERVER);
    server.has_at("pricing", &[ONE, TWO]);
    let _servers = servers(&gateway.network, &[ONE, TWO, THREE]);
    assert_eq!(who(&gateway, 2).await, each(&[THREE], 2));
    gateway.reload(&eureka("{eureka: PRICING}")).unwrap();
    found(&gateway).await;
    assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2));
    gateway.reload(&list).unwrap();
    assert_eq!(who(&gateway, 2).await, each(&[THREE], 2));
    let asked = server.asked().len();
    after(Duration::from_hours(1)).await;
    assert_eq!(server.asked().len(), asked, "nobody wants to know any more");
}

#[tokio::test(start_paused = true)]
async fn r1_2_changes_in_eureka_take_effect_within_a_refresh_and_the_whole_is_fetched_once() {
    let (gateway, server, servers) = at_eureka(&eureka("{eureka: pricing}")).await;
    for _ in 0..10 {
        server.has_at("PRICING", &[TWO, THREE]);
        after(REFRESHED).await;
        let before = servers[0].requests();
        assert_eq!(who(&gateway, 4).await, each(&[TWO, THREE], 2));
        assert_eq!(servers[0].requests(), before, "no new request after it was removed");
        server.has_at("PRICING", &[ONE, TWO]);
        after(REFRESHED).await;
        assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2));
    }
    assert_eq!(count(&server, "/eureka/apps"), 1);
    let deltas = count(&server, "/eureka/apps/delta");
    assert!((20..=23).contains(&deltas), "{deltas}");
    assert_eq!(status(&gateway).stale, None);
}

#[tokio::test(start_paused = true)]
async fn changes_of_eureka_that_do_not_add_up_have_the_whole_registry_fetched() {
    for manner in [
        Manner::NoDelta,
        Manner::WrongHash,
        Manner::NoHash,
        Manner::LosesChanges,
        Manner::UnknownAction,
        Manner::ListsOfOne,
    ] {
        let (gateway, server, _servers) = at_eureka(&eureka("{eureka: PRICING}")).await;
        server.behaves(manner.clone());
        for set in [&[TWO, THREE, ONE][..], &[TWO, THREE], &[ONE]] {
            server.has_at("PRICING", set);
            after(REFRESHED).await;
            assert_eq!(who(&gateway, 2 * set.len()).await, each(set, 2), "{manner:?}");
            assert_eq!(status(&gateway).stale, None, "{manner:?}");
        }
        let (whole, deltas) = (count(&server, "/eureka/apps"), count(&server, "/eureka/apps/delta"));
        let is_used = manner == Manner::ListsOfOne;
        assert_eq!(whole, if is_used { 1 } else { 1 + deltas.min(3) }, "{manner:?}: {deltas} deltas");
    }
}

#[tokio::test(start_paused = true)]
async fn r1_3_whatever_eureka_does_wrong_changes_nothing_and_is_told() {
    let minute = Duration::from_mins(1);
    let elsewhere = format!("http://{THREE}/eureka/apps");
    for (manner, told) in [
        (Manner::Hangs, "no answer within"),
        (Manner::Refuses(403, ""), "403"),
        (Manner::Refuses(500, "oops"), "500 Internal Server Error: oops"),
        (Manner::Refuses(503, "not ready"), "not ready"),
        (Manner::Redirects(elsewhere), "302"),
        (Manner::Says("{"), "no registry"),
        (Manner::Says("<applications/>"), "no registry"),
        (Manner::Says("{\"applications\": {\"application\": 7}}"), "no registry"),
        (Manner::TooLarge(17 << 20), "length limit exceeded"),
        (Manner::CutOff, "connection"),
        (Manner::Empty, "it says that there is none"),
    ] {
        let (gateway, server, _servers) = at_eureka(&eureka("{eureka: PRICING}")).await;
        server.behaves(manner.clone());
        after(20 * minute).await;
        assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2), "{manner:?}");
        let is = status(&gateway);
        assert!(is.stale.as_ref().is_some_and(|why| why.contains(told)), "{manner:?}: {is:?}");
        assert!(is.age >= 18 * minute, "{manner:?}: {is:?}");
        let asked = server.asked().len();
        assert!((20..=150).contains(&asked), "{manner:?}: asked {asked} times in twenty minutes");
        server.behaves(Manner::Well);
        server.has_at("PRICING", &[TWO, THREE]);
        after(minute).await;
        assert_eq!(who(&gateway, 4).await, each(&[TWO, THREE], 2), "{manner:?}");
        assert_eq!(status(&gateway).stale, None, "{manner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r1_3_of_several_servers_of_eureka_one_is_enough() {
    let (gateway, server, _servers) = at_eureka(&eureka("{eureka: PRICING}")).await;
    drop(server);
    let spare = Eureka::inside(&gateway.network, SPARE);
    spare.has_at("PRICING", &[TWO, THREE]);
    after(REFRESHED).await;
    assert_eq!((who(&gateway, 4).await, status(&gateway).stale), (each(&[TWO, THREE], 2), None));
    assert_eq!(count(&spare, "/eureka/apps"), 1, "its changes are others than those of the first one");
    // Both are gone, for ten minutes; then the first one is back, and knows nobody yet.
    drop(spare);
    after(Duration::from_mins(10)).await;
    assert_eq!(who(&gateway, 4).await, each(&[TWO, THREE], 2));
    let stale = status(&gateway).stale.unwrap();
    assert!(stale.contains(SERVER) && stale.contains(SPARE), "{stale}");
    let server = Eureka::inside(&gateway.network, SERVER);
    after(Duration::from_mins(3)).await;
    assert_eq!(who(&gateway, 4).await, each(&[TWO, THREE], 2));
    assert!(status(&gateway).is_held, "{:?}", status(&gateway));
    server.has_at("PRICING", &[ONE, TWO, THREE]);
    after(REFRESHED).await;
    assert_eq!((who(&gateway, 6).await, status(&gateway).stale), (each(&[ONE, TWO, THREE], 2), None));
    // And wiped behind our back.
    server.wipe();
    after(Duration::from_mins(3)).await;
    assert_eq!(who(&gateway, 6).await, each(&[ONE, TWO, THREE], 2));
}

#[tokio::test(start_paused = true)]
async fn r1_3_eureka_that_loses_nearly_all_is_believed_when_it_says_so_three_times() {
    let (gateway, server, _servers) = at_eureka(&eureka("{eureka: PRICING}")).await;
    let ten = (1..=10).map(|number| format!("10.0.0.{number}:80")).collect::<Vec<_>>();
    let ten = ten.iter().map(String::as_str).collect::<Vec<_>>();
    server.has_at("PRICING", &ten);
    after(REFRESHED).await;
    server.has_at("PRICING", &ten[..4]);
    after(REFRESHED).await;
    let is = status(&gateway);
    assert!(is.endpoints == 10 && is.is_held, "{is:?}");
    after(2 * REFRESHED).await;
    assert_eq!((status(&gateway).endpoints, status(&gateway).stale), (4, None));
}

#[tokio::test(start_paused = true)]
async fn r1_4_metadata_of_eureka_is_that_of_endpoints_and_r1_5_only_what_is_up_is_one() {
    let yaml = with(
        &format!(
            "eureka: {{servers: ['http://{SERVER}/eureka'], user: gateway, password: what-nobody-sees}}"
        ),
        "{eureka: PRICING}",
        ", balance: {policy: weighted_round_robin}",
    );
    let gateway = Inside::new(&yaml);
    let server = Eureka::inside(&gateway.network, SERVER);
    let instance = |at| Registered::new("PRICING", at);
    server.has(
        "PRICING",
        [
            instance(ONE).meta("weight", "3").meta("zone", "south").meta("version", "v2"),
            instance(TWO).meta("capacity", "7"),
            instance("10.0.0.4:80").with("status", "STARTING".into()),
            instance("10.0.0.5:80").with("overriddenstatus", "OUT_OF_SERVICE".into()),
            instance("10.0.0.6:80").with("port", serde_json::json!({"$": 80, "@enabled": "false"})),
        ],
    );
    server.has_at("OTHER", &[THREE]);
    let _servers = servers(&gateway.network, &[ONE, TWO, THREE, "host-10.0.0.1:80"]);
    found(&gateway).await;
    let weighed = BTreeMap::from([(ONE.to_owned(), 3), (TWO.to_owned(), 1)]);
    assert_eq!(who(&gateway, 4).await, weighed);
    let endpoints = gateway.generation().state.balancers.get("app").unwrap().endpoints();
    let target = |at: &str| endpoints.iter().find(|it| **it.address() == *at).unwrap().target().clone();
    assert_eq!((target(TWO).capacity, target(ONE).label_value("zone")), (Some(7), Some("south")));
    let stale = status(&gateway).stale.unwrap();
    assert!(stale.contains("1 of its instances have no address and port"), "{stale}");
    let asked = server.asked();
    assert!(
        asked.iter().all(|it| it.header("authorization") == Some("Basic Z2F0ZXdheTp3aGF0LW5vYm9keS1zZWVz"))
    );
    let shown = format!("{:?}", gateway.generation().config.upstreams);
    assert!(!shown.contains("what-nobody-sees") && !shown.contains("Z2F0"), "{shown}");
    // By name, and only where the version is the one that is wanted.
    let by_name = yaml.replace("{eureka: PRICING}", "{eureka: {app: PRICING, address: host_name}}");
    gateway.reload(&by_name.replace("weighted_round_robin", "round_robin, only: {version: v2}")).unwrap();
    found(&gateway).await;
    after(SECOND).await;
    assert_eq!(who(&gateway, 2).await, each(&["host-10.0.0.1:80"], 2));
}

#[tokio::test(start_paused = true)]
async fn fifty_upstreams_in_one_registry_of_eureka_fetch_it_once_and_over_reloads() {
    let upstreams = (0..50).map(|n| format!("s{n}: {{endpoints: {{eureka: s{n}}}}}")).collect::<Vec<_>>();
    let routes =
        (0..50).map(|n| format!("s{n}: {{match: {{path: /s{n}}}, upstream: s{n}}}")).collect::<Vec<_>>();
    let yaml = |routes: &[String]| {
        format!(
            "
gateway: {{registries: {{eureka: {{servers: ['http://{SERVER}/eureka']}}}}}}
listeners: {{public: {{listen: ':1'}}}}
upstreams: {{{}}}
routes: {{{}}}
",
            upstreams[..routes.len()].join(", "),
            routes.join(", ")
        )
    };
    let gateway = Inside::new(&yaml(&routes[..25]));
    let server = Eureka::inside(&gateway.network, SERVER);
    (0..50).for_each(|n| server.has_at(&format!("S{n}"), &[ONE]));
    let _servers = servers(&gateway.network, &[ONE]);
    found(&gateway).await;
    gateway.reload(&yaml(&routes)).unwrap();
    found(&gateway).await;
    for n in 0..50 {
        assert_eq!(gateway.send(get(&format!("/s{n}"))).await.status(), 200);
    }
    after(Duration::from_mins(10)).await;
    assert_eq!(count(&server, "/eureka/apps"), 1);
    let deltas = count(&server, "/eureka/apps/delta");
    assert!((17..=20).contains(&deltas), "{deltas}");
}
