//! `weir watch`: a client of `weir.v1.WatchService` for terminals and scripts.
//!
//! # Path of a message
//!
//! [`args`] and [`request`] turn the command line into a `WatchRequest`. [`client`] keeps a watch
//! open across lost connections. [`message`] joins the chunks of large events. [`printer`] turns a
//! message into text, [`output`] writes it, and only then may [`resume_file`] store its token.

pub mod advice;
pub mod args;
mod backoff;
mod client;
mod credentials;
mod display_names;
pub(in crate::cli) mod documents;
#[cfg(test)]
mod fixtures;
pub(in crate::cli) mod message;
pub mod output;
pub mod print_json;
pub mod print_pretty;
pub mod printer;
mod request;
mod resume_file;
pub mod scope;
pub mod server;
pub mod shard;
mod text;
mod tls;
pub mod token;
pub mod where_clause;

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;
use tonic::Request;

pub use args::WatchArgs;
pub use message::Message;

use client::{WatchEnd, Watcher};
use resume_file::ResumeFile;
pub(in crate::cli) use text::{escape_controls, print_notice};
use where_clause::WhereClause;

/// The exit code for an invalid command line, which is also clap's.
pub(in crate::cli) const EXIT_USAGE: u8 = 2;

/// The exit code after a second Ctrl-C: that of a process which the signal ends (128 and SIGINT).
pub(in crate::cli) const EXIT_INTERRUPTED: u8 = 130;

/// Watches until the limit, the end time, Ctrl-C, SIGTERM or a closed stdout; the exit code is then 0. It is
/// 1 for a watch that can't continue and 2 for an invalid request; both print the reason on stderr.
pub async fn run(args: WatchArgs) -> ExitCode {
    args.color.apply_everywhere();
    let request = match request::build(&args) {
        Ok(request) => request,
        Err(why) => return usage_error(&why),
    };
    for warning in args.conditions.iter().filter_map(WhereClause::warning) {
        print_notice(warning);
    }
    if let Err(why) = client::endpoint(&args) {
        return usage_error(&why);
    }
    let attached = args.credentials.attach(&args.server, &mut Request::new(()));
    if let Err(why) = attached {
        return usage_error(&why);
    }
    let resume_file = match &args.resume_file {
        None => None,
        Some(path) => match ResumeFile::open(path.clone(), &args.scope()) {
            Ok(file) => Some(file),
            Err(why) => return usage_error(&why.to_string()),
        },
    };

    let shutdown = CancellationToken::new();
    // The first signal ends the watch; a second one must do so even where the resume file can't be written
    // because its disk does not answer.
    cancel_on_signal(shutdown.clone(), || {
        std::process::exit(EXIT_INTERRUPTED.into());
    });
    let printer = printer::Printer::for_stdout(&args);
    let output = output::Output::to_stdout();
    let mut watcher = Watcher::new(args, request, resume_file, printer, output);
    match watcher.run(&shutdown).await {
        Ok(
            WatchEnd::Limit
            | WatchEnd::TimeReached
            | WatchEnd::Interrupted
            | WatchEnd::OutputClosed,
        ) => ExitCode::SUCCESS,
        Err(why) => {
            print_notice(&why);
            ExitCode::FAILURE
        }
    }
}

fn usage_error(problem: &str) -> ExitCode {
    print_notice(problem);
    ExitCode::from(EXIT_USAGE)
}

/// Cancels `shutdown` on Ctrl-C or SIGTERM, and calls `again` at the second of them: somebody does not want to
/// wait for the end that the first one began. If the handlers can't be registered, the signals keep their
/// default effect, which also ends the process.
pub(super) fn cancel_on_signal(shutdown: CancellationToken, again: impl FnOnce() + Send + 'static) {
    tokio::spawn(async move {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            ) else {
                return;
            };
            let mut next = async || {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            next().await;
            shutdown.cancel();
            next().await;
            again();
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_ok() {
            shutdown.cancel();
            if tokio::signal::ctrl_c().await.is_ok() {
                again();
            }
        }
    });
}
