//! The validation of a request's own stages, `WatchRequest.pipeline`.
//!
//! A stage arrives in one of three forms, which are read within the nesting that MongoDB allows, and `rules` says what a stage may contain. What is left to MongoDB is whether the stage's
//! expressions make sense.

mod rules;

use std::sync::Arc;

use bson::{Bson, Document};
use prost::Message as _;

use crate::filter::Predicate;
use crate::filter::extended_json::{from_struct, from_text};
use crate::filter::raw_bson::document_from_bytes;
use crate::model::{FeedMode, Findings, quoted};
use crate::pb;
use crate::pb::pipeline_stage::Kind;

/// A request's own stages, valid, in order. Only their BSON is kept, and clones share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientStages(Arc<[u8]>);

impl ClientStages {
    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Decodes the stages.
    #[must_use]
    pub fn documents(&self) -> Vec<Document> {
        let mut rest = &self.0[..];
        // At the end there is none.
        std::iter::from_fn(|| Document::from_reader(&mut rest).ok()).collect()
    }

    /// Returns the memory that they take, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<Document> for ClientStages {
    /// # Panics
    /// Panics if a field's name has a NUL, which validation keeps out.
    fn from_iter<I: IntoIterator<Item = Document>>(stages: I) -> Self {
        let mut bytes = Vec::new();
        for stage in stages {
            stage
                .to_writer(&mut bytes)
                .expect("validation keeps NUL out of every field name");
        }
        Self(bytes.into())
    }
}

const FIELD: &str = "pipeline";
/// The most stages of a request.
const MAX_STAGES: usize = 20;
/// The most bytes of all stages together, both as they were sent and in BSON.
const MAX_BYTES: usize = 64 * 1024;

/// Reads and checks the stages of a request. Violations are noted in `findings`; the stages that are left are
/// of use only if there are none.
pub(super) fn client_stages(
    stages: Vec<pb::PipelineStage>,
    findings: &mut Findings,
) -> ClientStages {
    if stages.len() > MAX_STAGES {
        findings.invalid(
            FIELD,
            format!(
                "has {} stages; use at most {MAX_STAGES}, and join what one $match or $project can do",
                stages.len()
            ),
        );
        return ClientStages::default();
    }
    // Checked before anything is parsed, so that a large request costs little.
    if !fits(stages.iter().map(sent_bytes).sum(), findings) {
        return ClientStages::default();
    }
    let mut documents = Vec::with_capacity(stages.len());
    let mut bytes = 0;
    for (index, stage) in stages.into_iter().enumerate() {
        if findings.is_full() {
            break;
        }
        let read = read(stage).and_then(|(document, size)| {
            rules::check(&document)?;
            Ok((document, size))
        });
        match read {
            Ok((document, size)) => {
                bytes += size;
                documents.push(document);
            }
            Err(problem) => findings.invalid(format!("{FIELD}[{index}]"), problem),
        }
    }
    fits(bytes, findings);
    documents.into_iter().collect()
}

/// Checks what can't be had together with stages.
pub(super) fn check_combination(
    filter: Option<&Predicate>,
    feed_mode: FeedMode,
    findings: &mut Findings,
) {
    if let Some(path) = filter.and_then(Predicate::changed_path) {
        findings.invalid(
            "filters",
            format!(
                "`changed` of {} can't be combined with pipeline, whose stages may remove what `changed` \
                 reads; match updateDescription in a $match stage instead, or leave pipeline out",
                quoted(path)
            ),
        );
    }
    if feed_mode == FeedMode::Shared {
        findings.invalid(
            "feed_mode",
            "is FEED_MODE_SHARED, but stages in pipeline need a change stream of their own; use \
             FEED_MODE_AUTO, or leave pipeline out",
        );
    }
}

fn fits(bytes: usize, findings: &mut Findings) -> bool {
    if bytes > MAX_BYTES {
        findings.invalid(
            FIELD,
            format!("is {bytes} bytes long; use at most {MAX_BYTES}, as sent and as BSON"),
        );
    }
    bytes <= MAX_BYTES
}

fn sent_bytes(stage: &pb::PipelineStage) -> usize {
    match &stage.kind {
        None => 0,
        Some(Kind::Struct(fields)) => fields.encoded_len(),
        Some(Kind::Json(text)) => text.len(),
        Some(Kind::Bson(bytes)) => bytes.len(),
    }
}

/// Reads a stage in any of its forms, and returns it with its size in BSON.
fn read(stage: pb::PipelineStage) -> Result<(Document, usize), String> {
    let document = match stage.kind {
        None => {
            return Err("sets no kind; set struct, json or bson".to_owned());
        }
        Some(Kind::Struct(fields)) => {
            stage_document(from_struct(fields).map_err(|problem| problem.into_text())?)?
        }
        Some(Kind::Json(text)) => stage_document(from_text(&text)?)?,
        Some(Kind::Bson(bytes)) => document_from_bytes(&bytes)?,
    };
    match document.to_vec() {
        Ok(bytes) => Ok((document, bytes.len())),
        Err(error) => Err(format!("can't be written as BSON: {error}")),
    }
}

fn stage_document(stage: Bson) -> Result<Document, String> {
    match stage {
        Bson::Document(stage) => Ok(stage),
        other => Err(format!(
            "is {}; a stage is a document with one field, the name of the stage",
            quoted(&other.to_string())
        )),
    }
}

#[cfg(test)]
mod tests;
