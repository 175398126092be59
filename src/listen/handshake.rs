//! TLS handshakes: how many at once, how long each, and what becomes of them.

use std::{io, sync::Arc, time::Duration};

use rustls::Error as TlsError;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;

use super::{Accepted, Connection};
use crate::{
    auth::Peer,
    tls::{HTTP2, Tls},
};

/// How long a client that was refused has to read why, and to close.
const LINGER: Duration = Duration::from_secs(1);

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
    /// Where the client has been sent an alert.
    told: Option<TcpStream>,
}

impl Failed {
    fn because(result: &'static str, error: impl Into<io::Error>) -> Self {
        Self {
            result,
            error: error.into(),
            told: None,
        }
    }
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
                Err(Failed::because("timeout", io::ErrorKind::TimedOut))
            }
        };
        let stream = match shaken {
            Ok(stream) => stream,
            Err(Failed {
                result,
                error,
                told,
            }) => {
                metrics.handshake_ended(result);
                // At this level alone: anyone can make as many of these as they like.
                tracing::debug!(?address, result, %error, "a tls handshake failed");
                if let Some(stream) = told {
                    let _ = timeout(LINGER, part(stream)).await;
                }
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
        // Whoever says nothing takes nobody's turn. That a socket is readable may be a false alarm.
        let peeked = stream.peek(&mut [0]).await;
        if peeked.map_err(|error| Failed::because("closed", error))? == 0 {
            return Err(Failed::because("closed", io::ErrorKind::UnexpectedEof));
        }
        let turn = self.turns.acquire().await;
        let acceptor = TlsAcceptor::from(self.tls.config());
        let shaken = acceptor.accept(stream).into_fallible().await;
        drop(turn);
        let stream = match shaken {
            Ok(stream) => stream,
            Err((error, stream)) => {
                let result = result_of(&error);
                let told = (result != "closed").then_some(stream);
                return Err(Failed {
                    result,
                    error,
                    told,
                });
            }
        };
        // rustls refuses a client that offers other protocols alone, and takes one that offers none.
        // HTTP/2 demands that it be offered: what comes without is meant for something else.
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            let error = io::Error::other("the client does not offer h2 by ALPN");
            return Err(Failed::because("protocol", error));
        }
        Ok(stream)
    }
}

/// Closes a connection after an alert, so that the client learns why. To close it while bytes of the client
/// are unread would reset it, and a reset overtakes the alert: a client of TLS 1.3 has sent its first
/// request by then.
async fn part(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
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
