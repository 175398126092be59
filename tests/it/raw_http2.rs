//! A client without rules: bytes on TCP, and HTTP/2 frames made by hand.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{WAIT_LIMIT, within};

#[path = "../../benches/performance/client/frames.rs"]
mod frames;

pub use frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS, WATCH,
    frame, literals, message,
};

pub const PRIORITY: u8 = 2;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const ACK: u8 = 1;
pub const PADDED: u8 = 8;

/// Encodes one setting.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()
}

/// The headers that open a call.
pub fn opening(path: &str) -> Vec<u8> {
    frames::opening(path, &[])
}

/// A call with its request.
pub fn call(stream: u32, request: &[u8]) -> Vec<u8> {
    [
        frame(HEADERS, END_HEADERS, stream, &opening(WATCH)),
        frame(DATA, END_STREAM, stream, &message(request)),
    ]
    .concat()
}

/// The client's stream ids: odd numbers, each once.
pub fn streams(count: u32) -> impl Iterator<Item = u32> + Clone {
    (0..count).map(|number| 2 * number + 1)
}

/// A received frame.
#[derive(Debug)]
pub struct Reply {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A TCP connection.
pub struct RawConnection(TcpStream);

impl RawConnection {
    pub async fn connect(address: SocketAddr) -> Self {
        let raw = Self::try_connect(address).await;
        raw.expect("the port takes connections")
    }

    /// Connects, or returns the kernel's error where the connection is reset at once.
    pub async fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = within("a connection", TcpStream::connect(address)).await?;
        // Many small writes should not wait for Nagle's algorithm.
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// A connection after the HTTP/2 preface.
    pub async fn greeted(address: SocketAddr) -> Self {
        Self::greeted_with(address, &[]).await
    }

    pub async fn greeted_with(address: SocketAddr, settings: &[u8]) -> Self {
        let mut raw = Self::connect(address).await;
        raw.greet(settings).await;
        raw
    }

    /// Sends the HTTP/2 preface and these settings.
    pub async fn greet(&mut self, settings: &[u8]) {
        let greeting = [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat();
        self.send(&greeting).await;
    }

    /// Sends bytes. It is no failure of the test that the server has closed the connection.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        within("the server takes bytes", self.0.write_all(bytes))
            .await
            .is_ok()
    }

    /// Sends as much as the server accepts within this time.
    pub async fn push(&mut self, bytes: &[u8], limit: Duration) {
        let _ = tokio::time::timeout(limit, self.0.write_all(bytes)).await;
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn reply(&mut self) -> Option<Reply> {
        within("a frame", self.read_reply()).await.ok()
    }

    async fn read_reply(&mut self) -> io::Result<Reply> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("a frame is short")];
        self.0.read_exact(&mut payload).await?;
        Ok(Reply {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// Reads frames, and answers pings, until `wanted` accepts one; `false` when the connection
    /// ends first.
    pub async fn until(&mut self, mut wanted: impl FnMut(&Reply) -> bool) -> bool {
        while let Some(reply) = self.reply().await {
            if reply.kind == PING && reply.flags & ACK == 0 {
                self.send(&frame(PING, ACK, 0, &reply.payload)).await;
            }
            if wanted(&reply) {
                return true;
            }
        }
        false
    }

    /// Everything that comes until the server closes the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let whole = async {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(read) = self.0.read(&mut buffer).await {
                if read == 0 {
                    break;
                }
                all.extend(&buffer[..read]);
            }
        };
        tokio::time::timeout(WAIT_LIMIT, whole)
            .await
            .expect("the server closes the connection");
        all
    }

    /// Returns whether the server answers a PING.
    pub async fn is_alive(&mut self) -> bool {
        self.send(&frame(PING, 0, 0, b"are you?")).await
            && self
                .until(|it| it.kind == PING && it.flags & ACK != 0 && it.payload == b"are you?")
                .await
    }
}
