//! The command line of `weir`: one module for each subcommand, with its arguments and a `run` function.
//!
//! [`dev`] prints through [`watch`], so that the demo shows events as `weir watch` does.

pub mod hash_key;

pub mod log;

pub mod serve;

pub mod watch;

pub mod dev;

mod stderr;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::config;

pub use stderr::say;

/// Typed, ordered, resumable streams of MongoDB changes over gRPC.
#[derive(Debug, Parser)]
#[command(name = "weir", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve Watch streams from a MongoDB deployment
    Serve(Box<serve::ServeArgs>),
    /// Watch a collection, a database or a deployment from the terminal
    Watch(Box<watch::WatchArgs>),
    /// Create an API key and its entry for --api-keys-file
    HashKey(hash_key::HashKeyArgs),
    /// Start a database and Weir, and run a change-stream tutorial
    Dev(Box<dev::DevArgs>),
}

impl Cli {
    /// Parses the command line and the environment.
    ///
    /// # Errors
    /// The exit code, if there is nothing to run: help or an error has been printed.
    pub fn read() -> Result<Self, ExitCode> {
        let mut arguments: Vec<_> = std::env::args_os().collect();
        let serves = arguments.get(1).is_some_and(|it| it == "serve");
        if serves {
            arguments = config::trimmed(arguments);
        }
        // The help shows the variables as they are.
        let helps = arguments.iter().any(|it| it == "--help" || it == "-h");
        let command = Self::command();
        let checked = match command.find_subcommand("serve") {
            Some(serve) if serves && !helps => config::check_protections(serve, &arguments),
            _ => Ok(()),
        };
        let mut command = if helps {
            command
        } else {
            config::normalize(command)
        };
        let cli = checked
            .and_then(|()| command.try_get_matches_from_mut(arguments))
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(|error| error.format(&mut command));
        cli.map_err(|error| {
            let printed = error.print();
            if serves && error.exit_code() != 0 {
                // There is no log yet, and one of them may be the reason.
                serve::name_unknown_variables(&Self::command());
            }
            match error.exit_code() {
                // A reader such as `head` has seen what it wanted.
                0 => match printed {
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                        say(format_args!("weir: can't write stdout: {error}"));
                        ExitCode::FAILURE
                    }
                    _ => ExitCode::SUCCESS,
                },
                // With this code, a service manager does not restart the server.
                _ if serves => ExitCode::from(serve::EXIT_USAGE),
                _ => ExitCode::from(watch::EXIT_USAGE),
            }
        })
    }

    /// Runs the command and returns its exit code.
    pub async fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(args) => serve::run(*args, &Self::command()).await,
            Command::Watch(args) => watch::run(*args).await,
            Command::HashKey(args) => hash_key::run(&args),
            Command::Dev(args) => dev::run(*args).await,
        }
    }
}
