//! What to watch, as it is written on the command line.

use serde::{Deserialize, Serialize};

/// A collection, several of one database, a database, or (with an empty database) the deployment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Scope {
    /// The database; empty for the whole deployment.
    pub database: String,
    /// The collections; none for the whole database.
    pub collections: Vec<String>,
}

impl Scope {
    /// The same scope in a form that is equal for all ways of writing it: resume tokens belong to
    /// the set of collections, not to the order in which they were named.
    pub fn normalized(mut self) -> Scope {
        self.collections.sort_unstable();
        self.collections.dedup();
        self
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.database.is_empty() {
            return f.write_str("the whole deployment");
        }
        f.write_str(&self.database)?;
        if !self.collections.is_empty() {
            write!(f, ".{}", self.collections.join(","))?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    /// `DB`, `DB.COLLECTION` (split at the first dot: collections may have dots, databases not)
    /// or `DB.A,B`.
    fn from_str(text: &str) -> Result<Scope, String> {
        let (database, collections) = match text.split_once('.') {
            None => (text, None),
            Some((database, collections)) => (database, Some(collections)),
        };
        if database.is_empty() {
            return Err(
                "the database's name is missing; write DB or DB.COLLECTION, \
                        or --all for the whole deployment"
                    .to_owned(),
            );
        }
        if database.contains(',') {
            return Err(
                "several databases cannot be watched at once; several collections \
                        of one database are written DB.A,B"
                    .to_owned(),
            );
        }
        if collections == Some("*") {
            return Err(format!(
                "`{database}` alone watches every collection of the database"
            ));
        }
        let collections: Vec<String> = collections
            .map(|names| names.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        if collections.iter().any(String::is_empty) {
            return Err(format!(
                "a collection's name is missing; `{database}` alone watches the whole database"
            ));
        }
        Ok(Scope {
            database: database.to_owned(),
            collections,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(database: &str, collections: &[&str]) -> Scope {
        Scope {
            database: database.to_owned(),
            collections: collections.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn a_scope_is_a_database_one_collection_or_several() {
        assert_eq!("shop".parse(), Ok(scope("shop", &[])));
        assert_eq!("shop.orders".parse(), Ok(scope("shop", &["orders"])));
        assert_eq!("shop.a.b".parse(), Ok(scope("shop", &["a.b"])));
        assert_eq!("shop.a,b.c".parse(), Ok(scope("shop", &["a", "b.c"])));
    }

    #[test]
    fn a_scope_with_a_missing_name_is_refused_with_advice() {
        for (text, advice) in [
            ("", "database's name is missing"),
            (".orders", "database's name is missing"),
            ("shop.", "`shop` alone"),
            ("shop.a,,b", "`shop` alone"),
            ("shop.*", "`shop` alone"),
            ("shop,crm", "DB.A,B"),
        ] {
            let error = text.parse::<Scope>().unwrap_err();
            assert!(error.contains(advice), "{text}: {error}");
        }
    }

    #[test]
    fn the_order_of_collections_makes_no_other_scope() {
        assert_eq!(
            scope("shop", &["b", "a", "b"]).normalized(),
            scope("shop", &["a", "b"]).normalized()
        );
        assert_eq!(scope("shop", &["a", "b"]).to_string(), "shop.a,b");
        assert_eq!(scope("", &[]).to_string(), "the whole deployment");
    }
}
