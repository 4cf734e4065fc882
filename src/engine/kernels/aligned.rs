//! Memory that starts at a cache line.

use std::ops::Deref;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Floats of which the first one starts a cache line.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Aligned(Vec<Line>);

impl Aligned {
    /// At least `length` zeros.
    pub(in crate::engine) fn zeros(length: usize) -> Self {
        Self(vec![Line([0.0; 16]); length.div_ceil(16)])
    }

    /// The floats given, and zeros up to a whole line.
    pub(in crate::engine) fn of(floats: &[f32]) -> Self {
        let mut all = Self::zeros(floats.len());
        all.floats()[..floats.len()].copy_from_slice(floats);
        all
    }

    /// All of them.
    pub(in crate::engine) fn floats(&mut self) -> &mut [f32] {
        let length = self.0.len() * 16;
        // SAFETY: a line is exactly sixteen f32, without padding, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), length) }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a line is exactly sixteen f32, without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_begin_with_a_line_and_end_with_one() {
        for count in [0, 1, 15, 16, 17, 100] {
            let floats: Vec<f32> = (1..=count).map(|at| at as f32).collect();
            let mut aligned = Aligned::of(&floats);
            assert_eq!(aligned.len(), floats.len().next_multiple_of(16));
            assert_eq!(aligned.as_ptr() as usize % 64, 0);
            assert_eq!(aligned[..floats.len()], floats);
            assert!(aligned[floats.len()..].iter().all(|&v| v == 0.0));
            assert_eq!(*aligned.clone(), *aligned.floats());
        }
    }
}
