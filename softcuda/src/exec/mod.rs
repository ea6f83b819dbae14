//! Running a kernel.
//!
//! In reading order: [`code`] is the form that runs, `frame` the registers of a warp, `alu` and `float` the arithmetic,
//! `space` memory, `warp` which lanes run, `machine` the interpreter with `access`, `async_copy`, `matrix`, `exchange`,
//! `barrier` and `special` for what is not arithmetic, `run` the blocks of a launch on the host's cores.

// Lanes are indices into several rows at once, and shifts of products read as the ISA writes them.
#![allow(clippy::needless_range_loop, clippy::precedence)]

mod access;
mod alu;
mod async_copy;
mod atomic;
mod barrier;
pub mod code;
mod exchange;
mod float;
mod frame;
mod level;
mod machine;
mod matrix;
mod mma;
pub(crate) mod observe;
mod run;
mod space;
mod special;
mod warp;

use code::Code;
use level::Level;

use crate::{
    count::Counters,
    fault::{Fault, FaultKind},
    memory::{Memory, View},
    module::{KernelInfo, Module},
};

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
}

/// Which checks run besides the bounds of every access, which are always checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checks {
    /// Reads of memory that nobody wrote. Needs [`Memory::new`] with `track_written`.
    pub init: bool,
    /// Races in shared memory, and in global memory between blocks.
    pub race: bool,
    /// Divergent barriers, and data of `cp.async` used before its wait.
    pub sync: bool,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Nothing.
    #[default]
    Off,
    /// Counters of the launch.
    Kernel,
    /// Also by source line.
    Lines,
}

/// How to run a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The checks.
    pub checks: Checks,
    /// The counters.
    pub profile: Profile,
    /// Bit `n`: memory of device `n` is reachable. The module's own device always is.
    pub peers: u64,
    /// Host threads; none for one a core. Results do not depend on it.
    pub threads: Option<usize>,
    /// Backward branches that the warps of a block may take before the launch is a [`FaultKind::Timeout`].
    pub max_loops: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { checks: Checks::default(), profile: Profile::Off, peers: 0, threads: None, max_loops: 1 << 40 }
    }
}

/// What a launch that ended well has to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The counters, if [`Options::profile`] asks for them.
    pub counters: Option<Counters>,
}

/// Runs a kernel to its end. `params` is the parameter block, laid out as [`crate::module::KernelInfo::params`] says.
///
/// # Errors
/// [`Fault`]: memory is then as the kernel left it.
pub fn launch(
    memory: &mut Memory,
    module: &Module,
    kernel: &str,
    config: LaunchConfig,
    params: &[u8],
    options: &Options,
) -> Result<Report, Box<Fault>> {
    let invalid = |message: String| {
        Box::new(Fault {
            kind: FaultKind::InvalidLaunch,
            message,
            kernel: kernel.to_string(),
            block: [0; 3],
            thread: [0; 3],
            addr: None,
            place: None,
            source: None,
            ptx_line: 0,
        })
    };
    let Some((info, code)) = module.code(kernel) else {
        return Err(invalid("the module has no such kernel".to_string()));
    };
    let threads = config.block.iter().try_fold(1u32, |n, &x| n.checked_mul(x)).unwrap_or(u32::MAX);
    let blocks = config.grid.iter().try_fold(1u64, |n, &x| n.checked_mul(x.into())).unwrap_or(0);
    if !(1..=1024).contains(&threads) || blocks == 0 {
        return Err(invalid(format!("a grid of {:?} blocks of {:?} threads", config.grid, config.block)));
    }
    if params.len() < info.param_bytes as usize {
        return Err(invalid(format!("{} bytes of parameters, expected {}", params.len(), info.param_bytes)));
    }
    let result = {
        let views = space::reachable(memory.views(), module.device(), options.peers);
        let launch = Launch { info, code, config, params, options, views: &views, level: Level::detect() };
        run::all(&launch, blocks, threads)
    };
    match result {
        Ok(counter) => {
            let lines = options.profile == Profile::Lines;
            let file = |n| module.file(n).unwrap_or("?").to_string();
            Ok(Report { counters: counter.map(|c| c.finish(code, lines, file)) })
        }
        Err(failed) => Err(Box::new(failed.dress(memory, module, info, code))),
    }
}

/// Everything that the blocks of a launch share.
struct Launch<'a> {
    info: &'a KernelInfo,
    code: &'a Code,
    config: LaunchConfig,
    params: &'a [u8],
    options: &'a Options,
    views: &'a [View<'a>],
    level: Level,
}
