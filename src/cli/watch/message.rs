//! What arrives, with large events put together again.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use crate::pb;
use crate::pb::watch_response::Kind;

/// A message that is complete.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The watch is open.
    Opened(pb::Opened),
    /// Changes in order.
    Changes(Vec<pb::ChangeEvent>),
    /// Nothing new, up to here.
    Progress(pb::Progress),
    /// The watch goes on in another state.
    StateChange(pb::StateChange),
    /// The watched collection or database is gone.
    Invalidated(pb::Invalidated),
    /// A piece of an event that is not complete yet, or a kind this client does not know: nothing
    /// to show, but the token beside it counts.
    NoContent,
}

/// The server broke the order of an event's pieces. The text says how.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the server's pieces of a large event do not fit together: {0}")]
pub struct ChunkError(&'static str);

/// The largest event put together, in bytes. MongoDB's events are below 16 MiB, or a few times
/// that when it splits them; a mistaken size must not take all memory.
const LARGEST_EVENT: u64 = 256 * 1024 * 1024;

/// Joins the pieces of one connection.
#[derive(Debug, Default)]
pub struct ChunkJoiner {
    open: Option<PartialEvent>,
}

/// An event that some pieces have come of.
#[derive(Debug)]
struct PartialEvent {
    id: u64,
    next_index: u32,
    total_bytes: u64,
    data: BytesMut,
}

impl ChunkJoiner {
    /// The message to handle now, and the token that is safe to store after it.
    pub fn accept(&mut self, response: pb::WatchResponse) -> Result<(Message, Bytes), ChunkError> {
        let message = match response.kind {
            Some(Kind::EventChunk(chunk)) => self.join_chunk(chunk)?,
            Some(Kind::Opened(opened)) => Message::Opened(opened),
            Some(Kind::Progress(progress)) => Message::Progress(progress),
            Some(Kind::StateChange(state)) => Message::StateChange(state),
            // What was begun before these is not going on.
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
        // A first piece begins anew, whatever came before it: the event was read again and is another.
        let begun = self.open.take().filter(|_| chunk.index > 0);
        let mut open = begun.unwrap_or(PartialEvent {
            id: chunk.id,
            next_index: 0,
            total_bytes: chunk.total_bytes,
            data: BytesMut::new(),
        });
        if open.id != chunk.id || open.total_bytes != chunk.total_bytes {
            return Err(ChunkError("a piece of another event came between"));
        }
        if open.next_index != chunk.index {
            return Err(ChunkError("a piece is missing"));
        }
        open.data.extend_from_slice(&chunk.data);
        let length = open.data.len() as u64;
        if length > open.total_bytes || open.total_bytes > LARGEST_EVENT {
            return Err(ChunkError("the event is larger than it can be"));
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
            .map_err(|_| ChunkError("together they are no event"))?;
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

    fn pieces() -> Vec<pb::WatchResponse> {
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
    fn pieces_become_one_event_and_the_token_moves_with_the_last() {
        let mut joiner = ChunkJoiner::default();
        let accepted: Vec<_> = pieces()
            .into_iter()
            .map(|piece| joiner.accept(piece).unwrap())
            .collect();
        assert_eq!(accepted[0], (Message::NoContent, "before".into()));
        assert_eq!(accepted[1], (Message::NoContent, "before".into()));
        assert_eq!(
            accepted[2],
            (Message::Changes(vec![event()]), "event".into())
        );
    }

    /// The server reads an event again whose client left it half-way, and says that it does.
    #[test]
    fn pieces_go_on_after_the_server_told_of_itself() {
        let mut told = pieces();
        told.insert(1, of(Kind::StateChange(pb::StateChange::default())));
        told.insert(2, of(Kind::Progress(pb::Progress::default())));
        let messages = accept_all(told).unwrap();
        assert_eq!(messages.last(), Some(&Message::Changes(vec![event()])));
    }

    #[test]
    fn a_first_piece_begins_anew() {
        let mut again = pieces();
        again.truncate(2);
        again.extend(pieces().into_iter().map(|mut piece| {
            if let Some(Kind::EventChunk(chunk)) = &mut piece.kind {
                chunk.id = 8;
            }
            piece
        }));
        let messages = accept_all(again).unwrap();
        let changes: Vec<_> = messages
            .iter()
            .filter(|message| **message != Message::NoContent)
            .collect();
        assert_eq!(changes, [&Message::Changes(vec![event()])]);
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        let mut without_second = pieces();
        without_second.remove(1);
        assert!(accept_all(without_second).is_err());

        let mut cut_short = pieces();
        cut_short.insert(2, of(Kind::Changes(pb::ChangeBatch::default())));
        assert!(accept_all(cut_short).is_err());

        let mut of_another = pieces();
        if let Some(Kind::EventChunk(chunk)) = &mut of_another[1].kind {
            chunk.id = 8;
        }
        assert!(accept_all(of_another).is_err());

        let mut from_the_middle = pieces();
        from_the_middle.remove(0);
        assert!(accept_all(from_the_middle).is_err());
    }

    #[test]
    fn a_kind_of_a_later_version_is_skipped_and_its_token_kept() {
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
