//! What is said of a network, as JSON.

use svdo::Result;
use svdo::edge::quoted;
use svdo::model::Values;
use svdo::network::Shape;

use crate::network::Network;

impl Network {
    /// The object that `svdo.d.ts` declares as `Description`.
    ///
    /// # Errors
    /// For shapes whose elements cannot be numbered.
    pub fn describe(&self) -> Result<String> {
        let Self { model, engine, .. } = self;
        let threshold = model.threshold.map_or("null".into(), |threshold| format!("{threshold:?}"));
        let layers = (0..model.weights.len()).map(|index| self.layer_json(index));
        let steps = engine.steps(model).into_iter().map(|step| {
            let layer = step.layer.map_or("null".into(), |layer| layer.to_string());
            let (kernel, multiply_adds) = (quoted(step.kernel), step.multiply_adds);
            format!("{{\"kernel\":{kernel},\"layer\":{layer},\"multiplyAdds\":{multiply_adds}}}")
        });
        Ok(format!(
            "{{\"schema\":\"web.schema.json\",\"program\":\"svdo {}\",\"isa\":{},\"bytes\":{},\"threshold\":{threshold},\"variances\":{},\
             \"input\":{},\"inputElements\":{},\"inputScale\":{:?},\"vocabulary\":{},\"output\":{},\"outputElements\":{},\
             \"classes\":[{}],\"layers\":[{}],\"steps\":[{}]}}",
            env!("CARGO_PKG_VERSION"),
            quoted(engine.isa().name()),
            self.bytes,
            self.variances.is_some(),
            shape_json(engine.input_shape()),
            engine.input_shape().elements()?,
            engine.input_scale(),
            engine.vocabulary().map_or("null".into(), |ids| ids.to_string()),
            shape_json(engine.output_shape()),
            engine.output_shape().elements()?,
            model.network.classes().into_iter().map(quoted).collect::<Vec<_>>().join(","),
            layers.collect::<Vec<_>>().join(","),
            steps.collect::<Vec<_>>().join(","),
        ))
    }

    fn layer_json(&self, index: usize) -> String {
        let (layer, weights) = (&self.model.network.layers[index], &self.model.weights[index]);
        let shape: Vec<_> = layer.shape.iter().map(usize::to_string).collect();
        let stored = match weights.values {
            Values::F32(_) => "f32",
            Values::F16(_) => "f16",
            _ => "levels",
        };
        format!(
            "{{\"name\":{},\"shape\":[{}],\"rows\":{},\"columns\":{},\"kept\":{},\"biases\":{},\"stored\":\"{stored}\",\
             \"bytes\":{}}}",
            quoted(&layer.name),
            shape.join(","),
            weights.pattern.rows(),
            weights.pattern.cols(),
            weights.pattern.len(),
            weights.bias.as_ref().map_or(0, Values::len),
            self.layer_bytes[index],
        )
    }
}

fn shape_json(shape: Shape) -> String {
    format!("[{},{},{}]", shape.channels, shape.height, shape.width)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the format, with names of its classes.
    fn named() -> Vec<u8> {
        let mut file =
            b"SVDO\x01\x1e\x01\x03\x01\x01\0\0\x80\x3f\0\0\x01\0\x44\xb8\x02\x03\x04\xb0\x01"
                .to_vec();
        file.extend(b"\x80\x08\ndown\nup\0\x05\x59\xb7\xeb\x0e\x50");
        let sum = crc32fast::hash(&file);
        file.extend(sum.to_le_bytes());
        file
    }

    #[test]
    fn a_description_fits_its_schema() {
        let text = Network::open(&named()).unwrap().describe().unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let schema = include_str!("../../../formats/web.schema.json");
        let validator = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
        let problems: Vec<String> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
        assert!(problems.is_empty(), "{problems:?} in {text}");
        assert_eq!(value["classes"], serde_json::json!(["down", "up"]));
    }
}
