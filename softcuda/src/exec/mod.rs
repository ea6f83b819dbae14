//! Running a kernel.

use crate::{
    fault::{Fault, FaultKind},
    memory::Memory,
    module::Module,
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
    /// Warp instructions after which the launch is a [`FaultKind::Timeout`].
    pub max_instructions: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checks: Checks::default(),
            profile: Profile::Off,
            peers: 0,
            threads: None,
            max_instructions: 1 << 40,
        }
    }
}

/// What a launch that ended well has to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {}

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
    let _ = (memory, module, config, params, options);
    Err(Box::new(Fault {
        kind: FaultKind::InvalidLaunch,
        message: "running is not built yet".to_string(),
        kernel: kernel.to_string(),
        block: [0; 3],
        thread: [0; 3],
        addr: None,
        place: None,
        source: None,
        ptx_line: 0,
    }))
}
