//! `fields`: what is sent of documents is what `find` returns with the same projection, and what is sent of updates
//! leads from one projected document to the next (docs/projection.md).

mod delta;
mod hidden;

use std::collections::HashMap;

use crate::conversions::{after, as_mongodb_event, before, bson};
use crate::support::orders::ORDERS;
use crate::support::{Database, WatchStream, Weir, repository};
use delta::{Random, apply, unordered};
use futures::future::join_all;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};
use prost::Message as _;
use tonic::codec::CompressionEncoding;
use weir::model::{FieldMask, Format, Rendering};
use weir::pb::watch_response::Kind;
use weir::pb::{self, FullDocument, FullDocumentBeforeChange as Before, OversizePolicy};
use weir::pipeline::{Plan, RequestLimits, Watch};
use weir::source::Event;
use weir::wire::{self, Compression, TokenContext};

/// A database whose orders keep images.
async fn with_images() -> Database {
    let database = Database::start().await;
    let images = doc! { "enabled": true };
    let create = doc! { "create": ORDERS, "changeStreamPreAndPostImages": images };
    let created = database.database().run_command(create).await;
    created.expect("a collection");
    database
}

fn of_fields(database: &Database, fields: &[impl ToString]) -> pb::WatchRequest {
    pb::WatchRequest {
        fields: fields.iter().map(ToString::to_string).collect(),
        ..database.watch_request(&[ORDERS])
    }
}

fn with_documents(request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        full_document: FullDocument::WhenAvailable.into(),
        full_document_before_change: Before::WhenAvailable.into(),
        ..request
    }
}

/// The document as `find` returns it with these fields.
async fn found(orders: &Collection<Document>, id: i32, fields: &[String]) -> Option<Document> {
    let projection: Document = fields.iter().map(|path| (path.clone(), 1.into())).collect();
    let found = orders.find_one(doc! { "_id": id }).projection(projection);
    found.await.expect("MongoDB takes the projection")
}

/// Several watches, each with fields of its own and the document that it was shown last.
struct Projections {
    orders: Collection<Document>,
    watches: Vec<(WatchStream, Vec<String>, Option<Document>)>,
}

impl Projections {
    async fn open(database: &Database, weir: &Weir, fields: Vec<Vec<String>>) -> Self {
        let mut watches = Vec::new();
        for fields in fields {
            let request = with_documents(of_fields(database, &fields));
            watches.push((weir.watch(request).await, fields, None));
        }
        Self {
            orders: database.collection(ORDERS),
            watches,
        }
    }

    /// Checks the next change of each watch against the document as it is now in the database. The description
    /// of an update must lead to it, unless `is_exact` is false.
    async fn check(&mut self, id: i32, is_exact: bool) {
        for (watch, fields, shown) in &mut self.watches {
            let change = watch.next_change().await;
            let now = found(&self.orders, id, fields).await;
            let bytes = |document: &Document| document.to_vec().expect("BSON");
            let sent = match after(&change) {
                Some(Bson::Document(document)) => Some(document),
                None => None,
                other => panic!("{other:?}"),
            };
            // The bytes have the order of fields, and the indexes of arrays.
            assert_eq!(
                sent.as_ref().map(bytes),
                now.as_ref().map(bytes),
                "{fields:?}: {sent:?}, {now:?}"
            );
            if change.operation() != pb::OperationType::Insert {
                let earlier =
                    before(&change).map(|it| it.as_document().expect("a document").clone());
                assert_eq!(earlier, *shown, "{fields:?} before");
            }
            let event = as_mongodb_event(&change);
            if let (Ok(description), Some(earlier), true) = (
                event.get_document("updateDescription"),
                shown.as_ref(),
                is_exact,
            ) {
                let applied = unordered(&apply(earlier, description).into());
                let expected = unordered(&now.clone().expect("it exists").into());
                assert_eq!(applied, expected, "{fields:?}: {description} on {earlier}");
            }
            assert_eq!(change.unknown_fields, None);
            *shown = now;
        }
    }
}

/// Random values with what a projection treats in its own way: arrays in arrays, values among documents,
/// numbers as names.
fn odd_document(random: &mut Random, depth: u32) -> Document {
    let names = ["a", "b", "c", "0", "1"];
    let count = random.rng.usize(1..5);
    (0..count)
        .map(|_| {
            let name = names[random.rng.usize(..names.len())];
            (name.to_owned(), odd_value(random, depth))
        })
        .collect()
}

fn odd_value(random: &mut Random, depth: u32) -> Bson {
    match random.rng.u32(..6) {
        0..3 if depth > 0 => odd_document(random, depth - 1).into(),
        3 | 4 if depth > 0 => {
            let count = random.rng.usize(..4);
            Bson::Array((0..count).map(|_| odd_value(random, depth - 1)).collect())
        }
        _ => random.scalar(),
    }
}

/// Inserts and replaces, with their pre-images, of random documents and paths.
#[tokio::test]
async fn documents_are_what_find_returns_with_the_same_projection() {
    let database = with_images().await;
    let weir = Weir::start(&database).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (mut random, mut ambiguous) = (Random::new(seed), Random::ambiguous(seed));
    let mut fields: Vec<Vec<String>> = (0..6)
        .flat_map(|_| [random.paths(), ambiguous.paths()])
        .collect();
    fields.push(vec!["_id".to_owned()]);
    let mut projections = Projections::open(&database, &weir, fields).await;
    let orders = projections.orders.clone();
    for id in 0..40 {
        let mut document = doc! { "_id": id };
        document.extend(odd_document(&mut random, 4));
        orders.insert_one(document).await.expect("an insert");
        for (_, _, shown) in &mut projections.watches {
            *shown = None;
        }
        projections.check(id, true).await;
        let replacement = odd_document(&mut random, 4);
        let replaced = orders.replace_one(doc! { "_id": id }, replacement).await;
        replaced.expect("a replace");
        projections.check(id, true).await;
    }
    assert_eq!(weir.metrics().await.sum("weir_feeds"), 1.0);
}

/// One rule for descriptions of updates, on updates that a database made.
#[tokio::test]
async fn a_real_update_leads_from_one_projected_document_to_the_next() {
    let database = with_images().await;
    let weir = Weir::start(&database).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let fields = (0..12).map(|_| random.paths()).collect();
    let mut projections = Projections::open(&database, &weir, fields).await;
    let orders = projections.orders.clone();
    let mut document = Document::new();
    for step in 0..150 {
        if step % 10 == 0 {
            document = doc! { "_id": step };
            document.extend(random.document(3));
            orders
                .insert_one(document.clone())
                .await
                .expect("an insert");
            for (_, _, shown) in &mut projections.watches {
                *shown = None;
            }
            projections.check(step, true).await;
        }
        let id = step - step % 10;
        let update = random.update(&document);
        let Some(operators) = operators(&update.description) else {
            continue;
        };
        let updated = orders
            .update_one(doc! { "_id": id }, operators.clone())
            .await;
        let updated = updated.unwrap_or_else(|error| panic!("{operators} on {document}: {error}"));
        if updated.modified_count == 0 {
            continue;
        }
        let now = orders.find_one(doc! { "_id": id }).await.expect("a find");
        document = now.expect("it exists");
        projections.check(id, true).await;
    }
}

/// The update operators that make a description true.
fn operators(description: &Document) -> Option<Document> {
    let mut operators = Document::new();
    let set = description.get_document("updatedFields").expect("fields");
    if !set.is_empty() {
        operators.insert("$set", set.clone());
    }
    let removed = description.get_array("removedFields").expect("names");
    if !removed.is_empty() {
        let unset = removed
            .iter()
            .map(|it| (it.as_str().expect("a name").to_owned(), 1.into()));
        operators.insert("$unset", unset.collect::<Document>());
    }
    let truncated = description.get_array("truncatedArrays").expect("arrays");
    if !truncated.is_empty() {
        let push = truncated.iter().map(|it| {
            let array = it.as_document().expect("an array");
            let size = array.get_i32("newSize").expect("a size");
            let slice = doc! { "$each": [], "$slice": size };
            (
                array.get_str("field").expect("a path").to_owned(),
                slice.into(),
            )
        });
        operators.insert("$push", push.collect::<Document>());
    }
    (!operators.is_empty()).then_some(operators)
}

/// Encodes an event for a watch with these fields, as the server does, and decodes it.
fn encoded(event: &Document, mask: &FieldMask, format: Format) -> pb::ChangeEvent {
    let raw = event.to_vec().expect("BSON");
    let parsed = Event::parse(&raw, 0..raw.len()).expect("an event");
    let limits = RequestLimits {
        allow_deployment: true,
        ..RequestLimits::default()
    };
    let watch = Watch::from_request(pb::WatchRequest::default(), &limits).expect("a request");
    let context = TokenContext::new("rs0", &Plan::shared(&watch));
    let rendering = Rendering {
        mask: mask.clone(),
        ..Rendering::unrestricted(format)
    };
    let encoded = wire::encode(&raw, [&parsed], &context, &rendering, |bytes| bytes);
    pb::ChangeEvent::decode(encoded[0].message()).expect("an event")
}

fn update_of(description: &Document) -> Document {
    doc! {
        "_id": { "_data": "82AA" }, "operationType": "update",
        "ns": { "db": "shop", "coll": ORDERS }, "documentKey": { "_id": 1 },
        "updateDescription": description,
    }
}

fn insert_of(document: &Document) -> Document {
    doc! {
        "_id": { "_data": "82AA" }, "operationType": "insert",
        "ns": { "db": "shop", "coll": ORDERS }, "documentKey": { "_id": 1 },
        "fullDocument": document,
    }
}

fn including(fields: &[String]) -> FieldMask {
    FieldMask::including(fields.iter().cloned()).expect("paths")
}

fn projected(document: &Document, mask: &FieldMask) -> Document {
    let change = encoded(&insert_of(document), mask, Format::Bson);
    let Some(Bson::Document(document)) = after(&change) else {
        panic!("{change:?}");
    };
    document
}

fn projected_description(description: &Document, mask: &FieldMask) -> Document {
    let event = as_mongodb_event(&encoded(&update_of(description), mask, Format::Bson));
    event
        .get_document("updateDescription")
        .expect("one")
        .clone()
}

/// To project and then apply a description is to apply it and then project.
#[test]
fn a_projected_description_leads_from_one_projected_document_to_the_next() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for make in [Random::new, Random::ambiguous] {
        let mut random = make(seed);
        let mut shown = 0;
        for case in 0..5_000 {
            let before = random.document(3);
            let update = random.update(&before);
            let fields = random.paths();
            let mask = including(&fields);
            let description = projected_description(&update.description, &mask);
            let applied = apply(&projected(&before, &mask), &description);
            let expected = projected(&update.after, &mask);
            assert_eq!(
                unordered(&applied.into()),
                unordered(&expected.into()),
                "case {case}, {fields:?}: {} becomes {description}, on {before}",
                update.description,
            );
            let updated = description.get_document("updatedFields").expect("fields");
            shown += usize::from(!updated.is_empty());
        }
        assert!(shown > 500, "{shown} updates showed a field");
    }
}

/// The rows of a table of docs/projection.md: the JSON of each cell.
fn rows(of: &str) -> Vec<[serde_json::Value; 3]> {
    let page = repository().join("docs/projection.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let section = page
        .split(&format!("\n## {of}\n"))
        .nth(1)
        .expect("the section");
    let section = section.split("\n## ").next().expect("its end");
    let rows = section.lines().filter(|line| line.starts_with("| `["));
    let rows: Vec<_> = rows
        .map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split('|').collect();
            let json = |at: usize| {
                let cell = cells[at].trim().trim_matches('`');
                serde_json::from_str(cell).unwrap_or_else(|error| panic!("{cell}: {error}"))
            };
            assert_eq!(cells.len(), 3, "{row}");
            [json(0), json(1), json(2)]
        })
        .collect();
    assert!(rows.len() >= 10, "{} examples", rows.len());
    rows
}

fn paths(json: &serde_json::Value) -> Vec<String> {
    serde_json::from_value(json.clone()).expect("paths")
}

fn document(json: &serde_json::Value) -> Document {
    let Ok(Bson::Document(document)) = Bson::try_from(json.clone()) else {
        panic!("{json} is no document");
    };
    document
}

/// Here and in `find`.
#[tokio::test]
async fn every_example_of_a_document_is_true() {
    let database = Database::start().await;
    let orders = database.collection(ORDERS);
    for [fields, given, sent] in rows("Documents") {
        let (fields, given) = (paths(&fields), document(&given));
        assert_eq!(
            projected(&given, &including(&fields)),
            document(&sent),
            "{fields:?}, {given}"
        );
        let _ = orders.delete_many(doc! {}).await.expect("a delete");
        orders.insert_one(&given).await.expect("an insert");
        let projection: Document = fields.iter().map(|path| (path.clone(), 1.into())).collect();
        let found = orders.find_one(doc! {}).projection(projection).await;
        assert_eq!(
            found.expect("a find"),
            Some(document(&sent)),
            "{fields:?}, {given}"
        );
    }
}

#[test]
fn every_example_of_an_update_is_true() {
    let whole = |json: &serde_json::Value| {
        let mut description =
            doc! { "updatedFields": {}, "removedFields": [], "truncatedArrays": [] };
        description.extend(document(json));
        description
    };
    for [fields, given, sent] in rows("Updates") {
        let (fields, given) = (paths(&fields), whole(&given));
        let description = projected_description(&given, &including(&fields));
        assert_eq!(description, whole(&sent), "{fields:?}, {given}");
    }
}

/// A document that was deleted before MongoDB looked it up.
#[tokio::test]
async fn a_document_that_was_not_found_stays_null_and_a_delete_has_its_key() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let orders = database.collection(ORDERS);
    let opened = weir.watch(of_fields(&database, &["a"])).await;
    orders
        .insert_one(doc! { "_id": 1, "a": 1, "b": 1 })
        .await
        .expect("an insert");
    let set = doc! { "$set": { "b": 2 } };
    let _ = orders
        .update_one(doc! { "_id": 1 }, set)
        .await
        .expect("an update");
    let _ = orders
        .delete_one(doc! { "_id": 1 })
        .await
        .expect("a delete");
    let request = pb::WatchRequest {
        full_document: FullDocument::UpdateLookup.into(),
        start: Some(pb::watch_request::Start::ResumeToken(opened.token())),
        ..of_fields(&database, &["a"])
    };
    let mut watch = weir.watch(request).await;
    let changes = watch.changes(3).await;
    assert_eq!(after(&changes[0]), Some(doc! { "_id": 1, "a": 1 }.into()));
    assert_eq!(after(&changes[1]), Some(Bson::Null));
    let key = Some(Bson::from(doc! { "_id": 1 }));
    for change in &changes {
        assert_eq!(bson(change.document_key.as_ref()), key);
    }
    assert_eq!(changes[2].operation(), pb::OperationType::Delete);
}

/// The key is sent and nothing else. Prints what that saves: the figures of docs/projection.md.
#[tokio::test]
async fn keys_only_is_a_projection() {
    let database = with_images().await;
    let weir = Weir::start(&database).await;
    let orders = database.collection(ORDERS);
    let mut everything = weir.watch(database.watch_request(&[ORDERS])).await;
    let mut watch = weir
        .watch(with_documents(of_fields(&database, &["_id"])))
        .await;
    let fields =
        |text: &'static str| (0..30).map(move |at| (format!("f{at:02}"), text.repeat(23).into()));
    let mut document = doc! { "_id": 1 };
    document.extend(fields("x").collect::<Document>());
    orders.insert_one(document).await.expect("an insert");
    let set: Document = fields("y").take(10).collect();
    let update = doc! { "$set": set, "$unset": { "f29": 1 } };
    let updated = orders.update_one(doc! { "_id": 1 }, update).await;
    updated.expect("an update");
    let whole = everything.changes(2).await;
    let changes = watch.changes(2).await;
    for ((change, whole), most) in changes.iter().zip(&whole).zip([0.3, 0.6]) {
        let (bytes, of) = (change.encoded_len(), whole.encoded_len());
        let token = change.resume_token.len();
        println!(
            "{}: {bytes} of {of} bytes, {token} of them its token",
            change.operation().as_str_name()
        );
        assert!((bytes as f64) < of as f64 * most, "{bytes} of {of} bytes");
    }
    let key = doc! { "_id": 1 };
    assert_eq!(after(&changes[0]), Some(key.clone().into()));
    let event = as_mongodb_event(&changes[1]);
    for image in ["fullDocument", "fullDocumentBeforeChange", "documentKey"] {
        assert_eq!(event.get_document(image).expect("it is there"), &key);
    }
    let description = event
        .get_document("updateDescription")
        .expect("it is there");
    let nothing = doc! { "updatedFields": {}, "removedFields": [], "truncatedArrays": [] };
    assert_eq!(description, &nothing);
}

/// A thousand watches with ten projections on one scope.
#[tokio::test]
async fn ten_projections_of_a_thousand_watches_cost_one_change_stream_and_ten_encodings_an_event() {
    const WATCHES: usize = 1_000;
    const EVENTS: usize = 5;
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let client = weir.client().await;
    let opening = (0..WATCHES).map(|number| {
        // Different orders of the same paths are one projection.
        let mut fields = vec![format!("f{}", number % 10), "all".to_owned()];
        fields.rotate_left(number / 10 % 2);
        let mut client = client.clone();
        let request = of_fields(&database, &fields);
        async move { WatchStream::open(&mut client, request).await }
    });
    let opened: Result<Vec<_>, _> = join_all(opening).await.into_iter().collect();
    let mut watches = opened.expect("every watch opens");
    let orders = database.collection(ORDERS);
    for id in 0..EVENTS as i32 {
        let fields = (0..10).map(|number| (format!("f{number}"), number.into()));
        let mut document = doc! { "_id": id, "all": id };
        document.extend(fields.collect::<Document>());
        orders.insert_one(document).await.expect("an insert");
    }
    for (number, watch) in watches.iter_mut().enumerate() {
        let own = (number % 10) as i32;
        for (id, change) in watch.changes(EVENTS).await.iter().enumerate() {
            let id = id as i32;
            let shown = doc! { "_id": id, "all": id, format!("f{own}"): own };
            assert_eq!(after(change), Some(shown.into()), "watch {number}");
        }
    }
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum("weir_feeds"), 1.0);
    assert_eq!(
        metrics.sum("weir_event_encodings_total"),
        (10 * EVENTS) as f64
    );
}

/// What a message must hold is what is sent.
#[tokio::test]
async fn an_event_that_is_too_large_comes_whole_when_its_projection_fits() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let orders = database.collection(ORDERS);
    let small = |fields: &[&str], policy: OversizePolicy| pb::WatchRequest {
        max_message_bytes: 64 << 10,
        oversize_policy: policy.into(),
        ..of_fields(&database, fields)
    };
    let mut open = HashMap::new();
    for policy in [
        OversizePolicy::Fail,
        OversizePolicy::Omit,
        OversizePolicy::Chunk,
    ] {
        open.insert(policy, weir.watch(small(&["a", "c"], policy)).await);
    }
    let mut whole = weir
        .watch(small(&["a", "text"], OversizePolicy::Omit))
        .await;
    let document = doc! { "_id": 1, "a": 5, "text": "x".repeat(200_000), "c": 6 };
    orders.insert_one(document).await.expect("an insert");
    for (policy, mut watch) in open {
        // In one piece, whatever is to be done with those that are too large.
        let change = loop {
            match watch.next().await.kind {
                Some(Kind::Changes(mut batch)) => break batch.changes.remove(0),
                Some(Kind::StateChange(_) | Kind::Progress(_)) => {}
                other => panic!("{policy:?}: {other:?}"),
            }
        };
        let shown = doc! { "_id": 1, "a": 5, "c": 6 };
        assert_eq!(after(&change), Some(shown.into()), "{policy:?}");
    }
    // The size that is told is that of the projected event.
    let change = whole.next_change().await;
    let Some(pb::change_event::Change::Omitted(omitted)) = change.change else {
        panic!("{change:?}");
    };
    assert!(
        (200_000..201_000).contains(&omitted.event_bytes),
        "{omitted:?}"
    );
}

/// Compressed messages are shared by the watches of one projection.
#[tokio::test]
async fn watches_of_one_projection_share_compressed_messages() {
    const EVENTS: usize = 3;
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| {
        config.compression = vec![Compression::Gzip];
    })
    .await;
    let client = weir.client().await;
    let mut client = client.accept_compressed(CompressionEncoding::Gzip);
    let mut watches = Vec::new();
    for number in 0..30 {
        let fields = [["a", "b"], ["b", "c"], ["c", "a"]][number % 3];
        let opened = WatchStream::open(&mut client, of_fields(&database, &fields)).await;
        watches.push((opened.expect("the watch opens"), fields));
    }
    // In one reply, so that the watches send the same events together.
    let text = |name: &str| name.repeat(2_000);
    let documents = (0..EVENTS as i32)
        .map(|id| doc! { "_id": id, "a": text("a"), "b": text("b"), "c": text("c") });
    let orders: Collection<Document> = database.collection(ORDERS);
    orders.insert_many(documents).await.expect("the inserts");
    for (watch, fields) in &mut watches {
        for change in watch.changes(EVENTS).await {
            let document = after(&change).expect("an insert has a document");
            let document = document.as_document().expect("it is one").clone();
            let mut names: Vec<&str> = document.keys().skip(1).map(String::as_str).collect();
            names.sort_unstable();
            let mut fields = *fields;
            fields.sort_unstable();
            assert_eq!(names, fields);
        }
    }
    let metrics = weir.metrics().await;
    let compressions = metrics.sum("weir_message_compressions_total");
    // One for each projection and message; how many events a message has is a matter of time.
    assert!(
        compressions > 0.0 && compressions <= (3 * EVENTS) as f64,
        "{compressions}"
    );
    assert_eq!(
        metrics.sum("weir_event_encodings_total"),
        (3 * EVENTS) as f64
    );
}
