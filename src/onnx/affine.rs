//! What multiplies or shifts whole channels: biases, scales, batch normalization.

use super::proto::NodeProto;
use super::reader::{Reader, Value, positions};
use super::view::Strided;
use super::{Fold, Reason, Weights};
use crate::network::{Activation, Op, Source};

/// Numbers that an operation on each channel takes for one of them, what only passes included.
pub(super) const FOLD_VALUES: usize = 8;

impl Reader {
    pub(super) fn batch_norm(&mut self, node: &NodeProto) -> Reason<Value> {
        let name = node.input(0).ok_or("has no input")?.to_owned();
        let x = self.value(&name)?;
        let x = self.settled(x)?;
        if node.int("training_mode", 0) != 0 || node.int("spatial", 1) == 0 {
            return Err("training_mode or spatial".into());
        }
        let dims = x.dims();
        let &[_, channels, ..] = &dims[..] else {
            return Err(format!("reads a value of shape {dims:?}"));
        };
        self.constants.charge::<f64>(channels.saturating_mul(FOLD_VALUES))?;
        let constant = |at: usize| self.each(node, at, channels);
        let (scale, shift, mean, variance) =
            (constant(1)?, constant(2)?, constant(3)?, constant(4)?);
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        let factor: Vec<f64> =
            scale.iter().zip(&variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let offset: Vec<f64> = (0..channels).map(|c| shift[c] - mean[c] * factor[c]).collect();
        let names = [name.as_str(), node.input(1).unwrap_or_default()];
        self.scale_and_shift(names, x, 1, &factor, &offset)
    }

    /// An input that has one number for each channel.
    pub(super) fn each(&self, node: &NodeProto, at: usize, channels: usize) -> Reason<Vec<f64>> {
        let name = node.input(at).ok_or_else(|| format!("has no input {at}"))?;
        let (dims, values) = self.constants.reals(name)?;
        match dims == [channels] {
            true => Ok(values.into_iter().map(f64::from).collect()),
            false => Err(format!("{name:?} has shape {dims:?} for {channels} channels")),
        }
    }

    /// `factor * x + offset` with one number of each for every step of an axis. `names` are those of the
    /// value and of a constant that a layer may be called after.
    pub(super) fn scale_and_shift(
        &mut self,
        names: [&str; 2],
        x: Value,
        axis: usize,
        factor: &[f64],
        offset: &[f64],
    ) -> Reason<Value> {
        let mut dims = vec![1; x.view.rank()];
        dims[axis] = factor.len();
        let numbers: Vec<f64> = (0..factor.len()).map(|at| at as f64).collect();
        let fold = |at: &[f64]| Fold {
            factor: at.iter().map(|&at| factor[at as usize]).collect(),
            offset: at.iter().map(|&at| offset[at as usize]).collect(),
        };
        match (self.affine_along(names, x.clone(), &dims, &numbers, &fold)?, factor, offset) {
            (Some(made), ..) => Ok(made),
            (None, &[scale], &[shift]) => {
                let (scale, shift) = (scale as f32, shift as f32);
                self.activate(x, Activation::Affine { scale, shift })
            }
            _ => Err(format!("{} numbers for a value of shape {:?}", factor.len(), x.dims())),
        }
    }

    /// What `fold` makes of the constant's numbers for each channel, applied to them: in the layer before,
    /// in the input's preprocessing or in a layer of its own. `None` where the constant differs within
    /// channels, however the value is turned.
    pub(super) fn affine_along(
        &mut self,
        [name, constant]: [&str; 2],
        x: Value,
        dims: &[usize],
        values: &[f64],
        fold: &dyn Fn(&[f64]) -> Fold,
    ) -> Reason<Option<Value>> {
        let Some(missing) = x.view.rank().checked_sub(dims.len()) else { return Ok(None) };
        let dims = [&vec![1; missing][..], dims].concat();
        let fits = dims.iter().zip(x.dims()).all(|(&size, whole)| size == 1 || size == whole);
        if !fits {
            return Ok(None);
        }
        let own = Strided::contiguous(&dims).expanded(&x.dims())?;
        if let Some(each) = self.by_channel(&x, &own, values) {
            let fold = fold(&each);
            check(&fold)?;
            return match self.folded(name, &x, fold.clone())? {
                Some(folded) => Ok(Some(folded)),
                None => self.layer_of_its_own(constant, &x, fold).map(Some),
            };
        }
        // One axis can be turned to the channels; more would be a constant of its own.
        let varying: Vec<usize> = (0..dims.len()).filter(|&at| dims[at] != 1).collect();
        let [axis] = varying[..] else { return Ok(None) };
        let (channels, others) = ([axis], x.view.others(&[axis]));
        let order = positions(&channels, &others);
        let source = self.arranged(&x, order)?;
        let turned = Self::made(source, &x.dims(), order, &x);
        let fold = fold(values);
        check(&fold)?;
        self.layer_of_its_own(constant, &turned, fold).map(Some)
    }

    /// The constant's number for each channel of the source, if it has one.
    fn by_channel(&self, x: &Value, own: &Strided, values: &[f64]) -> Option<Vec<f64>> {
        let shape = self.shape_at(x.source);
        let area = shape.area() as isize;
        if x.copied.is_some() || !x.view.is_whole(shape.channels * shape.area()) {
            return None;
        }
        let (mut of_channels, mut steps) = (Vec::new(), Vec::new());
        for (axis, own) in x.view.axes.iter().zip(&own.axes).filter(|(axis, _)| axis.size != 1) {
            let is_channel = axis.stride % area == 0;
            match is_channel {
                true => {
                    of_channels.push(*axis);
                    steps.push(*own);
                }
                // It may run over the end of a channel: then nothing else does.
                false if own.stride != 0 || axis.stride * axis.size as isize > area => return None,
                false => {}
            }
        }
        let channels = Strided { offset: 0, axes: of_channels, batch: None };
        let numbers = Strided { offset: 0, axes: steps, batch: None };
        if channels.elements() != shape.channels {
            return None;
        }
        let mut each = vec![0.0; shape.channels];
        for (at, number) in channels.offsets().zip(numbers.offsets()) {
            each[at / area as usize] = values[number];
        }
        Some(each)
    }

    /// `factor * x + offset` for each channel in the layer before or in the input's preprocessing.
    pub(super) fn folded(&mut self, name: &str, x: &Value, fold: Fold) -> Reason<Option<Value>> {
        let alone = !x.shared && self.readers.get(name) == Some(&1);
        let elements = self.elements_at(x.source);
        let whole = x.copied.as_ref().unwrap_or(&x.view).is_whole(elements);
        let own_layer = match x.source {
            Source::Node(before) => match self.network.nodes[before].op {
                // Their rows are not the channels of what they give.
                Op::Constant { .. } | Op::Embedding { .. } | Op::Recurrent { .. } => {
                    return Ok(None);
                }
                op => op.layer(),
            },
            Source::Input => None,
        };
        self.constants.steps(self.network.nodes.len())?;
        let used = |layer: usize| {
            self.network.nodes.iter().filter(|n| n.op.layer() == Some(layer)).count()
        };
        match own_layer {
            Some(layer) if alone && whole && used(layer) == 1 => {
                if self.network.layers[layer].rows() != fold.factor.len() {
                    return Ok(None);
                }
                self.weights[layer].follow(fold);
            }
            None if alone && whole && x.source == Source::Input && !fold.factor.contains(&0.0) => {
                self.input = Some(match self.input.take() {
                    Some(before) => before.then(&fold),
                    None => fold,
                });
            }
            _ => return Ok(None),
        }
        Ok(Some(x.clone()))
    }

    fn layer_of_its_own(&mut self, constant: &str, x: &Value, fold: Fold) -> Reason<Value> {
        let channels = fold.factor.len();
        let name = constant.rsplit_once('.').map_or(constant, |(prefix, _)| prefix).to_owned();
        let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let (values, bias) = (narrow(&fold.factor), Some(narrow(&fold.offset)));
        let weights = Weights { values, bias, fold: None, dilation: [1, 1] };
        let layer = self.add_layer(name, vec![channels, 1, 1, 1], weights)?;
        let op = Op::Conv2d { layer, stride: [1, 1], padding: [0; 4], groups: channels };
        let source = self.push(op, vec![x.source])?;
        Ok(Value { source, shared: false, ..x.clone() })
    }
}

fn check(fold: &Fold) -> Reason<()> {
    match fold.factor.iter().chain(&fold.offset).all(|v| v.is_finite()) {
        true => Ok(()),
        false => Err("a constant makes a number that is not finite".into()),
    }
}

impl Weights {
    /// Takes in what follows. The first thing added to a layer without bias is its bias.
    fn follow(&mut self, fold: Fold) {
        let bare = self.bias.is_none() && self.fold.is_none();
        if bare && fold.factor.iter().all(|&f| f == 1.0) {
            self.bias = Some(fold.offset.iter().map(|&v| v as f32).collect());
            return;
        }
        self.fold = Some(match self.fold.take() {
            Some(before) => before.then(&fold),
            None => fold,
        });
    }
}

impl Fold {
    /// This, then `after`.
    pub(crate) fn then(&self, after: &Self) -> Self {
        let factor = self.factor.iter().zip(&after.factor).map(|(a, b)| a * b).collect();
        let offsets = self.offset.iter().zip(after.factor.iter().zip(&after.offset));
        Self { factor, offset: offsets.map(|(o, (f, p))| o * f + p).collect() }
    }
}
