//! The faults that are injected while clients watch.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::support::{Database, FailCommand, Mode, Proxy};

use super::counters::Counters;
use super::servers::Replica;

/// Codes of MongoDB's temporary errors, as any read of a stream may return them.
const PASSING: [i32; 14] = [
    6, 7, 43, 89, 91, 133, 189, 234, 262, 9001, 10107, 11600, 11602, 13436,
];

/// The faults, and where they are counted.
pub struct Faults {
    pub replicas: Arc<[Replica; 2]>,
    pub counters: Arc<Counters>,
    /// The mean pause between two network faults, and between two process faults.
    pub pause: Duration,
    /// The longest duration of a fault.
    pub longest: Duration,
    pub stop: CancellationToken,
}

impl Faults {
    /// Breaks the networks on both sides of both servers, one after the other, until it is stopped;
    /// then restores them.
    pub async fn break_networks(&self, seed: u64) {
        let mut rng = Rng::with_seed(seed);
        while self.wait(&mut rng, self.pause).await {
            let replica = &self.replicas[rng.usize(..2)];
            let (side, proxies): (_, Vec<&Proxy>) = if rng.bool() {
                ("database", vec![&replica.upstream])
            } else {
                let share = rng.f32();
                let some = replica.client_proxies.iter().filter(|_| rng.f32() < share);
                ("clients", some.collect())
            };
            if rng.u32(..6) == 0 {
                self.counters.fault(&format!("network to {side} half-open"));
                proxies.iter().for_each(|proxy| proxy.lose_answers());
                continue;
            }
            let (name, mode) = match rng.u32(..6) {
                0..2 => ("cut", Mode::Pass),
                2..4 => ("stalled", Mode::Blackhole),
                4 => ("refused", Mode::Refuse),
                _ => ("slow", Mode::Delay(Duration::from_millis(rng.u64(10..300)))),
            };
            self.counters.fault(&format!("network to {side} {name}"));
            proxies.iter().for_each(|proxy| proxy.set(mode));
            if mode == Mode::Pass {
                proxies.iter().for_each(|proxy| proxy.cut());
            } else {
                self.wait(&mut rng, self.longest).await;
            }
            // Data that was held back for long may come at once, or never.
            if mode == Mode::Blackhole && rng.bool() {
                proxies.iter().for_each(|proxy| proxy.cut());
            }
            proxies.iter().for_each(|proxy| proxy.set(Mode::Pass));
        }
        self.replicas.iter().for_each(Replica::restore_networks);
    }

    /// Kills the database and the second server and makes the database return errors, one after the
    /// other, until it is stopped; then restores everything. The first server keeps running, so
    /// that leaks become visible.
    pub async fn break_processes(&self, database: &mut Database, seed: u64) -> Result<(), String> {
        let mut rng = Rng::with_seed(seed);
        while self.wait(&mut rng, self.pause).await {
            match rng.u32(..10) {
                0..2 => {
                    self.counters.fault("database killed");
                    database.kill();
                    sleep(Duration::from_millis(rng.u64(..2_000))).await;
                    database.restart().await;
                }
                2..4 => {
                    self.counters.fault("server killed");
                    self.replicas[1].restart("KILL").await;
                }
                4 => {
                    self.counters.fault("server shut down");
                    // 1 means that a client that did not read was disconnected.
                    match self.replicas[1].restart("TERM").await {
                        Some(0 | 1) => {}
                        other => return Err(format!("SIGTERM ended a server with {other:?}")),
                    }
                }
                5 => {
                    self.counters.fault("database hangs up");
                    let commands = ["getMore", "aggregate", "find", "hello", "ping"];
                    let fail = FailCommand::on(&commands).close_connection();
                    database
                        .fail(fail.times(rng.i32(1..8)).app_name("weir"))
                        .await;
                }
                6 => {
                    self.counters.fault("database slow to answer");
                    let delay = Duration::from_millis(rng.u64(100..3_000));
                    let fail = FailCommand::on(&["getMore", "aggregate"]).block(delay);
                    database
                        .fail(fail.times(rng.i32(1..8)).app_name("weir"))
                        .await;
                }
                _ => {
                    self.counters.fault("database answers with an error");
                    let code = PASSING[rng.usize(..PASSING.len())];
                    let fail = FailCommand::on(&["getMore"]).code(code);
                    let fail = fail.label("ResumableChangeStreamError");
                    database
                        .fail(fail.times(rng.i32(1..8)).app_name("weir"))
                        .await;
                }
            }
        }
        database.clear_failures().await;
        Ok(())
    }

    /// Waits for about this long; returns false when it is time to stop.
    async fn wait(&self, rng: &mut Rng, about: Duration) -> bool {
        let pause = about.mul_f64(0.1 + 1.8 * rng.f64());
        tokio::select! {
            () = sleep(pause) => !self.stop.is_cancelled(),
            () = self.stop.cancelled() => false,
        }
    }
}
