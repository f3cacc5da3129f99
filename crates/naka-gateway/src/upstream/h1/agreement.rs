//! Holds what is read of a response against what hyper reads of the same bytes, and what is written of a request against what it reads of that.
//!
//! What both call whole is the same in both; and what hyper calls whole and we do not breaks one of the rules that we are stricter in.

use std::{future::poll_fn, pin::Pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, Method, Request, Response, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use http_body::Body as _;
use hyper::{client::conn::http1, ext::ReasonPhrase};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::{Duration, timeout},
};

use super::{
    super::{
        Body,
        connect::{Plain, Stream},
        places::{Bound, Owner, Places},
    },
    Failed,
    connection::Connection,
    request::Sending,
    responded,
};

/// A response as somebody has read it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    head: Option<(u16, Version, HeaderMap, Option<Bytes>)>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Whether it had an end.
    is_whole: bool,
    /// Whether another request would go over the same connection.
    is_free: bool,
    /// Why it is none, if we say so.
    wrong: Option<String>,
}

/// Longer than anybody waits for what does not come.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why we call wrong what hyper does not.
const STRICTER: [&str; 3] =
    ["Transfer-Encoding is not `chunked` alone", "RFC 9112, section 7.1", "RFC 9112, section 2.2"];

/// Reads a response both ways; with virtual time.
///
/// # Panics
/// If that comes to two things.
pub(in super::super) async fn agree(bytes: &[u8], piece: usize, asked: &Method, closes: bool) {
    let ours = ours(served(bytes, piece, closes), asked).await;
    let theirs = hypers(served(bytes, piece, closes), asked).await;
    let said = || String::from_utf8_lossy(bytes).into_owned();
    let is_stricter =
        ours.wrong.as_ref().is_some_and(|wrong| STRICTER.iter().any(|rule| wrong.contains(rule)));
    if is_stricter {
        return;
    }
    assert_eq!(ours.is_whole, theirs.is_whole, "{asked} {:?}: {ours:?} is not {theirs:?}", said());
    if ours.is_whole {
        let what = |read: &Read| (read.head.clone(), read.body.clone(), read.trailers.clone());
        assert_eq!(what(&ours), what(&theirs), "{asked} {:?}", said());
        assert!(theirs.is_free || !ours.is_free, "{asked} {:?}: hyper closes it", said());
    }
}

/// Somebody who reads a request and answers so, in pieces.
fn served(bytes: &[u8], piece: usize, closes: bool) -> DuplexStream {
    let (ours, mut theirs) = duplex(64 << 10);
    let bytes = bytes.to_vec();
    tokio::spawn(async move {
        let mut head = BytesMut::new();
        while !head.ends_with(b"\r\n\r\n") {
            if !matches!(theirs.read_buf(&mut head).await, Ok(1..)) {
                return;
            }
        }
        for piece in bytes.chunks(piece.max(1)) {
            if theirs.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        if !closes {
            let _ = timeout(10 * PATIENCE, theirs.read_buf(&mut head)).await;
        }
    });
    ours
}

fn request(asked: &Method) -> Request<Body> {
    Request::builder().method(asked).uri("/").header("host", "a").body(Body::Empty).expect("it is one")
}

/// A connection over a stream inside the process.
async fn connection(stream: DuplexStream) -> Connection {
    let bound = Bound { max: 2, waiting: 0 };
    let (places, owner) = (Arc::new(Places::default()), Owner::of(&PATIENCE));
    let places = [places.take(owner, bound).await, places.take(owner, bound).await];
    let places = places.map(|place| place.expect("there are two"));
    Connection::new(Stream::Plain(Plain::Memory(stream)), None, places)
}

async fn ours(stream: DuplexStream, asked: &Method) -> Read {
    let (mut connection, mut read) = (connection(stream).await, Read::default());
    let (mut head, body) = request(asked).into_parts();
    let mut sending = Sending::of(&mut head.headers, body);
    let all = async {
        connection.begin(&head, &mut sending);
        let head = poll_fn(|cx| connection.poll_exchange(&mut sending, cx)).await?;
        read.head = Some(head_of(&responded(head)));
        while let Some(frame) = poll_fn(|cx| connection.poll_frame(cx)).await {
            match frame?.into_data() {
                Ok(data) => read.body.extend_from_slice(&data),
                Err(frame) => read.trailers = frame.into_trailers().ok(),
            }
        }
        Ok::<_, Failed>(())
    };
    let ended = timeout(PATIENCE, all).await;
    read.is_whole = matches!(ended, Ok(Ok(())));
    read.wrong = ended.ok().and_then(Result::err).map(|failed| failed.to_string());
    connection.end_sending(sending);
    tokio::time::sleep(PATIENCE).await; // All has come that comes.
    read.is_free = connection.is_free() && connection.is_silent();
    read
}

async fn hypers(stream: DuplexStream, asked: &Method) -> Read {
    let mut read = Read::default();
    let Ok((mut sender, driver)) = http1::handshake::<_, Body>(TokioIo::new(stream)).await else {
        return read;
    };
    tokio::spawn(driver);
    let all = async {
        let response = sender.send_request(request(asked)).await?;
        read.head = Some(head_of(&response));
        let mut body = response.into_body();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            match frame?.into_data() {
                Ok(data) => read.body.extend_from_slice(&data),
                Err(frame) => read.trailers = frame.into_trailers().ok(),
            }
        }
        Ok::<_, hyper::Error>(())
    };
    read.is_whole = matches!(timeout(PATIENCE, all).await, Ok(Ok(())));
    tokio::time::sleep(PATIENCE).await;
    read.is_free = sender.is_ready();
    read
}

/// A head, without a length that counts for nothing.
fn head_of<B>(response: &Response<B>) -> (u16, Version, HeaderMap, Option<Bytes>) {
    let mut headers = response.headers().clone();
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let reason = response.extensions().get::<ReasonPhrase>();
    let reason = reason.map(|reason| Bytes::copy_from_slice(reason.as_bytes()));
    (response.status().as_u16(), response.version(), headers, reason)
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        task::{Context, Poll},
    };

    use http::HeaderValue;
    use http_body::{Frame, SizeHint};
    use http_body_util::BodyExt as _;
    use hyper::{body::Incoming, server, service::service_fn};
    use naka::BoxError;
    use proptest::prelude::*;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
    }

    /// Pieces of responses, right and wrong.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let words = [
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 Fine\r\n",
            "HTTP/1.1 200\r\n",
            "HTTP/1.0 200 OK\r\n",
            "HTTP/1.1 204 No Content\r\n",
            "HTTP/1.1 304 Not Modified\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n",
            "HTTP/2 200\r\n",
            "HTTP/1.1 099 No\r\n",
            "content-length: 3\r\n",
            "content-length: 0\r\n",
            "Content-Length: 3 \r\n",
            "content-length: 3, 3\r\n",
            "content-length: +3\r\n",
            "transfer-encoding: chunked\r\n",
            "Transfer-Encoding:\tChunked\r\n",
            "transfer-encoding: gzip\r\n",
            "connection: keep-alive\r\n",
            "connection: x, Close\r\n",
            "x: y\r\n",
            "x : y\r\n",
            "x: y\n",
            "\r\n",
            "\n",
            "\r",
            "abc",
            "3\r\nabc\r\n",
            "3;x=y\r\nabc\r\n",
            "0\r\n\r\n",
            "0\r\nx: y\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ];
        let word = prop::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec());
        let byte = any::<u8>().prop_map(|byte| vec![byte]);
        let heads = [
            "",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n",
        ];
        let head = prop::sample::select(heads.to_vec()).prop_map(|head| head.as_bytes().to_vec());
        let rest = prop::collection::vec(prop_oneof![30 => word, 1 => byte], 1..10);
        (head, rest).prop_map(|(head, rest)| [head, rest.concat()].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        #[test]
        fn a_response_is_read_as_hyper_reads_it(
            bytes in pieces(),
            piece in 1..60_usize,
            is_head in prop::bool::weighted(0.1),
            closes in any::<bool>(),
        ) {
            let asked = if is_head { Method::HEAD } else { Method::GET };
            runtime().block_on(agree(&bytes, piece, &asked, closes));
        }
    }

    /// A response, and its body.
    fn right() -> impl Strategy<Value = (String, &'static str)> {
        let all = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "abc"),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
                "abcde",
            ),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nx: y\r\n\r\n", "abc"),
            ("HTTP/1.1 204 No Content\r\n\r\n", ""),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", ""),
            ("HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", ""),
            ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok", "ok"),
        ];
        prop::sample::select(all.to_vec()).prop_map(|(bytes, body)| (bytes.to_owned(), body))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        /// Nothing of one exchange is left in the next over the same connection.
        #[test]
        fn exchanges_over_one_connection_do_not_touch_one_another(
            all in prop::collection::vec((right(), 0..3000_usize), 1..6),
            piece in 1..80_usize,
        ) {
            runtime().block_on(async {
                let (stream, mut theirs) = duplex(100);
                let answers = all.clone();
                let endpoint = tokio::spawn(async move {
                    let mut seen = Vec::new();
                    for ((answer, _), length) in answers {
                        let end = |seen: &[u8]| memchr::memmem::find(seen, b"\r\n\r\n").map(|at| at + 4 + length);
                        while end(&seen).is_none_or(|end| seen.len() < end) {
                            assert!(theirs.read_buf(&mut seen).await.unwrap() > 0);
                        }
                        seen.drain(..end(&seen).unwrap());
                        for piece in answer.as_bytes().chunks(piece) {
                            theirs.write_all(piece).await.unwrap();
                        }
                    }
                    assert!(seen.is_empty(), "{seen:?}");
                    theirs
                });
                let mut connection = connection(stream).await;
                for ((_, body), length) in all {
                    assert!(connection.is_silent());
                    let request = Request::post("/").body(Body::from(Bytes::from(vec![b'u'; length]))).unwrap();
                    let (mut head, sent) = request.into_parts();
                    let mut sending = Sending::of(&mut head.headers, sent);
                    connection.begin(&head, &mut sending);
                    poll_fn(|cx| connection.poll_exchange(&mut sending, cx)).await.unwrap();
                    connection.send_rest(sending);
                    let mut read = Vec::new();
                    while let Some(frame) = poll_fn(|cx| connection.poll_frame(cx)).await {
                        read.extend(frame.unwrap().into_data().unwrap_or_default());
                    }
                    assert_eq!(read, body.as_bytes());
                    assert!(connection.is_free());
                }
                drop(endpoint.await.unwrap());
            });
        }
    }

    /// A body in pieces, between which it has to be waited for.
    #[derive(Debug)]
    struct Pieces {
        left: Vec<Frame<Bytes>>,
        length: Option<u64>,
        has_waited: bool,
    }

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            self.has_waited ^= true;
            if self.has_waited && self.left.len().is_multiple_of(3) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(self.left.pop().map(Ok))
        }

        fn is_end_stream(&self) -> bool {
            self.left.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            self.length.map(SizeHint::with_exact).unwrap_or_default()
        }
    }

    /// What hyper reads of a request that comes through a stream as narrow as this.
    async fn arrived(
        request: Request<Body>,
        width: usize,
    ) -> (http::request::Parts, Bytes, Option<HeaderMap>) {
        let (stream, theirs) = duplex(width);
        let mut connection = connection(stream).await;
        let (mut head, body) = request.into_parts();
        let mut sending = Sending::of(&mut head.headers, body);
        connection.begin(&head, &mut sending);
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        let service = service_fn(move |request: Request<Incoming>| {
            let tell = tell.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap();
                let trailers = body.trailers().cloned();
                tell.send((head, body.to_bytes(), trailers)).unwrap();
                Ok::<_, Infallible>(Response::new(http_body_util::Empty::<Bytes>::new()))
            }
        });
        let serving = server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
        let serving = tokio::spawn(serving);
        let head = poll_fn(|cx| connection.poll_exchange(&mut sending, cx)).await.unwrap();
        assert_eq!(head.status, 200);
        connection.end_sending(sending);
        assert_eq!(connection.take_whole().as_deref(), Some(&[][..]));
        assert!(connection.is_free());
        drop(connection);
        let _ = serving.await;
        let mut told = told;
        told.recv().await.unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        #[test]
        fn a_request_is_read_by_hyper_as_it_was_sent(
            sizes in prop::collection::vec(prop_oneof![4 => 0..40_usize, 1 => 2000..5000_usize], 0..9),
            width in prop_oneof![3 => 1..200_usize, 1 => 200..100_000_usize],
            is_chunked in any::<bool>(),
            has_trailers in any::<bool>(),
        ) {
            let mut whole = Vec::new();
            let mut frames = Vec::new();
            for (number, size) in sizes.into_iter().enumerate() {
                let piece = vec![b'a' + u8::try_from(number).unwrap(); size];
                whole.extend_from_slice(&piece);
                frames.push(Frame::data(Bytes::from(piece)));
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("7"));
            trailers.insert("x-other", HeaderValue::from_static("8"));
            trailers.insert("set-cookie", HeaderValue::from_static("a=b"));
            if has_trailers && is_chunked {
                frames.push(Frame::trailers(trailers));
            }
            frames.reverse();
            let length = (!is_chunked).then_some(whole.len() as u64);
            let body = Body::boxed(Pieces { left: frames, length, has_waited: false });
            let request = Request::put("/a?b=c").header("host", "h").header("trailer", "X-Sum, set-cookie");
            let request = request.header("content-length", "9999").body(body).unwrap();
            let (head, body, trailers) = runtime().block_on(arrived(request, width));
            prop_assert_eq!((head.method, head.uri.to_string()), (Method::PUT, "/a?b=c".to_owned()));
            prop_assert_eq!(&body[..], &whole[..]);
            let sum = trailers.as_ref().map(|trailers| (trailers.len(), trailers["x-sum"].as_bytes()));
            let has_body = is_chunked && has_trailers;
            prop_assert_eq!(sum, has_body.then_some((1, &b"7"[..])));
        }
    }
}
