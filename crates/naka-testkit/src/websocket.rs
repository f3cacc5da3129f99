//! What a server of WebSocket has to answer (RFC 6455 §4.2.2).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// `Sec-WebSocket-Accept` to this `Sec-WebSocket-Key`.
pub fn accept(key: &str) -> String {
    let salted = [key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &salted))
}
