//! One collection, many watchers, one filter: the cost of a delivery, compared with the naive
//! gateway and with the minimum of a gRPC server.

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

/// The minimum number of events of a step.
const FEWEST: u64 = 40;
/// The maximum number of events of a step.
const MOST: u64 = 20_000;
/// The number of watchers in the goals.
const GOAL_WATCHERS: u64 = 1_000;

/// All runs of one server with one number of watchers.
struct Cell {
    kind: Kind,
    server_kind: ServerKind,
    watchers: u64,
    runs: Vec<Run>,
    /// The reason why there are no more runs.
    failure: Option<String>,
}

/// Measures every step, in rounds in which the servers alternate.
pub fn measure(options: &Options, results: &mut Results) {
    for kind in Kind::ALL {
        let cells = measure_on(kind, options);
        results.table(
            kind.key(),
            &format!(
                "{}, {} bytes a document, bursts of {}, {} rounds",
                title(kind),
                options.document_bytes,
                options.burst,
                options.fan_out_rounds
            ),
            &costs(&cells),
        );
        results.table(
            &format!("{}-memory", kind.key()),
            "Memory and change streams",
            &memory(&cells),
        );
        results.chart(&format!("fan-out-{}", kind.key()), chart(kind, &cells));
        goals(kind, &cells, results);
    }
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Database => "From a database",
        Kind::StandIn => "From the stand-in",
    }
}

fn measure_on(kind: Kind, options: &Options) -> Vec<Cell> {
    let server_kinds: &[ServerKind] = match kind {
        Kind::StandIn => &[
            ServerKind::Weir,
            ServerKind::Naive,
            ServerKind::Ready,
            ServerKind::ReadyBursts,
        ],
        // Ready bytes do not come from a database.
        Kind::Database => &[ServerKind::Weir, ServerKind::Naive],
    };
    let mut cells = Vec::new();
    // Servers that failed with fewer watchers are not tried with more.
    let mut beyond: Vec<ServerKind> = Vec::new();
    let steps = match kind {
        Kind::StandIn => &options.watchers,
        Kind::Database => &options.database_watchers,
    };
    for &watchers in steps {
        let mut step: Vec<Cell> = server_kinds
            .iter()
            .filter(|server_kind| !beyond.contains(server_kind))
            .filter(|server_kind| {
                **server_kind != ServerKind::Naive || watchers <= options.naive_watchers
            })
            .map(|&server_kind| Cell {
                kind,
                server_kind,
                watchers,
                runs: Vec::new(),
                failure: None,
            })
            .collect();
        for round in 0..options.fan_out_rounds {
            // Each round starts with another server.
            if round > 0 && !step.is_empty() {
                step.rotate_left(1);
            }
            for cell in &mut step {
                cell.measure(options);
            }
        }
        step.sort_by_key(|cell| {
            server_kinds
                .iter()
                .position(|server_kind| *server_kind == cell.server_kind)
        });
        beyond.extend(
            step.iter()
                .filter(|it| it.failure.is_some())
                .map(|it| it.server_kind),
        );
        cells.extend(step);
    }
    cells
}

impl Cell {
    fn measure(&mut self, options: &Options) {
        if self.failure.is_some() {
            return;
        }
        let deliveries = match self.kind {
            Kind::Database => options.database_deliveries,
            Kind::StandIn => options.deliveries,
        };
        let events = (deliveries / self.watchers).clamp(FEWEST, MOST);
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
        let watchers = (self.watchers, 0);
        let (server_kind, kind) = (self.server_kind, self.kind);
        match load_run::run(server_kind, kind, watchers, load, limit, &options.build()) {
            Ok(run) => {
                eprintln!(
                    "{}, {}, {} watchers: {} deliveries/s, {:.2} µs each; load generator {:.2} µs",
                    kind.key(),
                    server_kind.name(),
                    self.watchers,
                    number(run.rate(), 0),
                    run.cost(),
                    run.load_generator.each(run.deliveries),
                );
                self.runs.push(run);
            }
            Err(error) => {
                eprintln!(
                    "{}, {}, {} watchers: {error}",
                    kind.key(),
                    server_kind.name(),
                    self.watchers
                );
                self.failure = Some(error.to_string());
            }
        }
    }

    fn of(&self, value: impl Fn(&Run) -> f64) -> Option<Spread> {
        Spread::of_known(self.runs.iter().map(|run| Some(value(run))))
    }

    fn of_known(&self, value: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        Spread::of_known(self.runs.iter().map(value))
    }

    fn whole_cost(run: &Run) -> Option<f64> {
        Some(run.cost() + run.database_cost()?)
    }
}

fn text(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| spread.text(digits))
}

fn costs(cells: &[Cell]) -> Table {
    let mut table = Table::new([
        "watchers",
        "server",
        "deliveries/s",
        "its CPU, µs/delivery",
        "of that user",
        "database's CPU, µs/delivery",
        "both",
    ]);
    for cell in cells {
        let mut row = vec![
            number(cell.watchers as f64, 0),
            cell.server_kind.name().to_owned(),
        ];
        match &cell.failure {
            Some(failure) => {
                row.push(failure.clone());
                row.extend(std::iter::repeat_n(String::new(), 4));
            }
            None => {
                let user = |run: &Run| run.gateway.user.as_secs_f64() * 1e6 / run.deliveries as f64;
                row.extend([
                    text(cell.of(Run::rate), 0),
                    text(cell.of(Run::cost), 2),
                    text(cell.of(user), 2),
                    text(cell.of_known(Run::database_cost), 2),
                    text(cell.of_known(Cell::whole_cost), 2),
                ]);
            }
        }
        table.add(row);
    }
    table
}

fn memory(cells: &[Cell]) -> Table {
    let mut table = Table::new([
        "watchers",
        "server",
        "change streams on MongoDB",
        "feeds, as Weir says",
        "idle, KiB/watcher",
        "after traffic, KiB/watcher",
        "all open after, s",
    ]);
    for cell in cells.iter().filter(|cell| !cell.runs.is_empty()) {
        let cursors = |run: &Run| run.change_streams.map(|it| it as f64);
        // With few watchers a server's own memory hides what they add.
        let many = cell.watchers >= 100;
        let kibibytes = |value: fn(&Run) -> f64| {
            let spread = cell.of(|run| value(run) / 1024.0);
            text(spread.filter(|_| many), 1)
        };
        table.add([
            number(cell.watchers as f64, 0),
            cell.server_kind.name().to_owned(),
            text(cell.of_known(cursors), 0),
            text(cell.of_known(|run| run.feeds.map(|it| it as f64)), 0),
            kibibytes(|run| run.idle_memory),
            kibibytes(|run| run.busy_memory),
            text(cell.of(|run| run.opening.as_secs_f64()), 2),
        ]);
    }
    table
}

fn chart(kind: Kind, cells: &[Cell]) -> Chart {
    let series = |name: &str, server_kind: ServerKind, value: &dyn Fn(&Cell) -> Option<Spread>| {
        let own = cells.iter().filter(|cell| cell.server_kind == server_kind);
        let points = own.filter_map(|cell| Some((cell.watchers as f64, value(cell)?.median)));
        Series {
            name: name.to_owned(),
            points: points.collect(),
        }
    };
    let own = |cell: &Cell| cell.of(Run::cost);
    let whole = |cell: &Cell| cell.of_known(Cell::whole_cost);
    let mut all = vec![
        series("Weir", ServerKind::Weir, &own),
        series("naive gateway", ServerKind::Naive, &own),
    ];
    match kind {
        Kind::StandIn => all.push(series("ready bytes", ServerKind::Ready, &own)),
        Kind::Database => all.extend([
            series("Weir and database", ServerKind::Weir, &whole),
            series("naive gateway and database", ServerKind::Naive, &whole),
        ]),
    }
    all.retain(|series| !series.points.is_empty());
    Chart::Lines {
        title: format!("CPU for a delivery, {}", title(kind).to_lowercase()),
        x: "watchers of one collection".to_owned(),
        y: "µs/delivery".to_owned(),
        series: all,
    }
}

/// Both cells at the goal's number of watchers, or at the largest number that both survived.
fn pair(cells: &[Cell], server_kinds: [ServerKind; 2]) -> Option<(&Cell, &Cell)> {
    let of = |server_kind: ServerKind| {
        let survived = cells
            .iter()
            .filter(move |cell| cell.server_kind == server_kind);
        survived.filter(|cell| cell.failure.is_none() && !cell.runs.is_empty())
    };
    let pairs = of(server_kinds[0]).filter_map(|first| {
        let second = of(server_kinds[1]).find(|second| second.watchers == first.watchers)?;
        (first.watchers <= GOAL_WATCHERS).then_some((first, second))
    });
    pairs.max_by_key(|(first, _)| first.watchers)
}

/// The first value divided by the second, round by round.
fn ratio((first, second): (&Cell, &Cell), value: impl Fn(&Run) -> Option<f64>) -> Spread {
    let rounds = first.runs.iter().zip(&second.runs);
    let ratios = rounds.filter_map(|(first, second)| Some(value(first)? / value(second)?));
    Spread::of(ratios)
}

fn goals(kind: Kind, cells: &[Cell], results: &mut Results) {
    let at = |watchers: u64| {
        let watched = number(watchers as f64, 0);
        if watchers == GOAL_WATCHERS {
            format!("{watched} watchers")
        } else {
            let goal = number(GOAL_WATCHERS as f64, 0);
            format!("{watched} watchers (not {goal})")
        }
    };
    if let Some(pair) = pair(cells, [ServerKind::Weir, ServerKind::Naive]) {
        let own = ratio(pair, |run| Some(run.cost()));
        let from = title(kind).to_lowercase();
        results.goal(
            &format!(
                "{}, {from}: Weir's CPU for a delivery, per the naive gateway's",
                at(pair.0.watchers)
            ),
            Bound::AtMost(0.2, ""),
            own.median,
            own.text(3),
        );
        if kind == Kind::Database && pair.0.runs.iter().all(|run| run.database.is_some()) {
            let whole = ratio(pair, Cell::whole_cost);
            results.goal(
                &format!(
                    "{}, {from}: the same, with the database's",
                    at(pair.0.watchers)
                ),
                Bound::AtMost(0.05, ""),
                whole.median,
                whole.text(3),
            );
        }
    }
    if let Some(pair) = pair(cells, [ServerKind::Weir, ServerKind::Ready]) {
        let ratio = ratio(pair, |run| Some(run.cost()));
        results.goal(
            &format!(
                "{}: Weir's CPU for a delivery, per that of sending ready bytes",
                at(pair.0.watchers)
            ),
            Bound::AtMost(1.5, ""),
            ratio.median,
            ratio.text(2),
        );
    }
    let own = cells.iter().filter(|it| it.server_kind == ServerKind::Weir);
    let Some(most) = own
        .filter(|it| !it.runs.is_empty())
        .max_by_key(|it| it.watchers)
    else {
        return;
    };
    let watchers = number(most.watchers as f64, 0);
    match kind {
        Kind::Database => {
            if let Some(open) = most.of_known(|run| run.change_streams.map(|it| it as f64)) {
                results.goal(
                    &format!("change streams on MongoDB, {watchers} watchers, one filter"),
                    Bound::AtMost(1.0, ""),
                    open.most,
                    open.text(0),
                );
            }
        }
        Kind::StandIn => {
            if let Some(memory) = most.of(|run| run.idle_memory / 1024.0) {
                results.goal(
                    &format!("resident memory for an idle watcher, {watchers} of them"),
                    Bound::AtMost(16.0, " KiB"),
                    memory.median,
                    memory.text(1),
                );
            }
        }
    }
}
