//! Aligned Markdown tables, readable on a terminal too.

/// A table whose first row is its head.
#[derive(Debug)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with this head and no rows.
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self(vec![head.into_iter().map(Into::into).collect()])
    }

    /// Adds a row with as many cells as the head.
    pub fn add<S: Into<String>>(&mut self, row: impl IntoIterator<Item = S>) {
        self.0.push(row.into_iter().map(Into::into).collect());
    }

    /// The table as Markdown.
    pub fn markdown(&self) -> String {
        let columns = self.0.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.0.iter().map(|row| row[column].chars().count());
                cells.max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for (index, row) in self.0.iter().enumerate() {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!(" {cell:<width$} "));
            text += &format!("|{}|\n", cells.collect::<Vec<_>>().join("|"));
            if index == 0 {
                let lines = widths.iter().map(|width| "-".repeat(width + 2));
                text += &format!("|{}|\n", lines.collect::<Vec<_>>().join("|"));
            }
        }
        text
    }
}
