//! Reloads under load: at half of what this machine can do, valid and broken changes, routes and listeners that come and go.
//!
//! In CI with twenty thousand requests; `NAKA_REQUESTS=300000 cargo test --release -p naka-suite --test gateway -- reload_load` for all of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use crate::process::{Process, free_address};

const CLIENTS: u64 = 8;
/// Between two changes.
const EVERY: Duration = Duration::from_millis(200);

/// Answers with its name, and with the generation that a request says it comes through.
pub(crate) async fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut head).await {
                    while let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
                        let through =
                            text.lines().find_map(|line| line.strip_prefix("x-through: ")).unwrap_or("?");
                        let body = format!("{name} {through}");
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                        head.drain(..end + 4);
                    }
                }
            });
        }
    });
    address
}

/// The configuration number `version`: what goes to the upstream and what comes back says so, and every second one has a
/// route and a listener more.
fn version(number: u64, (a, b): (SocketAddr, SocketAddr), more: SocketAddr) -> String {
    let is_odd = number % 2 == 1;
    let listener = if is_odd { format!(", more: {{listen: '{more}'}}") } else { String::new() };
    let on = if is_odd { "[public, more]" } else { "[public]" };
    let route = if is_odd {
        format!("  odd: {{listener: public, match: {{path: /odd}}, respond: {{body: 'odd {number}'}}}}\n")
    } else {
        String::new()
    };
    format!(
        "gateway: {{admin: {{listen: ADMIN}}, workers: 2, reload: {{debounce: 10ms}}}}
listeners: {{public: {{listen: PUBLIC}}{listener}}}
policies: {{each: {{rate_limit: {{rate: 10000000/s, key: [client_ip]}}}}, room: {{bulkhead: {{max: 1000}}}}}}
upstreams: {{a: {{endpoints: ['{a}'], circuit_breaker: {{consecutive: 3}}}}, b: {{endpoints: ['{b}']}}}}
groups:
  all:
    listener: {on}
    use: [each, room]
    headers: {{request: {{set: {{x-through: '{number}'}}}}, response: {{set: {{x-through: '{number}'}}}}}}
    routes:
      a: {{match: {{prefix: /a}}, upstream: a}}
      b: {{match: {{prefix: /b}}, upstream: b}}
routes:
{route}  version: {{listener: public, match: {{path: /version}}, respond: {{body: '{number}'}}}}
"
    )
}

/// One request on a kept connection: the generation that all of it came through.
async fn exchange(stream: &mut TcpStream, to: &str) -> Result<u64, String> {
    let io = |error: std::io::Error| format!("{to}: {error}");
    stream
        .write_all(format!("GET /{to}/x HTTP/1.1\r\nhost: api.example\r\n\r\n").as_bytes())
        .await
        .map_err(io)?;
    let mut answer = Vec::with_capacity(512);
    let end = loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut answer).await.map_err(io)? == 0 {
            return Err(format!("{to}: closed after {:?}", String::from_utf8_lossy(&answer)));
        }
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let length: usize = value("content-length: ").parse().map_err(|_| format!("{to}: {head}"))?;
    while answer.len() < end + length {
        if stream.read_buf(&mut answer).await.map_err(io)? == 0 {
            return Err(format!("{to}: cut"));
        }
    }
    let body = String::from_utf8_lossy(&answer[end..]);
    let through = value("x-through: ");
    if !head.starts_with("http/1.1 200") || body != format!("{to} {through}") {
        return Err(format!("{to}: {head}{body}"));
    }
    through.parse().map_err(|_| format!("{to}: {head}"))
}

/// Clients, each on a connection of its own, that share `requests`; with `apart` between two of one client's.
pub(crate) async fn clients(at: SocketAddr, requests: u64, apart: Option<Duration>) -> Vec<String> {
    let failed = Arc::new(Mutex::new(Vec::new()));
    let mut all = JoinSet::new();
    for client in 0..CLIENTS {
        let failed = Arc::clone(&failed);
        all.spawn(async move {
            let mut stream = TcpStream::connect(at).await.unwrap();
            let (begin, mut newest) = (Instant::now(), 0);
            for number in 0..requests / CLIENTS {
                if let Some(apart) = apart {
                    sleep_until(begin + apart * u32::try_from(number).unwrap()).await;
                }
                // A connection in two hundred is a new one, as that of a new client would be.
                if number % 200 == 199 {
                    stream = TcpStream::connect(at).await.unwrap();
                }
                match exchange(&mut stream, if (number + client) % 2 == 0 { "a" } else { "b" }).await {
                    Ok(through) if through >= newest => newest = through,
                    Ok(through) => failed.lock().unwrap().push(format!("{through} after {newest}")),
                    Err(why) => {
                        failed.lock().unwrap().push(why);
                        stream = TcpStream::connect(at).await.unwrap();
                    }
                }
            }
        });
    }
    all.join_all().await;
    let failed = failed.lock().unwrap();
    failed.iter().take(20).cloned().collect()
}

/// What one client has to wait between two requests, so that all of them ask for half of what can be done; measured with so many.
pub(crate) async fn half(at: SocketAddr, requests: u64) -> Duration {
    let began = Instant::now();
    assert_eq!(clients(at, requests, None).await, Vec::<String>::new());
    began.elapsed() * u32::try_from(CLIENTS).unwrap() / u32::try_from(requests).unwrap() * 2
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_half_of_what_it_can_do_reloads_fail_misroute_and_mix_nothing() {
    let requests = std::env::var("NAKA_REQUESTS").map_or(20_000, |it| it.parse::<u64>().unwrap());
    let (upstreams, more) = ((echo("a").await, echo("b").await), free_address());
    let process = Arc::new(Process::start(&version(0, upstreams, more)).await);

    let apart = half(process.public, requests / 10).await;

    let accepted = Arc::new(AtomicU64::new(0));
    let changes: JoinHandle<()> = tokio::spawn({
        let (process, accepted) = (Arc::clone(&process), Arc::clone(&accepted));
        async move {
            for number in 1.. {
                sleep(EVERY).await;
                if number % 2 == 0 {
                    process.write("gateway.yaml", "listeners: {public: {listen: PUBLIC}\nroutes: [\n");
                    assert_eq!(process.post("/reload", "").await.0, 422, "{}", process.log());
                    continue;
                }
                let version_number = number / 2 + 1;
                process.write("gateway.yaml", &version(version_number, upstreams, more));
                let (status, said) = process.post("/reload", "").await;
                assert_eq!(status, 200, "{said}");
                accepted.fetch_add(1, SeqCst);
                assert_eq!(process.public("GET /version").await.1, version_number.to_string());
                let odd = process.public("GET /odd").await;
                if version_number % 2 == 1 {
                    assert_eq!(odd, (200, format!("odd {version_number}")));
                    let mut stream = TcpStream::connect(more).await.unwrap();
                    assert_eq!(exchange(&mut stream, "a").await, Ok(version_number));
                } else {
                    assert_eq!(odd.0, 404);
                    assert!(TcpStream::connect(more).await.is_err(), "nobody listens there any more");
                }
            }
        }
    });
    let mut failed = clients(process.public, requests, Some(apart)).await;
    // On a machine that is through with them before anything has changed.
    while failed.is_empty() && accepted.load(SeqCst) < 3 && !changes.is_finished() {
        failed = clients(process.public, requests, Some(apart)).await;
    }
    assert!(!changes.is_finished(), "the changes ended: {:?}", changes.await);
    changes.abort();
    let _ = changes.await;
    assert_eq!(failed, Vec::<String>::new());
    let (accepted, generation) = (accepted.load(SeqCst), process.json("/readyz").await["generation"].clone());
    let generation = generation.as_u64().unwrap();
    // The last change may have been cut off between taking effect and being counted.
    assert!(
        (accepted + 1..=accepted + 2).contains(&generation),
        "{accepted} accepted, generation {generation}"
    );
    assert!(accepted >= 3, "there were changes: {accepted}");
    eprintln!(
        "{requests} requests, one in {apart:?} for each of {CLIENTS} clients; {accepted} generations came"
    );
}
