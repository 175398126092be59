//! The document that is written and read: an order of ordinary shape.

use mongodb::bson::{DateTime, Document, doc};

/// The size of every document, as BSON.
pub const BYTES: usize = 1024;

/// The order with this `_id`: 21 fields on three levels, of exactly [`BYTES`] bytes.
pub fn document(id: i64) -> Document {
    let mut order = doc! {
        "_id": id,
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
        "note": "",
    };
    let bytes = order.to_vec().expect("the order is valid BSON").len();
    order.insert("note", "x".repeat(BYTES - bytes));
    order
}
