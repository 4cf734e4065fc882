//! Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308): in F(4x4, 3x3), a tile of four by four outputs of
//! a convolution of 3x3 sees six by six inputs. Transformed, inputs and weights are multiplied one by one, 36
//! products where there were 144, and the products are transformed to outputs. F(2x2, 3x3) is the same of
//! four by four inputs, with 16 products for 36.
//!
//! A transform does the same along both axes of a tile. Each has an adjoint, which takes a gradient by what
//! it gives to the gradient by what it is given.

use crate::simd::Vector;

/// Outputs of a tile of F(4x4, 3x3), along an axis.
pub(crate) const OUT: usize = 4;

/// Its inputs.
pub(crate) const IN: usize = 6;

/// Numbers of a transformed tile.
pub(crate) const NUMBERS: usize = IN * IN;

/// The transform of three weights along an axis: six numbers.
pub(crate) const OF_WEIGHTS: [[f64; 3]; IN] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// N numbers along an axis to M.
pub(crate) trait Transform<const N: usize, const M: usize> {
    /// Along one axis.
    fn along<V: Vector>(x: [V; N]) -> [V; M];

    /// Along both axes of a tile.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // a tile is read by its coordinates
    fn of<V: Vector>(tile: [[V; N]; N]) -> [[V; M]; M] {
        let mut columns = [[V::splat(0.0); M]; N];
        for j in 0..N {
            let mut column = [V::splat(0.0); N];
            for i in 0..N {
                column[i] = tile[i][j];
            }
            columns[j] = Self::along(column);
        }
        let mut rows = [[V::splat(0.0); M]; M];
        for i in 0..M {
            let mut row = [V::splat(0.0); N];
            for j in 0..N {
                row[j] = columns[j][i];
            }
            rows[i] = Self::along(row);
        }
        rows
    }
}

/// Inputs transformed.
pub(crate) struct OfInputs;

impl Transform<IN, IN> for OfInputs {
    #[inline(always)]
    fn along<V: Vector>([a, b, c, d, e, f]: [V; IN]) -> [V; IN] {
        let (one, minus) = (V::splat(1.0), V::splat(-1.0));
        let (two, minus_two) = (V::splat(2.0), V::splat(-2.0));
        let (four, five) = (V::splat(-4.0), V::splat(-5.0));
        let (even, odd) = (c.fma(four, e), b.fma(four, d));
        let (second, first) = (c.fma(minus, e), b.fma(minus, d));
        [
            a.fma(V::splat(4.0), c.fma(five, e)),
            one.fma(even, odd),
            odd.fma(minus, even),
            first.fma(two, second),
            first.fma(minus_two, second),
            b.fma(V::splat(4.0), d.fma(five, f)),
        ]
    }
}

/// Products of transforms to outputs.
pub(crate) struct OfProducts;

impl Transform<IN, OUT> for OfProducts {
    #[inline(always)]
    fn along<V: Vector>([a, b, c, d, e, f]: [V; IN]) -> [V; OUT] {
        let (one, minus) = (V::splat(1.0), V::splat(-1.0));
        let (two, four, eight) = (V::splat(2.0), V::splat(4.0), V::splat(8.0));
        let (sum, difference) = (one.fma(b, c), c.fma(minus, b));
        let (sums, differences) = (one.fma(d, e), e.fma(minus, d));
        [
            one.fma(a, one.fma(sum, sums)),
            differences.fma(two, difference),
            sums.fma(four, sum),
            differences.fma(eight, one.fma(difference, f)),
        ]
    }
}

/// Weights transformed, as by [`OF_WEIGHTS`].
#[cfg(feature = "train")]
pub(crate) struct OfWeights;

#[cfg(feature = "train")]
impl Transform<3, IN> for OfWeights {
    #[inline(always)]
    fn along<V: Vector>([a, b, c]: [V; 3]) -> [V; IN] {
        let sixth = V::splat(1.0 / 6.0);
        let even = (a + c) * sixth;
        let odd = b * sixth;
        let (far, farther) = (a.fma(V::splat(1.0 / 24.0), c * sixth), b * V::splat(1.0 / 12.0));
        let quarter = a * V::splat(0.25);
        [quarter, V::splat(0.0) - (even + odd), odd - even, far + farther, far - farther, c]
    }
}

/// The adjoint of [`OfWeights`].
#[cfg(feature = "train")]
pub(crate) struct ByWeights;

#[cfg(feature = "train")]
impl Transform<IN, 3> for ByWeights {
    #[inline(always)]
    fn along<V: Vector>([a, b, c, d, e, f]: [V; IN]) -> [V; 3] {
        let sixth = V::splat(1.0 / 6.0);
        let (sum, difference) = ((b + c) * sixth, (c - b) * sixth);
        let (sums, differences) = (d + e, d - e);
        [
            a.fma(V::splat(0.25), sums.fma(V::splat(1.0 / 24.0), V::splat(0.0) - sum)),
            differences.fma(V::splat(1.0 / 12.0), difference),
            sums.fma(sixth, f - sum),
        ]
    }
}

/// The adjoint of [`OfInputs`].
#[cfg(feature = "train")]
pub(crate) struct ByInputs;

#[cfg(feature = "train")]
impl Transform<IN, IN> for ByInputs {
    #[inline(always)]
    fn along<V: Vector>([a, b, c, d, e, f]: [V; IN]) -> [V; IN] {
        let (two, four, five) = (V::splat(2.0), V::splat(4.0), V::splat(-5.0));
        let (sum, difference) = (b + c, b - c);
        let (sums, differences) = (d + e, d - e);
        [
            a * four,
            (f - difference).fma(four, V::splat(-2.0) * differences),
            a.fma(five, sum.fma(V::splat(-4.0), V::splat(0.0) - sums)),
            differences.fma(two, f.fma(five, difference)),
            a + sum + sums,
            f,
        ]
    }
}

/// The adjoint of [`OfProducts`].
#[cfg(feature = "train")]
pub(crate) struct ByProducts;

#[cfg(feature = "train")]
impl Transform<OUT, IN> for ByProducts {
    #[inline(always)]
    fn along<V: Vector>([a, b, c, d]: [V; OUT]) -> [V; IN] {
        let (even, odd) = (a + c, b + d);
        let (far, farther) = (c.fma(V::splat(4.0), a), d.fma(V::splat(4.0), b) * V::splat(2.0));
        [a, even + odd, even - odd, far + farther, far - farther, d]
    }
}

/// The transforms of a tile of so many inputs and outputs along an axis.
#[cfg(feature = "train")]
pub(crate) trait Tile<const IN: usize, const OUT: usize> {
    /// Of its inputs, of the weights, and of products to its outputs.
    type OfInputs: Transform<IN, IN>;
    type OfWeights: Transform<3, IN>;
    type OfProducts: Transform<IN, OUT>;
    /// Their adjoints.
    type ByInputs: Transform<IN, IN>;
    type ByWeights: Transform<IN, 3>;
    type ByProducts: Transform<OUT, IN>;
}

/// The tiles that there are: those with all transforms.
#[cfg(feature = "train")]
pub(crate) struct Tiles;

#[cfg(feature = "train")]
impl<const IN: usize, const OUT: usize> Tile<IN, OUT> for Tiles
where
    OfInputs: Transform<IN, IN>,
    OfWeights: Transform<3, IN>,
    OfProducts: Transform<IN, OUT>,
    ByInputs: Transform<IN, IN>,
    ByWeights: Transform<IN, 3>,
    ByProducts: Transform<OUT, IN>,
{
    type OfInputs = OfInputs;
    type OfWeights = OfWeights;
    type OfProducts = OfProducts;
    type ByInputs = ByInputs;
    type ByWeights = ByWeights;
    type ByProducts = ByProducts;
}

#[cfg(feature = "train")]
impl Transform<4, 4> for OfInputs {
    #[inline(always)]
    fn along<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 4] {
        [a - c, b + c, c - b, b - d]
    }
}

#[cfg(feature = "train")]
impl Transform<4, 4> for ByInputs {
    #[inline(always)]
    fn along<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 4] {
        [a, b - c + d, b + c - a, V::splat(0.0) - d]
    }
}

#[cfg(feature = "train")]
impl Transform<3, 4> for OfWeights {
    #[inline(always)]
    fn along<V: Vector>([a, b, c]: [V; 3]) -> [V; 4] {
        let (even, odd) = ((a + c) * V::splat(0.5), b * V::splat(0.5));
        [a, even + odd, even - odd, c]
    }
}

#[cfg(feature = "train")]
impl Transform<4, 3> for ByWeights {
    #[inline(always)]
    fn along<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 3] {
        let half = V::splat(0.5);
        let sum = (b + c) * half;
        [a + sum, (b - c) * half, sum + d]
    }
}

#[cfg(feature = "train")]
impl Transform<4, 2> for OfProducts {
    #[inline(always)]
    fn along<V: Vector>([a, b, c, d]: [V; 4]) -> [V; 2] {
        [a + b + c, b - c - d]
    }
}

#[cfg(feature = "train")]
impl Transform<2, 4> for ByProducts {
    #[inline(always)]
    fn along<V: Vector>([a, b]: [V; 2]) -> [V; 4] {
        [a, a + b, a - b, V::splat(0.0) - b]
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;

    fn values<const N: usize>(seed: usize) -> [f64; N] {
        std::array::from_fn(|i| ((i + seed) * (i + 3 * seed) % 17) as f64 - 8.0)
    }

    fn dot<const N: usize>(a: [f64; N], b: [f64; N]) -> f64 {
        a.into_iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn outputs_are_those_of_the_convolution() {
        fn check<const N: usize, const M: usize>()
        where
            Tiles: Tile<N, M>,
        {
            let (x, w) = (values::<N>(1), values::<3>(2));
            let inputs = <Tiles as Tile<N, M>>::OfInputs::along(x);
            let weights = <Tiles as Tile<N, M>>::OfWeights::along(w);
            let products = std::array::from_fn(|i| inputs[i] * weights[i]);
            let found = <Tiles as Tile<N, M>>::OfProducts::along::<f64>(products);
            for (i, found) in found.into_iter().enumerate() {
                assert!((found - dot(w, [x[i], x[i + 1], x[i + 2]])).abs() < 1e-12, "{found}");
            }
        }
        check::<6, 4>();
        check::<4, 2>();
        let w = values::<3>(2);
        let numbers: [f64; IN] = OfWeights::along(w);
        for (number, factors) in numbers.into_iter().zip(OF_WEIGHTS) {
            assert!((number - dot(factors, w)).abs() < 1e-12);
        }
    }

    #[test]
    fn adjoints_turn_products_around() {
        fn check<A: Transform<N, M>, B: Transform<M, N>, const N: usize, const M: usize>() {
            for seed in 1..5 {
                let (x, y) = (values::<N>(seed), values::<M>(seed + 7));
                let (there, back) = (dot(A::along(x), y), dot(x, B::along(y)));
                assert!((there - back).abs() < 1e-12 * there.abs().max(1.0), "{there} {back}");
            }
        }
        check::<OfInputs, ByInputs, IN, IN>();
        check::<OfProducts, ByProducts, IN, OUT>();
        check::<OfWeights, ByWeights, 3, IN>();
        check::<OfInputs, ByInputs, 4, 4>();
        check::<OfProducts, ByProducts, 4, 2>();
        check::<OfWeights, ByWeights, 3, 4>();
    }
}
