//! The `weir` binary: parses the command line, runs the command and exits with its code.

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
            eprintln!("weir: can't start the async runtime: {error}");
            ExitCode::FAILURE
        }
    }
}
