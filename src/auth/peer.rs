//! The other end of a connection.

use std::{net::SocketAddr, sync::Arc};

/// The other end of a connection. The server puts it into the extensions of each request.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The address of the client.
    pub address: Option<SocketAddr>,
    /// The verified certificate of the client, in DER.
    pub certificate: Option<Arc<[u8]>>,
}
