//! `weir hash-key`: creates an API key and its entry for the server's `--api-keys-file`.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    process::ExitCode,
};

use clap::Args;

use crate::auth::{ApiKey, MAX_NAME_BYTES, is_valid_principal_name};

/// The longest key read from standard input, in bytes.
const MAX_BYTES: u64 = 16 << 10;

/// Create an API key and its entry for --api-keys-file
#[derive(Debug, Clone, Args)]
pub struct HashKeyArgs {
    /// The principal of the key, as policies and logs name it
    #[arg(value_name = "NAME")]
    name: String,

    /// Hash the key in the first line of standard input instead of creating one
    #[arg(long)]
    stdin: bool,
}

/// Prints the key and its entry; the key can't be printed again. The exit code is 1 if that fails.
#[must_use]
pub fn run(args: &HashKeyArgs) -> ExitCode {
    match write(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("weir hash-key: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn write(args: &HashKeyArgs) -> Result<(), String> {
    if !is_valid_principal_name(&args.name) {
        return Err(format!(
            "NAME must have 1 to {MAX_NAME_BYTES} bytes, no white space at its ends, and no control characters"
        ));
    }
    let entry = |key: &ApiKey| {
        // A JSON string is also a valid YAML string.
        let name = serde_json::Value::from(args.name.as_str());
        format!("  - name: {name}\n    sha256: {}\n", key.sha256())
    };
    let text = if args.stdin {
        entry(&read_key()?)
    } else {
        let key = ApiKey::random().map_err(|_| {
            "can't create a key: the system's random number generator failed".to_owned()
        })?;
        eprintln!("The key, which is shown only once, and its entry for --api-keys-file:");
        format!("{}\n{}", key.secret(), entry(&key))
    };
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|error| format!("can't write standard output: {error}"))
}

fn read_key() -> Result<ApiKey, String> {
    let mut line = String::new();
    let mut stdin = io::stdin().lock().take(MAX_BYTES);
    let read = stdin.read_line(&mut line);
    read.map_err(|error| format!("can't read standard input: {error}"))?;
    line.trim_end_matches(['\r', '\n']).parse()
}
