//! One rule: whom it is for, what it covers, and what it lets them see of that.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    Ask, Limits, Verdict,
    condition::{Condition, scalars_of},
    names::{NamespacePattern, PrincipalPattern, covers, touches},
};
use crate::{
    auth::Principal,
    plan::{BeforeChange, FieldMask, FullDocument, Operation, TokenAudience, View},
};

/// One rule of a policy.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    pub(super) name: String,
    /// `None`: whoever it is.
    pub(super) principals: Option<Vec<PrincipalPattern>>,
    pub(super) claims: Vec<(String, Claimed)>,
    pub(super) namespaces: Vec<NamespacePattern>,
    pub(super) operations: BTreeSet<Operation>,
    pub(super) full_document: Vec<FullDocument>,
    pub(super) pre_images: bool,
    pub(super) filter: Option<Condition>,
    pub(super) hidden: FieldMask,
    /// In place of the server's own, where the rule has any.
    pub(super) limits: Option<Limits>,
}

/// What a claim must be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Claimed {
    /// There at all.
    Anything,
    /// One of these, or a list that holds one of them.
    OneOf(Vec<Value>),
}

/// Why a rule does not let a caller do what it asks for: what the caller is told, if it is more than that,
/// and what the log is.
pub(super) struct Refusal {
    pub(super) told: Option<String>,
    pub(super) logged: &'static str,
}

impl Rule {
    /// Whether it is for this caller.
    pub(super) fn is_for(&self, principal: &Principal) -> bool {
        let named = match &self.principals {
            None => true,
            Some(patterns) => patterns.iter().any(|it| it.matches(principal)),
        };
        named
            && self
                .claims
                .iter()
                .all(|(name, claimed)| claimed.holds(principal.claims.get(name)))
    }

    /// Whether it covers all that is asked for.
    pub(super) fn covers(&self, ask: &Ask<'_>) -> bool {
        covers(&self.namespaces, ask.scope)
    }

    /// Whether it covers any of what is asked for.
    pub(super) fn touches(&self, ask: &Ask<'_>) -> bool {
        touches(&self.namespaces, ask.scope)
    }

    /// What it lets a caller that it is for see of what it covers.
    pub(super) fn verdict(&self, principal: &Principal, ask: &Ask<'_>) -> Result<Verdict, Refusal> {
        let refused = |told: String, logged| Refusal {
            told: Some(told),
            logged,
        };
        let operations = self.operations(ask)?;
        if !self.full_document.contains(&ask.full_document) {
            let told = "full_document: it may not ask for documents in this way";
            return Err(refused(
                told.to_owned(),
                "the rule does not grant such a full_document",
            ));
        }
        if ask.before_change != BeforeChange::Off && !self.pre_images {
            let told = "full_document_before_change: it may not see documents as they were";
            return Err(refused(told.to_owned(), "the rule grants no pre-images"));
        }
        let paths = ask.filter.map(|filter| filter.paths()).unwrap_or_default();
        if let Some(path) = paths.into_iter().find(|path| self.hidden.overlaps(path)) {
            // Whether an event comes would tell what it does not show.
            let told = format!("filters: it may not see all of {path:?}");
            return Err(refused(
                told,
                "a filter touches a field that the rule hides",
            ));
        }
        let guard = match &self.filter {
            None => None,
            Some(condition) => match condition.fill(&principal.claims) {
                Some(guard) => Some(guard),
                None => {
                    return Err(Refusal {
                        told: None,
                        logged: "a claim that the rule's filter names is not there, is empty, or is of a kind that has no place there",
                    });
                }
            },
        };
        Ok(Verdict {
            view: View {
                row_filter: guard,
                field_mask: self.hidden.clone(),
                token_audience: self.audience(&principal.claims),
            }
            .into(),
            operations,
            limits: self.limits.clone(),
        })
    }

    /// The operations to deliver, of those that can come at all; `None` is all of them.
    fn operations(&self, ask: &Ask<'_>) -> Result<Option<BTreeSet<Operation>>, Refusal> {
        let possible = |operation: &Operation| {
            *operation != Operation::Invalidate && (ask.expanded || !operation.needs_expanded())
        };
        if let Some(asked) = ask.operations {
            let beyond = asked.difference(&self.operations).next();
            return match beyond {
                None => Ok(Some(asked.clone())),
                Some(operation) => Err(Refusal {
                    told: Some(format!("operations: it may not watch {}", operation.name())),
                    logged: "the rule does not grant such an operation",
                }),
            };
        }
        let all: BTreeSet<Operation> = Operation::ALL.into_iter().filter(possible).collect();
        let granted: BTreeSet<Operation> = all.intersection(&self.operations).copied().collect();
        if granted.is_empty() {
            return Err(Refusal {
                told: Some(
                    "operations: it may watch none that come without show_expanded_events"
                        .to_owned(),
                ),
                logged: "the rule grants only operations that come with show_expanded_events",
            });
        }
        Ok((granted != all).then_some(granted))
    }

    /// Who may go on from the tokens of a caller: those whose claims, where the filter names any, are the
    /// same, or else those whom the same rule is for. The filter itself is not part of it, so that tokens
    /// outlive a change of it.
    fn audience(&self, claims: &Map<String, Value>) -> Option<TokenAudience> {
        let named = self.filter.as_ref()?.claims();
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        };
        if named.is_empty() {
            add("rule");
            add(&self.name);
        } else {
            add("claims");
            for name in named {
                add(name);
                let values = claims.get(name).and_then(scalars_of).unwrap_or_default();
                add(&values.len().to_string());
                values.keys().for_each(|value| add(value));
            }
        }
        let mut audience = TokenAudience([0; 8]);
        audience.0.copy_from_slice(&hash.finalize()[..8]);
        Some(audience)
    }
}

impl Claimed {
    fn holds(&self, claim: Option<&Value>) -> bool {
        let Some(values) = claim.and_then(scalars_of) else {
            return false;
        };
        match self {
            Self::Anything => true,
            Self::OneOf(right) => values.into_values().any(|value| right.contains(value)),
        }
    }
}
