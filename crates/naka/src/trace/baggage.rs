//! `baggage`: [W3C Baggage](https://www.w3.org/TR/baggage/), names and values that go with a request wherever it goes.
//!
//! A gateway has no use for it, but for two things: that it does not grow without end, and that what nobody could read is not
//! passed on. Who may not be believed may say anything in it: at the edge it is best [taken away](remove).

use http::{HeaderMap, HeaderName, HeaderValue};

/// Names and values.
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The most members that go on: as many as everybody has to pass on (section 3.3.2).
pub const MEMBERS: usize = 64;
/// The most bytes that go on: as many as everybody has to pass on (section 3.3.2).
pub const BYTES: usize = 8192;

/// Takes all of it away.
pub fn remove(headers: &mut HeaderMap) {
    headers.remove(BAGGAGE);
}

/// Leaves of all lines the members that are to the letter, in one line, from the first up to the bounds. Says whether it took any away.
pub fn cap(headers: &mut HeaderMap) -> bool {
    if !headers.contains_key(BAGGAGE) {
        return false;
    }
    let (mut kept, mut members, mut is_cut) = (Vec::new(), 0, false);
    for line in headers.get_all(BAGGAGE) {
        for member in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let has_room = members < MEMBERS && kept.len() + usize::from(members > 0) + member.len() <= BYTES;
            if !has_room || !is_member(member) {
                is_cut = true;
                continue;
            }
            if members > 0 {
                kept.push(b',');
            }
            kept.extend_from_slice(member);
            members += 1;
        }
    }
    match HeaderValue::from_bytes(&kept) {
        Ok(value) if members > 0 => drop(headers.insert(BAGGAGE, value)),
        _ => remove(headers),
    }
    is_cut
}

/// `name=value;property;property=value` (section 3.3.1).
fn is_member(member: &[u8]) -> bool {
    let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let first = parts.next().and_then(pair);
    first.is_some_and(|(name, value)| is_token(name) && value.is_some_and(is_value))
        && parts
            .all(|part| pair(part).is_some_and(|(name, value)| is_token(name) && value.is_none_or(is_value)))
}

/// A name, and what stands behind `=`, without the blanks around that.
fn pair(part: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    match part.iter().position(|byte| *byte == b'=') {
        Some(at) => Some((part[..at].trim_ascii(), Some(part[at + 1..].trim_ascii()))),
        None => (!part.is_empty()).then_some((part, None)),
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Visible, and none of `"`, `,`, `;`, `\`.
fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_graphic() && !b"\",;\\".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capped(lines: &[&str]) -> (Option<String>, bool) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(BAGGAGE, line.parse().unwrap());
        }
        let is_cut = cap(&mut headers);
        assert!(headers.get_all(BAGGAGE).iter().count() < 2);
        (headers.get(BAGGAGE).map(|value| value.to_str().unwrap().to_owned()), is_cut)
    }

    #[test]
    fn r8_5_what_is_to_the_letter_goes_on_and_nothing_else() {
        for (lines, expected, is_cut) in [
            (
                &["userId=alice,serverNode=DF%2028,isProduction=false"][..],
                "userId=alice,serverNode=DF%2028,isProduction=false",
                false,
            ),
            (
                &["key1=value1;property1;property2, key2 = value2, key3=value3; propertyKey=propertyValue"],
                "key1=value1;property1;property2,key2 = value2,key3=value3; propertyKey=propertyValue",
                false,
            ),
            (&["a=1", "b=2"], "a=1,b=2", false),
            (&["a=", "b=x=y"], "a=,b=x=y", false),
            (&["a=1,b,c=\"3\",=4,d e=5,f=6;;,g=7"], "a=1,g=7", true),
        ] {
            assert_eq!(capped(lines), (Some(expected.to_owned()), is_cut), "{lines:?}");
        }
        assert_eq!(capped(&[]), (None, false));
        assert_eq!(capped(&["", ","]), (None, true));
    }

    #[test]
    fn r8_5_baggage_does_not_grow_without_end() {
        let many = (0..65).map(|number| format!("k{number}=v")).collect::<Vec<_>>();
        let (kept, is_cut) = capped(&[&many.join(",")]);
        assert!(is_cut && kept.as_deref() == Some(&many[..64].join(",")));
        // What fits goes on, also behind what does not.
        let (large, larger) = (format!("a={}", "x".repeat(4000)), format!("b={}", "x".repeat(5000)));
        assert_eq!(capped(&[&large, &larger, "c=1"]), (Some(format!("{large},c=1")), true));
        assert_eq!(capped(&[&format!("a={}", "x".repeat(BYTES - 2))]).0.unwrap().len(), BYTES);
        assert_eq!(capped(&[&format!("a={}", "x".repeat(BYTES - 1))]), (None, true));
    }
}
