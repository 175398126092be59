use serde_json::json;

use super::*;
use crate::filter::{Condition, Predicate};
use crate::model::MAX_VIOLATIONS;
use crate::pb::field_filter::Operator;
use crate::pipeline::ClientStages;
use crate::pipeline::fixtures::*;

mod bounds;
mod shard;

/// Returns the only violation of a request.
fn violation(request: pb::WatchRequest) -> (String, String) {
    let mut violations = violations(request);
    assert_eq!(violations.len(), 1, "{violations:?}");
    violations.remove(0)
}

#[track_caller]
fn assert_refused(request: pb::WatchRequest, field: &str, part: &str) {
    let (at, description) = violation(request);
    assert_eq!(at, field, "{description}");
    assert!(description.contains(part), "{field}: {description}");
}

fn timestamp(seconds: i64, nanos: i32) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos }
}

fn starting_at(seconds: i64, nanos: i32) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(watch_request::Start::StartTime(timestamp(seconds, nanos))),
        ..request()
    }
}

#[test]
fn an_empty_request_uses_every_default() {
    assert_eq!(
        watch(pb::WatchRequest::default()),
        Watch {
            scope: Scope::Deployment,
            operations: None,
            row_filter: None,
            filter: None,
            pattern_fields: Vec::new(),
            missing_image: MissingImage::Deliver,
            start: Start::Now,
            end_time: None,
            full_document: FullDocument::Default,
            before_change: BeforeChange::Off,
            expanded: false,
            rendering: Arc::default(),
            progress_interval: Duration::from_secs(15),
            max_message_bytes: 3 * 1024 * 1024,
            oversize: Oversize::Chunk,
            invalidate: Invalidate::End,
            feed_mode: FeedMode::Auto,
            shard: None,
            client_stages: ClientStages::default(),
            caller: Caller::default(),
        }
    );
}

#[test]
fn every_choice_is_read() {
    let request = pb::WatchRequest {
        missing_image_policy: pb::MissingImagePolicy::Drop as i32,
        full_document: pb::FullDocument::WhenAvailable as i32,
        full_document_before_change: pb::FullDocumentBeforeChange::Required as i32,
        show_expanded_events: true,
        document_format: pb::DocumentFormat::Struct as i32,
        max_message_bytes: 65_536,
        oversize_policy: pb::OversizePolicy::Omit as i32,
        invalidate_policy: pb::InvalidatePolicy::Continue as i32,
        feed_mode: pb::FeedMode::Dedicated as i32,
        operations: vec![pb::OperationType::Create as i32],
        start: Some(watch_request::Start::ResumeToken(Bytes::from_static(b"t"))),
        end_time: Some(timestamp(7, 999_999_999)),
        ..request()
    };
    let watch = watch(request);
    assert_eq!(watch.missing_image, MissingImage::Drop);
    assert_eq!(watch.full_document, FullDocument::WhenAvailable);
    assert_eq!(watch.before_change, BeforeChange::Required);
    assert!(watch.expanded);
    assert_eq!(*watch.rendering, Rendering::unrestricted(Format::Struct));
    assert_eq!(watch.max_message_bytes, 65_536);
    assert_eq!(watch.oversize, Oversize::Omit);
    assert_eq!(watch.invalidate, Invalidate::Continue);
    assert_eq!(watch.feed_mode, FeedMode::Dedicated);
    assert_eq!(watch.operations, Some([Operation::Create].into()));
    assert_eq!(watch.start, Start::Token(Bytes::from_static(b"t")));
    assert_eq!(watch.end_time, Some(EndTime::after_second(7)));
}

#[test]
fn unknown_enum_numbers_are_refused_with_the_known_range() {
    type Set = fn(&mut pb::WatchRequest, i32);
    let enums: [(&str, i32, &str, Set); 8] = [
        (
            "operations[0]",
            17,
            "0 to 16 (OPERATION_TYPE_END_OF_TRANSACTION)",
            |r, n| r.operations = vec![n],
        ),
        (
            "full_document",
            5,
            "0 to 4 (FULL_DOCUMENT_REQUIRED)",
            |r, n| r.full_document = n,
        ),
        (
            "full_document_before_change",
            4,
            "0 to 3 (FULL_DOCUMENT_BEFORE_CHANGE_REQUIRED)",
            |r, n| r.full_document_before_change = n,
        ),
        (
            "document_format",
            5,
            "0 to 4 (DOCUMENT_FORMAT_STRUCT)",
            |r, n| r.document_format = n,
        ),
        (
            "oversize_policy",
            4,
            "0 to 3 (OVERSIZE_POLICY_FAIL)",
            |r, n| r.oversize_policy = n,
        ),
        (
            "missing_image_policy",
            3,
            "0 to 2 (MISSING_IMAGE_POLICY_DROP)",
            |r, n| r.missing_image_policy = n,
        ),
        (
            "invalidate_policy",
            3,
            "0 to 2 (INVALIDATE_POLICY_CONTINUE)",
            |r, n| r.invalidate_policy = n,
        ),
        ("feed_mode", 4, "0 to 3 (FEED_MODE_DEDICATED)", |r, n| {
            r.feed_mode = n;
        }),
    ];
    for (field, first_unknown, known, set) in enums {
        for number in [first_unknown, -1, i32::MAX, i32::MIN] {
            let mut request = request();
            set(&mut request, number);
            assert_refused(request.clone(), field, known);
            assert_refused(request, field, &number.to_string());
        }
    }
}

#[test]
fn watching_the_deployment_must_be_allowed_by_the_server() {
    let forbidden = RequestLimits {
        allow_deployment: false,
        ..limits()
    };
    let deployment = pb::WatchRequest {
        max_message_bytes: 1,
        ..pb::WatchRequest::default()
    };
    assert_eq!(
        Watch::from_request(deployment, &forbidden),
        Err(RequestError::DeploymentNotAllowed)
    );
    assert!(Watch::from_request(request(), &forbidden).is_ok());
    let forgotten = pb::WatchRequest {
        database: String::new(),
        ..request()
    };
    assert_refused(forgotten, "database", "collections are named");
}

#[test]
fn all_violations_are_reported_together_up_to_sixteen() {
    let two = pb::WatchRequest {
        database: "local".into(),
        operations: vec![0, 1, 99],
        filters: vec![eq("", 1), pb::Filter { kind: None }],
        max_message_bytes: 1,
        ..request()
    };
    let fields: Vec<String> = violations(two)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(
        fields,
        [
            "database",
            "operations[0]",
            "operations[2]",
            "filters[0].field.path",
            "filters[1]",
            "max_message_bytes",
        ]
    );
    for request in [
        pb::WatchRequest {
            operations: vec![99; 100_000],
            ..request()
        },
        filtered(vec![pb::Filter { kind: None }; 1000]),
        filtered(vec![field(
            "a",
            Operator::In(list(json!(vec![json!({"$oid": "x"}); 100]))),
        )]),
        pb::WatchRequest {
            collections: vec![String::new(); 100],
            ..request()
        },
    ] {
        assert_eq!(violations(request).len(), MAX_VIOLATIONS);
    }
}

#[test]
fn the_largest_set_of_violations_fits_into_trailers() {
    let long = "$".repeat(500);
    let deepest = (0..9).fold(eq(&long, 1), |inner, _| none_of(vec![inner]));
    let violations = violations(filtered(vec![deepest; 16]));
    assert_eq!(violations.len(), MAX_VIOLATIONS);
    let bytes: usize = violations
        .iter()
        .map(|(field, description)| field.len() + description.len())
        .sum();
    assert!(bytes < 6 * 1024, "{bytes}");
}

#[test]
fn all_filters_together_become_one_predicate() {
    assert_eq!(watch(request()).filter, None);
    let a = || Predicate::Field {
        path: "a".into(),
        op: Condition::Eq(1.into()),
    };
    let is_there = Predicate::Field {
        path: "b".into(),
        op: Condition::Exists(true),
    };
    assert_eq!(watch(filtered(vec![eq("a", 1)])).filter, Some(a().into()));
    assert_eq!(
        watch(filtered(vec![
            eq("a", 1),
            none_of(vec![field("b", Operator::Exists(true))]),
        ]))
        .filter,
        Some(Predicate::AllOf(vec![a(), Predicate::NoneOf(vec![is_there])]).into())
    );
}

#[test]
fn an_invalid_filter_is_named_by_its_path_in_the_request() {
    let deep = |filter| {
        filtered(vec![
            eq("a", 1),
            any_of(vec![eq("a", 1), none_of(vec![filter])]),
        ])
    };
    let at = |rest: &str| format!("filters[1].any_of.filters[1].none_of.filters[0]{rest}");
    let no_operator = pb::Filter {
        kind: Some(pb::filter::Kind::Field(pb::FieldFilter {
            path: "a".into(),
            operator: None,
        })),
    };
    let oid = || value(json!({"$oid": "x"}));
    for (filter, rest, part) in [
        (pb::Filter { kind: None }, "", "sets no kind"),
        (no_operator, ".field", "sets no operator"),
        (all_of(vec![]), ".all_of", "empty group"),
        (any_of(vec![]), ".any_of", "empty group"),
        (none_of(vec![]), ".none_of", "empty group"),
        (eq("$where", 1), ".field.path", "$where"),
        (field("a", Operator::Eq(oid())), ".field.eq", "$oid"),
        (field("a", Operator::Ne(oid())), ".field.ne", "$oid"),
        (field("a", Operator::Gt(oid())), ".field.gt", "$oid"),
        (field("a", Operator::Gte(oid())), ".field.gte", "$oid"),
        (field("a", Operator::Lt(oid())), ".field.lt", "$oid"),
        (field("a", Operator::Lte(oid())), ".field.lte", "$oid"),
        (
            field("a", Operator::In(list(json!([1, {"$oid": "x"}])))),
            ".field.in.values[1]",
            "$oid",
        ),
        (
            field("a", Operator::NotIn(list(json!([[{"$oid": "x"}]])))),
            ".field.not_in.values[0]",
            "at \"0\"",
        ),
        (
            regex("a", "(", ""),
            ".field.regex.pattern",
            "unclosed group",
        ),
        (
            regex("a", "(?=b)", ""),
            ".field.regex.pattern",
            "look-around",
        ),
        (regex("a", "b", "ii"), ".field.regex.options", "repeats"),
    ] {
        assert_refused(deep(filter), &at(rest), part);
    }
}

/// A request's buffer is freed although the watch keeps the token.
#[test]
fn the_token_is_kept_apart_from_the_request() {
    use prost::Message as _;
    let token = vec![7; 500];
    let sent = pb::WatchRequest {
        start: Some(watch_request::Start::ResumeToken(token.clone().into())),
        ..filtered(vec![eq("a", "x".repeat(10_000))])
    };
    let buffer = Bytes::from(sent.encode_to_vec());
    let request = pb::WatchRequest::decode(buffer.clone()).expect("it is well-formed");
    let kept = watch(request);
    assert_eq!(kept.start, Start::Token(token.into()));
    assert!(buffer.is_unique(), "something of the request is kept");
    let without = Watch {
        start: Start::Now,
        ..kept.clone()
    };
    assert!(kept.own_bytes() >= without.own_bytes() + 500);
}
