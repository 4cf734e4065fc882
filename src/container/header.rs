//! The header: the network and the encoding of each layer's values, as bytes.
//!
//! Numbers are LEB128 varints, real numbers little-endian f32.

use super::fields::{Fields, malformed};
#[cfg(feature = "compress")]
use super::fields::{put, put_all, put_f32, put_signed, put_text};
#[cfg(feature = "compress")]
use super::operations;
use crate::entropy::spec::{Coding, ValueEncoding};
use crate::error::Result;
use crate::model::{ActivationRange, ActivationRanges, Scale};
use crate::network::{
    FreeSize, Input, InputPart, Layer, MOST_PARTS, Network, Node, Op, Place, Polynomial, Shape,
    Source, Time,
};

/// The steps that take one byte: `(8 + m) 2^(e - 27)` for m in its lower three bits, e in the upper
/// five.
pub(super) fn short_step(code: u8) -> f32 {
    let mantissa = f32::from(8 + (code & 7));
    // 2^(e - 27) by its bits.
    mantissa * f32::from_bits((u32::from(code >> 3) + 100) << 23)
}

/// Everything that stands before the layers' sections.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Header {
    pub(super) network: Network,
    pub(super) threshold: Option<f32>,
    /// Whether a section of variances follows the layers.
    pub(super) variances: bool,
    /// For each layer, how its positions are coded, the encoding of its weights and of its bias.
    pub(super) encodings: Vec<(Coding, ValueEncoding, Option<ValueEncoding>)>,
    /// In which 8 bits layers may be run.
    pub(super) ranges: Option<ActivationRanges>,
}

const NAMES: u64 = 1;
const THRESHOLD: u64 = 2;
const VARIANCES: u64 = 4;
const PARTS: u64 = 8;
const TIME: u64 = 16;
const RANGES: u64 = 32;
const ENCODING_MASK: u8 = 0x07;
const CURVED: u8 = 0x08;
const CONVOLUTION: u8 = 0x10;
const GAPS: u8 = 0x20;
const ADAPTIVE: u8 = 0x40;
const OP_INPUTS: u8 = 0x40;
const OP_NAMED: u8 = 0x80;

#[cfg(feature = "compress")]
impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let names = self.network.layers.iter().any(|layer| !layer.name.is_empty())
            || self.network.nodes.iter().any(|node| !node.name.is_empty());
        let threshold = self.threshold.map_or(0, |_| THRESHOLD);
        let variances = if self.variances { VARIANCES } else { 0 };
        let parts = if self.network.input.parts.is_empty() { 0 } else { PARTS };
        let time = self.network.time.as_ref().map_or(0, |_| TIME);
        let ranges = self.ranges.as_ref().map_or(0, |_| RANGES);
        let names_flag = if names { NAMES } else { 0 };
        put(&mut out, names_flag | threshold | variances | parts | time | ranges);
        self.threshold.iter().for_each(|&t| put_f32(&mut out, t));
        let Input { shape, scale, mean, std, parts } = &self.network.input;
        put_all(&mut out, &[shape.channels, shape.height, shape.width]);
        put_f32(&mut out, *scale);
        for values in [mean, std] {
            put(&mut out, values.len() as u64);
            values.iter().for_each(|&v| put_f32(&mut out, v));
        }
        if !parts.is_empty() {
            put(&mut out, parts.len() as u64);
        }
        for InputPart { name, shape, mask } in parts {
            put_text(&mut out, name);
            put_all(&mut out, &[shape.channels, shape.height, shape.width]);
            out.push(u8::from(*mask));
        }
        put(&mut out, self.network.layers.len() as u64);
        for (layer, (coding, weights, bias)) in self.network.layers.iter().zip(&self.encodings) {
            if names {
                put_text(&mut out, &layer.name);
            }
            let convolution = if layer.shape.len() == 4 { CONVOLUTION } else { 0 };
            put_encoding(&mut out, Some(weights), convolution | coding_flag(*coding));
            put_all(&mut out, &layer.shape);
            put_encoding(&mut out, bias.as_ref(), 0);
        }
        put(&mut out, self.network.nodes.len() as u64);
        for (index, node) in self.network.nodes.iter().enumerate() {
            put_node(&mut out, node, index, names && !node.name.is_empty());
        }
        self.network.time.iter().for_each(|time| put_time(&mut out, time));
        if let Some(ranges) = &self.ranges {
            let layers = self.network.nodes.iter().zip(&ranges.nodes);
            for (_, range) in layers.filter(|(node, _)| has_range(node)) {
                out.push(range.map_or(0, |range| 1 + u8::from(range.signed)));
                range.iter().for_each(|range| put_f32(&mut out, range.step));
            }
        }
        out
    }
}

/// The longest sequence and the sizes that follow from its steps.
#[cfg(feature = "compress")]
fn put_time(out: &mut Vec<u8>, time: &Time) {
    put_all(out, &[time.longest, time.sizes.len()]);
    for FreeSize { of, number, size } in &time.sizes {
        let (kind, index) = match *of {
            Place::Input => (0, 0),
            Place::Part(part) => (1, part),
            Place::Layer(layer) => (2, layer),
            Place::Node(node) => (3, node),
        };
        put_all(out, &[4 * index + kind, *number]);
        size.0.iter().for_each(|&term| put_signed(out, term));
    }
}

#[cfg(feature = "compress")]
fn coding_flag(coding: Coding) -> u8 {
    match coding {
        Coding::Mixed => 0,
        Coding::Gaps => GAPS,
        Coding::Adaptive => ADAPTIVE,
    }
}

#[cfg(feature = "compress")]
fn put_node(out: &mut Vec<u8>, node: &Node, index: usize, named: bool) {
    let before = if index == 0 { Source::Input } else { Source::Node(index - 1) };
    let explicit = node.inputs != [before];
    let (code, operands) = operations::coded(&node.op);
    let flags = if explicit { OP_INPUTS } else { 0 } | if named { OP_NAMED } else { 0 };
    out.push(code | flags);
    if named {
        put_text(out, &node.name);
    }
    if explicit {
        put(out, node.inputs.len() as u64);
        for source in &node.inputs {
            put(
                out,
                match *source {
                    Source::Input => 0,
                    Source::Node(i) => i as u64 + 1,
                },
            );
        }
    }
    out.extend(operands);
}

#[cfg(feature = "compress")]
fn put_encoding(out: &mut Vec<u8>, encoding: Option<&ValueEncoding>, flags: u8) {
    match encoding {
        None => out.push(flags),
        Some(ValueEncoding::F32) => out.push(1 | flags),
        Some(ValueEncoding::F16) => out.push(2 | flags),
        Some(ValueEncoding::Codebook) => out.push(5 | flags),
        Some(ValueEncoding::Levels(Scale { step, companding })) => {
            let flags = if *companding == 0 { flags } else { flags | CURVED };
            match (0..=u8::MAX).find(|&code| short_step(code) == *step) {
                Some(code) => out.extend([4 | flags, code]),
                None => {
                    out.push(3 | flags);
                    put_f32(out, *step);
                }
            }
            if *companding > 0 {
                out.push(*companding);
            }
        }
    }
}

/// Whether there may be a range for the input of a node.
pub(super) fn has_range(node: &Node) -> bool {
    matches!(node.op, Op::Linear { .. } | Op::Conv2d { .. })
}

impl Header {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields { rest: bytes };
        let header = fields.header()?;
        if !fields.rest.is_empty() {
            return Err(malformed("bytes are left over"));
        }
        header.network.shapes()?;
        Ok(header)
    }
}

impl Fields<'_> {
    fn header(&mut self) -> Result<Header> {
        let flags = self.number()?;
        if flags & !(NAMES | THRESHOLD | VARIANCES | PARTS | TIME | RANGES) != 0 {
            return Err(malformed("unknown flags"));
        }
        let names = flags & NAMES != 0;
        let threshold = if flags & THRESHOLD != 0 { Some(self.real()?) } else { None };
        let [channels, height, width] = self.numbers()?;
        let input = Input {
            shape: Shape::new(channels, height, width),
            scale: self.real()?,
            mean: self.reals()?,
            std: self.reals()?,
            parts: if flags & PARTS != 0 { self.inputs()? } else { Vec::new() },
        };
        let (mut layers, mut encodings) = (Vec::new(), Vec::new());
        for _ in 0..self.parts()? {
            let name = if names { self.text()? } else { String::new() };
            let (weights, flags) = self.encoding(CONVOLUTION | GAPS | ADAPTIVE)?;
            let weights = weights.ok_or_else(|| malformed("a layer without weights"))?;
            let shape = match flags & CONVOLUTION {
                0 => self.numbers::<2>()?.to_vec(),
                _ => self.numbers::<4>()?.to_vec(),
            };
            layers.push(Layer { name, shape });
            let coding = match flags & (GAPS | ADAPTIVE) {
                0 => Coding::Mixed,
                GAPS => Coding::Gaps,
                ADAPTIVE => Coding::Adaptive,
                _ => return Err(malformed("positions coded in two ways")),
            };
            encodings.push((coding, weights, self.encoding(0)?.0));
        }
        let mut nodes = Vec::new();
        for index in 0..self.parts()? {
            let node = self.node(index)?;
            nodes.push(node);
        }
        let variances = flags & VARIANCES != 0;
        let time = if flags & TIME != 0 { Some(self.time()?) } else { None };
        let ranges = if flags & RANGES != 0 { Some(self.ranges(&nodes)?) } else { None };
        let network = Network { input, layers, nodes, time };
        Ok(Header { network, threshold, variances, encodings, ranges })
    }

    /// The ranges of what layers read.
    fn ranges(&mut self, nodes: &[Node]) -> Result<ActivationRanges> {
        let mut ranges = ActivationRanges { nodes: vec![None; nodes.len()] };
        let layers = ranges.nodes.iter_mut().zip(nodes).filter(|(_, node)| has_range(node));
        for (range, _) in layers {
            let signed = match self.byte()? {
                0 => continue,
                kind @ (1 | 2) => kind == 2,
                other => return Err(malformed(format!("a range of kind {other}"))),
            };
            let step = self.real()?;
            if !(step.is_finite() && step > 0.0) {
                return Err(malformed(format!("a range in steps of {step}")));
            }
            *range = Some(ActivationRange { step, signed });
        }
        Ok(ranges)
    }

    /// The longest sequence and the sizes that follow from its steps.
    fn time(&mut self) -> Result<Time> {
        let [longest, count] = self.numbers()?;
        let mut sizes = Vec::new();
        for _ in 0..count {
            let [of, number] = self.numbers()?;
            let index = of / 4;
            let of = match of % 4 {
                0 if index == 0 => Place::Input,
                1 => Place::Part(index),
                2 => Place::Layer(index),
                3 => Place::Node(index),
                _ => return Err(malformed("a size of nothing")),
            };
            let size = Polynomial([self.signed()?, self.signed()?, self.signed()?]);
            sizes.push(FreeSize { of, number, size });
        }
        Ok(Time { longest, sizes })
    }

    /// Several inputs.
    fn inputs(&mut self) -> Result<Vec<InputPart>> {
        let mut parts = Vec::new();
        for _ in 0..self.parts()? {
            let name = self.text()?;
            let [channels, height, width] = self.numbers()?;
            let mask = match self.byte()? {
                mask @ (0 | 1) => mask == 1,
                other => return Err(malformed(format!("an input of kind {other}"))),
            };
            parts.push(InputPart { name, shape: Shape::new(channels, height, width), mask });
        }
        match parts.len() {
            0 => Err(malformed("no inputs")),
            _ => Ok(parts),
        }
    }

    /// A number of layers or nodes. One of few bytes takes hundreds in memory.
    fn parts(&mut self) -> Result<usize> {
        match self.size()? {
            count @ 0..=MOST_PARTS => Ok(count),
            _ => Err(malformed("too many nodes or layers")),
        }
    }

    fn node(&mut self, index: usize) -> Result<Node> {
        let code = self.byte()?;
        let name = if code & OP_NAMED != 0 { self.text()? } else { String::new() };
        let mut inputs = Vec::new();
        if code & OP_INPUTS != 0 {
            for _ in 0..self.number()? {
                inputs.push(match self.number()? {
                    0 => Source::Input,
                    n => Source::Node(usize::try_from(n - 1).unwrap_or(usize::MAX)),
                });
            }
        } else {
            inputs.push(index.checked_sub(1).map_or(Source::Input, Source::Node));
        }
        let op = self.operation(code & !(OP_INPUTS | OP_NAMED))?;
        Ok(Node { name, op, inputs })
    }

    /// An encoding and those of the flags in `known` that stand beside it.
    fn encoding(&mut self, known: u8) -> Result<(Option<ValueEncoding>, u8)> {
        let byte = self.byte()?;
        let (kind, flags) = (byte & ENCODING_MASK, byte & !(ENCODING_MASK | CURVED));
        let step = match kind {
            0..=2 | 5 => 0.0,
            3 => self.real()?,
            4 => short_step(self.byte()?),
            _ => return Err(malformed(format!("unknown encoding {kind}"))),
        };
        let companding = if byte & CURVED == 0 { 0 } else { self.byte()? };
        if flags & !known != 0 || byte & CURVED != 0 && (!matches!(kind, 3 | 4) || companding == 0)
        {
            return Err(malformed(format!("an encoding with unknown flags, {byte:#x}")));
        }
        let encoding = match kind {
            0 => None,
            1 => Some(ValueEncoding::F32),
            2 => Some(ValueEncoding::F16),
            5 if known != 0 => Some(ValueEncoding::Codebook),
            5 => return Err(malformed("a bias with a codebook")),
            _ if step.is_finite() && step > 0.0 => {
                Some(ValueEncoding::Levels(Scale { step, companding }))
            }
            _ => return Err(malformed(format!("a step of {step}"))),
        };
        Ok((encoding, flags))
    }
}
