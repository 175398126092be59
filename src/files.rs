//! Reads of the files that settings name, with bounds on their time and size.
//!
//! A read can hang for ever: on a file system that no longer answers, or on a pipe that nobody writes to. It then
//! holds a thread that can't be stopped, so each file has at most one read in progress.

use std::{
    fs::{File, FileType},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

/// The largest allowed file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The time that a read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A file that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// The problem, and what to do if that is not obvious.
    pub problem: String,
}

impl From<FileError> for String {
    fn from(error: FileError) -> Self {
        error.to_string()
    }
}

/// A file of at most 1 MiB that is read within 5 seconds, or not at all.
#[derive(Debug)]
pub struct BoundedFile {
    path: PathBuf,
    /// The right to read, of which there is one. A read that hangs keeps it.
    turn: Arc<Semaphore>,
    timeout: Duration,
}

impl BoundedFile {
    /// Returns the file with this path, which is not touched yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            turn: Arc::new(Semaphore::new(1)),
            timeout: READ_TIMEOUT,
        }
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the contents. Symbolic links are followed.
    ///
    /// # Errors
    /// The file can't be opened or read, takes longer than 5 seconds, is larger than 1 MiB, or is not a regular
    /// file. While an earlier read hangs, the error comes at once.
    pub async fn read(&self) -> Result<Vec<u8>, FileError> {
        self.bounded(read_regular).await
    }

    /// Returns the first path through which others than its owner can change the contents: the file itself, or a
    /// folder in which they can replace it. On a file system that is mounted read-only nobody can.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn find_exposed(&self) -> Result<Option<ExposedPath>, FileError> {
        self.bounded(find_exposed).await
    }

    /// Does work on the file that may hang.
    async fn bounded<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, FileError> {
        let Ok(turn) = Arc::clone(&self.turn).try_acquire_owned() else {
            return Err(self.hangs());
        };
        let path = self.path.clone();
        let task = spawn_blocking(move || {
            let done = work(&path);
            drop(turn);
            done
        });
        match timeout(self.timeout, task).await {
            Ok(Ok(done)) => done.map_err(|error| self.failed(error.to_string())),
            Ok(Err(stopped)) => Err(self.failed(stopped.to_string())),
            Err(_) => Err(self.hangs()),
        }
    }

    fn hangs(&self) -> FileError {
        self.failed(format!(
            "reading it takes longer than {} s: check the file system that it is on, or put the file elsewhere",
            READ_TIMEOUT.as_secs()
        ))
    }

    fn failed(&self, problem: String) -> FileError {
        FileError {
            path: self.path.clone(),
            problem,
        }
    }
}

/// A path that others can write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExposedPath {
    /// The file, or a folder that it is in.
    pub path: PathBuf,
    /// `true` if everybody can write it, not only its group.
    pub to_everybody: bool,
}

fn find_exposed(path: &Path) -> io::Result<Option<ExposedPath>> {
    /// Permission bits: write for the group, write for everybody, and only one's own files in a folder.
    const GROUP: u32 = 0o020;
    const EVERYBODY: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let target = path.canonicalize()?;
    let folder = |path: &Path| match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // A link can be replaced too.
    for path in [folder(path), folder(&target), target] {
        let metadata = path.metadata()?;
        let mode = metadata.mode();
        let keeps_own = metadata.is_dir() && mode & STICKY != 0;
        if mode & (GROUP | EVERYBODY) == 0 || keeps_own || is_read_only(&path)? {
            continue;
        }
        let to_everybody = mode & EVERYBODY != 0;
        return Ok(Some(ExposedPath { path, to_everybody }));
    }
    Ok(None)
}

fn is_read_only(path: &Path) -> io::Result<bool> {
    let flags = rustix::fs::statvfs(path)?.f_flag;
    Ok(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Reads a file, unless it is of a kind whose second read would hang or bring something else.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    // Before it is opened, as opening a pipe waits for a writer.
    check_kind(path.metadata()?.file_type())?;
    let file = File::open(path)?;
    check_kind(file.metadata()?.file_type())?;
    let mut contents = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("is larger than 1 MiB"));
    }
    Ok(contents)
}

fn check_kind(kind: FileType) -> io::Result<()> {
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "is a folder: name a file in it"
    } else if kind.is_fifo() {
        "is a pipe, which can't be read again: write its contents to a file"
    } else {
        "is not a regular file: write its contents to one"
    };
    Err(io::Error::other(what))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_read_that_hangs_ends_in_time_and_holds_one_thread() {
        let file = BoundedFile {
            timeout: Duration::from_millis(50),
            ..BoundedFile::new(PathBuf::from("/mnt/gone/policy.yaml"))
        };
        let (answer, hanging) = mpsc::channel::<()>();
        let (ended, mut has_ended) = tokio::sync::oneshot::channel();
        let first = file.bounded(move |_| {
            let _ = hanging.recv();
            let _ = ended.send(());
            Ok(())
        });
        let error = first.await.expect_err("it hangs").to_string();
        assert!(error.starts_with("/mnt/gone/policy.yaml: "), "{error}");
        assert!(error.contains("check the file system"), "{error}");
        for _ in 0..100 {
            let again = file.bounded(|_| -> io::Result<()> { panic!("a second read begins") });
            assert_eq!(again.await.expect_err("it hangs").to_string(), error);
        }
        assert!(has_ended.try_recv().is_err());
        drop(answer);
        has_ended.await.expect("it ends");
        while file.bounded(|_| Ok(())).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn only_regular_files_within_the_bound_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let read = async |path: PathBuf| BoundedFile::new(path).read().await;
        std::fs::write(at("whole"), vec![b'x'; 1 << 20]).unwrap();
        assert_eq!(read(at("whole")).await.unwrap().len(), 1 << 20);
        std::os::unix::fs::symlink("whole", at("link")).unwrap();
        assert!(read(at("link")).await.is_ok());
        std::fs::write(at("large"), vec![b'x'; (1 << 20) + 1]).unwrap();
        for (path, word) in [
            (at("large"), "1 MiB"),
            (at("absent"), "No such file"),
            (folder.path().to_owned(), "folder"),
            ("/dev/zero".into(), "not a regular file"),
        ] {
            let error = read(path).await.expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
