//! Replies with cursors, and BSON that is written from raw bytes.

use mongodb::bson::{Document, Timestamp};

/// A reply to an `aggregate` or a `getMore`, before it is encoded.
#[derive(Debug, Clone)]
pub struct Reply {
    /// True if it answers an `aggregate`.
    pub first: bool,
    /// The cursor id; 0 means that the cursor is exhausted.
    pub cursor: i64,
    /// The events, each as raw bytes.
    pub events: Vec<Vec<u8>>,
    /// The position after the events, as a raw BSON document.
    pub post_batch_token: Option<Vec<u8>>,
    /// The server's time.
    pub operation_time: Option<Timestamp>,
}

impl Reply {
    /// The encoded document of the reply. The lengths around the events are right, whatever lengths
    /// the events claim.
    pub fn bytes(&self) -> Vec<u8> {
        let mut batch = RawWriter::new();
        for (index, event) in self.events.iter().enumerate() {
            batch.put(0x03, index.to_string(), event);
        }
        let mut cursor = RawWriter::new();
        let name = if self.first {
            "firstBatch"
        } else {
            "nextBatch"
        };
        cursor.put(0x04, name, &batch.finish());
        cursor.put(0x12, "id", &self.cursor.to_le_bytes());
        if let Some(token) = &self.post_batch_token {
            cursor.put(0x03, "postBatchResumeToken", token);
        }
        let namespace = string_value(format!("{}.orders", super::DATABASE));
        cursor.put(0x02, "ns", &namespace);
        let mut reply = RawWriter::new();
        reply.put(0x03, "cursor", &cursor.finish());
        reply.put(0x01, "ok", &1.0_f64.to_le_bytes());
        if let Some(time) = self.operation_time {
            let time = u64::from(time.time) << 32 | u64::from(time.increment);
            reply.put(0x11, "operationTime", &time.to_le_bytes());
        }
        reply.finish()
    }
}

/// Writes a document from elements that are raw bytes.
#[derive(Debug)]
pub struct RawWriter(Vec<u8>);

impl RawWriter {
    pub fn new() -> Self {
        Self(vec![0; 4])
    }

    /// Adds an element with any value bytes.
    pub fn put(&mut self, kind: u8, key: impl AsRef<[u8]>, value: &[u8]) -> &mut Self {
        self.0.push(kind);
        self.0.extend(key.as_ref());
        self.0.push(0);
        self.0.extend(value);
        self
    }

    /// The document, with its correct length.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.push(0);
        let length = i32::try_from(self.0.len()).expect("a document of a test is under 2 GiB");
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0
    }
}

/// The value of a string element.
pub fn string_value(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    let length = i32::try_from(text.len() + 1).expect("a test's text is short");
    let mut value = length.to_le_bytes().to_vec();
    value.extend(text);
    value.push(0);
    value
}

/// The bytes of a document.
pub(super) fn bytes_of(document: &Document) -> Vec<u8> {
    document
        .to_vec()
        .expect("what a test builds of documents is BSON")
}
