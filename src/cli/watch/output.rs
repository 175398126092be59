//! Writing to stdout on a thread of its own.
//!
//! A pipe whose reader does not read blocks the writer. On a thread of its own that stops neither
//! Ctrl-C nor the pings that keep the connection alive, and because each write is waited for, the
//! server is slowed down as it should be.

use std::io::{self, Write};

use tokio::sync::{mpsc, oneshot};

type Job = (Vec<u8>, oneshot::Sender<io::Result<()>>);

/// Writes in order and tells when each write has been flushed.
#[derive(Debug)]
pub struct Output {
    jobs: mpsc::Sender<Job>,
}

impl Output {
    /// Writes to `sink`. The thread ends with this value, or when a write ends after it.
    pub fn to(mut sink: impl Write + Send + 'static) -> Output {
        let (jobs, mut queue) = mpsc::channel::<Job>(1);
        // A plain thread and not one of the runtime's: at the end the runtime would wait for it,
        // and it may be stuck in a write for ever.
        std::thread::spawn(move || {
            while let Some((bytes, done)) = queue.blocking_recv() {
                let result = sink.write_all(&bytes).and_then(|()| sink.flush());
                let _ = done.send(result);
            }
        });
        Output { jobs }
    }

    /// Writes and flushes. Dropping the future leaves the write to happen or not.
    pub async fn write(&self, text: String) -> io::Result<()> {
        let (done, outcome) = oneshot::channel();
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the writer is gone");
        self.jobs
            .send((text.into_bytes(), done))
            .await
            .map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}
