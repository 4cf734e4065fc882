//! Operations on whole constant arrays: their parts put together, picked, reduced.

use std::rc::Rc;

use super::Reason;
use super::evaluate::Evaluation;
use super::movement::IRREGULAR;
use super::tensor::{Data, Tensor};
use super::view::{axes, axis, elements};

impl Evaluation<'_> {
    pub(super) fn concat(&self) -> Reason<Tensor> {
        let first = self.input(0)?;
        let at = axis(self.node.int("axis", 0), first.dims.len())?;
        let all: Vec<&Tensor> = self.inputs.iter().flatten().map(Rc::as_ref).collect();
        let mut dims = first.dims.clone();
        dims[at] = 0;
        for x in &all {
            let same = |i: usize| i == at || x.dims.get(i) == Some(&dims[i]);
            if x.dims.len() != dims.len() || !(0..dims.len()).all(same) {
                return Err(format!("of shapes {:?} and {:?}", first.dims, x.dims));
            }
            dims[at] += x.dims[at];
        }
        self.charge(all.iter().map(|x| x.len()).sum())?;
        let outer: usize = dims[..at].iter().product();
        let part =
            |x: &Tensor, i: usize| (i * x.len() / outer.max(1), (i + 1) * x.len() / outer.max(1));
        let data = if all.iter().all(|x| !x.is_real()) {
            let mut values = Vec::new();
            for i in 0..outer {
                for x in &all {
                    let (start, end) = part(x, i);
                    values.extend_from_slice(&x.integers()?[start..end]);
                }
            }
            Data::Integers(values)
        } else {
            let reals: Vec<_> = all.iter().map(|x| x.to_reals()).collect();
            let mut values = Vec::new();
            for i in 0..outer {
                for (x, reals) in all.iter().zip(&reals) {
                    let (start, end) = part(x, i);
                    values.extend_from_slice(&reals[start..end]);
                }
            }
            Data::Reals(values)
        };
        Ok(Tensor { dims, data })
    }

    pub(super) fn constant_of_shape(&self) -> Reason<Tensor> {
        let sizes = self.input(0)?.integers()?.iter().map(|&v| usize::try_from(v).ok());
        let dims = sizes.collect::<Option<Vec<usize>>>().ok_or("a negative size")?;
        let count = elements(&dims).ok_or("is too large")?;
        self.charge(count)?;
        let value = match self.node.attribute("value").and_then(|a| a.t.as_ref()) {
            Some(value) => self.constants.decoded(value)?,
            None => Tensor::reals(vec![1], vec![0.0]),
        };
        let data = match &value.data {
            Data::Reals(one) => Data::Reals(vec![*one.first().ok_or("has no value")?; count]),
            Data::Integers(one) => Data::Integers(vec![*one.first().ok_or("has no value")?; count]),
        };
        Ok(Tensor { dims, data })
    }

    pub(super) fn range(&self) -> Reason<Tensor> {
        let (start, limit, step) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let one = |x: &Tensor| x.to_reals().first().copied().ok_or("an empty bound".to_owned());
        let count =
            ((f64::from(one(limit)?) - f64::from(one(start)?)) / f64::from(one(step)?)).ceil();
        if !(0.0..1e9).contains(&count) {
            return Err("bounds without end".into());
        }
        let count = count as usize;
        self.charge(count)?;
        Ok(match (&start.data, &step.data) {
            (Data::Integers(start), Data::Integers(step)) => {
                let value = |i: usize| start[0].wrapping_add(step[0].wrapping_mul(i as i64));
                Tensor::list((0..count).map(value).collect())
            }
            _ => {
                let (start, step) = (one(start)?, one(step)?);
                let values = (0..count).map(|i| start + i as f32 * step).collect();
                Tensor::reals(vec![count], values)
            }
        })
    }

    pub(super) fn gather(&self) -> Reason<Tensor> {
        match self.moved() {
            Err(reason) if reason == IRREGULAR => {}
            other => return other?.pop().ok_or("has no output".into()),
        }
        let (x, indices) = (self.input(0)?, self.input(1)?);
        let at = axis(self.node.int("axis", 0), x.dims.len())?;
        let size = x.dims[at];
        let found = indices.integers()?.iter().map(|&v| axis(v, size));
        let found = found.collect::<Reason<Vec<usize>>>()?;
        let inner: usize = x.dims[at + 1..].iter().product();
        let outer: usize = x.dims[..at].iter().product();
        self.charge(outer.saturating_mul(found.len()).saturating_mul(inner))?;
        let from = (0..outer).flat_map(|o| {
            found.iter().flat_map(move |&i| (0..inner).map(move |n| (o * size + i) * inner + n))
        });
        Ok(x.picked(from, [&x.dims[..at], &indices.dims, &x.dims[at + 1..]].concat()))
    }

    /// Elements of an array, each at an index of its own along an axis.
    pub(super) fn gathered_elements(&self) -> Reason<Tensor> {
        let (x, indices) = (self.input(0)?, self.input(1)?);
        let at = axis(self.node.int("axis", 0), x.dims.len())?;
        let inside = |i: usize| i == at || indices.dims[i] <= x.dims[i];
        if indices.dims.len() != x.dims.len() || !(0..x.dims.len()).all(inside) {
            return Err(format!("of shapes {:?} and {:?}", x.dims, indices.dims));
        }
        self.charge(indices.len())?;
        let mut places = Vec::with_capacity(indices.len());
        for (number, &index) in indices.integers()?.iter().enumerate() {
            let (mut rest, mut place, mut stride) = (number, 0, 1);
            for i in (0..x.dims.len()).rev() {
                let along = rest % indices.dims[i];
                rest /= indices.dims[i];
                let along = if i == at { axis(index, x.dims[at])? } else { along };
                place += along * stride;
                stride *= x.dims[i];
            }
            places.push(place);
        }
        Ok(x.picked(places.into_iter(), indices.dims.clone()))
    }

    /// Parts of an array replaced.
    pub(super) fn scattered(&self) -> Reason<Tensor> {
        let (x, indices, updates) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let refused =
            || format!("of shapes {:?}, {:?} and {:?}", x.dims, indices.dims, updates.dims);
        if !matches!(self.node.text("reduction").as_str(), "" | "none") {
            return Err("with a reduction".into());
        }
        let &depth =
            indices.dims.last().filter(|&&d| d > 0 && d <= x.dims.len()).ok_or_else(refused)?;
        let part: usize = x.dims[depth..].iter().product();
        let places = indices.integers()?;
        self.charge(x.len())?;
        if updates.len() != places.len() / depth * part || x.is_real() != updates.is_real() {
            return Err(refused());
        }
        let mut made = x.clone();
        for (number, place) in places.chunks_exact(depth).enumerate() {
            let mut at = 0;
            for (&index, &size) in place.iter().zip(&x.dims) {
                at = at * size + axis(index, size)?;
            }
            let (to, from) = (at * part..(at + 1) * part, number * part..(number + 1) * part);
            match (&mut made.data, &updates.data) {
                (Data::Reals(to_all), Data::Reals(all)) => to_all[to].copy_from_slice(&all[from]),
                (Data::Integers(to_all), Data::Integers(all)) => {
                    to_all[to].copy_from_slice(&all[from]);
                }
                _ => return Err(refused()),
            }
        }
        Ok(made)
    }

    pub(super) fn reduce(&self) -> Reason<Tensor> {
        let x = self.input(0)?;
        let rank = x.dims.len();
        let stated = self.node.integers("axes", 1, self.constants)?;
        let over = match stated {
            Some(stated) if !stated.is_empty() => axes(&stated, rank)?,
            _ if self.node.int("noop_with_empty_axes", 0) != 0 => return Ok(x.clone()),
            _ => (0..rank).collect(),
        };
        let kept: Vec<usize> = (0..rank).filter(|at| !over.contains(at)).collect();
        let order: Vec<usize> = kept.iter().chain(&over).copied().collect();
        let length: usize = over.iter().map(|&at| x.dims[at]).product();
        self.charge(x.len())?;
        if length == 0 {
            return Err("of nothing".into());
        }
        let sorted = x.through(&x.view().permuted(&order), None);
        let dims: Vec<usize> = match self.node.int("keepdims", 1) {
            0 => kept.iter().map(|&at| x.dims[at]).collect(),
            _ => (0..rank).map(|at| if over.contains(&at) { 1 } else { x.dims[at] }).collect(),
        };
        let op = self.node.op_type.as_str();
        if let Data::Integers(values) = &sorted.data {
            let groups = values.chunks_exact(length);
            let each: fn(&[i64]) -> i64 = match op {
                "ReduceSum" => |g| g.iter().fold(0, |n, &v| n.wrapping_add(v)),
                "ReduceProd" => |g| g.iter().fold(1, |n, &v| n.wrapping_mul(v)),
                "ReduceMax" => |g| g.iter().copied().max().unwrap_or(0),
                "ReduceMin" => |g| g.iter().copied().min().unwrap_or(0),
                _ => return Err(format!("{op} of integers")),
            };
            return Ok(Tensor::whole(dims, groups.map(each).collect()));
        }
        let values = sorted.to_reals();
        let wide = |g: &[f32], f: fn(f64) -> f64| g.iter().map(|&v| f(v.into())).sum::<f64>();
        let each = |g: &[f32]| match op {
            "ReduceSum" => Ok(wide(g, |v| v) as f32),
            "ReduceMean" => Ok((wide(g, |v| v) / length as f64) as f32),
            "ReduceProd" => Ok(g.iter().product()),
            "ReduceMax" => Ok(g.iter().copied().fold(f32::NEG_INFINITY, f32::max)),
            "ReduceMin" => Ok(g.iter().copied().fold(f32::INFINITY, f32::min)),
            "ReduceL1" => Ok(wide(g, f64::abs) as f32),
            "ReduceL2" => Ok(wide(g, |v| v * v).sqrt() as f32),
            "ReduceSumSquare" => Ok(wide(g, |v| v * v) as f32),
            _ => Err(format!("{op} of a constant")),
        };
        let reduced = values.chunks_exact(length).map(each).collect::<Reason<Vec<f32>>>()?;
        Ok(Tensor::reals(dims, reduced))
    }

    /// An identity matrix, or a matrix without one of its triangles.
    pub(super) fn triangle(&self) -> Reason<Tensor> {
        let x = self.input(0)?;
        let [.., rows, cols] = x.dims[..] else { return Err(format!("of shape {:?}", x.dims)) };
        self.charge(x.len())?;
        let eye = self.node.op_type == "EyeLike";
        let k = match self.inputs.get(1).and_then(Option::as_ref) {
            Some(k) => k.integers()?.first().copied().unwrap_or(0),
            None => self.node.int("k", 0),
        };
        let upper = self.node.int("upper", 1) != 0;
        let stays = |at: usize| {
            let over = (at % cols) as i64 - (at / cols % rows) as i64 - k;
            if eye {
                over == 0
            } else if upper {
                over >= 0
            } else {
                over <= 0
            }
        };
        let data = match &x.data {
            _ if eye => Data::Reals((0..x.len()).map(|at| f32::from(stays(at))).collect()),
            Data::Reals(values) => Data::Reals(kept(values, stays)),
            Data::Integers(values) => Data::Integers(kept(values, stays)),
        };
        Ok(Tensor { dims: x.dims.clone(), data })
    }

    pub(super) fn cumulative_sum(&self) -> Reason<Tensor> {
        let (x, at) = (self.input(0)?, self.input(1)?.integers()?.first().copied().unwrap_or(0));
        let at = axis(at, x.dims.len())?;
        if self.node.int("exclusive", 0) != 0 || self.node.int("reverse", 0) != 0 {
            return Err("exclusive or reverse".into());
        }
        self.charge(x.len())?;
        let inner: usize = x.dims[at + 1..].iter().product();
        let mut sums = x.clone();
        let follows = |i: usize| !(i / inner).is_multiple_of(x.dims[at]);
        match &mut sums.data {
            Data::Reals(v) => {
                (inner..v.len()).filter(|&i| follows(i)).for_each(|i| v[i] += v[i - inner])
            }
            Data::Integers(v) => {
                (inner..v.len())
                    .filter(|&i| follows(i))
                    .for_each(|i| v[i] = v[i].wrapping_add(v[i - inner]));
            }
        }
        Ok(sums)
    }

    pub(super) fn product(&self) -> Reason<Tensor> {
        let (a, b) = (self.input(0)?, self.input(1)?);
        let ([m, k], [k2, n]) = (&a.dims[..], &b.dims[..]) else {
            return Err(format!("of constants of shapes {:?} and {:?}", a.dims, b.dims));
        };
        if k != k2 {
            return Err(format!("of shapes {:?} and {:?}", a.dims, b.dims));
        }
        self.constants.steps(m.saturating_mul(*k).saturating_mul(*n))?;
        self.charge(m * n)?;
        let (x, y) = (a.to_reals(), b.to_reals());
        let at = |i: usize| {
            let (row, col) = (i / n, i % n);
            let sum: f64 =
                (0..*k).map(|j| f64::from(x[row * k + j]) * f64::from(y[j * n + col])).sum();
            sum as f32
        };
        Ok(Tensor::reals(vec![*m, *n], (0..m * n).map(at).collect()))
    }

    /// Levels from numbers or numbers from levels, with one scale for all or one along an axis.
    pub(super) fn quantized(&self) -> Reason<Tensor> {
        let (x, scale) = (self.input(0)?, self.input(1)?);
        self.charge(x.len())?;
        if self.node.int("block_size", 0) != 0 {
            return Err("in blocks".into());
        }
        let along = |part: &Tensor| -> Reason<Vec<f32>> {
            if part.len() == 1 {
                return Ok(vec![part.to_reals()[0]; x.len()]);
            }
            let at = axis(self.node.int("axis", 1), x.dims.len())?;
            let inner: usize = x.dims[at + 1..].iter().product();
            if part.dims != [x.dims[at]] {
                return Err(format!("a scale of shape {:?} for shape {:?}", part.dims, x.dims));
            }
            let values = part.to_reals();
            Ok((0..x.len()).map(|i| values[i / inner % values.len()]).collect())
        };
        let scale = along(scale)?;
        let zero = match self.inputs.get(2).and_then(Option::as_ref) {
            Some(zero) => along(zero)?,
            None => vec![0.0; x.len()],
        };
        let values = x.to_reals();
        if self.node.op_type == "DequantizeLinear" {
            let number = |i: usize| (values[i] - zero[i]) * scale[i];
            return Ok(Tensor::reals(x.dims.clone(), (0..x.len()).map(number).collect()));
        }
        let (low, high) = self.constants.range_of_levels(self.node.input(2))?;
        let level = |i: usize| {
            f64::from((values[i] / scale[i]).round_ties_even() + zero[i]).clamp(low, high) as i64
        };
        Ok(Tensor::whole(x.dims.clone(), (0..x.len()).map(level).collect()))
    }
}

fn kept<T: Copy + Default>(values: &[T], stays: impl Fn(usize) -> bool) -> Vec<T> {
    values.iter().enumerate().map(|(at, &v)| if stays(at) { v } else { T::default() }).collect()
}
