//! Which event is known to be the last of its transaction.

use std::collections::HashMap;

use crate::{
    model::Operation,
    source::{
        ClusterTime,
        event::Event,
        transaction::{SessionTransaction, TransactionId},
    },
};

/// Marks the events of one reply that are known to be the last change of their transaction in this stream.
/// MongoDB does not say it, so it is known in two cases only:
///
/// - An `endOfTransaction` of the transaction follows in the reply, on any deployment. MongoDB sends it when
///   no other change of the transaction follows, on a sharded cluster perhaps more than once (TOOLS-3416).
///   It is itself marked.
/// - `contiguous` is `true`, and the next event of the reply is later and belongs to another transaction or
///   to none. A mongod unwinds a transaction when it reads the oplog entry that commits it, and returns all
///   its events, with the time of that entry, before it reads on
///   (`change_stream_unwind_transaction_stage.cpp`). A mongos merges the streams of its shards by time, so
///   that events of several transactions interleave.
pub(super) fn mark_last_events<'a>(
    events: impl DoubleEndedIterator<Item = &'a mut Event>,
    contiguous: bool,
) {
    // The transactions whose end was found, each with whether its last change was found as well.
    let mut ended: HashMap<SessionTransaction, bool> = HashMap::new();
    let mut next: Option<(TransactionId, ClusterTime)> = None;
    for event in events.rev() {
        if let Some(transaction) = event.transaction.known() {
            event.is_last_of_transaction = if event.operation == Operation::EndOfTransaction {
                ended.entry(transaction).or_insert(false);
                true
            } else if let Some(found) = ended.get_mut(&transaction) {
                !std::mem::replace(found, true)
            } else {
                let moved_on = |(next, time)| {
                    next != event.transaction
                        && next != TransactionId::Unreadable
                        && time > event.cluster_time
                };
                contiguous && next.is_some_and(moved_on)
            };
        }
        next = Some((event.transaction, event.cluster_time));
    }
}

#[cfg(test)]
mod tests {
    use bson::{Binary, Bson, Document, Uuid, doc, spec::BinarySubtype};
    use proptest::prelude::*;

    use super::*;
    use crate::source::scripted::{batch, event, insert};

    const END: &str = "endOfTransaction";

    /// An event of transaction `number` of one session.
    fn change(name: &str, operation: &str, second: u32, number: i64) -> Document {
        let lsid = doc! {
            "id": Uuid::from_bytes([7; 16]),
            "uid": Binary { subtype: BinarySubtype::Generic, bytes: vec![1; 32] },
        };
        let fields = doc! { "lsid": lsid, "txnNumber": number };
        event(name, operation, second, fields)
    }

    fn marked(events: &[Document], contiguous: bool) -> Vec<bool> {
        let mut batch = batch(events);
        mark_last_events(batch.events.iter_mut(), contiguous);
        let flags = batch.events.iter().map(|it| it.is_last_of_transaction);
        flags.collect()
    }

    #[test]
    fn the_last_change_is_known_when_a_later_event_follows() {
        for next in [insert("n", 6), change("n", "insert", 6, 2)] {
            let events = [
                change("a", "insert", 5, 1),
                change("b", "update", 5, 1),
                next,
            ];
            assert_eq!(marked(&events, true), [false, true, false]);
            // A mongos may send another change of the transaction.
            assert_eq!(marked(&events, false), [false, false, false]);
        }
    }

    #[test]
    fn the_end_of_a_reply_tells_nothing() {
        let events = [change("a", "insert", 5, 1), change("b", "update", 5, 1)];
        assert_eq!(marked(&events, true), [false, false]);
        assert_eq!(marked(&events[..1], true), [false]);
    }

    /// A transaction of several oplog entries may have several times (the manual on `clusterTime`).
    #[test]
    fn changes_of_several_times_are_one_transaction() {
        let events = [
            change("a", "insert", 5, 1),
            change("b", "insert", 6, 1),
            insert("n", 7),
        ];
        assert_eq!(marked(&events, true), [false, true, false]);
    }

    #[test]
    fn an_event_of_the_same_time_or_of_an_unreadable_transaction_tells_nothing() {
        let mut unreadable = insert("n", 6);
        unreadable.insert("lsid", "a session");
        let mut partial = insert("n", 6);
        partial.insert("txnNumber", 1_i64);
        let same_time = insert("n", 5);
        for next in [unreadable, partial, same_time] {
            let events = [change("a", "insert", 5, 1), next];
            assert_eq!(marked(&events, true), [false, false]);
        }
    }

    #[test]
    fn an_event_without_a_readable_transaction_is_never_the_last() {
        for (field, value) in [
            ("lsid", Bson::Null),
            ("lsid", doc! { "id": "text" }.into()),
            ("txnNumber", Bson::Null),
            ("txnNumber", "one".into()),
        ] {
            let mut event = change("a", "insert", 5, 1);
            event.insert(field, value);
            assert_eq!(marked(&[event, insert("n", 6)], true), [false, false]);
        }
    }

    /// Such a session id differs only in what no other event of the transaction would differ in.
    #[test]
    fn the_digest_of_the_user_does_not_separate_events() {
        let mut other_user = change("b", "insert", 6, 1);
        let lsid = doc! { "id": Uuid::from_bytes([7; 16]) };
        other_user.insert("lsid", lsid);
        let events = [change("a", "insert", 5, 1), other_user];
        assert_eq!(marked(&events, true), [false, false]);
    }

    /// On a sharded cluster other events may come before the end, and the end may come twice.
    #[test]
    fn the_last_change_before_an_end_of_transaction_is_known_on_any_deployment() {
        let events = [
            change("a", "insert", 5, 1),
            change("o", "insert", 5, 2),
            change("b", "insert", 5, 1),
            insert("n", 6),
            change("e", END, 6, 1),
            change("p", "insert", 6, 2),
            change("f", END, 7, 1),
        ];
        for contiguous in [false, true] {
            assert_eq!(
                marked(&events, contiguous)[..5],
                [false, false, true, false, true]
            );
        }
        assert_eq!(marked(&events, false)[5..], [false, true]);
    }

    #[test]
    fn an_end_of_transaction_alone_is_the_last_event() {
        assert_eq!(marked(&[change("e", END, 5, 1)], false), [true]);
    }

    proptest! {
        /// Whole transactions of a replica set, in replies of any size: no change of a transaction follows
        /// a marked one, and the change before another transaction in the same reply is marked.
        #[test]
        fn no_change_follows_the_one_that_is_marked(
            transactions in prop::collection::vec((0..3_usize, any::<bool>()), 1..8),
            size in 1..6_usize,
        ) {
            let mut events = Vec::new();
            for (at, (changes, ends)) in transactions.iter().enumerate() {
                let (number, second) = (at as i64, 10 + at as u32);
                let name = |index: usize| format!("{number}-{index}");
                events.extend((0..*changes).map(|it| change(&name(it), "insert", second, number)));
                if *changes == 0 {
                    events.push(insert(&name(0), second));
                } else if *ends {
                    events.push(change(&name(9), END, second, number));
                }
            }
            let flags: Vec<bool> = events.chunks(size).flat_map(|it| marked(it, true)).collect();
            let number = |event: &Document| event.get_i64("txnNumber").ok();
            let is_end = |event: &Document| event.get_str("operationType").ok() == Some(END);
            for (at, (event, flag)) in events.iter().zip(&flags).enumerate() {
                let Some(of) = number(event) else {
                    prop_assert!(!flag);
                    continue;
                };
                let later = &events[at + 1..];
                let follows = later.iter().any(|it| number(it) == Some(of) && !is_end(it));
                prop_assert!(!flag || !follows, "{event} is not the last");
                let in_reply = &later[..later.len().min(size - 1 - at % size)];
                prop_assert_eq!(*flag, is_end(event) || (!follows && !in_reply.is_empty()));
            }
        }
    }
}
