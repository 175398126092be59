//! Validates the filters of a request and converts them to a [`Predicate`].

use bson::Bson;
use prost::Message as _;

use super::literal_form::{literal, literal_from_bson, literal_from_text};
use super::pattern::Pattern;
use super::predicate::{Condition, Predicate};
use super::regex_check::{SlowParts, check_options, check_pattern};
use crate::model::{FieldViolation, Findings, RequestError, quoted};
use crate::pb;
use crate::pb::comparison::{self, Literal};
use crate::pb::field_filter::Operator;
use crate::pb::filter::Kind;

const MAX_DEPTH: usize = 10;
const MAX_CONDITIONS: usize = 200;
/// The most bytes of literal values, including prefixes and patterns: as sent and, of text, as BSON too.
const MAX_LITERAL_BYTES: usize = 256 * 1024;
const MAX_LIST_VALUES: usize = 1000;
const MAX_PATH_BYTES: usize = 512;
/// MongoDB's own limit: it nests documents no deeper and refuses longer paths in a pipeline.
const MAX_PATH_COMPONENTS: usize = 100;
const MAX_PREFIX_BYTES: usize = 1024;
/// The most memory of all compiled patterns together. An ordinary pattern takes about 10 KiB.
const MAX_COMPILED_BYTES: usize = 8 * 1024 * 1024;

/// The regular expressions of the filters of a request.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    /// The memory that they take when they are compiled, in bytes.
    pub compiled_bytes: usize,
    /// Their paths in the request, in order.
    pub fields: Vec<String>,
}

/// Converts filters that must all hold to one predicate, and returns its regular expressions. The predicate is
/// `None` if there are no filters, or none that is valid; violations are noted in `findings`.
pub(crate) fn predicate(
    filters: Vec<pb::Filter>,
    findings: &mut Findings,
) -> (Option<Predicate>, Patterns) {
    let mut checker = Checker {
        findings,
        conditions: 0,
        literal_bytes: 0,
        patterns: Patterns::default(),
        slow_parts: SlowParts::default(),
    };
    let mut predicates = checker.filters("filters", filters, 1);
    let patterns = checker.patterns;
    let predicate = match predicates.len() {
        0 => None,
        1 => predicates.pop(),
        _ => Some(Predicate::AllOf(predicates)),
    };
    (predicate, patterns)
}

impl Predicate {
    /// Converts filters that must all hold, within the same bounds as those of a request.
    ///
    /// # Errors
    /// The violations. An empty list of filters is one too.
    pub fn from_filters(filters: Vec<pb::Filter>) -> Result<Predicate, Vec<FieldViolation>> {
        let mut findings = Findings::default();
        let (predicate, _) = predicate(filters, &mut findings);
        match (predicate, findings.into_result()) {
            (Some(predicate), Ok(())) => Ok(predicate),
            (_, Err(RequestError::Invalid(violations))) => Err(violations),
            (
                _,
                Ok(()) | Err(RequestError::DeploymentNotAllowed | RequestError::PipelineNotAllowed),
            ) => Err(vec![FieldViolation {
                field: "filters".to_owned(),
                description: "contain no condition; add at least one".to_owned(),
            }]),
        }
    }
}

struct Checker<'a> {
    findings: &'a mut Findings,
    conditions: usize,
    literal_bytes: usize,
    patterns: Patterns,
    slow_parts: SlowParts,
}

impl Checker<'_> {
    /// Returns whether to skip the rest: a total limit is exceeded, which is reported once, or no further
    /// violation would be reported.
    fn is_done(&self) -> bool {
        self.findings.is_full()
            || self.conditions > MAX_CONDITIONS
            || self.literal_bytes > MAX_LITERAL_BYTES
            || self.patterns.compiled_bytes > MAX_COMPILED_BYTES
    }

    fn filters(&mut self, list: &str, filters: Vec<pb::Filter>, depth: usize) -> Vec<Predicate> {
        let mut predicates = Vec::new();
        for (index, filter) in filters.into_iter().enumerate() {
            if self.is_done() {
                break;
            }
            predicates.extend(self.filter(format!("{list}[{index}]"), filter, depth));
        }
        predicates
    }

    fn filter(&mut self, at: String, filter: pb::Filter, depth: usize) -> Option<Predicate> {
        if depth > MAX_DEPTH {
            self.findings.invalid(
                at,
                format!("is nested deeper than the {MAX_DEPTH} levels that filters may have"),
            );
            return None;
        }
        match filter.kind {
            None => {
                self.findings
                    .invalid(at, "sets no kind; set field, all_of, any_of or none_of");
                None
            }
            Some(Kind::Field(field)) => self.field(format!("{at}.field"), field),
            Some(Kind::AllOf(group)) => self
                .group(format!("{at}.all_of"), group, depth)
                .map(Predicate::AllOf),
            Some(Kind::AnyOf(group)) => self
                .group(format!("{at}.any_of"), group, depth)
                .map(Predicate::AnyOf),
            Some(Kind::NoneOf(group)) => self
                .group(format!("{at}.none_of"), group, depth)
                .map(Predicate::NoneOf),
        }
    }

    fn group(
        &mut self,
        at: String,
        group: pb::FilterGroup,
        depth: usize,
    ) -> Option<Vec<Predicate>> {
        if group.filters.is_empty() {
            self.findings
                .invalid(at, "is an empty group; give it at least one filter");
            return None;
        }
        let predicates = self.filters(&format!("{at}.filters"), group.filters, depth + 1);
        (!predicates.is_empty()).then_some(predicates)
    }

    fn field(&mut self, at: String, field: pb::FieldFilter) -> Option<Predicate> {
        self.conditions += 1;
        if self.conditions > MAX_CONDITIONS {
            self.findings.invalid(
                at,
                format!("is one condition too many; use at most {MAX_CONDITIONS}"),
            );
            return None;
        }
        let path_problem = path_problem(&field.path);
        if let Some(problem) = &path_problem {
            self.findings.invalid(format!("{at}.path"), problem);
        }
        let Some(operator) = field.operator else {
            self.findings
                .invalid(at, "sets no operator; set one of eq, ne, gt, gte, lt, lte, in, not_in, exists, prefix, regex, changed or compare");
            return None;
        };
        let op = self.operator(&at, operator)?;
        path_problem.is_none().then_some(Predicate::Field {
            path: field.path,
            op,
        })
    }

    fn operator(&mut self, at: &str, operator: Operator) -> Option<Condition> {
        let field_path = |name: &str| format!("{at}.{name}");
        match operator {
            Operator::Eq(value) => self.value(field_path("eq"), value).map(Condition::Eq),
            Operator::Ne(value) => self.value(field_path("ne"), value).map(Condition::Ne),
            Operator::Gt(value) => self.value(field_path("gt"), value).map(Condition::Gt),
            Operator::Gte(value) => self.value(field_path("gte"), value).map(Condition::Gte),
            Operator::Lt(value) => self.value(field_path("lt"), value).map(Condition::Lt),
            Operator::Lte(value) => self.value(field_path("lte"), value).map(Condition::Lte),
            Operator::In(list) => self.list(field_path("in"), list).map(Condition::In),
            Operator::NotIn(list) => self.list(field_path("not_in"), list).map(Condition::NotIn),
            Operator::Exists(exists) => Some(Condition::Exists(exists)),
            Operator::Prefix(prefix) => self.prefix(field_path("prefix"), prefix),
            Operator::Regex(regex) => self.regex(field_path("regex"), regex),
            Operator::Changed(changed) => Some(Condition::Changed(changed)),
            Operator::Compare(comparison) => self.comparison(&field_path("compare"), comparison),
        }
    }

    fn comparison(&mut self, at: &str, comparison: pb::Comparison) -> Option<Condition> {
        let operator = comparison_operator(comparison.operator)
            .map_err(|problem| self.findings.invalid(format!("{at}.operator"), problem))
            .ok();
        let Some(literal) = comparison.literal else {
            self.findings
                .invalid(at, "sets no literal; set json or bson");
            return None;
        };
        let (form, read) = match literal {
            Literal::Json(text) => {
                let at = format!("{at}.json");
                self.charge(&at, text.len())?;
                let left = MAX_LITERAL_BYTES.saturating_sub(self.literal_bytes);
                let read = literal_from_text(&text, text.len() + left);
                // The rest of what it takes as BSON, which is less than was left.
                let read = read.map(|(value, bytes)| {
                    self.literal_bytes += bytes.saturating_sub(text.len());
                    value
                });
                (at, read)
            }
            Literal::Bson(bytes) => {
                let at = format!("{at}.bson");
                self.charge(&at, bytes.len())?;
                (at, literal_from_bson(&bytes))
            }
        };
        let condition = read.and_then(|value| condition(operator, value));
        condition
            .map_err(|problem| self.findings.invalid(form, problem))
            .ok()
            .flatten()
    }

    fn value(&mut self, at: String, value: prost_types::Value) -> Option<Bson> {
        self.charge(&at, value.encoded_len())?;
        literal(value)
            .map_err(|problem| self.findings.invalid(at, problem))
            .ok()
    }

    fn list(&mut self, at: String, list: prost_types::ListValue) -> Option<Vec<Bson>> {
        check_length(list.values.len())
            .map_err(|problem| self.findings.invalid(&at, problem))
            .ok()?;
        self.charge(&at, list.encoded_len())?;
        let mut values = Vec::with_capacity(list.values.len());
        let mut good = true;
        for (index, value) in list.values.into_iter().enumerate() {
            match literal(value) {
                Ok(value) => values.push(value),
                Err(problem) => {
                    self.findings
                        .invalid(format!("{at}.values[{index}]"), problem);
                    good = false;
                }
            }
            if self.findings.is_full() {
                return None;
            }
        }
        good.then_some(values)
    }

    fn prefix(&mut self, at: String, prefix: String) -> Option<Condition> {
        if prefix.len() > MAX_PREFIX_BYTES {
            self.findings.invalid(
                at,
                format!(
                    "is {} bytes long; a prefix has at most {MAX_PREFIX_BYTES} bytes",
                    prefix.len()
                ),
            );
            return None;
        }
        self.charge(&at, prefix.len())?;
        Some(Condition::Prefix(prefix))
    }

    fn regex(&mut self, at: String, regex: pb::RegexFilter) -> Option<Condition> {
        let options = check_options(&regex.options)
            .map_err(|problem| self.findings.invalid(format!("{at}.options"), problem))
            .ok();
        let written_options = options.as_deref().unwrap_or_default();
        check_pattern(&regex.pattern, written_options, &mut self.slow_parts)
            .map_err(|problem| self.findings.invalid(format!("{at}.pattern"), problem))
            .ok()?;
        self.charge(&format!("{at}.pattern"), regex.pattern.len())?;
        let options = options?;
        // A pattern that cannot run in process is refused on every kind of feed.
        let compiled = Pattern::new(&regex.pattern, &options)
            .map_err(|problem| self.findings.invalid(format!("{at}.pattern"), problem))
            .ok()?;
        self.patterns.compiled_bytes = self
            .patterns
            .compiled_bytes
            .saturating_add(compiled.compiled_bytes());
        if self.patterns.compiled_bytes > MAX_COMPILED_BYTES {
            self.findings.invalid(
                format!("{at}.pattern"),
                format!(
                    "brings the compiled patterns of all filters above {} MiB; use fewer or simpler patterns",
                    MAX_COMPILED_BYTES / (1024 * 1024)
                ),
            );
            return None;
        }
        self.patterns.fields.push(format!("{at}.pattern"));
        Some(Condition::Regex {
            pattern: regex.pattern,
            options,
        })
    }

    /// Counts literal bytes, before they are converted; `None` if there are too many.
    fn charge(&mut self, at: &str, bytes: usize) -> Option<()> {
        self.literal_bytes = self.literal_bytes.saturating_add(bytes);
        if self.literal_bytes > MAX_LITERAL_BYTES {
            self.findings.invalid(
                at,
                format!(
                    "brings the literal values of all filters above {} KiB; use fewer or shorter values",
                    MAX_LITERAL_BYTES / 1024
                ),
            );
            return None;
        }
        Some(())
    }
}

fn check_length(list: usize) -> Result<(), String> {
    if (1..=MAX_LIST_VALUES).contains(&list) {
        return Ok(());
    }
    Err(format!(
        "has {list} values; a list must have 1 to {MAX_LIST_VALUES}"
    ))
}

fn comparison_operator(number: i32) -> Result<comparison::Operator, String> {
    match comparison::Operator::try_from(number) {
        Ok(comparison::Operator::Unspecified) => {
            Err("is OPERATOR_UNSPECIFIED; set OPERATOR_EQ or another one".to_owned())
        }
        Ok(operator) => Ok(operator),
        Err(_) => Err(format!(
            "is {number}, which this version does not know; use 1 to {} ({})",
            comparison::Operator::NotIn as i32,
            comparison::Operator::NotIn.as_str_name()
        )),
    }
}

/// Returns the condition of a comparison, `None` if its operator is not valid.
fn condition(
    operator: Option<comparison::Operator>,
    value: Bson,
) -> Result<Option<Condition>, String> {
    use comparison::Operator;
    let list = |value| match value {
        Bson::Array(values) => check_length(values.len()).map(|()| values),
        _ => Err("is not a list, which this operator compares with; write [1, 2]".to_owned()),
    };
    Ok(match operator {
        None | Some(Operator::Unspecified) => None,
        Some(Operator::Eq) => Some(Condition::Eq(value)),
        Some(Operator::Ne) => Some(Condition::Ne(value)),
        Some(Operator::Gt) => Some(Condition::Gt(value)),
        Some(Operator::Gte) => Some(Condition::Gte(value)),
        Some(Operator::Lt) => Some(Condition::Lt(value)),
        Some(Operator::Lte) => Some(Condition::Lte(value)),
        Some(Operator::In) => Some(Condition::In(list(value)?)),
        Some(Operator::NotIn) => Some(Condition::NotIn(list(value)?)),
    })
}

/// Returns what is wrong with the path of a field, and what would be right.
pub(crate) fn path_problem(path: &str) -> Option<String> {
    if path.is_empty() {
        return Some(format!(
            "is an empty path; a path must have 1 to {MAX_PATH_BYTES} bytes"
        ));
    }
    if path.len() > MAX_PATH_BYTES {
        return Some(format!(
            "is {} bytes long; a path must have 1 to {MAX_PATH_BYTES} bytes",
            path.len()
        ));
    }
    if path.contains('\0') {
        return Some("contains NUL, which a field name cannot contain".into());
    }
    let mut components = 0;
    for component in path.split('.') {
        components += 1;
        if component.is_empty() {
            return Some(format!(
                "{} has an empty component; separate components by single dots",
                quoted(path)
            ));
        }
        if component.starts_with('$') && !matches!(component, "$id" | "$ref" | "$db") {
            return Some(format!(
                "has the component {}; only $id, $ref and $db may start with \"$\"",
                quoted(component)
            ));
        }
    }
    (components > MAX_PATH_COMPONENTS).then(|| {
        format!(
            "has {components} components; use at most {MAX_PATH_COMPONENTS}, the number of levels that \
             MongoDB nests documents"
        )
    })
}
