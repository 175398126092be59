//! `--output pretty`: one line per event, for people. Times are in UTC; a dim line marks each new day.

mod line;

use std::borrow::Cow;

use anstyle::{AnsiColor, Style};

use line::{DIM, Line, PLAIN};

use super::display_names;
use super::documents::{rfc3339, to_json};
use super::message::Message;
use crate::pb;
use crate::pb::change_event::Change;

/// The width of the operation column, which fits the common operations.
const OPERATION_WIDTH: usize = 8;

/// Prints messages for people.
#[derive(Debug, Clone)]
pub struct PrettyPrinter {
    color: bool,
    /// The width of the terminal in columns; `None` for whole lines.
    width: Option<usize>,
    /// The day of the last printed event, such as "2025-01-31".
    day: String,
}

impl PrettyPrinter {
    /// With `color`, lines contain ANSI escapes. With `width`, lines are cut to that many columns.
    pub fn new(color: bool, width: Option<usize>) -> PrettyPrinter {
        PrettyPrinter {
            color,
            width,
            day: String::new(),
        }
    }

    /// Cuts the next lines to another width, as of a terminal that has been resized.
    pub fn set_width(&mut self, width: Option<usize>) {
        self.width = width;
    }

    /// Appends `message` to `out`. Prints progress only with `show_progress`.
    pub fn print(&mut self, message: &Message, show_progress: bool, out: &mut String) {
        match message {
            Message::Changes(changes) => {
                for event in changes {
                    self.change(event, out);
                }
            }
            Message::Opened(opened) => self.note(&opened_text(opened), out),
            Message::Progress(progress) => {
                if show_progress {
                    self.note(&progress_text(progress), out);
                }
            }
            Message::StateChange(change) => {
                let mut text = display_names::watch_state(change.state).to_owned();
                if !change.reason.is_empty() {
                    text.push_str(": ");
                    text.push_str(&change.reason);
                }
                self.note(&text, out);
            }
            Message::Invalidated(invalidated) => {
                let cause = pb::OperationType::try_from(invalidated.cause);
                let mut text = format!(
                    "invalidated by {}",
                    cause.map_or(display_names::UNKNOWN, display_names::operation)
                );
                if invalidated.namespace.is_some() {
                    text.push_str(" of ");
                    text.push_str(&display_names::namespace(invalidated.namespace.as_ref()));
                }
                self.note(&text, out);
            }
            Message::NoContent => {}
        }
    }

    /// Appends a dim line that is not an event.
    pub fn note(&self, text: &str, out: &mut String) {
        let mut line = Line::default();
        line.push(DIM, format!("-- {text}"));
        line.finish(self.color, self.width, out);
    }

    fn change(&mut self, event: &pb::ChangeEvent, out: &mut String) {
        let mut line = Line::default();
        if let Some(time) = time_of(event)
            && let Some((day, clock)) = time.split_once('T')
        {
            if day != self.day {
                self.note(&format!("{day} (times are in UTC)"), out);
                day.clone_into(&mut self.day);
            }
            line.push(DIM, format!("{} ", clock.trim_end_matches('Z')));
        }
        let operation = display_names::operation_of(event);
        if event.namespace.is_some() {
            line.push(color_of(event), format!("{operation:<OPERATION_WIDTH$} "));
            line.push(
                Style::new().bold(),
                display_names::namespace(event.namespace.as_ref()),
            );
        } else {
            line.push(color_of(event), operation.to_owned());
        }
        if let Some(key) = &event.document_key {
            line.push(AnsiColor::Cyan.on_default(), format!(" {}", to_json(key)));
        }
        if let Some(change) = &event.change {
            details(change, &mut line);
        }
        if let Some(transition) = display_names::filter_match(event.r#match) {
            line.push(DIM, format!(" {transition} the filter"));
        }
        if let Some(transaction) = &event.transaction {
            let is_end = matches!(event.change, Some(Change::EndOfTransaction(_)));
            let last = if transaction.last && !is_end {
                ", its last change"
            } else {
                ""
            };
            line.push(DIM, format!(" transaction {}{last}", transaction.number));
        }
        if let Some(fields) = event.unknown_fields.as_ref().and_then(noteworthy_fields) {
            line.labelled("unknown fields", &fields);
        }
        line.finish(self.color, self.width, out);
    }
}

/// Returns the unknown fields without the session id, which every event of a transaction repeats with the
/// digest of its user. `None` if nothing is left.
fn noteworthy_fields(fields: &pb::Document) -> Option<Cow<'_, str>> {
    let json = to_json(fields);
    let parsed = serde_json::from_str(&json);
    if let Ok(serde_json::Value::Object(mut fields)) = parsed
        && fields.remove("lsid").is_some()
    {
        return (!fields.is_empty()).then(|| serde_json::Value::Object(fields).to_string().into());
    }
    Some(json)
}

/// Returns the wall time with milliseconds; before MongoDB 6.0, the second of the cluster time.
fn time_of(event: &pb::ChangeEvent) -> Option<String> {
    if let Some(time) = &event.wall_time {
        return Some(rfc3339(time));
    }
    event.cluster_time.as_ref().map(second_of)
}

fn second_of(time: &pb::ClusterTime) -> String {
    let text = rfc3339(&prost_types::Timestamp {
        seconds: i64::from(time.seconds),
        nanos: 0,
    });
    text.replace(".000Z", "Z")
}

fn color_of(event: &pb::ChangeEvent) -> Style {
    let color = match pb::OperationType::try_from(event.operation) {
        Ok(pb::OperationType::Insert) => AnsiColor::Green,
        Ok(pb::OperationType::Update | pb::OperationType::Replace) => AnsiColor::Yellow,
        Ok(
            pb::OperationType::Delete | pb::OperationType::Drop | pb::OperationType::DropDatabase,
        ) => AnsiColor::Red,
        _ => AnsiColor::Magenta,
    };
    color.on_default().bold()
}

fn details(change: &Change, line: &mut Line) {
    match change {
        Change::Insert(insert) => line.document("", insert.full_document.as_ref()),
        Change::Update(update) => {
            if let Some(description) = &update.update_description {
                update_description(description, line);
            }
            line.document("now", update.full_document.as_ref());
            line.document("was", update.full_document_before_change.as_ref());
        }
        Change::Replace(replace) => {
            line.document("", replace.full_document.as_ref());
            line.document("was", replace.full_document_before_change.as_ref());
        }
        Change::Delete(delete) => {
            line.document("was", delete.full_document_before_change.as_ref());
        }
        Change::Drop(_) | Change::DropDatabase(_) => {}
        Change::Rename(rename) => {
            line.labelled("to", &display_names::namespace(rename.to.as_ref()));
            line.document("", rename.operation_description.as_ref());
        }
        Change::Create(create) => {
            if !create.namespace_type.is_empty() {
                line.push(PLAIN, format!(" {}", create.namespace_type));
            }
            line.document("", create.operation_description.as_ref());
        }
        Change::CreateIndexes(create) => {
            line.document("", create.operation_description.as_ref());
        }
        Change::DropIndexes(drop) => line.document("", drop.operation_description.as_ref()),
        Change::Modify(modify) => {
            line.document("", modify.operation_description.as_ref());
            line.document("was", modify.state_before_change.as_ref());
        }
        Change::ShardCollection(shard) => {
            line.document("", shard.operation_description.as_ref());
        }
        Change::RefineCollectionShardKey(refine) => {
            line.document("", refine.operation_description.as_ref());
        }
        Change::ReshardCollection(reshard) => {
            line.document("", reshard.operation_description.as_ref());
        }
        // Its description repeats the transaction.
        Change::EndOfTransaction(_) => {}
        Change::Other(other) => line.document("", other.event.as_ref()),
        Change::Omitted(omitted) => line.push(
            DIM,
            format!(
                " omitted: {} bytes, the limit is {}",
                omitted.event_bytes, omitted.max_message_bytes
            ),
        ),
    }
}

fn update_description(description: &pb::UpdateDescription, line: &mut Line) {
    if let Some(fields) = &description.updated_fields {
        let fields = to_json(fields);
        // An update that only removes fields has an empty document here.
        if !matches!(&*fields, "{}" | "{ }") {
            line.labelled("set", &fields);
        }
    }
    if !description.removed_fields.is_empty() {
        line.labelled("removed", &description.removed_fields.join(", "));
    }
    for array in &description.truncated_arrays {
        line.labelled(
            "truncated",
            &format!("{} to {}", array.field, array.new_size),
        );
    }
}

fn opened_text(opened: &pb::Opened) -> String {
    let mut text = match pb::StartMode::try_from(opened.start_mode) {
        Ok(pb::StartMode::Now) => "watching from now".to_owned(),
        Ok(pb::StartMode::Token) => "resuming from the resume token".to_owned(),
        Ok(pb::StartMode::TokenTime) => {
            "resuming from the time of the resume token; changes of that time may be repeated"
                .to_owned()
        }
        Ok(pb::StartMode::Time) => "watching from the requested time".to_owned(),
        Ok(pb::StartMode::Unspecified) | Err(_) => "watching".to_owned(),
    };
    if let Some(time) = &opened.start_time {
        text.push_str(&format!(", {}", second_of(time)));
    }
    if !opened.watch_id.is_empty() {
        text.push_str(&format!(" (watch {})", opened.watch_id));
    }
    text
}

fn progress_text(progress: &pb::Progress) -> String {
    match (&progress.cluster_time, &progress.upstream_time) {
        (Some(reached), Some(upstream)) => format!(
            "no further changes up to {}, {} s behind MongoDB",
            second_of(reached),
            upstream.seconds.saturating_sub(reached.seconds)
        ),
        (Some(reached), None) => format!("no further changes up to {}", second_of(reached)),
        (None, _) => "no changes so far".to_owned(),
    }
}

#[cfg(test)]
mod tests;
