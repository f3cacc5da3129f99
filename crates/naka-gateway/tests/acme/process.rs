//! The process whole, over sockets.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use naka::clock::WallClock;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::{
    authority::{Authority, Pipe},
    client::dial,
};

/// Ends with the test, however that does.
struct Process(Child);

impl Process {
    fn start(entry: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_naka"));
        Self(
            command
                .args(["run", "-c"])
                .arg(entry)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

async fn get(address: SocketAddr, authority: &Authority) -> io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = dial(stream, "shop.example", authority.der()).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// What a client gets, once it gets something.
async fn first(address: SocketAddr, authority: &Authority) -> String {
    for _ in 0..600 {
        if let Ok(text) = get(address, authority).await {
            return text;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("nobody answers at {address}");
}

#[tokio::test]
async fn a_process_orders_once_and_starts_again_with_what_it_has_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let authority = Authority::new(WallClock::system(), &here);
    let serving = authority.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serving.clone().serve(stream));
        }
    });
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    authority
        .reaches(move |_| Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await?) as Pipe) }));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("root.pem"), authority.pem()).unwrap();
    let yaml = format!(
        "
gateway: {{admin: none, workers: 2}}
listeners:
  web:
    listen: {address}
    tls:
      acme: {{domains: [shop.example], directory: '{here}/directory', folder: kept, accept_terms: true, ca: root.pem}}
routes:
  all: {{match: {{prefix: /}}, respond: {{body: shop}}}}
"
    );
    let entry = folder.path().join("gateway.yaml");
    fs::write(&entry, yaml).unwrap();
    for _ in 0..2 {
        let _process = Process::start(&entry);
        let text = first(address, &authority).await;
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("shop"), "{text}");
        let books = authority.books();
        assert_eq!((books.asked, books.certificates), (1, 1));
    }
}
