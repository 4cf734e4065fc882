//! What the commands of both builds print.

use std::fmt::Write;

/// A line for each sample: its number, then the best classes with their outputs.
pub(crate) fn best_classes(outputs: &[f32], outs: usize, count: usize) -> String {
    let mut text = String::new();
    for (sample, row) in outputs.chunks(outs).enumerate() {
        let mut order: Vec<usize> = (0..outs).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        let _ = write!(text, "{sample}");
        for class in order.into_iter().take(count) {
            let _ = write!(text, "\t{class} ({:.4})", row[class]);
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

/// Text as a JSON string, in quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut json = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// Outputs as JSON: a list for each sample. Nothing if one is not finite, which JSON cannot say.
pub(super) fn rows(outputs: &[f32], outs: usize) -> Option<String> {
    if !outputs.iter().all(|v| v.is_finite()) {
        return None;
    }
    let mut json = String::from('[');
    for (sample, row) in outputs.chunks(outs).enumerate() {
        json.push_str(if sample > 0 { ",[" } else { "[" });
        for (at, value) in row.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(json, "{comma}{value:?}");
        }
        json.push(']');
    }
    json.push_str("]\n");
    Some(json)
}
