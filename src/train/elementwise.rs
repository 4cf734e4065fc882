//! Computations on each number by itself that several layers need.

use super::vector::{Kernel, Real, Vector};

/// Added to the variance of an output where its root is taken.
pub(crate) const VARIANCE_FLOOR: f64 = 1e-12;

/// `squares = x x`.
pub(crate) struct Square<'a, T> {
    pub x: &'a [T],
    pub squares: &'a mut [T],
}

impl<T: Real> Kernel<T> for Square<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let (xs, squares) =
            (self.x.chunks_exact(V::LANES), self.squares.chunks_exact_mut(V::LANES));
        for (x, square) in xs.zip(squares) {
            let x = V::load(x);
            (x * x).store(square);
        }
    }
}

/// `dx += 2 x by_square`.
pub(crate) struct AddTwice<'a, T> {
    pub dx: &'a mut [T],
    pub x: &'a [T],
    pub by_square: &'a [T],
}

impl<T: Real> Kernel<T> for AddTwice<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        for at in (0..self.dx.len()).step_by(V::LANES) {
            let x = V::load(&self.x[at..]);
            let sum = (x + x).fma(V::load(&self.by_square[at..]), V::load(&self.dx[at..]));
            sum.store(&mut self.dx[at..]);
        }
    }
}

/// Closes the gradient where the ReLU did, and takes it on to the variance.
pub(crate) struct BackwardRelu<'a, T> {
    pub gradient: &'a mut [T],
    pub variance_gradient: &'a mut [T],
    pub y: Option<&'a [T]>,
    pub coefficient: Option<&'a [T]>,
}

impl<T: Real> Kernel<T> for BackwardRelu<'_, T> {
    #[inline(always)]
    fn run<V: Vector<Element = T>>(self) {
        let zero = V::splat(0.0);
        for at in (0..self.gradient.len()).step_by(V::LANES) {
            let mut g = V::load(&self.gradient[at..]);
            if let Some(y) = self.y {
                g = V::load(&y[at..]).select_greater(zero, g, zero);
                g.store(&mut self.gradient[at..]);
            }
            if let Some(coefficient) = self.coefficient {
                (g * V::load(&coefficient[at..])).store(&mut self.variance_gradient[at..]);
            }
        }
    }
}
