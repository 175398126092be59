//! How much connections ask for: how many calls one may begin in a second, and whether what it asks for is to be
//! done at a low priority.
//!
//! HTTP/2 bounds the calls that are open, and not those that are opened and reset or answered: each costs as much, and
//! a client may begin a hundred thousand in a second. Nothing is refused for that. Beyond its rate of calls a
//! connection is not read for a while, so that its client has to wait. A connection that asks for more than its
//! allowance, when the connections have used up what they share, is served at a low priority until it has asked for
//! less: so it gets what the others leave.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics::Gauge;
use tokio::time::Instant;

use crate::{limit::TokenBucket, metrics::GaugeGuard};

/// The calls per second that a connection begins in the long run.
const CALL_RATE: f64 = 1_000.0;

/// The calls that a connection begins at once, after a pause.
const CALL_BURST: f64 = 100.0;

/// What a call counts for, besides its bytes: the time to answer it is that to read about so many.
const BYTES_OF_CALL: f64 = 1_024.0;

/// The bytes of requests per second that a connection may send without a low priority: about eight small calls.
const OWN_RATE: f64 = 8_192.0;

/// The bytes of requests that it may send at once, after a pause.
const OWN_BURST: f64 = 32_768.0;

/// The most that it is behind with. It has its priority back once it has sent nothing for a second.
const OWN_DEBT: f64 = -OWN_RATE;

/// The bytes of requests per second that all connections together may send besides.
const SHARED_RATE: f64 = 131_072.0;

/// Those that they may send at once: as when 200 clients open their first watches.
const SHARED_BURST: f64 = 262_144.0;

/// A client acknowledges what it reads: a byte for so many that it was sent is no request. gRPC's clients send 26
/// bytes for 16 to 32 KiB.
const SENT_PER_ACKNOWLEDGED: usize = 512;

/// An answer to a stranger counts as much as a request with this part of its bytes. Those of reflection are a thousand
/// times as long as the questions.
const ANSWERED_PER_ASKED: usize = 8;

/// What the connections of a port ask for.
#[derive(Debug)]
pub(super) struct Demand {
    shared: Mutex<TokenBucket>,
    /// The number of connections with a low priority.
    low_priority: Gauge,
}

/// What one of them asks for.
#[derive(Debug)]
pub(super) struct ConnectionDemand {
    demand: Arc<Demand>,
    /// Read without the lock: most connections never ask for much.
    is_over: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Overdrawn once more calls were begun than the rate allows: they had been read already.
    calls: TokenBucket,
    bytes: TokenBucket,
    /// Bytes sent to the client that no acknowledgement has been set against.
    sent: usize,
    /// Counts it while it is over its allowance.
    counted: Option<GaugeGuard>,
}

impl Demand {
    pub(super) fn new(low_priority: Gauge) -> Arc<Self> {
        let shared = TokenBucket::full(SHARED_RATE, SHARED_BURST, Instant::now());
        Arc::new(Self {
            shared: Mutex::new(shared),
            low_priority,
        })
    }

    /// Adds a connection.
    pub(super) fn connection(self: &Arc<Self>) -> Arc<ConnectionDemand> {
        let now = Instant::now();
        Arc::new(ConnectionDemand {
            demand: Arc::clone(self),
            is_over: AtomicBool::new(false),
            state: Mutex::new(State {
                calls: TokenBucket::full(CALL_RATE, CALL_BURST, now),
                bytes: TokenBucket::full(OWN_RATE, OWN_BURST, now),
                sent: 0,
                counted: None,
            }),
        })
    }

    /// Takes from what the connections share, if there is so much.
    fn take(&self, bytes: f64, now: Instant) -> bool {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = shared.has(bytes, now);
        if enough {
            shared.take(bytes, now);
        }
        enough
    }
}

impl ConnectionDemand {
    /// Counts a call.
    pub(super) fn begin_call(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        state.calls.take(1.0, now);
        self.ask(&mut state, BYTES_OF_CALL, now);
    }

    /// Counts bytes of an answer that is not a watch's.
    pub(super) fn answer(&self, bytes: usize) {
        // At most some thousands.
        let bytes = (bytes / ANSWERED_PER_ASKED) as f64;
        self.ask(&mut self.lock(), bytes, Instant::now());
    }

    /// Counts bytes that were read from the connection, and those that were written to it since.
    pub(super) fn transfer(&self, read: usize, written: usize) {
        let mut state = self.lock();
        state.sent = state.sent.saturating_add(written);
        let acknowledgements = read.min(state.sent / SENT_PER_ACKNOWLEDGED);
        state.sent -= acknowledgements * SENT_PER_ACKNOWLEDGED;
        let asked = read - acknowledgements;
        if asked > 0 {
            // At most some thousands.
            self.ask(&mut state, asked as f64, Instant::now());
        }
    }

    /// Returns the time until the connection may begin another call; `None` if that is now.
    pub(super) fn pause(&self) -> Option<Duration> {
        let calls = &mut self.lock().calls;
        // Most connections are far from it, and need no clock.
        if !calls.was_overdrawn() {
            return None;
        }
        calls.wait_for(0.0, Instant::now())
    }

    /// Returns whether the connection has asked for more than its allowance, and is to be served at a low priority.
    pub(super) fn is_over(&self) -> bool {
        if !self.is_over.load(Ordering::Relaxed) {
            return false;
        }
        let mut state = self.lock();
        let is_over = !state.bytes.has(0.0, Instant::now());
        if !is_over {
            self.is_over.store(false, Ordering::Relaxed);
            state.counted = None;
        }
        is_over
    }

    fn ask(&self, state: &mut State, bytes: f64, now: Instant) {
        if state.bytes.has(bytes, now) {
            state.bytes.take(bytes, now);
            return;
        }
        let was_high = self.is_over.load(Ordering::Relaxed);
        if !was_high && self.demand.take(bytes, now) {
            return;
        }
        state.bytes.take_down_to(OWN_DEBT, bytes, now);
        if !was_high {
            state.counted = Some(GaugeGuard::one(&self.demand.low_priority));
            self.is_over.store(true, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use tokio::time::{advance, sleep};

    use super::*;

    fn demand() -> Arc<Demand> {
        Demand::new(Gauge::noop())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_begins_a_burst_at_once_and_then_as_many_as_its_rate() {
        let connection = demand().connection();
        for _ in 0..100 {
            assert_eq!(connection.pause(), None);
            connection.begin_call();
        }
        let begin = Instant::now();
        for _ in 0..500 {
            connection.begin_call();
            if let Some(wait) = connection.pause() {
                sleep(wait).await;
            }
            assert_eq!(connection.pause(), None);
        }
        let took = begin.elapsed();
        assert!((450..550).contains(&took.as_millis()), "{took:?}");
        // Calls that were read together are paid for together.
        (0..300).for_each(|_| connection.begin_call());
        let wait = connection.pause().expect("more than allowed");
        assert!((290..310).contains(&wait.as_millis()), "{wait:?}");
        sleep(Duration::from_secs(60)).await;
        assert_eq!(connection.pause(), None);
        (0..100).for_each(|_| connection.begin_call());
        assert_eq!(connection.pause(), None, "no more than a burst is saved up");
        connection.begin_call();
        assert!(connection.pause().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_much_is_low_until_it_has_asked_for_less() {
        let demand = demand();
        let [flood, other] = [(); 2].map(|()| demand.connection());
        let mut calls = 0;
        while !flood.is_over() {
            flood.begin_call();
            calls += 1;
        }
        // Its own burst, and what nobody else has taken of the shared one.
        assert_eq!(calls, 32 + 256 + 1);
        assert!(!other.is_over());
        // The shared one is used up: the other has its own.
        (0..32).for_each(|_| other.begin_call());
        assert!(!other.is_over());
        // However much it asks for, a second of silence is enough.
        (0..10_000).for_each(|_| flood.begin_call());
        advance(Duration::from_millis(990)).await;
        assert!(flood.is_over());
        advance(Duration::from_millis(20)).await;
        assert!(!flood.is_over());
        // Nobody has taken of the shared one meanwhile, which has filled up by half.
        (0..128).for_each(|_| flood.begin_call());
        assert!(!flood.is_over());
        (0..10).for_each(|_| flood.begin_call());
        assert!(flood.is_over());
        // Who goes on at more than its rate stays low, and who goes on at less does not.
        for _ in 0..100 {
            advance(Duration::from_millis(100)).await;
            flood.begin_call();
            assert!(flood.is_over());
        }
        for _ in 0..50 {
            advance(Duration::from_millis(200)).await;
            flood.begin_call();
        }
        assert!(!flood.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_count_by_their_bytes_and_acknowledgements_do_not() {
        let demand = demand();
        let (reader, asker) = (demand.connection(), demand.connection());
        // WINDOW_UPDATE frames of a client that reads a gigabyte: two for each half of its window.
        for _ in 0..32_768 {
            reader.transfer(0, 32_768);
            reader.transfer(26, 0);
        }
        assert!(!reader.is_over());
        (0..10).for_each(|_| demand.connection().answer(16 << 10));
        assert!(demand.shared.lock().unwrap().is_full(Instant::now()));
        for _ in 0..71 {
            asker.transfer(4_096, 0);
        }
        assert!(!asker.is_over());
        (0..2).for_each(|_| asker.transfer(4_096, 0));
        assert!(asker.is_over() && !reader.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn the_gauge_counts_connections_of_a_low_priority() {
        let gauge = Arc::new(AtomicU64::new(0));
        let value = || f64::from_bits(gauge.load(Ordering::Relaxed));
        let demand = Demand::new(Gauge::from_arc(Arc::clone(&gauge)));
        let connections: Vec<_> = (0..3).map(|_| demand.connection()).collect();
        for connection in &connections {
            (0..1_000).for_each(|_| connection.begin_call());
        }
        assert_eq!(value(), 3.0);
        drop(connections);
        assert_eq!(value(), 0.0);
    }
}
