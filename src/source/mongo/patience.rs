//! How long MongoDB is waited for.

use std::{pin::pin, time::Duration};

use bson::doc;
use mongodb::Client;
use tokio::time::{Instant, timeout};

use crate::source::{SourceError, failure::Failure};

/// How long a reply may be overdue while MongoDB answers otherwise: it may be scanning a long
/// stretch of the oplog that holds nothing for this stream. After that the connection is given up.
const STALLED: Duration = Duration::from_secs(600);
/// The same for a stream that had nothing left to read, in times of the reply timeout: what has come
/// since is scanned soon, and a connection of which one end is gone must not hold it up for long.
const STALLED_WHEN_CURRENT: u32 = 3;

/// Waits for MongoDB's answers, for as long as they can be waited for.
///
/// The driver sets no limit on a reply, so a connection that died without a word would hold the
/// stream for ever. A long scan of the oplog looks the same from here; asking on another connection
/// tells them apart.
pub(super) struct Patience {
    client: Client,
    reply_timeout: Duration,
}

impl Patience {
    pub(super) fn new(client: Client, reply_timeout: Duration) -> Self {
        Self {
            client,
            reply_timeout,
        }
    }

    /// Waits for the answer to a question that may need a scan, or not, as when the stream is
    /// `current`.
    pub(super) async fn bear<T>(
        &self,
        answer: impl Future<Output = T>,
        current: bool,
    ) -> Result<T, SourceError> {
        let limit = match current {
            true => self.reply_timeout * STALLED_WHEN_CURRENT,
            false => STALLED,
        };
        let asked = Instant::now();
        let mut answer = pin!(answer);
        loop {
            match timeout(self.reply_timeout, &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_) if asked.elapsed() >= limit => {
                    let message = format!("no reply for {} s", limit.as_secs());
                    return Err(SourceError::new(Failure::Transient, message));
                }
                Err(_) => self.probe().await?,
            }
        }
    }

    /// Asks MongoDB, on another connection, whether it is there.
    async fn probe(&self) -> Result<(), SourceError> {
        let admin = self.client.database("admin");
        let answer = admin.run_command(doc! { "ping": 1 });
        match timeout(self.reply_timeout / 2, answer.into_future()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(SourceError::new(Failure::Transient, error.to_string())),
            Err(_) => Err(SourceError::new(
                Failure::Transient,
                "no reply, and none to a ping either",
            )),
        }
    }
}
