//! The model runner: one engine step as tensors, through the decoder, the logits and the sampler.
//!
//! [`Executor::execute`] enqueues a step and the copies of what comes of it; [`Executor::collect`] waits for those. A step
//! may be enqueued before the one before it was collected: tokens that only the device knows are copied there from
//! where they were drawn, and order on the device does the rest.

use super::{
    executor::{Batch, Executor, Item, Sampled, StepResult},
    graphs::{Graphs, Tail, sizes},
    logprobs::{FetchedLogprobs, LogprobsOutput, columns},
    sampling_input::SamplingInput,
    sequence::{SeqId, Sequence},
    staged::{Fetched, Staged},
    step_input::Input,
};
use crate::{
    config::EngineConfig,
    device::{DType, Device, Tensor},
    error::{Error, Result},
    kernels::{KernelSet, LogitsArgs, Queue, SampleArgs, SampleSpec, SeqLen, run, supported},
    model::decoder::{Activations, Decoder, KvCache},
};

/// Runs steps of one model on one device.
pub struct Runner<D: Device> {
    queue: Queue<D>,
    kernels: KernelSet<D>,
    decoder: Decoder<D>,
    kv: KvCache<D>,
    act: Activations<D>,
    input: Input<D>,
    sampling: SamplingInput<D>,
    /// Token rows whose logits are wanted now.
    rows: Staged<D, i32>,
    /// `[rows]` i32: what the last step drew.
    sampled: Tensor<D>,
    /// By slot: the row that drew the sequence's next token in the last step, if it did.
    drew: Vec<u32>,
    logprobs: LogprobsOutput<D>,
    /// Tokens of the prompt whose log-probabilities are told, and those.
    targets: Staged<D, i32>,
    told: FetchedLogprobs<D>,
    /// Steps that were enqueued and collected, in turns; a step's flight is that of its number, modulo two.
    flights: [Flight<D>; 2],
    enqueued: usize,
    collected: usize,
    /// Whether steps may overlap, and whether what the last one drew can be relied on.
    overlap: bool,
    intact: bool,
    /// Most rows of logits at a time.
    max_rows: usize,
    num_blocks: usize,
    /// Rows of the step whose next token is drawn, then rows that only tell of the prompt.
    draws: Vec<(i32, SeqId)>,
    tells: Vec<(i32, SeqId, usize)>,
    /// Logits on the host, to score.
    raw: Vec<f32>,
    /// Sequences of the staged step, padding not counted, and whether it goes on where the one before it was.
    staged: usize,
    steady: bool,
    /// Recorded decode steps.
    graphs: Graphs<D>,
}

/// A step on its way.
struct Flight<D: Device> {
    /// Who drew a token, by row, and how many of the likeliest tokens they want told.
    draws: Vec<(SeqId, Option<usize>)>,
    sampled: Fetched<D, i32>,
    logprobs: FetchedLogprobs<D>,
}

impl<D: Device> Flight<D> {
    fn new(dev: &D, rows: usize) -> Result<Self> {
        Ok(Self {
            draws: Vec::with_capacity(rows),
            sampled: Fetched::new(dev, rows)?,
            logprobs: FetchedLogprobs::new(dev, rows * COLUMNS)?,
        })
    }
}

/// Columns of log-probabilities that there is room for from the start.
const COLUMNS: usize = 1 + 32;

impl<D: Device> Runner<D> {
    /// Allocates everything that a step needs: activations for `max_num_batched_tokens`, logits for
    /// `max_num_seqs`, scratch memory, and `num_kvcache_blocks` blocks or as many as the device has room for.
    ///
    /// # Errors
    /// [`Error::Device`] when memory is short, [`Error::Unsupported`] when a chosen kernel cannot run this model,
    /// [`Error::Config`] when not one block fits.
    pub fn new(dev: &D, kernels: KernelSet<D>, decoder: Decoder<D>, config: &EngineConfig) -> Result<Self> {
        let (model, dtype, block_size) = (decoder.config(), decoder.dtype(), config.kvcache_block_size);
        let (tokens, seqs) =
            (config.max_num_batched_tokens, config.max_num_seqs.min(config.max_num_batched_tokens));
        let max_blocks = config.max_model_len.div_ceil(block_size);
        let act = Activations::new(dev, model, dtype, tokens, seqs)?;
        let mut runner = Self {
            queue: Queue::new(dev)?,
            kernels,
            kv: KvCache::new(dev, model, dtype, 1, block_size)?,
            act,
            input: Input::new(dev, tokens, seqs, max_blocks, block_size)?,
            sampling: SamplingInput::new(dev, seqs, model.vocab_size, &model.eos)?,
            rows: Staged::new(dev, seqs)?,
            sampled: Tensor::zeros(dev, DType::I32, &[seqs])?,
            drew: Vec::new(),
            logprobs: LogprobsOutput::new(dev, seqs * COLUMNS)?,
            targets: Staged::new(dev, seqs)?,
            told: FetchedLogprobs::new(dev, seqs * COLUMNS)?,
            flights: [Flight::new(dev, seqs)?, Flight::new(dev, seqs)?],
            enqueued: 0,
            collected: 0,
            overlap: config.async_scheduling.unwrap_or(D::ASYNCHRONOUS),
            intact: true,
            max_rows: seqs,
            num_blocks: 1,
            decoder,
            draws: Vec::with_capacity(seqs),
            tells: Vec::new(),
            raw: Vec::new(),
            staged: 0,
            steady: false,
            graphs: Graphs::new(
                if config.enforce_eager || !D::RECORDS { 0 } else { seqs },
                config.max_model_len,
            ),
        };
        runner.rehearse(tokens, seqs, config.max_model_len)?;
        runner.num_blocks = runner.room(config, seqs * max_blocks)?;
        let (model, dtype) = (runner.decoder.config(), runner.decoder.dtype());
        runner.kv = KvCache::new(dev, model, dtype, runner.num_blocks, block_size)?;
        // As many as a step may fill; they are the first that sequences get.
        runner.kv.touch(dev, runner.num_blocks.min(tokens.div_ceil(block_size)));
        Ok(runner)
    }

    /// How many KV blocks to have: as configured, or as many, up to `most`, as fit into this engine's share of the
    /// device beside all that is there: weights, activations, scratch memory, kernels.
    fn room(&self, config: &EngineConfig, most: usize) -> Result<usize> {
        let (model, dtype) = (self.decoder.config(), self.decoder.dtype());
        let (free, total) = self.device().memory();
        let share = (total as f64 * config.gpu_memory_utilization) as usize;
        let block = KvCache::<D>::block_bytes(model, dtype, config.kvcache_block_size);
        let room = (share.saturating_sub(total - free) / block).min(most);
        let blocks = config.num_kvcache_blocks.unwrap_or(room);
        if blocks == 0 {
            let want = "memory for at least one block: lower kvcache_block_size or max_num_batched_tokens";
            return Err(Error::config("num_kvcache_blocks", 0, want));
        }
        Ok(blocks)
    }

    /// Blocks of the KV cache.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// The device.
    pub fn device(&self) -> &D {
        self.queue.dev()
    }

    /// The model.
    pub fn decoder(&self) -> &Decoder<D> {
        &self.decoder
    }

    /// Reserves the scratch memory of all steps, prepares their kernels, and finds out whether every kernel supports the
    /// model. A kernel may choose by the number of rows: every size of a recorded step is asked for, and those of
    /// other steps in powers of two.
    fn rehearse(&mut self, tokens: usize, seqs: usize, max_len: usize) -> Result<()> {
        self.queue.rehearse(true)?;
        // Whatever fails is told; what was noted until then is of no use.
        let done = self.rehearse_steps(tokens, seqs, max_len);
        let prepared = self.queue.rehearse(false);
        done.and(prepared)
    }

    fn rehearse_steps(&mut self, tokens: usize, seqs: usize, max_len: usize) -> Result<()> {
        let table = vec![0; self.input.max_blocks];
        let zeros = vec![0; tokens.min(max_len)];
        for size in sizes(seqs).chain([seqs]) {
            self.input.clear();
            (0..size).for_each(|_| self.input.push(&[0], max_len - 1, &table));
            self.forward(size)?;
            self.rows.host.clear();
            self.rows.host.resize(size, 0);
            for (random, truncated) in [(false, false), (true, false), (true, true)] {
                self.sampling.clear();
                self.sampling.pad(size);
                self.sampling.spec = SampleSpec { random, truncated };
                // What a sampler does not support, it refuses when a request asks for it.
                if supported(&*self.kernels.sample, &self.sampling.spec).is_ok() {
                    let spec = self.sampling.spec;
                    self.tail(Tail { size, process: true, spec, columns: columns(0, self.vocab()) })?;
                }
            }
        }
        let powers = (0..usize::BITS).map(|bit| 1 << bit).take_while(|&size| size < tokens);
        for size in powers.chain([tokens]) {
            self.input.clear();
            let mut left = size;
            while left > 0 && self.input.lens.len() < seqs {
                let chunk = left.min(max_len);
                self.input.push(&zeros[..chunk], max_len - chunk, &table);
                left -= chunk;
            }
            self.forward(0)?;
        }
        Ok(())
    }

    fn vocab(&self) -> usize {
        self.decoder.config().vocab_size
    }

    /// Runs the staged tokens through the decoder.
    fn forward(&mut self, decodes: usize) -> Result<()> {
        self.input.upload(self.queue.dev(), &self.sampled)?;
        let input = self.input.step(decodes);
        self.decoder.forward(&mut self.queue, &self.kernels, &input, &mut self.kv, &mut self.act)
    }

    /// Enqueues the draw of the staged rows, to `self.sampled`, and their log-probabilities, to `self.logprobs`.
    fn tail(&mut self, Tail { process, columns, .. }: Tail) -> Result<()> {
        let softcap = self.decoder.config().final_softcap;
        let mut logits =
            self.decoder.logits(&mut self.queue, &self.kernels, self.rows.view(), &mut self.act)?;
        let (rows, s) = (self.rows.host.len(), &self.sampling);
        if process {
            let args = LogitsArgs {
                logits: logits.reborrow(),
                params: s.logit_params.view().reshape(&[rows, 5]),
                history_start: s.history_start.view(),
                history_ids: s.history_ids.view(),
                history_counts: s.history_counts.view(),
                bias_start: s.bias_start.view(),
                bias_ids: s.bias_ids.view(),
                bias_values: s.bias_values.view(),
                softcap,
            };
            run(&*self.kernels.logits, &mut self.queue, args)?;
        }
        let args = SampleArgs {
            logits: logits.as_view(),
            temperature: s.temperature.view(),
            top_p_tail: s.top_p_tail.view(),
            params: s.params.view().reshape(&[rows, 5]),
            spec: s.spec,
            out: self.sampled.rows_mut(0..rows),
        };
        run(&*self.kernels.sample, &mut self.queue, args)?;
        if columns == 0 {
            return Ok(());
        }
        if process {
            // The same bits once more: processing was in place.
            let (rows, act) = (self.rows.view(), &mut self.act);
            logits = self.decoder.logits(&mut self.queue, &self.kernels, rows, act)?;
        }
        let (kernel, tokens) = (&*self.kernels.logprobs, self.sampled.rows(0..rows));
        self.logprobs.compute(&mut self.queue, kernel, logits.as_view(), tokens, softcap, columns)
    }

    /// Stages the draws, with greedy ones that nobody wants until there are `size`.
    fn stage_draws(&mut self, batch: &Batch<'_>, size: usize) -> Result<Tail> {
        let ids = self.draws.iter().map(|&(_, id)| id);
        self.sampling.stage(ids, batch.seqs, size, self.steady);
        let told = self.sampling.logprobs().map_or(0, |top| columns(top, self.vocab()));
        let dev = self.queue.dev();
        if !self.steady {
            self.rows.host.clear();
            self.rows.host.extend(self.draws.iter().map(|&(row, _)| row));
            self.rows.host.extend(self.draws.len() as i32..size as i32);
            self.rows.upload(dev)?;
        }
        self.sampling.upload(dev)?;
        self.logprobs.reserve(dev, size * told)?;
        let process = self.sampling.needs_processing() || self.decoder.config().final_softcap.is_some();
        Ok(Tail { size, process, spec: self.sampling.spec, columns: told })
    }

    /// Enqueues the copies of what was drawn.
    fn fetch(&mut self, batch: &Batch<'_>, columns: usize) -> Result<()> {
        let (dev, rows) = (self.queue.dev(), self.draws.len());
        let flight = &mut self.flights[self.enqueued % 2];
        flight.draws.clear();
        // Mostly nobody asks, and a thousand parameters stay untouched.
        let asked = |id| if columns > 0 { batch.seqs[id].params.logprobs } else { None };
        flight.draws.extend(self.draws.iter().map(|&(_, id)| (id, asked(id))));
        if rows > 0 {
            flight.sampled.start(dev, &self.sampled.rows(0..rows))?;
        }
        if columns > 0 {
            flight.logprobs.start(dev, &self.logprobs, rows, columns)?;
        }
        let drawn = if self.overlap { &flight.draws[..] } else { &[] };
        for (row, (id, _)) in drawn.iter().enumerate() {
            if id.slot() >= self.drew.len() {
                self.drew.resize(id.slot() + 1, 0);
            }
            self.drew[id.slot()] = row as u32;
        }
        Ok(())
    }

    /// A step in which every sequence decodes and samples, by replaying records: the decoder's, and, while that runs
    /// and the host stages the sampling, the draw's.
    fn replay(&mut self, batch: &Batch<'_>) -> Result<Tail> {
        let size = self.graphs.size(batch.items.len());
        let dev = self.queue.dev().clone();
        self.input.pad(size);
        self.input.upload(&dev, &self.sampled)?;
        self.graphs.check(self.memory());
        if !self.graphs.steps.contains_key(&size) {
            let lens = vec![SeqLen { q: 1, kv: self.graphs.max_len }; size];
            let input = self.input.step_with(size, &lens);
            let (decoder, queue, kernels) = (&self.decoder, &mut self.queue, &self.kernels);
            let (kv, act) = (&mut self.kv, &mut self.act);
            let graph = dev.record(&mut || decoder.forward(queue, kernels, &input, kv, act))?;
            self.graphs.steps.insert(size, graph);
        }
        dev.replay(&self.graphs.steps[&size])?;
        let tail = self.stage_draws(batch, size)?;
        self.graphs.check(self.memory());
        if !self.graphs.tails.contains_key(&tail) {
            let graph = dev.record(&mut || self.tail(tail))?;
            self.graphs.tails.insert(tail, graph);
        }
        dev.replay(&self.graphs.tails[&tail])?;
        Ok(tail)
    }

    /// How much of the memory that records refer to there is, as far as it may grow.
    fn memory(&self) -> usize {
        self.queue.scratch_bytes() + self.sampling.capacity() + self.logprobs.capacity()
    }

    /// The unprocessed (but soft-capped) logits of `rows`, at most `max_rows` of them, to `self.raw`.
    fn read_logits(&mut self, rows: impl Iterator<Item = i32>) -> Result<()> {
        self.rows.host.clear();
        self.rows.host.extend(rows);
        self.rows.upload(self.queue.dev())?;
        let logits = self.decoder.logits(&mut self.queue, &self.kernels, self.rows.view(), &mut self.act)?;
        logits.as_view().read_to(self.queue.dev(), &mut self.raw)?;
        if let Some(cap) = self.decoder.config().final_softcap {
            self.raw.iter_mut().for_each(|v| *v = cap * (*v / cap).tanh());
        }
        Ok(())
    }

    /// Whether the staged step is one that [`Self::replay`] knows.
    fn can_replay(&self, batch: &Batch<'_>) -> bool {
        self.graphs.size(batch.items.len()) > 0
            && batch.num_decodes == batch.items.len()
            && self.draws.len() == batch.items.len()
            && self.tells.is_empty()
    }

    /// Notes which rows of `item`, whose first token is row `first`, want logits.
    fn want(&mut self, item: &Item, seq: &Sequence, first: usize) {
        if item.sample {
            self.draws.push(((first + item.tokens - 1) as i32, item.id));
        }
        if item.start + 1 < seq.prompt_len && seq.prompt_logprobs_wanted().is_some() {
            let last = (item.start + item.tokens).min(seq.prompt_len - 1);
            self.tells.extend((item.start..last).map(|p| ((first + p - item.start) as i32, item.id, p + 1)));
        }
    }

    /// Whether the batch is the last one again, each sequence of it with the one token that it then drew.
    fn goes_on(&self, batch: &Batch<'_>) -> bool {
        let same = |row: usize, item: &Item, draw: (i32, SeqId)| {
            draw == (row as i32, item.id)
                && (item.tokens, item.sample) == (1, true)
                && self.input.precedes(row, item.start)
        };
        let mut rows = batch.items.iter().zip(&self.draws).enumerate();
        [self.staged, self.draws.len()] == [batch.items.len(); 2]
            && self.tells.is_empty()
            && rows.all(|(row, (item, &draw))| same(row, item, draw))
    }

    /// Stages the batch: its tokens, and which rows want logits.
    fn stage(&mut self, batch: &Batch<'_>) {
        self.steady = self.goes_on(batch);
        if self.steady {
            self.input.again();
            for (row, item) in batch.items.iter().enumerate() {
                let seq = &batch.seqs[item.id];
                let known = seq.tokens.get(item.start);
                self.input.go_on(row, known.copied().unwrap_or(0), &seq.block_table);
                if known.is_none() {
                    self.input.take_drawn(row, self.drew[item.id.slot()] as usize);
                }
            }
            return;
        }
        self.staged = batch.items.len();
        self.input.clear();
        self.draws.clear();
        self.tells.clear();
        for item in batch.items {
            let seq = &batch.seqs[item.id];
            self.want(item, seq, self.input.ids.host.len());
            let known = seq.tokens.get(item.start..item.start + item.tokens);
            self.input.push(known.unwrap_or(&[0]), item.start, &seq.block_table);
            if known.is_none() {
                self.input.take_drawn(self.input.ids.host.len() - 1, self.drew[item.id.slot()] as usize);
            }
        }
    }

    /// Computes the log-probabilities of the staged rows that tell of a prompt, and waits for them.
    fn tell(&mut self, batch: &Batch<'_>, out: &mut StepResult) -> Result<()> {
        let dev = self.queue.dev().clone();
        let softcap = self.decoder.config().final_softcap;
        for tells in self.tells.chunks(self.max_rows) {
            self.rows.host.clear();
            self.targets.host.clear();
            let mut most = 0;
            for &(row, id, position) in tells {
                let seq = &batch.seqs[id];
                self.rows.host.push(row);
                self.targets.host.push(seq.tokens[position] as i32);
                most = most.max(seq.prompt_logprobs_wanted().unwrap_or(0));
            }
            self.rows.upload(&dev)?;
            self.targets.upload(&dev)?;
            let columns = columns(most, self.decoder.config().vocab_size);
            self.logprobs.reserve(&dev, tells.len() * columns)?;
            let logits =
                self.decoder.logits(&mut self.queue, &self.kernels, self.rows.view(), &mut self.act)?;
            let (kernel, targets) = (&*self.kernels.logprobs, self.targets.view());
            self.logprobs.compute(&mut self.queue, kernel, logits.as_view(), targets, softcap, columns)?;
            self.told.start(&dev, &self.logprobs, tells.len(), columns)?;
            let told = self.told.finish(&dev)?;
            for (row, &(_, id, position)) in tells.iter().enumerate() {
                let top = batch.seqs[id].prompt_logprobs_wanted().unwrap_or(0);
                out.prompt_logprobs.push((id, position, told(row, top)));
            }
        }
        Ok(())
    }

    /// Teacher-forced logits of every position of `tokens`, `[len, vocab]`, computed `chunk` tokens at a time through
    /// the paged cache; final soft-cap applied. Overwrites the cache: not for a runner that serves an engine.
    ///
    /// # Errors
    /// [`Error::Request`] when the tokens are none, out of range or do not fit; what the kernels report.
    pub fn score(&mut self, tokens: &[u32], chunk: usize) -> Result<Vec<f32>> {
        let (vocab, most) = (self.decoder.config().vocab_size, self.num_blocks * self.input.block_size);
        let most = most.min(self.input.max_blocks * self.input.block_size);
        if tokens.is_empty() || tokens.len() > most {
            return Err(Error::request("ids", format!("{} tokens", tokens.len()), format!("1 to {most}")));
        }
        if let Some(t) = tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(Error::request("ids", t, format!("token ids below {vocab}")));
        }
        self.draws.clear();
        // Not in order, so that a kernel that ignores the block table is found out.
        let table: Vec<u32> = (0..tokens.len().div_ceil(self.input.block_size) as u32).rev().collect();
        let mut out = Vec::with_capacity(tokens.len() * vocab);
        let chunk = chunk.clamp(1, self.input.ids.capacity());
        for (i, part) in tokens.chunks(chunk).enumerate() {
            self.input.clear();
            self.input.push(part, i * chunk, &table);
            self.forward(usize::from(part.len() == 1))?;
            for from in (0..part.len()).step_by(self.max_rows) {
                let to = part.len().min(from + self.max_rows);
                self.read_logits(from as i32..to as i32)?;
                out.extend_from_slice(&self.raw);
            }
        }
        Ok(out)
    }
}

impl<D: Device> Executor for Runner<D> {
    fn execute(&mut self, batch: &Batch<'_>, out: &mut StepResult) -> Result<()> {
        match self.queue.dev().reload() {
            Ok(files) if files.is_empty() => {}
            // Whoever edits a kernel wants to see these, and the engine to go on.
            Ok(files) => {
                self.graphs.clear();
                eprintln!("reloaded {}", files.join(", "));
            }
            Err(error) => eprintln!("{error}"),
        }
        // Until it succeeds, nobody may rely on what the last step drew.
        let intact = std::mem::replace(&mut self.intact, false);
        self.stage(batch);
        let tail = if self.can_replay(batch) {
            self.replay(batch)?
        } else {
            self.forward(batch.num_decodes)?;
            let tail = self.stage_draws(batch, self.draws.len())?;
            if tail.size > 0 {
                self.tail(tail)?;
            }
            tail
        };
        self.fetch(batch, tail.columns)?;
        self.tell(batch, out)?;
        self.enqueued += 1;
        self.intact = intact || self.enqueued == self.collected + 1;
        Ok(())
    }

    fn collect(&mut self, out: &mut StepResult) -> Result<()> {
        let dev = self.queue.dev().clone();
        let flight = &mut self.flights[self.collected % 2];
        // If it fails, those after it do too.
        let before = std::mem::replace(&mut self.collected, self.enqueued);
        if flight.draws.is_empty() {
            self.collected = before + 1;
            return Ok(());
        }
        let sampled = flight.sampled.finish(&dev)?;
        out.sampled
            .extend(sampled.iter().map(|&t| u32::try_from(t).map_or(Sampled::Invalid, Sampled::Token)));
        if flight.draws.iter().any(|(_, top)| top.is_some()) {
            let told = flight.logprobs.finish(&dev)?;
            for (row, (&(id, top), &token)) in flight.draws.iter().zip(sampled).enumerate() {
                if let Some(top) = top.filter(|_| token >= 0) {
                    out.logprobs.push((id, told(row, top)));
                }
            }
        }
        self.collected = before + 1;
        Ok(())
    }

    fn overlaps(&self) -> bool {
        self.overlap && self.intact
    }
}
