//! The rights in `docs/mongodb-rights.md` are enough for everything Weir does, none is superfluous,
//! and without each of them exactly what that page names fails.

mod privilege_proxy;

use std::{collections::BTreeSet, time::Duration};

use crate::conversions::{after, before, eq};
use crate::support::{
    Database, ServeProcess, WatchStream, Weir, error_reason, eventually, repository, within,
};
use bytes::Bytes;
use mongodb::bson::{Document, doc};
use privilege_proxy::{PrivilegeProxy, Role};
use tonic::{Code, Status};
use weir::config::ServeConfig;
use weir::pb::{self, watch_request::Start};

/// The database in the roles.
const SHOP: &str = "shop";
const PASSWORD: &str = "correct-horse-battery-staple";
/// A value that occurs only in a watch's filter.
const SECRET: &str = "a-value-of-a-filter";

/// The role document under a heading of the page.
fn role_document(heading: &str) -> serde_json::Value {
    let page = std::fs::read_to_string(repository().join("docs/mongodb-rights.md"));
    let page = page.expect("docs/mongodb-rights.md");
    let section = page.split_once(&format!("\n## {heading}\n"));
    let section = section.unwrap_or_else(|| panic!("no heading {heading}")).1;
    let command = "\n```js\ndb.getSiblingDB(\"admin\").createRole(";
    let document = section.split_once(command).expect("a role").1;
    let document = document.split_once(")\n```").expect("its end").0;
    serde_json::from_str(document).expect("a document in JSON")
}

/// A database with the role under this heading and a user with that role, and a proxy that enforces
/// it.
struct RestrictedDatabase {
    database: Database,
    proxy: PrivilegeProxy,
    role: Role,
}

impl RestrictedDatabase {
    async fn start(heading: &str) -> Self {
        let database = Database::options().start().await;
        let document = role_document(heading);
        let name = document["role"].as_str().expect("a name");
        let privileges = bson::serialize_to_bson(&document["privileges"]).expect("privileges");
        let inherited = bson::serialize_to_bson(&document["roles"]).expect("roles");
        // The server checks the document too.
        database
            .admin(doc! { "createRole": name, "privileges": privileges, "roles": inherited })
            .await;
        let roles = vec![doc! { "role": name, "db": "admin" }];
        database
            .admin(doc! { "createUser": "weir", "pwd": PASSWORD, "roles": roles })
            .await;
        for collection in ["orders", "invoices"] {
            let images = doc! { "enabled": true };
            let create = doc! { "create": collection, "changeStreamPreAndPostImages": images };
            let shop = database.client().database(SHOP);
            shop.run_command(create).await.expect("a collection");
        }
        let role = Role::read(&document);
        let proxy = PrivilegeProxy::before(database.address(), role.clone()).await;
        Self {
            database,
            proxy,
            role,
        }
    }

    /// The URI with which Weir logs in through the proxy.
    fn uri(&self) -> String {
        let (real, proxy) = (self.database.address(), self.proxy.address());
        let uri = self.database.uri();
        uri.replace(&real.to_string(), &format!("weir:{PASSWORD}@{proxy}"))
    }

    async fn weir(&self) -> Weir {
        Weir::at(&self.uri(), configure).await
    }

    fn orders(&self) -> mongodb::Collection<Document> {
        self.database.client().database(SHOP).collection("orders")
    }

    async fn insert(&self, id: i32) {
        let orders = self.orders();
        let insert = orders.insert_one(stock(id, 1));
        within("an insert", insert.into_future())
            .await
            .expect("an insert");
    }
}

/// Keeps no feed, so that every watch asks MongoDB for everything it needs.
fn configure(config: &mut ServeConfig) {
    config.feed_linger = Duration::ZERO;
    config.allow_deployment_watch = true;
}

fn request(collections: &[&str]) -> pb::WatchRequest {
    pb::WatchRequest {
        database: SHOP.to_owned(),
        collections: collections.iter().map(|&it| it.to_owned()).collect(),
        ..pb::WatchRequest::default()
    }
}

fn deployment() -> pb::WatchRequest {
    pb::WatchRequest::default()
}

fn resume(token: Bytes, request: &pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token)),
        ..request.clone()
    }
}

/// A filter that passes only documents with the secret.
fn filtered(request: &pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        filters: vec![eq("status", SECRET.into())],
        ..request.clone()
    }
}

fn stock(id: i32, stock: i32) -> Document {
    doc! { "_id": id, "stock": stock }
}

async fn refused(weir: &Weir, request: pb::WatchRequest) -> Status {
    let answer = weir.try_watch(request).await;
    answer.err().expect("the watch is refused")
}

fn assert_denied(status: &Status) {
    let reported = (status.code(), &*error_reason(status));
    let expected = (Code::FailedPrecondition, "UPSTREAM_ACCESS_DENIED");
    assert_eq!(reported, expected, "{status:?}");
    // MongoDB's message contains the command, and so the filter.
    let whole = format!("{status:?}");
    for leak in [SECRET, "not authorized", "aggregate", "pipeline", PASSWORD] {
        assert!(!whole.contains(leak), "{leak} is revealed: {status:?}");
    }
}

async fn oldest_resumable(weir: &Weir) -> Option<pb::ClusterTime> {
    let mut client = weir.client().await;
    let info = client.get_server_info(pb::GetServerInfoRequest {});
    let info = within("an answer about the server", info).await;
    let info = info.expect("an answer").into_inner();
    info.oldest_resumable_time
}

/// Watches of every kind: from now, with look-ups and images, with and without a filter, from a
/// token of the same and of another filter, from a time, and to the end of a quiet stream.
async fn assert_everything_works(
    database: &RestrictedDatabase,
    weir: &Weir,
    scope: pb::WatchRequest,
) {
    let with_images = pb::WatchRequest {
        full_document: pb::FullDocument::WhenAvailable.into(),
        full_document_before_change: pb::FullDocumentBeforeChange::Required.into(),
        ..scope.clone()
    };
    let orders = database.orders();
    let start = weir.watch(scope.clone()).await;
    let first = start.opened.start_time.expect("MongoDB reports its time");
    let mut watch = weir.watch(with_images.clone()).await;
    database.insert(1).await;
    let raise = doc! { "$set": { "stock": 2 } };
    orders.update_one(doc! { "_id": 1 }, raise).await.unwrap();
    let mut changes = watch.changes(2).await;
    assert_eq!(after(&changes[1]), Some(stock(1, 2).into()));
    orders.delete_one(doc! { "_id": 1 }).await.unwrap();
    changes.push(watch.next_change().await);
    assert_eq!(before(&changes[2]), Some(stock(1, 2).into()));
    let token = changes[0].resume_token.clone();
    drop((start, watch));
    weir.wait_for_no_feeds().await;

    // On a server without feeds a token needs a catch-up, which on a quiet collection ends by
    // asking MongoDB whether anything is left.
    let mut resumed = weir.watch(resume(token.clone(), &with_images)).await;
    let tokens = |changes: &[pb::ChangeEvent]| -> Vec<Bytes> {
        changes.iter().map(|it| it.resume_token.clone()).collect()
    };
    // Compared by token, as a look-up returns the current document.
    assert_eq!(tokens(&resumed.changes(2).await), tokens(&changes[1..]));
    resumed.next_state(pb::WatchState::Live).await;
    drop(resumed);

    // Under another filter the token needs the unfiltered stream, and look-ups return the current
    // documents.
    let looking_up = pb::WatchRequest {
        full_document: pb::FullDocument::UpdateLookup.into(),
        ..filtered(&resume(token, &scope))
    };
    let found = doc! { "_id": 2, "status": SECRET };
    database.insert(2).await;
    let mut narrowed = weir.watch(looking_up).await;
    let replace = orders.replace_one(doc! { "_id": 2 }, found.clone());
    within("a replacement", replace.into_future())
        .await
        .unwrap();
    loop {
        if after(&narrowed.next_change().await) == Some(found.clone().into()) {
            break;
        }
    }
    drop(narrowed);
    orders.delete_one(doc! { "_id": 2 }).await.unwrap();

    let again = pb::WatchRequest {
        start: Some(Start::StartTime(prost_types::Timestamp {
            seconds: i64::from(first.seconds) + 1,
            nanos: 0,
        })),
        ..scope
    };
    let mut again = weir.watch(again).await;
    database.insert(3).await;
    loop {
        if after(&again.next_change().await) == Some(stock(3, 1).into()) {
            break;
        }
    }
    orders.delete_one(doc! { "_id": 3 }).await.unwrap();
}

/// The role is sufficient, every right in it was used, and no other was requested.
async fn assert_sufficient(heading: &str, scopes: Vec<pb::WatchRequest>) {
    let database = RestrictedDatabase::start(heading).await;
    let weir = database.weir().await;
    for scope in scopes {
        assert_everything_works(&database, &weir, scope).await;
    }
    assert!(oldest_resumable(&weir).await.is_some());
    let open = weir.watch(request(&["orders"])).await;
    eventually("the oplog's headroom is reported", async || {
        weir.metrics().await.has("weir_oplog_headroom_seconds")
    })
    .await;
    drop(open);
    weir.shutdown().await;

    let proxy = &database.proxy;
    assert_eq!(proxy.unknown_commands(), BTreeSet::new());
    assert_eq!(
        (proxy.refused("find"), proxy.refused("changeStream")),
        (0, 0)
    );
    assert_eq!(proxy.used(), database.role.rights());
}

#[tokio::test]
async fn the_role_for_one_database_is_sufficient_and_minimal() {
    let scopes = vec![
        request(&["orders"]),
        request(&["orders", "invoices"]),
        request(&[]),
    ];
    assert_sufficient("One database", scopes).await;
}

#[tokio::test]
async fn the_role_for_the_deployment_is_sufficient_and_minimal() {
    assert_sufficient("The whole deployment", vec![deployment()]).await;
}

/// The user may watch each collection but not both at once, which is a stream of the database.
#[tokio::test]
async fn the_role_for_some_collections_is_sufficient_for_each_alone() {
    let database = RestrictedDatabase::start("Some collections").await;
    let weir = database.weir().await;
    assert_everything_works(&database, &weir, request(&["orders"])).await;
    drop(weir.watch(request(&["invoices"])).await);
    assert!(oldest_resumable(&weir).await.is_some());
    assert_eq!(database.proxy.used(), database.role.rights());
    assert_eq!(database.proxy.refused("changeStream"), 0);
    for beyond in [
        request(&["orders", "invoices"]),
        request(&["customers"]),
        request(&[]),
        deployment(),
    ] {
        assert_denied(&refused(&weir, filtered(&beyond)).await);
    }
    assert_eq!(database.proxy.refused("changeStream"), 4);
    assert_eq!(database.proxy.unknown_commands(), BTreeSet::new());
}

#[tokio::test]
async fn each_missing_right_on_a_database_fails_what_the_page_says() {
    check_each_missing_right("One database", &request(&["orders", "invoices"])).await;
}

#[tokio::test]
async fn each_missing_right_on_a_collection_fails_what_the_page_says() {
    check_each_missing_right("Some collections", &request(&["invoices"])).await;
}

#[tokio::test]
async fn each_missing_right_on_the_deployment_fails_what_the_page_says() {
    check_each_missing_right("The whole deployment", &deployment()).await;
}

/// Without each right of a role, what the page names fails and the rest works.
async fn check_each_missing_right(heading: &str, scope: &pb::WatchRequest) {
    let database = RestrictedDatabase::start(heading).await;
    for right in database.role.rights() {
        database.proxy.grant(database.role.without(&right));
        let weir = database.weir().await;
        let scope = match right.1.as_str() {
            "local.oplog.rs" => {
                assert_everything_but_the_oplog_works(&database, &weir, scope.clone()).await;
                continue;
            }
            "shop.orders" => request(&["orders"]),
            _ => scope.clone(),
        };
        let before = database.proxy.refused(&right.0);
        assert_denied(&refused(&weir, filtered(&scope)).await);
        assert!(database.proxy.refused(&right.0) > before, "{right:?}");
        assert!(oldest_resumable(&weir).await.is_some(), "{right:?}");
    }
    assert_eq!(database.proxy.unknown_commands(), BTreeSet::new());
}

async fn assert_everything_but_the_oplog_works(
    database: &RestrictedDatabase,
    weir: &Weir,
    scope: pb::WatchRequest,
) {
    if scope.collections == ["invoices"] {
        drop(weir.watch(scope).await);
    } else {
        assert_everything_works(database, weir, scope).await;
    }
    assert_eq!(oldest_resumable(weir).await, None);
    assert!(database.proxy.refused("find") > 0);
    assert!(!weir.metrics().await.has("weir_oplog_headroom_seconds"));
}

/// MongoDB checks the rights of a stream at each `getMore`. Open watches end with the reason, after
/// the events before it, and resume from their tokens when the right is restored.
#[tokio::test]
async fn a_revoked_right_ends_watches_that_resume_once_it_is_granted_again() {
    let database = RestrictedDatabase::start("One database").await;
    let weir = database.weir().await;
    let mut watch = weir.watch(request(&["orders"])).await;
    database.insert(1).await;
    watch.next_change().await;
    let right = ("changeStream".to_owned(), "shop.".to_owned());
    database.proxy.grant(database.role.without(&right));
    assert_denied(&watch.end().await);
    assert_denied(&refused(&weir, resume(watch.token(), &request(&["orders"]))).await);

    database.insert(2).await;
    database.proxy.grant(database.role.clone());
    let mut back: WatchStream = weir
        .watch(resume(watch.token(), &request(&["orders"])))
        .await;
    let found = after(&back.next_change().await);
    assert_eq!(found, Some(stock(2, 1).into()));
}

/// At the most verbose level, with a correct password, a wrong one, and a malformed URI.
#[tokio::test]
async fn the_password_is_never_logged() {
    let database = RestrictedDatabase::start("One database").await;
    let level = ["--log-level", "trace"];
    let server = ServeProcess::start(&database.uri(), &level).await;
    let mut client = server.client().await;
    drop(WatchStream::open(&mut client, request(&["orders"])).await);
    let right = ("find".to_owned(), "shop.".to_owned());
    database.proxy.grant(database.role.without(&right));
    let denied = WatchStream::open(&mut client, filtered(&request(&["orders"]))).await;
    assert_denied(&denied.err().expect("a refusal"));
    // The operator sees MongoDB's message, which clients do not.
    eventually("MongoDB's message is in the log", async || {
        server.process.stderr().contains("not authorized on shop")
    })
    .await;

    let wrong = database.uri().replace("weir:", "weir:in");
    let locked_out = ServeProcess::start(&wrong, &level).await;
    let mut client = locked_out.client().await;
    let denied = WatchStream::open(&mut client, request(&["orders"])).await;
    assert_denied(&denied.err().expect("a refusal"));

    let broken = database
        .uri()
        .replace("directConnection=true", "directConnection=perhaps");
    let mut refused = crate::support::weir(&[("MONGODB_URI", &broken)], &["serve"]);
    assert!(
        !within("its end", refused.wait_for_exit(crate::support::WAIT_LIMIT))
            .await
            .success()
    );

    for process in [&server.process, &locked_out.process, &refused] {
        let reported = process.stderr() + &process.stdout();
        assert!(!reported.is_empty());
        assert!(!reported.contains(PASSWORD), "the password is in the log");
    }
}
