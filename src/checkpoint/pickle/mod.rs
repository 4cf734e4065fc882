//! Python pickles as data: nothing in them is ever executed.
//!
//! A pickle is a program for a stack machine. Here it can only build lists, dictionaries, numbers
//! and texts, and *describe* calls of functions on a short list; any other function, and any
//! opcode that could only serve to call one, ends the reading. Long strings of bytes stay in the
//! file: a [`Node::Bytes`] says where they are. Everything lives in one arena, so neither nesting
//! nor cycles cost more than the pickle's own length.

mod execute;
mod input;
mod machine;

pub(super) use execute::read;

/// Dimensions of a tensor; neither PyTorch nor NumPy makes more.
const MOST_DIMENSIONS: usize = 64;
/// The longest name of a function or class that is compared with those known.
const MOST_OF_A_GLOBAL: usize = 64;

/// An object's number in the arena.
pub(super) type Id = usize;

/// An object.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// `None`, or anything that has no meaning in a checkpoint.
    None,
    Bool(bool),
    Int(i64),
    /// A number that a checkpoint carries beside its tensors.
    Float(f64),
    /// A text and where its bytes lie: in Python 2 the values of a small array may look like one.
    Text {
        text: String,
        start: u64,
    },
    /// Where bytes, or the UTF-8 of a long text, lie.
    Bytes {
        start: u64,
        length: u64,
    },
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A function or class, as `module.name`.
    Global(String),
    /// A function on the list, with what it would be called with.
    Call(Box<Call>),
    /// A reference to something outside the pickle.
    Persistent(Id),
}

/// A call that is described, not made.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// Of the [`Node::Global`].
    function: Id,
    pub(super) arguments: Id,
    pub(super) state: Option<Id>,
    pub(super) items: Vec<(Id, Id)>,
}

/// What a pickle describes.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    /// The object that the pickle stands for.
    pub(super) root: Id,
    /// The byte after it.
    pub(super) end: u64,
}

impl Pickle {
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// How many members an object has.
    pub(super) fn len(&self, id: Id) -> usize {
        match &self.nodes[id] {
            Node::List(items) | Node::Tuple(items) => items.len(),
            Node::Dict(items) => items.len(),
            Node::Call(call) => call.items.len(),
            _ => 0,
        }
    }

    /// What is referred to outside itself.
    pub(super) fn persistent(&self) -> impl Iterator<Item = Id> {
        let is = |id: &Id| matches!(self.nodes[*id], Node::Persistent(_));
        (0..self.nodes.len()).filter(is)
    }

    /// The members of a tuple or list.
    pub(super) fn items(&self, id: Id) -> &[Id] {
        match &self.nodes[id] {
            Node::Tuple(items) | Node::List(items) => items,
            _ => &[],
        }
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match &self.nodes[id] {
            Node::Text { text, .. } => Some(text),
            _ => None,
        }
    }

    /// A member of a dictionary, by a text.
    pub(super) fn member(&self, id: Id, name: &str) -> Option<Id> {
        let items = match &self.nodes[id] {
            Node::Dict(items) => items,
            Node::Call(call) => &call.items,
            _ => return None,
        };
        items.iter().find(|(key, _)| self.text(*key) == Some(name)).map(|&(_, value)| value)
    }

    pub(super) fn number(&self, id: Id) -> Option<f64> {
        match self.nodes[id] {
            Node::Int(value) => Some(value as f64),
            Node::Float(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn size(&self, id: Id) -> Option<usize> {
        match self.nodes[id] {
            Node::Int(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The function that a call is of.
    pub(super) fn function(&self, call: &Call) -> &str {
        match &self.nodes[call.function] {
            Node::Global(function) => function,
            _ => "",
        }
    }

    /// A tuple of dimensions or strides, which may be that of a `torch.Size`.
    pub(super) fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        let items = match &self.nodes[id] {
            Node::Call(call) if self.function(call) == "torch.Size" => {
                self.items(*self.items(call.arguments).first()?)
            }
            Node::Tuple(items) | Node::List(items) => items,
            _ => return None,
        };
        let few = items.len() <= MOST_DIMENSIONS;
        items.iter().filter(|_| few).map(|&i| self.size(i)).collect::<Option<_>>().filter(|_| few)
    }
}

/// What a checkpoint may contain. None of it is called.
const KNOWN: [&str; 27] = [
    "_codecs.encode",
    "argparse.Namespace",
    "collections.Counter",
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.deque",
    "copyreg._reconstructor",
    "jax._src.array._reconstruct_array",
    "jax._src.device_array.reconstruct_device_array",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy.dtype",
    "numpy.ndarray",
    "torch.Size",
    "torch.Tensor",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch.device",
    "torch.distributions.normal.Normal",
    "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout",
];

/// Modules and their classes of values that say nothing of tensors.
const BYSTANDERS: [(&str, &[&str]); 10] = [
    (
        "builtins",
        &[
            "bool",
            "bytearray",
            "bytes",
            "complex",
            "dict",
            "float",
            "frozenset",
            "int",
            "list",
            "object",
            "range",
            "set",
            "slice",
            "str",
            "tuple",
        ],
    ),
    ("datetime", &["date", "datetime", "time", "timedelta", "timezone"]),
    ("decimal", &["Decimal"]),
    (
        "pathlib",
        &["Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"],
    ),
    ("pathlib._local", &["Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"]),
    ("numpyro.contrib.module", &["ParamShape"]),
    (
        "pyro.distributions.constraints",
        &[
            "_CorrMatrix",
            "_Integer",
            "_OrderedVector",
            "_PositiveOrderedVector",
            "_SoftplusLowerCholesky",
            "_SoftplusPositive",
            "_Sphere",
            "_UnitLowerCholesky",
        ],
    ),
    ("random", &["Random"]),
    (
        "torch.distributions.constraints",
        &[
            "_Boolean",
            "_Cat",
            "_CorrCholesky",
            "_GreaterThan",
            "_GreaterThanEq",
            "_HalfOpenInterval",
            "_IndependentConstraint",
            "_Interval",
            "_LessThan",
            "_LowerCholesky",
            "_LowerTriangular",
            "_Positive",
            "_PositiveDefinite",
            "_Real",
            "_RealVector",
            "_Simplex",
            "_Stack",
        ],
    ),
    ("uuid", &["UUID", "SafeUUID"]),
];

fn is_known(global: &str) -> bool {
    // As Python 2 and protocol 2 call them.
    let global = match global {
        "__builtin__.xrange" => "builtins.range",
        "__builtin__.unicode" => "builtins.str",
        "__builtin__.long" => "builtins.int",
        global => global,
    };
    let renamed = [("__builtin__.", "builtins."), ("copy_reg.", "copyreg.")];
    let renamed = renamed.iter().find_map(|(old, new)| Some((new, global.strip_prefix(old)?)));
    let modern = renamed.map(|(new, rest)| format!("{new}{rest}"));
    let global = modern.as_deref().unwrap_or(global);
    let bystander = global.rsplit_once('.').is_some_and(|(module, name)| {
        BYSTANDERS.iter().any(|(of, names)| *of == module && names.contains(&name))
    });
    let storage = |rest: &str| {
        let name = rest.strip_prefix("cuda.").or(rest.strip_prefix("storage.")).unwrap_or(rest);
        name.ends_with("Storage") && name.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let dtype = |rest: &str| {
        ["float", "double", "half", "bfloat", "int", "uint", "bool", "long", "complex"]
            .iter()
            .any(|kind| rest.starts_with(kind))
            && rest.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let of_torch = |rest: &str| rest.len() <= MOST_OF_A_GLOBAL && (storage(rest) || dtype(rest));
    bystander || KNOWN.contains(&global) || global.strip_prefix("torch.").is_some_and(of_torch)
}

#[cfg(test)]
mod tests {
    use super::is_known;

    #[test]
    fn what_says_nothing_of_tensors_is_known_by_all_its_names() {
        for global in [
            "builtins.set",
            "__builtin__.set",
            "__builtin__.bytearray",
            "__builtin__.xrange",
            "copy_reg._reconstructor",
            "pathlib.PosixPath",
            "datetime.datetime",
            "torch.FloatStorage",
        ] {
            assert!(is_known(global), "{global}");
        }
        for global in ["builtins.eval", "__builtin__.getattr", "pathlib.os", "os.system"] {
            assert!(!is_known(global), "{global}");
        }
    }
}
