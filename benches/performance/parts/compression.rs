//! One collection, many watchers, one filter: what compression costs Weir, which compresses a message
//! once, compared with none and with a server that compresses it for each watcher.

use std::time::Duration;

use ::weir::wire::Compression;

use super::load_run::{self, Run, ServerKind, Workload};
use crate::{
    options::Options,
    report::{
        Bound, Results,
        spread::{Spread, number},
        table::Table,
    },
    upstream::source::{Content, Kind},
};

/// The minimum and the maximum number of events of a step.
const FEWEST: u64 = 40;
const MOST: u64 = 20_000;

const SERVERS: [ServerKind; 6] = [
    ServerKind::Weir,
    ServerKind::WeirCompressing(Compression::Gzip),
    ServerKind::WeirCompressing(Compression::Zstd),
    ServerKind::ReadyBursts,
    ServerKind::ReadyCompressing(Compression::Gzip),
    ServerKind::ReadyCompressing(Compression::Zstd),
];

/// Measures every server with every number of watchers, in rounds in which the servers alternate.
pub fn measure(options: &Options, results: &mut Results) {
    let mut table = Table::new([
        "watchers",
        "server",
        "deliveries/s",
        "its CPU, µs/delivery",
        "bytes/delivery",
    ]);
    for &watchers in &options.compression_watchers {
        let mut runs: [Vec<Run>; SERVERS.len()] = Default::default();
        for round in 0..options.fan_out_rounds as usize {
            // Each round starts with another server.
            for turn in 0..SERVERS.len() {
                let at = (round + turn) % SERVERS.len();
                match run(SERVERS[at], watchers, options) {
                    Ok(run) => runs[at].push(run),
                    Err(error) => eprintln!("{}, {watchers} watchers: {error}", SERVERS[at].name()),
                }
            }
        }
        for (server_kind, runs) in SERVERS.iter().zip(&runs) {
            let of = |value: fn(&Run) -> Option<f64>, digits| {
                let spread = Spread::of_known(runs.iter().map(value));
                spread.map_or_else(|| "–".to_owned(), |spread| spread.text(digits))
            };
            table.add([
                number(watchers as f64, 0),
                server_kind.name().to_owned(),
                of(|run| Some(run.rate()), 0),
                of(|run| Some(run.cost()), 2),
                of(Run::bytes_each, 0),
            ]);
        }
        // A single watcher shares with nobody.
        if watchers > 1 {
            goals(watchers, &runs, results);
        }
    }
    let title = format!(
        "From the stand-in, {} bytes a document, bursts of {}, {} rounds",
        options.document_bytes, options.burst, options.fan_out_rounds
    );
    results.table("stand-in", &title, &table);
}

fn run(
    server_kind: ServerKind,
    watchers: u64,
    options: &Options,
) -> Result<Run, crate::system::process::ChildError> {
    let events = (options.deliveries / watchers).clamp(FEWEST, MOST);
    let load = Workload {
        content: Content {
            groups: 1,
            bytes: options.document_bytes,
            wide: false,
        },
        events: events.next_multiple_of(options.burst),
        burst: options.burst,
    };
    let limit = Duration::from_secs(options.limit);
    let run = load_run::run(
        server_kind,
        Kind::StandIn,
        (watchers, 0),
        load,
        limit,
        &options.build(),
    )?;
    eprintln!(
        "{}, {watchers} watchers: {} deliveries/s, {:.2} µs each",
        server_kind.name(),
        number(run.rate(), 0),
        run.cost(),
    );
    Ok(run)
}

fn goals(watchers: u64, runs: &[Vec<Run>], results: &mut Results) {
    let [plain, gzip, zstd, _, ready_gzip, ready_zstd] = runs else {
        return;
    };
    let watched = number(watchers as f64, 0);
    let ratio = |first: &[Run], second: &[Run]| {
        let rounds = first.iter().zip(second);
        let ratios: Vec<f64> = rounds
            .map(|(first, second)| first.cost() / second.cost())
            .collect();
        (!ratios.is_empty()).then(|| Spread::of(ratios))
    };
    for (name, once, each) in [("gzip", gzip, ready_gzip), ("zstd", zstd, ready_zstd)] {
        if let Some(ratio) = ratio(once, plain) {
            results.goal(
                &format!(
                    "{watched} watchers: Weir's CPU for a delivery with {name}, per that without"
                ),
                Bound::AtMost(1.2, ""),
                ratio.median,
                ratio.text(2),
            );
        }
        if let Some(ratio) = ratio(once, each) {
            results.goal(
                &format!(
                    "{watched} watchers: Weir's CPU for a delivery with {name}, per that of sending ready bytes with {name} for each"
                ),
                Bound::AtMost(0.5, ""),
                ratio.median,
                ratio.text(2),
            );
        }
    }
}
