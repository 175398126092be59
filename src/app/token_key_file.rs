//! The file of keys that encrypt resume tokens (`--token-key-file`).

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{config::Warning, metrics::Metrics, reload::ReloadedFiles, wire::TokenKeys};

/// The keys and the file that they are reloaded from.
pub(super) struct TokenKeyFile {
    pub keys: Arc<TokenKeys>,
    files: ReloadedFiles,
}

impl TokenKeyFile {
    /// Reads the keys.
    ///
    /// # Errors
    /// A message that contains nothing of the file's content.
    pub async fn read(path: PathBuf) -> Result<Self, String> {
        let (files, contents) = ReloadedFiles::read("token_keys", vec![path]).await?;
        let keys = Arc::new(TokenKeys::parse(text(&contents)?)?);
        Ok(Self { keys, files })
    }

    /// Replaces the keys, wherever they are in use, when the file changes. Never returns.
    pub async fn follow(self, interval: Duration, metrics: Arc<Metrics>) {
        let keys = self.keys;
        let apply = |contents: &[Vec<u8>]| {
            keys.replace(text(contents)?)?;
            if let Some(warning) = Warning::of_weak_token_keys(&keys.weak_lines()) {
                warning.log();
            }
            Ok(())
        };
        self.files.follow(interval, &metrics, apply).await;
    }
}

fn text(contents: &[Vec<u8>]) -> Result<&str, String> {
    let bytes = contents.first().map_or(&[][..], Vec::as_slice);
    std::str::from_utf8(bytes).map_err(|_| {
        "the file is not UTF-8: write one key per line, each 32 bytes in base64".to_owned()
    })
}
