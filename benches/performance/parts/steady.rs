//! Latencies while a writer writes at a steady rate: Weir and the naive gateway, each at the load
//! that it sustains, and Weir again at the load that the naive one sustains.

use std::time::Duration;

use super::load_run::{ServerKind, Workload};
use crate::{
    client::load_generator::{Latencies, LoadGenerator, Plan},
    gateway::weir::Build,
    options::Options,
    report::{
        Results,
        chart::{Chart, Series},
        spread::number,
        table::Table,
    },
    system::{pause, process::ChildError},
    upstream::source::{Content, Kind, Source},
};

/// The duration of the warm-up, which does not count.
const WARM_UP_SECONDS: u64 = 1;
/// The duration of the trial of a rate.
const TRIAL_SECONDS: u64 = 3;
/// The maximum time from the last event to the last delivery for a rate that is sustained.
const LONGEST_TAIL: Duration = Duration::from_millis(500);
/// The minimum share of the requested rate that the source must reach.
const LEAST_SHARE: f64 = 0.95;

/// A load: events per second to how many watchers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    pub rate: u64,
    pub watchers: u64,
    pub stalled: u64,
}

/// The results of a run.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    pub latencies: Latencies,
    /// Events per second that the source reached.
    pub reached: f64,
    /// The time from the last event to the last delivery.
    pub tail: Duration,
    /// The number of times a watch fell behind Weir's ring.
    pub fell_behind: Option<u64>,
}

impl Outcome {
    /// Returns whether source and gateway kept up.
    pub fn holds(&self, pace: Pace) -> bool {
        self.tail <= LONGEST_TAIL && self.reached >= LEAST_SHARE * pace.rate as f64
    }
}

/// Sends at this pace for this many seconds.
pub fn run(
    server_kind: ServerKind,
    kind: Kind,
    pace: Pace,
    seconds: u64,
    options: &Options,
) -> Result<Outcome, ChildError> {
    run_build(server_kind, kind, pace, seconds, options, &options.build())
}

/// The same with this build of Weir.
pub fn run_build(
    server_kind: ServerKind,
    kind: Kind,
    pace: Pace,
    seconds: u64,
    options: &Options,
    build: &Build,
) -> Result<Outcome, ChildError> {
    let content = Content {
        groups: 1,
        bytes: options.small_document_bytes,
        wide: false,
    };
    let load = Workload {
        content,
        events: 0,
        burst: 1,
    };
    let limit = Duration::from_secs(options.limit);
    let mut source = Source::start(kind, content);
    let gateway = server_kind.start(Some(&source), pace.watchers, load, build);
    let plan = Plan {
        accept: None,
        fields: &[],
        database: source.database().to_owned(),
        collection: source.collection().to_owned(),
        watchers: pace.watchers,
        groups: 1,
        matches: 0,
        stalled: pace.stalled,
    };
    let mut load_generator = LoadGenerator::open(&gateway, &plan, limit)?;
    pause(Duration::from_millis(200));
    source.steady(pace.rate, pace.rate * WARM_UP_SECONDS, limit)?;
    load_generator.wait_for(source.sent() * pace.watchers, limit)?;
    load_generator.record()?;
    let reached = source.steady(pace.rate, pace.rate * seconds, limit)?;
    let sent = tokio::time::Instant::now();
    load_generator.wait_for(source.sent() * pace.watchers, limit)?;
    let tail = sent.elapsed();
    let latencies = load_generator.latencies()?;
    load_generator.check(source.sent())?;
    Ok(Outcome {
        latencies,
        reached,
        tail,
        fell_behind: gateway.fell_behind(),
    })
}

/// The first of these paces that is sustained for a moment.
pub fn first_that_holds(
    server_kind: ServerKind,
    kind: Kind,
    paces: impl IntoIterator<Item = Pace>,
    options: &Options,
) -> Option<Pace> {
    paces.into_iter().find(|pace| {
        let trial = run(
            server_kind,
            kind,
            *pace,
            TRIAL_SECONDS.min(options.seconds),
            options,
        );
        let (holds, why) = match trial {
            Ok(outcome) => (
                outcome.holds(*pace),
                format!(
                    "{:.0} events/s, the last delivery {} ms after the last event",
                    outcome.reached,
                    outcome.tail.as_millis()
                ),
            ),
            Err(error) => (false, error.to_string()),
        };
        eprintln!(
            "{}, {}, {} events/s to {} watchers {}: {why}",
            kind.key(),
            server_kind.name(),
            pace.rate,
            pace.watchers,
            if holds { "holds" } else { "does not hold" },
        );
        holds
    })
}

/// The paces to try for a goal: fewer events per second to as many watchers.
pub fn slower(rate: u64, watchers: u64, stalled: u64) -> impl Iterator<Item = Pace> {
    [1, 2, 4, 10, 20, 50, 100]
        .into_iter()
        .map(move |part| Pace {
            rate: (rate / part).max(1),
            watchers,
            stalled,
        })
}

/// As many events per second to fewer watchers.
fn fewer(pace: Pace) -> impl Iterator<Item = Pace> {
    [1, 2, 4, 10, 20, 50, 100, 1_000]
        .into_iter()
        .map(move |part| Pace {
            watchers: (pace.watchers / part).max(1),
            ..pace
        })
}

/// Measures both gateways with both sources.
pub fn measure(options: &Options, results: &mut Results) {
    for kind in Kind::ALL {
        let rate = match kind {
            Kind::StandIn => options.steady_rate,
            Kind::Database => options.steady_database_rate,
        };
        let rows = measure_on(kind, rate, options);
        let from = match kind {
            Kind::StandIn => "stand-in",
            Kind::Database => "database",
        };
        let mut table = Table::new([
            "server",
            "events/s",
            "watchers",
            "p50, ms",
            "p99, ms",
            "p99.9, ms",
            "longest, ms",
        ]);
        for (server_kind, pace, outcome) in &rows {
            let at = |micros: u64| number(micros as f64 / 1e3, 2);
            let latencies = outcome.latencies;
            table.add([
                server_kind.name().to_owned(),
                number(pace.rate as f64, 0),
                number(pace.watchers as f64, 0),
                at(latencies.p50),
                at(latencies.p99),
                at(latencies.p999),
                at(latencies.longest),
            ]);
        }
        results.table(
            kind.key(),
            &format!(
                "From the {from}: asked for {} events/s to {} watchers, {} bytes a document, {} s; \
                 what of that holds on this machine",
                number(rate as f64, 0),
                number(options.steady_watchers as f64, 0),
                options.small_document_bytes,
                options.seconds
            ),
            &table,
        );
        results.chart(&format!("steady-{}", kind.key()), chart(from, &rows));
    }
}

type Row = (ServerKind, Pace, Outcome);

fn measure_on(kind: Kind, rate: u64, options: &Options) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |server_kind: ServerKind, pace: Pace| match run(
        server_kind,
        kind,
        pace,
        options.seconds,
        options,
    ) {
        Ok(outcome) => rows.push((server_kind, pace, outcome)),
        Err(error) => eprintln!("{}, {}: {error}", kind.key(), server_kind.name()),
    };
    let paces = slower(rate, options.steady_watchers, 0);
    let Some(own) = first_that_holds(ServerKind::Weir, kind, paces, options) else {
        return rows;
    };
    add(ServerKind::Weir, own);
    let most = Pace {
        watchers: own.watchers.min(options.naive_watchers),
        ..own
    };
    if let Some(theirs) = first_that_holds(ServerKind::Naive, kind, fewer(most), options) {
        if theirs != own {
            add(ServerKind::Weir, theirs);
        }
        add(ServerKind::Naive, theirs);
    }
    rows
}

fn chart(from: &str, rows: &[Row]) -> Chart {
    let series = rows.iter().map(|(server_kind, pace, outcome)| {
        let Latencies { p50, p99, p999, .. } = outcome.latencies;
        let points = [("p50", p50), ("p99", p99), ("p99.9", p999)];
        Series {
            name: format!(
                "{}, {}/s to {}",
                server_kind.name(),
                pace.rate,
                number(pace.watchers as f64, 0)
            ),
            points: points
                .map(|(name, micros)| (name.to_owned(), micros as f64 / 1e3))
                .into(),
        }
    });
    Chart::Dots {
        title: format!("From write to watcher at a steady rate, from the {from}"),
        x: "ms".to_owned(),
        series: series.collect(),
    }
}
