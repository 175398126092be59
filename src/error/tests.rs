//! Every error with the status that clients receive for it, byte for byte.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    mem,
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use tonic_types::{StatusExt as _, pb};

use super::*;
use crate::model::MAX_VIOLATIONS;

/// The status of each error below: code, reason and class, the message, and each detail of the status.
const STATUSES: &str = include_str!("tests/statuses.txt");

const TIME: Option<ClusterTime> = Some(ClusterTime {
    seconds: 1_738_324_800,
    increment: 7,
});
const EARLIER: Option<ClusterTime> = Some(ClusterTime {
    seconds: 1_738_321_200,
    increment: 1,
});

fn refusal(code: i32, name: &str, about: Option<&'static str>) -> Option<Refusal> {
    Some(Refusal {
        code,
        name: name.to_owned(),
        about,
    })
}

fn violation(field: &str, description: &str) -> FieldViolation {
    FieldViolation {
        field: field.to_owned(),
        description: description.to_owned(),
    }
}

fn event(after: Option<ClusterTime>, time: Option<ClusterTime>) -> UndeliverableEvent {
    UndeliverableEvent {
        after,
        time,
        next_token: time.map(|_| Bytes::from_static(b"next")),
    }
}

fn limit(unit: &'static str) -> Error {
    Error::LimitExceeded(Exceeded { unit, max: 4_096 })
}

/// Every variant, and each of its forms that differ in the message or in the details.
fn errors() -> Vec<Error> {
    let (long, overlong) = ("x".repeat(700), "y".repeat(2_000));
    let violations = |count: usize, text: &str| {
        let one = |index| violation(&format!("filters[{index}].field.eq"), text);
        (0..count).map(one).collect::<Vec<_>>()
    };
    let orders = Scope::Collection {
        database: "shop".to_owned(),
        collection: "orders".to_owned(),
    };
    let long_scope = Scope::Database {
        database: overlong.clone(),
    };
    let code_name = "é".repeat(40);
    vec![
        Error::InvalidRequest(violations(1, "is empty")),
        Error::InvalidRequest(violations(6, "is empty")),
        Error::InvalidRequest(violations(7, &long)),
        Error::UnknownField {
            message: "WatchRequest".to_owned(),
            number: 99,
        },
        Error::Unimplemented("there is no method /weir.v1.WatchService/Guess".to_owned()),
        Error::Unimplemented(overlong),
        Error::ServiceUnknown("weir.v2.WatchService".to_owned()),
        Error::RequestTimeout(Duration::from_secs(10)),
        Error::DeploymentNotAllowed,
        Error::PipelineNotAllowed { by_policy: false },
        Error::PipelineNotAllowed { by_policy: true },
        Error::TokenMalformed("is not base64".to_owned()),
        Error::TokenMismatch {
            belongs_to: "another deployment",
            time: None,
        },
        Error::TokenMismatch {
            belongs_to: "another view",
            time: TIME,
        },
        Error::TokenExpired {
            time: None,
            oldest: None,
        },
        Error::TokenExpired {
            time: EARLIER,
            oldest: TIME,
        },
        Error::Invalidated {
            scope: orders.clone(),
            cause: Some(Operation::Drop),
        },
        Error::Invalidated {
            scope: long_scope,
            cause: None,
        },
        Error::UpstreamUnavailable,
        Error::ReadPreferenceUnmet,
        Error::UpstreamOverloaded {
            refusal: None,
            retry: None,
        },
        Error::UpstreamOverloaded {
            refusal: refusal(462, "IngressRequestRateLimitExceeded", None),
            retry: Some(Duration::from_millis(20)),
        },
        Error::UpstreamOverloaded {
            refusal: refusal(146, "", None),
            retry: Some(Duration::from_millis(61_500)),
        },
        Error::ChangeStreamsUnsupported(None),
        Error::ChangeStreamsUnsupported(refusal(40573, "Location40573", None)),
        Error::ChangeStreamsUnsupported(refusal(148, "ReadConcernMajorityNotEnabled", None)),
        Error::ChangeStreamsUnsupported(refusal(376, "ChangeStreamNotEnabled", None)),
        Error::ChangeStreamsUnsupported(refusal(40415, "", Some("showExpandedEvents"))),
        Error::ChangeStreamsUnsupported(refusal(40415, "IDLUnknownField", IGNORE_REMOVED_SHARDS)),
        Error::ChangeStreamsUnsupported(refusal(1, "InternalError", None)),
        Error::UpstreamRefused {
            refusal: None,
            time: None,
        },
        Error::UpstreamRefused {
            refusal: refusal(40649, &code_name, Some("$match")),
            time: TIME,
        },
        Error::ShardRemoved { time: None },
        Error::ShardRemoved { time: TIME },
        Error::PatternRefused { fields: Vec::new() },
        Error::PatternRefused {
            fields: vec!["filters[0].field.regex".to_owned(); MAX_VIOLATIONS + 1],
        },
        Error::UpstreamAccessDenied,
        Error::ImageUnavailable(event(None, None)),
        Error::ImageUnavailable(event(EARLIER, None)),
        Error::ImageUnavailable(event(EARLIER, TIME)),
        Error::EventTooLarge {
            event_bytes: 5_000_000,
            limit: 3_145_728,
        },
        Error::UpstreamEventTooLarge(event(None, None)),
        Error::UpstreamEventTooLarge(event(EARLIER, TIME)),
        Error::LookupAmbiguous(event(None, None)),
        Error::LookupAmbiguous(event(EARLIER, TIME)),
        Error::PipelineChangedToken,
        Error::StagesRefused(None),
        Error::StagesRefused(refusal(168, "InvalidPipelineOperator", None)),
        limit("watches"),
        limit("feeds"),
        limit("openings"),
        limit("calls"),
        limit("checks"),
        limit("KiB of filters"),
        limit("others"),
        Error::Quota {
            owner: "this principal",
            limit: "principal_watches",
            allowed: "2 open watches".to_owned(),
            retry: Duration::from_millis(2_500),
        },
        Error::CredentialsMissing("the call has no credentials"),
        Error::CredentialsInvalid("the signature does not match"),
        Error::CredentialsExpired,
        Error::KeysUnavailable,
        Error::AccessDenied("no rule allows it".to_owned()),
        Error::AccessChanged { after: None },
        Error::AccessChanged { after: TIME },
        Error::MaxAge,
        Error::Draining,
        Error::DeadlineExceeded,
        Error::Internal,
    ]
}

const IGNORE_REMOVED_SHARDS: Option<&str> = Some("ignoreRemovedShards");

/// Returns the error and its status in words. The bytes of each detail stand as they are, besides those of
/// `ErrorInfo`, whose map is encoded in any order.
fn described(error: &Error) -> String {
    // The delay of a retry has a random part.
    fastrand::seed(7);
    let (code, reason, class) = (error.code(), error.reason(), error.class());
    let status = error.clone().into_status("00c0ffee");
    assert_eq!(status.code(), code);
    let mut text = format!("{} {reason}, {class:?}\n", code_name(code));
    let _ = writeln!(text, "  {}", status.message());
    let encoded = pb::Status::decode(status.details()).expect("a google.rpc.Status");
    assert_eq!(
        (encoded.code, &*encoded.message),
        (code.into(), status.message())
    );
    for detail in encoded.details {
        let kind = detail
            .type_url
            .trim_start_matches("type.googleapis.com/google.rpc.");
        let _ = write!(text, "  {kind}");
        if kind == "ErrorInfo" {
            let info = status.get_details_error_info().expect("it is there");
            assert_eq!((&*info.reason, &*info.domain), (reason, DOMAIN));
            for (key, value) in info.metadata.iter().collect::<BTreeMap<_, _>>() {
                let _ = write!(text, " {key}={value}");
            }
            text.push('\n');
        } else {
            let _ = writeln!(text, " {}", detail.value.escape_ascii());
        }
    }
    text
}

#[test]
fn every_error_has_its_status() {
    let statuses: Vec<String> = errors().iter().map(described).collect();
    assert_eq!(statuses.join("\n"), STATUSES);
}

#[test]
fn every_variant_is_among_them() {
    let variants: HashSet<_> = errors().iter().map(mem::discriminant).collect();
    assert_eq!(variants.len(), KINDS.len());
}
