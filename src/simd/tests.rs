//! Every operation on every instruction set that the CPU has.

use super::*;

/// Stamps each test, a function of an [`Isa`], once for every instruction set; sets that the CPU has
/// not got pass unseen.
macro_rules! test_every_isa {
    ($($(#[$attribute:meta])* fn $test:ident($isa:ident) $body:block)+) => {$(
        $(#[$attribute])*
        mod $test {
            #[allow(unused_imports)]
            use super::*;
            use $crate::simd::Isa;

            fn test($isa: Isa) {
                if $isa.is_supported() $body
            }
            #[test]
            fn portable() {
                test(Isa::Portable);
            }
            #[test]
            fn neon() {
                test(Isa::Neon);
            }
            #[test]
            fn simd128() {
                test(Isa::Simd128);
            }
            #[test]
            fn avx2() {
                test(Isa::Avx2);
            }
            #[test]
            fn avx512() {
                test(Isa::Avx512);
            }
        }
    )+};
}
pub(crate) use test_every_isa;

/// Floats of which some are special.
fn floats(seed: u32) -> [f32; MAX_LANES] {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0];
    std::array::from_fn(|lane| {
        let hash =
            (lane as u32 + 1).wrapping_mul(seed.wrapping_mul(2) + 1).wrapping_mul(2_654_435_761);
        match hash % 11 {
            0 => special[(hash >> 8) as usize % 4],
            _ => (hash >> 8) as f32 / (1 << 20) as f32 - 8.0,
        }
    })
}

/// The same float, or two that are not numbers.
fn same(a: f32, b: f32) -> bool {
    a == b || a.is_nan() && b.is_nan()
}

/// What the engine does with vectors, lane by lane.
struct Basics;

impl Kernel for Basics {
    #[inline(always)]
    fn run<V: Vector<Element = f32>>(self) {
        for seed in 0..200 {
            let (a, b, c) = (floats(seed), floats(seed + 1), floats(seed + 2));
            let (x, y, z) = (V::load(&a), V::load(&b), V::load(&c));
            let [mut fma, mut relu, mut largest] = [[0.0; MAX_LANES]; 3];
            x.fma(y, z).store(&mut fma);
            x.relu().store(&mut relu);
            x.maximum(y).store(&mut largest);
            for lane in 0..V::LANES {
                let exact = f64::from(a[lane]) * f64::from(b[lane]) + f64::from(c[lane]);
                let near = (f64::from(fma[lane]) - exact).abs() <= 1e-4;
                assert!(near || same(fma[lane], exact as f32), "{} for {exact}", fma[lane]);
                assert!(same(relu[lane], if a[lane] < 0.0 { 0.0 } else { a[lane] }));
                let nan = a[lane].is_nan() || b[lane].is_nan();
                assert!(same(largest[lane], if nan { f32::NAN } else { a[lane].max(b[lane]) }));
            }

            let whole: Vec<f32> = (0..V::LANES).map(|lane| (seed as usize * lane) as f32).collect();
            assert_eq!(V::load(&whole).sum(), whole.iter().sum::<f32>());
            let at: Vec<u16> = (0..V::LANES).map(|lane| (lane * 7 % V::LANES) as u16).collect();
            let mut gathered = [0.0; MAX_LANES];
            // SAFETY: there is an index for each lane, below the lanes.
            unsafe { V::gather(a.as_ptr(), at.as_ptr()) }.store(&mut gathered);
            for (lane, &at) in at.iter().enumerate() {
                assert!(same(gathered[lane], a[usize::from(at)]));
            }
            #[cfg(feature = "uncertainty")]
            {
                let (mut even, mut odd) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
                let half: Vec<u16> = at.iter().map(|at| at / 2).collect();
                // SAFETY: there is an index for each lane, below half the lanes.
                let (x, y) = unsafe { V::gather_pairs(a.as_ptr(), half.as_ptr()) };
                x.store(&mut even);
                y.store(&mut odd);
                for (lane, &at) in half.iter().enumerate() {
                    assert!(same(even[lane], a[2 * usize::from(at)]));
                    assert!(same(odd[lane], a[2 * usize::from(at) + 1]));
                }
            }
            let (mut first, count) = ([-3.0; MAX_LANES], seed as usize % (V::LANES + 1));
            // SAFETY: `count` is at most the lanes.
            unsafe { x.write_first(first.as_mut_ptr(), count) };
            for lane in 0..MAX_LANES {
                assert!(same(first[lane], if lane < count { a[lane] } else { -3.0 }));
            }
            let part = a[..count].to_vec().into_boxed_slice();
            // SAFETY: the part has `count` numbers, and its end is that of the memory.
            unsafe { V::read_first(part.as_ptr(), count) }.store(&mut first);
            for lane in 0..V::LANES {
                assert!(same(first[lane], if lane < count { a[lane] } else { 0.0 }));
            }
        }
        eight::<V::Eight>();
    }
}

/// What is done across eight lanes.
#[inline(always)]
fn eight<V: Eight>() {
    for seed in 0..200 {
        let (a, b) = (floats(seed), floats(seed + 1));
        let (x, y) = (V::load(&a), V::load(&b));
        let (mut even, mut odd) = ([0.0; 8], [0.0; 8]);
        x.unzip(y).0.store(&mut even);
        x.unzip(y).1.store(&mut odd);
        for lane in 0..8 {
            let both = if lane < 4 { &a[2 * lane..] } else { &b[2 * lane - 8..] };
            assert!(same(even[lane], both[0]) && same(odd[lane], both[1]));
        }
        let (first, second) = V::load(&even).zip(V::load(&odd));
        let (mut back, mut other) = ([0.0; 8], [0.0; 8]);
        first.store(&mut back);
        second.store(&mut other);
        assert!((0..8).all(|lane| same(back[lane], a[lane]) && same(other[lane], b[lane])));
    }
    let mut rows = [V::splat(0.0); 8];
    for (i, row) in rows.iter_mut().enumerate() {
        let floats: Vec<f32> = (0..8).map(|j| (8 * i + j) as f32).collect();
        *row = V::load(&floats);
    }
    for (j, column) in V::transpose(rows).into_iter().enumerate() {
        let mut floats = [0.0; 8];
        column.store(&mut floats);
        assert!(floats.iter().enumerate().all(|(i, &float)| float == (8 * i + j) as f32));
    }
}

test_every_isa! {
    fn basics(isa) {
        isa.run(Basics);
    }
}

#[test]
fn the_best_is_supported_and_has_a_name() {
    let best = Isa::best();
    assert_eq!(Isa::supported().last(), Some(&best));
    assert_eq!(Isa::detect(Some(best.name())).unwrap(), best);
    assert_eq!(Isa::detect(Some("")).unwrap(), best);
    assert!(Isa::detect(Some("mmx")).unwrap_err().to_string().contains("SVDO_CPU=mmx"));
}

#[cfg(feature = "train")]
mod training {
    use super::*;

    /// The arithmetic of vectors beside that of f32.
    struct Lanes;

    impl Kernel for Lanes {
        #[inline(always)]
        fn run<V: Vector<Element = f32>>(self) {
            for seed in 0..200 {
                let (a, b) = (floats(seed), floats(seed + 1));
                let (x, y) = (V::load(&a), V::load(&b));
                macro_rules! check {
                    ($name:literal, |$x:ident, $y:ident| $result:expr) => {{
                        let mut found = [0.0; MAX_LANES];
                        $result.store(&mut found);
                        for lane in 0..V::LANES {
                            let ($x, $y) = (a[lane], b[lane]);
                            let expected: f32 = $result;
                            assert!(same(found[lane], expected), "{} of {} and {}", $name, $x, $y);
                        }
                    }};
                }
                check!("sum", |x, y| x + y);
                check!("difference", |x, y| x - y);
                check!("product", |x, y| x * y);
                check!("quotient", |x, y| x / y);
                check!("root", |x, y| Arithmetic::sqrt(x + y - y));
                check!("larger", |x, y| Arithmetic::max(x, y));
                check!("smaller", |x, y| Arithmetic::min(x, y));
                check!("selection", |x, y| x.select_greater(y, y + x, y - x));
                let zeros = V::splat(0.0);
                assert!(zeros.is_zero() && (zeros - zeros * V::splat(1.0)).is_zero());
                assert_eq!(x.is_zero(), a[..V::LANES].iter().all(|&a| a == 0.0));
            }
            let finite: [f32; MAX_LANES] = std::array::from_fn(|lane| 1.25 * lane as f32 - 7.5);
            let (mut rounded, mut powers) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
            V::load(&finite).round().store(&mut rounded);
            V::load(&rounded).power_of_two().store(&mut powers);
            let (mut mantissas, mut exponents) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
            let (mantissa, exponent) = (V::load(&powers) * V::splat(1.5)).split();
            mantissa.store(&mut mantissas);
            exponent.store(&mut exponents);
            for lane in 0..V::LANES {
                assert_eq!(rounded[lane], finite[lane].round_ties_even());
                assert_eq!(powers[lane], rounded[lane].exp2());
                assert_eq!((mantissas[lane], exponents[lane]), (1.5, rounded[lane]));
            }
        }
    }

    struct Map<'a> {
        values: &'a mut [f32],
        exponential: bool,
    }

    impl Kernel for Map<'_> {
        #[inline(always)]
        fn run<V: Vector<Element = f32>>(self) {
            for part in self.values.chunks_exact_mut(V::LANES) {
                let x = V::load(part);
                if self.exponential { x.exp() } else { x.ln() }.store(part);
            }
        }
    }

    fn map(isa: Isa, values: &[f32], exponential: bool) -> Vec<f32> {
        let mut values = values.to_vec();
        isa.run(Map { values: &mut values, exponential });
        values
    }

    test_every_isa! {
        fn arithmetic(isa) {
            isa.run(Lanes);
        }

        /// The error bounds that the documentation states.
        fn exponential_and_logarithm_are_within_their_bounds(isa) {
            let x: Vec<f32> = (-860_000..870_000).map(|i| i as f32 * 1e-4).collect();
            for (x, y) in x.iter().zip(map(isa, &x, true)) {
                let exact = f64::from(*x).exp();
                let error = (f64::from(y) - exact).abs() / exact;
                assert!(error < 2e-7, "exp({x}) errs by {error}");
            }
            let x: Vec<f32> =
                (0x0080_0000..0x7f80_0000u32).step_by(1237).map(f32::from_bits).collect();
            let x = &x[..x.len() / 16 * 16];
            for (x, y) in x.iter().zip(map(isa, x, false)) {
                let exact = f64::from(*x).ln();
                let error = (f64::from(y) - exact).abs();
                assert!(error < 2e-7 + 1.2e-7 * exact.abs(), "ln({x}) errs by {error}");
            }
        }

        fn exponential_saturates(isa) {
            let x = [-1e30, 1e30, -200.0, 200.0, 0.0, 88.0, -87.0, 100.0];
            let y = map(isa, &[x, x].concat(), true);
            assert!(y.iter().all(|v| v.is_finite() && *v > 0.0), "{y:?}");
            assert_eq!(y[4], 1.0);
        }
    }
}
