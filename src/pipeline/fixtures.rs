//! Builders of requests for tests.

use prost_types::value::Kind as ValueKind;

use super::{Plan, RequestLimits, Watch};
use crate::model::RequestError;
use crate::pb;
use crate::pb::field_filter::Operator;
use crate::pb::filter::Kind;

pub(crate) fn limits() -> RequestLimits {
    RequestLimits {
        allow_deployment: true,
        allow_pipeline: true,
        ..RequestLimits::default()
    }
}

/// A request to watch `shop.orders`.
pub(crate) fn request() -> pb::WatchRequest {
    pb::WatchRequest {
        database: "shop".into(),
        collections: vec!["orders".into()],
        ..pb::WatchRequest::default()
    }
}

pub(crate) fn filtered(filters: Vec<pb::Filter>) -> pb::WatchRequest {
    pb::WatchRequest {
        filters,
        ..request()
    }
}

pub(crate) fn watch(request: pb::WatchRequest) -> Watch {
    Watch::from_request(request, &limits()).unwrap()
}

pub(crate) fn plan(request: pb::WatchRequest) -> Plan {
    Plan::dedicated(&watch(request))
}

/// Returns the violations of an invalid request, as `(field, description)`.
pub(crate) fn violations(request: pb::WatchRequest) -> Vec<(String, String)> {
    match Watch::from_request(request, &limits()) {
        Err(RequestError::Invalid(violations)) => violations
            .into_iter()
            .map(|violation| (violation.field, violation.description))
            .collect(),
        other => panic!("expected violations, got {other:?}"),
    }
}

pub(crate) fn value(json: serde_json::Value) -> prost_types::Value {
    let kind = match json {
        serde_json::Value::Null => ValueKind::NullValue(0),
        serde_json::Value::Bool(value) => ValueKind::BoolValue(value),
        serde_json::Value::Number(number) => ValueKind::NumberValue(number.as_f64().unwrap()),
        serde_json::Value::String(text) => ValueKind::StringValue(text),
        serde_json::Value::Array(items) => ValueKind::ListValue(prost_types::ListValue {
            values: items.into_iter().map(value).collect(),
        }),
        serde_json::Value::Object(fields) => ValueKind::StructValue(prost_types::Struct {
            fields: fields
                .into_iter()
                .map(|(key, field)| (key, value(field)))
                .collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

pub(crate) fn list(json: serde_json::Value) -> prost_types::ListValue {
    match value(json).kind {
        Some(ValueKind::ListValue(list)) => list,
        other => panic!("expected a list, got {other:?}"),
    }
}

pub(crate) fn field(path: &str, operator: Operator) -> pb::Filter {
    pb::Filter {
        kind: Some(Kind::Field(pb::FieldFilter {
            path: path.into(),
            operator: Some(operator),
        })),
    }
}

pub(crate) fn eq(path: &str, json: impl Into<serde_json::Value>) -> pb::Filter {
    field(path, Operator::Eq(value(json.into())))
}

/// A comparison with Extended JSON text.
pub(crate) fn compare(path: &str, operator: pb::comparison::Operator, json: &str) -> pb::Filter {
    let literal = pb::comparison::Literal::Json(json.into());
    field(
        path,
        Operator::Compare(pb::Comparison {
            operator: operator.into(),
            literal: Some(literal),
        }),
    )
}

pub(crate) fn regex(path: &str, pattern: &str, options: &str) -> pb::Filter {
    field(
        path,
        Operator::Regex(pb::RegexFilter {
            pattern: pattern.into(),
            options: options.into(),
        }),
    )
}

pub(crate) fn all_of(filters: Vec<pb::Filter>) -> pb::Filter {
    pb::Filter {
        kind: Some(Kind::AllOf(pb::FilterGroup { filters })),
    }
}

pub(crate) fn any_of(filters: Vec<pb::Filter>) -> pb::Filter {
    pb::Filter {
        kind: Some(Kind::AnyOf(pb::FilterGroup { filters })),
    }
}

pub(crate) fn none_of(filters: Vec<pb::Filter>) -> pb::Filter {
    pb::Filter {
        kind: Some(Kind::NoneOf(pb::FilterGroup { filters })),
    }
}
