//! A child process that reads a number of events and checks that none is missing.

use std::time::Duration;

use clap::Args;
use futures::StreamExt as _;
use mongodb::{
    Client,
    bson::{self, Document, RawDocument, doc},
    change_stream::event::{ChangeStreamEvent, ResumeToken},
};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use weir::pb::{
    self, change_event::Change, document::Value, watch_request::Start, watch_response::Kind,
    watch_service_client::WatchServiceClient,
};

use super::reader_kind::ReaderKind;
use crate::{
    gateway::Gateway,
    system::{commands::Commands, cpu::CpuTimes, process::Process, runtime},
};

/// The task of the reader.
#[derive(Debug, Args)]
pub struct Task {
    #[arg(long)]
    pub reader_kind: ReaderKind,
    /// The URI of the database
    #[arg(long)]
    pub uri: String,
    /// The URL of Weir
    #[arg(long)]
    pub url: String,
    #[arg(long)]
    pub database: String,
    #[arg(long)]
    pub collection: String,
    /// The token to start from, in hexadecimal digits; empty for now
    #[arg(long)]
    pub token: String,
    /// The number of events to read; their `_id`s count from 0
    #[arg(long)]
    pub events: u64,
    /// Open the stream before the start command, since events are written from then on
    #[arg(long)]
    pub live: bool,
}

/// The cost of one reading.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub events: u64,
    pub wall: Duration,
    /// The CPU time of the reader's process.
    pub reader: Duration,
    /// The CPU time of Weir's process.
    pub weir: Duration,
}

impl Task {
    /// Reads in a new process; calls `meanwhile` once it has begun.
    pub fn measure(&self, weir: &Gateway, meanwhile: impl FnOnce()) -> Sample {
        let mut arguments = vec![
            "read".to_owned(),
            format!("--reader-kind={}", self.reader_kind.argument()),
            format!("--uri={}", self.uri),
            format!("--url={}", self.url),
            format!("--database={}", self.database),
            format!("--collection={}", self.collection),
            format!("--token={}", self.token),
            format!("--events={}", self.events),
        ];
        arguments.extend(self.live.then(|| "--live".to_owned()));
        let mut child = Process::start_role("the reader", &arguments);
        child.line_after("connected");
        let before = weir.cpu_times();
        child.send("go");
        meanwhile();
        let done = child.line_after("done");
        let weir = weir.cpu_times().since(&before);
        let mut numbers = done.split(' ').map(|number| {
            let nanos = number.parse().expect("the reader reports numbers");
            Duration::from_nanos(nanos)
        });
        let mut next = || numbers.next().expect("the reader reports two numbers");
        Sample {
            events: self.events,
            wall: next(),
            reader: next(),
            weir,
        }
    }
}

/// The reader's process: connects, waits for the start command, reads, reports.
pub fn run(task: &Task, commands: &mut Commands) {
    runtime().block_on(async {
        match task.reader_kind {
            ReaderKind::Driver | ReaderKind::DriverSplitting => {
                let client = Client::with_uri_str(&task.uri)
                    .await
                    .expect("the URI is well-formed");
                let admin = client.database("admin");
                admin
                    .run_command(doc! { "ping": 1 })
                    .await
                    .expect("the database answers");
                with_driver(&client, task, commands).await;
            }
            ReaderKind::Weir | ReaderKind::WeirDecoding => {
                let client = connect(&task.url).await;
                through_weir(client, task, commands).await;
            }
        }
    });
}

async fn with_driver(client: &Client, task: &Task, commands: &mut Commands) {
    let collection = client
        .database(&task.database)
        .collection::<Document>(&task.collection);
    let mut watch = collection.watch();
    if task.reader_kind == ReaderKind::DriverSplitting {
        watch = watch.pipeline([doc! { "$changeStreamSplitLargeEvent": {} }]);
    }
    if !task.token.is_empty() {
        let token = bson::deserialize_from_slice::<ResumeToken>(&from_hex(&task.token));
        watch = watch.resume_after(token.expect("the token is a document"));
    }
    let opening = async { watch.await.expect("the collection can be watched") };
    let (mut stream, meter) = Meter::around(opening, task, commands).await;
    for expected in 0..task.events.cast_signed() {
        let event = stream.next().await.expect("the stream continues");
        let id = document_id(&event.expect("the stream holds"));
        assert_eq!(id, expected, "an event is missing or came twice");
    }
    meter.tell();
}

async fn through_weir(
    mut client: WatchServiceClient<Channel>,
    task: &Task,
    commands: &mut Commands,
) {
    let request = watch_request(&task.database, &task.collection, &task.token);
    let opening = async { client.watch(request).await.expect("Weir opens a watch") };
    let (watch, meter) = Meter::around(opening, task, commands).await;
    let mut watch = watch.into_inner();
    let mut expected = 0;
    while expected < task.events.cast_signed() {
        let message = watch.message().await.expect("the watch holds");
        let message = message.expect("the watch continues");
        let Some(Kind::Changes(batch)) = message.kind else {
            continue;
        };
        for event in &batch.changes {
            let id = match task.reader_kind {
                ReaderKind::WeirDecoding => decoded(event)
                    .get_i64("_id")
                    .expect("the document has an id"),
                ReaderKind::Driver | ReaderKind::DriverSplitting | ReaderKind::Weir => {
                    event_id(event)
                }
            };
            assert_eq!(id, expected, "an event is missing or came twice");
            expected += 1;
        }
    }
    meter.tell();
}

/// The `_id` of the document in an event of the driver's.
pub fn document_id(event: &ChangeStreamEvent<Document>) -> i64 {
    let document = event
        .full_document
        .as_ref()
        .expect("an insert has a document");
    document.get_i64("_id").expect("the document has an id")
}

/// The `_id` of the document in an event of Weir's, read in place.
pub fn event_id(event: &pb::ChangeEvent) -> i64 {
    let document = RawDocument::from_bytes(bson_of(event)).expect("the document is BSON");
    document.get_i64("_id").expect("the document has an id")
}

fn decoded(event: &pb::ChangeEvent) -> Document {
    bson::deserialize_from_slice(bson_of(event)).expect("the document is BSON")
}

fn bson_of(event: &pb::ChangeEvent) -> &[u8] {
    match &event.change {
        Some(Change::Insert(pb::Insert {
            full_document:
                Some(pb::Document {
                    value: Some(Value::Bson(bytes)),
                }),
        })) => bytes,
        other => panic!("not an insert with a document in BSON: {other:?}"),
    }
}

/// Connects a client to Weir.
pub async fn connect(url: &str) -> WatchServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned()).expect("the URL is well-formed");
    WatchServiceClient::new(endpoint.connect().await.expect("Weir answers"))
}

/// A watch of one collection with every option at its default, from a token or from now.
pub fn watch_request(database: &str, collection: &str, token: &str) -> pb::WatchRequest {
    pb::WatchRequest {
        database: database.to_owned(),
        collections: vec![collection.to_owned()],
        start: (!token.is_empty()).then(|| Start::ResumeToken(from_hex(token).into())),
        ..pb::WatchRequest::default()
    }
}

/// Measures this process from the start command on.
struct Meter {
    started: Instant,
    cpu: CpuTimes,
}

impl Meter {
    /// Waits for the start command and opens the stream, in this order unless the task is live.
    async fn around<T>(
        opening: impl Future<Output = T>,
        task: &Task,
        commands: &mut Commands,
    ) -> (T, Self) {
        if task.live {
            let stream = opening.await;
            return (stream, Self::start(commands).await);
        }
        let meter = Self::start(commands).await;
        (opening.await, meter)
    }

    async fn start(commands: &mut Commands) -> Self {
        println!("connected");
        commands.next().await;
        Self {
            cpu: CpuTimes::of("self"),
            started: Instant::now(),
        }
    }

    fn tell(self) {
        let wall = self.started.elapsed();
        let cpu = CpuTimes::of("self").since(&self.cpu);
        println!("done {} {}", wall.as_nanos(), cpu.as_nanos());
    }
}

/// Bytes in hexadecimal digits, for the command line.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).expect("the digits are ASCII");
        u8::from_str_radix(pair, 16).expect("the digits are hexadecimal")
    });
    digits.collect()
}
