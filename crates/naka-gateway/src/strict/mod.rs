//! What of HTTP/1.1 is believed: a reader in front of hyper that lets nothing pass over which two readers could differ.
//!
//! hyper is as lenient as RFC 9112 allows, and where a message can be read in two ways it settles for one. Whoever stands in front
//! of us may settle for the other, and that is how a request is smuggled (Heled et al., "HTTP Request Smuggling", 2005). So the
//! bytes of a connection go through `scan` first, which follows the framing of each message by itself. A head is held
//! until all of it is there, and one that it refuses is answered with a problem and the section of the RFC that it breaks, which ends
//! the connection; hyper has seen nothing of it. A body that is wrong is broken off, as if its client had gone.
//!
//! What it lets pass, hyper reads with the same framing: a test holds both against one another.

mod chunked;
mod scan;
mod stream;

pub(crate) use chunked::{Chunked, Part};
pub use scan::{Limits, Scan, Wrong};
pub(crate) use stream::Strict;

#[cfg(test)]
mod tests {
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
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMITS: Limits = Limits { head_bytes: 8 << 10, fields: 30 };

    /// The messages hyper reads, each with its body; and whether it liked all of it.
    async fn read_by_hyper(bytes: &[u8]) -> (Vec<Bytes>, bool) {
        let (mut ours, theirs) = tokio::io::duplex(64 << 10);
        let read = Arc::new(Mutex::new(Vec::new()));
        let (into, is_broken) = (Arc::clone(&read), Arc::new(AtomicBool::new(false)));
        let breaks = Arc::clone(&is_broken);
        let service = service_fn(move |request: Request<Incoming>| {
            let (into, breaks) = (Arc::clone(&into), Arc::clone(&breaks));
            async move {
                match request.into_body().collect().await {
                    Ok(body) => into.lock().unwrap().push(body.to_bytes()),
                    Err(_) => breaks.store(true, Relaxed), // Trailers that are none, as the scan does not read them.
                }
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
            }
        });
        let served = tokio::spawn(async move {
            http1::Builder::new()
                .half_close(true)
                .serve_connection(TokioIo::new(theirs), service)
                .await
                .is_ok()
        });
        ours.write_all(bytes).await.unwrap();
        ours.shutdown().await.unwrap();
        let mut answers = Vec::new();
        let _ = ours.read_to_end(&mut answers).await; // It is cut off where something is wrong.
        let is_fine = served.await.unwrap() && !is_broken.load(Relaxed);
        let read = std::mem::take(&mut *read.lock().unwrap());
        (read, is_fine)
    }

    /// Pieces of messages, right and wrong.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let words = [
            "GET / HTTP/1.1\r\n",
            "POST /a HTTP/1.1\r\n",
            "POST http://b/ HTTP/1.0\r\n",
            "host: a\r\n",
            "content-length: 3\r\n",
            "content-length: 0\r\n",
            "content-length:3\r\n",
            "Content-Length: 3 \r\n",
            "content-length: 3, 3\r\n",
            "transfer-encoding: chunked\r\n",
            "Transfer-Encoding:\tchunked\r\n",
            "transfer-encoding: identity\r\n",
            "connection: keep-alive\r\n",
            "expect: 100-continue\r\n",
            "x: y\r\n",
            "\r\n",
            "\n",
            "\r",
            "abc",
            "3\r\n",
            "3\r\nabc\r\n",
            "3;x=y\r\nabc\r\n",
            "03\r\nabc\r\n",
            "3 \r\nabc\r\n",
            "0\r\n\r\n",
            "0\r\nx: y\r\n\r\n",
            "0\r\n",
            "GET /b HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST /c HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n",
            "POST /d HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
        ];
        let word = prop::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec());
        let byte = any::<u8>().prop_map(|byte| vec![byte]);
        prop::collection::vec(prop_oneof![30 => word, 1 => byte], 1..14).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

        /// Of what is let pass hyper reads no message that is not seen here, and no other body.
        #[test]
        fn what_is_let_pass_is_read_alike_by_hyper(bytes in pieces(), cut in 1..50_usize) {
            let (mut scan, mut bodies, mut right) = (Scan::new(LIMITS), Bodies::default(), 0);
            for byte in bytes.chunks(1) {
                if scan.feed(byte).is_err() {
                    break;
                }
                bodies.after(&scan, byte[0]);
                right += 1;
            }
            // In pieces of any size the same is right, but for the head that is refused.
            let mut again = Scan::new(LIMITS);
            let mut passed = Vec::new();
            for piece in bytes.chunks(cut) {
                let (some, is_over) = match again.feed(piece) {
                    Ok(some) => (some, false),
                    Err((some, _)) => (some, true),
                };
                passed.extend(again.released());
                passed.extend_from_slice(&piece[..some]);
                if is_over {
                    break;
                }
            }
            prop_assert!(passed.len() <= right, "{} of {right}", passed.len());
            prop_assert_eq!(&passed[..], &bytes[..passed.len()], "nothing is lost, and nothing twice");
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (read, is_fine) = runtime.block_on(read_by_hyper(&passed));
            let seen = bodies.whole;
            prop_assert!(read.len() <= seen.len(), "hyper reads {read:?}, here are {seen:?}");
            prop_assert_eq!(&read, &seen[..read.len()]);
            if is_fine && scan.is_between() && passed.len() == bytes.len() && !bytes.is_empty() && !bodies.closes {
                prop_assert_eq!(read.len(), seen.len());
            }
        }
    }

    /// What a scan that is fed byte by byte has seen of bodies.
    #[derive(Default)]
    struct Bodies {
        whole: Vec<Bytes>,
        under_way: Vec<u8>,
        head: Vec<u8>,
        is_in_message: bool,
        /// A request after which hyper reads no more: of HTTP/1.0, or with something to wait for.
        closes: bool,
    }

    impl Bodies {
        fn after(&mut self, scan: &Scan, byte: u8) {
            if scan.has_taken_data() {
                self.under_way.push(byte);
            }
            self.head.push(byte);
            if !scan.is_between() {
                self.is_in_message = true;
            } else if self.is_in_message {
                let head = String::from_utf8_lossy(&self.head).to_lowercase();
                self.closes |= head.contains("http/1.0") || head.contains("expect");
                self.whole.push(std::mem::take(&mut self.under_way).into());
                (self.is_in_message, self.head) = (false, Vec::new());
            }
        }
    }
}
