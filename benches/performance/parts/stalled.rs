//! The effect of one client that stopped reading on the others: rounds without and with one
//! alternate, and the others' p99 is compared.

use super::{
    load_run::ServerKind,
    steady::{self, Outcome, Pace},
};
use crate::{
    options::Options,
    report::{
        Bound, Results,
        spread::{Spread, number},
        table::Table,
    },
    upstream::source::Kind,
};

/// A ring so small that the stalled watch falls behind, so that the consequences are measured too.
const RING_BYTES: &str = "--ring-bytes=256KiB";

/// Measures on the stand-in, which adds the least time.
pub fn measure(options: &Options, results: &mut Results) {
    let mut options = options.clone();
    options.weir_flags.push(RING_BYTES.to_owned());
    let kind = Kind::StandIn;
    let paces = steady::slower(options.steady_rate, options.steady_watchers, 0);
    let Some(pace) = steady::first_that_holds(ServerKind::Weir, kind, paces, &options) else {
        eprintln!("no rate holds");
        return;
    };
    let mut rounds: [Vec<Outcome>; 2] = [Vec::new(), Vec::new()];
    for round in 0..options.stalled_rounds {
        let mut order = [0, 1];
        order.rotate_left(round as usize % 2);
        for stalled in order {
            let pace = Pace {
                stalled: stalled as u64,
                ..pace
            };
            match steady::run(ServerKind::Weir, kind, pace, options.seconds, &options) {
                Ok(outcome) => {
                    let p99 = outcome.latencies.p99 as f64 / 1e3;
                    eprintln!("{stalled} stalled: p99 of the others {p99:.2} ms");
                    rounds[stalled].push(outcome);
                }
                Err(error) => eprintln!("{stalled} stalled: {error}"),
            }
        }
    }
    let [none, one] = &rounds;
    let mut table = Table::new([
        "stalled clients",
        "p50 of the others, ms",
        "p99, ms",
        "p99.9, ms",
        "times a watch fell behind",
    ]);
    for (name, outcomes) in [("none", none), ("one", one)] {
        let of = |value: fn(&Outcome) -> u64| {
            Spread::of(outcomes.iter().map(|it| value(it) as f64 / 1e3)).text(2)
        };
        let fell_behind = outcomes.iter().map(|it| it.fell_behind.map(|it| it as f64));
        let fell_behind = Spread::of_known(fell_behind);
        table.add([
            name.to_owned(),
            of(|it| it.latencies.p50),
            of(|it| it.latencies.p99),
            of(|it| it.latencies.p999),
            fell_behind.map_or_else(|| "–".to_owned(), |it| it.text(0)),
        ]);
    }
    let to = format!(
        "{} events/s to {} watchers",
        number(pace.rate as f64, 0),
        number(pace.watchers as f64, 0)
    );
    results.table(
        "others",
        &format!(
            "{to} and one more, {} bytes a document, {} s, {} rounds each in turn, `{RING_BYTES}`",
            options.small_document_bytes, options.seconds, options.stalled_rounds
        ),
        &table,
    );
    let pairs = none.iter().zip(one);
    let ratios = pairs.map(|(none, one)| one.latencies.p99 as f64 / none.latencies.p99 as f64);
    let ratio = Spread::of(ratios);
    results.goal(
        &format!("{to}: the others' p99 with one client stalled, per that with none"),
        Bound::AtMost(1.2, ""),
        ratio.median,
        ratio.text(2),
    );
}
