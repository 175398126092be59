//! The policy file, and the decisions that it leads to.

mod claims;
mod decisions;
mod parsing;

use std::collections::BTreeSet;

use super::{file, rule as rules, *};
use crate::{
    auth::Method,
    filter::Predicate,
    model::{Operation, TokenAudience},
    pb,
    pipeline::{RequestLimits, Watch},
};

fn read(yaml: &str) -> Result<Vec<Rule>, String> {
    file::read(yaml.as_bytes(), true)
}

fn policy(yaml: &str) -> Policy {
    Policy::with_rules(
        Some(read(yaml).unwrap_or_else(|problem| panic!("{problem}\n{yaml}"))),
        true,
    )
}

/// Returns a policy of one rule for everybody, with further lines.
fn rule(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("version: 1\nrules:\n  - name: it\n    namespaces: [shop.orders]\n{lines}")
}

fn principal(text: &str, claims: serde_json::Value) -> Principal {
    let (method, name) = text.split_once(':').unwrap_or((text, ""));
    let method = [Method::None, Method::Jwt, Method::Key, Method::Certificate]
        .into_iter()
        .find(|it| it.name() == method)
        .expect("a method");
    let serde_json::Value::Object(claims) = claims else {
        panic!("claims are a map");
    };
    Principal {
        method,
        name: name.to_owned(),
        claims,
        ..Principal::anonymous()
    }
}

fn nobody() -> Principal {
    Principal::anonymous()
}

fn orders() -> pb::WatchRequest {
    pb::WatchRequest {
        database: "shop".to_owned(),
        collections: vec!["orders".to_owned()],
        ..pb::WatchRequest::default()
    }
}

fn decide(
    policy: &Policy,
    principal: &Principal,
    request: pb::WatchRequest,
) -> Result<Decision, Error> {
    let limits = RequestLimits {
        allow_deployment: true,
        ..RequestLimits::default()
    };
    let watch = Watch::from_request(request, &limits).expect("a valid request");
    policy.authorize(
        (principal, &watch.caller),
        &AccessRequest::of(&watch, watch.operations.as_ref()),
    )
}

/// Returns the row filter of a caller with these claims; `None` when access is denied.
fn row_filter(filter: &str, claims: serde_json::Value) -> Option<Predicate> {
    let policy = policy(&rule(&format!("filter: {filter}")));
    let decision = decide(&policy, &principal("jwt:a", claims), orders());
    decision.ok().map(|decision| {
        decision
            .view
            .row_filter
            .as_ref()
            .expect("a row filter")
            .predicate()
    })
}

fn eq(path: &str, value: impl Into<bson::Bson>) -> Predicate {
    Predicate::Field {
        path: path.to_owned(),
        op: crate::filter::Condition::Eq(value.into()),
    }
}
