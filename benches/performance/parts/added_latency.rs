//! The delay of an event through Weir, compared with one directly from the database.
//!
//! A writer at a steady rate waits for each acknowledgement; a reader records when each event
//! arrives; both are threads of one process with one clock. The readers alternate slice by slice,
//! with one change stream open at a time: the database would serve a second one only after the
//! first.

use std::{sync::mpsc, thread, time::Duration};

use ::weir::pb::watch_response::Kind;
use clap::Args;
use futures::StreamExt as _;
use hdrhistogram::Histogram;
use mongodb::{Client, bson::Document};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    client::{reader, reader_kind::ReaderKind},
    gateway::weir,
    options::Options,
    report::{Bound, Results, table::Table},
    system::{process::Process, runtime},
    upstream::{
        collection::Collection,
        database,
        document::{self, document},
        stand_in,
    },
};

/// Writes of the warm-up, which do not count.
const WARM_UP: u64 = 40;

/// Added to every latency, as a histogram holds no negative values: an event may arrive before the
/// acknowledgement of its write.
const OFFSET: i64 = 100_000_000;

/// One slice.
#[derive(Debug, Args)]
pub struct Task {
    #[arg(long)]
    reader_kind: ReaderKind,
    /// The URI of the database
    #[arg(long)]
    uri: String,
    /// The URL of Weir
    #[arg(long)]
    url: String,
    #[arg(long)]
    database: String,
    #[arg(long)]
    collection: String,
    /// The number of writes
    #[arg(long)]
    writes: u64,
    /// Writes per second
    #[arg(long)]
    rate: u32,
}

/// The latencies of both readers.
#[derive(Debug)]
struct Latencies {
    driver: Histogram<u64>,
    weir: Histogram<u64>,
}

/// Measures both readers on the database, and on a stand-in that takes almost no time.
pub fn measure(options: &Options, results: &mut Results) {
    let database = database::start();
    let latencies = Latencies::measure(options, |reader_kind, writes, into| {
        measure_slice(database.uri(), reader_kind, writes, options, into);
    });
    latencies.report("database", database.name(), options, results);
    let latencies = Latencies::measure(options, |reader_kind, writes, into| {
        let stand_in = stand_in::start(&stand_in::Task {
            events: 0,
            batch: 1_000,
            groups: 1,
            bytes: document::BYTES,
            wide: false,
        });
        measure_slice(stand_in.uri(), reader_kind, writes, options, into);
    });
    latencies.report("stand-in", "the stand-in", options, results);
}

/// A histogram with a resolution of a microsecond at the offset, and a range of a minute.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000_000, 5).expect("the bounds are sound")
}

/// Measures a slice with its own Weir, so that no change stream is left open.
fn measure_slice(
    uri: &str,
    reader_kind: ReaderKind,
    writes: u64,
    options: &Options,
    into: &mut Histogram<u64>,
) {
    let weir = weir::start(uri, &options.build());
    let collection = Collection::fresh(uri);
    let child = Process::start_role(
        "the latency slice",
        &[
            "latency".to_owned(),
            format!("--reader-kind={}", reader_kind.argument()),
            format!("--uri={uri}"),
            format!("--url={}", weir.url()),
            format!("--database={}", collection.database()),
            format!("--collection={}", collection.name()),
            format!("--writes={writes}"),
            format!("--rate={}", options.rate),
        ],
    );
    let measured = child.line_after("measured");
    for nanos in measured.split(' ') {
        let nanos: i64 = nanos.parse().expect("latencies are numbers");
        into.saturating_record((nanos + OFFSET).max(0).cast_unsigned());
    }
}

/// The process of a slice.
pub fn run(task: &Task) {
    let total = task.writes + WARM_UP;
    let (ready, is_ready) = mpsc::channel();
    let (received, acknowledged) = thread::scope(|scope| {
        let reader = scope.spawn(move || {
            runtime().block_on(async {
                match task.reader_kind {
                    ReaderKind::Driver | ReaderKind::DriverSplitting => {
                        with_driver(task, total, &ready).await
                    }
                    ReaderKind::Weir | ReaderKind::WeirDecoding => {
                        through_weir(task, total, &ready).await
                    }
                }
            })
        });
        is_ready.recv().expect("the reader opens its stream");
        let acknowledged = runtime().block_on(write(task, total));
        (reader.join().expect("the reader holds"), acknowledged)
    });
    let latencies = received
        .iter()
        .zip(&acknowledged)
        .map(|(received, acknowledged)| {
            let late = received.saturating_duration_since(*acknowledged);
            let early = acknowledged.saturating_duration_since(*received);
            (nanos(late) - nanos(early)).to_string()
        });
    let counted: Vec<String> = latencies
        .skip(usize::try_from(WARM_UP).unwrap_or(0))
        .collect();
    println!("measured {}", counted.join(" "));
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The time when each write was acknowledged.
async fn write(task: &Task, total: u64) -> Vec<Instant> {
    let client = Client::with_uri_str(&task.uri)
        .await
        .expect("the URI is well-formed");
    let collection = client.database(&task.database).collection(&task.collection);
    let mut ticks = interval(Duration::from_secs(1) / task.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut acknowledged = Vec::new();
    for id in 0..total {
        ticks.tick().await;
        let document = document(id.cast_signed());
        collection
            .insert_one(document)
            .await
            .expect("the database inserts");
        acknowledged.push(Instant::now());
    }
    acknowledged
}

/// The time when each event arrived.
async fn with_driver(task: &Task, total: u64, ready: &mpsc::Sender<()>) -> Vec<Instant> {
    let client = Client::with_uri_str(&task.uri)
        .await
        .expect("the URI is well-formed");
    let collection = client
        .database(&task.database)
        .collection::<Document>(&task.collection);
    let mut stream = collection
        .watch()
        .await
        .expect("the collection can be watched");
    ready.send(()).expect("the writer waits");
    let mut received = Vec::new();
    for expected in 0..total.cast_signed() {
        let event = stream
            .next()
            .await
            .expect("the stream continues")
            .expect("the stream holds");
        received.push(Instant::now());
        assert_eq!(
            reader::document_id(&event),
            expected,
            "an event is missing or came twice"
        );
    }
    received
}

async fn through_weir(task: &Task, total: u64, ready: &mpsc::Sender<()>) -> Vec<Instant> {
    let mut client = reader::connect(&task.url).await;
    let request = reader::watch_request(&task.database, &task.collection, "");
    let mut watch = client
        .watch(request)
        .await
        .expect("Weir opens a watch")
        .into_inner();
    ready.send(()).expect("the writer waits");
    let mut received = Vec::new();
    while received.len() < usize::try_from(total).unwrap_or(usize::MAX) {
        let message = watch
            .message()
            .await
            .expect("the watch holds")
            .expect("the watch continues");
        let now = Instant::now();
        let Some(Kind::Changes(batch)) = message.kind else {
            continue;
        };
        for event in &batch.changes {
            let expected = i64::try_from(received.len()).unwrap_or(i64::MAX);
            assert_eq!(
                reader::event_id(event),
                expected,
                "an event is missing or came twice"
            );
            received.push(now);
        }
    }
    received
}

impl Latencies {
    /// Measures both readers in alternating slices.
    fn measure(options: &Options, slice: impl Fn(ReaderKind, u64, &mut Histogram<u64>)) -> Self {
        let mut latencies = Self {
            driver: histogram(),
            weir: histogram(),
        };
        let writes = options.writes.div_ceil(u64::from(options.rounds));
        for round in 0..options.rounds {
            let mut ways = [ReaderKind::Driver, ReaderKind::Weir];
            ways.rotate_left(round as usize % 2);
            for reader_kind in ways {
                let into = match reader_kind {
                    ReaderKind::Driver | ReaderKind::DriverSplitting => &mut latencies.driver,
                    ReaderKind::Weir | ReaderKind::WeirDecoding => &mut latencies.weir,
                };
                slice(reader_kind, writes, into);
            }
        }
        latencies
    }

    fn report(&self, key: &str, name: &str, options: &Options, results: &mut Results) {
        let at = |histogram: &Histogram<u64>, quantile: f64| {
            let nanos = histogram.value_at_quantile(quantile).cast_signed() - OFFSET;
            nanos as f64 / 1e6
        };
        let mut table = Table::new(["acknowledgement to event, ms", "driver", "Weir", "added"]);
        let mut added = Vec::new();
        for (quantile_name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            let (driver, weir) = (at(&self.driver, quantile), at(&self.weir, quantile));
            added.push(weir - driver);
            table.add([
                quantile_name.to_owned(),
                format!("{driver:.3}"),
                format!("{weir:.3}"),
                format!("{:+.3}", weir - driver),
            ]);
        }
        let title = format!(
            "From {name}: {} writes each way, {} a second, {} slices in turn",
            options.writes, options.rate, options.rounds
        );
        results.table(key, &title, &table);
        for (quantile, most, added) in [("p50", 0.3, added[0]), ("p99", 2.0, added[2])] {
            results.goal(
                &format!("one watcher, from {name}: latency added to the driver's own, {quantile}"),
                Bound::AtMost(most, " ms"),
                added,
                format!("{added:+.3}"),
            );
        }
    }
}
