//! Label values, as closed sets.

use crate::pb;

/// What a watch, or the feed behind it, is doing: the label values of `weir_watches` and
/// `weir_feeds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// MongoDB has not answered the opening yet.
    Opening,
    /// Reading the past.
    CatchingUp,
    /// Nothing is left to read.
    Live,
    /// MongoDB is away.
    Reconnecting,
}

impl Stage {
    pub(super) const ALL: [Self; 4] = [
        Self::Opening,
        Self::CatchingUp,
        Self::Live,
        Self::Reconnecting,
    ];

    /// The label's value.
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

/// Whose change stream a watch reads: the label values of `weir_feeds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One for all watches of a scope, filtered in Weir.
    Shared,
    /// One for equal watches, filtered by MongoDB.
    Dedicated,
}

impl Mode {
    pub(super) const ALL: [Self; 2] = [Self::Shared, Self::Dedicated];

    /// The API's name for it.
    #[must_use]
    pub fn to_pb(self) -> pb::FeedMode {
        match self {
            Self::Shared => pb::FeedMode::Shared,
            Self::Dedicated => pb::FeedMode::Dedicated,
        }
    }

    /// The label's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
        }
    }
}

/// What became of a TLS handshake: the label values of `weir_tls_handshakes_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeResult {
    /// There is a connection.
    Ok,
    /// It was not done in its time.
    Timeout,
    /// The client sent an alert: it does not trust the server's certificate, most often.
    RefusedByClient,
    /// The client shows no certificate, and must.
    CertificateMissing,
    /// The client's certificate is not good.
    CertificateRefused,
    /// No TLS, none that is spoken here, or no HTTP/2 inside.
    Protocol,
    /// The client went away.
    Closed,
}

impl HandshakeResult {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::Timeout,
        Self::RefusedByClient,
        Self::CertificateMissing,
        Self::CertificateRefused,
        Self::Protocol,
        Self::Closed,
    ];

    /// The label's value.
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
