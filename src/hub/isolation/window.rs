//! A stream of some events that are known beforehand.

use std::collections::VecDeque;

use crate::source::{Batch, Cursor, Event, SourceError};

use super::{Listed, other};

/// A stream of some of the listed events.
///
/// It is no [`Scan`](crate::hub::scan::Scan): it knows which events must come, so a token that stands for a
/// time between them proves nothing, and it ends with the last of them.
pub(super) struct Window {
    pub(super) cursor: Box<dyn Cursor>,
    /// The events that have not come yet.
    pub(super) expected: VecDeque<Listed>,
    /// The number of events that have come or were rejected since the last call of `take_passed`.
    pub(super) passed: usize,
    /// `true` if every one of them must come.
    pub(super) is_complete: bool,
    /// The number of empty replies at the end that are still waited through.
    pub(super) quiet_replies_left: u32,
}

impl Window {
    /// Returns the next events, or `None` at the end of the window.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>, SourceError> {
        while !self.expected.is_empty() {
            let batch = self.cursor.next().await?;
            if batch.events.is_empty() {
                match (batch.idle, batch.closed) {
                    (true, false) if self.quiet_replies_left > 0 => self.quiet_replies_left -= 1,
                    (true, _) if !self.is_complete => {
                        self.passed += self.expected.len();
                        self.expected.clear();
                    }
                    (true, _) | (_, true) => {
                        return Err(other("an event of the list did not come"));
                    }
                    (false, false) => {}
                }
                continue;
            }
            for event in &batch.events {
                self.expect(&batch.buffer, event)?;
            }
            return Ok(Some(Batch {
                // The reply's own position may be after events that the window leaves out.
                position: batch.events.last().map(|it| it.position(&batch.buffer)),
                closed: false,
                idle: false,
                ..batch
            }));
        }
        Ok(None)
    }

    pub(super) fn take_passed(&mut self) -> usize {
        std::mem::take(&mut self.passed)
    }

    /// Removes an event from the expected ones. A server that does not select sends others.
    fn expect(&mut self, buffer: &[u8], event: &Event) -> Result<(), SourceError> {
        while let Some(expected) = self.expected.pop_front() {
            self.passed += 1;
            // A split event has the token of its last fragment.
            let is_split = expected.time == event.cluster_time
                && expected.operation == event.operation
                && !self
                    .expected
                    .iter()
                    .any(|it| it.token == buffer[event.token.clone()]);
            if expected.token == buffer[event.token.clone()] || is_split {
                return Ok(());
            }
            if self.is_complete {
                break;
            }
        }
        Err(other("an event came that was not selected"))
    }
}
