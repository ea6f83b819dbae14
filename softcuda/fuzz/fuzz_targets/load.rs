//! Any text is a module or an error.
#![no_main]

use softcuda::{memory::Memory, module::Module};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut memory = Memory::new(&[1 << 24], false);
    if let Ok(module) = Module::load(&mut memory, 0, text, 90) {
        module.unload(&mut memory);
    }
    assert_eq!(memory.free_bytes(0), 1 << 24);
});
