//! ONNX models: the graph as a [`Network`], and its weights as they are, without posterior.
//!
//! What only arranges memory goes (reshapes, transpositions of one pixel, dropout), functions that
//! exporters spell out become one operation, and constants that are multiplied with or added to
//! each channel are folded into the layer before, in f64. A constant that cannot be folded, and batch
//! normalization that follows no layer, becomes a depthwise convolution of one by one.

mod affine;
mod arrays;
mod attention;
mod attribute;
mod constant;
mod cost;
mod dilated_pool;
mod elementwise;
mod embedding;
mod evaluate;
mod functions;
mod graph;
mod lengths;
mod movement;
mod operations;
mod pattern;
mod proto;
mod reader;
mod recurrent;
mod reduce;
mod resample;
mod tensor;
mod view;
mod weights;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::budget::ReadBudget;
use crate::error::{Error, IoContext, Result};
use crate::model::{LayerWeights, Model, Pattern, Values};
use crate::network::Network;
use graph::FirstDimension;

/// Why a node is not understood.
type Reason<T> = std::result::Result<T, String>;

/// A graph that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The network; its layers are named as the initializers, without `.weight`.
    pub network: Network,
    /// One for each layer.
    pub weights: Vec<Weights>,
    /// What the user should know about how the graph was understood.
    pub notes: Vec<String>,
}

/// The weights of a layer as they stand in the file, and what is done to its output.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// `[out, in]` or `[out, in/groups, kh, kw]`, row by row.
    pub values: Vec<f32>,
    /// One value for each row.
    pub bias: Option<Vec<f32>>,
    /// What follows the layer and was not yet applied to the above.
    pub fold: Option<Fold>,
    /// Of kernels, how far apart their values stand, down and to the right, with zeros between.
    pub dilation: [usize; 2],
}

/// `factor * y + offset` for each row of a layer's output.
#[derive(Debug, Clone, PartialEq)]
pub struct Fold {
    /// One for each row.
    pub factor: Vec<f64>,
    /// One for each row.
    pub offset: Vec<f64>,
}

/// How a graph is to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Sizes of inputs that the graph leaves free, by name; an empty name stands for any.
    pub input_shapes: Vec<(String, Vec<usize>)>,
    /// Steps of the longest sequence, where the graph leaves their number free; else it is told by what the graph
    /// can be read for, up to 512.
    pub longest: Option<usize>,
    /// Every size of an input that the graph leaves free, but the batch: one length in the place of all.
    pub steps: Option<usize>,
    /// Whether the weights are those of a checkpoint: columns of linear layers keep their order, and what
    /// the graph does to weights alone is refused.
    pub of_checkpoint: bool,
}

/// Reads an ONNX file; its external data may lie beside it, in the same folder or below.
///
/// # Errors
/// As [`parse`], with the file's name; I/O.
pub fn open(path: &Path) -> Result<Imported> {
    open_as(path, &Reading::default())
}

/// Like [`open`], as told.
///
/// # Errors
/// As [`open`].
pub fn open_as(path: &Path, reading: &Reading) -> Result<Imported> {
    let bytes = std::fs::read(path).at(path)?;
    if let Some(known) = crate::files::foreign(&bytes[..bytes.len().min(64)]) {
        return Err(problem(format!("it is {known}")).in_file(path));
    }
    parse_as(&bytes, path.parent(), reading).map_err(|e| e.in_file(path))
}

/// Reads a model of one input and one output whose first dimension is the batch.
///
/// # Errors
/// [`Error::Unsupported`]: one that lists all kinds of nodes that are not understood, with what is the
/// matter; [`Error::Format`] for what is no ONNX.
pub fn parse(bytes: &[u8], folder: Option<&Path>) -> Result<Imported> {
    parse_as(bytes, folder, &Reading::default())
}

fn parse_as(bytes: &[u8], folder: Option<&Path>, reading: &Reading) -> Result<Imported> {
    cost::charge(bytes, &ReadBudget::new(bytes.len() as u64))?;
    let decode = || proto::ModelProto::decode(bytes).map_err(|e| Error::parse("ONNX", e));
    let length = bytes.len() as u64;
    let model = decode()?;
    if lengths::has_free_time(&model, reading) {
        let batch = Cell::new(FirstDimension::Batch);
        return lengths::read_all(reading, &|steps| {
            let reading = Reading { steps: Some(steps), ..reading.clone() };
            let found = graph::read(decode()?, length, folder, &reading, batch.get());
            if found.is_ok() || batch.get() == FirstDimension::BatchOfOne {
                return found;
            }
            let one = graph::read(decode()?, length, folder, &reading, FirstDimension::BatchOfOne);
            if one.is_ok() {
                batch.set(FirstDimension::BatchOfOne);
            }
            one.or(found)
        });
    }
    if let Some(longest) = reading.longest {
        return Err(unsupported(format!(
            "it leaves no number of steps free, or several sizes: --max-time {longest} has no meaning (--input-shape \
             gives sizes)"
        )));
    }
    let one_sample = graph::may_be_one_sample(&model, reading);
    let found = graph::read(model, length, folder, reading, FirstDimension::Batch);
    if found.is_ok() || !one_sample {
        return found;
    }
    let whole = graph::read(decode()?, length, folder, reading, FirstDimension::OfTheSample);
    whole.or(found)
}

/// Reads a model without external data, its zeros left out.
///
/// # Errors
/// As [`parse`].
pub fn read(bytes: &[u8]) -> Result<Model> {
    parse(bytes, None)?.into_model()
}

/// The files beside a model that its tensors name; none of a model that cannot be read.
pub(crate) fn external_files(path: &Path) -> Vec<PathBuf> {
    const KEY: &[u8] = b"location";
    let bytes = std::fs::read(path).unwrap_or_default();
    if !bytes.windows(KEY.len()).any(|window| window == KEY) {
        return Vec::new();
    }
    let graph = proto::ModelProto::decode(&bytes[..]).ok().and_then(|model| model.graph);
    let constants = graph.iter().flat_map(|graph| {
        let attributes = graph.node.iter().flat_map(|node| &node.attribute);
        graph.initializer.iter().chain(attributes.filter_map(|attribute| attribute.t.as_ref()))
    });
    let entries = constants.flat_map(|tensor| &tensor.external_data);
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| entry.key.as_bytes() == KEY)
        .map(|entry| path.with_file_name(&entry.value))
        .collect();
    files.sort();
    files.dedup();
    files
}

/// Whether a file is called as ONNX models are; their bytes have no mark.
pub(crate) fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

fn problem(text: impl Into<String>) -> Error {
    Error::Format { format: "ONNX", problem: printable(&text.into()) }
}

/// What a valid graph has that is not understood.
fn unsupported(text: impl Into<String>) -> Error {
    Error::Unsupported { format: "ONNX", problem: printable(&text.into()) }
}

/// One line, whatever the file calls its parts.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl Imported {
    /// Applies what was folded to weights and biases, rounding each once.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a weight that is not finite.
    pub fn fold(&mut self) -> Result<()> {
        for (layer, weights) in self.network.layers.iter().zip(&mut self.weights) {
            weights.fold(layer.cols());
            let all = [&weights.values[..], weights.bias.as_deref().unwrap_or_default()];
            for (role, values) in ["weight", "bias"].iter().zip(all) {
                if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                    return Err(Error::Tensor {
                        tensor: format!("{}.{role}", layer.name),
                        problem: format!("element {at} is {}", values[at]),
                    });
                }
            }
        }
        Ok(())
    }

    /// The model with its weights bit for bit and its zeros left out.
    ///
    /// # Errors
    /// As [`Imported::fold`].
    pub fn into_model(mut self) -> Result<Model> {
        self.fold()?;
        let mut weights = Vec::with_capacity(self.weights.len());
        for (layer, dense) in self.network.layers.iter().zip(self.weights) {
            let cols = layer.cols();
            let mut pattern = Pattern::with_columns(cols);
            for row in dense.values.chunks_exact(cols) {
                pattern.push_row((0..cols as u32).filter(|&c| row[c as usize] != 0.0))?;
            }
            let kept = dense.values.into_iter().filter(|&value| value != 0.0).collect();
            let bias = dense.bias.map(Values::F32);
            weights.push(LayerWeights { pattern, values: Values::F32(kept), bias });
        }
        Ok(Model { network: self.network, threshold: None, weights })
    }
}

impl Weights {
    fn fold(&mut self, cols: usize) {
        let Some(Fold { factor, offset }) = self.fold.take() else { return };
        for (row, factor) in self.values.chunks_exact_mut(cols).zip(&factor) {
            row.iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
        }
        let bias = self.bias.get_or_insert_with(|| vec![0.0; factor.len()]);
        for (bias, (factor, offset)) in bias.iter_mut().zip(factor.iter().zip(offset)) {
            *bias = (f64::from(*bias) * factor + offset) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::proto::*;
    use super::*;

    fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
        TensorProto {
            name: name.into(),
            dims: dims.into(),
            data_type: 1,
            raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ..Default::default()
        }
    }

    fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: op.into(),
            input: input.iter().map(|&i| i.into()).collect(),
            output: vec![output.into()],
            ..Default::default()
        }
    }

    fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
        let dim = dims
            .iter()
            .map(|&value| DimensionProto { value: Some(value), ..Default::default() })
            .collect();
        let tensor =
            Some(TensorTypeProto { shape: Some(ShapeProto { dim }), ..Default::default() });
        ValueInfoProto { name: name.into(), kind: Some(TypeProto { tensor }) }
    }

    fn encoded(dims: &[i64], node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Vec<u8> {
        let (input, output) = (vec![value("x", dims)], vec![value("y", &[])]);
        let graph = GraphProto { node, initializer, input, output, ..Default::default() };
        ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn folding_rounds_once_and_takes_the_first_sum_for_the_bias() {
        let bytes = encoded(
            &[1, 2],
            vec![
                node("MatMul", &["x", "w"], "a"),
                node("Add", &["a", "fc.bias"], "b"),
                node("Mul", &["b", "third"], "c"),
                node("Add", &["one", "c"], "d"),
                node("Mul", &["three", "d"], "y"),
            ],
            vec![
                tensor("w", &[2, 2], &[1.1, 0.0, 0.3, 4.7]),
                tensor("fc.bias", &[2], &[0.5, -0.5]),
                tensor("third", &[2], &[1.0 / 3.0, 0.5]),
                tensor("one", &[], &[1.0]),
                tensor("three", &[1], &[3.0]),
            ],
        );
        let found = parse(&bytes, None).unwrap();
        assert_eq!(found.network.layers[0].name, "fc");
        assert_eq!(found.weights[0].bias, Some(vec![0.5, -0.5]));
        assert_eq!(found.weights[0].fold.as_ref().unwrap().offset, [3.0, 3.0]);
        let model = found.into_model().unwrap();
        // 3 (x / 3 + 1): the weights come back as they were.
        assert_eq!(model.weights[0].values, Values::F32(vec![1.1, 0.3, 1.5 * 4.7]));
        assert_eq!(model.weights[0].bias, Some(Values::F32(vec![3.5, 2.25])));
    }

    /// An input `[batch, time, 2]`, or with other names of its sizes.
    fn sequence(sizes: [&str; 3]) -> ValueInfoProto {
        let mut input = value("x", &[0; 3]);
        let shape = input.kind.as_mut().unwrap().tensor.as_mut().unwrap().shape.as_mut().unwrap();
        for (dim, size) in shape.dim.iter_mut().zip(sizes) {
            let value = size.parse().ok();
            let param = if value.is_some() { String::new() } else { size.to_owned() };
            *dim = DimensionProto { value, param };
        }
        input
    }

    fn integers(name: &str, values: &[i64]) -> TensorProto {
        let dims = vec![values.len() as i64];
        let (data_type, int64_data) = (7, values.to_vec());
        TensorProto { name: name.into(), dims, data_type, int64_data, ..Default::default() }
    }

    /// Positions for at most five steps, added to a sequence, and a layer; then `more`, from "a" to "y".
    fn positions(sizes: [&str; 3], more: Vec<NodeProto>) -> Vec<u8> {
        let mut node_list = vec![
            node("Shape", &["x"], "shape"),
            node("Gather", &["shape", "one"], "steps"),
            node("Slice", &["positions", "zero", "steps", "one"], "own"),
            node("Add", &["x", "own"], "sum"),
            node("MatMul", &["sum", "w"], "a"),
        ];
        node_list.extend(more);
        let table: Vec<f32> = (0..10).map(|at| at as f32 / 4.0).collect();
        let initializer = vec![
            integers("zero", &[0]),
            integers("one", &[1]),
            tensor("positions", &[1, 5, 2], &table),
            tensor("w", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ];
        let (input, output) = (vec![sequence(sizes)], vec![value("y", &[])]);
        let graph =
            GraphProto { node: node_list, initializer, input, output, ..Default::default() };
        ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn a_free_number_of_steps_is_any_up_to_what_the_graph_takes() {
        let bytes = positions(["batch", "time", "2"], vec![node("Relu", &["a"], "y")]);
        let found = parse(&bytes, None).unwrap();
        assert_eq!(found.network.time.as_ref().unwrap().longest, 5);
        assert!(found.notes.iter().any(|note| note.contains("up to 5 steps")), "{:?}", found.notes);
        let free = found.into_model().unwrap();
        let fixed = |steps| {
            let input_shapes = vec![(String::new(), vec![1, steps, 2])];
            let reading = Reading { input_shapes, ..Reading::default() };
            parse_as(&bytes, None, &reading).unwrap().into_model().unwrap()
        };
        for steps in 2..=5 {
            assert_eq!(free.at(steps).unwrap(), fixed(steps));
        }
        // An axis of one step is none in a graph: the shapes are others, the network is the same.
        assert_ne!(free.at(1).unwrap().network, fixed(1).network);
        let run = |model: &Model| {
            let engine = crate::engine::Engine::new(model, crate::engine::Isa::best()).unwrap();
            engine.infer_samples(&[0.5, 2.0]).unwrap()
        };
        assert_eq!(run(&free.at(1).unwrap()), run(&fixed(1)));
        assert_eq!(run(&fixed(1)), [[9.5, 12.25, 15.0]]);
        let longest = |steps| Reading { longest: Some(steps), ..Reading::default() };
        let found = parse_as(&bytes, None, &longest(4)).unwrap();
        assert_eq!(found.network.time.unwrap().longest, 4);
        parse_as(&bytes, None, &longest(6)).unwrap_err();
    }

    #[test]
    fn what_does_not_follow_from_the_steps_is_refused_by_name() {
        let refused = |sizes, more, reading: &Reading| {
            let found = parse_as(&positions(sizes, more), None, reading);
            found.unwrap_err().to_string()
        };
        let free = || ["batch", "time", "2"];
        let cast = NodeProto {
            attribute: vec![AttributeProto { name: "to".into(), i: 1, ..Default::default() }],
            ..node("Cast", &["steps"], "count")
        };
        // A factor is no size.
        let mean = vec![cast, node("Relu", &["a"], "b"), node("Div", &["b", "count"], "y")];
        let problem = refused(free(), mean, &Reading::default());
        assert!(problem.contains("cannot be of any length"), "{problem}");
        assert!(problem.contains("--input-shape 1x5"), "{problem}");
        let relu = || vec![node("Relu", &["a"], "y")];
        let problem = refused(["batch", "rows", "columns"], relu(), &Reading::default());
        assert!(problem.contains("0 standing for a size that is not known"), "{problem}");
        let longest = Reading { longest: Some(4), ..Reading::default() };
        let problem = refused(["batch", "5", "2"], relu(), &longest);
        assert!(problem.contains("--max-time 4 has no meaning"), "{problem}");
    }

    #[test]
    fn all_nodes_that_are_not_understood_are_listed_and_no_others() {
        let nodes = vec![
            node("Unheard", &["x"], "a"),
            node("Relu", &["a"], "b"),
            node("Scan", &["b"], "c"),
            node("Softmax", &["c"], "d"),
            node("Gemm", &["x", "w"], "e"),
            node("Add", &["d", "e"], "y"),
        ];
        let bytes = encoded(&[1, 2], nodes, vec![tensor("w", &[3, 2], &[1.0; 6])]);
        let message = parse(&bytes, None).unwrap_err().to_string();
        assert!(!message.contains('\n'));
        for name in ["Unheard \"a\"", "Scan \"c\"", "Gemm \"e\" (weights of 3 columns"] {
            assert!(message.contains(name), "{message} lacks {name}");
        }
        for name in ["Relu", "Softmax", "Add"] {
            assert!(!message.contains(name), "{message} has {name}");
        }
    }

    #[test]
    fn keys_and_values_of_the_past_are_refused_by_name() {
        let nodes = vec![node("Concat", &["past_key_values.0.key", "x"], "y")];
        let input = vec![value("x", &[1, 2]), value("past_key_values.0.key", &[1, 2])];
        let graph =
            GraphProto { node: nodes, input, output: vec![value("y", &[])], ..Default::default() };
        let bytes = ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec();
        let message = parse(&bytes, None).unwrap_err().to_string();
        assert!(message.contains("\"past_key_values.0.key\" holds keys and values"), "{message}");
    }

    #[test]
    fn shapes_are_compared_by_dimension() {
        let refused = |dims: &[i64], nodes: Vec<NodeProto>, tensors| {
            let error = parse(&encoded(dims, nodes, tensors), None).unwrap_err().to_string();
            assert!(error.starts_with("valid ONNX, but"), "{error}");
            assert!(error.len() < 500, "{error}");
            error
        };
        let w = || tensor("w", &[2, 2], &[1.0; 4]);
        // One number for each sample, not for each output.
        let gemm = || vec![node("Gemm", &["x", "w", "c"], "y")];
        refused(&[0, 2], gemm(), vec![w(), tensor("c", &[2, 1], &[1.0; 2])]);
        for dims in [&[2][..], &[1, 2]] {
            let bytes = encoded(&[2, 2], gemm(), vec![w(), tensor("c", dims, &[1.0; 2])]);
            parse(&bytes, None).unwrap();
        }
        // Of a batch that the graph fixes, that is a part of one sample.
        let bytes = encoded(&[2, 2], gemm(), vec![w(), tensor("c", &[2, 1], &[1.0; 2])]);
        let found = parse(&bytes, None).unwrap();
        assert_eq!(found.network.input.shape, crate::network::Shape::new(2, 1, 2));
        assert!(found.notes[0].contains("is one sample"), "{:?}", found.notes);
        // A convolution repeats no bias.
        let kernel = || tensor("w", &[2, 1, 1, 1], &[1.0; 2]);
        let conv = || vec![node("Conv", &["x", "w", "c"], "y")];
        refused(&[1, 1, 2, 2], conv(), vec![kernel(), tensor("c", &[1], &[1.0])]);
        refused(&[1, 1, 2, 2], conv(), vec![kernel(), tensor("c", &[2, 1], &[1.0; 2])]);
        // Over all axes, the batch among them.
        let mean = vec![node("Gemm", &["x", "w"], "a"), node("ReduceMean", &["a"], "y")];
        refused(&[0, 2], mean, vec![w()]);
        let statistics: Vec<TensorProto> =
            ["s", "b", "m", "v"].iter().map(|name| tensor(name, &[2, 1], &[1.0; 2])).collect();
        let norm = vec![
            node("Gemm", &["x", "w"], "a"),
            node("BatchNormalization", &["a", "s", "b", "m", "v"], "y"),
        ];
        refused(&[1, 2], norm, [vec![w()], statistics].concat());
        // Another batch than the input's.
        let mut two = tensor("two", &[2], &[]);
        (two.data_type, two.int64_data) = (7, vec![2, -1]);
        let reshape = vec![node("Gemm", &["x", "w"], "a"), node("Reshape", &["a", "two"], "y")];
        refused(&[0, 2], reshape, vec![w(), two]);
    }

    #[test]
    fn samples_of_a_batch_are_not_mixed() {
        let mut all = tensor("all", &[1], &[]);
        (all.data_type, all.int64_data) = (7, vec![-1]);
        let mut mean = node("ReduceMean", &["a"], "y");
        mean.attribute.push(AttributeProto {
            name: "axes".into(),
            ints: vec![0],
            ..Default::default()
        });
        // Of one sample this is a mean of its own; of more it is one of all.
        let nodes = vec![node("Reshape", &["x", "all"], "a"), mean];
        let error = parse(&encoded(&[0, 4], nodes, vec![all]), None).unwrap_err().to_string();
        assert!(error.contains("the batch among them"), "{error}");
    }

    #[test]
    fn padding_that_runtimes_do_not_agree_on_is_refused() {
        // Of nine, every third is one of [0, 3, 6] or of [1, 4, 7].
        for (size, is_read) in [(7, true), (8, true), (9, false)] {
            let mut pool = node("AveragePool", &["x"], "y");
            for (name, ints) in [("kernel_shape", vec![1; 2]), ("strides", vec![3; 2])] {
                pool.attribute.push(AttributeProto {
                    name: name.into(),
                    ints,
                    ..Default::default()
                });
            }
            let (name, s) = ("auto_pad".into(), b"SAME_UPPER".to_vec());
            pool.attribute.push(AttributeProto { name, s, ..Default::default() });
            let found = parse(&encoded(&[1, 1, size, size], vec![pool], vec![]), None);
            match found {
                Ok(_) => assert!(is_read, "{size}"),
                Err(error) => {
                    assert!(!is_read && error.to_string().contains("runtimes differ"), "{error}");
                }
            }
        }
    }

    #[test]
    fn sizes_that_cannot_be_counted_are_refused() {
        let huge = 1 << 40;
        let nothing = tensor("w", &[0, huge, huge], &[]);
        let nodes = vec![node("Transpose", &["w"], "t"), node("Add", &["x", "t"], "y")];
        for bytes in [
            encoded(&[1, 2], nodes, vec![nothing]),
            encoded(&[1, huge, huge], vec![node("Relu", &["x"], "y")], vec![]),
        ] {
            parse(&bytes, None).unwrap_err();
        }
    }

    #[test]
    fn half_precision_is_rounded_in_constants_and_refused_in_values() {
        let cast = |from: &str, to: &str, kind| {
            let mut cast = node("Cast", &[from], to);
            cast.attribute.push(AttributeProto {
                name: "to".into(),
                i: kind,
                ..Default::default()
            });
            cast
        };
        let w = || tensor("w", &[1, 1], &[0.1]);
        let nodes = vec![cast("w", "h", 10), cast("h", "f", 1), node("Gemm", &["x", "f"], "y")];
        let found = parse(&encoded(&[1, 1], nodes, vec![w()]), None).unwrap();
        assert_eq!(found.weights[0].values, [0.099_975_586]);
        let nodes = vec![node("Gemm", &["x", "w"], "a"), cast("a", "b", 10), cast("b", "y", 1)];
        let error = parse(&encoded(&[1, 1], nodes, vec![w()]), None).unwrap_err().to_string();
        assert!(error.contains("export the model in float32"), "{error}");
    }

    #[test]
    fn a_refusal_has_one_entry_for_each_operation() {
        let mut nodes: Vec<NodeProto> = (0..500)
            .map(|at| node("Unheard", &["x"], &format!("a/very/long/name/of/a/value/{at}")))
            .collect();
        nodes.extend((0..40).map(|at| node(&format!("Operation{at}"), &["x"], &format!("o{at}"))));
        let names: Vec<String> = nodes.iter().map(|node| node.output[0].clone()).collect();
        nodes.push(node("Sum", &names.iter().map(String::as_str).collect::<Vec<_>>(), "y"));
        let message = parse(&encoded(&[1, 2], nodes, vec![]), None).unwrap_err().to_string();
        assert!(message.len() < 500, "{message}");
        assert!(message.contains("(no such operation here) and 499 more; "), "{message}");
        assert!(message.contains("more operations: formats/network.md"), "{message}");
    }

    #[test]
    fn sizes_that_no_file_backs_are_refused() {
        let huge = 1 << 40;
        let scale = vec![node("Mul", &["x", "s"], "y")];
        let error = |dims: &[i64], nodes, tensors| {
            parse(&encoded(dims, nodes, tensors), None).unwrap_err().to_string()
        };
        let found = error(&[1, huge], scale, vec![tensor("s", &[], &[2.0])]);
        assert!(found.contains("the limit is"), "{found}");
        for dims in [[huge, 0], [0, huge], [huge, huge]] {
            let linear = vec![node("Gemm", &["x", "w"], "y")];
            let found = error(&[1, 2], linear, vec![tensor("w", &dims, &[])]);
            assert!(found.contains("shape"), "{found}");
        }
        let mut pool = node("MaxPool", &["x"], "y");
        for (name, ints) in [("kernel_shape", vec![1 << 23; 2]), ("pads", vec![(1 << 23) - 1; 4])] {
            pool.attribute.push(AttributeProto { name: name.into(), ints, ..Default::default() });
        }
        let found = error(&[1, 1, 1, 1], vec![pool], vec![]);
        assert!(found.contains("kernel"), "{found}");
        let mut far = node("Conv", &["x", "w"], "y");
        for (name, ints) in [("dilations", vec![1 << 20; 2]), ("pads", vec![1 << 21; 4])] {
            far.attribute.push(AttributeProto { name: name.into(), ints, ..Default::default() });
        }
        let weights = vec![tensor("w", &[1, 1, 3, 3], &[1.0; 9])];
        let found = error(&[1, 1, 3, 3], vec![far], weights);
        assert!(found.contains("dilations"), "{found}");
    }
}
