//! What is drawn between the axes.

use std::fmt::Write;

use super::axis::Scale;
use super::svg::{INK, Svg, escape};

const COLORS: [&str; 7] =
    ["#0b7a75", "#c9580c", "#6a4fb3", "#1f6fc4", "#b3266b", "#5c6b1a", "#7a5a3a"];
const DASHES: [&str; 4] = ["", "7 4", "2 3", "9 3 2 3"];

/// Points that belong together.
pub(crate) struct Series {
    /// In the legend.
    pub(super) name: String,
    /// What has no place on an axis interrupts a line.
    pub(crate) points: Vec<(f64, f64)>,
    /// What is said of each point where the pointer rests on it; none or one for each.
    titles: Vec<String>,
    /// In place of the color by order.
    color: Option<&'static str>,
    style: Style,
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    /// Joined.
    Line,
    /// Each on its own.
    Dots,
    /// The same, filled and larger.
    Filled,
    /// Columns of this width, each to the right of its x.
    Bars(f64),
    /// A line across at each y.
    Rule,
    /// A dashed line upright at each x that is between the ends, with its value.
    Mark,
}

impl Series {
    /// Joined points.
    pub(crate) fn line(name: &str, points: Vec<(f64, f64)>) -> Self {
        let (titles, color, style) = (Vec::new(), None, Style::Line);
        Self { name: name.into(), points, titles, color, style }
    }

    /// Points on their own.
    pub(crate) fn dots(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { style: Style::Dots, ..Self::line(name, points) }
    }

    /// Points on their own that stand out.
    pub(crate) fn filled(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { style: Style::Filled, ..Self::line(name, points) }
    }

    /// Columns of a histogram: left ends and heights.
    pub(crate) fn bars(name: &str, points: Vec<(f64, f64)>, width: f64) -> Self {
        Self { style: Style::Bars(width), ..Self::line(name, points) }
    }

    /// A line across at `y`.
    pub(crate) fn rule(name: &str, y: f64) -> Self {
        Self { style: Style::Rule, ..Self::line(name, vec![(f64::NAN, y)]) }
    }

    /// A line upright at `x`.
    pub(crate) fn mark(name: &str, x: f64) -> Self {
        Self { style: Style::Mark, ..Self::line(name, vec![(x, f64::NAN)]) }
    }

    /// The same with words for each point.
    pub(crate) fn titled(self, titles: Vec<String>) -> Self {
        Self { titles, ..self }
    }

    /// The same in this color.
    pub(crate) fn colored(self, color: &'static str) -> Self {
        Self { color: Some(color), ..self }
    }

    /// Numbers that the horizontal axis must show.
    pub(super) fn xs(&self) -> impl Iterator<Item = f64> {
        let width = if let Style::Bars(width) = self.style { width } else { 0.0 };
        let fixed = self.style == Style::Mark;
        self.points.iter().filter(move |_| !fixed).flat_map(move |p| [p.0, p.0 + width])
    }

    /// Numbers that the vertical axis must show.
    pub(super) fn ys(&self) -> impl Iterator<Item = f64> {
        self.points.iter().map(|p| p.1)
    }

    /// Draws it; `index` is its place in the legend, `radius` that of a marker.
    pub(super) fn draw(
        &self,
        svg: &mut Svg,
        index: usize,
        radius: f64,
        [x, y]: [&Scale<'_>; 2],
        [[left, right], [top, bottom]]: [[f64; 2]; 2],
    ) {
        let stroke = self.stroke(index);
        let drawn = || self.points.iter().map(|p| x.at(p.0).zip(y.at(p.1)));
        match self.style {
            Style::Line => {
                let (mut path, mut letter) = (String::new(), 'M');
                for point in drawn() {
                    if let Some((x, y)) = point {
                        let _ = write!(path, "{letter}{x:.1} {y:.1}");
                    }
                    letter = if point.is_some() { 'L' } else { 'M' };
                }
                svg.push(format_args!("<path d='{path}' fill='none' {stroke}/>"));
            }
            Style::Dots | Style::Filled => {
                for (at, point) in drawn().enumerate() {
                    if let Some(point) = point {
                        self.titled_element(svg, at, &self.marker(index, radius, point));
                    }
                }
            }
            Style::Bars(width) => {
                for (px, py) in &self.points {
                    if let (Some(from), Some(to), Some(y)) =
                        (x.at(*px), x.at(px + width), y.at(*py))
                    {
                        svg.push(format_args!(
                            "<path d='M{from:.1} {bottom}V{y:.1}h{:.1}V{bottom}z' fill='{}'/>",
                            (to - from - 0.6).max(0.4),
                            self.color(index)
                        ));
                    }
                }
            }
            Style::Rule => {
                for at in self.points.iter().filter_map(|p| y.at(p.1)) {
                    svg.push(format_args!("<path d='M{left} {at:.1}H{right}' {stroke}/>"));
                }
            }
            Style::Mark => {
                for px in self.points.iter().map(|p| p.0) {
                    let Some(at) = x.within(px) else { continue };
                    svg.push(format_args!(
                        "<path d='M{at:.1} {top}V{bottom}' stroke='{INK}' stroke-dasharray='4 3'/>"
                    ));
                    svg.text((at + 4.0, top + 8.0), "start", INK, &px.to_string());
                }
            }
        }
    }

    /// Its line of the legend, where it has a name.
    pub(super) fn legend(&self, svg: &mut Svg, index: usize, radius: f64, (x, y): (f64, f64)) {
        let middle = y - 4.5;
        svg.push(match self.style {
            Style::Dots | Style::Filled => self.marker(index, radius, (x + 13.0, middle)),
            _ => format!("<path d='M{x:.0} {middle:.1}h26' fill='none' {}/>", self.stroke(index)),
        });
        svg.text((x + 32.0, y), "start", INK, &escape(&self.name));
    }

    fn color(&self, index: usize) -> &'static str {
        self.color.unwrap_or(COLORS[index % COLORS.len()])
    }

    fn stroke(&self, index: usize) -> String {
        let dash = DASHES[index % DASHES.len()];
        let color = self.color(index);
        format!("stroke='{color}' stroke-width='2' stroke-dasharray='{dash}'")
    }

    /// A dot whose shape says which series it belongs to.
    fn marker(&self, index: usize, r: f64, (x, y): (f64, f64)) -> String {
        let color = self.color(index);
        let stroke = format!("stroke='{color}' stroke-width='1.6'");
        let d = 0.9 * r;
        match (self.style, index % 4) {
            (Style::Filled, _) => {
                format!("<circle cx='{x:.1}' cy='{y:.1}' r='{r}' fill='{color}'/>")
            }
            (_, 0) => format!("<circle cx='{x:.1}' cy='{y:.1}' r='{r}' fill='none' {stroke}/>"),
            (_, 1) => {
                let (x, y, side) = (x - d, y - d, 2.0 * d);
                format!(
                    "<path d='M{x:.1} {y:.1}l{side} {side}m0 -{side}l-{side} {side}' {stroke}/>"
                )
            }
            (_, 2) => {
                let (y, side) = (y - 1.1 * r, 2.0 * r);
                format!("<path d='M{x:.1} {y:.1}l{r} {}h-{side}z' fill='none' {stroke}/>", 2.0 * d)
            }
            _ => {
                let (x, side) = (x - 1.1 * r, 2.2 * r);
                let half = side / 2.0;
                format!("<path d='M{x:.1} {y:.1}h{side}m-{half} -{half}v{side}' {stroke}/>")
            }
        }
    }

    /// An element, with what is said of a point.
    fn titled_element(&self, svg: &mut Svg, at: usize, element: &str) {
        match self.titles.get(at) {
            Some(title) => {
                svg.push(format_args!("<g><title>{}</title>{element}</g>", escape(title)));
            }
            None => svg.push(element),
        }
    }
}
