//! gRPC through the gateway: all four kinds of calls, deadlines, and refusals as statuses.

mod peers;

use std::time::Duration;

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{self, SendRequest},
    server,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::time::{Instant, sleep};

use crate::inside::Inside;

const CONFIG: &str = "
gateway: {admin: none}
listeners: {public: {listen: ':1', protocols: [h1, h2c], limits: {body: 1KiB}}}
upstreams:
  app: {endpoints: ['app:1'], protocol: h2}
  gone: {endpoints: ['gone:1'], protocol: h2}
routes:
  all: {match: {prefix: /echo.Echo}, upstream: app}
  few: {match: {prefix: /few.Few}, rate_limit: {rate: 1/h, key: [client_ip]}, upstream: app}
  gone: {match: {prefix: /gone.Gone}, upstream: gone}
  mine: {match: {prefix: /mine.Mine}, authorize: {cidr: [203.0.113.0/24]}, upstream: app}
";

/// A message with its length before it.
fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[0][..], &length, text.as_bytes()].concat().into()
}

/// A service that sends back each message as it comes; at the end of `/Join` all of them in one, and of `/Split` each byte of
/// the one that came in a message.
fn service(gateway: &Inside) {
    let mut listener = gateway.network.listen("app:1");
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            let mut connection = server::handshake(stream).await.unwrap();
            tokio::spawn(async move {
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let (head, mut body) = request.into_parts();
                        if head.uri.path().ends_with("/Hang") {
                            std::future::pending::<()>().await;
                        }
                        let mut response = Response::builder().header("content-type", "application/grpc");
                        for name in ["grpc-timeout", "te", "x-tenant"] {
                            if let Some(value) = head.headers.get(name) {
                                response = response.header(format!("seen-{name}"), value);
                            }
                        }
                        let mut sending = respond.send_response(response.body(()).unwrap(), false).unwrap();
                        serve(head.uri.path(), &mut body, &mut sending).await;
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                        trailers.insert("x-at-the-end", HeaderValue::from_static("yes"));
                        let _ = sending.send_trailers(trailers);
                    });
                }
            });
        }
    });
}

async fn serve(path: &str, body: &mut RecvStream, sending: &mut SendStream<Bytes>) {
    let mut all = String::new();
    while let Some(text) = next(body).await {
        if path.ends_with("/Both") {
            sending.send_data(message(&text), false).unwrap();
        }
        all += &text;
    }
    match path.rsplit('/').next() {
        Some("Split") => {
            for letter in all.chars() {
                sending.send_data(message(&letter.to_string()), false).unwrap();
                sleep(Duration::from_secs(40)).await; // Longer than the whole of a usual exchange may take.
            }
        }
        Some("Both") => {}
        _ => sending.send_data(message(&all), false).unwrap(),
    }
}

/// The next message; each is a frame of its own here.
async fn next(body: &mut RecvStream) -> Option<String> {
    loop {
        let data = body.data().await?.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        if !data.is_empty() {
            assert_eq!(data[1..5], u32::try_from(data.len() - 5).unwrap().to_be_bytes());
            return Some(String::from_utf8(data[5..].to_vec()).unwrap());
        }
    }
}

async fn connected(gateway: &Inside) -> SendRequest<Bytes> {
    let (sender, connection) = client::handshake(gateway.connect()).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn call(target: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = Request::post(format!("http://a.example{target}"));
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")].iter().chain(headers) {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// All messages and the trailers.
async fn whole(mut body: RecvStream) -> (Vec<String>, HeaderMap) {
    let mut all = Vec::new();
    while let Some(text) = next(&mut body).await {
        all.push(text);
    }
    (all, body.trailers().await.unwrap().unwrap())
}

#[tokio::test(start_paused = true)]
async fn r2_3_grpc_calls_of_all_four_kinds_go_through() {
    let gateway = Inside::new(CONFIG);
    service(&gateway);
    let mut client = connected(&gateway).await;

    let (answer, mut sending) = client.send_request(call("/echo.Echo/One", &[]), false).unwrap();
    sending.send_data(message("one"), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["content-type"]),
        (StatusCode::OK, &"application/grpc".parse().unwrap())
    );
    assert_eq!(answer.headers()["seen-te"], "trailers", "servers insist on it");
    let (messages, trailers) = whole(answer.into_body()).await;
    assert_eq!((messages, &trailers["grpc-status"]), (vec!["one".to_owned()], &"0".parse().unwrap()));
    assert_eq!(trailers["x-at-the-end"], "yes");

    let (answer, mut sending) = client.send_request(call("/echo.Echo/Join", &[]), false).unwrap();
    for piece in ["a", "b", "c"] {
        sending.send_data(message(piece), piece == "c").unwrap();
        sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(whole(answer.await.unwrap().into_body()).await.0, ["abc"]);

    let (answer, mut sending) = client.send_request(call("/echo.Echo/Split", &[]), false).unwrap();
    sending.send_data(message("xyz"), true).unwrap();
    let (since, mut body) = (Instant::now(), answer.await.unwrap().into_body());
    for (number, letter) in ["x", "y", "z"].iter().enumerate() {
        assert_eq!(next(&mut body).await.as_deref(), Some(*letter));
        assert_eq!(since.elapsed().as_secs(), 40 * number as u64, "each comes when it was sent");
    }
    assert_eq!(body.data().await.map(Result::unwrap), None);
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");

    let (answer, mut sending) = client.send_request(call("/echo.Echo/Both", &[]), false).unwrap();
    sending.send_data(message("0"), false).unwrap();
    let mut body = answer.await.unwrap().into_body();
    for number in 0..5 {
        assert_eq!(next(&mut body).await, Some(number.to_string()), "before the next is sent");
        sleep(Duration::from_secs(20)).await;
        sending.send_data(message(&(number + 1).to_string()), number == 4).unwrap();
    }
    assert_eq!(whole(body).await.0, ["5"]);
}

/// The head of an answer that refuses, in which all is said.
async fn refused(client: &mut SendRequest<Bytes>, request: Request<()>) -> HeaderMap {
    let request_is_long = request.headers().contains_key("content-length");
    let (answer, mut sending) = client.send_request(request, false).unwrap();
    let length = if request_is_long { 2000 } else { 1 };
    let _ = sending.send_data(message(&"x".repeat(length)), true); // It may be refused already.
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/grpc");
    assert!(answer.body().is_end_stream(), "it is headers alone");
    answer.headers().clone()
}

#[tokio::test(start_paused = true)]
async fn r2_3_grpc_hears_refusals_as_statuses() {
    let gateway = Inside::new(CONFIG);
    service(&gateway);
    let mut client = connected(&gateway).await;
    let (answer, mut sending) = client.send_request(call("/few.Few/One", &[]), false).unwrap();
    sending.send_data(message("one"), true).unwrap();
    whole(answer.await.unwrap().into_body()).await;
    for (target, headers, status, reason) in [
        ("/few.Few/One", &[][..], "8", "rate_limited"),
        ("/no.Such/One", &[], "12", "route_not_found"),
        ("/mine.Mine/One", &[], "7", "forbidden"),
        ("/gone.Gone/One", &[], "14", "connect_failed"),
        ("/echo.Echo/Hang", &[], "4", "response_timeout"),
        ("/echo.Echo/Hang", &[("grpc-timeout", "100m")], "4", "total_timeout"),
        ("/echo.Echo/One", &[("grpc-timeout", "soon")], "3", "bad_request"),
        ("/echo.Echo/Join", &[("content-length", "2005")], "8", "body_too_large"),
    ] {
        let said = refused(&mut client, call(target, headers)).await;
        assert_eq!(
            (&said["grpc-status"], &said["naka-reason"]),
            (&status.parse().unwrap(), &reason.parse().unwrap()),
            "{target}"
        );
        assert!(!said["grpc-message"].is_empty());
    }
    let spent = refused(&mut client, call("/few.Few/One", &[])).await;
    assert!(spent.contains_key("retry-after"), "what is said besides stays");
    let rejected = gateway
        .metric("naka_rejections_total{route=\"few\",policy=\"few/rate_limit\",reason=\"rate_limited\"}");
    assert_eq!(rejected, Some(2.0));
    let client_errors = gateway.metric("naka_requests_total{route=\"few\",status=\"4xx\"");
    assert_eq!(client_errors, Some(2.0), "a 200 that refuses is none");
}

/// Others are not told in a way that they do not understand.
#[tokio::test(start_paused = true)]
async fn who_does_not_speak_grpc_hears_a_problem() {
    let gateway = Inside::new(CONFIG);
    let mut client = connected(&gateway).await;
    for kind in ["application/grpc-web", "application/json"] {
        let mut request = call("/no.Such/One", &[]);
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        let (answer, _) = client.send_request(request, true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(
            (answer.status(), &answer.headers()["content-type"]),
            (StatusCode::NOT_FOUND, &"application/problem+json".parse().unwrap())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn r2_3_what_is_left_of_a_grpc_deadline_goes_on() {
    let gateway = Inside::new(CONFIG);
    service(&gateway);
    let mut client = connected(&gateway).await;
    let (answer, mut sending) =
        client.send_request(call("/echo.Echo/One", &[("grpc-timeout", "5S")]), false).unwrap();
    sending.send_data(message("x"), true).unwrap();
    assert_eq!(answer.await.unwrap().headers()["seen-grpc-timeout"], "5000000u");
}
