//! The one layout of a report: what text, Markdown and HTML are written from.

use super::gate::Gate;

/// A report laid out.
#[derive(Default)]
pub(crate) struct Document {
    /// Above everything; a terminal does without.
    pub(crate) title: String,
    /// What it is about, for the page.
    pub(crate) lead: &'static str,
    /// The figures that matter most; a terminal does without.
    pub(crate) headlines: Vec<Headline>,
    /// In order.
    pub(crate) sections: Vec<Section>,
    /// Conditions that were asserted.
    pub(crate) gates: Vec<Gate>,
    /// What the user should know.
    pub(crate) notes: Vec<String>,
    /// Where the result went, for the terminal.
    pub(crate) output: Option<String>,
}

/// A figure that matters.
pub(crate) struct Headline {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    /// More about it, in words that go on after both.
    pub(crate) remark: String,
}

/// What belongs together.
#[derive(Default)]
pub(crate) struct Section {
    /// Above it; a terminal does without.
    pub(crate) heading: &'static str,
    /// How to read it, for the page.
    pub(crate) about: String,
    /// In order.
    pub(crate) blocks: Vec<Block>,
}

/// A part of a section.
pub(crate) enum Block {
    /// Sentences, a line each.
    Lines(Vec<String>),
    /// Names and what they are.
    Facts(Vec<(&'static str, String)>),
    /// Rows and columns.
    Table(Table),
    /// A table that the page and Markdown show; a terminal does without.
    Detail(Table),
    /// Pictures with captions (text), for the page.
    Pictures(Vec<Picture>),
}

/// An SVG element and its caption.
pub(crate) struct Picture {
    pub(crate) svg: String,
    pub(crate) caption: String,
}

/// A table: the first column to the left, the others to the right.
pub(crate) struct Table {
    pub(crate) headings: Vec<&'static str>,
    /// A row may end early.
    pub(crate) rows: Vec<Vec<Cell>>,
}

/// What stands in a table.
pub(crate) enum Cell {
    /// A word or a number.
    Text(String),
    /// A share of a whole as a bar; a terminal does without the column.
    Bar(f64),
}

impl Section {
    /// A section; without blocks it is left out.
    pub(crate) fn new(heading: &'static str, about: &str, blocks: Vec<Block>) -> Self {
        Self { heading, about: about.into(), blocks }
    }

    /// Lines alone.
    pub(crate) fn lines(lines: Vec<String>) -> Self {
        Self { blocks: vec![Block::Lines(lines)], ..Self::default() }
    }
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new<const N: usize>(
        headings: [&'static str; N],
        rows: impl IntoIterator<Item = Vec<Cell>>,
    ) -> Self {
        Self { headings: headings.to_vec(), rows: rows.into_iter().collect() }
    }

    /// Whether a column is one of bars.
    pub(crate) fn is_picture(&self, column: usize) -> bool {
        self.rows.iter().any(|row| matches!(row.get(column), Some(Cell::Bar(_))))
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

/// A row of a table.
macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$($crate::report::document::Cell::from($cell)),*] };
}
pub(crate) use row;
