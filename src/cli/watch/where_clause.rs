//! `--where`: a condition on one field, in a short notation.
//!
//! ```text
//! path=value  path!=value  path>value  path>=value  path<value  path<=value
//! path in [a,b]  path not in [a,b]  path exists  path missing
//! path ^= prefix  path ~ /regex/opts  path ~ regex
//! changed(path)  not changed(path)
//! ```
//!
//! A value that is valid JSON or Extended JSON is parsed as such; other text is a string. Text that starts
//! like JSON but is invalid is refused, because as a string it would silently match nothing. Documents are sent as
//! they are written, as the order of their keys counts. Text that looks
//! like an ObjectId, a date or another type is accepted with a warning, for the same reason.

mod changed;
mod typed_form;
mod value;

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::pb;
use crate::pb::comparison::{Literal, Operator as Comparison};
use crate::pb::field_filter::Operator;
use typed_form::TypedForm;

/// A condition as written and as sent to the server.
#[derive(Debug, Clone, PartialEq)]
pub struct WhereClause {
    /// The text of the user.
    pub text: String,
    /// The parsed condition.
    pub filter: pb::Filter,
    /// What the user probably did not mean.
    warning: Option<String>,
}

impl WhereClause {
    /// Returns a warning about text that looks like a value of another type, with the typed form; `None` if
    /// the condition means what it looks like.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }
}

/// A syntax error in a condition: its position, the problem, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhereError {
    text: String,
    /// The byte offset of the error; at most the length of the text.
    at: usize,
    problem: String,
    advice: String,
}

impl WhereError {
    /// Returns the column of the error in characters, starting at 1.
    pub fn column(&self) -> usize {
        self.text[..self.at].chars().count() + 1
    }
}

impl std::fmt::Display for WhereError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let column = self.column();
        writeln!(f, "{} at character {column}", self.problem)?;
        writeln!(f, "  {}", super::text::escape_controls(&self.text))?;
        writeln!(f, "  {:>column$}", "^")?;
        f.write_str(&self.advice)
    }
}

impl std::error::Error for WhereError {}

impl std::str::FromStr for WhereClause {
    type Err = WhereError;

    fn from_str(text: &str) -> Result<WhereClause, WhereError> {
        let mut parser = Parser {
            text,
            at: 0,
            untyped: Vec::new(),
        };
        let (path, operator) = parser.condition()?;
        Ok(WhereClause {
            text: text.to_owned(),
            warning: untyped_warning(text, &parser.untyped),
            filter: pb::Filter {
                kind: Some(pb::filter::Kind::Field(pb::FieldFilter {
                    path,
                    operator: Some(operator),
                })),
            },
        })
    }
}

const OPERATORS: &str = "write one of: path=value, !=, >, >=, <, <=, path in [a,b], \
                         path not in [a,b], path exists, path missing, path ^= prefix, \
                         path ~ /regex/, changed(path), not changed(path)";

/// Operators of other languages, with advice.
const UNSUPPORTED_OPERATORS: [(&str, &str); 5] = [
    ("=~", "use `~` to match a regular expression"),
    ("<>", "use `!=` for not equal"),
    ("=>", "use `>=` for greater or equal"),
    ("=<", "use `<=` for less or equal"),
    (
        "!~",
        "regular expressions can't be negated: filter the output of this client instead",
    ),
];

/// Returns the warning about values that look like another type: what happens, and both other ways to write
/// the condition.
fn untyped_warning(text: &str, untyped: &[(Range<usize>, TypedForm)]) -> Option<String> {
    let (first, form) = untyped.first()?;
    let rewritten = |write: &dyn Fn(&str, &TypedForm) -> String| {
        let mut whole = String::new();
        let mut at = 0;
        for (range, form) in untyped {
            whole.push_str(&text[at..range.start]);
            whole.push_str(&write(&text[range.clone()], form));
            at = range.end;
        }
        whole.push_str(&text[at..]);
        shell_quoted(&whole)
    };
    let typed = rewritten(&|_, form| form.value.to_string());
    let quoted = rewritten(&|text, _| serde_json::Value::from(text).to_string());
    // 24 decimal digits are an ObjectId and a number.
    let number = text[first.clone()].parse::<f64>().is_ok() && form.what == "an ObjectId";
    let kind = if number { "a number" } else { "text" };
    let what = form.what;
    Some(format!(
        "--where {} compares with {kind}, and {what} never equals that; for {what} write\n  \
         --where {typed}\nand for text, without this warning, write\n  --where {quoted}",
        shell_quoted(text)
    ))
}

/// Returns text as one word of a shell's command line.
fn shell_quoted(text: &str) -> String {
    let text = super::text::escape_controls(text);
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Returns the form of `exists(path)` that is meant, if `path` is that.
fn postfix_form(path: &str) -> Option<String> {
    let (word, inner) = path.strip_suffix(')')?.split_once('(')?;
    let word = word.to_ascii_lowercase();
    ["exists", "missing"]
        .contains(&word.as_str())
        .then(|| format!("write {inner} {word}"))
}

fn compare(operator: Comparison, json: String) -> Operator {
    Operator::Compare(pb::Comparison {
        operator: operator.into(),
        literal: Some(Literal::Json(json)),
    })
}

/// Parses a condition from left to right.
struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// The values without quotes that look like another type, with their places.
    untyped: Vec<(Range<usize>, TypedForm)>,
}

impl Parser<'_> {
    fn condition(&mut self) -> Result<(String, Operator), WhereError> {
        self.skip_space();
        if let Some(changed) = self.changed()? {
            return Ok(changed);
        }
        let path = self.path()?;
        self.skip_space();
        let operator = self.operator(&path)?;
        Ok((path, operator))
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, literal: &str) -> bool {
        let found = self.rest().starts_with(literal);
        if found {
            self.at += literal.len();
        }
        found
    }

    /// Takes a word such as `in`, unless a letter, digit or underscore follows it.
    fn take_word(&mut self, word: &str) -> bool {
        let rest = self.rest();
        let found = rest
            .get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
            && !rest[word.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_');
        if found {
            self.at += word.len();
        }
        found
    }

    fn error(&self, at: usize, problem: &str, advice: &str) -> WhereError {
        WhereError {
            text: self.text.to_owned(),
            at,
            problem: problem.to_owned(),
            advice: advice.to_owned(),
        }
    }

    /// Parses a dotted path, in double quotes if it contains spaces or operators.
    fn path(&mut self) -> Result<String, WhereError> {
        let start = self.at;
        if self.rest().starts_with('\'') {
            return Err(self.error(
                start,
                "a path can't begin with a single quote",
                "write the path without quotes, or in double quotes if it contains spaces or operators: \
                 status=paid, \"two words\"=5",
            ));
        }
        if self.rest().starts_with('"') {
            let mut strings = serde_json::Deserializer::from_str(self.rest()).into_iter::<String>();
            return match strings.next() {
                Some(Ok(path)) => {
                    self.at += strings.byte_offset();
                    Ok(path)
                }
                _ => Err(self.error(
                    start,
                    "the closing quote of the path is missing",
                    "write \"the path\"=value",
                )),
            };
        }
        let end = self
            .rest()
            .find(|c: char| c.is_whitespace() || "=!<>^~".contains(c))
            .unwrap_or(self.rest().len());
        if end == 0 && self.rest().starts_with('!') {
            return Err(self.error(
                start,
                "a condition can't begin with `!`",
                "write path!=value, path not in [a,b], path missing or not changed(path)",
            ));
        }
        if end == 0 {
            return Err(self.error(
                start,
                "the path of a field is missing",
                "start with a field, such as status=paid or address.city=Gdynia",
            ));
        }
        let path = self.rest()[..end].to_owned();
        self.at += end;
        Ok(path)
    }

    fn operator(&mut self, path: &str) -> Result<Operator, WhereError> {
        let start = self.at;
        if let Some((_, advice)) = UNSUPPORTED_OPERATORS
            .iter()
            .find(|(unsupported, _)| self.rest().starts_with(unsupported))
        {
            return Err(self.error(start, "unknown operator", advice));
        }
        // An operator must come before its own prefixes.
        if self.take("==") || self.take("=") {
            return self.value(Comparison::Eq, Operator::Eq);
        }
        if self.take("!=") {
            return self.value(Comparison::Ne, Operator::Ne);
        }
        if self.take(">=") {
            return self.value(Comparison::Gte, Operator::Gte);
        }
        if self.take(">") {
            return self.value(Comparison::Gt, Operator::Gt);
        }
        if self.take("<=") {
            return self.value(Comparison::Lte, Operator::Lte);
        }
        if self.take("<") {
            return self.value(Comparison::Lt, Operator::Lt);
        }
        if self.take("^=") {
            return self.prefix();
        }
        if self.take("~") {
            return self.regex();
        }
        if self.take_word("exists") {
            return self.end().map(|()| Operator::Exists(true));
        }
        if self.take_word("missing") {
            return self.end().map(|()| Operator::Exists(false));
        }
        if self.take_word("in") {
            return self.list(Comparison::In, Operator::In);
        }
        if self.take_word("not") {
            self.skip_space();
            if self.take_word("in") {
                return self.list(Comparison::NotIn, Operator::NotIn);
            }
            if self.take_word("changed") {
                return Err(self.changed_after_path(start, path, "not changed"));
            }
            return Err(self.error(
                self.at,
                "`in` is missing after `not`",
                "write path not in [a,b], or path!=value",
            ));
        }
        if self.take_word("changed") {
            return Err(self.changed_after_path(start, path, "changed"));
        }
        if let Some(advice) = postfix_form(path) {
            return Err(self.error(start, "an operator is missing", &advice));
        }
        Err(self.error(start, "an operator is missing", OPERATORS))
    }

    fn end(&mut self) -> Result<(), WhereError> {
        self.skip_space();
        if self.rest().is_empty() {
            return Ok(());
        }
        Err(self.error(
            self.at,
            "unexpected text after the condition",
            "use another --where for a further condition",
        ))
    }

    /// Parses a value. One whose keys have an order is sent as it was written.
    fn value(
        &mut self,
        comparison: Comparison,
        operator: fn(prost_types::Value) -> Operator,
    ) -> Result<Operator, WhereError> {
        let range = self.at..self.text.len();
        let json = value::read(self.text, range.clone()).map_err(|e| self.value_error(e))?;
        if value::has_ordered_keys(&json) {
            return Ok(compare(comparison, self.text[range].trim().to_owned()));
        }
        self.untyped.extend(value::untyped(self.text, range));
        Ok(operator(value::to_protobuf(json)))
    }

    fn list(
        &mut self,
        comparison: Comparison,
        operator: fn(prost_types::ListValue) -> Operator,
    ) -> Result<Operator, WhereError> {
        self.skip_space();
        let values = value::read_list(self.text, self.at).map_err(|e| self.value_error(e))?;
        self.untyped
            .extend(value::untyped_items(self.text, self.at));
        if values.iter().any(value::has_ordered_keys) {
            let json = value::list_as_json(self.text, self.at).map_err(|e| self.value_error(e))?;
            return Ok(compare(comparison, json));
        }
        Ok(operator(prost_types::ListValue {
            values: values.into_iter().map(value::to_protobuf).collect(),
        }))
    }

    fn prefix(&mut self) -> Result<Operator, WhereError> {
        // A prefix is always text, also if it looks like JSON; quotes are removed.
        let text = self.rest().trim();
        if text.starts_with(['"', '\'']) {
            let json = value::read(self.text, self.at..self.text.len())
                .map_err(|e| self.value_error(e))?;
            if let serde_json::Value::String(text) = json {
                return Ok(Operator::Prefix(text));
            }
        }
        if text.is_empty() {
            return Err(self.error(
                self.text.len(),
                "the prefix is missing",
                "write path ^= prefix, or path exists for any value",
            ));
        }
        Ok(Operator::Prefix(text.to_owned()))
    }

    fn regex(&mut self) -> Result<Operator, WhereError> {
        self.skip_space();
        let rest = self.rest().trim_end();
        let (pattern, options) = match rest.strip_prefix('/') {
            None => (rest, ""),
            Some(inner) => inner.rsplit_once('/').ok_or_else(|| {
                self.error(
                    self.text.len(),
                    "the closing / is missing",
                    "write path ~ /regex/, path ~ /regex/i, or path ~ regex without slashes",
                )
            })?,
        };
        if pattern.is_empty() {
            return Err(self.error(
                self.at,
                "the regular expression is missing",
                "write path ~ /regex/ or path ~ regex",
            ));
        }
        if let Some(offset) = options.find(|option| !"imsx".contains(option)) {
            return Err(self.error(
                self.at + rest.len() - options.len() + offset,
                "unknown option",
                "use i (ignore case), m (^ and $ match at line ends), s (dot matches newline) or x \
                 (ignore white space); write / inside the expression as \\/",
            ));
        }
        Ok(Operator::Regex(pb::RegexFilter {
            pattern: pattern.to_owned(),
            options: options.to_owned(),
        }))
    }

    fn value_error(&self, error: value::ValueError) -> WhereError {
        self.error(error.at, &error.problem, error.advice)
    }
}
