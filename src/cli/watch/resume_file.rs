//! The place in the stream, kept in a file.
//!
//! The token written is always that of a message whose text was flushed before. So a crash at any
//! moment leaves a token that is at or before the last message printed: what lies between is
//! printed again, and nothing is ever missed. That is also why the file need not be written for
//! every message: at most one write in [`WRITE_INTERVAL`], and one at the end, bound the repeats
//! without a disk flush for each event.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::scope::Scope;
use super::token;

/// The shortest time from one write to the next.
pub(super) const WRITE_INTERVAL: Duration = Duration::from_millis(500);

/// What the file holds, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    scope: Scope,
    #[serde(rename = "resumeToken")]
    resume_token: String,
}

const VERSION: u32 = 1;

/// Why a file cannot be used, with advice.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResumeFileError {
    #[error(
        "{path} cannot be read: {why}\n\
         It keeps the place of `weir watch --resume-file`; delete it to start anew."
    )]
    Unreadable { path: PathBuf, why: String },
    #[error(
        "{path} keeps the place in {theirs}, and this watch is of {ours}\n\
         Use a file for each scope, or delete this one to start anew."
    )]
    OtherScope {
        path: PathBuf,
        theirs: Scope,
        ours: Scope,
    },
}

/// A file and the token it should hold.
#[derive(Debug)]
pub(super) struct ResumeFile {
    path: PathBuf,
    scope: Scope,
    /// The token read at the start.
    stored: Option<Bytes>,
    /// A token that has not been written yet.
    pending: Option<Bytes>,
    /// When the next write may happen.
    next_write_at: Instant,
}

impl ResumeFile {
    /// Reads the file where it exists. It must hold the place of the same scope.
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

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The token that the file held when it was opened.
    pub fn stored(&self) -> Option<&Bytes> {
        self.stored.as_ref()
    }

    /// Remembers the token of a message that has been printed.
    pub fn set_token(&mut self, token: Bytes) {
        self.pending = Some(token);
    }

    /// When [`ResumeFile::write`] should be called; `None` when there is nothing to write.
    pub fn due(&self) -> Option<Instant> {
        self.pending.as_ref().map(|_| self.next_write_at)
    }

    /// Writes the last token noted, if it is not in the file yet: to a new file beside it that
    /// takes its name once it is on the disk, so that the file is the old or the new one as a
    /// whole. The error names the file.
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
                format!("{} cannot be written: {error}", self.path.display()),
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
        return Err(unreadable(format!("its version {version} is not known")));
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
