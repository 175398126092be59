//! Encoding of raw change events as the bytes of `ChangeBatch.changes`.
//!
//! An event's index says where its top-level fields are. The message of the operation takes those that it
//! has fields for; all others go into `unknown_fields`, so that fields which MongoDB adds later are passed
//! through.

mod masked;
mod slots;
mod update;
mod values;

use std::{borrow::Cow, ops::RangeInclusive};

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::{
    model::{EventField, Operation, Rendering},
    pb::FilterMatch,
    raw::{Element, Elements},
    source::Event,
    wire::{
        encoded_event::{EncodedEvent, match_field},
        format::{
            protobuf::{
                WireType, put_bytes_field, put_message, put_message_with_estimate,
                put_string_field, put_tag, put_varint,
            },
            put_document, put_null_document,
        },
        token::TokenContext,
    },
};

use slots::{DocumentField, Slots};
use values::{elements, find, is_array, is_text, put_number, text};

/// Field numbers of `weir.v1` in `watch.proto`.
mod field {
    pub(super) const CHANGES: u32 = 1;

    pub(super) const RESUME_TOKEN: u32 = 1;
    pub(super) const OPERATION: u32 = 2;
    pub(super) const NAMESPACE: u32 = 3;
    pub(super) const CLUSTER_TIME: u32 = 4;
    pub(super) const WALL_TIME: u32 = 5;
    pub(super) const DOCUMENT_KEY: u32 = 6;
    pub(super) const TRANSACTION: u32 = 7;
    pub(super) const COLLECTION_UUID: u32 = 8;
    pub(super) const UNKNOWN_FIELDS: u32 = 10;
    pub(super) const OMITTED: u32 = 35;
}

/// The range of `google.protobuf.Timestamp`, the years 1 to 9999, in milliseconds since 1970.
pub const TIMESTAMP_MILLIS: RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// Encodes `events`, whose ranges are in `buffer`, one after the other into one shared buffer, which
/// `wrap` may replace, for example to count its memory.
///
/// A mask that hides fields also leaves out everything else that may reveal them: descriptions of
/// indexes and of collection options, and unknown fields. An update of only hidden fields becomes an
/// update without fields. A mask that only includes fields applies to documents and update descriptions, and
/// leaves out unknown fields.
pub fn encode<'a>(
    buffer: &[u8],
    events: impl IntoIterator<Item = &'a Event, IntoIter: Clone>,
    token_context: &TokenContext,
    rendering: &Rendering,
    wrap: impl FnOnce(Bytes) -> Bytes,
) -> Vec<EncodedEvent> {
    let events = events.into_iter();
    let payload: usize = events.clone().map(|event| event.bytes.len() + 256).sum();
    let mut out = BytesMut::with_capacity(payload);
    let mut encoded = Vec::with_capacity(events.size_hint().0);
    for event in events {
        let start = out.len();
        let raw = &buffer[event.bytes.clone()];
        let mut token_from_end = 0;
        put_message_with_estimate(&mut out, field::CHANGES, event.bytes.len(), |out| {
            put_resume_token(out, buffer, event, token_context, rendering);
            let token_end = out.len();
            put_change(out, event, raw, rendering);
            token_from_end = out.len() - token_end;
        });
        let token_end = out.len() - token_from_end;
        let token = token_context.encoded_len(&buffer[event.token.clone()], rendering.audience);
        let [start, end, token_start, token_end] =
            [start, out.len(), token_end - token, token_end].map(offset);
        encoded.push(EncodedEvent {
            buffer: Bytes::new(),
            start,
            end,
            token_start,
            token_end,
        });
    }
    // The copy frees the unused capacity for fields left out, which the memory budget does not count.
    let shared = if rendering.mask.root().is_some() {
        Bytes::copy_from_slice(&out)
    } else {
        out.freeze()
    };
    let shared = wrap(shared);
    for event in &mut encoded {
        event.buffer = shared.clone();
    }
    encoded
}

/// Converts an offset in the shared buffer.
fn offset(at: usize) -> u32 {
    // The buffer has the events of one segment: one of at most 64 MiB, or many of far less.
    u32::try_from(at).expect("the buffer is smaller than 4 GiB")
}

/// Encodes the stub that replaces an event too large for its watcher: the common fields and an
/// `Omitted` with `sizes`, the event's size and the limit in bytes. Without `with_key` the document key,
/// which may itself be too large, is left out.
pub fn encode_omitted(
    buffer: &[u8],
    event: &Event,
    token_context: &TokenContext,
    rendering: &Rendering,
    filter_match: FilterMatch,
    sizes: (u64, u32),
    with_key: bool,
) -> Bytes {
    let mut slots = Slots::new(&buffer[event.bytes.clone()], &event.index);
    if !with_key {
        slots.drop(EventField::DocumentKey);
    }
    let mut out = BytesMut::new();
    put_message(&mut out, field::CHANGES, |out| {
        put_resume_token(out, buffer, event, token_context, rendering);
        put_common_fields(out, event, &mut slots, rendering);
        put_message(out, field::OMITTED, |out| {
            put_number(out, 1, sizes.0);
            put_number(out, 2, u64::from(sizes.1));
        });
        if filter_match != FilterMatch::Unspecified {
            out.put_slice(&match_field(filter_match));
        }
    });
    out.freeze()
}

fn put_resume_token(
    out: &mut BytesMut,
    buffer: &[u8],
    event: &Event,
    token_context: &TokenContext,
    rendering: &Rendering,
) {
    let audience = rendering.audience;
    let length = token_context.encoded_len(&buffer[event.token.clone()], audience);
    put_tag(out, field::RESUME_TOKEN, WireType::Len);
    put_varint(out, length as u64);
    token_context.put_event(out, buffer, event, audience);
}

fn put_change(out: &mut BytesMut, event: &Event, raw: &[u8], rendering: &Rendering) {
    use EventField::{
        FullDocument, FullDocumentBeforeChange, NsType, OperationDescription, OperationType,
        StateBeforeChange, To, UpdateDescription,
    };
    let mut slots = Slots::new(raw, &event.index);
    if rendering.mask.hides_fields() {
        slots.drop_descriptions();
    }
    put_common_fields(out, event, &mut slots, rendering);
    let operation = event.operation;
    let number = change_field(operation);
    put_message_with_estimate(out, number, raw.len(), |out| match operation {
        Operation::Insert => put_slot(out, 1, &mut slots, FullDocument, rendering),
        Operation::Update => {
            if let Some(description) = slots.take_document(UpdateDescription)
                && !update::put_description(out, description.value, rendering)
                && rendering.mask.root().is_none()
            {
                slots.unknown.push(description);
            }
            put_slot(out, 2, &mut slots, FullDocument, rendering);
            put_slot(out, 3, &mut slots, FullDocumentBeforeChange, rendering);
        }
        Operation::Replace => {
            put_slot(out, 1, &mut slots, FullDocument, rendering);
            put_slot(out, 2, &mut slots, FullDocumentBeforeChange, rendering);
        }
        Operation::Delete => {
            put_slot(out, 1, &mut slots, FullDocumentBeforeChange, rendering);
        }
        Operation::Rename => {
            put_namespace(out, 1, slots.take(To), &mut slots);
            put_slot(out, 2, &mut slots, OperationDescription, rendering);
        }
        Operation::Create => {
            put_slot(out, 1, &mut slots, OperationDescription, rendering);
            if let Some(kind) = slots.take_text(NsType) {
                put_string_field(out, 2, &kind);
            }
        }
        Operation::CreateIndexes | Operation::DropIndexes => {
            if let Some(description) = slots.get_document(OperationDescription) {
                for index in indexes(description) {
                    masked::put_included_document(out, 1, index, rendering);
                }
            }
            put_slot(out, 2, &mut slots, OperationDescription, rendering);
        }
        Operation::Modify => {
            put_slot(out, 1, &mut slots, OperationDescription, rendering);
            put_slot(out, 2, &mut slots, StateBeforeChange, rendering);
        }
        Operation::ShardCollection
        | Operation::RefineCollectionShardKey
        | Operation::ReshardCollection
        | Operation::EndOfTransaction => {
            put_slot(out, 1, &mut slots, OperationDescription, rendering);
        }
        Operation::Drop | Operation::DropDatabase => {}
        Operation::Other | Operation::Invalidate => {
            if let Some(name) = slots.take_text(OperationType) {
                put_string_field(out, 1, &name);
            }
            if !rendering.mask.hides_fields() {
                put_document(out, 2, raw, rendering.format);
            }
            slots.clear();
        }
    });
    slots.drop(OperationType);
    // Nothing says what fields of an undocumented name, type or shape hold: what is hidden, or what a
    // projection leaves out.
    if rendering.mask.root().is_none() {
        slots.put_unclaimed(out, field::UNKNOWN_FIELDS, rendering.format);
    }
}

/// Returns the field number of the operation's message in `ChangeEvent.change`.
fn change_field(operation: Operation) -> u32 {
    match operation {
        Operation::Insert => 20,
        Operation::Update => 21,
        Operation::Replace => 22,
        Operation::Delete => 23,
        Operation::Drop => 24,
        Operation::Rename => 25,
        Operation::DropDatabase => 26,
        Operation::Create => 27,
        Operation::CreateIndexes => 28,
        Operation::DropIndexes => 29,
        Operation::Modify => 30,
        Operation::ShardCollection => 31,
        Operation::RefineCollectionShardKey => 32,
        Operation::ReshardCollection => 33,
        Operation::EndOfTransaction => 36,
        Operation::Other | Operation::Invalidate => 34,
    }
}

/// Appends the fields that events of all operations may have.
fn put_common_fields(
    out: &mut BytesMut,
    event: &Event,
    slots: &mut Slots<'_>,
    rendering: &Rendering,
) {
    let operation = event.operation.to_pb() as i32;
    put_number(out, field::OPERATION, u64::from(operation.unsigned_abs()));
    put_namespace(out, field::NAMESPACE, slots.take(EventField::Ns), slots);
    put_time(out, field::CLUSTER_TIME, slots, EventField::ClusterTime);
    let wall_time = slots
        .get(EventField::WallTime)
        .and_then(|it| it.as_datetime_millis())
        .filter(|millis| TIMESTAMP_MILLIS.contains(millis));
    if let Some(millis) = wall_time {
        slots.drop(EventField::WallTime);
        put_message(out, field::WALL_TIME, |out| {
            // Protobuf encodes a negative int64 as its two's complement.
            put_number(out, 1, millis.div_euclid(1000).cast_unsigned());
            put_number(
                out,
                2,
                (millis.rem_euclid(1000) * 1_000_000).cast_unsigned(),
            );
        });
    }
    put_slot(
        out,
        field::DOCUMENT_KEY,
        slots,
        EventField::DocumentKey,
        rendering,
    );
    put_transaction(out, event, slots);
    if let Some((_, uuid)) = slots
        .get(EventField::CollectionUuid)
        .and_then(|it| it.as_binary())
    {
        put_bytes_field(out, field::COLLECTION_UUID, uuid);
        slots.drop(EventField::CollectionUuid);
    }
}

/// Appends the document of a slot, unless the event does not have it.
fn put_slot(
    out: &mut BytesMut,
    number: u32,
    slots: &mut Slots<'_>,
    field: EventField,
    rendering: &Rendering,
) {
    match slots.take_document_field(field) {
        DocumentField::Absent => {}
        DocumentField::Null => put_null_document(out, number),
        DocumentField::Present(document) => match field {
            EventField::FullDocument | EventField::FullDocumentBeforeChange => {
                masked::put_document(out, number, document, rendering);
            }
            _ => masked::put_included_document(out, number, document, rendering),
        },
    }
}

/// Appends a namespace `{db, coll}`. One with other fields is also kept whole as an unknown field.
fn put_namespace<'a>(
    out: &mut BytesMut,
    number: u32,
    element: Option<Element<'a>>,
    slots: &mut Slots<'a>,
) {
    let Some(element) = element else { return };
    let Some(fields) = element
        .as_document()
        .and_then(|doc| Elements::new(doc).ok())
    else {
        return slots.unknown.push(element);
    };
    let mut names: [Cow<'_, str>; 2] = Default::default();
    let mut complete = true;
    for field in fields {
        match field {
            Ok(it) if it.key == b"db" && is_text(&it) => names[0] = text(&it),
            Ok(it) if it.key == b"coll" && is_text(&it) => names[1] = text(&it),
            _ => complete = false,
        }
    }
    put_message(out, number, |out| {
        for (index, name) in (1..).zip(&names) {
            if !name.is_empty() {
                put_string_field(out, index, name);
            }
        }
    });
    if !complete {
        slots.unknown.push(element);
    }
}

/// Appends the time of a slot, unless the event does not have it.
fn put_time(out: &mut BytesMut, number: u32, slots: &mut Slots<'_>, field: EventField) {
    let time = slots.get(field).and_then(|it| it.as_timestamp());
    if let Some((seconds, increment)) = time {
        slots.drop(field);
        put_message(out, number, |out| {
            put_number(out, 1, seconds.into());
            put_number(out, 2, increment.into());
        });
    }
}

/// Appends the transaction. A session id `lsid` with other fields than `id` is also kept whole as an
/// unknown field: MongoDB adds `uid`, the digest of the user.
fn put_transaction(out: &mut BytesMut, event: &Event, slots: &mut Slots<'_>) {
    let lsid = slots.get_document(EventField::Lsid).unwrap_or_default();
    let session = find(lsid, b"id").and_then(|id| id.as_binary());
    let number = slots.get(EventField::TxnNumber).and_then(|it| it.as_int());
    if let (Some((_, session)), Some(number)) = (session, number) {
        let element = slots.take(EventField::Lsid);
        // A malformed rest counts as well.
        if Elements::new(lsid).into_iter().flatten().count() > 1 {
            slots.unknown.extend(element);
        }
        slots.drop(EventField::TxnNumber);
        put_message(out, field::TRANSACTION, |out| {
            put_bytes_field(out, 1, session);
            put_number(out, 2, number.cast_unsigned());
            put_number(out, 3, event.is_last_of_transaction.into());
            put_time(out, 4, slots, EventField::CommitTimestamp);
        });
    }
}

/// Returns the documents of `operationDescription.indexes`.
fn indexes(description: &[u8]) -> impl Iterator<Item = &[u8]> {
    find(description, b"indexes")
        .filter(is_array)
        .into_iter()
        .flat_map(|array| elements(array.value))
        .filter_map(|index| index.as_document())
}

#[cfg(test)]
mod tests;
