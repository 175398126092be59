//! The effect of the costliest allowed filter on other watches.

use std::time::Duration;

use crate::conversions::{eq, field};
use crate::support::orders::{ORDERS, id};
use crate::support::{Database, Figure, WatchStream, Weir, error_reason, eventually, tally};
use futures::future::join_all;
use mongodb::bson::doc;
use serde_json::json;
use tokio::time::Instant;
use tonic::Code;
use weir::pb::{self, field_filter::Operator, filter::Kind};

/// Regular expressions that keep thousands of states active at once: as many as a filter may have.
const COSTLY: [&str; 6] = [
    "[ab]*a[ab]{400}c",
    "a[ab]{200}c",
    "a.{0,200}b.{0,200}c.{0,200}z9",
    "(?:a.{1,900}q)",
    "(?:[ab]*a[ab]{400}c|b[ab]{300}d)",
    "([ab ]{0,300}a){2}9",
];

fn costly(policy: pb::MissingImagePolicy, database: &Database) -> pb::WatchRequest {
    let regex = |pattern: &str| {
        let pattern = pattern.to_owned();
        let options = String::new();
        field(
            "text",
            Operator::Regex(pb::RegexFilter { pattern, options }),
        )
    };
    let filters = COSTLY.map(regex).into();
    pb::WatchRequest {
        filters: vec![pb::Filter {
            kind: Some(Kind::AnyOf(pb::FilterGroup { filters })),
        }],
        missing_image_policy: policy.into(),
        feed_mode: pb::FeedMode::Shared.into(),
        ..database.watch_request(&[ORDERS])
    }
}

/// Text of two letters on which no automaton reaches the same state twice.
fn noise(bytes: usize) -> String {
    (0..bytes)
        .map(|_| if fastrand::bool() { 'a' } else { 'b' })
        .collect()
}

/// Matching takes linear time, and still took many seconds per megabyte on the task that serves all
/// watches of a feed.
#[tokio::test]
async fn a_costly_filter_does_not_starve_other_watches_of_its_feed() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let plain = pb::WatchRequest {
        filters: vec![eq("status", json!("paid"))],
        feed_mode: pb::FeedMode::Shared.into(),
        ..database.watch_request(&[ORDERS])
    };
    let mut bystander = weir.watch(plain).await;
    let mut deliver = weir
        .watch(costly(pb::MissingImagePolicy::Deliver, &database))
        .await;
    let mut drop_unknown = weir
        .watch(costly(pb::MissingImagePolicy::Drop, &database))
        .await;
    assert_eq!(
        weir.metrics().await.sum("weir_feeds"),
        1.0,
        "they share a feed"
    );

    let orders = database.collection(ORDERS);
    let texts: Vec<String> = (0..200).map(|_| noise(5_000)).collect();
    let documents = [
        doc! { "_id": 1, "status": "paid", "text": noise(1 << 20) },
        doc! { "_id": 2, "status": "paid", "text": texts },
        // Small enough to be evaluated; none of the patterns matches.
        doc! { "_id": 3, "status": "paid", "text": noise(30) },
        // And one that matches.
        doc! { "_id": 4, "status": "paid", "text": format!("a{}c", "b".repeat(200)) },
    ];
    for document in documents {
        let number = document.get_i32("_id").expect("a number");
        let begin = Instant::now();
        orders.insert_one(document).await.expect("an insert");
        assert_eq!(id(&bystander.next_change().await), number);
        println!("event {number} came after {:?}", begin.elapsed());
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{:?}",
            begin.elapsed()
        );
    }
    // The missing-image policy decides about documents that were not evaluated; short ones are
    // evaluated.
    for number in [1, 2, 4] {
        assert_eq!(id(&deliver.next_change().await), number);
    }
    assert_eq!(id(&drop_unknown.next_change().await), 4);
    tally(Figure::BadInputs, 4);
}

/// Filters that take long to compile, or much memory, delay no other watch and stay within a common
/// limit.
#[tokio::test]
async fn filters_that_are_costly_to_compile_share_a_limit() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let mut bystander = weir.watch(database.watch_request(&[ORDERS])).await;
    let request = |number: usize| {
        // Some 5 MiB of patterns that no other watch has.
        let patterns = (0..16).map(|part| {
            let pattern = format!("(?:a{{200}}){{60}}{number}_{part}");
            let options = String::new();
            field(
                "text",
                Operator::Regex(pb::RegexFilter { pattern, options }),
            )
        });
        pb::WatchRequest {
            filters: patterns.collect(),
            feed_mode: pb::FeedMode::Shared.into(),
            ..database.watch_request(&[ORDERS])
        }
    };
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(weir.client().await);
    }
    let asking = clients.into_iter().enumerate().map(|(client, mut grpc)| {
        let request = &request;
        async move {
            let mut open = Vec::new();
            for number in 0..8 {
                match WatchStream::open(&mut grpc, request(client * 8 + number)).await {
                    Ok(watch) => open.push(watch),
                    Err(status) => return (open, Some(status)),
                }
            }
            (open, None)
        }
    });
    let asked = join_all(asking);
    let watched = async {
        let orders = database.collection(ORDERS);
        let mut longest = Duration::ZERO;
        for number in 0..50 {
            let begin = Instant::now();
            orders
                .insert_one(doc! { "_id": number })
                .await
                .expect("an insert");
            assert_eq!(id(&bystander.next_change().await), number);
            longest = longest.max(begin.elapsed());
        }
        longest
    };
    let (asked, longest) = tokio::join!(asked, watched);
    let open: usize = asked.iter().map(|(open, _)| open.len()).sum();
    println!("{open} were opened, and an event took {longest:?} at the longest");
    assert!((10..64).contains(&open), "{open} were opened");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    let refused: Vec<_> = asked
        .iter()
        .filter_map(|(_, status)| status.as_ref())
        .collect();
    assert!(!refused.is_empty());
    for status in refused {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert_eq!(error_reason(status), "WATCH_LIMIT_EXCEEDED");
    }
    drop(asked);
    eventually("there is room again", async || {
        weir.try_watch(request(1000)).await.is_ok()
    })
    .await;
    tally(Figure::BadInputs, 64);
}
