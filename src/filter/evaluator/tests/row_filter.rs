//! A row filter passes an event only if it certainly holds.

use super::*;

fn with_row_filter(row_filter: Predicate) -> Clauses {
    Clauses {
        row_filter: Some(row_filter.into()),
        ..Clauses::default()
    }
}

fn of_a() -> Clauses {
    with_row_filter(field("tenant", Condition::Eq("a".into())))
}

/// Returns an event with these tenants before and after the change; "null" stands for a document that a
/// look-up did not find.
fn event(before: Option<&str>, after: Option<&str>) -> Document {
    let mut event =
        doc! {"documentKey": {"_id": 1}, "updateDescription": {"updatedFields": {"n": 1}}};
    for (name, tenant) in [
        ("fullDocumentBeforeChange", before),
        ("fullDocument", after),
    ] {
        match tenant {
            None => {}
            Some("null") => drop(event.insert(name, Bson::Null)),
            Some(tenant) => drop(event.insert(name, doc! {"tenant": tenant})),
        }
    }
    event
}

/// Every image of an event must meet the row filter; without an image it is unknown. Options of the client,
/// such as DELIVER, do not change that.
#[test]
fn every_document_of_an_event_must_meet_the_row_filter() {
    use Operation::{Delete, Insert, Replace, Update};
    const A: Option<&str> = Some("a");
    const B: Option<&str> = Some("b");
    const NULL: Option<&str> = Some("null");
    for (operation, before, after, seen) in [
        (Insert, None, A, true),
        (Insert, None, B, false),
        (Insert, None, None, false),
        (Update, None, A, true),
        (Update, None, B, false),
        (Update, None, None, false),
        (Update, None, NULL, false),
        (Update, A, A, true),
        (Update, B, B, false),
        // A document that moves between tenants is visible to neither.
        (Update, B, A, false),
        (Update, A, B, false),
        (Update, NULL, A, true),
        // The document belonged to `a`, and the update did not touch its tenant.
        (Update, A, NULL, true),
        (Update, A, None, true),
        (Update, B, None, false),
        (Replace, A, A, true),
        (Replace, B, A, false),
        (Replace, A, B, false),
        (Delete, A, None, true),
        (Delete, B, None, false),
        (Delete, None, None, false),
        (Delete, NULL, None, false),
    ] {
        let event = event(before, after);
        for filter in [None, Some(field("x", Condition::Exists(false)))] {
            for missing_image in [MissingImage::Deliver, MissingImage::Drop] {
                for pre_images in [false, true] {
                    let residual = Clauses {
                        filter: filter.clone().map(Into::into),
                        missing_image,
                        pre_images,
                        ..of_a()
                    };
                    let found = evaluate(&residual, operation, &event);
                    let passes = found.is_some();
                    // With a filter, a visible event may still not match.
                    if filter.is_none() || !seen {
                        assert_eq!(passes, seen, "{operation:?} {event} {residual:?}");
                    }
                }
            }
        }
    }
}

/// Without the document after the change, only the update description shows whether its tenant changed.
#[test]
fn an_update_that_may_have_moved_the_document_to_another_tenant_does_not_pass() {
    let passes = |row_filter: &str, description: Document| {
        let mut event = doc! {"documentKey": {"_id": 1}, "fullDocumentBeforeChange": {"tenant": "a", "of": {"tenant": "a"}, "all": [{"tenant": "a"}]}};
        event.insert("updateDescription", description);
        let residual = with_row_filter(field(row_filter, Condition::Eq("a".into())));
        evaluate(&residual, Operation::Update, &event).is_some()
    };
    for row_filter in ["tenant", "of.tenant", "all.tenant"] {
        assert!(passes(
            row_filter,
            doc! {"updatedFields": {"n": 1, "tenants": 1}, "removedFields": ["x"]}
        ));
    }
    for (row_filter, touched) in [
        ("tenant", "tenant"),
        ("tenant", "tenant.x"),
        ("of.tenant", "of"),
        ("of.tenant", "of.tenant"),
        ("all.tenant", "all.0.tenant"),
        ("all.tenant", "all.0"),
    ] {
        for description in [
            doc! {"updatedFields": {touched: "b"}},
            doc! {"removedFields": [touched]},
            doc! {"truncatedArrays": [{"field": touched, "newSize": 0}]},
            doc! {"updatedFields": {touched: "b"}, "disambiguatedPaths": {touched: touched.split('.').collect::<Vec<_>>()}},
        ] {
            assert!(
                !passes(row_filter, description.clone()),
                "{row_filter} {description}"
            );
        }
    }
    // An update whose description is malformed or absent may have touched anything.
    assert!(!passes("tenant", doc! {"updatedFields": 1}));
    let bare = doc! {"documentKey": {"_id": 1}, "fullDocumentBeforeChange": {"tenant": "a"}};
    assert_eq!(evaluate(&of_a(), Operation::Update, &bare), None);
    assert!(evaluate(&of_a(), Operation::Delete, &bare).is_some());
}

#[test]
fn a_row_filter_on_the_document_key_needs_no_document() {
    let residual = with_row_filter(field("_id.tenant", Condition::Eq("a".into())));
    for (tenant, seen) in [("a", true), ("b", false)] {
        let event = doc! {"documentKey": {"_id": {"tenant": tenant}}};
        for operation in Operation::DOCUMENT {
            assert_eq!(evaluate(&residual, operation, &event).is_some(), seen);
        }
    }
    // The key may decide even if the row filter uses other fields too.
    let either = with_row_filter(Predicate::AnyOf(vec![
        field("_id", Condition::Eq(1.into())),
        field("tenant", Condition::Eq("a".into())),
    ]));
    assert!(
        evaluate(
            &either,
            Operation::Delete,
            &doc! {"documentKey": {"_id": 1}}
        )
        .is_some()
    );
    assert!(
        evaluate(
            &either,
            Operation::Delete,
            &doc! {"documentKey": {"_id": 2}}
        )
        .is_none()
    );
    assert!(evaluate(&either, Operation::Delete, &doc! {}).is_none());
}

#[test]
fn events_of_other_operations_pass_every_row_filter() {
    for operation in Operation::ALL {
        let found = evaluate(&of_a(), operation, &event(None, Some("b")));
        assert_eq!(found.is_some(), !operation.is_document(), "{operation:?}");
    }
}

#[test]
fn a_negated_row_filter_is_unknown_without_a_document() {
    for row_filter in [
        field("tenant", Condition::Ne("b".into())),
        field("tenant", Condition::Exists(false)),
        field("tenant", Condition::Eq(Bson::Null)),
        field("tenant", Condition::NotIn(vec!["b".into()])),
        Predicate::NoneOf(vec![field("tenant", Condition::Eq("b".into()))]),
        field("tenant", Condition::Changed(false)),
        field("tenant", Condition::Changed(true)),
    ] {
        let bare = doc! {"documentKey": {"_id": 1}};
        assert_eq!(
            evaluate(
                &with_row_filter(row_filter.clone()),
                Operation::Update,
                &bare
            ),
            None,
            "{row_filter:?}"
        );
    }
}

/// A transition compares both documents, so it is reported only if both meet the row filter.
#[test]
fn transitions_are_reported_only_for_documents_within_the_row_filter() {
    let residual = Clauses {
        filter: Some(field("status", Condition::Eq("paid".into())).into()),
        pre_images: true,
        ..of_a()
    };
    let moved = |before: Document, after: Document| {
        let event = doc! {"documentKey": {"_id": 1}, "fullDocumentBeforeChange": before, "fullDocument": after};
        evaluate(&residual, Operation::Update, &event)
    };
    let (new, paid) = (
        doc! {"tenant": "a", "status": "new"},
        doc! {"tenant": "a", "status": "paid"},
    );
    assert_eq!(
        moved(new.clone(), paid.clone()),
        Some(MatchTransition::Entered)
    );
    assert_eq!(moved(paid.clone(), new), Some(MatchTransition::Left));
    assert_eq!(
        moved(doc! {"tenant": "b", "status": "new"}, paid.clone()),
        None
    );
    assert_eq!(moved(paid, doc! {"tenant": "b", "status": "new"}), None);
}

/// A pattern that exceeds the work budget on a crafted text is undecided.
#[test]
fn an_undecided_row_filter_passes_nothing() {
    let row_filter = Predicate::NoneOf(vec![field(
        "tenant",
        Condition::Regex {
            pattern: "[ab]*a[ab]{400}c".into(),
            options: String::new(),
        },
    )]);
    let result_for = |length: usize| {
        let mut random = fastrand::Rng::with_seed(7);
        let text: String = (0..length)
            .map(|_| if random.bool() { 'a' } else { 'b' })
            .collect();
        let event = doc! {"documentKey": {"_id": 1}, "fullDocument": {"tenant": text}};
        evaluate(
            &with_row_filter(row_filter.clone()),
            Operation::Insert,
            &event,
        )
    };
    assert_eq!(result_for(100), Some(MatchTransition::Unspecified));
    assert_eq!(result_for(1 << 20), None);
}
