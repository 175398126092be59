//! What becomes of an event that no message of its watch can hold, by the client's policy.

use bytes::{Bytes, BytesMut};

use crate::{
    error::Error,
    hub::Run,
    pb::{self, watch_response::Kind},
    plan::{Crossing, Oversize, Watch},
    source::EventError,
    wire::{self, Changes, Frame},
};

/// What a chunk's message takes beyond its data and its token.
const CHUNK_OVERHEAD: usize = 64;

/// How it went out.
pub(super) enum Sent {
    /// It does not: the watch ends.
    Refused(Error),
    /// A stub stands for it.
    Stub(Frame),
    /// In pieces.
    Chunks(Vec<Frame>),
}

/// Makes the messages for the event at a place of a run. `before` is the token of the place before it,
/// and `id` names it among those that go out in pieces.
pub(super) fn send(
    watch: &Watch,
    run: &Run,
    at: usize,
    before: &[u8],
    id: u64,
) -> Result<Sent, EventError> {
    let limit = watch.max_message_bytes;
    let encoded = run.encoded(watch.format)?;
    let event = encoded.event(at);
    let token = event.token();
    let message = told(event.message(), run, at);
    let size = message.len() as u64;
    Ok(match watch.oversize {
        Oversize::Fail => Sent::Refused(Error::EventTooLarge {
            event_bytes: size,
            limit,
        }),
        Oversize::Omit => {
            let segment = run.segment();
            let stub = |with_key| {
                wire::omitted(
                    segment.buffer(),
                    run.event(at),
                    segment.stamp(),
                    watch.format,
                    (size, limit),
                    with_key,
                )
            };
            let mut changes = stub(true)?;
            if Frame::overhead(token.len()) + changes.len() > limit as usize {
                changes = stub(false)?;
            }
            Sent::Stub(Frame::changes(token, Changes::of(changes)))
        }
        Oversize::Chunk => {
            let before = Bytes::copy_from_slice(before);
            Sent::Chunks(chunks(&message, &before, &token, limit as usize, id))
        }
    })
}

/// The event with its `match`, where there is one to tell. A copy, which chunks of a large event have
/// to bear.
fn told(message: Bytes, run: &Run, at: usize) -> Bytes {
    let crossing = run.crossing(at);
    if crossing == Crossing::Untold {
        return message;
    }
    let mut told = BytesMut::from(&message[..]);
    wire::put_match(&mut told, crossing.to_pb());
    run.segment().keep(told.freeze())
}

/// The token moves on only with the last piece: before it, the event has not been delivered.
fn chunks(message: &Bytes, before: &Bytes, token: &Bytes, limit: usize, id: u64) -> Vec<Frame> {
    let room = limit - CHUNK_OVERHEAD - token.len().max(before.len());
    let count = message.len().div_ceil(room);
    let chunk = |index: usize| {
        let last = index + 1 == count;
        let data = message.slice(index * room..message.len().min((index + 1) * room));
        let token = if last { token } else { before };
        Frame::message(
            token.clone(),
            Kind::EventChunk(pb::EventChunk {
                id,
                index: index.try_into().unwrap_or(u32::MAX),
                last,
                total_bytes: message.len() as u64,
                data,
            }),
        )
    };
    (0..count).map(chunk).collect()
}
