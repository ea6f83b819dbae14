//! The check itself is checked: kernels that are wrong in one way each must get the verdict they deserve, and the
//! same kernels without that flaw must pass.

mod attention;
mod certificates;
mod norm;
mod others;
mod wild;

use std::sync::{Arc, OnceLock};

use lathe::{
    Result,
    kernels::{Kernel, Op, Slot, Unsupported},
    lab::{
        cases::Cases,
        check::{Options, Report, Suite, Verdict, check},
    },
};
use wild::{Memory, Wild};

/// A kernel made of a function.
struct Naive<O: Op, F>(&'static str, F, std::marker::PhantomData<fn() -> O>);

impl<O: Op, F> Kernel<O, Wild> for Naive<O, F>
where
    F: Fn(O::Args<'_, Wild>) -> Result<()> + Send + Sync,
{
    fn name(&self) -> &'static str {
        self.0
    }

    fn about(&self) -> &'static str {
        "wrong in one way"
    }

    fn supports(&self, spec: &O::Spec) -> Result<(), Unsupported> {
        // The two kernels that refuse say so in their names.
        match self.0 {
            "supports_nothing" => Err(Unsupported("anything".into())),
            "refuses_bf16" if format!("{spec:?}").contains("Bf16") => Err(Unsupported("bf16".into())),
            _ => Ok(()),
        }
    }

    fn launch(&self, _: &Wild, args: O::Args<'_, Wild>, _: &mut Memory) -> Result<()> {
        self.1(args)
    }
}

fn kernel<O: Op>(
    name: &'static str,
    launch: impl Fn(O::Args<'_, Wild>) -> Result<()> + Send + Sync + 'static,
) -> Slot<O, Wild> {
    Arc::new(Naive(name, launch, std::marker::PhantomData))
}

fn options() -> Options {
    // Long enough for a loaded machine; one kernel has to wait for it.
    Options {
        cases: 6,
        seed: 1,
        timeout: std::time::Duration::from_secs(4),
        maps: true,
        ..Options::default()
    }
}

/// The cases of an operation, made once.
fn verdict<O: Cases>(suite: &OnceLock<Suite<O>>, kernel: &Slot<O, Wild>) -> Report {
    check(&Wild, kernel, suite.get_or_init(|| Suite::new(&options())), &options())
}

/// Checks `kernel` and that its shrunk failure fails again when repeated.
fn expect<O: Cases>(suite: &OnceLock<Suite<O>>, kernel: &Slot<O, Wild>, want: Verdict) -> Report {
    let report = verdict(suite, kernel);
    assert_eq!(report.verdict, want, "{}: {report}", kernel.name());
    if let Some(failure) = report.failure.as_ref().filter(|_| !want.ends_the_device()) {
        let again = check(&Wild, kernel, &Suite::one(&failure.case.to_string()).unwrap(), &options());
        assert_eq!(again.verdict, want, "{} repeated: {again}", kernel.name());
    }
    report
}
