//! Files that are read again when they change: certificates, keys, policies.
//!
//! They are looked at every now and then, by their contents: Kubernetes swaps a symbolic link above them,
//! which notifications of the file system miss, and times of change may be equal. What is new at one look is
//! applied at the next, if it is still the same: a file that is being written may end anywhere until then,
//! and half a policy may be a policy that allows more.

use std::{io, path::PathBuf, time::Duration};

use tokio::io::AsyncReadExt as _;

use crate::metrics::Metrics;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Files that are of use together only, such as a certificate and its key.
#[derive(Debug)]
pub struct ReloadedFiles {
    /// What they hold, for logs and metrics.
    what: &'static str,
    paths: Vec<PathBuf>,
    seen: Vec<Vec<u8>>,
}

impl ReloadedFiles {
    /// Reads them for the first time. Gives their contents, in the order of `paths`, too.
    ///
    /// # Errors
    /// In words, which name the file: it can't be read, or is larger than 1 MiB.
    pub async fn read(
        what: &'static str,
        paths: Vec<PathBuf>,
    ) -> Result<(Self, Vec<Vec<u8>>), String> {
        let seen = read_all(&paths).await?;
        let contents = seen.clone();
        Ok((Self { what, paths, seen }, contents))
    }

    /// Looks every `interval` whether they have changed, and has contents that were the same at two looks put
    /// in force by `apply`; what it refuses, and what can't be read, leaves the old ones in force. Never ends.
    pub async fn follow(
        mut self,
        interval: Duration,
        metrics: &Metrics,
        mut apply: impl FnMut(&[Vec<u8>]) -> Result<(), String>,
    ) {
        for ok in [true, false] {
            metrics.reload_counter(self.what, ok).increment(0);
        }
        metrics.set_last_reload(self.what, true);
        let mut last_problem = None;
        // What was new at the look before.
        let mut candidate = None;
        loop {
            tokio::time::sleep(interval).await;
            let read = read_all(&self.paths).await;
            if read.as_ref().is_ok_and(|contents| *contents == self.seen) {
                candidate = None;
                if last_problem.take().is_some() {
                    // The change was taken back.
                    metrics.set_last_reload(self.what, true);
                }
                continue;
            }
            // It may be half of what is being written, or of before a swap and of after it.
            if candidate.as_ref() != Some(&read) {
                candidate = Some(read);
                continue;
            }
            let outcome = match &read {
                Ok(contents) => apply(contents),
                Err(problem) => Err(problem.clone()),
            };
            match outcome {
                Ok(()) => {
                    tracing::info!(what = self.what, "read again");
                    metrics.reloaded(self.what, true);
                    last_problem = None;
                }
                // The same again is no news.
                Err(problem) if last_problem.as_ref() == Some(&problem) => continue,
                Err(problem) => {
                    tracing::error!(
                        what = self.what,
                        problem,
                        "a change can't be used; what was read before stays in force"
                    );
                    metrics.reloaded(self.what, false);
                    last_problem = Some(problem);
                    continue;
                }
            }
            candidate = None;
            if let Ok(contents) = read {
                self.seen = contents;
            }
        }
    }
}

async fn read_all(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    let mut contents = Vec::with_capacity(paths.len());
    for path in paths {
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let mut bytes = Vec::new();
        let mut bounded = file.take(MAX_BYTES + 1);
        bounded.read_to_end(&mut bytes).await.map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(format!("{} is larger than 1 MiB", path.display()));
        }
        contents.push(bytes);
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::Path, sync::Mutex};

    use super::*;

    /// Swaps a link above both files, as Kubernetes does. Each generation is another.
    fn swap(volume: &Path, generation: u32) {
        let folder = format!("..{generation}");
        std::fs::create_dir(volume.join(&folder)).unwrap();
        for name in ["a", "b"] {
            std::fs::write(volume.join(&folder).join(name), generation.to_string()).unwrap();
        }
        symlink(&folder, volume.join("..next")).unwrap();
        std::fs::rename(volume.join("..next"), volume.join("..data")).unwrap();
    }

    /// A look may fall between the reading of one file and the next.
    #[tokio::test(flavor = "multi_thread")]
    async fn files_of_before_and_after_a_swap_are_never_taken_together() {
        const SWAPS: u32 = 500;
        let volume = tempfile::tempdir().unwrap();
        swap(volume.path(), 0);
        let paths = ["a", "b"].map(|name| volume.path().join("..data").join(name));
        let (files, first) = ReloadedFiles::read("tls", paths.to_vec()).await.unwrap();
        assert_eq!(first, [b"0", b"0"]);
        let metrics = Metrics::new();
        let taken = Mutex::new(Vec::new());
        let apply = |contents: &[Vec<u8>]| {
            assert_eq!(contents[0], contents[1]);
            let text = String::from_utf8(contents[0].clone()).unwrap();
            taken.lock().unwrap().push(text.parse::<u32>().unwrap());
            Ok(())
        };
        let root = volume.path().to_owned();
        let swapping = tokio::task::spawn_blocking(move || {
            for generation in 1..=SWAPS {
                swap(&root, generation);
            }
        });
        let seen_last = async {
            swapping.await.unwrap();
            while taken.lock().unwrap().last() != Some(&SWAPS) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = files.follow(Duration::from_micros(1), &metrics, apply) => {}
            () = seen_last => {}
        }
        let taken = taken.lock().unwrap();
        assert!(taken.is_sorted(), "{taken:?}");
    }
    /// Half a file may be a good one that says something else.
    #[tokio::test(start_paused = true)]
    async fn what_is_still_being_written_is_not_applied() {
        const INTERVAL: Duration = Duration::from_secs(10);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        std::fs::write(&path, "old").unwrap();
        let (files, _) = ReloadedFiles::read("policy", vec![path.clone()])
            .await
            .unwrap();
        let metrics = Metrics::new();
        let (applied, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let apply = |contents: &[Vec<u8>]| {
            applied.send(contents[0].clone()).unwrap();
            Ok(())
        };
        let writing = async {
            tokio::time::sleep(INTERVAL / 2).await;
            std::fs::write(&path, "allow: all").unwrap();
            // A look falls in between.
            tokio::time::sleep(INTERVAL).await;
            std::fs::write(&path, "allow: all\nbut: secrets").unwrap();
            let whole = tokio::time::Instant::now();
            let first = seen.recv().await.unwrap();
            assert_eq!(first, b"allow: all\nbut: secrets");
            assert!(whole.elapsed() <= INTERVAL * 2, "{:?}", whole.elapsed());
        };
        tokio::select! {
            () = files.follow(INTERVAL, &metrics, apply) => {}
            () = writing => {}
        }
    }
}
