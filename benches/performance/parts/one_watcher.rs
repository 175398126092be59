//! One watcher through Weir, compared with the driver's own typed change stream: events per second
//! and CPU per event, for past and live events.

use crate::{
    client::{
        reader::{Sample, Task},
        reader_kind::ReaderKind,
    },
    gateway::weir,
    options::Options,
    report::{Bound, Results, spread::Spread, table::Table},
    upstream::{collection::Collection, database, document, stand_in},
};

/// The same inserts, read from right before the first of them.
pub fn from_database(options: &Options, results: &mut Results) {
    let database = database::start();
    let weir = weir::start(database.uri(), &options.build());
    let collection = Collection::fresh(database.uri());
    let start = collection.start_tokens(weir.url());
    collection.insert(0, options.events);
    let mut samples = Samples::default();
    for round in 0..options.rounds {
        for reader_kind in ReaderKind::rotated(round) {
            let task = Task {
                reader_kind,
                uri: database.uri().to_owned(),
                url: weir.url().to_owned(),
                database: collection.database().to_owned(),
                collection: collection.name().to_owned(),
                token: start.of(reader_kind),
                events: options.events,
                live: false,
            };
            samples.add(reader_kind, task.measure(&weir, || {}));
        }
    }
    let title = format!(
        "The past, from {}: {} inserts, {} rounds",
        database.name(),
        options.events,
        options.rounds
    );
    results.table("readers", &title, &samples.table());
    samples.goals("the past, from a database", 1.0, results);
}

/// Batches that are ready before they are requested.
pub fn from_stand_in(options: &Options, results: &mut Results) {
    let stand_in = stand_in::start(&stand_in::Task {
        events: options.stand_in_events,
        batch: options.batch,
        groups: 1,
        bytes: document::BYTES,
        wide: false,
    });
    let weir = weir::start(stand_in.uri(), &options.build());
    let collection = Collection::existing(stand_in.uri(), stand_in::DATABASE, stand_in::COLLECTION);
    let start = collection.start_tokens(weir.url());
    let mut samples = Samples::default();
    for round in 0..options.rounds {
        for reader_kind in ReaderKind::rotated(round) {
            let task = Task {
                reader_kind,
                uri: stand_in.uri().to_owned(),
                url: weir.url().to_owned(),
                database: collection.database().to_owned(),
                collection: collection.name().to_owned(),
                token: start.of(reader_kind),
                events: options.stand_in_events,
                live: false,
            };
            samples.add(reader_kind, task.measure(&weir, || {}));
        }
    }
    let title = format!(
        "From a stand-in that does not limit: {} inserts in replies of {}, {} rounds",
        options.stand_in_events, options.batch, options.rounds
    );
    results.table("readers", &title, &samples.table());
    samples.goals("from the stand-in", 2.0, results);
}

/// Inserts at the full speed of one writer, read as they come; each round has its own Weir and
/// collection, so that no change stream is left open.
pub fn live(options: &Options, results: &mut Results) {
    let database = database::start();
    let mut samples = Samples::default();
    for round in 0..options.rounds {
        for reader_kind in ReaderKind::rotated(round) {
            let weir = weir::start(database.uri(), &options.build());
            let collection = Collection::fresh(database.uri());
            let task = Task {
                reader_kind,
                uri: database.uri().to_owned(),
                url: weir.url().to_owned(),
                database: collection.database().to_owned(),
                collection: collection.name().to_owned(),
                token: String::new(),
                events: options.live_events,
                live: true,
            };
            let write = || collection.insert(0, options.live_events);
            samples.add(reader_kind, task.measure(&weir, write));
        }
    }
    let title = format!(
        "Live, from {}: {} inserts by one writer at full speed, {} rounds",
        database.name(),
        options.live_events,
        options.rounds
    );
    results.table("readers", &title, &samples.table());
    samples.goals("live, from a database", 1.0, results);
}

/// The samples of all readings.
#[derive(Debug, Default)]
struct Samples(Vec<(ReaderKind, Sample)>);

impl Samples {
    /// Adds and prints a sample.
    fn add(&mut self, reader_kind: ReaderKind, sample: Sample) {
        eprintln!(
            "{}: {:.0} events/s, reader {:.2} µs, Weir {:.2} µs an event",
            reader_kind.name(),
            rate(&sample),
            cost(&sample, sample.reader.as_secs_f64()),
            cost(&sample, sample.weir.as_secs_f64()),
        );
        self.0.push((reader_kind, sample));
    }

    /// Medians with, in brackets, minimum and maximum.
    fn table(&self) -> Table {
        let mut table = Table::new(["reader", "events/s", "reader, µs/event", "Weir, µs/event"]);
        for reader_kind in ReaderKind::ALL {
            let of =
                |value: &dyn Fn(&Sample) -> f64| Spread::of(self.of(reader_kind).iter().map(value));
            let weir = of(&|it| cost(it, it.weir.as_secs_f64())).text(2);
            table.add([
                reader_kind.name().to_owned(),
                of(&rate).text(0),
                of(&|it| cost(it, it.reader.as_secs_f64())).text(2),
                if reader_kind.through_weir() {
                    weir
                } else {
                    String::new()
                },
            ]);
        }
        table
    }

    fn goals(&self, from: &str, least_rate: f64, results: &mut Results) {
        for (reader_kind, driver, asking) in [
            (ReaderKind::Weir, ReaderKind::Driver, ""),
            (
                ReaderKind::Weir,
                ReaderKind::DriverSplitting,
                " that asks for the same",
            ),
            (ReaderKind::WeirDecoding, ReaderKind::Driver, ""),
        ] {
            let ratio = self.against(driver, reader_kind, rate, rate);
            let what = format!(
                "one watcher, {from}: events/s, {}, per the driver's{asking}",
                reader_kind.name()
            );
            results.goal(
                &what,
                Bound::AtLeast(least_rate, ""),
                ratio.median,
                ratio.text(2),
            );
        }
        let reader = |it: &Sample| it.reader.as_secs_f64();
        let weir = |it: &Sample| it.weir.as_secs_f64();
        let ratio = self.against(ReaderKind::Driver, ReaderKind::Weir, weir, reader);
        results.goal(
            &format!("one watcher, {from}: CPU of Weir's server, per the driver's reader"),
            Bound::AtMost(0.5, ""),
            ratio.median,
            ratio.text(2),
        );
    }

    fn of(&self, reader_kind: ReaderKind) -> Vec<Sample> {
        let samples = self.0.iter().filter(|(of, _)| *of == reader_kind);
        samples.map(|(_, sample)| *sample).collect()
    }

    /// `value` of each round's reading through Weir, divided by that of the same round's driver.
    fn against(
        &self,
        driver: ReaderKind,
        reader_kind: ReaderKind,
        value: impl Fn(&Sample) -> f64,
        by: impl Fn(&Sample) -> f64,
    ) -> Spread {
        let pairs = self.of(reader_kind).into_iter().zip(self.of(driver));
        Spread::of(pairs.map(|(weir, driver)| value(&weir) / by(&driver)))
    }
}

fn rate(sample: &Sample) -> f64 {
    sample.events as f64 / sample.wall.as_secs_f64()
}

/// Microseconds per event.
fn cost(sample: &Sample, seconds: f64) -> f64 {
    seconds * 1e6 / sample.events as f64
}
