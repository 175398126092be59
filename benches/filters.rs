//! The cost of matching an event against 10, 1,000 and 10,000 filters: through an index, and by
//! evaluating one filter after another. Each event passes exactly one filter. Then the same for 1,000 consumer shards,
//! the look-up in a list of 1,000 values, and the cost of one event on its way: reading it, evaluating one filter, and
//! encoding it.
//!
//! `cargo bench --bench filters`

use std::hint::black_box;
use std::time::Duration;

use bson::{Bson, doc};
use tokio::time::Instant;
use weir::filter::EventFields;
use weir::filter::{Clauses, Condition, Evaluator, FilterIndex, Predicate};
use weir::model::{MissingImage, Operation, Shard};
use weir::pipeline::{Plan, RequestLimits, Watch};
use weir::source::Event;
use weir::wire::{self, TokenContext};

/// The minimum duration of each measurement.
const LONG_ENOUGH: Duration = Duration::from_millis(500);
/// The best of this many runs counts, as other programs run on this machine too.
const RUNS: usize = 5;

fn residual(number: i32) -> Clauses {
    Clauses {
        operations: None,
        filter: Some(
            Predicate::Field {
                path: "customer.id".into(),
                op: Condition::Eq(Bson::String(format!("customer-{number:06}"))),
            }
            .into(),
        ),
        missing_image: MissingImage::Deliver,
        pre_images: false,
        row_filter: None,
        shard: None,
    }
}

/// An insert of about 1 KiB that passes the filter with this number.
fn event(number: i32) -> Vec<u8> {
    let lines: Vec<Bson> = (0..8)
        .map(|line| doc! {"sku": format!("sku-{line}"), "quantity": line, "price": 9.99}.into())
        .collect();
    let event = doc! {
        "_id": {"_data": "82".repeat(40)},
        "operationType": "insert",
        "documentKey": {"_id": number},
        "ns": {"db": "shop", "coll": "orders"},
        "fullDocument": {
            "_id": number,
            "status": "paid",
            "lines": lines,
            "note": "x".repeat(300),
            "customer": {"name": "somebody", "id": format!("customer-{number:06}")},
        },
    };
    event.to_vec().expect("an event is BSON")
}

/// Nanoseconds per event.
fn measure(events: &[Vec<u8>], mut pass: impl FnMut(&EventFields<'_>) -> u64) -> f64 {
    time(events, |event| {
        pass(&EventFields::read(Operation::Insert, event))
    })
}

/// Nanoseconds for each event. `pass` returns the number of filters that it passes, or 1.
fn time(events: &[Vec<u8>], mut pass: impl FnMut(&[u8]) -> u64) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        let (mut seen, mut passed) = (0_u64, 0_u64);
        while start.elapsed() < LONG_ENOUGH {
            for event in events {
                passed += pass(black_box(event));
                seen += 1;
            }
        }
        let nanoseconds = start.elapsed().as_nanos() as f64 / seen as f64;
        assert_eq!(passed, seen, "each event passes one filter");
        best = best.min(nanoseconds);
    }
    best
}

fn main() {
    println!(
        "{:>8} {:>16} {:>16}",
        "filters", "index ns/event", "each ns/event"
    );
    let mut figures = Vec::new();
    for count in [10, 1_000, 10_000] {
        let residuals: Vec<Clauses> = (0..count).map(residual).collect();
        // The same number of different events in each case, spread over all filters.
        let events: Vec<Vec<u8>> = (0..10).map(|part| event(part * count / 10)).collect();

        let mut index = FilterIndex::new();
        for (number, residual) in residuals.iter().enumerate() {
            index.insert(number, residual);
        }
        let indexed = measure(&events, |event_fields| {
            let mut passed = 0;
            index.matches(event_fields, |number, transition| {
                black_box((number, transition));
                passed += 1;
            });
            passed
        });

        let evaluators: Vec<Evaluator> = residuals.iter().map(Evaluator::new).collect();
        let each = measure(&events, |event_fields| {
            evaluators
                .iter()
                .filter(|evaluator| black_box(evaluator.evaluate(event_fields)).is_some())
                .count() as u64
        });
        println!("{count:>8} {indexed:>16.0} {each:>16.0}");
        figures.push(indexed);
    }
    if let [few, .., many] = figures[..] {
        println!(
            "10,000 filters in an index cost {:.2} times what 10 do",
            many / few
        );
    }
    measure_shards();
    measure_lists();
    measure_steps();
}

/// Prints what it costs to find the value of an event in a list of 1,000, by the kind of its values.
fn measure_lists() {
    use prost_types::value::Kind;
    type Maker = fn(i32) -> Kind;
    let number = |number: i32| Kind::NumberValue(f64::from(number) * 7.0);
    let fraction = |number: i32| Kind::NumberValue(f64::from(number) + 0.25);
    let text = |number: i32| Kind::StringValue(format!("customer-{number:06}"));
    let makers: [(&str, Maker); 3] = [
        ("integers", number),
        ("doubles", fraction),
        ("strings", text),
    ];
    for (name, make) in makers {
        let values = (0..1_000).map(|number| prost_types::Value {
            kind: Some(make(number)),
        });
        let list = prost_types::ListValue {
            values: values.collect(),
        };
        let request = weir::pb::WatchRequest {
            filters: vec![weir::pb::Filter {
                kind: Some(weir::pb::filter::Kind::Field(weir::pb::FieldFilter {
                    path: "value".to_owned(),
                    operator: Some(weir::pb::field_filter::Operator::In(list)),
                })),
            }],
            ..weir::pb::WatchRequest::default()
        };
        let watch = Watch::from_request(request, &deployment_allowed()).expect("it is valid");
        let evaluator = Evaluator::new(&watch.shared_residual());
        let events: Vec<Vec<u8>> = (0..1_000)
            .map(|number| {
                let value = match make(number) {
                    Kind::NumberValue(number) => Bson::Double(number),
                    Kind::StringValue(text) => Bson::String(text),
                    _ => Bson::Null,
                };
                let event = doc! {"operationType": "insert", "fullDocument": {"value": value}};
                event.to_vec().expect("an event is BSON")
            })
            .collect();
        let found = measure(&events, |event_fields| {
            u64::from(evaluator.evaluate(event_fields).is_some())
        });
        println!("a list of 1,000 {name}: {found:.0} ns/event");
    }
}

/// Prints what an event costs with consumer shards: one of them, and all 1,000, in an index and without it. The events are
/// those of one shard. A filter that passes everything shows what the rest of the measurement costs.
fn measure_shards() {
    const COUNT: u16 = 1_000;
    let of_shard = |index| Clauses {
        shard: Shard::new(index, COUNT),
        ..Clauses::default()
    };
    let own = Shard::new(7, COUNT).expect("there is such a shard");
    let events: Vec<Vec<u8>> = (0..)
        .filter(|number| {
            let key = doc! {"_id": number}.to_vec().expect("a key is BSON");
            weir::filter::id_hash(&key).is_some_and(|hash| own.contains(hash))
        })
        .take(10)
        .map(event)
        .collect();
    let in_index = |residuals: &[Clauses]| {
        let mut index = FilterIndex::new();
        for (number, residual) in residuals.iter().enumerate() {
            index.insert(number, residual);
        }
        measure(&events, |event_fields| {
            let mut passed = 0;
            index.matches(event_fields, |number, transition| {
                black_box((number, transition));
                passed += 1;
            });
            passed
        })
    };
    let all: Vec<Clauses> = (0..COUNT).map(of_shard).collect();
    let unsharded = in_index(&[Clauses::default()]);
    let one = in_index(&[of_shard(own.index())]);
    let thousand = in_index(&all);
    let evaluators: Vec<Evaluator> = all.iter().map(Evaluator::new).collect();
    let each = measure(&events, |event_fields| {
        evaluators
            .iter()
            .filter(|evaluator| black_box(evaluator.evaluate(event_fields)).is_some())
            .count() as u64
    });
    println!(
        "shards: {unsharded:.0} ns/event without one, {one:.0} with one, {thousand:.0} with 1,000 in an index, {each:.0} \
         with 1,000 evaluated one by one"
    );
    println!(
        "1,000 shards in an index cost {:.2} times what one does, and {:.3} times what 1,000 evaluations do",
        thousand / one,
        thousand / each
    );
}

/// Prints what the steps of one event cost, up to its encoding as BSON.
fn measure_steps() {
    let raw = event(0);
    let parse = |raw: &[u8]| Event::parse(raw, 0..raw.len()).expect("it is an event");
    let parsed = parse(&raw);
    let evaluator = Evaluator::new(&residual(0));
    let watch = Watch::from_request(weir::pb::WatchRequest::default(), &deployment_allowed())
        .expect("it is valid");
    let token_context = TokenContext::new("rs", &Plan::shared(&watch));
    let events = [raw.clone()];
    let read = time(&events, |raw| {
        black_box(parse(raw));
        1
    });
    let evaluated = time(&events, |raw| {
        let fields = EventFields::new(parsed.operation, raw, &parsed.index);
        u64::from(evaluator.evaluate(&fields).is_some())
    });
    let encoded = time(&events, |raw| {
        let rendering = &watch.rendering;
        wire::encode(raw, [&parsed], &token_context, rendering, |chunk| chunk).len() as u64
    });
    println!("one event: {read:.0} ns to read, {evaluated:.0} to evaluate, {encoded:.0} to encode");
}

fn deployment_allowed() -> RequestLimits {
    RequestLimits {
        allow_deployment: true,
        ..RequestLimits::default()
    }
}
