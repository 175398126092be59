//! Writes to stdout on a separate thread.
//!
//! A pipe whose reader is slow blocks the writer. On a separate thread, this blocks neither Ctrl-C nor the
//! keep-alive pings of the connection. Each write is awaited, so that a slow reader slows down the server.

use std::io::{self, Write};

use tokio::sync::{mpsc, oneshot};

type Job = (Vec<u8>, oneshot::Sender<io::Result<()>>);

/// Writes in order, and reports when each write has been flushed.
#[derive(Debug)]
pub struct Output {
    jobs: mpsc::Sender<Job>,
}

impl Output {
    /// Starts the thread that writes to `sink`. It ends after this value has been dropped.
    pub fn to(mut sink: impl Write + Send + 'static) -> Output {
        let (jobs, mut queue) = mpsc::channel::<Job>(1);
        // Not a blocking task of the runtime: the runtime would wait for it at exit, and a write may block
        // for ever.
        std::thread::spawn(move || {
            while let Some((bytes, done)) = queue.blocking_recv() {
                let result = sink.write_all(&bytes).and_then(|()| sink.flush());
                let _ = done.send(result);
            }
        });
        Output { jobs }
    }

    /// Writes and flushes `text`. If the future is dropped, the write may or may not happen.
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
