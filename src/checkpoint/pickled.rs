//! The tensors and arrays that a pickle describes, under the names of the dictionaries and lists
//! that hold them.

use super::optimizer::{self, Curvature, Holder, State};
use super::pickle::{Id, Node, Pickle};
use super::pyro::ParamStore;
use super::roles;
use super::tensor::DType;
use crate::budget::ReadBudget;
use crate::error::{Error, Result};

/// Members of dictionaries and lists that are looked at.
const MAX_VISITS: usize = 1 << 20;
/// Steps of a visit, beside those for the name.
const OF_A_VISIT: u64 = 16;

/// A tensor or array, not yet found in a file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// In elements; `None` for row-major order.
    pub(super) strides: Option<Vec<usize>>,
    pub(super) data: Data,
    /// Of what its values are variances by, if not themselves what is stored.
    pub(super) curvature: Option<Curvature>,
}

/// Where the values are.
#[derive(Debug)]
pub(super) enum Data {
    /// Bytes in the pickle itself.
    Inline { start: u64, length: u64 },
    /// Bytes written as a text, one character for each byte.
    Latin1 { start: u64, length: u64 },
    /// From this element of a PyTorch storage on.
    Storage { storage: Storage, offset: usize },
}

/// A reference to a PyTorch storage.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    pub(super) key: String,
    pub(super) dtype: DType,
    pub(super) elements: usize,
    /// Where this storage begins in the one it is a view of.
    pub(super) view: usize,
}

/// Everything reachable from the root, at the cost of `budget`, but the states of optimizers, which a note
/// of `notes` has; what is a posterior among these is there as variances.
///
/// # Errors
/// What is damaged, and variances without means.
pub(super) fn find(
    pickle: &Pickle,
    budget: &ReadBudget,
    notes: &mut Vec<String>,
) -> Result<Vec<Found>> {
    let mut walk = Walk {
        pickle,
        budget,
        found: Vec::new(),
        holders: Vec::new(),
        holder: (pickle.root, 0),
        states: Vec::new(),
        store: None,
        visits: 0,
    };
    walk.visit(pickle.root, String::new(), 0)?;
    if let ([state, ..], true) = (&walk.states[..], walk.found.is_empty()) {
        let problem = "is the state of an optimizer, and there is no network beside it: open the \
                       file that holds the network's tensors, or save both in one";
        return Err(invalid(&state.name, problem));
    }
    let variances = optimizer::variances(pickle, &walk.states, &walk.found, &walk.holders, budget)?;
    let biases = variances.iter().filter(|found| found.name.ends_with(roles::IVON_BIAS)).count();
    notes.extend(walk.states.iter().map(|state| match variances.is_empty() {
        true => format!("{}: the state of an optimizer, ignored", state.name),
        false => format!(
            "{}: the state of IVON, read for the variances of {} weights and {} biases, 1 / (ess (hess + \
             weight_decay)); of other parameters the means are read",
            state.name,
            variances.len() - biases,
            biases
        ),
    }));
    for variance in variances {
        walk.take(variance)?;
    }
    Ok(walk.found)
}

fn invalid(name: &str, problem: &str) -> Error {
    const MOST_SHOWN: usize = 200;
    let name: String = name.chars().take(MOST_SHOWN).collect();
    Error::Tensor {
        tensor: if name.is_empty() { "(root)".into() } else { name },
        problem: problem.into(),
    }
}

struct Walk<'a> {
    pickle: &'a Pickle,
    budget: &'a ReadBudget,
    found: Vec<Found>,
    /// For each of `found` the dictionary that it is in.
    holders: Vec<Holder>,
    /// The dictionary that is visited.
    holder: Holder,
    states: Vec<State>,
    /// Of Pyro, the last that was met.
    store: Option<ParamStore>,
    visits: usize,
}

impl Walk<'_> {
    fn visit(&mut self, id: Id, name: String, depth: usize) -> Result<()> {
        self.visits += 1;
        self.budget.steps(OF_A_VISIT + name.len() as u64 / 8)?;
        if depth > ReadBudget::DEPTH || self.visits > MAX_VISITS {
            return Err(invalid(&name, "lies too deep in the pickle, or the pickle is a cycle"));
        }
        let pickle = self.pickle;
        match pickle.node(id) {
            Node::List(items) | Node::Tuple(items) => {
                for (index, &item) in items.iter().enumerate() {
                    self.visit(item, below(&name, &index.to_string()), depth + 1)?;
                }
            }
            Node::Dict(items) => self.members(id, items, &name, depth)?,
            Node::Call(call) => match pickle.function(call) {
                "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => {
                    let tensor = torch_tensor(pickle, call.arguments)
                        .ok_or_else(|| invalid(&name, "is not described as a tensor"))?;
                    self.take(Found { name, ..tensor })?;
                }
                f if f.ends_with("_rebuild_parameter")
                    || f.ends_with("_rebuild_parameter_with_state")
                    || f == "torch.nn.parameter.Parameter" =>
                {
                    if let Some(&data) = pickle.items(call.arguments).first() {
                        self.visit(data, name, depth + 1)?;
                    }
                }
                f if f.ends_with("multiarray._reconstruct") => {
                    let state =
                        call.state.ok_or_else(|| invalid(&name, "is an array without values"))?;
                    match numpy_array(pickle, state) {
                        Some(NumPy::Array(array)) => self.take(Found { name, ..array })?,
                        Some(NumPy::Objects(items)) => self.visit(items, name, depth + 1)?,
                        None => return Err(invalid(&name, "is not described as an array")),
                    }
                }
                f if f.starts_with("jax.") => {
                    let state = pickle.items(call.arguments).get(2);
                    match state.and_then(|&state| numpy_array(pickle, state)) {
                        Some(NumPy::Array(array)) => self.take(Found { name, ..array })?,
                        _ => return Err(invalid(&name, "is not described as an array")),
                    }
                }
                f if f.ends_with("numeric._frombuffer") => {
                    let array = from_buffer(pickle, call.arguments)
                        .ok_or_else(|| invalid(&name, "is not described as an array"))?;
                    self.take(Found { name, ..array })?;
                }
                function => {
                    self.members(id, &call.items, &name, depth)?;
                    let is_read = ["argparse.Namespace", "torch.distributions.normal.Normal"];
                    if let (Some(state), true) = (call.state, is_read.contains(&function)) {
                        self.visit(state, name, depth + 1)?;
                    }
                }
            },
            _ => {}
        }
        Ok(())
    }

    /// Keeps a tensor. Whoever opens the checkpoint will have its name several times.
    fn take(&mut self, found: Found) -> Result<()> {
        const NAMES: u64 = 4;
        let key = match &found.data {
            Data::Storage { storage, .. } => storage.key.len(),
            _ => 0,
        };
        let dims = found.shape.len() + found.strides.as_ref().map_or(0, Vec::len);
        let bytes = 2 * size_of::<Found>() + key + dims * size_of::<usize>();
        self.budget.bytes(bytes as u64 + NAMES * found.name.len() as u64)?;
        self.found.push(found);
        self.holders.push(self.holder);
        Ok(())
    }

    /// What a dictionary holds.
    fn members(&mut self, id: Id, items: &[(Id, Id)], name: &str, depth: usize) -> Result<()> {
        self.budget.steps(items.len() as u64)?;
        if optimizer::is_state(self.pickle, items) {
            self.budget.bytes((size_of::<State>() + 2 * name.len()) as u64)?;
            self.states.push(State { name: name.to_owned(), id });
            return Ok(());
        }
        if let Some(store) = ParamStore::of(self.pickle, id) {
            self.store = Some(store);
        }
        let end = if name.is_empty() { 0 } else { name.len() + 1 };
        let outer = std::mem::replace(&mut self.holder, (id, end));
        for (at, &(key, value)) in items.iter().enumerate() {
            let key = match self.pickle.node(key) {
                Node::Text { text, .. } => text.clone(),
                Node::Int(number) => number.to_string(),
                _ => continue,
            };
            let store = self.store.as_ref().filter(|store| store.params == id);
            let end = store.map_or("", |store| store.ending(self.pickle, at));
            self.visit(value, below(name, &format!("{key}{end}")), depth + 1)?;
        }
        self.holder = outer;
        Ok(())
    }
}

/// What a member is called.
fn below(name: &str, key: &str) -> String {
    if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") }
}

/// `(storage, offset, size, stride, ...)`.
pub(super) fn torch_tensor(pickle: &Pickle, arguments: Id) -> Option<Found> {
    let &[storage, offset, size, stride, ..] = pickle.items(arguments) else { return None };
    let storage = torch_storage(pickle, storage)?;
    let (shape, strides) = (pickle.sizes(size)?, pickle.sizes(stride)?);
    let offset = pickle.size(offset)?;
    if shape.len() != strides.len() {
        return None;
    }
    // The last element must lie inside the storage.
    let last = shape
        .iter()
        .zip(&strides)
        .try_fold(offset, |n, (&d, &s)| n.checked_add(d.saturating_sub(1).checked_mul(s)?))?;
    if !shape.contains(&0) && last >= storage.elements {
        return None;
    }
    let dtype = storage.dtype;
    let data = Data::Storage { storage, offset };
    Some(Found { name: String::new(), dtype, shape, strides: Some(strides), data, curvature: None })
}

/// Every storage that a pickle refers to, whether or not a tensor of the network has it.
pub(super) fn storages(pickle: &Pickle) -> impl Iterator<Item = Storage> {
    pickle.persistent().filter_map(|id| torch_storage(pickle, id))
}

/// `('storage', type, key, device, elements[, view])`.
fn torch_storage(pickle: &Pickle, id: Id) -> Option<Storage> {
    let Node::Persistent(id) = *pickle.node(id) else { return None };
    let &[tag, kind, key, _, elements, ref rest @ ..] = pickle.items(id) else { return None };
    let Node::Global(kind) = pickle.node(kind) else { return None };
    if pickle.text(tag) != Some("storage") {
        return None;
    }
    let view = match rest.first().map(|&view| pickle.items(view)) {
        Some(&[_, offset, _]) => pickle.size(offset)?,
        _ => 0,
    };
    let dtype = match kind.rsplit('.').next()? {
        "FloatStorage" => DType::F32,
        "DoubleStorage" => DType::F64,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "BoolStorage" => DType::Bool,
        "ByteStorage" => DType::U8,
        "LongStorage" => DType::Other("I64"),
        "IntStorage" => DType::Other("I32"),
        "ShortStorage" => DType::Other("I16"),
        "CharStorage" => DType::Other("I8"),
        "ComplexFloatStorage" | "ComplexDoubleStorage" => DType::Other("complex"),
        _ => DType::Other("another type"),
    };
    let key = pickle.text(key)?.to_owned();
    Some(Storage { key, dtype, elements: pickle.size(elements)?, view })
}

enum NumPy {
    Array(Found),
    Objects(Id),
}

/// `([version,] shape, dtype, fortran order, values)`.
fn numpy_array(pickle: &Pickle, state: Id) -> Option<NumPy> {
    let state = pickle.items(state);
    let &[shape, dtype, fortran, values] = state.get(state.len().checked_sub(4)?..)? else {
        return None;
    };
    if let Node::List(items) = pickle.node(values) {
        let one = items.first().filter(|_| pickle.sizes(shape).is_some_and(|s| s.is_empty()));
        return Some(NumPy::Objects(one.map_or(values, |&one| one)));
    }
    let fortran = match pickle.node(fortran) {
        Node::Bool(value) => *value,
        Node::Int(value) => *value != 0,
        _ => return None,
    };
    array(pickle, pickle.sizes(shape)?, dtype, fortran, values).map(NumPy::Array)
}

/// `(buffer, dtype, shape, order)`.
fn from_buffer(pickle: &Pickle, arguments: Id) -> Option<Found> {
    let &[values, dtype, shape, order] = pickle.items(arguments) else { return None };
    array(pickle, pickle.sizes(shape)?, dtype, pickle.text(order) == Some("F"), values)
}

fn array(
    pickle: &Pickle,
    shape: Vec<usize>,
    dtype: Id,
    fortran: bool,
    values: Id,
) -> Option<Found> {
    let dtype = numpy_dtype(pickle, dtype)?;
    let data = match *pickle.node(values) {
        Node::Bytes { start, length } => Data::Inline { start, length },
        Node::Text { ref text, start } => Data::Inline { start, length: text.len() as u64 },
        // Bytes as Python 3 writes them for Python 2.
        Node::Call(ref call) if pickle.function(call) == "_codecs.encode" => {
            let &[text, encoding] = pickle.items(call.arguments) else { return None };
            if !matches!(pickle.text(encoding), Some("latin1" | "latin-1")) {
                return None;
            }
            match *pickle.node(text) {
                Node::Bytes { start, length } => Data::Latin1 { start, length },
                Node::Text { ref text, start } => Data::Latin1 { start, length: text.len() as u64 },
                _ => return None,
            }
        }
        _ => return None,
    };
    let strides = if fortran { Some(fortran_strides(&shape)?) } else { None };
    Some(Found { name: String::new(), dtype, shape, strides, data, curvature: None })
}

/// The first index runs fastest.
pub(super) fn fortran_strides(shape: &[usize]) -> Option<Vec<usize>> {
    let mut step = 1usize;
    let next = |&d: &usize| {
        let stride = step;
        step = step.checked_mul(d.max(1))?;
        Some(stride)
    };
    shape.iter().map(next).collect()
}

fn numpy_dtype(pickle: &Pickle, id: Id) -> Option<DType> {
    let Node::Call(call) = pickle.node(id) else { return None };
    if pickle.function(call) != "numpy.dtype" {
        return None;
    }
    let name = pickle.text(*pickle.items(call.arguments).first()?)?;
    let order = call.state.and_then(|s| pickle.text(*pickle.items(s).get(1)?));
    Some(match (name, order) {
        ("f4", Some("<" | "=") | None) => DType::F32,
        ("f8", Some("<" | "=") | None) => DType::F64,
        ("f2", Some("<" | "=") | None) => DType::F16,
        ("b1", _) => DType::Bool,
        ("u1", _) => DType::U8,
        ("c8" | "c16", _) => DType::Other("complex"),
        (_, Some(">")) => DType::Other("big-endian"),
        _ => DType::Other("another type"),
    })
}
