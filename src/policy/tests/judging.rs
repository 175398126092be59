//! Which rule decides, and what it lets whom watch.

use serde_json::json;

use super::*;

#[test]
fn whoever_has_no_policy_may_watch_everything() {
    let policy = Policy::open();
    assert!(policy.knows(&nobody()));
    let verdict = judge(&policy, &nobody(), orders()).expect("allowed");
    assert_eq!(*verdict.view, View::unrestricted());
    assert_eq!(verdict.operations, None);
}

#[test]
fn a_policy_without_rules_lets_nobody_watch_anything() {
    let policy = policy("version: 1\nrules: []");
    assert!(!policy.knows(&nobody()));
    assert!(judge(&policy, &nobody(), orders()).is_err());
}

#[test]
fn the_first_rule_that_covers_any_of_what_is_asked_for_decides() {
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
    let asks = |collections: &[&str]| pb::WatchRequest {
        database: "shop".to_owned(),
        collections: collections.iter().map(|&it| it.to_owned()).collect(),
        ..pb::WatchRequest::default()
    };
    let granted = |request| judge(&policy, &a, request).expect("allowed").operations;
    assert_eq!(granted(asks(&["orders"])), Some([Operation::Insert].into()));
    let four = Some(BTreeSet::from(Operation::DOCUMENT));
    assert_eq!(granted(asks(&["invoices"])), four);
    // No union of rules: what the first that decides does not grant is not granted.
    let mut deletes = asks(&["orders"]);
    deletes.operations = vec![pb::OperationType::Delete.into()];
    assert!(judge(&policy, &a, deletes).is_err());
    // A rule for others is none.
    let b = principal("key:b", json!({}));
    assert!(judge(&policy, &b, asks(&[])).is_ok());
    let c = principal("key:c", json!({}));
    assert!(!policy.knows(&c) && judge(&policy, &c, asks(&[])).is_err());
}

/// Nobody gets round a narrow rule by asking for more than it covers, which a later rule would grant.
#[test]
fn who_asks_for_more_than_an_earlier_rule_covers_is_refused() {
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
        let verdict = judge(&policy, &nobody(), request);
        verdict.ok().map(|it| it.view.row_filter.is_some())
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
fn a_scope_is_covered_only_as_a_whole() {
    let covered = |namespaces: &str, database: &str, collections: &[&str]| {
        let policy = policy(&format!(
            "version: 1\nrules: [{{name: a, namespaces: {namespaces}}}]"
        ));
        let request = pb::WatchRequest {
            database: database.to_owned(),
            collections: collections.iter().map(|&it| it.to_owned()).collect(),
            ..pb::WatchRequest::default()
        };
        judge(&policy, &nobody(), request).is_ok()
    };
    assert!(covered("['*']", "", &[]));
    assert!(covered("['*']", "shop", &[]));
    assert!(covered("['*']", "shop", &["a", "b"]));
    assert!(!covered("['*.*']", "", &[]));
    assert!(covered("['*.*']", "shop", &[]));
    assert!(covered("['shop_*.*']", "shop_1", &[]));
    assert!(!covered("['shop_*.*']", "shop", &[]));
    assert!(!covered("['shop.a*']", "shop", &[]));
    assert!(
        !covered("['shop.**']", "shop", &[]),
        "only * is all of a database"
    );
    assert!(covered("['shop.a*', 'shop.b']", "shop", &["a1", "b"]));
    assert!(!covered("['shop.a*', 'shop.b']", "shop", &["a1", "b1"]));
    assert!(!covered("['shop.a']", "shop", &["A"]));
    assert!(!covered("['shop.a']", "shop2", &["a"]));
    // A collection's name may hold dots, a database's none.
    assert!(covered("['shop.a.b']", "shop", &["a.b"]));
    assert!(covered("['shop.a.*']", "shop", &["a.b.c"]));
    assert!(!covered("['shop.a.*']", "shop", &["a"]));
}

#[test]
fn rules_are_for_those_whom_principals_and_claims_name() {
    let is_for = |lines: &str, who: &str, claims: serde_json::Value| {
        policy(&rule(lines)).knows(&principal(who, claims))
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
    // All must hold.
    let both = "claims: {role: admin, tenant: '*'}";
    assert!(is_for(
        both,
        "key:a",
        json!({"role": "admin", "tenant": "x"})
    ));
    assert!(!is_for(both, "key:a", json!({"role": "admin"})));
}

#[test]
fn operations_are_narrowed_to_what_is_granted() {
    let verdict = |lines: &str, operations: &[pb::OperationType], expanded: bool| {
        let request = pb::WatchRequest {
            operations: operations.iter().map(|&it| it.into()).collect(),
            show_expanded_events: expanded,
            ..orders()
        };
        judge(&policy(&rule(lines)), &nobody(), request).map(|it| it.operations)
    };
    use pb::OperationType as Pb;
    let four = BTreeSet::from(Operation::DOCUMENT);
    assert_eq!(
        verdict("", &[], false).expect("granted"),
        Some(four.clone())
    );
    assert_eq!(verdict("", &[], true).expect("granted"), Some(four));
    let asked = verdict("", &[Pb::Insert], false).expect("granted");
    assert_eq!(asked, Some([Operation::Insert].into()));
    for beyond in [Pb::Drop, Pb::Rename, Pb::DropDatabase, Pb::Other] {
        let error = verdict("", &[Pb::Insert, beyond], false).expect_err("not granted");
        assert!(error.to_string().contains("operations"), "{error}");
    }
    assert!(verdict("", &[Pb::Create], true).is_err());
    // Those that may name other namespaces, or hold whatever MongoDB adds, only by their names.
    for named in [Pb::Rename, Pb::Other] {
        assert!(verdict("operations: [all]", &[named], false).is_err());
    }
    assert!(verdict("operations: [all, rename]", &[Pb::Rename], false).is_ok());
    assert!(verdict("operations: [all]", &[Pb::Create], true).is_err());
    // Everything there is.
    let every = "operations: [all, rename, other]";
    assert_eq!(verdict(every, &[], false).expect("granted"), None);
    assert!(verdict(every, &[], true).expect("granted").is_some());
    let names = Operation::ALL
        .map(Operation::name)
        .join(", ")
        .replace("invalidate, ", "");
    let every = format!("operations: [{names}]");
    assert_eq!(verdict(&every, &[], true).expect("granted"), None);
    // Nothing that could ever come.
    assert!(verdict("operations: [create]", &[], false).is_err());
    assert!(verdict("operations: [create]", &[], true).is_ok());
}

#[test]
fn images_are_granted_by_name() {
    use pb::{FullDocument as Pb, FullDocumentBeforeChange as Before};
    let full = |lines: &str, full_document: Pb| {
        let request = pb::WatchRequest {
            full_document: full_document.into(),
            ..orders()
        };
        judge(&policy(&rule(lines)), &nobody(), request).is_ok()
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
        judge(&policy(&rule(lines)), &nobody(), request).is_ok()
    };
    assert!(before("", Before::Off));
    for it in [Before::WhenAvailable, Before::Required] {
        assert!(
            !before("", it) && !before("pre_images: false", it) && before("pre_images: true", it)
        );
    }
}

/// What a filter says of a field, the events that come tell.
#[test]
fn filters_may_not_touch_what_is_hidden() {
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
        judge(&policy, &nobody(), request).map(drop)
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
fn a_refusal_tells_nothing_of_what_is_there() {
    let policy = policy(&rule("filter: {tenant: {$claim: tenant}}"));
    let words = |who: &Principal, database: &str| {
        let request = pb::WatchRequest {
            database: database.to_owned(),
            ..orders()
        };
        judge(&policy, who, request)
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
fn whoever_waits_is_told_of_other_rules_once_they_hold() {
    let policy = policy("version: 1\nrules: []");
    let changes = policy.changes();
    assert!(!changes.has_changed().expect("it is there"));
    policy.replace(read(&rule("")).expect("a policy"));
    assert!(changes.has_changed().expect("it is there"));
    assert!(policy.knows(&nobody()));
}
