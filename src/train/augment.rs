//! Random changes of images: a shift, a mirror, a hole. They depend on seed, epoch and sample alone, so
//! that a training resumes and threads run as they like.

use super::config::Augmentation;
use super::noise::{AUGMENT, Stream};
use crate::network::Shape;

/// Where the values of an image lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `channel, row, column`.
    ChannelsFirst,
    /// `row, column, channel`.
    ChannelsLast,
}

/// What happens to one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    /// Rows and columns that it moves by, down and to the right.
    shift: [i64; 2],
    flip: bool,
    /// The first row and column of the hole, which may lie in part outside, and its side.
    hole: ([i64; 2], i64),
}

impl Augmentation {
    /// Whether there is anything to do.
    pub(crate) fn changes(&self) -> bool {
        *self != Self::default()
    }

    /// Changes an image as in this epoch; `scratch` is for its values.
    pub(crate) fn apply(
        &self,
        (shape, layout): (Shape, Layout),
        [seed, epoch, sample]: [u64; 3],
        image: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        let mut words = [0; 5];
        let (step, index) = (epoch as u32, sample as u32);
        Stream { seed, purpose: AUGMENT, step, index }.integers(&mut words);
        self.drawn(shape, words).apply(shape, layout, image, scratch);
    }

    fn drawn(&self, shape: Shape, words: [u32; 5]) -> Change {
        // From 0 to below `count`, as even as 32 bits make it.
        let below = |word: u32, count: i64| ((i128::from(word) * i128::from(count)) >> 32) as i64;
        let shift = i64::from(self.shift);
        let cutout = i64::from(self.cutout);
        let [height, width] = [shape.height as i64, shape.width as i64];
        Change {
            shift: [words[0], words[1]].map(|word| below(word, 2 * shift + 1) - shift),
            flip: self.flip && words[2] >> 31 == 1,
            // Its middle lies anywhere in the image.
            hole: (
                [below(words[3], height) - cutout / 2, below(words[4], width) - cutout / 2],
                cutout,
            ),
        }
    }
}

impl Change {
    fn apply(&self, shape: Shape, layout: Layout, image: &mut [f32], scratch: &mut Vec<f32>) {
        let Shape { channels, height, width } = shape;
        let area = height * width;
        let (by_channel, by_position) = match layout {
            Layout::ChannelsFirst => (area, 1),
            Layout::ChannelsLast => (1, channels),
        };
        scratch.clear();
        scratch.extend_from_slice(&image[..channels * area]);
        let ([first_row, first_column], side) = self.hole;
        for (row, column) in (0..height).flat_map(|row| (0..width).map(move |c| (row, c))) {
            let from_row = row as i64 - self.shift[0];
            let mirrored = if self.flip { width - 1 - column } else { column };
            let from_column = mirrored as i64 - self.shift[1];
            let inside = (0..height as i64).contains(&from_row)
                && (0..width as i64).contains(&from_column)
                && !((first_row..first_row + side).contains(&(row as i64))
                    && (first_column..first_column + side).contains(&(column as i64)));
            let from = (from_row * width as i64 + from_column) as usize;
            for channel in 0..channels {
                let value = &mut image[channel * by_channel + (row * width + column) * by_position];
                *value = match inside {
                    true => scratch[channel * by_channel + from * by_position],
                    false => 0.0,
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: Change = Change { shift: [0, 0], flip: false, hole: ([0, 0], 0) };

    /// Two channels of 2 x 3: 1 to 6 and 11 to 16.
    fn changed(change: Change) -> Vec<f32> {
        let shape = Shape::new(2, 2, 3);
        let first: Vec<f32> = (1..7).chain(11..17).map(|v| v as f32).collect();
        let mut image = first.clone();
        change.apply(shape, Layout::ChannelsFirst, &mut image, &mut Vec::new());
        // The same in the other layout.
        let last = |values: &[f32]| -> Vec<f32> {
            (0..6).flat_map(|at| [values[at], values[6 + at]]).collect()
        };
        let mut other = last(&first);
        change.apply(shape, Layout::ChannelsLast, &mut other, &mut Vec::new());
        assert_eq!(other, last(&image));
        image
    }

    #[test]
    fn images_move_turn_and_lose_a_square() {
        assert_eq!(changed(STILL), (1..7).chain(11..17).map(|v| v as f32).collect::<Vec<_>>());
        assert_eq!(changed(Change { shift: [1, -1], ..STILL })[..6], [0., 0., 0., 2., 3., 0.]);
        assert_eq!(changed(Change { flip: true, ..STILL })[6..], [13., 12., 11., 16., 15., 14.]);
        let hole = changed(Change { hole: ([-1, 1], 2), ..STILL });
        assert_eq!(hole, [1., 0., 0., 4., 5., 6., 11., 0., 0., 14., 15., 16.]);
    }

    #[test]
    fn every_change_within_the_settings_is_drawn() {
        let settings = Augmentation { shift: 1, flip: true, cutout: 2 };
        let shape = Shape::new(1, 2, 2);
        let drawn: std::collections::BTreeSet<_> = (0..2000)
            .map(|index| {
                let mut words = [0; 5];
                Stream { seed: 3, purpose: AUGMENT, step: 1, index }.integers(&mut words);
                let Change { shift, flip, hole } = settings.drawn(shape, words);
                (shift, flip, hole.0)
            })
            .collect();
        assert_eq!(drawn.len(), 9 * 2 * 4);
        let flat = |(shift, _, hole): &([i64; 2], bool, [i64; 2])| {
            shift.iter().chain(hole).all(|v| (-1..=1).contains(v))
        };
        assert!(drawn.iter().all(flat));
        assert!(settings.changes() && !Augmentation::default().changes());
    }
}
