//! Names with wildcards: whom a rule is for, and what it covers.

use crate::{
    auth::{Method, Principal},
    plan::Scope,
};

/// The longest name that a policy may hold, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// The ways to be known, as a pattern names them.
const METHODS: [Method; 3] = [Method::Jwt, Method::Key, Method::Certificate];

/// A text in which `*` stands for any number of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Glob(String);

impl Glob {
    fn is_any(&self) -> bool {
        self.0 == "*"
    }

    /// Linear in the text for each `*`: there is nothing to go back to but the last one.
    fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at, mut read) = (0, 0);
        let mut last: Option<(usize, usize)> = None;
        while read < text.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    last = Some((at, read));
                    at += 1;
                }
                Some(byte) if *byte == text[read] => {
                    at += 1;
                    read += 1;
                }
                // The last `*` takes one more.
                _ => match last {
                    Some((star, from)) => {
                        last = Some((star, from + 1));
                        at = star + 1;
                        read = from + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

/// Whom a rule is for: `jwt:*@shop.example`, `anonymous`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PrincipalPattern {
    method: Method,
    name: Glob,
}

impl PrincipalPattern {
    /// Reads one. The error says what is wrong and what would be right.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        check_length(text)?;
        if text == Method::None.name() {
            return Ok(Self {
                method: Method::None,
                name: Glob(String::new()),
            });
        }
        let (method, name) = text.split_once(':').unwrap_or((text, ""));
        let known = METHODS.into_iter().find(|it| it.name() == method);
        match known {
            Some(method) if !name.is_empty() => Ok(Self {
                method,
                name: Glob(name.to_owned()),
            }),
            _ => Err(format!(
                "{text:?} is none of jwt:NAME, key:NAME, cert:NAME and anonymous; * in a name stands for any characters"
            )),
        }
    }

    pub(super) fn matches(&self, principal: &Principal) -> bool {
        self.method == principal.method && self.name.matches(&principal.name)
    }
}

/// What a rule covers: `shop.orders`, `shop.invoices_*`, `crm.*`, `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NamespacePattern {
    /// The deployment as a whole, and so all that is in it.
    Deployment,
    /// Collections of databases, by name; where any collection's name will do, the databases as a whole
    /// too, with what they will hold tomorrow.
    Collections {
        database: Pattern,
        collection: Pattern,
    },
}

/// One part of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Glob);

impl NamespacePattern {
    /// Reads one. The error says what is wrong and what would be right.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        check_length(text)?;
        if text == "*" {
            return Ok(Self::Deployment);
        }
        let right = "right are database.collection, database.* for all of a database, and * for the deployment";
        let Some((database, collection)) = text.split_once('.') else {
            return Err(format!("{text:?} names no collection; {right}"));
        };
        if database.is_empty() || collection.is_empty() {
            return Err(format!("{text:?} has an empty part; {right}"));
        }
        if let Some(bad) = text.chars().find(|it| matches!(it, '$' | '\0')) {
            return Err(format!(
                "{text:?} holds {bad:?}, which no namespace does; {right}"
            ));
        }
        let pattern = |part: &str| Pattern(Glob(part.to_owned()));
        Ok(Self::Collections {
            database: pattern(database),
            collection: pattern(collection),
        })
    }

    fn covers_database(&self, name: &str) -> bool {
        match self {
            Self::Deployment => true,
            Self::Collections {
                database,
                collection,
            } => collection.0.is_any() && database.0.matches(name),
        }
    }

    fn touches_database(&self, name: &str) -> bool {
        match self {
            Self::Deployment => true,
            Self::Collections { database, .. } => database.0.matches(name),
        }
    }

    fn covers_collection(&self, in_database: &str, name: &str) -> bool {
        match self {
            Self::Deployment => true,
            Self::Collections {
                database,
                collection,
            } => database.0.matches(in_database) && collection.0.matches(name),
        }
    }
}

/// Whether all of a scope is covered, each part by one pattern at least.
pub(super) fn covers(patterns: &[NamespacePattern], scope: &Scope) -> bool {
    let any = |covers: &dyn Fn(&NamespacePattern) -> bool| patterns.iter().any(covers);
    match scope {
        Scope::Deployment => any(&|it| *it == NamespacePattern::Deployment),
        Scope::Database { database } => any(&|it| it.covers_database(database)),
        Scope::Collection {
            database,
            collection,
        } => any(&|it| it.covers_collection(database, collection)),
        Scope::Collections {
            database,
            collections,
        } => collections
            .iter()
            .all(|collection| any(&|it| it.covers_collection(database, collection))),
    }
}

/// Whether any part of a scope is covered, or may be one day: all that a pattern could name counts as there.
pub(super) fn touches(patterns: &[NamespacePattern], scope: &Scope) -> bool {
    let any = |touches: &dyn Fn(&NamespacePattern) -> bool| patterns.iter().any(touches);
    match scope {
        Scope::Deployment => !patterns.is_empty(),
        Scope::Database { database } => any(&|it| it.touches_database(database)),
        Scope::Collection {
            database,
            collection,
        } => any(&|it| it.covers_collection(database, collection)),
        Scope::Collections {
            database,
            collections,
        } => collections
            .iter()
            .any(|collection| any(&|it| it.covers_collection(database, collection))),
    }
}

fn check_length(text: &str) -> Result<(), String> {
    if (1..=MAX_NAME_BYTES).contains(&text.len()) {
        return Ok(());
    }
    Err(format!(
        "is {} bytes long; names here have 1 to {MAX_NAME_BYTES}",
        text.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_nothing_else_does() {
        for (pattern, text, expected) in [
            ("orders", "orders", true),
            ("orders", "orders_2", false),
            ("orders", "Orders", false),
            ("*", "", true),
            ("*", "a.b/c", true),
            ("inv*_eu", "invoices_eu", true),
            ("inv*_eu", "inv_eu", true),
            ("inv*_eu", "inv_eu_eu", true),
            ("inv*_eu", "inv_eu_us", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("a?c", "abc", false),
            ("a.c", "abc", false),
            ("[ab]", "a", false),
            ("ü*", "über", true),
        ] {
            let glob = Glob(pattern.to_owned());
            assert_eq!(glob.matches(text), expected, "{pattern} on {text}");
        }
    }

    /// What would take a back-tracking matcher for ever.
    #[test]
    fn a_pattern_of_many_stars_costs_little() {
        let glob = Glob("*a".repeat(255) + "b");
        assert!(!glob.matches(&"a".repeat(8_000)));
    }

    proptest::proptest! {
        #[test]
        fn a_glob_agrees_with_a_plain_model(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            fn model(pattern: &[u8], text: &[u8]) -> bool {
                match pattern.split_first() {
                    None => text.is_empty(),
                    Some((b'*', rest)) => (0..=text.len()).any(|at| model(rest, &text[at..])),
                    Some((byte, rest)) => text.split_first().is_some_and(|(it, left)| it == byte && model(rest, left)),
                }
            }
            let expected = model(pattern.as_bytes(), text.as_bytes());
            proptest::prop_assert_eq!(Glob(pattern).matches(&text), expected);
        }
    }
}
