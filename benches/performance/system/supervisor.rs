//! Runs another program and ends it once the parent has ended.
//!
//! A parent that is killed cannot end its children. Our own children notice it by themselves; other
//! programs need a supervisor.

use std::process::{Command, Stdio};

use clap::Args;

use super::{commands::Commands, runtime};

/// The task of the supervisor.
#[derive(Debug, Args)]
pub struct Task {
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// The supervisor's process: prints the program's id to standard error, followed by the program's
/// own output.
pub fn run(task: &Task) {
    let (program, arguments) = task.command.split_first().expect("clap asks for one");
    // A program that is killed cleans nothing up.
    let scratch = tempfile::tempdir().expect("there is room for temporary files");
    let mut child = Command::new(program)
        .args(arguments)
        .env("TMPDIR", scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} can't be started: {error}"));
    eprintln!("supervising {}", child.id());
    let (gone, is_gone) = tokio::sync::oneshot::channel::<()>();
    let _words = Commands::listen_until_end(|| drop(gone));
    runtime().block_on(async {
        tokio::select! {
            _ = is_gone => {}
            () = ended(&mut child) => {}
        }
    });
    // It may have exited already.
    let _ = child.kill();
    let _ = child.wait();
}

async fn ended(child: &mut std::process::Child) {
    while matches!(child.try_wait(), Ok(None)) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
