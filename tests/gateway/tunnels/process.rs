//! Tunnels of a whole process, over sockets.

use naka_testkit::upstream::{Step, Upstream};
use rustix::process::Signal;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{ASK, SWITCH, has, head, rest};
use crate::process::Process;

/// The frame `hi`, twice: what is sent during the drain arrives, and then comes the farewell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_sigterm_leaves_a_tunnel_its_time_and_ends_it_in_order() {
    let upstream = Upstream::start(|_| {
        let wait = Step::Wait(std::time::Duration::from_secs(1));
        vec![Step::send(SWITCH), wait, Step::send([0x81, 2, b'h', b'i']), Step::Hang]
    })
    .await;
    let config = format!(
        "gateway: {{admin: {{listen: ADMIN}}, workers: 1, drain: {{grace: 0s, deadline: 4s}}}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{app: {{endpoints: ['{}']}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
",
        upstream.address()
    );
    let mut process = Process::start(&config).await;
    let mut client = TcpStream::connect(process.public).await.unwrap();
    client.write_all(ASK.as_bytes()).await.unwrap();
    assert!(has(&head(&mut client).await, "http/1.1 101 switching protocols"));
    process.signal(Signal::TERM);
    assert_eq!(rest(&mut client).await, [0x81, 2, b'h', b'i', 0x88, 2, 0x03, 0xe9]);
    drop(client);
    assert_eq!(process.end().await.code(), Some(0), "{}", process.log());
    assert!(process.log().contains("cut=0"), "{}", process.log());
}
