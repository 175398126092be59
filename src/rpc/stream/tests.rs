//! When the stream of a watch is woken.

use std::future::poll_fn;

use futures::StreamExt as _;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    auth::{Authenticator, Principal},
    config::ServeConfig,
    hub::{Hub, HubSettings},
    pb::watch_request::Start,
    policy::Policy,
    rpc::{Access, WatchApi},
    source::{
        Batch, Position,
        scripted::{Opening, ScriptedSource, Step, at, quiet},
    },
    spans::Spans,
};

const SECOND_100: prost_types::Timestamp = prost_types::Timestamp {
    seconds: 100,
    nanos: 0,
};

/// The number of replies before the end, which are a millisecond apart.
const REPLIES: u32 = 1_500;

fn cursor(replies: impl IntoIterator<Item = Batch>) -> Opening {
    Opening::Cursor(replies.into_iter().map(Step::Batch).collect())
}

/// Opens a watch of a scripted source that ends after second 100.
async fn bounded_watch(
    openings: impl IntoIterator<Item = Opening>,
    start: Option<Start>,
) -> WatchStream {
    let source = ScriptedSource::new(openings);
    let config = ServeConfig::for_uri("mongodb://x");
    let metrics = Arc::new(Metrics::new());
    let settings = HubSettings {
        deployment_name: Some("rs".to_owned()),
        ..config.hub_settings()
    };
    let api = WatchApi::new(
        Hub::new(source, settings, Arc::clone(&metrics)),
        Access {
            authenticator: Authenticator::anonymous(),
            policy: Policy::allow_all(),
        },
        metrics,
        config.service_limits(),
        CancellationToken::new(),
        Spans::new(None).expect("no collector is named"),
    );
    let mut request = tonic::Request::new(pb::WatchRequest {
        database: "shop".to_owned(),
        collections: vec!["orders".to_owned()],
        start,
        end_time: Some(SECOND_100),
        ..Default::default()
    });
    request
        .extensions_mut()
        .insert(Arc::new(Principal::anonymous()));
    api.watch(request, None).await.expect("a watch")
}

/// A reply without events at a second.
fn quiet_in(seconds: u32) -> Batch {
    let time = ClusterTime { seconds, ..at(0) };
    let mut reply = quiet("later", 0);
    if let Some(Position::HighWater { time: reached, .. }) = &mut reply.position {
        *reached = time;
    }
    reply
}

fn kind(frame: Option<Result<Frame, Status>>) -> Option<Kind> {
    let frame = frame?.expect("no error");
    let mut bytes = bytes::BytesMut::new();
    frame.encode(&mut bytes);
    let message = pb::WatchResponse::decode(bytes.freeze()).expect("a message");
    message.kind
}

/// Replies without events, of which the last ones show that second 100 is over.
fn replies() -> impl Iterator<Item = Batch> {
    let before = (0..REPLIES).map(|n| quiet("t", n));
    before.chain([101, 102, 103].map(quiet_in))
}

/// Reads a watch that is live and has no event, to its end.
async fn assert_woken_once_when_due(mut watch: WatchStream, began: Instant) {
    let opened = kind(watch.next().await);
    assert!(matches!(opened, Some(Kind::Opened(_))), "{opened:?}");
    let live = kind(watch.next().await);
    assert!(matches!(live, Some(Kind::StateChange(_))), "{live:?}");

    let mut polls = 0;
    let next = poll_fn(|context| {
        polls += 1;
        watch.poll_next_unpin(context)
    });
    let last = kind(next.await);
    let Some(Kind::Progress(progress)) = last else {
        panic!("{last:?}");
    };
    assert_eq!(progress.cluster_time.map(|time| time.seconds), Some(101));
    assert_eq!(polls, 2, "it is polled to wait, and when it is due");
    let took = began.elapsed();
    let due = Duration::from_millis(u64::from(REPLIES));
    assert!(
        (due..due + Duration::from_millis(50)).contains(&took),
        "{took:?}"
    );
    assert_eq!(kind(watch.next().await), None);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_with_an_end_time_is_woken_once_when_it_is_due() {
    let began = Instant::now();
    let watch = bounded_watch([cursor(replies())], None).await;
    assert_woken_once_when_due(watch, began).await;
}

/// It does not join the ring: its feed has not passed the start.
#[tokio::test(start_paused = true)]
async fn a_quiet_catch_up_with_an_end_time_is_woken_once_when_it_is_due() {
    let began = Instant::now();
    let openings = [cursor([quiet("t", 0)]), cursor(replies())];
    let start = Some(Start::StartTime(SECOND_100));
    let watch = bounded_watch(openings, start).await;
    assert_woken_once_when_due(watch, began).await;
}
