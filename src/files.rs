//! Reads of the files that settings name, with bounds on their time and size.
//!
//! A read can hang for ever: on a file system that no longer answers, or on a pipe that nobody writes to. It then
//! holds a thread that can't be stopped, so each file has at most one read in progress.

use std::{
    ffi::OsString,
    fs::{File, FileType, Metadata},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Component, Path, PathBuf},
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
    /// folder on the way to it, also through symbolic links, in which they can replace what leads on. In a folder with
    /// the sticky bit, and on a file system that is mounted read-only, nobody can.
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
    /// The file, or a folder on the way to it.
    pub path: PathBuf,
    /// `true` if everybody can write it, not only its group.
    pub to_everybody: bool,
}

/// The most symbolic links that a path may lead through, as Linux has it.
const MAX_LINKS: u32 = 40;

/// Walks to a file from the root on, through every folder that the path and its symbolic links name.
fn find_exposed(path: &Path) -> io::Result<Option<ExposedPath>> {
    let path = std::path::absolute(path)?;
    let mut at = PathBuf::from("/");
    if let Some(exposed) = exposed(&at, &at.metadata()?)? {
        return Ok(Some(exposed));
    }
    let mut links = 0;
    // The next component is the last one.
    let mut rest = components(&path);
    while let Some(component) = rest.pop() {
        if component == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&component);
        let metadata = next.symlink_metadata()?;
        if metadata.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(io::Error::other("has too many symbolic links"));
            }
            let target = next.read_link()?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            rest.extend(components(&target));
            continue;
        }
        at = next;
        if let Some(exposed) = exposed(&at, &metadata)? {
            return Ok(Some(exposed));
        }
    }
    Ok(None)
}

/// Returns the components of a path, the last one first, without those that lead nowhere.
fn components(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|it| match it {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}

/// Returns a file or a folder, if others than its owner can write it, or replace what is in it.
fn exposed(path: &Path, metadata: &Metadata) -> io::Result<Option<ExposedPath>> {
    /// Permission bits: write for the group, write for everybody, and only one's own files in a folder.
    const GROUP: u32 = 0o020;
    const EVERYBODY: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let mode = metadata.mode();
    let keeps_own = metadata.is_dir() && mode & STICKY != 0;
    if mode & (GROUP | EVERYBODY) == 0 || keeps_own || is_read_only(path)? {
        return Ok(None);
    }
    Ok(Some(ExposedPath {
        path: path.to_owned(),
        to_everybody: mode & EVERYBODY != 0,
    }))
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

    fn allow(path: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A folder as Kubernetes mounts a Secret: `key` leads to `..data/key`, and `..data` to a folder.
    #[test]
    fn every_folder_on_the_way_through_links_is_examined() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (above, mount) = (root.join("above"), root.join("above/mount"));
        let (data, elsewhere) = (mount.join("..2026"), root.join("elsewhere"));
        for path in [&above, &mount, &data, &elsewhere] {
            std::fs::create_dir(path).unwrap();
            allow(path, 0o755);
        }
        std::fs::write(data.join("key"), "").unwrap();
        allow(&data.join("key"), 0o644);
        symlink("..2026", mount.join("..data")).unwrap();
        symlink("..data/key", mount.join("key")).unwrap();
        symlink(mount.join("key"), elsewhere.join("link")).unwrap();
        symlink("../elsewhere/./link", above.join("link")).unwrap();
        let path = above.join("link");
        assert_eq!(find_exposed(&path).unwrap(), None);
        for on_the_way in [&above, &elsewhere, &mount, &data, &data.join("key")] {
            let before = std::fs::metadata(on_the_way).unwrap().mode();
            for (mode, to_everybody) in [(before | 0o020, false), (before | 0o002, true)] {
                allow(on_the_way, mode);
                let path = on_the_way.clone();
                let exposed = ExposedPath { path, to_everybody };
                assert_eq!(find_exposed(&above.join("link")).unwrap(), Some(exposed));
            }
            allow(on_the_way, before);
        }
        allow(&mount, 0o1777);
        assert_eq!(find_exposed(&path).unwrap(), None, "the sticky bit");
        symlink("loop", above.join("loop")).unwrap();
        assert!(find_exposed(&above.join("loop")).is_err());
        assert!(find_exposed(&above.join("absent")).is_err());
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
