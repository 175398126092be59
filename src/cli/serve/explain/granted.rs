//! What a caller may ask for, and what it sees.

use std::{collections::BTreeSet, sync::Arc};

use bson::Bson;
use serde_json::Value;

use crate::{
    model::{FullDocument, Operation},
    pipeline::{View, query},
    policy::{DecidingRule, Limits},
};

/// What a caller may ask for, and what it sees.
pub(super) struct Granted {
    /// The operations of a request that names none. Empty if only requests with `show_expanded_events` are allowed.
    pub(super) operations: Vec<Operation>,
    /// The same with `show_expanded_events`.
    pub(super) with_expanded: Option<Vec<Operation>>,
    pub(super) full_documents: Vec<(FullDocument, &'static str)>,
    pub(super) pre_images: bool,
    /// Whether the client may have stages of its own, or why not.
    pub(super) pipeline: Result<(), &'static str>,
    pub(super) limits: Limits,
    pub(super) tokens_encrypted: bool,
    pub(super) view: Arc<View>,
}

/// Returns the operations that a decision delivers, by their order in the API.
pub(super) fn operations(
    delivered: Option<&BTreeSet<Operation>>,
    expanded: bool,
) -> Vec<Operation> {
    let all = Operation::ALL.into_iter();
    let is_delivered = |it: &Operation| match delivered {
        Some(delivered) => delivered.contains(it),
        None => *it != Operation::Invalidate && (expanded || !it.needs_expanded()),
    };
    all.filter(is_delivered).collect()
}

/// Returns the limits of a rule, each in place of the server's default.
pub(super) fn limits(rule: Option<&Limits>, default: &Limits) -> Limits {
    let rule = rule.unwrap_or(default);
    Limits {
        rule: rule.rule.clone(),
        watches: rule.watches.or(default.watches),
        watch_rate: rule.watch_rate.or(default.watch_rate),
        byte_rate: rule.byte_rate.or(default.byte_rate),
    }
}

pub(super) fn names(operations: &[Operation]) -> Vec<&'static str> {
    operations.iter().map(|it| it.name()).collect()
}

impl Granted {
    /// Returns whether only requests with `show_expanded_events` are allowed.
    pub(super) fn only_expanded(&self) -> bool {
        self.operations.is_empty()
    }

    /// Returns the row filter as a query in Extended JSON.
    pub(super) fn filter(&self) -> Option<Value> {
        let row_filter = self.view.row_filter.as_ref();
        row_filter.map(|it| Bson::Document(query(&it.predicate())).into_relaxed_extjson())
    }

    /// Appends its lines for people, each with its name.
    pub(super) fn lines(&self, rule: Option<&DecidingRule>, lines: &mut Vec<(&str, String)>) {
        let yes = |it: bool| if it { "granted" } else { "not granted" };
        let operations = match self.only_expanded() {
            true => "none without show_expanded_events".to_owned(),
            false => names(&self.operations).join(", "),
        };
        lines.push(("operations", operations));
        let with_expanded = self.with_expanded.as_ref();
        if let Some(all) = with_expanded.filter(|it| **it != self.operations) {
            lines.push((
                "",
                format!("with show_expanded_events: {}", names(all).join(", ")),
            ));
        }
        let values: Vec<&str> = self.full_documents.iter().map(|it| it.1).collect();
        lines.push(("full_document", values.join(", ")));
        lines.push(("pre-images", yes(self.pre_images).to_owned()));
        let filter = self.filter().map(|it| it.to_string());
        lines.push(("row filter", filter.unwrap_or_else(|| "none".to_owned())));
        let hidden = self.view.field_mask.hidden_paths().join(", ");
        let none = hidden.is_empty().then_some("none");
        lines.push(("hidden fields", none.unwrap_or(&hidden).to_owned()));
        let pipeline = match self.pipeline {
            Ok(()) => "granted".to_owned(),
            Err(reason) => format!("not granted: {reason}"),
        };
        lines.push(("pipeline", pipeline));
        lines.push(("limits", self.limits_text()));
        let encrypted = if self.tokens_encrypted {
            "encrypted"
        } else {
            "not encrypted"
        };
        let audience = match (&self.view.token_audience, rule) {
            (None, _) | (_, None) => String::new(),
            (Some(_), Some(rule)) if rule.filter_claims.is_empty() => {
                ", only for callers of the same rule".to_owned()
            }
            (Some(_), Some(rule)) => {
                let claims = rule.filter_claims.join(", ");
                format!(", only for callers with the same {claims}")
            }
        };
        lines.push(("tokens", format!("{encrypted}{audience}")));
    }

    fn limits_text(&self) -> String {
        let each = [
            ("watches", self.limits.watches.map(|it| it as u64), ""),
            (
                "watch_rate",
                self.limits.watch_rate.map(u64::from),
                " per second",
            ),
            ("byte_rate", self.limits.byte_rate, " bytes per second"),
        ];
        let each = each.map(|(name, limit, unit)| match limit.filter(|it| *it > 0) {
            Some(limit) => format!("{name} {limit}{unit}"),
            None => format!("{name} without a limit"),
        });
        each.join(", ")
    }
}
