//! The messages of a watch that are encoded and not yet sent.

use std::collections::VecDeque;

use crate::{pb::watch_response::Kind, wire::Frame};

/// The messages of one watch that wait to be sent, and the tokens of the positions that they reach.
pub(super) struct Outbox {
    waiting: VecDeque<Frame>,
    /// The token of the last queued message. A copy: a slice would keep its whole buffer alive.
    pub(super) token: Vec<u8>,
    /// The token of the last delivered message.
    delivered_token: Vec<u8>,
    has_delivered: bool,
}

impl Outbox {
    /// Creates an empty one for a watch that starts at a token.
    pub(super) fn new(start: &[u8]) -> Self {
        Self {
            waiting: VecDeque::new(),
            token: start.to_vec(),
            delivered_token: start.to_vec(),
            has_delivered: false,
        }
    }

    /// Queues a message without events, with the token of the reached position.
    pub(super) fn queue(&mut self, kind: Kind) {
        let token = self.token.clone().into();
        self.push(Frame::message(token, kind));
    }

    /// Queues a message.
    pub(super) fn push(&mut self, frame: Frame) {
        self.waiting.push_back(frame);
    }

    /// Queues a message that reaches the position of its token.
    pub(super) fn push_event(&mut self, frame: Frame) {
        self.set_token(frame.token());
        self.push(frame);
    }

    /// Sets the token of the reached position.
    pub(super) fn set_token(&mut self, token: &[u8]) {
        self.token.clear();
        self.token.extend_from_slice(token);
    }

    /// Returns the next message, which is delivered now.
    pub(super) fn pop(&mut self) -> Option<Frame> {
        let frame = self.waiting.pop_front()?;
        self.has_delivered = true;
        self.delivered_token.clear();
        self.delivered_token.extend_from_slice(frame.token());
        Some(frame)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns whether a message was delivered.
    pub(super) fn has_delivered(&self) -> bool {
        self.has_delivered
    }

    /// Discards what waits. Those messages must come again after a resume.
    pub(super) fn discard(&mut self) {
        self.waiting.clear();
        self.token.clone_from(&self.delivered_token);
    }
}
