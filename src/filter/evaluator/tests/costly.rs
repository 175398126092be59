//! Filters that may take longer than others should wait.

use super::*;

fn regex(pattern: &str) -> Predicate {
    field(
        "text",
        Condition::Regex {
            pattern: pattern.into(),
            options: String::new(),
        },
    )
}

/// Text of two letters, on which no automaton reaches the same state twice.
fn noise(letters: usize) -> String {
    let letter = |_| if fastrand::bool() { 'a' } else { 'b' };
    (0..letters).map(letter).collect()
}

fn inserted(text: String) -> Vec<u8> {
    bytes(&doc! {"fullDocument": {"text": text}, "documentKey": {"_id": 1}})
}

#[test]
fn an_ordinary_filter_is_decided_at_once() {
    let evaluator = Evaluator::new(&residual(regex("^ab+$")));
    assert!(evaluator.may_take_long(), "many events may");
    for (text, verdict) in [
        ("abb", Verdict::Passes(MatchTransition::Unspecified)),
        ("ba", Verdict::Fails),
    ] {
        let event = inserted(text.to_owned());
        let event = EventFields::read(Operation::Insert, &event);
        assert_eq!(evaluator.evaluate_briefly(&event), verdict);
    }
    let plain = Evaluator::new(&residual(field("text", Condition::Eq("a".into()))));
    assert!(!plain.may_take_long());
}

/// It is tried once, unless its size alone says so, and never leaves undecided what needs no filter.
#[test]
fn a_filter_that_takes_long_is_left_undecided() {
    let slow = Evaluator::new(&residual(regex("a[ab]{300}c")));
    let large = Evaluator::new(&residual(regex("[ab]*a[ab]{400}c|a.{0,200}b")));
    let many =
        (0..=MANY_CONDITIONS).map(|number| field(&format!("a{number}"), Condition::Eq(1.into())));
    let many = Evaluator::new(&residual(Predicate::AnyOf(many.collect())));
    let long = inserted(noise(20_000));
    let long = EventFields::read(Operation::Insert, &long);
    assert_eq!(slow.evaluate_briefly(&long), Verdict::Undecided);
    let short = inserted("ccc".to_owned());
    let short = EventFields::read(Operation::Insert, &short);
    for evaluator in [&slow, &large, &many] {
        assert_eq!(evaluator.evaluate_briefly(&short), Verdict::Undecided);
        assert_eq!(evaluator.evaluate(&short), None);
        let event = bytes(&doc! {"operationType": "drop"});
        let event = EventFields::read(Operation::Drop, &event);
        let passes = Verdict::Passes(MatchTransition::Unspecified);
        assert_eq!(evaluator.evaluate_briefly(&event), passes);
    }
    let inserts = Evaluator::new(&Clauses {
        operations: Some([Operation::Insert].into()),
        ..residual(regex("[ab]*a[ab]{400}c|a.{0,200}b"))
    });
    let deleted = EventFields::read(Operation::Delete, &[]);
    assert_eq!(inserts.evaluate_briefly(&deleted), Verdict::Fails);
}

/// One event that takes long makes the next ones wait, and not all to come. Events that take long say so wherever they
/// are decided, and a filter that is large stays costly.
#[test]
fn a_filter_is_tried_again_after_many_events_that_do_not_take_long() {
    let slow = Evaluator::new(&residual(regex("a[ab]{300}c")));
    let large = Evaluator::new(&residual(regex("[ab]*a[ab]{400}c|a.{0,200}b")));
    let (long, short) = (inserted(noise(20_000)), inserted("ccc".to_owned()));
    let long = EventFields::read(Operation::Insert, &long);
    let short = EventFields::read(Operation::Insert, &short);
    let passes_undecided = |evaluator: &Evaluator, events: u32| {
        for _ in 0..events {
            assert_eq!(evaluator.evaluate_briefly(&short), Verdict::Undecided);
            assert_eq!(evaluator.evaluate(&short), None);
        }
    };
    // As often as it takes long.
    for _ in 0..3 {
        assert_eq!(slow.evaluate_briefly(&long), Verdict::Undecided);
        passes_undecided(&slow, CALM_EVENTS);
        assert_eq!(slow.evaluate_briefly(&short), Verdict::Fails);
        assert_eq!(slow.evaluate_briefly(&short), Verdict::Fails);
    }
    // Noted by whoever had the time for it.
    slow.evaluate(&long);
    passes_undecided(&slow, CALM_EVENTS - 1);
    slow.evaluate(&long);
    passes_undecided(&slow, CALM_EVENTS);
    assert_eq!(slow.evaluate_briefly(&short), Verdict::Fails);
    passes_undecided(&large, 2 * CALM_EVENTS);
}
