//! Memory that starts at a cache line.

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Floats of which the first one starts a cache line.
#[derive(Debug)]
pub(in crate::engine) struct Aligned(Vec<Line>);

impl Aligned {
    /// At least `length` zeros.
    pub(in crate::engine) fn zeros(length: usize) -> Self {
        Self(vec![Line([0.0; 16]); length.div_ceil(16)])
    }

    /// All of them.
    pub(in crate::engine) fn floats(&mut self) -> &mut [f32] {
        let length = self.0.len() * 16;
        // SAFETY: a line is exactly sixteen f32, without padding, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), length) }
    }
}
