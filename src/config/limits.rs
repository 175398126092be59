//! What one caller may take, and for how long.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::{ConfigError, check_bytes, check_count, check_duration};
use crate::policy::Limits;

/// Limits for each principal and for the server; 0 is none. A rule of the policy may set a principal's
/// own.
#[derive(Debug, Clone, Args)]
pub struct LimitsConfig {
    /// How many watches one principal may have open at once, 0 to 1000000; 0: as many as the server
    #[arg(
        long,
        env = "WEIR_MAX_WATCHES_PER_PRINCIPAL",
        value_name = "COUNT",
        default_value_t = 0
    )]
    pub max_watches_per_principal: usize,

    /// How many watches one principal may open a second, on average over ten, 0 to 100000; 0: no limit
    #[arg(
        long,
        env = "WEIR_WATCH_RATE_PER_PRINCIPAL",
        value_name = "COUNT",
        default_value_t = 0
    )]
    pub watch_rate_per_principal: u32,

    /// How many watches all together may open a second, on average over ten, 0 to 1000000; 0: no limit
    #[arg(
        long,
        env = "WEIR_WATCH_RATE",
        value_name = "COUNT",
        default_value_t = 0
    )]
    pub watch_rate: u32,

    /// How many bytes a second one principal's watches are sent together, 0 or 64KiB to 1TiB; 0: no
    /// limit. Watches beyond it are slowed down, and lose nothing; new ones wait their turn
    #[arg(
        long,
        env = "WEIR_BYTE_RATE_PER_PRINCIPAL",
        value_name = "BYTES",
        default_value = "0"
    )]
    pub byte_rate_per_principal: ByteSize,

    /// How many bytes a second all watches are sent together, 0 or 64KiB to 1TiB; 0: no limit
    #[arg(
        long,
        env = "WEIR_BYTE_RATE",
        value_name = "BYTES",
        default_value = "0"
    )]
    pub byte_rate: ByteSize,

    /// How old a watch may become before it is asked to go on elsewhere, 0s or 1s to 30d; each ends at a
    /// moment of its own in the last fifth of that. 0s: as old as it likes
    #[arg(long, env = "WEIR_WATCH_MAX_AGE", value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub watch_max_age: Duration,
}

impl LimitsConfig {
    /// What one principal may take; 0 is none.
    pub(super) fn each_principal(&self) -> Limits {
        Limits {
            watches: Some(self.max_watches_per_principal),
            watch_rate: Some(self.watch_rate_per_principal),
            byte_rate: Some(self.byte_rate_per_principal.as_u64()),
            ..Limits::default()
        }
    }

    /// What all may take together; 0 is none.
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
