//! Headers of the PROXY protocol, in pieces of any size: the same comes of it, and nothing is lost of what follows.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use naka_gateway::{begun::Begun, proxy_protocol};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let at_once = runtime.block_on(read(bytes, bytes.len().max(1)));
    let in_pieces = runtime.block_on(read(bytes, usize::from(*size).max(1)));
    assert_eq!(at_once, in_pieces);
    if let Some((_, rest)) = at_once {
        assert!(bytes.ends_with(&rest));
    }
});

async fn read(bytes: &[u8], size: usize) -> Option<(Option<IpAddr>, Vec<u8>)> {
    let (mut ours, theirs) = tokio::io::duplex(1 << 17);
    let mut stream = Begun::new(theirs);
    let writing = async move {
        for piece in bytes.chunks(size) {
            ours.write_all(piece).await.expect("there is room");
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        let address = proxy_protocol::read(&mut stream).await.ok()?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("it ends");
        Some((address, rest))
    };
    tokio::join!(writing, reading).1
}
