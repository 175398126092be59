//! Idle connections that died without notice: a firewall has forgotten them, or a host has lost its power.
//! What is sent on one is lost, and no error comes.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use mongodb::{event::cmap::CmapEvent, options::ServerAddress};
use tokio::time::{Instant, timeout};

use crate::source::{Failure, SourceError};

/// The least time that the other connections get once one has answered.
const MIN_GRACE: Duration = Duration::from_millis(250);

/// The connections of the driver's pools that no command uses. The driver tells of them and offers no way to
/// close them.
#[derive(Debug, Default)]
pub(super) struct IdleConnections {
    /// Each of them, and each that is being made, by its host and its number. No count of events would do: where
    /// the caller goes away while its connection is made, the driver (mongodb 3.9.1, `cmap.rs`) tells of the
    /// check-in alone.
    idle: Mutex<HashSet<(ServerAddress, u32)>>,
    last: tokio::sync::Mutex<Option<Check>>,
}

/// A check that has ended.
#[derive(Debug, Clone, Copy)]
struct Check {
    ended_at: Instant,
    /// `true` if a ping was answered.
    answered: bool,
}

impl IdleConnections {
    /// Takes note of an event of a pool.
    pub fn observe(&self, event: &CmapEvent) {
        let (address, number, is_idle) = match event {
            CmapEvent::ConnectionCreated(it) => (&it.address, it.connection_id, true),
            CmapEvent::ConnectionCheckedIn(it) => (&it.address, it.connection_id, true),
            CmapEvent::ConnectionCheckedOut(it) => (&it.address, it.connection_id, false),
            CmapEvent::ConnectionClosed(it) => (&it.address, it.connection_id, false),
            CmapEvent::PoolClosed(it) => {
                self.set().retain(|(address, _)| *address != it.address);
                return;
            }
            _ => return,
        };
        let connection = (address.clone(), number);
        if is_idle {
            self.set().insert(connection);
        } else {
            self.set().remove(&connection);
        }
    }

    fn set(&self) -> MutexGuard<'_, HashSet<(ServerAddress, u32)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pings on each idle connection at once, and on a new one. Once one has answered, those that stay silent
    /// are closed, as the driver does with a connection whose command is dropped. While none answers, MongoDB
    /// may be slow, and none is closed before `limit`. A check that has ended after `since` serves this call
    /// too, and for the time `limit` after a failed one there is no other, so that a slow MongoDB is not asked
    /// more and more.
    ///
    /// # Errors
    /// If no ping succeeds within `limit`.
    pub async fn check<F>(
        &self,
        since: Instant,
        limit: Duration,
        ping: impl Fn() -> F,
    ) -> Result<(), SourceError>
    where
        F: Future<Output = Result<(), SourceError>>,
    {
        let mut last = self.last.lock().await;
        match *last {
            Some(Check {
                ended_at,
                answered: true,
            }) if ended_at > since => return Ok(()),
            Some(Check {
                ended_at,
                answered: false,
            }) if ended_at.elapsed() < limit => {
                return Err(no_answer());
            }
            _ => {}
        }
        let silent = self.ping_all(limit, ping).await;
        let answered = silent.is_some();
        if let Some(silent @ 1..) = silent {
            tracing::info!(silent, "closing connections to mongodb that died silently");
        }
        *last = Some(Check {
            ended_at: Instant::now(),
            answered,
        });
        if answered { Ok(()) } else { Err(no_answer()) }
    }

    /// Returns the number of idle connections that stay silent; `None` if no ping is answered.
    async fn ping_all<F>(&self, limit: Duration, ping: impl Fn() -> F) -> Option<usize>
    where
        F: Future<Output = Result<(), SourceError>>,
    {
        let begin = Instant::now();
        let idle = self.set().len();
        // The driver serves them in order, and those in front by the idle connections.
        let ping = |number| {
            let ping = ping();
            async move { (number < idle, ping.await.is_ok()) }
        };
        let mut pings: FuturesUnordered<_> = (0..=idle).map(ping).collect();
        let mut silent = idle;
        let first = async {
            while let Some((is_idle, is_answered)) = pings.next().await {
                silent -= usize::from(is_idle);
                if is_answered {
                    return true;
                }
            }
            false
        };
        if !timeout(limit, first).await.unwrap_or(false) {
            return None;
        }
        let grace = begin.elapsed() * 2 + MIN_GRACE;
        let others = async {
            while let Some((is_idle, _)) = pings.next().await {
                silent -= usize::from(is_idle);
            }
        };
        // Ignored: those that are left are dead, or a new one takes long to be made.
        let _ = timeout(grace, others).await;
        Some(silent)
    }
}

fn no_answer() -> SourceError {
    SourceError::new(
        Failure::Transient,
        "no connection to mongodb answers a ping",
    )
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::pending};

    use serde_json::{from_value, json};
    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const ROUND_TRIP: Duration = Duration::from_millis(20);

    /// Returns the event of a connection as the driver tells it.
    fn event(name: &str, number: u32) -> CmapEvent {
        let fields = json!({ "connectionId": number, "reason": "dropped" });
        let built = match name {
            "created" => from_value(fields).map(CmapEvent::ConnectionCreated),
            "checked out" => from_value(fields).map(CmapEvent::ConnectionCheckedOut),
            "checked in" => from_value(fields).map(CmapEvent::ConnectionCheckedIn),
            _ => from_value(fields).map(CmapEvent::ConnectionClosed),
        };
        built.expect("an event of the driver")
    }

    fn tell(idle: &IdleConnections, number: u32, names: &[&str]) {
        for name in names {
            idle.observe(&event(name, number));
        }
    }

    fn with_idle(count: usize) -> IdleConnections {
        let idle = IdleConnections::default();
        for number in (1..).take(count) {
            tell(&idle, number, &["created", "checked out", "checked in"]);
        }
        tell(&idle, 1001, &["created", "checked out"]);
        tell(&idle, 1002, &["created", "closed"]);
        idle
    }

    /// Of these idle connections and a new one, the first `dead` stay silent. Returns the number of pings.
    async fn check(idle: &IdleConnections, dead: usize, since: Instant) -> usize {
        let pings = Cell::new(0);
        let ping = || {
            let number = pings.replace(pings.get() + 1);
            async move {
                if number < dead {
                    pending::<()>().await;
                }
                sleep(ROUND_TRIP).await;
                Ok(())
            }
        };
        let checked = idle.check(since, LIMIT, ping).await;
        assert!(checked.is_ok());
        pings.get()
    }

    #[tokio::test(start_paused = true)]
    async fn each_idle_connection_is_pinged_and_a_new_one() {
        for count in [0, 1, 8] {
            let idle = with_idle(count);
            let begin = Instant::now();
            assert_eq!(check(&idle, count, begin).await, count + 1);
            assert!(begin.elapsed() <= ROUND_TRIP * 3 + MIN_GRACE);
        }
    }

    /// What the driver tells of a connection whose caller goes away while it is made, and of one that is
    /// closed because its command was dropped.
    #[test]
    fn connections_of_callers_that_went_away_are_counted_once() {
        let idle = with_idle(0);
        for number in (1..).take(100) {
            tell(&idle, number, &["created", "checked in"]);
            assert_eq!(idle.set().len(), 1);
            tell(&idle, number, &["checked out", "checked in", "closed"]);
            assert_eq!(idle.set().len(), 0);
        }
    }

    /// A new connection may take long to be made, which says nothing about the idle ones.
    #[tokio::test(start_paused = true)]
    async fn only_idle_connections_count_as_silent() {
        for (dead, handshake) in [(0, 0), (0, 3), (2, 0), (2, 3)] {
            let idle = with_idle(4);
            let pings = Cell::new(0);
            let ping = || {
                let number = pings.replace(pings.get() + 1);
                async move {
                    if number < dead {
                        pending::<()>().await;
                    }
                    let is_new = number == 4;
                    sleep(if is_new {
                        LIMIT * handshake
                    } else {
                        ROUND_TRIP
                    })
                    .await;
                    Ok(())
                }
            };
            assert_eq!(idle.ping_all(LIMIT, ping).await, Some(dead));
        }
    }

    /// Of many calls that meet dead connections, one does the work.
    #[tokio::test(start_paused = true)]
    async fn a_check_serves_all_that_began_before_its_end() {
        let idle = with_idle(4);
        let begin = Instant::now();
        let (one, other) = tokio::join!(check(&idle, 2, begin), check(&idle, 0, begin));
        assert_eq!((one, other), (5, 0));
        sleep(ROUND_TRIP).await;
        assert_eq!(check(&idle, 0, Instant::now()).await, 5);
    }

    /// Nothing is known then, and nothing is closed; and it is not asked again at once.
    #[tokio::test(start_paused = true)]
    async fn a_mongodb_that_does_not_answer_is_asked_once_in_a_while() {
        let idle = with_idle(2);
        let begin = Instant::now();
        let silent = || pending::<Result<(), SourceError>>();
        assert!(idle.check(begin, LIMIT, silent).await.is_err());
        assert_eq!(begin.elapsed(), LIMIT);
        let never = || async { unreachable!("a check has just failed") };
        assert!(idle.check(Instant::now(), LIMIT, never).await.is_err());
        sleep(LIMIT).await;
        let failing = || async { Err(SourceError::new(Failure::Transient, "away")) };
        assert!(idle.check(Instant::now(), LIMIT, failing).await.is_err());
        sleep(LIMIT).await;
        assert_eq!(check(&idle, 0, Instant::now()).await, 3);
    }
}
