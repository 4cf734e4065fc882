//! How a batch is cut into panels and single samples, by what the steps cost.

use super::cost::{Cost, WORTH_A_PANEL, WORTH_WORKERS};
use super::kernels::WIDTH;
use super::step::Step;

/// Nanoseconds of moving a float of an input into a panel, or one of an output out of it.
const MOVED_BETWEEN: f32 = 0.07;

/// Nanoseconds of the run of a single sample and of a panel beside its steps, and of each of them beside what it does.
const RUN: [f32; 2] = [50.0, 120.0];
const STEP: f32 = 8.0;

/// How many samples a panel has, for each number of samples that are still to be run.
#[derive(Debug, Default)]
pub(super) struct Split {
    /// Of the next panel, by that number.
    few: Vec<u8>,
    /// Where it is larger.
    many: u8,
}

impl Split {
    /// Of least time by what the steps cost, panels of at most so many samples: the widest come first, a part-filled
    /// one takes as long as a full one.
    pub(super) fn new(
        (singles, panels): (&[Step], &[Step]),
        values: usize,
        most_lanes: usize,
    ) -> Self {
        let sum = |steps: &[Step]| {
            let [single, panel] = RUN.map(|run| run + STEP * steps.len() as f32);
            let steps: Cost = steps.iter().map(|step| step.cost).sum();
            steps + Cost::each(values as f32 * MOVED_BETWEEN) + Cost::by(single, |_| panel)
        };
        Self::of(Cost { single: sum(singles).single, ..sum(panels) }, most_lanes)
    }

    /// The same by what a run of a single sample costs, and of panels.
    fn of(sum: Cost, most_lanes: usize) -> Self {
        let doubled = |lanes: &usize| Some(lanes * 2).filter(|&lanes| lanes <= most_lanes);
        let wide = most_lanes >= WORTH_A_PANEL;
        let panels = std::iter::successors(Some(WIDTH).filter(|_| wide), doubled);
        let mut few = vec![1; 1 + 4 * most_lanes.max(WIDTH)];
        let mut least: Vec<f32> = (0..few.len()).map(|count| count as f32 * sum.single).collect();
        let mut many = (1, sum.single);
        for lanes in panels {
            let time = sum.nanoseconds(lanes);
            for count in 2..few.len() {
                let all = time + least[count.saturating_sub(lanes)];
                if all < least[count] {
                    (least[count], few[count]) = (all, lanes as u8);
                }
            }
            let each = time / lanes as f32;
            if each < many.1 {
                many = (lanes as u8, each);
            }
        }
        Self { few, many: many.0 }
    }

    /// Samples of the next panel with so many to go: 1, or a multiple of [`WIDTH`].
    pub(super) fn lanes(&self, samples: usize) -> usize {
        usize::from(self.few.get(samples).copied().unwrap_or(self.many))
    }
}

/// How many of `panels` of `lanes` samples are best run at once, each on a thread of its own, where
/// `threads` could share the steps of one after the other.
pub(super) fn panels_at_once(steps: &[Step], lanes: usize, panels: usize, threads: usize) -> usize {
    let (mut alone, mut shared) = (0.0, 0.0);
    for step in steps {
        let cost = step.cost.nanoseconds(lanes);
        alone += cost;
        shared += if cost >= WORTH_WORKERS { cost / threads as f32 + 2000.0 } else { cost };
    }
    let at_once = panels.min(threads);
    let worth = alone * panels as f32 >= WORTH_WORKERS && alone <= shared * at_once as f32;
    if worth { at_once } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a batch takes, its panels from the widest on.
    fn time(split: &Split, cost: Cost, mut samples: usize) -> f32 {
        let (mut time, mut last) = (0.0, usize::MAX);
        while samples > 0 {
            let lanes = split.lanes(samples);
            assert!(lanes <= last, "{lanes} after {last}");
            (time, last) = (time + cost.nanoseconds(lanes), lanes);
            samples = samples.saturating_sub(lanes);
        }
        time
    }

    #[test]
    fn batches_are_split_in_the_least_time_and_more_samples_take_no_less() {
        for (single, panels) in [
            (10.0, [35.0, 40.0, 70.0]),
            (10.0, [70.0, 140.0, 280.0]),
            (10.0, [30.0, 60.0, 240.0]),
            (1.0, [20.0, 40.0, 80.0]),
            (100.0, [110.0, 300.0, 310.0]),
        ] {
            let cost = Cost { single, panels };
            for most in [8, 16, 32] {
                let split = Split::of(cost, most);
                let mut before = 0.0;
                for samples in 1..=4 * most {
                    let found = time(&split, cost, samples);
                    let mut least = f32::INFINITY;
                    for [wide, middle, narrow] in
                        (0..7 * 9 * 17).map(|at| [at % 7, at / 7 % 9, at / 63])
                    {
                        let few = samples < 2 || most < 16 && middle > 0;
                        if few && wide + middle + narrow > 0 || most < 32 && wide > 0 {
                            continue;
                        }
                        let covered = 32 * wide + 16 * middle + 8 * narrow;
                        let counts = [wide, middle, narrow, samples.saturating_sub(covered)];
                        let times = [panels[2], panels[1], panels[0], single];
                        let all = counts.iter().zip(times).map(|(&n, time)| n as f32 * time);
                        least = least.min(all.sum());
                    }
                    assert_eq!(found, least, "{samples} samples, {cost:?}, {most}");
                    assert!(found >= before);
                    before = found;
                }
            }
        }
    }

    #[test]
    fn where_no_panels_are_made_there_are_none() {
        for most in [1, 2] {
            let split = Split::of(Cost { single: 100.0, panels: [1.0; 3] }, most);
            assert!((0..100).all(|samples| split.lanes(samples) == 1));
        }
    }
}
