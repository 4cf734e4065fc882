//! Batch normalization, folded into the layer before it or a layer of its own.
//!
//! At inference it is `s x + beta - s mean` with `s = gamma / sqrt(var + eps)` for each channel, so
//! behind a layer theta becomes `s theta`, sigma^2 becomes `s^2 sigma^2` and the bias
//! `s bias + beta - s mean`. log alpha does not change (up to the rounding to f32), and neither does
//! what is pruned. Elsewhere it is a depthwise convolution of 1 x 1 whose weights are `s` and whose
//! bias is `beta - s mean`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::conventions::{Found, LayerTensors};
use super::endings::Endings;
use super::evidence::log_of;
use super::names::split;
use super::tensor::TensorSource;
use super::view::View;
use super::{Block, Variance};
use crate::error::{Error, Result};
use crate::network::describe::{Description, NodeDescription};
use crate::network::{Network, Shape};

/// Names of gamma, beta, mean, variance and its inverse root.
const ROLES: [&[&str]; 5] = [
    &["weight", "gamma", "scale"],
    &["bias", "beta"],
    &["running_mean", "moving_mean"],
    &["running_var", "moving_variance"],
    &["inv_std"],
];

/// A batch normalization of a description.
#[derive(Debug)]
pub(super) struct Norm {
    /// Prefix of its tensors.
    name: String,
    /// Its number among the nodes.
    at: usize,
    place: Place,
    eps: Option<f64>,
}

/// What becomes of a batch normalization.
#[derive(Debug)]
enum Place {
    /// It is folded into the layer before it, whose node has this number.
    Behind { layer: String, node: usize },
    /// It is a layer of its own.
    Own,
}

impl Norm {
    /// The layer that takes it in, or that it is.
    fn layer(&self) -> &str {
        match &self.place {
            Place::Behind { layer, .. } => layer,
            Place::Own => &self.name,
        }
    }
}

/// What is done to each row of a layer.
#[derive(Debug, Clone)]
pub(super) struct Fold {
    scale: Vec<f64>,
    shift: Vec<f64>,
    /// Where they come from, if from statistics that can be measured again.
    pub(super) normalization: Option<Normalization>,
}

impl From<crate::onnx::Fold> for Fold {
    fn from(fold: crate::onnx::Fold) -> Self {
        Self { scale: fold.factor, shift: fold.offset, normalization: None }
    }
}

/// A batch normalization that was folded into a layer, one number for each of the layer's rows: what is
/// needed to fold it anew with other statistics.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Normalization {
    pub gamma: Vec<f64>,
    pub beta: Vec<f64>,
    pub eps: f64,
    /// By what the rows were multiplied: gamma / sqrt(variance + eps).
    pub scale: Vec<f64>,
}

/// Takes the batch normalizations out of a description; those that cannot be folded become layers of
/// their own among those found.
///
/// # Errors
/// [`Error::Network`] for one without tensors or with several inputs.
pub(super) fn take_out(
    description: &mut Description,
    source: &dyn TensorSource,
    found: &mut Found,
) -> Result<Vec<Norm>> {
    if description.nodes.iter().all(|node| node.op != "batch_norm") {
        return Ok(Vec::new());
    }
    let uses = Uses::of(&description.nodes);
    let mut norms: Vec<Norm> = Vec::new();
    for (at, node) in description.nodes.iter().enumerate().filter(|(_, n)| n.op == "batch_norm") {
        let norm = uses.norm(&description.nodes, at, node);
        norms.push(
            norm.map_err(|problem| Error::network(format!("nodes[{at}]: batch_norm {problem}")))?,
        );
    }
    // Who read a folded normalization's output now reads the layer's, under a name if it has to.
    let mut nodes = std::mem::take(&mut description.nodes);
    let mut names = vec![None; nodes.len()];
    for norm in &norms {
        let Place::Behind { node: behind, .. } = norm.place else { continue };
        let given = nodes[norm.at].name.take();
        if given.is_some() || norm.at != behind + 1 {
            let given = given.unwrap_or_else(|| format!("folded{}", norm.at));
            nodes[behind].name = Some(given.clone());
            names[norm.at] = Some(given);
        }
    }
    own_layers(&norms, &mut nodes, source, found)?;
    for (at, mut node) in nodes.into_iter().enumerate().filter(|(_, n)| n.op != "batch_norm") {
        if let (None, Some(Some(given))) = (&node.inputs, at.checked_sub(1).map(|at| &names[at])) {
            node.inputs = Some(vec![given.clone()]);
        }
        description.nodes.push(node);
    }
    Ok(norms)
}

/// Makes nodes of depthwise convolutions of the normalizations that are layers of their own.
fn own_layers(
    norms: &[Norm],
    nodes: &mut [NodeDescription],
    source: &dyn TensorSource,
    found: &mut Found,
) -> Result<()> {
    let mut layers: Vec<LayerTensors> = Vec::new();
    let prefixes = prefixes(&found.names);
    let mut eps_of = HashMap::new();
    for norm in norms.iter().filter(|norm| matches!(norm.place, Place::Own)) {
        let reader = NormReader { norm, source, rows: 0, map: None };
        if *eps_of.entry(&norm.name).or_insert(norm.eps) != norm.eps {
            return Err(reader.problem("it is used with two values of eps: name its tensors twice"));
        }
        let tensors = reader.tensors(&prefixes, &found.names)?;
        let mean = reader.role(&tensors, ROLES[2]).ok_or_else(|| reader.no_mean())?;
        let channels = source.tensors()[mean].shape.iter().product();
        nodes[norm.at] = NodeDescription {
            op: "conv2d".into(),
            layer: Some(norm.name.clone()),
            groups: Some(channels),
            name: nodes[norm.at].name.take(),
            inputs: nodes[norm.at].inputs.take(),
            ..Default::default()
        };
        layers.push(LayerTensors::of_norm(norm.name.clone(), channels));
    }
    drop(prefixes);
    layers.into_iter().for_each(|layer| found.replace(layer));
    Ok(())
}

/// Who reads what in a description.
struct Uses<'a> {
    /// The first node of each name.
    named: HashMap<&'a str, usize>,
    /// How many nodes read each node.
    readers: Vec<usize>,
    /// How many nodes use each layer.
    layers: HashMap<&'a str, usize>,
}

impl<'a> Uses<'a> {
    fn of(nodes: &'a [NodeDescription]) -> Self {
        let (mut named, mut layers) = (HashMap::new(), HashMap::new());
        let mut readers = vec![0; nodes.len()];
        for (at, node) in nodes.iter().enumerate() {
            let before = at.checked_sub(1);
            let sources: BTreeSet<usize> = match &node.inputs {
                None => before.into_iter().collect(),
                Some(names) => {
                    names.iter().filter_map(|n| named.get(n.as_str()).copied()).collect()
                }
            };
            sources.into_iter().for_each(|source| readers[source] += 1);
            if let Some(name) = &node.name {
                named.entry(name.as_str()).or_insert(at);
            }
            if let Some(layer) = &node.layer {
                *layers.entry(layer.as_str()).or_insert(0) += 1;
            }
        }
        Self { named, readers, layers }
    }

    /// A normalization and what becomes of it.
    fn norm(
        &self,
        nodes: &[NodeDescription],
        at: usize,
        node: &NodeDescription,
    ) -> std::result::Result<Norm, &'static str> {
        let name = node.layer.clone().ok_or("needs a \"layer\": the prefix of its tensors")?;
        let behind = match node.inputs.as_deref() {
            None => at.checked_sub(1),
            Some([input]) => self.named.get(input.as_str()).copied().filter(|from| *from < at),
            Some(_) => return Err("takes one input"),
        };
        let layer = behind.and_then(|behind| match nodes[behind].op.as_str() {
            "linear" | "conv2d" => Some((behind, nodes[behind].layer.clone()?)),
            _ => None,
        });
        let once = |layer: &str| self.layers.get(layer) == Some(&1);
        let place = match layer {
            Some((node, layer)) if self.readers[node] == 1 && once(&layer) => {
                Place::Behind { layer, node }
            }
            _ => Place::Own,
        };
        Ok(Norm { name, at, place, eps: node.eps })
    }
}

/// The tensors by the prefixes of their names.
fn prefixes(names: &[String]) -> Endings<Vec<usize>> {
    let mut prefixes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (tensor, name) in names.iter().enumerate() {
        prefixes.entry(split(name).0).or_default().push(tensor);
    }
    Endings::new(prefixes)
}

/// Reads the tensors of normalizations, for the layers into which they are folded or that they are;
/// marks the tensors as explained. `maps` has, for each layer, the map whose channels come last in
/// what the layer is stored for.
pub(super) fn read_all(
    norms: &[Norm],
    source: &dyn TensorSource,
    found: &mut Found,
    network: &Network,
    maps: &[Option<Shape>],
    explained: &mut [bool],
) -> Result<Vec<Option<Fold>>> {
    let mut folds: Vec<Option<Fold>> = network.layers.iter().map(|_| None).collect();
    if norms.is_empty() {
        return Ok(folds);
    }
    let prefixes = prefixes(&found.names);
    let numbers: HashMap<&str, usize> =
        network.layers.iter().enumerate().map(|(at, layer)| (layer.name.as_str(), at)).collect();
    let mut notes = Vec::new();
    for norm in norms {
        let Some(&layer) = numbers.get(norm.layer()) else { continue };
        let map = maps[layer].filter(|_| matches!(norm.place, Place::Own));
        let reader = NormReader { norm, source, rows: network.layers[layer].rows(), map };
        let tensors = reader.tensors(&prefixes, &found.names)?;
        folds[layer] = Some(reader.fold(&tensors)?);
        tensors.values().for_each(|&tensor| explained[tensor] = true);
        notes.push(match &norm.place {
            Place::Behind { layer, .. } => {
                format!("batch normalization {} is folded into {layer}", norm.name)
            }
            Place::Own => format!(
                "batch normalization {} is a layer of its own, a depthwise convolution: no layer \
                 that it alone follows stands before it",
                norm.name
            ),
        });
    }
    found.notes.extend(notes);
    Ok(folds)
}

/// Reads one normalization of `rows` channels.
struct NormReader<'a> {
    norm: &'a Norm,
    source: &'a dyn TensorSource,
    rows: usize,
    /// The map, flattened with its channels last, whose elements the stored channels are.
    map: Option<Shape>,
}

impl NormReader<'_> {
    fn problem(&self, text: impl std::fmt::Display) -> Error {
        let name = &self.norm.name;
        Error::network(match &self.norm.place {
            Place::Behind { layer, .. } => {
                format!("batch_norm {name:?} of layer {layer:?}: {text}")
            }
            Place::Own => format!("batch_norm {name:?}: {text}"),
        })
    }

    fn no_mean(&self) -> Error {
        self.problem("no running_mean or moving_mean is there")
    }

    /// The tensor of one of the roles.
    fn role(&self, tensors: &BTreeMap<&str, usize>, roles: &[&str]) -> Option<usize> {
        roles.iter().find_map(|role| tensors.get(role)).copied()
    }

    /// Its tensors by their roles: those under its name, or under the only one that ends so.
    fn tensors<'a>(
        &self,
        prefixes: &Endings<Vec<usize>>,
        names: &'a [String],
    ) -> Result<BTreeMap<&'a str, usize>> {
        let name = &self.norm.name;
        let roles = |tensors: &Vec<usize>| -> BTreeMap<&'a str, usize> {
            let tensors = tensors.iter().map(|&tensor| (split(&names[tensor]).1, tensor));
            tensors.filter(|(role, _)| ROLES.iter().any(|of| of.contains(role))).collect()
        };
        if let Some(tensors) = prefixes.get(name) {
            return Ok(roles(tensors));
        }
        let others = prefixes.longer(name).chain(prefixes.shorter(name));
        let mut others = others.map(roles).filter(|roles| !roles.is_empty());
        match (others.next(), others.next()) {
            (Some(roles), None) => Ok(roles),
            (None, _) => Ok(BTreeMap::new()),
            (Some(_), Some(_)) => {
                Err(self.problem(format!("several prefixes end as {name}: give the whole one")))
            }
        }
    }

    /// One number for each channel, if there is a tensor of one of the roles.
    fn vector(&self, tensors: &BTreeMap<&str, usize>, roles: &[&str]) -> Result<Option<Vec<f64>>> {
        let Some(tensor) = self.role(tensors, roles) else { return Ok(None) };
        let info = &self.source.tensors()[tensor];
        let view = View::of(self.source, tensor).with_dims_of_one(&[self.rows]);
        let Some(view) = view.filter(|_| info.dtype.is_float()) else {
            return Err(self.problem(format!(
                "tensor {} is {} {:?}, expected {} numbers",
                info.name, info.dtype, info.shape, self.rows
            )));
        };
        let mut values = vec![0.0; self.rows];
        view.read(self.source, 0, &mut values)?;
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(Some(values.into_iter().map(f64::from).collect())),
            false => Err(self.problem(format!("tensor {} is not finite", info.name))),
        }
    }

    fn fold(&self, tensors: &BTreeMap<&str, usize>) -> Result<Fold> {
        let [gamma, beta, mean, variance, inverse] = ROLES;
        let gamma = self.vector(tensors, gamma)?;
        let beta = self.vector(tensors, beta)?;
        let mean = self.vector(tensors, mean)?;
        let variance = self.vector(tensors, variance)?;
        let inverse = self.vector(tensors, inverse)?;
        let mean = mean.ok_or_else(|| self.no_mean())?;
        // Of inverse roots it is not known what was in them.
        let mut known_eps = self.norm.eps.unwrap_or(0.0);
        // Factors and offsets of a network's own, in the form of a normalization.
        let mut is_measured = true;
        let mut scale = match (inverse, variance) {
            (Some(inverse), _) => inverse,
            (None, None) => {
                return Err(self.problem("no running_var, moving_variance or inv_std is there"));
            }
            (None, Some(variance)) => {
                // PyTorch has one default; Keras and TensorFlow have several.
                let default = self.source.format().starts_with("PyTorch").then_some(1e-5);
                let eps = self.norm.eps.or(default).ok_or_else(|| {
                    self.problem("say its \"eps\" in the description (Keras: 0.001 unless set)")
                })?;
                if variance.iter().any(|v| v + eps <= 0.0) {
                    return Err(self.problem(format!("a variance is not above -{eps}")));
                }
                known_eps = eps;
                let all = |values: &[f64], number: f64| values.iter().all(|&v| v == number);
                is_measured = eps != 0.0 || !all(&mean, 0.0) || !all(&variance, 1.0);
                variance.iter().map(|v| 1.0 / (v + eps).sqrt()).collect::<Vec<_>>()
            }
        };
        let gamma = gamma.unwrap_or_else(|| vec![1.0; self.rows]);
        scale.iter_mut().zip(&gamma).for_each(|(scale, gamma)| *scale *= gamma);
        let beta = beta.unwrap_or_else(|| vec![0.0; self.rows]);
        let shift = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        let eps = known_eps;
        let normalization =
            is_measured.then(|| Normalization { gamma, beta, eps, scale: scale.clone() });
        let fold = Fold { scale, shift, normalization };
        Ok(self.map.map_or(fold.clone(), |map| fold.channels_first(map)))
    }
}

impl Fold {
    /// For the elements of a flattened map with channels first, where it is for them with channels
    /// last.
    fn channels_first(&self, map: Shape) -> Self {
        let Shape { channels, height, width } = map;
        let area = height * width;
        let of = |values: &[f64]| {
            let place = |at: usize| values[at % area * channels + at / area];
            (0..values.len()).map(place).collect()
        };
        let normalization = self.normalization.as_ref().map(|n| Normalization {
            gamma: of(&n.gamma),
            beta: of(&n.beta),
            eps: n.eps,
            scale: of(&n.scale),
        });
        Self { scale: of(&self.scale), shift: of(&self.shift), normalization }
    }

    /// Folds it into weights from `start` on, of rows of `columns`.
    pub(super) fn weights(
        &self,
        block: &mut Block,
        kind: Option<Variance>,
        start: usize,
        columns: usize,
    ) {
        for (i, theta) in block.theta.iter_mut().enumerate() {
            *theta = (f64::from(*theta) * self.scale[(start + i) / columns]) as f32;
        }
        let Some(kind) = kind else { return };
        let log_scale: Vec<f32> = self.scale.iter().map(|&s| log_of(s as f32)).collect();
        for (i, stored) in block.variance.iter_mut().enumerate() {
            let row = (start + i) / columns;
            match kind {
                Variance::LogSigma2 => *stored += 2.0 * log_scale[row],
                Variance::LogSigma => *stored += log_scale[row],
                Variance::LogAlpha => {}
                // They have become log sigma^2 before.
                Variance::Rho | Variance::Sigma2 => {}
                Variance::Sigma => *stored *= self.scale[row].abs() as f32,
            }
        }
    }

    /// The variances of a bias behind it.
    pub(super) fn variances(&self, variances: &mut [f64]) {
        variances.iter_mut().zip(&self.scale).for_each(|(v, scale)| *v *= scale * scale);
    }

    /// The bias behind it.
    pub(super) fn bias(&self, bias: Option<Vec<f32>>) -> Vec<f32> {
        let of = |row: usize| bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]));
        let rows = self.scale.iter().zip(&self.shift).enumerate();
        rows.map(|(row, (scale, shift))| (of(row) * scale + shift) as f32).collect()
    }
}
