//! A report as Markdown, for a pull request or a step summary.

use super::Report;
use super::document::{Block, Cell, Document, Headline, Table};
use crate::text::printable;

/// The report as Markdown.
pub fn render(report: &Report) -> String {
    document(&report.document())
}

/// A laid out report as Markdown; between two blocks is an empty line.
pub(crate) fn document(document: &Document) -> String {
    let mut parts = Vec::new();
    if !document.title.is_empty() {
        parts.push(format!("### {}\n", escape(&document.title)));
    }
    if !document.headlines.is_empty() {
        let headline = |h: &Headline| format!("**{} {}** {}", h.name, h.value, h.remark);
        let headlines: Vec<String> = document.headlines.iter().map(headline).collect();
        let line: Vec<&str> = headlines.iter().map(|headline| headline.trim_end()).collect();
        parts.push(line.join("; ") + "\n");
    }
    for section in &document.sections {
        let blocks: Vec<String> =
            section.blocks.iter().map(block).filter(|block| !block.is_empty()).collect();
        if !section.heading.is_empty() && !blocks.is_empty() {
            parts.push(format!("#### {}\n", section.heading));
        }
        parts.extend(blocks);
    }
    let gates = document.gates.iter().map(|gate| format!("- `{gate}`\n"));
    let notes = document.notes.iter().map(|note| format!("- {}\n", escape(note)));
    let remarks: String = gates.chain(notes).collect();
    parts.extend((!remarks.is_empty()).then_some(remarks));
    parts.join("\n")
}

fn block(block: &Block) -> String {
    match block {
        Block::Lines(lines) => {
            lines.iter().map(|line| format!("- {}\n", escape(line.trim_start()))).collect()
        }
        Block::Facts(facts) => {
            let line = |(name, value): &(&str, String)| format!("- {name}: {}\n", escape(value));
            facts.iter().map(line).collect()
        }
        Block::Table(content) | Block::Detail(content) => table(content),
        Block::Pictures(_) => String::new(),
    }
}

fn table(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(table.headings.iter().map(|&heading| heading.into()).collect());
    let align = |c: usize| if c == 0 || table.is_picture(c) { "---" } else { "--:" };
    text += &format!("|{}|\n", (0..table.headings.len()).map(align).collect::<Vec<_>>().join("|"));
    for row in &table.rows {
        let cell = |c: usize| match row.get(c) {
            Some(Cell::Text(text)) => escape(text),
            Some(Cell::Bar(share)) => bar(*share),
            None => String::new(),
        };
        text += &line((0..table.headings.len()).map(cell).collect());
    }
    text
}

/// A share as a bar of ten cells and a percentage.
fn bar(share: f64) -> String {
    let full = ((10.0 * share).round() as usize).min(10);
    format!("{}{} {:.0} %", "█".repeat(full), "░".repeat(10 - full), 100.0 * share)
}

/// Keeps names from opening a table cell, a tag, code, a link or a picture.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut before = ' ';
    for c in printable(text).chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '|' | '`' | '\\' => escaped.extend(['\\', c]),
            '(' | '[' | ':' if before == ']' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
        before = c;
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::document::{Section, row};

    #[test]
    fn names_stay_in_their_cells() {
        let name = "a\\|b|c`d\n| ![x](y) <b>";
        let table = Table::new(["layer", "shape"], [row![name, "1x2"]]);
        let sections = vec![
            Section::new("", "", vec![Block::Table(table)]),
            Section::lines(vec![format!("layer {name}")]),
        ];
        let text = document(&Document { sections, ..Document::default() });
        let escaped = r"a\\\|b\|c\`d\\n\| ![x]\(y) &lt;b>";
        let expected =
            format!("| layer | shape |\n|---|--:|\n| {escaped} | 1x2 |\n\n- layer {escaped}\n");
        assert_eq!(text, expected);
    }
}
