//! Lines on stderr.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Prints a line to stderr. Errors are ignored, as there is no other place to report them; `eprintln!` would
/// panic, and hide the exit code, when stderr is closed or its disk is full.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
