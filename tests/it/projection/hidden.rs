//! A client that asks for exactly what a policy hides, by any path, in any format.

use mongodb::bson::{Bson, JavaScriptCodeWithScope};
use prost::Message as _;
use serde_json::json;
use weir::pb::DocumentFormat as Format;

use super::*;
use crate::support::{PolicyServer, within};

const POLICY: &str = "
version: 1
rules:
  - name: restricted
    principals: ['key:restricted']
    namespaces: [$db.orders]
    hide: [ssn, card.pan, items.cost, _id.secret]
    full_document: [default, update_lookup, when_available, required]
    pre_images: true
  - name: admin
    principals: ['key:admin']
    namespaces: ['$db.*']
    pre_images: true
";

/// The contents and the names of hidden fields.
const HIDDEN: [&str; 5] = ["HIDDEN", "ssn", "pan", "cost", "secret"];

/// A client that asks for these fields gets none of [`HIDDEN`].
const ATTACKS: &[&[&str]] = &[
    &["ssn"],
    &["ssn.0", "ssn.more"],
    &["0.ssn", "1"],
    &["0"],
    &["card"],
    &["card.pan"],
    &["card.pan.0"],
    &["card.0.pan", "card.1"],
    &["items"],
    &["items.cost"],
    &["items.0", "items.1"],
    &["items.0.cost", "items.cost"],
    &["items.cost.x", "items.0.0.cost"],
    &["_id"],
    &["_id.secret"],
    &["code", "ssn", "card", "items", "note"],
];

const FORMATS: [Format; 4] = [
    Format::Bson,
    Format::Json,
    Format::CanonicalJson,
    Format::Struct,
];

fn code(scope: Document) -> Bson {
    Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
        code: "f()".to_owned(),
        scope,
    })
}

fn order(id: i32) -> Document {
    doc! {
        "_id": { "n": id, "secret": "HIDDEN-0" }, "note": "seen", "ssn": { "0": "HIDDEN-1", "more": "HIDDEN-2" },
        "0": { "ssn": "HIDDEN-3" }, "1": [{ "ssn": "HIDDEN-4" }],
        "card": { "pan": "HIDDEN-5", "0": { "pan": "HIDDEN-6" }, "1": [{ "pan": { "0": "HIDDEN-7" } }] },
        "items": [
            { "name": "seen", "cost": "HIDDEN-8" }, [{ "cost": ["HIDDEN-9"] }], { "0": { "cost": "HIDDEN-10" } },
            code(doc! { "cost": "HIDDEN-11" }),
        ],
        "code": code(doc! { "x": 1 }),
    }
}

/// What changes at, above and below hidden paths.
fn updates() -> Vec<Document> {
    let card = || doc! { "pan": "HIDDEN-20", "x": 1 };
    let item = || doc! { "cost": "HIDDEN-21", "0": { "cost": "HIDDEN-22" }, "x": 1 };
    let ssn = || doc! { "ssn": "HIDDEN-23", "x": 1 };
    vec![
        doc! { "$set": { "ssn": "HIDDEN-24", "card.pan": "HIDDEN-25", "items.0.cost": "HIDDEN-26", "note": "seen" } },
        doc! { "$set": { "items.1.0.cost": "HIDDEN-27", "items.2.0.cost": "HIDDEN-28", "0.ssn": "HIDDEN-29" } },
        doc! { "$set": { "items.3": code(item()), "card.0": card(), "1": [ssn()] } },
        doc! { "$unset": { "ssn": 1, "card.pan": 1, "items.0.cost": 1, "card.1": 1 } },
        doc! { "$set": { "card": card(), "items": [item(), [item()]], "0": ssn() } },
        doc! { "$push": { "items": { "$each": [item()], "$slice": -1 } } },
        doc! { "$set": { "card": code(card()), "items.0": code(item()), "0": 1 } },
        doc! { "$set": { "card": Bson::Null, "items": "none" } },
    ]
}

struct Shop {
    database: Database,
    server: PolicyServer,
}

impl Shop {
    async fn start() -> Self {
        let database = with_images().await;
        let clients = [("restricted", json!({})), ("admin", json!({}))];
        let server = PolicyServer::start(&database, &clients, POLICY).await;
        Self { database, server }
    }

    async fn watch(&self, client: &str, fields: &[&str], format: Format) -> WatchStream {
        let request = pb::WatchRequest {
            document_format: format.into(),
            ..with_documents(of_fields(&self.database, fields))
        };
        self.server.watch(client, request).await
    }

    /// Writes two documents, and returns the number of their changes.
    async fn write(&self) -> usize {
        let orders: Collection<Document> = self.database.collection(ORDERS);
        let mut changes = 0;
        for id in 0..2 {
            let document = order(id);
            let key = doc! { "_id": document.get("_id") };
            orders.insert_one(&document).await.expect("an insert");
            for update in updates() {
                let updated = orders.update_one(key.clone(), update.clone()).await;
                let updated = updated.unwrap_or_else(|error| panic!("{update}: {error}"));
                changes += updated.modified_count as usize;
            }
            let mut replacement = document.clone();
            replacement.remove("_id");
            let replaced = orders.replace_one(key.clone(), replacement).await;
            replaced.expect("a replace");
            let _ = orders.delete_one(key).await.expect("a delete");
            changes += 3;
        }
        changes
    }
}

/// All bytes of this many changes.
async fn bytes(watch: &mut WatchStream, changes: usize) -> Vec<Vec<u8>> {
    let all = async {
        let changes = watch.changes(changes).await;
        changes.iter().map(pb::ChangeEvent::encode_to_vec).collect()
    };
    within("every change", all).await
}

#[tokio::test]
async fn fields_that_a_policy_hides_are_not_sent_by_any_path_in_any_format() {
    let shop = Shop::start().await;
    let mut watches = Vec::new();
    for fields in ATTACKS {
        for format in FORMATS {
            watches.push((
                shop.watch("restricted", fields, format).await,
                *fields,
                format,
            ));
        }
    }
    let mut admin = shop
        .watch("admin", &["ssn", "card", "items", "0"], Format::Json)
        .await;
    let changes = shop.write().await;
    for (watch, fields, format) in &mut watches {
        for bytes in bytes(watch, changes).await {
            let text = String::from_utf8_lossy(&bytes);
            for hidden in HIDDEN {
                assert!(
                    !text.contains(hidden),
                    "{fields:?} as {format:?} shows {hidden}: {text}"
                );
            }
        }
    }
    let seen = bytes(&mut admin, changes).await.concat();
    let seen = String::from_utf8_lossy(&seen);
    for number in [1, 3, 5, 8, 11, 20, 21, 22, 23, 24, 27, 28, 29] {
        assert!(
            seen.contains(&format!("HIDDEN-{number}")),
            "the administrator misses {number}"
        );
    }
}

/// The limit of a message applies to what is sent.
#[tokio::test]
async fn the_size_of_what_is_hidden_is_not_told_by_a_limit() {
    let shop = Shop::start().await;
    let request = pb::WatchRequest {
        max_message_bytes: 64 << 10,
        oversize_policy: OversizePolicy::Fail.into(),
        ..of_fields(&shop.database, &["ssn", "items"])
    };
    let mut watch = shop.server.watch("restricted", request).await;
    let large = "x".repeat(100_000);
    let document = doc! { "_id": 1, "ssn": &large, "items": [{ "cost": &large, "name": "n" }], "note": &large };
    let orders: Collection<Document> = shop.database.collection(ORDERS);
    orders.insert_one(document).await.expect("an insert");
    let shown = doc! { "_id": 1, "items": [{ "name": "n" }] };
    assert_eq!(after(&watch.next_change().await), Some(shown.into()));
}
