//! Tests of the hub with a scripted source and paused time.

mod barriers;
mod catch_up_turns;
mod catching_up;
mod costly_filters;
mod feeds;
mod isolation;
mod memory;
#[cfg(feature = "shuttle")]
mod model;
mod sharing;
mod token_lookup;
mod undeliverable;
mod views;

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use bson::doc;
use tokio::time::{Instant, timeout};

use super::*;
use crate::{
    model::{Caller, Format, Mode, Operation, Rendering, Stage},
    pb,
    source::{
        Batch, BatchSize, Failure, Position,
        scripted::{Opening, ScriptedSource, Step, after, at, batch, event, insert, quiet, token},
    },
};

const GRACE: Duration = Duration::from_secs(60);

fn settings() -> HubSettings {
    HubSettings {
        max_feeds: 2,
        feeds_per_scope: 4,
        max_catch_ups: 2,
        ring_bytes: 1 << 20,
        memory_limit: 1 << 30,
        feed_linger: Duration::from_secs(30),
        upstream_grace: GRACE,
        deployment_name: Some("rs".to_owned()),
        token_keys: None,
    }
}

fn hub(source: &Arc<ScriptedSource>) -> Hub {
    hub_with(source, settings())
}

fn hub_with(source: &Arc<ScriptedSource>, settings: HubSettings) -> Hub {
    let source: Arc<dyn Source> = Arc::<ScriptedSource>::clone(source);
    Hub::new(source, settings, Arc::new(Metrics::new()))
}

fn request() -> pb::WatchRequest {
    pb::WatchRequest {
        database: "shop".to_owned(),
        collections: vec!["orders".to_owned()],
        ..Default::default()
    }
}

fn watch(request: pb::WatchRequest) -> Arc<Watch> {
    let limits = crate::config::ServeConfig::for_uri("mongodb://x").request_limits();
    Arc::new(Watch::from_request(request, &limits).unwrap())
}

/// The watch of a principal.
fn of_principal(name: &str, watch: &Arc<Watch>) -> Arc<Watch> {
    let mut watch = Arc::clone(watch);
    Arc::make_mut(&mut watch).caller = Caller::Principal(name.into());
    watch
}

/// A watch that resumes from a token.
fn resumed(request: pb::WatchRequest, token: bytes::Bytes) -> Arc<Watch> {
    watch(pb::WatchRequest {
        start: Some(pb::watch_request::Start::ResumeToken(token)),
        ..request
    })
}

fn cursor(batches: Vec<Batch>) -> Opening {
    Opening::Cursor(batches.into_iter().map(Step::Batch).collect())
}

fn cursor_that_fails(batches: Vec<Batch>, failure: Failure) -> Opening {
    let steps = batches.into_iter().map(Step::Batch);
    Opening::Cursor(steps.chain([Step::Fail(failure)]).collect())
}

/// A short form of what a watcher reads; events by their name.
#[derive(Debug, PartialEq)]
enum Seen {
    Event(String),
    Stage(Stage),
    Invalidated(Option<Operation>),
    Ended(&'static str),
}

fn event_named(name: &str) -> Seen {
    Seen::Event(name.to_owned())
}

/// A watcher with its last token, as a client would keep it.
struct Client {
    watcher: Watcher,
    rendering: Arc<Rendering>,
    token: Vec<u8>,
}

impl Client {
    async fn open(hub: &Hub, watch: &Arc<Watch>) -> Self {
        let watcher = hub.subscribe(watch).await.unwrap();
        Self {
            token: watcher.start_position().token.to_vec(),
            watcher,
            rendering: Arc::clone(&watch.rendering),
        }
    }

    /// Reads `count` items, or until the watch has ended.
    async fn see(&mut self, count: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let next = poll_fn(|context| self.watcher.poll_read(context, &self.token));
            let read = timeout(Duration::from_secs(3600), next)
                .await
                .unwrap_or_else(|_| panic!("nothing follows {seen:?}"));
            let ended = matches!(read, WatcherRead::Ended(_));
            self.take(read, &mut seen);
            if ended {
                break;
            }
        }
        seen
    }

    /// Reads everything that is available now.
    async fn see_all(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        // The clock is paused, so this returns once nothing else can run.
        tokio::time::sleep(Duration::from_secs(1)).await;
        loop {
            let next = poll_fn(|context| {
                Poll::Ready(match self.watcher.poll_read(context, &self.token) {
                    Poll::Ready(read) => Some(read),
                    Poll::Pending => None,
                })
            });
            match next.await {
                Some(read) => self.take(read, &mut seen),
                None => return seen,
            }
        }
    }

    fn take(&mut self, read: WatcherRead, seen: &mut Vec<Seen>) {
        match read {
            WatcherRead::Events(selection) => {
                let encoded = selection.encoded(&self.rendering);
                for index in 0..selection.len() {
                    let token = &selection.segment().buffer()[selection.event(index).token.clone()];
                    let token = bson::Document::from_reader(token).unwrap();
                    seen.push(event_named(token.get_str("_data").unwrap()));
                    self.token = encoded.event(index).token().to_vec();
                }
            }
            WatcherRead::Stage(stage, _) => seen.push(Seen::Stage(stage)),
            WatcherRead::Invalidated(it, token) => {
                self.token = token.to_vec();
                seen.push(Seen::Invalidated(it.cause));
            }
            WatcherRead::Ended(error) => seen.push(Seen::Ended(error.reason())),
        }
    }
}

/// Reads the error that ends a watch.
async fn end_of(client: &mut Client) -> Error {
    let next = poll_fn(|context| client.watcher.poll_read(context, &client.token));
    match next.await {
        WatcherRead::Ended(error) => error,
        other => panic!("awaited the end, got {other:?}"),
    }
}

/// Two clients that start together, before the feed has read its second reply.
async fn two_clients(hub: &Hub) -> (Client, Client) {
    let wanted = watch(request());
    tokio::join!(Client::open(hub, &wanted), Client::open(hub, &wanted))
}

/// An insert of 700 KiB.
fn big(name: &str, increment: u32) -> bson::Document {
    let padding = "x".repeat(700 << 10);
    let fields = doc! { "documentKey": { "_id": name }, "fullDocument": { "padding": padding } };
    event(name, "insert", increment, fields)
}

/// A token context for tests in which it does not matter.
fn any_token_context() -> crate::wire::TokenContext {
    let plan = crate::pipeline::Plan::shared(&watch(request()));
    crate::wire::TokenContext::new("rs", &plan)
}

/// Gives cancelled tasks time to end.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// The sum of a metric over all labels.
fn metric(hub: &Hub, name: &str) -> f64 {
    let page = hub.starter.metrics.render(&hub.scraped_gauges());
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = rest.rsplit(' ').next()?;
        rest.starts_with([' ', '{'])
            .then(|| value.parse::<f64>())?
            .ok()
    });
    samples.sum()
}
