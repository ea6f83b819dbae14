//! A kernel from outside the crate that is right from the start: it hands its arguments to the oracle's. Change
//! `launch`, and run this again.

use std::sync::Arc;

use lathe::{
    config::{EngineConfig, SamplingParams},
    device::{Cpu, CpuBuffer},
    engine::policies,
    kernels::{Kernel, Op, Queue, Registry, RmsNorm, Slot, Table, Unsupported},
    lab::{
        check::{Options, Suite, check},
        timing::{Per, Shapes, Visit, WithArgs, each_shape, side_by_side},
    },
    llm::{LLM, Prompt},
    open,
};

/// The operation.
type Operation = RmsNorm;

/// Its kernels in a registry.
fn table(registry: &mut Registry<Cpu>) -> &mut Table<Operation, Cpu> {
    &mut registry.rms_norm
}

/// The oracle in f64, which is slow. A kernel of its own has no need of it.
struct StartHere(Slot<Operation, Cpu>);

impl Kernel<Operation, Cpu> for StartHere {
    fn name(&self) -> &'static str {
        "start_here"
    }

    fn about(&self) -> &'static str {
        "the oracle, until it is something else"
    }

    /// Refuse here what the kernel is not for: a dtype, a head size, an option. Never a batch size.
    fn supports(&self, spec: &<Operation as Op>::Spec) -> Result<(), Unsupported> {
        self.0.supports(spec)
    }

    /// Bytes of scratch memory that a call needs.
    fn scratch(&self, args: &<Operation as Op>::Args<'_, Cpu>) -> usize {
        self.0.scratch(args)
    }

    /// The arguments fit together: their documentation says how. See `src/kernels` for them, `reference/src` for the
    /// mathematics, and `src/kernels/cpu` for how others read and write views.
    fn launch(
        &self,
        dev: &Cpu,
        args: <Operation as Op>::Args<'_, Cpu>,
        scratch: &mut CpuBuffer,
    ) -> lathe::Result<()> {
        self.0.launch(dev, args, scratch)
    }
}

/// The kernels of this crate, and this one.
fn registry() -> Registry<Cpu> {
    let mut registry = Registry::cpu();
    let table = table(&mut registry);
    let oracle =
        table.iter().find(|kernel| kernel.name() == "reference").expect("every table has it").clone();
    table.push(Arc::new(StartHere(oracle)));
    registry
}

/// Prints the time of every kernel of the operation at a few shapes.
struct Times(Queue<Cpu>);

impl Visit<Cpu> for Times {
    fn wants(&self, op: &str) -> bool {
        op == Operation::NAME
    }

    fn shape<O: Op>(
        &mut self,
        shape: &str,
        per: Per,
        table: &Table<O, Cpu>,
        with_args: &mut WithArgs<'_, O, Cpu>,
    ) -> lathe::Result<()> {
        let left_out = |kernel: &str, why| println!("{shape}: {kernel} is left out: {why}");
        for t in side_by_side(&mut self.0, shape, per, table, |_| true, with_args, left_out)? {
            let gigabytes = t.bytes as f64 / t.seconds / 1e9;
            println!("{shape}: {:12} {:10.1} µs, {gigabytes:.2} GB/s", t.kernel, t.seconds * 1e6);
        }
        Ok(())
    }
}

/// The beginning of a story with this kernel in the operation's slots.
fn story() -> anyhow::Result<String> {
    let mut config = EngineConfig { max_model_len: 128, ..EngineConfig::default() };
    config.kernels.insert(Operation::NAME.into(), "start_here".into());
    let files = open::files(&config)?;
    let runner = open::runner_on(&Cpu::new(config.threads), &registry(), &config, &files)?;
    let mut llm = LLM::with_runner(config, files, runner, policies::by_name("chunked")?)?;
    let params = SamplingParams { max_tokens: 24, ..SamplingParams::greedy() };
    Ok(llm.generate(&[Prompt::from("Once upon a time")], &[params], false)?.remove(0).text)
}

fn main() -> anyhow::Result<()> {
    let dev = Cpu::new(None);
    let mut registry = registry();
    let kernel = table(&mut registry).last().expect("just pushed").clone();
    let options = Options::default();
    let report = check(&dev, &kernel, &Suite::new(&options), &options);
    println!("{report}");
    anyhow::ensure!(report.verdict.is_fine(), "start_here is {}", report.verdict);
    each_shape(&dev, &registry, Shapes::Small, &mut Times(Queue::new(&dev)?))?;
    println!("Once upon a time{}", story()?);
    Ok(())
}
