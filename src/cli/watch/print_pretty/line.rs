//! A line of styled parts, cut to the width of the terminal by visible columns.

use std::fmt::Write as _;

use anstyle::Style;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::cli::watch::documents::to_json;
use crate::cli::watch::text::escape_controls;
use crate::pb;

pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const PLAIN: Style = Style::new();

/// The mark at the end of a cut line.
const ELLIPSIS: &str = "…";

#[derive(Default)]
pub(super) struct Line {
    parts: Vec<(Style, String)>,
}

impl Line {
    pub fn push(&mut self, style: Style, text: String) {
        self.parts.push((style, text));
    }

    /// Appends " label text", with a dim label.
    pub fn labelled(&mut self, label: &str, text: &str) {
        if !label.is_empty() {
            self.push(DIM, format!(" {label}"));
        }
        self.push(PLAIN, format!(" {text}"));
    }

    /// Appends the document, if MongoDB sent one.
    pub fn document(&mut self, label: &str, document: Option<&pb::Document>) {
        if let Some(document) = document {
            self.labelled(label, &to_json(document));
        }
    }

    /// Appends the line to `out`, cut to `width` columns, and a line break.
    pub fn finish(self, color: bool, width: Option<usize>, out: &mut String) {
        let parts: Vec<(Style, String)> = self
            .parts
            .into_iter()
            .map(|(style, text)| (style, escape_controls(&text).into_owned()))
            .collect();
        let total: usize = parts.iter().map(|(_, text)| text.width()).sum();
        let mut columns_left = match width {
            Some(width) if total > width => width.saturating_sub(ELLIPSIS.width()),
            _ => usize::MAX,
        };
        let cut = columns_left != usize::MAX;
        for (style, text) in &parts {
            let visible = fit(text, &mut columns_left);
            if color && *style != PLAIN {
                let _ = write!(out, "{style}{visible}{style:#}");
            } else {
                out.push_str(visible);
            }
            if visible.len() < text.len() {
                break;
            }
        }
        if cut {
            out.push_str(ELLIPSIS);
        }
        out.push('\n');
    }
}

/// Returns the longest prefix of `text` that fits, and subtracts its width from `columns_left`.
fn fit<'a>(text: &'a str, columns_left: &mut usize) -> &'a str {
    for (at, character) in text.char_indices() {
        let width = character.width().unwrap_or(0);
        if width > *columns_left {
            *columns_left = 0;
            return &text[..at];
        }
        *columns_left -= width;
    }
    text
}
