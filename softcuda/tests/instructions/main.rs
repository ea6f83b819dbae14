//! Every form of every instruction against an independent model, and the inventory: no kernel of this project uses a
//! form that has no test here.
//!
//! - [`forms`]: arithmetic, one lane at a time, with its models
//! - [`lanes`]: runs those on all combinations of edge values and on random bits
//! - [`moves`], [`memory`], [`atomic`], [`exchange`], [`matrix`], [`control`]: the rest, from the ISA's description
//! - [`inventory`]: which forms kernels use, and which of them are untested

#[path = "../gpu/mod.rs"]
mod gpu;
#[path = "../common/nvrtc.rs"]
mod nvrtc;

mod atomic;
mod control;
mod exchange;
mod forms;
mod inventory;
mod lanes;
mod matrix;
mod memory;
mod moves;

use gpu::Gpu;

/// A form of an instruction and the test that it passes, which panics where the form is wrong.
pub struct Case {
    /// As [`inventory::name`] names it.
    pub form: String,
    test: Box<dyn Fn(&str)>,
}

impl Case {
    /// `test` is called with the opcode, without what the name says of operands in parentheses.
    pub fn new(form: impl Into<String>, test: impl Fn(&str) + 'static) -> Self {
        Self { form: form.into(), test: Box::new(test) }
    }
}

/// Runs the test of every form, one after the other.
fn run(cases: Vec<Case>) {
    assert!(!cases.is_empty());
    for case in cases {
        (case.test)(case.form.split(' ').next().unwrap_or_default());
    }
}

/// Runs `body` with one warp. It finds its lane in %r0, input and output in %d0 and %d1, 2 KiB of shared memory named s,
/// and has %r1…, %d2…, %h, %p to use; lane values of 64 bits come from `input`, `words` results of 32 bits a lane go to
/// `[%d1 + 4 words lane]`.
fn warp(body: &str, input: &[u64], words: usize) -> Vec<u32> {
    block(32, "", body, input, words)
}

/// As [`warp`] with so many threads, and with functions or variables of the module before the kernel.
fn block(threads: u32, module: &str, body: &str, input: &[u64], words: usize) -> Vec<u32> {
    let ptx = format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n.shared .align 16 .b8 s[2048];\n{module}
.visible .entry k(.param .u64 in, .param .u64 out) {{
.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .b64 %d<20>;
ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out]; mov.u32 %r0, %tid.x;
mad.wide.u32 %d1, %r0, {}, %d1;\n{body}\nret;\n}}\n",
        4 * words
    );
    let mut gpu = Gpu::new(&ptx);
    let outputs = threads as usize * words;
    let (from, to) = (gpu.put(input), gpu.put(&vec![0u32; outputs]));
    gpu.run("k", 1, threads, &[from, to]).unwrap();
    gpu.get(to, outputs)
}
