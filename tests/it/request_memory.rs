//! What open watches keep of their requests is within a part of `--memory-limit`, is kept once for equal watches, and
//! is given back.

use crate::support::orders::{ORDERS, id, insert};
use crate::support::{
    Database, Figure, ServeProcess, WatchStream, error_reason, eventually, tally,
};
use tonic::Code;
use weir::pb;

const MIB: u64 = 1 << 20;
/// The smallest limit. Requests may take a quarter of it.
const LIMIT: &str = "16MiB";
const PART: u64 = 4 * MIB;
/// The lists of a watch, each of 1,000 numbers of 11 bytes in the request.
const LISTS: u32 = 5;

fn number(number: u32) -> prost_types::Value {
    prost_types::Value {
        kind: Some(prost_types::value::Kind::NumberValue(number.into())),
    }
}

/// A watch with lists that no other number has.
fn with_lists(database: &Database, watch: u32) -> pb::WatchRequest {
    let lists = (0..LISTS).map(|list| {
        let first = (watch * LISTS + list) * 1_000;
        let values = (first..first + 1_000).map(number).collect();
        let list = prost_types::ListValue { values };
        pb::Filter {
            kind: Some(pb::filter::Kind::Field(pb::FieldFilter {
                path: "customer".to_owned(),
                operator: Some(pb::field_filter::Operator::In(list)),
            })),
        }
    });
    pb::WatchRequest {
        filters: lists.collect(),
        feed_mode: pb::FeedMode::Shared.into(),
        ..database.watch_request(&[ORDERS])
    }
}

#[tokio::test]
async fn filters_take_a_part_of_the_memory_and_equal_ones_are_kept_once() {
    let database = Database::options().start().await;
    let weir = ServeProcess::start(database.uri(), &["--memory-limit", LIMIT]).await;
    let mut grpc = weir.client().await;
    let request = database.watch_request(&[ORDERS]);
    let bystander = WatchStream::open(&mut grpc, request).await;
    let mut bystander = bystander.expect("a watch without filters");
    let used = async || weir.metrics().await.sum("weir_memory_used_bytes") as u64;

    // Twice, so that what the first round allocated once is not counted in the second.
    let mut grown = 0;
    for round in 0..2 {
        let before = (used().await, weir.process.resident());
        let mut open = Vec::new();
        let refused = loop {
            let watch = u32::try_from(open.len()).expect("few watches");
            match WatchStream::open(&mut grpc, with_lists(&database, watch)).await {
                Ok(opened) => open.push(opened),
                Err(status) => break status,
            }
        };
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert_eq!(error_reason(&refused), "WATCH_LIMIT_EXCEEDED");
        assert!(refused.message().contains("--memory-limit"), "{refused:?}");
        let own = u64::from(LISTS) * 11_000;
        assert!(open.len() as u64 >= PART / own / 3, "{}", open.len());
        let held = used().await - before.0;
        assert!(held <= PART, "{held} bytes");
        grown = weir.process.resident().saturating_sub(before.1);
        println!("{} watches, {held} bytes counted, {grown} more", open.len());

        // Equal ones keep nothing more.
        for _ in 0..50 {
            let equal = WatchStream::open(&mut grpc, with_lists(&database, 0)).await;
            open.push(equal.expect("an equal watch"));
        }
        assert!(used().await - before.0 <= PART);
        // So do small ones, and they are never refused.
        let small = WatchStream::open(&mut grpc, database.watch_request(&[ORDERS])).await;
        open.push(small.expect("a watch without filters"));
        // Events have their room.
        insert(&database, round).await;
        assert_eq!(id(&bystander.next_change().await), round);

        let opened = open.len() as u64;
        drop(open);
        eventually("everything is given back", async || {
            let metrics = weir.metrics().await;
            metrics.sum("weir_watches") == 1.0 && used().await < MIB
        })
        .await;
        tally(Figure::WatchesHeld, opened);
    }
    assert!(grown < 2 * PART, "{grown} bytes for {PART}");
    let again = WatchStream::open(&mut grpc, with_lists(&database, 1_000)).await;
    again.expect("there is room again");
}
