//! The mean of the parameters over the last epochs (Izmailov et al., *Averaging weights leads to wider
//! optima and better generalization*, UAI 2018).

use super::aligned_buffer::StateTensor;
use super::net::Net;
use super::vector::Isa;

/// Parts of a state's tensors that the network computes with.
const PARAMETERS: [&str; 9] =
    ["theta", "log_sigma2", "bias", "gamma", "beta", "mean", "variance", "raw", "logit"];
/// What comes after a tensor's name in a state.
const END: &str = ".average";

/// Means over some epochs, tensor after tensor as [`Net::state`] has them.
#[derive(Default)]
pub(crate) struct Average {
    /// Epochs so far.
    count: u32,
    tensors: Vec<Vec<f32>>,
}

fn parameters(net: &mut Net<f32>) -> impl Iterator<Item = StateTensor<'_, f32>> {
    let part = |name: &str| name.rsplit_once('.').map_or("", |(_, part)| part).to_owned();
    net.state().into_iter().filter(move |s| PARAMETERS.contains(&&part(&s.name)[..]))
}

impl Average {
    /// One more epoch.
    pub(crate) fn add(&mut self, net: &mut Net<f32>) {
        self.count += 1;
        let share = 1.0 / self.count as f32;
        for (index, stored) in parameters(net).enumerate() {
            let now = stored.rows().flatten();
            match self.tensors.get_mut(index) {
                Some(mean) => mean.iter_mut().zip(now).for_each(|(m, v)| *m += share * (v - *m)),
                None => self.tensors.push(now.copied().collect()),
            }
        }
    }

    /// Puts the means in the place of the parameters.
    pub(crate) fn replace(self, net: &mut Net<f32>) {
        for (mut stored, mean) in parameters(net).zip(self.tensors) {
            let values = stored.rows_mut().flatten();
            values.zip(mean).for_each(|(value, mean)| *value = mean);
        }
        net.weights.iter_mut().for_each(|weights| weights.refresh(Isa::best()));
    }

    /// Epochs so far, and what a state has to keep, by name.
    pub(crate) fn state(&self, net: &mut Net<f32>) -> Vec<(String, Vec<f32>)> {
        let names = parameters(net).map(|stored| stored.name + END);
        names.zip(self.tensors.iter().cloned()).collect()
    }

    /// The mean over `count` epochs as a state has it; `read` gives a tensor by name and length.
    pub(crate) fn resume<E>(
        count: u32,
        net: &mut Net<f32>,
        mut read: impl FnMut(&str, usize) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let tensors = parameters(net).map(|stored| {
            let length = stored.rows().map(<[_]>::len).sum();
            read(&(stored.name + END), length)
        });
        Ok(Self { count, tensors: tensors.collect::<Result<_, E>>()? })
    }
}
