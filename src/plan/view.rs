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
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hidden {
    /// Sorted, none below another.
    paths: Vec<String>,
}

impl View {
    /// All of it.
    #[must_use]
    pub fn whole() -> Self {
        Self::default()
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
        paths.sort();
        paths.dedup_by(|path, kept| is_at_or_below(path, kept));
        Ok(Self { paths })
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
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_at_or_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
