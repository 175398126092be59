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
        }
    }

    /// Prints one JSON object per line.
    pub fn json(show_progress: bool) -> Printer {
        Printer {
            format: Format::Json,
            show_progress,
        }
    }

    /// Appends the text of `message` to `out`; `resume_token` is its token.
    pub fn print(&mut self, message: &Message, resume_token: &[u8], out: &mut String) {
        match &mut self.format {
            Format::Pretty(printer) => printer.print(message, self.show_progress, out),
            Format::Json => print_json::print(message, resume_token, self.show_progress, out),
        }
    }
}

/// Returns a printer with the width of stdout, and with colors according to `--color`, NO_COLOR and whether
/// stdout is a terminal.
pub fn pretty_for_stdout(wide: bool) -> PrettyPrinter {
    let stdout = std::io::stdout();
    let color = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
    let width = if wide {
        None
    } else {
        terminal_size::terminal_size_of(&stdout).map(|(width, _)| usize::from(width.0))
    };
    PrettyPrinter::new(color, width)
}
