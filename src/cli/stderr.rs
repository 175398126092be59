//! Lines on stderr.

use std::fmt::Display;
use std::io::{self, Write as _};

use crate::model::escape_controls;

/// Prints a line to stderr. Errors are ignored, as there is no other place to report them; `eprintln!` would
/// panic, and hide the exit code, when stderr is closed or its disk is full. Control characters are escaped, as a line
/// may quote a file or an argument.
pub fn say(line: impl Display) {
    let line = line.to_string();
    let _ = writeln!(io::stderr().lock(), "{}", escape_controls(&line));
}
