//! Principals that do nothing unusual while another one floods the server: watches that are read, one that is opened
//! now and then, and the writer of their documents. One process, so that all use one clock.
//!
//! Once its watches are open it prints `open`, and then runs commands:
//!
//! - `phase`: forgets all figures, and answers `begun`;
//! - `tell`: answers `figures` with the numbers of [`Figures`];
//! - `check`: stops writing, and answers `checked` once each watch has received each event, in order.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use clap::Args;
use futures::future::join_all;
use hdrhistogram::Histogram;
use mongodb::Client;
use tokio::{
    task::LocalSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tonic::{
    Request, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use weir::pb::{self, watch_request::Start};

use super::{
    delivery::{self, Message, RawCodec},
    load::of_group,
};
use crate::{
    system::{
        commands::Commands,
        now_micros,
        process::{ChildError, FAILED, Process},
        runtime,
    },
    upstream::document::Stamp,
};

/// The number of watches that are read all the time.
const WATCHES: usize = 4;
/// The number of groups of documents; every second watch selects one.
const GROUPS: i64 = 2;
/// The interval at which a watch is opened and closed again.
const OPENING_INTERVAL: Duration = Duration::from_millis(250);
/// The time after which an opening has failed.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
/// How far back every second opening starts.
const PAST: Duration = Duration::from_secs(2);
/// The number of bytes of text in each document, on which patterns are matched.
const TEXT_BYTES: usize = 2_048;

/// The task of the bystanders.
#[derive(Debug, Args)]
pub struct Task {
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
    /// The API key
    #[arg(long)]
    key: String,
    /// Writes per second
    #[arg(long)]
    rate: u32,
}

/// What the bystanders saw in a phase. Times in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// From right before a write until a watch received its event.
    pub p50: u64,
    pub p99: u64,
    pub longest: u64,
    /// Until a write was acknowledged.
    pub write_p99: u64,
    /// From a call until its watch received a first event.
    pub opening_p99: u64,
    pub openings: u64,
    pub failed_openings: u64,
}

impl Figures {
    fn parse(line: &str) -> Self {
        let mut numbers = line.split(' ').map(|number| {
            let number = number.parse();
            number.expect("the bystanders report numbers")
        });
        let mut next = || numbers.next().expect("they report seven");
        Self {
            p50: next(),
            p99: next(),
            longest: next(),
            write_p99: next(),
            opening_p99: next(),
            openings: next(),
            failed_openings: next(),
        }
    }
}

/// The parent's handle of the bystanders.
#[derive(Debug)]
pub struct Bystanders(Process);

impl Bystanders {
    /// Opens the watches in a new process, which writes from then on.
    pub fn start(
        uri: &str,
        url: &str,
        (database, collection): (&str, &str),
        key: &str,
        rate: u32,
    ) -> Result<Self, ChildError> {
        let process = Process::start_role(
            "the bystanders",
            &[
                "bystand".to_owned(),
                format!("--uri={uri}"),
                format!("--url={url}"),
                format!("--database={database}"),
                format!("--collection={collection}"),
                format!("--key={key}"),
                format!("--rate={rate}"),
            ],
        );
        process.answer("open", OPENING_LIMIT)?;
        Ok(Self(process))
    }

    /// Forgets all figures.
    pub fn begin_phase(&mut self) -> Result<(), ChildError> {
        self.0.send("phase");
        self.0.answer("begun", OPENING_LIMIT).map(|_| ())
    }

    /// The figures since the phase began.
    pub fn figures(&mut self) -> Result<Figures, ChildError> {
        self.0.send("tell");
        let line = self.0.answer("figures ", OPENING_LIMIT)?;
        Ok(Figures::parse(&line))
    }

    /// Stops the writer, and checks that each watch gets each event, in order.
    pub fn check(&mut self, limit: Duration) -> Result<(), ChildError> {
        self.0.send("check");
        self.0.answer("checked", limit).map(|_| ())
    }
}

/// The process of the bystanders.
pub fn run(task: &Task, commands: &mut Commands) {
    let local = LocalSet::new();
    local.block_on(&runtime(), async {
        let shared = Rc::new(Shared::new());
        let watches = (0..WATCHES).map(|number| watch(task, number, &shared));
        let watches = join_all(watches).await;
        println!("open");
        let writer = tokio::task::spawn_local(write(task.writer(), Rc::clone(&shared)));
        let opener =
            tokio::task::spawn_local(open_again_and_again(task.clone(), Rc::clone(&shared)));
        loop {
            match commands.next().await.as_str() {
                "phase" => {
                    shared.reset();
                    println!("begun");
                }
                "tell" => shared.tell(),
                "check" => {
                    opener.abort();
                    shared.stop.set(true);
                    while !writer.is_finished() {
                        sleep(Duration::from_millis(5)).await;
                    }
                    for watch in &watches {
                        watch.wait_for(shared.written.get()).await;
                    }
                    println!("checked");
                }
                word => panic!("{word:?} is not understood"),
            }
        }
    });
}

impl Clone for Task {
    fn clone(&self) -> Self {
        Self {
            uri: self.uri.clone(),
            url: self.url.clone(),
            database: self.database.clone(),
            collection: self.collection.clone(),
            key: self.key.clone(),
            rate: self.rate,
        }
    }
}

struct Shared {
    deliveries: RefCell<Histogram<u64>>,
    writes: RefCell<Histogram<u64>>,
    openings: RefCell<Histogram<u64>>,
    failed_openings: Cell<u64>,
    written: Cell<i64>,
    stop: Cell<bool>,
}

impl Shared {
    fn new() -> Self {
        // From a microsecond to ten minutes, with three digits.
        let histogram = || {
            let new = Histogram::new_with_max(600_000_000, 3);
            RefCell::new(new.expect("the bounds are sound"))
        };
        Self {
            deliveries: histogram(),
            writes: histogram(),
            openings: histogram(),
            failed_openings: Cell::new(0),
            written: Cell::new(0),
            stop: Cell::new(false),
        }
    }

    fn reset(&self) {
        for histogram in [&self.deliveries, &self.writes, &self.openings] {
            histogram.borrow_mut().reset();
        }
        self.failed_openings.set(0);
    }

    fn tell(&self) {
        let deliveries = self.deliveries.borrow();
        let writes = self.writes.borrow();
        let openings = self.openings.borrow();
        println!(
            "figures {} {} {} {} {} {} {}",
            deliveries.value_at_quantile(0.5),
            deliveries.value_at_quantile(0.99),
            deliveries.max(),
            writes.value_at_quantile(0.99),
            openings.value_at_quantile(0.99),
            openings.len(),
            self.failed_openings.get(),
        );
    }
}

fn record(histogram: &RefCell<Histogram<u64>>, micros: u64) {
    histogram.borrow_mut().saturating_record(micros);
}

/// What the writer needs of the task.
struct Writer {
    uri: String,
    database: String,
    collection: String,
    rate: u32,
}

impl Task {
    fn writer(&self) -> Writer {
        Writer {
            uri: self.uri.clone(),
            database: self.database.clone(),
            collection: self.collection.clone(),
            rate: self.rate,
        }
    }

    fn request(&self, group: Option<i64>) -> pb::WatchRequest {
        pb::WatchRequest {
            database: self.database.clone(),
            collections: vec![self.collection.clone()],
            filters: group.map(of_group).into_iter().collect(),
            feed_mode: pb::FeedMode::Shared.into(),
            ..pb::WatchRequest::default()
        }
    }
}

/// Writes one document at a time, on its own schedule: it waits for the database and for no watch.
async fn write(writer: Writer, shared: Rc<Shared>) {
    let client = Client::with_uri_str(&writer.uri).await;
    let client = client.expect("the URI is well-formed");
    let collection = client
        .database(&writer.database)
        .collection(&writer.collection);
    let mut ticks = interval(Duration::from_secs(1) / writer.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !shared.stop.get() {
        ticks.tick().await;
        let id = shared.written.get();
        let begin = Instant::now();
        let sent = now_micros().cast_signed();
        let group = id.rem_euclid(GROUPS);
        let mut document = Stamp { id, sent, group }.document(64);
        document.insert("text", noise(TEXT_BYTES));
        if let Err(error) = collection.insert_one(document).await {
            fail(&format!("the database does not insert: {error}"));
        }
        record(&shared.writes, micros(begin));
        shared.written.set(id + 1);
    }
}

/// Text of two letters, on which no automaton reaches the same state twice.
fn noise(bytes: usize) -> String {
    let letter = |_| if fastrand::bool() { 'a' } else { 'b' };
    (0..bytes).map(letter).collect()
}

fn micros(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// A watch that is read all the time.
struct Watch {
    group: Option<i64>,
    last: Cell<Option<i64>>,
}

impl Watch {
    fn take(&self, id: i64) {
        let step = if self.group.is_some() { GROUPS } else { 1 };
        let next = self
            .last
            .get()
            .map_or(self.group.unwrap_or(0), |last| last + step);
        if id != next {
            fail(&format!("event {id} came in place of {next}"));
        }
        self.last.set(Some(id));
    }

    async fn wait_for(&self, written: i64) {
        let last = match self.group {
            Some(group) => (0..written).rev().find(|id| id.rem_euclid(GROUPS) == group),
            None => written.checked_sub(1),
        };
        while self.last.get() < last {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn watch(task: &Task, number: usize, shared: &Rc<Shared>) -> Rc<Watch> {
    let group = (number % 2 == 1).then(|| (number as i64 / 2).rem_euclid(GROUPS));
    let channel = match endpoint(task).connect().await {
        Ok(channel) => channel,
        Err(error) => fail(&format!("no connection: {error}")),
    };
    let mut messages = match open(task, channel, task.request(group)).await {
        Ok(messages) => messages,
        Err(reason) => fail(&reason),
    };
    let watch = Rc::new(Watch {
        group,
        last: Cell::new(None),
    });
    let (own, shared) = (Rc::clone(&watch), Rc::clone(shared));
    tokio::task::spawn_local(async move {
        loop {
            let message = match messages.message().await {
                Ok(Some(message)) => message,
                Ok(None) => fail("a watch ended"),
                Err(status) => fail(&format!("a watch ended: {status:?}")),
            };
            let now = now_micros().cast_signed();
            let read = delivery::read(&message, |stamp| {
                own.take(stamp.id);
                let late = (now - stamp.sent).max(0).cast_unsigned();
                record(&shared.deliveries, late);
            });
            if read.is_none() {
                fail("a message is malformed");
            }
        }
    });
    watch
}

/// Opens a watch at a steady interval, from now and from the past in turn, and closes it at its first event.
async fn open_again_and_again(task: Task, shared: Rc<Shared>) {
    let mut ticks = interval(OPENING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let channel = endpoint(&task).connect_lazy();
    // The oplog may begin no earlier.
    let oldest = now_micros() / 1_000_000 + 1;
    for number in 0_u64.. {
        ticks.tick().await;
        let mut request = task.request(None);
        if number % 2 == 1 {
            let past = (now_micros() / 1_000_000 - PAST.as_secs()).max(oldest);
            request.start = Some(Start::StartTime(prost_types::Timestamp {
                seconds: past.cast_signed(),
                nanos: 0,
            }));
        }
        let begin = Instant::now();
        let opened = timeout(OPENING_LIMIT, until_first_event(&task, &channel, request)).await;
        let failure = match opened {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(_) => Some("it took too long".to_owned()),
        };
        if let Some(reason) = failure {
            let reason: String = reason.chars().take(200).collect();
            eprintln!("an opening failed: {reason}");
            shared.failed_openings.set(shared.failed_openings.get() + 1);
        }
        record(&shared.openings, micros(begin));
    }
}

async fn until_first_event(
    task: &Task,
    channel: &Channel,
    request: pb::WatchRequest,
) -> Result<(), String> {
    let mut messages = open(task, channel.clone(), request).await?;
    loop {
        let message = messages
            .message()
            .await
            .map_err(|status| format!("{status:?}"))?;
        let message = message.ok_or("the watch ended")?;
        if matches!(delivery::read(&message, |_| {}), Some(Message::Changes(_))) {
            return Ok(());
        }
    }
}

fn endpoint(task: &Task) -> Endpoint {
    Endpoint::from_shared(task.url.clone()).expect("the URL is well-formed")
}

/// Opens a watch and waits for its first message.
async fn open(
    task: &Task,
    channel: Channel,
    request: pb::WatchRequest,
) -> Result<Streaming<bytes::Bytes>, String> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| error.to_string())?;
    let path = PathAndQuery::from_static("/weir.v1.WatchService/Watch");
    let mut request = Request::new(request);
    let key = task.key.parse().expect("a key is a header's value");
    request.metadata_mut().insert("x-api-key", key);
    let opened = grpc.server_streaming(request, path, RawCodec).await;
    let mut messages = opened.map_err(|status| format!("{status:?}"))?.into_inner();
    match messages.message().await {
        Ok(Some(_)) => Ok(messages),
        Ok(None) => Err("the watch ended at once".to_owned()),
        Err(status) => Err(format!("{status:?}")),
    }
}

fn fail(reason: &str) -> ! {
    println!("{FAILED}{}", reason.replace('\n', " "));
    std::process::exit(1);
}
