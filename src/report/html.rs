//! A report as one HTML page that needs nothing else: no network, no script.

use std::fmt::Write;

use super::Report;
use super::document::{Block, Cell, Document, Headline, Table};
use crate::plot::escape;

const STYLE: &str = include_str!("html.css");

/// The report as a page.
pub fn render(report: &Report) -> String {
    document(&report.document())
}

/// A laid out report as a page.
pub(crate) fn document(document: &Document) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{0}</title>\n<style>\n{STYLE}</style></head><body>\n<h1>{0}</h1>\n",
        escape(&document.title)
    );
    paragraph(&mut page, document.lead);
    if !document.headlines.is_empty() {
        page.push_str("<div class=\"tiles\">\n");
        for Headline { name, value, remark } in &document.headlines {
            let _ = writeln!(
                page,
                "<div class=\"tile\"><b>{value}</b><span>{name} {remark}</span></div>"
            );
        }
        page.push_str("</div>\n");
    }
    for section in document.sections.iter().filter(|section| !section.blocks.is_empty()) {
        if !section.heading.is_empty() {
            let _ = writeln!(page, "<h2>{}</h2>", section.heading);
        }
        paragraph(&mut page, &section.about);
        section.blocks.iter().for_each(|content| block(&mut page, content));
    }
    if !document.gates.is_empty() || !document.notes.is_empty() {
        page.push_str("<h2>Remarks</h2>\n<ul>\n");
        for gate in &document.gates {
            let class = if gate.passed { "" } else { " class=\"failed\"" };
            let _ = writeln!(page, "<li{class}>{}</li>", escape(&gate.to_string()));
        }
        for note in &document.notes {
            let _ = writeln!(page, "<li>{}</li>", escape(note));
        }
        page.push_str("</ul>\n");
    }
    page.push_str("</body></html>\n");
    page
}

/// Words about what follows, if there are any.
fn paragraph(page: &mut String, words: &str) {
    if !words.is_empty() {
        let _ = writeln!(page, "<p class=\"soft\">{}</p>", escape(words));
    }
}

fn block(page: &mut String, block: &Block) {
    match block {
        Block::Lines(lines) => {
            for line in lines {
                let _ = writeln!(page, "<p>{}</p>", escape(line.trim_start()));
            }
        }
        Block::Facts(facts) => {
            page.push_str("<dl>\n");
            for (name, value) in facts {
                let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
            }
            page.push_str("</dl>\n");
        }
        Block::Table(content) | Block::Detail(content) => table(page, content),
        Block::Pictures(pictures) => {
            page.push_str("<div class=\"plots\">\n");
            for picture in pictures {
                let _ = writeln!(
                    page,
                    "<figure>{}<figcaption>{}</figcaption></figure>",
                    picture.svg,
                    escape(&picture.caption)
                );
            }
            page.push_str("</div>\n");
        }
    }
}

fn table(page: &mut String, table: &Table) {
    page.push_str("<div class=\"scroll\"><table><tr>");
    for heading in &table.headings {
        let _ = write!(page, "<th>{}</th>", escape(heading));
    }
    page.push_str("</tr>\n");
    for row in &table.rows {
        page.push_str("<tr>");
        for column in 0..table.headings.len() {
            let cell = match row.get(column) {
                Some(Cell::Text(text)) => escape(text),
                Some(Cell::Bar(share)) => {
                    let width = 100.0 * share.clamp(0.0, 1.0);
                    format!("<span class=\"bar\"><i style=\"width:{width:.1}%\"></i></span>")
                }
                None => String::new(),
            };
            let _ = write!(page, "<td>{cell}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
}
