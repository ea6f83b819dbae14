//! An attention kernel from outside the crate: scores first, then softmax and values, one head at a time.

use std::{sync::Arc, time::Instant};

use half::bf16;
use lathe::{
    config::{EngineConfig, SamplingParams},
    device::{Cpu, CpuBuffer, DType},
    engine::policies,
    kernels::{Attention, AttentionArgs, AttentionSpec, Kernel, Registry, Slot, Unsupported},
    lab::check::{Options, Suite, check},
    llm::{LLM, Output, Prompt},
    open,
};

/// The textbook form, as a readable baseline: all scores of a query, their maximum, the weighted sum of values.
struct TwoPass;

impl Kernel<Attention, Cpu> for TwoPass {
    fn name(&self) -> &'static str {
        "two_pass"
    }

    fn about(&self) -> &'static str {
        "all scores of a query, then softmax and values; readable"
    }

    fn supports(&self, spec: &AttentionSpec) -> Result<(), Unsupported> {
        if spec.dtype != DType::Bf16 || spec.softcap {
            return Err(Unsupported(format!(
                "{} with softcap {}: only bf16 without",
                spec.dtype, spec.softcap
            )));
        }
        Ok(())
    }

    /// A sum for each element of a head, then a score for each key.
    fn scratch(&self, args: &AttentionArgs<'_, Cpu>) -> usize {
        4 * (args.q.shape()[2] + args.lens.iter().map(|l| l.kv).max().unwrap_or(0))
    }

    fn launch(&self, _: &Cpu, mut a: AttentionArgs<'_, Cpu>, scratch: &mut CpuBuffer) -> lathe::Result<()> {
        let (&[_, heads, dim], &[_, block_size, kv_heads, _]) = (a.q.shape(), a.k_cache.shape()) else {
            unreachable!("checked")
        };
        let (acc, scores) = bytemuck::cast_slice_mut::<u8, f32>(scratch.bytes_mut()).split_at_mut(dim);
        let (k_cache, v_cache, table) = (a.k_cache.slice::<bf16>(), a.v_cache.slice::<bf16>(), a.block_table);
        let at = |seq: usize, position: usize, head: usize| {
            let block = table.row::<i32>(seq)[position / block_size] as usize;
            let start = ((block * block_size + position % block_size) * kv_heads + head) * dim;
            start..start + dim
        };
        let out = a.out.slice_mut::<bf16>();
        let mut token = 0;
        for (seq, len) in a.lens.iter().enumerate() {
            for end in len.kv - len.q + 1..=len.kv {
                let start = a.window.map_or(0, |w| end.saturating_sub(w));
                for head in 0..heads {
                    let kv_head = head / (heads / kv_heads);
                    let q = &a.q.row::<bf16>(token)[head * dim..(head + 1) * dim];
                    let scores = &mut scores[..end - start];
                    for (score, position) in scores.iter_mut().zip(start..) {
                        let k = &k_cache[at(seq, position, kv_head)];
                        *score = a.scale * q.iter().zip(k).map(|(q, k)| q.to_f32() * k.to_f32()).sum::<f32>();
                    }
                    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    scores.iter_mut().for_each(|s| *s = (*s - max).exp());
                    let sum: f32 = scores.iter().sum();
                    acc.fill(0.0);
                    for (&weight, position) in scores.iter().zip(start..) {
                        let v = &v_cache[at(seq, position, kv_head)];
                        acc.iter_mut().zip(v).for_each(|(acc, v)| *acc += weight / sum * v.to_f32());
                    }
                    let out = &mut out[(token * heads + head) * dim..][..dim];
                    out.iter_mut().zip(&*acc).for_each(|(out, &acc)| *out = bf16::from_f32(acc));
                }
                token += 1;
            }
        }
        Ok(())
    }
}

/// 64 greedy tokens after an opening, and the seconds they took, with `kernel` in both attention slots.
fn story(kernel: Option<&str>) -> anyhow::Result<(Output, f64)> {
    let mut config = EngineConfig { max_model_len: 512, ..EngineConfig::default() };
    config.kernels.extend(kernel.map(|name| ("attention".to_string(), name.to_string())));
    let mut registry = Registry::cpu();
    registry.attention.push(Arc::new(TwoPass));
    let files = open::files(&config)?;
    let runner = open::runner_on(&Cpu::new(config.threads), &registry, &config, &files)?;
    let mut llm = LLM::with_runner(config, files, runner, policies::by_name("chunked")?)?;
    let start = Instant::now();
    let params = SamplingParams { max_tokens: 64, ..SamplingParams::greedy() };
    let output = llm.generate(&[Prompt::from("Once upon a time")], &[params], false)?.remove(0);
    Ok((output, start.elapsed().as_secs_f64()))
}

fn main() -> anyhow::Result<()> {
    let (options, kernel): (_, Slot<Attention, Cpu>) = (Options::default(), Arc::new(TwoPass));
    let report = check(&Cpu::new(None), &kernel, &Suite::new(&options), &options);
    println!("{report}");
    anyhow::ensure!(report.verdict.is_fine(), "two_pass is {}", report.verdict);
    let (ours, ours_seconds) = story(Some("two_pass"))?;
    let (default, default_seconds) = story(None)?;
    let same = ours.token_ids.iter().zip(&default.token_ids).take_while(|(a, b)| a == b).count();
    println!("two_pass: {}\n\nthe default: {}\n", ours.text, default.text);
    println!("{same} of {} tokens equal before the first difference", default.token_ids.len());
    println!("time, two_pass / default: {:.2}", ours_seconds / default_seconds);
    Ok(())
}
