//! Processes that end under load: no request is lost by whoever listens to what it is told.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use naka_testkit::{
    consul::Consul,
    eureka::Eureka,
    upstream::{Step, Upstream, ok},
    websocket::accept,
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use crate::process::{PATIENCE, Process};

fn config(upstream: &str, drain: &str) -> String {
    format!(
        "gateway: {{admin: {{listen: ADMIN}}, workers: 2, drain: {drain}}}
listeners: {{public: {{listen: PUBLIC, protocols: [h1, h2c]}}}}
upstreams: {{app: {{endpoints: ['{upstream}'], bulkhead: {{max: 20}}}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
"
    )
}

/// Half of what the bulkhead takes.
const CLIENTS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_8_sigterm_under_load_fails_no_request_over_http_1() {
    sigterm_under_load(Protocol::H1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_8_sigterm_under_load_fails_no_request_over_http_2() {
    sigterm_under_load(Protocol::H2).await;
}

async fn sigterm_under_load(protocol: Protocol) {
    let upstream = upstream().await;
    let config = config(upstream.address(), "{grace: 4s, deadline: 30s}");
    let (mut first, second) = (Process::start(&config).await, Process::start(&config).await);
    let load = Load::start(protocol, [first.public, second.public]);
    first.until("all are at work", async || load.answered() > 100).await;
    first.signal(Signal::TERM);
    assert_eq!(first.end().await.code(), Some(0), "{}", first.log());
    assert!(first.log().contains("cut=0"), "{}", first.log());
    let by_then = load.answered();
    second.until("the other one serves", async || load.answered() > by_then + 100).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_8_a_rolling_restart_fails_no_request() {
    let upstream = upstream().await;
    let config = config(upstream.address(), "{grace: 2s, deadline: 30s}");
    let mut gateways = [Process::start(&config).await, Process::start(&config).await];
    let load = Load::start(Protocol::H1, [gateways[0].public, gateways[1].public]);
    for round in 0..4 {
        let gateway = &mut gateways[round % 2];
        let by_then = load.answered();
        gateway.until("all are at work", async || load.answered() > by_then + 50).await;
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.end().await.code(), Some(0), "{}", gateway.log());
        let next = gateway.spawn_beside("gateway.yaml", &config, &[]);
        next.says("naka is ready").await;
        *gateway = next;
    }
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_9_gateways_and_backends_out_of_consul_are_restarted_in_turn_and_no_request_fails() {
    let consul = Consul::start("127.0.0.1:0").await;
    let registry = format!("consul: {{address: 'http://{}'}}", consul.address());
    restarted_in_turn(&registry, "{consul: app}", |at| consul.has_at("app", at)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_9_gateways_and_backends_out_of_eureka_are_restarted_in_turn_and_no_request_fails() {
    let eureka = Eureka::start("127.0.0.1:0").await;
    let registry = format!("eureka: {{servers: ['http://{}/eureka'], refresh: 1s}}", eureka.address());
    restarted_in_turn(&registry, "{eureka: APP}", |at| eureka.has_at("APP", at)).await;
}

/// Each of two gateways ends and begins anew, cold; each of two backends leaves the registry, and another one comes.
async fn restarted_in_turn(registry: &str, endpoints: &str, has: impl Fn(&[&str])) {
    let config = config("", "{grace: 2s, deadline: 30s}").replace("['']", endpoints);
    let config = config.replacen("gateway: {", &format!("gateway: {{registries: {{{registry}}}, "), 1);
    let mut backends = [upstream().await, upstream().await];
    has(&[backends[0].address(), backends[1].address()]);
    let mut gateways = [Process::start(&config).await, Process::start(&config).await];
    let load = Load::start(Protocol::H1, [gateways[0].public, gateways[1].public]);
    for round in 0..4 {
        let by_then = load.answered();
        gateways[0].until("all are at work", async || load.answered() > by_then + 50).await;
        let gateway = &mut gateways[round % 2];
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.end().await.code(), Some(0), "{}", gateway.log());
        let next = gateway.spawn_beside("gateway.yaml", &config, &[]);
        next.says("naka is ready").await;
        *gateway = next;
        // Out of the registry first, and gone when nobody sends there any more.
        let new = upstream().await;
        has(&[new.address(), backends[(round + 1) % 2].address()]);
        let old = std::mem::replace(&mut backends[round % 2], new);
        for gateway in &gateways {
            let goes = async || gateway.json("/upstreams").await.to_string().contains(old.address());
            gateway.until("it is heard of", async || !goes().await).await;
        }
        sleep(Duration::from_millis(500)).await; // What is under way takes 20 ms.
        let asked = old.requests();
        sleep(Duration::from_millis(200)).await;
        assert_eq!(old.requests(), asked);
    }
    load.end().await;
}

/// Each message is answered, or the client has heard that the tunnel ends: then it goes elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_8_sigterm_under_load_breaks_no_websocket_off() {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(&echo.local_addr().unwrap().to_string(), "{grace: 2s, deadline: 6s}");
    tokio::spawn(echoing(echo));
    let (mut first, second) = (Process::start(&config).await, Process::start(&config).await);
    let load = Load::start(Protocol::WebSocket, [first.public, second.public]);
    first.until("all are at work", async || load.answered() > 100).await;
    first.signal(Signal::TERM);
    assert_eq!(first.end().await.code(), Some(0), "{}", first.log());
    let by_then = load.answered();
    second.until("the other one serves", async || load.answered() > by_then + 100).await;
    load.end().await;
}

/// An idle connection of HTTP/2 hears of the end, and not only with a next request; of HTTP/1.1 it cannot. Who comes
/// late is answered once, and told with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_idle_connections_of_http_2_are_told_while_it_is_still_accepted() {
    let upstream = upstream().await;
    let mut process = Process::start(&config(upstream.address(), "{grace: 20s, deadline: 40s}")).await;
    let mut idle = JoinSet::new();
    for _ in 0..4 {
        let stream = TcpStream::connect(process.public).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let sender: http2::SendRequest<Empty<Bytes>> = sender;
        idle.spawn(async move {
            let ended = connection.await;
            drop(sender);
            ended
        });
    }
    let phase = async || process.json("/readyz").await["drain"].clone();
    assert!(phase().await.is_null());
    process.until("all are there", async || process.metric("naka_connections ").await == Some(4.0)).await;
    process.signal(Signal::TERM);
    process.until("the grace has begun", async || phase().await["phase"] == "grace").await;
    let now = phase().await;
    assert_eq!((&now["connections"], &now["tunnels"]), (&4.into(), &0.into()), "{now}");
    assert!(now["ends_in_ms"].as_u64().is_some_and(|left| left <= 40_000), "{now}");
    while let Some(ended) = idle.join_next().await {
        ended.unwrap().unwrap();
    }
    assert_eq!(phase().await["phase"], "farewell");
    let stream = TcpStream::connect(process.public).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let outcome = Connection::H2(sender).ask().await;
    if !matches!(outcome, Outcome::Answered(_)) {
        // On a machine that is busy the time of farewells may be over by then.
        assert_ne!(phase().await["phase"], "farewell", "who comes late is answered");
    }
    process.signal(Signal::TERM);
    assert_eq!(process.end().await.code(), Some(0));
    drop((outcome, connection));
}

async fn upstream() -> Upstream {
    Upstream::start(|_| {
        let mut steps = ok("fine");
        steps.insert(0, Step::Wait(Duration::from_millis(20)));
        steps
    })
    .await
}

/// Switches each connection, and sends each message of two bytes back.
async fn echoing(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                head.push(char::from(stream.read_u8().await?));
            }
            let key =
                head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap_or_default();
            let switch = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {}\r\n\r\n",
                accept(key)
            );
            stream.write_all(switch.as_bytes()).await?;
            let mut message = [0; MESSAGE.len()];
            loop {
                stream.read_exact(&mut message).await?;
                sleep(Duration::from_millis(20)).await;
                stream.write_all(&[0x81, 2, message[6], message[7]]).await?;
            }
            #[expect(unreachable_code, reason = "it says of what kind errors are")]
            std::io::Result::Ok(())
        });
    }
}

/// "hi", under a mask of zeros.
const MESSAGE: [u8; 8] = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];

#[derive(Clone, Copy, Debug)]
enum Protocol {
    H1,
    H2,
    WebSocket,
}

/// Clients that ask one request after the other, of the gateway that they have a connection to. Each goes to the other
/// when it is told to leave, and when it is refused before it has sent anything.
struct Load {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: JoinSet<Result<(), String>>,
}

impl Load {
    fn start(protocol: Protocol, gateways: [SocketAddr; 2]) -> Self {
        let (is_over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
            clients.spawn(async move {
                let (mut at, mut kept) = (number, None);
                while !is_over.load(SeqCst) {
                    let opened = match kept.take() {
                        Some(connection) => Ok(connection),
                        None => Connection::open(protocol, gateways[at % 2]).await.map(Box::new),
                    };
                    let Ok(connection) = opened else {
                        at += 1;
                        sleep(Duration::from_millis(5)).await;
                        continue;
                    };
                    match connection.ask().await {
                        Outcome::Answered(connection) => kept = Some(connection),
                        Outcome::Last => at += 1,
                        Outcome::ToldBefore => {
                            at += 1;
                            continue;
                        }
                        Outcome::Failed(why) => return Err(format!("client {number}: {why}")),
                    }
                    answered.fetch_add(1, SeqCst);
                }
                Ok(())
            });
        }
        Self { is_over, answered, clients }
    }

    fn answered(&self) -> u64 {
        self.answered.load(SeqCst)
    }

    async fn end(mut self) {
        self.is_over.store(true, SeqCst);
        let ended = async {
            while let Some(client) = self.clients.join_next().await {
                assert_eq!(client.unwrap(), Ok(()));
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the clients end");
    }
}

/// Nothing was sent.
struct Refused;

enum Connection {
    H1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
    WebSocket(TcpStream),
}

/// What became of a request.
enum Outcome {
    /// Another one may follow.
    Answered(Box<Connection>),
    /// It was answered, and the client was told to leave.
    Last,
    /// The client was told before it had asked.
    ToldBefore,
    Failed(String),
}

impl Connection {
    async fn open(protocol: Protocol, at: SocketAddr) -> Result<Self, Refused> {
        let mut stream = TcpStream::connect(at).await.map_err(|_| Refused)?;
        Ok(match protocol {
            Protocol::H1 => {
                let (sender, connection) =
                    http1::handshake(TokioIo::new(stream)).await.map_err(|_| Refused)?;
                tokio::spawn(connection);
                Self::H1(sender)
            }
            Protocol::H2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .map_err(|_| Refused)?;
                tokio::spawn(connection);
                Self::H2(sender)
            }
            Protocol::WebSocket => {
                let ask = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
                stream.write_all(ask.as_bytes()).await.map_err(|_| Refused)?;
                Self::WebSocket(stream)
            }
        })
    }

    async fn ask(self) -> Outcome {
        match self {
            Self::H1(mut sender) => {
                if sender.ready().await.is_err() {
                    return Outcome::Failed("a connection was closed, and nobody was told".to_owned());
                }
                let response = match sender.send_request(request()).await {
                    Ok(response) => response,
                    Err(error) => return Outcome::Failed(format!("{error:?}")),
                };
                let is_last = closes(response.headers());
                match read(response).await {
                    Ok(()) if is_last => Outcome::Last,
                    Ok(()) => Outcome::Answered(Box::new(Self::H1(sender))),
                    Err(why) => Outcome::Failed(why),
                }
            }
            Self::H2(mut sender) => {
                if sender.ready().await.is_err() {
                    return Outcome::ToldBefore;
                }
                match sender.try_send_request(request()).await {
                    Ok(response) => match read(response).await {
                        Ok(()) => Outcome::Answered(Box::new(Self::H2(sender))),
                        Err(why) => Outcome::Failed(why),
                    },
                    Err(mut error) => match error.take_message() {
                        Some(_) => Outcome::ToldBefore, // It was not sent.
                        None => Outcome::Failed(format!("{:?}", error.into_error())),
                    },
                }
            }
            Self::WebSocket(mut stream) => match message(&mut stream).await {
                Ok(true) => Outcome::Answered(Box::new(Self::WebSocket(stream))),
                Ok(false) => Outcome::ToldBefore,
                Err(error) => Outcome::Failed(error.to_string()),
            },
        }
    }
}

fn request() -> Request<Empty<Bytes>> {
    Request::get("http://api.example/").header("host", "api.example").body(Empty::new()).unwrap()
}

fn closes(headers: &HeaderMap) -> bool {
    headers.get("connection").is_some_and(|value| value == "close")
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<(), String> {
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| format!("it was cut off: {error:?}"))?;
    let is_fine = status == 200 && body.to_bytes() == "fine";
    if is_fine { Ok(()) } else { Err(format!("it was answered with {status}")) }
}

/// Whether a message came back, or the farewell. Before the first, the answer to the upgrade is read.
async fn message(stream: &mut TcpStream) -> std::io::Result<bool> {
    stream.write_all(&MESSAGE).await?;
    let mut frame = [0; 4];
    stream.read_exact(&mut frame[..1]).await?;
    if frame[0] == b'H' {
        let mut head = String::from("H");
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(stream.read_u8().await?));
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        stream.read_exact(&mut frame[..1]).await?;
    }
    stream.read_exact(&mut frame[1..]).await?;
    match frame {
        [0x81, 2, b'h', b'i'] => Ok(true),
        [0x88, 2, 0x03, 0xe9] => Ok(false), // Going away.
        other => Err(std::io::Error::other(format!("{other:x?}"))),
    }
}
