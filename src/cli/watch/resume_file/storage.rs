//! Writes a small file so that a crash at any moment leaves the old or the new content.
//!
//! Usually a new file is renamed over the old one. Some files can't be replaced: a file that is mounted by
//! itself, as into a container (rename gives EBUSY or EXDEV), one in a folder without write permission or on
//! a read-only file system, and one whose owner or other names (hard links) would be lost. Those are written
//! [in place](super::in_place).

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::in_place;

/// The longest file that is read, in bytes. A token is at most 16 KiB, and 22 KiB as base64; the rest is
/// for the names of many collections.
const MAX_BYTES: u64 = 4 << 20;
/// Linux follows at most this many symbolic links too.
const MAX_LINKS: usize = 40;

/// The calls that fail on special files. Tests put failing ones in their place, because mounts need rights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calls {
    /// Creates a file with a name that is not in use in the folder.
    pub create_in: fn(&Path) -> io::Result<NamedTempFile>,
    pub rename: fn(&Path, &Path) -> io::Result<()>,
}

impl Calls {
    pub const SYSTEM: Calls = Calls {
        create_in: |folder| NamedTempFile::new_in(folder),
        rename: |from, to| std::fs::rename(from, to),
    };
}

/// A file at a path, which may be a symbolic link to it.
#[derive(Debug)]
pub(super) struct Storage {
    path: PathBuf,
    calls: Calls,
    /// The reason why the file can't be replaced, once it is known.
    in_place: Option<String>,
}

/// The result of an attempt to replace the file.
enum Replaced {
    Done,
    /// It has to be written in place, for this reason.
    Impossible(String),
}

impl Storage {
    pub fn new(path: PathBuf, calls: Calls) -> Storage {
        Storage {
            path,
            calls,
            in_place: None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns why the file is written in place; `None` if it is replaced.
    pub fn in_place(&self) -> Option<&str> {
        self.in_place.as_deref()
    }

    /// Returns what the path leads to, if that is not a regular file: reading a pipe or a device may never end.
    pub fn not_a_file(&self) -> Option<&'static str> {
        // `x/` is a folder, also before it exists.
        let path = self.path.as_os_str().as_encoded_bytes();
        if path
            .last()
            .is_some_and(|&byte| std::path::is_separator(byte.into()))
        {
            return Some("is a folder");
        }
        let metadata = std::fs::metadata(&self.path).ok()?;
        match (metadata.is_file(), metadata.is_dir()) {
            (true, _) => None,
            (_, true) => Some("is a folder"),
            _ => Some("is a device, a pipe or a socket"),
        }
    }

    /// Returns the content, or `None` if there is no file.
    pub fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let Some(metadata) = self.metadata()? else {
            return Ok(None);
        };
        if metadata.len() > MAX_BYTES {
            return Err(io::Error::other("it is too large"));
        }
        let mut bytes = Vec::new();
        let file = File::open(&self.path)?;
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Checks that the file can be created, without creating it: the folder exists, can be written to, and has
    /// space for `line`.
    pub fn check_creation(&self, line: &[u8]) -> io::Result<()> {
        let target = self.target()?;
        let folder = folder_of(&target);
        let mut file =
            (self.calls.create_in)(folder).map_err(|error| cant_create(folder, &error))?;
        file.as_file_mut().write_all(line)
    }

    /// Returns whether the file can be replaced by an empty one, and does so. Only for a file that is empty.
    pub fn replace_empty(&mut self) -> io::Result<bool> {
        let target = self.target()?;
        match self.replace(&target, b"")? {
            Replaced::Done => Ok(true),
            Replaced::Impossible(why) => {
                self.in_place = Some(why);
                Ok(false)
            }
        }
    }

    /// Checks that the file can be written in place.
    pub fn check_in_place(&self) -> io::Result<()> {
        File::options().write(true).open(&self.path).map(drop)
    }

    /// Writes one line, which ends with a newline, so that readers and a crash find the old or the new one.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let target = self.target()?;
        if self.in_place.is_none() {
            match self.replace(&target, line)? {
                Replaced::Done => return Ok(()),
                Replaced::Impossible(why) => self.in_place = Some(why),
            }
        }
        in_place::write(&target, line).map_err(|error| {
            let why = self.in_place().unwrap_or_default();
            let text = format!("it can't be replaced ({why}), nor written in place ({error})");
            io::Error::new(error.kind(), text)
        })
    }

    /// Writes a new file beside `target` and renames it over that.
    fn replace(&self, target: &Path, line: &[u8]) -> io::Result<Replaced> {
        let old = self.metadata()?;
        let exists = old.is_some();
        if old.as_ref().is_some_and(has_other_names) {
            let why = "it has several names (hard links)";
            return Ok(Replaced::Impossible(why.to_owned()));
        }
        let folder = folder_of(target);
        let mut file = match (self.calls.create_in)(folder) {
            Ok(file) => file,
            Err(error) if exists && may_work_in_place(&error) => {
                return Ok(Replaced::Impossible(
                    cant_create(folder, &error).to_string(),
                ));
            }
            Err(error) => return Err(cant_create(folder, &error)),
        };
        if let Some(old) = &old
            && let Err(error) = copy_owner_and_mode(old, file.as_file())
        {
            let why = format!("its owner would change: {error}");
            return Ok(Replaced::Impossible(why));
        }
        // Not through `file` itself, whose errors contain its random name.
        file.as_file_mut().write_all(line)?;
        file.as_file().sync_all()?;
        match (self.calls.rename)(file.path(), target) {
            Ok(()) => {
                // There is nothing left to delete under its first name.
                let _ = file.into_temp_path().keep();
                sync_folder(folder);
                Ok(Replaced::Done)
            }
            Err(error) if exists && may_work_in_place(&error) => {
                Ok(Replaced::Impossible(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the metadata of the file, or `None` if there is none.
    fn metadata(&self) -> io::Result<Option<Metadata>> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
            Ok(_) => Err(io::Error::other("it is no longer a regular file")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checks that every symbolic link may be followed.
    pub fn check_links(&self) -> io::Result<()> {
        self.target().map(drop)
    }

    /// Returns the path behind all symbolic links, also if there is no file yet. Followed at each write, since
    /// a link may be pointed elsewhere.
    fn target(&self) -> io::Result<PathBuf> {
        let mut path = self.path.clone();
        for _ in 0..MAX_LINKS {
            match std::fs::read_link(&path) {
                Ok(target) => {
                    check_link(&path)?;
                    path = folder_of(&path).join(target);
                }
                // Not a link, or nothing at all.
                Err(_) => return Ok(path),
            }
        }
        Err(io::Error::other("it is a symbolic link to itself"))
    }
}

/// Makes a new name durable: a first token whose file is gone after a power failure would let the next watch
/// start from now. Errors are ignored, as some file systems can't do it.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Returns whether an existing file may be writable where this error keeps it from being replaced.
fn may_work_in_place(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ResourceBusy
            | ErrorKind::CrossesDevices
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
    )
}

/// Describes an error of a folder, without the random name of the file that it was to have.
fn cant_create(folder: &Path, error: &io::Error) -> io::Error {
    let kind = error.kind();
    let folder = folder.display();
    let text = match kind {
        ErrorKind::NotFound => format!("there is no folder {folder}"),
        _ => format!("can't create files in the folder {folder}: {kind}"),
    };
    io::Error::new(kind, text)
}

/// Refuses a symbolic link with which another user could choose the file that this one writes. Linux does not
/// follow those either where `fs.protected_symlinks` is set (proc_sys_fs(5)), but reading a link is no following.
#[cfg(unix)]
fn check_link(link: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let folder = folder_of(link);
    let (of_link, of_folder) = (std::fs::symlink_metadata(link)?, std::fs::metadata(folder)?);
    let me = rustix::process::geteuid().as_raw();
    if may_be_planted(of_folder.mode(), of_folder.uid(), of_link.uid(), me) {
        let text = format!(
            "it leads through a symbolic link that another user made in {}, where everyone can create files: \
             name the file behind it, or use a folder of your own",
            folder.display()
        );
        return Err(io::Error::new(ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_link(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Returns whether a link in a sticky folder that everyone can write to, such as /tmp, is neither the user's
/// own nor that of the folder's owner.
#[cfg(unix)]
pub(super) fn may_be_planted(folder_mode: u32, folder_owner: u32, owner: u32, me: u32) -> bool {
    const STICKY_AND_WRITABLE_BY_ALL: u32 = 0o1002;
    folder_mode & STICKY_AND_WRITABLE_BY_ALL == STICKY_AND_WRITABLE_BY_ALL
        && owner != me
        && owner != folder_owner
}

#[cfg(unix)]
fn has_other_names(metadata: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(metadata) > 1
}

#[cfg(not(unix))]
fn has_other_names(_: &Metadata) -> bool {
    false
}

/// Gives `new` the owner, the group and the permissions of the old file.
#[cfg(unix)]
fn copy_owner_and_mode(old: &Metadata, new: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let now = new.metadata()?;
    if (now.uid(), now.gid()) != (old.uid(), old.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid()))?;
    }
    // After the owner, whose change clears some of them.
    new.set_permissions(old.permissions())
}

#[cfg(not(unix))]
fn copy_owner_and_mode(_: &Metadata, _: &File) -> io::Result<()> {
    Ok(())
}
