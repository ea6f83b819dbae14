//! What a kernel moves, by counting: softcuda's counters over one call, held against what the operation must at least
//! move and compute ([`Op::bytes`](crate::kernels::Op::bytes), [`Op::flops`](crate::kernels::Op::flops)).
//!
//! The counts are exact and the same on every machine; DRAM is a model (see [`HEAD`]). Counters are written when the
//! process ends, so whoever counts runs the call in a process of its own and reads the file then.

mod shapes;
mod step;

use std::path::Path;

pub use shapes::{Ask, Extent, asks};
pub use step::{DecodeStep, STEP};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    cases::Cases,
    loaded::{Loaded, bind},
};
use crate::{
    device::Device,
    error::{Error, Result},
    kernels::{self, Queue, Slot},
};

/// Bytes of a sector, the unit in which caches and DRAM move data.
const SECTOR: u64 = 32;

/// What the table's columns are, for its head.
pub const HEAD: &str = "\
Every figure is *modelled*: counted by [softcuda](../../softcuda/README.md) while it ran the kernels' PTX for compute_80 \
on a CPU. None is a measurement and none is a time. The same run gives the same numbers on every machine; `cargo xtask \
counts` is that run and writes this page. `cargo test --test cuda counts` holds the bounds at smaller shapes.

- **least**: bytes that any kernel of the operation must read and write, each once (`Op::bytes` of its contract).
- **moved**: bytes between DRAM and the L2: sectors of 32 bytes that are read and are not in the L2, and sectors written, \
those still in the L2 at the end included. The L2 is a model: 40 MiB, 16 ways, least recently used, empty when a launch \
begins, blocks one after the other. So whatever a launch leaves for the next one (partial sums, say) counts twice, \
rereading within a launch counts only where it exceeds the L2, and a sector counts whole however little of it is used.
- **moved / least**: what the bound on bytes is about.
- **requested / least**: sectors that warps ask of the L2, over the least. There is no model of the L1. Above 1 where blocks \
share data, as tiles of a matrix product must.
- **loads, stores**: sector efficiency: of the bytes in the sectors that a warp instruction touches, the share that some lane \
asked for. A value that all lanes read counts once.
- **wavefronts**: passes over the banks of shared memory beyond those that the same accesses need without conflicts.
- **tensor / op**: operations of the tensor cores over those of the operation.

Shapes are those of Qwen3-0.6B in bf16, blocks of 256 tokens. Rows without bounds are there to know. `gqa_packed` with 16 \
query heads to a key head shows a whole tile; it moves more than the least because each 512 keys of one head leave 16 \
partial sums in f32. Hopper's own kernels (wgmma) do not run on softcuda and are not counted.
";

/// Bounds on the figures of a [`Count`]; `None`: none is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// On [`Count::moved`], at most.
    pub moved: Option<f64>,
    /// On [`Count::loads`] and [`Count::stores`], at least.
    pub sectors: Option<f64>,
    /// On [`Count::wavefronts`], at most.
    pub wavefronts: Option<f64>,
    /// On [`Count::tensor`], at most.
    pub tensor: Option<f64>,
}

/// What the operation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Least {
    /// Bytes to read and write.
    pub bytes: u64,
    /// Floating-point operations.
    pub flops: u64,
}

/// softcuda's counters, as far as they are used here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "softcuda/src/count.rs documents them")]
pub struct Counters {
    #[serde(rename = "smsp__inst_executed.sum")]
    pub instructions: u64,
    /// Older lists lack it.
    #[serde(rename = "smsp__thread_inst_executed.sum", default)]
    pub thread_instructions: u64,
    pub global_load_distinct_bytes: u64,
    #[serde(rename = "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum")]
    pub global_load_sectors: u64,
    pub global_store_distinct_bytes: u64,
    #[serde(rename = "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum")]
    pub global_store_sectors: u64,
    #[serde(rename = "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum")]
    pub shared_wavefronts: u64,
    #[serde(rename = "smsp__sass_l1tex_data_pipe_lsu_wavefronts_mem_shared_ideal.sum")]
    pub shared_wavefronts_ideal: u64,
    pub tensor_flops: u64,
    pub distinct_read_bytes: u64,
    pub distinct_written_bytes: u64,
    #[serde(rename = "lts__t_sectors.sum")]
    pub l2_sectors: u64,
    #[serde(rename = "dram__bytes_read.sum")]
    pub dram_read_bytes: u64,
    #[serde(rename = "dram__bytes_write.sum")]
    pub dram_write_bytes: u64,
}

impl Counters {
    fn add(&mut self, o: &Self) {
        let pairs = [
            (&mut self.instructions, o.instructions),
            (&mut self.thread_instructions, o.thread_instructions),
            (&mut self.global_load_distinct_bytes, o.global_load_distinct_bytes),
            (&mut self.global_load_sectors, o.global_load_sectors),
            (&mut self.global_store_distinct_bytes, o.global_store_distinct_bytes),
            (&mut self.global_store_sectors, o.global_store_sectors),
            (&mut self.shared_wavefronts, o.shared_wavefronts),
            (&mut self.shared_wavefronts_ideal, o.shared_wavefronts_ideal),
            (&mut self.tensor_flops, o.tensor_flops),
            (&mut self.distinct_read_bytes, o.distinct_read_bytes),
            (&mut self.distinct_written_bytes, o.distinct_written_bytes),
            (&mut self.l2_sectors, o.l2_sectors),
            (&mut self.dram_read_bytes, o.dram_read_bytes),
            (&mut self.dram_write_bytes, o.dram_write_bytes),
        ];
        pairs.into_iter().for_each(|(to, n)| *to += n);
    }

    /// Bytes between DRAM and the L2.
    pub fn dram_bytes(&self) -> u64 {
        self.dram_read_bytes + self.dram_write_bytes
    }
}

/// The launches of one `__global__`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// How often it ran.
    pub launches: u64,
    /// All of its launches together.
    pub counters: Counters,
}

/// The counters that a process left in `file` (`SOFTCUDA_PROFILE`), by function, in the order of their first launches.
///
/// # Errors
/// [`Error::Io`] if there is no such file; [`Error::Config`] if softcuda did not write it.
pub fn read(file: &Path) -> Result<Vec<Function>> {
    #[derive(Deserialize)]
    struct Launch {
        kernel: String,
        counters: Counters,
    }
    #[derive(Deserialize)]
    struct Profile {
        launches: Vec<Launch>,
    }
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(file, e))?;
    let profile: Profile = serde_json::from_str(&text).map_err(|e| {
        Error::config("SOFTCUDA_PROFILE", file.display(), format!("softcuda's counters: {e}"))
    })?;
    let mut functions: Vec<Function> = Vec::new();
    for Launch { kernel, counters } in profile.launches {
        let at = functions.iter().position(|f| f.name == kernel).unwrap_or_else(|| {
            functions.push(Function { name: kernel, launches: 0, counters: Counters::default() });
            functions.len() - 1
        });
        functions[at].launches += 1;
        functions[at].counters.add(&counters);
    }
    Ok(functions)
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// Operation and kernel, as `lathe check` takes them.
    pub kernel: String,
    /// The shape, to read.
    pub shape: String,
    /// The shape, as `lathe count --case` and `lathe check --case` take it.
    pub case: Value,
    /// What is asked for.
    pub least: Least,
    /// What must hold.
    pub bounds: Bounds,
    /// What was counted.
    pub functions: Vec<Function>,
}

impl Count {
    /// All launches together.
    pub fn total(&self) -> Counters {
        let mut total = Counters::default();
        self.functions.iter().for_each(|f| total.add(&f.counters));
        total
    }

    /// Bytes between DRAM and the L2 over the least.
    pub fn moved(&self) -> f64 {
        ratio(self.total().dram_bytes(), self.least.bytes)
    }

    /// Bytes of the sectors asked of the L2 over the least.
    pub fn requested(&self) -> f64 {
        ratio(self.total().l2_sectors * SECTOR, self.least.bytes)
    }

    /// Share of the loaded sectors' bytes that lanes asked for.
    pub fn loads(&self) -> f64 {
        let t = self.total();
        ratio(t.global_load_distinct_bytes, t.global_load_sectors * SECTOR)
    }

    /// Share of the stored sectors' bytes that lanes wrote.
    pub fn stores(&self) -> f64 {
        let t = self.total();
        ratio(t.global_store_distinct_bytes, t.global_store_sectors * SECTOR)
    }

    /// Shared-memory wavefronts beyond the least, as a share of these; `None` without shared memory.
    pub fn wavefronts(&self) -> Option<f64> {
        let t = self.total();
        (t.shared_wavefronts_ideal > 0).then(|| ratio(t.shared_wavefronts, t.shared_wavefronts_ideal) - 1.0)
    }

    /// Lanes that take part in an instruction, of 32.
    pub fn active_lanes(&self) -> f64 {
        let t = self.total();
        ratio(t.thread_instructions, t.instructions)
    }

    /// How often any `__global__` was launched.
    pub fn launches(&self) -> u64 {
        self.functions.iter().map(|f| f.launches).sum()
    }

    /// Operations of the tensor cores over the operation's; `None` without either.
    pub fn tensor(&self) -> Option<f64> {
        let t = self.total();
        (t.tensor_flops > 0 && self.least.flops > 0).then(|| ratio(t.tensor_flops, self.least.flops))
    }

    /// The bounds that do not hold, each with its figure. A bound on something that was not counted does not hold.
    pub fn missed(&self) -> Vec<String> {
        let at_most = |what: &str, figure: Option<f64>, bound: Option<f64>| {
            let bound = bound?;
            match figure {
                Some(figure) if figure <= bound => None,
                Some(figure) => Some(format!("{what} {figure:.3}, at most {bound}")),
                None => Some(format!("{what}: none, at most {bound}")),
            }
        };
        let at_least = |what: &str, figure: f64, bound: Option<f64>| {
            bound
                .filter(|&b| figure.is_nan() || figure < b)
                .map(|b| format!("{what} {figure:.3}, at least {b}"))
        };
        let b = &self.bounds;
        [
            at_most("moved / least", Some(self.moved()), b.moved),
            at_least("loads", self.loads(), b.sectors),
            at_least("stores", self.stores(), b.sectors),
            at_most("wavefronts", self.wavefronts(), b.wavefronts),
            at_most("tensor / op", self.tensor(), b.tensor),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

/// Runs `kernel` once on `case`, as `--case` gives it: rows follow each other, as in a decoder's own buffers.
///
/// # Errors
/// [`Error::Config`] for what is no case of the operation, and what the kernel reports.
pub fn call<O: Cases, D: Device>(dev: &D, kernel: &Slot<O, D>, case: &str) -> Result<Least> {
    let wrong = |want: String| Error::config("--case", case, want);
    let case: O::Case =
        serde_json::from_str(case).map_err(|e| wrong(format!("a case of {}: {e}", O::NAME)))?;
    if !O::fits(&case) {
        return Err(wrong(format!("a case of {}: extents that go together", O::NAME)));
    }
    let mut problem = O::problem(&case);
    problem.tensors.iter_mut().for_each(|t| t.margin = 0);
    let mut loaded = Loaded::all(dev, &problem)?;
    let args = O::args(&case, bind(&mut loaded));
    let least = Least { bytes: O::bytes(&args), flops: O::flops(&args) };
    let mut queue = Queue::new(dev)?;
    kernels::run(&**kernel, &mut queue, args)?;
    dev.synchronize()?;
    Ok(least)
}

/// The table in Markdown.
pub fn markdown(counts: &[Count]) -> String {
    let mut out = String::from(
        "| kernel | shape | least, bytes | moved / least | requested / least | loads | stores | wavefronts | \
         tensor / op | bounds | |\n|---|---|--:|--:|--:|--:|--:|--:|--:|---|---|\n",
    );
    for c in counts {
        let percent = |x: f64| if x.is_nan() { "-".into() } else { format!("{:.1}%", x * 100.0) };
        let missed = c.missed();
        let cells = [
            c.kernel.clone(),
            c.shape.clone(),
            grouped(c.least.bytes),
            format!("{:.3}", c.moved()),
            format!("{:.2}", c.requested()),
            percent(c.loads()),
            percent(c.stores()),
            c.wavefronts().map_or("-".into(), |w| format!("+{}", percent(w))),
            c.tensor().map_or("-".into(), |t| format!("{t:.2}")),
            c.bounds.to_string(),
            match (c.bounds == Bounds::default(), missed.is_empty()) {
                (true, _) => String::new(),
                (false, true) => "met".into(),
                (false, false) => format!("**missed**: {}", missed.join("; ")),
            },
        ];
        out += &format!("| {} |\n", cells.join(" | "));
    }
    out
}

/// Which functions moved how much, in Markdown.
pub fn markdown_by_function(count: &Count) -> String {
    let total = count.total().dram_bytes();
    let mut out = String::from("| function | launches | moved, bytes | share |\n|---|--:|--:|--:|\n");
    for f in &count.functions {
        let bytes = f.counters.dram_bytes();
        let share = ratio(bytes, total) * 100.0;
        out += &format!("| {} | {} | {} | {share:.2}% |\n", f.name, f.launches, grouped(bytes));
    }
    out
}

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            self.moved.map(|b| format!("moved ≤ {b}")),
            self.sectors.map(|b| format!("sectors ≥ {}%", b * 100.0)),
            self.wavefronts.map(|b| format!("wavefronts ≤ +{}%", b * 100.0)),
            self.tensor.map(|b| format!("tensor ≤ {b}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "-" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// `1234567` as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(bounds: Bounds) -> Count {
        let counters = Counters {
            global_load_distinct_bytes: 950,
            global_load_sectors: 31,
            global_store_distinct_bytes: 320,
            global_store_sectors: 10,
            shared_wavefronts: 103,
            shared_wavefronts_ideal: 100,
            tensor_flops: 4096,
            l2_sectors: 41,
            dram_read_bytes: 992,
            dram_write_bytes: 320,
            ..Counters::default()
        };
        let half = Function { name: "f".into(), launches: 1, counters };
        let least = Least { bytes: 2 * 1250, flops: 8192 };
        let functions = vec![half.clone(), Function { name: "g".into(), ..half }];
        Count { kernel: "op/k".into(), shape: "s".into(), case: Value::Null, least, bounds, functions }
    }

    #[test]
    fn figures_and_bounds_by_hand() {
        let bounds =
            Bounds { moved: Some(1.05), sectors: Some(0.95), wavefronts: Some(0.031), tensor: Some(1.0) };
        let c = count(bounds);
        assert_eq!((c.moved(), c.requested()), (1312.0 / 1250.0, 41.0 * 32.0 / 1250.0));
        assert_eq!((c.loads(), c.stores()), (950.0 / 992.0, 1.0));
        assert_eq!(c.tensor(), Some(1.0));
        assert!((c.wavefronts().unwrap() - 0.03).abs() < 1e-12);
        assert_eq!(c.missed(), Vec::<String>::new());
        let tight =
            Bounds { moved: Some(1.04), sectors: Some(0.96), wavefronts: Some(0.02), tensor: Some(0.9) };
        let missed = count(tight).missed();
        let want = [
            "moved / least 1.050, at most 1.04",
            "loads 0.958, at least 0.96",
            "wavefronts 0.030, at most 0.02",
            "tensor / op 1.000, at most 0.9",
        ];
        assert_eq!(missed, want);
    }

    #[test]
    fn what_was_not_counted_meets_no_bound() {
        let bounds = Bounds { sectors: Some(0.95), wavefronts: Some(0.02), ..Bounds::default() };
        let c = Count { functions: Vec::new(), ..count(bounds) };
        assert_eq!(c.missed().len(), 3, "{:?}", c.missed());
    }

    #[test]
    fn digits_in_groups() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
