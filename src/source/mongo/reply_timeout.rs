//! How long MongoDB is waited for.

use std::{pin::pin, time::Duration};

use bson::doc;
use mongodb::Client;
use tokio::time::{Instant, timeout};

use crate::source::{ClusterTime, SourceError, failure::Failure};

use super::operation_time;

/// How long a reply may be overdue while MongoDB answers otherwise, in times of the reply timeout. After
/// that the connection is given up, as the answer may have been lost on its way without a word.
const STALLED_REPLY_FACTOR: u32 = 3;
/// How much longer it may be where MongoDB does not tell its time: it may be scanning a long stretch of
/// the oplog that holds nothing for this stream, of which nobody knows how long it is.
const UNKNOWN_SCAN_LIMIT: Duration = Duration::from_secs(600);

/// Waits for MongoDB's answers, for as long as they can be waited for.
///
/// The driver sets no limit on a reply, so a connection that died without a word would hold the
/// stream for ever. A long scan of the oplog looks the same from here; asking on another connection
/// tells them apart.
pub(super) struct ReplyTimeout {
    client: Client,
    reply_timeout: Duration,
}

impl ReplyTimeout {
    pub(super) fn new(client: Client, reply_timeout: Duration) -> Self {
        Self {
            client,
            reply_timeout,
        }
    }

    /// Waits for the answer to a question for which the oplog is scanned from a time on, or from now.
    pub(super) async fn wait<T>(
        &self,
        answer: impl Future<Output = T>,
        from: Option<ClusterTime>,
    ) -> Result<T, SourceError> {
        wait(answer, self.reply_timeout, from, || self.probe()).await
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

/// Waits for an answer for as long as `probe` finds MongoDB there, and no longer than a scan may take.
async fn wait<T, P>(
    answer: impl Future<Output = T>,
    reply_timeout: Duration,
    from: Option<ClusterTime>,
    probe: impl Fn() -> P,
) -> Result<T, SourceError>
where
    P: Future<Output = Result<Option<ClusterTime>, SourceError>>,
{
    let asked = Instant::now();
    let mut limit = None;
    let mut answer = pin!(answer);
    loop {
        if let Ok(answer) = timeout(reply_timeout, &mut answer).await {
            return Ok(answer);
        }
        let now = probe().await?;
        // As of the first look: the stretch that was asked for does not grow, as the time does.
        let limit = *limit
            .get_or_insert_with(|| reply_timeout * STALLED_REPLY_FACTOR + scan_limit(from, now));
        if asked.elapsed() >= limit {
            let message = format!("no reply for {} s", asked.elapsed().as_secs());
            return Err(SourceError::new(Failure::Transient, message));
        }
    }
}

/// How long the scan of the oplog from a time, or from now, to now may take.
fn scan_limit(from: Option<ClusterTime>, now: Option<ClusterTime>) -> Duration {
    // A stretch takes less time to scan than it took to be written, or nobody could ever catch up. There
    // is no other limit: what is given up begins anew at the same place, and takes as long again.
    match (from, now) {
        (None, _) => Duration::ZERO,
        (Some(from), Some(now)) => Duration::from_secs(now.seconds_since(from).into()),
        (Some(_), None) => UNKNOWN_SCAN_LIMIT,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::time::sleep;

    use super::*;

    const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
    const NOW: ClusterTime = ClusterTime {
        seconds: 100_000,
        increment: 0,
    };

    fn ago(seconds: u32) -> ClusterTime {
        ClusterTime {
            seconds: NOW.seconds - seconds,
            increment: 0,
        }
    }

    async fn pong() -> Result<Option<ClusterTime>, SourceError> {
        Ok(Some(NOW))
    }

    /// T29. What is thrown away is begun anew at the same place, and would take as long again.
    #[tokio::test(start_paused = true)]
    async fn a_scan_of_hours_is_waited_for_while_mongodb_is_there() {
        let hours = async |hours: u32| {
            let scan = async {
                sleep(Duration::from_secs(50 * 60)).await;
                "found"
            };
            wait(scan, REPLY_TIMEOUT, Some(ago(hours * 3600)), pong).await
        };
        assert_eq!(hours(1).await.ok(), Some("found"));
        assert_eq!(hours(20).await.ok(), Some("found"));
    }

    /// T29. Nothing of the kind can keep MongoDB from answering where there is next to nothing to scan.
    #[tokio::test(start_paused = true)]
    async fn an_answer_about_what_is_new_is_soon_taken_for_lost() {
        for from in [None, Some(ago(2))] {
            let asked = Instant::now();
            let lost = std::future::pending::<Infallible>();
            let error = wait(lost, REPLY_TIMEOUT, from, pong).await.unwrap_err();
            assert_eq!(error.failure, Failure::Transient);
            assert!(asked.elapsed() < REPLY_TIMEOUT * 5, "{:?}", asked.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_scan_is_given_up_at_once_when_mongodb_does_not_answer_a_ping() {
        let away = async || Err(SourceError::new(Failure::Transient, "away"));
        let asked = Instant::now();
        let lost = std::future::pending::<Infallible>();
        let answer = wait(lost, REPLY_TIMEOUT, Some(ago(3600)), away).await;
        assert_eq!(answer.unwrap_err().failure, Failure::Transient);
        assert_eq!(asked.elapsed(), REPLY_TIMEOUT);
    }
}
