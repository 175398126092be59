//! A line in a file that can't be replaced.
//!
//! The new line is first written and synced behind the old one, then over it, and then the file is cut to it.
//! So at each moment one of both is complete on the disk, and the last complete line is the one that counts:
//!
//! ```text
//! old\n              before
//! old\n \n new\n     a crash up to here finds the old line
//! new\n...\n new\n   a crash up to here finds the new one at the end, even if the first is torn
//! new\n              after
//! ```

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

/// The longest wait for another watch that writes the file. A write takes milliseconds, on a busy disk seconds.
const MAX_LOCK_WAIT: Duration = Duration::from_secs(5);
/// The pause between two attempts to lock the file.
const LOCK_INTERVAL: Duration = Duration::from_millis(2);

/// Replaces the content of an existing file by `line`, which ends with a newline.
pub(super) fn write(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    wait_for_lock(&file);
    write_line(&mut file, line)
}

/// Waits until no other watch writes the file: two would mix their lines. Not every file system has locks, and
/// everyone who may read a file can hold its lock for ever, so that the write goes on without it then.
fn wait_for_lock(file: &File) {
    let begin = Instant::now();
    while let Err(TryLockError::WouldBlock) = file.try_lock()
        && begin.elapsed() < MAX_LOCK_WAIT
    {
        std::thread::park_timeout(LOCK_INTERVAL);
    }
}

/// The parts of a file that the order of writes needs.
trait Medium {
    fn read_all(&mut self) -> io::Result<Vec<u8>>;
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

impl Medium for File {
    fn read_all(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.seek(SeekFrom::Start(0))?;
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(offset))?;
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

fn write_line(file: &mut impl Medium, line: &[u8]) -> io::Result<()> {
    let old = file.read_all()?;
    let old_length = old.len() as u64;
    if !old.is_empty() {
        // At least one newline, as the old line may be torn; more, so that writing over the old line can't
        // reach the new one.
        let gap = line.len().saturating_sub(old.len()).max(1);
        let mut behind = vec![b'\n'; gap];
        behind.extend_from_slice(line);
        let written = file
            .write_at(old_length, &behind)
            .and_then(|()| file.sync());
        if let Err(error) = written {
            // The old line remains, and nothing else if that is possible.
            let _ = file.cut(old_length);
            return Err(error);
        }
    }
    file.write_at(0, line)?;
    file.sync()?;
    file.cut(line.len() as u64)?;
    file.sync()
}

/// Returns the lines of a file in the order in which they count: the last complete one first.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let complete = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(&bytes[..0], |end| &bytes[..end]);
    complete
        .rsplit(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that keeps what was synced, and of later writes any part.
    #[derive(Clone, Default)]
    struct Disk {
        now: Vec<u8>,
        /// The content after every crash that is possible at some moment.
        after_crashes: Vec<Vec<u8>>,
        /// The number of bytes that a write may still add to the file.
        space: Option<usize>,
    }

    impl Medium for Disk {
        fn read_all(&mut self) -> io::Result<Vec<u8>> {
            Ok(self.now.clone())
        }

        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            let start = usize::try_from(offset).unwrap();
            let end = start + bytes.len();
            let added = end.saturating_sub(self.now.len());
            if let Some(space) = self.space
                && added > space
            {
                self.now.extend_from_slice(&bytes[..space.min(bytes.len())]);
                return Err(io::ErrorKind::StorageFull.into());
            }
            // Any part of it: its beginning, its end, or some of both around zeros.
            for from in 0..=bytes.len() {
                for to in [bytes.len(), (from + 3).min(bytes.len())] {
                    let mut torn = self.now.clone();
                    torn.resize(torn.len().max(end), 0);
                    torn[start..start + from].copy_from_slice(&bytes[..from]);
                    torn[start + to..end].copy_from_slice(&bytes[to..]);
                    self.after_crashes.push(torn);
                    let mut short = self.now.clone();
                    short.truncate(start);
                    short.extend_from_slice(&bytes[..from]);
                    short.extend(self.now.iter().skip(short.len()));
                    self.after_crashes.push(short);
                }
            }
            self.now.resize(self.now.len().max(end), 0);
            self.now[start..end].copy_from_slice(bytes);
            self.after_crashes.push(self.now.clone());
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn cut(&mut self, length: u64) -> io::Result<()> {
            self.now.truncate(usize::try_from(length).unwrap());
            self.after_crashes.push(self.now.clone());
            Ok(())
        }
    }

    /// Returns the value that counts in a file: any valid JSON text.
    fn value(bytes: &[u8]) -> Option<String> {
        lines(bytes).find_map(|line| serde_json::from_slice(line).ok())
    }

    fn line(text: &str) -> Vec<u8> {
        format!("\"{text}\"\n").into_bytes()
    }

    #[test]
    fn a_crash_at_any_moment_leaves_the_old_or_the_new_line() {
        let texts = ["a", "a much longer text", "of mid length", "", "a b c d"];
        let mut crashes = 0;
        for old in texts {
            for new in texts {
                let mut disk = Disk {
                    now: line(old),
                    ..Disk::default()
                };
                write_line(&mut disk, &line(new)).unwrap();
                assert_eq!(disk.now, line(new));
                for crashed in disk.after_crashes.clone() {
                    crashes += 1;
                    let found = value(&crashed);
                    let text = String::from_utf8_lossy(&crashed).into_owned();
                    assert!(
                        found.as_deref() == Some(old) || found.as_deref() == Some(new),
                        "{old:?} to {new:?}: {text:?}"
                    );
                    // The next write begins from there.
                    let mut next = Disk {
                        now: crashed,
                        ..Disk::default()
                    };
                    write_line(&mut next, &line("next")).unwrap();
                    assert_eq!(next.now, line("next"));
                    for again in next.after_crashes {
                        // The first write may have lacked only its newline, which this one brings.
                        let now = value(&again);
                        assert!(
                            now == found
                                || now.as_deref() == Some(new)
                                || now.as_deref() == Some("next"),
                            "{again:?}"
                        );
                    }
                }
            }
        }
        assert!(crashes > 1000, "{crashes}");
    }

    #[test]
    fn a_full_disk_leaves_the_old_line_alone() {
        for space in 0..7 {
            let mut disk = Disk {
                now: line("old"),
                space: Some(space),
                ..Disk::default()
            };
            let error = write_line(&mut disk, &line("new")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert_eq!(disk.now, line("old"), "{space}");
        }
    }

    /// Everyone who may read a file can lock it, for as long as they like.
    #[test]
    fn a_lock_of_another_program_does_not_hold_up_a_write_for_ever() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = File::open(file.path()).unwrap();
        reader.lock().unwrap();
        let path = file.path().to_owned();
        let (written, result) = std::sync::mpsc::channel();
        std::thread::spawn(move || written.send(write(&path, &line("token"))));
        let result = result.recv_timeout(MAX_LOCK_WAIT * 10);
        result.expect("it ends").unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), line("token"));
    }

    #[test]
    fn two_writers_leave_the_line_of_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let texts = [line("short"), line("a line that is longer")];
        for round in 0..50 {
            let start = std::sync::Barrier::new(2);
            std::thread::scope(|threads| {
                for text in &texts {
                    threads.spawn(|| {
                        start.wait();
                        write(file.path(), text).unwrap();
                    });
                }
            });
            let written = std::fs::read(file.path()).unwrap();
            let shown = String::from_utf8_lossy(&written);
            assert!(texts.contains(&written), "round {round}: {shown:?}");
        }
    }

    #[test]
    fn the_last_complete_line_counts_first() {
        let found = |text: &'static str| lines(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(found("a\nb\n"), [b"b", b"a"]);
        assert_eq!(found("a\n\n\nb"), [b"a"]);
        assert!(found("a").is_empty());
        assert!(found("").is_empty());
    }
}
