//! Log lines that callers can cause as often as they like: those of one caller and one reason are written a few times
//! a second, and the rest are summed up in one line.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};
use tracing::Level;

use crate::model::Caller;

/// The time over which lines are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// The number of lines of one caller and one kind that are written in that time.
const LINES: u32 = 10;

/// The number of callers and kinds that are counted at once. Lines of further ones are all written: so many
/// different lines in a second are no repetition.
const MAX_COUNTED: usize = 512;

/// What repeated lines have in common, besides their caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LineKind {
    /// The level of the lines, and of the line that sums them up: error, warning, or else info.
    pub level: Level,
    /// Their message.
    pub message: &'static str,
    /// The name of the gRPC code in them.
    pub code: &'static str,
    /// The reason in them.
    pub reason: &'static str,
}

/// Counts the lines of each caller and kind. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct RepeatedLines(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts(Mutex<Window>);

/// The lines since the window began. Those of a window that has ended are dropped with the first line after it.
#[derive(Debug, Default)]
struct Window {
    ends: Option<Instant>,
    lines: HashMap<(Caller, LineKind), u32>,
    /// `true` once a line was held back, so that a task waits for the end of the window.
    holds_back: bool,
}

/// Lines that were not written.
#[derive(Debug, PartialEq, Eq)]
struct Suppressed {
    caller: Caller,
    kind: LineKind,
    count: u32,
}

impl RepeatedLines {
    /// Counts a line and returns whether to write it. One that is not written is part of a sum that is logged
    /// within a second.
    #[must_use]
    pub fn admits(&self, caller: &Caller, kind: LineKind) -> bool {
        let now = Instant::now();
        let mut window = self.0.lock();
        let ended = window.end(now);
        let is_written = window.count(caller, kind);
        let reported_at = (!is_written && !std::mem::replace(&mut window.holds_back, true))
            .then_some(window.ends)
            .flatten();
        drop(window);
        ended.iter().for_each(Suppressed::log);
        if let Some(end) = reported_at {
            self.report_at(end);
        }
        is_written
    }

    /// Logs the sums when the window ends. Outside of a runtime the next line does that.
    fn report_at(&self, end: Instant) {
        let counts = Arc::downgrade(&self.0);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                sleep_until(end).await;
                if let Some(counts) = counts.upgrade() {
                    let ended = counts.lock().end(Instant::now());
                    ended.iter().for_each(Suppressed::log);
                }
            });
        }
    }
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, Window> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        let window = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        window.take().iter().for_each(Suppressed::log);
    }
}

impl Window {
    /// Returns what was held back in the window, if that has ended, and begins the next one.
    fn end(&mut self, now: Instant) -> Vec<Suppressed> {
        if self.ends.is_some_and(|ends| now < ends) {
            return Vec::new();
        }
        self.ends = Some(now + WINDOW);
        self.take()
    }

    fn take(&mut self) -> Vec<Suppressed> {
        self.holds_back = false;
        let lines = self.lines.drain().filter(|(_, lines)| *lines > LINES);
        lines
            .map(|((caller, kind), lines)| Suppressed {
                caller,
                kind,
                count: lines - LINES,
            })
            .collect()
    }

    /// Returns whether a line is one of those that are written.
    fn count(&mut self, caller: &Caller, kind: LineKind) -> bool {
        let key = (caller.clone(), kind);
        if self.lines.len() >= MAX_COUNTED && !self.lines.contains_key(&key) {
            return true;
        }
        let lines = self.lines.entry(key).or_default();
        *lines = lines.saturating_add(1);
        *lines <= LINES
    }
}

impl Suppressed {
    fn log(&self) {
        let LineKind {
            level,
            message: line,
            code,
            reason,
        } = self.kind;
        let (principal, peer) = self.caller.for_logs();
        let suppressed = self.count;
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    line,
                    principal,
                    peer,
                    code,
                    reason,
                    suppressed,
                    "repeated lines are left out"
                )
            };
        }
        match level {
            Level::ERROR => log!(error),
            Level::WARN => log!(warn),
            _ => log!(info),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(reason: &'static str) -> LineKind {
        LineKind {
            level: Level::INFO,
            message: "watch ended",
            code: "CANCELLED",
            reason,
        }
    }

    fn principal(name: &str) -> Caller {
        Caller::Principal(name.into())
    }

    /// Returns how many of so many lines are written.
    fn written(lines: &RepeatedLines, caller: &Caller, reason: &'static str, count: u32) -> u32 {
        let all = (0..count).filter(|_| lines.admits(caller, kind(reason)));
        u32::try_from(all.count()).expect("few")
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_written_and_the_rest_is_summed_up() {
        let (lines, alice) = (RepeatedLines::default(), principal("key:alice"));
        for _ in 0..3 {
            assert_eq!(written(&lines, &alice, "cancelled", 2_000), LINES);
            // Other callers, and other ends of this one, are no part of that.
            assert_eq!(written(&lines, &principal("key:bob"), "cancelled", 1), 1);
            assert_eq!(written(&lines, &alice, "INTERNAL", 1), 1);
            let ends = lines.0.lock().ends.expect("a window");
            assert_eq!(lines.0.lock().end(Instant::now()), []);
            let sum = Suppressed {
                caller: alice.clone(),
                kind: kind("cancelled"),
                count: 2_000 - LINES,
            };
            assert_eq!(lines.0.lock().end(ends), [sum]);
            tokio::time::advance(WINDOW * 3).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_sum_needs_no_further_line() {
        let (lines, alice) = (RepeatedLines::default(), principal("key:alice"));
        assert_eq!(written(&lines, &alice, "cancelled", LINES + 1), LINES);
        tokio::time::sleep(WINDOW).await;
        tokio::task::yield_now().await;
        assert!(lines.0.lock().lines.is_empty());
        assert_eq!(written(&lines, &alice, "cancelled", LINES + 1), LINES);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_counted_is_bounded_and_rare_lines_are_always_written() {
        let lines = RepeatedLines::default();
        for number in 0..2 * MAX_COUNTED {
            let caller = principal(&format!("key:{number}"));
            assert_eq!(written(&lines, &caller, "cancelled", 1), 1);
        }
        assert_eq!(lines.0.lock().lines.len(), MAX_COUNTED);
        assert_eq!(written(&lines, &principal("key:0"), "cancelled", 100), 9);
    }

    #[test]
    fn lines_outside_of_a_runtime_are_counted_too() {
        let (lines, alice) = (RepeatedLines::default(), principal("key:alice"));
        assert_eq!(written(&lines, &alice, "cancelled", 50), LINES);
    }
}
