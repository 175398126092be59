//! Files that are reloaded when they change: certificates, keys, policies.
//!
//! The files are polled and compared by content: Kubernetes replaces a symbolic link above them, which file
//! system notifications miss, and modification times may be equal. New content is applied at the second poll
//! that sees it: until then the file may be only partly written, and half of a policy may allow more than the
//! whole.

use std::{path::PathBuf, time::Duration};

use crate::{
    files::{BoundedFile, FileError},
    metrics::Metrics,
};

/// The number of polls in a row that read something else each time, after which that is reported.
const MAX_UNSETTLED_POLLS: u32 = 3;

const UNSETTLED: &str = "the content is another at each reading, or can't be read again and again";

/// Files that only work together, such as a certificate and its key.
#[derive(Debug)]
pub struct ReloadedFiles {
    /// The kind of content: the label `what` in logs and metrics.
    what: &'static str,
    files: Vec<BoundedFile>,
    applied: Vec<Vec<u8>>,
}

impl ReloadedFiles {
    /// Reads the files for the first time. Also returns their contents, in the order of `paths`.
    ///
    /// # Errors
    /// The first file that can't be read, as [`BoundedFile::read`] says.
    pub async fn read(
        what: &'static str,
        paths: Vec<PathBuf>,
    ) -> Result<(Self, Vec<Vec<u8>>), FileError> {
        let files: Vec<_> = paths.into_iter().map(BoundedFile::new).collect();
        let applied = read_all(&files).await?;
        let contents = applied.clone();
        Ok((
            Self {
                what,
                files,
                applied,
            },
            contents,
        ))
    }

    /// Polls the files every `interval` and passes changed contents to `apply` once two polls in a row have
    /// read the same. When `apply` refuses them, a file can't be read, or several polls in a row read something
    /// else each time, the old contents stay in force, and that is reported. Never returns.
    pub async fn follow(
        mut self,
        interval: Duration,
        metrics: &Metrics,
        mut apply: impl FnMut(&[Vec<u8>]) -> Result<(), String>,
    ) {
        metrics.expose_reloads(self.what);
        let mut last_problem = None;
        // The changed contents that the previous poll read.
        let mut candidate = None;
        let mut unsettled_polls = 0;
        loop {
            tokio::time::sleep(interval).await;
            let read = read_all(&self.files).await.map_err(String::from);
            if read
                .as_ref()
                .is_ok_and(|contents| *contents == self.applied)
            {
                candidate = None;
                unsettled_polls = 0;
                if last_problem.take().is_some() {
                    // The change was reverted, or the files can be read again.
                    tracing::info!(what = self.what, "the files are as they were");
                    metrics.set_last_reload(self.what, true);
                }
                continue;
            }
            // It may be partly written, or a mix of files from before and after a swap.
            let is_settled = candidate.as_ref() == Some(&read);
            let read = &*candidate.insert(read);
            unsettled_polls = if is_settled { 0 } else { unsettled_polls + 1 };
            if (1..MAX_UNSETTLED_POLLS).contains(&unsettled_polls) {
                continue;
            }
            let outcome = match read {
                _ if !is_settled => Err(UNSETTLED.to_owned()),
                Ok(contents) => apply(contents),
                Err(problem) => Err(problem.clone()),
            };
            match outcome {
                Ok(()) => {
                    tracing::info!(what = self.what, "reloaded");
                    metrics.count_reload(self.what, true);
                    last_problem = None;
                }
                // The same problem is logged and counted only once.
                Err(problem) if last_problem.as_ref() == Some(&problem) => continue,
                Err(problem) => {
                    tracing::error!(
                        what = self.what,
                        files = self.paths(),
                        problem,
                        "a file can't be read or used; the previous content stays in force"
                    );
                    metrics.count_reload(self.what, false);
                    last_problem = Some(problem);
                    continue;
                }
            }
            if let Some(Ok(contents)) = candidate.take() {
                self.applied = contents;
            }
        }
    }
}

impl ReloadedFiles {
    /// Returns the paths of the files, for the log.
    fn paths(&self) -> String {
        let paths = self.files.iter().map(|it| it.path().display().to_string());
        paths.collect::<Vec<_>>().join(", ")
    }
}

async fn read_all(files: &[BoundedFile]) -> Result<Vec<Vec<u8>>, FileError> {
    let mut contents = Vec::with_capacity(files.len());
    for file in files {
        contents.push(file.read().await?);
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::Path, sync::Mutex};

    use super::*;
    use crate::metrics::ScrapedGauges;

    /// Replaces a link above both files, as Kubernetes does. Each generation has different contents.
    fn swap(volume: &Path, generation: u32) {
        let folder = format!("..{generation}");
        std::fs::create_dir(volume.join(&folder)).unwrap();
        for name in ["a", "b"] {
            std::fs::write(volume.join(&folder).join(name), generation.to_string()).unwrap();
        }
        symlink(&folder, volume.join("..next")).unwrap();
        std::fs::rename(volume.join("..next"), volume.join("..data")).unwrap();
    }

    /// A swap may happen between reading one file and the next.
    #[tokio::test(flavor = "multi_thread")]
    async fn files_from_before_and_after_a_swap_are_never_applied_together() {
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

    /// A partly written file may be valid and mean something else.
    #[tokio::test(start_paused = true)]
    async fn a_partly_written_file_is_not_applied() {
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
            // One poll happens in between.
            tokio::time::sleep(INTERVAL).await;
            std::fs::write(&path, "allow: all\nbut: secrets").unwrap();
            let completed_at = tokio::time::Instant::now();
            let first = seen.recv().await.unwrap();
            assert_eq!(first, b"allow: all\nbut: secrets");
            assert!(
                completed_at.elapsed() <= INTERVAL * 2,
                "{:?}",
                completed_at.elapsed()
            );
        };
        tokio::select! {
            () = files.follow(INTERVAL, &metrics, apply) => {}
            () = writing => {}
        }
    }
    /// Reads that are an error at one poll and new contents at the next are never applied.
    #[tokio::test(start_paused = true)]
    async fn a_file_that_can_be_read_now_and_then_only_is_reported() {
        const INTERVAL: Duration = Duration::from_secs(10);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        std::fs::write(&path, "old").unwrap();
        let (files, _) = ReloadedFiles::read("policy", vec![path.clone()])
            .await
            .unwrap();
        let metrics = Metrics::new();
        let failed = || {
            let page = metrics.render(&ScrapedGauges::default());
            page.contains("weir_last_reload_successful{what=\"policy\"} 0")
        };
        let apply = |contents: &[Vec<u8>]| Err(format!("applied {contents:?}"));
        let alternating = async {
            tokio::time::sleep(INTERVAL / 2).await;
            for poll in 0..MAX_UNSETTLED_POLLS * 3 {
                assert_eq!(failed(), poll >= MAX_UNSETTLED_POLLS, "poll {poll}");
                if poll % 2 == 0 {
                    std::fs::remove_file(&path).unwrap();
                } else {
                    std::fs::write(&path, "new").unwrap();
                }
                tokio::time::sleep(INTERVAL).await;
            }
            std::fs::write(&path, "old").unwrap();
            tokio::time::sleep(INTERVAL).await;
            assert!(!failed(), "it is as it was");
        };
        tokio::select! {
            () = files.follow(INTERVAL, &metrics, apply) => {}
            () = alternating => {}
        }
    }
}
