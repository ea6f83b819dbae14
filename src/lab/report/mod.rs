//! What was found of some kernels, as one page to look at: are they right, how fast are they, how far from what the
//! device can do, and what to look at first.
//!
//! Times and softcuda's counters never meet: a page has the ones or the others.

mod page;

use std::collections::BTreeSet;

pub use page::{html, pictures};

use super::{check, count::Count, timing::Timed};
use crate::device::Peaks;

/// Everything that a page shows.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Machine, device, commit, seed, date: name and value.
    pub about: Vec<(String, String)>,
    /// The command that repeats it.
    pub command: String,
    /// Operations with their kernels, in the order of a decoder step; the first kernel is the default.
    pub kernels: Vec<(String, Vec<String>)>,
    /// What the device can at most do, if that is known.
    pub peaks: Option<Peaks>,
    /// A check for each kernel.
    pub checks: Vec<check::Report>,
    /// Times; none from a device in software.
    pub timed: Vec<Timed>,
    /// Counters of a device in software.
    pub counted: Vec<Count>,
    /// Kernels that have no time at a shape, and why.
    pub left_out: Vec<String>,
}

/// Something to look at, the most pressing first.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// In a few words.
    pub what: String,
    /// With the figures.
    pub detail: String,
    /// A command that shows it, if there is one.
    pub command: Option<String>,
}

impl Findings {
    /// Whether it is the operation's default.
    fn is_default(&self, op: &str, kernel: &str) -> bool {
        self.kernels.iter().any(|(o, kernels)| o == op && kernels.first().is_some_and(|k| k == kernel))
    }

    /// A kernel's times.
    fn of<'s>(&'s self, op: &'s str, kernel: &'s str) -> impl Iterator<Item = &'s Timed> {
        self.timed.iter().filter(move |t| t.op == op && t.kernel == kernel)
    }

    /// The time that the device needs at least, as a share of what the kernel took.
    fn share_of_roof(&self, timed: &Timed) -> Option<f64> {
        Some(self.peaks.as_ref()?.seconds(timed.bytes, timed.flops) / timed.seconds)
    }

    /// Failures; defaults that another kernel beats; defaults furthest from the roof or, without times, from the least
    /// bytes; the errors that come closest to what is allowed.
    pub fn look_first(&self) -> Vec<Point> {
        let mut points = self.failures();
        points.extend(self.beaten());
        points.extend(self.far_from_roof());
        points.extend(self.most_bytes());
        points.extend(self.closest_to_budget());
        points
    }

    fn failures(&self) -> Vec<Point> {
        let failed = self.checks.iter().filter(|report| !report.verdict.is_fine());
        failed
            .map(|report| {
                let message = report.failure.as_ref().map_or("", |failure| failure.message.as_str());
                Point {
                    what: format!("{}/{} is {}", report.op, report.kernel, report.verdict),
                    detail: message.lines().next().unwrap_or_default().to_owned(),
                    command: report.repeat().map(|repeat| format!("lathe check {repeat}{}", on(report))),
                }
            })
            .collect()
    }

    /// Defaults that are slower than another kernel, the intervals apart. Those of one operation are one point.
    fn beaten(&self) -> Vec<Point> {
        let mut points = Vec::new();
        for (op, kernels) in &self.kernels {
            let Some(default) = kernels.first() else { continue };
            let mut at: Vec<(f64, String)> = Vec::new();
            for own in self.of(op, default) {
                let others =
                    kernels[1..].iter().flat_map(|k| self.of(op, k)).filter(|t| t.shape == own.shape);
                let best = others.min_by(|a, b| a.seconds.total_cmp(&b.seconds));
                if let Some(best) = best.filter(|b| b.seconds + b.half < own.seconds - own.half) {
                    let times = own.seconds / best.seconds;
                    at.push((times, format!("{}: {} is {times:.2} times as fast", own.shape, best.kernel)));
                }
            }
            at.sort_by(|a, b| b.0.total_cmp(&a.0));
            if let Some((_, worst)) = at.first() {
                let more =
                    if at.len() > 1 { format!(" ({} shapes in all)", at.len()) } else { String::new() };
                points.push(Point {
                    what: format!("{op}: another kernel beats the default {default}"),
                    detail: format!("{worst}{more}"),
                    command: None,
                });
            }
        }
        points
    }

    /// For each operation the shape at which its default is furthest from the roof; the three furthest of all.
    fn far_from_roof(&self) -> Vec<Point> {
        let mut shares: Vec<(f64, &Timed)> = self
            .timed
            .iter()
            .filter(|t| self.is_default(&t.op, &t.kernel))
            .filter_map(|t| Some((self.share_of_roof(t)?, t)))
            .collect();
        shares.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut seen = BTreeSet::new();
        let furthest = shares.into_iter().filter(|(share, t)| *share < 0.5 && seen.insert(&t.op)).take(3);
        furthest
            .map(|(share, t)| Point {
                what: format!("{}/{} reaches {:.0}% of the roof", t.op, t.kernel, share * 100.0),
                detail: format!(
                    "{}: {}, where the device needs {} at least",
                    t.shape,
                    page::time(t.seconds),
                    page::time(t.seconds * share)
                ),
                command: Some(format!("cargo bench --bench kernels -- '{}/{}'", t.op, t.shape)),
            })
            .collect()
    }

    /// The defaults that move most, beyond what any kernel must.
    fn most_bytes(&self) -> Vec<Point> {
        let default = |c: &Count| c.kernel.split_once('/').is_some_and(|(op, k)| self.is_default(op, k));
        let mut counted: Vec<&Count> =
            self.counted.iter().filter(|c| default(c) && c.moved() > 1.25).collect();
        counted.sort_by(|a, b| b.moved().total_cmp(&a.moved()));
        counted
            .into_iter()
            .take(3)
            .map(|c| Point {
                what: format!("{} moves {:.2} times the least bytes (modelled)", c.kernel, c.moved()),
                detail: format!(
                    "{}: {} to and from DRAM in the model, where {} must be",
                    c.shape,
                    page::bytes(c.total().dram_bytes()),
                    page::bytes(c.least.bytes)
                ),
                command: None,
            })
            .collect()
    }

    /// The kernel whose worst element is nearest to its budget.
    fn closest_to_budget(&self) -> Option<Point> {
        let passed = self.checks.iter().filter(|report| report.verdict.is_fine());
        let worst = passed
            .filter_map(|report| Some((report, report.worst.as_ref()?)))
            .max_by(|a, b| a.1.share.total_cmp(&b.1.share))
            .filter(|(_, worst)| worst.share > 0.0)?;
        let (report, worst) = worst;
        let element = &worst.element;
        Some(Point {
            what: format!(
                "{}/{} comes closest to its error budget: {:.0}%",
                report.op,
                report.kernel,
                worst.share * 100.0
            ),
            detail: format!(
                "{}{:?} is {:.8e}, expected {:.8e}; the naive kernel's largest error there is {:.1e}",
                element.tensor, element.index, element.value, element.expected, worst.naive_error
            ),
            command: Some(format!(
                "lathe check {}/{} --case '{}'{}",
                report.op,
                report.kernel,
                worst.case,
                on(report)
            )),
        })
    }
}

/// The option for the device that a report is of.
fn on(report: &check::Report) -> &'static str {
    if report.device.starts_with("cuda") { " --device cuda" } else { "" }
}
