//! Who may watch what: from a [`Principal`] and what it asks for, to a [`View`].
//!
//! Reading order: a [`file`] is read into [`rule`]s; each has [`names`] with wildcards for those whom it is
//! for and what it covers, and a [`condition`] that is filled in with the caller's claims. [`Policy`] finds
//! the rule that decides, and keeps those in force.

mod condition;
mod file;
mod names;
mod rule;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::{
    auth::Principal,
    error::Error,
    metrics::Metrics,
    plan::{BeforeChange, FullDocument, Operation, Predicate, Scope, View, Watch},
    reload::ReloadedFiles,
};

use rule::Rule;

/// What whoever is refused is told, so that it learns nothing about what is there.
const NOT_ALLOWED: &str = "nothing on this server lets it watch that";

/// The policy in force.
#[derive(Debug, Clone)]
pub struct Policy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` lets everybody watch everything.
    rules: ArcSwapOption<Vec<Rule>>,
    /// Whether resume tokens are encrypted.
    sealed: bool,
    moved: watch::Sender<u64>,
}

/// What of a watch a policy judges.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'w> {
    scope: &'w Scope,
    /// `None` is all that may be watched.
    operations: Option<&'w BTreeSet<Operation>>,
    expanded: bool,
    full_document: FullDocument,
    before_change: BeforeChange,
    filter: Option<&'w Predicate>,
}

/// What one caller may see of what it asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What of documents and tokens.
    pub view: Arc<View>,
    /// The operations to deliver; `None` is all.
    pub operations: Option<BTreeSet<Operation>>,
    /// What it may take, where that differs from what the server lets everybody take.
    pub limits: Option<Limits>,
}

/// What one principal may take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// The rule that says so: what a principal has open under it is counted by itself. Empty for the
    /// server's own limits.
    pub rule: Arc<str>,
    /// How many watches it may have open at once.
    pub watches: Option<usize>,
    /// How many watches it may open a second.
    pub watch_rate: Option<u32>,
    /// How many bytes a second it is sent.
    pub byte_rate: Option<u64>,
}

impl<'w> Ask<'w> {
    /// What a watch asks for, but for `operations`, which a verdict may have narrowed since.
    #[must_use]
    pub fn of(watch: &'w Watch, operations: Option<&'w BTreeSet<Operation>>) -> Self {
        Self {
            scope: &watch.scope,
            operations,
            expanded: watch.expanded,
            full_document: watch.full_document,
            before_change: watch.before_change,
            filter: watch.filter.as_ref(),
        }
    }
}

impl Verdict {
    /// Whether a watch goes on the same under either.
    #[must_use]
    pub fn shows_the_same(&self, other: &Self) -> bool {
        self.view == other.view && self.operations == other.operations
    }
}

impl Policy {
    /// Lets everybody watch everything.
    #[must_use]
    pub fn open() -> Self {
        Self::of(None, false)
    }

    fn of(rules: Option<Vec<Rule>>, sealed: bool) -> Self {
        Self(Arc::new(Inner {
            rules: ArcSwapOption::from_pointee(rules),
            sealed,
            moved: watch::Sender::new(0),
        }))
    }

    /// Reads the policy of a file. `sealed` says whether resume tokens are encrypted, without which no rule
    /// may hide a field or a document.
    ///
    /// # Errors
    /// In words, which name the file, or the place in it and what would be right there.
    pub async fn read(path: PathBuf, sealed: bool) -> Result<(Self, ReloadedFiles), String> {
        let (files, contents) = ReloadedFiles::read("policy", vec![path]).await?;
        let rules = file::read(&contents[0], sealed)?;
        Ok((Self::of(Some(rules), sealed), files))
    }

    /// Reads it again whenever it changes. What can't be used leaves the old one in force. Never ends.
    pub async fn follow(self, files: ReloadedFiles, interval: Duration, metrics: &Metrics) {
        let apply = |contents: &[Vec<u8>]| {
            self.replace(file::read(&contents[0], self.0.sealed)?);
            Ok(())
        };
        files.follow(interval, metrics, apply).await;
    }

    fn replace(&self, rules: Vec<Rule>) {
        self.0.rules.store(Some(Arc::new(rules)));
        // After the rules: who sees that they have changed sees the new ones.
        self.0.moved.send_modify(|count| *count += 1);
    }

    /// The policy of a text.
    #[cfg(test)]
    pub(crate) fn of_text(yaml: &str) -> Self {
        let rules = file::read(yaml.as_bytes(), true).expect("a policy");
        Self::of(Some(rules), true)
    }

    /// Puts that of a text in force.
    #[cfg(test)]
    pub(crate) fn replace_by_text(&self, yaml: &str) {
        self.replace(file::read(yaml.as_bytes(), true).expect("a policy"));
    }

    /// Whether any rule is for this principal. Whoever none is for is told nothing at all.
    ///
    /// # Errors
    /// [`Error::AccessDenied`] when none is.
    pub fn admit(&self, principal: &Principal) -> Result<(), Error> {
        if self.knows(principal) {
            return Ok(());
        }
        let name = principal.for_logs();
        tracing::debug!(
            principal = name,
            "no rule of the policy is for this principal"
        );
        Err(denied(None))
    }

    /// Whether any rule is for this principal.
    #[must_use]
    pub fn knows(&self, principal: &Principal) -> bool {
        let rules = self.0.rules.load();
        let rules = rules.as_ref();
        rules.is_none_or(|rules| rules.iter().any(|rule| rule.is_for(principal)))
    }

    /// What a principal sees of what it asks for. The first rule that is for it and covers any of the
    /// namespaces decides, and covers them all or refuses: nobody gets round a rule by asking for more.
    ///
    /// # Errors
    /// [`Error::AccessDenied`] when it may not watch that. Nothing is told of the namespace.
    pub fn judge(&self, principal: &Principal, ask: &Ask<'_>) -> Result<Verdict, Error> {
        let rules = self.0.rules.load();
        let Some(rules) = rules.as_ref() else {
            return Ok(Verdict {
                view: Arc::new(View::unrestricted()),
                operations: ask.operations.cloned(),
                limits: None,
            });
        };
        let mut rules = rules.iter();
        let decides = rules.find(|rule| rule.is_for(principal) && rule.touches(ask));
        let name = principal.for_logs();
        let scope = ask.scope.to_string();
        let Some(rule) = decides else {
            tracing::info!(
                principal = name,
                ?scope,
                "no rule of the policy lets this principal watch this"
            );
            return Err(denied(None));
        };
        if !rule.covers(ask) {
            let rule = &rule.name;
            tracing::info!(
                principal = name,
                ?scope,
                rule,
                "the policy refuses a watch: the rule that decides covers a part of it alone"
            );
            return Err(denied(None));
        }
        rule.verdict(principal, ask).map_err(|refusal| {
            let (rule, why) = (&rule.name, refusal.logged);
            tracing::info!(
                principal = name,
                ?scope,
                rule,
                why,
                "the policy refuses a watch"
            );
            denied(refusal.told)
        })
    }

    /// Moves whenever [`judge`](Self::judge) may answer otherwise than before.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.moved.subscribe()
    }
}

fn denied(told: Option<String>) -> Error {
    Error::AccessDenied(told.unwrap_or_else(|| NOT_ALLOWED.to_owned()))
}

#[cfg(test)]
mod tests;
