//! Patterns with wildcards: the principals that a rule applies to, and the namespaces that it covers.

use super::hidden_path::is_invisible;
use crate::{
    auth::{CERTIFICATE_CLAIMS, Method, Principal},
    model::{Scope, collection_problem, database_problem},
};

/// The maximum length of a pattern, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// The characters that have a meaning in patterns of other languages. Here they are part of a name only behind a
/// backslash.
const FOREIGN: [char; 7] = [',', '{', '}', '|', '[', ']', '?'];

/// The authentication methods, as patterns name them.
const METHODS: [Method; 3] = [Method::Jwt, Method::Key, Method::Certificate];

/// A text in which `*` matches any number of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Glob(String);

impl Glob {
    fn is_any(&self) -> bool {
        self.0 == "*"
    }

    /// Returns two short texts that match: with nothing for each run of `*`, and with one character.
    fn examples(&self) -> [String; 2] {
        let short = self.0.replace('*', "");
        let mut long = String::with_capacity(self.0.len());
        let mut in_run = false;
        for it in self.0.chars() {
            let star = it == '*';
            if !(star && in_run) {
                long.push(if star { 'x' } else { it });
            }
            in_run = star;
        }
        [short, long]
    }

    /// Returns whether every text that another pattern matches is matched. May miss that in patterns with several `*`.
    fn includes(&self, other: &Self) -> bool {
        // A `*` of the other one can only be matched by a `*`, which then matches all that it stands for.
        self == other || self.matches(&other.0)
    }

    /// Returns whether a text matches. Backtracks only to the last `*`, so the time is bounded by the product
    /// of both lengths.
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
                // The last `*` matches one more character.
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

/// A pattern of principals: `jwt:*@shop.example`, `anonymous`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PrincipalPattern {
    method: Method,
    name: Glob,
}

impl PrincipalPattern {
    /// Parses a pattern. Errors name the problem and the correct form.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        check_length(text)?;
        if text == Method::None.name() {
            return Ok(Self {
                method: Method::None,
                name: Glob(String::new()),
            });
        }
        let (method, name) = text.split_once(':').unwrap_or((text, ""));
        let known = |name: &str| METHODS.into_iter().find(|it| it.name() == name);
        let Some(method) = known(method).filter(|_| !name.trim().is_empty()) else {
            let meant = method.trim().to_lowercase();
            let meant = match known(&meant) {
                Some(_) if !name.trim().is_empty() => format!("{meant}:{}", name.trim()),
                None if meant == Method::None.name() => meant,
                _ => "jwt:NAME, key:NAME, cert:NAME or anonymous".to_owned(),
            };
            return Err(format!(
                "{text:?} is not a principal: use {meant}; * in a name matches any characters"
            ));
        };
        if name.trim() != name {
            return Err(format!(
                "{text:?} can match nobody, as no name has white space at its ends: write {:?}",
                format!("{}:{}", method.name(), name.trim())
            ));
        }
        let impossible = |it: &char| match method {
            Method::Certificate => !it.is_ascii_graphic(),
            _ => it.is_control(),
        };
        if let Some(bad) = name.chars().find(impossible) {
            let names = match method {
                Method::Certificate => {
                    "no name of a certificate has: it is printable ASCII without spaces"
                }
                _ => "no name has: control characters are refused in all of them",
            };
            return Err(format!(
                "{text:?} can match nobody: it contains {bad:?}, which {names}"
            ));
        }
        Ok(Self {
            method,
            name: Glob(name.to_owned()),
        })
    }

    /// Returns whether a principal that the pattern matches may have a claim.
    pub(super) fn may_have_claim(&self, name: &str) -> bool {
        match self.method {
            Method::None => false,
            Method::Certificate => CERTIFICATE_CLAIMS.contains(&name),
            Method::Jwt | Method::Key => true,
        }
    }

    /// Returns whether every principal that another pattern matches is matched.
    pub(super) fn includes(&self, other: &Self) -> bool {
        self.method == other.method && self.name.includes(&other.name)
    }

    pub(super) fn matches(&self, principal: &Principal) -> bool {
        self.method == principal.method && self.name.matches(&principal.name)
    }
}

/// A pattern of namespaces: `shop.orders`, `shop.invoices_*`, `crm.*`, `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NamespacePattern {
    /// The whole deployment, including everything in it.
    Deployment,
    /// Collections by database and name. If the name is `*`, also the databases as a whole, with collections
    /// that are created later.
    Collections {
        database: NamePattern,
        collection: NamePattern,
    },
}

/// A pattern of one part of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamePattern(Glob);

impl NamespacePattern {
    /// Parses a pattern. Errors name the problem and the correct form.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        check_length(text)?;
        if text == "*" {
            return Ok(Self::Deployment);
        }
        let right =
            "use database.collection, database.* for a whole database, or * for the deployment";
        let Some((database, collection)) = text.split_once('.') else {
            return Err(format!("{text:?} names no collection: {right}"));
        };
        if database.is_empty() || collection.is_empty() {
            return Err(format!("{text:?} has an empty part: {right}"));
        }
        let read =
            |what, part| unescaped(what, part).map_err(|problem| format!("{text:?} {problem}"));
        let (database, collection) = (read("database", database)?, read("collection", collection)?);
        if text.contains("**") {
            // It would not be the whole database, as which it would be read.
            return Err(format!(
                "{text:?} has several * in a row, and one stands for any characters, dots too: write one: {right}"
            ));
        }
        if let Some(problem) = matches_nothing(&database, &collection) {
            return Err(format!("{text:?} can match nothing: {problem}: {right}"));
        }
        Ok(Self::Collections {
            database: NamePattern(database),
            collection: NamePattern(collection),
        })
    }

    /// Returns whether every scope of which another pattern matches a part is one of which this matches a part.
    pub(super) fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Deployment, _) => true,
            (_, Self::Deployment) => false,
            (
                Self::Collections {
                    database,
                    collection,
                },
                Self::Collections {
                    database: in_database,
                    collection: name,
                },
            ) => database.0.includes(&in_database.0) && collection.0.includes(&name.0),
        }
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

    fn overlaps_database(&self, name: &str) -> bool {
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

/// Returns whether a scope is covered completely, each part by at least one pattern.
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

/// Returns whether a pattern matches any part of a scope, including collections that do not exist yet.
pub(super) fn overlaps(patterns: &[NamespacePattern], scope: &Scope) -> bool {
    let any = |overlaps: &dyn Fn(&NamespacePattern) -> bool| patterns.iter().any(overlaps);
    match scope {
        Scope::Deployment => !patterns.is_empty(),
        Scope::Database { database } => any(&|it| it.overlaps_database(database)),
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

/// Returns a part of a namespace without the backslashes before characters of other languages. Without a backslash
/// such a character is an error, as it would be read as a part of a name that no namespace has.
fn unescaped(what: &str, part: &str) -> Result<Glob, String> {
    let mut name = String::with_capacity(part.len());
    let mut characters = part.chars();
    while let Some(next) = characters.next() {
        let escaped = characters.clone().next().filter(|it| FOREIGN.contains(it));
        if next == '\\'
            && let Some(escaped) = escaped
        {
            characters.next();
            name.push(escaped);
            continue;
        }
        if FOREIGN.contains(&next) {
            let advice = match next {
                '?' => "write * in place of the character",
                '[' | ']' => "write an entry for each, or * in place of the characters",
                _ => "write an entry for each",
            };
            let escape = if what == "database" && matches!(next, '|' | '?') {
                // No database has such a name.
                String::new()
            } else {
                format!(
                    "; where it is really a part of the name, write a backslash before it: \\{next}"
                )
            };
            return Err(format!(
                "contains {next:?} in its {what}, and * is the only wildcard: {advice}{escape}"
            ));
        }
        name.push(next);
    }
    Ok(Glob(name))
}

/// Returns why no namespace that can be watched matches two patterns, if none does.
fn matches_nothing(database: &Glob, collection: &Glob) -> Option<String> {
    for (what, Glob(name)) in [("database", database), ("collection", collection)] {
        if name.trim() != name {
            return Some(format!(
                "its {what} has white space at an end (write {:?}; * stands for white space that is really there)",
                name.trim()
            ));
        }
        if let Some(bad) = name.chars().find(|it| is_invisible(*it)) {
            return Some(format!(
                "its {what} contains the invisible character {bad:?}"
            ));
        }
    }
    if collection.0.starts_with('.') {
        return Some("its collection starts with a dot, as no collection does".to_owned());
    }
    if let Some(name) = collection.0.strip_suffix('.') {
        return Some(format!(
            "its collection ends with a dot (write {name:?}; * stands for a dot that is really there)"
        ));
    }
    let mut problem = None;
    for database in database.examples() {
        if let Some(it) = database_problem(&database) {
            problem = Some(format!("its database {it}"));
            continue;
        }
        for collection in collection.examples() {
            let it = collection_problem(&database, &collection)?;
            problem = Some(format!("its collection {it}"));
        }
    }
    problem
}

fn check_length(text: &str) -> Result<(), String> {
    if (1..=MAX_NAME_BYTES).contains(&text.len()) {
        return Ok(());
    }
    Err(format!(
        "is {} bytes long: use 1 to {MAX_NAME_BYTES} bytes",
        text.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_characters_and_nothing_else_is_special() {
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

    /// What a pattern includes is what it matches, on all short texts.
    #[test]
    fn a_pattern_includes_another_only_if_it_matches_all_that_one_does() {
        let all = |alphabet: &[&str], length| {
            let mut all = vec![String::new()];
            for _ in 0..length {
                let longer = all
                    .iter()
                    .flat_map(|it| alphabet.iter().map(move |next| format!("{it}{next}")));
                all = all
                    .iter()
                    .cloned()
                    .chain(longer)
                    .collect::<std::collections::BTreeSet<_>>()
                    .into_iter()
                    .collect();
            }
            all
        };
        let texts = all(&["a", "b"], 5);
        let patterns: Vec<Glob> = all(&["a", "b", "*"], 3).into_iter().map(Glob).collect();
        for ours in &patterns {
            for other in &patterns {
                let mut those = texts.iter().filter(|text| other.matches(text));
                let all = those.all(|text| ours.matches(text));
                assert!(all || !ours.includes(other), "{ours:?} {other:?}");
            }
        }
        for (ours, other) in [
            ("*", "a*"),
            ("a*", "ab*"),
            ("a*", "a"),
            ("*a", "b*a"),
            ("a", "a"),
        ] {
            assert!(
                Glob(ours.into()).includes(&Glob(other.into())),
                "{ours} {other}"
            );
        }
    }

    #[test]
    fn a_character_behind_a_backslash_is_part_of_a_namespace() {
        let pattern = NamespacePattern::parse(r"shop.a\,b\?\{*\}\[\]\|\c").expect("a pattern");
        assert!(pattern.covers_collection("shop", r"a,b?{x}[]|\c"));
        assert!(!pattern.covers_collection("shop", r"a\,b?{x}[]|\c"));
        assert!(
            NamespacePattern::parse(r"sh\,op.a")
                .is_ok_and(|it| it.covers_database("sh,op") || it.covers_collection("sh,op", "a"))
        );
        assert!(NamespacePattern::parse(r"sh\?op.a").is_err());
    }

    /// Naive backtracking would take exponential time.
    #[test]
    fn a_pattern_with_many_stars_matches_quickly() {
        let glob = Glob("*a".repeat(255) + "b");
        assert!(!glob.matches(&"a".repeat(8_000)));
    }

    proptest::proptest! {
        #[test]
        fn glob_matching_agrees_with_a_recursive_model(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
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
