//! Further attempts of a call whose connection turned out to be dead.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::source::{SourceError, failure::FailedAt};

/// The maximum number of attempts. After a network error the driver clears its pool, so that one further
/// attempt is enough for a single call. Of calls at the same time, some may meet the pool while it is
/// cleared, or a connection that was made right before a restart of the server.
const MAX_ATTEMPTS: u32 = 4;

/// The pause before the second attempt; it doubles with each. The next attempt waits by itself, until the
/// driver has found a usable server.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Makes attempts until one succeeds or fails in another way than by a dead connection, at most
/// [`MAX_ATTEMPTS`]. None begins after `limit`. A caller that has waited long enough drops the future.
pub(super) async fn on_fresh_connection<T, F>(
    limit: Duration,
    attempt: impl Fn() -> F,
) -> Result<T, SourceError>
where
    F: Future<Output = Result<T, SourceError>>,
{
    let begin = Instant::now();
    let mut pause = FIRST_PAUSE;
    for _ in 1..MAX_ATTEMPTS {
        let error = match attempt().await {
            Err(error)
                if error.failed_at == FailedAt::Connection && begin.elapsed() + pause < limit =>
            {
                error
            }
            result => return result,
        };
        tracing::debug!(%error, "a connection to mongodb was lost; trying another one");
        sleep(pause).await;
        pause *= 2;
    }
    attempt().await
}

/// Runs a command, and once more if the server steps down or shuts down, so that the driver looks for
/// another one. The driver does that for the reads that it knows, such as `find`, and for no other command.
pub(super) async fn on_another_server<T, F>(command: impl Fn() -> F) -> Result<T, SourceError>
where
    F: Future<Output = Result<T, SourceError>>,
{
    match command().await {
        Err(error) if is_state_change(&error) => {
            tracing::debug!(code = error.code, %error, "a mongodb server steps down; trying another one");
            command().await
        }
        result => result,
    }
}

/// Returns whether the error is a state-change error of the drivers' specification of server discovery:
/// `NotWritablePrimary`, `NotPrimaryNoSecondaryOk`, `NotPrimaryOrSecondary`, `PrimarySteppedDown`,
/// `InterruptedDueToReplStateChange`, `InterruptedAtShutdown`, `ShutdownInProgress`.
fn is_state_change(error: &SourceError) -> bool {
    matches!(
        error.code,
        Some(10107 | 13435 | 13436 | 189 | 11602 | 11600 | 91)
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::source::Failure;

    const LIMIT: Duration = Duration::from_secs(5);

    fn lost() -> SourceError {
        SourceError::new(Failure::Transient, "reset").at(FailedAt::Connection)
    }

    fn with_code(code: i32) -> SourceError {
        let mut error = SourceError::new(Failure::Transient, "refused");
        error.code = Some(code);
        error
    }

    /// Runs the call with an attempt that fails this many times, each after `time`. Returns the result and
    /// the number of attempts.
    async fn run(
        failures: u32,
        error: SourceError,
        time: Duration,
    ) -> (Result<(), SourceError>, u32) {
        let attempts = Cell::new(0);
        let attempt = || async {
            attempts.set(attempts.get() + 1);
            sleep(time).await;
            if attempts.get() > failures {
                Ok(())
            } else {
                Err(error.clone())
            }
        };
        let result = on_fresh_connection(LIMIT, attempt).await;
        (result, attempts.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_is_replaced_a_few_times() {
        for failures in 0..MAX_ATTEMPTS {
            let (result, attempts) = run(failures, lost(), Duration::ZERO).await;
            assert!(result.is_ok(), "{failures} failures");
            assert_eq!(attempts, failures + 1);
        }
        let (result, attempts) = run(u32::MAX, lost(), Duration::ZERO).await;
        assert!(result.is_err());
        assert_eq!(attempts, MAX_ATTEMPTS);
    }

    #[tokio::test(start_paused = true)]
    async fn no_other_error_is_repeated() {
        let no_server =
            SourceError::new(Failure::Transient, "no server").at(FailedAt::ServerSelection);
        let history_lost = SourceError::new(Failure::HistoryLost, "too old");
        for error in [history_lost, no_server, with_code(43), with_code(10107)] {
            let (result, attempts) = run(1, error.clone(), Duration::ZERO).await;
            assert!(result.is_err(), "{error:?}");
            assert_eq!(attempts, 1, "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_command_survives_one_election_and_no_second() {
        for (failures, error, expected) in [
            (1, with_code(10107), (true, 2)),
            (2, with_code(91), (false, 2)),
            (1, with_code(43), (false, 1)),
            (1, lost(), (false, 1)),
        ] {
            let attempts = Cell::new(0);
            let command = || async {
                attempts.set(attempts.get() + 1);
                if attempts.get() > failures {
                    Ok(())
                } else {
                    Err(error.clone())
                }
            };
            let result = on_another_server(command).await;
            assert_eq!((result.is_ok(), attempts.get()), expected, "{error:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_attempt_begins_after_the_limit() {
        let (result, attempts) = run(u32::MAX, lost(), LIMIT).await;
        assert!(result.is_err());
        assert_eq!(attempts, 1);
        let (_, attempts) = run(u32::MAX, lost(), LIMIT / 2).await;
        assert_eq!(attempts, 2);
    }
}
