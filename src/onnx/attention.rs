//! `Attention` and `RotaryEmbedding` (opset 23), taken apart into the operations that their specification
//! defines them by.

use super::Reason;
use super::proto::{AttributeProto, NodeProto};
use super::reader::Reader;
use super::tensor::{Data, Tensor};
use super::view::product;

/// Nodes that are taken in one after the other, each with one output that has a name of its own.
struct Steps<'a> {
    reader: &'a mut Reader,
    /// Of the names.
    prefix: String,
    count: usize,
}

impl Steps<'_> {
    fn name(&mut self) -> String {
        self.count += 1;
        format!("{}//{}", self.prefix, self.count)
    }

    fn constant(&mut self, tensor: Tensor) -> Reason<String> {
        let name = self.name();
        self.reader.constants.charge::<i64>(tensor.len())?;
        self.reader.constants.put(&name, tensor);
        Ok(name)
    }

    fn step(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, &[i64])]) -> Reason<String> {
        let name = self.name();
        self.last(op, inputs, attributes, name.clone())?;
        Ok(name)
    }

    fn last(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, &[i64])],
        output: String,
    ) -> Reason<()> {
        let attribute = |&(name, values): &(&str, &[i64])| AttributeProto {
            name: name.to_owned(),
            i: values.first().copied().unwrap_or_default(),
            ints: values.to_vec(),
            ..AttributeProto::default()
        };
        let node = NodeProto {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output],
            op_type: op.to_owned(),
            attribute: attributes.iter().map(attribute).collect(),
            ..NodeProto::default()
        };
        self.reader.node(&node)
    }

    fn reshaped(&mut self, x: &str, dims: &[i64]) -> Reason<String> {
        let dims = self.constant(Tensor::list(dims.to_vec()))?;
        self.step("Reshape", &[x, &dims], &[])
    }

    fn with_number(&mut self, op: &str, x: &str, number: f32) -> Reason<String> {
        let number = self.constant(Tensor::reals(vec![], vec![number]))?;
        self.step(op, &[x, &number], &[])
    }

    /// Features from one to another, every so many.
    fn sliced(&mut self, x: &str, (from, to): (i64, i64), step: i64) -> Reason<String> {
        let mut list = |value| self.constant(Tensor::list(vec![value]));
        let (from, to, axis, step) = (list(from)?, list(to)?, list(-1)?, list(step)?);
        self.step("Slice", &[x, &from, &to, &axis, &step], &[])
    }

    fn dims(&self, name: &str) -> Reason<Vec<usize>> {
        match self.reader.constants.has(name) {
            true => Ok(self.reader.constants.tensor(name)?.dims.clone()),
            false => Ok(self.reader.value(name)?.dims()),
        }
    }

    /// `[batch, heads, steps, features]`.
    fn by_heads(&mut self, x: &str, attribute: &str, node: &NodeProto) -> Reason<String> {
        let dims = self.dims(x)?;
        match dims.len() {
            4 => Ok(x.to_owned()),
            3 => {
                let heads = node.int(attribute, 0);
                if heads < 1 || !dims[2].is_multiple_of(heads as usize) {
                    return Err(format!("{attribute} {heads} for a value of shape {dims:?}"));
                }
                let split = self.reshaped(x, &[0, 0, heads, dims[2] as i64 / heads])?;
                self.step("Transpose", &[&split], &[("perm", &[0, 2, 1, 3])])
            }
            _ => Err(format!("of a value of shape {dims:?}")),
        }
    }

    /// Each head as often as there are heads of queries for it.
    fn repeated(&mut self, x: &str, heads: usize) -> Reason<String> {
        let dims = self.dims(x)?;
        let [_, own, steps, features] = dims[..] else {
            return Err(format!("of a value of shape {dims:?}"));
        };
        if own == heads {
            return Ok(x.to_owned());
        }
        if own == 0 || !heads.is_multiple_of(own) {
            return Err(format!("{heads} heads of queries for {own} of keys"));
        }
        let [own, steps, features] = [own, steps, features].map(|size| size as i64);
        let times = heads as i64 / own;
        let apart = self.reshaped(x, &[0, own, 1, steps, features])?;
        let sizes = self.constant(Tensor::list(vec![1, own, times, steps, features]))?;
        let spread = self.step("Expand", &[&apart, &sizes], &[])?;
        self.reshaped(&spread, &[0, heads as i64, steps, features])
    }

    /// What is added to the scores `[queries, keys]`, by a mask and by where a query and a key stand; none if
    /// every query sees all keys.
    fn hidden(&mut self, node: &NodeProto, queries: usize, keys: usize) -> Reason<Option<String>> {
        let window = |name| usize::try_from(node.int(name, -1)).unwrap_or(usize::MAX);
        let (before, behind) = (window("left_window_size"), window("right_window_size"));
        let behind = if node.int("is_causal", 0) != 0 { 0 } else { behind };
        let mask = match node.input(3).filter(|name| self.reader.constants.has(name)) {
            Some(name) => Some(self.reader.constants.tensor(name)?),
            None if (before, behind) == (usize::MAX, usize::MAX) => return Ok(None),
            None => None,
        };
        let mut dims = mask.as_ref().map_or_else(Vec::new, |mask| mask.dims.clone());
        let last = dims.pop().unwrap_or(keys);
        let rows = dims.pop().unwrap_or(1);
        if rows != queries && rows != 1 || last > keys {
            return Err(format!("a mask of {rows} x {last} for {queries} queries and {keys} keys"));
        }
        let outer = product(dims.iter().copied());
        let count = product([outer, queries, keys].into_iter());
        self.reader.constants.charge::<f32>(count)?;
        // Truth values are integers here.
        let added = |at: usize| match mask.as_ref().map(|mask| &mask.data) {
            Some(Data::Reals(values)) => values[at],
            Some(Data::Integers(values)) if values[at] == 0 => f32::NEG_INFINITY,
            _ => 0.0,
        };
        let mut made = Vec::with_capacity(count);
        for (head, query) in (0..outer * queries).map(|row| (row / queries, row % queries)) {
            let first = made.len();
            for key in 0..keys {
                let near =
                    query.saturating_sub(key) <= before && key.saturating_sub(query) <= behind;
                // A mask of fewer keys hides the others.
                let seen = near && key < last;
                let at = (head * rows + query.min(rows - 1)) * last + key;
                made.push(if seen { added(at) } else { f32::NEG_INFINITY });
            }
            if made[first..].iter().all(|&value| value == f32::NEG_INFINITY) {
                return Err(format!("whose query {query} sees no key"));
            }
        }
        dims.extend([queries, keys]);
        self.constant(Tensor::reals(dims, made)).map(Some)
    }

    /// What a mask that depends on the input adds to the scores, if there is one.
    fn masked(&mut self, node: &NodeProto, queries: usize, keys: usize) -> Reason<Option<String>> {
        let name = match node.input(3) {
            Some(name) if !self.reader.constants.has(name) => name.to_owned(),
            _ => return Ok(None),
        };
        let dims = self.dims(&name)?;
        let fits = match dims[..] {
            [.., rows, last] => (rows == queries || rows == 1) && last == keys,
            _ => false,
        };
        if !fits {
            return Err(format!("a mask of shape {dims:?} for {queries} queries and {keys} keys"));
        }
        if !self.reader.truths.contains(&name) {
            return Ok(Some(name));
        }
        let [seen, hidden] = [0.0, f32::NEG_INFINITY];
        let seen = self.constant(Tensor::reals(vec![], vec![seen]))?;
        let hidden = self.constant(Tensor::reals(vec![], vec![hidden]))?;
        self.step("Where", &[&name, &seen, &hidden], &[]).map(Some)
    }
}

impl Reader {
    fn steps(&mut self, node: &NodeProto) -> Reason<(Steps<'_>, String)> {
        let output = node.output.first().filter(|name| !name.is_empty()).cloned();
        let output = output.ok_or("has no output")?;
        Ok((Steps { reader: self, prefix: output.clone(), count: 0 }, output))
    }

    /// Scaled dot product attention over heads: queries, keys, values, perhaps a mask.
    pub(super) fn attention(&mut self, node: &NodeProto) -> Reason<()> {
        if (4..=6).any(|at| node.input(at).is_some()) {
            return Err("with keys and values of the past".into());
        }
        if node
            .output
            .iter()
            .skip(1)
            .any(|name| !name.is_empty() && self.readers.contains_key(name))
        {
            return Err("whose keys, values or scores are an output".into());
        }
        let [q, k, v] = [0, 1, 2].map(|at| node.input(at).map(str::to_owned));
        let (Some(q), Some(k), Some(v)) = (q, k, v) else {
            return Err("takes queries, keys and values".into());
        };
        let (mut steps, output) = self.steps(node)?;
        let in_rows = steps.dims(&q)?.len() == 3;
        let q = steps.by_heads(&q, "q_num_heads", node)?;
        let [k, v] = [k, v].map(|x| steps.by_heads(&x, "kv_num_heads", node));
        let dims = steps.dims(&q)?;
        let (heads, queries, features) = (dims[1], dims[2], dims[3]);
        let (k, v) = (steps.repeated(&k?, heads)?, steps.repeated(&v?, heads)?);
        let keys = steps.dims(&k)?[2];
        let scale = match node.float("scale", 0.0) {
            0.0 => (features as f32).sqrt().recip(),
            scale => scale,
        };
        let k = steps.step("Transpose", &[&k], &[("perm", &[0, 1, 3, 2])])?;
        let scores = steps.step("MatMul", &[&q, &k], &[])?;
        let mut scores = steps.with_number("Mul", &scores, scale)?;
        let softcap = node.float("softcap", 0.0);
        if softcap > 0.0 {
            let small = steps.with_number("Div", &scores, softcap)?;
            let bounded = steps.step("Tanh", &[&small], &[])?;
            scores = steps.with_number("Mul", &bounded, softcap)?;
        }
        let added = steps.masked(node, queries, keys)?;
        let hidden = match (added, steps.hidden(node, queries, keys)?) {
            (Some(added), Some(hidden)) => Some(steps.step("Add", &[&added, &hidden], &[])?),
            (added, hidden) => added.or(hidden),
        };
        if let Some(hidden) = hidden {
            scores = steps.step("Add", &[&scores, &hidden], &[])?;
        }
        let weights = steps.step("Softmax", &[&scores], &[("axis", &[-1])])?;
        if !in_rows {
            return steps.last("MatMul", &[&weights, &v], &[], output);
        }
        let mixed = steps.step("MatMul", &[&weights, &v], &[])?;
        let rows = steps.step("Transpose", &[&mixed], &[("perm", &[0, 2, 1, 3])])?;
        let width = steps.dims(&v)?[3] * heads;
        let dims = steps.constant(Tensor::list(vec![0, 0, width as i64]))?;
        steps.last("Reshape", &[&rows, &dims], &[], output)
    }

    /// Pairs of features turned by angles of their positions (RoFormer, arXiv 2104.09864).
    pub(super) fn rotary(&mut self, node: &NodeProto) -> Reason<()> {
        let names = [0, 1, 2].map(|at| node.input(at).map(str::to_owned));
        let [Some(x), Some(cos), Some(sin)] = names else {
            return Err("takes a value, cosines and sines".into());
        };
        let (mut steps, output) = self.steps(node)?;
        let whole = steps.dims(&x)?;
        let in_rows = whole.len() == 3;
        let x = steps.by_heads(&x, "num_heads", node)?;
        let size = steps.dims(&x)?[3];
        let turned = match usize::try_from(node.int("rotary_embedding_dim", 0)) {
            Ok(0) => size,
            Ok(turned) if turned <= size && turned % 2 == 0 => turned,
            _ => return Err(format!("rotary_embedding_dim of {size} features")),
        };
        let axis = steps.constant(Tensor::list(vec![1]))?;
        let [cos, sin] = [cos, sin].map(|table| {
            let table = match node.input(3) {
                Some(positions) if steps.reader.constants.has(positions) => {
                    steps.step("Gather", &[&table, positions], &[("axis", &[0])])?
                }
                Some(_) => return Err("at positions that depend on the input".to_owned()),
                None => table,
            };
            steps.step("Unsqueeze", &[&table, &axis], &[])
        });
        let (cos, sin) = (cos?, sin?);
        let half = turned as i64 / 2;
        let apart = node.int("interleaved", 0) == 0;
        let [(a0, a1), (b0, b1)] = match apart {
            true => [(0, half), (half, 2 * half)],
            false => [(0, 2 * half), (1, 2 * half)],
        };
        let step = if apart { 1 } else { 2 };
        let a = steps.sliced(&x, (a0, a1), step)?;
        let b = steps.sliced(&x, (b0, b1), step)?;
        let product = |steps: &mut Steps<'_>, x: &str, by: &str| steps.step("Mul", &[x, by], &[]);
        let (ac, bs) = (product(&mut steps, &a, &cos)?, product(&mut steps, &b, &sin)?);
        let (a_s, bc) = (product(&mut steps, &a, &sin)?, product(&mut steps, &b, &cos)?);
        let mut real = steps.step("Sub", &[&ac, &bs], &[])?;
        let mut imaginary = steps.step("Add", &[&a_s, &bc], &[])?;
        if !apart {
            let last = steps.constant(Tensor::list(vec![4]))?;
            real = steps.step("Unsqueeze", &[&real, &last], &[])?;
            imaginary = steps.step("Unsqueeze", &[&imaginary, &last], &[])?;
        }
        let mut made = steps.step("Concat", &[&real, &imaginary], &[("axis", &[-1])])?;
        if !apart {
            made = steps.reshaped(&made, &[0, 0, 0, turned as i64])?;
        }
        if turned < size {
            let rest = steps.sliced(&x, (turned as i64, size as i64), 1)?;
            made = steps.step("Concat", &[&made, &rest], &[("axis", &[-1])])?;
        }
        if in_rows {
            made = steps.step("Transpose", &[&made], &[("perm", &[0, 2, 1, 3])])?;
        }
        let dims: Vec<i64> = match in_rows {
            true => vec![0, 0, whole[2] as i64],
            false => vec![0; 4],
        };
        let dims = steps.constant(Tensor::list(dims))?;
        steps.last("Reshape", &[&made, &dims], &[], output)
    }
}
