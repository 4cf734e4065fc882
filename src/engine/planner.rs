//! The nodes of a network, one after the other, to steps.

#[cfg(feature = "int8")]
mod bytes;

use std::cell::OnceCell;
use std::sync::Arc;

use super::attention::{self, Attention};
use super::builder::{PlacedSteps, PlanBuilder};
use super::cost;
use super::fuse::{Fused, fuse};
use super::kernels::Grid;
use super::layers::{self, Samples, Ways, convolution, linear};
use super::layout::{self, Layout, Layouts};
use super::options::{KernelChoice, Options};
use super::recurrent::Recurrent;
use super::shared::LayerKernels;
use super::step::{Pool, Step, StepKind};
use super::stream::Stream;
use super::transposed::{Transposed, corner};
use super::whole::{Constant, Embedding, Interpolation, Runs, Whole};
use super::winograd;
use crate::error::Result;
use crate::model::Model;
use crate::network::{Cell, Network, Node, Op, Recurrence, Resize, Shape, Source};
use crate::simd::Isa;

/// A plan of a model in the making.
pub(super) struct Planner<'a> {
    model: &'a Model,
    isa: Isa,
    options: Options,
    most_lanes: usize,
    /// For how many at a time its convolutions are to be fast.
    samples: Samples,
    /// The steps of a plan of the same for other numbers, whose kernels serve here, too, where they are the same.
    twin: &'a [Step],
    /// Whether convolutions may go by tiles, and panels of linear layers by one kernel or another by their width: not
    /// where sums are to be the same bits in all of them.
    free: bool,
    /// Of each node's output.
    shapes: Vec<Shape>,
    fused: Fused,
    attention: attention::Found,
    /// What is to be known of the whole where parts of a stream are planned, and the value that is their position.
    stream: Option<&'a Stream<'a>>,
    position: Option<usize>,
    layouts: Layouts,
    builder: PlanBuilder,
    /// The builder's value that each node's output is.
    value_of: Vec<usize>,
    /// Those of layers that are values.
    constants: Vec<Option<Arc<Constant>>>,
    /// Those of the other layers.
    kernels: &'a mut LayerKernels,
}

impl<'a> Planner<'a> {
    /// For a model whose nodes have outputs of these shapes, and panels of at most so many samples.
    pub(super) fn new(
        model: &'a Model,
        isa: Isa,
        options: Options,
        (shapes, most_lanes): (Vec<Shape>, usize),
        (free, stream, kernels): (bool, Option<&'a Stream<'a>>, &'a mut LayerKernels),
    ) -> Result<Self> {
        let network = &model.network;
        let fused = fuse(network);
        let attention = match stream {
            Some(stream) => stream.attention.clone(),
            None => attention::find(network, &shapes),
        };
        let layouts = layout::choose(network, &shapes, &fused.owner, &fused.residual)?;
        let builder = PlanBuilder::new(layouts.values[0]);
        let (value_of, layers) = (vec![0; network.nodes.len()], network.layers.len());
        kernels.taps.resize_with(layers, OnceCell::new);
        let constants = vec![None; layers];
        let mut planner = Self {
            model,
            isa,
            options,
            most_lanes,
            samples: Samples::ONE,
            twin: &[],
            free,
            shapes,
            fused,
            attention,
            stream,
            position: None,
            layouts,
            builder,
            value_of,
            constants,
            kernels,
        };
        planner.most_lanes = match planner.kernels.most_lanes {
            Some(lanes) => lanes,
            None => planner.lanes(most_lanes),
        };
        let most = planner.most_lanes;
        planner.kernels.most_lanes = Some(most);
        planner.samples = match options.batch.map(|batch| batch.clamp(1, most)) {
            Some(batch) => Samples { least: batch, most: batch },
            None => Samples { least: 1, most },
        };
        Ok(planner)
    }

    /// The same for so many samples at a time alone, with what serves of another such plan.
    pub(super) fn only(self, samples: Samples, twin: &'a [Step]) -> Self {
        Self { samples, twin, ..self }
    }

    /// Whether single samples and panels are best done in two ways, if it is for any number.
    pub(super) fn wants_two(&self) -> bool {
        let Samples { least, most } = self.samples;
        let differs = |(index, node): (usize, &Node)| {
            let Op::Conv2d { layer, .. } = node.op else { return false };
            if self.at_one_place(index, node) {
                return false;
            }
            let ways = self.ways_of(index, node);
            let by_tiles = |samples| {
                ways.as_ref().is_some_and(|w| w.by_tiles(self.isa, samples, self.options.kernel))
            };
            let taps = self.taps(layer);
            let shared = |lanes| layers::shares_taps(taps, self.isa, lanes, self.options.kernel);
            let tiles = by_tiles(Samples::ONE);
            tiles != by_tiles(Samples::panels(most)) || !tiles && shared(least) != shared(most)
        };
        least != most && self.model.network.nodes.iter().enumerate().any(differs)
    }

    fn shape_of(&self, source: Source) -> Shape {
        match source {
            Source::Input => self.model.network.input.shape,
            Source::Node(node) => self.shapes[node],
        }
    }

    /// Samples in the widest panel.
    pub(super) fn most_lanes(&self) -> usize {
        self.most_lanes
    }

    /// The steps of all nodes, with their values in one arena.
    pub(super) fn all(mut self) -> Result<PlacedSteps> {
        (0..self.value_of.len()).try_for_each(|index| self.plan(index))?;
        let last = self.value_of[self.value_of.len() - 1];
        self.builder.place(self.isa, last, self.options.threads > 1)
    }

    /// Adds the steps of a node, if it has any of its own.
    fn plan(&mut self, index: usize) -> Result<()> {
        let network = &self.model.network;
        let node = &network.nodes[index];
        if self.attention.inside[index] {
            return Ok(());
        }
        if let Some(attention) = self.attention.ends[index].take() {
            return match self.stream {
                Some(stream) => self.look_back(index, &attention, stream),
                None => self.attend(index, attention),
            };
        }
        if let Some(stream) = self.stream {
            if stream.is_mask(index) {
                return Ok(());
            }
            if let Some(passing) = stream.passing(index, node) {
                let position = self.position();
                self.push_plain(
                    index,
                    StepKind::Whole(Whole::Passing(Arc::new(passing))),
                    vec![position],
                );
                return Ok(());
            }
        }
        if self.fused.owner[index] != index {
            self.value_of[index] = self.value_of[self.fused.owner[index]];
            return Ok(());
        }
        let value = |source: &Source| match *source {
            Source::Input => 0,
            Source::Node(i) => self.value_of[i],
        };
        let mut inputs: Vec<usize> =
            node.inputs.iter().chain(&self.fused.residual[index]).map(value).collect();
        if let Some(whole) = self.whole(index) {
            return self.without_gaps(index, whole, inputs);
        }
        #[cfg(feature = "int8")]
        if self.in_int8(index, &inputs)? {
            return Ok(());
        }
        let x = self.builder.layout(inputs[0]);
        let y = self.layouts.values[index + 1];
        let mut then = self.fused.activation[index];
        let kind = match node.op {
            Op::Linear { layer } => {
                self.linear(index, inputs, layer);
                return Ok(());
            }
            Op::Conv2d { layer, .. } if self.at_one_place(index, node) => {
                self.linear(index, inputs, layer);
                return Ok(());
            }
            Op::Conv2d { layer, stride, padding, groups } => {
                if stride == [1, 1]
                    && groups == 1
                    && let Some(grid) = self.grid(index, layer, padding, &y)
                {
                    self.by_tiles(index, inputs, layer, grid);
                    return Ok(());
                }
                self.convolution(index, &mut inputs[0], layer, stride, padding, groups)
            }
            Op::MaxPool2d(window) => StepKind::Pool { pool: Pool::Max, window },
            Op::AvgPool2d { window, count_include_pad } => {
                StepKind::Pool { pool: Pool::Average { count_include_pad }, window }
            }
            Op::GlobalAvgPool2d => StepKind::GlobalAvgPool,
            Op::Activation(activation) => {
                then = Some(activation);
                StepKind::Copy
            }
            Op::Flatten
                if then.is_none()
                    && x.is_contiguous()
                    && y.is_contiguous()
                    && read_by_linear(network, index) =>
            {
                self.value_of[index] = inputs[0];
                return Ok(());
            }
            Op::Flatten => StepKind::Copy,
            Op::Add => StepKind::Add,
            Op::Mul => {
                let whole = |&value: &usize| self.builder.layout(value).shape == self.shapes[index];
                let first = inputs.iter().position(whole).unwrap_or(0);
                inputs.swap(0, first);
                StepKind::Mul
            }
            Op::Concat => StepKind::Concat,
            Op::ConvTranspose2d { layer, stride, cut, groups } => {
                return self.transposed(index, inputs, layer, (stride, cut, groups));
            }
            Op::Resize(resize) => return self.resized(index, inputs[0], &resize),
            Op::Recurrent { layer, recurrence } => {
                return self.recurrent(index, inputs, layer, recurrence);
            }
            Op::Softmax
            | Op::LogSoftmax
            | Op::LayerNorm { .. }
            | Op::Reduce(_)
            | Op::Binary(_)
            | Op::Where
            | Op::MatMul
            | Op::Constant { .. }
            | Op::Embedding { .. }
            | Op::Rearrange(_)
            | Op::Pad(_) => unreachable!("they leave no gaps"),
        };
        self.value_of[index] = self.builder.push(index, kind, inputs, y, then);
        Ok(())
    }

    /// A matrix times all of the first input, added to the second if there is one.
    fn linear(&mut self, index: usize, mut inputs: Vec<usize>, layer: usize) {
        inputs[0] = self.builder.contiguous(index, inputs[0]);
        let weights = &self.model.weights[layer];
        let (isa, lanes, options) = (self.isa, (self.most_lanes, self.free), self.options);
        let parts = self.kernels.linear.get(layer, 0, || linear(weights, isa, lanes, options));
        let kind = StepKind::Linear(parts);
        let Some(other) = inputs.get(1).copied() else {
            return self.push_plain(index, kind, inputs);
        };
        let y = Layout::contiguous(self.shapes[index]);
        let product = self.builder.push(index, kind, vec![inputs[0]], y, None);
        let (y, then) = (self.layouts.values[index + 1], self.fused.activation[index]);
        let inputs = vec![product, other];
        self.value_of[index] = self.builder.push(index, StepKind::Add, inputs, y, then);
    }

    /// Whether a convolution reads all of its input at once, as a linear layer does. Weights of kernels that another
    /// length has made are no longer there.
    fn at_one_place(&self, index: usize, node: &Node) -> bool {
        let Op::Conv2d { layer, padding: [0, 0, 0, 0], groups: 1, .. } = node.op else {
            return false;
        };
        let (input, kernel) =
            (self.shape_of(node.inputs[0]), &self.model.network.layers[layer].shape[2..]);
        self.shapes[index].area() == 1
            && *kernel == [input.height, input.width]
            && self.kernels.pointwise.found(layer, 1).is_none()
    }

    /// What a node does with values without gaps.
    fn whole(&mut self, index: usize) -> Option<Whole> {
        Some(match self.model.network.nodes[index].op {
            Op::Softmax => Whole::Softmax,
            Op::LogSoftmax => Whole::LogSoftmax,
            Op::LayerNorm { eps, centered } => Whole::LayerNorm { eps, centered },
            Op::Reduce(reduction) => Whole::Reduce(reduction),
            Op::Binary(binary) => Whole::Binary(binary),
            Op::Where => Whole::Where,
            Op::MatMul => Whole::MatMul,
            Op::Constant { layer } => {
                let new = || Arc::new(Constant::new(&self.model.weights[layer]));
                Whole::Constant(self.constants[layer].get_or_insert_with(new).clone())
            }
            Op::Embedding { layer } => {
                let weights = &self.model.weights[layer];
                Whole::Embedding(
                    self.kernels.tables.get(layer, 0, || Arc::new(Embedding::new(weights))),
                )
            }
            Op::Rearrange(view) => Whole::Rearrange(Runs::new(&view)),
            Op::Pad(pad) => Whole::Pad(pad),
            _ => return None,
        })
    }

    /// A step on copies without gaps, where there are gaps.
    fn without_gaps(&mut self, index: usize, whole: Whole, mut inputs: Vec<usize>) -> Result<()> {
        for input in &mut inputs {
            *input = self.builder.contiguous(index, *input);
        }
        let shape = self.shapes[index];
        if let Whole::Rearrange(runs) = &whole {
            let from = self.builder.layout(inputs[0]).shape;
            if runs.is_identity(from.elements()?) {
                let value = self.builder.reshaped(inputs[0], shape);
                self.settle(index, value);
                return Ok(());
            }
        }
        self.push_plain(index, StepKind::Whole(whole), inputs);
        Ok(())
    }

    /// A step that leaves no gaps in its output; a convolution that reads it may want some.
    fn push_plain(&mut self, index: usize, kind: StepKind, inputs: Vec<usize>) {
        let y = Layout::contiguous(self.shapes[index]);
        if self.layouts.values[index + 1] == y {
            let then = self.fused.activation[index];
            self.value_of[index] = self.builder.push(index, kind, inputs, y, then);
        } else {
            let value = self.builder.push(index, kind, inputs, y, None);
            self.settle(index, value);
        }
    }

    /// A map interpolated along its rows, then along its columns.
    fn resized(&mut self, index: usize, mut value: usize, resize: &Resize) -> Result<()> {
        for axis in [0, 1] {
            let shape = self.builder.layout(value).shape;
            if let Some(along) = Interpolation::new(resize, axis, shape) {
                let mut sizes = [shape.height, shape.width];
                sizes[axis] = resize.size[axis];
                let y = Layout::contiguous(Shape::new(shape.channels, sizes[0], sizes[1]));
                let x = self.builder.contiguous(index, value);
                let kind = StepKind::Whole(Whole::Interpolate(along));
                value = self.builder.push(index, kind, vec![x], y, None);
            }
        }
        self.settle(index, value);
        Ok(())
    }

    /// Attention as one step, its scores behind its output.
    fn attend(&mut self, index: usize, attention: Attention) -> Result<()> {
        let value = |source: &Source| match *source {
            Source::Input => 0,
            Source::Node(i) => self.value_of[i],
        };
        let mut inputs: Vec<usize> = attention.inputs.iter().map(value).collect();
        for input in &mut inputs {
            *input = self.builder.contiguous(index, *input);
        }
        let [queries, keys] = [0, 1].map(|at| self.builder.layout(inputs[at]).shape);
        let shape = self.shapes[index];
        let scratch = attention::scratch(queries, keys, self.options.threads);
        let memory = shape.elements()?.saturating_add(scratch);
        let y = Layout::contiguous(Shape::vector(memory));
        let kind = StepKind::Whole(Whole::Attention(attention));
        let whole = self.builder.push(index, kind, inputs, y, None);
        let value = self.builder.reshaped(whole, shape);
        self.settle(index, value);
        Ok(())
    }

    /// Attention of a stream, which keeps its memory.
    fn look_back(
        &mut self,
        index: usize,
        attention: &Attention,
        stream: &Stream<'_>,
    ) -> Result<()> {
        let value = |source: &Source| match *source {
            Source::Input => 0,
            Source::Node(i) => self.value_of[i],
        };
        let mut inputs: Vec<usize> = attention.inputs.iter().take(3).map(value).collect();
        for input in &mut inputs {
            *input = self.builder.contiguous(index, *input);
        }
        let [queries, values] = [0, 2].map(|at| self.builder.layout(inputs[at]).shape);
        let cached = stream.cached(index, attention, [queries, values])?;
        let memory = Layout::contiguous(Shape::vector(cached.memory(queries.height)));
        inputs.push(self.position());
        let kind = StepKind::Whole(Whole::CachedAttention(Arc::new(cached)));
        let whole = self.builder.push(index, kind, inputs, memory, None);
        self.builder.keep(whole);
        let value = self.builder.reshaped(whole, self.shapes[index]);
        self.settle(index, value);
        Ok(())
    }

    /// Which step of a stream the part at hand begins with.
    fn position(&mut self) -> usize {
        if let Some(position) = self.position {
            return position;
        }
        let steps = self.stream.map_or(0, |stream| stream.part);
        let kind = StepKind::Whole(Whole::Position(steps));
        let value =
            self.builder.push(0, kind, Vec::new(), Layout::contiguous(Shape::vector(2)), None);
        self.builder.keep(value);
        self.position = Some(value);
        value
    }

    /// A cell over the steps of a sequence, its inputs and outputs step by step on the way.
    fn recurrent(
        &mut self,
        index: usize,
        mut inputs: Vec<usize>,
        layer: usize,
        recurrence: Recurrence,
    ) -> Result<()> {
        let (shape, weights) = (self.shapes[index], &self.model.weights[layer]);
        let (isa, lanes, options) = (self.isa, self.most_lanes, self.options);
        let way = usize::from(recurrence.cell == Cell::GruResetBefore);
        let matrices = match self.kernels.cells.found(layer, way) {
            Some(found) => found,
            None => {
                let made = Recurrent::matrices(weights, recurrence, isa, lanes, options)?;
                self.kernels.cells.keep(layer, way, made)
            }
        };
        let sizes = [shape.channels, shape.width];
        let cell = Recurrent::new(recurrence, matrices, sizes, options.stream);
        for input in &mut inputs {
            *input = self.builder.contiguous(index, *input);
        }
        inputs[0] = self.moved(index, inputs[0], cell.by_step(), None)?;
        let (memory, by_unit) = (Layout::contiguous(cell.memory()), cell.by_unit());
        let kind = StepKind::Whole(Whole::Recurrent(Arc::new(cell)));
        let value = self.builder.push(index, kind, inputs, memory, None);
        if self.options.stream {
            self.builder.keep(value);
        }
        let value = self.moved(index, value, by_unit, Some(shape))?;
        self.settle(index, value);
        Ok(())
    }

    /// A value without gaps with its elements in another order, unless it is the same.
    fn moved(
        &mut self,
        index: usize,
        value: usize,
        runs: Runs,
        shape: Option<Shape>,
    ) -> Result<usize> {
        let from = self.builder.layout(value).shape;
        if runs.is_identity(from.elements()?) {
            return Ok(value);
        }
        let kind = StepKind::Whole(Whole::Rearrange(runs));
        let y = Layout::contiguous(shape.unwrap_or(from));
        Ok(self.builder.push(index, kind, vec![value], y, None))
    }

    /// Makes a value that of a node, as it is to lie and with the node's activation.
    fn settle(&mut self, index: usize, value: usize) {
        let (y, then) = (self.layouts.values[index + 1], self.fused.activation[index]);
        self.value_of[index] = match then.is_none() && self.builder.layout(value) == y {
            true => value,
            false => self.builder.push(index, StepKind::Copy, vec![value], y, then),
        };
    }

    /// A transposed convolution: one of stride 1, whose channels are then put in between each other.
    fn transposed(
        &mut self,
        index: usize,
        inputs: Vec<usize>,
        layer: usize,
        (stride, cut, groups): ([usize; 2], [i32; 4], usize),
    ) -> Result<()> {
        let (x, shape) = (self.builder.layout(inputs[0]), self.shapes[index]);
        let then = self.fused.activation[index];
        let dims = &self.model.network.layers[layer].shape;
        let transposed = Transposed::new(dims, stride, cut, (x.shape, shape));
        let [out, seen, kh, kw] = dims[..] else { return Ok(()) };
        let (weights, dims) =
            transposed.weights(&self.model.weights[layer], [out, seen, kh, kw])?;
        let z = self.layouts.split[index].unwrap_or(self.layouts.values[index + 1]);
        let (rows, bias) = layers::rows(&weights);
        let parts = convolution(
            (&rows, &bias),
            &dims,
            [1, 1],
            groups,
            (&x, &z),
            self.how(cost::taps(&rows), self.options.kernel),
            self.options,
        );
        let [top, left, ..] = transposed.zeros();
        let kind = StepKind::Conv2d { parts, padding: [top, left], outputs: 1 };
        if stride == [1, 1] {
            self.value_of[index] = self.builder.push(index, kind, inputs, z, then);
            return Ok(());
        }
        let mut value = self.builder.push(index, kind, inputs, z, None);
        let (whole, runs) = transposed.interleaved(&z);
        let mut runs = vec![(whole, runs)];
        if whole != shape {
            runs.push((shape, corner(whole, shape)));
        }
        for (shape, runs) in runs {
            let kind = StepKind::Whole(Whole::Rearrange(runs));
            let y = Layout::contiguous(shape);
            value = self.builder.push(index, kind, vec![value], y, None);
        }
        self.settle(index, value);
        Ok(())
    }

    /// Taps of a convolution, counted once for all that is asked about it.
    fn taps(&self, layer: usize) -> [usize; 2] {
        *self.kernels.taps[layer]
            .get_or_init(|| cost::taps(&layers::rows(&self.model.weights[layer]).0))
    }

    /// Of what kind the rows of a convolution of so many taps are.
    fn how(&self, taps: [usize; 2], kernel: KernelChoice) -> (Isa, usize, bool) {
        let grouped = layers::shares_taps(taps, self.isa, self.samples.shared_by(), kernel);
        (self.isa, self.most_lanes, grouped)
    }

    /// The tiles of a convolution of stride 1 in one group, if it is faster by them.
    fn grid(&self, index: usize, layer: usize, padding: [usize; 4], y: &Layout) -> Option<Grid> {
        let ways = self.ways(index, layer, Some(padding), y);
        ways.by_tiles(self.isa, self.samples, self.options.kernel)
            .then(|| winograd::grid(y.shape, padding))
    }

    /// How a convolution may be done: by tiles, too, if it is of stride 1 in one group, with so much padding.
    fn ways<'b>(
        &'b self,
        #[cfg_attr(not(feature = "int8"), expect(unused_variables))] index: usize,
        layer: usize,
        padding: Option<[usize; 4]>,
        y: &'b Layout,
    ) -> Ways<'b> {
        let dims = &self.model.network.layers[layer].shape;
        let tiles = padding.filter(|_| winograd::HERE && self.free && dims[2..] == [3, 3]);
        let tiles = tiles.map(|padding| winograd::grid(y.shape, padding));
        let weights = &self.model.weights[layer];
        Ways {
            weights,
            taps: self.taps(layer),
            channels: dims[1],
            tiles,
            output: y,
            #[cfg(feature = "int8")]
            int8: self.int8_inputs(index),
        }
    }

    /// The same of a node, if it is a convolution.
    fn ways_of(&self, index: usize, node: &Node) -> Option<Ways<'_>> {
        let Op::Conv2d { layer, stride, padding, groups } = node.op else { return None };
        let padding = (stride == [1, 1] && groups == 1).then_some(padding);
        Some(self.ways(index, layer, padding, &self.layouts.values[index + 1]))
    }

    /// Samples in the widest panel, of so many at most: one where convolutions by tiles would fill the caches
    /// with those of a panel.
    fn lanes(&self, most: usize) -> usize {
        let panels = self.options.batch.is_none_or(|batch| batch >= cost::WORTH_A_PANEL);
        if !winograd::HERE || !panels || most == 1 {
            return most;
        }
        let nodes = &self.model.network.nodes;
        let all = || nodes.iter().enumerate().filter_map(|(at, node)| self.ways_of(at, node));
        if !all().any(|ways| ways.by_tiles(self.isa, Samples::ONE, self.options.kernel)) {
            return most;
        }
        let time = |lanes| all().map(|ways| ways.least(self.isa, lanes, self.options)).sum::<f32>();
        if time(1) < time(most) { 1 } else { most }
    }

    /// A convolution by tiles, of the first input, added to the second if there is one.
    fn by_tiles(&mut self, index: usize, mut inputs: Vec<usize>, layer: usize, grid: Grid) {
        let weights = &self.model.weights[layer];
        let [out, seen, ..] = self.model.network.layers[layer].shape[..] else { return };
        let x = winograd::layout_of_inputs(grid, seen);
        let products = winograd::layout_of_outputs(grid, out);
        let tiles = self.builder.push(index, StepKind::ToTiles(grid), vec![inputs[0]], x, None);
        let (rows, dims) = winograd::rows(weights);
        let how = self.how(cost::taps(&rows), KernelChoice::Auto);
        let twin = self.twin.iter().find_map(|step| step.rows_of(index, winograd::OUTPUTS, how.2));
        let parts = twin.unwrap_or_else(|| {
            let options = Options { kernel: KernelChoice::Auto, ..self.options };
            let layouts = (&x, &products);
            let bias = vec![0.0; rows.len()];
            convolution((&rows, &bias), &dims, [1, 1], winograd::NUMBERS, layouts, how, options)
        });
        let kind = StepKind::Conv2d { parts, padding: [0, 0], outputs: winograd::OUTPUTS };
        inputs[0] = self.builder.push(index, kind, vec![tiles], products, None);
        let bias = weights.bias.as_ref().map(|bias| bias.to_f32()).unwrap_or_default();
        let (y, then) = (self.layouts.values[index + 1], self.fused.activation[index]);
        let kind = StepKind::FromTiles { grid, bias };
        self.value_of[index] = self.builder.push(index, kind, inputs, y, then);
    }

    /// A convolution of a value, which is split first if there is a stride.
    fn convolution(
        &mut self,
        index: usize,
        value: &mut usize,
        layer: usize,
        stride: [usize; 2],
        [top, left, ..]: [usize; 4],
        groups: usize,
    ) -> StepKind {
        let (dims, padding) = (&self.model.network.layers[layer].shape, [top, left]);
        if let Some(split) = self.layouts.split[index] {
            let phases = [stride[0].min(dims[2]), stride[1].min(dims[3])];
            let kind = StepKind::Split { stride, phases, padding };
            *value = self.builder.push(index, kind, vec![*value], split, None);
        }
        let layouts = (&self.builder.layout(*value), &self.layouts.values[index + 1]);
        let (weights, options) = (&self.model.weights[layer], self.options);
        let make = |how| {
            let (rows, bias) = layers::rows(weights);
            convolution((&rows, &bias), dims, stride, groups, layouts, how, options)
        };
        let parts = match (dims[2..] == [1, 1], self.twin) {
            (true, []) => match self.kernels.pointwise.found(layer, groups) {
                Some(found) => found,
                None => {
                    let made = make(self.how(self.taps(layer), options.kernel));
                    self.kernels.pointwise.keep(layer, groups, made)
                }
            },
            (false, []) => make(self.how(self.taps(layer), options.kernel)),
            (_, twin) => {
                let how = self.how(self.taps(layer), options.kernel);
                let same = twin.iter().find_map(|step| step.rows_of(index, 1, how.2));
                same.unwrap_or_else(|| make(how))
            }
        };
        let padding = if stride == [1, 1] { padding } else { [0, 0] };
        StepKind::Conv2d { parts, padding, outputs: 1 }
    }
}

/// Whether only linear layers read a node, to which a map is as good as a vector.
fn read_by_linear(network: &Network, index: usize) -> bool {
    let reads = |node: &&Node| node.inputs.contains(&Source::Node(index));
    network.nodes.iter().filter(reads).all(|node| matches!(node.op, Op::Linear { .. }))
}
