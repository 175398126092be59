//! A model of how MongoDB matches documents, made from what its source says and from nothing of Weir's.
//!
//! It evaluates the query documents that MongoDB gets, on decoded values, in the plainest way. Each part names the
//! files and functions of MongoDB's source that decide. They are those of 8.x; what earlier versions do otherwise is in
//! docs/filters.md.

pub mod number;
pub mod order;
pub mod path;
pub mod pattern;
pub mod query;

use mongodb::bson::{Bson, doc};
use query::Model;

use super::near_values::{binary, decimal};

/// Facts that are easily got wrong, each with what decides it.
#[test]
fn the_model_knows_what_mongodbs_source_says() {
    let model = Model::default();
    let cases = [
        // compareDecimalToDouble: the double 0.1 is a little more than a tenth.
        (doc! {"a": decimal("0.1")}, doc! {"a": {"$lt": 0.1}}, true),
        (doc! {"a": decimal("0.1")}, doc! {"a": {"$eq": 0.1}}, false),
        (doc! {"a": decimal("0.5")}, doc! {"a": {"$eq": 0.5}}, true),
        // compareLongToDouble
        (
            doc! {"a": (1_i64 << 53) + 1},
            doc! {"a": {"$gt": 9_007_199_254_740_992.0}},
            true,
        ),
        (
            doc! {"a": i64::MAX},
            doc! {"a": {"$lt": 9_223_372_036_854_775_808.0}},
            true,
        ),
        // evaluateComparisonExpressionSingleElement: NaN equals NaN, and no other comparison holds.
        (
            doc! {"a": f64::NAN},
            doc! {"a": {"$gte": decimal("NaN")}},
            true,
        ),
        (doc! {"a": f64::NAN}, doc! {"a": {"$lt": 1}}, false),
        // compareElements, BinData: length, subtype, bytes.
        (
            doc! {"a": binary(0, b"b")},
            doc! {"a": {"$lt": binary(0, b"ab")}},
            true,
        ),
        (
            doc! {"a": binary(5, b"a")},
            doc! {"a": {"$gt": binary(0, b"b")}},
            true,
        ),
        // BSONElementIterator::more: nothing is beyond the end of an array, and a number finds an element as it is.
        (doc! {"a": [1]}, doc! {"a.1": {"$eq": Bson::Null}}, false),
        (doc! {"a": [1]}, doc! {"a.b": {"$eq": Bson::Null}}, false),
        (
            doc! {"a": [{"c": 1}]},
            doc! {"a.b": {"$eq": Bson::Null}},
            true,
        ),
        (doc! {"a": [[1]]}, doc! {"a.0": {"$eq": 1}}, false),
        (doc! {"a": [[1]]}, doc! {"a.0": {"$eq": [1]}}, true),
        (doc! {"a": [[1]]}, doc! {"a.0.0": {"$eq": 1}}, true),
        (doc! {"a": [{"0": 5}, 6]}, doc! {"a.0": {"$eq": 5}}, true),
        // evaluateComparisonExpressionSingleElement: what is missing, and the ends of the order.
        (doc! {}, doc! {"a": {"$lte": Bson::Null}}, true),
        (doc! {}, doc! {"a": {"$lt": Bson::Null}}, false),
        (doc! {}, doc! {"a": {"$gt": Bson::MinKey}}, true),
        (doc! {"a": []}, doc! {"a": {"$lt": Bson::MaxKey}}, true),
        (
            doc! {"a": Bson::Undefined},
            doc! {"a": {"$eq": Bson::Null}},
            false,
        ),
        // BSONElement::woCompare: the type comes before the name, and the name before the value.
        (doc! {"a": {"b": "x"}}, doc! {"a": {"$gt": {"c": 1}}}, true),
        (doc! {"a": {"b": 2}}, doc! {"a": {"$lt": {"c": 1}}}, true),
        (
            doc! {"a": {"b": 1, "c": 1}},
            doc! {"a": {"$eq": {"c": 1, "b": 1}}},
            false,
        ),
    ];
    for (document, query, expected) in cases {
        assert_eq!(
            model.matches(&query, &document),
            expected,
            "{query} on {document}"
        );
    }
}
