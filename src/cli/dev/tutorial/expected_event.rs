//! The expected content of the tutorial's events.

use mongodb::bson::{Bson, Document};
use serde_json::Value;

use crate::cli::watch::documents::to_json;
use crate::pb;
use crate::pb::change_event::Change;

/// The operation, key and content of an event, with documents as relaxed Extended JSON.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ExpectedEvent {
    operation: pb::OperationType,
    key: Option<Value>,
    updated: Option<Value>,
    document: Option<Value>,
}

/// An unexpected event or message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, but got {found}")]
pub(in crate::cli::dev) struct Mismatch {
    expected: String,
    found: String,
}

impl Mismatch {
    pub fn new(expected: impl Into<String>, found: impl Into<String>) -> Mismatch {
        Mismatch {
            expected: expected.into(),
            found: found.into(),
        }
    }
}

impl ExpectedEvent {
    /// Expects an event without key and content.
    pub fn of(operation: pb::OperationType) -> ExpectedEvent {
        ExpectedEvent {
            operation,
            key: None,
            updated: None,
            document: None,
        }
    }

    /// Expects this document key.
    pub fn key(mut self, key: &Document) -> ExpectedEvent {
        self.key = Some(as_json(key));
        self
    }

    /// Expects these updated fields.
    pub fn updated(mut self, fields: &Document) -> ExpectedEvent {
        self.updated = Some(as_json(fields));
        self
    }

    /// Expects this document after the change.
    pub fn document(mut self, document: &Document) -> ExpectedEvent {
        self.document = Some(as_json(document));
        self
    }

    /// Compares everything with a received event.
    pub fn check(&self, event: &pb::ChangeEvent) -> Result<(), Mismatch> {
        let found = ExpectedEvent::from_event(event);
        if *self == found {
            Ok(())
        } else {
            Err(Mismatch::new(self.to_string(), found.to_string()))
        }
    }

    fn from_event(event: &pb::ChangeEvent) -> ExpectedEvent {
        let (updated, document) = match &event.change {
            Some(Change::Insert(insert)) => (None, insert.full_document.as_ref()),
            Some(Change::Update(update)) => (
                update
                    .update_description
                    .as_ref()
                    .and_then(|description| description.updated_fields.as_ref()),
                update.full_document.as_ref(),
            ),
            Some(Change::Replace(replace)) => (None, replace.full_document.as_ref()),
            _ => (None, None),
        };
        ExpectedEvent {
            operation: event.operation(),
            key: event.document_key.as_ref().map(parse),
            updated: updated.map(parse),
            document: document.map(parse),
        }
    }
}

impl std::fmt::Display for ExpectedEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.operation.as_str_name())?;
        for (name, value) in [
            ("key", &self.key),
            ("updated", &self.updated),
            ("document", &self.document),
        ] {
            if let Some(value) = value {
                write!(f, " {name} {value}")?;
            }
        }
        Ok(())
    }
}

fn as_json(document: &Document) -> Value {
    Bson::Document(document.clone()).into_relaxed_extjson()
}

/// Parses a document. Invalid JSON becomes a string, which equals no expected document.
fn parse(document: &pb::Document) -> Value {
    let text = to_json(document);
    serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()))
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    fn json(text: &str) -> Option<pb::Document> {
        Some(pb::Document {
            value: Some(pb::document::Value::Json(text.to_owned())),
        })
    }

    fn update() -> pb::ChangeEvent {
        pb::ChangeEvent {
            operation: pb::OperationType::Update.into(),
            document_key: json(r#"{"_id": 1}"#),
            change: Some(Change::Update(pb::Update {
                update_description: Some(pb::UpdateDescription {
                    updated_fields: json(r#"{"stock":2}"#),
                    ..pb::UpdateDescription::default()
                }),
                full_document: json(r#"{ "stock": 2, "_id": 1 }"#),
                full_document_before_change: None,
            })),
            ..pb::ChangeEvent::default()
        }
    }

    #[test]
    fn an_event_is_compared_by_operation_key_and_content() {
        let right = ExpectedEvent::of(pb::OperationType::Update)
            .key(&doc! { "_id": 1 })
            .updated(&doc! { "stock": 2 })
            .document(&doc! { "_id": 1, "stock": 2 });
        assert_eq!(right.check(&update()), Ok(()));
        for wrong in [
            right.clone().key(&doc! { "_id": 2 }),
            right.clone().updated(&doc! { "stock": 3 }),
            right.clone().document(&doc! { "_id": 1 }),
            ExpectedEvent {
                operation: pb::OperationType::Insert,
                ..right.clone()
            },
            ExpectedEvent::of(pb::OperationType::Update),
        ] {
            assert!(wrong.check(&update()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mismatch_names_the_expected_and_the_received_event() {
        let expected = ExpectedEvent::of(pb::OperationType::Delete).key(&doc! { "_id": 1 });
        assert_eq!(
            expected.check(&update()).unwrap_err().to_string(),
            "expected OPERATION_TYPE_DELETE key {\"_id\":1}, but got OPERATION_TYPE_UPDATE \
             key {\"_id\":1} updated {\"stock\":2} document {\"_id\":1,\"stock\":2}"
        );
    }
}
