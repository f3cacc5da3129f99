//! Lines of `Forwarded`: what is read says the same once more when our element has been added to it.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use naka_gateway::forwarded::{read, written};

fuzz_target!(|bytes: &[u8]| {
    let Ok(line) = std::str::from_utf8(bytes) else { return };
    let Ok(elements) = read(line) else { return };
    assert!(!elements.is_empty());
    assert!(line.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~')), "it goes into a header");
    let client = elements.iter().find_map(|element| element.address());
    let client = (line.len() % 2 == 0).then(|| client.unwrap_or(IpAddr::from([192, 0, 2, 7]))); // Or it has none.
    let host = elements.iter().find_map(|element| element.host.as_deref());
    let ours = written(client, host, "https");
    let longer = format!("{line}, {ours}");
    let all = read(&longer).expect("what is added to a good line makes a good line");
    let (last, before) = all.split_last().expect("there is ours");
    assert_eq!(before, elements);
    assert_eq!((last.address(), last.host.as_deref()), (client, host));
});
