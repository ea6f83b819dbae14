//! The engine's own time: schedule plus postprocess a step, prefix hashing, the block pool, the tokenizer; and, on one
//! thread with the shipped model, the sampler and whole steps.
//!
//! `cargo bench --bench engine`. Times are CPU times of the one thread that works, so that a busy machine does not
//! count its other work.

use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lathe::Result;
use lathe::config::{EngineConfig, SamplingParams};
use lathe::device::{Cpu, CpuBuffer, Tensor};
use lathe::engine::block_manager::xxh3;
use lathe::engine::{
    Batch, BlockManager, Engine, Executor, RequestOptions, Sampled, SeqId, Sequence, StepResult, Vocabulary,
    policies,
};
use lathe::kernels::{self, Kernel, Op, Queue, Registry, SampleArgs, SampleSpec, Table, Unsupported};
use lathe::model::Detokenizer;
use lathe::open;

/// This thread's CPU time.
struct CpuTime;

fn cpu_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec to write to.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    assert_eq!(failed, 0, "the system has a clock for threads");
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, start: Duration) -> Duration {
        cpu_time() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Takes no time and samples the same token for ever.
struct Null;

impl Executor for Null {
    fn execute(&mut self, batch: &Batch<'_>, out: &mut StepResult) -> Result<()> {
        let samples = batch.items.iter().filter(|item| item.sample).count();
        out.sampled.resize(samples, Sampled::Token(7));
        Ok(())
    }
}

/// Does nothing: what is left of a step is the host's work.
struct Nothing;

impl<O: Op> Kernel<O, Cpu> for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn about(&self) -> &'static str {
        "leaves its outputs as they are"
    }

    fn supports(&self, _: &O::Spec) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, _: &Cpu, _: O::Args<'_, Cpu>, _: &mut CpuBuffer) -> Result<()> {
        Ok(())
    }
}

fn nothing<O: Op>() -> Table<O, Cpu> {
    vec![Arc::new(Nothing)]
}

/// The real model runner, on the shipped model (four layers), with kernels that do nothing: it prepares every input,
/// checks every launch and reads the sampled tokens, which are zero.
fn prepare(config: &EngineConfig) -> Box<dyn Executor> {
    let registry = Registry {
        embedding: nothing(),
        linear: nothing(),
        rms_norm: nothing(),
        add_rms_norm: nothing(),
        rope: nothing(),
        kv_store: nothing(),
        rope_store: nothing(),
        attention: nothing(),
        activation: nothing(),
        logits: nothing(),
        sample: nothing(),
        logprobs: nothing(),
    };
    let files = open::files(config).unwrap();
    open::runner_on(&Cpu::new(Some(1)), &registry, config, &files).unwrap()
}

/// Steps in which every sequence decodes.
const DECODES: usize = 600;

fn prompt(number: usize) -> Vec<u32> {
    // Lengths spread over 100..1024, as in nano-vLLM's workload; no shared prefix.
    let len = 100 + number * 379 % 925;
    (0..len).map(|i| (number * 31 + i * 7) as u32 % 2560).collect()
}

/// An engine with this many sequences, all of them past their prompts.
fn decoding(seqs: usize, waiting: usize, policy: &str, inputs: bool) -> Engine {
    let config = EngineConfig {
        max_num_seqs: seqs,
        max_model_len: 2048,
        num_kvcache_blocks: Some(seqs * 8),
        ..EngineConfig::default()
    };
    let vocabulary = Vocabulary { size: 2560, eos_token_ids: vec![1, 2] };
    let executor = if inputs { prepare(&config) } else { Box::new(Null) as Box<dyn Executor> };
    let mut engine = Engine::new(&config, vocabulary, policies::by_name(policy).unwrap(), executor).unwrap();
    let params = Arc::new(SamplingParams { max_tokens: 1024, ..SamplingParams::default() });
    for number in 0..seqs + waiting {
        engine.add_request(&prompt(number), params.clone(), RequestOptions::default()).unwrap();
    }
    while engine.step().unwrap().len() < seqs {}
    engine
}

fn steps(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("step");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4)).sample_size(20);
    for (policy, seqs, waiting, inputs) in [
        ("chunked", 256, 0, false),
        ("chunked", 256, 0, true),
        ("chunked", 1024, 0, false),
        ("chunked", 1024, 0, true),
        ("chunked", 8192, 0, false),
        ("chunked", 8192, 0, true),
        ("fcfs", 1024, 0, false),
        ("chunked", 1024, 50_000, false),
    ] {
        let with = if inputs { "/with input preparation" } else { "" };
        group.bench_function(format!("{policy}/{seqs} running/{waiting} waiting{with}"), |b| {
            b.iter_custom(|iters| {
                let (mut left, mut time) = (iters as usize, Duration::ZERO);
                while left > 0 {
                    let mut engine = decoding(seqs, waiting, policy, inputs);
                    let count = left.min(DECODES);
                    let start = cpu_time();
                    for _ in 0..count {
                        assert_eq!(engine.step().unwrap().len(), seqs);
                    }
                    time += cpu_time() - start;
                    left -= count;
                }
                time
            });
        });
    }
}

fn hashing(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("prefix hashing");
    let tokens = prompt(1000).repeat(64)[..32_768].to_vec();
    group.throughput(Throughput::Elements(tokens.len() as u64));
    for block_size in [16, 256] {
        group.bench_function(format!("block size {block_size}"), |b| {
            b.iter(|| tokens.chunks_exact(block_size).fold(0, xxh3));
        });
    }
}

fn blocks(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("blocks");
    const BLOCKS: usize = 4096;
    group.throughput(Throughput::Elements(BLOCKS as u64));
    let params = Arc::new(SamplingParams::default());
    let seq = |len| {
        let prompt: Vec<u32> = (0..len as u32).collect();
        Sequence::new(SeqId::new(0, 0), &prompt, params.clone(), RequestOptions::default())
    };
    group.bench_function("allocate and free", |b| {
        let (mut pool, mut seq) = (BlockManager::new(BLOCKS, 16, None), seq(1));
        b.iter(|| {
            pool.grow(&mut seq, BLOCKS * 16);
            pool.release(&mut seq);
        });
    });
    group.bench_function("allocate, cache, free and evict", |b| {
        let (mut pool, mut seq) = (BlockManager::new(BLOCKS, 16, Some(xxh3)), seq(BLOCKS * 16));
        pool.extend_hashes(&mut seq);
        b.iter(|| {
            pool.grow(&mut seq, BLOCKS * 16);
            seq.computed = BLOCKS * 16;
            pool.register(&mut seq, BLOCKS * 16);
            pool.release(&mut seq);
        });
    });
    group.bench_function("hit, revive and free", |b| {
        let (mut pool, mut seq) = (BlockManager::new(BLOCKS, 16, Some(xxh3)), seq(BLOCKS * 16));
        pool.extend_hashes(&mut seq);
        pool.grow(&mut seq, BLOCKS * 16);
        seq.computed = BLOCKS * 16;
        pool.register(&mut seq, BLOCKS * 16);
        pool.release(&mut seq);
        b.iter(|| {
            pool.take_hits(&mut seq);
            assert_eq!(seq.block_table.len(), BLOCKS - 1);
            pool.release(&mut seq);
        });
    });
}

fn tokenizer(c: &mut Criterion<CpuTime>) {
    let files = open::files(&EngineConfig::default()).unwrap();
    let tokenizer = files.tokenizer().unwrap();
    let text = "Once upon a time, a little fox lived by the river. She had a boat and a red hat. ".repeat(50);
    let ids = tokenizer.encode(&text, false).unwrap();
    let mut group = c.benchmark_group("tokenizer");
    group.throughput(Throughput::Elements(ids.len() as u64));
    group.bench_function("encode", |b| b.iter(|| tokenizer.encode(&text, false).unwrap()));
    group.bench_function("decode", |b| b.iter(|| tokenizer.decode(&ids).unwrap()));
    group.bench_function("decode token by token", |b| {
        b.iter(|| {
            let mut detokenizer = Detokenizer::new(tokenizer.clone(), &[]).unwrap();
            ids.iter().map(|&id| detokenizer.push(id).unwrap().len()).sum::<usize>()
        });
    });
}

/// The default sampler on rows of the shipped model's vocabulary.
fn sampler(c: &mut Criterion<CpuTime>) {
    const VOCAB: usize = 2560;
    let dev = Cpu::new(Some(1));
    let kernel = Registry::cpu().sample.remove(0);
    let mut queue = Queue::new(&dev).unwrap();
    let mut group = c.benchmark_group("sampler");
    for rows in [256, 1024, 8192] {
        group.throughput(Throughput::Elements(rows as u64));
        let values: Vec<f32> = (0..rows * VOCAB).map(|i| (i * 7919 % 10_007) as f32 / 800.0).collect();
        let logits = Tensor::from_slice(&dev, &values, &[rows, VOCAB]).unwrap();
        let mut out = Tensor::from_slice(&dev, &vec![0; rows], &[rows]).unwrap();
        for (what, greedy, top_k, tail) in
            [("greedy", 1, 0, 0.0f32), ("plain", 0, 0, 0.0), ("top-k 50, top-p 0.9", 0, 50, 0.1)]
        {
            let temperature = Tensor::from_slice(&dev, &vec![0.6f32; rows], &[rows]).unwrap();
            let tails = Tensor::from_slice(&dev, &vec![tail; rows], &[rows]).unwrap();
            let params: Vec<i32> = (0..rows as i32).flat_map(|row| [greedy, top_k, row, 0, 9]).collect();
            let params = Tensor::from_slice(&dev, &params, &[rows, 5]).unwrap();
            group.bench_function(format!("{what}/{rows} rows"), |b| {
                b.iter(|| {
                    let args = SampleArgs {
                        logits: logits.view(),
                        temperature: temperature.view(),
                        top_p_tail: tails.view(),
                        params: params.view(),
                        spec: SampleSpec { random: greedy == 0, truncated: top_k > 0 },
                        out: out.view_mut(),
                    };
                    kernels::run(&*kernel, &mut queue, args).unwrap();
                });
            });
        }
    }
}

/// Everything that a step does, the model included, when all sequences decode.
fn whole_steps(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("whole step");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2)).sample_size(10);
    for seqs in [256, 1024, 8192] {
        let config = EngineConfig {
            max_num_seqs: seqs,
            max_model_len: 512,
            kvcache_block_size: 64,
            num_kvcache_blocks: Some(seqs * 8),
            ..EngineConfig::default()
        };
        let files = open::files(&config).unwrap();
        let executor = open::runner_on(&Cpu::new(Some(1)), &Registry::cpu(), &config, &files).unwrap();
        let vocabulary = Vocabulary { size: 2560, eos_token_ids: Vec::new() };
        let policy = policies::by_name("chunked").unwrap();
        let mut engine = Engine::new(&config, vocabulary, policy, executor).unwrap();
        let params = Arc::new(SamplingParams { max_tokens: 496, ..SamplingParams::default() });
        for number in 0..seqs {
            let prompt: Vec<u32> = prompt(number)[..16].to_vec();
            engine.add_request(&prompt, params.clone(), RequestOptions::default()).unwrap();
        }
        while engine.step().unwrap().len() < seqs {}
        group.throughput(Throughput::Elements(seqs as u64));
        group.bench_function(format!("{seqs} running"), |b| b.iter(|| engine.step().unwrap().len()));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = steps, hashing, blocks, tokenizer, sampler, whole_steps
}
criterion_main!(benches);
