//! Second moments: of a layer's inputs, and of these with the outputs that it should have. Least squares needs
//! no more of the samples.

use rayon::prelude::*;

/// Means over positions of products of inputs, 1 as the last of them, and of inputs and outputs.
#[derive(Debug)]
pub(super) struct Moments {
    columns: usize,
    rows: usize,
    /// The lower triangle of `[column][column]`, row by row.
    inputs: Vec<f64>,
    /// `[column][row]`.
    outputs: Vec<f64>,
}

/// Elements of so many rows of a triangle.
fn triangle(rows: usize) -> usize {
    rows * (rows + 1) / 2
}

impl Moments {
    /// Bytes that those of so many columns, 1 among them, and rows take.
    pub fn bytes(columns: usize, rows: usize) -> usize {
        let inputs = columns.saturating_mul(columns.saturating_add(1)) / 2;
        inputs.saturating_add(columns.saturating_mul(rows)).saturating_mul(8)
    }

    /// From inputs `[position][column]` and outputs `[position][row]`.
    pub fn new(x: &[f32], columns: usize, y: &[f32], rows: usize) -> Self {
        const TILE: usize = 8;
        /// Positions summed in f32 before they are added in f64.
        const CHUNK: usize = 128;
        let mut inputs = vec![0.0; triangle(columns)];
        let mut outputs = vec![0.0; columns * rows];
        let mut rest = &mut inputs[..];
        let tiles: Vec<_> = (0..columns)
            .step_by(TILE)
            .map(|first| {
                let last = (first + TILE).min(columns);
                let elements = triangle(last) - triangle(first);
                let (tile, behind) = std::mem::take(&mut rest).split_at_mut(elements);
                rest = behind;
                (first..last, tile)
            })
            .collect();
        let tiles = tiles.into_par_iter().zip(outputs.par_chunks_mut((TILE * rows).max(1)));
        tiles.for_each(|((tile, inputs), outputs)| {
            let mut sums = (vec![0.0f32; inputs.len()], vec![0.0f32; outputs.len()]);
            for (x, y) in x.chunks(CHUNK * columns).zip(y.chunks(CHUNK * rows)) {
                sums.0.fill(0.0);
                sums.1.fill(0.0);
                for (x, y) in x.chunks_exact(columns).zip(y.chunks_exact(rows)) {
                    for (at, column) in tile.clone().enumerate() {
                        let value = x[column];
                        if value != 0.0 {
                            let onto = &mut sums.0[triangle(column) - triangle(tile.start)..];
                            onto[..=column]
                                .iter_mut()
                                .zip(x)
                                .for_each(|(sum, x)| *sum += value * x);
                            let onto = sums.1[at * rows..][..rows].iter_mut();
                            onto.zip(y).for_each(|(sum, y)| *sum += value * y);
                        }
                    }
                }
                inputs.iter_mut().zip(&sums.0).for_each(|(all, &sum)| *all += f64::from(sum));
                outputs.iter_mut().zip(&sums.1).for_each(|(all, &sum)| *all += f64::from(sum));
            }
        });
        let scale = columns as f64 / x.len().max(1) as f64;
        inputs.iter_mut().chain(&mut outputs).for_each(|value| *value *= scale);
        Self { columns, rows, inputs, outputs }
    }

    /// Inputs, with the 1.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Whether all are numbers: those of very large values are not.
    pub fn is_finite(&self) -> bool {
        self.inputs.iter().chain(&self.outputs).all(|v| v.is_finite())
    }

    /// Of two inputs.
    pub fn input(&self, a: usize, b: usize) -> f64 {
        self.inputs[triangle(a.max(b)) + a.min(b)]
    }

    /// Of an input and an output.
    pub fn output(&self, column: usize, row: usize) -> f64 {
        self.outputs[column * self.rows + row]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_means_of_products() {
        let mut state = 3u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if state >> 30 == 0 { 0.0 } else { (state >> 8) as f32 / 8_388_608.0 - 1.0 }
        };
        for (positions, columns, rows) in [(1, 1, 1), (130, 17, 3), (300, 8, 5), (7, 30, 2)] {
            let x: Vec<f32> = (0..positions * columns).map(|_| next()).collect();
            let y: Vec<f32> = (0..positions * rows).map(|_| next()).collect();
            let moments = Moments::new(&x, columns, &y, rows);
            let mean = |f: &dyn Fn(usize) -> f32| {
                (0..positions).map(|p| f64::from(f(p))).sum::<f64>() / positions as f64
            };
            let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
            for a in 0..columns {
                for b in 0..columns {
                    let exact = mean(&|p| x[p * columns + a] * x[p * columns + b]);
                    close(moments.input(a, b), exact);
                }
                for row in 0..rows {
                    let exact = mean(&|p| x[p * columns + a] * y[p * rows + row]);
                    close(moments.output(a, row), exact);
                }
            }
            assert!(moments.is_finite());
            let kept = 8 * (moments.inputs.len() + moments.outputs.len());
            assert_eq!(Moments::bytes(columns, rows), kept);
        }
        assert_eq!(Moments::bytes(usize::MAX, 2), usize::MAX);
    }
}
