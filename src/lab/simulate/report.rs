//! A run as a page to look at, and as a trace for Perfetto.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::metrics::{Outcome, Record, Results, WINDOWS, mean_ci, service_over_time};
use crate::lab::svg::{self, Bars, Chart, Series, escape};

/// A policy at a rate, over all seeds.
pub struct Row {
    /// The policy.
    pub scheduler: String,
    /// Requests a second.
    pub rate: f64,
    /// By seed.
    pub runs: Vec<(Outcome, Results)>,
}

impl Row {
    /// Mean over the seeds and half its confidence interval; `None` where no run has the figure.
    pub fn mean(&self, of: impl Fn(&Results) -> Option<f64>) -> Option<(f64, Option<f64>)> {
        let values: Vec<f64> = self.runs.iter().filter_map(|(_, results)| of(results)).collect();
        (!values.is_empty()).then(|| mean_ci(&values))
    }
}

/// Requests in the Gantt chart.
const BARS: usize = 120;
/// Points of a distribution's curve.
const POINTS: usize = 200;

/// A page without anything from elsewhere: latency against rate, distributions, requests and KV cache over time, service
/// of tenants over time. `about` says what ran; `error` how far its times may be off.
pub fn html(rows: &[Row], about: &str, error: &str) -> String {
    let mut names: Vec<&str> = rows.iter().map(|row| &*row.scheduler).collect();
    names.dedup();
    let first = names.first().copied().unwrap_or_default();
    let policies: Vec<&str> = names
        .iter()
        .enumerate()
        .take_while(|(i, name)| *i == 0 || **name != first)
        .map(|(_, name)| *name)
        .collect();
    let most = rows.iter().map(|row| row.rate).fold(0.0, f64::max);
    let last: Vec<&Row> = rows.iter().filter(|row| row.rate == most).collect();
    let mut charts = Vec::new();
    if last.len() < rows.len() {
        let against_rate = |title: &str, y_label: &str, log_y, of: &dyn Fn(&Results) -> Option<f64>| {
            let points = |name: &str| {
                let own = rows.iter().filter(|row| row.scheduler == name);
                own.filter_map(|row| Some((row.rate, row.mean(of)?.0))).collect()
            };
            let series = policies
                .iter()
                .map(|name| Series { name: (*name).into(), points: points(name), dots: false })
                .collect();
            let (title, x_label, y_label) = (title.into(), "requests/s offered".into(), y_label.into());
            Chart { title, x_label, y_label, log_x: false, log_y, series }.svg()
        };
        charts.push(against_rate("Time to first token, p99", "seconds, log scale", true, &|r| {
            Some(r.ttft?.p99)
        }));
        charts.push(against_rate("Time per output token, p99", "seconds", false, &|r| Some(r.tpot?.p99)));
        charts.push(against_rate("Within the SLO", "% of requests", false, &|r| Some(r.slo_share * 100.0)));
        charts.push(against_rate("Output", "tokens/s", false, &|r| Some(r.output_tokens_per_second)));
    }
    type Figure = (&'static str, fn(&Record) -> Option<f64>);
    let figures: [Figure; 3] = [
        ("Time to first token", |r| Some(r.ttft())),
        ("Time per output token", Record::tpot),
        ("From arrival to the last token", |r| Some(r.e2e())),
    ];
    for (title, of) in figures {
        let series = last
            .iter()
            .map(|row| Series { name: row.scheduler.clone(), points: cdf(row, of), dots: false })
            .collect();
        charts.push(
            Chart {
                title: format!("{title}, at {most:.2} requests/s"),
                x_label: "seconds, log scale".into(),
                y_label: "share of requests".into(),
                log_x: true,
                log_y: false,
                series,
            }
            .svg(),
        );
    }
    for row in &last {
        let outcome = &row.runs[0].0;
        charts.push(requests_over_time(&row.scheduler, outcome));
        charts.extend(service_chart(&row.scheduler, outcome));
    }
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>lathe simulate</title><style>{}body{{background:var(--bg);color:var(--fg);font:14px system-ui,sans-serif;\
         margin:1.5rem auto;max-width:1300px;padding:0 1rem}}table{{border-collapse:collapse;margin:1rem 0}}td,th{{padding:\
         .2rem .7rem;text-align:right;border-bottom:1px solid var(--grid)}}td:first-child,th:first-child{{text-align:left}}\
         .charts{{display:flex;flex-wrap:wrap;gap:1rem}}.charts svg{{max-width:100%;height:auto}}p{{color:var(--dim)}}</style>\
         <h1>Simulated schedules</h1><p>{}</p><p>Step times: {}.</p>",
        svg::STYLE,
        escape(about),
        escape(error)
    );
    page += "<div style=\"overflow-x:auto\"><table><tr><th>scheduler<th>requests/s<th>output tok/s<th>TTFT p50<th>TTFT p99\
             <th>TPOT p50<th>TPOT p99<th>E2E mean<th>in SLO<th>preemptions<th>prefix hits</tr>";
    for row in rows {
        let _ = write!(page, "<tr><td>{}<td>{:.2}", escape(&row.scheduler), row.rate);
        type Cell = (fn(&Results) -> Option<f64>, usize, &'static str);
        let cells: [Cell; 9] = [
            (|r| Some(r.output_tokens_per_second), 0, ""),
            (|r| Some(r.ttft?.p50), 3, " s"),
            (|r| Some(r.ttft?.p99), 3, " s"),
            (|r| Some(r.tpot?.p50 * 1e3), 1, " ms"),
            (|r| Some(r.tpot?.p99 * 1e3), 1, " ms"),
            (|r| Some(r.e2e?.mean), 2, " s"),
            (|r| Some(r.slo_share * 100.0), 1, "%"),
            (|r| Some(r.preemptions as f64), 0, ""),
            (|r| Some(r.prefix_hit_share * 100.0), 1, "%"),
        ];
        for (of, digits, unit) in cells {
            let _ = match row.mean(of) {
                Some((mean, Some(ci))) => write!(page, "<td>{mean:.digits$} ± {ci:.digits$}{unit}"),
                Some((mean, None)) => write!(page, "<td>{mean:.digits$}{unit}"),
                None => write!(page, "<td>–"),
            };
        }
        page += "</tr>";
    }
    page += "</table></div><div class=\"charts\">";
    charts.iter().for_each(|chart| page += chart);
    page + "</div></html>"
}

fn cdf(row: &Row, of: fn(&Record) -> Option<f64>) -> Vec<(f64, f64)> {
    let mut values: Vec<f64> =
        row.runs.iter().flat_map(|(outcome, _)| outcome.records.iter().filter_map(of)).collect();
    values.sort_unstable_by(f64::total_cmp);
    let n = values.len();
    let at = |i: usize| (i * (n - 1) / POINTS.min(n - 1).max(1)).min(n - 1);
    let points =
        (0..=POINTS.min(n.saturating_sub(1))).map(|i| (values[at(i)], (at(i) + 1) as f64 / n as f64));
    if n == 0 { Vec::new() } else { points.collect() }
}

fn requests_over_time(name: &str, outcome: &Outcome) -> String {
    let mut records: Vec<&Record> = outcome.records.iter().collect();
    records.sort_by_key(|record| record.request);
    let step = records.len().div_ceil(BARS).max(1);
    let bars = |r: &&Record| -> Bars {
        vec![(r.arrival, r.scheduled, 1), (r.scheduled, r.first_token, 2), (r.first_token, r.finished, 0)]
    };
    let mut pauses: Vec<_> = outcome.preempted.clone();
    pauses.sort_unstable_by_key(|pause| pause.0);
    let bars = |r: &&Record| {
        let own = pauses[pauses.partition_point(|pause| pause.0 < r.request)..].iter();
        let own = own.take_while(|pause| pause.0 == r.request).map(|&(_, from, to)| (from, to, 3));
        bars(r).into_iter().chain(own).collect::<Bars>()
    };
    let rows: Vec<Bars> = records.iter().step_by(step).map(bars).collect();
    let own = outcome.samples.iter().filter(|sample| sample.replica == 0);
    let all: Vec<(f64, f64)> = own.map(|sample| (sample.time, f64::from(sample.kv))).collect();
    let line: Vec<(f64, f64)> = all.iter().copied().step_by(all.len().div_ceil(600).max(1)).collect();
    let title = match step {
        1 => format!("{name}: requests in order of arrival"),
        _ => format!("{name}: requests in order of arrival, every {step}th"),
    };
    svg::gantt(&title, &rows, &["decode", "waiting", "prefill", "preempted"], &line, "KV held, replica 0")
}

/// Service of the tenants over time, if there are several: the five with the most.
fn service_chart(name: &str, outcome: &Outcome) -> Option<String> {
    let mut tenants = service_over_time(&outcome.records, outcome.seconds);
    if tenants.len() < 2 {
        return None;
    }
    let total = |windows: &[(f64, bool)]| windows.iter().map(|window| window.0).sum::<f64>();
    tenants.sort_by(|a, b| total(&b.1).total_cmp(&total(&a.1)));
    let width = outcome.seconds / WINDOWS as f64;
    let line = |(tenant, windows): &(u32, Vec<(f64, bool)>)| Series {
        name: format!("tenant {tenant}"),
        points: windows.iter().enumerate().map(|(i, w)| ((i as f64 + 0.5) * width, w.0 / width)).collect(),
        dots: false,
    };
    let series = tenants.iter().take(5).map(line).collect();
    let (title, x_label) = (format!("{name}: service by tenant"), "seconds".into());
    let y_label = "prompt + 2 × output tokens/s".into();
    Some(Chart { title, x_label, y_label, series, ..Chart::default() }.svg())
}

/// Chrome's trace format, which <https://ui.perfetto.dev> opens: each request's waiting, prefill, decode and preemptions,
/// each replica's steps (the first 20,000), and how full it was.
pub fn perfetto(outcome: &Outcome) -> Value {
    let micros = |seconds: f64| seconds * 1e6;
    let mut events = Vec::new();
    let replicas: BTreeMap<u32, u32> = outcome.records.iter().map(|r| (r.request, r.replica)).collect();
    for replica in 0..outcome.samples.iter().map(|sample| sample.replica + 1).max().unwrap_or(0) {
        let args = json!({ "name": format!("replica {replica}") });
        events.push(json!({ "ph": "M", "name": "process_name", "pid": replica, "args": args }));
        let args = json!({ "name": "steps" });
        events.push(json!({ "ph": "M", "name": "thread_name", "pid": replica, "tid": 1, "args": args }));
    }
    for r in &outcome.records {
        let args = json!({
            "tenant": r.tenant, "prompt": r.prompt, "output": r.output, "prefix_hit": r.prefix_hit, "preemptions": r.preemptions,
        });
        let name = format!("request {}", r.request);
        let parts = [
            (&*name, r.arrival, r.finished),
            ("waiting", r.arrival, r.scheduled),
            ("prefill", r.scheduled, r.first_token),
            ("decode", r.first_token, r.finished),
        ];
        for (part, from, to) in parts {
            for (ph, time) in [("b", from), ("e", to)] {
                events.push(json!({
                    "ph": ph, "cat": "request", "id": r.request, "name": part, "pid": r.replica, "tid": 0, "ts": micros(time),
                    "args": if ph == "b" && part == name { args.clone() } else { json!({}) },
                }));
            }
        }
    }
    for &(request, from, to) in &outcome.preempted {
        let Some(&replica) = replicas.get(&request) else { continue };
        for (ph, time) in [("b", from), ("e", to)] {
            events.push(json!({
                "ph": ph, "cat": "request", "id": request, "name": "preempted", "pid": replica, "tid": 0, "ts": micros(time),
                "args": {},
            }));
        }
    }
    for s in &outcome.steps {
        let args = json!({ "tokens": s.tokens, "sequences": s.sequences, "preempted": s.preempted });
        let name = format!("{} tokens", s.tokens);
        events.push(json!({
            "ph": "X", "cat": "step", "name": name, "pid": s.replica, "tid": 1, "ts": micros(s.began),
            "dur": micros(s.ended - s.began), "args": args,
        }));
    }
    for s in &outcome.samples {
        let (pid, ts) = (s.replica, micros(s.time));
        events.push(json!({ "ph": "C", "name": "KV held, %", "pid": pid, "ts": ts, "args": { "share": s.kv * 100.0 } }));
        let args = json!({ "running": s.running, "waiting": s.waiting });
        events.push(json!({ "ph": "C", "name": "sequences", "pid": pid, "ts": ts, "args": args }));
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ms" })
}
