//! Out of Consul; each `Manner` of the stand-in is a case.

use std::{collections::BTreeMap, time::Duration};

use naka_testkit::{
    consul::{Consul, Instance, Manner},
    upstream::Upstream,
};

use super::{ONE, SECOND, THREE, TWO, after, each, found, servers, status, who, with};
use crate::inside::{Inside, get};

const AGENT: &str = "10.9.9.9:8500";

fn consul(endpoints: &str) -> String {
    with("consul: {address: 'http://10.9.9.9:8500'}", endpoints, "")
}

/// A gateway that has found one and two in Consul.
async fn at_consul(yaml: &str) -> (Inside, Consul, Vec<Upstream>) {
    let gateway = Inside::new(yaml);
    let agent = Consul::inside(&gateway.network, AGENT);
    agent.has_at("booking", &[ONE, TWO]);
    let servers = servers(&gateway.network, &[ONE, TWO, THREE]);
    found(&gateway).await;
    assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2));
    (gateway, agent, servers)
}

#[tokio::test(start_paused = true)]
async fn r1_1_consul_is_another_source_by_configuration_alone() {
    let list = consul("['10.0.0.3:80']");
    let gateway = Inside::new(&list);
    let agent = Consul::inside(&gateway.network, AGENT);
    agent.has_at("booking", &[ONE, TWO]);
    let _servers = servers(&gateway.network, &[ONE, TWO, THREE]);
    assert_eq!(who(&gateway, 2).await, each(&[THREE], 2));
    assert_eq!(agent.asked(), []);
    gateway.reload(&consul("{consul: booking}")).unwrap();
    found(&gateway).await;
    assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2));
    gateway.reload(&list).unwrap();
    assert_eq!(who(&gateway, 2).await, each(&[THREE], 2));
    let asked = agent.asked().len();
    after(Duration::from_hours(1)).await;
    assert_eq!(agent.asked().len(), asked, "nobody wants to know any more");
}

/// What is asked, and that the next question waits at the agent.
#[tokio::test(start_paused = true)]
async fn questions_to_consul_say_what_is_wanted_and_wait_for_the_next_change() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "what-nobody-sees").unwrap();
    let registry = format!(
        "consul: {{address: 'http://10.9.9.9:8500/', token: {{file: {file:?}}}, datacenter: mumbai, stale: true, wait: 30s}}"
    );
    let yaml = with(&registry, "{consul: {service: 'a/b', tags: [primary, 'x y'], datacenter: pune}}", "");
    let gateway = Inside::new(&yaml);
    let agent = Consul::inside(&gateway.network, AGENT);
    found(&gateway).await;
    after(Duration::from_secs(62)).await;
    let asked = agent.asked();
    let targets = asked.iter().map(|it| format!("{}?{}", it.path, it.query)).collect::<Vec<_>>();
    let first = "/v1/health/service/a%2Fb?passing=1&stale=1&dc=pune&tag=primary&tag=x%20y";
    assert_eq!(targets[0], first);
    // It says that there is none, so it is doubted and asked for again soon; and not more often than that.
    assert_eq!(targets[1], format!("{first}&index=10&wait=5000ms"));
    assert!((8..=12).contains(&targets.len()), "{targets:?}");
    assert!(asked.iter().all(|it| it.header("x-consul-token") == Some("what-nobody-sees")));
    assert!(asked.iter().all(|it| it.header("accept") == Some("application/json")));
    let shown =
        format!("{:?} {:?}", gateway.generation().config.gateway, gateway.generation().config.upstreams);
    assert!(!shown.contains("what-nobody-sees"), "{shown}");
    assert!(!status(&gateway).source.contains("what-nobody-sees"), "{:?}", status(&gateway));
}

#[tokio::test(start_paused = true)]
async fn r1_2_a_change_in_consul_takes_effect_within_two_seconds_and_quiet_costs_a_question_a_minute() {
    let (gateway, agent, servers) = at_consul(&consul("{consul: booking}")).await;
    for _ in 0..3 {
        after(Duration::from_secs(100)).await;
        agent.has_at("booking", &[TWO, THREE]);
        after(2 * SECOND).await;
        let before = servers[0].requests();
        assert_eq!(who(&gateway, 4).await, each(&[TWO, THREE], 2));
        assert_eq!(servers[0].requests(), before, "no new request after it was removed");
        agent.has_at("booking", &[ONE, TWO]);
        after(2 * SECOND).await;
        assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2));
    }
    let asked = agent.asked().len();
    after(Duration::from_hours(1)).await;
    let more = agent.asked().len() - asked;
    assert!((55..=70).contains(&more), "a question waits for 55 s and up to a sixteenth more: {more}");
    // Another service's changes are none of ours.
    (0..50).for_each(|_| agent.has_at("other", &[THREE]));
    after(10 * SECOND).await;
    assert!(agent.asked().len() - asked - more <= 1);
}

#[tokio::test(start_paused = true)]
async fn r1_3_whatever_consul_does_wrong_changes_nothing_and_is_told() {
    let large = 17 << 20;
    let elsewhere = format!("http://{THREE}/v1/health/service/booking");
    let minute = Duration::from_mins(1);
    for (manner, told) in [
        (Manner::Hangs, "no answer within"),
        (Manner::Refuses(500, "No cluster leader"), "No cluster leader"),
        (Manner::Refuses(403, "ACL not found"), "403 Forbidden: ACL not found"),
        (Manner::Refuses(429, "Your IP is issuing too many concurrent connections"), "429"),
        (Manner::Refuses(404, ""), "404"),
        (Manner::Redirects(elsewhere), "302"),
        (Manner::Says("{"), "no list of instances"),
        (Manner::Says("<html>"), "no list of instances"),
        (Manner::Says("[{}]"), "no list of instances"),
        (Manner::Says("[{\"Service\": {\"Port\": \"eighty\"}}]"), "no list of instances"),
        (Manner::TooLarge(large), "length limit exceeded"),
        (Manner::CutOff, "connection"),
        (Manner::Says("[]"), "it says that there is none"),
        (Manner::Says("null"), "it says that there is none"),
        (Manner::Empty, "it says that there is none"),
        (Manner::Hidden, "the token hides a part"),
    ] {
        let (gateway, agent, _servers) = at_consul(&consul("{consul: booking}")).await;
        agent.behaves(manner.clone());
        after(20 * minute).await;
        assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2), "{manner:?}");
        let is = status(&gateway);
        assert!(is.stale.as_ref().is_some_and(|why| why.contains(told)), "{manner:?}: {is:?}");
        assert!(is.age >= 18 * minute, "{manner:?}: {is:?}");
        let asked = agent.asked().len();
        assert!((15..=300).contains(&asked), "{manner:?}: asked {asked} times in twenty minutes");
        // And it comes back.
        agent.behaves(Manner::Well);
        agent.has_at("booking", &[TWO, THREE]);
        after(Duration::from_secs(90)).await;
        assert_eq!(who(&gateway, 4).await, each(&[TWO, THREE], 2), "{manner:?}");
        assert_eq!(status(&gateway).stale, None, "{manner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r1_3_consul_that_is_down_wiped_and_back_costs_no_request() {
    let (gateway, agent, _servers) = at_consul(&consul("{consul: booking}")).await;
    drop(agent);
    after(Duration::from_mins(10)).await;
    assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2));
    assert!(status(&gateway).stale.is_some_and(|why| why.contains("10.9.9.9:8500")));
    // It is back, and knows nobody yet.
    let agent = Consul::inside(&gateway.network, AGENT);
    after(Duration::from_secs(40)).await;
    assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2));
    assert!(status(&gateway).is_held, "{:?}", status(&gateway));
    agent.has_at("booking", &[ONE, THREE]);
    after(3 * SECOND).await;
    assert_eq!((who(&gateway, 4).await, status(&gateway).stale), (each(&[ONE, THREE], 2), None));
    // Wiped while a question waits, and while none does: then one waits for an index that is not there any more.
    agent.wipe();
    agent.has_at("booking", &[ONE, TWO]);
    after(3 * SECOND).await;
    assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2));
    agent.behaves(Manner::Restless);
    after(30 * SECOND).await;
    agent.wipe();
    agent.has_at("booking", &[TWO]);
    after(70 * SECOND).await; // As long as a question waits, and a sixteenth more.
    assert_eq!(who(&gateway, 2).await, each(&[TWO], 2));
    agent.has_at("booking", &[TWO, THREE]);
    after(3 * SECOND).await;
    assert_eq!(who(&gateway, 4).await, each(&[TWO, THREE], 2));
}

/// Whatever an agent does with its index, changes are heard of, and nothing spins.
#[tokio::test(start_paused = true)]
async fn odd_indices_of_consul_delay_a_change_by_seconds_and_nothing_spins() {
    for (manner, most) in [
        (Manner::IndexBack, 310),
        (Manner::IndexZero, 75),
        (Manner::NoIndex, 75),
        (Manner::Impatient, 75),
        (Manner::Restless, 310),
    ] {
        let (gateway, agent, _servers) = at_consul(&consul("{consul: booking}")).await;
        agent.behaves(manner.clone());
        after(10 * SECOND).await;
        let asked = agent.asked().len();
        after(Duration::from_mins(5)).await;
        let more = agent.asked().len() - asked;
        assert!((50..=most).contains(&more), "{manner:?}: asked {more} times in five minutes");
        agent.has_at("booking", &[TWO, THREE]);
        after(7 * SECOND).await;
        assert_eq!(who(&gateway, 4).await, each(&[TWO, THREE], 2), "{manner:?}");
        assert_eq!(status(&gateway).stale, None, "{manner:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r1_3_what_a_server_of_consul_without_a_leader_says_is_taken_but_confirms_no_loss() {
    let yaml = with(
        "consul: {address: 'http://10.9.9.9:8500', stale: true}",
        "{consul: booking, max_shrink: 50%, confirm: 3}",
        "",
    );
    for manner in [Manner::Leaderless, Manner::Behind(Duration::from_mins(2))] {
        let (gateway, agent, _servers) = at_consul(&yaml).await;
        agent.has_at("booking", &[ONE, TWO, THREE]);
        after(3 * SECOND).await;
        agent.behaves(manner.clone());
        agent.has_at("booking", &[ONE]);
        after(Duration::from_mins(10)).await;
        assert_eq!(who(&gateway, 6).await, each(&[ONE, TWO, THREE], 2), "{manner:?}");
        assert!(status(&gateway).stale.is_some_and(|why| why.contains("leader")), "{manner:?}");
        agent.has_at("booking", &[ONE, TWO]);
        after(10 * SECOND).await;
        assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2), "{manner:?}: it is no loss to be confirmed");
        assert!(status(&gateway).stale.is_some(), "{manner:?}: it may not be all there is");
        agent.behaves(Manner::Well);
        after(10 * SECOND).await;
        assert_eq!(status(&gateway).stale, None, "{manner:?}");
        agent.has_at("booking", &[]);
        agent.behaves(manner.clone());
        after(Duration::from_mins(1)).await;
        assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2), "{manner:?}");
    }
    // A delay of a moment is what stale reads are about.
    let (gateway, agent, _servers) = at_consul(&yaml).await;
    agent.behaves(Manner::Behind(Duration::from_millis(80)));
    after(Duration::from_mins(5)).await;
    assert_eq!(status(&gateway).stale, None);
}

#[tokio::test(start_paused = true)]
async fn r1_3_consul_that_loses_nearly_all_is_believed_when_it_says_so_three_times() {
    let (gateway, agent, _servers) = at_consul(&consul("{consul: booking}")).await;
    let ten = (1..=10).map(|number| format!("10.0.0.{number}:80")).collect::<Vec<_>>();
    let ten = ten.iter().map(String::as_str).collect::<Vec<_>>();
    agent.has_at("booking", &ten);
    after(3 * SECOND).await;
    assert_eq!(status(&gateway).endpoints, 10);
    agent.has_at("booking", &ten[..4]);
    after(8 * SECOND).await;
    let is = status(&gateway);
    assert!(is.endpoints == 10 && is.is_held, "{is:?}");
    agent.has_at("booking", &ten);
    after(3 * SECOND).await;
    assert_eq!(status(&gateway).stale, None, "who is back ends the doubt at once");
    agent.has_at("booking", &ten[..4]);
    after(20 * SECOND).await;
    assert_eq!((status(&gateway).endpoints, status(&gateway).stale), (4, None));
}

/// Twenty minutes in which instances come and go each second: no request is lost, and Consul is asked no more than once a
/// second.
#[tokio::test(start_paused = true)]
async fn r1_3_consul_that_flaps_for_twenty_minutes_loses_no_request() {
    let (gateway, agent, _servers) = at_consul(&consul("{consul: booking}")).await;
    let sets: [&[&str]; 5] = [&[ONE, TWO], &[ONE], &[TWO, THREE], &[], &[ONE, TWO, THREE]];
    let asked = agent.asked().len();
    for round in 0..1200 {
        agent.has_at("booking", sets[round % sets.len()]);
        after(SECOND).await;
        let answer = gateway.send(get("/")).await;
        assert_eq!(answer.status(), 200, "round {round}");
    }
    let asked = agent.asked().len() - asked;
    assert!((600..=1250).contains(&asked), "{asked}");
    after(5 * SECOND).await;
    assert_eq!(who(&gateway, 6).await, each(&[ONE, TWO, THREE], 2));
}

#[tokio::test(start_paused = true)]
async fn r1_4_metadata_tags_and_weights_of_consul_are_those_of_endpoints() {
    let yaml = with(
        "consul: {address: 'http://10.9.9.9:8500'}",
        "{consul: booking}",
        ", balance: {policy: weighted_round_robin, only: {version: v2}}",
    );
    let gateway = Inside::new(&yaml);
    let agent = Consul::inside(&gateway.network, AGENT);
    let instance = |at| Instance::new("booking", at).meta("version", "v2");
    let all = [
        instance(ONE).weights(3, 1).meta("zone", "south").tag("primary"),
        instance(TWO).meta("weight", "2").meta("capacity", "7"),
        instance("10.0.0.3:80").id("on-a-node").on_node("10.0.0.3"),
        Instance::new("booking", "10.0.0.4:80").meta("version", "v1"),
        instance("10.0.0.5:0"),
        instance("10.0.0.6:80").status("warning"),
    ];
    agent.has("booking", all.clone());
    let _servers = servers(&gateway.network, &[ONE, TWO, THREE, "10.0.0.4:80", "10.0.0.6:80"]);
    found(&gateway).await;
    let weighed = [(ONE, 3), (TWO, 2), (THREE, 1)].map(|(at, times)| (at.to_owned(), times));
    assert_eq!(who(&gateway, 6).await, BTreeMap::from(weighed));
    let balancer = gateway.generation().state.balancers.get("app").unwrap().clone();
    let endpoints = balancer.endpoints();
    let target = |at: &str| endpoints.iter().find(|it| **it.address() == *at).unwrap().target().clone();
    assert_eq!(target(TWO).capacity, Some(7));
    assert_eq!(target(ONE).label_value("zone"), Some("south"));
    assert_eq!(target(ONE).label_value("tag.primary"), Some("true"));
    let stale = status(&gateway).stale.unwrap();
    assert!(stale.contains("1 of its instances have no address and port"), "{stale}");
    // A subset that is empty is something else than one that is sick.
    gateway.reload(&yaml.replace("version: v2", "version: v3")).unwrap();
    found(&gateway).await;
    assert_eq!(who(&gateway, 1).await, each(&["subset_empty"], 1));
    // By tag, and with those that warn: with their weight for that.
    let of = |service: &str| consul(&format!("{{consul: {service}}}"));
    gateway.reload(&of("{service: booking, tags: [primary]}")).unwrap();
    found(&gateway).await;
    after(3 * SECOND).await;
    assert_eq!(who(&gateway, 2).await, each(&[ONE], 2));
    gateway.reload(&of("{service: booking, passing: false}")).unwrap();
    found(&gateway).await;
    after(3 * SECOND).await;
    assert_eq!(who(&gateway, 10).await.get("10.0.0.6:80"), Some(&2));
}

/// Also from an agent that does not filter.
#[tokio::test(start_paused = true)]
async fn r1_5_an_instance_is_out_as_long_as_a_check_of_it_is_critical() {
    for manner in [Manner::Well, Manner::Unfiltered] {
        let (gateway, agent, _servers) = at_consul(&consul("{consul: booking}")).await;
        agent.behaves(manner.clone());
        for (sick, rest) in [("critical", &[TWO][..]), ("warning", &[TWO]), ("passing", &[ONE, TWO])] {
            agent.has("booking", [Instance::new("booking", ONE).status(sick), Instance::new("booking", TWO)]);
            after(2 * SECOND).await;
            assert_eq!(who(&gateway, 2 * rest.len()).await, each(rest, 2), "{manner:?} {sick}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r1_7_an_endpoint_of_consul_that_flaps_keeps_its_turn() {
    let (gateway, agent, _servers) = at_consul(&consul("{consul: booking}")).await;
    for _ in 0..5 {
        agent.has_at("booking", &[TWO]);
        after(2 * SECOND).await;
        assert_eq!(who(&gateway, 3).await, each(&[TWO], 3));
        agent.has_at("booking", &[ONE, TWO]);
        after(2 * SECOND).await;
        assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2));
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_upstreams_at_one_agent_are_fifty_questions_that_wait() {
    let upstreams = (0..50).map(|n| format!("s{n}: {{endpoints: {{consul: s{n}}}}}")).collect::<Vec<_>>();
    let routes =
        (0..50).map(|n| format!("s{n}: {{match: {{path: /s{n}}}, upstream: s{n}}}")).collect::<Vec<_>>();
    let yaml = format!(
        "
gateway: {{registries: {{consul: {{address: 'http://10.9.9.9:8500'}}}}}}
listeners: {{public: {{listen: ':1'}}}}
upstreams: {{{}}}
routes: {{{}}}
",
        upstreams.join(", "),
        routes.join(", ")
    );
    let gateway = Inside::new(&yaml);
    let agent = Consul::inside(&gateway.network, AGENT);
    (0..50).for_each(|n| agent.has_at(&format!("s{n}"), &[ONE]));
    let _servers = servers(&gateway.network, &[ONE, TWO]);
    found(&gateway).await;
    for n in 0..50 {
        assert_eq!(gateway.send(get(&format!("/s{n}"))).await.status(), 200);
    }
    let before = agent.asked().len();
    assert!(before <= 100, "{before}");
    after(Duration::from_mins(10)).await;
    let asked = agent.asked().len() - before;
    assert!((450..=620).contains(&asked), "{asked}");
}

/// A reload that changes nothing of it neither asks anew nor forgets; and with another token it is asked again.
#[tokio::test(start_paused = true)]
async fn a_reload_goes_on_with_what_consul_has_said() {
    let yaml = consul("{consul: booking}");
    let (gateway, agent, _servers) = at_consul(&yaml).await;
    after(3 * SECOND).await; // It waits for a change by now.
    let asked = agent.asked().len();
    gateway.reload(&yaml.replace("upstream: app}", "priority: 1, upstream: app}")).unwrap();
    found(&gateway).await;
    assert_eq!((who(&gateway, 4).await, agent.asked().len()), (each(&[ONE, TWO], 2), asked));
    agent.behaves(Manner::Refuses(403, "ACL not found"));
    let token = yaml.replace("8500'", "8500', token: another-token");
    gateway.reload(&token).unwrap();
    found(&gateway).await;
    after(SECOND).await;
    assert_eq!(who(&gateway, 4).await, each(&[ONE, TWO], 2), "what was found stays");
    assert!(status(&gateway).stale.is_some_and(|why| why.contains("403") && !why.contains("another-token")));
    assert!(agent.asked().last().unwrap().header("x-consul-token") == Some("another-token"));
}
