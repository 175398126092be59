//! One rule: the callers it applies to, what it covers, and what it grants.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    access::{AccessRequest, Decision, Limits},
    filter_template::{FilterTemplate, scalars_of},
    patterns::{NamespacePattern, PrincipalPattern, covers, overlaps},
};
use crate::{
    auth::Principal,
    digest::sha256,
    filter::Filter,
    model::{BeforeChange, FieldMask, FullDocument, Operation, TokenAudience},
    pipeline::View,
};

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    pub(super) name: String,
    /// `None`: everybody.
    pub(super) principals: Option<Vec<PrincipalPattern>>,
    pub(super) claims: Vec<(String, ClaimRequirement)>,
    pub(super) namespaces: Vec<NamespacePattern>,
    pub(super) operations: BTreeSet<Operation>,
    pub(super) full_document: Vec<FullDocument>,
    pub(super) pre_images: bool,
    pub(super) filter: Option<RuleFilter>,
    pub(super) field_mask: FieldMask,
    /// Replace the server's default limits, if set.
    pub(super) limits: Option<Limits>,
}

/// The filter of a rule.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RuleFilter {
    template: FilterTemplate,
    /// The filter of all callers, kept once for them; `None` if it has placeholders for claims.
    common: Option<Filter>,
}

/// A required claim.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ClaimRequirement {
    /// The claim is present.
    Present,
    /// The claim is one of these values, or a list that contains one of them.
    OneOf(Vec<Value>),
}

/// The reason why a rule denies a request: the message for the caller (`None` for the default message), and
/// the reason for the log.
pub(super) struct Refusal {
    pub(super) message: Option<String>,
    pub(super) logged_reason: &'static str,
}

impl Rule {
    /// Returns whether the rule applies to a caller.
    pub(super) fn is_for(&self, principal: &Principal) -> bool {
        let principal_matches = match &self.principals {
            None => true,
            Some(patterns) => patterns.iter().any(|it| it.matches(principal)),
        };
        principal_matches
            && self
                .claims
                .iter()
                .all(|(name, requirement)| requirement.matches(principal.claims.get(name)))
    }

    /// Returns whether this rule decides wherever a later one could, so that the later one never does.
    pub(super) fn decides_before(&self, later: &Self) -> bool {
        let principals = match (&self.principals, &later.principals) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => theirs
                .iter()
                .all(|it| ours.iter().any(|ours| ours.includes(it))),
        };
        let requires = |name: &str, required: &ClaimRequirement| {
            let mut same = later.claims.iter().filter(|(it, _)| it == name);
            same.any(|(_, it)| it == required || *required == ClaimRequirement::Present)
        };
        principals
            && (self.claims.iter()).all(|(name, required)| requires(name, required))
            && (later.namespaces.iter())
                .all(|it| self.namespaces.iter().any(|ours| ours.includes(it)))
    }

    /// Returns whether the rule covers the whole requested scope.
    pub(super) fn covers(&self, request: &AccessRequest<'_>) -> bool {
        covers(&self.namespaces, request.scope)
    }

    /// Returns whether the rule covers any part of the requested scope.
    pub(super) fn overlaps(&self, request: &AccessRequest<'_>) -> bool {
        overlaps(&self.namespaces, request.scope)
    }

    /// Returns whether the rule filters documents or hides fields. A stage of the client could show them: it
    /// could rename or copy what is hidden, or pass an event by its value.
    pub(super) fn limits_what_is_shown(&self) -> bool {
        self.filter.is_some() || self.field_mask.hides_fields()
    }

    /// Decides what a caller sees. The rule must apply to the caller and cover the request.
    pub(super) fn decide(
        &self,
        principal: &Principal,
        request: &AccessRequest<'_>,
    ) -> Result<Decision, Refusal> {
        let refused = |message: String, logged_reason| Refusal {
            message: Some(message),
            logged_reason,
        };
        let operations = self.allowed_operations(request)?;
        if !self.full_document.contains(&request.full_document) {
            let message = "full_document: this value is not granted";
            return Err(refused(
                message.to_owned(),
                "the rule does not grant this full_document",
            ));
        }
        if request.before_change != BeforeChange::Off && !self.pre_images {
            let message = "full_document_before_change: pre-images are not granted";
            return Err(refused(message.to_owned(), "the rule grants no pre-images"));
        }
        let paths = request
            .filter
            .map(|filter| filter.paths())
            .unwrap_or_default();
        if let Some(path) = paths
            .into_iter()
            .find(|path| self.field_mask.hides_part_of(path))
        {
            // The events that arrive would reveal the hidden values.
            let message = format!("filters: {path:?} is hidden, or contains hidden fields");
            return Err(refused(
                message,
                "a filter uses a field that the rule hides",
            ));
        }
        if request.sharded && self.field_mask.hides_part_of("_id") {
            // The events of one shard tell a part of the hash, and many shards all of it.
            let message = "shard: \"_id\" is hidden, or contains hidden fields; leave shard out";
            return Err(refused(
                message.to_owned(),
                "a shard uses the _id, which the rule hides",
            ));
        }
        let row_filter = match &self.filter {
            None => None,
            Some(filter) => match filter.resolve(&principal.claims) {
                Some(row_filter) => Some(row_filter),
                None => {
                    return Err(Refusal {
                        message: None,
                        logged_reason: "a claim that the rule's filter needs is missing, empty or of an unsuitable type",
                    });
                }
            },
        };
        Ok(Decision {
            view: View {
                row_filter,
                field_mask: self.field_mask.clone(),
                token_audience: self.token_audience(&principal.claims),
            }
            .into(),
            operations,
            limits: self.limits.clone(),
        })
    }

    /// Returns the operations to deliver, of those that can occur; `None` is all of them.
    fn allowed_operations(
        &self,
        request: &AccessRequest<'_>,
    ) -> Result<Option<BTreeSet<Operation>>, Refusal> {
        let possible = |operation: &Operation| {
            *operation != Operation::Invalidate && (request.expanded || !operation.needs_expanded())
        };
        if let Some(requested) = request.operations {
            let not_granted = requested.difference(&self.operations).next();
            return match not_granted {
                None => Ok(Some(requested.clone())),
                Some(operation) => Err(Refusal {
                    message: Some(format!("operations: {} is not granted", operation.name())),
                    logged_reason: "the rule does not grant this operation",
                }),
            };
        }
        let all: BTreeSet<Operation> = Operation::ALL.into_iter().filter(possible).collect();
        let granted: BTreeSet<Operation> = all.intersection(&self.operations).copied().collect();
        if granted.is_empty() {
            return Err(Refusal {
                message: Some(
                    "operations: all granted operations require show_expanded_events".to_owned(),
                ),
                logged_reason: "the rule grants only operations that require show_expanded_events",
            });
        }
        Ok((granted != all).then_some(granted))
    }

    /// Returns the token audience of a caller: callers with the same values of the claims in the filter, or,
    /// if the filter has no claims, callers of the same rule. The filter itself is not included, so that
    /// tokens stay valid when it changes.
    fn token_audience(&self, claims: &Map<String, Value>) -> Option<TokenAudience> {
        let named = self.filter.as_ref()?.claims();
        let mut hashed = Vec::new();
        let mut add = |text: &str| {
            hashed.extend((text.len() as u64).to_be_bytes());
            hashed.extend(text.as_bytes());
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
        let mut token_audience = TokenAudience([0; 8]);
        token_audience.0.copy_from_slice(&sha256(&hashed)[..8]);
        Some(token_audience)
    }
}

impl RuleFilter {
    pub(super) fn new(template: FilterTemplate) -> Self {
        let common = template.claims().is_empty();
        let common = common.then(|| template.resolve(&Map::new())).flatten();
        Self {
            common: common.map(Filter::from),
            template,
        }
    }

    /// Returns the claims that it has placeholders for.
    pub(super) fn claims(&self) -> BTreeSet<&str> {
        self.template.claims()
    }

    /// Returns the filter for a caller with these claims; see [`FilterTemplate::resolve`].
    fn resolve(&self, claims: &Map<String, Value>) -> Option<Filter> {
        let resolve = || Some(self.template.resolve(claims)?.into());
        self.common.clone().or_else(resolve)
    }
}

impl ClaimRequirement {
    fn matches(&self, claim: Option<&Value>) -> bool {
        let Some(values) = claim.and_then(scalars_of) else {
            return false;
        };
        match self {
            Self::Present => true,
            Self::OneOf(right) => values.into_values().any(|value| right.contains(value)),
        }
    }
}
