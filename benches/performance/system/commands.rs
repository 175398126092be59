//! The parent's commands to a child, one per line.

use std::io::BufRead as _;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The parent's commands, in order.
#[derive(Debug)]
pub struct Commands(UnboundedReceiver<String>);

impl Commands {
    /// Listens from now on, and ends this process once the parent has ended: its end of the pipe is
    /// closed then in any case.
    pub fn listen() -> Self {
        Self::listen_until_end(|| std::process::exit(0))
    }

    /// Listens from now on; calls `end` once the parent has ended.
    pub fn listen_until_end(end: impl FnOnce() + Send + 'static) -> Self {
        let (sender, receiver) = unbounded_channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                // Commands that nobody waits for are dropped.
                let _ = sender.send(line);
            }
            end();
        });
        Self(receiver)
    }

    /// The next command.
    pub async fn next(&mut self) -> String {
        match self.0.recv().await {
            Some(word) => word,
            // The parent has ended, and this process will end too.
            None => std::future::pending().await,
        }
    }
}
