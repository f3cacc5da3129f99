//! What leads to nothing, again and again: each is bounded by a count, the connection ends and says why, and others are served. In virtual
//! time, so that nothing comes back by itself.

use std::time::Duration;

use naka_testkit::upstream::{Step, Upstream, ok};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, split},
    net::TcpStream,
    task::{JoinHandle, yield_now},
    time::{Instant, sleep, timeout},
};

use super::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM, Reader,
    SETTINGS, WINDOW_UPDATE, and, begin, block, frame, get, headers, literal, number, post, setting, with,
};
use crate::{
    inside::{self, Inside},
    process::Process,
};

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// As they are documented: frames that lead to nothing, and streams that come to nothing.
const FRAMES: usize = 1000;
const RESETS: usize = 256;
/// Of these may be more on their way when that is noticed: what is read at once.
const AT_ONCE: usize = 700;

/// Nobody sends more than this before it ends.
const MOST: u32 = 200_000;

const CONFIG: &str = "
gateway: {admin: none, limits: {header_count: 64, header_bytes: 16KiB}}
listeners:
  public: {listen: ':1', protocols: [h1, h2c], timeouts: {request_headers: 5s, idle: 20s}}
upstreams: {app: {endpoints: ['app:1']}}
routes: {all: {match: {prefix: /}, timeouts: {total: never}, upstream: app}}
";

/// A gateway before an endpoint that answers `/hang` never, `/large` with much, and all else at once.
fn gateway() -> (Inside, Upstream) {
    let gateway = Inside::new(CONFIG);
    let app = Upstream::inside(&gateway.network, "app:1", |seen| match seen.target() {
        "/hang" => vec![Step::Hang],
        "/large" => vec![
            Step::ReadBody,
            Step::send("HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n"),
            Step::Fill(10_000_000),
        ],
        _ => ok("fine"),
    });
    (gateway, app)
}

/// Reads to the end.
fn reading(mut stream: ReadHalf<DuplexStream>) -> JoinHandle<Reader> {
    tokio::spawn(async move {
        let (mut read, mut piece) = (Reader::default(), vec![0; 16 << 10]);
        while let Ok(1..) = stream.read_buf(&mut piece).await {
            read.read(&piece[16 << 10..]);
            piece.truncate(16 << 10);
        }
        read
    })
}

/// Sends this again and again until the connection ends, and returns what came of it. Others are served meanwhile.
async fn flooded(gateway: &Inside, first: Vec<u8>, each: impl Fn(u32) -> Vec<u8>) -> Reader {
    let (from, mut into) = split(gateway.connect());
    let read = reading(from);
    into.write_all(&[begin(), first].concat()).await.unwrap();
    let mut sent = 0;
    while sent < MOST && into.write_all(&each(sent)).await.is_ok() {
        sent += 1;
        if sent == 100 {
            assert_eq!(gateway.send(inside::get("/")).await.status(), 200, "others are served");
        }
    }
    assert!(sent < MOST, "it goes on for ever");
    let read = read.await.unwrap();
    assert_eq!(gateway.send(inside::get("/")).await.status(), 200, "others are served");
    read
}

/// A stream that is opened, and hangs.
fn hanging(number: u32, flags: u8) -> Vec<u8> {
    headers(2 * number + 1, flags, &with(post(), ":path", "/hang"))
}

fn refused(gateway: &Inside, reason: &str) -> f64 {
    let start = format!("naka_rejections_total{{route=\"\",policy=\"\",reason=\"{reason}\"}}");
    gateway.metric(&start).unwrap_or_default()
}

/// Bug: what each of many requests on a connection could be silent for was multiplied by how many there were.
#[tokio::test(start_paused = true)]
async fn r2_3_silent_uploads_are_no_longer_held_because_there_are_many() {
    let (gateway, _app) = gateway();
    let (from, mut into) = split(gateway.connect());
    let read = reading(from);
    let uploads = 100_u32;
    let opened = (0..uploads).flat_map(|number| headers(2 * number + 1, 0, &post())).collect::<Vec<_>>();
    into.write_all(&[begin(), opened].concat()).await.unwrap();
    // A byte now and then helps nobody.
    for _ in 0..6 {
        sleep(Duration::from_secs(15)).await;
        let bytes = (0..uploads).flat_map(|number| frame(DATA, 0, 2 * number + 1, b"x")).collect::<Vec<_>>();
        into.write_all(&bytes).await.unwrap();
    }
    into.shutdown().await.unwrap();
    let read = read.await.unwrap();
    let statuses = (0..uploads).map(|number| read.statuses(2 * number + 1)).collect::<Vec<_>>();
    assert!(statuses.iter().all(|statuses| *statuses == [408]), "{statuses:?}");
}

/// Bug: who never acknowledged the end kept its connection for ever, and others out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_who_does_not_hear_that_its_connection_ends_makes_room_as_well() {
    let app = Upstream::start(|_| ok("fine")).await;
    let config = "
gateway: {admin: {listen: ADMIN}, workers: 1, limits: {connections: 3}}
listeners: {public: {listen: PUBLIC, protocols: h2c, timeouts: {idle: 10m}}}
upstreams: {app: {endpoints: ['UPSTREAM']}}
routes: {all: {match: {prefix: /}, upstream: app}}
";
    // Who does not answer pings either, as here, is gone after forty seconds.
    let sooner = Duration::from_secs(25);
    let process = Process::start(&config.replace("UPSTREAM", app.address())).await;
    let mut deaf = Vec::new();
    for number in 0..9 {
        let mut stream = TcpStream::connect(process.public).await.unwrap();
        stream.write_all(&[begin(), headers(1, END_STREAM, &get())].concat()).await.unwrap();
        let (mut read, mut piece) = (Reader::default(), vec![0; 16 << 10]);
        while !read.has_ended(1) {
            let count = timeout(sooner, stream.read(&mut piece)).await;
            let count = count.unwrap_or_else(|_| panic!("{number} is kept out")).unwrap();
            assert!(count > 0, "{number} is closed");
            read.read(&piece[..count]);
        }
        assert_eq!(read.statuses(1), [200]);
        deaf.push(stream); // It acknowledges nothing.
    }
    let deaf = deaf.into_iter().map(async |mut stream| stream.read_to_end(&mut Vec::new()).await);
    let mut ended = 0;
    for ended_too in deaf.take(6) {
        let read = timeout(Duration::from_mins(1), ended_too).await;
        ended += usize::from(read.is_ok());
    }
    assert_eq!(ended, 6, "those that have waited longest have ended");
}

/// CVE-2023-44487.
#[tokio::test(start_paused = true)]
async fn r2_3_requests_that_are_taken_back_at_once_end_the_connection() {
    let (gateway, app) = gateway();
    let read = flooded(&gateway, Vec::new(), |number| {
        [hanging(number, END_STREAM), frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8])].concat()
    })
    .await;
    assert_eq!(read.goaway(), Some(ENHANCE_YOUR_CALM));
    let asked = usize::try_from(app.requests()).unwrap();
    assert!(asked <= RESETS + AT_ONCE, "{asked}");
}

/// The same, each when its request has come to the endpoint: h2 counts only those that nobody has looked at.
#[tokio::test(start_paused = true)]
async fn r2_3_requests_that_are_taken_back_later_end_the_connection_too() {
    let (gateway, app) = gateway();
    let (from, mut into) = split(gateway.connect());
    let read = reading(from);
    into.write_all(&begin()).await.unwrap();
    for number in 0..1000 {
        let before = app.requests();
        if into.write_all(&hanging(number, END_STREAM)).await.is_err() {
            break;
        }
        for _ in 0..200 {
            if app.requests() > before {
                break;
            }
            yield_now().await;
        }
        let reset = frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8]);
        let _ = into.write_all(&reset).await; // It may have gone.
    }
    assert_eq!(read.await.unwrap().goaway(), Some(ENHANCE_YOUR_CALM));
    let asked = usize::try_from(app.requests()).unwrap();
    assert!((RESETS..=RESETS + AT_ONCE).contains(&asked), "{asked}");
    assert!(refused(&gateway, "http2_resets") >= 1.0);
}

/// CVE-2025-8671: the client breaks the protocol on each of its streams, and the server resets them.
#[tokio::test(start_paused = true)]
async fn r2_3_whoever_has_its_streams_reset_is_counted_as_who_resets_them() {
    type Breaks = fn(u32) -> Vec<u8>;
    let ways: [(&str, Breaks); 5] = [
        ("an increment of nothing", |stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4])),
        ("a window that is too large", |stream| frame(WINDOW_UPDATE, 0, stream, &[127, 255, 255, 255])),
        ("a stream that depends on itself", |stream| {
            frame(PRIORITY, 0, stream, &[&stream.to_be_bytes()[..], &[1]].concat())
        }),
        ("trailers that are wrong", |stream| headers(stream, END_STREAM, &and(Vec::new(), "X", "y"))),
        ("a body that is too long", |stream| frame(DATA, END_STREAM, stream, b"longer")),
    ];
    for (name, breaks) in ways {
        let (gateway, app) = gateway();
        let read = flooded(&gateway, Vec::new(), |number| {
            let stream = 2 * number + 1;
            let head = and(with(post(), ":path", "/hang"), "content-length", "3");
            [headers(stream, 0, &head), breaks(stream)].concat()
        })
        .await;
        // For an increment of nothing h2 ends the connection at once.
        assert!(
            matches!(read.goaway(), Some(PROTOCOL_ERROR | ENHANCE_YOUR_CALM)),
            "{name}: {:?}",
            read.goaway()
        );
        let asked = usize::try_from(app.requests()).unwrap();
        assert!(asked <= RESETS + AT_ONCE, "{name}: {asked}");
        assert!(read.count(RST_STREAM) <= RESETS + AT_ONCE, "{name}: {}", read.count(RST_STREAM));
    }
}

#[tokio::test(start_paused = true)]
async fn r2_3_streams_above_the_maximum_are_refused_and_then_the_connection_ends() {
    let (gateway, app) = gateway();
    let read = flooded(&gateway, Vec::new(), |number| hanging(number, END_STREAM)).await;
    assert_eq!(read.goaway(), Some(ENHANCE_YOUR_CALM));
    assert!(app.requests() <= 128 + 2, "{}", app.requests());
    assert!(read.count(RST_STREAM) <= RESETS + AT_ONCE, "{}", read.count(RST_STREAM));
}

#[tokio::test(start_paused = true)]
async fn r2_3_frames_that_lead_to_nothing_end_the_connection() {
    let all: [(&str, Vec<u8>); 7] = [
        ("SETTINGS", frame(SETTINGS, 0, 0, &setting(4, 65_535))),
        ("SETTINGS that say nothing", frame(SETTINGS, 0, 0, b"")),
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("answers to PING", frame(PING, 1, 0, &[0; 8])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("frames of a kind that nobody knows", frame(0x42, 0, 0, b"")),
    ];
    for (name, each) in all {
        let (gateway, _app) = gateway();
        let read = flooded(&gateway, Vec::new(), |_| each.clone()).await;
        assert_eq!(read.goaway(), Some(ENHANCE_YOUR_CALM), "{name}");
        assert!((refused(&gateway, "http2_frames") - 1.0).abs() < 0.1, "{name}");
        for kind in [SETTINGS, PING] {
            assert!(read.count(kind) <= FRAMES + 2, "{name}: {}", read.count(kind));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r2_3_data_with_nothing_in_it_ends_the_connection() {
    let (gateway, app) = gateway();
    let read = flooded(&gateway, hanging(0, 0), |_| frame(DATA, 0, 1, b"")).await;
    assert_eq!(read.goaway(), Some(ENHANCE_YOUR_CALM));
    assert!(app.requests() <= 3);
    // And so does padding alone.
    let (gateway, _app) = self::gateway();
    let read = flooded(&gateway, hanging(0, 0), |_| frame(DATA, 8, 1, &[4, 0, 0, 0, 0])).await;
    assert_eq!(read.goaway(), Some(ENHANCE_YOUR_CALM));
}

/// CVE-2024-27316: a head without an end.
#[tokio::test(start_paused = true)]
async fn r2_3_a_head_that_never_ends_ends_the_connection() {
    for (name, piece) in [
        ("nothing", Vec::new()),
        ("a field each", literal(b"x", b"y")),
        ("as much as may be", literal(b"x", &[b'y'; 16_000])),
    ] {
        let (gateway, app) = gateway();
        let first = frame(HEADERS, 0, 1, &block(&get()));
        let read = flooded(&gateway, first, |_| frame(CONTINUATION, 0, 1, &piece)).await;
        assert_eq!(read.goaway(), Some(ENHANCE_YOUR_CALM), "{name}");
        assert!(app.requests() <= 2, "{name}: only the others");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_3_heads_with_nothing_in_them_end_the_connection() {
    let (gateway, app) = gateway();
    let read =
        flooded(&gateway, Vec::new(), |number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, b""))
            .await;
    assert_eq!(read.goaway(), Some(ENHANCE_YOUR_CALM));
    assert_eq!(app.requests(), 2, "only the others");
    assert!(read.count(RST_STREAM) <= RESETS + AT_ONCE, "{}", read.count(RST_STREAM));
}

/// A field of 4 KB that is said once and named ten thousand times: 40 MB in 14 KB.
#[tokio::test(start_paused = true)]
async fn r2_3_a_field_that_is_named_again_and_again_is_not_held() {
    let (gateway, app) = gateway();
    let mut fields = block(&get());
    fields.extend([&[0x40, 1, b'x'][..], &number(0, 7, 3900), &[b'y'; 3900]].concat());
    fields.extend([0xbe; 10_000]);
    let (from, mut into) = split(gateway.connect());
    let read = reading(from);
    into.write_all(&[begin(), frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields)].concat()).await.unwrap();
    let read = read.await.unwrap();
    assert!(
        read.goaway().is_some() || read.statuses(1) == [431],
        "{:?} {:?}",
        read.goaway(),
        read.statuses(1)
    );
    assert_eq!(app.requests(), 0);
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_list_of_fields_above_the_limit_is_refused() {
    let (gateway, app) = gateway();
    let fields = and(get(), "x", [b'y'; 12_000]);
    let (from, mut into) = split(gateway.connect());
    let read = reading(from);
    let two = frame(CONTINUATION, END_HEADERS, 1, &literal(b"z", &[b'y'; 12_000]));
    into.write_all(&[begin(), frame(HEADERS, END_STREAM, 1, &block(&fields)), two].concat()).await.unwrap();
    let read = read.await.unwrap();
    assert_eq!(read.statuses(1), [431]);
    assert_eq!(app.requests(), 0);
}

/// A response is taken byte by byte: its stream is let go of, with what is behind it, as its client is slower than may be.
#[tokio::test(start_paused = true)]
async fn r2_3_a_response_that_is_taken_byte_by_byte_is_let_go_of() {
    let (gateway, _app) = gateway();
    let (from, mut into) = split(gateway.connect());
    let read = reading(from);
    let head = headers(1, END_STREAM, &with(get(), ":path", "/large"));
    into.write_all(&[begin(), frame(SETTINGS, 0, 0, &setting(4, 0)), head].concat()).await.unwrap();
    let mut seconds = 0;
    while seconds < 600 && into.write_all(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).await.is_ok() {
        sleep(Duration::from_secs(1)).await;
        seconds += 1;
    }
    assert!(seconds < 120, "{seconds}");
    assert!(!read.await.unwrap().has_ended(1) || seconds < 120);
}

/// What has begun has to come as a whole in time: the settings, and each head, whatever else is under way.
#[tokio::test(start_paused = true)]
async fn r2_3_settings_and_heads_that_come_slowly_end_the_connection() {
    let long = frame(HEADERS, 0, 1, &block(&get()));
    let later = frame(HEADERS, 0, 3, &block(&get()));
    let cases: [(&str, Vec<u8>, Vec<u8>); 6] = [
        ("no settings", PREFACE.to_vec(), Vec::new()),
        ("half of a frame", begin(), vec![0]),
        ("a head without its end", begin(), long.clone()),
        ("half of a head", begin(), long[..20].to_vec()),
        ("a head without its end, beside a request", [begin(), hanging(0, END_STREAM)].concat(), later),
        ("half of settings", begin(), frame(SETTINGS, 0, 0, &setting(3, 1))[..12].to_vec()),
    ];
    for (name, first, then) in cases {
        let (gateway, _app) = gateway();
        let (from, mut into) = split(gateway.connect());
        let read = reading(from);
        into.write_all(&first).await.unwrap();
        if !then.is_empty() {
            sleep(Duration::from_secs(3)).await;
        }
        let began = Instant::now();
        into.write_all(&then).await.unwrap();
        let read = read.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 5, "{name}");
        assert_eq!(read.goaway(), Some(ENHANCE_YOUR_CALM), "{name}");
        assert!((refused(&gateway, "http2_slow_head") - 1.0).abs() < 0.1, "{name}");
    }
    // However much of it comes: a byte a second is no progress.
    let (gateway, _app) = gateway();
    let (from, mut into) = split(gateway.connect());
    let read = reading(from);
    into.write_all(&[begin(), long].concat()).await.unwrap();
    let began = Instant::now();
    while into.write_all(&frame(CONTINUATION, 0, 1, &literal(b"x", b"y"))[..3]).await.is_ok() {
        sleep(Duration::from_secs(4)).await;
        if began.elapsed() > Duration::from_mins(1) {
            break;
        }
    }
    assert_eq!(read.await.unwrap().goaway(), Some(ENHANCE_YOUR_CALM));
    assert!(began.elapsed().as_secs() <= 12, "{:?}", began.elapsed());
}

/// An upload byte by byte ends as it does over HTTP/1.1, and so does a share of it: of two on a connection each may take twice as long.
#[tokio::test(start_paused = true)]
async fn r2_3_an_upload_byte_by_byte_is_a_408_over_http_2_too() {
    let (gateway, _app) = gateway();
    let (from, mut into) = split(gateway.connect());
    let read = reading(from);
    into.write_all(&[begin(), headers(1, 0, &post()), headers(3, 0, &post())].concat()).await.unwrap();
    let byte = [frame(DATA, 0, 1, b"x"), frame(DATA, 0, 3, b"x")].concat();
    let mut seconds = 0;
    while seconds < 60 && into.write_all(&byte).await.is_ok() {
        sleep(Duration::from_secs(1)).await;
        seconds += 1;
    }
    assert!(seconds >= 40, "{seconds}");
    let read = read.await.unwrap();
    assert_eq!((read.statuses(1), read.statuses(3)), (vec![408], vec![408]));
}

/// Nobody reads, so a response stands still in the middle of a frame: what is said at the end comes behind that frame, and not inside of it.
#[tokio::test(start_paused = true)]
async fn what_is_said_at_the_end_stands_between_two_frames() {
    let (gateway, _app) = gateway();
    let (from, mut into) = split(gateway.connect());
    let wide = [
        frame(SETTINGS, 0, 0, &setting(4, 0x7fff_ffff)),
        frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes()),
        headers(1, END_STREAM, &with(get(), ":path", "/large")),
    ];
    into.write_all(&[begin(), wide.concat()].concat()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    into.write_all(&frame(0x42, 0, 0, b"").repeat(FRAMES + 100)).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert!((refused(&gateway, "http2_frames") - 1.0).abs() < 0.1, "it is noticed while nothing can be sent");
    let read = reading(from).await.unwrap();
    assert!(read.count(DATA) > 0 && !read.has_ended(1), "the response had begun");
    assert!(read.is_whole(), "it ends behind a frame");
    assert_eq!(read.goaway(), Some(ENHANCE_YOUR_CALM));
}

/// What ends the connection is what we have sent ourselves, and the client says nothing after it.
#[tokio::test(start_paused = true)]
async fn streams_that_we_reset_end_the_connection_without_another_word_of_the_client() {
    let (gateway, _app) = gateway();
    let (from, mut into) = split(gateway.connect());
    let read = reading(from);
    into.write_all(&begin()).await.unwrap();
    let began = Instant::now();
    let count = u32::try_from(RESETS).unwrap() + 1;
    for number in 0..count {
        into.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, b"")).await.unwrap();
    }
    assert_eq!(read.await.unwrap().goaway(), Some(ENHANCE_YOUR_CALM));
    assert_eq!(began.elapsed(), Duration::ZERO, "at once");
}
