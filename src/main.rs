//! The `weir` binary: parses the command line, runs the command and exits with its code.

use std::process::ExitCode;

use weir::cli::{Cli, say};

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let code = runtime.block_on(cli.run());
            // Dropping it would wait for a name that is still being looked up, which may take half a minute.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            say(format_args!("weir: can't start the async runtime: {error}"));
            ExitCode::FAILURE
        }
    }
}
