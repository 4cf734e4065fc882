//! A state dict as a source of tensors: NumPy arrays, read where they lie.

use half::f16;
use numpy::{
    PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use svdo::checkpoint::{DType, TensorInfo, TensorSource};
use svdo::{Error, Result};

/// Named arrays in C order. Arrays of other types than floats and masks are listed, not read.
pub(crate) struct Arrays {
    infos: Vec<TensorInfo>,
    values: Vec<Values>,
    /// What the file's metadata would say: a JSON object with the network.
    metadata: Option<String>,
}

enum Values {
    F32(Py<PyArrayDyn<f32>>),
    F64(Py<PyArrayDyn<f64>>),
    F16(Py<PyArrayDyn<f16>>),
    /// The bytes of an array of bool, which NumPy lets be other than 0 and 1.
    Bool(Py<PyArrayDyn<u8>>),
    U8(Py<PyArrayDyn<u8>>),
    Unread,
}

impl Arrays {
    /// The arrays; `metadata` is what a file would have under the key `svdo`.
    pub(crate) fn new(
        named: &[(String, Bound<'_, PyUntypedArray>)],
        metadata: Option<String>,
    ) -> Self {
        let mut infos = Vec::with_capacity(named.len());
        let mut values = Vec::with_capacity(named.len());
        for (name, array) in named {
            let any = array.as_any();
            let (dtype, value) = if let Ok(array) = any.cast::<PyArrayDyn<f32>>() {
                (DType::F32, Values::F32(array.clone().unbind()))
            } else if let Ok(array) = any.cast::<PyArrayDyn<f64>>() {
                (DType::F64, Values::F64(array.clone().unbind()))
            } else if let Ok(array) = any.cast::<PyArrayDyn<f16>>() {
                (DType::F16, Values::F16(array.clone().unbind()))
            } else if any.cast::<PyArrayDyn<bool>>().is_ok() {
                let bytes = any.call_method1("view", ("uint8",));
                match bytes.ok().and_then(|bytes| bytes.cast_into::<PyArrayDyn<u8>>().ok()) {
                    Some(bytes) => (DType::Bool, Values::Bool(bytes.unbind())),
                    None => (DType::Other("bool"), Values::Unread),
                }
            } else if let Ok(array) = any.cast::<PyArrayDyn<u8>>() {
                (DType::U8, Values::U8(array.clone().unbind()))
            } else {
                (DType::Other(type_name(array)), Values::Unread)
            };
            infos.push(TensorInfo { name: name.clone(), dtype, shape: array.shape().to_vec() });
            values.push(value);
        }
        Self { infos, values, metadata }
    }
}

impl TensorSource for Arrays {
    fn format(&self) -> &'static str {
        "state dict"
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn read(&self, tensor: usize, start: usize, out: &mut [f32]) -> Result<()> {
        Python::attach(|py| match &self.values[tensor] {
            Values::F32(array) => copy(array.bind(py), start, out, |v| v),
            Values::F64(array) => copy(array.bind(py), start, out, |v| v as f32),
            Values::F16(array) => copy(array.bind(py), start, out, f16::to_f32),
            Values::Bool(array) => {
                copy(array.bind(py), start, out, |v| f32::from(u8::from(v != 0)))
            }
            Values::U8(array) => copy(array.bind(py), start, out, f32::from),
            Values::Unread => Err("its type cannot be read".to_owned()),
        })
        .map_err(|problem| Error::Tensor { tensor: self.infos[tensor].name.clone(), problem })
    }

    fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.as_deref().filter(|_| key == "svdo")
    }
}

fn copy<T: numpy::Element + Copy>(
    array: &Bound<'_, PyArrayDyn<T>>,
    start: usize,
    out: &mut [f32],
    convert: impl Fn(T) -> f32,
) -> std::result::Result<(), String> {
    let array = array.try_readonly().map_err(|e| e.to_string())?;
    let values = array.as_slice().map_err(|e| e.to_string())?;
    let range = start..start + out.len();
    let values = values.get(range).ok_or("the array has changed its size")?;
    out.iter_mut().zip(values).for_each(|(out, &value)| *out = convert(value));
    Ok(())
}

/// The name of a type that is not read, as checkpoints call it.
fn type_name(array: &Bound<'_, PyUntypedArray>) -> &'static str {
    let dtype = array.dtype();
    match (dtype.kind(), dtype.itemsize()) {
        (b'u', 2) => "U16",
        (b'u', 4) => "U32",
        (b'u', 8) => "U64",
        (b'i', 1) => "I8",
        (b'i', 2) => "I16",
        (b'i', 4) => "I32",
        (b'i', 8) => "I64",
        (b'c', _) => "complex",
        _ => "another type",
    }
}
