//! One principal that takes as much as it is given, in a process of its own. On the command `go` it floods the server
//! until `stop`, and then answers `flooded` with the number of calls it made and of those that were refused.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::{Args, ValueEnum};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{sleep, timeout},
};
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::CompressionEncoding,
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use weir::pb::{
    self, field_filter::Operator, filter::Kind, watch_request::Start,
    watch_service_client::WatchServiceClient,
};

use super::{
    frames::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS,
        frame,
    },
    raw_codec::RawCodec,
};
use crate::system::{
    commands::Commands,
    process::{ChildError, Process},
};

/// The number of connections of a flood of calls.
const CONNECTIONS: usize = 12;
/// The number of calls at once on each connection of a flood of small calls.
const CALLS_A_CONNECTION: usize = 8;
/// The number of catch-ups that are not read.
const CATCH_UPS: usize = 64;
/// The number of watches with long lists, and of lists in each, and of numbers in each list.
const LIST_WATCHES: usize = 240;
const LISTS: usize = 22;
const NUMBERS: usize = 1_000;
/// The number of watches with costly patterns that are open at once.
const COSTLY_WATCHES: usize = 32;
/// The time for which a watch with costly patterns stays open.
const COSTLY_TIME: Duration = Duration::from_millis(500);
/// The smallest window that HTTP/2 starts with, so that a client that does not read buffers little.
const SMALL_WINDOW: u32 = 65_535;

/// Patterns that keep hundreds of states active at once.
const PATTERNS: [&str; 6] = [
    "[ab]*a[ab]{400}c",
    "a[ab]{200}c",
    "a.{0,200}b.{0,200}c.{0,200}z9",
    "(?:a.{1,900}q)",
    "(?:[ab]*a[ab]{400}c|b[ab]{300}d)",
    "([ab ]{0,300}a){2}9",
];

/// What a flood consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Flood {
    /// CPU that is burned elsewhere
    Cpu,
    /// Watches that are opened and cancelled
    Openings,
    /// Catch-ups that are not read
    CatchUps,
    /// Filters that are costly to compile and to match
    CostlyFilters,
    /// Filters with long lists of literals
    LongLists,
    /// Streams that are reset at once
    Resets,
    /// Health checks
    Health,
    /// Reflection
    Reflection,
    /// Credentials and resume tokens that are not valid
    BadTokens,
    /// Large requests
    LargeRequests,
}

impl Flood {
    /// All of them; the control first.
    pub const ALL: [Self; 10] = [
        Self::Cpu,
        Self::Openings,
        Self::CatchUps,
        Self::CostlyFilters,
        Self::LongLists,
        Self::Resets,
        Self::Health,
        Self::Reflection,
        Self::BadTokens,
        Self::LargeRequests,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "none; CPU burned elsewhere",
            Self::Openings => "open and cancel",
            Self::CatchUps => "catch-ups unread",
            Self::CostlyFilters => "costly filters",
            Self::LongLists => "long `in` lists",
            Self::Resets => "streams reset",
            Self::Health => "health checks",
            Self::Reflection => "reflection",
            Self::BadTokens => "bad tokens",
            Self::LargeRequests => "large requests",
        }
    }
}

/// Connects, and sends the preface of HTTP/2.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&greeting).await?;
    Ok(stream)
}

/// The task of the flood.
#[derive(Debug, Clone, Args)]
pub struct Task {
    #[arg(long)]
    flood: Flood,
    /// The URL of Weir
    #[arg(long)]
    url: String,
    #[arg(long)]
    database: String,
    /// The collection that others watch
    #[arg(long)]
    collection: String,
    /// A collection with a past
    #[arg(long)]
    history: String,
    /// The time before the first of the history, in seconds since 1970
    #[arg(long)]
    since: i64,
    /// The API key
    #[arg(long)]
    key: String,
}

/// The parent's handle of a flood.
#[derive(Debug)]
pub struct Flooder(Process);

/// What a flood did.
#[derive(Debug, Clone, Copy)]
pub struct Flooded {
    pub calls: u64,
    pub refused: u64,
}

impl Flooder {
    /// Starts the process, at the lowest priority: the CPU that it burns itself is not what is measured.
    pub fn start(task: &Task) -> Self {
        let flood = task.flood.to_possible_value().expect("none is skipped");
        let process = Process::start_role_at_low_priority(
            "the flood",
            &[
                "flood".to_owned(),
                format!("--flood={}", flood.get_name()),
                format!("--url={}", task.url),
                format!("--database={}", task.database),
                format!("--collection={}", task.collection),
                format!("--history={}", task.history),
                format!("--since={}", task.since),
                format!("--key={}", task.key),
            ],
        );
        Self(process)
    }

    pub fn begin(&mut self) -> Result<(), ChildError> {
        self.0.send("go");
        self.0.answer("going", Duration::from_secs(10)).map(|_| ())
    }

    pub fn end(&mut self) -> Result<Flooded, ChildError> {
        self.0.send("stop");
        let line = self.0.answer("flooded ", Duration::from_secs(30))?;
        let mut numbers = line.split(' ').map(|it| it.parse().expect("numbers"));
        let mut next = || numbers.next().expect("it reports two");
        Ok(Flooded {
            calls: next(),
            refused: next(),
        })
    }
}

impl Task {
    pub fn new(
        flood: Flood,
        url: &str,
        (database, collection, history): (&str, &str, &str),
        since: i64,
        key: &str,
    ) -> Self {
        Self {
            flood,
            url: url.to_owned(),
            database: database.to_owned(),
            collection: collection.to_owned(),
            history: history.to_owned(),
            since,
            key: key.to_owned(),
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    refused: AtomicU64,
}

impl Counts {
    fn call<T, E>(&self, result: &Result<T, E>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if result.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn cancelled(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

/// The process of a flood.
pub fn run(task: &Task, commands: &mut Commands) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs only a few file descriptors");
    let counts = Arc::new(Counts::default());
    runtime.block_on(async {
        while commands.next().await != "go" {}
        println!("going");
        let mut workers = Vec::new();
        for number in 0..workers_of(task.flood) {
            let (task, counts) = (task.clone(), Arc::clone(&counts));
            workers.push(tokio::spawn(
                async move { task.work(number, &counts).await },
            ));
        }
        while commands.next().await != "stop" {}
        let (calls, refused) = (&counts.calls, &counts.refused);
        println!(
            "flooded {} {}",
            calls.load(Ordering::Relaxed),
            refused.load(Ordering::Relaxed)
        );
        for worker in workers {
            worker.abort();
        }
        std::process::exit(0);
    });
}

fn workers_of(flood: Flood) -> usize {
    match flood {
        Flood::Cpu => 2,
        Flood::Openings | Flood::LargeRequests | Flood::Resets => CONNECTIONS,
        Flood::CatchUps => CATCH_UPS,
        Flood::CostlyFilters => COSTLY_WATCHES,
        Flood::LongLists => LIST_WATCHES,
        Flood::Health | Flood::Reflection | Flood::BadTokens => CONNECTIONS * CALLS_A_CONNECTION,
    }
}

impl Task {
    async fn work(&self, number: usize, counts: &Counts) {
        match self.flood {
            Flood::Cpu => burn().await,
            Flood::Openings => self.open_and_cancel(number, counts).await,
            Flood::CatchUps => self.catch_up(counts).await,
            Flood::CostlyFilters => self.filter_at_great_cost(number, counts).await,
            Flood::LongLists => self.list(number, counts).await,
            Flood::Resets => self.reset(counts).await,
            Flood::Health => self.check_health(counts).await,
            Flood::Reflection => self.reflect(counts).await,
            Flood::BadTokens => self.present_bad_tokens(number, counts).await,
            Flood::LargeRequests => self.ask_at_length(number, counts).await,
        }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(self.url.clone()).expect("the URL is well-formed")
    }

    fn address(&self) -> SocketAddr {
        let address = self.url.trim_start_matches("http://");
        address.parse().expect("the URL is an address")
    }

    fn request(&self) -> pb::WatchRequest {
        pb::WatchRequest {
            database: self.database.clone(),
            collections: vec![self.collection.clone()],
            ..pb::WatchRequest::default()
        }
    }

    fn with_key<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let key = self.key.parse().expect("a key is a header's value");
        request.metadata_mut().insert("x-api-key", key);
        request
    }

    async fn watch(
        &self,
        client: &mut WatchServiceClient<Channel>,
        request: pb::WatchRequest,
    ) -> Result<Streaming<pb::WatchResponse>, Status> {
        let opened = client.watch(self.with_key(request)).await;
        opened.map(tonic::Response::into_inner)
    }

    /// Watches with and without a filter, on shared and on dedicated streams, from now. Half of them are cancelled
    /// before they are answered.
    async fn open_and_cancel(&self, number: usize, counts: &Counts) {
        let mut client = WatchServiceClient::new(self.endpoint().connect_lazy());
        for round in number.. {
            let mut request = self.request();
            if round % 3 > 0 {
                request.filters = vec![eq("group", (round % 97) as f64)];
            }
            if round % 3 == 2 {
                request.feed_mode = pb::FeedMode::Dedicated.into();
            }
            let opening = self.watch(&mut client, request);
            if round % 2 == 0 {
                let patience = Duration::from_micros(fastrand::u64(200..5_000));
                match timeout(patience, opening).await {
                    Ok(opened) => counts.call(&opened),
                    Err(_) => counts.cancelled(),
                }
            } else {
                counts.call(&opening.await);
            }
        }
    }

    /// A watch from the past, which is not read, and opened again when it ends.
    async fn catch_up(&self, counts: &Counts) {
        loop {
            let endpoint = self
                .endpoint()
                .initial_stream_window_size(SMALL_WINDOW)
                .initial_connection_window_size(SMALL_WINDOW);
            let mut client = WatchServiceClient::new(endpoint.connect_lazy());
            let request = pb::WatchRequest {
                collections: vec![self.history.clone()],
                start: Some(Start::StartTime(prost_types::Timestamp {
                    seconds: self.since,
                    nanos: 0,
                })),
                ..self.request()
            };
            let opened = self.watch(&mut client, request).await;
            counts.call(&opened);
            if let Ok(_unread) = opened {
                sleep(Duration::from_secs(3_600)).await;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Watches with patterns of their own on a shared stream, and with groups as deep and as many conditions as are
    /// allowed, each for a moment.
    async fn filter_at_great_cost(&self, number: usize, counts: &Counts) {
        let mut client = WatchServiceClient::new(self.endpoint().connect_lazy());
        for round in 0.. {
            let unique = round * COSTLY_WATCHES + number;
            let filters = if number % 4 == 3 {
                vec![deep(unique, 8)]
            } else {
                let own = |pattern: &&str| regex("text", &format!("{pattern}|{unique}"));
                vec![any_of(PATTERNS.iter().map(own).collect())]
            };
            let request = pb::WatchRequest {
                filters,
                feed_mode: pb::FeedMode::Shared.into(),
                ..self.request()
            };
            let opened = self.watch(&mut client, request).await;
            counts.call(&opened);
            match opened {
                Ok(mut watch) => {
                    let read = async { while let Ok(Some(_)) = watch.message().await {} };
                    let _ = timeout(COSTLY_TIME, read).await;
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn list(&self, number: usize, counts: &Counts) {
        let mut client = WatchServiceClient::new(self.endpoint().connect_lazy());
        loop {
            let request = pb::WatchRequest {
                filters: (0..LISTS).map(|list| in_list(number, list)).collect(),
                feed_mode: pb::FeedMode::Shared.into(),
                ..self.request()
            };
            let opened = self.watch(&mut client, request).await;
            counts.call(&opened);
            if let Ok(mut watch) = opened {
                while let Ok(Some(_)) = watch.message().await {}
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn reset(&self, counts: &Counts) {
        let request = {
            use prost::Message as _;
            self.request().encode_to_vec()
        };
        let opening = frames::opening(frames::WATCH, &[("x-api-key", &self.key)]);
        loop {
            let Ok(mut connection) = connect(self.address()).await else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            for stream in (1..1_000_000).step_by(2) {
                let call = [
                    frame(HEADERS, END_HEADERS, stream, &opening),
                    frame(DATA, END_STREAM, stream, &frames::message(&request)),
                    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
                ];
                if connection.write_all(&call.concat()).await.is_err() {
                    break;
                }
                counts.cancelled();
                drain(&mut connection);
            }
        }
    }

    async fn check_health(&self, counts: &Counts) {
        let mut grpc = Grpc::new(self.endpoint().connect_lazy());
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        loop {
            if grpc.ready().await.is_err() {
                sleep(Duration::from_millis(20)).await;
                continue;
            }
            let request = Request::new(bytes::Bytes::new());
            counts.call(&grpc.unary(request, path.clone(), RawCodec).await);
        }
    }

    /// Asks for the definition of the service, which is the longest answer, on streams of many questions.
    async fn reflect(&self, counts: &Counts) {
        let question = |field: u8, text: &str| {
            let length = u8::try_from(text.len()).expect("it is short");
            let mut message = vec![field << 3 | 2, length];
            message.extend_from_slice(text.as_bytes());
            bytes::Bytes::from(message)
        };
        let questions = [
            question(4, "weir.v1.WatchService"),
            question(4, "weir.v1.WatchRequest"),
            question(7, "*"),
        ];
        let mut grpc = Grpc::new(self.endpoint().connect_lazy());
        let path =
            PathAndQuery::from_static("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
        loop {
            if grpc.ready().await.is_err() {
                sleep(Duration::from_millis(20)).await;
                continue;
            }
            let asked = questions.iter().cycle().take(30).cloned();
            let asked: Vec<bytes::Bytes> = asked.collect();
            let request = self.with_key(futures::stream::iter(asked));
            let answers = grpc.streaming(request, path.clone(), RawCodec).await;
            match answers {
                Ok(answers) => {
                    let mut answers = answers.into_inner();
                    while let Ok(Some(_)) = answers.message().await {
                        counts.cancelled();
                    }
                }
                refused => counts.call(&refused),
            }
        }
    }

    /// API keys that nobody has, tokens with signatures that do not fit, and resume tokens that are none.
    async fn present_bad_tokens(&self, number: usize, counts: &Counts) {
        let mut client = WatchServiceClient::new(self.endpoint().connect_lazy());
        let rsa = bearer("RS256", "rsa", 256);
        let curve = bearer("ES384", "curve", 96);
        for round in number.. {
            let request = match round % 4 {
                0 => {
                    let key = format!("weir_{:032x}", fastrand::u128(..));
                    bearing(self.request(), "x-api-key", &key)
                }
                1 => bearing(self.request(), "authorization", &rsa),
                2 => bearing(self.request(), "authorization", &curve),
                _ => self.with_key(pb::WatchRequest {
                    start: Some(Start::ResumeToken(vec![fastrand::u8(..); 16 << 10].into())),
                    ..self.request()
                }),
            };
            counts.call(&client.watch(request).await);
        }
    }

    /// Requests of 1 MiB that decode to much more, larger ones, compressed ones, and long headers.
    async fn ask_at_length(&self, number: usize, counts: &Counts) {
        let mut client = WatchServiceClient::new(self.endpoint().connect_lazy());
        let mut grpc = Grpc::new(self.endpoint().connect_lazy());
        let path = PathAndQuery::from_static("/weir.v1.WatchService/Watch");
        for round in number.. {
            let outcome = match round % 6 {
                0 => {
                    let filler = "x".repeat((1 << 20) - 1_000);
                    let request = pb::WatchRequest {
                        collections: vec![filler],
                        ..self.request()
                    };
                    client.watch(self.with_key(request)).await.is_ok()
                }
                // Empty filters: two bytes each.
                1 | 2 => {
                    let field = if round % 6 == 1 { 0x22 } else { 0x12 };
                    let request = [field, 0].repeat((1 << 19) - 500);
                    if grpc.ready().await.is_err() {
                        continue;
                    }
                    let request = self.with_key(bytes::Bytes::from(request));
                    let answer = grpc.server_streaming(request, path.clone(), RawCodec);
                    answer.await.is_ok()
                }
                3 => {
                    let request = pb::WatchRequest {
                        collections: vec!["x".repeat(16 << 20)],
                        ..self.request()
                    };
                    client.watch(self.with_key(request)).await.is_ok()
                }
                4 => {
                    let mut compressing = client.clone().send_compressed(CompressionEncoding::Gzip);
                    let request = pb::WatchRequest {
                        collections: vec!["x".repeat(16 << 20)],
                        ..self.request()
                    };
                    compressing.watch(self.with_key(request)).await.is_ok()
                }
                _ => self.send_long_headers().await,
            };
            counts.call(&outcome.then_some(()).ok_or(()));
        }
    }

    async fn send_long_headers(&self) -> bool {
        let Ok(mut connection) = connect(self.address()).await else {
            return false;
        };
        let long = "x".repeat(7_000);
        let opening = frames::opening(frames::WATCH, &[("x-long", long.as_str()); 16]);
        for stream in (1..40).step_by(2) {
            let mut pieces = opening.chunks(16 << 10).peekable();
            let mut kind = HEADERS;
            while let Some(piece) = pieces.next() {
                let flags = if pieces.peek().is_none() {
                    END_HEADERS
                } else {
                    0
                };
                if connection
                    .write_all(&frame(kind, flags, stream, piece))
                    .await
                    .is_err()
                {
                    return false;
                }
                kind = CONTINUATION;
            }
            drain(&mut connection);
        }
        true
    }
}

/// Takes what has come, so that the server can send on.
fn drain(connection: &mut TcpStream) {
    let mut buffer = [0; 16 << 10];
    while connection.try_read(&mut buffer).is_ok_and(|read| read > 0) {}
}

async fn burn() {
    loop {
        let mut sum = 0_u64;
        for number in 0..1_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(number));
        }
        tokio::task::yield_now().await;
    }
}

fn bearing<T>(message: T, header: &'static str, value: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = value.parse().expect("a header's value");
    request.metadata_mut().insert(header, value);
    request
}

/// A token of a known key with a signature of so many random bytes.
fn bearer(algorithm: &str, key: &str, signature_bytes: usize) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let header = format!(r#"{{"alg":"{algorithm}","kid":"{key}","typ":"JWT"}}"#);
    let claims =
        r#"{"iss":"https://issuer.example/","aud":"weir","sub":"nobody","exp":4000000000}"#;
    let mut signature: Vec<u8> = (0..signature_bytes).map(|_| fastrand::u8(1..)).collect();
    // Below every modulus and order.
    signature[0] = 1;
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    format!(
        "Bearer {}.{}.{}",
        encode(header.as_bytes()),
        encode(claims.as_bytes()),
        encode(&signature)
    )
}

fn number_value(number: f64) -> prost_types::Value {
    prost_types::Value {
        kind: Some(prost_types::value::Kind::NumberValue(number)),
    }
}

fn field(path: &str, operator: Operator) -> pb::Filter {
    pb::Filter {
        kind: Some(Kind::Field(pb::FieldFilter {
            path: path.to_owned(),
            operator: Some(operator),
        })),
    }
}

fn eq(path: &str, number: f64) -> pb::Filter {
    field(path, Operator::Eq(number_value(number)))
}

fn regex(path: &str, pattern: &str) -> pb::Filter {
    let (pattern, options) = (pattern.to_owned(), String::new());
    field(path, Operator::Regex(pb::RegexFilter { pattern, options }))
}

fn any_of(filters: Vec<pb::Filter>) -> pb::Filter {
    pb::Filter {
        kind: Some(Kind::AnyOf(pb::FilterGroup { filters })),
    }
}

/// A list that no other watch has.
fn in_list(watch: usize, list: usize) -> pb::Filter {
    let first = (watch * LISTS + list) * NUMBERS;
    let values = (first..first + NUMBERS).map(|number| number_value(number as f64));
    let values = prost_types::ListValue {
        values: values.collect(),
    };
    field(&format!("group{list}"), Operator::In(values))
}

/// Groups within groups, of 190 conditions.
fn deep(unique: usize, levels: usize) -> pb::Filter {
    let mut filter = any_of(
        (0..180)
            .map(|number| {
                let path = format!("a.b.c.d{number}.0.1.2");
                field(
                    &path,
                    Operator::Gt(number_value((unique * 200 + number) as f64)),
                )
            })
            .collect(),
    );
    for level in 0..levels {
        let filters = vec![filter];
        filter = pb::Filter {
            kind: Some(if level % 2 == 0 {
                Kind::NoneOf(pb::FilterGroup { filters })
            } else {
                Kind::AllOf(pb::FilterGroup { filters })
            }),
        };
    }
    filter
}
