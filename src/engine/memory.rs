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
    let (reads, [written, _]) = borrow_two(arena, reads, [write, 0..0]);
    (reads, written)
}

/// The same with two to be written.
pub(super) fn borrow_two<T, const N: usize>(
    arena: &mut [T],
    reads: [Range<usize>; N],
    writes: [Range<usize>; 2],
) -> ([&[T]; N], [&mut [T]; 2]) {
    let [a, b] = &writes;
    // By their ends too: an empty one may begin where the other does.
    let swapped = (b.start, b.end) < (a.start, a.end);
    let (low, high) = if swapped { (b, a) } else { (a, b) };
    let (below, rest) = arena.split_at_mut(low.start);
    let (first, rest) = rest.split_at_mut(low.len());
    let (between, rest) = rest.split_at_mut(high.start - low.end);
    let (second, above) = rest.split_at_mut(high.len());
    let (below, between, above) = (&*below, &*between, &*above);
    let read = |range: Range<usize>| {
        let (part, start) = match () {
            () if range.end <= low.start => (below, 0),
            () if range.end <= high.start => (between, low.end),
            () => (above, high.end),
        };
        &part[range.start - start..range.end - start]
    };
    let reads = reads.map(read);
    (reads, if swapped { [second, first] } else { [first, second] })
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
    fn what_is_borrowed_is_what_was_asked_for() {
        let mut arena: Vec<usize> = (0..20).collect();
        for writes in [
            [8..10, 3..5],
            [3..5, 8..10],
            [3..5, 0..0],
            [3..5, 20..20],
            [3..5, 5..10],
            [0..3, 0..0],
        ] {
            let reads = [writes[0].end.max(writes[1].end)..20, 10..10, 10..20, 12..13];
            let (read, [a, b]) = borrow_two(&mut arena, reads.clone(), writes.clone());
            assert!(read.iter().zip(reads).all(|(read, range)| read.iter().copied().eq(range)));
            assert!(a.iter().copied().eq(writes[0].clone()));
            assert!(b.iter().copied().eq(writes[1].clone()));
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
