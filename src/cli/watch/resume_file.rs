//! The file that stores the resume token of a watch.
//!
//! A token is stored only after the text of its message has been flushed. So after a crash at any moment, the
//! stored token is at or before the last printed message: some messages may be printed again, but none is
//! lost. For the same reason, not every message needs a write: one per [`WRITE_INTERVAL`] and one at the end
//! limit the repeats without a disk flush for each event.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::scope::Scope;
use super::token;

/// The shortest time between two writes.
pub(super) const WRITE_INTERVAL: Duration = Duration::from_millis(500);

/// The content of the file, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    scope: Scope,
    #[serde(rename = "resumeToken")]
    resume_token: String,
}

const VERSION: u32 = 1;

/// The reasons why a file can't be used, with advice.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResumeFileError {
    #[error(
        "--resume-file: {path} can't be read: {why}\n\
         Delete it to start without a resume token, or use another file."
    )]
    Unreadable { path: PathBuf, why: String },
    #[error(
        "--resume-file: {path} stores a token of {theirs}, but this watch is of {ours}\n\
         Use one file for each scope, or delete this one to start without a resume token."
    )]
    OtherScope {
        path: PathBuf,
        theirs: Scope,
        ours: Scope,
    },
}

/// A file and the token to store in it.
#[derive(Debug)]
pub(super) struct ResumeFile {
    path: PathBuf,
    scope: Scope,
    /// The token that the file contained when it was opened.
    stored: Option<Bytes>,
    /// The token to write.
    pending: Option<Bytes>,
    /// The earliest time of the next write.
    next_write_at: Instant,
}

impl ResumeFile {
    /// Reads the file if it exists. It must contain a token of the same scope.
    pub fn open(path: PathBuf, scope: &Scope) -> Result<ResumeFile, ResumeFileError> {
        let scope = scope.clone().normalized();
        let stored = match std::fs::read(&path) {
            Ok(bytes) => Some(parse(&path, &bytes, &scope)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                let why = error.to_string();
                return Err(ResumeFileError::Unreadable { path, why });
            }
        };
        Ok(ResumeFile {
            path,
            scope,
            stored,
            pending: None,
            next_write_at: Instant::now(),
        })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the token that the file contained when it was opened.
    pub fn stored(&self) -> Option<&Bytes> {
        self.stored.as_ref()
    }

    /// Sets the token to write: that of a message that has been printed.
    pub fn set_token(&mut self, token: Bytes) {
        self.pending = Some(token);
    }

    /// Returns when to call [`ResumeFile::write`]; `None` if there is nothing to write.
    pub fn due(&self) -> Option<Instant> {
        self.pending.as_ref().map(|_| self.next_write_at)
    }

    /// Writes the token if it is not in the file yet. Writes and syncs a new file and renames it, so that
    /// readers see the old or the new content as a whole. The error names the file.
    pub fn write(&mut self) -> std::io::Result<()> {
        let Some(token) = &self.pending else {
            return Ok(());
        };
        let content = Content {
            version: VERSION,
            scope: self.scope.clone(),
            resume_token: token::encode(token),
        };
        replace(&self.path, &content).map_err(|error| {
            std::io::Error::new(
                error.kind(),
                format!(
                    "--resume-file: {} can't be written: {error}",
                    self.path.display()
                ),
            )
        })?;
        self.pending = None;
        self.next_write_at = Instant::now() + WRITE_INTERVAL;
        Ok(())
    }
}

fn parse(path: &Path, bytes: &[u8], scope: &Scope) -> Result<Bytes, ResumeFileError> {
    let unreadable = |why: String| ResumeFileError::Unreadable {
        path: path.to_owned(),
        why,
    };
    let content: Content =
        serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
    if content.version != VERSION {
        let version = content.version;
        return Err(unreadable(format!(
            "its version {version} is not supported"
        )));
    }
    if content.scope != *scope {
        return Err(ResumeFileError::OtherScope {
            path: path.to_owned(),
            theirs: content.scope,
            ours: scope.clone(),
        });
    }
    token::decode(&content.resume_token)
        .ok_or_else(|| unreadable("its resume token is not base64".to_owned()))
}

fn replace(path: &Path, content: &Content) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&mut file, content)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests;
