//! The rule that decides, and what it grants.

use serde_json::json;

use super::*;

#[test]
fn without_a_policy_everything_is_allowed() {
    let policy = Policy::allow_all();
    assert!(policy.has_rule_for(&nobody()));
    let decision = decide(&policy, &nobody(), orders()).expect("allowed");
    assert_eq!(*decision.view, View::unrestricted());
    assert_eq!(decision.operations, None);
}

#[test]
fn a_policy_without_rules_denies_everything() {
    let policy = policy("version: 1\nrules: []");
    assert!(!policy.has_rule_for(&nobody()));
    assert!(decide(&policy, &nobody(), orders()).is_err());
}

#[test]
fn the_first_rule_that_overlaps_the_request_decides() {
    let policy = policy(
        r"
version: 1
rules:
  - {name: own, principals: ['key:a'], namespaces: [shop.orders], operations: [insert]}
  - {name: rest, principals: ['key:a', 'key:b'], namespaces: ['shop.*']}
  - {name: other, principals: ['key:a'], namespaces: [crm.people, shop.orders], operations: [delete]}
",
    );
    let a = principal("key:a", json!({}));
    let request_for = |collections: &[&str]| pb::WatchRequest {
        database: "shop".to_owned(),
        collections: collections.iter().map(|&it| it.to_owned()).collect(),
        ..pb::WatchRequest::default()
    };
    let granted = |request| decide(&policy, &a, request).expect("allowed").operations;
    assert_eq!(
        granted(request_for(&["orders"])),
        Some([Operation::Insert].into())
    );
    let four = Some(BTreeSet::from(Operation::DOCUMENT));
    assert_eq!(granted(request_for(&["invoices"])), four);
    // Rules are not merged: later rules grant nothing more.
    let mut deletes = request_for(&["orders"]);
    deletes.operations = vec![pb::OperationType::Delete.into()];
    assert!(decide(&policy, &a, deletes).is_err());
    // Rules for other principals are skipped.
    let b = principal("key:b", json!({}));
    assert!(decide(&policy, &b, request_for(&[])).is_ok());
    let c = principal("key:c", json!({}));
    assert!(!policy.has_rule_for(&c) && decide(&policy, &c, request_for(&[])).is_err());
}

/// A caller can't bypass a narrow rule with a broader request that a later rule would grant.
#[test]
fn a_request_beyond_the_deciding_rule_is_denied() {
    let sees = |narrow: &str, database: &str, collections: &[&str]| {
        let policy = policy(&format!(
            "
version: 1
rules:
  - {{name: narrow, namespaces: {narrow}, filter: {{a: 1}}}}
  - {{name: wide, namespaces: ['*']}}
"
        ));
        let request = pb::WatchRequest {
            database: database.to_owned(),
            collections: collections.iter().map(|&it| it.to_owned()).collect(),
            ..pb::WatchRequest::default()
        };
        let decision = decide(&policy, &nobody(), request);
        decision.ok().map(|it| it.view.row_filter.is_some())
    };
    let (filtered, all, refused) = (Some(true), Some(false), None);
    for (narrow, database, collections, expected) in [
        ("[shop.orders]", "shop", &["orders"][..], filtered),
        ("[shop.orders]", "shop", &["invoices"], all),
        ("[shop.orders]", "shop", &["orders", "invoices"], refused),
        ("[shop.orders]", "shop", &["invoices", "orders"], refused),
        ("[shop.orders]", "shop", &[], refused),
        ("[shop.orders]", "", &[], refused),
        ("[shop.orders]", "crm", &[], all),
        ("['shop_*.orders']", "shop_1", &[], refused),
        ("['*.orders']", "crm", &[], refused),
        ("['*.orders']", "crm", &["people"], all),
        ("['shop.*']", "shop", &[], filtered),
        ("['shop.*']", "shop", &["orders", "invoices"], filtered),
        ("['shop.*']", "", &[], refused),
        ("['*.*']", "shop", &[], filtered),
        ("['*.*']", "", &[], refused),
        (
            "[crm.people, shop.orders]",
            "shop",
            &["orders", "x"],
            refused,
        ),
        ("['*']", "", &[], filtered),
    ] {
        let seen = sees(narrow, database, collections);
        assert_eq!(seen, expected, "{narrow} {database} {collections:?}");
    }
}

#[test]
fn a_scope_must_be_covered_completely() {
    let covered = |namespaces: &str, database: &str, collections: &[&str]| {
        let policy = policy(&format!(
            "version: 1\nrules: [{{name: a, namespaces: {namespaces}}}]"
        ));
        let request = pb::WatchRequest {
            database: database.to_owned(),
            collections: collections.iter().map(|&it| it.to_owned()).collect(),
            ..pb::WatchRequest::default()
        };
        decide(&policy, &nobody(), request).is_ok()
    };
    assert!(covered("['*']", "", &[]));
    assert!(covered("['*']", "shop", &[]));
    assert!(covered("['*']", "shop", &["a", "b"]));
    assert!(!covered("['*.*']", "", &[]));
    assert!(covered("['*.*']", "shop", &[]));
    assert!(covered("['shop_*.*']", "shop_1", &[]));
    assert!(!covered("['shop_*.*']", "shop", &[]));
    assert!(!covered("['shop.a*']", "shop", &[]));
    assert!(covered("['shop.a*', 'shop.b']", "shop", &["a1", "b"]));
    assert!(!covered("['shop.a*', 'shop.b']", "shop", &["a1", "b1"]));
    assert!(!covered("['shop.a']", "shop", &["A"]));
    assert!(!covered("['shop.a']", "shop2", &["a"]));
    // Names of collections may contain dots, those of databases may not.
    assert!(covered("['shop.a.b']", "shop", &["a.b"]));
    assert!(covered("['shop.a.*']", "shop", &["a.b.c"]));
    assert!(!covered("['shop.a.*']", "shop", &["a"]));
}

#[test]
fn a_rule_applies_by_principals_and_claims() {
    let is_for = |lines: &str, who: &str, claims: serde_json::Value| {
        policy(&rule(lines)).has_rule_for(&principal(who, claims))
    };
    assert!(is_for("", "anonymous", json!({})));
    assert!(is_for("principals: [anonymous]", "anonymous", json!({})));
    assert!(!is_for(
        "principals: [anonymous]",
        "key:anonymous",
        json!({})
    ));
    assert!(!is_for("principals: ['key:*']", "anonymous", json!({})));
    assert!(is_for(
        "principals: ['jwt:*@shop.example']",
        "jwt:a@shop.example",
        json!({})
    ));
    assert!(!is_for(
        "principals: ['jwt:*@shop.example']",
        "jwt:a@shop.example.evil",
        json!({})
    ));
    assert!(!is_for(
        "principals: ['jwt:*@shop.example']",
        "key:a@shop.example",
        json!({})
    ));
    assert!(is_for(
        "principals: ['cert:spiffe://mesh/ns/shop/*']",
        "cert:spiffe://mesh/ns/shop/x",
        json!({})
    ));

    let role = "claims: {role: [reader, admin]}";
    assert!(is_for(role, "key:a", json!({"role": "admin"})));
    assert!(is_for(role, "key:a", json!({"role": ["other", "reader"]})));
    for wrong in [
        json!({}),
        json!({"role": null}),
        json!({"role": ""}),
        json!({"role": "Reader"}),
        json!({"role": "reader "}),
        json!({"role": "*"}),
        json!({"role": []}),
        json!({"role": ["reader", {"a": 1}]}),
        json!({"role": {"reader": true}}),
        json!({"Role": "reader"}),
    ] {
        assert!(!is_for(role, "key:a", wrong.clone()), "{wrong}");
    }
    assert!(is_for("claims: {level: 3}", "key:a", json!({"level": 3})));
    assert!(!is_for(
        "claims: {level: 3}",
        "key:a",
        json!({"level": "3"})
    ));
    assert!(is_for(
        "claims: {staff: true}",
        "key:a",
        json!({"staff": true})
    ));
    assert!(!is_for(
        "claims: {staff: true}",
        "key:a",
        json!({"staff": "true"})
    ));
    assert!(is_for(
        "claims: {tenant: '*'}",
        "key:a",
        json!({"tenant": "x"})
    ));
    assert!(is_for(
        "claims: {tenant: '*'}",
        "key:a",
        json!({"tenant": false})
    ));
    for nothing in [
        json!({}),
        json!({"tenant": null}),
        json!({"tenant": ""}),
        json!({"tenant": []}),
    ] {
        assert!(
            !is_for("claims: {tenant: '*'}", "key:a", nothing.clone()),
            "{nothing}"
        );
    }
    // All claims are required.
    let both = "claims: {role: admin, tenant: '*'}";
    assert!(is_for(
        both,
        "key:a",
        json!({"role": "admin", "tenant": "x"})
    ));
    assert!(!is_for(both, "key:a", json!({"role": "admin"})));
}

#[test]
fn operations_are_narrowed_to_the_granted_ones() {
    let decision = |lines: &str, operations: &[pb::OperationType], expanded: bool| {
        let request = pb::WatchRequest {
            operations: operations.iter().map(|&it| it.into()).collect(),
            show_expanded_events: expanded,
            ..orders()
        };
        decide(&policy(&rule(lines)), &nobody(), request).map(|it| it.operations)
    };
    use pb::OperationType as Pb;
    let four = BTreeSet::from(Operation::DOCUMENT);
    assert_eq!(
        decision("", &[], false).expect("granted"),
        Some(four.clone())
    );
    assert_eq!(decision("", &[], true).expect("granted"), Some(four));
    let selected = decision("", &[Pb::Insert], false).expect("granted");
    assert_eq!(selected, Some([Operation::Insert].into()));
    for beyond in [Pb::Drop, Pb::Rename, Pb::DropDatabase, Pb::Other] {
        let error = decision("", &[Pb::Insert, beyond], false).expect_err("not granted");
        assert!(error.to_string().contains("operations"), "{error}");
    }
    assert!(decision("", &[Pb::Create], true).is_err());
    // Operations that may name other namespaces or unknown fields are granted only by name.
    for named in [Pb::Rename, Pb::Other, Pb::EndOfTransaction] {
        assert!(decision("operations: [all]", &[named], true).is_err());
    }
    // The end of a transaction names no field and has no document, so it can be granted beside both.
    for more in ["", "\nhide: [ssn]", "\nfilter: {tenant: a}"] {
        let lines = format!("operations: [insert, endOfTransaction]{more}");
        let granted = decision(&lines, &[], true).expect("granted");
        let expected = [Operation::Insert, Operation::EndOfTransaction].into();
        assert_eq!(granted, Some(expected), "{more}");
    }
    assert!(decision("operations: [all, rename]", &[Pb::Rename], false).is_ok());
    assert!(decision("operations: [all]", &[Pb::Create], true).is_err());
    // All operations.
    let every = "operations: [all, rename, other]";
    assert_eq!(decision(every, &[], false).expect("granted"), None);
    assert!(decision(every, &[], true).expect("granted").is_some());
    let names = Operation::ALL
        .map(Operation::name)
        .join(", ")
        .replace("invalidate, ", "");
    let every = format!("operations: [{names}]");
    assert_eq!(decision(&every, &[], true).expect("granted"), None);
    // No operation that could occur.
    assert!(decision("operations: [create]", &[], false).is_err());
    assert!(decision("operations: [create]", &[], true).is_ok());
}

#[test]
fn images_are_granted_by_name() {
    use pb::{FullDocument as Pb, FullDocumentBeforeChange as Before};
    let full = |lines: &str, full_document: Pb| {
        let request = pb::WatchRequest {
            full_document: full_document.into(),
            ..orders()
        };
        decide(&policy(&rule(lines)), &nobody(), request).is_ok()
    };
    for it in [
        Pb::Default,
        Pb::UpdateLookup,
        Pb::WhenAvailable,
        Pb::Required,
    ] {
        assert!(full("", it), "{it:?}");
        assert_eq!(full("filter: {a: 1}", it), it != Pb::UpdateLookup, "{it:?}");
        assert_eq!(
            full("full_document: [required]", it),
            it == Pb::Required,
            "{it:?}"
        );
    }
    assert!(full(
        "filter: {a: 1}\nfull_document: [update_lookup]",
        Pb::UpdateLookup
    ));
    let before = |lines: &str, it: Before| {
        let request = pb::WatchRequest {
            full_document_before_change: it.into(),
            ..orders()
        };
        decide(&policy(&rule(lines)), &nobody(), request).is_ok()
    };
    assert!(before("", Before::Off));
    for it in [Before::WhenAvailable, Before::Required] {
        assert!(
            !before("", it) && !before("pre_images: false", it) && before("pre_images: true", it)
        );
    }
}

/// The events that arrive would reveal the values of the filtered field.
#[test]
fn filters_on_hidden_fields_are_denied() {
    let with = |path: &str, operator: Operator| {
        let field = pb::FieldFilter {
            path: path.to_owned(),
            operator: Some(operator),
        };
        let filter = pb::Filter {
            kind: Some(pb::filter::Kind::Field(field)),
        };
        let inner = pb::FilterGroup {
            filters: vec![filter],
        };
        let nested = pb::Filter {
            kind: Some(pb::filter::Kind::NoneOf(inner)),
        };
        let request = pb::WatchRequest {
            filters: vec![nested],
            ..orders()
        };
        let policy = policy(&rule("hide: [ssn, address.street]"));
        decide(&policy, &nobody(), request).map(drop)
    };
    use pb::field_filter::Operator;
    for touching in [
        "ssn",
        "ssn.last",
        "ssn.0",
        "address",
        "address.street",
        "address.0.street.name",
    ] {
        for operator in [Operator::Exists(true), Operator::Changed(true)] {
            let error = with(touching, operator).expect_err(touching);
            assert!(error.to_string().contains("filters"), "{error}");
        }
    }
    for other in ["name", "address.city", "ssn2", "address.street2"] {
        with(other, Operator::Exists(true)).expect(other);
    }
}

#[test]
fn a_denial_does_not_reveal_what_exists() {
    let policy = policy(&rule("filter: {tenant: {$claim: tenant}}"));
    let words = |who: &Principal, database: &str| {
        let request = pb::WatchRequest {
            database: database.to_owned(),
            ..orders()
        };
        decide(&policy, who, request)
            .expect_err("refused")
            .to_string()
    };
    let with = principal("key:a", json!({"tenant": "a"}));
    let without = principal("key:a", json!({}));
    let expected = words(&with, "elsewhere");
    assert_eq!(words(&without, "shop"), expected);
    assert_eq!(words(&without, "elsewhere"), expected);
    let stranger = super::policy("version: 1\nrules: []").admit(&with);
    assert_eq!(stranger.expect_err("refused").to_string(), expected);
    for secret in ["shop", "orders", "elsewhere", "tenant", "it\""] {
        assert!(!expected.contains(secret), "{expected}");
    }
}

#[test]
fn a_policy_change_is_announced_once_it_is_in_force() {
    let policy = policy("version: 1\nrules: []");
    let changes = policy.changes();
    assert!(!changes.has_changed().expect("it is there"));
    policy.replace(read(&rule("")).expect("a policy"));
    assert!(changes.has_changed().expect("it is there"));
    assert!(policy.has_rule_for(&nobody()));
}

/// Which events a shard delivers tells bits of the hash of the `_id`.
#[test]
fn a_shard_is_refused_where_the_id_or_a_part_of_it_is_hidden() {
    let sharded = |lines: &str, count| {
        let request = pb::WatchRequest {
            shard: Some(pb::ConsumerShard { index: 0, count }),
            ..orders()
        };
        decide(&policy(&rule(lines)), &nobody(), request)
    };
    for granted in ["", "hide: [ssn]", "hide: [a._id]", "hide: [_idx]"] {
        sharded(granted, 3).unwrap_or_else(|error| panic!("{granted}: {error}"));
    }
    for hidden in ["hide: [_id]", "hide: [_id.ssn]"] {
        let error = sharded(hidden, 3).expect_err(hidden);
        let filter = pb::WatchRequest {
            filters: vec![crate::pipeline::fixtures::eq("_id", 1)],
            ..orders()
        };
        let as_filter = decide(&policy(&rule(hidden)), &nobody(), filter).expect_err(hidden);
        assert_eq!(error.reason(), as_filter.reason());
        assert!(error.to_string().contains("shard: "), "{error}");
        sharded(hidden, 1).expect("one consumer gets everything");
    }
}

#[test]
fn a_filter_without_claims_is_compiled_once_for_all_callers() {
    let policy = policy(&rule("filter: {a: {$in: [1, 2]}}"));
    let place = |name: &str| {
        let decision = decide(&policy, &principal(name, json!({})), orders());
        let view = decision.expect("allowed").view;
        view.row_filter.as_ref().expect("a row filter").address()
    };
    // Both are open at once.
    let first = decide(&policy, &principal("jwt:a", json!({})), orders()).expect("allowed");
    let first = first.view.row_filter.as_ref().expect("a row filter");
    assert_eq!(first.address(), place("jwt:a"));
    assert_eq!(first.address(), place("jwt:b"));
}

/// Without authentication an address tells callers apart.
#[test]
fn the_lines_of_one_address_keep_none_of_another_from_the_log() {
    let policy = policy(&rule("principals: ['key:a']"));
    let [ours, theirs] = [1, 2].map(|last| Caller::at(Some([192, 0, 2, last].into())));
    let watch = Watch::from_request(orders(), &RequestLimits::default()).expect("valid");
    for _ in 0..100 {
        let request = AccessRequest::of(&watch, None);
        let denied = policy.authorize((&nobody(), &ours), &request);
        assert!(denied.is_err());
    }
    let kind = LineKind {
        level: Level::INFO,
        message: "denied by the policy",
        code: "PERMISSION_DENIED",
        reason: "NAMESPACE_ACCESS_DENIED",
    };
    assert!(!policy.0.denials.admits(&ours, kind));
    assert!(policy.0.denials.admits(&theirs, kind));
}
