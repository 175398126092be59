//! The end of a stream that nobody reads any more.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use tokio::{runtime::Handle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::limit::Permit;

/// The time that a reply may take which nobody waits for any more: twice as long as MongoDB holds one back.
const LAST_REPLY_LIMIT: Duration = Duration::from_secs(2);

/// A stream of replies. When it is dropped while it waits for one, a task waits for that reply and drops it then.
///
/// A request that is dropped while it waits for a connection stays in the queue of the driver's pool (mongodb 3.9.1,
/// `cmap/worker.rs`). For each event the pool serves one request of its queue, and one that nobody waits for uses up
/// that turn: with some of them in the queue, those behind them wait for seconds although connections are free. One
/// that is dropped while MongoDB executes it costs its connection.
pub(super) struct Closing<C: Stream + Unpin + Send + 'static> {
    cursor: Option<C>,
    is_waiting: bool,
    /// Cancelled when nothing is waited for any more.
    closed: CancellationToken,
    permit: Option<Arc<Permit>>,
}

impl<C: Stream + Unpin + Send + 'static> Closing<C> {
    pub(super) fn new(cursor: C, closed: CancellationToken) -> Self {
        Self {
            cursor: Some(cursor),
            is_waiting: false,
            closed,
            permit: None,
        }
    }

    /// Keeps a permit until the stream is dropped, and its last reply has come.
    pub(super) fn hold(&mut self, permit: Option<Arc<Permit>>) {
        self.permit = permit;
    }

    /// Gives up the reply that it waits for: its connection is taken for dead, and is closed with the stream.
    pub(super) fn give_up(&mut self) {
        self.is_waiting = false;
    }

    /// Returns the next reply; `None` at the end. Cancel safe: the next call waits for the same reply.
    pub(super) async fn next_reply(&mut self) -> Option<C::Item> {
        let cursor = self.cursor.as_mut()?;
        self.is_waiting = true;
        let reply = cursor.next().await;
        self.is_waiting = false;
        reply
    }
}

impl<C: Stream + Unpin + Send + 'static> Drop for Closing<C> {
    fn drop(&mut self) {
        if !self.is_waiting {
            return;
        }
        // Without a runtime the process ends.
        if let (Some(mut cursor), Ok(runtime)) = (self.cursor.take(), Handle::try_current()) {
            let (permit, closed) = (self.permit.take(), self.closed.clone());
            runtime.spawn(async move {
                let reply = timeout(LAST_REPLY_LIMIT, cursor.next());
                // Ignored: the reply, and whether it came. Dropped later, a dead connection is closed.
                let _ = closed.run_until_cancelled(reply).await;
                drop((cursor, permit));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, channel::mpsc};
    use tokio::task::yield_now;

    use super::*;
    use crate::limit::{Limit, Limiter};

    #[tokio::test(start_paused = true)]
    async fn a_reply_that_is_awaited_is_awaited_to_its_end_and_the_permit_held_so_long() {
        for is_waiting in [false, true] {
            for answers in [true, false] {
                let permits = Limiter::new(Limit::new("streams", 1));
                let (replies, cursor) = mpsc::unbounded::<Arc<()>>();
                let mut closing = Closing::new(cursor, CancellationToken::new());
                closing.hold(permits.try_acquire().ok().map(Arc::new));
                if is_waiting {
                    assert!(closing.next_reply().now_or_never().is_none());
                }
                drop(closing);
                yield_now().await;
                assert_eq!(replies.is_closed(), !is_waiting);
                assert_eq!(permits.in_use(), usize::from(is_waiting));
                if answers {
                    let _ = replies.unbounded_send(Arc::default());
                } else {
                    tokio::time::sleep(LAST_REPLY_LIMIT).await;
                }
                while permits.in_use() > 0 {
                    yield_now().await;
                }
                assert!(replies.is_closed());
            }
        }
    }
}
