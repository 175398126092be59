//! Limits for each principal and for all principals together.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::checks::{ConfigError, check_bytes, check_count, check_duration};
use crate::policy::Limits;

/// Limits for each principal and for the server; 0 means no limit. A rule of the policy may set limits for
/// a principal.
#[derive(Debug, Clone, Args)]
pub struct LimitsConfig {
    /// Maximum number of open watches of one principal, 0 to 1000000; 0: only --max-watches applies
    #[arg(
        long,
        env = "WEIR_MAX_WATCHES_PER_PRINCIPAL",
        value_name = "COUNT",
        default_value_t = 0
    )]
    pub max_watches_per_principal: usize,

    /// Maximum number of watches that one principal opens per second, averaged over 10 seconds, 0 to 100000;
    /// 0: no limit
    #[arg(
        long,
        env = "WEIR_WATCH_RATE_PER_PRINCIPAL",
        value_name = "COUNT",
        default_value_t = 0
    )]
    pub watch_rate_per_principal: u32,

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
    /// Returns the limits of one principal; 0 means no limit.
    pub(super) fn each_principal(&self) -> Limits {
        Limits {
            watches: Some(self.max_watches_per_principal),
            watch_rate: Some(self.watch_rate_per_principal),
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
            self.max_watches_per_principal,
            0,
            1_000_000,
        )?;
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let principal = count(self.watch_rate_per_principal);
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
