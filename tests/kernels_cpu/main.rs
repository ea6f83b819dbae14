//! Every CPU kernel at every instruction set, and what the checks of the lab do not ask: that a result does not
//! depend on what is computed next to it.

mod attention;
mod sampling;

use lathe::{
    device::{Cpu, Simd},
    kernels::{Registry, Table},
    lab::{
        cases::{Cases, Visit, each_op},
        check::{Options, Suite, Verdict, check},
    },
};

/// The device at every instruction set that this machine has, with two threads.
fn devices() -> Vec<Cpu> {
    let cpu = Cpu::new(Some(2));
    [Simd::Portable, Simd::Avx2, Simd::Avx512, Simd::Avx512Bf16]
        .into_iter()
        .filter_map(|s| cpu.with_simd(s).ok())
        .collect()
}

#[test]
fn every_kernel_is_right() {
    struct Passed;
    impl Visit<Cpu> for Passed {
        fn visit<O: Cases>(&mut self, table: &Table<O, Cpu>) {
            let options = Options { cases: 12, seed: 20, ..Options::default() };
            let suite = Suite::<O>::new(&options);
            for dev in devices() {
                for kernel in table {
                    let report = check(&dev, kernel, &suite, &options);
                    assert_eq!(report.verdict, Verdict::Passed, "{}\n{report}", report.device);
                }
            }
        }
    }
    each_op(&Registry::cpu(), &mut Passed);
}
