use tonic_types::ErrorDetails;

use super::*;

const NO_METADATA: [(String, String); 0] = [];

fn status(code: Code, reason: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "weir", NO_METADATA);
    Status::with_error_details(code, "words", details)
}

#[test]
fn only_transient_errors_are_retried() {
    let retries = |status: &Status| matches!(decide_retry(status), RetryDecision::Retry { .. });
    assert!(retries(&status(Code::Unavailable, "SERVER_DRAINING")));
    assert!(retries(&Status::unavailable("")));
    assert!(retries(&Status::unknown("missing grpc-status trailer")));
    assert!(retries(&Status::internal("h2 protocol error")));
    assert!(retries(&Status::cancelled("")));
    assert!(!retries(&status(Code::Internal, "INTERNAL")));
    assert!(!retries(&status(Code::OutOfRange, "RESUME_TOKEN_EXPIRED")));
    assert!(!retries(&status(Code::Aborted, "WATCH_INVALIDATED")));
    assert!(!retries(&Status::unimplemented("")));
    assert!(!retries(&Status::permission_denied("")));
    assert!(!retries(&Status::out_of_range("message too large")));
}

#[test]
fn the_delay_that_the_server_asks_for_is_returned() {
    let mut details = ErrorDetails::new();
    details.set_error_info("UPSTREAM_UNAVAILABLE", "weir", NO_METADATA);
    details.set_retry_info(Some(Duration::from_secs(3)));
    let status = Status::with_error_details(Code::Unavailable, "MongoDB is away", details);
    assert_eq!(
        decide_retry(&status),
        RetryDecision::Retry {
            why: "UPSTREAM_UNAVAILABLE: MongoDB is away".to_owned(),
            retry_after: Some(Duration::from_secs(3)),
        }
    );
}

#[test]
fn an_expired_token_is_explained_with_the_file_to_delete() {
    let context = AdviceContext {
        resume_file: Some("orders.token".into()),
        ..AdviceContext::default()
    };
    assert_eq!(
        explain(&status(Code::OutOfRange, "RESUME_TOKEN_EXPIRED"), &context),
        "the watch ended: RESUME_TOKEN_EXPIRED: words\n\
         MongoDB's oplog no longer contains that position, so this watch has lost changes.\n\
         Delete orders.token to start from now; with --since 10m too, it starts that far back, \
         if the oplog reaches there."
    );
}

#[test]
fn the_token_after_an_undeliverable_event_is_shown() {
    for reason in [
        "IMAGE_UNAVAILABLE",
        "UPSTREAM_EVENT_TOO_LARGE",
        "LOOKUP_AMBIGUOUS",
    ] {
        let mut details = ErrorDetails::new();
        let metadata = [("next_token".to_owned(), "bmV4dA==".to_owned())];
        details.set_error_info(reason, "weir", metadata);
        let status = Status::with_error_details(Code::FailedPrecondition, "words", details);
        let text = explain(&status, &AdviceContext::default());
        assert!(
            text.ends_with("without it: --resume-token bmV4dA=="),
            "{text}"
        );
        // A token in the file takes precedence over one on the command line.
        let context = AdviceContext {
            resume_file: Some("orders.token".into()),
            ..AdviceContext::default()
        };
        let text = explain(&status, &context);
        assert!(text.contains("delete orders.token"), "{text}");
    }
}

#[test]
fn a_bad_field_is_named_by_its_flag() {
    let mut details = ErrorDetails::new();
    details.set_error_info("INVALID_REQUEST", "weir", NO_METADATA);
    details.add_bad_request_violation("filters[1].field.regex.pattern", "has look-around");
    details.add_bad_request_violation("operations[0]", "is not known");
    details.add_bad_request_violation("fields[1]", "is below fields[0], \"a\"; name one of them");
    details.add_bad_request_violation("filters[9]", "is not there");
    details.add_bad_request_violation("pipeline[1]", "has $where");
    details.add_bad_request_violation("pipeline[2]", "is too long");
    details.add_bad_request_violation("pipeline", "has 21 stages");
    let status = Status::with_error_details(Code::InvalidArgument, "bad request", details);
    let context = AdviceContext {
        conditions: vec!["a=1".to_owned(), "b ~ (?=x)".to_owned()],
        stages: vec![
            "{}".to_owned(),
            "{\"$match\": 1}".to_owned(),
            "x".repeat(200),
        ],
        ..AdviceContext::default()
    };
    assert_eq!(
        explain(&status, &context),
        "the watch ended: INVALID_REQUEST: bad request\n  \
         --where 'b ~ (?=x)': has look-around\n  \
         --op: is not known\n  \
         --fields: is below fields[0], \"a\"; name one of them\n  \
         filters[9]: is not there\n  \
         --stage '{\"$match\": 1}': has $where\n  \
         --stage 'XXX...': is too long\n  \
         --stage: has 21 stages"
            .replace("XXX", &"x".repeat(97))
    );
}

#[test]
fn every_reason_that_ends_a_watch_has_advice() {
    for reason in [
        "RESUME_TOKEN_MALFORMED",
        "RESUME_TOKEN_MISMATCH",
        "RESUME_TOKEN_EXPIRED",
        "WATCH_INVALIDATED",
        "CHANGE_STREAMS_UNSUPPORTED",
        "UPSTREAM_ACCESS_DENIED",
        "UPSTREAM_REFUSED",
        "PIPELINE_NOT_ALLOWED",
        "SHARD_REMOVED",
        "LOOKUP_AMBIGUOUS",
        "PIPELINE_CHANGED_TOKEN",
        "IMAGE_UNAVAILABLE",
        "EVENT_TOO_LARGE",
        "UPSTREAM_EVENT_TOO_LARGE",
        "WATCH_LIMIT_EXCEEDED",
        "INTERNAL",
    ] {
        let status = status(Code::FailedPrecondition, reason);
        assert!(
            advice(&status, &AdviceContext::default()).is_some(),
            "{reason}"
        );
    }
    for status in [
        Status::permission_denied(""),
        Status::unauthenticated(""),
        Status::unimplemented(""),
        Status::out_of_range(""),
    ] {
        assert!(
            advice(&status, &AdviceContext::default()).is_some(),
            "{status}"
        );
    }
}

#[test]
fn the_time_of_a_token_of_another_view_is_shown_as_a_start() {
    let mut details = ErrorDetails::new();
    let metadata = [("token_time".to_owned(), "1738324800.7".to_owned())];
    details.set_error_info("RESUME_TOKEN_MISMATCH", "weir", metadata);
    let status = Status::with_error_details(Code::InvalidArgument, "words", details);
    let text = explain(&status, &AdviceContext::default());
    assert!(
        text.ends_with(": --since 2025-01-31T12:00:00.000Z"),
        "{text}"
    );
    let context = AdviceContext {
        resume_file: Some("orders.token".into()),
        ..AdviceContext::default()
    };
    let text = explain(&status, &context);
    assert!(text.contains("delete orders.token"), "{text}");
}
