//! TLS handshakes: how many at once, how long each, and what becomes of them.

use std::{io, sync::Arc};

use rustls::Error as TlsError;
use tokio::{net::TcpStream, sync::Semaphore};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;

use super::{Accepted, Connection};
use crate::{
    auth::Peer,
    tls::{HTTP2, Tls},
};

/// Makes encrypted connections of those that come.
#[derive(Debug, Clone)]
pub struct Handshakes {
    tls: Arc<Tls>,
    turns: Arc<Semaphore>,
}

/// Why there is no connection.
struct Failed {
    /// The label of `weir_tls_handshakes_total`.
    result: &'static str,
    error: io::Error,
}

impl Handshakes {
    /// At most `max` of them at once.
    #[must_use]
    pub fn new(tls: Arc<Tls>, max: usize) -> Self {
        Self {
            tls,
            turns: Arc::new(Semaphore::new(max)),
        }
    }

    /// Makes an encrypted connection of one, in the time that it has to greet. `None` when that fails.
    pub(super) async fn shake(self, accepted: Accepted) -> Option<Connection> {
        let Accepted {
            stream,
            address,
            mut deadline,
            metrics,
            permit,
            counted,
        } = accepted;
        let shaken = tokio::select! {
            biased;
            shaken = self.encrypt(stream) => shaken,
            () = deadline.sleep.as_mut() => {
                metrics.limit_rejected("request_timeout");
                Err(Failed {
                    result: "timeout",
                    error: io::ErrorKind::TimedOut.into(),
                })
            }
        };
        let stream = match shaken {
            Ok(stream) => stream,
            Err(Failed { result, error }) => {
                metrics.handshake_ended(result);
                // At this level alone: anyone can make as many of these as they like.
                tracing::debug!(?address, result, %error, "a tls handshake failed");
                return None;
            }
        };
        metrics.handshake_ended("ok");
        let chain = stream.get_ref().1.peer_certificates();
        let certificate = chain.and_then(|chain| chain.first());
        Some(Connection {
            peer: Peer {
                address,
                certificate: certificate.map(|it| Arc::from(it.as_ref())),
            },
            stream: Either::Right(Box::new(stream)),
            hurry: Some(deadline),
            metrics,
            _permit: permit,
            _counted: counted,
        })
    }

    async fn encrypt(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failed> {
        // Whoever says nothing takes nobody's turn.
        stream.readable().await.map_err(|error| Failed {
            result: "closed",
            error,
        })?;
        let turn = self.turns.acquire().await;
        let acceptor = TlsAcceptor::from(self.tls.config());
        let shaken = acceptor.accept(stream).await;
        drop(turn);
        let stream = shaken.map_err(|error| Failed {
            result: result_of(&error),
            error,
        })?;
        // rustls refuses a client that offers other protocols alone, and takes one that offers none.
        // HTTP/2 demands that it be offered: what comes without is meant for something else.
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(Failed {
                result: "protocol",
                error: io::Error::other("the client does not offer h2 by ALPN"),
            });
        }
        Ok(stream)
    }
}

/// What became of a handshake that failed: the label of `weir_tls_handshakes_total`.
fn result_of(error: &io::Error) -> &'static str {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        // It does not trust the server's certificate, most often.
        Some(TlsError::AlertReceived(_)) => "refused_by_client",
        Some(TlsError::NoCertificatesPresented) => "certificate_missing",
        Some(TlsError::InvalidCertificate(_)) => "certificate_refused",
        Some(_) => "protocol",
        None => "closed",
    }
}
