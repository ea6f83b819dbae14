//! What a kernel left in memory, held against what it should have.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    map::ErrorMap,
    report::{Verdict, Worst},
};
use crate::{
    device::Device,
    lab::{
        cases::{HostTensor, Problem, Target, Want, format},
        loaded::{Loaded, element, poison},
    },
};

/// What became of one case.
pub enum Outcome {
    /// Right, and how nearly so.
    Passed(Box<Measured>),
    /// Wrong.
    Failed(Box<Finding>),
    /// The kernel said that it cannot, and why.
    Unsupported(String),
}

impl Outcome {
    /// Wrong as a whole.
    pub fn failed(verdict: Verdict, message: String) -> Self {
        Self::Failed(Box::new(Finding::of(verdict, message)))
    }
}

/// What is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The kind.
    pub verdict: Verdict,
    /// In words, with the element.
    pub message: String,
    /// The element, if it is one.
    pub element: Option<Element>,
    /// Where the errors are, if values are wrong.
    pub map: Option<ErrorMap>,
}

impl Finding {
    /// Without an element.
    pub(super) fn of(verdict: Verdict, message: String) -> Self {
        Self { verdict, message, element: None, map: None }
    }
}

/// An element of an output. Values that are not finite are null in JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Element {
    /// The tensor.
    pub tensor: String,
    /// Its place in it.
    pub index: Vec<usize>,
    /// What the kernel wrote.
    #[serde(deserialize_with = "number_or_null")]
    pub value: f64,
    /// What the oracle has.
    #[serde(deserialize_with = "number_or_null")]
    pub expected: f64,
    /// Their distance in units in the last place of the dtype.
    #[serde(deserialize_with = "number_or_null")]
    pub ulps: f64,
}

fn number_or_null<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// Errors of a case that passed.
#[derive(Default)]
pub struct Measured {
    /// Of every floating-point element.
    pub ulps: Vec<f32>,
    /// The element closest to its budget; its case is null.
    pub worst: Option<Worst>,
    /// Where the errors of its largest output are.
    pub map: Option<ErrorMap>,
}

/// Judges what is in memory after a call (`first`) and, if given, after a second call on the same data.
pub fn judge<D: Device>(
    problem: &Problem,
    loaded: &[Loaded<D>],
    first: &[Vec<u8>],
    second: Option<&[Vec<u8>]>,
) -> Outcome {
    let tensors = || problem.tensors.iter().zip(loaded).zip(first);
    for ((host, l), after) in tensors() {
        if let Some(finding) = trespass(host, l, after) {
            return Outcome::Failed(Box::new(finding));
        }
    }
    for (host, l, after) in tensors()
        .chain(problem.tensors.iter().zip(loaded).zip(second.unwrap_or_default()))
        .filter_map(|((host, l), after)| host.want.as_ref().map(|_| (host, l, after)))
    {
        if let Some(finding) = unwritten(host, l, after) {
            return Outcome::Failed(Box::new(finding));
        }
    }
    let unstable = second
        .and_then(|second| tensors().zip(second).find_map(|(((host, l), a), b)| unstable(host, l, a, b)));
    if let Some(finding) = unstable {
        return Outcome::Failed(Box::new(finding));
    }
    let mut measured = Measured::default();
    for ((host, l), after) in tensors() {
        let failed = match &host.want {
            None => None,
            Some(Want::Int(want)) => wrong_int(host, l, after, want),
            Some(Want::Float(target)) => wrong_float(host, l, after, target, &mut measured),
        };
        if let Some(finding) = failed {
            return Outcome::Failed(Box::new(finding));
        }
    }
    Outcome::Passed(Box::new(measured))
}

/// A place that is not the kernel's to write and changed.
fn trespass<D: Device>(host: &HostTensor, l: &Loaded<D>, after: &[u8]) -> Option<Finding> {
    let size = host.dtype().size();
    let changed = |at: &usize| after[at * size..][..size] != l.image()[at * size..][..size];
    let of = |verdict, message| Some(Finding::of(verdict, message));
    if let Some(at) = l.outside().into_iter().flatten().find(changed) {
        let inside = l.inside();
        let (start, end) = (inside.first().map_or(0, |r| r.start), inside.last().map_or(0, |r| r.end));
        let place = if at < start {
            format!("{} elements before its first", start - at)
        } else if at >= end {
            format!("{} elements after its last", at - end + 1)
        } else {
            "between its rows".into()
        };
        return of(Verdict::WroteOutside, format!("memory around {} changed, {place}", host.name));
    }
    if host.want.is_none()
        && let Some((at, _)) = l.inside().into_iter().flatten().enumerate().find(|(_, at)| changed(at))
    {
        let index = unflatten(at, &host.shape);
        return of(Verdict::MutatedInput, format!("input {}{index:?} changed", host.name));
    }
    None
}

fn unwritten<D: Device>(host: &HostTensor, l: &Loaded<D>, after: &[u8]) -> Option<Finding> {
    let dtype = host.dtype();
    let left = |&at: &usize| element(dtype, after, at).1 == poison(dtype);
    let all: Vec<usize> = l.inside().into_iter().flatten().collect();
    let count = all.iter().filter(|at| left(at)).count();
    let at = all.iter().position(left)?;
    let (index, total) = (unflatten(at, &host.shape), all.len());
    let message =
        format!("{count} of {total} elements of {} were not written, the first {index:?}", host.name);
    Some(Finding::of(Verdict::UnwrittenOutput, message))
}

fn unstable<D: Device>(host: &HostTensor, l: &Loaded<D>, a: &[u8], b: &[u8]) -> Option<Finding> {
    let dtype = host.dtype();
    let all: Vec<usize> = l.inside().into_iter().flatten().collect();
    let differs = |&at: &usize| element(dtype, a, at).1 != element(dtype, b, at).1;
    let at = all.iter().position(differs)?;
    let count = all.iter().filter(|at| differs(at)).count();
    let (index, total) = (unflatten(at, &host.shape), all.len());
    let show = |bytes| show(host, bytes, all[at]);
    let message = format!(
        "{count} of {total} elements of {} differ between two runs on the same data; {index:?} is {}, then {}",
        host.name,
        show(a),
        show(b)
    );
    Some(Finding::of(Verdict::Nondeterministic, message))
}

fn show(host: &HostTensor, bytes: &[u8], at: usize) -> String {
    let (value, bits) = element(host.dtype(), bytes, at);
    if matches!(host.want, Some(Want::Int(_))) { (bits as i32).to_string() } else { value.to_string() }
}

fn wrong_int<D: Device>(host: &HostTensor, l: &Loaded<D>, after: &[u8], want: &[i32]) -> Option<Finding> {
    let got = l.inside().into_iter().flatten().map(|at| element(host.dtype(), after, at).1 as i32);
    let wrong: Vec<(usize, i32, i32)> =
        got.zip(want).enumerate().filter(|(_, (g, w))| g != *w).map(|(i, (g, w))| (i, g, *w)).collect();
    let &(i, got, expected) = wrong.first()?;
    let index = unflatten(i, &host.shape);
    let message = format!(
        "{} of {} elements of {} are wrong, the first {index:?}: {got}, expected {expected}",
        wrong.len(),
        want.len(),
        host.name
    );
    let (value, expected) = (f64::from(got), f64::from(expected));
    let element =
        Element { tensor: host.name.into(), index, value, expected, ulps: (value - expected).abs() };
    let element = Some(element);
    Some(Finding { element, ..Finding::of(Verdict::IncorrectNumerical, message) })
}

fn wrong_float<D: Device>(
    host: &HostTensor,
    l: &Loaded<D>,
    after: &[u8],
    target: &Target,
    measured: &mut Measured,
) -> Option<Finding> {
    let format = format(host.dtype());
    let got: Vec<f32> =
        l.inside().into_iter().flatten().map(|at| element(host.dtype(), after, at).0).collect();
    let (mut wrong, mut worst, mut share_of_worst) = (0, 0, -1.0);
    let (mut squares, mut largest, mut relative, mut naive_largest) = (0.0, 0.0f64, 0.0f64, 0.0f64);
    let mut map = ErrorMap::new(host.name, &host.shape);
    for (i, (&g, &w)) in got.iter().zip(&target.values).enumerate() {
        let wide = f64::from(w);
        let ulps = format.ulps(g, wide);
        // Half a unit in the last place is the rounding's, what is beyond it the budget's. Where the budget moves the
        // value past a power of two the unit is the larger one.
        let (budget, error) = (target.budget[i], (f64::from(g) - wide).abs());
        if budget == f64::INFINITY {
            continue;
        }
        let beyond = (error - 0.5 * format.ulp(wide.abs() + budget)).max(0.0);
        // NaN for NaN and an infinity for itself are right; no other NaN or infinity is. A value that overflows the
        // dtype is right as an infinity.
        let (error, share) = match ulps {
            0.0 => (0.0, 0.0),
            u if u.is_finite() => (error, if beyond > 0.0 { beyond / budget } else { 0.0 }),
            _ if format.round(wide) == g => (0.0, 0.0),
            _ => (f64::INFINITY, f64::INFINITY),
        };
        map.add(i, got.len(), share);
        wrong += usize::from(share > 1.0);
        if share > share_of_worst {
            (worst, share_of_worst) = (i, share);
        }
        squares += error * error;
        largest = largest.max(error);
        relative = relative.max(if wide == 0.0 || error == 0.0 { 0.0 } else { error / wide.abs() });
        let naive = target.naive.as_ref().map_or_else(|| format.round(wide), |naive| naive[i]);
        let naive_error = (f64::from(naive) - wide).abs();
        naive_largest = naive_largest.max(if naive_error.is_finite() { naive_error } else { 0.0 });
        measured.ulps.push(if ulps.is_finite() { ulps as f32 } else { 0.0 });
    }
    if got.is_empty() {
        return None;
    }
    let (value, expected) = (f64::from(got[worst]), f64::from(target.values[worst]));
    let index = unflatten(worst, &host.shape);
    let ulps = format.ulps(got[worst], expected);
    let element = Element { tensor: host.name.into(), index, value, expected, ulps };
    let rms = (squares / got.len() as f64).sqrt();
    let message = if wrong > 0 {
        format!(
            "{wrong} of {} elements of {} are wrong, the worst {:?}: {value:e}, expected {expected:e}, {ulps:.2} ulp, \
             {share_of_worst:.3} of the budget; the naive kernel's largest error here is {naive_largest:.2e}",
            got.len(),
            host.name,
            element.index,
        )
    } else if target.rms.is_some_and(|limit| rms > limit) {
        let limit = target.rms.unwrap_or_default();
        format!("the root mean square error of {} is {rms:.3e}, expected at most {limit:.3e}", host.name)
    } else {
        let worst = Worst {
            case: Value::Null,
            element,
            error: largest,
            relative_error: relative,
            naive_error: naive_largest,
            share: share_of_worst,
        };
        if measured.worst.as_ref().is_none_or(|old| worst.share > old.share) {
            measured.worst = Some(worst);
        }
        if measured.map.as_ref().is_none_or(|old| map.size() > old.size()) {
            measured.map = Some(map);
        }
        return None;
    };
    Some(Finding {
        element: Some(element),
        map: Some(map),
        ..Finding::of(Verdict::IncorrectNumerical, message)
    })
}

/// The index of element `at`, row after row.
fn unflatten(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, extent) in index.iter_mut().zip(shape).rev() {
        *i = at % extent;
        at /= extent;
    }
    index
}
