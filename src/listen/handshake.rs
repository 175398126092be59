//! TLS handshakes: how many at once, how long each, and what becomes of them.

use std::{io, sync::Arc, time::Duration};

use rustls::{Error as TlsError, server::Acceptor};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::either::Either;

use super::{Accepted, Connection, Distrusted};
use crate::{
    auth::Peer,
    metrics::{HandshakeResult, Metrics},
    tls::{HTTP2, Tls, Trust},
};

/// How long a handshake has its turn. What it takes of the server's own time is done by then; whoever lets
/// it wait for longer, must not keep others waiting too.
const TURN: Duration = Duration::from_secs(1);

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
    result: HandshakeResult,
    error: io::Error,
    /// Where the client has been sent an alert.
    told: Option<TcpStream>,
}

impl Failed {
    fn because(result: HandshakeResult, error: impl Into<io::Error>) -> Self {
        Self {
            result,
            error: error.into(),
            told: None,
        }
    }

    /// What rustls found wrong, it has told.
    fn told(error: io::Error, stream: Option<TcpStream>) -> Self {
        let result = result_of(&error);
        Self {
            result,
            error,
            told: stream.filter(|_| result != HandshakeResult::Closed),
        }
    }
}

impl Handshakes {
    /// At most `max` of them at once have a turn: a second at most, from when the client has said all that
    /// is needed to answer it.
    #[must_use]
    pub fn new(tls: Arc<Tls>, max: usize, metrics: &Metrics) -> Self {
        // What is missing from the first scrape is missing from every rate.
        for result in HandshakeResult::ALL {
            metrics.handshakes(result).increment(0);
        }
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
                metrics.count_limit_rejection("request_timeout");
                Err(Failed::because(HandshakeResult::Timeout, io::ErrorKind::TimedOut))
            }
        };
        let (stream, trust) = match shaken {
            Ok(shaken) => shaken,
            Err(Failed {
                result,
                error,
                told,
            }) => {
                metrics.handshakes(result).increment(1);
                // At this level alone: anyone can make as many of these as they like.
                tracing::debug!(?address, result = result.name(), %error, "a tls handshake failed");
                if let Some(stream) = told {
                    let _ = timeout(LINGER, part(stream)).await;
                }
                return None;
            }
        };
        metrics.handshakes(HandshakeResult::Ok).increment(1);
        let chain = stream.get_ref().1.peer_certificates();
        let certificate = chain.and_then(|chain| chain.first());
        let certificate = certificate.map(|it| Arc::from(it.as_ref()));
        let distrusted = chain.map(|chain| -> Distrusted {
            let lost = trust.lost(chain.to_vec());
            Box::pin(async move {
                lost.await;
                tracing::info!(?address, "the client's certificate is trusted no more");
            })
        });
        Some(Connection {
            peer: Peer {
                address,
                certificate,
            },
            distrusted,
            stream: Either::Right(Box::new(stream)),
            hurry: Some(deadline),
            metrics,
            _permit: permit,
            _counted: counted,
        })
    }

    async fn encrypt(&self, stream: TcpStream) -> Result<(TlsStream<TcpStream>, Trust), Failed> {
        let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
        // Whoever says nothing, or half of what is to be said, has no turn.
        let start = match (&mut acceptor).await {
            Ok(start) => start,
            Err(error) => return Err(Failed::told(error, acceptor.take_io())),
        };
        let turn = self.turns.acquire().await;
        let (config, trust) = self.tls.begin();
        let mut shaking = start.into_stream(config).into_fallible();
        let in_turn = timeout(TURN, &mut shaking).await;
        drop(turn);
        let shaken = match in_turn {
            Ok(shaken) => shaken,
            Err(_) => shaking.await,
        };
        let stream = match shaken {
            Ok(stream) => stream,
            Err((error, stream)) => return Err(Failed::told(error, Some(stream))),
        };
        // rustls refuses a client that offers other protocols alone, and takes one that offers none.
        // HTTP/2 demands that it be offered: what comes without is meant for something else.
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            let error = io::Error::other("the client does not offer h2 by ALPN");
            return Err(Failed::because(HandshakeResult::Protocol, error));
        }
        Ok((stream, trust))
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

/// What became of a handshake that failed.
fn result_of(error: &io::Error) -> HandshakeResult {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        // It does not trust the server's certificate, most often.
        Some(TlsError::AlertReceived(_)) => HandshakeResult::RefusedByClient,
        Some(TlsError::NoCertificatesPresented) => HandshakeResult::CertificateMissing,
        Some(TlsError::InvalidCertificate(_)) => HandshakeResult::CertificateRefused,
        Some(_) => HandshakeResult::Protocol,
        None => HandshakeResult::Closed,
    }
}
