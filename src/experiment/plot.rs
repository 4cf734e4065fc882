//! Figures as SVG that read on light and dark pages alike: panels side by side, each with named
//! axes, ticks and a legend. A series has a colour and a dash pattern, so colour is never needed to
//! tell two apart.

use std::fmt::Write;

const STYLE: &str = "svg{--ink:#1c2430;--soft:#5c6b7a;--paper:#fff;--line:#e1e6eb;--c0:#0b7a75;\
--c1:#c9580c;--c2:#6a4fb3;--c3:#1f6fc4;--c4:#b3266b;--c5:#5c6b1a;--c6:#7a5a3a;font:13px system-ui,\
sans-serif}@media(prefers-color-scheme:dark){svg{--ink:#e6eaee;--soft:#9aa7b4;--paper:#12171d;\
--line:#2b343e;--c0:#4fc3b8;--c1:#f0a35e;--c2:#b8a1ee;--c3:#74b5f5;--c4:#f08cba;--c5:#c3cf7a;\
--c6:#cdab86}}text{fill:var(--ink)}.soft{fill:var(--soft)}";
const DASHES: [&str; 4] = ["", "7 4", "2 3", "9 3 2 3"];
const COLORS: usize = 7;

const PLOT_WIDTH: f64 = 400.0;
const PLOT_HEIGHT: f64 = 280.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 64.0;
/// From one line of a legend to the next.
const LEGEND: f64 = 18.0;

/// One figure.
pub struct Figure {
    /// Above it.
    pub title: String,
    /// From left to right.
    pub panels: Vec<Panel>,
}

/// A pair of axes and what is drawn between them.
#[derive(Default)]
pub struct Panel {
    /// Above the axes.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// In the order of the legend.
    pub series: Vec<Series>,
}

/// An axis.
#[derive(Default)]
pub struct Axis {
    /// What it shows, with its unit.
    pub name: String,
    /// Whether steps are factors of ten.
    pub logarithmic: bool,
    /// The ends; those of the data where `None`.
    pub range: Option<(f64, f64)>,
}

/// Points that belong together.
pub struct Series {
    /// In the legend.
    pub name: String,
    /// What is not finite (or, on a logarithmic axis, not positive) interrupts the line.
    pub points: Vec<(f64, f64)>,
    /// How they are drawn.
    pub style: Style,
}

/// How points are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Joined.
    Line,
    /// Each on its own.
    Dots,
    /// A rule across, thin, at each y.
    Rule,
}

impl Axis {
    /// A linear axis over its data.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// A logarithmic axis over its data.
    pub fn logarithmic(name: &str) -> Self {
        Self { logarithmic: true, ..Self::new(name) }
    }

    /// The same from `low` to `high`.
    pub fn within(self, low: f64, high: f64) -> Self {
        Self { range: Some((low, high)), ..self }
    }

    fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.logarithmic || value > 0.0)
    }

    fn place(&self, value: f64) -> f64 {
        if self.logarithmic { libm::log10(value) } else { value }
    }

    /// The ends, in places.
    fn ends(&self, values: impl Iterator<Item = f64>) -> (f64, f64) {
        if let Some((low, high)) = self.range {
            return (self.place(low), self.place(high));
        }
        let places = values.filter(|v| self.shows(*v)).map(|v| self.place(v));
        let (low, high) = places
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), p| (low.min(p), high.max(p)));
        if low > high {
            return (0.0, 1.0);
        }
        let margin = if high > low { 0.04 * (high - low) } else { 0.5 };
        (low - margin, high + margin)
    }

    /// Places and labels of ticks.
    fn ticks(&self, (low, high): (f64, f64)) -> Vec<(f64, String)> {
        let raw = (high - low) / 5.0;
        let power = libm::pow(10.0, libm::floor(libm::log10(raw)));
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw);
        let mut step = step.unwrap_or(10.0 * power);
        if self.logarithmic {
            step = libm::ceil(step);
        }
        let mut ticks = Vec::new();
        for i in (low / step).ceil() as i64..=(high / step).floor() as i64 {
            let place = i as f64 * step;
            let label = if self.logarithmic {
                let digits = |n: i64| n.to_string().replace('-', "\u{2212}");
                match place as i64 {
                    n @ -2..=3 => format!("{}", libm::pow(10.0, n as f64)),
                    n => format!("10<tspan dy='-5' font-size='10'>{}</tspan>", digits(n)),
                }
            } else {
                let decimals = (-libm::floor(libm::log10(step))).clamp(0.0, 9.0) as usize;
                format!("{place:.decimals$}").replace('-', "\u{2212}")
            };
            ticks.push((place, label));
        }
        ticks
    }
}

impl Series {
    /// A line.
    pub fn line(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, style: Style::Line }
    }

    /// Dots.
    pub fn dots(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { style: Style::Dots, ..Self::line(name, points) }
    }

    /// A rule at `y`.
    pub fn rule(name: &str, y: f64) -> Self {
        Self { style: Style::Rule, ..Self::line(name, vec![(f64::NAN, y)]) }
    }
}

impl Figure {
    /// The figure as an SVG document.
    pub fn render(&self) -> String {
        let legend =
            self.panels.iter().map(|p| p.series.len().div_ceil(p.columns())).max().unwrap_or(0);
        let step = LEFT + PLOT_WIDTH + RIGHT;
        let width = step * self.panels.len() as f64;
        let height = TOP + PLOT_HEIGHT + 58.0 + LEGEND * legend as f64;
        let mut svg = open(width, height, &self.title);
        for (index, panel) in self.panels.iter().enumerate() {
            panel.draw(&mut svg, step * index as f64 + LEFT);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Panel {
    /// Of the legend: two, or one where a name needs the room.
    fn columns(&self) -> usize {
        const HALF: usize = 23;
        if self.series.iter().all(|s| s.name.chars().count() <= HALF) { 2 } else { 1 }
    }

    fn draw(&self, svg: &mut String, left: f64) {
        let all = || self.series.iter().flat_map(|s| &s.points);
        let x_ends = self.x.ends(all().map(|p| p.0));
        let y_ends = self.y.ends(all().map(|p| p.1));
        let share = |place: f64, (low, high): (f64, f64)| (place - low) / (high - low);
        let x = |place: f64| left + share(place, x_ends) * PLOT_WIDTH;
        let y = |place: f64| TOP + (1.0 - share(place, y_ends)) * PLOT_HEIGHT;
        let (right, bottom) = (left + PLOT_WIDTH, TOP + PLOT_HEIGHT);
        let middle = left + PLOT_WIDTH / 2.0;
        let _ = writeln!(
            svg,
            "<text x='{middle:.0}' y='{:.0}' text-anchor='middle'>{}</text>",
            TOP - 12.0,
            escape(&self.title)
        );
        for (place, label) in self.x.ticks(x_ends) {
            let at = x(place);
            let _ = writeln!(
                svg,
                "<path d='M{at:.1} {TOP}V{bottom}' stroke='var(--line)'/><text class='soft' \
                 x='{at:.1}' y='{:.0}' text-anchor='middle'>{label}</text>",
                bottom + 18.0
            );
        }
        for (place, label) in self.y.ticks(y_ends) {
            let at = y(place);
            let _ = writeln!(
                svg,
                "<path d='M{left} {at:.1}H{right}' stroke='var(--line)'/><text class='soft' \
                 x='{:.0}' y='{:.1}' text-anchor='end'>{label}</text>",
                left - 7.0,
                at + 4.5
            );
        }
        let (name_x, name_y) = (left - 56.0, TOP + PLOT_HEIGHT / 2.0);
        let clip = format!("clip{left:.0}");
        let _ = writeln!(
            svg,
            "<path d='M{left} {TOP}V{bottom}H{right}' fill='none' stroke='var(--soft)'/>\
             <text x='{middle:.0}' y='{:.0}' text-anchor='middle'>{}</text>\
             <text transform='translate({name_x:.0} {name_y:.0}) rotate(-90)' \
             text-anchor='middle'>{}</text>\
             <clipPath id='{clip}'><path d='M{left} {TOP}V{bottom}H{right}V{TOP}z'/></clipPath>\
             <g clip-path='url(#{clip})'>",
            bottom + 40.0,
            escape(&self.x.name),
            escape(&self.y.name)
        );
        for (index, series) in self.series.iter().enumerate() {
            let stroke = stroke(index);
            match series.style {
                Style::Line => {
                    let mut path = String::new();
                    let mut pen_down = false;
                    for (px, py) in &series.points {
                        let shown = self.x.shows(*px) && self.y.shows(*py);
                        if shown {
                            let letter = if pen_down { 'L' } else { 'M' };
                            let (px, py) = (x(self.x.place(*px)), y(self.y.place(*py)));
                            let _ = write!(path, "{letter}{px:.1} {:.1}", py.clamp(-1e4, 1e4));
                        }
                        pen_down = shown;
                    }
                    let _ = writeln!(svg, "<path d='{path}' fill='none' {stroke}/>");
                }
                Style::Dots => {
                    for (px, py) in &series.points {
                        if self.x.shows(*px) && self.y.shows(*py) {
                            let (px, py) = (x(self.x.place(*px)), y(self.y.place(*py)));
                            svg.push_str(&marker(index, px, py));
                        }
                    }
                }
                Style::Rule => {
                    for (_, py) in &series.points {
                        let at = y(self.y.place(*py));
                        let _ = writeln!(svg, "<path d='M{left} {at:.1}H{right}' {stroke}/>");
                    }
                }
            }
        }
        svg.push_str("</g>\n");
        let columns = self.columns();
        for (index, series) in self.series.iter().enumerate() {
            let at = left + PLOT_WIDTH / 2.0 * (index % columns) as f64;
            let line = bottom + 64.0 + LEGEND * (index / columns) as f64;
            let sample = match series.style {
                Style::Dots => marker(index, at + 13.0, line - 4.5),
                _ => format!(
                    "<path d='M{at:.0} {:.1}h26' fill='none' {}/>",
                    line - 4.5,
                    stroke(index)
                ),
            };
            let name = escape(&series.name);
            let _ = writeln!(svg, "{sample}<text x='{:.0}' y='{line:.0}'>{name}</text>", at + 32.0);
        }
    }
}

fn stroke(index: usize) -> String {
    let dash = DASHES[index % DASHES.len()];
    format!("stroke='var(--c{})' stroke-width='2' stroke-dasharray='{dash}'", index % COLORS)
}

/// A dot whose shape says which series it belongs to.
fn marker(index: usize, x: f64, y: f64) -> String {
    let color = format!("stroke='var(--c{0})' stroke-width='1.6'", index % COLORS);
    match index % 4 {
        0 => format!("<circle cx='{x:.1}' cy='{y:.1}' r='4.5' fill='none' {color}/>"),
        1 => format!("<path d='M{:.1} {:.1}l8 8m0 -8l-8 8' {color}/>", x - 4.0, y - 4.0),
        2 => format!("<path d='M{x:.1} {:.1}l4.5 8h-9z' fill='none' {color}/>", y - 5.0),
        _ => format!("<path d='M{:.1} {y:.1}h10m-5 -5v10' {color}/>", x - 5.0),
    }
}

fn open(width: f64, height: f64, title: &str) -> String {
    let title = escape(title);
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0} {height:.0}' \
         width='{width:.0}' height='{height:.0}' role='img'><title>{title}</title>\n\
         <style>{STYLE}</style>\n<rect width='100%' height='100%' fill='var(--paper)'/>\n\
         <text x='{:.0}' y='26' text-anchor='middle' font-size='16' font-weight='600'>{title}</text>\n",
        width / 2.0
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A picture of weights: tiles in the shape of the input, one for each unit, from white (no weight)
/// to red (the largest), with a scale beside it.
///
/// # Errors
/// If the picture cannot be coded.
pub fn heat_map(
    title: &str,
    caption: &str,
    units: &[&[f32]],
    [tile_width, tile_height]: [usize; 2],
) -> crate::Result<String> {
    use base64::Engine as _;
    const SHADES: usize = 64;
    let across = libm::ceil(libm::sqrt(units.len() as f64)).max(1.0) as usize;
    let down = units.len().div_ceil(across).max(1);
    let (width, height) = (across * (tile_width + 1) + 1, down * (tile_height + 1) + 1);
    let largest = units.iter().flat_map(|u| u.iter()).fold(0.0f32, |m, v| m.max(v.abs()));
    // Palette: shades, then the lines between tiles.
    let mut pixels = vec![SHADES as u8; width * height];
    for (index, unit) in units.iter().enumerate() {
        let (left, top) =
            (index % across * (tile_width + 1) + 1, index / across * (tile_height + 1) + 1);
        for (at, value) in unit.iter().enumerate() {
            let share = if largest > 0.0 { value.abs() / largest } else { 0.0 };
            // A weight that is there is never as white as one that is not.
            let least = f32::from(u8::from(*value != 0.0)) * 6.0;
            let shade = (share.sqrt() * (SHADES - 1) as f32).max(least);
            pixels[(top + at / tile_width) * width + left + at % tile_width] = shade as u8;
        }
    }
    let color = |share: f64| {
        let pale = 255.0 * (1.0 - share);
        [(255.0 - 75.0 * share) as u8, pale as u8, (pale * 0.95 + 0.05 * 60.0) as u8]
    };
    let mut palette: Vec<u8> =
        (0..SHADES).flat_map(|s| color(s as f64 / (SHADES - 1) as f64)).collect();
    palette[..3].copy_from_slice(&[255; 3]);
    palette.extend([205, 212, 219]);
    let failed =
        |e: png::EncodingError| crate::Error::Format { format: "PNG", problem: e.to_string() };
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, width as u32, height as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette(palette);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;

    let size = 600.0;
    let drawn_height = size * height as f64 / width as f64;
    let total = drawn_height + TOP + 30.0;
    let mut svg = open(size + 150.0, total, title);
    let data = base64::engine::general_purpose::STANDARD.encode(&png);
    let _ = writeln!(
        svg,
        "<text x='20' y='48' class='soft'>{}</text><image x='20' y='{TOP}' width='{size}' \
         height='{drawn_height:.0}' style='image-rendering:pixelated' href='data:image/png;base64,{data}'/>",
        escape(caption)
    );
    let left = size + 40.0;
    for step in 0..=10 {
        let share = f64::from(step) / 10.0;
        let [r, g, b] = color(share);
        let y = TOP + 20.0 * f64::from(10 - step);
        let _ = write!(svg, "<path d='M{left} {y}h18v20h-18z' fill='#{r:02x}{g:02x}{b:02x}'/>");
        if step % 5 == 0 {
            let value = share * share * f64::from(largest);
            let _ = writeln!(
                svg,
                "<text class='soft' x='{}' y='{}'>{value:.2}</text>",
                left + 24.0,
                y + 15.0
            );
        }
    }
    let _ = writeln!(svg, "<text x='{left}' y='{}'>|theta|</text></svg>", TOP + 242.0);
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(points: Vec<(f64, f64)>) -> Panel {
        Panel {
            title: "a < b".into(),
            x: Axis::new("x"),
            y: Axis::logarithmic("y"),
            series: vec![
                Series::line("l", points.clone()),
                Series::dots("d", points),
                Series::rule("r", 1.0),
            ],
        }
    }

    #[test]
    fn a_figure_is_well_formed_and_holds_its_words() {
        for points in
            [vec![], vec![(1.0, 1.0)], vec![(0.0, 1e-9), (1.0, f64::NAN), (2.0, 1e7), (3.0, -1.0)]]
        {
            let figure = Figure {
                title: "T & U".into(),
                panels: vec![panel(points.clone()), panel(points)],
            };
            let svg = figure.render();
            for word in ["T &amp; U", "a &lt; b", ">x<", ">y<", ">l<", ">d<", ">r<"] {
                assert!(svg.contains(word), "{word} in {svg}");
            }
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            let count = |what: &str| svg.matches(what).count();
            assert_eq!(count("<g "), count("</g>"));
            assert_eq!(count("<text"), count("</text>"));
        }
    }

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let labels = |axis: &Axis, ends| -> Vec<String> {
            axis.ticks(ends).into_iter().map(|(_, label)| label).collect()
        };
        assert_eq!(labels(&Axis::new(""), (-0.3, 1.1)), ["0.0", "0.5", "1.0"]);
        assert_eq!(
            labels(&Axis::new(""), (-10.0, 10.0)),
            ["\u{2212}10", "\u{2212}5", "0", "5", "10"]
        );
        assert_eq!(labels(&Axis::logarithmic(""), (-1.2, 1.2)), ["0.1", "1", "10"]);
    }

    #[test]
    fn a_heat_map_holds_its_picture() {
        let unit = [0.0, 0.5, -1.0, 0.0];
        let svg = heat_map("t", "c", &[&unit, &unit], [2, 2]).unwrap();
        assert!(svg.contains("data:image/png;base64,") && svg.contains("1.00"));
        heat_map("t", "c", &[&[0.0; 4]], [2, 2]).unwrap();
        heat_map("t", "c", &[], [2, 2]).unwrap();
    }
}
