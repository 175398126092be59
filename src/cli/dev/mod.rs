//! `weir dev`: starts a database and Weir, and runs a tutorial on both.
//!
//! [`database`] finds or starts a database, as a [`process`] that never outlives this one, and [`waiting`] says
//! what it waits for meanwhile. Weir then runs in this process, [`tutorial`] runs, and [`next_steps`] prints
//! commands to try.

mod database;
mod next_steps;
mod process;
mod tutorial;
mod waiting;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::watch::args::Color;
use super::watch::{EXIT_INTERRUPTED, cancel_on_signal, print_notice};
use crate::app::App;
use crate::config::ServeConfig;
use database::Database;
use next_steps::{Addresses, Programs};

const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 50051);
const DEFAULT_ADMIN_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// Start a database and Weir, and run a change-stream tutorial
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Exit code: 0 on Ctrl-C or SIGTERM, and with --once after the tutorial; 1 if something does not
start, an event is not as expected, or a signal comes before the end under --once; 2 for an invalid
command line; 130 at a second signal, which does not wait for clients.")]
pub struct DevArgs {
    /// Exit after the tutorial, with 0 if every event came as expected and 1 otherwise
    #[arg(long)]
    pub once: bool,

    /// The MongoDB connection string of an existing deployment to use. Only its database `weir_dev` is
    /// changed [default: start a database]
    #[arg(long, env = "MONGODB_URI", value_name = "URI", hide_env_values = true)]
    pub mongodb_uri: Option<String>,

    /// The server program of SecantusDB, to start instead of mongod [default: mongod on the PATH, else
    /// secantusd-py on the PATH or in ./.venv/bin]
    #[arg(long, env = "WEIR_SECANTUSD", value_name = "PATH")]
    pub secantusd: Option<PathBuf>,

    /// Address and port of the gRPC server [default: 127.0.0.1:50051, or a free port if that is in use]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,

    /// Address and port of the admin server [default: 127.0.0.1:9090, or a free port if that is in use]
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<SocketAddr>,

    /// The use of colors
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    pub color: Color,
}

/// The outcome of the demo.
enum Outcome {
    /// The tutorial completed.
    Completed,
    /// Ctrl-C or SIGTERM came before the end of the tutorial.
    Interrupted,
}

/// Runs the tutorial and then serves until Ctrl-C or SIGTERM. The exit code is 1, with the reason on stderr,
/// if something does not start or an event is not as expected. A second signal ends it without waiting for
/// clients, with 130.
pub async fn run(args: DevArgs) -> ExitCode {
    args.color.apply_everywhere();
    let shutdown = CancellationToken::new();
    let at_once = CancellationToken::new();
    let again = at_once.clone();
    cancel_on_signal(shutdown.clone(), move || again.cancel());
    tokio::select! {
        biased;
        // Dropping the demo kills the database that it started, and deletes its folder.
        () = at_once.cancelled() => ExitCode::from(EXIT_INTERRUPTED),
        outcome = run_demo(&args, &shutdown) => exit_code(&args, outcome),
    }
}

async fn run_demo(args: &DevArgs, shutdown: &CancellationToken) -> Result<Outcome, String> {
    let (given_uri, secantusd) = (args.mongodb_uri.as_deref(), args.secantusd.as_deref());
    let found = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(Outcome::Interrupted),
        found = Database::find_or_start(given_uri, secantusd) => found,
    };
    let database = found.map_err(|error| error.to_string())?;
    let outcome = serve_and_run_tutorial(args, &database, shutdown).await;
    database.stop().await;
    outcome
}

fn exit_code(args: &DevArgs, outcome: Result<Outcome, String>) -> ExitCode {
    match outcome {
        Ok(Outcome::Completed) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) if !args.once => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => {
            print_notice("interrupted before the end of the tutorial");
            ExitCode::FAILURE
        }
        Err(why) => {
            print_notice(&why);
            ExitCode::FAILURE
        }
    }
}

async fn serve_and_run_tutorial(
    args: &DevArgs,
    database: &Database,
    shutdown: &CancellationToken,
) -> Result<Outcome, String> {
    let app = start_weir(args, database.uri()).await?;
    let addresses = Addresses {
        grpc: app.grpc_addr(),
        admin: app.admin_addr(),
        mongodb_uri: database.started_uri().map(str::to_owned),
        programs: Programs::find(),
    };
    let outcome = tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(Outcome::Interrupted),
        result = tutorial::run(addresses.grpc, database.uri()) => {
            result.map(|()| Outcome::Completed).map_err(|error| error.to_string())
        }
    };
    if matches!(outcome, Ok(Outcome::Completed)) && !args.once {
        tutorial::print_line(&addresses.to_string());
        shutdown.cancelled().await;
    }
    app.shutdown().await;
    outcome
}

async fn start_weir(args: &DevArgs, uri: &str) -> Result<App, String> {
    let mut config = ServeConfig::for_uri(uri);
    config.listen = address(args.listen, DEFAULT_LISTEN);
    config.admin_listen = address(args.admin_listen, DEFAULT_ADMIN_LISTEN);
    App::start(config)
        .await
        .map_err(|error| format!("Weir did not start: {error}"))
}

/// Returns the given address, or the default, or the default's host with a port that the kernel chooses. If
/// another process takes the default after this check, the server fails to start with an error that names it.
fn address(given: Option<SocketAddr>, default: SocketAddr) -> SocketAddr {
    if let Some(given) = given {
        return given;
    }
    match TcpListener::bind(default) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            print_notice(&format!("{default} is in use; using a free port instead"));
            SocketAddr::new(default.ip(), 0)
        }
        Ok(_) | Err(_) => default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_port_in_use_is_replaced_and_a_given_one_is_not() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
        assert_eq!(address(None, taken.1).port(), 0);
        assert_eq!(address(Some(taken.1), taken.1), taken.1);
        drop(taken.0);
        assert_eq!(address(None, taken.1), taken.1);
    }
}
