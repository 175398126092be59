use super::*;

fn sharded(index: u32, count: u32) -> pb::WatchRequest {
    pb::WatchRequest {
        shard: Some(pb::ConsumerShard { index, count }),
        ..request()
    }
}

#[test]
fn a_shard_is_an_index_below_a_count_of_1_to_1024() {
    assert_eq!(watch(sharded(1, 2)).shard, Shard::new(1, 2));
    assert_eq!(watch(sharded(1_023, 1_024)).shard, Shard::new(1_023, 1_024));
    assert_refused(
        sharded(0, 0),
        "shard.count",
        "is 0; use the number of consumers, 1 to 1024",
    );
    assert_refused(sharded(0, 1_025), "shard.count", "is 1025");
    assert_refused(sharded(u32::MAX, u32::MAX), "shard.count", "1 to 1024");
    assert_refused(sharded(1, 1), "shard.index", "is 1; with 1 consumer, use 0");
    assert_refused(
        sharded(5, 5),
        "shard.index",
        "is 5; with 5 consumers, use 0 to 4",
    );
    assert_refused(sharded(1 << 16, 2), "shard.index", "use 0 to 1");
}

#[test]
fn a_shard_and_client_stages_exclude_each_other() {
    let both = pb::WatchRequest {
        pipeline: vec![pb::PipelineStage {
            kind: Some(pb::pipeline_stage::Kind::Json(
                r#"{"$match": {"operationType": "insert"}}"#.to_owned(),
            )),
        }],
        ..sharded(0, 2)
    };
    let refused = violations(both);
    assert!(
        refused
            .iter()
            .any(|(field, text)| field == "shard" && text.contains("pipeline")),
        "{refused:?}"
    );
}

#[test]
fn a_single_shard_is_the_same_as_none() {
    let (single, none) = (watch(sharded(0, 1)), watch(request()));
    assert_eq!(single, none);
    assert_eq!(single.shared_residual(), none.shared_residual());
    assert!(single.shared_residual().passes_everything());
}
