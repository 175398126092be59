//! Waiting with a limit.

use std::time::Duration;

use tokio::time::Instant;

/// The time that a test waits for anything before it fails. Generous, because machines that run
/// tests are often busy; a passing test never waits this long.
pub const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// The interval at which [`eventually`] checks its condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds; panics with `what` when it doesn't within [`WAIT_LIMIT`].
///
/// ```ignore
/// eventually("the cursors are gone", async || database.open_cursors().await == 0).await;
/// ```
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WAIT_LIMIT;
    while !within(what, condition()).await {
        assert!(
            Instant::now() < deadline,
            "not true within {WAIT_LIMIT:?}: {what}"
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Awaits `future`; panics with `what` when it takes longer than [`WAIT_LIMIT`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT_LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("not finished within {WAIT_LIMIT:?}: {what}"))
}
