//! The fused pass against f64 and against finite differences of the KL.

use super::{Isa, KlForm, Optimizer, Real, Update};
use crate::train::weights::{RowOrder, Weights};

const UPDATE: Update = Update {
    clip: f64::INFINITY,
    rate: 1e-3,
    log_sigma2_rate: 1e-2,
    kl_weight: 0.7,
    optimizer: Optimizer::Adam { beta1: 0.9, beta2: 0.999 },
    count: 1,
    posterior: Some(KlForm::Sigmoid),
};

fn example<T: Real>(isa: Isa, update: Update) -> Weights<T> {
    let mut weights = Weights::<T>::new(isa, "fc", [6, 13], RowOrder::Outputs, -6.0);
    weights.initialize(isa, 3, 0);
    for (i, log) in weights.log_sigma2.iter_mut().enumerate() {
        *log = T::of(-12.0 + (i % 17) as f64);
    }
    weights.refresh(isa);
    let gradient = |scale: f64| -> Vec<T> {
        (0..6 * 16).map(|i| T::of(scale * ((i * 7 % 11) as f64 - 5.0))).collect()
    };
    for count in 1..4 {
        let update = Update { count, ..update };
        for rows in weights.row_blocks() {
            let at = rows.first * 16..(rows.first + rows.count) * 16;
            assert!(rows.update(isa, &gradient(0.1)[at.clone()], &gradient(3.0)[at], &update));
        }
    }
    weights
}

/// The vectorized f32 pass against the portable one and against f64 with libm.
#[test]
fn every_instruction_set_updates_as_f64_does() {
    let nesterov = Update {
        optimizer: Optimizer::Nesterov { momentum: 0.9 },
        log_sigma2_rate: 1e-3,
        ..UPDATE
    };
    let isas = Isa::supported();
    for (isa, update) in isas.into_iter().flat_map(|t| [(t, UPDATE), (t, nesterov)]) {
        let exact = example::<f64>(Isa::Portable, update);
        let found = example::<f32>(isa, update);
        let pairs = [
            (&found.theta, &exact.theta, 2e-6),
            (&found.log_sigma2, &exact.log_sigma2, 2e-5),
            (&found.sigma2, &exact.sigma2, 2e-5),
        ];
        for (found, exact, tolerance) in pairs {
            for (f, e) in found.iter().zip(exact.iter()) {
                assert!((f64::from(*f) - e).abs() <= tolerance * e.abs().max(1.0), "{f} {e}");
            }
        }
    }
}

/// With beta1 = 0 and no rate, the first moment is the gradient itself.
#[test]
fn kl_gradients_are_the_slopes_of_the_kl() {
    for form in [KlForm::Sigmoid, KlForm::Ard, KlForm::Exact] {
        slopes(form);
    }
}

fn slopes(form: KlForm) {
    let still = Update {
        posterior: Some(form),
        rate: 0.0,
        log_sigma2_rate: 0.0,
        optimizer: Optimizer::Adam { beta1: 0.0, beta2: 0.999 },
        kl_weight: 1.0,
        ..UPDATE
    };
    let mut weights = example::<f64>(Isa::Portable, still);
    let zeros = vec![0.0; 6 * 16];
    for rows in weights.row_blocks() {
        let size = rows.count * 16;
        rows.update(Isa::Portable, &zeros[..size], &zeros[..size], &still);
    }
    for index in [0, 5, 12, 16, 40, 90] {
        for which in [0, 2] {
            let mut kl = [0.0; 2];
            for (side, kl) in [-1e-6, 1e-6].iter().zip(&mut kl) {
                let mut moved = example::<f64>(Isa::Portable, still);
                if which == 0 {
                    moved.theta[index] += side
                } else {
                    moved.log_sigma2[index] += side
                }
                *kl = moved.kl(form);
            }
            let slope = (kl[1] - kl[0]) / 2e-6;
            let found = weights.moments[which][index];
            assert!((slope - found).abs() < 1e-4 * slope.abs().max(1.0), "{slope} {found}");
        }
    }
}

#[test]
fn a_weight_that_is_not_finite_is_noticed() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut weights = Weights::<f32>::new(Isa::best(), "fc", [6, 13], RowOrder::Outputs, -6.0);
        let mut gradient = vec![0.0; 6 * 16];
        gradient[21] = bad;
        let zeros = vec![0.0; 6 * 16];
        let finite = weights
            .row_blocks()
            .into_iter()
            .all(|rows| rows.update(Isa::best(), &gradient[..], &zeros, &UPDATE));
        assert!(!finite, "{bad}");
    }
}
