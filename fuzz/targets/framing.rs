//! The framing of HTTP/1.1: what is let pass is the same in pieces of any size, and hyper reads the same messages out of it.
#![no_main]

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use naka_gateway::strict::{Limits, Scan};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const LIMITS: Limits = Limits { head_bytes: 4 << 10, fields: 20 };

fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let (passed, bodies) = byte_by_byte(bytes);
    let in_pieces = passed_in(bytes, usize::from(*size).max(1));
    assert!(in_pieces.len() <= passed.len() && passed.starts_with(&in_pieces), "pieces make a difference");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (read, is_whole) = runtime.block_on(read_by_hyper(&in_pieces));
    let whole = &bodies[..read.len().min(bodies.len())];
    assert!(read.len() <= bodies.len(), "hyper reads {read:?}, and here are {bodies:?}");
    assert!(!is_whole || read == whole, "hyper reads {read:?}, and here are {bodies:?}");
});

/// What is right, and the bodies in it.
fn byte_by_byte(bytes: &[u8]) -> (Vec<u8>, Vec<Bytes>) {
    let (mut scan, mut bodies, mut body) = (Scan::new(LIMITS), Vec::new(), Vec::new());
    let (mut right, mut is_in_message) = (Vec::new(), false);
    for byte in bytes {
        if scan.feed(std::slice::from_ref(byte)).is_err() {
            break;
        }
        right.push(*byte);
        if scan.has_taken_data() {
            body.push(*byte);
        }
        if !scan.is_between() {
            is_in_message = true;
        } else if is_in_message {
            bodies.push(Bytes::from(std::mem::take(&mut body)));
            is_in_message = false;
        }
    }
    (right, bodies)
}

fn passed_in(bytes: &[u8], size: usize) -> Vec<u8> {
    let (mut scan, mut passed) = (Scan::new(LIMITS), Vec::new());
    for piece in bytes.chunks(size) {
        let (right, is_over) = match scan.feed(piece) {
            Ok(right) => (right, false),
            Err((right, _)) => (right, true),
        };
        passed.extend(scan.released());
        passed.extend_from_slice(&piece[..right]);
        if is_over {
            break;
        }
    }
    passed
}

/// The bodies that hyper reads to their end, and whether none broke off.
async fn read_by_hyper(bytes: &[u8]) -> (Vec<Bytes>, bool) {
    let (mut ours, theirs) = tokio::io::duplex(64 << 10);
    let (read, is_broken) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let (into, breaks) = (Arc::clone(&read), Arc::clone(&is_broken));
    let service = service_fn(move |request: Request<Incoming>| {
        let (into, breaks) = (Arc::clone(&into), Arc::clone(&breaks));
        async move {
            match request.into_body().collect().await {
                Ok(body) => into.lock().expect("nobody panics").push(body.to_bytes()),
                Err(_) => breaks.store(true, Relaxed),
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    });
    let served = tokio::spawn(async move {
        http1::Builder::new().half_close(true).serve_connection(TokioIo::new(theirs), service).await.is_ok()
    });
    let bytes = bytes.to_vec();
    let writing = async move {
        let _ = ours.write_all(&bytes).await; // It may have read enough.
        let _ = ours.shutdown().await;
        let _ = ours.read_to_end(&mut Vec::new()).await;
    };
    writing.await;
    let is_fine = served.await.expect("hyper does not panic");
    let read = std::mem::take(&mut *read.lock().expect("nobody panics"));
    (read, is_fine && !is_broken.load(Relaxed))
}
