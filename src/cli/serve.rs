//! `weir serve`: runs the server until SIGTERM or SIGINT.

mod explain;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Command};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use explain::ExplainArgs;

use crate::{
    app::{self, App, StartError},
    cli::{log, stderr::say},
    config::{LogConfig, ServeConfig, UnknownVariable, names_client_auth, unknown_variables},
};

/// The exit code for settings that can't be used: `EX_USAGE` of sysexits(3).
pub(super) const EXIT_USAGE: u8 = 64;

/// The files that the server has open besides client and MongoDB connections: connections of the admin port,
/// logs, and files being reloaded.
const OTHER_FILES: u64 = 512;

/// Serve Watch streams from a MongoDB deployment.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    serve: ServeConfig,
    #[command(flatten)]
    log: LogConfig,
    /// Check the settings and the files that they name, print the result and exit
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    explain: ExplainArgs,
}

/// Runs the server. `command` is the whole command line, whose flags have the variables that may be set. The
/// exit code is 0 after a clean shutdown, 64 for invalid settings, and 1 if the start
/// failed or streams did not end within `--shutdown-grace`.
pub async fn run(args: ServeArgs, command: &Command) -> ExitCode {
    let log_level = match log::init(&args.log) {
        Ok(log_level) => log_level,
        Err(error) => {
            say(format_args!("weir serve: --log-level: {error}"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    warn_of_unknown_variables(command);
    if names_client_auth() && !args.serve.tls.is_enabled() {
        tracing::warn!("tls is off, so that WEIR_TLS_CLIENT_AUTH has no effect");
    }
    if args.check_config {
        return check(&args).await;
    }
    allow_open_files(&args.serve);
    // Registered before the start, so that no signal is lost.
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (mut terminate, mut interrupt) = match signals {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            say(format_args!(
                "weir serve: can't register signal handlers: {error}"
            ));
            return ExitCode::FAILURE;
        }
    };
    let app = match App::start_with(args.serve, log_level).await {
        Ok(app) => app,
        Err(error) => return report_start_error(&error),
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

/// Warns of variables that begin like Weir's and that nothing reads: the setting that they were meant for has
/// its default. Their values may be secret.
fn warn_of_unknown_variables(command: &Command) {
    for UnknownVariable { name, nearest } in unknown_variables(command) {
        tracing::warn!(
            variable = name,
            nearest,
            "this variable begins like those of weir, but weir does not read it"
        );
    }
}

/// Names the variables on stderr that begin like Weir's and that nothing reads.
pub(super) fn name_unknown_variables(command: &Command) {
    for UnknownVariable { name, nearest } in unknown_variables(command) {
        let meant = nearest.map(|it| format!(": did you mean {it}?"));
        let meant = meant.unwrap_or_default();
        say(format_args!(
            "weir serve: there is no variable {name}{meant}"
        ));
    }
}

/// Raises the soft limit of open files to the hard limit, because each connection needs one. The soft limit
/// is often only 1,024, for programs that can't handle more.
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
        tracing::warn!(%error, "can't raise the limit of open files");
    }
    let clients = u64::try_from(config.max_connections).unwrap_or(u64::MAX);
    let needed =
        clients.saturating_add(u64::from(config.mongo_settings().connections()) + OTHER_FILES);
    if let Some(most) = most.filter(|most| *most < needed) {
        tracing::warn!(
            most,
            needed,
            "the system allows fewer open files than the settings may need: raise its limit or lower --max-connections"
        );
    }
}

async fn check(args: &ServeArgs) -> ExitCode {
    let access = match app::check_config(&args.serve).await {
        Ok(access) => access,
        Err(error) => return report_start_error(&error),
    };
    if !args.explain.is_given() {
        // The exit code says it too, whoever reads the words.
        let _ = writeln!(std::io::stdout().lock(), "the settings can be used");
        return ExitCode::SUCCESS;
    }
    match explain::run(&args.explain, &args.serve, &access) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            say(format_args!("weir serve: {problem}"));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn report_start_error(error: &StartError) -> ExitCode {
    say(format_args!("weir serve: {error}"));
    match error {
        StartError::Config(_)
        | StartError::Uri(_)
        | StartError::Tls(_)
        | StartError::Auth(_)
        | StartError::TokenKeys(_) => ExitCode::from(EXIT_USAGE),
        StartError::RegexEngine(_) | StartError::Listen { .. } | StartError::Reflection(_) => {
            ExitCode::FAILURE
        }
    }
}
