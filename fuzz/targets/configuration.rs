//! Configurations: whatever is written is read or refused, and what is laid out says the same, once and again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naka_gateway::config::{checked::Config, format_str, parse_str};

fuzz_target!(|text: &str| {
    let read = parse_str("gateway.yaml", text);
    let Ok(laid_out) = format_str("gateway.yaml", text) else { return };
    let again = format_str("gateway.yaml", &laid_out.text).expect("what is laid out can be laid out");
    assert_eq!(again.text, laid_out.text, "{text}");
    let read_again = parse_str("gateway.yaml", &laid_out.text);
    assert_eq!(read.is_ok(), read_again.is_ok(), "{text}\nis laid out as\n{}", laid_out.text);
    if let (Ok((one, _)), Ok((other, _))) = (read, read_again) {
        // Policies and upstreams know their lines, which are others now.
        let policies = |config: &Config| {
            config.policies.iter().map(|(name, policy)| (name.clone(), policy.kind.clone())).collect::<Vec<_>>()
        };
        assert!(policies(&one) == policies(&other), "{text}\n{}", laid_out.text);
        assert!(one.listeners == other.listeners, "{text}\n{}", laid_out.text);
        assert!(one.upstreams.keys().eq(other.upstreams.keys()), "{text}\n{}", laid_out.text);
        assert!(one.routes.keys().eq(other.routes.keys()), "{text}\n{}", laid_out.text);
    }
});
