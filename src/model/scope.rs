//! The part of a deployment that a watch covers.

use std::collections::BTreeSet;
use std::fmt;

use super::violations::{Findings, quoted};

const MAX_DATABASE_BYTES: usize = 63;
const MAX_COLLECTIONS: usize = 100;
const MAX_NAMESPACE_BYTES: usize = 255;

/// The characters that MongoDB refuses in a database name on at least one platform.
const FORBIDDEN_IN_DATABASE: &[char] = &[
    '/', '\\', '.', ' ', '"', '$', '*', '<', '>', ':', '|', '?', '\0',
];

/// MongoDB's own databases, which have no change streams.
pub const INTERNAL_DATABASES: [&str; 3] = ["admin", "config", "local"];

/// The part of a deployment that a watch covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// One collection, through its own change stream.
    Collection {
        /// The database's name.
        database: String,
        /// The collection's name.
        collection: String,
    },
    /// Two or more collections of one database, through a database stream filtered to them.
    Collections {
        /// The database's name.
        database: String,
        /// The collections' names.
        collections: BTreeSet<String>,
    },
    /// Every collection of a database.
    Database {
        /// The database's name.
        database: String,
    },
    /// Every database except admin, config and local.
    Deployment,
}

impl Scope {
    /// Returns the database, `None` for the whole deployment.
    pub fn database(&self) -> Option<&str> {
        match self {
            Scope::Collection { database, .. }
            | Scope::Collections { database, .. }
            | Scope::Database { database } => Some(database),
            Scope::Deployment => None,
        }
    }

    /// Encodes the scope for fingerprints and resume tokens: a kind byte, then each name with its length
    /// in front as a big-endian u32. Different scopes have different bytes, and the encoding is the same
    /// in every version.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        fn push_name(bytes: &mut Vec<u8>, name: &str) {
            // A name has at most 255 bytes, so the length fits.
            bytes.extend_from_slice(&(name.len() as u32).to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }

        let mut bytes = Vec::new();
        match self {
            Scope::Collection {
                database,
                collection,
            } => {
                bytes.push(1);
                push_name(&mut bytes, database);
                push_name(&mut bytes, collection);
            }
            Scope::Collections {
                database,
                collections,
            } => {
                bytes.push(2);
                push_name(&mut bytes, database);
                for collection in collections {
                    push_name(&mut bytes, collection);
                }
            }
            Scope::Database { database } => {
                bytes.push(3);
                push_name(&mut bytes, database);
            }
            Scope::Deployment => bytes.push(4),
        }
        bytes
    }

    /// Returns the memory that its names take, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let collections = match self {
            Scope::Collection { collection, .. } => collection.len(),
            // A node of the set has room for 11 names, and may be half full.
            Scope::Collections { collections, .. } => collections
                .iter()
                .map(|name| 2 * size_of::<String>() + 16 + name.len())
                .sum(),
            Scope::Database { .. } | Scope::Deployment => 0,
        };
        self.database().map_or(0, str::len) + collections
    }

    /// Validates the names of a request and returns their scope; `None` if a violation was noted.
    pub(crate) fn from_names(
        database: String,
        collections: Vec<String>,
        findings: &mut Findings,
    ) -> Option<Scope> {
        if database.is_empty() {
            if collections.is_empty() {
                return Some(Scope::Deployment);
            }
            findings.invalid(
                "database",
                "is empty although collections are named; name their database",
            );
            return None;
        }

        let mut good = true;
        if let Some(problem) = database_problem(&database) {
            findings.invalid("database", problem);
            good = false;
        }
        for (index, collection) in collections.iter().enumerate() {
            if let Some(problem) = collection_problem(&database, collection) {
                findings.invalid(format!("collections[{index}]"), problem);
                good = false;
            }
            if findings.is_full() {
                return None;
            }
        }
        let mut collections: BTreeSet<String> = collections.into_iter().collect();
        if collections.len() > MAX_COLLECTIONS {
            findings.invalid(
                "collections",
                format!(
                    "contains {} names; use at most {MAX_COLLECTIONS}, or none to watch the whole \
                     database",
                    collections.len()
                ),
            );
            good = false;
        }
        if !good {
            return None;
        }

        match collections.len() {
            0 => Some(Scope::Database { database }),
            1 => collections.pop_first().map(|collection| Scope::Collection {
                database,
                collection,
            }),
            _ => Some(Scope::Collections {
                database,
                collections,
            }),
        }
    }
}

/// Returns why a database can't be watched, whatever it contains.
pub(crate) fn database_problem(name: &str) -> Option<String> {
    if name.len() > MAX_DATABASE_BYTES {
        return Some(format!(
            "is {} bytes long; a database name has at most {MAX_DATABASE_BYTES} bytes",
            name.len()
        ));
    }
    if let Some(bad) = name.chars().find(|c| FORBIDDEN_IN_DATABASE.contains(c)) {
        return Some(format!(
            "contains {bad:?}; a database name must not contain / \\ . \" $ * < > : | ?, a space or NUL"
        ));
    }
    if INTERNAL_DATABASES.contains(&name) {
        return Some(format!(
            "{name:?} is a system database, which has no change streams; use another database"
        ));
    }
    None
}

/// Returns why a collection of this name can't be watched.
pub(crate) fn collection_problem(database: &str, name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("is empty; to watch the whole database, leave collections out".into());
    }
    let namespace_bytes = database.len() + 1 + name.len();
    if namespace_bytes > MAX_NAMESPACE_BYTES {
        return Some(format!(
            "makes a namespace of {namespace_bytes} bytes; database, dot and collection may have at \
             most {MAX_NAMESPACE_BYTES} bytes together"
        ));
    }
    if let Some(bad) = name.chars().find(|c| matches!(c, '$' | '\0')) {
        return Some(format!(
            "contains {bad:?}; a collection name must contain neither \"$\" nor NUL"
        ));
    }
    if name.starts_with("system.") {
        return Some(format!(
            "{} is one of MongoDB's own collections, which have no change streams; use another collection",
            quoted(name)
        ));
    }
    None
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Collection {
                database,
                collection,
            } => write!(f, "{database}.{collection}"),
            Scope::Collections {
                database,
                collections,
            } => {
                write!(f, "{database}.{{")?;
                for (index, collection) in collections.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "," };
                    write!(f, "{separator}{collection}")?;
                }
                f.write_str("}")
            }
            Scope::Database { database } => f.write_str(database),
            Scope::Deployment => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(database: &str, collections: &[&str]) -> Scope {
        Scope::from_names(
            database.into(),
            collections.iter().map(|name| name.to_string()).collect(),
            &mut Findings::default(),
        )
        .unwrap()
    }

    #[test]
    fn a_scope_is_displayed_as_a_namespace() {
        assert_eq!(scope("shop", &["orders"]).to_string(), "shop.orders");
        assert_eq!(
            scope("shop", &["orders", "items"]).to_string(),
            "shop.{items,orders}"
        );
        assert_eq!(scope("shop", &[]).to_string(), "shop");
        assert_eq!(scope("", &[]).to_string(), "*");
    }

    #[test]
    fn repeated_names_count_once() {
        assert_eq!(
            scope("shop", &["orders", "orders"]),
            scope("shop", &["orders"])
        );
        let repeated = vec!["orders"; 101];
        assert_eq!(scope("shop", &repeated), scope("shop", &["orders"]));
    }

    #[test]
    fn different_scopes_have_different_bytes_and_equal_ones_equal_bytes() {
        let scopes = [
            scope("a", &["b"]),
            scope("a", &["b", "c"]),
            scope("a", &["b,c"]),
            scope("a", &["b.c"]),
            scope("a", &["bc", "d"]),
            scope("a", &["b", "cd"]),
            scope("ab", &["c"]),
            scope("a", &[]),
            scope("", &[]),
        ];
        for (i, left) in scopes.iter().enumerate() {
            for (j, right) in scopes.iter().enumerate() {
                let equal = left.canonical_bytes() == right.canonical_bytes();
                assert_eq!(equal, i == j, "{left} and {right}");
            }
        }
        assert_eq!(
            scope("shop", &["b", "a"]).canonical_bytes(),
            scope("shop", &["a", "b"]).canonical_bytes()
        );
    }

    #[test]
    fn the_bytes_of_a_scope_never_change() {
        assert_eq!(
            scope("s", &["o"]).canonical_bytes(),
            b"\x01\0\0\0\x01s\0\0\0\x01o"
        );
        assert_eq!(scope("", &[]).canonical_bytes(), b"\x04");
    }
}
