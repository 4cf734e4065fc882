//! Plain Rust over arrays of eight, in loops that compilers turn into whatever vectors there are.

use super::{Eight, Simd, WIDTH, Work};

/// Needs nothing of the CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

type V = [f32; WIDTH];

impl Simd for Portable {
    type V = V;
    const WIDTH: usize = WIDTH;
    const TILE: usize = 4;
    type Eight = Self;

    #[inline(always)]
    fn eight(self) -> Self {
        self
    }

    #[inline(never)]
    fn run<W: Work>(self, work: W) {
        work.run(self);
    }

    #[inline(always)]
    fn splat(self, value: f32) -> V {
        [value; WIDTH]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> V {
        // SAFETY: the caller's promise; an array of f32 needs no more alignment than one.
        unsafe { from.cast::<V>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: V) {
        // SAFETY: as above.
        unsafe { to.cast::<V>().write(v) }
    }

    #[inline(always)]
    fn mul_add(self, a: V, b: V, mut c: V) -> V {
        for lane in 0..WIDTH {
            c[lane] += a[lane] * b[lane];
        }
        c
    }

    #[inline(always)]
    fn relu(self, mut v: V) -> V {
        for lane in &mut v {
            *lane = if *lane < 0.0 { 0.0 } else { *lane };
        }
        v
    }

    #[inline(always)]
    unsafe fn gather(self, x: *const f32, at: *const u16) -> V {
        let mut v = [0.0; WIDTH];
        for (lane, v) in v.iter_mut().enumerate() {
            // SAFETY: the caller promises eight indices and the numbers they point to.
            *v = unsafe { *x.add(usize::from(*at.add(lane))) };
        }
        v
    }

    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]))
    }
}

impl Eight for Portable {
    #[inline(always)]
    fn transpose(self, rows: [V; 8]) -> [V; 8] {
        let mut columns = [[0.0; WIDTH]; WIDTH];
        for (i, row) in rows.iter().enumerate() {
            for (j, value) in row.iter().enumerate() {
                columns[j][i] = *value;
            }
        }
        columns
    }
}
