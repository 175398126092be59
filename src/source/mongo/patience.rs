//! How long MongoDB is waited for.

use std::{pin::pin, time::Duration};

use bson::doc;
use mongodb::Client;
use tokio::time::{Instant, timeout};

use crate::source::{ClusterTime, SourceError, failure::Failure};

use super::operation_time;

/// How long a reply may be overdue while MongoDB answers otherwise, in times of the reply timeout. After
/// that the connection is given up, as the answer may have been lost on its way without a word.
const STALLED: u32 = 3;
/// How much longer it may be at most, as MongoDB may be scanning a long stretch of the oplog that holds
/// nothing for this stream.
const LONGEST_SCAN: Duration = Duration::from_secs(600);

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

    /// Waits for the answer to a question for which the oplog is scanned from a time on, or from now.
    pub(super) async fn bear<T>(
        &self,
        answer: impl Future<Output = T>,
        from: Option<ClusterTime>,
    ) -> Result<T, SourceError> {
        let asked = Instant::now();
        let mut limit = None;
        let mut answer = pin!(answer);
        loop {
            if let Ok(answer) = timeout(self.reply_timeout, &mut answer).await {
                return Ok(answer);
            }
            let now = self.probe().await?;
            // As of the first look: the stretch that was asked for does not grow, as the time does.
            let limit = *limit.get_or_insert_with(|| self.limit(from, now));
            if asked.elapsed() >= limit {
                let message = format!("no reply for {} s", asked.elapsed().as_secs());
                return Err(SourceError::new(Failure::Transient, message));
            }
        }
    }

    /// How long an answer may take that needs a scan of the oplog from a time, or from now, to now.
    fn limit(&self, from: Option<ClusterTime>, now: Option<ClusterTime>) -> Duration {
        // A stretch takes less time to scan than it took to be written, or nobody could ever catch up.
        let scan = match (from, now) {
            (None, _) => Duration::ZERO,
            (Some(from), Some(now)) => Duration::from_secs(now.seconds_since(from).into()),
            (Some(_), None) => LONGEST_SCAN,
        };
        self.reply_timeout * STALLED + scan.min(LONGEST_SCAN)
    }

    /// Asks MongoDB, on another connection, whether it is there: its time, where it tells it.
    async fn probe(&self) -> Result<Option<ClusterTime>, SourceError> {
        let admin = self.client.database("admin");
        let answer = admin.run_command(doc! { "ping": 1 });
        match timeout(self.reply_timeout / 2, answer.into_future()).await {
            Ok(Ok(pong)) => Ok(operation_time(&pong)),
            Ok(Err(error)) => Err(SourceError::new(Failure::Transient, error.to_string())),
            Err(_) => Err(SourceError::new(
                Failure::Transient,
                "no reply, and none to a ping either",
            )),
        }
    }
}
