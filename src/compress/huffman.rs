//! Huffman codes (1952), canonical.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The length of each symbol's code; 0 for one that does not occur. A lone symbol has one bit.
pub(super) fn lengths(counts: &[u64]) -> Vec<u32> {
    let mut lengths = vec![0; counts.len()];
    let symbols: Vec<usize> = (0..counts.len()).filter(|&symbol| counts[symbol] > 0).collect();
    let [_, _, ..] = symbols[..] else {
        symbols.iter().for_each(|&only| lengths[only] = 1);
        return lengths;
    };
    // Trees by weight: leaves are numbered in the order of their symbols, then joints as they are made.
    let leaves = symbols.iter().enumerate().map(|(tree, &symbol)| Reverse((counts[symbol], tree)));
    let mut trees: BinaryHeap<_> = leaves.collect();
    let mut above = vec![0; symbols.len()];
    while let (Some(Reverse(a)), Some(Reverse(b))) = (trees.pop(), trees.peek().copied()) {
        trees.pop();
        let joint = above.len();
        above.push(0);
        (above[a.1], above[b.1]) = (joint, joint);
        trees.push(Reverse((a.0 + b.0, joint)));
    }
    let mut depths = vec![0; above.len()];
    for tree in (0..above.len() - 1).rev() {
        depths[tree] = depths[above[tree]] + 1;
    }
    symbols.iter().zip(depths).for_each(|(&symbol, depth)| lengths[symbol] = depth);
    lengths
}

/// Bits of a stream of symbols with these counts: a canonical code's lengths, in 5 bits for each
/// symbol up to the last that occurs, behind their number in 16, then the codes.
pub(super) fn bits(counts: &[u64]) -> u64 {
    let used = counts.iter().rposition(|&count| count > 0).map_or(0, |last| last as u64 + 1);
    let codes = lengths(counts).into_iter().zip(counts).map(|(l, count)| u64::from(l) * count);
    16 + 5 * used + codes.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_those_of_the_textbook() {
        assert_eq!(lengths(&[45, 13, 12, 16, 9, 5]), [1, 3, 3, 3, 4, 4]);
        assert_eq!(lengths(&[0, 7, 0]), [0, 1, 0]);
        assert_eq!(lengths(&[0, 0]), [0, 0]);
        assert_eq!(bits(&[45, 13, 12, 16, 9, 5]), 16 + 30 + 224);
    }

    proptest! {
        #[test]
        fn codes_are_complete_and_within_a_bit_of_the_entropy(counts in prop::collection::vec(0u64..1000, 2..200)) {
            prop_assume!(counts.iter().filter(|&&c| c > 0).count() > 1);
            let lengths = lengths(&counts);
            let kraft: f64 = lengths.iter().filter(|&&l| l > 0).map(|&l| 0.5f64.powi(l as i32)).sum();
            prop_assert!((kraft - 1.0).abs() < 1e-9);
            let total: u64 = counts.iter().sum();
            let coded: u64 = lengths.iter().zip(&counts).map(|(&l, &c)| u64::from(l) * c).sum();
            let entropy: f64 = counts
                .iter()
                .filter(|&&c| c > 0)
                .map(|&c| -(c as f64) * (c as f64 / total as f64).log2())
                .sum();
            prop_assert!(coded as f64 >= entropy - 1e-6);
            prop_assert!((coded as f64) < entropy + total as f64);
        }
    }
}
