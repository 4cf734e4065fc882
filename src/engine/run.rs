//! Running a plan.

use std::ops::Range;

use super::kernels::{Kernels, Portable};
use super::plan::{Engine, Pool, Step, Work};
use super::{LANES, Tier, memory};
use crate::error::{Error, Result};
use crate::network::{Shape, Window};

/// The memory of one thread: the activations of a panel of samples. Made once, used again.
#[derive(Debug)]
pub struct Workspace {
    /// `[element][1]`, for single samples.
    single: Vec<[f32; 1]>,
    /// `[element][LANES]`.
    panel: Vec<[f32; LANES]>,
}

/// Samples below which they run one by one rather than as a part-filled panel.
const WORTH_A_PANEL: usize = 4;

impl Engine {
    /// Memory to run up to `batch` samples at a time: with 1, no panel is allocated.
    pub fn workspace(&self, batch: usize) -> Workspace {
        let panel = if batch >= WORTH_A_PANEL { self.arena } else { 0 };
        Workspace { single: vec![[0.0; 1]; self.arena], panel: vec![[0.0; LANES]; panel] }
    }

    /// Runs samples of raw values, `[sample, channel, row, column]`, into `output`, one row for each
    /// sample. Allocates nothing.
    ///
    /// # Errors
    /// [`Error::Data`] if the lengths are not those of whole samples or do not fit each other.
    pub fn run(&self, workspace: &mut Workspace, input: &[f32], output: &mut [f32]) -> Result<()> {
        let (ins, outs) = (self.input_range.len(), self.output_range.len());
        let samples = input.len() / ins;
        if input.len() != samples * ins || output.len() != samples * outs {
            return Err(Error::data(format!(
                "{} input and {} output values are not whole samples of {ins} and {outs}",
                input.len(),
                output.len()
            )));
        }
        let per_call = if workspace.panel.is_empty() { 1 } else { LANES };
        for (x, y) in input.chunks(per_call * ins).zip(output.chunks_mut(per_call * outs)) {
            if per_call > 1 && x.len() / ins >= WORTH_A_PANEL {
                self.run_lanes(&mut workspace.panel, x, y);
            } else {
                for (x, y) in x.chunks_exact(ins).zip(y.chunks_exact_mut(outs)) {
                    self.run_lanes(&mut workspace.single, x, y);
                }
            }
        }
        Ok(())
    }

    /// Like [`Engine::run`] on up to `threads` threads, each with a workspace of its own. The
    /// outputs are the same for every number of threads.
    pub fn run_parallel(&self, input: &[f32], output: &mut [f32], threads: usize) -> Result<()> {
        let (ins, outs) = (self.input_range.len(), self.output_range.len());
        let panels = (input.len() / ins).div_ceil(LANES);
        let share = panels.div_ceil(threads.max(1)).max(1) * LANES;
        let work = |x: &[f32], y: &mut [f32]| self.run(&mut self.workspace(x.len() / ins), x, y);
        if threads <= 1 || panels <= 1 || output.len() / outs != input.len() / ins {
            return work(input, output);
        }
        std::thread::scope(|scope| {
            let parts = input.chunks(share * ins).zip(output.chunks_mut(share * outs));
            let workers: Vec<_> = parts.map(|(x, y)| scope.spawn(move || work(x, y))).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    fn run_lanes<const P: usize>(&self, arena: &mut [[f32; P]], input: &[f32], output: &mut [f32]) {
        self.load(&mut arena[self.input_range.clone()], input);
        for step in &self.steps {
            match self.tier {
                Tier::Portable => step.run(&Portable, arena),
            }
        }
        let outs = self.output_range.len();
        let values = &arena[self.output_range.clone()];
        for (lane, sample) in output.chunks_exact_mut(outs).enumerate() {
            sample.iter_mut().zip(values).for_each(|(out, value)| *out = value[lane]);
        }
    }

    /// Puts raw samples side by side, preprocessed; lanes without a sample are zero.
    fn load<const P: usize>(&self, values: &mut [[f32; P]], input: &[f32]) {
        let (length, area) = (values.len(), self.input.shape.area());
        for (channel, values) in values.chunks_exact_mut(area).enumerate() {
            let (factor, offset) = self.input.affine(channel);
            for (at, value) in values.iter_mut().enumerate() {
                let from = channel * area + at;
                *value = [0.0; P];
                for (lane, sample) in input.chunks_exact(length).enumerate() {
                    value[lane] = sample[from] * factor + offset;
                }
            }
        }
    }
}

impl Step {
    fn run<const P: usize>(&self, kernels: &impl Kernels, arena: &mut [[f32; P]]) {
        let first = &self.inputs[0];
        match &self.work {
            Work::Copy => {
                if *first != self.output {
                    arena.copy_within(first.clone(), self.output.start);
                }
            }
            Work::Add => {
                arena.copy_within(first.clone(), self.output.start);
                for other in &self.inputs[1..] {
                    let (x, y) = memory::pair(arena, other.clone(), self.output.clone());
                    for (sum, x) in y.iter_mut().zip(x) {
                        sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
                    }
                }
            }
            work => {
                let (x, y) = memory::pair(arena, first.clone(), self.output.clone());
                match work {
                    Work::Linear(matrix) => kernels.linear(matrix, x, y),
                    Work::Conv2d(matrix, geometry) => kernels.conv2d(matrix, geometry, x, y),
                    Work::Pool { pool, window, input, output } => {
                        pool2d(*pool, window, *input, *output, x, y);
                    }
                    Work::GlobalAvgPool { area } => global_average(*area, x, y),
                    Work::Softmax { shape } => softmax(*shape, x, y),
                    Work::Copy | Work::Add => {}
                }
            }
        }
        if let Some(activation) = self.then {
            for values in &mut arena[self.output.clone()] {
                values.iter_mut().for_each(|v| *v = activation.apply(*v));
            }
        }
    }
}

/// The part of a window at output `at` that lies on the map.
fn covered(at: usize, stride: usize, before: usize, kernel: usize, size: usize) -> Range<usize> {
    let start = (at * stride).saturating_sub(before);
    start..(at * stride + kernel).saturating_sub(before).min(size)
}

fn pool2d<const P: usize>(
    pool: Pool,
    window: &Window,
    input: Shape,
    output: Shape,
    x: &[[f32; P]],
    y: &mut [[f32; P]],
) {
    let planes = x.chunks_exact(input.area()).zip(y.chunks_exact_mut(output.area()));
    let [top, left, ..] = window.padding;
    for (x, y) in planes {
        for oy in 0..output.height {
            let rows = covered(oy, window.stride[0], top, window.kernel[0], input.height);
            for ox in 0..output.width {
                let columns = covered(ox, window.stride[1], left, window.kernel[1], input.width);
                let out = &mut y[oy * output.width + ox];
                let seen = rows.clone().flat_map(|row| &x[row * input.width..][columns.clone()]);
                match pool {
                    Pool::Max => {
                        *out = [f32::NEG_INFINITY; P];
                        for value in seen {
                            // NaN wins, as it does in training frameworks.
                            out.iter_mut().zip(value).for_each(|(out, &v)| {
                                if v > *out || v.is_nan() {
                                    *out = v;
                                }
                            });
                        }
                    }
                    Pool::Average { count_include_pad } => {
                        let area = if count_include_pad {
                            window.kernel[0] * window.kernel[1]
                        } else {
                            rows.len() * columns.len()
                        };
                        *out = [0.0; P];
                        for value in seen {
                            out.iter_mut().zip(value).for_each(|(out, v)| *out += v);
                        }
                        out.iter_mut().for_each(|out| *out /= area as f32);
                    }
                }
            }
        }
    }
}

fn global_average<const P: usize>(area: usize, x: &[[f32; P]], y: &mut [[f32; P]]) {
    for (x, y) in x.chunks_exact(area).zip(y) {
        *y = [0.0; P];
        for value in x {
            y.iter_mut().zip(value).for_each(|(sum, v)| *sum += v);
        }
        y.iter_mut().for_each(|sum| *sum /= area as f32);
    }
}

/// Over the channels, at each place of the map alone.
fn softmax<const P: usize>(shape: Shape, x: &[[f32; P]], y: &mut [[f32; P]]) {
    let area = shape.area();
    for place in 0..area {
        let at = |channel: usize| channel * area + place;
        let mut largest = [f32::NEG_INFINITY; P];
        for channel in 0..shape.channels {
            largest.iter_mut().zip(&x[at(channel)]).for_each(|(m, &v)| *m = m.max(v));
        }
        let mut sum = [0.0; P];
        for channel in 0..shape.channels {
            for lane in 0..P {
                let e = libm::expf(x[at(channel)][lane] - largest[lane]);
                y[at(channel)][lane] = e;
                sum[lane] += e;
            }
        }
        for channel in 0..shape.channels {
            y[at(channel)].iter_mut().zip(&sum).for_each(|(v, sum)| *v /= sum);
        }
    }
}
