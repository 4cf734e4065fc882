//! Numbers and outputs as people read them, the same in every command and report.

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

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(group), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([5e-7, 0.0021, 3.0].map(duration), ["0.50 us", "2.10 ms", "3.00 s"]);
        assert_eq!([0.0, 0.012_345, 1.0].map(percent), ["0.00 %", "1.23 %", "100.00 %"]);
        assert_eq!(best_classes(&[1.0, 3.0, 2.0], 3, 2), "0\t1 (3.0000)\t2 (2.0000)\n");
    }
}
