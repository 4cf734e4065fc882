//! Elements of SVG and their colors.

use std::fmt::{Display, Write};

use crate::text::printable;

pub(super) const INK: &str = "#1c2430";
pub(super) const SOFT: &str = "#5c6b7a";
pub(super) const LINE: &str = "#d9dfe5";
const PAPER: &str = "#ffffff";

/// Where a picture is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    /// As a file of its own, with its words.
    File,
    /// In an HTML page, which has words of its own.
    Page,
}

/// A picture that is being drawn.
pub(super) struct Svg(String);

impl Svg {
    /// Opens a picture.
    pub(super) fn new(medium: Medium, [width, height]: [f64; 2], title: &str) -> Self {
        let title = escape(title);
        let mut svg = String::from("<svg");
        if medium == Medium::File {
            let _ = write!(
                svg,
                " xmlns='http://www.w3.org/2000/svg' width='{width:.0}' height='{height:.0}'"
            );
        }
        let size = if medium == Medium::File { 13 } else { 11 };
        let _ = writeln!(
            svg,
            " viewBox='0 0 {width:.0} {height:.0}' role='img' font-family='system-ui,sans-serif' \
             font-size='{size}'><title>{title}</title>"
        );
        if medium == Medium::File {
            let _ = writeln!(
                svg,
                "<rect width='100%' height='100%' fill='{PAPER}'/>\n<text x='{:.0}' y='26' \
                 text-anchor='middle' font-size='16' font-weight='600' fill='{INK}'>{title}</text>",
                width / 2.0
            );
        }
        Self(svg)
    }

    /// The whole picture.
    pub(super) fn finish(self) -> String {
        self.0 + "</svg>\n"
    }

    /// An element, or a part of one, as it is.
    pub(super) fn push(&mut self, element: impl Display) {
        let _ = writeln!(self.0, "{element}");
    }

    /// Text; `content` is markup.
    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: &str, color: &str, content: &str) {
        let _ = writeln!(
            self.0,
            "<text x='{x:.1}' y='{y:.1}' text-anchor='{anchor}' fill='{color}'>{content}</text>"
        );
    }

    /// A line of the frame or the grid.
    pub(super) fn path(&mut self, path: impl Display, color: &str) {
        self.push(format_args!("<path d='{path}' fill='none' stroke='{color}'/>"));
    }
}

/// Text that stands in markup.
pub(crate) fn escape(text: &str) -> String {
    printable(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
