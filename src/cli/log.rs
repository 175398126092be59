//! The process's own log.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

use crate::config::{LogConfig, LogFormat};

/// Sets up logging to stderr.
///
/// # Errors
/// When the directives can't be read.
pub fn init(config: &LogConfig) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(&config.log_level)?;
    let json = match config.log_format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A log that someone else set up already stays.
    let _ = if json {
        log.json().flatten_event(true).try_init()
    } else {
        log.with_target(false).try_init()
    };
    Ok(())
}
