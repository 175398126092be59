//! Whether MongoDB still has the history that a position needs.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    hub::stream::scan::Scan,
    pipeline::Plan,
    source::{BatchSize, ClusterTime, Failure, Position, Source, SourceError},
};

/// The time limit for the reading that shows whether the history is there.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks that the oplog still holds a time. MongoDB rejects a time before the oplog's oldest entry, but
/// some compatible servers start at their oldest entry instead, which would lose events. Where the oplog
/// cannot be read, the server is trusted.
pub(super) async fn ensure_in_oplog(source: &dyn Source, at: &Position) -> Result<(), SourceError> {
    match source.oldest_time().await? {
        Some(oldest) if at.time() < oldest => Err(SourceError::new(
            Failure::HistoryLost,
            format!(
                "{} is older than the oldest oplog entry, {oldest}",
                at.time()
            ),
        )),
        _ => Ok(()),
    }
}

/// Returns whether MongoDB still has the history since a time: a stream of `plan`'s events without documents
/// can be read from it on.
///
/// # Errors
/// One that passes by itself.
pub(super) async fn has_history_since(
    source: &dyn Source,
    plan: &Plan,
    time: ClusterTime,
) -> Result<bool, SourceError> {
    let plan = plan.identity_only();
    let at = Position::Time(time);
    let read = async {
        let mut scan = Scan::open(source, &plan, &at, BatchSize::One).await?;
        scan.next().await
    };
    match timeout(READ_TIMEOUT, read).await {
        Ok(Err(error)) if error.failure.is_passing() => Err(error),
        Ok(Err(_)) => Ok(false),
        // Without an answer, MongoDB scans what it has.
        Ok(Ok(_)) | Err(_) => Ok(true),
    }
}
