//! Tests of the ledger that other tests rely on: it finds every fault, in made-up logs and in a
//! watch over a broken network.

use std::sync::Arc;

use crate::support::ledger::{
    ClientOptions, DeliveryChecker, DeliveryTotals, Ledger, ObservedChange, ResumingClient, Write,
    WriteOptions, Writers,
};
use crate::support::{Database, Proxy, Weir, eventually};
use bytes::Bytes;
use pb::OperationType::{self, Delete, Insert, Update};
use weir::pb;

/// Two writers alternate: each inserts a document, updates it twice and deletes it.
const WRITES: [OperationType; 4] = [Insert, Update, Update, Delete];

struct Case {
    ledger: Arc<Ledger>,
    checker: DeliveryChecker,
}

impl Case {
    /// A checker that expects everything or, of the updates, only those into group 1.
    fn new(filtered: bool) -> Self {
        let ledger = Ledger::new(&["orders"], 2);
        for writer in 0..2 {
            let mut group = None;
            for (number, operation) in (0..).zip(WRITES) {
                let after = (operation != Delete).then_some(number % 2);
                let write = Write {
                    collection: 0,
                    operation,
                    document: 0,
                    before: group,
                    after,
                };
                ledger.record(writer, write);
                group = after;
            }
        }
        let expects = move |write: &Write| !filtered || write.after == Some(1);
        let checker = DeliveryChecker::new(&ledger, Arc::new(expects), &[0, 0], &[0, 0]);
        Self { ledger, checker }
    }

    /// The change number `at`: of writers 0 and 1 alternately.
    fn change(&mut self, at: u32) -> Result<(), String> {
        let number = at / 2;
        let operation = WRITES[number as usize];
        self.checker.change(&ObservedChange {
            writer: (at % 2) as usize,
            number: (operation != Delete).then_some(number),
            document: 0,
            operation,
            collection: "orders".to_owned(),
            time: (1, at + 1),
        })
    }

    fn changes(&mut self, at: impl IntoIterator<Item = u32>) {
        for at in at {
            self.change(at).expect("a correct sequence");
        }
    }

    fn token(&mut self, at: u32) -> Result<(), String> {
        let name = Bytes::from(format!("after {at}"));
        self.checker.token(&name, (1, at + 1), true)
    }

    fn assert_finds(&self, found: Result<(), String>, words: &str) {
        let problem = found.expect_err("an incorrect sequence");
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn a_second_starts_with_a_write_known_to_be_its_first() {
    let mut case = Case::new(false);
    case.changes(0..4);
    assert_eq!(case.ledger.first_since(1), Some(vec![0, 0]));
    // The writes after those may belong to either second.
    assert_eq!(case.ledger.first_since(2), None);
    case.changes(4..8);
    assert_eq!(case.ledger.first_since(2), Some(vec![4, 4]));
    assert_eq!(case.ledger.last_seen(), Some((1, 8)));
}

#[test]
fn a_complete_and_ordered_log_passes() {
    let mut case = Case::new(false);
    case.changes(0..8);
    assert_eq!(case.checker.missing(), None);
    assert_eq!((case.checker.got, case.checker.lost()), (8, 0));

    let mut filtered = Case::new(true);
    filtered.changes([2, 3]);
    assert_eq!(filtered.checker.missing(), None);
    assert_eq!((filtered.checker.got, filtered.checker.lost()), (2, 0));
}

#[test]
fn a_missing_change_is_found_at_the_writers_next_change_and_at_the_end() {
    let mut case = Case::new(false);
    case.changes([0, 1, 2, 4]);
    let found = case.change(5);
    case.assert_finds(found, "writer 1's write 1");

    let mut filtered = Case::new(true);
    let unasked = filtered.change(0);
    filtered.assert_finds(unasked, "does not match the request");

    let mut case = Case::new(false);
    case.changes(0..7);
    let missing = case.checker.missing().expect("the last is missing");
    assert!(missing.contains("writer 1's write 3"), "{missing}");
    assert_eq!(case.checker.lost(), 1);
}

#[test]
fn a_swap_is_found_even_between_writers() {
    let mut case = Case::new(false);
    case.changes([0, 1, 3]);
    let found = case.change(2);
    case.assert_finds(found, "was passed");
}

#[test]
fn a_time_that_differs_between_clients_is_found() {
    let mut case = Case::new(false);
    case.changes([0, 1]);
    let expects = Arc::new(|_: &Write| true);
    let mut other = Case {
        checker: DeliveryChecker::new(&case.ledger, expects, &[0, 0], &[0, 0]),
        ledger: Arc::clone(&case.ledger),
    };
    let found = other.checker.change(&ObservedChange {
        writer: 1,
        number: Some(0),
        document: 0,
        operation: Insert,
        collection: "orders".to_owned(),
        time: (1, 1),
    });
    other.assert_finds(found, "other clients saw");
}

#[test]
fn a_repeat_is_found_unless_the_client_resumed_before_it() {
    let mut case = Case::new(false);
    case.changes(0..4);
    let found = case.change(2);
    case.assert_finds(found, "comes again");

    let mut case = Case::new(false);
    case.changes(0..4);
    case.token(3).expect("a token");
    case.changes(4..6);
    assert!(case.checker.resume().is_some());
    // Right at the resume position the last change may come once more, as after a resume by time.
    case.changes([3]);
    case.changes(4..6);
    assert_eq!((case.checker.got, case.checker.repeats), (6, 3));
    let found = case.change(3);
    case.assert_finds(found, "comes again");
    case.changes(6..8);
    assert_eq!(case.checker.missing(), None);

    let mut case = Case::new(false);
    case.changes(0..4);
    case.token(3).expect("a token");
    case.checker.resume();
    let found = case.change(2);
    case.assert_finds(found, "comes again");
}

#[test]
fn a_missing_change_after_a_resume_is_found_although_it_came_before() {
    let mut case = Case::new(false);
    case.changes(0..2);
    case.token(1).expect("a token");
    case.changes(2..6);
    case.checker.resume();
    let found = case.change(4);
    case.assert_finds(found, "writer 0's write 1");
}

#[test]
fn a_token_or_progress_that_goes_back_is_found() {
    let mut case = Case::new(false);
    case.changes(0..4);
    case.token(3).expect("a token");
    let found = case.token(2);
    case.assert_finds(found, "goes back");
    let found = case.checker.progress((1, 3));
    case.assert_finds(found, "goes back");
}

#[test]
fn a_progress_ahead_of_a_later_change_is_found_even_after_a_resume() {
    let mut case = Case::new(false);
    case.changes(0..4);
    case.checker.progress((1, 5)).expect("progress");
    let found = case.change(4);
    case.assert_finds(found, "was passed");

    let mut case = Case::new(false);
    case.changes(0..4);
    case.checker.progress((1, 5)).expect("progress");
    case.token(4).expect("a token");
    case.checker.resume();
    let found = case.change(4);
    case.assert_finds(found, "was passed");
}

#[test]
fn only_the_writes_of_a_transaction_have_one_time_and_none_comes_after_its_progress() {
    let begin = |of_transaction: bool| {
        let ledger = Ledger::new(&["orders"], 1);
        for number in 0..3 {
            let write = Write {
                collection: 0,
                operation: Insert,
                document: number,
                before: None,
                after: Some(1),
            };
            if of_transaction && number > 0 {
                ledger.record_with_last(0, write);
            } else {
                ledger.record(0, write);
            }
        }
        let expects = Arc::new(|_: &Write| true);
        let mut checker = DeliveryChecker::new(&ledger, expects, &[0], &[0]);
        let change = |checker: &mut DeliveryChecker, number: u32| {
            checker.change(&ObservedChange {
                writer: 0,
                number: Some(number),
                document: number,
                operation: Insert,
                collection: "orders".to_owned(),
                time: (1, 1),
            })
        };
        change(&mut checker, 0).expect("it is the first");
        (checker, change)
    };
    let (mut checker, change) = begin(true);
    change(&mut checker, 1).expect("it has the time of the one before");
    checker.other((1, 1)).expect("so has the transaction's end");
    checker.progress((1, 1)).expect("it may be the last");
    assert!(change(&mut checker, 2).is_err(), "it came after progress");
    assert!(checker.other((1, 1)).is_err(), "it came after progress");
    let (mut checker, change) = begin(false);
    assert!(change(&mut checker, 1).is_err(), "it is no transaction");
    let (mut checker, change) = begin(true);
    assert!(change(&mut checker, 2).is_err(), "one is missing");
}

#[test]
fn a_watch_opened_during_writes_may_start_at_any_of_them_and_misses_none_after() {
    let begins = |first: u32| {
        let case = Case::new(false);
        // Of writer 0, the first write was done before, and the third had begun when the watch
        // opened.
        let expects = Arc::new(|_: &Write| true);
        Case {
            checker: DeliveryChecker::new(&case.ledger, expects, &[1, 0], &[3, 4]),
            ledger: Arc::clone(&case.ledger),
        }
        .change(first)
    };
    assert!(begins(0).is_err(), "it was over");
    for first in [2, 4, 6] {
        begins(first).expect("it is known");
    }
    let mut case = Case::new(false);
    let expects = Arc::new(|_: &Write| true);
    case.checker = DeliveryChecker::new(&case.ledger, expects, &[1, 0], &[2, 4]);
    let found = case.change(6);
    case.assert_finds(found, "writer 0's write 2");
}

/// Over a network that is cut again and again, on both sides of Weir.
#[tokio::test]
async fn clients_of_every_kind_get_everything_over_a_network_that_is_cut() {
    let database = Database::options().start().await;
    let upstream = Proxy::to(database.address()).await;
    let weir = Weir::at(&upstream.mongodb_uri(), |_| {}).await;
    let client_proxy = Proxy::to(weir.grpc_addr()).await;
    let write_options = WriteOptions {
        large: Some((20, 100_000)),
        ..WriteOptions::default()
    };
    let mut writers = Writers::ready(&database.database(), &write_options).await;
    let ledger = writers.ledger();
    let request = || database.watch_request(&[]);
    let structs = pb::WatchRequest {
        document_format: pb::DocumentFormat::Struct.into(),
        max_message_bytes: 64 << 10,
        ..request()
    };
    let first_collection = database.watch_request(&["ledger_a"]);
    let client_options = [
        ClientOptions::all("all", request()),
        ClientOptions::all("structs", structs),
        ClientOptions {
            store_every: 5,
            window: Some(16 << 10),
            ..ClientOptions::new("the first", first_collection, |it| it.collection == 0)
        },
    ];
    let mut clients = Vec::new();
    for options in client_options {
        clients.push(ResumingClient::start(&ledger, client_proxy.address(), options).await);
    }
    writers.begin(&database.database(), &write_options);
    for cut in [&upstream, &client_proxy, &upstream, &client_proxy] {
        let so_far = ledger.len();
        eventually("more is written", async || ledger.len() > so_far + 40).await;
        cut.cut();
    }
    // A late client gets what is written from then on.
    let late = ClientOptions::all("late", request());
    clients.push(ResumingClient::start(&ledger, weir.grpc_addr(), late).await);
    let so_far = ledger.len();
    eventually("more is written", async || ledger.len() > so_far + 40).await;
    writers.finish().await;
    let totals = DeliveryTotals::of(&ledger, &clients).await;
    totals.tally();
    assert!(totals.reconnects >= 6, "{totals:?}");
    assert!(clients[3].got() > 0);
}
