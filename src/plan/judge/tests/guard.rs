//! What a guard does not surely let through, no one sees.

use super::*;

fn guarded(guard: Predicate) -> Residual {
    Residual {
        guard: Some(guard),
        ..Residual::nothing()
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

/// T56: every image that an event carries must satisfy the guard, and without one nothing is known. What
/// the client asks for, DELIVER included, has no say in it.
#[test]
fn every_document_of_an_event_must_satisfy_the_guard() {
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
                    let found = judge(&residual, operation, &event);
                    let passes = found.is_some();
                    // The filter asks for more than the guard.
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
fn an_update_that_may_have_given_the_document_away_is_not_seen() {
    let judged = |guard: &str, description: Document| {
        let mut event = doc! {"documentKey": {"_id": 1}, "fullDocumentBeforeChange": {"tenant": "a", "of": {"tenant": "a"}, "all": [{"tenant": "a"}]}};
        event.insert("updateDescription", description);
        let residual = guarded(field(guard, Condition::Eq("a".into())));
        judge(&residual, Operation::Update, &event).is_some()
    };
    for guard in ["tenant", "of.tenant", "all.tenant"] {
        assert!(judged(
            guard,
            doc! {"updatedFields": {"n": 1, "tenants": 1}, "removedFields": ["x"]}
        ));
    }
    for (guard, touched) in [
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
            assert!(!judged(guard, description.clone()), "{guard} {description}");
        }
    }
    // One that can't be read, or is not there, may have touched anything.
    assert!(!judged("tenant", doc! {"updatedFields": 1}));
    let bare = doc! {"documentKey": {"_id": 1}, "fullDocumentBeforeChange": {"tenant": "a"}};
    assert_eq!(judge(&of_a(), Operation::Update, &bare), None);
    assert!(judge(&of_a(), Operation::Delete, &bare).is_some());
}

#[test]
fn a_guard_on_the_key_alone_needs_no_document() {
    let residual = guarded(field("_id.tenant", Condition::Eq("a".into())));
    for (tenant, seen) in [("a", true), ("b", false)] {
        let event = doc! {"documentKey": {"_id": {"tenant": tenant}}};
        for operation in Operation::DOCUMENT {
            assert_eq!(judge(&residual, operation, &event).is_some(), seen);
        }
    }
    // Where it is not on the key alone, the key may still decide.
    let either = guarded(Predicate::AnyOf(vec![
        field("_id", Condition::Eq(1.into())),
        field("tenant", Condition::Eq("a".into())),
    ]));
    assert!(
        judge(
            &either,
            Operation::Delete,
            &doc! {"documentKey": {"_id": 1}}
        )
        .is_some()
    );
    assert!(
        judge(
            &either,
            Operation::Delete,
            &doc! {"documentKey": {"_id": 2}}
        )
        .is_none()
    );
    assert!(judge(&either, Operation::Delete, &doc! {}).is_none());
}

#[test]
fn an_event_about_no_document_passes_every_guard() {
    for operation in Operation::ALL {
        let found = judge(&of_a(), operation, &event(None, Some("b")));
        assert_eq!(found.is_some(), !operation.is_document(), "{operation:?}");
    }
}

/// Where a negation of what is unknown would be known to a guesser, it is not here.
#[test]
fn what_a_guard_denies_of_a_document_that_is_not_there_is_not_known() {
    for guard in [
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
            judge(&guarded(guard.clone()), Operation::Update, &bare),
            None,
            "{guard:?}"
        );
    }
}

/// How a change moved a document across the filter is told of what the guard lets through, and so tells
/// nothing of anything else.
#[test]
fn a_crossing_is_told_of_documents_within_the_guard() {
    let residual = Residual {
        filter: Some(field("status", Condition::Eq("paid".into()))),
        pre_images: true,
        ..of_a()
    };
    let moved = |before: Document, after: Document| {
        let event = doc! {"documentKey": {"_id": 1}, "fullDocumentBeforeChange": before, "fullDocument": after};
        judge(&residual, Operation::Update, &event)
    };
    let (new, paid) = (
        doc! {"tenant": "a", "status": "new"},
        doc! {"tenant": "a", "status": "paid"},
    );
    assert_eq!(moved(new.clone(), paid.clone()), Some(Crossing::Entered));
    assert_eq!(moved(paid.clone(), new), Some(Crossing::Left));
    assert_eq!(
        moved(doc! {"tenant": "b", "status": "new"}, paid.clone()),
        None
    );
    assert_eq!(moved(paid, doc! {"tenant": "b", "status": "new"}), None);
}

/// A pattern on a text that was made for it is given up, and that is no pass.
#[test]
fn a_guard_that_is_not_decided_lets_nothing_through() {
    let guard = Predicate::NoneOf(vec![field(
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
        judge(&guarded(guard.clone()), Operation::Insert, &event)
    };
    assert_eq!(judged(100), Some(Crossing::Untold));
    assert_eq!(judged(1 << 20), None);
}
