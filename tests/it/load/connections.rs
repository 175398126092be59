//! The clients' connections: several to each server, each through its own proxy.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use tonic::transport::{Channel, Endpoint};
use weir::pb::watch_service_client::WatchServiceClient;

/// The HTTP/2 window of a narrow connection.
const NARROW: u32 = 16 << 10;
/// The interval of keepalive pings, and the time that a client waits for the answer.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Connections with wide and narrow windows.
pub struct Connections {
    wide: Vec<Channel>,
    narrow: Vec<Channel>,
}

impl Connections {
    /// One connection for each address, made when it is used and remade when it breaks. Every
    /// eighth is narrow.
    pub fn to(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut connections = Self {
            wide: Vec::new(),
            narrow: Vec::new(),
        };
        for (number, address) in addresses.into_iter().enumerate() {
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            let endpoint = endpoint
                .expect("an address makes a URI")
                .connect_timeout(KEEPALIVE)
                .http2_keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE)
                .keep_alive_while_idle(true);
            if number % 8 == 0 {
                let endpoint = endpoint.initial_stream_window_size(NARROW);
                connections.narrow.push(endpoint.connect_lazy());
            } else {
                connections.wide.push(endpoint.connect_lazy());
            }
        }
        connections
    }

    /// A client on a random connection.
    pub fn client(&self, narrow: bool, rng: &mut Rng) -> WatchServiceClient<Channel> {
        let channels = if narrow { &self.narrow } else { &self.wide };
        WatchServiceClient::new(channels[rng.usize(..channels.len())].clone())
    }
}
