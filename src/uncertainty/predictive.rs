//! Predictive distributions of classes, and what is uncertain about them.

/// What a network says of one sample.
///
/// The predictive entropy is all that is uncertain. Part of it every network of the posterior agrees on: the
/// expected entropy, which is the data's (aleatoric). The rest, the mutual information of the class and the
/// weights, is what the networks disagree about, and more data would settle (epistemic; Houlsby et al.,
/// arXiv 1112.5745).
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Mean of the class probabilities.
    pub probabilities: Vec<f64>,
    /// Their standard deviations over the posterior.
    pub std: Vec<f64>,
    /// Entropy of the mean probabilities, in nats.
    pub entropy: f64,
    /// The entropy less the mean of the entropies, in nats; not negative.
    pub mutual_information: f64,
}

impl Prediction {
    /// The most probable class, the first of equals.
    pub fn class(&self) -> usize {
        let p = &self.probabilities;
        (1..p.len()).fold(0, |best, i| if p[i] > p[best] { i } else { best })
    }

    /// The probability of that class.
    pub fn confidence(&self) -> f64 {
        self.probabilities[self.class()]
    }
}

/// Probabilities of classes over samples of the posterior, summed.
#[derive(Debug, Clone)]
pub struct Predictive {
    sums: Vec<f64>,
    squares: Vec<f64>,
    entropies: f64,
    samples: usize,
    probabilities: Vec<f64>,
}

impl Predictive {
    /// Of so many classes, without any sample.
    pub fn new(classes: usize) -> Self {
        let zeros = || vec![0.0; classes];
        Self { sums: zeros(), squares: zeros(), entropies: 0.0, samples: 0, probabilities: zeros() }
    }

    /// Adds a sample by its logits, one for each class.
    pub fn add(&mut self, logits: impl Iterator<Item = f64>) {
        let Self { sums, squares, entropies, samples, probabilities } = self;
        probabilities.iter_mut().zip(logits).for_each(|(p, logit)| *p = logit);
        softmax(probabilities);
        *entropies += entropy(probabilities);
        *samples += 1;
        for ((sum, square), p) in sums.iter_mut().zip(squares).zip(probabilities) {
            *sum += *p;
            *square += *p * *p;
        }
    }

    /// What the samples say together; all numbers are 0 without any.
    pub fn prediction(&self) -> Prediction {
        let n = self.samples.max(1) as f64;
        let probabilities: Vec<f64> = self.sums.iter().map(|sum| sum / n).collect();
        let spread = |(square, p): (&f64, &f64)| (square / n - p * p).max(0.0).sqrt();
        let std = self.squares.iter().zip(&probabilities).map(spread).collect();
        let entropy = entropy(&probabilities);
        let mutual_information = (entropy - self.entropies / n).max(0.0);
        Prediction { probabilities, std, entropy, mutual_information }
    }
}

/// Turns logits into probabilities.
pub fn softmax(values: &mut [f64]) {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for value in values.iter_mut() {
        *value = libm::exp(*value - largest);
        sum += *value;
    }
    values.iter_mut().for_each(|value| *value /= sum);
}

/// Entropy of probabilities, in nats.
pub fn entropy(probabilities: &[f64]) -> f64 {
    let term = |&p: &f64| if p > 0.0 { -p * libm::log(p) } else { 0.0 };
    probabilities.iter().map(term).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_agree_have_nothing_to_learn_and_those_that_do_not_have() {
        let mut agree = Predictive::new(2);
        (0..3).for_each(|_| agree.add([1.0, 1.0].into_iter()));
        let found = agree.prediction();
        assert_eq!(found.probabilities, [0.5, 0.5]);
        assert!((found.entropy - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!((found.mutual_information, &found.std[..]), (0.0, &[0.0, 0.0][..]));
        let mut differ = Predictive::new(2);
        differ.add([100.0, 0.0].into_iter());
        differ.add([0.0, 100.0].into_iter());
        let found = differ.prediction();
        assert!((found.mutual_information - std::f64::consts::LN_2).abs() < 1e-12);
        assert!((found.std[0] - 0.5).abs() < 1e-12);
        assert_eq!((found.class(), found.confidence()), (0, 0.5));
    }
}
