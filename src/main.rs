//! The `weir` binary: parse, run, exit code.

use std::process::ExitCode;

use weir::cli::Cli;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(cli.run()),
        Err(error) => {
            eprintln!("weir: can't start its threads: {error}");
            ExitCode::FAILURE
        }
    }
}
