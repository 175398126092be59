//! The fields of a document that may be shown.

/// The token audience: the clients that may share resume tokens, such as those of one tenant. It is a hash
/// of the values that distinguish them from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenAudience(pub [u8; 8]);

/// The fields that a view hides, by dotted paths. Hiding a path hides everything below it, and paths apply
/// inside of arrays.
///
/// In doubt a field is hidden: a dot in a field name counts as a separator, and a number in it as an array
/// index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldMask {
    /// Sorted, none below another.
    paths: Vec<String>,
    /// The same paths as a tree of names.
    tree: MaskNode,
}

/// A node of a field mask: the hidden names of one level, each with the node below it. An empty node means
/// that the field itself is hidden.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MaskNode {
    /// Sorted by name.
    children: Vec<(Box<[u8]>, MaskNode)>,
}

/// The result of matching a path with a field mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMatch<'m> {
    /// The field is hidden.
    Hidden,
    /// Fields below the field may be hidden.
    MayContainHidden(&'m MaskNode),
    /// Nothing in the field is hidden.
    Visible,
}

impl FieldMask {
    /// Creates a mask of the fields at these paths.
    ///
    /// # Errors
    /// A description of a path that is empty, or has a component that is empty or a number, which might be
    /// an array index.
    pub fn new(paths: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut paths: Vec<String> = paths.into_iter().collect();
        for path in &paths {
            if path.split('.').any(str::is_empty) {
                return Err(format!(
                    "{path:?} has an empty component; separate components by single dots"
                ));
            }
            if path.split('.').any(is_number) {
                return Err(format!(
                    "{path:?} has a number as a component, which may be an array index; hide the field above it"
                ));
            }
        }
        // Compared by components, so that the paths below a path follow directly after it.
        paths.sort_by(|a, b| a.split('.').cmp(b.split('.')));
        paths.dedup_by(|path, kept| is_at_or_below(path, kept));
        let mut tree = MaskNode::default();
        for path in &paths {
            path.split('.')
                .fold(&mut tree, |node, name| node.child_mut(name.as_bytes()));
        }
        Ok(Self { paths, tree })
    }

    /// Returns whether nothing is hidden.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Returns whether a dotted path is a hidden field, below one, or above one. A filter on such a path
    /// could reveal hidden values.
    #[must_use]
    pub fn overlaps(&self, path: &str) -> bool {
        // Array indexes are skipped, because hidden paths apply inside of arrays.
        let named: Vec<&str> = path.split('.').filter(|part| !is_number(part)).collect();
        self.paths.iter().any(|hidden| {
            let mut hidden = hidden.split('.');
            named
                .iter()
                .all(|part| hidden.next().is_none_or(|it| it == *part))
        })
    }

    /// Returns the hidden paths, sorted, none below another.
    #[must_use]
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// Returns the mask of a document's top level, `None` if nothing is hidden.
    #[must_use]
    pub fn tree(&self) -> Option<&MaskNode> {
        (!self.is_empty()).then_some(&self.tree)
    }
}

impl MaskNode {
    fn child_mut(&mut self, name: &[u8]) -> &mut MaskNode {
        let at = match self.find(name) {
            Ok(at) => at,
            Err(at) => {
                self.children.insert(at, (name.into(), MaskNode::default()));
                at
            }
        };
        &mut self.children[at].1
    }

    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.children
            .binary_search_by(|(child, _)| (**child).cmp(name))
    }

    /// Matches a field name, or a dotted path, below this node.
    #[must_use]
    pub fn match_path(&self, path: &[u8]) -> PathMatch<'_> {
        let mut node = self;
        for name in path.split(|byte| *byte == b'.') {
            if is_number(name) {
                continue;
            }
            let Ok(at) = node.find(name) else {
                return PathMatch::Visible;
            };
            node = &node.children[at].1;
            if node.children.is_empty() {
                return PathMatch::Hidden;
            }
        }
        PathMatch::MayContainHidden(node)
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
