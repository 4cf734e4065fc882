//! Panels side by side.

use super::Series;
use super::axis::Axis;
use super::svg::{INK, LINE, Medium, SOFT, Svg, escape};

/// One figure.
pub(crate) struct Figure {
    /// Above it.
    pub(crate) title: String,
    /// From left to right.
    pub(crate) panels: Vec<Panel>,
}

/// A pair of axes and what is drawn between them.
#[derive(Default)]
pub(crate) struct Panel {
    /// Above the axes.
    pub(crate) title: String,
    /// The horizontal axis.
    pub(crate) x: Axis,
    /// The vertical axis.
    pub(crate) y: Axis,
    /// In the order of the legend.
    pub(crate) series: Vec<Series>,
}

/// Sizes of a panel.
struct Frame {
    medium: Medium,
    /// Between the axes.
    width: f64,
    height: f64,
    /// Around them.
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// Of a marker.
    radius: f64,
}

const FILE: Frame = Frame {
    medium: Medium::File,
    width: 400.0,
    height: 280.0,
    left: 74.0,
    right: 22.0,
    top: 64.0,
    bottom: 58.0,
    radius: 4.5,
};

/// Without names and legend: the page says what is shown.
const PAGE: Frame = Frame {
    medium: Medium::Page,
    width: 262.0,
    height: 124.0,
    left: 50.0,
    right: 8.0,
    top: 6.0,
    bottom: 20.0,
    radius: 2.5,
};

/// From one line of a legend to the next.
const LEGEND: f64 = 18.0;

impl Figure {
    /// The figure as an SVG document.
    pub(crate) fn document(&self) -> String {
        let lines = self.panels.iter().map(|p| p.series.len().div_ceil(p.columns())).max();
        self.render(&FILE, LEGEND * lines.unwrap_or(0) as f64)
    }

    /// The figure as an element of an HTML page.
    pub(crate) fn element(&self) -> String {
        self.render(&PAGE, 0.0)
    }

    fn render(&self, frame: &Frame, legend: f64) -> String {
        let step = frame.left + frame.width + frame.right;
        let height = frame.top + frame.height + frame.bottom + legend;
        let width = step * self.panels.len() as f64;
        let mut svg = Svg::new(frame.medium, [width, height], &self.title);
        for (index, panel) in self.panels.iter().enumerate() {
            panel.draw(&mut svg, frame, step * index as f64 + frame.left);
        }
        svg.finish()
    }
}

impl Panel {
    /// Of the legend: two, or one where a name needs the room.
    fn columns(&self) -> usize {
        const HALF: usize = 23;
        if self.series.iter().all(|s| s.name.chars().count() <= HALF) { 2 } else { 1 }
    }

    fn draw(&self, svg: &mut Svg, frame: &Frame, left: f64) {
        let ([right, top], bottom) = ([left + frame.width, frame.top], frame.top + frame.height);
        let x = self.x.scale(self.series.iter().flat_map(Series::xs), (left, right));
        let y = self.y.scale(self.series.iter().flat_map(Series::ys), (bottom, top));
        for (at, label) in x.ticks() {
            svg.path(format_args!("M{at:.1} {top}V{bottom}"), LINE);
            svg.text((at, bottom + 15.0), "middle", SOFT, &label);
        }
        for (at, label) in y.ticks() {
            svg.path(format_args!("M{left} {at:.1}H{right}"), LINE);
            svg.text((left - 6.0, at + 4.0), "end", SOFT, &label);
        }
        svg.path(format_args!("M{left} {top}V{bottom}H{right}"), SOFT);
        let cuts = self.x.cuts() || self.y.cuts();
        if cuts {
            svg.push(format_args!(
                "<clipPath id='clip{left:.0}'><path d='M{left} {top}V{bottom}H{right}V{top}z'/>\
                 </clipPath><g clip-path='url(#clip{left:.0})'>"
            ));
        }
        for (index, series) in self.series.iter().enumerate() {
            let area = [[left, right], [top, bottom]];
            series.draw(svg, index, frame.radius, [&x, &y], area);
        }
        if cuts {
            svg.push("</g>");
        }
        if frame.medium == Medium::File {
            self.words(svg, frame, left);
        }
    }

    /// Title, names of the axes and legend.
    fn words(&self, svg: &mut Svg, frame: &Frame, left: f64) {
        let (middle, bottom) = (left + frame.width / 2.0, frame.top + frame.height);
        svg.text((middle, frame.top - 12.0), "middle", INK, &escape(&self.title));
        svg.text((middle, bottom + 40.0), "middle", INK, &escape(&self.x.name));
        svg.push(format_args!(
            "<text transform='translate({:.0} {:.0}) rotate(-90)' text-anchor='middle' \
             fill='{INK}'>{}</text>",
            left - 56.0,
            frame.top + frame.height / 2.0,
            escape(&self.y.name)
        ));
        let columns = self.columns();
        for (index, series) in self.series.iter().enumerate() {
            let x = left + frame.width / 2.0 * (index % columns) as f64;
            let y = bottom + 64.0 + LEGEND * (index / columns) as f64;
            series.legend(svg, index, frame.radius, (x, y));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(points: Vec<(f64, f64)>) -> Panel {
        Panel {
            title: "a < b".into(),
            x: Axis::new("x").within(0.0, 5.0),
            y: Axis::logarithmic("y"),
            series: vec![
                Series::line("l", points.clone()),
                Series::dots("d", points.clone()).titled(vec!["<first>".into()]),
                Series::filled("f", points.clone()),
                Series::bars("b", points, 0.5),
                Series::rule("r", 1.0),
                Series::mark("m", 2.0),
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
            let (document, element) = (figure.document(), figure.element());
            for word in ["a &lt; b", ">x<", ">y<", ">l<", ">d<", ">r<", "xmlns="] {
                assert!(document.contains(word) && !element.contains(word), "{word} in {document}");
            }
            for svg in [document, element] {
                assert!(svg.contains("role='img'") && svg.contains("<title>T &amp; U</title>"));
                assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("var("));
                let count = |what: &str| svg.matches(what).count();
                assert_eq!(count("<g"), count("</g>"));
                assert_eq!(count("<text"), count("</text>"));
                assert_eq!(count("<clipPath"), 2);
            }
        }
    }

    #[test]
    fn sixteen_series_can_be_told_apart() {
        let series = (0..16).map(|i| Series::line(&i.to_string(), vec![(0.0, f64::from(i))]));
        let panel = Panel { series: series.collect(), ..Panel::default() };
        let svg = Figure { title: String::new(), panels: vec![panel] }.document();
        let looks = svg.split("stroke='").filter(|s| s.contains("stroke-width='2'"));
        let looks: std::collections::BTreeSet<&str> =
            looks.filter_map(|s| s.split("/>").next()).collect();
        assert_eq!(looks.len(), 16, "{looks:?}");
    }
}
