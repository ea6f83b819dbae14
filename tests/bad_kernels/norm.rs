//! RMSNorm, one row after the other, and what can go wrong with any kernel.

use std::{
    collections::HashMap,
    sync::{
        Arc, Barrier, Mutex, OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use half::bf16;
use lathe::{
    Error, Result,
    kernels::{RmsNorm, RmsNormArgs},
    lab::check::{Suite, Verdict},
};

use crate::{
    expect, kernel, verdict,
    wild::{Raw, Wild},
};

static SUITE: OnceLock<Suite<RmsNorm>> = OnceLock::new();

/// A call's tensors and scalars.
struct Call {
    x: Raw,
    weight: Raw,
    out: Raw,
    rows: usize,
    dim: usize,
    eps: f32,
    offset: f32,
}

impl Call {
    fn new(a: RmsNormArgs<'_, Wild>) -> Self {
        let (x, weight, out) = (Raw::of(&a.x), Raw::of(&a.weight), Raw::out(&a.out));
        let (rows, dim) = (x.shape[0], x.row());
        Self { x, weight, out, rows, dim, eps: a.eps, offset: a.offset }
    }

    fn x(&self, row: usize) -> Vec<f32> {
        (0..self.dim).map(|i| self.x.get((row * self.x.stride + i) as isize)).collect()
    }

    /// The sum of squares that a right kernel has.
    fn sum(x: &[f32]) -> f32 {
        x.iter().map(|v| v * v).sum()
    }

    /// Row `row`, given its sum of squares.
    fn normed(&self, row: usize, sum: f32) -> Vec<f32> {
        let scale = 1.0 / (sum / self.dim as f32 + self.eps).sqrt();
        let weight = |i: usize| self.weight.get(i as isize) + self.offset;
        self.x(row).iter().enumerate().map(|(i, x)| x * scale * weight(i)).collect()
    }

    fn right(&self) -> Vec<f32> {
        (0..self.rows).flat_map(|r| self.normed(r, Self::sum(&self.x(r)))).collect()
    }

    /// All rows with a sum of squares of the caller's.
    fn with_sum(&self, sum: impl Fn(&[f32]) -> f32) -> Result<()> {
        let rows = (0..self.rows).flat_map(|r| self.normed(r, sum(&self.x(r))));
        self.out.fill(&rows.collect::<Vec<_>>())
    }
}

/// The verdict of a kernel that does `launch`.
fn bad(name: &'static str, want: Verdict, launch: impl Fn(Call) -> Result<()> + Send + Sync + 'static) {
    expect(&SUITE, &kernel(name, move |a| launch(Call::new(a))), want);
}

#[test]
fn without_a_flaw_it_passes() {
    bad("right", Verdict::Passed, |c| c.out.fill(&c.right()));
    let report = verdict(
        &SUITE,
        &kernel("refuses_bf16", |a| {
            let c = Call::new(a);
            c.out.fill(&c.right())
        }),
    );
    assert_eq!(report.verdict, Verdict::Passed);
    assert!(report.unsupported >= 9 && report.cases > 20, "{report}");
    let worst = report.worst.unwrap();
    assert!(worst.share > 0.0 && worst.share < 1.0 && worst.element.tensor == "out", "{worst:?}");
}

#[test]
fn what_it_writes_and_where() {
    bad("skips_the_last_tile", Verdict::UnwrittenOutput, |c| {
        let whole = c.rows / 4 * 4 * c.dim;
        c.out.fill(&c.right()[..whole])
    });
    bad("writes_nothing", Verdict::UnwrittenOutput, |_| Ok(()));
    bad("on_a_stream_that_nobody_waits_for", Verdict::UnwrittenOutput, |c| {
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(400));
            c.out.fill(&c.right()).unwrap();
        });
        Ok(())
    });
    bad("one_row_too_many", Verdict::WroteOutside, |c| {
        c.out.fill(&c.right())?;
        (0..c.dim).try_for_each(|i| c.out.set((c.rows * c.dim + i) as isize, 0.0))
    });
    bad("one_element_too_early", Verdict::WroteOutside, |c| {
        c.out.fill(&c.right())?;
        c.out.set(-1, 0.0)
    });
    bad("between_the_rows_of_its_input", Verdict::WroteOutside, |c| {
        c.out.fill(&c.right())?;
        c.x.set(c.dim as isize, 1.0)
    });
    bad("writes_its_input", Verdict::MutatedInput, |c| {
        c.out.fill(&c.right())?;
        c.x.set(0, c.out.get(0) + 1.0)
    });
    bad("writes_its_weight", Verdict::MutatedInput, |c| {
        c.out.fill(&c.right())?;
        c.weight.set(c.dim as isize - 1, 0.123)
    });
}

#[test]
fn answers_that_are_not_computed() {
    let before = Mutex::new(vec![0.0]);
    let stale = kernel("the_answer_to_the_previous_call", move |a| {
        let c = Call::new(a);
        let mut before = before.lock().unwrap();
        let old: Vec<f32> = before.iter().copied().cycle().take(c.rows * c.dim).collect();
        *before = c.right();
        c.out.fill(&old)
    });
    // What it does depends on more than the case: repeated, it is another mistake.
    assert_eq!(verdict(&SUITE, &stale).verdict, Verdict::Nondeterministic);
    let known = Mutex::new(HashMap::new());
    bad("an_answer_remembered_by_shape", Verdict::IncorrectNumerical, move |c| {
        let mut known = known.lock().unwrap();
        c.out.fill(known.entry((c.rows, c.dim, c.x.dtype)).or_insert_with(|| c.right()))
    });
    bad("right_on_zeros_only", Verdict::IncorrectNumerical, |c| c.out.fill(&vec![0.0; c.rows * c.dim]));
    bad("a_nan", Verdict::IncorrectNumerical, |c| {
        c.out.fill(&c.right())?;
        c.out.set((c.rows * c.dim) as isize - 1, f32::NAN)
    });
    bad("an_infinity", Verdict::IncorrectNumerical, |c| {
        c.out.fill(&c.right())?;
        c.out.set(0, f32::INFINITY)
    });
}

#[test]
fn arithmetic() {
    bad("reads_past_the_row", Verdict::IncorrectNumerical, |c| {
        // Correct but for the last row, whose neighbour is poison.
        let past = |row: usize| c.x.get((row * c.x.stride + c.dim) as isize);
        let rows = (0..c.rows).flat_map(|r| c.normed(r, Call::sum(&c.x(r)) + 0.0 * past(r)));
        c.out.fill(&rows.collect::<Vec<_>>())
    });
    bad("sums_in_bf16", Verdict::IncorrectNumerical, |c| {
        c.with_sum(|x| x.iter().fold(bf16::ZERO, |sum, v| bf16::from_f32(sum.to_f32() + v * v)).to_f32())
    });
    bad("squares_in_f16", Verdict::IncorrectNumerical, |c| {
        c.with_sum(|x| x.iter().map(|v| half::f16::from_f32(v * v).to_f32()).sum())
    });
    bad("drops_the_end_of_the_row", Verdict::IncorrectNumerical, |c| {
        c.with_sum(|x| Call::sum(&x[..x.len().next_multiple_of(32) - 32]))
    });
    bad("forgets_eps", Verdict::IncorrectNumerical, |c| Call { eps: 0.0, ..c }.with_sum(Call::sum));
    bad("forgets_the_offset", Verdict::IncorrectNumerical, |c| Call { offset: 0.0, ..c }.with_sum(Call::sum));

    let wrong_at = kernel("wrong_at_1030", |a| {
        let c = Call::new(a);
        let factor = if c.dim == 1030 { 1.1 } else { 1.0 };
        c.with_sum(|x| factor * Call::sum(x))
    });
    let failure = expect(&SUITE, &wrong_at, Verdict::IncorrectNumerical).failure.unwrap();
    assert_eq!((&failure.case["dim"], &failure.case["rows"]), (&1030.into(), &1.into()), "{failure:?}");
    let element = failure.element.unwrap();
    assert!((element.value / element.expected - 1.1f64.powf(-0.5)).abs() < 0.03, "{element:?}");
}

#[test]
fn order_and_races() {
    let calls = AtomicUsize::new(0);
    bad("another_order_every_time", Verdict::Nondeterministic, move |c| {
        let start = calls.fetch_add(7, Relaxed);
        c.with_sum(|x| (0..x.len()).map(|i| x[(i + start) % x.len()].powi(2)).sum())
    });
    let race = kernel("adds_without_a_lock", |a| {
        let c = Call::new(a);
        c.with_sum(|x| {
            let (sum, start) = (AtomicU32::new(0), Barrier::new(2));
            thread::scope(|s| {
                for half in [&x[..x.len() / 2], &x[x.len() / 2..]] {
                    let (sum, start) = (&sum, &start);
                    s.spawn(move || {
                        start.wait();
                        for v in half {
                            let old = f32::from_bits(sum.load(Relaxed));
                            thread::yield_now();
                            sum.store((old + v * v).to_bits(), Relaxed);
                        }
                    });
                }
            });
            f32::from_bits(sum.load(Relaxed))
        })
    });
    // What a race loses may, by chance, be the same twice.
    let report = verdict(&SUITE, &race);
    assert!(matches!(report.verdict, Verdict::Nondeterministic | Verdict::IncorrectNumerical), "{report}");
}

#[test]
fn kernels_that_do_not_come_to_an_end() {
    bad("panics", Verdict::RuntimeError, |c| panic!("row {}", c.rows));
    bad("reports_an_error", Verdict::RuntimeError, |_| {
        Err(Error::Device { device: "wild".into(), what: "illegal address".into() })
    });
    bad("does_not_compile", Verdict::CompileError, |_| {
        Err(Error::Compile {
            kernel: "rms_norm.cu".into(),
            log: "rms_norm.cu(7): error: expected a \";\"".into(),
        })
    });
    bad("refuses_a_shape_that_it_supports", Verdict::IncorrectShape, |c| {
        let (got, want) = (vec![c.rows, c.dim], vec![c.rows, 1024]);
        if c.dim > 1024 {
            Err(Error::Shape { op: "rms_norm", tensor: "x", got, want })
        } else {
            c.out.fill(&c.right())
        }
    });
    bad("supports_nothing", Verdict::Unsupported, |_| Ok(()));
    let started = Arc::new(AtomicUsize::new(0));
    bad("never_returns", Verdict::Timeout, move |c| {
        if started.fetch_add(1, Relaxed) < 4 {
            return c.out.fill(&c.right());
        }
        loop {
            thread::sleep(Duration::from_secs(1));
        }
    });
}
