//! Free time, found: a network at several lengths as one at all.

use super::time::{each_of, each_size_of, each_size_of_shape};
use super::{FreeSize, Network, Place, Polynomial, Time};

impl Polynomial {
    /// The polynomial of integers through these points, of different steps; `None` if there is none.
    pub(crate) fn through(points: &[(usize, i64)]) -> Option<Self> {
        let wide: Vec<(i128, i128)> =
            points.iter().map(|&(steps, value)| (steps as i128, value.into())).collect();
        let exact = |a: i128, b: i128| (b != 0 && a % b == 0).then(|| a / b);
        let terms = match wide[..] {
            [] => return None,
            [(_, y)] => [y, 0, 0],
            [(x0, y0), (x1, y1)] => {
                let b = exact(y1 - y0, x1 - x0)?;
                [y0 - b * x0, b, 0]
            }
            [(x0, y0), (x1, y1), (x2, y2), ..] => {
                let rise = (y2 - y1) * (x1 - x0) - (y1 - y0) * (x2 - x1);
                let c = exact(rise, (x2 - x1) * (x1 - x0) * (x2 - x0))?;
                let b = exact(y1 - y0 - c * (x1 * x1 - x0 * x0), x1 - x0)?;
                [y0 - b * x0 - c * x0 * x0, b, c]
            }
        };
        let mut found = Self([0; 3]);
        for (to, term) in found.0.iter_mut().zip(terms) {
            *to = i64::try_from(term).ok()?;
        }
        points.iter().all(|&(steps, value)| found.at(steps) == Some(value)).then_some(found)
    }
}

impl Time {
    /// What makes the first of these networks, that of the longest sequences, all of the others, each for so many
    /// steps.
    ///
    /// # Errors
    /// What is not told by a polynomial of the steps, or is another in one of them.
    pub(crate) fn between(networks: &[(usize, &Network)]) -> Result<Self, String> {
        let (longest, first) = *networks.first().ok_or("there is no network")?;
        for (steps, other) in networks {
            let sizes = |network: &Network| {
                [network.nodes.len(), network.layers.len(), network.input.parts.len()]
            };
            if sizes(first) != sizes(other) {
                return Err(format!(
                    "it has {} operations and constants for {longest} steps and {} for {steps}",
                    first.nodes.len(),
                    other.nodes.len()
                ));
            }
        }
        let mut sizes = Vec::new();
        let input = match first.input.parts.len() {
            0 => vec![Place::Input],
            parts => (0..parts).map(Place::Part).collect(),
        };
        let layers = (0..first.layers.len()).map(Place::Layer);
        let nodes = (0..first.nodes.len()).map(Place::Node);
        for of in input.into_iter().chain(layers).chain(nodes) {
            let all: Vec<(usize, Vec<i64>)> =
                networks.iter().map(|&(steps, network)| (steps, network.sizes(of))).collect();
            let differ = || format!("{} is another operation for other lengths", first.place(of));
            let count = all[0].1.len();
            if all.iter().any(|(_, sizes)| sizes.len() != count) {
                return Err(differ());
            }
            for number in 0..count {
                let points: Vec<(usize, i64)> =
                    all.iter().map(|(steps, sizes)| (*steps, sizes[number])).collect();
                if points.iter().all(|point| point.1 == points[0].1) {
                    continue;
                }
                let size = Polynomial::through(&points).ok_or_else(|| {
                    let found = points.iter().map(|(steps, value)| format!("{value} for {steps}"));
                    format!(
                        "a size of {} is {} steps, which no polynomial tells",
                        first.place(of),
                        found.collect::<Vec<_>>().join(", ")
                    )
                })?;
                let fits = match of {
                    Place::Layer(layer) => number != 1 && first.is_value(layer),
                    Place::Input | Place::Part(_) => size == Polynomial::STEPS,
                    Place::Node(_) => true,
                };
                if !fits {
                    return Err(format!("{} has sizes that follow from it", first.place(of)));
                }
                sizes.push(FreeSize { of, number, size });
            }
        }
        sizes.sort_unstable();
        let time = Self { longest, sizes };
        let free = Network { time: Some(time.clone()), ..first.clone() };
        for &(steps, other) in networks {
            let same = free.instance(steps);
            if same.as_ref() == Some(other) {
                continue;
            }
            let nodes = same.iter().flat_map(|same| same.nodes.iter().zip(&other.nodes));
            let node = nodes.enumerate().find(|(_, (a, b))| a != b);
            let what = node.map_or("its input".into(), |(at, _)| first.place(Place::Node(at)));
            return Err(format!("{what} is another for {steps} steps"));
        }
        Ok(time)
    }
}

impl Network {
    /// The sizes of something that may follow from a length.
    fn sizes(&self, of: Place) -> Vec<i64> {
        let mut sizes = Vec::new();
        let mut change = |_, size: i64| {
            sizes.push(size);
            Some(size)
        };
        // Of a copy of that alone.
        let _ = match of {
            Place::Input => each_size_of_shape(&mut self.input.shape.clone(), &mut change),
            Place::Part(part) => {
                each_size_of_shape(&mut self.input.parts[part].shape.clone(), &mut change)
            }
            Place::Layer(layer) => each_of(&mut self.layers[layer].shape.clone(), &mut change),
            Place::Node(node) => each_size_of(&mut self.nodes[node].op.clone(), &mut change),
        };
        sizes
    }

    /// What something is called in messages.
    fn place(&self, of: Place) -> String {
        match of {
            Place::Input => "its input".into(),
            Place::Part(part) => format!("its input {:?}", self.input.parts[part].name),
            Place::Layer(layer) => format!("layer {:?}", self.layers[layer].name),
            Place::Node(node) => match self.nodes.get(node).map_or("", |node| &node.name) {
                "" => format!("node {node}"),
                name => format!("node {node} ({name})"),
            },
        }
    }
}
