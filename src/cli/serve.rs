//! `weir serve`: runs the server until it is told to stop.

use std::process::ExitCode;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    app::{self, App, StartError},
    cli::{EXIT_USAGE, log},
    config::{LogConfig, ServeConfig},
    source::mongo::{MongoSettings, MongoSource},
};

/// How many files the server has open beside connections of clients and to MongoDB: the admin port's
/// connections, logs, and what its parts read now and then.
const OTHER_FILES: u64 = 512;

/// Serve Watch streams from a MongoDB deployment.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    serve: ServeConfig,
    #[command(flatten)]
    log: LogConfig,
    /// Check the settings, say whether they can be used, and end
    #[arg(long)]
    check_config: bool,
}

/// Runs the server. Ends with 0 after a clean drain, 64 for settings that can't be used, 1 for a
/// start that failed or streams that had to be cut.
pub async fn run(args: ServeArgs) -> ExitCode {
    let log_level = match log::init(&args.log) {
        Ok(log_level) => log_level,
        Err(error) => {
            eprintln!("weir serve: --log-level: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if args.check_config {
        return check(&args.serve).await;
    }
    allow_open_files(&args.serve);
    // Taken before the ports are, so that a signal during start is not lost.
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        eprintln!("weir serve: can't wait for signals");
        return ExitCode::FAILURE;
    };
    let app = match App::start_with(args.serve, log_level).await {
        Ok(app) => app,
        Err(error) => return refuse(&error),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if app.shutdown().await {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Raises the limit of open files, of which each connection is one, to what the system allows. What
/// starts the server often sets 1,024 at first, for programs that can't handle more, and far more as
/// the most.
fn allow_open_files(config: &ServeConfig) {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum;
    let raised = Rlimit {
        current: most,
        maximum: most,
    };
    if limit != raised
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
    let clients = u64::try_from(config.max_connections).unwrap_or(u64::MAX);
    let needed = clients.saturating_add(u64::from(config.pool_capacity()) + OTHER_FILES);
    if let Some(most) = most.filter(|most| *most < needed) {
        tracing::warn!(
            most,
            needed,
            "the system allows fewer open files than the settings may need; see --max-connections"
        );
    }
}

async fn check(config: &ServeConfig) -> ExitCode {
    let settings = MongoSettings {
        uri: config.mongodb_uri.clone(),
        min_pool_capacity: config.pool_capacity(),
        server_selection_timeout: config.server_selection_timeout,
        reply_timeout: config.upstream_reply_timeout,
    };
    let checked = match app::check_config(config).await {
        Ok(()) => MongoSource::new(&settings).await.map_err(StartError::Uri),
        Err(error) => Err(error),
    };
    match checked {
        Ok(_) => {
            println!("the settings can be used");
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &StartError) -> ExitCode {
    eprintln!("weir serve: {error}");
    match error {
        StartError::Config(_)
        | StartError::Uri(_)
        | StartError::Tls(_)
        | StartError::Auth(_)
        | StartError::TokenKeys(_) => ExitCode::from(EXIT_USAGE),
        StartError::Listen { .. } | StartError::Reflection(_) => ExitCode::FAILURE,
    }
}
