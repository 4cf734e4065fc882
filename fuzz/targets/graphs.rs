//! Any bytes as an ONNX model: an error, or a model that is written as ONNX and read as the same.

use svdo::{container, export, onnx};

use super::container::is_small;

pub fn read(bytes: &[u8]) {
    let Ok(model) = onnx::read(bytes) else { return };
    model.network.shapes().unwrap();
    if !is_small(&model) {
        return;
    }
    let file = container::write(&model, false).unwrap().bytes;
    assert!(container::read(&file).unwrap().weights == model.weights);
    for sparse in [false, true] {
        // Not every operation has an equivalent.
        let Ok(written) = export::onnx(&model, sparse) else { continue };
        let again = onnx::read(&written).unwrap();
        assert_eq!(
            again.network.output_shape_of_all().unwrap(),
            model.network.output_shape_of_all().unwrap()
        );
    }
}
