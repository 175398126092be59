//! The choice of the output format.

use std::io::IsTerminal as _;

use super::args::{OutputFormat, WatchArgs};
use super::message::Message;
use super::print_json;
use super::print_pretty::PrettyPrinter;

/// Turns messages into text.
#[derive(Debug)]
pub struct Printer {
    format: Format,
    show_progress: bool,
    /// Whether lines are whole, whatever the width of the terminal is.
    wide: bool,
}

#[derive(Debug)]
enum Format {
    Pretty(PrettyPrinter),
    Json,
}

impl Printer {
    /// Uses the format in `args`, or pretty on a terminal and JSON otherwise.
    pub fn for_stdout(args: &WatchArgs) -> Printer {
        let on_terminal = std::io::stdout().is_terminal();
        let format = match (args.output, on_terminal) {
            (Some(OutputFormat::Pretty), _) | (None, true) => {
                Format::Pretty(pretty_for_stdout(args.wide))
            }
            (Some(OutputFormat::Json), _) | (None, false) => Format::Json,
        };
        Printer {
            format,
            show_progress: args.show_progress,
            wide: args.wide,
        }
    }

    /// Prints one JSON object per line.
    pub fn json(show_progress: bool) -> Printer {
        Printer {
            format: Format::Json,
            show_progress,
            wide: true,
        }
    }

    /// Appends the text of `message` to `out`; `resume_token` is its token.
    pub fn print(&mut self, message: &Message, resume_token: &[u8], out: &mut String) {
        match &mut self.format {
            Format::Pretty(printer) => {
                // Again each time, as the terminal may have been resized.
                printer.set_width(width_of_stdout(self.wide));
                printer.print(message, self.show_progress, out);
            }
            Format::Json => print_json::print(message, resume_token, self.show_progress, out),
        }
    }
}

/// Returns a printer with the width of stdout, and with colors according to `--color`, NO_COLOR and whether
/// stdout is a terminal.
pub fn pretty_for_stdout(wide: bool) -> PrettyPrinter {
    let stdout = std::io::stdout();
    let color = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
    PrettyPrinter::new(color, width_of_stdout(wide))
}

/// Returns the columns of the terminal; `None` for whole lines.
fn width_of_stdout(wide: bool) -> Option<usize> {
    let width = || terminal_size::terminal_size_of(std::io::stdout());
    if wide {
        return None;
    }
    width().map(|(width, _)| usize::from(width.0))
}
