//! Ranges for activations in one arena, so that running allocates nothing.

use std::ops::Range;

use crate::order::order;

/// A value that is alive from the step that makes it to the last that reads it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value {
    pub(super) elements: usize,
    pub(super) made: usize,
    pub(super) last_read: usize,
}

/// Gives each value a range of the arena such that values alive at the same time do not overlap:
/// in order of size, each into the lowest gap that holds it. Returns the ranges and the arena's
/// length.
pub(super) fn place(values: &[Value]) -> (Vec<Range<usize>>, usize) {
    let by_size = order(values.len(), &|a, b| values[b].elements.cmp(&values[a].elements));
    let mut ranges = vec![0..0; values.len()];
    // By time, the values placed that are made then, and those alive since before.
    let times = values.iter().map(|value| value.made + 1).max().unwrap_or(0);
    let (mut made, mut older) = (vec![Vec::new(); times], vec![Vec::new(); times]);
    let mut length = 0;
    for i in by_size {
        let value = values[i];
        let life = value.made..times.min(value.last_read.saturating_add(1));
        let together = older[value.made].iter().chain(made[life.clone()].iter().flatten());
        let taken: Vec<usize> = together.copied().collect();
        let start_of = |at: usize| ranges[taken[at]].start;
        let by_start = order(taken.len(), &|a, b| start_of(a).cmp(&start_of(b)));
        let mut start = 0;
        for range in by_start.into_iter().map(|at| &ranges[taken[at]]) {
            if range.start >= start + value.elements {
                break;
            }
            start = start.max(range.end);
        }
        ranges[i] = start..start + value.elements;
        length = length.max(ranges[i].end);
        made[value.made].push(i);
        older[life].iter_mut().skip(1).for_each(|alive| alive.push(i));
    }
    (ranges, length)
}

/// Ranges of the arena to be read, and one to be written that overlaps none of them.
pub(super) fn borrow<T, const N: usize>(
    arena: &mut [T],
    reads: [Range<usize>; N],
    write: Range<usize>,
) -> ([&[T]; N], &mut [T]) {
    let (low, high) = arena.split_at_mut(write.start);
    let (written, high) = high.split_at_mut(write.len());
    let (low, high) = (&*low, &*high);
    let read = |range: Range<usize>| match range.end <= write.start {
        true => &low[range],
        false => &high[range.start - write.end..range.end - write.end],
    };
    (reads.map(read), written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn living_values_never_overlap(raw in prop::collection::vec((1usize..50, 0usize..20, 0usize..8), 1..40)) {
            let values: Vec<Value> = raw
                .iter()
                .map(|&(elements, made, life)| Value { elements, made, last_read: made + life })
                .collect();
            let (ranges, length) = place(&values);
            for (i, a) in values.iter().enumerate() {
                prop_assert_eq!(ranges[i].len(), a.elements);
                prop_assert!(ranges[i].end <= length);
                for (j, b) in values.iter().enumerate().skip(i + 1) {
                    let together = a.made <= b.last_read && b.made <= a.last_read;
                    let apart = ranges[i].end <= ranges[j].start || ranges[j].end <= ranges[i].start;
                    prop_assert!(!together || apart);
                }
            }
        }
    }

    #[test]
    fn a_chain_needs_its_two_largest_neighbors() {
        let chain: Vec<Value> = [8, 3, 5, 2]
            .iter()
            .enumerate()
            .map(|(i, &elements)| Value { elements, made: i, last_read: i + 1 })
            .collect();
        assert_eq!(place(&chain).1, 11);
    }
}
