//! TLS handshakes, with limits on their number and duration.

use std::{io, sync::Arc, time::Duration};

use rustls::{Error as TlsError, server::Acceptor};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::connection::{Admission, CertificateRevoked, Connection};
use crate::{
    limit::{Limit, Limiter},
    metrics::Metrics,
    tls::{ClientTrust, HTTP2, Tls},
};

/// The maximum time that a handshake holds its slot. The server's own work is done by then; a client that
/// takes longer must not delay others.
const MAX_SLOT_TIME: Duration = Duration::from_secs(1);

/// The time for a rejected client to read the alert and close.
const ALERT_LINGER: Duration = Duration::from_secs(1);

/// Performs the TLS handshakes of new connections.
#[derive(Debug, Clone)]
pub struct Handshakes {
    tls: Arc<Tls>,
    slots: Limiter,
}

/// The result of a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HandshakeResult {
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
    const ALL: [Self; 7] = [
        Self::Ok,
        Self::Timeout,
        Self::RefusedByClient,
        Self::CertificateMissing,
        Self::CertificateRefused,
        Self::Protocol,
        Self::Closed,
    ];

    /// Returns the name for logs and metrics.
    fn name(self) -> &'static str {
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

/// The reason why a handshake failed.
struct HandshakeFailure {
    result: HandshakeResult,
    error: io::Error,
    /// The connection, if an alert was sent on it.
    alerted: Option<TcpStream>,
}

impl HandshakeFailure {
    fn without_alert(result: HandshakeResult, error: impl Into<io::Error>) -> Self {
        Self {
            result,
            error: error.into(),
            alerted: None,
        }
    }

    /// A failure found by rustls, which has already sent an alert.
    fn with_alert(error: io::Error, stream: Option<TcpStream>) -> Self {
        let result = result_of(&error);
        Self {
            result,
            error,
            alerted: stream.filter(|_| result != HandshakeResult::Closed),
        }
    }
}

impl Handshakes {
    /// Creates an acceptor that performs `max` handshakes at once. Each holds a slot for at most a second,
    /// counted from its complete ClientHello.
    #[must_use]
    pub fn new(tls: Arc<Tls>, max: usize, metrics: &Metrics) -> Self {
        let results = HandshakeResult::ALL.map(HandshakeResult::name);
        metrics.tls_handshakes.expose(results);
        Self {
            tls,
            slots: Limiter::new(Limit::new("handshakes", max)),
        }
    }

    /// Performs the handshake of a connection within its deadline. Returns `None` on failure.
    pub(super) async fn perform(
        self,
        stream: TcpStream,
        mut admission: Admission,
    ) -> Option<Connection> {
        let address = admission.address();
        let outcome = tokio::select! {
            biased;
            outcome = self.encrypt(stream) => outcome,
            () = admission.deadline_passed() => {
                Err(HandshakeFailure::without_alert(HandshakeResult::Timeout, io::ErrorKind::TimedOut))
            }
        };
        let (stream, trust) = match outcome {
            Ok(outcome) => outcome,
            Err(HandshakeFailure {
                result,
                error,
                alerted,
            }) => {
                count(&admission, result);
                // Debug level only, because anyone can cause any number of failures.
                tracing::debug!(?address, result = result.name(), %error, "a tls handshake failed");
                if let Some(stream) = alerted {
                    let _ = timeout(ALERT_LINGER, close_after_alert(stream)).await;
                }
                return None;
            }
        };
        count(&admission, HandshakeResult::Ok);
        let chain = stream.get_ref().1.peer_certificates();
        let certificate = chain.and_then(|chain| chain.first());
        let certificate = certificate.map(|it| Arc::from(it.as_ref()));
        let revoked = chain.map(|chain| -> CertificateRevoked {
            let revocation = trust.revoked(chain.to_vec());
            Box::pin(async move {
                revocation.await;
                tracing::info!(
                    ?address,
                    "the client's certificate is no longer trusted; closing its connection"
                );
            })
        });
        Some(Connection::encrypted(
            stream,
            admission,
            certificate,
            revoked,
        ))
    }

    async fn encrypt(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, ClientTrust), HandshakeFailure> {
        let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
        // Without a slot: a client that sends no complete ClientHello must not occupy one.
        let start = match (&mut acceptor).await {
            Ok(start) => start,
            Err(error) => return Err(HandshakeFailure::with_alert(error, acceptor.take_io())),
        };
        let slot = self.slots.acquire().await;
        let (config, trust) = self.tls.begin_handshake();
        let mut handshake = start.into_stream(config).into_fallible();
        let with_slot = timeout(MAX_SLOT_TIME, &mut handshake).await;
        drop(slot);
        let outcome = match with_slot {
            Ok(outcome) => outcome,
            Err(_) => handshake.await,
        };
        let stream = match outcome {
            Ok(stream) => stream,
            Err((error, stream)) => return Err(HandshakeFailure::with_alert(error, Some(stream))),
        };
        // rustls rejects clients that offer only other protocols, but accepts those that offer none.
        // HTTP/2 requires the offer, so such a client expects another protocol.
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            let error = io::Error::other("the client does not offer h2 by ALPN");
            return Err(HandshakeFailure::without_alert(
                HandshakeResult::Protocol,
                error,
            ));
        }
        Ok((stream, trust))
    }
}

/// Closes a connection after an alert so that the client can read it. Closing with unread bytes would send a
/// reset, which overtakes the alert; a TLS 1.3 client has already sent its first request by then.
async fn close_after_alert(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    }
}

fn count(admission: &Admission, result: HandshakeResult) {
    let handshakes = &admission.metrics().tls_handshakes;
    handshakes.of(result.name()).increment(1);
}

/// Returns the result that a failure counts as.
fn result_of(error: &io::Error) -> HandshakeResult {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        // Most often because it does not trust the server's certificate.
        Some(TlsError::AlertReceived(_)) => HandshakeResult::RefusedByClient,
        Some(TlsError::NoCertificatesPresented) => HandshakeResult::CertificateMissing,
        Some(TlsError::InvalidCertificate(_)) => HandshakeResult::CertificateRefused,
        Some(_) => HandshakeResult::Protocol,
        None => HandshakeResult::Closed,
    }
}
