//! The inputs of a graph, and nodes that give one of several.

use super::graph::{Graph, Value, value_info};
use super::message::{BOOL, FLOAT, INT64, int};
use crate::error::{Error, Result};
use crate::network::{Domain, DomainKind, InputPart, Network, Node, Op, Source, View};

/// One of several inputs, by its elements of a sample.
pub(super) struct Part {
    domain: Domain,
    value: Value,
}

/// The inputs where there are several: ids are whole numbers, masks truth values.
///
/// # Errors
/// As [`Network::domains`].
pub(super) fn several(network: &Network) -> Result<Vec<Part>> {
    let made = |(part, domain): (&InputPart, Domain)| {
        let map = part.shape.area() > 1;
        Part {
            domain,
            value: Value { name: part.name.clone(), shape: part.shape, map, batched: true },
        }
    };
    Ok(network.input.parts.iter().zip(network.domains()?).map(made).collect())
}

/// What a graph says of its input: the element type that ids or numbers have, for each input.
pub(super) fn described(parts: &[Part]) -> Vec<Vec<u8>> {
    let info = |part: &Part| {
        let kind = match part.domain.kind {
            DomainKind::Real => FLOAT,
            DomainKind::Ids(_) => INT64,
            DomainKind::Mask => BOOL,
        };
        value_info(&part.value.name, &part.value, kind)
    };
    parts.iter().map(info).collect()
}

/// Writes a node that reads one of several inputs; what it reads, with its elements in a row.
///
/// # Errors
/// [`Error::Network`] if it reads anything else of them.
pub(super) fn read(graph: &mut Graph, parts: &[Part], node: &Node) -> Result<(Value, View)> {
    let found = match node.op {
        Op::Rearrange(view) if node.inputs == [Source::Input] => {
            let reach = view.reach();
            let within = |part: &&Part| {
                part.domain.range.start <= reach.start && reach.end <= part.domain.range.end
            };
            parts.iter().find(within).map(|part| (part, view))
        }
        _ => None,
    };
    let Some((part, view)) = found else {
        return Err(Error::network("it reads several inputs as one, which ONNX has no word for"));
    };
    let mut value = part.value.clone();
    if part.domain.kind == DomainKind::Mask {
        value.name = graph.step("Cast", &[&value.name], &[int("to", FLOAT)]);
    }
    Ok((value, View { offset: view.offset - part.domain.range.start, ..view }))
}
