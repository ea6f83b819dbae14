//! Charts, bars and heat maps as SVG: enough for reports that open anywhere, in light and dark.

mod bars;
mod heat;

use std::fmt::Write;

pub use bars::{Bar, Group, bars};
pub use heat::{HeatMap, heat_map};

/// A line of a chart.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Points in order of `x`.
    pub points: Vec<(f64, f64)>,
    /// Whether the points are marked by themselves instead of joined.
    pub dots: bool,
}

/// A chart of lines.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Below the horizontal axis, with its unit.
    pub x_label: String,
    /// At the vertical axis, with its unit.
    pub y_label: String,
    /// Whether the horizontal axis is logarithmic; points that are not positive are left out then.
    pub log_x: bool,
    /// The same for the vertical axis.
    pub log_y: bool,
    /// The lines.
    pub series: Vec<Series>,
}

/// Styles of everything that this module draws; readable on white and on dark.
pub const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1f2328;--dim:#656d76;--grid:#d8dee4}\
@media(prefers-color-scheme:dark){:root{--bg:#14171c;--fg:#e6edf3;--dim:#9aa4af;--grid:#30363d}}\
svg{background:var(--bg);font:12px system-ui,sans-serif}svg text{fill:var(--fg)}svg .dim{fill:var(--dim)}\
svg .grid{stroke:var(--grid);stroke-width:1}svg .line{fill:none;stroke-width:1.8}\
svg .limit{stroke:var(--fg);stroke-width:1.2;stroke-dasharray:4 3}svg .whisker{fill:none;stroke:var(--fg);stroke-width:1.2}";

/// Colours that the colour-blind can tell apart, on white and on dark, and dashes for more lines than colours.
const COLOURS: [&str; 6] = ["#0a84d6", "#d9580d", "#0f9d72", "#c2549d", "#a8820a", "#7a6ff0"];
const DASHES: [&str; 3] = ["none", "6 3", "2 3"];

/// The colour of series `index`.
pub fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

fn dash(index: usize) -> &'static str {
    DASHES[index / COLOURS.len() % DASHES.len()]
}

/// Text as XML wants it.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const WIDTH: f64 = 620.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 46.0;

/// An axis: its range and whether it is logarithmic.
struct Axis {
    from: f64,
    to: f64,
    log: bool,
}

impl Axis {
    /// Over these values; from 0 if it is linear.
    fn over(values: impl Iterator<Item = f64>, log: bool) -> Self {
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite() && (!log || *value > 0.0)) {
            (from, to) = (from.min(value), to.max(value));
        }
        if from > to {
            (from, to) = (1.0, 10.0);
        }
        if !log {
            from = from.min(0.0);
        }
        if from >= to {
            to = if log { from * 10.0 } else { from + 1.0 };
        }
        Self { from, to, log }
    }

    /// Where the value lies: 0 at the start and 1 at the end.
    fn place(&self, value: f64) -> f64 {
        match self.log {
            true => (value / self.from).ln() / (self.to / self.from).ln(),
            false => (value - self.from) / (self.to - self.from),
        }
    }

    fn ticks(&self) -> Vec<f64> {
        let exponents = |from: f64, to: f64| (from.log10().floor() as i32)..=(to.log10().ceil() as i32);
        if self.log {
            let decades = (self.to / self.from).log10();
            let steps: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let all =
                exponents(self.from, self.to).flat_map(|e| steps.iter().map(move |s| s * 10f64.powi(e)));
            return all.filter(|tick| (self.from * 0.999..=self.to * 1.001).contains(tick)).collect();
        }
        let rough = (self.to - self.from) / 5.0;
        let magnitude = 10f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|s| s * magnitude).into_iter().find(|&s| s >= rough).unwrap_or(rough);
        let first = (self.from / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|&tick| tick <= self.to * 1.000_001).collect()
    }
}

/// A number as short as it can be read.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{}M", short(value / 1e6)),
        v if v >= 1e4 => format!("{}k", short(value / 1e3)),
        _ => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

impl Chart {
    /// The `<svg>` element. Its colours are [`STYLE`]'s, which the page must have.
    pub fn svg(&self) -> String {
        let usable = |&&(x, y): &&(f64, f64)| (!self.log_x || x > 0.0) && (!self.log_y || y > 0.0);
        let points = || self.series.iter().flat_map(|series| series.points.iter().filter(usable));
        let x_axis = Axis::over(points().map(|p| p.0), self.log_x);
        let y_axis = Axis::over(points().map(|p| p.1), self.log_y);
        let x = |value: f64| LEFT + x_axis.place(value) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - y_axis.place(value) * (HEIGHT - TOP - BOTTOM);
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        // A long legend may go on below the chart.
        let height = HEIGHT.max(TOP + 20.0 + 17.0 * self.series.len() as f64);
        let mut out = open(WIDTH, height, &self.title);
        for tick in x_axis.ticks() {
            let (at, text) = (x(tick), short(tick));
            let _ = write!(out, r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{bottom}"/>"#);
            let _ = write!(
                out,
                r#"<text class="dim" x="{at:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#,
                bottom + 16.0
            );
        }
        for tick in y_axis.ticks() {
            let (at, text) = (y(tick), short(tick));
            let _ = write!(out, r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1}" y2="{at:.1}"/>"#);
            let _ = write!(
                out,
                r#"<text class="dim" x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
                LEFT - 6.0,
                at + 4.0
            );
        }
        let (x_label, y_label) = (escape(&self.x_label), escape(&self.y_label));
        let _ = write!(
            out,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{x_label}</text>"#,
            (LEFT + right) / 2.0,
            HEIGHT - 8.0
        );
        let middle = (TOP + bottom) / 2.0;
        let _ = write!(
            out,
            r#"<text x="14" y="{middle:.1}" text-anchor="middle" transform="rotate(-90 14 {middle:.1})">{y_label}</text>"#
        );
        for (i, series) in self.series.iter().enumerate() {
            if series.dots {
                for &(px, py) in series.points.iter().filter(usable) {
                    let _ = write!(out, "{}", dot(x(px), y(py), i));
                }
                let at = TOP + 10.0 + 17.0 * i as f64;
                let _ = write!(out, "{}", dot(right + 22.0, at, i));
                let _ = write!(
                    out,
                    r#"<text x="{}" y="{}">{}</text>"#,
                    right + 39.0,
                    at + 4.0,
                    escape(&series.name)
                );
                continue;
            }
            let mut path = String::new();
            for &(px, py) in series.points.iter().filter(usable) {
                let _ = write!(path, "{}{:.1} {:.1}", if path.is_empty() { "M" } else { "L" }, x(px), y(py));
            }
            let (colour, dash) = (colour(i), dash(i));
            let _ =
                write!(out, r#"<path class="line" stroke="{colour}" stroke-dasharray="{dash}" d="{path}"/>"#);
            let at = TOP + 10.0 + 17.0 * i as f64;
            let (from, to) = (right + 10.0, right + 34.0);
            let _ = write!(
                out,
                r#"<line stroke="{colour}" stroke-width="2.4" stroke-dasharray="{dash}" x1="{from}" x2="{to}" y1="{at}" y2="{at}"/>"#
            );
            let _ = write!(out, r#"<text x="{}" y="{}">{}</text>"#, to + 5.0, at + 4.0, escape(&series.name));
        }
        out + "</svg>"
    }
}

/// A row of a Gantt chart: consecutive bars, each with its series' number.
pub type Bars = Vec<(f64, f64, usize)>;

/// Rows of bars over time, and a line of shares (0 to 1) below them.
pub fn gantt(title: &str, rows: &[Bars], names: &[&str], line: &[(f64, f64)], line_label: &str) -> String {
    let height = HEIGHT + 110.0;
    let ends = rows.iter().flatten().map(|bar| bar.1).chain(line.iter().map(|p| p.0));
    let axis = Axis::over(ends, false);
    let (right, rows_bottom) = (WIDTH - RIGHT, height - BOTTOM - 110.0);
    let x = |value: f64| LEFT + axis.place(value) * (right - LEFT);
    let row_height = (rows_bottom - TOP) / rows.len().max(1) as f64;
    let mut out = open(WIDTH, height, title);
    for tick in axis.ticks() {
        let (at, text) = (x(tick), short(tick));
        let _ = write!(
            out,
            r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{}"/>"#,
            height - BOTTOM
        );
        let _ = write!(
            out,
            r#"<text class="dim" x="{at:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#,
            height - BOTTOM + 16.0
        );
    }
    for (i, row) in rows.iter().enumerate() {
        let top = TOP + i as f64 * row_height;
        for &(from, to, series) in row.iter().filter(|bar| bar.1 > bar.0) {
            let (left, width) = (x(from), (x(to) - x(from)).max(0.4));
            let thickness = (row_height * 0.8).max(0.6);
            let _ = write!(
                out,
                r#"<rect x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{thickness:.1}" fill="{}"/>"#,
                colour(series)
            );
        }
    }
    for (i, name) in names.iter().enumerate() {
        let at = TOP + 17.0 * i as f64;
        let _ = write!(
            out,
            r#"<rect x="{}" y="{at}" width="14" height="10" fill="{}"/>"#,
            right + 10.0,
            colour(i)
        );
        let _ = write!(out, r#"<text x="{}" y="{}">{}</text>"#, right + 29.0, at + 9.0, escape(name));
    }
    let y = |share: f64| height - BOTTOM - share * 90.0;
    for share in [0.0, 0.5, 1.0] {
        let (at, text) = (y(share), share * 100.0);
        let _ = write!(out, r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1}" y2="{at:.1}"/>"#);
        let _ = write!(
            out,
            r#"<text class="dim" x="{}" y="{:.1}" text-anchor="end">{text}%</text>"#,
            LEFT - 6.0,
            at + 4.0
        );
    }
    let mut path = String::new();
    for &(time, share) in line {
        let _ = write!(path, "{}{:.1} {:.1}", if path.is_empty() { "M" } else { "L" }, x(time), y(share));
    }
    let _ = write!(out, r#"<path class="line" stroke="{}" d="{path}"/>"#, colour(4));
    let _ = write!(out, r#"<text x="{}" y="{}">{}</text>"#, right + 10.0, y(0.5), escape(line_label));
    let _ = write!(
        out,
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">seconds</text>"#,
        (LEFT + right) / 2.0,
        height - 8.0
    );
    out + "</svg>"
}

/// The mark of series `index`: a colour, and a shape for more series than colours.
fn dot(x: f64, y: f64, index: usize) -> String {
    let colour = colour(index);
    match index / COLOURS.len() % 3 {
        0 => format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{colour}"/>"#),
        1 => format!(r#"<rect x="{:.1}" y="{:.1}" width="7" height="7" fill="{colour}"/>"#, x - 3.5, y - 3.5),
        _ => {
            let (left, right, top, bottom) = (x - 4.5, x + 4.5, y - 4.5, y + 3.5);
            format!(
                r#"<path d="M{x:.1} {top:.1}L{right:.1} {bottom:.1}L{left:.1} {bottom:.1}Z" fill="{colour}"/>"#
            )
        }
    }
}

/// A picture of this module as a file of its own, which any page may show.
pub fn standalone(svg: &str) -> String {
    let at = svg.find('>').map_or(0, |at| at + 1);
    format!("{}<style>{STYLE}</style>{}\n", &svg[..at], &svg[at..])
}

fn open(width: f64, height: f64, title: &str) -> String {
    let title = escape(title);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{title}"><text x="{LEFT}" y="20" font-weight="600">{title}</text>"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        let ticks = |from: f64, to: f64, log| Axis { from, to, log }.ticks();
        assert_eq!(ticks(0.0, 10.0, false), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(0.5, 30.0, true), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(ticks(1e-3, 100.0, true).len(), 6);
        let axis = Axis::over([3.0, f64::NAN, -1.0].into_iter(), true);
        assert_eq!((axis.from, axis.to, axis.place(3.0)), (3.0, 30.0, 0.0));
        assert_eq!([0.05, 1500.0, 25_000.0, 3e6].map(short), ["0.05", "1500", "25k", "3M"]);
    }

    #[test]
    fn charts_place_points_and_escape_names() {
        let series = vec![Series { name: "a<b".into(), points: vec![(0.0, 0.0), (10.0, 5.0)], dots: false }];
        let chart =
            Chart { title: "T".into(), x_label: "x".into(), y_label: "y".into(), series, ..Chart::default() };
        let svg = chart.svg();
        // From the lower left corner of the plot to its upper right.
        assert!(svg.contains("M66.0 284.0L490.0 34.0"), "{svg}");
        assert!(svg.contains("a&lt;b") && svg.ends_with("</svg>"));
        let rows = [vec![(0.0, 1.0, 0), (1.0, 4.0, 1)], vec![]];
        let svg = gantt("G", &rows, &["queue", "run"], &[(0.0, 0.0), (4.0, 1.0)], "KV");
        assert_eq!(svg.matches("<rect").count(), 4);
    }
}
