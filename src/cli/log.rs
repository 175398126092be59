//! The process's own log.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

use crate::config::{LogConfig, LogFormat};

/// What holds unless a directive names rustls: it warns of what it finds odd in a handshake, in words of the
/// client's choice, with which anybody could fill the log.
const UNLESS_TOLD: &str = "rustls=error";

/// Sets up logging to stderr.
///
/// # Errors
/// When the directives can't be read.
pub fn init(config: &LogConfig) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(format!("{UNLESS_TOLD},{}", config.log_level))?;
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
