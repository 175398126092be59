//! Refused requests, and the machine-readable reason.

use crate::conversions::eq;
use crate::support::{Database, Weir, error_info};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weir::pb;
use weir::pb::filter::Kind;

async fn refused(weir: &Weir, request: pb::WatchRequest) -> Status {
    match weir.try_watch(request.clone()).await {
        Ok(_) => panic!("not refused: {request:?}"),
        Err(status) => status,
    }
}

/// The paths of the bad fields.
fn bad_fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let bad = details
        .bad_request()
        .expect("the status carries a BadRequest");
    let violations = bad.field_violations.iter();
    violations
        .inspect(|it| assert!(!it.description.is_empty(), "{} is not explained", it.field))
        .map(|it| it.field.clone())
        .collect()
}

/// A few fields; every bound is tested where requests are checked.
#[tokio::test]
async fn a_bad_field_is_reported_with_its_path() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let valid = || database.watch_request(&["orders"]);
    let group = |filters| pb::FilterGroup { filters };
    let nested = pb::Filter {
        kind: Some(Kind::AnyOf(group(vec![
            eq("a", json!(1)),
            eq("b", json!({"$oid": "too short"})),
        ]))),
    };
    for (request, fields) in [
        (
            pb::WatchRequest {
                database: "admin".into(),
                ..valid()
            },
            vec!["database"],
        ),
        (
            pb::WatchRequest {
                collections: vec!["a".into(), "system.x".into()],
                ..valid()
            },
            vec!["collections[1]"],
        ),
        (
            pb::WatchRequest {
                operations: vec![1, 99],
                ..valid()
            },
            vec!["operations[1]"],
        ),
        (
            pb::WatchRequest {
                operations: vec![pb::OperationType::Create.into()],
                ..valid()
            },
            vec!["operations[0]"],
        ),
        (
            pb::WatchRequest {
                filters: vec![eq("ok", json!(1)), nested],
                ..valid()
            },
            vec!["filters[1].any_of.filters[1].field.eq"],
        ),
        (
            pb::WatchRequest {
                filters: vec![eq("a..b", json!(1))],
                ..valid()
            },
            vec!["filters[0].field.path"],
        ),
        (
            pb::WatchRequest {
                document_format: 99,
                max_message_bytes: 1,
                ..valid()
            },
            vec!["document_format", "max_message_bytes"],
        ),
        (
            pb::WatchRequest {
                progress_interval: Some(prost_types::Duration {
                    seconds: -1,
                    nanos: 0,
                }),
                ..valid()
            },
            vec!["progress_interval"],
        ),
    ] {
        let status = refused(&weir, request).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(error_info(&status).reason, "INVALID_REQUEST");
        let mut named = bad_fields(&status);
        named.sort();
        assert_eq!(named, fields, "{status:?}");
        assert!(
            fields.iter().all(|field| status.message().contains(field)),
            "{status:?}"
        );
    }
}

/// A request without a database asks for everybody's data, which the operator has to allow.
#[tokio::test]
async fn the_deployment_can_be_watched_only_where_allowed() {
    let database = Database::options().start().await;
    let strict = Weir::start(&database).await;
    let everything = pb::WatchRequest::default();
    let status = refused(&strict, everything.clone()).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert_eq!(error_info(&status).reason, "NAMESPACE_ACCESS_DENIED");
    // The refusal says nothing about other errors in the request.
    let worse = pb::WatchRequest {
        document_format: 99,
        ..everything.clone()
    };
    assert_eq!(refused(&strict, worse).await.code(), Code::PermissionDenied);

    let open = Weir::with(&database, |config| config.allow_deployment_watch = true).await;
    let mut watch = open.watch(everything).await;
    let other = database.client().database("another");
    let insert = mongodb::bson::doc! {"_id": 1};
    other.collection("one").insert_one(insert).await.unwrap();
    let namespace = watch
        .next_change()
        .await
        .namespace
        .expect("an insert has a position");
    assert_eq!(
        (namespace.database.as_str(), namespace.collection.as_str()),
        ("another", "one")
    );
}
