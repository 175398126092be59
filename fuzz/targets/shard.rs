//! Fuzz target: the canonical form and the hash of an `_id`. Two values have the same form exactly if a filter holds
//! them equal.

use bson::{Bson, Document, doc};
use weir::{
    filter::{Clauses, Condition, Evaluator, EventFields, Predicate, canonical_bytes, id_hash},
    model::Operation,
    raw::{Element, ElementType, Elements},
};

use super::{
    fixtures,
    input::{Input, document, put_element, put_part},
};

/// Documents that are this small nest less deeply than the canonical form follows.
const MAX_COMPARED: usize = 1_024;

/// Reads the input as two documents, computes the form and the hash of each one's `_id`, and compares them.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (left, right) = (input.part(), input.0);
    for document in [left, right] {
        let hash = id_hash(document);
        let Some(id) = id(document) else {
            assert_eq!(hash, None);
            continue;
        };
        let form = canonical_bytes(&id);
        let [kind, value @ ..] = &form[..] else {
            panic!("a form has a type");
        };
        let of_form = Element {
            kind: ElementType::from(*kind).expect("the type is one of BSON's"),
            key: b"_id",
            value,
        };
        // The form is its own form, and is found where the value was.
        assert_eq!(canonical_bytes(&of_form), form);
        let mut element = Vec::new();
        put_element(&mut element, *kind, "_id", value);
        if data.len() <= MAX_COMPARED {
            assert_eq!(id_hash(&super::input::document(&element)), hash);
        }
    }
    if data.len() <= MAX_COMPARED {
        compare(left, right);
    }
}

/// The first `_id`, if there is one before anything that is malformed.
fn id(document: &[u8]) -> Option<Element<'_>> {
    let mut fields = Elements::new(document).ok()?.map_while(Result::ok);
    fields.find(|field| field.key == b"_id")
}

/// Compares the forms with what a filter on the left `_id` says of the right one.
fn compare(left: &[u8], right: &[u8]) {
    let Ok(document) = Document::from_reader(left) else {
        return;
    };
    let (Some(left_id), Some(right_id)) = (id(left), id(right)) else {
        return;
    };
    let Some(value) = document.get("_id") else {
        return;
    };
    // Not what the decoder changes, such as repeated names.
    if doc! {"_id": value}.to_vec().ok() != Some(alone(&left_id)) {
        return;
    }
    // On an array a filter also compares its elements.
    if matches!(value, Bson::Array(_)) || right_id.kind == ElementType::Array {
        return;
    }
    let filter = Predicate::Field {
        path: "_id".into(),
        op: Condition::Eq(value.clone()),
    };
    let evaluator = Evaluator::new(&Clauses {
        filter: Some(filter.into()),
        ..Clauses::default()
    });
    let mut key = Vec::new();
    put_element(
        &mut key,
        ElementType::EmbeddedDocument as u8,
        "documentKey",
        &alone(&right_id),
    );
    let event = super::input::document(&key);
    let fields = EventFields::read(Operation::Delete, &event);
    assert_eq!(
        canonical_bytes(&left_id) == canonical_bytes(&right_id),
        evaluator.evaluate(&fields).is_some(),
    );
}

fn alone(id: &Element<'_>) -> Vec<u8> {
    let mut element = Vec::new();
    put_element(&mut element, id.kind as u8, "_id", id.value);
    document(&element)
}

/// Returns values of every type, beside an equal one of another type where there is one.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let pair = |left: Bson, right: Bson| {
        let mut seed = Vec::new();
        put_part(&mut seed, &doc! {"_id": left}.to_vec().expect("BSON"));
        seed.extend(doc! {"_id": right}.to_vec().expect("BSON"));
        seed
    };
    let decimal = |text: &str| Bson::Decimal128(text.parse().expect("a decimal"));
    let every_type = Bson::from(fixtures::every_type());
    vec![
        ("every-type", pair(every_type.clone(), every_type)),
        ("integers", pair(Bson::Int32(17), Bson::Int64(17))),
        ("double", pair(Bson::Double(0.5), decimal("0.50"))),
        ("decimal", pair(decimal("1.0E+6144"), decimal("1E+6144"))),
        ("nan", pair(Bson::Double(f64::NAN), decimal("NaN"))),
        ("text", pair("a".into(), Bson::Symbol("a".into()))),
        (
            "documents",
            pair(
                doc! {"a": [1, 2.0]}.into(),
                doc! {"a": [1_i64, decimal("2.0")]}.into(),
            ),
        ),
    ]
}
