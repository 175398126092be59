//! The fields of a document that are shown.

use std::{
    hash::{BuildHasher as _, Hash, Hasher, RandomState},
    sync::{Arc, LazyLock},
};

/// The fields of documents that are shown, by dotted paths: those that are included, without those that are
/// hidden. Both apply to everything below a path and inside of arrays.
///
/// An included path keeps the documents and arrays above it, and leaves out all else in them, as an inclusion
/// projection of MongoDB does; `_id` is always included. What is included is what a client asked for; what is
/// hidden is what it may not see. So for hidden paths a field is hidden in doubt: a dot in a field's name
/// counts as a separator, and a number as an array index, unless a hidden path begins with it. For included paths a name is only a name, and a
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
#[derive(Debug)]
struct PathSet {
    /// Sorted by components, none below another.
    paths: Vec<String>,
    /// The hash of the paths in this process, so that a set of many is looked up as fast as one of few.
    hash: u64,
}

/// A place in the tree of names that a set of paths is: the paths that lead on from there, each from the same
/// byte on. A path of the set ends where nothing of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PathNode<'m> {
    /// Sorted by components, equal before `at`; at least one.
    paths: &'m [String],
    /// Where the next component starts in each path; behind the end of a path that ends here.
    at: usize,
}

/// A mask at one place of a document: what is shown of the fields there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskNode<'m> {
    /// The included paths from here; `None` includes everything.
    included: Option<PathNode<'m>>,
    /// The hidden paths from here; `None` hides nothing.
    hidden: Option<PathNode<'m>>,
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
    Above(PathNode<'m>, Vec<PathNode<'m>>),
}

/// The most readings of a path with numbers that are followed. What has more is shown whole.
const MAX_READINGS: usize = 16;

/// The most paths of several readings that are brought together for a path of an update, so that an update of many
/// paths costs no more than a walk. What has more is shown whole.
const MAX_MERGED_PATHS: usize = 32;

impl FieldMask {
    /// Returns the memory that its paths take, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let sets = [&self.included, &self.hidden].into_iter().flatten();
        let paths = sets.flat_map(|set| &set.paths);
        paths
            .map(|path| size_of::<String>() + 16 + path.len())
            .sum()
    }

    /// Creates a mask that hides the fields at these paths; without paths it shows everything. A number at the beginning
    /// of a path is the name of a field.
    ///
    /// # Errors
    /// A description of a path that is empty, or has a component that is empty, or a number behind another
    /// component, which might be an array index.
    pub fn hiding(paths: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut paths = PathSet::checked(paths)?;
        let number = |path: &&String| path.split('.').skip(1).any(is_number);
        if let Some(path) = paths.iter().find(number) {
            return Err(format!(
                "{path:?} has a number behind another component, which may be an array index; hide the field above it"
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
        let names = path.split('.').map(str::as_bytes);
        let hidden = self.hidden.as_ref();
        hidden.is_some_and(|it| PathNode::root(&it.paths).descend(names).is_some())
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
            self.included.as_ref().map(|it| PathNode::root(&it.paths)),
            self.hidden.as_ref().map(|it| PathNode::root(&it.paths)),
        )
    }

    /// Returns the hidden fields at the top of a document, `None` if nothing is hidden. What is always
    /// included, such as the document key, has this mask.
    #[must_use]
    pub fn hidden_root(&self) -> Option<MaskNode<'_>> {
        MaskNode::new(
            None,
            self.hidden.as_ref().map(|it| PathNode::root(&it.paths)),
        )
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
        static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let hash = HASHES.hash_one(&paths);
        (!paths.is_empty()).then(|| Arc::new(Self { paths, hash }))
    }
}

impl PartialEq for PathSet {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.paths == other.paths
    }
}

impl Eq for PathSet {}

impl Hash for PathSet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl<'m> PathNode<'m> {
    fn root(paths: &'m [String]) -> Self {
        Self { paths, at: 0 }
    }

    /// Returns the node of a name; `None` if no path continues with it.
    fn child(self, name: &[u8]) -> Option<Self> {
        let start = self
            .paths
            .partition_point(|path| self.component(path) < name);
        let rest = &self.paths[start..];
        // Most nodes have one path for a name.
        let end = rest
            .iter()
            .take_while(|path| self.component(path) == name)
            .count();
        (end > 0).then(|| Self {
            paths: &rest[..end],
            at: self.at + name.len() + 1,
        })
    }

    /// Returns the next component of one of the paths.
    fn component(self, path: &str) -> &[u8] {
        let rest = path.as_bytes().get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'.');
        &rest[..end.unwrap_or(rest.len())]
    }

    /// Returns the node at which names lead to the end of a path, or else the last one; `None` if no path
    /// continues with them. Numbers count as array indexes, which hidden paths do not have: a number that a path
    /// begins with is the name of a field.
    fn descend<'n>(self, mut names: impl Iterator<Item = &'n [u8]>) -> Option<Self> {
        names.try_fold(self, |node, name| {
            if node.is_end() {
                return Some(node);
            }
            let below = node.child(name);
            below.or_else(|| is_number(name).then_some(node))
        })
    }

    /// Returns the nodes that a path of an update leads to.
    fn places<'p>(self, path: impl Iterator<Item = UpdatePathComponent<'p>>) -> IncludedPlaces<'m> {
        let (mut node, mut others) = (self, Vec::<Self>::new());
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
                    let named: Vec<Self> = nodes.filter_map(|it| it.child(name)).collect();
                    for below in named {
                        if !others.contains(&below) {
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

    /// Returns what is left of the paths of several nodes, sorted, none below another.
    fn merged(nodes: impl Iterator<Item = Self>) -> Vec<String> {
        let rest = |node: Self| {
            node.paths
                .iter()
                .map(move |path| path[node.at..].to_owned())
        };
        let mut paths: Vec<String> = nodes.flat_map(rest).collect();
        PathSet::sort(&mut paths);
        paths.dedup_by(|path, kept| is_at_or_below(path, kept));
        paths
    }

    /// Returns whether a path of the set ends here.
    fn is_end(self) -> bool {
        self.paths[0].len() < self.at
    }
}

impl<'m> MaskNode<'m> {
    fn new(included: Option<PathNode<'m>>, hidden: Option<PathNode<'m>>) -> Option<Self> {
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
            Some(IncludedPlaces::Above(node, others))
                if others
                    .iter()
                    .chain([&node])
                    .map(|it| it.paths.len())
                    .sum::<usize>()
                    > MAX_MERGED_PATHS =>
            {
                None
            }
            Some(IncludedPlaces::Above(node, others)) => {
                merged = PathNode::merged(others.into_iter().chain([node]));
                Some(PathNode::root(&merged))
            }
        };
        use_match(MaskNode::new(included, hidden).map_or(PathMatch::Visible, PathMatch::Partly))
    }

    /// Returns what is hidden at a dotted path; an end hides it.
    fn hidden_at(self, path: &[u8]) -> Option<PathNode<'m>> {
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
