//! A grid of cells whose colour is how near they are to a limit.

use std::fmt::Write;

use super::{escape, open};

/// What to draw.
#[derive(Clone, Debug, Default)]
pub struct HeatMap<'a> {
    /// Above it.
    pub title: &'a str,
    /// Under the title.
    pub subtitle: &'a str,
    /// What goes down, and how many of them there are.
    pub rows: (&'a str, usize),
    /// What goes across.
    pub columns: (&'a str, usize),
    /// Values by row of cells; 1 is the limit. A cell may stand for several rows and columns.
    pub cells: &'a [Vec<f32>],
}

const SIZE: f64 = 260.0;
const LEFT: f64 = 66.0;
const TOP: f64 = 52.0;
const WIDTH: f64 = 420.0;

/// From nothing to the limit; the last is beyond it.
const SHADES: [&str; 6] = ["#eef4fb", "#bcd7ef", "#7fb2dd", "#3d84c0", "#12508c", "#d6222f"];

/// The most that each shade but the last stands for: errors differ by orders of magnitude.
const LIMITS: [f32; 5] = [0.01, 0.03, 0.1, 0.3, 1.0];

/// Which of the shades.
fn shade(value: f32) -> usize {
    match value {
        v if v > 1.0 || v.is_nan() => 5,
        v => LIMITS.iter().position(|limit| v <= *limit).unwrap_or(4),
    }
}

/// The `<svg>` element; its colours are [`super::STYLE`]'s.
pub fn heat_map(map: &HeatMap<'_>) -> String {
    let mut out = open(WIDTH, TOP + SIZE + 44.0, map.title);
    let _ =
        write!(out, r#"<text class="dim" x="{LEFT}" y="37" font-size="11">{}</text>"#, escape(map.subtitle));
    let (rows, columns) = (map.cells.len(), map.cells.first().map_or(0, Vec::len));
    let (height, width) = (SIZE / rows.max(1) as f64, SIZE / columns.max(1) as f64);
    // A path for each shade, with a box for each run of cells: a cell of its own would make the page large.
    for (index, colour) in SHADES.iter().enumerate() {
        let mut path = String::new();
        for (r, row) in map.cells.iter().enumerate() {
            let mut c = 0;
            for run in row.chunk_by(|a, b| shade(*a) == shade(*b)) {
                let (x, y) = (LEFT + c as f64 * width, TOP + r as f64 * height);
                c += run.len();
                if shade(run[0]) == index {
                    // A little overlap, so that no background shines through between boxes.
                    let (w, h) = (run.len() as f64 * width + 0.2, height + 0.2);
                    let _ = write!(path, "M{x:.1} {y:.1}h{w:.1}v{h:.1}h-{w:.1}z");
                }
            }
        }
        if !path.is_empty() {
            let _ = write!(out, r#"<path fill="{colour}" d="{path}"/>"#);
        }
    }
    let (right, bottom) = (LEFT + SIZE, TOP + SIZE);
    // The lightest shade needs a border on white.
    let _ = write!(
        out,
        r#"<rect class="grid" x="{LEFT}" y="{TOP}" width="{SIZE}" height="{SIZE}" fill="none"/>"#
    );
    let _ = write!(
        out,
        r#"<text class="dim" x="{LEFT}" y="{y:.1}">0</text><text class="dim" x="{right}" y="{y:.1}" text-anchor="end">{}</text>"#,
        map.columns.1.saturating_sub(1),
        y = bottom + 15.0
    );
    let _ = write!(
        out,
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
        LEFT + SIZE / 2.0,
        bottom + 32.0,
        escape(map.columns.0)
    );
    let x = LEFT - 6.0;
    let _ = write!(
        out,
        r#"<text class="dim" x="{x}" y="{:.1}" text-anchor="end">0</text><text class="dim" x="{x}" y="{bottom}" text-anchor="end">{}</text>"#,
        TOP + 10.0,
        map.rows.1.saturating_sub(1)
    );
    let middle = TOP + SIZE / 2.0;
    let _ = write!(
        out,
        r#"<text x="20" y="{middle}" text-anchor="middle" transform="rotate(-90 20 {middle})">{}</text>"#,
        escape(map.rows.0)
    );
    for (i, (shade, name)) in
        SHADES.iter().zip(["to 1%", "to 3%", "to 10%", "to 30%", "to 100%", "too far"]).enumerate()
    {
        let y = TOP + 18.0 * i as f64;
        let _ = write!(
            out,
            r#"<rect class="grid" x="{:.1}" y="{y:.1}" width="14" height="12" fill="{shade}"/><text x="{:.1}" y="{:.1}">{name}</text>"#,
            right + 10.0,
            right + 29.0,
            y + 10.0
        );
    }
    out + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_lie_and_look_as_their_values() {
        let cells = [vec![0.0, 0.1], vec![1.0, 1.01]];
        let map = HeatMap { rows: ("token", 100), columns: ("head", 2), cells: &cells, ..HeatMap::default() };
        let svg = heat_map(&map);
        let cell = |path: &str, shade: usize| {
            let want = format!(r#"<path fill="{}" d="{path}"/>"#, SHADES[shade]);
            assert!(svg.contains(&want), "{want} in {svg}");
        };
        cell("M66.0 52.0h130.2v130.2h-130.2z", 0);
        cell("M196.0 52.0h130.2v130.2h-130.2z", 2);
        cell("M66.0 182.0h130.2v130.2h-130.2z", 4);
        cell("M196.0 182.0h130.2v130.2h-130.2z", 5);
        assert_eq!(shade(f32::NAN), 5);
        assert!(svg.contains(">99</text>"), "the last of 100 rows: {svg}");
    }
}
