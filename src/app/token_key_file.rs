//! The file with the keys that resume tokens are encrypted with.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{metrics::Metrics, reload::ReloadedFiles, wire::TokenKeys};

/// Keys, and the file that they are read again from.
pub(super) struct TokenKeyFile {
    pub keys: Arc<TokenKeys>,
    files: ReloadedFiles,
}

impl TokenKeyFile {
    /// Reads the keys.
    ///
    /// # Errors
    /// In words, which tell nothing that is in the file.
    pub async fn read(path: PathBuf) -> Result<Self, String> {
        let (files, contents) = ReloadedFiles::read("token_keys", vec![path]).await?;
        let keys = Arc::new(TokenKeys::parse(text(&contents)?)?);
        Ok(Self { keys, files })
    }

    /// Has changed keys used wherever these are. Never ends.
    pub async fn follow(self, interval: Duration, metrics: Arc<Metrics>) {
        let keys = self.keys;
        let apply = |contents: &[Vec<u8>]| keys.replace(text(contents)?);
        self.files.follow(interval, &metrics, apply).await;
    }
}

fn text(contents: &[Vec<u8>]) -> Result<&str, String> {
    let bytes = contents.first().map_or(&[][..], Vec::as_slice);
    std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())
}
