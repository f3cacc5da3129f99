//! The header by which a balancer of connections says whose a connection is: the PROXY protocol, version 1 and 2 (Tarreau,
//! "The PROXY protocol", 2020).
//!
//! # What holds
//! - It has to be there: nobody guesses whether it is one (section 2).
//! - `LOCAL` and `UNKNOWN` say nothing of a client: the connection is of the balancer itself, as its health checks are.
//! - What else it says, such as the TLS that the balancer has ended, is not looked at.
//!
//! # Limits
//! 107 bytes of version 1 (section 2.1), and [`MAX`] of version 2. Whoever calls bounds the time.

use std::net::IpAddr;

use ppp::{v1, v2};
use tokio::io::AsyncRead;

use crate::begun::Begun;

/// Bytes of a header of version 2, with all that it says.
pub const MAX: usize = 4096;

/// The longest line of version 1.
const LINE: usize = 107;
/// The part of a header of version 2 that says how long the rest is.
const FIXED: usize = 16;

/// Reads the header, and says whose the connection is, if it is somebody's.
///
/// # Errors
/// If it is none: why.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut Begun<S>) -> Result<Option<IpAddr>, &'static str> {
    const CUT: &str = "the connection ended within the header of the PROXY protocol";
    let is_binary =
        |read: &[u8]| v2::PROTOCOL_PREFIX.starts_with(&read[..read.len().min(v2::PROTOCOL_PREFIX.len())]);
    let is_line = |read: &[u8]| !is_binary(read) || read.len() >= v2::PROTOCOL_PREFIX.len();
    // The signature of version 2 has bytes that no line of version 1 begins with: which it is shows at the first.
    let mut filled = stream.fill(v2::PROTOCOL_PREFIX.len(), is_line).await.map_err(|_| CUT)?;
    let (address, length);
    if is_binary(stream.first()) {
        filled = filled && stream.fill(FIXED, |_| false).await.map_err(|_| CUT)?;
        if !filled {
            return Err(CUT);
        }
        let rest = u16::from_be_bytes([stream.first()[FIXED - 2], stream.first()[FIXED - 1]]);
        length = FIXED + usize::from(rest);
        if length > MAX {
            return Err("a header of the PROXY protocol longer than 4096 bytes");
        }
        if !stream.fill(length, |_| false).await.map_err(|_| CUT)? {
            return Err(CUT);
        }
        address = binary(&stream.first()[..length])?;
    } else {
        let end = |read: &[u8]| read.iter().take(LINE).position(|&byte| byte == b'\n');
        let is_over = |read: &[u8]| end(read).is_some() || !read.starts_with(&b"PROXY "[..read.len().min(6)]);
        stream.fill(LINE, is_over).await.map_err(|_| CUT)?;
        length = end(stream.first()).map(|end| end + 1).ok_or("no header of the PROXY protocol")?;
        address = line(&stream.first()[..length])?;
    }
    stream.skip(length);
    Ok(address)
}

fn line(bytes: &[u8]) -> Result<Option<IpAddr>, &'static str> {
    let header = v1::Header::try_from(bytes).map_err(|_| "a line of the PROXY protocol that is wrong")?;
    if header.header.len() != bytes.len() {
        return Err("a line of the PROXY protocol that ends before its end");
    }
    Ok(match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(of) => Some(of.source_address.into()),
        v1::Addresses::Tcp6(of) => Some(of.source_address.into()),
    })
}

fn binary(bytes: &[u8]) -> Result<Option<IpAddr>, &'static str> {
    let header = v2::Header::try_from(bytes).map_err(|_| "a header of the PROXY protocol that is wrong")?;
    match (header.command, header.protocol, header.addresses) {
        (v2::Command::Proxy, v2::Protocol::Datagram, _) => {
            Err("a header of the PROXY protocol for datagrams, on a stream")
        }
        (v2::Command::Proxy, _, v2::Addresses::IPv4(of)) => Ok(Some(of.source_address.into())),
        (v2::Command::Proxy, _, v2::Addresses::IPv6(of)) => Ok(Some(of.source_address.into())),
        (v2::Command::Local, ..) | (_, _, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// What is read of bytes that come in pieces of this size, and what is left for whoever reads on.
    async fn read_in(bytes: &[u8], piece: usize) -> Result<(Option<IpAddr>, Vec<u8>), &'static str> {
        let (mut ours, theirs) = duplex(1 << 16);
        let bytes = bytes.to_vec();
        let writing = tokio::spawn(async move {
            for piece in bytes.chunks(piece) {
                let _ = ours.write_all(piece).await; // Who has heard enough reads no more.
                tokio::task::yield_now().await;
            }
        });
        let mut stream = Begun::new(theirs);
        let address = read(&mut stream).await;
        let mut rest = Vec::new();
        if address.is_ok() {
            stream.read_to_end(&mut rest).await.unwrap();
        }
        writing.abort();
        Ok((address?, rest))
    }

    fn v2(command: u8, family: u8, addresses: &[u8], more: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len() + more.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, addresses, more].concat()
    }

    const FOUR: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 1, 0, 80, 1, 187];

    #[tokio::test]
    async fn whose_a_connection_is_is_read_in_pieces_of_any_size() {
        let six = [&[0x20; 16][..], &[1; 16], &[0, 80, 1, 187]].concat();
        let cases = [
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 1 443\r\n".to_vec(), Some("192.0.2.7")),
            (b"PROXY TCP6 2001:db8::1 ::1 1 443\r\n".to_vec(), Some("2001:db8::1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(1, 0x11, &FOUR, b""), Some("192.0.2.7")),
            (v2(1, 0x11, &FOUR, &[4, 0, 1, 0]), Some("192.0.2.7")),
            (v2(1, 0x21, &six, b""), Some("2020:2020:2020:2020:2020:2020:2020:2020")),
            (v2(0, 0x00, b"", b""), None),
            (v2(1, 0x31, &[0; 216], b""), None),
        ];
        for (header, expected) in cases {
            for piece in [1, 2, 7, 12, 13, 16, 28, 1000] {
                let whole = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
                let (address, rest) = read_in(&whole, piece).await.unwrap();
                assert_eq!(address.map(|it| it.to_string()).as_deref(), expected, "{header:?} by {piece}");
                assert_eq!(rest, b"GET / HTTP/1.1\r\n\r\n", "nothing is lost of what follows");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_not_guessed_at() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        let cases = [
            &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
            b"",
            b"PROXY",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 443\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 443\rGET /\r\n",
            b"PROXY TCP4 192.0.2.07 192.0.2.1 1 443\r\n",
            b"PROXY TCP4 ::1 ::2 1 443\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 443\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 443 more\r\n",
            b"PROXY  TCP4 192.0.2.7 192.0.2.1 1 443\r\n",
            b"proxy TCP4 192.0.2.7 192.0.2.1 1 443\r\n",
            b"\r\n\r\n\0\r\nQUIT",
            long.as_bytes(),
            &v2(1, 0x12, &FOUR, b""),
            &v2(2, 0x11, &FOUR, b""),
            &v2(1, 0x41, &FOUR, b""),
            &v2(1, 0x21, &FOUR, b""),
            &v2(1, 0x11, &FOUR, &[0; MAX]),
            &v2(1, 0x11, &FOUR, b"")[..20],
        ];
        for header in cases {
            assert!(read_in(header, 5).await.is_err(), "{header:?}");
        }
    }

    proptest! {
        /// Whatever comes, it neither panics nor takes more than it may.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), begins in 0..3_usize) {
            let begin = [&b""[..], b"PROXY ", v2::PROTOCOL_PREFIX][begins];
            let bytes = [begin, &bytes].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            if let Ok((_, rest)) = runtime.block_on(read_in(&bytes, 9)) {
                prop_assert!(bytes.ends_with(&rest));
            }
        }
    }
}
