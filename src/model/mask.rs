//! The fields of a document that are shown.

use std::sync::Arc;

/// The fields of documents that are shown, by dotted paths: those that are included, without those that are
/// hidden. Both apply to everything below a path and inside of arrays.
///
/// An included path keeps the documents and arrays above it, and leaves out all else in them, as an inclusion
/// projection of MongoDB does; `_id` is always included. What is included is what a client asked for; what is
/// hidden is what it may not see. So for hidden paths a field is hidden in doubt: a dot in a field's name
/// counts as a separator, and a number in it as an array index. For included paths a name is only a name, and a
/// number one as well; only a path of an update may have either, and is shown if one of its readings is.
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
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

/// A component of a path in an update description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdatePathComponent<'p> {
    /// The name of a field.
    Field(&'p [u8]),
    /// An index of an array.
    Index,
    /// A number, which is an index of an array or the name of a field.
    Number(&'p [u8]),
}

/// The places of included paths that a path of an update leads to.
enum IncludedPlaces<'m> {
    /// No included path continues there.
    Nowhere,
    /// At or below the end of an included path.
    Whole,
    /// Above the ends of included paths: one node for each reading of the path.
    Above(&'m PathNode, Vec<&'m PathNode>),
}

/// The most readings of a path with numbers that are followed. What has more is shown whole.
const MAX_READINGS: usize = 16;

impl FieldMask {
    /// Creates a mask that hides the fields at these paths; without paths it shows everything.
    ///
    /// # Errors
    /// A description of a path that is empty, or has a component that is empty or a number, which might be
    /// an array index.
    pub fn hiding(paths: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut paths = PathSet::checked(paths)?;
        let number = |path: &&String| path.split('.').any(is_number);
        if let Some(path) = paths.iter().find(number) {
            return Err(format!(
                "{path:?} has a number as a component, which may be an array index; hide the field above it"
            ));
        }
        // The paths below a path follow directly after it.
        paths.dedup_by(|path, kept| is_at_or_below(path, kept));
        Ok(Self {
            included: None,
            hidden: PathSet::new(paths),
        })
    }

    /// Creates a mask that shows the fields at these paths and `_id`; without paths it shows everything. A number
    /// in a path is the name of a field, never an array index.
    ///
    /// # Errors
    /// A description of a path with an empty component, or of two paths of which one is below the other.
    pub fn including(paths: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut paths = PathSet::checked(paths)?;
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
    /// Returns paths without empty components, sorted.
    fn checked(paths: impl IntoIterator<Item = String>) -> Result<Vec<String>, String> {
        let mut paths: Vec<String> = paths.into_iter().collect();
        if let Some(path) = paths.iter().find(|path| path.split('.').any(str::is_empty)) {
            return Err(format!(
                "{path:?} has an empty component; separate components by single dots"
            ));
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

    /// Returns the nodes that a path of an update leads to.
    fn places<'p>(
        &self,
        path: impl Iterator<Item = UpdatePathComponent<'p>>,
    ) -> IncludedPlaces<'_> {
        let (mut node, mut others) = (self, Vec::<&Self>::new());
        for component in path {
            match component {
                UpdatePathComponent::Index => {}
                UpdatePathComponent::Field(name) => {
                    others.retain_mut(|it| it.child(name).map(|below| *it = below).is_some());
                    match node.child(name).or_else(|| others.pop()) {
                        Some(below) => node = below,
                        None => return IncludedPlaces::Nowhere,
                    }
                }
                UpdatePathComponent::Number(name) => {
                    let nodes = std::iter::once(node).chain(others.iter().copied());
                    let named: Vec<&Self> = nodes.filter_map(|it| it.child(name)).collect();
                    for below in named {
                        if !others.iter().any(|it| std::ptr::eq(*it, below)) {
                            others.push(below);
                        }
                    }
                }
            }
            let mut nodes = std::iter::once(&node).chain(&others);
            if nodes.any(|it| it.is_end()) || others.len() >= MAX_READINGS {
                return IncludedPlaces::Whole;
            }
        }
        IncludedPlaces::Above(node, others)
    }

    /// Adds the paths of another tree. A path above others takes their place.
    fn add(&mut self, other: &Self) {
        if self.is_end() || other.is_end() {
            self.children.clear();
            return;
        }
        for (name, below) in &other.children {
            match self.find(name) {
                Ok(at) => self.children[at].1.add(below),
                Err(at) => self.children.insert(at, (name.clone(), below.clone())),
            }
        }
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
        let hidden = self.hidden_at(name);
        if hidden.is_some_and(PathNode::is_end) {
            return PathMatch::Hidden;
        }
        let included = match self.included.map(|included| included.child(name)) {
            Some(None) => return PathMatch::Hidden,
            Some(Some(included)) => Some(included).filter(|it| !it.is_end()),
            None => None,
        };
        Self::new(included, hidden).map_or(PathMatch::Visible, PathMatch::Partly)
    }

    /// Matches a dotted path from the top of a document, as an update description has it, and passes the result
    /// on. `components` are those of the path, if it is known how to read it; otherwise a number that is not
    /// the first component may be an array index, and the path is shown if one of its readings is.
    pub fn match_path<'p, R>(
        self,
        path: &[u8],
        components: Option<impl Iterator<Item = UpdatePathComponent<'p>>>,
        use_match: impl FnOnce(PathMatch<'_>) -> R,
    ) -> R {
        let hidden = self.hidden_at(path);
        if hidden.is_some_and(PathNode::is_end) {
            return use_match(PathMatch::Hidden);
        }
        let places = self.included.map(|included| match components {
            Some(components) => included.places(components),
            None => included.places(dotted(path)),
        });
        let merged;
        let included = match places {
            None | Some(IncludedPlaces::Whole) => None,
            Some(IncludedPlaces::Nowhere) => return use_match(PathMatch::Hidden),
            Some(IncludedPlaces::Above(node, others)) if others.is_empty() => Some(node),
            Some(IncludedPlaces::Above(node, others)) => {
                merged = others.iter().fold(node.clone(), |mut all, other| {
                    all.add(other);
                    all
                });
                Some(&merged)
            }
        };
        use_match(MaskNode::new(included, hidden).map_or(PathMatch::Visible, PathMatch::Partly))
    }

    /// Returns what is hidden at a dotted path; an end hides it.
    fn hidden_at(self, path: &[u8]) -> Option<&'m PathNode> {
        self.hidden?.descend(path.split(|byte| *byte == b'.'))
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

/// Returns the components of a dotted path. The first one is the name of a field, whatever it looks like.
fn dotted(path: &[u8]) -> impl Iterator<Item = UpdatePathComponent<'_>> {
    let names = path.split(|byte| *byte == b'.').enumerate();
    names.map(|(at, name)| {
        if at > 0 && is_number(name) {
            UpdatePathComponent::Number(name)
        } else {
            UpdatePathComponent::Field(name)
        }
    })
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
