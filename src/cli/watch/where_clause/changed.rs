//! `changed(path)` and `not changed(path)`: conditions on the change itself.

use super::{Parser, WhereError};
use crate::pb::field_filter::Operator;

const FORM: &str = "write changed(path), such as changed(status), or not changed(path)";

impl Parser<'_> {
    /// Parses `changed(path)` or `not changed(path)`; returns `None` if the text is something else, such as a
    /// condition on a field named `changed`.
    pub(super) fn changed(&mut self) -> Result<Option<(String, Operator)>, WhereError> {
        let start = self.at;
        let negated = self.take_word("not");
        self.skip_space();
        let named = self.take_word("changed");
        self.skip_space();
        if !named || !self.take("(") {
            self.at = start;
            return Ok(None);
        }
        self.skip_space();
        let path = self.path_in_parentheses()?;
        self.skip_space();
        if self.rest().starts_with(',') {
            return Err(self.error(
                self.at,
                "`changed` takes one path",
                "use one --where for each: --where 'changed(a)' --where 'changed(b)'; all must hold",
            ));
        }
        if !self.take(")") {
            return Err(self.error(self.at, "the closing ) is missing", FORM));
        }
        self.skip_space();
        if self.rest().starts_with(['=', '!', '<', '>', '~', '^']) {
            return Err(self.error(
                self.at,
                "`changed` can't be compared",
                "write changed(path) or not changed(path), and use another --where for the value: \
                 --where 'changed(status)' --where 'status=paid'",
            ));
        }
        self.end()?;
        Ok(Some((path, Operator::Changed(!negated))))
    }

    fn path_in_parentheses(&mut self) -> Result<String, WhereError> {
        if self.rest().starts_with(['"', '\'']) {
            return self.path();
        }
        let rest = self.rest();
        let end = rest
            .find(|next: char| next.is_whitespace() || "(),=!<>^~".contains(next))
            .unwrap_or(rest.len());
        if end == 0 {
            return Err(self.error(self.at, "the path of a field is missing", FORM));
        }
        let path = rest[..end].to_owned();
        self.at += end;
        Ok(path)
    }

    /// The error for `path changed`.
    pub(super) fn changed_after_path(&self, at: usize, path: &str, word: &str) -> WhereError {
        let quoted =
            path.contains(|next: char| next.is_whitespace() || "(),=!<>^~\"".contains(next));
        let path = match quoted {
            true => serde_json::Value::from(path).to_string(),
            false => path.to_owned(),
        };
        self.error(
            at,
            &format!("`{word}` comes before its path"),
            &format!("write {word}({path})"),
        )
    }
}
