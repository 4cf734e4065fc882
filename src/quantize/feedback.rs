//! Second-order error feedback: what the weights of a unit that are still free should be, given the
//! levels of those that are not (optimal brain surgeon, Hassibi and Stork 1993, weight after weight
//! as in GPTQ, Frantar et al. 2023).
//!
//! The change of a unit's output is the quadratic `q' A q - 2 b' q` in its weights q. With
//! `A = L' D L`, L unit lower triangular, it is the sum over k of `D_k (q_k - t_k)^2`, where
//! `t_k = z_k - sum over j < k of L_kj q_j`: the best value of weight k once those before it are
//! set and those after it are free. No inverse is needed.

use std::sync::Arc;

/// A lower triangular matrix, row by row.
#[derive(Debug, Clone)]
struct Triangle(Vec<f64>);

impl Triangle {
    fn row(&self, row: usize) -> &[f64] {
        &self.0[row * (row + 1) / 2..][..=row]
    }

    fn rows_mut(&mut self, low: usize, high: usize) -> (&mut [f64], &[f64]) {
        let (before, from) = self.0.split_at_mut(high * (high + 1) / 2);
        (&mut before[low * (low + 1) / 2..][..=low], &from[..=high])
    }
}

/// A as L and D, which depend on the inputs alone.
#[derive(Debug, Clone)]
pub(super) struct Factor(
    /// L, with D in its diagonal.
    Triangle,
);

impl Factor {
    /// Of the matrix A of n rows, of which `a(row, column)` gives the elements with `column <= row`. It
    /// must be positive definite.
    pub fn new(n: usize, a: impl Fn(usize, usize) -> f64) -> Self {
        let elements = (0..n).flat_map(|row| (0..=row).map(move |column| (row, column)));
        let mut factor = Triangle(elements.map(|(row, column)| a(row, column)).collect());
        for k in (0..n).rev() {
            let pivot = factor.row(k)[k];
            for value in &mut factor.0[k * (k + 1) / 2..][..k] {
                *value /= pivot;
            }
            for i in 0..k {
                let (row, last) = factor.rows_mut(i, k);
                let by = last[i] * pivot;
                row.iter_mut().zip(last).for_each(|(value, l)| *value -= by * l);
            }
        }
        Self(factor)
    }

    /// Elements that are kept.
    pub fn elements(&self) -> usize {
        self.0.0.len()
    }
}

/// The quadratic of one unit, weight after weight.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    factor: Arc<Factor>,
    targets: Vec<f64>,
}

impl Unit {
    /// With the vector b.
    pub fn new(factor: Arc<Factor>, mut b: Vec<f64>) -> Self {
        for k in (0..b.len()).rev() {
            let row = factor.0.row(k);
            // b becomes D L q.
            let (before, from) = b.split_at_mut(k);
            before.iter_mut().zip(row).for_each(|(b, l)| *b -= l * from[0]);
            from[0] /= row[k];
        }
        Self { factor, targets: b }
    }

    /// The best value of weight k, given those before it, and what a squared deviation costs.
    pub fn target(&self, k: usize, before: &[f64]) -> (f64, f64) {
        let row = self.factor.0.row(k);
        let fixed: f64 = row[..k].iter().zip(before).map(|(l, q)| l * q).sum();
        (self.targets[k] - fixed, row[k])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Matrix = Vec<Vec<f64>>;

    /// Samples of correlated inputs, outputs, and the moments A and b.
    fn problem(n: usize, samples: usize) -> (Matrix, Vec<f64>, Matrix, Vec<f64>) {
        let mut state = 9u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5
        };
        let x: Vec<Vec<f64>> = (0..samples)
            .map(|_| {
                let shared = next();
                (0..n).map(|_| next() + shared).collect()
            })
            .collect();
        let y: Vec<f64> = x.iter().map(|x| x.iter().sum::<f64>() + next()).collect();
        let dot = |f: &dyn Fn(usize) -> f64| (0..samples).map(f).sum::<f64>();
        let a = (0..n).map(|i| (0..n).map(|j| dot(&|s| x[s][i] * x[s][j])).collect()).collect();
        let b = (0..n).map(|i| dot(&|s| x[s][i] * y[s])).collect();
        (x, y, a, b)
    }

    /// Gaussian elimination with pivoting.
    fn solve(mut a: Matrix, mut b: Vec<f64>) -> Vec<f64> {
        let n = b.len();
        for k in 0..n {
            let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs())).unwrap();
            a.swap(k, pivot);
            b.swap(k, pivot);
            for i in k + 1..n {
                let by = a[i][k] / a[k][k];
                let pivot = a[k].clone();
                a[i].iter_mut().zip(&pivot).for_each(|(value, above)| *value -= by * above);
                b[i] -= by * b[k];
            }
        }
        for k in (0..n).rev() {
            let rest: f64 = (k + 1..n).map(|j| a[k][j] * b[j]).sum();
            b[k] = (b[k] - rest) / a[k][k];
        }
        b
    }

    fn loss(x: &[Vec<f64>], y: &[f64], q: &[f64]) -> f64 {
        let output = |x: &Vec<f64>| x.iter().zip(q).map(|(x, q)| x * q).sum::<f64>();
        x.iter().zip(y).map(|(x, y)| (output(x) - y).powi(2)).sum()
    }

    #[test]
    fn targets_and_costs_are_those_of_least_squares_over_the_free_weights() {
        let n = 7;
        let (x, y, a, b) = problem(n, 40);
        let unit = Unit::new(Arc::new(Factor::new(n, |i, j| a[i][j])), b.clone());
        let mut fixed: Vec<f64> = Vec::new();
        for k in 0..n {
            // The free weights k.. by brute force, with those before k moved to the other side.
            let free = |from: usize, fixed: &[f64]| {
                let a_free = (from..n).map(|i| a[i][from..].to_vec()).collect();
                let b_free = (from..n)
                    .map(|i| b[i] - fixed.iter().enumerate().map(|(j, q)| a[i][j] * q).sum::<f64>())
                    .collect();
                let refit = if from < n { solve(a_free, b_free) } else { Vec::new() };
                [fixed, &refit].concat()
            };
            let best = free(k, &fixed);
            let (target, curvature) = unit.target(k, &fixed);
            assert!((target - best[k]).abs() < 1e-9, "{k}: {target} {}", best[k]);
            // What a deviation costs once the rest has made the best of it.
            fixed.push(target + 0.3);
            let rise = loss(&x, &y, &free(k + 1, &fixed)) - loss(&x, &y, &best);
            assert!((rise - curvature * 0.09).abs() < 1e-8, "{k}: {rise} {curvature}");
        }
    }
}
