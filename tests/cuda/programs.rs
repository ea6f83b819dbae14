//! The programs that stand for all: every kernel file, every constant with every kind of value.

use lathe::device::cuda::Program;

/// The storage types as `DTYPE` has them.
const F32: usize = 0;
const F16: usize = 1;
const BF16: usize = 2;

fn of(file: &'static str, dtype: usize) -> Program {
    Program::new(file).with("DTYPE", dtype)
}

fn attention(dtype: usize, dim: usize, group: usize, block: usize, window: usize, softcap: usize) -> Program {
    let program = of("attention.cu", dtype).with("HEAD_DIM", dim).with("GROUP", group);
    program.with("BLOCK_SIZE", block).with("WINDOW", window).with("SOFTCAP", softcap)
}

fn sample(vocab: usize, random: usize, truncated: usize) -> Program {
    Program::new("sample.cu").with("VOCAB", vocab).with("RANDOM", random).with("TRUNCATED", truncated)
}

/// With the shapes of Qwen3-0.6B; where they differ in kind, of other models.
pub fn all() -> Vec<Program> {
    let mut programs = Vec::new();
    for (dtype, vector) in [(BF16, 1), (F16, 1), (F32, 1), (BF16, 0)] {
        programs.extend([
            of("embedding.cu", dtype).with("DIM", 1024).with("VECTOR", vector),
            of("rms_norm.cu", dtype).with("DIM", 1024).with("VECTOR", vector),
            of("kv_store.cu", dtype).with("ROW", 1024).with("VECTOR", vector),
            of("activation.cu", dtype).with("INTER", 3072).with("GATE", 0).with("VECTOR", vector),
        ]);
    }
    for gate in [1, 2] {
        programs.push(of("activation.cu", BF16).with("INTER", 3072).with("GATE", gate).with("VECTOR", 1));
    }
    for (dtype, norm) in [(BF16, 1), (BF16, 0), (F16, 1), (F32, 1)] {
        programs.push(of("rope.cu", dtype).with("HEAD_DIM", 128).with("QK_NORM", norm));
    }
    programs.push(of("linear.cu", F32).with("OUT_F32", 0));
    for (dtype, out_f32) in [(BF16, 0), (BF16, 1), (F16, 0)] {
        programs.push(of("linear.cu", dtype).with("OUT_F32", out_f32));
        programs.push(of("linear_hopper.cu", dtype).with("OUT_F32", out_f32));
    }
    programs.extend([
        attention(BF16, 128, 2, 256, 0, 0),
        attention(BF16, 128, 8, 16, 0, 0),
        attention(BF16, 64, 3, 256, 0, 0),
        attention(BF16, 80, 1, 16, 0, 0),
        attention(BF16, 96, 16, 48, 1, 0),
        attention(BF16, 256, 4, 256, 1, 0),
        attention(BF16, 256, 2, 256, 0, 1),
        attention(BF16, 256, 16, 16, 1, 1),
        attention(F16, 128, 5, 256, 1, 1),
        attention(F32, 128, 2, 256, 0, 0),
    ]);
    // Rows of 151,936 logits lie at multiples of 16 bytes, those of 50,257 do not.
    for vocab in [151_936, 50_257] {
        programs.push(Program::new("logits.cu").with("VOCAB", vocab));
        programs.push(Program::new("logprobs.cu").with("VOCAB", vocab));
        programs.extend([(0, 0), (1, 0), (1, 1)].map(|(random, truncated)| sample(vocab, random, truncated)));
    }
    programs
}
