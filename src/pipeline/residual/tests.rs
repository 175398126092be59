use super::*;
use crate::model::{MissingImage, Shard};
use crate::pb;
use crate::pb::field_filter::Operator;
use crate::pipeline::Plan;
use crate::pipeline::fixtures::*;

fn with_images(filters: Vec<pb::Filter>) -> pb::WatchRequest {
    pb::WatchRequest {
        full_document_before_change: pb::FullDocumentBeforeChange::WhenAvailable.into(),
        ..filtered(filters)
    }
}

fn changed() -> pb::Filter {
    field("a", Operator::Changed(true))
}

#[test]
fn the_full_residual_holds_all_conditions_of_the_request() {
    let requested = watch(pb::WatchRequest {
        operations: vec![pb::OperationType::Insert.into()],
        missing_image_policy: pb::MissingImagePolicy::Drop.into(),
        ..with_images(vec![eq("a", 1)])
    });
    let residual = requested.shared_residual();
    assert_eq!(residual.operations, requested.operations);
    assert_eq!(residual.filter, requested.filter);
    assert_eq!(residual.missing_image, MissingImage::Drop);
    assert!(residual.pre_images);
    assert!(!residual.passes_everything());
    assert!(watch(request()).shared_residual().passes_everything());
}

#[test]
fn a_watch_without_document_operations_has_no_filter_to_evaluate() {
    let drops = watch(pb::WatchRequest {
        operations: vec![pb::OperationType::Drop.into()],
        ..filtered(vec![eq("a", 1)])
    });
    assert_eq!(drops.shared_residual().filter, None);
    assert!(!drops.shared_residual().passes_everything());
    assert!(drops.dedicated_residual().passes_everything());
}

#[test]
fn a_dedicated_feed_leaves_only_what_a_pipeline_cannot_express() {
    for (request, whole) in [
        (request(), false),
        (filtered(vec![eq("a", 1)]), false),
        (filtered(vec![any_of(vec![eq("a", 1), changed()])]), true),
        (with_images(vec![]), false),
        (with_images(vec![eq("a", 1)]), true),
        (with_images(vec![eq("_id", 1)]), true),
    ] {
        let watch = watch(request);
        let expected = if whole {
            watch.shared_residual()
        } else {
            Residual::pass_all()
        };
        assert_eq!(watch.dedicated_residual(), expected, "{watch:?}");
    }
}

#[test]
fn the_shard_is_left_to_the_process_on_both_kinds_of_feed() {
    let sharded = |index, operations: &[pb::OperationType], filters| {
        watch(pb::WatchRequest {
            shard: Some(pb::ConsumerShard { index, count: 3 }),
            operations: operations.iter().map(|&it| it.into()).collect(),
            ..filtered(filters)
        })
    };
    let first = sharded(0, &[], vec![eq("a", 1)]);
    let second = sharded(1, &[], vec![eq("a", 1)]);
    for residual in [first.shared_residual(), first.dedicated_residual()] {
        assert_eq!(residual.shard, Shard::new(0, 3));
        assert!(!residual.passes_everything());
    }
    assert_ne!(first.dedicated_residual(), second.dedicated_residual());
    // So the consumers share a change stream of either kind.
    for plan in [Plan::dedicated, Plan::shared] {
        assert_eq!(plan(&first), plan(&second));
        assert_eq!(plan(&first).fingerprint(), plan(&second).fingerprint());
    }
    // Events of these operations are about no document, so every consumer gets them.
    let drops = sharded(0, &[pb::OperationType::Drop], vec![]);
    assert_eq!(drops.shared_residual().shard, None);
    let others = sharded(0, &[pb::OperationType::Other], vec![]);
    assert_eq!(others.shared_residual().shard, Shard::new(0, 3));
}
