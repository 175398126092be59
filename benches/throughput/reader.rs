//! A reader: a child process that reads a number of events and checks that each is the next.

use std::{io::BufRead as _, time::Duration};

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

use crate::{cpu::CpuTimes, database::runtime, process::Process, server::Weir, way::Way};

/// What to read, and how.
#[derive(Debug, Args)]
pub struct Task {
    #[arg(long)]
    pub way: Way,
    /// Where the database is
    #[arg(long)]
    pub uri: String,
    /// Where Weir is
    #[arg(long)]
    pub url: String,
    #[arg(long)]
    pub database: String,
    #[arg(long)]
    pub collection: String,
    /// The place to start at, in hexadecimal digits; empty for now
    #[arg(long)]
    pub token: String,
    /// How many events to read; their `_id`s count from 0
    #[arg(long)]
    pub events: u64,
}

/// What one reading took.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub events: u64,
    pub wall: Duration,
    /// Of the reader's process.
    pub reader: Duration,
    /// Of Weir's process.
    pub weir: Duration,
}

impl Task {
    /// Reads in a process of its own.
    pub fn measure(&self, weir: &Weir) -> Sample {
        let way = self.way.argument();
        let events = self.events.to_string();
        let mut child = Process::start_role(
            "the reader",
            &[
                "read",
                "--way",
                &way,
                "--uri",
                &self.uri,
                "--url",
                &self.url,
                "--database",
                &self.database,
                "--collection",
                &self.collection,
                "--token",
                &self.token,
                "--events",
                &events,
            ],
        );
        child.line_after("connected");
        let before = weir.cpu();
        child.say("go");
        let done = child.line_after("done");
        let weir = weir.cpu().since(&before);
        let mut numbers = done.split(' ').map(|number| {
            let nanos = number.parse().expect("the reader tells numbers");
            Duration::from_nanos(nanos)
        });
        let mut next = || numbers.next().expect("the reader tells two numbers");
        Sample {
            events: self.events,
            wall: next(),
            reader: next(),
            weir,
        }
    }
}

/// The reader's own process: connects, waits for the word, reads, tells.
pub fn run(task: &Task) {
    runtime().block_on(async {
        match task.way {
            Way::Driver | Way::DriverSplitting => {
                let client = Client::with_uri_str(&task.uri)
                    .await
                    .expect("the URI is well-formed");
                let admin = client.database("admin");
                admin
                    .run_command(doc! { "ping": 1 })
                    .await
                    .expect("the database answers");
                let meter = Meter::start();
                with_driver(&client, task).await;
                meter.tell();
            }
            Way::Weir | Way::WeirDecoding => {
                let client = connect(&task.url).await;
                let meter = Meter::start();
                through_weir(client, task).await;
                meter.tell();
            }
        }
    });
}

async fn with_driver(client: &Client, task: &Task) {
    let collection = client
        .database(&task.database)
        .collection::<Document>(&task.collection);
    let mut watch = collection.watch();
    if task.way == Way::DriverSplitting {
        watch = watch.pipeline([doc! { "$changeStreamSplitLargeEvent": {} }]);
    }
    if !task.token.is_empty() {
        let token = bson::deserialize_from_slice::<ResumeToken>(&from_hex(&task.token));
        watch = watch.resume_after(token.expect("the token is a document"));
    }
    let mut stream = watch.await.expect("the collection can be watched");
    for expected in 0..task.events.cast_signed() {
        let event = stream.next().await.expect("the stream goes on");
        let id = document_id(&event.expect("the stream holds"));
        assert_eq!(id, expected, "an event is missing or came twice");
    }
}

async fn through_weir(mut client: WatchServiceClient<Channel>, task: &Task) {
    let request = watch_request(&task.database, &task.collection, &task.token);
    let watch = client.watch(request).await.expect("Weir opens a watch");
    let mut watch = watch.into_inner();
    let mut expected = 0;
    while expected < task.events.cast_signed() {
        let message = watch.message().await.expect("the watch holds");
        let message = message.expect("the watch goes on");
        let Some(Kind::Changes(batch)) = message.kind else {
            continue;
        };
        for event in &batch.changes {
            let id = match task.way {
                Way::WeirDecoding => decoded(event)
                    .get_i64("_id")
                    .expect("the document has an id"),
                Way::Driver | Way::DriverSplitting | Way::Weir => event_id(event),
            };
            assert_eq!(id, expected, "an event is missing or came twice");
            expected += 1;
        }
    }
}

/// The `_id` of the document that an event of the driver's holds.
pub fn document_id(event: &ChangeStreamEvent<Document>) -> i64 {
    let document = event
        .full_document
        .as_ref()
        .expect("an insert has a document");
    document.get_i64("_id").expect("the document has an id")
}

/// The `_id` of the document that an event of Weir's holds, read from where it lies.
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

/// A client of Weir, connected.
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

/// Measures this process, from the parent's word on.
struct Meter {
    started: Instant,
    cpu: CpuTimes,
}

impl Meter {
    fn start() -> Self {
        println!("connected");
        let mut word = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut word)
            .expect("the parent gives the word");
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

/// Bytes as the command line takes them.
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
