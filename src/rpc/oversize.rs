//! What becomes of an event that no message of its watch can hold, by the client's policy.

use bytes::Bytes;

use crate::{
    error::Error,
    hub::{EventSelection, Evicted, RevocableBuffer, Watcher},
    pb::{self, FilterMatch},
    plan::{Oversize, Watch},
    source::{Event, EventError},
    wire::{self, Changes, Chunk, Frame, RenderOptions},
};

/// What a chunk's message takes beyond its data and its token.
const CHUNK_OVERHEAD: usize = 64;

/// How it goes out.
pub(super) enum Sent {
    /// It does not: the watch ends.
    Refused(Error),
    /// A stub stands for it.
    Stub(Frame),
    /// In pieces.
    Pieces(Pieces),
}

/// An event that goes out piece by piece. What is left of it is lent, so that it does not lie here for
/// a client that does not read when memory is short; the event is read again then, and goes on where
/// it was if it is still the same.
pub(super) struct Pieces {
    /// What is told of the event when all of it is sent.
    pub event: Event,
    loan: RevocableBuffer,
    token: Bytes,
    told: FilterMatch,
    /// The size of the whole, with its `match`.
    size: usize,
    id: u64,
    index: u32,
    /// How many bytes have been sent.
    sent: usize,
    called_in: Option<Evicted>,
}

/// What comes next of an event in pieces.
pub(super) enum Next {
    Piece(Frame),
    Last(Frame),
    /// It was called in: it has to be read again.
    CalledIn,
}

/// Sends the event at a place of a run. `begun` is one that was called in half-way, and `id` names
/// this one among those that go out in pieces if it is another.
pub(super) fn send(
    watch: &Watch,
    watcher: &Watcher,
    run: &EventSelection,
    at: usize,
    begun: Option<Pieces>,
    id: u64,
) -> Result<Sent, EventError> {
    let limit = watch.max_message_bytes;
    let encoded = run.encoded(watch.format, &watch.view)?;
    let event = encoded.event(at);
    let message = event.message();
    let told = run.transition(at).to_pb();
    let size = message.len() + tail(told).len();
    Ok(match watch.oversize {
        Oversize::Fail => Sent::Refused(Error::EventTooLarge {
            event_bytes: size as u64,
            limit,
        }),
        Oversize::Omit => {
            let segment = run.segment();
            let options = RenderOptions {
                format: watch.format,
                view: &watch.view,
            };
            let stub = |with_key| {
                wire::encode_omitted(
                    segment.buffer(),
                    run.event(at),
                    segment.token_context(),
                    options,
                    told,
                    (size as u64, limit),
                    with_key,
                )
            };
            let token = event.token();
            let mut changes = stub(true)?;
            if Frame::encoded_len_of(token.len(), changes.len()) > limit as usize {
                changes = stub(false)?;
            }
            Sent::Stub(Frame::changes(token, Changes::from_field(changes)))
        }
        Oversize::Chunk => {
            let begun = begun.filter(|begun| begun.is_of(&event.token(), &message, told));
            Sent::Pieces(match begun {
                Some(begun) => Pieces {
                    loan: watcher.hold(message),
                    ..begun
                },
                None => Pieces {
                    event: run.event(at).clone(),
                    loan: watcher.hold(message),
                    // A copy: a slice would keep alive all that was encoded with it.
                    token: Bytes::copy_from_slice(&event.token()),
                    told,
                    size,
                    id,
                    index: 0,
                    sent: 0,
                    called_in: None,
                },
            })
        }
    })
}

/// What comes behind an event's bytes to tell its `match`.
fn tail(told: FilterMatch) -> Bytes {
    if told == FilterMatch::Unspecified {
        return Bytes::new();
    }
    Bytes::copy_from_slice(&wire::match_field(told))
}

impl Pieces {
    /// The next piece. Its token moves on only with the last one: before that, the event has not been
    /// delivered.
    pub(super) fn next(&mut self, before: &[u8], limit: u32) -> Next {
        let message = match self.loan.bytes() {
            Ok(message) => message,
            Err(called_in) => {
                self.called_in = Some(called_in);
                return Next::CalledIn;
            }
        };
        let room = limit as usize - CHUNK_OVERHEAD - self.token.len().max(before.len());
        let start = self.sent;
        let end = self.size.min(start + room);
        let within = |at: usize| at.min(message.len());
        let beyond = |at: usize| at.saturating_sub(message.len());
        let data = message.slice(within(start)..within(end));
        let last = end == self.size;
        let head = pb::EventChunk {
            id: self.id,
            index: self.index,
            last,
            total_bytes: self.size as u64,
            data: Bytes::new(),
        };
        self.index = self.index.saturating_add(1);
        self.sent = end;
        let tail = tail(self.told).slice(beyond(start)..beyond(end));
        let chunk = Chunk {
            head,
            data,
            match_bytes: tail,
        };
        if last {
            Next::Last(Frame::chunk(self.token.clone(), chunk))
        } else {
            Next::Piece(Frame::chunk(Bytes::copy_from_slice(before), chunk))
        }
    }

    /// Whether an event that was read again is the one that these pieces are of. Where documents are
    /// looked up, it may have another one now.
    fn is_of(&self, token: &[u8], message: &[u8], told: FilterMatch) -> bool {
        self.token == token
            && self.told == told
            && self.size == message.len() + tail(told).len()
            && self.called_in.is_some_and(|it| it.matches(message))
    }
}

#[cfg(test)]
mod tests;
