//! The frames of HTTP/2: the verdict on them is the same in pieces of any size, and h2 reads no heads out of what is passed on but those that
//! were seen to pass.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naka_gateway::frames::passed;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let (alone, pieces) = (passed(bytes, 1), passed(bytes, usize::from(*size).max(1)));
    assert_eq!(alone.wrong, pieces.wrong, "pieces make a difference");
    assert!(pieces.bytes <= alone.bytes && alone.heads.starts_with(&pieces.heads));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let read = runtime.block_on(read_by_h2(&bytes[..alone.bytes]));
    assert!(
        read.iter().all(|stream| alone.heads.contains(stream)),
        "h2 reads {read:?}, and here are {alone:?}"
    );
    assert!(read.len() <= alone.heads.len(), "h2 reads {read:?}, and here are {alone:?}");
    assert!(read.is_empty() || is_settings(bytes), "h2 serves who has not begun with settings");
});

/// Whether the first frame is `SETTINGS`, and no acknowledgement.
fn is_settings(bytes: &[u8]) -> bool {
    bytes.get(3..5).is_some_and(|header| header[0] == 4 && header[1] & 1 == 0)
}

/// The streams of the requests that h2 reads.
async fn read_by_h2(bytes: &[u8]) -> Vec<u32> {
    let (mut ours, theirs) = tokio::io::duplex(64 << 10);
    let reading = async move {
        let mut read = Vec::new();
        let Ok(mut connection) = h2::server::handshake(theirs).await else { return read };
        while let Some(Ok((request, _))) = connection.accept().await {
            read.push(request.body().stream_id().as_u32());
        }
        read
    };
    let writing = async move {
        let _ = ours.write_all(&[PREFACE, bytes].concat()).await; // It may have read enough.
        // With the end h2 forgets the requests that nobody has taken: it hears of it when there are no more.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let _ = ours.shutdown().await;
        let _ = ours.read_to_end(&mut Vec::new()).await;
    };
    tokio::join!(reading, writing).0
}
