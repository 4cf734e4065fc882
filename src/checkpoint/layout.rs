//! Which index of a stored tensor is which: found by what fits, never guessed.

use super::conventions::{Found, LayerTensors};
use super::kernel::{Arrangement, Kernel};
use super::norm::{self, Fold};
use super::profile::{DenseLayout, KernelLayout, PROFILES, Profile};
use super::selection::Rest;
use super::template;
use super::tensor::TensorSource;
use super::topology::Topology;
use super::view::View;
use super::{Options, Variance};
use crate::error::{Error, Result};
use crate::network::describe::Description;
use crate::network::{Layer, Network, Op, Shape, Source};

/// The order in which a dense layer behind a convolution sees its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flatten {
    /// Channel, row, column, as PyTorch and Theano.
    ChannelsFirst,
    /// Row, column, channel, as TensorFlow.
    ChannelsLast,
}

/// One reading of the stored shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StoredLayout {
    dense: DenseLayout,
    kernel: KernelLayout,
}

impl StoredLayout {
    /// How what is stored becomes `[out, in]` or `[out, in, kh, kw]`.
    fn arrangement(self, layer: &LayerTensors) -> Result<Arrangement> {
        let stored = &layer.shape;
        let dense: &[usize] = match self.dense {
            DenseLayout::InOut if !layer.fixed => &[1, 0],
            _ => &[0, 1],
        };
        let arranged = match (layer.kernel, stored.len()) {
            (Kernel::AsStored, 2) => Arrangement::ordered(stored, dense),
            (Kernel::OverTokens, 2) => {
                let matrix = Arrangement::ordered(stored, dense);
                let shape = [&matrix.shape[..], &[1, 1]].concat();
                matrix.shaped(shape)
            }
            (Kernel::OverTime, _) => Arrangement::over_time(stored, self.kernel)?,
            (Kernel::Transposed { groups }, _) => {
                Arrangement::transposed(stored, groups, self.kernel)?
            }
            _ => match self.kernel {
                KernelLayout::Hwio if !layer.fixed => Arrangement::ordered(stored, &[3, 2, 0, 1]),
                _ => Arrangement::ordered(stored, &[0, 1, 2, 3]),
            },
        };
        arranged.dilated(layer.dilation)
    }

    fn describe(self, dense: bool, kernels: bool) -> String {
        let matrix = match self.dense {
            DenseLayout::OutIn => "oi",
            DenseLayout::InOut => "io",
        };
        let kernel = match self.kernel {
            KernelLayout::Oihw => "oihw",
            KernelLayout::Hwio => "hwio",
        };
        match (dense, kernels) {
            (true, true) => format!("{matrix},{kernel}"),
            (false, true) => kernel.into(),
            _ => matrix.into(),
        }
    }
}

/// The layout that fits, and whether there are layers of either kind.
#[derive(Clone, Copy)]
struct Settled {
    stored: StoredLayout,
    dense: bool,
    kernels: bool,
}

/// The tensors of a layer as `[out, in]` or `[out, in/groups, kh, kw]`.
pub(super) struct LayerViews {
    pub(super) shape: Vec<usize>,
    /// None for a normalization of its own: its weights are those that the fold makes of ones.
    pub(super) theta: Option<View>,
    pub(super) variance: Option<(Variance, View)>,
    pub(super) bias: Option<View>,
    pub(super) bias_variance: Option<(Variance, View)>,
    pub(super) mask: Option<View>,
    pub(super) bias_mask: Option<View>,
    pub(super) group: Option<(View, View)>,
    /// The batch normalization behind it.
    pub(super) fold: Option<Fold>,
}

/// Settles the layout, the network and with them how every tensor is read; gives notes as well.
pub(super) fn resolve(
    source: &dyn TensorSource,
    mut found: Found,
    topology: Option<Topology>,
    options: &Options,
) -> Result<(Vec<LayerViews>, Network, Vec<String>)> {
    let tensors = source.tensors();
    let mut topology = topology;
    let mut norms = Vec::new();
    if let Some(topology) = &mut topology {
        template::check_filled(&topology.description)?;
        topology.match_layers(&mut found)?;
        norms = norm::take_out(&mut topology.description, source, &mut found)?;
        found.untie(source, &mut topology.description);
    } else {
        found.strip_wrappers(&[]);
    }
    let description = topology.as_ref().map(|topology| &topology.description);
    let used: Vec<String> = match description {
        Some(description) => description.layer_names().into_iter().map(Into::into).collect(),
        None => found.assumed_layers(),
    };
    let used: Vec<&str> = used.iter().map(String::as_str).collect();
    let layers = found.select(&used, tensors, options.ignore_masks)?;
    if layers.is_empty() && !used.is_empty() {
        let names: Vec<&str> = found.layers.iter().map(|l| l.name.as_str()).collect();
        return Err(Error::network(format!(
            "none of its layers is in the checkpoint, which has {}",
            names.join(", ")
        )));
    }
    let (layout, fitted, network) = settle(source, &found, &layers, description, options)?;
    found.all_used(&used, source)?;

    let mut explained = vec![false; tensors.len()];
    layers.iter().flat_map(LayerTensors::all).for_each(|tensor| explained[tensor] = true);
    let maps = flattened(&network, &layers, layout, options)?;
    let mut folds = norm::read_all(&norms, source, &mut found, &network, &maps, &mut explained)?;
    if let Some(topology) = &topology {
        topology.fold_into(&mut folds, &network, &layers)?;
    }
    let rest = Rest {
        explained,
        assumed: topology.is_none(),
        ignore_norms: topology.as_ref().is_some_and(Topology::has_norms),
    };
    found.note_rest(tensors, &rest)?;
    let mut notes = std::mem::take(&mut found.notes);
    notes.push(provenance(source, &found, options, layout));
    if topology.is_none() {
        notes.push(format!(
            "no network description: assumed {} with relu between, input taken as it is",
            fitted.layer_names().join(" -> ")
        ));
    }
    let mut views = Vec::with_capacity(layers.len());
    let named = layers.iter().zip(&network.layers);
    for (((layer, wanted), map), fold) in named.zip(maps).zip(folds) {
        if let Some(map) = map {
            notes.push(format!(
                "layer {}: its inputs are taken as row, column, channel of a {map} map (--flatten \
                 channels-first for the other order)",
                layer.name
            ));
        }
        let views_of = LayerViews::new(source, layer, layout.stored, &wanted.shape, map)?;
        if views_of.weights() < wanted.shape.iter().product() {
            notes.push(format!(
                "layer {}: its kernels are dilated, [{}, {}] with the zeros between their values, which count \
                 as pruned weights",
                layer.name, wanted.shape[2], wanted.shape[3]
            ));
        }
        views.push(LayerViews { fold, ..views_of });
    }
    Ok((views, network, notes))
}

/// The one layout that fits, and the network under it.
fn settle(
    source: &dyn TensorSource,
    found: &Found,
    layers: &[LayerTensors],
    description: Option<&Description>,
    options: &Options,
) -> Result<(Settled, Description, Network)> {
    let (dense, kernels) = (
        layers.iter().any(|l| l.shape.len() == 2),
        // What no layout turns says nothing of it.
        layers.iter().any(|l| l.shape.len() > 2 && !l.fixed),
    );
    let mut first_error = None;
    let mut fitting: Vec<(StoredLayout, Description, Network)> = Vec::new();
    for layout in candidates(found, options, dense, kernels) {
        match fit(layers, layout, description, source) {
            Ok((description, network)) => fitting.push((layout, description, network)),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    match (fitting.pop(), fitting.is_empty()) {
        (Some((stored, description, network)), true) => {
            Ok((Settled { stored, dense, kernels }, description, network))
        }
        (Some((last, ..)), false) => {
            let mut names: Vec<String> =
                fitting.iter().map(|(l, ..)| l.describe(dense, kernels)).collect();
            names.push(last.describe(dense, kernels));
            Err(Error::Argument {
                problem: format!(
                    "the shapes fit more than one layout: say which with --layout {} (or with \
                     --profile)",
                    names.join(" or --layout ")
                ),
            })
        }
        (None, _) => Err(first_error.unwrap_or(Error::network("there are no layers"))),
    }
}

/// The layouts that flags, names and container leave open.
fn candidates(found: &Found, options: &Options, dense: bool, kernels: bool) -> Vec<StoredLayout> {
    let mut layouts: Vec<StoredLayout> = Vec::new();
    for &(dense_layout, kernel_layout) in &found.layouts {
        let layout = StoredLayout {
            dense: options.dense.unwrap_or(dense_layout),
            kernel: options.kernel.unwrap_or(kernel_layout),
        };
        let same = |l: &&StoredLayout| {
            (!dense || l.dense == layout.dense) && (!kernels || l.kernel == layout.kernel)
        };
        if layouts.iter().find(same).is_none() {
            layouts.push(layout);
        }
    }
    layouts
}

/// The network under a layout, if everything fits.
fn fit(
    layers: &[LayerTensors],
    layout: StoredLayout,
    description: Option<&Description>,
    source: &dyn TensorSource,
) -> Result<(Description, Network)> {
    let shape = |l: &LayerTensors| {
        Ok(Layer {
            name: l.name.clone(),
            shape: layout.arrangement(l).map_err(|e| e.in_tensor(&l.name))?.shape,
        })
    };
    let shapes: Vec<Layer> = layers.iter().map(shape).collect::<Result<_>>()?;
    for (layer, shape) in layers.iter().zip(&shapes) {
        layer.check_bias(shape.rows(), source.tensors())?;
    }
    let description = match description {
        Some(description) => description.clone(),
        None => template::chain(&shapes, source.format())?,
    };
    let network = description.resolve(shapes)?;
    Ok((description, network))
}

/// What the file was taken for, and why.
fn provenance(
    source: &dyn TensorSource,
    found: &Found,
    options: &Options,
    layout: Settled,
) -> String {
    let Settled { stored, dense, kernels } = layout;
    let fits = |p: &&&Profile| {
        (!dense || p.dense == stored.dense) && (!kernels || p.kernel == stored.kernel)
    };
    let mut profiles: Vec<&Profile> = match options.profile {
        Some(profile) => vec![profile],
        None => found.profiles.iter().filter(fits).copied().collect(),
    };
    // The general profile explains nothing where another fits as well.
    if profiles.len() > 1 {
        profiles.retain(|p| p.name != PROFILES[0].name);
    }
    let names: Vec<&str> = profiles.iter().map(|p| p.name).collect();
    let which = match (options.profile, &names[..]) {
        (Some(profile), _) => format!("profile {} (as asked for)", profile.name),
        (None, []) if !found.has_posterior() => "a network without variances".to_owned(),
        (None, []) => "no known code base".to_owned(),
        (None, [name]) => format!("profile {name} (by the names of its tensors)"),
        (None, names) => format!("profile {} (which name their tensors alike)", names.join(" or ")),
    };
    let layout = stored.describe(dense, kernels);
    let mut text = format!("{}, {which}, layout {layout}", source.format());
    let mut thresholds: Vec<f32> = profiles.iter().filter_map(|p| p.threshold).collect();
    thresholds.dedup();
    if !profiles.is_empty() && profiles.iter().all(|p| p.is_gaussian()) {
        text.push_str(
            "; a posterior under a Gaussian prior, pruned by log alpha, which is -2 log of its signal \
             to noise |mean| / sigma: a threshold of 3 keeps what is above 0.22",
        );
    }
    if let [threshold] = thresholds[..]
        && threshold != 3.0
    {
        text.push_str(&format!("; its authors prune at {threshold}"));
    }
    text
}

/// For each layer, the map that a flatten turns into its input, if any, and whose channels come last
/// there.
fn flattened(
    network: &Network,
    layers: &[LayerTensors],
    layout: Settled,
    options: &Options,
) -> Result<Vec<Option<Shape>>> {
    let mut maps = vec![None; network.layers.len()];
    let flatten = options.flatten.unwrap_or(match layout.stored.kernel {
        KernelLayout::Hwio if layout.kernels => Flatten::ChannelsLast,
        _ => Flatten::ChannelsFirst,
    });
    if flatten == Flatten::ChannelsFirst {
        return Ok(maps);
    }
    let shapes = network.shapes()?;
    let shape_of = |source: Source| match source {
        Source::Input => network.input.shape,
        Source::Node(node) => shapes[node],
    };
    for node in &network.nodes {
        let layer = match node.op {
            Op::Linear { layer } => layer,
            Op::Conv2d { layer, .. } if layers[layer].norm => layer,
            _ => continue,
        };
        let mut source = node.inputs[0];
        while let Source::Node(before) = source {
            let inputs = &network.nodes[before].inputs;
            match network.nodes[before].op {
                Op::Activation(_) => source = inputs[0],
                Op::Conv2d { layer, .. } if layers[layer].norm => source = inputs[0],
                Op::Flatten => {
                    let map = shape_of(inputs[0]);
                    if map.area() > 1 && map.channels > 1 {
                        maps[layer] = Some(map);
                    }
                    break;
                }
                _ => break,
            }
        }
    }
    Ok(maps)
}

impl LayerViews {
    /// The weights that are stored.
    pub(super) fn weights(&self) -> usize {
        self.theta.as_ref().map_or_else(|| self.shape.iter().product(), View::elements)
    }

    fn of_norm(shape: &[usize]) -> Self {
        Self {
            shape: shape.into(),
            theta: None,
            variance: None,
            bias: None,
            bias_variance: None,
            mask: None,
            bias_mask: None,
            group: None,
            fold: None,
        }
    }

    fn new(
        source: &dyn TensorSource,
        layer: &LayerTensors,
        layout: StoredLayout,
        shape: &[usize],
        map: Option<Shape>,
    ) -> Result<Self> {
        if layer.norm {
            return Ok(Self::of_norm(shape));
        }
        let stored = &source.tensors()[layer.theta].shape;
        let Arrangement { dims, order, spread, .. } = layout.arrangement(layer)?;
        let oriented = |view: View| {
            let view = view.permuted(&order);
            let view = match map {
                Some(Shape { channels, height, width }) => {
                    view.with_last_split(&[height, width, channels]).permuted(&[0, 3, 1, 2])
                }
                // A matrix that a convolution of 1 x 1 has.
                None if view.dims.len() < shape.len() => {
                    view.with_dims_of_one(shape).unwrap_or(view)
                }
                None => view,
            };
            view.spread(spread)
        };
        let whole = |tensor: usize| {
            let misfit = || Error::Tensor {
                tensor: source.tensors()[tensor].name.clone(),
                problem: format!(
                    "shape {:?} does not fit the weights' {stored:?}",
                    source.tensors()[tensor].shape
                ),
            };
            let view = View::of(source, tensor).repeated(stored);
            view.and_then(|view| view.reshaped(&dims)).ok_or_else(misfit)
        };
        let theta = whole(layer.theta)?;
        let variance = match layer.variance {
            Some((kind, tensor)) => Some((kind, oriented(whole(tensor)?))),
            None => None,
        };
        let mask = layer.mask.map(&whole).transpose()?.map(&oriented);
        let vector = |tensor: Option<usize>| {
            tensor.and_then(|tensor| View::of(source, tensor).with_dims_of_one(&[shape[0]]))
        };
        // A factor for each input of a dense layer, each output of a convolution.
        let factor = |tensor: usize| {
            let axis = match layer.shape.len() {
                2 => order[1],
                _ => order[0],
            };
            let mut dims = vec![1; stored.len()];
            dims[axis] = stored[axis];
            let view = View::of(source, tensor).with_dims_of_one(&dims);
            let misfit = || Error::Tensor {
                tensor: source.tensors()[tensor].name.clone(),
                problem: format!(
                    "shape {:?}, expected [{}]: one factor for each input of a dense layer, each \
                     output of a convolution",
                    source.tensors()[tensor].shape,
                    stored[axis]
                ),
            };
            view.and_then(|v| v.repeated(stored)).map(&oriented).ok_or_else(misfit)
        };
        let group = match layer.group {
            Some((mean, variance)) => Some((factor(mean)?, factor(variance)?)),
            None => None,
        };
        Ok(Self {
            shape: shape.into(),
            theta: Some(oriented(theta)),
            variance,
            bias: vector(layer.bias),
            bias_variance: layer
                .bias_variance
                .and_then(|(kind, tensor)| Some((kind, vector(Some(tensor))?))),
            mask,
            bias_mask: vector(layer.bias_mask),
            group,
            fold: None,
        })
    }
}
