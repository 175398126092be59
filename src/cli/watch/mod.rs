//! `weir watch`: a client of `weir.v1.WatchService` for people and scripts.
//!
//! # The way of one message
//!
//! [`args`] and [`request`] turn the command line into a `WatchRequest`. [`client`] keeps a watch
//! open across lost connections. [`message`] joins the pieces of large events. [`printer`] turns a
//! message into text, [`output`] writes it, and only then [`resume_file`] may remember its token.

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
pub(in crate::cli) use text::print_notice;

/// What a command line that cannot be carried out exits with, as clap's own refusals do.
pub(in crate::cli) const EXIT_USAGE: u8 = 2;

/// Watches until the limit, the end time, Ctrl-C, SIGTERM or a closed stdout, all of which exit
/// with 0. A watch that cannot go on exits with 1, a request that cannot be made with 2; both say
/// why on stderr.
pub async fn run(args: WatchArgs) -> ExitCode {
    args.color.apply_everywhere();
    let request = match request::build(&args) {
        Ok(request) => request,
        Err(why) => return refuse(&why),
    };
    if let Err(why) = client::endpoint(&args) {
        return refuse(&why);
    }
    let shown = args.credentials.attach(&args.server, &mut Request::new(()));
    if let Err(why) = shown {
        return refuse(&why);
    }
    let resume_file = match &args.resume_file {
        None => None,
        Some(path) => match ResumeFile::open(path.clone(), &args.scope()) {
            Ok(file) => Some(file),
            Err(why) => return refuse(&why.to_string()),
        },
    };

    let shutdown = CancellationToken::new();
    cancel_on_signal(shutdown.clone());
    let printer = printer::Printer::for_stdout(&args);
    let output = output::Output::to(std::io::stdout());
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

fn refuse(why: &str) -> ExitCode {
    print_notice(why);
    ExitCode::from(EXIT_USAGE)
}

/// Cancels on Ctrl-C or SIGTERM. Where a signal cannot be listened to it keeps its default effect,
/// which ends the process as well.
pub(super) fn cancel_on_signal(shutdown: CancellationToken) {
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
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            return;
        }
        shutdown.cancel();
    });
}
