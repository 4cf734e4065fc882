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

    /// Writes a row of [`Task::row`](super::Task::row). What does not fit stays out.
    pub fn write(&self, row: &mut [f32]) {
        let rest = [self.entropy, self.mutual_information];
        let all = self.probabilities.iter().chain(&self.std).chain(&rest);
        row.iter_mut().zip(all).for_each(|(to, &value)| *to = value as f32);
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
        let largest = probabilities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // The entropy is ln sum - mean of the logits, so that it takes one logarithm.
        let (mut sum, mut mean) = (0.0, 0.0);
        for value in probabilities.iter_mut() {
            let below = *value - largest;
            *value = exp(below);
            sum += *value;
            mean += *value * below;
        }
        *entropies += libm::log(sum) - mean / sum;
        *samples += 1;
        for ((all, square), p) in sums.iter_mut().zip(squares).zip(probabilities) {
            let p = *p / sum;
            *all += p;
            *square += p * p;
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
        *value = exp(*value - largest);
        sum += *value;
    }
    values.iter_mut().for_each(|value| *value /= sum);
}

/// Exponential of a number that is not positive, to within a relative 1e-13: without branches, as links take
/// thousands for each sample. 0 below -700.
#[inline(always)]
fn exp(x: f64) -> f64 {
    /// 2^52 + 2^51: a sum with it has no bits behind the point.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let shifted = x.max(-700.0) * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with few bits.
    let r = x.max(-700.0) - n * 0.693_147_180_369_123_8 - n * 1.908_214_929_270_587_7e-10;
    let mut p = 1.0 / 39_916_800.0;
    for factorial in
        [3_628_800.0, 362_880.0, 40_320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0]
    {
        p = p * r + 1.0 / factorial;
    }
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x < -700.0 { 0.0 } else { p * scale }
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
    fn exponentials_are_as_close_as_they_say() {
        for i in 0..70_000 {
            let x = -f64::from(i) * 0.01;
            assert!((exp(x) / libm::exp(x) - 1.0).abs() < 1e-13, "{x}");
        }
        assert_eq!((exp(0.0), exp(-701.0), exp(f64::NEG_INFINITY)), (1.0, 0.0, 0.0));
        let mut predictive = Predictive::new(3);
        predictive.add([2.0, -1.0, 0.5].into_iter());
        let found = predictive.prediction();
        assert!(found.mutual_information < 1e-12, "{}", found.mutual_information);
    }

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
