//! A server that asks who calls and has a policy, as its clients by their names see it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tonic::{Request, Status};
use weir::auth::ApiKey;
use weir::config::ServeConfig;
use weir::pb;

use super::{Database, WatchStream, Weir};

/// Thirty-two bytes in base64, for nothing but tests.
const TOKEN_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n";

/// A server whose clients have API keys, a policy, and resume tokens that are encrypted.
pub struct PolicyServer {
    /// The server.
    pub weir: Weir,
    folder: TempDir,
    database: String,
}

impl PolicyServer {
    /// Serves clients of these names and claims by a policy, in which `$db` stands for the test's
    /// database.
    pub async fn start(database: &Database, clients: &[(&str, Value)], policy: &str) -> Self {
        Self::with(database, clients, policy, |_| {}).await
    }

    /// The same with a configuration that the test changes.
    pub async fn with(
        database: &Database,
        clients: &[(&str, Value)],
        policy: &str,
        configure: impl FnOnce(&mut ServeConfig),
    ) -> Self {
        let folder = TempDir::new().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        put(&file("policy"), &policy.replace("$db", database.name()));
        put(&file("keys"), &keys(clients));
        put(&file("token_keys"), TOKEN_KEY);
        let weir = Weir::with(database, |config| {
            config.reload_interval = Duration::from_millis(100);
            config.auth.policy_file = Some(file("policy"));
            config.auth.api_keys_file = Some(file("keys"));
            config.auth.token_key_file = Some(file("token_keys"));
            configure(config);
        })
        .await;
        Self {
            weir,
            folder,
            database: database.name().to_owned(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts another policy in the place of the one before.
    pub fn put_policy(&self, policy: &str) {
        put(&self.file("policy"), &policy.replace("$db", &self.database));
    }

    /// Puts other keys in the place of those before.
    pub fn put_clients(&self, clients: &[(&str, Value)]) {
        put(&self.file("keys"), &keys(clients));
    }

    /// How often a policy was read again, with this result.
    pub async fn reloads(&self, result: &str) -> f64 {
        let labels = [("what", "policy"), ("result", result)];
        let metrics = self.weir.metrics().await;
        metrics.sum_where("weir_reloads_total", &labels)
    }

    /// Opens a watch as the client of this name does.
    ///
    /// # Errors
    /// The status it was refused with.
    pub async fn open(&self, name: &str, request: pb::WatchRequest) -> Result<WatchStream, Status> {
        WatchStream::open(&mut self.weir.client().await, by(name, request)).await
    }

    /// Opens a watch that must not be refused.
    pub async fn watch(&self, name: &str, request: pb::WatchRequest) -> WatchStream {
        let opened = self.open(name, request).await;
        opened.unwrap_or_else(|status| panic!("{name}'s watch was refused: {status:?}"))
    }
}

/// A request that shows the key of this name.
pub fn by<T>(name: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let key = key(name).parse().expect("a value");
    request.metadata_mut().insert("x-api-key", key);
    request
}

fn key(name: &str) -> String {
    format!("weir_the-key-of-{name}-in-these-tests-of-policies")
}

fn keys(clients: &[(&str, Value)]) -> String {
    let entry = |(name, claims): &(&str, Value)| {
        let hash = key(name).parse::<ApiKey>().expect("a key").sha256();
        format!("- {{name: {name}, sha256: {hash}, claims: {claims}}}\n")
    };
    format!("keys:\n{}", clients.iter().map(entry).collect::<String>())
}

/// Changes a file at once, as nobody must read half of it.
fn put(path: &Path, contents: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, contents).expect("a file");
    std::fs::rename(beside, path).expect("a file in its place");
}
