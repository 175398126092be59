//! Label values that are closed sets.

use crate::pb;

/// The stage of a watch or a feed: the label `state` of `weir_watches` and `weir_feeds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// MongoDB has not answered the opening yet.
    Opening,
    /// It reads past events.
    CatchingUp,
    /// It has read everything so far.
    Live,
    /// The connection to MongoDB is lost.
    Reconnecting,
}

impl Stage {
    pub(super) const ALL: [Self; 4] = [
        Self::Opening,
        Self::CatchingUp,
        Self::Live,
        Self::Reconnecting,
    ];

    /// Returns the label value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::CatchingUp => "catching_up",
            Self::Live => "live",
            Self::Reconnecting => "reconnecting",
        }
    }
}

/// The mode of a feed: the label `mode` of `weir_feeds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One change stream for all watches of a scope, filtered in Weir.
    Shared,
    /// One change stream for equal watches, filtered by MongoDB.
    Dedicated,
}

impl Mode {
    pub(super) const ALL: [Self; 2] = [Self::Shared, Self::Dedicated];

    /// Returns the mode as the API has it.
    #[must_use]
    pub fn to_pb(self) -> pb::FeedMode {
        match self {
            Self::Shared => pb::FeedMode::Shared,
            Self::Dedicated => pb::FeedMode::Dedicated,
        }
    }

    /// Returns the label value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
        }
    }
}

/// The result of a TLS handshake: the label `result` of `weir_tls_handshakes_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeResult {
    /// The connection is established.
    Ok,
    /// It did not finish within `--request-timeout`.
    Timeout,
    /// The client sent an alert, most often because it does not trust the server's certificate.
    RefusedByClient,
    /// The client sent no certificate, though one is required.
    CertificateMissing,
    /// The client's certificate is not accepted.
    CertificateRefused,
    /// The client does not use TLS, a supported version of it, or HTTP/2.
    Protocol,
    /// The client closed the connection.
    Closed,
}

impl HandshakeResult {
    /// Every result.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::Timeout,
        Self::RefusedByClient,
        Self::CertificateMissing,
        Self::CertificateRefused,
        Self::Protocol,
        Self::Closed,
    ];

    /// Returns the label value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Timeout => "timeout",
            Self::RefusedByClient => "refused_by_client",
            Self::CertificateMissing => "certificate_missing",
            Self::CertificateRefused => "certificate_refused",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
        }
    }
}
