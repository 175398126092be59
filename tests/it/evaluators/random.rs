//! Random documents, changes and filters, from few names and values, so that they often match.

use std::collections::BTreeSet;
use std::fmt;

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, Regex, Timestamp, doc, oid::ObjectId};
use proptest::prelude::*;
use proptest::sample::select;
use weir::filter::{Condition, Predicate};
use weir::model::{MissingImage, Operation};

/// Changes of one collection, and the filters to evaluate on them.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub lookup: bool,
    pub pre_images: bool,
    pub changes: Vec<Change>,
    pub cases: Vec<FilterCase>,
}

#[derive(Clone)]
pub enum Change {
    Insert(Document),
    Update(Bson, Document),
    Replace(Bson, Document),
    Delete(Bson),
}

/// In few lines, so that a failure is readable.
impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Insert(document) => write!(f, "insert {document}"),
            Change::Update(id, update) => write!(f, "update {id} by {update}"),
            Change::Replace(id, document) => write!(f, "replace {id} by {document}"),
            Change::Delete(id) => write!(f, "delete {id}"),
        }
    }
}

#[derive(Clone, Debug)]
pub struct FilterCase {
    pub guard: Option<Predicate>,
    pub filter: Predicate,
    pub operations: Option<BTreeSet<Operation>>,
    pub missing_image: MissingImage,
}

/// The faults of SecantusDB, which stands in for MongoDB: such filters are sent only to a real MongoDB
/// (`WEIR_TEST_MONGODB_URI`). [`model`](super::model) tests them too. Each has the reason, and the conditions that would
/// show it.
const KNOWN_DIFFERENCES: &[Difference] = &[
    Difference {
        reason: "it takes a place that an array does not have for null; MongoDB finds nothing there \
                 to compare",
        shows: |path, op| has_index(path) && matches_missing(op),
    },
    Difference {
        reason: "its classes of characters go beyond ASCII",
        shows: |_, op| matches!(op, Condition::Regex { pattern, .. } if pattern.contains(r"\w")),
    },
    Difference {
        reason: "it takes the double 0.1 for equal to the decimal 0.1; MongoDB compares their exact \
                 values (`compareDecimalToDouble` in its compare_numbers.h)",
        shows: |_, op| literals_in(op).iter().any(|it| holds(it, is_a_tenth)),
    },
    Difference {
        reason: "it orders binaries by their bytes; MongoDB by length and subtype first",
        shows: |_, op| {
            let is_order = matches!(
                op,
                Condition::Gt(_) | Condition::Gte(_) | Condition::Lt(_) | Condition::Lte(_)
            );
            let is_binary = |value: &Bson| matches!(value, Bson::Binary(_));
            is_order && literals_in(op).iter().any(|it| holds(it, is_binary))
        },
    },
];

struct Difference {
    #[expect(dead_code, reason = "for who reads the list")]
    reason: &'static str,
    /// Returns true if a condition would show it.
    shows: fn(&str, &Condition) -> bool,
}

fn is_known_difference(path: &str, op: &Condition) -> bool {
    let real = std::env::var("WEIR_TEST_MONGODB_URI").is_ok_and(|uri| !uri.is_empty());
    !real
        && KNOWN_DIFFERENCES
            .iter()
            .any(|known| (known.shows)(path, op))
}

fn has_index(path: &str) -> bool {
    path.split('.').any(|part| part.parse::<usize>().is_ok())
}

/// Returns whether a missing field satisfies the condition.
fn matches_missing(op: &Condition) -> bool {
    match op {
        Condition::Eq(_) | Condition::Ne(_) | Condition::In(_) | Condition::NotIn(_) => {
            literals_in(op).contains(&Bson::Null)
        }
        Condition::Gte(value)
        | Condition::Lte(value)
        | Condition::Gt(value)
        | Condition::Lt(value) => matches!(value, Bson::Null | Bson::MinKey | Bson::MaxKey),
        _ => false,
    }
}

fn literals_in(op: &Condition) -> &[Bson] {
    match op {
        Condition::In(values) | Condition::NotIn(values) => values,
        Condition::Eq(value)
        | Condition::Ne(value)
        | Condition::Gt(value)
        | Condition::Gte(value)
        | Condition::Lt(value)
        | Condition::Lte(value) => std::slice::from_ref(value),
        _ => &[],
    }
}

/// 0.1, which [`literals`] has as a double and as a decimal.
fn is_a_tenth(value: &Bson) -> bool {
    match value {
        Bson::Double(number) => *number == 0.1,
        Bson::Decimal128(number) => number.to_string() == "0.1",
        _ => false,
    }
}

/// Returns whether a value or one inside of it is such a one.
fn holds(value: &Bson, is: fn(&Bson) -> bool) -> bool {
    is(value)
        || match value {
            Bson::Array(values) => values.iter().any(|it| holds(it, is)),
            Bson::Document(document) => document.values().any(|it| holds(it, is)),
            _ => false,
        }
}

pub fn scenarios(cases: usize) -> impl Strategy<Value = Scenario> {
    (
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec(changes(), 1..16),
        prop::collection::vec(filter_cases(), 1..=cases),
    )
        .prop_map(|(lookup, pre_images, changes, cases)| Scenario {
            lookup,
            pre_images,
            changes,
            cases,
        })
}

fn ids() -> impl Strategy<Value = Bson> {
    select(vec![
        Bson::Int32(1),
        Bson::Int32(2),
        Bson::Double(2.5),
        Bson::String("x".into()),
        Bson::Document(doc! {"k": 1, "l": "x"}),
        Bson::Document(doc! {"k": [1, {"l": 1}]}),
    ])
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (ids(), documents()).prop_map(|(id, document)| {
            let mut inserted = doc! {"_id": id};
            inserted.extend(document);
            Change::Insert(inserted)
        }),
        5 => (ids(), updates()).prop_map(|(id, update)| Change::Update(id, update)),
        1 => (ids(), documents()).prop_map(|(id, document)| Change::Replace(id, document)),
        1 => ids().prop_map(Change::Delete),
    ]
}

fn documents() -> impl Strategy<Value = Document> {
    prop::collection::vec((select(vec!["a", "b", "c"]), values()), 0..3)
        .prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

fn updates() -> impl Strategy<Value = Document> {
    let path = || {
        select(vec![
            "a", "b", "c", "a.b", "a.0", "a.0.b", "a.1", "b.c", "a.b.c",
        ])
    };
    prop_oneof![
        5 => (path(), values()).prop_map(|(path, value)| doc! {"$set": {path: value}}),
        2 => path().prop_map(|path| doc! {"$unset": {path: ""}}),
        2 => (select(vec!["a", "b"]), values())
            .prop_map(|(path, value)| doc! {"$push": {path: value}}),
        1 => select(vec!["a", "b"])
            .prop_map(|path| doc! {"$push": {path: {"$each": [], "$slice": 1}}}),
        1 => select(vec!["a", "b"]).prop_map(|path| doc! {"$inc": {path: 1}}),
    ]
}

/// Values of every type that a filter can contain.
fn literals() -> BoxedStrategy<Bson> {
    let decimal = |text: &str| Bson::Decimal128(text.parse().expect("a decimal"));
    let binary = |subtype, bytes: &[u8]| {
        Bson::Binary(Binary {
            subtype,
            bytes: bytes.to_vec(),
        })
    };
    let numbers = select(vec![
        Bson::Int32(0),
        Bson::Int32(1),
        Bson::Int32(2),
        Bson::Int64(1),
        Bson::Int64((1 << 53) + 1),
        Bson::Double(-0.0),
        Bson::Double(1.0),
        Bson::Double(1.5),
        Bson::Double(0.1),
        Bson::Double(0.3),
        Bson::Double(9_007_199_254_740_992.0),
        Bson::Double(f64::NAN),
        Bson::Double(f64::INFINITY),
        decimal("1"),
        decimal("1.50"),
        decimal("0.1"),
        decimal("0.7"),
        decimal("9007199254740993"),
        decimal("NaN"),
        decimal("-Infinity"),
    ]);
    let texts = select(vec!["", "x", "xy", "Xy", "y\n", "é"]).prop_map(Bson::from);
    let others = select(vec![
        Bson::Null,
        Bson::Boolean(false),
        Bson::Boolean(true),
        Bson::DateTime(DateTime::from_millis(-1)),
        Bson::DateTime(DateTime::from_millis(1_000)),
        Bson::Timestamp(Timestamp {
            time: 1,
            increment: 1,
        }),
        Bson::Timestamp(Timestamp {
            time: u32::MAX,
            increment: 0,
        }),
        Bson::ObjectId(ObjectId::from_bytes([1; 12])),
        Bson::ObjectId(ObjectId::from_bytes([2; 12])),
        binary(BinarySubtype::Generic, b"ab"),
        binary(BinarySubtype::Generic, b"b"),
        binary(BinarySubtype::UserDefined(128), b"ab"),
        Bson::MinKey,
        Bson::MaxKey,
        Bson::JavaScriptCode("x".into()),
    ]);
    let simple = prop_oneof![5 => numbers, 3 => texts, 3 => others];
    simple
        .prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Bson::Array),
                prop::collection::btree_map(select(vec!["0", "b", "c"]), inner, 0..3).prop_map(
                    |fields| {
                        let fields = fields.into_iter().map(|(k, v)| (k.to_owned(), v));
                        Bson::Document(fields.collect())
                    }
                ),
            ]
        })
        .boxed()
}

/// Values of stored documents, also of types that no filter can contain.
fn values() -> BoxedStrategy<Bson> {
    prop_oneof![
        12 => literals(),
        1 => select(vec![
            Bson::RegularExpression(Regex {
                pattern: "^x".try_into().expect("no NUL"),
                options: "".try_into().expect("no NUL"),
            }),
            Bson::Symbol("x".into()),
        ]),
    ]
    .boxed()
}

fn conditions() -> impl Strategy<Value = Predicate> {
    let path = select(vec![
        "a", "a", "a", "b", "c", "a.b", "a.0", "a.0.b", "a.1", "a.b.c", "a.0.0", "b.c", "_id",
        "_id", "_id.k", "_id.k.l",
    ]);
    let ops = prop_oneof![
        4 => literals().prop_map(Condition::Eq),
        1 => literals().prop_map(Condition::Ne),
        1 => literals().prop_map(Condition::Gt),
        1 => literals().prop_map(Condition::Gte),
        1 => literals().prop_map(Condition::Lt),
        1 => literals().prop_map(Condition::Lte),
        2 => prop::collection::vec(literals(), 1..4).prop_map(Condition::In),
        1 => prop::collection::vec(literals(), 1..4).prop_map(Condition::NotIn),
        2 => any::<bool>().prop_map(Condition::Exists),
        1 => select(vec!["", "x", "y\n"]).prop_map(|text| Condition::Prefix(text.into())),
        2 => (select(vec!["^x", "y", "x|é", "^.y$", "y$", r"\w$"]), select(vec!["", "i", "m", "s"]))
            .prop_map(|(pattern, options)| Condition::Regex {
                pattern: pattern.into(),
                options: options.into(),
            }),
        2 => any::<bool>().prop_map(Condition::Changed),
    ];
    (path, ops)
        .prop_filter("the stand-in differs", |(path, op)| {
            !is_known_difference(path, op)
        })
        .prop_map(|(path, op)| Predicate::Field {
            path: path.to_owned(),
            op,
        })
}

fn filters() -> impl Strategy<Value = Predicate> {
    groups(conditions())
}

/// Conditions, and groups of them.
pub fn groups(
    conditions: impl Strategy<Value = Predicate> + 'static,
) -> impl Strategy<Value = Predicate> {
    conditions.prop_recursive(3, 6, 3, |inner| {
        let group = prop::collection::vec(inner, 1..4);
        prop_oneof![
            group.clone().prop_map(Predicate::AllOf),
            group.clone().prop_map(Predicate::AnyOf),
            group.prop_map(Predicate::NoneOf),
        ]
    })
}

fn filter_cases() -> impl Strategy<Value = FilterCase> {
    let operations = prop::option::weighted(
        0.3,
        prop::collection::btree_set(select(Operation::DOCUMENT.to_vec()), 1..4),
    );
    let missing_image = select(vec![MissingImage::Deliver, MissingImage::Drop]);
    let guard = prop::option::weighted(0.4, filters());
    (guard, filters(), operations, missing_image).prop_map(
        |(guard, filter, operations, missing_image)| FilterCase {
            guard,
            filter,
            operations: operations.map(|mut operations| {
                // The marker of the stream's end.
                operations.insert(Operation::CreateIndexes);
                operations
            }),
            missing_image,
        },
    )
}
