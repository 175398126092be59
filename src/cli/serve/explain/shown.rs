//! `--try`: a document on the way of an event, through the server's evaluator and encoder.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use bson::{Bson, Document, Timestamp, doc};
use bytes::Bytes;
use prost::Message as _;

use super::granted::Granted;
use crate::{
    cli::watch::documents::to_json,
    filter::{Clauses, Evaluator, EventFields, extended_json::from_text},
    model::{FullDocument, MissingImage, Operation},
    pb::{self, change_event::Change},
    pipeline::{Plan, Watch},
    source::Event,
    wire::{self, TokenContext},
};

/// The largest document, which is that of MongoDB, as text.
const MAX_BYTES: u64 = 64 << 20;

/// What a caller would get of a document.
pub(super) struct Shown {
    /// The result of the row filter; `None` where it is unknown, or there is none.
    pub(super) matches: Option<bool>,
    pub(super) has_filter: bool,
    /// The event that carries the document; `None` if no event is granted that has one or names it.
    pub(super) operation: Option<Operation>,
    /// The event's parts as the caller gets them, in Extended JSON; `None` if it does not get the event.
    pub(super) parts: Option<Vec<(&'static str, String)>>,
}

/// Reads a document in Extended JSON; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<Document, String> {
    let at = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let failed = |problem: &dyn std::fmt::Display| format!("--try: {at}: {problem}");
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
    };
    let length = read.map_err(|error| failed(&error))?;
    if length as u64 > MAX_BYTES {
        return Err(failed(&"is larger than 64 MiB"));
    }
    match from_text(&text) {
        Ok(Bson::Document(document)) => Ok(document),
        Ok(_) => Err(failed(&"is not a document: write {\"_id\": 1, ...}")),
        Err(problem) => Err(failed(&problem)),
    }
}

impl Shown {
    /// Returns what a watch, narrowed to what its caller may see, delivers of a document.
    pub(super) fn of(
        document: &Document,
        granted: &Granted,
        watch: &Watch,
    ) -> Result<Self, String> {
        let row_filter = &granted.view.row_filter;
        let Some(operation) = carrier(granted) else {
            return Ok(Self {
                matches: None,
                has_filter: row_filter.is_some(),
                operation: None,
                parts: None,
            });
        };
        let mut watch = watch.clone();
        // A request asks for the image that carries the document.
        let mut images = granted.full_documents.iter().map(|(it, _)| *it);
        let with_image = images.rfind(|it| *it != FullDocument::Default);
        watch.full_document = with_image.unwrap_or(watch.full_document);
        let event = event(document, operation, granted, with_image.is_some());
        let failed = |problem: &dyn std::fmt::Display| {
            format!("--try: the document can't be stored: {problem}")
        };
        let buffer = Bytes::from(event.to_vec().map_err(|error| failed(&error))?);
        let event = Event::parse(&buffer, 0..buffer.len()).map_err(|error| failed(&error))?;
        let fields = EventFields::new(operation, &buffer, &event.index);
        let passes = |clauses: &Clauses| Evaluator::new(clauses).evaluate(&fields).is_some();
        let is_delivered = passes(&watch.shared_residual());
        let [if_unknown, otherwise] =
            [MissingImage::Deliver, MissingImage::Drop].map(|missing_image| {
                passes(&Clauses {
                    filter: row_filter.clone(),
                    missing_image,
                    pre_images: operation == Operation::Delete,
                    ..Clauses::default()
                })
            });
        let parts = is_delivered.then(|| {
            let tokens = TokenContext::new("", &Plan::shared(&watch));
            let encoded = wire::encode(&buffer, [&event], &tokens, &watch.rendering, |it| it);
            encoded
                .first()
                .and_then(|it| pb::ChangeEvent::decode(it.message()).ok())
                .map(parts)
                .unwrap_or_default()
        });
        Ok(Self {
            matches: (if_unknown == otherwise).then_some(otherwise),
            has_filter: row_filter.is_some(),
            operation: Some(operation),
            parts,
        })
    }
}

/// Returns the operation whose event carries the whole document, or else its key, if one is granted.
fn carrier(granted: &Granted) -> Option<Operation> {
    let has = |operation: Operation| granted.operations.contains(&operation);
    let by_image = granted
        .full_documents
        .iter()
        .any(|(it, _)| *it != FullDocument::Default);
    let by_preference = [
        (Operation::Insert, true),
        (Operation::Replace, true),
        (Operation::Update, by_image),
        (Operation::Delete, granted.pre_images),
        (Operation::Update, true),
        (Operation::Delete, true),
    ];
    let mut granted = by_preference.into_iter().filter(|(it, _)| has(*it));
    granted.find(|(_, carries)| *carries).map(|(it, _)| it)
}

/// Returns the event as MongoDB sends it.
fn event(
    document: &Document,
    operation: Operation,
    granted: &Granted,
    with_image: bool,
) -> Document {
    let mut event = doc! {
        "_id": { "_data": "00" },
        "operationType": operation.name(),
        "clusterTime": Timestamp { time: 1, increment: 1 },
        "ns": { "db": "d", "coll": "c" },
    };
    if let Some(id) = document.get("_id") {
        event.insert("documentKey", doc! { "_id": id.clone() });
    }
    match operation {
        Operation::Delete if granted.pre_images => {
            event.insert("fullDocumentBeforeChange", document.clone());
        }
        Operation::Insert | Operation::Replace => {
            event.insert("fullDocument", document.clone());
        }
        Operation::Update => {
            let nothing: Vec<Bson> = Vec::new();
            let description = doc! { "updatedFields": {}, "removedFields": nothing };
            event.insert("updateDescription", description);
            if with_image {
                event.insert("fullDocument", document.clone());
            }
        }
        _ => {}
    }
    event
}

/// Returns the documents in an event.
fn parts(event: pb::ChangeEvent) -> Vec<(&'static str, String)> {
    let (after, before) = match event.change {
        Some(Change::Insert(it)) => (it.full_document, None),
        Some(Change::Replace(it)) => (it.full_document, it.full_document_before_change),
        Some(Change::Update(it)) => (it.full_document, it.full_document_before_change),
        Some(Change::Delete(it)) => (None, it.full_document_before_change),
        _ => (None, None),
    };
    let named = [
        ("document_key", event.document_key),
        ("full_document", after),
        ("full_document_before_change", before),
    ];
    let present = named.into_iter().filter_map(|(name, it)| Some((name, it?)));
    present
        .map(|(name, document)| (name, to_json(&document).into_owned()))
        .collect()
}
