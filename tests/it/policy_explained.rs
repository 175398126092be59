//! `weir serve --check-config --explain`: what a caller would see, by the server's own decisions, and that it is what
//! the caller's watch gets.

use std::{fs, path::Path};

use mongodb::bson::{self, Bson, Document, doc};
use serde_json::{Value, json};
use tempfile::TempDir;
use weir::pb::{self, change_event::Change, document};

use crate::support::orders::ORDERS;
use crate::support::{Database, PolicyServer, WAIT_LIMIT, weir};

const URI: &str = "mongodb://127.0.0.1:1/?directConnection=true";

const POLICY: &str = "
version: 1
rules:
  - name: tenants
    claims: {tenant: '*'}
    namespaces: [$db.orders]
    filter: {tenant: {$claim: tenant}}
    hide: [card, items.price]
    limits: {watches: 7}
  - name: deletions
    principals: ['key:cleaner']
    namespaces: ['$db.*']
    operations: [delete, drop, create]
    full_document: [required]
    pre_images: true
  - name: mesh
    principals: ['cert:spiffe://mesh/*', 'jwt:*']
    namespaces: [$db.orders]
  - name: creations
    principals: ['key:creator']
    namespaces: [$db.orders]
    operations: [create]
  - name: drops
    principals: ['key:dropper']
    namespaces: [$db.orders]
    operations: [drop]
  - name: broad
    principals: ['key:broad']
    namespaces: ['*']
";

fn clients() -> Vec<(&'static str, Value)> {
    vec![
        ("a", json!({"tenant": "a"})),
        ("b", json!({"tenant": "b"})),
        ("none", json!({"tenant": {}})),
        ("cleaner", json!({})),
        ("creator", json!({})),
        ("dropper", json!({})),
        ("broad", json!({})),
    ]
}

/// Runs the check with these further arguments. Returns the exit code, stdout and stderr.
async fn explain(settings: &[String], question: &[&str]) -> (Option<i32>, String, String) {
    let mut arguments = vec!["serve", "--check-config", "--mongodb-uri", URI];
    arguments.extend(settings.iter().map(String::as_str));
    arguments.push("--explain");
    arguments.extend(question);
    let mut process = weir(&[], &arguments);
    let status = process.wait_for_exit(WAIT_LIMIT).await;
    (status.code(), process.stdout(), process.stderr())
}

fn text(document: Option<pb::Document>) -> String {
    match document.and_then(|it| it.value) {
        Some(document::Value::Json(text)) => text,
        other => panic!("{other:?} is no JSON"),
    }
}

/// The same rule, filter, mask and encoder: not one byte differs.
#[tokio::test]
async fn the_document_that_is_shown_is_the_one_that_the_caller_gets() {
    let database = Database::start().await;
    let server = PolicyServer::start(&database, &clients(), POLICY).await;
    let settings = server.settings();
    let namespace = format!("{}.{ORDERS}", database.name());
    let request = pb::WatchRequest {
        document_format: pb::DocumentFormat::Json.into(),
        ..database.watch_request(&[ORDERS])
    };
    let mut watch = server.watch("a", request).await;
    let documents = [
        doc! {"_id": 1, "z": 1, "tenant": "a", "card": {"no": 5}, "items": [{"price": 1, "sku": "x"}, 7]},
        doc! {"_id": 2, "tenant": "b", "card": 1},
        doc! {"_id": 3, "card": 1},
        doc! {"_id": {"x": 4_i64, "y": [1.5]}, "tenant": ["b", "a"], "card.no": 1, "items": {"price": 2, "a": null}},
        doc! {"_id": 5, "tenant": "A"},
        doc! {"_id": "6", "tenant": "a", "items": [[{"price": 1}], "price"], "at": bson::DateTime::from_millis(0)},
    ];
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("document.json");
    let path = file.to_str().expect("a path");
    let orders = database.collection(ORDERS);
    let mut shown = Vec::new();
    for document in documents {
        put(&file, &document);
        orders
            .insert_one(document.clone())
            .await
            .expect("an insert");
        let principal = "key:a";
        let question = [principal, &namespace, "--try", path];
        let (code, out, err) = explain(&settings, &question).await;
        let question = [&question[..], &["--explain-output", "json"]].concat();
        let (json_code, json, _) = explain(&settings, &question).await;
        assert_eq!(code, json_code, "{out}{err}");
        let json: Value = serde_json::from_str(&json).unwrap_or_else(|why| panic!("{why}: {json}"));
        assert_eq!(json["allowed"], true);
        if code == Some(1) {
            assert!(out.contains("nothing of an event insert"), "{out}");
            assert!(out.contains("the document does not match"), "{out}");
            assert_eq!(json["try"]["shown"], Value::Null);
        } else {
            assert_eq!(code, Some(0), "{out}{err}");
            shown.push((out, json));
        }
    }
    assert_eq!(shown.len(), 3);
    for (out, json) in shown {
        let change = watch.next_change().await;
        let Some(Change::Insert(insert)) = change.change else {
            panic!("{change:?}");
        };
        let parts = [
            ("document_key", change.document_key),
            ("full_document", insert.full_document),
        ];
        for (name, sent) in parts {
            let sent = text(sent);
            assert!(
                out.lines()
                    .any(|line| line.ends_with(&format!(" {name} {sent}"))),
                "{sent}: {out}"
            );
            let sent: Value = serde_json::from_str(&sent).expect("JSON");
            assert_eq!(json["try"]["shown"][name], sent);
            assert!(!sent.to_string().contains("card"), "{sent}");
        }
    }
}

fn put(file: &Path, document: &Document) {
    let json = Bson::Document(document.clone()).into_canonical_extjson();
    // As it is written by hand: with the keys in the document's order.
    let fields: Vec<String> = document
        .keys()
        .map(|key| format!("{}: {}", json!(key), json[key]))
        .collect();
    fs::write(file, format!("{{{}}}\n", fields.join(", "))).expect("a file");
}

struct Files {
    _folder: TempDir,
    settings: Vec<String>,
    document: String,
}

/// The files of a server that is not there: nothing is asked of MongoDB.
fn files() -> Files {
    let folder = TempDir::new().expect("a folder");
    let document = folder.path().join("document.json");
    fs::write(&document, r#"{"_id": 1, "tenant": "a", "card": 2}"#).expect("a file");
    Files {
        settings: PolicyServer::write_settings(folder.path(), "shop", &clients(), POLICY),
        document: document.to_str().expect("a path").to_owned(),
        _folder: folder,
    }
}

#[tokio::test]
async fn the_explanation_names_the_rule_and_all_that_it_grants() {
    let files = files();
    for (question, code, words) in [
        (
            &["key:a", "shop.orders"][..],
            0,
            &[
                "allowed by rules[0] \"tenants\"",
                "insert, update, replace, delete",
                r#"{"tenant":{"$eq":"a"}}"#,
                "card, items.price",
                "default, when_available, required",
                "watches 7",
                "encrypted, only for callers with the same tenant",
                "not granted: the server runs without --allow-pipeline",
            ][..],
        ),
        (
            &["key:a", "shop"],
            1,
            &["denied by rules[0]", "only a part of the scope"],
        ),
        (
            &["key:a", "shop.orders,items"],
            1,
            &["only a part of the scope"],
        ),
        (&["key:a", "crm.orders"], 1, &["denied: no rule applies"]),
        (&["key:a", "*"], 1, &["--allow-deployment-watch"]),
        (
            &["key:none", "shop.orders"],
            1,
            &["denied: no rule applies"],
        ),
        (
            &["key:cleaner", "shop.*"],
            0,
            &[
                "rules[1] \"deletions\"",
                "delete, drop\n",
                "show_expanded_events: delete, drop, create",
                "required\n",
            ],
        ),
        (
            &["key:unknown", "shop.orders"],
            1,
            &["no key in --api-keys-file has this name"],
        ),
        (
            &[
                "key:unknown",
                "shop.orders",
                "--claims",
                r#"{"tenant": ["x", "y"]}"#,
            ],
            1,
            &["denied by rules[0]", "unsuitable type"],
        ),
        (
            &[
                "key:unknown",
                "shop.orders",
                "--claims",
                r#"{"tenant": "x"}"#,
            ],
            0,
            &[
                "note",
                "no key in --api-keys-file",
                r#"{"tenant":{"$eq":"x"}}"#,
            ],
        ),
        (
            &["jwt:alice", "shop.orders"],
            1,
            &["accepts no credentials of the kind jwt"],
        ),
        (
            &["anonymous", "shop.orders"],
            1,
            &["the server requires credentials"],
        ),
        (
            &["key:broad", "*", "--allow-deployment-watch"],
            0,
            &["rules[5]", "row filter     none"],
        ),
        (
            &["key:broad", "shop.orders", "--allow-pipeline"],
            0,
            &["rules[5]", "pipeline       granted"],
        ),
        (
            &["key:creator", "shop.orders"],
            0,
            &[
                "allowed by rules[3] \"creations\", only with show_expanded_events\n",
                "operations     none without show_expanded_events\n",
                "with show_expanded_events: create\n",
            ],
        ),
        (
            &["key:creator", "shop.orders", "--explain-output", "json"],
            0,
            &["\"operations\":[]", "\"expanded_operations\":[\"create\"]"],
        ),
        (
            &["key:dropper", "shop.orders", "--try", &files.document],
            1,
            &[
                "operations     drop\n",
                "nothing, as no granted event carries a document",
            ],
        ),
        (
            &["key:a", "shop.orders", "--allow-pipeline"],
            0,
            &["stages of its own, which could show what the rule withholds"],
        ),
        (
            &["key:a", "shop.orders", "--try", &files.document],
            0,
            &["full_document {\"_id\":1,\"tenant\":\"a\"}"],
        ),
        (
            &["key:b", "shop.orders", "--try", &files.document],
            1,
            &["the document does not match", "nothing of an event insert"],
        ),
        (
            &["key:cleaner", "shop", "--try", &files.document],
            0,
            &["full_document_before_change {\"_id\":1,\"tenant\":\"a\",\"card\":2}"],
        ),
    ] {
        let (exit, out, err) = explain(&files.settings, question).await;
        assert_eq!(exit, Some(code), "{question:?}: {out}{err}");
        for word in words {
            assert!(out.contains(word), "{question:?}: no {word} in {out}");
        }
    }
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_exits_with_64() {
    let files = files();
    let missing = format!("{}.not-there", files.document);
    for (question, words) in [
        (&["key:a", ".x"][..], "database is missing"),
        (&["key:a", "admin.x"], "system database"),
        (&["key:a", "sh op.x"], "contains ' '"),
        (&["a", "shop.orders"], "is not a principal"),
        (&["key:", "shop.orders"], "is not a principal"),
        (&["key: a", "shop.orders"], "is not a principal"),
        (&["user:a", "shop.orders"], "is not a principal"),
        (&["key:a", "shop.orders", "--claims", "[]"], "--claims"),
        (&["key:a", "shop.orders", "--try", &missing], "--try"),
        (&["key:a", "shop.orders", "--try", "/dev/null"], "--try"),
        (
            &["anonymous", "shop.orders", "--claims", r#"{"tenant": "a"}"#],
            "anonymous callers have none",
        ),
        (
            &[
                "cert:a.example",
                "shop.orders",
                "--claims",
                r#"{"tenant": "a"}"#,
            ],
            "no claim \"tenant\"",
        ),
        (&["key:a"], "--explain"),
    ] {
        let (exit, out, err) = explain(&files.settings, question).await;
        assert_eq!(exit, Some(64), "{question:?}: {out}{err}");
        assert!(err.contains(words), "{question:?}: {err}");
        assert_eq!(out, "", "{question:?}");
    }
}

/// A file may be somebody else's.
#[tokio::test]
async fn a_refusal_brings_no_control_characters_to_the_terminal() {
    let folder = TempDir::new().expect("a folder");
    let policy = "
version: 1
rules:
  - {name: it, namespaces: [shop.orders], claims: {\"a\\e[2J\\u202e\": []}}
";
    let settings = PolicyServer::write_settings(folder.path(), "shop", &clients(), policy);
    let (exit, out, err) = explain(&settings, &["key:a", "shop.orders"]).await;
    assert_eq!(exit, Some(64), "{out}{err}");
    assert!(
        err.contains("rules[0].claims.a\\u{1b}[2J\\u{202e}: "),
        "{err:?}"
    );
    assert!(!err.contains(['\u{1b}', '\u{202e}']), "{err:?}");
}
