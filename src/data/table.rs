//! Tables: a sample to a line, its values and then what belongs to them, commas in between.

use std::path::Path;

use crate::error::{Error, IoContext, Result};

/// A table's samples.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// One sample after the other.
    pub(crate) values: Vec<f32>,
    /// What stands behind the values of each, as it is written.
    pub(crate) rest: Vec<String>,
    /// Columns of that.
    pub(crate) width: usize,
    /// The weight of each, where the last column is called `weight` or `sample_weight`.
    #[cfg_attr(not(feature = "train"), allow(dead_code))]
    pub(crate) weights: Vec<f32>,
    /// The line of each sample, from 1 on.
    lines: Vec<usize>,
}

impl Table {
    /// Reads a table of `inputs` values in a line and of one of these numbers of columns behind them.
    pub(crate) fn read(path: &Path, inputs: usize, widths: &[usize]) -> Result<Self> {
        Self::parse(&std::fs::read_to_string(path).at(path)?, inputs, widths)
    }

    /// The same of text. A first line whose first value is no number holds names. If by them the last column is
    /// one more than there are to be, and called `weight` or `sample_weight`, it is that.
    pub(crate) fn parse(text: &str, inputs: usize, widths: &[usize]) -> Result<Self> {
        let (mut table, mut weighted) = (Self::default(), false);
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        for (index, line) in lines {
            let mut fields: Vec<&str> =
                line.split(',').map(|field| field.trim().trim_matches('"')).collect();
            let names =
                table.lines.is_empty() && fields.first().is_some_and(|v| number(v).is_none());
            if names {
                weighted = weighs(&fields, inputs, widths);
            }
            let weight = if weighted { fields.pop() } else { None };
            let width = fields.len().wrapping_sub(inputs);
            let known = if table.lines.is_empty() { widths } else { &[table.width] };
            if !known.contains(&width) {
                let known = known.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ");
                return Err(Error::data(format!(
                    "line {} has {} columns, expected {inputs} of values and {known} of targets",
                    index + 1,
                    fields.len()
                )));
            }
            let (values, rest) = fields.split_at(inputs);
            if names {
                continue;
            }
            table.width = width;
            table.lines.push(index + 1);
            for (column, field) in values.iter().enumerate() {
                let value = number(field);
                table.values.push(value.ok_or_else(|| wrong(index + 1, column, field))?);
            }
            table.rest.extend(rest.iter().map(|field| (*field).to_owned()));
            if let Some(field) = weight {
                let value = number(field);
                table.weights.push(value.ok_or_else(|| wrong(index + 1, fields.len(), field))?);
            }
        }
        match table.lines.is_empty() {
            true => Err(Error::data("it has no samples")),
            false => Ok(table),
        }
    }

    /// What stands behind the values, as numbers.
    #[cfg(any(feature = "cli", feature = "train"))]
    pub(crate) fn targets(&self) -> Result<Vec<f32>> {
        let inputs = self.values.len() / self.lines.len();
        let at = |i: usize| (self.lines[i / self.width], inputs + i % self.width);
        let target = |(i, field): (usize, &String)| {
            let (line, column) = at(i);
            number(field).ok_or_else(|| wrong(line, column, field))
        };
        self.rest.iter().enumerate().map(target).collect()
    }
}

/// Whether the last of these columns has weights.
fn weighs(names: &[&str], inputs: usize, widths: &[usize]) -> bool {
    let called =
        |name: &&str| ["weight", "sample_weight"].contains(&name.to_ascii_lowercase().as_str());
    let more = names.len().wrapping_sub(inputs);
    names.last().is_some_and(called)
        && !widths.contains(&more)
        && widths.contains(&more.wrapping_sub(1))
}

/// A finite number.
fn number(field: &str) -> Option<f32> {
    field.parse().ok().filter(|v: &f32| v.is_finite())
}

fn wrong(line: usize, column: usize, field: &str) -> Error {
    let column = column + 1;
    Error::data(format!("line {line}, column {column}: {field:?} is not a finite number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_sample_with_or_without_what_belongs_to_it() {
        let table = Table::parse("a,b,kind\n1, 2 ,\"no\"\n\n-3e1,4,yes\r\n", 2, &[0, 1]).unwrap();
        assert_eq!(table.values, [1.0, 2.0, -30.0, 4.0]);
        assert_eq!((table.width, &table.rest[..]), (1, &["no".to_owned(), "yes".into()][..]));
        let bare = Table::parse("1,2\n3,4", 2, &[0, 1]).unwrap();
        assert_eq!((bare.values, bare.width), (vec![1.0, 2.0, 3.0, 4.0], 0));
    }

    #[test]
    fn a_last_column_may_have_weights() {
        let table = Table::parse("a,b,kind,Weight\n1,2,no,0.5\n3,4,yes,2\n", 2, &[1]).unwrap();
        assert_eq!((&table.weights[..], table.width), (&[0.5, 2.0][..], 1));
        assert_eq!(table.rest, ["no", "yes"]);
        // What is asked for is no weight, whatever it is called.
        let table = Table::parse("a,b,weight\n1,2,7\n", 2, &[1]).unwrap();
        assert_eq!((table.weights.len(), &table.rest[..]), (0, &["7".to_owned()][..]));
        let error = Table::parse("a,b,c,weight\n1,2,0,x\n", 2, &[1]).unwrap_err().to_string();
        assert!(error.contains("line 2, column 4: \"x\" is not a finite number"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (text, words) in [
            ("1,2,3,4", "line 1 has 4 columns, expected 2 of values and 0 or 1 of targets"),
            ("1", "line 1 has 1 columns"),
            ("1,2,x\n3,4", "line 2 has 2 columns, expected 2 of values and 1 of targets"),
            ("1,2\n3,inf", "line 2, column 2: \"inf\" is not a finite number"),
            ("a,b\n", "no samples"),
            ("", "no samples"),
        ] {
            let error = Table::parse(text, 2, &[0, 1]).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
