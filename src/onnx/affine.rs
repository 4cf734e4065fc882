//! What multiplies or shifts whole channels: biases, scales, batch normalization.

use super::proto::NodeProto;
use super::reader::{Reader, Value};
use super::{Fold, Reason, Weights};
use crate::network::{Op, Source};

/// Numbers that an operation on each channel takes for one of them, what only passes included.
pub(super) const FOLD_VALUES: usize = 8;

impl Reader {
    /// `Add`, `Sub`, `Mul` or `Div` of a value and a constant.
    pub(super) fn with_constant(&mut self, node: &NodeProto) -> Reason<()> {
        let [a, b] = &node.input[..] else { return Err("takes two inputs".into()) };
        let first = self.constants.has(a);
        let (name, constant) = if first { (b, a) } else { (a, b) };
        let x = self.value(name)?;
        let values = self.per_channel(&x, constant)?;
        let ones = || vec![1.0; values.len()];
        let zeros = || vec![0.0; values.len()];
        let (factor, offset) = match (node.op_type.as_str(), first) {
            ("Add", _) => (ones(), values),
            ("Sub", false) => (ones(), values.iter().map(|v| -v).collect()),
            ("Sub", true) => (vec![-1.0; values.len()], values),
            ("Mul", _) => (values.clone(), zeros()),
            ("Div", false) => (values.iter().map(|v| 1.0 / v).collect(), zeros()),
            _ => return Err("of a constant by a value".into()),
        };
        self.affine(node, name, x, Fold { factor, offset })
    }

    pub(super) fn batch_norm(&mut self, node: &NodeProto) -> Reason<()> {
        let name = node.input(0).ok_or("has no input")?;
        let x = self.value(name)?.plain()?;
        if node.int("training_mode", 0) != 0 || node.int("spatial", 1) == 0 {
            return Err("training_mode or spatial".into());
        }
        let channels = x.shape.channels;
        if x.channel_axis() != Some(0) {
            return Err(format!("reads a value of shape {:?}", x.dims));
        }
        self.constants.charge::<f64>(channels.saturating_mul(FOLD_VALUES))?;
        let constant = |at: usize| {
            let name = node.input(at).ok_or_else(|| format!("has no input {at}"))?;
            let (dims, values) = self.constants.reals(name)?;
            match dims == [channels] {
                true => Ok(values.into_iter().map(f64::from).collect::<Vec<f64>>()),
                false => Err(format!("{name:?} has shape {dims:?} for {channels} channels")),
            }
        };
        let (scale, shift, mean, variance) =
            (constant(1)?, constant(2)?, constant(3)?, constant(4)?);
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        let factor: Vec<f64> =
            scale.iter().zip(&variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let offset = (0..channels).map(|c| shift[c] - mean[c] * factor[c]).collect();
        self.affine(node, name, x, Fold { factor, offset })
    }

    /// A constant as one number for each channel of a value that it is spread over.
    fn per_channel(&self, x: &Value, constant: &str) -> Reason<Vec<f64>> {
        let (dims, values) = self.constants.reals(constant)?;
        let channels = x.shape.channels;
        self.constants.charge::<f64>(channels.saturating_mul(FOLD_VALUES))?;
        if values.len() == 1 {
            return match dims.len() <= x.dims.len() + 1 {
                true => spread(values[0], channels),
                false => Err(format!("a constant of shape {dims:?}")),
            };
        }
        let axis = x.channel_axis();
        // Shapes are aligned at their ends; the batch stands before the first of x.
        let fits = axis.is_some_and(|axis| {
            let behind = x.dims.len() - axis;
            let at = dims.len().checked_sub(behind);
            at.is_some_and(|at| (0..dims.len()).all(|i| i == at || dims[i] == 1))
        });
        match fits && values.len() == channels && dims.len() <= x.dims.len() + 1 {
            true => Ok(values.into_iter().map(f64::from).collect()),
            false => Err(format!(
                "a constant of shape {dims:?} is none for each channel of a value of shape {:?}",
                x.dims
            )),
        }
    }

    /// `factor * x + offset` for each channel: in the layer before, in the input's preprocessing or
    /// in a layer of its own.
    pub(super) fn affine(
        &mut self,
        node: &NodeProto,
        name: &str,
        x: Value,
        fold: Fold,
    ) -> Reason<()> {
        if fold.factor.iter().chain(&fold.offset).any(|v| !v.is_finite()) {
            return Err("a constant makes a number that is not finite".into());
        }
        let alone = !x.shared && self.readers.get(name) == Some(&1);
        let own_layer = match x.source {
            Source::Node(before) => self.network.nodes[before].op.layer(),
            Source::Input => None,
        };
        self.constants.steps(self.network.nodes.len())?;
        let used = |layer: usize| {
            self.network.nodes.iter().filter(|n| n.op.layer() == Some(layer)).count()
        };
        let same_channels = |layer: usize| self.network.layers[layer].rows() == x.shape.channels;
        match own_layer {
            Some(layer) if alone && used(layer) == 1 && same_channels(layer) => {
                self.weights[layer].follow(fold);
            }
            None if alone && x.source == Source::Input && !fold.factor.contains(&0.0) => {
                self.input = Some(match self.input.take() {
                    Some(before) => before.then(&fold),
                    None => fold,
                });
            }
            _ => return self.layer_of_its_own(node, &x, fold),
        }
        // The name of the bias or scale is that of no value.
        let output = node.output.first().ok_or("has no output")?;
        self.values.insert(output.clone(), x);
        Ok(())
    }

    fn layer_of_its_own(&mut self, node: &NodeProto, x: &Value, fold: Fold) -> Reason<()> {
        let channels = x.shape.channels;
        let name = match node.input(1).and_then(|scale| scale.rsplit_once('.')) {
            Some((prefix, _)) => prefix.to_owned(),
            None => node.output.first().ok_or("has no output")?.clone(),
        };
        let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let (values, bias) = (narrow(&fold.factor), Some(narrow(&fold.offset)));
        let weights = Weights { values, bias, fold: None };
        let layer = self.add_layer(name, vec![channels, 1, 1, 1], weights)?;
        let op = Op::Conv2d { layer, stride: [1, 1], padding: [0; 4], groups: channels };
        self.push(node, op, vec![x.source], (Some(x.dims.clone()), x.channels_last))
    }
}

/// The same number for each channel.
pub(super) fn spread(value: f32, channels: usize) -> Reason<Vec<f64>> {
    const MOST: usize = 1 << 22;
    match channels <= MOST {
        true => Ok(vec![value.into(); channels]),
        false => Err(format!("{channels} channels, at most {MOST} are understood")),
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
    fn then(&self, after: &Self) -> Self {
        let factor = self.factor.iter().zip(&after.factor).map(|(a, b)| a * b).collect();
        let offsets = self.offset.iter().zip(after.factor.iter().zip(&after.offset));
        Self { factor, offset: offsets.map(|(o, (f, p))| o * f + p).collect() }
    }
}
