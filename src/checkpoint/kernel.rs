//! Tensors that a network uses as the kernel of a convolution, stored with other dimensions.

use super::profile::KernelLayout;
use super::spread::Spread;
use crate::error::{Error, Result};

/// What a layer's tensors are to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// A matrix or a kernel, as they are stored.
    AsStored,
    /// A matrix over the tokens of a sequence: a kernel of 1 x 1.
    OverTokens,
    /// A kernel over one dimension: of height 1.
    OverTime,
    /// The kernel `[in, out/groups, kh, kw]` of a transposed convolution, as PyTorch and ONNX have it, also
    /// over one dimension.
    Transposed {
        /// Channel groups.
        groups: usize,
    },
}

/// How far the values of a kernel are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dilation {
    /// From one to the next, down and to the right.
    pub(super) steps: [usize; 2],
    /// The kernel with the zeros between, where it is known: one that is stored so is taken as it is.
    pub(super) window: Option<[usize; 2]>,
}

/// How a stored tensor becomes a layer's weights.
pub(super) struct Arrangement {
    /// The dimensions that the tensor is given, of as many elements.
    pub(super) dims: Vec<usize>,
    /// The order in which they are read.
    pub(super) order: Vec<usize>,
    /// The shape of the weights that are read so.
    pub(super) shape: Vec<usize>,
    /// The zeros between them.
    pub(super) spread: Option<Spread>,
}

impl Arrangement {
    /// The dimensions in another order.
    pub(super) fn ordered(dims: &[usize], order: &[usize]) -> Self {
        let shape = order.iter().map(|&axis| dims[axis]).collect();
        Self { dims: dims.into(), order: order.into(), shape, spread: None }
    }

    /// The same weights in another shape.
    pub(super) fn shaped(self, shape: Vec<usize>) -> Self {
        Self { shape, ..self }
    }

    /// With zeros between the values of a kernel.
    ///
    /// # Errors
    /// [`Error::Network`] for steps of 0, and for kernels that are too large with them.
    pub(super) fn dilated(self, dilation: Option<Dilation>) -> Result<Self> {
        /// Values, zeros included, for each that is stored, or if there are few.
        const MOST: [usize; 2] = [1 << 12, 1 << 24];
        let (Some(Dilation { steps, window }), &[rows, columns, height, width]) =
            (dilation, &self.shape[..])
        else {
            return Ok(self);
        };
        let kernel = [height, width];
        if steps == [1, 1] || window == Some(kernel) || kernel.contains(&0) {
            return Ok(self);
        }
        let refused = |problem: &str| {
            Error::network(format!(
                "a kernel of {height} x {width} with dilation {steps:?} {problem}"
            ))
        };
        if steps.contains(&0) {
            return Err(refused("is none"));
        }
        let stored = self.shape.iter().fold(1usize, |n, &d| n.saturating_mul(d));
        let wide =
            [0, 1].map(|axis| (kernel[axis] - 1).saturating_mul(steps[axis]).saturating_add(1));
        let shape = vec![rows, columns, wide[0], wide[1]];
        let all = shape.iter().fold(1usize, |n, &d| n.saturating_mul(d));
        if all > stored.saturating_mul(MOST[0]).max(MOST[1]) {
            return Err(refused("is too large"));
        }
        Ok(Self { spread: Some(Spread { kernel, window: wide }), shape, ..self })
    }

    /// That of a kernel over one dimension, stored as `[out, in, k]` or `[k, in, out]`.
    pub(super) fn over_time(stored: &[usize], layout: KernelLayout) -> Result<Self> {
        let order: &[usize] = match layout {
            KernelLayout::Oihw => &[0, 1, 2],
            KernelLayout::Hwio => &[2, 1, 0],
        };
        if stored.len() != 3 {
            return Err(misfit(stored));
        }
        let arranged = Self::ordered(stored, order);
        let shape = vec![arranged.shape[0], arranged.shape[1], 1, arranged.shape[2]];
        Ok(arranged.shaped(shape))
    }

    /// That of a transposed convolution.
    pub(super) fn transposed(
        stored: &[usize],
        groups: usize,
        layout: KernelLayout,
    ) -> Result<Self> {
        if layout == KernelLayout::Hwio {
            return Err(Error::network(
                "the kernel of a transposed convolution in layout hwio: how it is stored is not known; give \
                 the network as an ONNX model with its weights",
            ));
        }
        let (inputs, outputs, height, width) = match *stored {
            [inputs, outputs, width] => (inputs, outputs, 1, width),
            [inputs, outputs, height, width] => (inputs, outputs, height, width),
            _ => return Err(misfit(stored)),
        };
        if groups == 0 || inputs % groups != 0 {
            return Err(Error::network(format!(
                "a transposed convolution of {groups} groups has a kernel of shape {stored:?}"
            )));
        }
        let seen = inputs / groups;
        let dims = [groups, seen, outputs, height * width];
        // No overflow: the tensor has as many elements.
        let shape = vec![groups * outputs, seen, height, width];
        Ok(Self::ordered(&dims, &[0, 2, 1, 3]).shaped(shape))
    }
}

fn misfit(stored: &[usize]) -> Error {
    Error::network(format!("a convolution has a kernel of shape {stored:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_read_in_the_order_of_outputs() {
        let arranged = Arrangement::transposed(&[4, 3, 5], 2, KernelLayout::Oihw).unwrap();
        assert_eq!(arranged.shape, [6, 2, 1, 5]);
        assert_eq!(
            (&arranged.dims[..], &arranged.order[..]),
            (&[2, 2, 3, 5][..], &[0, 2, 1, 3][..])
        );
        let arranged = Arrangement::over_time(&[7, 2, 3], KernelLayout::Hwio).unwrap();
        assert_eq!((arranged.shape, arranged.order), (vec![3, 2, 1, 7], vec![2, 1, 0]));
        let apart = |steps, window| Some(Dilation { steps, window });
        let of = |dilation| Arrangement::ordered(&[4, 3, 3, 1], &[0, 1, 2, 3]).dilated(dilation);
        let spread = of(apart([2, 5], None)).unwrap();
        assert_eq!((spread.shape, spread.spread.unwrap().window), (vec![4, 3, 5, 1], [5, 1]));
        assert_eq!(of(apart([2, 5], Some([3, 1]))).unwrap().shape, [4, 3, 3, 1]);
        assert_eq!(of(None).unwrap().shape, [4, 3, 3, 1]);
        for steps in [[0, 1], [usize::MAX, 1], [1 << 40, 1]] {
            assert!(of(apart(steps, None)).is_err());
        }
        for (shape, groups) in [(&[4, 3][..], 1), (&[4, 3, 1, 1], 3), (&[4, 3, 1], 0)] {
            assert!(Arrangement::transposed(shape, groups, KernelLayout::Oihw).is_err());
        }
        assert!(Arrangement::transposed(&[4, 3, 1, 1], 1, KernelLayout::Hwio).is_err());
        assert!(Arrangement::over_time(&[4, 3], KernelLayout::Oihw).is_err());
    }
}
