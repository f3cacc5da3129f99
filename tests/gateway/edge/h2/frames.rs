//! Frames, streams and settings (RFC 9113, sections 3.4 to 6).

use super::{
    Area::Frames,
    Case, Check, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, GET_200, PROTOCOL_ERROR, STREAM_CLOSED,
    Want::{self, GoAway, Reset},
    wire::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE,
        PRIORITISED, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, and, begin, block, frame,
        get, headers, post, setting,
    },
};

const PREFACE_RULE: &str =
    "RFC 9113, 3.4: an invalid connection preface is a connection error of type PROTOCOL_ERROR";
const SETTINGS_FIRST: &str = "RFC 9113, 3.4: the preface is followed by a SETTINGS frame, which may be empty";
const SIZE: &str = "RFC 9113, 4.2: a frame above SETTINGS_MAX_FRAME_SIZE, or too small for what it has to hold, is FRAME_SIZE_ERROR";
const UNKNOWN: &str = "RFC 9113, 4.1: frames of unknown types are ignored and discarded";
const FLAGS: &str = "RFC 9113, 4.1: flags without a meaning, and the reserved bit, are ignored";
const BLOCK: &str = "RFC 9113, 4.3: a field block is a contiguous run of frames, with none of any other type or stream between";
const IDLE: &str = "RFC 9113, 5.1: anything but HEADERS or PRIORITY on an idle stream is a connection error of type PROTOCOL_ERROR";
const HALF: &str = "RFC 9113, 5.1: what comes behind END_STREAM is a stream error of type STREAM_CLOSED";
const IDS: &str = "RFC 9113, 5.1.1: streams of clients are odd, and each is greater than all before";
const ON_STREAM: &str =
    "RFC 9113, 6: DATA, HEADERS, PRIORITY, RST_STREAM and CONTINUATION are of a stream, which is not 0";
const ON_CONNECTION: &str = "RFC 9113, 6: SETTINGS, PING and GOAWAY are of the connection, stream 0";
const PADDING: &str = "RFC 9113, 6.1, 6.2: padding that is as long as the payload or longer is a connection error of type PROTOCOL_ERROR";
const PRIORITY_SIZE: &str =
    "RFC 9113, 6.3: PRIORITY of another length than 5 is a stream error of type FRAME_SIZE_ERROR";
const SELF: &str = "RFC 7540, 5.3.1: a stream cannot depend on itself (RFC 9113, 5.3.2: what is said of priority may be ignored)";
const SETTINGS_VALUE: &str =
    "RFC 9113, 6.5.2: values outside of what a setting may be are a connection error";
const SETTINGS_SIZE: &str =
    "RFC 9113, 6.5: an ACK with a payload, or a length that is no multiple of 6, is FRAME_SIZE_ERROR";
const SETTINGS_UNKNOWN: &str = "RFC 9113, 6.5.2: a setting that is not known is ignored";
const PUSH: &str =
    "RFC 9113, 8.4: a client cannot push: PUSH_PROMISE is a connection error of type PROTOCOL_ERROR";
const PING_RULE: &str = "RFC 9113, 6.7: a PING has 8 bytes";
const WINDOW: &str =
    "RFC 9113, 6.9: an increment of 0 is an error of type PROTOCOL_ERROR, of the stream or of the connection";
const OVERFLOW: &str = "RFC 9113, 6.9.1: a window above 2^31-1 is an error of type FLOW_CONTROL_ERROR";
const CONTINUES: &str =
    "RFC 9113, 6.10: CONTINUATION follows HEADERS or CONTINUATION without END_HEADERS, of the same stream";

fn case(name: &str, rests_on: &'static str, frames: &[Vec<u8>], want: Want) -> Case {
    Case::new(Frames, name, rests_on, [begin(), frames.concat()].concat(), want)
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = prefaces();
    cases.extend(sizes());
    cases.extend(streams());
    cases.extend(settings());
    cases.extend(windows());
    cases.extend(blocks());
    cases.extend(ignored());
    cases
}

fn whole(stream: u32) -> Vec<u8> {
    headers(stream, END_STREAM, &get())
}

fn prefaces() -> Vec<Case> {
    let raw = |name: &str, rests_on, sends: Vec<u8>| {
        Case::new(Frames, name, rests_on, sends, GoAway(&[PROTOCOL_ERROR]))
    };
    let settings = frame(SETTINGS, 0, 0, b"");
    vec![
        raw(
            "the preface ends otherwise",
            PREFACE_RULE,
            [&b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..], &settings, &whole(1)].concat(),
        ),
        raw(
            "the preface has another version",
            PREFACE_RULE,
            [&b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n"[..], &settings, &whole(1)].concat(),
        ),
        raw("there is none", PREFACE_RULE, [settings.clone(), whole(1)].concat()),
        raw(
            "HTTP/1.1 where only HTTP/2 is spoken",
            PREFACE_RULE,
            b"GET /C00000 HTTP/1.1\r\nhost: a.example\r\n\r\n".to_vec(),
        ),
        raw("the preface twice", PREFACE_RULE, [PREFACE, PREFACE, &settings, &whole(1)].concat())
            .or(&[FRAME_SIZE_ERROR]),
        raw("no SETTINGS behind the preface", SETTINGS_FIRST, [PREFACE, &whole(1)].concat()),
        raw(
            "PING in place of SETTINGS",
            SETTINGS_FIRST,
            [PREFACE, &frame(PING, 0, 0, &[0; 8]), &settings, &whole(1)].concat(),
        ),
        raw(
            "an acknowledgement in place of SETTINGS",
            SETTINGS_FIRST,
            [PREFACE, &frame(SETTINGS, ACK, 0, b""), &settings, &whole(1)].concat(),
        ),
        Case::new(
            Frames,
            "SETTINGS that say nothing",
            SETTINGS_FIRST,
            [PREFACE, &settings, &whole(1)].concat(),
            GET_200(),
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let size =
        |name: &str, rests_on, frames: &[Vec<u8>]| case(name, rests_on, frames, GoAway(&[FRAME_SIZE_ERROR]));
    let long = vec![0; 16_385];
    let mut cases = vec![
        case(
            "DATA above the maximum",
            SIZE,
            &[headers(1, 0, &post()), frame(DATA, END_STREAM, 1, &long)],
            Reset(&[FRAME_SIZE_ERROR], &[]),
        )
        .may_be_seen(),
        size("HEADERS above the maximum", SIZE, &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &long)]),
        size("SETTINGS above the maximum", SIZE, &[frame(SETTINGS, 0, 0, &[0; 16_386]), whole(1)]),
        size("an unknown frame above the maximum", SIZE, &[frame(0x42, 0, 0, &long), whole(1)]),
        size(
            "HEADERS too short for a priority",
            SIZE,
            &[frame(HEADERS, END_HEADERS | PRIORITISED, 1, &[0; 4])],
        ),
        size(
            "HEADERS too short for the length of its padding",
            SIZE,
            &[frame(HEADERS, END_HEADERS | PADDED, 1, b"")],
        )
        .or(&[PROTOCOL_ERROR]),
        size(
            "DATA too short for the length of its padding",
            SIZE,
            &[headers(1, 0, &post()), frame(DATA, PADDED, 1, b"")],
        )
        .or(&[PROTOCOL_ERROR])
        .may_be_seen(),
        size("RST_STREAM of 3", SIZE, &[headers(1, 0, &post()), frame(RST_STREAM, 0, 1, &[0; 3])])
            .may_be_seen(),
        size("RST_STREAM of 5", SIZE, &[headers(1, 0, &post()), frame(RST_STREAM, 0, 1, &[0; 5])])
            .may_be_seen(),
        size("GOAWAY of 7", SIZE, &[frame(GOAWAY, 0, 0, &[0; 7])]),
    ];
    for length in [0, 7, 9] {
        cases.push(size(
            &format!("PING of {length}"),
            PING_RULE,
            &[frame(PING, 0, 0, &vec![0; length]), whole(1)],
        ));
    }
    for length in [0, 3, 5] {
        cases.push(size(
            &format!("WINDOW_UPDATE of {length}"),
            SIZE,
            &[frame(WINDOW_UPDATE, 0, 0, &vec![1; length]), whole(1)],
        ));
    }
    for length in [4, 6] {
        cases.push(case(
            &format!("PRIORITY of {length}"),
            PRIORITY_SIZE,
            &[frame(PRIORITY, 0, 1, &vec![1; length]), whole(1)],
            Reset(&[FRAME_SIZE_ERROR], &[]),
        ));
    }
    for (name, length) in [("one byte", 1), ("five bytes", 5), ("seven bytes", 7)] {
        cases.push(size(
            &format!("SETTINGS of {name}"),
            SETTINGS_SIZE,
            &[frame(SETTINGS, 0, 0, &vec![0; length]), whole(1)],
        ));
    }
    cases.push(size(
        "an acknowledgement with a payload",
        SETTINGS_SIZE,
        &[frame(SETTINGS, ACK, 0, &setting(1, 4096)), whole(1)],
    ));
    // Behind the codes stand those that say less.
    cases.into_iter().map(|case| case.or(&[PROTOCOL_ERROR])).collect()
}

fn streams() -> Vec<Case> {
    let protocol =
        |name: &str, rests_on, frames: &[Vec<u8>]| case(name, rests_on, frames, GoAway(&[PROTOCOL_ERROR]));
    let mut cases = vec![
        protocol("stream 2", IDS, &[whole(2)]),
        protocol(
            "a stream below another",
            IDS,
            &[frame(HEADERS, END_HEADERS | END_STREAM, 5, &block(&and(get(), "x", "y"))), whole(3)],
        )
        .may_be_seen(),
        case(
            "the same stream again",
            HALF,
            &[whole(1), whole(1)],
            Reset(&[STREAM_CLOSED, PROTOCOL_ERROR], &[]),
        )
        .may_be_seen(),
        case(
            "the same stream again, after it was reset",
            HALF,
            &[headers(1, 0, &post()), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), whole(1)],
            GoAway(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        )
        .may_be_seen(),
        case(
            "DATA behind the end",
            HALF,
            &[whole(1), frame(DATA, END_STREAM, 1, b"more")],
            Reset(&[STREAM_CLOSED, PROTOCOL_ERROR], &[]),
        )
        .may_be_seen(),
        case(
            "DATA behind the end of a body",
            HALF,
            &[
                headers(1, 0, &post()),
                frame(DATA, END_STREAM, 1, b"body"),
                frame(DATA, END_STREAM, 1, b"more"),
            ],
            Reset(&[STREAM_CLOSED, PROTOCOL_ERROR], &[]),
        )
        .may_be_seen(),
        case("streams may be left out", IDS, &[whole(7)], GET_200()),
        protocol(
            "PUSH_PROMISE",
            PUSH,
            &[frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &block(&get())].concat())],
        ),
        protocol(
            "PUSH_PROMISE on a stream that is open",
            PUSH,
            &[
                headers(1, 0, &post()),
                frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &block(&get())].concat()),
            ],
        )
        .may_be_seen(),
    ];
    for (name, kind, payload) in [
        ("DATA", DATA, &b"data"[..]),
        ("RST_STREAM", RST_STREAM, &[0, 0, 0, 8]),
        ("WINDOW_UPDATE", WINDOW_UPDATE, &[0, 0, 0, 1]),
    ] {
        cases.push(protocol(
            &format!("{name} on an idle stream"),
            IDLE,
            &[frame(kind, 0, 3, payload), whole(1)],
        ));
    }
    cases.push(protocol(
        "CONTINUATION on an idle stream",
        CONTINUES,
        &[frame(CONTINUATION, END_HEADERS, 1, &block(&get()))],
    ));
    for (name, kind, payload) in [
        ("DATA", DATA, b"data".to_vec()),
        ("HEADERS", HEADERS, block(&get())),
        ("PRIORITY", PRIORITY, vec![0, 0, 0, 0, 1]),
        ("RST_STREAM", RST_STREAM, vec![0, 0, 0, 8]),
        ("CONTINUATION", CONTINUATION, block(&get())),
    ] {
        cases.push(protocol(
            &format!("{name} of stream 0"),
            ON_STREAM,
            &[frame(kind, END_HEADERS, 0, &payload), whole(1)],
        ));
    }
    for (name, kind, payload) in
        [("SETTINGS", SETTINGS, &b""[..]), ("PING", PING, &[0; 8]), ("GOAWAY", GOAWAY, &[0; 8])]
    {
        cases.push(protocol(
            &format!("{name} of a stream"),
            ON_CONNECTION,
            &[frame(kind, 0, 1, payload), whole(1)],
        ));
    }
    for (name, length) in [("as long as the payload", 5), ("longer than the payload", 200)] {
        let data = [&[length][..], b"data"].concat();
        cases.push(
            protocol(
                &format!("padding of DATA {name}"),
                PADDING,
                &[headers(1, 0, &post()), frame(DATA, PADDED | END_STREAM, 1, &data)],
            )
            .may_be_seen(),
        );
    }
    let long = [&[255][..], &block(&get())].concat();
    cases.push(protocol(
        "padding of HEADERS longer than the payload",
        PADDING,
        &[frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &long)],
    ));
    cases
}

fn settings() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, id, value, code) in [
        ("ENABLE_PUSH of 2", 2, 2, PROTOCOL_ERROR),
        ("INITIAL_WINDOW_SIZE of 2^31", 4, 1 << 31, FLOW_CONTROL_ERROR),
        ("INITIAL_WINDOW_SIZE of 2^32-1", 4, u32::MAX, FLOW_CONTROL_ERROR),
        ("MAX_FRAME_SIZE of 0", 5, 0, PROTOCOL_ERROR),
        ("MAX_FRAME_SIZE of 16383", 5, 16_383, PROTOCOL_ERROR),
        ("MAX_FRAME_SIZE of 2^24", 5, 1 << 24, PROTOCOL_ERROR),
        ("ENABLE_CONNECT_PROTOCOL of 2", 8, 2, PROTOCOL_ERROR),
    ] {
        let codes: &'static [u32] = if code == FLOW_CONTROL_ERROR {
            &[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]
        } else {
            &[PROTOCOL_ERROR]
        };
        cases.push(case(
            name,
            SETTINGS_VALUE,
            &[frame(SETTINGS, 0, 0, &setting(id, value)), whole(1)],
            GoAway(codes),
        ));
    }
    for (name, id, value) in [
        ("a setting that is unknown", 0x99, 7),
        ("setting 0", 0, 0),
        ("a table of no size", 1, 0),
        ("a table of 4 GiB", 1, u32::MAX),
        ("no streams of ours", 3, 0),
        ("the largest frames", 5, (1 << 24) - 1),
        ("the largest windows", 4, (1 << 31) - 1),
        ("short lists of fields", 6, 1 << 14),
    ] {
        cases.push(case(
            name,
            SETTINGS_UNKNOWN,
            &[frame(SETTINGS, 0, 0, &setting(id, value)), whole(1)],
            GET_200(),
        ));
    }
    cases.push(case(
        "the last of two values holds",
        "RFC 9113, 6.5.3: the values are processed in the order they appear",
        &[frame(SETTINGS, 0, 0, &[setting(4, 0), setting(4, 65_535)].concat()), whole(1)],
        GET_200(),
    ));
    cases
}

fn windows() -> Vec<Case> {
    let most = (0x7fff_ffff_u32).to_be_bytes();
    vec![
        case(
            "an increment of 0, of the connection",
            WINDOW,
            &[frame(WINDOW_UPDATE, 0, 0, &[0; 4]), whole(1)],
            GoAway(&[PROTOCOL_ERROR]),
        ),
        case(
            "an increment of 0, of a stream",
            WINDOW,
            &[headers(1, 0, &post()), frame(WINDOW_UPDATE, 0, 1, &[0; 4])],
            Reset(&[PROTOCOL_ERROR], &[]),
        )
        .may_be_seen(),
        case(
            "an increment of 0 with the reserved bit",
            WINDOW,
            &[frame(WINDOW_UPDATE, 0, 0, &[128, 0, 0, 0]), whole(1)],
            GoAway(&[PROTOCOL_ERROR]),
        ),
        case(
            "the window of the connection above 2^31-1",
            OVERFLOW,
            &[frame(WINDOW_UPDATE, 0, 0, &most), frame(WINDOW_UPDATE, 0, 0, &most), whole(1)],
            GoAway(&[FLOW_CONTROL_ERROR]),
        ),
        case(
            "the window of a stream above 2^31-1",
            OVERFLOW,
            &[headers(1, 0, &post()), frame(WINDOW_UPDATE, 0, 1, &most)],
            Reset(&[FLOW_CONTROL_ERROR], &[]),
        )
        .may_be_seen(),
        case(
            "a new initial window that takes a stream's above 2^31-1",
            OVERFLOW,
            &[
                headers(1, 0, &post()),
                frame(WINDOW_UPDATE, 0, 1, &0x7000_0000_u32.to_be_bytes()),
                frame(SETTINGS, 0, 0, &setting(4, 0x7fff_ffff)),
            ],
            GoAway(&[FLOW_CONTROL_ERROR]),
        )
        .may_be_seen(),
        case(
            "an increment in time",
            WINDOW,
            &[frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]), whole(1)],
            GET_200(),
        ),
    ]
}

fn blocks() -> Vec<Case> {
    let fields = block(&and(get(), "x-long", "a value that is cut"));
    let (one, two) = fields.split_at(fields.len() - 7);
    let open = frame(HEADERS, END_STREAM, 1, one);
    let protocol =
        |name: &str, rests_on, frames: &[Vec<u8>]| case(name, rests_on, frames, GoAway(&[PROTOCOL_ERROR]));
    let right = |name: &str, frames: &[Vec<u8>]| {
        case(
            name,
            CONTINUES,
            frames,
            Want::Forwarded(vec![Check::Has("x-long", "a value that is cut"), Check::Status(&[200])]),
        )
    };
    let mut cases = vec![
        right("a block in two frames", &[open.clone(), frame(CONTINUATION, END_HEADERS, 1, two)]),
        right(
            "a block in three, one of them empty",
            &[open.clone(), frame(CONTINUATION, 0, 1, b""), frame(CONTINUATION, END_HEADERS, 1, two)],
        ),
        right(
            "all of a block in CONTINUATION",
            &[frame(HEADERS, END_STREAM, 1, b""), frame(CONTINUATION, END_HEADERS, 1, &fields)],
        ),
        protocol(
            "CONTINUATION of another stream",
            CONTINUES,
            &[open.clone(), frame(CONTINUATION, END_HEADERS, 3, two)],
        ),
        protocol(
            "CONTINUATION of stream 0 in a block",
            CONTINUES,
            &[open.clone(), frame(CONTINUATION, END_HEADERS, 0, two)],
        ),
        protocol(
            "CONTINUATION behind the end of a block",
            CONTINUES,
            &[whole(1), frame(CONTINUATION, END_HEADERS, 1, b"")],
        )
        .may_be_seen(),
        protocol(
            "CONTINUATION behind DATA",
            CONTINUES,
            &[headers(1, 0, &post()), frame(DATA, 0, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, b"")],
        )
        .may_be_seen(),
    ];
    for (name, between) in [
        ("HEADERS of another stream", whole(3)),
        ("HEADERS of the same stream", whole(1)),
        ("DATA", frame(DATA, 0, 1, b"x")),
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, b"")),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("RST_STREAM", frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("an unknown frame", frame(0x42, 0, 0, b"x")),
    ] {
        cases.push(protocol(
            &format!("{name} inside of a block"),
            BLOCK,
            &[open.clone(), between, frame(CONTINUATION, END_HEADERS, 1, two)],
        ));
    }
    cases
}

fn ignored() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut right =
        |name: &str, rests_on, frames: &[Vec<u8>]| cases.push(case(name, rests_on, frames, GET_200()));
    right("an unknown frame", UNKNOWN, &[frame(0x42, 0xff, 0, b"whatever"), whole(1)]);
    right("an unknown frame of an idle stream", UNKNOWN, &[frame(0xf0, 0, 9, b""), whole(1)]);
    right("ALTSVC of a client", UNKNOWN, &[frame(0x0a, 0, 0, b"\0\x01ah2"), whole(1)]);
    right("ORIGIN of a client", UNKNOWN, &[frame(0x0c, 0, 0, b"\0\x01a"), whole(1)]);
    right(
        "PRIORITY of an idle stream",
        "RFC 9113, 5.1: PRIORITY may come in any state",
        &[frame(PRIORITY, 0, 9, &[0, 0, 0, 0, 1]), whole(11)],
    );
    right(
        "HEADERS with a priority",
        "RFC 9113, 6.2: HEADERS may have the deprecated priority",
        &[frame(
            HEADERS,
            END_HEADERS | END_STREAM | PRIORITISED,
            1,
            &[&[0, 0, 0, 0, 15][..], &block(&get())].concat(),
        )],
    );
    right(
        "HEADERS with padding",
        "RFC 9113, 6.2: HEADERS may have padding",
        &[frame(
            HEADERS,
            END_HEADERS | END_STREAM | PADDED,
            1,
            &[&[4][..], &block(&get()), &[0; 4]].concat(),
        )],
    );
    right(
        "flags that mean nothing",
        FLAGS,
        &[frame(HEADERS, END_HEADERS | END_STREAM | 0xc2, 1, &block(&get()))],
    );
    right(
        "the reserved bit",
        FLAGS,
        &[frame(HEADERS, END_HEADERS | END_STREAM, 1 | 1 << 31, &block(&get()))],
    );
    right("a flag of SETTINGS that means nothing", FLAGS, &[frame(SETTINGS, 0xf2, 0, b""), whole(1)]);
    right("a PING", PING_RULE, &[frame(PING, 0, 0, b"anything"), whole(1)]);
    right("an answer to a PING that nobody sent", PING_RULE, &[frame(PING, ACK, 0, b"anything"), whole(1)]);
    right(
        "WINDOW_UPDATE of a stream that has ended",
        "RFC 9113, 5.1: WINDOW_UPDATE may come for a while after the end",
        &[whole(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
    );
    for (name, frames) in [
        (
            "a stream that depends on itself, by HEADERS",
            vec![frame(
                HEADERS,
                END_HEADERS | END_STREAM | PRIORITISED,
                1,
                &[&[0, 0, 0, 1, 15][..], &block(&get())].concat(),
            )],
        ),
        (
            "a stream that depends on itself, by PRIORITY",
            vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 15]), whole(1)],
        ),
    ] {
        cases.push(case(name, SELF, &frames, Want::Any(&[PROTOCOL_ERROR], Vec::new())));
    }
    for (name, payload, flags) in [
        ("a body", b"body".to_vec(), END_STREAM),
        ("a body with padding", [&[3][..], b"body", &[0; 3]].concat(), END_STREAM | PADDED),
        ("a body with padding of nothing", [&[0][..], b"body"].concat(), END_STREAM | PADDED),
    ] {
        cases.push(case(
            name,
            "RFC 9113, 6.1: DATA may have padding, which is no part of the body",
            &[headers(1, 0, &post()), frame(DATA, flags, 1, &payload)],
            Want::Forwarded(vec![Check::Body(b"body"), Check::Status(&[200])]),
        ));
    }
    cases
}
