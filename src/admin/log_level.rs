//! What the process logs, changed while it runs.

use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::{EnvFilter, Registry, reload};

/// The longest directives that are taken, in bytes.
pub const MAX_DIRECTIVES: usize = 4 << 10;

/// What holds unless a directive names rustls: it warns of what it finds odd in a handshake, in words of the
/// client's choice, with which anybody could fill the log.
const UNLESS_TOLD: &str = "rustls=error";

/// The process's log, as far as what is in it can be changed.
///
/// A server in a test or in `weir dev` does not own its process's log: its [`LogLevel`] is
/// [`LogLevel::not_ours`].
#[derive(Debug, Clone)]
pub struct LogLevel(Option<Arc<Owned>>);

#[derive(Debug)]
struct Owned {
    handle: reload::Handle<EnvFilter, Registry>,
    directives: Mutex<String>,
}

/// Reads directives such as `info,weir::hub=debug`.
///
/// # Errors
/// In words. A lone word that is no level is refused, which a filter would take for the name of a module:
/// it is a level misspelt far more often.
pub fn filter(directives: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    if directives.trim().is_empty() {
        return Err("there are no directives".to_owned());
    }
    for directive in directives.split(',').map(str::trim) {
        // A field's value may hold a comma; what is in brackets is left to the filter.
        if !directive.contains(['=', '[', ']', '{', '}']) && !is_level(directive) {
            return Err(format!(
                "{directive:?} is neither a level ({}) nor module=level",
                LEVELS.join(", ")
            ));
        }
    }
    let directives = format!("{UNLESS_TOLD},{directives}");
    EnvFilter::try_new(directives).map_err(|error| error.to_string())
}

impl LogLevel {
    /// The log of a process that this server does not own.
    #[must_use]
    pub fn not_ours() -> Self {
        Self(None)
    }

    /// A filter that follows what is set, to be put in place, and the handle to set it by.
    ///
    /// # Errors
    /// In words, when the directives can't be read.
    pub fn new(directives: &str) -> Result<(reload::Layer<EnvFilter, Registry>, Self), String> {
        let (layer, handle) = reload::Layer::new(filter(directives)?);
        let owned = Owned {
            handle,
            directives: Mutex::new(directives.trim().to_owned()),
        };
        Ok((layer, Self(Some(Arc::new(owned)))))
    }

    /// The directives in force; `None` where the log is not the server's.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        let owned = self.0.as_ref()?;
        let directives = owned.directives.lock();
        Some(
            directives
                .unwrap_or_else(PoisonError::into_inner)
                .to_string(),
        )
    }

    /// Puts directives in force, until others are or the process ends.
    ///
    /// # Errors
    /// In words, when they can't be read or the log is not the server's.
    pub fn set(&self, directives: &str) -> Result<(), String> {
        let owned = self.0.as_ref().ok_or("the log is not this server's")?;
        let directives = directives.trim();
        let filter = filter(directives)?;
        // Held meanwhile, so that the text is that of the filter.
        let mut in_force = owned
            .directives
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Said under whichever of the two lets it pass.
        tracing::info!(from = *in_force, to = directives, "log level changes");
        owned
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
    fn directives_are_read_and_misspelt_ones_refused_in_words() {
        for good in [
            "info",
            "INFO",
            "off",
            "info,weir::hub=debug",
            "weir[watch]=debug",
        ] {
            assert!(filter(good).is_ok(), "{good}");
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
            let why = filter(bad).expect_err(bad);
            assert!(!why.is_empty(), "{bad}");
        }
    }

    #[test]
    fn the_log_of_another_can_neither_be_read_nor_set() {
        let level = LogLevel::not_ours();
        assert_eq!(level.get(), None);
        assert!(level.set("info").is_err());
    }
}
