//! The load generator: a single-threaded process that opens many watches over few connections, counts
//! events, and checks that each watch misses nothing and gets everything in order.
//!
//! Once all watches are open it prints `open`, and then runs commands:
//!
//! - `await N`: answers `reached` once N events have come in total, since it started;
//! - `record`: drops the latencies so far;
//! - `tell`: answers `latencies` with p50, p99, p99.9 and the maximum, in microseconds;
//! - `check FROM TO`: answers `checked` if each watch has received each of these events that it
//!   selects, and nothing else.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use futures::future::join_all;
use hdrhistogram::Histogram;
use tokio::{sync::Notify, task::LocalSet, time::sleep};
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use weir::{
    pb::{self, field_filter::Operator, filter},
    wire::Compression,
};

use super::delivery::{self, Message, RawCodec};
use crate::{
    system::{commands::Commands, now_micros, process::FAILED, runtime},
    upstream::document::{Stamp, group_of},
};

/// The window of a stalled client's connection: the smallest that HTTP/2 starts with, so that it
/// buffers little.
const STALLED_WINDOW: u32 = 65_535;

/// The task of the load generator.
#[derive(Debug, Args)]
pub struct Task {
    /// The URL of the gateway
    #[arg(long)]
    url: String,
    #[arg(long)]
    database: String,
    #[arg(long)]
    collection: String,
    /// The number of watches
    #[arg(long)]
    watches: u64,
    /// The number of connections
    #[arg(long)]
    connections: u64,
    /// The number of groups of documents
    #[arg(long)]
    groups: i64,
    /// The number of watches that share a group, each with a filter for one group; 0: no filters
    #[arg(long)]
    matches: u64,
    /// The number of additional watches that have a connection each and are never read
    #[arg(long)]
    stalled: u64,
    /// The only encoding of compressed messages that is accepted
    #[arg(long)]
    accept: Option<Compression>,
    /// A field to ask for; may be given again
    #[arg(long = "field")]
    fields: Vec<String>,
}

/// The process of the load generator.
pub fn run(task: &Task, commands: &mut Commands) {
    let local = LocalSet::new();
    local.block_on(&runtime(), async {
        let shared = Rc::new(SharedCounts::new());
        let channels = connect(task).await;
        let opening = channels.iter().enumerate().map(|(index, channel)| {
            let numbers = (index as u64..task.watches).step_by(channels.len());
            open_all(task, channel, numbers, &shared)
        });
        let watches: Vec<Rc<Watch>> = join_all(opening).await.into_iter().flatten().collect();
        let _stalled = join_all((0..task.stalled).map(|_| stall(task))).await;
        println!("open");
        run_commands(task, commands, &shared, &watches).await;
    });
}

/// The counts of all watches together.
struct SharedCounts {
    events: Cell<u64>,
    wanted: Cell<u64>,
    reached: Notify,
    latencies: RefCell<Histogram<u64>>,
}

/// The counts of one watch.
struct Watch {
    /// The only group it selects.
    group: Option<i64>,
    events: Cell<u64>,
    first: Cell<Option<i64>>,
    last: Cell<Option<i64>>,
}

impl SharedCounts {
    fn new() -> Self {
        // From a microsecond to ten minutes, with three digits.
        let latencies = Histogram::new_with_max(600_000_000, 3);
        Self {
            events: Cell::new(0),
            wanted: Cell::new(u64::MAX),
            reached: Notify::new(),
            latencies: RefCell::new(latencies.expect("the bounds are sound")),
        }
    }

    fn take(&self, watch: &Watch, message: &[u8]) {
        // One reading of the clock per message: all its events have arrived by now.
        let now = now_micros().cast_signed();
        let mut latencies = self.latencies.borrow_mut();
        let read = delivery::read(message, |stamp| {
            watch.take(stamp);
            latencies.saturating_record((now - stamp.sent).max(0).cast_unsigned());
        });
        match read {
            Some(Message::Changes(events)) => {
                self.events.set(self.events.get() + events);
                if self.events.get() >= self.wanted.get() {
                    self.reached.notify_one();
                }
            }
            Some(Message::Opened | Message::Other) => {}
            None => fail("a message is malformed"),
        }
    }
}

impl Watch {
    fn take(&self, Stamp { id, group, .. }: Stamp) {
        match (self.last.get(), self.group) {
            (Some(last), None) if id != last + 1 => {
                fail(&format!("event {id} came after {last}"));
            }
            (Some(last), Some(_)) if id <= last => {
                fail(&format!("event {id} came after {last}"));
            }
            (_, Some(own)) if group != own => {
                fail(&format!("an event of group {group} came to {own}"));
            }
            _ => {}
        }
        self.first.set(self.first.get().or(Some(id)));
        self.last.set(Some(id));
        self.events.set(self.events.get() + 1);
    }
}

async fn connect(task: &Task) -> Vec<Channel> {
    let connections = task.connections.min(task.watches).max(1);
    let connecting = (0..connections).map(|_| async {
        match endpoint(task).connect().await {
            Ok(channel) => channel,
            Err(error) => fail(&format!("no connection: {error}")),
        }
    });
    join_all(connecting).await
}

fn endpoint(task: &Task) -> Endpoint {
    Endpoint::from_shared(task.url.clone()).expect("the URL is well-formed")
}

async fn open_all(
    task: &Task,
    channel: &Channel,
    numbers: impl Iterator<Item = u64>,
    shared: &Rc<SharedCounts>,
) -> Vec<Rc<Watch>> {
    let mut watches = Vec::new();
    for number in numbers {
        let group = task.group(number);
        let mut messages = open(task, channel.clone(), group).await;
        let watch = Rc::new(Watch {
            group,
            events: Cell::new(0),
            first: Cell::new(None),
            last: Cell::new(None),
        });
        watches.push(Rc::clone(&watch));
        let shared = Rc::clone(shared);
        tokio::task::spawn_local(async move {
            loop {
                match messages.message().await {
                    Ok(Some(message)) => shared.take(&watch, &message),
                    Ok(None) => fail("a watch ended"),
                    Err(status) => fail(&format!("a watch ended: {}", short_text(&status))),
                }
            }
        });
    }
    watches
}

/// Opens a watch and waits for its first message.
async fn open(task: &Task, channel: Channel, group: Option<i64>) -> Streaming<Bytes> {
    let mut grpc = Grpc::new(channel);
    if let Some(accepted) = task.accept {
        grpc = grpc.accept_compressed(accepted.encoding());
    }
    if let Err(error) = grpc.ready().await {
        fail(&format!("no connection: {error}"));
    }
    let path = PathAndQuery::from_static("/weir.v1.WatchService/Watch");
    let request = Request::new(task.request(group));
    let mut messages = match grpc.server_streaming(request, path, RawCodec).await {
        Ok(response) => response.into_inner(),
        Err(status) => fail(&format!("no watch: {}", short_text(&status))),
    };
    match messages.message().await {
        Ok(Some(first)) if delivery::read(&first, |_| {}) == Some(Message::Opened) => messages,
        Err(status) => fail(&format!("no watch: {}", short_text(&status))),
        Ok(_) => fail("the first message of a watch was not Opened"),
    }
}

/// A watch that is opened and never read.
async fn stall(task: &Task) -> Streaming<Bytes> {
    let endpoint = endpoint(task)
        .initial_stream_window_size(STALLED_WINDOW)
        .initial_connection_window_size(STALLED_WINDOW);
    match endpoint.connect().await {
        Ok(channel) => open(task, channel, task.group(0)).await,
        Err(error) => fail(&format!("no connection: {error}")),
    }
}

/// Selects the documents of a group.
pub fn of_group(group: i64) -> pb::Filter {
    pb::Filter {
        kind: Some(filter::Kind::Field(pb::FieldFilter {
            path: "group".to_owned(),
            operator: Some(Operator::Eq(prost_types::Value {
                kind: Some(prost_types::value::Kind::NumberValue(group as f64)),
            })),
        })),
    }
}

impl Task {
    fn group(&self, number: u64) -> Option<i64> {
        (self.matches > 0).then(|| (number / self.matches).cast_signed())
    }

    fn request(&self, group: Option<i64>) -> pb::WatchRequest {
        pb::WatchRequest {
            database: self.database.clone(),
            collections: vec![self.collection.clone()],
            filters: group.map(of_group).into_iter().collect(),
            fields: self.fields.clone(),
            ..pb::WatchRequest::default()
        }
    }
}

async fn run_commands(
    task: &Task,
    commands: &mut Commands,
    shared: &SharedCounts,
    watches: &[Rc<Watch>],
) {
    loop {
        let word = commands.next().await;
        let mut parts = word.split(' ');
        let name = parts.next().unwrap_or_default();
        let mut number = || {
            let number = parts.next().and_then(|it| it.parse::<u64>().ok());
            number.unwrap_or_else(|| panic!("{word:?} lacks a number"))
        };
        match name {
            "await" => {
                let wanted = number();
                shared.wanted.set(wanted);
                while shared.events.get() < wanted {
                    shared.reached.notified().await;
                }
                shared.wanted.set(u64::MAX);
                println!("reached");
            }
            "record" => {
                shared.latencies.borrow_mut().reset();
                println!("recording");
            }
            "tell" => {
                let latencies = shared.latencies.borrow();
                let at = |quantile| latencies.value_at_quantile(quantile);
                println!(
                    "latencies {} {} {} {}",
                    at(0.5),
                    at(0.99),
                    at(0.999),
                    latencies.max()
                );
            }
            "check" => {
                // Surplus events may be late.
                sleep(Duration::from_millis(50)).await;
                check(task, number()..number(), watches);
                println!("checked");
            }
            _ => panic!("{word:?} is not understood"),
        }
    }
}

fn check(task: &Task, ids: std::ops::Range<u64>, watches: &[Rc<Watch>]) {
    let mut of_group = vec![0_u64; usize::try_from(task.groups.max(1)).expect("it fits")];
    for id in ids.start..ids.end {
        of_group[group_of(id.cast_signed(), task.groups) as usize] += 1;
    }
    for watch in watches {
        let expected = match watch.group {
            Some(group) => of_group.get(group as usize).copied().unwrap_or(0),
            None => ids.end - ids.start,
        };
        if watch.events.get() != expected {
            fail(&format!(
                "a watch got {} events of {expected}",
                watch.events.get()
            ));
        }
        let first = watch.first.get();
        if watch.group.is_none() && expected > 0 && first != Some(ids.start.cast_signed()) {
            fail(&format!("a watch began with event {first:?}"));
        }
    }
}

/// As much of a status as fits into a table.
fn short_text(status: &Status) -> String {
    let message: String = status.message().chars().take(60).collect();
    format!("{:?}, \"{message}\"", status.code())
}

fn fail(reason: &str) -> ! {
    println!("{FAILED}{}", reason.replace('\n', " "));
    std::process::exit(1);
}
