//! The parts to measure, and their sizes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{client::flood::Flood, gateway::weir::Build};

/// The sizes of every part.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Measure only this part; may be given again
    #[arg(long, value_enum)]
    pub only: Vec<Part>,
    /// Write the page again from the existing figures, and measure nothing
    #[arg(long)]
    pub render: bool,
    /// Small sizes, to check that everything works; the page goes to target/performance
    #[arg(long)]
    pub quick: bool,
    /// The folder of the page [default: docs]
    #[arg(long, env = "WEIR_BENCH_OUTPUT", value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// A flag for every Weir that is started; may be repeated
    #[arg(long = "weir-flag", value_name = "FLAG", allow_hyphen_values = true)]
    pub weir_flags: Vec<String>,
    /// Another build of weir: measures what this one costs beside it, in turn, and nothing else; the table
    /// goes to the terminal
    #[arg(long, value_name = "PROGRAM")]
    pub beside: Option<PathBuf>,
    /// The number of rounds in which both builds take their turn
    #[arg(long, env = "WEIR_BENCH_BESIDE_ROUNDS", default_value_t = 5)]
    pub beside_rounds: u32,
    /// Seconds after which a step counts as not finished
    #[arg(long, env = "WEIR_BENCH_LIMIT", default_value_t = 60)]
    pub limit: u64,

    /// The number of past events that the database part reads, with one watcher
    #[arg(long, env = "WEIR_BENCH_EVENTS", default_value_t = 50_000)]
    pub events: u64,
    /// The number of events that the live part writes and reads, with one watcher
    #[arg(long, env = "WEIR_BENCH_LIVE_EVENTS", default_value_t = 10_000)]
    pub live_events: u64,
    /// The number of events that the stand-in part reads, with one watcher
    #[arg(long, env = "WEIR_BENCH_STAND_IN_EVENTS", default_value_t = 500_000)]
    pub stand_in_events: u64,
    /// The number of events in a reply of the stand-in
    #[arg(long, env = "WEIR_BENCH_BATCH", default_value_t = 1_000)]
    pub batch: usize,
    /// The number of rounds of each reader in the parts with one watcher
    #[arg(long, env = "WEIR_BENCH_ROUNDS", default_value_t = 5)]
    pub rounds: u32,
    /// The number of writes of the added-latency part for each reader, in as many slices as rounds
    #[arg(long, env = "WEIR_BENCH_WRITES", default_value_t = 2_000)]
    pub writes: u64,
    /// The number of writes per second in the added-latency part
    #[arg(long, env = "WEIR_BENCH_RATE", default_value_t = 200)]
    pub rate: u32,

    /// The numbers of watchers of the fan-out part, with the stand-in
    #[arg(
        long,
        env = "WEIR_BENCH_WATCHERS",
        value_delimiter = ',',
        default_value = "1,10,100,1000,10000"
    )]
    pub watchers: Vec<u64>,
    /// The same, with the database
    #[arg(
        long,
        env = "WEIR_BENCH_DATABASE_WATCHERS",
        value_delimiter = ',',
        default_value = "1,10,100,300,1000,10000"
    )]
    pub database_watchers: Vec<u64>,
    /// The largest number of watchers for the naive gateway
    #[arg(long, env = "WEIR_BENCH_NAIVE_WATCHERS", default_value_t = 1_000)]
    pub naive_watchers: u64,
    /// The approximate number of deliveries in a step of the fan-out part, with the stand-in
    #[arg(long, env = "WEIR_BENCH_DELIVERIES", default_value_t = 400_000)]
    pub deliveries: u64,
    /// The same, with the database
    #[arg(
        long,
        env = "WEIR_BENCH_DATABASE_DELIVERIES",
        default_value_t = 100_000
    )]
    pub database_deliveries: u64,
    /// The number of events in a burst of the fan-out part
    #[arg(long, env = "WEIR_BENCH_BURST", default_value_t = 8)]
    pub burst: u64,
    /// The number of rounds of each server in a step of the fan-out part
    #[arg(long, env = "WEIR_BENCH_FAN_OUT_ROUNDS", default_value_t = 3)]
    pub fan_out_rounds: u32,
    /// The size of a document in the fan-out and filter parts
    #[arg(long, env = "WEIR_BENCH_DOCUMENT_BYTES", default_value_t = 1_024)]
    pub document_bytes: usize,

    /// The numbers of watchers of the compression part
    #[arg(
        long,
        env = "WEIR_BENCH_COMPRESSION_WATCHERS",
        value_delimiter = ',',
        default_value = "1,100,1000"
    )]
    pub compression_watchers: Vec<u64>,

    /// The numbers of watchers of the fields part
    #[arg(
        long,
        env = "WEIR_BENCH_FIELDS_WATCHERS",
        value_delimiter = ',',
        default_value = "1,100,1000"
    )]
    pub fields_watchers: Vec<u64>,

    /// The numbers of watchers of the filter part
    #[arg(
        long,
        env = "WEIR_BENCH_FILTERS",
        value_delimiter = ',',
        default_value = "10,1000,10000"
    )]
    pub filters: Vec<u64>,
    /// The number of events in a step of the filter part, with the stand-in
    #[arg(long, env = "WEIR_BENCH_FILTER_EVENTS", default_value_t = 20_000)]
    pub filter_events: u64,
    /// The same, with the database
    #[arg(
        long,
        env = "WEIR_BENCH_FILTER_DATABASE_EVENTS",
        default_value_t = 4_000
    )]
    pub filter_database_events: u64,
    /// The number of events in a burst of the filter part
    #[arg(long, env = "WEIR_BENCH_FILTER_BURST", default_value_t = 100)]
    pub filter_burst: u64,
    /// The number of rounds of each step of the filter part
    #[arg(long, env = "WEIR_BENCH_FILTER_ROUNDS", default_value_t = 2)]
    pub filter_rounds: u32,

    /// The first rate of events per second that the steady and stalled parts try
    #[arg(long, env = "WEIR_BENCH_STEADY_RATE", default_value_t = 1_000)]
    pub steady_rate: u64,
    /// The same, with the database
    #[arg(long, env = "WEIR_BENCH_STEADY_DATABASE_RATE", default_value_t = 200)]
    pub steady_database_rate: u64,
    /// The number of watchers of the steady and stalled parts
    #[arg(long, env = "WEIR_BENCH_STEADY_WATCHERS", default_value_t = 1_000)]
    pub steady_watchers: u64,
    /// The duration of the steady and stalled parts in seconds
    #[arg(long, env = "WEIR_BENCH_SECONDS", default_value_t = 10)]
    pub seconds: u64,
    /// The number of rounds of the stalled part, each without and with a stalled client
    #[arg(long, env = "WEIR_BENCH_STALLED_ROUNDS", default_value_t = 5)]
    pub stalled_rounds: u32,
    /// Measure only this flood in the neighbours part; may be given again
    #[arg(long = "flood", value_enum)]
    pub floods: Vec<Flood>,
    /// The number of rounds of each flood
    #[arg(long, env = "WEIR_BENCH_NEIGHBOUR_ROUNDS", default_value_t = 3)]
    pub neighbour_rounds: u32,
    /// The number of writes per second in the neighbours part
    #[arg(long, env = "WEIR_BENCH_NEIGHBOUR_RATE", default_value_t = 100)]
    pub neighbour_rate: u32,
    /// The duration of a round without the flood, and again with it, in seconds
    #[arg(long, env = "WEIR_BENCH_NEIGHBOUR_SECONDS", default_value_t = 3.0)]
    pub neighbour_seconds: f64,
    /// The size of a document in the steady and stalled parts
    #[arg(long, env = "WEIR_BENCH_SMALL_DOCUMENT_BYTES", default_value_t = 128)]
    pub small_document_bytes: usize,
}

/// A part, by its name on the command line and the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// One watcher, past events, from a database
    Database,
    /// One watcher, from the stand-in
    StandIn,
    /// One watcher, events as they are written
    Live,
    /// One watcher, the latency that Weir adds
    #[value(alias = "latency")]
    AddedLatency,
    /// Many watchers with one filter
    #[value(alias = "fanout")]
    FanOut,
    /// Many watchers with one filter, whose messages are compressed
    Compression,
    /// Watchers that ask for two of thirty fields
    Fields,
    /// Many watchers, each with its own filter
    Filters,
    /// Many watchers, latencies under a steady writer
    Steady,
    /// Many watchers, one of which stalls
    Stalled,
    /// Watchers beside another principal that floods the server
    Neighbours,
}

impl Part {
    /// All parts, in the order in which they are measured and reported.
    pub const ALL: [Self; 11] = [
        Self::Database,
        Self::StandIn,
        Self::Live,
        Self::AddedLatency,
        Self::FanOut,
        Self::Compression,
        Self::Fields,
        Self::Filters,
        Self::Steady,
        Self::Stalled,
        Self::Neighbours,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::StandIn => "stand-in",
            Self::Live => "live",
            Self::AddedLatency => "added-latency",
            Self::FanOut => "fan-out",
            Self::Compression => "compression",
            Self::Fields => "fields",
            Self::Filters => "filters",
            Self::Steady => "steady",
            Self::Stalled => "stalled",
            Self::Neighbours => "neighbours",
        }
    }
}

impl Options {
    /// Returns whether this part is to be measured.
    pub fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// The same options with small sizes.
    pub fn quick(self) -> Self {
        Self {
            limit: 20,
            events: 2_000,
            live_events: 1_000,
            stand_in_events: 20_000,
            rounds: 2,
            beside_rounds: 2,
            writes: 200,
            watchers: vec![1, 10, 100],
            database_watchers: vec![1, 10, 50],
            naive_watchers: 100,
            deliveries: 10_000,
            database_deliveries: 4_000,
            fan_out_rounds: 2,
            compression_watchers: vec![1, 50],
            fields_watchers: vec![1, 50],
            filters: vec![10, 100],
            filter_events: 2_000,
            filter_database_events: 1_000,
            filter_rounds: 1,
            steady_rate: 200,
            steady_database_rate: 100,
            steady_watchers: 50,
            seconds: 2,
            stalled_rounds: 2,
            neighbour_rounds: 1,
            neighbour_seconds: 1.0,
            ..self
        }
    }

    /// The build to measure.
    pub fn build(&self) -> Build {
        Build::own(self.weir_flags.clone())
    }

    /// The folder of the page.
    pub fn folder(&self) -> PathBuf {
        let own = if self.quick {
            concat!(env!("CARGO_MANIFEST_DIR"), "/target/performance")
        } else {
            concat!(env!("CARGO_MANIFEST_DIR"), "/docs")
        };
        self.output.clone().unwrap_or_else(|| own.into())
    }
}
