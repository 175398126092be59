//! The ways in which a start can fail.

use std::net::SocketAddr;

use crate::{auth::SetupError, config::ConfigError};

/// The reasons why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The keys for tokens can't be used.
    #[error("--token-key-file: {0}")]
    TokenKeys(String),
    /// The connection string can't be used.
    #[error("--mongodb-uri: {0}")]
    Uri(String),
    /// Certificates can't be used.
    #[error("{0}")]
    Tls(String),
    /// Authentication can't be set up.
    #[error(transparent)]
    Auth(#[from] SetupError),
    /// Another regex engine than MongoDB's is linked.
    #[error("{0}")]
    RegexEngine(String),
    /// A port can't be bound.
    #[error("--{flag}: can't listen on {address}: {error}")]
    Listen {
        /// The flag of the address, without dashes.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: std::io::Error,
    },
    /// The reflection service can't be built.
    #[error("can't build the reflection service: {0}")]
    Reflection(#[from] prost::DecodeError),
}
