//! The step loop: plan, check, move blocks, start, take the tokens.
//!
//! An executor that [overlaps](Executor::overlaps) gets the next step before the tokens of the one that runs are taken:
//! planning, preparing and whatever the caller does with tokens then costs the device nothing.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::block_manager::{BlockHash, BlockManager, xxh3};
use super::executor::{Batch, Executor, Item, Sampled, StepResult};
use super::plan_check::PlanCheck;
use super::report::{Clock, Event, Stats};
use super::scheduler::{Budget, Plan, Scheduler, View};
use super::sequence::{FinishReason, RequestId, RequestOptions, SeqId, Sequence, Sequences, Status};
use crate::config::{EngineConfig, SamplingParams};
use crate::error::{Error, Result};

/// What the engine must know of the model's tokens.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// Token ids are below this.
    pub size: usize,
    /// Tokens that end a sequence unless `ignore_eos`.
    pub eos_token_ids: Vec<u32>,
}

/// Appends a token that was pending. Returns why the sequence ends now, if it does.
fn append(seq: &mut Sequence, token: u32, eos: &[u32]) -> Option<FinishReason> {
    let may_stop = seq.generated() >= seq.params.min_tokens;
    seq.tokens.push(token);
    #[allow(clippy::manual_contains)] // a plain loop is faster on lists this short
    let is_in = |ids: &[u32]| ids.iter().any(|&id| id == token);
    let params = &seq.params;
    if may_stop && (is_in(&params.stop_token_ids) || (!params.ignore_eos && is_in(eos))) {
        Some(FinishReason::StopToken(token))
    } else {
        (seq.tokens.len() >= seq.max_len).then_some(FinishReason::Length)
    }
}

/// A step that was started and not yet taken.
#[derive(Debug, Default)]
struct Flight {
    items: Vec<Item>,
    /// Items that are sampled.
    samples: usize,
    result: StepResult,
    /// Those of its sequences that were preempted since. One that runs again (after a step that failed) has other blocks.
    preempted: Vec<SeqId>,
}

/// Sequences, block pool, policy and executor. See the module.
pub struct Engine {
    seqs: Sequences,
    pool: BlockManager,
    scheduler: Box<dyn Scheduler>,
    executor: Box<dyn Executor>,
    vocabulary: Vocabulary,
    budget: Budget,
    max_model_len: usize,
    seed: u64,
    clock: Clock,
    stats: Stats,
    /// Each in order of arrival. This one may be long, and policies admit from anywhere in it.
    waiting: BTreeSet<SeqId>,
    running: Vec<SeqId>,
    held: Vec<SeqId>,
    /// Wait for their last token only, which a flight draws.
    ending: Vec<SeqId>,
    /// Gone when the next step begins.
    finished: Vec<SeqId>,
    // Kept from step to step for their memory.
    plan: Plan,
    check: PlanCheck,
    flights: VecDeque<Flight>,
    landed: Vec<Flight>,
    events: Vec<Event>,
    /// Requests of several sequences whose first has just computed the prompt.
    ready: Vec<RequestId>,
}

impl Engine {
    /// An engine without requests, on the wall clock.
    ///
    /// # Errors
    /// [`Error::Config`] for a configuration that [`EngineConfig::validate`] refuses or whose `num_kvcache_blocks` is
    /// not yet known.
    pub fn new(
        config: &EngineConfig,
        vocabulary: Vocabulary,
        scheduler: Box<dyn Scheduler>,
        executor: Box<dyn Executor>,
    ) -> Result<Self> {
        config.validate()?;
        let blocks = config
            .num_kvcache_blocks
            .ok_or_else(|| Error::config("num_kvcache_blocks", "not set", "the size of the device's pool"))?;
        let hash = config.enable_prefix_caching.then_some(xxh3 as BlockHash);
        let pool = BlockManager::new(blocks, config.kvcache_block_size, hash);
        Ok(Self::with_pool(config, vocabulary, pool, scheduler, executor))
    }

    /// [`Self::new`] with a block pool of any block size and hash, instead of the configuration's.
    pub fn with_pool(
        config: &EngineConfig,
        vocabulary: Vocabulary,
        pool: BlockManager,
        scheduler: Box<dyn Scheduler>,
        executor: Box<dyn Executor>,
    ) -> Self {
        Self {
            seqs: Sequences::default(),
            pool,
            scheduler,
            executor,
            vocabulary,
            budget: Budget { tokens: config.max_num_batched_tokens, seqs: config.max_num_seqs },
            max_model_len: config.max_model_len,
            seed: config.seed,
            clock: Clock::Wall(Instant::now()),
            stats: Stats::default(),
            waiting: BTreeSet::new(),
            running: Vec::new(),
            held: Vec::new(),
            ending: Vec::new(),
            finished: Vec::new(),
            plan: Plan::default(),
            check: PlanCheck::default(),
            flights: VecDeque::new(),
            landed: Vec::new(),
            events: Vec::new(),
            ready: Vec::new(),
        }
    }

    /// Goes on with another policy. Requests keep their state.
    pub fn set_scheduler(&mut self, mut scheduler: Box<dyn Scheduler>) {
        let mut ids: Vec<_> = self.waiting.iter().chain(&self.running).chain(&self.ending).copied().collect();
        ids.sort_unstable();
        ids.into_iter().for_each(|id| scheduler.added(&self.seqs[id]));
        self.scheduler = scheduler;
    }

    /// Sets the clock, to a virtual one or to another time.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Queues a request.
    ///
    /// Of `n > 1` sequences the first goes ahead; the others follow once it has computed the prompt, and find its full
    /// blocks in the prefix cache.
    ///
    /// # Errors
    /// [`Error::Request`] naming what cannot work; nothing is queued then.
    pub fn add_request(
        &mut self,
        prompt: &[u32],
        params: impl Into<Arc<SamplingParams>>,
        options: RequestOptions,
    ) -> Result<RequestId> {
        let params = params.into();
        self.validate(prompt, &params, &options)?;
        let request = RequestId(self.seqs.next_number());
        let drawn = || xxh3(self.seed, &[request.0 as u32, (request.0 >> 32) as u32]);
        let seed = params.seed.unwrap_or_else(drawn);
        let arrival = options.arrival.unwrap_or_else(|| self.clock.now());
        let hold = self.pool.caches() && prompt.len() > self.pool.block_size();
        for sample in 0..params.n as u32 {
            let held = sample > 0 && hold;
            let id = self.seqs.insert(|id| Sequence::new(id, prompt, params.clone(), options.clone()));
            let seq = self.seqs.at(id);
            seq.sample = sample;
            seq.seed = seed.wrapping_add(u64::from(sample));
            seq.max_len = seq.max_len.min(self.max_model_len);
            seq.timing.arrival = arrival;
            self.pool.extend_hashes(seq);
            if held {
                seq.status = Status::Held;
                self.held.push(id);
            } else {
                self.waiting.insert(id);
                self.scheduler.added(seq);
            }
        }
        Ok(request)
    }

    fn validate(&self, prompt: &[u32], params: &SamplingParams, options: &RequestOptions) -> Result<()> {
        let (vocab, block_size) = (self.vocabulary.size, self.pool.block_size());
        if prompt.is_empty() {
            return Err(Error::request("prompt", "empty", "at least one token"));
        }
        if let Some(at) = prompt.iter().position(|&token| token as usize >= vocab) {
            return Err(Error::request(
                format!("prompt[{at}]"),
                prompt[at],
                format!("token ids below {vocab}"),
            ));
        }
        if prompt.len() >= self.max_model_len {
            let want = format!("less than max_model_len, which is {}", self.max_model_len);
            return Err(Error::request("prompt", format!("{} tokens", prompt.len()), want));
        }
        params.validate(vocab)?;
        let times = [("deadline", options.deadline), ("arrival", options.arrival)];
        for (field, time) in times.into_iter().filter_map(|(field, time)| Some((field, time?))) {
            if !time.is_finite() {
                return Err(Error::request(field, time, "finite seconds"));
            }
        }
        // The last token is sampled but never computed.
        let most = prompt.len().saturating_add(params.max_tokens).min(self.max_model_len) - 1;
        let (need, have) = (most.div_ceil(block_size), self.pool.num_blocks());
        if need > have {
            let got = format!("{} + {}, which may take {need} KV blocks", prompt.len(), params.max_tokens);
            let want = format!("at most the pool's {have} blocks of {block_size} tokens");
            return Err(Error::request("prompt tokens + max_tokens", got, want));
        }
        Ok(())
    }

    /// Runs one step and tells what came of it, in the batch's order. Without unfinished requests it does nothing. With an
    /// executor that overlaps, it also starts the next step.
    ///
    /// # Errors
    /// [`Error::Plan`] if the policy broke a rule: nothing has changed, and [`Self::set_scheduler`] can mend it.
    /// The executor's error if that failed: the plan's admissions and preemptions stand, but no sequence gained or
    /// lost a token. In both cases `step` may be called again, or requests aborted.
    pub fn step(&mut self) -> Result<&[Event]> {
        for id in self.finished.drain(..) {
            self.seqs.remove(id);
        }
        self.events.clear();
        if self.flights.is_empty() && !self.is_finished() {
            self.start()?;
        }
        if self.may_go_ahead() {
            self.start()?;
        }
        if !self.flights.is_empty() {
            self.take()?;
        }
        Ok(&self.events)
    }

    /// What the policy planned for the step that was started last.
    pub fn planned(&self) -> &Plan {
        &self.plan
    }

    /// What the step that was taken last computed.
    pub fn computed(&self) -> &[Item] {
        self.landed.last().map_or(&[], |flight| &flight.items)
    }

    /// Whether a step may be started although the one before it has not been taken.
    fn may_go_ahead(&self) -> bool {
        let Some(flight) = self.flights.front().filter(|_| self.executor.overlaps()) else { return false };
        // Penalties look at every token so far.
        let needed = |item: &Item| item.sample && self.seqs[item.id].params.has_penalties();
        let work = !self.running.is_empty() || !self.waiting.is_empty();
        work && !flight.items.iter().any(|item| self.seqs.get(item.id).is_some() && needed(item))
    }

    /// Plans a step and gives it to the executor.
    fn start(&mut self) -> Result<()> {
        self.plan.clear();
        let view = View {
            seqs: &self.seqs,
            pool: &self.pool,
            waiting: &self.waiting,
            running: &self.running,
            now: self.clock.now(),
        };
        self.scheduler.plan(&view, self.budget, &mut self.plan);
        // What a flight ends may hold the blocks that all others wait for, and that a preemption would not free.
        if self.plan.run.is_empty() && !self.flights.is_empty() {
            return Ok(());
        }
        self.check.check(self.scheduler.name(), &view, self.budget, &self.plan)?;
        let mut flight = self.landed.pop().unwrap_or_default();
        flight.result.clear();
        flight.preempted.clear();
        std::mem::swap(&mut flight.items, &mut self.check.items);
        flight.samples = self.check.samples;
        self.commit();
        let num_decodes = flight.items.partition_point(|item| item.tokens == 1);
        let batch = Batch { items: &flight.items, num_decodes, seqs: &self.seqs };
        let done = self.executor.execute(&batch, &mut flight.result);
        if done.is_ok() {
            self.advance(&flight.items);
            self.flights.push_back(flight);
        } else {
            self.landed.push(flight);
        }
        done
    }

    /// Moves sequences and blocks as planned.
    fn commit(&mut self) {
        for &id in &self.plan.preempt {
            let seq = self.seqs.at(id);
            seq.computed_before = seq.computed_before.max(seq.computed);
            seq.status = Status::Waiting;
            seq.preemptions += 1;
            self.stats.preemptions += 1;
            self.pool.release(seq);
            self.flights.iter_mut().for_each(|flight| flight.preempted.push(id));
            self.running.remove(self.running.partition_point(|&other| other < id));
            self.waiting.insert(id);
        }
        // All hits before any new block, which may take the place of a cached one.
        for &(id, _) in &self.check.takers {
            let seq = self.seqs.at(id);
            if seq.status != Status::Waiting {
                continue;
            }
            seq.status = Status::Running;
            self.pool.take_hits(seq);
            if seq.timing.scheduled.is_none() {
                seq.timing.scheduled = Some(self.clock.now());
                seq.prefix_hit = seq.computed;
                self.stats.prefix_hit_tokens += seq.computed;
                // No allocation in later steps.
                seq.tokens.reserve_exact(seq.max_len - seq.len());
                seq.block_table.reserve_exact(seq.max_len.div_ceil(self.pool.block_size()));
                seq.hashes.reserve_exact(seq.max_len.div_ceil(self.pool.block_size()));
            }
            self.waiting.remove(&id);
            self.running.insert(self.running.partition_point(|&other| other < id), id);
        }
        for &(id, end) in &self.check.takers {
            self.pool.grow(self.seqs.at(id), end);
        }
    }

    /// What is certain of a step that was started: its tokens count as computed, and those that it draws are pending.
    fn advance(&mut self, items: &[Item]) {
        let mut decoded = 0;
        for item in items {
            let seq = self.seqs.at(item.id);
            if item.start >= seq.prompt_len.max(seq.computed_before) {
                decoded += item.tokens;
            } else {
                self.stats.count_chunk(item, seq);
            }
            seq.computed = item.start + item.tokens;
            seq.pending += u32::from(item.sample);
            if seq.len() >= seq.max_len {
                self.ending.push(item.id);
            }
        }
        self.stats.decode_tokens += decoded;
        if !self.ending.is_empty() {
            let seqs = &self.seqs;
            self.running.retain(|&id| seqs[id].len() < seqs[id].max_len);
        }
    }

    /// Waits for the earliest flight and takes what it computed.
    fn take(&mut self) -> Result<()> {
        let Some(mut flight) = self.flights.pop_front() else { return Ok(()) };
        let (collected, want) = (self.executor.collect(&mut flight.result), flight.samples);
        let got = flight.result.sampled.len();
        let checked = collected.and_then(|()| match got == want {
            true => Ok(()),
            false => Err(Error::Argument {
                op: "execute",
                what: "the number of sampled tokens",
                got: got.to_string(),
                want: format!("{want}, one for each item to sample"),
            }),
        });
        if checked.is_ok() {
            self.postprocess(&mut flight);
        } else {
            // The latest first.
            while let Some(later) = self.flights.pop_back() {
                self.undo(&later);
            }
            self.undo(&flight);
        }
        self.landed.push(flight);
        checked
    }

    /// Takes back what [`Self::advance`] did; the tokens will be computed again.
    fn undo(&mut self, flight: &Flight) {
        for item in &flight.items {
            let Some(seq) = self.seqs.live(item.id) else { continue };
            seq.computed_before = seq.computed_before.max(item.start + item.tokens);
            let preempted = flight.preempted.contains(&item.id);
            if !preempted {
                seq.computed = seq.computed.min(item.start);
            }
            seq.pending -= u32::from(item.sample);
            // The place of one that was ending may be taken. One that runs again may have been given blocks for the token
            // that is now not to come.
            if let Some(at) = self.ending.iter().position(|&id| id == item.id) {
                self.ending.remove(at);
            } else if preempted && seq.status == Status::Running {
                self.running.remove(self.running.partition_point(|&other| other < item.id));
            } else {
                continue;
            }
            self.pool.release(seq);
            seq.status = Status::Waiting;
            self.waiting.insert(item.id);
        }
    }

    fn postprocess(&mut self, flight: &mut Flight) {
        if let Clock::Virtual(now) = &mut self.clock {
            *now += flight.result.virtual_seconds;
        }
        let now = self.clock.now();
        for (id, logprobs) in flight.result.logprobs.drain(..) {
            if let Some(seq) = self.seqs.live(id) {
                seq.logprobs.push(logprobs);
            }
        }
        for (id, position, logprobs) in flight.result.prompt_logprobs.drain(..) {
            if let Some(seq) = self.seqs.live(id) {
                seq.prompt_logprobs.resize(seq.prompt_len, None);
                seq.prompt_logprobs[position] = Some(logprobs);
            }
        }
        let mut sampled = flight.result.sampled.iter();
        let (mut invalid, mut ended, before) = (0, false, self.finished.len());
        for item in &flight.items {
            let drawn = item.sample.then(|| *sampled.next().expect("counted in take"));
            // It may have ended after the step was started.
            let Some(seq) = self.seqs.live(item.id) else { continue };
            // A sequence that was preempted meanwhile has no blocks any more, or others.
            if seq.status == Status::Running && !flight.preempted.contains(&item.id) {
                self.pool.register(seq, item.start + item.tokens);
            }
            let Some(drawn) = drawn else { continue };
            seq.pending -= 1;
            let (token, finish) = match drawn {
                Sampled::Invalid => {
                    invalid += 1;
                    (None, Some(FinishReason::Error))
                }
                Sampled::Token(token) => {
                    if seq.generated() == 0 {
                        seq.timing.first_token = Some(now);
                    }
                    (Some(token), append(seq, token, &self.vocabulary.eos_token_ids))
                }
            };
            if seq.generated() <= 1 && seq.sample == 0 && seq.params.n > 1 {
                self.ready.push(seq.request());
            }
            let (id, request, sample) = (seq.id, seq.request(), seq.sample);
            ended |= finish.is_some();
            self.events.push(Event { id, request, sample, token, finish });
        }
        self.stats.sampled_tokens += self.events.len() - invalid;
        self.stats.steps += 1;
        // Mostly nobody does.
        let events = if ended { self.events.len() } else { 0 };
        for at in 0..events {
            if let Event { id, finish: Some(reason), .. } = self.events[at] {
                self.finished.push(id);
                self.end(id, reason);
            }
        }
        if self.finished.len() > before {
            self.unqueue();
        }
        while let Some(request) = self.ready.pop() {
            self.release_held(request);
        }
    }

    /// Takes what has ended out of the short queues.
    fn unqueue(&mut self) {
        let seqs = &self.seqs;
        for queue in [&mut self.running, &mut self.held, &mut self.ending] {
            queue.retain(|&id| !seqs[id].is_finished());
        }
    }

    /// Queues the held sequences of a request whose first sequence has computed the prompt.
    fn release_held(&mut self, request: RequestId) {
        let from = self.held.partition_point(|id| id.number() < request.0);
        let count = self.held[from..].iter().take_while(|&&id| self.seqs[id].request() == request).count();
        for id in self.held.drain(from..from + count) {
            let seq = self.seqs.at(id);
            seq.status = Status::Waiting;
            self.waiting.insert(id);
            self.scheduler.added(seq);
        }
    }

    /// Ends a request and frees its blocks. Its sequences stay readable until the next step begins.
    ///
    /// Returns whether any of them was unfinished.
    pub fn abort(&mut self, request: RequestId) -> bool {
        let before = self.finished.len();
        let queues = self.waiting.iter().chain(&self.running).chain(&self.held).chain(&self.ending);
        self.finished.extend(queues.filter(|&&id| self.seqs[id].request() == request));
        for at in before..self.finished.len() {
            self.end(self.finished[at], FinishReason::Abort);
        }
        self.unqueue();
        self.finished.len() > before
    }

    /// Ends one sequence, with the tokens that it has, for a reason that the engine cannot see, such as a stop string.
    /// It stays readable until the next step begins. Nothing happens to one that is finished.
    pub fn finish(&mut self, id: SeqId, reason: FinishReason) {
        if self.seqs.get(id).is_none_or(Sequence::is_finished) {
            return;
        }
        self.finished.push(id);
        self.end(id, reason);
        self.unqueue();
        // Those that waited for it to compute their prompt need not wait any more.
        self.release_held(self.seqs[id].request());
    }

    /// Frees the blocks of a sequence, and its place if it waits; [`Self::unqueue`] must follow for the other queues.
    fn end(&mut self, id: SeqId, reason: FinishReason) {
        self.waiting.remove(&id);
        let seq = self.seqs.at(id);
        let held = seq.status == Status::Held;
        seq.status = Status::Finished(reason);
        seq.timing.finished = Some(self.clock.now());
        self.pool.release(seq);
        self.stats.finished += 1;
        if !held {
            self.scheduler.finished(seq);
        }
    }

    /// A sequence, unless it is gone.
    pub fn seq(&self, id: SeqId) -> Option<&Sequence> {
        self.seqs.get(id)
    }

    /// Sequences without blocks, in order of arrival.
    pub fn waiting(&self) -> impl ExactSizeIterator<Item = SeqId> {
        self.waiting.iter().copied()
    }

    /// Sequences that hold blocks, in order of arrival.
    pub fn running(&self) -> &[SeqId] {
        &self.running
    }

    /// Sequences that hold blocks and only wait for a last token that is on its way.
    pub fn ending(&self) -> &[SeqId] {
        &self.ending
    }

    /// Unfinished sequences: waiting, running, those of `n` that wait for the first, and those whose last token is on its way.
    pub fn num_unfinished(&self) -> usize {
        self.waiting.len() + self.running.len() + self.held.len() + self.ending.len()
    }

    /// The pool of KV blocks.
    pub fn blocks(&self) -> &BlockManager {
        &self.pool
    }

    /// Counts since the engine was made.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Seconds on the engine's clock.
    pub fn now(&self) -> f64 {
        self.clock.now()
    }

    /// Whether no request is left to run.
    pub fn is_finished(&self) -> bool {
        self.num_unfinished() == 0
    }
}
