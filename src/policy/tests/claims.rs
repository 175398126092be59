//! Filters with claims, and token audiences.

use serde_json::json;

use super::*;

#[test]
fn claims_are_inserted_as_values() {
    let tenant = "{tenant: {$claim: tenant}}";
    assert_eq!(
        row_filter(tenant, json!({"tenant": "a"})),
        Some(eq("tenant", "a"))
    );
    assert_eq!(
        row_filter(tenant, json!({"tenant": ["a"]})),
        Some(eq("tenant", "a"))
    );
    assert_eq!(
        row_filter(tenant, json!({"tenant": 7})),
        Some(eq("tenant", 7))
    );
    assert_eq!(
        row_filter(tenant, json!({"tenant": 1.5})),
        Some(eq("tenant", 1.5))
    );
    assert_eq!(
        row_filter(tenant, json!({"tenant": true})),
        Some(eq("tenant", true))
    );
    // Not rounded.
    let large = 9_007_199_254_740_993_i64;
    assert_eq!(
        row_filter(tenant, json!({"tenant": large})),
        Some(eq("tenant", large))
    );
    assert_eq!(
        row_filter(tenant, json!({"tenant": -large})),
        Some(eq("tenant", -large))
    );
    // Text is never interpreted.
    for text in [
        "*",
        "$ne",
        "{\"$ne\": 1}",
        "$claim",
        "a.b",
        "ü\u{202e}",
        "' or 1",
        "\u{0}",
        "null",
    ] {
        assert_eq!(
            row_filter(tenant, json!({"tenant": text})),
            Some(eq("tenant", text)),
            "{text:?}"
        );
    }
    let list = "{tenant: {$in: {$claim: tenants}}}";
    let within = |values: &[&str]| Predicate::Field {
        path: "tenant".to_owned(),
        op: crate::filter::Condition::In(values.iter().map(|&it| it.into()).collect()),
    };
    assert_eq!(
        row_filter(list, json!({"tenants": ["b", "a", "b"]})),
        Some(within(&["a", "b"]))
    );
    assert_eq!(
        row_filter(list, json!({"tenants": "a"})),
        Some(within(&["a"]))
    );
    let shared = "{tenant: {$in: [{$claim: tenant}, shared]}}";
    assert_eq!(
        row_filter(shared, json!({"tenant": "a"})),
        Some(within(&["a", "shared"]))
    );
    // The name of a claim is not a path.
    let named = "{tenant: {$claim: 'https://shop.example/tenant'}}";
    let claims = json!({"https://shop.example/tenant": "a"});
    assert_eq!(row_filter(named, claims), Some(eq("tenant", "a")));
    assert_eq!(
        row_filter("{t: {$claim: a.b}}", json!({"a": {"b": "x"}})),
        None
    );
}

/// It is unknown what such a caller may see.
#[test]
fn a_missing_or_unusable_claim_denies_access() {
    for filter in [
        "{tenant: {$claim: tenant}}",
        "{tenant: {$ne: {$claim: tenant}}}",
        "{tenant: {$in: {$claim: tenant}}}",
        "{tenant: {$nin: {$claim: tenant}}}",
        "{tenant: {$in: [{$claim: tenant}, shared]}}",
        "{$or: [{public: true}, {tenant: {$claim: tenant}}]}",
        "{$nor: [{tenant: {$claim: tenant}}]}",
        "{a: {$gte: 1, $lt: {$claim: tenant}}}",
    ] {
        for claims in [
            json!({}),
            json!({"tenant": null}),
            json!({"tenant": ""}),
            json!({"tenant": []}),
            json!({"tenant": [""]}),
            json!({"tenant": [null]}),
            json!({"tenant": {}}),
            json!({"tenant": {"$ne": 1}}),
            json!({"tenant": {"$oid": "0123456789abcdef01234567"}}),
            json!({"tenant": [["a"]]}),
            json!({"tenant": ["a", {"$gt": ""}]}),
            json!({"tenant": 18_446_744_073_709_551_615_u64}),
            json!({"Tenant": "a"}),
        ] {
            assert_eq!(
                row_filter(filter, claims.clone()),
                None,
                "{filter} with {claims}"
            );
        }
    }
    // Several values where only one fits.
    for filter in [
        "{t: {$claim: t}}",
        "{t: {$ne: {$claim: t}}}",
        "{t: {$in: [{$claim: t}]}}",
    ] {
        assert_eq!(
            row_filter(filter, json!({"t": ["a", "b"]})),
            None,
            "{filter}"
        );
    }
    let many: Vec<String> = (0..1_001).map(|it| it.to_string()).collect();
    assert_eq!(
        row_filter("{t: {$in: {$claim: t}}}", json!({"t": many})),
        None
    );
}

#[test]
fn filters_are_written_as_in_mongodb() {
    use crate::filter::Condition as Op;
    let field = |path: &str, op: Op| Predicate::Field {
        path: path.to_owned(),
        op,
    };
    let is = |filter: &str, expected: Predicate| {
        assert_eq!(row_filter(filter, json!({})), Some(expected), "{filter}");
    };
    is("{a: x}", eq("a", "x"));
    is("{a.b: {$eq: 1}}", eq("a.b", 1));
    is("{a: null}", eq("a", bson::Bson::Null));
    is("{a: {$exists: false}}", field("a", Op::Exists(false)));
    is(
        "{a: {$nin: [1, x]}}",
        field("a", Op::NotIn(vec![1.into(), "x".into()])),
    );
    let both = vec![field("a", Op::Gte(1.into())), field("a", Op::Lt(5.into()))];
    is("{a: {$gte: 1, $lt: 5}}", Predicate::AllOf(both));
    is(
        "{a: 1, b: 2}",
        Predicate::AllOf(vec![eq("a", 1), eq("b", 2)]),
    );
    is(
        "{$or: [{a: 1}, {b: 2}]}",
        Predicate::AnyOf(vec![eq("a", 1), eq("b", 2)]),
    );
    is("{$nor: [{a: 1}]}", Predicate::NoneOf(vec![eq("a", 1)]));
    is("{$and: [{a: 1}]}", Predicate::AllOf(vec![eq("a", 1)]));
    let id = bson::oid::ObjectId::parse_str("0123456789abcdef01234567").expect("an id");
    is("{a: {$oid: 0123456789abcdef01234567}}", eq("a", id));
    is(
        "{a: {$id: 5, $ref: users}}",
        eq("a", bson::doc! { "$ref": "users", "$id": 5 }),
    );
    is(
        "{a: {$ne: {$numberLong: '5'}}}",
        field("a", Op::Ne(5_i64.into())),
    );
}

fn token_audience(yaml: &str, who: &str, claims: serde_json::Value) -> Option<TokenAudience> {
    let decision = decide(&policy(yaml), &principal(who, claims), orders());
    decision.expect("allowed").view.token_audience
}

/// Callers with the same claims may continue from each other's tokens.
#[test]
fn resume_tokens_belong_to_callers_with_the_same_claims() {
    let tenant = rule("filter: {tenant: {$claim: tenant}}");
    let of = |claims: serde_json::Value| {
        token_audience(&tenant, "key:a", claims).expect("a token audience")
    };
    let a = of(json!({"tenant": "a"}));
    assert_eq!(a, of(json!({"tenant": "a", "other": 1})));
    assert_eq!(
        a,
        token_audience(&tenant, "jwt:b", json!({"tenant": "a"})).expect("a token audience")
    );
    assert_ne!(a, of(json!({"tenant": "b"})));
    assert_ne!(of(json!({"tenant": 1})), of(json!({"tenant": "1"})));
    assert_ne!(of(json!({"tenant": true})), of(json!({"tenant": "true"})));
    // A change of the filter does not invalidate tokens.
    let changed = rule("filter: {tenant: {$claim: tenant}, draft: false}");
    assert_eq!(
        Some(a),
        token_audience(&changed, "key:a", json!({"tenant": "a"}))
    );
    // The order of a list does not matter.
    let list = rule("filter: {tenant: {$in: {$claim: t}}}");
    let of_list = |claims| token_audience(&list, "key:a", claims).expect("a token audience");
    assert_eq!(
        of_list(json!({"t": ["a", "b"]})),
        of_list(json!({"t": ["b", "a", "b"]}))
    );
    assert_ne!(
        of_list(json!({"t": ["a", "b"]})),
        of_list(json!({"t": ["a"]}))
    );
    assert_ne!(
        of_list(json!({"t": ["a", "b"]})),
        of_list(json!({"t": ["ab"]}))
    );
    // Names and values are separated.
    let two = rule("filter: {x: {$claim: x}, y: {$claim: y}}");
    let of_two = |claims| token_audience(&two, "key:a", claims).expect("a token audience");
    assert_ne!(
        of_two(json!({"x": "a", "y": "b"})),
        of_two(json!({"x": "b", "y": "a"}))
    );
    // Without a filter there is no token audience.
    assert_eq!(
        token_audience(&rule(""), "key:a", json!({"tenant": "a"})),
        None
    );
    // Without claims in the filter, the token audience depends on the rule's name.
    let fixed = |name: &str| {
        format!(
            "version: 1\nrules: [{{name: {name}, namespaces: [shop.orders], filter: {{tenant: {name}}}}}]"
        )
    };
    let of_fixed =
        |name: &str| token_audience(&fixed(name), "key:a", json!({})).expect("a token audience");
    assert_eq!(of_fixed("a"), of_fixed("a"));
    assert_ne!(of_fixed("a"), of_fixed("b"));
    assert_ne!(of_fixed("a"), a);
}
