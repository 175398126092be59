//! Documents of thirty fields, for watchers that ask for two of them and for watchers that get all: bytes and CPU for
//! each delivery.

use std::time::Duration;

use super::load_run::{self, Run, ServerKind, Workload};
use crate::{
    options::Options,
    report::{
        Bound, Results,
        spread::{Spread, number},
        table::Table,
    },
    system::process::ChildError,
    upstream::source::{Content, Kind},
};

/// The minimum and the maximum number of events of a step.
const FEWEST: u64 = 400;
const MOST: u64 = 100_000;

const SERVERS: [ServerKind; 2] = [ServerKind::Weir, ServerKind::WeirProjecting];

/// Measures both with every number of watchers, in rounds in which they alternate.
pub fn measure(options: &Options, results: &mut Results) {
    let mut table = Table::new([
        "watchers",
        "fields",
        "deliveries/s",
        "Weir's CPU, µs/delivery",
        "bytes/delivery",
    ]);
    for &watchers in &options.fields_watchers {
        let mut runs: [Vec<Run>; SERVERS.len()] = Default::default();
        for round in 0..options.rounds as usize {
            for turn in 0..SERVERS.len() {
                let at = (round + turn) % SERVERS.len();
                match run(SERVERS[at], watchers, options) {
                    Ok(run) => runs[at].push(run),
                    Err(error) => eprintln!("{}, {watchers} watchers: {error}", SERVERS[at].name()),
                }
            }
        }
        for (fields, runs) in ["all 30", "2 and `_id`"].iter().zip(&runs) {
            let of = |value: fn(&Run) -> Option<f64>, digits| {
                let spread = Spread::of_known(runs.iter().map(value));
                spread.map_or_else(|| "–".to_owned(), |spread| spread.text(digits))
            };
            table.add([
                number(watchers as f64, 0),
                (*fields).to_owned(),
                of(|run| Some(run.rate()), 0),
                of(|run| Some(run.cost()), 2),
                of(Run::bytes_each, 0),
            ]);
        }
        goals(watchers, &runs, results);
    }
    let title = format!(
        "From the stand-in, {} bytes a document, bursts of {}, {} rounds",
        options.document_bytes, options.burst, options.rounds
    );
    results.table("stand-in", &title, &table);
}

fn run(server_kind: ServerKind, watchers: u64, options: &Options) -> Result<Run, ChildError> {
    let events = (options.deliveries / watchers).clamp(FEWEST, MOST);
    let load = Workload {
        content: Content {
            groups: 1,
            bytes: options.document_bytes,
            wide: true,
        },
        events: events.next_multiple_of(options.burst),
        burst: options.burst,
    };
    let limit = Duration::from_secs(options.limit);
    let build = options.build();
    let run = load_run::run(
        server_kind,
        Kind::StandIn,
        (watchers, 0),
        load,
        limit,
        &build,
    )?;
    eprintln!(
        "{}, {watchers} watchers: {} deliveries/s, {:.2} µs and {:.0} bytes each",
        server_kind.name(),
        number(run.rate(), 0),
        run.cost(),
        run.bytes_each().unwrap_or_default(),
    );
    Ok(run)
}

fn goals(watchers: u64, [all, two]: &[Vec<Run>; 2], results: &mut Results) {
    let watched = match watchers {
        1 => "one watcher".to_owned(),
        many => format!("{} watchers", number(many as f64, 0)),
    };
    let mut goal = |what: &str, most, value: fn(&Run) -> Option<f64>| {
        let rounds = two.iter().zip(all);
        let ratios: Option<Vec<f64>> = rounds
            .map(|(two, all)| Some(value(two)? / value(all)?))
            .collect();
        let Some(ratios) = ratios.filter(|ratios| !ratios.is_empty()) else {
            return;
        };
        let ratio = Spread::of(ratios);
        let what = format!("{watched}: {what} of 2 of 30 fields, per that of all");
        results.goal(&what, Bound::AtMost(most, ""), ratio.median, ratio.text(2));
    };
    goal("bytes for a delivery", 0.3, Run::bytes_each);
    goal("Weir's CPU for a delivery", 1.1, |run| Some(run.cost()));
}
