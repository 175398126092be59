//! Puts events that MongoDB split (`$changeStreamSplitLargeEvent`) together again.
//!
//! Every fragment has a token of its own, and resuming from one yields the next fragment, so no
//! place between fragments may be handed out: until the last one is there the stream's place stays
//! before the first.

use std::collections::HashSet;

use bytes::Bytes;

use crate::{
    raw::{self, Element, Elements},
    source::{
        Position,
        event::{Batch, Event, EventError, Fragment},
        failure::{Failure, SourceError},
        reply::ReplyContents,
    },
};

/// The most bytes that the fragments of one event may add up to. The largest event MongoDB can
/// make holds three documents of 16 MiB: before, after, and the change.
const MAX_MERGED_BYTES: usize = 64 << 20;

/// The fragments of the event that is being put together.
#[derive(Debug, Default)]
pub(super) struct FragmentMerger {
    fragments: Vec<Bytes>,
    bytes: usize,
}

impl FragmentMerger {
    /// Takes `batch` and gives what can be published of it: whole events, in order, up to the first
    /// fragment that does not fit, from which a stream never recovers.
    ///
    /// Nearly always the batch itself. A batch with fragments gives several, since a merged event
    /// lies in a buffer of its own.
    pub(super) fn merge_batch(&mut self, batch: Batch) -> ReplyContents {
        if self.fragments.is_empty() && batch.events.iter().all(|event| event.fragment.is_none()) {
            return ReplyContents {
                batches: vec![batch],
                error: None,
            };
        }
        let Batch {
            buffer,
            events,
            position,
            operation_time,
            closed,
            idle,
        } = batch;
        let part = |buffer: Bytes, events: Vec<Event>| Batch {
            position: events.last().map(|event| event.position(&buffer)),
            buffer,
            events,
            operation_time,
            closed: false,
            idle: false,
        };
        let mut parts: Vec<Batch> = Vec::new();
        let mut whole: Vec<Event> = Vec::new();
        let mut broken = None;
        for event in events {
            let Some(fragment) = event.fragment else {
                if self.fragments.is_empty() {
                    whole.push(event);
                    continue;
                }
                broken = Some(SourceError::unexpected(
                    "a split event was cut off by another",
                ));
                break;
            };
            if !whole.is_empty() {
                parts.push(part(buffer.clone(), std::mem::take(&mut whole)));
            }
            match self.add(&buffer, &event, fragment) {
                Ok(Some((buffer, event))) => parts.push(part(buffer, vec![event])),
                Ok(None) => {}
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        if !whole.is_empty() {
            parts.push(part(buffer.clone(), whole));
        }
        if broken.is_some() {
            // The reply's own place is after what is broken.
            return ReplyContents {
                batches: parts,
                error: broken,
            };
        }
        // The reply's own place counts only when no fragment is left over.
        let last = Batch {
            buffer,
            events: Vec::new(),
            position: position.filter(|_| self.fragments.is_empty()),
            operation_time,
            closed,
            idle,
        };
        match parts.last_mut() {
            Some(part) => {
                part.closed = last.closed;
                // A fragment need not carry the event's time; the merged event does.
                let place = |position: &Option<Position>| {
                    let token = position.as_ref().and_then(Position::token);
                    token.cloned()
                };
                if last.position.is_some() && place(&last.position) != place(&part.position) {
                    part.position = last.position;
                }
            }
            None => parts.push(last),
        }
        ReplyContents {
            batches: parts,
            error: None,
        }
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
        let mut whole = Event::parse(&merged, 0..merged.len())?;
        whole.cluster_time = whole.cluster_time.max(event.cluster_time);
        Ok(Some((merged, whole)))
    }
}

/// One document with the fields of all fragments: the last one's `_id`, and no `splitEvent`.
fn merge(fragments: &[Bytes]) -> Result<Bytes, EventError> {
    let mut merged: Vec<Element<'_>> = Vec::new();
    let mut known = HashSet::new();
    // From the last to the first, so that the token that counts comes first and wins.
    for fragment in fragments.iter().rev() {
        for field in Elements::new(fragment)? {
            let field = field?;
            if field.key != b"splitEvent" && known.insert(field.key) {
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

    /// T18: fragments in one reply and over several become one event with the last one's token.
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
            let mut merger = FragmentMerger::default();
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
            let place = out.iter().rev().find_map(|it| it.position.clone());
            assert_eq!(place, Some(after("f3", 7)), "cut at {cut}");
        }
    }

    /// T18: a place between fragments would resume in the middle of an event.
    #[test]
    fn no_place_between_fragments_is_given_out() {
        let mut merger = FragmentMerger::default();
        let events = [insert("a", 1), fragment("f1", 1, 2, doc! {})];
        let out = whole(merger.merge_batch(batch(&events)));
        assert_eq!(out.last().unwrap().position, Some(after("a", 1)));

        let mut merger = FragmentMerger::default();
        let out = whole(merger.merge_batch(batch(&events[1..])));
        assert_eq!(out.last().unwrap().position, None);

        let events = [fragment("f2", 2, 2, doc! {}), insert("b", 9)];
        let out = whole(merger.merge_batch(batch(&events)));
        let places: Vec<Option<Position>> = out.into_iter().map(|it| it.position).collect();
        assert_eq!(places, [Some(after("f2", 7)), Some(after("b", 9))]);
    }

    #[test]
    fn fragments_of_very_many_fields_are_merged_in_time() {
        let fields = |from: i32| (from..from + 50_000).map(|it| (format!("f{it}"), it.into()));
        let fragments = [
            fragment("f1", 1, 2, fields(0).collect()),
            fragment("f2", 2, 2, fields(50_000).collect()),
        ];
        let begun = tokio::time::Instant::now();
        let out = whole(FragmentMerger::default().merge_batch(batch(&fragments)));
        assert_eq!(documents(&out[0])[0].len(), 100_000 + 4);
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    }

    #[test]
    fn an_event_marked_as_its_only_fragment_is_whole() {
        let mut merger = FragmentMerger::default();
        let mut only = insert("a", 1);
        only.insert("splitEvent", doc! { "fragment": 1, "of": 1 });
        let out = whole(merger.merge_batch(batch(&[only])));
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].events.len(), 1);
    }

    /// T19. More than three documents can make is refused before it is put together, and what comes after
    /// is not taken for the rest.
    #[test]
    fn fragments_of_more_than_64_mib_are_an_event_too_large() {
        let text = "x".repeat(13 << 20);
        let mut merger = FragmentMerger::default();
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
    fn fragments_out_of_order_end_the_stream_after_what_came_before() {
        for events in [
            vec![fragment("f2", 2, 2, doc! {})],
            vec![fragment("f1", 1, 3, doc! {}), fragment("f3", 3, 3, doc! {})],
            vec![fragment("f1", 1, 2, doc! {}), insert("a", 8)],
        ] {
            let good = insert("g", 1);
            let all: Vec<Document> = std::iter::once(good).chain(events).collect();
            let contents = FragmentMerger::default().merge_batch(batch(&all));
            assert_eq!(contents.error.unwrap().failure, Failure::Unexpected);
            let before: Vec<Option<Position>> =
                contents.batches.into_iter().map(|it| it.position).collect();
            assert_eq!(before, [Some(after("g", 1))]);
        }
    }
}
