//! A rule's mandatory filter: a condition in MongoDB's words, with places for the caller's claims.
//!
//! It becomes a [`Predicate`] by way of the messages that clients send their filters in, so that the same
//! bounds hold for both. A claim is put into a message as a value, and so is never read as anything else.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::{ListValue, Struct, Value as Literal, value::Kind};
use serde_json::{Map, Number, Value};

use crate::{
    pb::{self, field_filter::Operator},
    plan::Predicate,
};

/// The deepest that groups may stand in one another; the same as in clients' filters.
const MAX_DEPTH: usize = 10;

/// The integers that a double holds exactly, as filters send numbers.
const MAX_EXACT: i64 = 1 << 53;

/// A place for a claim.
const CLAIM: &str = "$claim";

const OPERATORS: &str = "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin and $exists";

/// A condition with places for claims.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    Field { path: String, test: Test },
    All(Vec<Condition>),
    Any(Vec<Condition>),
    None(Vec<Condition>),
}

/// A condition on the value of one field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    Compare(Comparison, Operand),
    /// Equal to one of these, or to none of them.
    In(bool, Operands),
    Exists(bool),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Gt,
    Gte,
    Lt,
    Lte,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Literal(Literal),
    Claim(String),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operands {
    Each(Vec<Operand>),
    /// All values of one claim.
    Claim(String),
}

impl Condition {
    /// Reads a condition as it stands in the file. The error names the place below `at`, and says what
    /// would be right.
    pub(super) fn parse(at: &str, value: &Value) -> Result<Self, String> {
        let condition = parse_document(at, value, 1)?;
        // The bounds on the whole, with something in the claims' places.
        let anything = |_: &str| Some(vec![Kind::StringValue("x".to_owned()).into_literal()]);
        condition
            .predicate(&anything)
            .map_err(|problem| format!("{at}: {problem}"))?;
        Ok(condition)
    }

    /// The claims that it has places for.
    pub(super) fn claims(&self) -> BTreeSet<&str> {
        let mut claims = BTreeSet::new();
        self.collect_claims(&mut claims);
        claims
    }

    fn collect_claims<'c>(&'c self, claims: &mut BTreeSet<&'c str>) {
        match self {
            Self::All(parts) | Self::Any(parts) | Self::None(parts) => {
                for part in parts {
                    part.collect_claims(claims);
                }
            }
            Self::Field { test, .. } => match test {
                Test::Compare(_, Operand::Claim(name)) | Test::In(_, Operands::Claim(name)) => {
                    claims.insert(name);
                }
                Test::In(_, Operands::Each(operands)) => {
                    claims.extend(operands.iter().filter_map(|it| match it {
                        Operand::Claim(name) => Some(name.as_str()),
                        Operand::Literal(_) => None,
                    }));
                }
                Test::Compare(_, Operand::Literal(_)) | Test::Exists(_) => {}
            },
        }
    }

    /// The condition for a caller with these claims. `None` when one that it names is not there, is empty,
    /// or is of a kind that its place has no use for: then nobody knows what the caller may see.
    pub(super) fn fill(&self, claims: &Map<String, Value>) -> Option<Predicate> {
        self.predicate(&|name| values_of(claims.get(name)?)).ok()
    }

    fn predicate(&self, claim: &dyn Fn(&str) -> Option<Vec<Literal>>) -> Result<Predicate, String> {
        let filter = self.filter(claim).ok_or("a claim is not there")?;
        Predicate::from_filters(vec![filter]).map_err(|violations| {
            let words = violations.into_iter().map(|it| it.description);
            words.collect::<Vec<_>>().join("; ")
        })
    }

    fn filter(&self, claim: &dyn Fn(&str) -> Option<Vec<Literal>>) -> Option<pb::Filter> {
        use pb::filter::Kind as FilterKind;
        let group = |parts: &[Self]| {
            let filters = parts.iter().map(|part| part.filter(claim));
            let filters = filters.collect::<Option<Vec<_>>>()?;
            Some(pb::FilterGroup { filters })
        };
        let kind = match self {
            Self::All(parts) => FilterKind::AllOf(group(parts)?),
            Self::Any(parts) => FilterKind::AnyOf(group(parts)?),
            Self::None(parts) => FilterKind::NoneOf(group(parts)?),
            Self::Field { path, test } => FilterKind::Field(pb::FieldFilter {
                path: path.clone(),
                operator: Some(test.operator(claim)?),
            }),
        };
        Some(pb::Filter { kind: Some(kind) })
    }
}

impl Test {
    fn operator(&self, claim: &dyn Fn(&str) -> Option<Vec<Literal>>) -> Option<Operator> {
        let one = |operand: &Operand| match operand {
            Operand::Literal(literal) => Some(literal.clone()),
            Operand::Claim(name) => {
                let values = claim(name)?;
                <[Literal; 1]>::try_from(values).ok().map(|[value]| value)
            }
        };
        Some(match self {
            Self::Exists(exists) => Operator::Exists(*exists),
            Self::Compare(comparison, operand) => comparison.operator(one(operand)?),
            Self::In(is_in, operands) => {
                let values = match operands {
                    Operands::Claim(name) => claim(name)?,
                    Operands::Each(operands) => operands.iter().map(one).collect::<Option<_>>()?,
                };
                let list = ListValue { values };
                if *is_in {
                    Operator::In(list)
                } else {
                    Operator::NotIn(list)
                }
            }
        })
    }
}

impl Comparison {
    fn operator(self, literal: Literal) -> Operator {
        match self {
            Self::Eq => Operator::Eq(literal),
            Self::Ne => Operator::Ne(literal),
            Self::Gt => Operator::Gt(literal),
            Self::Gte => Operator::Gte(literal),
            Self::Lt => Operator::Lt(literal),
            Self::Lte => Operator::Lte(literal),
        }
    }
}

/// The values of a claim: one, or those of a list, each once, in an order of their own, so that equal
/// lists are equal however their issuer sorts them. `None` where there are none, or none that can be told
/// apart from something else.
fn values_of(claim: &Value) -> Option<Vec<Literal>> {
    let scalars = scalars_of(claim)?;
    scalars.into_values().map(scalar).collect()
}

/// The same as what they say, by which they are sorted and compared.
pub(super) fn scalars_of(claim: &Value) -> Option<BTreeMap<String, &Value>> {
    let values = match claim {
        Value::Array(values) => values.as_slice(),
        value => std::slice::from_ref(value),
    };
    let is_scalar = |value: &Value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    };
    if values.is_empty() || !values.iter().all(is_scalar) {
        return None;
    }
    let said = values.iter().map(|value| (value.to_string(), value));
    Some(said.collect())
}

fn scalar(value: &Value) -> Option<Literal> {
    let kind = match value {
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => return number_literal(number),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    Some(kind.into_literal())
}

/// A number that means the same when it has been a double on its way.
fn number_literal(number: &Number) -> Option<Literal> {
    let Some(whole) = number.as_i64() else {
        // Beyond 64 bits with a sign there is no type that holds it.
        let double = number.as_f64().filter(|_| !number.is_u64())?;
        return Some(Kind::NumberValue(double).into_literal());
    };
    if whole.abs() <= MAX_EXACT {
        return Some(Kind::NumberValue(whole as f64).into_literal());
    }
    let long = Kind::StringValue(whole.to_string()).into_literal();
    let fields = BTreeMap::from([("$numberLong".to_owned(), long)]);
    Some(Kind::StructValue(Struct { fields }).into_literal())
}

trait IntoLiteral {
    fn into_literal(self) -> Literal;
}

impl IntoLiteral for Kind {
    fn into_literal(self) -> Literal {
        Literal { kind: Some(self) }
    }
}

fn parse_document(at: &str, value: &Value, depth: usize) -> Result<Condition, String> {
    if depth > MAX_DEPTH {
        return Err(format!("{at}: is nested deeper than {MAX_DEPTH} levels"));
    }
    let Value::Object(fields) = value else {
        return Err(format!(
            "{at}: is no mapping; write conditions as {{status: paid}} or {{total: {{\"$gt\": 5}}}}"
        ));
    };
    let mut parts = Vec::with_capacity(fields.len());
    for (key, value) in fields {
        let at = format!("{at}.{key}");
        parts.push(match key.as_str() {
            "$and" => Condition::All(parse_group(&at, value, depth)?),
            "$or" => Condition::Any(parse_group(&at, value, depth)?),
            "$nor" => Condition::None(parse_group(&at, value, depth)?),
            _ if key.starts_with('$') => {
                return Err(format!(
                    "{at}: is no operator of policies here; $and, $or and $nor are, and the paths of fields"
                ));
            }
            _ => parse_field(&at, key, value)?,
        });
    }
    all_of(parts).ok_or_else(|| format!("{at}: is empty; leave filter out to have none"))
}

fn parse_group(at: &str, value: &Value, depth: usize) -> Result<Vec<Condition>, String> {
    let items = value.as_array().filter(|items| !items.is_empty());
    let items = items.ok_or_else(|| format!("{at}: is no list of conditions, or an empty one"))?;
    let parse = |(index, item)| parse_document(&format!("{at}[{index}]"), item, depth + 1);
    items.iter().enumerate().map(parse).collect()
}

fn all_of(mut parts: Vec<Condition>) -> Option<Condition> {
    match parts.len() {
        0 => None,
        1 => parts.pop(),
        _ => Some(Condition::All(parts)),
    }
}

fn parse_field(at: &str, path: &str, value: &Value) -> Result<Condition, String> {
    let field = |test: Test| {
        let path = path.to_owned();
        let condition = Condition::Field { path, test };
        // Each by itself, so that what is wrong with it is told with its place.
        let anything = |_: &str| Some(vec![Kind::StringValue("x".to_owned()).into_literal()]);
        match condition.predicate(&anything) {
            Ok(_) => Ok(condition),
            Err(problem) => Err(format!("{at}: {problem}")),
        }
    };
    let is_test = |fields: &Map<String, Value>| {
        fields.is_empty() || fields.keys().any(|key| is_operator(key))
    };
    match value {
        Value::Object(fields) if is_test(fields) => {
            let test = |(name, value): (&String, &Value)| {
                parse_test(&format!("{at}.{name}"), name, value).and_then(field)
            };
            let tests = fields.iter().map(test).collect::<Result<Vec<_>, _>>()?;
            all_of(tests).ok_or_else(|| format!("{at}: is empty; there are {OPERATORS}"))
        }
        Value::Array(_) => Err(format!("{at}: is a list; write {{\"$in\": [...]}}")),
        value => field(Test::Compare(Comparison::Eq, parse_operand(at, value)?))
            .map_err(|problem| format!("{problem}; the operators here are {OPERATORS}")),
    }
}

fn is_operator(key: &str) -> bool {
    comparison(key).is_some() || matches!(key, "$in" | "$nin" | "$exists")
}

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        "$eq" => Comparison::Eq,
        "$ne" => Comparison::Ne,
        "$gt" => Comparison::Gt,
        "$gte" => Comparison::Gte,
        "$lt" => Comparison::Lt,
        "$lte" => Comparison::Lte,
        _ => return None,
    })
}

fn parse_test(at: &str, name: &str, value: &Value) -> Result<Test, String> {
    if let Some(comparison) = comparison(name) {
        return Ok(Test::Compare(comparison, parse_operand(at, value)?));
    }
    match (name, value) {
        ("$exists", Value::Bool(exists)) => Ok(Test::Exists(*exists)),
        ("$exists", _) => Err(format!("{at}: is neither true nor false")),
        ("$in" | "$nin", Value::Array(items)) => {
            let parse = |(index, item)| parse_operand(&format!("{at}[{index}]"), item);
            let operands = items.iter().enumerate().map(parse);
            let operands = Operands::Each(operands.collect::<Result<_, _>>()?);
            Ok(Test::In(name == "$in", operands))
        }
        ("$in" | "$nin", value) => match parse_operand(at, value)? {
            Operand::Claim(claim) => Ok(Test::In(name == "$in", Operands::Claim(claim))),
            Operand::Literal(_) => Err(format!(
                "{at}: is no list; right are [a, b] and {{\"{CLAIM}\": NAME}}"
            )),
        },
        _ => Err(format!("{at}: is no operator here; there are {OPERATORS}")),
    }
}

fn parse_operand(at: &str, value: &Value) -> Result<Operand, String> {
    let Value::Object(fields) = value else {
        if value.is_array() {
            return Err(format!(
                "{at}: is a list, which no condition here compares with"
            ));
        }
        return extended_json(at, value).map(Operand::Literal);
    };
    let mut keys = fields.keys();
    match (fields.get(CLAIM), fields.len()) {
        (Some(Value::String(name)), 1) if !name.is_empty() => Ok(Operand::Claim(name.clone())),
        (Some(_), _) => Err(format!(
            "{at}: has {CLAIM} with something else; right is {{\"{CLAIM}\": NAME}}"
        )),
        (None, _) if fields.is_empty() || !keys.all(|key| key.starts_with('$')) => Err(format!(
            "{at}: is a document; name the fields in it by their paths, as in \"address.city\""
        )),
        // A value of Extended JSON, such as {"$oid": ...}; what is none is refused with the whole.
        (None, _) => extended_json(at, value).map(Operand::Literal),
    }
}

/// A value as protobuf's JSON holds it.
fn extended_json(at: &str, value: &Value) -> Result<Literal, String> {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Array(items) => {
            let values = items.iter().map(|item| extended_json(at, item));
            Kind::ListValue(ListValue {
                values: values.collect::<Result<_, _>>()?,
            })
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| {
                let value = extended_json(at, value)?;
                Ok::<_, String>((key.clone(), value))
            });
            Kind::StructValue(Struct {
                fields: fields.collect::<Result<_, _>>()?,
            })
        }
        Value::String(text) => Kind::StringValue(text.clone()),
        value => {
            let too_large = || format!("{at}: is a number that 64 bits with a sign do not hold");
            return scalar(value).ok_or_else(too_large);
        }
    };
    Ok(kind.into_literal())
}
