//! Endpoints out of registries, and what becomes of them while a registry is well or not. Under virtual time.

mod consul;
mod eureka;
mod network;
mod secured;

use std::{collections::BTreeMap, time::Duration};

use naka_gateway::discover::Status;
use naka_testkit::{
    network::Network,
    upstream::{Upstream, ok},
};

use crate::inside::{Inside, get};

const SECOND: Duration = Duration::from_secs(1);

/// The first answer of everybody, before a connection is accepted.
async fn found(gateway: &Inside) {
    gateway.generation().state.found().await;
}

/// Lets so much time go by, and whatever happens in it happen.
async fn after(time: Duration) {
    tokio::time::sleep(time).await;
}

fn with(registries: &str, endpoints: &str, rest: &str) -> String {
    format!(
        "
gateway: {{registries: {{{registries}}}}}
listeners: {{public: {{listen: ':1'}}}}
upstreams: {{app: {{endpoints: {endpoints}{rest}}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
"
    )
}

/// Servers that say who they are.
fn servers(network: &Network, addresses: &[&str]) -> Vec<Upstream> {
    let start = |address: &&str| {
        let name = address.to_string();
        Upstream::inside(network, address, move |_| ok(&name))
    };
    addresses.iter().map(start).collect()
}

/// Who answers, in so many requests.
async fn who(gateway: &Inside, times: usize) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for _ in 0..times {
        let answer = gateway.send(get("/")).await;
        let who = if answer.status() == 200 {
            String::from_utf8_lossy(answer.body()).into_owned()
        } else {
            answer.headers()["naka-reason"].to_str().unwrap().to_owned()
        };
        *all.entry(who).or_insert(0) += 1;
    }
    all
}

fn each(addresses: &[&str], times: usize) -> BTreeMap<String, usize> {
    addresses.iter().map(|address| (address.to_string(), times)).collect()
}

fn status(gateway: &Inside) -> Status {
    let generation = gateway.generation();
    generation.state.discoveries.get("app").unwrap().status(naka::clock::Now::read())
}

const ONE: &str = "10.0.0.1:80";
const TWO: &str = "10.0.0.2:80";
const THREE: &str = "10.0.0.3:80";
