//! Weir under load for any length of time: thousands of clients, writers, and faults every few
//! seconds. `make soak SOAK="--for 2h"`.
//!
//! Ends with a table of figures, and with exit code 1 and the reasons if anything was lost,
//! repeated, out of order or not released. The code is in `tests/it/load`; `tests/it/load_and_faults.rs`
//! runs it for some seconds.

#[path = "../../tests/it/conversions/mod.rs"]
mod conversions;
#[path = "../../tests/it/load/mod.rs"]
mod load;
#[path = "../../tests/it/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Parser;
use humantime::parse_duration;

#[derive(Debug, Parser)]
struct Options {
    /// The approximate duration of the run: as many cycles of load, calm and idle as fit, at least
    /// one
    #[arg(long = "for", default_value = "5m", value_parser = parse_duration)]
    whole: Duration,
    /// The duration of the load of one cycle
    #[arg(long, default_value = "20s", value_parser = parse_duration)]
    cycle: Duration,
    /// The number of concurrent watches
    #[arg(long, default_value_t = 2_000)]
    watchers: usize,
    /// Small documents written per second
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Large documents, of up to 3.4 MB, written per second
    #[arg(long, default_value_t = 2.0)]
    large_rate: f64,
    /// The mean pause between two network faults, and between two process faults
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    fault_every: Duration,
    /// The size by which an idle server may grow from the first cycle to the last
    #[arg(long, default_value = "32MiB")]
    growth: ByteSize,
    /// The seed of all choices [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let again = again(seed);
    eprintln!("{again}");
    let outcome = load::run(&load::Settings {
        watchers: options.watchers,
        connections: 8 + options.watchers / 100,
        rate: options.rate,
        large_rate: options.large_rate,
        whole: options.whole,
        load: options.cycle,
        warm_up: options.cycle / 3,
        fault_pause: options.fault_every,
        fault_length: Duration::from_secs(4),
        longest_pause: Duration::from_secs(10),
        // Two thousand clients that resume at once wait for catch-up permits, and half-open
        // connections keep some of the permits for long.
        calm: Duration::from_secs(300),
        empty: Duration::from_secs(60),
        growth: options.growth.as_u64() as f64,
        status_interval: Duration::from_secs(10),
        seed,
    })
    .await;
    match outcome {
        Ok(()) => {
            eprintln!("it held");
            ExitCode::SUCCESS
        }
        Err(failures) => {
            for failure in &failures {
                eprintln!("FAILED: {failure}");
            }
            eprintln!("again: {again}");
            ExitCode::FAILURE
        }
    }
}

/// The command that runs this again.
fn again(seed: u64) -> String {
    let mut arguments = Vec::new();
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--bench" => {}
            // Its value is the next one.
            "--seed" => drop(given.next()),
            other if other.starts_with("--seed=") => {}
            _ => arguments.push(argument),
        }
    }
    arguments.push(format!("--seed={seed}"));
    format!("make soak SOAK=\"{}\"", arguments.join(" "))
}
