//! `--sweep`: thresholds to try.

/// Thresholds to try.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sweep(pub(super) Vec<f32>);

/// `FROM:TO:STEP`, both ends included.
pub(super) fn thresholds(text: &str) -> Result<Sweep, String> {
    const MOST: f64 = 1000.0;
    let parts: Vec<f64> = text.split(':').filter_map(|part| part.parse().ok()).collect();
    let [from, to, step] = parts[..] else {
        return Err("expected FROM:TO:STEP, for example 0:6:0.5".into());
    };
    let count = ((to - from) / step + 1e-9).floor() + 1.0;
    if text.split(':').count() != 3 || !(step > 0.0 && (1.0..=MOST).contains(&count)) {
        return Err(format!("expected FROM <= TO, STEP > 0, at most {MOST} thresholds"));
    }
    Ok(Sweep((0..count as usize).map(|i| (from + step * i as f64) as f32).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_include_both_ends() {
        assert_eq!(thresholds("0:1:0.1").unwrap().0.len(), 11);
        assert_eq!(thresholds("-1:1:2").unwrap().0, [-1.0, 1.0]);
        assert_eq!(thresholds("3:3:1").unwrap().0, [3.0]);
        for bad in
            ["", "1:2", "2:1:1", "0:1:0", "0:1:-1", "0:9:1e-9", "a:b:c", "0:1:1:1", "nan:1:1"]
        {
            assert!(thresholds(bad).is_err(), "{bad}");
        }
    }
}
