//! What is wrong with a value, and where in it.

use crate::model::quoted;

/// A description of what is wrong, with the path of the part that it is about.
#[derive(Debug, PartialEq)]
pub(crate) struct Problem {
    /// Keys and indexes, the innermost first.
    path: Vec<String>,
    description: String,
}

impl Problem {
    /// Returns the problem of a value as one of the document or list that has the value at `step`.
    pub(crate) fn below(mut self, step: String) -> Problem {
        self.path.push(step);
        self
    }

    /// Returns the description, and the path if it is not about the whole value.
    pub(crate) fn into_text(self) -> String {
        let Problem {
            mut path,
            description,
        } = self;
        path.reverse();
        if path.is_empty() {
            return description;
        }
        format!("{description} (at {})", quoted(&path.join(".")))
    }
}

impl From<String> for Problem {
    fn from(description: String) -> Problem {
        Problem {
            path: Vec::new(),
            description,
        }
    }
}

impl From<&str> for Problem {
    fn from(description: &str) -> Problem {
        description.to_owned().into()
    }
}
