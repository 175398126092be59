//! The documents: orders of ordinary shape, and small ones with the time at which they were sent.

use mongodb::bson::{DateTime, Document, doc};

/// The size of every order in BSON.
pub const BYTES: usize = 1024;

/// The order with this `_id`: 21 fields on three levels, of exactly [`BYTES`] bytes.
pub fn document(id: i64) -> Document {
    padded(order(doc! { "_id": id }), BYTES)
}

/// The values that a document of the fan-out parts carries. They are its first fields, in this
/// order, so that a reader finds them without a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Rises by one from document to document.
    pub id: i64,
    /// The time at which it was sent, in microseconds since 1970.
    pub sent: i64,
    /// The value that filters select.
    pub group: i64,
}

/// The number of fields of a wide document.
const FIELDS: usize = 30;

impl Stamp {
    /// The offsets of the values in the document's bytes: after its length, each after its type and
    /// name.
    const ID_AT: usize = 4 + 5;
    const SENT_AT: usize = Self::ID_AT + 8 + 6;
    const GROUP_AT: usize = Self::SENT_AT + 8 + 7;

    /// A document with this stamp and, if possible, of this many bytes: an order if it fits.
    pub fn document(self, bytes: usize) -> Document {
        let Self { id, sent, group } = self;
        let stamp = doc! { "_id": id, "sent": sent, "group": group };
        if bytes < BYTES {
            padded(stamp, bytes)
        } else {
            padded(order(stamp), bytes)
        }
    }

    /// A document of thirty fields with this stamp, of about this many bytes.
    pub fn wide_document(self, bytes: usize) -> Document {
        let Self { id, sent, group } = self;
        let mut document = doc! { "_id": id, "sent": sent, "group": group };
        // Each has eleven bytes beside its text.
        let text = (bytes / FIELDS).saturating_sub(11);
        for number in document.len()..FIELDS {
            document.insert(format!("f{number:02}"), "x".repeat(text));
        }
        document
    }

    /// The stamp of a document, read in place.
    pub fn read(document: &[u8]) -> Option<Self> {
        let number = |at: usize, name: &[u8]| {
            let name_at = at - name.len();
            let names = document.get(name_at..at)? == name;
            let bytes = document.get(at..at + 8)?.try_into().ok()?;
            names.then(|| i64::from_le_bytes(bytes))
        };
        Some(Self {
            id: number(Self::ID_AT, b"\x12_id\0")?,
            sent: number(Self::SENT_AT, b"\x12sent\0")?,
            group: number(Self::GROUP_AT, b"\x12group\0")?,
        })
    }

    /// Replaces the stamp of a document.
    pub fn write(self, document: &mut [u8]) {
        for (at, number) in [
            (Self::ID_AT, self.id),
            (Self::SENT_AT, self.sent),
            (Self::GROUP_AT, self.group),
        ] {
            document[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
    }
}

/// The group of a document. Consecutive ids are in distant groups; 7,919 is a prime and no factor
/// of any number of groups here.
pub fn group_of(id: i64, groups: i64) -> i64 {
    (id * 7_919).rem_euclid(groups.max(1))
}

/// An order that starts with these fields.
fn order(mut first: Document) -> Document {
    first.extend(doc! {
        "customer": "customer-00004217",
        "status": "shipped",
        "total": 129.95,
        "currency": "EUR",
        "created": DateTime::from_millis(1_700_000_000_000),
        "priority": 3,
        "express": true,
        "address": { "street": "1 Mill Lane", "city": "Weirton", "zip": "26062", "country": "US" },
        "lines": [
            { "sku": "A-1001", "quantity": 2, "price": 19.99 },
            { "sku": "B-2002", "quantity": 1, "price": 89.97 },
        ],
    });
    first
}

/// Pads a document with a note to this size.
fn padded(mut document: Document, size: usize) -> Document {
    document.insert("note", "");
    let bytes = document.to_vec().expect("the order is valid BSON").len();
    document.insert("note", "x".repeat(size.saturating_sub(bytes)));
    document
}
