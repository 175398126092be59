//! One collection, many watchers, each with its own filter: the cost of an event that goes to one
//! of them, and of one that goes to ten.

use std::time::Duration;

use super::load_run::{self, Run, ServerKind, Workload};
use crate::{
    options::Options,
    report::{
        Bound, Results,
        chart::{Chart, Series},
        spread::{Spread, number},
        table::Table,
    },
    upstream::source::{Content, Kind},
};

/// The server's default for `--feeds-per-scope`.
const FEEDS_PER_SCOPE: f64 = 4.0;
/// The minimum number of watchers for the shared matches.
const BASE: u64 = 10;

/// All runs of one server at one step.
struct Cell {
    server_kind: ServerKind,
    watchers: u64,
    matches: u64,
    runs: Vec<Run>,
    failure: Option<String>,
}

/// Measures on the stand-in, which shows the gateway's own cost, and on the database, for its cost
/// and change streams.
pub fn measure(options: &Options, results: &mut Results) {
    for kind in Kind::ALL {
        let cells = measure_on(kind, options);
        let from = match kind {
            Kind::StandIn => "From the stand-in",
            Kind::Database => "From a database",
        };
        results.table(
            kind.key(),
            &format!(
                "{from}, {} bytes a document, bursts of {}, {} rounds",
                options.document_bytes, options.filter_burst, options.filter_rounds
            ),
            &table(&cells),
        );
        if kind == Kind::StandIn {
            results.chart("filters", chart(&cells));
        }
        goals(kind, &cells, results);
    }
}

fn measure_on(kind: Kind, options: &Options) -> Vec<Cell> {
    let all_matches: &[u64] = match kind {
        Kind::StandIn => &[1, 10],
        Kind::Database => &[1],
    };
    let mut cells: Vec<Cell> = Vec::new();
    for &matches in all_matches {
        for server_kind in [ServerKind::Weir, ServerKind::Naive] {
            let steps = options.filters.iter();
            let steps = steps
                .filter(|&&it| server_kind == ServerKind::Weir || it <= options.naive_watchers);
            cells.extend(steps.map(|&watchers| Cell {
                server_kind,
                watchers,
                matches,
                runs: Vec::new(),
                failure: None,
            }));
        }
    }
    // All steps in each round, so that compared values are measured close together.
    for _ in 0..options.filter_rounds {
        for index in 0..cells.len() {
            // A server that failed with fewer watchers is not tried again.
            let (before, rest) = cells.split_at_mut(index);
            let failed = before.iter().any(|it| {
                it.failure.is_some()
                    && (it.server_kind, it.matches) == (rest[0].server_kind, rest[0].matches)
            });
            if !failed {
                rest[0].measure(kind, options);
            }
        }
    }
    cells.retain(|cell| !cell.runs.is_empty() || cell.failure.is_some());
    cells
}

impl Cell {
    fn measure(&mut self, kind: Kind, options: &Options) {
        if self.failure.is_some() {
            return;
        }
        let events = match kind {
            Kind::StandIn => options.filter_events,
            Kind::Database => options.filter_database_events,
        };
        let load = Workload {
            content: Content {
                groups: (self.watchers / self.matches).max(1).cast_signed(),
                bytes: options.document_bytes,
                wide: false,
            },
            events: events.next_multiple_of(options.filter_burst),
            burst: options.filter_burst,
        };
        let limit = Duration::from_secs(options.limit);
        let watchers = (self.watchers, self.matches);
        match load_run::run(
            self.server_kind,
            kind,
            watchers,
            load,
            limit,
            &options.build(),
        ) {
            Ok(run) => {
                eprintln!(
                    "{}, {}, {} filters, {} matches: {} events/s, {:.2} µs an event",
                    kind.key(),
                    self.server_kind.name(),
                    self.watchers / self.matches,
                    self.matches,
                    number(run.events as f64 / run.wall.as_secs_f64(), 0),
                    run.event_cost(),
                );
                self.runs.push(run);
            }
            Err(error) => {
                eprintln!(
                    "{}, {}, {} watchers with filters: {error}",
                    kind.key(),
                    self.server_kind.name(),
                    self.watchers
                );
                self.failure = Some(error.to_string());
            }
        }
    }

    fn of(&self, value: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        Spread::of_known(self.runs.iter().map(value))
    }
}

fn text(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| spread.text(digits))
}

fn table(cells: &[Cell]) -> Table {
    let mut table = Table::new([
        "watchers",
        "distinct filters",
        "matches",
        "server",
        "events/s",
        "its CPU, µs/event",
        "database's CPU, µs/event",
        "change streams on MongoDB",
        "idle, KiB/watcher",
    ]);
    for cell in cells {
        let mut row = vec![
            number(cell.watchers as f64, 0),
            number((cell.watchers / cell.matches) as f64, 0),
            cell.matches.to_string(),
            cell.server_kind.name().to_owned(),
        ];
        if let Some(failure) = &cell.failure {
            row.push(failure.clone());
            row.extend(std::iter::repeat_n(String::new(), 4));
        } else {
            let database = |run: &Run| Some(run.database?.each(run.events));
            let memory = cell.of(|run| Some(run.idle_memory / 1024.0));
            row.extend([
                text(
                    cell.of(|run| Some(run.events as f64 / run.wall.as_secs_f64())),
                    0,
                ),
                text(cell.of(|run| Some(run.event_cost())), 2),
                text(cell.of(database), 2),
                text(cell.of(|run| run.change_streams.map(|it| it as f64)), 0),
                text(memory.filter(|_| cell.watchers >= 100), 1),
            ]);
        }
        table.add(row);
    }
    table
}

fn chart(cells: &[Cell]) -> Chart {
    let series = |server_kind: ServerKind, matches: u64| {
        let own = cells
            .iter()
            .filter(|cell| cell.server_kind == server_kind && cell.matches == matches);
        let points = own.filter_map(|cell| {
            let cost = cell.of(|run| Some(run.event_cost()))?;
            Some((cell.watchers as f64, cost.median))
        });
        Series {
            name: format!("{}, {matches} matches an event", server_kind.name()),
            points: points.collect(),
        }
    };
    let mut all = vec![
        series(ServerKind::Weir, 1),
        series(ServerKind::Weir, 10),
        series(ServerKind::Naive, 1),
        series(ServerKind::Naive, 10),
    ];
    all.retain(|series| !series.points.is_empty());
    Chart::Lines {
        title: "CPU for an event, each watcher with a filter of its own".to_owned(),
        x: "watchers".to_owned(),
        y: "µs/event".to_owned(),
        series: all,
    }
}

/// For the steps with one match: there all filters are distinct, in the smallest step too.
fn goals(kind: Kind, cells: &[Cell], results: &mut Results) {
    let own = || {
        let own = cells
            .iter()
            .filter(|cell| cell.server_kind == ServerKind::Weir);
        own.filter(|cell| cell.matches == 1 && !cell.runs.is_empty())
    };
    let Some(most) = own().max_by_key(|cell| cell.watchers) else {
        return;
    };
    let watchers = number(most.watchers as f64, 0);
    let base = own().find(|cell| cell.watchers == BASE);
    if let (Kind::StandIn, Some(base)) = (kind, base) {
        let rounds = most.runs.iter().zip(&base.runs);
        let ratio = rounds.map(|(most, base)| most.event_cost() / base.event_cost());
        let ratio = Spread::of(ratio);
        results.goal(
            &format!(
                "CPU for an event with one match, {watchers} watchers with filters, per that of \
                 {BASE}"
            ),
            Bound::AtMost(3.0, ""),
            ratio.median,
            ratio.text(2),
        );
    }
    let open = most.of(|run| run.change_streams.map(|it| it as f64));
    if let (Kind::Database, Some(open)) = (kind, open) {
        results.goal(
            &format!("change streams on MongoDB, {watchers} watchers, as many filters"),
            Bound::AtMost(FEEDS_PER_SCOPE + 1.0, ""),
            open.most,
            open.text(0),
        );
    }
}
