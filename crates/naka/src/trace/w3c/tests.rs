use super::*;
use crate::trace::{self, Format, Ids};

const TRACE: &str = "12345678901234567890123456789012";

type Lines = Vec<(&'static str, String)>;

/// What goes on, of these lines.
fn goes_on(lines: &[(&str, String)]) -> (String, Option<String>) {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    let ids = Ids::new();
    let context = match extract(&headers) {
        Some(Extracted::Span(context, _)) => context.child(&ids),
        _ => Context::root(&ids, false),
    };
    trace::inject(&context, &mut headers, &[Format::W3c]);
    let said = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert!(
        headers.get_all(TRACEPARENT).iter().count() == 1 && headers.get_all(TRACESTATE).iter().count() < 2
    );
    let Some(Extracted::Span(..)) = extract(&headers) else { panic!("{headers:?} cannot be read") };
    (said(&TRACEPARENT).unwrap(), said(&TRACESTATE))
}

fn parent(value: &str) -> Lines {
    vec![("traceparent", value.to_owned())]
}

fn states(lines: &[&str]) -> Lines {
    let mut all = parent(&format!("00-{TRACE}-1234567890123456-00"));
    all.extend(lines.iter().map(|line| ("tracestate", (*line).to_owned())));
    all
}

#[test]
fn r8_1_a_parent_to_the_letter_is_gone_on_with() {
    for (value, flags) in [
        ("00-12345678901234567890123456789012-1234567890123456-01", "01"),
        ("00-12345678901234567890123456789012-1234567890123456-00", "00"),
        ("00-12345678901234567890123456789012-1234567890123456-03", "03"),
        // What else is in it, nobody knows.
        ("00-12345678901234567890123456789012-1234567890123456-ff", "03"),
        ("cc-12345678901234567890123456789012-1234567890123456-01", "01"),
        ("cc-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like", "01"),
        ("cc-12345678901234567890123456789012-1234567890123456-01-", "01"),
        (" 00-12345678901234567890123456789012-1234567890123456-01\t", "01"),
    ] {
        let (said, state) = goes_on(&parent(value));
        let fields = said.split('-').collect::<Vec<_>>();
        assert_eq!([fields[0], fields[1], fields[3]], ["00", TRACE, flags], "{value:?}");
        assert!(fields[2] != "1234567890123456" && state.is_none(), "{value:?}");
    }
}

#[test]
fn r8_1_what_is_no_parent_begins_a_new_trace() {
    for value in [
        "",
        "00-12345678901234567890123456789012-1234567890123456-01-",
        "00-12345678901234567890123456789012-1234567890123456-01-x",
        "00-12345678901234567890123456789012-1234567890123456-011",
        "00-12345678901234567890123456789012-1234567890123456",
        "cc-12345678901234567890123456789012-1234567890123456-01.x",
        "cc-12345678901234567890123456789012-1234567890123456-011",
        "ff-12345678901234567890123456789012-1234567890123456-01",
        "00-1234567890123456789012345678901A-1234567890123456-01",
        "0A-12345678901234567890123456789012-1234567890123456-01",
        "00-00000000000000000000000000000000-1234567890123456-01",
        "00-12345678901234567890123456789012-0000000000000000-01",
        "00_12345678901234567890123456789012_1234567890123456_01",
        "00-123456789012345678901234567890-12-1234567890123456-1",
        "00-12345678901234567890123456789012-1234567890123456-.0",
    ] {
        let mut lines = parent(value);
        lines.push(("tracestate", "foo=1".to_owned()));
        let (said, state) = goes_on(&lines);
        assert!(!said.contains(TRACE) && state.is_none(), "{value:?}: {said} {state:?}");
        assert!(said.ends_with("-02"), "{value:?}: {said} was drawn at random");
    }
    let one = || parent("00-12345678901234567890123456789012-1234567890123456-01");
    assert!(!goes_on(&[one(), one()].concat()).0.contains(TRACE), "who of two asks, nobody knows");
}

#[test]
fn r8_1_what_others_want_to_find_again_goes_on_in_order() {
    let long = |key: &str, length: usize| format!("{key}={}", "x".repeat(length - key.len() - 1));
    let (key, too_long) = (format!("{}=1", "z".repeat(256)), format!("{}=1", "z".repeat(257)));
    let members =
        |count: usize| (0..count).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
    let (all, one_more) = (members(MEMBERS), members(MEMBERS + 1));
    for (lines, expected) in [
        (&["foo=1,bar=2"][..], Some("foo=1,bar=2")),
        (&["foo=1,bar=2", "rojo=1,congo=2", "baz=3"], Some("foo=1,bar=2,rojo=1,congo=2,baz=3")),
        (&["foo=1 \t , \t bar=2, \t baz=3"], Some("foo=1,bar=2,baz=3")),
        (&["foo= a b ,,", "", "bar=2"], Some("foo= a b,bar=2")),
        (&["foo=1,foo=2", "foo=3"], Some("foo=1")),
        (&["foo@=1,foo@@bar=2,foo@bar@baz=3,0_-*/=4"], Some("foo@=1,foo@@bar=2,foo@bar@baz=3,0_-*/=4")),
        (&["foo=1", &key], Some(&*format!("foo=1,{key}"))),
        (&["foo=1", &too_long], None),
        (&[&all], Some(&*all)),
        (&[&one_more], None),
        (&["", ","], None),
        (&["foo =1"], None),
        (&["FOO=1"], None),
        (&["foo.bar=1"], None),
        (&["@foo=1,bar=2"], None),
        (&["foo=bar=baz"], None),
        (&["foo=,bar=3"], None),
        (&["foo"], None),
        (&["foo=\u{e9}"], None),
        (&[&long("foo", 261)], None),
        (&[&long("foo", 260)], Some(&*long("foo", 260))),
        // Too much of it: the large ones go first, from the end, and then the last.
        (
            &[&long("a", 130), &long("b", 130), "c=1", &long("d", 255)],
            Some(&*format!("{},{},c=1", long("a", 130), long("b", 130))),
        ),
        (
            &[&long("a", 128), &long("b", 128), &long("c", 128), &long("d", 128), "e=1"],
            Some(&*[long("a", 128), long("b", 128), long("c", 128)].join(",")),
        ),
    ] {
        let (said, state) = goes_on(&states(lines));
        assert_eq!(state.as_deref(), expected, "{lines:?}");
        assert!(said.contains(TRACE), "{lines:?}: the parent is right");
    }
}
