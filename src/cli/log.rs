//! The log of the process.

use std::io::IsTerminal as _;

use tracing_subscriber::{
    Layer as _, Registry, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    admin::LogLevel,
    config::{LogConfig, LogFormat},
};

/// Sets up logging to stderr. Returns the handle that changes its level.
///
/// # Errors
/// A message, if `--log-level` can't be parsed.
pub fn init(config: &LogConfig) -> Result<LogLevel, String> {
    let (filter, level) = LogLevel::new(&config.log_level)?;
    let json = match config.log_format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let log = fmt::layer().with_writer(std::io::stderr);
    let log = if json {
        log.json().flatten_event(true).boxed()
    } else {
        log.with_target(false).boxed()
    };
    let registry = Registry::default().with(log.with_filter(filter));
    // If the process already has a log, that one stays.
    Ok(match registry.try_init() {
        Ok(()) => level,
        Err(_) => LogLevel::unmanaged(),
    })
}
