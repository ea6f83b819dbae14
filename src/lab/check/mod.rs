//! Is a kernel right? Every case of its operation is run on it; what it wrote is held against the oracle.
//!
//! Each case runs three times: twice on the same data, whose results must have the same bits, and (for some) once on
//! other data in the same memory, which catches answers that were remembered. Inputs must come back unchanged,
//! outputs start as poison and have poison around them. The first failing case is shrunk.

mod judge;
mod map;
mod report;
mod sandbox;

use std::{sync::Arc, time::Duration};

pub use judge::{Element, Finding};
pub use map::ErrorMap;
pub use report::{Failure, Quantiles, Report, Verdict, Worst};

use serde_json::Value;

use super::{
    cases::{Cases, Draw, Problem},
    certificate::GROUPS,
    loaded::{Loaded, bind},
    shrink,
};
use crate::{
    device::Device,
    error::Result,
    kernels::{self, Queue, Slot},
};
use judge::Outcome;
use sandbox::Sandbox;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Every so many-th of the fixed cases; at least 1.
    pub every: usize,
    /// Random cases, after the fixed ones.
    pub cases: usize,
    /// Of the random cases.
    pub seed: u64,
    /// For one case, compilation included.
    pub timeout: Duration,
    /// Of draws, for each setting of a sampler's certificate.
    pub groups: usize,
    /// Whether to tell where the errors are.
    pub maps: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { every: 1, cases: 24, seed: 0, timeout: Duration::from_secs(60), groups: GROUPS, maps: false }
    }
}

/// A case with its tensors, and others of the same shapes.
pub(crate) struct Entry<O: Cases> {
    pub case: O::Case,
    pub problem: Problem,
    pub twin: Option<(O::Case, Problem)>,
}

impl<O: Cases> Entry<O> {
    fn new(case: O::Case, with_twin: bool) -> Arc<Self> {
        let twin = with_twin.then(|| {
            let mut twin = case.clone();
            *O::seed(&mut twin) += 1_000_003;
            let problem = O::problem(&twin);
            (twin, problem)
        });
        Arc::new(Self { problem: O::problem(&case), case, twin })
    }
}

/// An operation's cases with the oracle's answers, to share between its kernels.
pub struct Suite<O: Cases> {
    entries: Vec<Arc<Entry<O>>>,
    /// Not just one case.
    is_whole: bool,
}

impl<O: Cases> Suite<O> {
    /// The fixed cases, then random ones.
    pub fn new(options: &Options) -> Self {
        let mut draw = Draw::new(options.seed);
        let fixed = O::fixed()
            .into_iter()
            .step_by(options.every)
            .enumerate()
            .map(|(i, case)| Entry::new(case, i % 4 == 0));
        let fixed: Vec<_> = fixed.collect();
        let random = (0..options.cases).map(|_| Entry::new(O::random(&mut draw), false));
        Self { entries: fixed.into_iter().chain(random).collect(), is_whole: true }
    }

    /// One case, as a report prints it.
    ///
    /// # Errors
    /// A message that says what is wrong with it.
    pub fn one(case: &str) -> Result<Self, String> {
        let case: O::Case =
            serde_json::from_str(case).map_err(|e| format!("not a case of {}: {e}", O::NAME))?;
        if !O::fits(&case) {
            return Err(format!("not a case of {}: its extents do not go together", O::NAME));
        }
        Ok(Self { entries: vec![Entry::new(case, true)], is_whole: false })
    }
}

/// Most runs that shrinking a failure may take.
const SHRINK_RUNS: usize = 150;

/// Runs every case of `suite` on `kernel`.
pub fn check<O: Cases, D: Device>(
    dev: &D,
    kernel: &Slot<O, D>,
    suite: &Suite<O>,
    options: &Options,
) -> Report {
    let start = std::time::Instant::now();
    let mut report = Report::new(O::NAME, kernel.name(), dev.describe());
    // What fails here fails again with its case, which is the place to tell.
    let _ = prepare(dev, kernel, suite);
    let sandbox = Sandbox::<O>::new(dev.clone(), Arc::clone(kernel), options.timeout);
    let mut first: Option<(Arc<Entry<O>>, Finding)> = None;
    let mut ulps = Vec::new();
    let mut map: Option<ErrorMap> = None;
    for entry in &suite.entries {
        match sandbox.run(entry) {
            Outcome::Unsupported(reason) => {
                report.unsupported += 1;
                report.reason.get_or_insert(reason);
            }
            Outcome::Passed(measured) => {
                report.cases += 1;
                ulps.extend(measured.ulps);
                if let Some(worst) =
                    measured.worst.filter(|w| report.worst.as_ref().is_none_or(|old| w.share > old.share))
                {
                    report.worst = Some(Worst { case: value(&entry.case), ..worst });
                }
                if let Some(larger) =
                    measured.map.filter(|m| map.as_ref().is_none_or(|old| m.size() > old.size()))
                {
                    map = Some(ErrorMap { case: value(&entry.case), ..larger });
                }
            }
            Outcome::Failed(finding) => {
                report.cases += 1;
                report.failed += 1;
                let over = finding.verdict.ends_the_device();
                first.get_or_insert((Arc::clone(entry), *finding));
                if over {
                    break;
                }
            }
        }
    }
    report.ulps = Quantiles::of(ulps);
    if options.maps {
        report.maps.extend(map);
        let failed = first.as_ref().and_then(|(entry, finding)| Some((entry, finding.map.clone()?)));
        report.maps.extend(failed.map(|(entry, map)| ErrorMap { case: value(&entry.case), ..map }));
    }
    if let Some((entry, finding)) = first {
        let (case, finding) = shrunk::<O>(&sandbox, &entry.case, finding);
        report.fail(case, finding);
    } else if report.cases > 0 {
        report.verdict = Verdict::Passed;
        report.reason = None;
        if suite.is_whole {
            report.certify(O::certificate(dev, kernel, options.groups));
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    report
}

/// Compiles what the cases will launch, on all cores, where kernels are compiled at all.
fn prepare<O: Cases, D: Device>(dev: &D, kernel: &Slot<O, D>, suite: &Suite<O>) -> Result<()> {
    if !D::LAUNCHES_IN_REHEARSAL || !suite.is_whole {
        return Ok(());
    }
    let mut queue = Queue::new(dev)?;
    queue.rehearse(true)?;
    for entry in &suite.entries {
        let mut loaded = Loaded::all(dev, &entry.problem)?;
        let _ = kernels::run(&**kernel, &mut queue, O::args(&entry.case, bind(&mut loaded)));
    }
    queue.rehearse(false)
}

/// The smallest case found that fails for the same reason.
fn shrunk<O: Cases>(sandbox: &Sandbox<O>, case: &O::Case, finding: Finding) -> (Value, Finding) {
    let (mut case, mut finding) = (value(case), finding);
    let mut runs = 0;
    'smaller: while !finding.verdict.ends_the_device() {
        for smaller in shrink::smaller(&case) {
            let Ok(parsed) = serde_json::from_value::<O::Case>(smaller.clone()) else { continue };
            if !O::fits(&parsed) {
                continue;
            }
            runs += 1;
            if runs > SHRINK_RUNS {
                break 'smaller;
            }
            if let Outcome::Failed(f) = sandbox.run(&Entry::new(parsed, true))
                && f.verdict == finding.verdict
            {
                (case, finding) = (smaller, *f);
                continue 'smaller;
            }
        }
        break;
    }
    (case, finding)
}

fn value(case: &impl serde::Serialize) -> Value {
    serde_json::to_value(case).expect("a case is plain data")
}
