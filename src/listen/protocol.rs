//! The protocol of a connection, told by the client's first bytes.
//!
//! A server of HTTP/2 alone greets a client of HTTP/1 with bytes that its user can't read.

use tokio::io::ReadBuf;

/// The first bytes of every HTTP/2 client (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// The client begins like one of HTTP/1, with the name of a method.
    Http1,
    /// Everything else: HTTP/2 itself refuses what it does not know.
    Http2,
}

/// The bytes that were read to tell the protocol. They are read again by what serves the connection.
#[derive(Debug, Default)]
pub(super) struct FirstBytes {
    bytes: [u8; PREFACE.len()],
    filled: usize,
    /// The number of bytes that were read again.
    taken: usize,
}

impl FirstBytes {
    /// Reads bytes again, as many as there are and fit. Returns false if there are none.
    pub(super) fn read_again(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let rest = &self.bytes[self.taken..self.filled];
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        self.taken += length;
        length > 0
    }

    /// Returns the room for further bytes: none once the protocol is clear.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// Adds the first `length` bytes of the room.
    pub(super) fn fill(&mut self, length: usize) {
        self.filled += length;
    }

    /// Returns the protocol, or `None` as long as more bytes are needed to tell.
    pub(super) fn protocol(&self) -> Option<Protocol> {
        let bytes = &self.bytes[..self.filled];
        if *bytes == PREFACE[..self.filled] {
            return (self.filled == PREFACE.len()).then_some(Protocol::Http2);
        }
        let letters = bytes.iter().take_while(|byte| byte.is_ascii_uppercase());
        match bytes.get(letters.count()) {
            Some(b' ') if bytes[0] != b' ' => Some(Protocol::Http1),
            None if self.filled < PREFACE.len() => None,
            _ => Some(Protocol::Http2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(bytes: &[u8]) -> Option<Protocol> {
        let mut first = FirstBytes::default();
        let length = bytes.len().min(PREFACE.len());
        first.bytes[..length].copy_from_slice(&bytes[..length]);
        first.filled = length;
        first.protocol()
    }

    #[test]
    fn the_protocol_is_told_as_soon_as_it_is_clear() {
        for length in 0..PREFACE.len() {
            assert_eq!(protocol(&PREFACE[..length]), None, "{length}");
        }
        for (bytes, expected) in [
            (&PREFACE[..], Some(Protocol::Http2)),
            (b"G", None),
            (b"GET", None),
            (b"GET ", Some(Protocol::Http1)),
            (b"PRI ", None),
            (b"PRI /", Some(Protocol::Http1)),
            (
                b"POST /weir.v1.WatchService/Watch HTTP/1.1",
                Some(Protocol::Http1),
            ),
            (b"get /", Some(Protocol::Http2)),
            (b" GET /", Some(Protocol::Http2)),
            (b"GET\r\n", Some(Protocol::Http2)),
            (b"\x16\x03\x01", Some(Protocol::Http2)),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Some(Protocol::Http2)),
        ] {
            assert_eq!(protocol(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn the_bytes_are_read_again_in_pieces() {
        let mut first = FirstBytes {
            bytes: *PREFACE,
            filled: 20,
            taken: 0,
        };
        let mut all = Vec::new();
        let mut room = [0; 7];
        loop {
            let mut buffer = ReadBuf::new(&mut room);
            if !first.read_again(&mut buffer) {
                break;
            }
            all.extend_from_slice(buffer.filled());
        }
        assert_eq!(all, PREFACE[..20]);
    }
}
