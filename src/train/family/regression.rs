//! Linear regression under multiplicative noise, in closed form.
//!
//! With w ~ N(theta, alpha theta^2) the expected squared error of `y = X w` is
//! `|y - X theta|^2 + sum_j alpha_j (X'X)_jj theta_j^2`: ridge regression with one penalty for each
//! feature. The log-uniform prior's KL does not depend on theta, so the best theta for given alphas is
//! `(X'X + diag(X'X) diag(alpha))^-1 X'y`. For orthonormal features it is `(X'y)_j / (1 + alpha_j)`:
//! as alpha grows, theta falls like 1 / alpha and so does the noise `alpha theta^2`, which is how an
//! infinite alpha removes a weight instead of drowning the output.

use crate::error::{Error, Result};

/// The best theta for the log alpha of each feature; `x` is [samples, features].
///
/// # Errors
/// If the shapes do not fit, or X'X is singular where alpha is zero.
pub fn theta(x: &[f64], y: &[f64], log_alpha: &[f64]) -> Result<Vec<f64>> {
    let features = log_alpha.len();
    if features == 0 || x.len() != y.len() * features {
        return Err(Error::data(format!(
            "{} values are not {} samples of {features} features",
            x.len(),
            y.len()
        )));
    }
    // In units of each feature's scale, a matrix with a diagonal of 1 + alpha; divided by its root
    // on both sides so that even an infinite alpha is an ordinary number.
    let gram = |i: usize, j: usize| x.chunks(features).map(|row| row[i] * row[j]).sum::<f64>();
    let scale: Vec<f64> = (0..features)
        .map(|j| 1.0 / libm::sqrt(gram(j, j) * (1.0 + libm::exp(log_alpha[j]))))
        .map(|s| if s.is_finite() { s } else { 0.0 })
        .collect();
    let mut matrix = vec![0.0; features * features];
    for i in 0..features {
        for j in 0..=i {
            matrix[i * features + j] = if i == j { 1.0 } else { gram(i, j) * scale[i] * scale[j] };
        }
    }
    let mut values: Vec<f64> = (0..features)
        .map(|j| scale[j] * x.chunks(features).zip(y).map(|(row, y)| row[j] * y).sum::<f64>())
        .collect();
    cholesky(&mut matrix, features)?;
    for i in 0..features {
        let known: f64 = (0..i).map(|j| matrix[i * features + j] * values[j]).sum();
        values[i] = (values[i] - known) / matrix[i * features + i];
    }
    for i in (0..features).rev() {
        let known: f64 = (i + 1..features).map(|j| matrix[j * features + i] * values[j]).sum();
        values[i] = (values[i] - known) / matrix[i * features + i];
    }
    Ok(values.iter().zip(scale).map(|(v, s)| v * s).collect())
}

/// The lower triangle L of `L L' = A`, in place of A's.
fn cholesky(a: &mut [f64], n: usize) -> Result<()> {
    for i in 0..n {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum();
            let rest = a[i * n + j] - known;
            if i > j {
                a[i * n + j] = rest / a[j * n + j];
            } else if rest > 1e-12 {
                a[i * n + i] = libm::sqrt(rest);
            } else {
                return Err(Error::data(format!(
                    "feature {i} is a combination of those before it: give it noise or drop it"
                )));
            }
        }
    }
    Ok(())
}
