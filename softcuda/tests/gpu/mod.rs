//! A device with one module, for the tests.
#![allow(dead_code, reason = "each test program uses a part")]

use softcuda::{
    exec::{LaunchConfig, Options, Report, launch},
    fault::Fault,
    memory::Memory,
    module::Module,
};

pub struct Gpu {
    pub memory: Memory,
    pub module: Module,
    pub options: Options,
}

impl Gpu {
    pub fn new(ptx: &str) -> Self {
        let mut memory = Memory::new(&[1 << 30], true);
        let module = Module::load(&mut memory, 0, ptx, 80).unwrap();
        Self { memory, module, options: Options::default() }
    }

    pub fn put<T: Copy>(&mut self, values: &[T]) -> u64 {
        // SAFETY: plain numbers as their bytes.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        let at = self.memory.alloc(0, bytes.len() as u64).unwrap();
        self.memory.write(at, bytes).unwrap();
        at
    }

    pub fn get<T: Copy + Default>(&self, at: u64, n: usize) -> Vec<T> {
        let mut out = vec![T::default(); n];
        // SAFETY: plain numbers as their bytes.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u8>(), n * size_of::<T>()) };
        self.memory.read(at, bytes).unwrap();
        out
    }

    /// Scalar arguments, each cut to its parameter's size.
    pub fn run(&mut self, kernel: &str, grid: u32, block: u32, args: &[u64]) -> Result<Report, Box<Fault>> {
        let info = self.module.kernel(kernel).unwrap();
        let mut params = vec![0; info.param_bytes as usize];
        for (p, arg) in info.params.iter().zip(args) {
            let (at, n) = (p.offset as usize, p.size as usize);
            params[at..at + n].copy_from_slice(&arg.to_le_bytes()[..n]);
        }
        self.run_raw(kernel, grid, block, &params)
    }

    pub fn run_raw(
        &mut self,
        kernel: &str,
        grid: u32,
        block: u32,
        params: &[u8],
    ) -> Result<Report, Box<Fault>> {
        let config = LaunchConfig { grid: [grid, 1, 1], block: [block, 1, 1], dynamic_shared: 0 };
        launch(&mut self.memory, &self.module, kernel, config, params, &self.options)
    }
}
