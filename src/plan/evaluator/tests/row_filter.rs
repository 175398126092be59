//! What a row filter does not surely let through, no one sees.

use super::*;

fn guarded(row_filter: Predicate) -> Residual {
    Residual {
        row_filter: Some(row_filter),
        ..Residual::pass_all()
    }
}

fn of_a() -> Residual {
    guarded(field("tenant", Condition::Eq("a".into())))
}

/// An event of a document whose tenants, before and after, are these; `null` is a document that was looked
/// for and not found.
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

/// T56: every image that an event carries must satisfy the row filter, and without one nothing is known. What
/// the client asks for, DELIVER included, has no say in it.
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
        // One that goes from tenant to tenant is shown to neither.
        (Update, B, A, false),
        (Update, A, B, false),
        (Update, NULL, A, true),
        // It was a's, and what was changed does not make it another's.
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
                    let residual = Residual {
                        filter: filter.clone(),
                        missing_image,
                        pre_images,
                        ..of_a()
                    };
                    let found = evaluate(&residual, operation, &event);
                    let passes = found.is_some();
                    // The filter asks for more than the row filter.
                    if filter.is_none() || !seen {
                        assert_eq!(passes, seen, "{operation:?} {event} {residual:?}");
                    }
                }
            }
        }
    }
}

/// The document of after the change is not there, and what the update tells is of that one.
#[test]
fn an_update_that_may_have_moved_the_document_to_another_tenant_does_not_pass() {
    let judged = |row_filter: &str, description: Document| {
        let mut event = doc! {"documentKey": {"_id": 1}, "fullDocumentBeforeChange": {"tenant": "a", "of": {"tenant": "a"}, "all": [{"tenant": "a"}]}};
        event.insert("updateDescription", description);
        let residual = guarded(field(row_filter, Condition::Eq("a".into())));
        evaluate(&residual, Operation::Update, &event).is_some()
    };
    for row_filter in ["tenant", "of.tenant", "all.tenant"] {
        assert!(judged(
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
                !judged(row_filter, description.clone()),
                "{row_filter} {description}"
            );
        }
    }
    // One that can't be read, or is not there, may have touched anything.
    assert!(!judged("tenant", doc! {"updatedFields": 1}));
    let bare = doc! {"documentKey": {"_id": 1}, "fullDocumentBeforeChange": {"tenant": "a"}};
    assert_eq!(evaluate(&of_a(), Operation::Update, &bare), None);
    assert!(evaluate(&of_a(), Operation::Delete, &bare).is_some());
}

#[test]
fn a_row_filter_on_the_document_key_needs_no_document() {
    let residual = guarded(field("_id.tenant", Condition::Eq("a".into())));
    for (tenant, seen) in [("a", true), ("b", false)] {
        let event = doc! {"documentKey": {"_id": {"tenant": tenant}}};
        for operation in Operation::DOCUMENT {
            assert_eq!(evaluate(&residual, operation, &event).is_some(), seen);
        }
    }
    // Where it is not on the key alone, the key may still decide.
    let either = guarded(Predicate::AnyOf(vec![
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

/// Where a negation of what is unknown would be known to a guesser, it is not here.
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
            evaluate(&guarded(row_filter.clone()), Operation::Update, &bare),
            None,
            "{row_filter:?}"
        );
    }
}

/// How a change moved a document across the filter is told of what the row filter lets through, and so tells
/// nothing of anything else.
#[test]
fn transitions_are_reported_only_for_documents_within_the_row_filter() {
    let residual = Residual {
        filter: Some(field("status", Condition::Eq("paid".into()))),
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

/// A pattern on a text that was made for it is given up, and that is no pass.
#[test]
fn an_undecided_row_filter_passes_nothing() {
    let row_filter = Predicate::NoneOf(vec![field(
        "tenant",
        Condition::Regex {
            pattern: "[ab]*a[ab]{400}c".into(),
            options: String::new(),
        },
    )]);
    let judged = |length: usize| {
        let mut random = fastrand::Rng::with_seed(7);
        let text: String = (0..length)
            .map(|_| if random.bool() { 'a' } else { 'b' })
            .collect();
        let event = doc! {"documentKey": {"_id": 1}, "fullDocument": {"tenant": text}};
        evaluate(&guarded(row_filter.clone()), Operation::Insert, &event)
    };
    assert_eq!(judged(100), Some(MatchTransition::Unspecified));
    assert_eq!(judged(1 << 20), None);
}
