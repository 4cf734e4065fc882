//! Which index of a stored tensor is which: found by what fits, never guessed.

use super::conventions::{Found, LayerTensors};
use super::norm::{self, Fold};
use super::profile::{Dense, Kernel, PROFILES, Profile};
use super::tensor::TensorSource;
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
struct Layout {
    dense: Dense,
    kernel: Kernel,
}

impl Layout {
    /// The order of the stored dimensions that makes them `[out, in]` or `[out, in, kh, kw]`.
    fn order(self, layer: &LayerTensors) -> &'static [usize] {
        match (layer.shape.len(), self.dense, self.kernel) {
            (2, Dense::OutIn, _) => &[0, 1],
            (2, ..) if layer.fixed => &[0, 1],
            (2, Dense::InOut, _) => &[1, 0],
            (_, _, Kernel::Oihw) => &[0, 1, 2, 3],
            (_, _, Kernel::Hwio) => &[3, 2, 0, 1],
        }
    }

    fn shape(self, layer: &LayerTensors) -> Vec<usize> {
        self.order(layer).iter().map(|&i| layer.shape[i]).collect()
    }

    fn describe(self, dense: bool, kernels: bool) -> String {
        let matrix = match self.dense {
            Dense::OutIn => "oi",
            Dense::InOut => "io",
        };
        let kernel = match self.kernel {
            Kernel::Oihw => "oihw",
            Kernel::Hwio => "hwio",
        };
        match (dense, kernels) {
            (true, true) => format!("{matrix},{kernel}"),
            (false, true) => kernel.into(),
            _ => matrix.into(),
        }
    }
}

/// The tensors of a layer as `[out, in]` or `[out, in/groups, kh, kw]`.
pub(super) struct LayerViews {
    pub(super) shape: Vec<usize>,
    pub(super) theta: View,
    pub(super) variance: Option<(Variance, View)>,
    pub(super) bias: Option<View>,
    pub(super) mask: Option<View>,
    pub(super) group: Option<(View, View)>,
    /// The batch normalization behind it.
    pub(super) fold: Option<Fold>,
}

/// Settles the layout, the network and with them how every tensor is read.
pub(super) fn resolve(
    source: &dyn TensorSource,
    found: &mut Found,
    mut description: Option<Description>,
    options: &Options,
) -> Result<(Vec<LayerViews>, Network, Vec<String>)> {
    let norms = match &mut description {
        Some(description) => norm::take_out(description)?,
        None => Vec::new(),
    };
    if let Some(description) = &mut description {
        found.strip_wrappers(&description.layer_names());
        untie(source, found, description);
    }
    let used: Vec<String> = match &description {
        Some(description) => description.layer_names().into_iter().map(Into::into).collect(),
        None => {
            found.strip_wrappers(&[]);
            let posterior = found.layers.iter().filter(|l| l.variance.is_some());
            posterior.map(|l| l.name.clone()).collect()
        }
    };
    let used: Vec<&str> = used.iter().map(String::as_str).collect();
    let (tensors, described) = (source.tensors(), description.is_some());
    let mut layers = found.select(&used, tensors)?;
    if layers.is_empty() && !used.is_empty() {
        let names: Vec<&str> = found.layers.iter().map(|l| l.name.as_str()).collect();
        return Err(Error::network(format!(
            "none of its layers is in the checkpoint, which has {}",
            names.join(", ")
        )));
    }
    let has = |rank: usize| layers.iter().any(|l| l.shape.len() == rank);
    let (dense, kernels) = (has(2), has(4));

    let mut first_error = None;
    let mut fitting: Vec<(Layout, Description, Network)> = Vec::new();
    for layout in candidates(found, options, dense, kernels) {
        match fit(&layers, layout, description.as_ref(), source) {
            Ok((description, network)) => fitting.push((layout, description, network)),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    let (layout, description, network) = match (fitting.pop(), fitting.is_empty()) {
        (Some(one), true) => one,
        (Some((last, ..)), false) => {
            let mut names: Vec<String> =
                fitting.iter().map(|(l, ..)| l.describe(dense, kernels)).collect();
            names.push(last.describe(dense, kernels));
            return Err(Error::Argument {
                problem: format!(
                    "the shapes fit more than one layout: say which with --layout {} (or with \
                     --profile)",
                    names.join(" or --layout ")
                ),
            });
        }
        (None, _) => return Err(first_error.unwrap_or(Error::network("there are no layers"))),
    };

    found.all_used(&used, source)?;
    let mut folds: Vec<Option<Fold>> = network.layers.iter().map(|_| None).collect();
    for norm in &norms {
        for (layer, fold) in network.layers.iter().zip(&mut folds) {
            if layer.name == norm.layer {
                *fold = Some(norm.read(source, found, layer.rows())?);
            }
        }
    }
    found.note_rest(source.tensors())?;
    let mut notes = std::mem::take(&mut found.notes);
    notes.push(evidence(source, found, options, layout, [dense, kernels]));
    if !described {
        notes.push(format!(
            "no network description: assumed {} with relu between, input taken as it is",
            description.layer_names().join(" -> ")
        ));
    }
    // The network's layers are in the order of the description.
    layers = network
        .layers
        .iter()
        .filter_map(|wanted| layers.iter().find(|l| l.name == wanted.name).cloned())
        .collect();
    let flatten = options.flatten.unwrap_or(match layout.kernel {
        Kernel::Hwio if kernels => Flatten::ChannelsLast,
        _ => Flatten::ChannelsFirst,
    });
    let maps = match flatten {
        Flatten::ChannelsFirst => vec![None; layers.len()],
        Flatten::ChannelsLast => flattened_maps(&network)?,
    };
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
        let views_of = LayerViews::new(source, layer, layout, &wanted.shape, map)?;
        views.push(LayerViews { fold, ..views_of });
    }
    Ok((views, network, notes))
}

/// Calls layers that are one tensor under two names by the first of them, so that it is loaded once.
fn untie(source: &dyn TensorSource, found: &Found, description: &mut Description) {
    let mut used: Vec<&LayerTensors> = Vec::new();
    for node in &mut description.nodes {
        let Some(name) = &mut node.layer else { continue };
        let Some(layer) = found.layers.iter().find(|l| l.name == *name) else { continue };
        let tied = |first: &&&LayerTensors| {
            first.name != layer.name && first.bias == layer.bias && first.is_tied(layer, source)
        };
        match used.iter().find(tied) {
            Some(first) => name.clone_from(&first.name),
            None => used.push(layer),
        }
    }
}

/// The layouts that the flags and profiles leave open.
fn candidates(found: &Found, options: &Options, dense: bool, kernels: bool) -> Vec<Layout> {
    let mut layouts: Vec<Layout> = Vec::new();
    let mut possible: Vec<(Dense, Kernel)> =
        found.profiles.iter().map(|p| (p.dense, p.kernel)).collect();
    // Names that say nothing: any framework may have written them.
    let general = found.profiles.iter().any(|p| p.name == PROFILES[0].name);
    if general && options.profile.is_none() && !found.is_own {
        possible.extend([(Dense::InOut, Kernel::Oihw), (Dense::InOut, Kernel::Hwio)]);
    }
    for (dense_layout, kernel_layout) in possible {
        let layout = Layout {
            dense: options.dense.unwrap_or(dense_layout),
            kernel: options.kernel.unwrap_or(kernel_layout),
        };
        let same = |l: &&Layout| {
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
    layout: Layout,
    description: Option<&Description>,
    source: &dyn TensorSource,
) -> Result<(Description, Network)> {
    let shapes: Vec<Layer> =
        layers.iter().map(|l| Layer { name: l.name.clone(), shape: layout.shape(l) }).collect();
    for (layer, shape) in layers.iter().zip(&shapes) {
        layer.check_bias(shape.rows(), source.tensors())?;
    }
    let description = match description {
        Some(description) => description.clone(),
        None => Description::linear_chain(&shapes).ok_or_else(|| {
            let shapes: Vec<String> =
                shapes.iter().map(|l| format!("{} {:?}", l.name, l.shape)).collect();
            Error::network(format!(
                "the checkpoint carries no description and its layers ({}) are not a plain chain \
                 of linear layers: describe them with --network FILE",
                shapes.join(", ")
            ))
        })?,
    };
    let network = description.resolve(shapes)?;
    Ok((description, network))
}

/// What the file was taken for, and why.
fn evidence(
    source: &dyn TensorSource,
    found: &Found,
    options: &Options,
    layout: Layout,
    kinds: [bool; 2],
) -> String {
    let [dense, kernels] = kinds;
    let fits = |p: &&&Profile| {
        (!dense || p.dense == layout.dense) && (!kernels || p.kernel == layout.kernel)
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
        (None, []) => "no known code base".to_owned(),
        (None, [name]) => format!("profile {name} (by the names of its tensors)"),
        (None, names) => format!("profile {} (which name their tensors alike)", names.join(" or ")),
    };
    let layout = layout.describe(dense, kernels);
    let mut text = format!("{}, {which}, layout {layout}", source.format());
    let mut thresholds: Vec<f32> = profiles.iter().filter_map(|p| p.threshold).collect();
    thresholds.dedup();
    if let [threshold] = thresholds[..]
        && threshold != 3.0
    {
        text.push_str(&format!("; its authors prune at {threshold}"));
    }
    text
}

/// For each layer, the map that a flatten turns into its input, if any.
fn flattened_maps(network: &Network) -> Result<Vec<Option<Shape>>> {
    let shapes = network.shapes()?;
    let shape_of = |source: Source| match source {
        Source::Input => network.input.shape,
        Source::Node(node) => shapes[node],
    };
    let mut maps = vec![None; network.layers.len()];
    for node in &network.nodes {
        let Op::Linear { layer } = node.op else { continue };
        let mut source = node.inputs[0];
        while let Source::Node(before) = source {
            let inputs = &network.nodes[before].inputs;
            match network.nodes[before].op {
                Op::Activation(_) => source = inputs[0],
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
    fn new(
        source: &dyn TensorSource,
        layer: &LayerTensors,
        layout: Layout,
        shape: &[usize],
        map: Option<Shape>,
    ) -> Result<Self> {
        let stored = &source.tensors()[layer.theta].shape;
        let oriented = |view: View| {
            let view = view.permuted(layout.order(layer));
            match map {
                Some(Shape { channels, height, width }) => {
                    view.with_last_split(&[height, width, channels]).permuted(&[0, 3, 1, 2])
                }
                None => view,
            }
        };
        let whole = |tensor: usize| {
            let misfit = || Error::Tensor {
                tensor: source.tensors()[tensor].name.clone(),
                problem: format!(
                    "shape {:?} does not fit the weights' {stored:?}",
                    source.tensors()[tensor].shape
                ),
            };
            View::of(source, tensor).repeated(stored).ok_or_else(misfit)
        };
        let theta = whole(layer.theta)?;
        let variance = match layer.variance {
            Some((kind, tensor)) => Some((kind, oriented(whole(tensor)?))),
            None => None,
        };
        let mask = layer.mask.map(&whole).transpose()?.map(&oriented);
        let bias = match layer.bias {
            Some(bias) => View::of(source, bias).with_dims_of_one(&[shape[0]]),
            None => None,
        };
        // A factor for each input of a dense layer, each output of a convolution.
        let factor = |tensor: usize| {
            let axis = match shape.len() {
                2 => layout.order(layer)[1],
                _ => layout.order(layer)[0],
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
            theta: oriented(theta),
            variance,
            bias,
            mask,
            group,
            fold: None,
        })
    }
}
