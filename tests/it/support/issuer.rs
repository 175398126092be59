//! The issuer of bearer tokens: an HTTP server of its keys.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse};
use axum::{http::header::LOCATION, response::Response, serve::Listener};
use rustls::{ServerConfig, pki_types::pem::PemObject as _};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::certificates::Issued;

/// An answer of the server.
#[derive(Clone)]
pub enum Answer {
    /// These keys.
    Keys(Value),
    /// This text, with HTTP 200.
    Text(String),
    /// A key set larger than Weir reads.
    Huge,
    /// This HTTP status.
    Code(u16),
    /// A redirect to this URL.
    Elsewhere(String),
    /// No answer.
    Nothing,
}

/// A key server on this machine.
pub struct KeyServer {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

struct Shared {
    answer: Mutex<Answer>,
    asked: AtomicUsize,
}

impl KeyServer {
    /// Serves over plain HTTP.
    pub async fn start(answer: Answer) -> Self {
        let listener = listener().await;
        let address = listener.local_addr().expect("an address");
        let (server, router) = Self::new("http", address, answer);
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    /// Serves over TLS with this certificate.
    pub async fn with_tls(answer: Answer, certificate: &Issued) -> Self {
        let listener = listener().await;
        let address = listener.local_addr().expect("an address");
        let (server, router) = Self::new("https", address, answer);
        let chain = rustls::pki_types::CertificateDer::from(certificate.der.clone());
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(certificate.key.as_bytes());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key.expect("a key"))
            .expect("a certificate and its key");
        let listener = TlsListener {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        };
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    fn new(scheme: &'static str, address: SocketAddr, answer: Answer) -> (Self, Router) {
        let shared = Arc::new(Shared {
            answer: Mutex::new(answer),
            asked: AtomicUsize::new(0),
        });
        let router = Router::new()
            .fallback(answer_with)
            .with_state(Arc::clone(&shared));
        let server = Self {
            address,
            scheme,
            shared,
        };
        (server, router)
    }

    /// The URL of the keys.
    pub fn url(&self) -> String {
        format!("{}://{}/keys", self.scheme, self.address)
    }

    /// Changes the answer from now on.
    pub fn set(&self, answer: Answer) {
        *self.shared.answer.lock().expect("a lock") = answer;
    }

    /// The number of requests so far.
    pub fn request_count(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }
}

async fn listener() -> TcpListener {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await;
    listener.expect("a port of this machine")
}

async fn answer_with(State(shared): State<Arc<Shared>>) -> Response {
    shared.asked.fetch_add(1, Ordering::SeqCst);
    let answer = shared.answer.lock().expect("a lock").clone();
    match answer {
        Answer::Keys(keys) => keys.to_string().into_response(),
        Answer::Text(text) => text.into_response(),
        Answer::Huge => {
            let filler = " ".repeat(2 << 20);
            format!("{filler}{{\"keys\": []}}").into_response()
        }
        Answer::Code(code) => StatusCode::from_u16(code).expect("a code").into_response(),
        Answer::Elsewhere(url) => (StatusCode::FOUND, [(LOCATION, url)]).into_response(),
        Answer::Nothing => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            StatusCode::OK.into_response()
        }
    }
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, peer) = self.listener.accept().await.expect("a connection");
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
