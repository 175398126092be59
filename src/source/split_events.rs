//! Merging of the fragments of events that MongoDB split (`$changeStreamSplitLargeEvent`).
//!
//! Every fragment has its own token, and resuming from it yields the next fragment. So no position
//! between fragments may be published: until the last fragment arrives, the stream's position stays
//! before the first.

use std::collections::HashSet;

use bytes::Bytes;

use crate::{
    pipeline::Genuine,
    raw::{self, Element, Elements},
    source::{
        Position,
        event::{Batch, Event, EventError, Fragment},
        failure::{Failure, SourceError},
        reply::contents::ReplyContents,
    },
};

/// The maximum total size of the fragments of one event. MongoDB's largest event has three documents of
/// 16 MiB: the pre-image, the post-image and the update description.
const MAX_MERGED_BYTES: usize = 64 << 20;

/// A merger with the fragments of the current event.
#[derive(Debug)]
pub(super) struct FragmentMerger {
    fragments: Vec<Bytes>,
    bytes: usize,
    /// What of the events is as MongoDB made it.
    genuine: Genuine,
}

impl FragmentMerger {
    /// Returns a merger for a stream of which this much is genuine.
    pub(super) fn new(genuine: Genuine) -> Self {
        Self {
            fragments: Vec::new(),
            bytes: 0,
            genuine,
        }
    }

    /// Returns the whole events of `batch`, in order, up to the first fragment that is out of order or too
    /// large, which ends the stream.
    ///
    /// This is nearly always the batch itself. A batch with fragments becomes several, since a merged
    /// event has its own buffer.
    pub(super) fn merge_batch(&mut self, mut batch: Batch) -> ReplyContents {
        if self.fragments.is_empty() && batch.events.iter().all(|event| event.fragment.is_none()) {
            return ReplyContents {
                batches: vec![batch],
                error: None,
            };
        }
        let events = std::mem::take(&mut batch.events);
        let mut batches = Vec::new();
        let error = self.take_whole(&batch, events, &mut batches).err();
        // After an error, the reply's position is after the invalid fragment.
        if error.is_none() {
            // It is valid only when no event is incomplete.
            batch.position = batch.position.filter(|_| self.fragments.is_empty());
            batch.caught_up &= self.fragments.is_empty();
            end_reply(&mut batches, batch);
        }
        ReplyContents { batches, error }
    }

    /// Appends the whole events among these events of `reply` to `batches`, up to the first error.
    fn take_whole(
        &mut self,
        reply: &Batch,
        events: Vec<Event>,
        batches: &mut Vec<Batch>,
    ) -> Result<(), SourceError> {
        // Empty while fragments are kept, and so at each error.
        let mut unsplit = Vec::new();
        for event in events {
            let Some(fragment) = event.fragment else {
                if !self.fragments.is_empty() {
                    return Err(SourceError::unexpected(
                        "another event came before the last fragment of a split event",
                    ));
                }
                unsplit.push(event);
                continue;
            };
            if !unsplit.is_empty() {
                let unsplit = std::mem::take(&mut unsplit);
                batches.push(part_of(reply, reply.buffer.clone(), unsplit));
            }
            if let Some((buffer, event)) = self.add(&reply.buffer, &event, fragment)? {
                batches.push(part_of(reply, buffer, vec![event]));
            }
        }
        if !unsplit.is_empty() {
            batches.push(part_of(reply, reply.buffer.clone(), unsplit));
        }
        Ok(())
    }

    fn add(
        &mut self,
        buffer: &Bytes,
        event: &Event,
        Fragment { index, of }: Fragment,
    ) -> Result<Option<(Bytes, Event)>, SourceError> {
        if usize::try_from(index).ok() != Some(self.fragments.len() + 1) {
            return Err(SourceError::unexpected(
                "the fragments of a split event are out of order",
            ));
        }
        let bytes = buffer.slice(event.bytes.clone());
        self.bytes += bytes.len();
        if self.bytes > MAX_MERGED_BYTES {
            return Err(SourceError::new(
                Failure::EventTooLarge,
                "the fragments of a split event exceed 64 MiB",
            ));
        }
        self.fragments.push(bytes);
        if index < of {
            return Ok(None);
        }
        self.bytes = 0;
        let merged = merge(&std::mem::take(&mut self.fragments))?;
        let mut whole = Event::parse_genuine(&merged, 0..merged.len(), self.genuine)?;
        whole.is_merged = true;
        whole.cluster_time = whole.cluster_time.max(event.cluster_time);
        Ok(Some((merged, whole)))
    }
}

/// Returns whole events of a reply as a batch.
fn part_of(reply: &Batch, buffer: Bytes, events: Vec<Event>) -> Batch {
    Batch {
        position: events.last().map(|event| event.position(&buffer)),
        buffer,
        events,
        operation_time: reply.operation_time,
        closed: false,
        caught_up: false,
        waited: false,
    }
}

/// Gives the last batch of a reply what the reply says of its end: the position behind it, and whether the
/// cursor is closed.
fn end_reply(batches: &mut Vec<Batch>, end: Batch) {
    // Compared without the time: a fragment may lack it, the merged event has it.
    fn token(position: Option<&Position>) -> Option<&Bytes> {
        position.and_then(Position::token)
    }
    match batches.last_mut() {
        Some(last) => {
            last.closed = end.closed;
            last.caught_up = end.caught_up;
            let is_later = token(end.position.as_ref()) != token(last.position.as_ref());
            if end.position.is_some() && is_later {
                last.position = end.position;
            }
        }
        None => batches.push(end),
    }
}

/// Merges the fields of all fragments into one document, with the last `_id` and without `splitEvent`.
fn merge(fragments: &[Bytes]) -> Result<Bytes, EventError> {
    let mut merged: Vec<Element<'_>> = Vec::new();
    let mut names = HashSet::new();
    // From the last to the first, because the last fragment's `_id` is the event's token.
    for fragment in fragments.iter().rev() {
        for field in Elements::new(fragment)? {
            let field = field?;
            if field.key != b"splitEvent" && names.insert(field.key) {
                merged.push(field);
            }
        }
    }
    Ok(raw::document(merged))
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;
    use crate::source::scripted::{after, batch, event, insert};

    fn fragment(token: &str, index: i32, of: i32, fields: Document) -> Document {
        let mut fragment = if index == 1 {
            event(token, "update", 7, fields)
        } else {
            let mut rest = doc! { "_id": { "_data": token } };
            rest.extend(fields);
            rest
        };
        fragment.insert("splitEvent", doc! { "fragment": index, "of": of });
        fragment
    }

    fn whole(contents: ReplyContents) -> Vec<Batch> {
        assert!(contents.error.is_none(), "{:?}", contents.error);
        contents.batches
    }

    fn documents(batch: &Batch) -> Vec<Document> {
        let read = |event: &Event| Document::from_reader(&batch.buffer[event.bytes.clone()]);
        batch
            .events
            .iter()
            .map(|event| read(event).unwrap())
            .collect()
    }

    /// The fragments may come in one reply or in several.
    #[test]
    fn fragments_are_merged_into_one_event_with_the_last_token() {
        let fragments = [
            fragment("f1", 1, 3, doc! { "fullDocument": { "a": 1 } }),
            fragment(
                "f2",
                2,
                3,
                doc! { "updateDescription": { "updatedFields": { "b": 2 } } },
            ),
            fragment("f3", 3, 3, doc! { "fullDocumentBeforeChange": { "c": 3 } }),
        ];
        for cut in 0..=3 {
            let mut merger = FragmentMerger::new(Genuine::EVERYTHING);
            let mut out = Vec::new();
            for part in [&fragments[..cut], &fragments[cut..]] {
                out.extend(whole(merger.merge_batch(batch(part))));
            }
            let merged: Vec<Document> = out.iter().flat_map(documents).collect();
            let [merged] = merged.as_slice() else {
                panic!("{merged:?}");
            };
            assert_eq!(merged.get_document("_id").unwrap(), &doc! { "_data": "f3" });
            assert_eq!(
                merged.get_document("fullDocument").unwrap(),
                &doc! { "a": 1 }
            );
            assert!(merged.contains_key("fullDocumentBeforeChange"));
            assert!(merged.contains_key("updateDescription"));
            assert_eq!(merged.get_str("operationType").ok(), Some("update"));
            assert!(!merged.contains_key("splitEvent"));
            let position = out.iter().rev().find_map(|it| it.position.clone());
            assert_eq!(position, Some(after("f3", 7)), "cut at {cut}");
        }
    }

    /// A position between fragments would resume in the middle of an event.
    #[test]
    fn no_position_between_fragments_is_published() {
        let mut merger = FragmentMerger::new(Genuine::EVERYTHING);
        let events = [insert("a", 1), fragment("f1", 1, 2, doc! {})];
        let out = whole(merger.merge_batch(batch(&events)));
        assert_eq!(out.last().unwrap().position, Some(after("a", 1)));

        let mut merger = FragmentMerger::new(Genuine::EVERYTHING);
        let out = whole(merger.merge_batch(batch(&events[1..])));
        assert_eq!(out.last().unwrap().position, None);

        let events = [fragment("f2", 2, 2, doc! {}), insert("b", 9)];
        let out = whole(merger.merge_batch(batch(&events)));
        let positions: Vec<Option<Position>> = out.into_iter().map(|it| it.position).collect();
        assert_eq!(positions, [Some(after("f2", 7)), Some(after("b", 9))]);
    }

    #[test]
    fn fragments_with_100_000_fields_are_merged_in_seconds() {
        let fields = |from: i32| (from..from + 50_000).map(|it| (format!("f{it}"), it.into()));
        let fragments = [
            fragment("f1", 1, 2, fields(0).collect()),
            fragment("f2", 2, 2, fields(50_000).collect()),
        ];
        let begun = tokio::time::Instant::now();
        let out = whole(FragmentMerger::new(Genuine::EVERYTHING).merge_batch(batch(&fragments)));
        assert_eq!(documents(&out[0])[0].len(), 100_000 + 4);
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    }

    #[test]
    fn an_event_marked_as_its_only_fragment_is_whole() {
        let mut merger = FragmentMerger::new(Genuine::EVERYTHING);
        let mut only = insert("a", 1);
        only.insert("splitEvent", doc! { "fragment": 1, "of": 1 });
        let out = whole(merger.merge_batch(batch(&[only])));
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].events.len(), 1);
    }

    /// The merger rejects such an event before it merges the fragments.
    #[test]
    fn fragments_of_more_than_64_mib_are_rejected_as_too_large() {
        let text = "x".repeat(13 << 20);
        let mut merger = FragmentMerger::new(Genuine::EVERYTHING);
        for index in 1..=4 {
            let part = fragment("f", index, 6, doc! { "fullDocument": { "a": &text } });
            let contents = merger.merge_batch(batch(&[part]));
            assert!(contents.error.is_none(), "fragment {index}");
        }
        let part = fragment("f", 5, 6, doc! { "fullDocument": { "a": &text } });
        let error = merger.merge_batch(batch(&[part])).error.unwrap();
        assert_eq!(error.failure, Failure::EventTooLarge);
    }

    #[test]
    fn fragments_out_of_order_end_the_stream_after_the_events_before_them() {
        for events in [
            vec![fragment("f2", 2, 2, doc! {})],
            vec![fragment("f1", 1, 3, doc! {}), fragment("f3", 3, 3, doc! {})],
            vec![fragment("f1", 1, 2, doc! {}), insert("a", 8)],
        ] {
            let good = insert("g", 1);
            let all: Vec<Document> = std::iter::once(good).chain(events).collect();
            let contents = FragmentMerger::new(Genuine::EVERYTHING).merge_batch(batch(&all));
            assert_eq!(contents.error.unwrap().failure, Failure::Unexpected);
            let before: Vec<Option<Position>> =
                contents.batches.into_iter().map(|it| it.position).collect();
            assert_eq!(before, [Some(after("g", 1))]);
        }
    }
}
