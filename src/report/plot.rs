//! Dots over two axes, as SVG.

use std::fmt::Write;

use super::html::escape;

/// Width and height of every plot.
pub(super) const WIDTH: f64 = 320.0;
/// See [`WIDTH`].
pub(super) const HEIGHT: f64 = 150.0;

/// The opening tag of a plot.
pub(super) fn open_svg() -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">")
}

/// A dot and what is said when the pointer rests on it.
pub(super) struct Dot {
    pub x: f64,
    pub y: f64,
    /// Whether it is the one in use.
    pub filled: bool,
    /// Whether the line goes through it.
    pub joined: bool,
    pub title: String,
}

/// How numbers become places, and their labels at both ends.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub logarithmic: bool,
    /// Begins at zero rather than at the smallest number.
    pub from_zero: bool,
    pub label: fn(f64) -> String,
}

impl Axis {
    fn place(self, value: f64) -> f64 {
        if self.logarithmic { value.max(f64::MIN_POSITIVE).ln() } else { value }
    }

    fn range(self, values: impl Iterator<Item = f64>) -> (f64, f64) {
        let (least, most) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        (if self.from_zero { 0.0 } else { least }, most)
    }

    fn share(self, value: f64, (from, to): (f64, f64)) -> f64 {
        let (from, to) = (self.place(from), self.place(to));
        (self.place(value) - from) / (to - from).max(1e-12)
    }
}

/// The plot; none without dots.
pub(super) fn scatter(dots: &[Dot], x_axis: Axis, y_axis: Axis) -> Option<String> {
    const LEFT: f64 = 44.0;
    const BASE: f64 = HEIGHT - 20.0;
    if dots.is_empty() {
        return None;
    }
    let xs = x_axis.range(dots.iter().map(|d| d.x));
    let ys = y_axis.range(dots.iter().map(|d| d.y));
    let x = |v: f64| LEFT + 6.0 + x_axis.share(v, xs) * (WIDTH - LEFT - 18.0);
    let y = |v: f64| BASE - 6.0 - y_axis.share(v, ys) * (BASE - 16.0);
    let line = dots.iter().filter(|d| d.joined);
    let line: Vec<String> = line.map(|d| format!("{:.1},{:.1}", x(d.x), y(d.y))).collect();
    let labels = |axis: Axis, (from, to): (f64, f64)| ((axis.label)(from), (axis.label)(to));
    let ((x0, x1), (y0, y1)) = (labels(x_axis, xs), labels(y_axis, ys));
    let below = HEIGHT - 5.0;
    let mut svg = open_svg();
    let _ = write!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{BASE}\" y2=\"{BASE}\" stroke=\"var(--line)\"/>\
         <polyline points=\"{}\" fill=\"none\" stroke=\"var(--gone)\" stroke-width=\"1.5\"/>\
         <text x=\"0\" y=\"12\">{y1}</text><text x=\"0\" y=\"{BASE}\">{y0}</text>\
         <text x=\"{LEFT}\" y=\"{below:.0}\">{x0}</text>\
         <text x=\"{WIDTH}\" y=\"{below:.0}\" text-anchor=\"end\">{x1}</text>",
        line.join(" ")
    );
    // The one in use above the others.
    let (filled, open): (Vec<&Dot>, Vec<&Dot>) = dots.iter().partition(|d| d.filled);
    for dot in open.into_iter().chain(filled) {
        let (fill, radius) = if dot.filled { ("kept", 4.5) } else { ("paper", 2.5) };
        let _ = write!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\" fill=\"var(--{fill})\" \
             stroke=\"var(--kept)\"><title>{}</title></circle>",
            x(dot.x),
            y(dot.y),
            escape(&dot.title)
        );
    }
    svg.push_str("</svg>");
    Some(svg)
}
