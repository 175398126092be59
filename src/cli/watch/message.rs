//! Received messages, with the chunks of large events joined.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use crate::pb;
use crate::pb::watch_response::Kind;

/// A complete message.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The watch is open.
    Opened(pb::Opened),
    /// Changes, in order.
    Changes(Vec<pb::ChangeEvent>),
    /// No further changes up to a time.
    Progress(pb::Progress),
    /// The watch has changed its state.
    StateChange(pb::StateChange),
    /// The watched collection or database no longer exists.
    Invalidated(pb::Invalidated),
    /// A chunk of an incomplete event, or an unknown kind of message. There is nothing to print, but its
    /// token counts.
    NoContent,
}

/// The chunks of an event do not fit together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the server sent chunks of a large event that do not fit together ({0}): use --oversize omit to receive only their keys"
)]
pub struct ChunkError(&'static str);

/// The largest event that is joined, in bytes. MongoDB's events are at most 16 MiB, or a few times that if
/// split. The limit protects memory from a wrong size.
const LARGEST_EVENT: u64 = 256 * 1024 * 1024;

/// Joins the chunks of one connection.
#[derive(Debug, Default)]
pub struct ChunkJoiner {
    open: Option<PartialEvent>,
}

/// An event of which some chunks have been received.
#[derive(Debug)]
struct PartialEvent {
    id: u64,
    next_index: u32,
    total_bytes: u64,
    data: BytesMut,
}

impl ChunkJoiner {
    /// Returns the message to handle now, and the token to store after it.
    pub fn accept(&mut self, response: pb::WatchResponse) -> Result<(Message, Bytes), ChunkError> {
        let message = match response.kind {
            Some(Kind::EventChunk(chunk)) => self.join_chunk(chunk)?,
            Some(Kind::Opened(opened)) => Message::Opened(opened),
            Some(Kind::Progress(progress)) => Message::Progress(progress),
            Some(Kind::StateChange(state)) => Message::StateChange(state),
            // These end an incomplete event.
            Some(Kind::Changes(batch)) => {
                self.open = None;
                Message::Changes(batch.changes)
            }
            Some(Kind::Invalidated(invalidated)) => {
                self.open = None;
                Message::Invalidated(invalidated)
            }
            None => Message::NoContent,
        };
        Ok((message, response.resume_token))
    }

    fn join_chunk(&mut self, chunk: pb::EventChunk) -> Result<Message, ChunkError> {
        // A first chunk discards earlier ones: the server has read the event again.
        let continued = self.open.take().filter(|_| chunk.index > 0);
        let mut open = continued.unwrap_or(PartialEvent {
            id: chunk.id,
            next_index: 0,
            total_bytes: chunk.total_bytes,
            data: BytesMut::new(),
        });
        if open.id != chunk.id || open.total_bytes != chunk.total_bytes {
            return Err(ChunkError("a chunk belongs to another event"));
        }
        if open.next_index != chunk.index {
            return Err(ChunkError("a chunk is missing"));
        }
        open.data.extend_from_slice(&chunk.data);
        let length = open.data.len() as u64;
        if length > open.total_bytes || open.total_bytes > LARGEST_EVENT {
            return Err(ChunkError("the event is larger than announced or allowed"));
        }
        if !chunk.last {
            open.next_index = open.next_index.saturating_add(1);
            self.open = Some(open);
            return Ok(Message::NoContent);
        }
        if length != open.total_bytes {
            return Err(ChunkError("the event is shorter than announced"));
        }
        let event = pb::ChangeEvent::decode(open.data.freeze())
            .map_err(|_| ChunkError("the joined chunks are not an event"))?;
        Ok(Message::Changes(vec![event]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> pb::ChangeEvent {
        pb::ChangeEvent {
            operation: pb::OperationType::Insert.into(),
            resume_token: Bytes::from_static(b"event"),
            ..pb::ChangeEvent::default()
        }
    }

    fn chunks() -> Vec<pb::WatchResponse> {
        let encoded = Bytes::from(event().encode_to_vec());
        let total = encoded.len();
        let cuts = [0, 2, 5, total];
        (0..3)
            .map(|index| pb::WatchResponse {
                resume_token: if index == 2 { "event" } else { "before" }.into(),
                kind: Some(Kind::EventChunk(pb::EventChunk {
                    id: 7,
                    index: u32::try_from(index).unwrap(),
                    last: index == 2,
                    total_bytes: total as u64,
                    data: encoded.slice(cuts[index]..cuts[index + 1]),
                })),
            })
            .collect()
    }

    fn of(kind: Kind) -> pb::WatchResponse {
        pb::WatchResponse {
            kind: Some(kind),
            ..pb::WatchResponse::default()
        }
    }

    fn accept_all(responses: Vec<pb::WatchResponse>) -> Result<Vec<Message>, ChunkError> {
        let mut joiner = ChunkJoiner::default();
        responses
            .into_iter()
            .map(|response| joiner.accept(response).map(|(message, _)| message))
            .collect()
    }

    #[test]
    fn chunks_become_one_event_and_the_token_changes_with_the_last() {
        let mut joiner = ChunkJoiner::default();
        let accepted: Vec<_> = chunks()
            .into_iter()
            .map(|chunk| joiner.accept(chunk).unwrap())
            .collect();
        assert_eq!(accepted[0], (Message::NoContent, "before".into()));
        assert_eq!(accepted[1], (Message::NoContent, "before".into()));
        assert_eq!(
            accepted[2],
            (Message::Changes(vec![event()]), "event".into())
        );
    }

    /// The server may send other messages while it reads an event again.
    #[test]
    fn chunks_continue_after_a_state_change_and_progress() {
        let mut responses = chunks();
        responses.insert(1, of(Kind::StateChange(pb::StateChange::default())));
        responses.insert(2, of(Kind::Progress(pb::Progress::default())));
        let messages = accept_all(responses).unwrap();
        assert_eq!(messages.last(), Some(&Message::Changes(vec![event()])));
    }

    #[test]
    fn a_first_chunk_discards_earlier_ones() {
        let mut again = chunks();
        again.truncate(2);
        again.extend(chunks().into_iter().map(|mut chunk_message| {
            if let Some(Kind::EventChunk(chunk)) = &mut chunk_message.kind {
                chunk.id = 8;
            }
            chunk_message
        }));
        let messages = accept_all(again).unwrap();
        let changes: Vec<_> = messages
            .iter()
            .filter(|message| **message != Message::NoContent)
            .collect();
        assert_eq!(changes, [&Message::Changes(vec![event()])]);
    }

    #[test]
    fn chunks_that_do_not_fit_are_refused() {
        let mut without_second = chunks();
        without_second.remove(1);
        assert!(accept_all(without_second).is_err());

        let mut cut_short = chunks();
        cut_short.insert(2, of(Kind::Changes(pb::ChangeBatch::default())));
        assert!(accept_all(cut_short).is_err());

        let mut of_another = chunks();
        if let Some(Kind::EventChunk(chunk)) = &mut of_another[1].kind {
            chunk.id = 8;
        }
        assert!(accept_all(of_another).is_err());

        let mut from_the_middle = chunks();
        from_the_middle.remove(0);
        assert!(accept_all(from_the_middle).is_err());
    }

    #[test]
    fn an_unknown_kind_of_message_is_skipped_and_its_token_kept() {
        let response = pb::WatchResponse {
            resume_token: Bytes::from_static(b"later"),
            kind: None,
        };
        assert_eq!(
            ChunkJoiner::default().accept(response).unwrap(),
            (Message::NoContent, "later".into())
        );
    }
}
