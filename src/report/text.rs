//! A report for a terminal.

use std::borrow::Cow;

use super::Report;
use super::document::{Block, Cell, Document, Table};
use crate::text::printable;

/// The report as lines of text.
pub fn render(report: &Report) -> String {
    document(&report.document())
}

/// A laid out report as lines of text; between two sections is an empty line.
pub(crate) fn document(document: &Document) -> String {
    let mut text = String::new();
    for section in &document.sections {
        let content: String = section.blocks.iter().map(block).collect();
        if !text.is_empty() && !content.is_empty() {
            text.push('\n');
        }
        text.push_str(&content);
    }
    text.extend(document.gates.iter().map(|gate| line(&gate.to_string())));
    text.extend(document.notes.iter().map(|note| line(&format!("note: {note}"))));
    text.extend(document.output.iter().map(|output| line(&format!("wrote {output}"))));
    text
}

fn line(text: &str) -> String {
    format!("{}\n", printable(text))
}

fn block(block: &Block) -> String {
    match block {
        Block::Lines(lines) => lines.iter().map(|text| line(text)).collect(),
        Block::Facts(facts) => {
            let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            facts.iter().map(|(name, value)| line(&format!("{name:width$}   {value}"))).collect()
        }
        Block::Table(content) => table(content),
        Block::Detail(_) | Block::Pictures(_) => String::new(),
    }
}

/// Columns as wide as they need to be.
fn table(table: &Table) -> String {
    let columns = (0..table.headings.len()).filter(|c| !table.is_picture(*c));
    let columns: Vec<usize> = columns.collect();
    let headings: Vec<Cow<'_, str>> = columns.iter().map(|&c| table.headings[c].into()).collect();
    let rows = table.rows.iter().map(|row| {
        let cell = |&c: &usize| match row.get(c) {
            Some(Cell::Text(text)) => printable(text),
            _ => "".into(),
        };
        columns.iter().map(cell).collect()
    });
    let lines: Vec<Vec<Cow<'_, str>>> = std::iter::once(headings).chain(rows).collect();
    let widths: Vec<usize> = (0..columns.len())
        .map(|c| lines.iter().map(|line| line[c].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for cells in lines {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let cell = cell.as_ref();
            let pad = " ".repeat(width - cell.chars().count());
            match column {
                0 => line.extend([cell, pad.as_str()]),
                _ => line.extend(["  ", pad.as_str(), cell]),
            }
        }
        text.extend([line.trim_end(), "\n"]);
    }
    text
}
