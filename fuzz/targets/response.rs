//! Responses over HTTP/1.1: what is read of them is what hyper reads, but for what we are stricter in.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use naka_gateway::upstream::read_both_ways;

fuzz_target!(|bytes: &[u8]| {
    let [piece, how, bytes @ ..] = bytes else { return };
    let asked = if how & 1 == 0 { Method::GET } else { Method::HEAD };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(read_both_ways(bytes, usize::from(*piece), &asked, how & 2 == 0));
});
