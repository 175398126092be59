//! `--where`: one condition on a field, in a short notation.
//!
//! ```text
//! path=value  path!=value  path>value  path>=value  path<value  path<=value
//! path in [a,b]  path not in [a,b]  path exists  path missing
//! path ^= prefix  path ~ /regex/opts  path ~ regex
//! ```
//!
//! A value that reads as JSON is that JSON (and Extended JSON means what it means there); any
//! other text is a string. What starts like JSON and then is not is refused: taken as text it
//! would match nothing, silently.

mod value;

#[cfg(test)]
mod tests;

use crate::pb;
use crate::pb::field_filter::Operator;

/// A condition as written and as sent.
#[derive(Debug, Clone, PartialEq)]
pub struct WhereClause {
    /// What the user wrote.
    pub text: String,
    /// What it means.
    pub filter: pb::Filter,
}

/// Why a condition cannot be read, where, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhereError {
    text: String,
    /// The byte at which reading failed; at most the text's length.
    at: usize,
    problem: String,
    advice: String,
}

impl WhereError {
    /// The 1-based column of the failure, in characters.
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
        let (path, operator) = Parser { text, at: 0 }.condition()?;
        Ok(WhereClause {
            text: text.to_owned(),
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
                         path ~ /regex/";

/// What people write for another operator, and its name here.
const UNSUPPORTED_OPERATORS: [(&str, &str); 5] = [
    ("=~", "`~` matches a regular expression"),
    ("<>", "`!=` is not equal"),
    ("=>", "`>=` is greater or equal"),
    ("=<", "`<=` is less or equal"),
    (
        "!~",
        "a negated regular expression is not to be had; filter its matches out behind this client",
    ),
];

/// Reads a condition from left to right.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn condition(&mut self) -> Result<(String, Operator), WhereError> {
        self.skip_space();
        let path = self.path()?;
        self.skip_space();
        let operator = self.operator()?;
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

    /// A word such as `in`: it must end where a letter could not continue it.
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

    /// A dotted path; in double quotes when it holds spaces or operators.
    fn path(&mut self) -> Result<String, WhereError> {
        let start = self.at;
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
        if end == 0 {
            return Err(self.error(
                start,
                "the path of a field is missing",
                "a condition starts with a field, such as status=paid or address.city=Gdynia",
            ));
        }
        let path = self.rest()[..end].to_owned();
        self.at += end;
        Ok(path)
    }

    fn operator(&mut self) -> Result<Operator, WhereError> {
        let start = self.at;
        if let Some((_, advice)) = UNSUPPORTED_OPERATORS
            .iter()
            .find(|(unsupported, _)| self.rest().starts_with(unsupported))
        {
            return Err(self.error(start, "this operator is not known", advice));
        }
        // The longer of two operators with one beginning stands first.
        if self.take("==") || self.take("=") {
            return self.value().map(Operator::Eq);
        }
        if self.take("!=") {
            return self.value().map(Operator::Ne);
        }
        if self.take(">=") {
            return self.value().map(Operator::Gte);
        }
        if self.take(">") {
            return self.value().map(Operator::Gt);
        }
        if self.take("<=") {
            return self.value().map(Operator::Lte);
        }
        if self.take("<") {
            return self.value().map(Operator::Lt);
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
            return self.list().map(Operator::In);
        }
        if self.take_word("not") {
            self.skip_space();
            if self.take_word("in") {
                return self.list().map(Operator::NotIn);
            }
            return Err(self.error(
                self.at,
                "`in` is missing after `not`",
                "write path not in [a,b], or path!=value",
            ));
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
            "nothing may follow here",
            "repeat --where for a further condition",
        ))
    }

    fn value(&mut self) -> Result<prost_types::Value, WhereError> {
        let json =
            value::read(self.text, self.at..self.text.len()).map_err(|e| self.value_error(e))?;
        Ok(value::to_protobuf(json))
    }

    fn list(&mut self) -> Result<prost_types::ListValue, WhereError> {
        self.skip_space();
        let values = value::read_list(self.text, self.at).map_err(|e| self.value_error(e))?;
        Ok(prost_types::ListValue {
            values: values.into_iter().map(value::to_protobuf).collect(),
        })
    }

    fn prefix(&mut self) -> Result<Operator, WhereError> {
        // A prefix is text whatever it looks like, unless it is quoted.
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
                "write path ^= prefix; `path exists` holds for every value",
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
                "this option is not known",
                "options are i (ignore case), m (^ and $ match at lines), s (dot matches newline) \
                 and x (ignore white space); an expression with / in it is written /a\\/b/",
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
