//! Authorization: from a [`Principal`] and its request to a [`View`].
//!
//! Reading order: a [`file`] is parsed into [`rule`]s. Each rule has [`patterns`] for principals and
//! namespaces, and may have [`hidden_path`]s and a [`filter_template`] that is filled in with the caller's claims.
//! [`Policy`] holds the rules in force and finds the one that decides.

mod access;
mod file;
mod filter_template;
mod hidden_path;
mod patterns;
mod rule;

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tracing::Level;

use crate::{
    auth::Principal,
    error::{Error, code_name},
    limit::{LineKind, RepeatedLines},
    metrics::Metrics,
    model::Caller,
    pipeline::View,
    reload::ReloadedFiles,
};

use rule::Rule;

pub use file::FULL_DOCUMENTS;

pub use access::{AccessRequest, DecidingRule, Decision, Denial, Limits};

/// The denial without details, so that callers learn nothing about what exists.
const DEFAULT_DENIAL: &str = "no rule of the policy allows this watch";

/// The policy in force.
#[derive(Debug, Clone)]
pub struct Policy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` allows everything.
    rules: ArcSwapOption<Vec<Rule>>,
    /// `true` if resume tokens are encrypted.
    tokens_encrypted: bool,
    changes: watch::Sender<u64>,
    denials: RepeatedLines,
}

impl Policy {
    /// Creates a policy that allows everything to everybody.
    #[must_use]
    pub fn allow_all() -> Self {
        Self::with_rules(None, false)
    }

    fn with_rules(rules: Option<Vec<Rule>>, tokens_encrypted: bool) -> Self {
        Self(Arc::new(Inner {
            rules: ArcSwapOption::from_pointee(rules),
            tokens_encrypted,
            changes: watch::Sender::new(0),
            denials: RepeatedLines::default(),
        }))
    }

    /// Reads the policy from a file. `tokens_encrypted` says whether resume tokens are encrypted; rules may
    /// hide fields or documents only if they are.
    ///
    /// # Errors
    /// Fails if the file can't be read or is not valid. The error names the location and the correct form.
    pub async fn read(
        path: PathBuf,
        tokens_encrypted: bool,
    ) -> Result<(Self, ReloadedFiles), String> {
        let (files, contents) = ReloadedFiles::read("policy", vec![path]).await?;
        let rules = file::read(&contents[0], tokens_encrypted)?;
        Ok((Self::with_rules(Some(rules), tokens_encrypted), files))
    }

    /// Reloads the file whenever it changes, and tells `changed` of each policy that comes into force. An invalid
    /// file leaves the previous policy in force. Never returns.
    pub async fn follow(
        self,
        files: ReloadedFiles,
        interval: Duration,
        metrics: &Metrics,
        changed: impl Fn(&Self),
    ) {
        let apply = |contents: &[Vec<u8>]| {
            self.replace(file::read(&contents[0], self.0.tokens_encrypted)?);
            changed(&self);
            Ok(())
        };
        files.follow(interval, metrics, apply).await;
    }

    fn replace(&self, rules: Vec<Rule>) {
        self.0.rules.store(Some(Arc::new(rules)));
        // After the rules are stored, so that whoever is notified sees the new ones.
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// Describes each rule that never decides, because an earlier one decides wherever it could: what it hides is
    /// shown.
    #[must_use]
    pub fn rules_without_effect(&self) -> Vec<String> {
        let rules = self.0.rules.load();
        let rules = rules.as_ref().map_or(&[][..], |it| it);
        let found = rules.iter().enumerate().filter_map(|(index, rule)| {
            let mut earlier = rules[..index].iter();
            let first = earlier.position(|it| it.decides_before(rule))?;
            Some(format!(
                "rules[{index}] ({:?}) never decides, because rules[{first}] ({:?}) comes first and applies to all of its callers and namespaces",
                rule.name, rules[first].name
            ))
        });
        found.collect()
    }

    /// Parses a policy.
    #[cfg(test)]
    pub(crate) fn from_text(yaml: &str) -> Self {
        let rules = file::read(yaml.as_bytes(), true).expect("a policy");
        Self::with_rules(Some(rules), true)
    }

    /// Puts the policy in a text in force.
    #[cfg(test)]
    pub(crate) fn replace_with_text(&self, yaml: &str) {
        self.replace(file::read(yaml.as_bytes(), true).expect("a policy"));
    }

    /// Checks that any rule applies to this principal.
    ///
    /// # Errors
    /// [`Error::AccessDenied`] when none does.
    pub fn admit(&self, principal: &Principal) -> Result<(), Error> {
        if self.has_rule_for(principal) {
            return Ok(());
        }
        let name = principal.for_logs();
        tracing::debug!(
            principal = name,
            "no rule of the policy applies to this principal"
        );
        Err(denied(None))
    }

    /// Returns whether any rule applies to this principal.
    #[must_use]
    pub fn has_rule_for(&self, principal: &Principal) -> bool {
        let rules = self.0.rules.load();
        let rules = rules.as_ref();
        rules.is_none_or(|rules| rules.iter().any(|rule| rule.is_for(principal)))
    }

    /// Decides what a principal may see of its request. The first rule that applies to the principal and
    /// overlaps the requested namespaces decides. It must cover all of them: otherwise a caller could bypass
    /// it with a broader request.
    ///
    /// # Errors
    /// [`Error::AccessDenied`] when the request is denied. The error reveals nothing about the namespace.
    /// [`Error::PipelineNotAllowed`] when the request has stages of its own and the rule filters documents or
    /// hides fields.
    pub fn authorize(
        &self,
        (principal, caller): (&Principal, &Caller),
        request: &AccessRequest<'_>,
    ) -> Result<Decision, Error> {
        self.judge(principal, request).map_err(|denial| {
            self.log((principal, caller), request, &denial);
            denial.error
        })
    }

    fn log(
        &self,
        (principal, caller): (&Principal, &Caller),
        request: &AccessRequest<'_>,
        denial: &Denial,
    ) {
        const MESSAGE: &str = "denied by the policy";
        let Denial {
            rule,
            reason,
            error,
        } = denial;
        let kind = LineKind {
            level: Level::INFO,
            message: MESSAGE,
            code: code_name(error.code()),
            reason: error.reason(),
        };
        if self.0.denials.admits(caller, kind) {
            let (name, scope) = (principal.for_logs(), request.scope.to_string());
            tracing::info!(principal = name, ?scope, rule, why = reason, "{MESSAGE}");
        }
    }

    /// Decides as [`authorize`](Self::authorize), and leaves the log to the caller.
    ///
    /// # Errors
    /// The reason, with the error of [`authorize`](Self::authorize).
    pub fn judge(
        &self,
        principal: &Principal,
        request: &AccessRequest<'_>,
    ) -> Result<Decision, Denial> {
        let rules = self.0.rules.load();
        let Some(rules) = rules.as_ref() else {
            return Ok(Decision {
                view: Arc::new(View::unrestricted()),
                operations: request.operations.cloned(),
                limits: None,
            });
        };
        let Some((_, rule)) = find(rules, principal, request) else {
            return Err(Denial {
                rule: None,
                reason: "no rule applies to this caller and covers any part of this scope",
                error: denied(None),
            });
        };
        let denial = |reason, error| Denial {
            rule: Some(rule.name.clone()),
            reason,
            error,
        };
        if !rule.covers(request) {
            let reason = "the deciding rule covers only a part of the scope";
            return Err(denial(reason, denied(None)));
        }
        if request.pipeline && rule.limits_what_is_shown() {
            let reason =
                "the watch has stages of its own, which could show what the rule withholds";
            return Err(denial(
                reason,
                Error::PipelineNotAllowed { by_policy: true },
            ));
        }
        let decision = rule.decide(principal, request);
        decision.map_err(|refusal| denial(refusal.logged_reason, denied(refusal.message)))
    }

    /// Returns the rule that decides about a request; `None` without a policy, and where no rule does.
    #[must_use]
    pub fn deciding_rule(
        &self,
        principal: &Principal,
        request: &AccessRequest<'_>,
    ) -> Option<DecidingRule> {
        let rules = self.0.rules.load();
        let (index, rule) = find(rules.as_ref()?, principal, request)?;
        let filter = rule.filter.as_ref();
        let claims = filter.map(|it| it.claims()).unwrap_or_default();
        Some(DecidingRule {
            index,
            name: rule.name.clone(),
            filter_claims: claims.into_iter().map(str::to_owned).collect(),
        })
    }

    /// Returns whether there is a policy; without one everybody may watch everything.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.rules.load().is_some()
    }

    /// Returns whether resume tokens are encrypted.
    #[must_use]
    pub fn tokens_encrypted(&self) -> bool {
        self.0.tokens_encrypted
    }

    /// Returns a receiver that is notified whenever [`authorize`](Self::authorize) may return another result.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}

/// Returns the first rule that applies to the caller and covers any part of the request, with its index.
fn find<'r>(
    rules: &'r [Rule],
    principal: &Principal,
    request: &AccessRequest<'_>,
) -> Option<(usize, &'r Rule)> {
    let mut rules = rules.iter().enumerate();
    rules.find(|(_, rule)| rule.is_for(principal) && rule.overlaps(request))
}

fn denied(message: Option<String>) -> Error {
    Error::AccessDenied(message.unwrap_or_else(|| DEFAULT_DENIAL.to_owned()))
}

#[cfg(test)]
mod tests;
