//! Two builds of Weir in turn, such as one from before a change and one with it: what each costs, and the
//! ratio within each round, which the machine's other work disturbs least.

use std::{path::Path, time::Duration};

use ::weir::wire::Compression;

use super::{
    load_run::{self, Run, ServerKind, Workload},
    steady::{self, Pace},
};
use crate::{
    client::{
        reader::{Sample, Task},
        reader_kind::ReaderKind,
    },
    gateway::weir::{self, Build},
    options::Options,
    report::{spread::Spread, table::Table},
    system::process::ChildError,
    upstream::{
        collection::Collection,
        document,
        source::{Content, Kind},
        stand_in,
    },
};

/// What is measured of a build in one round, by name, with the unit in the name.
type Figures = Vec<(&'static str, f64)>;

/// Measures a build once.
type Measure = Box<dyn Fn(&Build) -> Result<Figures, ChildError>>;

/// Something to measure.
struct Case {
    name: String,
    measure: Measure,
}

/// Measures this build beside `other`, and prints a table: medians, minimum and maximum, and the ratio of
/// this build's figure to the other's of the same round.
pub fn compare(other: &Path, options: &Options) {
    let own = options.build();
    let other = Build {
        program: other.to_owned(),
        flags: own.flags.clone(),
    };
    let builds = [&other, &own];
    let mut table = Table::new(["what", "other build", "this build", "this per other"]);
    for case in cases(options) {
        let mut rounds: Vec<[Figures; 2]> = Vec::new();
        for round in 0..options.beside_rounds {
            let mut figures = [Figures::new(), Figures::new()];
            let mut order = [0, 1];
            order.rotate_left(round as usize % 2);
            for build in order {
                match (case.measure)(builds[build]) {
                    Ok(measured) => figures[build] = measured,
                    Err(error) => eprintln!("{}: {error}", case.name),
                }
            }
            eprintln!("{}: {figures:?}", case.name);
            rounds.push(figures);
        }
        add_rows(&mut table, &case.name, &rounds);
    }
    eprintln!(
        "\n{} rounds each, in turn\n\n{}",
        options.beside_rounds,
        table.markdown()
    );
}

fn add_rows(table: &mut Table, case: &str, rounds: &[[Figures; 2]]) {
    let complete: Vec<&[Figures; 2]> = rounds
        .iter()
        .filter(|[other, own]| !other.is_empty() && other.len() == own.len())
        .collect();
    let Some([first, _]) = complete.first() else {
        table.add([case, "not finished", "", ""]);
        return;
    };
    for (at, (figure, _)) in first.iter().enumerate() {
        let of = |build: usize| Spread::of(complete.iter().map(|round| round[build][at].1)).text(2);
        let ratio = Spread::of(complete.iter().map(|[other, own]| own[at].1 / other[at].1));
        table.add([format!("{case}: {figure}"), of(0), of(1), ratio.text(3)]);
    }
}

fn cases(options: &Options) -> Vec<Case> {
    let mut cases = vec![one_watcher(options)];
    cases.extend(
        options
            .watchers
            .iter()
            .map(|&it| fan_out(it, ServerKind::Weir, options)),
    );
    for compression in [Compression::Gzip, Compression::Zstd] {
        let watchers = options
            .watchers
            .iter()
            .copied()
            .filter(|it| *it <= 1_000)
            .max()
            .unwrap_or(1);
        cases.push(fan_out(
            watchers,
            ServerKind::WeirCompressing(compression),
            options,
        ));
    }
    cases.extend(options.filters.iter().map(|&it| filters(it, options)));
    cases.push(latency(options));
    cases
}

/// One client that reads what is ready.
fn one_watcher(options: &Options) -> Case {
    let (events, batch) = (options.stand_in_events, options.batch);
    let measure = move |build: &Build| {
        let stand_in = stand_in::start(&stand_in::Task {
            events,
            batch,
            groups: 1,
            bytes: document::BYTES,
            wide: false,
        });
        let weir = weir::start(stand_in.uri(), build);
        let collection =
            Collection::existing(stand_in.uri(), stand_in::DATABASE, stand_in::COLLECTION);
        let task = Task {
            reader_kind: ReaderKind::Weir,
            uri: stand_in.uri().to_owned(),
            url: weir.url().to_owned(),
            database: collection.database().to_owned(),
            collection: collection.name().to_owned(),
            token: collection.start_tokens(weir.url()).of(ReaderKind::Weir),
            events,
            live: false,
        };
        let Sample { wall, weir, .. } = task.measure(&weir, || {});
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / events as f64;
        Ok(vec![
            ("CPU, µs an event", micros(weir)),
            ("time, µs an event", micros(wall)),
        ])
    };
    Case {
        name: "one watcher, the past".to_owned(),
        measure: Box::new(measure),
    }
}

/// Many clients with one filter.
fn fan_out(watchers: u64, server_kind: ServerKind, options: &Options) -> Case {
    let events = (options.deliveries / watchers).clamp(40, 20_000);
    let load = Workload {
        content: Content {
            groups: 1,
            bytes: options.document_bytes,
            wide: false,
        },
        events: events.next_multiple_of(options.burst),
        burst: options.burst,
    };
    let figures = |run: &Run| {
        vec![
            ("CPU, µs a delivery", run.cost()),
            ("time, µs a delivery", 1e6 / run.rate()),
            ("idle memory, KiB a watcher", run.idle_memory / 1024.0),
        ]
    };
    load_case(
        format!("{watchers} watchers, {}", server_kind.name()),
        server_kind,
        (watchers, 0),
        load,
        options,
        figures,
    )
}

/// Many clients, each with its own filter.
fn filters(watchers: u64, options: &Options) -> Case {
    let load = Workload {
        content: Content {
            groups: watchers.cast_signed(),
            bytes: options.document_bytes,
            wide: false,
        },
        events: options.filter_events.next_multiple_of(options.filter_burst),
        burst: options.filter_burst,
    };
    let figures = |run: &Run| vec![("CPU, µs an event", run.event_cost())];
    load_case(
        format!("{watchers} filters"),
        ServerKind::Weir,
        (watchers, 1),
        load,
        options,
        figures,
    )
}

fn load_case(
    name: String,
    server_kind: ServerKind,
    watchers: (u64, u64),
    load: Workload,
    options: &Options,
    figures: fn(&Run) -> Figures,
) -> Case {
    let limit = Duration::from_secs(options.limit);
    let measure = move |build: &Build| {
        let run = load_run::run(server_kind, Kind::StandIn, watchers, load, limit, build)?;
        Ok(figures(&run))
    };
    Case {
        name,
        measure: Box::new(measure),
    }
}

/// Many clients under a steady writer.
fn latency(options: &Options) -> Case {
    let pace = Pace {
        rate: (options.steady_rate / 5).max(1),
        watchers: options.steady_watchers,
        stalled: 0,
    };
    let options = options.clone();
    let name = format!("{} events/s to {} watchers", pace.rate, pace.watchers);
    let measure = move |build: &Build| {
        let outcome = steady::run_build(
            ServerKind::Weir,
            Kind::StandIn,
            pace,
            options.seconds,
            &options,
            build,
        )?;
        let millis = |micros: u64| micros as f64 / 1e3;
        Ok(vec![
            ("p50, ms", millis(outcome.latencies.p50)),
            ("p99, ms", millis(outcome.latencies.p99)),
        ])
    };
    Case {
        name,
        measure: Box::new(measure),
    }
}
