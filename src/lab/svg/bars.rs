//! Horizontal bars in groups, each with its confidence interval.

use std::fmt::Write;

use super::{Axis, colour, escape, open, short};

/// Bars that are compared with each other.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Above them.
    pub name: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// A bar.
#[derive(Clone, Debug, Default)]
pub struct Bar {
    /// To its left.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// The interval that the value is in.
    pub interval: [f64; 2],
    /// To its right.
    pub note: String,
    /// Which colour.
    pub series: usize,
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 610.0;
const BAR: f64 = 17.0;
const HEAD: f64 = 24.0;
const TOP: f64 = 34.0;

/// The `<svg>` element; its colours are [`super::STYLE`]'s. A line across all groups marks `limit`.
pub fn bars(title: &str, axis_label: &str, groups: &[Group], limit: f64) -> String {
    let rows: usize = groups.iter().map(|group| group.bars.len()).sum();
    let bottom = TOP + HEAD * groups.len() as f64 + BAR * rows as f64 + 6.0;
    let ends = groups.iter().flat_map(|group| &group.bars).map(|bar| bar.interval[1].max(bar.value));
    let axis = Axis::over(ends.chain([limit]), false);
    let x = |value: f64| LEFT + axis.place(value).clamp(0.0, 1.0) * (RIGHT - LEFT);
    let mut out = open(WIDTH, bottom + 40.0, title);
    for tick in axis.ticks() {
        let (at, text) = (x(tick), short(tick));
        let _ = write!(out, r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{bottom:.1}"/>"#);
        let _ = write!(
            out,
            r#"<text class="dim" x="{at:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#,
            bottom + 15.0
        );
    }
    let at = x(limit);
    let _ = write!(out, r#"<line class="limit" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{bottom:.1}"/>"#);
    let _ = write!(
        out,
        r#"<text class="dim" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
        (LEFT + RIGHT) / 2.0,
        bottom + 32.0,
        escape(axis_label)
    );
    let mut top = TOP;
    for group in groups {
        let _ = write!(
            out,
            r#"<text x="8" y="{:.1}" font-weight="600">{}</text>"#,
            top + HEAD - 7.0,
            escape(&group.name)
        );
        top += HEAD;
        for bar in &group.bars {
            let (width, middle) = ((x(bar.value) - LEFT).max(1.0), top + BAR / 2.0);
            let _ = write!(
                out,
                r#"<text class="dim" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                LEFT - 6.0,
                middle + 4.0,
                escape(&bar.name)
            );
            let _ = write!(
                out,
                r#"<rect x="{LEFT}" y="{:.1}" width="{width:.1}" height="{:.1}" fill="{}"/>"#,
                top + 2.0,
                BAR - 4.0,
                colour(bar.series)
            );
            let [from, to] = bar.interval.map(x);
            let _ = write!(
                out,
                r#"<path class="whisker" d="M{from:.1} {middle:.1}H{to:.1}M{from:.1} {:.1}v8M{to:.1} {:.1}v8"/>"#,
                middle - 4.0,
                middle - 4.0
            );
            let _ = write!(
                out,
                r#"<text x="{:.1}" y="{:.1}">{}</text>"#,
                RIGHT + 10.0,
                middle + 4.0,
                escape(&bar.note)
            );
            top += BAR;
        }
    }
    out + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_intervals_are_the_values() {
        let bar = |value, interval| Bar { name: "k<1".into(), value, interval, ..Bar::default() };
        let group = Group { name: "g".into(), bars: vec![bar(50.0, [40.0, 60.0]), bar(0.0, [0.0, 0.0])] };
        let svg = bars("T", "%", &[group], 100.0);
        // Of 440 units for 100.
        assert!(svg.contains(r#"width="220.0""#) && svg.contains("M346.0 66.5H434.0"), "{svg}");
        assert!(svg.contains(r#"width="1.0""#), "a bar of nothing can be seen: {svg}");
        assert!(svg.contains("k&lt;1") && svg.contains(r#"class="limit" x1="610.0""#), "{svg}");
    }
}
