//! Times, tokens and the kind of a server as MongoDB's commands and replies have them.

use bson::{Bson, Document, RawDocument, spec::ElementType};

use crate::source::{ClusterTime, Failure, SourceError};

/// Returns the operation time of a reply to a command.
pub(super) fn operation_time(answer: &Document) -> Option<ClusterTime> {
    answer.get_timestamp("operationTime").ok().map(time_of)
}

pub(super) fn time_of(timestamp: bson::Timestamp) -> ClusterTime {
    ClusterTime {
        seconds: timestamp.time,
        increment: timestamp.increment,
    }
}

/// Converts a time to the BSON value that MongoDB takes for it.
pub(crate) fn timestamp(time: ClusterTime) -> bson::Timestamp {
    bson::Timestamp {
        time: time.seconds,
        increment: time.increment,
    }
}

/// Converts a resume token to the document that is sent. It must be a flat document, as MongoDB's tokens
/// are: one nested as deeply as 16 KiB allow would overflow the stack.
pub(crate) fn token_document(token: &[u8]) -> Result<Document, SourceError> {
    let refused = || {
        SourceError::new(
            Failure::TokenInvalid,
            "the resume token is not a flat document",
        )
    };
    let raw = RawDocument::from_bytes(token).map_err(|_| refused())?;
    let mut document = Document::new();
    for element in raw {
        let (name, value) = element.map_err(|_| refused())?;
        if matches!(
            value.element_type(),
            ElementType::EmbeddedDocument
                | ElementType::Array
                | ElementType::JavaScriptCodeWithScope
        ) {
            return Err(refused());
        }
        let value = Bson::try_from(value).map_err(|_| refused())?;
        document.insert(name.as_str(), value);
    }
    Ok(document)
}

/// What MongoDB's `hello` says of its kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub is_sharded: bool,
    pub has_sessions: bool,
}

impl Kind {
    pub(super) fn of(hello: &Document) -> Self {
        Self {
            is_sharded: matches!(hello.get_str("msg"), Ok("isdbgrid")),
            has_sessions: hello.contains_key("logicalSessionTimeoutMinutes"),
        }
    }
}
