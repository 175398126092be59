//! Filters that a caller's claims fill in, and whose tokens are for whom.

use serde_json::json;

use super::*;

#[test]
fn claims_fill_in_as_values() {
    let tenant = "{tenant: {$claim: tenant}}";
    assert_eq!(
        guard(tenant, json!({"tenant": "a"})),
        Some(eq("tenant", "a"))
    );
    assert_eq!(
        guard(tenant, json!({"tenant": ["a"]})),
        Some(eq("tenant", "a"))
    );
    assert_eq!(guard(tenant, json!({"tenant": 7})), Some(eq("tenant", 7)));
    assert_eq!(
        guard(tenant, json!({"tenant": 1.5})),
        Some(eq("tenant", 1.5))
    );
    assert_eq!(
        guard(tenant, json!({"tenant": true})),
        Some(eq("tenant", true))
    );
    // No rounding on the way.
    let large = 9_007_199_254_740_993_i64;
    assert_eq!(
        guard(tenant, json!({"tenant": large})),
        Some(eq("tenant", large))
    );
    assert_eq!(
        guard(tenant, json!({"tenant": -large})),
        Some(eq("tenant", -large))
    );
    // Whatever the text is, it is no more than that.
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
            guard(tenant, json!({"tenant": text})),
            Some(eq("tenant", text)),
            "{text:?}"
        );
    }
    let list = "{tenant: {$in: {$claim: tenants}}}";
    let within = |values: &[&str]| Predicate::Field {
        path: "tenant".to_owned(),
        op: crate::plan::Condition::In(values.iter().map(|&it| it.into()).collect()),
    };
    assert_eq!(
        guard(list, json!({"tenants": ["b", "a", "b"]})),
        Some(within(&["a", "b"]))
    );
    assert_eq!(guard(list, json!({"tenants": "a"})), Some(within(&["a"])));
    let shared = "{tenant: {$in: [{$claim: tenant}, shared]}}";
    assert_eq!(
        guard(shared, json!({"tenant": "a"})),
        Some(within(&["a", "shared"]))
    );
    // A name is a name, and no path.
    let named = "{tenant: {$claim: 'https://shop.example/tenant'}}";
    let claims = json!({"https://shop.example/tenant": "a"});
    assert_eq!(guard(named, claims), Some(eq("tenant", "a")));
    assert_eq!(guard("{t: {$claim: a.b}}", json!({"a": {"b": "x"}})), None);
}

/// T38. Nobody knows what such a caller may see.
#[test]
fn a_claim_that_is_missing_or_of_no_use_denies() {
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
                guard(filter, claims.clone()),
                None,
                "{filter} with {claims}"
            );
        }
    }
    // Several values where there is a place for one.
    for filter in [
        "{t: {$claim: t}}",
        "{t: {$ne: {$claim: t}}}",
        "{t: {$in: [{$claim: t}]}}",
    ] {
        assert_eq!(guard(filter, json!({"t": ["a", "b"]})), None, "{filter}");
    }
    let many: Vec<String> = (0..1_001).map(|it| it.to_string()).collect();
    assert_eq!(guard("{t: {$in: {$claim: t}}}", json!({"t": many})), None);
}

#[test]
fn conditions_are_read_as_mongodb_has_them() {
    use crate::plan::Condition as Op;
    let field = |path: &str, op: Op| Predicate::Field {
        path: path.to_owned(),
        op,
    };
    let is = |filter: &str, expected: Predicate| {
        assert_eq!(guard(filter, json!({})), Some(expected), "{filter}");
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
        "{a: {$ne: {$numberLong: '5'}}}",
        field("a", Op::Ne(5_i64.into())),
    );
}

fn audience(yaml: &str, who: &str, claims: serde_json::Value) -> Option<TokenAudience> {
    let verdict = judge(&policy(yaml), &principal(who, claims), orders());
    verdict.expect("allowed").view.token_audience
}

/// T38. Who may go on from whose tokens.
#[test]
fn tokens_are_for_those_with_the_same_claims() {
    let tenant = rule("filter: {tenant: {$claim: tenant}}");
    let of = |claims: serde_json::Value| audience(&tenant, "key:a", claims).expect("an audience");
    let a = of(json!({"tenant": "a"}));
    assert_eq!(a, of(json!({"tenant": "a", "other": 1})));
    assert_eq!(
        a,
        audience(&tenant, "jwt:b", json!({"tenant": "a"})).expect("an audience")
    );
    assert_ne!(a, of(json!({"tenant": "b"})));
    assert_ne!(of(json!({"tenant": 1})), of(json!({"tenant": "1"})));
    assert_ne!(of(json!({"tenant": true})), of(json!({"tenant": "true"})));
    // A change of the filter leaves tokens as good as they were.
    let changed = rule("filter: {tenant: {$claim: tenant}, draft: false}");
    assert_eq!(Some(a), audience(&changed, "key:a", json!({"tenant": "a"})));
    // Lists are sets.
    let list = rule("filter: {tenant: {$in: {$claim: t}}}");
    let of_list = |claims| audience(&list, "key:a", claims).expect("an audience");
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
    // Names and values do not run into one another.
    let two = rule("filter: {x: {$claim: x}, y: {$claim: y}}");
    let of_two = |claims| audience(&two, "key:a", claims).expect("an audience");
    assert_ne!(
        of_two(json!({"x": "a", "y": "b"})),
        of_two(json!({"x": "b", "y": "a"}))
    );
    // Whoever sees everything is nobody's tenant.
    assert_eq!(audience(&rule(""), "key:a", json!({"tenant": "a"})), None);
    // Where the filter names no claim, the rule is what tells.
    let fixed = |name: &str| {
        format!(
            "version: 1\nrules: [{{name: {name}, namespaces: [shop.orders], filter: {{tenant: {name}}}}}]"
        )
    };
    let of_fixed = |name: &str| audience(&fixed(name), "key:a", json!({})).expect("an audience");
    assert_eq!(of_fixed("a"), of_fixed("a"));
    assert_ne!(of_fixed("a"), of_fixed("b"));
    assert_ne!(of_fixed("a"), a);
}
