//! What is printed: lines for people, or one JSON object.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    granted::{Granted, names},
    shown::Shown,
};
use crate::{cli::watch::escape_controls, model::Operation, policy::DecidingRule};

pub(super) struct Report {
    principal: String,
    namespace: String,
    notes: Vec<String>,
    /// `None` without a policy, and where no rule decides.
    pub(super) rule: Option<DecidingRule>,
    pub(super) verdict: Verdict,
    pub(super) shown: Option<Shown>,
}

pub(super) enum Verdict {
    Allowed(Granted),
    /// With the reason.
    Denied(String),
}

impl Report {
    pub(super) fn new(principal: &str, namespace: &str, notes: Vec<String>) -> Self {
        Self {
            principal: principal.to_owned(),
            namespace: namespace.to_owned(),
            notes,
            rule: None,
            verdict: Verdict::Denied(String::new()),
            shown: None,
        }
    }

    /// Returns whether the caller may watch, and would get the document if there is one.
    pub(super) fn is_positive(&self) -> bool {
        let is_shown = self.shown.as_ref().is_none_or(|it| it.parts.is_some());
        matches!(self.verdict, Verdict::Allowed(_)) && is_shown
    }

    pub(super) fn json(&self) -> Value {
        let rule = self.rule.as_ref();
        let mut json = json!({
            "principal": self.principal,
            "namespace": self.namespace,
            "notes": self.notes,
            "rule": rule.map(|it| json!({"index": it.index, "name": it.name})),
            "allowed": matches!(self.verdict, Verdict::Allowed(_)),
        });
        match &self.verdict {
            Verdict::Denied(reason) => json["reason"] = reason.as_str().into(),
            Verdict::Allowed(it) => {
                json["operations"] = names(&it.operations).into();
                json["expanded_operations"] = it.with_expanded.as_deref().map(names).into();
                json["full_document"] = it.full_documents.iter().map(|it| it.1).collect();
                json["pre_images"] = it.pre_images.into();
                json["pipeline"] = it.pipeline.is_ok().into();
                json["filter"] = it.filter().into();
                json["hide"] = it.view.field_mask.hidden_paths().into();
                json["limits"] = json!({
                    "watches": it.limits.watches,
                    "watch_rate": it.limits.watch_rate,
                    "byte_rate": it.limits.byte_rate,
                });
                json["tokens_encrypted"] = it.tokens_encrypted.into();
            }
        }
        if let Some(shown) = &self.shown {
            let parts = shown.parts.as_ref().map(|parts| {
                let each = parts.iter().map(|(name, text)| {
                    // The encoder's own text.
                    let value = serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into());
                    ((*name).to_owned(), value)
                });
                Value::Object(each.collect())
            });
            json["try"] = json!({
                "operation": shown.operation.map(Operation::name),
                "filter_matches": shown.matches.filter(|_| shown.has_filter),
                "shown": parts,
            });
        }
        json
    }

    pub(super) fn text(&self) -> String {
        let mut lines = vec![
            ("principal", self.principal.clone()),
            ("namespace", self.namespace.clone()),
        ];
        lines.extend(self.notes.iter().map(|it| ("note", it.clone())));
        let by = match &self.rule {
            Some(rule) => format!(" by rules[{}] {:?}", rule.index, rule.name),
            None => String::new(),
        };
        match &self.verdict {
            Verdict::Denied(reason) => lines.push(("decision", format!("denied{by}: {reason}"))),
            Verdict::Allowed(granted) => {
                let without = if by.is_empty() {
                    ", as there is no policy"
                } else {
                    ""
                };
                let only = if granted.only_expanded() {
                    ", only with show_expanded_events"
                } else {
                    ""
                };
                lines.push(("decision", format!("allowed{by}{without}{only}")));
                granted.lines(self.rule.as_ref(), &mut lines);
            }
        }
        if let Some(shown) = &self.shown {
            shown.lines(&mut lines);
        }
        let mut text = String::new();
        for (name, value) in lines {
            let _ = writeln!(text, "{name:<15}{}", escape_controls(&value));
        }
        text
    }
}

impl Shown {
    fn lines(&self, lines: &mut Vec<(&str, String)>) {
        let Some(operation) = self.operation else {
            let nothing = "nothing, as no granted event carries a document";
            lines.push(("shown", nothing.to_owned()));
            return;
        };
        if self.has_filter {
            let result = match self.matches {
                Some(true) => "the document matches",
                Some(false) => "the document does not match",
                None => "it is unknown whether the document matches",
            };
            lines.push(("row filter", result.to_owned()));
        }
        let event = operation.name();
        let Some(parts) = &self.parts else {
            lines.push(("shown", format!("nothing of an event {event}")));
            return;
        };
        lines.push(("shown", format!("an event {event} with")));
        for (name, text) in parts {
            lines.push(("", format!("{name} {text}")));
        }
        if !parts
            .iter()
            .any(|(name, _)| name.starts_with("full_document"))
        {
            lines.push((
                "",
                "no document, as nothing that carries one is granted".to_owned(),
            ));
        }
    }
}
