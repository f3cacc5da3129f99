//! What a remembered key costs, in counted bytes; in a binary of its own, for all of it is counted.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::alloc::System;

use http::{Request, Response};
use http_body_util::Empty;
use naka::{
    clock::Now,
    context::Context,
    key::Key,
    rate_limit::{Fields, RateLimitConfig, RateLimitLayer, Window},
    reject::Head,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer, Service};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Clone, Copy)]
struct User(u64);

fn by_user(head: &Head<'_>) -> Option<Key> {
    head.extensions.get::<User>().map(|user| Key::of(user.0))
}

/// One test, so that nothing else allocates meanwhile.
#[tokio::test]
async fn r2_9_a_million_keys_take_at_most_96_bytes_each_and_a_known_key_allocates_nothing() {
    let config = RateLimitConfig::new(Window::per_hour(5)).max_keys(10_000_000);
    let layer = RateLimitLayer::new(config.clone(), by_user);
    let answer =
        |_: Request<()>| std::future::ready(Ok::<_, ()>(Response::new(Empty::<bytes::Bytes>::new())));
    let mut service = layer.layer(tower::service_fn(answer));
    let mut request = Request::new(());
    request.extensions_mut().insert(Context::new(Now::read()));
    request.extensions_mut().insert(User(0));
    let ask = |number: u64| {
        let mut request = request.clone();
        request.extensions_mut().insert(User(number));
        request
    };

    let region = Region::new(ALLOCATOR);
    let kept = || {
        let change = region.change(); // Growing in place counts as allocating what is added.
        change.bytes_allocated - change.bytes_deallocated
    };
    // Also where a table has just grown: at 32 shards the maps do so at about 917,504 keys.
    let mut worst = 0;
    for number in 0..1_000_000 {
        assert_eq!(service.call(ask(number)).await.unwrap().status(), 200);
        if number > 100_000 && number % 10_000 == 0 {
            worst = worst.max(kept() * 100 / layer.keys());
        }
    }
    let (keys, bytes) = (layer.keys(), kept());
    assert_eq!(keys, 1_000_000);
    println!("{} bytes a key at {keys} keys; at most {worst} hundredths on the way", bytes / keys);
    assert!(
        bytes / keys <= 96 && worst <= 9_600,
        "{} bytes a key, {worst} hundredths on the way",
        bytes / keys
    );

    let allocations = |fields, number| {
        let layer = layer.reconfigured(&config.clone().fields(fields));
        let mut service = layer.layer(service.clone());
        drop(service.call(ask(number))); // The first one carries a shard over.
        let known = ask(number);
        let region = Region::new(ALLOCATOR);
        let response = service.call(known);
        let change = region.change();
        drop(response);
        change.allocations
    };
    assert_eq!(allocations(Fields::Off, 0), 0);
    assert_eq!(allocations(Fields::Draft, 1), 1, "the value");
}
