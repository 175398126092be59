//! The tutorial: five changes of its own collection, each with the event that it causes.

mod expected_event;
mod failure;
mod tutorial_watch;

use std::future::IntoFuture;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::options::{ClientOptions, CollectionOptions, WriteConcern};
use mongodb::{Client, Collection};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use crate::pb;
use crate::pb::watch_service_client::WatchServiceClient;
use expected_event::ExpectedEvent;
use failure::TutorialError;
use tutorial_watch::TutorialWatch;

const DATABASE: &str = "weir_dev";
const COLLECTION: &str = "tutorial";
/// The time until Weir must have reached MongoDB.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// The time from a change to its event.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Runs the tutorial on the collection `weir_dev.tutorial`, which it drops before and at the end. Fails at
/// the first event that is not as expected.
pub(super) async fn run(weir: SocketAddr, mongodb_uri: &str) -> Result<(), TutorialError> {
    let mut client = ready_client(weir).await?;
    let collection = fresh_collection(mongodb_uri).await?;
    let mut watch = open(&mut client).await?;
    change(&mut watch, &collection).await?;
    let end = watch.invalidated();
    with_timeout(STEP_TIMEOUT, "waiting for the end of the watch", end).await??;
    print_line(
        "The collection is gone, and so the watch has ended: every event came as expected.\n",
    );
    Ok(())
}

/// Opens the tutorial's watch.
async fn open(client: &mut WatchServiceClient<Channel>) -> Result<TutorialWatch, TutorialError> {
    let request = pb::WatchRequest {
        database: DATABASE.to_owned(),
        collections: vec![COLLECTION.to_owned()],
        full_document: pb::FullDocument::UpdateLookup.into(),
        document_format: pb::DocumentFormat::Json.into(),
        ..pb::WatchRequest::default()
    };
    print_line(&format!(
        "\n-> Watch {DATABASE}.{COLLECTION}, with the full document of updates"
    ));
    let opening = async {
        let stream = client.watch(request).await?.into_inner();
        let mut watch = TutorialWatch::new(stream);
        watch.opened().await?;
        Ok::<_, TutorialError>(watch)
    };
    with_timeout(STEP_TIMEOUT, "opening the watch", opening).await?
}

/// Makes the five changes, each of which must cause its event.
async fn change(
    watch: &mut TutorialWatch,
    collection: &Collection<Document>,
) -> Result<(), TutorialError> {
    let inserted = doc! { "_id": 1, "item": "weir", "stock": 3 };
    let updated = doc! { "_id": 1, "item": "weir", "stock": 2 };
    let replaced = doc! { "_id": 1, "item": "sluice", "stock": 7 };
    let key = doc! { "_id": 1 };
    let set = doc! { "stock": 2 };
    let update = doc! { "$set": set.clone() };

    step(
        watch,
        format!("insertOne({inserted})"),
        collection.insert_one(&inserted),
        ExpectedEvent::of(pb::OperationType::Insert)
            .key(&key)
            .document(&inserted),
    )
    .await?;
    step(
        watch,
        format!("updateOne({key}, {update})"),
        collection.update_one(key.clone(), update),
        ExpectedEvent::of(pb::OperationType::Update)
            .key(&key)
            .updated(&set)
            .document(&updated),
    )
    .await?;
    step(
        watch,
        format!("replaceOne({key}, {replaced})"),
        collection.replace_one(key.clone(), &replaced),
        ExpectedEvent::of(pb::OperationType::Replace)
            .key(&key)
            .document(&replaced),
    )
    .await?;
    step(
        watch,
        format!("deleteOne({key})"),
        collection.delete_one(key.clone()),
        ExpectedEvent::of(pb::OperationType::Delete).key(&key),
    )
    .await?;
    step(
        watch,
        "drop()".to_owned(),
        collection.drop(),
        ExpectedEvent::of(pb::OperationType::Drop),
    )
    .await
}

/// Makes a change and waits for its event.
async fn step<C, T>(
    watch: &mut TutorialWatch,
    step: String,
    change: C,
    expected: ExpectedEvent,
) -> Result<(), TutorialError>
where
    C: IntoFuture<Output = mongodb::error::Result<T>>,
{
    print_line(&format!("-> {step}"));
    let what = format!("waiting for the event of {step}");
    let change_and_event = async {
        change.await?;
        watch.change().await
    };
    let event = with_timeout(STEP_TIMEOUT, &what, change_and_event).await??;
    Ok(expected.check(&event)?)
}

async fn with_timeout<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> Result<T, TutorialError> {
    timeout(limit, future)
        .await
        .map_err(|_| TutorialError::TimedOut {
            what: what.to_owned(),
            limit,
        })
}

/// Returns a client once Weir has reached MongoDB.
async fn ready_client(weir: SocketAddr) -> Result<WatchServiceClient<Channel>, TutorialError> {
    let endpoint = Endpoint::from_shared(format!("http://{weir}"))
        .expect("an address makes a URL")
        .connect_timeout(Duration::from_secs(5));
    let mut client = WatchServiceClient::new(endpoint.connect_lazy());
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let answer = with_timeout(
            READY_TIMEOUT,
            "waiting for Weir's answer",
            client.get_server_info(pb::GetServerInfoRequest {}),
        )
        .await?;
        match answer {
            Ok(_) => return Ok(client),
            Err(status) if Instant::now() >= deadline => return Err(status.into()),
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
}

/// Returns the tutorial's collection after dropping it. Writes wait for the majority, so that a watch opened
/// after the drop starts after it.
async fn fresh_collection(uri: &str) -> Result<Collection<Document>, TutorialError> {
    let mut options = ClientOptions::parse(uri).await?;
    options
        .app_name
        .get_or_insert_with(|| "weir dev".to_owned());
    let client = Client::with_options(options)?;
    let majority = CollectionOptions::builder()
        .write_concern(WriteConcern::majority())
        .build();
    let collection = client
        .database(DATABASE)
        .collection_with_options(COLLECTION, majority);
    with_timeout(
        STEP_TIMEOUT,
        "waiting for MongoDB's answer",
        collection.drop().into_future(),
    )
    .await??;
    Ok(collection)
}

/// Prints a line to stdout. Errors are ignored: with `--once`, the exit code matters even if stdout is
/// closed.
pub(super) fn print_line(text: &str) {
    let _ = writeln!(anstream::stdout().lock(), "{text}");
}
