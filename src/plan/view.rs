//! What of a namespace one client may see, whatever it asks for.

use super::Predicate;

/// What one client may see: of which documents it learns at all, which of their fields it is not shown,
/// and whose tokens it may go on from.
///
/// Watches share a feed whatever their views; what was encoded for one view is never sent to another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// What must surely hold for every document that an event carries. Unlike a filter's, an unknown whole
    /// is never worth anything: an event that does not show that it may be seen is not seen.
    pub guard: Option<Predicate>,
    /// What is left out of every document.
    pub hidden: Hidden,
    /// Who may go on from the tokens of this view; `None` is whoever is not one of many.
    pub audience: Option<Audience>,
}

/// The clients that may share resume tokens, such as those of one tenant: a hash of what tells them apart
/// from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Audience(pub [u8; 8]);

/// Fields that are shown to nobody with this view, by their dotted paths; what is below a path is hidden
/// with it, and a path goes through arrays.
///
/// Where it is in doubt what a name says, it is taken to say what is hidden: a dot in the name of a field
/// counts as one between two names, and a number in it as a place in an array.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hidden {
    /// Sorted, none below another.
    paths: Vec<String>,
    /// The same, name by name.
    tree: Branch,
}

/// Names of fields, each with what is hidden below it; nothing below one means that it is hidden itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Branch {
    /// Sorted by name.
    names: Vec<(Box<[u8]>, Branch)>,
}

/// What a field's name leads to, from a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Led<'h> {
    /// The field is hidden.
    Hidden,
    /// Something below the field may be hidden.
    Above(&'h Branch),
    /// Nothing of the field is hidden.
    Clear,
}

impl View {
    /// All of it.
    #[must_use]
    pub fn whole() -> Self {
        Self::default()
    }

    /// Whether an event that may be seen looks the same in both, its token included.
    #[must_use]
    pub fn looks_like(&self, other: &Self) -> bool {
        self.audience == other.audience && self.hidden == other.hidden
    }

    /// Whether it shows less than all, or is not for everyone.
    #[must_use]
    pub fn is_narrowed(&self) -> bool {
        self.guard.is_some() || self.audience.is_some() || !self.hidden.is_empty()
    }
}

impl Hidden {
    /// The fields at these paths.
    ///
    /// # Errors
    /// In words: a path that is empty, has an empty part, or a part that is a number, which might be a place
    /// in an array.
    pub fn new(paths: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut paths: Vec<String> = paths.into_iter().collect();
        for path in &paths {
            if path.split('.').any(str::is_empty) {
                return Err(format!("{path:?} has an empty part"));
            }
            if path.split('.').any(is_number) {
                return Err(format!(
                    "{path:?} has a number for a part, which might be a place in an array; hide what is above it"
                ));
            }
        }
        // By their names, so that what is below a path stands right behind it.
        paths.sort_by(|a, b| a.split('.').cmp(b.split('.')));
        paths.dedup_by(|path, kept| is_at_or_below(path, kept));
        let mut tree = Branch::default();
        for path in &paths {
            path.split('.')
                .fold(&mut tree, |branch, name| branch.grow(name.as_bytes()));
        }
        Ok(Self { paths, tree })
    }

    /// Whether nothing is hidden.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether a dotted path names something hidden, something below it, or something that it is part of:
    /// whatever is told of such a path may tell of what is hidden.
    #[must_use]
    pub fn touches(&self, path: &str) -> bool {
        // Places in arrays are passed over, as hidden paths go through arrays.
        let named: Vec<&str> = path.split('.').filter(|part| !is_number(part)).collect();
        self.paths.iter().any(|hidden| {
            let mut hidden = hidden.split('.');
            named
                .iter()
                .all(|part| hidden.next().is_none_or(|it| it == *part))
        })
    }

    /// The paths, sorted, none below another.
    #[must_use]
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// What is hidden in a document, from its top; `None` when nothing is.
    #[must_use]
    pub fn tree(&self) -> Option<&Branch> {
        (!self.is_empty()).then_some(&self.tree)
    }
}

impl Branch {
    fn grow(&mut self, name: &[u8]) -> &mut Branch {
        let at = match self.find(name) {
            Ok(at) => at,
            Err(at) => {
                self.names.insert(at, (name.into(), Branch::default()));
                at
            }
        };
        &mut self.names[at].1
    }

    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.names
            .binary_search_by(|(known, _)| (**known).cmp(name))
    }

    /// Where a name, or a dotted path, leads from here.
    #[must_use]
    pub fn led_to(&self, path: &[u8]) -> Led<'_> {
        let mut branch = self;
        for name in path.split(|byte| *byte == b'.') {
            if is_number(name) {
                continue;
            }
            let Ok(at) = branch.find(name) else {
                return Led::Clear;
            };
            branch = &branch.names[at].1;
            if branch.names.is_empty() {
                return Led::Hidden;
            }
        }
        Led::Above(branch)
    }
}

fn is_number(part: impl AsRef<[u8]>) -> bool {
    let part = part.as_ref();
    !part.is_empty() && part.iter().all(u8::is_ascii_digit)
}

fn is_at_or_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests;
