//! The log level of the process, which can be changed while it runs.

use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::{EnvFilter, Registry, reload};

/// The maximum length of the directives, in bytes.
pub const MAX_DIRECTIVES: usize = 4 << 10;

/// Applies unless a directive names rustls. rustls warns about odd handshakes with text chosen by the
/// client, which would let anybody fill the log.
const DEFAULT_DIRECTIVES: &str = "rustls=error";

/// The log level of the process.
///
/// A server in a test or in `weir dev` does not own the log of its process: its [`LogLevel`] is
/// [`LogLevel::unmanaged`].
#[derive(Debug, Clone)]
pub struct LogLevel(Option<Arc<Managed>>);

#[derive(Debug)]
struct Managed {
    handle: reload::Handle<EnvFilter, Registry>,
    directives: Mutex<String>,
}

/// Parses directives such as `info,weir::hub=debug`.
///
/// # Errors
/// Fails if the directives are not valid. A single word that is not a level is rejected too: the filter would
/// take it for a module, but it is most often a misspelled level.
pub fn parse_directives(directives: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    if directives.trim().is_empty() {
        return Err(
            "the directives are empty: use a level, such as info, or MODULE=LEVEL".to_owned(),
        );
    }
    for directive in directives.split(',').map(str::trim) {
        // The value of a field may contain a comma; the filter itself checks what is in brackets.
        if !directive.contains(['=', '[', ']', '{', '}']) && !is_level(directive) {
            return Err(format!(
                "unknown level {directive:?}: use one of {}, or MODULE=LEVEL such as weir::hub=debug",
                LEVELS.join(", ")
            ));
        }
    }
    let directives = format!("{DEFAULT_DIRECTIVES},{directives}");
    EnvFilter::try_new(directives)
        .map_err(|error| format!("{error}: use a level, or MODULE=LEVEL such as weir::hub=debug"))
}

impl LogLevel {
    /// Creates the log level of a process whose log this server does not own.
    #[must_use]
    pub fn unmanaged() -> Self {
        Self(None)
    }

    /// Returns a filter layer that follows the log level, and the log level.
    ///
    /// # Errors
    /// Fails if the directives are not valid.
    pub fn new(directives: &str) -> Result<(reload::Layer<EnvFilter, Registry>, Self), String> {
        let (layer, handle) = reload::Layer::new(parse_directives(directives)?);
        let managed = Managed {
            handle,
            directives: Mutex::new(directives.trim().to_owned()),
        };
        Ok((layer, Self(Some(Arc::new(managed)))))
    }

    /// Returns the directives in force; `None` if the log is not managed.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        let managed = self.0.as_ref()?;
        let directives = managed.directives.lock();
        Some(
            directives
                .unwrap_or_else(PoisonError::into_inner)
                .to_string(),
        )
    }

    /// Puts directives in force until the next change or the end of the process.
    ///
    /// # Errors
    /// Fails if the directives are not valid, or the log is not managed.
    pub fn set(&self, directives: &str) -> Result<(), String> {
        let managed = self
            .0
            .as_ref()
            .ok_or("this server does not manage the log of its process: only weir serve does")?;
        let directives = directives.trim();
        let filter = parse_directives(directives)?;
        // Locked until the end, so that text and filter agree.
        let mut in_force = managed
            .directives
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Logged if the previous or the new filter lets it pass.
        tracing::info!(from = *in_force, to = directives, "changing the log level");
        managed
            .handle
            .reload(filter)
            .map_err(|error| error.to_string())?;
        directives.clone_into(&mut in_force);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_parsed_and_misspelled_ones_rejected() {
        for good in [
            "info",
            "INFO",
            "off",
            "info,weir::hub=debug",
            "weir[watch]=debug",
        ] {
            assert!(parse_directives(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            " ",
            "degub",
            "info,",
            "info,weir::hub",
            "weir=loud",
            "a=b=c",
        ] {
            let why = parse_directives(bad).expect_err(bad);
            assert!(!why.is_empty(), "{bad}");
        }
    }

    #[test]
    fn an_unmanaged_log_can_neither_be_read_nor_set() {
        let level = LogLevel::unmanaged();
        assert_eq!(level.get(), None);
        assert!(level.set("info").is_err());
    }
}
