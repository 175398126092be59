//! What is logged at the start about settings that are most likely not meant as they are.

use std::path::PathBuf;

use super::loaded_files::LoadedFiles;
use crate::{
    config::{FileFacts, ServeConfig},
    files::BoundedFile,
};

/// Logs every warning about the settings and their files, which were read already. `uri_files` are those of the
/// connection string.
pub(super) async fn log_warnings(
    config: &ServeConfig,
    loaded: &LoadedFiles,
    uri_files: Vec<PathBuf>,
) {
    let of_flags = config.trusted_files().into_iter();
    let files = of_flags
        .map(|(flag, path)| (flag, path.to_owned()))
        .chain(uri_files.into_iter().map(|path| ("mongodb-uri", path)));
    let mut exposed = Vec::new();
    for (flag, path) in files {
        // A file that can't be examined was read a moment ago, and is reported when it is read again.
        if let Ok(Some(path)) = BoundedFile::new(path).find_exposed().await {
            exposed.push((flag, path));
        }
    }
    let keys = loaded.token_keys.as_ref();
    let facts = FileFacts {
        keys_expire: loaded.authenticator.has_expiring_keys(),
        weak_token_keys: keys.map(|it| it.keys.weak_lines()).unwrap_or_default(),
        rules_without_effect: loaded.policy.rules_without_effect(),
        exposed,
    };
    for warning in config.warnings(&facts) {
        warning.log();
    }
}
