//! A keeper: it runs a program that knows nothing of us, and ends it once the parent is gone.
//!
//! A parent that is killed cannot end its children. Ours hear of it by themselves; others have a
//! keeper, which does.

use std::process::{Command, Stdio};

use clap::Args;

use super::{commands::Commands, runtime};

/// What to run.
#[derive(Debug, Args)]
pub struct Task {
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// The keeper's own process: tells the program's id on standard error, where the program's own
/// words follow.
pub fn run(task: &Task) {
    let (program, arguments) = task.command.split_first().expect("clap asks for one");
    // A program that is killed clears nothing away.
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
    // It may be gone already.
    let _ = child.kill();
    let _ = child.wait();
}

async fn ended(child: &mut std::process::Child) {
    while matches!(child.try_wait(), Ok(None)) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
