//! A picture of weights.

use base64::Engine as _;

use super::svg::{INK, Medium, SOFT, Svg, escape};
use crate::error::{Error, Result};

/// Tiles of weights, one for each unit: white where there is none, red above zero, blue below, the
/// darker the larger.
pub(crate) struct HeatMap {
    /// What is shown.
    pub(crate) title: String,
    /// More about it.
    pub(crate) caption: String,
    /// What a weight is called beside the scale.
    pub(crate) label: &'static str,
    /// Width and height of a tile.
    pub(crate) tile: [usize; 2],
    /// Weights of each tile, row by row.
    pub(crate) units: Vec<Vec<f32>>,
}

/// Of each sign, the first of both being white.
const SHADES: usize = 64;
/// In the palette, from the darkest blue to the darkest red.
const WHITE: usize = SHADES - 1;
/// In the palette: the lines between tiles.
const LINES: usize = 2 * SHADES - 1;

impl HeatMap {
    /// The picture as an SVG document.
    ///
    /// # Errors
    /// If it cannot be coded.
    pub(crate) fn document(&self) -> Result<String> {
        self.render(Medium::File)
    }

    /// The picture as an element of an HTML page.
    ///
    /// # Errors
    /// If it cannot be coded.
    pub(crate) fn element(&self) -> Result<String> {
        self.render(Medium::Page)
    }

    fn render(&self, medium: Medium) -> Result<String> {
        const WIDTH: f64 = 600.0;
        let top = if medium == Medium::File { 64.0 } else { 6.0 };
        let [across, down] = self.pixels();
        let drawn = WIDTH * down as f64 / across as f64;
        let data = base64::engine::general_purpose::STANDARD.encode(self.png()?);
        let size = [WIDTH + 150.0, (drawn + 30.0).max(260.0) + top];
        let mut svg = Svg::new(medium, size, &self.title);
        if medium == Medium::File {
            svg.text((20.0, 48.0), "start", SOFT, &escape(&self.caption));
        }
        svg.push(format_args!(
            "<image x='20' y='{top}' width='{WIDTH}' height='{drawn:.0}' \
             style='image-rendering:pixelated' href='data:image/png;base64,{data}'/>"
        ));
        self.scale(&mut svg, (WIDTH + 40.0, top));
        Ok(svg.finish())
    }

    /// Colors and the weights that they stand for.
    fn scale(&self, svg: &mut Svg, (left, top): (f64, f64)) {
        let lowest: i32 = if self.units.iter().flatten().any(|v| *v < 0.0) { -5 } else { 0 };
        let steps = f64::from(5 - lowest);
        let height = 220.0 / (steps + 1.0);
        for step in lowest..=5 {
            let share = f64::from(step) / 5.0;
            let [r, g, b] = color(share);
            let y = top + height * f64::from(5 - step);
            svg.push(format_args!(
                "<path d='M{left} {y:.1}h18v{height:.1}h-18z' fill='#{r:02x}{g:02x}{b:02x}'/>"
            ));
            if step == 0 || step.abs() == 5 {
                let value = share * share.abs() * f64::from(self.largest());
                let label = format!("{value:.2}").replace('-', "\u{2212}");
                svg.text((left + 24.0, y + height / 2.0 + 4.0), "start", SOFT, &label);
            }
        }
        svg.text((left, top + 242.0), "start", INK, self.label);
    }

    fn largest(&self) -> f32 {
        self.units.iter().flatten().fold(0.0, |m, v| m.max(v.abs()))
    }

    /// Tiles beside each other, and below.
    fn grid(&self) -> [usize; 2] {
        let [width, height] = self.tile;
        let square = (self.units.len() * height) as f64 / width.max(1) as f64;
        let across = libm::ceil(libm::sqrt(square)).max(1.0) as usize;
        [across, self.units.len().div_ceil(across).max(1)]
    }

    /// Width and height, with a line around each tile.
    pub(crate) fn pixels(&self) -> [usize; 2] {
        let [across, down] = self.grid();
        [across * (self.tile[0] + 1) + 1, down * (self.tile[1] + 1) + 1]
    }

    fn png(&self) -> Result<Vec<u8>> {
        let ([across, _], [width, height]) = (self.grid(), self.pixels());
        let [tile_width, tile_height] = self.tile;
        let largest = self.largest();
        let mut pixels = vec![LINES as u8; width * height];
        for (index, unit) in self.units.iter().enumerate() {
            let left = index % across * (tile_width + 1) + 1;
            let top = index / across * (tile_height + 1) + 1;
            for (at, value) in unit.iter().enumerate() {
                let shade = shade(*value, largest);
                pixels[(top + at / tile_width) * width + left + at % tile_width] = shade;
            }
        }
        let shades = (0..LINES).map(|s| (s as f64 - WHITE as f64) / WHITE as f64);
        let mut palette: Vec<u8> = shades.flat_map(color).collect();
        palette.extend([205, 212, 219]);
        let failed =
            |e: png::EncodingError| Error::Format { format: "PNG", problem: e.to_string() };
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, width as u32, height as u32);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_palette(palette);
        encoder.set_compression(png::Compression::High);
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(&pixels).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(png)
    }
}

/// A weight's place in the palette; one that is there is never as white as one that is not.
fn shade(value: f32, largest: f32) -> u8 {
    const LEAST: f32 = 6.0;
    if value == 0.0 {
        return WHITE as u8;
    }
    let strength = ((value.abs() / largest).sqrt() * WHITE as f32).max(LEAST);
    (WHITE as f32 + strength.copysign(value)) as u8
}

/// The color of a share of the largest shade, -1 to 1.
fn color(share: f64) -> [u8; 3] {
    let pale = 255.0 * (1.0 - share.abs());
    let (main, other) = ((255.0 - 75.0 * share.abs()) as u8, pale as u8);
    if share < 0.0 { [other, other, main] } else { [main, other, other] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heat_map(units: Vec<Vec<f32>>) -> HeatMap {
        let (title, caption) = ("t".into(), "c".into());
        HeatMap { title, caption, label: "|theta|", tile: [2, 2], units }
    }

    #[test]
    fn a_heat_map_holds_its_picture_and_scale() {
        let map = heat_map(vec![vec![0.0, 0.5, -1.0, 0.0]; 2]);
        for svg in [map.document().unwrap(), map.element().unwrap()] {
            assert!(svg.contains("data:image/png;base64,") && svg.contains("role='img'"));
            assert!(svg.contains(">1.00<") && svg.contains(">\u{2212}1.00<"), "{svg}");
        }
        for units in [vec![vec![0.0; 4]], Vec::new()] {
            let svg = heat_map(units).document().unwrap();
            assert!(!svg.contains("NaN") && !svg.contains('\u{2212}'), "{svg}");
        }
    }

    #[test]
    fn shades_have_the_sign_and_strength_of_weights() {
        let shades = [-1.0, -0.25, -1e-9, 0.0, 1e-9, 0.25, 1.0].map(|v| shade(v, 1.0));
        assert_eq!(shades, [0, 31, 57, 63, 69, 94, 126]);
        assert_eq!([-1.0, 0.0, 1.0].map(color), [[0, 0, 180], [255; 3], [180, 0, 0]]);
    }
}
