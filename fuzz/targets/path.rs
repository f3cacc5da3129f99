//! Paths: what is normalised stays as it is, means one thing only, and is no other path than before.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naka_gateway::route::normalize;

fuzz_target!(|text: &str| {
    let Ok(path) = normalize(text) else { return };
    assert_eq!(normalize(&path).as_deref(), Ok(&*path), "{text:?} is normalised to {path:?}, and that again");
    assert!(path.starts_with('/'), "{text:?}");
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{text:?} is {path:?}");
    let lower = path.to_ascii_lowercase();
    assert!(["%2f", "%5c", "%00", "%2e"].iter().all(|escape| !lower.contains(escape)), "{text:?} is {path:?}");
});
