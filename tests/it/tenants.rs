//! Tenants share a collection and a feed: each sees only its own documents, without hidden fields,
//! in every format and by every path.

use crate::support::orders::ORDERS;
use crate::support::{Database, PolicyServer, WatchStream, error_info, within};
use bytes::Bytes;
use mongodb::bson::{Document, doc};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Code;
use weir::pb::{
    self, DocumentFormat as Format, FullDocument, FullDocumentBeforeChange as Before,
    OperationType as Op, watch_request::Start, watch_response::Kind,
};
use weir::wire::Compression;

const POLICY: &str = "
version: 1
rules:
  - name: tenants
    claims: {tenant: '*'}
    namespaces: [$db.orders]
    filter: {tenant: {$claim: tenant}}
    hide: [ssn, card.number, items.price]
    full_document: [default, update_lookup, when_available, required]
    pre_images: true
  - name: admin
    principals: ['key:admin']
    namespaces: ['$db.*']
    pre_images: true
";

const FORMATS: [Format; 4] = [
    Format::Bson,
    Format::Json,
    Format::CanonicalJson,
    Format::Struct,
];

/// The contents and the names of hidden fields.
const HIDDEN: [&str; 4] = ["HIDDEN", "ssn", "number", "price"];

fn clients() -> [(&'static str, Value); 4] {
    [
        ("a", json!({"tenant": "a"})),
        ("a2", json!({"tenant": "a"})),
        ("b", json!({"tenant": "b"})),
        ("admin", json!({})),
    ]
}

struct Shop {
    database: Database,
    server: PolicyServer,
}

impl Shop {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(configure: impl FnOnce(&mut weir::config::ServeConfig)) -> Self {
        let database = Database::start().await;
        let images = doc! { "enabled": true };
        let create = doc! { "create": ORDERS, "changeStreamPreAndPostImages": images };
        let created = database.database().run_command(create).await;
        created.expect("a collection");
        let server = PolicyServer::with(&database, &clients(), POLICY, configure).await;
        Self { database, server }
    }

    fn orders(&self) -> mongodb::Collection<Document> {
        self.database.collection(ORDERS)
    }

    /// A watch of the collection's shared feed, with all images.
    fn request(&self, format: Format) -> pb::WatchRequest {
        pb::WatchRequest {
            feed_mode: pb::FeedMode::Shared.into(),
            full_document: FullDocument::WhenAvailable.into(),
            full_document_before_change: Before::WhenAvailable.into(),
            document_format: format.into(),
            ..self.database.watch_request(&[ORDERS])
        }
    }

    async fn insert(&self, id: i32, tenant: &str) {
        let insert = self.orders().insert_one(order(id, tenant, 0)).await;
        insert.expect("an insert");
    }

    async fn update(&self, id: i32, update: Document) {
        let update = self.orders().update_one(doc! { "_id": id }, update).await;
        update.expect("an update");
    }

    async fn delete(&self, id: i32) {
        let delete = self.orders().delete_one(doc! { "_id": id }).await;
        delete.expect("a delete");
    }

    /// The writes of two tenants. Order 1 moves from one to the other in between.
    async fn write_orders(&self) {
        for (id, tenant) in [(1, "a"), (2, "b")] {
            self.insert(id, tenant).await;
        }
        for (id, tenant) in [(1, "a"), (2, "b")] {
            let secret = format!("again-{tenant}");
            let set = doc! {
                "note": secret, "ssn": "HIDDEN-2", "card.number": "HIDDEN-3",
                "items.0.price": "HIDDEN-4", "card.holder": "someone",
            };
            self.update(id, doc! { "$set": set }).await;
            self.update(id, doc! { "$unset": { "ssn": 1, "card.number": 1 } })
                .await;
            let orders = self.orders();
            let replaced = orders.replace_one(doc! { "_id": id }, order(id, tenant, 1));
            replaced.await.expect("a replace");
        }
        self.update(1, doc! { "$set": { "tenant": "b", "note": "note-moved" } })
            .await;
        self.update(1, doc! { "$set": { "note": "note-b-now" } })
            .await;
        for id in [1, 2] {
            self.delete(id).await;
        }
        self.insert(3, "a").await;
        self.delete(3).await;
        for (id, tenant) in [(98, "b"), (99, "a")] {
            self.insert(id, tenant).await;
        }
    }
}

fn order(id: i32, tenant: &str, version: i32) -> Document {
    doc! {
        "_id": id, "tenant": tenant, "note": format!("note-{tenant}-{version}"),
        "ssn": "HIDDEN-0", "card": { "number": "HIDDEN-1", "holder": "someone" },
        "items": [{ "name": "thing", "price": "HIDDEN-5" }, { "price": ["HIDDEN-6"] }],
    }
}

/// The changes of [`Shop::write_orders`] that each of them sees.
fn seen_by(tenant: &str) -> Vec<(Op, i32)> {
    use Op::{Delete, Insert, Replace, Update};
    match tenant {
        "a" => vec![
            (Insert, 1),
            (Update, 1),
            (Update, 1),
            (Replace, 1),
            (Insert, 3),
            (Delete, 3),
            (Insert, 99),
        ],
        "b" => vec![
            (Insert, 2),
            (Update, 2),
            (Update, 2),
            (Replace, 2),
            (Update, 1),
            (Delete, 1),
            (Delete, 2),
            (Insert, 98),
        ],
        other => panic!("{other} is no tenant"),
    }
}

/// The order number in a document of any format.
fn number(change: &pb::ChangeEvent) -> i32 {
    use pb::document::Value as V;
    let key = change.document_key.as_ref().and_then(|it| it.value.clone());
    let number = match key.expect("a key") {
        V::Bson(bson) => Document::from_reader(&bson[..])
            .expect("BSON")
            .get_i32("_id")
            .ok(),
        V::Json(text) => {
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            // Canonical Extended JSON has the type's name before it.
            digits.strip_prefix("32").unwrap_or(&digits).parse().ok()
        }
        V::Struct(fields) => match fields.fields["_id"].kind {
            Some(prost_types::value::Kind::NumberValue(number)) => Some(number as i32),
            _ => None,
        },
        other => panic!("what format is {other:?}?"),
    };
    number.expect("a number")
}

/// Fails when a message to a tenant reveals another tenant's documents or hidden fields.
fn assert_reveals_nothing(bytes: &[u8], tenant: &str, format: Format) {
    let other = if tenant == "a" { "b" } else { "a" };
    let foreign = [format!("note-{other}-"), format!("again-{other}")];
    // The moved order belongs to b from then on, and b may see it as the pre-image of its next
    // update.
    let moved = (tenant == "a").then_some("note-moved");
    let foreign = foreign.iter().map(String::as_str);
    let secrets = foreign.chain(HIDDEN).chain(moved);
    for secret in secrets {
        // A type name of canonical Extended JSON.
        let text = String::from_utf8_lossy(bytes).replace("$numberInt", "");
        assert!(
            !text.contains(secret),
            "{tenant} sees {secret} as {format:?}: {text}"
        );
    }
}

/// Reads until an order has come, and compares each change with the expected ones.
async fn read_and_check(
    watch: &mut WatchStream,
    tenant: &str,
    format: Format,
    until: i32,
) -> Vec<(Op, i32)> {
    let mut seen = Vec::new();
    let whole = async {
        while !seen.iter().any(|(_, id)| *id == until) {
            let message = watch.next().await;
            assert_reveals_nothing(&message.encode_to_vec(), tenant, format);
            if let Some(Kind::Changes(batch)) = message.kind {
                seen.extend(batch.changes.iter().map(|it| (it.operation(), number(it))));
            }
        }
    };
    within("the tenant's last order", whole).await;
    seen
}

fn last_of(tenant: &str) -> i32 {
    seen_by(tenant).last().expect("some").1
}

/// Two tenants and an administrator on one feed, in each format: encodings are shared only within a
/// view.
#[tokio::test]
async fn tenants_on_one_feed_see_only_their_own_documents_and_no_hidden_fields_in_any_format() {
    assert_tenants_are_apart(&Shop::start().await).await;
}

/// Compressed messages too are shared only within a view.
#[tokio::test]
async fn tenants_whose_messages_are_compressed_see_only_their_own_documents() {
    let shop = Shop::with(|config| config.compression = vec![Compression::Gzip]).await;
    assert_tenants_are_apart(&shop).await;
    let metrics = shop.server.weir.metrics().await;
    assert!(metrics.sum("weir_message_compressions_total") > 0.0);
}

async fn assert_tenants_are_apart(shop: &Shop) {
    let mut open = Vec::new();
    let mut admins = Vec::new();
    for format in FORMATS {
        for (client, tenant) in [("a", "a"), ("b", "b"), ("a2", "a")] {
            let watch = shop.server.watch(client, shop.request(format)).await;
            open.push((watch, tenant, format));
        }
        admins.push(shop.server.watch("admin", shop.request(format)).await);
    }
    let metrics = shop.server.weir.metrics().await;
    assert_eq!(metrics.sum("weir_feeds"), 1.0, "they are to share a feed");
    shop.write_orders().await;
    for (watch, tenant, format) in &mut open {
        let seen = read_and_check(watch, tenant, *format, last_of(tenant)).await;
        assert_eq!(seen, seen_by(tenant), "{tenant} as {format:?}");
    }
    for mut admin in admins {
        let mut everything = Vec::new();
        for _ in 0..16 {
            everything.push(admin.next_change().await.encode_to_vec());
        }
        let text = everything.concat();
        let text = String::from_utf8_lossy(&text);
        for secret in HIDDEN
            .into_iter()
            .chain(["note-a-0", "note-b-0", "note-moved"])
        {
            assert!(text.contains(secret), "the administrator sees no {secret}");
        }
    }
}

/// The same for history: from a token, from a time, on a dedicated or a shared stream.
#[tokio::test]
async fn a_tenant_that_catches_up_sees_the_same() {
    let shop = Shop::start().await;
    let mut tokens = Vec::new();
    for client in ["a", "b"] {
        let opened = shop.server.watch(client, shop.request(Format::Bson)).await;
        tokens.push((client, opened.token()));
    }
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = start.expect("a time").as_secs() as i64;
    shop.write_orders().await;
    for (tenant, token) in tokens {
        for mode in [pb::FeedMode::Shared, pb::FeedMode::Dedicated] {
            let time = prost_types::Timestamp { seconds, nanos: 0 };
            for start in [Start::ResumeToken(token.clone()), Start::StartTime(time)] {
                for format in [Format::Bson, Format::Json] {
                    let request = pb::WatchRequest {
                        start: Some(start.clone()),
                        feed_mode: mode.into(),
                        ..shop.request(format)
                    };
                    let mut watch = shop.server.watch(tenant, request).await;
                    let seen = read_and_check(&mut watch, tenant, format, last_of(tenant)).await;
                    assert_eq!(
                        seen,
                        seen_by(tenant),
                        "{tenant}, {mode:?}, {start:?}, {format:?}"
                    );
                }
            }
        }
    }
}

/// Without a document nothing is shown: an update without a post-image, a delete without a
/// pre-image.
#[tokio::test]
async fn without_images_a_tenant_sees_only_events_with_its_document() {
    let shop = Shop::start().await;
    let mut open = Vec::new();
    for mode in [pb::FeedMode::Shared, pb::FeedMode::Dedicated] {
        for policy in [
            pb::MissingImagePolicy::Deliver,
            pb::MissingImagePolicy::Drop,
        ] {
            for tenant in ["a", "b"] {
                let request = pb::WatchRequest {
                    feed_mode: mode.into(),
                    missing_image_policy: policy.into(),
                    full_document: FullDocument::Default.into(),
                    full_document_before_change: Before::Off.into(),
                    ..shop.request(Format::Bson)
                };
                open.push((shop.server.watch(tenant, request).await, tenant));
            }
        }
    }
    shop.write_orders().await;
    for (watch, tenant) in &mut open {
        let seen = read_and_check(watch, tenant, Format::Bson, last_of(tenant)).await;
        let mut expected = seen_by(tenant);
        expected.retain(|(operation, _)| matches!(operation, Op::Insert | Op::Replace));
        assert_eq!(seen, expected, "{tenant}");
    }
}

/// Tokens of events and of messages work only for their tenant.
#[tokio::test]
async fn a_token_of_one_tenant_is_refused_for_another() {
    let shop = Shop::start().await;
    let mut tokens: Vec<(&str, Bytes)> = Vec::new();
    let mut open = Vec::new();
    for client in ["a", "b", "admin"] {
        let watch = shop.server.watch(client, shop.request(Format::Bson)).await;
        tokens.push((client, watch.token()));
        open.push((client, watch));
    }
    for (id, tenant) in [(1, "a"), (2, "b")] {
        shop.insert(id, tenant).await;
    }
    for (client, watch) in &mut open {
        let change = watch.next_change().await;
        tokens.push((client, change.resume_token));
        tokens.push((client, watch.token()));
    }
    shop.insert(3, "a").await;
    for (from, token) in tokens {
        for client in ["a", "a2", "b", "admin"] {
            let request = pb::WatchRequest {
                start: Some(Start::ResumeToken(token.clone())),
                ..shop.request(Format::Bson)
            };
            let opened = shop.server.open(client, request).await.map(drop);
            let same = client.trim_end_matches('2') == from;
            match opened {
                Ok(()) => assert!(same, "{client} resumes from a token of {from}"),
                Err(status) => {
                    assert!(!same, "{client} is refused its own token: {status:?}");
                    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
                    assert_eq!(error_info(&status).reason, "RESUME_TOKEN_MISMATCH");
                }
            }
        }
    }
}

/// The size limit applies to the visible part of an event, and only for clients that see it.
#[tokio::test]
async fn the_size_limit_applies_to_the_visible_part_of_an_event() {
    const LIMIT: u32 = 64 << 10;
    let shop = Shop::start().await;
    let mut open = Vec::new();
    for policy in [
        pb::OversizePolicy::Chunk,
        pb::OversizePolicy::Omit,
        pb::OversizePolicy::Fail,
    ] {
        for tenant in ["a", "b"] {
            let request = pb::WatchRequest {
                max_message_bytes: LIMIT,
                oversize_policy: policy.into(),
                ..shop.request(Format::Bson)
            };
            open.push((shop.server.watch(tenant, request).await, tenant, policy));
        }
    }
    let put = async |id: i32, tenant: &str, field: &str, text: &str| {
        let mut order = order(id, tenant, 0);
        order.insert(field, text.repeat(200_000 / text.len()));
        shop.orders().insert_one(order).await.expect("an insert");
    };
    // The large field is hidden, so the event is small for everybody.
    put(1, "a", "ssn", "HIDDEN").await;
    // Large for b, and invisible for a.
    put(2, "b", "note", "note-b-").await;
    put(3, "a", "note", "note-a-").await;
    shop.insert(4, "a").await;
    shop.insert(5, "b").await;
    for (watch, tenant, policy) in &mut open {
        let own: &[i32] = if *tenant == "a" { &[1, 3, 4] } else { &[2, 5] };
        let (large, last) = (own[own.len() - 2], own[own.len() - 1]);
        let (mut seen, mut chunks) = (Vec::new(), Vec::new());
        let whole = async {
            loop {
                let message = match watch.try_next().await {
                    Ok(message) => message.expect("it continues"),
                    Err(status) => {
                        assert_eq!(error_info(&status).reason, "EVENT_TOO_LARGE");
                        assert_eq!(*policy, pb::OversizePolicy::Fail);
                        break;
                    }
                };
                match message.kind {
                    Some(Kind::Changes(batch)) => {
                        assert_reveals_nothing(&batch.encode_to_vec(), tenant, Format::Bson);
                        seen.extend(batch.changes.iter().map(number));
                    }
                    Some(Kind::EventChunk(chunk)) => {
                        chunks.extend_from_slice(&chunk.data);
                        if chunk.last {
                            assert_eq!(chunk.total_bytes, chunks.len() as u64);
                            assert_reveals_nothing(&chunks, tenant, Format::Bson);
                            let event = pb::ChangeEvent::decode(&chunks[..]);
                            seen.push(number(&event.expect("an event")));
                        }
                    }
                    _ => {}
                }
                if seen.contains(&last) {
                    break;
                }
            }
        };
        within("the last order", whole).await;
        if *policy == pb::OversizePolicy::Fail {
            let before: Vec<i32> = own.iter().copied().filter(|it| *it < large).collect();
            assert_eq!(seen, before, "{tenant}");
        } else {
            assert_eq!(seen, own, "{tenant}, {policy:?}");
        }
    }
}
