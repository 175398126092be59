//! The policy: every combination of caller, request, form and start, compared with an independent
//! model; and what refused callers learn.

use std::collections::HashMap;

use crate::support::orders::{ORDERS, id, insert};
use crate::support::policy_server::by;
use crate::support::{Database, PolicyServer, WatchStream, error_info, eventually, within};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use mongodb::bson::doc;
use serde_json::{Value, json};
use tonic::{Code, Status};
use weir::pb::{
    self, FullDocument, FullDocumentBeforeChange as Before, OperationType as Op,
    watch_request::Start, watch_response::Kind,
};

/// The callers.
const CLIENTS: [&str; 9] = [
    "admin",
    "reader",
    "whole",
    "tenant_a",
    "tenant_b",
    "claimless",
    "elsewhere",
    "layered",
    "stranger",
];

fn clients() -> Vec<(&'static str, Value)> {
    CLIENTS
        .map(|name| {
            let claims = match name {
                "tenant_a" => json!({"role": "tenant", "tenant": "a"}),
                "tenant_b" => json!({"role": ["tenant", "other"], "tenant": "b"}),
                "claimless" => json!({"role": "tenant"}),
                _ => json!({}),
            };
            (name, claims)
        })
        .into()
}

const POLICY: &str = "
version: 1
rules:
  - name: everything
    principals: ['key:admin']
    namespaces: ['*']
    operations: [all, rename, other, create, createIndexes, dropIndexes, modify, shardCollection,
                 refineCollectionShardKey, reshardCollection]
    pre_images: true
  - name: some
    principals: ['key:reader']
    namespaces: [$db.orders, '$db.inv_*']
  - name: all-of-one-database
    principals: ['key:wh*']
    namespaces: ['$db.*']
    operations: [insert, delete, drop]
    full_document: [default]
    pre_images: true
  - name: tenants
    claims: {role: tenant}
    namespaces: [$db.orders]
    operations: [insert, update, rename]
    filter: {tenant: {$claim: tenant}}
  - name: elsewhere
    principals: ['key:elsewhere']
    namespaces: ['elsewhere.*', '$db_2.*']
  - name: a-part
    principals: ['key:layered']
    namespaces: [$db.orders]
    operations: [insert]
    filter: {tenant: a}
  - name: and-the-rest
    principals: ['key:layered']
    namespaces: ['*']
";

/// The scopes: whether a database is named, and which collections.
const SCOPES: [(&str, &[&str]); 8] = [
    ("$db", &["orders"]),
    ("$db", &["secrets"]),
    ("$db", &["inv_1"]),
    ("$db", &["orders", "inv_1"]),
    ("$db", &["orders", "secrets"]),
    ("$db", &[]),
    ("$db_3", &[]),
    ("", &[]),
];

const OPERATIONS: [&[Op]; 7] = [
    &[],
    &[Op::Insert],
    &[Op::Insert, Op::Update],
    &[Op::Delete],
    &[Op::Drop],
    &[Op::Rename],
    &[Op::Create],
];

const IMAGES: [(FullDocument, Before); 3] = [
    (FullDocument::Default, Before::Off),
    (FullDocument::UpdateLookup, Before::Off),
    (FullDocument::Default, Before::WhenAvailable),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    Now,
    Time,
    OwnToken,
    TenantsToken,
    BrokenToken,
}

const FROM: [From; 5] = [
    From::Now,
    From::Time,
    From::OwnToken,
    From::TenantsToken,
    From::BrokenToken,
];

#[derive(Debug, Clone, Copy)]
struct Cell {
    client: &'static str,
    scope: (&'static str, &'static [&'static str]),
    operations: &'static [Op],
    images: (FullDocument, Before),
    from: From,
}

/// The model: the meaning of the policy above, written by hand without Weir's code.
fn is_allowed(cell: &Cell) -> bool {
    let (database, collections) = cell.scope;
    let own_database = database == "$db";
    let only = |names: &[&str]| {
        own_database && !collections.is_empty() && collections.iter().all(|it| names.contains(it))
    };
    let operations = |granted: &[Op]| cell.operations.iter().all(|it| granted.contains(it));
    let before = cell.images.1 == Before::Off;
    match cell.client {
        "admin" => true,
        "reader" => {
            only(&["orders", "inv_1"])
                && operations(&[Op::Insert, Op::Update, Op::Replace, Op::Delete])
                && before
        }
        "whole" => {
            own_database
                && operations(&[Op::Insert, Op::Delete, Op::Drop])
                && cell.images.0 == FullDocument::Default
        }
        "tenant_a" | "tenant_b" => {
            only(&["orders"])
                && operations(&[Op::Insert, Op::Update, Op::Rename])
                // A looked-up document is the current one: a rule with a filter has to grant it
                // explicitly.
                && cell.images.0 == FullDocument::Default
                && before
        }
        // Where the narrow rule covers only a part, the wide one grants nothing.
        "layered" if only(&["orders"]) => {
            operations(&[Op::Insert]) && cell.images.0 == FullDocument::Default && before
        }
        "layered" => {
            let any_orders = collections.is_empty() || collections.contains(&"orders");
            !(any_orders && matches!(database, "$db" | ""))
                && operations(&[Op::Insert, Op::Update, Op::Replace, Op::Delete])
                && before
        }
        "claimless" | "elsewhere" | "stranger" => false,
        other => panic!("the model does not know {other}"),
    }
}

/// The expected result: a reason, or `None` when the watch opens.
fn expected(cell: &Cell) -> Option<&'static str> {
    if !is_allowed(cell) {
        return Some("NAMESPACE_ACCESS_DENIED");
    }
    match cell.from {
        From::Now | From::Time | From::OwnToken => None,
        // Only its own tenant may resume from it.
        From::TenantsToken if cell.client == "tenant_a" => None,
        From::TenantsToken => Some("RESUME_TOKEN_MISMATCH"),
        From::BrokenToken => Some("RESUME_TOKEN_MALFORMED"),
    }
}

struct Matrix {
    server: PolicyServer,
    name: String,
    /// A token of each client in each scope that it may watch; elsewhere an administrator's.
    tokens: HashMap<(&'static str, usize), Bytes>,
    start: i64,
}

impl Matrix {
    fn request(&self, cell: &Cell) -> pb::WatchRequest {
        let token = |client: &'static str, scope: (&'static str, &[&str])| {
            let at = SCOPES.iter().position(|it| *it == scope).expect("a scope");
            let token = self.tokens.get(&(client, at));
            Start::ResumeToken(token.unwrap_or(&self.tokens[&("admin", at)]).clone())
        };
        let start = match cell.from {
            From::Now => None,
            From::Time => Some(Start::StartTime(prost_types::Timestamp {
                seconds: self.start,
                nanos: 0,
            })),
            From::OwnToken => Some(token(cell.client, cell.scope)),
            From::TenantsToken => Some(token("tenant_a", ("$db", &["orders"]))),
            From::BrokenToken => Some(Start::ResumeToken(Bytes::from_static(b"no token"))),
        };
        let (database, collections) = cell.scope;
        pb::WatchRequest {
            database: database.replace("$db", &self.name),
            collections: collections.iter().map(|&it| it.to_owned()).collect(),
            operations: cell.operations.iter().map(|&it| it.into()).collect(),
            show_expanded_events: cell.operations.contains(&Op::Create),
            full_document: cell.images.0.into(),
            full_document_before_change: cell.images.1.into(),
            // So that all combinations need only a few streams.
            feed_mode: pb::FeedMode::Shared.into(),
            start,
            ..pb::WatchRequest::default()
        }
    }

    /// The result: `None` where the watch opened, as in `expected`.
    async fn try_cell(
        &self,
        channel: &tonic::transport::Channel,
        cell: &Cell,
    ) -> Result<(), Status> {
        let mut client = pb::watch_service_client::WatchServiceClient::new(channel.clone());
        let request = by(cell.client, self.request(cell));
        WatchStream::open(&mut client, request).await.map(drop)
    }
}

/// Fails when a combination opens that must not, or does not open that must.
#[tokio::test]
async fn every_combination_of_caller_and_request_follows_the_policy() {
    check_all(&CLIENTS[1..], 200).await;
}

/// The same for callers with full access; separate, as most of their combinations open.
#[tokio::test]
async fn a_caller_with_full_access_is_refused_only_tenants_tokens() {
    check_all(&CLIENTS[..1], 400).await;
}

/// Tries every combination for these clients, of which more than `least` have to open.
async fn check_all(callers: &[&'static str], least: usize) {
    let database = Database::start().await;
    let server = PolicyServer::with(&database, &clients(), POLICY, |config| {
        config.allow_deployment_watch = true;
        config.max_catch_ups = 64;
    })
    .await;
    insert(&database, 1).await;
    let mut matrix = Matrix {
        server,
        name: database.name().to_owned(),
        tokens: HashMap::new(),
        start: std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |it| it.as_secs() as i64),
    };
    for client in CLIENTS {
        for (at, scope) in SCOPES.into_iter().enumerate() {
            let cell = Cell {
                client,
                scope,
                operations: &[],
                images: IMAGES[0],
                from: From::Now,
            };
            if is_allowed(&cell) {
                let opened = matrix.server.watch(client, matrix.request(&cell)).await;
                matrix.tokens.insert((client, at), opened.token());
            }
        }
    }
    let mut cells = Vec::new();
    for &client in callers {
        for scope in SCOPES {
            for operations in OPERATIONS {
                for images in IMAGES {
                    for from in FROM {
                        cells.push(Cell {
                            client,
                            scope,
                            operations,
                            images,
                            from,
                        });
                    }
                }
            }
        }
    }
    let channel = matrix.server.weir.channel().await;
    let (matrix, channel) = (&matrix, &channel);
    let results = stream::iter(&cells).map(async |cell| {
        let outcome = matrix.try_cell(channel, cell).await;
        let expected = expected(cell);
        let reason = outcome
            .as_ref()
            .err()
            .map(|status| error_info(status).reason);
        let denied = expected == Some("NAMESPACE_ACCESS_DENIED");
        let code = outcome.as_ref().err().map(Status::code);
        let good =
            reason.as_deref() == expected && (!denied || code == Some(Code::PermissionDenied));
        (!good).then(|| format!("{cell:?}: expected {expected:?}, got {outcome:?}"))
    });
    let wrong: Vec<String> = results
        .buffer_unordered(16)
        .filter_map(async |it| it)
        .collect()
        .await;
    assert!(
        wrong.is_empty(),
        "{} of {} are wrong:\n{}",
        wrong.len(),
        cells.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    let open = cells.iter().filter(|cell| expected(cell).is_none()).count();
    assert!(open > least, "{open} of {}", cells.len());
}

/// A refusal has the same text whatever exists; and for callers without a rule, whatever the
/// request.
#[tokio::test]
async fn a_refusal_does_not_reveal_what_exists() {
    let database = Database::start().await;
    insert(&database, 1).await;
    database
        .database()
        .create_collection("secrets")
        .await
        .expect("a collection");
    let server = PolicyServer::start(&database, &clients(), POLICY).await;
    let refusal = async |client: &str, request: pb::WatchRequest| {
        let status = server
            .open(client, request)
            .await
            .err()
            .expect("it is refused");
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        (status.message().to_owned(), status.details().to_vec())
    };
    let there = refusal("reader", database.watch_request(&["secrets"])).await;
    for collections in [&["not_there"][..], &[], &["orders", "secrets"]] {
        assert_eq!(
            refusal("reader", database.watch_request(collections)).await,
            there
        );
    }
    let other = pb::WatchRequest {
        database: "not_there".to_owned(),
        ..database.watch_request(&[ORDERS])
    };
    assert_eq!(refusal("reader", other).await, there);
    // The token is not read before.
    let with_token = pb::WatchRequest {
        start: Some(Start::ResumeToken(Bytes::from_static(b"no token"))),
        ..database.watch_request(&["secrets"])
    };
    assert_eq!(refusal("reader", with_token).await, there);
    assert_eq!(
        refusal("claimless", database.watch_request(&[ORDERS])).await,
        there
    );
    // Nor is anything else, for callers without a rule.
    let senseless = pb::WatchRequest {
        database: "$".to_owned(),
        operations: vec![99],
        filters: vec![pb::Filter::default()],
        ..pb::WatchRequest::default()
    };
    assert_eq!(refusal("stranger", senseless).await, there);
    assert_eq!(
        refusal("stranger", database.watch_request(&[ORDERS])).await,
        there
    );
    assert!(!there.0.contains("secrets"), "{there:?}");
}

/// Callers without a rule learn nothing: neither which methods exist nor which MongoDB this is.
#[tokio::test]
async fn a_caller_without_a_rule_is_refused_every_method() {
    let database = Database::start().await;
    let server = PolicyServer::start(&database, &clients(), POLICY).await;
    let channel = server.weir.channel().await;
    let mut client = pb::watch_service_client::WatchServiceClient::new(channel.clone());
    let info = pb::GetServerInfoRequest::default();
    eventually("the server is ready", async || {
        client.get_server_info(by("reader", info)).await.is_ok()
    })
    .await;
    let asked = client.get_server_info(by("stranger", info)).await;
    let mut refusals = vec![asked.expect_err("it is refused")];
    for path in [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/weir.v1.WatchService/Watch",
        "/weir.v1.WatchService/NoSuchMethod",
        "/no.such.Service/Method",
    ] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        within("a connection", grpc.ready())
            .await
            .expect("a connection");
        // The caller is refused before it sends anything.
        let silence = stream::pending::<pb::GetServerInfoRequest>();
        let codec = tonic_prost::ProstCodec::<_, pb::GetServerInfoResponse>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        let answer = within(
            "an answer",
            grpc.streaming(by("stranger", silence), path, codec),
        )
        .await;
        refusals.push(answer.expect_err("it is refused"));
    }
    let denied = server
        .open("stranger", database.watch_request(&[ORDERS]))
        .await;
    let denied = denied.err().expect("it is refused");
    let counted = server.weir.metrics().await;
    let counted = |result| counted.sum_where("weir_authorizations_total", &[("result", result)]);
    assert_eq!(counted("no_rule"), refusals.len() as f64 + 1.0);
    assert!(counted("ok") >= 1.0);
    for refusal in refusals {
        assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal:?}");
        assert_eq!(error_info(&refusal).reason, "NAMESPACE_ACCESS_DENIED");
        assert_eq!(refusal.message(), denied.message());
        assert_eq!(refusal.details(), denied.details());
    }
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let check = tonic_health::pb::HealthCheckRequest::default();
    health
        .check(by("stranger", check))
        .await
        .expect("probes have no rule");
}

/// A policy that names the deployment is not enough: the operator has to set a flag too.
#[tokio::test]
async fn watching_the_deployment_needs_a_rule_and_a_flag() {
    let database = Database::start().await;
    let everything = pb::WatchRequest::default();
    for (allowed, opens) in [(false, false), (true, true)] {
        let server = PolicyServer::with(&database, &clients(), POLICY, |config| {
            config.allow_deployment_watch = allowed;
        })
        .await;
        let admin = server.open("admin", everything.clone()).await;
        assert_eq!(admin.is_ok(), opens);
        let others = server.open("whole", everything.clone()).await.err();
        assert_eq!(
            others.expect("it is refused").code(),
            Code::PermissionDenied
        );
        server.weir.shutdown().await;
    }
}

/// A watch that names no operations gets the granted ones, and nothing else.
#[tokio::test]
async fn a_watch_that_names_no_operations_gets_the_granted_ones() {
    let database = Database::start().await;
    let server = PolicyServer::start(&database, &clients(), POLICY).await;
    let request = database.watch_request(&[ORDERS]);
    let mut whole = server.watch("whole", request.clone()).await;
    let mut reader = server.watch("reader", request).await;
    let orders = database.collection(ORDERS);
    insert(&database, 1).await;
    let update = doc! { "$set": { "a": 1 } };
    orders
        .update_one(doc! { "_id": 1 }, update)
        .await
        .expect("an update");
    orders
        .delete_one(doc! { "_id": 1 })
        .await
        .expect("a delete");
    let operations = |changes: Vec<pb::ChangeEvent>| {
        changes
            .iter()
            .map(pb::ChangeEvent::operation)
            .collect::<Vec<_>>()
    };
    assert_eq!(operations(whole.changes(2).await), [Op::Insert, Op::Delete]);
    let all = [Op::Insert, Op::Update, Op::Delete];
    assert_eq!(operations(reader.changes(3).await), all);
    orders.drop().await.expect("a drop");
    assert_eq!(whole.next_change().await.operation(), Op::Drop);
    // Every watch gets the end.
    reader
        .until("Invalidated", |kind| {
            matches!(kind, Kind::Invalidated(_)).then_some(())
        })
        .await;
}

/// Each by its own claims, on one feed.
#[tokio::test]
async fn tenants_get_only_their_own_documents() {
    let database = Database::start().await;
    let server = PolicyServer::start(&database, &clients(), POLICY).await;
    let request = database.watch_request(&[ORDERS]);
    let mut a = server.watch("tenant_a", request.clone()).await;
    let mut b = server.watch("tenant_b", request).await;
    let orders = database.collection(ORDERS);
    for number in 0..20 {
        let tenant = ["a", "b", "c", "*"][number as usize % 4];
        let order = doc! { "_id": number, "tenant": tenant };
        orders.insert_one(order).await.expect("an insert");
    }
    let numbers = |changes: Vec<pb::ChangeEvent>| changes.iter().map(id).collect::<Vec<_>>();
    assert_eq!(numbers(a.changes(5).await), [0, 4, 8, 12, 16]);
    assert_eq!(numbers(b.changes(5).await), [1, 5, 9, 13, 17]);
}
