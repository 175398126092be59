use super::*;

fn paid() -> Predicate {
    field("status", Condition::Eq("paid".into()))
}

fn with_images(missing_image: MissingImage) -> Residual {
    Residual {
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
fn a_change_is_told_by_the_documents_on_both_sides() {
    use Crossing::{Entered, Left, Stayed, Untold};
    use Operation::{Delete, Insert, Replace, Update};
    const P: Option<&str> = Some("paid");
    const N: Option<&str> = Some("new");
    const NULL: Option<&str> = Some("null");
    // Operation, before, after, what DROP delivers, what DELIVER delivers.
    for (operation, before, after, drop, deliver) in [
        (Insert, None, P, Some(Entered), Some(Entered)),
        (Insert, None, N, None, None),
        (Update, N, P, Some(Entered), Some(Entered)),
        (Update, P, P, Some(Stayed), Some(Stayed)),
        (Update, P, N, Some(Left), Some(Left)),
        (Update, N, N, None, None),
        (Replace, P, N, Some(Left), Some(Left)),
        // One side alone delivers, and tells nothing.
        (Update, None, P, Some(Untold), Some(Untold)),
        (Update, NULL, P, Some(Untold), Some(Untold)),
        (Update, None, N, None, None),
        (Update, P, None, Some(Untold), Some(Untold)),
        (Update, N, NULL, None, Some(Untold)),
        (Update, None, None, None, Some(Untold)),
        // A delete is judged by what it deleted.
        (Delete, P, None, Some(Left), Some(Left)),
        (Delete, N, None, None, None),
        (Delete, None, None, None, Some(Untold)),
        (Delete, NULL, None, None, Some(Untold)),
    ] {
        let event = event(before, after);
        for (policy, expected) in [(MissingImage::Drop, drop), (MissingImage::Deliver, deliver)] {
            let found = judge(&with_images(policy), operation, &event);
            assert_eq!(found, expected, "{operation:?} {event} {policy:?}");
        }
    }
}

#[test]
fn without_pre_images_or_without_a_filter_nothing_is_told() {
    let event = event(Some("new"), Some("paid"));
    let found = judge(&residual(paid()), Operation::Update, &event);
    assert_eq!(found, Some(Crossing::Untold));
    let unfiltered = Residual {
        filter: None,
        ..with_images(MissingImage::Drop)
    };
    let found = judge(&unfiltered, Operation::Update, &event);
    assert_eq!(found, Some(Crossing::Untold));
}

/// The document before the change counts only for who asked for it.
#[test]
fn a_document_before_the_change_does_not_matter_to_who_did_not_ask_for_it() {
    let left = event(Some("paid"), Some("new"));
    assert_eq!(judge(&residual(paid()), Operation::Update, &left), None);
    let deleted = event(Some("paid"), None);
    assert_eq!(judge(&residual(paid()), Operation::Delete, &deleted), None);
}

#[test]
fn an_id_is_known_on_both_sides_of_every_change() {
    let judged = |value: i32, operation, event: &Document| {
        let residual = Residual {
            pre_images: true,
            ..residual(field("_id", Condition::Eq(value.into())))
        };
        judge(&residual, operation, event)
    };
    let bare = event(None, None);
    assert_eq!(judged(1, Operation::Update, &bare), Some(Crossing::Stayed));
    assert_eq!(judged(1, Operation::Delete, &bare), Some(Crossing::Left));
    assert_eq!(judged(2, Operation::Delete, &bare), None);
    let inserted = event(None, Some("new"));
    assert_eq!(
        judged(1, Operation::Insert, &inserted),
        Some(Crossing::Entered)
    );
}

#[test]
fn what_was_changed_is_a_fact_of_both_sides() {
    let residual = Residual {
        filter: Some(Predicate::AllOf(vec![
            field("status", Condition::Changed(true)),
            paid(),
        ])),
        ..with_images(MissingImage::Drop)
    };
    let mut event = event(Some("new"), Some("paid"));
    event.insert(
        "updateDescription",
        doc! {"updatedFields": {"status": "paid"}},
    );
    let found = judge(&residual, Operation::Update, &event);
    assert_eq!(found, Some(Crossing::Entered));
    event.insert("updateDescription", doc! {"updatedFields": {"note": "x"}});
    assert_eq!(judge(&residual, Operation::Update, &event), None);
}

#[test]
fn operations_choose_first_and_filters_judge_documents_only() {
    let residual = Residual {
        operations: Some([Operation::Update, Operation::Drop].into()),
        ..residual(paid())
    };
    let paid = event(None, Some("paid"));
    let passes = |operation| judge(&residual, operation, &paid).is_some();
    assert!(passes(Operation::Update));
    assert!(!passes(Operation::Insert));
    assert!(passes(Operation::Drop));
    assert!(!passes(Operation::Rename));
    assert!(judge(&Residual::nothing(), Operation::Other, &doc! {}).is_some());
}
