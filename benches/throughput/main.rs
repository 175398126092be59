//! One watcher through Weir, measured against the Rust driver's own typed change stream: events a
//! second, CPU for each event, and added latency, side by side in one run.
//!
//! `cargo bench --bench throughput` runs everything; `-- --help` lists the sizes. Three readers take
//! turns over the same events:
//!
//! - the driver's `ChangeStream<ChangeStreamEvent<Document>>`, which is what `collection.watch()`
//!   gives and most people write;
//! - a gRPC client of Weir that takes documents as the BSON bytes that they are;
//! - a gRPC client of Weir that decodes every document into a `Document`, as the driver does.
//!
//! They read from a database, which is the slower side there, and then from a stand-in that answers
//! with ready-made batches, so that only the readers' own cost shows. Every reader is a process of
//! its own (this program again, in another role) on one thread, and so is `weir serve`.

mod cpu;
mod database;
mod document;
mod latency;
mod process;
mod reader;
mod report;
mod server;
mod stand_in;
mod way;

use clap::{Parser, Subcommand, ValueEnum};

use crate::{database::Collection, report::Table, way::Way};

/// What to measure, and how much of it.
#[derive(Debug, Parser)]
struct Options {
    /// How many events the database part reads
    #[arg(long, env = "WEIR_BENCH_EVENTS", default_value_t = 50_000)]
    events: u64,
    /// How many events the stand-in part reads
    #[arg(long, env = "WEIR_BENCH_STAND_IN_EVENTS", default_value_t = 500_000)]
    stand_in_events: u64,
    /// How many events the stand-in puts into a reply
    #[arg(long, env = "WEIR_BENCH_BATCH", default_value_t = 1_000)]
    batch: u64,
    /// How often each reader takes its turn in a part
    #[arg(long, env = "WEIR_BENCH_ROUNDS", default_value_t = 5)]
    rounds: u32,
    /// How many writes the latency part makes for each way, in as many slices as there are rounds
    #[arg(long, env = "WEIR_BENCH_WRITES", default_value_t = 2_000)]
    writes: u64,
    /// How many writes a second
    #[arg(long, env = "WEIR_BENCH_RATE", default_value_t = 200)]
    rate: u32,
    /// Measure only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Database,
    StandIn,
    Latency,
}

/// What this program does as a child of itself.
#[derive(Debug, Subcommand)]
enum Role {
    /// Reads events, and tells how long it took and what it cost
    #[command(hide = true)]
    Read(reader::Task),
    /// Writes at a steady rate, and tells how much later each event arrived
    #[command(hide = true)]
    Latency(latency::Task),
    /// Answers as a MongoDB server that has every batch ready
    #[command(hide = true)]
    StandIn(stand_in::Task),
}

fn main() {
    let options = Options::parse();
    match &options.role {
        Some(Role::Read(task)) => reader::run(task),
        Some(Role::Latency(task)) => latency::run(task),
        Some(Role::StandIn(task)) => stand_in::run(task),
        None => measure(&options),
    }
}

fn measure(options: &Options) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} cores, {} bytes a document\n", document::BYTES);
    let wanted = |part| options.only.is_none_or(|only| only == part);
    if wanted(Part::Database) {
        from_database(options).print();
    }
    if wanted(Part::StandIn) {
        from_stand_in(options).print();
    }
    if wanted(Part::Latency) {
        latency::from_database(options.writes, options.rate, options.rounds).print();
        latency::from_stand_in(options.writes, options.rate, options.rounds).print();
    }
}

/// The same inserts, read from the moment before the first of them.
fn from_database(options: &Options) -> Table {
    let database = database::start();
    let weir = server::start(database.uri());
    let collection = Collection::fresh(database.uri());
    let start = collection.start_tokens(weir.url());
    collection.insert(options.events);
    let mut table = Table::new(
        &format!(
            "From {}: {} inserts, {} rounds",
            database.name(),
            options.events,
            options.rounds
        ),
        1.0,
    );
    for round in 0..options.rounds {
        for way in Way::in_turn(round) {
            let task = reader::Task {
                way,
                uri: database.uri().to_owned(),
                url: weir.url().to_owned(),
                database: collection.database().to_owned(),
                collection: collection.name().to_owned(),
                token: start.of(way),
                events: options.events,
            };
            table.add(way, task.measure(&weir));
        }
    }
    table
}

/// Batches that are ready before they are asked for.
fn from_stand_in(options: &Options) -> Table {
    let stand_in = stand_in::start(options.stand_in_events, options.batch);
    let weir = server::start(stand_in.uri());
    let mut table = Table::new(
        &format!(
            "From a stand-in that does not limit: {} inserts in replies of {}, {} rounds",
            options.stand_in_events, options.batch, options.rounds
        ),
        2.0,
    );
    for round in 0..options.rounds {
        for way in Way::in_turn(round) {
            let task = reader::Task {
                way,
                uri: stand_in.uri().to_owned(),
                url: weir.url().to_owned(),
                database: stand_in::DATABASE.to_owned(),
                collection: stand_in::COLLECTION.to_owned(),
                token: String::new(),
                events: options.stand_in_events,
            };
            table.add(way, task.measure(&weir));
        }
    }
    table
}
