//! The mandatory filter of a rule: a condition in MongoDB's syntax with placeholders for the caller's claims.
//!
//! It is converted to a [`Predicate`] through the protobuf messages of clients' filters, so that the same
//! bounds apply. A claim is inserted as a value, so it can never be read as an operator.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::{ListValue, Struct, Value as Literal, value::Kind};
use serde_json::{Map, Number, Value};

use crate::{
    filter::Predicate,
    pb::{self, field_filter::Operator},
};

/// The maximum nesting depth of groups, as in clients' filters.
const MAX_DEPTH: usize = 10;

/// The largest integer that a double holds exactly; filters send numbers as doubles.
const MAX_EXACT_INTEGER: i64 = 1 << 53;

/// The key of a placeholder for a claim.
const CLAIM_KEY: &str = "$claim";

const OPERATORS: &str = "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin and $exists";

/// A condition with placeholders for claims.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FilterTemplate {
    Field { path: String, test: FieldTest },
    All(Vec<FilterTemplate>),
    Any(Vec<FilterTemplate>),
    None(Vec<FilterTemplate>),
}

/// A condition on the value of one field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FieldTest {
    Compare(Comparison, Operand),
    /// The value is (`true`), or is not (`false`), one of these.
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

impl FilterTemplate {
    /// Parses a condition of the policy file. Errors name the location below `at` and the correct form.
    pub(super) fn parse(at: &str, value: &Value) -> Result<Self, String> {
        let template = parse_document(at, value, 1)?;
        // Checks the bounds on the whole filter, with any value for the claims.
        let anything = |_: &str| Some(vec![Kind::StringValue("x".to_owned()).into_literal()]);
        template
            .predicate(&anything)
            .map_err(|problem| format!("{at}: {problem}"))?;
        Ok(template)
    }

    /// Returns the claims that it has placeholders for.
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
                FieldTest::Compare(_, Operand::Claim(name))
                | FieldTest::In(_, Operands::Claim(name)) => {
                    claims.insert(name);
                }
                FieldTest::In(_, Operands::Each(operands)) => {
                    claims.extend(operands.iter().filter_map(|it| match it {
                        Operand::Claim(name) => Some(name.as_str()),
                        Operand::Literal(_) => None,
                    }));
                }
                FieldTest::Compare(_, Operand::Literal(_)) | FieldTest::Exists(_) => {}
            },
        }
    }

    /// Returns the filter for a caller with these claims, or `None` when a claim is missing, empty, or of a
    /// type that its placeholder can't take. Then access must be denied.
    pub(super) fn resolve(&self, claims: &Map<String, Value>) -> Option<Predicate> {
        self.predicate(&|name| values_of(claims.get(name)?)).ok()
    }

    fn predicate(&self, claim: &dyn Fn(&str) -> Option<Vec<Literal>>) -> Result<Predicate, String> {
        let filter = self.filter(claim).ok_or("a claim is missing")?;
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

impl FieldTest {
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

/// Returns the distinct values of a claim, sorted, so that lists with the same values in another order are
/// equal. Returns `None` when there is no value, or one that is not a scalar.
fn values_of(claim: &Value) -> Option<Vec<Literal>> {
    let scalars = scalars_of(claim)?;
    scalars.into_values().map(scalar).collect()
}

/// Returns the distinct values of a claim by their JSON text, which sorts and compares them.
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
    let texts = values.iter().map(|value| (value.to_string(), value));
    Some(texts.collect())
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

/// Converts a number without loss, although filters send numbers as doubles.
fn number_literal(number: &Number) -> Option<Literal> {
    let Some(integer) = number.as_i64() else {
        // No BSON type holds an integer beyond signed 64 bits.
        let double = number.as_f64().filter(|_| !number.is_u64())?;
        return Some(Kind::NumberValue(double).into_literal());
    };
    if integer.abs() <= MAX_EXACT_INTEGER {
        return Some(Kind::NumberValue(integer as f64).into_literal());
    }
    let long = Kind::StringValue(integer.to_string()).into_literal();
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

fn parse_document(at: &str, value: &Value, depth: usize) -> Result<FilterTemplate, String> {
    if depth > MAX_DEPTH {
        return Err(format!(
            "{at}: is nested deeper than {MAX_DEPTH} levels: use fewer groups"
        ));
    }
    let Value::Object(fields) = value else {
        return Err(format!(
            "{at}: is not a mapping: write conditions as {{status: paid}} or {{total: {{\"$gt\": 5}}}}"
        ));
    };
    let mut parts = Vec::with_capacity(fields.len());
    for (key, value) in fields {
        let at = format!("{at}.{key}");
        parts.push(match key.as_str() {
            "$and" => FilterTemplate::All(parse_group(&at, value, depth)?),
            "$or" => FilterTemplate::Any(parse_group(&at, value, depth)?),
            "$nor" => FilterTemplate::None(parse_group(&at, value, depth)?),
            _ if key.starts_with('$') => {
                return Err(format!(
                    "{at}: is not an operator here: use $and, $or and $nor, or paths of fields"
                ));
            }
            _ => parse_field(&at, key, value)?,
        });
    }
    all_of(parts).ok_or_else(|| format!("{at}: is empty: add a condition, or remove filter"))
}

fn parse_group(at: &str, value: &Value, depth: usize) -> Result<Vec<FilterTemplate>, String> {
    let items = value.as_array().filter(|items| !items.is_empty());
    let items = items.ok_or_else(|| {
        format!("{at}: is empty or not a list: write one or more conditions, as [{{status: paid}}]")
    })?;
    let parse = |(index, item)| parse_document(&format!("{at}[{index}]"), item, depth + 1);
    items.iter().enumerate().map(parse).collect()
}

fn all_of(mut parts: Vec<FilterTemplate>) -> Option<FilterTemplate> {
    match parts.len() {
        0 => None,
        1 => parts.pop(),
        _ => Some(FilterTemplate::All(parts)),
    }
}

fn parse_field(at: &str, path: &str, value: &Value) -> Result<FilterTemplate, String> {
    let field = |test: FieldTest| {
        let path = path.to_owned();
        let template = FilterTemplate::Field { path, test };
        // Each field by itself, so that errors name it.
        let anything = |_: &str| Some(vec![Kind::StringValue("x".to_owned()).into_literal()]);
        match template.predicate(&anything) {
            Ok(_) => Ok(template),
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
            all_of(tests).ok_or_else(|| format!("{at}: is empty: use {OPERATORS}"))
        }
        Value::Array(_) => Err(format!("{at}: is a list: write {{\"$in\": [...]}}")),
        value => field(FieldTest::Compare(
            Comparison::Eq,
            parse_operand(at, value)?,
        ))
        .map_err(|problem| format!("{problem}; the supported operators are {OPERATORS}")),
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

fn parse_test(at: &str, name: &str, value: &Value) -> Result<FieldTest, String> {
    if let Some(comparison) = comparison(name) {
        return Ok(FieldTest::Compare(comparison, parse_operand(at, value)?));
    }
    match (name, value) {
        ("$exists", Value::Bool(exists)) => Ok(FieldTest::Exists(*exists)),
        ("$exists", _) => Err(format!("{at}: must be true or false")),
        ("$in" | "$nin", Value::Array(items)) => {
            let parse = |(index, item)| parse_operand(&format!("{at}[{index}]"), item);
            let operands = items.iter().enumerate().map(parse);
            let operands = Operands::Each(operands.collect::<Result<_, _>>()?);
            Ok(FieldTest::In(name == "$in", operands))
        }
        ("$in" | "$nin", value) => match parse_operand(at, value)? {
            Operand::Claim(claim) => Ok(FieldTest::In(name == "$in", Operands::Claim(claim))),
            Operand::Literal(_) => Err(format!(
                "{at}: is not a list: use [a, b] or {{\"{CLAIM_KEY}\": NAME}}"
            )),
        },
        _ => Err(format!("{at}: unknown operator: use {OPERATORS}")),
    }
}

fn parse_operand(at: &str, value: &Value) -> Result<Operand, String> {
    let Value::Object(fields) = value else {
        if value.is_array() {
            return Err(format!("{at}: is a list, which can't be compared: use $in"));
        }
        return extended_json(at, value).map(Operand::Literal);
    };
    let mut keys = fields.keys();
    match (fields.get(CLAIM_KEY), fields.len()) {
        (Some(Value::String(name)), 1) if !name.is_empty() => Ok(Operand::Claim(name.clone())),
        (Some(_), _) => Err(format!(
            "{at}: {CLAIM_KEY} needs a name and no other keys: write {{\"{CLAIM_KEY}\": NAME}}"
        )),
        (None, _) if fields.is_empty() || !keys.all(|key| key.starts_with('$')) => Err(format!(
            "{at}: is a document: name its fields by their paths, such as \"address.city\""
        )),
        // An Extended JSON value, such as {"$oid": ...}; invalid ones are rejected with the whole filter.
        (None, _) => extended_json(at, value).map(Operand::Literal),
    }
}

/// Converts a value to the corresponding protobuf value.
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
            let too_large = || format!("{at}: is a number that does not fit into signed 64 bits");
            return scalar(value).ok_or_else(too_large);
        }
    };
    Ok(kind.into_literal())
}
