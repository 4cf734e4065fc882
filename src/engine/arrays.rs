//! Inference and evaluation on arrays of ndarray.

use ndarray::{Array2, ArrayView2};

use super::Engine;
use super::evaluate::{Evaluation, compare};
use crate::error::{Error, Result};

impl Engine {
    /// The outputs, `[sample, output]`, of raw values, `[sample, element]`.
    ///
    /// ```
    /// use svdo::engine::evaluate::Evaluation;
    /// use svdo::engine::{Engine, Isa};
    /// use svdo::model::{LayerWeights, Model};
    /// use svdo::network::{Layer, describe::Description};
    ///
    /// let weights = sprs::CsMat::new((2, 3), vec![0, 1, 3], vec![1, 0, 2], vec![2.0, 1.0, 3.0]);
    /// let layers = vec![Layer { name: "fc".into(), shape: vec![2, 3] }];
    /// let model = Model {
    ///     network: Description::linear_chain(&layers).unwrap().resolve(layers)?,
    ///     threshold: None,
    ///     weights: vec![LayerWeights::from_csr(weights.view(), Some(vec![0.0, 0.5]))?],
    /// };
    /// let engine = Engine::new(&model, Isa::detect(None)?)?;
    /// let outputs = engine.predict(ndarray::arr2(&[[1.0, 1.0, 1.0], [0.0, 4.0, 1.0]]).view())?;
    /// assert_eq!(outputs, ndarray::arr2(&[[2.0, 4.5], [8.0, 3.5]]));
    /// assert_eq!(Evaluation::of(outputs.view(), &[1, 1])?.errors, 1);
    /// # Ok::<(), svdo::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Data`] if the samples do not have as many elements as the network's input.
    pub fn predict(&self, samples: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        let (elements, shape) = (samples.ncols(), self.input_shape());
        if elements != shape.elements()? {
            return Err(Error::data(format!(
                "samples of {elements} elements, the network takes {shape}"
            )));
        }
        let samples = samples.as_standard_layout();
        let mut outputs = Array2::zeros((samples.nrows(), self.output_shape().elements()?));
        if let (Some(values), Some(results)) = (samples.as_slice(), outputs.as_slice_mut()) {
            self.infer(values, results)?;
        }
        Ok(outputs)
    }
}

impl Evaluation {
    /// Compares outputs, `[sample, output]`, with labels.
    ///
    /// # Errors
    /// [`Error::Data`] if the numbers of samples and labels differ or a label is no output's number.
    pub fn of(outputs: ArrayView2<'_, f32>, labels: &[u32]) -> Result<Self> {
        let outputs = outputs.as_standard_layout();
        compare(outputs.as_slice().unwrap_or_default(), outputs.ncols(), labels)
    }
}

#[cfg(all(test, feature = "compress"))]
mod tests {
    use super::*;
    use crate::engine::Isa;
    use crate::model::{LayerWeights, Model};
    use crate::network::{Input, Layer, Network, Node, Op, Shape, Source};

    #[test]
    fn strided_samples_and_wrong_widths() {
        let weights = sprs::CsMat::new((1, 2), vec![0, 2], vec![0, 1], vec![1.0, 10.0]);
        let node =
            Node { name: "".into(), op: Op::Linear { layer: 0 }, inputs: vec![Source::Input] };
        let model = Model {
            network: Network {
                input: Input::plain(Shape::vector(2)),
                layers: vec![Layer { name: "fc".into(), shape: vec![1, 2] }],
                nodes: vec![node],
                time: None,
            },
            threshold: None,
            weights: vec![LayerWeights::from_csr(weights.view(), None).unwrap()],
        };
        let engine = Engine::new(&model, Isa::detect(None).unwrap()).unwrap();
        let samples = ndarray::arr2(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        let outputs = engine.predict(samples.t()).unwrap();
        assert_eq!(outputs, ndarray::arr2(&[[41.0], [52.0], [63.0]]));
        assert_eq!(
            engine.predict(samples.view()).unwrap_err().to_string(),
            "samples of 3 elements, the network takes [2]"
        );
        assert!(engine.predict(Array2::zeros((0, 2)).view()).unwrap().is_empty());
    }
}
