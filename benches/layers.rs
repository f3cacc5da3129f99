//! What each layer costs: over a service that answers at once, against that service alone.
//!
//! `cargo bench --bench layers [-- --quick]`. All variants run in turn, round after round, in one
//! process, so that what else the machine does hits all alike: read the ratios, not the times of two
//! runs. Each request is made anew and carries a `Context`, as inside any stack of ours; its cost is
//! in the bare service as well. Allocations are counted exactly: a layer that lets pass makes none,
//! or the run ends with 1.

use std::{
    alloc::System,
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    pin::pin,
    process::ExitCode,
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use naka::{
    balance::BalanceLayer,
    bulkhead::{BulkheadConfig, BulkheadLayer},
    clock::Now,
    context::{ClientAddr, Context},
    key::Key,
    problem::ProblemLayer,
    rate_limit::{RateLimitConfig, RateLimitLayer, Window},
    reject::Head,
    timeout::TimeoutLayer,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer, Service, ServiceBuilder, service_fn};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let is_told = |word: &str| std::env::args().any(|arg| arg == word);
    // `cargo test --benches` runs this too, without `--bench`: then it only has to work.
    let (rounds, calls) = if is_told("--bench") && !is_told("--quick") { (201, 5_000) } else { (21, 500) };
    let mut variants = variants();
    for variant in &mut variants {
        variant.measure(calls); // Warm: keys are known, pages are there.
        variant.clear();
    }
    for _ in 0..rounds {
        for variant in &mut variants {
            variant.measure(calls);
        }
    }
    report(&variants, calls)
}

fn variants() -> Vec<Variant> {
    let rate = || RateLimitConfig::new(Window::per_second(1_000_000_000));
    let everybody = |_: &Head<'_>| Some(Key::of("everybody"));
    let by_client = |head: &Head<'_>| ClientAddr::of(head.extensions).map(Key::of_client);
    let bulkhead = || BulkheadLayer::new(BulkheadConfig::new(64));
    let timeout = || TimeoutLayer::new(Duration::from_secs(30));
    let balance = || BalanceLayer::new(["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    let all = ServiceBuilder::new()
        .layer(ProblemLayer::new())
        .layer(RateLimitLayer::new(rate(), by_client))
        .layer(bulkhead())
        .layer(timeout())
        .layer(bulkhead())
        .layer(balance());
    let off = ServiceBuilder::new()
        .layer(ProblemLayer::new())
        .layer(RateLimitLayer::<()>::off())
        .layer(BulkheadLayer::<()>::off())
        .layer(TimeoutLayer::off())
        .layer(BulkheadLayer::<()>::off())
        .layer(BalanceLayer::off());
    vec![
        Variant::new("bare", bare()),
        Variant::new("problem", ProblemLayer::new().layer(bare())),
        Variant::new("rate_limit, one key", RateLimitLayer::new(rate(), everybody).layer(bare())),
        Variant::new("rate_limit, by client", RateLimitLayer::new(rate(), by_client).layer(bare())),
        Variant::new("bulkhead", bulkhead().layer(bare())),
        Variant::new("timeout", timeout().layer(bare())),
        Variant::new("balance", balance().layer(bare())),
        Variant::new("six layers, all on", all.service(bare())),
        Variant::new("six layers, only problem on", off.service(bare())),
    ]
}

type Answer = Ready<Result<Response<Full<Bytes>>, Infallible>>;

fn bare()
-> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible, Future = Answer> + Clone {
    service_fn(|request: Request<()>| {
        black_box(&request);
        ready(Ok(Response::new(Full::from("ok"))))
    })
}

/// One service, and what was measured of it.
struct Variant {
    name: &'static str,
    run: Box<dyn FnMut(u32)>,
    rounds: Vec<Duration>,
    allocations: usize,
}

impl Variant {
    fn new<S, B>(name: &'static str, mut service: S) -> Self
    where
        S: Service<Request<()>, Response = Response<B>, Error = Infallible> + 'static,
        B: Body<Data = Bytes>,
    {
        let run = Box::new(move |calls| {
            let now = Now::read(); // Once a round: in a stack of ours it is read once a request.
            (0..calls).for_each(|_| call(&mut service, now));
        });
        Self { name, run, rounds: Vec::with_capacity(1_000), allocations: 0 }
    }

    fn measure(&mut self, calls: u32) {
        let (region, start) = (Region::new(ALLOCATOR), Now::read());
        (self.run)(calls);
        let (took, change) = (start.elapsed(), region.change());
        self.rounds.push(took);
        self.allocations += change.allocations + change.reallocations;
    }

    fn clear(&mut self) {
        (self.rounds, self.allocations) = (Vec::with_capacity(1_000), 0);
    }
}

/// One request up to the end of its response body. Nothing here ever waits.
fn call<S, B>(service: &mut S, now: Now)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let mut cx = TaskContext::from_waker(Waker::noop());
    let mut request = Request::new(());
    let context = Context::new(now).with_client(IpAddr::V4(Ipv4Addr::LOCALHOST));
    request.extensions_mut().insert(context);
    assert!(service.poll_ready(&mut cx).is_ready());
    let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut cx) else {
        panic!("the service answers at once")
    };
    let mut body = pin!(response.into_body());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        let _ = black_box(frame);
    }
}

/// Says what was measured; fails if a layer allocates more than it may.
fn report(variants: &[Variant], calls: u32) -> ExitCode {
    let bare = &variants[0];
    let per_call = |variant: &Variant| {
        let calls = variant.rounds.len() * calls as usize;
        variant.allocations / calls
    };
    let best_ns = |variant: &Variant| {
        let best = variant.rounds.iter().min().copied().unwrap_or_default();
        best.as_secs_f64() * 1e9 / f64::from(calls)
    };
    println!("{} rounds of {calls} calls each, in turn", bare.rounds.len());
    println!("{:<28} {:>12} {:>13} {:>13}", "", "median ratio", "best ns/call", "allocs/call");
    let mut code = ExitCode::SUCCESS;
    for variant in variants {
        let mut ratios =
            variant.rounds.iter().zip(&bare.rounds).map(|(it, bare)| it.as_secs_f64() / bare.as_secs_f64());
        let mut ratios = ratios.by_ref().collect::<Vec<_>>();
        ratios.sort_unstable_by(f64::total_cmp);
        let (median, best, allocations) = (ratios[ratios.len() / 2], best_ns(variant), per_call(variant));
        println!("{:<28} {median:>12.2} {best:>13.0} {allocations:>13}", variant.name);
        if allocations > per_call(bare) {
            println!("  a layer that lets pass must not allocate");
            code = ExitCode::FAILURE;
        }
    }
    code
}
