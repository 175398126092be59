//! The log of the process.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write},
};

use tracing_subscriber::{
    Layer as _, Registry, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    admin::LogLevel,
    config::{LogConfig, LogFormat},
    model::is_control,
};

/// Sets up logging to stderr. Returns the handle that changes its level.
///
/// # Errors
/// A message, if `--log-level` can't be parsed.
pub fn init(config: &LogConfig) -> Result<LogLevel, String> {
    let (filter, level) = LogLevel::new(&config.log_level)?;
    let json = match config.log_format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let syntax = if json {
        Syntax::Json
    } else if io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
    {
        Syntax::Colored
    } else {
        Syntax::Text
    };
    let log = fmt::layer()
        .with_ansi(syntax == Syntax::Colored)
        .with_writer(move || LineWriter {
            out: io::stderr(),
            syntax,
        });
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

/// The syntax of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    Json,
    Text,
    /// Text with the terminal's sequences for colors.
    Colored,
}

/// Writes each line with its control characters escaped, whatever a client, MongoDB or a library has put into it.
struct LineWriter<W> {
    out: W,
    syntax: Syntax,
}

impl<W: Write> Write for LineWriter<W> {
    /// Takes a whole line, as the formatter writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let content = text.strip_suffix('\n').unwrap_or(&text);
        if content.chars().any(is_control) {
            let mut clean = escaped(content, self.syntax);
            clean.push('\n');
            self.out.write_all(clean.as_bytes())?;
        } else {
            self.out.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn escaped(line: &str, syntax: Syntax) -> String {
    let mut clean = String::with_capacity(line.len() + 16);
    let mut rest = line.chars();
    while let Some(character) = rest.next() {
        let color = match (syntax, character) {
            // The formatter has escaped those in values.
            (Syntax::Colored, '\u{1b}') => color(rest.as_str()),
            _ => None,
        };
        if let Some(color) = color {
            clean.push(character);
            clean.push_str(color);
            rest = rest.as_str()[color.len()..].chars();
        } else if !is_control(character) {
            clean.push(character);
        } else if syntax == Syntax::Json {
            // Only strings can contain them. All are below U+10000. Writing to a string never fails.
            let _ = write!(clean, "\\u{:04x}", u32::from(character));
        } else {
            clean.extend(character.escape_default());
        }
    }
    clean
}

/// Returns the rest of a sequence that sets a color, behind its escape character.
fn color(text: &str) -> Option<&str> {
    let numbers = text.strip_prefix('[')?;
    let length = numbers.find(|it: char| !it.is_ascii_digit() && it != ';')?;
    numbers[length..]
        .starts_with('m')
        .then(|| &text[..length + 2])
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Every control character and mark of direction, between other text.
    fn hostile() -> String {
        let all = (0..0x3000)
            .filter_map(char::from_u32)
            .filter(|it| is_control(*it));
        let all: String = all.collect();
        format!("shop.{all}\u{1b}[2J\u{1b}]0;title\u{7}größe")
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns what is logged with this syntax of an event in a span.
    fn logged(syntax: Syntax) -> String {
        let sink = Sink::default();
        let out = sink.clone();
        let layer = fmt::layer()
            .with_ansi(syntax == Syntax::Colored)
            .with_writer(move || LineWriter {
                out: out.clone(),
                syntax,
            });
        let layer = if syntax == Syntax::Json {
            layer.json().flatten_event(true).boxed()
        } else {
            layer.boxed()
        };
        let text = hostile();
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            let span = tracing::error_span!("watch", scope = %text, name = text);
            let _entered = span.enter();
            tracing::warn!(shown = %text, quoted = ?text, text, "{text}");
        });
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn no_line_has_control_characters_of_its_values() {
        for syntax in [Syntax::Json, Syntax::Text, Syntax::Colored] {
            let line = logged(syntax);
            let content = line.strip_suffix('\n').expect("a whole line");
            let mut bare = content.to_owned();
            if syntax == Syntax::Colored {
                for number in 0..10 {
                    bare = bare.replace(&format!("\u{1b}[{number}m"), "");
                    bare = bare.replace(&format!("\u{1b}[3{number}m"), "");
                }
                assert_ne!(bare, content, "it is colored");
            }
            assert!(!bare.contains(is_control), "{syntax:?}: {bare:?}");
            assert!(bare.contains("größe"), "{bare}");
            if syntax == Syntax::Json {
                let read: serde_json::Value = serde_json::from_str(content).unwrap();
                assert_eq!(read["shown"], hostile());
                assert_eq!(read["message"], hostile());
            }
        }
    }
}
