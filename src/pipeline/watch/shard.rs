//! The validation of a request's consumer shard.

use crate::model::{Findings, Shard};
use crate::pb;

/// Returns the shard of a request. `None` if it has none, and if it is the only one of its kind, which gets all
/// events.
pub(super) fn shard(
    requested: Option<pb::ConsumerShard>,
    has_pipeline: bool,
    findings: &mut Findings,
) -> Option<Shard> {
    let pb::ConsumerShard { index, count } = requested?;
    if has_pipeline {
        // The shard is that of the event as it leaves MongoDB, and a stage may change the key in it.
        findings.invalid(
            "shard",
            "is set together with pipeline, whose stages may change the document key; leave one of them out",
        );
    }
    let max = Shard::MAX_COUNT;
    if !(1..=u32::from(max)).contains(&count) {
        findings.invalid(
            "shard.count",
            format!("is {count}; use the number of consumers, 1 to {max}"),
        );
    } else if index >= count {
        findings.invalid(
            "shard.index",
            match count {
                1 => format!("is {index}; with 1 consumer, use 0"),
                _ => format!("is {index}; with {count} consumers, use 0 to {}", count - 1),
            },
        );
    }
    Shard::new(u16::try_from(index).ok()?, u16::try_from(count).ok()?)
}
