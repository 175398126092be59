//! Fuzz target: the bytes of a `WatchRequest`, up to its pipeline.

use std::{collections::HashMap, sync::LazyLock};

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Label};
use weir::{
    error::Error,
    filter::{Clauses, Evaluator, FilterIndex, Residual},
    model::{FieldViolation, MAX_VIOLATIONS, RequestError},
    pb,
    pipeline::{Plan, RequestLimits, Watch},
};

use super::fixtures;

/// The maximum size of a status in the trailers, where its details are in Base64.
const MAX_TRAILERS: usize = 8 << 10;

/// Decodes the input as a request and plans it.
pub fn run(data: &[u8]) {
    let Ok(request) = pb::WatchRequest::decode(data) else {
        return;
    };
    let limits = RequestLimits {
        allow_deployment: data.len().is_multiple_of(2),
        allow_pipeline: true,
        ..RequestLimits::default()
    };
    let watch = match Watch::from_request(request.clone(), &limits) {
        Ok(watch) => watch,
        Err(error) => return refused(&request, error),
    };
    for plan in [Plan::dedicated(&watch), Plan::shared(&watch)] {
        let again = pb::WatchRequest::decode(data).expect("it was read before");
        let again = Watch::from_request(again, &limits).expect("it was taken before");
        assert_eq!(watch, again, "one request, two meanings");
        let database = plan.scope().database();
        assert_eq!(database, watch.scope.database(), "another database");
        assert!(plan.fingerprint() != [0; 16]);
        // MongoDB accepts documents of up to 16 MiB and 100 levels.
        for stage in plan.stages() {
            let bytes = stage.to_vec().expect("a stage is BSON");
            assert!(bytes.len() < 16 << 20, "a stage of {} bytes", bytes.len());
        }
        let _ = plan.unfiltered();
    }
    for residual in [watch.shared_residual(), watch.dedicated_residual()] {
        let again = Residual::new(Clauses::clone(&residual));
        assert_eq!(residual, again);
        let _ = Evaluator::new(&residual);
        let mut index = FilterIndex::new();
        index.insert(1, &residual);
        index.remove(1);
        assert!(index.is_empty());
    }
}

fn refused(request: &pb::WatchRequest, error: RequestError) {
    if let RequestError::Invalid(violations) = &error {
        assert!((1..=MAX_VIOLATIONS).contains(&violations.len()));
        for FieldViolation { field, description } in violations {
            assert!(
                is_path("WatchRequest", field),
                "{field} is no field of a request: {request:?}"
            );
            assert!(!description.is_empty());
        }
    }
    let status = Error::from(error).into_status("0123456789abcdef");
    // A byte that is not printable ASCII is percent-encoded as three.
    let message: usize = status
        .message()
        .bytes()
        .map(|it| {
            if (b' '..=b'~').contains(&it) && it != b'%' {
                1
            } else {
                3
            }
        })
        .sum();
    let details = status.details().len().div_ceil(3) * 4;
    assert!(
        message + details <= MAX_TRAILERS,
        "a status of {message} and {details} bytes: {:?}",
        status.message()
    );
}

static MESSAGES: LazyLock<HashMap<String, DescriptorProto>> = LazyLock::new(|| {
    let descriptors = FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET)
        .expect("the descriptors were encoded by the build");
    let messages = descriptors.file.into_iter().flat_map(|it| it.message_type);
    messages.map(|it| (it.name().to_owned(), it)).collect()
});

/// Returns whether a path such as `filters[0].any_of.filters[2].field.eq` leads to a field.
fn is_path(message: &str, path: &str) -> bool {
    let (head, rest) = path.split_once('.').unwrap_or((path, ""));
    let (name, index) = match head.split_once('[') {
        Some((name, index)) => (name, index.strip_suffix(']')),
        None => (head, None),
    };
    let Some(message) = MESSAGES.get(message) else {
        return false;
    };
    let Some(field) = message.field.iter().find(|it| it.name() == name) else {
        return false;
    };
    let repeated = field.label() == Label::Repeated;
    if index.is_some_and(|it| !repeated || it.parse::<u32>().is_err()) {
        return false;
    }
    if rest.is_empty() {
        return true;
    }
    let kind = field.type_name().rsplit('.').next().unwrap_or_default();
    // Paths inside a value are not checked.
    kind == "Value" || kind == "ListValue" || is_path(kind, rest)
}

/// Returns requests of all kinds.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds: Vec<_> = fixtures::requests()
        .into_iter()
        .map(|(name, request)| (name, request.encode_to_vec()))
        .collect();
    seeds.push(("empty", Vec::new()));
    seeds
}
