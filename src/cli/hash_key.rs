//! `weir hash-key`: creates an API key and its entry for the server's `--api-keys-file`.

use std::{
    fs::File,
    io::{self, BufRead as _, Read as _, Write as _},
    process::ExitCode,
};

use clap::Args;

use super::stderr::say;
use crate::auth::{ApiKey, MAX_NAME_BYTES, is_valid_principal_name};

/// The longest key read from standard input, in bytes.
const MAX_BYTES: u64 = 16 << 10;

/// Create an API key and its entry for --api-keys-file
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Exit code: 0 with the entry on stdout; 1 without one: the name or the key can't be used, or stdout
can't be written or is /dev/null; 2 for an invalid command line.")]
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
            say(format_args!("weir hash-key: {problem}"));
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
        if goes_nowhere(&io::stdout()) {
            return Err(
                "standard output is closed or /dev/null, where the key would be lost: it is shown only once"
                    .to_owned(),
            );
        }
        let key = ApiKey::random().map_err(|_| {
            "can't create a key: the system's random number generator failed".to_owned()
        })?;
        say("The key, which is shown only once, and its entry for --api-keys-file:");
        format!("{}\n{}", key.secret(), entry(&key))
    };
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|error| format!("can't write standard output: {error}"))
}

/// Returns whether nobody can ever read what is written to `stream`. The standard library opens `/dev/null`
/// for a standard output that was closed before the start.
#[cfg(unix)]
fn goes_nowhere(stream: &impl std::os::fd::AsFd) -> bool {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let stream = stream.as_fd().try_clone_to_owned().map(File::from);
    let (Ok(stream), Ok(null)) = (
        stream.and_then(|it| it.metadata()),
        std::fs::metadata("/dev/null"),
    ) else {
        return false;
    };
    stream.file_type().is_char_device() && stream.rdev() == null.rdev()
}

#[cfg(not(unix))]
fn goes_nowhere<T>(_: &T) -> bool {
    false
}

fn read_key() -> Result<ApiKey, String> {
    let mut line = String::new();
    let mut stdin = io::stdin().lock().take(MAX_BYTES + 1);
    let read = stdin.read_line(&mut line);
    let length = read.map_err(|error| format!("can't read standard input: {error}"))?;
    if length as u64 > MAX_BYTES {
        return Err(format!(
            "the first line of standard input is longer than {MAX_BYTES} bytes, the longest key"
        ));
    }
    let line = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Err("the first line of standard input is empty: it must be the key".to_owned());
    }
    line.parse()
}
