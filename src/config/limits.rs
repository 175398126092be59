//! Limits for each principal and for all principals together.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::checks::{ConfigError, check_bytes, check_count, check_duration};
use crate::policy::Limits;

/// One principal may have one of this many parts of all watches, unless a flag says otherwise.
const SHARE_OF_WATCHES: usize = 2;
/// The rate of new watches of one principal is such that it may open all of its watches within this time. That is the
/// time over which the rate is averaged, so they may all come at once.
const SECONDS_TO_OPEN_ALL: usize = 10;

/// Limits for each principal and for the server; 0 means no limit. A rule of the policy may set limits for
/// a principal.
#[derive(Debug, Clone, Args)]
pub struct LimitsConfig {
    /// Maximum number of open watches of one principal, 0 to 1000000; 0: only --max-watches applies. By default no
    /// principal can take the places of all others; without authentication, all callers are one principal and have
    /// no such limit [default: half of --max-watches, with authentication]
    #[arg(long, env = "WEIR_MAX_WATCHES_PER_PRINCIPAL", value_name = "COUNT")]
    pub max_watches_per_principal: Option<usize>,

    /// Maximum number of watches that one principal opens per second, averaged over 10 seconds, 0 to 100000;
    /// 0: no limit. By default a principal may open all of its watches at once, as after a restart, but not again and
    /// again [default: a tenth of its watches, with authentication]
    #[arg(long, env = "WEIR_WATCH_RATE_PER_PRINCIPAL", value_name = "COUNT")]
    pub watch_rate_per_principal: Option<u32>,

    /// Maximum number of watches that all principals together open per second, averaged over 10 seconds, 0 to
    /// 1000000; 0: no limit
    #[arg(
        long,
        env = "WEIR_WATCH_RATE",
        value_name = "COUNT",
        default_value_t = 0
    )]
    pub watch_rate: u32,

    /// Maximum number of bytes per second sent to all watches of one principal together, 64KiB to 1TiB; 0: no
    /// limit. Faster watches are slowed down and lose no events; new ones wait
    #[arg(
        long,
        env = "WEIR_BYTE_RATE_PER_PRINCIPAL",
        value_name = "BYTES",
        default_value = "0"
    )]
    pub byte_rate_per_principal: ByteSize,

    /// Maximum number of bytes per second sent to all watches together, 64KiB to 1TiB; 0: no limit
    #[arg(
        long,
        env = "WEIR_BYTE_RATE",
        value_name = "BYTES",
        default_value = "0"
    )]
    pub byte_rate: ByteSize,

    /// The age at which a watch ends, so that the client resumes it on another replica, 1s to 30d; 0s: no
    /// limit. Each watch ends at a random time in the last fifth of it
    #[arg(long, env = "WEIR_WATCH_MAX_AGE", value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub watch_max_age: Duration,
}

impl LimitsConfig {
    /// Returns the limits of one principal of a server with `max_watches`; 0 means no limit. Only what authentication
    /// tells apart has limits by default.
    pub(super) fn each_principal(&self, max_watches: usize, authentication: bool) -> Limits {
        let half = authentication.then(|| max_watches.div_ceil(SHARE_OF_WATCHES));
        let watches = self.max_watches_per_principal.or(half).unwrap_or_default();
        let most = if watches == 0 { max_watches } else { watches };
        let rate = u32::try_from(most.div_ceil(SECONDS_TO_OPEN_ALL)).unwrap_or(u32::MAX);
        let rate = authentication.then_some(rate);
        let watch_rate = self.watch_rate_per_principal.or(rate).unwrap_or_default();
        Limits {
            watches: Some(watches),
            watch_rate: Some(watch_rate),
            byte_rate: Some(self.byte_rate_per_principal.as_u64()),
            ..Limits::default()
        }
    }

    /// Returns the limits of all principals together; 0 means no limit.
    pub(super) fn all_principals(&self) -> Limits {
        Limits {
            watch_rate: Some(self.watch_rate),
            byte_rate: Some(self.byte_rate.as_u64()),
            ..Limits::default()
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        check_count(
            "max-watches-per-principal",
            self.max_watches_per_principal.unwrap_or_default(),
            0,
            1_000_000,
        )?;
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let principal = count(self.watch_rate_per_principal.unwrap_or_default());
        check_count("watch-rate-per-principal", principal, 0, 100_000)?;
        check_count("watch-rate", count(self.watch_rate), 0, 1_000_000)?;
        for (flag, rate) in [
            ("byte-rate-per-principal", self.byte_rate_per_principal),
            ("byte-rate", self.byte_rate),
        ] {
            if rate.as_u64() > 0 {
                check_bytes(flag, rate, ByteSize::kib(64), ByteSize::tib(1))?;
            }
        }
        if self.watch_max_age.is_zero() {
            return Ok(());
        }
        let second = Duration::from_secs(1);
        let month = 30 * 86_400 * second;
        check_duration("watch-max-age", self.watch_max_age, second, month)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServeConfig;

    /// Returns the watches and the rate of each principal.
    fn limits(change: impl FnOnce(&mut LimitsConfig), authentication: bool) -> (usize, u32) {
        let mut config = ServeConfig::for_uri("mongodb://x").limits;
        change(&mut config);
        let limits = config.each_principal(10_000, authentication);
        (
            limits.watches.unwrap_or_default(),
            limits.watch_rate.unwrap_or_default(),
        )
    }

    #[test]
    fn by_default_a_principal_has_half_of_the_watches_and_may_open_them_at_once() {
        assert_eq!(limits(|_| {}, true), (5_000, 500));
        // All callers are one then.
        assert_eq!(limits(|_| {}, false), (0, 0));
        let of = |watches, rate| {
            move |config: &mut LimitsConfig| {
                config.max_watches_per_principal = watches;
                config.watch_rate_per_principal = rate;
            }
        };
        assert_eq!(limits(of(Some(0), None), true), (0, 1_000));
        assert_eq!(limits(of(Some(25), None), true), (25, 3));
        assert_eq!(limits(of(None, Some(0)), true), (5_000, 0));
        assert_eq!(limits(of(Some(7), Some(9)), false), (7, 9));
    }
}
