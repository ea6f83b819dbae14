//! The page, and its pictures.

use std::fmt::Write;

use super::Findings;
use crate::lab::{
    check::{ErrorMap, Report},
    count::Count,
    svg::{self, Bar, Chart, Group, HeatMap, Series, escape},
    timing::{Per, Timed},
};

const STYLE: &str = "\
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:920px;padding:0 1rem}\
h1{font-size:1.5rem;margin-bottom:.3rem}h2{font-size:1.2rem;margin:2.2rem 0 .4rem;border-top:1px solid var(--grid);padding-top:1rem}\
p,li span{color:var(--dim)}p{margin:.3rem 0}table{border-collapse:collapse;font-size:13px}\
td,th{padding:.2rem .7rem .2rem 0;text-align:right;vertical-align:top;font-variant-numeric:tabular-nums}\
th{color:var(--dim);font-weight:500;vertical-align:bottom}tr+tr td{border-top:1px solid var(--grid)}td{white-space:nowrap}\
td:first-child,th:first-child,.about td{text-align:left}.scroll{overflow-x:auto}\
code{font:12px ui-monospace,monospace;overflow-wrap:anywhere}li{margin:.5rem 0}.good{color:#0f9d72}.bad{color:#d6222f}b{font-weight:600}\
.pictures{display:flex;flex-wrap:wrap;gap:.5rem}svg{max-width:100%;height:auto}nav a{margin-right:.8rem}a{color:#3d84c0}\
.modelled{border-left:4px solid #a8820a;padding-left:1rem}";

/// The page: one file, nothing from elsewhere, light and dark as the reader's system is.
pub fn html(found: &Findings) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>lathe report</title><style>{}{STYLE}</style><h1>Kernel report</h1>",
        svg::STYLE
    );
    for (name, value) in &found.about {
        let _ = write!(out, "<p><b>{}</b> {}</p>", escape(name), escape(value));
    }
    let _ = write!(out, "<p><b>repeat</b> <code>{}</code></p>", escape(&found.command));
    out += "<nav>";
    found.kernels.iter().for_each(|(op, _)| out += &format!("<a href=\"#{op}\">{op}</a> "));
    out += "</nav>";
    out += &look_first(found);
    out += &roofline_section(found);
    for (op, kernels) in &found.kernels {
        out += &operation(found, op, kernels);
    }
    if !found.left_out.is_empty() {
        out += "<h2>Not timed</h2><ul>";
        found.left_out.iter().for_each(|line| out += &format!("<li>{}</li>", escape(line)));
        out += "</ul>";
    }
    out + "</html>\n"
}

/// The page's pictures by file name, each a file of its own.
pub fn pictures(found: &Findings) -> Vec<(String, String)> {
    let mut files = Vec::new();
    files.extend(roofline(found).map(|chart| ("roofline.svg".to_owned(), chart)));
    for (op, kernels) in &found.kernels {
        files.extend(comparison(found, op, kernels).map(|chart| (format!("{op}.svg"), chart)));
        for report in found.checks.iter().filter(|report| report.op == *op) {
            for (i, map) in report.maps.iter().enumerate() {
                let name = match i {
                    0 => format!("{op}-{}-errors.svg", report.kernel),
                    _ => format!("{op}-{}-errors-{}.svg", report.kernel, i + 1),
                };
                files.push((name, errors(report, map)));
            }
        }
    }
    files.into_iter().map(|(name, chart)| (name, svg::standalone(&chart))).collect()
}

fn look_first(found: &Findings) -> String {
    let points = found.look_first();
    let mut out = String::from("<h2>What to look at first</h2>");
    if points.is_empty() {
        return out
            + "<p>Nothing stands out: every kernel passed, and no default is beaten or far from the roof.</p>";
    }
    out += "<ol>";
    for point in points {
        let _ = write!(out, "<li><b>{}</b><br><span>{}</span>", escape(&point.what), escape(&point.detail));
        if let Some(command) = point.command {
            let _ = write!(out, "<br><code>{}</code>", escape(&command));
        }
        out += "</li>";
    }
    out + "</ol>"
}

fn roofline_section(found: &Findings) -> String {
    let Some((chart, peaks)) = roofline(found).zip(found.peaks.as_ref()) else { return String::new() };
    format!(
        "<h2>Roofline</h2><p>The line is what the device can at most do: {} and {} ({}). A point is a default kernel at a \
         shape: the operations and bytes of the operation's definition, over the time measured. On the line is as fast as \
         can be; above it, inputs came from a cache.</p>{chart}",
        rate(peaks.bandwidth, "B/s"),
        rate(peaks.flops, "FLOP/s"),
        escape(&peaks.source)
    )
}

fn roofline(found: &Findings) -> Option<String> {
    let peaks = found.peaks.as_ref()?;
    let own = |t: &&Timed| t.flops > 0 && found.is_default(&t.op, &t.kernel);
    let intensity = |t: &Timed| t.flops as f64 / t.bytes as f64;
    let mut series = vec![Series::default()];
    for (op, _) in &found.kernels {
        let points: Vec<(f64, f64)> = found
            .timed
            .iter()
            .filter(|t| t.op == *op)
            .filter(own)
            .map(|t| (intensity(t), t.flops as f64 / t.seconds / 1e9))
            .collect();
        if !points.is_empty() {
            series.push(Series { name: op.clone(), points, dots: true });
        }
    }
    let all = || series.iter().flat_map(|s| s.points.iter().map(|p| p.0));
    let ridge = peaks.flops / peaks.bandwidth;
    let (from, to) = (all().fold(ridge, f64::min) / 2.0, all().fold(ridge, f64::max) * 2.0);
    let roof = [from, ridge, to].map(|i| (i, peaks.roof(i) / 1e9)).to_vec();
    if series.len() == 1 {
        return None;
    }
    series[0] = Series { name: "roof".into(), points: roof, dots: false };
    Some(
        Chart {
            title: "Default kernels under the roof".into(),
            x_label: "FLOP per byte that must move".into(),
            y_label: "GFLOP/s".into(),
            log_x: true,
            log_y: true,
            series,
        }
        .svg(),
    )
}

fn operation(found: &Findings, op: &str, kernels: &[String]) -> String {
    let mut out = format!("<h2 id=\"{op}\">{op}</h2>");
    out += &checks(found, op);
    if let Some(chart) = comparison(found, op, kernels) {
        let _ = write!(
            out,
            "<p>Time of a call, mean and 95% confidence interval; {} is the default.</p>{chart}",
            escape(kernels.first().map_or("", String::as_str))
        );
    }
    out += &counters(found, op);
    let maps: Vec<String> = found
        .checks
        .iter()
        .filter(|report| report.op == op)
        .flat_map(|report| report.maps.iter().map(move |map| errors(report, map)))
        .collect();
    if !maps.is_empty() {
        let _ = write!(
            out,
            "<p>Where the errors are: the largest in each place beyond the last rounding, as a share of the error budget.</p>\
             <div class=\"pictures\">{}</div>",
            maps.concat()
        );
    }
    out
}

fn checks(found: &Findings, op: &str) -> String {
    let mut out = String::from(
        "<div class=\"scroll\"><table><tr><th>kernel<th>verdict<th>cases<th>failed<th>not supported<th>ulp p50<th>p99<th>\
         largest error<th>naive kernel's<th>of the budget</tr>",
    );
    for report in found.checks.iter().filter(|report| report.op == op) {
        let class = if report.verdict.is_fine() { "good" } else { "bad" };
        let Report { kernel, verdict, cases, failed, unsupported, .. } = report;
        let _ = write!(
            out,
            "<tr><td>{}<td class=\"{class}\">{verdict}<td>{cases}<td>{failed}<td>{unsupported}",
            escape(kernel)
        );
        let _ = match report.ulps {
            Some(q) => write!(out, "<td>{:.2}<td>{:.2}", q.p50, q.p99),
            None => write!(out, "<td>–<td>–"),
        };
        let _ = match &report.worst {
            Some(w) => {
                write!(out, "<td>{:.1e}<td>{:.1e}<td>{:.0}%</tr>", w.error, w.naive_error, w.share * 100.0)
            }
            None => write!(out, "<td>–<td>–<td>–</tr>"),
        };
    }
    out + "</table></div>"
}

/// Bars of an operation's kernels: by the roof where it is known, else by the fastest.
fn comparison(found: &Findings, op: &str, kernels: &[String]) -> Option<String> {
    let own: Vec<&Timed> = found.timed.iter().filter(|t| t.op == op).collect();
    let mut shapes: Vec<&str> = own.iter().map(|t| t.shape.as_str()).collect();
    shapes.dedup();
    let mut groups = Vec::new();
    for shape in shapes {
        let of_shape: Vec<&&Timed> = own.iter().filter(|t| t.shape == shape).collect();
        let fastest = of_shape.iter().map(|t| t.seconds).fold(f64::INFINITY, f64::min);
        let bar = |t: &&&Timed| {
            let least = found.peaks.as_ref().map_or(fastest, |peaks| peaks.seconds(t.bytes, t.flops));
            let share = |seconds: f64| 100.0 * least / seconds;
            let throughput = match t.per {
                Per::Bytes => rate(t.bytes as f64 / t.seconds, "B/s"),
                Per::Flops => rate(t.flops as f64 / t.seconds, "FLOP/s"),
            };
            Bar {
                name: t.kernel.clone(),
                value: share(t.seconds),
                interval: [share(t.seconds + t.half), share((t.seconds - t.half).max(least * 1e-3))],
                note: format!("{}, {throughput}", time_within(t.seconds, t.half)),
                series: kernels.iter().position(|k| *k == t.kernel).unwrap_or(0),
            }
        };
        groups.push(Group { name: shape.to_owned(), bars: of_shape.iter().map(bar).collect() });
    }
    if groups.is_empty() {
        return None;
    }
    let label = match found.peaks {
        Some(_) => "% of the speed that the device's peaks allow",
        None => "% of the fastest kernel's speed",
    };
    Some(svg::bars(op, label, &groups, 100.0))
}

fn counters(found: &Findings, op: &str) -> String {
    let own: Vec<(&str, &Count)> = found
        .counted
        .iter()
        .filter_map(|c| c.kernel.split_once('/').filter(|(o, _)| *o == op).map(|(_, kernel)| (kernel, c)))
        .collect();
    if own.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<div class=\"modelled\"><p><b>Modelled</b> by softcuda, a CUDA driver in software: counts of the PTX that ran, and \
         a model of the L2 for DRAM. Nothing here is a time, and nothing was run on a GPU.</p><div class=\"scroll\"><table>\
         <tr><th>kernel<th>launches<th>warp instructions<th>active lanes of 32<th>least bytes<th>DRAM bytes<th>DRAM / least<th>\
         requested / least<th>sectors used, loads<th>stores<th>extra wavefronts<th>tensor / op</tr>",
    );
    let percent = |x: f64| if x.is_nan() { "–".into() } else { format!("{:.1}%", x * 100.0) };
    let mut shape = "";
    for (kernel, c) in own {
        if c.shape != shape {
            shape = &c.shape;
            let _ = write!(out, "<tr><td colspan=\"12\"><b>{}</b></tr>", escape(shape));
        }
        let total = c.total();
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{:.1}<td>{}<td>{}<td>{:.2}<td>{:.2}<td>{}<td>{}<td>{}<td>{}</tr>",
            escape(kernel),
            c.launches(),
            rate(total.instructions as f64, ""),
            c.active_lanes(),
            bytes(c.least.bytes),
            bytes(total.dram_bytes()),
            c.moved(),
            c.requested(),
            percent(c.loads()),
            percent(c.stores()),
            c.wavefronts().map_or("–".into(), percent),
            c.tensor().map_or("–".into(), |t| format!("{t:.2}")),
        );
    }
    out + "</table></div></div>"
}

fn errors(report: &Report, map: &ErrorMap) -> String {
    let case = &map.case;
    // What a case is called differs; its dtype and a few sizes tell enough, and the whole is in the check's output.
    let sizes: Vec<String> = case
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| *name != "seed" && (value.is_string() || value.is_u64()))
        .take(5)
        .map(|(name, value)| format!("{name} {}", value.to_string().trim_matches('"')))
        .collect();
    let (title, subtitle) = (format!("{}/{}: {}", report.op, report.kernel, map.tensor), sizes.join(", "));
    svg::heat_map(&HeatMap {
        title: &title,
        subtitle: &subtitle,
        rows: (&map.rows.0, map.rows.1),
        columns: (&map.columns.0, map.columns.1),
        cells: &map.cells,
    })
}

/// Seconds with a unit, three digits.
pub(super) fn time(seconds: f64) -> String {
    let (value, unit) = scaled(seconds, &[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")]);
    format!("{} {unit}", digits(value))
}

fn time_within(seconds: f64, half: f64) -> String {
    format!("{} ± {:.1}%", time(seconds), half / seconds * 100.0)
}

/// A rate or count with a prefix, three digits.
pub(super) fn rate(value: f64, unit: &str) -> String {
    let (value, prefix) = scaled(value, &[(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]);
    let space = if prefix.is_empty() && unit.is_empty() { "" } else { " " };
    format!("{}{space}{prefix}{unit}", digits(value))
}

/// A size with a unit, three digits.
pub(super) fn bytes(value: u64) -> String {
    rate(value as f64, "B")
}

fn scaled(value: f64, units: &[(f64, &'static str)]) -> (f64, &'static str) {
    let (size, name) =
        units.iter().find(|(size, _)| value >= *size * 0.9995).or(units.last()).copied().unwrap_or((1.0, ""));
    (value / size, name)
}

fn digits(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}
