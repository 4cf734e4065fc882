//! Kernels that are stored without the zeros that stand between their values.

use super::tensor::TensorSource;
use super::view::View;
use crate::error::Result;

/// A kernel and the window over which its values are spread, evenly along each axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spread {
    /// Height and width as stored.
    pub(super) kernel: [usize; 2],
    /// Height and width with the zeros.
    pub(super) window: [usize; 2],
}

impl Spread {
    /// That of a window of kernels whose values are `steps` apart; `None` if there is nothing between.
    pub(super) fn of(window: [usize; 2], steps: [usize; 2]) -> Option<Self> {
        let kernel = [0, 1].map(|axis| (window[axis] - 1) / steps[axis] + 1);
        (kernel != window).then_some(Self { kernel, window })
    }

    /// The values of kernels without the zeros between.
    pub(super) fn gathered(self, values: &[f32]) -> Vec<f32> {
        let kernels = values.chunks_exact(self.window[0] * self.window[1]);
        let count = self.kernel[0] * self.kernel[1];
        kernels.flat_map(|kernel| (0..count).map(|value| kernel[self.place(value)])).collect()
    }

    /// Where in the window a value of the kernel stands.
    fn place(self, value: usize) -> usize {
        let step = |axis: usize| (self.window[axis] - 1) / (self.kernel[axis] - 1).max(1);
        let (row, column) = (value / self.kernel[1], value % self.kernel[1]);
        row * step(0) * self.window[1] + column * step(1)
    }

    /// Reads the elements from `start` on until `out` is full, where `stored` has the values of one kernel
    /// after the other.
    pub(super) fn read(
        self,
        stored: &View,
        source: &dyn TensorSource,
        start: usize,
        out: &mut [f32],
    ) -> Result<()> {
        out.fill(0.0);
        let [values, area] = [self.kernel, self.window].map(|[height, width]| height * width);
        let end = start + out.len();
        let (first, last) = (start / area, end.div_ceil(area));
        let mut kernels = vec![0.0; (last - first) * values];
        stored.read(source, first * values, &mut kernels)?;
        for (number, kernel) in (first..last).zip(kernels.chunks_exact(values)) {
            for (value, &read) in kernel.iter().enumerate() {
                let place = number * area + self.place(value);
                if (start..end).contains(&place) {
                    out[place - start] = read;
                }
            }
        }
        Ok(())
    }
}
