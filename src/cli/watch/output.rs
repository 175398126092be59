//! Writes to stdout on a separate thread, and notices when nobody reads it any more.
//!
//! A pipe whose reader is slow blocks the writer. On a separate thread, this blocks neither Ctrl-C nor the
//! keep-alive pings of the connection. Each write is awaited, so that a slow reader slows down the server.
//!
//! The reader of a pipe can also end while there is nothing to write: `weir watch ... | head` on a quiet
//! collection. A write would notice that at the next event, which may be days away, so another thread waits
//! for it.

use std::io::{self, Write};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

type Job = (Vec<u8>, oneshot::Sender<io::Result<()>>);

/// Writes in order, and reports when each write has been flushed.
#[derive(Debug)]
pub struct Output {
    jobs: mpsc::Sender<Job>,
    /// Cancelled once the reader is gone.
    reader_gone: CancellationToken,
}

impl Output {
    /// Starts the threads that write to stdout and wait for the end of its reader.
    pub fn to_stdout() -> Output {
        #[cfg(unix)]
        {
            let output = Output::to(Polled(io::stdout()));
            cancel_on_hang_up(io::stdout(), output.reader_gone.clone());
            output
        }
        #[cfg(not(unix))]
        Output::to(io::stdout())
    }

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
        Output {
            jobs,
            reader_gone: CancellationToken::new(),
        }
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

    /// Returns what is cancelled once nobody can read the output any more. A file and `/dev/null` never
    /// come to that.
    pub fn reader_gone(&self) -> CancellationToken {
        self.reader_gone.clone()
    }
}

/// A stream that waits for space where another process that shares it has made it non-blocking, and whose
/// error is [`io::ErrorKind::BrokenPipe`] for every kind of reader that has gone: a socket may give ECONNRESET and
/// a terminal EIO.
#[cfg(unix)]
struct Polled<S>(S);

#[cfg(unix)]
impl<S: Write + std::os::fd::AsFd> Polled<S> {
    fn call<T>(&mut self, mut call: impl FnMut(&mut S) -> io::Result<T>) -> io::Result<T> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let space = PollFlags::OUT;
        let ends = PollFlags::ERR | PollFlags::HUP;
        loop {
            let error = match call(&mut self.0) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => error,
                result => return result,
            };
            let blocks = error.kind() == io::ErrorKind::WouldBlock;
            let mut polled = [PollFd::new(&self.0, space)];
            let at_once = Timespec::default();
            match poll(&mut polled, (!blocks).then_some(&at_once)) {
                Err(rustix::io::Errno::INTR) if blocks => {}
                Err(_) => return Err(error),
                Ok(_) if polled[0].revents().intersects(ends) => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Ok(_) if blocks => {}
                Ok(_) => return Err(error),
            }
        }
    }
}

#[cfg(unix)]
impl<S: Write + std::os::fd::AsFd> Write for Polled<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.call(|stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.call(Write::flush)
    }
}

/// Starts a thread that cancels `reader_gone` when the other end of `stream` is closed: a pipe without
/// readers, a socket closed by its peer, a terminal that hung up.
///
/// poll(2) reports these without being asked for any event, and nothing else. For a file it waits until the
/// process ends, which costs a sleeping thread.
#[cfg(unix)]
fn cancel_on_hang_up(
    stream: impl std::os::fd::AsFd + Send + 'static,
    reader_gone: CancellationToken,
) {
    use rustix::event::{PollFd, PollFlags, poll};

    std::thread::spawn(move || {
        let mut polled = [PollFd::new(&stream, PollFlags::empty())];
        loop {
            match poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => {}
                // Left to the next write.
                Err(_) => return,
                Ok(_) => break,
            }
        }
        let ends = PollFlags::ERR | PollFlags::HUP;
        if polled[0].revents().intersects(ends) {
            reader_gone.cancel();
        }
    });
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_cancelled(token: &CancellationToken) -> bool {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, token.cancelled()).await.is_ok()
    }

    #[tokio::test]
    async fn a_closed_reader_is_noticed_without_a_write() {
        let (reader, writer) = io::pipe().unwrap();
        let gone = CancellationToken::new();
        cancel_on_hang_up(writer, gone.clone());
        assert!(!gone.is_cancelled());
        drop(reader);
        assert!(is_cancelled(&gone).await, "a pipe");

        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let gone = CancellationToken::new();
        cancel_on_hang_up(ours, gone.clone());
        drop(theirs);
        assert!(is_cancelled(&gone).await, "a socket");
    }

    #[tokio::test]
    async fn a_stream_that_somebody_made_non_blocking_is_written_whole() {
        use std::io::Read as _;
        let (mut theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let output = Output::to(Polled(ours));
        let text = "0123456789\n".repeat(200_000);
        let reader = std::thread::spawn(move || {
            let mut read = String::new();
            theirs.read_to_string(&mut read).map(|_| read)
        });
        output.write(text.clone()).await.unwrap();
        drop(output);
        assert!(reader.join().unwrap().unwrap() == text);
    }

    #[tokio::test]
    async fn a_connection_that_was_reset_is_a_reader_that_has_gone() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let gone = CancellationToken::new();
        cancel_on_hang_up(ours.try_clone().unwrap(), gone.clone());
        let output = Output::to(Polled(ours));
        output.write("unread".to_owned()).await.unwrap();
        // Something unread makes it a reset.
        while theirs.peek(&mut [0]).unwrap() == 0 {}
        drop(theirs);
        assert!(is_cancelled(&gone).await);
        let error = output.write("lost".to_owned()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);

        // A full disk is no reader.
        let full = std::fs::File::options().write(true).open("/dev/full");
        let output = Output::to(Polled(full.unwrap()));
        let error = output.write("lost".to_owned()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    /// Whatever else a stream has to tell does not end a watch: unread input, a full buffer, the end of a
    /// file.
    #[tokio::test]
    async fn only_a_hang_up_counts() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.write_all(b"input").unwrap();
        // A peer that sends nothing more may still read.
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let (full_reader, mut full) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&full, true).unwrap();
        while full.write(&[0; 4096]).is_ok() {}

        let quiet = CancellationToken::new();
        cancel_on_hang_up(ours, quiet.clone());
        cancel_on_hang_up(full, quiet.clone());
        cancel_on_hang_up(tempfile::tempfile().unwrap(), quiet.clone());
        for device in ["/dev/null", "/dev/full"] {
            let device = std::fs::File::options().write(true).open(device).unwrap();
            cancel_on_hang_up(device, quiet.clone());
        }
        // Once this pipe has been noticed, the threads before it have had their chance too.
        let (reader, writer) = io::pipe().unwrap();
        let gone = CancellationToken::new();
        cancel_on_hang_up(writer, gone.clone());
        drop(reader);
        assert!(is_cancelled(&gone).await);
        assert!(!quiet.is_cancelled());
        drop((theirs, full_reader));
        assert!(is_cancelled(&quiet).await, "now two of them have hung up");
    }
}
