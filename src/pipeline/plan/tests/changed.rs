//! Plans with `changed`: the stream contains every event that the evaluator may pass.

use bson::{Bson, Document, doc};

use super::{documents_by, matches};
use crate::pb;
use crate::pb::field_filter::Operator;
use crate::pipeline::fixtures::*;

fn changed() -> pb::Filter {
    field("a", Operator::Changed(true))
}

fn dropping(filters: Vec<pb::Filter>) -> pb::WatchRequest {
    pb::WatchRequest {
        missing_image_policy: pb::MissingImagePolicy::Drop as i32,
        ..filtered(filters)
    }
}

fn with_after(conditions: Document) -> Document {
    doc! { "$and": [{ "fullDocument": { "$ne": Bson::Null } }, conditions] }
}

fn without_after() -> Document {
    doc! { "fullDocument": { "$eq": Bson::Null } }
}

#[test]
fn changed_alone_passes_every_event() {
    for filters in [
        vec![changed()],
        vec![field("_id", Operator::Changed(true))],
        vec![field("a", Operator::Changed(false))],
        vec![none_of(vec![changed()])],
        vec![any_of(vec![changed(), eq("b", 1)])],
        vec![none_of(vec![all_of(vec![changed(), eq("b", 1)])])],
    ] {
        assert_eq!(matches(filtered(filters.clone())), Vec::<Document>::new());
        assert_eq!(matches(dropping(filters)), Vec::<Document>::new());
    }
}

#[test]
fn changed_adds_nothing_to_other_conditions() {
    let b = doc! { "fullDocument.b": { "$eq": 1 } };
    for filters in [
        vec![changed(), eq("b", 1)],
        vec![none_of(vec![
            field("a", Operator::Changed(false)),
            none_of(vec![eq("b", 1)]),
        ])],
    ] {
        let [condition] = &matches(dropping(filters.clone()))[..] else {
            panic!("expected one stage for {filters:?}");
        };
        let alternatives = condition.get_array("$or").unwrap();
        assert_eq!(alternatives.len(), 2, "{condition}");
    }
    assert_eq!(
        matches(filtered(vec![changed(), eq("b", 1)])),
        [documents_by(vec![with_after(b.clone()), without_after()])]
    );
    // Without the document, `b` is unknown, so the event is dropped.
    assert_eq!(
        matches(dropping(vec![changed(), eq("b", 1)])),
        [documents_by(vec![with_after(b)])]
    );
}

/// DROP refuses what is unknown without a document, but not what only the pipeline cannot express.
#[test]
fn changed_passes_possible_matches_even_if_missing_images_are_dropped() {
    let id = doc! { "documentKey._id": { "$eq": 7 } };
    assert_eq!(
        matches(dropping(vec![changed(), eq("_id", 7)])),
        [
            documents_by(vec![id.clone()]),
            documents_by(vec![
                with_after(id.clone()),
                doc! { "$and": [without_after(), id] },
            ]),
        ]
    );
}

#[test]
fn changed_counts_as_false_under_a_negation() {
    let nor = |condition: Document| doc! { "$nor": [condition] };
    assert_eq!(
        matches(dropping(vec![none_of(vec![changed(), eq("b", 1)])])),
        [documents_by(vec![with_after(nor(
            doc! { "fullDocument.b": { "$eq": 1 } }
        ))])]
    );
}
