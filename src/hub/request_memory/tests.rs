use super::*;
use crate::pipeline::fixtures::{field, filtered, watch};

const LIMIT: usize = 16 << 20;

/// A watch with a list of this many numbers, which starts at one that no other list has.
fn with_list(first: u32, len: u32, caller: &str) -> Watch {
    let values = (first..first + len).map(|number| prost_types::Value {
        kind: Some(prost_types::value::Kind::NumberValue(f64::from(number))),
    });
    let list = prost_types::ListValue {
        values: values.collect(),
    };
    let operator = crate::pb::field_filter::Operator::In(list);
    let mut watch = watch(filtered(vec![field("a", operator)]));
    if !caller.is_empty() {
        watch.caller = Caller::Principal(caller.into());
    }
    watch
}

fn memory() -> (Arc<RequestMemory>, Arc<MemoryBudget>) {
    let budget = MemoryBudget::new(LIMIT);
    let memory = RequestMemory::new(LIMIT, Arc::clone(&budget), &Metrics::new());
    (memory, budget)
}

fn is_empty(memory: &RequestMemory) -> bool {
    let table = lock(&memory.table);
    table.used == 0 && table.shapes.is_empty() && table.by_principal.is_empty()
}

#[test]
fn equal_watches_keep_one_filter_and_the_last_of_them_gives_it_back() {
    let (memory, budget) = memory();
    let mut first = with_list(0, 1_000, "");
    let held_first = memory.hold(&mut first).expect("there is room");
    let one = budget.used();
    assert!((11_000..40_000).contains(&one), "{one} bytes");
    let mut second = with_list(0, 1_000, "jwt:a");
    let held_second = memory.hold(&mut second).expect("there is room");
    let both = budget.used();
    assert!(both - one < 500, "{both} bytes");
    let place = |watch: &Watch| watch.filter.as_ref().map(crate::filter::Filter::address);
    assert_eq!(place(&first), place(&second), "they share the filter");
    drop(held_first);
    assert_eq!(budget.used(), one);
    drop(held_second);
    assert_eq!(budget.used(), 0);
    assert!(is_empty(&memory));
}

#[test]
fn what_does_not_fit_is_refused_and_equal_watches_are_still_admitted() {
    let (memory, budget) = memory();
    let mut held = Vec::new();
    let refused = loop {
        let first = u32::try_from(held.len()).expect("few") * 1_000;
        match memory.hold(&mut with_list(first, 1_000, "")) {
            Ok(one) => held.push(one),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.reason(), "WATCH_LIMIT_EXCEEDED");
    assert!(refused.to_string().contains("4 MiB"), "{refused}");
    assert!(budget.used() <= LIMIT / PART_OF_BUDGET);
    assert!(held.len() > 100, "{} were admitted", held.len());
    // The filter is there already, and a small one is never refused.
    let equal = with_list(0, 1_000, "");
    let small = watch(filtered(vec![crate::pipeline::fixtures::eq("a", 1)]));
    for _ in 0..1_000 {
        held.push(memory.hold(&mut equal.clone()).expect("an equal one"));
        held.push(memory.hold(&mut small.clone()).expect("a small one"));
    }
    held.clear();
    assert!(is_empty(&memory) && budget.used() == 0);
}

#[test]
fn one_principal_gets_half_and_pays_for_what_it_shares_with_others() {
    let (memory, _) = memory();
    let fill = |caller: &str, from: u32| {
        let mut held = Vec::new();
        loop {
            let first = from + u32::try_from(held.len()).expect("few") * 1_000;
            match memory.hold(&mut with_list(first, 1_000, caller)) {
                Ok(one) => held.push(one),
                Err(error) => return (held, error),
            }
        }
    };
    let (first, error) = fill("jwt:a", 0);
    assert!(error.to_string().contains("this principal"), "{error}");
    assert!(error.to_string().contains("2048 KiB"), "{error}");
    // The same lists: nothing more is kept, and yet this principal has its own share of them.
    let used = lock(&memory.table).used;
    let (second, error) = fill("jwt:b", 0);
    assert!(error.to_string().contains("this principal"), "{error}");
    assert_eq!(first.len(), second.len());
    assert!(lock(&memory.table).used < used + (64 << 10));
    // Another one still has room.
    let (third, _) = fill("jwt:c", 1_000_000);
    assert!(third.len() > first.len() / 2, "{}", third.len());
    drop((first, second, third));
    assert!(is_empty(&memory));
}

#[test]
fn a_feeds_plan_takes_from_the_same_memory() {
    let (memory, budget) = memory();
    let plan = Plan::dedicated(&with_list(0, 1_000, ""));
    let mut held = Vec::new();
    while let Some(one) = memory.hold_plan(&plan) {
        held.push(one);
    }
    assert!(memory.hold(&mut with_list(0, 1_000, "")).is_err());
    assert!(budget.used() <= LIMIT / PART_OF_BUDGET && held.len() > 100);
    drop(held);
    assert_eq!(budget.used(), 0);
}

/// It is never refused.
#[test]
fn a_watch_of_a_tenant_with_a_common_filter_is_not_charged() {
    let mut watch = watch(filtered(vec![crate::pipeline::fixtures::eq(
        "order.status",
        "paid",
    )]));
    let tenant = crate::pipeline::fixtures::eq("tenant", "00000000-0000-0000-0000-000000000000");
    let tenant = crate::filter::Predicate::from_filters(vec![tenant]).expect("a filter");
    watch.row_filter = Some(tenant.into());
    let bytes = watch.shape().heap_bytes();
    assert!(bytes <= UNCHARGED_BYTES, "{bytes} bytes");
}
