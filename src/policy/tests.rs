//! What a policy's file may say, and what that lets whom see.

mod claims;
mod judging;
mod reading;

use super::{file, *};
use crate::{
    auth::Method,
    pb,
    plan::{RequestLimits, TokenAudience},
};

fn read(yaml: &str) -> Result<Vec<Rule>, String> {
    file::read(yaml.as_bytes(), true)
}

fn policy(yaml: &str) -> Policy {
    Policy::of(
        Some(read(yaml).unwrap_or_else(|problem| panic!("{problem}\n{yaml}"))),
        true,
    )
}

/// A policy of one rule for everybody, of which these are further lines.
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

fn judge(
    policy: &Policy,
    principal: &Principal,
    request: pb::WatchRequest,
) -> Result<Verdict, Error> {
    let limits = RequestLimits {
        allow_deployment: true,
        ..RequestLimits::default()
    };
    let watch = Watch::from_request(request, &limits).expect("a valid request");
    policy.judge(principal, &Ask::of(&watch, watch.operations.as_ref()))
}

/// The guard for a caller with these claims; `None` when it is denied.
fn guard(filter: &str, claims: serde_json::Value) -> Option<Predicate> {
    let policy = policy(&rule(&format!("filter: {filter}")));
    let verdict = judge(&policy, &principal("jwt:a", claims), orders());
    verdict
        .ok()
        .map(|verdict| verdict.view.row_filter.clone().expect("a guard"))
}

fn eq(path: &str, value: impl Into<bson::Bson>) -> Predicate {
    Predicate::Field {
        path: path.to_owned(),
        op: crate::plan::Condition::Eq(value.into()),
    }
}
