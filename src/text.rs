//! Names, numbers and outputs as people read them, the same in every command and report.

use std::borrow::Cow;
use std::fmt::Write;

use crate::order::order;

/// Text with names from files in it, fit for a terminal, a log and a page: on one line, nothing that
/// moves the cursor or turns the direction of writing, nothing that a runner of workflows takes for a
/// command. Every other text stays as it is.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let command = text.trim_start_matches(is_blank).starts_with("::");
    if !command && !text.contains(is_unprintable) && !text.contains("##[") {
        return text.into();
    }
    let mut printable = String::with_capacity(text.len() + 16);
    let (mut before, mut blank) = (['\0'; 2], true);
    for c in text.chars() {
        if is_unprintable(c) || command && blank && c == ':' || c == '[' && before == ['#'; 2] {
            let _ = match c {
                '\n' => printable.write_str("\\n"),
                '\r' => printable.write_str("\\r"),
                '\t' => printable.write_str("\\t"),
                c => write!(printable, "\\u{{{:x}}}", u32::from(c)),
            };
        } else {
            printable.push(c);
        }
        blank &= is_blank(c);
        before = [before[1], c];
    }
    printable.into()
}

/// What a line may begin with and stay a command: blanks that are shown as they are.
fn is_blank(c: char) -> bool {
    c.is_whitespace() && !is_unprintable(c)
}

/// Controls, what ends a line, and what writes from right to left.
fn is_unprintable(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// Printable text as the message of a workflow command.
#[cfg(feature = "cli")]
pub(crate) fn workflow_message(text: &str) -> String {
    printable(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A line for each sample: its number, then the best classes with their outputs, by names where each has one.
pub(crate) fn named_classes<'a>(
    outputs: impl IntoIterator<Item = &'a [f32]>,
    count: usize,
    names: &[String],
) -> String {
    let mut text = String::new();
    for (sample, row) in outputs.into_iter().enumerate() {
        let outs = row.len();
        let order = order(outs, &|a, b| row[b].total_cmp(&row[a]));
        let _ = write!(text, "{sample}");
        for class in order.into_iter().take(count) {
            let _ = match names.get(class).filter(|_| names.len() == outs) {
                Some(name) => write!(text, "\t{} ({:.4})", printable(name), row[class]),
                None => write!(text, "\t{class} ({:.4})", row[class]),
            };
        }
        text.push('\n');
    }
    text
}

/// A number with its digits in groups of three.
pub(crate) fn group(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in the unit that suits it.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.2} us", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_act() {
        for plain in
            ["", "fc1.weight", "std::vector", "Größe 層", "a|b`c", "# [1]", "  indented: x"]
        {
            assert!(matches!(printable(plain), Cow::Borrowed(_)), "{plain}");
        }
        for (text, expected) in [
            ("\n::error::x", "\\n::error::x"),
            ("::error::x", "\\u{3a}:error::x"),
            (" \t::error::x", " \\t::error::x"),
            ("  ::error::x", "  \\u{3a}:error::x"),
            ("a\u{1b}[2Jb\r\u{9b}\u{7f}", "a\\u{1b}[2Jb\\r\\u{9b}\\u{7f}"),
            ("a\u{202e}b\u{2067}c\u{2028}d", "a\\u{202e}b\\u{2067}c\\u{2028}d"),
            ("w ##[error]x", "w ##\\u{5b}error]x"),
            ("w ###[error]x", "w ###\\u{5b}error]x"),
        ] {
            assert_eq!(printable(text), expected);
            assert!(matches!(printable(expected), Cow::Borrowed(_)));
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn messages_of_workflow_commands_are_escaped() {
        assert_eq!(workflow_message("100 %\n::x"), "100 %25\\n::x");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(group), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([5e-7, 0.0021, 3.0].map(duration), ["0.50 us", "2.10 ms", "3.00 s"]);
        assert_eq!([0.0, 0.012_345, 1.0].map(percent), ["0.00 %", "1.23 %", "100.00 %"]);
        assert_eq!(named_classes([&[1.0, 3.0, 2.0][..]], 2, &[]), "0\t1 (3.0000)\t2 (2.0000)\n");
        let names = ["cat".into(), "dog".into(), "a\tb".into()];
        let named = named_classes([&[1.0, 3.0, 2.0][..]], 1, &names);
        assert_eq!(named, "0\tdog (3.0000)\n");
    }
}
