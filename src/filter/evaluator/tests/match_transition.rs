use super::*;

fn paid() -> Predicate {
    field("status", Condition::Eq("paid".into()))
}

fn with_images(missing_image: MissingImage) -> Clauses {
    Clauses {
        missing_image,
        pre_images: true,
        ..residual(paid())
    }
}

fn event(before: Option<&str>, after: Option<&str>) -> Document {
    let mut event = doc! {"documentKey": {"_id": 1}};
    for (name, status) in [
        ("fullDocumentBeforeChange", before),
        ("fullDocument", after),
    ] {
        match status {
            None => {}
            Some("null") => drop(event.insert(name, Bson::Null)),
            Some(status) => drop(event.insert(name, doc! {"status": status})),
        }
    }
    event
}

#[test]
fn the_transition_follows_from_the_documents_before_and_after() {
    use MatchTransition::{Entered, Left, Stayed, Unspecified};
    use Operation::{Delete, Insert, Replace, Update};
    const P: Option<&str> = Some("paid");
    const N: Option<&str> = Some("new");
    const NULL: Option<&str> = Some("null");
    // Operation, before, after, the result with DROP, the result with DELIVER.
    for (operation, before, after, drop, deliver) in [
        (Insert, None, P, Some(Entered), Some(Entered)),
        (Insert, None, N, None, None),
        (Update, N, P, Some(Entered), Some(Entered)),
        (Update, P, P, Some(Stayed), Some(Stayed)),
        (Update, P, N, Some(Left), Some(Left)),
        (Update, N, N, None, None),
        (Replace, P, N, Some(Left), Some(Left)),
        // One document is enough to deliver, but not to know the transition.
        (Update, None, P, Some(Unspecified), Some(Unspecified)),
        (Update, NULL, P, Some(Unspecified), Some(Unspecified)),
        (Update, None, N, None, None),
        (Update, P, None, Some(Unspecified), Some(Unspecified)),
        (Update, N, NULL, None, Some(Unspecified)),
        (Update, None, None, None, Some(Unspecified)),
        // The document before the change decides for a delete.
        (Delete, P, None, Some(Left), Some(Left)),
        (Delete, N, None, None, None),
        (Delete, None, None, None, Some(Unspecified)),
        (Delete, NULL, None, None, Some(Unspecified)),
    ] {
        let event = event(before, after);
        for (policy, expected) in [(MissingImage::Drop, drop), (MissingImage::Deliver, deliver)] {
            let found = evaluate(&with_images(policy), operation, &event);
            assert_eq!(found, expected, "{operation:?} {event} {policy:?}");
        }
    }
}

#[test]
fn without_pre_images_or_without_a_filter_the_transition_is_unspecified() {
    let event = event(Some("new"), Some("paid"));
    let found = evaluate(&residual(paid()), Operation::Update, &event);
    assert_eq!(found, Some(MatchTransition::Unspecified));
    let unfiltered = Clauses {
        filter: None,
        ..with_images(MissingImage::Drop)
    };
    let found = evaluate(&unfiltered, Operation::Update, &event);
    assert_eq!(found, Some(MatchTransition::Unspecified));
}

#[test]
fn a_pre_image_is_ignored_by_a_watch_that_did_not_request_it() {
    let left = event(Some("paid"), Some("new"));
    assert_eq!(evaluate(&residual(paid()), Operation::Update, &left), None);
    let deleted = event(Some("paid"), None);
    assert_eq!(
        evaluate(&residual(paid()), Operation::Delete, &deleted),
        None
    );
}

#[test]
fn the_id_is_known_before_and_after_every_change() {
    let transition_for = |value: i32, operation, event: &Document| {
        let residual = Clauses {
            pre_images: true,
            ..residual(field("_id", Condition::Eq(value.into())))
        };
        evaluate(&residual, operation, event)
    };
    let bare = event(None, None);
    assert_eq!(
        transition_for(1, Operation::Update, &bare),
        Some(MatchTransition::Stayed)
    );
    assert_eq!(
        transition_for(1, Operation::Delete, &bare),
        Some(MatchTransition::Left)
    );
    assert_eq!(transition_for(2, Operation::Delete, &bare), None);
    let inserted = event(None, Some("new"));
    assert_eq!(
        transition_for(1, Operation::Insert, &inserted),
        Some(MatchTransition::Entered)
    );
}

#[test]
fn changed_has_the_same_value_before_and_after() {
    let residual = Clauses {
        filter: Some(
            Predicate::AllOf(vec![field("status", Condition::Changed(true)), paid()]).into(),
        ),
        ..with_images(MissingImage::Drop)
    };
    let mut event = event(Some("new"), Some("paid"));
    event.insert(
        "updateDescription",
        doc! {"updatedFields": {"status": "paid"}},
    );
    let found = evaluate(&residual, Operation::Update, &event);
    assert_eq!(found, Some(MatchTransition::Entered));
    event.insert("updateDescription", doc! {"updatedFields": {"note": "x"}});
    assert_eq!(evaluate(&residual, Operation::Update, &event), None);
}

#[test]
fn operations_are_checked_first_and_filters_apply_to_document_operations_only() {
    let residual = Clauses {
        operations: Some([Operation::Update, Operation::Drop].into()),
        ..residual(paid())
    };
    let paid = event(None, Some("paid"));
    let passes = |operation| evaluate(&residual, operation, &paid).is_some();
    assert!(passes(Operation::Update));
    assert!(!passes(Operation::Insert));
    assert!(passes(Operation::Drop));
    assert!(!passes(Operation::Rename));
    assert!(evaluate(&Clauses::default(), Operation::Other, &doc! {}).is_some());
}
