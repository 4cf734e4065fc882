//! Pictures as SVG: figures of panels with named axes, ticks and a legend, and heat maps of weights.
//!
//! Every element carries its own colors, so that a picture shows wherever SVG is shown, and every
//! picture has a title for those who do not see it. A series has a color and a dash pattern or a
//! marker, so color is never needed to tell two apart.
// Reports need less than experiments do.
#![cfg_attr(not(all(feature = "cli", feature = "train")), allow(dead_code, unused_imports))]

mod axis;
mod figure;
mod heat_map;
mod series;
mod svg;

pub(crate) use axis::Axis;
pub(crate) use figure::{Figure, Panel};
pub(crate) use heat_map::HeatMap;
pub(crate) use series::Series;
pub(crate) use svg::escape;
