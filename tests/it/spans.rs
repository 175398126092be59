//! Spans of watches, as an OpenTelemetry collector receives them.
#![cfg(feature = "otlp")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use crate::support::orders::{ORDERS, insert};
use crate::support::weir as weir_command;
use crate::support::{Database, ServeProcess, WAIT_LIMIT, WatchStream, Weir, eventually, within};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use weir::pb;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector and the spans it received, each with the resource's attributes.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(Attributes, Span)>>>);

type Attributes = BTreeMap<String, String>;

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut received = self.0.lock().expect("no test panics here");
        for of_resource in request.into_inner().resource_spans {
            let resource = attributes(&of_resource.resource.unwrap_or_default().attributes);
            let spans = of_resource.scope_spans.into_iter().flat_map(|it| it.spans);
            received.extend(spans.map(|span| (resource.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let service = TraceServiceServer::new(collector.clone());
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        (collector, address)
    }

    /// The spans with this name so far.
    fn named(&self, name: &str) -> Vec<(Attributes, Span)> {
        let received = self.0.lock().expect("no test panics here");
        let named = received.iter().filter(|(_, span)| span.name == name);
        named.cloned().collect()
    }
}

fn attributes(all: &[KeyValue]) -> Attributes {
    let text = |it: &KeyValue| match it.value.as_ref().and_then(|it| it.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    all.iter().map(|it| (it.key.clone(), text(it))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Opens a watch whose caller is traced, sampled or not.
async fn watch_in_trace(weir: &Weir, request: pb::WatchRequest, flags: &str) -> WatchStream {
    let mut client = weir.client().await;
    let mut request = Request::new(request);
    let header = format!("00-{TRACE}-{PARENT}-{flags}");
    let header = header.parse().expect("a header");
    request.metadata_mut().insert("traceparent", header);
    WatchStream::open(&mut client, request)
        .await
        .expect("the watch opens")
}

const WATCH: &str = "weir.v1.WatchService/Watch";

#[tokio::test]
async fn a_watch_is_a_span_in_its_callers_trace_with_its_outcome() {
    let (collector, address) = Collector::start().await;
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| {
        config.spans.otlp_endpoint = Some(format!("http://{address}"));
        // The caller's sampling decision applies, whatever the ratio.
        config.spans.otlp_sample_ratio = 0.0;
    })
    .await;
    let mut watch = watch_in_trace(&weir, database.watch_request(&[ORDERS]), "01").await;
    let id = watch.opened.watch_id.clone();
    insert(&database, 1).await;
    watch.next_change().await;
    eventually(
        "the opening is reported while the watch is open",
        async || !collector.named("open watch").is_empty(),
    )
    .await;
    assert!(collector.named(WATCH).is_empty(), "the watch is still open");

    drop(watch);
    eventually("the watch is reported once it has ended", async || {
        !collector.named(WATCH).is_empty()
    })
    .await;
    let (resource, span) = collector.named(WATCH).remove(0);
    assert_eq!(resource["service.name"], "weir");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(resource["service.instance.id"].len(), 32);
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.parent_span_id), PARENT);
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    let found = attributes(&span.attributes);
    let scope = format!("{}.{ORDERS}", database.name());
    for (key, value) in [
        ("weir.watch.id", id.as_str()),
        ("weir.scope", &scope),
        ("weir.feed_mode", "shared"),
        ("weir.reason", "cancelled"),
        ("rpc.grpc.status_code", "1"),
        ("weir.events", "1"),
        ("enduser.id", "anonymous"),
    ] {
        assert_eq!(found.get(key).map(String::as_str), Some(value), "{found:?}");
    }
    assert!(
        found["client.address"].starts_with("127.0.0.1:"),
        "{found:?}"
    );
    let (_, opening) = collector.named("open watch").remove(0);
    assert_eq!(opening.trace_id, span.trace_id);
    assert_eq!(opening.parent_span_id, span.span_id);
    assert_eq!(attributes(&opening.attributes)["weir.scope"], scope);
}

#[tokio::test]
async fn a_refused_watch_is_a_span_and_an_unsampled_one_is_not() {
    let (collector, address) = Collector::start().await;
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| {
        config.spans.otlp_endpoint = Some(format!("http://{address}"));
    })
    .await;
    drop(watch_in_trace(&weir, database.watch_request(&[ORDERS]), "00").await);
    let refused = pb::WatchRequest {
        start: Some(pb::watch_request::Start::ResumeToken(vec![7].into())),
        ..database.watch_request(&[ORDERS])
    };
    assert!(weir.try_watch(refused).await.is_err());
    weir.shutdown().await;
    let spans = collector.named(WATCH);
    assert_eq!(spans.len(), 1, "{spans:?}");
    let found = attributes(&spans[0].1.attributes);
    assert_eq!(found["weir.reason"], "RESUME_TOKEN_MALFORMED");
    assert_ne!(hex(&spans[0].1.trace_id), TRACE);
    // A client's mistake is not an error of the server.
    let status = spans[0].1.status.clone().unwrap_or_default();
    assert_ne!(status.code, StatusCode::Error as i32);
}

#[tokio::test]
async fn checking_the_settings_exports_nothing_and_calls_nobody() {
    let collector = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = collector.local_addr().expect("it is bound");
    let endpoint = format!("http://{address}");
    let uri = "mongodb://127.0.0.1:1/?directConnection=true";
    let arguments = ["serve", "--check-config", "--mongodb-uri", uri];
    let given = [&arguments[..], &["--otlp-endpoint", &endpoint]].concat();
    let mut process = weir_command(&[], &given);
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    assert!(status.success(), "{process}");
    assert_eq!(process.stderr(), "", "nothing is lost, as nothing is sent");
    // What had connected before the process ended would be accepted at once.
    let accepted = futures::FutureExt::now_or_never(collector.accept());
    assert!(accepted.is_none(), "{accepted:?}");
    let unusable = [&arguments[..], &["--otlp-endpoint", "http://a b"]].concat();
    let mut process = weir_command(&[], &unusable);
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    assert_eq!(status.code(), Some(64), "{process}");
    assert!(process.stderr().contains("--otlp-endpoint"), "{process}");
}

#[tokio::test]
async fn an_unavailable_collector_affects_no_watch_and_no_shutdown() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = nobody.local_addr().expect("it is bound");
    drop(nobody);
    let database = Database::start().await;
    let endpoint = format!("http://{address}");
    let arguments = ["--otlp-endpoint", &endpoint];
    let mut weir = ServeProcess::start(database.uri(), &arguments).await;
    let request = database.watch_request(&[ORDERS]);
    for id in 0..20 {
        let mut client = weir.client().await;
        let mut watch = WatchStream::open(&mut client, request.clone())
            .await
            .expect("the watch opens");
        insert(&database, id).await;
        watch.next_change().await;
    }
    eventually("the loss is reported", async || {
        weir.process.stderr().contains("spans could not be sent")
    })
    .await;
    weir.process.signal("TERM");
    let status = weir.process.wait_for_exit(WAIT_LIMIT).await;
    assert!(status.success(), "{}", weir.process);
    let log = weir.process.stderr();
    let warnings = log
        .matches("spans could not be sent; they are lost")
        .count();
    assert_eq!(warnings, 1, "{log}");
}

#[tokio::test]
async fn spans_that_end_at_a_shutdown_are_sent_before_the_process_ends() {
    let (collector, address) = Collector::start().await;
    let database = Database::start().await;
    let endpoint = format!("http://{address}");
    let mut weir = ServeProcess::start(database.uri(), &["--otlp-endpoint", &endpoint]).await;
    let mut client = weir.client().await;
    let request = database.watch_request(&[ORDERS]);
    let mut watch = WatchStream::open(&mut client, request)
        .await
        .expect("the watch opens");
    weir.process.signal("TERM");
    let ended = within("the stream ends", async {
        while watch.try_next().await.is_ok_and(|it| it.is_some()) {}
    });
    ended.await;
    let status = weir.process.wait_for_exit(WAIT_LIMIT).await;
    assert!(status.success(), "{}", weir.process);
    // The process has ended: nothing can come any more.
    let spans = collector.named(WATCH);
    assert_eq!(spans.len(), 1, "{spans:?}{}", weir.process);
    let found = attributes(&spans[0].1.attributes);
    assert_eq!(found["weir.reason"], "SERVER_DRAINING");
    let status = spans[0].1.status.clone().unwrap_or_default();
    assert_eq!(status.code, StatusCode::Error as i32);
}
