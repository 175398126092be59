//! Sends events on command, in bursts or at a steady rate.
//!
//! A process that makes events knows two commands, and answers each with `sent`, the number of
//! events sent so far and the microseconds that the command took:
//!
//! - `burst N`: N events at once;
//! - `steady RATE N`: N events, one every `1/RATE` seconds.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::system::commands::Commands;

/// The interval of sending at a steady rate: events that are due are sent together.
const TICK: Duration = Duration::from_millis(1);

/// A maker of events.
pub trait Sender {
    /// Makes the events with these ids now.
    fn send(&mut self, ids: std::ops::Range<i64>) -> impl Future<Output = ()>;
}

/// Runs the parent's commands until this process ends.
pub async fn run_commands(commands: &mut Commands, sender: &mut impl Sender) {
    let mut sent = 0;
    loop {
        let word = commands.next().await;
        let mut parts = word.split(' ');
        let name = parts.next().unwrap_or_default();
        let mut number = || {
            let number = parts.next().and_then(|it| it.parse::<i64>().ok());
            number.unwrap_or_else(|| panic!("{word:?} lacks a number"))
        };
        let started = Instant::now();
        match name {
            "burst" => {
                let ids = sent..sent + number();
                sent = ids.end;
                sender.send(ids).await;
            }
            "steady" => {
                let rate = number();
                let end = sent + number();
                steadily(sender, sent..end, rate).await;
                sent = end;
            }
            _ => panic!("{word:?} is not understood"),
        }
        println!("sent {sent} {}", started.elapsed().as_micros());
    }
}

async fn steadily(sender: &mut impl Sender, ids: std::ops::Range<i64>, rate: i64) {
    let started = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = ids.start;
    while next < ids.end {
        ticks.tick().await;
        let micros = i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX);
        let due = ids.start + (micros / 1_000).saturating_mul(rate) / 1_000 + 1;
        let end = due.clamp(next, ids.end);
        if next < end {
            sender.send(next..end).await;
            next = end;
        }
    }
}
