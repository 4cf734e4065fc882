//! One sort for all: each that the compiler makes for a type of its own is 5 KB of the edge program.

use std::cmp::Ordering;

/// The numbers below `count` by what `compare` says of them, equal ones in their own order.
pub(crate) fn order(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_unstable_by(|&a, &b| compare(a, b).then(a.cmp(&b)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ones_keep_their_order() {
        let keys = [3, 1, 2, 1, 3, 0];
        assert_eq!(order(6, &|a, b| keys[a].cmp(&keys[b])), [5, 1, 3, 2, 0, 4]);
    }
}
