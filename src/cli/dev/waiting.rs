//! Says what the demo waits for, so that silence does not look like work.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::cli::watch::print_notice;

/// The time between two notices.
const INTERVAL: Duration = Duration::from_secs(5);

/// A wait for a database.
pub(super) struct Waiting {
    /// What is waited for: "MongoDB at mongodb://localhost:27017".
    what: String,
    /// What a person can do about it.
    advice: &'static str,
    limit: Duration,
    /// The wall clock at the start, to be compared with other logs.
    since: SystemTime,
    deadline: Instant,
    next_notice: Instant,
}

impl Waiting {
    /// Begins to wait for at most `limit`. The first notice comes with the first problem that lasts for
    /// `patience`.
    pub fn new(what: String, advice: &'static str, limit: Duration, patience: Duration) -> Waiting {
        let now = Instant::now();
        Waiting {
            what,
            advice,
            limit,
            since: SystemTime::now(),
            deadline: now + limit,
            next_notice: now + patience,
        }
    }

    /// Notes that it is not ready yet, and tells the user from time to time.
    ///
    /// # Errors
    /// The time is over. Returns the message for the user.
    pub fn not_ready(&mut self, why: &str) -> Result<(), String> {
        let now = Instant::now();
        if now >= self.deadline {
            return Err(format!(
                "it was not ready within {} s: {why}{}",
                self.limit.as_secs(),
                self.advice
            ));
        }
        if now >= self.next_notice {
            self.next_notice = now + INTERVAL;
            print_notice(&self.notice(why));
        }
        Ok(())
    }

    fn notice(&self, why: &str) -> String {
        format!(
            "waiting for {} since {}, for at most {} s: {why}{}; Ctrl-C ends this",
            self.what,
            humantime::format_rfc3339_seconds(self.since),
            self.limit.as_secs(),
            self.advice
        )
    }
}

/// Returns a connection string without what may be secret or long: the scheme and the hosts.
pub(super) fn without_secrets(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("mongodb", uri));
    // A password may contain any of the other separators if it was not encoded, but a host has no @.
    let hosts = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
    let hosts = hosts.split(['/', '?']).next().unwrap_or_default();
    let text = format!("{scheme}://{hosts}");
    crate::cli::watch::escape_controls(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_shown_without_its_password_and_options() {
        for (uri, shown) in [
            ("mongodb://localhost:27017", "mongodb://localhost:27017"),
            (
                "mongodb://user:pw@a:1,b:2/db?replicaSet=rs0",
                "mongodb://a:1,b:2",
            ),
            (
                "mongodb+srv://user:p@ss/word?x@cluster.example/?tls=true",
                "mongodb+srv://cluster.example",
            ),
            ("localhost/?a=b", "mongodb://localhost"),
            ("mongodb://a\u{1b}[2J", "mongodb://a\\u{1b}[2J"),
        ] {
            assert_eq!(without_secrets(uri), shown, "{uri}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn notices_come_at_intervals_until_the_time_is_over() {
        let mut waiting = Waiting::new(
            "MongoDB at mongodb://a".to_owned(),
            ". Start it",
            Duration::from_secs(30),
            Duration::ZERO,
        );
        let mut notices = 0;
        let error = loop {
            let due = Instant::now() >= waiting.next_notice;
            match waiting.not_ready("a:27017 does not answer") {
                Ok(()) => notices += u32::from(due),
                Err(error) => break error,
            }
            assert!(waiting.next_notice > Instant::now());
            tokio::time::advance(Duration::from_secs(1)).await;
        };
        assert_eq!(notices, 6);
        assert_eq!(
            error,
            "it was not ready within 30 s: a:27017 does not answer. Start it"
        );
        let notice = waiting.notice("why");
        assert!(
            notice.starts_with("waiting for MongoDB at mongodb://a since 20"),
            "{notice}"
        );
        assert!(
            notice.ends_with("Z, for at most 30 s: why. Start it; Ctrl-C ends this"),
            "{notice}"
        );
    }
}
