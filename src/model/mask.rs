//! The fields of a document that are shown.

use std::sync::Arc;

/// The fields of documents that are shown, by dotted paths: those that are included, without those that are
/// hidden. Both apply to everything below a path and inside of arrays.
///
/// An included path keeps the documents and arrays above it, and leaves out all else in them, as an inclusion
/// projection of MongoDB does; `_id` is always included. What is included is what a client asked for; what is
/// hidden is what it may not see. So for hidden paths a field is hidden in doubt: a dot in a field's name
/// counts as a separator, and a number in it as an array index. For included paths a name is only a name.
///
/// Clones share their paths, and masks that do are equal without a comparison of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldMask {
    /// `None` includes every field.
    included: Option<Arc<PathSet>>,
    /// `None` hides no field.
    hidden: Option<Arc<PathSet>>,
}

/// A set of paths, at least one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct PathSet {
    /// Sorted by components, none below another.
    paths: Vec<String>,
    /// The same paths as a tree of names.
    tree: PathNode,
}

/// A node of a tree of paths: the names of one level, each with the node below it. A path of the set ends at a
/// node without names.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
struct PathNode {
    /// Sorted by name.
    children: Vec<(Box<[u8]>, PathNode)>,
}

/// A mask at one place of a document: what is shown of the fields there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskNode<'m> {
    /// The included paths from here; `None` includes everything.
    included: Option<&'m PathNode>,
    /// The hidden paths from here; `None` hides nothing.
    hidden: Option<&'m PathNode>,
}

/// What a mask shows of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMatch<'m> {
    /// Nothing: it is hidden, or not included.
    Hidden,
    /// The fields in it that the node shows.
    Partly(MaskNode<'m>),
    /// The whole field.
    Visible,
}

impl FieldMask {
    /// Creates a mask that hides the fields at these paths; without paths it shows everything.
    ///
    /// # Errors
    /// A description of a path that is empty, or has a component that is empty or a number, which might be
    /// an array index.
    pub fn hiding(paths: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut paths = PathSet::checked(paths, "hide the field above it")?;
        // The paths below a path follow directly after it.
        paths.dedup_by(|path, kept| is_at_or_below(path, kept));
        Ok(Self {
            included: None,
            hidden: PathSet::new(paths),
        })
    }

    /// Creates a mask that shows the fields at these paths and `_id`; without paths it shows everything.
    ///
    /// # Errors
    /// As [`hiding`](Self::hiding), and a description of two paths of which one is below the other.
    pub fn including(paths: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut paths = PathSet::checked(paths, "name the field above it")?;
        paths.dedup();
        if let Some([above, below]) = paths
            .array_windows()
            .find(|[above, below]| is_at_or_below(below, above))
        {
            return Err(format!("{below:?} is below {above:?}; name one of them"));
        }
        if !paths.is_empty() {
            paths.retain(|path| !is_at_or_below(path, "_id"));
            paths.push("_id".to_owned());
            PathSet::sort(&mut paths);
        }
        Ok(Self {
            included: PathSet::new(paths),
            hidden: None,
        })
    }

    /// Returns this mask with the hidden fields of another one in place of its own.
    #[must_use]
    pub fn with_hidden_fields_of(&self, other: &Self) -> Self {
        Self {
            included: self.included.clone(),
            hidden: other.hidden.clone(),
        }
    }

    /// Returns whether the mask hides fields.
    #[must_use]
    pub fn hides_fields(&self) -> bool {
        self.hidden.is_some()
    }

    /// Returns whether a dotted path is a hidden field, below one, or above one. A filter on such a path
    /// could reveal hidden values.
    #[must_use]
    pub fn hides_part_of(&self, path: &str) -> bool {
        // Array indexes are skipped, because hidden paths apply inside of arrays.
        let named: Vec<&str> = path.split('.').filter(|part| !is_number(part)).collect();
        self.hidden_paths().iter().any(|hidden| {
            let mut hidden = hidden.split('.');
            named
                .iter()
                .all(|part| hidden.next().is_none_or(|it| it == *part))
        })
    }

    /// Returns the hidden paths, sorted, none below another.
    #[must_use]
    pub fn hidden_paths(&self) -> &[String] {
        self.hidden.as_ref().map_or(&[], |it| &it.paths)
    }

    /// Returns the mask at the top of a document, `None` if everything is shown.
    #[must_use]
    pub fn root(&self) -> Option<MaskNode<'_>> {
        MaskNode::new(
            self.included.as_ref().map(|it| &it.tree),
            self.hidden.as_ref().map(|it| &it.tree),
        )
    }

    /// Returns the hidden fields at the top of a document, `None` if nothing is hidden. What is always
    /// included, such as the document key, has this mask.
    #[must_use]
    pub fn hidden_root(&self) -> Option<MaskNode<'_>> {
        MaskNode::new(None, self.hidden.as_ref().map(|it| &it.tree))
    }
}

impl PathSet {
    /// Returns valid paths, sorted. `advice` follows the description of a path with a number.
    fn checked(
        paths: impl IntoIterator<Item = String>,
        advice: &str,
    ) -> Result<Vec<String>, String> {
        let mut paths: Vec<String> = paths.into_iter().collect();
        for path in &paths {
            if path.split('.').any(str::is_empty) {
                return Err(format!(
                    "{path:?} has an empty component; separate components by single dots"
                ));
            }
            if path.split('.').any(is_number) {
                return Err(format!(
                    "{path:?} has a number as a component, which may be an array index; {advice}"
                ));
            }
        }
        Self::sort(&mut paths);
        Ok(paths)
    }

    /// Sorts by components, so that the paths below a path follow directly after it.
    fn sort(paths: &mut [String]) {
        paths.sort_by(|a, b| a.split('.').cmp(b.split('.')));
    }

    /// Creates a set of sorted paths, `None` if there are none.
    fn new(paths: Vec<String>) -> Option<Arc<Self>> {
        let mut tree = PathNode::default();
        for path in &paths {
            path.split('.')
                .fold(&mut tree, |node, name| node.child_mut(name.as_bytes()));
        }
        (!paths.is_empty()).then(|| Arc::new(Self { paths, tree }))
    }
}

impl PathNode {
    fn child_mut(&mut self, name: &[u8]) -> &mut Self {
        let at = match self.find(name) {
            Ok(at) => at,
            Err(at) => {
                self.children.insert(at, (name.into(), Self::default()));
                at
            }
        };
        &mut self.children[at].1
    }

    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.children
            .binary_search_by(|(child, _)| (**child).cmp(name))
    }

    /// Returns the node of a name; `None` if no path continues with it.
    fn child(&self, name: &[u8]) -> Option<&Self> {
        Some(&self.children[self.find(name).ok()?].1)
    }

    /// Returns the node at which names lead to the end of a path, or else the last one; `None` if no path
    /// continues with them. Numbers count as array indexes.
    fn descend<'n>(&self, names: impl Iterator<Item = &'n [u8]>) -> Option<&Self> {
        let mut names = names.filter(|name| !is_number(name));
        names.try_fold(self, |node, name| {
            if node.is_end() {
                return Some(node);
            }
            node.child(name)
        })
    }

    /// Returns whether a path of the set ends here.
    fn is_end(&self) -> bool {
        self.children.is_empty()
    }
}

impl<'m> MaskNode<'m> {
    fn new(included: Option<&'m PathNode>, hidden: Option<&'m PathNode>) -> Option<Self> {
        (included.is_some() || hidden.is_some()).then_some(Self { included, hidden })
    }

    /// Matches the name of a field.
    #[must_use]
    pub fn match_name(self, name: &[u8]) -> PathMatch<'m> {
        self.match_with(name, |included| included.child(name))
    }

    /// Matches a dotted path from the top of a document, as an update description has it: a number in it is
    /// an array index.
    #[must_use]
    pub fn match_path(self, path: &[u8]) -> PathMatch<'m> {
        self.match_with(path, |included| {
            let mut names = path.split(|byte| *byte == b'.');
            // The first one is the name of a field, whatever it looks like.
            let first = included.child(names.next()?)?;
            first.descend(names)
        })
    }

    fn match_with(
        self,
        path: &[u8],
        find_included: impl FnOnce(&'m PathNode) -> Option<&'m PathNode>,
    ) -> PathMatch<'m> {
        let hidden = self
            .hidden
            .and_then(|hidden| hidden.descend(path.split(|byte| *byte == b'.')));
        if hidden.is_some_and(PathNode::is_end) {
            return PathMatch::Hidden;
        }
        let included = match self.included.map(find_included) {
            Some(None) => return PathMatch::Hidden,
            Some(Some(included)) => Some(included).filter(|it| !it.is_end()),
            None => None,
        };
        Self::new(included, hidden).map_or(PathMatch::Visible, PathMatch::Partly)
    }

    /// Returns whether only what is below certain names is included: a value without fields is left out.
    #[must_use]
    pub fn includes_only_fields(self) -> bool {
        self.included.is_some()
    }

    /// Returns what is hidden here, `None` if nothing is.
    #[must_use]
    pub fn hidden_only(self) -> Option<Self> {
        Self::new(None, self.hidden)
    }
}

fn is_number(part: impl AsRef<[u8]>) -> bool {
    let part = part.as_ref();
    !part.is_empty() && part.iter().all(u8::is_ascii_digit)
}

fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests;
