//! The time limit for MongoDB's replies.

use std::{pin::pin, time::Duration};

use bson::doc;
use tokio::time::{Instant, timeout};

use crate::source::{ClusterTime, SourceError, failure::Failure};

use super::{connected::Connected, retry, values::operation_time};

/// The time limit for a reply while MongoDB responds to pings, as a multiple of the reply timeout; the
/// time for an oplog scan comes on top. After that the reply counts as lost.
const STALLED_REPLY_FACTOR: u32 = 3;
/// The time for an oplog scan when MongoDB does not report its time, so that the length of the range to
/// scan is unknown.
const UNKNOWN_SCAN_LIMIT: Duration = Duration::from_secs(600);

/// The time limit for replies, enforced with pings.
///
/// The driver has no timeout for a reply, so a silently dead connection would block the stream forever.
/// A long scan of the oplog looks the same from here; a ping on another connection tells them apart.
#[derive(Clone)]
pub(super) struct ReplyTimeout {
    deployment: Connected,
}

impl ReplyTimeout {
    /// Limits replies by pings of `deployment`, whose connections may be others than those of the replies.
    pub(super) fn new(deployment: Connected) -> Self {
        Self { deployment }
    }

    /// Waits for the reply to a request for which MongoDB scans the oplog from the time `from`, or from
    /// now.
    pub(super) async fn wait<T>(
        &self,
        answer: impl Future<Output = T>,
        from: Option<ClusterTime>,
    ) -> Result<T, SourceError> {
        let reply_timeout = self.deployment.reply_timeout;
        wait(answer, reply_timeout, from, || self.probe()).await
    }

    /// Pings MongoDB on another connection. Returns its operation time, if it reports one.
    async fn probe(&self) -> Result<Option<ClusterTime>, SourceError> {
        let deployment = &self.deployment;
        let ping = || deployment.command(doc! { "ping": 1 });
        // The connection of the ping may have died while it was idle, which says nothing about MongoDB.
        let answer = retry::on_fresh_connection(deployment.retry_limit, ping);
        match timeout(deployment.reply_timeout / 2, answer).await {
            Ok(Ok(pong)) => Ok(operation_time(&pong)),
            Ok(Err(error)) => Err(SourceError::new(Failure::Transient, error.message)),
            Err(_) => Err(SourceError::new(
                Failure::Transient,
                "no reply within --upstream-reply-timeout, and none to a ping",
            )),
        }
    }
}

/// Waits for `answer` as long as `probe` succeeds, and no longer than an oplog scan may take.
async fn wait<T, P>(
    answer: impl Future<Output = T>,
    reply_timeout: Duration,
    from: Option<ClusterTime>,
    probe: impl Fn() -> P,
) -> Result<T, SourceError>
where
    P: Future<Output = Result<Option<ClusterTime>, SourceError>>,
{
    let requested_at = Instant::now();
    let mut limit = None;
    let mut answer = pin!(answer);
    loop {
        if let Ok(answer) = timeout(reply_timeout, &mut answer).await {
            return Ok(answer);
        }
        let now = probe().await?;
        // From the first probe's time: the requested oplog range does not grow with time.
        let limit = *limit
            .get_or_insert_with(|| reply_timeout * STALLED_REPLY_FACTOR + scan_limit(from, now));
        if requested_at.elapsed() >= limit {
            let message = format!("no reply for {} s", requested_at.elapsed().as_secs());
            return Err(SourceError::new(Failure::Transient, message));
        }
    }
}

/// Returns the time limit for the oplog scan from `from`, or from now, to `now`.
fn scan_limit(from: Option<ClusterTime>, now: Option<ClusterTime>) -> Duration {
    // A range of the oplog takes less time to scan than it took to write, or nobody could ever catch up.
    // No shorter limit makes sense: a scan that is given up starts again at the same position and takes
    // as long again.
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

    /// A scan that is given up would start again at the same position and take as long again.
    #[tokio::test(start_paused = true)]
    async fn a_scan_of_hours_is_awaited_while_mongodb_answers_pings() {
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

    /// With almost nothing to scan, MongoDB has no reason to reply late.
    #[tokio::test(start_paused = true)]
    async fn a_reply_that_needs_no_scan_soon_counts_as_lost() {
        for from in [None, Some(ago(2))] {
            let requested_at = Instant::now();
            let lost = std::future::pending::<Infallible>();
            let error = wait(lost, REPLY_TIMEOUT, from, pong).await.unwrap_err();
            assert_eq!(error.failure, Failure::Transient);
            assert!(
                requested_at.elapsed() < REPLY_TIMEOUT * 5,
                "{:?}",
                requested_at.elapsed()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_scan_is_given_up_at_once_when_mongodb_does_not_answer_a_ping() {
        let away = async || Err(SourceError::new(Failure::Transient, "away"));
        let requested_at = Instant::now();
        let lost = std::future::pending::<Infallible>();
        let answer = wait(lost, REPLY_TIMEOUT, Some(ago(3600)), away).await;
        assert_eq!(answer.unwrap_err().failure, Failure::Transient);
        assert_eq!(requested_at.elapsed(), REPLY_TIMEOUT);
    }
}
