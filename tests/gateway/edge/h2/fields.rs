//! How fields are packed (RFC 7541).

use super::{
    Area::Packing,
    COMPRESSION_ERROR, Case, Check, GET_200, PROTOCOL_ERROR,
    Want::{self, Forwarded, GoAway},
    wire::{END_HEADERS, END_STREAM, HEADERS, begin, block, frame, get, literal, number},
};

const INDEX: &str = "RFC 7541, 6.1: the index 0, or one that is in no table, is a decoding error";
const UPDATE: &str = "RFC 7541, 6.3: a size above what SETTINGS allow is a decoding error";
const UPDATE_FIRST: &str = "RFC 7541, 4.2: an update of the size stands at the beginning of a block";
const INTEGER: &str = "RFC 7541, 5.1: a number that exceeds the limits of a decoder is a decoding error";
const STRING: &str = "RFC 7541, 5.2: a string that is longer than its block cannot be decoded";
const HUFFMAN: &str =
    "RFC 7541, 5.2: padding is less than 8 bits, all of them 1, and EOS is a decoding error";
const ERROR: &str = "RFC 9113, 4.3: a decoding error is a connection error of type COMPRESSION_ERROR";
const TABLE: &str = "RFC 7541, 2.3: what was said once is named by its place in the table";

/// Some say `PROTOCOL_ERROR`: the connection ends in any case.
const CODES: &[u32] = &[COMPRESSION_ERROR, PROTOCOL_ERROR];

fn case(name: &str, rests_on: &'static str, block: &[u8], want: Want) -> Case {
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, block);
    Case::new(Packing, name, rests_on, [begin(), head].concat(), want)
}

fn behind(name: &str, rests_on: &'static str, bytes: &[u8]) -> Case {
    case(name, rests_on, &[&block(&get())[..], bytes].concat(), GoAway(CODES))
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, index) in [("0", 0), ("62 of an empty table", 62), ("4096", 4096), ("2^31", 1 << 31)] {
        cases.push(behind(&format!("the index {name}"), INDEX, &number(0x80, 7, index)));
        if index > 0 {
            let named = [number(0x40, 6, index), vec![1, b'y']].concat();
            cases.push(behind(&format!("a name at the index {name}"), INDEX, &named));
        }
    }
    for (name, size) in [("one above the limit", 4097), ("a gigabyte", 1 << 30)] {
        let update = [&number(0x20, 5, size)[..], &block(&get())].concat();
        cases.push(case(&format!("a table of {name}"), UPDATE, &update, GoAway(CODES)));
    }
    cases.push(behind("an update of the size behind a field", UPDATE_FIRST, &number(0x20, 5, 0)));
    for (name, bytes) in [
        ("without an end", vec![0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("above 2^64", vec![0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("that is only begun", vec![0x7f]),
        ("of an index, without an end", vec![0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]),
    ] {
        cases.push(behind(&format!("a number {name}"), INTEGER, &bytes));
    }
    for (name, bytes) in [
        ("a name longer than the block", vec![0, 10, b'x']),
        ("a value longer than the block", vec![0, 1, b'x', 10, b'y']),
        ("a name and no value", vec![0, 1, b'x']),
        ("a string of 2^28 bytes", [vec![0, 1, b'x'], number(0, 7, 1 << 28)].concat()),
        ("half a field", vec![0x40]),
    ] {
        cases.push(behind(name, STRING, &bytes));
    }
    for (name, coded) in [
        ("padding of a whole byte", vec![0x1f, 0xff]),
        ("padding of zeros", vec![0x18]),
        ("padding of two bytes", vec![0x1f, 0xff, 0xff]),
        ("EOS", vec![0xff, 0xff, 0xff, 0xff]),
        ("EOS between two signs", vec![0x1f, 0xff, 0xff, 0xff, 0xf1, 0xff]),
    ] {
        let length = u8::try_from(coded.len()).unwrap() | 0x80;
        let bytes = [vec![0, 1, b'x', length], coded].concat();
        cases.push(behind(&format!("Huffman's code with {name}"), HUFFMAN, &bytes));
    }
    cases.push(behind("a block that is noise", ERROR, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
    // Right.
    let has = |value| Forwarded(vec![Check::Has("x", value), Check::Status(&[200])]);
    let base = block(&get());
    cases.push(case(
        "a value in Huffman's code",
        HUFFMAN,
        &[&base[..], &[0, 1, b'x', 0x81, 0x1f]].concat(),
        has("a"),
    ));
    cases.push(case(
        "a field that is never indexed",
        "RFC 7541, 6.2.3: a field that is never indexed is read as any other",
        &[&base[..], &[0x10, 1, b'x', 1, b'y']].concat(),
        has("y"),
    ));
    cases.push(case("a table of nothing", UPDATE, &[&number(0x20, 5, 0)[..], &base].concat(), GET_200()));
    cases.push(case(
        "two updates of the size",
        UPDATE_FIRST,
        &[&number(0x20, 5, 0)[..], &number(0x20, 5, 4096), &base].concat(),
        GET_200(),
    ));
    let said = [&[0x40, 5][..], b"x-one", &[1, b'y'], &[0xbe]].concat();
    cases.push(case(
        "a field from the table",
        TABLE,
        &[&base[..], &said, &literal(b"x", b"z")].concat(),
        has("z"),
    ));
    let from_static =
        [&[0x82, 0x86][..], &literal(b":path", b"/C00000"), &literal(b":authority", b"a.example")].concat();
    cases.push(case("fields from the static table", TABLE, &from_static, GET_200()));
    let evicted = [&number(0x20, 5, 0)[..], &base, &[0x40, 5], b"x-one", &[1, b'y'], &[0xbe]].concat();
    cases.push(case("what has no room in the table", INDEX, &evicted, GoAway(CODES)));
    cases
}
