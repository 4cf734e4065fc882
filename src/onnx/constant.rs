//! Constants: initializers and what `Constant` nodes hold, in any of the forms that ONNX has.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use super::Reason;
use super::proto::{NodeProto, SparseTensorProto, TensorProto};
use super::tensor::{Data, Tensor};
use super::view::elements;
use crate::budget::ReadBudget;

mod kind {
    pub(super) const FLOAT: i32 = 1;
    pub(super) const UINT8: i32 = 2;
    pub(super) const INT8: i32 = 3;
    pub(super) const UINT16: i32 = 4;
    pub(super) const INT16: i32 = 5;
    pub(super) const INT32: i32 = 6;
    pub(super) const INT64: i32 = 7;
    pub(super) const BOOL: i32 = 9;
    pub(super) const FLOAT16: i32 = 10;
    pub(super) const DOUBLE: i32 = 11;
    pub(super) const UINT32: i32 = 12;
    pub(super) const UINT64: i32 = 13;
    pub(super) const BFLOAT16: i32 = 16;
}

/// Whether a type is a real number of at least the precision that networks are computed in.
pub(super) fn is_whole_real(kind: i64) -> bool {
    [kind::FLOAT, kind::DOUBLE].iter().any(|&k| kind == i64::from(k))
}

/// The rounding to a half type.
pub(super) fn round_to(to: i64) -> Option<fn(f32) -> f32> {
    match i32::try_from(to) {
        Ok(kind::FLOAT16) => Some(|v| half::f16::from_f32(v).to_f32()),
        Ok(kind::BFLOAT16) => Some(|v| half::bf16::from_f32(v).to_f32()),
        _ => None,
    }
}

enum Constant {
    Dense(TensorProto),
    Sparse(Box<SparseTensorProto>),
    /// What a node holds or makes.
    Made(Rc<Tensor>),
}

/// All constants of a graph by name.
pub(super) struct Constants {
    all: BTreeMap<String, Constant>,
    /// Of those that are others moved or cast, the others.
    origins: BTreeMap<String, String>,
    /// Where data outside the file may lie.
    folder: Option<PathBuf>,
    budget: ReadBudget,
}

impl Constants {
    pub(super) fn new(
        dense: Vec<TensorProto>,
        sparse: Vec<SparseTensorProto>,
        folder: Option<&Path>,
        length: u64,
    ) -> Self {
        let outside = folder.map_or(0, |folder| external_bytes(&dense, folder));
        let budget = ReadBudget::new(length.saturating_add(outside));
        let mut all = BTreeMap::new();
        for tensor in dense {
            all.insert(tensor.name.clone(), Constant::Dense(tensor));
        }
        for tensor in sparse {
            let name = tensor.values.as_ref().map(|values| values.name.clone());
            all.insert(name.unwrap_or_default(), Constant::Sparse(tensor.into()));
        }
        Self { all, origins: BTreeMap::new(), folder: folder.map(Into::into), budget }
    }

    /// Takes the memory of values that are to be kept from what this model may have.
    pub(super) fn charge<T>(&self, count: usize) -> Reason<()> {
        self.budget.values::<T>(count).map_err(|e| e.to_string())
    }

    /// Takes work from what this model may cost.
    pub(super) fn steps(&self, steps: usize) -> Reason<()> {
        self.budget.steps(steps as u64).map_err(|e| e.to_string())
    }

    /// Takes what a `Constant` node holds.
    pub(super) fn take(&mut self, node: &mut NodeProto) -> Reason<()> {
        let [output] = &node.output[..] else { return Err("has no single output".into()) };
        let attribute = node.attribute.first_mut().ok_or("has no value")?;
        let made = |tensor| Some(Constant::Made(Rc::new(tensor)));
        let constant = match attribute.name.as_str() {
            "value" => attribute.t.take().map(Constant::Dense),
            "sparse_value" => attribute.sparse_tensor.take().map(Constant::Sparse),
            "value_float" => made(Tensor::reals(vec![], vec![attribute.f])),
            "value_floats" => {
                let values = std::mem::take(&mut attribute.floats);
                made(Tensor::reals(vec![values.len()], values))
            }
            "value_int" => made(Tensor::whole(vec![], vec![attribute.i])),
            "value_ints" => made(Tensor::list(std::mem::take(&mut attribute.ints))),
            _ => None,
        };
        let constant = constant.ok_or_else(|| format!("its {:?} is no tensor", attribute.name))?;
        self.all.insert(output.clone(), constant);
        Ok(())
    }

    /// Adds initializers of a graph within this one.
    pub(super) fn add(&mut self, dense: Vec<TensorProto>) {
        for tensor in dense {
            self.all.insert(tensor.name.clone(), Constant::Dense(tensor));
        }
    }

    /// The constant that this one is in another order or type; itself if it is none.
    pub(super) fn origin<'a>(&'a self, name: &'a str) -> &'a str {
        self.origins.get(name).map_or(name, String::as_str)
    }

    /// Says that a constant is another moved or cast.
    pub(super) fn derive(&mut self, name: &str, from: &str) -> Reason<()> {
        let origin = self.origin(from).to_owned();
        self.charge::<u8>(2 * (origin.len() + name.len()))?;
        self.origins.insert(name.to_owned(), origin);
        Ok(())
    }

    /// Adds what a node makes of constants.
    pub(super) fn put(&mut self, name: &str, made: Tensor) {
        self.all.insert(name.to_owned(), Constant::Made(made.into()));
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    fn get(&self, name: &str) -> Reason<&Constant> {
        self.all.get(name).ok_or_else(|| format!("{name:?} is no constant"))
    }

    /// Shape and values of a tensor of real numbers.
    pub(super) fn reals(&self, name: &str) -> Reason<(Vec<usize>, Vec<f32>)> {
        let read = |constant: &Constant| match constant {
            Constant::Dense(tensor) => self.dense(tensor),
            Constant::Sparse(tensor) => self.sparse(tensor),
            Constant::Made(tensor) => match &tensor.data {
                Data::Reals(values) => {
                    self.steps(values.len())?;
                    Ok((tensor.dims.clone(), values.clone()))
                }
                Data::Integers(_) => Err("holds whole numbers".into()),
            },
        };
        read(self.get(name)?).map_err(|reason| format!("tensor {name:?} {reason}"))
    }

    /// The one value of a constant of real numbers that has one.
    pub(super) fn scalar(&self, name: &str) -> Option<f32> {
        let elements = match self.all.get(name)? {
            Constant::Dense(tensor) => checked(&tensor.dims).ok()?.1,
            Constant::Sparse(_) => return None,
            Constant::Made(tensor) => tensor.len(),
        };
        match elements {
            1 => self.reals(name).ok()?.1.first().copied(),
            _ => None,
        }
    }

    /// The sizes of a constant.
    pub(super) fn dims(&self, name: &str) -> Reason<Vec<usize>> {
        match self.get(name)? {
            Constant::Dense(tensor) => checked(&tensor.dims).map(|(dims, _)| dims),
            Constant::Sparse(tensor) => checked(&tensor.dims).map(|(dims, _)| dims),
            Constant::Made(tensor) => Ok(tensor.dims.clone()),
        }
    }

    /// Any constant as an array.
    pub(super) fn tensor(&self, name: &str) -> Reason<Rc<Tensor>> {
        let found = match self.get(name)? {
            Constant::Made(tensor) => return Ok(tensor.clone()),
            Constant::Dense(tensor) => self.decoded(tensor),
            Constant::Sparse(tensor) => {
                self.sparse(tensor).map(|(dims, values)| Tensor::reals(dims, values))
            }
        };
        found.map(Rc::new).map_err(|reason| format!("tensor {name:?} {reason}"))
    }

    /// A tensor of the file as an array.
    pub(super) fn decoded(&self, tensor: &TensorProto) -> Reason<Tensor> {
        const REAL: [i32; 4] = [kind::FLOAT, kind::DOUBLE, kind::FLOAT16, kind::BFLOAT16];
        let (dims, count) = checked(&tensor.dims)?;
        if REAL.contains(&tensor.data_type) {
            let (dims, values) = self.dense(tensor)?;
            return Ok(Tensor::reals(dims, values));
        }
        let values = self.whole(tensor)?;
        match values.len() == count {
            true => Ok(Tensor::whole(dims, values)),
            false => Err(format!("of shape {dims:?} has {} values", values.len())),
        }
    }

    /// The values of a tensor of integers.
    pub(super) fn integers(&self, name: &str) -> Reason<Vec<i64>> {
        let found = match self.get(name)? {
            Constant::Dense(tensor) => self.whole(tensor),
            Constant::Made(tensor) => tensor.integers().map(<[i64]>::to_vec),
            Constant::Sparse(_) => Err("does not hold whole numbers".into()),
        };
        found.map_err(|reason| format!("tensor {name:?} {reason}"))
    }

    fn whole(&self, tensor: &TensorProto) -> Reason<Vec<i64>> {
        self.steps(tensor.int64_data.len() + tensor.int32_data.len())?;
        let narrow = || tensor.int32_data.iter().map(|&v| v.into()).collect::<Vec<i64>>();
        let raw = |size| self.raw(tensor, size);
        let listed = !tensor.int32_data.is_empty();
        Ok(match tensor.data_type {
            kind::INT64 if !tensor.int64_data.is_empty() => tensor.int64_data.clone(),
            kind::INT64 | kind::UINT64 => each(&raw(8)?, i64::from_le_bytes),
            kind::INT32 | kind::INT16 | kind::INT8 | kind::UINT16 | kind::UINT8 | kind::BOOL
                if listed =>
            {
                narrow()
            }
            kind::INT32 => each(&raw(4)?, |b| i32::from_le_bytes(b).into()),
            kind::UINT32 => each(&raw(4)?, |b| u32::from_le_bytes(b).into()),
            kind::INT16 => each(&raw(2)?, |b| i16::from_le_bytes(b).into()),
            kind::UINT16 => each(&raw(2)?, |b| u16::from_le_bytes(b).into()),
            kind::INT8 => each(&raw(1)?, |b| i8::from_le_bytes(b).into()),
            kind::UINT8 | kind::BOOL => each(&raw(1)?, |[b]| b.into()),
            other => return Err(format!("has type {other}, which is not read")),
        })
    }

    /// The least and the largest level of the type that a zero point has.
    pub(super) fn range_of_levels(&self, zero: Option<&str>) -> Reason<(f64, f64)> {
        let kind = match zero.map(|name| self.get(name)).transpose()? {
            None => kind::UINT8,
            Some(Constant::Dense(tensor)) => tensor.data_type,
            Some(_) => return Err("a zero point of unknown type".into()),
        };
        Ok(match kind {
            kind::UINT8 => (0.0, 255.0),
            kind::INT8 => (-128.0, 127.0),
            kind::UINT16 => (0.0, 65535.0),
            kind::INT16 => (-32768.0, 32767.0),
            other => return Err(format!("levels of type {other}")),
        })
    }

    fn dense(&self, tensor: &TensorProto) -> Reason<(Vec<usize>, Vec<f32>)> {
        let (dims, count) = checked(&tensor.dims)?;
        let numbers =
            [&tensor.float_data.len(), &tensor.int32_data.len(), &tensor.double_data.len()];
        self.steps(numbers.into_iter().sum())?;
        let narrow = |convert: fn(u16) -> f32| {
            tensor.int32_data.iter().map(|&v| convert(v as u16)).collect::<Vec<f32>>()
        };
        let half = |bits: u16| half::f16::from_bits(bits).to_f32();
        let brain = |bits: u16| half::bf16::from_bits(bits).to_f32();
        let values = match tensor.data_type {
            kind::FLOAT if !tensor.float_data.is_empty() => tensor.float_data.clone(),
            kind::FLOAT => each(&self.raw(tensor, 4)?, f32::from_le_bytes),
            kind::DOUBLE if !tensor.double_data.is_empty() => {
                tensor.double_data.iter().map(|&v| v as f32).collect()
            }
            kind::DOUBLE => each(&self.raw(tensor, 8)?, |b| f64::from_le_bytes(b) as f32),
            kind::FLOAT16 if !tensor.int32_data.is_empty() => narrow(half),
            kind::FLOAT16 => each(&self.raw(tensor, 2)?, |b| half::f16::from_le_bytes(b).to_f32()),
            kind::BFLOAT16 if !tensor.int32_data.is_empty() => narrow(brain),
            kind::BFLOAT16 => {
                each(&self.raw(tensor, 2)?, |b| half::bf16::from_le_bytes(b).to_f32())
            }
            other => return Err(format!("has type {other}, not float, double or a half of them")),
        };
        match values.len() == count {
            true => Ok((dims, values)),
            false => Err(format!("of shape {dims:?} has {} values", values.len())),
        }
    }

    fn sparse(&self, tensor: &SparseTensorProto) -> Reason<(Vec<usize>, Vec<f32>)> {
        let (Some(values), Some(indices)) = (&tensor.values, &tensor.indices) else {
            return Err("has no values or indices".into());
        };
        let (dims, count) = checked(&tensor.dims)?;
        let (_, values) = self.dense(values)?;
        self.charge::<f32>(count)
            .map_err(|e| format!("of shape {dims:?} has {} values, too few: {e}", values.len()))?;
        let at = match indices.data_type {
            kind::INT64 if !indices.int64_data.is_empty() => indices.int64_data.clone(),
            kind::INT64 => each(&self.raw(indices, 8)?, i64::from_le_bytes),
            other => return Err(format!("has indices of type {other}, not int64")),
        };
        let whole = [count];
        let axes: &[usize] = match at.len() {
            n if n == values.len() => &whole,
            n if n == values.len() * dims.len() => &dims,
            n => return Err(format!("has {} values and {n} indices", values.len())),
        };
        let mut all = vec![0.0; count];
        for (position, value) in at.chunks(axes.len().max(1)).zip(values) {
            let at = position.iter().zip(axes).try_fold(0usize, |n, (&i, &size)| {
                let i = usize::try_from(i).ok().filter(|&i| i < size)?;
                Some(n * size + i)
            });
            let at = at.and_then(|at| all.get_mut(at));
            *at.ok_or("has an index outside its shape")? = value;
        }
        Ok((dims, all))
    }

    /// The bytes of a tensor with elements of `size` bytes, from the file or beside it.
    fn raw<'a>(&self, tensor: &'a TensorProto, size: usize) -> Reason<std::borrow::Cow<'a, [u8]>> {
        let (dims, count) = checked(&tensor.dims)?;
        let length = count.checked_mul(size).ok_or("is too large")?;
        self.steps(length)?;
        if tensor.data_location == 0 {
            return match tensor.raw_data.len() == length {
                true => Ok((&tensor.raw_data[..]).into()),
                false => Err(format!("of shape {dims:?} has {} bytes", tensor.raw_data.len())),
            };
        }
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key);
        let number = |key: &str, default: u64| match entry(key) {
            None => Ok(default),
            Some(entry) => {
                entry.value.parse().map_err(|_| format!("has a {key} {:?}", entry.value))
            }
        };
        let location = &entry("location").ok_or("has no location")?.value;
        let folder = self.folder.as_deref().ok_or("stands in another file")?;
        let path = inside(folder, location)?;
        let refused = |e: std::io::Error| format!("in {location:?}: {e}");
        if !path.is_file() {
            return Err(format!("in {location:?}, which is no file"));
        }
        let mut file = std::fs::File::open(path).map_err(refused)?;
        let there = file.metadata().map_err(refused)?.len();
        let (offset, stated) = (number("offset", 0)?, number("length", length as u64)?);
        if stated != length as u64
            || offset.checked_add(length as u64).is_none_or(|end| end > there)
        {
            return Err(format!(
                "of shape {dims:?} needs {length} bytes from {offset} on; {stated} are claimed, \
                 {location:?} has {there}"
            ));
        }
        let mut bytes = vec![0; length];
        file.seek(SeekFrom::Start(offset)).map_err(refused)?;
        file.read_exact(&mut bytes).map_err(refused)?;
        Ok(bytes.into())
    }
}

/// A matrix, row by row, as its columns.
pub(super) fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| values[r * cols + c])).collect()
}

/// Bytes of the files in the folder that hold data of these tensors.
fn external_bytes(tensors: &[TensorProto], folder: &Path) -> u64 {
    let outside = tensors.iter().filter(|tensor| tensor.data_location != 0);
    let locations: BTreeSet<&str> = outside
        .filter_map(|tensor| tensor.external_data.iter().find(|entry| entry.key == "location"))
        .map(|entry| entry.value.as_str())
        .collect();
    let files: BTreeSet<PathBuf> =
        locations.into_iter().filter_map(|location| inside(folder, location).ok()).collect();
    let length = |path: &PathBuf| path.metadata().ok().filter(|m| m.is_file()).map(|m| m.len());
    files.iter().filter_map(length).fold(0, u64::saturating_add)
}

/// A path that stays in a folder, links included.
fn inside(folder: &Path, location: &str) -> Reason<PathBuf> {
    let outside = || format!("in {location:?}, which is not in the model's folder");
    let relative = Path::new(location);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let real = |path: &Path| path.canonicalize().map_err(|e| format!("in {location:?}: {e}"));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let path = real(&folder.join(relative))?;
    if path.starts_with(real(folder)?) { Ok(path) } else { Err(outside()) }
}

fn checked(dims: &[i64]) -> Reason<(Vec<usize>, usize)> {
    let sizes: Option<Vec<usize>> = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let sizes = sizes.filter(|sizes| sizes.len() <= 8);
    let found = sizes.and_then(|sizes| elements(&sizes).map(|count| (sizes, count)));
    found.ok_or_else(|| "has no usable shape".into())
}

fn each<T, const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| convert(*chunk)).collect()
}
