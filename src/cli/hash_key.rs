//! `weir hash-key`: a new API key, and what the server's file of keys holds of it.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    process::ExitCode,
};

use clap::Args;

use crate::auth::{ApiKey, is_name};

/// The most that is read of a given key, in bytes.
const MAX_BYTES: u64 = 16 << 10;

/// Make a new API key, and the entry for the server's --api-keys-file
#[derive(Debug, Clone, Args)]
pub struct HashKeyArgs {
    /// Whose key it is, as policies and logs name it
    #[arg(value_name = "NAME")]
    name: String,

    /// Hash the key in the first line of standard input, rather than make a new one
    #[arg(long)]
    stdin: bool,
}

/// Prints the key, once and for all, and the entry. Ends with 1 when there is no key to print.
#[must_use]
pub fn run(args: &HashKeyArgs) -> ExitCode {
    match write(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("weir hash-key: {why}");
            ExitCode::FAILURE
        }
    }
}

fn write(args: &HashKeyArgs) -> Result<(), String> {
    if !is_name(&args.name) {
        return Err(
            "the name is empty or too long, or has spaces around it or control characters"
                .to_owned(),
        );
    }
    let entry = |key: &ApiKey| {
        // JSON's texts are YAML's too, whatever is in them.
        let name = serde_json::Value::from(args.name.as_str());
        format!("  - name: {name}\n    sha256: {}\n", key.sha256())
    };
    let text = if args.stdin {
        entry(&given()?)
    } else {
        let key = ApiKey::random().map_err(|_| "the system has no randomness".to_owned())?;
        eprintln!("The key, which is shown this once, and below it the entry for --api-keys-file:");
        format!("{}\n{}", key.secret(), entry(&key))
    };
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|error| format!("standard output can't be written: {error}"))
}

fn given() -> Result<ApiKey, String> {
    let mut line = String::new();
    let mut stdin = io::stdin().lock().take(MAX_BYTES);
    let read = stdin.read_line(&mut line);
    read.map_err(|error| format!("standard input can't be read: {error}"))?;
    line.trim_end_matches(['\r', '\n']).parse()
}
