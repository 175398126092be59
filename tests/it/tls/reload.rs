//! Certificates that change while the server runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use mongodb::bson::doc;
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use tonic::Code;
use weir::config::ClientAuth;
use weir::pb;
use weir::pb::watch_service_client::WatchServiceClient;

use crate::support::certificates::{Authority, Issued, expired};
use crate::support::orders::{id, insert};
use crate::support::{Database, Weir, eventually};
use crate::tls::setup::{TlsServer, alpn, connect, trusting};

/// The numbers of successful and failed certificate reloads.
async fn reloads(weir: &Weir) -> (f64, f64) {
    let metrics = weir.metrics().await;
    let count = |result| {
        let labels = [("what", "tls"), ("result", result)];
        metrics.sum_where("weir_reloads_total", &labels)
    };
    (count("ok"), count("failed"))
}

impl TlsServer {
    /// The certificate that the server presents to a new connection, in DER.
    async fn presented_certificate(&self) -> Vec<u8> {
        let config = alpn(trusting(&self.authority, &[&TLS13], None), &["h2"]);
        let stream = connect(self.weir.grpc_addr(), config).await;
        let stream = stream.expect("a handshake");
        let chain = stream.get_ref().1.peer_certificates();
        chain.expect("a certificate")[0].to_vec()
    }

    async fn assert_presents(&self, issued: &Issued) {
        eventually("the new certificate is shown", async || {
            self.presented_certificate().await == issued.der
        })
        .await;
    }
}

/// No stream ends and no event is lost; new connections get the new certificate.
#[tokio::test]
async fn certificates_rotate_under_a_hundred_open_watches() {
    const WATCHES: usize = 100;
    const ROTATIONS: i32 = 3;
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |_| {}).await;
    let trusted = || secured.authority.trusted();
    let opening = (0..WATCHES).map(|_| secured.watch(&database, trusted()));
    let mut watches = join_all(opening).await;
    for rotation in 0..ROTATIONS {
        let next = secured.authority.local();
        insert(&database, rotation * 10).await;
        secured.replace(&next);
        insert(&database, rotation * 10 + 1).await;
        secured.assert_presents(&next).await;
        insert(&database, rotation * 10 + 2).await;
    }
    let expected: Vec<_> = (0..ROTATIONS)
        .flat_map(|rotation| (0..3).map(move |number| rotation * 10 + number))
        .collect();
    for watch in &mut watches {
        let seen = watch.changes(expected.len()).await;
        let ids: Vec<_> = seen.iter().map(id).collect();
        assert_eq!(ids, expected);
    }
    assert_eq!(reloads(&secured.weir).await.0, f64::from(ROTATIONS));
    let metrics = secured.weir.metrics().await;
    assert_eq!(metrics.sum("weir_watches_ended_total"), 0.0);
}

/// Files as Kubernetes mounts a secret: `tls.crt` links to `..data/tls.crt`, `..data` links to a
/// versioned folder, and a change swaps that link and removes the old folder.
struct Volume {
    folder: tempfile::TempDir,
    moment: u32,
}

impl Volume {
    fn new(issued: &Issued) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(name), folder.path().join(name)).expect("a link");
        }
        let mut volume = Self { folder, moment: 0 };
        volume.swap(
            Some(issued.certificate.as_bytes()),
            Some(issued.key.as_bytes()),
        );
        volume
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces both files at once.
    fn swap(&mut self, certificate: Option<&[u8]>, key: Option<&[u8]>) {
        let old = format!("..2026_11_24_12_00_00.{}", self.moment);
        self.moment += 1;
        let moment = format!("..2026_11_24_12_00_00.{}", self.moment);
        let folder = self.path(&moment);
        fs::create_dir(&folder).expect("a folder");
        for (name, bytes) in [("tls.crt", certificate), ("tls.key", key)] {
            if let Some(bytes) = bytes {
                fs::write(folder.join(name), bytes).expect("it is written");
            }
        }
        symlink(&moment, self.path("..data_tmp")).expect("a link");
        fs::rename(self.path("..data_tmp"), self.path("..data")).expect("the swap");
        // There is none at first.
        let _ = fs::remove_dir_all(self.path(&old));
    }

    /// A server with the mounted certificates.
    async fn secured(&self, database: &Database, authority: Authority) -> TlsServer {
        let weir = Weir::with(database, |config| {
            config.tls.tls_cert_file = Some(self.path("tls.crt"));
            config.tls.tls_key_file = Some(self.path("tls.key"));
            config.reload_interval = Duration::from_millis(100);
        })
        .await;
        TlsServer {
            weir,
            authority,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }
}

/// The paths that the server knows never change, nor do the links at these paths.
#[tokio::test]
async fn a_rotation_by_kubernetes_is_noticed() {
    const ROTATIONS: u32 = 6;
    let database = Database::start().await;
    let authority = Authority::new("servers");
    let first = authority.local();
    let mut volume = Volume::new(&first);
    let secured = volume.secured(&database, authority).await;
    assert_eq!(secured.presented_certificate().await, first.der);
    for _ in 0..ROTATIONS {
        let next = secured.authority.local();
        volume.swap(Some(next.certificate.as_bytes()), Some(next.key.as_bytes()));
        secured.assert_presents(&next).await;
    }
    // No check has taken half a rotation for a change.
    assert_eq!(reloads(&secured.weir).await, (f64::from(ROTATIONS), 0.0));
}

#[tokio::test]
async fn an_unusable_certificate_leaves_the_old_one_in_force() {
    let database = Database::start().await;
    let authority = Authority::new("servers");
    let old = authority.local();
    let mut volume = Volume::new(&old);
    let secured = volume.secured(&database, authority).await;
    let mut watch = secured.watch(&database, secured.authority.trusted()).await;
    let next = secured.authority.local();
    let gone = secured.authority.issue(&["localhost"], expired);
    let (certificate, key) = (next.certificate.as_bytes(), next.key.as_bytes());
    let half = &certificate[..certificate.len() / 2];
    // The same fault is reported once; these differ from each other.
    type Case<'a> = (&'a str, Option<&'a [u8]>, Option<&'a [u8]>);
    let soon = secured.authority.issue(&["localhost"], |params| {
        params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    });
    let cases: [Case<'_>; 10] = [
        (
            "a new certificate alone",
            Some(certificate),
            Some(old.key.as_bytes()),
        ),
        ("an empty certificate", Some(b""), Some(key)),
        (
            "a new key alone",
            Some(old.certificate.as_bytes()),
            Some(key),
        ),
        ("an empty key", Some(certificate), Some(b"")),
        ("half a file", Some(half), Some(key)),
        ("garbage", Some(&[0xff; 100]), Some(&[0; 100])),
        ("no certificate", None, Some(key)),
        ("no key", Some(certificate), None),
        (
            "one that has expired",
            Some(gone.certificate.as_bytes()),
            Some(gone.key.as_bytes()),
        ),
        (
            "one that is not valid yet",
            Some(soon.certificate.as_bytes()),
            Some(soon.key.as_bytes()),
        ),
    ];
    for (number, (case, certificate, key)) in (1..).zip(cases) {
        volume.swap(certificate, key);
        eventually(&format!("{case} is refused"), async || {
            reloads(&secured.weir).await == (0.0, f64::from(number))
        })
        .await;
        assert_eq!(secured.presented_certificate().await, old.der, "{case}");
    }
    let expires = secured.weir.metrics().await;
    let expires = expires.sum("weir_tls_certificate_expiry_timestamp_seconds");
    assert_eq!(expires, 67_090_118_400.0, "it is that of the one in force");

    volume.swap(Some(certificate), Some(key));
    secured.assert_presents(&next).await;
    insert(&database, 1).await;
    assert_eq!(id(&watch.next_change().await), 1);
}

/// The server's own expired certificate must not keep it from dropping an authority.
#[tokio::test]
async fn an_authority_can_be_removed_beside_an_expired_certificate() {
    let database = Database::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("servers");
    let (certificate, key) = authority
        .issue(&["localhost"], expired)
        .write(folder.path());
    let bundle = folder.path().join("clients.crt");
    fs::write(&bundle, Authority::new("old").pem).expect("it is written");
    let weir = Weir::with(&database, |config| {
        config.tls.tls_cert_file = Some(certificate);
        config.tls.tls_key_file = Some(key);
        config.tls.tls_client_ca_file = Some(bundle.clone());
        config.reload_interval = Duration::from_millis(100);
    })
    .await;
    let next = folder.path().join("next");
    fs::write(&next, Authority::new("new").pem).expect("it is written");
    fs::rename(next, bundle).expect("it is moved");
    eventually("the new authority is in force", async || {
        reloads(&weir).await == (1.0, 0.0)
    })
    .await;
}

#[tokio::test]
async fn the_expiry_of_a_new_certificate_is_reported() {
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |_| {}).await;
    let next = secured.authority.issue(&["localhost"], |params| {
        params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    });
    secured.replace(&next);
    eventually("the end of the new certificate", async || {
        let metrics = secured.weir.metrics().await;
        metrics.sum("weir_tls_certificate_expiry_timestamp_seconds") == 4_070_908_800.0
    })
    .await;
}

/// A resumed session would bypass the current authorities.
#[tokio::test]
async fn a_removed_authority_admits_nobody_any_more() {
    let database = Database::start().await;
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let secured = TlsServer::mutual(&database, &old, ClientAuth::Required).await;
    let bundle = secured.folder.path().join("clients.crt");
    let (of_old, of_new) = (old.client("a"), new.client("b"));
    let identified = |issued: &Issued| secured.authority.trusted().identity(issued.identity());
    let mut watch = secured.watch(&database, identified(&of_old)).await;
    let kept = secured.channel(identified(&of_old)).await;
    let mut kept = WatchServiceClient::new(kept.expect("a connection"));

    // Each client keeps its sessions in a store of its own.
    let remembering = [&TLS12, &TLS13].map(|version| {
        let config = trusting(&secured.authority, &[version], Some(&of_old));
        std::sync::Arc::new(alpn(config, &["h2"]))
    });
    for _ in 0..3 {
        for config in &remembering {
            let mut stream = connect(secured.weir.grpc_addr(), config.clone())
                .await
                .expect("it is admitted");
            // A ticket would come with the first bytes that the server sends.
            let mut byte = [0];
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut byte).await;
            assert_eq!(read.expect("a greeting"), 1);
            assert_eq!(
                stream.get_ref().1.handshake_kind(),
                Some(HandshakeKind::Full)
            );
        }
    }

    // Both for a while, as in the rotation of an authority; then only the new one.
    fs::write(&bundle, format!("{}{}", old.pem, new.pem)).expect("it is written");
    eventually("the new authority is trusted", async || {
        secured.is_reachable(identified(&of_new)).await
    })
    .await;
    assert!(secured.is_reachable(identified(&of_old)).await);
    // No authority was removed, and no watch ended.
    let mut other = secured.watch(&database, identified(&of_new)).await;
    insert(&database, 1).await;
    for watch in [&mut watch, &mut other] {
        assert_eq!(id(&watch.next_change().await), 1);
    }
    let request = pb::GetServerInfoRequest {};
    kept.get_server_info(request).await.expect("an answer");
    fs::write(&bundle, &new.pem).expect("it is written");
    eventually("the old authority is trusted no more", async || {
        !secured.is_reachable(identified(&of_old)).await
    })
    .await;
    let why = secured.refusal(identified(&of_old)).await;
    assert!(why.contains("UnknownCA"), "{why}");
    assert!(secured.is_reachable(identified(&of_new)).await);

    // A broken file is not trusted; the previous one stays valid.
    fs::write(&bundle, "garbage").expect("it is written");
    eventually("the broken file is refused", async || {
        reloads(&secured.weir).await.1 == 1.0
    })
    .await;
    assert!(secured.is_reachable(identified(&of_new)).await);
    secured.refusal(identified(&of_old)).await;
    secured.refusal(secured.authority.trusted()).await;

    // The removed authority's client is out, on every connection; others notice nothing.
    assert_ne!(watch.end().await.code(), Code::Ok);
    kept.get_server_info(request)
        .await
        .expect_err("the old connection is of no use");
    insert(&database, 2).await;
    assert_eq!(id(&other.next_change().await), 2);
}
