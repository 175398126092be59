//! The scope of a watch, as written on the command line.

use serde::{Deserialize, Serialize};

/// Collections of one database, a whole database, or the whole deployment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Scope {
    /// The database; empty for the whole deployment.
    pub database: String,
    /// The collections; empty for the whole database.
    pub collections: Vec<String>,
}

impl Scope {
    /// Returns the scope with sorted, unique collections: resume tokens belong to the set of collections,
    /// independent of order.
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

    /// Parses `DB`, `DB.COLLECTION` or `DB.A,B`. Splits at the first dot: only collection names may contain
    /// dots.
    fn from_str(text: &str) -> Result<Scope, String> {
        let (database, collections) = match text.split_once('.') {
            None => (text, None),
            Some((database, collections)) => (database, Some(collections)),
        };
        if database.is_empty() {
            return Err(
                "the name of the database is missing: write DB or DB.COLLECTION, \
                        or use --all for the whole deployment"
                    .to_owned(),
            );
        }
        if database.contains(',') {
            return Err(
                "several databases can't be watched at once: write DB.A,B for several \
                        collections of one database"
                    .to_owned(),
            );
        }
        if collections == Some("*") {
            return Err(format!(
                "`*` is not a collection: `{database}` alone watches the whole database"
            ));
        }
        let collections: Vec<String> = collections
            .map(|names| names.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        if collections.iter().any(String::is_empty) {
            return Err(format!(
                "the name of a collection is missing: `{database}` alone watches the whole database"
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
            ("", "name of the database is missing"),
            (".orders", "name of the database is missing"),
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
    fn the_order_of_collections_does_not_matter() {
        assert_eq!(
            scope("shop", &["b", "a", "b"]).normalized(),
            scope("shop", &["a", "b"]).normalized()
        );
        assert_eq!(scope("shop", &["a", "b"]).to_string(), "shop.a,b");
        assert_eq!(scope("", &[]).to_string(), "the whole deployment");
    }
}
