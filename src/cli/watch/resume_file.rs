//! The file that stores the resume token of a watch.
//!
//! A token is stored only after the text of its message has been flushed. So after a crash at any moment, the
//! stored token is at or before the last printed message: some messages may be printed again, but none is
//! lost. For the same reason, not every message needs a write: one per [`WRITE_INTERVAL`] and one at the end
//! limit the repeats without a disk flush for each event.
//!
//! A file that can't be written is found before the watch opens: the watch would end at its first token.

mod in_place;
mod storage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::scope::Scope;
use super::text::print_notice;
use super::token;
use storage::{Calls, Storage};

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
/// The bytes for which a new file must have space.
const TYPICAL_TOKEN_BYTES: usize = 512;

/// The reasons why a file can't be used, with advice.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResumeFileError {
    #[error(
        "--resume-file: {path} can't be read: {why}\n\
         Delete it (or empty it, if it is mounted by itself) to start without a resume token, or use \
         another file."
    )]
    Unreadable { path: PathBuf, why: String },
    #[error(
        "--resume-file: {path} {what}: name a regular file\n\
         A file that is to be mounted into a container must exist before, or a folder is made in its place."
    )]
    NotAFile { path: PathBuf, what: &'static str },
    #[error("{}", cant_be_written(path, why))]
    NotWritable { path: PathBuf, why: String },
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
    storage: Storage,
    scope: Scope,
    /// The token that the file contained when it was opened.
    stored: Option<Bytes>,
    /// The token to write.
    pending: Option<Bytes>,
    /// The earliest time of the next write.
    next_write_at: Instant,
    /// Whether the user knows that the file is written in place.
    told_in_place: bool,
}

impl ResumeFile {
    /// Reads the file if it exists, and checks that it can be written. It must contain a token of the same
    /// scope.
    pub fn open(path: PathBuf, scope: &Scope) -> Result<ResumeFile, ResumeFileError> {
        ResumeFile::open_with(path, scope, Calls::SYSTEM)
    }

    fn open_with(
        path: PathBuf,
        scope: &Scope,
        calls: Calls,
    ) -> Result<ResumeFile, ResumeFileError> {
        let mut file = ResumeFile {
            storage: Storage::new(path.clone(), calls),
            scope: scope.clone().normalized(),
            stored: None,
            pending: None,
            next_write_at: Instant::now(),
            told_in_place: false,
        };
        let unreadable = |why: String| ResumeFileError::Unreadable {
            path: path.clone(),
            why,
        };
        file.check(|file| file.storage.check_links())?;
        if let Some(what) = file.storage.not_a_file() {
            return Err(ResumeFileError::NotAFile { path, what });
        }
        let content = file.storage.read();
        match content.map_err(|error| unreadable(error.to_string()))? {
            None => file.check(|file| {
                let line = file.line(&[0; TYPICAL_TOKEN_BYTES])?;
                file.storage.check_creation(&line)
            })?,
            Some(bytes) if bytes.trim_ascii().is_empty() => {
                let mut replaced = false;
                file.check(|file| {
                    replaced = file.storage.replace_empty()?;
                    Ok(())
                })?;
                // A file for a container has to exist before it can be mounted, so there it begins empty. An
                // ordinary file is never left empty: something else has lost the token.
                if replaced {
                    return Err(unreadable("it is empty".to_owned()));
                }
                file.check(|file| file.storage.check_in_place())?;
            }
            Some(bytes) => {
                let token = parse(&path, &bytes, &file.scope)?;
                // Writing the same again shows that a later token can be written.
                file.check(|file| {
                    let line = file.line(&token)?;
                    file.storage.write(&line)
                })?;
                file.stored = Some(token);
            }
        }
        file.tell_in_place();
        Ok(file)
    }

    /// Runs a check of the file before the watch opens.
    fn check(
        &mut self,
        check: impl FnOnce(&mut ResumeFile) -> std::io::Result<()>,
    ) -> Result<(), ResumeFileError> {
        check(self).map_err(|error| ResumeFileError::NotWritable {
            path: self.path().to_owned(),
            why: error.to_string(),
        })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        self.storage.path()
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

    /// Writes the token if it is not in the file yet. Readers, and whoever comes after a crash, find the old
    /// or the new token. The error names the file.
    pub fn write(&mut self) -> std::io::Result<()> {
        let Some(token) = &self.pending else {
            return Ok(());
        };
        let line = self.line(token)?;
        self.storage.write(&line).map_err(|error| {
            let text = cant_be_written(self.path(), &error.to_string());
            std::io::Error::new(error.kind(), text)
        })?;
        self.tell_in_place();
        self.pending = None;
        self.next_write_at = Instant::now() + WRITE_INTERVAL;
        Ok(())
    }

    /// Returns the content of the file for a token: one line.
    fn line(&self, token: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(&Content {
            version: VERSION,
            scope: self.scope.clone(),
            resume_token: token::encode(token),
        })?;
        line.push(b'\n');
        Ok(line)
    }

    /// Tells the user once that the file is written in place.
    fn tell_in_place(&mut self) {
        if let (Some(why), false) = (self.storage.in_place(), self.told_in_place) {
            print_notice(&format!(
                "--resume-file: {} is written in place, because it can't be replaced: {why}",
                self.path().display()
            ));
            self.told_in_place = true;
        }
    }
}

fn cant_be_written(path: &Path, why: &str) -> String {
    format!("--resume-file: {} can't be written: {why}", path.display())
}

fn parse(path: &Path, bytes: &[u8], scope: &Scope) -> Result<Bytes, ResumeFileError> {
    let unreadable = |why: String| ResumeFileError::Unreadable {
        path: path.to_owned(),
        why,
    };
    let content = serde_json::from_slice(bytes);
    let content: Content = content
        .or_else(|error| {
            // A crash while it was written in place leaves further lines.
            let mut lines = in_place::lines(bytes);
            lines
                .find_map(|line| serde_json::from_slice(line).ok())
                .ok_or(error)
        })
        .map_err(|error: serde_json::Error| unreadable(error.to_string()))?;
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

#[cfg(test)]
mod tests;
