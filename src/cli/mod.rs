//! What `weir` does on the command line: one module a subcommand, each with its arguments and one
//! `run`.
//!
//! [`dev`] prints through [`watch`], so the demo shows events as people will see them later.

pub mod hash_key;

pub mod log;

pub mod serve;

pub mod watch;

pub mod dev;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The exit code for settings that can't be used: `EX_USAGE` of sysexits(3).
pub const EXIT_USAGE: u8 = 64;

/// Typed, ordered, resumable streams of MongoDB's changes over gRPC.
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
    /// Make an API key, and the entry for the server's --api-keys-file
    HashKey(hash_key::HashKeyArgs),
    /// Start a database and Weir, and play the change-stream tutorial
    Dev(Box<dev::DevArgs>),
}

impl Cli {
    /// Reads the command line and the environment.
    ///
    /// # Errors
    /// The exit code, when that is all there is to do: help was asked for, or what was given can't
    /// be read. Either has been printed by then.
    pub fn read() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            // Nobody is left to be told when the terminal is gone.
            let _ = error.print();
            let serve = std::env::args_os().nth(1).is_some_and(|it| it == "serve");
            match error.exit_code() {
                0 => ExitCode::SUCCESS,
                // A service manager tells by the code that trying again is of no use.
                _ if serve => ExitCode::from(EXIT_USAGE),
                _ => ExitCode::from(watch::EXIT_USAGE),
            }
        })
    }

    /// Runs the command, to its exit code.
    pub async fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(args) => serve::run(*args).await,
            Command::Watch(args) => watch::run(*args).await,
            Command::HashKey(args) => hash_key::run(&args),
            Command::Dev(args) => dev::run(*args).await,
        }
    }
}
