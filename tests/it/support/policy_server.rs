//! A server with authentication and a policy, and clients that it knows by name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tonic::{Request, Status};
use weir::auth::ApiKey;
use weir::config::ServeConfig;
use weir::pb;

use super::{Database, WatchStream, Weir};

/// Thirty-two bytes in base64, for tests only.
const TOKEN_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n";

/// A server whose clients have API keys, with a policy and encrypted resume tokens.
pub struct PolicyServer {
    /// The server.
    pub weir: Weir,
    folder: TempDir,
    database: String,
}

impl PolicyServer {
    /// Serves clients with these names and claims under a policy, in which `$db` stands for the
    /// test's database.
    pub async fn start(database: &Database, clients: &[(&str, Value)], policy: &str) -> Self {
        Self::with(database, clients, policy, |_| {}).await
    }

    /// The same, with a configuration that the test changes.
    pub async fn with(
        database: &Database,
        clients: &[(&str, Value)],
        policy: &str,
        configure: impl FnOnce(&mut ServeConfig),
    ) -> Self {
        let folder = TempDir::new().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        Self::write_settings(folder.path(), database.name(), clients, policy);
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

    /// Writes the files of such a server, and returns the flags that name them.
    pub fn write_settings(
        folder: &Path,
        database: &str,
        clients: &[(&str, Value)],
        policy: &str,
    ) -> Vec<String> {
        put(&folder.join("policy"), &policy.replace("$db", database));
        put(&folder.join("keys"), &keys(clients));
        put(&folder.join("token_keys"), TOKEN_KEY);
        Self::flags(folder)
    }

    /// The flags of `weir serve` that name the files of this server.
    pub fn settings(&self) -> Vec<String> {
        Self::flags(self.folder.path())
    }

    fn flags(folder: &Path) -> Vec<String> {
        let files = [
            ("policy", "policy"),
            ("api-keys", "keys"),
            ("token-key", "token_keys"),
        ];
        files
            .map(|(flag, name)| format!("--{flag}-file={}", folder.join(name).display()))
            .into()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the policy file.
    pub fn put_policy(&self, policy: &str) {
        put(&self.file("policy"), &policy.replace("$db", &self.database));
    }

    /// Replaces the file of API keys.
    pub fn put_clients(&self, clients: &[(&str, Value)]) {
        put(&self.file("keys"), &keys(clients));
    }

    /// The number of policy reloads with this result.
    pub async fn reloads(&self, result: &str) -> f64 {
        let labels = [("what", "policy"), ("result", result)];
        let metrics = self.weir.metrics().await;
        metrics.sum_where("weir_reloads_total", &labels)
    }

    /// Opens a watch as the client with this name.
    ///
    /// # Errors
    /// The status with which the watch was refused.
    pub async fn open(&self, name: &str, request: pb::WatchRequest) -> Result<WatchStream, Status> {
        WatchStream::open(&mut self.weir.client().await, by(name, request)).await
    }

    /// Opens a watch that must not be refused.
    pub async fn watch(&self, name: &str, request: pb::WatchRequest) -> WatchStream {
        let opened = self.open(name, request).await;
        opened.unwrap_or_else(|status| panic!("{name}'s watch was refused: {status:?}"))
    }
}

/// A request with the API key of this client.
pub fn by<T>(name: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let key = key(name).parse().expect("a value");
    request.metadata_mut().insert("x-api-key", key);
    request
}

fn key(name: &str) -> String {
    format!("weir_the-key-of-{name}-in-these-tests-of-policies")
}

/// The file of the API keys of clients with these names and claims.
pub fn keys(clients: &[(&str, Value)]) -> String {
    let entry = |(name, claims): &(&str, Value)| {
        let hash = key(name).parse::<ApiKey>().expect("a key").sha256();
        format!("- {{name: {name}, sha256: {hash}, claims: {claims}}}\n")
    };
    format!("keys:\n{}", clients.iter().map(entry).collect::<String>())
}

/// Replaces a file atomically, so that nobody reads half of it.
fn put(path: &Path, contents: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, contents).expect("a file");
    std::fs::rename(beside, path).expect("a file in its place");
}
