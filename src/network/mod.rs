//! The network: a list of nodes in execution order over named, shaped weight layers.

pub mod activation;
#[cfg(feature = "compress")]
mod cells;
mod classes;
mod combined;
#[cfg(feature = "compress")]
pub mod describe;
mod domain;
#[cfg(feature = "compress")]
mod fit;
mod function;
#[cfg(feature = "compress")]
mod further;
mod graph;
mod maps;
#[cfg(feature = "compress")]
mod node;
mod parameters;
#[cfg(feature = "compress")]
pub(crate) mod plain;
mod positions;
mod recurrent;
mod shapes;
#[cfg(feature = "compress")]
mod size;
mod time;
mod tokens;

pub use activation::Activation;
#[cfg(test)]
pub(crate) use activation::EXAMPLES;
pub use domain::{Domain, DomainKind};
pub(crate) use domain::{check_domains, drawn};
pub use function::Function;
pub(crate) use shapes::MOST_PARTS;
pub(crate) use tokens::row_of;

pub use graph::{Input, InputPart, Layer, Network, Node, Op, Shape, Source, Window};
pub use parameters::{
    Axis, Binary, Coordinates, Fill, Interpolation, Pad, Reduction, Resize, Rounding, View,
};
pub use recurrent::{Cell, Gate, Recurrence};
pub(crate) use time::corner;
pub use time::{FreeSize, Place, Polynomial, Time};
