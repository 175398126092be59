//! The values at a dotted path.
//!
//! MongoDB's source: `BSONElementIterator` in src/mongo/db/matcher/path.cpp, and `getFieldDottedOrArray` in
//! src/mongo/db/matcher/path_internal.cpp, which walks from document to document as far as the first array.

use mongodb::bson::{Bson, Document};

/// Returns all values that a condition on the path tests; `None` is a field that is missing.
pub fn values_at<'a>(document: &'a Document, path: &str) -> Vec<Option<&'a Bson>> {
    let parts: Vec<&str> = path.split('.').collect();
    in_document(document, &parts)
}

fn in_document<'a>(document: &'a Document, path: &[&str]) -> Vec<Option<&'a Bson>> {
    let (name, rest) = path.split_first().expect("a path has a part");
    match (document.get(name), rest.is_empty()) {
        // An array at the end of the path: its elements, and last the array.
        (Some(whole @ Bson::Array(elements)), true) => {
            elements.iter().chain([whole]).map(Some).collect()
        }
        (Some(value), true) => vec![Some(value)],
        (Some(Bson::Document(inner)), false) => in_document(inner, rest),
        (Some(Bson::Array(elements)), false) => in_array(elements, rest),
        // A field of something that has none.
        (Some(_), false) | (None, _) => vec![None],
    }
}

/// An array before the end of the path. Where nothing in it can have the rest of the path, nothing is tested at all.
fn in_array<'a>(elements: &'a [Bson], path: &[&str]) -> Vec<Option<&'a Bson>> {
    let (name, rest) = path.split_first().expect("a path has a part");
    let mut found = Vec::new();
    for (index, element) in elements.iter().enumerate() {
        // Each document in the array may have the rest of the path.
        if let Bson::Document(inner) = element {
            found.extend(in_document(inner, path));
        }
        // A number is also the place of an element, which is tested as it is: an array's elements are not.
        if *name == index.to_string() {
            match element {
                value if rest.is_empty() => found.push(Some(value)),
                Bson::Document(inner) => found.extend(in_document(inner, rest)),
                Bson::Array(inner) => found.extend(in_array(inner, rest)),
                _ => {}
            }
        }
    }
    found
}
