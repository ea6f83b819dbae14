//! What the decoder reads of a step's sequences.

use super::staged::Staged;
use crate::{
    device::{Device, Tensor},
    error::Result,
    kernels::SeqLen,
    model::decoder::{AttentionGroup, StepInput},
};

/// A step's tensors, staged on the host and uploaded together.
pub struct Input<D: Device> {
    /// `[tokens]`.
    pub ids: Staged<D, i32>,
    positions: Staged<D, i32>,
    slots: Staged<D, i32>,
    q_start: Staged<D, i32>,
    kv_len: Staged<D, i32>,
    /// `[seqs, max_blocks]`. Rows keep what earlier steps wrote past a sequence's blocks: nobody reads that.
    block_table: Staged<D, i32>,
    /// Whether some row of the block table, and whether `q_start`, is not what was uploaded last.
    new_blocks: bool,
    new_rows: bool,
    /// `(first, row, tokens)`: tokens from the `first` on that were drawn from `row` on, and that only the device knows.
    drawn: Vec<(usize, usize, usize)>,
    /// `[seqs]`.
    pub lens: Vec<SeqLen>,
    /// Entries of a sequence's row of the block table.
    pub max_blocks: usize,
    /// Tokens of a KV block.
    pub block_size: usize,
}

impl<D: Device> Input<D> {
    /// Room for steps of at most `tokens` tokens and `seqs` sequences of at most `max_blocks` blocks.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    pub fn new(dev: &D, tokens: usize, seqs: usize, max_blocks: usize, block_size: usize) -> Result<Self> {
        Ok(Self {
            ids: Staged::new(dev, tokens)?,
            positions: Staged::new(dev, tokens)?,
            slots: Staged::new(dev, tokens)?,
            q_start: Staged::new(dev, seqs + 1)?,
            kv_len: Staged::new(dev, seqs)?,
            block_table: Staged::new(dev, seqs * max_blocks)?,
            new_blocks: true,
            new_rows: true,
            drawn: Vec::new(),
            lens: Vec::with_capacity(seqs),
            max_blocks,
            block_size,
        })
    }

    /// No tokens.
    pub fn clear(&mut self) {
        for s in [&mut self.ids, &mut self.positions, &mut self.slots, &mut self.kv_len] {
            s.host.clear();
        }
        self.q_start.host.clear();
        self.q_start.host.push(0);
        self.lens.clear();
        self.drawn.clear();
        (self.new_blocks, self.new_rows) = (true, true);
    }

    /// Whether the staged sequence `row` has come to position `start - 1`.
    pub fn precedes(&self, row: usize, start: usize) -> bool {
        self.positions.host.get(row).is_some_and(|&at| at as usize + 1 == start)
    }

    /// Begins another step of the staged sequences, all of which go on by one token: [`Self::go_on`].
    pub fn again(&mut self) {
        self.drawn.clear();
    }

    /// The sequence of `row` goes on with `token`, for which its block table has room.
    pub fn go_on(&mut self, row: usize, token: u32, block_table: &[u32]) {
        let position = self.positions.host[row] as usize + 1;
        self.ids.host[row] = token as i32;
        self.positions.host[row] = position as i32;
        self.kv_len.host[row] += 1;
        self.lens[row].kv += 1;
        self.slots.host[row] += 1;
        let block = block_table.len() - 1;
        if position == block * self.block_size {
            let id = block_table[block] as i32;
            self.slots.host[row] = id * self.block_size as i32;
            self.block_table.host[row * self.max_blocks + block] = id;
            self.new_blocks = true;
        }
    }

    /// Adds a sequence's `tokens`, at least one, at positions `start..`.
    pub fn push(&mut self, tokens: &[u32], start: usize, block_table: &[u32]) {
        let (end, size) = (start + tokens.len(), self.block_size);
        // The only division: a step may have a thousand decodes.
        let (mut at, mut block) = (start, start / size);
        if let &[token] = tokens {
            self.ids.host.push(token as i32);
            self.positions.host.push(start as i32);
        } else {
            self.ids.host.extend(tokens.iter().map(|&t| t as i32));
            self.positions.host.extend(start as i32..end as i32);
        }
        while at < end {
            let stop = end.min((block + 1) * size);
            let slot = (block_table[block] as usize * size + at - block * size) as i32;
            if stop - at == 1 {
                self.slots.host.push(slot);
            } else {
                self.slots.host.extend(slot..slot + (stop - at) as i32);
            }
            (at, block) = (stop, block + 1);
        }
        self.push_lens(tokens.len(), end, &block_table[..block]);
    }

    /// The token `at` is what `row` drew in the step before.
    pub fn take_drawn(&mut self, at: usize, row: usize) {
        match self.drawn.last_mut() {
            Some((first, from, tokens)) if (*first + *tokens, *from + *tokens) == (at, row) => *tokens += 1,
            _ => self.drawn.push((at, row, 1)),
        }
    }

    /// Adds sequences of one token that store nothing and see one key, until there are `seqs`: recorded steps come in
    /// few sizes.
    pub fn pad(&mut self, seqs: usize) {
        while self.lens.len() < seqs {
            self.ids.host.push(0);
            self.positions.host.push(0);
            self.slots.host.push(-1);
            self.push_lens(1, 1, &[0]);
        }
    }

    /// Adds a sequence's lengths and its row of the block table, after its tokens.
    fn push_lens(&mut self, q: usize, kv: usize, blocks: &[u32]) {
        let (row, table) = (self.lens.len() * self.max_blocks, &mut self.block_table.host);
        if table.len() < row + self.max_blocks {
            table.resize(row + self.max_blocks, 0);
        }
        table[row..row + blocks.len()].iter_mut().zip(blocks).for_each(|(to, &b)| *to = b as i32);
        self.lens.push(SeqLen { q, kv });
        self.kv_len.host.push(kv as i32);
        self.q_start.host.push(self.ids.host.len() as i32);
    }

    /// Copies what is new of the step to the device, with the tokens that lie there in `sampled`, by row.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when a copy fails.
    pub fn upload(&mut self, dev: &D, sampled: &Tensor<D>) -> Result<()> {
        self.block_table.host.truncate(self.lens.len() * self.max_blocks);
        // Often all of them were drawn. Each small copy costs a GPU some 6 µs.
        if self.drawn.iter().map(|&(_, _, tokens)| tokens).sum::<usize>() < self.ids.host.len() {
            self.ids.upload(dev)?;
        }
        for s in [&mut self.positions, &mut self.slots, &mut self.kv_len] {
            s.upload(dev)?;
        }
        if std::mem::replace(&mut self.new_rows, false) {
            self.q_start.upload(dev)?;
        }
        if std::mem::replace(&mut self.new_blocks, false) {
            self.block_table.upload(dev)?;
        }
        for &(first, row, tokens) in &self.drawn {
            self.ids.overwrite(dev, first, &sampled.rows(row..row + tokens))?;
        }
        Ok(())
    }

    /// The step as of the last upload, whose first `decodes` sequences have one token.
    pub fn step(&self, decodes: usize) -> StepInput<'_, D> {
        self.step_with(decodes, &self.lens)
    }

    /// As [`Self::step`], with lengths of the caller's: a recorded step is launched for the longest.
    pub fn step_with<'a>(&'a self, decodes: usize, lens: &'a [SeqLen]) -> StepInput<'a, D> {
        let seqs = lens.len();
        let group = |from: usize, to: usize| AttentionGroup {
            lens: &lens[from..to],
            block_table: self.block_table.view().reshape(&[seqs, self.max_blocks]).rows(from..to),
            q_start: self.q_start.view().rows(from..to + 1),
            kv_len: self.kv_len.view().rows(from..to),
        };
        StepInput {
            ids: self.ids.view(),
            positions: self.positions.view(),
            slots: self.slots.view(),
            decode: group(0, decodes),
            prefill: group(decodes, seqs),
        }
    }
}
